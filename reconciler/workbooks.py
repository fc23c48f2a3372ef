"""XLSX workbooks read as a stream: memory and disk stay bounded, whatever the file is.

A workbook is a zip of XML parts. Rows are parsed piece by piece, and the texts that cells share lie
in a temporary file, so that a million rows take no more memory than a thousand.
"""

import posixpath
import re
import struct
import tempfile
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser
from xml.parsers import expat

# Its tree stays in the processor's cache: pieces eight times as large take twice as long.
CHUNK_BYTES = 1 << 15
# What is unpacked of one part at most; a sheet of a million rows and twenty columns has half of it.
MAX_PART_BYTES = 2 << 30
# What is parsed until an element must be at its end: its tree takes some thirty times as much.
MAX_ELEMENT_BYTES = 4 << 20
# Sheets of real bills unpack to some ten times, of nothing but equal rows to fifty; zip can do a thousand.
MAX_RATIO = 200
RATIO_FROM_BYTES = 64 << 20  # below, whatever it is, it is read in seconds
MAX_DIRECTORY_BYTES = 4 << 20
MAX_SHEETS = 1_000
MAX_COLUMNS = 16_384
MAX_ROWS = 1 << 24  # some programs write more than Excel's 1,048,576
MAX_TEXT_CHARACTERS = 100_000
# Shared texts are kept in blocks of this many, of which so many bytes are held in memory.
_BLOCK_TEXTS = 32
_HELD_BYTES = 16 << 20

# ECMA-376 part 1, 18.8.30: built-in formats of dates and times, with those of Chinese and Japanese.
_DATES = frozenset([*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)])
# What of a number format is no placeholder: quoted, escaped, padding, colours and conditions.
_LITERAL = re.compile(r'"[^"]*"|\\.|[_*].|\[(?!(?:h+|m+|s+)\])[^\]]*\]')
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
_NO_DIGITS = str.maketrans("", "", "0123456789")
_UNREADABLE = "is not an XLSX workbook that can be read"
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    ParseError,
    expat.ExpatError,
    struct.error,
    ArithmeticError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)


class WorkbookError(Exception):
    """A workbook that cannot be read, or not within bounds; the text says why, and of which file not."""


class Sheet(NamedTuple):
    """A worksheet by the name on its tab; `part` is where it lies in the file."""

    name: str
    hidden: bool
    part: str


