"""Calls to Huizhi without the I/O: requests built, answers read, rows parted into calls."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import stamina

from huizhi.client.errors import Garbled, Refused, Unavailable
from huizhi.client.shapes import (
    Evidence,
    Message,
    Outgoing,
    Registered,
    Rejected,
    SendResult,
    Sent,
)

T = TypeVar("T")

MAX_ROWS = 10_000
# Half of what Huizhi takes: a proxy in between may take less.
MAX_BYTES = 32 * 1024 * 1024
_MAX_ROW_BYTES = 1024 * 1024
_MAX_KEY = 255
_MAX_DETAIL = 500
_DAY_SECONDS = 86_400.0
_PAGE = 1000

_JSON = {"content-type": "application/json"}


class Bearer(httpx.Auth):
    """Puts the token into each request, and shows it nowhere."""

    def __init__(self, token: str) -> None:
        if not token or not all("!" <= letter <= "~" for letter in token):
            raise ValueError("a token is one word of printable ASCII")
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        """Add the header that the API wants."""
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request


class _Problem(msgspec.Struct):
    """An RFC 9457 problem, as far as it is looked at."""

    detail: str


class Call(Generic[T]):
    """One request that does no more when it is made twice, and how its answer is read."""

    def __init__(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.params = params
        self.body = body
        self.headers = {**(_JSON if body is not None else {}), **(headers or {})}
        self._decoder = msgspec.json.Decoder(answer)

    def read(self, response: httpx.Response) -> T:
        """Return what a whole response says; raises `Unavailable`, `Refused` and `Garbled`."""
        status = response.status_code
        if response.is_success:
            try:
                return self._decoder.decode(response.content)
            except (msgspec.DecodeError, UnicodeError):
                raise Garbled(f"HTTP {status} with an answer that is not Huizhi's") from None
        detail = _detail(response)
        seconds = retry_after(response.headers.get("retry-after", ""), datetime.now(UTC))
        # A conflict that passes by itself says when.
        passes = status == HTTPStatus.CONFLICT and seconds is not None
        if passes or status == HTTPStatus.TOO_MANY_REQUESTS or status >= 500:
            raise Unavailable(f"HTTP {status}: {detail}", retry_after_seconds=seconds)
        raise Refused(status, detail)


def unanswered(error: httpx.HTTPError) -> Unavailable:
    """Return what a failure of the connection means; httpx's own text would hold the address."""
    return Unavailable(f"Huizhi does not answer ({type(error).__name__})")


def _detail(response: httpx.Response) -> str:
    try:
        return msgspec.json.decode(response.content, type=_Problem).detail[:_MAX_DETAIL]
    except (msgspec.DecodeError, UnicodeError):
        return response.reason_phrase or "no reason given"


def retry_after(value: str, now: datetime) -> float | None:
    """Return the seconds that Retry-After (RFC 9110, seconds or a date) asks for, within a day."""
    value = value.strip()
    if re.fullmatch(r"[0-9]+", value):
        return min(float(value[:9]), _DAY_SECONDS)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return min(max((until - now).total_seconds(), 0.0), _DAY_SECONDS)


def attempts(patience_seconds: float) -> Any:
    """Return stamina's attempts, sync or async, for as long as the caller has patience."""

    def pause(error: Exception) -> bool | float:
        if not isinstance(error, Unavailable):
            return False
        if error.retry_after_seconds is None:
            return True
        return error.retry_after_seconds if error.retry_after_seconds <= patience_seconds else False

    if patience_seconds <= 0:
        return stamina.retry_context(on=pause, attempts=1, timeout=None)
    return stamina.retry_context(
        on=pause, attempts=None, timeout=patience_seconds, wait_initial=0.2, wait_jitter=0.3
    )


