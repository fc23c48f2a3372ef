"""What goes wrong slowly, looked at once a minute: quarantine, lost pages, jobs, balances, erasures, the machine.

Each finding is an alarm (`reconciler.alarms`), so that there is one place that says what is wrong now.
"""

import contextlib
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from reconciler import alarms
from reconciler.alarms import HOUSE
from reconciler.erasure import BROKEN_OFF_SECONDS
from reconciler.match import money
from reconciler.periods import day_start
from runtime import metrics
from runtime.queries import QUERIES
from runtime.settings import AccountSettings, Settings

# Beyond three times its pause, a job is late by so much.
LATE_SECONDS = 180.0
# A job that failed so often in a row does not come right by itself.
FAILING = 3
# So many within an hour are a change of the vendor's, or a wrong setting.
_MANY_QUARANTINED = 5
_LOST_HOURS = 24
_BURN_DAYS = 7
_SPOOLED_SECONDS = 300.0
# Little is a twentieth of a disk, but no more than this; so much is little on any.
_LITTLE_SHARE, _LITTLE_BYTES = 0.05, 10 * 1024**3
_LEAST_BYTES = 1024**3
# What another machine said of itself holds for so long after it was last said.
_HEARSAY = timedelta(hours=1)


class Trouble(NamedTuple):
    """A job that fails or is late, and what is to be said of it."""

    job: str
    account: str
    failures: int
    words: str


def troubled(
    rows: Sequence[Any],
    pauses: Mapping[tuple[str, str], float],
    *,
    now: datetime,
    since: datetime | None = None,
) -> list[Trouble]:
    """Return which of the jobs in `rows` (`list_jobs`) failed when last run, or are late; pure.

    `pauses` are the seconds between two runs of each job that there is. With `since` nothing is late
    that was due before it: nobody was there to run it.
    """
    found = []
    for row in rows:
        pause = pauses.get((row["name"], row["account"]))
        if pause is None:
            continue
        due = row["started_at"] + timedelta(seconds=3 * pause)
        due = max(due, row["again_at"] or due, since or due)
        if row["holder"] is None and now > due + timedelta(seconds=LATE_SECONDS):
            minutes = (now - row["started_at"]).total_seconds() / 60
            words = f"is late: it last began {minutes:.0f} minutes ago"
            found.append(Trouble(row["name"], row["account"], row["failures_in_row"], words))
        elif row["failures_in_row"]:
            often = (
                "" if row["failures_in_row"] == 1 else f" {row['failures_in_row']} times in a row"
            )
            words = f"failed{often}: {row['error']}"
            found.append(Trouble(row["name"], row["account"], row["failures_in_row"], words))
    return found


async def watch(
    pool: Any,
    settings: Settings,
    pauses: Mapping[tuple[str, str], float],
    *,
    since: datetime,
    now: datetime,
) -> None:
    """Look at everything, and raise or end its alarms; jobs are not late for what was due before `since`."""
    async with pool.acquire() as connection:
        await _watch_quarantine(connection, sorted(settings.accounts), now)
        await _watch_lost(connection, sorted(settings.accounts), now)
        await _watch_jobs(connection, settings, pauses, since, now)
        await _watch_balances(connection, settings, now)
        await _watch_machine(connection, settings, now)
        await _watch_erasures(connection, now)
        # Of what is not watched any more there is no alarm.
        for name, account in settings.accounts.items():
            if account.monthly_budget is None:
                await alarms.end(connection, name, "budget", now=now)
        if not settings.alerts:
            await alarms.end(connection, HOUSE, "channel", now=now)


