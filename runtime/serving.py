"""HTTP servers that end under load: whatever was sent to them is answered first.

Stop order: the kernel deals new connections out to other processes on the port; those that it had
dealt to us are accepted; the next answer on every connection is its last, and says so; a connection on
which nothing comes for a while is closed; then the application ends.
"""

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Sequence

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from runtime import telemetry
from runtime.sockets import turn_away

log = structlog.get_logger()

DRAIN_SECONDS = 15
# Time for a handshake under way to end, and less than the second after which a client that was turned
# away tries again.
HANDSHAKE_SECONDS = 0.5
# A client that is at work sends its next request by then; one that is idle longer has its connection
# closed between two requests.
LINGER_SECONDS = 5.0


class _State(ServerState):
    """What all connections of a server know."""

    draining = False


class Server(uvicorn.Server):
    """A server on a port that other processes may share; its connections speak `Protocol`."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state: _State = _State()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen; says so, for on a shared port nobody else can tell."""
        await super().startup(sockets)
        for bound in sockets or ():
            log.info("server.listening", port=bound.getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop as the module says; returns when the application has ended."""
        listening: Sequence[socket.socket] = sockets or ()
        for bound in listening:
            turn_away(bound)
        self.server_state.draining = True
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(HANDSHAKE_SECONDS)
        await super().shutdown(sockets)
        await telemetry.flush()


class Protocol(HttpToolsProtocol):
    """A connection that is not closed while anything that came on it is unanswered."""

    server_state: _State

    between = True  # whether the next byte begins a request
    last = False  # whether the next answer ends the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.server_state.draining:
            self.shutdown()

    def data_received(self, data: bytes) -> None:
        self.between = False
        super().data_received(data)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.last:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self.between = True
        super().on_message_complete()

    def shutdown(self) -> None:
        """Make the next answer the last, that to the request under way if it has not begun."""
        if self.last:
            return
        self.last = True
        cycle = self.cycle
        if isinstance(cycle, RequestResponseCycle) and not cycle.response_started:
            cycle.keep_alive = False
        self.loop.call_later(LINGER_SECONDS, self._leave)

    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _leave(self) -> None:
        """Close the connection unless something is under way on it, which is waited for."""
        if self.transport.is_closing():
            return
        if self.between and self.idle() and not _unread(self.transport):
            self.transport.close()
        else:
            self.loop.call_later(LINGER_SECONDS, self._leave)


def _unread(transport: asyncio.Transport) -> bool:
    """Whether the kernel holds bytes that nobody has read yet."""
    handle = transport.get_extra_info("socket").fileno()
    waiting: tuple[int] = struct.unpack("i", fcntl.ioctl(handle, termios.FIONREAD, bytes(4)))
    return waiting[0] > 0
