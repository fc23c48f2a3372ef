"""Retention: what goes, what is held, and that nothing which was counted counts otherwise after it."""

import asyncio
import contextlib
import io
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from proving import NOW, ODD, World, accounts, disputed, phone, record, unpacked

from gateways.gateway import Secret
from reconciler import evidence, match, retention, verifier
from reconciler import lease as leases
from reconciler.reading import arrived
from runtime import LeaseLost, records, settlement
from runtime.database import Database
from runtime.pseudonyms import OtherKey, Pseudonyms
from runtime.settings import AccountSettings, Retention

pytestmark = pytest.mark.anyio

LATER = datetime(2027, 6, 1, tzinfo=UTC)
KEY = Pseudonyms(Secret("a key of the test's own"))
ALL = Retention(bodies_days=90, texts_days=90, numbers_days=90)


async def purge(
    world: World, kept: Retention = ALL, *, now: datetime = LATER, dry_run: bool = False
) -> retention.Purged:
    settings = msgspec.structs.replace(world.accounts["main"], retention=kept)
    return await under_lease(world, settings, KEY, now=now, dry_run=dry_run)


async def under_lease(
    world: World,
    settings: AccountSettings,
    key: Pseudonyms,
    *,
    now: datetime = LATER,
    dry_run: bool = False,
) -> retention.Purged:
    name = f"{retention.LEASE}main"
    async with leases.held(world.pool, name, holder="test") as lease:
        assert lease is not None
        return await retention.purge_account(
            lease, settings, lambda: key, by="test", now=now, dry_run=dry_run
        )


async def closed(world: World, *, cases: str | None = "written_off") -> UUID:
    """Have a month with something of everything, closed, and its disputes over."""
    run = await disputed(world)
    await match.close(world.connection, run, by="test", now=NOW)
    if cases is not None:
        await world.connection.execute("UPDATE cases SET state = $1, ended_at = now()", cases)
    await world.link()
    return run


@pytest.fixture
async def world(database: Database, connection: Any, tmp_path: Path) -> AsyncIterator[World]:
    # With the rights that the reconciler has where `huizhi` starts it.
    async with replace(database, role="huizhi_reconciler").pool() as pool:
        yield World(pool, connection, tmp_path, accounts())


async def result(world: World, run: UUID) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        await world.connection.fetchval("SELECT result FROM runs WHERE id = $1", run)
    )
    return {name: value for name, value in found.items() if name not in ("id", "adjusts")}


async def counts(world: World) -> Any:
    return await world.connection.fetchrow(
        "SELECT (SELECT count(*) FROM records WHERE body <> '') AS bodies,"
        " (SELECT count(*) FROM messages WHERE content IS NOT NULL) AS texts,"
        " (SELECT count(*) FROM messages WHERE phone ~ '^[0-9]+$') AS numbers"
    )


async def test_a_closed_month_is_purged_and_nothing_that_was_counted_changes(world: World) -> None:
    run = await closed(world)
    before = await result(world, run)
    done = await purge(world)
    assert (done.held_unclosed, done.held_disputed) == (0, 0)
    assert done.bodies == await world.connection.fetchval("SELECT count(*) FROM records")
    assert tuple(await counts(world)) == (0, 0, 0)
    assert await world.faults() == []
    await world.link()
    assert await world.faults() == []
    assert await result(world, run) == before
    again = await result(world, await world.reconcile())
    assert again.pop("adjustment")["changed"] == 0
    assert again == before
    kept = await world.connection.fetch("SELECT purged_bytes, deliveries FROM records")
    assert all(row["purged_bytes"] > 20 for row in kept)


async def test_an_adjustment_of_what_came_out_even_is_the_same_after_a_purge(world: World) -> None:
    await closed(world)
    even = await world.connection.fetchval(
        "SELECT m.id FROM messages AS m INNER JOIN even_outcomes AS e"
        " ON position(uuid_send(m.id) IN e.ids) > 0 WHERE m.status = 'delivered' LIMIT 1"
    )
    await world.connection.execute("UPDATE messages SET status = 'failed' WHERE id = $1", even)
    query = (
        "SELECT key, phone, vendor_message_id, status_before, status_after, owed_amount_before,"
        " billed_amount_after FROM adjustments WHERE run_id = $1"
    )
    (before,) = await world.connection.fetch(query, await world.reconcile())
    assert (before["key"], before["status_after"]) == (even, "failed")
    await world.connection.execute("UPDATE cases SET state = 'resolved', ended_at = now()")
    await purge(world)
    (after,) = await world.connection.fetch(query, await world.reconcile())
    assert dict(after) == {**dict(before), "phone": KEY.of(before["phone"])} != dict(before)


