"""`huizhi discrepancy`: work on what reconciliation found."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import rich_click as click
from msgspec import UNSET

from huizhi import cli_config
from huizhi.options import (
    OUTPUTS,
    account_of,
    one_page,
    output_option,
    show_json,
    show_list,
    show_table,
    with_pool,
    writing,
)
from reconciler import cases, match, periods
from reconciler.actions import login
from reconciler.periods import Period
from reconciler.reading import disputed, paging
from runtime import Problem
from runtime.settings import Settings

# Of the list, what fits a terminal.
_SHOWN = (
    "id",
    "account",
    "period",
    "kind",
    "state",
    "owner",
    "age_days",
    "vendor_message_id",
    "phone",
    "amount",
    "rest",
    "currency",
    "note",
)
_HISTORY = ("version", "at", "by", "from", "to", "owner", "note")


@click.group()
def discrepancy() -> None:
    """Work on discrepancies (差异): who has one, what is decided, how old they are."""


def _filter_options(in_state: str) -> Callable[[Any], Any]:
    """Add the options that choose discrepancies; `in_state` is what the one for the state is called."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(
            (
                click.option("--account", help="Only this account's."),
                click.option("--period", help="2026-10, or 2026-10-01..2026-10-15."),
                click.option("--kind", type=click.Choice(match.KINDS), help="Of this kind only."),
                click.option(
                    in_state,
                    "in_state",
                    type=click.Choice(cases.STATES),
                    help="In this state only.",
                ),
                click.option(
                    "--min-age-days",
                    type=click.IntRange(0, 100_000),
                    help="At least so many days old.",
                ),
            )
        ):
            command = option(command)
        return command

    return add


def _chosen(
    settings: Settings,
    account: str | None,
    period: str | None,
    kind: str | None,
    state: Any,
    owner: str | None,
    min_age_days: int | None,
) -> tuple[list[str], cases.Filter, Period | None]:
    if account is not None:
        account_of(settings, account)
    try:
        days = None if period is None else periods.parse(period)
    except ValueError as error:
        raise Problem(str(error)) from None
    chosen = cases.Filter(
        account=account,
        period=period,
        kind=kind,
        state=state,
        owner=owner,
        min_age_days=min_age_days,
    )
    return sorted(settings.accounts) if account is None else [account], chosen, days


@discrepancy.command("list")
@_filter_options("--state")
@click.option("--owner", help='Whose; "" for nobody\'s.')
@output_option(*OUTPUTS)
def list_(
    account: str | None,
    period: str | None,
    kind: str | None,
    in_state: str | None,
    min_age_days: int | None,
    owner: str | None,
    output: str,
) -> int:
    """List discrepancies as they stand, followed over reruns; those found last first."""
    settings = cli_config.settings()
    accounts, chosen, days = _chosen(settings, account, period, kind, in_state, owner, min_age_days)
    now = datetime.now(UTC)

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            await show_list(
                lambda cursor: disputed.cases(
                    connection,
                    accounts,
                    chosen,
                    days,
                    now=now,
                    cursor=cursor,
                    limit=paging.MAX_LIMIT,
                ),
                _SHOWN if output == "table" else disputed.CASE_COLUMNS,
                output,
            )
        return 0

    return with_pool(settings, "discrepancy list", work)


@discrepancy.command("show")
@click.argument("id", type=click.UUID)
@output_option("table", "json")
def show(id: UUID, output: str) -> int:
    """Show one discrepancy with its history."""
    settings = cli_config.settings()

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            await _show(connection, id, output)
        return 0

    return with_pool(settings, "discrepancy show", work)


@discrepancy.command("set")
@click.argument("id", type=click.UUID, nargs=-1)
@_filter_options("--in-state")
@click.option("--owned-by", help='Whose; "" for nobody\'s.')
@click.option(
    "--state",
    type=click.Choice([state for state in cases.STATES if state != "resolved"]),
    help="What it comes to be.",
)
@click.option("--owner", help='Who is to have it; "" takes it from its owner.')
@click.option("--note", help="Why; opening again what was ended needs one.")
@click.option("--by", help="Who decides; else the user of this machine.")
@click.option("--version", type=int, help="Of one ID: only if that is still its version.")
@output_option("table", "json")
@writing("discrepancy set")
def set_(
    id: tuple[UUID, ...],
    account: str | None,
    period: str | None,
    kind: str | None,
    in_state: str | None,
    min_age_days: int | None,
    owned_by: str | None,
    state: Any,
    owner: str | None,
    note: str | None,
    by: str | None,
    version: int | None,
    output: str,
) -> int:
    """Set the state, owner or note of discrepancies: of each ID, or of all that a filter meets.

    All or none of up to 10,000.
    """
    settings = cli_config.settings()
    accounts, chosen, days = _chosen(
        settings, account, period, kind, in_state, owned_by, min_age_days
    )
    if bool(id) == (chosen != cases.Filter()):
        raise Problem("name discrepancies by their IDs, or give a filter such as --account")
    if version is not None and len(id) != 1:
        raise Problem("--version is of one ID")
    change = cases.Change(
        by=by or login(),
        state=UNSET if state is None else state,
        owner=UNSET if owner is None else owner or None,
        note=UNSET if note is None else note,
    )
    now = datetime.now(UTC)

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            if len(id) == 1:
                await cases.change_one(connection, id[0], change, version=version, now=now)
                await _show(connection, id[0], output)
                return 0
            if id:
                done = await cases.change_many(connection, id, change, now=now)
            else:
                done = await cases.change_filtered(
                    connection, accounts, chosen, days, change, now=now
                )
        if output == "json":
            show_json(done)
        else:
            click.echo(f"{done.changed} changed, {done.unchanged} so already")
        return 0

    return with_pool(settings, "discrepancy set", work)


@discrepancy.command("ageing")
@click.option("--account", help="Only this account's.")
@output_option(*OUTPUTS)
def ageing(account: str | None, output: str) -> int:
    """Count discrepancies and add them up, by account, state and age in days."""
    settings = cli_config.settings()
    accounts, _, _ = _chosen(settings, account, None, None, None, None, None)

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            found = await disputed.ageing(connection, accounts, now=datetime.now(UTC))
        if output == "json":
            show_json(found)
        else:
            rows = found["items"] + found["totals"]
            await show_list(one_page(rows), disputed.AGEING_COLUMNS, output)
        return 0

    return with_pool(settings, "discrepancy ageing", work)


async def _show(connection: Any, id: UUID, output: str) -> None:
    found = await disputed.case(connection, id, now=datetime.now(UTC))
    if found is None:
        raise cases.Unknown(f"no discrepancy {id}")
    if output == "json":
        show_json(found)
        return
    for name in disputed.CASE_COLUMNS:
        if found[name] is not None:
            click.echo(f"{name}: {found[name]}")
    click.echo()
    show_table(_HISTORY, found["history"])
