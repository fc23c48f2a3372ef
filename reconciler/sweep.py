"""Sweeping: reading a vendor's lists by time, for what no push and no question by id has brought.

A list is repeatable, so a page that fails is only read again. How far an account's list has been
read whole is kept, and moved by the holder of the lease alone.
"""

from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from gateways.errors import Garbled, GatewayError
from gateways.events import Parsed
from gateways.gateway import Call
from reconciler.asking import answered
from reconciler.lease import Lease
from reconciler.poll import Caller, Done
from runtime.queries import QUERIES

Listing = Literal[Call.LIST_SENT, Call.LIST_INBOUND]
# Read again each time: a vendor's list lags behind, and its clock is not ours.
OVERLAP = timedelta(hours=1)
_DAYS = 31  # where the client names no longest span


class Window(msgspec.Struct, frozen=True):
    """A span of time to list, both ends aware."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{self.start.isoformat()}..{self.end.isoformat()}"


async def sweep(caller: Caller, call: Listing, lease: Lease) -> Done:
    """Read the account's list from where it was last read whole until now, window by window.

    The first time from `poll_until_hours` ago. Stops at the first page that is not all right; the
    windows before it stay read. Raises `LeaseLost` and one of `DATABASE_ERRORS`.
    """
    caller = caller.under(lease)
    done = Done()
    now = datetime.now(UTC)
    until = await caller.pool.fetchval(QUERIES["swept_until"], caller.name, call)
    start = (
        now - timedelta(hours=caller.settings.poll_until_hours)
        if until is None
        else until - OVERLAP
    )
    longest = timedelta(days=caller.client.days_per_list or _DAYS)
    while start < now:
        window = Window(start, min(start + longest, now))
        try:
            await _read(caller, call, lease, window, done)
        except GatewayError as error:
            done.fail(call, error)
            return done
        await caller.pool.execute(
            QUERIES["advance_sweep"], caller.name, call, window.end, lease.token
        )
        start = window.end
    return done


async def _read(caller: Caller, call: Listing, lease: Lease, window: Window, done: Done) -> None:
    """Read every page of `window`; raises what the gateway raises."""
    client = caller.client
    sent = call == Call.LIST_SENT
    limit = client.rows_per_list if sent else client.inbound_per_list
    rows, page = 0, 1
    before: Parsed | None = None
    while True:
        lease.check()
        if sent:
            subject = f"{window} from row {rows}"
            question = client.list_sent(window.start, window.end, rows)
        else:
            subject = f"{window} page {page}"
            question = client.list_inbound(window.start, window.end, page)
        _, parsed, changed = await answered(caller, call, subject, question)
        done.pages += 1
        done.rows += parsed.rows
        done.final += changed
        if parsed.problems and not parsed.events:
            raise Garbled(f"not one row is understood: {parsed.problems[0]}")
        if limit == 0 or parsed.rows < limit:
            return
        if parsed == before:
            raise Garbled("the vendor gives the same page again")
        rows, page, before = rows + parsed.rows, page + 1, parsed
