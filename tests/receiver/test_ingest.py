"""Group commit and what follows it, its bounds, and what happens when something in it fails."""

import asyncio
import errno
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import databases
import pytest
from by_hand import report
from receivers import SETTINGS

from gateways.gateway import Callback
from receiver import ingest, settling
from receiver.ingest import Full, Ingest
from receiver.spool import Level, Segment, Spool, SpoolFull
from runtime import metrics, records, settlement, understanding
from runtime.records import Record
from runtime.settings import parse

pytestmark = pytest.mark.anyio

ACCOUNTS = parse(SETTINGS.format(receiver=""), Path("huizhi.toml"), {}).accounts


def push(body: bytes) -> Record:
    callback = Callback(method="POST", query=b"", headers={}, body=body)
    return records.of_callback("think", callback, received_at=datetime.now(UTC), peer="::1")


def pushes(count: int, start: int = 0) -> list[Record]:
    return [push(report(str(number))) for number in range(start, start + count)]


Taking = Callable[[Any], Ingest]


@pytest.fixture
def taking(tmp_path: Path) -> Taking:
    """Make what takes callbacks; all that a test makes share a spool."""

    def taking(pool: Any) -> Ingest:
        spool = Spool(tmp_path / "spool", 1_000_000)
        spool.prepare()
        return Ingest(pool, ACCOUNTS, spool, recorder="here:1")

    return taking


async def until(true: Callable[[], Awaitable[Any]], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.01)


async def count(pool: Any, what: str) -> int:
    found: int = await pool.fetchval(f"SELECT count(*) FROM {what}")
    return found


class Lock:
    """Holds what commits need, until released."""

    def __init__(self, pool: Any, connection: Any, table: str = "records") -> None:
        self._pool = pool
        self._connection = connection
        self._table = table
        self._transaction = connection.transaction()

    async def __aenter__(self) -> "Lock":
        await self._transaction.start()
        await self._connection.execute(f"LOCK TABLE {self._table} IN SHARE MODE")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transaction.rollback()

    async def met(self, sessions: int = 1) -> None:
        """Wait until so many sessions stand before it."""

        async def there() -> bool:
            waiting: int = await self._pool.fetchval(databases.WAITING, None)
            return waiting >= sessions

        await until(there)


async def test_lone_callback_waits_for_no_other(pool: Any, taking: Taking) -> None:
    async with taking(pool) as taken:
        for number in range(20):
            assert await taken.store(push(report(str(number)))) is True
    assert await count(pool, "batches") == 20


async def test_callbacks_that_come_during_a_commit_share_the_next(
    pool: Any, taking: Taking, connection: Any
) -> None:
    async with taking(pool) as taken:
        async with Lock(pool, connection) as lock:
            first = [asyncio.create_task(taken.store(record)) for record in pushes(1)]
            await lock.met()
            first += [asyncio.create_task(taken.store(record)) for record in pushes(1, 1)]
            await lock.met(ingest.WRITERS)
            rest = [asyncio.create_task(taken.store(record)) for record in pushes(300, 2)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in first + rest)
        assert all(await asyncio.gather(*first, *rest))
    assert await count(pool, "batches") == ingest.WRITERS + 1
    assert await count(pool, "records") == 302


async def test_one_of_many_copies_is_the_new_one(pool: Any, taking: Taking) -> None:
    async with taking(pool) as taken:
        new = await asyncio.gather(*(taken.store(push(report("1"))) for _ in range(50)))
        assert sorted(new) == [False] * 49 + [True]
        assert await taken.store(push(report("1"))) is False
    assert await pool.fetchval("SELECT deliveries FROM records") == 51


async def test_leaving_stores_and_settles_what_waits(pool: Any, taking: Taking) -> None:
    async with taking(pool) as taken:
        tasks = [asyncio.create_task(taken.store(record)) for record in pushes(200)]
        await asyncio.sleep(0)
    assert all(await asyncio.gather(*tasks))
    assert await count(pool, "reports") == 200
    assert await count(pool, "batches WHERE settled_at IS NULL") == 0
    with pytest.raises(Full):
        await taken.store(push(b"late"))


