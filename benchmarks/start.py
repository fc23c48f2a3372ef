"""How long one waits for `--help`, and for the first callback where there was nothing before."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks import load
from benchmarks.figures import Figure
from benchmarks.ground import PUSHED, SETTINGS, TOKEN, CannotRun, ended

_HELP_SECONDS = 0.2
_START_SECONDS = 3.0
_PATIENCE_SECONDS = 60.0


async def run(parent: Path, *, quick: bool) -> list[Figure]:
    """Measure both, one start after another."""
    helps = [_help() for _ in range(3 if quick else 11)]
    firsts, agains = [], []
    for _ in range(1 if quick else 3):
        with tempfile.TemporaryDirectory(
            prefix="huizhi-bench-start-", dir=parent, ignore_cleanup_errors=True
        ) as folder:
            file = Path(folder) / "huizhi.toml"
            file.write_text(SETTINGS, "utf-8")
            firsts.append(_first_callback(file, 0))
            agains.append(_first_callback(file, 1))
    return [
        Figure(
            name="help",
            work="`huizhi --help`, from its start to its end; median",
            unit="s",
            value=median(helps),
            goal=f"< {_HELP_SECONDS:g} s",
            met=median(helps) < _HELP_SECONDS,
            notes={"quickest": min(helps), "slowest": max(helps)},
        ),
        Figure(
            name="start",
            work="`huizhi receiver` in an empty folder, PostgreSQL made and migrated: to the first callback"
            " acknowledged; median",
            unit="s",
            value=median(firsts),
            goal=f"< {_START_SECONDS:g} s",
            met=median(firsts) < _START_SECONDS,
            notes={"slowest": max(firsts), "the second time, on its data": median(agains)},
        ),
    ]


def _help() -> float:
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "huizhi", "--help"], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def _first_callback(file: Path, number: int) -> float:
    env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    log = file.with_suffix(".log")
    started = time.perf_counter()
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "huizhi", "--config", str(file), "receiver"],
            env=env,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        port = said.partition("://")[2].partition("/")[0].rpartition(":")[2]
        if not port.isdigit():
            raise CannotRun("the receiver did not start")
        plan = load.Plan(
            port=int(port),
            path=f"/callbacks/{PUSHED}/{TOKEN}",
            connections=1,
            seconds=1.0,
            first=number,
            count=1,
        )
        while time.perf_counter() - started < _PATIENCE_SECONDS:
            try:
                outcome = load.push(plan)
            except OSError:
                time.sleep(0.01)
                continue
            if outcome.acknowledged:
                return time.perf_counter() - started
        raise CannotRun(f"no callback was acknowledged within {_PATIENCE_SECONDS:.0f} seconds")
    finally:
        ended(process)
