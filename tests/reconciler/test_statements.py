"""Vendors' bills: whole or not at all, recognised again, every version kept."""

import asyncio
import csv
import io
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import xlsxwriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler import cells, ledger, periods, statements
from reconciler.statements import GENERIC, Expected, Preview, Statement
from reconciler.tables import FileError
from runtime.settings import parse

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 2, tzinfo=UTC)
OCTOBER = periods.parse("2026-10")
SETTINGS = parse(
    """
    [accounts.api]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    [accounts.other]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    [accounts.moved]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    tariffs = [
        { from = 2026-01-01, price = "0.035", currency = "CNY", basis = "delivered" },
        { from = 2026-11-01, price = "0.005", currency = "USD", basis = "delivered" },
    ]
    [accounts.japan]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    tariffs = [{ from = 2026-01-01, price = "9", currency = "JPY", basis = "delivered" }]
    [statements.bank]
    columns = { vendor_message_id = "单号", segments = "数量", amount = "金额" }
    [statements.foreign]
    columns = { vendor_message_id = "id", segments = "parts", amount = "sum", currency = "in" }
    """,
    Path("huizhi.toml"),
    {},
)
HEAD = ["任务ID", "手机号", "计费条数", "金额", "发送时间", "状态"]
LINES = [
    ["a1", "+86 13800138000", "1", "0.035", "2026-10-05 09:30:00", "成功"],
    ["a2", "13800138001", "2", "0.07", "2026/10/6", "失败"],
    ["a3", "", "1,000", "¥35.00", "", ""],
    ["a4", "13800138003", "3.0", "-0.105", "2026-10-07T01:02:03Z", "x"],
]


