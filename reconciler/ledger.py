"""The ledger: messages that somebody sent, registered once each.

What a bill is held against. Registering is idempotent, a bad row never sinks the others, and
reports that came first are joined in the same call.
"""

import asyncio
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from operator import itemgetter
from typing import Any, NoReturn
from uuid import UUID

import msgspec

from gateways import segments
from gateways.phone import normalise
from runtime import settlement
from runtime.identity import PROVISIONAL, message_keys, shard_of_message
from runtime.queries import QUERIES
from runtime.sends import waiting_time
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
# What one transaction registers, and how many do so at once, while the next is made ready.
_PART_ROWS = 1_000
_PARTS_AT_ONCE = 2
# After how many rows the loop may turn to others, and to what PostgreSQL has not read yet.
_STEP_ROWS = 250

_MAX_ID, _MAX_PHONE, _MAX_REFERENCE, _MAX_TEMPLATE, _MAX_SIGN, _MAX_CONTENT = MAX_TEXT.values()
_DAY = timedelta(days=1)
_key_of = itemgetter(0, 1)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Sent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
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


_Key = tuple[int, UUID]

_RAW_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
_SENT_ROWS = msgspec.json.Decoder(list[Sent])
_SENT_ROW = msgspec.json.Decoder(Sent)


def decode(text: bytes) -> Any:
    """Decode one row of JSON; raises ValueError."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("is not JSON") from None


def decode_row(text: bytes) -> Any:
    """Decode one row of JSON, as a `Sent` if it has the shape of one; raises ValueError."""
    try:
        return _SENT_ROW.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return decode(text)


def decode_array(text: bytes) -> list[Any]:
    """Decode a JSON array; a row that cannot be decoded is a ValueError in its place.

    Rows with the shape of a `Sent` are one. Raises ValueError for what is no array.
    """
    try:
        return _SENT_ROWS.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # row by row, so that one does not sink the others
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
            found.append(decode_row(row))
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
    if not _plain(sent):
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
    if sent.sent_at > now + _DAY:
        raise ValueError("sent_at is in the future")
    if sent.segments is not None and not 0 <= sent.segments <= 1000:
        raise ValueError("segments is not a number from 0 to 1000")


async def register(
    pool: Any,
    accounts: Mapping[str, AccountSettings],
    rows: Iterable[Sent | Rejected],
    *,
    now: datetime,
) -> Registered:
    """Register what was sent, and join the reports that came before it; durable on return.

    `rows` are in their order, each checked (`convert`) or already rejected; they are read as they
    are needed, and at most `MAX_ROWS`. Idempotent: the first registration of a message stands.
    Some rows are durable before others: where this raises, all of them are to be registered again.
    """
    waits = {name: waiting_time(settings) for name, settings in accounts.items()}
    waiting = {name: wait.total_seconds() for name, wait in waits.items() if wait is not None}
    sent = 0
    rejected: list[Rejected] = []
    known: set[UUID] = set()
    new: list[_Key] = []
    storing: deque[asyncio.Task[list[_Key]]] = deque()
    left = iter(rows)
    try:
        while part := await _read(left, accounts, known):
            sent += part.sent
            rejected += part.rejected
            if not part.rows:
                continue
            if len(storing) == _PARTS_AT_ONCE:
                new += await storing.popleft()
            storing.append(asyncio.create_task(_store(pool, part.rows, waiting, now)))
        while storing:
            new += await storing.popleft()
    finally:
        for task in storing:
            task.cancel()
        await asyncio.gather(*storing, return_exceptions=True)
    if new:
        # After the commits and not in one: see runtime.settlement for why. And after the last of them:
        # a report for one of many numbers of a vendor's id would be a stranger to those before it.
        async with pool.acquire() as connection:
            await settlement.join_orphans(connection, new)
    return Registered(recorded=len(new), duplicates=sent - len(new), rejected=rejected)


class _Part(msgspec.Struct):
    """What is registered at once: its rows in the order of their keys, and what else was read for it."""

    sent: int = 0
    rejected: list[Rejected] = msgspec.field(default_factory=list)
    rows: list[tuple[Any, ...]] = msgspec.field(default_factory=list)


async def _read(
    given: Iterator[Sent | Rejected], accounts: Mapping[str, AccountSettings], known: set[UUID]
) -> _Part | None:
    """Read a part, None at the end; leaves out messages that are `known`, and adds to them."""
    part = _Part()
    while len(part.rows) < _PART_ROWS and (some := list(islice(given, _STEP_ROWS))):
        for one in some:
            if isinstance(one, Rejected):
                part.rejected.append(one)
                continue
            part.sent += 1
            row = _row(one, accounts[one.account])
            if row[1] not in known:
                known.add(row[1])
                part.rows.append(row)
        # For the requests of others, and for what PostgreSQL has not read yet.
        await asyncio.sleep(0)
    # One order for all processes: two calls with the same rows must not deadlock.
    part.rows.sort(key=_key_of)
    return part if part.sent or part.rejected else None


async def _store(
    pool: Any,
    rows: Sequence[tuple[Any, ...]],
    waiting: Mapping[str, float],
    now: datetime,
) -> list[_Key]:
    """Register some rows in a transaction; return the keys of those that were new."""
    columns = list(zip(*rows, strict=True))
    async with pool.acquire() as connection:
        done = await connection.fetchrow(
            QUERIES["register"], *columns, list(waiting), list(waiting.values()), now
        )
    if done["recorded"] == len(rows):
        return [row[:2] for row in rows]
    return [(shard_of_message(id), id) for id in done["ids"] or ()]


def _row(sent: Sent, settings: AccountSettings) -> tuple[Any, ...]:
    phone = normalise(sent.phone)
    shard, id = message_keys(sent.account, sent.vendor_message_id, phone)
    return (
        shard,
        id,
        sent.account,
        sent.vendor_message_id,
        phone,
        sent.sent_at,
        counted(sent.content, sent.sign, settings) if sent.segments is None else sent.segments,
        sent.segments is not None,
        sent.content,
        sent.sign,
        sent.reference,
        sent.template_id,
    )


def counted(content: str | None, sign: str | None, settings: AccountSettings) -> int:
    """Return how many segments the vendor should bill for a text, by the account's rule."""
    # ASSUMPTION: a message of which neither the text nor a count is known is one segment, the least
    # that a vendor bills; a longer one then shows as segments_differ and is not silently accepted.
    if content is None:
        return 1
    return segments.count(content, sign, settings.unit, rule=settings.rule)


def _plain(sent: Sent) -> bool:
    """Tell of nearly every row, and soon, that `_check_text` finds nothing wrong with its texts."""
    id, phone, content = sent.vendor_message_id, sent.phone, sent.content or ""
    reference, template_id, sign = sent.reference or "", sent.template_id or "", sent.sign or ""
    text = f"{id}{phone}{reference}{template_id}{sign}{content}"
    return (
        len(id) <= _MAX_ID
        and len(phone) <= _MAX_PHONE
        and len(reference) <= _MAX_REFERENCE
        and len(template_id) <= _MAX_TEMPLATE
        and len(sign) <= _MAX_SIGN
        and len(content) <= _MAX_CONTENT
        and "\0" not in text
        and (text.isascii() or _SURROGATE.search(text) is None)
    )


def _check_text(name: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise ValueError(f"{name} has more than {limit} characters")
    if "\0" in text:
        raise ValueError(f"{name} has a NUL character")
    if not text.isascii() and _SURROGATE.search(text):
        raise ValueError(f"{name} has half of a surrogate pair")
