"""`huizhi suspects`: pushed reports that could not be trusted as they were."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import rich_click as click

from huizhi import cli_config
from huizhi.options import (
    OUTPUTS,
    account_of,
    names_of,
    output_option,
    show_json,
    show_list,
    with_pool,
    writing,
)
from reconciler.actions import login
from reconciler.reading import arrived, paging
from reconciler.suspects import Verdict, decide
from runtime import Problem, trust

_SHOWN = (
    "id",
    "account",
    "state",
    "reasons",
    "vendor_message_id",
    "phone",
    "status",
    "reported_at",
    "received_at",
    "hours_off",
    "peer",
    "message_status",
)


@click.group()
def suspects() -> None:
    """See pushed reports that fall short of trust, and accept or reject them."""


@suspects.command("list")
@click.option("--account", help="Only this one's.")
@click.option("--state", type=click.Choice(trust.STATES), help="Only what is so.")
@click.option("--reason", type=click.Choice(trust.REASONS), help="Only for that.")
@output_option(*OUTPUTS)
def list_(account: str | None, state: str | None, reason: str | None, output: str) -> int:
    """List suspect reports, those found last first."""
    settings = cli_config.settings()
    accounts = names_of(settings, account)

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            await show_list(
                lambda cursor: arrived.suspects(
                    connection,
                    accounts,
                    state=state,
                    reason=reason,
                    cursor=cursor,
                    limit=paging.MAX_LIMIT,
                ),
                _SHOWN if output == "table" else arrived.SUSPECT_COLUMNS,
                output,
            )
        return 0

    return with_pool(settings, "suspects list", work)


def _deciding(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what both decisions take."""
    for add in (
        output_option("table", "json"),
        click.option("--note", help="Why."),
        click.option("--by", help="Who decides; else the user of this machine."),
        click.option(
            "--reason", type=click.Choice(trust.REASONS), help="Only what waits for that."
        ),
        click.option("--account", help="All that wait at this account."),
        click.argument("id", nargs=-1),
    ):
        command = add(command)
    return command


@suspects.command("accept")
@_deciding
@writing("suspects accept")
def accept(**given: Any) -> int:
    """Accept reports, by their IDs or all that wait at an account: they count from then on."""
    return _decide("accepted", **given)


@suspects.command("reject")
@_deciding
@writing("suspects reject")
def reject(**given: Any) -> int:
    """Reject reports, by their IDs or all that wait at an account."""
    return _decide("rejected", **given)


def _decide(
    verdict: Verdict,
    id: tuple[str, ...],
    account: str | None,
    reason: str | None,
    by: str | None,
    note: str | None,
    output: str,
) -> int:
    settings = cli_config.settings()
    if bool(id) == (account is not None) or (id and reason):
        raise Problem("name reports by their IDs, or give --account and perhaps --reason")
    if account is not None:
        account_of(settings, account)

    async def work(pool: Any) -> int:
        done = await decide(
            pool,
            verdict,
            ids=id,
            account=account,
            reason=reason,
            by=by or login(),
            note=note,
            now=datetime.now(UTC),
        )
        if output == "json":
            show_json(done)
        else:
            line = f"{done.changed} {verdict}, {done.unchanged} decided already"
            if verdict == "rejected" and done.unchanged:
                line += " (what was accepted counts and is never taken back)"
            click.echo(line)
        return 0

    return with_pool(settings, f"suspects {verdict}", work)
