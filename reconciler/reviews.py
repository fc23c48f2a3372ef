"""Signs and templates: submitted through us, so that a verdict whose only push is lost is asked for.

Recovery asks about reviews that it knows of, and a submission's reply is how it comes to know one.
"""

import contextlib
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any

import stamina
import structlog

from gateways.errors import Garbled, GatewayError, Indeterminate, Malformed, Refused
from gateways.events import ReviewKind, ReviewResult
from gateways.gateway import Call, Reply
from reconciler import reading
from reconciler.poll import Caller
from runtime import records
from runtime.database import DATABASE_ERRORS
from runtime.records import Record

log = structlog.get_logger()

_ONLY_COPY_SECONDS = 60.0


async def submit(
    caller: Caller,
    kind: ReviewKind,
    *,
    name: str,
    content: str | None,
    remark: str,
    vendor_id: str | None = None,
) -> dict[str, Any]:
    """Submit a sign, or a template with its `content`; with `vendor_id` a rejected one, corrected.

    Returns it as `reading.review` does; durable on return, and from then on it is asked about until
    it is decided. Never submits twice. Raises `Refused`, `Unavailable` and `Unsupported`, after
    which nothing has happened, `Indeterminate` and `Garbled`, after which it may have, and one of
    `DATABASE_ERRORS`.
    """
    client = caller.client
    if vendor_id is None:
        question = client.add_review(kind, name=name, content=content, remark=remark)
        return await _answered(caller, kind, Call(f"add_{kind}"), name, question)
    question = client.modify_review(kind, vendor_id, name=name, content=content, remark=remark)
    try:
        return await _answered(caller, kind, Call(f"modify_{kind}"), vendor_id, question)
    except (Indeterminate, Garbled):
        # Whether it was taken, its id can tell. It is the submission that failed, whatever comes.
        with contextlib.suppress(GatewayError):
            await query(caller, kind, vendor_id)
        raise


async def query(caller: Caller, kind: ReviewKind, vendor_id: str) -> dict[str, Any]:
    """Ask the vendor for one sign or template now, known to us or not; repeatable.

    Returns it as `reading.review` does; durable on return. Raises what the gateway raises, and one
    of `DATABASE_ERRORS`.
    """
    question = caller.client.query_review(kind, vendor_id)
    return await _answered(caller, kind, Call(f"query_{kind}"), vendor_id, question)


async def _answered(
    caller: Caller, kind: ReviewKind, call: Call, subject: str, question: Awaitable[Reply]
) -> dict[str, Any]:
    """Ask, store and settle; return the review that the answer is about."""
    failure: GatewayError | None = None
    try:
        reply = await question
    except (Indeterminate, Garbled) as error:
        failure = error
        left = error.partial if isinstance(error, Indeterminate) else error.body
        reply = Reply(call=call, headers={}, body=left)
    except GatewayError as error:
        caller.count(call, error)
        raise
    kept = failure is None or bool(reply.body)
    result: ReviewResult | None = None
    record = records.of_reply(
        caller.name, reply, subject=subject, once=False, received_at=datetime.now(UTC)
    )
    try:
        parsed = records.parse(record, caller.settings.gateway, caller.settings.account)
        result = next((each for each in parsed.events if isinstance(each, ReviewResult)), None)
    except (Refused, Garbled, Malformed) as error:
        failure = failure or error
    except Exception as bug:
        log.exception("reply.failed", account=caller.name, call=call.value)
        failure = failure or Garbled(f"reading the reply failed: {type(bug).__name__}")
    if kept:
        # These bytes are nowhere else: the database gets a minute to come back.
        async for attempt in stamina.retry_context(
            on=DATABASE_ERRORS, attempts=None, timeout=_ONLY_COPY_SECONDS
        ):
            with attempt:
                await _store(caller, record)
    if result is None and failure is None:
        failure = Garbled("the reply tells no state")
    # An answer that did come whole counts, however its connection ended.
    caller.count(call, failure if result is None else None)
    if result is None:
        assert failure is not None
        raise failure
    async with caller.pool.acquire() as connection:
        row = await reading.review(connection, caller.name, kind, result.vendor_id)
    if row is None:
        raise Garbled("the reply holds what cannot be stored; it is in quarantine")
    return row


async def _store(caller: Caller, record: Record) -> None:
    """Store and settle a reply, also one whose bytes are known already; idempotent."""
    async with caller.pool.acquire() as connection:
        batch, _ = await records.store(
            connection, [record], recorder=caller.recorder, now=datetime.now(UTC)
        )
    await caller.settle(batch, [record])