async def _watch_quarantine(connection: Any, accounts: Sequence[str], now: datetime) -> None:
    day = now - timedelta(days=1)
    rows = await connection.fetch(
        QUERIES["weigh_quarantine"], list(accounts), now - timedelta(hours=1), day
    )
    for row in rows:
        account = row["account"]
        much = row["hour"] >= _MANY_QUARANTINED
        if row["day"] and not much:
            most = 2 * row["day"] + 1
            came = await connection.fetchval(QUERIES["count_some_records"], account, day, most)
            much = came < most
        if much:
            words = (
                f"{row['hour']} records of the last hour and {row['day']} of the last day were not "
                f"understood, or not wholly; {row['waiting']} wait in quarantine"
            )
            figures = {name: row[name] for name in ("hour", "day", "waiting")}
            await alarms.raise_(connection, account, "quarantine", words, figures, now=now)
        elif not row["hour"]:
            await alarms.end(connection, account, "quarantine", now=now)


async def _watch_lost(connection: Any, accounts: Sequence[str], now: datetime) -> None:
    since = now - timedelta(hours=_LOST_HOURS)
    for row in await connection.fetch(QUERIES["weigh_lost_pulls"], list(accounts), since):
        if not row["lost"]:
            await alarms.end(connection, row["account"], "lost", now=now)
            continue
        pages = "1 read-once page" if row["lost"] == 1 else f"{row['lost']} read-once pages"
        words = f"{pages} of the last day may be lost, reports and all: only the vendor can tell"
        figures = {"pages": row["lost"]}
        await alarms.raise_(connection, row["account"], "lost", words, figures, now=now)


async def _watch_jobs(
    connection: Any,
    settings: Settings,
    pauses: Mapping[tuple[str, str], float],
    since: datetime,
    now: datetime,
) -> None:
    rows = await connection.fetch(QUERIES["list_jobs"])
    found: dict[str, list[Trouble]] = {}
    for trouble in troubled(rows, pauses, now=now, since=since):
        if trouble.failures >= FAILING or "is late" in trouble.words:
            found.setdefault(trouble.account, []).append(trouble)
    for account in (*sorted(settings.accounts), HOUSE):
        wrong = found.get(account)
        if not wrong:
            await alarms.end(connection, account, "job", now=now)
            continue
        words = "; ".join(f"the job {each.job} {each.words}" for each in wrong)
        figures = {
            "jobs": [each.job for each in wrong],
            "failures_in_row": max(each.failures for each in wrong),
        }
        await alarms.raise_(connection, account, "job", words, figures, now=now)


def burn_of(row: Any) -> Decimal | None:
    """Return what is spent a day, of a row of `burn_of_balances`; None: of less than an hour nobody can tell."""
    days = (row["read_at"] - row["since"]).total_seconds() / 86_400
    return row["spent"] / Decimal(days) if days >= 1 / 24 else None


async def _watch_balances(connection: Any, settings: Settings, now: datetime) -> None:
    low: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    since = now - timedelta(days=_BURN_DAYS)
    for row in await connection.fetch(
        QUERIES["burn_of_balances"], sorted(settings.accounts), since
    ):
        account = settings.accounts[row["account"]]
        burn = burn_of(row)
        left = f"{money(row['amount'])} {row['currency'] or ''}".strip()
        days = row["amount"] / burn if burn else None
        below = account.low_balance is not None and row["amount"] < account.low_balance
        if not below and (days is None or days >= Decimal(account.low_balance_days)):
            continue
        words = f"{row['kind']}: {left} left"
        if days is not None:
            words += f", which lasts for {max(days, Decimal(0)):.1f} days as it goes"
        figures = {
            "kind": row["kind"],
            "left": left,
            "days": None if days is None else f"{max(days, Decimal(0)):.1f}",
        }
        low.setdefault(row["account"], []).append((words, figures))
    for name in sorted(settings.accounts):
        if name not in low:
            await alarms.end(connection, name, "balance", now=now)
            continue
        words = "; ".join(words for words, _ in low[name])
        figures = {"balances": [figures for _, figures in low[name]]}
        await alarms.raise_(connection, name, "balance", words, figures, now=now)


