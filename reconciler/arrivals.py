"""Arrivals: learning how soon an account's receipts come, and noticing when they stop.

The judgement is `reconciler.silence`; here are the counts that it wants, of a sample where there are
many, and the alarms that come of it.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec

from reconciler import alarms, silence
from reconciler.lease import Lease
from reconciler.reading.fields import rfc3339
from reconciler.silence import LAGS, LONGEST, Day, Finding, Model
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

LEARNED_DAYS = 28
_DAY_SAMPLE = 20_000
_LOOK_SAMPLE = 5_000
_MINUTES = 1440
# A way by which receipts come to so many messages is the one that is listened to: pushes first, for
# asking begins where they did not come.
_LISTENED = 0.2
_SOURCES = ("push", "pull", "query")
COLUMNS = (
    "account",
    "state",
    "source",
    "days",
    "messages",
    "within_1_minute",
    "within_5_minutes",
    "within_60_minutes",
    "within_180_minutes",
    "learned_at",
)


async def learn(accounts: Mapping[str, AccountSettings], lease: Lease, *, now: datetime) -> int:
    """Learn the days that are new and over, at every account that has reports; return how many.

    Raises `LeaseLost`.
    """
    learned = 0
    for name, settings in accounts.items():
        if settings.gateway.reports:
            learned += await _learn(lease.pool, name, now)
    return learned


async def _learn(pool: Any, account: str, now: datetime) -> int:
    last = (now - timedelta(minutes=LAGS + 1)).astimezone(UTC).date() - timedelta(days=1)
    first = last - timedelta(days=LEARNED_DAYS - 1)
    known = {row["day"] for row in await pool.fetch(QUERIES["learned_days"], account, first)}
    days = [first + timedelta(days=number) for number in range(LEARNED_DAYS)]
    missing = [day for day in days if day not in known]
    learned = 0
    for day in missing:
        learned += await _learn_day(pool, account, day)
    if learned:
        await pool.execute(QUERIES["forget_days"], account, first)
        rows = await pool.fetch(QUERIES["arrival_days"], account)
        source = rows[0]["source"] if rows else ""
        model = silence.learn(
            [
                Day(row["sent"], row["came"], row["arrived"])
                for row in rows
                if row["source"] == source
            ]
        )
        if model is None:
            await pool.execute(QUERIES["forget_curve"], account)
        else:
            built = msgspec.to_builtins(model)
            await pool.execute(QUERIES["keep_curve"], account, now, source, built)
    return learned


async def _learn_day(pool: Any, account: str, day: date) -> bool:
    """Learn a day; False if nothing was sent in it, which may still be registered."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    end = start + timedelta(days=1)
    rows = await _sampled(pool, account, start, end, end + timedelta(minutes=LAGS + 1), _DAY_SAMPLE)
    if not rows:
        return False
    source = _listened(rows)
    sent, came, arrived = _counts(rows, source, _MINUTES, _MINUTES + LAGS)
    await pool.execute(
        QUERIES["keep_day"],
        account,
        day,
        source,
        sum(sent),
        sent,
        came,
        arrived,
    )
    return True


async def watch(pool: Any, accounts: Mapping[str, AccountSettings], *, now: datetime) -> None:
    """Look at the last minutes of every account of which enough was learned, and raise or end alarms.

    Says nothing while what was recorded waits to be settled: it is we who are silent then.
    """
    if await pool.fetchval(QUERIES["settling_behind"], now):
        return
    for row in await pool.fetch(QUERIES["arrival_curves"], sorted(accounts)):
        if row["model"] is not None:
            model = msgspec.convert(row["model"], Model)
            await _watch(pool, row["account"], model, row["source"], now)


async def _watch(pool: Any, account: str, model: Model, source: str, now: datetime) -> None:
    minutes = LAGS + LONGEST
    start = now - timedelta(minutes=minutes)
    rows = await _sampled(pool, account, start, now, now, _LOOK_SAMPLE)
    sent, came, _ = _counts(rows, source, minutes, minutes)
    due = silence.expected(model, sent)[-LONGEST:]
    came = came[-LONGEST:]
    found = silence.judge(model, due, came)
    async with pool.acquire() as connection:
        if found is not None:
            other = "loss" if found.kind == "silence" else "silence"
            await alarms.end(connection, account, other, now=now)
            figures = msgspec.to_builtins(found)
            words = _words(found, source)
            await alarms.raise_(connection, account, found.kind, words, figures, now=now)
            return
        kinds: Sequence[silence.Kind] = ("silence", "loss")
        for kind in kinds:
            if silence.is_back(kind, due, came):
                await alarms.end(connection, account, kind, now=now)


_WAYS = {"push": "pushed", "pull": "handed out", "query": "told when asked"}


def _words(found: Finding, source: str) -> str:
    span = f"in the last {found.minutes} minutes"
    if found.kind == "silence":
        return (
            f"about {found.expected:.0f} receipts should have been {_WAYS[source]} {span}, and "
            f"{found.came} were: they have stopped, or do not reach us"
        )
    return (
        f"{found.came} receipts were {_WAYS[source]} {span}, where about {found.expected:.0f} should "
        "have been: some are missing, or late"
    )


async def _sampled(
    pool: Any, account: str, start: datetime, end: datetime, until: datetime, most: int
) -> list[Any]:
    sent = await pool.fetchval(QUERIES["count_sent"], account, start, end)
    mask = 0
    while sent > most * (mask + 1):
        mask = 2 * mask + 1
    rows: list[Any] = await pool.fetch(QUERIES["arrivals"], account, start, end, mask, until)
    return rows


def _listened(rows: Sequence[Any]) -> str:
    total = sum(row["messages"] for row in rows)
    for source in _SOURCES:
        by = sum(row["messages"] for row in rows if row[f"{source}_lag"] is not None)
        if total and by >= _LISTENED * total:
            return source
    return _SOURCES[0]


def _counts(
    rows: Sequence[Any], source: str, minutes: int, until: int
) -> tuple[list[int], list[int], list[int]]:
    """Count what was sent by minute, what came by minute, and what came by how much later."""
    sent, came, arrived = [0] * minutes, [0] * until, [0] * (LAGS + 1)
    for row in rows:
        minute, lag, messages = row["minute"], row[f"{source}_lag"], row["messages"]
        sent[minute] += messages
        if lag is None:
            continue
        lag = max(0, lag)  # a receipt from before its message: clocks differ
        if lag <= LAGS and minute + lag < until:
            came[minute + lag] += messages
            arrived[lag] += messages
    return sent, came, arrived


async def shown(connection: Any, accounts: Sequence[str]) -> list[dict[str, Any]]:
    """Return of each account whether enough was learned to watch it, and how soon receipts come."""
    items = []
    for row in await connection.fetch(QUERIES["arrival_curves"], list(accounts)):
        model = None if row["model"] is None else msgspec.convert(row["model"], Model)
        items.append(
            {
                "account": row["account"],
                "state": "learning" if model is None else "watched",
                "source": row["source"],
                "days": row["days"] if model is None else model.days,
                "messages": None if model is None else model.messages,
                **{
                    f"within_{minutes}_minute{'s' * (minutes > 1)}": (
                        None if model is None else round(sum(model.shares[: minutes + 1]), 4)
                    )
                    for minutes in (1, 5, 60, 180)
                },
                "learned_at": rfc3339(row["learned_at"]),
            }
        )
    return items
