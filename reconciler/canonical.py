"""The one way in which a fact is written down for the chain, and for who checks it without us.

Each is one JSON text with sorted keys and no blanks; lists are one text a line. What the chain holds
is the sha256 of exactly these bytes, and an evidence package has the same bytes in its files. So none
of this may ever change for what is linked already.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from reconciler.match import money
from runtime.identity import PROVISIONAL, digest
from runtime.queries import QUERIES

_ROWS = 2000  # fetched at a time


def text(fact: Any) -> bytes:
    """Return `fact` as sorted JSON without blanks, in UTF-8."""
    return json.dumps(fact, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def moment(at: datetime) -> str:
    """Return an aware time in UTC to the microsecond, always as long."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def record_content(headers: str, peer: str | None) -> bytes:
    """Return the digest of what a record's own digest does not cover; `headers` as stored."""
    return digest(headers.encode(), (peer or "").encode())


def message(row: Any) -> bytes:
    """Return a message as it was registered: nothing of this changes with what is reported."""
    return text(
        {
            "id": str(row["id"]),
            "account": row["account"],
            "vendor_message_id": row["vendor_message_id"],
            "phone": row["phone"],
            "sent_at": moment(row["sent_at"]),
            "registered_at": moment(row["registered_at"]),
            "segments": row["segments"],
            "segments_given": row["segments_given"],
            "content": row["content"],
            "sign": row["sign"],
            "reference": row["reference"],
            "template_id": row["template_id"],
        }
    )


def lasting(row: Any) -> bytes:
    """Return what is never purged of a message: also when its text and then its number go."""
    return text(
        {
            "id": str(row["id"]),
            "account": row["account"],
            "vendor_message_id": row["vendor_message_id"],
            "sent_at": moment(row["sent_at"]),
            "registered_at": moment(row["registered_at"]),
            "segments": row["segments"],
            "segments_given": row["segments_given"],
        }
    )


def purged_content(records: Iterable[bytes], messages: Iterable[Any]) -> bytes:
    """Return the digest of what a purge names: records' digests in order, messages in that of ids."""
    return digest(*sorted(records), b"", *map(lasting, sorted(messages, key=lambda row: row["id"])))


def purge(row: Any) -> bytes:
    """Return a purge: by whom, of how much, and the digest of what it names."""
    return text(
        {
            "id": str(row["id"]),
            "account": row["account"],
            "what": row["what"],
            "purged_at": moment(row["purged_at"]),
            "purged_by": row["purged_by"],
            "records": row["records"],
            "messages": row["messages"],
            "content": row["content"].hex(),
            "touched": [str(id) for id in row["touched"]],
        }
    )


def action(row: Any) -> bytes:
    """Return a row of what operators did: an action as it began, or how it ended."""
    names = ("outcome", "actor", "role", "via", "peer", "what", "subject", "status")
    return text(
        {
            "id": str(row["action_id"]),
            "at": moment(row["at"]),
            **{name: row[name] for name in names},
        }
    )


async def lines(connection: Any, statement: Any) -> AsyncIterator[bytes]:
    """Yield a statement's lines, each ended by a line feed; within a transaction."""
    async for row in connection.cursor(QUERIES["lines_in_order"], statement, prefetch=_ROWS):
        yield (
            text(
                {
                    "line": row["line"],
                    "vendor_message_id": row["vendor_message_id"],
                    "phone": row["phone"],
                    "segments": row["segments"],
                    "amount": _money(row["amount"]),
                    "sent_at": _moment(row["sent_at"]),
                    "status": row["status"],
                }
            )
            + b"\n"
        )


async def discrepancies(connection: Any, run: Any) -> AsyncIterator[bytes]:
    """Yield what a run found, each ended by a line feed; within a transaction.

    Runs from before there were causes are linked without.
    """
    async for row in connection.cursor(QUERIES["discrepancies_in_order"], run, prefetch=_ROWS):
        id = row["vendor_message_id"]
        yield (
            text(
                {
                    "seq": row["seq"],
                    "kind": row["kind"],
                    "message_id": None if row["message_id"] is None else str(row["message_id"]),
                    "vendor_message_id": None if id.startswith(PROVISIONAL) else id,
                    "phone": row["phone"],
                    "line": row["line"],
                    "sent_at": _moment(row["sent_at"]),
                    "status": row["status"],
                    "owed_segments": row["owed_segments"],
                    "billed_segments": row["billed_segments"],
                    "price": _money(row["price"]),
                    "billed_amount": _money(row["billed_amount"]),
                    "segments": row["segments"],
                    "amount": money(row["amount"]),
                    **({} if row["cause"] is None else {"cause": row["cause"]}),
                }
            )
            + b"\n"
        )


