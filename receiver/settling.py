"""Settling what was stored, in step with the commits.

This process and PostgreSQL wait for each other as little as they can. While a group is committed, which
leaves this process nothing else to do, its records are parsed; while its acknowledgements go out and the
next group comes in, which leaves PostgreSQL nothing to do, it is settled. Under less load a few settle
together, a moment later.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Any

import structlog

from runtime import metrics, settlement, understanding
from runtime.database import DATABASE_ERRORS
from runtime.records import Record
from runtime.settings import AccountSettings
from runtime.understanding import Understood

log = structlog.get_logger()

# So many are settled at once; fewer wait a moment for more, as one statement settles them as quickly.
ENOUGH_RECORDS = 32
GATHER_SECONDS = 0.05
SETTLE_RECORDS = 2048
# Parsing keeps every socket waiting: no more than some thousand reports, in however few callbacks, at a time.
SETTLE_BYTES = 256 * 1024
SETTLE_BACKLOG_BYTES = 16 * 1024 * 1024
# And no more than this while callbacks come in and commits come back.
READ_RECORDS = 16
# Batches unsettled for longer were left behind by a dead or overloaded process.
LEFT_BEHIND_SECONDS = 10.0
SWEEP_SECONDS = 5.0


class Reading:
    """Records that are being stored, and what of them is parsed by now."""

    __slots__ = ("_next", "records", "understood")

    def __init__(self, records: list[Record]) -> None:
        self.records = records
        self.understood = Understood()
        self._next = 0

    @property
    def done(self) -> bool:
        return self._next >= len(self.records)

    def go_on(self, accounts: Mapping[str, AccountSettings], count: int) -> None:
        """Parse up to `count` more of them."""
        some = self.records[self._next : self._next + count]
        self._next += len(some)
        understanding.understand(accounts, some, into=self.understood)


class _Stored:
    """The new records of a commit, on their way to being settled; `size` as records count it."""

    __slots__ = ("batch", "reading", "records", "size")

    def __init__(
        self, batch: int, records: list[Record], size: int, reading: Reading | None
    ) -> None:
        self.batch = batch
        self.records = records
        self.size = size
        self.reading = reading


class Settling:
    """Settles what is passed on, and what others left behind; `start` it, and `finish` it in the end."""

    def __init__(self, pool: Any, accounts: Mapping[str, AccountSettings]) -> None:
        self._pool = pool
        self._accounts = accounts
        self._unsettled: deque[_Stored] = deque()
        self._records = 0
        self._bytes = 0
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._idle = False
        self._unread: deque[Reading] = deque()
        self._to_read = asyncio.Event()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to settle."""
        works = (self._settle_forever(), self._sweep_forever(), self._read_forever())
        self._tasks = [asyncio.create_task(work) for work in works]

    async def finish(self, patience_seconds: float) -> None:
        """Settle what was passed on, for so long at most, and end; what is left others will take up."""
        self._closing = True
        self._some.set()
        self._enough.set()
        await asyncio.wait({self._tasks[0]}, timeout=patience_seconds)
        if self._unsettled:
            log.warning("settlement.postponed", batches=len(self._unsettled), error="closing")
            self._unsettled.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def expect(self, found: list[Record]) -> Reading | None:
        """Have records parsed while they are stored; None for a few, or where rows would fill the memory."""
        size = sum(record.size for record in found)
        if len(found) < READ_RECORDS or self._bytes + size > SETTLE_BYTES:
            return None
        reading = Reading(found)
        self._unread.append(reading)
        self._to_read.set()
        return reading

    def pass_on(self, batch: int, fresh: list[Record], reading: Reading | None = None) -> bool:
        """Have the new records of a commit settled; `reading` is what `expect` returned for the commit.

        Tells whether that begins as soon as the loop is left to it.
        """
        size = sum(record.size for record in fresh)
        if self._bytes + size > SETTLE_BACKLOG_BYTES:
            # The sweep reads these from the database when their time comes: memory stays bounded.
            log.warning("settlement.behind", batch=batch, records=len(fresh))
            return False
        if reading is not None and len(reading.records) != len(fresh):
            reading = None  # some were known, and have been settled before
        self._unsettled.append(_Stored(batch, fresh, size, reading))
        self._records += len(fresh)
        self._bytes += size
        self._some.set()
        if self._records < ENOUGH_RECORDS:
            return False
        self._enough.set()
        return self._idle

    async def _read_forever(self) -> None:
        while True:
            await self._to_read.wait()
            while self._unread:
                reading = self._unread[0]
                reading.go_on(self._accounts, READ_RECORDS)
                if reading.done:
                    self._unread.popleft()
                await asyncio.sleep(0)
            self._to_read.clear()

    async def _settle_forever(self) -> None:
        while self._unsettled or not self._closing:
            self._idle = True
            await self._some.wait()
            if not self._enough.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GATHER_SECONDS):
                        await self._enough.wait()
            self._idle = False
            if self._unsettled:
                await self._settle_some()

    async def _settle_some(self) -> None:
        taken: list[_Stored] = []
        count = 0
        while self._unsettled and count < SETTLE_RECORDS:
            stored = self._unsettled.popleft()
            taken.append(stored)
            count += len(stored.records)
        self._records -= count
        if not self._closing:
            if not self._unsettled:
                self._some.clear()
            if self._records < ENOUGH_RECORDS:
                self._enough.clear()
        batches = [stored.batch for stored in taken]
        size = sum(stored.size for stored in taken)
        try:
            found = [record for stored in taken for record in stored.records]
            if size <= SETTLE_BYTES:
                await self._settle(found, batches, await self._understood(taken))
            else:
                await self._settle_in_parts(found, batches)
        except DATABASE_ERRORS as error:
            log.warning("settlement.postponed", batches=len(batches), error=type(error).__name__)
        except Exception:
            log.exception("settlement.postponed", batches=len(batches))
        self._bytes -= size

    async def _understood(self, taken: list[_Stored]) -> Understood:
        """Return what all of them say, having parsed what was not read before."""
        readings = [stored.reading for stored in taken if stored.reading is not None]
        unread = [record for stored in taken if stored.reading is None for record in stored.records]
        understood = Understood()
        for reading in (*readings, Reading(unread)):
            while not reading.done:
                reading.go_on(self._accounts, READ_RECORDS)
                await asyncio.sleep(0)
            understood.add(reading.understood)
        return understood

    async def _settle_in_parts(self, found: list[Record], batches: list[int]) -> None:
        *parts, last = _parts(found)
        # Two at a time: one is parsed while PostgreSQL folds the other.
        for two in zip_longest(parts[::2], parts[1::2]):
            done = await asyncio.gather(
                *(self._settle(part, []) for part in two if part), return_exceptions=True
            )
            if failed := [one for one in done if one is not None]:
                raise failed[0]
        await self._settle(last, batches)

    async def _settle(
        self, found: list[Record], batches: list[int], understood: Understood | None = None
    ) -> None:
        settled = await settlement.settle(
            self._pool,
            self._accounts,
            found,
            batches=batches,
            now=datetime.now(UTC),
            understood=understood,
        )
        for what in settled.__struct_fields__:
            if count := getattr(settled, what):
                metrics.SETTLED.labels(what).inc(count)

    async def _sweep_forever(self) -> None:
        # Broken off while its transaction cannot be undone, it hears of that error only.
        while not self._closing:
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


def _parts(found: list[Record]) -> list[list[Record]]:
    """Split records, in their order, where their bodies come to `SETTLE_BYTES`; at least one part."""
    parts: list[list[Record]] = [[]]
    size = 0
    for record in found:
        if size >= SETTLE_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(record)
        size += len(record.body) + len(record.query)
    return parts
