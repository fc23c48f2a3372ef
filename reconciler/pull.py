"""Pulling: reading pages that a vendor hands out once; at most the page in flight can be lost.

Order is everything here: the intent is stored, then the page is fetched; its bytes are durable in
a file, then in the database; only then are they understood, and the next page is asked for. A page
whose reader died is found as a file, or given up for lost and counted. There is one reader per
account and call: an intent can be stored by the holder of the lease alone. What became of a page is
stored by whoever read it, whose lease may be another's by then; it does nothing else any more.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec
import stamina
import structlog

from gateways.errors import Garbled, GatewayError, Indeterminate, Malformed, Refused
from gateways.events import Parsed
from gateways.gateway import Call, Reply
from reconciler.lease import Lease
from reconciler.poll import Caller, Done
from runtime import Problem, metrics, records
from runtime.database import DATABASE_ERRORS
from runtime.queries import QUERIES
from runtime.records import Record

log = structlog.get_logger()

PULLS = (Call.PULL_REPORTS, Call.PULL_INBOUND)
_ONLY_COPY_SECONDS = 60.0


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What one pull brought; `state` is that of its row, `error` what the call ended with."""

    pull: UUID
    account: str
    call: Call
    state: Literal["recorded", "lost"]
    error: str | None
    received_at: datetime
    headers: dict[str, str]
    size: int


async def pull(caller: Caller, call: Call, lease: Lease, folder: Path) -> Done:
    """Read pages until one has fewer rows than asked for; `folder` holds pages on their way.

    First settles what readers before left behind. Stops at the first page that is not all right.
    Cancelled, it lets the page in flight land first. Raises `LeaseLost`, `Problem` when `folder`
    cannot be used, and one of `DATABASE_ERRORS`: a page fetched then stays in `folder`.
    """
    done = Done()
    _prove(folder)
    await _take_up(caller, call, lease, folder, done)
    limit = caller.client.pull_limit
    before: asyncio.Task[None] | None = None
    page: asyncio.Task[None] | None = None
    try:
        while True:
            rows: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            before = page
            page = asyncio.create_task(_read(caller, call, lease, folder, limit, done, rows))
            await _either(rows, page)
            if page.done():
                await page
            if before is not None:
                await asyncio.shield(before)
            if not rows.done() or rows.result() < max(limit, 1) or done.failures:
                await asyncio.shield(page)
                return done
    finally:
        # What has begun lands.
        await asyncio.gather(*filter(None, (before, page)), return_exceptions=True)


async def _either(*awaited: asyncio.Future[Any]) -> None:
    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)


async def _read(
    caller: Caller,
    call: Call,
    lease: Lease,
    folder: Path,
    limit: int,
    done: Done,
    rows: asyncio.Future[int],
) -> None:
    """Read one page and settle it; `rows` is told how many it held, if any came, once it is parsed."""
    pull_id, now = uuid4(), datetime.now(UTC)
    await lease.pool.execute(
        QUERIES["intend_pull"], pull_id, caller.name, call, lease.token, limit, now
    )
    if not lease.alive:
        await _finish(caller.pool, pull_id, "nothing", None, "the lease was lost before the call")
        raise lease.lost()
    fetch = caller.client.pull_reports if call == Call.PULL_REPORTS else caller.client.pull_inbound
    state: Literal["recorded", "lost"] = "recorded"
    failure: GatewayError | None = None
    try:
        reply = await fetch(limit)
    except Indeterminate as error:
        state, failure = "lost", error
        reply = Reply(call=call, headers={}, body=error.partial)
    except Garbled as error:
        failure = error
        reply = Reply(call=call, headers={}, body=error.body)
    except GatewayError as error:
        caller.count(call, error)
        done.fail(call, error)
        await _finish(caller.pool, pull_id, "nothing", None, str(error))
        return
    page = Page(
        pull=pull_id,
        account=caller.name,
        call=call,
        state=state,
        error=None if failure is None else str(failure),
        received_at=datetime.now(UTC),
        headers=dict(reply.headers),
        size=len(reply.body),
    )
    # No await between the reply and the file: cancelling cannot come between them.
    file = folder / str(pull_id)
    kept = False
    try:
        handle = _write(file, page, reply.body)
        await asyncio.to_thread(_sync, handle, folder)
        kept = True
    except OSError as error:
        log.error("page.no_file", account=caller.name, call=call.value, error=error.strerror)
    # Without a file these bytes are nowhere else: then the database gets a minute to come back.
    attempts, patience = (1, None) if kept else (None, _ONLY_COPY_SECONDS)
    stored = None
    async for attempt in stamina.retry_context(
        on=DATABASE_ERRORS, attempts=attempts, timeout=patience
    ):
        with attempt:
            stored = await _store(caller, page, reply.body, handed_out_from=now)
    assert stored is not None
    file.unlink(missing_ok=True)
    if state == "lost":
        caller.count(call, failure)
        done.lost += 1
    held, parsed = await _understand(caller.under(lease), page, stored, done)
    rows.set_result(held)
    done.final += await caller.under(lease).settle(stored.batch, stored.fresh, parsed)


class _Stored(msgspec.Struct, frozen=True):
    record: Record
    batch: int
    fresh: list[Record]


