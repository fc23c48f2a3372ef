"""Retention: what is older than its account's settings say is purged, day by day.

What a bill may still be decided by is held: days of no closed period, messages in doubt, and what an
unfinished dispute is about. So no purge changes what a run of a closed period comes to.
"""

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from reconciler.lease import Lease
from reconciler.periods import day_start
from reconciler.purging import Named, Purge, check_key
from runtime import metrics
from runtime.pseudonyms import Pseudonyms
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

BATCH = 500
LEASE = "retention:"  # as the job's: name and account
# A day of which nothing was left is looked at again, for what was registered late.
AGAIN_AFTER = timedelta(days=30)
_NO_UUID, _NO_BYTES = UUID(int=0), b""
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


class Purged(msgspec.Struct, kw_only=True):
    """What was purged of an account, or would be; `bytes` are of the bodies.

    `held_unclosed` counts days that are old enough and have something that no closed period decides,
    `held_disputed` rows that an unfinished dispute or a doubt holds; each once for each setting that
    it outlived.
    """

    account: str
    bodies: int = 0
    bytes: int = 0
    texts: int = 0
    numbers: int = 0
    held_unclosed: int = 0
    held_disputed: int = 0


class _Days:
    """Which days of an account are closed, and from when on records may be about days that are not."""

    def __init__(self, settings: AccountSettings, rows: Sequence[Any]) -> None:
        self.zone = settings.account.zone
        # What has no tariff is never reconciled, so nothing waits for it to be.
        self.all_closed = not settings.tariffs
        self._first = [row["first_day"] for row in rows]
        # By its first day, how far what is closed from there or from before reaches.
        self._last: list[date] = []
        for row in rows:
            reach = self._last[-1] if self._last else date.min
            self._last.append(max(reach, row["last_day"]))

    def closed(self, day: date) -> bool:
        """Tell whether `day` is in a closed period."""
        at = bisect_right(self._first, day) - 1
        return self.all_closed or (at >= 0 and self._last[at] >= day)

    def start(self, day: date) -> datetime:
        return day_start(day, self.zone)

    def gaps(self) -> list[tuple[datetime, datetime]]:
        """Return what is not closed, as spans of time."""
        ends = datetime(9000, 1, 1, tzinfo=UTC)
        since, found = _EARLIEST, []
        for first, last in zip(self._first, self._last, strict=True):
            if (begins := self.start(first)) > since:
                found.append((since, begins))
            since = max(since, self.start(last + timedelta(days=1)))
        return [*found, (since, ends)]


async def purge_account(
    lease: Lease,
    settings: AccountSettings,
    pseudonyms: Callable[[], Pseudonyms],
    *,
    by: str,
    now: datetime,
    dry_run: bool = False,
) -> Purged:
    """Purge what the settings of an account say is old enough; with `dry_run` count it only.

    Each batch is one transaction, which is the lease's; whatever stops it, the next call goes on from
    there. `pseudonyms` is asked only if numbers are purged. Raises `OtherKey`, `LeaseLost`,
    `SettingsError` and one of `DATABASE_ERRORS`.
    """
    async with lease.pool.acquire() as connection:
        work = _Work(connection, settings, by, now, dry_run)
        return await work.run(pseudonyms)


