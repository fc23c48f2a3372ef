"""Lists as files: CSV that Excel opens with its Chinese whole, and XLSX, both streamed.

No cell can start a formula: a text that a spreadsheet would compute is marked as text.
"""

import asyncio
import csv
import io
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import xlsxwriter

XLSX_ROWS = 1_048_575  # a sheet's limit, less the headings
XLSX_CHARACTERS = 32_767  # a cell's limit
# What spreadsheets compute, also in full width, where Chinese and Japanese ones do; they skip blanks.
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)


class TooLong(Exception):
    """More rows than a spreadsheet holds."""


def safe(value: Any) -> Any:
    """Return `value` as a cell: numbers as they are, text so that no spreadsheet computes it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return value
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return "'" + text
    return text


async def csv_chunks(
    columns: Sequence[str],
    rows: AsyncIterator[Mapping[str, Any]],
    headings: Sequence[str] | None = None,
) -> AsyncIterator[bytes]:
    """Yield the rows as CSV, UTF-8 with a BOM, a few hundred rows a chunk.

    `headings` are those of `columns`, by default their names.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(map(safe, headings or columns))
    yield b"\xef\xbb\xbf"
    async for row in rows:
        writer.writerow([safe(row[name]) for name in columns])
        if buffer.tell() > 65_536:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()


async def csv_file(
    columns: Sequence[str],
    rows: AsyncIterator[Mapping[str, Any]],
    headings: Sequence[str] | None = None,
) -> Path:
    """Write the rows to a temporary CSV file and return its path; `file_chunks` removes it."""
    folder = Path(tempfile.mkdtemp(prefix="huizhi-"))
    path = folder / "list.csv"
    try:
        with path.open("wb") as file:
            async for chunk in csv_chunks(columns, rows, headings):
                file.write(chunk)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return path


async def xlsx_file(
    columns: Sequence[str],
    rows: AsyncIterator[Mapping[str, Any]],
    headings: Sequence[str] | None = None,
    *,
    made_at: datetime | None = None,
) -> Path:
    """Write the rows to a temporary XLSX file and return its path; `file_chunks` removes it.

    It says that it was made now, or at `made_at`: then the same rows are the same bytes. Raises
    `TooLong`.
    """
    folder = Path(tempfile.mkdtemp(prefix="huizhi-"))
    path = folder / "list.xlsx"
    book = xlsxwriter.Workbook(
        path,
        {
            "constant_memory": True,
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "tmpdir": str(folder),
        },
    )
    if made_at is not None:
        book.set_properties({"created": made_at})
    sheet = book.add_worksheet()
    rows_so_far: Any = sheet.row_data_fh
    try:
        sheet.freeze_panes(1, 0)
        bold = book.add_format({"bold": True})
        sheet.write_row(0, 0, map(safe, headings or columns), bold)
        line = 0
        async for row in rows:
            line += 1
            if line > XLSX_ROWS:
                raise TooLong(f"more than {XLSX_ROWS:,} rows: ask for csv")
            for position, name in enumerate(columns):
                cell = safe(row[name])
                sheet.write(
                    line, position, cell[:XLSX_CHARACTERS] if isinstance(cell, str) else cell
                )
        await asyncio.to_thread(book.close)
    except BaseException:
        rows_so_far.close()
        shutil.rmtree(folder)
        raise
    return path


def file_chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file of `xlsx_file`, and remove it with its folder."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(65_536):
                yield chunk
    finally:
        shutil.rmtree(path.parent)
