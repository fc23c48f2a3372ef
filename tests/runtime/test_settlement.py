"""A message's state is a function of the set of its reports, and of nothing else."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import databases
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateways.events import (
    Balance,
    DeliveryReport,
    InboundMessage,
    Parsed,
    ReviewKind,
    ReviewResult,
    ReviewStatus,
    Status,
)
from gateways.gateway import Callback
from reconciler import ledger
from runtime import records, settlement
from runtime.identity import message_id, shard_of
from runtime.queries import QUERIES
from runtime.records import Record
from runtime.settings import AccountSettings, parse

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 10, 20, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
MUCH_LATER = NOW + timedelta(seconds=20)
SENT = datetime(2026, 10, 5, tzinfo=UTC)
PHONE = "13800138000"
ZONE = ZoneInfo("Asia/Shanghai")

ACCOUNTS = parse(
    """
    [accounts.think]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    [accounts.think-1]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    [accounts.think-2]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    [accounts.sms]
    gateway = "thinksms"
    credentials = { user_id = "7", account = "me", password = "hush" }
    """,
    Path("huizhi.toml"),
    {},
).accounts

fresh = itertools.count(1)


@dataclass(frozen=True)
class Word:
    """One report as ThinkAPI pushes it; `minute` None: without a time."""

    message: int
    status: str
    minute: int | None
    reason: str | None = None

    def push(self, prefix: str) -> bytes:
        at = None if self.minute is None else f"2026-10-05 09:{self.minute:02}:00"
        sms = {
            "id": f"{prefix}-{self.message}",
            "phone": PHONE,
            "status": self.status,
            "message": self.reason,
            "receiveDate": at,
        }
        return json.dumps({"action": "report", "sms": sms}).encode()


def record(body: bytes, account: str = "think", at: datetime = NOW) -> Record:
    callback = Callback(method="POST", query=b"", headers={}, body=body)
    return records.of_callback(account, callback, received_at=at, peer="203.0.113.1")


async def settle(
    pool: Any, bodies: Sequence[bytes], accounts: Any = ACCOUNTS, account: str = "think"
) -> Any:
    found = [record(body, account) for body in bodies]
    return await settlement.settle(pool, accounts, found, batches=(), now=NOW)


async def register(pool: Any, *ids: str, sent_at: datetime = SENT) -> ledger.Registered:
    rows = [
        ledger.Sent(account="think", vendor_message_id=id, phone=PHONE, sent_at=sent_at)
        for id in ids
    ]
    return await ledger.register(pool, ACCOUNTS, rows, now=NOW)


async def state(connection: Any, id: str) -> dict[str, Any] | None:
    row = await connection.fetchrow(
        "SELECT status, vendor_code, reason, reported_at, contradicted, EXISTS ("
        " SELECT FROM awaiting a WHERE a.shard = m.shard AND a.message_id = m.id) AS awaited"
        " FROM messages m WHERE shard = $1 AND vendor_message_id = $2",
        shard_of("think", id),
        id,
    )
    return None if row is None else dict(row)


# The oracle: ThinkAPI's page and interface section 4, read once more and without looking at SQL.

MEANING = {"1": "delivered", "-1": "failed", "0": "pending"}


def naive(words: Sequence[Word]) -> list[dict[str, Any]]:
    """The states that a set of reports may have; several only where vendors' times are equal."""
    final = [word for word in words if MEANING.get(word.status) in ("delivered", "failed")]
    if not final:
        return [
            {
                "status": "submitted",
                "vendor_code": None,
                "reason": None,
                "reported_at": None,
                "contradicted": False,
                "awaited": True,
            }
        ]
    timed = [word for word in final if word.minute is not None]
    if timed:
        first = min(word.minute for word in timed if word.minute is not None)
        final_at_first = [word for word in timed if word.minute == first]
    else:
        final_at_first = final
    delivered = [word for word in final_at_first if word.status == "1"]
    return [
        {
            "status": MEANING[word.status],
            "vendor_code": word.status,
            "reason": word.reason,
            "reported_at": None
            if word.minute is None
            else datetime(2026, 10, 5, 9, word.minute, tzinfo=ZONE),
            "contradicted": len({other.status for other in final}) > 1,
            "awaited": False,
        }
        for word in (delivered or final_at_first)
    ]


