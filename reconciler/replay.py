"""Replay: stored bytes parsed again, with today's parsers.

Records are never rewritten, so a better parser is all that it takes to understand yesterday's bytes.
Everything is parsed first and held against what is there; what differs is put right after that, some
records and one transaction at a time. So what a dry run tells is what a run does, and after it
everything is as if today's parsers had read it in the first place.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

import gateways
from reconciler.match import EXACT, money
from reconciler.reading.fields import rfc3339
from reconciler.reading.paging import Page, cursor_of, key_of, page_of
from runtime import records, settlement, understanding
from runtime.queries import QUERIES
from runtime.records import Record
from runtime.settings import AccountSettings, Tariff
from runtime.understanding import Understood

PAGE = 200
BATCH = 100
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Which records: of an account or of all, received from `since` on and before `until`."""

    account: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Money(msgspec.Struct, kw_only=True):
    """What is owed for the messages of one month whose states change; amounts are decimal text.

    A closed period's run stays as it is: reconciling it again makes an adjustment of this.
    """

    account: str
    period: str
    currency: str
    closed: bool
    messages: int = 0
    owed_before: str = "0"
    owed_after: str = "0"
    difference: str = "0"


class Replayed(msgspec.Struct, kw_only=True):
    """What a replay did, or would do.

    `purged` records have no bytes to parse. Of those that were quarantined `understood` leave
    quarantine, with `events`; `refused` enter it. `changed` records are read otherwise; `joined`
    messages meet a report that was there.
    """

    records: int = 0
    purged: int = 0
    quarantined: int = 0
    understood: int = 0
    refused: int = 0
    events: int = 0
    changed: int = 0
    reports_added: int = 0
    reports_removed: int = 0
    others_removed: int = 0
    state_changes: int = 0
    joined: int = 0


@cache
def parsers() -> str:
    """Name today's parsers: the version, and a digest of every gateway's source."""
    sha = hashlib.sha256()
    root = Path(gateways.__file__).parent
    for path in sorted(root.rglob("*.py")):
        sha.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{version('huizhi')}+{sha.hexdigest()[:12]}"


