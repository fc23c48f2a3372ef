"""Alarms: what a person should know of, as rows that whoever tells people reads.

An alarm is of one account and one kind, and one of a kind stands at a time. Raising is idempotent:
what notices something says so each time that it looks, and says when it is over.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

import structlog

from runtime.queries import QUERIES
from runtime.settings import ALARM_KINDS

log = structlog.get_logger()

KINDS = ALARM_KINDS
# The account of what is of no account: the machine, its jobs.
HOUSE = ""


async def raise_(
    connection: Any,
    account: str,
    kind: str,
    words: str,
    figures: Mapping[str, Any],
    *,
    now: datetime,
) -> bool:
    """Raise an alarm, or note that it was seen again; True if it is new.

    `words` is one sentence without phone numbers and secrets, `figures` what it was judged by.
    """
    rose: bool = await connection.fetchval(
        QUERIES["raise_alarm"], uuid4(), account, kind, now, words, dict(figures)
    )
    if rose:
        log.warning("alarm.raised", account=account, kind=kind, words=words)
    return rose


async def end(connection: Any, account: str, kind: str, *, now: datetime) -> bool:
    """End an alarm; False if none stood."""
    row = await connection.fetchrow(QUERIES["end_alarm"], account, kind, now)
    if row is not None:
        seconds = round((now - row["since"]).total_seconds())
        log.info("alarm.ended", account=account, kind=kind, seconds=seconds)
    return row is not None
