"""The billing audit on a long ledger: look-ups, and every query over its last month."""

import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.figures import Figure, compared
from benchmarks.ground import PUSHED, SQL, CannotRun, Ground, prepared
from reconciler import audit, match, periods
from reconciler.audit import AUDIT
from reconciler.reading import sent

ROWS = 1_000_000
_QUICK_ROWS = 20_000
_PORTION = 500_000
_FROM = datetime(2026, 1, 1, tzinfo=UTC)
_DAYS = 304  # January to October
_PERIOD = periods.parse("2026-10")
_LOOK_UPS = 400
_LOOK_UP_MS = 200.0
_ROUNDS = 10
_ROLL_UP_SECONDS = 2.0


async def run(parent: Path, *, quick: bool, rows: int = ROWS) -> list[Figure]:
    """Fill ten months, then measure look-ups, a month's roll-up, and every query once."""
    rows = _QUICK_ROWS if quick else rows
    async with prepared(parent, "audit") as ground:
        await _fill(ground, rows)
        sizes = await ground.row("sizes")
        async with ground.database.pool(size=2) as pool, pool.acquire() as connection:
            account = ground.settings.accounts[PUSHED]
            await match.reconcile(connection, account, _PERIOD, now=datetime.now(UTC))
            figures = await _look_ups(connection, ground, rows, quick=quick)
            figures.append(await _roll_up(connection, ground, rows, quick=quick))
        figures[-1].notes |= {
            "MiB of messages": sizes["messages"] / 2**20,
            "MiB of its indexes": sizes["indexes"] / 2**20,
        }
    return figures


async def _fill(ground: Ground, rows: int) -> None:
    step = _DAYS * 86_400 / rows
    for first in range(0, rows, _PORTION):
        last = min(first + _PORTION, rows) - 1
        await ground.execute("fill_audit", PUSHED, first, last, _FROM, step)
    zone = ground.settings.accounts[PUSHED].account.zone
    for day in range(0, _DAYS + 31, 31):
        since = _FROM + timedelta(days=day)
        await ground.execute("fill_audit_reports", PUSHED, since, since + timedelta(days=31))
    for month in range(1, 11):
        period = periods.parse(f"2026-{month:02}")
        own = uuid4()
        await ground.execute("fill_audit_lines", PUSHED, *period.bounds(zone), own)
        await ground.execute("add_statement_of_lines", own, PUSHED, period.first, period.last)
    await ground.execute("vacuum_audit")
    await ground.settle_down()


async def _look_ups(connection: Any, ground: Ground, rows: int, *, quick: bool) -> list[Figure]:
    count = 20 if quick else _LOOK_UPS
    ends = _FROM + timedelta(days=_DAYS)
    some = await connection.fetch(SQL["some_messages"], PUSHED, _FROM, ends, count)
    # As people ask: one here, one there.
    random.Random(1).shuffle(some)
    accounts = ground.settings.accounts

    async def by_id(row: Any) -> Any:
        return await sent.message(connection, accounts, row["id"])

    async def filtered(filters: sent.Filters) -> Any:
        page = await sent.messages(connection, [PUSHED], filters, cursor=None, limit=100)
        return page.items

    asks: dict[str, Callable[[Any], Awaitable[Any]]] = {
        "id": by_id,
        "number": lambda row: filtered(sent.Filters(phone=row["phone"])),
        "batch": lambda row: filtered(sent.Filters(reference=row["reference"])),
        "vendor id": lambda row: filtered(sent.Filters(vendor_message_id=row["vendor_message_id"])),
    }
    figures = []
    for name, ask in asks.items():
        taken = []
        for row in some:
            started = time.perf_counter()
            if not await ask(row):
                raise CannotRun(f"the look-up by {name} found nothing")
            taken.append((time.perf_counter() - started) * 1000)
        p95 = _p95(taken)
        figures.append(
            Figure(
                name=f"look-up by {name}",
                work=f"{len(taken)} look-ups among {rows:,} messages; p95",
                unit="ms",
                value=p95,
                goal=f"< {_LOOK_UP_MS:.0f} ms",
                met=None if quick else p95 < _LOOK_UP_MS,
                notes={"p50": sorted(taken)[len(taken) // 2], "worst": max(taken)},
            )
        )
    return figures


async def _roll_up(connection: Any, ground: Ground, rows: int, *, quick: bool) -> Figure:
    settings = ground.settings
    bounds = _PERIOD.bounds(settings.accounts[PUSHED].account.zone)

    async def timed(name: str) -> tuple[float, int]:
        given = {"account": PUSHED, "period": str(_PERIOD)}
        known = {parameter.name for parameter in AUDIT[name].parameters}
        asked = audit.ask(
            settings,
            name,
            {key: value for key, value in given.items() if key in known},
            now=datetime.now(UTC),
        )
        started = time.perf_counter()
        items, _ = await audit.first(connection, asked, limit=1000, seconds=3600)
        return time.perf_counter() - started, len(items)

    measured = []
    for _ in range(2 if quick else _ROUNDS):
        ours, days = await timed("by-day")
        if days != 31:
            raise CannotRun(f"the month has {days} days")
        started = time.perf_counter()
        await connection.fetch(SQL["bare_roll_up"], PUSHED, *bounds)
        measured.append((ours, time.perf_counter() - started))
    p95 = _p95([ours for ours, _ in measured])
    figure = compared(
        "month's roll-up",
        f"by-day over one of ten months of {rows:,} messages",
        "seconds",
        measured,
        baseline_work="the same rows counted and added up by state in one SQL statement",
        notes={"p95": p95},
    )
    figure.goal = f"p95 < {_ROLL_UP_SECONDS:.0f} s"
    figure.met = None if quick else p95 < _ROLL_UP_SECONDS
    for name in AUDIT:
        figure.notes[name] = (await timed(name))[0]
    return figure


def _p95(values: list[float]) -> float:
    return sorted(values)[max(0, -(-len(values) * 95 // 100) - 1)]
