"""Hot queries touch what they are about and nothing else, whatever the planner was last told."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from runtime.database import Database
from runtime.queries import QUERIES

pytestmark = pytest.mark.anyio

# Statistics are of a quiet day; then comes a burst of receipts that are earlier than their messages, and
# a backlog of batches that nobody has settled yet.
QUIET = r"""
INSERT INTO messages (
    shard, id, account, vendor_message_id, phone, sent_at, registered_at, segments, segments_given,
    status, vendor_code, reference
)
SELECT
    n * 7, (lpad(to_hex(n * 7), 8, '0') || substr(md5('m' || n), 1, 24))::uuid, 'acc', 'v' || n,
    '138' || n, now() - n * interval '1 s', now(), 1, FALSE,
    CASE WHEN n % 10 = 0 THEN 'submitted' ELSE 'delivered' END, '1', 'ref' || n
FROM generate_series(1, 100000) AS n;
INSERT INTO awaiting (shard, message_id, account, sent_at, next_poll_at)
SELECT shard, id, account, sent_at, now() + interval '1 day' FROM messages WHERE status = 'submitted';
INSERT INTO reports (
    shard, message_id, fingerprint, account, vendor_message_id, phone, status, vendor_code, received_at,
    source, digest, orphan
)
SELECT
    shard, id, '\x00', account, vendor_message_id, phone, 'delivered', '1', now(), 'push', '\x00', FALSE
FROM messages;
INSERT INTO batches (recorder, recorded_at, settled_at)
SELECT 'r', now(), now() FROM generate_series(1, 20000);
INSERT INTO records (
    digest, account, source, batch_id, received_at, last_received_at, deliveries, method, query,
    headers, body
)
SELECT
    sha256(n::text::bytea), 'acc', 'push', n / 5 + 1, now() - n * interval '1 s', now(), 1, 'POST',
    '', '{}', 'x'
FROM generate_series(1, 100000) AS n;
INSERT INTO quarantine SELECT digest, account, received_at, now(), 'x' FROM records LIMIT 20;
INSERT INTO balances (account, kind, digest, read_at, amount)
SELECT 'acc', CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END, sha256(n::text::bytea), now() - n * interval '1 s', n
FROM generate_series(1, 100000) AS n;
ANALYZE;
"""
BURST = r"""
INSERT INTO reports (
    shard, message_id, fingerprint, account, vendor_message_id, phone, status, vendor_code, received_at,
    source, digest, orphan
)
SELECT
    n * 13, (lpad(to_hex(n * 13), 8, '0') || substr(md5('o' || n), 1, 24))::uuid, '\x00', 'acc',
    'o' || n, '1', 'delivered', '1', now(), 'push', '\x00', TRUE
FROM generate_series(1, 100000) AS n;
INSERT INTO batches (recorder, recorded_at) SELECT 'r', now() FROM generate_series(1, 20000);
"""
MANY = 500
LOOKED_AT = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables"


@pytest.fixture(params=["told of the quiet day", "told of the burst too"])
async def crowded(database: Database, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with database.connection() as connection:
        await connection.execute(QUIET)
        await connection.execute(BURST)
        if request.param == "told of the burst too":  # by the server itself, sooner or later
            await connection.execute("ANALYZE")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        yield connection


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def visited(connection: Any, query: str, *arguments: str) -> int:
    """How many rows the query's generic plan looks at; the query itself is undone."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"PREPARE hot AS {QUERIES[query]}")
    said = await connection.fetchval(
        "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE hot"
        + (f"({', '.join(arguments)})" if arguments else "")
    )
    await transaction.rollback()
    await connection.execute("DEALLOCATE hot")
    return sum(
        int(
            node["Actual Loops"]
            * (
                node["Actual Rows"]
                + node.get("Rows Removed by Filter", 0)
                + node.get("Rows Removed by Join Filter", 0)
                + node.get("Rows Removed by Index Recheck", 0)
            )
        )
        for node in nodes(json.loads(said)[0]["Plan"])
    )


