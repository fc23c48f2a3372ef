"""While the database is away, slow or refuses, callbacks are acknowledged from the spool; none is lost."""

import asyncio
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import databases
import pytest
from by_hand import Connection, ask, chunked, report, request
from load import THINK, Load, all_settled, drained, missing, ready, until
from receivers import Receiver

from gateways.gateway import Secret
from runtime.database import Database
from runtime.embedded import Embedded
from runtime.migrate import migrate
from runtime.sockets import free_ports

pytestmark = pytest.mark.anyio

SMS = "/callbacks/sms/sms-token"
LARGE = "x" * 15_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Embedded]:
    """A PostgreSQL of the test's own, to be stopped and started again."""
    own = Embedded(tmp_path / "own", options={"fsync": "off"})
    own.start()
    try:
        yield own
    finally:
        own.stop()


@pytest.fixture
async def database(server: Embedded) -> Database:
    """The migrated database of `server`."""
    described = Database(dsn=Secret(server.dsn), name="test")
    async with described.connection() as connection:
        await migrate(connection)
    return described


async def counted(database: Database) -> dict[str, int]:
    """What is stored: how often each report was delivered."""
    async with database.connection() as connection:
        found = await connection.fetch("SELECT body, deliveries FROM records")
    told = {json.loads(row["body"])["sms"]["id"]: row["deliveries"] for row in found}
    assert len(told) == len(found)
    return told


async def all_counted_as_reports(database: Database) -> bool:
    """Wait until everything is settled; tell whether each record brought its report."""
    async with database.connection() as connection:
        await until(lambda: all_settled(connection), 40)
        return bool(
            await connection.fetchval(
                "SELECT (SELECT count(*) FROM records) = (SELECT count(*) FROM reports)"
            )
        )


async def pushed(receiver: Receiver, ids: list[str], **more: Any) -> list[int]:
    told = await asyncio.gather(*(ask(receiver.port, THINK, report(id, **more)) for id in ids))
    return [answer.status for answer in told]


async def test_database_stopped_and_started_under_load_refuses_and_loses_nothing(
    server: Embedded, database: Database, start: Callable[..., Receiver]
) -> None:
    receiver = start(database)
    async with Load(receiver.port) as load:
        for _ in range(3):
            await load.grown(100)
            server.stop()
            await load.grown(300)
            assert (await ready(receiver))["database"] == "away"
            server.start()
            await until(lambda: drained(receiver))
        await load.grown(100)
    await until(lambda: drained(receiver))
    assert load.refused == []
    assert set(await counted(database)) == load.acknowledged == load.pushed
    assert await all_counted_as_reports(database)


