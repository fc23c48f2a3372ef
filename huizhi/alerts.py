"""`huizhi alerts`: the ways by which people are told of alarms."""

import asyncio
from collections.abc import Sequence
from typing import Any

import rich_click as click

from huizhi import cli_config
from huizhi.options import one_page, output_option, show_json, show_list, show_table, with_pool
from huizhi.progress import shown
from reconciler import alert_words, channels
from reconciler.channels import NotSent
from reconciler.reading.fields import rfc3339
from runtime import Problem
from runtime.queries import QUERIES
from runtime.settings import Channel, Settings

_TESTED = ("channel", "sent", "error")
_LISTED = ("channel", "language", "last_sent_at", "failures_in_row", "again_at", "error")


@click.group()
def alerts() -> None:
    """Try and list the channels that [alerts.NAME] names, by which people are told of alarms."""


@alerts.command()
@click.option("--channel", metavar="NAME", help="Only this one; else all.")
@output_option("table", "json")
def test(channel: str | None, output: str) -> int:
    """Send a test message by every channel; needs no database.

    A robot may answer that it took a message, and drop it for a keyword or an address of its own
    settings: look whether it is there. Exits with 1 if one was not taken.
    """
    settings = cli_config.settings()
    chosen = _chosen(settings, channel)
    with shown("Sending"):
        told = asyncio.run(_try(list(chosen.values())))
    rows = [
        {"channel": name, "sent": error is None, "error": error}
        for name, error in zip(chosen, told, strict=True)
    ]
    if output == "json":
        show_json({"items": rows, "next": None})
    else:
        show_table(_TESTED, [{**row, "sent": "yes" if row["sent"] else "no"} for row in rows])
    return 1 if any(told) else 0


def _chosen(settings: Settings, name: str | None) -> dict[str, Channel]:
    if name is not None and name not in settings.alerts:
        known = ", ".join(settings.alerts) or "none"
        raise Problem(f"no channel {name!r} in {settings.file}; there are: {known}")
    if not settings.alerts:
        raise Problem(f"{settings.file} names no channel: docs/alerts.md says how to")
    return {key: each for key, each in settings.alerts.items() if name in (None, key)}


async def _try(chosen: Sequence[Channel]) -> list[str | None]:
    return list(await asyncio.gather(*(_send(each) for each in chosen)))


async def _send(channel: Channel) -> str | None:
    """Send a test; return why it was not taken."""
    try:
        await channels.send(
            channel.url,
            title=alert_words.title(channel.language, 1),
            body=alert_words.test_message(channel.language),
            tone="info",
        )
    except NotSent as error:
        return str(error)
    return None


@alerts.command("list")
@output_option("table", "json")
def list_(output: str) -> int:
    """List the channels: what was last sent, and what fails."""
    settings = cli_config.settings()

    async def work(pool: Any) -> int:
        known = {
            row["name"]: row
            for row in await pool.fetch(QUERIES["alert_channels"], sorted(settings.alerts))
        }
        items = [
            {
                "channel": name,
                "language": channel.language,
                "last_sent_at": rfc3339(row["last_sent_at"]) if row else None,
                "failures_in_row": row["failures_in_row"] if row else 0,
                "again_at": rfc3339(row["again_at"]) if row else None,
                "error": row["error"] if row else None,
            }
            for name, channel in settings.alerts.items()
            for row in (known.get(name),)
        ]
        await show_list(one_page(items), _LISTED, output)
        return 0

    return with_pool(settings, "alerts", work)
