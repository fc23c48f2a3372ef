"""Databases for tests: on one server, or on all servers of a Citus cluster at once."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from pglast import split

from gateways.gateway import Secret
from runtime.database import Database
from runtime.queries import SQL
from torture.proxy import Proxy

CITUS = os.environ.get("TEST_CITUS_URL")

# How many sessions of the database one is connected to wait for a lock, on whichever server; those of
# an application only, if $1 names one.
WAITING = (
    """
SELECT count(*)
FROM citus_lock_waits AS w
INNER JOIN citus_stat_activity AS a ON w.waiting_gpid = a.global_pid
WHERE $1::text IS NULL OR a.application_name = $1
"""
    if CITUS
    else """
SELECT count(*)
FROM pg_stat_activity
WHERE
    datname = current_database()
    AND wait_event_type = 'Lock'
    AND ($1::text IS NULL OR application_name = $1)
"""
)

# Tests of what cannot be on a cluster, by why; docs/scale.md says so too.
NOT_ON_CITUS = {
    "they read the plans of one server": (
        "tests/reconciler/test_poll.py::test_finding_what_is_due_reads_no_whole_table",
        "tests/runtime/test_settlement_plans.py::",
        "tests/runtime/test_retention_plans.py::",
        "tests/dashboard/test_large.py::test_a_day_is_found_by_its_index",
    ),
    "rows of several shards are locked by writing them": (
        "tests/runtime/test_settlement.py::test_settling_again_says_that_nothing_changed",
    ),
    "what was left behind is taken up after two minutes there": (
        "tests/receiver/test_ingest.py::test_settlement_that_fails_is_taken_up_again",
        "tests/receiver/test_ingest.py::"
        "test_what_settling_cannot_hold_in_memory_it_reads_again_from_the_database",
    ),
    "a distributed table takes no triggers": (
        "tests/reconciler/test_fence.py::"
        "test_every_write_of_every_job_is_in_a_transaction_of_its_lease",
        "tests/reconciler/test_fence.py::"
        "test_a_replaced_holder_changes_nothing_in_any_job_and_reads_no_page",
        "tests/receiver/test_ingest.py::test_segment_that_a_well_server_refuses_holds_up_nothing",
    ),
    "the other servers read a view's tables as who asks, and not as its owner": (
        "tests/runtime/test_auditor.py::test_reads_the_masked_views_and_nothing_else",
        "tests/runtime/test_auditor.py::test_log_in_of_the_group_sees_no_number_and_no_text",
    ),
    "a bill is weighed on one connection there": (
        "tests/reconciler/test_reconcile.py::"
        "test_run_whose_second_connection_breaks_keeps_nothing_and_can_be_made_again",
    ),
    "the other servers know no session's time zone": (
        "tests/runtime/test_auditor.py::test_daily_goes_by_the_time_zone_of_the_session",
    ),
}


def why_not_on_citus(test: str) -> str | None:
    """Say why a test, by its id, cannot be on a cluster, or nothing."""
    for reason, tests in NOT_ON_CITUS.items():
        if test.startswith(tests):
            return reason
    return None


async def old_enough_to_link(pool: Any) -> None:
    """Have what came just now come earlier: a cluster links nothing of the newest two minutes."""
    if CITUS:
        for table, at in (("batches", "recorded_at"), ("unlinked_messages", "registered_at")):
            await pool.execute(f"UPDATE {table} SET {at} = {at} - interval '3 minutes'")


@contextmanager
def copied(postgres: str, template: str) -> Iterator[Database]:
    """Make a copy of `template`, and drop it in the end."""
    name = f"huizhi_test_{uuid.uuid4().hex[:12]}"
    # On a cluster too: what Citus knows of a table names nodes and no databases.
    asyncio.run(everywhere(postgres, f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield database(postgres, name)
    asyncio.run(dropped(postgres, name))


def database(dsn: str, name: str) -> Database:
    return Database(dsn=Secret(_named(dsn, name)), name="huizhi test")


def _named(dsn: str, name: str) -> str:
    """The DSN of another database on the same server."""
    parts = urlsplit(dsn)
    return f"{parts.scheme}://{parts.netloc}/{name}?{parts.query}".rstrip("?")


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def dropped(dsn: str, name: str) -> None:
    """Drop a database wherever it is; on a cluster Citus would connect again, to look after it."""
    await everywhere(dsn, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    for left in reversed(range(5)):
        try:
            await everywhere(dsn, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            return
        except (
            asyncpg.ObjectInUseError
        ):  # Citus's own process there does not always end in five seconds
            if not left:
                raise


async def _nodes(dsn: str) -> list[str]:
    """The DSN of each server: the coordinator's, and on a cluster first those of its workers."""
    if not CITUS:
        return [dsn]
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 ORDER BY nodeid"
        )
    finally:
        await connection.close()
    parts = urlsplit(dsn)
    user = parts.netloc.rpartition("@")[0]
    return [
        *(f"{parts.scheme}://{user}@{host}:{port}{parts.path}" for host, port in rows),
        dsn,
    ]


