"""Settling: from records to states.

A state is the fold of a set, so settling may run twice, late, in another order or in two places at
once and the outcome is the same. Every way that reports come by ends in `settle`.

Two rules keep a report and its message from missing each other when they arrive at one moment in two
transactions: first commit what came, then fold in a transaction of its own that locks the message.
Whichever of the two folds last sees both.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import structlog

from gateways.events import Parsed
from runtime import LeaseLost, records, sends, trust, understanding
from runtime.database import DATABASE_ERRORS
from runtime.queries import QUERIES
from runtime.records import Record
from runtime.settings import AccountSettings
from runtime.trust import ReportKey
from runtime.understanding import Understood

log = structlog.get_logger()

# How much of what was not understood is named in the log at a time; `huizhi callback show` has it all.
_REASONS_TOLD = 5
_RECORDS_TOLD = 20


class Settled(msgspec.Struct, kw_only=True):
    """What settling some records did; `messages` counts those whose state changed."""

    reports: int = 0
    inbound: int = 0
    reviews: int = 0
    balances: int = 0
    quarantined: int = 0
    messages: int = 0


# What PostgreSQL says of a value, as opposed to of itself: no other time or place would make it better.
UNSTORABLE = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)

_FINAL = frozenset({"delivered", "failed"})
# Of a row of reports from `alternate` to `doubts`: under one id only, at no charge, nothing held against it.
_PLAIN = (False, None, None, None, None, None, None)


async def settle(
    pool: Any,
    accounts: Mapping[str, AccountSettings],
    found: Sequence[Record],
    *,
    batches: Sequence[int],
    now: datetime,
    parsed: Mapping[bytes, Parsed] | None = None,
    understood: Understood | None = None,
) -> Settled:
    """Parse `found`, add their events to the sets, fold, and mark `batches` settled.

    `parsed` has what some of them, by their digests, were parsed into already; `understood` is what
    `understanding.understand` made of just these, where somebody had it do so before. Idempotent; what is not
    understood is quarantined and never stops the rest. Raises only when the database cannot be reached or
    refuses: then the batches stay unsettled and are taken up again.
    """
    if understood is None:
        understood = understanding.understand(accounts, found, parsed=parsed)
    # Taken before: what is settled leaves it.
    reported = {id for _, id, _ in understood.reports} if log.is_enabled_for(logging.DEBUG) else ()
    try:
        settled = await _settle(pool, accounts, understood, batches, now)
    except UNSTORABLE as error:
        unstorable = error
    else:
        _tell(understood, found, batches, reported)
        return settled
    # A parser should have caught that value. Find the record that brought it, so that the others get
    # through; here no connection is held, however deep this goes.
    if len(found) > 1:
        middle = len(found) // 2
        first = await settle(pool, accounts, found[:middle], batches=(), now=now, parsed=parsed)
        rest = await settle(pool, accounts, found[middle:], batches=batches, now=now, parsed=parsed)
        both = {
            name: getattr(first, name) + getattr(rest, name) for name in Settled.__struct_fields__
        }
        both["messages"] += understood.settled
        return Settled(**both)
    if not found:
        raise unstorable
    (record,) = found
    kind = type(unstorable).__name__
    log.error("record.not_storable", digest=record.digest.hex(), error=kind)
    before = understood.settled
    understood = Understood(settled=before)
    understood.quarantine(record, f"cannot be stored: {kind}")
    return await _settle(pool, accounts, understood, batches, now)


def _tell(
    understood: Understood,
    found: Sequence[Record],
    batches: Sequence[int],
    reported: Iterable[UUID],
) -> None:
    """Log what was not understood, bounded; and on `debug` what was settled, each by its name."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for digest, account, _, reason in understood.quarantined.values():
        reasons.setdefault((account, reason), []).append(digest.hex())
    # A vendor that has changed its format may have all that it pushes quarantined.
    for (account, reason), digests in islice(reasons.items(), _REASONS_TOLD):
        log.warning(
            "records.quarantined",
            account=account,
            reason=reason,
            count=len(digests),
            records=digests[:_RECORDS_TOLD],
        )
    if found and log.is_enabled_for(logging.DEBUG):
        log.debug(
            "records.settled",
            batches=list(batches),
            records=[record.digest.hex() for record in found],
            messages=sorted(str(id) for id in reported),
        )


