"""One receiver process: a server on a port that other workers may share.

Start order: socket, spool, application (pool, writers), then accepting. Stop order, on SIGTERM: what
`runtime.serving` says, commit (or spool) and settle what waits, close the pool.
"""

import gc
import os
import socket

import uvicorn

from receiver.app import create_app
from receiver.protocol import protocol
from receiver.spool import Spool
from runtime import bounds, telemetry
from runtime.database import Database
from runtime.serving import DRAIN_SECONDS, Server
from runtime.settings import Settings


def run(settings: Settings, database: Database, bound: socket.socket) -> None:
    """Serve callbacks on `bound` until SIGTERM or SIGINT. Raises `Problem` without a spool to write."""
    spool = Spool.of(settings)
    spool.prepare()
    app = create_app(settings, database, spool, recorder=f"{socket.gethostname()}:{os.getpid()}")
    speaks = protocol(app, connections=bounds.connections())
    if (tracer := telemetry.tracer()) is not None:
        from receiver.tracing import Traced, traced

        app, speaks = Traced(app, tracer), traced(speaks, tracer)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=speaks,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        backlog=2048,
    )
    # What is loaded by now stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 5, 5)
    Server(config).run(sockets=[bound])
