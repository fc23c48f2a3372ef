"""What was acknowledged is there, whatever happens to receivers and to the database."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from by_hand import Answer, Connection, ask, report, request
from receivers import SETTINGS, Receiver, free_port

from reconciler import ledger
from runtime import settings as reading
from runtime.database import Database
from runtime.embedded import Embedded

pytestmark = pytest.mark.anyio

THINK = "/callbacks/think/think-token"
ROUNDS = 20


async def until(true: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> Any:
    """Wait until `true` says something true, and return that."""
    async with asyncio.timeout(seconds):
        while not (said := await true()):
            await asyncio.sleep(0.01)
        return said


async def waiting_for_a_lock(connection: Any) -> bool:
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'receiver' AND wait_event_type = 'Lock')"
    )
    return found


async def all_settled(connection: Any) -> bool:
    found: bool = await connection.fetchval(
        "SELECT NOT EXISTS (SELECT FROM batches WHERE settled_at IS NULL)"
    )
    return found


class Load:
    """Clients that push callbacks without a pause and note what was acknowledged."""

    def __init__(self, *ports: int, clients: int = 8) -> None:
        self.acknowledged: set[str] = set()
        self.pushed: set[str] = set()
        self.refused: list[Answer] = []
        self._ports = ports
        self._clients = clients
        self._numbers = itertools.count()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [
            asyncio.create_task(self._push(random.Random(number)))
            for number in range(self._clients)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def grown(self, by: int) -> None:
        """Wait until so many more are acknowledged."""
        wanted = len(self.acknowledged) + by

        async def enough() -> bool:
            return len(self.acknowledged) >= wanted

        await until(enough, 30)

    async def _push(self, chance: random.Random) -> None:
        id = ""
        while not self._stop.is_set():
            try:
                async with Connection(chance.choice(self._ports)) as connection:
                    for _ in range(50):
                        id = id or f"load-{next(self._numbers)}"
                        self.pushed.add(id)
                        told = await connection.ask(request(THINK, report(id)))
                        if told.status == 200:
                            self.acknowledged.add(id)
                        else:
                            self.refused.append(told)
                        # Some vendors push again what was acknowledged.
                        id = id if chance.random() < 0.1 else ""
                        if self._stop.is_set():
                            return
            except (OSError, EOFError):
                # Nobody listened, or was killed under us: some vendors push again then, some never.
                id = id if chance.random() < 0.5 else ""
                await asyncio.sleep(0.01)


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


async def test_commit_that_takes_too_long_is_refused_and_never_acknowledged(
    shared: Database, start: Callable[..., Receiver], rows: Any
) -> None:
    receiver = start(shared)
    async with shared.connection() as other:
        lock = other.transaction()
        await lock.start()
        await other.execute("LOCK TABLE records IN SHARE MODE")
        begun = time.monotonic()
        told = await ask(receiver.port, THINK, report("1"))
        assert time.monotonic() - begun < 8
        assert (told.status, told.header("retry-after")) == (503, "5")
        await lock.rollback()
    assert (await ask(receiver.port, THINK, report("1"))).status == 200
    assert await rows.fetchval("SELECT count(*) FROM records") == 1


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


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Embedded]:
    """A PostgreSQL of the test's own, to be stopped and started again."""
    server = Embedded(tmp_path / "own", options={"fsync": "off"})
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def test_with_the_database_stopped_503_and_service_again_after_its_return(
    own_server: Embedded, start: Callable[..., Receiver]
) -> None:
    from gateways.gateway import Secret
    from runtime.migrate import migrate

    database = Database(dsn=Secret(own_server.dsn), name="test")
    async with database.connection() as connection:
        await migrate(connection)
    receiver = start(database)
    assert (await ask(receiver.port, THINK, report("before"))).status == 200
    async with database.connection() as connection:
        await until(lambda: all_settled(connection))
    assert (await ask(receiver.port, "/health/ready", method="GET")).status == 200
    own_server.stop()
    begun = time.monotonic()
    told = await asyncio.gather(
        *(ask(receiver.port, THINK, report(f"away-{number}")) for number in range(10))
    )
    assert {(answer.status, answer.header("retry-after")) for answer in told} == {(503, "5")}
    ready = await ask(receiver.port, "/health/ready", method="GET")
    assert ready.status == 503
    assert time.monotonic() - begun < 10
    assert (await ask(receiver.port, "/health/live", method="GET")).status == 200
    own_server.start()

    async def back() -> bool:
        return (await ask(receiver.port, THINK, report("after"))).status == 200

    await until(back)
    assert (await ask(receiver.port, "/health/ready", method="GET")).status == 200
    async with database.connection() as connection:

        async def as_many_reports_as_records() -> bool:
            # Some that were refused were stored after all: nobody had promised them anything.
            there: bool = await connection.fetchval(
                "SELECT (SELECT count(*) FROM records) = (SELECT count(*) FROM reports)"
            )
            return there and await all_settled(connection)

        await until(as_many_reports_as_records)
        found = await connection.fetch("SELECT body FROM records")
        assert {"before", "after"} <= {json.loads(row["body"])["sms"]["id"] for row in found}


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


async def missing(rows: Any, load: Load) -> set[str]:
    """The acknowledged callbacks that are not in the database."""
    found = await rows.fetch("SELECT body FROM records")
    return load.acknowledged - {json.loads(row["body"])["sms"]["id"] for row in found}


async def test_killed_under_load_over_and_over_nothing_acknowledged_is_missing(
    shared: Database, start: Callable[..., Receiver], rows: Any, tmp_path: Path
) -> None:
    begun = time.monotonic()
    port = free_port()
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
    assert await missing(rows, load) == set()
    bodies = await rows.fetch(
        "SELECT body, count(*) FROM records GROUP BY body HAVING count(*) > 1"
    )
    assert bodies == []
    stored = await rows.fetchval("SELECT count(*) FROM records")
    assert len(load.acknowledged) <= stored <= len(load.pushed)
    # Half of the messages are known already when survivors take up what the dead left behind.
    ids = sorted(load.pushed)
    await registered(shared, tmp_path, ids[::2])
    await until(lambda: all_settled(rows), 40)
    await registered(shared, tmp_path, ids[1::2])
    assert await rows.fetchval("SELECT count(*) FROM reports") == stored
    found = await rows.fetch("SELECT vendor_message_id FROM messages WHERE status = 'delivered'")
    assert {row["vendor_message_id"] for row in found} >= load.acknowledged
    assert len(found) == stored
    assert await rows.fetchval("SELECT count(*) FROM reports WHERE orphan") == 0
    assert time.monotonic() - begun < 60


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
    port = free_port()
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
