"""`huizhi chain`: the chain over everything recorded."""

import re
from pathlib import Path
from typing import Any

import rich_click as click

from huizhi import cli_config
from huizhi.options import output_option, say, show_json, with_pool


@click.group()
def chain() -> None:
    """The chain over everything recorded: anchor its head, check it."""


@chain.command("head")
@click.option(
    "--to",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write it there as JSON.",
)
@output_option("table", "json")
def head(to: Path | None, output: str) -> int:
    """Print the newest link, to be kept outside: on paper, in a mail, with a notary.

    Who has it can tell a chain that was made anew, or cut off, from this one.
    """
    import msgspec

    from reconciler import chain as chains

    async def work(pool: Any) -> int:
        async with pool.acquire() as connection:
            found = await chains.head(connection)
        if to is not None:
            _write(to, msgspec.json.encode(found) + b"\n")
        if output == "json":
            show_json(found)
        elif to is None:
            click.echo(
                f"height  {found.height}\nhash    {found.hash}\ntime    {found.linked_at or ''}"
            )
        return 0

    return with_pool(cli_config.settings(), "chain", work)


def hash_of(text: str) -> bytes:
    """Read a link's hash from `--head`; raises `Problem`."""
    from runtime import Problem

    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise Problem("--head: expected 64 hexadecimal digits, as `huizhi chain head` prints them")
    return bytes.fromhex(text)


def _write(to: Path, text: bytes) -> None:
    from runtime import Problem

    try:
        to.write_bytes(text)
    except OSError as error:
        raise Problem(f"{to} cannot be written: {error.strerror}") from None


@chain.command("verify")
@click.option(
    "--head", "anchored", metavar="HASH", help="A head kept outside: must be of this chain."
)
@output_option("table", "json")
def verify(anchored: str | None, output: str) -> int:
    """Check every link, and all that was linked, against what is stored.

    Names what was changed, dropped or added, and the link that it shows in. Exits 0 if nothing was, else 1.
    """
    from huizhi.progress import shown
    from reconciler import chain as chains

    hash = None if anchored is None else hash_of(anchored)

    async def work(pool: Any) -> int:
        faults = []
        async with pool.acquire() as connection:
            found = await chains.head(connection)
            with shown("chain") as progress:
                async for fault in chains.verify(
                    connection,
                    hash,
                    progress=lambda height: progress(
                        f"{height:,} of {found.height:,} links", height / found.height
                    ),
                ):
                    faults.append(fault)
                    if output == "table":
                        say(fault.what)
        if output == "json":
            show_json({"head": found, "faults": faults})
        else:
            click.echo(f"{found.height} links, {len(faults)} faults")
        return 1 if faults else 0

    return with_pool(cli_config.settings(), "chain", work)
