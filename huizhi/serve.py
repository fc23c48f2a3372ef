"""`huizhi serve`, `receiver` and `reconciler`: the services."""

import rich_click as click

from huizhi.cli_config import settings
from huizhi.processes import run


@click.command()
def serve() -> None:
    """Run everything: receivers, the reconciler with its API and jobs, and the database if need be.

    Stops cleanly on SIGTERM or Ctrl-C: callbacks under way are answered, what waits is stored.
    """
    run(settings(service=True), receiver=True, reconciler=True)


@click.command()
def receiver() -> None:
    """Run the internet-facing side only: the callbacks' target."""
    run(settings(service=True), receiver=True, reconciler=False)


@click.command()
def reconciler() -> None:
    """Run the internal side only: API and jobs."""
    run(settings(service=True), receiver=False, reconciler=True)
