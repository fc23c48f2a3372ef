"""`huizhi poll`: one pass by hand over everything that vendors can be asked for."""

from typing import Any

import msgspec
import rich_click as click

from huizhi.cli_config import settings
from huizhi.options import output_option, say, show_table, with_pool, writing
from huizhi.progress import shown
from reconciler.jobs import Summary, one_pass

_COUNTS = ("asked", "answered", "final", "expired", "pages", "rows", "lost")
_UNASKED = 2


@click.command()
@click.option("--account", metavar="NAME", help="Only this account; else all.")
@output_option("table", "json")
@writing("poll")
def poll(account: str | None, output: str) -> int:
    """Ask the vendors once, now, for every report, review and inbound message that is missing.

    Exits with 2 if a vendor could not be asked, or did not answer.
    """
    read = settings()

    async def work(pool: Any) -> int:
        with shown("Asking the vendors") as progress:
            summaries = await one_pass(
                read,
                pool,
                account,
                progress=lambda done, all: progress(f"{done} of {all} questions", done / all),
            )
        _show(summaries, output)
        return _UNASKED if any(summary.failures for summary in summaries) else 0

    return with_pool(read, "poll", work)


def _show(summaries: list[Summary], output: str) -> None:
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(summaries)))
    else:
        show_table(
            ("account", *_COUNTS, "failures"),
            [
                {
                    "account": summary.account,
                    **{name: getattr(summary, name) for name in _COUNTS},
                    "failures": len(summary.failures),
                }
                for summary in summaries
            ],
        )
    for summary in summaries:
        for call in summary.skipped:
            say(f"{summary.account}: {call}: another process is reading; skipped")
        for failure in summary.failures:
            say(f"{summary.account}: {failure}")
