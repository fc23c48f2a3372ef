"""Tables as spreadsheets and consoles really write them, each row with its line in the file."""

import csv
import io
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import xlsxwriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.tables import Columns, Complaint, FileError, Layout, Row, opened

HEAD = ["任务ID", "手机号", "条数"]


ANY = Layout(known={}, required=())  # whose headings are the first row, whatever it says


def rows(path: Path, name: str, layout: Layout = ANY) -> list[Row]:
    """Every row of a file, the headings first."""
    with opened(path, name, layout) as table:
        return [table.columns.header, *table.rows()]


def read(folder: Path, data: bytes, layout: Layout = ANY) -> list[Row]:
    path = folder / "bill"
    path.write_bytes(data)
    return rows(path, "bill.csv", layout)


def workbook(
    folder: Path, table: list[list[Any]], *, at: tuple[int, int] = (0, 0), sheets: int = 1
) -> Path:
    """An XLSX whose first sheet holds `table`, its first cell at `at`."""
    path = folder / "bill.xlsx"
    book = xlsxwriter.Workbook(path)
    dated = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
    sheet = book.add_worksheet()
    for _ in range(sheets - 1):
        book.add_worksheet()
    for line, cells in enumerate(table, start=at[0]):
        for column, cell in enumerate(cells, start=at[1]):
            if isinstance(cell, date):
                sheet.write_datetime(line, column, cell, dated)
            else:
                sheet.write(line, column, cell)
    book.close()
    return path


def altered(path: Path, old: bytes, new: bytes) -> Path:
    """The workbook with something in its first sheet replaced."""
    other = path.with_suffix(".altered.xlsx")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for part in source.namelist():
            data = source.read(part)
            if part == "xl/worksheets/sheet1.xml":
                assert old in data
                data = data.replace(old, new)
            target.writestr(part, data)
    return other


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "gbk", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_encoding_with_every_delimiter(
    tmp_path: Path, encoding: str, delimiter: str, newline: str
) -> None:
    table = [HEAD, ["a1", "13800138000", "1"], ["a2", "", "2"], ["a3，", "名：“x”", "3"]]
    text = newline.join(delimiter.join(cells) for cells in table) + newline
    found = read(tmp_path, text.encode(encoding))
    assert found == [Row(number, cells) for number, cells in enumerate(table, start=1)]


def test_lines_are_counted_as_editors_count_them(tmp_path: Path) -> None:
    found = read(tmp_path, b'\n\nid,text\n\n1,"two\nlines"\n,,\n2,"a ""b"" c"\n')
    assert found == [
        Row(3, ["id", "text"]),
        Row(5, ["1", "two\nlines"]),
        Row(8, ["2", 'a "b" c']),
    ]


def test_empty_lines_before_the_headings_do_not_hide_the_delimiter(tmp_path: Path) -> None:
    assert read(tmp_path, b"\n  \nid\tphone\n1\t2\n")[0].cells == ["id", "phone"]
    with pytest.raises(FileError, match=r"bill\.csv: the file is empty"):
        read(tmp_path, b"\n\n\n")


