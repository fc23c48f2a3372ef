"""Replay: what nobody understood is parsed again, with today's parsers.

Records are never rewritten, so a better parser is all that it takes to understand yesterday's bytes.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from gateways.errors import GatewayError
from gateways.events import Parsed
from runtime import records, settlement
from runtime.queries import QUERIES
from runtime.records import Record
from runtime.settings import AccountSettings

PAGE = 200


class Replayed(msgspec.Struct, kw_only=True):
    """What a replay did, or would do: `understood` leave quarantine, `joined` meet their message."""

    quarantined: int = 0
    understood: int = 0
    events: int = 0
    joined: int = 0


async def replay(
    pool: Any,
    accounts: Mapping[str, AccountSettings],
    account: str | None,
    *,
    now: datetime,
    dry_run: bool,
    progress: Callable[[int], None] = lambda _: None,
) -> Replayed:
    """Parse quarantined records of `account` (None: of all) again, and join orphans.

    Idempotent. With `dry_run` nothing is written, and `joined` stays 0. `progress` is told how many
    quarantined records were parsed.
    """
    done = Replayed()
    last = b""
    while True:
        rows = await pool.fetch(QUERIES["quarantined_records"], account, last, PAGE)
        if not rows:
            break
        found = records.of_rows(rows)
        last = found[-1].digest
        done.quarantined += len(found)
        understood = [
            (record, parsed)
            for record in found
            if (parsed := _parsed(record, accounts)) is not None and parsed.events
        ]
        done.events += sum(len(parsed.events) for _, parsed in understood)
        whole = [record.digest for record, parsed in understood if not parsed.problems]
        done.understood += len(whole)
        if understood and not dry_run:
            some = [record for record, _ in understood]
            await settlement.settle(pool, accounts, some, batches=(), now=now)
            await pool.execute(QUERIES["release"], whole)
        progress(done.quarantined)
    if not dry_run:
        async with pool.acquire() as connection:
            while joined := await settlement.join_left_orphans(connection):
                done.joined += joined
    return done


def _parsed(record: Record, accounts: Mapping[str, AccountSettings]) -> Parsed | None:
    settings = accounts.get(record.account)
    if settings is None:
        return None
    try:
        return records.parse(record, settings.gateway, settings.account)
    except GatewayError:
        return None