def checked_url(base_url: str) -> str:
    """Return the address without a slash at its end; raises ValueError for what is none."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("base_url is no address such as http://127.0.0.1:8081")
    if url.userinfo or url.query or url.fragment:
        raise ValueError("base_url has more than a host, a port and a path")
    return base_url.rstrip("/")


class Part(NamedTuple):
    """One call of a registration, and where its rows stand in what was given."""

    call: Call[Registered]
    indexes: list[int]


class Registration:
    """Registers any number of rows in calls that Huizhi takes; a bad row never sinks the others."""

    def __init__(self, messages: Sequence[Sent]) -> None:
        self._messages = messages
        self._recorded = 0
        self._duplicates = 0
        self._rejected: list[Rejected] = []

    def parts(self) -> Iterator[Part]:
        """Yield the calls to be made, built when asked for; give each answer to `add`."""
        rows: list[bytes] = []
        indexes: list[int] = []
        size = 0
        for index, message in enumerate(self._messages):
            try:
                row = msgspec.json.encode(message)
            except (TypeError, UnicodeError):
                self._rejected.append(Rejected(index, "cannot be written as JSON"))
                continue
            if len(row) > _MAX_ROW_BYTES:
                self._rejected.append(Rejected(index, "is larger than any message"))
                continue
            if len(rows) == MAX_ROWS or size + len(row) > MAX_BYTES:
                yield _part(rows, indexes)
                rows, indexes, size = [], [], 0
            rows.append(row)
            indexes.append(index)
            size += len(row) + 1
        if rows:
            yield _part(rows, indexes)

    def add(self, part: Part, answer: Registered) -> None:
        """Take an answer in; raises `Garbled` if it does not account for each of the part's rows."""
        told = answer.recorded + answer.duplicates + len(answer.rejected)
        places = {row.index for row in answer.rejected}
        if (
            told != len(part.indexes)
            or len(places) != len(answer.rejected)
            or not places <= set(range(len(part.indexes)))
        ):
            raise Garbled("the answer does not say of every row what became of it")
        self._recorded += answer.recorded
        self._duplicates += answer.duplicates
        self._rejected += [Rejected(part.indexes[row.index], row.reason) for row in answer.rejected]

    @property
    def result(self) -> Registered:
        """What became of all rows."""
        return Registered(
            recorded=self._recorded,
            duplicates=self._duplicates,
            rejected=sorted(self._rejected, key=lambda row: row.index),
        )


def _part(rows: list[bytes], indexes: list[int]) -> Part:
    body = b"[" + b",".join(rows) + b"]"
    return Part(Call("POST", "/v1/sent", Registered, body=body), indexes)


def sending(request: Outgoing, key: str) -> Call[SendResult]:
    """Build `POST /v1/messages`, which under its key can be repeated without sending twice."""
    if not 0 < len(key) <= _MAX_KEY or not all(" " <= letter <= "~" for letter in key):
        raise ValueError("key: 1 to 255 characters of printable ASCII")
    return Call(
        "POST",
        "/v1/messages",
        SendResult,
        body=msgspec.json.encode(request),
        headers={"idempotency-key": key},
    )


def showing(message_id: str) -> Call[Evidence]:
    """Build `GET /v1/messages/{message_id}`."""
    return Call("GET", f"/v1/messages/{quote(message_id, safe='')}", Evidence)


class Page(msgspec.Struct, frozen=True):
    """A piece of a list; `next` is the cursor of the one after it."""

    items: list[Message]
    next: str | None


def listing(filters: Mapping[str, str | datetime | None], cursor: str | None) -> Call[Page]:
    """Build one page of `GET /v1/messages`."""
    params = {"limit": str(_PAGE)}
    for name, value in filters.items():
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise ValueError(f"{name} has no time zone")
            params[name] = value.isoformat()
        elif value is not None:
            params[name] = value
    if cursor is not None:
        params["cursor"] = cursor
    return Call("GET", "/v1/messages", Page, params=params)


def pause_seconds(failures: int, asked: float | None) -> float:
    """Return how long a registrar waits after so many failures in a row: what is asked for, or up to 30 s."""
    return asked if asked is not None else min(30.0, 0.5 * math.pow(2, min(failures, 10) - 1))
