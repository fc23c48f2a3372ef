"""`huizhi init`: the first huizhi.toml, and what to do with it."""

import json
import os
import re
import secrets
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import rich_click as click

from gateways import GATEWAYS
from gateways.gateway import Gateway
from huizhi.cli_config import config_file
from huizhi.options import output_option, show_json
from runtime.settings import DEFAULT_FILE, FILE_VARIABLE, SettingsError, parse

# Where a vendor's console takes the callback address, in the console's words. A vendor without an
# entry says so nowhere in public: its support sets the address.
_CONSOLE = {
    "thinkapi": "ThinkAPI's console, 我的服务 -> 短信服务 -> 发信设置, as 回调地址",
    "onecloudsp": "1cloudsp's console at chonry.com, on the page of its statusCallback",
    "itniotech": "no console: send it to your business manager at the vendor, whose staff enter it",
}
_ANYWHERE = "the vendor's console, or its support (客服), as 状态报告推送地址 and 上行推送地址"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@click.command()
@click.option("--gateway", type=click.Choice(list(GATEWAYS)), help="Whose messages they are.")
@click.option("--account", metavar="NAME", help="What you call the account.")
@click.option("--base-url", metavar="URL", help="The vendor's API, where it is not the usual one.")
@click.option(
    "--credential",
    "credentials",
    metavar="KEY=VARIABLE",
    multiple=True,
    help="The environment variable that a credential is in; once for each.",
)
@click.option(
    "--public-url",
    metavar="URL",
    default="http://<your host>:8080",
    show_default=True,
    help="How vendors reach the receiver; only for the address printed here.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@output_option("table", "json")
def init(
    gateway: str | None,
    account: str | None,
    base_url: str | None,
    credentials: tuple[str, ...],
    public_url: str,
    force: bool,
    output: str,
) -> None:
    """Write huizhi.toml for one account, with fresh tokens, and say what comes next.

    Asks for what the options leave open; without a terminal it takes the usual.
    """
    file = config_file() or Path(os.environ.get(FILE_VARIABLE) or DEFAULT_FILE)
    if file.exists() and not force:
        raise SettingsError(f"{file} is there already; --force replaces it, tokens and all")
    ask = sys.stdin.isatty()
    if gateway is None:
        if not ask:
            raise SettingsError(f"--gateway is missing; expected one of {', '.join(GATEWAYS)}")
        gateway = click.prompt("Gateway", type=click.Choice(list(GATEWAYS)))
    chosen = GATEWAYS[gateway]
    if account is None:
        account = f"{gateway}-main"
        if ask:
            account = click.prompt("What you call the account", default=account)
    if base_url is None:
        base_url = chosen.default_base_url
        if ask:
            base_url = click.prompt("The vendor's API", default=base_url)
    variables = _variables(chosen, account, credentials, ask)
    token = secrets.token_urlsafe(24)
    text = _text(chosen, account, base_url, variables, token)
    parse(text, file, dict.fromkeys(variables.values(), "checked-when-it-is-set"))
    _write(file, text, force)
    address = f"{public_url.rstrip('/')}/callbacks/{account}/{token}"
    if output == "json":
        show_json(
            {
                "file": str(file),
                "account": account,
                "gateway": chosen.name,
                "callback_address": address,
                "variables": variables,
            }
        )
    else:
        _say(file, chosen, account, variables, address)


def _variables(gateway: Gateway, account: str, given: tuple[str, ...], ask: bool) -> dict[str, str]:
    """Each credential's key and the environment variable it is in."""
    keys = [field.encode_name for field in msgspec.structs.fields(gateway.credentials)]
    named = {}
    for pair in given:
        key, _, variable = pair.partition("=")
        if key not in keys or not _VARIABLE.fullmatch(variable):
            raise SettingsError(
                f"--credential {key}: expected KEY=VARIABLE with a KEY of {', '.join(keys)} and"
                " the name of an environment variable, not its value"
            )
        named[key] = variable
    for key in keys:
        if key not in named:
            named[key] = re.sub(r"\W", "_", f"{account}_{key}").upper()
            if ask:
                named[key] = click.prompt(f"Environment variable with {key}", default=named[key])
    return {key: named[key] for key in keys}


def _text(
    gateway: Gateway, account: str, base_url: str, variables: dict[str, str], token: str
) -> str:
    kept = ", ".join(f"{key} = {{ env = {_toml(name)} }}" for key, name in variables.items())
    key = account if re.fullmatch(r"[a-z0-9-]+", account) else _toml(account)
    return f"""\
# Huizhi's settings. `huizhi check-config` checks them.
# A secret is "text", {{ env = "NAME" }} or {{ file = "path" }}.

data_dir = "./data"             # embedded PostgreSQL; taken from the folder of this file
timezone = "Asia/Shanghai"      # of vendors' times that name none

# [database]                    # a server of your own in place of the embedded one
# url = {{ env = "DATABASE_URL" }}

[receiver]                      # internet-facing
host = "0.0.0.0"
port = 8080

[reconciler]                    # internal: API, jobs
host = "127.0.0.1"
port = 8081
api_token = {_toml(secrets.token_urlsafe(32))}

[accounts.{key}]
gateway = {_toml(gateway.name)}
base_url = {_toml(base_url)}
credentials = {{ {kept} }}
callback_tokens = [{_toml(token)}]

# What a billed segment costs, from a day on; reconciling needs it. Add another for a new price.
# [[accounts.{key}.tariffs]]
# from = {datetime.now(UTC):%Y-%m}-01
# price = "0.035"
# currency = "CNY"
# basis = "delivered"           # or "submitted": what the vendor charges for
"""


def _toml(text: str) -> str:
    """`text` as a TOML key or string; JSON's strings are TOML's."""
    return json.dumps(text, ensure_ascii=False)


def _write(file: Path, text: str, force: bool) -> None:
    """Put `text` into `file`, mode 600, whole or not at all."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)  # mode 600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as written:
                written.write(text)
            if force:
                Path(name).replace(file)
            else:
                os.link(name, file)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror}") from error


def _say(
    file: Path, gateway: Gateway, account: str, variables: dict[str, str], address: str
) -> None:
    with_config = "" if file == Path(DEFAULT_FILE) else f" --config {file}"
    click.echo(
        f"Wrote {file} for {account} at {gateway.vendor}: mode 600, it holds fresh tokens.\n"
    )
    click.echo("The callback address; who knows it can push, so keep it as you keep a password:\n")
    click.echo(f"  {address}\n")
    if gateway.reports:
        click.echo(f"It goes into {_CONSOLE.get(gateway.name, _ANYWHERE)}.\n")
    else:
        click.echo("This vendor is not known to push anything: it has to be entered nowhere.\n")
    click.echo("Next:\n")
    for key, variable in variables.items():
        click.echo(f"  export {variable}=...    # {key}, as the vendor gave it to you")
    click.echo(f"  huizhi check-config{with_config}")
    click.echo(f"  huizhi serve{with_config}")
    click.echo(f"\nBefore the first statement: the tariff, at the end of {file}.")
