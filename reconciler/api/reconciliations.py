"""Reconciliations: run, closed, and what each found."""

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, JSONBody, QueryParameter

from reconciler import actions, match
from reconciler.api.access import ADMIN, OPERATOR, READER, require
from reconciler.api.asked import Name, Text, check_kind, known_account, period_of
from reconciler.api.lists import Format, Limit, all_or_file, one_page, page_or_file
from reconciler.api.problems import CLOSING, LISTING, SHOWING, Unprocessable
from reconciler.causes import CAUSES
from reconciler.reading import billed
from reconciler.tokens import Role


class Reconciliation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to reconcile, and what becomes of it.

    `source`: the newest statement, or what reports say that messages cost. `assume`: what-if, by
    other rules than the settings'. `close` closes the period with the run, in the name of `by`.
    """

    account: str
    period: str
    source: match.Source = "statement"
    assume: dict[str, str | int | float] = {}
    close: bool = False
    by: Name = "api"


class Closing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In whose name a period is closed."""

    by: Name = "api"


@post("/v1/reconciliations", status_code=200, responses=CLOSING, **OPERATOR)
async def reconcile(
    request: Request[Any, Any, Any], state: State, data: JSONBody[Reconciliation]
) -> dict[str, Any]:
    """Reconcile an account's period against its bill; close it, or only assume something.

    Closing takes the role admin.
    """
    if data.close:
        require(request.scope, Role.ADMIN)
    settings = known_account(state, data.account)
    period = period_of(data.period)
    async with state.database.connection() as connection:
        result = await match.reconcile(
            connection,
            settings,
            period,
            now=datetime.now(UTC),
            source=data.source,
            assume={name: str(value) for name, value in data.assume.items()},
            close_by=data.by if data.close else None,
            beside=state.database.connection,
        )
        actions.concerns(reconciliation=result["id"], close=data.close)
        if data.close:
            return await _run(connection, UUID(result["id"]))
        return result


@get("/v1/reconciliations", responses=LISTING, **READER)
async def list_reconciliations(
    state: State,
    account: Text = None,
    assumed: Annotated[bool, QueryParameter()] = False,
    cursor: Text = None,
    limit: Limit = 100,
) -> Response[Any]:
    """List reconciliations, the newest first; with `assumed` those that assume something instead."""
    return await one_page(
        state, partial(billed.runs, account=account, assumed=assumed), cursor, limit
    )


@post(
    "/v1/reconciliations/{run_id:uuid}/close", status_code=200, responses=SHOWING | CLOSING, **ADMIN
)
async def close_reconciliation(
    state: State, run_id: FromPath[UUID], data: JSONBody[Closing | None] = None
) -> dict[str, Any]:
    """Close the run's period with it, for ever: what changes later is an adjustment."""
    by = (data or Closing()).by
    async with state.pool.acquire() as connection:
        if not await match.close(connection, run_id, by=by, now=datetime.now(UTC)):
            raise NotFoundException("no such reconciliation")
        return await _run(connection, run_id)


@get("/v1/reconciliations/{run_id:uuid}", responses=SHOWING, **READER)
async def show_reconciliation(state: State, run_id: FromPath[UUID]) -> dict[str, Any]:
    """Show one reconciliation, with when and by which rules it was run."""
    async with state.pool.acquire() as connection:
        return await _run(connection, run_id)


@get("/v1/reconciliations/{run_id:uuid}/discrepancies", responses=SHOWING | LISTING, **READER)
async def list_discrepancies(
    state: State,
    run_id: FromPath[UUID],
    kind: Text = None,
    cause: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List what a reconciliation found, in the order of kinds, ids and lines."""
    check_kind(kind)
    every_cause = [each for causes in CAUSES.values() for each in causes]
    if cause is not None and cause not in every_cause:
        raise Unprocessable(f"no such cause; there are {', '.join(every_cause)}")
    async with state.pool.acquire() as connection:
        await _run(connection, run_id)
    return await page_or_file(
        state,
        partial(billed.discrepancies, run_id=run_id, kind=kind, cause=cause),
        cursor,
        limit,
        shape,
        columns=billed.DISCREPANCY_COLUMNS,
        name="discrepancies",
    )


@get("/v1/reconciliations/{run_id:uuid}/causes", responses=SHOWING | LISTING, **READER)
async def list_causes(
    state: State, run_id: FromPath[UUID], shape: Format = "json"
) -> Response[Any]:
    """List why the bill differs, the cause with most money first; they add up to the difference."""
    async with state.pool.acquire() as connection:
        await _run(connection, run_id)
        found = await billed.causes(connection, run_id)
    return await all_or_file(found.items, shape, columns=billed.CAUSE_COLUMNS, name="causes")


@get("/v1/reconciliations/{run_id:uuid}/adjustments", responses=SHOWING | LISTING, **READER)
async def list_adjustments(
    state: State,
    run_id: FromPath[UUID],
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List what an adjustment changes of the closed run, message by message."""
    async with state.pool.acquire() as connection:
        await _run(connection, run_id)
    return await page_or_file(
        state,
        partial(billed.adjustments, run_id=run_id),
        cursor,
        limit,
        shape,
        columns=billed.ADJUSTMENT_COLUMNS,
        name="adjustments",
    )


async def _run(connection: Any, run_id: UUID) -> dict[str, Any]:
    found = await billed.run(connection, run_id)
    if found is None:
        raise NotFoundException("no such reconciliation")
    return found


ROUTES = [
    reconcile,
    list_reconciliations,
    close_reconciliation,
    show_reconciliation,
    list_discrepancies,
    list_causes,
    list_adjustments,
]
