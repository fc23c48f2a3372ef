"""Work on discrepancies: decided by people, carried over reruns, and every change kept."""

import asyncio
import csv
import io
import itertools
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from test_api import BILL, PHONE, SETTINGS, got, problem, register, serving, upload

from reconciler import cases, match
from reconciler.periods import parse
from reconciler.reading import disputed
from runtime.database import Database

pytestmark = pytest.mark.anyio

OCTOBER = parse("2024-10")
SENT = "2024-10-05T09:30:00+08:00"

Api = httpx.AsyncClient


@pytest.fixture
async def api(database: Database) -> AsyncIterator[Api]:
    async with serving(database) as client:
        yield client


def bill(*lines: str) -> str:
    return BILL + "".join(f"{line}\n" for line in lines)


def billed(id: str, amount: str = "0.04", segments: int = 1, phone: str = PHONE) -> str:
    return f"{id},{phone},{segments},{amount}"


async def run(api: Api, *lines: str, period: str = "2024-10") -> dict[str, Any]:
    """Import a statement of these lines and reconcile it."""
    uploaded = await upload(api, bill(*lines), period=period)
    assert uploaded.status_code == 200, uploaded.text
    return await rerun(api, period)


async def rerun(api: Api, period: str = "2024-10") -> dict[str, Any]:
    told = await api.post("/v1/reconciliations", json={"account": "think", "period": period})
    assert told.status_code == 200, told.text
    result: dict[str, Any] = told.json()
    return result


async def listed(api: Api, **filters: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await got(api, "/v1/discrepancies", **filters))["items"]
    return sorted(items, key=lambda item: (item["vendor_message_id"], item["nth"]))


async def change(api: Api, id: str, **values: Any) -> httpx.Response:
    return await api.post(f"/v1/discrepancies/{id}", json={"by": "li", **values})


async def changed(api: Api, id: str, **values: Any) -> dict[str, Any]:
    answer = await change(api, id, **values)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def steps(shown: dict[str, Any]) -> list[tuple[str | None, str]]:
    return [(each["from"], each["to"]) for each in shown["history"]]


# --- what a run makes of them --------------------------------------------------------------------------


async def test_run_opens_its_discrepancies_and_a_rerun_carries_decisions_over(api: Api) -> None:
    result = await run(api, billed("a"), billed("b", "0.12", 3))
    one, two = await listed(api)
    assert (one["state"], one["owner"], one["age_days"], one["version"]) == ("open", None, 0, 1)
    assert (one["kind"], one["amount"], one["rest"]) == ("billed_not_sent", "0.04", "0.04")
    assert (two["segments"], two["amount"], two["currency"]) == (3, "0.12", "CNY")
    assert one["reconciliation_id"] == result["id"]
    await changed(api, two["id"], state="disputed", owner="wang", note="never sent")
    again = await rerun(api)
    assert {**again, "id": None} == {**result, "id": None}
    kept = await got(api, f"/v1/reconciliations/{result['id']}")
    assert {name: kept[name] for name in result} == result
    carried = await listed(api)
    assert [item["id"] for item in carried] == [one["id"], two["id"]]
    assert [item["reconciliation_id"] for item in carried] == [again["id"]] * 2
    assert (carried[1]["state"], carried[1]["owner"]) == ("disputed", "wang")
    assert carried[1]["note"] == "never sent"
    shown = await got(api, f"/v1/discrepancies/{two['id']}")
    assert {name: shown[name] for name in carried[1]} == carried[1]
    assert steps(shown) == [(None, "open"), ("open", "disputed")]
    first, second = shown["history"]
    assert (first["by"], first["reconciliation_id"]) == ("reconciliation", result["id"])
    assert (second["by"], second["owner"], second["note"]) == ("li", "wang", "never sent")


