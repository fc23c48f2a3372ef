"""`huizhi reconcile`: a statement against the ledger."""

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import rich_click as click

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
from huizhi.progress import shown
from reconciler.actions import login


@click.command()
@click.option("--account", required=True, help="As the settings name it.")
@click.option("--period", required=True, help="2026-10, or 2026-10-01..2026-10-15.")
@click.option(
    "--source",
    type=click.Choice(("statement", "reports")),
    default="statement",
    show_default=True,
    help="The bill: the newest statement, or what the vendor's reports say that messages cost.",
)
@click.option(
    "--assume",
    metavar="KEY=VALUE",
    multiple=True,
    help="What if: price, basis, segment_rule, segment_unit, poll_until_hours, timezone.",
)
@click.option("--close", is_flag=True, help="Close the period with this run, for ever.")
@click.option("--by", metavar="NAME", help="Who closes it; else who is logged in.")
@click.option("--discrepancies", is_flag=True, help="List every discrepancy, not their totals.")
@click.option(
    "--causes", is_flag=True, help="List why the bill differs; adds up to the difference."
)
@click.option("--adjustments", is_flag=True, help="List what changed since the period was closed.")
@output_option(*OUTPUTS)
@writing("reconcile")
def reconcile(
    account: str,
    period: str,
    source: Literal["statement", "reports"],
    assume: tuple[str, ...],
    close: bool,
    by: str | None,
    discrepancies: bool,
    causes: bool,
    adjustments: bool,
    output: str,
) -> int:
    """Hold the bill of a period against the ledger.

    Exits 0 if balanced, 1 with discrepancies. Amounts add up exactly to billed less owed. Of csv and
    xlsx every row is a discrepancy, or with `--causes` a cause, or with `--adjustments` a change. A
    closed period is never opened again: what is found later is an adjustment.
    """
    from reconciler import match, periods
    from reconciler.reading import billed, paging
    from runtime import Problem

    settings = cli_config.settings()
    chosen = account_of(settings, account)
    try:
        days = periods.parse(period)
    except ValueError as error:
        raise Problem(str(error)) from None
    if discrepancies + causes + adjustments > 1:
        raise Problem("one of --discrepancies, --causes and --adjustments at a time")
    if by is not None and not close:
        raise Problem("--by goes with --close")
    closing = (by or login()) if close else None

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            with shown(f"{account} {days}") as progress:
                result = await match.reconcile(
                    connection,
                    chosen,
                    days,
                    now=datetime.now(UTC),
                    source=source,
                    assume=_assumptions(assume),
                    close_by=closing,
                    beside=pool.acquire,
                    progress=progress,
                )
            run = UUID(result["id"])
            if causes and output == "table":
                _show_causes(result)
            elif causes:
                await show_list(one_page(result["causes"]), billed.CAUSE_COLUMNS, output)
            elif adjustments and output == "table":
                await _show_adjustments(connection, run)
            elif adjustments:
                await show_list(
                    lambda cursor: billed.adjustments(
                        connection, run, cursor=cursor, limit=paging.MAX_LIMIT
                    ),
                    billed.ADJUSTMENT_COLUMNS,
                    output,
                )
            elif discrepancies or output in ("csv", "xlsx"):
                await show_list(
                    lambda cursor: billed.discrepancies(
                        connection, run, kind=None, cursor=cursor, limit=paging.MAX_LIMIT
                    ),
                    billed.DISCREPANCY_COLUMNS,
                    output,
                )
            elif output == "json":
                show_json(await billed.run(connection, run) if close else result)
            else:
                show_result(result)
                if close:
                    click.echo(f"\nclosed by {closing}")
        return 1 if result["discrepancies"] else 0

    return with_pool(settings, "reconcile", work)


def _assumptions(given: tuple[str, ...]) -> dict[str, str]:
    from runtime import Problem

    assumptions: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise Problem(f"--assume: expected KEY=VALUE, not {text[:40]!r}")
        if name in assumptions:
            raise Problem(f"--assume: {name} is given twice")
        assumptions[name] = value
    return assumptions


