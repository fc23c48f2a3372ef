"""A record as people look at it: its bytes as text and in hex, and what today's parser makes of them."""

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar.datastructures import State
from litestar.exceptions import NotFoundException

from gateways.errors import GatewayError
from gateways.events import Accepted, DeliveryReport
from runtime import records
from runtime.identity import message_id
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

_HEX_BYTES = 4096
_TEXT_CHARACTERS = 100_000


async def shown_record(state: State, digest: str) -> dict[str, Any]:
    """Return a record and what it is made of; raises what makes a page of "not found"."""
    try:
        key = bytes.fromhex(digest)
    except ValueError:
        raise NotFoundException("no such record") from None
    async with state.pool.acquire() as connection:
        row = await connection.fetchrow(QUERIES["record_shown"], key)
    if row is None:
        raise NotFoundException("no such record")
    body: bytes = row["body"] or row["query"]
    text, encoding = _text(body)
    settings: AccountSettings | None = state.settings.accounts.get(row["account"])
    return {
        "record": row,
        "digest": digest,
        "headers": msgspec.json.decode(row["headers"]),
        "size": len(body),
        "text": text[:_TEXT_CHARACTERS],
        "encoding": encoding,
        "hex": _hex(body[:_HEX_BYTES]),
        "hex_cut": len(body) > _HEX_BYTES,
        **_parsed(row, settings),
    }


def _text(body: bytes) -> tuple[str, str]:
    """Read bytes as text: UTF-8, else GB18030, else with what cannot be read replaced."""
    for encoding in ("utf-8", "gb18030"):
        try:
            return body.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return body.decode("utf-8", "replace"), "bytes"


def _hex(body: bytes) -> str:
    lines = []
    for start in range(0, len(body), 16):
        piece = body[start : start + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{start:06x}  {piece.hex(' '):<47}  {shown}")
    return "\n".join(lines)


def _parsed(row: Mapping[str, Any], settings: AccountSettings | None) -> dict[str, Any]:
    """Say what today's parser makes of a record: its events, and what it does not understand."""
    if row["purged"]:
        return {"events": [], "problems": [], "unparsed": "purged"}
    if settings is None:
        return {"events": [], "problems": [], "unparsed": "gone"}
    (record,) = records.of_rows([row])
    try:
        parsed = records.parse(record, settings.gateway, settings.account)
    except GatewayError as error:
        return {"events": [], "problems": [], "unparsed": str(error)}
    return {
        "events": [_event(event, row["account"]) for event in parsed.events],
        "problems": list(parsed.problems),
        "unparsed": None,
    }


def _event(event: Any, account: str) -> dict[str, Any]:
    fields = msgspec.structs.asdict(event)
    phone = fields.get("phone")
    id = fields.get("vendor_message_id")
    linked = None
    if isinstance(event, DeliveryReport | Accepted) and phone and id:
        linked = str(message_id(account, id, phone))
    kept = ("status", "vendor_code", "reason", "reported_at", "content", "kind", "name", "amount")
    return {
        "what": type(event).__name__,
        "id": id or fields.get("vendor_id"),
        "phone": phone,
        "message_id": linked,
        "facts": {name: fields[name] for name in kept if fields.get(name) is not None},
    }
