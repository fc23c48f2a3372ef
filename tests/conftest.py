"""A real PostgreSQL for every test that asks: one server a run, one database a test.

`$TEST_DATABASE_URL` names a server to use (its role must be allowed to make databases); without it
an embedded one is started. `$TEST_CITUS_URL` names the coordinator of a Citus cluster instead, as a
superuser: there each database is made on all nodes, migrated and distributed.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import hypothesis
import pytest
from serving import Api

from gateways.gateway import Secret
from runtime.database import Database
from runtime.embedded import running
from runtime.migrate import migrate
from runtime.queries import SQL

CITUS = os.environ.get("TEST_CITUS_URL")

# The same examples every time: what fails on one machine fails on all. HYPOTHESIS_PROFILE=default
# looks for new ones.
hypothesis.settings.register_profile("fixed", derandomize=True, database=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a server on which databases can be made."""
    if given := CITUS or os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    # Without fsync: a killed process loses nothing by that, only a machine that loses power does.
    with running(tmp_path_factory.mktemp("postgres"), {"fsync": "off"}) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    name = f"huizhi_template_{uuid.uuid4().hex[:12]}"

    async def make() -> None:
        await _execute(postgres, f"CREATE DATABASE {name}")
        async with _database(postgres, name).connection() as connection:
            await migrate(connection)

    asyncio.run(make())
    yield name
    asyncio.run(_execute(postgres, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def database(postgres: str, template: str) -> Iterator[Database]:
    """A migrated database of the test's own."""
    name = f"huizhi_test_{uuid.uuid4().hex[:12]}"
    if CITUS:
        asyncio.run(_distributed(postgres, name))
    else:
        asyncio.run(_execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield _database(postgres, name)
    if CITUS:
        asyncio.run(_everywhere(postgres, f"DROP DATABASE {name} WITH (FORCE)"))
    else:
        asyncio.run(_execute(postgres, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def empty_database(postgres: str) -> Iterator[Database]:
    """A database of the test's own without any table."""
    name = f"huizhi_test_{uuid.uuid4().hex[:12]}"
    asyncio.run(_execute(postgres, f"CREATE DATABASE {name}"))
    yield _database(postgres, name)
    asyncio.run(_execute(postgres, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Any]:
    async with database.pool() as opened:
        yield opened


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[Any]:
    async with database.connection() as opened:
        yield opened


@pytest.fixture
def served(database: Database, tmp_path: Path) -> Iterator[Api]:
    """The reconciler's API on a port of its own."""
    api = Api(database, tmp_path)
    yield api
    api.stop()


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "HUIZHI_CONFIG", "HUIZHI_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def _database(dsn: str, name: str) -> Database:
    parts = urlsplit(dsn)
    renamed = f"{parts.scheme}://{parts.netloc}/{name}?{parts.query}"
    return Database(dsn=Secret(renamed.rstrip("?")), name="huizhi test")


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _nodes(dsn: str) -> list[tuple[str, int]]:
    """The workers of a cluster."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 ORDER BY nodeid"
        )
        return [(row["nodename"], row["nodeport"]) for row in rows]
    finally:
        await connection.close()


def _at(dsn: str, host: str, port: int, name: str | None = None) -> str:
    parts = urlsplit(dsn)
    user = parts.netloc.rpartition("@")[0]
    return f"{parts.scheme}://{user}@{host}:{port}/{name or parts.path[1:]}"


async def _everywhere(dsn: str, statement: str) -> None:
    """Run a statement on every node: Citus makes and drops no databases."""
    for node in await _nodes(dsn):
        await _execute(_at(dsn, *node), statement)
    await _execute(dsn, statement)


async def _distributed(dsn: str, name: str) -> None:
    """Make a database on all nodes, migrated and distributed."""
    nodes = await _nodes(dsn)
    await _everywhere(dsn, f"CREATE DATABASE {name}")
    for node in nodes:
        await _execute(_at(dsn, *node, name), "CREATE EXTENSION citus")
    async with _database(dsn, name).connection() as connection:
        await migrate(connection)
        await connection.execute("CREATE EXTENSION citus")
        host, port = urlsplit(dsn).hostname, urlsplit(dsn).port
        await connection.execute(f"SELECT citus_set_coordinator_host('{host}', {port})")
        for host, port in nodes:
            await connection.execute(f"SELECT citus_add_node('{host}', {port})")
        await connection.execute("SET citus.shard_count = 4")  # the fewer, the quicker made
        # One transaction each, as psql does it.
        text = (SQL / "citus" / "distribute.sql").read_text("utf-8")
        for statement in text.rstrip().removesuffix(";").split(";\n"):
            await connection.execute(statement)
