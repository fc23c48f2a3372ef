"""itniotech's JSON into events: what decides must be readable, all else may be missing.

A time or a charge that cannot be read is a problem of its own; the report beside it still counts.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from gateways import wire
from gateways.errors import Malformed
from gateways.events import Accepted, Balance, Charge, DeliveryReport, InboundMessage, Status
from gateways.itniotech.codes import PUSH, REPORT_STATUS

T = TypeVar("T")

# Values stay as they came until it is known as what to read them: a price may be text or a number,
# and a number must not lose digits on the way.
Fields = dict[str, msgspec.Raw]


class Row(msgspec.Struct, frozen=True, gc=False):
    """A row of getReport or getSentRcd, of which there are up to 50,000: read in one go."""

    id: int | str = msgspec.field(name="msgId")
    number: int | str
    status: int | float | str
    received: Any = msgspec.field(default=None, name="receiveTime")


_FIELDS = msgspec.json.Decoder(Fields)
_ROW = msgspec.json.Decoder(Row)
_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
NULL = msgspec.Raw(b"null")

_BALANCES = ("balance", "gift", "credit")

_OTHER_NUMBER = re.compile(r"-?[1-9]\d{0,8}", re.ASCII)
_REFERENCE = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ISO_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
_NO_TIME = "0000-00-00"
_MILLISECONDS = re.compile(r"\d{12,14}", re.ASCII)  # 1973 to 5138
_COUNT = re.compile(r"\d{1,6}", re.ASCII)
# Java writes small doubles as 1.0E-4.
_AMOUNT = re.compile(r"-?\d{1,15}(\.\d{1,24})?([eE][+-]?\d)?", re.ASCII)
_LONGEST_CURRENCY = 16


def read(body: bytes) -> Fields:
    """Return the fields of the object in `body`. Raises `Malformed`."""
    return _stripped(wire.read_json(body, _FIELDS))


def fields(raw: msgspec.Raw, name: str = "") -> Fields:
    """Return the fields of the object that stood under `name`. Raises `Malformed`."""
    try:
        return _stripped(_FIELDS.decode(raw))
    except msgspec.DecodeError as error:
        raise Malformed(f"{name}: {error}" if name else str(error)) from None


def rows(found: Fields, name: str) -> list[msgspec.Raw] | None:
    """Return the list under `name`, None where there is none. Raises `Malformed`."""
    raw = found.get(name, NULL)
    if raw == NULL:
        return None
    try:
        return _ROWS.decode(raw)
    except msgspec.DecodeError as error:
        raise Malformed(f"{name}: {error}") from None


def code(found: Fields, name: str) -> str:
    """Return the status under `name`, text or number, as text. Raises `Malformed`."""
    value = _required(found, name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Malformed(f"{name} is neither text nor a number")
    return wire.code(value, name)


def words(found: Fields, name: str) -> str | None:
    """Return optional text. Raises `Malformed`."""
    return wire.words(_value(found, name), name)


def count(found: Fields, name: str) -> int | None:
    """Return a count that may be text or number, None for nothing. Raises `Malformed`."""
    text = _number(found, name)
    if text is None:
        return None
    if not _COUNT.fullmatch(text):
        raise Malformed(f"{name} is no count")
    return int(text)


def optional(problems: list[str], read_it: Callable[[], T | None]) -> T | None:
    """Return what `read_it` returns; where it raises `Malformed`, None, and a problem more."""
    try:
        return read_it()
    except Malformed as error:
        problems.append(str(error))
        return None


def pushed_report(found: Fields, problems: list[str], *, timed: bool) -> DeliveryReport:
    """Return the report of a push; `timed`: its timestamp is when it was reported.

    Raises `Malformed`.
    """
    status = code(found, "status")
    meaning = REPORT_STATUS[PUSH].get(status.strip(), Status.UNKNOWN)
    # "0 success, other failures", of an integer; what is none is not what the page speaks of.
    if meaning is Status.UNKNOWN and _OTHER_NUMBER.fullmatch(status.strip()):
        meaning = Status.FAILED
    reason = optional(problems, lambda: words(found, "reason"))
    reference = optional(problems, lambda: words(found, "orderId"))
    return DeliveryReport(
        vendor_message_id=_identity(found, "msgid"),
        phone=_phone(found, "mobile"),
        status=meaning,
        vendor_code=status,
        reason=None if reason == "0" else reason,
        reported_at=optional(problems, lambda: _timestamp(found, "timestamp")) if timed else None,
        reference=reference if reference and _REFERENCE.fullmatch(reference) else None,
        charge=optional(problems, lambda: _charge(found, problems)),
    )


def pushed_inbound(found: Fields, zone: ZoneInfo, problems: list[str]) -> InboundMessage:
    """Return the message of an inbound push. Raises `Malformed`."""
    return InboundMessage(
        phone=_phone(found, "mobile"),
        content=_content(found),
        sent_at=optional(problems, lambda: _time(_value(found, "reply_time"), "reply_time", zone)),
        extension=optional(problems, lambda: words(found, "sendid")),
        vendor_message_id=_identity(found, "msgid") if words(found, "msgid") else None,
    )


def listed_report(
    raw: msgspec.Raw, channel: str, zone: ZoneInfo, problems: list[str]
) -> DeliveryReport:
    """Return the report in a row of getReport or getSentRcd. Raises `Malformed`."""
    try:
        row = _ROW.decode(raw)
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from None
    status = wire.code(row.status, "status")
    return DeliveryReport(
        vendor_message_id=wire.identity(row.id, "msgId"),
        phone=wire.phone(row.number, "number"),
        status=REPORT_STATUS[channel].get(status.strip(), Status.UNKNOWN),
        vendor_code=status,
        reported_at=optional(problems, lambda: _time(row.received, "receiveTime", zone)),
    )


def listed_inbound(raw: msgspec.Raw, zone: ZoneInfo, problems: list[str]) -> InboundMessage:
    """Return the message in a row of recordMo. Raises `Malformed`."""
    found = fields(raw)
    return InboundMessage(
        phone=_phone(found, "number"),
        content=_content(found),
        sent_at=optional(
            problems, lambda: _time(_value(found, "receiveTime"), "receiveTime", zone)
        ),
        extension=optional(problems, lambda: words(found, "sendId")),
    )


def accepted(raw: msgspec.Raw) -> Accepted:
    """Return what a row of a send's reply says. Raises `Malformed`."""
    found = fields(raw)
    return Accepted(
        vendor_message_id=_identity(found, "msgId"),
        phone=_phone(found, "number"),
    )


