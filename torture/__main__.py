"""`make torture ROUNDS=n SEED=s`: torture the services for n rounds, and prove each.

Exits 0 if nothing was violated, 1 at the first violation, with the evidence kept.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import platform
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec

from runtime import logs
from torture import disks, faults, proof
from torture.faults import Fault
from torture.proof import Found
from torture.senders import Ledger, Load
from torture.stage import ROOT, SQL, Stage, Violation

# What no fault touches any more is settled within seconds; that is waited for after so many rounds.
_SETTLED_EVERY = 10
# After so many rounds everything begins anew, in an empty database.
_FRESH_EVERY = 50
_LOAD_SECONDS = (1.0, 2.0)
_REGISTER_SECONDS = 0.4


class Figures(msgspec.Struct):
    """What a run came to."""

    rounds: int = 0
    pushed: int = 0
    tries: int = 0
    acknowledged: int = 0
    refused: int = 0
    recorded: int = 0
    messages: int = 0
    counted_again: int = 0
    slowest_recovery: float = 0.0
    faults: Counter[str] = msgspec.field(default_factory=Counter)


def main() -> int:
    """Run what the command line asks for and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--seed", default="", help="repeats the choice of faults (default: a new one)"
    )
    parser.add_argument("--first", type=int, default=1, help="number of the first round")
    parser.add_argument(
        "--only", action="append", choices=faults.FAULTS, help="this fault; repeatable"
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    if sys.platform != "linux":
        print("torture: needs Linux: it stops, starves and looks for processes", file=sys.stderr)
        return 2
    disks.enter_namespace([sys.executable, "-m", "torture", *sys.argv[1:]])
    seed = chosen.seed or secrets.token_hex(4)
    logs.configure(level=logging.CRITICAL)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="huizhi-torture-", dir=chosen.folder))
    folder.chmod(0o755)  # PostgreSQL may run as another user
    print(
        f"seed {seed}, {chosen.rounds} rounds, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC,"
        f" {os.cpu_count()} processors, {platform.machine()}, Python {platform.python_version()}",
        flush=True,
    )
    run = Run(folder, seed, chosen.only or [])
    begun = time.monotonic()
    try:
        asyncio.run(_until_told(run.rounds(chosen.first, chosen.rounds)))
    except asyncio.CancelledError:
        print(f"\nended in round {run.number}, without a violation until then")
        print(_table(run.figures, time.monotonic() - begun, seed))
        return 130
    except Exception as violation:
        if not isinstance(violation, Violation):
            traceback.print_exc()  # a fault of the torture's own, perhaps
        evidence = run.keep_evidence(violation)
        print(f"\nVIOLATION in round {run.number}: {violation}\nevidence in {evidence}")
        print(f"again: make torture SEED={seed} FIRST={run.number} ROUNDS=1")
        return 1
    finally:
        run.clean()
    print(_table(run.figures, time.monotonic() - begun, seed))
    return 0


async def _company(stage: Stage, ledger: Ledger) -> None:
    """Register the messages pushed so far, again and again, as far as that goes just now."""
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(_REGISTER_SECONDS)
            with contextlib.suppress(httpx.HTTPError, proof.NotRegistered):
                await proof.register(stage, ledger)


