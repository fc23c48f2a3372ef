"""What each process may do in the database: what it needs, and nothing that only another needs."""

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from runtime import migrate
from runtime.database import Database
from runtime.queries import QUERIES, SQL

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
RECEIVER, RECONCILER = "huizhi_receiver", "huizhi_reconciler"
# What the receiver runs: its own, and what records and settles.
RECEIVING = [*ROOT.glob("receiver/*.py")]
RECEIVING += [ROOT / f"runtime/{name}.py" for name in ("records", "settlement", "sends", "trust")]
# What settlement puts right when bytes are parsed again, which only operators have done.
REPLAYING = set(
    re.findall(r"^-- name: (\w+)", (SQL / "queries/replay.sql").read_text("utf-8"), re.M)
)
# Of commands, which run as the owner.
OWNERS = {"end_expired_tokens", "add_token", "revoke_token"}
HIDDEN = ("api_tokens", "operator_actions", "statements", "lines", "runs", "discrepancies", "cases")
APPEND_ONLY = (
    "operator_actions",
    "chain_links",
    "chain_entries",
    "case_changes",
    "suspect_decisions",
)
NEVER_FORGOTTEN = ("purges", "pseudonym_keys", "erasures", "replays", "superseded_reports")


@asynccontextmanager
async def as_role(database: Database, role: str) -> AsyncIterator[Any]:
    async with replace(database, role=role).connection() as connection:
        assert await connection.fetchval("SELECT current_user") == role
        yield connection


async def denied(connection: Any, statement: str) -> bool:
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    except asyncpg.FeatureNotSupportedError as error:
        # Citus sees what is asked for before it sees by whom.
        return "partition value" in str(error)
    except asyncpg.PostgresError:
        return False
    else:
        return False
    finally:
        await transaction.rollback()


def used(paths: list[Path]) -> set[str]:
    return {
        name
        for path in paths
        for name in re.findall(r"""QUERIES\[\s*["'](\w+)["']\s*\]""", path.read_text("utf-8"))
    }


async def forbidden(connection: Any, text: str) -> str | None:
    """Have PostgreSQL plan a query with nothing in it, and return what of it is forbidden."""
    prepared = await connection.prepare(text)
    transaction = connection.transaction()
    await transaction.start()
    try:
        await prepared.explain(*[None] * len(prepared.get_parameters()))
    except asyncpg.InsufficientPrivilegeError as error:
        return str(error)
    except asyncpg.PostgresError:
        pass  # of nothing in it
    finally:
        await transaction.rollback()
    return None


async def test_the_receiver_may_run_what_it_runs(database: Database) -> None:
    names = used(RECEIVING) - REPLAYING
    assert {"record", "settle_messages", "probe"} <= names
    async with as_role(database, RECEIVER) as connection:
        told = {name: await forbidden(connection, QUERIES[name]) for name in sorted(names)}
    assert {name: words for name, words in told.items() if words} == {}


async def test_the_reconciler_may_run_every_query_but_those_of_tokens_that_only_commands_run(
    database: Database,
) -> None:
    told = {}
    async with as_role(database, RECONCILER) as connection:
        for name in ("reconcile_tables", "evidence_tables", "case_tables", "replay_tables"):
            await connection.execute(QUERIES[name])
        for name, text in QUERIES.items():
            statements = [part for part in re.split(r";\s*$", text, flags=re.M) if part.strip()]
            if name not in OWNERS and len(statements) == 1 and not text.startswith("CREATE"):
                told[name] = await forbidden(connection, text)
    assert len(told) > 150
    assert {name: words for name, words in told.items() if words} == {}


@pytest.mark.parametrize("table", HIDDEN)
async def test_the_receiver_sees_no_tokens_no_bills_and_nothing_of_operators(
    database: Database, table: str
) -> None:
    async with as_role(database, RECEIVER) as connection:
        for statement in (f"SELECT 1 FROM {table}", f"DELETE FROM {table}"):
            assert await denied(connection, statement), statement


