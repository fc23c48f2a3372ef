"""The settings a command was given, and `huizhi check-config`."""

import logging
from pathlib import Path

import rich_click as click

from runtime import logs
from runtime.settings import AccountSettings, Settings, load

_GUESSABLE = 16


def config_file() -> Path | None:
    """The file that `--config` names, before the command or after it."""
    context = click.get_current_context()
    assert context is not None
    named: Path | None = context.find_root().obj
    return named


def settings(*, service: bool = False) -> Settings:
    """Load the settings of the running command; from here on logs leave out their secrets.

    A service logs as they say, any other command warnings. Raises `SettingsError`.
    """
    read = load(config_file())
    level = read.logs.number if service else logging.WARNING
    logs.configure(secrets=read.secrets, level=level)
    return read


@click.command()
@click.option(
    "--output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="How to show it.",
)
def check_config(output: str) -> None:
    """Check the settings and the secrets that they name, and start nothing.

    Says what they mean and exits with 0, or names file, key and what was expected and exits with 2.
    """
    read = settings()
    database = "as [database] url or DATABASE_URL says"
    if read.database.url is None:
        database = f"embedded, in {read.data_dir}"
    receiver, reconciler = read.receiver, read.reconciler
    if output == "json":
        _show_json(read)
        return
    click.echo(f"{read.file} is in order.")
    click.echo(f"  database    {database}")
    click.echo(f"  receiver    {receiver.host}:{receiver.port}, workers: {receiver.workers}")
    click.echo(f"  reconciler  {reconciler.host}:{reconciler.port}")
    for name, account in read.accounts.items():
        click.echo(f"  account     {name} at {account.gateway.vendor}, {_tariffs(account)}")
    for note in _notes(read):
        click.echo(f"  note        {note}")


def _show_json(read: Settings) -> None:
    import msgspec

    told = {
        "file": str(read.file),
        "database": "embedded" if read.database.url is None else "given",
        "data_dir": str(read.data_dir),
        "receiver": {
            "host": read.receiver.host,
            "port": read.receiver.port,
            "workers": read.receiver.workers,
        },
        "reconciler": {"host": read.reconciler.host, "port": read.reconciler.port},
        "accounts": [
            {
                "account": name,
                "gateway": account.gateway.name,
                "takes_callbacks": bool(account.callback_tokens),
                "tariffs": [
                    {
                        "from": tariff.start,
                        "price": f"{tariff.price.normalize():f}",
                        "currency": tariff.currency,
                        "basis": tariff.basis,
                    }
                    for tariff in account.tariffs
                ],
            }
            for name, account in read.accounts.items()
        ],
        "notes": _notes(read),
    }
    click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())


def _notes(read: Settings) -> list[str]:
    """Say what is allowed and hardly meant."""
    notes = []
    for name, account in read.accounts.items():
        if not account.callback_tokens:
            notes.append(f"{name} has no callback_tokens: it takes no callbacks")
        if any(len(token.reveal()) < _GUESSABLE for token in account.callback_tokens):
            notes.append(
                f"{name} has a callback token of less than {_GUESSABLE} characters:"
                " it can be guessed"
            )
    for name, other in read.sharing():
        notes.append(f"{name} has the credentials of {other}: each takes the other's reports")
    if not read.accounts:
        notes.append("there is no account: every callback gets 404")
    return notes


def _tariffs(account: AccountSettings) -> str:
    if not account.tariffs:
        return "no tariff yet: its statements cannot be reconciled"
    newest = account.tariffs[-1]
    return (
        f"{newest.price.normalize():f} {newest.currency} per {newest.basis} segment"
        f" from {newest.start}"
    )
