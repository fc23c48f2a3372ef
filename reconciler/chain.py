"""The chain: everything recorded, linked so that nobody can change, drop or add a thing unseen.

A link is over a tree of what was linked with it (records, registered messages, statements, runs, purges,
what operators did) and over the link before it. Linking happens after settling, in the order in which
things are found and not in that of any number, so a transaction that commits late is linked late, and
once.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from reconciler import canonical
from reconciler import lease as leases
from reconciler.lease import Lease
from runtime import records
from runtime.identity import shard_of_message
from runtime.queries import QUERIES

LEASE = "link:"  # as the job's: name and account
GENESIS = bytes(32)
# Of one kind in one link, and what one call or commit brings at most comes on top.
MAX_ENTRIES = 16_384
_TAKEN_ROWS = 1024
_FEW = 100  # statements or runs in one link
_VERIFIED_RECORDS = 100  # read at a time, with their bodies


class Entry(NamedTuple):
    """What is linked: a record by its digest, anything else by its id's 16 bytes.

    `content` is the sha256 of what the key itself does not cover.
    """

    kind: str
    key: bytes
    account: str
    at: datetime
    content: bytes

    @property
    def leaf(self) -> bytes:
        """The entry in its link's tree."""
        return canonical.leaf(*self)

    def __str__(self) -> str:
        named = self.key.hex() if self.kind == "record" else str(UUID(bytes=self.key))
        return f"{self.kind} {named}"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The newest link: what is anchored outside. `height` is 0 while nothing is linked."""

    height: int
    hash: str
    linked_at: str | None


class Fault(msgspec.Struct, frozen=True):
    """What verification found; `height` is the link's that it shows in, if any."""

    height: int | None
    what: str


async def head(connection: Any) -> Head:
    """Return the newest link."""
    return head_of(await connection.fetchrow(QUERIES["chain_head"]))


def head_of(row: Any) -> Head:
    """Make a head of a link's row, or of one that says that there is none."""
    at = row["linked_at"]
    return Head(
        height=row["height"] or 0,
        hash=(row["hash"] or GENESIS).hex(),
        linked_at=None if at is None else canonical.moment(at),
    )


async def behind_seconds(connection: Any) -> float:
    """Return for how long the oldest of what is not linked yet has waited."""
    seconds: float = await connection.fetchval(QUERIES["chain_behind"])
    return max(seconds, 0.0)


async def link_all(lease: Lease) -> int:
    """Link all there is; return the number of links made.

    Raises `LeaseLost` and one of `DATABASE_ERRORS`: the links made so far stand.
    """
    made = 0
    while await link(lease):
        made += 1
    return made


async def link_now(pool: Any, *, holder: str, patience_seconds: float) -> None:
    """Link all there is, waiting that long for whoever is at it; raises what `link_all` does."""
    async with leases.held(pool, LEASE, holder=holder, patience_seconds=patience_seconds) as lease:
        if lease is not None:
            await link_all(lease)


async def link(lease: Lease) -> bool:
    """Make one link of what is not linked yet; False if there was nothing.

    One transaction, which is the lease's: a crash leaves nothing of it. The next height can be taken
    once, so no two processes can fork the chain. Raises `LeaseLost`.
    """
    async with lease.pool.acquire() as connection, connection.transaction():
        before = await connection.fetchrow(QUERIES["chain_head"])
        height = (before["height"] or 0) + 1
        # Runs first: what they saw is committed by now, so the query can tell whether it is linked.
        runs = await connection.fetch(QUERIES["runs_to_link"], _FEW)
        taken = await connection.fetch(QUERIES["unlinked_batches"], _TAKEN_ROWS, MAX_ENTRIES)
        batches = [row["id"] for row in taken]
        calls = await connection.fetch(QUERIES["take_unlinked_messages"], _TAKEN_ROWS, MAX_ENTRIES)
        found = await _records(connection, batches)
        found += await _messages(connection, calls)
        found += await _statements(connection)
        found += [
            _action(row)
            for row in await connection.fetch(QUERIES["take_unlinked_actions"], MAX_ENTRIES)
        ]
        purges = await connection.fetch(QUERIES["purges_to_link"], _TAKEN_ROWS)
        found += [_purge(row) for row in purges]
        await connection.execute(QUERIES["purges_linked"], [row["id"] for row in purges])
        await _add(connection, height, 0, found)
        # After the records: a run keeps those of its reports whose records are linked.
        closed = [await _run(connection, row) for row in runs]
        await _add(connection, height, len(found), closed)
        found += closed
        if found:
            await _close(connection, lease, height, before, found)
        # A batch may have brought nothing but what was known: then no link is made for it.
        await connection.execute(
            QUERIES["batches_linked"], batches, height if found else height - 1
        )
    return bool(found or batches or calls)