async def test_no_number_is_left_of_a_purged_month(world: World) -> None:
    await closed(world)
    await world.reconcile()
    numbers = {phone(name) for name in ("fine", "early", "failed", "twice", "stranger", *ODD)}
    assert numbers <= await everything(world.connection, numbers)
    await purge(world)
    assert await everything(world.connection, numbers) == set()


async def everything(connection: Any, numbers: set[str]) -> set[str]:
    """Which of the numbers stand anywhere in any column of any table, as text or as bytes."""
    found = set()
    columns = await connection.fetch(
        "SELECT format('%I.%I', table_schema, table_name) AS name,"
        " quote_ident(column_name) AS column, data_type"
        " FROM information_schema.columns INNER JOIN information_schema.tables"
        " USING (table_schema, table_name)"
        " WHERE table_schema IN ('public', 'audit') AND table_type = 'BASE TABLE'"
    )
    for row in columns:
        text = f"{row['column']}::text"
        if row["data_type"] == "bytea":
            text = f"encode({row['column']}, 'escape')"
        for number in numbers - found:
            if await connection.fetchval(
                f"SELECT EXISTS (SELECT 1 FROM {row['name']} WHERE position($1 IN {text}) > 0)",
                number,
            ):
                found.add(number)
    return found


async def test_a_dry_run_says_what_a_run_does_and_changes_nothing(world: World) -> None:
    await closed(world)
    before = await counts(world)
    would = await purge(world, dry_run=True)
    assert await counts(world) == before
    done = await purge(world)
    assert (would.bodies, would.bytes, would.texts) == (done.bodies, done.bytes, done.texts)
    # A line of a message that went with its message is no number of its own any more.
    assert would.numbers >= done.numbers > 0
    again = await purge(world)
    assert (again.bodies, again.texts, again.numbers) == (0, 0, 0)


async def test_what_is_young_stays(world: World) -> None:
    await closed(world)
    done = await purge(world, now=NOW + timedelta(days=30))
    assert done == retention.Purged(account="main")


async def test_nothing_of_an_unclosed_month_is_purged_and_it_is_said(world: World) -> None:
    await disputed(world)
    await world.connection.execute("UPDATE cases SET state = 'written_off', ended_at = now()")
    before = await counts(world)
    done = await purge(world)
    assert await counts(world) == before
    assert done.bodies == done.texts == 0
    # The day of sending, for its texts and its numbers, and the days on which records came.
    came = await world.connection.fetchval("SELECT count(DISTINCT received_at::date) FROM records")
    assert done.held_unclosed == 2 + came


async def test_what_is_never_billed_needs_no_closing(world: World) -> None:
    world.accounts = {
        name: msgspec.structs.replace(settings, tariffs=())
        for name, settings in world.accounts.items()
    }
    await world.register("a")
    await world.push(("a", 1))
    await purge(world)
    assert tuple(await counts(world)) == (0, 0, 0)


async def test_an_unfinished_dispute_holds_what_it_rests_on_until_it_ends(world: World) -> None:
    run = await closed(world, cases=None)
    done = await purge(world)
    assert done.held_disputed > 0
    left = {
        row["vendor_message_id"]
        for row in await world.connection.fetch(
            "SELECT vendor_message_id FROM messages WHERE content IS NOT NULL"
        )
    }
    assert left == {"failed", "twice", "unbilled", "dear", "long"}
    kept = await world.connection.fetch(
        "WITH kept AS (SELECT digest FROM run_reports WHERE run_id = $1)"
        " SELECT DISTINCT convert_from(body, 'UTF8') AS body FROM records"
        " INNER JOIN kept USING (digest)",
        run,
    )
    assert kept
    assert all(row["body"] for row in kept)
    assert await world.faults() == []
    await world.connection.execute("UPDATE cases SET state = 'credited', ended_at = now()")
    await purge(world)
    assert tuple(await counts(world)) == (0, 0, 0)
    await world.link()
    assert await world.faults() == []


