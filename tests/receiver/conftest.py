"""Receivers on real ports, and a database that they share."""

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import databases
import pytest
from receivers import SETTINGS, Receiver

from runtime.database import Database
from runtime.sockets import free_ports


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[Database]:
    """A migrated database that the tests of a module share, as they share its receiver."""
    with databases.copied(postgres, template) as copy:
        yield copy


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Receiver]]:
    """Start receivers; those that still run are killed when the module ends."""
    folder = tmp_path_factory.mktemp("receiver")
    started: list[Receiver] = []

    def start(
        database: Database,
        *,
        port: int | None = None,
        wait: bool = True,
        more: str = "",
        first: str = "",
    ) -> Receiver:
        # One data_dir a database: what is spooled for one must not be drained into another.
        place = folder / hashlib.sha256(database.dsn.reveal().encode()).hexdigest()[:8]
        place.mkdir(exist_ok=True)
        file = place / f"huizhi-{uuid.uuid4().hex[:8]}.toml"
        file.write_text(SETTINGS.format(receiver=more))
        receiver = Receiver(file, database.dsn.reveal(), port or free_ports(1)[0], first)
        started.append(receiver)
        if wait:
            receiver.up()
        return receiver

    yield start
    for receiver in started:
        receiver.kill()


@pytest.fixture
async def rows(shared: Database) -> Any:
    """A connection to the shared database, its tables emptied before the test."""
    async with shared.connection() as connection:
        # The receiver still settles what the test before pushed, and would meet TRUNCATE's locks.
        async with asyncio.timeout(20):
            while await connection.fetchval(
                "SELECT EXISTS (SELECT FROM batches WHERE settled_at IS NULL)"
            ):
                await asyncio.sleep(0.01)
        await connection.execute(
            "TRUNCATE records, batches, quarantine, messages, awaiting, reports, inbound,"
            " review_results, reviews"
        )
        yield connection