async def _close(
    connection: Any, lease: Lease, height: int, before: Any, found: list[Entry]
) -> None:
    """Add the link over `found`, whose entries are there."""
    previous = before["hash"] or GENESIS
    linked_at = max(before["now"], before["linked_at"] or before["now"])
    root = canonical.levels(entry.leaf for entry in found)[-1][0]
    await connection.execute(
        QUERIES["add_link"],
        height,
        previous,
        root,
        len(found),
        linked_at,
        canonical.link_hash(previous, height, root, len(found), linked_at),
        lease.token,
    )


async def _records(connection: Any, batches: list[int]) -> list[Entry]:
    rows = await connection.fetch(QUERIES["records_to_link"], batches)
    return [_record(row, row["digest"]) for row in rows]


def _record(row: Any, digest: bytes) -> Entry:
    content = canonical.record_content(row["headers"], row["peer"])
    return Entry("record", digest, row["account"], row["received_at"], content)


async def _messages(connection: Any, calls: list[Any]) -> list[Entry]:
    ordered = sorted(calls, key=lambda row: row["id"])
    ids = list(dict.fromkeys(id for row in ordered for id in row["message_ids"]))
    rows = await connection.fetch(
        QUERIES["messages_to_link"], [shard_of_message(id) for id in ids], ids
    )
    return [_message(row) for row in rows]


def _message(row: Any) -> Entry:
    return _entry("message", row, row["registered_at"], canonical.message(row))


async def _statements(connection: Any) -> list[Entry]:
    rows = await connection.fetch(QUERIES["statements_to_link"], _FEW)
    return [await _statement(connection, row) for row in rows]


async def _statement(connection: Any, row: Any) -> Entry:
    return _entry("statement", row, row["imported_at"], await canonical.statement(connection, row))


def _purge(row: Any) -> Entry:
    return _entry("purge", row, row["purged_at"], canonical.purge(row))


def _action(row: Any) -> Entry:
    """Return the entry of an action, or of its outcome; each has the action's id."""
    kind = "action" if row["outcome"] == "begun" else "outcome"
    content = canonical.sha256_of(canonical.action(row))
    return Entry(kind, row["action_id"].bytes, "", row["at"], content)


async def _run(connection: Any, row: Any) -> Entry:
    await connection.execute(QUERIES["keep_run_reports"], row["id"], row["statement_id"])
    return await _run_entry(connection, row)


async def _run_entry(connection: Any, row: Any) -> Entry:
    return _entry("run", row, row["run_at"], await canonical.run(connection, row))


def _entry(kind: str, row: Any, at: datetime, text: bytes) -> Entry:
    return Entry(kind, row["id"].bytes, row["account"], at, canonical.sha256_of(text))


async def _add(connection: Any, height: int, position: int, found: list[Entry]) -> None:
    await connection.copy_records_to_table(
        "chain_entries",
        records=[(height, position + place, *entry) for place, entry in enumerate(found)],
        columns=("height", "position", "kind", "key", "account", "at", "content"),
    )


async def entries_of(connection: Any, height: int) -> list[Entry]:
    """Return the entries of a link in their order."""
    return [
        Entry(row["kind"], row["key"], row["account"], row["at"], row["content"])
        for row in await connection.fetch(QUERIES["entries_of_link"], height)
    ]


