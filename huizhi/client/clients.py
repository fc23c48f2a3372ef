"""The two shells around the calls, one that blocks and one that awaits."""

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar

import httpx

from huizhi.client import calls
from huizhi.client.calls import Call
from huizhi.client.shapes import (
    Evidence,
    Message,
    Outgoing,
    Registered,
    SendResult,
    Sent,
)

T = TypeVar("T")


class Huizhi:
    """Huizhi's API for code that blocks; safe to share between threads.

    `base_url` is the reconciler's, `token` its `api_token`. A call waits `timeout_seconds` for an
    answer, and what can be repeated without harm is tried again for `patience_seconds`: no connection,
    HTTP 429 and 5xx, with growing pauses or those that Retry-After asks for. Every call raises
    `Unavailable`, `Refused` or `Garbled`.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        timeout_seconds: float = 30.0,
        patience_seconds: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._base_url = calls.checked_url(base_url)
        self._patience = patience_seconds
        self._http = httpx.Client(
            auth=calls.Bearer(token), timeout=timeout_seconds, transport=transport
        )

    def register(self, messages: Sequence[Sent]) -> Registered:
        """Register messages that were sent, any number, 10,000 a request. Idempotent.

        What it answers is durable. If it raises, some may be registered: give all of them again.
        """
        registration = calls.Registration(messages)
        for part in registration.parts():
            registration.add(part, self._make(part.call))
        return registration.result

    def send(self, request: Outgoing, *, key: str) -> SendResult:
        """Send a text once, however often it is asked for under `key`."""
        return self._make(calls.sending(request, key))

    def message(self, message_id: str) -> Evidence:
        """Return one message with its evidence; raises `Refused` with status 404 if there is none."""
        return self._make(calls.showing(message_id))

    def messages(
        self,
        *,
        account: str | None = None,
        vendor_message_id: str | None = None,
        reference: str | None = None,
        status: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[Message]:
        """Yield messages sent from `since` on and before `until`, the newest first, page by page."""
        filters = {
            "account": account,
            "vendor_message_id": vendor_message_id,
            "reference": reference,
            "status": status,
            "from": since,
            "to": until,
        }
        cursor: str | None = None
        while True:
            page = self._make(calls.listing(filters, cursor))
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url!r})"

    def _make(self, call: Call[T]) -> T:
        for attempt in calls.attempts(self._patience):
            with attempt:
                try:
                    response = self._http.request(
                        call.method,
                        self._base_url + call.path,
                        params=call.params,
                        content=call.body,
                        headers=call.headers,
                    )
                except httpx.HTTPError as error:
                    raise calls.unanswered(error) from None
                return call.read(response)
        raise AssertionError("unreachable: the last attempt returns or raises")


class AsyncHuizhi:
    """Huizhi's API for code that awaits; belongs to one event loop. Otherwise as `Huizhi`."""

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        timeout_seconds: float = 30.0,
        patience_seconds: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url = calls.checked_url(base_url)
        self._patience = patience_seconds
        self._http = httpx.AsyncClient(
            auth=calls.Bearer(token), timeout=timeout_seconds, transport=transport
        )

    async def register(self, messages: Sequence[Sent]) -> Registered:
        """Register messages that were sent, any number, 10,000 a request. Idempotent.

        What it answers is durable. If it raises, some may be registered: give all of them again.
        """
        registration = calls.Registration(messages)
        for part in registration.parts():
            registration.add(part, await self._make(part.call))
        return registration.result

    async def send(self, request: Outgoing, *, key: str) -> SendResult:
        """Send a text once, however often it is asked for under `key`."""
        return await self._make(calls.sending(request, key))

    async def message(self, message_id: str) -> Evidence:
        """Return one message with its evidence; raises `Refused` with status 404 if there is none."""
        return await self._make(calls.showing(message_id))

    async def messages(
        self,
        *,
        account: str | None = None,
        vendor_message_id: str | None = None,
        reference: str | None = None,
        status: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[Message]:
        """Yield messages sent from `since` on and before `until`, the newest first, page by page."""
        filters = {
            "account": account,
            "vendor_message_id": vendor_message_id,
            "reference": reference,
            "status": status,
            "from": since,
            "to": until,
        }
        cursor: str | None = None
        while True:
            page = await self._make(calls.listing(filters, cursor))
            for item in page.items:
                yield item
            cursor = page.next
            if cursor is None:
                return

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url!r})"

    async def _make(self, call: Call[T]) -> T:
        async for attempt in calls.attempts(self._patience):
            with attempt:
                try:
                    response = await self._http.request(
                        call.method,
                        self._base_url + call.path,
                        params=call.params,
                        content=call.body,
                        headers=call.headers,
                    )
                except httpx.HTTPError as error:
                    raise calls.unanswered(error) from None
                return call.read(response)
        raise AssertionError("unreachable: the last attempt returns or raises")
