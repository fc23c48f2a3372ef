"""`huizhi statement`: vendors' bills."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rich_click as click

from huizhi import cli_config
from huizhi.options import (
    OUTPUTS,
    account_of,
    output_option,
    show_json,
    show_list,
    with_pool,
)

COLUMNS = (
    "id",
    "account",
    "period",
    "version",
    "file",
    "format",
    "lines",
    "segments",
    "amount",
    "imported_at",
)


@click.group()
def statement() -> None:
    """Vendors' bills: import them, list them."""


@statement.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--account", required=True)
@click.option("--period", required=True, help="2026-10, or 2026-10-01..2026-10-15.")
@click.option("--format", "format_name", default="generic", show_default=True)
@output_option("table", "json")
def import_(file: Path, account: str, period: str, format_name: str, output: str) -> int:
    """Import a vendor's bill, whole or not at all: CSV (UTF-8 or GB18030) or XLSX.

    The same file again changes nothing; a corrected file becomes the period's new version.
    """
    from reconciler import match, periods, statements
    from runtime import Problem

    settings = cli_config.settings()
    chosen = account_of(settings, account)
    try:
        days = periods.parse(period)
        columns = statements.format_columns(settings, format_name)
    except ValueError as error:
        raise Problem(str(error)) from None

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            done = await statements.import_file(
                connection,
                chosen,
                days,
                file,
                file_name=file.name,
                format_name=format_name,
                columns=columns,
                now=datetime.now(UTC),
            )
        amount = None if done.amount is None else match.money(done.amount)
        if output == "json":
            duplicate = None if done.duplicate_of is None else str(done.duplicate_of)
            show_json(
                {
                    "id": str(done.id),
                    "version": done.version,
                    "lines": done.lines,
                    "segments": done.segments,
                    "amount": amount,
                    "duplicate_of": duplicate,
                }
            )
            return 0
        said = f"{done.lines} lines, {done.segments} segments"
        said += f", amount {amount}" if amount is not None else ", no amounts"
        if done.duplicate_of is None:
            click.echo(f"imported as {account} {days} version {done.version}: {said}")
        else:
            click.echo(f"known already as {account} {days} version {done.version}: {said}")
        return 0

    return with_pool(settings, "statement import", work)


@statement.command("list")
@click.option("--account")
@output_option(*OUTPUTS)
def list_(account: str | None, output: str) -> int:
    """List imported statements, the newest first."""
    from reconciler import reading

    settings = cli_config.settings()

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            await show_list(
                lambda cursor: reading.statements(
                    connection, account, cursor=cursor, limit=reading.MAX_LIMIT
                ),
                COLUMNS,
                output,
            )
        return 0

    return with_pool(settings, "statement list", work)
