"""Records: raw bytes from vendors, stored before anyone tries to understand them.

A record is a callback that was pushed or a reply to one of our queries. Its digest is its identity:
the same bytes pushed again, now or in ten years, are the same record.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

import msgspec

from gateways.events import Parsed
from gateways.gateway import Account, Call, Callback, Gateway, Reply
from runtime.identity import digest
from runtime.queries import QUERIES

# What `subject` says of a push that came from outside its account's `known_networks`.
FOREIGN = "foreign_network"


class Record(msgspec.Struct, kw_only=True, gc=False):
    """One record; `digest` has 32 bytes, `received_at` is aware, `deliveries` counts arrivals.

    For a callback `source` is "push"; for a reply it is "query" (repeatable) or "pull" (handed out
    once), `call` names the call and `subject` what it asked for. A push has a `subject`, `FOREIGN`,
    only where it came from outside the account's `known_networks`.
    """

    digest: bytes
    account: str
    source: str
    call: str | None
    subject: str | None
    received_at: datetime
    deliveries: int
    method: str
    query: bytes
    headers: Mapping[str, str]
    body: bytes
    peer: str | None

    @property
    def size(self) -> int:
        """About how many bytes this record keeps in memory."""
        return len(self.body) + len(self.query) + 1024


def push_digest(
    account: str, method: str, query: bytes, body: bytes, subject: str | None = None
) -> bytes:
    """Return the identity of a push; the headers are no part of it, see `of_callback`."""
    where = () if subject is None else (subject.encode(),)
    return digest(b"push", account.encode(), method.encode(), query, body, *where)


def reply_digest(source: str, account: str, call: str, subject: str, body: bytes) -> bytes:
    """Return the identity of a reply; `source` is "query" or "pull"."""
    return digest(source.encode(), account.encode(), call.encode(), subject.encode(), body)


def of_callback(
    account: str,
    callback: Callback,
    *,
    received_at: datetime,
    peer: str,
    foreign: bool = False,
) -> Record:
    """Make the record of one push; `foreign`: from outside the account's `known_networks`.

    Headers are no part of its identity: proxies and clients vary them between deliveries of one
    callback, and no vendor here puts news into them. Being foreign is: else who pushes a guess
    first would take the vendor's own push out of trust.
    """
    subject = FOREIGN if foreign else None
    return Record(
        digest=push_digest(account, callback.method, callback.query, callback.body, subject),
        account=account,
        source="push",
        call=None,
        subject=subject,
        received_at=received_at,
        deliveries=1,
        method=callback.method,
        query=callback.query,
        headers=callback.headers,
        body=callback.body,
        peer=peer,
    )


def of_reply(
    account: str, reply: Reply, *, subject: str, once: bool, received_at: datetime
) -> Record:
    """Make the record of a reply to a query about `subject`.

    With `once` the vendor hands these bytes out only once and `subject` is the pull's id, so that
    every page is a record of its own, also one with the same bytes as another.
    """
    source = "pull" if once else "query"
    return Record(
        digest=reply_digest(source, account, reply.call, subject, reply.body),
        account=account,
        source=source,
        call=reply.call.value,
        subject=subject,
        received_at=received_at,
        deliveries=1,
        method="",
        query=b"",
        headers=reply.headers,
        body=reply.body,
        peer=None,
    )


def parse(record: Record, gateway: Gateway, account: Account) -> Parsed:
    """Parse a record with today's parsers; pure. Raises what the gateway's parsers raise."""
    if record.call is None:
        callback = Callback(
            method=record.method, query=record.query, headers=record.headers, body=record.body
        )
        return gateway.parse_callback(callback, account)
    reply = Reply(
        call=Call(record.call),
        headers=record.headers,
        body=record.body,
        subject=record.subject or "",
    )
    return gateway.parse_reply(reply, account)


_own = attrgetter("digest", "received_at", "deliveries", "subject", "query", "body")
_shared = attrgetter("account", "source", "call", "method", "peer")
_encode = msgspec.json.Encoder().encode
_decode_headers = msgspec.json.Decoder(dict[str, str]).decode


async def store(
    connection: Any,
    records: Sequence[Record],
    *,
    recorder: str,
    now: datetime,
    again: bool = False,
) -> tuple[int, list[Record]]:
    """Store `records`, at least one, in one commit; return their batch and those that were new.

    Durable on return if the connection is in no transaction. One digest may stand in `records` only
    once. Duplicates of stored records are counted on them; with `again` not those that came at the
    very time of the record's first or last arrival: they are that arrival, stored before.
    """
    # One order for all processes: two batches with the same duplicates must not deadlock.
    ordered = sorted(records, key=lambda record: record.digest)
    # What pushes have in common is sent once, and each names its place there.
    shared: dict[tuple[Any, ...], int] = {}
    encoded: dict[int, str] = {}
    places, headers = [], []
    for record in ordered:
        places.append(shared.setdefault(_shared(record), len(shared) + 1))
        if (text := encoded.get(id(record.headers))) is None:
            text = encoded[id(record.headers)] = _encode(record.headers).decode()
        headers.append(text)
    rows = await connection.fetch(
        QUERIES["record"],
        recorder,
        now,
        *zip(*map(_own, ordered), strict=True),
        headers,
        places,
        *zip(*shared, strict=True),
        again,
    )
    batch: int = rows[0]["new_batch_id"]
    known = {row["digest"] for row in rows if row["batch_id"] != batch}
    return batch, [record for record in ordered if record.digest not in known]


def of_rows(rows: Iterable[Any]) -> list[Record]:
    """Make records of rows of `records_of_batches` and its like."""
    return [
        Record(
            digest=row["digest"],
            account=row["account"],
            source=row["source"],
            call=row["call"],
            subject=row["subject"],
            received_at=row["received_at"],
            deliveries=row["deliveries"],
            method=row["method"],
            query=row["query"],
            headers=_decode_headers(row["headers"]),
            body=row["body"],
            peer=row["peer"],
        )
        for row in rows
    ]
