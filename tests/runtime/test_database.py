"""The way to PostgreSQL: pools, and its errors as ours."""

import asyncio
import contextlib
import pickle
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import databases
import pytest

from gateways.gateway import Secret
from runtime import DatabaseUnavailable, DatabaseUnusable, database
from runtime.database import DATABASE_ERRORS, Database
from runtime.settings import Settings, parse
from runtime.sockets import free_ports

pytestmark = pytest.mark.anyio


def at(dsn: str) -> Database:
    return Database(dsn=Secret(dsn), name="test")


def settings(tmp_path: Path, **env: str) -> Settings:
    return parse("", tmp_path / "huizhi.toml", env)


async def test_pool_speaks_json_and_utc(pool: Any) -> None:
    value = {"name": "回执", "list": [1, None]}
    assert await pool.fetchval("SELECT $1::jsonb", value) == value
    assert await pool.fetchval("SELECT ($1::jsonb ->> 'name')", value) == "回执"
    moment = await pool.fetchval("SELECT timestamptz '2026-10-01 08:00+08'")
    assert moment == datetime(2026, 10, 1, tzinfo=UTC)
    assert moment.tzinfo is UTC
    assert await pool.fetchval("SHOW timezone") == "UTC"
    assert await pool.fetchval("SHOW application_name") == "huizhi test"


async def test_released_connection_is_in_no_transaction(database: Database) -> None:
    async with database.pool(size=1) as pool:
        async with pool.acquire() as connection:
            await connection.execute("BEGIN; CREATE TABLE left_open (x int)")
        assert await pool.fetchval("SELECT to_regclass('left_open')") is None


async def test_transaction_that_says_nothing_more_ends_and_keeps_no_lock(
    database: Database,
) -> None:
    async with database.connection() as hung, database.connection() as other:
        await other.execute("CREATE TABLE locked (x int)")
        # As everywhere, only sooner.
        assert await hung.fetchval("SHOW idle_in_transaction_session_timeout") == "30s"
        await hung.execute("SET idle_in_transaction_session_timeout = '50ms'")
        await hung.execute("BEGIN; LOCK TABLE locked")
        async with asyncio.timeout(10):
            assert await other.fetch("SELECT x FROM locked") == []


async def test_pool_opens_while_the_database_is_away() -> None:
    async with at("postgresql://huizhi@127.0.0.1:1/huizhi").pool() as pool:
        with pytest.raises(DATABASE_ERRORS):
            await pool.fetchval("SELECT 1")


async def test_pool_recovers_from_ended_connections(database: Database) -> None:
    async with database.pool(size=2) as pool, database.connection() as other:
        assert await pool.fetchval("SELECT 1") == 1
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        found = None
        while found is None:
            with contextlib.suppress(*DATABASE_ERRORS):
                found = await pool.fetchval("SELECT 1")
        assert found == 1


