"""What the API and the command line read: rows of the database as the JSON of interface section 4.

Every list goes by a cursor that names the last row seen, so that no page is slow and none repeats.
"""

import base64
import binascii
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from gateways import segments
from gateways.events import ReviewKind
from gateways.phone import normalise
from reconciler.cases import STATES, Filter, filter_arguments
from reconciler.match import EXACT, money, ranked_causes
from reconciler.periods import Period
from reconciler.suspects import OFF_HOUR_SECONDS
from reconciler.suspects import id_of as suspect_id
from runtime import Problem
from runtime.identity import PROVISIONAL, shard_of, shard_of_message
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

MAX_LIMIT = 1000

MESSAGE_COLUMNS = (
    "id",
    "account",
    "vendor_message_id",
    "phone",
    "status",
    "segments",
    "sent_at",
    "reported_at",
    "vendor_code",
    "reason",
    "reference",
    "contradicted",
)
DISCREPANCY_COLUMNS = (
    "kind",
    "message_id",
    "vendor_message_id",
    "phone",
    "line",
    "sent_at",
    "status",
    "owed_segments",
    "billed_segments",
    "price",
    "billed_amount",
    "cause",
    "segments",
    "amount",
)
CAUSE_COLUMNS = ("cause", "kind", "count", "segments", "amount")
ADJUSTMENT_COLUMNS = (
    "message_id",
    "vendor_message_id",
    "phone",
    "status_before",
    "status_after",
    "sent_segments_before",
    "sent_segments_after",
    "owed_segments_before",
    "owed_segments_after",
    "owed_amount_before",
    "owed_amount_after",
    "lines_before",
    "lines_after",
    "billed_segments_before",
    "billed_segments_after",
    "billed_amount_before",
    "billed_amount_after",
    "segments",
    "amount",
)
CASE_COLUMNS = (
    "id",
    "account",
    "period",
    "kind",
    "state",
    "owner",
    "note",
    "age_days",
    "vendor_message_id",
    "phone",
    "nth",
    "message_id",
    "line",
    "sent_at",
    "status",
    "segments",
    "amount",
    "credited",
    "rest",
    "currency",
    "found_at",
    "ended_at",
    "changed_at",
    "changed_by",
    "version",
    "reconciliation_id",
)
AGE_BUCKETS = ("0_7", "8_30", "31_60", "61_90", "over_90")
AGEING_COLUMNS = (
    "account",
    "currency",
    "state",
    *(f"{what}_{bucket}" for bucket in AGE_BUCKETS for what in ("count", "amount")),
    "count",
    "amount",
    "credited",
)
CREDIT_COLUMNS = (
    "credit_id",
    "line",
    "account",
    "number",
    "vendor_message_id",
    "phone",
    "period",
    "amount",
    "allocated",
    "unallocated",
    "currency",
    "outcome",
    "discrepancies",
    "reason",
    "file",
    "imported_at",
)
REVIEW_COLUMNS = (
    "account",
    "vendor_id",
    "status",
    "vendor_code",
    "name",
    "content",
    "remark",
    "reason",
    "created_at",
    "updated_at",
    "submitted_at",
    "decided_at",
    "waited_seconds",
)
INBOUND_COLUMNS = (
    "id",
    "account",
    "phone",
    "content",
    "sent_at",
    "received_at",
    "extension",
    "vendor_message_id",
    "source",
    "digest",
)
BALANCE_COLUMNS = ("account", "kind", "amount", "currency", "read_at", "call", "record")
ORPHAN_COLUMNS = (
    "id",
    "account",
    "vendor_message_id",
    "phone",
    "status",
    "vendor_code",
    "reason",
    "reported_at",
    "received_at",
    "reports",
    "source",
    "record",
)
SUSPECT_COLUMNS = (
    "id",
    "account",
    "state",
    "reasons",
    "message_id",
    "vendor_message_id",
    "phone",
    "status",
    "vendor_code",
    "reason",
    "reported_at",
    "received_at",
    "hours_off",
    "peer",
    "message_status",
    "record",
    "found_at",
    "changed_at",
    "asked_at",
    "decided_at",
    "decided_by",
    "note",
)
ALARM_COLUMNS = (
    "id",
    "account",
    "kind",
    "since",
    "last_seen_at",
    "ended_at",
    "words",
    "figures",
)
FEATURE_COLUMNS = (
    "account",
    "document",
    "feature",
    "kind",
    "drift",
    "known",
    "first_seen_at",
    "last_seen_at",
    "seen",
    "record",
)


# Of messages in these states no vendor's id is known: what they are filed under is our own.
_WITHOUT_VENDOR_ID = frozenset({"submitting", "indeterminate", "refused"})


class BadCursor(ValueError):
    """A cursor that we did not make."""


class Page(NamedTuple):
    """One page of a list; `next` is the cursor of the page after it, None on the last."""

    items: list[dict[str, Any]]
    next: str | None


def rfc3339(at: datetime | None) -> str | None:
    """Return `at` as RFC 3339 with an offset."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def cursor_of(*key: Any) -> str:
    """Return a cursor that holds `key`, for people to pass on and not to read."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(key)).decode().rstrip("=")


