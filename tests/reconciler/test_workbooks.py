"""Workbooks as many programs write them, and as nobody should: streamed, and bounded."""

import random
import tracemalloc
import zipfile
from datetime import datetime
from pathlib import Path

import pytest
import xlsxwriter

from reconciler import workbooks
from reconciler.workbooks import Workbook, WorkbookError

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
STRICT = "http://purl.oclc.org/ooxml/spreadsheetml/main"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def crafted(
    folder: Path,
    rows: str,
    *,
    strings: str = "",
    styles: str = "",
    settings: str = "",
    namespace: str = MAIN,
    head: str = "",
    replaced: dict[str, str | bytes] | None = None,
) -> Path:
    """A workbook written by hand: the XML of its rows, shared strings and styles."""
    parts: dict[str, str | bytes] = {
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}"><Relationship Id="rId1"'
        f' Type="{OFFICE}/officeDocument" Target="/xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{namespace}" xmlns:r="{OFFICE}">{settings}'
        '<sheets><sheet name="one" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}">'
        f'<Relationship Id="rId1" Type="{OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="rId2" Type="{OFFICE}/sharedStrings" Target="/xl/SharedStrings.xml"/>'
        f'<Relationship Id="rId3" Type="{OFFICE}/styles" Target="styles.xml"/></Relationships>',
        "xl/sharedStrings.xml": f'<sst xmlns="{namespace}">{strings}</sst>',
        "xl/styles.xml": f'<styleSheet xmlns="{namespace}">{styles}</styleSheet>',
        "xl/worksheets/sheet1.xml": f'{head}<worksheet xmlns="{namespace}"><sheetData>{rows}'
        "</sheetData><mergeCells/></worksheet>",
    }
    path = folder / "crafted.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, text in (parts | (replaced or {})).items():
            book.writestr(name, text)
    return path


def rows(path: Path) -> list[tuple[int, list[str]]]:
    with Workbook(path) as book:
        return list(book.rows(book.sheets[0]))


def refused(path: Path) -> str:
    with pytest.raises(WorkbookError) as caught:
        rows(path)
    return str(caught.value)


def test_every_kind_of_cell(tmp_path: Path) -> None:
    strings = (
        "<si><t>plain</t></si>"
        '<si><r><rPr><b/></rPr><t>rich </t></r><r><t xml:space="preserve">text</t></r>'
        "<rPh><t>reading</t></rPh></si>"
        "<si><t>line_x000D__x005F_x</t></si><si/>"
    )
    cells = (
        '<row r="3"><c r="A3" t="s"><v>0</v></c><c r="B3" t="s"><v>1</v></c>'
        '<c r="D3" t="s"><v>2</v></c><c r="E3" t="s"><v>3</v></c>'
        '<c r="F3" t="inlineStr"><is><t>in</t></is></c>'
        '<c r="G3" t="inlineStr"><is><r><t>li</t></r><r><t>ne</t></r></is></c>'
        '<c r="H3" t="b"><v>1</v></c><c r="I3" t="e"><v>#N/A</v></c>'
        '<c r="J3" t="str"><f>A3&amp;"x"</f><v>plainx</v></c><c r="K3"><f>1+1</f><v>2</v></c>'
        '<c r="L3" t="d"><v>2026-10-05T09:30:00</v></c><c r="M3" s="1"/><c r="N3" t="n"><v>4</v></c>'
        "</row>"
    )
    (found,) = rows(crafted(tmp_path, cells, strings=strings))
    assert found == (
        3,
        [
            *("plain", "rich text", "", "line\r_x", "", "in", "line", "TRUE", "#N/A", "plainx"),
            *("2", "2026-10-05T09:30:00", "", "4"),
        ],
    )


