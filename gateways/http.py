"""The one place where httpx's errors become ours, and where calls are paced, bounded and repeated.

Every error is raised `from None`: httpx's own texts and objects hold URLs, and some vendors take
their secret in the query string.
"""

import asyncio
from collections.abc import Callable, Mapping, Set
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
import stamina
from aiolimiter import AsyncLimiter

from gateways.errors import Garbled, Indeterminate, Refused, Unavailable

# A vendor that asks for a longer pause is left to the caller's schedule.
_LONGEST_WAIT_SECONDS = 20.0
_DAY_SECONDS = 86_400.0
_LAST_PORT = 65_535

# The request never left: nothing can have happened.
_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
# Nothing that could be sent: a bad address, or a credential that does not fit into a header.
_UNSENDABLE = (
    httpx.InvalidURL,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    UnicodeError,
)


# What goes with a request; where it holds the time it is signed with, a function that is called at
# each attempt: an attempt may wait for its turn longer than a vendor takes an old signature.
Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]


class _Risk(Enum):
    """What a call risks, as the HTTP statuses after which it may have happened all the same."""

    NONE = frozenset[int]()
    # A proxy that gives up on the vendor does not know whether the vendor did the work.
    DESTRUCTIVE = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT})
    # A program can fail after it has done the work; only "unavailable" is said before it.
    SUBMITS = frozenset(range(500, 600)) - {HTTPStatus.SERVICE_UNAVAILABLE}


def open_client() -> httpx.AsyncClient:
    """Return a client as `Transport` wants it, certificates verified; the caller closes it."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(15.0, connect=5.0, pool=5.0),
        headers={"User-Agent": "huizhi"},
    )


class Transport:
    """Calls to one vendor for one account, at its rate; belongs to one event loop.

    Every call returns `(headers, body)` of a 2xx reply, or of one whose status is in `reads`
    because the vendor says something in it; header names lower-case, the body as it came. A call is
    either repeatable, or `destructive`: it changes something at the vendor, or is answered once
    only. A destructive call that `submits` would make a second thing if it were repeated: of its
    5xx only 503 says that nothing happened. Raises

    - `Unavailable`: nothing happened (no connection, HTTP 429 or 5xx), or the call was repeatable,
      which comes to the same. Tried a few times first, honouring Retry-After.
    - `Indeterminate`: a destructive call left and its answer is not whole, or one that `submits`
      was answered with any other 5xx; never tried again.
    - `Refused`: HTTP 401 or 403.
    - `Garbled`: any other status, or more than `max_bytes` in answer to a repeatable call.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        requests_per_second: float,
        *,
        attempts: int = 3,
        timeout_seconds: float = 60.0,
        max_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._client = client
        # One at a time at even distance: a bucket of n would let 2n go in the first second.
        self._limiter = AsyncLimiter(1, 1 / requests_per_second)
        self._attempts = attempts
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes

    async def get(
        self,
        url: str,
        *,
        params: Mapping[str, str],
        headers: Headers | None = None,
        destructive: bool = False,
        submits: bool = False,
        reads: Set[int] = frozenset(),
    ) -> tuple[Mapping[str, str], bytes]:
        """GET `url` with `params` in its query."""
        risk = _risk(destructive, submits)
        return await self._repeat("GET", url, params, None, {}, headers, risk, reads)

    async def post(
        self,
        url: str,
        *,
        form: Mapping[str, str],
        charset: str = "utf-8",
        headers: Headers | None = None,
        destructive: bool = False,
        submits: bool = False,
        reads: Set[int] = frozenset(),
    ) -> tuple[Mapping[str, str], bytes]:
        """POST `form`, percent-encoded in `charset`, to `url`."""
        try:
            body = urlencode(form, encoding=charset).encode("ascii")
        except UnicodeError:
            raise Unavailable(f"the request cannot be written in {charset}") from None
        kind = {"content-type": f"application/x-www-form-urlencoded; charset={charset}"}
        risk = _risk(destructive, submits)
        return await self._repeat("POST", url, None, body, kind, headers, risk, reads)

    async def post_json(
        self,
        url: str,
        *,
        document: Any,
        headers: Headers | None = None,
        submits: bool = False,
        reads: Set[int] = frozenset(),
    ) -> tuple[Mapping[str, str], bytes]:
        """POST `document` as JSON in UTF-8 to `url`."""
        try:
            body = msgspec.json.encode(document)
        except UnicodeError:
            raise Unavailable("the request cannot be written in UTF-8") from None
        kind = {"content-type": "application/json;charset=UTF-8"}
        risk = _risk(False, submits)
        return await self._repeat("POST", url, None, body, kind, headers, risk, reads)

    async def _repeat(
        self,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        content: bytes | None,
        kind: Mapping[str, str],
        headers: Headers | None,
        risk: _Risk,
        reads: Set[int],
    ) -> tuple[Mapping[str, str], bytes]:
        # No compression, so that the bytes kept as evidence are those that were sent.
        common = {"accept-encoding": "identity", **kind}
        try:
            async for attempt in stamina.retry_context(
                on=_pause, attempts=self._attempts, wait_initial=0.5, wait_max=5.0
            ):
                with attempt:
                    await self._limiter.acquire()
                    try:
                        own = headers() if callable(headers) else headers or {}
                        request = self._client.build_request(
                            method, url, params=params, content=content, headers=common | dict(own)
                        )
                    except _UNSENDABLE:
                        raise _Unsendable from None
                    if (request.url.port or 0) > _LAST_PORT:  # httpx lets it through
                        raise _Unsendable
                    return await self._once(request, risk, reads)
        except _Unsendable:
            raise Unavailable(
                "the request cannot be written: look at base_url and credentials"
            ) from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _once(
        self, request: httpx.Request, risk: _Risk, reads: Set[int]
    ) -> tuple[Mapping[str, str], bytes]:
        """Make one attempt."""
        arrived = bytearray()
        response: httpx.Response | None = None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._client.send(request, stream=True, follow_redirects=False)
                try:
                    async for chunk in response.aiter_bytes():
                        arrived += chunk
                        if len(arrived) > self._max_bytes:
                            break
                finally:
                    await response.aclose()
        except _NEVER_LEFT as error:
            raise Unavailable(f"the vendor cannot be reached ({type(error).__name__})") from None
        except _UNSENDABLE:
            raise _Unsendable from None
        except (httpx.HTTPError, TimeoutError) as error:
            # A cut error page changes nothing about what its status says.
            if response is None or response.is_success or response.status_code in reads:
                raise _cut(type(error).__name__, bytes(arrived), risk) from None
        body = bytes(arrived)
        if not response.is_success and response.status_code not in reads:
            raise _status_error(response, body, risk)
        if len(body) > self._max_bytes:
            if risk is not _Risk.NONE:
                raise Indeterminate("the reply is larger than expected", partial=body)
            raise Garbled("the reply is larger than expected", body=body)
        return dict(response.headers.items()), body


