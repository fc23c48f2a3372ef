"""What truly happened, as rows that a test can compare with what was found out."""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from sandbox.clock import VENDOR_ZONE
from sandbox.statements import Statements
from sandbox.world import Inbound, Message, World

TYPES = ("message", "review", "inbound", "push", "reply", "statement", "statement_fault")

_encoder = msgspec.json.Encoder(decimal_format="string")


def message_row(message: Message) -> dict[str, Any]:
    final = message.final
    return {
        "type": "message",
        "vendor": message.vendor,
        "account": message.account,
        "vendor_message_id": message.vendor_message_id,
        "phone": message.phone,
        "content": message.content,
        "sign": message.sign,
        "sent_at": message.sent_at.astimezone(VENDOR_ZONE),
        "status": message.status,
        "reported_at": final.at.astimezone(VENDOR_ZONE) if final else None,
        "code": final.code if final else "",
        "segments": message.segments,
        "faults": message.faults,
        "expected": message.expected,
        "reports": [
            {
                "status": report.status,
                "at": report.at.astimezone(VENDOR_ZONE),
                "code": report.code,
                "handed": report.handed,
                "salvageable": report.salvageable,
            }
            for report in message.reports
        ],
        "pushes": message.pushes,
        "reply_lost": message.reply_lost,
    }


def inbound_row(inbound: Inbound) -> dict[str, Any]:
    return {
        "type": "inbound",
        "vendor": inbound.vendor,
        "account": inbound.account,
        "phone": inbound.phone,
        "content": inbound.content,
        "extno": inbound.extno,
        "vendor_message_id": inbound.vendor_message_id,
        "received_at": inbound.received_at.astimezone(VENDOR_ZONE),
        "handed": inbound.handed,
        "salvageable": inbound.salvageable,
        "pushes": inbound.pushes,
    }


def rows(world: World, statements: Statements, types: frozenset[str]) -> list[dict[str, Any]]:
    """All rows of the wanted types, or of every type where none is named."""
    found: list[dict[str, Any]] = []
    if not types or "message" in types:
        found += [message_row(message) for message in world.messages]
    if not types or "review" in types:
        found += world.reviews
    if not types or "inbound" in types:
        found += [inbound_row(inbound) for inbound in world.inbound]
    if not types or "push" in types:
        found += world.odd_pushes
    if not types or "reply" in types:
        found += world.reply_faults
    for statement in statements.written.values():
        if not types or "statement" in types:
            found.append({"type": "statement", **statements.totals(statement)})
        if not types or "statement_fault" in types:
            found += statements.expectations(statement)
    return found


def encode(found: list[dict[str, Any]]) -> bytes:
    return _encoder.encode_lines(found)


def write(path: str, world: World, statements: Statements) -> None:
    Path(path).write_bytes(encode(rows(world, statements, frozenset())))


def stats(world: World) -> dict[str, Any]:
    messages: Counter[str] = Counter()
    injected: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for message in world.messages:
        messages[f"{message.vendor}/{message.account}/{message.status}"] += 1
        injected.update(fault["kind"] for fault in message.faults)
        expected.update(message.expected)
    injected.update(row["kind"] for row in world.reply_faults)
    return {
        "messages": dict(messages),
        "inbound": len(world.inbound),
        "faults": dict(injected),
        "expected": dict(expected),
        "pushes_by_answer": {
            name.removeprefix("answer_"): count
            for name, count in world.counts.items()
            if name.startswith("answer_")
        },
        "requests": world.counts["requests"],
        "violations": len(world.violations),
    }
