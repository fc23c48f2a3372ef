"""The composition root of the services: which processes run, on which sockets, and who outlives whom.

One parent owns the embedded database (if any), migrates, and keeps its children up: receivers that
share a port, and the reconciler. Children die with their parent. Start order: database, migrations,
children; while a database of another's is away, receivers first, for they have the spool, and the
reconciler when it is there and migrated. Stop order: children (each drains), then the database.
"""

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from receiver.spool import Spool
from runtime import DatabaseUnavailable, logs, metrics, migrate, telemetry
from runtime import database as databases
from runtime.database import Database
from runtime.embedded import Embedded
from runtime.settings import Settings, api_token, api_token_file, load
from runtime.sockets import bind

log = structlog.get_logger()

# Draining, and a call to a vendor whose page is handed out once.
STOP_SECONDS = 80.0
# How long receivers wait for a database before they start without it.
_PATIENCE_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1
_PAUSES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)


class Child:
    """One process that is kept up: started again, with growing pauses, when it ends by itself."""

    def __init__(self, name: str, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.name = name
        self._target = target
        self._arguments = arguments
        self._process: Any = None
        self._started = 0.0
        self._quick_ends = 0
        self._not_before = 0.0

    def start(self) -> None:
        """Start the process. Call it from the main thread only: children die with their parent's thread."""
        # Spawned and not forked: a fork would share sockets, event loops and random state.
        self._process = multiprocessing.get_context("spawn").Process(
            target=_child, args=(os.getpid(), self._target, *self._arguments), name=self.name
        )
        self._process.start()
        self._started = time.monotonic()

    def revive(self) -> None:
        """Start the process again if it has ended and its pause is over."""
        if self._process is None:
            if time.monotonic() >= self._not_before:
                self.start()
            return
        if self._process.is_alive():
            return
        quick = time.monotonic() - self._started < 30
        self._quick_ends = self._quick_ends + 1 if quick else 0
        pause = _PAUSES[min(self._quick_ends, len(_PAUSES) - 1)]
        log.error("process.ended", name=self.name, code=self._process.exitcode, again_seconds=pause)
        metrics.forget(self._process.pid, os.environ.get(metrics.FOLDER_VARIABLE))
        self._process = None
        self._not_before = time.monotonic() + pause

    def stop(self) -> None:
        """Ask the process to drain and end."""
        if self._process is not None and self._process.is_alive():
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for the end, and force it after `seconds`."""
        if self._process is None:
            return
        self._process.join(seconds)
        if self._process.is_alive():
            log.error("process.killed", name=self.name)
            self._process.kill()
            self._process.join()


def run(settings: Settings, *, receiver: bool, reconciler: bool) -> None:
    """Run the services until SIGTERM or SIGINT. Raises `Problem` if they cannot start."""
    telemetry.check(settings)
    with contextlib.ExitStack() as stack:
        places = []
        children: list[Child] = []
        if receiver:
            Spool.of(settings).prepare()
            port = _reserve(stack, settings.receiver.host, settings.receiver.port)
            places.append(f"receiver    http://{_host(settings.receiver.host)}:{port}/callbacks/…")
        if reconciler:
            api_port = _reserve(stack, settings.reconciler.host, settings.reconciler.port)
            places.append(f"reconciler  http://{_host(settings.reconciler.host)}:{api_port}/")
            api_token(settings)
            if settings.reconciler.api_token is None:
                places.append(f"API token   in {api_token_file(settings)}")
        embedded = stack.enter_context(databases.server(settings))
        counts = _count_together(settings)
        if receiver and settings.receiver.metrics_port is not None:
            host = settings.receiver.metrics_host
            shown = stack.enter_context(
                metrics.served(counts, host, settings.receiver.metrics_port)
            )
            places.append(f"metrics     http://{_host(host)}:{shown}/metrics")
        migrating = databases.of(settings, embedded, "migrate")
        away = receiver and not asyncio.run(_is_there(migrating))
        if not away:
            asyncio.run(_migrate(migrating))
        if receiver:
            database = databases.of(settings, embedded, "receiver", role="huizhi_receiver")
            children += [
                Child(
                    f"receiver {number}",
                    _receiver,
                    (settings.file, database, settings.receiver.host, port),
                )
                for number in range(1, settings.receiver.workers + 1)
            ]
        later: list[Child] = []
        if reconciler:
            database = databases.of(settings, embedded, "reconciler", role="huizhi_reconciler")
            later.append(
                Child(
                    "reconciler",
                    _reconciler,
                    (settings.file, database, settings.reconciler.host, api_port),
                )
            )
        if not away:
            children, later = children + later, []
        asyncio.run(_supervise(children, later, migrating if away else None, embedded, places))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # what stops now, stops whole


async def _is_there(database: Database) -> bool:
    """Tell whether the database answers now. Raises `DatabaseUnusable`."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await database.ready(patience_seconds=0)
    except (DatabaseUnavailable, TimeoutError):
        return False
    return True


async def _migrate(database: Database) -> None:
    await database.ready()
    async with database.connection() as connection:
        for name in await migrate.migrate(connection):
            log.info("database.migrated", migration=name)


async def _supervise(
    children: list[Child],
    later: list[Child],
    migrating: Database | None,
    embedded: Embedded | None,
    places: list[str],
) -> None:
    """Keep `children` up until told to stop, and `later` too when `migrating` is migrated."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    keeper = asyncio.create_task(embedded.keep()) if embedded is not None else None
    migration = asyncio.create_task(_migrate(migrating)) if migrating is not None else None
    for child in children:
        child.start()
    for place in places:
        print(place, flush=True)
    try:
        while not stopping.is_set():
            if migration is not None and migration.done():
                migration.result()
                migration, children = None, children + later
            for child in children:
                child.revive()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), 0.5)
    finally:
        log.info("processes.stopping")
        for child in children:
            child.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            # In a thread: the database must be kept up for children that still commit.
            await asyncio.to_thread(child.wait, max(deadline - time.monotonic(), 0.0))
        left = [task for task in (keeper, migration) if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _reserve(stack: contextlib.ExitStack, host: str, port: int) -> int:
    """Hold the port while children come and go; return its number."""
    number: int = stack.enter_context(bind(host, port)).getsockname()[1]
    return number


def _host(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104  said to people, not bound
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _count_together(settings: Settings) -> str:
    """Let all processes of this machine count in one folder, and return it; the reconciler shows it."""
    folder = settings.data_dir / "metrics"
    metrics.clean_folder(folder)
    os.environ[metrics.FOLDER_VARIABLE] = str(folder)
    return str(folder)


def _child(parent: int, target: Callable[..., None], *arguments: Any) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(1)  # it died before the kernel knew of our wish
    target(*arguments)


def _receiver(file: Path, database: Database, host: str, port: int) -> None:
    from receiver import worker

    settings = load(file)
    logs.configure(secrets=settings.secrets, level=settings.logs.number)
    with telemetry.traced(settings, "receiver"):
        worker.run(settings, database, bind(host, port))


def _reconciler(file: Path, database: Database, host: str, port: int) -> None:
    from reconciler import worker

    settings = load(file)
    logs.configure(secrets=settings.secrets, level=settings.logs.number)
    with telemetry.traced(settings, "reconciler"):
        worker.run(settings, database, bind(host, port))
