"""Group commit: callbacks that wait at the same moment share one commit, none waits for a timer.

While one commit is under way the next callbacks gather, so the group grows with the load and a lone
callback is committed at once. Three bounds hold: how much one commit takes, how much may wait, and
how long a callback may wait. Past them the vendor is told 503 and nothing is acknowledged.

A group whose commit fails, or does not come in time, goes to the spool and is acknowledged from
there; until the database is back so do all others. What is in the spool is then stored.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog
from asyncpg.exceptions import PostgresError

from receiver.settling import Settling
from receiver.spool import Contents, Level, Segment, Spool, SpoolFull
from runtime import metrics, records
from runtime.database import DATABASE_ERRORS
from runtime.queries import QUERIES
from runtime.records import Record
from runtime.settings import AccountSettings
from runtime.settlement import UNSTORABLE

log = structlog.get_logger()

GROUP_RECORDS = 512
GROUP_BYTES = 4 * 1024 * 1024
BACKLOG_BYTES = 32 * 1024 * 1024
WAIT_SECONDS = 5.0
# A commit that takes longer is not waited for: the group goes to the spool.
COMMIT_SECONDS = 1.0
# How often the spool is looked at, and the database while it is away.
LOOK_SECONDS = 0.5
DRAIN_SECONDS = 30.0
# How long a segment is left alone that cannot be drained for a reason of its own.
PUT_OFF_SECONDS = 60.0
# How long settling may go on when all that waits is stored; and with a database that hangs.
CLOSE_SECONDS = 30.0
AWAY_SECONDS = 5.0
# A full disk refuses hundreds of groups a second, and the log may be on it; the metric counts them all.
COMPLAIN_SECONDS = 1.0
# One commit at a time in each process: the next group grows meanwhile, and other processes' commits
# keep the disk busy. A second writer made groups half as large and each callback dearer.
WRITERS = 1
WATCH_SECONDS = 0.1

T = TypeVar("T")

# What tells that the database is away, full or in no state to store anything.
_AWAY: tuple[type[Exception], ...] = (*DATABASE_ERRORS, PostgresError)


class Full(Exception):
    """Too much is waiting, or waited too long: nothing was stored, the vendor must be told 503."""


class Waiter(Protocol):
    """Who waits for a record: told once what became of it, and deaf to what comes after that."""

    @property
    def answered(self) -> bool:
        """Whether it was told, or waits no longer."""
        ...

    def stored(self, new: bool | None, /) -> None:
        """Take that the record is durable: new (True), known (False), or in the spool (None)."""
        ...

    def refused(self) -> None:
        """Take that it could not be stored in time; it may yet be stored after that."""
        ...


class _Future:
    """A waiter that a task awaits."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()

    @property
    def answered(self) -> bool:
        return self.future.done()

    def stored(self, new: bool | None) -> None:
        if not self.future.done():
            self.future.set_result(new)

    def refused(self) -> None:
        if not self.future.done():
            self.future.set_exception(Full())


class _Waiting:
    """One callback on its way into the database, and everyone who waits for it."""

    __slots__ = ("arrived", "record", "size", "waiters")

    def __init__(self, record: Record, size: int, arrived: float) -> None:
        self.record = record
        self.size = size
        self.arrived = arrived
        self.waiters: list[Waiter] = []