class Workbook:
    """An open workbook; `since_1904` tells which day its serial dates count from.

    Raises `WorkbookError`, also while rows are read. Not for two threads at once.
    """

    def __init__(self, path: Path) -> None:
        self._texts: _Texts | None = None
        self._read_bytes = 0
        self._whole_bytes = 0
        try:
            _check_directory(path)
            self._zip = zipfile.ZipFile(path)
        except _BROKEN:
            raise WorkbookError(_UNREADABLE) from None
        try:
            # Some writers spell a part differently where they name it.
            self._parts = {
                info.filename.replace("\\", "/").lower(): info for info in self._zip.infolist()
            }
            self._book = self._target("", "officedocument") or "xl/workbook.xml"
            self.since_1904, self.sheets = self._contents()
            self._dated = self._dated_styles()
        except BaseException as error:
            self.close()
            if isinstance(error, _BROKEN):
                raise WorkbookError(_UNREADABLE) from None
            raise

    def __enter__(self) -> "Workbook":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let go of the file and of the texts."""
        self._zip.close()
        if self._texts is not None:
            self._texts.close()

    @property
    def share(self) -> float:
        """How much of the sheet and the shared texts is unpacked, from 0 to 1."""
        return min(1.0, self._read_bytes / self._whole_bytes) if self._whole_bytes else 0.0

    def rows(self, sheet: Sheet) -> Iterator[tuple[int, list[str]]]:
        """Yield each row that has a cell, with its number and its cells as text.

        A number is as it is typed: to 15 digits, whole ones without `.0`, from 16 digits on in
        scientific notation, because the spreadsheet has lost the rest. A date or time is ISO text.
        """
        try:
            shared = self._target(self._book, "sharedstrings")
            self._read_bytes = 0
            self._whole_bytes = self._size(sheet.part)
            if self._texts is None:
                self._texts = _Texts()
                if shared is not None:
                    self._whole_bytes += self._size(shared)
                    for items in self._children(shared, None):
                        self._texts.add(map(_text_of, items))
                self._texts.end()
            yield from self._rows(sheet.part, self._texts)
        except _BROKEN:
            raise WorkbookError(_UNREADABLE) from None

    def _rows(self, part: str, texts: "_Texts") -> Iterator[tuple[int, list[str]]]:
        columns: dict[str, int] = {}
        dated, since_1904 = self._dated, self.since_1904
        line = 0
        for rows in self._children(part, "sheetData"):
            for row in rows:
                number = row.get("r")
                line = int(number) if number else line + 1
                if line > MAX_ROWS:
                    raise ValueError("no row")
                cells: list[str] = []
                for cell in row:
                    place = cell.get("r")
                    if place:
                        letters = place.translate(_NO_DIGITS)
                        column = columns.get(letters)
                        if column is None:
                            column = columns[letters] = _column(letters)
                    else:
                        column = len(cells)
                    kind = cell.get("t")
                    value = ""
                    if kind == "inlineStr":
                        value = "".join(map(_text_of, cell))
                    else:
                        for child in cell:
                            if child.tag.endswith("v"):
                                value = child.text or ""
                    if not value:
                        continue
                    if kind == "s":
                        value = texts[int(value)]
                    elif kind is None or kind == "n":
                        if cell.get("s") in dated:
                            value = _moment(value, since_1904)
                        elif len(value) > 15 or not (value.isascii() and value.isdigit()):
                            value = _number(value)
                    elif kind == "b":
                        value = "TRUE" if value == "1" else "FALSE"
                    elif kind == "str":
                        value = _unescaped(value)
                    if column >= len(cells):
                        if column >= MAX_COLUMNS:
                            raise WorkbookError(f"has more than {MAX_COLUMNS:,} columns")
                        cells.extend([""] * (column - len(cells)))
                        cells.append(value)
                    else:
                        cells[column] = value
                if cells:
                    yield line, cells

    def _contents(self) -> tuple[bool, list[Sheet]]:
        since_1904 = False
        sheets: list[Sheet] = []
        targets = {id: part for kind, id, part in self._targets(self._book) if kind == "worksheet"}
        for children in self._children(self._book, None):
            for child in children:
                name = _local(child.tag)
                if name == "workbookPr":
                    since_1904 = child.get("date1904") in ("1", "true", "on")
                elif name == "sheets":
                    for sheet in child:
                        id = next((v for k, v in sheet.items() if _local(k) == "id"), "")
                        if id in targets:
                            hidden = sheet.get("state", "visible") != "visible"
                            sheets.append(Sheet(sheet.get("name", ""), hidden, targets[id]))
        if not 1 <= len(sheets) <= MAX_SHEETS:
            raise ValueError("no sheet, or too many")
        return since_1904, sheets

    def _dated_styles(self) -> frozenset[str]:
        """Return the cell styles that show a number as a date or a time, as cells name them."""
        part = self._target(self._book, "styles")
        if part is None:
            return frozenset()
        formats = {}
        for children in self._children(part, "numFmts"):
            for child in children:
                formats[child.get("numFmtId", "")] = _shows_date(child.get("formatCode", ""))
        dated = []
        number = 0
        for children in self._children(part, "cellXfs"):
            for child in children:
                id = child.get("numFmtId", "0")
                if formats.get(id, id.isdecimal() and int(id) in _DATES):
                    dated.append(str(number))
                number += 1
        return frozenset(dated)

    def _target(self, source: str, kind: str) -> str | None:
        return next((part for found, _, part in self._targets(source) if found == kind), None)

    def _targets(self, source: str) -> Iterator[tuple[str, str, str]]:
        """Yield kind, id and part of what the part `source` relates to; the whole book's is empty."""
        folder, name = posixpath.split(source)
        relations = posixpath.join(folder, "_rels", f"{name}.rels")
        if relations.lower() not in self._parts:
            return
        for children in self._children(relations, None):
            for child in children:
                target = child.get("Target", "").replace("\\", "/")
                part = posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/")
                kind = child.get("Type", "").rpartition("/")[2].lower()
                if child.get("TargetMode") != "External":
                    yield kind, child.get("Id", ""), part

    def _size(self, part: str) -> int:
        return self._parts[part.lower()].file_size

    def _children(self, part: str, parent: str | None) -> Iterator[list[Element]]:
        """Yield the children of the part's element `parent`, or of its root, as they come to an end.

        The parser builds trees in C; those at their end are taken out of it after every piece. What
        comes behind the parent is unpacked for its checksum and not parsed.
        """
        if self._size(part) > MAX_PART_BYTES:
            raise WorkbookError(f"unpacks to more than {MAX_PART_BYTES >> 30} GiB; save it as CSV")
        packed = self._parts[part.lower()].compress_size
        if self._size(part) > max(RATIO_FROM_BYTES, MAX_RATIO * packed):
            raise WorkbookError(f"unpacks to more than {MAX_RATIO} times its size; save it as CSV")
        builder = TreeBuilder()
        top = builder.start("top", {})
        parser = XMLParser(target=builder)  # noqa: S314  entities are refused
        prolog: _Prolog | None = _Prolog()
        found: Element | None = None
        waiting = 0
        with self._zip.open(self._parts[part.lower()]) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                self._read_bytes += len(chunk)
                if prolog is not None and prolog.ends_in(chunk):
                    prolog = None
                parser.feed(chunk)
                waiting += len(chunk)
                if found is None and len(top):
                    found = _find(top[0], parent)
                    if found is None and _forgotten(top[0]):
                        waiting = 0
                if found is not None:
                    ended = parent is not None and top[0][-1] is not found
                    ready = found[:] if ended else found[:-1]
                    if ready:
                        yield ready
                        del found[: len(ready)]
                        waiting = 0
                    if ended:
                        while chunk := stream.read(CHUNK_BYTES):
                            self._read_bytes += len(chunk)
                        return
                if waiting > MAX_ELEMENT_BYTES:
                    raise WorkbookError("has a row or a text that does not come to an end")
            parser.close()
            found = _find(top[0], parent)
            if found is not None and len(found):
                yield found[:]


