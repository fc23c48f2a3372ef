"""Bounds on what a client may hold: heads, bodies that trickle, answers that nobody reads, connections.

Whoever does not finish is dropped, by one timer that looks at all connections of the process once a
second: a request costs two stores for it, and no timer.
"""

import asyncio
import math
import resource
from collections.abc import Collection
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from runtime import metrics, serving

HEAD_BYTES = 65_536
HEADERS = 100
HEAD_SECONDS = 20.0  # from the connection's or the head's first byte to the head's last
BODY_SECONDS = 60.0  # from there to the body's last; and for as long an answer may stay unread
LOOK_SECONDS = 1.0
CONNECTIONS = 4096
_OTHER_FILES = 128  # what a process has open besides: the pool, the spool, logs, libraries


def connections() -> int:
    """Return how many connections this process may have, having raised its limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(soft - _OTHER_FILES, 1)
    return CONNECTIONS


class Watch:
    """The connections of this process: how many there may be, and which of them are overdue."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: dict[Bounded, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, connection: "Bounded") -> None:
        """Keep an eye on a new connection; where there are too many, another one goes for it."""
        if len(self._connections) >= self._most:
            self._make_room()
        self._connections[connection] = None
        if self._timer is None:
            self._timer = connection.loop.call_later(LOOK_SECONDS, self._look, connection.loop)

    def closed(self, connection: "Bounded") -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._connections):
            connection.look(now)
        again = bool(self._connections)
        self._timer = loop.call_later(LOOK_SECONDS, self._look, loop) if again else None

    def _make_room(self) -> None:
        """Drop the oldest that has not sent a whole head, else the oldest that waits for nothing."""
        idle: Bounded | None = None
        for connection in self._connections:
            if connection.resting:
                if connection.headless:
                    idle = connection
                    break
                idle = idle or connection
        if idle is not None:
            idle.drop("crowded")
            self.closed(idle)


class _Flow(FlowControl):
    """Reads more only when no request waits and what was answered is read.

    uvicorn reads on with each request that is taken up, so that a peer that sends faster than it is
    answered fills the memory with requests that wait.
    """

    def __init__(self, transport: asyncio.Transport, pipeline: Collection[Any]) -> None:
        super().__init__(transport)
        # Not the connection itself, whose memory would then wait for the collector.
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline and not self.write_paused:
            super().resume_reading()


class Bounded(serving.Protocol):
    """One connection.

    Also bounds what uvicorn by itself keeps in memory at any length, heads and trailers; bodies are
    bounded by who reads them.
    """

    side: str  # whose connections these are, as metrics say it
    watch: Watch
    # A body may take a second longer for each so many bytes that have come of it.
    body_bytes_per_second = math.inf

    unread = 0  # bytes since the last that were part of a body, or ended something
    heading = True  # whether the head has not ended
    due = math.inf  # when what was begun must be finished
    _read_by = math.inf  # when the peer must have read what it was answered
    _status = 400  # of the refusal, if the parser finds fault

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self.due = self.loop.time() + HEAD_SECONDS
        self.watch.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.between:
            self.between = False
            self.due = self.loop.time() + HEAD_SECONDS
        self.unread += len(data)
        if self.unread > HEAD_BYTES + len(data):
            self._status = 431
            self.send_400_response("The head of the request is too long.")
            return
        super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer also a peer that has said all, and shut its side, while its request is under way."""
        if self.idle() or not self.between:
            return False
        self.cycle.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.watch.closed(self)
        super().connection_lost(exc)
        # uvicorn leaves it running where the peer reset the connection, which it would keep in memory.
        self._unset_keepalive_if_required()

    def pause_writing(self) -> None:
        """Read no more from a peer that does not read."""
        super().pause_writing()
        self.flow.pause_reading()
        self._read_by = self.loop.time() + BODY_SECONDS

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_by = math.inf
        self.flow.resume_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.flow.resume_reading()  # was refused if it has just taken the last that waited

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or too much of it, and end the connection."""
        self._dropped({400: "malformed", 408: "slow", 431: "head"}[self._status])
        self.transport.write(
            b"%bcontent-type: text/plain; charset=utf-8\r\n%b"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[self._status], self.default_headers(), len(msg), msg.encode("ascii"))
        )
        self.transport.close()
        self.due = self.loop.time() + HEAD_SECONDS

    def default_headers(self) -> bytes:
        """Return the headers that every answer has, the date among them."""
        return b"".join([b"%b: %b\r\n" % pair for pair in self.server_state.default_headers])

    @property
    def resting(self) -> bool:
        """Whether no request is under way or waits; the next may have begun to come."""
        return self.idle() and not self.pipeline

    @property
    def headless(self) -> bool:
        """Whether a head is waited for, or has begun to come."""
        return self.due < math.inf

    def look(self, now: float) -> None:
        """Drop the connection if it is overdue."""
        if now > self._read_by:
            self.drop("unread")
        if now <= self.due:
            return
        if self.transport.is_closing():
            self.transport.abort()
        elif self.flow.read_paused or self.pipeline or (self.heading and not self.idle()):
            self.due = now + BODY_SECONDS  # it is we who are late
        elif self.between or (not self.heading and self.answered()):
            self.drop("slow")  # it never said a word, or nobody waits for the rest
        else:
            self._status = 408
            self.send_400_response("The request was not finished in time.")

    def drop(self, reason: str) -> None:
        """End the connection without a word."""
        self._dropped(reason)
        self.transport.abort()

    def _dropped(self, reason: str) -> None:
        metrics.DROPPED.labels(self.side, reason).inc()

    def on_message_begin(self) -> None:
        self.heading = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.headers) > HEADERS or (self.unread > HEAD_BYTES and self._long()):
            self._status = 431
            raise ValueError("a head too long, or of too many headers")
        self.take_up()
        self.unread = 0
        self.heading = False
        self.due = self.loop.time() + BODY_SECONDS

    def take_up(self) -> None:
        """Have the request answered whose head has ended."""
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.unread = 0
        self.due += len(body) / self.body_bytes_per_second
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.whole()
        super().on_message_complete()

    def whole(self) -> None:
        """Note that a request has come to its end."""
        self.unread, self.between, self.due = 0, True, math.inf

    def answered(self) -> bool:
        """Whether the request whose body is coming has its answer, or a part of it, already."""
        return self.cycle.response_started

    def _long(self) -> bool:
        return (
            len(self.url) + sum(len(key) + len(value) for key, value in self.headers) > HEAD_BYTES
        )
