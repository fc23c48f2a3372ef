"""Vendors' bills, imported whole or not at all.

A file is read into the database as it stands, each line with its number in the file; what it means
is decided by reconciliation. The same file again changes nothing; a corrected file is a new version.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Set
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from gateways.phone import normalise
from reconciler import cells, sending
from reconciler.match import EXACT, currencies_in, money
from reconciler.periods import Period
from reconciler.tables import (
    SHOWN_COMPLAINTS,
    Columns,
    Complaint,
    FileError,
    Layout,
    Row,
    Table,
    opened,
)
from runtime import settlement
from runtime.identity import PROVISIONAL, message_keys, shard_of
from runtime.queries import QUERIES
from runtime.settings import STATEMENT_COLUMNS, AccountSettings, Settings

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
    ),
    "sent_at": ("sent_at", "发送时间", "提交时间", "发送日期"),
    "status": ("status", "状态", "发送状态", "状态报告", "短信状态"),
    "currency": ("currency", "币种", "货币"),
}
REQUIRED = ("vendor_message_id", "segments")
# Evidence: consoles write both 发送时间 and 提交时间, and one of them is enough.
EITHER = ("sent_at", "status")
GENERIC_LAYOUT = Layout(known=GENERIC, required=REQUIRED, either=EITHER)
PREVIEWED_LINES = 10
_MAX_ID = 128
_MAX_SEGMENTS = 1_000_000
_CHUNK_LINES = 1_000

# What a row is headed with that bills nothing and adds up the rows above it: all of them, or
# those since the last such row.
_TOTALS = frozenset(
    {"合计", "总计", "总共", "汇总", "总额", "共计", "total", "totals", "grandtotal", "sum"}
)
SUBTOTALS = frozenset({"小计", "本页小计", "本页合计", "subtotal"})
_ADD_UP = _TOTALS | SUBTOTALS
# What COPY's text stands for nothing with, and what would end a value there.
_NULL = r"\N"
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_MAINLAND = re.compile(r"1\d{10}", re.ASCII)
_FLOAT = re.compile(r"(\d+)\.0+", re.ASCII)
_PHONE = re.compile(r"[+]?[\d\s()-]+", re.ASCII)


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
    currency: str | None


class Totals(msgspec.Struct, eq=False):
    """What lines add up to; `amount` is None while none of them has one."""

    lines: int = 0
    segments: int = 0
    amount: Decimal | None = None

    def add(self, line: _Line) -> None:
        """Count a line."""
        self.lines += 1
        self.segments += line.segments
        if line.amount is not None:
            self.amount = EXACT.add(self.amount or Decimal(0), line.amount)


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """Control totals that somebody read elsewhere, on the invoice for one; None is not held against."""

    lines: int | None = None
    segments: int | None = None
    amount: Decimal | None = None

    def complaints(self, found: Totals) -> list[str]:
        """Say what of the file's totals is not as expected, with both figures."""
        said = []
        if self.lines is not None and self.lines != found.lines:
            said.append(f"{self.lines} lines were expected, and it has {found.lines}")
        if self.segments is not None and self.segments != found.segments:
            said.append(
                f"{self.segments} segments were expected, and its lines add up to {found.segments}"
            )
        if self.amount is not None and self.amount != found.amount:
            sum = "have no amounts" if found.amount is None else f"add up to {found.amount:f}"
            said.append(f"an amount of {self.amount:f} was expected, and its lines {sum}")
        return said


NOTHING_EXPECTED = Expected()


def expected(lines: int | None, segments: int | None, amount: str | None, /) -> Expected:
    """Make control totals as people give them; raises ValueError for an amount that is none."""
    try:
        money = None if amount is None else cells.amount(amount.strip())
    except ValueError as error:
        raise ValueError(f"the expected amount {cells.quoted(amount or '')} {error}") from None
    return Expected(lines=lines, segments=segments, amount=money)


class PreviewedColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A column of a file; `field` is None where nothing is read from it, and `because` says why."""

    heading: str
    field: str | None
    because: str


class PreviewedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line as it would be imported."""

    line: int
    vendor_message_id: str
    phone: str | None
    segments: int
    amount: str | None
    sent_at: datetime | None
    status: str | None
    currency: str | None


