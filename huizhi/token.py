"""`huizhi token`: who may ask the API, and for what."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import rich_click as click

from huizhi import cli_config
from huizhi.options import (
    OUTPUTS,
    one_page,
    output_option,
    say,
    show_json,
    show_list,
    with_pool,
    writing,
)
from reconciler import tokens
from reconciler.actions import login


@click.group()
def token() -> None:
    """Tokens for the API: a name, a role, an end."""


@token.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(tokens.ROLES), required=True, help="What it may do.")
@click.option(
    "--expires", "days", type=click.IntRange(1, 3650), help="In so many days; else never."
)
@output_option("table", "json")
@writing("token add")
def add(name: str, role: str, days: int | None, output: str) -> int:
    """Make a token and print it, this once: only its hash is kept.

    A name can have two at a time: add the new one, put it in use, revoke the old one.
    """
    settings = cli_config.settings()

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            added = await tokens.add(
                connection, name, role, days=days, by=login(), now=datetime.now(UTC)
            )
        if output == "json":
            show_json(added)
        else:
            say(f"{name}, {role}, id {added.id}, ends {added.expires_at or 'never'}; keep this:")
            click.echo(added.token)
        return 0

    return with_pool(settings, "token add", work)


@token.command("list")
@output_option(*OUTPUTS)
def list_(output: str) -> int:
    """List the tokens that there are and were, without what they are; those made last first."""
    settings = cli_config.settings()

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            found = await tokens.listed(connection, now=datetime.now(UTC))
        await show_list(one_page(found), tokens.COLUMNS, output)
        return 0

    return with_pool(settings, "token list", work)


@token.command("revoke")
@click.argument("id", type=click.UUID)
@output_option("table", "json")
@writing("token revoke")
def revoke(id: UUID, output: str) -> int:
    """End the token ID at once."""
    settings = cli_config.settings()

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            await tokens.revoke(connection, id, now=datetime.now(UTC))
        if output == "json":
            show_json({"id": str(id), "revoked": True})
        else:
            click.echo(f"revoked {id}")
        return 0

    return with_pool(settings, "token revoke", work)