words = st.builds(
    Word,
    message=st.integers(0, 2),
    status=st.sampled_from(["1", "1", "-1", "-1", "0", "7"]),
    minute=st.sampled_from([None, 1, 1, 2, 3]),
    reason=st.sampled_from([None, None, "空号"]),
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    given_words=st.lists(words, max_size=8, unique=True),
    known=st.sets(st.integers(0, 2)),
    seed=st.integers(0, 2**32),
)
async def test_state_is_the_fold_of_the_set_under_every_order_batching_and_concurrency(
    pool: Any, given_words: list[Word], known: set[int], seed: int
) -> None:
    chance = random.Random(seed)
    number = next(fresh)
    prefixes = [f"p{number}.{way}" for way in range(5)]
    for way, prefix in enumerate(prefixes):
        # What arrives: each report at least once, some again, cut into batches at random, with the
        # registration of each known message, also more than once, anywhere between.
        arriving = (
            [*given_words, *chance.choices(given_words, k=chance.randint(0, 4))]
            if given_words
            else []
        )
        chance.shuffle(arriving)
        steps: list[Callable[[], Awaitable[Any]]] = []
        while arriving:
            taken, arriving = arriving[: (n := chance.randint(1, 4))], arriving[n:]
            bodies = [word.push(prefix) for word in taken]
            steps.append(lambda bodies=bodies: settle(pool, list(dict.fromkeys(bodies))))
        for message in known:
            for _ in range(chance.randint(1, 2)):
                steps.append(lambda id=f"{prefix}-{message}": register(pool, id))
        chance.shuffle(steps)
        if way % 2:
            await asyncio.gather(*(step() for step in steps))
        else:
            for step in steps:
                await step()
    for message in range(3):
        about = [word for word in given_words if word.message == message]
        states = [await state(pool, f"{prefix}-{message}") for prefix in prefixes]
        if message in known:
            assert states[0] in naive(about)
            assert states == [states[0]] * len(prefixes)
        else:
            assert states == [None] * len(prefixes)
        for prefix in prefixes:
            kept = await pool.fetch(
                "SELECT orphan FROM reports WHERE shard = $1",
                shard_of("think", f"{prefix}-{message}"),
            )
            assert [row["orphan"] for row in kept] == [message not in known] * len(about)


async def test_pending_never_undoes_final(pool: Any) -> None:
    await register(pool, "1")
    for word in (Word(0, "1", 2), Word(0, "0", 1), Word(0, "0", None), Word(0, "7", 0)):
        await settle(pool, [word.push("1").replace(b"1-0", b"1")])
        found = await state(pool, "1")
        assert found is not None
        assert (found["status"], found["vendor_code"], found["awaited"]) == (
            "delivered",
            "1",
            False,
        )


async def test_unknown_code_is_kept_and_is_not_final(pool: Any) -> None:
    await register(pool, "a-0")
    await settle(pool, [Word(0, "7", 2).push("a")])
    found = await state(pool, "a-0")
    assert found is not None
    assert (found["status"], found["awaited"]) == ("submitted", True)
    row = await pool.fetchrow("SELECT status, vendor_code FROM reports")
    assert tuple(row) == ("unknown", "7")


async def test_of_contradicting_reports_the_earliest_by_the_vendors_time_stands(pool: Any) -> None:
    await register(pool, "a-0")
    history = []
    for word in (Word(0, "-1", None), Word(0, "1", 5), Word(0, "-1", 3), Word(0, "1", 4)):
        await settle(pool, [word.push("a")])
        found = await state(pool, "a-0")
        assert found is not None
        history.append((found["status"], found["contradicted"]))
    assert history == [("failed", False), ("delivered", True), ("failed", True), ("failed", True)]


async def test_late_truth_reopens_an_expired_message_and_late_pending_does_not(pool: Any) -> None:
    await register(pool, "a-0")
    async with pool.acquire() as connection, connection.transaction():
        keys = [shard_of("think", "a-0")], [message_id("think", "a-0", PHONE)]
        await connection.execute(QUERIES["lock_messages"], *keys)
        assert await connection.fetchval(QUERIES["expire"], *keys) == 1
    await settle(pool, [Word(0, "0", 1).push("a"), Word(0, "9", 1).push("a")])
    found = await state(pool, "a-0")
    assert found is not None
    assert (found["status"], found["awaited"]) == ("expired", False)
    await settle(pool, [Word(0, "-1", 30).push("a")])
    found = await state(pool, "a-0")
    assert found is not None
    assert (found["status"], found["vendor_code"]) == ("failed", "-1")


async def test_one_task_to_many_numbers_has_a_state_for_each(pool: Any) -> None:
    phones = [f"139{number:08}" for number in range(5)]
    rows = [
        ledger.Sent(account="sms", vendor_message_id="9", phone=phone, sent_at=SENT)
        for phone in phones
    ]
    await ledger.register(pool, ACCOUNTS, rows, now=NOW)
    boxes = "".join(
        f"<statusbox><mobile>86{phone}</mobile><taskid>9</taskid><status>{status}</status></statusbox>"
        for phone, status in zip(phones[:4], ("10", "20", "10", "20"), strict=True)
    )
    body = f"<returnsms>{boxes}</returnsms>".encode()
    done = await settlement.settle(pool, ACCOUNTS, [record(body, "sms")], batches=(), now=NOW)
    assert (done.reports, done.messages) == (4, 4)
    found = await pool.fetch("SELECT status FROM messages ORDER BY phone")
    assert [row["status"] for row in found] == [
        "delivered",
        "failed",
        "delivered",
        "failed",
        "submitted",
    ]


