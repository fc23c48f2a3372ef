"""The ledger: messages that somebody sent, registered once each.

What a bill is held against. Registering is idempotent, a bad row never sinks the others, and
reports that came first are joined in the same call.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn
from uuid import UUID

import msgspec

from gateways import segments
from gateways.phone import normalise
from runtime import settlement
from runtime.identity import PROVISIONAL, message_id, shard_of
from runtime.queries import QUERIES
from runtime.sends import first_poll
from runtime.settings import AccountSettings

MAX_ROWS = 10_000
MAX_TEXT = {
    "vendor_message_id": 128,
    "phone": 32,
    "reference": 200,
    "template_id": 64,
    "sign": 100,
    "content": 10_000,
}

_RAW_ROWS = msgspec.json.Decoder(list[msgspec.Raw])


class Sent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message that another system sent, as it is registered.

    `sent_at` is aware. `segments` is the sender's own count; without it we count `sign` + `content`.
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
    """A row that was not registered; `index` counts from 0."""

    index: int
    reason: str


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """What registering some rows did; the three add up to the rows given."""

    recorded: int
    duplicates: int
    rejected: list[Rejected]


class _Row(msgspec.Struct, frozen=True, gc=False):
    shard: int
    id: UUID
    phone: str
    segments: int
    next_poll_at: datetime | None
    sent: Sent


def decode(text: bytes) -> Any:
    """Decode one row of JSON; raises ValueError."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("is not JSON") from None


def decode_array(text: bytes) -> list[Any]:
    """Decode a JSON array; a row that cannot be decoded is a ValueError in its place.

    Raises ValueError for what is no array.
    """
    try:
        raw = _RAW_ROWS.decode(text)
    except (msgspec.DecodeError, RecursionError):
        try:
            # Takes half of a surrogate pair, which is the fault of one row, and is slow.
            rows = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise ValueError("is not JSON") from None
        if not isinstance(rows, list):
            raise ValueError("is not a JSON array") from None
        return rows
    found: list[Any] = []
    for row in raw:
        try:
            found.append(decode(row))
        except ValueError as error:
            found.append(error)
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def convert(row: object, accounts: Mapping[str, AccountSettings], now: datetime) -> Sent:
    """Make a `Sent` of one decoded JSON row; raises ValueError saying, without quoting it, what is wrong."""
    try:
        sent = msgspec.convert(row, Sent)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    # As the gateways read it: blanks around an id would keep a message from ever meeting its reports.
    plain = sent.vendor_message_id.strip()
    if plain != sent.vendor_message_id:
        sent = msgspec.structs.replace(sent, vendor_message_id=plain)
    check(sent, accounts, now)
    return sent


def check(sent: Sent, accounts: Mapping[str, AccountSettings], now: datetime) -> None:
    """Raise ValueError, with a reason that quotes no number, if `sent` cannot be registered."""
    if sent.account not in accounts:
        raise ValueError("unknown account")
    for name, limit in MAX_TEXT.items():
        text = getattr(sent, name)
        if text is not None:
            _check_text(name, text, limit)
    if not sent.vendor_message_id:
        raise ValueError("vendor_message_id is empty")
    if sent.vendor_message_id.startswith(PROVISIONAL):
        raise ValueError(
            f"vendor_message_id begins with {PROVISIONAL}, as only our own provisional ids do"
        )
    if not normalise(sent.phone):
        raise ValueError("phone has no digits")
    if sent.sent_at.tzinfo is None:
        raise ValueError("sent_at has no offset, such as +08:00")
    if not 2000 <= sent.sent_at.year <= 9000:
        raise ValueError("sent_at is not a time at which a message was sent")
    if sent.sent_at > now + timedelta(days=1):
        raise ValueError("sent_at is in the future")
    if sent.segments is not None and not 0 <= sent.segments <= 1000:
        raise ValueError("segments is not a number from 0 to 1000")


async def register(
    pool: Any,
    accounts: Mapping[str, AccountSettings],
    rows: Sequence[Sent | Rejected],
    *,
    now: datetime,
) -> Registered:
    """Register what was sent, and join the reports that came before it; durable on return.

    `rows` holds at most `MAX_ROWS`, in their order, each checked (`convert`) or already rejected.
    Idempotent: the first registration of a message stands.
    """
    rejected = [row for row in rows if isinstance(row, Rejected)]
    given: dict[UUID, _Row] = {}
    for sent in rows:
        if isinstance(sent, Sent):
            row = _row(sent, accounts[sent.account], now)
            given.setdefault(row.id, row)
    # One order for all processes: two calls with the same rows must not deadlock.
    ordered = sorted(given.values(), key=lambda row: (row.shard, row.id))
    new = 0
    if ordered:
        async with pool.acquire() as connection:
            fresh = await connection.fetch(QUERIES["register"], *_columns(ordered), now)
            new = len(fresh)
            # After the commit and not in it: see runtime.settlement for why.
            await settlement.join_orphans(connection, [(row["shard"], row["id"]) for row in fresh])
    return Registered(recorded=new, duplicates=len(rows) - len(rejected) - new, rejected=rejected)


def _row(sent: Sent, settings: AccountSettings, now: datetime) -> _Row:
    phone = normalise(sent.phone)
    return _Row(
        shard=shard_of(sent.account, sent.vendor_message_id),
        id=message_id(sent.account, sent.vendor_message_id, phone),
        phone=phone,
        segments=(
            counted(sent.content, sent.sign, settings) if sent.segments is None else sent.segments
        ),
        next_poll_at=first_poll(settings, sent.sent_at, now),
        sent=sent,
    )


def counted(content: str | None, sign: str | None, settings: AccountSettings) -> int:
    """Return how many segments the vendor should bill for a text, by the account's rule."""
    # ASSUMPTION: a message of which neither the text nor a count is known is one segment, the least
    # that a vendor bills; a longer one then shows as segments_differ and is not silently accepted.
    if content is None:
        return 1
    return segments.count(content, sign, settings.unit, rule=settings.rule)


def _check_text(name: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise ValueError(f"{name} has more than {limit} characters")
    if "\0" in text:
        raise ValueError(f"{name} has a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name} has half of a surrogate pair")


def _columns(rows: Sequence[_Row]) -> tuple[list[Any], ...]:
    return (
        [row.shard for row in rows],
        [row.id for row in rows],
        [row.sent.account for row in rows],
        [row.sent.vendor_message_id for row in rows],
        [row.phone for row in rows],
        [row.sent.sent_at for row in rows],
        [row.segments for row in rows],
        [row.sent.segments is not None for row in rows],
        [row.sent.content for row in rows],
        [row.sent.sign for row in rows],
        [row.sent.reference for row in rows],
        [row.sent.template_id for row in rows],
        [row.next_poll_at for row in rows],
    )
