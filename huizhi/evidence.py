"""`huizhi evidence`: a reconciliation with all that it rests on, for who checks it without us."""

from pathlib import Path
from typing import Any
from uuid import UUID

import rich_click as click

from huizhi import cli_config
from huizhi.chain import hash_of
from huizhi.options import output_option, show_json, with_pool


@click.command()
@click.argument("run", type=click.UUID)
@click.option(
    "--to", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.zip", help="Where to."
)
@click.option("--head", metavar="HASH", help="Up to this link, a head kept outside.")
@output_option("table", "json")
def evidence(run: UUID, to: Path | None, head: str | None, output: str) -> int:
    """Write the evidence package of a reconciliation: one zip that proves itself without us.

    It holds phone numbers. RUN is the `id` of a reconciliation; FILE is evidence-RUN.zip by default.
    """
    from huizhi.progress import shown
    from reconciler import evidence as packages
    from reconciler.jobs import holder
    from runtime import LeaseLost, Problem

    hash = None if head is None else hash_of(head)
    path = to or Path(f"evidence-{run}.zip")
    if not path.parent.is_dir():
        raise Problem(f"there is no folder {path.parent}")

    async def work(pool: Any) -> int:
        with shown("evidence") as progress:
            async with pool.acquire() as connection:
                try:
                    reached = await packages.write(
                        pool,
                        connection,
                        run,
                        path,
                        holder=holder(),
                        head=hash,
                        patience_seconds=packages.LONG_PATIENCE_SECONDS,
                        progress=lambda stage: progress(stage, None),
                    )
                except LeaseLost as error:
                    raise Problem(f"{error}; try again") from None
        if output == "json":
            show_json({"file": str(path), "bytes": path.stat().st_size, "head": reached})
            return 0
        click.echo(f"{path}  {path.stat().st_size:,} bytes")
        click.echo(f"its head, to be kept outside: height {reached.height}, hash {reached.hash}")
        return 0

    return with_pool(cli_config.settings(), "evidence", work)
