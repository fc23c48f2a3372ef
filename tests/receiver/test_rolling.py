"""Receivers that share a port are restarted one after another, and no request fails by that."""

import asyncio
import contextlib
import itertools
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from by_hand import Answer, Connection, report, request
from receivers import Receiver

from runtime.database import Database
from runtime.serving import LINGER_SECONDS
from runtime.sockets import free_ports

pytestmark = pytest.mark.anyio

THINK = "/callbacks/think/think-token"
RESTARTS = 4


class Load:
    """Clients that push at one port, and note every request of which they saw no answer.

    Half of them keep their connection for as long as they are let, half open one for each request.
    """

    def __init__(self, port: int, clients: int = 12) -> None:
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self.acknowledged: set[str] = set()
        self._port = port
        self._clients = clients
        self._numbers = itertools.count()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [
            asyncio.create_task(self._push(random.Random(number), keep=number % 2 == 0))
            for number in range(self._clients)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _push(self, chance: random.Random, *, keep: bool) -> None:
        while not self._stop.is_set():
            asked = False
            try:
                async with Connection(self._port) as connection:
                    while not self._stop.is_set():
                        # Ended between two requests, as any client may find it.
                        if connection.reader.at_eof():
                            break
                        id, asked = f"roll-{next(self._numbers)}", True
                        told = await connection.ask(request(THINK, report(id)))
                        asked = False
                        self.answers.append(told)
                        if told.status == 200:
                            self.acknowledged.add(id)
                        if not keep or told.header("connection") == "close":
                            break
                        await asyncio.sleep(chance.random() * 0.05)
            except (OSError, EOFError) as error:
                self.failures.append(f"{'unanswered' if asked else 'refused'}: {error!r}")


async def _listens(receiver: Receiver) -> None:
    """Wait until one of several on a port is up; connecting would not tell which one it is."""
    async with asyncio.timeout(60):
        while "server.listening" not in receiver.log.read_text():
            assert receiver.process.poll() is None, receiver.log.read_text()
            await asyncio.sleep(0.02)


async def _refuses(receiver: Receiver) -> None:
    """Wait until nobody can connect any more."""
    async with asyncio.timeout(30):
        with contextlib.suppress(OSError):
            while True:
                async with Connection(receiver.port):
                    pass


async def test_each_of_two_is_restarted_under_load_and_every_request_is_answered(
    shared: Database, start: Callable[..., Receiver], rows: Any
) -> None:
    (port,) = free_ports(1)
    running = [start(shared, port=port), start(shared, port=port)]
    async with Load(port) as load:
        for receiver in running:
            await _listens(receiver)
        for _ in range(RESTARTS):
            old = running.pop(0)
            old.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(old.process.wait, 30) in (0, -signal.SIGTERM)
            new = start(shared, port=port)
            await _listens(new)
            running.append(new)
    assert load.failures == []
    assert {answer.status for answer in load.answers} == {200}
    stored = await rows.fetchval("SELECT count(*) FROM records WHERE body LIKE '%roll-%'::bytea")
    assert stored == len(load.acknowledged) == len(load.answers)


async def test_what_was_sent_to_one_that_ends_is_answered_and_the_connection_then_closed(
    shared: Database, start: Callable[..., Receiver]
) -> None:
    receiver = start(shared)
    async with (
        Connection(receiver.port) as used,
        Connection(receiver.port) as begun,
        Connection(receiver.port) as other,
        Connection(receiver.port) as idle,
    ):
        for each in (used, begun, other, idle):
            told = await each.ask(request(THINK, report("before")))
            assert (told.status, told.header("connection")) == (200, None)
        whole = request(THINK, report("in two parts"))
        await begun.send(whole[:40])
        receiver.process.send_signal(signal.SIGTERM)
        ended = time.monotonic()
        # Nobody can connect any more; and a second signal changes nothing.
        await _refuses(receiver)
        receiver.process.send_signal(signal.SIGTERM)
        await begun.send(whole[40:])
        for told in (
            await used.ask(request(THINK, report("after"))),
            await begun.answer(),
        ):
            assert (told.status, told.header("connection")) == (200, "close")
        # The long way as well.
        told = await other.ask(request("/health/live", method="GET"))
        assert (told.status, told.header("connection")) == (200, "close")
        for each in (used, begun, other, idle):
            assert await asyncio.wait_for(each.reader.read(), 30) == b""
        assert time.monotonic() - ended >= LINGER_SECONDS * 0.9
    assert await asyncio.to_thread(receiver.process.wait, 30) in (0, -signal.SIGTERM)
