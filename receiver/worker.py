"""One receiver process: a server on a port that other workers may share.

Start order: socket, application (pool, writers), then accepting. Stop order, on SIGTERM: stop
accepting, answer what is under way, commit and settle what waits, close the pool.
"""

import gc
import os
import socket

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from receiver.app import create_app
from runtime.database import Database
from runtime.settings import Settings

DRAIN_SECONDS = 15
HEAD_BYTES = 65_536


def run(settings: Settings, database: Database, bound: socket.socket) -> None:
    """Serve callbacks on `bound` until SIGTERM or SIGINT."""
    app = create_app(settings, database, recorder=f"{socket.gethostname()}:{os.getpid()}")
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=_BoundedHead,
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
    gc.set_threshold(50_000, 20, 100)
    uvicorn.Server(config).run(sockets=[bound])


class _BoundedHead(HttpToolsProtocol):
    """uvicorn's protocol, which by itself keeps a request line and headers of any length in memory."""

    _head: int | None = 0  # bytes of the head so far; None within a body

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
            if self._head > HEAD_BYTES + len(data):
                self.send_400_response("The head of the request is too long.")
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head = 0
        super().on_message_complete()
