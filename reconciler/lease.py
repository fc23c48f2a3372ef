"""Leases: who may run a job now, so that a hung or dead holder is replaced and never overlaps.

A session lock would stay with a stopped process for ever; a lease ends by the database's clock. Its
token only ever grows, and a write that must not come from a replaced holder names it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import structlog

from runtime.database import DATABASE_ERRORS
from runtime.queries import QUERIES

log = structlog.get_logger()

TTL_SECONDS = 30.0
_PATIENT_PAUSE_SECONDS = 0.25


class LeaseLost(Exception):
    """The lease is another's by now: what it guarded must stop."""


class Lease:
    """A lease taken; `token` is greater than that of every holder before."""

    def __init__(self, name: str, token: int, ends: float) -> None:
        self.name = name
        self.token = token
        self._ends = ends

    @property
    def alive(self) -> bool:
        """Whether it is ours as far as we can tell without asking."""
        return time.monotonic() < self._ends

    async def keep(self, pool: Any, ttl_seconds: float) -> None:
        """Prolong the lease until cancelled; returns when it was lost."""
        while self.alive:
            await asyncio.sleep(ttl_seconds / 3)
            asked = time.monotonic()
            try:
                kept = await pool.fetchval(
                    QUERIES["renew_lease"], self.name, self.token, ttl_seconds
                )
            except DATABASE_ERRORS as error:
                log.warning("lease.not_renewed", lease=self.name, error=type(error).__name__)
                continue
            self._ends = asked + ttl_seconds if kept is not None else 0.0
        log.error("lease.lost", lease=self.name, token=self.token)


@contextlib.asynccontextmanager
async def held(
    pool: Any,
    name: str,
    *,
    holder: str,
    ttl_seconds: float = TTL_SECONDS,
    patience_seconds: float = 0.0,
) -> AsyncIterator[Lease | None]:
    """Hold the lease `name` within the block, renewed; None where another holds it for too long.

    The block is not stopped when the lease is lost: it looks at `Lease.alive`, and its writes name
    `Lease.token`. Raises one of `DATABASE_ERRORS` before the block, never after it.
    """
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
    lease = Lease(name, token, asked + ttl_seconds)
    keeper = asyncio.create_task(lease.keep(pool, ttl_seconds))
    try:
        yield lease
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        # Not released, it ends by itself.
        with contextlib.suppress(*DATABASE_ERRORS):
            await pool.execute(QUERIES["release_lease"], name, lease.token)
