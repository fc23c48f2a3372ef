"""The control plane under /_sandbox: releases, truth, statements, inbound messages, recordings."""

from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromQuery, JSONBody, QueryParameter

from sandbox import clock, truth
from sandbox.delivery import JOB_KINDS, Deliveries
from sandbox.exchange import BadRequest
from sandbox.statements import NEIGHBOUR_DAYS, Statements
from sandbox.vendor import ReportingVendor, Vendor
from sandbox.world import World


class Release(msgspec.Struct, forbid_unknown_fields=True):
    which: str = "all"
    vendor: str | None = None
    account: str | None = None


class StatementOrder(msgspec.Struct, forbid_unknown_fields=True):
    vendor: str
    account: str
    period: str
    path: str
    neighbour_days: Annotated[int, msgspec.Meta(ge=0, le=366)] = NEIGHBOUR_DAYS


class CutOrder(msgspec.Struct, forbid_unknown_fields=True):
    vendor: str
    account: str
    sends: Annotated[int, msgspec.Meta(ge=0, le=1000)]


class InboundItem(msgspec.Struct, forbid_unknown_fields=True):
    phone: str
    content: str
    extno: str = ""
    vendor_message_id: str = ""
    at: str = ""


class InboundOrder(msgspec.Struct, forbid_unknown_fields=True):
    vendor: str
    account: str
    items: list[InboundItem]


def control_routes(
    world: World, deliveries: Deliveries, statements: Statements, vendors: dict[str, Vendor]
) -> list[HTTPRouteHandler]:
    """Build the handlers of one running sandbox."""

    @post("/_sandbox/release", status_code=200)
    async def release(data: JSONBody[Release | None] = None) -> dict[str, Any]:
        order = data or Release()
        if order.which != "all" and order.which not in JOB_KINDS:
            raise BadRequest(f"which: all or one of {', '.join(JOB_KINDS)}, not {order.which!r}")
        released = await deliveries.release(order.which, order.vendor, order.account)
        return {
            "released": released,
            "waiting": deliveries.schedule.waiting,
            "failures": deliveries.schedule.failures,
        }

    @get("/_sandbox/truth")
    async def get_truth(
        kind: Annotated[list[str] | None, QueryParameter(name="type")] = None,
    ) -> Response[bytes]:
        unknown = set(kind or ()) - set(truth.TYPES)
        if unknown:
            raise BadRequest(f"type: {', '.join(truth.TYPES)}, not {', '.join(sorted(unknown))}")
        if world.settings.truth_path:
            truth.write(world.settings.truth_path, world, statements)
        found = truth.rows(world, statements, frozenset(kind or ()))
        return Response(truth.encode(found), media_type="application/x-ndjson")

    @post("/_sandbox/statements", status_code=200)
    async def write_statement(data: JSONBody[StatementOrder]) -> dict[str, Any]:
        statement = statements.write(
            data.vendor, data.account, data.period, data.path, data.neighbour_days
        )
        return {**statements.totals(statement), "faults": statements.expectations(statement)}

    @post("/_sandbox/cuts", status_code=200)
    async def cut_replies(data: JSONBody[CutOrder]) -> dict[str, Any]:
        vendor = vendors.get(data.vendor)
        if vendor is None or data.account not in vendor.accounts:
            raise BadRequest(f"no account {data.account!r} at vendor {data.vendor!r}")
        world.cuts_ordered[data.vendor, data.account] = data.sends
        return {"sends": data.sends}

    @post("/_sandbox/inbound", status_code=200)
    async def receive_inbound(data: JSONBody[InboundOrder]) -> dict[str, Any]:
        vendor = vendors.get(data.vendor)
        if vendor is None or data.account not in vendor.accounts:
            raise BadRequest(f"no account {data.account!r} at vendor {data.vendor!r}")
        if not isinstance(vendor, ReportingVendor) or not vendor.offers_inbound:
            raise BadRequest(f"{data.vendor} has no inbound messages")
        for item in data.items:
            try:
                at = clock.parse_virtual(item.at) if item.at else clock.now()
            except ValueError as error:
                raise BadRequest(f"at: {error}") from error
            deliveries.receive_inbound(
                vendor,
                data.account,
                phone=item.phone,
                content=item.content,
                extno=item.extno,
                vendor_message_id=item.vendor_message_id,
                received_at=at.replace(microsecond=0),
            )
        return {"received": len(data.items)}

    @get("/_sandbox/stats")
    async def stats() -> dict[str, Any]:
        counts = truth.stats(world)
        counts["waiting"] = deliveries.schedule.waiting
        counts["failures"] = deliveries.schedule.failures
        return counts

    @get("/_sandbox/requests")
    async def requests(
        vendor: FromQuery[str | None] = None, limit: FromQuery[int] = 100
    ) -> dict[str, Any]:
        items = [
            {"vendor": name, "account": account, **request.recorded()}
            for name, account, request in world.requests
            if vendor in (None, name)
        ]
        return {"items": items[-limit:]}

    @get("/_sandbox/violations")
    async def violations() -> dict[str, Any]:
        return {"items": world.violations}

    return [
        release,
        get_truth,
        write_statement,
        cut_replies,
        receive_inbound,
        stats,
        requests,
        violations,
    ]
