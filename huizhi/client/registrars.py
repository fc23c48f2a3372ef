"""Registering in the background: put messages as they are sent, and they go out in batches.

Two shells around `Batches`: a thread, and a task.
"""

import asyncio
import atexit
import contextlib
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from huizhi.client.batching import Batches
from huizhi.client.clients import AsyncHuizhi, Huizhi
from huizhi.client.errors import Closed, Full, NotTaken
from huizhi.client.shapes import Registered, Sent, Totals, Unregistered

CLOSE_SECONDS = 10.0


class Registrar:
    """Registers what is put into it, in a thread of its own; safe to share between threads.

    A batch goes out when `batch_rows` wait or the oldest has waited for `batch_seconds`. While Huizhi is
    away it keeps trying; at most `capacity` messages wait, then `put` blocks. What Huizhi rejects, and
    what is left at the end, goes to `hand_back`: every message is registered or handed back. Make it
    after a fork, and close it; when the interpreter exits it closes itself.

    `hand_back` is called in the registrar's thread or in the one that closes, one call at a time.
    Nothing else can be put until it returns, and it must not use the registrar itself.
    """

    def __init__(
        self,
        client: Huizhi,
        *,
        hand_back: Callable[[list[Unregistered]], None],
        capacity: int = 10_000,
        batch_rows: int = 1_000,
        batch_seconds: float = 1.0,
    ) -> None:
        self._client = client
        self._hand_back = hand_back
        self._batches = Batches(capacity, batch_rows, batch_seconds)
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="huizhi registrar", daemon=True).start()
        atexit.register(self.close)

    def put(self, message: Sent, *, timeout_seconds: float | None = None) -> None:
        """Take a message; blocks while there is no room.

        Raises `Full` if there is none after `timeout_seconds`, and `Closed` once the registrar is closed
        or `hand_back` has failed.
        """
        batches = self._batches
        with self._changed:
            self._changed.wait_for(lambda: batches.open_or_over, timeout_seconds)
            batches.check()
            if not batches.room:
                raise Full(f"no room came free in {timeout_seconds} seconds")
            if batches.add(message, time.monotonic()):
                self._changed.notify_all()

    def flush(self, *, timeout_seconds: float | None = None) -> Totals:
        """Register now what was put so far; return when that is done, or after `timeout_seconds`.

        What still waits then stands in the totals, and is registered later. Raises `Closed` if
        `hand_back` has failed.
        """
        batches = self._batches
        with self._changed:
            goal = batches.flush()
            self._changed.notify_all()
            self._changed.wait_for(lambda: batches.reached(goal), timeout_seconds)
            if batches.broken is not None:
                batches.check()
            return batches.totals

    def close(self, *, timeout_seconds: float = CLOSE_SECONDS) -> Totals:
        """Take no more, register what waits for up to `timeout_seconds`, hand back the rest.

        Raises `NotTaken`, which has the rest, if `hand_back` fails. Closing again changes nothing.
        """
        batches = self._batches
        with self._changed:
            batches.end()
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: batches.reached(batches.put), timeout_seconds)
            finally:  # also if somebody has no patience and interrupts it
                left = batches.abandon()
                self._changed.notify_all()
                atexit.unregister(self.close)
                if left:
                    try:
                        self._hand_back(left)
                    except Exception as error:
                        raise NotTaken(left) from error
                    batches.taken_back()
            return batches.totals

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _work(self) -> None:
        batches = self._batches
        while batch := self._next():
            try:
                answer: Registered | Exception = self._client.register(batch)
            except Exception as error:
                answer = error
            with self._changed:
                try:
                    if not batches.abandoned and (back := batches.settle(answer, time.monotonic())):
                        self._hand_back(back)
                        batches.taken_back()
                except Exception as error:
                    batches.broken = error
                self._changed.notify_all()

    def _next(self) -> list[Sent]:
        """Wait for the next batch; an empty one says that it is over."""
        batches = self._batches
        with self._changed:
            while not batches.over:
                due = batches.due_in(time.monotonic())
                if due == 0:
                    return batches.take()
                self._changed.wait(due)
        return []


class AsyncRegistrar:
    """Registers what is put into it, in a task of its own: `async with` starts and closes it.

    As `Registrar`, in one event loop: `put` waits instead of blocking, and `hand_back` may be a
    coroutine function. To wait for a limited time use `asyncio.timeout`.
    """

    def __init__(
        self,
        client: AsyncHuizhi,
        *,
        hand_back: Callable[[list[Unregistered]], Awaitable[None] | None],
        capacity: int = 10_000,
        batch_rows: int = 1_000,
        batch_seconds: float = 1.0,
    ) -> None:
        self._client = client
        self._hand_back = hand_back
        self._batches = Batches(capacity, batch_rows, batch_seconds)
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def put(self, message: Sent) -> None:
        """Take a message; waits while there is no room. A cancelled `put` has taken nothing.

        Raises `Closed` once the registrar is closed or `hand_back` has failed.
        """
        batches = self._batches
        if self._task is None:
            raise Closed("the registrar is not started: use it with `async with`")
        async with self._changed:
            await self._changed.wait_for(lambda: batches.open_or_over)
            batches.check()
            if batches.add(message, time.monotonic()):
                self._changed.notify_all()

    async def flush(self, *, timeout_seconds: float | None = None) -> Totals:
        """Register now what was put so far; return when that is done, or after `timeout_seconds`.

        What still waits then stands in the totals, and is registered later. Raises `Closed` if
        `hand_back` has failed.
        """
        batches = self._batches
        async with self._changed:
            goal = batches.flush()
            self._changed.notify_all()
            await self._wait_for(lambda: batches.reached(goal), timeout_seconds)
            if batches.broken is not None:
                batches.check()
            return batches.totals

    async def close(self, *, timeout_seconds: float = CLOSE_SECONDS) -> Totals:
        """Take no more, register what waits for up to `timeout_seconds`, hand back the rest.

        Raises `NotTaken`, which has the rest, if `hand_back` fails. Closing again changes nothing.
        """
        batches = self._batches
        async with self._changed:
            batches.end()
            self._changed.notify_all()
            try:
                await self._wait_for(lambda: batches.reached(batches.put), timeout_seconds)
            finally:  # also if it is cancelled
                left = batches.abandon()
                if self._task is not None:
                    self._task.cancel()
                self._changed.notify_all()
                if left:
                    try:
                        await self._return(left)
                    except Exception as error:
                        raise NotTaken(left) from error
                    batches.taken_back()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        return batches.totals

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work(), name="huizhi registrar")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _work(self) -> None:
        batches = self._batches
        while batch := await self._next():
            try:
                answer: Registered | Exception = await self._client.register(batch)
            except Exception as error:
                answer = error
            async with self._changed:
                try:
                    if back := batches.settle(answer, time.monotonic()):
                        await self._return(back)
                        batches.taken_back()
                except Exception as error:
                    batches.broken = error
                self._changed.notify_all()

    async def _next(self) -> list[Sent]:
        """Wait for the next batch; an empty one says that it is over."""
        batches = self._batches
        async with self._changed:
            while not batches.over:
                due = batches.due_in(time.monotonic())
                if due == 0:
                    return batches.take()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due):
                        await self._changed.wait()
        return []

    async def _return(self, back: list[Unregistered]) -> None:
        waited = self._hand_back(back)
        if inspect.isawaitable(waited):
            await waited

    async def _wait_for(self, reached: Callable[[], bool], timeout_seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._changed.wait_for(reached)