def sheet(*lines: list[str], head: list[str] | None = None, delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([head or HEAD, *lines])
    return text.getvalue()


async def imported(
    connection: Any,
    data: bytes | str,
    folder: Path,
    *,
    name: str = "october.csv",
    account: str = "api",
    period: str = "2026-10",
    layout: str = "generic",
    now: datetime = NOW,
    expect: Expected = statements.NOTHING_EXPECTED,
) -> Statement:
    path = folder / "spooled"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return await statements.import_file(
        connection,
        SETTINGS.accounts[account],
        periods.parse(period),
        path,
        file_name=name,
        format_name=layout,
        layout=statements.format_layout(SETTINGS, layout),
        now=now,
        expect=expect,
    )


async def lines(connection: Any, statement: UUID) -> list[tuple[Any, ...]]:
    rows = await connection.fetch(
        "SELECT line, vendor_message_id, phone, segments, amount, sent_at, status FROM lines"
        " WHERE statement_id = $1 ORDER BY line",
        statement,
    )
    return [tuple(row) for row in rows]


LOCAL = [
    datetime(2026, 10, 5, 1, 30, tzinfo=UTC),
    datetime(2026, 10, 5, 16, tzinfo=UTC),
    None,
    datetime(2026, 10, 7, 1, 2, 3, tzinfo=UTC),
]
KEPT = [
    (2, "a1", "13800138000", 1, Decimal("0.035"), LOCAL[0], "成功"),
    (3, "a2", "13800138001", 2, Decimal("0.07"), LOCAL[1], "失败"),
    (4, "a3", None, 1000, Decimal("35.00"), LOCAL[2], None),
    (5, "a4", "13800138003", 3, Decimal("-0.105"), LOCAL[3], "x"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
async def test_every_encoding_with_every_delimiter_is_the_same_bill(
    connection: Any, tmp_path: Path, encoding: str, delimiter: str
) -> None:
    data = sheet(*LINES, delimiter=delimiter).encode(encoding, "replace")
    if encoding == "gb18030":
        data = sheet(*LINES, delimiter=delimiter).replace("¥", "￥").encode("gbk")
    done = await imported(connection, data, tmp_path)
    assert (done.version, done.lines, done.segments) == (1, 4, 1006)
    assert (done.amount, done.duplicate_of) == (Decimal("35.000"), None)
    assert await lines(connection, done.id) == KEPT


@pytest.mark.parametrize(
    ("field", "heading"),
    [(field, heading) for field, headings in GENERIC.items() for heading in headings],
)
async def test_every_usual_heading_is_known(
    connection: Any, tmp_path: Path, field: str, heading: str
) -> None:
    head = {name: name for name in GENERIC} | {field: heading}
    cells = {
        "vendor_message_id": "a1",
        "phone": "13800138000",
        "segments": "2",
        "amount": "0.07",
        "sent_at": "2026-10-05",
        "status": "ok",
        "currency": "CNY",
    }
    done = await imported(
        connection, sheet(list(cells.values()), head=list(head.values())), tmp_path
    )
    assert await lines(connection, done.id) == [
        (2, "a1", "13800138000", 2, Decimal("0.07"), datetime(2026, 10, 4, 16, tzinfo=UTC), "ok")
    ]


async def test_workbook_is_the_same_bill(connection: Any, tmp_path: Path) -> None:
    path = tmp_path / "october.xlsx"
    book = xlsxwriter.Workbook(path)
    dated = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
    page = book.add_worksheet()
    page.write_row(0, 0, HEAD)
    page.write_row(1, 0, ["a1", 8613800138000, 1, 0.035])
    page.write_datetime(1, 4, datetime(2026, 10, 5, 9, 30), dated)  # noqa: DTZ001
    page.write(1, 5, "成功")
    page.write_row(2, 0, ["a2", "13800138001", 2, 0.07, "2026/10/6", "失败"])
    page.write_row(3, 0, ["a3", None, "1,000", "¥35.00"])
    page.write_row(4, 0, ["a4", 13800138003.0, 3, -0.105, "2026-10-07T01:02:03Z", "x"])
    book.close()
    done = await imported(connection, path.read_bytes(), tmp_path, name="october.xlsx")
    assert done.amount == Decimal("35.000")
    assert await lines(connection, done.id) == KEPT


async def test_declared_format_reads_its_own_headings_only(connection: Any, tmp_path: Path) -> None:
    data = sheet(["b1", "a1", "2", "0.07"], head=["单号", "任务ID", "数量", "金额"])
    done = await imported(connection, data, tmp_path, layout="bank")
    assert [row[1] for row in await lines(connection, done.id)] == ["b1"]
    with pytest.raises(FileError, match="no column of segments; it is headed 数量"):
        await imported(
            connection, sheet(["b1", "1"], head=["单号", "条数"]), tmp_path, layout="bank"
        )
    with pytest.raises(ValueError, match="no statement format 'x'; there are generic, bank"):
        statements.format_layout(SETTINGS, "x")


async def test_same_file_again_changes_nothing_and_says_so(connection: Any, tmp_path: Path) -> None:
    first = await imported(connection, sheet(*LINES), tmp_path)
    again = await imported(connection, sheet(*LINES), tmp_path, name="renamed.csv")
    assert again.duplicate_of == first.id
    assert (again.id, again.version, again.lines, again.amount) == (
        first.id,
        1,
        first.lines,
        first.amount,
    )
    assert await connection.fetchval("SELECT count(*) FROM lines") == 4
    assert await connection.fetchval("SELECT count(*) FROM statements") == 1


async def test_corrected_file_is_a_new_version_and_the_old_one_stays(
    connection: Any, tmp_path: Path
) -> None:
    first = await imported(connection, sheet(*LINES), tmp_path)
    second = await imported(connection, sheet(*LINES[:2]), tmp_path)
    assert (second.version, second.lines, second.duplicate_of) == (2, 2, None)
    assert await lines(connection, first.id) == KEPT
    # And the first one again is still known, and does not come back over the second.
    again = await imported(connection, sheet(*LINES), tmp_path)
    assert (again.duplicate_of, again.version) == (first.id, 1)


async def test_same_file_for_another_period_or_account_is_another_bill(
    connection: Any, tmp_path: Path
) -> None:
    done = [
        await imported(connection, sheet(*LINES), tmp_path),
        await imported(connection, sheet(*LINES), tmp_path, period="2026-09"),
        await imported(connection, sheet(*LINES), tmp_path, period="2026-10-01..2026-10-30"),
        await imported(connection, sheet(*LINES), tmp_path, account="other"),
    ]
    assert {one.duplicate_of for one in done} == {None}
    assert {one.version for one in done} == {1}


async def test_same_and_different_files_at_once_make_each_one_version(
    pool: Any, tmp_path: Path
) -> None:
    files = [sheet(*LINES[: n + 1]).encode() for n in range(3)]

    async def one(number: int) -> Statement:
        folder = tmp_path / str(number)
        folder.mkdir()
        async with pool.acquire() as connection:
            return await imported(connection, files[number % 3], folder)

    done = await asyncio.gather(*(one(number) for number in range(12)))
    first = [statement for statement in done if statement.duplicate_of is None]
    assert sorted(statement.version for statement in first) == [1, 2, 3]
    assert {one.duplicate_of for one in done} == {None, *(one.id for one in first)}
    assert await pool.fetchval("SELECT count(*) FROM lines") == 1 + 2 + 3


BAD = [
    ("任务ID", "", "is empty"),
    ("任务ID", "1.23457E+15", "'1.23457E+15' is an id that a spreadsheet has rounded"),
    ("任务ID", "1e+21", "rounded"),
    ("任务ID", "x" * 129, "has more than 128 characters"),
    ("任务ID", " ~f00d", "begins with ~, as only our own provisional ids do"),
    ("手机号", "1.38E+10", "rounded"),
    ("手机号", "none", "is no phone number"),
    ("手机号", "1" * 33, "is no phone number"),
    ("计费条数", "", "'' is not a whole number"),
    ("计费条数", "1.5", "'1.5' is not a whole number"),
    ("计费条数", "-1", "'-1' is not a whole number"),
    ("计费条数", "1,00", "'1,00' is not a whole number"),
    ("计费条数", "two", "'two' is not a whole number"),
    ("计费条数", "1000001", "is more than 1000000"),
    ("计费条数", "9" * 5000, "is not a whole number"),
    ("计费条数", "1.0e0", "is not a whole number"),
    ("金额", "0.1.2", "'0.1.2' is not a decimal amount"),
    ("金额", "1e3", "is not a decimal amount"),
    ("金额", "NaN", "is not a decimal amount"),
    ("金额", "Infinity", "is not a decimal amount"),
    ("金额", "1,00.0", "is not a decimal amount"),
    ("金额", "0." + "1" * 13, "is not a decimal amount"),
    ("金额", "9" * 31, "is not a decimal amount"),
    ("金额", "free", "is not a decimal amount"),
    ("发送时间", "2026-13-01", "'2026-13-01' is not a time"),
    ("发送时间", "2026-02-30", "is not a time"),
    ("发送时间", "2026-10-05 25:00:00", "is not a time"),
    ("发送时间", "0001-01-01", "is not a time"),
    ("发送时间", "9999-12-31", "is not a time"),
    ("发送时间", "1633392000", "is not a time"),
    ("发送时间", "2026-10-05 09:30:00+99:00", "is not a time"),
]


@pytest.mark.parametrize(("column", "cell", "complaint"), BAD)
async def test_one_bad_cell_refuses_the_file_whole_naming_file_line_and_column(
    connection: Any, tmp_path: Path, column: str, cell: str, complaint: str
) -> None:
    before = await imported(connection, sheet(*LINES), tmp_path)
    bad = list(LINES[0])
    bad[HEAD.index(column)] = cell
    many = [[f"m{number}", "", "1", "", "", ""] for number in range(2500)]
    with pytest.raises(FileError) as caught:
        await imported(connection, sheet(*many, bad, *LINES), tmp_path)
    assert str(caught.value).startswith(f"october.csv: line 2502, column {column}: ")
    assert complaint in str(caught.value)
    assert len(str(caught.value)) < 300
    assert await connection.fetchval("SELECT count(*) FROM lines") == before.lines
    assert await connection.fetchval("SELECT count(*) FROM statements") == 1
    # The connection is usable, and nobody holds the lock on the period.
    async with asyncio.timeout(20):
        assert (await imported(connection, sheet(*LINES[:1]), tmp_path)).version == 2


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "october.csv: the file is empty"),
        (b"\n\n", "october.csv: the file is empty"),
        ("任务ID,条数\n", "october.csv: has headings but no lines"),
        ("任务ID\na1\n", "october.csv: line 1: no column of segments"),
        ("条数\n1\n", "october.csv: line 1: no column of vendor_message_id"),
        ("任务ID,短信ID,条数\n1,2,3\n", "line 1, column 短信ID: is a second column"),
        (b"\x00\x01\x02", "NUL"),
        (b"\xff\xff\xff\xff", "neither UTF-8"),
        ('任务ID,条数\na1,1\n"a2,1\n', "october.csv: line 3: is not CSV"),
        (b"PK\x03\x04garbage", "not an XLSX workbook"),
        (b"%PDF-1.7 \xe2\xe3\xcf\xd3", "october.csv: "),
        (b'{"json": 1}', "no column of"),
        (b"<html><body>login</body></html>", "is a web page or XML: open it in a spreadsheet"),
    ],
)
async def test_what_is_no_bill_is_refused_in_one_line_and_leaves_nothing(
    connection: Any, tmp_path: Path, data: bytes | str, complaint: str
) -> None:
    with pytest.raises(FileError) as caught:
        await imported(connection, data, tmp_path)
    assert complaint in str(caught.value)
    assert await connection.fetchval("SELECT count(*) FROM lines") == 0
    assert await connection.fetchval("SELECT count(*) FROM statements") == 0


