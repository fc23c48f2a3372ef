"""The billing audit: questions of a finance department and a telecom auditor, each a file in `sql/audit`.

A file begins with comments that are parsed here, one line each, in this order:

    -- Asks: the question in English
    -- 问: the question in Chinese
    -- Parameter NAME (TYPE, RULE): meaning in English | 中文
    -- Binds: what stands for $1, $2, ...; `limit` is the last
    -- Column NAME (TYPE) 中文标题: meaning in English | 中文
    -- Note: how far to trust it | 中文

A parameter is `account (account, optional)`, `period (period)`, which must be given, or a number with
`default D, LOW to HIGH`. `Binds` names numbers of the parameters, and what `RESERVED` lists, which is
filled in for each account in turn: a query answers for one account, in that account's zone.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import msgspec

from reconciler import match, periods
from reconciler.match import money
from reconciler.periods import Period
from runtime import Problem
from runtime.queries import QUERIES, SQL
from runtime.settings import AccountSettings, Settings

MAX_ROWS = 10_000  # of an answer that is not a file
API_SECONDS = 60
COMMAND_SECONDS = 3600

# What a query may bind beside its own parameters; all but the first three need a period.
RESERVED = {
    "account": "the account's name",
    "zone": "its time zone",
    "now": "the time of asking",
    "starts": "the first moment of the period, in the account's zone",
    "ends": "the first moment after it",
    "first_day": "the first day of the period",
    "last_day": "its last day",
    "currency": "the one currency of the account's tariffs in the period, or NULL without tariffs",
    "tariff_starts": "the first moment of each tariff",
    "tariff_ends": "the first moment at which it no longer holds",
    "tariff_prices": "its price",
    "tariff_bases": "its basis: delivered, submitted, or accepted where the vendor reports nothing",
    "limit": "how many rows, or NULL for all",
}
_WITHOUT_PERIOD = {"account", "zone", "now", "limit"}
# What calls and commands name otherwise.
_TAKEN = {"format", "limit", "lang", "cursor"}

_NAME = re.compile(r"[a-z]+(-[a-z]+)*")
_PARAMETER = re.compile(
    r"(?P<name>[a-z]+(?:_[a-z]+)*) \((?P<type>account|period|integer|decimal)"
    r"(?:, (?P<rule>optional|default (?P<default>[\d.]+), (?P<low>[\d.]+) to (?P<high>[\d.]+)))?\): "
    r"(?P<en>[^|]+) \| (?P<zh>[^|]+)"
)
_COLUMN = re.compile(
    r"(?P<name>[a-z][a-z0-9]*(?:_[a-z0-9]+)*) "
    r"\((?P<type>text|integer|decimal|date|time|boolean|id)\) "
    r"(?P<heading>\S+): (?P<en>[^|]+) \| (?P<zh>[^|]+)"
)
_NOTE = re.compile(r"(?P<en>[^|]+) \| (?P<zh>[^|]+)")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_BOUND = re.compile(r"\$(\d+)")
_INTEGER = re.compile(r"\d{1,9}", re.ASCII)
_DECIMAL = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)


class BadParameter(Problem):
    """A parameter that is missing, unknown or wrong; the text says what was expected."""


class NoSuchQuery(Problem):
    """A query that there is none of."""


class TookTooLong(Problem):
    """A query that was stopped; the text says what to do."""


class Words(msgspec.Struct, frozen=True):
    """The same in English and Chinese."""

    en: str
    zh: str


class Parameter(msgspec.Struct, frozen=True):
    """What can be asked for; `default`, `low` and `high` are decimal text, None where there is none."""

    name: str
    type: Literal["account", "period", "integer", "decimal"]
    required: bool
    default: str | None
    low: str | None
    high: str | None
    meaning: Words


class Column(msgspec.Struct, frozen=True):
    """A column of the answer; `heading` is its Chinese one, the English one is its name."""

    name: str
    type: Literal["text", "integer", "decimal", "date", "time", "boolean", "id"]
    heading: str
    meaning: Words


class Query(msgspec.Struct, frozen=True):
    """One file: `binds` says what stands for $1, $2, ... in `text`."""

    name: str
    question: Words
    parameters: tuple[Parameter, ...]
    columns: tuple[Column, ...]
    note: Words | None
    binds: tuple[str, ...]
    text: str

    def described(self) -> dict[str, Any]:
        """Return the query as `GET /v1/audit` lists it."""
        return {
            "name": self.name,
            "question": msgspec.to_builtins(self.question),
            "parameters": msgspec.to_builtins(self.parameters),
            "columns": msgspec.to_builtins(self.columns),
            "note": msgspec.to_builtins(self.note),
        }

    def headings(self, lang: str) -> list[str]:
        """Return the headings of a file in `lang`, "en" or "zh"."""
        return [column.heading if lang == "zh" else column.name for column in self.columns]


def parse(name: str, source: str) -> Query:
    """Read a file's text; raises ValueError, naming the file and the line or what is missing."""
    header, _, text = source.partition("\n\n")
    found: dict[str, list[Any]] = {}
    order = ("Asks", "问", "Parameter", "Binds", "Column", "Note")
    last = 0
    for number, line in enumerate(header.splitlines(), start=1):
        label, _, rest = line.removeprefix("-- ").partition(" ")
        label = label.removesuffix(":")
        shape = {"Parameter": _PARAMETER, "Column": _COLUMN, "Note": _NOTE}.get(label)
        read: Any = shape.fullmatch(rest) if shape else rest.strip()
        if not line.startswith("-- ") or label not in order or not read:
            raise ValueError(f"{name}, line {number}: is no line of a header: {line[:60]}")
        if order.index(label) < last:
            raise ValueError(f"{name}, line {number}: {label} stands too late")
        last = order.index(label)
        found.setdefault(label, []).append(read)
    for label in ("Asks", "问", "Binds"):
        if len(found.get(label, [])) != 1:
            raise ValueError(f"{name}: expected one line {label!r}")
    query = Query(
        name,
        Words(found["Asks"][0], found["问"][0]),
        tuple(_parameter(each) for each in found.get("Parameter", [])),
        tuple(
            Column(each["name"], each["type"], each["heading"], _words(each))
            for each in found.get("Column", [])
        ),
        _words(found["Note"][0]) if "Note" in found else None,
        tuple(found["Binds"][0].split(", ")),
        text.strip().removesuffix(";"),
    )
    for complaint in _complaints(query):
        raise ValueError(f"{name}: {complaint}")
    return query


