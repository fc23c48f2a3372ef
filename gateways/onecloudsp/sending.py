"""What a sender wants, in 1cloudsp's words: variables, and what it would not take."""

import re
from collections.abc import Mapping, Sequence

from gateways.gateway import Account, Batch, Outgoing
from gateways.phone import is_mainland

_SEPARATOR = "##"
_SEPARATORS = re.compile(r"##|\$\$")
_UUID_BLANKS = 6
HOLE = re.compile(r"\{(\d{1,2})\}", re.ASCII)


def content(outgoing: Outgoing) -> str:
    """Return the `content` of one message: its variables, joined, or its text where it has none."""
    return _SEPARATOR.join(_variables(outgoing))


def check_send(batch: Batch, account: Account) -> tuple[str, ...]:
    """Say, a sentence each, why the account cannot send `batch`; pure."""
    abroad = [not is_mainland(each.number) for each in batch.messages]
    domestic = not goes_abroad(batch, account)
    found = []
    if domestic and not batch.sign:
        found.append("sign is missing: every domestic message has one")
    if domestic and any(abroad):
        found.append('a number is abroad: market = "international" sends there')
    if account.options.market == "auto" and any(abroad) and not all(abroad):
        found.append("there are numbers of the mainland and abroad: send them apart")
    if batch.template_id:
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


def goes_abroad(batch: Batch, account: Account) -> bool:
    """Tell by which of the vendor's two sends `batch` goes from this account; pure.

    Where the account leaves it open, by the international one to numbers abroad, and without a sign
    and a template, which no domestic message can do without.
    """
    if account.options.market != "auto":
        return bool(account.options.market == "international")
    plain = not batch.sign and not batch.template_id
    return plain or not all(is_mainland(each.number) for each in batch.messages)


def fill(text: str, params: Mapping[str, str] | Sequence[str]) -> str | None:
    """Put variables into {1}, {2} and so on of a template's text; None where they do not fit."""
    variables = _listed(params)
    if {int(hole) for hole in HOLE.findall(text)} != set(range(1, len(variables) + 1)):
        return None
    return HOLE.sub(lambda hole: variables[int(hole[1]) - 1], text)


def sent_under(names: Sequence[str], numbers: int, account: Account) -> str:
    """Return the id that a send answered: a smUuid for one domestic number, else the batchId.

    One number sent at a given time goes by the batch too; that its smUuid is taken then, only a
    bill would tell.
    """
    single = numbers == 1 and account.options.market != "international"
    return next((name for name in names if _is_uuid(name) == single), names[0])


def _is_uuid(name: str) -> bool:
    return name.count("_") == _UUID_BLANKS


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
