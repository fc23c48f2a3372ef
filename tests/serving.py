"""The reconciler's API on a real port, in a thread, with faults between it and its caller."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from reconciler.api import create_app
from runtime.database import Database
from runtime.settings import parse
from runtime.sockets import bind

TOKEN = "a-token-of-the-api"
SETTINGS = f"""
data_dir = "data"
[reconciler]
api_token = "{TOKEN}"
[accounts.think-main]
gateway = "thinkapi"
base_url = "http://127.0.0.1:9"
credentials = {{ app_code = "code" }}
[[accounts.think-main.tariffs]]
from = 2026-01-01
price = "0.035"
"""


class Api:
    """`create_app` behind uvicorn on one port, which it keeps over `stop` and `start`.

    `faults` are taken by the next requests, one each: a status (answered in its place, with Retry-After
    0), "cut" (done, but the answer breaks off), or a function that is called when it was done and
    before it is answered. `requests` counts all that came.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self.faults: deque[int | str | Callable[[], Any]] = deque()
        self.before: deque[Callable[[], Any]] = deque()
        self.requests = 0
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        # With the rights that it has where `huizhi` starts it.
        database = replace(self._database, role="huizhi_reconciler")
        app = create_app(parse(SETTINGS, self._folder / "huizhi.toml", {}), database)

        async def faulty(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            self.requests += 1
            if self.before:
                self.before.popleft()()
            fault = self.faults.popleft() if self.faults else None
            if isinstance(fault, int):
                headers = [(b"retry-after", b"0"), (b"content-length", b"0")]
                await send({"type": "http.response.start", "status": fault, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
            answers: list[Any] = []

            async def keep(message: Any) -> None:
                answers.append(message)

            await app(scope, receive, send if fault is None else keep)
            if fault == "cut":
                answers[1]["body"] = answers[1]["body"][:5]
            elif callable(fault):
                fault()
            for message in answers:
                await send(message)

        bound = bind("127.0.0.1", self.port)
        self.port = bound.getsockname()[1]
        config = uvicorn.Config(
            faulty, log_config=None, access_log=False, timeout_graceful_shutdown=5
        )
        self._server = uvicorn.Server(config)
        up = threading.Event()
        startup = self._server.startup

        async def started(sockets: Any = None) -> None:
            await startup(sockets)
            up.set()

        self._server.startup = started  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.run, args=([bound],))
        self._thread.start()
        assert up.wait(30)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()
