"""Where a benchmark runs: a folder, settings and an embedded PostgreSQL of its own, as shipped.

PostgreSQL keeps the settings that the service gives it; that they are the durable ones is proved
before anything is measured.
"""

import asyncio
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from benchmarks import machine
from gateways.gateway import Secret
from runtime import Problem, logs, migrate
from runtime import settings as settings_file
from runtime.database import Database
from runtime.embedded import Embedded
from runtime.queries import Queries
from runtime.settings import Settings
from runtime.sockets import free_ports

SQL = Queries(Path(__file__).resolve().parent / "sql")
PERIOD = "2026-01"
PUSHED = "pushed"  # an account at a vendor that pushes
PULLED = "pulled"  # and one at a vendor that is asked
ASKED = "asked"  # and one whose vendor is asked message by message
TOKEN = "token-of-the-benchmark"

SETTINGS = f"""\
data_dir = "./data"

[receiver]
host = "127.0.0.1"
port = 0

[reconciler]
port = 0

[accounts.{PUSHED}]
gateway = "thinkapi"
credentials = {{ app_code = "none-is-called" }}
callback_tokens = ["{TOKEN}"]

[[accounts.{PUSHED}.tariffs]]
from = 2025-01-01
price = "0.035"

[accounts.{PULLED}]
gateway = "thinksms"
credentials = {{ user_id = "none-is-called", account = "none-is-called", password = "none-is-called" }}
callback_tokens = ["{TOKEN}"]
"""
_DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
_READY_SECONDS = 60.0

T = TypeVar("T")


class CannotRun(Problem):
    """A benchmark that could not be run; the text says in one line why."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A folder, the settings in it, and the server that runs on it."""

    folder: Path
    settings: Settings
    embedded: Embedded
    database: Database

    async def execute(self, name: str, *arguments: Any) -> None:
        """Run a query of `benchmarks/sql` without a result, for as long as it takes."""
        async with self.database.connection() as connection:
            await connection.execute(SQL[name], *arguments)

    async def value(self, name: str, *arguments: Any) -> Any:
        """Return the one value of a query of `benchmarks/sql`."""
        async with self.database.connection() as connection:
            return await connection.fetchval(SQL[name], *arguments)

    async def row(self, name: str, *arguments: Any) -> Any:
        """Return the first row of a query of `benchmarks/sql`."""
        async with self.database.connection() as connection:
            return await connection.fetchrow(SQL[name], *arguments)

    async def settle_down(self) -> None:
        """Write out what is dirty, so that no half of a round pays for the other's pages."""
        await self.execute("checkpoint")


@asynccontextmanager
async def prepared(parent: Path, name: str) -> AsyncIterator[Ground]:
    """Yield a fresh ground below `parent`, migrated and empty; nothing of it is left behind."""
    with _folder(parent, name) as folder:
        file = folder / "huizhi.toml"
        file.write_text(SETTINGS, "utf-8")
        settings = settings_file.load(file, {})
        embedded = Embedded(settings.data_dir)
        try:
            dsn = embedded.start()
            database = Database(dsn=Secret(dsn), name="huizhi benchmark")
            async with database.connection() as connection:
                await migrate.migrate(connection)
                for setting in _DURABLE:
                    if (value := await connection.fetchval(SQL["setting"], setting)) != "on":
                        raise CannotRun(
                            f"PostgreSQL has {setting} = {value}: that measures nothing"
                        )
            yield Ground(folder, settings, embedded, database)
        finally:
            embedded.stop()


@dataclass(frozen=True, slots=True)
class Service:
    """A running part of Huizhi, or what stands in its place."""

    process: int
    port: int


@contextmanager
def receiver(ground: Ground) -> Iterator[Service]:
    """Run the real receiver, with its workers, on the ground's settings and database."""
    with _service(ground, "receiver") as service:
        yield service


@contextmanager
def reconciler(ground: Ground) -> Iterator[Service]:
    """Run the real reconciler, likewise."""
    with _service(ground, "reconciler") as service:
        yield service


@contextmanager
def _service(ground: Ground, name: str) -> Iterator[Service]:
    log = ground.folder / f"{name}.log"
    env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "huizhi", "--config", str(ground.settings.file), name],
            env=env,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        try:
            port = int(said.partition("://")[2].partition("/")[0].rpartition(":")[2])
        except ValueError:
            process.wait(10)
            raise CannotRun(f"the {name} did not start: {_last_line(log)}") from None
        _await_ready(process, port, log, name)
        yield Service(process.pid, port)
    finally:
        ended(process)


@contextmanager
def plain_receiver(ground: Ground) -> Iterator[Service]:
    """Run the receiver of `benchmarks/plain.py` on the ground's database, with a worker a core."""
    log = ground.folder / "plain.log"
    (port,) = free_ports(1)
    dsn = ground.database.dsn.reveal()
    env = {
        **os.environ,
        "PLAIN_DATABASE_URL": dsn.replace("postgresql:", "postgresql+asyncpg:", 1),
        "PLAIN_TOKEN": TOKEN,
    }
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "benchmarks.plain:app", "--port", str(port)),
                *("--workers", "2", "--loop", "uvloop", "--http", "httptools"),
                *("--no-access-log", "--log-level", "error"),
            ],
            env=env,
            stdout=errors,
            stderr=errors,
        )
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not _answers(port):
            if time.monotonic() > deadline or process.poll() is not None:
                raise CannotRun(f"the plain receiver did not start: {_last_line(log)}")
            time.sleep(0.05)
        yield Service(process.pid, port)
    finally:
        ended(process)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def ended(process: subprocess.Popen[Any]) -> None:
    """Have a process end, and wait for it."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class Measured:
    """What a work took in a process of its own, beside what it returned."""

    seconds: float
    peak_bytes: int
    result: Any


def apart(work: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Measured:
    """Run `work(*arguments)` in a fresh process, so that its memory is its own.

    `work` times itself: it returns (seconds, result).
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as processes:
        (seconds, result), peak = processes.submit(_apart, work, arguments).result()
    return Measured(seconds, peak, result)


def _apart(
    work: Callable[..., Coroutine[Any, Any, Any]], arguments: tuple[Any, ...]
) -> tuple[Any, int]:
    # As in __main__: unconfigured, structlog would write every debug line.
    logs.configure(level=logging.ERROR)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work(*arguments)), machine.peak_bytes()


@contextmanager
def _folder(parent: Path, name: str) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"huizhi-bench-{name}-", dir=parent))
    except OSError as error:
        raise CannotRun(f"{parent} cannot be used: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await_ready(process: subprocess.Popen[str], port: int, log: Path, name: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise CannotRun(f"the {name} is not ready: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1][-300:] if lines else "it said nothing"