async def settle_left_behind(
    pool: Any,
    accounts: Mapping[str, AccountSettings],
    *,
    recorded_before: datetime,
    now: datetime,
    limit: int = 10,
) -> int:
    """Settle batches whose recorder died or fell behind; return how many were settled.

    Takes up at most `limit`, and none that another process took up after `recorded_before`; call it
    until it returns 0.
    """
    rows = await pool.fetch(QUERIES["take_up_batches"], recorded_before, limit, now)
    settled = 0
    # One batch at a time: how many records a batch has is bounded, how many batches have is not.
    for batch in sorted(row["id"] for row in rows):
        left = records.of_rows(await pool.fetch(QUERIES["records_of_batches"], [batch]))
        try:
            await settle(pool, accounts, left, batches=[batch], now=now)
        except LeaseLost:
            raise
        except DATABASE_ERRORS:
            raise
        except Exception:
            # It stays unsettled, in sight, and must not keep the others waiting.
            log.exception("batch.not_settled", batch=batch)
            continue
        settled += 1
    return settled


async def join_orphans(connection: Any, found: Sequence[sends.Key]) -> int:
    """Fold reports that came before messages that have come to be known; return how many changed.

    After the commit that made them known, and not within a transaction.
    """
    if not found:
        return 0
    shards, ids = [shard for shard, _ in found], [id for _, id in found]
    rows = await connection.fetch(QUERIES["joinable_orphans_of"], shards, ids)
    keys = [(row["shard"], row["message_id"]) for row in rows]
    folded = await _join(connection, keys)
    await trust.forget_strangers(connection, keys)
    await trust.settle_held(connection, await trust.settle_strangers(connection, shards))
    return folded


async def join_left_orphans(connection: Any, limit: int = 5000) -> int:
    """Fold orphans whose message is known but whose registration died before folding."""
    rows = await connection.fetch(QUERIES["joinable_orphans"], limit)
    folded = await _join(connection, [(row["shard"], row["message_id"]) for row in rows])
    await trust.settle_left_strangers(connection)
    return folded


async def _join(connection: Any, keys: Sequence[tuple[int, UUID]]) -> int:
    folded = await fold(connection, keys)
    if keys and log.is_enabled_for(logging.DEBUG):
        rows = await connection.fetch(
            QUERIES["records_of_messages"], [shard for shard, _ in keys], [id for _, id in keys]
        )
        log.debug(
            "reports.joined",
            messages=[str(id) for _, id in keys],
            records=[row["digest"].hex() for row in rows],
        )
    return folded


async def fold(connection: Any, keys: Sequence[tuple[int, UUID]]) -> int:
    """Fold all reports of the messages at `keys` (shard, id); return how many states changed."""
    if not keys:
        return 0
    async with connection.transaction():
        return (await _fold_messages(connection, keys))[0]


async def _settle(
    pool: Any,
    accounts: Mapping[str, AccountSettings],
    understood: Understood,
    batches: Sequence[int],
    now: datetime,
) -> Settled:
    reports = len(understood.reports)
    async with pool.acquire() as connection:
        messages = 0
        if not await _settle_plain(connection, understood, batches, now):
            async with connection.transaction():
                await _add(connection, understood, now)
                identified = await _identify(connection, accounts, understood, now)
            messages, held = await _fold(connection, understood, identified, batches, now)
            await trust.settle_held(connection, held)
    return Settled(
        reports=reports,
        inbound=len(understood.inbound),
        reviews=len(understood.reviews),
        balances=len(understood.balances),
        quarantined=len(understood.quarantined),
        messages=understood.settled + messages,
    )


async def _settle_plain(
    connection: Any, understood: Understood, batches: Sequence[int], now: datetime
) -> bool:
    """Settle what most pushes are by one statement, and take it out of `understood`.

    Of a message that is known and locked, and that nobody has reported before, the state is what its
    first final report says: nothing has to be committed before, or read again. Returns whether that
    was all, `batches` included.
    """
    plain = _plain(understood.reports)
    if not plain:
        return False
    whole = len(plain) == len(understood.reports) and not understood.others
    try:
        left = await connection.fetch(
            QUERIES["settle_plain"], *_apart(plain.values()), batches if whole else (), now
        )
    except (*UNSTORABLE, asyncpg.DeadlockDetectedError):
        # Somebody settles the same at this moment, or one report cannot be stored: the other way can tell.
        return False
    for row in left:
        del plain[row["shard"], row["message_id"]]
    for shard, message, fingerprint, *_ in plain.values():
        del understood.reports[shard, message, fingerprint]
    understood.settled += len(plain)
    return whole and not left


