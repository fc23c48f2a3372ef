"""Discrepancies as people work on them: found, assigned, commented on, disputed."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from msgspec import UNSET

from reconciler import cases, periods
from reconciler.actions import concerns
from reconciler.cases import STATES, Change, Filter
from reconciler.dashboard.pages import (
    accounts_of,
    asked,
    asker,
    goes_on,
    is_partial,
    link,
    need,
    render,
)
from reconciler.match import KINDS
from reconciler.reading import disputed
from reconciler.tokens import Role
from runtime import Problem

__all__ = ["ROUTES", "STATES", "listed"]

# What a person may set; `resolved` and `credited` come of runs and credit notes as well.
SETTABLE = ("open", "acknowledged", "disputed", "written_off", "credited")
_ROWS = 100
_FILTERS = ("account", "period", "kind", "state", "owner", "min_age_days")


def _filter(values: Mapping[str, Any]) -> tuple[Filter, periods.Period | None]:
    """Read a filter; raises `Problem`. An owner of "-" is nobody."""
    given = {name: values[name] for name in _FILTERS if values.get(name)}
    if given.get("owner") == "-":
        given["owner"] = ""
    try:
        chosen = msgspec.convert(given, Filter, strict=False)
        period = None if chosen.period is None else periods.parse(chosen.period)
    except (msgspec.ValidationError, ValueError) as error:
        raise Problem(str(error)) from None
    return chosen, period


async def listed(
    connection: Any, request: Request[Any, Any, Any], fixed: Mapping[str, str], now: datetime
) -> dict[str, Any]:
    """Return what the list of discrepancies shows; `fixed` is what its page is about."""
    values = {**{name: asked(request, name) for name in _FILTERS}, **fixed}
    chosen, period = _filter(values)
    page = await disputed.cases(
        connection,
        accounts_of(request, chosen.account),
        chosen,
        period,
        now=now,
        cursor=asked(request, "cursor"),
        limit=_ROWS,
    )
    return {
        "cases": page.items,
        "next": None if page.next is None else link("/discrepancies", values, cursor=page.next),
        "filters": values,
        "fixed": dict(fixed),
        "kinds": KINDS,
        "case_states": STATES,
        "settable": SETTABLE,
        "exports": link("/v1/discrepancies", {k: v for k, v in values.items() if v != "-"}),
    }


@get("/discrepancies")
async def show_list(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show discrepancies of all accounts and periods, or of those asked for."""
    fixed = {
        name: value
        for name in ("account", "period")
        if asked(request, "within") and (value := asked(request, name))
    }
    async with state.pool.acquire() as connection:
        shown = await listed(connection, request, fixed, datetime.now(UTC))
    template = "discrepancies.html"
    if is_partial(request):
        template = "case_rows.html" if asked(request, "cursor") else "case_list.html"
    return render(request, template, names=sorted(state.settings.accounts), **shown)


@post("/discrepancies", status_code=200)
async def change_many(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Set state, owner or note of the discrepancies chosen, or of all that the filter meets."""
    need(request, Role.OPERATOR)
    form = await request.form()
    change = _change(request, form)
    now = datetime.now(UTC)
    values = {name: str(form.get(name) or "") for name in _FILTERS}
    concerns(**{name: values[name] for name in ("account", "period", "kind") if values[name]})
    async with state.pool.acquire() as connection:
        if form.get("every") == "yes":
            chosen, period = _filter(values)
            done = await cases.change_filtered(
                connection, accounts_of(request, chosen.account), chosen, period, change, now=now
            )
        else:
            try:
                ids = [UUID(str(each)) for each in form.getall("case", [])]
            except ValueError:
                raise Problem("no discrepancy has such an id") from None
            if not ids:
                raise Problem("no discrepancy is chosen")
            concerns(id=" ".join(map(str, ids)))
            done = await cases.change_many(connection, ids, change, now=now)
        fixed = {name: values[name] for name in ("account", "period") if form.get(f"fixed_{name}")}
        shown = await listed(connection, request, {**values, **fixed}, now)
        shown["fixed"] = fixed
    return render(
        request, "case_list.html", names=sorted(state.settings.accounts), done=done, **shown
    )


def _change(request: Request[Any, Any, Any], form: Any) -> Change:
    state = str(form.get("to_state") or "")
    owner = str(form.get("to_owner") or "").strip()
    note = str(form.get("note") or "").strip().replace("\r\n", "\n")
    if state and state not in STATES:
        raise Problem("there is no such state")
    return Change(
        by=asker(request).name,
        state=state or UNSET,  # type: ignore[arg-type]
        owner=(None if owner == "-" else owner) if owner else UNSET,
        note=note or UNSET,
    )


@get("/discrepancies/{case_id:uuid}")
async def show_case(
    request: Request[Any, Any, Any], state: State, case_id: FromPath[UUID]
) -> Response[Any]:
    """Show one discrepancy with its history."""
    async with state.pool.acquire() as connection:
        found = await disputed.case(connection, case_id, now=datetime.now(UTC))
    if found is None:
        raise NotFoundException("no such discrepancy")
    return render(request, "case.html", case=found, settable=SETTABLE)


@post("/discrepancies/{case_id:uuid}", status_code=200)
async def change_one(
    request: Request[Any, Any, Any], state: State, case_id: FromPath[UUID]
) -> Response[Any]:
    """Set state, owner or note of one discrepancy, if nobody else changed it since it was shown."""
    need(request, Role.OPERATOR)
    form = await request.form()
    version = str(form.get("version") or "")
    async with state.pool.acquire() as connection:
        try:
            await cases.change_one(
                connection,
                case_id,
                _change(request, form),
                version=int(version) if version.isdigit() else None,
                now=datetime.now(UTC),
            )
        except cases.Unknown:
            raise NotFoundException("no such discrepancy") from None
    return goes_on(f"/discrepancies/{case_id}", request=request)


ROUTES = [show_list, change_many, show_case, change_one]
