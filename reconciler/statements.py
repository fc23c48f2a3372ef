"""Vendors' bills, imported whole or not at all.

A file is read into the database as it stands, each line with its number in the file; what it means
is decided by reconciliation. The same file again changes nothing; a corrected file is a new version.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from decimal import Context, Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from gateways.phone import normalise
from reconciler import sending
from reconciler.periods import Period
from reconciler.tables import Columns, FileError, Row, moment, rows
from runtime import settlement
from runtime.identity import PROVISIONAL, message_id, shard_of
from runtime.queries import QUERIES
from runtime.settings import AccountSettings, Settings

# What vendors' consoles and hand-made sheets usually head these columns with.
GENERIC: dict[str, tuple[str, ...]] = {
    "vendor_message_id": (
        "vendor_message_id",
        "任务ID",
        "任务编号",
        "短信ID",
        "短信任务ID",
        "消息ID",
        "流水号",
        "taskid",
        "msgid",
        "message_id",
    ),
    "phone": ("phone", "手机号", "手机号码", "号码", "接收号码", "接收手机号", "mobile"),
    "segments": ("segments", "计费条数", "条数", "计费数", "短信条数", "计费数量", "扣费条数"),
    "amount": (
        "amount",
        "金额",
        "费用",
        "计费金额",
        "扣费金额",
        "金额(元)",
        "费用(元)",
        "金额（元）",
    ),
    "sent_at": ("sent_at", "发送时间", "提交时间", "发送日期"),
    "status": ("status", "状态", "发送状态", "状态报告", "短信状态"),
}
FIELDS = tuple(GENERIC)
REQUIRED = ("vendor_message_id", "segments")
_MAX_ID = 128
_MAX_SEGMENTS = 1_000_000
_MAX_DIGITS = 30
_CHUNK_LINES = 1_000
_EXACT = Context(prec=100)  # the usual 28 digits would round a sum

# What a row is headed with that bills nothing and adds up the rows above it.
_TOTALS = frozenset({"合计", "总计", "总共", "汇总", "总额", "total", "totals", "sum"})
# As spreadsheets write it, with a sign: 6055df2f45e10 and 635303e52052 are ids of ThinkAPI's.
_SCIENTIFIC = re.compile(r"-?\d(\.\d+)?[eE]\+\d+")
_WHOLE = re.compile(r"\d{1,3}(?:,\d{3})+|\d+(?:\.0+)?")
_DECIMAL = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d{1,12})?")


class Statement(msgspec.Struct, kw_only=True):
    """An imported statement; `amount` adds up the amounts that stand in the file, None if none does.

    `duplicate_of` is the id of the statement that the same file was imported as before: then nothing
    was changed and `id` is that one.
    """

    id: UUID
    version: int
    lines: int
    segments: int
    amount: Decimal | None
    duplicate_of: UUID | None = None


class _Line(msgspec.Struct, frozen=True, gc=False):
    line: int
    vendor_message_id: str
    phone: str | None
    segments: int
    amount: Decimal | None
    sent_at: datetime | None
    status: str | None


class _Totals(msgspec.Struct):
    lines: int = 0
    segments: int = 0
    amount: Decimal | None = None


def format_columns(settings: Settings, name: str) -> dict[str, tuple[str, ...]]:
    """Return which headings name which field in files of the format `name`.

    Raises ValueError, naming the formats there are, for another name.
    """
    if name == "generic":
        return GENERIC
    declared = settings.statements.get(name)
    if declared is None:
        known = ", ".join(["generic", *sorted(settings.statements)])
        raise ValueError(f"no statement format {name!r}; there are {known}")
    return {field: (heading,) for field, heading in declared.columns.items()}


async def import_file(
    connection: Any,
    account: AccountSettings,
    period: Period,
    path: Path,
    *,
    file_name: str,
    format_name: str,
    columns: Mapping[str, tuple[str, ...]],
    now: datetime,
) -> Statement:
    """Import the file at `path` as the account's statement of `period`; durable on return.

    All or nothing: raises `FileError` naming file, line and column, and then nothing has changed.
    """
    # As evidence and in complaints, wherever the name came from.
    file_name = "".join(c if c.isprintable() else "\ufffd" for c in file_name)[:200]
    file_digest = await asyncio.to_thread(_file_digest, path, file_name)
    name = account.account.name
    async with connection.transaction():
        await connection.execute(QUERIES["lock_statements"], name, period.first, period.last)
        known = await connection.fetchrow(
            QUERIES["statement_of_file"], name, period.first, period.last, file_digest
        )
        if known is not None:
            return Statement(
                id=known["id"],
                version=known["version"],
                lines=known["lines"],
                segments=known["segments"],
                amount=known["amount"],
                duplicate_of=known["id"],
            )
        version = await connection.fetchval(
            QUERIES["next_version"], name, period.first, period.last
        )
        statement = uuid4()
        totals = _Totals()
        try:
            await connection.copy_records_to_table(
                "lines",
                records=_in_chunks(
                    _records(account, statement, path, file_name, dict(columns), totals)
                ),
                columns=(
                    "shard",
                    "statement_id",
                    "line",
                    "message_id",
                    "vendor_message_id",
                    "phone",
                    "segments",
                    "amount",
                    "sent_at",
                    "status",
                ),
            )
        except asyncpg.DataError:
            raise FileError(file_name, "holds a text that cannot be stored") from None
        if totals.lines == 0:
            raise FileError(file_name, "has headings but no lines")
        ambiguous = await connection.fetchval(QUERIES["ambiguous_line"], statement, name)
        if ambiguous is not None:
            raise FileError(
                file_name, "has no phone and its id names several messages", line=ambiguous
            )
        await connection.execute(
            QUERIES["add_statement"],
            statement,
            name,
            period.first,
            period.last,
            version,
            file_digest,
            file_name,
            format_name,
            totals.lines,
            totals.segments,
            totals.amount,
            now,
        )
        # A line can tell what became of a message that nobody knew the outcome of.
        identified = await sending.resolve_by_statement(
            connection, account, statement, period.bounds(account.account.zone)
        )
    await settlement.fold(connection, identified)
    return Statement(
        id=statement,
        version=version,
        lines=totals.lines,
        segments=totals.segments,
        amount=totals.amount,
    )


def _file_digest(path: Path, file_name: str) -> bytes:
    sha = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                sha.update(chunk)
    except OSError as error:
        raise FileError(file_name, f"cannot be read: {error.strerror}") from None
    return sha.digest()


async def _in_chunks(records: Iterator[tuple[Any, ...]]) -> AsyncIterator[tuple[Any, ...]]:
    """Read in threads: the loop also answers the API and renews leases, and large files take a while."""
    while chunk := await asyncio.to_thread(lambda: list(islice(records, _CHUNK_LINES))):
        for record in chunk:
            yield record


def _records(
    account: AccountSettings,
    statement: UUID,
    path: Path,
    file_name: str,
    known: dict[str, tuple[str, ...]],
    totals: _Totals,
) -> Iterator[tuple[Any, ...]]:
    with closing(rows(path, file_name)) as source:
        yield from _records_of(source, account, statement, file_name, known, totals)


def _records_of(
    source: Iterator[Row],
    account: AccountSettings,
    statement: UUID,
    file_name: str,
    known: dict[str, tuple[str, ...]],
    totals: _Totals,
) -> Iterator[tuple[Any, ...]]:
    name = account.account.name
    header = next(source, None)
    if header is None:
        raise FileError(file_name, "the file is empty")
    columns = Columns(file_name, header, known, REQUIRED)
    ended: Row | None = None
    for row in source:
        if ended is not None:
            raise FileError(
                file_name, f"comes after the totals in line {ended.line}", line=row.line
            )
        if _is_totals(row, columns):
            _check_totals(row, columns, totals)
            ended = row
            continue
        line = _line(row, columns, account)
        totals.lines += 1
        totals.segments += line.segments
        if line.amount is not None:
            totals.amount = _EXACT.add(totals.amount or Decimal(0), line.amount)
        yield (
            shard_of(name, line.vendor_message_id),
            statement,
            line.line,
            line.phone and message_id(name, line.vendor_message_id, line.phone),
            line.vendor_message_id,
            line.phone,
            line.segments,
            line.amount,
            line.sent_at,
            line.status,
        )


def _is_totals(row: Row, columns: Columns) -> bool:
    """Tell the file's own totals by a word for them; a row that names a message is a line all the same."""
    id = columns.get(row, "vendor_message_id")
    return (not id or _says_total(id)) and any(map(_says_total, row.cells))


