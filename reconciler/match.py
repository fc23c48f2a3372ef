"""Reconciliation: a vendor's bill against the ledger, to the last digit.

The matching is set-based SQL (`sql/queries/reconcile.sql`) over one snapshot of the database; this
module brings the rules to it (period, tariffs, the clock) and makes the result of what it counted.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

import asyncpg
import msgspec

from gateways import segments
from reconciler import cases, causes
from reconciler.assumptions import assumed as assumptions_of
from reconciler.periods import Period, day_start
from runtime import Problem
from runtime.queries import QUERIES, SQL
from runtime.settings import AccountSettings, Tariff

KINDS = (
    "billed_not_sent",
    "billed_not_delivered",
    "billed_twice",
    "billed_out_of_period",
    "segments_differ",
    "price_differs",
    "not_billed",
    "reports_contradict",
    "report_missing",
)
# By what the fate of a segment is known: every one that was sent is in one class.
COVERAGE = ("pushed", "polled", "pulled", "statement_only", "expired", "unexplained")
# Where reports come from; of several the first here tells a message's fate.
_SOURCES = ("push", "query", "pull")
# Assumptions that count texts anew.
_RECOUNTED = {"segment_rule", "segment_unit"}
# What is taken for the bill.
Source = Literal["statement", "reports"]
# Beyond any time that a message can have: open ends that every PostgreSQL driver can carry.
_OPEN_END = date(9000, 1, 1)
_OPEN_START = date(1900, 1, 1)
# Said only of accounts whose vendor reports nothing.
_LAST_KNOWN = "accepted_is_last_known"
# Whatever the rules say by then, a run names those that it went by.
# What decides a result beside the settings and the evidence.
_RULES = (SQL / "queries" / "reconcile.sql", Path(causes.__file__), Path(segments.__file__))
_RULES_VERSION = hashlib.sha256(b"".join(file.read_bytes() for file in _RULES)).hexdigest()
# All shards, and two halves of them.
_SHARDS = (-(2**31), 2**31 - 1)
_HALVES = ((-(2**31), -1), (0, 2**31 - 1))
# With fewer lines a second connection costs more than it brings.
_MANY_LINES = 100_000
_BLOCKS = 16  # between two connections at most

Connect = Callable[[], AbstractAsyncContextManager[Any]]

EXACT = Context(prec=100)  # the usual 28 digits would round a difference


class Impossible(Problem):
    """A period that cannot be reconciled; the text says in one line what is missing."""


class Closed(Problem):
    """A period that this run cannot close; the text says in one line why."""


def money(amount: Decimal) -> str:
    """Return `amount` as the shortest decimal text: no exponent, no trailing zeros, no -0."""
    text = format(amount, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


async def reconcile(
    connection: Any,
    settings: AccountSettings,
    period: Period,
    *,
    now: datetime,
    source: Source = "statement",
    assume: Mapping[str, str] | None = None,
    close_by: str | None = None,
    beside: Connect | None = None,
    progress: Callable[[str, float], None] = lambda _stage, _share: None,
) -> dict[str, Any]:
    """Reconcile the account's bill of `period`; keep the run; return its result.

    The bill is the newest statement or, from `source` "reports", what reports say that messages
    cost. The result is interface section 6's object. The same evidence and rules give the same
    result but for `id`; `now` decides only which messages wait no longer for a report.

    Of a closed period the run is an adjustment. With `close_by`, a person's name, the run closes
    the period. With `assume` it goes by other rules than the settings', and is kept apart. The
    period's cases are brought up to the run, unless it assumes something. `progress` is told each
    stage as it begins, and the share of all that is behind it. A long bill is weighed on two connections
    at once, if `beside` gives another: it reads the same snapshot, and changes nothing.

    Raises `Impossible` without a bill, a tariff for a day that needs one, or one currency, or if an
    assumption is unknown; and `Closed` if the period cannot be closed.
    """
    assumptions: dict[str, str] = {}
    if assume:
        if close_by is not None:
            raise Closed("a run that assumes something closes no period")
        try:
            settings, assumptions = assumptions_of(settings, assume)
        except ValueError as error:
            raise Impossible(str(error)) from None
    run = _Run(uuid4(), settings, period, now, source, assumptions, close_by, beside, progress)
    while True:
        try:
            async with connection.transaction(isolation="repeatable_read"):
                result = await run.make(connection)
            break
        except asyncpg.SerializationError:
            # Another run of the period was under way when this began: it must see what that left.
            continue
    if not assumptions:
        progress("following cases", 0.95)
        # By itself: in the run's one snapshot a person who decides meanwhile would break the run off.
        await cases.follow(
            connection,
            run.id,
            settings.account.name,
            period,
            currency=result["currency"],
            now=now,
        )
    return result


async def ranked_causes(connection: Any, run: UUID) -> list[dict[str, Any]]:
    """Return a run's causes, the one with most money first; they add up to its difference."""
    return [
        {
            "cause": row["cause"],
            "kind": row["kind"],
            "count": row["count"],
            "segments": row["segments"],
            "amount": money(row["amount"]),
        }
        for row in await connection.fetch(QUERIES["count_causes"], run)
    ]


