"""`huizhi keyword`: what vendors say of a text before it is sent."""

import sys
from collections.abc import Mapping

import rich_click as click

from huizhi import cli_config
from huizhi.options import (
    offered,
    output_option,
    say,
    show_json,
    with_callers,
    writing,
)
from huizhi.progress import shown
from reconciler import answers
from reconciler.poll import Caller
from runtime import Problem

_FORBIDDEN = 1
_UNTOLD = 2


@click.group()
def keyword() -> None:
    """Forbidden words (敏感词): have the vendor check a text for them."""


@keyword.command()
@click.argument("text")
@click.option("--account", required=True, help="As the settings name it.")
@output_option("table", "json")
@writing("keyword check")
def check(text: str, account: str, output: str) -> int:
    """Ask the vendor whether TEXT holds forbidden words; - reads it from standard input.

    Exits 0 if it holds none, 1 if it does, 2 or more if that cannot be told.
    """
    settings = cli_config.settings()
    offered(settings, account, "check_keyword", "keyword check")
    content = _content(text)

    async def work(asking: Mapping[str, Caller]) -> int:
        with shown("Asking the vendor"):
            answer = await answers.check_keyword(asking[account], content)
        if output == "json":
            show_json({"account": account, "clean": answer.positive, "words": answer.words})
        else:
            click.echo(answer.words)
        if answer.positive is None:
            say(f"{account}: the vendor's words do not say whether the text is clean")
            return _UNTOLD
        return 0 if answer.positive else _FORBIDDEN

    return with_callers(settings, "keyword check", work)


def _content(text: str) -> str:
    try:
        if text == "-":
            text = sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
        text.encode("utf-8")
    except UnicodeError:
        raise Problem("the text is not UTF-8") from None
    if not text:
        raise Problem("the text is empty")
    return text
