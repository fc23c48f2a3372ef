"""`huizhi replay`: bytes that nobody understood, parsed again."""

from datetime import UTC, datetime
from typing import Any

import rich_click as click

from huizhi import cli_config
from huizhi.options import (
    account_of,
    output_option,
    show_json,
    with_pool,
    writing,
)
from huizhi.progress import shown


@click.command()
@click.option("--account", help="Only this account's.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@output_option("table", "json")
@writing("replay")
def replay(account: str | None, dry_run: bool, output: str) -> int:
    """Parse quarantined callbacks again with this version's parsers, and join orphans."""
    from reconciler.replay import replay as again

    settings = cli_config.settings()
    if account is not None:
        account_of(settings, account)

    async def work(pool: Any) -> int:
        with shown("replay") as progress:
            done = await again(
                pool,
                settings.accounts,
                account,
                now=datetime.now(UTC),
                dry_run=dry_run,
                progress=lambda count: progress(f"{count:,} records", None),
            )
        if output == "json":
            show_json(done)
        else:
            would = "would be " if dry_run else ""
            click.echo(
                f"{done.quarantined} quarantined, {done.understood} {would}understood "
                f"({done.events} events), {done.joined} messages joined their reports"
            )
        return 0

    return with_pool(settings, "replay", work)
