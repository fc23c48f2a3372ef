"""What accounts have left, and whether it fell by what was owed."""

from functools import partial
from typing import Annotated, Any

from litestar import Response, get
from litestar.datastructures import State
from litestar.params import QueryParameter

from reconciler import auditing
from reconciler.api.access import READER
from reconciler.api.asked import Since, Text, Until, accounts_of, between, known_account, period_of
from reconciler.api.lists import Format, Limit, page_or_file
from reconciler.api.problems import LISTING
from reconciler.reading import arrived


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
    first, last = between(since, until)
    return await page_or_file(
        state,
        partial(
            arrived.balances,
            accounts=accounts_of(state, account),
            kind=kind,
            since=first,
            until=last,
        ),
        cursor,
        limit,
        shape,
        columns=arrived.BALANCE_COLUMNS,
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
    settings, days = known_account(state, account), period_of(period)
    # Also before a file: it says what stops the audit.
    async with state.pool.acquire() as connection:
        added = await auditing.totals(connection, settings, days)
        if shape == "json":
            found = await auditing.intervals(connection, settings, days, cursor=cursor, limit=limit)
            return Response({"items": found.items, "next": found.next, "totals": added})
    return await page_or_file(
        state,
        partial(auditing.intervals, settings=settings, period=days),
        cursor,
        limit,
        shape,
        columns=auditing.AUDIT_COLUMNS,
        name="balance-audit",
    )


ROUTES = [list_balances, audit_balances]