async def verify(
    connection: Any,
    anchored: bytes | None = None,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[Fault]:
    """Check the whole chain, and all that it is over, in one snapshot; yield what is wrong.

    Holds one link in memory at a time. `anchored` is a head kept outside: that it is a link of this
    chain is all that can tell a chain that was cut off, or made anew. `progress` is told each height.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(QUERIES["think_long"])
        previous, expected, seen = GENESIS, 1, anchored is None
        async for row in connection.cursor(QUERIES["chain_links"], 1, None):
            height = row["height"]
            if height != expected:
                yield Fault(height, f"link {expected} is not there")
            if row["previous"] != previous:
                yield Fault(height, f"link {height} does not follow from the one before it")
            async for fault in _verify_link(connection, row):
                yield fault
            previous, expected = row["hash"], height + 1
            seen = seen or previous == anchored
            progress(height)
        if not seen:
            assert anchored is not None
            yield Fault(None, f"no link has the anchored hash {anchored.hex()}")
        async for row in connection.cursor(QUERIES["unlinked_in_linked"]):
            yield Fault(row["height"], _stray(row["kind"], row["key"], row["height"]))


def _stray(kind: str, key: str, height: int | None) -> str:
    if kind == "link":
        return f"{key} is not there, and batches are in it: the chain was cut off"
    if kind == "entries":
        return f"{key} is not there, and entries are in it"
    beside = "" if height is None else f" beside link {height}"
    return f"{kind} {key} was added{beside}: it is in no link"


async def _verify_link(connection: Any, row: Any) -> AsyncIterator[Fault]:
    height = row["height"]
    found = await entries_of(connection, height)
    made = canonical.link_hash(
        row["previous"], height, row["root"], row["entries"], row["linked_at"]
    )
    if made != row["hash"]:
        yield Fault(height, f"link {height} is not what its hash was made of")
    if len(found) != row["entries"]:
        yield Fault(height, f"link {height} has {len(found)} entries and not {row['entries']}")
    if not found or canonical.levels(entry.leaf for entry in found)[-1][0] != row["root"]:
        yield Fault(height, f"the entries of link {height} are not those that were linked")
    by_kind: dict[str, list[Entry]] = {}
    for entry in found:
        by_kind.setdefault(entry.kind, []).append(entry)
    for kind, linked in by_kind.items():
        for start in range(0, len(linked), _VERIFIED_RECORDS):
            part = linked[start : start + _VERIFIED_RECORDS]
            stored = await _STORED[kind](connection, [entry.key for entry in part])
            for entry in part:
                if entry.key not in stored:
                    yield Fault(height, f"{entry} of link {height} is gone")
                elif stored[entry.key] != entry:
                    yield Fault(height, f"{entry} of link {height} was changed")


async def _stored_records(connection: Any, keys: list[bytes]) -> dict[bytes, Entry]:
    """Return what is stored under `keys`, as it would be linked: under another key if its bytes changed.

    A purged record is taken at its digest: which were purged is linked itself.
    """
    rows = await connection.fetch(QUERIES["records_to_verify"], keys)
    return {row["digest"]: _stored_record(row) for row in rows}


def _stored_record(row: Any) -> Entry:
    if row["purged_content"] is None:
        return _record(row, record_digest(row))
    at, kept = row["received_at"], row["purged_content"]
    return Entry("record", row["digest"], row["account"], at, kept)


def record_digest(row: Any) -> bytes:
    """Return the digest that a stored record's bytes have."""
    if row["source"] == "push":
        return records.push_digest(
            row["account"], row["method"], row["query"], row["body"], row["subject"]
        )
    return records.reply_digest(
        row["source"], row["account"], row["call"], row["subject"] or "", row["body"]
    )


async def _stored_messages(connection: Any, keys: list[bytes]) -> dict[bytes, Entry]:
    ids = [UUID(bytes=key) for key in keys]
    rows = await connection.fetch(
        QUERIES["messages_to_verify"], [shard_of_message(id) for id in ids], ids
    )
    return {row["id"].bytes: _stored_message(row) for row in rows}


def _stored_message(row: Any) -> Entry:
    """Take a purged message at its digest: what is never purged of it is linked with its purge."""
    if row["purged_content"] is None:
        return _message(row)
    at, kept = row["registered_at"], row["purged_content"]
    return Entry("message", row["id"].bytes, row["account"], at, kept)


async def _stored_statements(connection: Any, keys: list[bytes]) -> dict[bytes, Entry]:
    found = {}
    for key in keys:
        row = await connection.fetchrow(QUERIES["statement"], UUID(bytes=key))
        if row is not None and row["lines_sha256"] is not None:
            kept = await connection.fetchrow(QUERIES["kept_lines"], row["id"])
            totals = (kept["lines"], kept["segments"]) == (row["lines"], row["segments"])
            if not (kept["purged"] and totals):
                row = {**row, "lines_sha256": None}
        if row is not None:
            found[key] = await _statement(connection, row)
    return found


async def _stored_runs(connection: Any, keys: list[bytes]) -> dict[bytes, Entry]:
    found = {}
    for key in keys:
        row = await connection.fetchrow(QUERIES["run"], UUID(bytes=key))
        if row is not None and row["discrepancies_sha256"] is not None:
            kept = await connection.fetchrow(QUERIES["kept_discrepancies"], row["id"])
            said = msgspec.json.decode(row["result"])["difference"]
            totals = kept["segments"] == said["segments"]
            totals = totals and kept["amount"] == Decimal(said["amount"])
            if not (kept["purged"] and totals):
                row = {**row, "discrepancies_sha256": None, "reports_sha256": None}
        if row is not None:
            found[key] = await _run_entry(connection, row)
    return found


async def _stored_purges(connection: Any, keys: list[bytes]) -> dict[bytes, Entry]:
    """Return purges as they would be linked of what names them now."""
    rows = await connection.fetch(QUERIES["purges_to_verify"], [UUID(bytes=key) for key in keys])
    found = {}
    for row in rows:
        named = await connection.fetch(QUERIES["records_of_purge"], row["id"])
        messages = await connection.fetch(QUERIES["messages_of_purge"], row["id"])
        content = canonical.purged_content([each["digest"] for each in named], messages)
        found[row["id"].bytes] = _purge({**row, "content": content})
    return found


def _stored_actions(*, ended: bool) -> "_Stored":
    async def stored(connection: Any, keys: list[bytes]) -> dict[bytes, Entry]:
        ids = [UUID(bytes=key) for key in keys]
        rows = await connection.fetch(QUERIES["actions_to_verify"], ids, ended)
        return {row["action_id"].bytes: _action(row) for row in rows}

    return stored


_Stored = Callable[[Any, list[bytes]], Awaitable[dict[bytes, Entry]]]
_STORED: dict[str, _Stored] = {
    "record": _stored_records,
    "message": _stored_messages,
    "statement": _stored_statements,
    "run": _stored_runs,
    "purge": _stored_purges,
    "action": _stored_actions(ended=False),
    "outcome": _stored_actions(ended=True),
}
