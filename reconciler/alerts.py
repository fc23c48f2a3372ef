"""Alerts: people are told of alarms, and of verdicts on signs and templates, by the channels of the settings.

What was told where stands in a table, written as soon as a channel took the message: so it is told by
one process, once when an alarm begins, once when it is over, and again in between after
`repeat_hours`; a restart repeats and loses nothing. Only a process that dies between a channel's
"taken" and the commit has it told twice: losing it would be worse.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import structlog

from reconciler import alarms, alert_words, channels
from reconciler.alarms import HOUSE, KINDS
from reconciler.backoff import backoff
from reconciler.channels import NotSent, Tone
from reconciler.lease import Lease
from runtime import metrics
from runtime.logs import Redaction
from runtime.queries import QUERIES
from runtime.settings import Channel, Settings

log = structlog.get_logger()

# Of one message; what is more follows with the next.
MOST = 10
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 3600.0
# A channel that failed so often is an alarm itself, for the others.
FAILING = 3
# What was over, or decided, so long ago is no news.
_OLD = timedelta(days=7)


class _Line(NamedTuple):
    """One thing to tell: what it is about, whether that is over, and the words."""

    about: UUID
    over: bool
    good: bool
    words: str


async def tell(settings: Settings, lease: Lease, *, now: datetime) -> None:
    """Tell each channel what it has not been told; a failing one holds up no other.

    Raises one of `DATABASE_ERRORS`, and `LeaseLost`.
    """
    names = sorted(settings.alerts)
    await lease.pool.execute(QUERIES["know_channels"], names, now)
    rows = await lease.pool.fetch(QUERIES["alert_channels"], names)
    ready = [row for row in rows if row["again_at"] is None or row["again_at"] <= now]
    await asyncio.gather(*(_tell(settings, lease, row, now) for row in ready))
    failing = [
        row["name"]
        for row in await lease.pool.fetch(QUERIES["alert_channels"], names)
        if row["failures_in_row"] >= FAILING
    ]
    async with lease.pool.acquire() as connection:
        if failing:
            words = f"messages to {', '.join(failing)} are not taken: huizhi alerts list says why"
            await alarms.raise_(connection, HOUSE, "channel", words, {"channels": failing}, now=now)
        else:
            await alarms.end(connection, HOUSE, "channel", now=now)


async def _tell(settings: Settings, lease: Lease, row: Any, now: datetime) -> None:
    name, channel = row["name"], settings.alerts[row["name"]]
    lines = await _due(settings, lease.pool, name, channel, row["since"], now)
    if not lines:
        return
    lease.check()
    redact = Redaction(settings.secrets)
    try:
        await channels.send(
            channel.url,
            title=alert_words.title(channel.language, len(lines)),
            body=redact("\n\n".join(line.words for line in lines)),
            tone=_tone(lines),
        )
    except NotSent as error:
        pause = backoff(FIRST_PAUSE_SECONDS, row["failures_in_row"], LONGEST_PAUSE_SECONDS)
        metrics.ALERTS.labels(name, "failed").inc()
        log.error("alert.not_sent", channel=name, again_seconds=pause, error=str(error))
        await lease.pool.execute(
            QUERIES["channel_failed"], name, now + timedelta(seconds=pause), str(error)
        )
        return
    metrics.ALERTS.labels(name, "sent").inc()
    async with lease.pool.acquire() as connection, connection.transaction():
        await connection.execute(
            QUERIES["note_told"],
            name,
            [line.about for line in lines],
            [line.over for line in lines],
            now,
        )
        await connection.execute(QUERIES["channel_worked"], name, now)
    log.info("alert.sent", channel=name, lines=len(lines))


def _tone(lines: Sequence[_Line]) -> Tone:
    return "success" if all(line.good for line in lines) else "warning"


async def _due(
    settings: Settings, pool: Any, name: str, channel: Channel, since: datetime, now: datetime
) -> list[_Line]:
    accounts = list(channel.accounts) or [*sorted(settings.accounts), HOUSE]
    rows = await pool.fetch(
        QUERIES["alerts_due"],
        name,
        list(channel.kinds or KINDS),
        accounts,
        since,
        now - timedelta(hours=channel.repeat_hours),
        now - _OLD,
        MOST,
    )
    lines = [_of_alarm(row, channel, settings.timezone) for row in rows]
    if len(lines) < MOST and (not channel.kinds or "review" in channel.kinds):
        verdicts = await pool.fetch(
            QUERIES["verdicts_due"], name, accounts, max(since, now - _OLD), MOST - len(lines)
        )
        lines += [_of_verdict(row, channel, settings.timezone) for row in verdicts]
    return lines


def _of_alarm(row: Mapping[str, Any], channel: Channel, zone: ZoneInfo) -> _Line:
    language, what = channel.language, row["what"]
    over = row["ended_at"] is not None
    times = _time(row["since"], zone) + (f" – {_time(row['ended_at'], zone)}" if over else "")
    head = _head(channel, what, row["kind"], row["account"], times)
    told = alert_words.sentence(language, row["kind"], row["words"], row["figures"])
    return _Line(row["about"], over, over, f"{head}\n{told}")


def _of_verdict(row: Mapping[str, Any], channel: Channel, zone: ZoneInfo) -> _Line:
    head = _head(channel, row["status"], "review", row["account"], _time(row["came_at"], zone))
    told = alert_words.verdict(
        channel.language, row["kind"], row["vendor_id"], row["name"] or "", row["reason"] or ""
    )
    return _Line(row["about"], True, row["status"] == "approved", f"{head}\n{told}")


def _head(channel: Channel, what: str, kind: str, account: str, times: str) -> str:
    words = alert_words.WHAT[channel.language][what], alert_words.KINDS[channel.language][kind]
    return " · ".join(filter(None, (*words, account, times)))


def _time(at: datetime, zone: ZoneInfo) -> str:
    return at.astimezone(zone).strftime("%Y-%m-%d %H:%M")
