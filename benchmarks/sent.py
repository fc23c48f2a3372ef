"""Sent messages registered over HTTP, against COPY of the same messages."""

import asyncio
import http.client
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.copying import copied
from benchmarks.figures import Figure, compared
from benchmarks.ground import PUSHED, CannotRun, Ground, prepared
from reconciler import ledger, worker
from reconciler.api import create_app
from runtime import settings as settings_file
from runtime.database import Database
from runtime.sockets import bind

_MESSAGES = 200_000
_QUICK_MESSAGES = 20_000
_CALLS = (ledger.MAX_ROWS, 1_000)
_CALLERS = 2
_ROUNDS = 3
_READY_SECONDS = 30.0


async def run(parent: Path, *, quick: bool) -> list[Figure]:
    """Measure registering and COPY alternately, each into an empty ledger."""
    messages = _QUICK_MESSAGES if quick else _MESSAGES
    async with prepared(parent, "sent") as ground:
        with _serving(ground) as service:
            return [
                await _measured(ground, service, messages, rows, 1 if quick else _ROUNDS)
                for rows in _CALLS
            ]


async def _measured(
    ground: Ground, service: "_Service", messages: int, rows: int, rounds: int
) -> Figure:
    bodies = [_body(first, min(first + rows, messages)) for first in range(0, messages, rows)]
    measured = []
    for _ in range(rounds):
        await ground.execute("forget_messages")
        await ground.settle_down()
        started = time.perf_counter()
        recorded = sum(
            await asyncio.gather(
                *(asyncio.to_thread(_post, service, bodies[n::_CALLERS]) for n in range(_CALLERS))
            )
        )
        seconds = time.perf_counter() - started
        if recorded != messages:
            raise CannotRun(f"{recorded} of {messages} messages were registered")
        copying = await copied(
            ground,
            "messages",
            rows="ledger_messages",
            forget="forget_messages",
            expected=messages,
        )
        measured.append((messages / seconds, messages / copying))
    return compared(
        f"sent, {rows:,} a call",
        f"POST /v1/sent, one call after the other, {rows:,} messages a call",
        "messages/s",
        measured,
        baseline_work="COPY of the same rows into the table of messages alone",
        at_least=0.4,
        notes={
            "messages": messages,
            "peak MiB of our process": machine.peak_bytes(service.process) / 2**20,
        },
    )


@dataclass(frozen=True, slots=True)
class _Service:
    """The API, without the jobs beside it."""

    process: int
    port: int
    token: str


@contextmanager
def _serving(ground: Ground) -> Iterator[_Service]:
    token = settings_file.api_token(ground.settings).reveal()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(ground.settings.file, ground.database, theirs), daemon=True
    )
    process.start()
    try:
        if not ours.poll(_READY_SECONDS):
            raise CannotRun("the API did not start")
        assert process.pid is not None
        service = _Service(process.pid, ours.recv(), token)
        _await_ready(service)
        yield service
    finally:
        process.terminate()
        process.join()


def _serve(file: Path, database: Database, port: "Connection[int, int]") -> None:
    bound = bind("127.0.0.1", 0)
    port.send(bound.getsockname()[1])
    worker.server(create_app(settings_file.load(file, {}), database)).run(sockets=[bound])


def _await_ready(service: _Service) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=5)
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise CannotRun("the API is not ready")


def _post(service: _Service, bodies: Sequence[bytes]) -> int:
    """Register `bodies` on one connection, one call after the other; return how many were new."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port)
    headers = {"authorization": f"Bearer {service.token}", "content-type": "application/json"}
    recorded = 0
    for body in bodies:
        connection.request("POST", "/v1/sent", body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise CannotRun(f"POST /v1/sent was answered with {response.status}")
        recorded += msgspec.json.decode(answer)["recorded"]
    connection.close()
    return recorded


def _body(first: int, end: int) -> bytes:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return msgspec.json.encode(
        [
            {
                "account": PUSHED,
                "vendor_message_id": str(10**12 + number),
                "phone": str(13_800_000_000 + number % 10**8),
                "sent_at": (start + timedelta(seconds=number)).isoformat(),
                "content": f"您的验证码是{number % 10**6:06}，5分钟内有效，请勿告诉他人。",
                "sign": "顶想云",
                "reference": f"order-{number}",
            }
            for number in range(first, end)
        ]
    )
