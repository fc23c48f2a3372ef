"""The door of the internal port: what is a page goes to the dashboard, all else to the API."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote

import asyncpg
import structlog
from litestar import Litestar, Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, NotFoundException, PermissionDeniedException
from litestar.middleware import DefineMiddleware
from litestar.params import FromPath
from litestar.response import File
from litestar.types import ASGIApp, Receive, Scope, Send

from reconciler.actions import concerns
from reconciler.dashboard import (
    assumed,
    audits,
    callbacks,
    credits,
    discrepancies,
    jobs,
    messages,
    others,
    overview,
    reconciliation,
    suspects,
    uploads,
)
from reconciler.dashboard.access import (
    COOKIE,
    CSRF_FIELD,
    CSRF_HEADER,
    SESSION_SECONDS,
    Asker,
    Sessions,
    is_forged,
)
from reconciler.dashboard.pages import HEADERS, STATIC, asset, goes_on, is_partial, render
from reconciler.dashboard.tasks import Tasks
from reconciler.dashboard.words import COOKIE as LANGUAGE_COOKIE
from reconciler.dashboard.words import LANGUAGES
from reconciler.match import Closed
from reconciler.reading.paging import BadCursor
from reconciler.recorded import Recorded
from reconciler.tokens import Asker as TokenHolder
from reconciler.tokens import Doorkeeper
from runtime import Problem, metrics
from runtime.database import DATABASE_ERRORS
from runtime.settings import Settings, api_token

log = structlog.get_logger()

# What is shown without a session.
_OPEN = ("/login", "/language", "/static")
_OF_THE_API = ("v1", "schema", "metrics", "health")
_STATIC_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_YEAR_SECONDS = 31_536_000
_GUESS_SECONDS = 0.3


@get("/login")
async def show_login(request: Request[Any, Any, Any]) -> Response[Any]:
    """Show the log-in form, or go on for who has a session."""
    if request.scope["user"] is not None:
        return goes_on("/")
    return render(request, "login.html", next=_local(request.query_params.get("next")), wrong=False)


@post("/login", status_code=200)
async def log_in(request: Request[Any, Any, Any]) -> Response[Any]:
    """Begin a session for who gives a token of the API."""
    form = await request.form()
    to = _local(str(form.get("next") or "/"))
    sessions: Sessions = request.app.state.sessions
    cookie = await sessions.begin(
        request.app.state.pool,
        str(form.get("token") or ""),
        str(form.get("name") or ""),
        now=time.time(),
    )
    if cookie is None:
        log.warning("dashboard.log_in_refused")
        # One after the other, so that guessing a token goes slowly however many guess.
        async with request.app.state.guesses:
            await asyncio.sleep(_GUESS_SECONDS)
        return render(request, "login.html", status=403, next=to, wrong=True)
    answer = goes_on(to)
    answer.cookies.append(
        Cookie(
            key=COOKIE,
            value=cookie,
            max_age=SESSION_SECONDS,
            path="/",
            httponly=True,
            samesite="strict",
            secure=_is_secure(request),
        )
    )
    return answer


@post("/logout", status_code=200)
async def log_out(request: Request[Any, Any, Any]) -> Response[Any]:
    """End the browser's session."""
    answer = goes_on("/login")
    answer.cookies.append(
        Cookie(key=COOKIE, value="", max_age=0, path="/", httponly=True, samesite="strict")
    )
    return answer


