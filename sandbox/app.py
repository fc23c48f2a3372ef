"""Composition: every vendor under its own path on one port, the control plane beside them."""

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from litestar import Litestar, MediaType, Response
from litestar import Request as LitestarRequest
from litestar.enums import ScopeType
from litestar.handlers import asgi
from litestar.types import ASGIApp, Receive, Scope, Send

from sandbox import truth
from sandbox.config import Config
from sandbox.control import control_routes
from sandbox.deepfinch import DeepFinch
from sandbox.delivery import Deliveries
from sandbox.exchange import BadRequest, Reply, Request, read_request, send_cut, send_reply
from sandbox.faults import RETRY_AFTER_SECONDS, reply_fault
from sandbox.itniotech import Itniotech
from sandbox.onecloudsp import OneCloudSp
from sandbox.pushes import PushClient, Schedule
from sandbox.statements import Statement, Statements
from sandbox.thinkapi import ThinkApi
from sandbox.thinksms import ThinkSms
from sandbox.vendor import Identity, Vendor
from sandbox.world import World


class _VendorPort:
    """One vendor's HTTP side: reads requests, records them, and lets faults befall the replies."""

    def __init__(self, world: World, vendor: Vendor) -> None:
        self._world = world
        self._vendor = vendor
        self._attempts: Counter[str] = Counter()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            return
        vendor, world = self._vendor, self._world
        path = "/" + scope["path"].removeprefix(f"/{vendor.name}").strip("/")
        request = await read_request(scope, receive, path, vendor.charset(path))
        world.counts["requests"] += 1
        identity = vendor.identify(request)
        world.requests.append((vendor.name, identity.account if identity else "", request))
        if request.body and not request.form and not vendor.reads_json:
            world.violation(request, vendor.name, path, "body", "not a form")
        if identity is None:
            world.violation(request, vendor.name, path, path, "no such path")
            await send_reply(send, Reply(b"404 Not Found", b"text/plain", 404))
            return
        try:
            await self._answer(request, identity, send)
        except BadRequest as error:
            await send_reply(send, Reply(str(error).encode(), b"text/plain", 400))

    async def _answer(self, request: Request, identity: Identity, send: Send) -> None:
        vendor, world = self._vendor, self._world
        account = vendor.accounts.get(identity.account)
        rates = world.faults_of(account) if account else world.settings.faults
        thing = f"{vendor.name}/{identity.account}/{identity.key}"
        self._attempts[thing] += 1
        attempt = self._attempts[thing]
        name = f"{thing}/{attempt}"
        fault = reply_fault(world.chance, rates, name, identity.kind)
        if identity.kind == "send" and world.cuts_ordered[vendor.name, identity.account]:
            world.cuts_ordered[vendor.name, identity.account] -= 1
            fault = "reply_cut"
        if fault is None:
            await send_reply(send, await vendor.answer(request, identity))
            return
        row: dict[str, Any] = {
            "type": "reply",
            "kind": fault,
            "vendor": vendor.name,
            "account": identity.account,
            "call": identity.call,
            "key": identity.key,
            "attempt": attempt,
            "lost": [],
        }
        world.reply_faults.append(row)
        if fault == "reply_429":
            retry_after = (b"retry-after", b"%d" % RETRY_AFTER_SECONDS)
            await send_reply(send, vendor.throttled(429), (retry_after,))
        elif fault == "reply_500":
            await send_reply(send, vendor.throttled(500))
        elif fault == "reply_slow":
            low, high = rates.reply_slow_seconds
            await asyncio.sleep(world.chance.between(low, high, "slow seconds", name))
            await send_reply(send, await vendor.answer(request, identity))
        else:
            await self._cut(await vendor.answer(request, identity), row, name, send)

    async def _cut(self, reply: Reply, row: dict[str, Any], name: str, send: Send) -> None:
        share = self._world.chance.between(0.1, 0.9, "cut at", name)
        length = min(int(len(reply.body) * share), len(reply.body) - 1)
        for thing, thing_name, end in reply.handed:
            thing.handed = "cut"
            thing.salvageable = end <= length
            row["lost"].append({**thing_name, "salvageable": thing.salvageable})
        for message in reply.sent_messages:
            message.reply_lost = True
            row["lost"].append(
                {"vendor_message_id": message.vendor_message_id, "phone": message.phone}
            )
        await send_cut(send, reply, length)