async def test_settling_again_says_that_nothing_changed(pool: Any) -> None:
    await register(pool, "a-0")
    bodies = [Word(0, "1", 1).push("a"), Word(0, "-1", 2).push("a")]
    assert (await settle(pool, bodies)).messages == 1
    version = await pool.fetchval("SELECT xmin::text FROM messages")
    assert (await settle(pool, bodies)).messages == 0
    assert (await settle(pool, bodies[::-1])).messages == 0
    # And no row was written again for nothing.
    assert await pool.fetchval("SELECT xmin::text FROM messages") == version


# Reports and registrations that pass each other in transactions of their own.


class Reporter:
    """Settling, step by step on a connection of its own, as `settlement.settle` does it."""

    def __init__(self, connection: Any, id: str, status: str, minute: int) -> None:
        self._connection = connection
        self._transaction = connection.transaction()
        self._keys = [shard_of("think", id)], [message_id("think", id, PHONE)]
        self._row = (
            *self._keys,
            [status.encode() + bytes([minute])],
            ["think"],
            [id],
            [PHONE],
            [status],
            [status],
            [None],
            [datetime(2026, 10, 5, 9, minute, tzinfo=UTC)],
            [NOW],
            ["push"],
            [b"\0" * 32],
            [False],
            *[[None]] * 7,
        )

    async def add(self) -> None:
        await self._transaction.start()
        await self._connection.execute(QUERIES["add_reports"], *self._row)

    async def commit(self) -> None:
        await self._transaction.commit()

    async def fold(self) -> None:
        await settlement.fold(self._connection, list(zip(*self._keys, strict=True)))

    @property
    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        return [self.add, self.commit, self.fold]


class Registrar:
    """Registering, step by step on a connection of its own, as `ledger.register` does it."""

    def __init__(self, connection: Any, id: str) -> None:
        self._connection = connection
        self._transaction = connection.transaction()
        self._keys = [shard_of("think", id)], [message_id("think", id, PHONE)]
        nothing: list[None] = [None]
        self._row = (
            *self._keys,
            ["think"],
            [id],
            [PHONE],
            [SENT],
            [1],
            [False],
            *(nothing,) * 4,
            ["think"],
            [0.0],
            NOW,
        )

    async def insert(self) -> None:
        await self._transaction.start()
        await self._connection.execute(QUERIES["register"], *self._row)

    async def commit(self) -> None:
        await self._transaction.commit()

    async def join(self) -> None:
        await settlement.join_orphans(self._connection, list(zip(*self._keys, strict=True)))

    @property
    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        return [self.insert, self.commit, self.join]


def interleavings(*lengths: int) -> list[tuple[int, ...]]:
    """Every order in which so many actors can take their steps, each its own in order."""
    actors = [actor for actor, length in enumerate(lengths) for _ in range(length)]
    return sorted(set(itertools.permutations(actors))) if len(actors) <= 8 else []


async def test_report_and_registration_meet_in_every_interleaving(database: Any) -> None:
    async with database.connection() as one, database.connection() as two:
        orders = interleavings(3, 3)
        assert len(orders) == 20
        for number, order in enumerate(orders):
            id = f"meet-{number}"
            steps = [iter(Reporter(one, id, "delivered", 1).steps), iter(Registrar(two, id).steps)]
            for actor in order:
                await next(steps[actor])()
            found = await state(one, id)
            assert found is not None
            assert (found["status"], found["awaited"]) == ("delivered", False), order
        assert await one.fetchval("SELECT count(*) FROM reports WHERE orphan") == 0


async def test_two_reports_and_a_registration_meet_in_many_interleavings(database: Any) -> None:
    chance = random.Random(7)
    actors = [actor for actor in range(3) for _ in range(3)]
    async with (
        database.connection() as one,
        database.connection() as two,
        database.connection() as three,
    ):
        for number in range(120):
            chance.shuffle(actors)
            id = f"meet-{number}"
            steps = [
                iter(Reporter(one, id, "failed", 2).steps),
                iter(Reporter(two, id, "delivered", 1).steps),
                iter(Registrar(three, id).steps),
            ]
            for actor in actors:
                await next(steps[actor])()
            found = await state(one, id)
            assert found is not None
            assert (found["status"], found["contradicted"]) == ("delivered", True), actors


