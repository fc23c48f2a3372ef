"""What vendors tell us, normalised: the values every gateway's parser produces.

The raw bytes stay in the record that an event came from; an event holds what settling, reviewing
and reconciling need, and the vendor's own words beside our reading of them.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

import msgspec


class Status(StrEnum):
    """Our reading of one delivery report. `UNKNOWN`: a code we cannot place, kept, never final."""

    DELIVERED = "delivered"
    FAILED = "failed"
    PENDING = "pending"
    UNKNOWN = "unknown"


class ReviewKind(StrEnum):
    SIGN = "sign"
    TEMPLATE = "template"


class ReviewStatus(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    DELETED = "deleted"
    UNKNOWN = "unknown"


class Charge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a vendor says that one message cost it: billed evidence that needs no statement.

    `segments` billed at `price` each make `amount` of `currency`; None where it gave none.
    """

    segments: int | None = None
    price: Decimal | None = None
    amount: Decimal | None = None
    currency: str | None = None


class DeliveryReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The vendor's word on one message at one time.

    `phone` is normalised (`gateways.phone.normalise`), `reported_at` is the vendor's time, aware,
    or None where the vendor gave none; `vendor_code` is the vendor's status exactly as text.
    `also` are other ids that the vendor may have named the same message by when it took it, the
    likeliest first; `reference` is our own word for it (`Outgoing.reference`), handed back.
    """

    vendor_message_id: str
    phone: str
    status: Status
    vendor_code: str
    reason: str | None = None
    reported_at: datetime | None = None
    also: tuple[str, ...] = ()
    reference: str | None = None
    charge: Charge | None = None


class InboundMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A text from a handset (MO, 上行). `sent_at` is the vendor's time, aware."""

    phone: str
    content: str
    sent_at: datetime | None
    extension: str | None = None
    vendor_message_id: str | None = None


class ReviewResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A vendor's word on one sign (签名) or template (模板) under review."""

    kind: ReviewKind
    vendor_id: str
    status: ReviewStatus
    vendor_code: str
    name: str | None = None
    content: str | None = None
    remark: str | None = None
    reason: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The vendor took a message and gave it an id; `phone` None: every number of the request.

    `taken`: how many numbers of the request it says it took, where it says no more than that.
    """

    vendor_message_id: str
    phone: str | None = None
    taken: int | None = None


class Rejected(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The vendor did not take one number of a request of which it took others."""

    phone: str
    vendor_code: str
    reason: str | None = None


class Balance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an account has left, as the vendor said it; may be negative (post-paid).

    `kind` is the vendor's own word for which of several it is, `currency` None where the figure
    counts messages or where the vendor does not say what it counts.
    """

    kind: str
    amount: Decimal
    currency: str | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The vendor's answer to a question or a request that changes no message, in its words.

    `positive`: the text holds no forbidden word, the password is changed; None: cannot be told.
    """

    words: str
    positive: bool | None


Event = DeliveryReport | InboundMessage | ReviewResult | Accepted | Rejected | Balance | Answer


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """What a parser understood of one record.

    `problems` names, without quoting phones or secrets, each row that could not be understood: the
    rows that could still count. `rows` is how many rows the vendor handed out, understood or not: a
    read-once page with fewer than asked for is the last one.
    """

    events: tuple[Event, ...]
    rows: int
    problems: tuple[str, ...] = ()
