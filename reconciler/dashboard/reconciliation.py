"""Reconciliation: months by account, one period with its runs, and what a run found."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from gateways.segments import Rule
from reconciler import evidence, match, periods
from reconciler.assumptions import BASES
from reconciler.causes import CAUSES
from reconciler.dashboard import discrepancies
from reconciler.dashboard.pages import (
    asked,
    asker,
    goes_on,
    is_partial,
    link,
    need,
    render,
    signed,
    words_of,
)
from reconciler.dashboard.pages import grouped as spelt
from reconciler.dashboard.tasks import Task
from reconciler.jobs import holder
from reconciler.match import EXACT
from reconciler.periods import Period
from reconciler.reading import billed
from reconciler.tokens import Role
from runtime import Problem
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

MONTHS = 12
_RUNS = 50
_STEPS = 14  # of a waterfall between owed and billed; smaller causes are one together
_ROWS = 100


@get("/reconciliation")
async def show_months(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show each account's months, and how each stands."""
    accounts: Mapping[str, AccountSettings] = state.settings.accounts
    today = datetime.now(UTC).astimezone(state.settings.timezone).date()
    current = f"{today:%Y-%m}"
    try:
        months = [periods.parse(asked(request, "until") or current)]
    except ValueError as error:
        raise Problem(str(error)) from None
    while len(months) < MONTHS:
        before = months[-1].first - timedelta(days=1)
        months.append(periods.parse(f"{before:%Y-%m}"))
    newest, oldest = months[0], months[-1]
    cells: dict[tuple[Period, str], dict[str, Any]] = {}
    async with state.pool.acquire() as connection:
        rows = await connection.fetch(
            QUERIES["periods_of_accounts"], sorted(accounts), oldest.first, newest.last
        )
        for row in rows:
            period = Period(row["first_day"], row["last_day"])
            cells[period, row["account"]] = _cell(row)
        missing = [
            (name, each, *each.bounds(settings.account.zone))
            for name, settings in accounts.items()
            for each in months
            if (each, name) not in cells
        ]
        found = await connection.fetch(
            QUERIES["months_with_messages"],
            [name for name, *_ in missing],
            [each.first for _, each, *_ in missing],
            [starts for *_, starts, _ in missing],
            [ends for *_, ends in missing],
        )
    sent = {(row["account"], row["first_day"]) for row in found}
    for name, each, *_ in missing:
        if (name, each.first) in sent:
            cells[each, name] = {"status": "no_statement", "result": None, "closed": False}
    shown = sorted({period for period, _ in cells}, key=lambda period: (period.last, period.first))
    return render(
        request,
        "months.html",
        accounts=sorted(accounts),
        periods=[
            {
                "period": str(period),
                "cells": [cells.get((period, name)) for name in sorted(accounts)],
            }
            for period in reversed(shown)
        ],
        current=current,
        span=f"{oldest.first:%Y-%m} – {newest.last:%Y-%m}",
        earlier=f"{oldest.first - timedelta(days=1):%Y-%m}",
        later=None
        if newest.last >= today
        else min(f"{newest.last + timedelta(days=365):%Y-%m}", current),
    )


def _cell(row: Any) -> dict[str, Any]:
    result = None if row["result"] is None else msgspec.json.decode(row["result"])
    newer = row["imported_at"] is not None and (
        row["run_at"] is None or row["imported_at"] > row["run_at"]
    )
    status = "no_statement" if result is None else result["status"]
    return {
        "status": "unreconciled" if newer else status,
        "result": result,
        "closed": row["closed_run"] is not None,
    }


