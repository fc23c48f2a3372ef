"""`huizhi segments`: why a text counts as that many."""

import rich_click as click

from gateways.segments import Rule, Unit, explain
from huizhi.options import output_option, show_json


@click.command()
@click.argument("text")
@click.option("--sign", help="The sign (签名), with or without its 【】.")
@click.option(
    "--rule",
    type=click.Choice([rule.value for rule in Rule]),
    default=Rule.DOMESTIC.value,
    show_default=True,
)
@click.option(
    "--unit",
    type=click.Choice([unit.value for unit in Unit]),
    default=Unit.UTF16.value,
    show_default=True,
    help="What the domestic rule counts as one character.",
)
@output_option("table", "json")
def segments(text: str, sign: str | None, rule: str, unit: str, output: str) -> None:
    """Explain how many segments (条) TEXT is billed as."""
    explanation = explain(text, sign, Rule(rule), Unit(unit))
    if output == "json":
        show_json(explanation)
        return
    for line in explanation.lines:
        click.echo(line)
