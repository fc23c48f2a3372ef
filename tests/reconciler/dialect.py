"""A vendor's dialect of the simplest kind, so that what is tested is what we do with any."""

import dataclasses
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from pretend import settings

from gateways.errors import Garbled, Refused
from gateways.events import Accepted, Charge, DeliveryReport, Event, Parsed, Rejected, Status
from gateways.gateway import Account, Batch, Call, Callback, Client, Gateway, Reply
from gateways.phone import normalise
from gateways.thinkapi import GATEWAY
from runtime.settings import Settings


class _Client(Client):
    @property
    def numbers_per_send(self) -> int:
        return 3

    async def send(self, batch: Batch) -> Reply:
        form = {
            "phones": ",".join(each.phone for each in batch.messages),
            "texts": json.dumps([each.content for each in batch.messages], ensure_ascii=False),
            "references": ",".join(each.reference for each in batch.messages),
            "sign": batch.sign or "",
        }
        headers, body = await self.transport.post(
            f"{self.account.base_url}/send", form=form, submits=True
        )
        return Reply(call=Call.SEND, headers=headers, body=body)


def _read(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise Garbled("not JSON") from None


def _parse_reply(reply: Reply, _account: Account) -> Parsed:
    told = _read(reply.body)
    if told.get("no"):
        raise Refused(told["no"], "not for 13900000000")
    events: list[Event] = []
    if "task" in told:
        events.append(Accepted(vendor_message_id=told["task"], taken=told.get("taken")))
    events += [
        Accepted(vendor_message_id=id, phone=phone) for phone, id in told.get("ids", {}).items()
    ]
    events += [
        Rejected(phone=phone, vendor_code=code, reason="why")
        for phone, code in told.get("refused", {}).items()
    ]
    return Parsed(events=tuple(events), rows=len(events))


def _parse_callback(callback: Callback, _account: Account) -> Parsed:
    told = _read(callback.body)
    report = DeliveryReport(
        vendor_message_id=told["id"],
        phone=normalise(told["phone"]),
        status=Status(told.get("status", "delivered")),
        vendor_code=told.get("code", "1"),
        reported_at=datetime.fromisoformat(told["at"]) if "at" in told else None,
        also=tuple(told.get("also", ())),
        reference=told.get("reference"),
        charge=None
        if "amount" not in told
        else Charge(
            segments=1,
            price=Decimal(told["amount"]),
            amount=Decimal(told["amount"]),
            currency="USD",
        ),
    )
    return Parsed(events=(report,), rows=1)


DIALECT = dataclasses.replace(
    GATEWAY,
    client=_Client,
    parse_reply=_parse_reply,
    parse_callback=_parse_callback,
    check_send=None,
    fill=None,
    signs_by_id=False,
    id_per_number=False,
    explain=lambda code: {"E7": "the account is locked"}.get(code),
)


def settings_of(folder: Path, url: str, gateway: Gateway, **account: Any) -> Settings:
    """Settings with one account, "api", at `url`, that speaks `gateway`."""
    read = settings(folder, url, **account)
    own = msgspec.structs.replace(read.accounts["api"], gateway=gateway)
    return msgspec.structs.replace(read, accounts={"api": own})
