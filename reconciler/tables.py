"""Reading tables out of files as spreadsheets and consoles really make them: CSV and XLSX.

Rows come out one at a time with their line in the file, so that every complaint can name it.
"""

import codecs
import csv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import python_calamine

from runtime import Problem

CHUNK_BYTES = 1 << 20
MAX_FIELD_CHARACTERS = 100_000
# The most cells that are read into memory from a spreadsheet, about 300 MB.
MAX_XLSX_CELLS = 6_000_000
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


def rows(path: Path, name: str) -> Iterator[Row]:
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
        book = python_calamine.load_workbook(path)
        sheet = book.get_sheet_by_index(0)
    except (python_calamine.CalamineError, zipfile.BadZipFile, OSError, IndexError):
        raise FileError(name, "is not an XLSX workbook that can be read") from None
    if sheet.total_height * sheet.total_width > MAX_XLSX_CELLS:
        raise FileError(name, f"has more than {MAX_XLSX_CELLS:,} cells; save it as CSV")
    first = sheet.start[0] if sheet.start else 0
    for line, cells in enumerate(sheet.iter_rows(), start=first + 1):
        yield line, [_cell_text(cell) for cell in cells]


def _cell_text(cell: object) -> str:
    """Return a cell as a person sees it: a whole number without the .0 that spreadsheets store."""
    if isinstance(cell, float):
        # Past 15 digits a spreadsheet has already rounded: written out, so that nobody takes it for exact.
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    return str(cell)


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
