"""Purging: dropping bytes, texts and numbers so that everything which was counted still counts.

Each function works within its caller's transaction, over one bounded batch. What a record or message
is known by, what it cost and what became of it are never touched.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from reconciler import canonical
from runtime.pseudonyms import OtherKey, Pseudonyms
from runtime.queries import QUERIES


class Named(NamedTuple):
    """A message, or what it would be, by its key; `phone` is still its number."""

    shard: int
    id: UUID
    vendor_message_id: str
    phone: str


class Purge:
    """One batch, kept as a row of its own that the chain links; `account` "" where it is of several."""

    def __init__(self, connection: Any, account: str, what: str, *, by: str, now: datetime) -> None:
        self.id = uuid4()
        self.counts: Counter[str] = Counter()
        self._connection = connection
        self._account = account
        self._what = what
        self._by = by
        self._now = now
        self._records: list[bytes] = []
        self._messages: list[Any] = []
        self._touched: list[UUID] = []

    async def bodies(
        self, digests: Sequence[bytes], number: str | None = None, pseudonym: str | None = None
    ) -> None:
        """Drop the bytes of records; also a number in what they were about."""
        locked = await self._connection.fetch(QUERIES["lock_bodies"], list(digests))
        self._records = [row["digest"] for row in locked]
        rows = await self._connection.fetch(
            QUERIES["purge_bodies"], self._records, self.id, number, pseudonym
        )
        self.counts["bodies"] += len(rows)
        self.counts["bytes"] += sum(row["purged_bytes"] for row in rows)

    async def messages(self, named: Sequence[Named], pseudonyms: Pseudonyms | None) -> None:
        """Drop the texts of messages, and their numbers where `pseudonyms` are given."""
        shards, ids = [each.shard for each in named], [each.id for each in named]
        if pseudonyms is not None:
            # Before messages are locked: of a large statement this takes long, and reports come meanwhile.
            await self.touch(named)
        # As a fold does: the message before its reports.
        await self._connection.execute(QUERIES["lock_messages"], shards, ids)
        if pseudonyms is not None:
            await self.numbers(named, pseudonyms)
        rows = await self._connection.fetch(
            QUERIES["purge_messages"],
            self.id,
            shards,
            ids,
            [None if pseudonyms is None else pseudonyms.of(each.phone) for each in named],
        )
        self._messages += [row for row in rows if row["first"]]
        self.counts["messages"] += len(rows)

    async def numbers(self, named: Sequence[Named], pseudonyms: Pseudonyms) -> None:
        """Put pseudonyms wherever messages are named beside the ledger."""
        await self.touch(named)
        row = await self._connection.fetchrow(
            QUERIES["purge_numbers"],
            self._account,
            [each.shard for each in named],
            [each.id for each in named],
            [each.vendor_message_id for each in named],
            [each.phone for each in named],
            [pseudonyms.of(each.phone) for each in named],
        )
        self.counts.update(dict(row))

    async def touch(self, named: Sequence[Named]) -> None:
        """Keep the digests of what names these messages, before it changes."""
        self._touched += await _keep_digests(self._connection, named)

    async def keep(self) -> None:
        """Keep the purge itself, if it names anything."""
        if not (self._records or self._messages or self._touched or self.counts.total()):
            return
        await self._connection.execute(
            QUERIES["add_purge"],
            self.id,
            self._account,
            self._what,
            self._now,
            self._by,
            len(self._records),
            len(self._messages),
            canonical.purged_content(self._records, self._messages),
            self._touched,
        )


async def _keep_digests(connection: Any, named: Sequence[Named]) -> list[UUID]:
    """Keep what the chain has of the statements and runs that name these messages, before they change.

    Returns the ids of those whose digests were not kept before.
    """
    touched: list[UUID] = []
    shards, ids = [each.shard for each in named], [each.id for each in named]
    for row in await connection.fetch(QUERIES["statements_naming"], shards, ids):
        linked = await canonical.sha256(canonical.lines(connection, row["id"]))
        await connection.execute(QUERIES["keep_lines_digest"], row["id"], linked)
        touched.append(row["id"])
    vendor_ids = [each.vendor_message_id for each in named]
    for row in await connection.fetch(QUERIES["runs_naming"], shards, ids, vendor_ids):
        found = await canonical.sha256(canonical.discrepancies(connection, row["id"]))
        reports = await canonical.sha256(canonical.reports(connection, row["id"]))
        await connection.execute(QUERIES["keep_run_digests"], row["id"], found, reports)
        touched.append(row["id"])
    return touched


async def check_key(connection: Any, pseudonyms: Pseudonyms) -> None:
    """Take the key as the database's own, or raise `OtherKey` if that is another."""
    kept = await connection.fetchval(QUERIES["take_pseudonym_key"], pseudonyms.fingerprint)
    if kept != pseudonyms.fingerprint:
        raise OtherKey(
            "the key of pseudonyms is not the one that this database's were made with: "
            "give [retention] pseudonym_key, or bring data_dir/pseudonym-key from where it was made"
        )