class Sandbox:
    """All state of one sandbox, not yet on a port."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.world = World(config)
        self.schedule = Schedule(hold=config.hold_pushes, concurrency=config.push_concurrency)
        self.client = PushClient(config.push_timeout_seconds)
        self.deliveries = Deliveries(self.world, self.schedule, self.client)
        self.statements = Statements(self.world)
        self.thinkapi = ThinkApi(self.world, self.deliveries, config.thinkapi.accounts)
        self.thinksms = ThinkSms(self.world, self.deliveries, config.thinksms.accounts)
        self.onecloudsp = OneCloudSp(self.world, self.deliveries, config.onecloudsp.accounts)
        self.itniotech = Itniotech(self.world, self.deliveries, config.itniotech.accounts)
        self.deepfinch = DeepFinch(self.world, config.deepfinch.accounts)
        self.vendors: dict[str, Vendor] = {
            vendor.name: vendor
            for vendor in (
                self.thinkapi,
                self.thinksms,
                self.onecloudsp,
                self.itniotech,
                self.deepfinch,
            )
        }
        self.statements.vendors = self.vendors

    def app(self) -> Litestar:
        handlers: list[Any] = [
            asgi(f"/{name}", is_mount=True, copy_scope=False)(_entrance(self.world, vendor))
            for name, vendor in self.vendors.items()
        ]
        handlers += control_routes(self.world, self.deliveries, self.statements, self.vendors)
        return Litestar(
            handlers,
            openapi_config=None,
            exception_handlers={BadRequest: _refuse},
            lifespan=[self._lifespan],
            logging_config=None,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Litestar) -> AsyncIterator[None]:
        self.schedule.start()
        try:
            yield
        finally:
            await self.schedule.stop()
            await self.client.close()
            if self.config.truth_path:
                truth.write(self.config.truth_path, self.world, self.statements)


def _entrance(world: World, vendor: Vendor) -> ASGIApp:
    port = _VendorPort(world, vendor)

    async def vendor_entrance(scope: Scope, receive: Receive, send: Send) -> None:
        await port.serve(scope, receive, send)

    return vendor_entrance


def _refuse(_: LitestarRequest[Any, Any, Any], error: BadRequest) -> Response[dict[str, str]]:
    return Response({"error": str(error)}, status_code=400, media_type=MediaType.JSON)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, which would break an embedding program."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


def _not_cut_on_purpose(record: logging.LogRecord) -> bool:
    return "without completing response" not in record.getMessage()


@dataclass(slots=True)
class Running:
    """A sandbox on its port."""

    sandbox: Sandbox
    port: int
    url: str
    stop: Callable[[], None]
    """Ask it to stop; `running` then ends."""
    stopped: asyncio.Task[None]

    def base_url(self, vendor: str) -> str:
        return f"{self.url}/{vendor}"

    async def release(
        self, which: str = "all", vendor: str | None = None, account: str | None = None
    ) -> dict[str, int]:
        return await self.sandbox.deliveries.release(which, vendor, account)

    def truth(self, *types: str) -> list[dict[str, Any]]:
        return truth.rows(self.sandbox.world, self.sandbox.statements, frozenset(types))

    def write_statement(
        self, vendor: str, account: str, period: str, path: str | Path
    ) -> Statement:
        return self.sandbox.statements.write(vendor, account, period, str(path))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's delay (40 ms a reply) off only where the protocol is named.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


@contextlib.asynccontextmanager
async def running(config: Config) -> AsyncIterator[Running]:
    """Serve a sandbox on its own port, in this process and loop, until the block ends."""
    sandbox = Sandbox(config)
    app = sandbox.app()
    listener = _listen(config.host, config.port)
    server = _Server(
        uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            log_config=None,
            lifespan="on",
            timeout_graceful_shutdown=5,
        )
    )
    logging.getLogger("uvicorn.error").addFilter(_not_cut_on_purpose)
    port = int(listener.getsockname()[1])
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if not server.started:
        listener.close()
        await serving
        raise RuntimeError("the sandbox did not start")

    def stop() -> None:
        server.should_exit = True

    try:
        yield Running(sandbox, port, f"http://{config.host}:{port}", stop, serving)
    finally:
        stop()
        await serving
        listener.close()