def key_of(cursor: str | None, *types: type) -> tuple[Any, ...]:
    """Return the key that `cursor` holds, all None without one; raises `BadCursor`."""
    if cursor is None:
        return (None,) * len(types)
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        decoded: tuple[Any, ...] = msgspec.msgpack.decode(
            base64.urlsafe_b64decode(padded.encode("ascii")),
            type=tuple[types],  # type: ignore[valid-type]
        )
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise BadCursor("the cursor is not one of ours") from None
    if any(isinstance(part, datetime) and part.tzinfo is None for part in decoded):
        raise BadCursor("the cursor is not one of ours")
    return decoded


class Filters(NamedTuple):
    """What a list of messages is narrowed to; None where it is not."""

    phone: str | None = None
    vendor_message_id: str | None = None
    reference: str | None = None
    status: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def messages(
    connection: Any, accounts: Sequence[str], filters: Filters, *, cursor: str | None, limit: int
) -> Page:
    """List messages, the newest first."""
    at, last = key_of(cursor, datetime, UUID)
    common = (
        list(accounts),
        filters.reference,
        filters.status,
        filters.since,
        filters.until,
        at,
        last,
        limit + 1,
    )
    phone = None if filters.phone is None else normalise(filters.phone)
    if filters.vendor_message_id is not None:
        shards = [shard_of(account, filters.vendor_message_id) for account in accounts]
        rows = await connection.fetch(
            QUERIES["list_messages_of_vendor_id"],
            *common,
            shards,
            filters.vendor_message_id,
            phone,
        )
    elif phone is not None:
        rows = await connection.fetch(QUERIES["list_messages_of_phone"], *common, phone)
    elif filters.reference is not None:
        rows = await connection.fetch(QUERIES["list_messages_of_reference"], *common)
    else:
        rows = await connection.fetch(QUERIES["list_messages"], *common)
    return _page(rows, limit, _message, lambda row: cursor_of(row["sent_at"], row["id"]))


async def message(
    connection: Any, accounts: Mapping[str, AccountSettings], message_id: UUID
) -> dict[str, Any] | None:
    """Return one message with its evidence in order, or None."""
    shard = shard_of_message(message_id)
    row = await connection.fetchrow(QUERIES["message"], shard, message_id)
    if row is None:
        moved_to = await connection.fetchval(QUERIES["moved_to"], message_id)
        return None if moved_to is None else await message(connection, accounts, moved_to)
    reports = await connection.fetch(QUERIES["reports_of_message"], shard, message_id)
    lines = await connection.fetch(
        QUERIES["lines_of_message"], shard, message_id, row["account"], row["vendor_message_id"]
    )
    found = await connection.fetch(QUERIES["discrepancies_of_message"], shard, message_id)
    strangers = await connection.fetch(
        QUERIES["strangers_of_message"],
        shard,
        row["account"],
        row["vendor_message_id"],
        message_id,
    )
    return {
        **_message(row),
        "registered_at": rfc3339(row["registered_at"]),
        "content": row["content"],
        "sign": row["sign"],
        "template_id": row["template_id"],
        "segments_because": _segments_because(row, accounts.get(row["account"])),
        "segments_explained": await _segments_explained(
            connection, row, accounts.get(row["account"])
        ),
        "notes": _notes(row, accounts.get(row["account"])),
        "reports": [
            {
                "status": report["status"],
                "vendor_code": report["vendor_code"],
                "reason": report["reason"],
                "reported_at": rfc3339(report["reported_at"]),
                "received_at": rfc3339(report["received_at"]),
                "source": report["source"],
                "record": report["digest"].hex(),
                "charge": _charge(report),
                "counts": not report["left_out"],
                "suspect": _suspicion(report),
            }
            for report in reports
        ],
        "strangers": [
            {
                **_suspicion(stranger),
                "phone": stranger["phone"],
                "status": stranger["status"],
                "vendor_code": stranger["vendor_code"],
                "reported_at": rfc3339(stranger["reported_at"]),
                "received_at": rfc3339(stranger["received_at"]),
                "record": stranger["digest"].hex(),
            }
            for stranger in strangers
        ],
        "sending": await _sending(connection, row, accounts.get(row["account"])),
        "statement_lines": [
            {
                "statement_id": str(line["statement_id"]),
                "period": str(Period(line["first_day"], line["last_day"])),
                "version": line["version"],
                "line": line["line"],
                "segments": line["segments"],
                "amount": _money(line["amount"]),
                "status": line["status"],
            }
            for line in lines
        ],
        "discrepancies": [
            {
                "reconciliation_id": str(discrepancy["run_id"]),
                "period": str(Period(discrepancy["first_day"], discrepancy["last_day"])),
                "kind": discrepancy["kind"],
                "line": discrepancy["line"],
                "segments": discrepancy["segments"],
                "amount": money(discrepancy["amount"]),
                "cause": discrepancy["cause"],
            }
            for discrepancy in found
        ],
        "cases": [
            {
                "id": str(case["id"]),
                "period": str(Period(case["first_day"], case["last_day"])),
                "kind": case["kind"],
                "state": case["state"],
                "owner": case["owner"],
                "amount": money(case["amount"]),
                "rest": money(EXACT.subtract(case["amount"], case["credited"])),
            }
            for case in await connection.fetch(
                QUERIES["cases_of_message"], shard, row["vendor_message_id"], message_id
            )
        ],
    }