async def test_missing_file_is_refused(connection: Any, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"x\.csv: cannot be read: No such file"):
        await statements.import_file(
            connection,
            SETTINGS.accounts["api"],
            OCTOBER,
            tmp_path / "none",
            file_name="x.csv",
            format_name="generic",
            layout=statements.GENERIC_LAYOUT,
            now=NOW,
        )


async def test_line_without_a_phone_whose_id_names_several_messages_refuses_the_file(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    sent = [
        ledger.Sent(
            account=account,
            vendor_message_id=id,
            phone=phone,
            sent_at=datetime(2026, 10, 5, tzinfo=UTC),
        )
        for account, id, phone in (
            ("api", "one", "13800138000"),
            ("api", "many", "13800138000"),
            ("api", "many", "13800138001"),
            ("other", "one", "13800138009"),
        )
    ]
    await ledger.register(pool, SETTINGS.accounts, sent, now=NOW)
    head = ["任务ID", "手机号", "条数"]
    fine = sheet(["one", "", "1"], ["many", "13800138000", "1"], ["none", "", "1"], head=head)
    assert (await imported(connection, fine, tmp_path)).lines == 3
    wrong = sheet(["one", "", "1"], [], ["none", "", "1"], ["many", "", "1"], head=head)
    with pytest.raises(FileError, match=r"october\.csv: line 5: .*several messages"):
        await imported(connection, wrong, tmp_path)
    assert await connection.fetchval("SELECT count(*) FROM lines") == 3
    # Elsewhere that id names nobody.
    assert (await imported(connection, wrong, tmp_path, account="other")).lines == 3


async def test_amounts_are_kept_and_added_to_the_last_digit(
    connection: Any, tmp_path: Path
) -> None:
    amounts = ["99999999999999999.999999999999", "0.000000000001", "-0.000000000002", "¥1,234.5元"]
    table = [[f"a{n}", "", "1", amount, "", ""] for n, amount in enumerate(amounts)]
    done = await imported(connection, sheet(*table), tmp_path)
    assert done.amount == Decimal("100000000000001234.499999999998")
    assert await connection.fetchval("SELECT amount FROM statements") == done.amount
    assert await connection.fetchval("SELECT sum(amount) FROM lines") == done.amount


async def test_no_amounts_is_not_an_amount_of_nought(connection: Any, tmp_path: Path) -> None:
    none = await imported(connection, sheet(["a", "", "1"], head=HEAD[:3]), tmp_path)
    assert none.amount is None
    nought = await imported(connection, sheet(["a", "", "1", "0"], head=HEAD[:4]), tmp_path)
    assert nought.amount == 0


@pytest.mark.parametrize("word", ["合计", "总计：", "Total", "TOTALS:"])
async def test_totals_at_the_end_are_held_against_the_lines(
    connection: Any, tmp_path: Path, word: str
) -> None:
    good = ["", word, "1,006", "35.00", "", ""]
    done = await imported(connection, sheet(*LINES, good), tmp_path)
    assert (done.lines, done.segments) == (4, 1006)
    await imported(connection, sheet(*LINES[:1], [word, "", "1", "0.035", "", ""]), tmp_path)
    for wrong, complaint in (
        (["", word, "1007", "35.00", "", ""], "line 6, column 计费条数: the totals say 1007"),
        (["", word, "1006", "35.01", "", ""], "line 6, column 金额: the totals say 35.01"),
    ):
        with pytest.raises(FileError, match=complaint):
            await imported(connection, sheet(*LINES, wrong), tmp_path)
    with pytest.raises(FileError, match="line 3: comes after the totals in line 2"):
        await imported(connection, sheet(["", word, "", "", "", ""], *LINES), tmp_path)


async def test_line_that_names_a_message_is_a_line_whatever_words_stand_in_it(
    connection: Any, tmp_path: Path
) -> None:
    table = [LINES[0], ["a9", "13800138000", "1", "0.035", "", "total"]]
    done = await imported(connection, sheet(*table), tmp_path)
    assert (done.lines, done.segments) == (2, 2)


async def test_blank_lines_and_unknown_columns_are_passed_over(
    connection: Any, tmp_path: Path
) -> None:
    data = "\n备注,任务ID,条数\n\nx,a1,1\n,,\n,a2,2\n"
    done = await imported(connection, data, tmp_path)
    assert [(row[0], row[1]) for row in await lines(connection, done.id)] == [(4, "a1"), (6, "a2")]


@pytest.mark.parametrize(
    "name", ["a\0b.csv", "a\ud800.csv", "a\nb.csv", "x" * 5000, "账单.csv", ""]
)
async def test_whatever_a_file_is_called_it_can_be_kept(
    connection: Any, tmp_path: Path, name: str
) -> None:
    done = await imported(connection, sheet(*LINES), tmp_path, name=name)
    kept = await connection.fetchval("SELECT file_name FROM statements WHERE id = $1", done.id)
    assert len(kept) <= 200
    assert kept == (name if name in ("账单.csv", "") else kept)
    with pytest.raises(FileError) as caught:
        await imported(connection, "x", tmp_path, name=name)
    assert "\n" not in str(caught.value)


async def test_import_that_dies_in_the_middle_leaves_nothing(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    many = sheet(*([f"m{number}", "", "1", "", "", ""] for number in range(60_000)))
    async with pool.acquire() as dying:
        pid = await dying.fetchval("SELECT pg_backend_pid()")
        task = asyncio.create_task(imported(dying, many, tmp_path))
        async with asyncio.timeout(10):
            while not await connection.fetchval(
                "SELECT query LIKE 'COPY%' FROM pg_stat_activity WHERE pid = $1", pid
            ):
                await asyncio.sleep(0.001)
        await connection.execute("SELECT pg_terminate_backend($1::integer)", pid)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await task
    assert await connection.fetchval("SELECT count(*) FROM lines") == 0
    assert (await imported(connection, sheet(*LINES), tmp_path)).version == 1


async def test_file_is_read_beside_the_loop(
    connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loop also answers the API and renews leases.
    read_in: set[int] = set()

    original = cells.whole

    def whole(text: str) -> int:
        read_in.add(threading.get_ident())
        return original(text)

    monkeypatch.setattr(cells, "whole", whole)
    many = sheet(*([f"m{number}", "", "1", "", "", ""] for number in range(2500)))
    assert (await imported(connection, many, tmp_path)).lines == 2500
    assert read_in
    assert threading.get_ident() not in read_in


async def test_titles_totals_notes_and_marks_of_a_real_bill(
    connection: Any, tmp_path: Path
) -> None:
    bill = [
        ["某某短信平台 2026年10月 账单"],
        ["客户：某某公司", "", "", "单位：元"],
        [],
        HEAD,
        ["a1", "+86 138 0013 8000", "1", "￥0.035", "2026年10月5日 9:30", "成功"],
        ["a2", "１３８００１３８００１", "２", "0.07元", "2026/10/6", "失败"],
        ["小 计", "", "3", "0.105", "", ""],
        ["a3", "", "1,000条", "¥35.00", "", ""],
        ["a4", "13800138003.0", "3.0", "(0.105)", "2026-10-07T01:02:03Z", "x"],
        ["小计：", "", "1,003", "34.895", "", ""],
        [],
        ["合　计（元）", "", "1,006", "35", "", ""],
        [],
        ["制表：张三", "", "", "", "审核：李四", ""],
    ]
    data = sheet(*bill[1:], head=bill[0]).encode("gb18030")
    done = await imported(connection, data, tmp_path)
    kept = [(number, *row[1:]) for number, row in zip((5, 6, 8, 9), KEPT, strict=True)]
    assert await lines(connection, done.id) == kept
    assert (done.lines, done.segments, done.amount) == (4, 1006, Decimal(35))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            ["小计", "", "1007", "", "", ""],
            "计费条数: the totals say 1007, and the lines add up to 6",
        ),
        (["小计", "", "6", "1", "", ""], "金额: the totals say 1, and the lines add up to 0.21"),
        (["合计", "", "many", "", "", ""], "计费条数: 'many' is not a whole number"),
    ],
)
async def test_totals_that_disagree_name_both_figures_and_import_nothing(
    connection: Any, tmp_path: Path, row: list[str], complaint: str
) -> None:
    data = sheet(LINES[0], ["小计", "", "1", "0.035", "", ""], *LINES[1:2], LINES[1], LINES[1], row)
    with pytest.raises(FileError) as caught:
        await imported(connection, data, tmp_path)
    assert str(caught.value) == f"october.csv: line 7, column {complaint}"
    assert await connection.fetchval("SELECT count(*) FROM lines") == 0


