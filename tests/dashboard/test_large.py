"""Pages over 100,000 rows stay quick: lists go by cursor, and what counts is bounded and uses an index."""

import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from browsing import TOKEN, browsing, log_in, serving, settings
from playwright.async_api import expect

from runtime.database import Database
from runtime.queries import QUERIES

pytestmark = pytest.mark.anyio
ROWS = 100_000
QUICK_SECONDS = 2.0  # on a machine that does other things as well


async def _quickly(client: httpx.AsyncClient, path: str, **more: Any) -> httpx.Response:
    """Get a page twice, for the first time opens connections and plans."""
    took = []
    for _ in range(2):
        began = time.monotonic()
        answer = await client.get(path, **more)
        took.append(time.monotonic() - began)
        assert answer.status_code == 200, path
    assert min(took) < QUICK_SECONDS, f"{path} took {min(took):.1f} s"
    return answer


async def _fill(connection: Any) -> UUID:
    """Make as many messages of one day, cases of one run, and callbacks."""
    day = datetime(2024, 10, 5, tzinfo=UTC)
    run = uuid4()
    await connection.execute(
        """
        INSERT INTO messages (shard, id, account, vendor_message_id, phone, sent_at, registered_at,
            segments, segments_given, status, reported_at, vendor_code)
        SELECT n, gen_random_uuid(), 'think', 'm' || n, '138' || lpad(n::text, 8, '0'),
            $1::timestamptz + n * interval '0.5 second', $1, 1, FALSE, 'delivered',
            $1::timestamptz + n * interval '0.5 second' + (n % 40) * interval '1 second', '1'
        FROM generate_series(1, $2::integer) AS n
        """,
        day,
        ROWS,
    )
    await connection.execute(
        """
        INSERT INTO reports (shard, message_id, fingerprint, account, vendor_message_id, phone, status,
            vendor_code, reported_at, received_at, source, digest, orphan)
        SELECT shard, id, sha256(id::text::bytea), account, vendor_message_id, phone, status,
            vendor_code, reported_at, reported_at, 'push', sha256(id::text::bytea), FALSE
        FROM messages
        """
    )
    await connection.execute(
        """
        INSERT INTO cases (shard, id, account, first_day, last_day, kind, vendor_message_id, phone, nth,
            found_at, state, version, changed_at, changed_by, run_id, segments, amount, currency)
        SELECT n, gen_random_uuid(), 'think', '2024-10-01', '2024-10-31', 'not_billed', 'm' || n, NULL, 1,
            $1, 'open', 1, $1, 'reconciliation', $3, -1, -0.04, 'CNY'
        FROM generate_series(1, $2::integer) AS n
        """,
        day,
        ROWS,
        run,
    )
    await connection.execute(
        """
        INSERT INTO discrepancies (run_id, seq, shard, kind, cause, vendor_message_id, segments, amount)
        SELECT $2, n, n, 'not_billed', 'no_line', 'm' || n, -1, -0.04
        FROM generate_series(1, $1::integer) AS n
        """,
        ROWS,
        run,
    )
    result = {
        "id": str(run),
        "account": "think",
        "period": "2024-10",
        "currency": "CNY",
        "status": "discrepant",
        "sent": {"messages": ROWS, "segments": ROWS},
        "owed": {"messages": ROWS, "segments": ROWS, "amount": "4000"},
        "billed": {"lines": 0, "segments": 0, "amount": "0"},
        "difference": {"segments": -ROWS, "amount": "-4000"},
        "messages": {"matched": 0, "discrepant": 0, "not_billed": ROWS, "not_charged": 0},
        "lines": {"matched": 0, "discrepant": 0},
        "discrepancies": {"not_billed": {"count": ROWS, "segments": -ROWS, "amount": "-4000"}},
        "unresolved": {"report_missing": 0, "orphans": 0, "quarantined": 0},
    }
    await connection.execute(
        """
        INSERT INTO runs (id, account, first_day, last_day, run_at, rules, result, version)
        VALUES ($1, 'think', '2024-10-01', '2024-10-31', $2, '{}', $3, 1)
        """,
        run,
        day,
        json.dumps(result),
    )
    await connection.execute(
        """
        INSERT INTO records (digest, account, source, batch_id, received_at, last_received_at, deliveries,
            method, query, headers, body)
        SELECT sha256(n::text::bytea), 'think', 'push', 1, $1::timestamptz + n * interval '1 second', $1, 1,
            'POST', '', '{}', '{}'
        FROM generate_series(1, $2::integer) AS n
        """,
        day,
        ROWS,
    )
    await connection.execute("ANALYZE")
    return run


async def test_pages_of_100_000_rows_stay_quick(database: Database, tmp_path: Path) -> None:
    async with database.connection() as connection:
        run = await _fill(connection)
    given = settings(tmp_path)
    paths = (
        "/?day=2024-10-05",
        "/reconciliation?until=2024-12",
        "/reconciliation/think/2024-10",
        f"/runs/{run}",
        "/discrepancies",
        "/discrepancies?kind=not_billed&state=open",
        "/messages",
        "/messages?account=think&from=2024-10-05&to=2024-10-05",
        "/messages?phone=13800050000",
        "/callbacks",
    )
    async with serving(database, given) as address:
        async with httpx.AsyncClient(
            base_url=address, headers={"sec-fetch-site": "same-origin"}, timeout=60
        ) as client:
            assert (await client.post("/login", data={"token": TOKEN})).status_code == 303
            for path in paths:
                answer = await _quickly(client, path)
                if more := re.search(r'hx-get="([^"]+cursor=[^"]+)"', answer.text):
                    after = more[1].replace("&amp;", "&")
                    part = await _quickly(client, after, headers={"hx-request": "true"})
                    assert "<html" not in part.text
        async with browsing(address, "en") as page:
            await log_in(page)
            await page.goto("/messages")
            rows = page.locator("tbody tr")
            await expect(rows).to_have_count(101)
            await page.get_by_role("button", name="Show more").click()
            await expect(rows).to_have_count(201)
            seen = await page.locator("tbody td:nth-child(5)").all_inner_texts()
            assert len(set(seen)) == 200


async def test_a_day_is_found_by_its_index(database: Database) -> None:
    day = datetime(2024, 10, 5, tzinfo=UTC)
    async with database.connection() as connection:
        await _fill(connection)
        for name, arguments in (
            ("day_of_messages", (["think"], [day], [day + timedelta(minutes=10)])),
            ("sources_of_day", ("think", day, day + timedelta(days=1), 500)),
            ("watched_accounts", (["think"], day, day + timedelta(hours=13))),
        ):
            plan = "\n".join(
                row[0] for row in await connection.fetch(f"EXPLAIN {QUERIES[name]}", *arguments)
            )
            assert not re.search(r"Seq Scan on (messages|reports|records)", plan), (
                f"{name}:\n{plan}"
            )
