"""What a sender wants, in 1cloudsp's words: variables, and what it would not take."""

import re
from collections.abc import Mapping, Sequence

from gateways.gateway import Account, Batch, Outgoing

_SEPARATOR = "##"
_SEPARATORS = re.compile(r"##|\$\$")
_HOLE = re.compile(r"\{(\d{1,2})\}", re.ASCII)


def content(outgoing: Outgoing) -> str:
    """Return the `content` of one message: its variables, joined, or its text where it has none."""
    return _SEPARATOR.join(_variables(outgoing))


def check_send(batch: Batch, account: Account) -> tuple[str, ...]:
    """Say, a sentence each, why the account cannot send `batch`; pure."""
    domestic = account.options.market == "domestic"
    found = []
    if domestic and not batch.sign:
        found.append("sign is missing: every domestic message has one")
    if domestic and not batch.template_id:
        found.append("template_id is missing: domestic messages are made from templates")
    if domestic or batch.template_id:
        if not all(each.params for each in batch.messages):
            found.append("params are missing: the vendor takes a template's variables, not a text")
    elif not all(each.params or each.content for each in batch.messages):
        found.append("there is neither content nor params")
    if not all(_comes_apart(each) for each in batch.messages):
        found.append(
            "a text or variable holds ## or $$, or ends with half of one: the vendor parts"
            " variables there"
        )
    return tuple(found)


def fill(text: str, params: Mapping[str, str] | Sequence[str]) -> str | None:
    """Put variables into {1}, {2} and so on of a template's text; None where they do not fit."""
    variables = _listed(params)
    if {int(hole) for hole in _HOLE.findall(text)} != set(range(1, len(variables) + 1)):
        return None
    return _HOLE.sub(lambda hole: variables[int(hole[1]) - 1], text)


def _variables(outgoing: Outgoing) -> list[str]:
    return _listed(outgoing.params) if outgoing.params else [outgoing.content or ""]


def _listed(params: Mapping[str, str] | Sequence[str]) -> list[str]:
    """Return variables in their order: by number where their names are numbers, as in {1}."""
    if not isinstance(params, Mapping):
        return list(params)
    if all(name.isascii() and name.isdigit() for name in params):
        return [params[name] for name in sorted(params, key=int)]
    return list(params.values())


def _comes_apart(outgoing: Outgoing) -> bool:
    """Tell whether the vendor, parting `content`, finds the variables that went into it."""
    return _SEPARATORS.split(content(outgoing)) == _variables(outgoing)