class Interposed:
    """A pool or connection that does something after a query, between two steps of our code."""

    def __init__(self, inner: Any, after: str, then: Callable[[], Awaitable[None]]) -> None:
        self._inner = inner
        self._after = QUERIES[after]
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator["Interposed"]:
        async with self._inner.acquire() as connection:
            self._inner, pool = connection, self._inner
            try:
                yield self
            finally:
                self._inner = pool

    async def _do(self, method: str, query: str, *values: Any) -> Any:
        result = await getattr(self._inner, method)(query, *values)
        if query == self._after:
            await self._then()
        return result

    async def execute(self, query: str, *values: Any) -> Any:
        return await self._do("execute", query, *values)

    async def fetch(self, query: str, *values: Any) -> Any:
        return await self._do("fetch", query, *values)

    async def fetchrow(self, query: str, *values: Any) -> Any:
        return await self._do("fetchrow", query, *values)

    async def fetchval(self, query: str, *values: Any) -> Any:
        return await self._do("fetchval", query, *values)


async def blocked(
    connection: Any, *, or_done: asyncio.Task[Any] | None = None, sessions: int = 1
) -> None:
    """Wait until so many sessions of this database wait for a lock, or a task is done."""
    async with asyncio.timeout(20):
        while (
            not (or_done is not None and or_done.done())
            and await connection.fetchval(databases.WAITING, None) < sessions
        ):
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def held(connection: Any, id: str, *, changed: str | None = None) -> AsyncIterator[None]:
    """Hold a message of `think` that others may want to lock, and perhaps change it in the end."""
    async with connection.transaction():
        row = (shard_of("think", id), id)
        await connection.execute(
            "SELECT FROM messages WHERE shard = $1 AND vendor_message_id = $2 FOR UPDATE", *row
        )
        yield
        if changed is not None:
            await connection.execute(
                "UPDATE messages SET reference = $3 WHERE shard = $1 AND vendor_message_id = $2",
                *(*row, changed),
            )


async def test_fold_that_began_before_its_message_was_known_never_undoes_a_later_fold(
    database: Any,
) -> None:
    # A fold locks the messages that it knows. One that was registered after that is not its to
    # settle: what it read of that message may be old by the time it writes.
    first, later = sorted(("a", "b"), key=lambda id: shard_of("think", id))
    async with database.pool(size=6) as pool, pool.acquire() as holder, pool.acquire() as other:
        for id in (first, later):
            for step in Reporter(other, id, "failed", 5).steps[:2]:
                await step()
        held = holder.transaction()

        async def register_and_hold_the_first() -> None:
            for id in (first, later):
                for step in Registrar(holder, id).steps[:2]:
                    await step()
            await held.start()
            await holder.execute(
                "SELECT FROM messages WHERE shard = $1 AND vendor_message_id = $2 FOR UPDATE",
                shard_of("think", first),
                first,
            )

        async with pool.acquire() as connection:
            between = Interposed(connection, "lock_messages", register_and_hold_the_first)
            keys = [
                (shard_of("think", id), message_id("think", id, PHONE)) for id in (first, later)
            ]
            folding = asyncio.create_task(settlement.fold(between, keys))
            await blocked(other, or_done=folding)
            for step in Reporter(other, later, "delivered", 1).steps:
                await step()
            await held.rollback()
            await folding
        found = await state(pool, later)
        assert found is not None
        assert (found["status"], found["contradicted"]) == ("delivered", True)


async def stored(pool: Any, bodies: Sequence[bytes]) -> tuple[int, list[Record]]:
    async with pool.acquire() as connection:
        return await records.store(
            connection, [record(body) for body in bodies], recorder="dead:1", now=NOW
        )


async def test_batch_taken_up_while_its_own_recorder_still_settles_it_stops_neither(
    database: Any,
) -> None:
    async with database.pool(size=6) as pool, pool.acquire() as watching:
        await register(pool, "a-0")
        words = [Word(0, "1", 1), Word(0, "0", 1)]
        batch, found = await stored(pool, [word.push("a") for word in words])
        taken_up: list[asyncio.Task[int]] = []

        async def another_takes_it_up() -> None:
            if not taken_up:
                task = settlement.settle_left_behind(
                    pool, ACCOUNTS, recorded_before=LATER, now=MUCH_LATER
                )
                taken_up.append(asyncio.create_task(task))
                await blocked(watching)

        slow = Interposed(pool, "settle_messages", another_takes_it_up)
        async with asyncio.timeout(10):
            await settlement.settle(slow, ACCOUNTS, found, batches=[batch], now=NOW)
            assert await taken_up[0] == 1
        assert await watching.fetchval("SELECT settled_at FROM batches") is not None
        found_state = await state(pool, "a-0")
        assert found_state is not None
        assert found_state["status"] == "delivered"


