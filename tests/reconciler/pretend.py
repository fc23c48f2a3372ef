"""Vendors faked at the network: a real HTTP server that answers as a test says, and settings for it."""

import asyncio
import contextlib
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo

from runtime.settings import Settings, load


@dataclass
class Answer:
    """What a request is answered with; `cut` sends only so many bytes of the body, then hangs up."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    after: Callable[[], None] | None = None


@dataclass
class Vendor:
    """A server on a port of its own; `answer` gets path and parameters of each request."""

    answer: Callable[[str, dict[str, str]], Answer]
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def ask(self, path: str, params: dict[str, str]) -> Answer:
        self.requests.append((path, params))
        return self.answer(path, params)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


@contextlib.contextmanager
def serving(answer: Callable[[str, dict[str, str]], Answer]) -> Iterator[Vendor]:
    """Serve a vendor until the block ends."""
    vendor = Vendor(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(b"")

        def do_POST(self) -> None:
            self._reply(self.rfile.read(int(self.headers["content-length"])))

        def _reply(self, body: bytes) -> None:
            parts = urlsplit(self.path)
            params = dict(parse_qsl(parts.query) + parse_qsl(body.decode()))
            answer = vendor.ask(parts.path, params)
            self.send_response(answer.status)
            self.send_header("content-length", str(len(answer.body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body[: answer.cut])
            self.wfile.flush()
            if answer.after is not None:
                answer.after()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    vendor.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield vendor
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def settings(folder: Path, url: str, **account: Any) -> Settings:
    """Settings with two accounts at `url`: "api" at ThinkAPI, "sms" at thinksms."""
    common = {"base_url": url, "requests_per_second": 1000, **account}
    lines = []
    for name, gateway, credentials in (
        ("api", "thinkapi", '{ app_code = "code" }'),
        ("sms", "thinksms", '{ user_id = "7", account = "me", password = "hush" }'),
    ):
        lines += [f"[accounts.{name}]", f'gateway = "{gateway}"', f"credentials = {credentials}"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in common.items()]
    file = folder / "huizhi.toml"
    file.write_text('data_dir = "data"\n' + "\n".join(lines), "utf-8")
    return load(file, env={})


def state(id: str, phone: str, status: int, at: str | None = None) -> Answer:
    """ThinkAPI's reply to query_status."""
    data = {"id": id, "phone": phone, "status": status, "message": "", "receiveDate": at}
    return Answer(json.dumps({"code": 0, "message": "ok", "data": data}).encode())


def refusal(code: int, words: str) -> Answer:
    """ThinkAPI's no."""
    return Answer(json.dumps({"code": code, "message": words}).encode())


def page(rows: list[str]) -> bytes:
    """thinksms' page of reports: a delivered message to each phone of `rows`, task id "t" + phone."""
    boxes = "".join(
        f"<statusbox><mobile>{row}</mobile><taskid>t{row}</taskid><status>10</status>"
        "<receivetime>2026-10-02 11:00:00</receivetime><errorcode>DELIVRD</errorcode></statusbox>"
        for row in rows
    )
    return f'<?xml version="1.0" encoding="utf-8"?><returnsms>{boxes}</returnsms>'.encode()


OVERAGE = (
    "<returnsms><returnstatus>Sucess</returnstatus><message></message><payinfo>预付费</payinfo>"
    "<overage>100</overage><sendTotal>500</sendTotal></returnsms>"
).encode()


class Box:
    """The reports that thinksms holds for us: each handed out once. Counts readers that overlap."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self.waiting = [f"139{number:08}" for number in range(count)]
        self.pages: list[list[str]] = []
        self.overlaps = 0

    def answer(self, path: str, params: dict[str, str]) -> Answer:
        if path == "/callApi.aspx":
            return Answer(page([]))
        if path == "/sms.aspx":
            return Answer(OVERAGE)
        with self._lock:
            self._readers += 1
            self.overlaps += self._readers > 1
            limit = int(params["statusNum"])
            taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
            self.pages.append(taken)
        return Answer(page(taken), after=self._read)

    def _read(self) -> None:
        with self._lock:
            self._readers -= 1


async def reported(pool: Any) -> list[str]:
    """The phones that there are reports of, in order."""
    rows = await pool.fetch("SELECT phone FROM reports ORDER BY phone")
    return [row["phone"] for row in rows]


async def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until `true`, a plain or async function, says so."""
    async with asyncio.timeout(seconds):
        while True:
            said = true()
            if await said if inspect.isawaitable(said) else said:
                return
            await asyncio.sleep(0.01)


def local(at: datetime) -> str:
    """`at` as vendors write it."""
    return at.astimezone(ZoneInfo("Asia/Shanghai")).strftime("%Y-%m-%d %H:%M:%S")
