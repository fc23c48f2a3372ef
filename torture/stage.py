"""Where the torture takes place: PostgreSQL, the network to it, receivers, a reconciler, disks, a clock."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from gateways.gateway import Secret
from runtime.database import Database
from runtime.embedded import Embedded
from runtime.queries import Queries
from runtime.sockets import free_ports
from torture.disks import Disk
from torture.proxy import Proxy

ROOT = Path(__file__).resolve().parent.parent
SQL = Queries(ROOT / "torture" / "sql")
WORKERS = 2
API_TOKEN = "token-of-the-api"
# How long after the last fault all must be as if nothing had been.
HEAL_SECONDS = 60.0
SETTINGS = """\
data_dir = "{data_dir}"
[receiver]
host = "127.0.0.1"
port = {receiver}
workers = {workers}
[reconciler]
host = "127.0.0.1"
port = {reconciler}
api_token = "{token}"
[accounts.think]
gateway = "thinkapi"
base_url = "http://127.0.0.1:9"
credentials = {{ app_code = "code" }}
callback_tokens = ["think-token"]
poll_after_seconds = 864000
[accounts.sms]
gateway = "thinksms"
base_url = "http://127.0.0.1:9"
credentials = {{ user_id = "7", account = "me", password = "hush" }}
callback_tokens = ["sms-token"]
"""


class Violation(Exception):
    """What must never be; its text says what was found."""


class Service:
    """A `huizhi` command that runs: its process, and the children that it keeps up."""

    def __init__(self, command: str, file: Path, environment: dict[str, str], log: Path) -> None:
        self.command = command
        self._file = file
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._killed: subprocess.Popen[bytes] | None = None
        self.quick_ends = 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def parent(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, unless it runs; children of one that was killed may still be ending."""
        if self.running:
            return
        self.quick_ends = 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "huizhi", "--config", str(self._file), self.command],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def children(self) -> list[int]:
        """The processes that do the work, the longest living first."""
        return [pid for pid in children_of(self.parent) if _is(pid, b"spawn_main")]

    def kill(self, *, children: bool = True) -> None:
        """Kill it and its children, as a machine that goes down would, or it alone: then they end."""
        if self._process is None:
            return
        victims = self.children() if children and self.running else []
        self._killed = self._process
        self._process.kill()
        for pid in victims:
            signalled(pid, signal.SIGKILL)
        self._process.wait()

    async def stop(self) -> None:
        """Ask it to end, and wait for that. Raises `Violation` if it does not end well."""
        process = self._process
        assert process is not None
        process.terminate()
        code = await asyncio.to_thread(process.wait, 60)
        # Asked while Python still starts, it ends as any process does; ending takes seconds, and another
        # fault may kill it meanwhile.
        if code not in (0, -signal.SIGTERM) and self._killed is not process:
            raise Violation(f"huizhi {self.command} ended with {code} when it was asked to end")


