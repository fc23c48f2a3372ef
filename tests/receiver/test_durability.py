"""What was acknowledged is there, whatever happens to receivers and to the database."""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from by_hand import ask, report
from load import THINK, Load, all_settled, drained, missing, until, waiting_for_a_lock
from receivers import SETTINGS, Receiver

from reconciler import ledger
from runtime import settings as reading
from runtime.database import Database
from runtime.sockets import free_ports

pytestmark = pytest.mark.anyio

ROUNDS = 20


async def test_acknowledged_after_the_commit_and_not_before(
    shared: Database, start: Callable[..., Receiver], rows: Any
) -> None:
    receiver = start(shared)
    async with shared.connection() as other:
        lock = other.transaction()
        await lock.start()
        await other.execute("LOCK TABLE records IN SHARE MODE")
        pushes = [
            asyncio.create_task(ask(receiver.port, THINK, report(str(number))))
            for number in range(5)
        ]
        await until(lambda: waiting_for_a_lock(rows))
        assert not any(push.done() for push in pushes)
        await lock.rollback()
        told = await asyncio.gather(*pushes)
    assert {answer.status for answer in told} == {200}
    assert await rows.fetchval("SELECT count(*) FROM records") == 5


async def test_commit_that_takes_too_long_is_acknowledged_from_the_spool_and_stored_once(
    shared: Database, start: Callable[..., Receiver], rows: Any
) -> None:
    receiver = start(shared)
    async with shared.connection() as other:
        lock = other.transaction()
        await lock.start()
        await other.execute("LOCK TABLE records IN SHARE MODE")
        begun = time.monotonic()
        told = await ask(receiver.port, THINK, report("1"))
        assert time.monotonic() - begun < 15
        assert (told.status, told.body) == (200, b'{"code":0}')
        assert await rows.fetchval("SELECT count(*) FROM records") == 0
        await lock.rollback()
    await until(lambda: drained(receiver))
    assert await rows.fetchval("SELECT deliveries FROM records") == 1


async def test_settlement_that_is_held_up_keeps_no_callback_waiting(
    shared: Database, start: Callable[..., Receiver], rows: Any
) -> None:
    receiver = start(shared)
    async with shared.connection() as other:
        lock = other.transaction()
        await lock.start()
        await other.execute("LOCK TABLE reports IN SHARE MODE")
        for number in range(20):
            assert (await ask(receiver.port, THINK, report(str(number)))).status == 200
        await until(lambda: waiting_for_a_lock(rows))
        await lock.rollback()
    await until(lambda: all_settled(rows))
    assert await rows.fetchval("SELECT count(*) FROM reports") == 20


async def test_sigterm_under_load_answers_what_is_under_way_and_settles_it(
    shared: Database, start: Callable[..., Receiver], rows: Any
) -> None:
    receiver = start(shared)
    async with Load(receiver.port) as load:
        await load.grown(300)
        code = await asyncio.to_thread(receiver.end)
    assert code in (0, -15, 143)
    assert await missing(rows, load) == set()
    assert load.refused == []
    # Nobody else is there to settle what it left: it left nothing.
    assert await all_settled(rows)
    assert await rows.fetchval("SELECT count(*) FROM reports") == await rows.fetchval(
        "SELECT count(*) FROM records"
    )


async def has_recorded(rows: Any, pid: int) -> bool:
    found: bool = await rows.fetchval(
        "SELECT EXISTS (SELECT FROM batches WHERE recorder LIKE '%:' || $1::text)", str(pid)
    )
    return found


async def test_killed_under_load_over_and_over_nothing_acknowledged_is_missing(
    shared: Database, start: Callable[..., Receiver], rows: Any, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    pair = [start(shared, port=port)]
    pair.append(start(shared, port=port, wait=False))
    other = start(shared)
    chance = random.Random(20)
    async with Load(port, other.port, clients=12) as load:
        for number in range(ROUNDS):
            victim = pair[number % 2]
            await until(lambda pid=victim.process.pid: has_recorded(rows, pid))
            await load.grown(chance.randint(1, 50))
            victim.kill()
            pair[number % 2] = start(shared, port=port, wait=False)
            if number % 7 == 6:
                other.kill()
                other = start(shared, port=other.port)
        await load.grown(100)

    async def all_there() -> bool:
        return not await missing(rows, load)  # on a busy machine some go by the spool

    await until(all_there)
    bodies = await rows.fetch(
        "SELECT body, count(*) FROM records GROUP BY body HAVING count(*) > 1"
    )
    assert bodies == []
    stored = await rows.fetchval("SELECT count(*) FROM records")
    assert len(load.acknowledged) <= stored <= len(load.pushed)
    # Half of the messages are known already when survivors take up what the dead left behind.
    ids = sorted(load.pushed)
    await registered(shared, tmp_path, ids[::2])
    await until(lambda: all_settled(rows), 240)
    await registered(shared, tmp_path, ids[1::2])
    assert await rows.fetchval("SELECT count(*) FROM reports") == stored
    found = await rows.fetch("SELECT vendor_message_id FROM messages WHERE status = 'delivered'")
    assert {row["vendor_message_id"] for row in found} >= load.acknowledged
    assert len(found) == stored
    assert await rows.fetchval("SELECT count(*) FROM reports WHERE orphan") == 0


async def registered(database: Database, folder: Path, ids: list[str]) -> None:
    now = datetime.now(UTC)
    accounts = reading.parse(SETTINGS.format(receiver=""), folder / "huizhi.toml", {}).accounts
    sent = [
        ledger.Sent(
            account="think",
            vendor_message_id=id,
            phone="13800138000",
            sent_at=datetime(2026, 10, 5, tzinfo=UTC),
        )
        for id in ids
    ]
    async with database.pool(size=2) as pool:
        for place in range(0, len(sent), ledger.MAX_ROWS):
            await ledger.register(pool, accounts, sent[place : place + ledger.MAX_ROWS], now=now)


async def test_two_processes_that_share_a_port_both_serve(
    shared: Database, start: Callable[..., Receiver], rows: Any
) -> None:
    (port,) = free_ports(1)
    first = start(shared, port=port)
    second = start(shared, port=port, wait=False)

    async def served_by() -> set[int]:
        for number in range(40):
            await ask(port, THINK, report(f"{number}"))
        found = await rows.fetch("SELECT DISTINCT recorder FROM batches")
        return {int(row["recorder"].rpartition(":")[2]) for row in found}

    async def both() -> bool:
        return await served_by() == {first.process.pid, second.process.pid}

    await until(both)
