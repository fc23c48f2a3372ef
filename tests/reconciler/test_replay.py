"""Replay: after it, everything is as if today's parsers had read it in the first place."""

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from proving import NOW, SENT, World, accounts, disputed, phone

from gateways.errors import Malformed
from gateways.events import DeliveryReport, InboundMessage, Parsed, Status
from gateways.gateway import Account, Callback, Gateway
from reconciler import match, replay
from reconciler.replay import Replay, Span
from runtime import records, settlement
from runtime.settings import AccountSettings

pytestmark = pytest.mark.anyio

NAMES = ("a", "b", "c")


def _reader(newer: bool) -> Any:
    """A dialect that an older version read in part, in part otherwise, and in part not at all."""

    def parse(callback: Callback, _: Account) -> Parsed:
        rows = json.loads(callback.body)
        events: list[Any] = []
        problems = []
        for name, word, minute in rows:
            if word == "odd" and not newer:
                problems.append("odd")
                continue
            if word == "bad":
                raise Malformed("bad" if newer else "worse")
            if word == "text":
                content = "text" if newer else "TEXT"
                events.append(InboundMessage(phone=phone(name), content=content))
                continue
            status = {
                "good": Status.DELIVERED,
                "odd": Status.DELIVERED,
                "lost": Status.FAILED,
                # What each version takes for the message's fate.
                "swapped": Status.FAILED if newer else Status.DELIVERED,
                "final": Status.DELIVERED if newer else Status.PENDING,
                "not final": Status.UNKNOWN if newer else Status.FAILED,
                # What cannot be believed, by the one version's times or by the other's.
                "early": Status.DELIVERED,
                "late": Status.FAILED,
            }[word]
            at = SENT + timedelta(minutes=minute)
            if newer and word == "early":
                at -= timedelta(days=1)
            if not newer and word == "late":
                at = NOW + timedelta(days=1)
            events.append(
                DeliveryReport(
                    vendor_message_id=name,
                    phone=phone(name),
                    status=status,
                    vendor_code="1",
                    reported_at=at,
                )
            )
        return Parsed(events=tuple(events), rows=len(rows), problems=tuple(problems))

    return parse


def speaking(newer: bool) -> dict[str, AccountSettings]:
    def with_reader(gateway: Gateway) -> Gateway:
        return dataclasses.replace(gateway, parse_callback=_reader(newer))

    return {
        name: msgspec.structs.replace(each, gateway=with_reader(each.gateway))
        for name, each in accounts().items()
    }


OLD, NEW = speaking(newer=False), speaking(newer=True)
WORDS = ("good", "lost", "odd", "bad", "text", "swapped", "final", "not final", "early", "late")
PUSHES = st.lists(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(WORDS), st.integers(0, 2)),
        min_size=1,
        max_size=3,
    ),
    max_size=8,
)


def pushed(rows: Any, at: datetime) -> records.Record:
    callback = Callback(method="POST", query=b"", headers={}, body=json.dumps(rows).encode())
    return records.of_callback("main", callback, received_at=at, peer="192.0.2.1")


@pytest.fixture
async def world(pool: Any, connection: Any, tmp_path: Path) -> World:
    return World(pool, connection, tmp_path, OLD)


_TABLES = {
    "messages": "vendor_message_id, status, vendor_code, reason, reported_at, contradicted",
    "reports": "shard, message_id, fingerprint, status, vendor_code, reported_at, orphan, left_out",
    "suspects": "shard, message_id, fingerprint, reasons, state",
    "inbound": "shard, fingerprint, content",
    "quarantine": "digest, reason",
    "awaiting": "message_id",
}


async def state(connection: Any) -> dict[str, list[Any]]:
    return {
        table: await connection.fetch(f"SELECT {columns} FROM {table} ORDER BY {columns}")
        for table, columns in _TABLES.items()
    }


async def fill(world: World, read: Mapping[str, AccountSettings], pushes: Any) -> None:
    """Begin anew, with two of three messages known, and settle each push by the readers given."""
    await world.connection.execute(
        "TRUNCATE messages, reports, suspects, inbound, quarantine, awaiting, records, batches,"
        " superseded_reports"
    )
    world.accounts = read
    await world.register(*NAMES[:2])
    seen = set()
    for minute, rows in enumerate(pushes):
        record = pushed(rows, NOW - timedelta(days=1) + timedelta(minutes=minute))
        if record.digest not in seen:
            seen.add(record.digest)
            await world.take([record], NOW)