async def test_batch_of_plain_reports_may_be_settled_by_two_at_once(database: Any) -> None:
    async with database.pool(size=6) as pool, pool.acquire() as holder, asyncio.timeout(20):
        for number in range(3):
            await register(pool, f"a-{number}")
        pushes = [Word(number, "1", 1).push("a") for number in range(3)]
        batch, found = await stored(pool, pushes)
        async with pool.acquire() as watching, held(holder, "a-1"):
            both = [
                asyncio.create_task(
                    settlement.settle(pool, ACCOUNTS, found, batches=[batch], now=NOW)
                )
                for _ in range(2)
            ]
            await blocked(watching, sessions=2)
        settled = await asyncio.gather(*both)
        assert sum(one.messages for one in settled) == 3
        assert await pool.fetchval("SELECT settled_at FROM batches") is not None
        rows = await pool.fetch("SELECT status FROM messages")
        assert [row["status"] for row in rows] == ["delivered"] * 3
        assert await pool.fetchval("SELECT count(*) FROM reports") == 3
        assert await pool.fetchval("SELECT count(*) FROM awaiting") == 0


@pytest.mark.parametrize("first", ["plain", "other"])
@pytest.mark.parametrize(
    ("received", "folded", "suspects"),
    [(NOW, ("failed", True), []), (SENT, ("delivered", False), ["waiting"])],
    ids=["trusted", "from the future"],
)
async def test_word_that_comes_while_a_plain_report_is_settled_counts_like_any_other(
    database: Any,
    first: str,
    received: datetime,
    folded: tuple[str, bool],
    suspects: list[str],
) -> None:
    async with database.pool(size=6) as pool, pool.acquire() as holder, asyncio.timeout(20):
        await register(pool, "a-0", sent_at=SENT - timedelta(days=1))
        coming = {
            "plain": record(Word(0, "1", 5).push("a")),
            "other": record(Word(0, "-1", 3).push("a"), at=received - timedelta(days=1)),
        }
        settling: list[asyncio.Task[Any]] = []
        async with pool.acquire() as watching, held(holder, "a-0"):
            for name in sorted(coming, key=lambda name: name != first):
                settled = settlement.settle(pool, ACCOUNTS, [coming[name]], batches=(), now=NOW)
                settling.append(asyncio.create_task(settled))
                await blocked(watching, sessions=len(settling))
        await asyncio.gather(*settling)
        found = await state(pool, "a-0")
        assert found is not None
        assert (found["status"], found["contradicted"]) == folded
        kept = await pool.fetch("SELECT state FROM suspects")
        assert [row["state"] for row in kept] == suspects


async def test_message_that_is_changed_while_its_plain_report_waits_for_it_is_settled(
    database: Any,
) -> None:
    # Where its row lies was looked up before it was changed, and it lies elsewhere since.
    async with database.pool(size=6) as pool, pool.acquire() as holder, asyncio.timeout(20):
        for number in range(3):
            await register(pool, f"a-{number}")
        pushes = [record(Word(number, "1", 1).push("a")) for number in range(3)]
        async with pool.acquire() as watching, held(holder, "a-1", changed="an order"):
            settling = asyncio.create_task(
                settlement.settle(pool, ACCOUNTS, pushes, batches=(), now=NOW)
            )
            await blocked(watching)
        assert (await settling).messages == 3
        rows = await pool.fetch("SELECT status, reference FROM messages ORDER BY vendor_message_id")
        assert [tuple(row) for row in rows] == [
            ("delivered", None),
            ("delivered", "an order"),
            ("delivered", None),
        ]
        assert await pool.fetchval("SELECT count(*) FROM awaiting") == 0


async def test_plain_report_after_a_suspect_one_has_it_judged_again(pool: Any) -> None:
    await register(pool, "a-0", sent_at=SENT - timedelta(days=1))
    for received, judged in ((SENT - timedelta(days=1), "waiting"), (NOW, "confirmed")):
        pushed = record(Word(0, "1", 5).push("a"), at=received)
        await settlement.settle(pool, ACCOUNTS, [pushed], batches=(), now=NOW)
        kept = await pool.fetch("SELECT state FROM suspects")
        assert [row["state"] for row in kept] == [judged]
    found = await state(pool, "a-0")
    assert found is not None
    assert (found["status"], found["awaited"]) == ("delivered", False)