def _show_causes(result: dict[str, Any]) -> None:
    """Print why the bill differs, the one with most money first, and that it adds up."""
    from reconciler.causes import CAUSES

    amount = f"amount ({result['currency']})"
    rows = [
        {
            "cause": each["cause"],
            "discrepancy": each["kind"],
            "count": each["count"],
            "segments": each["segments"],
            amount: each["amount"],
            "meaning": CAUSES[each["kind"]][each["cause"]],
        }
        for each in result["causes"]
    ]
    difference = result["difference"]
    rows.append(
        {
            "cause": "difference",
            "discrepancy": None,
            "count": sum(each["count"] for each in result["causes"]),
            "segments": difference["segments"],
            amount: difference["amount"],
            "meaning": "billed less owed: what the causes add up to",
        }
    )
    show_table(("cause", "discrepancy", "count", "segments", amount, "meaning"), rows)


async def _show_adjustments(connection: Any, run: UUID) -> None:
    """Print what changed since the period was closed, each before and after in one column."""
    from reconciler.reading import billed, paging

    def change(row: dict[str, Any], name: str) -> str:
        before, after = (
            "-" if row[f"{name}_{at}"] is None else str(row[f"{name}_{at}"])
            for at in ("before", "after")
        )
        return before if before == after else f"{before} → {after}"

    changed = [
        row
        async for row in paging.every(
            lambda cursor: billed.adjustments(
                connection, run, cursor=cursor, limit=paging.MAX_LIMIT
            )
        )
    ]
    names = ("status", "sent_segments", "owed_segments", "lines", "billed_segments")
    show_table(
        ("vendor_message_id", "phone", *names, "segments", "amount"),
        [{**row, **{name: change(row, name) for name in names}} for row in changed],
    )


def show_result(result: dict[str, Any]) -> None:
    """Print a reconciliation as finance people read one: owed, billed, the difference, its causes."""
    currency = result["currency"]
    owed, billed, difference = result["owed"], result["billed"], result["difference"]
    sent = result["sent"]
    click.echo(f"{result['account']}  {result['period']}  {result['status']}")
    if "assumed" in result:
        click.echo(
            f"assumed: {', '.join(f'{name}={text}' for name, text in result['assumed'].items())}"
        )
    click.echo()
    show_table(
        ("", "messages", "segments", f"amount ({currency})"),
        [
            {
                "": "sent",
                "messages": sent["messages"],
                "segments": sent["segments"],
                f"amount ({currency})": None,
            },
            {
                "": "owed",
                "messages": owed["messages"],
                "segments": owed["segments"],
                f"amount ({currency})": owed["amount"],
            },
            {
                "": "billed",
                "messages": billed["lines"],
                "segments": billed["segments"],
                f"amount ({currency})": billed["amount"],
            },
            {
                "": "difference",
                "messages": None,
                "segments": difference["segments"],
                f"amount ({currency})": difference["amount"],
            },
        ],
    )
    if result["discrepancies"]:
        click.echo()
        show_table(
            ("discrepancy", "count", "segments", f"amount ({currency})"),
            [
                {
                    "discrepancy": kind,
                    "count": found["count"],
                    "segments": found["segments"],
                    f"amount ({currency})": found["amount"],
                }
                for kind, found in result["discrepancies"].items()
            ],
        )
    if "adjustment" in result:
        changed = result["adjustment"]
        more = changed["difference"]
        click.echo(
            f"\nadjusts {result['adjusts']}: {changed['changed']} changed, the difference by "
            f"{more['segments']} segments and {more['amount']} {currency}"
        )
    click.echo()
    for name in ("messages", "lines", "coverage", "unresolved"):
        counts = ", ".join(f"{count} {what}" for what, count in result[name].items())
        click.echo(f"{name}: {counts}")
    click.echo(f"run: {result['id']}")