async def _sending(
    connection: Any, row: Any, settings: AccountSettings | None
) -> dict[str, Any] | None:
    """Say how a message was sent through us; None for one that another system sent."""
    if row["submission_id"] is None:
        return None
    call = await connection.fetchrow(QUERIES["submission"], row["submission_id"])
    return {
        "send_id": str(call["send_id"]),
        "state": call["state"],
        "numbers": call["numbers"],
        "called_at": rfc3339(call["called_at"]),
        "finished_at": rfc3339(call["finished_at"]),
        "vendor_code": call["vendor_code"],
        "reason": call["reason"],
        "explanation": _explanation(settings, call["vendor_code"]),
        "record": None if call["digest"] is None else call["digest"].hex(),
        "outcome_by": row["outcome_by"],
    }


def _explanation(settings: AccountSettings | None, vendor_code: str | None) -> str | None:
    explain = None if settings is None else settings.gateway.explain
    return None if explain is None or vendor_code is None else explain(vendor_code)


def _suspicion(row: Any) -> Any:
    """Say why a report is suspect and what became of it; None for one that is not."""
    if row["reasons"] is None:
        return None
    return {
        "id": suspect_id(row["message_id"], row["fingerprint"]),
        "state": row["state"],
        "reasons": list(row["reasons"]),
    }


def _charge(report: Any) -> dict[str, Any] | None:
    if all(report[f"billed_{name}"] is None for name in ("segments", "price", "amount")):
        return None
    return {
        "segments": report["billed_segments"],
        "price": _money(report["billed_price"]),
        "amount": _money(report["billed_amount"]),
        "currency": report["billed_currency"],
    }


async def send(
    connection: Any, accounts: Mapping[str, AccountSettings], send_id: UUID
) -> dict[str, Any] | None:
    """Return what became of a request to send, number by number, or None."""
    row = await connection.fetchrow(QUERIES["send"], send_id)
    if row is None:
        return None
    messages = [
        _message(each) for each in await connection.fetch(QUERIES["messages_of_send"], send_id)
    ]
    settings = accounts.get(row["account"])
    counts = {"submitted": 0, "refused": 0, "indeterminate": 0}
    for each in messages:
        if each["status"] == "refused":
            each["explanation"] = _explanation(settings, each["vendor_code"])
        counts[each["status"] if each["status"] in counts else "submitted"] += 1
    if row["open"]:
        status = "submitting"
    elif counts["indeterminate"]:
        status = "indeterminate"
    elif not counts["refused"]:
        status = "submitted"
    else:
        status = "partly_refused" if counts["submitted"] else "refused"
    return {
        "id": str(row["id"]),
        "account": row["account"],
        "status": status,
        "requested_at": rfc3339(row["requested_at"]),
        "counts": counts,
        "messages": messages,
        "duplicates": list(row["duplicates"]),
        "replayed": False,
    }


