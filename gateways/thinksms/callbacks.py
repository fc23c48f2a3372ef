"""Rows of the "sms.aspx" platform into events, pushed or pulled."""

from urllib.parse import unquote_to_bytes
from zoneinfo import ZoneInfo

from gateways import wire
from gateways.errors import Malformed, Refused
from gateways.events import DeliveryReport, Event, InboundMessage, Parsed, Status
from gateways.gateway import Account, Acknowledgement, Callback
from gateways.thinksms import codes, documents
from gateways.thinksms.documents import Page, Row

_ACKNOWLEDGEMENT = Acknowledgement(b"ok", "text/plain; charset=utf-8")
_MOST_FIELDS = 20_000
_NAMES = frozenset({"mobile", "taskid", "status", "receivetime", "errorcode", "content", "extno"})


def parse_callback(callback: Callback, account: Account) -> Parsed:
    """Return the reports and inbound messages of a push; pure.

    Raises `Malformed` if not one row can be understood; else the rows that cannot are `problems`.
    """
    content_type = callback.headers.get("content-type", "")
    body = callback.body if callback.body.strip() else callback.query
    read = documents.read if documents.announced(body) else _form
    page = read(body, content_type)
    if refused := refusal(page):
        raise Malformed("a refusal was pushed") from refused
    parsed = read_rows(page, account.zone)
    if not parsed.events:
        raise Malformed(wire.listed(parsed.problems) or "no record")
    return parsed


def acknowledge(_callback: Callback) -> Acknowledgement:
    """Return what every push is answered with."""
    return _ACKNOWLEDGEMENT


def _form(body: bytes, content_type: str) -> Page:
    """Return the rows of a form: its fields, repeated for many rows, or documents in its fields."""
    if body.count(b"&") > _MOST_FIELDS:
        raise Malformed("too many fields")
    pairs = [part.partition(b"=") for part in body.split(b"&") if b"=" in part]
    texts = wire.decode_all(
        [unquote_to_bytes(text.replace(b"+", b" ")) for pair in pairs for text in pair[::2]],
        content_type,
    )
    fields: dict[str, list[str]] = {}
    for name, value in zip(texts[::2], texts[1::2], strict=True):
        fields.setdefault(name.strip().lower(), []).append(value)
    if "mobile" in fields:
        many = len(fields["mobile"])
        if any(len(fields[name]) != many for name in _NAMES & fields.keys()):
            raise Malformed("the fields of the form repeat unevenly")
        rows = [{name: fields[name][row] for name in _NAMES & fields.keys()} for row in range(many)]
        return Page(rows, {})
    pages = [
        documents.read_text(value.strip())
        for values in fields.values()
        for value in values
        if value.lstrip().startswith(("<", "{", "["))
    ]
    if len(pages) != 1:
        raise Malformed("the form holds no record")
    return pages[0]


def refusal(page: Page) -> Refused | None:
    """Return the vendor's no, if the page is one."""
    if page.rows:
        return None
    error = wire.words(page.answer.get("error"), "error")
    remark = wire.words(page.answer.get("remark"), "remark")
    if documents.ERROR in page.answer:
        return Refused(error or documents.ERROR, remark or "")
    if error and not (error == codes.FORK_SUCCESS and page.boxed):
        return Refused(error, remark or "")
    status = wire.words(page.answer.get("returnstatus"), "returnstatus")
    if status and not status.lower().startswith(codes.SUCCESS):
        words = wire.words(page.answer.get("message"), "message") or ""
        return Refused(codes.refusal(words) or status, words)
    return None


def read_rows(page: Page, zone: ZoneInfo) -> Parsed:
    """Return the reports and inbound messages of `page`; a row that cannot be read is a problem."""
    return wire.read_rows(page.rows, lambda row: _event(row, zone), page.fault)


def _event(row: Row, zone: ZoneInfo) -> Event:
    """Return one row as what its fields say it is, wherever it came: paths are easily swapped."""
    phone = wire.phone(_text(row, "mobile"), "mobile")
    task = _text(row, "taskid")
    time = wire.local_time(_text(row, "receivetime"), "receivetime", zone)
    status = _text(row, "status")
    error = _text(row, "errorcode")
    if not status and "content" in row:
        return InboundMessage(
            phone=phone,
            content=wire.storable(_raw_text(row, "content"), "content"),
            sent_at=time,
            extension=_text(row, "extno") or None,
            vendor_message_id=wire.identity(task, "taskid") if task.strip("0") else None,
        )
    if not task.strip("0"):
        raise Malformed("taskid is empty or 0")
    # The JSON fork has no status: there the carrier's word stands for it.
    vendor_code = status or error
    if not vendor_code:
        raise Malformed("status is missing")
    meaning = codes.REPORT_STATUS.get(vendor_code.upper(), Status.UNKNOWN)
    if vendor_code == codes.FAILED and error.upper().startswith(codes.STILL_PENDING):
        meaning = Status.PENDING
    return DeliveryReport(
        vendor_message_id=wire.identity(task, "taskid"),
        phone=phone,
        status=meaning,
        vendor_code=wire.code(vendor_code, "status"),
        reason=error or None,
        reported_at=time,
    )


def _raw_text(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Malformed(f"{name} is not text")
    return str(value)


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if type(value) is str and value.isascii() and "\0" not in value:
        return value.strip()  # as nearly all are
    return wire.storable(_raw_text(row, name), name).strip()
