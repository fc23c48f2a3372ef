"""Leases: who may run a job now, so that a hung or dead holder is replaced and never overlaps.

A session lock would stay with a stopped process for ever; a lease ends by the database's clock. Its
token only ever grows, and every write of the holder goes through `Lease.pool`: each transaction there
begins by locking the lease's row under the token, so that it commits before the lease can pass on, or
not at all.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import structlog

from runtime import LeaseLost, metrics
from runtime.database import DATABASE_ERRORS
from runtime.queries import QUERIES

log = structlog.get_logger()

TTL_SECONDS = 30.0
RELEASE_SECONDS = 5.0
_PATIENT_PAUSE_SECONDS = 0.25

T = TypeVar("T")


class Lease:
    """A lease taken; `token` is greater than that of every holder before.

    `pool` is for all that is read and written under it; there `LeaseLost` is raised, and nothing
    written, once it has ended.
    """

    def __init__(
        self, name: str, token: int, pool: Any, *, ends: float, ttl_seconds: float
    ) -> None:
        self.name = name
        self.token = token
        self.pool = _Pool(pool, self)
        self.ttl_seconds = ttl_seconds
        self._pool = pool
        self._ends = ends
        self._lost = asyncio.Event()
        self._open = 0  # transactions that hold its row, so that it cannot pass on

    @property
    def alive(self) -> bool:
        """Whether it is ours as far as we can tell without asking."""
        return not self._lost.is_set() and (self._open > 0 or time.monotonic() < self._ends)

    def check(self) -> None:
        """Raise `LeaseLost` unless it is alive."""
        if not self.alive:
            raise self.lost()

    def lost(self) -> LeaseLost:
        """Say that it is lost."""
        return LeaseLost(f"the lease of {self.name} was lost")

    async def keep(self) -> None:
        """Prolong the lease until cancelled; returns when it was lost."""
        while self.alive:
            await asyncio.sleep(self.ttl_seconds / 3)
            asked = time.monotonic()
            try:
                kept = await self._pool.fetchval(
                    QUERIES["renew_lease"], self.name, self.token, self.ttl_seconds
                )
            except DATABASE_ERRORS as error:
                log.warning("lease.not_renewed", lease=self.name, error=type(error).__name__)
                continue
            if kept is None:
                break
            # It may have waited for the row until a long transaction of ours ended.
            self._ends = max(self._ends, asked + self.ttl_seconds)
        log.error("lease.lost", lease=self.name, token=self.token)
        metrics.LEASES_LOST.labels(self.name).inc()
        self._lost.set()

    @contextlib.asynccontextmanager
    async def fenced(self, connection: Any) -> AsyncIterator[None]:
        """Begin a transaction within which the lease cannot pass on; raises `LeaseLost`.

        One that takes long keeps the lease from being renewed beside it, so it renews it itself, with
        its commit.
        """
        began, renewed = time.monotonic(), None
        async with connection.transaction():
            # A holder that hangs in the middle lets go of the lease's row before the lease ends.
            longest_pause = f"{self.ttl_seconds / 3:.3f}s"
            fenced = await connection.fetchval(
                QUERIES["fence"], self.name, self.token, longest_pause
            )
            if fenced is None:
                raise self.lost()
            self._open += 1
            try:
                yield
                asked = time.monotonic()
                if asked - began > self.ttl_seconds / 3 and await connection.fetchval(
                    QUERIES["renew_fenced_lease"], self.name, self.token, self.ttl_seconds
                ):
                    renewed = asked
            finally:
                self._open -= 1
        if renewed is not None:
            self._ends = max(self._ends, renewed + self.ttl_seconds)

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns; once the lease is lost, cancel it and raise `LeaseLost`."""
        doing = asyncio.create_task(work)
        lost = asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait({doing, lost}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            raise self.lost()
        finally:
            lost.cancel()
            # What cannot be broken off lands before we go on.
            doing.cancel()
            await asyncio.gather(doing, lost, return_exceptions=True)


class _Pool:
    """A pool whose every transaction begins with the fence; a statement outside is one of its own."""

    def __init__(self, pool: Any, lease: Lease) -> None:
        self._pool = pool
        self._lease = lease

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator["_Connection"]:
        async with self._pool.acquire() as connection:
            yield _Connection(connection, self._lease)

    async def execute(self, query: str, *arguments: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.execute(query, *arguments)

    async def fetch(self, query: str, *arguments: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.fetch(query, *arguments)

    async def fetchrow(self, query: str, *arguments: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.fetchrow(query, *arguments)

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.fetchval(query, *arguments)


class _Connection:
    """A connection of `_Pool`."""

    def __init__(self, connection: Any, lease: Lease) -> None:
        self._connection = connection
        self._lease = lease

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Begin a transaction that is the lease's, or go on within one; raises `LeaseLost`."""
        if self._connection.is_in_transaction():
            async with self._connection.transaction():
                yield
            return
        async with self._lease.fenced(self._connection):
            yield

    @contextlib.asynccontextmanager
    async def _within(self) -> AsyncIterator[Any]:
        if self._connection.is_in_transaction():
            yield self._connection
            return
        async with self.transaction():
            yield self._connection

    async def execute(self, query: str, *arguments: Any) -> Any:
        async with self._within() as connection:
            return await connection.execute(query, *arguments)

    async def fetch(self, query: str, *arguments: Any) -> Any:
        async with self._within() as connection:
            return await connection.fetch(query, *arguments)

    async def fetchrow(self, query: str, *arguments: Any) -> Any:
        async with self._within() as connection:
            return await connection.fetchrow(query, *arguments)

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        async with self._within() as connection:
            return await connection.fetchval(query, *arguments)

    async def copy_records_to_table(self, table: str, **what: Any) -> Any:
        async with self._within() as connection:
            return await connection.copy_records_to_table(table, **what)

    def cursor(self, query: str, *arguments: Any, prefetch: int) -> Any:
        """Read within a transaction, as the driver demands."""
        return self._connection.cursor(query, *arguments, prefetch=prefetch)


@contextlib.asynccontextmanager
async def held(
    pool: Any,
    name: str,
    *,
    holder: str,
    ttl_seconds: float | None = None,
    patience_seconds: float = 0.0,
) -> AsyncIterator[Lease | None]:
    """Hold the lease `name` within the block, renewed; None where another holds it for too long.

    It lasts `TTL_SECONDS` unless told otherwise. When it is lost, `Lease.pool` writes nothing more and
    what `Lease.guard` was given stops; the rest of the block looks at `Lease.alive`. Raises one of
    `DATABASE_ERRORS` before the block, never after it.
    """
    ttl_seconds = TTL_SECONDS if ttl_seconds is None else ttl_seconds
    give_up = time.monotonic() + patience_seconds
    while True:
        asked = time.monotonic()
        token = await pool.fetchval(QUERIES["acquire_lease"], name, holder, ttl_seconds)
        if token is not None:
            break
        if asked >= give_up:
            yield None
            return
        await asyncio.sleep(_PATIENT_PAUSE_SECONDS)
    lease = Lease(name, token, pool, ends=asked + ttl_seconds, ttl_seconds=ttl_seconds)
    keeper = asyncio.create_task(lease.keep())
    try:
        yield lease
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        # Not released, it ends by itself; a server that hangs is not waited for.
        with contextlib.suppress(*DATABASE_ERRORS):
            async with asyncio.timeout(RELEASE_SECONDS):
                await pool.execute(QUERIES["release_lease"], name, lease.token)
