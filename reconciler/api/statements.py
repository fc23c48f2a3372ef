"""Statements: vendors' bills, imported or only previewed."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State, UploadFile
from litestar.params import MultipartBody, QueryParameter

from reconciler import match, statements
from reconciler.api.access import OPERATOR, READER
from reconciler.api.asked import Text, known_account, period_of, spooled
from reconciler.api.lists import Limit, one_page
from reconciler.api.problems import LISTING, TAKING, Unprocessable
from reconciler.reading import billed
from reconciler.tables import MAX_UPLOAD_BYTES


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
    settings = known_account(state, data.account)
    period = period_of(data.period)
    try:
        layout = statements.format_layout(state.settings, data.format, sheet=data.sheet or None)
        expect = statements.expected(
            data.expect_lines, data.expect_segments, data.expect_amount or None
        )
    except ValueError as error:
        raise Unprocessable(str(error)) from None
    name = Path(data.file.filename or "statement").name
    async with spooled(data.file) as path:
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
    return await one_page(state, partial(billed.statements, account=account), cursor, limit)


ROUTES = [import_statement, list_statements]
