"""`huizhi inbound`: messages from handsets (上行)."""

from typing import Any

import rich_click as click

from gateways.errors import Unsupported
from huizhi import cli_config
from huizhi.options import (
    OUTPUTS,
    account_of,
    output_option,
    show_list,
    span_of,
    span_options,
    with_pool,
)
from reconciler.reading import arrived, paging


@click.command()
@click.option("--account", help="Only this account; else all.")
@span_options
@output_option(*OUTPUTS)
def inbound(account: str | None, since: str | None, until: str | None, output: str) -> int:
    """List the messages from handsets that are known here, the newest first.

    `huizhi poll` asks the vendors for those that are missing.
    """
    settings = cli_config.settings()
    if account is not None:
        gateway = account_of(settings, account).gateway
        if not {"pull_inbound", "list_inbound"} & gateway.supports:
            raise Unsupported(f"{gateway.vendor} ({account}) offers no `inbound`")
    first, last = span_of(settings, account, since, until)
    accounts = sorted(settings.accounts) if account is None else [account]

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            await show_list(
                lambda cursor: arrived.inbound(
                    connection,
                    accounts,
                    phone=None,
                    since=first,
                    until=last,
                    cursor=cursor,
                    limit=paging.MAX_LIMIT,
                ),
                arrived.INBOUND_COLUMNS,
                output,
            )
        return 0

    return with_pool(settings, "inbound", work)