class _Work:
    """One pass over an account."""

    def __init__(
        self,
        connection: Any,
        settings: AccountSettings,
        by: str,
        now: datetime,
        dry_run: bool,
    ) -> None:
        self.connection = connection
        self.settings = settings
        self.name = settings.account.name
        self.by = by
        self.now = now
        self.dry_run = dry_run
        self.done = Purged(account=self.name)

    async def run(self, pseudonyms: Callable[[], Pseudonyms]) -> Purged:
        kept = self.settings.retention
        rows = await self.connection.fetch(QUERIES["closed_periods"], self.name)
        days = _Days(self.settings, rows)
        if kept.bodies_days is not None:
            until = await self._decided(days)
            async for day, over in self._days(days, "bodies", kept.bodies_days):
                # A record may be about any message from before it came.
                await self._day(days, "bodies", day, over, over <= until, _Bodies(self))
        if kept.texts_days is not None:
            async for day, over in self._days(days, "texts", kept.texts_days):
                await self._day(days, "texts", day, over, days.closed(day), _Messages(self, None))
        if kept.numbers_days is not None:
            made = pseudonyms()
            if not self.dry_run:
                await check_key(self.connection, made)
            async for day, over in self._days(days, "numbers", kept.numbers_days):
                await self._day(days, "numbers", day, over, days.closed(day), _Messages(self, made))
            cutoff = self._cutoff(days, kept.numbers_days)
            await self._orphans(days.start(cutoff), made)
            await self._lines(cutoff, days, made)
        # Whatever the settings are: a number that was purged or erased has come again.
        await self._late()
        for why in ("unclosed", "disputed"):
            metrics.HELD.labels(self.name, why).set(getattr(self.done, f"held_{why}"))
        return self.done

    def _cutoff(self, days: _Days, age: int) -> date:
        return self.now.astimezone(days.zone).date() - timedelta(days=age)

    async def _days(self, days: _Days, what: str, age: int) -> AsyncIterator[tuple[date, datetime]]:
        """Yield each day that is old enough and not done, with the moment that it is over."""
        oldest = await self.connection.fetchval(QUERIES["oldest_of_account"], self.name)
        if oldest is None:
            return
        since = self.now - AGAIN_AFTER
        rows = await self.connection.fetch(QUERIES["days_purged"], self.name, what, since)
        done = {row["day"] for row in rows}
        day = oldest.astimezone(days.zone).date()
        while day < self._cutoff(days, age):
            after = day + timedelta(days=1)
            if day not in done:
                yield day, days.start(after)
            day = after

    async def _decided(self, days: _Days) -> datetime:
        """Return since when records may be about messages of days that are not closed."""
        latest = datetime(9000, 1, 1, tzinfo=UTC)
        if days.all_closed:
            return latest
        found = [
            await self.connection.fetchval(
                QUERIES["oldest_message_within"], self.name, begins, ends
            )
            for begins, ends in days.gaps()
        ]
        return min((at for at in found if at is not None), default=latest)

    async def _day(
        self,
        days: _Days,
        what: str,
        day: date,
        over: datetime,
        closed: bool,
        part: "_Bodies | _Messages",
    ) -> None:
        begins, held = days.start(day), 0
        if closed or not await part.any(begins, over):
            held = await part.purge(begins, over)
        else:
            # Looked at each time, so it is not counted row by row.
            held = 1
            self.done.held_unclosed += 1
            await part.received(begins, over)
        if held == 0 and not self.dry_run:
            await self.connection.execute(QUERIES["day_purged"], self.name, what, day, self.now)

    def count(self, what: str, purge: Purge | None, found: int) -> None:
        """Count what one batch purged, or would."""
        setattr(self.done, what, getattr(self.done, what) + found)
        if purge is not None:
            metrics.PURGED.labels(self.name, what).inc(found)

    async def purge(self, what: str) -> Purge:
        return Purge(self.connection, self.name, what, by=self.by, now=self.now)

    async def _orphans(self, before: datetime, made: Pseudonyms) -> None:
        at = (_EARLIEST, _NO_UUID, _NO_BYTES)
        while True:
            rows = await self.connection.fetch(
                QUERIES["orphans_to_purge"], self.name, before, *at, BATCH
            )
            if not rows:
                return
            at = (rows[-1]["received_at"], rows[-1]["id"], rows[-1]["fingerprint"])
            await self._named(rows, made)

    async def _lines(self, cutoff: date, days: _Days, made: Pseudonyms) -> None:
        """Purge the numbers that only statements name, once nothing of the statement is decided any more."""
        statements = await self.connection.fetch(
            QUERIES["statements_to_purge"], self.name, cutoff, days.all_closed
        )
        for statement in statements:
            line, held = 0, 0
            while rows := await self.connection.fetch(
                QUERIES["lines_to_purge"], statement["id"], self.name, line, BATCH
            ):
                line = rows[-1]["line"]
                held += await self._named(rows, made)
            if held == 0 and not self.dry_run:
                await self.connection.execute(QUERIES["statement_purged"], statement["id"])

    async def _named(self, rows: Sequence[Any], made: Pseudonyms) -> int:
        """Purge numbers of messages that are not in the ledger; return how many were held."""
        named = [_named(row) for row in rows if not row["held"]]
        self.done.held_disputed += len(rows) - len(named)
        purge = None
        if named and not self.dry_run:
            purge = await self.purge("numbers")
            async with self.connection.transaction():
                await purge.numbers(named, made)
                await purge.keep()
        self.count("numbers", purge, len(named))
        return len(rows) - len(named)

    async def _late(self) -> None:
        while not self.dry_run:
            rows = await self.connection.fetch(QUERIES["late_bodies"], self.name, BATCH)
            if not rows:
                return
            digests = [row["digest"] for row in rows]
            purge = await self.purge("bodies")
            async with self.connection.transaction():
                await purge.bodies(digests)
                await purge.keep()
                await self.connection.execute(QUERIES["late_bodies_gone"], digests)
            self.count("bodies", purge, purge.counts["bodies"])
            self.done.bytes += purge.counts["bytes"]


