"""1cloudsp's reports and inbound messages into events, pushed or pulled."""

from decimal import Decimal
from zoneinfo import ZoneInfo

from gateways import wire
from gateways.errors import Malformed
from gateways.events import DeliveryReport, Event, InboundMessage, Parsed, Status
from gateways.gateway import Account, Acknowledgement, Callback
from gateways.onecloudsp import codes, documents
from gateways.onecloudsp.documents import Page, Row
from gateways.phone import normalise

_ACKNOWLEDGEMENT = Acknowledgement(b'{"code":"0","msg":"SUCCESS"}', "application/json")

# What the inbound pull may call these; the names are published nowhere.
_INBOUND_TIMES = ("motime", "receivetime", "delivertime")
_EXTENSIONS = ("extend", "extno", "sign")
_IDS = ("batchid", "smuuid")

_UUID_PARTS = 7
_MOBILE_PART = 3
_BATCH_PART = 5


def parse_callback(callback: Callback, account: Account) -> Parsed:
    """Return the reports and inbound messages of a push; pure.

    Raises `Malformed` if not one row can be understood; else the rows that cannot are `problems`.
    """
    page = documents.read_push(callback.body, callback.headers.get("content-type", ""))
    found = parsed(page, account.zone)
    if not found.events:
        raise Malformed(wire.listed(found.problems) or "no record")
    return found


def acknowledge(_callback: Callback) -> Acknowledgement:
    """Return what every push is answered with."""
    return _ACKNOWLEDGEMENT


def parsed(page: Page, zone: ZoneInfo) -> Parsed:
    """Return each row as what its fields say it is, wherever it came; those that cannot be read
    are `problems`.
    """
    return wire.read_rows(page.rows, lambda row: _event(row, zone), page.fault)


def _event(row: Row, zone: ZoneInfo) -> Event:
    phone = wire.phone(_text(row, "mobile"), "mobile")
    result = _text(row, "deliverresult")
    if not result and "content" in row:
        id_ = _first(row, _IDS)
        return InboundMessage(
            phone=phone,
            content=wire.storable(_raw_text(row, "content"), "content"),
            sent_at=wire.local_time(_first(row, _INBOUND_TIMES), "the time", zone),
            extension=_first(row, _EXTENSIONS) or None,
            vendor_message_id=wire.identity(id_, "the id") if id_ else None,
        )
    if not result:
        raise Malformed("deliverResult is missing")
    first, *others = _candidates(row, phone)
    return DeliveryReport(
        vendor_message_id=first,
        phone=phone,
        status=_status(result),
        vendor_code=wire.code(result, "deliverResult"),
        reported_at=wire.local_time(_text(row, "delivertime"), "deliverTime", zone),
        also=tuple(others),
    )


def _status(result: str) -> Status:
    word = result.upper()
    if codes.CARRIER_FAILURE.fullmatch(word):
        return Status.FAILED
    return codes.REPORT_STATUS.get(word, Status.UNKNOWN)


def _candidates(row: Row, phone: str) -> list[str]:
    """Return every id that the report's message may have been taken under, the likeliest first."""
    batch, uuid = _text(row, "batchid"), _text(row, "smuuid")
    if not batch and not uuid:
        raise Malformed("smUuid and batchId are missing")
    parts = uuid.split("_")
    whole = len(parts) == _UUID_PARTS and normalise(parts[_MOBILE_PART]) == phone
    inside = parts[_BATCH_PART].strip() if whole else ""
    found = dict.fromkeys(
        wire.identity(text, name)
        for text, name in ((batch, "batchId"), (uuid, "smUuid"), (inside, "smUuid"))
        if text
    )
    return list(found)


def _first(row: Row, names: tuple[str, ...]) -> str:
    return next((text for name in names if (text := _text(row, name))), "")


def _raw_text(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise Malformed(f"{name} is not text")
    return str(value)


def _text(row: Row, name: str) -> str:
    return wire.storable(_raw_text(row, name), name).strip()
