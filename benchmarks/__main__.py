"""`python -m benchmarks`: measure, print, and say what could not be measured.

A slow machine is no failure: the exit code is 1 only when a benchmark could not be run.
"""

import argparse
import asyncio
import importlib
import logging
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from benchmarks import figures, machine
from benchmarks.figures import Figure
from benchmarks.ground import prepared
from gateways.errors import GatewayError
from runtime import Problem, logs
from runtime.database import DATABASE_ERRORS

# Name: its module, imported when it is asked for.
BENCHMARKS = {
    "callbacks": "benchmarks.callbacks",
    "offered": "benchmarks.offered",
    "callbacks-100": "benchmarks.many",
    "query": "benchmarks.query",
    "start": "benchmarks.start",
    "reconcile": "benchmarks.reconcile",
    "import": "benchmarks.statements",
    "sent": "benchmarks.sent",
    "pull": "benchmarks.pull",
    "audit": "benchmarks.audit",
}
_COULD_NOT: tuple[type[Exception], ...] = (Problem, GatewayError, OSError, *DATABASE_ERRORS)


def main() -> int:
    """Run what the command line asks for and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small runs: do they work at all?")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="this one; repeatable")
    parser.add_argument(
        "--millions",
        type=_millions,
        metavar="N,N",
        help="how many to reconcile (default: 1,5,10); the audit has the last's (default: 1)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=1.0,
        help="for how long callbacks are offered and memory is watched (default: 1)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--folder",
        type=Path,
        default=_folder(),
        help="where the database lives, on a real disk (default: %(default)s)",
    )
    chosen = parser.parse_args()
    logs.configure(level=logging.ERROR)
    measured: list[Figure] = []
    failed = False
    try:
        seen = asyncio.run(_machine(chosen.folder))
    except _COULD_NOT as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    for name in chosen.only or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        run = importlib.import_module(BENCHMARKS[name]).run
        try:
            given = _sizes(name, chosen.millions, chosen.minutes)
            measured += asyncio.run(run(chosen.folder, quick=chosen.quick, **given))
        except _COULD_NOT as error:
            failed = True
            print(f"benchmarks: {name} could not run: {error}", file=sys.stderr)
        except Exception:
            # A fault of ours: the others can still be measured.
            failed = True
            traceback.print_exc()
            print(f"benchmarks: {name} could not run, see above", file=sys.stderr)
    print(figures.table(measured))
    print()
    for name, value in seen.items():
        print(f"{name}: {value}")
    if chosen.json is not None:
        figures.write(chosen.json, seen, measured)
    return 1 if failed else 0


def _sizes(name: str, millions: tuple[int, ...] | None, minutes: float) -> dict[str, Any]:
    match name:
        case "offered":
            return {"minutes": minutes}
        case "reconcile" if millions:
            return {"millions": millions}
        case "audit" if millions:
            return {"rows": millions[-1] * 1_000_000}
        case _:
            return {}


def _millions(text: str) -> tuple[int, ...]:
    sizes = tuple(sorted(map(int, text.split(","))))
    if sizes[0] < 1:
        raise ValueError("no rows to reconcile")
    return sizes


def _folder() -> Path:
    """Where temporary files outlive a restart, and so are no RAM disk; else where the system says."""
    lasting = Path("/var/tmp")
    return lasting if lasting.is_dir() else Path(tempfile.gettempdir())


async def _machine(folder: Path) -> dict[str, object]:
    async with prepared(folder, "machine") as ground:
        return machine.describe(ground.folder, await ground.value("version"))


if __name__ == "__main__":
    sys.exit(main())
