"""One question to a vendor, put by a person or by a job: its reply is kept, whatever it says."""

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import NamedTuple

import stamina
import structlog

from gateways.errors import Garbled, GatewayError, Indeterminate, Malformed, Refused
from gateways.events import Event, Parsed
from gateways.gateway import Call, Reply
from reconciler.poll import Caller
from runtime import records
from runtime.database import DATABASE_ERRORS
from runtime.records import Record

log = structlog.get_logger()

_ONLY_COPY_SECONDS = 60.0


class Answered(NamedTuple):
    """A reply as it is kept, what it says, and how many messages changed by it."""

    record: Record
    parsed: Parsed
    changed: int


async def answered(
    caller: Caller,
    call: Call,
    subject: str,
    question: Awaitable[Reply],
    *,
    wanted: type[Event] | None = None,
) -> Answered:
    """Ask, store and settle; durable on return, and so is what came when it raises.

    `subject` is what the call is about; where bytes that come again are news, it names the time.
    With `wanted` a reply counts that holds such an event, however its connection ended, and no other
    does. Raises what the gateway raises, `Garbled` also for a reply without what is wanted, and one
    of `DATABASE_ERRORS`.
    """
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
    parsed: Parsed | None = None
    record = records.of_reply(
        caller.name, reply, subject=subject, once=False, received_at=datetime.now(UTC)
    )
    try:
        parsed = records.parse(record, caller.settings.gateway, caller.settings.account)
    except (Refused, Garbled, Malformed) as error:
        failure = failure or error
    except Exception as bug:
        log.exception("reply.failed", account=caller.name, call=call.value)
        failure = failure or Garbled(f"reading the reply failed: {type(bug).__name__}")
    changed = await keep(caller, record) if kept else 0
    if wanted is not None and parsed is not None:
        if any(isinstance(event, wanted) for event in parsed.events):
            failure = None
        else:
            failure = failure or Garbled("the reply does not hold what was asked for")
    caller.count(call, failure)
    if failure is not None:
        raise failure
    assert parsed is not None
    return Answered(record, parsed, changed)


async def keep(caller: Caller, record: Record) -> int:
    """Store and settle a reply, also one whose bytes are known already; idempotent.

    Durable on return. Returns how many messages changed by it; raises one of `DATABASE_ERRORS`.
    """
    # These bytes are nowhere else: the database gets a minute to come back.
    async for attempt in stamina.retry_context(
        on=DATABASE_ERRORS, attempts=None, timeout=_ONLY_COPY_SECONDS
    ):
        with attempt:
            async with caller.pool.acquire() as connection:
                batch, _ = await records.store(
                    connection, [record], recorder=caller.recorder, now=datetime.now(UTC)
                )
            return await caller.settle(batch, [record])
    raise AssertionError("unreachable: the last attempt returns or raises")
