"""Tables as spreadsheets and consoles really write them, each row with its line in the file."""

import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter

from reconciler import tables
from reconciler.tables import Columns, FileError, Row, rows

HEAD = ["任务ID", "手机号", "条数"]


def read(folder: Path, data: bytes) -> list[Row]:
    path = folder / "bill"
    path.write_bytes(data)
    return list(rows(path, "bill.csv"))


def workbook(
    folder: Path, table: list[list[Any]], *, at: tuple[int, int] = (0, 0), sheets: int = 1
) -> Path:
    """An XLSX whose first sheet holds `table`, its first cell at `at`."""
    path = folder / "bill.xlsx"
    book = xlsxwriter.Workbook(path)
    dated = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
    sheet = book.add_worksheet()
    for _ in range(sheets - 1):
        book.add_worksheet().write(0, 0, "not this one")
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
    assert read(tmp_path, b"\n\n\n") == []


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
            list(rows(path, path.name))


def test_workbook_gives_its_first_sheet_with_its_own_line_numbers(tmp_path: Path) -> None:
    table = [HEAD, ["a1", 13800138000, 1], [], ["a2", None, 2.0]]
    found = list(rows(workbook(tmp_path, table, sheets=2), "bill.xlsx"))
    assert found == [
        Row(1, HEAD),
        Row(2, ["a1", "13800138000", "1"]),
        Row(4, ["a2", "", "2"]),
    ]
    moved = list(rows(workbook(tmp_path, table, at=(4, 2)), "bill.xlsx"))
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


def test_workbook_with_a_stray_cell_far_out_is_refused_before_it_is_read(tmp_path: Path) -> None:
    # The reader would take memory for every cell between, and end the process for want of it.
    path = workbook(tmp_path, [["id"], [1], [2]])
    for far in (b'r="XFD1048576"', b"r='XFD1048576'"):
        with pytest.raises(FileError, match="spans more than 6,000,000 cells"):
            list(rows(altered(path, b'r="A3"', far).rename(tmp_path / "far.xlsx"), "far.xlsx"))


def test_cells_without_a_value_do_not_count(tmp_path: Path) -> None:
    path = workbook(tmp_path, [["id"], [1]])
    styled = altered(
        path,
        b"</sheetData>",
        b'<row r="1048576"><c r="XFD1048576" s="1"/></row></sheetData>',
    )
    assert [row.cells for row in rows(styled, "x")] == [["id"], ["1"]]


def test_large_workbook_is_refused_for_its_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workbook(tmp_path, [["a", "b"]] * 10)
    monkeypatch.setattr(tables, "MAX_XLSX_CELLS", 20)
    assert len(list(rows(path, "x"))) == 10
    monkeypatch.setattr(tables, "MAX_XLSX_CELLS", 19)
    with pytest.raises(FileError, match="save it as CSV"):
        list(rows(path, "x"))
    monkeypatch.setattr(tables, "MAX_XLSX_CELLS", 20)
    monkeypatch.setattr(tables, "MAX_XLSX_BYTES", 100)
    with pytest.raises(FileError, match="save it as CSV"):
        list(rows(path, "x"))


def test_cells_across_pieces_of_the_file_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workbook(tmp_path, [["a", "b", 1]] * 200)
    for size in (7, 100, 1000):
        monkeypatch.setattr(tables, "CHUNK_BYTES", size)
        with zipfile.ZipFile(path) as book:
            assert tables._cells(book) == 600


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
    return Columns("bill.csv", Row(3, list(header)), known, ("id",))


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
