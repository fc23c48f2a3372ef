"""What keeps the schema fit for several servers: each large table's keys and joins hold its column."""

import re
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import databases
import pytest
from joins import Joins
from pglast import ast, parse_sql
from pglast.visitors import Visitor

from runtime.queries import CITUS, QUERIES, SQL, Queries

pytestmark = pytest.mark.anyio

DISTRIBUTE = (SQL / "citus" / "distribute.sql").read_text("utf-8")
DISTRIBUTED = dict(re.findall(r"create_distributed_table\('(\w+)', '(\w+)'", DISTRIBUTE))
GROUPS = dict(
    re.findall(r"create_distributed_table\('(\w+)'.*colocate_with => '(\w+)'", DISTRIBUTE)
)

# Tables that stay on the coordinator, and why they may.
LOCAL = {
    "batches": "a row a commit, found by its number or by what is not settled yet",
    "unlinked_messages": "a queue: a row a call, deleted within a minute",
    "unlinked_actions": "a queue: a row for each of operator_actions, deleted within a minute",
    "sends": "what is sent through Huizhi, at the accounts' rates; unique by its key",
    "submissions": "as sends",
    "moved_messages": "messages that were in doubt",
    "pulls": "a row a page",
    "sweeps": "a row an account",
    "balances": "a row an account and hour",
    "reviews": "signs and templates",
    "review_results": "signs and templates",
    "leases": "a row a job",
    "jobs": "a row a job",
    "statements": "a row a file",
    "runs": "a row a run",
    "periods": "a row an account and period",
    "case_periods": "a row an account and period",
    "credits": "a row a file",
    "credit_lines": "a vendor's credit notes, typed by people",
    "chain_links": "a row a minute",
    "migrations": "a row a migration",
    "even_outcomes": "a row for thousands of a run's messages",
    "alarms": "a row an alarm",
    "alerts": "a row an alarm and channel",
    "alert_channels": "a row a channel",
    "arrival_curves": "a row an account",
    "arrival_days": "a row an account and day",
    "document_features": "what a vendor's documents look like",
    "positions": "a row an account",
    "api_tokens": "a row a token",
    "operator_actions": "two rows an action of a person",
    "purges": "a row for some hundreds of purged rows",
    "purged_days": "a row an account and day",
    "pseudonym_keys": "one row",
    "erasures": "a row a request",
    "replays": "a row a replay",
}

# Joins by something else, and why.
APART = {
    "messages_to_link": "what is linked is found by its key; a page of messages is looked up at a time",
    "messages_to_verify": "a proof of what was purged, a hundred messages at a time",
    "unlinked_in_linked": "a proof over everything, made by a person",
    "list_suspects": "a page of suspects, each with where its record came from",
    "demo_messages": "the demo's own, on one server",
    "identifiable_by_reports": "the few messages in doubt, by their number among the few orphans",
    "identifiable_by_statement": "the few messages in doubt, by their number in one statement",
    "duplicate-texts": "an analysis over numbers, which no message's column can serve",
    "month-on-month": "an analysis over days, of what was counted before",
    "number-limits": "an analysis over numbers, which no message's column can serve",
}

# Each statement as one server is asked it, also where this process asks a cluster.
ONE_SERVER = Queries(SQL / "queries")
# What makes the working tables that other statements use.
WORKING = ("reconcile_tables", "evidence_tables", "case_tables", "replay_tables")
ANALYSES = {path.stem: path.read_text("utf-8") for path in (SQL / "audit").glob("*.sql")}


async def test_every_table_is_distributed_or_stays_for_a_reason(connection: Any) -> None:
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert {row["tablename"] for row in rows} == set(DISTRIBUTED) | set(LOCAL)
    assert not set(DISTRIBUTED) & set(LOCAL)


