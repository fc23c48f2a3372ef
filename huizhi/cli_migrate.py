"""`huizhi migrate`."""

import asyncio

import rich_click as click

from huizhi.cli_config import settings
from huizhi.options import output_option, show_json
from reconciler import actions
from runtime import database
from runtime.migrate import migrate as apply


@click.command()
@output_option("table", "json")
def migrate(output: str) -> None:
    """Bring the database to the schema of this version; what is applied already is left alone.

    Safe to call from several machines at once. It never goes back.
    """
    read = settings()
    with database.server(read) as embedded:
        found = database.of(read, embedded, "migrate")

        async def run() -> list[str]:
            async with found.connection() as connection:
                applied = await apply(connection)
            # Only now there is a record to write to for sure.
            if applied:
                async with found.pool() as pool, actions.command(pool, "migrate", {}):
                    pass
            return applied

        applied = asyncio.run(run())
    if output == "json":
        show_json({"applied": applied})
        return
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("nothing to apply: the database has this version's schema")
