"""What-if: a month by other rules than the settings', beside what it really came to."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from reconciler import match
from reconciler.actions import concerns
from reconciler.dashboard.pages import need, render
from reconciler.dashboard.reconciliation import chosen, shown_soon
from reconciler.dashboard.tasks import Task
from reconciler.match import EXACT
from reconciler.reading import billed
from reconciler.tokens import Role
from runtime import Problem
from runtime.queries import QUERIES

# What is asked of a bill; the API and the command assume more.
ASSUMED = ("price", "basis", "segment_rule", "poll_until_hours")


@post("/reconciliation/{account:str}/{period:str}/assume", status_code=200)
async def assume(
    request: Request[Any, Any, Any], state: State, account: FromPath[str], period: FromPath[str]
) -> Response[Any]:
    """Reconcile by what the form assumes; the run is kept apart and changes nothing."""
    need(request, Role.OPERATOR)
    settings, days = chosen(state, account, period)
    form = await request.form()
    given = {name: text for name in ASSUMED if (text := str(form.get(name) or "").strip())}
    if not given:
        raise Problem("nothing is assumed: give a price, a basis, a rule or hours")
    concerns(account=account, period=str(days), assume=sorted(given))
    back = f"/reconciliation/{account}/{days}"

    async def work(task: Task) -> None:
        task.progress("reconcile")
        async with state.database.connection() as connection:
            result = await match.reconcile(
                connection,
                settings,
                days,
                now=datetime.now(UTC),
                assume=given,
                beside=state.database.connection,
            )
        task.result = f"/assumed/{result['id']}"

    return await shown_soon(
        request, state.tasks.begin("reconcile", f"{account} {days}", back, work)
    )


@get("/assumed/{run_id:uuid}")
async def show_assumed(
    request: Request[Any, Any, Any], state: State, run_id: FromPath[UUID]
) -> Response[Any]:
    """Show a run that assumes something beside the newest real one of its period."""
    async with state.pool.acquire() as connection:
        run = await billed.run(connection, run_id)
        if run is None or "assumed" not in run:
            raise NotFoundException("no such run")
        _, days = chosen(state, run["account"], run["period"])
        causes = (await billed.causes(connection, run_id)).items
        rows = await connection.fetch(
            QUERIES["runs_of_period"], run["account"], days.first, days.last, 1
        )
        real = await billed.run(connection, rows[0]["id"]) if rows else None
        known = (await billed.causes(connection, rows[0]["id"])).items if rows else []
    return render(
        request,
        "assumed.html",
        run=run,
        run_id=run_id,
        real=real,
        amounts=[
            (name, _amount(real, name), _amount(run, name), _more(real, run, name))
            for name in ("owed", "billed", "difference")
        ],
        causes=_beside(known, causes),
    )


def _amount(run: Any, name: str) -> str | None:
    return None if run is None else run[name]["amount"]


def _more(real: Any, run: Any, name: str) -> str | None:
    if real is None:
        return None
    before, after = (Decimal(each[name]["amount"]) for each in (real, run))
    return match.money(EXACT.subtract(after, before))


def _beside(known: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the causes of both runs side by side, those of the assuming run first."""
    before, after = ({each["cause"]: each for each in causes} for causes in (known, found))
    return [
        {"cause": cause, "real": before.get(cause), "assumed": after.get(cause)}
        for cause in dict.fromkeys([*after, *before])
    ]


ROUTES = [assume, show_assumed]