async def test_what_a_rerun_no_longer_finds_is_resolved_and_found_again_is_open(api: Api) -> None:
    await run(api, billed("a"), billed("b"))
    one, two = await listed(api)
    await changed(api, one["id"], state="disputed", owner="wang")
    second = await run(api, billed("b"))
    (gone, _) = await listed(api)
    assert (gone["state"], gone["owner"], gone["id"]) == ("resolved", "wang", one["id"])
    assert gone["ended_at"] is not None
    third = await run(api, billed("b"), billed("a"), billed("c"))
    back, other, _ = await listed(api)
    assert (back["id"], back["state"], back["owner"]) == (one["id"], "open", "wang")
    assert (back["line"], back["ended_at"]) == (3, None)
    assert other["id"] == two["id"]
    shown = await got(api, f"/v1/discrepancies/{one['id']}")
    assert steps(shown) == [
        (None, "open"),
        ("open", "disputed"),
        ("disputed", "resolved"),
        ("resolved", "open"),
    ]
    assert [each["reconciliation_id"] for each in shown["history"][2:]] == [
        second["id"],
        third["id"],
    ]
    assert [each["version"] for each in shown["history"]] == [1, 2, 3, 4]


async def test_of_several_alike_each_keeps_its_own_in_a_corrected_statement(api: Api) -> None:
    await run(api, billed("a", "0.04"), billed("a", "0.08", 2), billed("a", "0.04"))
    first, second, third = await listed(api)
    assert [item["nth"] for item in (first, second, third)] == [1, 2, 3]
    await changed(api, second["id"], state="disputed")
    await changed(api, third["id"], owner="wang")
    # One of two equal ones is gone, and the file is in another order.
    await run(api, billed("a", "0.08", 2), billed("a", "0.04"))
    now = {item["id"]: item for item in await listed(api)}
    assert (now[second["id"]]["state"], now[second["id"]]["amount"]) == ("disputed", "0.08")
    assert sorted(now[each["id"]]["state"] for each in (first, third)) == ["open", "resolved"]
    # An amount that changed is the same discrepancy still, where there is no other it could be.
    await run(api, billed("a", "0.12", 3), billed("a", "0.04"))
    now = {item["id"]: item for item in await listed(api)}
    assert (now[second["id"]]["state"], now[second["id"]]["amount"]) == ("disputed", "0.12")
    history = (await got(api, f"/v1/discrepancies/{second['id']}"))["history"]
    assert (history[-1]["note"], history[-1]["to"]) == (
        "the amount was 0.08 and is 0.12",
        "disputed",
    )
    # More than ever before: the last is new, and its place is one that none had.
    await run(api, *[billed("a", "0.12", 3)] * 4)
    assert [item["nth"] for item in await listed(api)] == [1, 2, 3, 4]


async def test_ended_ones_stay_ended_while_found_and_open_when_their_amount_changes(
    api: Api,
) -> None:
    await run(api, billed("a"), billed("b"), billed("c"))
    one, two, three = await listed(api)
    await changed(api, one["id"], state="written_off")
    await changed(api, two["id"], state="credited")
    await changed(api, three["id"], state="written_off")
    await run(api, billed("a"), billed("b", "0.08", 2))
    states = [item["state"] for item in await listed(api)]
    assert states == ["written_off", "open", "written_off"]
    shown = await got(api, f"/v1/discrepancies/{two['id']}")
    assert shown["history"][-1]["note"] == "the amount was 0.04 and is 0.08"


async def test_periods_and_accounts_are_apart(api: Api) -> None:
    await run(api, billed("a"))
    await run(api, billed("a"), period="2024-11")
    october, november = sorted(await listed(api), key=lambda item: item["period"])
    assert (october["period"], november["period"]) == ("2024-10", "2024-11")
    await run(api, billed("b"), period="2024-11")
    states = {item["period"]: item["state"] for item in await listed(api, kind="billed_not_sent")}
    assert (await got(api, f"/v1/discrepancies/{october['id']}"))["state"] == "open"
    assert states["2024-10"] == "open"
    assert (await got(api, "/v1/discrepancies", account="sms"))["items"] == []
    assert len(await listed(api, period="2024-11")) == 2


async def test_an_older_run_changes_nothing(api: Api, connection: Any) -> None:
    await run(api, billed("a"))
    await run(api, billed("b"))
    before = await listed(api)
    think = SETTINGS.accounts["think"]
    past = datetime.now(UTC) - timedelta(days=1)
    await match.reconcile(connection, think, OCTOBER, now=past)
    assert await listed(api) == before


async def test_evidence_of_the_ledger_is_followed_too(api: Api) -> None:
    await register(
        api,
        {"account": "think", "vendor_message_id": "a", "phone": PHONE, "sent_at": SENT},
    )
    await run(api, billed("x"))
    missing, _ = await listed(api)
    assert (missing["kind"], missing["amount"]) == ("report_missing", "0")
    shown = await got(api, f"/v1/messages/{missing['message_id']}")
    names = ("id", "period", "kind", "state", "owner", "amount", "rest")
    assert shown["cases"] == [{name: missing[name] for name in names}]