@get("/language/{name:str}")
async def choose_language(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[Any]:
    """Remember a language, and go back."""
    answer = goes_on(_local(request.query_params.get("next")))
    if name in LANGUAGES:
        answer.cookies.append(
            Cookie(
                key=LANGUAGE_COOKIE,
                value=name,
                max_age=_YEAR_SECONDS,
                path="/",
                samesite="lax",
                secure=_is_secure(request),
            )
        )
    return answer


@get("/static/{digest:str}/{file:path}")
async def static(digest: FromPath[str], file: FromPath[str]) -> Response[bytes]:
    """Give a file of ours, to be kept for good: another content has another address."""
    path = STATIC / file.lstrip("/")
    media_type = _STATIC_TYPES.get(path.suffix)
    if (
        media_type is None
        or not path.resolve().is_relative_to(STATIC)
        or not path.is_file()
        or asset(path.relative_to(STATIC).as_posix()).split("/")[2] != digest
    ):
        raise NotFoundException("no such file")
    return Response(
        path.read_bytes(),
        media_type=media_type,
        headers={"cache-control": f"public, max-age={_YEAR_SECONDS}, immutable"},
    )


@get("/tasks/{task_id:str}")
async def show_task(request: Request[Any, Any, Any], task_id: FromPath[str]) -> Response[Any]:
    """Show how far something is, and go on when it is done."""
    tasks: Tasks = request.app.state.tasks
    task = tasks.get(task_id)
    if task is not None and task.ended is not None and task.error is None and task.result:
        return goes_on(task.result, request=request)
    template = "task_state.html" if is_partial(request) else "task.html"
    return render(request, template, task=task)


@get("/tasks/{task_id:str}/file")
async def task_file(request: Request[Any, Any, Any], task_id: FromPath[str]) -> Any:
    """Give the file that something made."""
    task = request.app.state.tasks.get(task_id)
    if task is None or task.file is None or task.ended is None or task.error is not None:
        raise NotFoundException("no such file")
    return File(task.file, filename=task.file_name, content_disposition_type="attachment")


def create_dashboard(api: Litestar) -> Litestar:
    """Make the dashboard; it has the state of the API: settings, pool and callers."""
    return Litestar(
        [
            show_login,
            log_in,
            log_out,
            choose_language,
            static,
            show_task,
            task_file,
            *overview.ROUTES,
            *reconciliation.ROUTES,
            *assumed.ROUTES,
            *uploads.ROUTES,
            *credits.ROUTES,
            *discrepancies.ROUTES,
            *messages.ROUTES,
            *callbacks.ROUTES,
            *suspects.ROUTES,
            *audits.ROUTES,
            *jobs.ROUTES,
            *others.ROUTES,
        ],
        state=api.state,
        before_request=_admit,
        middleware=[DefineMiddleware(Recorded, via="dashboard", asker=_acting)],
        exception_handlers={
            HTTPException: _http_problem,
            Closed: _conflict,
            BadCursor: _bad_request,
            Problem: _problem,
            **dict.fromkeys(DATABASE_ERRORS, _unavailable),
            asyncpg.DataError: _bad_request,
            UnicodeError: _bad_request,
            Exception: _internal,
        },
        openapi_config=None,
        logging_config=None,
        debug=False,
    )


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    """Keep what the dashboard has under way for as long as the API is up."""
    app.state.tasks = Tasks()
    app.state.uploads = {}
    app.state.guesses = asyncio.Lock()
    try:
        yield
    finally:
        await app.state.tasks.close()


class Front:
    """Sends a request where it belongs; a session also reads the API, so that its files can be fetched."""

    def __init__(self, api: Litestar, guarded: ASGIApp, doorkeeper: Doorkeeper) -> None:
        settings: Settings = api.state.settings
        self._state = api.state
        self._dashboard = create_dashboard(api)
        self._guarded = guarded
        self._sessions = api.state.sessions = Sessions(api_token(settings), doorkeeper)
        self._own = {route.path.split("/")[1] for route in self._dashboard.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != ScopeType.HTTP:
            await self._guarded(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        who, away = None, None
        if (cookie := _session(headers.get("cookie", ""))) is not None:
            try:
                who = await self._sessions.asker(self._state.pool, cookie, now=time.time())
            except DATABASE_ERRORS as error:
                away = error
        first = scope["path"].split("/")[1]
        own = first in self._own if first else scope["path"] == "/"
        if not own and who is not None:
            own = first not in _OF_THE_API  # a person who mistypes is answered by a page
        reads = (
            scope["path"].startswith("/v1/")
            and scope["method"] in ("GET", "HEAD")
            and "authorization" not in headers
            and headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        )
        if not own and not reads:
            await self._guarded(scope, receive, send)
            return
        if own:
            scope["user"] = who
            scope["away"] = away  # type: ignore[typeddict-unknown-key]
            await self._dashboard(scope, receive, _hardened(send))
            return
        if away is not None:
            log.error("database.away", error=type(away).__name__)
            metrics.ANSWERS_FAILED.labels("503").inc()
            answer = Response(b"", status_code=503, headers={"retry-after": "5"})
            request: Request[Any, Any, Any] = Request(scope)
            await answer.to_asgi_response(None, request)(scope, receive, _hardened(send))
            return
        if who is not None:
            scope["user"] = who
        await self._guarded(scope, receive, send)


def _acting(scope: Scope) -> TokenHolder | None:
    """Return whose token somebody acts with; logging in and out changes nothing."""
    who: Asker | None = scope["user"]
    if who is None or scope["path"] in ("/login", "/logout"):
        return None
    return TokenHolder(who.token, who.role)


def _hardened(send: Send) -> Send:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            brought = {name.lower() for name, _ in message["headers"]}
            added = [
                (name.encode(), value.encode())
                for name, value in {**HEADERS, "cache-control": "no-store"}.items()
                if name.encode() not in brought
            ]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return sending


def _session(cookies: str) -> str | None:
    try:
        found = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


async def _admit(request: Request[Any, Any, Any]) -> Response[Any] | None:
    """Refuse forged requests, and show the log-in to who has no session."""
    who = request.scope["user"]
    given = request.headers.get(CSRF_HEADER)
    if given is None and who is not None and request.method == "POST":
        given = (await request.form()).get(CSRF_FIELD)
    given = given if isinstance(given, str) else None
    # Who logs in again, as from another tab, needs no more than who logs in first.
    session = None if request.url.path == "/login" else who
    if is_forged(request.method, request.headers, asker=session, given=given):
        raise PermissionDeniedException("forged")
    if who is not None and request.method == "POST":
        concerns(by=who.name)
    away = request.scope.get("away")
    if isinstance(away, Exception) and not request.url.path.startswith(_OPEN):
        raise away
    if who is None and not request.url.path.startswith(_OPEN):
        if is_partial(request):
            return goes_on("/login", request=request)
        if request.method != "GET" or request.url.path == "/":
            return goes_on("/login")
        query = f"?{request.url.query}" if request.url.query else ""
        return goes_on(f"/login?next={quote(request.url.path + query)}")
    return None


def _local(to: str | None) -> str:
    """Return an address of ours; anything else is the first page."""
    if to and to.startswith("/") and to[1:2] not in ("/", "\\") and to.isprintable():
        return to
    return "/"


def _is_secure(request: Request[Any, Any, Any]) -> bool:
    """Whether the browser speaks TLS, to us or to the proxy before us."""
    forwarded = request.headers.get("x-forwarded-proto", "")
    return request.url.scheme == "https" or forwarded.split(",")[0].strip() == "https"


def _failed(request: Request[Any, Any, Any], status: int, key: str, detail: str) -> Response[Any]:
    request.scope.setdefault("user", None)
    template = "flash.html" if is_partial(request) else "error.html"
    return render(
        request,
        template,
        status=status,
        problem_key=key,
        detail=detail,
        at=format_datetime(datetime.now(UTC), usegmt=True),
    )


def _http_problem(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    key = {403: "error.forbidden", 404: "error.not_found", 413: "error.too_large"}.get(
        error.status_code, "error.not_done"
    )
    detail = "" if error.status_code in (403, 404) else error.detail.partition("\n")[0]
    if error.status_code >= 500:
        detail = HTTPStatus(error.status_code).phrase
    return _failed(request, error.status_code, key, detail)


def _problem(request: Request[Any, Any, Any], error: Problem) -> Response[Any]:
    return _failed(request, 422, "error.not_done", str(error))


def _conflict(request: Request[Any, Any, Any], error: Problem) -> Response[Any]:
    return _failed(request, 409, "error.not_done", str(error))


def _bad_request(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.warning("dashboard.unfit", error=type(error).__name__)
    return _failed(request, 400, "error.not_done", "")


def _unavailable(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.error("database.away", error=type(error).__name__)
    metrics.ANSWERS_FAILED.labels("503").inc()
    return _failed(request, 503, "error.database", "")


def _internal(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.exception("dashboard.failed", route=request.scope["path"], exc_info=error)
    metrics.ANSWERS_FAILED.labels("500").inc()
    return _failed(request, 500, "error.internal", "")