async def test_batches_left_behind_are_settled_once_by_whoever_comes(pool: Any) -> None:
    for number in range(30):
        await stored(pool, [Word(message, "1", 1).push(f"b{number}") for message in range(3)])
    done = await asyncio.gather(
        *(
            settlement.settle_left_behind(
                pool, ACCOUNTS, recorded_before=LATER, now=MUCH_LATER, limit=4
            )
            for _ in range(4)
        )
    )
    total = sum(done)
    while found := await settlement.settle_left_behind(
        pool, ACCOUNTS, recorded_before=LATER, now=MUCH_LATER
    ):
        total += found
    assert total == 30
    assert await pool.fetchval("SELECT count(*) FROM reports") == 90


async def test_fresh_batches_are_left_to_their_recorder(pool: Any) -> None:
    await stored(pool, [Word(0, "1", 1).push("a")])
    assert not await settlement.settle_left_behind(pool, ACCOUNTS, recorded_before=NOW, now=NOW)


async def test_batch_recorded_by_a_clock_that_was_set_back_since_waits_for_nobody(
    pool: Any,
) -> None:
    await stored(pool, [Word(0, "1", 1).push("a")])
    set_back = NOW - timedelta(hours=2)
    settled = await settlement.settle_left_behind(
        pool, ACCOUNTS, recorded_before=set_back - timedelta(seconds=10), now=set_back
    )
    assert settled == 1
    assert await pool.fetchval("SELECT count(*) FROM reports") == 1


async def test_left_behind_is_settled_on_a_pool_of_two(database: Any) -> None:
    async with database.pool(size=2) as pool:
        await stored(pool, [Word(0, "1", 1).push("a"), b"garbage"])
        async with asyncio.timeout(10):
            assert await settlement.settle_left_behind(
                pool, ACCOUNTS, recorded_before=LATER, now=MUCH_LATER
            )


async def test_orphans_whose_registration_died_are_joined_later(pool: Any) -> None:
    await settle(pool, [Word(0, "1", 1).push("a"), Word(1, "1", 1).push("a")])
    async with pool.acquire() as connection:
        registrar = Registrar(connection, "a-0")
        await registrar.insert()
        await registrar.commit()
        assert await settlement.join_left_orphans(connection) == 1
        assert await settlement.join_left_orphans(connection) == 0
    found = await state(pool, "a-0")
    assert found is not None
    assert (found["status"], found["awaited"]) == ("delivered", False)
    assert await pool.fetchval("SELECT count(*) FROM reports WHERE orphan") == 1


async def test_same_reports_from_many_at_once_never_deadlock(pool: Any) -> None:
    await register(pool, *(f"a-{number}" for number in range(0, 40, 2)))
    bodies = [Word(number, "1", 1).push("a") for number in range(40)]
    chance = random.Random(3)
    await asyncio.gather(
        *(settle(pool, chance.sample(bodies, 30)) for _ in range(12)),
        *(register(pool, *chance.sample([f"a-{n}" for n in range(40)], 25)) for _ in range(6)),
    )
    rows = await pool.fetch("SELECT status FROM messages")
    assert {row["status"] for row in rows} == {"delivered"}


# Inbound messages, which a vendor may tell of twice: pushed with its id, listed without.


def inbound_of(*told: InboundMessage) -> dict[str, AccountSettings]:
    """The accounts, ThinkAPI's parser giving of `told` those that a body counts up to a digit each."""
    return parsing(
        lambda callback, _: Parsed(
            events=tuple(told[int(digit)] for digit in callback.body.decode()), rows=1
        )
    )


@pytest.mark.parametrize(
    "bodies", [["01234"], ["43210"], *map(list, itertools.permutations("012"))]
)
async def test_an_inbound_message_told_with_and_without_its_id_is_one(
    pool: Any, bodies: list[str]
) -> None:
    told = [
        bad_inbound(vendor_message_id="b"),
        bad_inbound(),
        bad_inbound(vendor_message_id="a"),
        bad_inbound(extension="9"),
        bad_inbound(content="T"),
    ]
    for body in bodies:
        await settle(pool, [body.encode()], inbound_of(*told))
    rows = await pool.fetch(
        "SELECT content, extension, vendor_message_id FROM inbound ORDER BY 1, 2"
    )
    found = {tuple(row) for row in rows}
    others = {("退订", "9", None), ("T", None, None)} if len(bodies) == 1 else set()
    assert found == {("退订", None, "a")} | others
    assert len(rows) == len(found)


async def test_inbound_messages_without_a_time_are_told_apart_by_their_ids(pool: Any) -> None:
    told = [bad_inbound(sent_at=None, vendor_message_id=id) for id in ("a", "b", None)]
    await settle(pool, [b"012", b"210"], inbound_of(*told))
    rows = await pool.fetch("SELECT vendor_message_id FROM inbound")
    assert sorted(row[0] or "" for row in rows) == ["", "a", "b"]


