"""Audit queries: their questions, a form for each, the answer as table, chart and file."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from reconciler import audit
from reconciler.dashboard.pages import language, link, render
from runtime import Problem

_ROWS = 500
_POINTS = 120
_LABELS = ("date", "time", "text", "id")
_TONES = ("accent", "good", "warn", "bad", "plain", "other")


@get("/audit")
async def show_queries(request: Request[Any, Any, Any]) -> Response[Any]:
    """Show the questions that there are."""
    spoken = language(request)
    return render(
        request,
        "audits.html",
        queries=[
            {"name": query.name, "question": getattr(query.question, spoken)}
            for query in audit.AUDIT.values()
        ],
    )


@get("/audit/{name:str}")
async def show_query(
    request: Request[Any, Any, Any], state: State, name: FromPath[str]
) -> Response[Any]:
    """Show a question's form, and its answer once it is asked."""
    query = audit.AUDIT.get(name)
    if query is None:
        raise NotFoundException("no such query")
    spoken = language(request)
    known = {parameter.name for parameter in query.parameters}
    given = {
        key: value.strip()
        for key, value in request.query_params.items()
        if key in known and value.strip()
    }
    answer: dict[str, Any] = {"items": None, "truncated": False, "problem": None, "chart": None}
    if request.query_params.get("asked"):
        answer = await _answer(state, query, given, spoken)
    month = datetime.now(UTC).astimezone(state.settings.timezone).replace(day=1) - timedelta(days=1)
    return render(
        request,
        "audit.html",
        query=query,
        question=getattr(query.question, spoken),
        note=None if query.note is None else getattr(query.note, spoken),
        headings=query.headings(spoken),
        spoken=spoken,
        given=given,
        names=sorted(state.settings.accounts),
        month=f"{month:%Y-%m}",
        limit=_ROWS,
        exports=link(f"/v1/audit/{name}", given, lang=spoken),
        **answer,
    )


async def _answer(
    state: State, query: audit.Query, given: Mapping[str, str], spoken: str
) -> dict[str, Any]:
    try:
        asked = audit.ask(state.settings, query.name, given, now=datetime.now(UTC))
        async with state.audits, state.database.connection() as connection:
            items, truncated = await audit.first(
                connection, asked, limit=_ROWS, seconds=audit.API_SECONDS
            )
    except Problem as error:
        return {"items": None, "truncated": False, "problem": str(error), "chart": None}
    return {
        "items": items,
        "truncated": truncated,
        "problem": None,
        "chart": _chart(query, items, spoken),
    }


def _chart(
    query: audit.Query, items: Sequence[Mapping[str, Any]], spoken: str
) -> dict[str, Any] | None:
    """Draw the rows' first decimal, or last number: over days an account a line, else a bar a row.

    None where there is nothing that would be drawn well.
    """
    counted = [column for column in query.columns if column.type in ("integer", "decimal")]
    if not counted or len(items) < 2:
        return None
    value = next((column for column in counted if column.type == "decimal"), counted[-1])
    heading = value.heading if spoken == "zh" else value.name
    names = [column.name for column in query.columns]
    day = next((column.name for column in query.columns if column.type == "date"), None)
    if day is not None and "account" in names:
        return _lines(items, day, value.name, heading)
    labels = [
        column.name
        for column in query.columns
        if column.type in _LABELS and column.name != "currency"
    ][:3]
    if not labels or len(items) > _POINTS:
        return None
    return {
        "kind": "bars",
        "title": heading,
        "labels": [
            " ".join(str(item[name]) for name in labels if item[name] is not None) for item in items
        ],
        "series": [
            {
                "name": heading,
                "tone": "accent",
                "values": [_number(item[value.name]) for item in items],
            }
        ],
    }


def _lines(
    items: Sequence[Mapping[str, Any]], day: str, value: str, heading: str
) -> dict[str, Any] | None:
    days = sorted({item[day] for item in items if item[day] is not None})
    accounts = sorted({item["account"] for item in items})
    drawn = {(item["account"], item[day]): _number(item[value]) for item in items}
    # Two rows for one day of an account would be one point of the two.
    if len(drawn) < len(items) or len(days) < 2 or len(accounts) > len(_TONES):
        return None
    return {
        "kind": "lines",
        "title": heading,
        "labels": days,
        "series": [
            {
                "name": account,
                "tone": tone,
                "values": [drawn.get((account, each)) for each in days],
            }
            for account, tone in zip(accounts, _TONES, strict=False)
        ],
    }


def _number(value: Any) -> float | None:
    """Return what places a bar; the figure itself stands in the table."""
    try:
        return None if value is None else float(Decimal(str(value)))
    except InvalidOperation:
        return None


ROUTES = [show_queries, show_query]