class _Unsendable(Exception):
    """A request that no attempt will ever send; leaves the retries at once."""


def _pause(error: Exception) -> bool | float:
    """Say whether, or after how many seconds, to try again: only where nothing happened."""
    if not isinstance(error, Unavailable):
        return False
    if error.retry_after_seconds is None:
        return True
    return (
        error.retry_after_seconds if error.retry_after_seconds <= _LONGEST_WAIT_SECONDS else False
    )


def _risk(destructive: bool, submits: bool) -> _Risk:
    if submits:
        return _Risk.SUBMITS
    return _Risk.DESTRUCTIVE if destructive else _Risk.NONE


def _cut(what: str, partial: bytes, risk: _Risk) -> Unavailable | Indeterminate:
    if risk is not _Risk.NONE:
        return Indeterminate(f"the reply did not come whole ({what})", partial=partial)
    return Unavailable(f"the reply did not come whole ({what})")


def _status_error(
    response: httpx.Response, body: bytes, risk: _Risk
) -> Unavailable | Indeterminate | Refused | Garbled:
    status = response.status_code
    if status in risk.value:
        return _cut(f"HTTP {status}", body, risk)
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(
            f"the vendor answered HTTP {status}",
            retry_after_seconds=_retry_after(response.headers.get("retry-after", "")),
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Refused(str(status), f"HTTP {HTTPStatus(status).phrase}")
    return Garbled(f"the vendor answered HTTP {status}", body=body)


def _retry_after(value: str) -> float | None:
    """Return the seconds that Retry-After (RFC 9110, seconds or a date) asks for, within a day."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), _DAY_SECONDS)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    seconds = (until - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _DAY_SECONDS)