# Records that break what handles them.


def parsing(parse: Callable[[Callback, Any], Any]) -> dict[str, AccountSettings]:
    """The accounts, ThinkAPI's parser replaced."""
    think = ACCOUNTS["think"]
    gateway = dataclasses.replace(think.gateway, parse_callback=parse)
    return {**ACCOUNTS, "think": msgspec.structs.replace(think, gateway=gateway)}


def bad_report(**more: Any) -> DeliveryReport:
    good = {
        "vendor_message_id": "bad",
        "phone": PHONE,
        "status": Status.DELIVERED,
        "vendor_code": "1",
        "reported_at": SENT,
    }
    return DeliveryReport(**{**good, **more})


def bad_inbound(**more: Any) -> InboundMessage:
    return InboundMessage(**{"phone": PHONE, "content": "退订", "sent_at": SENT, **more})


def bad_review(**more: Any) -> ReviewResult:
    good = {
        "kind": ReviewKind.SIGN,
        "vendor_id": "9",
        "status": ReviewStatus.PENDING,
        "vendor_code": "0",
    }
    return ReviewResult(**{**good, **more})


INCOMPRESSIBLE = "".join(random.Random(1).choices("0123456789abcdefghijklmnopqrstuvwxyz", k=40_000))
POISON: dict[str, Any] = {
    "nothing": None,
    "no events": 7,
    "an event of no kind": Parsed(events=("x",), rows=1),  # type: ignore[arg-type]
    "NUL in an id": bad_report(vendor_message_id="a\0b"),
    "half a surrogate pair in an id": bad_report(vendor_message_id="\ud800"),
    "half a surrogate pair in a reason": bad_report(reason="\udfff"),
    "no code": bad_report(vendor_code=None),
    "a code that is no text": bad_report(vendor_code=1),
    "a status of no name": bad_report(status="delivered"),
    "a time that is none": bad_report(reported_at="soon"),
    "a time without a zone": bad_report(reported_at=datetime(2026, 10, 5)),  # noqa: DTZ001
    "a time before time": bad_report(reported_at=datetime(1, 1, 1, tzinfo=ZONE)),
    "no phone": bad_report(phone=None),
    "NUL in a text": bad_inbound(content="\0"),
    "a phone longer than an index holds": bad_inbound(phone=INCOMPRESSIBLE),
    "no content": bad_inbound(content=None),
    "a balance that is no number": Balance(kind="b", amount=Decimal("NaN")),
    "a balance that is no decimal": Balance(kind="b", amount=1.5),  # type: ignore[arg-type]
    "a balance without end": Balance(kind="b", amount=Decimal("-Infinity")),
    "a balance of more digits than there are": Balance(kind="b", amount=Decimal("1e200000")),
    "NUL in a balance's kind": Balance(kind="\0", amount=Decimal(1)),
    "a review of no kind": bad_review(kind="banner"),
    "a review's id longer than an index holds": bad_review(vendor_id=INCOMPRESSIBLE),
    "a review's status of no name": bad_review(status="maybe"),
}
ERRORS = (ValueError("13800138000"), RecursionError(), MemoryError(), AssertionError(), OSError())


def named(kind: Any) -> str:
    return kind if isinstance(kind, str) else f"parser raises {type(kind).__name__}"


@pytest.mark.parametrize("kind", [*POISON, *ERRORS], ids=named)
async def test_poisonous_record_is_quarantined_and_stops_no_other(database: Any, kind: Any) -> None:
    from gateways import thinkapi

    def parse(callback: Callback, account: Any) -> Any:
        if callback.body != b"poison":
            return thinkapi.GATEWAY.parse_callback(callback, account)
        if isinstance(kind, Exception):
            raise kind
        told = POISON[kind]
        is_event = isinstance(told, DeliveryReport | InboundMessage | ReviewResult)
        return Parsed(events=(told,), rows=1) if is_event else told

    good = [Word(number, "1", 1).push("good") for number in range(40)]
    async with database.pool(size=2) as pool:
        await register(pool, *(f"good-{number}" for number in range(40)))
        bodies = [*good[:23], b"poison", *good[23:]]
        batch, found = await stored(pool, bodies)
        async with asyncio.timeout(20):
            done = await settlement.settle(pool, parsing(parse), found, batches=[batch], now=NOW)
        assert (done.reports, done.messages, done.quarantined) == (40, 40, 1)
        row = await pool.fetchrow("SELECT digest, reason FROM quarantine")
        assert row["digest"] == record(b"poison").digest
        assert row["reason"]
        assert PHONE not in row["reason"]
        assert await pool.fetchval("SELECT settled_at FROM batches") == NOW


