"""Replies of the "sms.aspx" platform: pages of rows, and answers of one line."""

import re
from decimal import Decimal

from gateways import wire
from gateways.errors import Garbled, Indeterminate, Malformed, Refused
from gateways.events import Accepted, Answer, Balance, Event, Parsed
from gateways.gateway import Account, Call, Reply
from gateways.thinksms import codes, documents
from gateways.thinksms.callbacks import read_rows, refusal
from gateways.thinksms.documents import Page

_PULLS = frozenset({Call.PULL_REPORTS, Call.PULL_INBOUND})
_NUMBER = re.compile(r"[+-]?\d{1,18}(?:\.\d{1,9})?", re.ASCII)
_COUNT = re.compile(r"\d{1,9}", re.ASCII)


def parse_reply(reply: Reply, account: Account) -> Parsed:
    """Return what the vendor answered to any call of ours; pure.

    A page of rows that is cut gives the rows that are whole, and a problem. Raises `Refused`,
    `Garbled`; for a send also `Indeterminate`.
    """
    try:
        page = documents.read(reply.body, reply.headers.get("content-type", ""))
        if reply.call in _PULLS:
            return _pulled(page, account)
        if page.rows:
            raise Malformed("rows in an answer that has none")
        match reply.call:
            case Call.SEND:
                return _sent(page)
            case Call.QUERY_BALANCE:
                return _one(_overage(page))
            case Call.CHECK_KEYWORD:
                return _one(_keyword(page))
            case Call.CHANGE_PASSWORD:
                return _one(_password(page))
            case _:
                raise Malformed(f"the platform has no {reply.call}")
    except Malformed as error:
        raise Garbled(str(error)) from None


def _pulled(page: Page, account: Account) -> Parsed:
    if refused := refusal(page):
        raise refused
    # Words without a status are no "nothing waits": a page without rows says that with no words.
    if not (page.rows or page.boxed or _text(page, "returnstatus")) and (
        _text(page, "message") or _text(page, "overage")
    ):
        raise Malformed("neither rows nor a refusal, but words")
    return read_rows(page, account.zone)


def _sent(page: Page) -> Parsed:
    task = _text(page, "taskid")
    if not task.strip("0"):
        task = ""
    taken = _COUNT.fullmatch(_text(page, "successcounts"))
    if refused := refusal(page):
        if task or (taken and int(taken[0])):
            raise Indeterminate(
                "the vendor says no, and names a task or numbers taken all the same"
            )
        raise refused
    if not _text(page, "returnstatus"):
        raise Malformed("returnstatus is missing")
    if not task:
        raise Malformed("the vendor says yes, and taskid is empty or 0")
    accepted = Accepted(
        vendor_message_id=wire.identity(task, "taskid"),
        taken=int(taken[0]) if taken else None,
    )
    events: list[Event] = [accepted]
    problems = []
    if point := _text(page, "remainpoint"):
        try:
            events.append(_balance("remainpoint", point))
        except Malformed as error:
            problems.append(str(error))
    return Parsed(events=tuple(events), rows=len(events), problems=tuple(problems))


def _overage(page: Page) -> Event:
    """Return the balance; what `sendTotal` counts is told differently from host to host."""
    if refused := refusal(page):
        raise refused
    return _balance("overage", _text(page, "overage"))


def _keyword(page: Page) -> Event:
    """Return the answer; it has a `message` and, of most hosts, nothing else."""
    words = _text(page, "message")
    if codes.refusal(words) == codes.FORBIDDEN_WORDS:
        return Answer(words=words, positive=any(none in words for none in codes.NONE_FOUND))
    return _unclear(page)


def _password(page: Page) -> Event:
    if refused := refusal(page):
        raise refused
    if status := _text(page, "returnstatus"):
        return Answer(words=_text(page, "message") or status, positive=True)
    return _unclear(page)


def _unclear(page: Page) -> Answer:
    """Return words that tell neither yes nor no. Raises what they are if they are a refusal."""
    words = _text(page, "message")
    if refused := refusal(page):
        raise refused
    if not words:
        raise Malformed("message is missing")
    if code := codes.refusal(words):
        raise Refused(code, words)
    return Answer(words=words, positive=None)


def _one(event: Event) -> Parsed:
    return Parsed(events=(event,), rows=1)


def _balance(kind: str, value: str) -> Balance:
    if not _NUMBER.fullmatch(value):
        raise Malformed(f"{kind} is no number")
    return Balance(kind=kind, amount=Decimal(value))


def _text(page: Page, name: str) -> str:
    return wire.words(page.answer.get(name), name) or ""
