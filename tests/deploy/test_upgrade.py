"""What docs/upgrade.md says of versions side by side, with this one in the part of the old and of the new."""

import asyncio
import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from services import HUIZHI, ROOT, Process, until
from test_backup import SETTINGS, Load, delivered, listed, push, register

from runtime import migrate
from runtime.database import Database

NEXT = len(migrate.load()) + 1
NEWER = f"huizhi: the database is newer than this version of Huizhi: {NEXT:04}_next is unknown\n"


def huizhi(folder: Path, database: Database, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*HUIZHI, *arguments], cwd=folder, capture_output=True, text=True, timeout=60,
        env={"DATABASE_URL": database.dsn.reveal(), "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
    )  # fmt: skip


async def migrated_by_the_next_version(database: Database) -> None:
    """What the next version's first migration might do: add, and take nothing away."""
    tables = ("records", "batches", "reports", "messages", "awaiting")
    text = "".join(f"ALTER TABLE {table} ADD COLUMN next text;\n" for table in tables)
    coming = migrate.Migration(NEXT, f"{NEXT:04}_next", "none", text)
    async with database.connection() as connection:
        assert await migrate.migrate(connection, [*migrate.load(), coming]) == [coming.name]


def test_processes_of_the_old_version_go_on_under_the_new_schema_and_start_no_more(
    database: Database, tmp_path: Path
) -> None:
    (tmp_path / "huizhi.toml").write_text(SETTINGS)
    service = Process("serve", tmp_path / "huizhi.toml", dsn=database.dsn.reveal(), places=2)
    try:
        for place in service.places.values():
            until(lambda place=place: httpx.get(place + "/health/ready").status_code == 200)
        load = Load(service)
        try:
            load.reaches(30)
            asyncio.run(migrated_by_the_next_version(database))
            load.reaches(len(load.acknowledged) + 60)
        finally:
            load.stop()
        names = load.acknowledged
        assert names == [f"load-{number}" for number in range(len(names))], "none was refused"
        register(service, names)
        until(lambda: delivered(service) == set(names))

        # None of the old version starts any more: neither a command nor a service.
        for command in (("alarms",), ("receiver",), ("migrate",)):
            refused = huizhi(tmp_path, database, *command)
            assert (refused.returncode, refused.stderr) == (2, NEWER), command
        # But the children of one that runs are still kept up.
        children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
        workers = [int(pid) for pid in children.read_text().split()]
        killed = [
            pid for pid in workers if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        until(lambda: push(service, "after"))
        until(lambda: [o["vendor_message_id"] for o in listed(service, "/v1/orphans")] == ["after"])
        service.stop()
    finally:
        service.end()


def test_the_new_version_says_that_migrations_are_missing_and_applies_them_at_its_start(
    empty_database: Database, tmp_path: Path
) -> None:
    (tmp_path / "huizhi.toml").write_text(SETTINGS)

    async def of_the_version_before() -> None:
        async with empty_database.connection() as connection:
            await migrate.migrate(connection, migrate.load()[:-1])

    asyncio.run(of_the_version_before())
    refused = huizhi(tmp_path, empty_database, "alarms")
    count = len(migrate.load())
    told = f"huizhi: the database lacks 1 of {count} migrations; run: huizhi migrate\n"
    assert (refused.returncode, refused.stderr) == (2, told)
    dsn = empty_database.dsn.reveal()
    service = Process("serve", tmp_path / "huizhi.toml", dsn=dsn, places=2)
    try:
        until(lambda: httpx.get(service.places["receiver"] + "/health/ready").status_code == 200)
        assert '"database.migrated"' in service.log.read_text()
        service.stop()
    finally:
        service.end()
    assert huizhi(tmp_path, empty_database, "migrate").stdout.startswith("nothing to apply")


# In which migrations something that the version before uses may go: none was released before them.
BEFORE_THE_FIRST_RELEASE = 13


@pytest.mark.parametrize(
    "migration", migrate.load()[BEFORE_THE_FIRST_RELEASE:], ids=lambda migration: migration.name
)
def test_a_migration_takes_nothing_away_that_the_version_before_uses(
    migration: migrate.Migration,
) -> None:
    taken = re.findall(
        r"\b(?:DROP\s+(?:TABLE|COLUMN|VIEW)|RENAME\s+(?:TO|COLUMN)|ALTER\s+COLUMN\s+\w+\s+TYPE|SET\s+NOT\s+NULL)\b",
        migration.text,
        re.IGNORECASE,
    )
    allowed = re.findall(r"^-- contracts: .+", migration.text, re.MULTILINE)
    assert not taken or allowed, "say in a line `-- contracts: …` which release used it last"
