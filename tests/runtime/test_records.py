"""Raw bytes: stored once, counted every time, given back as they came."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from gateways.gateway import Call, Callback, Reply
from runtime import records
from runtime.queries import QUERIES
from runtime.records import Record

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 10, 20, 12, tzinfo=UTC)


def push(body: bytes, account: str = "think", at: datetime = NOW, **more: Any) -> Record:
    callback = Callback(
        **{"method": "POST", "query": b"", "headers": {"a": "b"}, "body": body, **more}
    )
    return records.of_callback(account, callback, received_at=at, peer="203.0.113.1")


def reply(body: bytes, subject: str, *, once: bool, call: Call = Call.QUERY_STATUS) -> Record:
    told = Reply(call=call, headers={"content-type": "x"}, body=body)
    return records.of_reply("think", told, subject=subject, once=once, received_at=NOW)


async def store(pool: Any, *found: Record) -> tuple[int, set[bytes]]:
    async with pool.acquire() as connection:
        batch, fresh = await records.store(connection, found, recorder="here:1", now=NOW)
    return batch, {record.digest for record in fresh}


def test_identity_is_account_method_query_and_body_and_not_headers() -> None:
    same = [
        push(b"x"),
        push(b"x", headers={"x-request-id": "2"}),
        push(b"x", at=NOW + timedelta(1)),
    ]
    assert len({record.digest for record in same}) == 1
    different = [
        push(b"x"),
        push(b"y"),
        push(b"x", account="other"),
        push(b"x", method="GET"),
        push(b"x", query=b"a=1"),
        push(b"", query=b"x"),
        reply(b"x", "1", once=False),
        reply(b"x", "2", once=False),
        reply(b"x", "1", once=True),
        reply(b"x", "1", once=False, call=Call.QUERY_SIGN),
    ]
    assert len({record.digest for record in different}) == len(different)


async def test_what_is_stored_comes_back_byte_for_byte(pool: Any) -> None:
    found = [
        push(b"\0\xff" * 500, headers={"x": "caf\xe9 \x01 回"}, query=b"%ff\xfe"),
        reply(b"", "13800138000 回", once=True),
    ]
    batch, fresh = await store(pool, *found)
    assert fresh == {record.digest for record in found}
    rows = await pool.fetch(QUERIES["records_of_batches"], [batch])
    back = {record.digest: record for record in records.of_rows(rows)}
    assert back == {record.digest: record for record in found}


async def test_stored_before_is_counted_and_not_new(pool: Any) -> None:
    first, _ = await store(pool, push(b"a"), push(b"b"))
    later = push(b"a", at=NOW + timedelta(minutes=1))
    later.deliveries = 3
    second, fresh = await store(pool, later, push(b"c"))
    assert second != first
    assert fresh == {push(b"c").digest}
    row = await pool.fetchrow("SELECT * FROM records WHERE body = 'a'")
    assert (row["deliveries"], row["batch_id"], row["received_at"]) == (4, first, NOW)
    assert row["last_received_at"] == NOW + timedelta(minutes=1)
    assert await pool.fetchval("SELECT count(*) FROM batches") == 2


async def test_late_arrival_of_an_early_copy_does_not_turn_back_the_clock(pool: Any) -> None:
    await store(pool, push(b"a", at=NOW))
    await store(pool, push(b"a", at=NOW - timedelta(minutes=1)))
    assert await pool.fetchval("SELECT last_received_at FROM records") == NOW


async def test_same_records_from_many_at_once_are_stored_once_and_never_deadlock(pool: Any) -> None:
    bodies = [b"%d" % number for number in range(60)]
    chance = random.Random(5)
    groups = [[push(body) for body in chance.sample(bodies, 40)] for _ in range(20)]
    done = await asyncio.gather(*(store(pool, *group) for group in groups))
    new = [digest for _, fresh in done for digest in fresh]
    assert len(new) == len(set(new)) == 60
    assert await pool.fetchval("SELECT sum(deliveries) FROM records") == 20 * 40


async def test_headers_are_kept_as_json(pool: Any) -> None:
    await store(pool, push(b"a", headers={"x-thinkphp-event": "sms", "q": '"'}))
    kept = await pool.fetchval("SELECT headers FROM records")
    assert json.loads(kept) == {"x-thinkphp-event": "sms", "q": '"'}


def test_size_is_about_what_is_kept_in_memory() -> None:
    assert push(b"x" * 1000).size > 1000
    assert msgspec.structs.fields(Record)
