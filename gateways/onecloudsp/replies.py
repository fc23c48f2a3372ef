"""1cloudsp's replies into events."""

import re
from collections.abc import Mapping
from decimal import Decimal

from gateways import wire
from gateways.errors import Garbled, Indeterminate, Malformed, Refused
from gateways.events import Accepted, Balance, Parsed
from gateways.gateway import Account, Call, Reply
from gateways.onecloudsp import codes, documents
from gateways.onecloudsp.callbacks import parsed
from gateways.onecloudsp.documents import Row, lowered

_AMOUNT = re.compile(r"[+-]?(?:\d{1,20}(?:\.\d{0,10})?|\.\d{1,10})", re.ASCII)


def parse_reply(reply: Reply, account: Account) -> Parsed:
    """Return what a reply to a send, a balance query or a pull says; pure.

    Of a pull that is cut, the rows that are whole, and a problem. Raises `Refused`, `Garbled`, and
    for a send that was taken without being given an id `Indeterminate`.
    """
    content_type = reply.headers.get("content-type", "")
    try:
        match reply.call:
            case Call.SEND:
                return _sent(lowered(documents.read_object(reply.body, content_type)))
            case Call.QUERY_BALANCE:
                return _balance(documents.read_object(reply.body, content_type))
            case Call.PULL_REPORTS | Call.PULL_INBOUND:
                page = documents.read_page(reply.body, content_type)
                if not page.rows:
                    _say_no(page.answer)
                return parsed(page, account.zone)
    except Malformed as error:
        raise Garbled(str(error)) from None
    raise Garbled(f"1cloudsp has no {reply.call}")


def _say_no(answer: Row) -> None:
    """Raise `Refused` if `answer` has a code that is not 0."""
    value = answer.get("code", codes.SUCCESS)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Malformed("code is no code")
    code = wire.code(value, "code").strip()
    if code != codes.SUCCESS:
        words = wire.words(answer.get("msg"), "msg")
        raise Refused(code, words or codes.REFUSALS.get(code, ""))


def _sent(answer: Row) -> Parsed:
    if "code" not in answer:
        raise Malformed("code is missing")
    _say_no(answer)
    # A batch is answered with batchId, a single send with smUuid; the other is empty or not there.
    id_ = wire.words(answer.get("batchid"), "batchId") or wire.words(answer.get("smuuid"), "smUuid")
    if id_ is None:
        raise Indeterminate("the vendor took the messages and gave them no id")
    event = Accepted(vendor_message_id=wire.identity(id_, "the id"))
    return Parsed(events=(event,), rows=1)


def _balance(document: Mapping[str, object]) -> Parsed:
    answer = lowered(document)
    _say_no(answer)
    inner = answer.get("data")
    beside = {
        name: value
        for name, value in document.items()
        if name.strip().lower() not in ("code", "msg", "data")
    }
    figures = inner if isinstance(inner, dict) else beside
    if not figures:
        raise Malformed("there is no balance")
    events: list[Balance] = []
    problems: list[str] = []
    for number, (name, value) in enumerate(figures.items(), 1):
        try:
            events.append(Balance(kind=wire.identity(name, "the name"), amount=_amount(value)))
        except Malformed as error:
            problems.append(f"row {number}: {error}")
    return Parsed(events=tuple(events), rows=len(figures), problems=tuple(problems))


def _amount(value: object) -> Decimal:
    """Return a number, in JSON or as text such as "100.00"."""
    text = str(value).strip() if isinstance(value, str | int | Decimal) else ""
    if not _AMOUNT.fullmatch(text):
        raise Malformed("the amount is no number")
    return Decimal(text)
