"""The billing audit as it is asked: over HTTP, within bounds, unable to write, safe in a spreadsheet."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import python_calamine
from test_api import SETTINGS, got, problem, serving
from test_audit_headers import GOOD

from gateways.gateway import Secret
from reconciler import audit, exports
from reconciler.audit import AUDIT, BadParameter, TookTooLong, ask
from runtime.database import Database
from runtime.settings import parse

pytestmark = pytest.mark.anyio

NOW = datetime(2024, 10, 20, tzinfo=UTC)
TWO_CURRENCIES = parse(
    """
    [accounts.abroad]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    tariffs = [
        { from = 2024-01-01, price = "0.04" },
        { from = 2024-10-11, price = "0.01", currency = "USD" },
    ]
    """,
    Path("huizhi.toml"),
    {},
)


@pytest.fixture
async def api(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(database) as client:
        yield client


async def sent(api: httpx.AsyncClient, *signs: str, account: str = "think") -> None:
    """Register a message under each sign, on one day after the other."""
    rows = [
        {
            "account": account,
            "vendor_message_id": f"{account}-{number}",
            "phone": "13800138000",
            "sent_at": (datetime(2024, 10, 1, tzinfo=UTC) + timedelta(days=number)).isoformat(),
            "sign": sign,
        }
        for number, sign in enumerate(signs)
    ]
    assert (await api.post("/v1/sent", json=rows)).json()["recorded"] == len(rows)


def of_text(text: str) -> audit.Query:
    """A query of no parameters but the account."""
    header = GOOD.partition("\n\n")[0].splitlines()
    kept = [line for line in header if "Parameter period" not in line and "minutes" not in line]
    kept.insert(3, "-- Binds: account, limit")
    return audit.parse("made-up", "\n".join(kept) + "\n\n" + text)


# --- listing and running --------------------------------------------------------------------------------


async def test_list_says_what_each_query_asks_takes_and_gives(api: httpx.AsyncClient) -> None:
    told = await got(api, "/v1/audit")
    assert told["next"] is None
    assert [item["name"] for item in told["items"]] == list(AUDIT)
    (item,) = [item for item in told["items"] if item["name"] == "duplicate-texts"]
    assert set(item) == {"name", "question", "parameters", "columns", "note"}
    assert set(item["question"]) == {"en", "zh"}
    assert item["parameters"][1]["name"] == "period"
    assert item["parameters"][1]["required"]
    assert {
        key: item["parameters"][2][key] for key in ("name", "type", "default", "low", "high")
    } == {
        "name": "minutes",
        "type": "integer",
        "default": "10",
        "low": "1",
        "high": "1440",
    }
    assert item["columns"][0]["name"] == "account"
    assert item["columns"][0]["heading"] == "账号"


async def test_run_gives_rows_of_each_account_and_what_it_was_asked(api: httpx.AsyncClient) -> None:
    await sent(api, "回执")
    await sent(api, "回执", account="sms")
    told = await got(api, "/v1/audit/by-day", period="2024-10")
    assert told == {
        "query": "by-day",
        "parameters": {"period": "2024-10"},
        "items": [
            {
                "account": account,
                "day": "2024-10-01",
                "messages": 1,
                "segments": 1,
                "delivered": 0,
                "failed": 0,
                "unresolved": 1,
                "delivered_percent": "0",
                "owed": owed,
                "currency": currency,
            }
            for account, owed, currency in (("sms", None, None), ("think", "0", "CNY"))
        ],
        "truncated": False,
        "next": None,
    }
    told = await got(api, "/v1/audit/by-day", period="2024-10", account="sms")
    assert told["parameters"] == {"account": "sms", "period": "2024-10"}
    assert [item["account"] for item in told["items"]] == ["sms"]


async def test_answer_that_is_cut_says_so(api: httpx.AsyncClient) -> None:
    await sent(api, "回执", "回执", "回执")
    await sent(api, "回执", account="sms")
    for limit, rows, truncated in ((1, 1, True), (3, 3, True), (4, 4, False), (10_000, 4, False)):
        told = await got(api, "/v1/audit/by-day", period="2024-10", limit=limit)
        assert (len(told["items"]), told["truncated"]) == (rows, truncated)
    # A file has them all.
    answer = await api.get(
        "/v1/audit/by-day", params={"period": "2024-10", "limit": 1, "format": "csv"}
    )
    assert len(answer.text.splitlines()) == 5


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("by-night?period=2024-10", 404, "no audit query 'by-night'; there are: billed-by-day"),
        ("by_day?period=2024-10", 404, "no audit query 'by_day'"),
        ("by-day", 400, "period: missing; expected a period, such as 2026-10 or 2026-10-01.."),
        ("by-day?period=October", 400, "period: expected a period, such as 2026-10"),
        ("by-day?period=2024-13", 400, "period: expected a period"),
        ("by-day?period=", 400, "period: expected a period"),
        (
            "by-day?period=2024-10&day=5",
            400,
            "'day': no parameter of by-day; expected account, period",
        ),
        ("by-day?period=2024-10&cursor=x", 400, "'cursor': no parameter of by-day"),
        ("by-day?period=2024-10&account=x", 400, "account: no account 'x'; expected one of: sms"),
        ("by-day?period=2024-10&account=x';--", 400, 'account: no account "x\';--"'),
        ("by-day?period=2024-10&period=2024-11", 400, "'period': given twice"),
        ("by-day?period=2024-10&a%0Ab=1", 400, "'a\\nb': no parameter of by-day"),
        ("by-day?period=2024-10&limit=0", 400, "limit: "),
        ("by-day?period=2024-10&limit=10001", 400, "limit: "),
        ("by-day?period=2024-10&format=pdf", 400, "format: "),
        ("by-day?period=2024-10&lang=fr", 400, "lang: "),
        ("orphans?period=2024-10", 400, "'period': no parameter of orphans; expected account"),
        *(
            (
                f"duplicate-texts?period=2024-10&minutes={minutes}",
                400,
                "minutes: expected an integer from 1 to 1440, and not ",
            )
            for minutes in ("", "x", "0", "1441", "1.5", "-1", "1e3", "10%20", "１", "9" * 99)
        ),
        *(
            (
                f"round-times?period=2024-10&percent={percent}",
                400,
                "percent: expected a decimal from 0 to 100, and not ",
            )
            for percent in ("", "NaN", "-1", "100.1", "Infinity", "1e1", "1.")
        ),
    ],
)
async def test_what_is_asked_wrongly_is_one_line_that_says_what_was_expected(
    api: httpx.AsyncClient, path: str, status: int, detail: str
) -> None:
    for suffix in ("", "&format=csv") if "?" in path and "format" not in path else ("",):
        assert problem(await api.get(f"/v1/audit/{path}{suffix}"), status).startswith(detail)


def test_period_in_two_currencies_is_refused_only_where_there_are_amounts() -> None:
    given = {"period": "2024-10"}
    with pytest.raises(audit.match.Impossible, match="tariffs in CNY and USD within 2024-10"):
        ask(TWO_CURRENCIES, "by-day", given, now=NOW)
    assert ask(TWO_CURRENCIES, "failure-reasons", given, now=NOW)
    (one,) = ask(TWO_CURRENCIES, "by-day", {"period": "2024-10-11..2024-10-31"}, now=NOW).accounts
    assert "USD" in one[1]


def test_without_accounts_there_is_nothing_to_ask() -> None:
    empty = parse("", Path("huizhi.toml"), {})
    assert ask(empty, "orphans", {}, now=NOW).accounts == ()
    with pytest.raises(BadParameter, match="no account 'x'; expected one of: none"):
        ask(empty, "orphans", {"account": "x"}, now=NOW)


# --- bounds ---------------------------------------------------------------------------------------------


async def test_query_that_would_write_cannot(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "WITH gone AS (DELETE FROM leases RETURNING 1)\n"
        "SELECT $1::text AS account FROM gone\nLIMIT $2::bigint;"
    )
    monkeypatch.setitem(AUDIT, "made-up", of_text(text))
    asked = ask(SETTINGS, "made-up", {"account": "think"}, now=NOW)
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await audit.first(connection, asked, limit=1, seconds=60)
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        [row async for row in audit.every(connection, asked, seconds=60)]


async def test_query_that_takes_too_long_is_stopped_with_advice(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "SELECT $1::text AS account, pg_sleep(60)\nLIMIT $2::bigint;"
    monkeypatch.setitem(AUDIT, "made-up", of_text(text))
    asked = ask(SETTINGS, "made-up", {"account": "think"}, now=NOW)
    with pytest.raises(TookTooLong, match="ask for one account or a shorter period"):
        await audit.first(connection, asked, limit=1, seconds=0.05)
    # The bound is the transaction's own.
    assert await connection.fetchval("SHOW statement_timeout") == "0"


async def test_too_long_is_said_over_http_too(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "SELECT $1::text AS account, pg_sleep(60)\nLIMIT $2::bigint;"
    monkeypatch.setitem(AUDIT, "made-up", of_text(text))
    monkeypatch.setattr(audit, "API_SECONDS", 0.05)
    for shape in ("json", "csv", "xlsx"):
        answer = await api.get("/v1/audit/made-up", params={"format": shape})
        assert "shorter period" in problem(answer, 422)


async def test_slow_questions_wait_for_each_other_and_hold_up_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "SELECT $1::text AS account, pg_sleep(60)\nLIMIT $2::bigint;"
    monkeypatch.setitem(AUDIT, "made-up", of_text(text))
    monkeypatch.setattr(audit, "API_SECONDS", 0.5)
    async with serving(replace(database, pool_size=1)) as api:
        slow = [asyncio.create_task(api.get("/v1/audit/made-up")) for _ in range(9)]
        busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active'"
        async with database.connection() as watching:
            async with asyncio.timeout(20):
                while await watching.fetchval(busy + " AND pid <> pg_backend_pid()") < 4:
                    await asyncio.sleep(0.01)
            assert await watching.fetchval(busy + " AND pid <> pg_backend_pid()") <= 4
        assert await got(api, "/v1/messages") == {"items": [], "next": None}
        for answer in await asyncio.gather(*slow):
            problem(answer, 422)


async def test_while_the_database_is_away_it_is_503(database: Database) -> None:
    nowhere = replace(database, dsn=Secret("postgresql://nobody@127.0.0.1:1/none"))
    async with serving(nowhere) as api:
        for shape in ("json", "csv", "xlsx"):
            params = {"period": "2024-10", "format": shape}
            problem(await api.get("/v1/audit/by-day", params=params), 503)
        problem(await api.get("/v1/audit/by-day"), 400)
        assert (await api.get("/v1/audit")).status_code == 200


async def test_answer_longer_than_the_first_look_is_read_on_from_one_snapshot(
    api: httpx.AsyncClient, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_ROWS", 2)
    await sent(api, *["回执"] * 5)
    await sent(api, "回执", account="sms")
    asked = ask(SETTINGS, "by-day", {"period": "2024-10"}, now=NOW)
    rows = [row async for row in audit.every(connection, asked, seconds=60)]
    assert [row["day"][-2:] for row in rows] == ["01", "01", "02", "03", "04", "05"]
    assert [row["account"] for row in rows] == ["sms", *["think"] * 5]


# --- files ----------------------------------------------------------------------------------------------

FORMULAS = (
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "＝1+1",
    "＋1+1",
    "－1+1",
    "＠SUM(A1)",
)


async def test_no_cell_of_a_file_starts_a_formula(api: httpx.AsyncClient, pool: Any) -> None:
    await sent(api, *FORMULAS)
    params = {"period": "2024-10", "account": "think"}
    found = (await got(api, "/v1/audit/by-sign", **params))["items"]
    assert {row["sign"] for row in found} == set(FORMULAS)
    answer = await api.get("/v1/audit/by-sign", params={**params, "format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="by-sign.csv"'
    rows = list(csv.reader(io.StringIO(answer.text.removeprefix("\ufeff"), newline="")))
    answer = await api.get("/v1/audit/by-sign", params={**params, "format": "xlsx"})
    book = python_calamine.load_workbook(io.BytesIO(answer.content))
    sheet = list(book.get_sheet_by_index(0).iter_rows())
    for cells in (rows, sheet):
        assert len(cells) == 1 + len(found)
        assert {cell[1] for cell in cells[1:]} == {"'" + row["sign"] for row in found}


async def test_negative_amounts_stay_numbers_and_headings_are_chinese_if_wanted(
    api: httpx.AsyncClient, pool: Any
) -> None:
    await sent(api, "回执")
    await pool.execute("UPDATE messages SET status = 'delivered', vendor_code = '1'")
    params = {"period": "2024-10", "account": "think", "format": "csv", "lang": "zh"}
    answer = await api.get("/v1/audit/billed-by-day", params=params)
    heading, row = csv.reader(io.StringIO(answer.text.removeprefix("\ufeff")))
    assert heading == AUDIT["billed-by-day"].headings("zh")
    assert heading[:3] == ["账号", "日期", "短信数"]
    assert row == ["think", "2024-10-01", "1", "1", "0.04", "0", "0", "0", "-0.04", "CNY"]


async def test_file_of_too_many_rows_is_refused(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "XLSX_ROWS", 1)
    await sent(api, "回执", "回执")
    answer = await api.get("/v1/audit/by-day", params={"period": "2024-10", "format": "xlsx"})
    assert "ask for csv" in problem(answer, 422)