async def everywhere(dsn: str, statement: str) -> None:
    """Run a statement on every server: Citus makes and drops no databases."""
    await asyncio.gather(*(execute(node, statement) for node in await _nodes(dsn)))


async def distribute(dsn: str, name: str) -> None:
    """Distribute a migrated database, and have nobody connected to it, nor let again."""
    *workers, _ = await _nodes(dsn)
    for node in workers:
        await execute(_named(node, name), "CREATE EXTENSION citus")
    first = await asyncpg.connect(dsn)
    try:
        # Citus tells all nodes of the roles, which are all databases': not two runs of tests at once.
        await first.execute("SELECT pg_advisory_lock(1)")
        async with database(dsn, name).connection() as connection:
            await _spread(connection, dsn, workers)
    finally:
        await first.close()
    # Citus looks after each database by a connection of its own.
    await everywhere(dsn, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await everywhere(
        dsn,
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'",
    )


async def _spread(connection: Any, dsn: str, workers: Sequence[str]) -> None:
    await connection.execute("CREATE EXTENSION citus")
    at = urlsplit(dsn)
    await connection.execute(f"SELECT citus_set_coordinator_host('{at.hostname}', {at.port})")
    for at in map(urlsplit, workers):
        await connection.execute(f"SELECT citus_add_node('{at.hostname}', {at.port})")
    # The other servers are logged in to by the role that is taken.
    for role in ("auditor", "huizhi_receiver", "huizhi_reconciler"):
        await connection.execute(f"ALTER ROLE {role} LOGIN")
    await connection.execute("SET citus.shard_count = 2")  # the fewer, the quicker all of it
    # One transaction each, as psql does it.
    for statement in split((SQL / "citus" / "distribute.sql").read_text("utf-8")):
        await connection.execute(statement)


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Hold every process of the server in `folder` still, as a hanging disk or machine would."""
    (file,) = folder.rglob("postmaster.pid")
    postmaster = int(file.read_text().split()[0])
    processes = [postmaster]
    os.kill(postmaster, signal.SIGSTOP)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == postmaster:
            os.kill(int(entry.name), signal.SIGSTOP)
            processes.append(int(entry.name))
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


@asynccontextmanager
async def proxied(database: Database, **more: Any) -> AsyncIterator[tuple[Proxy, Database]]:
    """A network to a database on the embedded server, which can be held up, and the database behind it.

    What the proxy is told besides is `more`.
    """
    parts = urlsplit(database.dsn.reveal())
    told = parse_qs(parts.query)
    if "host" not in told:
        pytest.skip("needs the embedded server's socket")
    proxy = Proxy(f"{told['host'][0]}/.s.PGSQL.{told.get('port', ['5432'])[0]}", **more)
    await proxy.open()
    try:
        user = told.get("user", ["huizhi"])[0]
        dsn = Secret(f"postgresql://{user}@127.0.0.1:{proxy.port}{parts.path}")
        yield proxy, replace(database, dsn=dsn)
    finally:
        await proxy.close()