class Obstacle(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps the file from being imported."""

    line: int | None
    column: str | None
    reason: str


class Preview(msgspec.Struct, kw_only=True):
    """What an import of this file would read; nothing was imported.

    `first_lines` are the first ten. `problems` would refuse the file; after a hundred reading ends,
    and `more_problems` says so. `lines`, `segments` and `amount` are those of the good lines read.
    """

    file: str
    format: str
    encoding: str | None
    delimiter: str | None
    sheet: str | None
    header_line: int
    columns: list[PreviewedColumn]
    first_lines: list[PreviewedLine]
    lines: int
    segments: int
    amount: str | None
    totals_line: int | None
    problems: list[Obstacle]
    more_problems: bool


def format_layout(settings: Settings, name: str, *, sheet: str | None = None) -> Layout:
    """Return how to read files of the format `name`; `sheet` overrides the format's own.

    Raises ValueError, naming the formats there are, for another name.
    """
    if name == "generic":
        return msgspec.structs.replace(GENERIC_LAYOUT, sheet=sheet)
    declared = settings.statements.get(name)
    if declared is None:
        known = ", ".join(["generic", *sorted(settings.statements)])
        raise ValueError(f"no statement format {name!r}; there are {known}")
    return Layout(
        known={field: (heading,) for field, heading in declared.columns.items()},
        required=REQUIRED,
        sheet=sheet or declared.sheet,
        encoding=declared.encoding,
        delimiter=declared.delimiter,
        time_format=declared.time_format,
    )


async def import_file(
    connection: Any,
    account: AccountSettings,
    period: Period,
    path: Path,
    *,
    file_name: str,
    format_name: str,
    layout: Layout,
    now: datetime,
    expect: Expected = NOTHING_EXPECTED,
    progress: Callable[[int, float], None] | None = None,
) -> Statement:
    """Import the file at `path` as the account's statement of `period`; durable on return.

    All or nothing: raises `FileError` naming file, line and column, and then nothing has changed.
    `progress` is told now and then, in another thread, how many lines are read and which share of
    the file.
    """
    file_name = shown_name(file_name)
    file_digest = await asyncio.to_thread(file_digest_of, path, file_name, layout.sheet)
    name = account.account.name
    async with connection.transaction():
        await connection.execute(QUERIES["lock_statements"], name, period.first, period.last)
        known = await connection.fetchrow(
            QUERIES["statement_of_file"], name, period.first, period.last, file_digest
        )
        if known is not None:
            _check(expect, file_name, Totals(known["lines"], known["segments"], known["amount"]))
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
        currencies = currencies_in(account, period)
        reading = _Reading(account, file_name, layout, currencies, progress)
        totals = reading.totals
        try:
            await connection.copy_to_table(
                "lines",
                source=_in_chunks(reading.rows(path, statement)),
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
        except (asyncpg.DataError, UnicodeEncodeError):
            raise FileError(file_name, "holds a text that cannot be stored") from None
        _check(expect, file_name, totals)
        ambiguous = await connection.fetch(
            QUERIES["ambiguous_lines"], statement, name, SHOWN_COMPLAINTS + 1
        )
        if ambiguous:
            reason = "has no phone and its id names several messages"
            found = [Complaint(row["line"], None, reason) for row in ambiguous]
            raise FileError.of(
                file_name, found[:SHOWN_COMPLAINTS], more=len(found) > SHOWN_COMPLAINTS
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
        # What names a message whose number was purged is named as the ledger names it.
        if await connection.fetchval(QUERIES["numbers_were_purged"], name):
            await connection.execute(QUERIES["redact_new_lines"], statement)
        # A line can tell what became of a message that nobody knew the outcome of.
        identified = await sending.resolve_by_statement(
            connection, account, statement, period.bounds(account.account.zone)
        )
    await settlement.join_orphans(connection, identified)
    return Statement(
        id=statement,
        version=version,
        lines=totals.lines,
        segments=totals.segments,
        amount=totals.amount,
    )


def file_digest_of(path: Path, file_name: str, sheet: str | None) -> bytes:
    """Return what a file is recognised by: another sheet of the same file is another one.

    32 bytes; raises `FileError`, which calls the file `file_name`.
    """
    sha = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                sha.update(chunk)
    except OSError as error:
        raise FileError(file_name, f"cannot be read: {error.strerror}") from None
    if sheet is not None:
        sha.update(f"\0{sheet}".encode())
    return sha.digest()


async def preview(
    account: AccountSettings,
    path: Path,
    *,
    file_name: str,
    format_name: str,
    layout: Layout,
    expect: Expected = NOTHING_EXPECTED,
    progress: Callable[[int, float], None] | None = None,
) -> Preview:
    """Read the file at `path` as `import_file` does, and say what it would import; changes nothing.

    What is wrong in its lines stands in the preview; raises `FileError` for a file without the
    headings. Whether ids without a phone name one message each is found out by the import alone.
    """
    file_name = shown_name(file_name)
    currencies = {tariff.currency for tariff in account.tariffs}
    reading = _Reading(account, file_name, layout, currencies, progress)
    return await asyncio.to_thread(reading.preview, path, format_name, expect)


def shown_name(file_name: str) -> str:
    """Return the name as evidence and in complaints, wherever it came from."""
    return "".join(c if c.isprintable() else "\ufffd" for c in file_name)[:200]


def _check(expect: Expected, file_name: str, totals: Totals) -> None:
    if said := expect.complaints(totals):
        raise FileError(file_name, "; ".join(said))


async def _in_chunks(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Read in threads: the loop also answers the API and renews leases, and large files take a while."""
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


class _Reading:
    """One reading of a file: its lines, what they add up to, and what is wrong with them."""

    def __init__(
        self,
        account: AccountSettings,
        file_name: str,
        layout: Layout,
        currencies: Set[str],
        progress: Callable[[int, float], None] | None,
    ) -> None:
        self.totals = Totals()
        self._account = account.account
        self._file_name = file_name
        self._layout = layout
        self._currencies = currencies
        self._looks_for_yuan = bool(currencies) and "CNY" not in currencies
        self._progress = progress
        self._since_1904 = False
        self._part = Totals()  # since the last subtotal
        self._totals_line: int | None = None
        self._complaints: list[Complaint] = []

    def rows(self, path: Path, statement: UUID) -> Iterator[bytes]:
        """Yield rows for the table of lines as COPY reads text; raises `FileError` at the end."""
        name, named = self._account.name, str(statement)
        with opened(path, self._file_name, self._layout) as table:
            for chunk in self._chunks(table):
                # A file with a bad line is read on for the others, and imports nothing.
                if not self._complaints:
                    yield "".join([_copied(name, named, line) for line in chunk]).encode()
        if self._complaints:
            raise FileError.of(self._file_name, self._complaints, more=self._gave_up)

    def preview(self, path: Path, format_name: str, expect: Expected) -> Preview:
        first: list[_Line] = []
        with opened(path, self._file_name, self._layout) as table:
            for chunk in self._chunks(table):
                first += chunk[: PREVIEWED_LINES - len(first)]
        totals = self.totals
        problems = self._complaints or [
            Complaint(None, None, reason) for reason in expect.complaints(totals)
        ]
        return Preview(
            file=self._file_name,
            format=format_name,
            encoding=table.encoding,
            delimiter=table.delimiter,
            sheet=table.sheet,
            header_line=table.columns.header.line,
            columns=_previewed(table.columns, self._layout, format_name),
            first_lines=[
                PreviewedLine(
                    line=line.line,
                    vendor_message_id=line.vendor_message_id,
                    phone=line.phone,
                    segments=line.segments,
                    amount=None if line.amount is None else money(line.amount),
                    sent_at=line.sent_at,
                    status=line.status,
                    currency=line.currency,
                )
                for line in first
            ],
            lines=totals.lines,
            segments=totals.segments,
            amount=None if totals.amount is None else money(totals.amount),
            totals_line=self._totals_line,
            problems=[
                Obstacle(line=line, column=column, reason=reason)
                for line, column, reason in problems
            ],
            more_problems=self._gave_up,
        )

    @property
    def _gave_up(self) -> bool:
        return len(self._complaints) >= SHOWN_COMPLAINTS

    def _chunks(self, table: Table) -> Iterator[list[_Line]]:
        """Yield the file's good lines, so many rows of it at a time, and note what is wrong."""
        self._since_1904 = table.since_1904
        self._cells = table.columns.getter(*STATEMENT_COLUMNS)
        chunk: list[_Line] = []
        try:
            if self._looks_for_yuan and cells.in_yuan(table.columns.headings.get("amount", "")):
                raise self._other_currency(table.columns.header, table.columns, "amount", "CNY")
            for number, row in enumerate(table.rows(), start=1):
                try:
                    if (line := self._line(row, table.columns)) is not None:
                        chunk.append(line)
                except FileError as error:
                    self._complaints += error.complaints
                    if self._gave_up:
                        break
                if number % _CHUNK_LINES == 0:
                    yield chunk
                    chunk = []
                    if self._progress is not None:
                        self._progress(self.totals.lines, table.share)
        except FileError as error:
            self._complaints += error.complaints
        yield chunk
        if not self._complaints and self.totals.lines == 0:
            self._complaints.append(Complaint(None, None, "has headings but no lines"))

    def _line(self, row: Row, columns: Columns) -> _Line | None:
        """Return the row's line, counted; None where it bills nothing. Raises `FileError`."""
        id, phone, segments, amount, sent_at, status, currency = self._cells(row)
        plain_id = id.isascii() and id.isdigit()
        word = None if plain_id else adds_up(row, columns, "vendor_message_id")
        if word in SUBTOTALS:
            self._check_totals(row, columns, self._part)
            self._part = Totals()
            return None
        if word is not None:
            self._check_totals(row, columns, self.totals)
            self._totals_line = row.line
            return None
        if self._totals_line is not None:
            if segments or amount:
                reason = f"comes after the totals in line {self._totals_line}"
                raise FileError(self._file_name, reason, line=row.line)
            return None  # who made it, and when it was printed
        if self._looks_for_yuan and cells.in_yuan(amount):
            raise self._other_currency(row, columns, "amount", "CNY")
        line = _Line(
            line=row.line,
            vendor_message_id=id if plain_id and len(id) <= _MAX_ID else id_of(row, columns),
            phone=phone if _MAINLAND.fullmatch(phone) else phone_of(row, columns),
            segments=_segments(row, columns, segments),
            amount=_amount(row, columns, amount),
            sent_at=self._sent_at(row, columns, sent_at),
            status=status[:100] or None,
            currency=self._currency(row, columns, currency) if currency else None,
        )
        self.totals.add(line)
        self._part.add(line)
        return line

    def _currency(self, row: Row, columns: Columns, text: str) -> str:
        currency = currency_of(row, columns, text)
        if self._currencies and currency not in self._currencies:
            raise self._other_currency(row, columns, "currency", currency)
        return currency

    def _other_currency(self, row: Row, columns: Columns, field: str, currency: str) -> FileError:
        """Make the error of an amount that the prices of the tariffs cannot be held against."""
        wanted = " and ".join(sorted(self._currencies))
        reason = f"is in {currency}, and the tariffs of {self._account.name} are in {wanted}"
        return columns.error(row, field, reason)

    def _check_totals(self, row: Row, columns: Columns, totals: Totals) -> None:
        """Hold the file's own totals against its lines: who cut the file, or doubled it, is found out."""
        if self._complaints:
            return  # what its bad lines bill is not known
        if segments := columns.get(row, "segments"):
            stated = _segments(row, columns, segments, limit=None)
            if stated != totals.segments:
                reason = f"the totals say {stated}, and the lines add up to {totals.segments}"
                raise columns.error(row, "segments", reason)
        amount = amount_of(row, columns)
        if amount is not None and amount != (totals.amount or 0):
            reason = f"the totals say {amount}, and the lines add up to {totals.amount or 0}"
            raise columns.error(row, "amount", reason)

    def _sent_at(self, row: Row, columns: Columns, text: str) -> datetime | None:
        if not text:
            return None
        time_format = self._layout.time_format
        try:
            return cells.moment(
                text, self._account.zone, time_format=time_format, since_1904=self._since_1904
            )
        except ValueError:
            wanted = f" as {time_format}" if time_format else ""
            reason = f"{cells.quoted(text)} is not a time{wanted}"
            raise columns.error(row, "sent_at", reason) from None


def _copied(account: str, statement: str, line: _Line) -> str:
    """Return a row of the table of lines as COPY reads text."""
    shard: int
    id: UUID | None = None
    if line.phone is None:
        shard = shard_of(account, line.vendor_message_id)
    else:
        shard, id = message_keys(account, line.vendor_message_id, line.phone)
    amount, at = line.amount, line.sent_at
    return (
        f"{shard}\t{statement}\t{line.line}\t{_NULL if id is None else id}"
        f"\t{_escaped(line.vendor_message_id)}\t{line.phone or _NULL}\t{line.segments}"
        f"\t{_NULL if amount is None else str(amount)}\t{_NULL if at is None else at.isoformat()}"
        f"\t{_NULL if line.status is None else _escaped(line.status)}\n"
    )


def _escaped(text: str) -> str:
    return text if text.isalnum() else text.translate(_ESCAPES)


def adds_up(row: Row, columns: Columns, naming: str) -> str | None:
    """Return the word that marks a row of totals, one of `SUBTOTALS` for a part of the lines.

    A row with anything else in the column of the field `naming` is a line all the same.
    """
    name = columns.get(row, naming)
    if name and _word(name) not in _ADD_UP:
        return None
    return next((word for cell in row.cells if (word := _word(cell)) in _ADD_UP), None)


def _word(cell: str) -> str:
    """Return the word of a row of totals, of what people write: 合 计（元）："""
    if len(cell) > 20:
        return ""
    word = "".join(cells.plain(cell).split()).rstrip(":").lower()
    return word.removesuffix("(元)").removesuffix("(条)").rstrip(":")


def id_of(row: Row, columns: Columns) -> str:
    """Return the vendor's id that a row names; raises `FileError`."""
    text = columns.get(row, "vendor_message_id")
    if not text:
        raise columns.error(row, "vendor_message_id", "is empty")
    if text.startswith(PROVISIONAL):
        reason = f"begins with {PROVISIONAL}, as only our own provisional ids do: no vendor bills by them"
        raise columns.error(row, "vendor_message_id", reason)
    if cells.rounded(text):
        # Which digits a spreadsheet has dropped nobody can know: never guess whose bill this is.
        reason = f"{cells.quoted(text)} is an id that a spreadsheet has rounded"
        raise columns.error(row, "vendor_message_id", reason)
    if len(text) > _MAX_ID:
        raise columns.error(row, "vendor_message_id", f"has more than {_MAX_ID} characters")
    return text


def phone_of(row: Row, columns: Columns) -> str | None:
    """Return the phone that a row names, normalised, or None; raises `FileError`."""
    text = columns.get(row, "phone")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        text = cells.plain(text)
        if cells.rounded(text):
            raise columns.error(row, "phone", "is a number that a spreadsheet has rounded")
        if "*" in text:
            raise columns.error(
                row, "phone", "is masked: declare a format without a column of phones"
            )
        if kept_as_float := _FLOAT.fullmatch(text):
            text = kept_as_float[1]
        if not _PHONE.fullmatch(text):
            raise columns.error(row, "phone", "is no phone number")
    phone = normalise(text)
    if not phone or len(phone) > 32:
        raise columns.error(row, "phone", "is no phone number")
    return phone


def _segments(row: Row, columns: Columns, text: str, limit: int | None = _MAX_SEGMENTS) -> int:
    try:
        number = cells.whole(text)
    except ValueError as error:
        raise columns.error(row, "segments", f"{cells.quoted(text)} {error}") from None
    if limit is not None and number > limit:
        raise columns.error(row, "segments", f"{cells.quoted(text)} is more than {limit}")
    return number


def currency_of(row: Row, columns: Columns, text: str) -> str:
    """Return the currency that `text`, a cell of the row, names; raises `FileError`."""
    try:
        return cells.currency(text)
    except ValueError as error:
        raise columns.error(row, "currency", f"{cells.quoted(text)} {error}") from None


def amount_of(row: Row, columns: Columns) -> Decimal | None:
    """Return the amount of a row, or None; raises `FileError`."""
    return _amount(row, columns, columns.get(row, "amount"))


def _amount(row: Row, columns: Columns, text: str) -> Decimal | None:
    if not text:
        return None
    try:
        return cells.amount(text)
    except ValueError as error:
        raise columns.error(row, "amount", f"{cells.quoted(text)} {error}") from None


def _previewed(columns: Columns, layout: Layout, format_name: str) -> list[PreviewedColumn]:
    used = {position: field for field, position in columns.positions.items()}
    shown = []
    for position, heading in enumerate(columns.header.cells):
        field = used.get(position)
        if field is not None and format_name == "generic":
            because = f"{heading} is a usual heading of {field}"
        elif field is not None:
            because = f"[statements.{format_name}] declares it"
        elif (other := layout.field_of(heading)) is not None:
            because = f"{other} is read from {columns.headings[other]}"
        elif heading:
            because = f"no field of {format_name} is headed so"
        else:
            because = "has no heading"
        shown.append(PreviewedColumn(heading=heading, field=field, because=because))
    return shown
