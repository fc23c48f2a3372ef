"""Runs that close, adjust and assume; causes, coverage; bills made of what reports say."""

import asyncio
import json
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Case, Line, Message, Report
from test_reconcile import (
    DELIVERED,
    FAILED,
    FAR,
    OCTOBER,
    PHONE,
    SENT,
    SEPTEMBER,
    SHANGHAI,
    TARIFF,
    Sheet,
    World,
    as_decimals,
    bill,
    case,
    filed_as,
    line,
    lines_about,
    listed,
    message,
    midnight,
    push,
    put,
    register,
    reports_after,
    settle,
    worlds,
)

from gateways.gateway import Callback
from gateways.segments import Rule, Unit
from reconciler import chain, evidence, ledger, match, periods
from reconciler import lease as leases
from reconciler.causes import segment_cause
from reconciler.reading import billed, sent
from runtime.queries import QUERIES
from runtime.settings import AccountSettings, parse

pytestmark = pytest.mark.anyio

MONTH = periods.Period(*OCTOBER)
PROPERTY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def changes(connection: Any, run: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = await billed.adjustments(connection, UUID(run), cursor=cursor, limit=3)
        items += page.items
        if (cursor := page.next) is None:
            return items


async def listed_runs(connection: Any, own: AccountSettings, **given: Any) -> list[dict[str, Any]]:
    name = own.account.name
    return (await billed.runs(connection, name, cursor=None, limit=100, **given)).items


# --- closing and adjusting ---------------------------------------------------------------------------


async def test_closed_period_is_closed_once_and_for_ever(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    own = await put(pool, connection, World(case([message()], [line(2)])), tmp_path)
    first = await match.reconcile(connection, own, MONTH, now=FAR)
    second = await match.reconcile(connection, own, MONTH, now=FAR)
    with pytest.raises(match.Closed, match=r"version 1 of .* is not the newest: close version 2"):
        await match.close(connection, UUID(first["id"]), by="Li", now=FAR)
    assert await match.close(connection, UUID(second["id"]), by="Li", now=FAR)
    for again in (first, second):
        with pytest.raises(match.Closed, match="closed at 2027-06-01 00:00 UTC by Li with run"):
            await match.close(connection, UUID(again["id"]), by="Wang", now=FAR)
    with pytest.raises(match.Closed, match="never opened again"):
        await match.reconcile(connection, own, MONTH, now=FAR, close_by="Wang")
    assert not await match.close(connection, uuid4(), by="Li", now=FAR)

    third = await match.reconcile(connection, own, MONTH, now=FAR)
    assert third["adjusts"] == second["id"]
    assert third["adjustment"] == {
        "changed": 0,
        "sent": {"messages": 0, "segments": 0},
        "owed": {"messages": 0, "segments": 0, "amount": "0"},
        "billed": {"lines": 0, "segments": 0, "amount": "0"},
        "difference": {"segments": 0, "amount": "0"},
    }
    with pytest.raises(match.Closed, match="never opened again"):
        await match.close(connection, UUID(third["id"]), by="Li", now=FAR)
    shown = [
        (one["id"], one["version"], one["closed_at"], one["closed_by"], one["adjusts"])
        for one in await listed_runs(connection, own)
    ]
    assert sorted(shown, key=lambda one: one[1]) == [
        (first["id"], 1, None, None, None),
        (second["id"], 2, "2027-06-01T00:00:00Z", "Li", None),
        (third["id"], 3, None, None, second["id"]),
    ]
    # Of no more than the closed run is kept what each message came to.
    kept = await connection.fetch(
        "SELECT run_id FROM outcomes UNION SELECT run_id FROM even_outcomes"
    )
    assert [row["run_id"] for row in kept] == [UUID(second["id"])]


async def test_late_report_and_corrected_bill_show_in_the_adjustment_and_nowhere_else(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    waiting, silent = message(reports=()), message("b", reports=FAILED)
    world = World(case([waiting, silent], [line(2), line(3, "x")]))
    own = await put(pool, connection, world, tmp_path)
    closed = await match.reconcile(connection, own, MONTH, now=FAR, close_by="Li")
    before = await billed.run(connection, UUID(closed["id"]))
    found = await listed(connection, closed["id"])

    await settle(pool, own, [push(world.case, waiting, DELIVERED[0])])
    late = message("x", segments=2, reports=())
    await register(pool, own, [late])
    corrected = case([], [line(2), line(3, "b", 1, "0.05")])
    imported = await bill(connection, own, corrected, tmp_path, Sheet())
    assert imported.version == 2
    run = await match.reconcile(connection, own, MONTH, now=FAR)
    assert run["adjusts"] == closed["id"]
    assert run["adjustment"] == {
        "changed": 3,
        "sent": {"messages": 1, "segments": 2},
        "owed": {"messages": 1, "segments": 1, "amount": "0.04"},
        "billed": {"lines": 0, "segments": 0, "amount": "0.01"},
        "difference": {"segments": -1, "amount": "-0.03"},
    }
    items = await changes(connection, run["id"])
    told = [
        (
            item["vendor_message_id"],
            (item["status_before"], item["status_after"]),
            (item["owed_amount_before"], item["owed_amount_after"]),
            (item["billed_amount_before"], item["billed_amount_after"]),
            (item["segments"], item["amount"]),
        )
        for item in items
    ]
    assert told == [
        ("a", ("submitted", "delivered"), (None, "0.04"), ("0.04", "0.04"), (-1, "-0.04")),
        ("b", ("failed", "failed"), (None, None), ("0", "0.05"), (1, "0.05")),
        ("x", (None, "submitted"), (None, None), ("0.04", "0"), (-1, "-0.04")),
    ]
    assert items[0]["message_id"] == str(filed_as(own, waiting))
    assert await billed.run(connection, UUID(closed["id"])) == before
    assert await listed(connection, closed["id"]) == found


async def test_messages_that_came_out_even_together_are_told_apart_in_an_adjustment(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    phones = [f"1380000000{digit}" for digit in range(5)]
    one_id = [message(phone=phone) for phone in phones]
    silent = message("b", reports=FAILED)
    lines = [line(2 + number, phone=phone) for number, phone in enumerate(phones)]
    own = await put(pool, connection, World(case([*one_id, silent], lines)), tmp_path)
    closed = await match.reconcile(connection, own, MONTH, now=FAR, close_by="Li")
    assert closed["status"] == "balanced"
    # All of an id are of one shard, and so in one group; none has a row of its own.
    groups = await connection.fetch("SELECT charged, ids FROM even_outcomes ORDER BY charged")
    assert [(group["charged"], len(group["ids"]) // 16) for group in groups] == [
        (False, 1),
        (True, 5),
    ]
    assert not await connection.fetch("SELECT FROM outcomes")

    await bill(connection, own, case([], lines[:3] + lines[4:]), tmp_path, Sheet())
    run = await match.reconcile(connection, own, MONTH, now=FAR)
    (item,) = await changes(connection, run["id"])
    assert item["message_id"] == str(filed_as(own, one_id[3]))
    assert (item["vendor_message_id"], item["phone"]) == ("a", phones[3])
    assert (item["billed_amount_before"], item["billed_amount_after"]) == ("0.04", "0")
    assert (item["lines_before"], item["lines_after"]) == (1, 0)


@PROPERTY
@given(world=worlds())
async def test_looking_at_everything_finds_what_setting_even_ones_aside_finds(
    world: World, pool: Any, connection: Any, tmp_path: Path
) -> None:
    own = await put(pool, connection, world, tmp_path)
    period = periods.Period(world.case.first, world.case.last)
    now = world.case.now
    # Texts counted anew, by the rule that they were counted by: for that every message is looked at.
    as_it_is = {"segment_rule": own.rule.value}
    try:
        real = await match.reconcile(connection, own, period, now=now)
    except match.Impossible as error:
        with pytest.raises(match.Impossible, match=re.escape(str(error))):
            await match.reconcile(connection, own, period, now=now, assume=as_it_is)
        return
    assumed = await match.reconcile(connection, own, period, now=now, assume=as_it_is)
    assert {**assumed, "id": "", "assumed": {}} == {
        **real,
        "id": "",
        "status": f"assumed_{real['status']}",
        "assumed": {},
    }
    assert await listed(connection, assumed["id"]) == await listed(connection, real["id"])


async def test_message_in_doubt_that_came_to_its_real_key_is_one_change(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    unsent = message("~f00d", reports=(), sending="indeterminate")
    own = await put(pool, connection, World(case([message(), unsent], [line(2)])), tmp_path)
    await match.reconcile(connection, own, MONTH, now=FAR, close_by="Li")
    real = message("c", reports=())
    await register(pool, own, [real])
    await connection.execute("DELETE FROM messages WHERE id = $1", filed_as(own, unsent))
    await connection.execute(
        "INSERT INTO moved_messages (id, moved_to) VALUES ($1, $2)",
        filed_as(own, unsent),
        filed_as(own, real),
    )
    run = await match.reconcile(connection, own, MONTH, now=FAR)
    (item,) = await changes(connection, run["id"])
    assert (item["message_id"], item["vendor_message_id"]) == (str(filed_as(own, real)), "c")
    assert (item["status_before"], item["status_after"]) == ("indeterminate", "submitted")
    assert run["adjustment"]["sent"] == {"messages": 0, "segments": 0}


async def test_runs_of_a_period_at_once_have_versions_of_their_own_and_one_closes_it(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    own = await put(pool, connection, World(case([message()], [line(2)])), tmp_path)

    async def run(by: str | None) -> Any:
        async with pool.acquire() as other:
            return await match.reconcile(other, own, MONTH, now=FAR, close_by=by)

    done = await asyncio.gather(
        *(run(by) for by in ("Li", "Wang", None, None)), return_exceptions=True
    )
    refused = [one for one in done if isinstance(one, match.Closed)]
    results = [one for one in done if isinstance(one, dict)]
    assert (len(refused), len(results)) == (1, 3)
    items = sorted(await listed_runs(connection, own), key=lambda one: one["version"])
    assert [one["version"] for one in items] == [1, 2, 3]
    (closed,) = [one for one in items if one["closed_by"]]
    for one in items:
        after = one["version"] > closed["version"]
        assert one["adjusts"] == (closed["id"] if after else None)


async def test_currency_of_a_closed_period_cannot_change(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    own = await put(pool, connection, World(case([message()], [line(2)])), tmp_path)
    await match.reconcile(connection, own, MONTH, now=FAR, close_by="Li")
    dollars = tuple(msgspec.structs.replace(each, currency="USD") for each in own.tariffs)
    own = msgspec.structs.replace(own, tariffs=dollars)
    with pytest.raises(match.Impossible, match="closed in CNY, and its tariffs are in USD now"):
        await match.reconcile(connection, own, MONTH, now=FAR)


# --- assuming ----------------------------------------------------------------------------------------


async def test_assumed_run_is_kept_apart_and_says_what_it_assumes(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    world = World(case([message(), message("b", reports=FAILED)], [line(2), line(3, "b")]))
    own = await put(pool, connection, world, tmp_path)
    real = await match.reconcile(connection, own, MONTH, now=FAR)
    what_if = {"basis": "submitted", "price": "0.03"}
    result = await match.reconcile(connection, own, MONTH, now=FAR, assume=what_if)
    assert result["status"] == "assumed_discrepant"
    assert list(result["assumed"].items()) == [("price", "0.03"), ("basis", "submitted")]
    assert result["owed"] == {"messages": 2, "segments": 2, "amount": "0.06"}
    assert result["difference"] == {"segments": 0, "amount": "0.02"}
    assert [one["id"] for one in await listed_runs(connection, own)] == [real["id"]]
    (apart,) = await listed_runs(connection, own, assumed=True)
    assert (apart["id"], apart["version"], apart["rules"]["assumed"]) == (
        result["id"],
        None,
        {"basis": "submitted", "price": "0.03"},
    )
    assert apart["rules"]["tariffs"][0]["price"] == "0.03"
    with pytest.raises(match.Closed, match="assumes something closes no period"):
        await match.close(connection, UUID(result["id"]), by="Li", now=FAR)
    with pytest.raises(match.Closed, match="assumes something closes no period"):
        await match.reconcile(connection, own, MONTH, now=FAR, assume=what_if, close_by="Li")
    # A message has what real runs found.
    id = filed_as(own, message())
    whole = await sent.message(connection, {own.account.name: own}, id)
    assert whole is not None
    assert whole["discrepancies"] == []
    # Nor does it take part in closing.
    assert await match.close(connection, UUID(real["id"]), by="Li", now=FAR)
    again = await match.reconcile(connection, own, MONTH, now=FAR, assume=what_if)
    assert "adjusts" not in again
    assert again == {**result, "id": again["id"]}


@pytest.mark.parametrize(
    ("assume", "said"),
    [
        ({"colour": "red"}, "no assumption 'colour'; there are price, basis, segment_rule, "),
        ({"price": "cheap"}, "assumption price: 'cheap' is not decimal text"),
        ({"price": "-1"}, "is not decimal text"),
        ({"price": "1e9"}, "is not decimal text"),
        ({"basis": "both"}, "assumption basis: 'both' is not delivered or submitted"),
        ({"segment_rule": "x"}, "is not domestic or international"),
        ({"segment_unit": "x"}, "is not code_point or utf16"),
        ({"poll_until_hours": "nan"}, "is not a number of hours above 0"),
        ({"timezone": "Mars/Olympus"}, "is not a time zone"),
        ({"timezone": "../../etc"}, "is not a time zone"),
    ],
)
async def test_unknown_assumption_is_one_line(
    pool: Any, connection: Any, tmp_path: Path, assume: dict[str, str], said: str
) -> None:
    own = await put(pool, connection, World(case([message()], [line(2)])), tmp_path)
    with pytest.raises(match.Impossible) as raised:
        await match.reconcile(connection, own, MONTH, now=FAR, assume=assume)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert await listed_runs(connection, own, assumed=True) == []


async def test_texts_are_counted_as_assumed_and_the_ledger_keeps_its_counts(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    own = await put(
        pool, connection, World(case([], [line(2, "t", 2, "0.08"), line(3, "n")])), tmp_path
    )
    name = own.account.name
    texts = {"t": ("x" * 100, None), "given": ("x" * 100, 2)}
    rows: list[ledger.Sent | ledger.Rejected] = [
        ledger.Sent(
            account=name,
            vendor_message_id=id,
            phone=PHONE,
            sent_at=SENT,
            content=content,
            segments=segments,
        )
        for id, (content, segments) in texts.items()
    ]
    await ledger.register(pool, {name: own}, rows, now=FAR)
    real = await match.reconcile(connection, own, MONTH, now=FAR)
    assert real["sent"] == {"messages": 2, "segments": 4}
    assume = {"segment_rule": "international", "basis": "submitted"}
    result = await match.reconcile(connection, own, MONTH, now=FAR, assume=assume)
    # 100 characters of GSM-7 are one; the sender's own count stands.
    assert result["sent"] == {"messages": 2, "segments": 3}
    assert result["discrepancies"]["segments_differ"] == {
        "count": 1,
        "segments": 1,
        "amount": "0.04",
    }
    (cause,) = [one["cause"] for one in result["causes"] if one["kind"] == "segments_differ"]
    assert cause == "coding"
    counts = await connection.fetch("SELECT segments FROM messages WHERE account = $1", name)
    assert [row["segments"] for row in counts] == [2, 2]


@st.composite
def sequels(draw: st.DrawFn) -> tuple[World, Case]:
    """A world, and what its case has become by late reports, late messages and another bill."""
    world = draw(worlds())
    first = world.case
    edge = midnight(first.first, first.zone)
    late = tuple(
        Message(
            f"late-{number}",
            PHONE,
            edge + timedelta(days=draw(st.integers(-3, 40))),
            draw(st.integers(1, 3)),
            draw(reports_after(edge)),
        )
        for number in range(draw(st.integers(0, 2)))
    )
    grown = tuple(
        replace(each, reports=(*each.reports, *draw(reports_after(edge))))
        if draw(st.booleans()) and not each.id.startswith("~")
        else each
        for each in first.messages
    )
    messages = grown + late
    lines = first.lines
    if draw(st.booleans()):
        lines = draw(lines_about(messages, first.tariffs, first.zone, edge))
    return world, replace(first, messages=messages, lines=lines)


def outcomes(case: Case) -> dict[tuple[str, str | None], tuple[Any, ...]]:
    """What a run comes to for each message and each line without one."""
    state = oracle._State(case)
    found: dict[tuple[str, str | None], list[Any]] = {}

    def at(id: str, phone: str | None) -> list[Any]:
        key = (id, None if phone is None else oracle.digits(phone))
        return found.setdefault(key, [None, None, None, None, 0, 0, Decimal(0)])

    for each in case.messages:
        if state.inside(each):
            owed = state.owed(each)
            one = at(each.id, each.phone)
            one[0] = oracle.status(each) or each.sending or "submitted"
            one[1] = each.segments
            one[2] = None if owed is None else each.segments
            one[3] = owed
    for each_line in case.lines:
        billed = state.of(each_line)
        one = at(each_line.id, each_line.phone if billed is None else billed.phone)
        if billed is not None:
            one[0] = oracle.status(billed) or "submitted"
        one[4] += 1
        one[5] += each_line.segments
        one[6] = oracle.EXACT.add(one[6], state.amount(each_line))
    return {key: tuple(one) for key, one in found.items()}


PARTS = ("sent", "owed", "billed", "difference")


@PROPERTY
@given(sequel=sequels(), basis=st.sampled_from(["delivered", "submitted"]))
async def test_adjustment_is_the_new_result_less_the_closed_one_and_assuming_changes_neither(
    sequel: tuple[World, Case], basis: Any, pool: Any, connection: Any, tmp_path: Path
) -> None:
    world, then = sequel
    assumed = replace(
        then,
        tariffs=tuple(replace(each, basis=basis, price=Decimal("0.07")) for each in then.tariffs),
    )
    try:
        oracles = [oracle.reconcile(each)[0] for each in (world.case, then, assumed)]
    except oracle.Impossible:
        return
    own = await put(pool, connection, world, tmp_path)
    period = periods.Period(then.first, then.last)
    now = world.case.now
    closed = await match.reconcile(connection, own, period, now=now, close_by="Li")
    before = await billed.run(connection, UUID(closed["id"]))
    found = await listed(connection, closed["id"])

    await settle(
        pool, own, [push(then, each, report) for each in then.messages for report in each.reports]
    )
    late = [each for each in then.messages if each.id.startswith("late-")]
    await register(pool, own, late)
    await bill(connection, own, then, tmp_path, world.sheet, now=FAR + timedelta(days=1))

    what_if = await match.reconcile(
        connection, own, period, now=now, assume={"basis": basis, "price": "0.07"}
    )
    run = await match.reconcile(connection, own, period, now=now)
    again = await match.reconcile(connection, own, period, now=now)
    assert msgspec.json.encode({**run, "id": ""}) == msgspec.json.encode({**again, "id": ""})
    items = await changes(connection, run["id"])
    assert items == await changes(connection, again["id"])
    assert await billed.run(connection, UUID(closed["id"])) == before
    assert await listed(connection, closed["id"]) == found
    assert [one["version"] for one in await listed_runs(connection, own)].count(None) == 0

    compared = [as_decimals(each) for each in (closed, run, what_if)]
    for each in compared:
        for name in ("id", "account"):
            each.pop(name)
    adjustment = compared[1].pop("adjustment")
    assert compared[1].pop("adjusts") == closed["id"]
    assert compared[2].pop("assumed") == {"basis": basis, "price": "0.07"}
    compared[2]["status"] = compared[2]["status"].removeprefix("assumed_")
    assert compared == oracles
    for part in PARTS:
        for name, value in adjustment[part].items():
            less = compared[1][part][name], compared[0][part][name]
            assert oracle.EXACT.subtract(*map(Decimal, less)) == value, (part, name)
    assert adjustment["changed"] == len(items)
    total = oracle.total(Decimal(item["amount"]) for item in items)
    assert total == adjustment["difference"]["amount"]
    assert sum(item["segments"] for item in items) == adjustment["difference"]["segments"]

    was, now_is = outcomes(world.case), outcomes(then)
    nothing = (None, None, None, None, 0, 0, Decimal(0))
    hidden = {str(filed_as(own, each)): each.id for each in then.messages}
    told = {
        (item["vendor_message_id"] or hidden[item["message_id"]], item["phone"]): (
            told_of(item, "before"),
            told_of(item, "after"),
        )
        for item in items
    }
    assert len(told) == len(items)
    assert told == {
        key: (was.get(key, nothing), now_is.get(key, nothing))
        for key in was.keys() | now_is.keys()
        if was.get(key, nothing) != now_is.get(key, nothing)
    }


def told_of(item: dict[str, Any], at: str) -> tuple[Any, ...]:
    owed = item[f"owed_amount_{at}"]
    return (
        item[f"status_{at}"],
        item[f"sent_segments_{at}"],
        item[f"owed_segments_{at}"],
        None if owed is None else Decimal(owed),
        item[f"lines_{at}"],
        item[f"billed_segments_{at}"],
        Decimal(item[f"billed_amount_{at}"]),
    )


# --- causes and coverage -----------------------------------------------------------------------------

HAN = "字"


@pytest.mark.parametrize(
    ("content", "sign", "billed", "rule", "cause"),
    [
        (None, None, 2, "domestic", "content_unknown"),
        (HAN, None, 1, "domestic", "own_count"),
        (HAN * 68, "顶想云", 1, "domestic", "sign_not_counted"),
        ("【顶想云】" + HAN * 68, None, 1, "domestic", "sign_not_counted"),
        (HAN * 63, "顶想云", 2, "domestic", "sign_counted"),
        (HAN * 65, None, 2, "domestic", "sign_counted"),
        (HAN * 69, "", 2, "domestic", "sign_counted"),
        ("😀" + HAN * 69, None, 1, "domestic", "emoji_unit"),
        (HAN * 140, None, 2, "domestic", "parts_of_70"),
        ("x" * 100, None, 1, "domestic", "coding"),
        ("x" * 100, None, 2, "international", "coding"),
        ("x" * 320, None, 2, "international", "parts_of_70"),
        (HAN * 10, None, 9, "domestic", "segments_other"),
        ("", None, 0, "domestic", "segments_other"),
    ],
)
def test_cause_of_other_segments_is_the_first_that_explains_them(
    content: str | None,
    sign: str | None,
    billed: int,
    rule: str,
    cause: str,
) -> None:
    found = segment_cause(
        content,
        sign,
        billed=billed,
        rule=Rule(rule),
        unit=Unit.UTF16,
    )
    assert found == cause


@pytest.mark.parametrize(
    ("lines", "messages", "cause"),
    [
        # A line nine hours after a message of the day before the period.
        (
            [line(2, sent_at=SEPTEMBER + timedelta(hours=8))],
            [message(sent_at=SEPTEMBER)],
            "time_zone",
        ),
        ([line(2, sent_at=SEPTEMBER)], [message(sent_at=SEPTEMBER)], "month_edge"),
        ([line(2)], [message(sent_at=SEPTEMBER)], "month_edge"),
        ([line(2)], [message(sent_at=SEPTEMBER - timedelta(days=2))], "other_period"),
        ([line(2, "a", 1, "0.05")], [message()], "price_other"),
        ([line(2), line(3)], [message()], "double_same_amount"),
        ([line(2), line(3, "a", 2, "0.08")], [message()], "double_other_amount"),
        ([line(2)], [message(reports=FAILED)], "failed"),
        ([line(2, phone="13900139000")], [message()], "id_with_other_phone"),
        ([line(2, "b")], [message()], "id_unknown"),
        ([line(2)], [message(sending="refused", reports=())], "refused_by_us"),
        ([line(2)], [message(sending="indeterminate", reports=())], "in_doubt"),
    ],
)
async def test_cause_of_a_line(
    pool: Any,
    connection: Any,
    tmp_path: Path,
    lines: Sequence[Line],
    messages: Sequence[Message],
    cause: str,
) -> None:
    own = await put(pool, connection, World(case(messages, lines)), tmp_path)
    result = await match.reconcile(connection, own, MONTH, now=SENT + timedelta(hours=1))
    of_lines = [one["cause"] for one in result["causes"] if one["kind"] != "not_billed"]
    assert of_lines == [cause]


async def test_price_of_another_tariff_is_a_stale_one_and_expired_is_said(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    old = replace(TARIFF, start=date(2025, 1, 1), price=Decimal("0.06"))
    waiting = message("b", reports=())
    world = World(case([message(), waiting], [line(2, amount="0.06"), line(3, "b")], [old, TARIFF]))
    own = await put(pool, connection, world, tmp_path)
    await connection.execute(
        "UPDATE messages SET status = 'expired' WHERE id = $1", filed_as(own, waiting)
    )
    result = await match.reconcile(connection, own, MONTH, now=SENT)
    assert [(one["cause"], one["amount"]) for one in result["causes"]] == [
        ("expired", "0.04"),
        ("stale_tariff", "0.02"),
    ]


async def test_every_segment_is_covered_by_one_thing(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    silent = [
        message(id, segments, reports=()) for id, segments in (("x", 8), ("u", 16), ("s", 32))
    ]
    told = [message("push", 1), message("query", 2), message("pull", 4)]
    own = await put(pool, connection, World(case([*told, *silent], [line(2, "s")])), tmp_path)
    for each in told:
        await connection.execute(
            "UPDATE reports SET source = $2 WHERE message_id = $1", filed_as(own, each), each.id
        )
    await connection.execute(
        "UPDATE messages SET status = 'expired' WHERE id = $1", filed_as(own, silent[0])
    )
    result = await match.reconcile(connection, own, MONTH, now=FAR)
    assert list(result["coverage"].items()) == [
        ("pushed", 1),
        ("polled", 2),
        ("pulled", 4),
        ("statement_only", 32),
        ("expired", 8),
        ("unexplained", 16),
    ]
    assert result["sent"]["segments"] == 63


# --- bills made of reports ---------------------------------------------------------------------------


def dollars(
    prices: str = "0.01", currency: str = "USD", basis: str = "delivered"
) -> AccountSettings:
    name = f"itn-{uuid4().hex[:8]}"
    text = (
        f'[accounts.{name}]\ngateway = "itniotech"\npush_timestamp = "reported"\n'
        'credentials = { api_key = "k", api_secret = "s", app_id = "a" }\n'
        f'[[accounts.{name}.tariffs]]\nfrom = 2026-01-01\nprice = "{prices}"\n'
        f'currency = "{currency}"\nbasis = "{basis}"\n'
    )
    return parse(text, Path("huizhi.toml"), {}).accounts[name]


def priced(id: str, charge: dict[str, Any] | None, *, status: int = 0, after: int = 5) -> Callback:
    at = int((SENT + timedelta(seconds=after)).timestamp() * 1000)
    body = {"appId": "a", "msgid": id, "mobile": PHONE, "status": status, "timestamp": at}
    if charge is not None:
        body["pricedetail"] = charge
    return Callback(method="POST", query=b"", headers={}, body=json.dumps(body).encode())


def cost(segments: int | None, price: str | None, pay: str | None, currency: str = "USD") -> Any:
    told = {"chargeCnt": segments, "price": price, "pay": pay, "currency": currency}
    return {name: value for name, value in told.items() if value is not None}


async def of_reports(connection: Any, own: AccountSettings, **given: Any) -> dict[str, Any]:
    return await match.reconcile(
        connection, own, MONTH, now=SENT + timedelta(hours=1), source="reports", **given
    )


async def test_what_reports_say_that_messages_cost_is_a_bill(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    own = dollars()
    ids = ("right", "more", "dear", "failed", "free", "unpriced")
    await register(pool, own, [message(id) for id in ids])
    pushes = [
        priced("right", cost(1, "0.01", "0.01")),
        priced("right", cost(1, "0.01", "0.01")),  # the same bytes
        priced("right", cost(1, "0.010", "0.010"), after=9),  # and the same words
        priced("more", cost(2, "0.01", "0.02")),
        priced("dear", cost(1, "0.03", "0.03")),
        priced("failed", cost(1, "0.01", "0.01"), status=7),
        priced("free", None),
        priced("unpriced", cost(1, None, None)),
        priced("stranger", cost(1, "0.01", "0.01")),
    ]
    await settle(pool, own, pushes)
    result = await of_reports(connection, own)
    assert (result["source"], result["status"]) == ("reports", "discrepant")
    assert result["billed"] == {"lines": 6, "segments": 7, "amount": "0.09"}
    assert result["owed"] == {"messages": 5, "segments": 5, "amount": "0.05"}
    assert [(one["cause"], one["segments"], one["amount"]) for one in result["causes"]] == [
        ("price_other", 0, "0.02"),
        ("content_unknown", 1, "0.01"),
        ("failed", 1, "0.01"),
        ("id_unknown", 1, "0.01"),
        ("no_line", -1, "-0.01"),
    ]
    assert result["coverage"]["pushed"] == result["sent"]["segments"] == 6
    items = await listed(connection, result["id"])
    assert {item["line"] for item in items} == {None}
    again = await of_reports(connection, own)
    assert {**again, "id": ""} == {**result, "id": ""}
    shown = await billed.run(connection, UUID(result["id"]))
    assert shown is not None
    assert "statement_version" not in shown["rules"]


async def test_run_that_assumes_is_neither_linked_nor_followed_and_one_of_reports_is_both(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    own = dollars()
    await register(pool, own, [message("dear"), message("fine")])
    charged = (cost(1, "0.03", "0.03"), cost(1, "0.01", "0.01"))
    pushes = [priced(id, charge) for id, charge in zip(("dear", "fine"), charged, strict=True)]
    await settle(pool, own, pushes)
    real = UUID((await of_reports(connection, own))["id"])
    assumed = UUID((await of_reports(connection, own, assume={"price": "0.02"}))["id"])
    async with leases.held(pool, chain.LEASE, holder="test") as lease:
        assert lease is not None
        await chain.link_all(lease)
    assert await connection.fetchval(QUERIES["run_linked"], real) is not None
    assert await connection.fetchval(QUERIES["run_linked"], assumed) is None
    assert await chain.behind_seconds(connection) == 0
    assert [fault.what async for fault in chain.verify(connection)] == []
    followed = await connection.fetch(
        "SELECT run_id FROM cases WHERE account = $1", own.account.name
    )
    assert {row["run_id"] for row in followed} == {real}

    to = tmp_path / "evidence.zip"
    for run, why in ((assumed, "assumes something"), (real, "rests on no statement")):
        with pytest.raises(evidence.NoPackage, match=why):
            await evidence.write(pool, connection, run, to, holder="test")
    assert not to.exists()


async def test_adjustment_is_linked_and_packed_as_any_run(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    own = await put(pool, connection, World(case([message()], [line(2)])), tmp_path)
    await match.reconcile(connection, own, MONTH, now=FAR, close_by="Li")
    adjusting = await match.reconcile(connection, own, MONTH, now=FAR)
    assert "adjusts" in adjusting
    to = tmp_path / "evidence.zip"
    await evidence.write(pool, connection, UUID(adjusting["id"]), to, holder="test")
    place = tmp_path / "elsewhere"
    with zipfile.ZipFile(to) as archive:
        archive.extractall(place)
    ran = subprocess.run(
        [sys.executable, "-I", "verify.py"],
        cwd=place,
        capture_output=True,
        text=True,
        env={"PYTHONIOENCODING": "utf-8"},
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


async def test_of_charges_that_differ_the_standing_reports_holds_and_the_rest_is_evidence(
    pool: Any, connection: Any
) -> None:
    own = dollars()
    await register(pool, own, [message()])
    charges = [
        priced("a", cost(1, "0.01", "0.01"), after=5),
        priced("a", cost(3, "0.01", "0.03"), after=9),
        priced("a", cost(9, "0.01", "0.09"), after=1, status=7),
    ]
    for order in (charges[1:2], charges[:1]):
        await settle(pool, own, order)
    result = await of_reports(connection, own)
    assert result["billed"]["amount"] == "0.01"
    assert result["causes"] == [
        {
            "cause": "charges_contradict",
            "kind": "reports_contradict",
            "count": 1,
            "segments": 0,
            "amount": "0",
        }
    ]
    await settle(pool, own, charges[2:])
    result = await of_reports(connection, own)
    # The earliest report says that it failed, so that nothing is owed.
    assert result["discrepancies"]["billed_not_delivered"]["amount"] == "0.09"
    assert {one["cause"] for one in result["causes"]} == {"failed", "states_contradict"}


async def test_reports_without_a_price_or_of_another_currency_make_no_bill(
    pool: Any, connection: Any
) -> None:
    own = dollars()
    await register(pool, own, [message()])
    await settle(pool, own, [priced("a", None)])
    with pytest.raises(
        match.Impossible, match=r"no report of .* says what a message of 2026-10 cost"
    ):
        await of_reports(connection, own)
    await settle(pool, own, [priced("a", cost(1, "0.01", "0.01", "EUR"))])
    with pytest.raises(match.Impossible, match="say prices in EUR, and its tariffs are in USD"):
        await of_reports(connection, own)
    assert await connection.fetchval("SELECT count(*) FROM runs") == 0


async def test_statement_of_a_period_closed_on_reports_is_an_adjustment(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    own = dollars()
    await register(pool, own, [message()])
    await settle(pool, own, [priced("a", cost(1, "0.01", "0.01"))])
    closed = await of_reports(connection, own, close_by="Li")
    await bill(connection, own, case([], [line(2, "a", 2, "0.02")]), tmp_path, Sheet())
    run = await match.reconcile(connection, own, MONTH, now=FAR)
    assert run["adjusts"] == closed["id"]
    assert run["adjustment"]["difference"] == {"segments": 1, "amount": "0.01"}


CHARGES = st.builds(
    cost,
    st.sampled_from([None, 0, 1, 2]),
    st.sampled_from([None, "0.01", "0.035"]),
    st.sampled_from(["0", "0.01", "0.02", "0.000001", "123456789012.125"]),
)


@PROPERTY
@given(
    told=st.dictionaries(
        st.sampled_from("abcdef"),
        st.tuples(
            st.sampled_from([None, 1, 2]),
            st.lists(st.tuples(st.sampled_from([0, 7]), CHARGES), max_size=3),
        ),
        min_size=1,
    ),
    basis=st.sampled_from(["delivered", "submitted"]),
    seed=st.integers(0, 9),
)
async def test_bill_of_reports_is_that_of_a_statement_with_the_charges_that_hold(
    told: dict[str, Any], basis: Any, seed: int, pool: Any, connection: Any
) -> None:
    own = dollars(basis=basis)
    messages: list[Message] = []
    lines: list[Line] = []
    pushes: list[Callback] = []
    contradicting = 0
    for id, (segments, charges) in told.items():
        reports = [
            Report("failed" if status else "delivered", SENT + timedelta(seconds=5 + number))
            for number, (status, _) in enumerate(charges)
        ]
        pushes += [
            priced(id, charge, status=status, after=5 + number)
            for number, (status, charge) in enumerate(charges)
        ]
        if segments is not None:
            messages.append(message(id, segments, reports=tuple(reports)))
            words = [
                {charge[name] for _, charge in charges if name in charge}
                for name in ("chargeCnt", "price", "pay")
            ]
            differ = any(len(said) > 1 for said in words)
            contradicting += differ and not oracle.contradicted(messages[-1])
        if charges:
            count, pay = charges[0][1].get("chargeCnt"), charges[0][1]["pay"]
            lines.append(line(len(lines) + 2, id, segments or 1 if count is None else count, pay))
    random.Random(seed).shuffle(pushes)
    await register(pool, own, messages)
    await settle(pool, own, pushes)
    if not lines:
        with pytest.raises(match.Impossible):
            await of_reports(connection, own)
        return
    result = as_decimals(await of_reports(connection, own))
    tariff = replace(TARIFF, price=Decimal("0.01"), currency="USD", basis=basis)
    expected, _ = oracle.reconcile(
        case(messages, lines, [tariff], now=SENT + timedelta(hours=1), zone=SHANGHAI)
    )
    for part in ("sent", "owed", "billed", "difference", "messages", "lines"):
        assert result[part] == expected[part], part
    evidence = expected["discrepancies"].pop("reports_contradict", {"count": 0})["count"]
    ours = result["discrepancies"].pop("reports_contradict", {"count": 0})["count"]
    assert ours == evidence + contradicting
    assert result["discrepancies"] == expected["discrepancies"]
    causes = result["causes"]
    assert oracle.total(each["amount"] for each in causes) == result["difference"]["amount"]
    assert sum(result["coverage"].values()) == result["sent"]["segments"]
