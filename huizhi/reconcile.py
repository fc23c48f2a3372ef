"""`huizhi reconcile`: a statement against the ledger."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import rich_click as click

from huizhi import cli_config
from huizhi.options import (
    OUTPUTS,
    account_of,
    output_option,
    show_json,
    show_list,
    show_table,
    with_pool,
)


@click.command()
@click.option("--account", required=True)
@click.option("--period", required=True, help="2026-10, or 2026-10-01..2026-10-15.")
@click.option("--discrepancies", is_flag=True, help="List every discrepancy, not their totals.")
@output_option(*OUTPUTS)
def reconcile(account: str, period: str, discrepancies: bool, output: str) -> int:
    """Hold the newest statement of a period against the ledger.

    Exits 0 if balanced, 1 with discrepancies. Amounts add up exactly to billed less owed. Of csv and
    xlsx every row is a discrepancy.
    """
    from reconciler import match, periods, reading
    from runtime import Problem

    settings = cli_config.settings()
    chosen = account_of(settings, account)
    try:
        days = periods.parse(period)
    except ValueError as error:
        raise Problem(str(error)) from None

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            result = await match.reconcile(connection, chosen, days, now=datetime.now(UTC))
            run = UUID(result["id"])
            if discrepancies or output in ("csv", "xlsx"):
                await show_list(
                    lambda cursor: reading.discrepancies(
                        connection, run, kind=None, cursor=cursor, limit=reading.MAX_LIMIT
                    ),
                    reading.DISCREPANCY_COLUMNS,
                    output,
                )
            elif output == "json":
                show_json(result)
            else:
                show_result(result)
        return 0 if result["status"] == "balanced" else 1

    return with_pool(settings, "reconcile", work)


def show_result(result: dict[str, Any]) -> None:
    """Print a reconciliation as finance people read one: owed, billed, the difference, its causes."""
    currency = result["currency"]
    owed, billed, difference = result["owed"], result["billed"], result["difference"]
    sent = result["sent"]
    click.echo(f"{result['account']}  {result['period']}  {result['status']}\n")
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
    click.echo()
    for name in ("messages", "lines", "unresolved"):
        counts = ", ".join(f"{count} {what}" for what, count in result[name].items())
        click.echo(f"{name}: {counts}")
