"""A vendor's bill imported, against COPY of the same lines."""

import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.copying import copied
from benchmarks.figures import Figure, compared
from benchmarks.ground import PERIOD, PUSHED, CannotRun, Ground, apart, prepared
from reconciler import periods, statements
from runtime import settings as settings_file
from runtime.database import Database

_LINES = 1_000_000
_QUICK_LINES = 20_000
_ROUNDS = 2
_SECONDS = {"CSV": 30, "XLSX": 90}
_MIB = 256
_HEADINGS = "任务ID,手机号,计费条数,金额(元),发送时间,状态\r\n"
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PARTS = {
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}"><Relationship Id="rId1"'
    f' Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
    '<sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
    f'<Relationship Id="rId2" Type="{_OFFICE}/sharedStrings" Target="sharedStrings.xml"/>'
    "</Relationships>",
}


async def run(parent: Path, *, quick: bool) -> list[Figure]:
    """Measure import and COPY alternately, each into an empty table; CSV, then XLSX."""
    async with prepared(parent, "import") as ground:
        return [
            await _measured(ground, "CSV", _write_csv, quick=quick),
            await _measured(ground, "XLSX", _write_xlsx, quick=quick),
        ]


async def _measured(
    ground: Ground, kind: str, write: Callable[[Path, int], None], *, quick: bool
) -> Figure:
    lines = _QUICK_LINES if quick else _LINES
    file = ground.folder / f"statement.{kind.lower()}"
    write(file, lines)
    measured = []
    peaks = []
    for _ in range(1 if quick else _ROUNDS):
        await ground.execute("forget_statements")
        await ground.settle_down()
        ours = apart(import_file, ground.settings.file, ground.database, file)
        if ours.result != lines:
            raise CannotRun(f"{ours.result} of {lines} lines were imported")
        seconds = await copied(
            ground, "lines", rows="statement_lines", forget="forget_statements", expected=lines
        )
        measured.append((lines / ours.seconds, lines / seconds))
        peaks.append(ours.peak_bytes)
    figure = compared(
        "import" if kind == "CSV" else "import-xlsx",
        f"statement of {lines:,} lines, {kind}",
        "lines/s",
        measured,
        baseline_work="COPY of the same lines into the same table",
        at_least=0.4 if kind == "CSV" else None,
        notes={
            "MB of the file": file.stat().st_size / 1e6,
            "peak MiB of our process": max(peaks) / 2**20,
        },
    )
    bounds = f"< {_SECONDS[kind]} s, < {_MIB} MiB"
    figure.goal = f"{bounds}, {figure.goal}" if figure.goal else bounds
    in_bounds = lines / figure.value < _SECONDS[kind] and max(peaks) < _MIB * 2**20
    figure.met = None if quick else in_bounds and figure.met is not False
    return figure


async def import_file(file: Path, database: Database, statement: Path) -> tuple[float, int]:
    """Import a statement of the pushed account; return the seconds it took and its lines."""
    settings = settings_file.load(file, {})
    layout = statements.format_layout(settings, "generic")
    async with database.connection() as connection:
        started = time.perf_counter()
        done = await statements.import_file(
            connection,
            settings.accounts[PUSHED],
            periods.parse(PERIOD),
            statement,
            file_name=statement.name,
            format_name="generic",
            layout=layout,
            now=datetime.now(UTC),
        )
        return time.perf_counter() - started, done.lines


def _write_csv(file: Path, lines: int) -> None:
    with file.open("w", encoding="utf-8", newline="") as written:
        written.write(_HEADINGS)
        for id, phone, at in _lines(lines):
            written.write(f"{id},{phone},1,0.035,{at},成功\r\n")


def _write_xlsx(file: Path, lines: int) -> None:
    """Write what Excel makes of the same table: ids, phones and times are shared strings.

    By hand, because a library would hold three million strings in the memory of this process.
    """
    heads = _HEADINGS.strip().split(",")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as book:
        for part, text in _PARTS.items():
            book.writestr(part, text)
        with book.open("xl/sharedStrings.xml", "w", force_zip64=True) as part:
            part.write(f'<sst xmlns="{_MAIN}">'.encode())
            part.write("".join(f"<si><t>{text}</t></si>" for text in [*heads, "成功"]).encode())
            for texts in _lines(lines):
                part.write("".join(f"<si><t>{text}</t></si>" for text in texts).encode())
            part.write(b"</sst>")
        with book.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as part:
            part.write(f'<worksheet xmlns="{_MAIN}"><sheetData><row r="1">'.encode())
            for column in range(6):
                part.write(f'<c r="{"ABCDEF"[column]}1" t="s"><v>{column}</v></c>'.encode())
            part.write(b"</row>")
            for row in range(2, lines + 2):
                text = 7 + 3 * (row - 2)
                part.write(
                    f'<row r="{row}" spans="1:6"><c r="A{row}" t="s"><v>{text}</v></c>'
                    f'<c r="B{row}" t="s"><v>{text + 1}</v></c><c r="C{row}"><v>1</v></c>'
                    f'<c r="D{row}"><v>3.5000000000000003E-2</v></c>'
                    f'<c r="E{row}" t="s"><v>{text + 2}</v></c>'
                    f'<c r="F{row}" t="s"><v>6</v></c></row>'.encode()
                )
            part.write(b"</sheetData></worksheet>")


def _lines(lines: int) -> Iterator[tuple[str, str, str]]:
    """Yield id, phone and time of each line."""
    first = datetime(2026, 1, 1)  # noqa: DTZ001  consoles export local times
    step = timedelta(days=29) / lines
    for number in range(lines):
        at = first + number * step
        yield str(10**12 + number), str(13_800_000_000 + number % 10**8), f"{at:%Y-%m-%d %H:%M:%S}"
