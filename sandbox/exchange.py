"""One HTTP request and its reply, on bare ASGI because thousands must pass in a short time."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import parse_qsl

from litestar.types import HTTPScope, Receive, Send

from sandbox import clock

VIRTUAL_TIME_HEADER = "x-sandbox-time"


class BadRequest(ValueError):
    """The caller misused the sandbox itself, not the vendor it plays."""


@dataclass(slots=True, eq=False)
class Request:
    """A request as received, decoded once."""

    method: str
    path: str
    query: dict[str, str]
    form: dict[str, str]
    headers: dict[str, str]
    body: bytes
    received_at: datetime
    params: dict[str, str] = field(default_factory=dict)
    """Query and form together; the form wins."""
    repeated: frozenset[str] = frozenset()
    """Headers that came more than once; `headers` has the last of them."""

    @property
    def at(self) -> datetime:
        """The virtual time of the request, else the real one."""
        text = self.headers.get(VIRTUAL_TIME_HEADER)
        if text is None:
            return self.received_at
        try:
            return clock.parse_virtual(text)
        except ValueError as error:
            raise BadRequest(f"X-Sandbox-Time: {error}") from error

    @property
    def virtual_time(self) -> str:
        return self.headers.get(VIRTUAL_TIME_HEADER, "")

    def recorded(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "form": self.form,
            "headers": self.headers,
            "body": self.body.decode("utf-8", "replace"),
            "at": self.received_at,
        }


class HandedOut(Protocol):
    """What a read-once page hands out."""

    handed: Any
    salvageable: bool


@dataclass(slots=True, eq=False)
class Reply:
    body: bytes
    content_type: bytes
    status: int = 200
    handed: list[tuple[HandedOut, dict[str, str], int]] = field(default_factory=list)
    """Of a read-once page: the thing, its name in the truth, where its bytes end in the body."""
    sent_messages: list[Any] = field(default_factory=list)


Call = Callable[[Request], Awaitable[Reply]]


async def read_request(scope: HTTPScope, receive: Receive, path: str, charset: str) -> Request:
    body = b""
    while True:
        event = await receive()
        if event["type"] == "http.request":
            body += event.get("body", b"")
            if not event.get("more_body", False):
                break
        else:
            break
    headers: dict[str, str] = {}
    repeated = set()
    for raw_name, value in scope["headers"]:
        name = raw_name.decode("latin-1")
        if name in headers:
            repeated.add(name)
        headers[name] = value.decode("latin-1")
    # Clients may send raw bytes as well as %XX, so both are read in the endpoint's charset.
    query = _pairs(scope["query_string"], charset)
    form: dict[str, str] = {}
    if body and "urlencoded" in headers.get("content-type", ""):
        form = _pairs(body, charset)
    return Request(
        method=scope["method"],
        path=path,
        query=query,
        form=form,
        headers=headers,
        body=body,
        received_at=clock.now(),
        params={**query, **form} if form else query,
        repeated=frozenset(repeated),
    )


def _pairs(raw: bytes, charset: str) -> dict[str, str]:
    if not raw:
        return {}
    text = raw.decode(charset, "replace")
    return dict(parse_qsl(text, keep_blank_values=True, encoding=charset, errors="replace"))


async def send_reply(
    send: Send, reply: Reply, extra_headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [
                (b"content-type", reply.content_type),
                (b"content-length", b"%d" % len(reply.body)),
                *extra_headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


async def send_cut(send: Send, reply: Reply, length: int) -> None:
    """Promise the whole body, send `length` bytes of it, and leave: the server then closes."""
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [
                (b"content-type", reply.content_type),
                (b"content-length", b"%d" % len(reply.body)),
            ],
        }
    )
    await send({"type": "http.response.body", "body": reply.body[:length], "more_body": True})