async def reports(connection: Any, run: Any) -> AsyncIterator[bytes]:
    """Yield the reports linked with a run, each ended by a line feed; within a transaction.

    One without a status is the reply to sending the message.
    """
    async for row in connection.cursor(QUERIES["run_reports_in_order"], run, prefetch=_ROWS):
        yield (
            text(
                {
                    "message_id": str(row["message_id"]),
                    "record": row["digest"].hex(),
                    "source": row["source"] or "send",
                    "status": row["status"],
                    "vendor_code": row["vendor_code"],
                    "reason": row["reason"],
                    "reported_at": _moment(row["reported_at"]),
                    "received_at": _moment(row["received_at"]),
                    "billed_segments": row["billed_segments"],
                    "billed_price": _money(row["billed_price"]),
                    "billed_amount": _money(row["billed_amount"]),
                    "billed_currency": row["billed_currency"],
                    **_suspicion(row),
                }
            )
            + b"\n"
        )


def _suspicion(row: Any) -> dict[str, Any]:
    """Return what was held against a report when its run was linked, of those that anything was."""
    if row["reasons"] is None:
        return {}
    return {"suspect": {"state": row["state"], "reasons": list(row["reasons"])}}


async def statement(connection: Any, row: Any) -> bytes:
    """Return a statement with the digests of its file and of its lines; within a transaction.

    The lines' is the one kept, where numbers in them were purged.
    """
    return text(
        {
            "id": str(row["id"]),
            "account": row["account"],
            "first_day": row["first_day"].isoformat(),
            "last_day": row["last_day"].isoformat(),
            "version": row["version"],
            "file_name": row["file_name"],
            "file_sha256": row["file_digest"].hex(),
            "format": row["format"],
            "lines": row["lines"],
            "lines_sha256": row["lines_sha256"] or await sha256(lines(connection, row["id"])),
            "segments": row["segments"],
            "amount": _money(row["amount"]),
            "imported_at": moment(row["imported_at"]),
        }
    )


async def run(connection: Any, row: Any) -> bytes:
    """Return a run with the digests of what it found and of its reports; within a transaction.

    They are those kept, where numbers in them were purged.
    """
    return text(
        {
            "id": str(row["id"]),
            "account": row["account"],
            "first_day": row["first_day"].isoformat(),
            "last_day": row["last_day"].isoformat(),
            "statement_id": None if row["statement_id"] is None else str(row["statement_id"]),
            "run_at": moment(row["run_at"]),
            "rules": row["rules"],
            "result": msgspec.json.decode(row["result"]),
            "discrepancies_sha256": row["discrepancies_sha256"]
            or await sha256(discrepancies(connection, row["id"])),
            "reports_sha256": row["reports_sha256"] or await sha256(reports(connection, row["id"])),
        }
    )


def sha256_of(fact: bytes) -> bytes:
    """Return what the chain holds of a fact's text."""
    return hashlib.sha256(fact).digest()


async def sha256(pieces: AsyncIterator[bytes]) -> str:
    """Return the digest, in hex, of all `pieces` together."""
    sha = hashlib.sha256()
    async for piece in pieces:
        sha.update(piece)
    return sha.hexdigest()


def leaf(kind: str, key: bytes, account: str, at: datetime, content: bytes) -> bytes:
    """Return an entry's leaf in its link's tree."""
    framed = digest(kind.encode(), key, account.encode(), moment(at).encode(), content)
    return hashlib.sha256(b"\0" + framed).digest()


def _above(nodes: list[bytes]) -> list[bytes]:
    """Return the level above: pairs hashed, one left over taken up as it is."""
    paired = [
        hashlib.sha256(b"\1" + nodes[place] + nodes[place + 1]).digest()
        for place in range(0, len(nodes) - 1, 2)
    ]
    return paired + nodes[len(nodes) - len(nodes) % 2 :]


def levels(leaves: Iterable[bytes]) -> list[list[bytes]]:
    """Return the tree of at least one leaf (RFC 6962's), from its leaves to its root."""
    found = [list(leaves)]
    while len(found[-1]) > 1:
        found.append(_above(found[-1]))
    return found


def path(tree: list[list[bytes]], place: int) -> list[bytes]:
    """Return the nodes that lead from the leaf at `place` to the root."""
    nodes = []
    for level in tree[:-1]:
        beside = place ^ 1
        if beside < len(level):
            nodes.append(level[beside])
        place //= 2
    return nodes


def link_hash(
    previous: bytes, height: int, root: bytes, entries: int, linked_at: datetime
) -> bytes:
    """Return a link's hash, over the hash of the one before it."""
    return digest(
        b"huizhi link",
        previous,
        str(height).encode(),
        root,
        str(entries).encode(),
        moment(linked_at).encode(),
    )


def _moment(at: datetime | None) -> str | None:
    return None if at is None else moment(at)


def _money(amount: Decimal | None) -> str | None:
    return None if amount is None else money(amount)
