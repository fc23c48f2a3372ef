"""Discrepancies as people work on them: followed over reruns, changed one by one or many at once."""

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, JSONBody, QueryParameter

from reconciler import cases, periods
from reconciler.api.access import OPERATOR, READER
from reconciler.api.asked import Text, accounts_of, check_kind, period_of
from reconciler.api.lists import Format, Limit, all_or_file, page_or_file
from reconciler.api.problems import LISTING, SHOWING, TAKING, Unprocessable, problems
from reconciler.reading import disputed


class CaseChange(cases.Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to set in one discrepancy; with `version` only if that is still its version."""

    version: int | None = None


class CaseChanges(cases.Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to set in many discrepancies: those of `ids`, or those that `filter` meets."""

    ids: list[UUID] | None = None
    filter: cases.Filter | None = None


_Age = Annotated[
    int | None, QueryParameter(ge=0, le=100_000, description="at least so many days old")
]
_CaseState = Annotated[cases.State | None, QueryParameter(name="state")]


@get("/v1/discrepancies", responses=LISTING, **READER)
async def list_cases(
    state: State,
    account: Text = None,
    period: Text = None,
    kind: Text = None,
    case_state: _CaseState = None,
    owner: Text = None,
    min_age_days: _Age = None,
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
    return await page_or_file(
        state,
        partial(
            disputed.cases,
            accounts=accounts_of(state, account),
            chosen=chosen,
            period=days,
            now=now,
        ),
        cursor,
        limit,
        shape,
        columns=disputed.CASE_COLUMNS,
        name="discrepancies",
    )


@get("/v1/discrepancies/ageing", responses=LISTING, **READER)
async def show_ageing(state: State, account: Text = None, shape: Format = "json") -> Response[Any]:
    """Count discrepancies and add them up, by account, state and age."""
    async with state.pool.acquire() as connection:
        found = await disputed.ageing(
            connection, accounts_of(state, account), now=datetime.now(UTC)
        )
    if shape == "json":
        return Response(found)
    rows = found["items"] + found["totals"]
    return await all_or_file(rows, shape, columns=disputed.AGEING_COLUMNS, name="ageing")


@get("/v1/discrepancies/{discrepancy_id:uuid}", responses=SHOWING, **READER)
async def show_case(state: State, discrepancy_id: FromPath[UUID]) -> dict[str, Any]:
    """Show one discrepancy with its history."""
    return await _shown_case(state, discrepancy_id)


@post(
    "/v1/discrepancies/{discrepancy_id:uuid}",
    status_code=200,
    responses=problems(404, 409, 422),
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
                accounts_of(state, data.filter.account),
                data.filter,
                _filtered_period(data.filter),
                data,
                now=now,
            )
    return msgspec.to_builtins(done)  # type: ignore[no-any-return]


async def _shown_case(state: State, case: UUID) -> dict[str, Any]:
    async with state.pool.acquire() as connection:
        found = await disputed.case(connection, case, now=datetime.now(UTC))
    if found is None:
        raise NotFoundException("no such discrepancy")
    return found


def _filtered_period(chosen: cases.Filter) -> periods.Period | None:
    check_kind(chosen.kind)
    return None if chosen.period is None else period_of(chosen.period)


ROUTES = [list_cases, show_ageing, show_case, change_case, change_cases]
