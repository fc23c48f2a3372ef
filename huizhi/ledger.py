"""`huizhi sent import`: the ledger from a file."""

from datetime import UTC, datetime
from pathlib import Path
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


@click.group()
def sent() -> None:
    """The ledger of sent messages."""


@sent.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--account", help="For files whose rows do not name one.")
@click.option("--sheet", help="Of a workbook with several.")
@output_option("table", "json")
@writing("sent import")
def import_(file: Path, account: str | None, sheet: str | None, output: str) -> int:
    """Register the messages in FILE: CSV, XLSX or NDJSON.

    Columns or keys are those of POST /v1/sent: account, vendor_message_id, phone, sent_at, content,
    sign, segments, reference, template_id. Sending a file again changes nothing. A row that cannot
    be registered is named with its line, and the others are registered; the exit code is then 1.
    """
    from reconciler import sent_files

    settings = cli_config.settings()
    if account is not None:
        account_of(settings, account)

    async def work(pool: Any) -> int:
        with shown(file.name) as progress:
            done = await sent_files.import_file(
                pool,
                settings,
                file,
                default_account=account,
                now=datetime.now(UTC),
                sheet=sheet,
                progress=lambda rows, share: progress(f"{rows:,} rows", share),
            )
        if output == "json":
            show_json(done)
        else:
            click.echo(
                f"{done.recorded} recorded, {done.duplicates} known already, "
                f"{done.rejected_count} rejected"
            )
            for line, reason in done.rejected:
                click.echo(f"{file.name}: line {line}: {reason}", err=True)
            if done.rejected_count > len(done.rejected):
                left = done.rejected_count - len(done.rejected)
                click.echo(f"{file.name}: and {left} more", err=True)
        return 1 if done.rejected_count else 0

    return with_pool(settings, "sent import", work)
