"""What goes to Huizhi and what comes back, as types.

No repr shows a phone number or a text: they would end up in the application's logs.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

_PERSONAL = ("phone", "phones", "content", "params", "recipients")


class _Discreet(msgspec.Struct, frozen=True):
    """Shows everything but what is personal."""

    def __repr__(self) -> str:
        shown = (
            f"{name}={getattr(self, name)!r}"
            for name in self.__struct_fields__
            if name not in _PERSONAL
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Sent(_Discreet, frozen=True, kw_only=True, omit_defaults=True):
    """One message that was sent, as it is registered.

    `vendor_message_id` is what the vendor's send call answered; `sent_at` is aware. `segments` is your
    own count; without it Huizhi counts `sign` + `content`.
    """

    account: str
    vendor_message_id: str
    phone: str
    sent_at: datetime
    content: str | None = None
    sign: str | None = None
    segments: int | None = None
    reference: str | None = None
    template_id: str | None = None


class Rejected(msgspec.Struct, frozen=True):
    """A row that was not registered; `index` is its place in what was given, from 0."""

    index: int
    reason: str


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the rows given: the three add up to them. A duplicate was registered before."""

    recorded: int
    duplicates: int
    rejected: list[Rejected]


class Outgoing(_Discreet, frozen=True, kw_only=True, omit_defaults=True):
    """A text for Huizhi to send to `phones`; `send_at` is aware."""

    account: str
    phones: Sequence[str]
    content: str | None = None
    sign: str | None = None
    template_id: str | None = None
    params: Mapping[str, str] | Sequence[str] | None = None
    reference: str | None = None
    send_at: datetime | None = None


class Message(_Discreet, frozen=True, kw_only=True):
    """A message as it stands; `status` is submitted, delivered, failed, expired, indeterminate..."""

    id: str
    account: str
    vendor_message_id: str | None
    phone: str
    status: str
    segments: int
    sent_at: datetime
    reported_at: datetime | None = None
    vendor_code: str | None = None
    reason: str | None = None
    reference: str | None = None
    contradicted: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A vendor's word on a message; `source` is push, query or pull, `record` the raw bytes' digest."""

    status: str
    vendor_code: str | None
    reason: str | None
    reported_at: datetime | None
    received_at: datetime
    source: str
    record: str


class Evidence(Message, frozen=True, kw_only=True):
    """A message with all that Huizhi knows of it."""

    registered_at: datetime
    content: str | None = None
    sign: str | None = None
    template_id: str | None = None
    segments_because: list[str]
    notes: list[str]
    reports: list[Report]
    statement_lines: list[dict[str, Any]]
    discrepancies: list[dict[str, Any]]


class SendResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request to send, number by number.

    `status` is submitted, partly_refused, refused, or indeterminate if of any number nobody knows: such
    a one is never sent again. `duplicates` are indexes of numbers that were given twice and dropped.
    """

    id: str
    account: str
    status: str
    requested_at: datetime
    counts: dict[str, int]
    messages: list[Message]
    duplicates: list[int]
    replayed: bool


class Unregistered(msgspec.Struct, frozen=True):
    """A message that a registrar hands back, and why."""

    message: Sent
    reason: str


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all messages put into a registrar so far: the four add up to them."""

    recorded: int
    duplicates: int
    handed_back: int
    waiting: int
