"""Signs and templates, with every word of their vendors."""

from functools import partial
from typing import Any

from litestar import Response, get
from litestar.datastructures import State

from reconciler.api.access import READER
from reconciler.api.asked import Text, accounts_of
from reconciler.api.lists import Format, Limit, page_or_file
from reconciler.api.problems import LISTING
from reconciler.reading import reviewed


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


async def _reviews(
    state: State,
    kind: str,
    account: str | None,
    status: str | None,
    cursor: str | None,
    limit: int,
    shape: str,
) -> Response[Any]:
    return await page_or_file(
        state,
        partial(reviewed.reviews, accounts=accounts_of(state, account), kind=kind, status=status),
        cursor,
        limit,
        shape,
        columns=reviewed.REVIEW_COLUMNS,
        name=f"{kind}s",
    )


ROUTES = [list_signs, list_templates]
