"""Reading tables out of files as spreadsheets and consoles really make them: CSV and XLSX.

Rows come out one at a time with their line in the file, so that every complaint can name it.
"""

import codecs
import csv
import io
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import msgspec

from reconciler.cells import plain
from reconciler.workbooks import Sheet, Workbook, WorkbookError
from runtime import Problem

CHUNK_BYTES = 1 << 20
MAX_UPLOAD_BYTES = 512 * 1024 * 1024  # of a file that comes by HTTP
MAX_FIELD_CHARACTERS = 100_000
MAX_ROW_CHARACTERS = 4_000_000
# Above the headings people write titles and for whom; below that many rows nobody looks.
HEADING_ROWS = 30
SHOWN_COMPLAINTS = 100
_SHOWN_LINES = 20
_DELIMITERS = (",", "\t", ";", "|")
# What can stand unseen at a heading's edge: a second byte order mark, spaces of no width.
_UNSEEN = str.maketrans("", "", "\ufeff\u200b\u200c\u200d\u2060")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


class Complaint(NamedTuple):
    """What is wrong in one line, and perhaps in which column; quotes no phone number."""

    line: int | None
    column: str | None
    reason: str


class FileError(Problem):
    """A file that cannot be read; the text names file, line and column of the first thing wrong.

    `complaints` are all that were found; `line` is the first one's.
    """

    def __init__(
        self, file: str, reason: str, *, line: int | None = None, column: str | None = None
    ):
        super().__init__(_spelt(file, Complaint(line, column, reason)))
        self.file = file
        self.line = line
        self.complaints = [Complaint(line, column, reason)]

    @classmethod
    def of(cls, file: str, complaints: list[Complaint], *, more: bool = False) -> "FileError":
        """Make one error of several lines' complaints; `more`: reading ended before the file did."""
        first, others = complaints[0], complaints[1:]
        error = cls(file, first.reason, line=first.line, column=first.column)
        error.complaints = complaints
        if others:
            many = f"{len(others)} more" if not more else f"at least {len(others)} more"
            if numbers := [str(each.line) for each in others if each.line is not None]:
                many += f", in lines {', '.join(numbers[:_SHOWN_LINES])}"
                many += ", …" if more or len(numbers) > _SHOWN_LINES else ""
            error.args = (f"{error}; and {many}",)
        return error


def _spelt(file: str, complaint: Complaint) -> str:
    place = file
    if complaint.line is not None:
        place += f": line {complaint.line}"
    if complaint.column is not None:
        place += f", column {complaint.column}"
    return f"{place}: {complaint.reason}"