# --- what people decide --------------------------------------------------------------------------------


async def test_rules_of_states(api: Api) -> None:
    await run(api, billed("a"), billed("b"))
    one, two = await listed(api)
    id = one["id"]
    for state in ("acknowledged", "disputed", "open", "disputed", "credited"):
        assert (await changed(api, id, state=state))["state"] == state
    told = problem(await change(api, id, state="disputed"), 422)
    assert told == f"discrepancy {id}: credited ended it: open it again first, with a note"
    told = problem(await change(api, id, state="open"), 422)
    assert told == f"discrepancy {id}: credited ended it: opening it again needs a note"
    opened = await changed(api, id, state="open", note="the credit note was withdrawn")
    assert (opened["ended_at"], opened["state"]) == (None, "open")
    told = problem(await change(api, id, state="resolved"), 422)
    assert "resolved is what a rerun says" in told
    await run(api, billed("a"))
    told = problem(await change(api, two["id"], state="open", note="why not"), 422)
    assert "only a rerun that finds it again opens it" in told
    noted = await changed(api, two["id"], note="seen", owner="wang")
    assert (noted["state"], noted["note"], noted["owner"]) == ("resolved", "seen", "wang")
    assert noted["ended_at"] is not None


async def test_bad_changes_are_refused_and_change_nothing(api: Api) -> None:
    await run(api, billed("a"))
    (one,) = await listed(api)
    for body in (
        {"by": "li"},
        {"by": "", "state": "open"},
        {"by": " ", "note": "x"},
        {"by": "li", "note": ""},
        {"by": "li", "owner": "x" * 101},
        {"by": "li", "note": "x" * 2001},
        {"by": "li\x00", "note": "x"},
    ):
        problem(await api.post(f"/v1/discrepancies/{one['id']}", json=body), 422)
    for wrong in (
        {"state": "open"},
        {"by": "li", "state": "done"},
        {"by": "li", "note": 7},
        {"by": "li", "other": 1},
        {"by": "li", "version": "x", "note": "n"},
    ):
        problem(await api.post(f"/v1/discrepancies/{one['id']}", json=wrong), 400)
    nobody = "/v1/discrepancies/00000000-0000-0000-0000-000000000000"
    problem(await api.post(nobody, json={"by": "li", "note": "n"}), 404)
    problem(await api.get(nobody), 404)
    assert await listed(api) == [one]


async def test_same_again_changes_nothing_and_an_owner_can_be_taken_away(api: Api) -> None:
    await run(api, billed("a"))
    (one,) = await listed(api)
    owned = await changed(api, one["id"], owner="wang", state="open")
    assert owned["version"] == 2
    assert (await changed(api, one["id"], owner="wang"))["version"] == 2
    assert [item["id"] for item in await listed(api, owner="wang")] == [one["id"]]
    assert await listed(api, owner="") == []
    assert (await changed(api, one["id"], owner=None))["owner"] is None
    assert len(await listed(api, owner="")) == 1


async def test_two_people_at_once_lose_nothing(api: Api) -> None:
    await run(api, billed("a"))
    (one,) = await listed(api)
    told = await asyncio.gather(
        *(change(api, one["id"], by=f"p{n}", owner=f"o{n}", note=f"n{n}") for n in range(8))
    )
    assert [answer.status_code for answer in told] == [200] * 8
    shown = await got(api, f"/v1/discrepancies/{one['id']}")
    assert [each["version"] for each in shown["history"]] == list(range(1, 10))
    assert {each["by"] for each in shown["history"][1:]} == {f"p{n}" for n in range(8)}
    last = shown["history"][-1]
    assert (shown["owner"], shown["note"], shown["changed_by"]) == (
        last["owner"],
        last["note"],
        last["by"],
    )


async def test_with_a_version_only_who_saw_it_last_decides(api: Api) -> None:
    await run(api, billed("a"))
    (one,) = await listed(api)
    told = await asyncio.gather(
        *(change(api, one["id"], by=f"p{n}", state="disputed", version=1) for n in range(6))
    )
    codes = sorted(answer.status_code for answer in told)
    assert codes == [200, 409, 409, 409, 409, 409]
    late = next(answer for answer in told if answer.status_code == 409)
    assert "changed it since: it is at version 2, not 1" in problem(late, 409)
    assert len((await got(api, f"/v1/discrepancies/{one['id']}"))["history"]) == 2


