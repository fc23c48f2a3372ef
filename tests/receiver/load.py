"""Load that notes what was acknowledged, and what tests wait for."""

import asyncio
import itertools
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import databases
from by_hand import Answer, Connection, ask, report, request
from receivers import Receiver

THINK = "/callbacks/think/think-token"


async def until(true: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> Any:
    """Wait until `true` says something true, and return that."""
    async with asyncio.timeout(seconds):
        while not (said := await true()):
            await asyncio.sleep(0.01)
        return said


async def waiting_for_a_lock(connection: Any) -> bool:
    found: bool = await connection.fetchval(f"SELECT ({databases.WAITING}) > 0", "receiver")
    return found


async def all_settled(connection: Any) -> bool:
    found: bool = await connection.fetchval(
        "SELECT NOT EXISTS (SELECT FROM batches WHERE settled_at IS NULL)"
    )
    return found


class Load:
    """Clients that push callbacks without a pause and note what was acknowledged."""

    def __init__(self, *ports: int, clients: int = 8) -> None:
        self.acknowledged: set[str] = set()
        self.pushed: set[str] = set()
        self.refused: list[Answer] = []
        self._ports = ports
        self._clients = clients
        self._numbers = itertools.count()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [
            asyncio.create_task(self._push(random.Random(number)))
            for number in range(self._clients)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def grown(self, by: int) -> None:
        """Wait until so many more are acknowledged."""
        wanted = len(self.acknowledged) + by

        async def enough() -> bool:
            return len(self.acknowledged) >= wanted

        await until(enough, 30)

    async def _push(self, chance: random.Random) -> None:
        id = ""
        while not self._stop.is_set():
            try:
                async with Connection(chance.choice(self._ports)) as connection:
                    for _ in range(50):
                        id = id or f"load-{next(self._numbers)}"
                        self.pushed.add(id)
                        told = await connection.ask(request(THINK, report(id)))
                        if told.status == 200:
                            self.acknowledged.add(id)
                        else:
                            self.refused.append(told)
                        # Some vendors push again what was acknowledged.
                        id = id if chance.random() < 0.1 else ""
                        if self._stop.is_set():
                            return
            except (OSError, EOFError):
                # Nobody listened, or was killed under us: some vendors push again then, some never.
                id = id if chance.random() < 0.5 else ""
                await asyncio.sleep(0.01)


async def missing(rows: Any, load: Load) -> set[str]:
    """The acknowledged callbacks that are not in the database."""
    found = await rows.fetch("SELECT body FROM records")
    return load.acknowledged - {json.loads(row["body"])["sms"]["id"] for row in found}


async def ready(receiver: Receiver) -> dict[str, Any]:
    """What the receiver says of where a callback would go, and with which status."""
    told = await ask(receiver.port, "/health/ready", method="GET")
    said: dict[str, Any] = json.loads(told.body)
    return {"code": told.status, **said}


async def drained(receiver: Receiver) -> bool:
    """Tell whether the spool is empty and the database takes callbacks."""
    said = await ready(receiver)
    return said["database"] == "ready" and said["spool"]["bytes"] == 0
