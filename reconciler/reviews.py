"""Signs and templates: submitted through us, so that a verdict whose only push is lost is asked for.

Recovery asks about reviews that it knows of, and a submission's reply is how it comes to know one.
"""

import contextlib
from collections.abc import Awaitable
from typing import Any

from gateways.errors import Garbled, GatewayError, Indeterminate
from gateways.events import ReviewKind, ReviewResult
from gateways.gateway import Call, Reply
from reconciler.asking import answered
from reconciler.poll import Caller
from reconciler.reading import reviewed


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

    Returns it as `reviewed.review` does; durable on return, and from then on it is asked about until
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

    Returns it as `reviewed.review` does; durable on return. Raises what the gateway raises, and one
    of `DATABASE_ERRORS`.
    """
    question = caller.client.query_review(kind, vendor_id)
    return await _answered(caller, kind, Call(f"query_{kind}"), vendor_id, question)


async def delete(caller: Caller, kind: ReviewKind, vendor_id: str) -> dict[str, Any]:
    """Delete a sign or template at the vendor, known to us or not; deleted it is asked about no more.

    Returns it as `reviewed.review` does; durable on return. Raises what `submit` raises.
    """
    question = caller.client.delete_review(kind, vendor_id)
    return await _answered(caller, kind, Call(f"delete_{kind}"), vendor_id, question)


async def _answered(
    caller: Caller, kind: ReviewKind, call: Call, subject: str, question: Awaitable[Reply]
) -> dict[str, Any]:
    """Ask, store and settle; return the review that the answer is about."""
    _, parsed, _ = await answered(caller, call, subject, question, wanted=ReviewResult)
    vendor_id = next(each.vendor_id for each in parsed.events if isinstance(each, ReviewResult))
    async with caller.pool.acquire() as connection:
        row = await reviewed.review(connection, caller.name, kind, vendor_id)
    if row is None:
        raise Garbled("the reply holds what cannot be stored; it is in quarantine")
    return row