def _says_total(cell: str) -> bool:
    return cell.rstrip(":：").lower() in _TOTALS


def _check_totals(row: Row, columns: Columns, totals: _Totals) -> None:
    """Hold the file's own totals against its lines: who cut the file, or doubled it, is found out."""
    if columns.get(row, "segments"):
        stated = _segments(row, columns, limit=None)
        if stated != totals.segments:
            reason = f"the totals say {stated}, and the lines add up to {totals.segments}"
            raise columns.error(row, "segments", reason)
    amount = _amount(row, columns)
    if amount is not None and amount != (totals.amount or 0):
        reason = f"the totals say {amount}, and the lines add up to {totals.amount or 0}"
        raise columns.error(row, "amount", reason)


def _line(row: Row, columns: Columns, account: AccountSettings) -> _Line:
    return _Line(
        line=row.line,
        vendor_message_id=_id(row, columns),
        phone=_phone(row, columns),
        segments=_segments(row, columns),
        amount=_amount(row, columns),
        sent_at=_sent_at(row, columns, account),
        status=columns.get(row, "status")[:100] or None,
    )


def _id(row: Row, columns: Columns) -> str:
    text = columns.get(row, "vendor_message_id")
    if not text:
        raise columns.error(row, "vendor_message_id", "is empty")
    if text.startswith(PROVISIONAL):
        raise columns.error(
            row,
            "vendor_message_id",
            f"begins with {PROVISIONAL}, as only our own provisional ids do: no vendor bills by them",
        )
    if _SCIENTIFIC.fullmatch(text):
        # Which digits a spreadsheet has dropped nobody can know: never guess whose bill this is.
        raise columns.error(
            row, "vendor_message_id", f"{text} is an id that a spreadsheet has rounded"
        )
    if len(text) > _MAX_ID:
        raise columns.error(row, "vendor_message_id", f"has more than {_MAX_ID} characters")
    return text


