"""Two reconcilers in processes of their own: one that is killed or hangs is replaced by the other."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pretend import Answer, Box, reported, serving, until

from reconciler.jobs import settle
from runtime.database import Database
from runtime.settings import load

pytestmark = pytest.mark.anyio

TTL_SECONDS = 3.0
# Past the end of the lease: a look every 0.2 seconds, and a machine that is busy with other tests.
LATE = timedelta(seconds=10)
LEASE = "pull_reports:sms"

# The process as it is run, but for its patience.
WORKER = f"""
import sys
from pathlib import Path
from gateways.gateway import Secret
from reconciler import jobs, lease, worker
from runtime import logs, settings
from runtime.database import Database
from runtime.sockets import bind
lease.TTL_SECONDS = {TTL_SECONDS}
jobs.PULL_SECONDS = 0.2
read = settings.load(Path(sys.argv[1]), {{}})
logs.configure(secrets=read.secrets)
worker.run(read, Database(dsn=Secret(sys.argv[2]), name="reconciler"), bind("127.0.0.1", 0))
"""

SETTINGS = """
data_dir = "{data}"
[reconciler]
api_token = "the-token"
[accounts.sms]
gateway = "thinksms"
base_url = "{url}"
credentials = {{ user_id = "7", account = "me", password = "hush" }}
requests_per_second = 1000
status_num = 5
"""


class Reconciler:
    """A reconciler process with a folder of its own, as on a machine of its own."""

    def __init__(self, folder: Path, url: str, dsn: str) -> None:
        folder.mkdir()
        file = folder / "huizhi.toml"
        file.write_text(SETTINGS.format(data=folder / "data", url=url))
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(file), dsn],
                cwd=Path(__file__).parents[2],
                env={"PATH": os.environ["PATH"]},
                stdout=log,
                stderr=log,
            )
        self.holder = f"{socket.gethostname()}:{self.process.pid}"

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Slow:
    """A vendor whose pages never end; `strike` is sent to whoever asks while it is being answered."""

    def __init__(self) -> None:
        self.box = Box(100_000)
        self.everything = list(self.box.waiting)
        self.strike = threading.Event()
        self.victim: Reconciler | None = None
        self.number = signal.SIGKILL
        self.overlaps = 0
        self._alone = threading.Lock()

    def answer(self, path: str, params: dict[str, str]) -> Answer:
        if path != "/statusApi.aspx":
            return self.box.answer(path, params)
        alone = self._alone.acquire(blocking=False)
        try:
            self.overlaps += not alone
            reply = self.box.answer(path, params)
            if self.strike.is_set():
                self.strike.clear()
                assert self.victim is not None
                self.victim.signal(self.number)
            time.sleep(0.02)
        finally:
            if alone:
                self._alone.release()
        return reply


@contextmanager
def _two(folder: Path, dsn: str, slow: Slow) -> Iterator[tuple[Reconciler, Reconciler]]:
    with serving(slow.answer) as vendor:
        started: list[Reconciler] = []
        try:
            for name in ("one", "two"):
                started.append(Reconciler(folder / name, vendor.url, dsn))
            yield started[0], started[1]
        finally:
            for each in started:
                each.end()


async def _lease(connection: Any) -> Any:
    return await connection.fetchrow(
        "SELECT holder, token, expires_at, clock_timestamp() AS now FROM leases WHERE name = $1",
        LEASE,
    )


async def _reading(connection: Any, slow: Slow) -> Any:
    """Wait until somebody reads page after page; return its lease."""
    await until(lambda: len(slow.box.pages) > 3, 60)
    return await _lease(connection)


async def _replaced(connection: Any, token: int) -> Any:
    """Wait until the lease has passed on; return it."""
    found: list[Any] = []

    async def passed_on() -> bool:
        found[:] = [await _lease(connection)]
        return bool(found[0]["token"] > token)

    await until(passed_on, 60)
    return found[0]


async def _no_two_at_once(connection: Any) -> None:
    rows = await connection.fetch(
        "SELECT token FROM pulls WHERE call = 'pull_reports' ORDER BY intended_at"
    )
    tokens = [row["token"] for row in rows]
    assert tokens == sorted(tokens)


async def test_a_killed_holder_is_replaced_within_its_lease(
    database: Database, tmp_path: Path
) -> None:
    slow = Slow()
    with _two(tmp_path, database.dsn.reveal(), slow) as both:
        async with database.connection() as connection:
            before = await _reading(connection, slow)
            [slow.victim] = [each for each in both if each.holder == before["holder"]]
            slow.strike.set()
            await until(lambda: not slow.strike.is_set())
            assert slow.victim.process.wait(20) == -signal.SIGKILL
            ends = (await _lease(connection))["expires_at"]
            after = await _replaced(connection, before["token"])
            assert after["holder"] in {each.holder for each in both if each is not slow.victim}
            assert ends <= after["now"] < ends + LATE
            assert ends - before["now"] <= timedelta(seconds=2 * TTL_SECONDS)
            pages = len(slow.box.pages)
            await until(lambda: len(slow.box.pages) > pages + 3, 30)
            await _no_two_at_once(connection)
            lost = await connection.fetch(
                "SELECT token FROM pulls WHERE call = 'pull_reports' AND state = 'lost'"
            )
            assert [row["token"] for row in lost] == [before["token"]]
    assert slow.overlaps == 0


async def test_a_hung_holder_is_replaced_and_on_waking_keeps_its_page_and_does_nothing_else(
    database: Database, tmp_path: Path
) -> None:
    slow = Slow()
    slow.number = signal.SIGSTOP
    with _two(tmp_path, database.dsn.reveal(), slow) as both:
        async with database.connection() as connection:
            before = await _reading(connection, slow)
            [slow.victim] = [each for each in both if each.holder == before["holder"]]
            slow.strike.set()
            await until(lambda: not slow.strike.is_set())
            ends = (await _lease(connection))["expires_at"]
            after = await _replaced(connection, before["token"])
            assert after["holder"] in {each.holder for each in both if each is not slow.victim}
            assert ends <= after["now"] < ends + LATE
            pages = len(slow.box.pages)
            await until(lambda: len(slow.box.pages) > pages + 3, 30)

            slow.victim.signal(signal.SIGCONT)
            log = slow.victim.log
            await until(lambda: "lease.lost" in log.read_text(), 30)

            async def kept() -> bool:
                open = (
                    "SELECT count(*) FROM pulls"
                    " WHERE call = 'pull_reports' AND token = $1 AND state <> 'recorded'"
                )
                return bool(await connection.fetchval(open, before["token"]) == 0)

            await until(kept, 30)
            for each in both:
                each.signal(signal.SIGTERM)
            await asyncio.gather(*(asyncio.to_thread(each.process.wait, 60) for each in both))
            await _no_two_at_once(connection)
    assert slow.overlaps == 0
    async with database.pool() as pool:
        await settle(load(tmp_path / "one" / "huizhi.toml", {}), pool, timedelta(0))
        handed_out = slow.everything[: -len(slow.box.waiting)]
        assert await reported(pool) == handed_out
