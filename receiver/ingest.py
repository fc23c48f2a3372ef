"""Group commit: callbacks that wait at the same moment share one commit, none waits for a timer.

While one commit is under way the next callbacks gather, so the group grows with the load and a lone
callback is committed at once. Three bounds hold: how much one commit takes, how much may wait, and
how long a callback may wait. Past them the vendor is told 503 and nothing is acknowledged.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import structlog

from runtime import metrics, records, settlement
from runtime.database import DATABASE_ERRORS
from runtime.records import Record
from runtime.settings import AccountSettings

log = structlog.get_logger()

GROUP_RECORDS = 512
GROUP_BYTES = 4 * 1024 * 1024
BACKLOG_BYTES = 32 * 1024 * 1024
WAIT_SECONDS = 5.0
# One commit at a time in each process: the next group grows meanwhile, and other processes' commits
# keep the disk busy. A second writer made groups half as large and each callback dearer.
WRITERS = 1
SETTLE_RECORDS = 2048
SETTLE_BACKLOG_BYTES = 16 * 1024 * 1024
GATHER_SECONDS = 0.05
WATCH_SECONDS = 0.1
# Batches unsettled for longer were left behind by a dead or overloaded process.
LEFT_BEHIND_SECONDS = 10.0
SWEEP_SECONDS = 5.0


class Full(Exception):
    """Too much is waiting, or waited too long: nothing was stored, the vendor must be told 503."""


class Waiter(Protocol):
    """Who waits for a record: told once what became of it, and deaf to what comes after that."""

    @property
    def answered(self) -> bool:
        """Whether it was told, or waits no longer."""
        ...

    def stored(self, new: bool, /) -> None:
        """Take that the record is committed: True if it is new, False if it was known."""
        ...

    def refused(self) -> None:
        """Take that it could not be stored in time; it may yet be stored after that."""
        ...


class _Future:
    """A waiter that a task awaits."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @property
    def answered(self) -> bool:
        return self.future.done()

    def stored(self, new: bool) -> None:
        if not self.future.done():
            self.future.set_result(new)

    def refused(self) -> None:
        if not self.future.done():
            self.future.set_exception(Full())


class _Waiting:
    """One callback on its way into the database, and everyone who waits for it."""

    __slots__ = ("arrived", "record", "waiters")

    def __init__(self, record: Record, arrived: float) -> None:
        self.record = record
        self.arrived = arrived
        self.waiters: list[Waiter] = []


