"""Messages: found by number, id, reference or time; one with all that is known of it."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from reconciler.dashboard.pages import (
    account_asked,
    accounts_of,
    asked,
    is_partial,
    link,
    render,
    zone_of,
)
from reconciler.dashboard.records import shown_record
from reconciler.periods import day_start
from reconciler.reading import sent
from runtime import Problem
from runtime.settings import Settings

STATUSES = (
    "submitting",
    "submitted",
    "delivered",
    "failed",
    "expired",
    "indeterminate",
    "refused",
)
_ROWS = 100
_FILTERS = ("account", "phone", "vendor_message_id", "reference", "status", "from", "to")


def days_asked(
    request: Request[Any, Any, Any], settings: Settings, account: str | None
) -> tuple[datetime | None, datetime | None]:
    """Return the first moment and the first after the days of the query, both days in."""
    zone = zone_of(settings, account)
    first, last = (_day(asked(request, name)) for name in ("from", "to"))
    return (
        None if first is None else day_start(first, zone),
        None if last is None else day_start(last + timedelta(days=1), zone),
    )


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Problem(f"{text[:20]!r} is no day") from None


@get("/messages")
async def show_list(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show messages, the newest first."""
    account = account_asked(request)
    values = {name: asked(request, name) for name in _FILTERS}
    since, until = days_asked(request, state.settings, account)
    filters = sent.Filters(
        values["phone"],
        values["vendor_message_id"],
        values["reference"],
        values["status"],
        since,
        until,
    )
    cursor = asked(request, "cursor")
    async with state.pool.acquire() as connection:
        page = await sent.messages(
            connection, accounts_of(request, account), filters, cursor=cursor, limit=_ROWS
        )
    template = "message_rows.html" if cursor and is_partial(request) else "messages.html"
    return render(
        request,
        template,
        items=page.items,
        next=None if page.next is None else link("/messages", values, cursor=page.next),
        values=values,
        names=sorted(state.settings.accounts),
        statuses=STATUSES,
        exports=link("/v1/messages", {**values, "from": _text(since), "to": _text(until)}),
    )


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


@get("/messages/{message_id:uuid}")
async def show_message(
    request: Request[Any, Any, Any], state: State, message_id: FromPath[UUID]
) -> Response[Any]:
    """Show one message: its time line, why it counts so many segments, and what was billed."""
    async with state.pool.acquire() as connection:
        found = await sent.message(connection, state.settings.accounts, message_id)
    if found is None:
        raise NotFoundException("no such message")
    return render(request, "message.html", message=found, events=_time_line(found))


def _time_line(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what happened to a message in the order of its times; what has none comes last."""
    events: list[dict[str, Any]] = [
        {"kind": "sent", "at": message["sent_at"]},
        {"kind": "registered", "at": message["registered_at"]},
    ]
    if message["sending"] is not None:
        events.append(
            {"kind": "called", "at": message["sending"]["called_at"], **message["sending"]}
        )
    events += [
        {"kind": "report", "at": report["reported_at"] or report["received_at"], **report}
        for report in message["reports"]
    ]
    far = datetime.max.replace(tzinfo=UTC)
    return sorted(
        events, key=lambda each: datetime.fromisoformat(each["at"]) if each["at"] else far
    )


@get("/records/{digest:str}")
async def show_record(
    request: Request[Any, Any, Any], state: State, digest: FromPath[str]
) -> Response[Any]:
    """Show the exact bytes of a record, as a part of a page or a page of their own."""
    shown = await shown_record(state, digest)
    return render(request, "record_part.html" if is_partial(request) else "record.html", **shown)


ROUTES = [show_list, show_message, show_record]