async def test_decisions_during_reruns_are_never_lost(api: Api) -> None:
    await run(api, *(billed(f"m{n}") for n in range(5)))
    ids = [item["id"] for item in await listed(api)]

    async def decide(id: str) -> None:
        for n in range(5):
            await changed(api, id, note=f"note {n}", state=("disputed", "open")[n % 2])

    await asyncio.gather(*(decide(id) for id in ids), rerun(api), rerun(api), rerun(api))
    for id in ids:
        shown = await got(api, f"/v1/discrepancies/{id}")
        assert [each["note"] for each in shown["history"][1:]] == [f"note {n}" for n in range(5)]
        assert shown["state"] == "disputed"


async def test_many_are_changed_all_or_none(api: Api) -> None:
    await run(api, *(billed(f"m{n}") for n in range(4)))
    ids = [item["id"] for item in await listed(api)]
    await changed(api, ids[3], state="written_off")

    async def many(**values: Any) -> httpx.Response:
        return await api.post("/v1/discrepancies", json={"by": "li", **values})

    told = problem(await many(ids=ids, state="disputed"), 422)
    assert told == f"discrepancy {ids[3]}: written_off ended it: open it again first, with a note"
    assert [item["state"] for item in await listed(api)] == ["open"] * 3 + ["written_off"]
    nobody = "00000000-0000-0000-0000-000000000000"
    assert problem(await many(ids=[ids[0], nobody], state="disputed"), 422) == (
        f"no discrepancy {nobody}"
    )
    done = await many(ids=[*ids[:2], ids[0]], state="disputed", note="both")
    assert done.json() == {"changed": 2, "unchanged": 0}
    done = await many(filter={"state": "open", "account": "think"}, state="acknowledged")
    assert done.json() == {"changed": 1, "unchanged": 0}
    done = await many(filter={"period": "2024-10", "state": "disputed"}, owner="wang")
    assert done.json() == {"changed": 2, "unchanged": 0}
    done = await many(filter={"min_age_days": 1}, owner="wang")
    assert done.json() == {"changed": 0, "unchanged": 0}
    for wrong in (
        {"state": "open"},
        {"state": "open", "ids": ids, "filter": {"state": "open"}},
        {"state": "open", "filter": {}},
        {"state": "open", "filter": {"kind": "other"}},
        {"state": "open", "filter": {"period": "October"}},
        {"note": "n", "ids": [nobody] * (cases.MAX_CASES + 1)},
    ):
        problem(await many(**wrong), 422)


# --- lists and ageing ----------------------------------------------------------------------------------


async def test_list_pages_filters_and_exports(api: Api) -> None:
    await run(api, *(billed(f"m{n:02}") for n in range(25)))
    seen: list[str] = []
    cursor = None
    while True:
        asked = {"limit": 10} | ({} if cursor is None else {"cursor": cursor})
        page = await got(api, "/v1/discrepancies", **asked)
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 25
    answer = await api.get("/v1/discrepancies", params={"format": "csv", "limit": 1})
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert [row["id"] for row in rows] == seen
    assert tuple(rows[0]) == disputed.CASE_COLUMNS
    problem(await api.get("/v1/discrepancies?kind=other"), 422)
    problem(await api.get("/v1/discrepancies?period=x"), 422)
    problem(await api.get("/v1/discrepancies?state=done"), 400)
    problem(await api.get("/v1/discrepancies?min_age_days=-1"), 400)
    assert await listed(api, min_age_days=1) == []
    assert len(await listed(api, min_age_days=0, state="open", owner="")) == 25