def _named(row: Any) -> Named:
    return Named(row["shard"], row["id"], row["vendor_message_id"], row["phone"])


class _Bodies:
    """The bodies of one day."""

    def __init__(self, work: _Work) -> None:
        self.work = work

    async def any(self, begins: datetime, ends: datetime) -> bool:
        """Tell whether the day has anything to purge."""
        query = QUERIES["bodies_to_purge"]
        return bool(
            await self.work.connection.fetch(
                query, self.work.name, begins, ends, _EARLIEST, _NO_BYTES, 1
            )
        )

    async def received(self, begins: datetime, ends: datetime) -> None:
        """Do nothing: there is nothing among records that nobody is billed for."""

    async def purge(self, begins: datetime, ends: datetime) -> int:
        """Purge what is not held; return how many are."""
        work, held = self.work, 0
        at = (_EARLIEST, _NO_BYTES)
        while rows := await work.connection.fetch(
            QUERIES["bodies_to_purge"], work.name, begins, ends, *at, BATCH
        ):
            at = (rows[-1]["received_at"], rows[-1]["digest"])
            free = [row for row in rows if not row["held"]]
            work.done.held_disputed += len(rows) - len(free)
            held += len(rows) - len(free)
            purge = None
            if free and not work.dry_run:
                purge = await work.purge("bodies")
                async with work.connection.transaction():
                    await purge.bodies([row["digest"] for row in free])
                    await purge.keep()
            work.count("bodies", purge, len(free))
            work.done.bytes += sum(row["bytes"] for row in free)
        return held


class _Messages:
    """The texts of one day's messages, out and in, or with pseudonyms their numbers too."""

    def __init__(self, work: _Work, made: Pseudonyms | None) -> None:
        self.work = work
        self.made = made
        self.what = "texts" if made is None else "numbers"

    async def any(self, begins: datetime, ends: datetime) -> bool:
        """Tell whether the day has anything to purge that may be billed."""
        rows = await self._rows(begins, ends, (_EARLIEST, _NO_UUID), 1)
        return bool(rows)

    async def purge(self, begins: datetime, ends: datetime) -> int:
        """Purge what is not held; return how many are."""
        held = await self._sent(begins, ends)
        await self.received(begins, ends)
        return held

    async def _rows(
        self, begins: datetime, ends: datetime, at: tuple[datetime, UUID], limit: int
    ) -> Any:
        return await self.work.connection.fetch(
            QUERIES["messages_to_purge"],
            self.work.name,
            begins,
            ends,
            *at,
            limit,
            self.made is not None,
        )

    async def _sent(self, begins: datetime, ends: datetime) -> int:
        work, held = self.work, 0
        at = (_EARLIEST, _NO_UUID)
        while rows := await self._rows(begins, ends, at, BATCH):
            at = (rows[-1]["sent_at"], rows[-1]["id"])
            free = [_named(row) for row in rows if not row["held"]]
            held += len(rows) - len(free)
            purge = None
            if free and not work.dry_run:
                purge = await work.purge(self.what)
                async with work.connection.transaction():
                    await purge.messages(free, self.made)
                    await purge.keep()
            work.count(self.what, purge, len(free))
        work.done.held_disputed += held
        return held

    async def received(self, begins: datetime, ends: datetime) -> None:
        """Nobody is billed for what handsets send: nothing holds it."""
        work, made = self.work, self.made
        at = (_EARLIEST, _NO_BYTES)
        while rows := await work.connection.fetch(
            QUERIES["inbound_to_purge"], work.name, begins, ends, *at, BATCH, made is not None
        ):
            at = (rows[-1]["received_at"], rows[-1]["fingerprint"])
            if not work.dry_run:
                await work.connection.execute(
                    QUERIES["purge_inbound"],
                    [row["shard"] for row in rows],
                    [row["fingerprint"] for row in rows],
                    [None if made is None else made.of(row["phone"]) for row in rows],
                )
                metrics.PURGED.labels(work.name, self.what).inc(len(rows))
            setattr(work.done, self.what, getattr(work.done, self.what) + len(rows))
