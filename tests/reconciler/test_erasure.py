"""Erasing a number: nothing of it is left anywhere, and everything that was counted is as it was."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from proving import NOW, SENT, World, accounts, disputed, phone, record
from test_api import TOKEN, serving
from test_retention import KEY, everything, result

from gateways.gateway import Call, Reply
from reconciler import cases, erasure, ledger, match, suspects
from reconciler.api import erasures
from runtime import records, settlement
from runtime.database import Database
from runtime.identity import message_id, shard_of
from runtime.settings import parse

pytestmark = pytest.mark.anyio

# The number of the message "failed", which is billed and disputed, reported by push and by query.
NUMBER = phone("failed")
RETAINING = f"""
data_dir = "data"
[reconciler]
api_token = "{TOKEN}"
[accounts.main]
gateway = "thinkapi"
credentials = {{ app_code = "code" }}
"""


@pytest.fixture
async def world(database: Database, connection: Any, tmp_path: Path) -> AsyncIterator[World]:
    # With the rights that the reconciler has where `huizhi` starts it.
    async with replace(database, role="huizhi_reconciler").pool() as pool:
        yield World(pool, connection, tmp_path, accounts())


async def everywhere(world: World) -> Any:
    """Have the number stand wherever the product can put it; return the closed run."""
    await ledger.register(
        world.pool,
        world.accounts,
        [
            ledger.Sent(
                account="main",
                vendor_message_id="other",
                phone="13911112222",
                sent_at=SENT,
                content=f"call {NUMBER}",
                reference=f"for-{NUMBER}",
            )
        ],
        now=NOW - timedelta(days=9),
    )
    run = await disputed(world)
    await world.push(("nobody knows", 1))
    await world.take(
        [
            # Not understood, with the number in it; and a reply that is about it.
            record_of(f'{{"action": "report", "sms": {{"phone": "{NUMBER}"}}}}'.encode()),
            records.of_reply(
                "main",
                Reply(call=Call.QUERY_STATUS, headers={"x": NUMBER}, body=NUMBER.encode()),
                subject=f"about {NUMBER}",
                once=False,
                received_at=NOW,
            ),
        ],
        NOW,
    )
    # A push that names another's message with the number, and what a person said of it.
    sms = {"id": "fine", "phone": NUMBER, "status": 1, "message": "", "receiveDate": None}
    await world.take([record_of(json.dumps({"action": "report", "sms": sms}).encode())], NOW)
    decided = await suspects.decide(
        world.pool,
        "rejected",
        account="main",
        reason="number_differs",
        by="anna",
        note=f"nothing was sent to {NUMBER}",
        now=NOW,
    )
    assert decided.changed == 1
    # The number as an orphan of its own, and as what a vendor quotes about another's message.
    await world.connection.execute(
        "INSERT INTO reports (shard, message_id, fingerprint, account, vendor_message_id, phone, status,"
        " vendor_code, reason, received_at, source, digest, orphan) VALUES"
        " ($1, $2, '\\x01', 'main', 'gone', $3, 'failed', '9', 'blocked ' || $3, $4, 'push', '\\x02', TRUE)",
        shard_of("main", "gone"),
        message_id("main", "gone", NUMBER),
        NUMBER,
        NOW,
    )
    await world.connection.execute(
        "INSERT INTO inbound (shard, fingerprint, account, phone, content, received_at, source, digest)"
        " VALUES (1, '\\x01', 'main', $1, 'STOP', now(), 'push', '\\x01'),"
        " (1, '\\x02', 'main', '13911112222', 'ask ' || $1, now(), 'push', '\\x01')",
        NUMBER,
    )
    case = await world.connection.fetchval(
        "SELECT id FROM cases WHERE vendor_message_id = 'failed' AND ended_at IS NULL LIMIT 1"
    )
    change = cases.Change(by="anna", state="disputed", note=f"{NUMBER} says it never came")
    await cases.change_one(world.connection, case, change, version=None, now=NOW)
    await match.close(world.connection, run, by="test", now=NOW)
    await world.register("late")
    await world.reconcile()  # an adjustment
    await world.connection.execute(
        "INSERT INTO sends (id, account, idempotency_key, request_digest, requested_at, duplicates)"
        " VALUES ($1, 'main', $2, '\\x00', now(), '{}')",
        uuid4(),
        f"otp-{NUMBER}-1",
    )
    await world.connection.execute(
        "INSERT INTO jobs (name, account, started_at, error) VALUES ('x', 'main', now(), $1)",
        f"refused: {NUMBER}",
    )
    await world.link()
    return run


def record_of(body: bytes) -> records.Record:
    made = record("any", 1, NOW)
    digest = records.push_digest("main", "POST", b"", body)
    return records.Record(
        **{
            **{name: getattr(made, name) for name in made.__struct_fields__},
            "body": body,
            "digest": digest,
        }
    )


async def erase(world: World, number: str = NUMBER) -> erasure.Erasure:
    return await erasure.erase(world.pool, world.accounts, KEY, number, by="anna", now=NOW)


async def totals(world: World) -> list[Any]:
    tables = ("messages", "reports", "lines", "discrepancies", "outcomes", "adjustments", "cases")
    return [
        await world.connection.fetchval(f"SELECT count(*) FROM {name}")
        for name in (*tables, "records", "inbound", "quarantine", "run_reports", "suspects")
    ]


async def test_nothing_of_an_erased_number_is_left_in_any_column_of_any_table(world: World) -> None:
    await everywhere(world)
    tables = await standing_in(world, NUMBER)
    assert tables >= {
        *("messages", "reports", "lines", "discrepancies", "outcomes", "cases", "case_changes"),
        *("records", "inbound", "sends", "jobs", "suspect_decisions"),
    }
    before = await totals(world)
    done = await erase(world)
    assert await standing_in(world, NUMBER) == set()
    assert await everything(world.connection, {NUMBER}) == set()
    assert await totals(world) == before
    assert done.held == 0
    assert done.finished_at is not None
    assert done.found["bodies"] == 5
    assert NUMBER not in str(done)


async def standing_in(world: World, number: str) -> set[str]:
    """Which tables have the number in a row of theirs."""
    tables = await world.connection.fetch(
        "SELECT table_name AS name FROM information_schema.tables"
        " WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
    )
    found = set()
    for table in tables:
        if await world.connection.fetchval(
            f"SELECT EXISTS (SELECT 1 FROM {table['name']} AS t WHERE t::text LIKE $1 OR t::text LIKE $2)",
            f"%{number}%",
            f"%{number.encode().hex()}%",
        ):
            found.add(table["name"])
    return found


async def test_runs_chain_and_reruns_are_the_same_after_an_erasure(world: World) -> None:
    run = await everywhere(world)
    before = await result(world, run)
    linked = await world.connection.fetch("SELECT * FROM chain_entries ORDER BY height, position")
    rerun = await result(world, await world.reconcile())
    await world.link()
    await erase(world)
    assert await result(world, run) == before
    assert await world.faults() == []
    entries = await world.connection.fetch("SELECT * FROM chain_entries ORDER BY height, position")
    assert entries[: len(linked)] == linked
    assert await result(world, await world.reconcile()) == rerun
    await world.link()
    assert await world.faults() == []


async def test_callbacks_with_an_erased_number_are_known_when_they_come_again(world: World) -> None:
    await everywhere(world)
    await erase(world)
    states = await world.connection.fetch("SELECT id, status, phone FROM messages ORDER BY id")
    again = record("failed", -1, NOW)
    async with world.pool.acquire() as connection:
        _, fresh = await records.store(connection, [again], recorder="test", now=NOW)
    assert fresh == []
    assert await everything(world.connection, {NUMBER}) == set()
    # And if it is settled again, as after a crash, it folds as before.
    await settlement.settle(world.pool, world.accounts, [again], batches=(), now=NOW)
    assert await everything(world.connection, {NUMBER}) == set()
    assert (
        await world.connection.fetch("SELECT id, status, phone FROM messages ORDER BY id") == states
    )


async def test_an_erasure_does_again_what_broke_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await everywhere(world)

    async def broken(*_: object) -> None:
        raise OSError("away")

    with monkeypatch.context() as patched:
        patched.setattr(erasure._Work, "_records", broken)
        with pytest.raises(OSError, match="away"):
            await erase(world)
    row = await world.connection.fetchrow("SELECT * FROM erasures")
    assert row["finished_at"] is None
    await erase(world)
    assert await everything(world.connection, {NUMBER}) == set()
    await world.link()
    assert await world.faults() == []


async def test_other_numbers_stay_as_they_are(world: World) -> None:
    await everywhere(world)
    others = {phone("fine"), phone("twice"), "13911112222"}
    await erase(world, f"+86 {NUMBER}")
    assert await everything(world.connection, others) == others
    assert await world.connection.fetchval(
        "SELECT content FROM messages WHERE vendor_message_id = 'fine'"
    )


async def test_a_message_that_is_being_sent_is_held_and_it_is_said(world: World) -> None:
    await world.register("failed")
    await world.connection.execute(
        "UPDATE messages SET status = 'submitting', sent_at = $1", NOW - timedelta(hours=1)
    )
    done = await erase(world)
    assert (done.held, done.finished_at) == (1, None)
    await world.connection.execute("UPDATE messages SET status = 'refused'")
    done = await erase(world)
    assert done.held == 0
    assert await everything(world.connection, {NUMBER}) == set()


@pytest.mark.parametrize("number", ["", "12345", "1" * 40])
async def test_what_is_no_number_is_refused(world: World, number: str) -> None:
    with pytest.raises(erasure.NoNumber):
        await erase(world, number)
    assert await world.connection.fetchval("SELECT count(*) FROM erasures") == 0


async def test_erasures_are_listed_without_their_numbers(world: World) -> None:
    await world.register("failed", "fine")
    for name in ("failed", "fine"):
        await erase(world, phone(name))
    page = await erasure.erasures(world.connection, cursor=None, limit=1)
    rest = await erasure.erasures(world.connection, cursor=page.next, limit=1)
    said = [each["pseudonym"] for each in (*page.items, *rest.items)]
    assert sorted(said) == sorted(KEY.of(phone(name)) for name in ("failed", "fine"))
    assert rest.next is None


# --- one that takes long ------------------------------------------------------------------------------


async def ended(client: httpx.AsyncClient, place: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (found := (await client.get(place)).json())["state"] == "under_way":
            await asyncio.sleep(0.02)
    return dict(found)


async def test_an_erasure_that_takes_long_is_answered_at_once_and_goes_on(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures, "_ERASING_SECONDS", 0.2)
    monkeypatch.setattr(erasure, "TOLD_SECONDS", 0.02)
    await world.register("failed", "fine")
    settings = parse(RETAINING, world.folder / "huizhi.toml", {})
    async with serving(database, settings) as client:
        holding = world.connection.transaction()
        await holding.start()
        await world.connection.execute("UPDATE messages SET segments = segments")
        answers = [
            await client.post("/v1/erasures", json={"phone": phone(name), "by": "dpo"})
            for name in ("failed", "fine")
        ]
        for answer in answers:
            assert answer.status_code == 202
            assert answer.json()["state"] == "under_way"
            assert answer.headers["location"] == f"/v1/erasures/{answer.json()['id']}"
            assert phone("failed") not in answer.text
        await holding.rollback()
        for answer in answers:
            found = await ended(client, answer.headers["location"])
            assert (found["state"], found["found"]) == ("done", {"messages": 1})
    assert await world.pool.fetchval("SELECT bool_and(phone ~ '[A-Za-z]') FROM messages")


async def test_an_erasure_has_the_connections_that_it_needs(
    world: World, database: Database
) -> None:
    await world.register("failed")
    settings = parse(RETAINING, world.folder / "huizhi.toml", {})
    few = replace(database, pool_size=1)
    async with asyncio.timeout(60), serving(few, settings) as client:
        answer = await client.post("/v1/erasures", json={"phone": phone("failed")})
    assert (answer.status_code, answer.json()["state"]) == (200, "done")


async def test_an_erasure_whose_process_ended_shows_as_broken_off_and_can_be_done_again(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures, "_ERASING_SECONDS", 0.2)
    await world.register("failed")
    settings = parse(RETAINING, world.folder / "huizhi.toml", {})
    async with serving(database, settings) as client:
        holding = world.connection.transaction()
        await holding.start()
        await world.connection.execute("UPDATE messages SET segments = segments")
        answer = await client.post("/v1/erasures", json={"phone": phone("failed")})
        assert answer.status_code == 202
    await holding.rollback()
    assert await world.pool.fetchval("SELECT phone FROM messages") == phone("failed")
    await world.connection.execute("UPDATE erasures SET worked_at = now() - interval '2 minutes'")
    async with serving(database, settings) as client:
        left = (await client.get(answer.headers["location"])).json()
        assert left["state"] == "broken_off"
        monkeypatch.setattr(erasures, "_ERASING_SECONDS", 30)
        again = await client.post("/v1/erasures", json={"phone": phone("failed")})
        assert (again.status_code, again.json()["found"]) == (200, {"messages": 1})
        states = [each["state"] for each in (await client.get("/v1/erasures")).json()["items"]]
        assert states == ["done", "broken_off"]
