"""HTTP/1.1 for vendors: uvicorn's protocol with a short way for the callbacks that are all alike.

A vendor pushes millions of callbacks whose heads differ in nothing or in a length. The short way takes
one from the socket to the group commit, and its answer back, without a task, without ASGI's messages
and with one write. It takes only what is plain: a known token, a declared length, nothing under way on
the connection. All else goes the long way, through uvicorn and the application, and is answered alike.

Whoever does not finish is dropped, by one timer that looks at all connections of the process once a
second: a request costs two stores for it, and no timer.
"""

import asyncio
import logging
import math
from collections.abc import Callable

import msgspec
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateways.gateway import Acknowledgement
from receiver.app import Receiver
from receiver.callbacks import Callbacks, Head
from receiver.ingest import Full
from runtime import metrics, serving

HEAD_BYTES = 65_536
HEADERS = 100
HEAD_SECONDS = 20.0  # from the connection's or the head's first byte to the head's last
BODY_SECONDS = 60.0  # from there to the body's last; and for as long an answer may stay unread
_LOOK_SECONDS = 1.0
_KNOWN_HEADS = 1024
_KNOWN_HEAD_BYTES = 2048
_END_OF_HEAD = b"\r\n\r\n"
# What strangers send is counted, and not a line each.
_QUIET = logging.getLogger("uvicorn.error.connections")
_QUIET.setLevel(logging.ERROR)
_UNAVAILABLE = Acknowledgement(b"not stored, try again\n", "text/plain; charset=utf-8")


class _Known(msgspec.Struct, frozen=True, gc=False):
    """A head whose bytes were read, found plain and admitted once; `keep_alive` is its wish."""

    head: Head
    keep_alive: bool


class Heads:
    """The heads seen on all connections of this process, by their bytes; bounded.

    Looked up by its whole text, token and all: what is equal was admitted before.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}
        self.get: Callable[[bytes], _Known | None] = self._known.get

    def add(self, text: bytes, known: _Known) -> None:
        """Remember a head, unless it is long or holds a push's own words in its query.

        Nor if a line in it ends in a bare LF: then it may have ended before its first empty line.
        """
        if (
            len(text) > _KNOWN_HEAD_BYTES
            or known.head.query
            or text.count(b"\n") != text.count(b"\r\n")
        ):
            return
        if len(self._known) >= _KNOWN_HEADS:
            self._known.clear()
        self._known[text] = known


class Watch:
    """The connections of this process: how many there may be, and which of them are overdue."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: dict[Protocol, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, connection: "Protocol") -> None:
        """Keep an eye on a new connection; where there are too many, another one goes for it."""
        if len(self._connections) >= self._most:
            self._make_room()
        self._connections[connection] = None
        if self._timer is None:
            self._timer = connection.loop.call_later(_LOOK_SECONDS, self._look, connection.loop)

    def closed(self, connection: "Protocol") -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._connections):
            connection.look(now)
        again = bool(self._connections)
        self._timer = loop.call_later(_LOOK_SECONDS, self._look, loop) if again else None

    def _make_room(self) -> None:
        """Drop the oldest that has not sent a whole head, else the oldest that waits for nothing."""
        idle: Protocol | None = None
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

    def __init__(self, transport: asyncio.Transport, connection: "Protocol") -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        if not self._connection.pipeline and not self.write_paused:
            super().resume_reading()


class _Nothing:
    """An event that nobody waits for."""

    def set(self) -> None:
        return


