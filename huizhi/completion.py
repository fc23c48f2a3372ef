"""`huizhi completion`: what a shell needs to complete commands, options and values."""

import rich_click as click
from click.shell_completion import ShellComplete, get_completion_class

from huizhi.__main__ import COMPLETION_VARIABLE


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete commands, options and their values.

    Bash 4.4 or newer, zsh or fish. The script asks `huizhi` itself, so it stays right when Huizhi is
    updated.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    context = click.get_current_context()
    assert context is not None
    # Not bash's own: that one starts a bash only to warn of old ones.
    click.echo(
        ShellComplete.source(kind(context.find_root().command, {}, "huizhi", COMPLETION_VARIABLE))
    )
