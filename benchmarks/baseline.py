"""The baseline's engine: PostgreSQL's own `pgbench`, of the server that runs or of the system."""

import asyncio
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import machine
from benchmarks.ground import CannotRun, Ground

_SCRIPTS = Path(__file__).resolve().parent / "scripts"
_RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_DONE = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_FAILED = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)


def script(name: str) -> str:
    """Return the text of `scripts/NAME.sql`."""
    return (_SCRIPTS / f"{name}.sql").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Run:
    """Transactions a second, without the time to connect, and how many there were.

    `used` is processor time by what used it, in seconds.
    """

    rate: float
    transactions: int
    used: dict[str, float]


class Pgbench:
    """`pgbench` against a ground's database; `found` raises `CannotRun` if the machine has none."""

    def __init__(self, program: Path, ground: Ground) -> None:
        self._program = program
        self._ground = ground
        self._runs = 0

    @classmethod
    async def found(cls, ground: Ground) -> "Pgbench":
        """Find the program beside the `postgres` that runs, else on the path."""
        folder = Path(await ground.value("binaries"))
        program: str | None = shutil.which("pgbench", path=str(folder)) or shutil.which("pgbench")
        if program is None:
            raise CannotRun(
                f"no pgbench, neither in {folder} nor on the path: it comes with PostgreSQL"
                " (Debian: postgresql-contrib), or name a folder in HUIZHI_POSTGRES_BIN"
            )
        return cls(Path(program), ground)

    async def run(
        self,
        text: str,
        variables: Mapping[str, str],
        *,
        clients: int,
        seconds: float,
        protocol: Literal["simple", "prepared"] = "prepared",
    ) -> Run:
        """Run the script `text`, in which `variables` stand as `:name`.

        A script numbers its rows from `:first` on, which is another for each run, so that they are
        always new; `:n` is its own to count with, 0 at first.
        """
        file = self._ground.folder / "pgbench.sql"
        file.write_text(text, "utf-8")
        self._runs += 1
        defined = {**variables, "first": str(10**12 + self._runs * 10**10), "n": "0"}
        server = await self._ground.value("server_process")
        before = (machine.processor_seconds(server), machine.ended_processor_seconds())
        process = await asyncio.create_subprocess_exec(
            self._program,
            *("--no-vacuum", f"--protocol={protocol}", f"--file={file}"),
            *(f"--client={clients}", "--jobs=2", f"--time={max(1, round(seconds))}"),
            *(f"--define={name}={value}" for name, value in defined.items()),
            self._ground.database.dsn.reveal(),
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        said = output.decode("utf-8", "replace")
        rate, done, failed = (look.search(said) for look in (_RATE, _DONE, _FAILED))
        if process.returncode != 0 or rate is None or done is None or (failed and failed[1] != "0"):
            lines = errors.decode("utf-8", "replace").strip().splitlines()
            raise CannotRun(f"pgbench failed: {lines[-1] if lines else said[-300:]}")
        used = {
            "postgres": machine.processor_seconds(server) - before[0],
            "load": machine.ended_processor_seconds() - before[1],
        }
        return Run(float(rate[1]), int(done[1]), used)
