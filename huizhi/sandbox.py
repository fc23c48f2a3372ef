"""`huizhi sandbox`: the pretend vendors, as a command."""

import sys
from pathlib import Path

import rich_click as click

import sandbox as vendors
from sandbox.__main__ import main

EXAMPLE = Path(vendors.__file__).with_name("sandbox.toml")


@click.command()
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=EXAMPLE,
    help="The sandbox's own TOML; without it, an example with both vendors.",
)
@click.option("--port", type=int, help="In place of the file's; 0 takes a free one.")
@click.option("--port-file", type=click.Path(), help="Write the port there once it listens.")
def sandbox(config: Path, port: int | None, port_file: str | None) -> int:
    """Run pretend vendors: they take sends, push once, answer queries, and write bills."""
    sys.argv = ["huizhi sandbox", "--config", str(config)]
    if port is not None:
        sys.argv += ["--port", str(port)]
    if port_file is not None:
        sys.argv += ["--port-file", port_file]
    return main()
