"""`huizhi erase`: one number, everywhere, on request."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import rich_click as click

from huizhi import cli_config
from huizhi.options import output_option, say, show_json, with_pool, writing
from huizhi.progress import shown
from reconciler import erasure
from reconciler.actions import login
from runtime.pseudonyms import pseudonyms


@click.command()
@click.option("--by", default=login, help="In whose name; else the user's.")
@output_option("table", "json")
@writing("erase")
def erase(by: str, output: str) -> int:
    """Erase the number on standard input, or asked for there, everywhere.

    It is no argument: those are shown in the list of processes and kept by shells.
    """
    settings = cli_config.settings()
    if sys.stdin.isatty():
        phone = click.prompt("Number", hide_input=True, err=True)
    else:
        phone = sys.stdin.readline().strip()

    async def work(pool: Any) -> int:
        with shown("erase") as progress:
            done = await erasure.erase(
                pool,
                settings.accounts,
                pseudonyms(settings),
                phone,
                by=by,
                now=datetime.now(UTC),
                progress=lambda found: progress(_said(found), None),
            )
        if output == "json":
            show_json(done)
        else:
            found = _said(done.found)
            click.echo(f"{done.id}: {done.pseudonym} in its place: {found or 'found nowhere'}")
        if done.held:
            say(f"{done.held} held back, being sent or settled at this moment: erase it again")
        return 1 if done.held else 0

    return with_pool(settings, "erase", work)


def _said(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in found.items())
