"""Migrations: forward only, once each, never half, from any number of processes."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import databases
import pytest

from runtime import DatabaseUnavailable, migrate
from runtime.database import Database
from runtime.migrate import MigrationRefused

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.anyio

FIRST = "CREATE TABLE first (x int);\nINSERT INTO first VALUES (1);\n"
SECOND = "CREATE TABLE second (x int);\n"

MIGRATING = """
import asyncio, sys
from pathlib import Path
from gateways.gateway import Secret
from runtime import migrate
from runtime.database import Database

async def run():
    async with Database(dsn=Secret(sys.argv[1]), name="test").connection() as connection:
        print(len(await migrate.migrate(connection, migrate.load(Path(sys.argv[2])))))
asyncio.run(run())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text(FIRST)
    (tmp_path / "0002_second.sql").write_text(SECOND)
    return tmp_path


async def apply(database: Database, folder: Path) -> list[str]:
    async with database.connection() as connection:
        return await migrate.migrate(connection, migrate.load(folder))


async def check(database: Database, folder: Path) -> None:
    async with database.connection() as connection:
        await migrate.check(connection, migrate.load(folder))


async def test_applies_what_is_missing_in_order_and_remembers_when(
    empty_database: Database, folder: Path
) -> None:
    with pytest.raises(MigrationRefused, match="lacks 2 of 2 migrations; run: huizhi migrate"):
        await check(empty_database, folder)
    assert await apply(empty_database, folder) == ["0001_first", "0002_second"]
    assert await apply(empty_database, folder) == []
    (folder / "0003_third.sql").write_text("DROP TABLE first;")
    with pytest.raises(MigrationRefused, match="lacks 1 of 3 migrations"):
        await check(empty_database, folder)
    assert await apply(empty_database, folder) == ["0003_third"]
    await check(empty_database, folder)
    async with empty_database.connection() as connection:
        rows = await connection.fetch("SELECT * FROM migrations ORDER BY version")
        assert [row["name"] for row in rows] == ["0001_first", "0002_second", "0003_third"]
        assert all(row["applied_at"].tzinfo is not None for row in rows)


async def test_five_processes_at_once_apply_each_file_once(
    empty_database: Database, folder: Path
) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATING, empty_database.dsn.reveal(), str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    applied = [int((await asyncio.to_thread(one.communicate))[0]) for one in started]
    assert sorted(applied) == [0, 0, 0, 0, 2]
    assert all(one.returncode == 0 for one in started)
    await check(empty_database, folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param(
            lambda folder: (folder / "0001_first.sql").write_text(FIRST + "-- edited\n"),
            "migration 0001_first was edited after it was applied",
            id="edited",
        ),
        pytest.param(
            lambda folder: (folder / "0002_second.sql").rename(folder / "0002_other.sql"),
            "migration 0002_second was applied, and its file is missing",
            id="another name",
        ),
        pytest.param(
            lambda folder: (folder / "0002_second.sql").unlink(),
            "the database is newer than this version of Huizhi: 0002_second is unknown",
            id="newer database",
        ),
    ],
)
async def test_refuses_what_does_not_describe_the_database(
    empty_database: Database, folder: Path, change: Any, complaint: str
) -> None:
    await apply(empty_database, folder)
    change(folder)
    for step in (apply, check):
        with pytest.raises(MigrationRefused) as caught:
            await step(empty_database, folder)
        assert str(caught.value) == complaint


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("0004_fourth.sql", "0004_fourth.sql should have the number 0003"),
        ("0002_twice.sql", "0002_twice.sql should have the number 0003"),
        ("0003-third.sql", "0003-third.sql is not named as migrations are: 0001_name.sql"),
    ],
)
def test_refuses_files_out_of_order(folder: Path, name: str, complaint: str) -> None:
    (folder / name).write_text("SELECT 1;")
    with pytest.raises(MigrationRefused) as caught:
        migrate.load(folder)
    assert str(caught.value) == complaint


async def test_failing_file_leaves_nothing_of_itself_and_all_before_it(
    empty_database: Database, folder: Path
) -> None:
    (folder / "0003_third.sql").write_text("CREATE TABLE third (x int); SELECT no_such_column;")
    with pytest.raises(asyncpg.UndefinedColumnError):
        await apply(empty_database, folder)
    async with empty_database.connection() as connection:
        assert await connection.fetchval("SELECT to_regclass('third')") is None
        assert await connection.fetchval("SELECT count(*) FROM migrations") == 2
    (folder / "0003_third.sql").write_text("CREATE TABLE third (x int);")
    assert await apply(empty_database, folder) == ["0003_third"]


async def test_table_in_use_is_not_waited_for_without_end(
    empty_database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_PATIENCE_SECONDS", 0.1)
    await apply(empty_database, folder)
    (folder / "0003_third.sql").write_text("ALTER TABLE first ADD y int;")
    async with empty_database.connection() as other, other.transaction():
        await other.execute("LOCK TABLE first")
        with pytest.raises(DatabaseUnavailable, match=r"0003_third waited .* for a table in use"):
            await apply(empty_database, folder)
    assert await apply(empty_database, folder) == ["0003_third"]


async def test_stands_back_for_who_uses_what_it_waits_for_and_begins_again(
    empty_database: Database, folder: Path
) -> None:
    await apply(empty_database, folder)
    (folder / "0003_third.sql").write_text(
        "ALTER TABLE first ADD y int;\nALTER TABLE second ADD y int;\n"
    )
    async with empty_database.connection() as watch, empty_database.connection() as other:
        async with other.transaction():
            await other.execute("INSERT INTO second VALUES (1)")
            migrating = asyncio.create_task(apply(empty_database, folder))
            async with asyncio.timeout(15):
                while not await watch.fetchval(databases.WAITING, None):
                    await asyncio.sleep(0.01)
            # The migration has `first` by now. One of the two must yield, and it shall not be this one.
            await other.execute("INSERT INTO first VALUES (2)")
        assert await migrating == ["0003_third"]
        assert await watch.fetch("SELECT x, y FROM first") == [(1, None), (2, None)]
        assert await watch.fetch("SELECT x, y FROM second") == [(1, None)]


async def test_session_is_left_as_it_was(empty_database: Database, folder: Path) -> None:
    async with empty_database.connection() as connection:
        before = await connection.fetchval("SHOW lock_timeout")
        await migrate.migrate(connection, migrate.load(folder))
        assert await connection.fetchval("SHOW lock_timeout") == before
        locks = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        assert await connection.fetchval(locks) == 0


async def test_our_own_migrations_stand_as_files(database: Database) -> None:
    async with database.connection() as connection:
        await migrate.check(connection)
    assert migrate.load()
