"""The reconciler's API: interface section 4, over the same functions that the command line uses."""

import asyncio
import contextlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
import msgspec
import structlog
from litestar import Litestar, MediaType, Request, Response, Router, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State, UploadFile
from litestar.enums import ScopeType
from litestar.exceptions import (
    HTTPException,
    NotFoundException,
    PermissionDeniedException,
)
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIFormat
from litestar.params import FromPath, HeaderParameter, JSONBody, MultipartBody, QueryParameter
from litestar.response import Stream
from litestar.routes import BaseRoute
from litestar.types import ControllerRouterHandler, Receive, Scope, Send

from gateways.errors import Unsupported
from gateways.http import open_client
from reconciler import (
    actions,
    alarms,
    arrivals,
    audit,
    auditing,
    cases,
    chain,
    credits,
    dashboard,
    erasure,
    evidence,
    exports,
    ledger,
    match,
    periods,
    reading,
    replay,
    sending,
    statements,
    story,
    suspects,
)
from reconciler.causes import CAUSES
from reconciler.jobs import holder, jobs_of
from reconciler.poll import Caller, callers
from reconciler.reading import Page
from reconciler.recorded import Recorded
from reconciler.tables import MAX_UPLOAD_BYTES, FileError
from reconciler.tokens import Asker, Doorkeeper, Role
from runtime import LeaseLost, Problem, metrics, trust
from runtime.database import DATABASE_ERRORS, Database
from runtime.pseudonyms import OtherKey, pseudonyms
from runtime.queries import QUERIES
from runtime.settings import AccountSettings, Settings, api_token

log = structlog.get_logger()

MAX_SENT_BYTES = 64 * 1024 * 1024
_ERASING_SECONDS = 5.0  # an answer is waited for so long
_AUDITS = 4  # billing audit queries at once; others wait their turn

Text = Annotated[str | None, QueryParameter()]
Limit = Annotated[int, QueryParameter(ge=1, le=reading.MAX_LIMIT)]
Format = Annotated[Literal["json", "csv", "xlsx"], QueryParameter(name="format")]
_DATE_TIME = {"format": "date-time"}
Since = Annotated[
    str | None,
    QueryParameter(name="from", description="RFC 3339, included", schema_extra=_DATE_TIME),
]
Until = Annotated[
    str | None,
    QueryParameter(name="to", description="RFC 3339, not included", schema_extra=_DATE_TIME),
]


class ProblemDetails(msgspec.Struct, frozen=True):
    """An error: RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def _problems(*statuses: int) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(
            ProblemDetails,
            generate_examples=False,
            description=HTTPStatus(status).phrase,
            media_type="application/problem+json",
        )
        for status in (400, 401, 403, *statuses, 503)
    }


def _needs(role: Role) -> dict[str, Any]:
    """Make the part of a route's declaration that says who may ask."""
    return {"opt": {"role": role}, "security": [{"token": [role.word]}]}


READER, OPERATOR, ADMIN = _needs(Role.READER), _needs(Role.OPERATOR), _needs(Role.ADMIN)
OPEN: dict[str, Any] = {"opt": {"role": None}}  # asked without a token


_MEDIA_TYPES = {
    "csv": "text/csv",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
LISTING = _problems(422)
SHOWING = _problems(404)
TAKING = _problems(413, 422)
CLOSING = _problems(409, 413, 422)


_TEXT = Schema(type=OpenAPIType.STRING)
_SENT = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        **dict.fromkeys(ledger.Sent.__struct_fields__, _TEXT),
        "sent_at": Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME),
        "segments": Schema(type=OpenAPIType.INTEGER, minimum=0, maximum=1000),
    },
    required=["account", "vendor_message_id", "phone", "sent_at"],
)


@dataclass
class SentOperation(Operation):
    """Says what `POST /v1/sent` takes, which reads its body by itself: no bad row sinks the others."""

    def __post_init__(self) -> None:
        """Add the body that Litestar cannot know of."""
        array = Schema(type=OpenAPIType.ARRAY, items=_SENT, max_items=ledger.MAX_ROWS)
        self.request_body = RequestBody(
            content={
                "application/json": OpenAPIMediaType(schema=array),
                "application/x-ndjson": OpenAPIMediaType(schema=_TEXT),
            },
            required=True,
        )


class Unprocessable(HTTPException):
    """A request that is well-formed and cannot be carried out; the detail says why."""

    status_code = 422


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Reconciliation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to reconcile, and what becomes of it.

    `source`: the newest statement, or what reports say that messages cost. `assume`: what-if, by
    other rules than the settings'. `close` closes the period with the run, in the name of `by`.
    """

    account: str
    period: str
    source: match.Source = "statement"
    assume: dict[str, str | int | float] = {}
    close: bool = False
    by: Name = "api"


class Closing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In whose name a period is closed."""

    by: Name = "api"


class StatementFile(msgspec.Struct):
    """A vendor's bill as multipart form data."""

    file: UploadFile
    account: str
    period: str
    format: str = "generic"
    sheet: str | None = None
    expect_lines: Annotated[int, msgspec.Meta(ge=0)] | None = None
    expect_segments: Annotated[int, msgspec.Meta(ge=0)] | None = None
    expect_amount: str | None = None


class ImportedStatement(msgspec.Struct, frozen=True):
    """What an import did, or did before."""

    id: UUID
    version: int
    lines: int
    segments: int
    amount: str | None
    duplicate_of: UUID | None


@post(
    "/v1/sent",
    status_code=200,
    responses=TAKING,
    request_max_body_size=MAX_SENT_BYTES,
    operation_class=SentOperation,
    **OPERATOR,
)
async def register_sent(request: Request[Any, Any, Any], state: State) -> dict[str, Any]:
    """Register messages that another system sent: a JSON array or NDJSON, up to 10,000."""
    accounts = state.settings.accounts
    now = datetime.now(UTC)
    rows = _sent_rows(await request.body(), request.headers.get("content-type", ""))
    if len(rows) > ledger.MAX_ROWS:
        raise HTTPException(
            f"{len(rows)} rows; a call takes {ledger.MAX_ROWS} at most", status_code=413
        )
    registered = await ledger.register(state.pool, accounts, _checked(rows, accounts, now), now=now)
    return msgspec.to_builtins(registered)  # type: ignore[no-any-return]


