"""What was billed: statements, reconciliations, and what each found."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from reconciler.match import EXACT, money, ranked_causes
from reconciler.periods import Period
from reconciler.reading.fields import money_or_none, rfc3339, vendor_message_id_of
from reconciler.reading.paging import Page, cursor_of, key_of, page_of
from runtime.identity import PROVISIONAL
from runtime.queries import QUERIES

DISCREPANCY_COLUMNS = (
    "kind",
    "message_id",
    "vendor_message_id",
    "phone",
    "line",
    "sent_at",
    "status",
    "owed_segments",
    "billed_segments",
    "price",
    "billed_amount",
    "cause",
    "segments",
    "amount",
)
CAUSE_COLUMNS = ("cause", "kind", "count", "segments", "amount")
ADJUSTMENT_COLUMNS = (
    "message_id",
    "vendor_message_id",
    "phone",
    "status_before",
    "status_after",
    "sent_segments_before",
    "sent_segments_after",
    "owed_segments_before",
    "owed_segments_after",
    "owed_amount_before",
    "owed_amount_after",
    "lines_before",
    "lines_after",
    "billed_segments_before",
    "billed_segments_after",
    "billed_amount_before",
    "billed_amount_after",
    "segments",
    "amount",
)


async def statements(
    connection: Any, account: str | None, *, cursor: str | None, limit: int
) -> Page:
    """List imported statements, the newest first."""
    at, last = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(QUERIES["list_statements"], account, at, last, limit + 1)
    return page_of(
        rows,
        limit,
        lambda row: {
            "id": str(row["id"]),
            "account": row["account"],
            "period": str(Period(row["first_day"], row["last_day"])),
            "version": row["version"],
            "file": row["file_name"],
            "format": row["format"],
            "lines": row["lines"],
            "segments": row["segments"],
            "amount": money_or_none(row["amount"]),
            "imported_at": rfc3339(row["imported_at"]),
        },
        lambda row: cursor_of(row["imported_at"], row["id"]),
    )


async def runs(
    connection: Any,
    account: str | None,
    *,
    assumed: bool = False,
    cursor: str | None,
    limit: int,
) -> Page:
    """List reconciliations, the newest first: the real ones, or those that assume something."""
    at, last = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(QUERIES["list_runs"], account, at, last, limit + 1, assumed)
    return page_of(rows, limit, _run, lambda row: cursor_of(row["run_at"], row["id"]))


async def run(connection: Any, run_id: UUID) -> dict[str, Any] | None:
    """Return one reconciliation with when and by which rules it was run, or None."""
    row = await connection.fetchrow(QUERIES["run"], run_id)
    return None if row is None else _run(row)


async def discrepancies(
    connection: Any,
    run_id: UUID,
    *,
    kind: str | None,
    cause: str | None = None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List what a reconciliation found, in the order of kinds, ids and lines."""
    (last,) = key_of(cursor, int)
    rows = await connection.fetch(
        QUERIES["list_discrepancies"], run_id, last or 0, kind, limit + 1, cause
    )
    return page_of(
        rows,
        limit,
        lambda row: {
            **{name: row[name] for name in DISCREPANCY_COLUMNS},
            "vendor_message_id": vendor_message_id_of(row),
            "message_id": None if row["message_id"] is None else str(row["message_id"]),
            "sent_at": rfc3339(row["sent_at"]),
            "price": money_or_none(row["price"]),
            "billed_amount": money_or_none(row["billed_amount"]),
            "amount": money(row["amount"]),
        },
        lambda row: cursor_of(row["seq"]),
    )


async def causes(connection: Any, run_id: UUID) -> Page:
    """List why a bill differs, the cause with most money first; the amounts are all of the difference."""
    return Page(await ranked_causes(connection, run_id), None)


async def adjustments(connection: Any, run_id: UUID, *, cursor: str | None, limit: int) -> Page:
    """List what an adjustment changes, message by message, in the order of ids.

    `segments` and `amount` are what the difference has become more by; all of them are all that it
    has become more by since the period was closed.
    """
    (last,) = key_of(cursor, int)
    rows = await connection.fetch(QUERIES["list_adjustments"], run_id, last or 0, limit + 1)
    return page_of(rows, limit, _adjustment, lambda row: cursor_of(row["seq"]))


def _run(row: Any) -> dict[str, Any]:
    return {
        **msgspec.json.decode(row["result"]),
        "run_at": rfc3339(row["run_at"]),
        "rules": row["rules"],
        "version": row["version"],
        "closed_at": rfc3339(row["closed_at"]),
        "closed_by": row["closed_by"],
        "adjusts": None if row["adjusts"] is None else str(row["adjusts"]),
    }


def _adjustment(row: Any) -> dict[str, Any]:
    known = (row["status_before"], row["status_after"]) != (None, None)
    shown: dict[str, Any] = {}
    more_segments, more_amount = 0, Decimal(0)
    for at, sign in (("before", -1), ("after", 1)):
        more_segments += sign * (row[f"billed_segments_{at}"] - (row[f"owed_segments_{at}"] or 0))
        owed = row[f"owed_amount_{at}"] or Decimal(0)
        more = EXACT.subtract(row[f"billed_amount_{at}"], owed)
        more_amount = EXACT.add(more_amount, EXACT.multiply(Decimal(sign), more))
        shown[f"owed_amount_{at}"] = money_or_none(row[f"owed_amount_{at}"])
        shown[f"billed_amount_{at}"] = money(row[f"billed_amount_{at}"])
    return {
        **{name: row[name] for name in ADJUSTMENT_COLUMNS[:-2]},
        **shown,
        "message_id": str(row["message_id"]) if known else None,
        "vendor_message_id": (
            None if row["vendor_message_id"].startswith(PROVISIONAL) else row["vendor_message_id"]
        ),
        "segments": more_segments,
        "amount": money(more_amount),
    }
