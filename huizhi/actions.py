"""`huizhi actions`: what operators did."""

from typing import Any

import rich_click as click

from huizhi import cli_config
from huizhi.options import output_option, show_list, span_of, span_options, with_pool
from reconciler import actions as record
from reconciler.reading.paging import MAX_LIMIT, Page


@click.command()
@click.option("--actor", help="Of one token's name, or user.")
@click.option("--what", help='Such as "POST /v1/statements" or "huizhi send".')
@span_options
@output_option("table", "json")
def actions(
    actor: str | None, what: str | None, since: str | None, until: str | None, output: str
) -> int:
    """List what operators did by the API and by commands, the newest first.

    One without an outcome is under way, or was cut off.
    """
    settings = cli_config.settings()
    first, last = span_of(settings, None, since, until)

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:

            async def page(cursor: str | None) -> Page:
                found = await record.listed(
                    connection,
                    actor=actor,
                    what=what,
                    since=first,
                    until=last,
                    cursor=cursor,
                    limit=MAX_LIMIT,
                )
                if output == "json":
                    return found
                told = [
                    {**item, "subject": " ".join(f"{k}={v}" for k, v in item["subject"].items())}
                    for item in found.items
                ]
                return Page(told, found.next)

            await show_list(page, record.COLUMNS, output)
        return 0

    return with_pool(settings, "actions", work)