async def run(world: World, span: Span | None = None, *, apply: bool = True) -> Replay:
    made = Replay(world.connection, NEW, span or Span())
    await made.plan()
    if apply:
        await made.apply(by="test", now=NOW)
    return made


@hypothesis_settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(pushes=PUSHES)
async def test_after_a_replay_all_is_as_if_read_by_todays_parsers_at_first(
    world: World, pushes: Any
) -> None:
    await fill(world, NEW, pushes)
    wanted = await state(world.connection)
    await fill(world, OLD, pushes)
    before = await state(world.connection)
    dry = await run(world, apply=False)
    told = {row["vendor_message_id"]: (row["from"], row["to"]) async for row in dry.states()}
    assert await state(world.connection) == before
    await run(world)
    assert await state(world.connection) == wanted
    was = {row["vendor_message_id"]: row["status"] for row in before["messages"]}
    now = {row["vendor_message_id"]: row["status"] for row in wanted["messages"]}
    assert told == {name: (was[name], now[name]) for name in was if was[name] != now[name]}
    again = await run(world)
    assert (again.done.changed, again.done.state_changes) == (0, 0)


@pytest.mark.parametrize("word", ["early", "late"])
async def test_what_is_doubted_or_believed_by_a_better_reading_is_so_afterwards(
    world: World, word: str
) -> None:
    await fill(world, NEW, [[("a", word, 0)]])
    wanted = await state(world.connection)
    assert len(wanted["suspects"]) == (word == "early")
    await fill(world, OLD, [[("a", word, 0)]])
    assert len((await state(world.connection))["suspects"]) == (word == "late")
    made = await run(world)
    assert made.done.state_changes == 1
    assert await state(world.connection) == wanted


async def test_what_was_believed_when_it_came_is_not_judged_by_later_settings(world: World) -> None:
    pushes = [[("a", "good", 0)], [("b", "lost", 0), ("c", "good", 0)]]
    stricter = {
        name: msgspec.structs.replace(each, confirm_pushes=True, clock_slack_seconds=0.0)
        for name, each in NEW.items()
    }
    for later, then in ((stricter, NEW), (NEW, stricter)):
        await fill(world, then, pushes)
        before = await state(world.connection)
        assert bool(before["suspects"]) == (then is stricter)
        made = Replay(world.connection, later, Span())
        await made.plan()
        assert (made.done.changed, made.done.state_changes) == (0, 0)
        await made.apply(by="test", now=NOW)
        # Nor is it said twice, when its record is read again because of another that it holds.
        found = records.of_rows(
            await world.connection.fetch("SELECT * FROM records ORDER BY digest")
        )
        async with world.connection.transaction():
            await settlement.replace(world.connection, later, found, replay=uuid4(), now=NOW)
        assert await state(world.connection) == before


async def test_a_report_that_another_record_says_too_stays_whichever_are_replayed(
    world: World,
) -> None:
    # Two records, of which the older version reads the same word; the newer only in the second.
    pushes = [[("a", "swapped", 0)], [("a", "good", 0), ("b", "good", 0)]]
    await fill(world, OLD, pushes)
    day = NOW - timedelta(days=1)
    await run(world, Span(account="main", since=day, until=day + timedelta(seconds=30)))
    statuses = await world.connection.fetch(
        "SELECT status FROM reports WHERE vendor_message_id = 'a' ORDER BY status"
    )
    assert [row["status"] for row in statuses] == ["delivered", "failed"]