async def test_every_unique_key_of_a_large_table_holds_its_distribution_column(
    connection: Any,
) -> None:
    rows = await connection.fetch(
        "SELECT c.relname AS table, i.relname AS name, array_agg(a.attname::text) AS columns"
        " FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indrelid"
        " JOIN pg_class AS i ON i.oid = x.indexrelid"
        " JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = ANY(x.indkey)"
        " WHERE x.indisunique AND c.relname = ANY($1) GROUP BY 1, 2",
        list(DISTRIBUTED),
    )
    assert {row["table"] for row in rows} == set(DISTRIBUTED)
    for row in rows:
        assert DISTRIBUTED[row["table"]] in row["columns"], row["name"]


async def test_tables_that_stand_together_have_one_type_of_column_and_it_is_never_null(
    connection: Any,
) -> None:
    rows = await connection.fetch(
        "SELECT table_name, column_name, data_type, is_nullable"
        " FROM information_schema.columns WHERE table_schema = 'public'"
    )
    columns = {(row["table_name"], row["column_name"]): row for row in rows}
    types: dict[str, set[str]] = {}
    for table, column in DISTRIBUTED.items():
        found = columns[table, column]
        assert found["is_nullable"] == "NO", table
        group = table if GROUPS[table] == "none" else GROUPS[table]
        types.setdefault(group, set()).add(found["data_type"])
    assert types == {"messages": {"integer"}, "records": {"bytea"}}


async def test_no_foreign_key_is_without_the_column(connection: Any) -> None:
    rows = await connection.fetch(
        "SELECT conname FROM pg_constraint WHERE contype = 'f'"
        " AND (conrelid::regclass::text = ANY($1) OR confrelid::regclass::text = ANY($1))",
        list(DISTRIBUTED),
    )
    assert [row["conname"] for row in rows] == []


async def test_every_join_of_large_tables_uses_the_distribution_column_or_says_why_not(
    connection: Any,
) -> None:
    views = await connection.fetch(
        "SELECT viewname, definition FROM pg_views WHERE schemaname = 'audit'"
    )
    whole = [row["viewname"] for row in views if row["viewname"].endswith("_unmasked")]
    joins = Joins(DISTRIBUTED | dict.fromkeys(whole, "shard"))
    texts = dict(ONE_SERVER) | ANALYSES
    texts |= {f"view {row['viewname']}": row["definition"] for row in views}
    apart = {name: found for name, text in texts.items() if (found := list(joins.apart(text)))}
    assert set(apart) == set(APART), apart
    apart = {name: found for name, text in CITUS.items() if (found := list(joins.apart(text)))}
    assert set(apart) <= set(APART), apart


async def test_what_a_cluster_is_asked_instead_takes_and_gives_the_same(connection: Any) -> None:
    for name in WORKING:
        await connection.execute(ONE_SERVER[name])
    assert len(CITUS) > 20
    for name, text in CITUS.items():
        assert text != ONE_SERVER[name], f"{name} is no other"
        asked = [await connection.prepare(each) for each in (ONE_SERVER[name], text)]
        one, other = ([kind.name for kind in each.get_parameters()] for each in asked)
        assert one == other, name
        one, other = ([(c.name, c.type.name) for c in each.get_attributes()] for each in asked)
        assert one == other, name


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SELECT FROM messages m JOIN reports r ON m.shard = r.shard AND m.id = r.message_id", []),
        ("SELECT FROM messages m JOIN reports r ON m.id = r.message_id", ["m with r"]),
        ("SELECT FROM messages m, reports r WHERE r.shard = m.segments", ["m with r"]),
        (
            "SELECT FROM messages m WHERE EXISTS (SELECT FROM reports r WHERE r.message_id = m.id)",
            ["m with r"],
        ),
        (
            "UPDATE messages m SET status = 'x' FROM reports r WHERE m.id = r.message_id",
            ["m with r"],
        ),
        ("DELETE FROM awaiting a USING messages m WHERE a.message_id = m.id", ["a with m"]),
        (
            "WITH f AS (SELECT shard AS s FROM reports) SELECT FROM messages m JOIN f ON f.s = m.shard",
            [],
        ),
        (
            "WITH f AS (SELECT phone FROM reports) SELECT FROM messages m JOIN f ON f.phone = m.phone",
            ["m with f"],
        ),
        (
            "SELECT FROM unnest($1::int[]) t (s) JOIN messages m ON t.s = m.shard"
            " JOIN reports r ON t.s = r.shard",
            [],
        ),
        (
            "SELECT FROM messages m CROSS JOIN LATERAL (SELECT FROM reports r WHERE r.shard = m.shard) x",
            [],
        ),
        (
            "SELECT FROM messages m CROSS JOIN LATERAL (SELECT FROM reports r WHERE r.phone = m.phone) x",
            ["m with r"],
        ),
        (
            "INSERT INTO lines SELECT FROM messages m JOIN reports r ON m.phone = r.phone",
            ["m with r"],
        ),
        ("SELECT FROM messages m JOIN statements s ON m.account = s.account", []),
    ],
)
def test_joins_are_told_apart(text: str, found: list[str]) -> None:
    assert list(Joins(DISTRIBUTED).apart(text)) == found


