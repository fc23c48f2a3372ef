"""Sends pushes: scheduled or held, with bounded concurrency, each attempted exactly once.

A push client of its own, as a general HTTP client costs more per push than the receiver under test.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

NO_ANSWER = 0
_IDLE_SECONDS = 2.0
"""Shorter than servers' keep-alive (uvicorn: 5 s): no push goes into a closing connection."""


class Push(NamedTuple):
    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class _Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    idle_since: float


@lru_cache(maxsize=4096)
def _split(url: str) -> SplitResult:
    return urlsplit(url)


class PushClient:
    """HTTP/1.1 over kept-alive connections; never retries, never follows redirects."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._idle: dict[tuple[str, str], list[_Connection]] = {}

    async def send(self, push: Push) -> int:
        """Return the status of the answer, or NO_ANSWER."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._send(push)
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError):
            return NO_ANSWER

    async def _send(self, push: Push) -> int:
        url = _split(push.url)
        place = (url.scheme, url.netloc)
        connection = self._take_idle(place) or await self._connect(url)
        reader, writer, _ = connection
        keep = False
        try:
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            lines = [f"{push.method} {target} HTTP/1.1", f"Host: {url.netloc}"]
            lines += [f"{name}: {value}" for name, value in push.headers]
            if push.method != "GET":
                lines.append(f"Content-Length: {len(push.body)}")
            writer.write("\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + push.body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status = int(head[9:12])
            length = 0 if status in (204, 304) else _header(head, "content-length")
            if length is not None:
                await reader.readexactly(int(length))
                keep = "\r\nconnection: close" not in head
            return status
        finally:
            if keep:
                idle_since = asyncio.get_running_loop().time()
                self._idle.setdefault(place, []).append(_Connection(reader, writer, idle_since))
            else:
                writer.close()

    def _take_idle(self, place: tuple[str, str]) -> _Connection | None:
        idle = self._idle.get(place)
        oldest = asyncio.get_running_loop().time() - _IDLE_SECONDS
        while idle:
            connection = idle.pop()
            if connection.idle_since >= oldest and not connection.reader.at_eof():
                return connection
            connection.writer.close()
        return None

    async def _connect(self, url: SplitResult) -> _Connection:
        secure = url.scheme == "https"
        reader, writer = await asyncio.open_connection(
            url.hostname, url.port or (443 if secure else 80), ssl=secure or None
        )
        return _Connection(reader, writer, 0.0)

    async def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.writer.close()
                with contextlib.suppress(OSError):
                    await connection.writer.wait_closed()
        self._idle.clear()


def _header(head: str, name: str) -> int | None:
    start = head.find(f"\r\n{name}:")
    if start < 0:
        return None
    start += len(name) + 3
    return int(head[start : head.index("\r\n", start)])


@dataclass(slots=True, eq=False)
class Job:
    """Something to be done later: a message's pushes, a verdict, an inbound message."""

    kind: str
    vendor: str
    account: str
    run: Callable[[], Awaitable[None]]
    timer: asyncio.TimerHandle | None = None


class Schedule:
    """Runs jobs after a delay, or holds them until they are released."""

    def __init__(self, *, hold: bool, concurrency: int) -> None:
        self._hold = hold
        self._concurrency = concurrency
        self._waiting: dict[Job, None] = {}
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._workers: list[asyncio.Task[None]] = []
        self.failures: list[str] = []

    def start(self) -> None:
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._concurrency)]

    async def stop(self) -> None:
        for job in self._waiting:
            if job.timer is not None:
                job.timer.cancel()
        self._waiting.clear()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def is_waiting(self, job: Job) -> bool:
        return job in self._waiting

    def add(self, job: Job, delay_seconds: float) -> None:
        self._waiting[job] = None
        if not self._hold:
            loop = asyncio.get_running_loop()
            job.timer = loop.call_later(delay_seconds, self._enqueue, job)

    def _enqueue(self, job: Job) -> None:
        self._waiting.pop(job, None)
        self._queue.put_nowait(job)

    async def release(self, chosen: Callable[[Job], bool]) -> dict[str, int]:
        """Run chosen waiting jobs now; return how many of each kind, when all have been attempted.

        Jobs that these bring about (a handset's reply) are released too, where chosen.
        """
        released: dict[str, int] = {}
        while jobs := [job for job in self._waiting if chosen(job)]:
            for job in jobs:
                if job.timer is not None:
                    job.timer.cancel()
                self._enqueue(job)
                released[job.kind] = released.get(job.kind, 0) + 1
            await self._queue.join()
        return released

    async def _work(self) -> None:
        while True:
            job = await self._queue.get()
            try:
                await job.run()
            except Exception as error:  # a worker must outlive any one job
                self.failures.append(f"{job.kind}: {type(error).__name__}: {error}")
            finally:
                self._queue.task_done()
