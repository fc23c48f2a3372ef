"""`huizhi alarms`: what a person should know of; `huizhi arrivals`: what silence is judged by."""

from typing import Any

import rich_click as click

from huizhi import cli_config
from huizhi.options import OUTPUTS, names_of, one_page, output_option, show_list, with_pool
from reconciler import alarms as kinds
from reconciler import arrivals as learned
from reconciler.reading import paging, watched

_SHOWN = ("account", "kind", "since", "last_seen_at", "ended_at", "words")


@click.command()
@click.option("--account", help="Only this one's.")
@click.option("--kind", type=click.Choice(kinds.KINDS), help="Only these.")
@click.option("--ended", is_flag=True, help="Those that are over too.")
@output_option(*OUTPUTS)
def alarms(account: str | None, kind: str | None, ended: bool, output: str) -> int:
    """List alarms, the newest first: what is wrong now, or with --ended what was.

    Those without an account are of the machine and its jobs.
    """
    settings = cli_config.settings()
    accounts = [*names_of(settings, account), *([] if account else [kinds.HOUSE])]

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            await show_list(
                lambda cursor: watched.alarms(
                    connection,
                    accounts,
                    kind=kind,
                    ended=ended,
                    cursor=cursor,
                    limit=paging.MAX_LIMIT,
                ),
                _SHOWN if output == "table" else watched.ALARM_COLUMNS,
                output,
            )
        return 0

    return with_pool(settings, "alarms", work)


@click.command()
@click.option("--account", help="Only this one's.")
@output_option(*OUTPUTS)
def arrivals(account: str | None, output: str) -> int:
    """Say how soon receipts of each account come, or that it is still being learned."""
    settings = cli_config.settings()
    accounts = names_of(settings, account)

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            items = await learned.shown(connection, accounts)
        await show_list(one_page(items), learned.COLUMNS, output)
        return 0

    return with_pool(settings, "arrivals", work)
