"""Health, and what is counted, for Prometheus."""

import asyncio
import os

import structlog
from litestar import MediaType, Response, get
from litestar.datastructures import State

from reconciler import alarms, chain
from reconciler.api.access import OPEN, READER
from reconciler.reading import arrived
from runtime import metrics
from runtime.database import DATABASE_ERRORS
from runtime.queries import QUERIES

log = structlog.get_logger()


@get("/metrics", media_type=MediaType.TEXT, include_in_schema=False, **READER)
async def show_metrics(state: State) -> Response[bytes]:
    """Give what the processes of this machine count, for Prometheus."""
    await _show_balances(state)
    await _show_chain(state)
    await _show_watch(state)
    await _show_work(state)
    text = await asyncio.to_thread(metrics.exposition, os.environ.get(metrics.FOLDER_VARIABLE))
    return Response(text, media_type="text/plain; version=0.0.4")


@get("/health/live", include_in_schema=False, sync_to_thread=False, **OPEN)
def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "live"}


@get("/health/ready", include_in_schema=False, **OPEN)
async def ready(state: State) -> Response[dict[str, str]]:
    """Say whether the database answers."""
    try:
        async with asyncio.timeout(2), state.pool.acquire() as connection:
            await connection.execute(QUERIES["answers"])
    except DATABASE_ERRORS:
        return Response({"status": "database away"}, status_code=503)
    return Response({"status": "ready"})


async def _show_balances(state: State) -> None:
    """Set the gauge to the newest readings, whichever process stored them."""
    try:
        async with asyncio.timeout(2), state.pool.acquire() as connection:
            found = await arrived.newest_balances(connection, sorted(state.settings.accounts))
    except DATABASE_ERRORS as error:
        log.warning("balances.not_shown", error=type(error).__name__)
        return
    for account, kind, amount in found:
        metrics.BALANCE.labels(account, kind).set(float(amount))


async def _show_watch(state: State) -> None:
    """Set the gauges of what waits to be confirmed or understood, and of alarms."""
    accounts = sorted(state.settings.accounts)
    try:
        async with asyncio.timeout(2), state.pool.acquire() as connection:
            waiting = await connection.fetch(QUERIES["count_suspects"], accounts)
            known = await connection.fetch(QUERIES["alarm_states"], [*accounts, alarms.HOUSE])
            weighed = await connection.fetch(QUERIES["count_quarantine"], accounts)
    except DATABASE_ERRORS:
        return  # the gauges keep what they had; the rest is shown
    counts = {row["account"]: row["waiting"] for row in waiting}
    for account in accounts:
        metrics.SUSPECTS_WAITING.labels(account).set(counts.get(account, 0))
    for row in weighed:
        metrics.QUARANTINED.labels(row["account"]).set(row["waiting"])
    for row in known:
        metrics.ALARM.labels(row["account"], row["kind"]).set(row["stands"])


async def _show_chain(state: State) -> None:
    """Set the gauges to the newest link, whichever process made it."""
    try:
        async with asyncio.timeout(2), state.pool.acquire() as connection:
            found = await chain.head(connection)
            behind = await chain.behind_seconds(connection)
    except DATABASE_ERRORS as error:
        log.warning("chain.not_shown", error=type(error).__name__)
        return
    metrics.CHAIN_HEIGHT.set(found.height)
    metrics.CHAIN_BEHIND_SECONDS.set(behind)


async def _show_work(state: State) -> None:
    """Set the gauges of jobs and settling, whichever process does them; and whether that can be told."""
    away = metrics.DATABASE_AWAY.labels("reconciler")
    try:
        async with asyncio.timeout(2), state.pool.acquire() as connection:
            rows = await connection.fetch(QUERIES["list_jobs"])
            behind = await connection.fetchval(QUERIES["settlement_behind"])
    except DATABASE_ERRORS:
        away.set(1)
        return
    away.set(0)
    metrics.SETTLEMENT_BEHIND_SECONDS.set(behind)
    # One that has been taken out of the settings is late for ever, and no news.
    for name, account, every_seconds in state.schedule:
        metrics.JOB_EVERY_SECONDS.labels(name, account).set(every_seconds)
    scheduled = {(name, account) for name, account, _ in state.schedule}
    for row in rows:
        if (row["name"], row["account"]) not in scheduled:
            continue
        labels = row["name"], row["account"]
        metrics.JOB_FAILURES_IN_ROW.labels(*labels).set(row["failures_in_row"])
        # It is running: until it has ended, when it began is the least that can be said.
        ended = row["finished_at"] or row["started_at"]
        metrics.JOB_ENDED.labels(*labels).set(ended.timestamp())


ROUTES = [show_metrics, live, ready]
