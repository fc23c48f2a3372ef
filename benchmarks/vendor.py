"""A vendor that answers `query_status` at once: all it costs is missing to who asks."""

import asyncio
import re
from typing import Any

import uvloop

_ID = re.compile(rb"[?&]id=(\d+)")
_END = b"\r\n\r\n"
_BODY = (
    b'{"code":0,"message":"","data":{"id":"%d","phone":"%d","status":1,"message":"",'
    b'"sendDate":"2026-01-01 08:00:00","reveiveDate":"2026-01-01 08:00:03"}}'
)
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while _END in self._received:
            head, _, self._received = self._received.partition(_END)
            found = _ID.search(head)
            number = int(found[1]) if found else 0
            body = _BODY % (number, 13_800_000_000 + (number - 10**12) % 10**8)
            self._transport.write(_ANSWER % (len(body), body))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