async def test_several_poisonous_records_are_each_found(database: Any) -> None:
    from gateways import thinkapi

    def parse(callback: Callback, account: Any) -> Any:
        if callback.body.startswith(b"poison"):
            return Parsed(events=(bad_report(vendor_message_id="a\0b"),), rows=1)
        return thinkapi.GATEWAY.parse_callback(callback, account)

    bodies = [b"poison %d" % n if n % 5 == 0 else Word(n, "1", 1).push("g") for n in range(50)]
    async with database.pool(size=2) as pool:
        done = await settle(pool, bodies, parsing(parse))
    assert (done.reports, done.quarantined) == (40, 10)


async def test_what_the_parser_did_not_understand_of_a_record_leaves_the_rest(pool: Any) -> None:
    body = (
        "<returnsms><statusbox><mobile>13800138000</mobile><taskid>1</taskid><status>10</status>"
        "</statusbox><statusbox><mobile>none</mobile><taskid>2</taskid><status>10</status>"
        "</statusbox></returnsms>"
    )
    done = await settlement.settle(
        pool, ACCOUNTS, [record(body.encode(), "sms")], batches=(), now=NOW
    )
    assert (done.reports, done.quarantined) == (1, 1)
    assert "row 2" in await pool.fetchval("SELECT reason FROM quarantine")


async def test_account_that_left_the_settings_has_its_records_quarantined(pool: Any) -> None:
    sms = {"sms": ACCOUNTS["sms"]}
    done = await settle(pool, [Word(0, "1", 1).push("a")], sms)
    assert (done.reports, done.quarantined) == (0, 1)


# Signs and templates.


@dataclass(frozen=True)
class Verdict:
    """One word on sign 9."""

    status: str
    minute: int | None
    error: str | None = None

    def push(self, id: str) -> bytes:
        at = None if self.minute is None else f"2026-10-05 09:{self.minute:02}:00"
        sign = {
            "id": id,
            "status": self.status,
            "error": self.error,
            "update_time": at,
            "name": "签",
        }
        return json.dumps({"action": "sign", "sign": sign}).encode()


REVIEW_MEANING = {"0": "pending", "1": "approved", "2": "rejected"}


def naive_review(verdicts: Sequence[Verdict]) -> str:
    """docs/lifecycle.md: the newest by the vendor's time; a decision before pending; unknown last."""
    placed = [verdict for verdict in verdicts if verdict.status in REVIEW_MEANING]
    if not placed:
        return "unknown"
    timed = [verdict.minute for verdict in placed if verdict.minute is not None]
    newest = [v for v in placed if v.minute == (max(timed) if timed else None)]
    decided = {verdict.status for verdict in newest} - {"0"}
    return REVIEW_MEANING[max(decided)] if decided else "pending"


verdicts = st.builds(
    Verdict,
    status=st.sampled_from(["0", "0", "1", "2", "5"]),
    minute=st.sampled_from([None, 1, 1, 2, 3]),
    error=st.sampled_from([None, "资质不符"]),
)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(told=st.lists(verdicts, min_size=1, max_size=6, unique=True), seed=st.integers(0, 2**32))
async def test_review_is_the_fold_of_the_set_under_every_order(
    pool: Any, told: list[Verdict], seed: int
) -> None:
    chance = random.Random(seed)
    found = []
    id = f"s{next(fresh)}"
    for way, account in enumerate(("think", "think-1", "think-2")):
        order = chance.sample(told, len(told)) + chance.choices(told, k=way)
        steps = [settle(pool, [verdict.push(id)], account=account) for verdict in order]
        if way % 2:
            await asyncio.gather(*steps)
        else:
            for step in steps:
                await step
        row = await pool.fetchrow(
            "SELECT status, vendor_code, reason, updated_at, next_poll_at IS NULL AS done"
            " FROM reviews WHERE account = $1 AND vendor_id = $2",
            account,
            id,
        )
        found.append(tuple(row))
    assert found[0][0] == naive_review(told)
    assert found == [found[0]] * 3
    assert found[0][-1] == (found[0][0] in ("approved", "rejected"))


async def test_corrected_sign_under_its_id_is_under_review_again(pool: Any) -> None:
    states = []
    for verdict in (Verdict("0", 1), Verdict("2", 2, "资质不符"), Verdict("0", 3), Verdict("1", 4)):
        await settle(pool, [verdict.push("9")])
        row = await pool.fetchrow("SELECT status, reason, next_poll_at FROM reviews")
        states.append((row["status"], row["reason"], row["next_poll_at"] is not None))
    assert states == [
        ("pending", None, True),
        ("rejected", "资质不符", False),
        ("pending", None, True),
        ("approved", None, False),
    ]
    assert await pool.fetchval("SELECT count(*) FROM review_results") == 4