async def test_every_bad_line_is_named_at_once(connection: Any, tmp_path: Path) -> None:
    table = [list(LINES[0]) for _ in range(40)]
    for line in (5, 9, 12, 30):
        table[line - 2][2] = "x"
    table[8 - 2][3] = "free"
    total = ["合计", "", "40", "", "", ""]
    with pytest.raises(FileError) as caught:
        await imported(connection, sheet(*table, total), tmp_path)
    assert str(caught.value) == (
        "october.csv: line 5, column 计费条数: 'x' is not a whole number;"
        " and 4 more, in lines 8, 9, 12, 30"
    )
    assert [complaint.line for complaint in caught.value.complaints] == [5, 8, 9, 12, 30]
    assert await connection.fetchval("SELECT count(*) FROM lines") == 0


async def test_file_that_is_wrong_throughout_is_not_read_to_its_end(
    connection: Any, tmp_path: Path
) -> None:
    table = [["a", "", "x", "", "", ""]] * 5_000
    with pytest.raises(FileError) as caught:
        await imported(connection, sheet(*table), tmp_path)
    assert str(caught.value).startswith(
        "october.csv: line 2, column 计费条数: 'x' is not a whole number;"
        " and at least 99 more, in lines 3, 4, 5, "
    )
    assert str(caught.value).endswith(", 22, …")
    assert len(caught.value.complaints) == 100


