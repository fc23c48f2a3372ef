"""Requests to the receiver as spans: a connection's protocol and an application that make them.

Both stand in place of the plain ones only where something is traced, so that without it nothing is asked.
The official middleware for ASGI is not used: it would put the path, and with it the token, into each span.
"""

from typing import Any

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from receiver.app import Receiver
from receiver.callbacks import ACCOUNT, RECORD
from receiver.protocol import Protocol, Short
from runtime.records import FOREIGN, push_digest

_NAME = "callback"
_METHOD = "http.request.method"
_STATUS = "http.response.status_code"


def traced(protocol: type[Protocol], tracer: Tracer) -> type[Protocol]:
    """Return `protocol` with a span for each callback on the short way, from its last byte to its answer."""

    class Traced(Short):
        __slots__ = ("_span",)

        def take(self, body: bytes) -> None:
            head = self._head
            name = head.account.account.name
            self._span = tracer.start_span(
                _NAME, kind=SpanKind.SERVER, attributes={ACCOUNT: name, _METHOD: head.method}
            )
            if self._span.is_recording():
                where = FOREIGN if head.foreign else None
                digest = push_digest(name, head.method, head.query, body, where)
                self._span.set_attribute(RECORD, digest.hex())
            super().take(body)

        def stored(self, new: bool | None) -> None:
            self._end(200)
            super().stored(new)

        def refused(self) -> None:
            self._end(503)
            super().refused()

        def _end(self, status: int) -> None:
            if not self.answered:
                _end(self._span, status)

    return type("TracedProtocol", (protocol,), {"short": Traced})


class Traced(Receiver):
    """An application whose every request on the long way is a span; the path is in none."""

    def __init__(self, receiver: Receiver, tracer: Tracer) -> None:
        super().__init__(receiver)
        self._receiver = receiver
        self._tracer = tracer

    @property
    def callbacks(self) -> Any:
        return self._receiver.callbacks

    @callbacks.setter
    def callbacks(self, callbacks: Any) -> None:
        pass  # what is started is the one within

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["raw_path"].startswith(b"/callbacks/"):
            await self._receiver(scope, receive, send)
            return
        span = self._tracer.start_span(
            _NAME, kind=SpanKind.SERVER, attributes={_METHOD: scope["method"]}
        )

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                if ACCOUNT in scope:
                    span.set_attribute(ACCOUNT, scope[ACCOUNT])
                if RECORD in scope:
                    span.set_attribute(RECORD, scope[RECORD].hex())
                _end(span, message["status"])
            await send(message)

        try:
            await self._receiver(scope, receive, sent)
        finally:
            if span.is_recording():
                span.end()


def _end(span: Span, status: int) -> None:
    span.set_attribute(_STATUS, status)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
    span.end()
