"""Polling: asking a vendor, by id, for what its pushes may have missed; repeatable.

Replies are stored as records and settled just as pushes are. Only an answer, or patience without
one, ends the waiting for a message.
"""

import asyncio
from collections.abc import (
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import httpx
import msgspec
import structlog

from gateways.errors import Garbled, GatewayError, Indeterminate, Malformed, Refused, Unavailable
from gateways.events import DeliveryReport, Event, Parsed, ReviewKind, ReviewResult
from gateways.gateway import Call, Client, Reply
from gateways.http import Transport
from reconciler.lease import Lease
from runtime import metrics, records, settlement
from runtime.identity import text_digest
from runtime.queries import QUERIES
from runtime.records import Record
from runtime.settings import AccountSettings, Settings

log = structlog.get_logger()

CONCURRENT = 32
CHUNK = 500
CHUNK_SECONDS = 5  # of the account's rate, so that a chunk is stored soon
ASK_SECONDS = 45.0
# Longer than asking and storing a chunk take: only its claimer asks about a message claimed.
CLAIM_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 6 * 3600.0
# A message whose vendor never answers is given up after so many questions, if its time is over.
UNANSWERED_POLLS = 8
# A vendor that asks for a longer pause is asked nothing more: the transport waits out shorter ones.
PAUSE_SECONDS = 20.0
REVIEW_SECONDS = 60.0
REVIEW_LONGEST_WAIT_SECONDS = 3600.0
_REVIEWS = 500
_SUSPECTS = 1000
_EXPIRE = 1000


class Done(msgspec.Struct, kw_only=True):
    """What asking a vendor brought; `failures` are sentences without secrets and phone numbers.

    `answered` counts replies that told a state, `final` messages whose state changed by them.
    `retry_after_seconds` is the vendor's own wish; `refused`: it said no to all that we asked.
    """

    asked: int = 0
    answered: int = 0
    final: int = 0
    expired: int = 0
    pages: int = 0
    rows: int = 0
    lost: int = 0
    purged: int = 0
    held: int = 0
    failures: list[str] = []
    retry_after_seconds: float = 0.0
    refused: bool = False

    def fail(self, call: Call, error: GatewayError) -> None:
        """Note what a call ended with."""
        self.failures.append(f"{call}: {error}")
        match error:
            case Unavailable(retry_after_seconds=float(seconds)):
                self.retry_after_seconds = max(self.retry_after_seconds, seconds)
            case Refused():
                self.refused = True

    def add(self, other: "Done") -> None:
        """Add what another pass did."""
        counts = (
            "asked",
            "answered",
            "final",
            "expired",
            "pages",
            "rows",
            "lost",
            "purged",
            "held",
        )
        for name in (*counts, "failures"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.retry_after_seconds = max(self.retry_after_seconds, other.retry_after_seconds)
        self.refused = self.refused or other.refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One account's way to its vendor, and to the database where the replies go."""

    pool: Any
    accounts: Mapping[str, AccountSettings]
    settings: AccountSettings
    client: Client
    recorder: str

    def under(self, lease: Lease) -> "Caller":
        """Return the caller that writes as the holder of `lease` and no longer."""
        return replace(self, pool=lease.pool)

    @property
    def name(self) -> str:
        """The account's name."""
        return self.settings.account.name

    def offers(self, call: str) -> bool:
        """Whether the account's vendor offers `call`."""
        return call in self.settings.gateway.supports

    def count(self, call: Call, outcome: GatewayError | None) -> None:
        """Count a call by how it ended; None is well."""
        name = "ok" if outcome is None else _OUTCOMES.get(type(outcome), "garbled")
        metrics.VENDOR_CALLS.labels(self.name, call.value, name).inc()

    async def store(self, found: Sequence[Record]) -> int:
        """Store replies and settle them; durable on return. Returns how many messages changed."""
        async with self.pool.acquire() as connection:
            batch, fresh = await records.store(
                connection, found, recorder=self.recorder, now=datetime.now(UTC)
            )
        return await self.settle(batch, fresh)

    async def settle(
        self, batch: int, found: Sequence[Record], parsed: Mapping[bytes, Parsed] | None = None
    ) -> int:
        """Settle the stored records of `batch`; return how many messages changed.

        `parsed` is what they were parsed into before, by their digests: no page is parsed twice.
        """
        settled = await settlement.settle(
            self.pool,
            self.accounts,
            found,
            batches=[batch],
            now=datetime.now(UTC),
            parsed=parsed,
        )
        for what in settled.__struct_fields__:
            if count := getattr(settled, what):
                metrics.SETTLED.labels(what).inc(count)
        return settled.messages


_OUTCOMES: dict[type[GatewayError], str] = {
    Unavailable: "unavailable",
    Indeterminate: "indeterminate",
    Refused: "refused",
}


def callers(
    settings: Settings, pool: Any, http: httpx.AsyncClient, *, recorder: str
) -> dict[str, Caller]:
    """Make each account's caller; make them once a process, for each paces its own account."""
    return {
        name: Caller(
            pool=pool,
            accounts=settings.accounts,
            settings=account,
            client=account.gateway.client(
                account.account, Transport(http, account.requests_per_second)
            ),
            recorder=recorder,
        )
        for name, account in settings.accounts.items()
    }


async def poll_statuses(caller: Caller, *, all_now: bool = False) -> Done:
    """Ask for every message that is due, store and settle the answers, expire what is over.

    With `all_now` every message without a final report that was sent `poll_after_seconds` ago is
    due. Stops at a vendor that answers nothing. Raises one of `DATABASE_ERRORS`; messages claimed
    then are due again after `CLAIM_SECONDS`.
    """
    settings, done = caller.settings, Done()
    started = datetime.now(UTC)
    await _ask_of_suspects(caller, started)
    if all_now:
        sent_by = started - timedelta(seconds=settings.poll_after_seconds)
        await caller.pool.execute(QUERIES["ask_now"], caller.name, started, sent_by)
    per_call = caller.client.ids_per_query
    size = max(1, min(CHUNK, int(settings.requests_per_second * CHUNK_SECONDS) * per_call))
    while not done.failures:
        due = await caller.pool.fetch(
            QUERIES["claim_awaiting"],
            caller.name,
            started,
            datetime.now(UTC) + timedelta(seconds=CLAIM_SECONDS),
            size,
        )
        if not due:
            break
        client = caller.client
        groups = {_subject(group): group for group in _groups(due, client.ids_per_query)}
        told = await _ask_all(
            caller,
            Call.QUERY_STATUS,
            {
                subject: _Question(partial(client.query_status, group), len(group))
                for subject, group in groups.items()
            },
            done,
        )
        answers = {
            id: id in told[subject]
            for subject, group in groups.items()
            if subject in told
            for id in group
        }
        asked = [row for row in due if row["vendor_message_id"] in answers]
        done.expired += await _expire_asked(caller, asked, answers)
        await caller.pool.execute(
            QUERIES["schedule_awaiting"],
            [row["shard"] for row in asked],
            [row["message_id"] for row in asked],
            datetime.now(UTC),
            max(settings.poll_after_seconds, 1.0),
            LONGEST_WAIT_SECONDS,
            settings.poll_until_hours * 3600,
        )
    return done


async def _ask_of_suspects(caller: Caller, now: datetime) -> None:
    """Have messages with a report that waits to be confirmed be due, once for each report."""
    async with caller.pool.acquire() as connection, connection.transaction():
        rows = await connection.fetch(QUERIES["suspects_to_ask"], caller.name, now, _SUSPECTS)
        if rows:
            keys = [row["shard"] for row in rows], [row["id"] for row in rows]
            await connection.execute(QUERIES["lock_messages"], *keys)
            await connection.execute(QUERIES["ask_soon"], *keys, now)


async def poll_reviews(caller: Caller, *, all_now: bool = False) -> Done:
    """Ask for every sign and template under review that is due; `all_now`: for all of them."""
    done = Done()
    now = datetime.now(UTC)
    due = await caller.pool.fetch(
        QUERIES["claim_reviews"],
        caller.name,
        now + timedelta(seconds=REVIEW_LONGEST_WAIT_SECONDS) if all_now else now,
        now,
        REVIEW_SECONDS,
        REVIEW_LONGEST_WAIT_SECONDS,
        _REVIEWS,
    )
    client = caller.client
    for call, kind in _REVIEW_CALLS.items():
        ids = [row["vendor_id"] for row in due if row["kind"] == kind]
        if ids and not done.failures:
            await _ask_all(
                caller,
                call,
                {id: _Question(partial(client.query_review, kind, id)) for id in ids},
                done,
            )
    return done


_REVIEW_CALLS = {
    Call.QUERY_SIGN: ReviewKind.SIGN,
    Call.QUERY_TEMPLATE: ReviewKind.TEMPLATE,
}


async def expire_by_clock(caller: Caller, due_by: datetime) -> int:
    """Expire messages whose time was over by `due_by`, where the vendor cannot be asked by id.

    `due_by` is no later than the begin of a whole pull pass, if the vendor offers pulls.
    """
    expired = 0
    sent_by = due_by - timedelta(hours=caller.settings.poll_until_hours)
    while True:
        rows = await caller.pool.fetch(QUERIES["expirable"], caller.name, due_by, sent_by, _EXPIRE)
        if not rows:
            return expired
        expired += await _expire(
            caller.pool, [row["shard"] for row in rows], [row["message_id"] for row in rows]
        )


class _Question(msgspec.Struct, frozen=True):
    """A call to make, and about how many things it asks."""

    ask: Callable[[], Awaitable[Reply]]
    about: int = 1


class _Answer(msgspec.Struct, frozen=True):
    """What came of a question: bytes worth keeping, the ids whose state they tell, or why none."""

    record: Record | None
    told: Set[str]
    error: GatewayError | None


def _groups(due: Iterable[Any], size: int) -> Iterator[tuple[str, ...]]:
    ids = tuple(dict.fromkeys(row["vendor_message_id"] for row in due))
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _subject(ids: Sequence[str]) -> str:
    """Name a question about `ids` for its record: a reply to one about many is long enough."""
    return ids[0] if len(ids) == 1 else f"{len(ids)} ids {text_digest(*ids).hex()}"


async def _ask_all(
    caller: Caller, call: Call, questions: Mapping[str, _Question], done: Done
) -> dict[str, Set[str]]:
    """Ask, store and settle; say of each subject asked about which ids the vendor told the state of."""
    answers: dict[str, _Answer] = {}
    waiting = iter(questions.items())
    late = Unavailable(f"no reply within {ASK_SECONDS:.0f} seconds")

    async def ask_one_after_another() -> None:
        for subject, question in waiting:
            if done.retry_after_seconds:
                return
            answers[subject] = _Answer(None, frozenset(), late)
            answer = answers[subject] = await _ask(caller, call, subject, question.ask)
            match answer.error:
                case Unavailable(retry_after_seconds=float(seconds)) if seconds > PAUSE_SECONDS:
                    done.retry_after_seconds = max(done.retry_after_seconds, seconds)

    workers = [
        asyncio.create_task(ask_one_after_another()) for _ in range(min(CONCURRENT, len(questions)))
    ]
    try:
        await asyncio.wait(workers, timeout=ASK_SECONDS)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    if found := [answer.record for answer in answers.values() if answer.record is not None]:
        done.final += await caller.store(found)
    silent = [answer.error for answer in answers.values() if answer.error is not None]
    done.asked += sum(questions[subject].about for subject in answers)
    done.answered += sum(len(answer.told) for answer in answers.values())
    if silent and (done.retry_after_seconds or len(silent) == len(answers)):
        done.failures.append(f"{call}: {len(silent)} of {len(answers)} not answered: {silent[-1]}")
    return {subject: answer.told for subject, answer in answers.items()}


async def _ask(
    caller: Caller, call: Call, subject: str, question: Callable[[], Awaitable[Reply]]
) -> _Answer:
    record: Record | None = None
    told: Set[str] = frozenset()
    error: GatewayError | None = None
    try:
        record = _record(caller, subject, await question())
        events = records.parse(record, caller.settings.gateway, caller.settings.account).events
        told = {_named(event) for event in events}
    except Refused as refused:
        record, error = None, refused
    except (Garbled, Malformed) as garbled:
        error = garbled
        if record is None and isinstance(garbled, Garbled) and garbled.body:
            record = _record(caller, subject, Reply(call=call, headers={}, body=garbled.body))
        log.error("reply.garbled", account=caller.name, call=call.value, error=str(garbled))
    except GatewayError as other:
        error = other
    except Exception as bug:
        # One message's must not keep the others from being asked about; settling quarantines it.
        log.exception("reply.failed", account=caller.name, call=call.value)
        error = Garbled(f"reading the reply failed: {type(bug).__name__}")
    caller.count(call, error)
    return _Answer(record, told, error)


def _named(event: Event) -> str:
    match event:
        case DeliveryReport(vendor_message_id=named) | ReviewResult(vendor_id=named):
            return named
    return ""


def _record(caller: Caller, subject: str, reply: Reply) -> Record:
    return records.of_reply(
        caller.name, reply, subject=subject, once=False, received_at=datetime.now(UTC)
    )


async def _expire_asked(caller: Caller, asked: Iterable[Any], answers: Mapping[str, bool]) -> int:
    over = datetime.now(UTC) - timedelta(hours=caller.settings.poll_until_hours)
    ended = [
        row
        for row in asked
        if row["sent_at"] <= over
        and (answers[row["vendor_message_id"]] or row["polls"] >= UNANSWERED_POLLS)
    ]
    return await _expire(
        caller.pool, [row["shard"] for row in ended], [row["message_id"] for row in ended]
    )


async def _expire(pool: Any, shards: Sequence[int], ids: Sequence[UUID]) -> int:
    if not ids:
        return 0
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(QUERIES["lock_messages"], shards, ids)
        expired: int = await connection.fetchval(QUERIES["expire"], shards, ids)
    return expired
