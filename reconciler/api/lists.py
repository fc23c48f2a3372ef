"""Lists: a page as JSON, or every row from a cursor on as a file."""

from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import Annotated, Any, Literal, Protocol

from litestar import Litestar, Response
from litestar.datastructures import State
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Schema
from litestar.openapi.spec.enums import OpenAPIFormat
from litestar.params import QueryParameter
from litestar.response import Stream

from reconciler import exports
from reconciler.api.problems import Unprocessable
from reconciler.reading.paging import MAX_LIMIT, Page, every

Limit = Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT)]
Format = Annotated[Literal["json", "csv", "xlsx"], QueryParameter(name="format")]
_MEDIA_TYPES = {
    "csv": "text/csv",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


class _Read(Protocol):
    """Reads a page of a list; what it is narrowed to has been given."""

    def __call__(
        self, connection: Any, /, *, cursor: str | None, limit: int
    ) -> Awaitable[Page]: ...


async def one_page(state: State, read: _Read, cursor: str | None, limit: int) -> Response[Any]:
    """Answer with one page."""
    async with state.pool.acquire() as connection:
        found = await read(connection, cursor=cursor, limit=limit)
    return Response({"items": found.items, "next": found.next})


async def page_or_file(
    state: State,
    read: _Read,
    cursor: str | None,
    limit: int,
    shape: str,
    *,
    columns: Sequence[str],
    name: str,
) -> Response[Any]:
    """Answer with one page as JSON, or with every row from `cursor` on as a file."""
    if shape == "json":
        return await one_page(state, read, cursor, limit)

    async def page_after(last: str | None) -> Page:
        async with state.pool.acquire() as connection:
            return await read(connection, cursor=last, limit=MAX_LIMIT)

    # Before the answer begins: once it has, an error could only break it off.
    first = await page_after(cursor)

    async def next_page(last: str | None) -> Page:
        return first if last is None else await page_after(last)

    return await _file(every(next_page), shape, columns, name)


async def all_or_file(
    items: Sequence[dict[str, Any]], shape: str, *, columns: Sequence[str], name: str
) -> Response[Any]:
    """Answer with a list that is never long: all of it as JSON, or as a file."""
    if shape == "json":
        return Response({"items": items, "next": None})

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for item in items:
            yield item

    return await _file(rows(), shape, columns, name)


async def _file(
    rows: AsyncIterator[dict[str, Any]], shape: str, columns: Sequence[str], name: str
) -> Stream:
    if shape == "csv":
        return attachment(exports.csv_chunks(columns, rows), name, shape)
    try:
        path = await exports.xlsx_file(columns, rows)
    except exports.TooLong as error:
        raise Unprocessable(str(error)) from None
    return attachment(exports.file_chunks(path), name, shape)


def attachment(chunks: AsyncIterator[bytes] | Iterator[bytes], name: str, shape: str) -> Stream:
    """Answer with a file of the format `shape`, to be saved under `name`."""
    return Stream(
        chunks,
        media_type=_MEDIA_TYPES[shape],
        headers={"content-disposition": f'attachment; filename="{name}.{shape}"'},
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
            content |= {each: OpenAPIMediaType(schema=file) for each in _MEDIA_TYPES.values()}
