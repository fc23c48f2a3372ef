"""The commands of a month's end, as typed: sent import, statement, reconcile, replay."""

import asyncio
import csv
import io
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import python_calamine
import xlsxwriter
from test_init import huizhi

from gateways.gateway import Callback
from reconciler.api import create_app
from runtime import records, settlement
from runtime.database import Database
from runtime.records import Record
from runtime.settings import load

pytestmark = pytest.mark.anyio

Told = subprocess.CompletedProcess[str]
Typed = Callable[..., Awaitable[Told]]
NOW = datetime(2024, 10, 20, tzinfo=UTC)
MONTH = ("--account", "think", "--period", "2024-10")
SETTINGS = """
[reconciler]
api_token = "the-token"
[accounts.think]
gateway = "thinkapi"
credentials = { app_code = "code" }
clock_slack_seconds = 3600
[[accounts.think.tariffs]]
from = 2024-02-01
price = "0.04"
basis = "submitted"
[accounts.sms]
gateway = "thinksms"
credentials = { user_id = "7", account = "me", password = "hush" }
"""
SENT = """account,vendor_message_id,phone,sent_at,content
think,a,13800138000,2024-10-05 09:30:00,您的验证码是7865
think,b,13800138000,2024-10-05 09:30:00,您的验证码是7866
"""
BILL = """任务ID,手机号,计费条数,金额
a,13800138000,1,0.04
b,13800138000,1,0.04
"""


@pytest.fixture
def typed(tmp_path: Path, database: Database) -> Typed:
    (tmp_path / "huizhi.toml").write_text(SETTINGS, "utf-8")
    (tmp_path / "sent.csv").write_text(SENT, "utf-8")
    (tmp_path / "bill.csv").write_text(BILL, "gb18030")
    env = {"DATABASE_URL": database.dsn.reveal(), "COLUMNS": "300", "PYTHONUTF8": "1"}

    async def run(*arguments: str) -> Told:
        return await asyncio.to_thread(huizhi, tmp_path, *arguments, env=env)

    return run


def delivered(id: str) -> bytes:
    sms = {"id": id, "phone": "13800138000", "status": 1, "receiveDate": "2024-10-05 09:30:05"}
    return json.dumps({"action": "report", "sms": sms}).encode()


def pushed(body: bytes) -> Record:
    callback = Callback(method="POST", query=b"", headers={}, body=body)
    return records.of_callback("think", callback, received_at=NOW, peer="192.0.2.1")


def mistake(told: Told) -> str:
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("huizhi: ")
    assert told.stderr.count("\n") == 1
    return told.stderr.removeprefix("huizhi: ").rstrip("\n")


def said(told: Told, code: int = 0) -> str:
    assert (told.returncode, told.stderr) == (code, "")
    return told.stdout


async def api(database: Database, folder: Path, path: str) -> Any:
    """What the API gives."""
    app = create_app(load(folder / "huizhi.toml", {}), database)
    headers = {"authorization": "Bearer the-token"}
    async with (
        app.lifespan(),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(cast(Any, app)), base_url="http://api", headers=headers
        ) as client,
    ):
        answer = await client.get(path)
        assert answer.status_code == 200
        return answer.json()