class _Prolog:
    """Refuses what declares a document type, before anybody else parses it: entities grow in use."""

    def __init__(self) -> None:
        self._ended = False
        self._parser = expat.ParserCreate()
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._end

    def ends_in(self, chunk: bytes) -> bool:
        """Tell whether the first element begins in `chunk`: behind it no document type can stand."""
        self._parser.Parse(chunk, False)
        return self._ended

    def _end(self, name: str, attributes: dict[str, str]) -> None:
        self._ended = True

    def _refuse(self, *_: object) -> None:
        raise WorkbookError("declares a document type or entities, as no spreadsheet does")


class _Texts:
    """The texts that cells share, by their number: on disk, the last used blocks in memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="huizhi-")  # noqa: SIM115  closed by close
        self._offsets = array("Q", [0])
        self._waiting: list[str] = []
        self._held: dict[int, list[str]] = {}
        self._held_bytes = 0

    def add(self, texts: Iterable[str]) -> None:
        self._waiting += texts
        whole = len(self._waiting) - len(self._waiting) % _BLOCK_TEXTS
        for start in range(0, whole, _BLOCK_TEXTS):
            self._write(self._waiting[start : start + _BLOCK_TEXTS])
        del self._waiting[:whole]

    def end(self) -> None:
        """Write the last block; nothing is added any more."""
        if self._waiting:
            self._write(self._waiting)

    def close(self) -> None:
        self._file.close()

    def _write(self, block: list[str]) -> None:
        # No XML has a NUL.
        written = self._file.write("\0".join(block).encode())
        self._offsets.append(self._offsets[-1] + written)

    def __getitem__(self, number: int) -> str:
        """Return a text; raises LookupError where there is none."""
        block, place = divmod(number, _BLOCK_TEXTS)
        if number < 0:
            raise IndexError(number)
        return (self._held.get(block) or self._load(block))[place]

    def _load(self, block: int) -> list[str]:
        start, end = self._offsets[block], self._offsets[block + 1]
        self._file.seek(start)
        texts = self._file.read(end - start).decode().split("\0")
        # About what the texts take in memory, and each of them by itself.
        self._held_bytes += 2 * (end - start) + 80 * _BLOCK_TEXTS
        if self._held_bytes > _HELD_BYTES:
            self._held.clear()
            self._held_bytes = 0
        self._held[block] = texts
        return texts


def _check_directory(path: Path) -> None:
    """Refuse a zip whose directory would fill the memory; an XLSX has some dozen parts."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - 65_536 - 42)
        file.seek(start)
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0:
            raise zipfile.BadZipFile
        (directory,) = struct.unpack_from("<L", tail, at + 12)
        if at >= 20 and tail.startswith(b"PK\x06\x07", at - 20):
            (end,) = struct.unpack_from("<Q", tail, at - 12)
            file.seek(end + 40)
            (directory,) = struct.unpack("<Q", file.read(8))
    if directory > MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile


