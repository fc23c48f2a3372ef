"""What an operator watches: alarms, what was new in documents, jobs and pulls."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from reconciler.reading.fields import rfc3339
from reconciler.reading.paging import Page, cursor_of, key_of, page_of
from runtime.queries import QUERIES

ALARM_COLUMNS = (
    "id",
    "account",
    "kind",
    "since",
    "last_seen_at",
    "ended_at",
    "words",
    "figures",
)
FEATURE_COLUMNS = (
    "account",
    "document",
    "feature",
    "kind",
    "drift",
    "known",
    "first_seen_at",
    "last_seen_at",
    "seen",
    "record",
)


async def alarms(
    connection: Any,
    accounts: Sequence[str],
    *,
    kind: str | None,
    ended: bool,
    cursor: str | None,
    limit: int,
) -> Page:
    """List alarms, the newest first: those that stand, and with `ended` those that are over too."""
    at, last = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(
        QUERIES["list_alarms"], list(accounts), kind, ended, at, last, limit + 1
    )
    times = ("since", "last_seen_at", "ended_at")
    return page_of(
        rows,
        limit,
        lambda row: {
            **{name: row[name] for name in ALARM_COLUMNS},
            "id": str(row["id"]),
            "account": row["account"] or None,
            **{name: rfc3339(row[name]) for name in times},
        },
        lambda row: cursor_of(row["since"], row["id"]),
    )


async def features(
    connection: Any, accounts: Sequence[str], *, every: bool, cursor: str | None, limit: int
) -> Page:
    """List what was new in vendors' documents, or with `every` all that they were seen to have."""
    last = key_of(cursor, datetime, str, str, str, str)
    rows = await connection.fetch(QUERIES["list_features"], list(accounts), every, *last, limit + 1)
    key = FEATURE_COLUMNS[:4]
    return page_of(
        rows,
        limit,
        lambda row: {
            **{name: row[name] for name in FEATURE_COLUMNS if name != "record"},
            "first_seen_at": rfc3339(row["first_seen_at"]),
            "last_seen_at": rfc3339(row["last_seen_at"]),
            "record": row["example"].hex(),
        },
        lambda row: cursor_of(row["first_seen_at"], *(row[name] for name in key)),
    )


async def jobs(connection: Any) -> Page:
    """List what each job did last, how often it failed, and which process runs it now."""
    rows = await connection.fetch(QUERIES["list_jobs"])
    items = [
        {
            "job": row["name"],
            "account": row["account"] or None,
            "started_at": rfc3339(row["started_at"]),
            "finished_at": rfc3339(row["finished_at"]),
            "runs": row["runs"],
            "failures": row["failures"],
            "failures_in_row": row["failures_in_row"],
            "error": row["error"],
            "again_at": rfc3339(row["again_at"]),
            "detail": row["detail"],
            "holder": row["holder"],
        }
        for row in rows
    ]
    return Page(items, None)


async def pulls(
    connection: Any, account: str | None, *, state: str | None, cursor: str | None, limit: int
) -> Page:
    """List reads that the vendor hands out once, the newest first; `lost` ones may miss rows."""
    at, last = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(QUERIES["list_pulls"], account, state, at, last, limit + 1)
    return page_of(
        rows,
        limit,
        lambda row: {
            "id": str(row["id"]),
            "account": row["account"],
            "call": row["call"],
            "state": row["state"],
            "asked_rows": row["asked_rows"],
            "rows": row["rows"],
            "intended_at": rfc3339(row["intended_at"]),
            "finished_at": rfc3339(row["finished_at"]),
            "record": None if row["digest"] is None else row["digest"].hex(),
            "error": row["error"],
        },
        lambda row: cursor_of(row["intended_at"], row["id"]),
    )
