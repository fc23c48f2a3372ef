"""The reconciler process: the API and, beside it, the jobs.

Start order: socket, pool, jobs, then accepting. Stop order, on SIGTERM: what `runtime.serving` says,
let running jobs finish their step and give up their leases, close the pool.
"""

import socket

import structlog
import uvicorn
from litestar import Litestar

from reconciler.api import create_app
from reconciler.jobs import Jobs
from runtime import bounds
from runtime.bounds import Bounded, Watch
from runtime.database import Database
from runtime.serving import DRAIN_SECONDS, Server
from runtime.settings import Settings

log = structlog.get_logger()


class Protocol(Bounded):
    """One connection to the API or the dashboard; a large file may come over a slow line."""

    side = "api"
    body_bytes_per_second = 16_384


def run(settings: Settings, database: Database, bound: socket.socket) -> None:
    """Serve the API on `bound`, and run the jobs, until SIGTERM or SIGINT."""
    for account, other in settings.sharing():
        log.warning("account.shares_credentials", account=account, other=other)
    app = create_app(settings, database, jobs=lambda pool, asking: Jobs(settings, pool, asking))
    server(app).run(sockets=[bound])


def server(app: Litestar) -> Server:
    """Return what serves the API as we run it."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=type("ApiProtocol", (Protocol,), {"watch": Watch(bounds.connections())}),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    return Server(config)