async def callbacks(
    connection: Any,
    accounts: Sequence[str],
    *,
    state: str | None,
    since: datetime | None,
    until: datetime | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List pushed callbacks, the newest first; their id is their digest in hex."""
    at, last = key_of(cursor, datetime, bytes)
    few = state in ("quarantined", "recorded")
    rows = await connection.fetch(
        QUERIES["list_callbacks_left"] if few else QUERIES["list_callbacks"],
        list(accounts),
        state,
        since,
        until,
        at,
        last,
        limit + 1,
    )
    return _page(
        rows,
        limit,
        lambda row: {
            "id": row["digest"].hex(),
            "account": row["account"],
            "state": row["state"],
            "reason": row["reason"],
            "received_at": rfc3339(row["received_at"]),
            "last_received_at": rfc3339(row["last_received_at"]),
            "deliveries": row["deliveries"],
            "method": row["method"],
            "headers": msgspec.json.decode(row["headers"]),
            "peer": row["peer"],
            "bytes": row["bytes"],
        },
        lambda row: cursor_of(row["received_at"], row["digest"]),
    )


class Gone(Problem):
    """Bytes that were purged."""


async def record_bytes(connection: Any, digest: bytes) -> bytes | None:
    """Return the exact bytes that a vendor sent: the body, or the query string of a GET push.

    None if there is no such record; raises `Gone`.
    """
    row = await connection.fetchrow(QUERIES["record_body"], digest)
    if row is None:
        return None
    if row["purged_at"] is not None:
        raise Gone(
            f"purged on {row['purged_at']:%Y-%m-%d} under retention or erased; its digest is kept"
        )
    body: bytes = row["body"] or row["query"]
    return body


async def reviews(
    connection: Any,
    accounts: Sequence[str],
    kind: str,
    *,
    status: str | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List signs or templates, each with every word of the vendor on it, oldest first."""
    account, last = key_of(cursor, str, str)
    rows = await connection.fetch(
        QUERIES["list_reviews"], list(accounts), kind, status, account, last, limit + 1
    )
    history = await _review_history(connection, rows[:limit], kind)
    return _page(
        rows,
        limit,
        lambda row: _review(row, history),
        lambda row: cursor_of(row["account"], row["vendor_id"]),
    )


async def review(connection: Any, account: str, kind: str, vendor_id: str) -> dict[str, Any] | None:
    """Return one sign or template with every word of the vendor on it, or None."""
    row = await connection.fetchrow(QUERIES["review"], account, kind, vendor_id)
    if row is None:
        return None
    return _review(row, await _review_history(connection, [row], kind))


_History = dict[tuple[str, str], list[Any]]


async def _review_history(connection: Any, rows: Sequence[Any], kind: str) -> _History:
    words = await connection.fetch(
        QUERIES["history_of_reviews"],
        [row["account"] for row in rows],
        [row["vendor_id"] for row in rows],
        kind,
    )
    history: _History = {}
    for word in words:
        history.setdefault((word["account"], word["vendor_id"]), []).append(word)
    return history


def _review(row: Any, history: _History) -> dict[str, Any]:
    words = history.get((row["account"], row["vendor_id"]), [])
    seconds, last = _waits(words)
    return {
        **{name: row[name] for name in REVIEW_COLUMNS[:-3]},
        "created_at": rfc3339(row["created_at"]),
        "updated_at": rfc3339(row["updated_at"]),
        "submitted_at": rfc3339(last.submitted_at),
        "decided_at": rfc3339(last.decided_at),
        "waited_seconds": last.seconds,
        "history": [
            {
                "status": word["status"],
                "vendor_code": word["vendor_code"],
                "reason": word["reason"],
                "updated_at": rfc3339(word["updated_at"]),
                "received_at": rfc3339(word["received_at"]),
                "waited_seconds": waited,
                "source": word["source"],
                "record": word["digest"].hex(),
            }
            for word, waited in zip(words, seconds, strict=True)
        ],
    }


class _Wait(NamedTuple):
    """When something was submitted and when decided, and how many seconds lie between."""

    submitted_at: datetime | None = None
    decided_at: datetime | None = None
    seconds: int | None = None


def _waits(words: Sequence[Any]) -> tuple[list[int | None], _Wait]:
    """Say how long each decision of a history was waited for, and how the last submission stands.

    `words` are oldest first. A word's time is the vendor's, or when it came if the vendor gave none.
    A submission begins when the review was made, and again with the first pending word after a
    decision. Pure.
    """
    wait = _Wait(words[0]["created_at"] if words else None)
    decision: str | None = None
    seconds: list[int | None] = []
    for word in words:
        at = word["updated_at"] or word["received_at"]
        if word["status"] == "pending":
            if decision is not None or wait.submitted_at is None:
                wait, decision = _Wait(at), None
        elif word["status"] in ("approved", "rejected") and word["status"] != decision:
            # Another decision without a word between: corrected, and nobody told us when.
            submitted = wait.submitted_at if decision is None else None
            waited = None if submitted is None else max(0, round((at - submitted).total_seconds()))
            wait, decision = _Wait(submitted, at, waited), word["status"]
        seconds.append(wait.seconds if word["status"] == decision else None)
    return seconds, wait


async def inbound(
    connection: Any,
    accounts: Sequence[str],
    *,
    phone: str | None,
    since: datetime | None,
    until: datetime | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List messages from handsets, the newest first."""
    at, last = key_of(cursor, datetime, bytes)
    rows = await connection.fetch(
        QUERIES["list_inbound"],
        list(accounts),
        None if phone is None else normalise(phone),
        since,
        until,
        at,
        last,
        limit + 1,
    )
    return _page(
        rows,
        limit,
        lambda row: {
            "id": row["fingerprint"].hex(),
            "account": row["account"],
            "phone": row["phone"],
            "content": row["content"],
            "sent_at": rfc3339(row["sent_at"]),
            "received_at": rfc3339(row["received_at"]),
            "extension": row["extension"],
            "vendor_message_id": row["vendor_message_id"],
            "source": row["source"],
            "digest": row["digest"].hex(),
        },
        lambda row: cursor_of(row["received_at"], row["fingerprint"]),
    )


async def balances(
    connection: Any,
    accounts: Sequence[str],
    *,
    kind: str | None,
    since: datetime | None,
    until: datetime | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List readings of what accounts have left, the newest first."""
    at, last_kind, last = key_of(cursor, datetime, str, bytes)
    rows = await connection.fetch(
        QUERIES["list_balances"],
        list(accounts),
        kind,
        since,
        until,
        at,
        last_kind,
        last,
        limit + 1,
    )
    return _page(
        rows,
        limit,
        _balance,
        lambda row: cursor_of(row["read_at"], row["kind"], row["digest"]),
    )


async def balances_of_record(connection: Any, account: str, digest: bytes) -> list[dict[str, Any]]:
    """Return what a vendor said in one record that an account has left."""
    rows = await connection.fetch(QUERIES["balances_of_record"], account, digest)
    return [_balance(row) for row in rows]


async def newest_balances(
    connection: Any, accounts: Sequence[str]
) -> list[tuple[str, str, Decimal]]:
    """Return account, kind and amount of what each account had left when last it was said."""
    rows = await connection.fetch(QUERIES["newest_balances"], list(accounts))
    return [(row["account"], row["kind"], row["amount"]) for row in rows]


async def orphans(
    connection: Any,
    accounts: Sequence[str],
    *,
    since: datetime | None,
    until: datetime | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List messages that vendors report on and the ledger does not know, the newest first."""
    at, message_id, last = key_of(cursor, datetime, UUID, bytes)
    rows = await connection.fetch(
        QUERIES["list_orphans"], list(accounts), since, until, at, message_id, last, limit + 1
    )
    return _page(
        rows,
        limit,
        lambda row: {
            "id": str(row["message_id"]),
            "account": row["account"],
            "vendor_message_id": row["vendor_message_id"],
            "phone": row["phone"],
            "status": row["status"],
            "vendor_code": row["vendor_code"],
            "reason": row["reason"],
            "reported_at": rfc3339(row["reported_at"]),
            "received_at": rfc3339(row["received_at"]),
            "reports": row["reports"],
            "source": row["source"],
            "record": row["digest"].hex(),
        },
        lambda row: cursor_of(row["received_at"], row["message_id"], row["fingerprint"]),
    )


async def suspects(
    connection: Any,
    accounts: Sequence[str],
    *,
    state: str | None,
    reason: str | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List pushed reports that could not be trusted as they were, those found last first."""
    at, message_id, last = key_of(cursor, datetime, UUID, bytes)
    rows = await connection.fetch(
        QUERIES["list_suspects"], list(accounts), state, reason, at, message_id, last, limit + 1
    )
    return _page(
        rows,
        limit,
        _suspect,
        lambda row: cursor_of(row["found_at"], row["message_id"], row["fingerprint"]),
    )


def _suspect(row: Any) -> dict[str, Any]:
    times = (*("reported_at", "received_at", "found_at", "changed_at", "asked_at", "decided_at"),)
    shown = {
        "id": suspect_id(row["message_id"], row["fingerprint"]),
        "message_id": _id(row["known_id"]),
        "reasons": list(row["reasons"]),
        "hours_off": _hours_off(row),
        "record": row["digest"].hex(),
        **{name: rfc3339(row[name]) for name in times},
    }
    return {name: shown[name] if name in shown else row[name] for name in SUSPECT_COLUMNS}


def _hours_off(row: Any) -> int | None:
    """Say by how many whole hours an impossible time is off: a sign of a wrong `timezone`."""
    if row["reported_at"] is None or not {"in_future", "before_sending"} & set(row["reasons"]):
        return None
    seconds = (row["reported_at"] - row["received_at"]).total_seconds()
    hours = round(seconds / 3600)
    return hours if hours and abs(seconds - hours * 3600) <= OFF_HOUR_SECONDS else None


async def alarms(
    connection: Any,
    accounts: Sequence[str],
    *,
    kind: str | None,
    ended: bool,
    cursor: str | None,
    limit: int,
) -> Page:
    """List alarms, the newest first: those that stand, and with `ended` those that are over too."""
    at, last = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(
        QUERIES["list_alarms"], list(accounts), kind, ended, at, last, limit + 1
    )
    times = ("since", "last_seen_at", "ended_at")
    return _page(
        rows,
        limit,
        lambda row: {
            **{name: row[name] for name in ALARM_COLUMNS},
            "id": str(row["id"]),
            "account": row["account"] or None,
            **{name: rfc3339(row[name]) for name in times},
        },
        lambda row: cursor_of(row["since"], row["id"]),
    )


async def features(
    connection: Any, accounts: Sequence[str], *, every: bool, cursor: str | None, limit: int
) -> Page:
    """List what was new in vendors' documents, or with `every` all that they were seen to have."""
    last = key_of(cursor, datetime, str, str, str, str)
    rows = await connection.fetch(QUERIES["list_features"], list(accounts), every, *last, limit + 1)
    key = FEATURE_COLUMNS[:4]
    return _page(
        rows,
        limit,
        lambda row: {
            **{name: row[name] for name in FEATURE_COLUMNS if name != "record"},
            "first_seen_at": rfc3339(row["first_seen_at"]),
            "last_seen_at": rfc3339(row["last_seen_at"]),
            "record": row["example"].hex(),
        },
        lambda row: cursor_of(row["first_seen_at"], *(row[name] for name in key)),
    )


async def statements(
    connection: Any, account: str | None, *, cursor: str | None, limit: int
) -> Page:
    """List imported statements, the newest first."""
    at, last = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(QUERIES["list_statements"], account, at, last, limit + 1)
    return _page(
        rows,
        limit,
        lambda row: {
            "id": str(row["id"]),
            "account": row["account"],
            "period": str(Period(row["first_day"], row["last_day"])),
            "version": row["version"],
            "file": row["file_name"],
            "format": row["format"],
            "lines": row["lines"],
            "segments": row["segments"],
            "amount": _money(row["amount"]),
            "imported_at": rfc3339(row["imported_at"]),
        },
        lambda row: cursor_of(row["imported_at"], row["id"]),
    )


async def jobs(connection: Any) -> Page:
    """List what each job did last, how often it failed, and which process runs it now."""
    rows = await connection.fetch(QUERIES["list_jobs"])
    items = [
        {
            "job": row["name"],
            "account": row["account"] or None,
            "started_at": rfc3339(row["started_at"]),
            "finished_at": rfc3339(row["finished_at"]),
            "runs": row["runs"],
            "failures": row["failures"],
            "failures_in_row": row["failures_in_row"],
            "error": row["error"],
            "again_at": rfc3339(row["again_at"]),
            "detail": row["detail"],
            "holder": row["holder"],
        }
        for row in rows
    ]
    return Page(items, None)


async def pulls(
    connection: Any, account: str | None, *, state: str | None, cursor: str | None, limit: int
) -> Page:
    """List reads that the vendor hands out once, the newest first; `lost` ones may miss rows."""
    at, last = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(QUERIES["list_pulls"], account, state, at, last, limit + 1)
    return _page(
        rows,
        limit,
        lambda row: {
            "id": str(row["id"]),
            "account": row["account"],
            "call": row["call"],
            "state": row["state"],
            "asked_rows": row["asked_rows"],
            "rows": row["rows"],
            "intended_at": rfc3339(row["intended_at"]),
            "finished_at": rfc3339(row["finished_at"]),
            "record": None if row["digest"] is None else row["digest"].hex(),
            "error": row["error"],
        },
        lambda row: cursor_of(row["intended_at"], row["id"]),
    )


async def runs(
    connection: Any,
    account: str | None,
    *,
    assumed: bool = False,
    cursor: str | None,
    limit: int,
) -> Page:
    """List reconciliations, the newest first: the real ones, or those that assume something."""
    at, last = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(QUERIES["list_runs"], account, at, last, limit + 1, assumed)
    return _page(rows, limit, _run, lambda row: cursor_of(row["run_at"], row["id"]))


async def run(connection: Any, run_id: UUID) -> dict[str, Any] | None:
    """Return one reconciliation with when and by which rules it was run, or None."""
    row = await connection.fetchrow(QUERIES["run"], run_id)
    return None if row is None else _run(row)


async def discrepancies(
    connection: Any,
    run_id: UUID,
    *,
    kind: str | None,
    cause: str | None = None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List what a reconciliation found, in the order of kinds, ids and lines."""
    (last,) = key_of(cursor, int)
    rows = await connection.fetch(
        QUERIES["list_discrepancies"], run_id, last or 0, kind, limit + 1, cause
    )
    return _page(
        rows,
        limit,
        lambda row: {
            **{name: row[name] for name in DISCREPANCY_COLUMNS},
            "vendor_message_id": _vendor_message_id(row),
            "message_id": None if row["message_id"] is None else str(row["message_id"]),
            "sent_at": rfc3339(row["sent_at"]),
            "price": _money(row["price"]),
            "billed_amount": _money(row["billed_amount"]),
            "amount": money(row["amount"]),
        },
        lambda row: cursor_of(row["seq"]),
    )


async def cases(
    connection: Any,
    accounts: Sequence[str],
    chosen: Filter,
    period: Period | None,
    *,
    now: datetime,
    cursor: str | None,
    limit: int,
) -> Page:
    """List discrepancies as people work on them, those found last first."""
    at, last = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(
        QUERIES["list_cases"],
        list(accounts),
        *filter_arguments(chosen, period, now),
        at,
        last,
        limit + 1,
    )
    return _page(
        rows,
        limit,
        lambda row: _case(row, now),
        lambda row: cursor_of(row["found_at"], row["id"]),
    )


async def case(connection: Any, case_id: UUID, *, now: datetime) -> dict[str, Any] | None:
    """Return one discrepancy with its history, or None."""
    shard = shard_of_message(case_id)
    row = await connection.fetchrow(QUERIES["case"], shard, case_id)
    if row is None:
        return None
    changes = await connection.fetch(QUERIES["changes_of_case"], shard, case_id)
    return {
        **_case(row, now),
        "history": [
            {
                "version": change["version"],
                "at": rfc3339(change["changed_at"]),
                "by": change["changed_by"],
                "from": change["from_state"],
                "to": change["to_state"],
                "owner": change["owner"],
                "note": change["note"],
                "reconciliation_id": _id(change["run_id"]),
                "credit_id": _id(change["credit_id"]),
                "credit_line": change["credit_line"],
            }
            for change in changes
        ],
        "credits": [
            {
                "credit_id": str(credit["credit_id"]),
                "line": credit["line"],
                "number": credit["number"],
                "amount": money(credit["amount"]),
                "imported_at": rfc3339(credit["imported_at"]),
            }
            for credit in await connection.fetch(QUERIES["credits_of_case"], shard, case_id)
        ],
    }


def _case(row: Any, now: datetime) -> dict[str, Any]:
    age = (row["ended_at"] or now) - row["found_at"]
    shown = {
        "period": str(Period(row["first_day"], row["last_day"])),
        "age_days": max(0, age.days),
        "vendor_message_id": _vendor_message_id(row),
        "rest": money(EXACT.subtract(row["amount"], row["credited"])),
        "reconciliation_id": str(row["run_id"]),
        **{name: _id(row[name]) for name in ("id", "message_id")},
        **{name: money(row[name]) for name in ("amount", "credited")},
        **{name: rfc3339(row[name]) for name in ("sent_at", "found_at", "ended_at", "changed_at")},
    }
    return {name: shown[name] if name in shown else row[name] for name in CASE_COLUMNS}


async def ageing(connection: Any, accounts: Sequence[str], *, now: datetime) -> dict[str, Any]:
    """Return how many discrepancies there are and of what amount, by account, state and age.

    `items` has a row for each account, currency and state; `totals` one for each account and
    currency, and one for each currency. Every row adds up, and so does every column.
    """
    rows = await connection.fetch(QUERIES["age_cases"], list(accounts), now)
    order = {state: place for place, state in enumerate(STATES)}
    sums: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        bucket = AGE_BUCKETS[row["bucket"]]
        for key in (
            (row["account"], row["currency"], row["state"]),
            (row["account"], row["currency"], ""),
            ("", row["currency"], ""),
        ):
            sums_of = sums.setdefault(key, dict.fromkeys(AGEING_COLUMNS[3:], Decimal(0)))
            for name, amount in (
                (f"count_{bucket}", row["count"]),
                ("count", row["count"]),
                (f"amount_{bucket}", row["amount"]),
                ("amount", row["amount"]),
                ("credited", row["credited"]),
            ):
                sums_of[name] = EXACT.add(sums_of[name], Decimal(amount))

    def shown(key: tuple[str, str, str]) -> dict[str, Any]:
        account, currency, state = key
        return {
            "account": account or None,
            "currency": currency,
            "state": state or None,
            **{
                name: int(value) if name.startswith("count") else money(value)
                for name, value in sums[key].items()
            },
        }

    states = sorted(
        (key for key in sums if key[2]), key=lambda key: (key[0], key[1], order[key[2]])
    )
    totals = sorted((key for key in sums if not key[2]), key=lambda key: (key[0] == "", key))
    return {
        "as_of": rfc3339(now),
        "items": [shown(key) for key in states],
        "totals": [shown(key) for key in totals],
    }


async def credits(
    connection: Any,
    accounts: Sequence[str],
    *,
    number: str | None = None,
    credit: UUID | None = None,
    left: bool = False,
    cursor: str | None,
    limit: int,
) -> Page:
    """List lines of credit notes, those imported last first; `left`: only what is not used up."""
    line, at, last = key_of(cursor, int, datetime, UUID)
    rows = await connection.fetch(
        QUERIES["list_credits"], list(accounts), number, credit, left, at, last, line, limit + 1
    )
    return _page(
        rows,
        limit,
        lambda row: {
            "credit_id": str(row["credit_id"]),
            **{name: row[name] for name in ("line", "account", "number")},
            **{name: row[name] for name in ("vendor_message_id", "phone")},
            "period": (
                None if row["first_day"] is None else str(Period(row["first_day"], row["last_day"]))
            ),
            "amount": money(row["amount"]),
            "allocated": money(row["allocated"]),
            "unallocated": money(EXACT.subtract(row["amount"], row["allocated"])),
            **{name: row[name] for name in ("currency", "outcome", "discrepancies", "reason")},
            "file": row["file_name"],
            "imported_at": rfc3339(row["imported_at"]),
        },
        lambda row: cursor_of(row["line"], row["imported_at"], row["credit_id"]),
    )


async def causes(connection: Any, run_id: UUID) -> Page:
    """List why a bill differs, the cause with most money first; the amounts are all of the difference."""
    return Page(await ranked_causes(connection, run_id), None)


async def adjustments(connection: Any, run_id: UUID, *, cursor: str | None, limit: int) -> Page:
    """List what an adjustment changes, message by message, in the order of ids.

    `segments` and `amount` are what the difference has become more by; all of them are all that it
    has become more by since the period was closed.
    """
    (last,) = key_of(cursor, int)
    rows = await connection.fetch(QUERIES["list_adjustments"], run_id, last or 0, limit + 1)
    return _page(rows, limit, _adjustment, lambda row: cursor_of(row["seq"]))


async def every(page: Callable[[str | None], Any]) -> AsyncIterator[dict[str, Any]]:
    """Yield the items of all pages; `page` takes a cursor and returns an awaitable `Page`."""
    cursor: str | None = None
    while True:
        found: Page = await page(cursor)
        for item in found.items:
            yield item
        if found.next is None:
            return
        cursor = found.next


def _page(
    rows: Sequence[Any],
    limit: int,
    item: Callable[[Any], dict[str, Any]],
    cursor: Callable[[Any], str],
) -> Page:
    """Make a page of `rows`, which were asked for with one more than `limit`."""
    shown = rows[:limit]
    return Page([item(row) for row in shown], cursor(shown[-1]) if len(rows) > limit else None)


def _message(row: Any) -> dict[str, Any]:
    return {
        **{name: row[name] for name in MESSAGE_COLUMNS},
        "id": str(row["id"]),
        "vendor_message_id": _vendor_message_id(row),
        "sent_at": rfc3339(row["sent_at"]),
        "reported_at": rfc3339(row["reported_at"]),
    }


def _vendor_message_id(row: Any) -> str | None:
    return None if row["status"] in _WITHOUT_VENDOR_ID else row["vendor_message_id"]


def _balance(row: Any) -> dict[str, Any]:
    return {
        "account": row["account"],
        "kind": row["kind"],
        "amount": money(row["amount"]),
        "currency": row["currency"],
        "read_at": rfc3339(row["read_at"]),
        "call": row["call"],
        "record": row["digest"].hex(),
    }


def _run(row: Any) -> dict[str, Any]:
    return {
        **msgspec.json.decode(row["result"]),
        "run_at": rfc3339(row["run_at"]),
        "rules": row["rules"],
        "version": row["version"],
        "closed_at": rfc3339(row["closed_at"]),
        "closed_by": row["closed_by"],
        "adjusts": None if row["adjusts"] is None else str(row["adjusts"]),
    }


def _adjustment(row: Any) -> dict[str, Any]:
    known = (row["status_before"], row["status_after"]) != (None, None)
    shown: dict[str, Any] = {}
    more_segments, more_amount = 0, Decimal(0)
    for at, sign in (("before", -1), ("after", 1)):
        more_segments += sign * (row[f"billed_segments_{at}"] - (row[f"owed_segments_{at}"] or 0))
        owed = row[f"owed_amount_{at}"] or Decimal(0)
        more = EXACT.subtract(row[f"billed_amount_{at}"], owed)
        more_amount = EXACT.add(more_amount, EXACT.multiply(Decimal(sign), more))
        shown[f"owed_amount_{at}"] = _money(row[f"owed_amount_{at}"])
        shown[f"billed_amount_{at}"] = money(row[f"billed_amount_{at}"])
    return {
        **{name: row[name] for name in ADJUSTMENT_COLUMNS[:-2]},
        **shown,
        "message_id": str(row["message_id"]) if known else None,
        "vendor_message_id": (
            None if row["vendor_message_id"].startswith(PROVISIONAL) else row["vendor_message_id"]
        ),
        "segments": more_segments,
        "amount": money(more_amount),
    }


def _id(id: UUID | None) -> str | None:
    return None if id is None else str(id)


def _money(amount: Any) -> str | None:
    return None if amount is None else money(amount)


def _notes(row: Any, settings: AccountSettings | None) -> list[str]:
    if settings is not None and not settings.gateway.reports and row["status"] == "submitted":
        vendor = settings.gateway.vendor
        return [f"{vendor} reports nothing: that it took the message is the last that can be known"]
    return []


def _segments_because(row: Any, settings: AccountSettings | None) -> list[str]:
    if row["segments_given"]:
        return [f"{row['segments']}: the sent record brought its own count"]
    if row["content"] is None:
        return ["1: neither the text nor a count was registered"]
    if settings is None:
        return [f"{row['segments']}: counted when the account was in the settings"]
    because = segments.explain(row["content"], row["sign"], settings.rule, settings.unit)
    if because.segments != row["segments"]:
        # The settings came to say another rule or unit; what was registered stands.
        return [f"{row['segments']}: counted when the settings said otherwise", *because.lines]
    return list(because.lines)


async def _segments_explained(
    connection: Any, row: Any, settings: AccountSettings | None
) -> dict[str, Any] | None:
    """Explain the count that the settings give a message's text now; None where there is no text."""
    if row["content"] is None or settings is None:
        return None
    variables = None
    if row["template_id"] is not None and settings.gateway.variable is not None:
        review = await connection.fetchrow(
            QUERIES["review_text"], row["account"], ReviewKind.TEMPLATE, row["template_id"]
        )
        if review is not None and review["content"] is not None:
            bracketed, body = segments.parted(row["content"], row["sign"])
            template = review["content"].removeprefix(bracketed)
            variables = segments.aligned(template, body, settings.gateway.variable)
    tariff = settings.tariff_on(row["sent_at"].astimezone(settings.account.zone).date())
    return explained(
        row["content"],
        row["sign"],
        settings.rule,
        settings.unit,
        variables=variables,
        price=None if tariff is None else tariff.price,
        currency=None if tariff is None else tariff.currency,
    )


def explained(
    content: str,
    sign: str | None,
    rule: segments.Rule,
    unit: segments.Unit,
    *,
    variables: segments.Variables | None = None,
    price: Decimal | None = None,
    currency: str | None = None,
) -> dict[str, Any]:
    """Return how a text is counted, and each single change that would cost less, cheapest first.

    `price` is that of one segment; without it amounts are null. Pure.
    """
    because = segments.explain(content, sign, rule, unit)
    changes = segments.cheaper(content, sign, rule, unit, variables)
    return {
        **msgspec.to_builtins(because),
        "variables": None if variables is None else dict(variables.values),
        "price": _money(price),
        "currency": currency,
        "amount": None if price is None else money(because.segments * price),
        "cheaper": [
            {
                **msgspec.to_builtins(change),
                "amount": None if price is None else money(change.segments * price),
                "saves_amount": None if price is None else money(change.saves * price),
                "words": _change_words(change, price, currency),
            }
            for change in changes
        ],
    }


def _change_words(change: segments.Change, price: Decimal | None, currency: str | None) -> str:
    said = f"{change.words}: {change.segments} segment{'s' * (change.segments != 1)}"
    if price is None:
        return said
    return " ".join(filter(None, (f"{said}, saves {money(change.saves * price)}", currency)))
