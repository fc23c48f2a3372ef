"""Drift: noticing that a vendor's documents have come to look otherwise.

Outside the hot path: a job reads stored records after the fact, in bounded batches, and keeps which
fields stood in them, with which types, and which codes, each with when it was seen first and last.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog

from gateways import vocabulary
from gateways.errors import GatewayError, Refused
from gateways.events import DeliveryReport, InboundMessage, ReviewResult, ReviewStatus, Status
from reconciler import alarms, shapes
from reconciler.lease import Lease
from runtime import metrics, records
from runtime.queries import QUERIES
from runtime.records import Record
from runtime.settings import AccountSettings

log = structlog.get_logger()

BATCH = 500
# A record may be committed a little later than it came.
_SETTLED = timedelta(minutes=2)
# Who falls behind further than this reads on from the newest: at much traffic drift is seen by samples.
_BEHIND = timedelta(hours=1)
_START = timedelta(days=1)
# For so long drift is an alarm; the list keeps it.
_NEWS = timedelta(days=7)
CODE = "code"
_READER = "drift"


async def read(accounts: Mapping[str, AccountSettings], lease: Lease, *, now: datetime) -> int:
    """Read up to `BATCH` records of each account from where it was left; return how many.

    Raises `LeaseLost`.
    """
    count = 0
    for name, settings in accounts.items():
        count += await _read(lease.pool, settings, now)
        async with lease.pool.acquire() as connection:
            await _alarm(connection, name, now)
    return count


async def _read(pool: Any, settings: AccountSettings, now: datetime) -> int:
    account = settings.account.name
    position = await pool.fetchrow(QUERIES["position"], _READER, account)
    after = (now - _START, b"") if position is None else tuple(position)
    if after[0] < now - _START:
        after = (now - _SETTLED - timedelta(minutes=10), b"")
    rows = await pool.fetch(QUERIES["records_after"], account, *after, now - _SETTLED, BATCH)
    if not rows:
        return 0
    found = records.of_rows(rows)
    seen: dict[tuple[str, str, str], _Seen] = {}
    for record in found:
        for document, feature, kind, known in _features(settings, record):
            key = document, feature, kind
            seen.setdefault(key, _Seen(known, record)).add(record)
    last = found[-1].received_at, found[-1].digest
    if len(rows) == BATCH and last[0] < now - _BEHIND:
        last = now - _SETTLED - timedelta(minutes=10), b""
        log.info("drift.skipped", account=account)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(QUERIES["advance_position"], _READER, account, *last)
        keys = sorted(seen)
        new = await connection.fetch(
            QUERIES["keep_features"],
            account,
            [document for document, _, _ in keys],
            [feature for _, feature, _ in keys],
            [kind for _, _, kind in keys],
            [seen[key].known for key in keys],
            [seen[key].first for key in keys],
            [seen[key].last for key in keys],
            [seen[key].count for key in keys],
            [seen[key].example for key in keys],
            CODE,
        )
    for row in new:
        metrics.DRIFT.labels(account, row["what"]).inc()
        log.warning(
            "document.drifted",
            account=account,
            what=row["what"],
            document=row["document"],
            feature=row["feature"],
            kind=row["kind"],
            record=row["example"].hex(),
        )
    return len(rows)


class _Seen:
    """When and how often a feature was seen in some records, and in which first."""

    def __init__(self, known: bool, record: Record) -> None:
        self.known = known
        self.first = self.last = record.received_at
        self.example = record.digest
        self.count = 0

    def add(self, record: Record) -> None:
        self.last = record.received_at
        self.count += 1


def _features(settings: AccountSettings, record: Record) -> set[tuple[str, str, str, bool]]:
    """Return what a record shows: document, feature, kind, and whether its gateway knows that."""
    document, codes = _read_as(settings, record)
    names = vocabulary.names(settings.gateway.name)
    shape = shapes.features(record.body, record.query, record.headers.get("content-type", ""))
    found = {
        (document, feature, kind, shapes.last_name(feature) in names) for feature, kind in shape
    }
    return found | {(document, CODE, shapes.code(code), known) for code, known in codes}


def _read_as(settings: AccountSettings, record: Record) -> tuple[str, set[tuple[str, bool]]]:
    """Say what a document is, and which codes its parser found in it, known or not."""
    what = "callback" if record.call is None else f"reply to {record.call}"
    try:
        events = records.parse(record, settings.gateway, settings.account).events
    except Refused:
        return f"{what}, refused", set()
    except GatewayError:
        return f"{what}, not understood", set()
    except Exception:
        return f"{what}, not understood", set()  # settling has said so
    codes: set[tuple[str, bool]] = set()
    kinds: set[str] = set()
    for event in events:
        match event:
            case DeliveryReport():
                kinds.add("report")
                codes.add((event.vendor_code, event.status is not Status.UNKNOWN))
            case ReviewResult():
                kinds.add(event.kind.value)
                codes.add((event.vendor_code, event.status is not ReviewStatus.UNKNOWN))
            case InboundMessage():
                kinds.add("inbound message")
    if record.call is None:
        what = " ".join(("callback:", " and ".join(sorted(kinds)) or "nothing"))
    return what, codes


async def _alarm(connection: Any, account: str, now: datetime) -> None:
    row = await connection.fetchrow(QUERIES["newest_drift"], account, now - _NEWS)
    if not row["features"]:
        await alarms.end(connection, account, "drift", now=now)
        return
    words = (
        f"{row['features']} new fields, types or codes in the vendor's documents within a week, the "
        f"newest {row['feature']} ({row['kind']}) in: {row['document']}"
    )
    figures = {"features": row["features"]}
    await alarms.raise_(connection, account, "drift", words, figures, now=now)