def test_cells_are_stripped_and_last_line_needs_no_end(tmp_path: Path) -> None:
    assert read(tmp_path, "id , n\n 1\t,\u30002\u3000".encode()) == [
        Row(1, ["id", "n"]),
        Row(2, ["1", "2"]),
    ]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "bill.csv: the file is empty"),
        (b"id,n\n\xff\xff,1\n", "neither UTF-8, UTF-16 nor GB18030"),
        (b"id,n\n1\x00,1\n", "NUL"),
        (b'id,n\n1,2\n"1,2\n3,4\n', "bill.csv: line 3: is not CSV"),
        (b'id,n\n1,"2"x\n', "bill.csv: line 2: is not CSV"),
        (b"id,n\n1," + b"x" * 100_001 + b"\n", "bill.csv: line 2: is not CSV"),
        (b"id,n\n1" + b"," * 4_000_000, "line 2: is not CSV: a row of more than 4,000,000 char"),
        (b"id,n\n" + b'"a\n",' * 1_000_000, "line 2: is not CSV: a row of more than 4,000,000"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 600, "nor XLSX"),
        (b"PK\x03\x04 and no more", "not an XLSX workbook"),
        (b"\xff\xfei\x00d\x00", None),
        (b"\xff\xfei", "neither UTF-8, UTF-16 nor GB18030"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(
    tmp_path: Path, data: bytes, complaint: str | None
) -> None:
    if complaint is None:
        assert read(tmp_path, data) == [Row(1, ["id"])]
        return
    with pytest.raises(FileError) as caught:
        read(tmp_path, data)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(FileError, match="cannot be read"):
            (rows(path, path.name))


def test_workbook_gives_its_only_sheet_with_anything_in_it_and_its_own_line_numbers(
    tmp_path: Path,
) -> None:
    table = [HEAD, ["a1", 13800138000, 1], [], ["a2", None, 2.0]]
    found = rows(workbook(tmp_path, table, sheets=2), "bill.xlsx")
    assert found == [
        Row(1, HEAD),
        Row(2, ["a1", "13800138000", "1"]),
        Row(4, ["a2", "", "2"]),
    ]
    moved = rows(workbook(tmp_path, table, at=(4, 2)), "bill.xlsx")
    assert [row.line for row in moved] == [5, 6, 8]
    assert [[cell for cell in row.cells if cell] for row in moved][1] == ["a1", "13800138000", "1"]


def test_cells_read_as_a_person_sees_them(tmp_path: Path) -> None:
    cells = [
        (1, "1"),
        (-0.5, "-0.5"),
        (0.035, "0.035"),
        (1e-7, "0.0000001"),
        (123456.789, "123456.789"),
        (999999999999999, "999999999999999"),
        (datetime(2026, 10, 5, 9, 30), "2026-10-05 09:30:00"),  # noqa: DTZ001
        ("001", "001"),
        ("=1+1", "=1+1"),
    ]
    path = workbook(tmp_path, [[cell] for cell, _ in cells[:-1]])
    assert [row.cells[0] for row in rows(path, "x")] == [text for _, text in cells[:-1]]


def test_numbers_that_computing_left_noise_on_are_read_to_fifteen_digits(tmp_path: Path) -> None:
    # Excel stores 3 * 0.035 so; on the screen it is 0.105.
    path = altered(workbook(tmp_path, [[7.5]]), b"<v>7.5</v>", b"<v>0.10500000000000001</v>")
    assert [row.cells for row in rows(path, "x")] == [["0.105"]]


def test_number_longer_than_a_spreadsheet_keeps_shows_that_it_is_rounded(tmp_path: Path) -> None:
    path = workbook(tmp_path, [[1234567890123456], [1e21]])
    assert [row.cells[0] for row in rows(path, "x")] == ["1.234568e+15", "1.000000e+21"]


def test_stray_cell_far_out_costs_nothing(tmp_path: Path) -> None:
    path = altered(workbook(tmp_path, [["id"], [1], [2]]), b'r="A3"', b'r="XFD1048576"')
    found = rows(path, "far.xlsx")
    assert [len(row.cells) for row in found] == [1, 1, 16_384]
    for far, complaint in ((b"XFE3", "has more than 16,384 columns"), (b"ZZZZZZ3", "that can be")):
        with pytest.raises(FileError, match=complaint):
            rows(altered(workbook(tmp_path, [["id"], [1], [2]]), b'"A3"', b'"%b"' % far), "x")


def test_cells_without_a_value_do_not_count(tmp_path: Path) -> None:
    path = workbook(tmp_path, [["id"], [1]])
    styled = altered(
        path,
        b"</sheetData>",
        b'<row r="1048576"><c r="XFD1048576" s="1"/></row></sheetData>',
    )
    assert [row.cells for row in rows(styled, "x")] == [["id"], ["1"]]


def test_damaged_workbooks_are_refused_and_never_more(tmp_path: Path) -> None:
    data = workbook(tmp_path, [["id", "n"]] + [[f"a{n}", n] for n in range(20)]).read_bytes()
    refused = 0
    for place in range(0, len(data), 37):
        broken = bytearray(data)
        broken[place : place + 3] = b"\x00\xff\x7f"
        try:
            read(tmp_path, bytes(broken[: len(data) - place % 5 * 100]))
        except FileError:
            refused += 1
    assert refused > 50


def columns(*header: str) -> Columns:
    known = {"id": ("id", "任务ID"), "amount": ("金额(元)", "fee")}
    return Columns("bill.csv", Row(3, list(header)), Layout(known=known, required=("id",)))


def test_headings_are_found_without_case_blanks_and_underscores() -> None:
    found = columns("x", " 任务id", "金 额(元)")
    row = Row(4, ["0", "a1", "0.5"])
    assert (found.get(row, "id"), found.get(row, "amount")) == ("a1", "0.5")
    assert columns("I_D").get(Row(4, ["a"]), "id") == "a"


def test_missing_and_short_cells_are_empty() -> None:
    found = columns("id", "x", "fee")
    assert found.get(Row(4, ["a"]), "amount") == ""
    assert columns("id").get(Row(4, ["a"]), "amount") == ""


def test_missing_and_doubled_columns_are_named() -> None:
    with pytest.raises(
        FileError, match=r"bill.csv: line 3: no column of id; it is headed id, 任务ID"
    ):
        columns("x", "金额(元)")
    with pytest.raises(
        FileError, match=r"line 3, column 任务ID: is a second column of id, beside id"
    ):
        columns("id", "任务ID")


def test_complaint_about_a_cell_names_file_line_and_column() -> None:
    error = columns("任务ID").error(Row(9, ["x"]), "id", "is wrong")
    assert str(error) == "bill.csv: line 9, column 任务ID: is wrong"
    assert error.line == 9


BILL = Layout(
    known={
        "id": ("任务ID",),
        "segments": ("计费条数", "条数"),
        "sent_at": ("发送时间", "提交时间"),
    },
    required=("id", "segments"),
    either=("sent_at",),
)


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_titles_above_the_headings_are_passed_over_and_hide_no_delimiter(
    tmp_path: Path, delimiter: str
) -> None:
    table = [
        ["某某公司短信账单"],
        ["统计时间：2026-10-01, 2026-10-31; 单位：元"],
        [],
        ["任务ID", "手机号", "条数", "金额"],
        ["a1", "13800138000", "1", '"1,234.50"' if delimiter == "," else "1,234.50"],
    ]
    data = "\n".join(delimiter.join(cells) for cells in table)
    if delimiter in ",;":
        data = data.replace(table[1][0], f'"{table[1][0]}"')
    assert read(tmp_path, data.encode("gb18030"), BILL) == [
        Row(4, table[3]),
        Row(5, ["a1", "13800138000", "1", "1,234.50"]),
    ]


def test_titles_above_the_headings_of_a_workbook_are_passed_over(tmp_path: Path) -> None:
    table = [["账单"], [], ["", "任务ID", "条数"], ["x", "a1", 1]]
    assert rows(workbook(tmp_path, table), "x", BILL) == [
        Row(3, ["", "任务ID", "条数"]),
        Row(4, ["x", "a1", "1"]),
    ]


def test_headings_are_looked_for_in_the_first_rows_only(tmp_path: Path) -> None:
    far = "\n".join(["x"] * 30 + ["任务ID,条数", "a,1"])
    with pytest.raises(FileError, match="line 1: no column of id; it is headed 任务ID"):
        read(tmp_path, far.encode(), BILL)
    near = "\n".join(["x"] * 29 + ["任务ID,条数", "a,1"])
    assert read(tmp_path, near.encode(), BILL)[1] == Row(31, ["a", "1"])


def test_complaint_about_headings_is_about_the_likeliest_row(tmp_path: Path) -> None:
    data = "账单\n单位：元\n任务ID,号码,数量\na,1,2\n"
    with pytest.raises(FileError, match="line 3: no column of segments; it is headed 计费条数, 条"):
        read(tmp_path, data.encode(), BILL)


def test_of_two_columns_of_evidence_the_likelier_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bill.csv"
    path.write_text("提交时间,任务ID,发送时间,条数\n1,a,2,3\n", "utf-8")
    with opened(path, "bill.csv", BILL) as table:
        (row,) = table.rows()
        assert table.columns.get(row, "sent_at") == "2"
    path.write_text("任务ID,条数,计费条数\na,2,3\n", "utf-8")
    with pytest.raises(FileError, match="column 计费条数: is a second column of segments"):
        rows(path, "bill.csv", BILL)


def test_headings_in_full_width_and_with_unseen_characters_are_found(tmp_path: Path) -> None:
    data = "\ufeff\ufeff任务ＩＤ\u200b,条\u3000数\na,1\n".encode()
    assert read(tmp_path, data, BILL)[1] == Row(2, ["a", "1"])


def test_cells_written_so_that_no_spreadsheet_computes_them(tmp_path: Path) -> None:
    data = '任务ID,条数\n="1234567890123456",1\n"=""007""","2"\n13800138000\t,="3"\n'
    assert [row.cells for row in read(tmp_path, data.encode(), BILL)[1:]] == [
        ["1234567890123456", "1"],
        ["007", "2"],
        ["13800138000", "3"],
    ]


def sheets(folder: Path, **tables: list[list[Any]]) -> Path:
    path = folder / "book.xlsx"
    book = xlsxwriter.Workbook(path)
    for name, table in tables.items():
        sheet = book.add_worksheet(name.removeprefix("_"))
        for line, cells in enumerate(table):
            sheet.write_row(line, 0, cells)
        if name.startswith("_"):
            sheet.hide()
    book.close()
    return path


def test_one_sheet_with_anything_in_it_is_read_and_of_several_one_must_be_named(
    tmp_path: Path,
) -> None:
    table = [["任务ID", "条数"], ["a", 1]]
    one = sheets(tmp_path, Sheet1=[], 明细=table, _codes=[["x"]], Sheet3=[[""]])
    with opened(one, "book.xlsx", BILL) as found:
        assert found.sheet == "明细"
        assert list(found.rows()) == [Row(2, ["a", "1"])]
    two = sheets(tmp_path, 上半月=table, 空=[], 下半月=[["任务ID", "条数"], ["b", 2]])
    with pytest.raises(FileError) as caught:
        rows(two, "book.xlsx", BILL)
    assert str(caught.value) == (
        "book.xlsx: has several sheets with something in them: 上半月, 下半月; name one with --sheet"
    )
    named = msgspec.structs.replace(BILL, sheet="下半月")
    assert rows(two, "book.xlsx", named)[1] == Row(2, ["b", "2"])
    other = msgspec.structs.replace(BILL, sheet="十月")
    with pytest.raises(FileError, match="no sheet '十月'; there are 上半月, 空, 下半月"):
        rows(two, "book.xlsx", other)
    with pytest.raises(FileError, match="the file is empty"):
        rows(two, "book.xlsx", msgspec.structs.replace(BILL, sheet="空"))
    hidden = sheets(tmp_path, Sheet1=[], _明细=table)
    assert rows(hidden, "book.xlsx", msgspec.structs.replace(BILL, sheet="明细"))[1].cells == [
        *("a", "1")
    ]


def test_declared_encoding_and_delimiter_are_the_only_ones(tmp_path: Path) -> None:
    known = {"id": ("任務ID",), "segments": ("條數,備註",)}
    layout = msgspec.structs.replace(BILL, known=known, encoding="big5", delimiter="|")
    text = "任務ID|條數,備註\na|1\n"
    assert read(tmp_path, text.encode("big5"), layout)[1] == Row(2, ["a", "1"])
    with pytest.raises(FileError, match="is not big5 text, as its format declares"):
        read(tmp_path, b"\xff\xff", layout)
    utf8 = msgspec.structs.replace(layout, encoding="utf-8")
    assert read(tmp_path, text.encode("utf-8-sig"), utf8)[1] == Row(2, ["a", "1"])


def test_old_workbooks_and_those_with_a_password_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"an old \.xls, or has a password: save it as XLSX"):
        read(tmp_path, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 600)


