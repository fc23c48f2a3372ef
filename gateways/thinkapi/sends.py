"""What ThinkAPI's page asks of a text before it is sent, and how a template's variables are put in."""

import re
from collections.abc import Iterator, Mapping, Sequence

from gateways.gateway import Account, Batch, Outgoing
from gateways.phone import is_mainland
from gateways.thinkapi.reviews import MOST_VARIABLES, RESERVED_VARIABLES, VARIABLE, VARIABLE_NAME

LONGEST_VALUE = 50  # 单个变量不能超过50个字符

_RESERVED = ", ".join(RESERVED_VARIABLES)
_ID = re.compile(r"[0-9]{1,18}")


def send_objections(batch: Batch, _account: Account) -> tuple[str, ...]:
    """Say, a sentence each, why `batch` cannot be sent at all; empty if it can. Pure."""
    found = []
    if batch.template_id is None:
        found.append("template_id is missing: the vendor sends reviewed templates, no other text")
    elif not _ID.fullmatch(batch.template_id):
        found.append("template_id is no number")
    if batch.sign is None:
        found.append("sign is missing: the id of a reviewed sign")
    elif not _ID.fullmatch(batch.sign):
        found.append("sign is not the id of a reviewed sign, which is a number")
    if batch.send_at is not None:
        found.append("send_at cannot be kept: the vendor sends at once")
    found += dict.fromkeys(why for message in batch.messages for why in _of_message(message))
    return tuple(found)


def _of_message(message: Outgoing) -> Iterator[str]:
    if not is_mainland(message.number):
        yield "a number is no mobile number of mainland China"
    params = message.params or {}
    if not isinstance(params, Mapping):
        yield "params are a list: the vendor wants each variable by its name"
        return
    if len(params) > MOST_VARIABLES:
        yield f"more than {MOST_VARIABLES} variables"
    if not all(VARIABLE_NAME.fullmatch(name) for name in params):
        yield "a variable's name is not made of letters a to z and underscores"
    if any(name in params for name in RESERVED_VARIABLES):
        yield f"a variable has a name that the vendor keeps to itself: {_RESERVED}"
    if any(len(value) > LONGEST_VALUE for value in params.values()):
        yield f"a variable has more than {LONGEST_VALUE} characters"


def fill(text: str, params: Mapping[str, str] | Sequence[str]) -> str | None:
    """Return a template's `text` with its `${name}` replaced; None if a variable is missing. Pure."""
    values = params if isinstance(params, Mapping) else {}
    if any(name not in values for name in VARIABLE.findall(text)):
        return None
    return VARIABLE.sub(lambda variable: values[variable[1]], text)
