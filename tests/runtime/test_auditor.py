"""The role `auditor`: it reads the masked views of the schema `audit`, and nothing else."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from gateways.gateway import Secret
from runtime import migrate
from runtime.database import Database

pytestmark = pytest.mark.anyio

VIEWS = {
    *("prefixes", "messages", "daily", "reports", "statements", "lines", "runs", "discrepancies"),
}
# On a cluster the coordinator has pieces of tables too, with a number at the end of their names.
RELATIONS = r"""
SELECT n.nspname AS schema, c.relname AS name
FROM pg_class AS c
INNER JOIN pg_namespace AS n ON c.relnamespace = n.oid
WHERE
    n.nspname IN ('audit', 'public')
    AND c.relkind IN ('r', 'v', 'm', 'p')
    AND c.relname !~ '_\d{6}$'
ORDER BY 1, 2
"""
MESSAGE = """
INSERT INTO messages (
    shard, id, account, vendor_message_id, phone, sent_at, registered_at, segments, segments_given,
    status, vendor_code, reason, reported_at, content
)
VALUES (
    1, gen_random_uuid(), 'think', 'a', $1, $2, $2, 2, TRUE,
    'failed', '-1', '13800138000 是空号', $2::timestamptz + interval '3 seconds', '您的验证码是7865'
)
"""


@pytest.fixture
async def auditor(connection: Any) -> AsyncIterator[Any]:
    """A connection that has become the auditor, as a log-in of that group would be."""
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE auditor")
        yield connection


@asynccontextmanager
async def refused(connection: Any) -> AsyncIterator[None]:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with connection.transaction():
            yield


async def test_reads_the_masked_views_and_nothing_else(auditor: Any) -> None:
    found = {"audit": set(), "public": set()}  # type: dict[str, set[str]]
    for row in await auditor.fetch(RELATIONS):
        relation = f"{row['schema']}.{row['name']}"
        try:
            async with auditor.transaction():
                await auditor.fetch(f"SELECT * FROM {relation} LIMIT 1")
        except asyncpg.InsufficientPrivilegeError:
            continue
        found[row["schema"]].add(row["name"])
    assert found == {"audit": VIEWS, "public": set()}


async def test_writes_nothing(auditor: Any) -> None:
    for statement in (
        "INSERT INTO audit.prefixes VALUES ('194', 'x', 'x', FALSE)",
        "UPDATE audit.reports SET source = 'pull'",
        "DELETE FROM audit.prefixes",
        "DELETE FROM messages",
        "CREATE TABLE audit.mine (x int)",
        "CREATE TABLE public.mine (x int)",
        "DROP VIEW audit.messages",
        "CREATE ROLE another",
    ):
        async with refused(auditor):
            await auditor.execute(statement)


async def test_log_in_of_the_group_sees_no_number_and_no_text(database: Database) -> None:
    # A real log-in of its own, which cannot become anything else.
    name = f"bi_{uuid.uuid4().hex[:12]}"
    async with database.connection() as owner:
        sent_at = await owner.fetchval("SELECT timestamptz '2026-10-05T01:00:00Z'")
        for phone in ("13800138000", "85261234567"):
            await owner.execute(MESSAGE, phone, sent_at)
        await owner.execute(f"CREATE ROLE {name} LOGIN IN ROLE auditor")
        try:
            mark = "&" if "?" in database.dsn.reveal() else "?"
            dsn = Secret(f"{database.dsn.reveal()}{mark}user={name}".replace("user=huizhi&", ""))
            async with Database(dsn=dsn, name="bi").connection() as bi:
                assert await bi.fetchval("SELECT current_user") == name
                rows = await bi.fetch("SELECT * FROM audit.messages ORDER BY prefix")
                async with refused(bi):
                    await bi.fetch("SELECT * FROM audit.messages_unmasked")
                async with refused(bi):
                    await bi.fetch("SELECT phone FROM messages")
        finally:
            await owner.execute(f"DROP ROLE {name}")
    assert [row["phone"] for row in rows] == ["138****8000", "****67"]
    assert {row["reason"] for row in rows} == {"…8000 是空号"}
    assert "content" not in rows[0].keys()  # noqa: SIM118  a record is no dict
    assert [row["carrier_zh"] for row in rows] == ["移动", None]
    assert [row["latency_seconds"] for row in rows] == [3, 3]
    for row in rows:
        assert "13800138000" not in repr(row)


async def test_daily_goes_by_the_time_zone_of_the_session(connection: Any) -> None:
    sent_at = await connection.fetchval("SELECT timestamptz '2026-10-05T17:00:00Z'")
    await connection.execute(MESSAGE, "13800138000", sent_at)
    daily = "SELECT day::text, messages, segments, failed, delivered FROM audit.daily"
    assert [tuple(row) for row in await connection.fetch(daily)] == [("2026-10-05", 1, 2, 1, 0)]
    await connection.execute("SET TIME ZONE 'Asia/Shanghai'")
    assert await connection.fetchval("SELECT day::text FROM audit.daily") == "2026-10-06"


async def test_every_relation_of_the_schema_is_granted_or_unmasked(connection: Any) -> None:
    rows = await connection.fetch(RELATIONS)
    names = {row["name"] for row in rows if row["schema"] == "audit"}
    unmasked = {name for name in names if name.endswith("_unmasked")}
    assert names == VIEWS | unmasked
    assert unmasked == {
        "sent_unmasked",
        "messages_unmasked",
        "lines_unmasked",
        "discrepancies_unmasked",
    }


async def test_columns_of_the_views_are_stable(connection: Any) -> None:
    rows = await connection.fetch(
        "SELECT table_name, string_agg(column_name, ' ' ORDER BY ordinal_position) AS columns"
        " FROM information_schema.columns WHERE table_schema = 'audit' GROUP BY table_name"
    )
    columns = {row["table_name"]: row["columns"] for row in rows}
    assert columns["daily"] == (
        "account day messages segments delivered failed unresolved delivered_segments contradicted"
    )
    assert columns["messages"] == (
        "id account vendor_message_id phone prefix carrier carrier_zh sent_at registered_at segments"
        " segments_given status reported_at latency_seconds vendor_code reason contradicted sign"
        " reference template_id"
    )
    assert columns["messages_unmasked"] == columns["messages"] + " content"
    assert columns["lines"] == (
        "account statement_id first_day last_day version newest line message_id vendor_message_id"
        " phone segments amount sent_at status message_sent_at message_status message_segments"
    )
    assert columns["statements"] == (
        "id account first_day last_day version newest file_name format lines segments amount imported_at"
    )
    assert columns["runs"] == (
        "id account first_day last_day statement_id statement_version run_at newest status currency"
        " sent_messages owed_segments owed_amount billed_segments billed_amount difference_amount"
    )
    assert columns["discrepancies"] == (
        "account run_id first_day last_day newest seq kind message_id vendor_message_id phone line"
        " sent_at status owed_segments billed_segments price billed_amount segments amount currency"
    )
    assert columns["reports"] == (
        "account message_id vendor_message_id phone status vendor_code reason reported_at received_at"
        " source orphan record"
    )


async def test_user_who_may_make_no_roles_gets_all_but_the_role(
    empty_database: Database,
) -> None:
    # Where nobody has made it yet, the migration goes on without it and says so.
    text = next(one.text for one in migrate.load() if one.name.endswith("_audit"))
    name = f"plain_{uuid.uuid4().hex[:12]}"
    renamed = text.replace("auditor", f"auditor_{name}")
    async with empty_database.connection() as owner:
        said: list[str] = []
        owner.add_log_listener(lambda _, message: said.append(message.message))
        await owner.execute(f"CREATE ROLE {name}; GRANT ALL ON SCHEMA public TO {name}")
        await owner.execute(
            f"DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {name}', current_database()); END $$"
        )
        try:
            await owner.execute(f"SET ROLE {name}")
            for one in migrate.load():
                if one.text == text:
                    break
                await owner.execute(one.text)
            await owner.execute(renamed)
            assert await owner.fetchval("SELECT count(*) FROM audit.messages") == 0
            assert any(f"the role auditor_{name} was not made" in message for message in said)
        finally:
            await owner.execute(
                f"RESET ROLE; REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}"
            )