def _plain(
    reports: Mapping[ReportKey, tuple[Any, ...]],
) -> dict[tuple[int, UUID], tuple[Any, ...]]:
    """Return the plain ones of `reports`, by their messages, in one order: see `settle_plain`."""
    found: dict[tuple[int, UUID], tuple[Any, ...] | None] = {}
    for (shard, message, _), row in reports.items():
        name = (shard, message)
        if row[6] in _FINAL and row[13:20] == _PLAIN and name not in found:
            found[name] = row
        else:
            found[name] = None
    return {name: plain for name in sorted(found) if (plain := found[name]) is not None}


def _apart(rows: Iterable[tuple[Any, ...]]) -> list[Sequence[Any]]:
    """Return what `settle_plain` takes: what each row has of its own, and once what they share."""
    own, places = [], []
    shared: dict[tuple[Any, ...], int] = {}
    for row in rows:
        shard, id, print_, account, name, phone, status, code, reason, reported, received = row[:11]
        own.append((shard, id, print_, name, phone, reason, reported, received, row[12]))
        common = (account, status, code, row[11], row[20])
        places.append(shared.setdefault(common, len(shared) + 1))
    return [*zip(*own, strict=True), places, *zip(*shared, strict=True)]


async def _identify(
    connection: Any,
    accounts: Mapping[str, AccountSettings],
    understood: Understood,
    now: datetime,
) -> list[sends.Key]:
    """Give messages that we sent their outcomes and ids; return the keys of those that have one now."""
    keys: list[sends.Key] = []
    # In one order, as everywhere.
    for submission in sorted(understood.outcomes):
        outcome = understood.outcomes[submission]
        if settings := accounts.get(outcome.account):
            keys += await sends.conclude(connection, settings, outcome, now)
    for account in sorted(understood.references):
        if settings := accounts.get(account):
            keys += await sends.identify_by_reference(
                connection, settings, understood.references[account], now
            )
    return keys


async def _add(connection: Any, understood: Understood, now: datetime) -> None:
    if understood.reports:
        await connection.execute(QUERIES["add_reports"], *_columns(understood.reports))
    if understood.inbound:
        await connection.execute(QUERIES["add_inbound"], *_columns(understood.inbound))
    if understood.reviews:
        await connection.execute(QUERIES["add_review_results"], *_columns(understood.reviews))
        await connection.execute(QUERIES["know_reviews"], *_columns(understood.reviews)[:3], now)
    if understood.balances:
        await connection.execute(QUERIES["add_balances"], *_columns(understood.balances))
    if understood.quarantined:
        await connection.execute(QUERIES["quarantine"], *_columns(understood.quarantined), now)