def _phone(row: Row, columns: Columns) -> str | None:
    text = columns.get(row, "phone")
    if not text:
        return None
    if _SCIENTIFIC.fullmatch(text):
        raise columns.error(row, "phone", "is a number that a spreadsheet has rounded")
    phone = normalise(text)
    if not phone or len(phone) > 32:
        raise columns.error(row, "phone", "is no phone number")
    return phone


def _segments(row: Row, columns: Columns, limit: int | None = _MAX_SEGMENTS) -> int:
    text = columns.get(row, "segments")
    if len(text) > _MAX_DIGITS or not _WHOLE.fullmatch(text):
        raise columns.error(row, "segments", f"{text[:40]!r} is not a whole number")
    number = int(text.replace(",", "").partition(".")[0])
    if limit is not None and number > limit:
        raise columns.error(row, "segments", f"{text[:40]!r} is more than {limit}")
    return number


def _amount(row: Row, columns: Columns) -> Decimal | None:
    text = columns.get(row, "amount")
    if not text:
        return None
    plain = text.removeprefix("¥").removeprefix("￥").removesuffix("元").strip()
    if not _DECIMAL.fullmatch(plain) or len(plain) > _MAX_DIGITS:
        raise columns.error(row, "amount", f"{text[:40]!r} is not a decimal amount")
    return Decimal(plain.replace(",", ""))


def _sent_at(row: Row, columns: Columns, account: AccountSettings) -> datetime | None:
    text = columns.get(row, "sent_at")
    if not text:
        return None
    try:
        return moment(text, account.account.zone)
    except ValueError:
        raise columns.error(row, "sent_at", f"{text[:40]!r} is not a time") from None
