"""The commands that say what is not as it should be, as typed: suspects, alarms, arrivals, drift."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from test_commands import NOW, Typed, api, delivered, mistake, pushed, said, typed

from reconciler import drift, suspects
from reconciler import lease as leases
from runtime import records, settlement
from runtime.database import Database
from runtime.settings import load

__all__ = ["typed"]  # a fixture
pytestmark = pytest.mark.anyio


async def test_a_suspect_is_listed_alarmed_rejected_and_accepted(
    typed: Typed, database: Database, pool: Any, tmp_path: Path
) -> None:
    accounts = load(tmp_path / "huizhi.toml", {}).accounts
    said(await typed("sent", "import", "sent.csv"))
    early = delivered("a").replace(b"09:30:05", b"01:30:05")
    found = [pushed(early), pushed(delivered("b"))]
    async with pool.acquire() as connection:
        await records.store(connection, found, recorder="test", now=NOW)
    await settlement.settle(pool, accounts, found, batches=(), now=NOW)
    await suspects.watch(pool, accounts, now=NOW)

    told = json.loads(said(await typed("suspects", "list", "--output", "json")))
    assert told == await api(database, tmp_path, "/v1/suspects?account=think&state=waiting")
    (one,) = told["items"]
    assert (one["state"], one["reasons"]) == ("waiting", ["before_sending"])
    assert (one["vendor_message_id"], one["message_status"]) == ("a", "submitted")
    assert one["peer"] == "192.0.2.1"
    shown = await api(database, tmp_path, f"/v1/messages/{one['message_id']}")
    (report,) = shown["reports"]
    assert (shown["status"], report["counts"]) == ("submitted", False)
    assert report["suspect"] == {"id": one["id"], "state": "waiting", "reasons": one["reasons"]}

    alarms = json.loads(said(await typed("alarms", "--output", "json")))
    assert alarms == await api(database, tmp_path, "/v1/alarms?kind=suspects")
    assert [(alarm["account"], alarm["kind"]) for alarm in alarms["items"]] == [
        ("think", "suspects")
    ]

    listed = said(await typed("suspects", "list"))
    assert all(f" {reason}" in listed for reason in one["reasons"])
    assert "[" not in listed
    done = said(await typed("suspects", "reject", one["id"], "--by", "li", "--note", "no"))
    assert done == "1 rejected, 0 decided already\n"
    await suspects.watch(pool, accounts, now=NOW + timedelta(minutes=1))
    assert json.loads(said(await typed("alarms", "--output", "json")))["items"] == []
    ended = json.loads(said(await typed("alarms", "--ended", "--output", "json")))["items"]
    assert [alarm["kind"] for alarm in ended] == ["suspects"]
    assert said(await typed("suspects", "accept", one["id"])).startswith("1 accepted")
    told = said(await typed("suspects", "reject", one["id"]))
    assert told.startswith("0 rejected, 1 decided already (what was accepted counts")
    shown = await api(database, tmp_path, f"/v1/messages/{one['message_id']}")
    assert (shown["status"], shown["reports"][0]["counts"]) == ("delivered", True)
    (one,) = (await api(database, tmp_path, "/v1/suspects"))["items"]
    assert one["state"] == "accepted"
    assert one["decided_by"]


async def test_what_waits_at_an_account_for_a_reason_is_decided_at_once(
    typed: Typed, pool: Any, tmp_path: Path
) -> None:
    accounts = load(tmp_path / "huizhi.toml", {}).accounts
    said(await typed("sent", "import", "sent.csv"))
    # The vendor's clock as another zone has it: 25 strangers' ids and our two.
    ids = ["a", "b", *map(str, range(25))]
    body = {id: delivered(id).replace(b"2024-10-05 09:30:05", b"2024-10-20 16:00:03") for id in ids}
    await settlement.settle(
        pool, accounts, [pushed(each) for each in body.values()], batches=(), now=NOW
    )
    await suspects.watch(pool, accounts, now=NOW)
    table = said(await typed("alarms", "--kind", "clock"))
    assert "27 pushed reports that wait bear times 8 hours ahead of their coming" in table
    accept = ("suspects", "accept", "--account", "think", "--reason")
    assert said(await typed(*accept, "foreign_network")).startswith("0 accepted")
    assert said(await typed(*accept, "in_future", "--note", "zone")).startswith("27 accepted")
    states = await pool.fetch("SELECT status FROM messages")
    assert [row["status"] for row in states] == ["delivered", "delivered"]


async def test_mistakes_are_one_line(typed: Typed) -> None:
    assert mistake(await typed("suspects", "accept", "77")) == "no suspect report 77"
    assert mistake(await typed("suspects", "accept", "0" * 64)) == "no such suspect report"
    assert mistake(await typed("suspects", "reject")).startswith("name reports by their IDs")
    assert "no account 'x'" in mistake(await typed("suspects", "list", "--account", "x"))


async def test_arrivals_are_learned_and_drift_is_listed(
    typed: Typed, database: Database, pool: Any, tmp_path: Path
) -> None:
    told = json.loads(said(await typed("arrivals", "--output", "json")))
    assert told == await api(database, tmp_path, "/v1/arrivals")
    assert {item["account"]: item["state"] for item in told["items"]} == {
        "sms": "learning",
        "think": "learning",
    }
    accounts = load(tmp_path / "huizhi.toml", {}).accounts
    now = datetime.now(UTC)
    odd = delivered("a").replace(b'"status": 1', b'"status": 9')
    fresh = records.of_callback(
        "think",
        records.Callback(method="POST", query=b"", headers={}, body=odd),
        received_at=now - timedelta(hours=1),
        peer="192.0.2.1",
    )
    async with pool.acquire() as connection:
        await records.store(connection, [fresh], recorder="test", now=now)
    async with leases.held(pool, "drift:", holder="test") as lease:
        assert lease is not None
        await drift.read(accounts, lease, now=now)
    told = json.loads(said(await typed("drift", "--output", "json")))
    assert told == await api(database, tmp_path, "/v1/drift")
    (item,) = told["items"]
    assert (item["feature"], item["kind"], item["drift"]) == ("code", "9", "code")
    every = json.loads(said(await typed("drift", "--all", "--output", "json")))["items"]
    assert {"sms.id", "sms.phone", "action"} <= {item["feature"] for item in every}
