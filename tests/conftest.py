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

import databases
import hypothesis
import pytest
from serving import Api

from runtime.database import Database
from runtime.embedded import running
from runtime.migrate import migrate

# The same examples every time: what fails on one machine fails on all. HYPOTHESIS_PROFILE=default
# looks for new ones.
hypothesis.settings.register_profile("fixed", derandomize=True, database=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if databases.CITUS and (reason := databases.why_not_on_citus(item.nodeid)):
            item.add_marker(pytest.mark.skip(reason=f"on Citus {reason}"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a server on which databases can be made."""
    if given := databases.CITUS or os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    # Without fsync: a killed process loses nothing by that, only a machine that loses power does.
    with running(tmp_path_factory.mktemp("postgres"), {"fsync": "off"}) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to; on a cluster a distributed one."""
    name = f"huizhi_template_{uuid.uuid4().hex[:12]}"

    async def make() -> None:
        await databases.everywhere(postgres, f"CREATE DATABASE {name}")
        async with databases.database(postgres, name).connection() as connection:
            await migrate(connection)
        if databases.CITUS:
            await databases.distribute(postgres, name)

    asyncio.run(make())
    yield name
    asyncio.run(databases.dropped(postgres, name))


@pytest.fixture
def database(postgres: str, template: str) -> Iterator[Database]:
    """A migrated database of the test's own."""
    with databases.copied(postgres, template) as copy:
        yield copy


@pytest.fixture
def empty_database(postgres: str) -> Iterator[Database]:
    """A database of the test's own without any table."""
    name = f"huizhi_test_{uuid.uuid4().hex[:12]}"
    asyncio.run(databases.execute(postgres, f"CREATE DATABASE {name}"))
    yield databases.database(postgres, name)
    asyncio.run(databases.execute(postgres, f"DROP DATABASE {name} WITH (FORCE)"))


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
