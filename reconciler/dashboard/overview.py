"""Overview: how each account does today, and what somebody should look at."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from litestar import Request, Response, get
from litestar.datastructures import State

from reconciler import alert_words
from reconciler.alarms import HOUSE
from reconciler.dashboard.pages import (
    account_asked,
    accounts_of,
    asked,
    render,
    words_of,
    zone_of,
)
from reconciler.match import money
from reconciler.periods import day_start
from reconciler.reading import paging, watched
from reconciler.watching import burn_of
from runtime.queries import QUERIES
from runtime.settings import Settings

STATES = ("delivered", "failed", "waiting", "expired")
_WAITING = ("submitting", "submitted", "indeterminate")
# The first seconds of each class of the distribution; the last has no end.
LATENCIES = (0, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 21_600, 86_400)
SOURCES = ("push", "query", "pull")
# By how many messages of a day it is told how reports came: all of most days, the newest of a great one.
_LOOKED_AT = 20_000
_BURN_DAYS = 7
_WATCHED_DAYS = 7
_SILENT_SECONDS = 1800
_BUSY = 20  # messages in an hour: fewer may well have no push in half an hour
# Where to look for each kind of alarm (reconciler.alarms).
_PLACES = {
    "silence": "/callbacks",
    "loss": "/callbacks",
    "suspects": "/suspects",
    "clock": "/suspects",
    "drift": "/callbacks",
    "quarantine": "/callbacks?state=quarantined",
    "lost": "/jobs",
    "job": "/jobs",
    "balance": "/",
    "budget": "/reconciliation",
    "spool": "/jobs",
    "disk": "/jobs",
    "erasure": "/jobs",
    "channel": "/jobs",
}
_BAD = ("silence", "loss", "lost", "job", "balance", "budget", "disk", "erasure")


@get("/")
async def show_overview(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show a day of each account by hour, and the alarms."""
    settings: Settings = state.settings
    now = datetime.now(UTC)
    chosen = account_asked(request)
    names = [name for name in accounts_of(request, chosen) if name in settings.accounts]
    today = now.astimezone(settings.timezone).date()
    day = _day(asked(request, "day")) or today
    async with state.pool.acquire() as connection:
        shown = await days(connection, settings, names, day, now=now)
        standing = await alarms(connection, settings, words_of(request).language, now=now)
    words = words_of(request)
    return render(
        request,
        "overview.html",
        accounts=[{**each, "chart": _charts(each, words)} for each in shown],
        alarms=standing,
        day=day,
        today=today,
        before=day - timedelta(days=1),
        after=day + timedelta(days=1) if day < today else None,
        account=chosen,
        names=sorted(settings.accounts),
        looked_at=_LOOKED_AT,
        burn_days=_BURN_DAYS,
        latency_labels=latency_labels(),
    )


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        return None


async def days(
    connection: Any, settings: Settings, names: Sequence[str], day: date, *, now: datetime
) -> list[dict[str, Any]]:
    """Return a day of each account, the days of its own zone."""
    bounds = [
        (day_start(day, zone), day_start(day + timedelta(days=1), zone))
        for zone in (zone_of(settings, name) for name in names)
    ]
    spans = (list(names), [starts for starts, _ in bounds], [ends for _, ends in bounds])
    hours: dict[str, Counter[tuple[int, str]]] = {name: Counter() for name in names}
    latencies: dict[str, Counter[int]] = {name: Counter() for name in names}
    for row in await connection.fetch(QUERIES["day_of_messages"], *spans):
        if row["status"] is None:
            latencies[row["account"]][row["seconds"]] += row["messages"]
        elif row["status"] != "refused":
            status = "waiting" if row["status"] in _WAITING else row["status"]
            hours[row["account"]][row["hour"], status] += row["messages"]
    sources: dict[str, dict[str, int]] = {}
    for name, (starts, ends) in zip(names, bounds, strict=True):
        rows = await connection.fetch(QUERIES["sources_of_day"], name, starts, ends, _LOOKED_AT)
        sources[name] = {row["source"]: row["messages"] for row in rows}
    balances: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    since = now - timedelta(days=_BURN_DAYS)
    for row in await connection.fetch(QUERIES["burn_of_balances"], list(names), since):
        balances[row["account"]].append(_balance(row))
    return [
        _account(settings, name, hours[name], latencies[name], sources[name], balances[name], bound)
        for name, bound in zip(names, bounds, strict=True)
    ]


