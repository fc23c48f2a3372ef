"""Reconcilers that are killed -9 at every step of a read-once pull, and one that comes after them.

Where they are killed the network tells: what they say to PostgreSQL and to the vendor is watched.
"""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import databases
import httpx
import pytest
from pretend import Answer, Box, serving, until

from reconciler import pull as pulling
from runtime.database import Database

pytestmark = pytest.mark.anyio

ROOT = Path(pulling.__file__).parent.parent
TOKEN = "token-of-the-api"
LIMIT = 5
ROWS = 12
# How many reconcilers are started at once: each takes a processor for a second or two.
AT_ONCE = 3

# What huizhi's parent runs as its child. It leaves to the last one what others did not settle: it does
# not know their accounts.
WORKER = """
import sys
from pathlib import Path
from gateways.gateway import Secret
from reconciler import jobs, worker
from runtime import logs, settings
from runtime.database import Database
from runtime.sockets import bind
read = settings.load(Path(sys.argv[1]), {})
logs.configure(secrets=read.secrets)
jobs.LEFT_BEHIND_SECONDS = 3600.0
database = Database(dsn=Secret(sys.argv[2]), name="reconciler", statement_cache=0)
worker.run(read, database, bind("127.0.0.1", 0))
"""


@dataclass(frozen=True)
class Step:
    """When a reconciler is killed: before what it says last of `says` (expressions, one after the other
    on one connection) is passed on, or, with `heard`, before it hears that of PostgreSQL after that;
    or in the `vendor`'s answer. `lost` are the numbers of pages that may be lost by it; the second one
    is on its way while the first is settled.
    """

    name: str
    says: tuple[bytes, ...] = ()
    heard: bytes | None = None
    vendor: str | None = None
    lost: tuple[int, ...] = (0,)


# As PostgreSQL's protocol has them: call, token and rows of an intent, source of a record, end of a command.
_INTENT = (rb"pull_reports\0\0\0\x08.{8}\0\0\0\x04",)
_DONE = b"Z\0\0\0\x05"
_RECORD = (rb"\0\0\0\x04pull\0",)
_REPORTS = (b"INSERT INTO reports",)
STEPS = (
    Step("before the intent", says=_INTENT),
    Step("after the intent", says=(*_INTENT, rb"COMMIT;"), heard=b"COMMIT\0", lost=(1,)),
    Step("while the vendor works", vendor="before", lost=(1,)),
    Step("in the middle of the page", vendor="within", lost=(1,)),
    Step("after the page", vendor="after", lost=(0, 1)),
    Step("before the page is recorded", says=_RECORD),
    Step("after the page is recorded", says=_RECORD, heard=_DONE),
    Step("before the recording is committed", says=(*_RECORD, rb"COMMIT;")),
    Step("after the recording is committed", says=(*_RECORD, rb"COMMIT;"), heard=b"COMMIT\0"),
    Step("before it is understood", says=(rb"rows = \$2",)),
    Step("before its reports are added", says=_REPORTS, lost=(0, 1)),
    Step("after its reports are added", says=_REPORTS, heard=b"COMMIT\0", lost=(0, 1)),
    Step("before it is settled", says=(*_REPORTS, b"SET settled_at"), lost=(0, 1)),
)


@dataclass
class Victim:
    """A reconciler with an account of its own, killed at `step`."""

    step: Step
    account: str
    box: Box = field(default_factory=lambda: Box(ROWS))
    process: subprocess.Popen[bytes] | None = None
    spoken: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    killed_at: float | None = None

    def kill(self) -> None:
        if self.killed_at is None and self.process is not None:
            self.killed_at = time.monotonic()
            os.kill(self.process.pid, signal.SIGKILL)

    def watch(self, connection: int, answered: bool, data: bytes) -> bool:
        """Kill it when it says what it is killed for; what it says or hears is lost then."""
        says, heard = self.step.says, self.step.heard
        if self.killed_at is not None or not says:
            return True
        if not answered:
            # Several may come in one packet.
            while self.spoken[connection] < len(says):
                wanted = says[self.spoken[connection]]
                if not re.search(wanted, data, re.DOTALL):
                    break
                self.spoken[connection] += 1
        if self.spoken[connection] == len(says) and (heard is None or (answered and heard in data)):
            self.kill()
            return False
        return True

    def answer(self, path: str, params: dict[str, str]) -> Answer:
        """Answer as the vendor; inbound messages it has none to speak of."""
        if path == "/callApi.aspx":
            return Answer(b"", 429, {"retry-after": "300"})
        when = self.step.vendor if self.killed_at is None else None
        reply = self.box.answer(path, params)
        if path != "/statusApi.aspx":
            return reply
        if when == "before":
            self.kill()
        elif when == "within":
            reply.cut, reply.after = len(reply.body) // 2, self.kill
        elif when == "after":
            reply.after = self.kill
        return reply


def _settings(folder: Path, name: str, urls: dict[str, str]) -> Path:
    text = f'data_dir = "data"\n[reconciler]\nport = 0\napi_token = "{TOKEN}"\n'
    for account, url in urls.items():
        text += (
            f'[accounts.{account}]\ngateway = "thinksms"\nbase_url = "{url}"\n'
            f"requests_per_second = 1000\nstatus_num = {LIMIT}\n"
            'credentials = { user_id = "7", account = "me", password = "hush" }\n'
        )
    file = folder / f"{name}.toml"
    file.write_text(text)
    return file