async def close(connection: Any, run: UUID, *, by: str, now: datetime) -> bool:
    """Close the period of `run` with it, for ever; False if there is no such run.

    Raises `Closed` if the period is closed already, or the run is not its newest.
    """
    async with connection.transaction():
        row = await connection.fetchrow(QUERIES["run_to_close"], run)
        if row is None:
            if await connection.fetchrow(QUERIES["run"], run) is None:
                return False
            raise Closed("a run that assumes something closes no period")
        period = Period(row["first_day"], row["last_day"])
        _check_open(row["account"], period, row)
        if row["newest_run"] != run:
            newer = row["version"] < row["versions"]
            raise Closed(
                f"version {row['version']} of {row['account']}'s {period} is not the newest: "
                f"close version {row['versions']}"
                if newer
                else f"{row['account']}'s {period} was reconciled by an older Huizhi: do it again"
            )
        await _close(connection, row["account"], period, run, by, now)
    return True


async def _close(
    connection: Any, account: str, period: Period, run: UUID, by: str, now: datetime
) -> None:
    await connection.execute(
        QUERIES["close_period"], account, period.first, period.last, run, now, by
    )


def _check_open(account: str, period: Period, row: Any) -> None:
    """Raise `Closed` if `row`, a period's, says that it is closed."""
    if row["closed_run"] is not None:
        raise Closed(
            f"{account}'s {period} was closed at {row['closed_at']:%Y-%m-%d %H:%M} UTC by "
            f"{row['closed_by']} with run {row['closed_run']} and is never opened again: "
            "reconcile it, and the run is an adjustment"
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """One run, in the transaction that `reconcile` gives it."""

    id: UUID
    settings: AccountSettings
    period: Period
    now: datetime
    source: Source
    assumptions: dict[str, str]
    close_by: str | None
    beside: Connect | None
    progress: Callable[[str, float], None]

    async def make(self, connection: Any) -> dict[str, Any]:
        settings, period = self.settings, self.period
        account = settings.account.name
        days = (account, period.first, period.last)
        # First of all, so that a run that began meanwhile shows before anything was read.
        kept = None
        if not self.assumptions:
            kept = await connection.fetchrow(QUERIES["take_version"], *days)
            if self.close_by is not None:
                _check_open(account, period, kept)
        currency = currency_in(settings, period)
        starts, ends = period.bounds(settings.account.zone)
        statement = await self._take(connection, currency)
        self.progress("segments", 0.8)
        await connection.execute(QUERIES["analyze_run"])
        if self.assumptions.keys() & _RECOUNTED:
            await causes.recount(connection, settings)
        await causes.explain_segments(connection, settings)
        self.progress("discrepancies", 0.85)
        prices = [tariff.price for tariff in settings.tariffs if tariff.currency == currency]
        await connection.execute(
            QUERIES["add_discrepancies"], self.id, account, starts, ends, prices
        )
        result = await _result(connection, self.id, settings, period, currency, self.source)
        self.progress("keeping the run", 0.9)
        if self.assumptions:
            result["status"] = f"assumed_{result['status']}"
            result["assumed"] = self.assumptions
        adjusts = None if kept is None else kept["closed_run"]
        if kept is not None:
            await connection.execute(QUERIES["take_outcomes"])
        if adjusts is not None:
            result["adjusts"] = str(adjusts)
            result["adjustment"] = await self._adjust(connection, adjusts, currency)
        await connection.execute(
            QUERIES["add_run"],
            self.id,
            *days,
            None if statement is None else statement["id"],
            self.now,
            _rules(settings, statement, self.assumptions),
            msgspec.json.encode(result).decode(),
            None if kept is None else kept["versions"],
            bool(self.assumptions),
            adjusts,
        )
        if kept is not None and adjusts is None:
            if kept["newest_run"] is not None:
                await connection.execute(QUERIES["drop_outcomes"], kept["newest_run"])
                await connection.execute(QUERIES["drop_even_outcomes"], kept["newest_run"])
            await connection.execute(QUERIES["keep_outcomes"], self.id)
            await connection.execute(QUERIES["keep_even_outcomes"], self.id)
            await connection.execute(QUERIES["name_newest_run"], *days, self.id)
        if self.close_by is not None:
            await _close(connection, account, period, self.id, self.close_by, self.now)
        return result

    async def _take(self, connection: Any, currency: str) -> Any:
        """Take the period's messages and its bill; return the statement, None without one."""
        settings, period = self.settings, self.period
        account, zone = settings.account.name, settings.account.zone
        starts, ends = period.bounds(zone)
        tariffs = tariff_columns(settings, currency)
        reports = settings.gateway.reports
        statement = None
        if self.source == "statement":
            statement = await connection.fetchrow(
                QUERIES["newest_statement"], account, period.first, period.last
            )
            if statement is None:
                raise Impossible(f"{account} has no statement for {period}: import it first")
        await connection.execute(QUERIES["run_settings"])
        await connection.execute(QUERIES["reconcile_tables"])
        phoneless = statement is not None and await connection.fetchval(
            QUERIES["lines_without_phone"], statement["id"]
        )
        # What reports charge, and texts counted otherwise, can make any message differ.
        all_looked_at = statement is None or bool(self.assumptions.keys() & _RECOUNTED)
        missing_before = self.now - timedelta(hours=settings.poll_until_hours)
        self.progress("messages", 0.0)
        first_moments, _, prices, bases = tariffs
        weighed = (
            account,
            starts,
            ends,
            None if statement is None else statement["id"],
            first_moments,
            prices,
            bases,
            _SOURCES,
            reports,
            missing_before,
            phoneless,
            all_looked_at,
        )
        lines = 0 if statement is None or all_looked_at else statement["lines"]
        see_the_same = None
        if self.beside is not None and lines >= _MANY_LINES:
            see_the_same = await connection.fetchval(QUERIES["export_snapshot"])
        if self.beside is None or see_the_same is None:
            await connection.execute(QUERIES["weigh"], *weighed, *_SHARDS)
        else:
            await _weigh_by_two(connection, self.beside, see_the_same, weighed)
        await connection.execute(QUERIES["analyze_weighed"])
        await connection.execute(
            QUERIES["take_messages"], account, starts, ends, missing_before, *tariffs, reports
        )
        self.progress("the bill", 0.75)
        if statement is None:
            await connection.execute(
                QUERIES["take_charges"], account, starts, ends, *tariffs, reports
            )
            troubles = await connection.fetchrow(QUERIES["charge_troubles"], account, currency)
            _check_charges(settings, period, currency, troubles)
            return None
        await connection.execute(
            QUERIES["take_lines"],
            statement["id"],
            account,
            starts,
            ends,
            *tariffs,
            reports,
            phoneless,
        )
        troubles = await connection.fetchrow(QUERIES["run_troubles"], starts)
        _check(settings, period, currency, troubles)
        return statement

    async def _adjust(self, connection: Any, adjusts: UUID, currency: str) -> dict[str, Any]:
        """Keep what the run changes of the closed one; return it added up."""
        closed = msgspec.json.decode((await connection.fetchrow(QUERIES["run"], adjusts))["result"])
        if closed["currency"] != currency:
            raise Impossible(
                f"{self.settings.account.name}'s {self.period} was closed in {closed['currency']}, "
                f"and its tariffs are in {currency} now"
            )
        await connection.execute(QUERIES["add_adjustments"], self.id, adjusts)
        row = await connection.fetchrow(QUERIES["count_adjustments"], self.id)
        return {
            "changed": row["changed"],
            **_sums(
                sent=(row["sent_messages"], row["sent_segments"]),
                owed=(row["owed_messages"], row["owed_segments"], row["owed_amount"]),
                billed=(row["billed_lines"], row["billed_segments"], row["billed_amount"]),
            ),
        }


def _check_charges(settings: AccountSettings, period: Period, currency: str, troubles: Any) -> None:
    name = settings.account.name
    _check_messages(settings, troubles)
    if not troubles["charges"]:
        raise Impossible(f"no report of {name}'s says what a message of {period} cost")
    if (other := troubles["other_currency"]) is not None:
        raise Impossible(
            f"{name}'s reports for {period} say prices in {other}, and its tariffs are in {currency}"
        )
    if (unpriced := troubles["unpriced"]) is not None:
        raise Impossible(
            f"{name}'s reports for {period}: {unpriced} has neither amount nor price, and its day "
            f"no tariff in {currency}"
        )


def _check_messages(settings: AccountSettings, troubles: Any) -> None:
    if (at := troubles["untariffed_message"]) is not None:
        day = at.astimezone(settings.account.zone).date()
        raise Impossible(f"{settings.account.name} has no tariff for {day}, when it sent messages")


def _check(settings: AccountSettings, period: Period, currency: str, troubles: Any) -> None:
    name, zone = settings.account.name, settings.account.zone
    _check_messages(settings, troubles)
    if (line := troubles["ambiguous_line"]) is not None:
        raise Impossible(
            f"{name}'s statement for {period}: line {line} has no phone and its id names several messages"
        )
    if (line := troubles["unpriced_line"]) is not None:
        day = troubles["unpriced_at"].astimezone(zone).date()
        raise Impossible(
            f"{name}'s statement for {period}: line {line} has no amount, and its day, {day}, "
            f"no tariff in {currency}"
        )


def _sums(
    *, sent: tuple[int, int], owed: tuple[int, int, Decimal], billed: tuple[int, int, Decimal]
) -> dict[str, Any]:
    """Return what was sent, is owed and was billed, and the difference, as a result shows them."""
    return {
        "sent": {"messages": sent[0], "segments": sent[1]},
        "owed": {"messages": owed[0], "segments": owed[1], "amount": money(owed[2])},
        "billed": {"lines": billed[0], "segments": billed[1], "amount": money(billed[2])},
        "difference": {
            "segments": billed[1] - owed[1],
            "amount": money(EXACT.subtract(billed[2], owed[2])),
        },
    }


async def _weigh_by_two(
    connection: Any, beside: Connect, see_the_same: str, weighed: Sequence[Any]
) -> None:
    """Weigh half of the shards here and half on another connection, and bring what that found here."""
    mine, others = _HALVES
    async with beside() as other, other.transaction(isolation="repeatable_read"):
        await other.execute(see_the_same)
        await other.execute(QUERIES["run_settings"])
        await other.execute(QUERIES["reconcile_tables"])
        await _both(
            connection.execute(QUERIES["weigh"], *weighed, *mine),
            other.execute(QUERIES["weigh"], *weighed, *others),
        )
        blocks: asyncio.Queue[bytes] = asyncio.Queue(_BLOCKS)

        async def give() -> None:
            await other.copy_from_table("run_weighed", output=blocks.put, format="binary")
            await blocks.put(b"")

        async def taken() -> AsyncIterator[bytes]:
            while block := await blocks.get():
                yield block

        await _both(
            give(), connection.copy_to_table("run_weighed", source=taken(), format="binary")
        )


async def _both(*work: Coroutine[Any, Any, Any]) -> None:
    """Do both at once; when one fails, break the other off and raise what failed first."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _result(
    connection: Any,
    run: UUID,
    settings: AccountSettings,
    period: Period,
    currency: str,
    source: Source,
) -> dict[str, Any]:
    account = settings.account.name
    messages = await connection.fetchrow(QUERIES["count_messages"])
    lines = await connection.fetchrow(QUERIES["count_lines"])
    whole = await connection.fetchrow(QUERIES["count_unresolved"], account)
    unresolved = {
        "report_missing": messages["report_missing"],
        "orphans": whole["orphans"],
        "quarantined": whole["quarantined"],
        "suspects": whole["suspects"],
    }
    if not settings.gateway.reports:
        unresolved[_LAST_KNOWN] = messages["accepted"]
    classes = COVERAGE if settings.gateway.reports else (*COVERAGE, _LAST_KNOWN)
    covered = {
        row["class"]: row["segments"]
        for row in await connection.fetch(QUERIES["count_coverage"], settings.gateway.reports)
    }
    counted = {
        row["kind"]: {
            "count": row["count"],
            "segments": row["segments"],
            "amount": money(row["amount"]),
        }
        for row in await connection.fetch(QUERIES["count_discrepancies"], run)
    }
    return {
        "id": str(run),
        "account": account,
        "period": str(period),
        "currency": currency,
        "status": "discrepant" if counted else "balanced",
        **_sums(
            sent=(messages["messages"], messages["segments"]),
            owed=(messages["owed_messages"], messages["owed_segments"], messages["owed_amount"]),
            billed=(lines["lines"], lines["segments"], lines["amount"]),
        ),
        "messages": {
            name: messages[name] for name in ("matched", "discrepant", "not_billed", "not_charged")
        },
        "lines": {
            "matched": lines["lines"] - lines["discrepant"],
            "discrepant": lines["discrepant"],
        },
        "discrepancies": {kind: counted[kind] for kind in KINDS if kind in counted},
        "unresolved": unresolved,
        "source": source,
        "causes": await ranked_causes(connection, run),
        "coverage": {name: covered.get(name, 0) for name in classes},
    }


def currency_in(settings: AccountSettings, period: Period) -> str:
    """Return the one currency of the tariffs that can hold in the period."""
    if not settings.tariffs:
        raise Impossible(
            f"{settings.account.name} has no tariff for {period.first}: the settings give it none"
        )
    holding = currencies_in(settings, period)
    if len(holding) > 1:
        raise Impossible(
            f"{settings.account.name} has tariffs in {' and '.join(sorted(holding))} within {period}: "
            "reconcile the days of each currency by themselves"
        )
    return holding.pop()


def currencies_in(settings: AccountSettings, period: Period) -> set[str]:
    """Return the currencies of the tariffs that can hold in the period: none for want of a tariff."""
    holding = {
        tariff.currency
        for tariff, ends in _spans(settings.tariffs)
        if tariff.start <= period.last and ends > period.first
    }
    return holding or {tariff.currency for tariff in settings.tariffs[:1]}


def _spans(tariffs: Sequence[Tariff]) -> list[tuple[Tariff, date]]:
    """Return each tariff, in their order, with the first day that it no longer holds."""
    bounds = [*(tariff.start for tariff in tariffs), _OPEN_END]
    return list(zip(tariffs, bounds[1:], strict=True))


def tariff_columns(settings: AccountSettings, currency: str) -> tuple[list[Any], ...]:
    """Return first and last moments, prices and bases; another currency's price is no price here."""
    zone = settings.account.zone
    spans = _spans(settings.tariffs)
    return (
        [day_start(max(tariff.start, _OPEN_START), zone) for tariff, _ in spans],
        [day_start(max(ends, _OPEN_START), zone) for _, ends in spans],
        [tariff.price if tariff.currency == currency else None for tariff, _ in spans],
        [tariff.basis for tariff, _ in spans],
    )


def _rules(
    settings: AccountSettings, statement: Any, assumptions: Mapping[str, str]
) -> dict[str, Any]:
    """Return what the result depends on beside the evidence, for the run's record."""
    rules: dict[str, Any] = {
        "rules_version": _RULES_VERSION,
        **({} if statement is None else {"statement_version": statement["version"]}),
        "timezone": settings.account.zone.key,
        "poll_until_hours": settings.poll_until_hours,
        "segment_rule": settings.rule,
        "segment_unit": settings.unit,
        "tariffs": [
            {
                "from": tariff.start.isoformat(),
                "price": money(tariff.price),
                "currency": tariff.currency,
                "basis": tariff.basis,
            }
            for tariff in settings.tariffs
        ],
    }
    if not settings.gateway.reports:
        rules[_LAST_KNOWN] = True
    if assumptions:
        rules["assumed"] = assumptions
    return rules
