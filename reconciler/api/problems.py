"""What is answered when something is wrong: RFC 9457 problems, and which error is which."""

import math
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
from reconciler import audit, cases, erasure, evidence, match, reading, sending, suspects
from reconciler.tables import FileError
from runtime import LeaseLost, Problem, metrics
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


def _problem_response(status: int, detail: str) -> Response[Any]:
    """Make an RFC 9457 problem."""
    problem = ProblemDetails("about:blank", HTTPStatus(status).phrase, status, detail)
    return Response(problem, status_code=status, media_type="application/problem+json")


# What parameters of our functions are called outside.
_SPELT = {
    "shape": "format",
    "callback_state": "state",
    "pull_state": "state",
    "case_state": "state",
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


def _unprocessable(_: object, error: Exception) -> Response[Any]:
    return _problem_response(422, str(error))


def _gone(_: object, error: Problem) -> Response[Any]:
    return _problem_response(410, str(error))


def _conflict(_: object, error: Exception) -> Response[Any]:
    return _problem_response(409, str(error))


def _try_again(_: object, error: Exception) -> Response[Any]:
    answer = _problem_response(409, str(error))
    answer.headers["retry-after"] = "5"
    return answer


def _outdated(_: object, error: Problem) -> Response[Any]:
    return _problem_response(409, str(error))


def _nothing_sent(_: object, error: sending.NothingSent) -> Response[Any]:
    answer = _problem_response(503, f"{error}; nothing was sent, try again")
    answer.headers["retry-after"] = str(math.ceil(error.retry_after_seconds or 5))
    return answer


def _interrupted(_: object, error: Problem) -> Response[Any]:
    return _problem_response(503, str(error))


def _bad_request(_: object, error: Exception) -> Response[Any]:
    return _problem_response(400, str(error))


def _not_found(_: object, error: Problem) -> Response[Any]:
    return _problem_response(404, str(error))


def _unfit(_: object, error: Exception) -> Response[Any]:
    log.warning("api.unfit", error=type(error).__name__)
    return _problem_response(
        400,
        "a text that is not UTF-8 or has a NUL, a number or time out of range, or too many brackets",
    )


def _unavailable(_: object, error: Exception) -> Response[Any]:
    log.error("database.away", error=type(error).__name__)
    metrics.ANSWERS_FAILED.labels("503").inc()
    answer = _problem_response(503, "the database is away; try again")
    answer.headers["retry-after"] = "5"
    return answer


def _internal(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.exception("api.failed", route=request.scope["path"].split("?")[0], exc_info=error)
    metrics.ANSWERS_FAILED.labels("500").inc()
    return _problem_response(500, "the log says more")


# Which answer an error of ours is.
HANDLERS: ExceptionHandlersMap = {
    HTTPException: _problem,
    FileError: _unprocessable,
    match.Impossible: _unprocessable,
    match.Closed: _conflict,
    cases.Illegal: _unprocessable,
    cases.Unknown: _unprocessable,
    suspects.Unknown: _not_found,
    suspects.Undecidable: _unprocessable,
    cases.Outdated: _outdated,
    sending.Unfit: _unprocessable,
    sending.KeyReused: _unprocessable,
    sending.StillSending: _try_again,
    evidence.NotLinked: _try_again,
    evidence.BadHead: _unprocessable,
    evidence.NoPackage: _unprocessable,
    LeaseLost: _try_again,
    erasure.NoNumber: _unprocessable,
    OtherKey: _conflict,
    reading.Gone: _gone,
    sending.NothingSent: _nothing_sent,
    sending.Interrupted: _interrupted,
    Unsupported: _unprocessable,
    reading.BadCursor: _bad_request,
    audit.BadParameter: _bad_request,
    audit.NoSuchQuery: _not_found,
    audit.TookTooLong: _unprocessable,
    **dict.fromkeys(DATABASE_ERRORS, _unavailable),
    # What PostgreSQL says of a value that it was given, such as a text with a NUL.
    asyncpg.DataError: _unfit,
    UnicodeError: _unfit,
    RecursionError: _unfit,
    Exception: _internal,
}