def _words(found: re.Match[str]) -> Words:
    return Words(found["en"].strip(), found["zh"].strip())


def _parameter(found: re.Match[str]) -> Parameter:
    return Parameter(
        found["name"],
        found["type"],  # type: ignore[arg-type]
        found["rule"] is None,
        found["default"],
        found["low"],
        found["high"],
        _words(found),
    )


def _complaints(query: Query) -> list[str]:
    parameters = {parameter.name: parameter for parameter in query.parameters}
    columns = [column.name for column in query.columns]
    numbers = {name for name, each in parameters.items() if each.type in ("integer", "decimal")}
    bound = set(query.binds)
    chinese = [query.question.zh, *(column.heading for column in query.columns)]
    chinese += [parameter.meaning.zh for parameter in query.parameters]
    chinese += [column.meaning.zh for column in query.columns]
    checks = (
        (not _NAME.fullmatch(query.name), "is not named as queries are: by-day.sql"),
        (not columns, "has no columns"),
        (len(set(columns)) < len(columns), "names a column twice"),
        (len(parameters) < len(query.parameters), "names a parameter twice"),
        (len(bound) < len(query.binds), "binds a value twice"),
        (not all(map(_CHINESE.search, chinese)), "lacks Chinese words"),
        ("account" not in parameters, "has no parameter account"),
        (
            any((each.default is None) == (each.name in numbers) for each in query.parameters),
            "has a number without a default, or a default for what is no number",
        ),
        (
            any(
                each.type != each.name
                for each in query.parameters
                if each.type in ("account", "period")
            ),
            "gives account or period another name",
        ),
        (bool(numbers & (_TAKEN | RESERVED.keys())), "has a parameter whose name is taken"),
        (bound - RESERVED.keys() != numbers, "does not bind exactly its parameters"),
        (
            bool(bound & (RESERVED.keys() - _WITHOUT_PERIOD)) != ("period" in parameters),
            "has a period without binding it, or the other way round",
        ),
        (
            {int(number) for number in _BOUND.findall(query.text)}
            != set(range(1, len(query.binds) + 1)),
            "does not use exactly what it binds",
        ),
        (
            query.binds[-1] != "limit"
            or not query.text.endswith(f"\nLIMIT ${len(query.binds)}::bigint"),
            "does not end in its limit",
        ),
    )
    return [complaint for wrong, complaint in checks if wrong]


def load(folder: Path) -> dict[str, Query]:
    """Read the queries of `folder` by name; raises ValueError for the first malformed one."""
    return {
        path.stem: parse(path.stem, path.read_text("utf-8"))
        for path in sorted(folder.glob("*.sql"))
    }


AUDIT = load(SQL / "audit")


class Asked(msgspec.Struct, frozen=True):
    """A query with its parameters: the zone and, but for the limit, the values of each account."""

    query: Query
    parameters: dict[str, str]
    accounts: tuple[tuple[ZoneInfo, tuple[Any, ...]], ...]


def ask(settings: Settings, name: str, given: Mapping[str, str], *, now: datetime) -> Asked:
    """Check what was given for a query and complete it; pure.

    Raises `NoSuchQuery`, `BadParameter`, and `match.Impossible` for tariffs in two currencies.
    """
    query = AUDIT.get(name)
    if query is None:
        raise NoSuchQuery(f"no audit query {name[:64]!r}; there are: {', '.join(AUDIT)}")
    known = [parameter.name for parameter in query.parameters]
    for unknown in sorted(given.keys() - set(known)):
        raise BadParameter(f"{unknown[:64]!r}: no parameter of {name}; expected {', '.join(known)}")
    values: dict[str, Any] = {}
    shown: dict[str, str] = {}
    for parameter in query.parameters:
        text = given.get(parameter.name, parameter.default)
        if text is None and parameter.required:
            raise BadParameter(f"{parameter.name}: missing; expected {_expected(parameter)}")
        if text is not None:
            values[parameter.name] = _value(parameter, text, settings)
            shown[parameter.name] = str(values[parameter.name])
    names = [values.pop("account")] if "account" in values else sorted(settings.accounts)
    period = values.pop("period", None)
    accounts = []
    for account in (settings.accounts[name] for name in names):
        filled = {**values, **_filled(query, account, period, now)}
        arguments = tuple(filled[bind] for bind in query.binds[:-1])
        accounts.append((account.account.zone, arguments))
    return Asked(query, shown, tuple(accounts))


