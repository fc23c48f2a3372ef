"""Signs and templates, with every word of their vendors, and how long decisions were waited for."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from reconciler.reading.fields import rfc3339
from reconciler.reading.paging import Page, cursor_of, key_of, page_of
from runtime.queries import QUERIES

REVIEW_COLUMNS = (
    "account",
    "vendor_id",
    "status",
    "vendor_code",
    "name",
    "content",
    "remark",
    "reason",
    "created_at",
    "updated_at",
    "submitted_at",
    "decided_at",
    "waited_seconds",
)


async def reviews(
    connection: Any,
    accounts: Sequence[str],
    kind: str,
    *,
    status: str | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List signs or templates, each with every word of the vendor on it, oldest first."""
    account, last = key_of(cursor, str, str)
    rows = await connection.fetch(
        QUERIES["list_reviews"], list(accounts), kind, status, account, last, limit + 1
    )
    history = await _review_history(connection, rows[:limit], kind)
    return page_of(
        rows,
        limit,
        lambda row: _review(row, history),
        lambda row: cursor_of(row["account"], row["vendor_id"]),
    )


async def review(connection: Any, account: str, kind: str, vendor_id: str) -> dict[str, Any] | None:
    """Return one sign or template with every word of the vendor on it, or None."""
    row = await connection.fetchrow(QUERIES["review"], account, kind, vendor_id)
    if row is None:
        return None
    return _review(row, await _review_history(connection, [row], kind))


_History = dict[tuple[str, str], list[Any]]


async def _review_history(connection: Any, rows: Sequence[Any], kind: str) -> _History:
    words = await connection.fetch(
        QUERIES["history_of_reviews"],
        [row["account"] for row in rows],
        [row["vendor_id"] for row in rows],
        kind,
    )
    history: _History = {}
    for word in words:
        history.setdefault((word["account"], word["vendor_id"]), []).append(word)
    return history


def _review(row: Any, history: _History) -> dict[str, Any]:
    words = history.get((row["account"], row["vendor_id"]), [])
    seconds, last = _waits(words)
    return {
        **{name: row[name] for name in REVIEW_COLUMNS[:-3]},
        "created_at": rfc3339(row["created_at"]),
        "updated_at": rfc3339(row["updated_at"]),
        "submitted_at": rfc3339(last.submitted_at),
        "decided_at": rfc3339(last.decided_at),
        "waited_seconds": last.seconds,
        "history": [
            {
                "status": word["status"],
                "vendor_code": word["vendor_code"],
                "reason": word["reason"],
                "updated_at": rfc3339(word["updated_at"]),
                "received_at": rfc3339(word["received_at"]),
                "waited_seconds": waited,
                "source": word["source"],
                "record": word["digest"].hex(),
            }
            for word, waited in zip(words, seconds, strict=True)
        ],
    }


class _Wait(NamedTuple):
    """When something was submitted and when decided, and how many seconds lie between."""

    submitted_at: datetime | None = None
    decided_at: datetime | None = None
    seconds: int | None = None


def _waits(words: Sequence[Any]) -> tuple[list[int | None], _Wait]:
    """Say how long each decision of a history was waited for, and how the last submission stands.

    `words` are oldest first. A word's time is the vendor's, or when it came if the vendor gave none.
    A submission begins when the review was made, and again with the first pending word after a
    decision. Pure.
    """
    wait = _Wait(words[0]["created_at"] if words else None)
    decision: str | None = None
    seconds: list[int | None] = []
    for word in words:
        at = word["updated_at"] or word["received_at"]
        if word["status"] == "pending":
            if decision is not None or wait.submitted_at is None:
                wait, decision = _Wait(at), None
        elif word["status"] in ("approved", "rejected") and word["status"] != decision:
            # Another decision without a word between: corrected, and nobody told us when.
            submitted = wait.submitted_at if decision is None else None
            waited = None if submitted is None else max(0, round((at - submitted).total_seconds()))
            wait, decision = _Wait(submitted, at, waited), word["status"]
        seconds.append(wait.seconds if word["status"] == decision else None)
    return seconds, wait