async def test_months_end_from_files_to_a_balance_and_to_a_difference(
    typed: Typed, database: Database, pool: Any, tmp_path: Path
) -> None:
    assert mistake(await typed("reconcile", *MONTH)) == (
        "think has no statement for 2024-10: import it first"
    )
    told = said(await typed("sent", "import", "sent.csv"))
    assert told == "2 recorded, 0 known already, 0 rejected\n"
    accounts = load(tmp_path / "huizhi.toml", {}).accounts
    found = [pushed(delivered(id)) for id in "ab"]
    await settlement.settle(pool, accounts, found, batches=(), now=NOW)
    imported = ("statement", "import", "bill.csv", *MONTH)
    told = said(await typed(*imported))
    assert told == "imported as think 2024-10 version 1: 2 lines, 2 segments, amount 0.08\n"
    told = said(await typed("reconcile", *MONTH, "--output", "json"))
    balanced = json.loads(told)
    assert balanced["status"] == "balanced"
    kept = await api(database, tmp_path, f"/v1/reconciliations/{balanced['id']}")
    more = ["run_at", "rules", "version", "closed_at", "closed_by", "adjusts"]
    assert list(kept) == [*balanced, *more]
    assert {name: kept[name] for name in balanced} == balanced

    again = json.loads(said(await typed(*imported, "--output", "json")))
    assert again["duplicate_of"] == again["id"]
    assert (again["version"], again["amount"]) == (1, "0.08")
    (tmp_path / "bill.csv").write_text(BILL + "b,13800138000,1,0.04\n=x,,2,0.08\n", "utf-8")
    corrected = json.loads(said(await typed(*imported, "--output", "json")))
    assert (corrected["version"], corrected["duplicate_of"]) == (2, None)
    listed = json.loads(said(await typed("statement", "list", "--output", "json")))
    assert listed == await api(database, tmp_path, "/v1/statements")
    assert [each["id"] for each in listed["items"]] == [corrected["id"], again["id"]]

    different = said(await typed("reconcile", *MONTH), code=1)
    lines = [line.split() for line in different.splitlines()]
    assert lines[0] == ["think", "2024-10", "discrepant"]
    assert ["owed", "2", "2", "0.08"] in lines
    assert ["billed", "4", "5", "0.2"] in lines
    assert ["difference", "3", "0.12"] in lines
    assert ["billed_not_sent", "1", "2", "0.08"] in lines
    assert ["billed_twice", "1", "1", "0.04"] in lines

    told = said(await typed("reconcile", *MONTH, "--output", "csv"), code=1)
    rows = list(csv.DictReader(io.StringIO(told.removeprefix("\ufeff"))))
    assert [(row["kind"], row["vendor_message_id"], row["line"]) for row in rows] == [
        ("billed_not_sent", "'=x", "5"),
        ("billed_twice", "b", "4"),
    ]
    every = ("reconcile", *MONTH, "--discrepancies", "--output", "json")
    items = json.loads(said(await typed(*every), code=1))["items"]
    run = (await api(database, tmp_path, "/v1/reconciliations"))["items"][0]
    below = await api(database, tmp_path, f"/v1/reconciliations/{run['id']}/discrepancies")
    assert items == below["items"]


async def test_month_is_closed_assumed_about_and_adjusted(
    typed: Typed, database: Database, pool: Any, tmp_path: Path
) -> None:
    said(await typed("sent", "import", "sent.csv"))
    said(await typed("statement", "import", "bill.csv", *MONTH))
    told = said(await typed("reconcile", *MONTH, "--assume", "price=0.03"), code=1)
    assert told.splitlines()[:2] == ["think  2024-10  assumed_discrepant", "assumed: price=0.03"]
    told = said(
        await typed("reconcile", *MONTH, "--close", "--by", "Li", "--output", "json"), code=1
    )
    closed = json.loads(told)
    assert (closed["version"], closed["closed_by"]) == (1, "Li")
    assert closed == await api(database, tmp_path, f"/v1/reconciliations/{closed['id']}")
    assert "is never opened again" in mistake(await typed("reconcile", *MONTH, "--close"))

    (tmp_path / "bill.csv").write_text(BILL.replace("0.04", "0.05"), "utf-8")
    said(await typed("statement", "import", "bill.csv", *MONTH))
    told = said(await typed("reconcile", *MONTH), code=1)
    run = (await api(database, tmp_path, "/v1/reconciliations"))["items"][0]
    assert told.splitlines()[-1] == f"run: {run['id']}"
    assert f"adjusts {closed['id']}: 2 changed, the difference by 0 segments and 0.02 CNY" in told
    causes = ("reconcile", *MONTH, "--causes", "--output", "csv")
    told = said(await typed(*causes), code=1).removeprefix("\ufeff")
    row, evidence = csv.DictReader(io.StringIO(told))
    assert evidence["cause"] == "no_report"
    assert row == {
        "cause": "price_other",
        "kind": "price_differs",
        "count": "2",
        "segments": "0",
        "amount": "0.02",
    }
    table = said(await typed("reconcile", *MONTH, "--causes"), code=1).splitlines()
    assert table[0].split()[:4] == ["cause", "discrepancy", "count", "segments"]
    assert "billed at a price that no tariff has" in table[1]
    assert table[-1].split()[:4] == ["difference", "4", "0", "0.02"]
    table = said(await typed("reconcile", *MONTH, "--adjustments"), code=1).splitlines()
    assert [line.split()[0] for line in table] == ["vendor_message_id", "a", "b"]
    changes = ("reconcile", *MONTH, "--adjustments", "--output", "json")
    items = json.loads(said(await typed(*changes), code=1))["items"]
    assert [(item["vendor_message_id"], item["amount"]) for item in items] == [
        ("a", "0.01"),
        ("b", "0.01"),
    ]


