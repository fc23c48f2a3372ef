"""Bring a database to the schema of this version: forward only, each file once, in order.

Files are `sql/migrations/NNNN_name.sql`, numbered from 0001 without a gap. What was applied is kept
in the table `migrations` with a checksum, so an edited file is refused and never half believed.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from runtime import DatabaseUnavailable, DatabaseUnusable
from runtime.queries import SQL

FOLDER = SQL / "migrations"

_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
# Who waits for a table holds up all who come after it. Half a second of that sends no receiver to its
# spool, and ends before PostgreSQL looks for deadlocks, whose victim would else be some callback's
# commit or the migration; so a migration stands back, and tries again.
_TABLE_SECONDS = 0.5
_PATIENCE_SECONDS = 30
_LOCK = 0x68756968  # "huizhi" in a number: one migrating process at a time in a database

# The one DDL outside sql/: the runner cannot use what it is about to make.
_TABLE = """
CREATE TABLE IF NOT EXISTS migrations (
    version integer NOT NULL,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL,
    CONSTRAINT migrations_pkey PRIMARY KEY (version)
)
"""
_EXISTS = "SELECT to_regclass('migrations') IS NOT NULL"
_APPLIED = "SELECT version, name, sha256 FROM migrations ORDER BY version"
_RECORD = "INSERT INTO migrations (version, name, sha256, applied_at) VALUES ($1, $2, $3, $4)"


class MigrationRefused(DatabaseUnusable):
    """The database and the migration files do not belong together; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file; `name` is its name without `.sql`, `sha256` the digest of its bytes."""

    version: int
    name: str
    sha256: str
    text: str


def load(folder: Path = FOLDER) -> list[Migration]:
    """Read the migrations of `folder`; raises `MigrationRefused` for a misnamed file or a gap."""
    found = []
    for number, path in enumerate(sorted(folder.glob("*.sql")), start=1):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise MigrationRefused(f"{path.name} is not named as migrations are: 0001_name.sql")
        if int(match[1]) != number:
            raise MigrationRefused(f"{path.name} should have the number {number:04}")
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        found.append(Migration(number, path.stem, digest, data.decode("utf-8")))
    return found


async def migrate(connection: Any, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing and return the names applied, in order.

    `connection` is in no transaction and has no command timeout. Each file is one transaction,
    durable before the next begins; a failing one leaves those before it. Safe to call from several
    processes at once: one applies, the others wait and find nothing to do. Where others use a table
    it stands back, and begins the file again, for half a minute. Raises `MigrationRefused`,
    `DatabaseUnavailable` (a table was in use all the while) and what PostgreSQL says of a wrong file.
    """
    wanted = load() if migrations is None else migrations
    # First without a lock and a table of our own: a log-in with few rights may start a service.
    applied = await connection.fetch(_APPLIED) if await connection.fetchval(_EXISTS) else []
    if applied and _matched(wanted, applied) == len(wanted):
        return []
    await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute(_TABLE)
        done = _matched(wanted, await connection.fetch(_APPLIED))
        for one in wanted[done:]:
            await _apply(connection, one)
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationRefused(
            f"migrations are missing, and this log-in may not apply them ({error}); run as the"
            " database's owner: huizhi migrate"
        ) from error
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
            await connection.execute("RESET statement_timeout; RESET lock_timeout")
    return [one.name for one in wanted[done:]]


async def _apply(connection: Any, one: Migration) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{_TABLE_SECONDS}s'")
                await connection.execute(one.text)
                now = datetime.now(UTC)
                await connection.execute(_RECORD, one.version, one.name, one.sha256, now)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if time.monotonic() >= until:
                raise DatabaseUnavailable(
                    f"migration {one.name} waited {_PATIENCE_SECONDS} seconds for a table in use;"
                    " nothing of it was applied"
                ) from error
            await asyncio.sleep(_TABLE_SECONDS)
        else:
            return


async def check(connection: Any, migrations: Sequence[Migration] | None = None) -> None:
    """Raise `MigrationRefused` unless the database has exactly the schema of this version."""
    wanted = load() if migrations is None else migrations
    applied = await connection.fetch(_APPLIED) if await connection.fetchval(_EXISTS) else []
    if missing := wanted[_matched(wanted, applied) :]:
        raise MigrationRefused(
            f"the database lacks {len(missing)} of {len(wanted)} migrations; run: huizhi migrate"
        )


def _matched(wanted: Sequence[Migration], applied: Sequence[Any]) -> int:
    """How many of `wanted` are applied; refuses a database that they do not describe."""
    if len(applied) > len(wanted):
        raise MigrationRefused(
            f"the database is newer than this version of Huizhi: {applied[-1]['name']} is unknown"
        )
    for row, file in zip(applied, wanted, strict=False):
        if row["version"] != file.version or row["name"] != file.name:
            raise MigrationRefused(f"migration {row['name']} was applied, and its file is missing")
        if row["sha256"] != file.sha256:
            raise MigrationRefused(f"migration {row['name']} was edited after it was applied")
    return len(applied)
