"""Reports that do not simply count: on unknown messages, and those that could not be trusted."""

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State
from litestar.params import JSONBody, QueryParameter

from reconciler import actions, suspects
from reconciler.api.access import OPERATOR, READER
from reconciler.api.asked import Name, Since, Text, Until, accounts_of, between, known_account
from reconciler.api.lists import Format, Limit, page_or_file
from reconciler.api.problems import LISTING, Unprocessable, problems
from reconciler.reading import arrived
from runtime import trust


class SuspectDecision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is decided on suspect reports: on those of `ids`, or on all that wait at `account`.

    `reason` narrows the latter to those that wait for it.
    """

    verdict: suspects.Verdict
    by: Name
    note: Annotated[str, msgspec.Meta(max_length=2000)] | None = None
    ids: Annotated[list[str], msgspec.Meta(min_length=1)] | None = None
    account: str | None = None
    reason: str | None = None


@get("/v1/orphans", responses=LISTING, **READER)
async def list_orphans(
    state: State,
    since: Since = None,
    until: Until = None,
    account: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List messages that vendors report on and the ledger does not know, the newest first."""
    first, last = between(since, until)
    return await page_or_file(
        state,
        partial(arrived.orphans, accounts=accounts_of(state, account), since=first, until=last),
        cursor,
        limit,
        shape,
        columns=arrived.ORPHAN_COLUMNS,
        name="orphans",
    )


@get("/v1/suspects", responses=LISTING, **READER)
async def list_suspects(
    state: State,
    account: Text = None,
    suspect_state: Annotated[
        Literal["waiting", "confirmed", "contradicted", "accepted", "rejected"] | None,
        QueryParameter(name="state"),
    ] = None,
    reason: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List pushed reports that could not be trusted as they were; those found last first."""
    _check_reason(reason)
    return await page_or_file(
        state,
        partial(
            arrived.suspects,
            accounts=accounts_of(state, account),
            state=suspect_state,
            reason=reason,
        ),
        cursor,
        limit,
        shape,
        columns=arrived.SUSPECT_COLUMNS,
        name="suspects",
    )


@post("/v1/suspects", status_code=200, responses=problems(404, 413, 422), **OPERATOR)
async def decide_suspects(state: State, data: JSONBody[SuspectDecision]) -> dict[str, Any]:
    """Accept suspect reports, which count from then on, or reject them."""
    _check_reason(data.reason)
    if (data.ids is None) == (data.account is None):
        raise Unprocessable("give either ids or an account")
    if data.ids is not None and data.reason is not None:
        raise Unprocessable("a reason goes with an account")
    if data.account is not None:
        known_account(state, data.account)
    actions.concerns(verdict=data.verdict)
    done = await suspects.decide(
        state.pool,
        data.verdict,
        ids=data.ids or (),
        account=data.account,
        reason=data.reason,
        by=data.by,
        note=data.note,
        now=datetime.now(UTC),
    )
    if data.ids is not None:
        actions.concerns(id=" ".join(data.ids))
    return msgspec.to_builtins(done)  # type: ignore[no-any-return]


def _check_reason(reason: str | None) -> None:
    if reason is not None and reason not in trust.REASONS:
        raise Unprocessable(f"no such reason; there are {', '.join(trust.REASONS)}")


ROUTES = [list_orphans, list_suspects, decide_suspects]
