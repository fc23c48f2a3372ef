"""`huizhi replay`: stored bytes, parsed again with today's parsers."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

import msgspec
import rich_click as click

from huizhi import cli_config
from huizhi.options import (
    account_of,
    output_option,
    show_file,
    show_json,
    show_list,
    show_table,
    span_of,
    span_options,
    with_pool,
    writing,
)
from huizhi.progress import shown
from reconciler import replay as replaying
from reconciler.actions import login
from reconciler.replay import Money, Replay, Span

# Of each list, what stands in a table or a JSON answer; CSV has every state.
LISTED = 1000
_STATES = ("id", "account", "vendor_message_id", "sent_at", "from", "to")
_REPORTS = ("change", "account", "vendor_message_id", "status", "vendor_code", "reported_at")
_REPLAYS = ("id", "by", "parsers", "account", "from", "to", "started_at", "finished_at")


@click.command()
@click.option("--account", help="Only this account's.")
@span_options
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--list", "listing", is_flag=True, help="List the replays there were, and do none.")
@click.option("--by", default=login, help="In whose name; else the user's.")
@output_option("table", "json", "csv")
@writing("replay", unless=("listing",))
def replay(
    account: str | None,
    since: str | None,
    until: str | None,
    dry_run: bool,
    listing: bool,
    by: str,
    output: str,
) -> int:
    """Parse stored bytes again with this version's parsers, and put right what they read otherwise.

    Lists the messages whose states change, the reports that appear and vanish, and what is owed
    otherwise; csv has the states alone, and all of them.
    """
    settings = cli_config.settings()
    if account is not None:
        account_of(settings, account)
    first, last = span_of(settings, account, since, until)

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            if listing:
                await show_list(
                    lambda cursor: replaying.replays(connection, cursor=cursor, limit=1000),
                    _REPLAYS,
                    output,
                )
                return 0
            run = Replay(
                connection, settings.accounts, Span(account=account, since=first, until=last)
            )
            with shown("replay") as progress:
                await run.plan(progress=lambda count: progress(f"{count:,} records", None))
            told = await _told(run, output)
            if not dry_run:
                await run.apply(by=by, now=datetime.now(UTC))
        _show(run, told, dry_run, output)
        return 0

    return with_pool(settings, "replay", work)


async def _told(run: Replay, output: str) -> dict[str, Any]:
    if output == "csv":
        await show_file(run.states(), _STATES, output)
        return {}
    return {
        "money": await run.money(),
        "states": await _first(run.states()),
        "reports": await _first(run.reports()),
    }


async def _first(rows: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    number = count()
    return [row async for row in rows if next(number) < LISTED]


def _show(run: Replay, told: dict[str, Any], dry_run: bool, output: str) -> None:
    done = run.done
    if output == "json":
        show_json({"dry_run": dry_run, **msgspec.to_builtins(done), **told})
    if output != "table":
        return
    would = "would be " if dry_run else ""
    click.echo(
        f"{done.quarantined} quarantined, {done.understood} {would}understood "
        f"({done.events} events), {done.joined} messages joined their reports"
    )
    click.echo(
        f"{done.records} records parsed, {done.purged} purged and left; {done.changed} {would}read "
        f"otherwise: {done.reports_added} reports appear, {done.reports_removed} vanish, "
        f"{done.state_changes} states change"
    )
    if told["money"]:
        show_table(Money.__struct_fields__, [msgspec.to_builtins(each) for each in told["money"]])
    for columns, rows in ((_STATES, told["states"]), (_REPORTS, told["reports"])):
        if rows:
            show_table(columns, rows)