async def test_a_purge_that_breaks_off_goes_on_where_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await closed(world)
    monkeypatch.setattr(retention, "BATCH", 2)
    real, left = retention._Work.purge, 3

    async def lose(self: Any, what: str) -> Any:
        nonlocal left
        left -= 1
        if not left:
            await world.pool.execute("UPDATE leases SET expires_at = now()")
        return await real(self, what)

    with monkeypatch.context() as patched:
        patched.setattr(retention._Work, "purge", lose)
        with pytest.raises(LeaseLost):
            await purge(world)
    some = await counts(world)
    await purge(world)
    assert some["bodies"] > 0
    assert tuple(await counts(world)) == (0, 0, 0)
    await world.link()
    assert await world.faults() == []


async def test_a_purged_callback_that_comes_again_is_the_same_record(world: World) -> None:
    await closed(world)
    await purge(world)
    stored = await world.connection.fetchval("SELECT count(*) FROM records")
    reports = await world.connection.fetch("SELECT * FROM reports ORDER BY shard, message_id")
    again = record("fine", 1, LATER)
    for deliveries in (2, 3):
        async with world.pool.acquire() as connection:
            _, fresh = await records.store(connection, [again], recorder="test", now=LATER)
        assert fresh == []
        row = await world.connection.fetchrow(
            "SELECT deliveries, body FROM records WHERE digest = $1", again.digest
        )
        assert (row["deliveries"], row["body"]) == (deliveries, b"")
    assert await world.connection.fetchval("SELECT count(*) FROM records") == stored
    assert (
        await world.connection.fetch("SELECT * FROM reports ORDER BY shard, message_id") == reports
    )


async def test_a_late_report_meets_its_message_and_does_not_bring_the_number_back(
    world: World,
) -> None:
    await closed(world)
    await purge(world)
    await world.push(("unbilled", -1), recorded_at=LATER)
    message = await world.connection.fetchrow(
        "SELECT phone, contradicted FROM messages WHERE vendor_message_id = 'unbilled'"
    )
    assert message["contradicted"]
    assert await world.connection.fetchval(
        "SELECT bool_and(phone = $1 AND NOT orphan) FROM reports WHERE vendor_message_id = 'unbilled'",
        message["phone"],
    )
    number = {phone("unbilled")}
    assert await everything(world.connection, number) == number  # in its raw bytes
    await purge(world)
    assert await everything(world.connection, number) == set()
    await world.link()
    assert await world.faults() == []


async def test_a_later_statement_with_the_real_numbers_finds_its_messages(world: World) -> None:
    run = await closed(world)
    before = await result(world, run)
    await purge(world)
    await world.bill(
        ("fine", 1, "0.040"),
        ("early", 1, "0.04"),
        ("failed", 1, "0.04"),
        ("twice", 1, "0.04"),
        ("twice", 1, "0.04"),
        ("dear", 1, "0.05"),
        ("long", 3, "0.12"),
        ("stranger", 1, "0.04"),
        *((name, 1, "0.04") for name in ODD),
    )
    again = await result(world, await world.reconcile())
    assert again.pop("adjustment")["changed"] == 0
    assert again == before
    known = {phone(name) for name in ("fine", "early", "failed", "twice", "dear", "long")}
    assert await everything(world.connection, known) == set()


async def test_cases_of_purged_messages_are_the_same_cases_in_a_rerun(world: World) -> None:
    await closed(world)
    cases = await world.connection.fetch("SELECT id, state FROM cases ORDER BY id")
    await purge(world)
    await world.reconcile()
    assert await world.connection.fetch("SELECT id, state FROM cases ORDER BY id") == cases


