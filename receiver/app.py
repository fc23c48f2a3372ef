"""The receiver's web application: callbacks, two health answers, and 404 for all else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from litestar import Litestar, MediaType, Response, get
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from receiver.callbacks import Callbacks, not_found
from receiver.ingest import Ingest
from receiver.spool import Spool
from runtime import metrics
from runtime.database import Database
from runtime.settings import Settings

PROBE_SECONDS = 2.0
_HEALTH = frozenset({b"/health/live", b"/health/ready"})


def create_app(
    settings: Settings, database: Database, spool: Spool, *, recorder: str
) -> "Receiver":
    """Make the application; its lifespan opens the pool, and stores and settles what waits at its end."""
    state: dict[str, Any] = {}

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with (
            database.pool() as pool,
            Ingest(pool, settings.accounts, spool, recorder=recorder) as ingest,
        ):
            state["ingest"] = ingest
            metrics.begin_receiver(settings.accounts)
            receiver.callbacks = Callbacks(settings, ingest)
            yield

    @get("/health/live", media_type=MediaType.JSON, sync_to_thread=False)
    def live() -> dict[str, str]:
        return {"status": "live"}

    @get("/health/ready", media_type=MediaType.JSON)
    async def ready() -> Response[dict[str, Any]]:
        """Say where a callback would go now, and what the spool holds."""
        ingest: Ingest = state["ingest"]
        database = not ingest.away and await ingest.probe()
        spool: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                spool = msgspec.to_builtins(await ingest.measure())
                takes = database or await ingest.spool_takes()
        except OSError:  # and TimeoutError
            takes = database
        return Response(
            {
                "status": "ready" if takes else "cannot store",
                "database": "ready" if database else "away",
                "spool": spool,
            },
            status_code=200 if takes else 503,
        )

    app = Litestar(
        [live, ready],
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,  # ours stands
        debug=False,
    )
    receiver = Receiver(app)
    return receiver


class Receiver:
    """The application, which lets through what this port answers, spelled just so, and nothing else.

    `callbacks` is there once it has started. Litestar by itself also answers OPTIONS, doubled
    slashes, and paths that only begin alike; and it refuses some hosts, which nobody here asks for.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.callbacks: Callbacks | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            path = scope["raw_path"]
            if path.startswith(b"/callbacks/"):
                assert self.callbacks is not None
                await self.callbacks(scope, receive, send)
                return
            if path not in _HEALTH or scope["method"] != "GET":
                await not_found(send)
                return
        await self._app(scope, receive, send)
