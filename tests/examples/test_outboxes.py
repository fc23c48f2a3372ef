"""The outbox examples as they are run: killed at the worst moments, against a real Huizhi."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from serving import TOKEN, Api

from huizhi.client import Huizhi
from runtime.database import Database
from runtime.sockets import free_ports

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TEXTS = 5


def until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (said := true()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return said


class Example:
    """One of the applications with its database."""

    def __init__(self, name: str, dsn: str, api: Api) -> None:
        self.folder = EXAMPLES / f"outbox_{name}"
        self.name = name
        self._dsn = dsn
        self._port = 0
        self._running: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DATABASE_URL": dsn,
            "HUIZHI_URL": api.url,
            "HUIZHI_API_TOKEN": TOKEN,
        }
        if name == "django":
            self._run("manage.py", "migrate", "--verbosity", "0")

    def start(self) -> subprocess.Popen[bytes]:
        """Begin to drain."""
        if self.name == "fastapi":
            (self._port,) = free_ports(1)
            started = self._popen("-m", "uvicorn", "app:app", "--port", str(self._port))
            until(self._listening)
            return started
        commands = {"psycopg": ("outbox.py", "drain"), "django": ("manage.py", "drain_outbox")}
        return self._popen(*commands[self.name])

    def add(self, numbers: range) -> None:
        """Commit texts of the application; FastAPI's has to run for that."""
        for number in numbers:
            text = (f"order {number}", f"id-{number}", "13800138000", "您的订单已发货")
            if self.name == "fastapi":
                names = ("order", "vendor_message_id", "phone", "content")
                told = httpx.post(
                    f"http://127.0.0.1:{self._port}/texts",
                    json=dict(zip(names, text, strict=True)),
                    timeout=30,
                )
                assert told.status_code == 201, told.text
            elif self.name == "psycopg":
                self._run("outbox.py", "add", *text)
        if self.name == "django":
            code = "from shop.texts import texted\n" + "".join(
                f"texted('order {number}', 'id-{number}', '13800138000', '您的订单已发货')\n"
                for number in numbers
            )
            self._run("manage.py", "shell", "-c", code)

    def add_and_start(self, numbers: range) -> subprocess.Popen[bytes]:
        if self.name == "fastapi":
            started = self.start()
            self.add(numbers)
            return started
        self.add(numbers)
        return self.start()

    def ask(self, question: str) -> int:
        async def asked() -> int:
            connection = await asyncpg.connect(self._dsn)
            try:
                return int(await connection.fetchval(question))
            finally:
                await connection.close()

        return asyncio.run(asked())

    def waiting(self) -> int:
        return self.ask("SELECT count(*) FROM outbox WHERE rejected IS NULL")

    def drained(self) -> bool:
        """Run again until nothing waits, as a supervisor would."""
        if self.name != "fastapi" and self.waiting():
            assert self.start().wait(60) == 0
        return self.waiting() == 0

    def end(self) -> None:
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def _run(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder, env=self._environment, check=True, timeout=60,
        )  # fmt: skip

    def _popen(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=self.folder, env=self._environment
        )
        self._running.append(process)
        return process

    def _listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


@pytest.fixture(params=["psycopg", "fastapi", "django"])
def example(
    request: pytest.FixtureRequest, empty_database: Database, served: Api
) -> Iterator[Example]:
    made = Example(request.param, empty_database.dsn.reveal(), served)
    yield made
    made.end()


def registered(api: Api) -> list[str]:
    """What Huizhi knows, by its own ids of the orders; each message once for each time it is there."""
    with Huizhi(api.url, TOKEN) as huizhi:
        return sorted(str(message.reference) for message in huizhi.messages())


ORDERS = [f"order {number}" for number in range(TEXTS)]


class Hold:
    """Holds a request of the application, so that it can be killed in the middle of it."""

    def __init__(self) -> None:
        self._reached, self._go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._go_on.wait(60)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        assert self._reached.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self._go_on.set()


def test_crash_between_the_commit_and_the_registration_loses_nothing(
    example: Example, served: Api
) -> None:
    hold = Hold()
    served.before.append(hold)
    served.faults.append(503)
    process = example.add_and_start(range(TEXTS))
    hold.kill(process)
    assert example.waiting() == example.ask("SELECT count(*) FROM " + orders(example)) == TEXTS
    assert registered(served) == []
    if example.name == "fastapi":
        example.start()
    until(example.drained)
    assert registered(served) == ORDERS


def test_crash_between_the_registration_and_its_commit_doubles_nothing(
    example: Example, served: Api
) -> None:
    hold = Hold()
    served.faults.append(hold)
    process = example.add_and_start(range(TEXTS))
    hold.kill(process)
    assert example.waiting() == TEXTS
    assert registered(served) in (ORDERS, ORDERS[:1])  # FastAPI's begins with the first
    if example.name == "fastapi":
        example.start()
    until(example.drained)
    assert registered(served) == ORDERS


def test_while_huizhi_is_away_the_outbox_keeps_everything(example: Example, served: Api) -> None:
    served.stop()
    process = example.add_and_start(range(3))
    example.add(range(3, TEXTS))
    assert example.waiting() == TEXTS
    served.start()
    if example.name != "fastapi":
        assert process.wait(60) == 0  # it had patience
    until(example.drained)
    assert registered(served) == ORDERS


def test_what_huizhi_rejects_stays_with_its_reason_and_holds_up_nothing(
    example: Example, served: Api
) -> None:
    process = example.add_and_start(range(1))
    until(example.drained)
    wrong = "INSERT INTO outbox (account, vendor_message_id, phone, sent_at, reference) VALUES"
    example.ask(f"{wrong} ('nobody', 'x', '13800138000', now(), 'wrong') RETURNING 1")
    example.ask(f"{wrong} ('think-main', 'y', '13800138000', now(), 'right') RETURNING 1")
    if example.name != "fastapi":
        process.wait(60)
    until(example.drained)
    assert registered(served) == ["order 0", "right"]
    question = "SELECT count(*) FROM outbox WHERE rejected = 'unknown account'"
    assert example.ask(question) == example.ask("SELECT count(*) FROM outbox") == 1


def test_several_drains_at_once_register_each_row_once(example: Example, served: Api) -> None:
    first = example.start() if example.name == "fastapi" else None
    example.add(range(TEXTS))
    others = [example.start() for _ in range(2)]
    until(example.drained)
    assert registered(served) == ORDERS
    if first is None:
        assert [process.wait(60) for process in others] == [0, 0]


def orders(example: Example) -> str:
    return "shop_order" if example.name == "django" else "orders"