def test_no_query_changes_a_distribution_column() -> None:
    class Changes(Visitor):  # type: ignore[misc]
        def __init__(self) -> None:
            self.found: list[tuple[str, str]] = []

        def visit_UpdateStmt(self, _: Any, node: ast.UpdateStmt) -> None:  # noqa: N802  pglast names it
            self.found += [(node.relation.relname, target.name) for target in node.targetList]

        def visit_InsertStmt(self, _: Any, node: ast.InsertStmt) -> None:  # noqa: N802  pglast names it
            clause = node.onConflictClause
            for target in (clause.targetList or ()) if clause else ():
                self.found.append((node.relation.relname, target.name))

    changes = Changes()
    for text in [*ONE_SERVER.values(), *CITUS.values()]:
        for statement in parse_sql(text):
            changes(statement.stmt)
    assert len(changes.found) > 50
    assert not set(changes.found) & set(DISTRIBUTED.items())


def test_why_tests_are_not_on_a_cluster_is_documented_and_these_tests_exist() -> None:
    scale = (SQL.parent / "docs" / "scale.md").read_text("utf-8")
    for reason, tests in databases.NOT_ON_CITUS.items():
        assert reason in scale
        for test in tests:
            file, _, name = test.partition("[")[0].partition("::")
            assert f"def {name or 'test_'}" in (SQL.parent / file).read_text("utf-8"), test


# The second is what it says where its planner did not foresee a statement.
_REFUSALS = (asyncpg.FeatureNotSupportedError, asyncpg.InternalServerError)


@pytest.mark.skipif(not databases.CITUS, reason="needs a Citus cluster")
async def test_citus_takes_every_statement(connection: Any) -> None:
    assert {name: QUERIES[name] for name in CITUS} == dict(CITUS)
    for name in WORKING:
        await connection.execute(QUERIES[name])
    values: dict[str, Any] = {"text": "1", "bytea": bytes(32), "timestamptz": datetime.now(UTC)}
    values |= {"int4": 1, "int8": 1, "float8": 1.0, "numeric": 1, "bool": True, "uuid": uuid4()}
    values |= {"date": date(2024, 10, 1), "jsonb": {}}
    # Of several shards: with one value Citus may look at one, and takes there what it takes nowhere else.
    several = {kind: [value] * 16 for kind, value in values.items()}
    several |= {
        "int4": [n << 28 for n in range(-8, 8)],
        "bytea": [bytes([n]) * 32 for n in range(16)],
    }
    refused = {}
    for name, text in (dict(QUERIES) | ANALYSES).items():
        for statement in filter(str.strip, re.split(r";\s*$", text, flags=re.MULTILINE)):
            transaction = connection.transaction()
            await transaction.start()
            try:
                prepared = await connection.prepare(statement)
                given = [kind.name for kind in prepared.get_parameters()]
                await prepared.fetch(
                    *(
                        several[kind[:-2]] if kind.endswith("[]") else values.get(kind)
                        for kind in given
                    )
                )
            except asyncpg.PostgresError as error:
                # All else is about these values: it was taken, and they are no good.
                if "violates" not in str(error) and (
                    isinstance(error, _REFUSALS) or "support" in str(error)
                ):
                    refused[name] = str(error)
            finally:
                await transaction.rollback()
    assert refused == {}
