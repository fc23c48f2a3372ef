"""`huizhi drift`: what is new in vendors' documents."""

from typing import Any

import rich_click as click

from huizhi import cli_config
from huizhi.options import OUTPUTS, names_of, output_option, show_list, with_pool
from reconciler.reading import paging, watched


@click.command()
@click.option("--account", help="Only this one's.")
@click.option("--all", "every", is_flag=True, help="All that documents were seen to have.")
@output_option(*OUTPUTS)
def drift(account: str | None, every: bool, output: str) -> int:
    """List fields, types and codes that were new in vendors' documents, the newest first."""
    settings = cli_config.settings()
    accounts = names_of(settings, account)

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            await show_list(
                lambda cursor: watched.features(
                    connection, accounts, every=every, cursor=cursor, limit=paging.MAX_LIMIT
                ),
                watched.FEATURE_COLUMNS,
                output,
            )
        return 0

    return with_pool(settings, "drift", work)
