"""`huizhi retention`: purge what is older than the settings say."""

from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import rich_click as click

from huizhi import cli_config
from huizhi.options import (
    names_of,
    output_option,
    say,
    show_json,
    show_table,
    with_pool,
    writing,
)
from reconciler import lease as leases
from reconciler.jobs import PATIENCE_SECONDS, holder
from reconciler.retention import LEASE, Purged, purge_account
from runtime.pseudonyms import pseudonyms
from runtime.settings import Retention


@click.command()
@click.option("--account", help="Only this account's.")
@click.option("--dry-run", is_flag=True, help="Say what would be purged, and purge nothing.")
@output_option("table", "json")
@writing("retention")
def retention(account: str | None, dry_run: bool, output: str) -> int:
    """Purge bodies, texts and numbers that are older than [accounts.NAME.retention] says."""
    settings = cli_config.settings()
    for name in names_of(settings, account):
        if settings.accounts[name].retention == Retention():
            say(f"{name}: keeps everything: no [accounts.{name}.retention] says what is old enough")

    async def work(pool: Any) -> int:
        done: list[Purged] = []
        code = 0
        for name, own in settings.accounts.items():
            if account not in (None, name):
                continue
            lease_name = f"{LEASE}{name}"
            async with leases.held(
                pool, lease_name, holder=holder(), patience_seconds=PATIENCE_SECONDS
            ) as lease:
                if lease is None:
                    say(f"{name}: another process is purging it")
                    code = 1
                    continue
                done.append(
                    await lease.guard(
                        purge_account(
                            lease,
                            own,
                            partial(pseudonyms, settings),
                            by="retention",
                            now=datetime.now(UTC),
                            dry_run=dry_run,
                        )
                    )
                )
        if output == "json":
            show_json({"dry_run": dry_run, "accounts": done})
        else:
            show_table(Purged.__struct_fields__, [msgspec.to_builtins(each) for each in done])
            if dry_run:
                click.echo("Nothing was purged: this is what would be.")
        return code

    return with_pool(settings, "retention", work)
