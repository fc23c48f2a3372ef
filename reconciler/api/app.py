"""The API's application: its routes, and what lives as long as it does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, MediaType, Router
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.routes import BaseRoute
from litestar.types import ControllerRouterHandler

from gateways.http import open_client
from reconciler import dashboard, erasure
from reconciler.api import (
    audit,
    balances,
    callbacks,
    credits,
    discrepancies,
    erasures,
    evidence,
    health,
    inbound,
    messages,
    reconciliations,
    reviews,
    statements,
    suspects,
    watching,
)
from reconciler.api.access import READER, Authorized, permitted
from reconciler.api.lists import declare_files
from reconciler.api.problems import HANDLERS
from reconciler.jobs import holder, jobs_of
from reconciler.poll import Caller, callers
from reconciler.recorded import Recorded
from reconciler.tokens import Doorkeeper
from runtime import metrics
from runtime.database import Database
from runtime.settings import Settings, api_token

_AUDITS = 4  # billing audit queries at once; others wait their turn


def create_app(
    settings: Settings,
    database: Database,
    *,
    jobs: Callable[[Any, Mapping[str, Caller]], Any] | None = None,
) -> Litestar:
    """Make the application; `jobs(pool, callers)` gives the async context manager that runs beside it."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with database.pool(size=database.work_pool_size) as pool, open_client() as http:
            app.state.pool = pool
            app.state.callers = callers(settings, pool, http, recorder=holder())
            scheduled = jobs_of(settings, app.state.callers)
            app.state.schedule = [(job.name, job.account, job.every_seconds) for job in scheduled]
            metrics.begin_reconciler(settings.accounts, [job.lease_name for job in scheduled])
            app.state.erasing = erasure.Erasing()
            try:
                if jobs is None:
                    yield
                else:
                    async with jobs(pool, app.state.callers):
                        yield
            finally:
                await app.state.erasing.end()

    doorkeeper = Doorkeeper(api_token(settings))
    app = Litestar(
        [
            *messages.ROUTES,
            *callbacks.ROUTES,
            *statements.ROUTES,
            *reconciliations.ROUTES,
            *audit.ROUTES,
            *evidence.ROUTES,
            *discrepancies.ROUTES,
            *credits.ROUTES,
            *erasures.ROUTES,
            *reviews.ROUTES,
            *inbound.ROUTES,
            *balances.ROUTES,
            *suspects.ROUTES,
            *watching.ROUTES,
            *health.ROUTES,
        ],
        lifespan=[lifespan, dashboard.lifespan],
        guards=[permitted],
        middleware=[DefineMiddleware(Recorded, via="api", asker=lambda scope: scope["user"])],
        state=State(
            {
                "settings": settings,
                "database": database,
                # Each on a connection of its own: a minute's question holds up no job and no list.
                "audits": asyncio.Semaphore(_AUDITS),
            }
        ),
        exception_handlers=HANDLERS,
        openapi_config=OpenAPIConfig(
            title="Huizhi",
            version="1",
            # The document itself, and no page: pages of that kind load scripts from other hosts.
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
            openapi_router=_Documents(
                "/schema", route_handlers=[], include_in_schema=False, opt=READER["opt"]
            ),
            use_handler_docstrings=True,
            components=Components(
                security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}
            ),
            security=[{"token": []}],
        ),
        logging_config=None,  # ours stands
        debug=False,
    )
    declare_files(app)
    # Around everything: Litestar's own middleware stands behind the look-up of the path.
    guarded = Authorized(app, doorkeeper)
    app.asgi_handler = dashboard.Front(app, guarded, doorkeeper)
    return app


class _Documents(Router):
    """Leaves out the page that Litestar has for what is not there: it is a problem, as everywhere."""

    def register(self, value: ControllerRouterHandler) -> list[BaseRoute]:
        if isinstance(value, HTTPRouteHandler) and value.media_type == MediaType.HTML:
            return []
        return super().register(value)