async def test_cancelling_waits_for_no_server_that_hangs(
    database: Database, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.database.CANCEL_SECONDS", 0.2)
    asking = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
    async with databases.proxied(database) as (proxy, distant), distant.pool(size=1) as far:

        async def work() -> None:
            async with far.acquire() as connection, connection.transaction():
                await connection.execute("SELECT pg_sleep(60)")

        working = asyncio.create_task(work())
        async with asyncio.timeout(15):
            while (pid := await pool.fetchval(asking)) is None:
                await asyncio.sleep(0.01)
        proxy.hold()
        working.cancel()
        async with asyncio.timeout(15):
            await asyncio.wait({working})
        assert working.cancelled() or isinstance(working.exception(), DATABASE_ERRORS)
        proxy.flow()
        assert await far.fetchval("SELECT 1") == 1
        await pool.fetchval("SELECT pg_terminate_backend($1)", pid)


async def test_a_silent_network_is_found_out(database: Database) -> None:
    async with databases.proxied(database) as (_, distant), distant.connection() as connection:
        # The driver has no name for it.
        used = connection._transport.get_extra_info("socket")
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, count, unanswered = (
            used.getsockopt(socket.IPPROTO_TCP, name)
            for name in (
                socket.TCP_KEEPIDLE,
                socket.TCP_KEEPINTVL,
                socket.TCP_KEEPCNT,
                socket.TCP_USER_TIMEOUT,
            )
        )
        assert (idle + interval * count, unanswered) == (60, 120_000)


async def test_our_mistakes_are_not_taken_for_an_absent_database(pool: Any) -> None:
    for wrong in ("SELECT no_such_column", "SELEKT", "SELECT 1 / 0"):
        with pytest.raises(asyncpg.PostgresError) as caught:
            await pool.fetchval(wrong)
        assert not isinstance(caught.value, DATABASE_ERRORS)


@pytest.mark.parametrize(
    ("dsn", "kind", "line"),
    [
        (
            "postgresql://huizhi:hush@127.0.0.1:1/bank",
            DatabaseUnavailable,
            "no PostgreSQL listens at 127.0.0.1:1/bank",
        ),
        (
            "postgresql://huizhi:hush@no-such-host.invalid/bank",
            DatabaseUnavailable,
            "the host of PostgreSQL at no-such-host.invalid/bank cannot be found",
        ),
        (
            "postgresql:///bank?host=/nonexistent&user=huizhi&password=hush",
            DatabaseUnavailable,
            "no PostgreSQL listens at /nonexistent",
        ),
        (
            "postgresql://huizhi:hu@sh@127.0.0.1:port/bank",
            DatabaseUnusable,
            "DATABASE_URL, or [database] url, is no address that PostgreSQL understands",
        ),
    ],
)
async def test_absent_database_is_one_line_without_the_password(
    dsn: str, kind: type[Exception], line: str
) -> None:
    with pytest.raises(kind) as caught:
        await at(dsn).ready(patience_seconds=0)
    assert str(caught.value) == line
    assert "hush" not in repr(at(dsn))


async def test_unknown_database_and_user_are_refused_at_once(database: Database) -> None:
    dsn = database.dsn.reveal()
    path = dsn.partition("?")[0]
    missing = at(dsn.replace(path, path.rpartition("/")[0] + "/no_such_database"))
    with pytest.raises(DatabaseUnusable, match="has no such database"):
        await missing.ready()
    stranger = at(dsn.replace("user=huizhi", "user=stranger"))
    if stranger != at(dsn):
        with pytest.raises(DatabaseUnusable, match="refuses the user or the password"):
            await stranger.ready()


async def test_waits_for_a_database_that_comes_up(tmp_path: Path, database: Database) -> None:
    # A server that first hangs up and then, on the same port, is the database's.
    (port,) = free_ports(1)
    away = at(f"postgresql://huizhi@127.0.0.1:{port}/huizhi")
    waiting = asyncio.create_task(away.ready(patience_seconds=60))
    refused = asyncio.Event()
    folder = database.place
    if not folder.startswith("/"):
        waiting.cancel()
        pytest.skip("needs the embedded server's socket")

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        refused.set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(copy(reader, back), copy(there, writer))

    first = await asyncio.start_server(hang_up, "127.0.0.1", port)
    await refused.wait()
    first.close()
    second = await asyncio.start_server(forward, "127.0.0.1", port)
    await waiting
    second.close()


async def test_patience_ends() -> None:
    with pytest.raises(DatabaseUnavailable):
        await at("postgresql://huizhi@127.0.0.1:1/huizhi").ready(patience_seconds=0.3)


async def test_old_server_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.database.OLDEST_MAJOR", 99)
    with pytest.raises(DatabaseUnusable, match=r"is PostgreSQL \d+; Huizhi needs 99 or newer"):
        await database.ready()


async def test_goes_to_other_processes(database: Database) -> None:
    assert pickle.loads(pickle.dumps(database)) == database


async def test_command_gets_the_embedded_server_and_stops_it(tmp_path: Path) -> None:
    async with database.connected(settings(tmp_path), "test") as pool:
        assert await pool.fetchval("SELECT current_database()") == "huizhi"
        socket_file = tmp_path / "data" / "postgres" / ".s.PGSQL.5432"
        assert socket_file.exists()
    assert not socket_file.exists()


async def test_command_uses_the_database_it_is_given(tmp_path: Path, database: Database) -> None:
    found = settings(tmp_path, DATABASE_URL=database.dsn.reveal())
    async with connected(found) as pool:
        assert await pool.fetchval("SELECT count(*) FROM migrations") > 0
    assert not (tmp_path / "data").exists()


def connected(found: Settings) -> Any:
    return database.connected(found, "test")


async def test_command_whose_database_goes_away_gets_our_error(
    tmp_path: Path, database: Database
) -> None:
    found = settings(tmp_path, DATABASE_URL=database.dsn.reveal())
    with pytest.raises(DatabaseUnavailable, match=r"the connection to PostgreSQL at .* was lost"):
        async with connected(found) as pool:
            await pool.execute("SELECT pg_terminate_backend(pg_backend_pid())")


async def test_commands_own_file_errors_stay_what_they_are(
    tmp_path: Path, database: Database
) -> None:
    found = settings(tmp_path, DATABASE_URL=database.dsn.reveal())
    with pytest.raises(FileNotFoundError):
        async with connected(found):
            (tmp_path / "statement.csv").open()