def balances(found: Fields, problems: list[str]) -> tuple[Balance, ...]:
    """Return what the account has left, of each kind that can be read."""
    amounts = {kind: optional(problems, partial(_decimal, found, kind)) for kind in _BALANCES}
    return tuple(
        Balance(kind=kind, amount=amount) for kind, amount in amounts.items() if amount is not None
    )


def _charge(found: Fields, problems: list[str]) -> Charge | None:
    """Return pay, price and chargeCnt as they are: that they agree is not for us to see to."""
    raw = found.get("pricedetail", NULL)
    if raw in (NULL, msgspec.Raw(b'""')):
        return None
    detail = fields(raw, "pricedetail")
    charge = Charge(
        segments=optional(problems, lambda: count(detail, "chargeCnt")),
        price=optional(problems, lambda: _decimal(detail, "price")),
        amount=optional(problems, lambda: _decimal(detail, "pay")),
        currency=optional(problems, lambda: _currency(detail)),
    )
    return None if charge == Charge() else charge


def _stripped(found: Fields) -> Fields:
    # A sample's key is "orderId ", with a blank.
    return {name.strip(): value for name, value in found.items()}


def _value(found: Fields, name: str) -> Any:
    try:
        return msgspec.json.decode(found.get(name, NULL))
    except msgspec.DecodeError:
        raise Malformed(f"{name} cannot be read") from None


def _required(found: Fields, name: str) -> Any:
    if name not in found:
        raise Malformed(f"{name} is missing")
    return _value(found, name)


def _text_or_integer(found: Fields, name: str) -> str | int:
    value = _required(found, name)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Malformed(f"{name} is neither text nor an integer")
    return value


def _identity(found: Fields, name: str) -> str:
    return wire.identity(_text_or_integer(found, name), name)


def _phone(found: Fields, name: str) -> str:
    return wire.phone(_text_or_integer(found, name), name)


def _content(found: Fields) -> str:
    return wire.storable(str(_text_or_integer(found, "content")), "content")


def _number(found: Fields, name: str) -> str | None:
    """Return a number's own digits, None for nothing."""
    raw = bytes(found.get(name, NULL))
    text = raw.decode() if raw[:1] in b"-0123456789" else _value(found, name)
    if text is None:
        return None
    if not isinstance(text, str):
        raise Malformed(f"{name} is no number")
    return text.strip() or None


def _decimal(found: Fields, name: str) -> Decimal | None:
    text = _number(found, name)
    if text is None:
        return None
    if not _AMOUNT.fullmatch(text):
        raise Malformed(f"{name} is no amount")
    return Decimal(text)


def _currency(found: Fields) -> str | None:
    text = words(found, "currency")
    if text is not None and len(text) > _LONGEST_CURRENCY:
        raise Malformed("currency is no currency")
    return text


def _timestamp(found: Fields, name: str) -> datetime | None:
    text = _number(found, name)
    if text is None or text == "0":
        return None
    if not _MILLISECONDS.fullmatch(text):
        raise Malformed(f"{name} is no time in milliseconds")
    seconds, milliseconds = divmod(int(text), 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)


def _time(value: object, name: str, zone: ZoneInfo) -> datetime | None:
    """Return an ISO 8601 time; one without an offset is in `zone`."""
    text = wire.words(value, name)
    if text is None or text.startswith(_NO_TIME):
        return None
    try:
        if not _ISO_TIME.fullmatch(text):
            raise ValueError
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Malformed(f"{name} is no time") from None
