"""What is disputed: discrepancies as people work on them, their age, and credits."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from reconciler.cases import STATES, Filter, filter_arguments
from reconciler.match import EXACT, money
from reconciler.periods import Period
from reconciler.reading.fields import id_or_none, rfc3339, vendor_message_id_of
from reconciler.reading.paging import Page, cursor_of, key_of, page_of
from runtime.identity import shard_of_message
from runtime.queries import QUERIES

CASE_COLUMNS = (
    "id",
    "account",
    "period",
    "kind",
    "state",
    "owner",
    "note",
    "age_days",
    "vendor_message_id",
    "phone",
    "nth",
    "message_id",
    "line",
    "sent_at",
    "status",
    "segments",
    "amount",
    "credited",
    "rest",
    "currency",
    "found_at",
    "ended_at",
    "changed_at",
    "changed_by",
    "version",
    "reconciliation_id",
)
AGE_BUCKETS = ("0_7", "8_30", "31_60", "61_90", "over_90")
AGEING_COLUMNS = (
    "account",
    "currency",
    "state",
    *(f"{what}_{bucket}" for bucket in AGE_BUCKETS for what in ("count", "amount")),
    "count",
    "amount",
    "credited",
)
CREDIT_COLUMNS = (
    "credit_id",
    "line",
    "account",
    "number",
    "vendor_message_id",
    "phone",
    "period",
    "amount",
    "allocated",
    "unallocated",
    "currency",
    "outcome",
    "discrepancies",
    "reason",
    "file",
    "imported_at",
)


async def cases(
    connection: Any,
    accounts: Sequence[str],
    chosen: Filter,
    period: Period | None,
    *,
    now: datetime,
    cursor: str | None,
    limit: int,
) -> Page:
    """List discrepancies as people work on them, those found last first."""
    at, last = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(
        QUERIES["list_cases"],
        list(accounts),
        *filter_arguments(chosen, period, now),
        at,
        last,
        limit + 1,
    )
    return page_of(
        rows,
        limit,
        lambda row: _case(row, now),
        lambda row: cursor_of(row["found_at"], row["id"]),
    )


async def case(connection: Any, case_id: UUID, *, now: datetime) -> dict[str, Any] | None:
    """Return one discrepancy with its history, or None."""
    shard = shard_of_message(case_id)
    row = await connection.fetchrow(QUERIES["case"], shard, case_id)
    if row is None:
        return None
    changes = await connection.fetch(QUERIES["changes_of_case"], shard, case_id)
    return {
        **_case(row, now),
        "history": [
            {
                "version": change["version"],
                "at": rfc3339(change["changed_at"]),
                "by": change["changed_by"],
                "from": change["from_state"],
                "to": change["to_state"],
                "owner": change["owner"],
                "note": change["note"],
                "reconciliation_id": id_or_none(change["run_id"]),
                "credit_id": id_or_none(change["credit_id"]),
                "credit_line": change["credit_line"],
            }
            for change in changes
        ],
        "credits": [
            {
                "credit_id": str(credit["credit_id"]),
                "line": credit["line"],
                "number": credit["number"],
                "amount": money(credit["amount"]),
                "imported_at": rfc3339(credit["imported_at"]),
            }
            for credit in await connection.fetch(QUERIES["credits_of_case"], shard, case_id)
        ],
    }


def _case(row: Any, now: datetime) -> dict[str, Any]:
    age = (row["ended_at"] or now) - row["found_at"]
    shown = {
        "period": str(Period(row["first_day"], row["last_day"])),
        "age_days": max(0, age.days),
        "vendor_message_id": vendor_message_id_of(row),
        "rest": money(EXACT.subtract(row["amount"], row["credited"])),
        "reconciliation_id": str(row["run_id"]),
        **{name: id_or_none(row[name]) for name in ("id", "message_id")},
        **{name: money(row[name]) for name in ("amount", "credited")},
        **{name: rfc3339(row[name]) for name in ("sent_at", "found_at", "ended_at", "changed_at")},
    }
    return {name: shown[name] if name in shown else row[name] for name in CASE_COLUMNS}


async def ageing(connection: Any, accounts: Sequence[str], *, now: datetime) -> dict[str, Any]:
    """Return how many discrepancies there are and of what amount, by account, state and age.

    `items` has a row for each account, currency and state; `totals` one for each account and
    currency, and one for each currency. Every row adds up, and so does every column.
    """
    rows = await connection.fetch(QUERIES["age_cases"], list(accounts), now)
    order = {state: place for place, state in enumerate(STATES)}
    sums: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        bucket = AGE_BUCKETS[row["bucket"]]
        for key in (
            (row["account"], row["currency"], row["state"]),
            (row["account"], row["currency"], ""),
            ("", row["currency"], ""),
        ):
            sums_of = sums.setdefault(key, dict.fromkeys(AGEING_COLUMNS[3:], Decimal(0)))
            for name, amount in (
                (f"count_{bucket}", row["count"]),
                ("count", row["count"]),
                (f"amount_{bucket}", row["amount"]),
                ("amount", row["amount"]),
                ("credited", row["credited"]),
            ):
                sums_of[name] = EXACT.add(sums_of[name], Decimal(amount))

    def shown(key: tuple[str, str, str]) -> dict[str, Any]:
        account, currency, state = key
        return {
            "account": account or None,
            "currency": currency,
            "state": state or None,
            **{
                name: int(value) if name.startswith("count") else money(value)
                for name, value in sums[key].items()
            },
        }

    states = sorted(
        (key for key in sums if key[2]), key=lambda key: (key[0], key[1], order[key[2]])
    )
    totals = sorted((key for key in sums if not key[2]), key=lambda key: (key[0] == "", key))
    return {
        "as_of": rfc3339(now),
        "items": [shown(key) for key in states],
        "totals": [shown(key) for key in totals],
    }


async def credits(
    connection: Any,
    accounts: Sequence[str],
    *,
    number: str | None = None,
    credit: UUID | None = None,
    left: bool = False,
    cursor: str | None,
    limit: int,
) -> Page:
    """List lines of credit notes, those imported last first; `left`: only what is not used up."""
    line, at, last = key_of(cursor, int, datetime, UUID)
    rows = await connection.fetch(
        QUERIES["list_credits"], list(accounts), number, credit, left, at, last, line, limit + 1
    )
    return page_of(
        rows,
        limit,
        lambda row: {
            "credit_id": str(row["credit_id"]),
            **{name: row[name] for name in ("line", "account", "number")},
            **{name: row[name] for name in ("vendor_message_id", "phone")},
            "period": (
                None if row["first_day"] is None else str(Period(row["first_day"], row["last_day"]))
            ),
            "amount": money(row["amount"]),
            "allocated": money(row["allocated"]),
            "unallocated": money(EXACT.subtract(row["amount"], row["allocated"])),
            **{name: row[name] for name in ("currency", "outcome", "discrepancies", "reason")},
            "file": row["file_name"],
            "imported_at": rfc3339(row["imported_at"]),
        },
        lambda row: cursor_of(row["line"], row["imported_at"], row["credit_id"]),
    )
