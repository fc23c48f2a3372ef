"""One callback's whole story, from its arrival to what counts by it: told by the database.

No line of a log a callback, at thousands a second: what is stored says the same, and for as long as it is kept.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from reconciler.reading.fields import rfc3339
from runtime import records, understanding
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

STEPS = ("at", "what", "words")
WHATS = (
    "received",
    "received_again",
    "recorded",
    "taken_up",
    "quarantined",
    "settled",
    "joined",
    "linked",
    "purged",
)


async def tell(
    connection: Any, accounts: Mapping[str, AccountSettings], digest: bytes
) -> dict[str, Any] | None:
    """Return what became of a callback or a reply, in the order of time; None if there is none.

    What its bytes say is read with today's parsers. Purged ones say nothing: then `events` and
    `reports` are None. Phones and texts are left out.
    """
    row = await connection.fetchrow(QUERIES["story_of_record"], digest, sorted(accounts))
    if row is None:
        return None
    steps = _steps(row)
    events: dict[str, int] | None = None
    reports: list[dict[str, Any]] | None = None
    if row["purged_at"] is None:
        (record,) = records.of_rows([row])
        understood = understanding.understand(accounts, [record])
        events = {
            what: len(found)
            for what in ("reports", "inbound", "reviews", "balances")
            if (found := getattr(understood, what))
        }
        keys = sorted({(shard, id) for shard, id, _ in understood.reports})
        found = await connection.fetch(
            QUERIES["story_of_reports"], [key[0] for key in keys], [key[1] for key in keys], digest
        )
        reports = [_report(report) for report in found]
        steps += _joined(row, found)
    return {
        "id": digest.hex(),
        "account": row["account"],
        "source": row["source"],
        "call": row["call"],
        "state": "quarantined"
        if row["quarantined_at"] is not None
        else ("recorded" if row["settled_at"] is None else "settled"),
        "deliveries": row["deliveries"],
        "batch": row["batch_id"],
        "recorder": row["recorder"],
        "events": events,
        "reports": reports,
        "steps": [
            {"at": rfc3339(at), "what": what, "words": words}
            for at, what, words in sorted(steps, key=lambda step: step[0])
        ],
    }


def _steps(row: Any) -> list[tuple[datetime, str, str]]:
    steps: list[tuple[datetime | None, str, str]] = []
    came = row["received_at"]
    whence = f"from {row['peer']}" if row["source"] == "push" else f"in answer to {row['call']}"
    steps.append((came, "received", whence))
    if row["deliveries"] > 1:
        last = max(row["last_received_at"], came)
        steps.append((last, "received_again", f"{row['deliveries']} times by now"))
    if row["recorded_at"] is not None:
        waited = (row["recorded_at"] - came).total_seconds()
        words = f"batch {row['batch_id']} by {row['recorder']}, {waited:.3f} s after it came"
        steps.append((row["recorded_at"], "recorded", words))
    steps.append((row["taken_up_at"], "taken_up", "its recorder had not settled it"))
    steps.append((row["quarantined_at"], "quarantined", row["reason"] or ""))
    steps.append((row["settled_at"], "settled", f"with batch {row['batch_id']}"))
    steps.append((row["linked_at"], "linked", f"link {row['height']} of the chain"))
    steps.append((row["purged_at"], "purged", "its bytes are gone"))
    return [(at, what, words) for at, what, words in steps if at is not None]


def _report(report: Any) -> dict[str, Any]:
    return {
        "message": str(report["message_id"]),
        "vendor_message_id": report["vendor_message_id"],
        "status": report["status"],
        "vendor_code": report["vendor_code"],
        "orphan": report["orphan"],
        "suspect": report["left_out"],
        "message_status": report["message_status"],
    }


def _joined(row: Any, reports: Sequence[Any]) -> list[tuple[datetime, str, str]]:
    """Say which messages were registered only after their report was settled."""
    return [
        (report["registered_at"], "joined", f"message {report['message_id']} was registered")
        for report in reports
        if row["settled_at"] is not None
        and report["registered_at"] is not None
        and not report["orphan"]
        and report["registered_at"] > row["settled_at"]
    ]
