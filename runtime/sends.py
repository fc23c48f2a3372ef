"""What became of messages that we sent: their outcomes, and the ids that vendors gave them.

A message is in the ledger before its vendor is called, under a provisional id. A reply, a report that
hands back our reference, a report or a statement line that can mean nothing else gives it its real id
and moves it there, where its reports stand. Every step may be repeated.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec

from gateways.events import Accepted, Rejected
from runtime.identity import PROVISIONAL, message_id, shard_of, shard_of_message
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

Key = tuple[int, UUID]


class Outcome(msgspec.Struct, kw_only=True):
    """What became of one submission (one call to a vendor).

    `nothing`: the request never left; `refused`: the vendor took nothing; `indeterminate`: nobody
    knows. `accepted` may name some numbers only, `rejected` those that were not taken.
    """

    submission: UUID
    account: str
    state: Literal["accepted", "refused", "nothing", "indeterminate"]
    accepted: Sequence[Accepted] = ()
    rejected: Sequence[Rejected] = ()
    vendor_code: str | None = None
    reason: str | None = None
    digest: bytes | None = None


class Identified(msgspec.Struct, frozen=True, kw_only=True):
    """A message without a vendor id, at (`shard`, `id`), and the vendor id that is its own."""

    shard: int
    id: UUID
    phone: str
    sent_at: datetime
    vendor_message_id: str


def provisional_id(submission: UUID) -> str:
    """Return what stands for the vendor's id of a submission's messages until that is known."""
    return f"{PROVISIONAL}{submission.hex}"


def waiting_time(settings: AccountSettings) -> timedelta | None:
    """Say how long after its sending a message is asked about first; None: no report ever comes.

    Where nobody can be asked about one message, it is how long a report is waited for.
    """
    if not settings.gateway.reports:
        return None
    if "query_status" in settings.gateway.supports:
        return timedelta(seconds=settings.poll_after_seconds)
    return timedelta(hours=settings.poll_until_hours)


def first_poll(settings: AccountSettings, sent_at: datetime, now: datetime) -> datetime | None:
    """Say when to ask about a message first, or when waiting for it ends; None: nothing ever comes."""
    wait = waiting_time(settings)
    return None if wait is None else max(now, sent_at.astimezone(UTC) + wait)


async def conclude(
    connection: Any, settings: AccountSettings, outcome: Outcome, now: datetime
) -> list[Key]:
    """Store what became of a submission, within the caller's transaction; idempotent.

    Returns the keys of messages that were given their ids: fold them after the commit. Messages of
    an accepted submission that the vendor said nothing of are in doubt.
    """
    provisional = provisional_id(outcome.submission)
    shard = shard_of(outcome.account, provisional)
    rows = await connection.fetch(QUERIES["lock_unidentified"], shard, provisional)
    for_all = next((one for one in outcome.accepted if one.phone is None), None)
    if for_all is not None and for_all.taken is not None and for_all.taken < len(rows):
        outcome.reason = f"the vendor says it took {for_all.taken} of {len(rows)}, not which"
    named = {one.phone: one for one in outcome.accepted if one.phone is not None}
    rejected = {one.phone: one for one in outcome.rejected}
    whole = outcome.state in ("refused", "nothing")
    identified: list[Identified] = []
    refused: list[tuple[UUID, str | None, str | None]] = []
    doubtful: list[UUID] = []
    for row in rows:
        phone = row["phone"]
        if accepted := named.get(phone):
            identified.append(_identified(shard, row, accepted))
        elif rejection := rejected.get(phone):
            refused.append((row["id"], rejection.vendor_code, rejection.reason))
        elif for_all is not None:
            identified.append(_identified(shard, row, for_all))
        elif whole:
            refused.append((row["id"], outcome.vendor_code, outcome.reason))
        else:
            doubtful.append(row["id"])
    keys = await identify(connection, settings, identified, by="reply", now=now)
    if refused:
        by = "sender" if outcome.state == "nothing" else "reply"
        await connection.execute(
            QUERIES["refuse_messages"], shard, *map(list, zip(*refused, strict=True)), by
        )
    if doubtful:
        reason = outcome.reason or "the reply does not name this number"
        await connection.execute(QUERIES["doubt_messages"], shard, doubtful, reason)
    await connection.execute(
        QUERIES["conclude_submission"],
        outcome.submission,
        outcome.state,
        now,
        outcome.vendor_code,
        outcome.reason,
        outcome.digest,
    )
    return keys


async def identify(
    connection: Any,
    settings: AccountSettings,
    found: Sequence[Identified],
    *,
    by: Literal["reply", "reference", "report", "statement"],
    now: datetime,
) -> list[Key]:
    """Give messages their vendor ids; return the keys at which those that had none stand now."""
    if not found:
        return []
    account = settings.account.name
    rows = await connection.fetch(
        QUERIES["identify"],
        [one.shard for one in found],
        [one.id for one in found],
        [shard_of(account, one.vendor_message_id) for one in found],
        [message_id(account, one.vendor_message_id, one.phone) for one in found],
        [one.vendor_message_id for one in found],
        [first_poll(settings, one.sent_at, now) for one in found],
        by,
    )
    return [(row["shard"], row["id"]) for row in rows]


async def identify_by_reference(
    connection: Any,
    settings: AccountSettings,
    references: Mapping[UUID, tuple[str, str]],
    now: datetime,
) -> list[Key]:
    """Give messages the vendor ids of reports that hand back our reference.

    `references` maps it to (phone, vendor_message_id). Returns keys as `identify` does.
    """
    rows = await connection.fetch(
        QUERIES["lock_referred"],
        settings.account.name,
        [shard_of_message(reference) for reference in references],
        list(references),
        [phone for phone, _ in references.values()],
    )
    found = [
        Identified(
            shard=row["shard"],
            id=row["id"],
            phone=row["phone"],
            sent_at=row["sent_at"],
            vendor_message_id=references[row["id"]][1],
        )
        for row in rows
    ]
    return await identify(connection, settings, found, by="reference", now=now)


def _identified(shard: int, row: Any, accepted: Accepted) -> Identified:
    return Identified(
        shard=shard,
        id=row["id"],
        phone=row["phone"],
        sent_at=row["sent_at"],
        vendor_message_id=accepted.vendor_message_id,
    )
