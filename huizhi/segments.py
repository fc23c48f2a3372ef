"""`huizhi segments`: why a text counts as that many."""

import rich_click as click

from gateways.segments import Rule, Unit, explain
from huizhi import cli_config
from huizhi.options import account_of, output_option, show_json


@click.command()
@click.argument("text")
@click.option("--sign", help="The sign (签名), with or without its 【】.")
@click.option(
    "--rule",
    type=click.Choice([rule.value for rule in Rule]),
    help=f"Instead of the account's; without an account {Rule.DOMESTIC.value}.",
)
@click.option(
    "--unit",
    type=click.Choice([unit.value for unit in Unit]),
    help=(
        "What the domestic rule counts as one character, instead of the account's; "
        f"without an account {Unit.UTF16.value}."
    ),
)
@click.option("--account", help="Count as this account of the settings does.")
@output_option("table", "json")
def segments(
    text: str,
    sign: str | None,
    rule: str | None,
    unit: str | None,
    account: str | None,
    output: str,
) -> None:
    """Explain how many segments (条) TEXT is billed as."""
    usual_rule, usual_unit = Rule.DOMESTIC, Unit.UTF16
    if account is not None:
        chosen = account_of(cli_config.settings(), account)
        usual_rule, usual_unit = chosen.rule, chosen.unit
    explanation = explain(text, sign, Rule(rule or usual_rule), Unit(unit or usual_unit))
    if output == "json":
        show_json(explanation)
        return
    for line in explanation.lines:
        click.echo(line)