async def test_the_receiver_cannot_change_or_drop_what_was_recorded(database: Database) -> None:
    async with as_role(database, RECEIVER) as connection:
        for statement in (
            "DELETE FROM records",
            "TRUNCATE records",
            "UPDATE records SET body = ''",
            "UPDATE records SET digest = ''",
            "DELETE FROM batches",
            "DELETE FROM reports",
            "DROP TABLE records",
            "ALTER TABLE records ADD COLUMN x int",
            "CREATE TABLE mine (x int)",
            "SELECT 1 FROM audit.messages_unmasked",
            "CREATE ROLE another",
            "COPY records TO PROGRAM 'cat'",
        ):
            assert await denied(connection, statement), statement
        assert not await denied(connection, "UPDATE records SET deliveries = 2")


async def test_the_reconciler_cannot_alter_the_schema_mint_tokens_or_change_what_is_only_added_to(
    database: Database,
) -> None:
    async with as_role(database, RECONCILER) as connection:
        for table in APPEND_ONLY:
            for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}"):
                assert await denied(connection, statement), statement
        for statement in (
            "UPDATE operator_actions SET actor = ''",
            "UPDATE chain_links SET hash = ''",
            "UPDATE chain_entries SET account = ''",
            "UPDATE api_tokens SET role = 'admin'",
            "UPDATE api_tokens SET revoked_at = NULL",
            "DELETE FROM api_tokens",
            "INSERT INTO api_tokens SELECT * FROM api_tokens",
            "DROP TRIGGER operator_actions_append_only ON operator_actions",
            "ALTER TABLE operator_actions DISABLE TRIGGER ALL",
            "DROP TABLE lines",
            "ALTER TABLE messages ADD COLUMN x int",
            "CREATE TABLE mine (x int)",
            "DELETE FROM migrations",
            "UPDATE case_changes SET to_state = 'settled'",
            "UPDATE suspect_decisions SET verdict = 'accepted'",
            *(f"DELETE FROM {table}" for table in NEVER_FORGOTTEN),
            "CREATE ROLE another",
        ):
            assert await denied(connection, statement), statement


async def test_a_table_of_a_later_migration_is_the_reconcilers_and_not_the_receivers(
    database: Database, connection: Any
) -> None:
    await connection.execute("CREATE TABLE later (x int)")
    async with as_role(database, RECONCILER) as reconciler:
        assert not await denied(reconciler, "INSERT INTO later VALUES (1)")
    async with as_role(database, RECEIVER) as receiver:
        assert await denied(receiver, "SELECT 1 FROM later")


async def test_roles_that_are_made_by_hand_later_are_granted_the_same(
    database: Database, connection: Any
) -> None:
    await connection.execute(f"DROP OWNED BY {RECEIVER}")
    async with as_role(database, RECEIVER) as receiver:
        assert await denied(receiver, "SELECT 1 FROM records")
    await connection.execute("SELECT grant_roles()")
    async with as_role(database, RECEIVER) as receiver:
        assert not await denied(receiver, "SELECT 1 FROM records")


@asynccontextmanager
async def login(connection: Any, *, member_of: str) -> AsyncIterator[str]:
    name = f"login_{uuid.uuid4().hex[:8]}"
    await connection.execute(f"CREATE ROLE {name} LOGIN IN ROLE {member_of}")
    try:
        yield name
    finally:
        await connection.execute(f"DROP ROLE {name}")


async def test_a_process_takes_its_role_where_its_login_may_and_a_login_of_its_own_starts_too(
    database: Database, connection: Any
) -> None:
    for name, taken in ((RECEIVER, RECEIVER), ("nobody_has_this_role", None)):
        async with replace(database, role=name).pool() as pool, pool.acquire() as few:
            row = await few.fetchrow("SELECT current_user, session_user")
            assert row["current_user"] == (taken or row["session_user"])
    async with login(connection, member_of=RECEIVER) as name:
        own = replace(database, role=name)  # stands for a connection as that log-in
        async with own.connection() as few:
            assert await few.fetchval(QUERIES["become"], RECONCILER) is None
            assert await few.fetchval(QUERIES["become"], RECEIVER) == RECEIVER
            assert await migrate.migrate(few) == []
            wanted = migrate.load()
            more = [*wanted, replace(wanted[-1], version=len(wanted) + 1, name="0099_more")]
            with pytest.raises(migrate.MigrationRefused, match="this log-in may not apply them"):
                await migrate.migrate(few, more)
