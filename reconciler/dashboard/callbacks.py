"""Callbacks: what vendors pushed, what nobody understood of it, and reading that again."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.params import FromPath

from reconciler import story
from reconciler.actions import concerns
from reconciler.dashboard.messages import days_asked
from reconciler.dashboard.pages import (
    account_asked,
    accounts_of,
    asked,
    asker,
    is_partial,
    link,
    need,
    render,
)
from reconciler.dashboard.reconciliation import shown_soon
from reconciler.dashboard.records import shown_record
from reconciler.dashboard.tasks import Task
from reconciler.reading import arrived
from reconciler.replay import Replay, Span
from reconciler.tokens import Role

STATES = ("recorded", "settled", "quarantined")
_ROWS = 100
_SHOWN = 200  # of what a replay would change; the command tells all of it
_FILTERS = ("account", "state", "from", "to")


@get("/callbacks")
async def show_list(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show callbacks, the newest first."""
    account = account_asked(request)
    values = {name: asked(request, name) for name in _FILTERS}
    since, until = days_asked(request, state.settings, account)
    cursor = asked(request, "cursor")
    async with state.pool.acquire() as connection:
        page = await arrived.callbacks(
            connection,
            accounts_of(request, account),
            state=values["state"] if values["state"] in STATES else None,
            since=since,
            until=until,
            cursor=cursor,
            limit=_ROWS,
        )
    plan = state.tasks.get(asked(request, "plan") or "")
    template = "callback_rows.html" if cursor and is_partial(request) else "callbacks.html"
    return render(
        request,
        template,
        items=page.items,
        next=None if page.next is None else link("/callbacks", values, cursor=page.next),
        values=values,
        names=sorted(state.settings.accounts),
        states=STATES,
        plan=None if plan is None else plan.plan,
    )


@get("/callbacks/{digest:str}")
async def show_callback(
    request: Request[Any, Any, Any], state: State, digest: FromPath[str]
) -> Response[Any]:
    """Show one callback: its story, its bytes, and what today's parser makes of them."""
    shown = await shown_record(state, digest)
    async with state.pool.acquire() as connection:
        told = await story.tell(connection, state.settings.accounts, shown["record"]["digest"])
    return render(request, "callback.html", **shown, steps=[] if told is None else told["steps"])


@post("/replay", status_code=200)
async def read_again(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Say what parsing stored bytes again would change, or do it."""
    need(request, Role.OPERATOR)
    form = await request.form()
    account = str(form.get("account") or "") or None
    really = form.get("really") == "yes"
    concerns(account=account, dry_run=not really)
    back = link("/callbacks", {"account": account, "state": "quarantined"})
    by = asker(request).name

    async def work(task: Task) -> None:
        # On a connection of its own, which keeps the working tables; all stored bytes are parsed.
        async with state.database.connection() as connection:
            again = Replay(connection, state.settings.accounts, Span(account=account))
            await again.plan(progress=lambda count: task.progress(f"{count:,}"))
            if really:
                await again.apply(by=by, now=datetime.now(UTC))
            else:
                task.plan = {
                    "counts": msgspec.structs.asdict(again.done),
                    "money": await again.money(),
                    "states": await _first(again.states()),
                    "reports": await _first(again.reports()),
                }
        task.result = back if really else link(back, {}, plan=task.id)

    return await shown_soon(request, state.tasks.begin("replay", account or "", back, work))


async def _first(rows: AsyncGenerator[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with aclosing(rows):
        async for row in rows:
            found.append(row)
            if len(found) == _SHOWN:
                break
    return found


ROUTES = [show_list, show_callback, read_again]
