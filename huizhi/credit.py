"""`huizhi credit`: vendors' credit notes."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

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
from reconciler import credits
from reconciler.reading import disputed, paging


@click.group()
def credit() -> None:
    """Credit notes (贷项通知单): import them, list what became of each line."""


@credit.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--account", required=True, help="As the settings name it.")
@click.option("--sheet", help="Of a workbook with several.")
@output_option("table", "json")
@writing("credit import")
def import_(file: Path, account: str, sheet: str | None, output: str) -> int:
    """Import a vendor's credit notes, whole or not at all, and set them against what is disputed.

    CSV (UTF-8 or GB18030) or XLSX. The same file again changes nothing.
    """
    settings = cli_config.settings()
    chosen = account_of(settings, account)

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            done = await credits.import_file(
                connection,
                chosen,
                file,
                file_name=file.name,
                sheet=sheet,
                now=datetime.now(UTC),
            )
            if output == "json":
                show_json(done)
                return 0
            known = "imported" if done["duplicate_of"] is None else "known already"
            click.echo(f"{known}: {done['lines']} lines")
            for each in done["amounts"]:
                click.echo(
                    f"{each['amount']} {each['currency']}: {each['allocated']} set against disputes, "
                    f"{each['unallocated']} left"
                )
            left = paging.every(
                lambda cursor: disputed.credits(
                    connection,
                    [account],
                    credit=UUID(done["id"]),
                    left=True,
                    cursor=cursor,
                    limit=paging.MAX_LIMIT,
                )
            )
            async for line in left:
                meant = line["vendor_message_id"] or "no message named"
                click.echo(
                    f"line {line['line']}, {line['number']}, {meant}: {line['unallocated']} of "
                    f"{line['amount']} {line['currency']} left, "
                    + (
                        "nothing of it is disputed"
                        if line["outcome"] == "nothing_disputed"
                        else "more than is disputed"
                    )
                )
        return 0

    return with_pool(settings, "credit import", work)


@credit.command("list")
@click.option("--account", help="Only this account's.")
@click.option("--number", help="Of one credit note.")
@click.option("--unallocated", is_flag=True, help="Only what is not used up.")
@output_option(*OUTPUTS)
def list_(account: str | None, number: str | None, unallocated: bool, output: str) -> int:
    """List lines of credit notes with what became of each; those imported last first."""
    settings = cli_config.settings()
    accounts = names_of(settings, account)

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            await show_list(
                lambda cursor: disputed.credits(
                    connection,
                    accounts,
                    number=number,
                    left=unallocated,
                    cursor=cursor,
                    limit=paging.MAX_LIMIT,
                ),
                disputed.CREDIT_COLUMNS,
                output,
            )
        return 0

    return with_pool(settings, "credit list", work)