async def test_database_that_hangs_keeps_no_callback_for_longer_than_the_bound(
    database: Database, start: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = start(database)
    assert await pushed(receiver, ["before"]) == [200]
    with databases.frozen(tmp_path):
        begun = time.monotonic()
        assert await pushed(receiver, [f"hangs-{number}" for number in range(20)]) == [200] * 20
        assert time.monotonic() - begun < 15
        assert await pushed(receiver, [f"knows-{number}" for number in range(20)]) == [200] * 20
        said = await ready(receiver)
        assert (said["code"], said["status"], said["database"]) == (200, "ready", "away")
        assert said["spool"]["records"] == 40
        assert said["spool"]["oldest_seconds"] > 0
    await until(lambda: drained(receiver))
    stored = await counted(database)
    # What hung was carried out, or not: it counts once.
    assert set(stored.values()) == {1}
    assert len(stored) == 41


async def test_database_that_hangs_and_goes_on_under_load_loses_nothing(
    database: Database, start: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = start(database)
    async with Load(receiver.port) as load:
        for _ in range(2):
            await load.grown(100)
            with databases.frozen(tmp_path):
                await load.grown(200)
            await until(lambda: drained(receiver))
    await until(lambda: drained(receiver))
    assert load.refused == []
    assert set(await counted(database)) == load.acknowledged


async def test_sigterm_while_the_database_hangs_ends_in_time_and_leaves_all_in_the_spool(
    database: Database, start: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = start(database)
    async with database.connection() as other, database.connection() as watch:
        await other.execute("BEGIN; LOCK TABLE awaiting")
        assert await pushed(receiver, ["before"]) == [200]
        async with asyncio.timeout(15):
            while not await watch.fetchval("SELECT true FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.01)
        # So it hangs in the middle of settling, too.
        with databases.frozen(tmp_path):
            async with Load(receiver.port) as load:
                await load.grown(50)
                await asyncio.to_thread(receiver.end)
    assert load.refused == []
    after = start(database)
    await until(lambda: drained(after))
    assert load.acknowledged <= set(await counted(database))


async def test_killed_while_spooling_and_started_without_a_database(
    server: Embedded, database: Database, start: Callable[..., Receiver]
) -> None:
    server.stop()
    (port,) = free_ports(1)
    receiver = start(database, port=port)
    async with Load(port) as load:
        for number in range(6):
            await load.grown(20 + number * 7)
            receiver.kill()
            receiver = start(database, port=port)
        await load.grown(20)
    server.start()
    await until(lambda: drained(receiver))
    assert load.refused == []
    async with database.connection() as connection:
        assert await missing(connection, load) == set()
    stored = await counted(database)
    assert set(stored) <= load.pushed


async def test_killed_while_draining_over_and_over(
    server: Embedded, database: Database, start: Callable[..., Receiver]
) -> None:
    server.stop()
    receiver = start(database)
    ids = [f"large-{number}" for number in range(1500)]
    for place in range(0, len(ids), 100):
        assert set(await pushed(receiver, ids[place : place + 100], filler=LARGE)) == {200}
    said = await ready(receiver)
    assert said["spool"]["records"] == 1500
    server.start()
    stored = 0
    kills = 0
    async with database.connection() as rows:

        async def more() -> bool:
            now: int = await rows.fetchval("SELECT count(*) FROM records")
            return now > stored

        while stored < len(ids):
            await until(more)
            receiver.kill()
            kills += 1
            stored = await rows.fetchval("SELECT count(*) FROM records")
            receiver = start(database, port=receiver.port)
    await until(lambda: drained(receiver))
    assert kills > 1
    assert await counted(database) == dict.fromkeys(ids, 1)
    assert await all_counted_as_reports(database)


async def test_what_a_dead_worker_left_another_drains(
    server: Embedded, database: Database, start: Callable[..., Receiver]
) -> None:
    first, second = start(database), start(database)
    server.stop()
    assert await pushed(first, ["first-1", "first-2", "both"]) == [200] * 3
    assert await pushed(second, ["second-1", "both"]) == [200] * 2
    assert (await ready(first))["spool"]["records"] == 5
    assert (await ready(second))["spool"]["records"] == 5
    first.kill()
    server.start()
    await until(lambda: drained(second))
    once = dict.fromkeys(["first-1", "first-2", "second-1"], 1)
    assert await counted(database) == once | {"both": 2}


async def test_same_callback_during_and_after_the_outage_is_stored_once_and_counted(
    server: Embedded, database: Database, start: Callable[..., Receiver]
) -> None:
    receiver = start(database)
    assert await pushed(receiver, ["known"]) == [200]
    server.stop()
    for _ in range(3):
        assert await pushed(receiver, ["known", "new", "new"]) == [200] * 3
    server.start()
    await until(lambda: drained(receiver))
    assert await pushed(receiver, ["known", "new"]) == [200] * 2
    assert await counted(database) == {"known": 5, "new": 7}


async def test_past_the_bound_503_until_it_is_drained(
    server: Embedded, database: Database, start: Callable[..., Receiver]
) -> None:
    receiver = start(database, more="spool_max_bytes = 30000")
    server.stop()
    taken = []
    for number in range(200):
        told = await ask(receiver.port, THINK, report(f"bound-{number}"))
        if told.status != 200:
            break
        taken.append(f"bound-{number}")
    assert (told.status, told.header("retry-after")) == (503, "5")
    assert 20 < len(taken) < 150
    said = await ready(receiver)
    assert (said["code"], said["status"]) == (503, "cannot store")
    assert 25_000 < said["spool"]["bytes"] <= 30_000
    assert (await ask(receiver.port, "/health/live", method="GET")).status == 200
    server.start()
    await until(lambda: drained(receiver))
    assert (await ready(receiver))["code"] == 200
    assert await pushed(receiver, ["after"]) == [200]
    assert await counted(database) == dict.fromkeys([*taken, "after"], 1)


async def test_disk_that_takes_no_more_is_503_and_what_it_took_stays(
    server: Embedded, database: Database, start: Callable[..., Receiver]
) -> None:
    receiver = start(database)
    server.stop()
    assert await pushed(receiver, ["1"]) == [200]
    limits = resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE)
    # What is written past it fails in the middle, as on a disk that fills up.
    resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, (14_000, limits[1]))
    assert await pushed(receiver, ["2"], filler=LARGE) == [503]
    assert await pushed(receiver, ["3"]) == [200]
    resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, limits)
    assert await pushed(receiver, ["4"], filler=LARGE) == [200]
    server.start()
    await until(lambda: drained(receiver))
    assert await counted(database) == {"1": 1, "3": 1, "4": 1}
    assert not (receiver.spool / "set-aside").exists()


async def test_the_short_and_the_long_way_share_the_spool(
    server: Embedded, database: Database, start: Callable[..., Receiver]
) -> None:
    receiver = start(database)
    server.stop()
    body = report("chunked")
    async with Connection(receiver.port) as connection:
        short = await connection.ask(request(THINK, report("plain")))
        long = await connection.ask(chunked(THINK, body))
        assert (short.status, short.body) == (long.status, long.body) == (200, b'{"code":0}')
        query = "mobile=13800138000&taskid=77&status=10&receivetime=2026-10-05+09:30:00"
        got = await connection.ask(request(f"{SMS}?{query}", method="GET"))
        assert (got.status, got.body) == (200, b"ok")
    server.start()
    await until(lambda: drained(receiver))
    async with database.connection() as rows:
        await until(lambda: all_settled(rows))
        found = await rows.fetch("SELECT method, query, body, headers, peer FROM records")
        assert {(row["method"], row["query"], row["body"]) for row in found} == {
            ("POST", b"", report("plain")),
            ("POST", b"", body),
            ("GET", query.encode(), b""),
        }
        assert {row["peer"] for row in found} == {"127.0.0.1"}
        assert all(json.loads(row["headers"])["host"] == "receiver" for row in found)
        assert await rows.fetchval("SELECT count(*) FROM reports") == 3


async def test_torn_tail_and_damage_hold_up_nothing(
    server: Embedded, database: Database, start: Callable[..., Receiver]
) -> None:
    server.stop()
    receiver = start(database)
    for number in range(5):
        assert await pushed(receiver, [str(number)]) == [200]
    receiver.kill()
    # The first, with which the database was tried, is in a segment of its own.
    first, path = sorted(receiver.spool.glob("*.spool"))
    data = bytearray(path.read_bytes())
    size = len(data) // 4
    data[size + 50] ^= 1
    path.write_bytes(data[:-10])
    after = start(database)
    assert (await ready(after))["spool"]["bytes"] == first.stat().st_size + len(data) - 10
    server.start()
    await until(lambda: drained(after))
    assert await counted(database) == {"0": 1, "1": 1, "3": 1}
    (kept,) = (receiver.spool / "set-aside").iterdir()
    assert kept.read_bytes() == bytes(data[size : size * 2])
    assert "spool.set_aside" in after.log.read_text()


async def test_receiver_without_a_place_to_spool_does_not_start(
    database: Database, start: Callable[..., Receiver]
) -> None:
    receiver = start(database)
    receiver.kill()
    for left in receiver.spool.iterdir():
        left.unlink()
    receiver.spool.rmdir()
    receiver.spool.write_text("in the way")
    second = start(database, wait=False)
    assert await asyncio.to_thread(second.process.wait, 30) != 0
    assert "cannot write to the spool folder" in second.log.read_text()