async def _until_told(work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, unless told to end: then too nothing that was started is left behind."""
    doing = asyncio.create_task(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, doing.cancel)
    await doing


class Run:
    """Rounds one after the other, and the stages that they take place on."""

    def __init__(self, folder: Path, seed: str, only: list[str]) -> None:
        self._folder = folder
        self._seed = seed
        self._only = only
        self._stage: Stage | None = None
        self._ledger: Ledger | None = None
        self._unproved: list[tuple[Ledger, Found]] = []
        self._on_stage = 0
        self.number = 0
        self.figures = Figures()

    async def rounds(self, first: int, count: int) -> None:
        """Play `count` rounds. Raises `Violation` at the first."""
        last = first + count - 1
        for begin in range(first, last + 1, _FRESH_EVERY):
            stage = self._stage = Stage(self._folder / f"from-{begin}")
            async with stage:
                if begin == first:
                    ways = {disk.way for disk in stage.disks.values()}
                    print(f"full disks by {', '.join(sorted(ways))}", flush=True)
                self._on_stage = 0
                for self.number in range(begin, min(begin + _FRESH_EVERY, last + 1)):
                    await self._round(stage)
                    if self.number == last or self.number % _SETTLED_EVERY == 0:
                        await self._settled(stage)
                await self._whole(stage)
            self._clear(stage)

    async def _round(self, stage: Stage) -> None:
        begun = time.monotonic()
        chance = random.Random(f"{self._seed}:{self.number}")
        seconds = chance.uniform(*_LOAD_SECONDS)
        planned = faults.plan(chance, seconds)
        if self._only:
            planned = [
                msgspec.structs.replace(fault, name=chance.choice(self._only)) for fault in planned
            ]
        if stage.receiver.quick_ends > 2:
            # Its workers would be started again after ever longer pauses.
            await stage.receiver.stop()
            stage.receiver.start()
            await stage.well()
        ledger = self._ledger = Ledger(f"r{self.number}")
        load = Load(stage.receiver_port, ledger, f"{self._seed}:{self.number}")
        company = asyncio.create_task(_company(stage, ledger))
        try:
            await asyncio.gather(faults.inflict(stage, planned), asyncio.sleep(seconds))
            await stage.heal()
        finally:
            company.cancel()
            await asyncio.gather(company, load.stop())
        recovery = await stage.well()
        found = await proof.present(stage, ledger)
        await proof.register(stage, ledger)
        self._unproved.append((ledger, found))
        self._on_stage += len(found.records)
        self._count(ledger, found, planned, recovery)
        print(
            f"round {self.number:4}  {time.monotonic() - begun:4.1f} s"
            f"  pushed {len(ledger.callbacks):5}  acknowledged {len(ledger.acknowledged):5}"
            f"  503 {ledger.count('refused'):4}  recorded {len(found.records):5}"
            f"  {' '.join(map(str, planned))}",
            flush=True,
        )

    def _count(self, ledger: Ledger, found: Found, planned: list[Fault], recovery: float) -> None:
        figures = self.figures
        figures.rounds += 1
        figures.pushed += len(ledger.callbacks)
        figures.tries += ledger.count("tries")
        figures.acknowledged += len(ledger.acknowledged)
        figures.refused += ledger.count("refused")
        figures.recorded += len(found.records)
        figures.counted_again += found.again
        figures.slowest_recovery = max(figures.slowest_recovery, recovery)
        figures.faults.update(fault.name for fault in planned)

    async def _settled(self, stage: Stage) -> None:
        begun = time.monotonic()
        # Started anew its jobs run at once: what a registration that was cut off left they join.
        await stage.reconciler.stop()
        stage.reconciler.start()
        await proof.settled(stage)
        for ledger, found in self._unproved:
            # What hung in a connection may have been carried out since.
            after = await proof.present(stage, ledger)
            if not found.records <= after.records:
                raise Violation(f"records of round {ledger.tag} are gone")
            self._on_stage += len(after.records - found.records)
            self.figures.messages += await proof.folded(stage, ledger, after)
        print(
            f"{'':12}{time.monotonic() - begun:4.1f} s  all settled, every state as it follows from"
            f" {sum(len(found.records) for _, found in self._unproved)} records",
            flush=True,
        )
        self._unproved.clear()

    async def _whole(self, stage: Stage) -> None:
        """Prove that the database holds what was counted and nothing else, and its chain whole."""
        async with stage.database.connection() as connection:
            if (count := await connection.fetchval(SQL["record_count"])) != self._on_stage:
                raise Violation(f"{count} records are there, {self._on_stage} were counted")
        checked = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "huizhi", "chain", "verify"],
            cwd=ROOT,
            env={**stage.environment, "HUIZHI_CONFIG": str(stage.folder / "huizhi.toml")},
            capture_output=True,
            text=True,
        )
        if checked.returncode != 0:
            raise Violation(f"the chain is broken: {checked.stdout}{checked.stderr}")

    def keep_evidence(self, violation: BaseException) -> Path:
        """Copy what a violation left behind where it stays, and return that place."""
        evidence = self._folder / "evidence"
        evidence.mkdir(exist_ok=True)
        (evidence / "violation.txt").write_text(f"{violation!r}\nseed {self._seed}\n")
        current = [self._ledger] if self._ledger is not None else []
        for ledger in {*current, *(ledger for ledger, _ in self._unproved)}:
            proof.write(ledger, evidence / f"{ledger.tag}.json")
        if self._stage is not None:
            shutil.copytree(
                self._stage.folder,
                evidence / "stage",
                ignore=lambda folder, names: [
                    name for name in names if (Path(folder) / name).is_socket()
                ],
                dirs_exist_ok=True,
            )
        return evidence

    def _clear(self, stage: Stage) -> None:
        for disk in stage.disks.values():
            disk.remove()
        shutil.rmtree(stage.folder, ignore_errors=True)

    def clean(self) -> None:
        """Remove what is no evidence."""
        if self._stage is not None:
            self._clear(self._stage)
        if not (self._folder / "evidence").exists():
            shutil.rmtree(self._folder, ignore_errors=True)


def _table(figures: Figures, seconds: float, seed: str) -> str:
    hit = ", ".join(f"{name} {figures.faults[name]}" for name in faults.FAULTS)
    rows = {
        "rounds": f"{figures.rounds}, in {seconds:.0f} s, seed {seed}",
        "faults": f"{figures.faults.total()}: {hit}",
        "callbacks": f"{figures.pushed}, pushed {figures.tries} times",
        "answered 503": figures.refused,
        "acknowledged": figures.acknowledged,
        "recorded": figures.recorded,
        "messages": figures.messages,
        "lost, doubled, invented": 0,
        "arrivals counted once too often": figures.counted_again,
        "slowest recovery": f"{figures.slowest_recovery:.1f} s after the last fault",
    }
    width = max(map(len, rows))
    return "\n" + "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


if __name__ == "__main__":
    sys.exit(main())