def _expected(parameter: Parameter) -> str:
    match parameter.type:
        case "account":
            return "an account of the settings"
        case "period":
            return "a period, such as 2026-10 or 2026-10-01..2026-10-15"
        case "integer":
            return f"an integer from {parameter.low} to {parameter.high}"
        case _:
            return f"a decimal from {parameter.low} to {parameter.high}"


def _value(parameter: Parameter, text: str, settings: Settings) -> Any:
    wrong = BadParameter(
        f"{parameter.name}: expected {_expected(parameter)}, and not {text[:40]!r}"
    )
    if parameter.type == "account":
        if text not in settings.accounts:
            known = ", ".join(sorted(settings.accounts)) or "none"
            raise BadParameter(f"account: no account {text[:64]!r}; expected one of: {known}")
        return text
    if parameter.type == "period":
        try:
            return periods.parse(text)
        except ValueError:
            raise wrong from None
    whole = parameter.type == "integer"
    if not (_INTEGER if whole else _DECIMAL).fullmatch(text):
        raise wrong
    number = int(text) if whole else Decimal(text)
    if not Decimal(parameter.low or 0) <= number <= Decimal(parameter.high or 0):
        raise wrong
    return number


def _filled(
    query: Query, account: AccountSettings, period: Period | None, now: datetime
) -> dict[str, Any]:
    """Return what is reserved, as far as `query` can ask for it."""
    filled: dict[str, Any] = {
        "account": account.account.name,
        "zone": account.account.zone.key,
        "now": now,
    }
    if period is not None:
        starts, ends = period.bounds(account.account.zone)
        filled |= {
            "starts": starts,
            "ends": ends,
            "first_day": period.first,
            "last_day": period.last,
        }
    if period is not None and "currency" in query.binds:
        currency: str | None = None
        columns: tuple[list[Any], ...] = ([], [], [], [])
        if account.tariffs:
            currency = match.currency_in(account, period)
            columns = match.tariff_columns(account, currency)
        if not account.gateway.reports:
            # Nobody can know more of a message than that the vendor took it.
            columns = (*columns[:3], ["accepted" if b == "delivered" else b for b in columns[3]])
        names = ("tariff_starts", "tariff_ends", "tariff_prices", "tariff_bases")
        filled |= {"currency": currency, **dict(zip(names, columns, strict=True))}
    return filled


async def first(
    connection: Any, asked: Asked, *, limit: int, seconds: float
) -> tuple[list[dict[str, Any]], bool]:
    """Return the first `limit` rows, account by account, and whether there are more.

    Reads one snapshot and can write nothing. Raises `TookTooLong` past `seconds` for a statement.
    """
    items: list[dict[str, Any]] = []
    async with _reading(connection, seconds):
        for zone, arguments in asked.accounts:
            rows = await connection.fetch(asked.query.text, *arguments, limit + 1 - len(items))
            items += [item(row, zone) for row in rows]
            if len(items) > limit:
                return items[:limit], True
    return items, False


async def every(
    connection: Any, asked: Asked, *, seconds: float
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield all rows, account by account; reads and raises as `first` does."""
    async with _reading(connection, seconds):
        for zone, arguments in asked.accounts:
            # At first without a cursor, for which PostgreSQL would not run in parallel.
            rows = await connection.fetch(asked.query.text, *arguments, MAX_ROWS + 1)
            if len(rows) <= MAX_ROWS:
                for row in rows:
                    yield item(row, zone)
                continue
            async for row in connection.cursor(asked.query.text, *arguments, None, prefetch=1000):
                yield item(row, zone)


@asynccontextmanager
async def _reading(connection: Any, seconds: float) -> AsyncIterator[None]:
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(QUERIES["think_long"])
            await connection.execute(QUERIES["audit_bounds"], str(int(seconds * 1000)))
            yield
    except asyncpg.QueryCanceledError:
        raise TookTooLong(
            f"stopped after {seconds:.0f} seconds: ask for one account or a shorter period"
        ) from None


def item(row: Mapping[str, Any], zone: ZoneInfo) -> dict[str, Any]:
    """Return a row as JSON has it: decimals as text, times with the offset of `zone`."""
    return {name: _shown(value, zone) for name, value in row.items()}


def _shown(value: Any, zone: ZoneInfo) -> Any:
    match value:
        case Decimal():
            return money(value)
        case datetime():
            return value.astimezone(zone).isoformat()
        case date():
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            return value
