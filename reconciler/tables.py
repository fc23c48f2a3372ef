"""Reading tables out of files as spreadsheets and consoles really make them: CSV and XLSX.

Rows come out one at a time with their line in the file, so that every complaint can name it.
"""

import codecs
import csv
import re
import zipfile
import zlib
from collections.abc import Generator, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import python_calamine

from runtime import Problem

CHUNK_BYTES = 1 << 20
MAX_FIELD_CHARACTERS = 100_000
# The most cells that are read into memory from a spreadsheet, about 300 MB.
MAX_XLSX_CELLS = 6_000_000
MAX_XLSX_BYTES = 1 << 30
_TIME = re.compile(
    r"(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})日?(?:[ T]+(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.\d+)?)?)?"
    r"(Z|[+-]\d{2}:?\d{2})?"
)
_CELL = re.compile(rb"<(?:[\w.-]+:)?(?:(row)|c)(?=[\s/>])([^>]*)>")
_PLACE = re.compile(rb"""\br=["']([A-Z]{0,3})(\d{1,7})["']""")
_DELIMITERS = (",", "\t", ";")


class FileError(Problem):
    """A file that cannot be read as a table; the text names file, line and column."""

    def __init__(
        self, file: str, reason: str, *, line: int | None = None, column: str | None = None
    ):
        place = file
        if line is not None:
            place += f": line {line}"
        if column is not None:
            place += f", column {column}"
        super().__init__(f"{place}: {reason}")
        self.line = line


class Row(NamedTuple):
    """One row: its line in the file (from 1) and its cells as text, stripped."""

    line: int
    cells: list[str]


def rows(path: Path, name: str) -> Generator[Row, None, None]:
    """Yield the rows of the file at `path`, empty ones left out; `name` is what to call it.

    CSV is UTF-8 (with or without BOM), UTF-16 with BOM, or GB18030, parted by comma, tab or
    semicolon, whichever its first line has most of; of an XLSX the first sheet is read. Raises
    `FileError`.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise FileError(name, f"cannot be read: {error.strerror}") from None
    if not start:
        raise FileError(name, "the file is empty")
    reader = _xlsx_rows if start == b"PK\x03\x04" else _csv_rows
    for line, cells in reader(path, name):
        stripped = [cell.strip() for cell in cells]
        if any(stripped):
            yield Row(line, stripped)


def _csv_rows(path: Path, name: str) -> Iterator[tuple[int, list[str]]]:
    encoding = _encoding(path, name)
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    with path.open(encoding=encoding, newline="") as file:
        first = "\n"
        while first.isspace():
            first = file.readline(MAX_FIELD_CHARACTERS)
        file.seek(0)
        delimiter = max(_DELIMITERS, key=first.count)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        line = 1
        try:
            for cells in reader:
                yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise FileError(name, f"is not CSV: {error}", line=line) from None


def _encoding(path: Path, name: str) -> str:
    """Return the first encoding that the whole file is valid in."""
    with path.open("rb") as file:
        start = file.read(3)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        candidates = ["utf-16"]
    else:
        candidates = ["utf-8-sig", "gb18030"]
    for encoding in candidates:
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    if "\0" in decoder.decode(chunk):
                        raise FileError(name, "is neither CSV nor XLSX: it has NUL characters")
                decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            continue
        return encoding
    raise FileError(name, "is neither UTF-8, UTF-16 nor GB18030 text, nor XLSX")


def _xlsx_rows(path: Path, name: str) -> Iterator[tuple[int, list[str]]]:
    try:
        with zipfile.ZipFile(path) as book:
            # Before it is read: the reader takes memory for the whole rectangle between the first cell
            # and the last, and a stray cell in the last corner would end this process.
            if _cells(book) > MAX_XLSX_CELLS or _bytes(book) > MAX_XLSX_BYTES:
                raise FileError(name, f"spans more than {MAX_XLSX_CELLS:,} cells; save it as CSV")
        sheet = python_calamine.load_workbook(path).get_sheet_by_index(0)
    except (
        python_calamine.CalamineError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        IndexError,
        NotImplementedError,
        OSError,
        RuntimeError,
        ValueError,
    ):
        raise FileError(name, "is not an XLSX workbook that can be read") from None
    for line, cells in enumerate(sheet.iter_rows(), start=1):
        yield line, [_cell_text(cell) for cell in cells]


def _bytes(book: zipfile.ZipFile) -> int:
    return sum(part.file_size for part in book.infolist())


def _cells(book: zipfile.ZipFile) -> int:
    """Return how many cells the rectangle of the largest sheet has, counting cells with a value."""
    most = 0
    for part in book.namelist():
        if not part.startswith("xl/worksheets/") or not part.endswith(".xml"):
            continue
        row = column = height = width = 0
        with book.open(part) as file:
            left = b""
            while chunk := file.read(CHUNK_BYTES):
                text = left + chunk
                end = 0
                for tag in _CELL.finditer(text):
                    end = tag.end()
                    place = _PLACE.search(tag[2])
                    if tag[1]:
                        row, column = int(place[2]) if place else row + 1, 0
                        continue
                    row, column = (int(place[2]), _column(place[1])) if place else (row, column + 1)
                    if not tag[2].endswith(b"/"):
                        height, width = max(height, row), max(width, column)
                left = text[max(end, len(text) - 1000) :]
        most = max(most, height * width)
    return most


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number


def _cell_text(cell: object) -> str:
    """Return a cell as a person sees it: numbers to 15 digits, whole ones without the .0."""
    if not isinstance(cell, float):
        return str(cell)
    if abs(cell) >= 1e15:
        # Rounded by the spreadsheet already: written so that nobody takes it for exact.
        return f"{cell:e}"
    if cell.is_integer():
        return str(int(cell))
    # 3 times 0.035 is stored as 0.10500000000000001.
    return format(Decimal(f"{cell:.15g}"), "f")


def moment(text: str, zone: ZoneInfo) -> datetime:
    """Return a cell's date or time; one without an offset is in `zone`. Raises ValueError."""
    matched = _TIME.fullmatch(text)
    if matched is None:
        raise ValueError(text)
    year, month, day, hour, minute, second = (int(group or 0) for group in matched.groups()[:6])
    at = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    if offset := matched[7]:
        at = datetime.fromisoformat(at.replace(tzinfo=None).isoformat() + offset)
    if not 2000 <= at.year <= 9000:
        raise ValueError(text)
    return at


