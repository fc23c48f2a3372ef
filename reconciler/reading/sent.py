"""What was sent: messages with their evidence, requests to send, and how a text is counted."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from gateways import segments
from gateways.events import ReviewKind
from gateways.phone import normalise
from reconciler.match import EXACT, money
from reconciler.periods import Period
from reconciler.reading.fields import money_or_none, rfc3339, vendor_message_id_of
from reconciler.reading.paging import Page, cursor_of, key_of, page_of
from reconciler.suspects import id_of as suspect_id
from runtime.identity import shard_of, shard_of_message
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

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
    return page_of(rows, limit, _message, lambda row: cursor_of(row["sent_at"], row["id"]))


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
                "amount": money_or_none(line["amount"]),
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
        "price": money_or_none(report["billed_price"]),
        "amount": money_or_none(report["billed_amount"]),
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


def _message(row: Any) -> dict[str, Any]:
    return {
        **{name: row[name] for name in MESSAGE_COLUMNS},
        "id": str(row["id"]),
        "vendor_message_id": vendor_message_id_of(row),
        "sent_at": rfc3339(row["sent_at"]),
        "reported_at": rfc3339(row["reported_at"]),
    }


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
        "price": money_or_none(price),
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
