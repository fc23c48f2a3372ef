"""Audit of balances: what an account lost between readings, beside what was sent and owed then."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from reconciler.match import EXACT, Impossible, currency_in, money, tariff_columns
from reconciler.periods import Period
from reconciler.reading.fields import rfc3339
from reconciler.reading.paging import MAX_LIMIT, Page, cursor_of, every, key_of
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

AUDIT_COLUMNS = (
    "kind",
    "currency",
    "from",
    "to",
    "before",
    "after",
    "lost",
    "risen",
    "sent_messages",
    "sent_segments",
    "owed_segments",
    "owed_amount",
    "owed",
    "balance_drift",
    "record",
)
TOTAL_COLUMNS = (
    "kind",
    "currency",
    "intervals",
    "lost",
    "risen",
    "owed",
    "owed_while_risen",
    "balance_drift",
)


async def intervals(
    connection: Any,
    settings: AccountSettings,
    period: Period,
    *,
    cursor: str | None,
    limit: int,
) -> Page:
    """List what the account's balances lost between readings that end in `period`.

    `owed` is in what the balance counts: money of its currency, or segments where it has none.
    `balance_drift` is what was lost less what was owed, and null where that cannot be told: where
    the balance rose, or is in another currency than the tariffs.

    Raises `Impossible` without a tariff for a day with messages, or in two currencies.
    """
    kind, at, digest = key_of(cursor, str, datetime, bytes)
    currency = currency_in(settings, period)
    rows = await connection.fetch(
        QUERIES["audit_balances"],
        settings.account.name,
        *period.bounds(settings.account.zone),
        *tariff_columns(settings, currency),
        settings.gateway.reports,
        kind,
        at,
        digest,
        limit + 1,
    )
    for row in rows[:limit]:
        if row["untariffed_at"] is not None:
            day = row["untariffed_at"].astimezone(settings.account.zone).date()
            raise Impossible(
                f"{settings.account.name} has no tariff in {currency} for {day}, when it sent messages"
            )
    items = [_interval(row, currency) for row in rows[:limit]]
    last = rows[limit - 1] if len(rows) > limit else None
    after = None if last is None else cursor_of(last["kind"], last["read_at"], last["digest"])
    return Page(items, after)


async def totals(
    connection: Any, settings: AccountSettings, period: Period
) -> list[dict[str, Any]]:
    """Return, by kind and currency, what all intervals of `period` add up to.

    `balance_drift` adds up the intervals in which it can be told: it is `lost` less `owed`, but for
    `owed_while_risen`. Raises `Impossible` where no two readings can be compared.
    """
    added: dict[tuple[str, str | None], dict[str, Any]] = {}

    async def page(cursor: str | None) -> Page:
        return await intervals(connection, settings, period, cursor=cursor, limit=MAX_LIMIT)

    async for each in every(page):
        total = added.setdefault(
            (each["kind"], each["currency"]),
            {name: Decimal(0) for name in TOTAL_COLUMNS[3:]} | {"intervals": 0},
        )
        total["intervals"] += 1
        risen = each["risen"] != "0"
        for name, text in (
            ("lost", each["lost"]),
            ("risen", each["risen"]),
            ("owed", each["owed"]),
            ("owed_while_risen", each["owed"] if risen else "0"),
            ("balance_drift", "0" if risen else each["balance_drift"]),
        ):
            known = text is not None and total[name] is not None
            total[name] = EXACT.add(total[name], Decimal(text)) if known else None
    if not added:
        raise Impossible(
            f"{settings.account.name} has no two readings of a balance to compare, the later one in "
            f"{period}: `huizhi balance` takes one"
        )
    return [
        _total(*key, added[key]) for key in sorted(added, key=lambda key: (key[0], key[1] or ""))
    ]


def _total(kind: str, currency: str | None, total: Mapping[str, Any]) -> dict[str, Any]:
    shown = {
        name: None if total[name] is None else money(total[name]) for name in TOTAL_COLUMNS[3:]
    }
    return {"kind": kind, "currency": currency, "intervals": total["intervals"], **shown}


def _interval(row: Any, currency: str) -> dict[str, Any]:
    fallen = EXACT.subtract(row["before"], row["amount"])
    lost, risen = max(fallen, Decimal(0)), max(EXACT.minus(fallen), Decimal(0))
    owed: Decimal | None
    if row["currency"] is None:
        owed = Decimal(row["owed_segments"])
    else:
        owed = row["owed_amount"] if row["currency"] == currency else None
    drift = None if owed is None or risen else EXACT.subtract(lost, owed)
    return {
        "kind": row["kind"],
        "currency": row["currency"],
        "from": rfc3339(row["before_at"]),
        "to": rfc3339(row["read_at"]),
        "before": money(row["before"]),
        "after": money(row["amount"]),
        "lost": money(lost),
        "risen": money(risen),
        "sent_messages": row["messages"],
        "sent_segments": row["segments"],
        "owed_segments": row["owed_segments"],
        "owed_amount": money(row["owed_amount"]),
        "owed": None if owed is None else money(owed),
        "balance_drift": None if drift is None else money(drift),
        "record": row["digest"].hex(),
    }