@post(
    "/v1/messages",
    status_code=200,
    responses=_problems(409, 413, 422),
    request_max_body_size=MAX_SENT_BYTES,
    **OPERATOR,
)
async def send_messages(
    state: State,
    data: JSONBody[sending.Request],
    key: Annotated[
        str | None,
        HeaderParameter(
            name="Idempotency-Key",
            description="a request with the key of one before is not sent again",
        ),
    ] = None,
) -> dict[str, Any]:
    """Send a text through an account's vendor, and say of each number what became of it."""
    _account(state, data.account)
    return await sending.send(state.callers[data.account], data, key, now=datetime.now(UTC))


@get("/v1/sends/{send_id:uuid}", responses=SHOWING, **READER)
async def show_send(state: State, send_id: FromPath[UUID]) -> dict[str, Any]:
    """Show what became of a request to send, number by number."""
    async with state.pool.acquire() as connection:
        found = await reading.send(connection, state.settings.accounts, send_id)
    if found is None:
        raise NotFoundException("no such send")
    return found


@get("/v1/messages", responses=LISTING, **READER)
async def list_messages(
    state: State,
    since: Since = None,
    until: Until = None,
    account: Text = None,
    phone: Text = None,
    vendor_message_id: Text = None,
    reference: Text = None,
    status: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List messages, the newest first."""
    filters = reading.Filters(
        phone, vendor_message_id, reference, status, _time("from", since), _time("to", until)
    )
    return await _list(
        state,
        lambda connection, cursor, limit: reading.messages(
            connection, _accounts(state, account), filters, cursor=cursor, limit=limit
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=reading.MESSAGE_COLUMNS,
        name="messages",
    )


@get("/v1/messages/{message_id:uuid}", responses=SHOWING, **READER)
async def show_message(state: State, message_id: FromPath[UUID]) -> dict[str, Any]:
    """Show one message with its evidence in order."""
    async with state.pool.acquire() as connection:
        found = await reading.message(connection, state.settings.accounts, message_id)
    if found is None:
        raise NotFoundException("no such message")
    return found


@get("/v1/callbacks", responses=LISTING, **READER)
async def list_callbacks(
    state: State,
    since: Since = None,
    until: Until = None,
    account: Text = None,
    callback_state: Annotated[
        Literal["recorded", "settled", "quarantined"] | None, QueryParameter(name="state")
    ] = None,
    cursor: Text = None,
    limit: Limit = 100,
) -> Response[Any]:
    """List raw callbacks, the newest first."""
    first, last = _time("from", since), _time("to", until)
    return await _list(
        state,
        lambda connection, cursor, limit: reading.callbacks(
            connection,
            _accounts(state, account),
            state=callback_state,
            since=first,
            until=last,
            cursor=cursor,
            limit=limit,
        ),
        cursor=cursor,
        limit=limit,
    )


def _digest(callback_id: str) -> bytes:
    try:
        return bytes.fromhex(callback_id)
    except ValueError:
        raise NotFoundException("no such callback") from None


@get("/v1/callbacks/{callback_id:str}", responses=_problems(404), **READER)
async def show_callback(state: State, callback_id: FromPath[str]) -> dict[str, Any]:
    """Tell what became of a callback, or of a vendor's reply, step by step."""
    digest = _digest(callback_id)
    async with state.pool.acquire() as connection:
        told = await story.tell(connection, state.settings.accounts, digest)
    if told is None:
        raise NotFoundException("no such callback")
    return told


@get("/v1/callbacks/{callback_id:str}/body", responses=_problems(404, 410), **READER)
async def callback_body(state: State, callback_id: FromPath[str]) -> Response[bytes]:
    """Give the exact bytes of a callback, or of a vendor's reply that is evidence for a report."""
    digest = _digest(callback_id)
    async with state.pool.acquire() as connection:
        body = await reading.record_bytes(connection, digest)
    if body is None:
        raise NotFoundException("no such callback")
    # Bytes of a stranger: never shown as a page, whatever they are.
    return Response(
        body,
        media_type="application/octet-stream",
        headers={
            "content-disposition": f'attachment; filename="{digest.hex()}.bin"',
            "x-content-type-options": "nosniff",
            "content-security-policy": "default-src 'none'; sandbox",
        },
    )


@post(
    "/v1/statements",
    status_code=200,
    responses=TAKING,
    request_max_body_size=MAX_UPLOAD_BYTES,
    **OPERATOR,
)
async def import_statement(
    state: State,
    data: MultipartBody[StatementFile],
    preview: Annotated[bool, QueryParameter()] = False,
) -> ImportedStatement | statements.Preview:
    """Import a vendor's bill, whole or not at all; or only preview what would be imported."""
    settings = _account(state, data.account)
    period = _period(data.period)
    try:
        layout = statements.format_layout(state.settings, data.format, sheet=data.sheet or None)
        expect = statements.expected(
            data.expect_lines, data.expect_segments, data.expect_amount or None
        )
    except ValueError as error:
        raise Unprocessable(str(error)) from None
    name = Path(data.file.filename or "statement").name
    async with _spooled(data.file) as path:
        if preview:
            return await statements.preview(
                settings,
                path,
                file_name=name,
                format_name=data.format,
                layout=layout,
                expect=expect,
            )
        async with state.pool.acquire() as connection:
            imported = await statements.import_file(
                connection,
                settings,
                period,
                path,
                file_name=name,
                format_name=data.format,
                layout=layout,
                now=datetime.now(UTC),
                expect=expect,
            )
    return ImportedStatement(
        id=imported.id,
        version=imported.version,
        lines=imported.lines,
        segments=imported.segments,
        amount=None if imported.amount is None else match.money(imported.amount),
        duplicate_of=imported.duplicate_of,
    )


@get("/v1/statements", responses=LISTING, **READER)
async def list_statements(
    state: State, account: Text = None, cursor: Text = None, limit: Limit = 100
) -> Response[Any]:
    """List imported statements, the newest first."""
    return await _list(
        state,
        lambda connection, cursor, limit: reading.statements(
            connection, account, cursor=cursor, limit=limit
        ),
        cursor=cursor,
        limit=limit,
    )


@post("/v1/reconciliations", status_code=200, responses=CLOSING, **OPERATOR)
async def reconcile(
    request: Request[Any, Any, Any], state: State, data: JSONBody[Reconciliation]
) -> dict[str, Any]:
    """Reconcile an account's period against its bill; close it, or only assume something.

    Closing takes the role admin.
    """
    if data.close:
        _require(request.scope, Role.ADMIN)
    settings = _account(state, data.account)
    period = _period(data.period)
    async with state.database.connection() as connection:
        result = await match.reconcile(
            connection,
            settings,
            period,
            now=datetime.now(UTC),
            source=data.source,
            assume={name: str(value) for name, value in data.assume.items()},
            close_by=data.by if data.close else None,
        )
        actions.concerns(reconciliation=result["id"], close=data.close)
        if data.close:
            return await _run(connection, UUID(result["id"]))
        return result


@get("/v1/reconciliations", responses=LISTING, **READER)
async def list_reconciliations(
    state: State,
    account: Text = None,
    assumed: Annotated[bool, QueryParameter()] = False,
    cursor: Text = None,
    limit: Limit = 100,
) -> Response[Any]:
    """List reconciliations, the newest first; with `assumed` those that assume something instead."""
    return await _list(
        state,
        lambda connection, cursor, limit: reading.runs(
            connection, account, assumed=assumed, cursor=cursor, limit=limit
        ),
        cursor=cursor,
        limit=limit,
    )


@post(
    "/v1/reconciliations/{run_id:uuid}/close", status_code=200, responses=SHOWING | CLOSING, **ADMIN
)
async def close_reconciliation(
    state: State, run_id: FromPath[UUID], data: JSONBody[Closing | None] = None
) -> dict[str, Any]:
    """Close the run's period with it, for ever: what changes later is an adjustment."""
    by = (data or Closing()).by
    async with state.pool.acquire() as connection:
        if not await match.close(connection, run_id, by=by, now=datetime.now(UTC)):
            raise NotFoundException("no such reconciliation")
        return await _run(connection, run_id)


@get("/v1/reconciliations/{run_id:uuid}", responses=SHOWING, **READER)
async def show_reconciliation(state: State, run_id: FromPath[UUID]) -> dict[str, Any]:
    """Show one reconciliation, with when and by which rules it was run."""
    async with state.pool.acquire() as connection:
        return await _run(connection, run_id)


@get("/v1/reconciliations/{run_id:uuid}/causes", responses=SHOWING | LISTING, **READER)
async def list_causes(
    state: State, run_id: FromPath[UUID], shape: Format = "json"
) -> Response[Any]:
    """List why the bill differs, the cause with most money first; they add up to the difference."""
    async with state.pool.acquire() as connection:
        await _run(connection, run_id)
    return await _list(
        state,
        lambda connection, _cursor, _limit: reading.causes(connection, run_id),
        cursor=None,
        limit=reading.MAX_LIMIT,
        shape=shape,
        columns=reading.CAUSE_COLUMNS,
        name="causes",
    )


@get("/v1/reconciliations/{run_id:uuid}/adjustments", responses=SHOWING | LISTING, **READER)
async def list_adjustments(
    state: State,
    run_id: FromPath[UUID],
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List what an adjustment changes of the closed run, message by message."""
    async with state.pool.acquire() as connection:
        await _run(connection, run_id)
    return await _list(
        state,
        lambda connection, cursor, limit: reading.adjustments(
            connection, run_id, cursor=cursor, limit=limit
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=reading.ADJUSTMENT_COLUMNS,
        name="adjustments",
    )


@get("/v1/reconciliations/{run_id:uuid}/discrepancies", responses=SHOWING | LISTING, **READER)
async def list_discrepancies(
    state: State,
    run_id: FromPath[UUID],
    kind: Text = None,
    cause: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List what a reconciliation found, in the order of kinds, ids and lines."""
    _check_kind(kind)
    every_cause = [each for causes in CAUSES.values() for each in causes]
    if cause is not None and cause not in every_cause:
        raise Unprocessable(f"no such cause; there are {', '.join(every_cause)}")
    async with state.pool.acquire() as connection:
        await _run(connection, run_id)
    return await _list(
        state,
        lambda connection, cursor, limit: reading.discrepancies(
            connection, run_id, kind=kind, cause=cause, cursor=cursor, limit=limit
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=reading.DISCREPANCY_COLUMNS,
        name="discrepancies",
    )


@get("/v1/audit", responses=LISTING, **READER)
async def list_audit() -> dict[str, Any]:
    """List the billing audit queries with their parameters and columns, in English and Chinese."""
    return {"items": [query.described() for query in audit.AUDIT.values()], "next": None}


@get("/v1/audit/{query_name:str}", responses=SHOWING | LISTING, **READER)
async def run_audit(
    request: Request[Any, Any, Any],
    state: State,
    query_name: FromPath[str],
    limit: Annotated[int, QueryParameter(ge=1, le=audit.MAX_ROWS)] = 1000,
    shape: Format = "json",
    lang: Annotated[Literal["en", "zh"], QueryParameter(description="of a file's headings")] = "en",
) -> Response[Any]:
    """Run a billing audit query; its own parameters stand in the query string, as `/v1/audit` lists them."""
    given: dict[str, str] = {}
    for name, text in request.query_params.multi_items():
        if name in given:
            raise HTTPException(f"{name[:64]!r}: given twice", status_code=400)
        given[name] = text
    for name in ("limit", "format", "lang"):
        given.pop(name, None)
    asked = audit.ask(state.settings, query_name, given, now=datetime.now(UTC))
    if shape == "json":
        async with state.audits, state.database.connection() as connection:
            items, truncated = await audit.first(
                connection, asked, limit=limit, seconds=audit.API_SECONDS
            )
        return Response(
            {
                "query": query_name,
                "parameters": asked.parameters,
                "items": items,
                "truncated": truncated,
                "next": None,
            }
        )
    columns = [column.name for column in asked.query.columns]
    write = exports.csv_file if shape == "csv" else exports.xlsx_file
    # To a file first: a slow reader holds neither a connection nor a snapshot of the database.
    async with state.audits, state.database.connection() as connection:
        rows = audit.every(connection, asked, seconds=audit.API_SECONDS)
        try:
            path = await write(columns, rows, asked.query.headings(lang))
        except exports.TooLong as error:
            raise Unprocessable(str(error)) from None
        finally:
            await rows.aclose()
    return Stream(
        exports.file_chunks(path),
        media_type=_MEDIA_TYPES[shape],
        headers={"content-disposition": f'attachment; filename="{query_name}.{shape}"'},
    )


@get("/v1/reconciliations/{run_id:uuid}/evidence", responses=_problems(404, 409, 422), **READER)
async def show_evidence(state: State, run_id: FromPath[UUID], head: Text = None) -> Stream:
    """Give a reconciliation's evidence package: a zip that is checked without us."""
    if head is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", head):
        raise Unprocessable("head: expected 64 hexadecimal digits")
    anchored = None if head is None else bytes.fromhex(head)
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="huizhi-"))
    path = folder / "evidence.zip"
    try:
        async with state.database.connection() as connection:
            await evidence.write(
                state.pool, connection, run_id, path, holder=holder(), head=anchored
            )
    except BaseException as error:
        shutil.rmtree(folder)
        if isinstance(error, evidence.NoRun):
            raise NotFoundException("no such reconciliation") from None
        raise
    return Stream(
        exports.file_chunks(path),
        media_type="application/zip",
        headers={"content-disposition": f'attachment; filename="evidence-{run_id}.zip"'},
    )


@get("/v1/chain/head", responses=_problems(), **READER)
async def show_chain_head(state: State) -> dict[str, Any]:
    """Show the newest link of the chain: what is anchored outside."""
    async with state.pool.acquire() as connection:
        found = await chain.head(connection)
        behind = await chain.behind_seconds(connection)
    return {**msgspec.structs.asdict(found), "behind_seconds": behind}


class CaseChange(cases.Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to set in one discrepancy; with `version` only if that is still its version."""

    version: int | None = None


class CaseChanges(cases.Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to set in many discrepancies: those of `ids`, or those that `filter` meets."""

    ids: list[UUID] | None = None
    filter: cases.Filter | None = None


Age = Annotated[
    int | None, QueryParameter(ge=0, le=100_000, description="at least so many days old")
]
CaseState = Annotated[cases.State | None, QueryParameter(name="state")]


@get("/v1/discrepancies", responses=LISTING, **READER)
async def list_cases(
    state: State,
    account: Text = None,
    period: Text = None,
    kind: Text = None,
    case_state: CaseState = None,
    owner: Text = None,
    min_age_days: Age = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List discrepancies as people work on them, followed over reruns; those found last first."""
    chosen = cases.Filter(
        account=account,
        period=period,
        kind=kind,
        state=case_state,
        owner=owner,
        min_age_days=min_age_days,
    )
    days = _filtered_period(chosen)
    now = datetime.now(UTC)
    return await _list(
        state,
        lambda connection, cursor, limit: reading.cases(
            connection,
            _accounts(state, account),
            chosen,
            days,
            now=now,
            cursor=cursor,
            limit=limit,
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=reading.CASE_COLUMNS,
        name="discrepancies",
    )


@get("/v1/discrepancies/ageing", responses=LISTING, **READER)
async def show_ageing(state: State, account: Text = None, shape: Format = "json") -> Response[Any]:
    """Count discrepancies and add them up, by account, state and age."""
    async with state.pool.acquire() as connection:
        found = await reading.ageing(connection, _accounts(state, account), now=datetime.now(UTC))
    if shape == "json":
        return Response(found)

    async def page(_connection: Any, _cursor: str | None, _limit: int) -> Page:
        return Page(found["items"] + found["totals"], None)

    return await _list(
        state,
        page,
        cursor=None,
        limit=reading.MAX_LIMIT,
        shape=shape,
        columns=reading.AGEING_COLUMNS,
        name="ageing",
    )


@get("/v1/discrepancies/{discrepancy_id:uuid}", responses=SHOWING, **READER)
async def show_case(state: State, discrepancy_id: FromPath[UUID]) -> dict[str, Any]:
    """Show one discrepancy with its history."""
    return await _shown_case(state, discrepancy_id)


@post(
    "/v1/discrepancies/{discrepancy_id:uuid}",
    status_code=200,
    responses=_problems(404, 409, 422),
    **OPERATOR,
)
async def change_case(
    state: State, discrepancy_id: FromPath[UUID], data: JSONBody[CaseChange]
) -> dict[str, Any]:
    """Set the state, owner or note of one discrepancy, and show it."""
    async with state.pool.acquire() as connection:
        try:
            await cases.change_one(
                connection, discrepancy_id, data, version=data.version, now=datetime.now(UTC)
            )
        except cases.Unknown:
            raise NotFoundException("no such discrepancy") from None
    return await _shown_case(state, discrepancy_id)


@post("/v1/discrepancies", status_code=200, responses=TAKING, **OPERATOR)
async def change_cases(state: State, data: JSONBody[CaseChanges]) -> dict[str, Any]:
    """Set the state, owner or note of up to 10,000 discrepancies, all or none."""
    now = datetime.now(UTC)
    if (data.ids is None) == (data.filter is None):
        raise Unprocessable("give either ids or a filter")
    async with state.pool.acquire() as connection:
        if data.ids is not None:
            done = await cases.change_many(connection, data.ids, data, now=now)
        else:
            assert data.filter is not None
            done = await cases.change_filtered(
                connection,
                _accounts(state, data.filter.account),
                data.filter,
                _filtered_period(data.filter),
                data,
                now=now,
            )
    return msgspec.to_builtins(done)  # type: ignore[no-any-return]


class CreditFile(msgspec.Struct):
    """A vendor's credit notes as multipart form data."""

    file: UploadFile
    account: str
    sheet: str | None = None


@post(
    "/v1/credits",
    status_code=200,
    responses=TAKING,
    request_max_body_size=MAX_UPLOAD_BYTES,
    **OPERATOR,
)
async def import_credits(state: State, data: MultipartBody[CreditFile]) -> dict[str, Any]:
    """Import a vendor's credit notes, whole or not at all, and set them against what is disputed."""
    settings = _account(state, data.account)
    async with _spooled(data.file) as path, state.pool.acquire() as connection:
        return await credits.import_file(
            connection,
            settings,
            path,
            file_name=Path(data.file.filename or "credits").name,
            sheet=data.sheet or None,
            now=datetime.now(UTC),
        )


@get("/v1/credits", responses=LISTING, **READER)
async def list_credits(
    state: State,
    account: Text = None,
    number: Text = None,
    unallocated: Annotated[bool, QueryParameter(description="only what is not used up")] = False,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List lines of credit notes with what became of each; those imported last first."""
    return await _list(
        state,
        lambda connection, cursor, limit: reading.credits(
            connection,
            _accounts(state, account),
            number=number,
            left=unallocated,
            cursor=cursor,
            limit=limit,
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=reading.CREDIT_COLUMNS,
        name="credits",
    )


async def _shown_case(state: State, case: UUID) -> dict[str, Any]:
    async with state.pool.acquire() as connection:
        found = await reading.case(connection, case, now=datetime.now(UTC))
    if found is None:
        raise NotFoundException("no such discrepancy")
    return found


def _filtered_period(chosen: cases.Filter) -> periods.Period | None:
    _check_kind(chosen.kind)
    return None if chosen.period is None else _period(chosen.period)


def _check_kind(kind: str | None) -> None:
    if kind is not None and kind not in match.KINDS:
        raise Unprocessable(f"no such kind; there are {', '.join(match.KINDS)}")


class Number(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose number to erase, and in whose name."""

    phone: Name
    by: Name = "api"


@post(
    "/v1/erasures",
    status_code=200,
    responses={
        **_problems(409, 413, 422),
        202: ResponseSpec(
            erasure.Erasure, generate_examples=False, description="Under way: ask for it by its id"
        ),
    },
    **ADMIN,
)
async def erase_number(state: State, data: JSONBody[Number]) -> Response[erasure.Erasure]:
    """Erase one number everywhere; answers when that is done, or with 202 when it takes longer."""
    begun = await erasure.begin(
        state.pool,
        pseudonyms(state.settings),
        data.phone,
        by=data.by,
        now=datetime.now(UTC),
    )
    erasing = state.erasing.start(state.pool, state.settings.accounts, begun)
    done, _ = await asyncio.wait({erasing}, timeout=_ERASING_SECONDS)
    if done:
        return Response(await erasing)
    async with state.pool.acquire() as connection:
        so_far = await erasure.one(connection, begun.id)
    assert so_far is not None
    headers = {"location": f"/v1/erasures/{begun.id}"}
    return Response(so_far, status_code=202, headers=headers)


@get("/v1/erasures/{erasure_id:uuid}", responses=SHOWING, **READER)
async def show_erasure(state: State, erasure_id: FromPath[UUID]) -> erasure.Erasure:
    """Show an erasure: how far it has come, never the number."""
    async with state.pool.acquire() as connection:
        found = await erasure.one(connection, erasure_id)
    if found is None:
        raise NotFoundException("no such erasure")
    return found


@get("/v1/erasures", responses=LISTING, **READER)
async def list_erasures(state: State, cursor: Text = None, limit: Limit = 100) -> Response[Any]:
    """List erasures, the newest first; never the numbers."""
    return await _list(
        state,
        lambda connection, cursor, limit: erasure.erasures(connection, cursor=cursor, limit=limit),
        cursor=cursor,
        limit=limit,
    )


@get("/v1/replays", responses=LISTING, **READER)
async def list_replays(state: State, cursor: Text = None, limit: Limit = 100) -> Response[Any]:
    """List what was parsed again and put right, the newest first."""
    return await _list(
        state,
        lambda connection, cursor, limit: replay.replays(connection, cursor=cursor, limit=limit),
        cursor=cursor,
        limit=limit,
    )


@get("/v1/signs", responses=LISTING, **READER)
async def list_signs(
    state: State,
    account: Text = None,
    status: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List signs (签名) with their review state and its history."""
    return await _reviews(state, "sign", account, status, cursor, limit, shape)


@get("/v1/templates", responses=LISTING, **READER)
async def list_templates(
    state: State,
    account: Text = None,
    status: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List templates (模板) with their review state and its history."""
    return await _reviews(state, "template", account, status, cursor, limit, shape)


@get("/v1/inbound", responses=LISTING, **READER)
async def list_inbound(
    state: State,
    since: Since = None,
    until: Until = None,
    account: Text = None,
    phone: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List messages from handsets, the newest first."""
    first, last = _time("from", since), _time("to", until)
    return await _list(
        state,
        lambda connection, cursor, limit: reading.inbound(
            connection,
            _accounts(state, account),
            phone=phone,
            since=first,
            until=last,
            cursor=cursor,
            limit=limit,
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=reading.INBOUND_COLUMNS,
        name="inbound",
    )


@get("/v1/balances", responses=LISTING, **READER)
async def list_balances(
    state: State,
    since: Since = None,
    until: Until = None,
    account: Text = None,
    kind: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List readings of what accounts have left, the newest first."""
    first, last = _time("from", since), _time("to", until)
    return await _list(
        state,
        lambda connection, cursor, limit: reading.balances(
            connection,
            _accounts(state, account),
            kind=kind,
            since=first,
            until=last,
            cursor=cursor,
            limit=limit,
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=reading.BALANCE_COLUMNS,
        name="balances",
    )


@get("/v1/balances/audit", responses=LISTING, **READER)
async def audit_balances(
    state: State,
    account: Annotated[str, QueryParameter()],
    period: Annotated[str, QueryParameter(description="2026-10, or 2026-10-01..2026-10-15")],
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """Audit an account's balances: what each lost between readings, beside what was owed then."""
    settings, days = _account(state, account), _period(period)
    # Also before a file: it says what stops the audit.
    async with state.pool.acquire() as connection:
        added = await auditing.totals(connection, settings, days)
        if shape == "json":
            found = await auditing.intervals(connection, settings, days, cursor=cursor, limit=limit)
            return Response({"items": found.items, "next": found.next, "totals": added})
    return await _list(
        state,
        lambda connection, cursor, limit: auditing.intervals(
            connection, settings, days, cursor=cursor, limit=limit
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=auditing.AUDIT_COLUMNS,
        name="balance-audit",
    )


@get("/v1/orphans", responses=LISTING, **READER)
async def list_orphans(
    state: State,
    since: Since = None,
    until: Until = None,
    account: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List messages that vendors report on and the ledger does not know, the newest first."""
    first, last = _time("from", since), _time("to", until)
    return await _list(
        state,
        lambda connection, cursor, limit: reading.orphans(
            connection,
            _accounts(state, account),
            since=first,
            until=last,
            cursor=cursor,
            limit=limit,
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=reading.ORPHAN_COLUMNS,
        name="orphans",
    )


class SuspectDecision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is decided on suspect reports: on those of `ids`, or on all that wait at `account`.

    `reason` narrows the latter to those that wait for it.
    """

    verdict: suspects.Verdict
    by: Name
    note: Annotated[str, msgspec.Meta(max_length=2000)] | None = None
    ids: Annotated[list[str], msgspec.Meta(min_length=1)] | None = None
    account: str | None = None
    reason: str | None = None


@get("/v1/suspects", responses=LISTING, **READER)
async def list_suspects(
    state: State,
    account: Text = None,
    suspect_state: Annotated[
        Literal["waiting", "confirmed", "contradicted", "accepted", "rejected"] | None,
        QueryParameter(name="state"),
    ] = None,
    reason: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List pushed reports that could not be trusted as they were; those found last first."""
    _check_reason(reason)
    return await _list(
        state,
        lambda connection, cursor, limit: reading.suspects(
            connection,
            _accounts(state, account),
            state=suspect_state,
            reason=reason,
            cursor=cursor,
            limit=limit,
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=reading.SUSPECT_COLUMNS,
        name="suspects",
    )


@post("/v1/suspects", status_code=200, responses=_problems(404, 413, 422), **OPERATOR)
async def decide_suspects(state: State, data: JSONBody[SuspectDecision]) -> dict[str, Any]:
    """Accept suspect reports, which count from then on, or reject them."""
    _check_reason(data.reason)
    if (data.ids is None) == (data.account is None):
        raise Unprocessable("give either ids or an account")
    if data.ids is not None and data.reason is not None:
        raise Unprocessable("a reason goes with an account")
    if data.account is not None:
        _account(state, data.account)
    actions.concerns(verdict=data.verdict)
    done = await suspects.decide(
        state.pool,
        data.verdict,
        ids=data.ids or (),
        account=data.account,
        reason=data.reason,
        by=data.by,
        note=data.note,
        now=datetime.now(UTC),
    )
    if data.ids is not None:
        actions.concerns(id=" ".join(data.ids))
    return msgspec.to_builtins(done)  # type: ignore[no-any-return]


def _check_reason(reason: str | None) -> None:
    if reason is not None and reason not in trust.REASONS:
        raise Unprocessable(f"no such reason; there are {', '.join(trust.REASONS)}")


@get("/v1/alarms", responses=LISTING, **READER)
async def list_alarms(
    state: State,
    account: Text = None,
    kind: Text = None,
    ended: Annotated[bool, QueryParameter(description="those that are over too")] = False,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List alarms, the newest first."""
    if kind is not None and kind not in alarms.KINDS:
        raise Unprocessable(f"no such kind; there are {', '.join(alarms.KINDS)}")
    return await _list(
        state,
        lambda connection, cursor, limit: reading.alarms(
            connection,
            [*_accounts(state, account), *([] if account else [alarms.HOUSE])],
            kind=kind,
            ended=ended,
            cursor=cursor,
            limit=limit,
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=reading.ALARM_COLUMNS,
        name="alarms",
    )


@get("/v1/arrivals", responses=LISTING, **READER)
async def list_arrivals(
    state: State, account: Text = None, shape: Format = "json"
) -> Response[Any]:
    """Say how soon receipts of each account come, or that it is still being learned."""

    async def page(connection: Any, _cursor: str | None, _limit: int) -> Page:
        return Page(await arrivals.shown(connection, _accounts(state, account)), None)

    return await _list(
        state,
        page,
        cursor=None,
        limit=reading.MAX_LIMIT,
        shape=shape,
        columns=arrivals.COLUMNS,
        name="arrivals",
    )


@get("/v1/drift", responses=LISTING, **READER)
async def list_drift(
    state: State,
    account: Text = None,
    every: Annotated[
        bool, QueryParameter(name="all", description="all that documents were seen to have")
    ] = False,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List fields, types and codes that were new in vendors' documents, the newest first."""
    return await _list(
        state,
        lambda connection, cursor, limit: reading.features(
            connection, _accounts(state, account), every=every, cursor=cursor, limit=limit
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=reading.FEATURE_COLUMNS,
        name="drift",
    )


@get("/v1/jobs", responses=LISTING, **READER)
async def list_jobs(state: State) -> dict[str, Any]:
    """List what each job did last, how often it failed, and which process runs it now."""
    async with state.pool.acquire() as connection:
        found = await reading.jobs(connection)
    return {"items": found.items, "next": found.next}


@get("/v1/pulls", responses=LISTING, **READER)
async def list_pulls(
    state: State,
    account: Text = None,
    pull_state: Annotated[
        Literal["intended", "recorded", "nothing", "lost"] | None, QueryParameter(name="state")
    ] = None,
    cursor: Text = None,
    limit: Limit = 100,
) -> Response[Any]:
    """List reads that the vendor hands out once; what a `lost` one held may be gone."""
    return await _list(
        state,
        lambda connection, cursor, limit: reading.pulls(
            connection, account, state=pull_state, cursor=cursor, limit=limit
        ),
        cursor=cursor,
        limit=limit,
    )


@get("/v1/actions", responses=LISTING, **ADMIN)
async def list_actions(
    state: State,
    since: Since = None,
    until: Until = None,
    actor: Text = None,
    what: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
) -> Response[Any]:
    """List what operators did by the API and by commands, the newest first."""
    first, last = _time("from", since), _time("to", until)
    return await _list(
        state,
        lambda connection, cursor, limit: actions.listed(
            connection,
            actor=actor,
            what=what,
            since=first,
            until=last,
            cursor=cursor,
            limit=limit,
        ),
        cursor=cursor,
        limit=limit,
    )


@get("/metrics", media_type=MediaType.TEXT, include_in_schema=False, **READER)
async def show_metrics(state: State) -> Response[bytes]:
    """Give what the processes of this machine count, for Prometheus."""
    await _show_balances(state)
    await _show_chain(state)
    await _show_watch(state)
    await _show_work(state)
    text = await asyncio.to_thread(metrics.exposition, os.environ.get(metrics.FOLDER_VARIABLE))
    return Response(text, media_type="text/plain; version=0.0.4")


@get("/health/live", include_in_schema=False, sync_to_thread=False, **OPEN)
def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "live"}


@get("/health/ready", include_in_schema=False, **OPEN)
async def ready(state: State) -> Response[dict[str, str]]:
    """Say whether the database answers."""
    try:
        async with asyncio.timeout(2), state.pool.acquire() as connection:
            await connection.execute(QUERIES["answers"])
    except DATABASE_ERRORS:
        return Response({"status": "database away"}, status_code=503)
    return Response({"status": "ready"})


def create_app(
    settings: Settings,
    database: Database,
    *,
    jobs: Callable[[Any, Mapping[str, Caller]], Any] | None = None,
) -> Litestar:
    """Make the application; `jobs(pool, callers)` gives the async context manager that runs beside it."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with database.pool() as pool, open_client() as http:
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
            register_sent,
            send_messages,
            show_send,
            list_messages,
            show_message,
            list_callbacks,
            show_callback,
            callback_body,
            import_statement,
            list_statements,
            reconcile,
            list_reconciliations,
            close_reconciliation,
            show_reconciliation,
            list_discrepancies,
            list_causes,
            list_adjustments,
            list_audit,
            run_audit,
            show_evidence,
            show_chain_head,
            list_cases,
            show_ageing,
            show_case,
            change_case,
            change_cases,
            import_credits,
            list_credits,
            erase_number,
            show_erasure,
            list_erasures,
            list_replays,
            list_signs,
            list_templates,
            list_inbound,
            list_balances,
            audit_balances,
            list_orphans,
            list_suspects,
            decide_suspects,
            list_alarms,
            list_arrivals,
            list_drift,
            list_jobs,
            list_pulls,
            list_actions,
            show_metrics,
            live,
            ready,
        ],
        lifespan=[lifespan, dashboard.lifespan],
        guards=[_permitted],
        middleware=[DefineMiddleware(Recorded, via="api", asker=lambda scope: scope["user"])],
        state=State(
            {
                "settings": settings,
                "database": database,
                # Each on a connection of its own: a minute's question holds up no job and no list.
                "audits": asyncio.Semaphore(_AUDITS),
            }
        ),
        exception_handlers={
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
        },
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
    _declare_files(app)
    # Around everything: Litestar's own middleware stands behind the look-up of the path.
    guarded = _Authorized(app, doorkeeper)
    app.asgi_handler = dashboard.Front(app, guarded, doorkeeper)
    return app


def _declare_files(app: Litestar) -> None:
    """Say in the document that a list with a `format` is given as a file too."""
    for path in (app.openapi_schema.paths or {}).values():
        if path.get is None or path.get.responses is None:
            continue
        if any(getattr(each, "name", "") == "format" for each in path.get.parameters or ()):
            content = path.get.responses["200"].content  # type: ignore[union-attr]
            assert content is not None
            file = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
            content |= {each: OpenAPIMediaType(schema=file) for each in _MEDIA_TYPES.values()}


class _Documents(Router):
    """Leaves out the page that Litestar has for what is not there: it is a problem, as everywhere."""

    def register(self, value: ControllerRouterHandler) -> list[BaseRoute]:
        if isinstance(value, HTTPRouteHandler) and value.media_type == MediaType.HTML:
            return []
        return super().register(value)


# On every answer, unless it brings its own: nothing of it is for a browser to run, frame or keep.
_HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; sandbox",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


class _Authorized:
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


def _permitted(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refuse a caller whose role is too small; a route that declares none is nobody's."""
    if connection.scope["method"] == "OPTIONS":  # type: ignore[typeddict-item]
        return  # Litestar's own, which says what methods there are
    if "role" not in handler.opt:
        raise PermissionDeniedException("nobody may ask this")
    if handler.opt["role"] is not None:
        _require(connection.scope, handler.opt["role"])


def _require(scope: Scope, role: Role) -> None:
    user = scope["user"]
    if user.role < role:
        enough = " or ".join(each.word for each in Role if each >= role)
        raise PermissionDeniedException(
            f"this takes a token with the role {enough}; {user.name} has the role {user.role.word}"
        )


async def _list(
    state: State,
    page: Callable[[Any, str | None, int], Awaitable[Page]],
    *,
    cursor: str | None,
    limit: int,
    shape: str = "json",
    columns: Sequence[str] = (),
    name: str = "",
) -> Response[Any]:
    """Answer with one page as JSON, or with every row from `cursor` on as a file."""
    if shape == "json":
        async with state.pool.acquire() as connection:
            found = await page(connection, cursor, limit)
        return Response({"items": found.items, "next": found.next})

    async def page_after(last: str | None) -> Page:
        async with state.pool.acquire() as connection:
            return await page(connection, last, reading.MAX_LIMIT)

    # Before the answer begins: once it has, an error could only break it off.
    first = await page_after(cursor)

    async def next_page(last: str | None) -> Page:
        return first if last is None else await page_after(last)

    rows = reading.every(next_page)
    disposition = {"content-disposition": f'attachment; filename="{name}.{shape}"'}
    if shape == "csv":
        return Stream(
            exports.csv_chunks(columns, rows),
            media_type=_MEDIA_TYPES[shape],
            headers=disposition,
        )
    try:
        path = await exports.xlsx_file(columns, rows)
    except exports.TooLong as error:
        raise Unprocessable(str(error)) from None
    return Stream(
        exports.file_chunks(path),
        media_type=_MEDIA_TYPES[shape],
        headers=disposition,
    )


async def _run(connection: Any, run_id: UUID) -> dict[str, Any]:
    found = await reading.run(connection, run_id)
    if found is None:
        raise NotFoundException("no such reconciliation")
    return found


async def _reviews(
    state: State,
    kind: str,
    account: str | None,
    status: str | None,
    cursor: str | None,
    limit: int,
    shape: str,
) -> Response[Any]:
    return await _list(
        state,
        lambda connection, cursor, limit: reading.reviews(
            connection, _accounts(state, account), kind, status=status, cursor=cursor, limit=limit
        ),
        cursor=cursor,
        limit=limit,
        shape=shape,
        columns=reading.REVIEW_COLUMNS,
        name=f"{kind}s",
    )


async def _show_balances(state: State) -> None:
    """Set the gauge to the newest readings, whichever process stored them."""
    try:
        async with asyncio.timeout(2), state.pool.acquire() as connection:
            found = await reading.newest_balances(connection, sorted(state.settings.accounts))
    except DATABASE_ERRORS as error:
        log.warning("balances.not_shown", error=type(error).__name__)
        return
    for account, kind, amount in found:
        metrics.BALANCE.labels(account, kind).set(float(amount))


async def _show_watch(state: State) -> None:
    """Set the gauges of what waits to be confirmed or understood, and of alarms."""
    accounts = sorted(state.settings.accounts)
    try:
        async with asyncio.timeout(2), state.pool.acquire() as connection:
            waiting = await connection.fetch(QUERIES["count_suspects"], accounts)
            known = await connection.fetch(QUERIES["alarm_states"], [*accounts, alarms.HOUSE])
            weighed = await connection.fetch(QUERIES["count_quarantine"], accounts)
    except DATABASE_ERRORS:
        return  # the gauges keep what they had; the rest is shown
    counts = {row["account"]: row["waiting"] for row in waiting}
    for account in accounts:
        metrics.SUSPECTS_WAITING.labels(account).set(counts.get(account, 0))
    for row in weighed:
        metrics.QUARANTINED.labels(row["account"]).set(row["waiting"])
    for row in known:
        metrics.ALARM.labels(row["account"], row["kind"]).set(row["stands"])


async def _show_chain(state: State) -> None:
    """Set the gauges to the newest link, whichever process made it."""
    try:
        async with asyncio.timeout(2), state.pool.acquire() as connection:
            found = await chain.head(connection)
            behind = await chain.behind_seconds(connection)
    except DATABASE_ERRORS as error:
        log.warning("chain.not_shown", error=type(error).__name__)
        return
    metrics.CHAIN_HEIGHT.set(found.height)
    metrics.CHAIN_BEHIND_SECONDS.set(behind)


async def _show_work(state: State) -> None:
    """Set the gauges of jobs and settling, whichever process does them; and whether that can be told."""
    away = metrics.DATABASE_AWAY.labels("reconciler")
    try:
        async with asyncio.timeout(2), state.pool.acquire() as connection:
            rows = await connection.fetch(QUERIES["list_jobs"])
            behind = await connection.fetchval(QUERIES["settlement_behind"])
    except DATABASE_ERRORS:
        away.set(1)
        return
    away.set(0)
    metrics.SETTLEMENT_BEHIND_SECONDS.set(behind)
    # One that has been taken out of the settings is late for ever, and no news.
    for name, account, every_seconds in state.schedule:
        metrics.JOB_EVERY_SECONDS.labels(name, account).set(every_seconds)
    scheduled = {(name, account) for name, account, _ in state.schedule}
    for row in rows:
        if (row["name"], row["account"]) not in scheduled:
            continue
        labels = row["name"], row["account"]
        metrics.JOB_FAILURES_IN_ROW.labels(*labels).set(row["failures_in_row"])
        # It is running: until it has ended, when it began is the least that can be said.
        ended = row["finished_at"] or row["started_at"]
        metrics.JOB_ENDED.labels(*labels).set(ended.timestamp())


def _sent_rows(body: bytes, content_type: str) -> list[Any]:
    """Return the decoded rows of a JSON array or NDJSON; a line that is no JSON is a ValueError in its place."""
    text = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"[") and "ndjson" not in content_type:
        try:
            return ledger.decode_array(text)
        except ValueError:
            raise HTTPException("the body is not JSON", status_code=400) from None
    if not text:
        raise HTTPException("the body is empty", status_code=400)
    found: list[Any] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            found.append(ledger.decode_row(line))
        except ValueError as error:
            found.append(error)
        if len(found) > ledger.MAX_ROWS:
            break
    if all(isinstance(row, ValueError) for row in found):
        raise HTTPException("the body is neither a JSON array nor NDJSON", status_code=400)
    return found


def _checked(
    rows: Sequence[Any], accounts: Mapping[str, AccountSettings], now: datetime
) -> Iterator[ledger.Sent | ledger.Rejected]:
    """Check decoded rows one by one, as they are registered: no other request waits for all of them."""
    for index, row in enumerate(rows):
        try:
            if isinstance(row, ValueError):
                raise row
            checked: ledger.Sent | ledger.Rejected = ledger.convert(row, accounts, now)
        except ValueError as error:
            checked = ledger.Rejected(index, str(error))
        yield checked


@contextlib.asynccontextmanager
async def _spooled(upload: UploadFile) -> AsyncIterator[Path]:
    """Copy an upload to a file of our own, in pieces, for as long as it is read."""
    with tempfile.NamedTemporaryFile(prefix="huizhi-", suffix=".statement") as file:
        while chunk := await upload.read(1 << 20):
            file.write(chunk)
        file.flush()
        yield Path(file.name)


def _time(name: str, text: str | None) -> datetime | None:
    """Read a time of the query; a + of its offset that came unescaped is a blank."""
    if text is None:
        return None
    try:
        spelt = re.sub(r" (?=\d\d:\d\d$)", "+", text)
        at: datetime = msgspec.convert(spelt, Annotated[datetime, msgspec.Meta(tz=True)])
        return at.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        detail = (
            f"{name}: {text[:40]!r} is no time with an offset, such as 2026-10-01T00:00:00+08:00"
        )
        raise HTTPException(detail, status_code=400) from None


def _account(state: State, name: str) -> AccountSettings:
    settings: AccountSettings | None = state.settings.accounts.get(name)
    if settings is None:
        raise Unprocessable(f"no account {name[:64]!r} in the settings")
    actions.concerns(account=name)
    return settings


def _accounts(state: State, name: str | None) -> list[str]:
    """Return the accounts to read: the one named, also if it has left the settings, or all."""
    return [name] if name is not None else sorted(state.settings.accounts)


def _period(text: str) -> periods.Period:
    try:
        period = periods.parse(text)
    except ValueError as error:
        raise Unprocessable(str(error)) from None
    actions.concerns(period=period)
    return period


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
