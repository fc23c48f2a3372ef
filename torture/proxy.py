"""The network between the services and PostgreSQL: a proxy that can cut, refuse and hold up."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

# After so long a server finds out by itself that nobody is at the other end.
_KEEPALIVE_SECONDS = 60.0


class Proxy:
    """Passes TCP connections on `port` to the socket of a server, as long as nothing is wrong.

    `watch` gets the number of a connection, whether it is the server that speaks, and what it says,
    before that is passed on; where it says False, the connection is cut instead.
    """

    def __init__(
        self,
        server_socket: str,
        watch: Callable[[int, bool, bytes], bool] = lambda *_: True,
    ) -> None:
        self._server_socket = server_socket
        self.watch = watch
        self._pairs: set[_Pair] = set()
        self._listening: asyncio.Server | None = None
        self.port = 0
        self.flowing = True
        self.refusing = False

    async def open(self) -> None:
        """Listen, on a free port."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: _Near(self), "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no longer and drop all connections."""
        if self._listening is not None:
            self._listening.close()
        self.cut()

    def cut(self, *, half: bool = False) -> None:
        """Abort all connections; by `half`, only towards the services: the server is not told."""
        for pair in list(self._pairs):
            pair.abort(half=half)

    def hold(self) -> None:
        """Pass nothing on, also of new connections, and tell nobody."""
        self.flowing = False
        for pair in self._pairs:
            pair.flow(False)

    def flow(self) -> None:
        """Pass on what was held up."""
        self.flowing = True
        for pair in self._pairs:
            pair.flow(True)

    async def connect(self, pair: "_Pair") -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: _Far(pair), self._server_socket)
        except OSError:
            pair.abort()

    def add(self, pair: "_Pair") -> None:
        self._pairs.add(pair)

    def remove(self, pair: "_Pair") -> None:
        self._pairs.discard(pair)


class _Pair:
    """The two ends of a connection."""

    def __init__(self, proxy: Proxy, near: Any) -> None:
        self.proxy = proxy
        self.near = near
        self.far: Any = None
        self._early: list[bytes] = []

    def joined(self, far: Any) -> None:
        self.far = far
        if self.near is None:
            far.abort()
            return
        for data in self._early:
            far.write(data)
        self._early.clear()
        if not self.proxy.flowing:
            self.flow(False)

    def to_far(self, data: bytes) -> None:
        if not self.proxy.watch(id(self), False, data):
            self.abort()
        elif self.far is None:
            self._early.append(data)
        else:
            self.far.write(data)

    def to_near(self, data: bytes) -> None:
        if not self.proxy.watch(id(self), True, data):
            self.abort()
        elif self.near is not None:
            self.near.write(data)

    def flow(self, on: bool) -> None:
        for end in (self.near, self.far):
            if end is not None and not end.is_closing():
                with contextlib.suppress(RuntimeError):
                    end.resume_reading() if on else end.pause_reading()

    def abort(self, *, half: bool = False) -> None:
        near, self.near = self.near, None
        if near is not None:
            near.abort()
        if half and self.far is not None:
            asyncio.get_running_loop().call_later(_KEEPALIVE_SECONDS, self.far.abort)
            return
        if self.far is not None:
            self.far.abort()
        self.proxy.remove(self)


class _Near(asyncio.Protocol):
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._pair = _Pair(self._proxy, transport)
        if self._proxy.refusing:
            transport.abort()
            return
        self._proxy.add(self._pair)
        if not self._proxy.flowing:
            self._pair.flow(False)
        self._connecting = asyncio.create_task(self._proxy.connect(self._pair))

    def data_received(self, data: bytes) -> None:
        self._pair.to_far(data)

    def connection_lost(self, exc: Exception | None) -> None:
        # Aborted by half, the far end stays: nobody tells a server of a cable that was cut.
        if self._pair.near is not None:
            self._pair.near = None
            if self._pair.far is not None:
                self._pair.far.close()
            self._proxy.remove(self._pair)


class _Far(asyncio.Protocol):
    def __init__(self, pair: _Pair) -> None:
        self._pair = pair

    def connection_made(self, transport: Any) -> None:
        self._pair.joined(transport)

    def data_received(self, data: bytes) -> None:
        self._pair.to_near(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pair.far = None
        if self._pair.near is not None:
            self._pair.near.close()
        self._pair.proxy.remove(self._pair)
