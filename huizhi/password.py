"""`huizhi password`: an account's password at its vendor."""

import logging
import os
import sys
from collections.abc import Mapping

import rich_click as click

from gateways.errors import Garbled, Indeterminate
from gateways.gateway import Secret
from huizhi import cli_config
from huizhi.options import (
    offered,
    output_option,
    show_json,
    with_callers,
    writing,
)
from huizhi.progress import shown
from reconciler import answers
from reconciler.poll import Caller
from runtime import Problem, logs
from runtime.database import DATABASE_ERRORS


@click.group()
def password() -> None:
    """Passwords of accounts at their vendors."""


@password.command()
@click.option("--account", required=True, help="As the settings name it.")
@click.option(
    "--from-env", "variable", metavar="NAME", help="Take the new one from this variable; else asks."
)
@output_option("table", "json")
@writing("password change")
def change(account: str, variable: str | None, output: str) -> int:
    """Give an account a new password at its vendor, which is asked for without showing it.

    It is kept nowhere: write it where the settings take the account's credentials from.
    """
    settings = cli_config.settings()
    offered(settings, account, "change_password", "password change")
    new = _new_password(variable)
    logs.configure(secrets=[*settings.secrets, new], level=logging.WARNING)
    either = "either password may hold: try the new one first, then the old one"
    credentials = f"[accounts.{account}] credentials in {settings.file}"

    async def work(asking: Mapping[str, Caller]) -> int:
        try:
            with shown("Asking the vendor"):
                answer = await answers.change_password(asking[account], new)
        except (Indeterminate, Garbled) as error:
            raise Problem(f"{error}; {either}") from error
        except DATABASE_ERRORS as error:
            kind = type(error).__name__
            raise Problem(f"the reply could not be kept ({kind}); {either}") from error
        if answer.positive is None:
            raise Problem(f"the vendor says: {answer.words}; {either}")
        if not answer.positive:
            raise Problem(f"the vendor says: {answer.words}; the old password holds")
        if output == "json":
            show_json({"account": account, "words": answer.words})
            return 0
        click.echo(f"The password of {account} is changed. The vendor says: {answer.words}")
        click.echo(f"Now change {credentials}, or what they name, and start the service again:")
        click.echo("until then every call for this account is refused.")
        return 0

    return with_callers(settings, "password change", work)


def _new_password(variable: str | None) -> Secret:
    if variable is not None:
        text = os.environ.get(variable, "")
        if not text:
            raise Problem(f"{variable} is not set")
    elif sys.stdin.isatty():
        text = click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        raise Problem("no terminal to ask at for the new password: give --from-env NAME")
    if len(text) < answers.SHORTEST_PASSWORD:
        raise Problem(f"a password has at least {answers.SHORTEST_PASSWORD} characters")
    try:
        text.encode("utf-8")
    except UnicodeError:
        raise Problem("the password is not UTF-8") from None
    return Secret(text)
