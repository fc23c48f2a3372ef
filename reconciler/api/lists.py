"""Lists: a page as JSON, or every row from a cursor on as a file."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal

from litestar import Litestar, Response
from litestar.datastructures import State
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Schema
from litestar.openapi.spec.enums import OpenAPIFormat
from litestar.params import QueryParameter
from litestar.response import Stream

from reconciler import exports, reading
from reconciler.api.problems import Unprocessable
from reconciler.reading import Page

Limit = Annotated[int, QueryParameter(ge=1, le=reading.MAX_LIMIT)]
Format = Annotated[Literal["json", "csv", "xlsx"], QueryParameter(name="format")]
MEDIA_TYPES = {
    "csv": "text/csv",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


async def page_or_file(
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
            media_type=MEDIA_TYPES[shape],
            headers=disposition,
        )
    try:
        path = await exports.xlsx_file(columns, rows)
    except exports.TooLong as error:
        raise Unprocessable(str(error)) from None
    return Stream(
        exports.file_chunks(path),
        media_type=MEDIA_TYPES[shape],
        headers=disposition,
    )


def declare_files(app: Litestar) -> None:
    """Say in the document that a list with a `format` is given as a file too."""
    for path in (app.openapi_schema.paths or {}).values():
        if path.get is None or path.get.responses is None:
            continue
        if any(getattr(each, "name", "") == "format" for each in path.get.parameters or ()):
            content = path.get.responses["200"].content  # type: ignore[union-attr]
            assert content is not None
            file = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
            content |= {each: OpenAPIMediaType(schema=file) for each in MEDIA_TYPES.values()}