async def test_the_cause_of_a_difference_survives_the_text_that_told_it(world: World) -> None:
    run = await closed(world)
    causes = "SELECT cause FROM discrepancies WHERE run_id = $1 AND kind = 'segments_differ'"
    told = await world.connection.fetchval(causes, run)
    assert told != "content_unknown"
    await purge(world)
    assert await world.connection.fetchval(causes, await world.reconcile()) == told


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE messages SET segments = 9 WHERE vendor_message_id = 'fine'",
        "UPDATE messages SET purge_id = NULL WHERE vendor_message_id = 'fine'",
        "UPDATE records SET purge_id = NULL WHERE digest = (SELECT digest FROM records ORDER BY digest LIMIT 1)",
        "DELETE FROM purges WHERE what = 'bodies'",
        "UPDATE purges SET purged_by = 'nobody'",
        "UPDATE lines SET segments = segments + 1 WHERE line = 2",
        "UPDATE discrepancies SET amount = amount + 1 WHERE seq = 1",
        "UPDATE purges SET touched = '{}'",
    ],
)
async def test_a_purge_is_no_excuse_to_change_what_it_left(world: World, forgery: str) -> None:
    await closed(world)
    await purge(world)
    await world.link()
    assert await world.faults() == []
    await world.connection.execute(forgery)
    assert await world.faults()


async def test_what_nobody_purged_cannot_be_passed_off_as_purged(world: World) -> None:
    await closed(world)
    await world.connection.execute(
        "UPDATE messages SET purge_id = $1, segments = 9 WHERE vendor_message_id = 'fine'", uuid4()
    )
    assert len(await world.faults()) == 1
    await world.connection.execute(
        "UPDATE records SET purge_id = $1, body = ''"
        " WHERE digest = (SELECT digest FROM records ORDER BY digest LIMIT 1)",
        uuid4(),
    )
    assert len(await world.faults()) == 2


async def test_evidence_says_what_was_purged_and_proves_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await closed(world)
    await purge(world)
    path = world.folder / "evidence.zip"
    await evidence.write(world.pool, world.connection, run, path, holder="test")
    monkeypatch.setattr(sys, "argv", ["verify.py", str(path)])
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        assert verifier.main() == 0, told.getvalue()
    assert "FAILED" not in told.getvalue()
    assert "VERIFIED, but for what was purged" in told.getvalue()
    files = unpacked(path)
    assert not [name for name in files if name.startswith("records/")]
    numbers = {phone(name) for name in ("failed", "twice", "unbilled", "dear", "long")}
    packed = b"".join(data for name, data in files.items() if not name.endswith(".xlsx"))
    assert not [number for number in numbers if number.encode() in packed]


async def test_bytes_that_were_purged_are_said_to_be(world: World) -> None:
    await closed(world)
    await purge(world)
    digest = await world.connection.fetchval("SELECT digest FROM records LIMIT 1")
    with pytest.raises(arrived.Gone, match="purged on 2027-06-01"):
        await arrived.record_bytes(world.connection, digest)


async def test_another_key_is_refused_before_anything_is_purged(world: World) -> None:
    await closed(world)
    await purge(world)
    settings = msgspec.structs.replace(world.accounts["main"], retention=ALL)
    with pytest.raises(OtherKey):
        await under_lease(world, settings, Pseudonyms(Secret("other")))


async def test_purging_and_settling_at_one_moment_do_not_break_each_other(world: World) -> None:
    await closed(world)
    again = [record(name, 1, LATER) for name in ("fine", "early", "unbilled", "dear")]

    async def push() -> None:
        for _ in range(5):
            await world.take(again, LATER)
            await settlement.settle(world.pool, world.accounts, again, batches=(), now=LATER)

    await asyncio.gather(push(), purge(world), push())
    await purge(world)
    await world.link()
    assert await world.faults() == []


def test_a_pseudonym_is_the_same_for_the_same_number_and_for_itself_only() -> None:
    other = Pseudonyms(Secret("another"))
    made = {number: KEY.of(number) for number in ("13800138000", "13800138001", "85261234567")}
    assert len(set(made.values())) == 3
    for number, pseudonym in made.items():
        assert KEY.of(number) == pseudonym == KEY.of(pseudonym)
        assert not pseudonym.isdigit()
        assert other.of(number) != pseudonym
    assert made["13800138000"][:4] == "1380"
    assert len(made["13800138000"]) == 11
    assert not any(letter.isdigit() for letter in made["85261234567"][:1])