class _Short:
    """A callback on the short way; stands where uvicorn keeps a request and its response.

    So a request that comes before this one is answered queues behind it, and a shutdown waits.
    """

    __slots__ = (
        "_acknowledgement",
        "_head",
        "_protocol",
        "disconnected",
        "keep_alive",
        "response_complete",
    )

    message_event = _Nothing()

    def __init__(self, protocol: "Protocol", head: Head, keep_alive: bool) -> None:
        self._protocol = protocol
        self._head = head
        self._acknowledgement = _UNAVAILABLE
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    def take(self, body: bytes) -> None:
        """Have the callback recorded; what becomes of it is told by `stored` or `refused`."""
        protocol = self._protocol
        try:
            self._acknowledgement = protocol.callbacks.take(self._head, body, protocol.peer, self)
        except Full:
            self.refused()

    @property
    def answered(self) -> bool:
        """Whether there is nothing to tell any more."""
        return self.response_complete

    def stored(self, _new: bool | None) -> None:
        """Acknowledge: the record is durable."""
        self._answer(b"HTTP/1.1 200 OK\r\n", self._acknowledgement)

    def refused(self) -> None:
        """Say that it could not be stored in time."""
        if not self.response_complete:
            metrics.CALLBACKS.labels(self._head.account.account.name, "unavailable").inc()
        self._answer(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\n", _UNAVAILABLE)

    def _answer(self, start: bytes, answer: Acknowledgement) -> None:
        if self.response_complete:
            return
        self.response_complete = True
        keep_alive = self.keep_alive and not self._protocol.last
        self._protocol.answer(
            b"%b%bcontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b"
            % (
                start,
                self._protocol.default_headers(),
                answer.content_type.encode(),
                len(answer.body),
                b"" if keep_alive else b"connection: close\r\n",
                answer.body,
            ),
            keep_alive,
        )


class Protocol(serving.Protocol):
    """One connection.

    Also bounds what uvicorn by itself keeps in memory at any length, heads and trailers; bodies are
    bounded by who reads them.
    """

    heads: Heads
    watch: Watch
    application: Receiver

    _unread = 0  # bytes since the last that were part of a body, or ended something
    _text: bytes | None = None  # the head, if it came whole and first
    _heading = True  # whether the head has not ended
    _taking: _Short | None = None  # the callback whose body is coming
    _active_at = 0.0
    _due = math.inf  # when what was begun must be finished
    _read_by = math.inf  # when the peer must have read what it was answered
    _status = 400  # of the refusal, if the parser finds fault

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.logger = _QUIET
        self.flow = _Flow(transport, self)
        self._due = self.loop.time() + HEAD_SECONDS
        self.watch.opened(self)
        assert self.application.callbacks is not None  # accepting begins when it has started
        self.callbacks: Callbacks = self.application.callbacks
        self.peer = self.client[0] if self.client else ""

    def data_received(self, data: bytes) -> None:
        if self.between and self.idle():
            end = data.find(_END_OF_HEAD)
            self._text = text = data[:end] if end > 0 else None
            known = self.heads.get(text) if text is not None else None
            if known is not None and len(data) == end + 4 + known.head.length:
                short = _Short(self, known.head, known.keep_alive)
                self.cycle = short  # type: ignore[assignment]
                self._due = math.inf
                short.take(data[end + 4 :])
                return
        if self.between:
            self.between = False
            self._due = self.loop.time() + HEAD_SECONDS
        self._unread += len(data)
        if self._unread > HEAD_BYTES + len(data):
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
        metrics.DROPPED.labels({400: "malformed", 408: "slow", 431: "head"}[self._status]).inc()
        self.transport.write(
            b"%bcontent-type: text/plain; charset=utf-8\r\n%b"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[self._status], self.default_headers(), len(msg), msg.encode("ascii"))
        )
        self.transport.close()
        self._due = self.loop.time() + HEAD_SECONDS

    @property
    def resting(self) -> bool:
        """Whether no request is under way or waits; the next may have begun to come."""
        return self.idle() and not self.pipeline

    @property
    def headless(self) -> bool:
        """Whether a head is waited for, or has begun to come."""
        return self._due < math.inf

    def look(self, now: float) -> None:
        """Drop the connection if it is overdue."""
        if now > self._read_by:
            self.drop("unread")
        if now <= self._due:
            return
        if self.transport.is_closing():
            self.transport.abort()
        elif self.flow.read_paused or self.pipeline or (self._heading and not self.idle()):
            self._due = now + BODY_SECONDS  # it is we who are late
        elif self.between or (not self._heading and self._answered):
            self.drop("slow")  # it never said a word, or nobody waits for the rest
        else:
            self._status = 408
            self.send_400_response("The request was not finished in time.")

    def drop(self, reason: str) -> None:
        """End the connection without a word."""
        metrics.DROPPED.labels(reason).inc()
        self.transport.abort()

    def on_message_begin(self) -> None:
        self._heading = True
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        if len(self.headers) > HEADERS or (self._unread > HEAD_BYTES and self._long()):
            self._status = 431
            raise ValueError("a head too long, or of too many headers")
        self._unread = 0
        self._heading = False
        self._due = self.loop.time() + BODY_SECONDS
        text, self._text = self._text, None
        if self.idle() and (head := self._plain()) is not None:
            known = _Known(head, self.parser.should_keep_alive())
            if text is not None:
                self.heads.add(text, known)
            self._taking = _Short(self, head, known.keep_alive)
            self.cycle = self._taking  # type: ignore[assignment]
            self._body: list[bytes] = []
            return
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers += headers  # in place: uvicorn has put this list into the scope
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        if self._taking is None:
            super().on_body(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._unread, self.between, self._due = 0, True, math.inf
        if self._taking is None:
            super().on_message_complete()
            return
        short, self._taking = self._taking, None
        short.take(b"".join(self._body))
        self._body = []

    def answer(self, response: bytes, keep_alive: bool) -> None:
        """Send the whole answer to a callback of the short way."""
        if self.transport.is_closing():
            return
        self.transport.write(response)
        self._active_at = self.loop.time()
        if not keep_alive:
            self.transport.close()
        elif self.pipeline:
            self.on_response_complete()
            return
        elif self.timeout_keep_alive_task is None:
            self._arm(self.timeout_keep_alive)
        self.server_state.total_requests += 1

    def default_headers(self) -> bytes:
        """Return the headers that every answer has, the date among them."""
        return b"".join([b"%b: %b\r\n" % pair for pair in self.server_state.default_headers])

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for long enough.

        The short way leaves the timer be, and only notes when it was last used.
        """
        left = self._active_at + self.timeout_keep_alive - self.loop.time()
        if self.idle() and left <= 0:
            super().timeout_keep_alive_handler()
        else:
            self._arm(max(left, 1.0))

    def _arm(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def _long(self) -> bool:
        return (
            len(self.url) + sum(len(key) + len(value) for key, value in self.headers) > HEAD_BYTES
        )

    @property
    def _answered(self) -> bool:
        """Whether the request whose body is coming has its answer, or a part of it, already."""
        return self._taking is None and self.cycle.response_started

    def _plain(self) -> Head | None:
        """Return the head of a request that may go the short way."""
        parser = self.parser
        if (
            self.expect_100_continue
            or parser.should_upgrade()
            or parser.get_http_version() != "1.1"
            or self.limit_concurrency is not None
        ):
            return None
        return self.callbacks.head(parser.get_method().decode("ascii"), self.url, self.headers)


def protocol(application: Receiver, *, connections: int) -> type[Protocol]:
    """Make the protocol of the connections to `application`, of which so many may be at a time."""
    own = {"heads": Heads(), "watch": Watch(connections), "application": application}
    return type("ReceiverProtocol", (Protocol,), own)