async def _killed(victim: Victim, database: Database, folder: Path, url: str) -> None:
    """Run a reconciler until it is killed at its step."""
    file = _settings(folder, victim.account, {victim.account: url})
    async with databases.proxied(database, watch=victim.watch) as (_, far):
        with (folder / f"{victim.account}.log").open("wb") as log:
            victim.process = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(file), far.dsn.reveal()],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"]},
                stdout=log,
                stderr=log,
            )
        try:
            code = await asyncio.to_thread(victim.process.wait, 90)
        finally:
            victim.process.kill()
        assert code == -signal.SIGKILL, (victim.step.name, code)


async def test_killed_at_every_step_at_most_the_page_in_flight_is_missing_and_that_is_shown(
    database: Database, pool: Any, tmp_path: Path
) -> None:
    victims = [Victim(step, f"sms-{number}") for number, step in enumerate(STEPS)]
    with contextlib.ExitStack() as stack:
        urls = {one.account: stack.enter_context(serving(one.answer)).url for one in victims}
        turns = asyncio.Semaphore(AT_ONCE)

        async def one_by_one(victim: Victim) -> None:
            async with turns:
                await _killed(victim, database, tmp_path, urls[victim.account])

        await asyncio.gather(*map(one_by_one, victims))
        file = _settings(tmp_path, "after", urls)
        with (tmp_path / "after.log").open("wb") as log:
            after = subprocess.Popen(
                [sys.executable, "-m", "huizhi", "--config", str(file), "reconciler"],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "DATABASE_URL": database.dsn.reveal()},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            assert after.stdout is not None
            line = await asyncio.to_thread(after.stdout.readline)
            url = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert url, (tmp_path / "after.log").read_text()
            await until(lambda: _listening(url[0]), 60)
            begun = time.monotonic()
            await until(lambda: _all_known(pool, victims), 60)
            shown = await _shown(url[0])
            seconds = time.monotonic() - begun
            assert seconds < 60
            await until(lambda: _all_settled(pool), 60)
        finally:
            after.terminate()
            await asyncio.to_thread(after.wait, 40)
            after.stdout.close()
    said = (tmp_path / "after.log").read_text()
    for victim in victims:
        await _proved(pool, victim, shown, said)


def _listening(url: str) -> bool:
    parts = urlsplit(url)
    with contextlib.suppress(OSError), socket.create_connection((parts.hostname, parts.port)):
        return True
    return False


async def _all_known(pool: Any, victims: list[Victim]) -> bool:
    """Whether every mailbox is empty, and no intent is left of which nobody knows what came of it."""
    left = await pool.fetchval("SELECT count(*) FROM pulls WHERE state = 'intended'")
    last = await pool.fetchval("SELECT count(DISTINCT account) FROM pulls WHERE rows < $1", LIMIT)
    return left == 0 and last == len(victims) and not any(one.box.waiting for one in victims)


async def _all_settled(pool: Any) -> bool:
    return not await pool.fetchval("SELECT count(*) FROM batches WHERE settled_at IS NULL")


async def _shown(url: str) -> dict[str, tuple[int, float]]:
    """By account: how many lost pages the API lists, and the metric counts."""
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}) as http:
        listed = (await http.get(f"{url}/v1/pulls?state=lost&limit=1000")).json()["items"]
        metrics = (await http.get(f"{url}/metrics")).text
    counted = dict(
        re.findall(r'^huizhi_lost_pages_total\{account="(.*?)"\} (.*)$', metrics, re.MULTILINE)
    )
    found: dict[str, tuple[int, float]] = {}
    for account in {row["account"] for row in listed} | counted.keys():
        rows = sum(row["account"] == account for row in listed)
        found[account] = (rows, float(counted.get(account, 0)))
    return found


async def _proved(
    pool: Any, victim: Victim, shown: dict[str, tuple[int, float]], said: str
) -> None:
    step = victim.step
    calls = [
        row["call"]
        for row in await pool.fetch(
            "SELECT call FROM pulls WHERE account = $1 AND state = 'lost'", victim.account
        )
    ]
    lost = calls.count("pull_reports")
    rows = await pool.fetch(
        "SELECT phone FROM reports WHERE account = $1 ORDER BY phone", victim.account
    )
    found = [row["phone"] for row in rows]
    everything = [phone for taken in victim.box.pages for phone in taken]
    assert len(everything) == ROWS, step.name
    in_flight: list[list[str]] = [[]]
    if lost and step.vendor is not None:
        in_flight = [victim.box.pages[0]]
    elif lost and _REPORTS[0] in step.says:
        in_flight = [[], victim.box.pages[1]]  # asked for, and handed out or not yet
    left = [[phone for phone in everything if phone not in page] for page in in_flight]
    assert found in left, step.name
    assert lost in step.lost, step.name
    # In the list, in the metric, in the log: as often as it is known, and no more. A pull of inbound
    # messages may have died beside it.
    assert shown.get(victim.account, (0, 0.0)) == (len(calls), float(len(calls))), step.name
    logged = [line for line in said.splitlines() if "page.lost" in line]
    assert sum(f'"{victim.account}"' in line for line in logged) == len(calls), step.name