async def test_file_for_a_spreadsheet_is_bytes_and_nothing_else(
    typed: Typed, database: Database, tmp_path: Path
) -> None:
    said(await typed("statement", "import", "bill.csv", *MONTH))
    # What is typed is shown as text; bytes need a file, as with a shell's >.
    out = tmp_path / "list.xlsx"
    with out.open("wb") as file:
        ran = await asyncio.to_thread(
            subprocess.run,
            [
                sys.executable,
                "-W",
                "error",
                "-m",
                "huizhi",
                "statement",
                "list",
                "--output",
                "xlsx",
            ],
            cwd=tmp_path,
            env={
                "DATABASE_URL": database.dsn.reveal(),
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            stdout=file,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (ran.returncode, ran.stderr) == (0, b"")
    head, row = python_calamine.load_workbook(out).get_sheet_by_index(0).to_python()
    assert dict(zip(head, row, strict=True))["file"] == "bill.csv"


async def test_preview_shows_what_would_be_read_and_imports_nothing(
    typed: Typed, connection: Any, tmp_path: Path
) -> None:
    asked = ("statement", "import", "bill.csv", *MONTH, "--preview")
    told = said(await typed(*asked)).splitlines()
    assert told[0] == "bill.csv: CSV, gb18030, parted by comma, headings in line 1"
    cells = [line.split() for line in told]
    assert ["heading", "field", "because"] in cells
    assert [
        "任务ID",
        "vendor_message_id",
        *["任务ID", "is", "a", "usual", "heading", "of", "vendor_message_id"],
    ] in cells
    assert ["3", "b", "13800138000", "1", "0.04"] in cells
    assert told[-2:] == [
        "2 lines, 2 segments, amount 0.08",
        "nothing is imported by a preview; the file can be",
    ]
    seen = json.loads(said(await typed(*asked, "--output", "json")))
    assert (seen["lines"], seen["encoding"], seen["problems"]) == (2, "gb18030", [])
    (tmp_path / "bill.csv").write_text(BILL + "c,,x,1\n合计,,1,\n", "utf-8")
    refused = said(await typed(*asked, "--expect-lines", "7"), code=1).splitlines()
    assert "The file would be refused:" in refused
    assert refused[-1].split() == ["4", "计费条数", "'x'", *["is", "not", "a", "whole", "number"]]
    assert "the totals in line 5 bill nothing" in refused
    assert await connection.fetchval("SELECT count(*) FROM statements") == 0


async def test_preview_needs_no_database(tmp_path: Path) -> None:
    (tmp_path / "huizhi.toml").write_text(SETTINGS, "utf-8")
    (tmp_path / "bill.csv").write_text(BILL, "utf-8")
    env = {"DATABASE_URL": "postgresql://me:hush@127.0.0.1:1/none"}
    asked = ("statement", "import", "bill.csv", *MONTH, "--preview")
    told = await asyncio.to_thread(huizhi, tmp_path, *asked, env=env)
    assert (told.returncode, told.stderr) == (0, "")


async def test_control_totals_and_sheet_are_options(typed: Typed, tmp_path: Path) -> None:
    asked = ("statement", "import", "bill.csv", *MONTH)
    told = mistake(await typed(*asked, "--expect-segments", "3", "--expect-amount", "0.09"))
    assert told == (
        "bill.csv: 3 segments were expected, and its lines add up to 2;"
        " an amount of 0.09 was expected, and its lines add up to 0.08"
    )
    told = mistake(await typed(*asked, "--expect-amount", "much"))
    assert told == "the expected amount 'much' is not a decimal amount"
    right = ("--expect-lines", "2", "--expect-segments", "2", "--expect-amount", "¥0.08")
    assert "2 lines" in said(await typed(*asked, *right))
    book = xlsxwriter.Workbook(tmp_path / "book.xlsx")
    for name in ("one", "two"):
        for line, cells in enumerate(csv.reader(io.StringIO(SENT))):
            book.get_worksheet_by_name(name) or book.add_worksheet(name)
            book.get_worksheet_by_name(name).write_row(line, 0, cells)
    book.close()
    for command in (("sent", "import", "book.xlsx"), ("statement", "import", "book.xlsx", *MONTH)):
        told = mistake(await typed(*command))
        assert told == (
            "book.xlsx: has several sheets with something in them: one, two; name one with --sheet"
        )
        assert "no sheet '三'; there are one, two" in mistake(
            await typed(*command, "--sheet", "三")
        )
    told = said(await typed("sent", "import", "book.xlsx", "--sheet", "two"))
    assert told == "2 recorded, 0 known already, 0 rejected\n"


async def test_bad_row_is_named_and_the_others_are_registered(
    typed: Typed, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "sent.csv").write_text(
        SENT + "think,c,13800138000,yesterday,\nnobody,d,13800138000,2024-10-05 09:30:00,\n",
        "utf-8",
    )
    told = await typed("sent", "import", "sent.csv")
    assert told.returncode == 1
    assert told.stdout == "2 recorded, 0 known already, 2 rejected\n"
    assert told.stderr.splitlines() == [
        "sent.csv: line 4: sent_at is not a time such as 2026-10-01 09:30:00",
        "sent.csv: line 5: unknown account",
    ]
    messages = (await api(database, tmp_path, "/v1/messages"))["items"]
    # A file's time without a zone is the account's.
    assert {each["sent_at"] for each in messages} == {"2024-10-05T01:30:00Z"}
    row = {"vendor_message_id": "e", "phone": "1", "sent_at": "2024-10-05T09:30:00+08:00"}
    (tmp_path / "sent.ndjson").write_text(f"{json.dumps(row)}\noops\n", "utf-8")
    told = await typed("sent", "import", "sent.ndjson", "--account", "think", "--output", "json")
    assert (told.returncode, told.stderr) == (1, "")
    assert json.loads(told.stdout) == {
        "recorded": 1,
        "duplicates": 0,
        "rejected_count": 1,
        "rejected": [[2, "is not JSON"]],
    }


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ("reconcile", "--account", "other", "--period", "2024-10"),
            "no account 'other' in huizhi.toml; there are: sms, think",
        ),
        (
            ("reconcile", "--account", "think", "--period", "October"),
            "'October' is no period, such as 2026-10",
        ),
        (
            ("reconcile", "--account", "sms", "--period", "2024-10"),
            "sms has no tariff for 2024-10-01",
        ),
        (("reconcile", "--account", "think"), "Missing option '--period'"),
        (
            ("reconcile", *MONTH, "--source", "reports"),
            "no report of think's says what a message of 2024-10 cost",
        ),
        (
            ("reconcile", *MONTH, "--assume", "colour=red"),
            "no assumption 'colour'; there are price",
        ),
        (("reconcile", *MONTH, "--assume", "price"), "--assume: expected KEY=VALUE, not 'price'"),
        (
            ("reconcile", *MONTH, "--assume", "price=1", "--assume", "price=2"),
            "--assume: price is given twice",
        ),
        (
            ("reconcile", *MONTH, "--assume", "price=1", "--close"),
            "a run that assumes something closes no period",
        ),
        (("reconcile", *MONTH, "--by", "Li"), "--by goes with --close"),
        (
            ("reconcile", *MONTH, "--causes", "--discrepancies"),
            "one of --discrepancies, --causes and --adjustments at a time",
        ),
        (
            ("statement", "import", "none.csv", *MONTH),
            "none.csv: cannot be read: No such file or directory",
        ),
        (("statement", "import", ".", *MONTH), "cannot be read: Is a directory"),
        (
            ("statement", "import", "bill.csv", *MONTH, "--format", "bank"),
            "no statement format 'bank'; there are generic",
        ),
        (
            ("statement", "import", "broken.csv", *MONTH),
            "broken.csv: line 3, column 计费条数: 'x' is not a whole number",
        ),
        (("sent", "import", "none.csv"), "none.csv: cannot be read: No such file or directory"),
        (("sent", "import", "bill.csv"), "bill.csv: line 1: no column of account"),
        (("replay", "--account", "other"), "no account 'other'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_mistake_is_one_line_and_changes_nothing(
    typed: Typed, connection: Any, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    (tmp_path / "broken.csv").write_text("任务ID,计费条数\na,1\nb,x\n", "utf-8")
    assert reason in mistake(await typed(*arguments))
    for table in ("statements", "lines", "runs", "messages"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_day_without_a_tariff_is_named(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "sent.csv").write_text(SENT.replace("2024-10-05", "2024-01-31"), "utf-8")
    said(await typed("sent", "import", "sent.csv"))
    january = ("--account", "think", "--period", "2024-01-15..2024-02-15")
    said(await typed("statement", "import", "bill.csv", *january))
    told = mistake(await typed("reconcile", *january))
    assert told == "think has no tariff for 2024-01-31, when it sent messages"


async def test_database_away_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "huizhi.toml").write_text(SETTINGS, "utf-8")
    env = {"DATABASE_URL": "postgresql://me:hush@127.0.0.1:1/none"}
    told = mistake(await asyncio.to_thread(huizhi, tmp_path, "reconcile", *MONTH, env=env))
    assert "127.0.0.1:1" in told
    assert "hush" not in told


async def test_replay_says_what_would_change_and_then_changes_it(
    typed: Typed, pool: Any, tmp_path: Path
) -> None:
    said(await typed("sent", "import", "sent.csv"))
    found = [pushed(delivered("a")), pushed(b"never understood")]
    async with pool.acquire() as connection:
        batch, _ = await records.store(connection, found, recorder="test", now=NOW)
    # As a version did that did not know the account: all of it is quarantined.
    await settlement.settle(pool, {}, found, batches=[batch], now=NOW)

    async def state() -> tuple[str, int, int]:
        row = await pool.fetchrow(
            "SELECT (SELECT status FROM messages WHERE vendor_message_id = 'a') AS status,"
            " (SELECT count(*) FROM reports) AS reports, (SELECT count(*) FROM quarantine) AS left"
        )
        return tuple(row)

    assert await state() == ("submitted", 0, 2)
    told = said(await typed("replay", "--dry-run")).splitlines()
    assert told[:2] == [
        "2 quarantined, 1 would be understood (1 events), 0 messages joined their reports",
        "2 records parsed, 0 purged and left; 2 would be read otherwise: 1 reports appear, 0 vanish, "
        "1 states change",
    ]
    assert await state() == ("submitted", 0, 2)
    other = json.loads(said(await typed("replay", "--account", "sms", "--output", "json")))
    assert other["records"] == other["changed"] == 0
    done = json.loads(said(await typed("replay", "--by", "anna", "--output", "json")))
    assert (done["quarantined"], done["understood"], done["events"]) == (2, 1, 1)
    assert [(each["from"], each["to"]) for each in done["states"]] == [("submitted", "delivered")]
    assert [each["change"] for each in done["reports"]] == ["appears"]
    assert await state() == ("delivered", 1, 1)
    # Again, it changes nothing.
    again = json.loads(said(await typed("replay", "--output", "json")))
    assert (again["quarantined"], again["changed"], again["states"]) == (1, 0, [])
    assert await state() == ("delivered", 1, 1)
    listed = json.loads(said(await typed("replay", "--list", "--output", "json")))["items"]
    assert listed[1]["by"] == "anna"
    assert listed[1]["counts"]["applied"] == 2
    assert listed[1]["finished_at"]


async def test_replay_joins_reports_whose_registration_died_before_folding(
    typed: Typed, pool: Any, tmp_path: Path
) -> None:
    said(await typed("sent", "import", "sent.csv"))
    accounts = load(tmp_path / "huizhi.toml", {}).accounts
    await settlement.settle(pool, accounts, [pushed(delivered("a"))], batches=(), now=NOW)
    # What a registration leaves behind that was killed between its two commits.
    await pool.execute("UPDATE reports SET orphan = TRUE")
    await pool.execute(
        "UPDATE messages SET status = 'submitted', vendor_code = NULL, reported_at = NULL"
    )
    dry = json.loads(said(await typed("replay", "--dry-run", "--output", "json")))
    assert (dry["changed"], dry["joined"]) == (0, 0)
    done = json.loads(said(await typed("replay", "--output", "json")))
    assert done["joined"] == 1
    status = "SELECT status FROM messages WHERE vendor_message_id = 'a'"
    assert await pool.fetchval(status) == "delivered"


def test_segments_are_explained_by_a_rule_or_as_an_account_counts(tmp_path: Path) -> None:
    abroad = SETTINGS.replace(
        'gateway = "thinksms"', 'gateway = "thinksms"\nsegment_rule = "international"', 1
    )
    (tmp_path / "huizhi.toml").write_text(abroad, "utf-8")

    def counted(*options: str) -> Any:
        shown = json.loads(
            said(huizhi(tmp_path, "segments", "x" * 71, "--output", "json", *options))
        )
        return shown["rule"], shown["segments"]

    assert counted() == counted("--account", "think") == ("domestic", 2)
    assert counted("--account", "sms") == counted("--rule", "international") == ("international", 1)
    assert counted("--account", "sms", "--rule", "domestic") == ("domestic", 2)
    told = said(huizhi(tmp_path, "segments", "𠮷" * 36, "--unit", "code_point", "--sign", "回执"))
    assert told.splitlines() == ["1 segment by the domestic rule", "40 code points of 70, 30 left"]
    assert mistake(huizhi(tmp_path, "segments", "x", "--account", "nobody")) == (
        "no account 'nobody' in huizhi.toml; there are: sms, think"
    )


async def test_a_table_in_a_pipe_is_not_cut_to_a_terminal(
    typed: Typed, tmp_path: Path, database: Database
) -> None:
    env = {"DATABASE_URL": database.dsn.reveal(), "COLUMNS": "40", "PYTHONUTF8": "1"}
    told = await asyncio.to_thread(huizhi, tmp_path, "poll", "--account", "think", env=env)
    assert told.returncode == 0
    head, row = (line.split() for line in told.stdout.splitlines())
    assert (head[0], head[-1]) == ("account", "failures")
    assert row == ["think", *["0"] * 8]


async def test_sending_to_nobody_is_said_in_the_words_of_the_command(
    typed: Typed, tmp_path: Path
) -> None:
    (tmp_path / "nobody.txt").write_text("\n \n", "utf-8")
    for given in ((), ("--phones", "nobody.txt")):
        told = await typed("send", "--account", "sms", "--content", "x", *given)
        assert (told.returncode, told.stdout) == (2, "")
        assert told.stderr == "huizhi: nobody to send to: give --phone, or --phones with a file\n"


def test_segments_say_what_would_cost_less_and_save_how_much(tmp_path: Path) -> None:
    (tmp_path / "huizhi.toml").write_text(SETTINGS, "utf-8")
    asked = ("segments", "汉" * 73)
    assert said(huizhi(tmp_path, *asked)).splitlines()[-1] == (
        "3 characters fewer at the end: 1 segment"
    )
    cheaper = "3 characters fewer at the end: 1 segment, saves"
    told = said(huizhi(tmp_path, *asked, "--price", "0.035"))
    assert told.splitlines()[-1] == f"{cheaper} 0.035"
    told = said(huizhi(tmp_path, *asked, "--account", "think"))
    assert told.splitlines()[-1] == f"{cheaper} 0.04 CNY"
    told = said(huizhi(tmp_path, *asked, "--account", "think", "--price", "1", "--output", "json"))
    shown = json.loads(told)
    assert (shown["price"], shown["currency"], shown["amount"]) == ("1", "CNY", "2")
    assert [each["saves_amount"] for each in shown["cheaper"]] == ["1"]
    assert mistake(huizhi(tmp_path, *asked, "--price", "cheap")) == (
        "--price: 'cheap' is no price, such as 0.035"
    )