class Columns:
    """Which column of a file holds which field, found by its headings.

    `known` maps a field to the headings that may name it, compared without case and blanks. Raises
    `FileError` for a required field without a column, and for two columns of one field.
    """

    def __init__(
        self, name: str, header: Row, known: dict[str, tuple[str, ...]], required: tuple[str, ...]
    ) -> None:
        self._name = name
        self._positions: dict[str, int] = {}
        self.headings: dict[str, str] = {}
        wanted = {
            _plain(heading): field for field, headings in known.items() for heading in headings
        }
        for position, heading in enumerate(header.cells):
            field = wanted.get(_plain(heading))
            if field is None:
                continue
            if field in self._positions:
                raise FileError(
                    name,
                    f"is a second column of {field}, beside {self.headings[field]}",
                    line=header.line,
                    column=heading,
                )
            self._positions[field] = position
            self.headings[field] = heading
        for field in required:
            if field not in self._positions:
                headings = ", ".join(known.get(field, ())) or "nothing: the format declares none"
                raise FileError(
                    name, f"no column of {field}; it is headed {headings}", line=header.line
                )

    def get(self, row: Row, field: str) -> str:
        """Return the cell of `field` in `row`, empty where there is none."""
        position = self._positions.get(field)
        if position is None or position >= len(row.cells):
            return ""
        return row.cells[position]

    def error(self, row: Row, field: str, reason: str) -> FileError:
        """Make the error that names this cell."""
        return FileError(self._name, reason, line=row.line, column=self.headings.get(field, field))


def _plain(heading: str) -> str:
    return "".join(heading.split()).replace("_", "").lower()