@get("/reconciliation/{account:str}/{period:str}")
async def show_period(
    request: Request[Any, Any, Any], state: State, account: FromPath[str], period: FromPath[str]
) -> Response[Any]:
    """Show how an account's bill of a period stands: the newest run, or the one asked for."""
    settings, days = chosen(state, account, period)
    version = asked(request, "version")
    whose = (account, days.first, days.last)
    now = datetime.now(UTC)
    async with state.pool.acquire() as connection:
        statements = await connection.fetch(QUERIES["statements_of_period"], *whose)
        rows = await connection.fetch(QUERIES["runs_of_period"], *whose, _RUNS)
        closing = await connection.fetchrow(QUERIES["closing_of_period"], *whose)
        runs = [{**row, "result": msgspec.json.decode(row["result"])} for row in rows]
        shown = next(
            (run for run in runs if version is None or str(run["version"]) == version), None
        )
        causes = [] if shown is None else (await billed.causes(connection, shown["id"])).items
        counted = await connection.fetch(QUERIES["states_of_cases"], *whose)
        listed = await discrepancies.listed(
            connection, request, {"account": account, "period": period}, now
        )
    words = words_of(request)
    closed = closing is not None and closing["closed_run"] is not None
    newest = runs[0] if runs else None
    return render(
        request,
        "period.html",
        account=account,
        period=str(days),
        vendor=settings.gateway.vendor,
        statements=statements,
        runs=runs,
        run=shown,
        newest=newest,
        stale=bool(statements and newest and statements[0]["imported_at"] > newest["run_at"]),
        closing=closing if closed else None,
        causes=causes,
        chart=None if shown is None else _waterfall(shown["result"], causes, words),
        states=_states(counted),
        bases=BASES,
        rules=tuple(Rule),
        **listed,
    )


def chosen(state: State, account: str, period: str) -> tuple[AccountSettings, Period]:
    """Return an account's settings and a period; nothing is found for others."""
    settings = state.settings.accounts.get(account)
    try:
        days = periods.parse(period)
    except ValueError:
        raise NotFoundException("no such period") from None
    if settings is None:
        raise NotFoundException("no such account")
    return settings, days