async def visited_within(connection: Any, query: str, *arguments: str) -> int:
    """How many rows a query looks at that is a function's call, whose plan says nothing."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"PREPARE hot AS {QUERIES[query]}")
    before = await connection.fetchval(LOOKED_AT)  # what this session has not told of yet
    await connection.execute(f"EXECUTE hot ({', '.join(arguments)})")
    rows = await connection.fetchval(LOOKED_AT) - before
    await transaction.rollback()
    await connection.execute("DEALLOCATE hot")
    return int(rows)


async def test_hot_queries_look_at_their_own_rows_only(crowded: Any) -> None:
    some = await crowded.fetch(
        "SELECT shard, id FROM messages ORDER BY md5(id::text) LIMIT $1", MANY
    )
    shards = f"ARRAY[{','.join(str(row['shard']) for row in some)}]::integer[]"
    messages = f"ARRAY[{','.join(repr(str(row['id'])) for row in some)}]::uuid[]"
    nothing = f"array_fill(NULL::text, ARRAY[{MANY}])"
    now = f"array_fill(now(), ARRAY[{MANY}])"
    seconds = f"array_fill(0::float8, ARRAY[{MANY}])"
    word = f"array_fill('delivered'::text, ARRAY[{MANY}])"
    print_ = f"array_fill('\\x01'::bytea, ARRAY[{MANY}])"
    report = [shards, messages, print_, word, word, word, word, word, nothing, now, now]
    source = f"array_fill('push'::text, ARRAY[{MANY}])"
    plain = [
        f"array_fill(NULL::{kind}, ARRAY[{MANY}])"
        for kind in ("text", "integer", "numeric", "numeric", "text", "text", "float8")
    ]
    plain.insert(0, f"array_fill(FALSE, ARRAY[{MANY}])")
    page = ["NULL", "NULL", "NULL", "NULL", "NULL", "101"]
    looked_at = {
        query: await visited(crowded, query, *arguments)
        for query, arguments in {
            "add_reports": [*report, source, print_, *plain],
            "lock_messages": [shards, messages],
            "settle_messages": [shards, messages, seconds],
            "settle_suspects": [shards, messages, seconds, "now()"],
            "settle_strangers": [shards, "now()"],
            "forget_strangers": [shards, messages],
            "joinable_orphans_of": [shards, messages],
            "take_up_batches": ["now()", "10", "now()"],
            "records_of_batches": ["ARRAY[1, 2, 3]"],
            "batches_settled": ["ARRAY[1, 2, 3]", "now()"],
            "claim_awaiting": ["'acc'", "now() + interval '2 days'", "now()", str(MANY)],
            "list_messages": ["ARRAY['acc']", "NULL", *page],
            "list_messages_of_reference": ["ARRAY['acc']", "'ref77'", *page],
            "list_messages_of_phone": ["ARRAY['acc']", "NULL", *page, "'13877'"],
            "list_messages_of_vendor_id": [
                "ARRAY['acc']",
                "NULL",
                *page,
                f"ARRAY[{7 * 77}]",
                "'v77'",
                "NULL",
            ],
            "list_callbacks": ["ARRAY['acc']", *page],
            "list_callbacks_left": ["ARRAY['acc']", "'quarantined'", *page[1:]],
            "list_orphans": ["ARRAY['acc']", *page],
            "list_balances": ["ARRAY['acc']", "NULL", *page[1:5], "NULL", "101"],
            "newest_balances": ["ARRAY['acc', 'other']"],
            "reports_of_message": [str(some[0]["shard"]), f"'{some[0]['id']}'"],
        }.items()
    }
    looked_at["settle_plain"] = await visited_within(
        crowded,
        "settle_plain",
        *(shards, messages, print_, word, word, nothing, now, now, print_),
        f"array_fill(1, ARRAY[{MANY}])",
        *["ARRAY['delivered']"] * 4,
        "ARRAY[3600.0]::float8[]",
        "ARRAY[1, 2, 3]",
        "now()",
    )
    assert looked_at["settle_plain"] >= MANY
    # A few per node of the plan for each row asked about, where a table holds 100,000 or more.
    assert {query: rows for query, rows in looked_at.items() if rows > 25 * MANY} == {}
