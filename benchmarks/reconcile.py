"""A month reconciled, against DuckDB that loads the same rows from CSV and joins them."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from benchmarks import machine
from benchmarks.figures import Figure, compared
from benchmarks.ground import PERIOD, PUSHED, SQL, CannotRun, Ground, apart, prepared
from benchmarks.statements import import_file
from reconciler import match, periods
from runtime import settings as settings_file
from runtime.database import Database
from runtime.queries import QUERIES

MILLIONS = (1, 5, 10)
_QUICK_ROWS = 20_000
_PORTION = 500_000
_ROUNDS = 3
_ROUNDS_OF_MANY = 2
_MANY = 5_000_000
_TIMES = 3.0
# By how much a row may cost more in the largest run than in the smallest.
_GROWTH = 1.3
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
# What messages and lines alone can tell, without the reports.
_JOINED = tuple(_WRONG_OF_1000)[:7]
_LOAD = (
    """
    CREATE TABLE messages AS
    SELECT * FROM read_csv(?, header = true, columns = {
        'vendor_message_id': 'VARCHAR', 'phone': 'VARCHAR', 'sent_at': 'TIMESTAMPTZ',
        'status': 'VARCHAR', 'segments': 'INTEGER'
    })
    """,
    """
    CREATE TABLE lines AS
    SELECT * FROM read_csv(?, header = true, columns = {
        'vendor_message_id': 'VARCHAR', 'phone': 'VARCHAR', 'segments': 'INTEGER',
        'amount': 'DECIMAL(18, 6)', 'sent_at': 'TIMESTAMP', 'status': 'VARCHAR'
    })
    """,
)
_JOIN = """
    WITH numbered AS (
        SELECT *, row_number() OVER (PARTITION BY vendor_message_id, phone) AS nth FROM lines
    )
    SELECT
        CASE
            WHEN m.phone IS NULL THEN 'billed_not_sent'
            WHEN l.phone IS NULL AND m.status = 'delivered' THEN 'not_billed'
            WHEN l.phone IS NULL THEN 'not_charged'
            WHEN m.status <> 'delivered' THEN 'billed_not_delivered'
            WHEN l.nth > 1 THEN 'billed_twice'
            WHEN m.sent_at < $starts OR m.sent_at >= $ends THEN 'billed_out_of_period'
            WHEN l.segments <> m.segments THEN 'segments_differ'
            WHEN l.amount <> l.segments * 0.035 THEN 'price_differs'
            ELSE 'matched'
        END AS kind,
        count(*),
        sum(l.segments),
        sum(l.amount),
        sum(m.segments * 0.035)
    FROM messages AS m
    FULL JOIN numbered AS l ON m.vendor_message_id = l.vendor_message_id AND m.phone = l.phone
    GROUP BY kind
