"""What an operator watches: alarms, arrivals, drift, jobs, pulls, and what operators did."""

from functools import partial
from typing import Annotated, Any, Literal

from litestar import Response, get
from litestar.datastructures import State
from litestar.params import QueryParameter

from reconciler import actions, alarms, arrivals
from reconciler.api.access import ADMIN, READER
from reconciler.api.asked import Since, Text, Until, accounts_of, between
from reconciler.api.lists import Format, Limit, all_or_file, one_page, page_or_file
from reconciler.api.problems import LISTING, Unprocessable
from reconciler.reading import watched


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
    return await page_or_file(
        state,
        partial(
            watched.alarms,
            accounts=[*accounts_of(state, account), *([] if account else [alarms.HOUSE])],
            kind=kind,
            ended=ended,
        ),
        cursor,
        limit,
        shape,
        columns=watched.ALARM_COLUMNS,
        name="alarms",
    )


@get("/v1/arrivals", responses=LISTING, **READER)
async def list_arrivals(
    state: State, account: Text = None, shape: Format = "json"
) -> Response[Any]:
    """Say how soon receipts of each account come, or that it is still being learned."""
    async with state.pool.acquire() as connection:
        shown = await arrivals.shown(connection, accounts_of(state, account))
    return await all_or_file(shown, shape, columns=arrivals.COLUMNS, name="arrivals")


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
    return await page_or_file(
        state,
        partial(watched.features, accounts=accounts_of(state, account), every=every),
        cursor,
        limit,
        shape,
        columns=watched.FEATURE_COLUMNS,
        name="drift",
    )


@get("/v1/jobs", responses=LISTING, **READER)
async def list_jobs(state: State) -> dict[str, Any]:
    """List what each job did last, how often it failed, and which process runs it now."""
    async with state.pool.acquire() as connection:
        found = await watched.jobs(connection)
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
    return await one_page(
        state, partial(watched.pulls, account=account, state=pull_state), cursor, limit
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
    first, last = between(since, until)
    return await one_page(
        state,
        partial(actions.listed, actor=actor, what=what, since=first, until=last),
        cursor,
        limit,
    )


ROUTES = [list_alarms, list_arrivals, list_drift, list_jobs, list_pulls, list_actions]
