"""Settling: from records to states.

A state is the fold of a set, so settling may run twice, late, in another order or in two places at
once and the outcome is the same. Every way that reports come by ends in `settle`.

Two rules keep a report and its message from missing each other when they arrive at one moment in two
transactions: first commit what came, then fold in a transaction of its own that locks the message.
Whichever of the two folds last sees both.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import asyncpg
import msgspec
import structlog

from gateways.errors import Garbled, Malformed, Refused
from gateways.events import DeliveryReport, InboundMessage, Parsed, ReviewResult
from runtime import records
from runtime.identity import message_id, shard_of, text_digest
from runtime.queries import QUERIES
from runtime.records import Record
from runtime.settings import AccountSettings

log = structlog.get_logger()


class Settled(msgspec.Struct, kw_only=True):
    """What settling some records did; `messages` counts those whose state changed."""

    reports: int = 0
    inbound: int = 0
    reviews: int = 0
    quarantined: int = 0
    messages: int = 0


K = TypeVar("K")
E = TypeVar("E")


class _Row(NamedTuple, Generic[K, E]):
    """An event, its key in its table, and the record that it came from."""

    key: K
    event: E
    record: Record


_Report = _Row[tuple[int, UUID, bytes], DeliveryReport]
_Inbound = _Row[tuple[int, bytes], InboundMessage]
_Review = _Row[tuple[str, str, str, bytes], ReviewResult]


class _Understood(NamedTuple):
    """The events of some records, in the order of their keys, and what was not understood."""

    reports: list[_Report]
    inbound: list[_Inbound]
    reviews: list[_Review]
    quarantined: list[tuple[Record, str]]


async def settle(
    pool: Any,
    accounts: Mapping[str, AccountSettings],
    found: Sequence[Record],
    *,
    batches: Sequence[int],
    now: datetime,
) -> Settled:
    """Parse `found`, add their events to the sets, fold, and mark `batches` settled.

    Idempotent; what is not understood is quarantined and never stops the rest. Raises only when the
    database cannot be reached or refuses: then the batches stay unsettled and are taken up again.
    """
    understood = _understand(accounts, found)
    async with pool.acquire() as connection:
        try:
            async with connection.transaction():
                await _add(connection, understood, now)
        except asyncpg.DataError as error:
            # A value that PostgreSQL cannot hold, which a parser should have caught: find the record
            # that brought it, so that the others get through.
            if len(found) > 1:
                middle = len(found) // 2
                first = await settle(pool, accounts, found[:middle], batches=(), now=now)
                rest = await settle(pool, accounts, found[middle:], batches=batches, now=now)
                return Settled(
                    **{
                        name: getattr(first, name) + getattr(rest, name)
                        for name in Settled.__struct_fields__
                    }
                )
            log.error(
                "record.not_storable", digest=found[0].digest.hex(), error=type(error).__name__
            )
            reason = f"cannot be stored: {type(error).__name__}"
            understood = _Understood([], [], [], [(found[0], reason)])
            async with connection.transaction():
                await _add(connection, understood, now)
        messages = await _fold(connection, understood, batches, now)
    return Settled(
        reports=len(understood.reports),
        inbound=len(understood.inbound),
        reviews=len(understood.reviews),
        quarantined=len(understood.quarantined),
        messages=messages,
    )


async def settle_left_behind(
    pool: Any,
    accounts: Mapping[str, AccountSettings],
    *,
    recorded_before: datetime,
    now: datetime,
    limit: int = 50,
) -> int:
    """Settle batches whose recorder died or fell behind; return how many were found.

    Skips batches that another process is settling this way; call it until it returns 0.
    """
    async with pool.acquire() as holder, holder.transaction():
        rows = await holder.fetch(QUERIES["unsettled_batches"], recorded_before, limit)
        batches = [row["id"] for row in rows]
        if not batches:
            return 0
        # One batch at a time: how many records a batch has is bounded, how many batches have is not.
        for batch in batches:
            left = records.of_rows(await holder.fetch(QUERIES["records_of_batches"], [batch]))
            # Another connection settles, and may not mark the batch: this one holds its lock.
            await settle(pool, accounts, left, batches=(), now=now)
        await holder.execute(QUERIES["batches_settled"], batches, now)
    return len(batches)


async def join_orphans(connection: Any, shards: Sequence[int], ids: Sequence[UUID]) -> int:
    """Fold the reports that came before their messages; return how many messages changed."""
    rows = await connection.fetch(QUERIES["joinable_orphans_of"], shards, ids)
    return await fold(connection, [(row["shard"], row["message_id"]) for row in rows])


async def join_left_orphans(connection: Any, limit: int = 5000) -> int:
    """Fold orphans whose message is known but whose registration died before folding."""
    rows = await connection.fetch(QUERIES["joinable_orphans"], limit)
    return await fold(connection, [(row["shard"], row["message_id"]) for row in rows])


async def fold(connection: Any, keys: Sequence[tuple[int, UUID]]) -> int:
    """Fold all reports of the messages at `keys` (shard, id); return how many states changed."""
    if not keys:
        return 0
    shards = [shard for shard, _ in keys]
    ids = [message for _, message in keys]
    async with connection.transaction():
        await connection.execute(QUERIES["lock_messages"], shards, ids)
        changed: int = await connection.fetchval(QUERIES["settle_messages"], shards, ids)
    return changed


def _understand(accounts: Mapping[str, AccountSettings], found: Sequence[Record]) -> _Understood:
    reports: dict[tuple[int, UUID, bytes], _Report] = {}
    inbound: dict[tuple[int, bytes], _Inbound] = {}
    reviews: dict[tuple[str, str, str, bytes], _Review] = {}
    quarantined: list[tuple[Record, str]] = []
    for record in found:
        try:
            parsed = _parse(accounts, record)
        except (Malformed, Garbled) as error:
            quarantined.append((record, str(error)))
            continue
        except Refused:
            continue  # understood: the vendor's no to a query brings no event
        except Exception as error:
            # A parser's bug must not lose the record nor stop the others.
            log.exception(
                "record.parser_failed", digest=record.digest.hex(), account=record.account
            )
            quarantined.append((record, f"the parser failed: {type(error).__name__}"))
            continue
        if parsed.problems:
            quarantined.append((record, "; ".join(parsed.problems)))
        account = record.account
        for event in parsed.events:
            match event:
                case DeliveryReport():
                    report = _Row(_report_key(account, record.source, event), event, record)
                    reports[report.key] = report
                case InboundMessage():
                    text = _Row(_inbound_key(account, event), event, record)
                    inbound[text.key] = text
                case ReviewResult():
                    review = _Row(_review_key(account, event), event, record)
                    reviews[review.key] = review
    # One order for all processes, so that concurrent inserts of the same keys cannot deadlock.
    return _Understood(
        reports=[reports[key] for key in sorted(reports)],
        inbound=[inbound[key] for key in sorted(inbound)],
        reviews=[reviews[key] for key in sorted(reviews)],
        quarantined=sorted(quarantined, key=lambda pair: pair[0].digest),
    )


def _parse(accounts: Mapping[str, AccountSettings], record: Record) -> Parsed:
    settings = accounts.get(record.account)
    if settings is None:
        raise Malformed("the account is no longer in the settings")
    return records.parse(record, settings.gateway, settings.account)


def _report_key(account: str, source: str, event: DeliveryReport) -> tuple[int, UUID, bytes]:
    at = event.reported_at
    return (
        shard_of(account, event.vendor_message_id),
        message_id(account, event.vendor_message_id, event.phone),
        text_digest(
            source,
            event.status.value,
            event.vendor_code,
            event.reason,
            None if at is None else at.timestamp(),
        ),
    )


def _inbound_key(account: str, event: InboundMessage) -> tuple[int, bytes]:
    at = event.sent_at
    return (
        shard_of(account, event.phone),
        text_digest(
            event.phone,
            event.content,
            None if at is None else at.timestamp(),
            event.extension,
            event.vendor_message_id,
        ),
    )


def _review_key(account: str, event: ReviewResult) -> tuple[str, str, str, bytes]:
    return (
        account,
        event.kind.value,
        event.vendor_id,
        text_digest(*(getattr(event, name) for name in event.__struct_fields__)),
    )


async def _add(connection: Any, understood: _Understood, now: datetime) -> None:
    if reports := understood.reports:
        await connection.execute(
            QUERIES["add_reports"],
            [row.key[0] for row in reports],
            [row.key[1] for row in reports],
            [row.key[2] for row in reports],
            [row.record.account for row in reports],
            [row.event.vendor_message_id for row in reports],
            [row.event.phone for row in reports],
            [row.event.status.value for row in reports],
            [row.event.vendor_code for row in reports],
            [row.event.reason for row in reports],
            [row.event.reported_at for row in reports],
            [row.record.received_at for row in reports],
            [row.record.source for row in reports],
            [row.record.digest for row in reports],
        )
    if inbound := understood.inbound:
        await connection.execute(
            QUERIES["add_inbound"],
            [row.key[0] for row in inbound],
            [row.key[1] for row in inbound],
            [row.record.account for row in inbound],
            [row.event.phone for row in inbound],
            [row.event.content for row in inbound],
            [row.event.sent_at for row in inbound],
            [row.record.received_at for row in inbound],
            [row.event.extension for row in inbound],
            [row.event.vendor_message_id for row in inbound],
            [row.record.source for row in inbound],
            [row.record.digest for row in inbound],
        )
    if reviews := understood.reviews:
        await connection.execute(
            QUERIES["add_review_results"],
            [row.record.account for row in reviews],
            [row.event.kind.value for row in reviews],
            [row.event.vendor_id for row in reviews],
            [row.key[3] for row in reviews],
            [row.event.status.value for row in reviews],
            [row.event.vendor_code for row in reviews],
            [row.event.name for row in reviews],
            [row.event.content for row in reviews],
            [row.event.remark for row in reviews],
            [row.event.reason for row in reviews],
            [row.event.created_at for row in reviews],
            [row.event.updated_at for row in reviews],
            [row.record.received_at for row in reviews],
            [row.record.source for row in reviews],
            [row.record.digest for row in reviews],
        )
        await connection.execute(QUERIES["know_reviews"], *_review_columns(understood.reviews), now)
    if understood.quarantined:
        await connection.execute(
            QUERIES["quarantine"],
            [record.digest for record, _ in understood.quarantined],
            [record.account for record, _ in understood.quarantined],
            [record.received_at for record, _ in understood.quarantined],
            [reason for _, reason in understood.quarantined],
            now,
        )


async def _fold(
    connection: Any, understood: _Understood, batches: Sequence[int], now: datetime
) -> int:
    changed = 0
    async with connection.transaction():
        if understood.reports:
            keys = [row.key for row in understood.reports]
            shards, ids = [key[0] for key in keys], [key[1] for key in keys]
            await connection.execute(QUERIES["lock_messages"], shards, ids)
            changed = await connection.fetchval(QUERIES["settle_messages"], shards, ids)
        if understood.reviews:
            columns = _review_columns(understood.reviews)
            await connection.execute(QUERIES["lock_reviews"], *columns)
            await connection.execute(QUERIES["settle_reviews"], *columns, now)
        if batches:
            await connection.execute(QUERIES["batches_settled"], list(batches), now)
    return changed


def _review_columns(rows: Sequence[_Review]) -> tuple[list[str], list[str], list[str]]:
    return (
        [row.key[0] for row in rows],
        [row.key[1] for row in rows],
        [row.key[2] for row in rows],
    )