"""


async def run(parent: Path, *, quick: bool, millions: Sequence[int] = MILLIONS) -> list[Figure]:
    """Measure the run and DuckDB alternately, each size on a database of its own."""
    if quick:
        return [await _measured(parent, _QUICK_ROWS, "reconcile", quick=True)]
    figures = [
        await _measured(parent, many * 1_000_000, f"reconcile {many} M", quick=False)
        for many in millions
    ]
    if len(figures) > 1:
        figures.append(_growth(figures))
    return figures


async def _measured(parent: Path, rows: int, name: str, *, quick: bool) -> Figure:
    async with prepared(parent, "reconcile") as ground:
        messages, lines = ground.folder / "messages.csv", ground.folder / "statement.csv"
        imported = await _fill(ground, rows, messages, lines)
        starts, ends = periods.parse(PERIOD).bounds(ground.settings.accounts[PUSHED].account.zone)
        measured, in_memory, peaks, servers, spilled = [], [], [], [], []
        rounds = _ROUNDS if rows < _MANY else _ROUNDS_OF_MANY
        for _ in range(1 if quick else rounds):
            before = await ground.value("spilled")
            ours = apart(_reconcile, ground.settings.file, ground.database)
            result, work_mem, server = ours.result
            _check(result["discrepancies"], rows, tuple(_WRONG_OF_1000))
            await ground.settle_down()
            spilled.append(await ground.value("spilled") - before)
            peaks.append(ours.peak_bytes)
            servers.append(server)
            taken = []
            for place in (str(ground.folder / "duck.db"), ":memory:"):
                theirs = apart(_join, place, messages, lines, starts, ends)
                _check(theirs.result, rows, _JOINED)
                taken.append(theirs.seconds)
            (ground.folder / "duck.db").unlink()
            measured.append((ours.seconds, taken[0]))
            in_memory.append(ours.seconds / taken[1])
    millions = rows / 1_000_000
    figure = compared(
        name,
        f"{rows:,} messages against {rows:,} lines, a report for each message",
        "seconds",
        measured,
        baseline_work=f"DuckDB {duckdb.__version__}, its defaults, all cores: both loaded from CSV into"
        " a database on the same disk, full join, kinds and sums",
        notes={
            "seconds per million": [ours / millions for ours, _ in measured],
            "seconds per million, DuckDB": [theirs / millions for _, theirs in measured],
            "ratios with DuckDB's database in memory": in_memory,
            "seconds of the statement's import, before": imported,
            "discrepancies found = made": f"{sum(_WRONG_OF_1000.values()) * rows // 1000:,}",
            "peak MiB of our process": max(peaks) / 2**20,
            "peak MiB of its PostgreSQL process, shared buffers and all": max(servers) / 2**20,
            "work_mem of the run": work_mem,
            "MiB of PostgreSQL's temporary files": max(spilled) / 2**20,
        },
    )
    assert figure.ratio is not None
    figure.goal = f"<= {_TIMES:g} x, < {_BYTES / 2**20:.0f} MiB"
    figure.met = None if quick else figure.ratio <= _TIMES and max(peaks) < _BYTES
    return figure


def _growth(figures: Sequence[Figure]) -> Figure:
    first, last = figures[0], figures[-1]

    def grown(figure: str) -> float:
        small, large = sorted(first.notes[figure]), sorted(last.notes[figure])
        return float(large[len(large) // 2] / small[len(small) // 2])

    value = grown("seconds per million")
    return Figure(
        name="reconcile, growth",
        work=f"seconds per million rows: {last.name} over {first.name}",
        unit="x",
        value=value,
        baseline=grown("seconds per million, DuckDB"),
        baseline_work="the same of DuckDB",
        goal=f"<= {_GROWTH:g} x",
        met=value <= _GROWTH,
    )


async def _fill(ground: Ground, rows: int, messages: Path, lines: Path) -> float:
    """Fill the ledger, write both as CSV, import the statement; return the import's seconds."""
    for first in range(0, rows, _PORTION):
        last = min(first + _PORTION, rows) - 1
        step = _MONTH_SECONDS / rows
        await ground.execute("fill_month", PUSHED, first, last, _SENT_FROM, step)
    await ground.execute("fill_month_reports", PUSHED)
    async with ground.database.connection() as connection:
        for name, file in (("month_messages", messages), ("month_lines", lines)):
            await connection.copy_from_query(
                SQL[name].rstrip(";"), output=file, format="csv", header=True
            )
    done = apart(import_file, ground.settings.file, ground.database, lines)
    if done.result != rows:
        raise CannotRun(f"{done.result} of {rows} lines were imported")
    await ground.execute("vacuum_month")
    await ground.settle_down()
    return done.seconds


async def _reconcile(
    file: Path, database: Database
) -> tuple[float, tuple[dict[str, Any], str, int]]:
    account = settings_file.load(file, {}).accounts[PUSHED]
    async with database.connection() as connection:
        started = time.perf_counter()
        result = await match.reconcile(
            connection,
            account,
            periods.parse(PERIOD),
            now=datetime.now(UTC),
            beside=database.connection,
        )
        seconds = time.perf_counter() - started
        server = machine.peak_bytes(connection.get_server_pid())
        async with connection.transaction():
            await connection.execute(QUERIES["run_settings"])
            work_mem = await connection.fetchval(SQL["setting"], "work_mem")
        return seconds, (result, work_mem, server)


async def _join(
    place: str, messages: Path, lines: Path, starts: datetime, ends: datetime
) -> tuple[float, dict[str, dict[str, int]]]:
    with duckdb.connect(place) as connection:
        connection.execute("SET enable_progress_bar = false")
        started = time.perf_counter()
        for load, file in zip(_LOAD, (messages, lines), strict=True):
            connection.execute(load, [str(file)])
        rows = connection.execute(_JOIN, {"starts": starts, "ends": ends}).fetchall()
        seconds = time.perf_counter() - started
    return seconds, {row[0]: {"count": row[1]} for row in rows}


def _check(found: dict[str, Any], rows: int, kinds: Sequence[str]) -> None:
    """Prove that what was measured finds what is there, and no more."""
    counted = {kind: found[kind]["count"] for kind in kinds if kind in found}
    made = {kind: _WRONG_OF_1000[kind] * rows // 1000 for kind in kinds}
    if counted != made:
        raise CannotRun(f"the reconciliation found {counted}, and there are {made}")
