"""HTTP/1.1 spelled out by hand, so that requests no client would make can be made too."""

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What came back; `head` is everything before the body, less the time of day."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """Return a header's value; the name in lower case."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.encode():
                return value.strip().decode()
        return None


class Connection:
    """One connection that is kept alive; a context manager. It may come from an address of its own."""

    def __init__(self, port: int, *, source: str | None = None) -> None:
        self._port = port
        self._source = (source, 0) if source else None
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> "Connection":
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self._port, local_addr=self._source
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):  # the other side may have been killed, as tests do
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """Read one answer; raises EOFError or OSError if the connection ends before."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.rstrip(b"\r\n").split(b"\r\n")
        if lines[0] == b"HTTP/1.1 100 Continue":
            return await self.answer(bodiless=bodiless)
        told = [line for line in lines if not line.lower().startswith(b"date:")]
        found = Answer(int(lines[0].split()[1]), b"\r\n".join(told), b"")
        length = 0 if bodiless else int(found.header("content-length") or 0)
        return Answer(found.status, found.head, await self.reader.readexactly(length))

    async def ask(self, data: bytes) -> Answer:
        """Send a request and read its answer."""
        await self.send(data)
        return await self.answer()


def request(path: str | bytes, body: bytes = b"", *, method: str = "POST", **headers: str) -> bytes:
    """Spell a request; header names with `_` for `-`. `content_length` replaces the true one."""
    target = path.encode() if isinstance(path, str) else path
    fields = {"content-length": str(len(body)), "host": "receiver"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}".encode() for name, value in fields.items() if value]
    return b"\r\n".join([method.encode() + b" " + target + b" HTTP/1.1", *lines, b"", body])


def chunked(path: str, body: bytes, **headers: str) -> bytes:
    """Spell a request whose body comes as one chunk."""
    head = request(path, content_length="", transfer_encoding="chunked", **headers)
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


async def ask(port: int, path: str | bytes, body: bytes = b"", **more: Any) -> Answer:
    """Make one request on a connection of its own."""
    async with Connection(port) as connection:
        await connection.send(request(path, body, **more))
        return await connection.answer(bodiless=more.get("method") == "HEAD")


def report(id: str, phone: str = "13800138000", status: int = 1, **more: Any) -> bytes:
    """ThinkAPI's push of one delivery report."""
    sms = {"id": id, "phone": phone, "status": status, "message": "", **more}
    sms.setdefault("receiveDate", "2026-10-05 09:30:00")
    return json.dumps({"action": "report", "sms": sms}).encode()
