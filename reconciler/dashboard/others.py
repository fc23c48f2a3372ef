"""Signs and templates, messages from handsets, reports on unknown messages, and the settings."""

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.datastructures import State

from reconciler.dashboard.messages import days_asked
from reconciler.dashboard.pages import (
    account_asked,
    accounts_of,
    asked,
    is_partial,
    link,
    render,
)
from reconciler.match import money
from reconciler.reading import arrived, reviewed
from runtime.settings import AccountSettings, Settings

REVIEW_STATES = ("pending", "approved", "rejected", "deleted", "unknown")
KINDS = ("sign", "template")
_ROWS = 100


@get("/signs")
async def show_reviews(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show signs or templates, each with every word of its vendor."""
    account = account_asked(request)
    kind = "template" if asked(request, "kind") == "template" else "sign"
    status, cursor = asked(request, "status"), asked(request, "cursor")
    values = {"kind": kind, "account": account, "status": status}
    async with state.pool.acquire() as connection:
        page = await reviewed.reviews(
            connection,
            accounts_of(request, account),
            kind,
            status=status,
            cursor=cursor,
            limit=_ROWS,
        )
    template = "review_rows.html" if cursor and is_partial(request) else "reviews.html"
    return render(
        request,
        template,
        items=page.items,
        next=None if page.next is None else link("/signs", values, cursor=page.next),
        values=values,
        names=sorted(state.settings.accounts),
        states=REVIEW_STATES,
        kinds=KINDS,
        exports=link(f"/v1/{kind}s", {"account": account, "status": status}),
    )


@get("/inbound")
async def show_inbound(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show messages from handsets, the newest first."""
    account = account_asked(request)
    values = {name: asked(request, name) for name in ("account", "phone", "from", "to")}
    since, until = days_asked(request, state.settings, account)
    cursor = asked(request, "cursor")
    async with state.pool.acquire() as connection:
        page = await arrived.inbound(
            connection,
            accounts_of(request, account),
            phone=values["phone"],
            since=since,
            until=until,
            cursor=cursor,
            limit=_ROWS,
        )
    bounds = {
        name: None if at is None else at.isoformat()
        for name, at in (("from", since), ("to", until))
    }
    template = "inbound_rows.html" if cursor and is_partial(request) else "inbound.html"
    return render(
        request,
        template,
        items=page.items,
        next=None if page.next is None else link("/inbound", values, cursor=page.next),
        values=values,
        names=sorted(state.settings.accounts),
        exports=link("/v1/inbound", {**values, **bounds}),
    )


@get("/orphans")
async def show_orphans(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show messages that vendors report on and the ledger does not know."""
    account = account_asked(request)
    values = {"account": account}
    cursor = asked(request, "cursor")
    async with state.pool.acquire() as connection:
        page = await arrived.orphans(
            connection,
            accounts_of(request, account),
            since=None,
            until=None,
            cursor=cursor,
            limit=_ROWS,
        )
    template = "orphan_rows.html" if cursor and is_partial(request) else "orphans.html"
    return render(
        request,
        template,
        items=page.items,
        next=None if page.next is None else link("/orphans", values, cursor=page.next),
        values=values,
        names=sorted(state.settings.accounts),
        exports=link("/v1/orphans", values),
    )


@get("/settings")
async def show_settings(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show the settings as this process has them; of a secret only that it is there."""
    settings: Settings = state.settings
    return render(
        request,
        "settings.html",
        file=str(settings.file),
        house=[
            ("data_dir", str(settings.data_dir)),
            ("timezone", settings.timezone.key),
            ("database", "DATABASE" if settings.database.url else "embedded"),
            ("database.pool_size", settings.database.pool_size),
            ("receiver", f"{settings.receiver.host}:{settings.receiver.port}"),
            ("receiver.workers", settings.receiver.workers),
            ("receiver.max_body_bytes", settings.receiver.max_body_bytes),
            ("receiver.trusted_proxies", ", ".join(map(str, settings.receiver.trusted_proxies))),
            ("reconciler", f"{settings.reconciler.host}:{settings.reconciler.port}"),
        ],
        accounts=[_account(name, each) for name, each in sorted(settings.accounts.items())],
        formats=[
            (name, dict(each.columns), {
                key: value
                for key in ("sheet", "encoding", "delimiter", "time_format")
                if (value := getattr(each, key)) is not None
            })
            for name, each in sorted(settings.statements.items())
        ],
    )  # fmt: skip


def _account(name: str, settings: AccountSettings) -> dict[str, Any]:
    """Say what an account's settings are; credentials and tokens are counted and not shown."""
    account = settings.account
    options: Mapping[str, Any] = msgspec.structs.asdict(account.options)
    return {
        "name": name,
        "vendor": settings.gateway.vendor,
        "facts": [
            ("gateway", account.gateway),
            ("base_url", account.base_url),
            ("timezone", account.zone.key),
            ("callback_networks", ", ".join(map(str, settings.callback_networks))),
            ("poll_after_seconds", f"{settings.poll_after_seconds:g}"),
            ("poll_until_hours", f"{settings.poll_until_hours:g}"),
            ("requests_per_second", f"{settings.requests_per_second:g}"),
            ("known_networks", ", ".join(map(str, settings.known_networks))),
            ("clock_slack_seconds", f"{settings.clock_slack_seconds:g}"),
            ("confirm_pushes", str(settings.confirm_pushes).lower()),
            ("callbacks_per_second", _plain(settings.callbacks_per_second)),
            *(
                (f"retention.{name}", _plain(days))
                for name, days in msgspec.structs.asdict(settings.retention).items()
            ),
            ("segment_rule", settings.rule),
            ("segment_unit", settings.unit),
            *((key, _plain(value)) for key, value in sorted(options.items())),
        ],
        "credentials": [field.encode_name for field in msgspec.structs.fields(account.credentials)],
        "tokens": len(settings.callback_tokens),
        "tariffs": [
            {
                "start": tariff.start,
                "price": money(tariff.price),
                "currency": tariff.currency,
                "basis": tariff.basis,
            }
            for tariff in settings.tariffs
        ],
    }


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


ROUTES = [show_reviews, show_inbound, show_orphans, show_settings]
