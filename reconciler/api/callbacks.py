"""Callbacks: what vendors pushed, what became of it, and the bytes themselves."""

from functools import partial
from typing import Annotated, Any, Literal

from litestar import Response, get
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, QueryParameter

from reconciler import story
from reconciler.api.access import READER
from reconciler.api.asked import Since, Text, Until, accounts_of, between
from reconciler.api.lists import Limit, one_page
from reconciler.api.problems import LISTING, problems
from reconciler.reading import arrived


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
    first, last = between(since, until)
    return await one_page(
        state,
        partial(
            arrived.callbacks,
            accounts=accounts_of(state, account),
            state=callback_state,
            since=first,
            until=last,
        ),
        cursor,
        limit,
    )


@get("/v1/callbacks/{callback_id:str}", responses=problems(404), **READER)
async def show_callback(state: State, callback_id: FromPath[str]) -> dict[str, Any]:
    """Tell what became of a callback, or of a vendor's reply, step by step."""
    digest = _digest(callback_id)
    async with state.pool.acquire() as connection:
        told = await story.tell(connection, state.settings.accounts, digest)
    if told is None:
        raise NotFoundException("no such callback")
    return told


@get("/v1/callbacks/{callback_id:str}/body", responses=problems(404, 410), **READER)
async def callback_body(state: State, callback_id: FromPath[str]) -> Response[bytes]:
    """Give the exact bytes of a callback, or of a vendor's reply that is evidence for a report."""
    digest = _digest(callback_id)
    async with state.pool.acquire() as connection:
        body = await arrived.record_bytes(connection, digest)
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


def _digest(callback_id: str) -> bytes:
    try:
        return bytes.fromhex(callback_id)
    except ValueError:
        raise NotFoundException("no such callback") from None


ROUTES = [list_callbacks, show_callback, callback_body]
