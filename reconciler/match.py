"""Reconciliation: a vendor's statement against the ledger, to the last digit.

The matching is set-based SQL (`sql/queries/reconcile.sql`) over one snapshot of the database; this
module brings the rules to it (period, tariffs, the clock) and makes the result of what it counted.
"""

import hashlib
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any
from uuid import UUID, uuid4

import msgspec

from reconciler import cases
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
# Beyond any time that a message can have: open ends that every PostgreSQL driver can carry.
_OPEN_END = date(9000, 1, 1)
_OPEN_START = date(1900, 1, 1)
# Said only of accounts whose vendor reports nothing.
_LAST_KNOWN = "accepted_is_last_known"
# Whatever the rules say by then, a run names those that it went by.
_RULES_VERSION = hashlib.sha256((SQL / "queries" / "reconcile.sql").read_bytes()).hexdigest()
_EXACT = Context(prec=100)  # the usual 28 digits would round a difference


class Impossible(Problem):
    """A period that cannot be reconciled; the text says in one line what is missing."""


def money(amount: Decimal) -> str:
    """Return `amount` as the shortest decimal text: no exponent, no trailing zeros, no -0."""
    text = format(amount, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


async def reconcile(
    connection: Any, settings: AccountSettings, period: Period, *, now: datetime
) -> dict[str, Any]:
    """Reconcile the account's newest statement of `period`; keep the run; return its result.

    The period's cases are brought up to it.

    The result is interface section 6's object. The same evidence and rules give the same result but
    for `id`; `now` decides only which messages wait no longer for a report. Raises `Impossible`
    without a statement, a tariff for a day that needs one, or one currency.
    """
    account = settings.account.name
    starts, ends = period.bounds(settings.account.zone)
    currency = currency_in(settings, period)
    tariffs = tariff_columns(settings, currency)
    reports = settings.gateway.reports
    run = uuid4()
    async with connection.transaction(isolation="repeatable_read"):
        statement = await connection.fetchrow(
            QUERIES["newest_statement"], account, period.first, period.last
        )
        if statement is None:
            raise Impossible(f"{account} has no statement for {period}: import it first")
        await connection.execute(QUERIES["reconcile_tables"])
        missing_before = now - timedelta(hours=settings.poll_until_hours)
        await connection.execute(
            QUERIES["take_messages"], account, starts, ends, missing_before, *tariffs, reports
        )
        await connection.execute(
            QUERIES["take_lines"], statement["id"], account, starts, ends, *tariffs, reports
        )
        await connection.execute(QUERIES["analyze_run"])
        troubles = await connection.fetchrow(QUERIES["run_troubles"], statement["id"], starts)
        _check(settings, period, currency, troubles)
        await connection.execute(QUERIES["add_discrepancies"], run)
        result = await _result(connection, run, settings, period, currency)
        await connection.execute(
            QUERIES["add_run"],
            run,
            account,
            period.first,
            period.last,
            statement["id"],
            now,
            _rules(settings, statement["version"]),
            msgspec.json.encode(result).decode(),
        )
    # By itself: in the run's one snapshot a person who decides meanwhile would break the run off.
    await cases.follow(connection, run, account, period, currency=currency, now=now)
    return result


def _check(settings: AccountSettings, period: Period, currency: str, troubles: Any) -> None:
    name, zone = settings.account.name, settings.account.zone
    if (at := troubles["untariffed_message"]) is not None:
        day = at.astimezone(zone).date()
        raise Impossible(f"{name} has no tariff for {day}, when it sent messages")
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


async def _result(
    connection: Any, run: UUID, settings: AccountSettings, period: Period, currency: str
) -> dict[str, Any]:
    account = settings.account.name
    messages = await connection.fetchrow(QUERIES["count_messages"])
    lines = await connection.fetchrow(QUERIES["count_lines"])
    whole = await connection.fetchrow(QUERIES["count_unresolved"], account)
    unresolved = {
        "report_missing": messages["report_missing"],
        "orphans": whole["orphans"],
        "quarantined": whole["quarantined"],
    }
    if not settings.gateway.reports:
        unresolved[_LAST_KNOWN] = messages["accepted"]
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
        "sent": {"messages": messages["messages"], "segments": messages["segments"]},
        "owed": {
            "messages": messages["owed_messages"],
            "segments": messages["owed_segments"],
            "amount": money(messages["owed_amount"]),
        },
        "billed": {
            "lines": lines["lines"],
            "segments": lines["segments"],
            "amount": money(lines["amount"]),
        },
        "difference": {
            "segments": lines["segments"] - messages["owed_segments"],
            "amount": money(_EXACT.subtract(lines["amount"], messages["owed_amount"])),
        },
        "messages": {
            name: messages[name] for name in ("matched", "discrepant", "not_billed", "not_charged")
        },
        "lines": {
            "matched": lines["lines"] - lines["discrepant"],
            "discrepant": lines["discrepant"],
        },
        "discrepancies": {kind: counted[kind] for kind in KINDS if kind in counted},
        "unresolved": unresolved,
    }


def currency_in(settings: AccountSettings, period: Period) -> str:
    """Return the one currency of the tariffs that can hold in the period."""
    if not settings.tariffs:
        raise Impossible(
            f"{settings.account.name} has no tariff for {period.first}: the settings give it none"
        )
    holding = {
        tariff.currency
        for tariff, ends in _spans(settings.tariffs)
        if tariff.start <= period.last and ends > period.first
    } or {settings.tariffs[0].currency}
    if len(holding) > 1:
        raise Impossible(
            f"{settings.account.name} has tariffs in {' and '.join(sorted(holding))} within {period}: "
            "reconcile the days of each currency by themselves"
        )
    return holding.pop()


def _spans(tariffs: Sequence[Tariff]) -> list[tuple[Tariff, date]]:
    """Return each tariff, in their order, with the first day that it no longer holds."""
    ends = [tariff.start for tariff in tariffs[1:]] + [_OPEN_END]
    return list(zip(tariffs, ends, strict=True))


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


def _rules(settings: AccountSettings, statement_version: int) -> dict[str, Any]:
    """Return what the result depends on beside the evidence, for the run's record."""
    rules: dict[str, Any] = {
        "rules_version": _RULES_VERSION,
        "statement_version": statement_version,
        "timezone": settings.account.zone.key,
        "poll_until_hours": settings.poll_until_hours,
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
    return rules
