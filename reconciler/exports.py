"""Lists as files: CSV that Excel opens with its Chinese whole, and XLSX, both streamed.

No cell can start a formula: a text that a spreadsheet would compute is marked as text.
"""

import csv
import io
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import xlsxwriter

XLSX_ROWS = 1_048_575  # a sheet's limit, less the headings
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


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
    if text.startswith(_FORMULA) and not _is_number(text):
        return "'" + text
    return text


async def csv_chunks(
    columns: Sequence[str], rows: AsyncIterator[Mapping[str, Any]]
) -> AsyncIterator[bytes]:
    """Yield the rows as CSV, UTF-8 with a BOM, a few hundred rows a chunk."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    yield b"\xef\xbb\xbf"
    async for row in rows:
        writer.writerow([safe(row[name]) for name in columns])
        if buffer.tell() > 65_536:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()


async def xlsx_file(columns: Sequence[str], rows: AsyncIterator[Mapping[str, Any]]) -> Path:
    """Write the rows to a temporary XLSX file and return its path; the caller removes it.

    Raises `TooLong`.
    """
    with tempfile.NamedTemporaryFile(prefix="huizhi-", suffix=".xlsx", delete=False) as file:
        path = Path(file.name)
    try:
        book = xlsxwriter.Workbook(
            path,
            {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False},
        )
        sheet = book.add_worksheet()
        sheet.freeze_panes(1, 0)
        sheet.write_row(0, 0, columns, book.add_format({"bold": True}))
        line = 0
        async for row in rows:
            line += 1
            if line > XLSX_ROWS:
                raise TooLong(f"more than {XLSX_ROWS:,} rows: ask for csv")
            for position, name in enumerate(columns):
                sheet.write(line, position, safe(row[name]))
        book.close()
    except BaseException:
        path.unlink(missing_ok=True)  # noqa: ASYNC240  quick, and nothing else to do
        raise
    return path


def file_chunks(path: Path) -> Iterator[bytes]:
    """Yield the file's bytes and remove it."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(65_536):
                yield chunk
    finally:
        path.unlink(missing_ok=True)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
