"""A real PostgreSQL for every test that asks: one server a run, one database a test.

`$TEST_DATABASE_URL` names a server to use (its role must be allowed to make databases); without it
an embedded one is started.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateways.gateway import Secret
from runtime.database import Database
from runtime.embedded import running
from runtime.migrate import migrate


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a server on which databases can be made."""
    if given := os.environ.get("TEST_DATABASE_URL"):
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
    asyncio.run(_execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield _database(postgres, name)
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
