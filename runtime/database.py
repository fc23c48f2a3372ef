"""The way to PostgreSQL: where it is, pools, and where the driver's errors become ours."""

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import msgspec
import structlog
from asyncpg import exceptions

from gateways.gateway import Secret
from runtime import DatabaseUnavailable, DatabaseUnusable, Problem, migrate
from runtime.embedded import OLDEST_MAJOR, Embedded
from runtime.queries import CITUS, QUERIES
from runtime.settings import Settings

# What driver and server raise while the database is away, full, failing over, or undid a
# transaction: the same work can succeed later. Nothing was committed, or the commit's answer was
# lost: do again only what is idempotent.
DATABASE_ERRORS: tuple[type[Exception], ...] = (
    DatabaseUnavailable,
    OSError,
    exceptions.InterfaceError,
    exceptions.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
CONNECT_SECONDS = 10
# How long a server may take to hear that a statement is not wanted any more.
CANCEL_SECONDS = 5.0
# As we have the server do, but for two minutes: the last, in milliseconds, overrules the count on Linux. It also
# bounds how long what was sent may go unreceived, or unread by a server that is busy.
_KEEPALIVE = {
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 120_000,
}
# Some hold a connection while they work with another, and keep their lease by a third.
_WORK_NEEDS = 3

# In a command's own work an OSError may be about a file of the user's.
_WITHIN: tuple[type[Exception], ...] = (
    *(error for error in DATABASE_ERRORS if error is not OSError),
    ConnectionError,
)

_LONGEST_PAUSE_SECONDS = 10.0

log = structlog.get_logger()


class _Connection(asyncpg.Connection):
    """A connection on which nobody waits without end: neither for a network nor for a server that hangs.

    The driver would wait for an answer, also to a cancelled statement, for as long as the server's machine
    is there, and never ask whether it is.
    """

    __slots__ = ()

    def __init__(self, protocol: Any, transport: Any, *arguments: Any) -> None:
        super().__init__(protocol, transport, *arguments)
        socket_ = transport.get_extra_info("socket")
        if socket_ is not None and socket_.family != socket.AF_UNIX:
            socket_.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                # Linux has them all, other systems some.
                if hasattr(socket, name):
                    socket_.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    async def _cancel(self, *waiters: Any) -> None:
        try:
            async with asyncio.timeout(CANCEL_SECONDS) as patience:
                await super()._cancel(*waiters)  # type: ignore[no-untyped-call]
        finally:
            # The driver keeps being broken off to itself.
            if patience.expired():
                self.terminate()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Where the database is and how to talk to it: a value that can go to other processes.

    Each connection takes `role`, if one is given, where its log-in may; else it is said once.
    """

    dsn: Secret
    name: str  # what PostgreSQL calls us in pg_stat_activity
    pool_size: int = 10
    statement_cache: int = 256
    role: str | None = None

    @property
    def place(self) -> str:
        """Host, port and database for people to read, without user and password."""
        parts = urlsplit(self.dsn.reveal())
        host = parts.netloc.rpartition("@")[2] or parse_qs(parts.query).get("host", [""])[0]
        return f"{host}{parts.path}" if not host.startswith("/") else host

    @property
    def work_pool_size(self) -> int:
        """How many connections commands and jobs may have: `pool_size`, or what they cannot do without."""
        return max(self.pool_size, _WORK_NEEDS)

    @asynccontextmanager
    async def pool(self, *, size: int | None = None) -> AsyncIterator[Any]:
        """Yield an asyncpg pool of up to `size` connections, each opened when first needed.

        So it opens while the database is away; what the pool is used for then raises one of
        `DATABASE_ERRORS`. Session state (SET, LISTEN, session locks) is not cleared between users:
        a pooled connection is for transactions. Give it back within the loop that opened it.
        """
        with self._explained():
            pool = await asyncpg.create_pool(  # type: ignore[no-untyped-call]
                **self._arguments(),
                min_size=0,
                max_size=size or self.pool_size,
                init=self._prepare,
                reset=_nothing,
            )
        try:
            yield pool
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await pool.close()
            pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Yield a connection of its own; raises `DatabaseUnavailable` or `DatabaseUnusable`."""
        with self._explained():
            connection = await asyncpg.connect(  # type: ignore[no-untyped-call]
                **self._arguments()
            )
            await self._prepare(connection)
        try:
            major = connection.get_server_version().major
            if major < OLDEST_MAJOR:
                raise DatabaseUnusable(
                    f"{self.place} is PostgreSQL {major}; Huizhi needs {OLDEST_MAJOR} or newer"
                )
            yield connection
        finally:
            with contextlib.suppress(*DATABASE_ERRORS):
                await connection.close(timeout=CONNECT_SECONDS)

    async def ready(self, *, patience_seconds: float | None = None) -> None:
        """Return once the database takes connections, asking with growing pauses of at most 10 s.

        None is patience without end. Raises `DatabaseUnavailable` when patience is over, and
        `DatabaseUnusable` at once.
        """
        started, pause = time.monotonic(), 0.1
        while True:
            try:
                async with self.connection():
                    return
            except DatabaseUnavailable as error:
                waited = time.monotonic() - started
                if patience_seconds is not None and waited + pause > patience_seconds:
                    raise
                log.warning("database.waiting", reason=str(error), again_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _arguments(self) -> dict[str, Any]:
        return {
            "dsn": self.dsn.reveal(),
            "connection_class": _Connection,
            "timeout": CONNECT_SECONDS,
            "statement_cache_size": self.statement_cache,
            "server_settings": {"application_name": self.name, "timezone": "UTC"},
        }

    async def _prepare(self, connection: Any) -> None:
        if await connection.fetchval(QUERIES["lose_patience"]):
            # A process has one database. One of several servers takes other words.
            QUERIES.replace(CITUS)
            await connection.execute(QUERIES["see_alike"])
        await connection.set_type_codec(
            "jsonb",
            schema="pg_catalog",
            format="binary",
            encoder=_encode_jsonb,
            decoder=_decode_jsonb,
        )
        if self.role is None:
            return
        if await connection.fetchval(QUERIES["become"], self.role) is None:
            _say_all_rights(self.name, self.role)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Problem:
            raise
        except Exception as error:
            raise explained(error, self.place) from error


@contextmanager
def server(settings: Settings) -> Iterator[Embedded | None]:
    """Start, or attach to, the embedded server; None where settings name a database.

    Enter it in the main thread. A process that stays keeps `Embedded.keep` running.
    """
    if settings.database.url is not None:
        yield None
        return
    embedded = Embedded(settings.data_dir)
    try:
        embedded.start()
        yield embedded
    finally:
        embedded.stop()


def of(
    settings: Settings, embedded: Embedded | None, name: str, *, role: str | None = None
) -> Database:
    """Describe the database that `settings` name, or else the one that `embedded` runs.

    Behind PgBouncer, which hands one connection to many, no role is taken.
    """
    url = settings.database.url
    if url is None:
        assert embedded is not None
        url = Secret(embedded.dsn)
    return Database(
        dsn=url,
        name=f"huizhi {name}",
        pool_size=settings.database.pool_size,
        statement_cache=settings.database.statement_cache,
        role=role if settings.database.statement_cache else None,
    )


@asynccontextmanager
async def connected(settings: Settings, name: str) -> AsyncIterator[Any]:
    """Yield a pool for one command: an embedded server is started if need be, and stopped after.

    Raises `DatabaseUnavailable` or `DatabaseUnusable` at once where a service would wait, and when
    the database goes away within.
    """
    with server(settings) as embedded:
        database = of(settings, embedded, name)
        # One that we attached to may just have been stopped by its owner.
        await database.ready(patience_seconds=0 if embedded is None or embedded.owner else 5)
        async with database.connection() as connection:
            # A server of ours nobody else migrates; at another's, that is said and not done.
            await (migrate.check if embedded is None else migrate.migrate)(connection)
        async with database.pool(size=database.work_pool_size) as pool:
            try:
                yield pool
            except _WITHIN as error:
                raise explained(error, database.place) from error


def explained(error: Exception, place: str) -> Problem:
    """Say in one line what `error`, met on the way to `place`, means; never quotes a password."""
    match error:
        case asyncpg.InvalidAuthorizationSpecificationError():
            return DatabaseUnusable(f"PostgreSQL at {place} refuses the user or the password")
        case asyncpg.InvalidCatalogNameError():
            return DatabaseUnusable(f"PostgreSQL at {place} has no such database")
        case asyncpg.CannotConnectNowError():
            return DatabaseUnavailable(f"PostgreSQL at {place} is starting or stopping")
        case socket.gaierror():
            return DatabaseUnavailable(f"the host of PostgreSQL at {place} cannot be found")
        case TimeoutError():
            return DatabaseUnavailable(f"PostgreSQL at {place} does not answer")
        case ConnectionRefusedError() | FileNotFoundError():
            return DatabaseUnavailable(f"no PostgreSQL listens at {place}")
        case exceptions.ClientConfigurationError() | ValueError():
            # Its text may quote the address, and with it the password.
            return DatabaseUnusable(
                "DATABASE_URL, or [database] url, is no address that PostgreSQL understands"
            )
        case (
            ConnectionError()
            | exceptions.InterfaceError()
            | asyncpg.PostgresConnectionError()
            | asyncpg.AdminShutdownError()
            | asyncpg.CrashShutdownError()
        ):
            return DatabaseUnavailable(f"the connection to PostgreSQL at {place} was lost")
        case OSError():
            reason = error.strerror or type(error).__name__
            return DatabaseUnavailable(f"PostgreSQL at {place} cannot be reached: {reason}")
        case _:
            return DatabaseUnavailable(f"PostgreSQL at {place}: {type(error).__name__}: {error}")


@functools.cache
def _say_all_rights(process: str, role: str) -> None:
    log.warning("database.all_rights", process=process, lacking=role)


def _encode_jsonb(value: Any) -> bytes:
    return b"\x01" + msgspec.json.encode(value)  # the version of jsonb's binary format


def _decode_jsonb(data: bytes) -> Any:
    return msgspec.json.decode(memoryview(data)[1:])


async def _nothing(_: Any) -> None:
    """Instead of asyncpg's RESET ALL: it would cost a round trip each time a connection is used."""
