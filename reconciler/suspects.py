"""Suspect reports: what people decide on them, and the alarms that they raise."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
import structlog

from reconciler import alarms
from runtime import Problem, settlement
from runtime.identity import shard_of_message
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

log = structlog.get_logger()

Verdict = Literal["accepted", "rejected"]
MAX_DECIDED = 10_000
# So many that wait are worth a person's look; and so many with one offset are no chance.
_MANY = 20
# How far from a whole hour a time may be for a wrong zone to be its likely cause.
OFF_HOUR_SECONDS = 600.0


class Unknown(Problem):
    """A suspect report that there is none of."""


class Undecidable(Problem):
    """What cannot be decided so; the text says why."""


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What deciding did: `unchanged` were so already, or are accepted and count."""

    changed: int
    unchanged: int


def id_of(message_id: UUID, fingerprint: bytes) -> str:
    """Return how a suspect report is named: 64 hexadecimal digits."""
    return message_id.hex + fingerprint.hex()


def key_of(id: str) -> tuple[UUID, bytes]:
    """Return what `id_of` was made of; raises `Unknown`."""
    try:
        whole = bytes.fromhex(id)
    except ValueError:
        whole = b""
    if len(whole) != 32:
        raise Unknown(f"no suspect report {id}")
    return UUID(bytes=whole[:16]), whole[16:]


async def decide(
    pool: Any,
    verdict: Verdict,
    *,
    ids: Sequence[str] = (),
    account: str | None = None,
    reason: str | None = None,
    by: str,
    note: str | None,
    now: datetime,
) -> Decided:
    """Accept or reject reports, by their ids, or all that wait at `account` for `reason`.

    An accepted report counts from then on, and what counts is never taken back. Durable on return.
    Raises `Unknown` for ids that name nothing, `Undecidable` for more than `MAX_DECIDED`.
    """
    if len(ids) > MAX_DECIDED:
        raise Undecidable(f"{len(ids)} reports; {MAX_DECIDED} can be decided at once")
    named = [key_of(id) for id in dict.fromkeys(ids)]
    keys = (
        [shard_of_message(message) for message, _ in named],
        [message for message, _ in named],
        [fingerprint for _, fingerprint in named],
    )
    async with pool.acquire() as connection:
        async with connection.transaction():
            rows = await connection.fetch(
                QUERIES["suspects_to_decide"], *keys, verdict, account, reason, MAX_DECIDED + 1
            )
            if len(rows) > MAX_DECIDED:
                raise Undecidable(f"more than {MAX_DECIDED} reports wait: name a reason, or ids")
            found = [(row["shard"], row["message_id"], row["fingerprint"]) for row in rows]
            shards, messages, fingerprints = zip(*found, strict=True) if found else ((), (), ())
            await connection.execute(QUERIES["lock_messages"], shards, messages)
            done = await connection.fetch(
                QUERIES["decide_suspects"], shards, messages, fingerprints, verdict, now, by, note
            )
            if not done and named:
                known = await connection.fetchval(QUERIES["known_suspects"], *keys)
                if known < len(named):
                    raise Unknown("no such suspect report")
        # After the commit and not in it: see runtime.settlement for why.
        await settlement.fold(connection, list(zip(shards, messages, strict=True)))
    if done:
        log.info("suspects.decided", verdict=verdict, by=by, reports=len(done))
    wanted = len(named) if named else len(done)
    return Decided(changed=len(done), unchanged=wanted - len(done))


async def watch(pool: Any, accounts: Mapping[str, AccountSettings], *, now: datetime) -> None:
    """Settle what answers to us say of other numbers, and raise or end the alarms of suspects."""
    for name, settings in accounts.items():
        async with pool.acquire() as connection:
            await connection.execute(
                QUERIES["settle_strangers_asked"], name, settings.gateway.id_per_number, now
            )
            row = await connection.fetchrow(QUERIES["weigh_suspects"], name, OFF_HOUR_SECONDS)
            await _watch_waiting(connection, name, row, now)
            await _watch_clock(connection, settings, row, now)


async def _watch_waiting(connection: Any, account: str, row: Any, now: datetime) -> None:
    figures = {name: row[name] for name in ("waiting", "contradicted")}
    if not row["waiting"] and not row["contradicted"]:
        await alarms.end(connection, account, "suspects", now=now)
        return
    words = []
    if row["waiting"]:
        words.append(f"{row['waiting']} pushed reports wait to be confirmed and count for nothing")
    if row["contradicted"]:
        words.append(
            f"{row['contradicted']} of the last day say otherwise than the vendor's answers to us: "
            "somebody may be forging reports"
        )
    await alarms.raise_(connection, account, "suspects", "; ".join(words), figures, now=now)


async def _watch_clock(connection: Any, settings: AccountSettings, row: Any, now: datetime) -> None:
    account = settings.account.name
    shared, timed = row["sharing"] or 0, row["timed"]
    if shared < _MANY or shared < 0.8 * timed:
        await alarms.end(connection, account, "clock", now=now)
        return
    hours = row["hours"]
    words = (
        f"{shared} pushed reports that wait bear times {abs(hours)} hours "
        f"{'ahead of' if hours > 0 else 'behind'} their coming: that is a wrong timezone and no "
        f"forgery; the account's is {settings.account.zone.key}"
    )
    figures = {"reports": shared, "hours": hours}
    await alarms.raise_(connection, account, "clock", words, figures, now=now)
