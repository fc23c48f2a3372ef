"""Suspects: pushed reports that fall short of trust, and what people decide on them."""

from datetime import UTC, datetime
from typing import Any

from litestar import Request, Response, get, post
from litestar.datastructures import State

from reconciler.actions import concerns
from reconciler.dashboard.pages import (
    account_asked,
    accounts_of,
    asked,
    asker,
    goes_on,
    is_partial,
    link,
    need,
    render,
)
from reconciler.reading import arrived
from reconciler.suspects import decide
from reconciler.tokens import Role
from runtime import Problem
from runtime.trust import REASONS, STATES

_ROWS = 100


@get("/suspects")
async def show_suspects(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show reports that could not be trusted as they were, those found last first."""
    account = account_asked(request)
    values = {name: asked(request, name) for name in ("account", "state", "reason")}
    cursor = asked(request, "cursor")
    async with state.pool.acquire() as connection:
        page = await arrived.suspects(
            connection,
            accounts_of(request, account),
            state=values["state"] if values["state"] in STATES else None,
            reason=values["reason"] if values["reason"] in REASONS else None,
            cursor=cursor,
            limit=_ROWS,
        )
    template = "suspect_rows.html" if cursor and is_partial(request) else "suspects.html"
    return render(
        request,
        template,
        items=page.items,
        next=None if page.next is None else link("/suspects", values, cursor=page.next),
        values=values,
        names=sorted(state.settings.accounts),
        states=STATES,
        reasons=REASONS,
        exports=link("/v1/suspects", values),
    )


@post("/suspects", status_code=200)
async def decide_one(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Accept a report, which counts from then on, or reject it."""
    need(request, Role.OPERATOR)
    form = await request.form()
    id, verdict = str(form.get("id") or ""), form.get("verdict")
    if verdict not in ("accepted", "rejected"):
        raise Problem("there is no such verdict")
    concerns(id=id, verdict=verdict)
    await decide(
        state.pool,
        verdict,
        ids=[id],
        by=asker(request).name,
        note=str(form.get("note") or "").strip() or None,
        now=datetime.now(UTC),
    )
    account = str(form.get("account") or "") or None
    return goes_on(link("/suspects", {"account": account, "state": "waiting"}), request=request)


ROUTES = [show_suspects, decide_one]
