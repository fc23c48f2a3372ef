"""Credit notes set against what is disputed: exactly, once, and never more than that."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import pytest
import xlsxwriter
from hypothesis import given
from hypothesis import strategies as st
from test_api import PHONE, got, problem, serving
from test_cases import billed, changed, listed, run, steps

from reconciler.credits import allocate
from reconciler.reading.disputed import CREDIT_COLUMNS
from runtime.database import Database

pytestmark = pytest.mark.anyio

HEAD = "贷项通知单号,任务ID,手机号,金额,币种,原因,账期\n"
OTHER = "13800138001"

Api = httpx.AsyncClient


@pytest.fixture
async def api(database: Database) -> AsyncIterator[Api]:
    async with serving(database) as client:
        yield client


async def upload(
    api: Api, text: str | bytes, name: str = "credits.csv", account: str = "think", **form: str
) -> httpx.Response:
    content = text.encode() if isinstance(text, str) else text
    form["account"] = account
    return await api.post("/v1/credits", data=form, files={"file": (name, content)})


async def credit(api: Api, *lines: str) -> dict[str, Any]:
    answer = await upload(api, HEAD + "".join(f"{line}\n" for line in lines))
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def outcomes(api: Api) -> dict[int, tuple[str, str, str]]:
    items = (await got(api, "/v1/credits"))["items"]
    return {
        each["line"]: (each["allocated"], each["unallocated"], each["outcome"]) for each in items
    }


async def disputed(api: Api, *lines: str, period: str = "2024-10") -> list[dict[str, Any]]:
    """Reconcile a statement of these lines and dispute what is found."""
    await run(api, *lines, period=period)
    items = await listed(api, period=period)
    for item in items:
        await changed(api, item["id"], state="disputed", owner="wang")
    return items


@given(
    st.decimals(0, 10**20, places=12),
    st.lists(st.decimals(-10, 10**20, places=12), max_size=30),
)
def test_shares_are_exact_and_in_order(amount: Decimal, rests: list[Decimal]) -> None:
    parts = allocate(amount, rests)
    assert len(parts) == len(rests)
    # In whole units of the last digit, so that nothing here can round.
    whole, *units = (int(Fraction(each) * 10**12) for each in (amount, *parts))
    room = [max(0, int(Fraction(rest) * 10**12)) for rest in rests]
    assert sum(units) == min(whole, sum(room))
    for place, (unit, most) in enumerate(zip(units, room, strict=True)):
        assert 0 <= unit <= most
        # Nobody gets anything before all those in front have theirs.
        assert unit == most or not any(units[place + 1 :])


async def test_equal_credit_ends_a_dispute_a_smaller_leaves_the_rest_a_larger_is_named(
    api: Api,
) -> None:
    a, b, c, d = await disputed(
        api, billed("a"), billed("b", "0.12", 3), billed("c"), billed("d", phone=OTHER)
    )
    await changed(api, d["id"], state="open")
    told = await credit(
        api,
        f"CN-1,a,{PHONE},0.04,CNY,never sent,2024-10",
        f"CN-1,b,+86{PHONE},¥0.05,人民币,,",
        "CN-1,c,,0.1,CNY,,",
        f"CN-1,d,{OTHER},0.04,CNY,,",
        "CN-1,nobody,,0.04,CNY,,",
    )
    assert told["amounts"] == [
        {"currency": "CNY", "amount": "0.27", "allocated": "0.13", "unallocated": "0.14"}
    ]
    assert (told["lines"], told["duplicate_of"]) == (5, None)
    assert await outcomes(api) == {
        2: ("0.04", "0", "settled"),
        3: ("0.05", "0", "partly"),
        4: ("0.04", "0.06", "over"),
        5: ("0", "0.04", "nothing_disputed"),
        6: ("0", "0.04", "nothing_disputed"),
    }
    states = [(each["state"], each["rest"]) for each in await listed(api)]
    assert states == [("credited", "0"), ("disputed", "0.07"), ("credited", "0"), ("open", "0.04")]
    shown = await got(api, f"/v1/discrepancies/{b['id']}")
    assert steps(shown)[-1] == ("disputed", "disputed")
    last = shown["history"][-1]
    assert last["note"] == "0.05 of credit note CN-1, 0.07 left"
    assert (last["by"], last["credit_id"], last["credit_line"]) == ("credit note", told["id"], 3)
    assert last["owner"] == "wang"
    (given,) = shown["credits"]
    assert (given["number"], given["amount"], given["line"]) == ("CN-1", "0.05", 3)
    assert steps(await got(api, f"/v1/discrepancies/{a['id']}"))[-1] == ("disputed", "credited")
    # The rest, from another note.
    await credit(api, "CN-2,b,,0.07,CNY,,")
    shown = await got(api, f"/v1/discrepancies/{b['id']}")
    assert (shown["state"], shown["credited"], shown["rest"]) == ("credited", "0.12", "0")
    assert c["id"] in {each["id"] for each in await listed(api, state="credited")}


async def test_lump_sum_goes_to_the_oldest_of_its_period_and_never_beyond(api: Api) -> None:
    october = await disputed(api, billed("a"), billed("b"), billed("c"))
    november = await disputed(api, billed("x", "0.5", 2), period="2024-11")
    await credit(api, "CN-1,,,0.06,CNY,goodwill,2024-10")
    now = {each["id"]: each for each in await listed(api)}
    assert [now[each["id"]]["rest"] for each in october] == ["0", "0.02", "0.04"]
    assert now[november[0]["id"]]["rest"] == "0.5"
    assert (await outcomes(api))[2] == ("0.06", "0", "partly")
    await credit(api, "CN-2,,,1,CNY,,2024-10", "CN-2,,,0.01,CNY,,", "CN-2,c,,0.01,CNY,,2024-10")
    items = {
        (each["number"], each["line"]): each for each in (await got(api, "/v1/credits"))["items"]
    }
    # What names a message comes first, wherever it stands in the file.
    assert items["CN-2", 4]["allocated"] == "0.01"
    assert (items["CN-2", 2]["allocated"], items["CN-2", 2]["outcome"]) == ("0.05", "over")
    assert (items["CN-2", 3]["allocated"], items["CN-2", 3]["outcome"]) == ("0.01", "partly")
    assert items["CN-2", 2]["discrepancies"] == 2
    left = (await got(api, "/v1/credits", unallocated=True))["items"]
    assert [(each["line"], each["unallocated"]) for each in left] == [(2, "0.95")]
    now = {each["id"]: each for each in await listed(api)}
    assert {now[each["id"]]["state"] for each in october} == {"credited"}
    assert now[november[0]["id"]]["rest"] == "0.49"
    # Evidence costs nothing, and what was not billed is no dispute to credit.
    total = sum(Decimal(each["credited"]) for each in now.values())
    assert total == sum(Decimal(each["allocated"]) for each in items.values())


async def test_other_currencies_are_never_touched(api: Api) -> None:
    await disputed(api, billed("a"))
    await credit(api, "CN-1,a,,0.04,USD,,", "CN-1,,,0.04,USD,,")
    assert {each[2] for each in (await outcomes(api)).values()} == {"nothing_disputed"}
    assert [each["state"] for each in await listed(api)] == ["disputed"]


async def test_same_file_again_is_recognised_and_a_note_is_taken_once(api: Api) -> None:
    await disputed(api, billed("a"), billed("b"))
    lines = ("CN-1,a,,0.03,CNY,,", "CN-1,,,0.01,CNY,,")
    told = await asyncio.gather(*(credit(api, *lines) for _ in range(4)))
    assert len({each["id"] for each in told}) == 1
    assert sorted(each["duplicate_of"] is None for each in told) == [False] * 3 + [True]
    before = await listed(api)
    assert sum(Decimal(each["credited"]) for each in before) == Decimal("0.04")
    answer = await upload(api, HEAD + "CN-9,a,,0.01,CNY,,\nCN-1,b,,0.01,CNY,,\n", "again.csv")
    assert problem(answer, 422) == (
        "again.csv: line 3: credit note CN-1 was imported before, from credits.csv"
    )
    assert await listed(api) == before
    # Another account's own.
    answer = await upload(api, HEAD + "CN-1,b,,0.01,CNY,,\n", account="sms")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("a,b\n1,2\n", "line 1: no column of number"),
        (HEAD, "has headings but no lines"),
        (HEAD + ",a,,1,CNY,,\n", "line 2, column 贷项通知单号: is empty"),
        (HEAD + "1.2E+15,a,,1,CNY,,\n", "line 2, column 贷项通知单号: '1.2E+15' is a number that"),
        (HEAD + "N,a,,,CNY,,\n", "line 2, column 金额: is empty"),
        (HEAD + "N,a,,x,CNY,,\n", "line 2, column 金额: 'x' is not a decimal amount"),
        (HEAD + "N,a,,-1,CNY,,\n", "line 2, column 金额: is not above 0"),
        (HEAD + "N,a,,0,CNY,,\n", "line 2, column 金额: is not above 0"),
        (HEAD + "N,a,,1,,,\n", "line 2, column 币种: '' is no currency"),
        (
            HEAD + "N,a,,1,CNY,,\nN,,13800138000,1,CNY,,\n",
            "line 3, column 手机号: names no message",
        ),
        (HEAD + "N,a,xyz,1,CNY,,\n", "line 2, column 手机号: is no phone number"),
        (HEAD + "N,1.2E+15,,1,CNY,,\n", "line 2, column 任务ID: '1.2E+15' is an id"),
        (HEAD + "N,~a,,1,CNY,,\n", "line 2, column 任务ID: begins with ~"),
        (HEAD + "N,a,,1,CNY,,October\n", "line 2, column 账期: 'October' is no period"),
        (HEAD + "N,a,,1,CNY,,\n合计,,,2,,,\n", "line 3, column 金额: the totals say 2"),
        (HEAD + "N,a,,1,CNY,,\n小计,,,2,,,\n", "line 3, column 金额: the totals say 2"),
        (HEAD + "合计,,,0,,,\nN,a,,1,CNY,,\n", "line 3: comes after the totals in line 2"),
        (HEAD + "N,d,,1,CNY,,\n", "line 2: has no phone, and several messages of its id"),
        (b"\x00\x01", "NUL"),
    ],
)
async def test_bad_file_is_refused_whole_with_its_place(
    api: Api, text: str | bytes, told: str
) -> None:
    await disputed(api, billed("a"), billed("d"), billed("d", phone=OTHER))
    before = await listed(api)
    detail = problem(await upload(api, text), 422)
    assert detail.startswith("credits.csv: ")
    assert told in detail
    assert await listed(api) == before
    assert (await got(api, "/v1/credits"))["items"] == []


async def test_file_without_currency_is_in_the_one_that_the_account_is_charged_in(
    api: Api,
) -> None:
    await disputed(api, billed("a"))
    answer = await upload(api, "贷项通知单号,任务ID,金额\nN,a,0.01\n")
    assert answer.status_code == 200, answer.text
    (line,) = (await got(api, "/v1/credits"))["items"]
    assert (line["currency"], line["allocated"]) == ("CNY", "0.01")


async def test_totals_at_the_end_and_xlsx_are_read(api: Api, tmp_path: Path) -> None:
    await disputed(api, billed("a"), billed("b"))
    await credit(
        api,
        "CN-1,a,,0.03,CNY,,",
        "小计,,,0.03,,,",
        "CN-1,a,,0.01,CNY,,",
        "合计,,,0.04,,,",
        "制表：王",
    )
    path = tmp_path / "credits.xlsx"
    book = xlsxwriter.Workbook(path)
    sheet = book.add_worksheet()
    sheet.write_row(0, 0, ["Credit notes of October"])
    sheet.write_row(1, 0, ["Credit note number", "amount", "Currency"])
    sheet.write_row(2, 0, ["CN-2", 0.04, "CNY"])
    book.add_worksheet("other").write_row(0, 0, ["anything"])
    book.close()
    answer = await upload(api, path.read_bytes(), "credits.xlsx")
    assert "has several sheets" in problem(answer, 422)
    answer = await upload(api, path.read_bytes(), "credits.xlsx", sheet="Sheet1")
    assert answer.status_code == 200
    assert [each["state"] for each in await listed(api)] == ["credited", "credited"]


async def test_list_of_credits_pages_and_exports(api: Api) -> None:
    await credit(api, *(f"CN-1,m{n},,1,CNY,=1+1,2024-10" for n in range(12)))
    page = await got(api, "/v1/credits", limit=5)
    more = await got(api, "/v1/credits", limit=50, cursor=page["next"])
    lines = [each["line"] for each in page["items"] + more["items"]]
    assert lines == list(range(13, 1, -1))
    answer = await api.get("/v1/credits?format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert tuple(rows[0]) == CREDIT_COLUMNS
    assert (rows[0]["reason"], rows[0]["period"]) == ("'=1+1", "2024-10")
    assert (await got(api, "/v1/credits", number="other"))["items"] == []
    assert (await got(api, "/v1/credits", account="sms"))["items"] == []


async def test_credited_stays_credited_over_reruns_and_reopens_with_a_note(api: Api) -> None:
    (one,) = await disputed(api, billed("a"))
    await credit(api, "CN-1,a,,0.04,CNY,,")
    await run(api, billed("a"), billed("b"))
    shown = await got(api, f"/v1/discrepancies/{one['id']}")
    assert (shown["state"], shown["rest"]) == ("credited", "0")
    # The corrected bill asks for more: what was credited is not what is asked now.
    await run(api, billed("a", "0.08", 2), billed("b"))
    shown = await got(api, f"/v1/discrepancies/{one['id']}")
    assert (shown["state"], shown["credited"], shown["rest"]) == ("open", "0.04", "0.04")
    await changed(api, one["id"], state="disputed")
    await credit(api, "CN-2,a,,0.04,CNY,,")
    shown = await got(api, f"/v1/discrepancies/{one['id']}")
    assert (shown["state"], shown["credited"]) == ("credited", "0.08")
    assert [each["number"] for each in shown["credits"]] == ["CN-1", "CN-2"]
