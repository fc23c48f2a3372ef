"""What vendors pushed and told: callbacks, inbound messages, balances, orphans and suspects."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from gateways.phone import normalise
from reconciler.match import money
from reconciler.reading.fields import id_or_none, rfc3339
from reconciler.reading.paging import Page, cursor_of, key_of, page_of
from reconciler.suspects import OFF_HOUR_SECONDS
from reconciler.suspects import id_of as suspect_id
from runtime import Problem
from runtime.queries import QUERIES

INBOUND_COLUMNS = (
    "id",
    "account",
    "phone",
    "content",
    "sent_at",
    "received_at",
    "extension",
    "vendor_message_id",
    "source",
    "digest",
)
BALANCE_COLUMNS = ("account", "kind", "amount", "currency", "read_at", "call", "record")
ORPHAN_COLUMNS = (
    "id",
    "account",
    "vendor_message_id",
    "phone",
    "status",
    "vendor_code",
    "reason",
    "reported_at",
    "received_at",
    "reports",
    "source",
    "record",
)
SUSPECT_COLUMNS = (
    "id",
    "account",
    "state",
    "reasons",
    "message_id",
    "vendor_message_id",
    "phone",
    "status",
    "vendor_code",
    "reason",
    "reported_at",
    "received_at",
    "hours_off",
    "peer",
    "message_status",
    "record",
    "found_at",
    "changed_at",
    "asked_at",
    "decided_at",
    "decided_by",
    "note",
)


async def callbacks(
    connection: Any,
    accounts: Sequence[str],
    *,
    state: str | None,
    since: datetime | None,
    until: datetime | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List pushed callbacks, the newest first; their id is their digest in hex."""
    at, last = key_of(cursor, datetime, bytes)
    few = state in ("quarantined", "recorded")
    rows = await connection.fetch(
        QUERIES["list_callbacks_left"] if few else QUERIES["list_callbacks"],
        list(accounts),
        state,
        since,
        until,
        at,
        last,
        limit + 1,
    )
    return page_of(
        rows,
        limit,
        lambda row: {
            "id": row["digest"].hex(),
            "account": row["account"],
            "state": row["state"],
            "reason": row["reason"],
            "received_at": rfc3339(row["received_at"]),
            "last_received_at": rfc3339(row["last_received_at"]),
            "deliveries": row["deliveries"],
            "method": row["method"],
            "headers": msgspec.json.decode(row["headers"]),
            "peer": row["peer"],
            "bytes": row["bytes"],
        },
        lambda row: cursor_of(row["received_at"], row["digest"]),
    )


class Gone(Problem):
    """Bytes that were purged."""


async def record_bytes(connection: Any, digest: bytes) -> bytes | None:
    """Return the exact bytes that a vendor sent: the body, or the query string of a GET push.

    None if there is no such record; raises `Gone`.
    """
    row = await connection.fetchrow(QUERIES["record_body"], digest)
    if row is None:
        return None
    if row["purged_at"] is not None:
        raise Gone(
            f"purged on {row['purged_at']:%Y-%m-%d} under retention or erased; its digest is kept"
        )
    body: bytes = row["body"] or row["query"]
    return body