def _columns(rows: Mapping[Any, tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    # One order for all processes, so that concurrent inserts of the same keys cannot deadlock.
    return list(zip(*(rows[key] for key in sorted(rows)), strict=True))


async def _fold(
    connection: Any,
    understood: Understood,
    identified: Sequence[sends.Key],
    batches: Sequence[int],
    now: datetime,
) -> tuple[int, list[ReportKey]]:
    """Fold; return how many messages changed, and the strangers to settle after the commit."""
    changed, held = 0, []
    async with connection.transaction():
        if keys := [*(key[:2] for key in understood.reports), *identified]:
            changed, known = await _fold_messages(connection, keys)
            held = await _settle_strangers(connection, keys, identified, known)
        if understood.reviews:
            columns = _columns(understood.reviews)[:3]
            await connection.execute(QUERIES["lock_reviews"], *columns)
            await connection.execute(QUERIES["settle_reviews"], *columns, now)
        if batches:
            await connection.execute(QUERIES["batches_settled"], list(batches), now)
    return changed, held


async def _fold_messages(
    connection: Any, keys: Sequence[tuple[int, UUID]]
) -> tuple[int, Sequence[Any]]:
    """Lock and fold messages within the caller's transaction; return how many changed, and which are known.

    Only those that the lock found: one registered since then is folded by its registration, and what
    was read of it here could be older than what another fold has written meanwhile.
    """
    locked = await _lock(connection, keys)
    if not locked:
        return 0, ()
    shards, ids = [row["shard"] for row in locked], [row["id"] for row in locked]
    sent = [row["sent"] for row in locked]
    done = await connection.fetchrow(QUERIES["settle_messages"], shards, ids, sent)
    if done["known_by_more"]:
        await connection.execute(QUERIES["join_alternates"], shards, ids)
    if done["doubted"]:
        await trust.settle_suspects(connection, shards, ids, sent)
    return done["settled"], locked


async def _lock(connection: Any, keys: Sequence[tuple[int, UUID]]) -> Sequence[Any]:
    locked: Sequence[Any] = await connection.fetch(
        QUERIES["lock_messages"], [shard for shard, _ in keys], [message for _, message in keys]
    )
    return locked


async def _settle_strangers(
    connection: Any,
    keys: Sequence[tuple[int, UUID]],
    identified: Sequence[sends.Key],
    known: Sequence[Any],
) -> list[ReportKey]:
    """Look for strangers where `keys` name no message, and where a message is known since just now.

    Returns those beside messages known since just now that others hold: settle them after the commit.
    """
    fresh = {shard for shard, _ in identified}
    strange = set(fresh)
    if len(known) < len(keys):
        there = {(row["shard"], row["id"]) for row in known}
        strange.update(key[0] for key in keys if key not in there)
    await trust.forget_strangers(connection, identified)
    held = await trust.settle_strangers(connection, sorted(strange))
    return [key for key in held if key[0] in fresh]


async def unknown_reports(
    connection: Any, understood: Understood
) -> dict[ReportKey, tuple[Any, ...]]:
    """Return the reports that are not in the set, however they were judged when they came."""
    asked = {
        (shard, id, fingerprint)
        for shard, id, own in understood.reports
        for fingerprint in (own, *understood.judged.get((shard, id, own), ()))
    }
    if not asked:
        return {}
    columns = zip(*sorted(asked), strict=True)
    there = {tuple(row) for row in await connection.fetch(QUERIES["known_reports"], *columns)}
    return {
        key: row
        for key, row in understood.reports.items()
        if key not in there
        and not any((*key[:2], other) in there for other in understood.judged.get(key, ()))
    }


async def replace(
    connection: Any,
    accounts: Mapping[str, AccountSettings],
    found: Sequence[Record],
    *,
    replay: UUID,
    now: datetime,
) -> int:
    """Put what today's parsers make of `found` in place of what was made of them, and fold.

    Within the caller's transaction, after the working tables of a replay say what is gone. Returns
    how many states changed.
    """
    digests = [record.digest for record in found]
    understood = understanding.understand(accounts, found, judgements=True)
    read = [key[:2] for key in understood.reports]
    gone = await connection.fetch(QUERIES["supersede_reports"], digests, replay)
    await connection.execute(QUERIES["drop_inbound"], digests)
    await connection.execute(QUERIES["drop_balances"], digests)
    unsaid = await connection.fetch(QUERIES["drop_review_results"], digests, now)
    await connection.execute(
        QUERIES["release"], [digest for digest in digests if digest not in understood.quarantined]
    )
    understood.reports = await unknown_reports(connection, understood)
    await _add(connection, understood, now)
    identified = await _identify(connection, accounts, understood, now)
    keys = [
        *read,
        *identified,
        *((row["shard"], row["message_id"]) for row in gone),
    ]
    changed = await _unsettle(connection, accounts, keys, now) if gone else 0
    if keys:
        folded, known = await _fold_messages(connection, keys)
        changed += folded
        await _settle_strangers(connection, keys, identified, known)
    reviews = {key[:3] for key in understood.reviews} | {tuple(row) for row in unsaid}
    if reviews:
        columns = list(zip(*sorted(reviews), strict=True))
        await connection.execute(QUERIES["lock_reviews"], *columns)
        await connection.execute(QUERIES["settle_reviews"], *columns, now)
    return changed


async def _unsettle(
    connection: Any,
    accounts: Mapping[str, AccountSettings],
    keys: Sequence[tuple[int, UUID]],
    now: datetime,
) -> int:
    """Take back final states that nothing which counts says any more, and have their vendors asked again."""
    locked = await _lock(connection, keys)
    shards, ids = [row["shard"] for row in locked], [row["id"] for row in locked]
    rows = await connection.fetch(QUERIES["unsettle_messages"], shards, ids)
    polls = [
        (row["shard"], row["id"], row["account"], row["sent_at"], at)
        for row in rows
        if (at := sends.first_poll(accounts[row["account"]], row["sent_at"], now)) is not None
    ]
    if polls:
        await connection.execute(QUERIES["await_messages"], *zip(*polls, strict=True))
    return len(rows)
