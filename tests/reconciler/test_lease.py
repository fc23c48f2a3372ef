"""Leases on a real database: one holder, tokens that grow, and no way back for a hung one."""

import asyncio
import time
from typing import Any

import pytest
from pretend import until

from reconciler import lease as leases

pytestmark = pytest.mark.anyio


async def _expire(pool: Any, name: str) -> None:
    await pool.execute("UPDATE leases SET expires_at = now() WHERE name = $1", name)


async def test_a_second_holder_gets_none_until_the_first_lets_go(pool: Any) -> None:
    async with leases.held(pool, "job", holder="a") as first:
        assert first is not None
        async with leases.held(pool, "job", holder="b") as second:
            assert second is None
        async with leases.held(pool, "other", holder="b") as other:
            assert other is not None
    async with leases.held(pool, "job", holder="b") as third:
        assert third is not None
        assert third.token > first.token


async def test_a_patient_one_waits_for_the_holder(pool: Any) -> None:
    taken, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with leases.held(pool, "job", holder="a"):
            taken.set()
            await release.wait()

    holding = asyncio.create_task(hold())
    await taken.wait()
    asyncio.get_running_loop().call_later(0.3, release.set)
    async with leases.held(pool, "job", holder="b", patience_seconds=20) as lease:
        assert lease is not None
        assert holding.done() or release.is_set()
    await holding


async def test_a_hung_holder_is_replaced_and_learns_of_it(pool: Any) -> None:
    async with leases.held(pool, "job", holder="a", ttl_seconds=0.9) as hung:
        assert hung is not None
        await _expire(pool, "job")  # as if it had not run for longer than its time
        async with leases.held(pool, "job", holder="b") as lease:
            assert lease is not None
            assert lease.token == hung.token + 1
            await until(lambda: not hung.alive)
            assert lease.alive
    row = await pool.fetchrow("SELECT holder, token FROM leases WHERE name = 'job'")
    assert (row["holder"], row["token"]) == ("b", lease.token)


async def test_a_lease_is_renewed_for_as_long_as_it_is_held(pool: Any) -> None:
    async with leases.held(pool, "job", holder="a", ttl_seconds=3) as lease:
        first = await pool.fetchval("SELECT expires_at FROM leases")

        async def twice_prolonged() -> bool:
            return bool(
                await pool.fetchval(
                    "SELECT expires_at > $1::timestamptz + interval '1.5 seconds' FROM leases",
                    first,
                )
            )

        await until(twice_prolonged)
        assert lease is not None
        assert lease.alive


async def test_many_at_once_take_turns(pool: Any) -> None:
    inside = 0
    tokens = []

    async def work() -> None:
        nonlocal inside
        async with leases.held(pool, "job", holder="x", patience_seconds=30) as lease:
            assert lease is not None
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            tokens.append(lease.token)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(6)))
    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("rivals", [0, 3])
async def test_a_transaction_longer_than_the_lease_loses_it_not(pool: Any, rivals: int) -> None:
    # A third of it may pass between two statements: enough for a machine that is busy with other tests.
    ttl_seconds = 6.0
    done = asyncio.Event()
    taken: list[str] = []

    async def rival(name: str) -> None:
        while not done.is_set():
            async with leases.held(pool, "job", holder=name, ttl_seconds=ttl_seconds) as other:
                if other is not None and not done.is_set():
                    taken.append(name)
            await asyncio.sleep(0.01)

    async def work(lease: leases.Lease) -> None:
        async with lease.pool.acquire() as connection:
            async with connection.transaction():
                began = time.monotonic()
                while time.monotonic() < began + 1.2 * ttl_seconds:
                    await connection.execute("SELECT pg_sleep(0.1)")
                    assert lease.alive
            assert lease.alive
            await connection.execute("SELECT 1")
        done.set()

    async with leases.held(pool, "job", holder="a", ttl_seconds=ttl_seconds) as lease:
        assert lease is not None
        others = [asyncio.create_task(rival(f"r{number}")) for number in range(rivals)]
        try:
            await lease.guard(work(lease))
        finally:
            done.set()
            await asyncio.gather(*others)
    assert taken == []