async def test_money_is_told_by_account_and_month_and_whether_it_is_closed(world: World) -> None:
    await fill(world, OLD, [[("a", "final", 0)], [("b", "swapped", 0)]])
    # One of them is delivered now, the other no longer: nothing is owed otherwise.
    made = await run(world, apply=False)
    assert (made.done.state_changes, await made.money()) == (2, [])
    await fill(world, OLD, [[("a", "final", 0)]])
    (money,) = await (await run(world, apply=False)).money()
    assert (money.account, money.period, money.closed) == ("main", "2026-10", False)
    assert (money.messages, money.owed_before, money.owed_after) == (1, "0", "0.04")
    assert money.difference == "0.04"
    await world.connection.execute(
        "INSERT INTO periods (account, first_day, last_day, versions, closed_run, closed_at, closed_by)"
        " VALUES ('main', '2026-10-01', '2026-10-31', 1, gen_random_uuid(), now(), 'x')"
    )
    (money,) = await (await run(world, apply=False)).money()
    assert money.closed


async def test_purged_bodies_are_counted_and_what_was_made_of_them_stays(world: World) -> None:
    await fill(world, OLD, [[("a", "swapped", 0)]])
    await world.connection.execute("UPDATE records SET purge_id = $1, body = ''", uuid4())
    before = await state(world.connection)
    done = (await run(world)).done
    assert (done.records, done.purged, done.changed) == (0, 1, 0)
    assert await state(world.connection) == before


async def test_a_replay_that_breaks_off_is_gone_on_with(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushes = [[(name, "swapped", minute)] for name in NAMES for minute in range(2)]
    await fill(world, NEW, pushes)
    wanted = await state(world.connection)
    await fill(world, OLD, pushes)
    monkeypatch.setattr(replay, "BATCH", 2)
    real, calls = settlement.replace, 0

    async def broken(*given: Any, **named: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError("away")
        return await real(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(settlement, "replace", broken)
        made = Replay(world.connection, NEW, Span())
        await made.plan()
        with pytest.raises(OSError, match="away"):
            await made.apply(by="test", now=NOW)
    page = await replay.replays(world.connection, cursor=None, limit=10)
    assert page.items[0]["finished_at"] is None
    assert page.items[0]["counts"]["applied"] == 2
    await run(world)
    assert await state(world.connection) == wanted


async def test_a_closed_run_stays_provable_when_its_reports_are_read_otherwise(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    world = World(pool, connection, tmp_path, accounts())
    made = await disputed(world)
    await match.close(connection, made, by="test", now=NOW)
    await world.link()
    assert await world.faults() == []
    # A version that takes what the vendor calls delivered for failed.
    gateway = world.accounts["main"].gateway

    def otherwise(callback: Callback, account: Account) -> Parsed:
        parsed = gateway.parse_callback(callback, account)
        events = tuple(
            msgspec.structs.replace(each, status=Status.FAILED)
            for each in parsed.events
            if isinstance(each, DeliveryReport)
        )
        return Parsed(events=events, rows=parsed.rows)

    other = msgspec.structs.replace(
        world.accounts["main"], gateway=dataclasses.replace(gateway, parse_callback=otherwise)
    )
    run = Replay(connection, {"main": other}, Span())
    await run.plan()
    assert run.done.reports_removed > 0
    (money,) = await run.money()
    assert money.closed
    await run.apply(by="test", now=NOW)
    assert await world.connection.fetchval("SELECT count(*) FROM superseded_reports") > 0
    assert await world.faults() == []
    again = json.loads(
        await connection.fetchval("SELECT result FROM runs WHERE id = $1", await world.reconcile())
    )
    assert again["adjustment"]["changed"] > 0


async def test_a_record_that_cannot_be_stored_does_not_stop_a_replay(world: World) -> None:
    await fill(world, OLD, [[("a", "final", 0)], [("b", "good", 0)]])

    def parse(callback: Callback, account: Account) -> Parsed:
        parsed = _reader(newer=True)(callback, account)
        if b'"b"' in callback.body:
            events = tuple(
                msgspec.structs.replace(each, vendor_code="\0") for each in parsed.events
            )
            return Parsed(events=events, rows=1)
        return parsed

    bad = {
        name: msgspec.structs.replace(
            each, gateway=dataclasses.replace(each.gateway, parse_callback=parse)
        )
        for name, each in NEW.items()
    }
    made = Replay(world.connection, bad, Span())
    await made.plan()
    await made.apply(by="test", now=NOW)
    rows = await world.connection.fetch(
        "SELECT vendor_message_id, status FROM messages ORDER BY vendor_message_id"
    )
    assert [tuple(row) for row in rows] == [("a", "delivered"), ("b", "delivered")]
