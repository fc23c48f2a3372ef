"""`huizhi segments`: why a text counts as that many."""

import re
from datetime import datetime
from decimal import Decimal

import rich_click as click

from gateways.segments import Rule, Unit, explain
from huizhi import cli_config
from huizhi.options import account_of, output_option, show_json
from reconciler.reading import sent
from runtime import Problem

_PRICE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,12})?")


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
@click.option(
    "--price", help="What a segment costs, instead of the account's tariff of today: 0.035."
)
@output_option("table", "json")
def segments(
    text: str,
    sign: str | None,
    rule: str | None,
    unit: str | None,
    account: str | None,
    price: str | None,
    output: str,
) -> None:
    """Explain how many segments (条) TEXT is billed as, and what would make it cheaper."""
    cost, currency = None, None
    usual_rule, usual_unit = Rule.DOMESTIC, Unit.UTF16
    if account is not None:
        chosen = account_of(cli_config.settings(), account)
        usual_rule, usual_unit = chosen.rule, chosen.unit
        tariff = chosen.tariff_on(datetime.now(chosen.account.zone).date())
        if tariff is not None:
            cost, currency = tariff.price, tariff.currency
    if price is not None:
        if not _PRICE.fullmatch(price):
            raise Problem(f"--price: {price[:40]!r} is no price, such as 0.035")
        cost = Decimal(price)
    chosen_rule, chosen_unit = Rule(rule or usual_rule), Unit(unit or usual_unit)
    told = sent.explained(text, sign, chosen_rule, chosen_unit, price=cost, currency=currency)
    if output == "json":
        show_json(told)
        return
    for line in explain(text, sign, chosen_rule, chosen_unit).lines:
        click.echo(line)
    for change in told["cheaper"]:
        click.echo(change["words"])