class Ingest:
    """Stores callbacks durably in groups, then settles them.

    Use as an async context manager; leaving it stores and settles what waits.
    """

    def __init__(
        self, pool: Any, accounts: Mapping[str, AccountSettings], spool: Spool, *, recorder: str
    ) -> None:
        self._pool = pool
        self._spool = spool
        # The spool's own thread: an fsync must keep no socket waiting, nor another thread's work it.
        self._thread = ThreadPoolExecutor(1, "spool")
        self._away = False
        self._put_off: dict[str, float] = {}
        self._complain_at = 0.0
        self._recorder = recorder
        self._waiting: dict[bytes, _Waiting] = {}
        self._waiting_bytes = 0
        self._work = asyncio.Event()
        self._settling = Settling(pool, accounts)
        self._overdue_at: deque[tuple[float, Waiter]] = deque()
        self._closing = False
        self._writers: list[asyncio.Task[None]] = []
        self._watch: asyncio.Task[None] | None = None
        self._drainer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Ingest":
        self._writers = [asyncio.create_task(self._write_forever()) for _ in range(WRITERS)]
        self._settling.start()
        self._watch = asyncio.create_task(self._watch_forever())
        self._drainer = asyncio.create_task(self._drain_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._work.set()
        await asyncio.gather(*self._writers)
        assert self._watch is not None
        assert self._drainer is not None
        await self._settling.finish(AWAY_SECONDS if self._away else CLOSE_SECONDS)
        left = (self._watch, self._drainer)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._in_spool(self._spool.seal)
        self._thread.shutdown()

    @property
    def away(self) -> bool:
        """Whether callbacks go to the spool, for the database did not take the last."""
        return self._away

    async def measure(self) -> Level:
        """Return what the spool holds."""
        level = await self._in_spool(self._spool.measure)
        metrics.SPOOL_RECORDS.set(level.records)
        metrics.SPOOL_BYTES.set(level.bytes)
        metrics.SPOOL_OLDEST_SECONDS.set(level.oldest_seconds)
        return level

    async def spool_takes(self) -> bool:
        """Tell, having tried, whether the spool could take a callback."""
        return await self._in_spool(self._spool.takes)

    async def probe(self) -> bool:
        """Tell, having tried, whether the database could store a callback."""
        try:
            async with (
                asyncio.timeout(COMMIT_SECONDS),
                _connection(self._pool) as connection,
            ):
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute(QUERIES["probe"])
                await transaction.rollback()
        except _AWAY:
            return False
        return True

    async def store(self, record: Record) -> bool | None:
        """Return once `record` is durable: new (True), known (False), or in the spool (None).

        Raises `Full` when it cannot be stored in time; it may yet be stored after that.
        """
        waiter = _Future()
        self.put(record, waiter)
        return await waiter.future

    def put(self, record: Record, waiter: Waiter) -> None:
        """Have `record` stored with the next group, and `waiter` told, later, what became of it.

        Raises `Full` when too much waits already.
        """
        now = time.monotonic()
        waiting = self._waiting.get(record.digest)
        if waiting is None:
            size = record.size
            if self._closing or self._waiting_bytes + size > BACKLOG_BYTES:
                raise Full
            waiting = self._waiting[record.digest] = _Waiting(record, size, now)
            self._waiting_bytes += size
            self._work.set()
        else:
            waiting.record.deliveries += 1
        waiting.waiters.append(waiter)
        self._overdue_at.append((now + WAIT_SECONDS, waiter))

    async def _write_forever(self) -> None:
        while True:
            if self._waiting:
                # What the sockets hold at this moment still joins; no timer is waited for.
                seen = 0
                while seen < len(self._waiting) < GROUP_RECORDS:
                    seen = len(self._waiting)
                    await asyncio.sleep(0)
                if self._waiting:
                    await self._write(self._take_group())
            elif self._closing:
                return
            else:
                self._work.clear()
                await self._work.wait()

    def _take_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        for waiting in self._waiting.values():
            if group and (len(group) == GROUP_RECORDS or size + waiting.size > GROUP_BYTES):
                break
            group.append(waiting)
            size += waiting.size
        for waiting in group:
            del self._waiting[waiting.record.digest]
        self._waiting_bytes -= size
        metrics.BACKLOG_BYTES.set(self._waiting_bytes)
        return group

    async def _write(self, group: list[_Waiting]) -> None:
        found = [waiting.record for waiting in group]
        # Whether the database may have them all the same. Draining tells by the time of arrival, so
        # no other arrival of the same bytes may be in the segment with them.
        tried = not self._away
        if tried:
            reading = self._settling.expect(found)
            try:
                async with asyncio.timeout(COMMIT_SECONDS):
                    batch, fresh = await self._store(found)
            except Exception as error:
                # Whatever it was, the callbacks are durable by the other way, and this writer lives.
                self._not_committed(group, error)
            else:
                if self._settling.pass_on(batch, fresh, reading):
                    await asyncio.sleep(0)  # PostgreSQL has work before this process has
                self._committed(group, fresh)
                if log.is_enabled_for(logging.DEBUG):
                    new = {record.digest for record in fresh}
                    log.debug(
                        "callbacks.recorded",
                        batch=batch,
                        records=_named(fresh),
                        known=_named(record for record in found if record.digest not in new),
                    )
                return
        try:
            await self._in_spool(partial(self._spool.append, found, alone=tried))
        except Exception as error:
            if not isinstance(error, SpoolFull | OSError):
                log.exception("callbacks.not_recorded", count=len(group))
            elif time.monotonic() >= self._complain_at:
                log.error("callbacks.not_recorded", count=len(group), error=str(error) or "full")
                self._complain_at = time.monotonic() + COMPLAIN_SECONDS
            for waiting in group:
                for waiter in waiting.waiters:
                    waiter.refused()
            return
        metrics.SPOOLED.inc(len(group))
        if log.is_enabled_for(logging.DEBUG):
            log.debug("callbacks.spooled", records=_named(found))
        counts: Counter[str] = Counter()
        for waiting in group:
            counts[waiting.record.account] += len(waiting.waiters)
            for waiter in waiting.waiters:
                waiter.stored(None)
        for account, count in counts.items():
            metrics.CALLBACKS.labels(account, "spooled").inc(count)

    def _not_committed(self, group: list[_Waiting], error: Exception) -> None:
        if isinstance(error, UNSTORABLE):
            # One record is to blame: draining finds it, and the others get through.
            log.error("callbacks.not_committed", count=len(group), error=type(error).__name__)
        elif isinstance(error, _AWAY):
            log.error("database.away", error=type(error).__name__)
            self._away = True
            metrics.DATABASE_AWAY.labels("receiver").set(1)
        else:
            log.exception("callbacks.not_committed", count=len(group))

    def _committed(self, group: list[_Waiting], fresh: list[Record]) -> None:
        new = {record.digest for record in fresh}
        committed = time.monotonic()
        # Counted by the group, of whose waits the longest is the first one's.
        metrics.BATCH_RECORDS.observe(len(group))
        metrics.COMMIT_SECONDS.observe(committed - group[0].arrived)
        recorded: defaultdict[str, int] = defaultdict(int)
        duplicate: defaultdict[str, int] = defaultdict(int)
        for waiting in group:
            account = waiting.record.account
            first = waiting.record.digest in new
            if first:
                recorded[account] += 1
            for waiter in waiting.waiters:
                waiter.stored(first)
                first = False
            if repeated := len(waiting.waiters) - (waiting.record.digest in new):
                duplicate[account] += repeated
        for outcome, counts in (("recorded", recorded), ("duplicate", duplicate)):
            for account, count in counts.items():
                metrics.CALLBACKS.labels(account, outcome).inc(count)

    async def _store(self, found: list[Record], *, again: bool = False) -> tuple[int, list[Record]]:
        async with _connection(self._pool) as connection:
            return await records.store(
                connection, found, recorder=self._recorder, now=datetime.now(UTC), again=again
            )

    async def _watch_forever(self) -> None:
        """Refuse what has waited too long: one look for all, where a timer each would cost more."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            waiting = self._overdue_at
            while waiting and (waiting[0][1].answered or waiting[0][0] <= now):
                _, waiter = waiting.popleft()
                waiter.refused()

    async def _drain_forever(self) -> None:
        while not self._closing:
            try:
                await self._look()
            except Exception:
                log.exception("spool.not_drained")
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        """Drain the spool as far as it goes, if the database is there."""
        away = self._away
        there = not away or await self.probe()
        try:
            # After the probe: by now the group that the database did not take is in the spool.
            level = await self.measure()
            if there and level.bytes:
                there = await self._drain_all()
        except OSError as error:
            # The spool's disk fails: that must not keep callbacks from a database that is there.
            log.error("spool.not_readable", error=str(error))
        if away and there:
            self._back()

    async def _drain_all(self) -> bool:
        """Drain what can be claimed; tell whether the database took it."""
        await self._in_spool(self._spool.seal)
        now = time.monotonic()
        self._put_off = {name: until for name, until in self._put_off.items() if until > now}
        while not self._closing:
            segment = await self._claim()
            if segment is None:
                break
            try:
                count = await self._drain(segment)
            except _AWAY as error:
                # A complaint that no outage explains, of a server that takes other things, is about
                # this segment: those behind it, and all that comes, must not wait with it.
                if isinstance(error, DATABASE_ERRORS) or not await self.probe():
                    log.warning("spool.draining_postponed", error=type(error).__name__)
                    return False
                self._put_off_now(segment)
            except _PutOff:
                self._put_off_now(segment)
            else:
                log.info("spool.drained", segment=segment.path.name, records=count)
                self._back()
                await self.measure()
        return True

    async def _claim(self) -> Segment | None:
        """Claim a segment to drain; one that is found while this is cancelled is let go again."""
        claiming = self._start(self._spool.claim, self._put_off.keys())
        try:
            return await _whole(claiming)
        except asyncio.CancelledError:
            claiming.add_done_callback(_let_go)
            raise

    def _put_off_now(self, segment: Segment) -> None:
        """Leave a segment alone for a while; call it while its exception is handled."""
        log.exception("spool.segment_put_off", segment=segment.path.name)
        self._put_off[segment.path.name] = time.monotonic() + PUT_OFF_SECONDS

    def _back(self) -> None:
        if self._away:
            log.info("database.back")
            self._away = False
            metrics.DATABASE_AWAY.labels("receiver").set(0)

    async def _drain(self, segment: Segment) -> int:
        """Store what is in `segment`, remove it, and return how many records it had.

        Raises one of `_AWAY`, and `_PutOff` for all else; then it stays.
        """
        try:
            contents = await self._read(segment)
            arrivals: dict[bytes, Record] = {}
            for record in contents.records:
                first = arrivals.setdefault(record.digest, record)
                if first is not record:
                    first.deliveries += record.deliveries
            try:
                refused = await self._store_again(list(arrivals.values()))
            except _AWAY:
                raise
            except Exception as error:
                raise _PutOff from error
            await self._finish(segment, contents, refused)
        except BaseException:
            segment.release()
            raise
        metrics.SPOOL_DRAINED.inc(len(contents.records) - len(refused))
        return len(contents.records)

    async def _read(self, segment: Segment) -> Contents:
        try:
            contents = await _in_thread(segment.read)
        except OSError as error:
            raise _PutOff from error
        metrics.SPOOL_SET_ASIDE.inc(len(contents.damaged))
        return contents

    async def _store_again(self, found: list[Record]) -> set[bytes]:
        """Store `found`, of which some may have been stored; return the digests of the unstorable."""
        if not found:
            return set()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                batch, fresh = await self._store(found, again=True)
        except UNSTORABLE as error:
            if len(found) == 1:
                digest = found[0].digest
                log.error("record.not_storable", digest=digest.hex(), error=type(error).__name__)
                return {digest}
        else:
            self._settling.pass_on(batch, fresh)
            if log.is_enabled_for(logging.DEBUG):
                log.debug("callbacks.drained", batch=batch, records=_named(found))
            return set()
        middle = len(found) // 2
        return await self._store_again(found[:middle]) | await self._store_again(found[middle:])

    async def _finish(self, segment: Segment, contents: Contents, refused: set[bytes]) -> None:
        try:
            for record, (begin, end) in zip(contents.records, contents.frames, strict=True):
                if record.digest in refused:
                    await _in_thread(segment.set_aside, begin, end)
                    metrics.SPOOL_SET_ASIDE.inc()
            await _in_thread(segment.remove)
        except OSError as error:
            raise _PutOff from error

    async def _in_spool(self, call: Callable[..., T], *arguments: Any) -> T:
        return await _whole(self._start(call, *arguments))

    def _start(self, call: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


def _let_go(claiming: asyncio.Future[Segment | None]) -> None:
    if not claiming.cancelled() and claiming.exception() is None and (found := claiming.result()):
        found.release()


def _named(found: Iterable[Record]) -> list[str]:
    return [record.digest.hex() for record in found]


class _PutOff(Exception):
    """A segment cannot be drained now, and the database is not to blame."""


@asynccontextmanager
async def _connection(pool: Any) -> AsyncIterator[Any]:
    """Take a connection of `pool`; one on which something is cancelled is dropped, not waited for.

    The pool would wait until the server has heard of it, and for seconds where that hangs.
    """
    connection = await pool.acquire()
    try:
        yield connection
    except asyncio.CancelledError:
        connection.terminate()
        raise
    finally:
        await pool.release(connection)


async def _in_thread(call: Callable[..., T], *arguments: Any) -> T:
    return await _whole(asyncio.ensure_future(asyncio.to_thread(call, *arguments)))


async def _whole(work: asyncio.Future[T]) -> T:
    """Await what a thread does, to its end also when cancelled: files must not be closed under it."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise
