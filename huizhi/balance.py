"""`huizhi balance`: what accounts have left."""

import asyncio
from collections.abc import Mapping
from typing import Any

import rich_click as click

from gateways.errors import GatewayError
from huizhi import cli_config
from huizhi.options import (
    OUTPUTS,
    account_of,
    names_of,
    offered,
    one_page,
    output_option,
    say,
    show_json,
    show_list,
    show_table,
    span_of,
    span_options,
    with_callers,
    with_pool,
    writing,
)
from huizhi.progress import shown
from reconciler import auditing, balances, periods
from reconciler.poll import Caller
from reconciler.reading import arrived, paging
from runtime import Problem
from runtime.settings import AccountSettings, Settings

_UNASKED = 2


@click.command()
@click.option("--account", help="Only this account; else all.")
@click.option("--history", is_flag=True, help="List the readings kept here, and ask nobody.")
@click.option("--audit", is_flag=True, help="Hold the readings kept here against what was sent.")
@click.option("--period", help="With --audit: 2026-10, or 2026-10-01..2026-10-15.")
@span_options
@output_option(*OUTPUTS)
@writing("balance", unless=("history", "audit"))
def balance(
    account: str | None,
    history: bool,
    audit: bool,
    period: str | None,
    since: str | None,
    until: str | None,
    output: str,
) -> int:
    """Ask the vendors now what the accounts have left, and keep what they say.

    With `--history` lists what they have said, the newest first, also when they sent; `--from` and
    `--to` belong to it. With `--audit` shows what an account's balances lost in a period beside what
    was owed; a rise is shown as a rise. Exits with 2 if a vendor could not be asked, or did not answer.
    """
    settings = cli_config.settings()
    if audit != (period is not None) or (audit and account is None):
        raise Problem("--audit goes with --account and --period")
    if audit and (history or since is not None or until is not None):
        raise Problem("--audit goes with neither --history nor --from and --to")
    if account is not None and period is not None:
        return _audit(settings, account_of(settings, account), period, output)
    if history:
        return _history(settings, account, since, until, output)
    if since is not None or until is not None:
        raise Problem("--from and --to go with --history")
    if account is not None:
        offered(settings, account, "query_balance", "balance")
    asked = [
        name
        for name, each in settings.accounts.items()
        if account in (None, name) and "query_balance" in each.gateway.supports
    ]
    if not asked:
        raise Problem("no account's vendor offers `balance`")

    async def work(asking: Mapping[str, Caller]) -> int:
        with shown("Asking the vendors"):
            told = await asyncio.gather(
                *(balances.read(asking[name]) for name in asked), return_exceptions=True
            )
        rows: list[dict[str, Any]] = []
        failures: list[str] = []
        for name, each in zip(asked, told, strict=True):
            if isinstance(each, GatewayError):
                failures.append(f"{name}: {each}")
            elif isinstance(each, BaseException):
                raise each
            else:
                rows += each
        if rows or not failures:
            await show_list(one_page(rows), arrived.BALANCE_COLUMNS, output)
        for failure in failures:
            say(failure)
        return _UNASKED if failures else 0

    return with_callers(settings, "balance", work)


def _audit(settings: Settings, chosen: AccountSettings, text: str, output: str) -> int:
    try:
        period = periods.parse(text)
    except ValueError as error:
        raise Problem(str(error)) from None

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:

            async def page(cursor: str | None) -> paging.Page:
                return await auditing.intervals(
                    connection, chosen, period, cursor=cursor, limit=paging.MAX_LIMIT
                )

            totals = await auditing.totals(connection, chosen, period)
            if output == "json":
                rows = [row async for row in paging.every(page)]
                show_json({"items": rows, "next": None, "totals": totals})
            else:
                await show_list(page, auditing.AUDIT_COLUMNS, output)
                if output == "table":
                    click.echo()
                    show_table(auditing.TOTAL_COLUMNS, totals)
        return 0

    return with_pool(settings, "balance", work)


def _history(
    settings: Settings, account: str | None, since: str | None, until: str | None, output: str
) -> int:
    accounts = names_of(settings, account)
    first, last = span_of(settings, account, since, until)

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            await show_list(
                lambda cursor: arrived.balances(
                    connection,
                    accounts,
                    kind=None,
                    since=first,
                    until=last,
                    cursor=cursor,
                    limit=paging.MAX_LIMIT,
                ),
                arrived.BALANCE_COLUMNS,
                output,
            )
        return 0

    return with_pool(settings, "balance", work)
