"""What purging asks for 500 rows at a time looks at these, however much there is."""

from typing import Any

import pytest
from test_settlement_plans import MANY, crowded, visited

pytestmark = pytest.mark.anyio

__all__ = ["crowded"]  # the fixture

BILLED = r"""
INSERT INTO statements (
    id, account, first_day, last_day, version, file_digest, file_name, format, lines, segments, imported_at
)
VALUES (gen_random_uuid(), 'acc', '2026-10-01', '2026-10-31', 1, '\x00', 'x', 'x', 100000, 100000, now());
INSERT INTO runs (id, account, first_day, last_day, statement_id, run_at, rules, result, version)
SELECT gen_random_uuid(), 'acc', first_day, last_day, id, now(), '{}', '{}', 1 FROM statements;
INSERT INTO periods (account, first_day, last_day, versions, newest_run, closed_run, closed_at, closed_by)
SELECT 'acc', first_day, last_day, 1, id, id, now(), 'x' FROM runs;
INSERT INTO lines (shard, statement_id, line, message_id, vendor_message_id, phone, segments)
SELECT m.shard, s.id, row_number() OVER (), m.id, m.vendor_message_id, m.phone, 1
FROM messages AS m CROSS JOIN statements AS s;
INSERT INTO discrepancies (
    run_id, seq, shard, kind, message_id, vendor_message_id, phone, segments, amount
)
SELECT r.id, row_number() OVER (), m.shard, 'not_billed', m.id, m.vendor_message_id, m.phone, 1, 1
FROM messages AS m CROSS JOIN runs AS r;
INSERT INTO outcomes (run_id, shard, key, vendor_message_id, phone, lines, billed_segments, billed_amount)
SELECT r.id, m.shard, m.id, m.vendor_message_id, m.phone, 1, 1, 1
FROM messages AS m CROSS JOIN runs AS r;
INSERT INTO cases (
    shard, id, account, first_day, last_day, kind, vendor_message_id, phone, nth, found_at, state,
    version, changed_at, changed_by, ended_at, run_id, segments, amount, currency
)
SELECT
    m.shard, gen_random_uuid(), 'acc', r.first_day, r.last_day, 'not_billed', m.vendor_message_id, m.phone,
    1, now(), 'resolved', 1, now(), 'x', now(), r.id, 1, 1, 'CNY'
FROM messages AS m CROSS JOIN runs AS r;
UPDATE statements SET lines_sha256 = 'x';
UPDATE runs SET discrepancies_sha256 = 'x', reports_sha256 = 'x';
ANALYZE;
"""


async def test_purging_looks_at_its_own_rows_only(crowded: Any) -> None:
    await crowded.execute(BILLED)
    some = await crowded.fetch(
        "SELECT shard, id, vendor_message_id, phone FROM messages ORDER BY md5(id::text) LIMIT $1",
        MANY,
    )

    def column(name: str, kind: str) -> str:
        return f"ARRAY[{','.join(repr(str(row[name])) for row in some)}]::{kind}[]"

    shards, ids = column("shard", "integer"), column("id", "uuid")
    vendor_ids, phones = column("vendor_message_id", "text"), column("phone", "text")
    purge = "'00000000-0000-0000-0000-000000000001'"
    day = ["'acc'", "now() - interval '2 days'", "now()", "'epoch'"]
    bodies = await crowded.fetch("SELECT digest FROM records ORDER BY digest LIMIT $1", MANY)
    digests = "ARRAY[" + ",".join(f"'\\x{row['digest'].hex()}'" for row in bodies) + "]::bytea[]"
    looked_at = {
        query: await visited(crowded, query, *arguments)
        for query, arguments in {
            "bodies_to_purge": [*day, "''", str(MANY)],
            "messages_to_purge": [*day, f"{purge}", str(MANY), "TRUE"],
            "lock_bodies": [digests],
            "purge_bodies": [digests, purge, "NULL", "NULL"],
            "purge_messages": [purge, shards, ids, phones],
            "purge_numbers": ["'acc'", shards, ids, vendor_ids, phones, phones],
            "statements_naming": [shards, ids],
            "runs_naming": [shards, ids, vendor_ids],
            "oldest_of_account": ["'acc'"],
            "oldest_message_within": ["'acc'", "'epoch'", "now()"],
        }.items()
    }
    # Purging numbers touches eight tables, each by its key.
    assert {query: rows for query, rows in looked_at.items() if rows > 100 * MANY} == {}