async def test_ageing_adds_up_in_every_row_and_column(api: Api, pool: Any) -> None:
    days = (0, 7, 8, 30, 31, 60, 61, 90, 91, 400)
    amounts = [Decimal(n + 1) / 1000 for n in range(len(days))]
    await run(api, *(billed(f"m{n}", f"{amount:f}") for n, amount in enumerate(amounts)))
    items = await listed(api)
    now = datetime.now(UTC)
    for item, age in zip(items, days, strict=True):
        await pool.execute(
            "UPDATE cases SET found_at = $2 WHERE id = $1",
            item["id"],
            now - timedelta(days=age, minutes=1),
        )
    assert [item["age_days"] for item in await listed(api)] == list(days)
    assert len(await listed(api, min_age_days=31)) == 6
    await changed(api, items[1]["id"], state="disputed")
    await changed(api, items[9]["id"], state="written_off")
    told = await got(api, "/v1/discrepancies/ageing")
    assert [row["state"] for row in told["items"]] == ["open", "disputed", "written_off"]
    names = list(disputed.AGEING_COLUMNS[3:])
    for row in told["items"] + told["totals"]:
        for what in ("count", "amount"):
            parts = sum(Decimal(row[f"{what}_{bucket}"]) for bucket in disputed.AGE_BUCKETS)
            assert parts == Decimal(row[what])
    own, whole = told["totals"]
    assert (own["account"], whole["account"], whole["currency"]) == ("think", None, "CNY")
    for name in names:
        assert sum(Decimal(row[name]) for row in told["items"]) == Decimal(own[name])
        assert own[name] == whole[name]
    assert [own[f"count_{bucket}"] for bucket in disputed.AGE_BUCKETS] == [2, 2, 2, 2, 2]
    assert Decimal(own["amount"]) == sum(amounts)
    answer = await api.get("/v1/discrepancies/ageing?format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert tuple(rows[0]) == disputed.AGEING_COLUMNS
    assert len(rows) == 5
    assert (await got(api, "/v1/discrepancies/ageing", account="sms"))["items"] == []


async def test_cases_are_what_the_newest_run_found_whatever_came_before(
    api: Api, pool: Any
) -> None:
    dice = random.Random(41)
    ended = ("credited", "written_off")
    for month in range(1, 9):
        period = f"2023-{month:02}"
        before: dict[str, dict[str, Any]] = {}
        for _ in range(5):
            lines = [
                (dice.choice("ab"), dice.choice(("0.04", "0.08", "0.12")))
                for _ in range(dice.randint(1, 5))
            ]
            result = await run(api, *(billed(*line) for line in lines), period=period)
            now = {item["id"]: item for item in await listed(api, period=period)}
            found = [item for item in now.values() if item["reconciliation_id"] == result["id"]]
            assert sorted((item["vendor_message_id"], item["amount"]) for item in found) == (
                sorted(lines)
            )
            assert before.keys() <= now.keys()
            places = [(item["vendor_message_id"], item["nth"]) for item in now.values()]
            assert len(set(places)) == len(places)
            for item in now.values():
                was = before.get(item["id"])
                if item not in found:
                    assert item["state"] in ("resolved", *ended)
                elif (
                    was is None
                    or was["state"] == "resolved"
                    or (was["state"] in ended and was["amount"] != item["amount"])
                ):
                    assert item["state"] == "open"
                else:
                    assert item["state"] == was["state"]
            # As many as can be keep the amount that they had.
            for key in itertools.product("ab", ("0.04", "0.08", "0.12")):
                had, has = (
                    {
                        item["id"]
                        for item in items
                        if (item["vendor_message_id"], item["amount"]) == key
                    }
                    for items in (before.values(), found)
                )
                assert len(had & has) == min(len(had), len(has))
            live = [item for item in now.values() if item["state"] not in ("resolved", *ended)]
            for item in dice.sample(live, min(2, len(live))):
                state = dice.choice(("acknowledged", "disputed", "written_off", "credited"))
                now[item["id"]] = await changed(api, item["id"], state=state)
            before = now
            await chained(pool, period)


async def chained(pool: Any, period: str) -> None:
    """Assert that every history goes on from where it stood, and ends where its case stands."""
    first = parse(period).first
    rows = await pool.fetch(
        "SELECT c.id, c.state, c.version, c.ended_at, h.version AS step, h.from_state, h.to_state"
        " FROM cases AS c INNER JOIN case_changes AS h ON c.shard = h.shard AND c.id = h.case_id"
        " WHERE c.first_day = $1 ORDER BY c.id, h.version",
        first,
    )
    for _, steps in itertools.groupby(rows, key=lambda row: row["id"]):
        history = list(steps)
        assert [row["step"] for row in history] == list(range(1, history[0]["version"] + 1))
        states = [None, *(row["to_state"] for row in history)]
        assert [row["from_state"] for row in history] == states[:-1]
        assert history[0]["state"] == states[-1]
