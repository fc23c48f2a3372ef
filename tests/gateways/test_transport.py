"""Where httpx's errors become decisions: over real sockets where bytes matter, and at what pace."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import httpx
import pytest
import stamina
import time_machine

from gateways.errors import Garbled, GatewayError, Indeterminate, Refused, Unavailable
from gateways.http import Transport, _pause, _retry_after, open_client

pytestmark = pytest.mark.anyio

SECRET = "s3cret"
PARAMS = {"appCode": SECRET, "phone": "13509898765"}


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


class Vendor:
    """A socket that answers each request with the next of `answers`, the last one for ever."""

    def __init__(self, *answers: bytes, hang: bool = False, reset: bool = False) -> None:
        self.answers = list(answers)
        self.hang = hang
        self.reset = reset
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        pairs = [line.partition(b": ")[::2] for line in head.split(b"\r\n")[1:-2]]
        length = httpx.Headers(pairs).get("content-length", "0")
        self.requests.append(head + await reader.readexactly(int(length)))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        writer.write(answer)
        await writer.drain()
        if self.hang:
            await reader.read()
        if self.reset:
            writer.transport.abort()
        writer.close()

    @asynccontextmanager
    async def transport(
        self, *, timeout_seconds: float = 5.0, **bounds: Any
    ) -> AsyncIterator[tuple[Transport, str]]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, open_client() as client:
            yield (
                Transport(client, 1000, timeout_seconds=timeout_seconds, **bounds),
                f"http://127.0.0.1:{port}/x",
            )


def _http(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, "Connection: close"]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _failure(call: Awaitable[Any]) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        await call
    shown = "".join(traceback.format_exception(raised.value))
    assert SECRET not in shown
    assert "13509898765" not in shown
    assert "httpx" not in shown.replace("gateways/http", "")
    return raised.value


async def test_reply_is_its_headers_and_its_exact_bytes() -> None:
    body = "空号".encode("gbk") + bytes(range(256))
    vendor = Vendor(_http("200 OK", body, "Content-Type: text/xml; charset=gb2312", "X-A: b"))
    async with vendor.transport() as (transport, url):
        headers, got = await transport.get(url, params={"id": "a b&c"})
        assert got == body
        assert (headers["content-type"], headers["x-a"]) == ("text/xml; charset=gb2312", "b")
        await transport.post(url, form={"名": "值", "b": "1&2"}, charset="gbk", destructive=True)
    got_request, post_request = vendor.requests
    assert got_request.startswith(b"GET /x?id=a+b%26c HTTP/1.1\r\n")
    assert b"accept-encoding: identity" in got_request.lower()
    assert post_request.endswith(b"\r\n\r\n%C3%FB=%D6%B5&b=1%262")
    assert b"content-type: application/x-www-form-urlencoded; charset=gbk" in post_request.lower()


@pytest.mark.parametrize("destructive", [False, True])
async def test_no_connection_is_unavailable(destructive: bool) -> None:
    async with open_client() as client:
        transport = Transport(client, 1000)
        for url in ("http://127.0.0.1:1/", "http://no-such-host.invalid/"):
            error = await _failure(transport.get(url, params=PARAMS, destructive=destructive))
            assert type(error) is Unavailable
            assert str(error) == "the vendor cannot be reached (ConnectError)"


@pytest.mark.parametrize(
    "error", [httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ConnectError, httpx.ProxyError]
)
async def test_a_request_that_never_left_is_tried_again_even_if_destructive(
    error: type[httpx.TransportError],
) -> None:
    calls = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        if len(calls) < 3:
            raise error(f"to {request.url}")
        return httpx.Response(200, content=b"ok")

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        transport = Transport(client, 1000)
        assert (await transport.get("http://a/", params=PARAMS, destructive=True))[1] == b"ok"
    assert len(calls) == 3


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadTimeout,
        httpx.ReadError,
        httpx.WriteError,
        httpx.WriteTimeout,
        httpx.RemoteProtocolError,
        httpx.DecodingError,
    ],
)
async def test_a_destructive_request_that_left_is_never_tried_again(
    error: type[httpx.TransportError],
) -> None:
    calls = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        raise error(f"to {request.url}")

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        transport = Transport(client, 1000)
        raised = await _failure(transport.get("http://a/", params=PARAMS, destructive=True))
        assert type(raised) is Indeterminate
        assert len(calls) == 1
        raised = await _failure(transport.get("http://a/", params=PARAMS))
        assert type(raised) is Unavailable
        assert len(calls) == 4


@pytest.mark.parametrize(
    "vendor",
    [
        lambda: Vendor(_http("200 OK", b"<returnsms><sta", length=100)),
        lambda: Vendor(_http("200 OK", b"<returnsms><sta", length=100), reset=True),
        lambda: Vendor(_http("200 OK", b"<returnsms><sta", length=100), hang=True),
        lambda: Vendor(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n<returnsms><sta\r\n20\r\n<m"
        ),
    ],
    ids=["closed", "reset", "silent", "chunked"],
)
async def test_a_cut_body_keeps_what_arrived(vendor: Callable[[], Vendor]) -> None:
    cut = vendor()
    async with cut.transport(timeout_seconds=0.3) as (transport, url):
        error = await _failure(transport.post(url, form=PARAMS, destructive=True))
    assert type(error) is Indeterminate
    # What a reset overtakes was never read.
    assert error.partial.startswith(b"<returnsms><sta") or cut.reset
    assert len(cut.requests) == 1


async def test_a_silent_vendor_is_indeterminate_without_bytes() -> None:
    vendor = Vendor(b"", hang=True)
    async with vendor.transport(timeout_seconds=0.2) as (transport, url):
        error = await _failure(transport.post(url, form=PARAMS, destructive=True))
    assert type(error) is Indeterminate
    assert error.partial == b""


async def test_a_cut_body_of_a_repeatable_call_is_asked_for_again() -> None:
    vendor = Vendor(_http("200 OK", b"{", length=100), _http("200 OK", b"{}"))
    async with vendor.transport() as (transport, url):
        assert (await transport.get(url, params={}))[1] == b"{}"
    assert len(vendor.requests) == 2


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Oops", "503 Busy"])
@pytest.mark.parametrize("destructive", [False, True])
async def test_busy_vendors_are_asked_again_even_destructively(
    status: str, destructive: bool
) -> None:
    vendor = Vendor(_http(status), _http(status), _http("200 OK", b"ok"))
    async with vendor.transport() as (transport, url):
        assert (await transport.get(url, params={}, destructive=destructive))[1] == b"ok"
    vendor = Vendor(_http(status, b"cut", "Retry-After: 7", length=100))
    async with vendor.transport() as (transport, url):
        error = await _failure(transport.get(url, params=PARAMS, destructive=destructive))
    assert type(error) is Unavailable
    assert error.retry_after_seconds == 7
    assert len(vendor.requests) == 3


@pytest.mark.parametrize("status", ["502 Bad Gateway", "504 Gateway Timeout"])
async def test_a_proxy_that_gave_up_knows_nothing(status: str) -> None:
    vendor = Vendor(_http(status))
    async with vendor.transport() as (transport, url):
        assert type(await _failure(transport.get(url, params=PARAMS))) is Unavailable
        taken = transport.get(url, params=PARAMS, destructive=True)
        assert type(await _failure(taken)) is Indeterminate
    assert len(vendor.requests) == 4


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "504 Gateway Timeout"])
async def test_a_submission_answered_by_a_failure_may_have_been_taken(status: str) -> None:
    vendor = Vendor(_http(status, b"oops"))
    async with vendor.transport() as (transport, url):
        error = await _failure(transport.get(url, params=PARAMS, submits=True))
        assert type(error) is Indeterminate
        assert error.partial == b"oops"
        error = await _failure(transport.post(url, form=PARAMS, submits=True))
        assert type(error) is Indeterminate
    assert len(vendor.requests) == 2


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Busy"])
async def test_a_submission_turned_away_is_made_again(status: str) -> None:
    vendor = Vendor(_http(status), _http("200 OK", b"ok"))
    async with vendor.transport() as (transport, url):
        assert (await transport.get(url, params=PARAMS, submits=True))[1] == b"ok"
    assert len(vendor.requests) == 2


async def test_a_submission_whose_reply_is_lost_is_never_made_again() -> None:
    vendor = Vendor(_http("200 OK", b"{", length=100))
    async with vendor.transport() as (transport, url):
        error = await _failure(transport.get(url, params=PARAMS, submits=True))
    assert type(error) is Indeterminate
    assert error.partial == b"{"
    assert len(vendor.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        ("401 No", Refused, "refused by the vendor with 401: HTTP Unauthorized"),
        ("403 No", Refused, "refused by the vendor with 403: HTTP Forbidden"),
        ("302 Found", Garbled, "the vendor answered HTTP 302"),
        ("404 Gone", Garbled, "the vendor answered HTTP 404"),
        ("400 Bad", Garbled, "the vendor answered HTTP 400"),
    ],
)
async def test_other_statuses_are_not_repeated(
    status: str, kind: type[GatewayError], text: str
) -> None:
    body = SECRET.encode()
    vendor = Vendor(_http(status, body, "Location: http://127.0.0.1:1/?" + SECRET))
    async with vendor.transport() as (transport, url):
        error = await _failure(transport.get(url, params=PARAMS))
    assert (type(error), str(error)) == (kind, text)
    assert len(vendor.requests) == 1
    assert not isinstance(error, Garbled) or error.body == body


async def test_a_status_that_the_vendor_speaks_in_is_read_and_not_repeated() -> None:
    vendor = Vendor(_http("500 Internal Server Error", b'{"status":"INTERNAL_ERROR"}'))
    async with vendor.transport() as (transport, url):
        _, body = await transport.post_json(url, document={}, submits=True, reads={500})
    assert body == b'{"status":"INTERNAL_ERROR"}'
    assert len(vendor.requests) == 1


async def test_a_document_goes_as_json_in_utf_8() -> None:
    vendor = Vendor(_http("200 OK", b"{}"))
    async with vendor.transport() as (transport, url):
        await transport.post_json(
            url, document={"content": "你好", "n": "1"}, headers={"Sign": "x"}
        )
    head, _, body = vendor.requests[0].partition(b"\r\n\r\n")
    assert body == '{"content":"你好","n":"1"}'.encode()
    assert b"content-type: application/json;charset=UTF-8" in head
    assert b"Sign: x" in head


async def test_a_reply_has_a_largest_size() -> None:
    vendor = Vendor(_http("200 OK", b"x" * 100_000))
    async with vendor.transport(max_bytes=1_000) as (transport, url):
        error = await _failure(transport.get(url, params=PARAMS))
        assert type(error) is Garbled
        error = await _failure(transport.get(url, params=PARAMS, destructive=True))
        assert type(error) is Indeterminate
        assert len(error.partial) > 1_000


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("ftp://127.0.0.1/", {}),
        ("nonsense", {}),
        ("http://127.0.0.1:99999/", {}),
        ("http://127.0.0.1:1/", {"authorization": "AppCode s3cret密"}),
    ],
)
async def test_what_cannot_be_sent_is_unavailable_at_once(
    url: str, headers: dict[str, str]
) -> None:
    async with open_client() as client:
        transport = Transport(client, 1000)
        error = await _failure(transport.get(url, params=PARAMS, headers=headers))
        assert str(error) == "the request cannot be written: look at base_url and credentials"
        error = await _failure(
            transport.post("http://127.0.0.1:1/", form={"password": "s3cret😀"}, charset="gbk")
        )
        assert str(error) == "the request cannot be written in gbk"


async def test_a_credential_with_a_line_break_stays_secret() -> None:
    vendor = Vendor(_http("200 OK"))
    async with vendor.transport() as (transport, url):
        headers = {"authorization": f"AppCode {SECRET}\n"}
        error = await _failure(transport.get(url, params={}, headers=headers))
    assert str(error) == "the request cannot be written: look at base_url and credentials"
    assert vendor.requests == []


async def test_requests_keep_their_distance() -> None:
    times: list[float] = []

    def answer(_request: httpx.Request) -> httpx.Response:
        times.append(asyncio.get_running_loop().time())
        return httpx.Response(200)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        transport = Transport(client, 20)
        await asyncio.gather(*(transport.get("http://a/", params={}) for _ in range(5)))
    assert min(after - before for before, after in pairwise(times)) > 0.03


async def test_retry_after_is_waited_for() -> None:
    waits: list[float] = []
    stamina.set_testing(False)
    stamina.instrumentation.set_on_retry_hooks([lambda details: waits.append(details.wait_for)])
    try:
        vendor = Vendor(_http("429 Slow", b"", "Retry-After: 1"), _http("200 OK", b"ok"))
        async with vendor.transport() as (transport, url):
            assert (await transport.get(url, params={}, destructive=True))[1] == b"ok"
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)
    assert waits == [1.0]


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (Unavailable("x"), True),
        (Unavailable("x", retry_after_seconds=0.0), 0.0),
        (Unavailable("x", retry_after_seconds=20.0), 20.0),
        (Unavailable("x", retry_after_seconds=21.0), False),
        (Indeterminate("x"), False),
        (Refused("1", "x"), False),
        (Garbled("x"), False),
    ],
)
async def test_only_what_never_happened_is_repeated_soon(
    error: GatewayError, pause: bool | float
) -> None:
    assert _pause(error) is pause or _pause(error) == pause


NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("soon", None),
        ("-1", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 400, 86_400.0),
        ("٣", None),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("Sat, 21 Nov 2026 12:00:30 -0000", 30.0),
        ("Sat, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
async def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    with time_machine.travel(NOW, tick=False):
        assert _retry_after(value) == seconds


async def test_certificates_are_verified() -> None:
    async with open_client() as client:
        context = client._transport._pool._ssl_context  # type: ignore[attr-defined]
        assert context.check_hostname
        assert not client.follow_redirects
