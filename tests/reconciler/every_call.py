"""A gateway that makes every call, and settings for it: its vendor answers with events spelt out."""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pretend import Answer as Said
from pretend import Vendor, serving

from gateways import GATEWAYS, events, thinkapi
from gateways.errors import Garbled, Malformed, Refused
from gateways.events import Parsed, ReviewKind
from gateways.gateway import Account, Call, Client, Gateway, Reply, Secret
from gateways.http import open_client
from reconciler.poll import Caller, callers
from runtime import settings as runtime_settings
from runtime.settings import Settings, load


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    password: Secret


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rows: int = 0
    days: int = 0


class EveryClient(Client):
    @property
    def rows_per_list(self) -> int:
        rows: int = self.account.options.rows
        return rows

    @property
    def inbound_per_list(self) -> int:
        return self.rows_per_list

    @property
    def days_per_list(self) -> int:
        days: int = self.account.options.days
        return days

    async def list_sent(self, start: datetime, end: datetime, index: int) -> Reply:
        return await self._ask(Call.LIST_SENT, _span(start, end) | {"index": str(index)})

    async def list_inbound(self, start: datetime, end: datetime, page: int) -> Reply:
        return await self._ask(Call.LIST_INBOUND, _span(start, end) | {"page": str(page)})

    async def query_balance(self) -> Reply:
        return await self._ask(Call.QUERY_BALANCE, {})

    async def check_keyword(self, content: str) -> Reply:
        return await self._ask(Call.CHECK_KEYWORD, {"content": content})

    async def change_password(self, password: Secret) -> Reply:
        form = {"new": password.reveal()}
        return await self._ask(Call.CHANGE_PASSWORD, form, submits=True)

    async def delete_review(self, kind: ReviewKind, vendor_id: str) -> Reply:
        return await self._ask(Call(f"delete_{kind}"), {"id": vendor_id}, submits=True)

    async def query_review(self, kind: ReviewKind, vendor_id: str) -> Reply:
        return await self._ask(Call(f"query_{kind}"), {"id": vendor_id})

    async def _ask(self, call: Call, form: Mapping[str, str], *, submits: bool = False) -> Reply:
        headers, body = await self.transport.post(
            f"{self.account.base_url}/{call}", form=form, submits=submits
        )
        return Reply(call=call, headers=headers, body=body)


def _span(start: datetime, end: datetime) -> dict[str, str]:
    return {"start": start.isoformat(), "end": end.isoformat()}


def _parse_reply(reply: Reply, _: Account) -> Parsed:
    try:
        found = json.loads(reply.body)
        if "refused" in found:
            raise Refused(*found["refused"])
        told = tuple(
            msgspec.convert(fields, getattr(events, kind)) for kind, fields in found["events"]
        )
    except (ValueError, KeyError, TypeError, msgspec.ValidationError) as error:
        raise Garbled(f"not what was agreed on: {reply.body!r}") from error
    return Parsed(
        events=told,
        rows=found.get("rows", len(told)),
        problems=tuple(found.get("problems", ())),
    )


def _parse_callback(*_: object) -> Parsed:
    raise Malformed("this vendor does not push")


EVERY = Gateway(
    name="every",
    vendor="万能",
    default_base_url="https://vendor.invalid",
    credentials=Credentials,
    options=Options,
    parse_callback=_parse_callback,
    parse_reply=_parse_reply,
    acknowledge=thinkapi.GATEWAY.acknowledge,
    client=EveryClient,
)


def told(*found: msgspec.Struct, **more: Any) -> Said:
    """What the vendor answers with `found` in it."""
    each = [(type(event).__name__, msgspec.to_builtins(event)) for event in found]
    return Said(json.dumps({"events": each, **more}, ensure_ascii=False).encode())


def no(code: str, words: str) -> Said:
    """The vendor's refusal."""
    return Said(json.dumps({"refused": [code, words]}, ensure_ascii=False).encode())


Asked = Callable[[str, dict[str, str]], Said]


@contextmanager
def settled_on(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Asked,
    *,
    accounts: Sequence[str] = ("main",),
    **keys: Any,
) -> Iterator[tuple[Vendor, Settings]]:
    """Settings for `accounts` at such a vendor, and "finch" at one that sends and no more."""
    spoken = {**GATEWAYS, "every": EVERY}
    monkeypatch.setattr(runtime_settings, "GATEWAYS", spoken)
    monkeypatch.setattr(runtime_settings, "GATEWAY_NAMES", tuple(spoken))
    with serving(answer) as vendor:
        lines = ['data_dir = "data"', "[reconciler]", 'api_token = "the-token"']
        lines += ["[accounts.finch]", 'gateway = "deepfinch"', f'base_url = "{vendor.url}"']
        lines += ['credentials = { secret_id = "id", secret_key = "key" }']
        for name in accounts:
            lines += [
                f"[accounts.{name}]",
                'gateway = "every"',
                f'base_url = "{vendor.url}/{name}"',
            ]
            lines += ['credentials = { password = "old-password" }', "requests_per_second = 1000"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        file = folder / "huizhi.toml"
        file.write_text("\n".join(lines), "utf-8")
        yield vendor, load(file, env={})


@asynccontextmanager
async def asking(
    pool: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Asked,
    **keys: Any,
) -> AsyncIterator[tuple[Caller, Vendor, Settings]]:
    """The way from account "main" to such a vendor."""
    with settled_on(folder, monkeypatch, answer, **keys) as (vendor, read):
        async with open_client() as http:
            yield callers(read, pool, http, recorder="test")["main"], vendor, read