def _find(root: Element, name: str | None) -> Element | None:
    if name is None:
        return root
    return next((child for child in root if _local(child.tag) == name), None)


def _forgotten(root: Element) -> bool:
    """Take what has ended out of `root` and out of its last child; tell whether there was any."""
    if not len(root) or (len(root) == 1 and len(root[0]) < 2):
        return False
    del root[:-1]
    del root[0][:-1]
    return True


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _column(letters: str) -> int:
    """Return the place of a column, A being 0."""
    number = 0
    for letter in letters.upper():
        if not "A" <= letter <= "Z" or number > MAX_COLUMNS:
            raise ValueError("no column")
        number = number * 26 + ord(letter) - 64
    return number - 1


def _text_of(item: Element) -> str:
    """Return the text of a shared or inline string: of its runs, without readings (rPh)."""
    children = len(item)
    if children == 1 and not len(first := item[0]):
        text = first.text or ""
    elif not children:
        text = (item.text or "") if _local(item.tag) == "t" else ""
    else:
        text = "".join(
            part.text or ""
            for child in item
            if _local(child.tag) != "rPh"
            for part in ([child] if _local(child.tag) == "t" else child)
            if _local(part.tag) == "t"
        )
    if len(text) > MAX_TEXT_CHARACTERS:
        raise WorkbookError(f"has a cell of more than {MAX_TEXT_CHARACTERS:,} characters")
    return _unescaped(text)


def _unescaped(text: str) -> str:
    """Return what `_x000D_` and the like stand for: ECMA-376 part 1, 22.9.2.19 (ST_Xstring)."""
    if "_x" not in text:
        return text
    plain = _ESCAPED.sub(lambda code: chr(int(code[1], 16)), text)
    return plain.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _number(text: str) -> str:
    """Return a number as a person sees it: to 15 digits, whole ones without the .0."""
    value = float(text)
    if abs(value) >= 1e15:
        # Rounded by the spreadsheet already: written so that nobody takes it for exact.
        return f"{value:e}"
    if value.is_integer():
        return str(int(value))
    # 3 times 0.035 is stored as 0.10500000000000001.
    return format(Decimal(f"{value:.15g}"), "f")


def _moment(text: str, since_1904: bool) -> str:
    """Return a serial date as ISO text, a time of day where it is less than a day."""
    value = float(text)
    at = serial(value, since_1904=since_1904)
    if at is None:
        return _number(text)
    if 0 <= value < 1:
        return f"{at:%H:%M:%S}"
    return at.isoformat(" ")


def serial(days: float, *, since_1904: bool) -> datetime | None:
    """Return what a spreadsheet means by a count of days, to the second; None if it means no date.

    The default calendar has a 29 February 1900 that never was: before it counts are one less.
    """
    if not 0 <= days < 2_957_003:
        return None
    epoch = datetime(1904, 1, 1) if since_1904 else datetime(1899, 12, 30)  # noqa: DTZ001
    if not since_1904 and days < 60:
        epoch += timedelta(days=1)
    return epoch + timedelta(seconds=round(days * 86_400))


def _shows_date(code: str) -> bool:
    shown = _LITERAL.sub("", code).partition(";")[0].lower()
    return shown != "general" and any(letter in shown for letter in "ymdhs")