class Row(NamedTuple):
    """One row: its line in the file (from 1) and its cells as text, stripped."""

    line: int
    cells: list[str]


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file beforehand; what is None is found out.

    `known` maps a field to the headings that may name it, the likeliest first. Of the fields
    `either` a file may have several columns: the likeliest is used.
    """

    known: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]
    either: tuple[str, ...] = ()
    sheet: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    time_format: str | None = None

    def field_of(self, heading: str) -> str | None:
        """Return the field that a column with this heading may hold."""
        field, _ = _wanted(self).get(_plain(heading), (None, 0))
        return field


class Columns:
    """Which column of a file holds which field, found by its headings.

    Headings are compared without case, blanks and underscores, full width as half. Raises
    `FileError` for a required field without a column, and for two columns of one field.
    """

    def __init__(self, name: str, header: Row, layout: Layout) -> None:
        self._name = name
        self.header = header
        self.positions: dict[str, int] = {}
        self.headings: dict[str, str] = {}
        ranks: dict[str, int] = {}
        wanted = _wanted(layout)
        for position, heading in enumerate(header.cells):
            field, rank = wanted.get(_plain(heading), ("", 0))
            if not field:
                continue
            if field in self.positions and field not in layout.either:
                raise FileError(
                    name,
                    f"is a second column of {field}, beside {self.headings[field]}",
                    line=header.line,
                    column=heading,
                )
            if rank < ranks.get(field, len(wanted)):
                self.positions[field] = position
                self.headings[field] = heading
                ranks[field] = rank
        for field in layout.required:
            if field not in self.positions:
                headings = ", ".join(layout.known.get(field, ()))
                raise FileError(
                    name,
                    f"no column of {field}; it is headed"
                    f" {headings or 'nothing: the format declares none'}",
                    line=header.line,
                )

    def get(self, row: Row, field: str) -> str:
        """Return the cell of `field` in `row`, empty where there is none."""
        position = self.positions.get(field)
        if position is None or position >= len(row.cells):
            return ""
        return row.cells[position]

    def getter(self, *fields: str) -> Callable[[Row], tuple[str, ...]]:
        """Return what gives the cells of two `fields` or more in a row, as `get` does one by one."""
        # What has no column is at the end of each row, where an empty cell is put.
        positions = [self.positions.get(field, -1) for field in fields]
        take = itemgetter(*positions)
        width = max(positions) + 1

        def cells(row: Row) -> tuple[str, ...]:
            missing = width - len(row.cells)
            found: tuple[str, ...] = take([*row.cells, *[""] * missing, ""])
            return found

        return cells

    def error(self, row: Row, field: str, reason: str) -> FileError:
        """Make the error that names this cell."""
        return FileError(self._name, reason, line=row.line, column=self.headings.get(field, field))


class Table:
    """An open file with its headings found; `encoding`, `delimiter` and `sheet` where it has such."""

    def __init__(
        self,
        path: Path,
        columns: Columns,
        *,
        encoding: str | None = None,
        delimiter: str | None = None,
        book: Workbook | None = None,
        sheet: Sheet | None = None,
        name: str,
    ) -> None:
        self.columns = columns
        self.encoding = encoding and encoding.removesuffix("-sig")
        self.delimiter = delimiter
        self.sheet = None if sheet is None else sheet.name
        self.since_1904 = book is not None and book.since_1904
        self._path = path
        self._encoding = encoding
        self._name = name
        self._book = book
        self._sheet = sheet
        self._progress = _Progress()

    @property
    def share(self) -> float:
        """How much of the file is read, from 0 to 1."""
        return self._progress.share if self._book is None else self._book.share

    def rows(self) -> Iterator[Row]:
        """Yield the rows below the headings, empty ones left out; raises `FileError`."""
        if self._book is not None and self._sheet is not None:
            source = _xlsx_rows(self._book, self._sheet, self._name)
        else:
            assert self._encoding is not None
            assert self.delimiter is not None
            source = _csv_rows(
                self._path, self._name, self._encoding, self.delimiter, self._progress
            )
        heading = self.columns.header.line
        return (row for row in source if row.line > heading)


@contextmanager
def opened(path: Path, name: str, layout: Layout) -> Iterator[Table]:
    """Open the file at `path` as a table; `name` is what to call it. Raises `FileError`.

    CSV is UTF-8 (with or without BOM), UTF-16 with BOM, or GB18030, parted by comma, tab,
    semicolon or bar. Of an XLSX the only visible sheet with anything in it is read, or the one
    named. The headings are the first of the first rows that has all that is required.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise FileError(name, f"cannot be read: {error.strerror}") from None
    if not start:
        raise FileError(name, "the file is empty")
    if start.startswith(_OLE):
        raise FileError(
            name, "is neither CSV nor XLSX but an old .xls, or has a password: save it as XLSX"
        )
    if start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
        # As consoles make them under the name of .xls.
        raise FileError(name, "is a web page or XML: open it in a spreadsheet and save it as XLSX")
    if not start.startswith(b"PK\x03\x04"):
        yield _csv_table(path, name, layout)
        return
    with ExitStack() as stack:
        try:
            book = stack.enter_context(Workbook(path))
        except WorkbookError as error:
            raise FileError(name, str(error)) from None
        yield _xlsx_table(path, name, book, layout)


def _csv_table(path: Path, name: str, layout: Layout) -> Table:
    encoding = _encoding(path, name, layout.encoding)
    candidates = _DELIMITERS if layout.delimiter is None else (layout.delimiter,)
    wanted = _wanted(layout)
    best: tuple[tuple[int, int], str, list[Row]] | None = None
    failed: FileError | None = None
    for delimiter in candidates:
        head: list[Row] = []
        try:
            with closing(_csv_rows(path, name, encoding, delimiter, _Progress())) as source:
                head.extend(islice(source, HEADING_ROWS))
        except FileError as error:
            failed = failed or error
        if head:
            rank = (max(_recognised(row, wanted) for row in head), len(head[0].cells))
            if best is None or rank > best[0]:
                best = rank, delimiter, head
    if best is None:
        raise failed or FileError(name, "the file is empty")
    _, delimiter, head = best
    columns = _columns(name, head, layout)
    return Table(path, columns, encoding=encoding, delimiter=delimiter, name=name)


def _xlsx_table(path: Path, name: str, book: Workbook, layout: Layout) -> Table:
    sheet, head = _sheet(name, book, layout.sheet)
    return Table(path, _columns(name, head, layout), book=book, sheet=sheet, name=name)