async def test_file_that_breaks_off_is_said_beside_its_bad_lines(
    connection: Any, tmp_path: Path
) -> None:
    data = '任务ID,条数\na,x\nb,1\n"c,1\n'
    with pytest.raises(FileError, match=r"'x' is not a whole number; and 1 more, in lines 4$"):
        await imported(connection, data, tmp_path)


@pytest.mark.parametrize("column", HEAD[:5])
@pytest.mark.parametrize("cell", ["13800138000x", "+86 138-0013-8000x", "1.3800138000E+10"])
async def test_no_complaint_quotes_a_phone_number(
    connection: Any, tmp_path: Path, column: str, cell: str
) -> None:
    bad = list(LINES[0])
    bad[HEAD.index(column)] = cell
    if column == "任务ID" and "+" not in cell[1:]:
        bad[2] = "13800138000"
    with pytest.raises(FileError) as caught:
        await imported(connection, sheet(bad), tmp_path)
    for part in ("0013", "138001", "3800138"):
        assert part not in str(caught.value)


async def test_masked_phones_are_no_phones(connection: Any, tmp_path: Path) -> None:
    for cell, complaint in (
        ("138****8000", "column 手机号: is masked: declare a format without a column of phones"),
        ("13800138000,13800138001", "is no phone number"),
        ("13800138000/13800138001", "is no phone number"),
        ("13800138000²", "is no phone number"),
    ):
        with pytest.raises(FileError, match=complaint):
            await imported(connection, sheet(["a", cell, "1", "", "", ""]), tmp_path)


async def test_rounded_ids_of_a_workbook_are_refused_with_their_rows(
    connection: Any, tmp_path: Path
) -> None:
    path = tmp_path / "october.xlsx"
    book = xlsxwriter.Workbook(path)
    page = book.add_worksheet()
    page.write_row(0, 0, HEAD[:3])
    page.write_row(1, 0, [123456789012345, 13800138000, 1])
    page.write_row(2, 0, [1234567890123456, 13800138000, 1])
    page.write_row(3, 0, ["1.23E+15", 13800138000, 1])
    page.write_row(4, 0, ["1234567890123456", 13800138000, 1])
    book.close()
    with pytest.raises(FileError) as caught:
        await imported(connection, path.read_bytes(), tmp_path)
    assert [(each.line, each.column) for each in caught.value.complaints] == [
        (3, "任务ID"),
        (4, "任务ID"),
    ]
    assert "is an id that a spreadsheet has rounded" in str(caught.value)