async def watch_budget(pool: Any, settings: AccountSettings, *, now: datetime) -> None:
    """Hold what an account's current month has cost against its budget.

    ASSUMPTION: what still waits for its report is counted as delivered, so that the alarm comes
    early and not late. A bill that says more than our tariffs counts as the bill says.
    """
    name, zone, budget = settings.account.name, settings.account.zone, settings.monthly_budget
    assert budget is not None
    async with pool.acquire() as connection:
        today = now.astimezone(zone).date()
        first = today.replace(day=1)
        following = (first + timedelta(days=32)).replace(day=1)
        sent = Decimal(0)
        for row in await connection.fetch(
            QUERIES["segments_by_day"],
            name,
            day_start(first, zone),
            day_start(following, zone),
            zone.key,
        ):
            if tariff := settings.tariff_on(row["day"]):
                sent += (row[tariff.basis] or 0) * tariff.price
        billed = await connection.fetchval(
            QUERIES["billed_within"], name, first, following - timedelta(days=1)
        )
        if max(sent, billed) <= budget:
            await alarms.end(connection, name, "budget", now=now)
            return
        newest = settings.tariff_on(today)
        figures = {
            "month": f"{first:%Y-%m}",
            "budget": money(budget),
            "sent": money(sent),
            "billed": money(billed),
            "currency": newest.currency if newest else "",
        }
        words = (
            f"{figures['month']} is past its budget of {figures['budget']} {figures['currency']}: what"
            f" was sent comes to {figures['sent']}, and bills that are here to {figures['billed']}"
        )
        await alarms.raise_(connection, name, "budget", words, figures, now=now)


async def _watch_machine(connection: Any, settings: Settings, now: datetime) -> None:
    """Look at the disk and the spool of the machine that this runs on, by what its receivers count."""
    host = socket.gethostname()
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    with contextlib.suppress(OSError):  # where nothing is kept there is no such folder
        space = shutil.disk_usage(settings.data_dir)
        if space.free < max(_LEAST_BYTES, min(_LITTLE_SHARE * space.total, _LITTLE_BYTES)):
            left = f"{space.free / 1024**3:.1f}"
            words = f"{left} GiB are free on the disk of data_dir at {host}"
            found["disk"] = words, {"host": host, "free_gib": left}
    folder = os.environ.get(metrics.FOLDER_VARIABLE)
    oldest = metrics.value_of("huizhi_spool_oldest_seconds", folder) or 0.0
    if oldest > _SPOOLED_SECONDS:
        records = int(metrics.value_of("huizhi_spool_records", folder) or 0)
        words = f"{records} callbacks wait in the spool at {host}, the oldest for {oldest / 60:.0f} minutes"
        figures = {"host": host, "records": records, "minutes": round(oldest / 60)}
        found["spool"] = words, figures
    standing = {
        row["kind"]: row
        for row in await connection.fetch(QUERIES["standing_alarms"], HOUSE, ["disk", "spool"])
    }
    for kind in ("disk", "spool"):
        if kind in found:
            await alarms.raise_(connection, HOUSE, kind, *found[kind], now=now)
        elif (row := standing.get(kind)) is not None and (
            row["figures"].get("host") == host or row["last_seen_at"] < now - _HEARSAY
        ):
            await alarms.end(connection, HOUSE, kind, now=now)


async def _watch_erasures(connection: Any, now: datetime) -> None:
    """Look for numbers of which somebody asked for the erasure and which are not erased wholly."""
    row = await connection.fetchrow(QUERIES["weigh_erasures"], BROKEN_OFF_SECONDS)
    unfinished = row["broken_off"] + row["held"]
    if not unfinished:
        await alarms.end(connection, HOUSE, "erasure", now=now)
        return
    words = (
        f"{unfinished} {'erasure is' if unfinished == 1 else 'erasures are'} not complete:"
        f" {row['broken_off']} broke off, and {row['held']} left what was being sent or not settled"
        " at that time; erase those numbers again"
    )
    figures = {"broken_off": row["broken_off"], "held": row["held"]}
    await alarms.raise_(connection, HOUSE, "erasure", words, figures, now=now)