async def inbound(
    connection: Any,
    accounts: Sequence[str],
    *,
    phone: str | None,
    since: datetime | None,
    until: datetime | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List messages from handsets, the newest first."""
    at, last = key_of(cursor, datetime, bytes)
    rows = await connection.fetch(
        QUERIES["list_inbound"],
        list(accounts),
        None if phone is None else normalise(phone),
        since,
        until,
        at,
        last,
        limit + 1,
    )
    return page_of(
        rows,
        limit,
        lambda row: {
            "id": row["fingerprint"].hex(),
            "account": row["account"],
            "phone": row["phone"],
            "content": row["content"],
            "sent_at": rfc3339(row["sent_at"]),
            "received_at": rfc3339(row["received_at"]),
            "extension": row["extension"],
            "vendor_message_id": row["vendor_message_id"],
            "source": row["source"],
            "digest": row["digest"].hex(),
        },
        lambda row: cursor_of(row["received_at"], row["fingerprint"]),
    )


async def balances(
    connection: Any,
    accounts: Sequence[str],
    *,
    kind: str | None,
    since: datetime | None,
    until: datetime | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List readings of what accounts have left, the newest first."""
    at, last_kind, last = key_of(cursor, datetime, str, bytes)
    rows = await connection.fetch(
        QUERIES["list_balances"],
        list(accounts),
        kind,
        since,
        until,
        at,
        last_kind,
        last,
        limit + 1,
    )
    return page_of(
        rows,
        limit,
        _balance,
        lambda row: cursor_of(row["read_at"], row["kind"], row["digest"]),
    )


async def balances_of_record(connection: Any, account: str, digest: bytes) -> list[dict[str, Any]]:
    """Return what a vendor said in one record that an account has left."""
    rows = await connection.fetch(QUERIES["balances_of_record"], account, digest)
    return [_balance(row) for row in rows]


async def newest_balances(
    connection: Any, accounts: Sequence[str]
) -> list[tuple[str, str, Decimal]]:
    """Return account, kind and amount of what each account had left when last it was said."""
    rows = await connection.fetch(QUERIES["newest_balances"], list(accounts))
    return [(row["account"], row["kind"], row["amount"]) for row in rows]


async def orphans(
    connection: Any,
    accounts: Sequence[str],
    *,
    since: datetime | None,
    until: datetime | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List messages that vendors report on and the ledger does not know, the newest first."""
    at, message_id, last = key_of(cursor, datetime, UUID, bytes)
    rows = await connection.fetch(
        QUERIES["list_orphans"], list(accounts), since, until, at, message_id, last, limit + 1
    )
    return page_of(
        rows,
        limit,
        lambda row: {
            "id": str(row["message_id"]),
            "account": row["account"],
            "vendor_message_id": row["vendor_message_id"],
            "phone": row["phone"],
            "status": row["status"],
            "vendor_code": row["vendor_code"],
            "reason": row["reason"],
            "reported_at": rfc3339(row["reported_at"]),
            "received_at": rfc3339(row["received_at"]),
            "reports": row["reports"],
            "source": row["source"],
            "record": row["digest"].hex(),
        },
        lambda row: cursor_of(row["received_at"], row["message_id"], row["fingerprint"]),
    )


async def suspects(
    connection: Any,
    accounts: Sequence[str],
    *,
    state: str | None,
    reason: str | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List pushed reports that could not be trusted as they were, those found last first."""
    at, message_id, last = key_of(cursor, datetime, UUID, bytes)
    rows = await connection.fetch(
        QUERIES["list_suspects"], list(accounts), state, reason, at, message_id, last, limit + 1
    )
    return page_of(
        rows,
        limit,
        _suspect,
        lambda row: cursor_of(row["found_at"], row["message_id"], row["fingerprint"]),
    )


def _suspect(row: Any) -> dict[str, Any]:
    times = (*("reported_at", "received_at", "found_at", "changed_at", "asked_at", "decided_at"),)
    shown = {
        "id": suspect_id(row["message_id"], row["fingerprint"]),
        "message_id": id_or_none(row["known_id"]),
        "reasons": list(row["reasons"]),
        "hours_off": _hours_off(row),
        "record": row["digest"].hex(),
        **{name: rfc3339(row[name]) for name in times},
    }
    return {name: shown[name] if name in shown else row[name] for name in SUSPECT_COLUMNS}


def _hours_off(row: Any) -> int | None:
    """Say by how many whole hours an impossible time is off: a sign of a wrong `timezone`."""
    if row["reported_at"] is None or not {"in_future", "before_sending"} & set(row["reasons"]):
        return None
    seconds = (row["reported_at"] - row["received_at"]).total_seconds()
    hours = round(seconds / 3600)
    return hours if hours and abs(seconds - hours * 3600) <= OFF_HOUR_SECONDS else None


def _balance(row: Any) -> dict[str, Any]:
    return {
        "account": row["account"],
        "kind": row["kind"],
        "amount": money(row["amount"]),
        "currency": row["currency"],
        "read_at": rfc3339(row["read_at"]),
        "call": row["call"],
        "record": row["digest"].hex(),
    }
