"""Trust in unsigned pushes: what a report falls short of, and what becomes of it.

Anybody who knows a callback address can push. A report counts at once if it names a message and its
number, at a time that can be, from where the vendor pushes; else it is kept, shown, and left out of
the fold until what we ask ourselves confirms it or a person accepts it (decision 18).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any
from uuid import UUID

import msgspec
import structlog

from runtime import metrics
from runtime.queries import QUERIES
from runtime.records import FOREIGN, Record
from runtime.settings import AccountSettings

log = structlog.get_logger()

# Why a report is not trusted, in the order in which reasons are shown.
REASONS = (
    "foreign_network",
    "unconfirmed",
    "in_future",
    "number_differs",
    "before_sending",
    "contradicted_by_query",
)
STATES = ("waiting", "confirmed", "contradicted", "accepted", "rejected")

# Shard, the message's id, fingerprint.
ReportKey = tuple[int, UUID, bytes]


class Judge(msgspec.Struct, frozen=True, gc=False):
    """What is to be said against the reports of one push, whatever their messages; pure.

    `latest` is the latest time that a report in it can bear, in seconds since 1970; `slack_seconds`
    how much a time may be off; `always` what is against all of them.
    """

    latest: float
    slack_seconds: float
    always: str | None

    def doubts(self, reported: float | None) -> str | None:
        """Return what a report falls short of by itself, parted by blanks; None: nothing."""
        if reported is None or reported <= self.latest:
            return self.always
        return "in_future" if self.always is None else f"{self.always} in_future"

    def others(self) -> "list[Judge]":
        """Return every judge that there may have been of the same push, whatever the settings were."""
        where = None if self.always is None else self.always.removesuffix("unconfirmed").strip()
        unconfirmed = f"{where} unconfirmed" if where else "unconfirmed"
        return [
            Judge(latest, self.slack_seconds, always)
            for latest in (-inf, inf)
            for always in (where or None, unconfirmed)
        ]


def judge_of(accounts: Mapping[str, AccountSettings], record: Record) -> Judge | None:
    """Return who judges a record's reports: nobody, if we asked for it ourselves."""
    if record.source != "push":
        return None
    settings = accounts[record.account]
    slack = settings.clock_slack_seconds
    always = None
    if record.subject == FOREIGN:
        always = "foreign_network unconfirmed" if settings.confirm_pushes else "foreign_network"
    elif settings.confirm_pushes:
        always = "unconfirmed"
    return Judge(record.received_at.timestamp() + slack, slack, always)


async def settle_suspects(
    connection: Any, shards: Sequence[int], ids: Sequence[UUID], sent: Sequence[float]
) -> None:
    """Keep what became of the suspect reports of messages that were just folded, under their lock.

    `sent` are the times of sending as `lock_messages` gives them.
    """
    _count(await connection.fetch(QUERIES["settle_suspects"], shards, ids, sent, datetime.now(UTC)))


async def settle_strangers(connection: Any, shards: Sequence[int]) -> list[ReportKey]:
    """Keep as suspects what names no message, in these shards, and falls short of trust.

    Returns the reports that another transaction holds. It folds or judges them, maybe without
    knowing a message that is known here: who made one known passes them to `settle_held` after its
    commit.
    """
    if not shards:
        return []
    rows = await connection.fetch(QUERIES["settle_strangers"], shards, datetime.now(UTC))
    _count([row for row in rows if row["reasons"] is not None])
    return [
        (row["shard"], row["message_id"], row["fingerprint"])
        for row in rows
        if row["reasons"] is None
    ]


async def settle_held(connection: Any, held: Sequence[ReportKey]) -> None:
    """Judge strangers that others held, once these are done; not within a transaction."""
    while held:
        # One at a time and holding nothing: so nobody can wait for us meanwhile.
        for key in held:
            await connection.execute(QUERIES["await_report"], *key)
        held = await settle_strangers(connection, sorted({shard for shard, _, _ in held}))


async def settle_left_strangers(connection: Any, limit: int = 1000) -> None:
    """Keep as suspects what names another number than its message's, where nobody got to that."""
    rows = await connection.fetch(QUERIES["shards_with_unsaid_strangers"], limit)
    await settle_strangers(connection, [row["shard"] for row in rows])


async def forget_strangers(connection: Any, keys: Sequence[tuple[int, UUID]]) -> None:
    """Forget that reports of these messages, which were just folded, were taken for strangers."""
    if keys:
        await connection.execute(
            QUERIES["forget_strangers"], [shard for shard, _ in keys], [id for _, id in keys]
        )


def _count(rows: Sequence[Any]) -> None:
    for row in rows:
        for reason in set(row["reasons"]) - set(row["reasons_before"] or ()):
            metrics.SUSPECT_REPORTS.labels(row["account"], reason).inc()
        if row["reasons"] != ["unconfirmed"]:
            log.warning(
                "report.suspect",
                account=row["account"],
                reasons=row["reasons"],
                state=row["state"],
            )
