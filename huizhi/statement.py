"""`huizhi statement`: vendors' bills."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rich_click as click
from msgspec import structs

from huizhi import cli_config
from huizhi.options import (
    OUTPUTS,
    account_of,
    output_option,
    show_json,
    show_list,
    show_table,
    with_pool,
    writing,
)
from huizhi.progress import shown

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
@click.option("--account", required=True, help="As the settings name it.")
@click.option("--period", required=True, help="2026-10, or 2026-10-01..2026-10-15.")
@click.option(
    "--format",
    "format_name",
    default="generic",
    show_default=True,
    help="generic, or one that the settings declare.",
)
@click.option("--sheet", help="Of a workbook with several.")
@click.option("--expect-lines", type=click.IntRange(min=0), help="Refuse a file with others.")
@click.option("--expect-segments", type=click.IntRange(min=0), help="Refuse another sum.")
@click.option("--expect-amount", help="Refuse another sum, such as 1234.50.")
@click.option("--preview", is_flag=True, help="Show what would be read, and import nothing.")
@output_option("table", "json")
@writing("statement import")
def import_(
    file: Path,
    account: str,
    period: str,
    format_name: str,
    sheet: str | None,
    expect_lines: int | None,
    expect_segments: int | None,
    expect_amount: str | None,
    preview: bool,
    output: str,
) -> int:
    """Import a vendor's bill, whole or not at all: CSV (UTF-8 or GB18030) or XLSX.

    The same file again changes nothing; a corrected file becomes the period's new version. With
    --preview the exit code is 1 if the file would be refused.
    """
    from reconciler import match, periods, statements
    from runtime import Problem

    settings = cli_config.settings()
    chosen = account_of(settings, account)
    try:
        days = periods.parse(period)
        layout = statements.format_layout(settings, format_name, sheet=sheet)
        expect = statements.expected(expect_lines, expect_segments, expect_amount)
    except ValueError as error:
        raise Problem(str(error)) from None
    if preview:
        with shown(file.name) as progress:
            seen = asyncio.run(
                statements.preview(
                    chosen,
                    file,
                    file_name=file.name,
                    format_name=format_name,
                    layout=layout,
                    expect=expect,
                    progress=lambda lines, share: progress(f"{lines:,} lines", share),
                )
            )
        if output == "json":
            show_json(seen)
        else:
            _show_preview(seen)
        return 1 if seen.problems else 0

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            with shown(file.name) as progress:
                done = await statements.import_file(
                    connection,
                    chosen,
                    days,
                    file,
                    file_name=file.name,
                    format_name=format_name,
                    layout=layout,
                    now=datetime.now(UTC),
                    expect=expect,
                    progress=lambda lines, share: progress(f"{lines:,} lines", share),
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
        said = _added_up(done.lines, done.segments, amount)
        if done.duplicate_of is None:
            click.echo(f"imported as {account} {days} version {done.version}: {said}")
        else:
            click.echo(f"known already as {account} {days} version {done.version}: {said}")
        return 0

    return with_pool(settings, "statement import", work)


def _added_up(lines: int, segments: int, amount: str | None) -> str:
    said = f"{lines} lines, {segments} segments"
    return f"{said}, amount {amount}" if amount is not None else f"{said}, no amounts"


def _show_preview(seen: Any) -> None:
    """Print a preview for people."""
    written = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
    container = (
        f"XLSX, sheet {seen.sheet}"
        if seen.sheet is not None
        else f"CSV, {seen.encoding}, parted by {written[seen.delimiter]}"
    )
    click.echo(f"{seen.file}: {container}, headings in line {seen.header_line}\n")
    columns = [structs.asdict(column) for column in seen.columns]
    show_table(("heading", "field", "because"), columns)
    if seen.first_lines:
        click.echo("\nThe first lines:")
        lines = [structs.asdict(line) for line in seen.first_lines]
        show_table(tuple(lines[0]), lines)
    click.echo(f"\n{_added_up(seen.lines, seen.segments, seen.amount)}")
    if seen.totals_line is not None:
        click.echo(f"the totals in line {seen.totals_line} bill nothing")
    if not seen.problems:
        click.echo("nothing is imported by a preview; the file can be")
        return
    click.echo("\nThe file would be refused:")
    problems = [structs.asdict(problem) for problem in seen.problems]
    show_table(("line", "column", "reason"), problems)
    if seen.more_problems:
        click.echo("and perhaps more: reading ended here")


@statement.command("list")
@click.option("--account", help="Only this account's.")
@output_option(*OUTPUTS)
def list_(account: str | None, output: str) -> int:
    """List imported statements, the newest first."""
    from reconciler.reading import billed, paging

    settings = cli_config.settings()

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            await show_list(
                lambda cursor: billed.statements(
                    connection, account, cursor=cursor, limit=paging.MAX_LIMIT
                ),
                COLUMNS,
                output,
            )
        return 0

    return with_pool(settings, "statement list", work)
