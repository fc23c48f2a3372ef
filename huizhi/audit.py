"""`huizhi audit`: the billing audit queries."""

from datetime import UTC, datetime
from typing import Any

import rich_click as click

from huizhi import cli_config
from huizhi.options import (
    OUTPUTS,
    one_page,
    output_option,
    show_file,
    show_json,
    show_list,
    show_table,
    with_pool,
)


@click.command()
@click.argument("query", required=False)
@click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter; repeatable."
)
@click.option(
    "--lang",
    type=click.Choice(("en", "zh")),
    default="en",
    show_default=True,
    help="Of questions and headings.",
)
@output_option(*OUTPUTS)
def audit(query: str | None, params: tuple[str, ...], lang: str, output: str) -> int:
    """Ask a billing audit query, or list them with what they can be asked for.

    JSON and tables show the first 10,000 rows, and say so; csv and xlsx have all.
    """
    from reconciler import audit as queries

    if query is None:
        return _list(params, lang, output)
    settings = cli_config.settings()
    asked = queries.ask(settings, query, _given(params), now=datetime.now(UTC))
    columns = [column.name for column in asked.query.columns]
    headings = asked.query.headings(lang)
    limit, seconds = queries.MAX_ROWS, queries.COMMAND_SECONDS

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            if output in ("csv", "xlsx"):
                rows = queries.every(connection, asked, seconds=seconds)
                await show_file(rows, columns, output, headings)
                return 0
            items, truncated = await queries.first(connection, asked, limit=limit, seconds=seconds)
        if output == "json":
            show_json(
                {
                    "query": query,
                    "parameters": asked.parameters,
                    "items": items,
                    "truncated": truncated,
                    "next": None,
                }
            )
        else:
            show_table(columns, items, headings)
        if truncated:
            click.echo(f"huizhi: the first {limit:,} rows; csv and xlsx have all", err=True)
        return 0

    return with_pool(settings, "audit", work)


def _list(params: tuple[str, ...], lang: str, output: str) -> int:
    import asyncio

    from reconciler.audit import AUDIT
    from runtime import Problem

    if params:
        raise Problem("--param is for a query; name one before it")
    if output == "json":
        show_json({"items": [query.described() for query in AUDIT.values()], "next": None})
        return 0
    items = [
        {
            "query": query.name,
            "parameters": ", ".join(map(_spelt, query.parameters)),
            "question": query.question.zh if lang == "zh" else query.question.en,
        }
        for query in AUDIT.values()
    ]
    asyncio.run(show_list(one_page(items), ("query", "parameters", "question"), output))
    return 0


def _spelt(parameter: Any) -> str:
    """Return a parameter as people read it: `[account]` is optional, `minutes=10` has a default."""
    if parameter.default is not None:
        return f"{parameter.name}={parameter.default}"
    return str(parameter.name) if parameter.required else f"[{parameter.name}]"


def _given(params: tuple[str, ...]) -> dict[str, str]:
    from runtime import Problem

    given: dict[str, str] = {}
    for param in params:
        name, sign, value = param.partition("=")
        if not sign or not name:
            raise Problem(f"--param {param[:64]!r}: expected NAME=VALUE, such as period=2026-10")
        if name in given:
            raise Problem(f"--param {name[:64]!r}: given twice")
        given[name] = value
    return given
