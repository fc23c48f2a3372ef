"""Balances: what an account has left, asked for so that nobody is surprised when it runs out."""

from datetime import UTC, datetime
from typing import Any

from gateways.errors import Garbled, GatewayError
from gateways.events import Balance
from gateways.gateway import Call
from reconciler.asking import answered
from reconciler.poll import Caller, Done
from reconciler.reading import arrived


async def read(caller: Caller) -> list[dict[str, Any]]:
    """Ask what the account has left; return the readings as `arrived.balances` lists them.

    Durable on return. Each is a reading of its own, also one with the same bytes as another. Raises
    what the gateway raises, and one of `DATABASE_ERRORS`.
    """
    asked_at = datetime.now(UTC).isoformat()
    question = caller.client.query_balance()
    record, _, _ = await answered(caller, Call.QUERY_BALANCE, asked_at, question, wanted=Balance)
    async with caller.pool.acquire() as connection:
        rows = await arrived.balances_of_record(connection, caller.name, record.digest)
    if not rows:
        raise Garbled("the reply holds what cannot be stored; it is in quarantine")
    return rows


async def poll_balance(caller: Caller) -> Done:
    """Read what the account has left, as a job; raises one of `DATABASE_ERRORS`."""
    done = Done(asked=1)
    try:
        await read(caller)
        done.answered = 1
    except GatewayError as error:
        done.fail(Call.QUERY_BALANCE, error)
    return done