async def test_control_totals_must_agree_or_nothing_is_imported(
    connection: Any, tmp_path: Path
) -> None:
    data = sheet(*LINES)
    for expect, complaint in (
        (Expected(lines=5), "5 lines were expected, and it has 4"),
        (Expected(segments=1), "1 segments were expected, and its lines add up to 1006"),
        (
            Expected(amount=Decimal("35.01")),
            "an amount of 35.01 was expected, and its lines add up to 35.000",
        ),
        (
            Expected(lines=3, segments=1006, amount=Decimal(1)),
            "3 lines were expected, and it has 4; an amount of 1 was expected, and",
        ),
    ):
        with pytest.raises(FileError) as caught:
            await imported(connection, data, tmp_path, expect=expect)
        assert str(caught.value).startswith(f"october.csv: {complaint}")
        assert await connection.fetchval("SELECT count(*) FROM lines") == 0
    agreed = Expected(lines=4, segments=1006, amount=Decimal(35))
    assert (await imported(connection, data, tmp_path, expect=agreed)).version == 1
    # Known already is no reason to look away.
    with pytest.raises(FileError, match="5 lines were expected, and it has 4"):
        await imported(connection, data, tmp_path, expect=Expected(lines=5))
    plain = sheet(["a", "", "1"], head=HEAD[:3])
    with pytest.raises(FileError, match="was expected, and its lines have no amounts"):
        await imported(connection, plain, tmp_path, expect=Expected(amount=Decimal(0)))


def test_expected_amount_is_spelt_as_in_files() -> None:
    assert statements.expected(1, None, " ¥1,234.50 ") == Expected(
        lines=1, amount=Decimal("1234.50")
    )
    with pytest.raises(ValueError, match="the expected amount 'x' is not a decimal amount"):
        statements.expected(None, None, "x")


async def test_declared_format_says_how_dates_are_written(connection: Any, tmp_path: Path) -> None:
    declared = parse(
        """
        [statements.abroad]
        columns = { vendor_message_id = "id", segments = "parts", sent_at = "sent" }
        delimiter = ";"
        encoding = "utf-8"
        sheet = "October"
        time_format = "%d/%m/%Y %H:%M"
        """,
        Path("huizhi.toml"),
        {},
    )
    layout = statements.format_layout(declared, "abroad")
    assert statements.format_layout(declared, "abroad", sheet="May").sheet == "May"
    path = tmp_path / "bill"
    path.write_text("id;parts;sent\na;1;05/10/2026 09:30\nb;1;2026-10-05\n", "utf-8")
    seen = await statements.preview(
        SETTINGS.accounts["api"], path, file_name="bill", format_name="abroad", layout=layout
    )
    assert [line.sent_at for line in seen.first_lines] == [LOCAL[0]]
    assert [(each.line, each.reason) for each in seen.problems] == [
        (3, "'2026-10-05' is not a time as %d/%m/%Y %H:%M")
    ]
    assert {column.heading: column.because for column in seen.columns} == dict.fromkeys(
        ("id", "parts", "sent"), "[statements.abroad] declares it"
    )


async def test_serial_dates_count_from_the_workbooks_own_day(
    connection: Any, tmp_path: Path
) -> None:
    for since_1904, days in ((False, 46300.395833333336), (True, 44838.395833333336)):
        path = tmp_path / "serial.xlsx"
        book = xlsxwriter.Workbook(path, {"date_1904": since_1904})
        page = book.add_worksheet()
        page.write_row(0, 0, ["任务ID", "条数", "发送时间"])
        page.write_row(1, 0, ["a1", 1, days])
        book.close()
        done = await imported(connection, path.read_bytes(), tmp_path)
        assert [row[5] for row in await lines(connection, done.id)] == [LOCAL[0]]


async def previewed(
    data: str | bytes,
    folder: Path,
    expect: Expected = statements.NOTHING_EXPECTED,
    account: str = "api",
) -> Preview:
    path = folder / "previewed"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return await statements.preview(
        SETTINGS.accounts[account],
        path,
        file_name="october.csv",
        format_name="generic",
        layout=statements.GENERIC_LAYOUT,
        expect=expect,
    )


async def test_preview_says_what_would_be_read_and_why(tmp_path: Path) -> None:
    head = ["任务ID", "手机号", "计费条数", "金额", "提交时间", "发送时间", "备注", ""]
    table = [[*row[:4], "", row[4], "x", "y"] for row in LINES]
    seen = await previewed(
        sheet(head, *table, ["合计", "", "1006", "35", "", "", "", ""], head=["账单"]), tmp_path
    )
    assert (seen.encoding, seen.delimiter, seen.sheet, seen.header_line) == (
        "utf-8",
        ",",
        None,
        2,
    )
    assert [(column.heading, column.field, column.because) for column in seen.columns] == [
        ("任务ID", "vendor_message_id", "任务ID is a usual heading of vendor_message_id"),
        ("手机号", "phone", "手机号 is a usual heading of phone"),
        ("计费条数", "segments", "计费条数 is a usual heading of segments"),
        ("金额", "amount", "金额 is a usual heading of amount"),
        ("提交时间", None, "sent_at is read from 发送时间"),
        ("发送时间", "sent_at", "发送时间 is a usual heading of sent_at"),
        ("备注", None, "no field of generic is headed so"),
        ("", None, "has no heading"),
    ]
    assert (seen.lines, seen.segments, seen.amount, seen.totals_line) == (4, 1006, "35", 7)
    assert [(line.line, line.phone, line.amount) for line in seen.first_lines] == [
        (3, "13800138000", "0.035"),
        (4, "13800138001", "0.07"),
        (5, None, "35"),
        (6, "13800138003", "-0.105"),
    ]
    assert (seen.problems, seen.more_problems) == ([], False)


