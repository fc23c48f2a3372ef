"""Messages from handsets."""

from functools import partial
from typing import Any

from litestar import Response, get
from litestar.datastructures import State

from reconciler.api.access import READER
from reconciler.api.asked import Since, Text, Until, accounts_of, between
from reconciler.api.lists import Format, Limit, page_or_file
from reconciler.api.problems import LISTING
from reconciler.reading import arrived


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
    first, last = between(since, until)
    return await page_or_file(
        state,
        partial(
            arrived.inbound,
            accounts=accounts_of(state, account),
            phone=phone,
            since=first,
            until=last,
        ),
        cursor,
        limit,
        shape,
        columns=arrived.INBOUND_COLUMNS,
        name="inbound",
    )


ROUTES = [list_inbound]
