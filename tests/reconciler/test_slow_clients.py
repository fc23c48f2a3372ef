"""Clients of the API that never finish, or never read: a real process, on a real socket."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.database import Database
from runtime.sockets import free_ports

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
HEAD, BODY = 3.0, 4.0
TOKEN = "a-token-of-the-api"
SETTINGS = f"""
data_dir = "data"
[reconciler]
api_token = "{TOKEN}"
[accounts.think]
gateway = "thinkapi"
base_url = "http://127.0.0.1:9"
credentials = {{ app_code = "code" }}
"""
WORKER = f"""
import sys
from pathlib import Path
from gateways.gateway import Secret
from reconciler import worker
from runtime import bounds, settings
from runtime.database import Database
from runtime.sockets import bind
bounds.HEAD_SECONDS, bounds.BODY_SECONDS, bounds.LOOK_SECONDS = {HEAD}, {BODY}, 0.1
database = Database(dsn=Secret(sys.argv[2]), name="reconciler", role="huizhi_reconciler")
worker.run(settings.load(Path(sys.argv[1]), {{}}), database, bind("127.0.0.1", int(sys.argv[3])))
"""
POST = (
    f"POST /v1/sent HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {TOKEN}\r\n"
    "content-type: application/json\r\n"
).encode()
GET = f"GET /schema/openapi.json HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {TOKEN}\r\n\r\n"


@dataclass
class Service:
    process: subprocess.Popen[bytes]
    port: int

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connected(service: Service) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Return what comes until the other side ends the connection."""
    heard = b""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(15):
            while chunk := await reader.read(65_536):
                heard += chunk
    return heard


def statuses(heard: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3})", heard)]


@pytest.fixture
async def service(database: Database, tmp_path: Path) -> AsyncIterator[Service]:
    file = tmp_path / "huizhi.toml"
    file.write_text(SETTINGS)
    (port,) = free_ports(1)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(file), database.dsn.reveal(), str(port)],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
            stdout=log,
            stderr=log,
        )
    found = Service(process, port)
    try:
        async with asyncio.timeout(60):
            while True:
                assert process.poll() is None, (tmp_path / "log").read_text()
                with contextlib.suppress(OSError):
                    async with connected(found):
                        break
                await asyncio.sleep(0.05)
        yield found
    finally:
        process.terminate()
        process.wait(60)


async def well(service: Service) -> None:
    """It answers a whole request as ever."""
    async with connected(service) as (reader, writer):
        writer.write(POST + b"connection: close\r\ncontent-length: 2\r\n\r\n[]")
        assert statuses(await rest(reader)) == [200]


async def dropped(service: Service, reason: str) -> float:
    async with connected(service) as (reader, writer):
        writer.write(f"GET /metrics HTTP/1.0\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode())
        text = (await rest(reader)).decode()
    found = re.search(
        rf'connections_dropped_total{{reason="{reason}",server="api"}} ([\d.]+)', text
    )
    return float(found[1]) if found else 0.0


async def test_who_does_not_finish_is_dropped_and_keeps_nobody_waiting(service: Service) -> None:
    async def slow(begin: bytes, pause: float) -> tuple[float, bytes]:
        async with connected(service) as (reader, writer):
            began = time.monotonic()
            writer.write(begin)
            with contextlib.suppress(OSError):
                while not reader.at_eof() and time.monotonic() - began < 30:
                    writer.write(b"y")
                    await writer.drain()
                    await asyncio.sleep(pause)
            return time.monotonic() - began, await rest(reader)

    heads = [asyncio.create_task(slow(POST + b"x: ", 0.05)) for _ in range(30)]
    bodies = [
        asyncio.create_task(slow(POST + b"content-length: 5000000\r\n\r\n[", 0.05))
        for _ in range(30)
    ]
    for _ in range(10):
        await well(service)
    for lasted, heard in await asyncio.gather(*heads):
        assert lasted < HEAD + 10
        assert statuses(heard) in ([408], [])  # it may be lost where bytes were on their way
    for lasted, heard in await asyncio.gather(*bodies):
        assert BODY - 0.5 < lasted < BODY + 10
        assert statuses(heard) in ([408], [])
    await well(service)
    assert await dropped(service, "slow") == 60


async def test_who_never_says_a_word_is_dropped(service: Service) -> None:
    began = time.monotonic()
    async with connected(service) as (reader, _):
        assert await rest(reader) == b""
    assert HEAD - 0.5 < time.monotonic() - began < HEAD + 10


async def test_a_head_without_end_is_refused(service: Service) -> None:
    for head in (b"x: " + b"y" * 200_000, b"x: y\r\n" * 200 + b"\r\n"):
        async with connected(service) as (reader, writer):
            with contextlib.suppress(OSError):
                writer.write(POST + head)
                await writer.drain()
            assert statuses(await rest(reader)) in ([431], [])
    assert await dropped(service, "head") == 2
    await well(service)


async def test_who_does_not_read_its_answers_is_dropped(service: Service) -> None:
    before = service.resident_bytes()
    async with connected(service) as (_, writer):
        with contextlib.suppress(OSError):
            async with asyncio.timeout(30):
                while not writer.is_closing():
                    writer.write(GET.encode() * 50)
                    await writer.drain()
        assert writer.is_closing() or await dropped(service, "unread") == 1
    assert await dropped(service, "unread") == 1
    assert service.resident_bytes() - before < 64 * 1024 * 1024
    await well(service)


async def test_a_large_file_over_a_slow_line_is_taken_whole(service: Service, pool: Any) -> None:
    # Slower than a body may take, yet faster than a trickle.
    row = (
        b'{"account":"think","vendor_message_id":"m%d","phone":"13800138000",'
        b'"sent_at":"2026-10-05T09:30:00+08:00","content":"%b"}'
    )
    body = b"[" + b",".join(row % (number, b"x" * 5000) for number in range(30)) + b"]"
    began = time.monotonic()
    async with connected(service) as (reader, writer):
        head = b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        writer.write(POST + head)
        pieces = 30
        for place in range(pieces):
            size = -(-len(body) // pieces)
            writer.write(body[place * size : (place + 1) * size])
            await writer.drain()
            await asyncio.sleep((BODY + 1.5) / pieces)
        assert statuses(await rest(reader)) == [200]
    assert time.monotonic() - began > BODY + 1
    assert await pool.fetchval("SELECT count(*) FROM messages") == 30