def _states(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Add cases up by state, and say what is left of each."""
    added: dict[str, dict[str, Any]] = {}
    for row in rows:
        each = added.setdefault(
            row["state"], {"state": row["state"], "count": 0, "rest": Decimal(0)}
        )
        each["count"] += row["count"]
        each["rest"] = EXACT.add(each["rest"], row["rest"])
    return [
        {**added[state], "rest": match.money(added[state]["rest"])}
        for state in discrepancies.STATES
        if state in added
    ]


def _waterfall(
    result: Mapping[str, Any], causes: Sequence[Mapping[str, Any]], words: Any
) -> dict[str, Any]:
    """Make steps from what is owed to what was billed; floats only place the bars."""
    priced = [cause for cause in causes if Decimal(cause["amount"])]
    named = [(words(f"cause.{each['cause']}"), Decimal(each["amount"])) for each in priced[:_STEPS]]
    if rest := priced[_STEPS:]:
        others = sum((Decimal(each["amount"]) for each in rest), Decimal(0))
        named.append((words("period.other_causes", n=len(rest)), others))
    owed = Decimal(result["owed"]["amount"])
    billed = Decimal(result["billed"]["amount"])
    steps: list[dict[str, Any]] = [
        {
            "name": words("col.owed"),
            "from": 0.0,
            "to": float(owed),
            "text": spelt(owed),
            "tone": "plain",
        }
    ]
    at = owed
    for name, amount in named:
        steps.append(
            {
                "name": name,
                "from": float(at),
                "to": float(at + amount),
                "text": signed(amount),
                "tone": "bad" if amount > 0 else "good",
            }
        )
        at += amount
    steps.append(
        {
            "name": words("col.billed"),
            "from": 0.0,
            "to": float(billed),
            "text": spelt(billed),
            "tone": "accent",
        }
    )
    return {
        "kind": "waterfall",
        "steps": steps,
        "currency": result["currency"],
        "from_zero": not named,
    }


@post("/reconciliation/{account:str}/{period:str}/run", status_code=200)
async def reconcile(
    request: Request[Any, Any, Any], state: State, account: FromPath[str], period: FromPath[str]
) -> Response[Any]:
    """Reconcile, and show how far it is."""
    need(request, Role.OPERATOR)
    settings, days = chosen(state, account, period)
    back = f"/reconciliation/{account}/{days}"
    source: match.Source = (
        "reports" if (await request.form()).get("source") == "reports" else "statement"
    )

    async def work(task: Task) -> None:
        task.progress("reconcile")
        async with state.database.connection() as connection:
            await match.reconcile(
                connection,
                settings,
                days,
                now=datetime.now(UTC),
                source=source,
                beside=state.database.connection,
            )
        task.result = back

    task = state.tasks.begin("reconcile", f"{account} {days}", back, work)
    return await shown_soon(request, task)


async def shown_soon(request: Request[Any, Any, Any], task: Task) -> Response[Any]:
    """Go on to the result of a task if it ends at once, else to its progress."""
    await task.soon()
    if task.result is not None and task.ended is not None and task.error is None:
        return goes_on(task.result, request=request)
    return goes_on(f"/tasks/{task.id}", request=request)


@post("/runs/{run_id:uuid}/close", status_code=200)
async def close(
    request: Request[Any, Any, Any], state: State, run_id: FromPath[UUID]
) -> Response[Any]:
    """Close a run's period with it, for ever."""
    need(request, Role.ADMIN)
    if (await request.form()).get("sure") != "yes":
        raise Problem("closing was not confirmed")
    async with state.pool.acquire() as connection:
        found = await billed.run(connection, run_id)
        closed = await match.close(
            connection, run_id, by=asker(request).name, now=datetime.now(UTC)
        )
    if found is None or not closed:
        raise NotFoundException("no such run")
    return goes_on(f"/reconciliation/{found['account']}/{found['period']}", request=request)


@post("/runs/{run_id:uuid}/evidence", status_code=200)
async def pack(
    request: Request[Any, Any, Any], state: State, run_id: FromPath[UUID]
) -> Response[Any]:
    """Make a run's evidence package, and show how far it is."""
    async with state.pool.acquire() as connection:
        found = await billed.run(connection, run_id)
    if found is None:
        raise NotFoundException("no such run")

    async def work(task: Task) -> None:
        path = state.tasks.folder / f"{task.id}.zip"
        async with state.database.connection() as connection:
            await evidence.write(
                state.pool,
                connection,
                run_id,
                path,
                holder=holder(),
                patience_seconds=evidence.LONG_PATIENCE_SECONDS,
                progress=task.progress,
            )
        task.file = path
        task.file_name = f"evidence-{found['account']}-{found['period']}.zip"

    back = f"/reconciliation/{found['account']}/{found['period']}"
    task = state.tasks.begin("evidence", f"{found['account']} {found['period']}", back, work)
    return await shown_soon(request, task)


@get("/runs/{run_id:uuid}")
async def show_found(
    request: Request[Any, Any, Any], state: State, run_id: FromPath[UUID]
) -> Response[Any]:
    """Show what a run found, of one cause or kind or all."""
    kind, cause, cursor = (asked(request, name) for name in ("kind", "cause", "cursor"))
    async with state.pool.acquire() as connection:
        run = await billed.run(connection, run_id)
        if run is None:
            raise NotFoundException("no such run")
        page = await billed.discrepancies(
            connection, run_id, kind=kind, cause=cause, cursor=cursor, limit=_ROWS
        )
    here = f"/runs/{run_id}"
    values = {"kind": kind, "cause": cause}
    return render(
        request,
        "found_rows.html" if cursor and is_partial(request) else "found.html",
        run=run,
        run_id=run_id,
        items=page.items,
        next=None if page.next is None else link(here, values, cursor=page.next),
        kind=kind,
        cause=cause,
        kinds=match.KINDS,
        causes=CAUSES,
        exports=f"/v1/reconciliations/{run_id}/discrepancies",
        values=values,
    )


ROUTES = [show_months, show_period, reconcile, close, pack, show_found]
