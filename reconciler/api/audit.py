"""Billing audit queries: which there are, and what each finds."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.params import FromPath, QueryParameter

from reconciler import audit, exports
from reconciler.api.access import READER
from reconciler.api.lists import Format, attachment
from reconciler.api.problems import LISTING, SHOWING, Unprocessable


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
    return attachment(exports.file_chunks(path), query_name, shape)


ROUTES = [list_audit, run_audit]