def _sheet(name: str, book: Workbook, wanted: str | None) -> tuple[Sheet, list[Row]]:
    """Choose the sheet, and read its first rows."""
    if wanted is not None:
        chosen = [sheet for sheet in book.sheets if sheet.name == wanted]
        if not chosen:
            raise FileError(name, f"no sheet {wanted!r}; there are {_names(book.sheets)}")
    else:
        chosen = [sheet for sheet in book.sheets if not sheet.hidden]
    filled = []
    for sheet in chosen:
        with closing(_xlsx_rows(book, sheet, name)) as source:
            if head := list(islice(source, HEADING_ROWS)):
                filled.append((sheet, head))
    if not filled:
        raise FileError(name, "the file is empty")
    if len(filled) > 1:
        names = _names([sheet for sheet, _ in filled])
        raise FileError(
            name, f"has several sheets with something in them: {names}; name one with --sheet"
        )
    return filled[0]


def _names(sheets: list[Sheet]) -> str:
    shown = ", ".join(sheet.name for sheet in sheets[:_SHOWN_LINES])
    return shown + (", …" if len(sheets) > _SHOWN_LINES else "")


def _columns(name: str, head: list[Row], layout: Layout) -> Columns:
    """Find the headings: the first row with every required field, else the one with most fields."""
    wanted = _wanted(layout)
    for row in head:
        found = {wanted[plain][0] for cell in row.cells if (plain := _plain(cell)) in wanted}
        if found.issuperset(layout.required):
            return Columns(name, row, layout)
    # For its complaint.
    return Columns(name, max(head, key=lambda row: _recognised(row, wanted)), layout)


def _recognised(row: Row, wanted: Mapping[str, tuple[str, int]]) -> int:
    return len({wanted[plain][0] for cell in row.cells if (plain := _plain(cell)) in wanted})


def _wanted(layout: Layout) -> dict[str, tuple[str, int]]:
    """Return the field of each heading, and how likely it is the field's, 0 being the likeliest."""
    return {
        _plain(heading): (field, rank)
        for field, headings in layout.known.items()
        for rank, heading in enumerate(headings)
    }


def _plain(heading: str) -> str:
    return "".join(plain(heading).translate(_UNSEEN).split()).replace("_", "").lower()


class _Progress:
    """How much of a file is read."""

    share = 0.0


def _xlsx_rows(book: Workbook, sheet: Sheet, name: str) -> Generator[Row, None, None]:
    try:
        for line, cells in book.rows(sheet):
            stripped = [_stripped(cell) for cell in cells]
            if any(stripped):
                yield Row(line, stripped)
    except WorkbookError as error:
        raise FileError(name, str(error)) from None


def _csv_rows(
    path: Path, name: str, encoding: str, delimiter: str, progress: _Progress
) -> Generator[Row, None, None]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    size = path.stat().st_size
    with path.open("rb") as raw, io.TextIOWrapper(raw, encoding, newline="") as file:
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        line = 1
        try:
            for cells in reader:
                stripped = list(map(_stripped if lines.computed else str.strip, cells))
                if any(stripped):
                    yield Row(line, stripped)
                lines.characters = 0
                lines.computed = False
                line = reader.line_num + 1
                if not line & 1023:
                    progress.share = raw.tell() / size
        except csv.Error as error:
            raise FileError(name, f"is not CSV: {error}", line=line) from None


class _Lines:
    """The lines of a file, of which one row may take so many characters.

    `computed` tells that a cell of the row may be written as ="…".
    """

    def __init__(self, file: io.TextIOWrapper) -> None:
        self.characters = 0
        self.computed = False
        self._file = file

    def __iter__(self) -> Iterator[str]:
        """Yield them; raises `csv.Error`."""
        while text := self._file.readline(MAX_ROW_CHARACTERS + 1):
            self.characters += len(text)
            if self.characters > MAX_ROW_CHARACTERS:
                raise csv.Error(f"a row of more than {MAX_ROW_CHARACTERS:,} characters")
            if '="' in text:
                self.computed = True
            yield text


def _stripped(cell: str) -> str:
    """Return a cell without blanks around it, and without the ="…" that keeps it from being computed."""
    cell = cell.strip()
    if cell.startswith('="') and cell.endswith('"'):
        return cell[2:-1].strip()
    return cell


def _encoding(path: Path, name: str, declared: str | None) -> str:
    """Return the declared encoding, or the first that the whole file is valid in."""
    with path.open("rb") as file:
        start = file.read(3)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        candidates = ["utf-16"]
    elif declared is not None:
        candidates = ["utf-8-sig" if declared == "utf-8" else declared]
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
    if declared is not None:
        raise FileError(name, f"is not {declared} text, as its format declares, nor XLSX")
    raise FileError(name, "is neither UTF-8, UTF-16 nor GB18030 text, nor XLSX")