@pytest.mark.parametrize("namespace", [MAIN, STRICT])
def test_places_may_be_left_out_and_prefixes_be_used(tmp_path: Path, namespace: str) -> None:
    plain = "<row><c><v>1</v></c><c/><c><v>2</v></c></row><row r='7'><c><v>3</v></c></row><row/>"
    found = rows(crafted(tmp_path, plain + "<row><c><v>4</v></c></row>", namespace=namespace))
    assert found == [(1, ["1", "2"]), (7, ["3"]), (9, ["4"])]
    spelt = (
        f'<x:worksheet xmlns:x="{namespace}"><x:sheetData><x:row r="2"><x:c r="B2"><x:v>1</x:v>'
        "</x:c></x:row></x:sheetData></x:worksheet>"
    )
    path = crafted(tmp_path, "", namespace=namespace, replaced={"xl/worksheets/sheet1.xml": spelt})
    assert rows(path) == [(2, ["", "1"])]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("3", "3"),
        ("3.0", "3"),
        ("1.3800138E10", "13800138000"),
        ("0.1", "0.1"),
        ("0.10000000000000001", "0.1"),
        ("0.10500000000000001", "0.105"),
        ("3.5000000000000003E-2", "0.035"),
        ("-1.50", "-1.5"),
        ("123456789012345", "123456789012345"),
        ("1234567890123456", "1.234568e+15"),
        ("1.2345678901234501E+15", "1.234568e+15"),
        ("1E21", "1.000000e+21"),
    ],
)
def test_numbers_are_what_was_typed_or_shown_to_be_rounded(
    tmp_path: Path, raw: str, text: str
) -> None:
    assert rows(crafted(tmp_path, f"<row><c><v>{raw}</v></c></row>")) == [(1, [text])]


FORMATS = [
    ("General", "46300.5"),
    ("0.00", "46300.5"),
    ("0.00E+00", "46300.5"),
    ("[Red]0.00", "46300.5"),
    ('#,##0.00"元/day"', "46300.5"),
    ("[$¥-804]#,##0.00", "46300.5"),
    ("_-* #,##0_-;\\d", "46300.5"),
    ("yyyy-mm-dd", "2026-10-05 12:00:00"),
    ('yyyy"年"m"月"d"日"', "2026-10-05 12:00:00"),
    ("[$-804]aaaa;d", "46300.5"),
    ("[$-F400]h:mm:ss", "2026-10-05 12:00:00"),
    ("[h]:mm", "2026-10-05 12:00:00"),
    ("YYYY/M/D;@", "2026-10-05 12:00:00"),
]


@pytest.mark.parametrize(("code", "text"), FORMATS)
def test_number_is_a_date_where_its_format_shows_one(tmp_path: Path, code: str, text: str) -> None:
    quoted = code.replace('"', "&quot;")
    styles = (
        f'<numFmts><numFmt numFmtId="164" formatCode="{quoted}"/></numFmts>'
        '<cellXfs><xf numFmtId="0"/><xf numFmtId="164"/></cellXfs>'
    )
    cells = '<row><c s="1"><v>46300.5</v></c><c s="0"><v>46300.5</v></c></row>'
    assert rows(crafted(tmp_path, cells, styles=styles)) == [(1, [text, "46300.5"])]


def test_built_in_formats_of_dates_are_known_also_the_chinese(tmp_path: Path) -> None:
    ids = (0, 9, 14, 22, 31, 45, 49, 57)
    styles = "<cellXfs>" + "".join(f'<xf numFmtId="{id}"/>' for id in ids) + "</cellXfs>"
    cells = "".join(f'<c s="{style}"><v>46300</v></c>' for style in range(len(ids)))
    day = "2026-10-05 00:00:00"
    assert rows(crafted(tmp_path, f"<row>{cells}</row>", styles=styles)) == [
        (1, ["46300", "46300", day, day, day, day, "46300", day])
    ]


@pytest.mark.parametrize(
    ("value", "since_1904", "text"),
    [
        ("59", "0", "1900-02-28 00:00:00"),
        ("61", "0", "1900-03-01 00:00:00"),
        ("0.395833333333333", "0", "09:30:00"),
        ("46300.3958333333", "0", "2026-10-05 09:30:00"),
        ("44838.3958333333", "1", "2026-10-05 09:30:00"),
        ("-1", "0", "-1"),
        ("99999999", "0", "99999999"),
    ],
)
def test_serial_dates_of_both_calendars(
    tmp_path: Path, value: str, since_1904: str, text: str
) -> None:
    path = crafted(
        tmp_path,
        f'<row><c s="0"><v>{value}</v></c></row>',
        styles='<cellXfs><xf numFmtId="22"/></cellXfs>',
        settings=f'<workbookPr date1904="{since_1904}"/>',
    )
    assert rows(path) == [(1, [text])]


