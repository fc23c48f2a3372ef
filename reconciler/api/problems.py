"""What is answered when something is wrong: RFC 9457 problems, and which error is which."""

import math
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import asyncpg
import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec
from litestar.types import ExceptionHandlersMap

from gateways.errors import Unsupported
from reconciler import audit, cases, erasure, evidence, match, sending, suspects
from reconciler.reading import arrived, paging
from reconciler.tables import FileError
from runtime import LeaseLost, metrics
from runtime.database import DATABASE_ERRORS
from runtime.pseudonyms import OtherKey

log = structlog.get_logger()


class ProblemDetails(msgspec.Struct, frozen=True):
    """An error: RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """Declare that a route may answer with a problem of these statuses, or of those of every route."""
    return {
        status: ResponseSpec(
            ProblemDetails,
            generate_examples=False,
            description=HTTPStatus(status).phrase,
            media_type="application/problem+json",
        )
        for status in (400, 401, 403, *statuses, 503)
    }


LISTING = problems(422)
SHOWING = problems(404)
TAKING = problems(413, 422)
CLOSING = problems(409, 413, 422)


class Unprocessable(HTTPException):
    """A request that is well-formed and cannot be carried out; the detail says why."""

    status_code = 422


def _problem_response(status: int, detail: str, *, retry_after: int | None = None) -> Response[Any]:
    """Make an RFC 9457 problem; `retry_after` is in seconds."""
    problem = ProblemDetails("about:blank", HTTPStatus(status).phrase, status, detail)
    headers = None if retry_after is None else {"retry-after": str(retry_after)}
    return Response(
        problem, status_code=status, media_type="application/problem+json", headers=headers
    )


# What parameters of our functions are called outside.
_SPELT = {
    "shape": "format",
    "callback_state": "state",
    "pull_state": "state",
    "case_state": "state",
    "suspect_state": "state",
    "every": "all",
    "data": "the body",
}
# What Litestar says without saying it.
_UNSAID = {
    "'data'": "is missing",
    "Unsupported type: <class 'str'>": "is no file",
    "Unsupported type: <class 'list'>": "is more than one file",
}


def _problem(_: object, error: HTTPException) -> Response[Any]:
    reasons = [
        f"{_SPELT.get(where, where)}: {_UNSAID.get(what, what)}" if where else what
        for extra in error.extra or []
        if isinstance(extra, dict)
        for where, what in [(extra.get("key"), extra.get("message", ""))]
    ]
    detail = "; ".join(reasons) or error.detail.partition("\n")[0]
    if error.status_code >= 500:
        detail = HTTPStatus(error.status_code).phrase
    answer = _problem_response(error.status_code, detail)
    answer.headers.update(error.headers or {})
    return answer


def _says(
    status: int, *, retry_after: int | None = None
) -> Callable[[object, Exception], Response[Any]]:
    """Make what answers with an error's own words."""

    def answer(_: object, error: Exception) -> Response[Any]:
        return _problem_response(status, str(error), retry_after=retry_after)

    return answer


def _nothing_sent(_: object, error: sending.NothingSent) -> Response[Any]:
    return _problem_response(
        503,
        f"{error}; nothing was sent, try again",
        retry_after=math.ceil(error.retry_after_seconds or 5),
    )


def _unfit(_: object, error: Exception) -> Response[Any]:
    log.warning("api.unfit", error=type(error).__name__)
    return _problem_response(
        400,
        "a text that is not UTF-8 or has a NUL, a number or time out of range, or too many brackets",
    )


def _unavailable(_: object, error: Exception) -> Response[Any]:
    log.error("database.away", error=type(error).__name__)
    metrics.ANSWERS_FAILED.labels("503").inc()
    return _problem_response(503, "the database is away; try again", retry_after=5)


def _internal(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.exception("api.failed", route=request.scope["path"].split("?")[0], exc_info=error)
    metrics.ANSWERS_FAILED.labels("500").inc()
    return _problem_response(500, "the log says more")


# Which answer an error of ours is.
HANDLERS: ExceptionHandlersMap = {
    HTTPException: _problem,
    FileError: _says(422),
    match.Impossible: _says(422),
    match.Closed: _says(409),
    cases.Illegal: _says(422),
    cases.Unknown: _says(422),
    suspects.Unknown: _says(404),
    suspects.Undecidable: _says(422),
    cases.Outdated: _says(409),
    sending.Unfit: _says(422),
    sending.KeyReused: _says(422),
    sending.StillSending: _says(409, retry_after=5),
    evidence.NotLinked: _says(409, retry_after=5),
    evidence.BadHead: _says(422),
    evidence.NoPackage: _says(422),
    LeaseLost: _says(409, retry_after=5),
    erasure.NoNumber: _says(422),
    OtherKey: _says(409),
    arrived.Gone: _says(410),
    sending.NothingSent: _nothing_sent,
    sending.Interrupted: _says(503),
    Unsupported: _says(422),
    paging.BadCursor: _says(400),
    audit.BadParameter: _says(400),
    audit.NoSuchQuery: _says(404),
    audit.TookTooLong: _says(422),
    **dict.fromkeys(DATABASE_ERRORS, _unavailable),
    # What PostgreSQL says of a value that it was given, such as a text with a NUL.
    asyncpg.DataError: _unfit,
    UnicodeError: _unfit,
    RecursionError: _unfit,
    Exception: _internal,
}
