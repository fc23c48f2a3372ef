"""Recovery by asking: `query_status` for each message, against a bare loop of the same requests."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.figures import Figure, compared
from benchmarks.ground import ASKED, CannotRun, apart, ended, prepared
from gateways.http import open_client
from reconciler import poll
from runtime import settings as settings_file
from runtime.database import Database

_MESSAGES = 10_000
_QUICK_MESSAGES = 500
_ROUNDS = 5
_SENT_FROM = datetime(2026, 1, 1, tzinfo=UTC)
_SETTINGS = f"""
[accounts.{ASKED}]
gateway = "thinkapi"
base_url = "{{address}}"
requests_per_second = 100000
credentials = {{{{ app_code = "anything-will-do" }}}}
"""


async def run(parent: Path, *, quick: bool) -> list[Figure]:
    """Measure asking and the bare loop alternately, each in a process of its own."""
    count = _QUICK_MESSAGES if quick else _MESSAGES
    measured = []
    async with prepared(parent, "query") as ground:
        with _vendor() as address:
            file = ground.folder / "asked.toml"
            file.write_text(_SETTINGS.format(address=address), "utf-8")
            for number in range(1 if quick else _ROUNDS):
                first = number * count
                await ground.execute(
                    "fill_messages", ASKED, first, first + count - 1, 1, _SENT_FROM, 0.001
                )
                await ground.execute("analyze_messages")
                await ground.settle_down()
                ours = apart(_ask, file, ground.database)
                if ours.result != count:
                    raise CannotRun(f"{count} messages were asked about, {ours.result} are final")
                bare = apart(_loop, address, count)
                measured.append((count / ours.seconds, count / bare.seconds))
    return [
        compared(
            "query",
            f"query_status, {poll.CONCURRENT} at a time: asked, recorded, settled",
            "messages/s",
            measured,
            baseline_work=f"the same requests by httpx alone, {poll.CONCURRENT} at a time",
            at_least=0.8,
        )
    ]


@contextmanager
def _vendor() -> Iterator[str]:
    """Run `benchmarks.vendor`, and yield its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.vendor"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        ended(process)


async def _ask(file: Path, database: Database) -> tuple[float, int]:
    settings = settings_file.load(file, {})
    async with database.pool() as pool, open_client() as http:
        caller = poll.callers(settings, pool, http, recorder="benchmark")[ASKED]
        started = time.perf_counter()
        done = await poll.poll_statuses(caller, all_now=True)
        seconds = time.perf_counter() - started
    if done.failures:
        raise CannotRun(f"asking failed: {done.failures[0]}")
    return seconds, done.final


async def _loop(address: str, count: int) -> tuple[float, int]:
    numbers = iter(range(count))
    async with open_client() as http:

        async def ask_one_after_another() -> None:
            for number in numbers:
                answer = await http.get(
                    f"{address}/sms/query_status",
                    params={"id": str(10**12 + number)},
                    headers={"authorization": "AppCode anything-will-do"},
                )
                answer.raise_for_status()
                assert answer.content

        started = time.perf_counter()
        await asyncio.gather(*(ask_one_after_another() for _ in range(poll.CONCURRENT)))
        return time.perf_counter() - started, count