CELLS = st.text("aZ09,;|\"' \n任务条数￥é", max_size=8).map(str.strip)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lines=st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), max_size=8),
    titles=st.lists(st.sampled_from(["账单", "单位，元", "2026-10"]), max_size=3),
)
def test_every_container_encoding_and_delimiter_gives_the_same_rows(
    tmp_path: Path, lines: list[tuple[str, ...]], titles: list[str]
) -> None:
    head = ["任务ID", "手机号", "条数", "备注"]
    table = [*([title] for title in titles), head, *map(list, lines)]
    wanted = [
        # A spreadsheet has no cell at all where nothing is.
        ["\n".join(cell.splitlines()).strip() for cell in cells]
        for cells in [head, *map(list, lines)]
        if any(cells)
    ]
    for encoding in ("utf-8", "utf-8-sig", "gb18030", "utf-16"):
        for delimiter in ",\t;|":
            text = io.StringIO()
            csv.writer(text, delimiter=delimiter).writerows(table)
            found = read(tmp_path, text.getvalue().encode(encoding), BILL)
            assert [row.cells for row in found] == wanted, (encoding, delimiter)
    found = rows(workbook(tmp_path, table), "x", BILL)
    assert [row.cells + [""] * (4 - len(row.cells)) for row in found] == wanted
    assert [row.line for row in found] == [
        line for line, cells in enumerate(table, start=1) if line > len(titles) and any(cells)
    ]


def test_many_complaints_make_one_line() -> None:
    lines = [
        Complaint(2, "金额", "is bad"),
        Complaint(3, None, "is bad"),
        Complaint(None, None, "x"),
    ]
    assert str(FileError.of("f", lines)) == "f: line 2, column 金额: is bad; and 2 more, in lines 3"
    assert str(FileError.of("f", lines[::2])) == "f: line 2, column 金额: is bad; and 1 more"
    assert str(FileError.of("f", lines[:1])) == "f: line 2, column 金额: is bad"
    many = [Complaint(line, None, "is bad") for line in range(1, 31)]
    told = str(FileError.of("f", many, more=True))
    assert told.startswith("f: line 1: is bad; and at least 29 more, in lines 2, 3, ")
    assert told.endswith(", 20, 21, …")
