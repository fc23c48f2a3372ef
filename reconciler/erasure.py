"""Erasing one number everywhere on request, so that all that was counted still counts.

The number is known to this process only while it works and is never stored: what is kept is its
pseudonym, who asked, and how much was found.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec
import structlog

from gateways.phone import normalise
from reconciler import actions
from reconciler.purging import Named, Purge, check_key
from reconciler.reading.paging import Page, cursor_of, key_of, page_of
from runtime import Problem, settlement
from runtime.database import DATABASE_ERRORS
from runtime.pseudonyms import Pseudonyms
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

log = structlog.get_logger()

BATCH = 500
TOLD_SECONDS = 5.0
BROKEN_OFF_SECONDS = 60.0
# Read at a time where every row must be looked at.
_WINDOW = 5000
_RECORDS = 500  # with their bodies
# Shorter digits stand in too much that is no number.
SHORTEST = 7
_FIRST_SHARD = -(2**31)
_NO_UUID = UUID(int=0)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


class NoNumber(Problem):
    """What was given is no whole phone number."""


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """An erasure: `found` counts rows by where they stood, so far while it is `under_way`.

    `held` counts messages being sent just now and callbacks not settled yet: erase again. So does one
    that was `broken_off`, by the end of the process that was at it.
    """

    id: UUID
    pseudonym: str
    requested_at: datetime
    requested_by: str
    finished_at: datetime | None
    found: dict[str, int]
    held: int
    state: Literal["under_way", "done", "held", "broken_off"]


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """An erasure that is noted and not carried out yet; `number` is nowhere but here."""

    id: UUID
    number: str
    by: str
    now: datetime
    pseudonyms: Pseudonyms

    def __repr__(self) -> str:
        return f"Begun({self.id})"


async def begin(pool: Any, pseudonyms: Pseudonyms, phone: str, *, by: str, now: datetime) -> Begun:
    """Note that `phone` is to be erased; raises `NoNumber`, `OtherKey` and one of `DATABASE_ERRORS`."""
    number = normalise(phone)
    if not SHORTEST <= len(number) <= 32:
        raise NoNumber(f"expected a phone number of {SHORTEST} digits at least")
    begun = Begun(id=uuid4(), number=number, by=by, now=now, pseudonyms=pseudonyms)
    actions.concerns(erasure=begun.id)
    async with pool.acquire() as connection:
        await check_key(connection, pseudonyms)
        await connection.execute(QUERIES["add_erasure"], begun.id, pseudonyms.of(number), now, by)
    return begun


async def carry_out(
    pool: Any,
    accounts: Mapping[str, AccountSettings],
    begun: Begun,
    *,
    progress: Callable[[Mapping[str, int]], None] = lambda _: None,
) -> Erasure:
    """Erase a number from all that is stored; durable on return, in batches of one transaction each.

    Idempotent: what broke off is done by doing it again. `progress` is told what was found so far.
    Raises one of `DATABASE_ERRORS`.
    """
    async with pool.acquire() as connection:
        work = _Work(connection, accounts, begun)
        telling = asyncio.create_task(_tell(pool, begun.id, work.found, progress))
        try:
            # First, so that what is recorded and not understood yet is found where it belongs.
            while await settlement.settle_left_behind(
                pool, accounts, recorded_before=begun.now, now=begun.now
            ):
                pass
            await work.run()
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        await connection.execute(
            QUERIES["finish_erasure"], begun.id, _positive(work.found), work.held, datetime.now(UTC)
        )
        done = await one(connection, begun.id)
    assert done is not None
    return done


async def erase(
    pool: Any,
    accounts: Mapping[str, AccountSettings],
    pseudonyms: Pseudonyms,
    phone: str,
    *,
    by: str,
    now: datetime,
    progress: Callable[[Mapping[str, int]], None] = lambda _: None,
) -> Erasure:
    """Erase `phone` and return when that is done; see `begin` and `carry_out`."""
    begun = await begin(pool, pseudonyms, phone, by=by, now=now)
    return await carry_out(pool, accounts, begun, progress=progress)


async def _tell(
    pool: Any, id: UUID, found: Counter[str], progress: Callable[[Mapping[str, int]], None]
) -> None:
    """Tell how far an erasure has come, every so often, until cancelled."""
    while True:
        await asyncio.sleep(TOLD_SECONDS)
        progress(_positive(found))
        with contextlib.suppress(*DATABASE_ERRORS):
            await pool.execute(QUERIES["erasure_goes_on"], id, _positive(found))


class Erasing:
    """The erasures that this process is at, one after the other; ended with the process."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Erasure]] = set()

    def start(
        self, pool: Any, accounts: Mapping[str, AccountSettings], begun: Begun
    ) -> asyncio.Task[Erasure]:
        """Have an erasure carried out, whoever waits for it."""
        task = asyncio.create_task(self._run(pool, accounts, begun))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Erasure]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told of where it was raised, to a caller that may have gone

    async def end(self) -> None:
        """Break off what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(
        self, pool: Any, accounts: Mapping[str, AccountSettings], begun: Begun
    ) -> Erasure:
        try:
            waiting = asyncio.create_task(_tell(pool, begun.id, Counter(), lambda _: None))
            try:
                await self._turn.acquire()
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            try:
                return await carry_out(pool, accounts, begun)
            finally:
                self._turn.release()
        except BaseException as error:
            log.error("erasure.broken_off", id=str(begun.id), error=type(error).__name__)
            raise


async def one(connection: Any, id: UUID) -> Erasure | None:
    """Return an erasure, if there is one of that id."""
    row = await connection.fetchrow(QUERIES["erasures"], None, None, id, 1, BROKEN_OFF_SECONDS)
    return None if row is None else Erasure(**dict(row))


async def erasures(connection: Any, *, cursor: str | None, limit: int) -> Page:
    """List erasures, the newest first."""
    at, last = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(
        QUERIES["erasures"], at, last, None, limit + 1, BROKEN_OFF_SECONDS
    )
    return page_of(
        rows,
        limit,
        lambda row: msgspec.to_builtins(Erasure(**dict(row))),
        lambda row: cursor_of(row["requested_at"], row["id"]),
    )


def _positive(found: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in sorted(found.items()) if count}


class _Work:
    """One erasure under way."""

    def __init__(
        self,
        connection: Any,
        accounts: Mapping[str, AccountSettings],
        begun: Begun,
    ) -> None:
        self.connection = connection
        self.accounts = accounts
        self.pseudonyms = begun.pseudonyms
        self.number = begun.number
        self.pseudonym = begun.pseudonyms.of(begun.number)
        self.by = begun.by
        self.now = begun.now
        self.found: Counter[str] = Counter()
        self.held = 0

    async def run(self) -> None:
        # Bodies last: whatever stops this, they still lead to what is left.
        await self._messages()
        shard = _FIRST_SHARD
        key: dict[str, Any] = {"shard": shard, "id": _NO_UUID, "fingerprint": b""}
        await self._read(QUERIES["reports_naming"], key, self._reports)
        key = {"statement_id": _NO_UUID, "line": -1, "shard": shard}
        await self._read(QUERIES["lines_naming"], key, self._named)
        key = {"shard": shard, "id": _NO_UUID}
        await self._read(QUERIES["messages_quoting"], key, self._quoting)
        key = {"shard": shard, "fingerprint": b""}
        await self._read(QUERIES["inbound_naming"], key, self._inbound)
        words = (self.number, self.pseudonym)
        self.found["words"] += await self.connection.fetchval(QUERIES["erase_in_words"], *words)
        self.found["reviews"] += await self.connection.fetchval(QUERIES["reviews_quoting"], *words)
        await self._read(QUERIES["records_naming"], {"digest": b""}, self._records, _RECORDS)

    async def _read(
        self,
        query: str,
        key: dict[str, Any],
        erase: Callable[[list[Any]], Awaitable[None]],
        window: int = _WINDOW,
    ) -> None:
        """Read a table by its key, every row of it after `key`, and erase what is found."""
        while rows := await self.connection.fetch(query, *key.values(), window, self.number):
            key = {column: rows[-1][column] for column in key}
            if hits := [row for row in rows if row["hit"]]:
                await erase(hits)

    def _purge(self, account: str) -> Purge:
        return Purge(self.connection, account, "erasure", by=self.by, now=self.now)

    async def _messages(self) -> None:
        at: tuple[Any, ...] = (_EARLIEST, _NO_UUID)
        while rows := await self.connection.fetch(
            QUERIES["messages_of_number"], self.number, *at, BATCH
        ):
            at = (rows[-1]["sent_at"], rows[-1]["id"])
            free = [row for row in rows if not self._in_doubt(row)]
            self.held += len(rows) - len(free)
            for account, named in _by_account(free):
                purge = self._purge(account)
                async with self.connection.transaction():
                    await purge.messages(named, self.pseudonyms)
                    await purge.keep()
                self.found.update(purge.counts)

    def _in_doubt(self, row: Any) -> bool:
        """Tell whether a message's vendor may still tell what became of it, by its number only."""
        settings = self.accounts.get(row["account"])
        wait = timedelta(hours=0 if settings is None else settings.poll_until_hours)
        return row["status"] in ("submitting", "indeterminate") and row["sent_at"] > self.now - wait

    async def _reports(self, rows: list[Any]) -> None:
        to_it = [row for row in rows if row["phone"] == self.number]
        await self._named(to_it)
        quoting = [row for row in rows if row["phone"] != self.number]
        for account, named in _by_account(quoting):
            purge = self._purge(account)
            async with self.connection.transaction():
                await purge.touch(named)
                await self.connection.execute(
                    QUERIES["erase_in_reports"],
                    [each.shard for each in named],
                    [each.id for each in named],
                    self.number,
                    self.pseudonym,
                )
                await purge.keep()
            self.found["reports"] += len(named)

    async def _named(self, rows: list[Any]) -> None:
        for account, named in _by_account(rows):
            for start in range(0, len(named), BATCH):
                purge = self._purge(account)
                async with self.connection.transaction():
                    await purge.numbers(named[start : start + BATCH], self.pseudonyms)
                    await purge.keep()
                self.found.update(purge.counts)

    async def _quoting(self, rows: list[Any]) -> None:
        """Drop texts that quote the number, to whomever they were sent."""
        free = [row for row in rows if not self._in_doubt(row)]
        self.held += len(rows) - len(free)
        for account, named in _by_account(free):
            purge = self._purge(account)
            async with self.connection.transaction():
                await purge.messages(named, None)
                await self.connection.execute(
                    QUERIES["erase_in_messages"],
                    [each.shard for each in named],
                    [each.id for each in named],
                    self.number,
                    self.pseudonym,
                )
                await purge.keep()
            self.found.update(purge.counts)

    async def _inbound(self, rows: list[Any]) -> None:
        await self.connection.execute(
            QUERIES["erase_in_inbound"],
            [row["shard"] for row in rows],
            [row["fingerprint"] for row in rows],
            self.number,
            self.pseudonym,
        )
        self.found["inbound"] += len(rows)

    async def _records(self, rows: list[Any]) -> None:
        settled = [row for row in rows if row["settled"]]
        self.held += len(rows) - len(settled)
        for account, group in groupby(
            sorted(settled, key=lambda row: (row["account"], row["digest"])),
            key=itemgetter("account"),
        ):
            purge = self._purge(account)
            async with self.connection.transaction():
                await purge.bodies([row["digest"] for row in group], self.number, self.pseudonym)
                await purge.keep()
            self.found.update(purge.counts)


def _by_account(rows: Sequence[Any]) -> list[tuple[str, list[Named]]]:
    found: dict[str, list[Named]] = {}
    for row in rows:
        named = Named(row["shard"], row["id"], row["vendor_message_id"], row["phone"])
        found.setdefault(row["account"], []).append(named)
    return sorted(found.items())
