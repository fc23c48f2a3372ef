"""A month reconciled, against nothing but the join of the same rows."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.figures import Figure, compared
from benchmarks.ground import PERIOD, PUSHED, CannotRun, apart, prepared
from reconciler import match, periods
from runtime import settings as settings_file
from runtime.database import Database

_ROWS = 1_000_000
_QUICK_ROWS = 20_000
_ROUNDS = 3
_SECONDS = 60.0
_MONTH_SECONDS = 29 * 86_400
_BYTES = 512 * 2**20
_SENT_FROM = datetime(2026, 1, 1, tzinfo=UTC)
# How many of a thousand messages, or of their lines, sql/reconcile.sql makes wrong in which way.
_WRONG_OF_1000 = {
    "billed_not_sent": 1,
    "billed_not_delivered": 2,
    "billed_twice": 1,
    "billed_out_of_period": 1,
    "segments_differ": 1,
    "price_differs": 1,
    "not_billed": 1,
    "reports_contradict": 1,
    "report_missing": 1,
}


async def run(parent: Path, *, quick: bool) -> list[Figure]:
    """Measure the run and the join alternately, on one database."""
    rows = _QUICK_ROWS if quick else _ROWS
    async with prepared(parent, "reconcile") as ground:
        statement = uuid4()
        period = periods.parse(PERIOD)
        await ground.execute(
            "fill_messages", PUSHED, 0, rows - 1, 1, _SENT_FROM, _MONTH_SECONDS / rows
        )
        await ground.execute("decide_messages", PUSHED)
        await ground.execute("fill_lines", PUSHED, statement)
        await ground.execute("add_statement_of_lines", statement, PUSHED, period.first, period.last)
        await ground.execute("vacuum_ledger")
        await ground.settle_down()
        account = ground.settings.accounts[PUSHED].account
        measured = []
        peaks = []
        pairs = 0
        for _ in range(1 if quick else _ROUNDS):
            ours = apart(_reconcile, ground.settings.file, ground.database)
            _check(ours.result, rows)
            peaks.append(ours.peak_bytes)
            started = time.perf_counter()
            joined = await ground.row("full_join", PUSHED, *period.bounds(account.zone), statement)
            measured.append((ours.seconds, time.perf_counter() - started))
            pairs = joined["pairs"]
            await ground.settle_down()
    figure = compared(
        "reconcile",
        f"{rows:,} messages against {rows:,} lines",
        "seconds",
        measured,
        baseline_work="the full join of the same rows, counted, in one SQL statement",
        notes={
            "pairs joined": f"{pairs:,}",
            "discrepancies found = made": f"{sum(_WRONG_OF_1000.values()) * rows // 1000:,}",
            "peak MiB of our process": max(peaks) / 2**20,
            "goal for memory": f"< {_BYTES / 2**20:.0f} MiB",
        },
    )
    figure.goal = f"< {_SECONDS:.0f} s, < {_BYTES / 2**20:.0f} MiB"
    figure.met = None if quick else figure.value < _SECONDS and max(peaks) < _BYTES
    return [figure]


async def _reconcile(file: Path, database: Database) -> tuple[float, dict[str, Any]]:
    account = settings_file.load(file, {}).accounts[PUSHED]
    async with database.connection() as connection:
        started = time.perf_counter()
        result = await match.reconcile(
            connection, account, periods.parse(PERIOD), now=datetime.now(UTC)
        )
        return time.perf_counter() - started, result


def _check(result: dict[str, Any], rows: int) -> None:
    """Prove that what was measured is a reconciliation that finds what is there, and no more."""
    found = {kind: told["count"] for kind, told in result["discrepancies"].items()}
    made = {kind: of_1000 * rows // 1000 for kind, of_1000 in _WRONG_OF_1000.items()}
    if found != made:
        raise CannotRun(f"the reconciliation found {found}, and there are {made}")