class Stage:
    """Everything that is tortured; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disks = {name: Disk(folder / name) for name in ("postgres", "data")}
        self.postgres = Embedded(
            folder / "postgres",
            options={
                "shared_buffers": "64MB",
                "max_wal_size": "256MB",
                "superuser_reserved_connections": "10",
            },
        )
        self._keeper: asyncio.Task[None] | None = None
        self.receiver_port, self.reconciler_port = free_ports(2)
        self._file = folder / "huizhi.toml"
        self._clock = folder / "clock"
        self.http = httpx.AsyncClient(timeout=10, trust_env=False)

    async def __aenter__(self) -> "Stage":
        (self.folder / "data").mkdir(exist_ok=True)
        self._file.write_text(
            SETTINGS.format(
                data_dir=self.folder / "data",
                receiver=self.receiver_port,
                reconciler=self.reconciler_port,
                workers=WORKERS,
                token=API_TOKEN,
            )
        )
        self.step_clock(0.0)
        dsn = self.postgres.start()
        # The torture's own way to the server, past the proxy.
        self.database = Database(dsn=Secret(dsn), name="torture")
        self.proxy = Proxy(f"{self.database.place}/.s.PGSQL.5432")
        await self.proxy.open()
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT / 'torture' / 'clock'}{os.pathsep}{ROOT}",
            "DATABASE_URL": f"postgresql://huizhi@127.0.0.1:{self.proxy.port}/huizhi",
            "HUIZHI_TORTURE_CLOCK": str(self._clock),
        }
        self.receiver = self._service("receiver")
        self.reconciler = self._service("reconciler")
        self.keep_postgres()
        self.receiver.start()
        self.reconciler.start()
        await self.well()
        return self

    async def __aexit__(self, *_: object) -> None:
        for service in (self.receiver, self.reconciler):
            service.kill()
        await self.leave_postgres()
        await self.proxy.close()
        await self.http.aclose()
        # Main thread and blocking: nothing else is under way any more.
        for pid in self.postgres_processes():
            signalled(pid, signal.SIGCONT)
        self.postgres.stop()

    def _service(self, command: str) -> Service:
        log = self.folder / f"{command}.log"
        return Service(command, self._file, self.environment, log)

    # --- PostgreSQL ---------------------------------------------------------------------------------

    def keep_postgres(self) -> None:
        """Have PostgreSQL started again when it ends, as Huizhi keeps its embedded one."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self.postgres.keep())

    async def leave_postgres(self) -> None:
        """Let it stay down when it ends."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None

    def postgres_processes(self) -> list[int]:
        """The postmaster, then its children; empty if there is none."""
        postmaster = self._postmaster()
        return [postmaster, *children_of(postmaster)] if postmaster else []

    def _postmaster(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            file = self.folder / "postgres" / "postgres" / "postmaster.pid"
            pid = int(file.read_text().split("\n", 1)[0])
            if _is(pid, b"postgres"):
                return pid
        return None

    # --- the clock ----------------------------------------------------------------------------------

    def step_clock(self, seconds: float) -> None:
        """Set the services' wall clock so far off the machine's."""
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self._clock)

    # --- together -----------------------------------------------------------------------------------

    def writers(self) -> list[int]:
        """All processes that write to the disk of `data`."""
        found: list[int] = []
        for service in (self.receiver, self.reconciler):
            if service.running:
                found += [service.parent, *service.children()]
        return found

    async def heal(self) -> None:
        """Undo every fault, whatever state it left things in."""
        self.step_clock(0.0)
        self.disks["data"].free(self.writers())
        self.disks["postgres"].free(self.postgres_processes())
        for pid in (*self.postgres_processes(), *self.writers()):
            signalled(pid, signal.SIGCONT)
        self.proxy.refusing = False
        self.proxy.flow()
        self.keep_postgres()
        for service in (self.receiver, self.reconciler):
            if not service.running:
                service.start()

    async def well(self) -> float:
        """Return how long it took until all answer and the spool is empty. Raises `Violation`."""
        begun = time.monotonic()
        said = ""
        quiet = 0
        while quiet < 4:
            if time.monotonic() - begun > HEAL_SECONDS:
                raise Violation(f"not well {HEAL_SECONDS:.0f} seconds after the last fault: {said}")
            await asyncio.sleep(0.05)
            said = await self._ill()
            quiet = 0 if said else quiet + 1
        return time.monotonic() - begun

    async def _ill(self) -> str:
        """Say what is not as it should be; empty if nothing is."""
        for service in (self.receiver, self.reconciler):
            if not service.running:
                # Started on a full disk it refuses to; whoever runs it starts it again.
                service.start()
                return f"huizhi {service.command} had ended"
        for port, path in (
            (self.receiver_port, "/health/ready"),
            (self.reconciler_port, "/health/ready"),
        ):
            try:
                # A connection of its own: any of the workers may answer.
                told = await self.http.get(
                    f"http://127.0.0.1:{port}{path}", headers={"connection": "close"}
                )
            except httpx.HTTPError as error:
                return f"{path} at {port}: {type(error).__name__}"
            if told.status_code != 200:
                return f"{path} at {port}: {told.status_code} {told.text}"
            if port == self.receiver_port:
                said = told.json()
                if said["database"] != "ready" or said["spool"] is None or said["spool"]["bytes"]:
                    return f"{path}: {told.text}"
        if len(self.receiver.children()) < WORKERS:
            return "a receiver is missing"
        return ""


async def until(true: Callable[[], Awaitable[Any]], seconds: float, what: str) -> Any:
    """Wait until `true` says something true and return that; raises `Violation` naming `what`."""
    deadline = time.monotonic() + seconds
    while not (said := await true()):
        if time.monotonic() > deadline:
            raise Violation(f"{what}: not within {seconds:.0f} seconds")
        await asyncio.sleep(0.1)
    return said


def children_of(parent: int) -> list[int]:
    """The children of a process, by their numbers."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent and fields[0] != "Z":
                    found.append(int(entry))
    return sorted(found)


def signalled(pid: int, number: signal.Signals) -> bool:
    """Send a signal; whether there was somebody to get it."""
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def _is(pid: int, words: bytes) -> bool:
    with contextlib.suppress(OSError):
        return words in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
