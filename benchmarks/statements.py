"""A vendor's bill imported, against COPY of the same lines."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.copying import copied
from benchmarks.figures import Figure, compared
from benchmarks.ground import PERIOD, PUSHED, CannotRun, apart, prepared
from reconciler import periods, statements
from runtime import settings as settings_file
from runtime.database import Database

_LINES = 1_000_000
_QUICK_LINES = 20_000
_ROUNDS = 2
_HEADINGS = "任务ID,手机号,计费条数,金额(元),发送时间,状态\r\n"


async def run(parent: Path, *, quick: bool) -> list[Figure]:
    """Measure import and COPY alternately, each into an empty table."""
    lines = _QUICK_LINES if quick else _LINES
    async with prepared(parent, "import") as ground:
        file = ground.folder / "statement.csv"
        _write(file, lines)
        measured = []
        peaks = []
        for _ in range(1 if quick else _ROUNDS):
            await ground.execute("forget_statements")
            await ground.settle_down()
            ours = apart(_import, ground.settings.file, ground.database, file)
            if ours.result != lines:
                raise CannotRun(f"{ours.result} of {lines} lines were imported")
            seconds = await copied(
                ground, "lines", rows="statement_lines", forget="forget_statements", expected=lines
            )
            measured.append((lines / ours.seconds, lines / seconds))
            peaks.append(ours.peak_bytes)
        size = file.stat().st_size
    return [
        compared(
            "import",
            f"statement of {lines:,} lines, CSV",
            "lines/s",
            measured,
            baseline_work="COPY of the same lines into the same table",
            later=0.4,
            notes={
                "MB of the file": size / 1e6,
                "peak MiB of our process": max(peaks) / 2**20,
            },
        )
    ]


async def _import(file: Path, database: Database, statement: Path) -> tuple[float, int]:
    settings = settings_file.load(file, {})
    columns = statements.format_columns(settings, "generic")
    async with database.connection() as connection:
        started = time.perf_counter()
        done = await statements.import_file(
            connection,
            settings.accounts[PUSHED],
            periods.parse(PERIOD),
            statement,
            file_name=statement.name,
            format_name="generic",
            columns=columns,
            now=datetime.now(UTC),
        )
        return time.perf_counter() - started, done.lines


def _write(file: Path, lines: int) -> None:
    first = datetime(2026, 1, 1)  # noqa: DTZ001  consoles export local times
    step = timedelta(days=29) / lines
    with file.open("w", encoding="utf-8", newline="") as written:
        written.write(_HEADINGS)
        for number in range(lines):
            phone = 13_800_000_000 + number % 10**8
            at = first + number * step
            written.write(f"{10**12 + number},{phone},1,0.035,{at:%Y-%m-%d %H:%M:%S},成功\r\n")
