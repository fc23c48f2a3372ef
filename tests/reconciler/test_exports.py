"""Lists as files that spreadsheets open whole and never compute."""

import csv
import io
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import python_calamine

from reconciler import exports
from reconciler.exports import csv_chunks, file_chunks, safe, xlsx_file

pytestmark = pytest.mark.anyio

COLUMNS = ("kind", "count", "note")


async def giving(*rows: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    for row in rows:
        yield row


def row(note: Any, count: Any = 1) -> dict[str, Any]:
    return {"kind": "billed_twice", "count": count, "note": note}


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        '=HYPERLINK("http://x")',
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "-",
        "+",
        "＝1+1",
        "＋1+1",
        "－1+1",
        "＠SUM(A1)",
        "-inf",
        "+nan",
        "+1_0",
        " =1+1",
        "\u3000=1+1",
    ],
)
async def test_no_cell_starts_a_formula(text: str) -> None:
    assert safe(text) == "'" + text
    data = b"".join([chunk async for chunk in csv_chunks(COLUMNS, giving(row(text)))])
    assert list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))[1][2] == "'" + text
    path = await xlsx_file(COLUMNS, giving(row(text)))
    sheet = python_calamine.load_workbook(path).get_sheet_by_index(0)
    assert list(sheet.iter_rows())[1][2] == "'" + text
    list(file_chunks(path))


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""),
        (True, "true"),
        (7, 7),
        (-7, -7),
        ("-0.035", "-0.035"),
        ("+86", "+86"),
        ("0.1", "0.1"),
        ("中文", "中文"),
        ("a=b", "a=b"),
        (["回", 1], '["回",1]'),
        ({"a": None}, '{"a":null}'),
    ],
)
def test_everything_else_is_shown_as_it_is(value: Any, cell: Any) -> None:
    assert safe(value) == cell


async def test_csv_has_a_mark_that_excel_needs_for_chinese() -> None:
    data = b"".join([chunk async for chunk in csv_chunks(COLUMNS, giving(row('空号, "x"\n2')))])
    assert data.startswith(b"\xef\xbb\xbf")
    assert data.count(b"\xef\xbb\xbf") == 1
    found = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert found == [list(COLUMNS), ["billed_twice", "1", '空号, "x"\n2']]


async def test_csv_of_nothing_has_its_headings() -> None:
    data = b"".join([chunk async for chunk in csv_chunks(COLUMNS, giving())])
    assert data.decode("utf-8-sig").strip() == "kind,count,note"


async def test_long_csv_comes_in_pieces() -> None:
    chunks = [
        chunk
        async for chunk in csv_chunks(COLUMNS, giving(*(row("字" * 100) for _ in range(5000))))
    ]
    assert len(chunks) > 5
    assert max(map(len, chunks)) < 400_000
    assert b"".join(chunks).count(b"billed_twice") == 5000


async def test_xlsx_keeps_chinese_and_numbers_and_is_removed_once_sent() -> None:
    path = await xlsx_file(COLUMNS, giving(row("空号", 3), row("http://x.example", 4)))
    found = list(python_calamine.load_workbook(path).get_sheet_by_index(0).iter_rows())
    assert found == [
        list(COLUMNS),
        ["billed_twice", 3.0, "空号"],
        ["billed_twice", 4.0, "http://x.example"],
    ]
    assert b"".join(file_chunks(path)).startswith(b"PK")
    assert not path.exists()


async def test_text_longer_than_a_cell_holds_is_cut_and_not_lost() -> None:
    path = await xlsx_file(COLUMNS, giving(row("字" * 40_000)))
    found = list(python_calamine.load_workbook(path).get_sheet_by_index(0).iter_rows())
    assert found[1][2] == "字" * 32_767
    list(file_chunks(path))


async def test_too_many_rows_for_a_sheet_is_said_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "XLSX_ROWS", 3)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(exports.TooLong, match="ask for csv"):
        await xlsx_file(COLUMNS, giving(*(row(str(number)) for number in range(4))))
    assert list(tmp_path.iterdir()) == []


async def test_export_that_fails_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    async def failing() -> AsyncIterator[dict[str, Any]]:
        yield row("x")
        raise OSError("the database went away")

    with pytest.raises(OSError, match="went away"):
        await xlsx_file(COLUMNS, failing())
    assert list(tmp_path.iterdir()) == []


def test_money_as_text_is_never_a_float() -> None:
    assert safe(str(Decimal("0.10"))) == "0.10"