class Ingest:
    """Stores callbacks durably in groups, then settles them.

    Use as an async context manager; leaving it stores and settles what waits.
    """

    def __init__(
        self, pool: Any, accounts: Mapping[str, AccountSettings], *, recorder: str
    ) -> None:
        self._pool = pool
        self._accounts = accounts
        self._recorder = recorder
        self._waiting: dict[bytes, _Waiting] = {}
        self._waiting_bytes = 0
        self._work = asyncio.Event()
        self._unsettled: deque[tuple[int, list[Record]]] = deque()
        self._unsettled_bytes = 0
        self._to_settle = asyncio.Event()
        self._overdue_at: deque[tuple[float, Waiter]] = deque()
        self._closing = False
        self._writers: list[asyncio.Task[None]] = []
        self._settler: asyncio.Task[None] | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Ingest":
        self._writers = [asyncio.create_task(self._write_forever()) for _ in range(WRITERS)]
        self._settler = asyncio.create_task(self._settle_forever())
        self._sweeper = asyncio.create_task(self._sweep_forever())
        self._watch = asyncio.create_task(self._watch_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._work.set()
        await asyncio.gather(*self._writers)
        self._to_settle.set()
        assert self._settler is not None
        assert self._sweeper is not None
        assert self._watch is not None
        await self._settler
        self._sweeper.cancel()
        self._watch.cancel()
        await asyncio.gather(self._sweeper, self._watch, return_exceptions=True)

    async def store(self, record: Record) -> bool:
        """Return once `record` is committed: True if it is new, False if it was known.

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
            if self._closing or self._waiting_bytes + record.size > BACKLOG_BYTES:
                raise Full
            waiting = self._waiting[record.digest] = _Waiting(record, now)
            self._waiting_bytes += record.size
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
            if group and (len(group) == GROUP_RECORDS or size + waiting.record.size > GROUP_BYTES):
                break
            group.append(waiting)
            size += waiting.record.size
        for waiting in group:
            del self._waiting[waiting.record.digest]
        self._waiting_bytes -= size
        metrics.BACKLOG_BYTES.set(self._waiting_bytes)
        return group

    async def _write(self, group: list[_Waiting]) -> None:
        found = [waiting.record for waiting in group]
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                batch, fresh = await self._store(found)
        except Exception as error:
            # Whatever it was, the next group must find this writer alive.
            if isinstance(error, DATABASE_ERRORS):
                log.error("callbacks.not_recorded", count=len(group), error=type(error).__name__)
            else:
                log.exception("callbacks.not_recorded", count=len(group))
            for waiting in group:
                for waiter in waiting.waiters:
                    waiter.refused()
            return
        new = {record.digest for record in fresh}
        committed = time.monotonic()
        # Counted by the group, of whose waits the longest is the first one's.
        metrics.BATCH_RECORDS.observe(len(group))
        metrics.COMMIT_SECONDS.observe(committed - group[0].arrived)
        counts: Counter[tuple[str, str]] = Counter()
        for waiting in group:
            first = waiting.record.digest in new
            for waiter in waiting.waiters:
                counts[waiting.record.account, "recorded" if first else "duplicate"] += 1
                waiter.stored(first)
                first = False
        for (account, outcome), count in counts.items():
            metrics.CALLBACKS.labels(account, outcome).inc(count)
        self._pass_on(batch, fresh)

    async def _store(self, found: list[Record]) -> tuple[int, list[Record]]:
        """Store `found`, trying again while the server restarts; digests make that harmless."""
        while True:
            try:
                async with self._pool.acquire() as connection:
                    return await records.store(
                        connection, found, recorder=self._recorder, now=datetime.now(UTC)
                    )
            except DATABASE_ERRORS as error:
                log.warning("callbacks.record_again", error=type(error).__name__)
                await asyncio.sleep(0.1)

    def _pass_on(self, batch: int, fresh: list[Record]) -> None:
        size = sum(record.size for record in fresh)
        if self._unsettled_bytes + size > SETTLE_BACKLOG_BYTES:
            # The sweep reads these from the database when their time comes: memory stays bounded.
            log.warning("settlement.behind", batch=batch, records=len(fresh))
            return
        self._unsettled.append((batch, fresh))
        self._unsettled_bytes += size
        self._to_settle.set()

    async def _watch_forever(self) -> None:
        """Refuse what has waited too long: one look for all, where a timer each would cost more."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            waiting = self._overdue_at
            while waiting and (waiting[0][1].answered or waiting[0][0] <= now):
                _, waiter = waiting.popleft()
                waiter.refused()

    async def _settle_forever(self) -> None:
        while True:
            await self._to_settle.wait()
            if not self._closing:
                # Under load the next commits join in: two transactions settle many as quickly as few.
                await asyncio.sleep(GATHER_SECONDS)
            self._to_settle.clear()
            while self._unsettled:
                batches: list[int] = []
                found: list[Record] = []
                while self._unsettled and len(found) < SETTLE_RECORDS:
                    batch, fresh = self._unsettled.popleft()
                    batches.append(batch)
                    found.extend(fresh)
                try:
                    await _settle(self._pool, self._accounts, found, batches)
                except DATABASE_ERRORS as error:
                    log.warning(
                        "settlement.postponed", batches=len(batches), error=type(error).__name__
                    )
                except Exception:
                    log.exception("settlement.postponed", batches=len(batches))
                self._unsettled_bytes -= sum(record.size for record in found)
            if self._closing:
                return

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                while left := await self._sweep():
                    log.warning("settlement.taken_up", batches=left)
            except DATABASE_ERRORS as error:
                log.warning("settlement.postponed", error=type(error).__name__)
            except Exception:
                log.exception("settlement.postponed")

    async def _sweep(self) -> int:
        now = datetime.now(UTC)
        return await settlement.settle_left_behind(
            self._pool,
            self._accounts,
            recorded_before=now - timedelta(seconds=LEFT_BEHIND_SECONDS),
            now=now,
        )


async def _settle(
    pool: Any, accounts: Mapping[str, AccountSettings], found: list[Record], batches: list[int]
) -> None:
    settled = await settlement.settle(pool, accounts, found, batches=batches, now=datetime.now(UTC))
    for what in settled.__struct_fields__:
        if count := getattr(settled, what):
            metrics.SETTLED.labels(what).inc(count)