async def _store(caller: Caller, page: Page, body: bytes, *, handed_out_from: datetime) -> _Stored:
    """Record a page, and count and tell it if it is lost; durable on return, idempotent."""
    reply = Reply(call=page.call, headers=page.headers, body=body)
    record = records.of_reply(
        page.account, reply, subject=str(page.pull), once=True, received_at=page.received_at
    )
    async with caller.pool.acquire() as connection, connection.transaction():
        # Whoever has the lease by now: bytes that were handed out are never dropped.
        batch, fresh = await records.store(
            connection, [record], recorder=caller.recorder, now=datetime.now(UTC)
        )
        await _finish(connection, page.pull, page.state, record.digest, page.error)
        if page.state == "lost":
            _mourn(caller.name, page.call, page.pull, handed_out_from)
    return _Stored(record, batch, fresh)


async def _understand(
    caller: Caller, page: Page, stored: _Stored, done: Done
) -> tuple[int, dict[bytes, Parsed]]:
    """Parse a recorded page; return how many rows it held, and by its digest what it was parsed into."""
    failure: GatewayError | None = None if page.error is None else Garbled(page.error)
    rows = 0
    parsed: dict[bytes, Parsed] = {}
    try:
        read = records.parse(stored.record, caller.settings.gateway, caller.settings.account)
        parsed[stored.record.digest] = read
        rows = read.rows
        if read.problems and not read.events:
            failure = failure or Garbled(f"not one row is understood: {read.problems[0]}")
    except (Refused, Garbled, Malformed) as error:
        failure = failure or error
    except Exception as bug:
        log.exception("page.failed", account=page.account, call=page.call.value)
        failure = failure or Garbled(f"reading the page failed: {type(bug).__name__}")
    if failure is not None:
        done.fail(page.call, failure)
        log.error(
            "page.not_all_right", account=page.account, call=page.call.value, error=str(failure)
        )
    if page.state == "recorded":
        done.pages += 1
        caller.count(page.call, failure)
    done.rows += rows
    metrics.PULLED_ROWS.labels(page.account).inc(rows)
    await caller.pool.execute(
        QUERIES["pull_understood"], page.pull, rows, None if failure is None else str(failure)
    )
    return rows, parsed


async def _take_up(caller: Caller, call: Call, lease: Lease, folder: Path, done: Done) -> None:
    """Record pages that readers before left in `folder`, and give up those they left nowhere."""
    for file, page, body in _left_behind(folder):
        if (page.account, page.call) != (caller.name, call):
            continue
        log.warning("page.taken_up", account=caller.name, call=call.value, pull=str(page.pull))
        if len(body) < page.size:
            page = msgspec.structs.replace(page, state="lost", error="the page's file is torn")
        stored = await _store(caller, page, body, handed_out_from=page.received_at)
        file.unlink(missing_ok=True)
        done.lost += page.state == "lost"
        found = Done()
        _, parsed = await _understand(caller.under(lease), page, stored, found)
        found.final += await caller.under(lease).settle(stored.batch, stored.fresh, parsed)
        # What was wrong then is no reason not to read on now.
        found.failures.clear()
        found.refused = False
        done.add(found)
    async with lease.pool.acquire() as connection, connection.transaction():
        lost = await connection.fetch(
            QUERIES["lose_pulls"], caller.name, call, lease.token, datetime.now(UTC)
        )
        for row in lost:
            _mourn(caller.name, call, row["id"], row["intended_at"])
    done.lost += len(lost)


async def _finish(
    connection: Any, pull_id: UUID, state: str, digest: bytes | None, error: str | None
) -> None:
    await connection.execute(
        QUERIES["finish_pull"], pull_id, state, datetime.now(UTC), digest, error
    )


def _mourn(account: str, call: Call, pull_id: UUID, intended_at: datetime) -> None:
    """Tell people which reports may be gone: those that the vendor handed out in this window.

    Call it before that is committed: who dies in between is followed by one who tells it again.
    """
    metrics.LOST_PAGES.labels(account).inc()
    log.error(
        "page.lost",
        account=account,
        call=call.value,
        pull=str(pull_id),
        handed_out_from=intended_at.isoformat(),
        handed_out_until=datetime.now(UTC).isoformat(),
    )


def _prove(folder: Path) -> None:
    """Make `folder`, for us alone, and prove that it can be written before a page needs it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"probe")
    except OSError as error:
        raise Problem(f"{folder} cannot be written: {error.strerror}") from error


def _write(file: Path, page: Page, body: bytes) -> int:
    """Write a page where it outlives this process; the handle returned is for `_sync`."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(handle, "wb", closefd=False) as written:
            written.write(msgspec.json.encode(page) + b"\n" + body)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _sync(handle: int, folder: Path) -> None:
    """Make a written page outlive the machine; closes `handle`."""
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    above = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(above)
    finally:
        os.close(above)


def _left_behind(folder: Path) -> Iterator[tuple[Path, Page, bytes]]:
    for file in sorted(folder.iterdir()):
        # Its writer may have ended it at this moment.
        with contextlib.suppress(FileNotFoundError):
            head, _, body = file.read_bytes().partition(b"\n")
            try:
                page = msgspec.json.decode(head, type=Page)
            except msgspec.DecodeError:
                log.error("page.file_unreadable", file=file.name)
                continue
            yield file, page, body