def _account(
    settings: Settings,
    name: str,
    hours: Counter[tuple[int, str]],
    latencies: Counter[int],
    sources: Mapping[str, int],
    balances: list[dict[str, Any]],
    bound: tuple[datetime, datetime],
) -> dict[str, Any]:
    length = round((bound[1] - bound[0]).total_seconds() / 3600)  # 23 or 25 where clocks change
    totals = {
        status: sum(count for (_, each), count in hours.items() if each == status)
        for status in STATES
    }
    return {
        "name": name,
        "vendor": settings.accounts[name].gateway.vendor,
        "reports": settings.accounts[name].gateway.reports,
        "sent": sum(totals.values()),
        **totals,
        "hours": [
            {"hour": hour, **{status: hours[hour, status] for status in STATES}}
            for hour in range(length)
        ],
        "p50": percentile(latencies, Decimal("0.5")),
        "p99": percentile(latencies, Decimal("0.99")),
        "distribution": _classes(latencies),
        "sources": {source: sources.get(source, 0) for source in SOURCES},
        "reported": sum(sources.values()),
        "balances": balances,
        # Of several kinds those that nothing is left of are mostly kinds that nobody bought.
        "left": [each for each in balances if each["amount"] != "0"] or balances[:1],
    }


def percentile(latencies: Mapping[int, int], share: Decimal) -> int | None:
    """Return the smallest latency that at least this share of messages does not exceed; pure."""
    count = sum(latencies.values())
    seen = 0
    for seconds in sorted(latencies):
        seen += latencies[seconds]
        if seen >= share * count:
            return seconds
    return None


def _classes(latencies: Mapping[int, int]) -> list[int]:
    counts = [0] * len(LATENCIES)
    for seconds, messages in latencies.items():
        place = max(place for place, starts in enumerate(LATENCIES) if starts <= seconds)
        counts[place] += messages
    return counts


def latency_labels() -> list[str]:
    """Name the classes of the distribution by their first second, as people write spans."""
    return [_brief(seconds) for seconds in LATENCIES]


def _brief(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds}s"
    return f"{seconds // 60}m" if seconds < 3600 else f"{seconds // 3600}h"


def _balance(row: Any) -> dict[str, Any]:
    burn = burn_of(row)
    return {
        "kind": row["kind"],
        "currency": row["currency"],
        "amount": money(row["amount"]),
        "read_at": row["read_at"],
        "burn": None if burn is None else f"{burn:.2f}",
        "days_left": int(row["amount"] / burn) if burn else None,
    }


async def alarms(
    connection: Any, settings: Settings, language: str, *, now: datetime
) -> list[dict[str, Any]]:
    """Return what somebody should look at, each of a kind, with an address."""
    names = sorted(settings.accounts)
    standing = await watched.alarms(
        connection, [*names, HOUSE], kind=None, ended=False, cursor=None, limit=paging.MAX_LIMIT
    )
    found = [
        {
            **_alarm(
                each["kind"],
                "bad" if each["kind"] in _BAD else "warn",
                _place(each["kind"], each["account"]),
                each["account"] or "Huizhi",
                None,
                datetime.fromisoformat(each["since"]),
            ),
            "words": alert_words.sentence(language, each["kind"], each["words"], each["figures"]),
        }
        for each in standing.items
    ]
    silent_known = {each["account"] for each in found if each["kind"] == "silence"}
    for row in await connection.fetch(QUERIES["count_suspects"], names):
        place = f"/suspects?account={row['account']}&state=waiting"
        found.append(_alarm("waiting", "warn", place, row["account"], row["waiting"]))
    since = now - timedelta(days=_WATCHED_DAYS)
    rows = await connection.fetch(
        QUERIES["watched_accounts"], sorted(settings.accounts), since, now - timedelta(hours=1)
    )
    for row in rows:
        name = row["account"]
        gateway = settings.accounts[name].gateway
        last = row["last_push_at"]
        silent = name not in silent_known and (
            last is None or (now - last).total_seconds() > _SILENT_SECONDS
        )
        if gateway.reports and gateway.methods and silent and row["sent"] >= _BUSY:
            found.append(
                _alarm("silence", "bad", f"/callbacks?account={name}", name, row["sent"], last)
            )
        if row["orphans"]:
            found.append(
                _alarm("orphans", "warn", f"/orphans?account={name}", name, row["orphans"])
            )
    return found


def _place(kind: str, account: str | None) -> str:
    place = _PLACES[kind]
    if account is None:
        return place
    return f"{place}{'&' if '?' in place else '?'}account={account}"


def _alarm(
    kind: str, tone: str, to: str, account: str, count: int | None, at: datetime | None = None
) -> dict[str, Any]:
    return {
        "kind": kind,
        "tone": tone,
        "to": to,
        "account": account,
        "count": count,
        "at": at,
        "words": None,
    }


def _charts(account: Mapping[str, Any], words: Any) -> dict[str, Any]:
    return {
        "hours": {
            "kind": "stack",
            "labels": [f"{each['hour']:02}" for each in account["hours"]],
            "unit": words("unit.messages"),
            "series": [
                {
                    "name": words(f"status.{status}"),
                    "tone": {"delivered": "good", "failed": "bad", "waiting": "plain"}.get(
                        status, "warn"
                    ),
                    "values": [each[status] for each in account["hours"]],
                }
                for status in STATES
            ],
        },
        "latency": {
            "kind": "bars",
            "labels": latency_labels(),
            "unit": words("unit.messages"),
            "series": [
                {
                    "name": words("overview.latency"),
                    "tone": "accent",
                    "values": account["distribution"],
                }
            ],
        },
    }


ROUTES = [show_overview]
