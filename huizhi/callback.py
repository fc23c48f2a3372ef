"""`huizhi callback show`: what became of a callback."""

from typing import Any

import rich_click as click

from huizhi import cli_config
from huizhi.options import output_option, show_json, show_table, with_pool
from reconciler import story
from runtime import Problem


@click.group()
def callback() -> None:
    """Say what became of a callback."""


@callback.command()
@click.argument("id")
@output_option("table", "json")
def show(id: str, output: str) -> int:
    """Tell a callback's story, or a reply's, step by step; ID is its digest, as lists and logs have it."""
    settings = cli_config.settings()

    async def work(pool: Any) -> int:
        try:
            digest = bytes.fromhex(id)
        except ValueError:
            digest = b""
        async with pool.acquire() as connection:
            told = await story.tell(connection, settings.accounts, digest)
        if told is None:
            raise Problem(f"no callback {id[:64]}")
        if output == "json":
            show_json(told)
            return 0
        show_table(story.STEPS, told["steps"])
        for report in told["reports"] or ():
            words = (
                "an orphan: no such message yet" if report["orphan"] else report["message_status"]
            )
            suspect = ", left out: a suspect" if report["suspect"] else ""
            click.echo(
                f"{report['status']} for {report['vendor_message_id']}, "
                f"message {report['message']}: {words}{suspect}"
            )
        return 0

    return with_pool(settings, "callback show", work)