def test_sheets_are_named_in_their_order_and_charts_are_none(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    book = xlsxwriter.Workbook(path)
    book.add_worksheet("明细").write(0, 0, "x")
    book.add_chartsheet("图")
    book.add_worksheet("汇总").hide()
    book.close()
    with Workbook(path) as opened:
        assert [(sheet.name, sheet.hidden) for sheet in opened.sheets] == [
            ("明细", False),
            ("汇总", True),
        ]
        assert list(opened.rows(opened.sheets[0])) == [(1, ["x"])]
        assert opened.share == 1.0


def test_texts_are_found_in_any_order_whatever_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "book.xlsx"
    book = xlsxwriter.Workbook(path)
    sheet = book.add_worksheet()
    texts = [f"text {number} 文" for number in range(1000)]
    order = random.Random(7).sample(range(1000), 1000)
    for number in range(1000):
        sheet.write(number, 0, texts[number])
        sheet.write(number, 1, texts[order[number]])
    book.close()
    for held in (1 << 24, 10_000, 0):
        monkeypatch.setattr(workbooks, "_HELD_BYTES", held)
        for size in (1 << 18, 777):
            monkeypatch.setattr(workbooks, "CHUNK_BYTES", size)
            assert [cells for _, cells in rows(path)] == [
                [texts[number], texts[order[number]]] for number in range(1000)
            ]


def test_memory_does_not_grow_with_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbooks, "_HELD_BYTES", 1 << 18)
    peaks = []
    for count in (2_000, 20_000):
        strings = "".join(f"<si><t>{number:040}</t></si>" for number in range(count))
        cells = "".join(
            f'<row><c t="s"><v>{number}</v></c><c t="inlineStr"><is><t>{number:040}</t></is></c></row>'
            for number in range(count)
        )
        path = crafted(tmp_path, cells, strings=strings)
        del strings, cells
        tracemalloc.start()
        with Workbook(path) as book:
            assert sum(1 for _ in book.rows(book.sheets[0])) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


HOSTILE = [
    '<!DOCTYPE worksheet [<!ENTITY a "b">]>',
    '<!DOCTYPE worksheet SYSTEM "file:///etc/passwd">',
    "<!DOCTYPE worksheet>",
]


@pytest.mark.parametrize("head", HOSTILE)
def test_declared_entities_are_refused_in_every_part(tmp_path: Path, head: str) -> None:
    row = "<row><c><v>1</v></c></row>"
    told = refused(crafted(tmp_path, row, head=head))
    assert told == "declares a document type or entities, as no spreadsheet does"
    for part in ("xl/sharedStrings.xml", "xl/workbook.xml", "_rels/.rels", "xl/styles.xml"):
        with zipfile.ZipFile(crafted(tmp_path, row)) as book:
            text = book.read(part).decode()
        assert "document type" in refused(crafted(tmp_path, row, replaced={part: head + text}))
    wide = f'<?xml version="1.0" encoding="UTF-16"?>{head}<worksheet/>'.encode("utf-16")
    hidden = {"xl/worksheets/sheet1.xml": b"\xff\xfe" + wide[2:]}
    assert "document type" in refused(crafted(tmp_path, row, replaced=hidden))
    late = {"xl/worksheets/sheet1.xml": f"<!--{' ' * 1_000_000}-->{head}<worksheet/>"}
    assert "document type" in refused(crafted(tmp_path, row, replaced=late))


