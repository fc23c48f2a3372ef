"""ThinkAPI's JSON, strict or as its page spells it, into events."""

import re
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from gateways import wire
from gateways.errors import Malformed
from gateways.events import (
    Accepted,
    DeliveryReport,
    ReviewKind,
    ReviewResult,
    ReviewStatus,
    Status,
)
from gateways.thinkapi.codes import NO_STATUS, REPORT_STATUS, REVIEW_STATUS

_MOBILE = re.compile(r"(?:\+?86)?1\d{10}", re.ASCII)

T = TypeVar("T")

# How a payload says that it is not there.
ABSENT = (msgspec.Raw(), msgspec.Raw(b"null"))


class Push(msgspec.Struct, frozen=True):
    """The body of a callback; its payload is read once `action` says as what."""

    action: str
    sms: msgspec.Raw = ABSENT[0]
    sign: msgspec.Raw = ABSENT[0]
    template: msgspec.Raw = ABSENT[0]


class Envelope(msgspec.Struct, frozen=True):
    """The body of a reply."""

    code: int | str
    message: Any = None
    data: msgspec.Raw = ABSENT[0]


class SentTo(msgspec.Struct, frozen=True):
    """One of the list that `data` of batch_send may be."""

    id: int | str
    phone: int | str


class Report(msgspec.Struct, frozen=True):
    """`sms` of a push, or `data` of query_status."""

    id: int | str
    phone: int | str
    status: int | float | str
    message: Any = None
    received: Any = msgspec.field(default=None, name="receiveDate")
    received_misspelt: Any = msgspec.field(default=None, name="reveiveDate")


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """`data` of add_sign, modify_sign, add_template and modify_template."""

    id: int | str
    name: Any = None
    content: Any = None
    remark: Any = None
    create_time: Any = None
    update_time: Any = None


class Review(Submitted, frozen=True, kw_only=True):
    """`sign` or `template` of a push, or `data` of query_sign and query_template."""

    status: int | float | str
    error: Any = None


PUSH = msgspec.json.Decoder(Push)
ENVELOPE = msgspec.json.Decoder(Envelope)
_SENT = msgspec.json.Decoder(int | str | list[SentTo] | dict[str, Any])
_REPORT = msgspec.json.Decoder(Report)
_REVIEW = msgspec.json.Decoder(Review)
_SUBMITTED = msgspec.json.Decoder(Submitted)


def report(payload: msgspec.Raw, name: str, zone: ZoneInfo) -> DeliveryReport:
    """Return the report in `payload`, which stood under `name`. Raises `Malformed`."""
    fields = _payload(payload, name, _REPORT)
    vendor_code = wire.code(fields.status, "status")
    return DeliveryReport(
        vendor_message_id=wire.identity(fields.id, "id"),
        phone=wire.phone(fields.phone, "phone"),
        status=REPORT_STATUS.get(vendor_code.strip(), Status.UNKNOWN),
        vendor_code=vendor_code,
        reason=wire.words(fields.message, "message"),
        reported_at=wire.local_time(
            fields.received or fields.received_misspelt, "receiveDate", zone
        ),
    )


def review(payload: msgspec.Raw, name: str, kind: ReviewKind, zone: ZoneInfo) -> ReviewResult:
    """Return the review's state in `payload`, which stood under `name`. Raises `Malformed`."""
    fields = _payload(payload, name, _REVIEW)
    vendor_code = wire.code(fields.status, "status")
    status = REVIEW_STATUS.get(vendor_code.strip(), ReviewStatus.UNKNOWN)
    return _result(fields, kind, zone, status, vendor_code, wire.words(fields.error, "error"))


def submitted(payload: msgspec.Raw, name: str, kind: ReviewKind, zone: ZoneInfo) -> ReviewResult:
    """Return that a review has begun of what is in `payload`. Raises `Malformed`."""
    fields = _payload(payload, name, _SUBMITTED)
    return _result(fields, kind, zone, ReviewStatus.PENDING, NO_STATUS, None)


def accepted(payload: msgspec.Raw, name: str) -> tuple[Accepted, ...]:
    """Return what was taken as which id, by `payload`, which stood under `name`.

    `send` answers `{"id": …}`. How `batch_send` answers is published nowhere: a list of id and
    phone, an object of ids by phone, and one id for all are understood. Raises `Malformed`.
    """
    match _payload(payload, name, _SENT):
        case dict(fields) if "id" in fields:
            return (Accepted(vendor_message_id=_id(fields["id"])),)
        case dict(fields) if fields:
            return tuple(
                Accepted(vendor_message_id=_id(id), phone=_mobile(phone))
                for phone, id in fields.items()
            )
        case [*sent] if sent:
            return tuple(
                Accepted(vendor_message_id=_id(each.id), phone=wire.phone(each.phone, "phone"))
                for each in sent
            )
        case int(id) | str(id):
            return (Accepted(vendor_message_id=_id(id)),)
        case _:
            raise Malformed(f"{name} holds no id")


def _id(value: object) -> str:
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise Malformed("id is neither text nor a number")
    return wire.identity(value, "id")


def _mobile(key: str) -> str:
    if not _MOBILE.fullmatch(key):
        raise Malformed("data has names that are no phone numbers")
    return wire.phone(key, "phone")


def _result(
    fields: Submitted,
    kind: ReviewKind,
    zone: ZoneInfo,
    status: ReviewStatus,
    vendor_code: str,
    reason: str | None,
) -> ReviewResult:
    return ReviewResult(
        kind=kind,
        vendor_id=wire.identity(fields.id, "id"),
        status=status,
        vendor_code=vendor_code,
        name=wire.words(fields.name, "name"),
        content=wire.words(fields.content, "content"),
        remark=wire.words(fields.remark, "remark"),
        reason=reason,
        created_at=wire.local_time(fields.create_time, "create_time", zone),
        updated_at=wire.local_time(fields.update_time, "update_time", zone),
    )


def _payload(payload: msgspec.Raw, name: str, decoder: msgspec.json.Decoder[T]) -> T:
    if payload in ABSENT:
        raise Malformed(f"{name} is missing")
    try:
        return decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise Malformed(f"{name}: {error}") from None