DOLLARS = ["a1", "1", "0.5", "usd"], ["a2", "1", "0.5", "美元"]
IN_YUAN = ["a1", "1", "3"], ["a2", "1", "0.035元"]
YEN = (["a1", "1", "9"],)


@pytest.mark.parametrize(
    ("account", "period", "layout", "head", "lines", "where", "wanted"),
    [
        (
            "moved",
            "2026-10",
            "generic",
            "任务ID,条数,金额,币种",
            DOLLARS,
            "2, column 币种: is in USD",
            "CNY",
        ),
        (
            "moved",
            "2026-10",
            "foreign",
            "id,parts,sum,in",
            DOLLARS,
            "2, column in: is in USD",
            "CNY",
        ),
        (
            "japan",
            "2026-10",
            "generic",
            "任务ID,条数,金额,币种",
            DOLLARS,
            "2, column 币种: is in USD",
            "JPY",
        ),
        (
            "moved",
            "2026-11",
            "generic",
            "任务ID,条数,金额",
            IN_YUAN,
            "3, column 金额: is in CNY",
            "USD",
        ),
        (
            "japan",
            "2026-10",
            "generic",
            "任务ID,条数,金额（元）",
            YEN,
            "1, column 金额（元）: is in CNY",
            "JPY",
        ),
    ],
)
async def test_bill_in_another_currency_than_the_tariffs_is_refused(
    connection: Any,
    tmp_path: Path,
    account: str,
    period: str,
    layout: str,
    head: str,
    lines: tuple[list[str], ...],
    where: str,
    wanted: str,
) -> None:
    data = sheet(*lines, head=head.split(","))
    with pytest.raises(FileError) as refused:
        await imported(connection, data, tmp_path, account=account, period=period, layout=layout)
    assert f"line {where}, and the tariffs of {account} are in {wanted}" in str(refused.value)
    assert await connection.fetchval("SELECT count(*) FROM statements") == 0


async def test_bill_in_the_currency_of_the_tariffs_is_taken_however_it_is_spelt(
    connection: Any, tmp_path: Path
) -> None:
    head = ["任务ID", "条数", "金额", "币种"]
    yuan = sheet(
        *(["a", "1", "0.035元", said] for said in ("CNY", "cny", "人民币", "ＲＭＢ", "元", "")),
        head=head,
    )
    done = await imported(connection, yuan, tmp_path, account="moved")
    assert (done.lines, done.amount) == (6, Decimal("0.210"))
    done = await imported(
        connection, sheet(*DOLLARS, head=head), tmp_path, account="moved", period="2026-11"
    )
    assert done.amount == Decimal("1.0")
    yen = sheet(["a", "1", "¥9"], head=head[:3])
    assert (await imported(connection, yen, tmp_path, account="japan")).amount == 9
    # Without a tariff nothing can be said against any.
    for other in (yuan, sheet(*DOLLARS, head=head)):
        await imported(connection, other, tmp_path)
    with pytest.raises(FileError, match="line 2, column 币种: 'dollars' is no currency, such as"):
        await imported(connection, sheet(["a", "1", "1", "dollars"], head=head), tmp_path)


async def test_preview_shows_currencies_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    head = ["任务ID", "条数", "金额", "币种"]
    seen = await previewed(sheet(*DOLLARS, head=head), tmp_path, account="moved")
    assert ([line.currency for line in seen.first_lines], seen.problems) == (["USD"] * 2, [])
    seen = await previewed(sheet(*DOLLARS, head=head), tmp_path, account="japan")
    assert [(problem.line, problem.column) for problem in seen.problems] == [
        (2, "币种"),
        (3, "币种"),
    ]


async def test_preview_of_what_would_be_refused_lists_what_is_wrong(tmp_path: Path) -> None:
    table = [["a", "", "x", "", "", ""]] * 200
    seen = await previewed(sheet(LINES[0], *table), tmp_path)
    assert (seen.lines, len(seen.problems), seen.more_problems) == (1, 100, True)
    assert (seen.problems[0].line, seen.problems[0].column) == (3, "计费条数")
    seen = await previewed(sheet(*LINES), tmp_path, Expected(lines=5, segments=1))
    assert [problem.reason for problem in seen.problems] == [
        "5 lines were expected, and it has 4",
        "1 segments were expected, and its lines add up to 1006",
    ]
    seen = await previewed(sheet(), tmp_path)
    assert [problem.reason for problem in seen.problems] == ["has headings but no lines"]
    seen = await previewed(sheet(*(LINES * 5)), tmp_path)
    assert len(seen.first_lines) == 10
    with pytest.raises(FileError, match="no column of"):
        await previewed("a,b\n1,2\n", tmp_path)


