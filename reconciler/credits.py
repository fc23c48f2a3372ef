"""Credit notes: what a vendor gives back, read from its file and set against what is disputed.

A line that names a message is for what is disputed of it; one that names none is for the oldest that
is disputed of the account, or of the period that it names. Never more is credited than is disputed.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from reconciler import cells, periods, statements
from reconciler.match import EXACT, money
from reconciler.periods import Period
from reconciler.tables import Columns, FileError, Layout, Row, opened
from runtime.identity import shard_of
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

HEADINGS: dict[str, tuple[str, ...]] = {
    "number": (
        "number",
        "credit note",
        "credit note number",
        "贷项通知单号",
        "贷记单号",
        "红字单号",
        "红冲单号",
        "退款单号",
    ),
    "vendor_message_id": statements.GENERIC["vendor_message_id"],
    "phone": statements.GENERIC["phone"],
    "amount": (*statements.GENERIC["amount"], "退款金额", "贷记金额", "冲减金额"),
    "currency": statements.GENERIC["currency"],
    "reason": ("reason", "原因", "退款原因", "说明", "备注"),
    "period": ("period", "账期", "账单周期"),
}
REQUIRED = ("number", "amount")
MAX_LINES = 100_000
_MOST = 200
_NOTHING = Decimal(0)


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    line: int
    number: str
    vendor_message_id: str | None
    phone: str | None
    period: Period | None
    amount: Decimal
    currency: str
    reason: str | None


class _Case(msgspec.Struct, kw_only=True):
    """A disputed case while a file is set against it; `parts` are (line, amount, rest after it)."""

    shard: int
    id: UUID
    version: int
    owner: str | None
    rest: Decimal
    parts: list[tuple[_Line, Decimal, Decimal]]


class _Credited(msgspec.Struct, frozen=True):
    allocated: Decimal
    outcome: str


def allocate(amount: Decimal, rests: Iterable[Decimal]) -> list[Decimal]:
    """Return how much of `amount` each of `rests` gets, in their order; exact and pure.

    None gets more than itself; together they get the whole amount, or all that they are.
    """
    parts = []
    for rest in rests:
        part = min(amount, max(rest, _NOTHING))
        parts.append(part)
        amount = EXACT.subtract(amount, part)
    return parts


async def import_file(
    connection: Any,
    account: AccountSettings,
    path: Path,
    *,
    file_name: str,
    sheet: str | None = None,
    now: datetime,
) -> dict[str, Any]:
    """Import the credit notes in the file at `path`, and set them against what is disputed.

    Durable on return; the answer is that of `POST /v1/credits`. The same file again changes nothing.
    `sheet` names the one to read of a workbook with several.
    All or nothing: raises `FileError` naming file, line and column.
    """
    file_name = statements.shown_name(file_name)
    name = account.account.name
    digest = await asyncio.to_thread(statements.file_digest_of, path, file_name, sheet)
    lines = await asyncio.to_thread(_read, path, file_name, sheet, _default_currency(account))
    async with connection.transaction():
        await connection.execute(QUERIES["lock_cases"], [name])
        known = await connection.fetchval(QUERIES["credit_of_file"], name, digest)
        if known is not None:
            return await _result(connection, known, duplicate=True)
        await _check_numbers(connection, name, lines, file_name)
        credit = uuid4()
        try:
            await connection.execute(
                QUERIES["add_credit"], credit, name, digest, file_name, len(lines), now
            )
            credited, touched = await _settle(connection, name, lines, file_name)
            await _keep(connection, credit, name, lines, credited)
            await _apply(connection, credit, touched, now)
        except asyncpg.DataError:
            raise FileError(file_name, "holds a text that cannot be stored") from None
        return await _result(connection, credit, duplicate=False)


async def _check_numbers(
    connection: Any, account: str, lines: Sequence[_Line], file_name: str
) -> None:
    """Refuse a credit note that another file brought: it would be credited twice."""
    numbers = sorted({line.number for line in lines})
    found = await connection.fetch(QUERIES["known_credit_numbers"], account, numbers)
    files = {row["number"]: row["file_name"] for row in found}
    for line in lines:
        if line.number in files:
            raise FileError(
                file_name,
                f"credit note {line.number} was imported before, from {files[line.number]}",
                line=line.line,
            )


async def _settle(
    connection: Any, account: str, lines: Sequence[_Line], file_name: str
) -> tuple[dict[int, _Credited], dict[UUID, _Case]]:
    """Say how much of each line is credited, and to which cases: first what names a message."""
    touched: dict[UUID, _Case] = {}
    credited: dict[int, _Credited] = {}
    named = [line for line in lines if line.vendor_message_id is not None]
    found = await connection.fetch(
        QUERIES["disputed_of_messages"],
        account,
        [shard_of(account, str(line.vendor_message_id)) for line in named],
        [line.vendor_message_id for line in named],
    )
    of_message: dict[str, list[Any]] = {}
    for row in found:
        of_message.setdefault(row["vendor_message_id"], []).append(row)
    for line in named:
        meant = [
            row for row in of_message.get(str(line.vendor_message_id), ()) if _means(line, row)
        ]
        if line.phone is None and len({row["phone"] for row in meant}) > 1:
            raise FileError(
                file_name,
                "has no phone, and several messages of its id are disputed",
                line=line.line,
            )
        credited[line.line] = await _share(line, _each(meant), touched)
    for line in lines:
        if line.vendor_message_id is None:
            days = (None, None) if line.period is None else (line.period.first, line.period.last)
            disputed = connection.cursor(
                QUERIES["disputed_of_account"], account, line.currency, *days, prefetch=500
            )
            credited[line.line] = await _share(line, disputed, touched)
    return credited, touched


def _means(line: _Line, row: Any) -> bool:
    return (
        row["currency"] == line.currency
        and line.phone in (None, row["phone"])
        and line.period in (None, Period(row["first_day"], row["last_day"]))
    )


async def _each(found: Sequence[Any]) -> AsyncIterator[Any]:
    for row in found:
        yield row


async def _share(
    line: _Line, disputed: AsyncIterator[Any], touched: dict[UUID, _Case]
) -> _Credited:
    """Share a line out over what is disputed, in that order, until nothing is left of either."""
    left, more = line.amount, False
    async for row in disputed:
        case = touched.get(row["id"])
        if case is None:
            case = _Case(
                shard=row["shard"],
                id=row["id"],
                version=row["version"],
                owner=row["owner"],
                rest=row["rest"],
                parts=[],
            )
        if case.rest == 0:
            continue
        if left == 0:
            more = True
            break
        (part,) = allocate(left, [case.rest])
        left = EXACT.subtract(left, part)
        case.rest = EXACT.subtract(case.rest, part)
        case.parts.append((line, part, case.rest))
        touched[case.id] = case
        more = case.rest > 0
    if left == line.amount:
        return _Credited(_NOTHING, "nothing_disputed")
    outcome = "over" if left else "partly" if more else "settled"
    return _Credited(EXACT.subtract(line.amount, left), outcome)


async def _keep(
    connection: Any,
    credit: UUID,
    account: str,
    lines: Sequence[_Line],
    credited: dict[int, _Credited],
) -> None:
    await connection.copy_records_to_table(
        "credit_lines",
        records=[
            (
                credit,
                line.line,
                account,
                line.number,
                line.vendor_message_id,
                line.phone,
                None if line.period is None else line.period.first,
                None if line.period is None else line.period.last,
                line.amount,
                credited[line.line].allocated,
                line.currency,
                line.reason,
                credited[line.line].outcome,
            )
            for line in lines
        ],
        columns=(
            "credit_id",
            "line",
            "account",
            "number",
            "vendor_message_id",
            "phone",
            "first_day",
            "last_day",
            "amount",
            "allocated",
            "currency",
            "reason",
            "outcome",
        ),
    )


async def _apply(connection: Any, credit: UUID, touched: dict[UUID, _Case], now: datetime) -> None:
    cases = list(touched.values())
    parts = [
        (case, place, *part) for case in cases for place, part in enumerate(case.parts, start=1)
    ]
    shards = [case.shard for case, *_ in parts]
    ids = [case.id for case, *_ in parts]
    numbers = [line.line for _, _, line, _, _ in parts]
    await connection.execute(
        QUERIES["add_allocations"], credit, shards, ids, numbers, [part[3] for part in parts]
    )
    await connection.execute(
        QUERIES["credit_cases"],
        [case.shard for case in cases],
        [case.id for case in cases],
        [_sum(amount for _, amount, _ in case.parts) for case in cases],
        [len(case.parts) for case in cases],
        now,
        "credit note",
    )
    await connection.execute(
        QUERIES["add_credit_changes"],
        credit,
        shards,
        ids,
        [case.version + place for case, place, *_ in parts],
        ["disputed" if rest else "credited" for *_, rest in parts],
        [case.owner for case, *_ in parts],
        [
            f"{money(amount)} of credit note {line.number}, {money(rest)} left"
            for _, _, line, amount, rest in parts
        ],
        now,
        "credit note",
        numbers,
    )


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = _NOTHING
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


async def _result(connection: Any, credit: UUID, *, duplicate: bool) -> dict[str, Any]:
    row = await connection.fetchrow(QUERIES["credit"], credit)
    sums = await connection.fetch(QUERIES["credit_sums"], credit)
    return {
        "id": str(credit),
        "account": row["account"],
        "lines": row["lines"],
        "amounts": [
            {
                "currency": each["currency"],
                "amount": money(each["amount"]),
                "allocated": money(each["allocated"]),
                "unallocated": money(EXACT.subtract(each["amount"], each["allocated"])),
            }
            for each in sums
        ],
        "duplicate_of": str(credit) if duplicate else None,
    }


def _read(path: Path, file_name: str, sheet: str | None, currency: str | None) -> list[_Line]:
    required = REQUIRED if currency else (*REQUIRED, "currency")
    layout = Layout(known=HEADINGS, required=required, sheet=sheet)
    lines: list[_Line] = []
    part = 0  # where the lines begin that the next subtotal adds up
    totals: Row | None = None
    with opened(path, file_name, layout) as table:
        columns = table.columns
        for row in table.rows():
            word = statements.adds_up(row, columns, "number")
            if word in statements.SUBTOTALS:
                _check_totals(row, columns, lines[part:])
                part = len(lines)
            elif word is not None:
                _check_totals(row, columns, lines)
                totals = row
            elif totals is None:
                lines.append(_line(row, columns, currency))
                if len(lines) > MAX_LINES:
                    raise FileError(file_name, f"has more than {MAX_LINES:,} lines")
            elif columns.get(row, "amount"):
                raise FileError(
                    file_name, f"comes after the totals in line {totals.line}", line=row.line
                )
    if not lines:
        raise FileError(file_name, "has headings but no lines")
    return lines


def _check_totals(row: Row, columns: Columns, lines: Sequence[_Line]) -> None:
    stated = statements.amount_of(row, columns)
    added = _sum(line.amount for line in lines)
    if stated is not None and stated != added:
        reason = f"the totals say {stated}, and the lines add up to {added}"
        raise columns.error(row, "amount", reason)


def _line(row: Row, columns: Columns, currency: str | None) -> _Line:
    number = columns.get(row, "number")
    if not number:
        raise columns.error(row, "number", "is empty")
    if cells.rounded(number):
        reason = f"{cells.quoted(number)} is a number that a spreadsheet has rounded"
        raise columns.error(row, "number", reason)
    if len(number) > _MOST:
        raise columns.error(row, "number", f"has more than {_MOST} characters")
    amount = statements.amount_of(row, columns)
    if amount is None:
        raise columns.error(row, "amount", "is empty")
    if amount <= 0:
        raise columns.error(row, "amount", "is not above 0: a credit is what is given back")
    named = bool(columns.get(row, "vendor_message_id"))
    phone = statements.phone_of(row, columns)
    if phone is not None and not named:
        raise columns.error(row, "phone", "names no message without a vendor_message_id")
    return _Line(
        line=row.line,
        number=number,
        vendor_message_id=statements.id_of(row, columns) if named else None,
        phone=phone,
        period=_period(row, columns),
        amount=amount,
        currency=_currency(row, columns, currency),
        reason=columns.get(row, "reason")[:_MOST] or None,
    )


def _default_currency(account: AccountSettings) -> str | None:
    # ASSUMPTION: a vendor that names no currency gives back in the one that it charges in.
    currencies = {tariff.currency for tariff in account.tariffs}
    return currencies.pop() if len(currencies) == 1 else None


def _period(row: Row, columns: Columns) -> Period | None:
    text = columns.get(row, "period")
    if not text:
        return None
    try:
        return periods.parse(text)
    except ValueError as error:
        raise columns.error(row, "period", str(error)) from None


def _currency(row: Row, columns: Columns, default: str | None) -> str:
    if default is not None and "currency" not in columns.positions:
        return default
    return statements.currency_of(row, columns, columns.get(row, "currency"))
