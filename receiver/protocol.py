"""HTTP/1.1 for vendors: uvicorn's protocol with a short way for the callbacks that are all alike.

A vendor pushes millions of callbacks whose heads differ in nothing or in a length. The short way takes
one from the socket to the group commit, and its answer back, without a task, without ASGI's messages
and with one write. It takes only what is plain: a known token, a declared length, nothing under way on
the connection. All else goes the long way, through uvicorn and the application, and is answered alike.
"""

import asyncio
import logging
import math
from collections.abc import Callable

import msgspec

from gateways.gateway import Acknowledgement
from receiver.app import Receiver
from receiver.callbacks import Callbacks, Head
from receiver.ingest import Full
from runtime import metrics
from runtime.bounds import Bounded, Watch

_KNOWN_HEADS = 1024
_KNOWN_ANSWERS = 64
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
    """The heads seen on all connections of this process, by their peers and their bytes; bounded.

    Looked up by its whole text, token and all, and by whose it is: what is equal was admitted before.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], _Known] = {}
        self.get: Callable[[tuple[str, bytes]], _Known | None] = self._known.get

    def add(self, peer: str, text: bytes, known: _Known) -> None:
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
        self._known[peer, text] = known


class Answers:
    """The answers of this second, whole: most are alike, date and all."""

    def __init__(self) -> None:
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._made: dict[tuple[bytes, bytes, str, bool], bytes] = {}

    def of(
        self,
        headers: list[tuple[bytes, bytes]],
        start: bytes,
        answer: Acknowledgement,
        keep_alive: bool,
    ) -> bytes:
        """Return an answer; `headers` are the server's own, another list when they change."""
        if headers is not self._headers:
            self._headers = headers
            self._made.clear()
        key = (start, answer.body, answer.content_type, keep_alive)
        made = self._made.get(key)
        if made is None:
            if len(self._made) >= _KNOWN_ANSWERS:
                self._made.clear()
            made = self._made[key] = b"%b%bcontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
                start,
                b"".join([b"%b: %b\r\n" % pair for pair in headers]),
                answer.content_type.encode(),
                len(answer.body),
                b"" if keep_alive else b"connection: close\r\n",
                answer.body,
            )
        return made


class _Nothing:
    """An event that nobody waits for."""

    def set(self) -> None:
        return


class Short:
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
        self._protocol: Protocol | None = protocol
        self._head = head
        self._acknowledgement = _UNAVAILABLE
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    def take(self, body: bytes) -> None:
        """Have the callback recorded; what becomes of it is told by `stored` or `refused`."""
        protocol = self._protocol
        assert protocol is not None
        try:
            self._acknowledgement = protocol.callbacks.take(self._head, body, self)
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
        # The connection keeps its last callback: one that kept it too would make both wait for the collector.
        protocol, self._protocol = self._protocol, None
        if protocol is None:
            return
        self.response_complete = True
        keep_alive = self.keep_alive and not protocol.last
        headers = protocol.server_state.default_headers
        protocol.answer(protocol.answers.of(headers, start, answer, keep_alive), keep_alive)


class Protocol(Bounded):
    """One connection."""

    side = "receiver"
    heads: Heads
    answers: Answers
    application: Receiver
    short = Short  # what a callback on the short way is

    _text: bytes | None = None  # the head, if it came whole and first
    _taking: Short | None = None  # the callback whose body is coming
    _active_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.logger = _QUIET
        assert self.application.callbacks is not None  # accepting begins when it has started
        self.callbacks: Callbacks = self.application.callbacks
        self.peer = self.client[0] if self.client else ""

    def data_received(self, data: bytes) -> None:
        if self.between and self.idle():
            end = data.find(_END_OF_HEAD)
            self._text = text = data[:end] if end > 0 else None
            known = self.heads.get((self.peer, text)) if text is not None else None
            if known is not None and len(data) == end + 4 + known.head.length:
                short = self.short(self, known.head, known.keep_alive)
                self.cycle = short  # type: ignore[assignment]
                self.due = math.inf
                short.take(data[end + 4 :])
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        # What uvicorn does here waits until the head says which way the request goes.
        self.heading = True
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def take_up(self) -> None:
        text, self._text = self._text, None
        if self.idle() and (head := self._plain()) is not None:
            known = _Known(head, self.parser.should_keep_alive())
            if text is not None:
                self.heads.add(self.peer, text, known)
            self._taking = self.short(self, head, known.keep_alive)
            self.cycle = self._taking  # type: ignore[assignment]
            self._body: list[bytes] = []
            return
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers += headers  # in place: uvicorn has put this list into the scope
        super().take_up()

    def on_body(self, body: bytes) -> None:
        if self._taking is None:
            super().on_body(body)
        else:
            self.unread = 0
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._taking is None:
            super().on_message_complete()
            return
        self.whole()
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

    def answered(self) -> bool:
        return self._taking is None and super().answered()

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
        method = parser.get_method().decode("ascii")
        return self.callbacks.head(method, self.url, self.headers, self.peer)


def protocol(application: Receiver, *, connections: int) -> type[Protocol]:
    """Make the protocol of the connections to `application`, of which so many may be at a time."""
    own = {
        "heads": Heads(),
        "answers": Answers(),
        "watch": Watch(connections),
        "application": application,
    }
    return type("ReceiverProtocol", (Protocol,), own)