async def test_too_much_waiting_is_refused_and_memory_stays_bounded(
    pool: Any, taking: Taking, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BACKLOG_BYTES", 20_000)
    async with taking(pool) as taken:
        async with Lock(pool, connection) as lock:
            tasks = [asyncio.create_task(taken.store(record)) for record in pushes(1)]
            await lock.met()
            tasks += [asyncio.create_task(taken.store(record)) for record in pushes(200, 1)]
            await asyncio.sleep(0)
            refused = [task for task in tasks if task.done()]
            assert all(isinstance(task.exception(), Full) for task in refused)
            assert len(refused) > 150
        stored = [task for task in tasks if task not in refused]
        assert all(await asyncio.gather(*stored))
        assert await taken.store(push(b"after")) is True
    assert await count(pool, "records") == len(stored) + 1


async def test_commit_that_hangs_is_spooled_within_the_bound_and_counted_once(
    pool: Any, connection: Any, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with taking(pool) as taken:
        async with Lock(pool, connection) as lock:
            begun = time.monotonic()
            first = [asyncio.create_task(taken.store(record)) for record in pushes(10)]
            await lock.met()
            # Some wait for the group that hangs, and some of them push what is in it.
            first += [asyncio.create_task(taken.store(record)) for record in pushes(10, 5)]
            assert await asyncio.gather(*first) == [None] * 20
            assert time.monotonic() - begun < 15
            assert taken.away
            # From now on nobody waits for a commit.
            monkeypatch.setattr(ingest, "COMMIT_SECONDS", 60.0)
            begun = time.monotonic()
            assert await taken.store(push(report("20"))) is None
            assert time.monotonic() - begun < 30
            assert (await taken.measure()).records == 21

        # What hung is now committed, or not: drained, it is there once, and counted once.
        async def drained() -> bool:
            return not (await taken.measure()).bytes and not taken.away

        await until(drained)
        assert await taken.store(push(report("21"))) is True
    found = await pool.fetch("SELECT body, deliveries FROM records")
    counted = {json.loads(row["body"])["sms"]["id"]: row["deliveries"] for row in found}
    once = dict.fromkeys(map(str, [*range(15), 20, 21]), 1)
    assert counted == once | {str(number): 2 for number in range(5, 10)}
    assert await count(pool, "reports") == 17


async def test_arrival_stored_before_is_drained_without_being_counted_again(
    pool: Any, taking: Taking, tmp_path: Path
) -> None:
    new, known = push(report("new")), push(report("known"))
    async with pool.acquire() as connection:
        await records.store(connection, [known], recorder="dead:1", now=datetime.now(UTC))
        again = push(report("known"))
        # Both committed, but nobody was told so: they are in the spool as well, one of them twice.
        await records.store(connection, [new, again], recorder="dead:1", now=datetime.now(UTC))
    left = Spool(tmp_path / "spool", 1_000_000)
    left.prepare()
    left.append([new, again])
    left.append([new])
    left.seal()
    async with taking(pool) as taken:

        async def drained() -> bool:
            return not (await taken.measure()).bytes

        await until(drained)
    found = await pool.fetch("SELECT body, deliveries FROM records")
    counted = {json.loads(row["body"])["sms"]["id"]: row["deliveries"] for row in found}
    assert counted == {"new": 1, "known": 2}


async def test_record_that_no_database_takes_is_set_aside_and_the_others_get_through(
    pool: Any, taking: Taking, tmp_path: Path
) -> None:
    bad = push(report("bad"))
    bad.peer = "no text\0in PostgreSQL"
    aside = metrics.SPOOL_SET_ASIDE._value.get()
    async with taking(pool) as taken:
        told = await asyncio.gather(*(taken.store(record) for record in [*pushes(9), bad]))
        assert told == [None] * 10
        assert not taken.away

        async def drained() -> bool:
            return not (await taken.measure()).bytes

        await until(drained)
        assert await taken.store(push(report("9"))) is True
    assert await count(pool, "records") == 10
    assert await count(pool, "reports") == 10
    (kept,) = (tmp_path / "spool" / "set-aside").iterdir()
    assert b"no text" in kept.read_bytes()
    assert metrics.SPOOL_SET_ASIDE._value.get() == aside + 1


async def test_segment_that_a_well_server_refuses_holds_up_nothing(
    pool: Any, taking: Taking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "PUT_OFF_SECONDS", 0.3)
    # As of a damaged index: the server's own fault, met by this record each time.
    await pool.execute(
        "CREATE FUNCTION damaged() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN RAISE 'damaged' USING ERRCODE = 'XX001'; END $$;"
        "CREATE TRIGGER damaged BEFORE INSERT ON records FOR EACH ROW"
        " WHEN (position('poison' IN encode(new.body, 'escape')) > 0) EXECUTE FUNCTION damaged()"
    )
    async with taking(pool) as taken:
        assert await taken.store(push(report("poison"))) is None
        assert await taken.store(push(report("beside"))) is None

        async def the_others_are_there() -> bool:
            return await count(pool, "records") == 1 and not taken.away

        await until(the_others_are_there)
        assert await taken.store(push(report("after"))) is True
        assert (await taken.measure()).records == 1
        await pool.execute("DROP TRIGGER damaged ON records")

        async def drained() -> bool:
            return not (await taken.measure()).bytes

        await until(drained)
    assert await count(pool, "records") == 3


async def test_segment_that_cannot_be_removed_is_put_off_and_holds_up_nothing(
    pool: Any, taking: Taking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "PUT_OFF_SECONDS", 0.1)
    left = Spool(tmp_path / "spool", 1_000_000)
    left.prepare()
    for record in pushes(3):
        left.append([record])
        left.seal()
    failures = [OSError(errno.EROFS, "Read-only file system"), OSError(errno.EIO, "")]
    remove = Segment.remove

    def failing(segment: Segment) -> None:
        if failures:
            raise failures.pop()
        remove(segment)

    monkeypatch.setattr(Segment, "remove", failing)
    async with taking(pool) as taken:

        async def drained() -> bool:
            return not (await taken.measure()).bytes

        await until(drained)
    assert failures == []
    assert await count(pool, "records") == 3
    assert await pool.fetchval("SELECT max(deliveries) FROM records") == 1


async def test_nobody_waits_for_longer_than_the_bound_for_a_disk_that_hangs(
    pool: Any, connection: Any, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "WAIT_SECONDS", 1.5)
    append = Spool.append
    goes_on = threading.Event()

    def hanging(spool: Spool, found: list[Record], **more: bool) -> None:
        goes_on.wait(15)
        append(spool, found, **more)

    monkeypatch.setattr(Spool, "append", hanging)
    async with taking(pool) as taken:
        async with Lock(pool, connection):
            begun = time.monotonic()
            told = await asyncio.gather(
                *(taken.store(record) for record in pushes(10)), return_exceptions=True
            )
            assert time.monotonic() - begun < 12
            assert all(isinstance(error, Full) for error in told)
            goes_on.set()

        async def drained() -> bool:
            return not taken.away and not (await taken.measure()).bytes

        await until(drained)
        assert await taken.store(push(report("10"))) is True
    assert await count(pool, "records") == 11


async def test_spool_that_cannot_be_read_keeps_nobody_from_a_database_that_is_there(
    pool: Any, connection: Any, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: Spool) -> Level:
        raise OSError(errno.EIO, "Input/output error")

    async with taking(pool) as taken:
        async with Lock(pool, connection):
            assert await taken.store(push(report("1"))) is None
            monkeypatch.setattr(Spool, "measure", gone)

        async def back() -> bool:
            return not taken.away

        await until(back)
        assert await taken.store(push(report("2"))) is True


async def test_without_database_and_spool_callbacks_are_refused(
    pool: Any, connection: Any, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with taking(pool) as taken, Lock(pool, connection):
        with monkeypatch.context() as patched:
            patched.setattr(Spool, "append", full)
            begun = time.monotonic()
            with pytest.raises(Full):
                await taken.store(push(report("1")))
            assert time.monotonic() - begun < 15
        assert await taken.store(push(report("2"))) is None
    async with taking(pool) as taken:

        async def drained() -> bool:
            return not (await taken.measure()).bytes

        await until(drained)
    assert await count(pool, "records WHERE body LIKE '%\"2\"%'") == 1


@pytest.mark.parametrize("owner", [Spool, Segment])
async def test_closing_while_a_segment_is_claimed_or_removed_lets_go_of_it_once(
    pool: Any,
    connection: Any,
    taking: Taking,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    owner: type,
) -> None:
    name = {Spool: "claim", Segment: "remove"}[owner]
    call = getattr(owner, name)
    there, goes_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    other: list[int] = []

    def held(it: Any, *arguments: Any) -> Any:
        found = call(it, *arguments)
        if found is not None or owner is Segment:
            # It is given the number of a file that was closed, if one was.
            other.append(os.open(tmp_path, os.O_RDONLY))
            loop.call_soon_threadsafe(there.set)
            goes_on.wait(15)
        return found

    async def cancelled() -> bool:
        return any(
            getattr(task.get_coro(), "__name__", "") == "_drain_forever" and task.cancelling()
            for task in asyncio.all_tasks()
        )

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, held)
        first = await taking(pool).__aenter__()
        async with Lock(pool, connection):
            assert await first.store(push(report("1"))) is None
        await asyncio.wait_for(there.wait(), 15)
        closing = asyncio.create_task(first.__aexit__(None, None, None))
        await until(cancelled)
        goes_on.set()
        await closing
    os.close(other.pop())
    async with taking(pool) as taken:

        async def drained() -> bool:
            return not (await taken.measure()).bytes

        await until(drained)
    assert await count(pool, "records") == 1


def full(_: Spool, __: list[Record], **___: bool) -> None:
    raise SpoolFull


async def test_group_that_fails_for_whatever_reason_is_spooled_and_leaves_the_writers_at_work(
    pool: Any, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = records.store
    failures = [ValueError("a"), KeyError("b"), RecursionError(), ValueError("c")]

    async def failing(*arguments: Any, **more: Any) -> Any:
        # Draining must not take the failures that are for the writers.
        if failures and not more.get("again"):
            raise failures.pop()
        return await store(*arguments, **more)

    monkeypatch.setattr(records, "store", failing)
    async with taking(pool) as taken:
        for record in pushes(4):
            assert await taken.store(record) is None
        assert not taken.away
        assert await taken.store(push(report("5"))) is True

        async def drained() -> bool:
            return await count(pool, "records") == 5

        await until(drained)


async def test_settlement_that_fails_is_taken_up_again(
    pool: Any, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(settling, "LEFT_BEHIND_SECONDS", 0.05)
    settle = settlement.settle
    failures = [ValueError("a"), OSError("b"), ValueError("c"), ValueError("d")]

    async def failing(*arguments: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return await settle(*arguments, **more)

    monkeypatch.setattr(settlement, "settle", failing)
    async with taking(pool) as taken:
        assert await taken.store(push(report("1"))) is True

        async def settled() -> bool:
            return await count(pool, "batches WHERE settled_at IS NULL") == 0

        await until(settled)
        assert await taken.store(push(report("2"))) is True
    assert failures == []
    assert await count(pool, "reports") == 2


async def test_a_batch_that_is_settled_in_parts_is_settled_when_its_last_part_is(
    pool: Any, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "SETTLE_BYTES", 1)
    settle = settlement.settle
    parts: list[tuple[int, bool]] = []

    async def watched(pool: Any, accounts: Any, found: Any, **more: Any) -> Any:
        open_before = await count(pool, "batches WHERE settled_at IS NULL")
        parts.append((len(found), open_before > 0))
        return await settle(pool, accounts, found, **more)

    monkeypatch.setattr(settlement, "settle", watched)
    async with taking(pool) as taken:
        stored = [taken.store(record) for record in pushes(5)]
        assert await asyncio.gather(*stored) == [True] * 5
    assert parts == [(1, True)] * 5
    assert await count(pool, "reports") == 5
    assert await count(pool, "batches WHERE settled_at IS NULL") == 0


async def test_enough_records_are_settled_at_once_and_fewer_wait_for_more(
    pool: Any, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "GATHER_SECONDS", 3600.0)
    async with taking(pool) as taken:
        many = pushes(settling.ENOUGH_RECORDS)
        await asyncio.gather(*(taken.store(record) for record in many))

        async def settled() -> bool:
            return await count(pool, "batches WHERE settled_at IS NULL") == 0

        await until(settled)
        assert await taken.store(push(report("another"))) is True
        assert not await settled()
    assert await settled()
    assert await count(pool, "reports") == len(many) + 1


async def test_records_are_parsed_while_they_are_committed_and_not_again(
    pool: Any, taking: Taking, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    understand = understanding.understand
    parsed: list[Record] = []

    def watched(accounts: Any, found: Any, **more: Any) -> Any:
        parsed.extend(found)
        return understand(accounts, found, **more)

    monkeypatch.setattr(understanding, "understand", watched)
    monkeypatch.setattr(ingest, "COMMIT_SECONDS", 60.0)
    async with taking(pool) as taken:
        async with Lock(pool, connection) as lock:
            stored = [asyncio.create_task(taken.store(record)) for record in pushes(100)]
            await lock.met()

            async def all_are_parsed() -> bool:
                return len(parsed) == 100

            await until(all_are_parsed)
        assert await asyncio.gather(*stored) == [True] * 100
        assert await taken.store(push(report("alone"))) is True
    assert len(parsed) == 101
    assert await count(pool, "reports") == 101
    assert await count(pool, "batches WHERE settled_at IS NULL") == 0


async def test_of_a_group_only_what_is_new_is_settled(
    pool: Any, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = settlement.settle
    settled: list[set[bytes]] = []

    async def watched(pool: Any, accounts: Any, found: Any, **more: Any) -> Any:
        settled.append({record.digest for record in found})
        return await settle(pool, accounts, found, **more)

    monkeypatch.setattr(settlement, "settle", watched)
    for records_ in (pushes(3), pushes(5)):
        async with taking(pool) as taken:
            await asyncio.gather(*(taken.store(record) for record in records_))
    known = {record.digest for record in pushes(3)}
    assert settled == [known, {record.digest for record in pushes(5)} - known]
    assert await count(pool, "reports") == 5


async def test_what_settling_cannot_hold_in_memory_it_reads_again_from_the_database(
    pool: Any, taking: Taking, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(settling, "LEFT_BEHIND_SECONDS", 0.05)
    monkeypatch.setattr(settling, "SETTLE_BACKLOG_BYTES", 5_000)
    async with taking(pool) as taken:
        async with Lock(pool, connection, "reports") as lock:
            for record in pushes(30):
                assert await taken.store(record) is True
            await lock.met()

        async def settled() -> bool:
            return await count(pool, "batches WHERE settled_at IS NULL") == 0

        await until(settled)
    assert await count(pool, "reports") == 30


async def test_many_batches_left_behind_are_all_taken_up_in_one_sweep(
    database: Any, pool: Any, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool.acquire() as connection:
        for record in pushes(60):
            await records.store(
                connection, [record], recorder="dead:1", now=datetime(2026, 10, 1, tzinfo=UTC)
            )
    sweeps = 0
    left = -1
    sleep = asyncio.sleep

    async def watched(seconds: float) -> None:
        nonlocal sweeps, left
        if seconds == 0.05:
            sweeps += 1
            if sweeps == 2:
                left = await count(pool, "batches WHERE settled_at IS NULL")
        await sleep(seconds)

    monkeypatch.setattr(settling, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(ingest.asyncio, "sleep", watched)
    # And with the one connection that writers and settler need as well.
    async with database.pool(size=1) as small, taking(small), asyncio.timeout(15):
        while left < 0:
            await sleep(0.01)
    assert left == 0
    assert await count(pool, "reports") == 60