class Replay:
    """One replay on a connection of its own, which keeps its working tables: plan it, then apply it."""

    def __init__(
        self, connection: Any, accounts: Mapping[str, AccountSettings], span: Span
    ) -> None:
        self.done = Replayed()
        self._connection = connection
        self._accounts = accounts
        self._span = span
        self._names = sorted(accounts) if span.account is None else [span.account]

    async def plan(self, *, progress: Callable[[int], None] = lambda _: None) -> None:
        """Parse everything in the span again and find what differs; changes nothing that is kept.

        `progress` is told how many records were parsed.
        Memory is bounded; the working tables have some 80 bytes for each event.
        """
        connection, done = self._connection, self.done
        await connection.execute(QUERIES["replay_tables"])
        async for page in self._pages(outside=False):
            await self._compare(page)
            progress(done.records)
        span = (self._span.since, self._span.until)
        done.purged = await connection.fetchval(QUERIES["count_purged_records"], self._names, *span)
        await connection.execute(QUERIES["replay_find_removed"], self._names)
        if any(span) and (await self._count())["reports_removed"]:
            async for page in self._pages(outside=True):
                found = self._understand([record for record, _ in page])
                await connection.execute(QUERIES["replay_still_said"], *_keys(found))
        await connection.execute(QUERIES["replay_changed_removed"])
        counts = await self._count()
        for name in ("changed", "reports_added", "reports_removed", "others_removed"):
            setattr(done, name, counts[name])
        done.state_changes = sum([1 async for _ in self._changing()])

    async def apply(self, *, by: str, now: datetime) -> None:
        """Put right what differs: one transaction for each batch of records, recorded with it.

        Broken off, it is gone on with by planning and applying again.
        """
        connection, done, id = self._connection, self.done, uuid4()
        span = self._span
        await connection.execute(
            QUERIES["add_replay"], id, by, parsers(), span.account, span.since, span.until, now
        )
        digest, so_far = b"", 0
        while rows := await connection.fetch(QUERIES["changed_records"], digest, BATCH):
            digest, so_far = rows[-1]["digest"], so_far + len(rows)
            told = {**msgspec.to_builtins(done), "applied": so_far}
            await self._apply(records.of_rows(rows), id, now, told)
        while joined := await settlement.join_left_orphans(connection):
            done.joined += joined
        told = {**msgspec.to_builtins(done), "applied": so_far}
        await connection.execute(QUERIES["replay_done"], id, told, datetime.now(UTC))

    async def _apply(
        self, found: list[Record], id: UUID, now: datetime, told: dict[str, int]
    ) -> None:
        connection = self._connection
        try:
            async with connection.transaction():
                await settlement.replace(connection, self._accounts, found, replay=id, now=now)
                await connection.execute(QUERIES["replay_done"], id, told, None)
        except settlement.UNSTORABLE:
            # Find the record that brings it, which stays as it is.
            if len(found) > 1:
                for record in found:
                    await self._apply([record], id, now, told)
        except asyncpg.DeadlockDetectedError:
            # Somebody settles the same records at this moment, and was let through.
            await self._apply(found, id, now, told)

    async def states(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield each message whose state changes, or would have; before it is applied."""
        async for row in self._changing():
            yield {
                "id": str(row["id"]),
                "account": row["account"],
                "vendor_message_id": row["vendor_message_id"],
                "sent_at": rfc3339(row["sent_at"]),
                "from": row["status_from"],
                "to": row["status_to"],
            }

    async def reports(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield each report that appears or vanishes; before it is applied."""
        connection = self._connection
        async with connection.transaction():
            await connection.execute(QUERIES["think_long"])
            async for row in connection.cursor(QUERIES["replay_reports"], prefetch=PAGE):
                yield {
                    **dict(row),
                    "reported_at": rfc3339(row["reported_at"]),
                    "digest": row["digest"].hex(),
                }

    async def money(self) -> list[Money]:
        """Return what is owed otherwise, by account, month and currency; before it is applied."""
        sums: dict[tuple[str, str, str], tuple[int, Decimal, Decimal]] = {}
        async for row in self._changing():
            settings = self._accounts[row["account"]]
            day = row["sent_at"].astimezone(settings.account.zone).date()
            tariff = settings.tariff_on(day)
            if tariff is None:
                continue
            key = (row["account"], f"{day:%Y-%m}", tariff.currency)
            count, before, after = sums.get(key, (0, Decimal(0), Decimal(0)))
            owed = [
                _owed(settings, tariff, row["segments"], row[name])
                for name in ("status_from", "status_to")
            ]
            sums[key] = (count + 1, EXACT.add(before, owed[0]), EXACT.add(after, owed[1]))
        closed = {
            name: await self._connection.fetch(QUERIES["closed_periods"], name)
            for name in {key[0] for key in sums}
        }
        return [
            Money(
                account=account,
                period=period,
                currency=currency,
                closed=_overlaps(period, closed[account]),
                messages=count,
                owed_before=money(before),
                owed_after=money(after),
                difference=money(EXACT.subtract(after, before)),
            )
            for (account, period, currency), (count, before, after) in sorted(sums.items())
            if before != after
        ]

    async def _changing(self) -> AsyncGenerator[Any]:
        async with self._connection.transaction():
            await self._connection.execute(QUERIES["think_long"])
            async for row in self._connection.cursor(QUERIES["replay_states"], prefetch=PAGE):
                yield row

    async def _count(self) -> Any:
        return await self._connection.fetchrow(QUERIES["replay_counts"])

    async def _pages(self, *, outside: bool) -> AsyncIterator[list[tuple[Record, str | None]]]:
        """Yield records with why each is quarantined, if it is; those of the span, or all others."""
        for name in self._names:
            at = (_EARLIEST, b"")
            while rows := await self._connection.fetch(
                QUERIES["records_to_replay"],
                name,
                self._span.since,
                self._span.until,
                *at,
                PAGE,
                outside,
            ):
                at = (rows[-1]["received_at"], rows[-1]["digest"])
                reasons = [row["quarantined"] for row in rows]
                yield list(zip(records.of_rows(rows), reasons, strict=True))

    async def _compare(self, page: list[tuple[Record, str | None]]) -> None:
        """Hold what a page of records is understood as against what is there."""
        done = self.done
        found = [record for record, _ in page]
        understood = self._understand(found)
        try:
            async with self._connection.transaction():
                changed = await self._note(found, understood)
        except settlement.UNSTORABLE:
            if len(page) > 1:
                for each in page:
                    await self._compare([each])
                return
            # It holds what PostgreSQL cannot, and is quarantined for that.
            understood = Understood()
            understood.quarantine(found[0], page[0][1] or "")
            changed = set()
        done.records += len(page)
        for record, reason in page:
            now = understood.quarantined.get(record.digest)
            done.quarantined += reason is not None
            if reason is not None and now is None:
                done.understood += 1
                alone = understanding.understand(self._accounts, [record])
                done.events += len(alone.reports) + len(alone.inbound)
                done.events += len(alone.reviews) + len(alone.balances)
            done.refused += reason is None and now is not None
            if reason != (None if now is None else now[3]):
                changed.add(record.digest)
        await self._connection.execute(QUERIES["replay_change"], list(changed))

    def _understand(self, found: Sequence[Record]) -> Understood:
        return understanding.understand(self._accounts, found, judgements=True)

    async def _note(self, found: Sequence[Record], understood: Understood) -> set[bytes]:
        """Note what records are understood as; return those that bring something new."""
        digests = [record.digest for record in found]
        await self._connection.execute(QUERIES["replay_add_records"], digests)
        await self._connection.execute(QUERIES["replay_add_found"], *_keys(understood))
        return await self._missing(understood)

    async def _missing(self, understood: Understood) -> set[bytes]:
        """Return the records that bring something which is not there."""
        connection = self._connection
        rows: list[Any] = []
        if reports := list((await settlement.unknown_reports(connection, understood)).values()):
            # Of a row as it is added: key, account, vendor id, status, code, reason, times, source,
            # digest, doubts, slack.
            places = (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 19, 20)
            columns = [[row[place] for row in reports] for place in places]
            rows += await connection.fetch(QUERIES["replay_add_reports"], *columns)
        for name, table in (
            ("inbound", understood.inbound),
            ("reviews", understood.reviews),
            ("balances", understood.balances),
        ):
            if table:
                columns = [list(column) for column in zip(*table, strict=True)]
                if name != "balances":
                    columns.append([row[-1] for row in table.values()])
                rows += await connection.fetch(_MISSING[name], *columns)
        told = {
            id: outcome.digest
            for id, outcome in understood.outcomes.items()
            if outcome.state != "indeterminate"
        }
        changed = {row["digest"] for row in rows}
        if told:
            doubtful = await connection.fetch(QUERIES["doubtful_submissions"], list(told))
            changed |= {digest for row in doubtful if (digest := told[row["id"]]) is not None}
        return changed


_MISSING = {
    "inbound": QUERIES["replay_missing_inbound"],
    "reviews": QUERIES["replay_missing_reviews"],
    "balances": QUERIES["replay_missing_balances"],
}


async def replays(connection: Any, *, cursor: str | None, limit: int) -> Page:
    """List replays that were applied, the newest first."""
    at, last = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(QUERIES["list_replays"], at, last, limit + 1)
    return page_of(
        rows,
        limit,
        lambda row: {
            "id": str(row["id"]),
            "by": row["replayed_by"],
            "parsers": row["parsers"],
            "account": row["account"],
            "from": rfc3339(row["since"]),
            "to": rfc3339(row["until"]),
            "started_at": rfc3339(row["started_at"]),
            "finished_at": rfc3339(row["finished_at"]),
            "counts": row["counts"],
        },
        lambda row: cursor_of(row["started_at"], row["id"]),
    )


def _keys(understood: Understood) -> tuple[list[str], list[bytes]]:
    """Return what records were understood as: each kind, and its key as the queries make it.

    A report has one for each way in which it may have been judged when it came.
    """
    keys: list[tuple[str, bytes]] = [
        ("report", id.bytes + fingerprint)
        for shard, id, own in understood.reports
        for fingerprint in {own, *understood.judged.get((shard, id, own), ())}
    ]
    keys += [
        ("inbound", shard.to_bytes(4, "big", signed=True) + fingerprint)
        for shard, fingerprint in understood.inbound
    ]
    keys += [
        ("review", "\n".join(names).encode() + fingerprint)
        for *names, fingerprint in understood.reviews
    ]
    keys += [
        ("balance", "\n".join(names).encode() + digest) for *names, digest in understood.balances
    ]
    return [kind for kind, _ in keys], [key for _, key in keys]


def _owed(settings: AccountSettings, tariff: Tariff, segments: int, status: str) -> Decimal:
    """Return what a message is owed; as reconciliation has it (queries/reconcile.sql)."""
    charged = status not in ("submitting", "indeterminate", "refused") and (
        tariff.basis == "submitted"
        or status == "delivered"
        or (status == "submitted" and not settings.gateway.reports)
    )
    return EXACT.multiply(Decimal(segments), tariff.price) if charged else Decimal(0)


def _overlaps(period: str, closed: Iterable[Any]) -> bool:
    first = date.fromisoformat(f"{period}-01")
    after = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return any(row["first_day"] < after and row["last_day"] >= first for row in closed)