async def test_progress_is_told_on_the_way(tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    path = tmp_path / "large.csv"
    path.write_text(sheet(*([f"m{n}", "", "1", "", "", ""] for n in range(50_000))), "utf-8")
    await statements.preview(
        SETTINGS.accounts["api"],
        path,
        file_name="large.csv",
        format_name="generic",
        layout=statements.GENERIC_LAYOUT,
        progress=lambda lines, share: told.append((lines, share)),
    )
    assert told == sorted(told)
    assert told[-1][0] == 50_000
    assert 0.9 < told[-1][1] <= 1.0


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    table=st.lists(
        st.tuples(
            st.text("abcDEF0123456789-", min_size=1, max_size=20),
            st.sampled_from(["", "13800138000", "+8613900139000", "85291234567"]),
            st.integers(0, 1_000_000),
            st.none() | st.decimals(-1000, 10**8, places=4),
            st.none() | st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001
        ),
        min_size=1,
        max_size=6,
    ),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "gb18030", "utf-16"]),
    delimiter=st.sampled_from([",", "\t", ";", "|"]),
    titles=st.integers(0, 3),
)
async def test_however_a_bill_is_written_its_lines_are_the_same(
    tmp_path: Path,
    table: list[tuple[str, str, int, Decimal | None, datetime | None]],
    encoding: str,
    delimiter: str,
    titles: int,
) -> None:
    above = [["账单"]] * titles
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([*above, HEAD[:5]])
    for id, phone, segments, amount, at in table:
        spelt = "" if at is None else f"{at:%Y年%m月%d日 %H:%M:%S}"
        writer.writerow(
            [id, phone, f"{segments:,}", "" if amount is None else f"¥{amount:,}", spelt]
        )
    written = text.getvalue().replace("¥", "￥") if encoding == "gb18030" else text.getvalue()
    path = tmp_path / "bill.xlsx"
    book = xlsxwriter.Workbook(path)
    dated = book.add_format({"num_format": "yyyy/m/d h:mm:ss"})
    page = book.add_worksheet()
    for line, cells_of in enumerate([*above, HEAD[:5]]):
        page.write_row(line, 0, cells_of)
    for line, (id, phone, segments, amount, at) in enumerate(table, start=titles + 1):
        page.write_string(line, 0, id)
        page.write_string(line, 1, phone)
        page.write_number(line, 2, segments)
        if amount is not None:
            page.write_number(line, 3, float(amount))
        if at is not None:
            page.write_datetime(line, 4, at.replace(microsecond=0), dated)
    book.close()
    seen = [
        await previewed(written.encode(encoding), tmp_path),
        await previewed(path.read_bytes(), tmp_path),
    ]
    assert seen[0].problems == seen[1].problems == []
    assert seen[0].first_lines == seen[1].first_lines
    assert [(line.line, line.vendor_message_id, line.segments) for line in seen[0].first_lines] == [
        (number, id, segments)
        for number, (id, _, segments, _, _) in enumerate(table, start=titles + 2)
    ]
    assert (seen[0].lines, seen[0].segments, seen[0].amount) == (
        seen[1].lines,
        sum(row[2] for row in table),
        seen[1].amount,
    )
    amounts = [row[3] for row in table if row[3] is not None]
    assert (None if seen[0].amount is None else Decimal(seen[0].amount)) == (
        sum(amounts) if amounts else None
    )


async def test_another_sheet_of_the_same_file_is_another_bill(
    connection: Any, tmp_path: Path
) -> None:
    path = tmp_path / "october.xlsx"
    book = xlsxwriter.Workbook(path)
    for name, id in (("draft", "a"), ("final", "b")):
        page = book.add_worksheet(name)
        page.write_row(0, 0, HEAD[:3])
        page.write_row(1, 0, [id, 13800138000, 1])
    book.close()
    done = []
    for name in ("draft", "final", "final"):
        done.append(
            await statements.import_file(
                connection,
                SETTINGS.accounts["api"],
                OCTOBER,
                path,
                file_name="october.xlsx",
                format_name="generic",
                layout=statements.format_layout(SETTINGS, "generic", sheet=name),
                now=NOW,
            )
        )
    assert [one.version for one in done] == [1, 2, 2]
    assert [one.duplicate_of for one in done] == [None, None, done[1].id]
    assert [row[1] for row in await lines(connection, done[1].id)] == ["b"]


async def test_no_character_of_a_cell_is_taken_for_copys_own(
    connection: Any, tmp_path: Path
) -> None:
    ids = ["a\\b", "a\\\\N", "\\.", "\\N", "x\ty", "x\ny", "x\r\ny", '="z"', "任务-7", "é😀"]
    text = io.StringIO()
    written = csv.writer(text)
    written.writerow(HEAD)
    for id in ids:
        written.writerow([id, "13800138000", "1", "0.035", "2026-10-05 09:30:00", id])
    done = await imported(connection, text.getvalue(), tmp_path)
    kept = await connection.fetch(
        "SELECT vendor_message_id AS id, status FROM lines WHERE statement_id = $1 ORDER BY line",
        done.id,
    )
    plain = ["z" if id == '="z"' else id for id in ids]
    assert [(row["id"], row["status"]) for row in kept] == [(id, id) for id in plain]


async def test_a_row_may_end_before_its_last_columns(connection: Any, tmp_path: Path) -> None:
    done = await imported(
        connection, "任务ID,计费条数,手机号,金额,状态\r\n7,2\r\n8,1,13800138000\r\n", tmp_path
    )
    found = await connection.fetch(
        "SELECT vendor_message_id AS id, segments, phone, amount FROM lines WHERE statement_id = $1"
        " ORDER BY line",
        done.id,
    )
    assert [tuple(row) for row in found] == [("7", 2, None, None), ("8", 1, "13800138000", None)]