def test_element_without_an_end_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    endless = "<row>" + '<c r="A1"/>' * 3_000_000
    path = crafted(tmp_path, endless + "</row>")
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    try:
        assert refused(path) == "has a row or a text that does not come to an end"
        assert tracemalloc.get_traced_memory()[1] < 250 << 20
    finally:
        tracemalloc.stop()
    deep = {"xl/sharedStrings.xml": f'<sst xmlns="{MAIN}">' + "<si>" * 2_000_000}
    assert "does not come to an end" in refused(crafted(tmp_path, "<row/>", replaced=deep))


def test_styles_of_a_workbook_that_was_pasted_together_for_years_are_read(tmp_path: Path) -> None:
    many = '<xf numFmtId="0" fontId="0" fillId="0" borderId="0"><alignment/></xf>' * 100_000
    styles = (
        f'<fonts><font/></fonts><cellStyleXfs>{many}</cellStyleXfs><cellXfs>{many}<xf numFmtId="22"/>'
        f"</cellXfs><cellStyles>{many}</cellStyles>"
    )
    cells = '<row><c s="99999"><v>46300</v></c><c s="100000"><v>46300</v></c></row>'
    found = rows(crafted(tmp_path, cells, styles=styles))
    assert found == [(1, ["46300", "2026-10-05 00:00:00"])]


def test_bomb_is_refused_by_what_it_unpacks_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = crafted(tmp_path, "<row><c><v>1</v></c></row>" * 10_000)
    assert len(rows(path)) == 10_000
    monkeypatch.setattr(workbooks, "MAX_PART_BYTES", 100_000)
    assert refused(path).startswith("unpacks to more than")
    monkeypatch.undo()
    text = f"<si><t>{'x' * 100_001}</t></si>"
    told = refused(crafted(tmp_path, '<row><c t="s"><v>0</v></c></row>', strings=text))
    assert told == "has a cell of more than 100,000 characters"


def test_directory_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = crafted(tmp_path, "<row><c><v>1</v></c></row>")
    monkeypatch.setattr(workbooks, "MAX_DIRECTORY_BYTES", 100)
    assert refused(path) == "is not an XLSX workbook that can be read"


@pytest.mark.parametrize(
    ("cells", "strings"),
    [
        ('<c t="s"><v>0</v></c>', ""),
        ('<c t="s"><v>-1</v></c>', "<si><t>x</t></si>"),
        ('<c t="s"><v>99</v></c>', "<si><t>x</t></si>"),
        ('<c t="s"><v>x</v></c>', "<si><t>x</t></si>"),
        ("<c><v>one</v></c>", ""),
        ('</row><row r="16777217"><c><v>1</v></c>', ""),
        ('<c r="7"><v>1</v></c>', ""),
        ('<c r="É1"><v>1</v></c>', ""),
        ("<c><v>&undefined;</v></c>", ""),
        ("<c><v>1</c>", ""),
    ],
)
def test_workbook_that_contradicts_itself_is_refused(
    tmp_path: Path, cells: str, strings: str
) -> None:
    path = crafted(tmp_path, f"<row>{cells}</row>", strings=strings)
    assert refused(path) == "is not an XLSX workbook that can be read"


def test_part_that_breaks_off_or_is_not_there_is_refused(tmp_path: Path) -> None:
    for part in ("xl/worksheets/sheet1.xml", "xl/workbook.xml", "xl/styles.xml"):
        for text in ("", f'<worksheet xmlns="{MAIN}"><sheetData><row><c><v>1</v></c></row>'):
            path = crafted(tmp_path, "", replaced={part: text})
            assert refused(path) == "is not an XLSX workbook that can be read"
    path = crafted(tmp_path, "", replaced={"xl/_rels/workbook.xml.rels": "<Relationships/>"})
    assert refused(path) == "is not an XLSX workbook that can be read"


def test_dates_that_a_library_writes_come_back(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    book = xlsxwriter.Workbook(path)
    dated = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
    times = [datetime(2026, 10, day, 23, 59, 59) for day in range(1, 31)]  # noqa: DTZ001
    sheet = book.add_worksheet()
    for row, at in enumerate(times):
        sheet.write_datetime(row, 0, at, dated)
    book.close()
    assert [cells for _, cells in rows(path)] == [[str(at)] for at in times]
