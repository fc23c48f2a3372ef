"""Who may ask what: a token for everything but health, and a role for each route."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.exceptions import PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.types import Receive, Scope, Send

from reconciler.api.problems import ProblemDetails
from reconciler.tokens import Asker, Doorkeeper, Role
from runtime import metrics
from runtime.database import DATABASE_ERRORS

log = structlog.get_logger()


def _needs(role: Role) -> dict[str, Any]:
    """Make the part of a route's declaration that says who may ask."""
    return {"opt": {"role": role}, "security": [{"token": [role.word]}]}


READER, OPERATOR, ADMIN = _needs(Role.READER), _needs(Role.OPERATOR), _needs(Role.ADMIN)
OPEN: dict[str, Any] = {"opt": {"role": None}}  # asked without a token


# On every answer, unless it brings its own: nothing of it is for a browser to run, frame or keep.
_HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; sandbox",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


class Authorized:
    """Lets nothing through without a token, but for health: not even what does not exist."""

    def __init__(self, app: Litestar, doorkeeper: Doorkeeper) -> None:
        self._state = app.state
        self._app = app.asgi_handler
        self._doorkeeper = doorkeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            await self._app(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                brought = {name.lower() for name, _ in message["headers"]}
                added = [pair for pair in _HEADERS.items() if pair[0] not in brought]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        # Who has a session of the dashboard is known already.
        if scope["path"] not in ("/health/live", "/health/ready") and "user" not in scope:
            try:
                caller = await self._caller(scope)
            except DATABASE_ERRORS as error:
                log.error("database.away", error=type(error).__name__)
                metrics.ANSWERS_FAILED.labels("503").inc()
                problem = ProblemDetails(
                    "about:blank", "Service Unavailable", 503, "the database is away; try again"
                )
                await _say(guarded, problem, (b"retry-after", b"5"))
                return
            if caller is None:
                problem = ProblemDetails(
                    "about:blank", "Unauthorized", 401, "no API token, or another"
                )
                await _say(guarded, problem, (b"www-authenticate", b"Bearer"))
                return
            scope["user"] = caller
        await self._app(scope, receive, guarded)

    async def _caller(self, scope: Scope) -> Asker | None:
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, given = value.partition(b" ")
                if scheme.lower() != b"bearer":
                    return None
                return await self._doorkeeper.asker(
                    self._state.pool, given.strip(), now=datetime.now(UTC)
                )
        return None


async def _say(send: Any, problem: ProblemDetails, header: tuple[bytes, bytes]) -> None:
    body = msgspec.json.encode(problem)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        header,
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def permitted(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refuse a caller whose role is too small; a route that declares none is nobody's."""
    if connection.scope["method"] == "OPTIONS":  # type: ignore[typeddict-item]
        return  # Litestar's own, which says what methods there are
    if "role" not in handler.opt:
        raise PermissionDeniedException("nobody may ask this")
    if handler.opt["role"] is not None:
        require(connection.scope, handler.opt["role"])


def require(scope: Scope, role: Role) -> None:
    """Refuse a caller whose role is smaller than `role`."""
    user = scope["user"]
    if user.role < role:
        enough = " or ".join(each.word for each in Role if each >= role)
        raise PermissionDeniedException(
            f"this takes a token with the role {enough}; {user.name} has the role {user.role.word}"
        )
