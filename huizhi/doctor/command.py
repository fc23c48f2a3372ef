"""The command: examines in order what it can, whatever else is broken, and shows what it found."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import rich_click as click

from huizhi.cli_config import config_file
from huizhi.doctor.finding import Finding, failed, not_checked, ok
from huizhi.doctor.machine import examine_channels, examine_machine, examine_ports
from huizhi.doctor.store import Known, examine_database
from huizhi.doctor.vendors import examine_vendors
from huizhi.options import account_of, output_option, show_json, show_table
from huizhi.progress import shown
from runtime import Problem, logs
from runtime import database as databases
from runtime.embedded import Embedded
from runtime.logs import Redaction
from runtime.settings import AccountSettings, Settings, SettingsError, load

_COLUMNS = ("result", "check", "account", "found", "advice")
_TONES = {"ok": "green", "warning": "yellow", "failed": "bold red", "not checked": "dim"}


@click.command()
@click.option("--account", metavar="NAME", help="Ask only this account's vendor; else all.")
@click.option("--offline", is_flag=True, help="Ask no vendor.")
@output_option("table", "json")
def doctor(account: str | None, offline: bool, output: str) -> int:
    """Examine settings, folders, database, jobs, ports and vendors, and say what to do.

    Works whatever is broken, and while the services run. Asks vendors only for what costs and changes
    nothing. Exits with 1 if anything failed; warnings, and what could not be checked, are no failure.
    """
    try:
        settings = load(config_file())
    except SettingsError as error:
        return _show(
            [
                failed("settings", str(error), "mend that, and examine again"),
                not_checked("everything else", "without settings nobody knows where it is"),
            ],
            Redaction(),
            output,
        )
    logs.configure(secrets=settings.secrets, level=logging.CRITICAL)
    accounts: Mapping[str, AccountSettings] = settings.accounts
    if account is not None:
        accounts = {account: account_of(settings, account)}
    with shown("Examining"):
        found = _examined(settings, accounts, offline)
    return _show(found, Redaction(settings.secrets), output)


def _examined(
    settings: Settings, accounts: Mapping[str, AccountSettings], offline: bool
) -> list[Finding]:
    found = [ok("settings", f"{settings.file} is in order, with {len(settings.accounts)} accounts")]
    found += examine_machine(settings)
    found += examine_channels(settings)
    with contextlib.ExitStack() as stack:
        database: databases.Database | None = None
        try:
            embedded = stack.enter_context(_server(settings))
            database = databases.of(settings, embedded, "doctor")
        except Problem as error:
            found.append(failed("database", str(error), "mend that, and start huizhi serve"))
        except _NoneYet:
            found.append(
                not_checked(
                    "database",
                    "there is none yet: huizhi serve makes it in data_dir, or name one in [database] url",
                )
            )
        found += asyncio.run(_examine(settings, database, accounts, offline))
    return found


class _NoneYet(Exception):
    """There is no embedded database, and to make one is not for an examination."""


@contextlib.contextmanager
def _server(settings: Settings) -> Iterator[Embedded | None]:
    if settings.database.url is None and not (settings.data_dir / "postgres/PG_VERSION").exists():
        raise _NoneYet
    with databases.server(settings) as embedded:
        yield embedded


async def _examine(
    settings: Settings,
    database: databases.Database | None,
    accounts: Mapping[str, AccountSettings],
    offline: bool,
) -> list[Finding]:
    found: list[Finding] = []
    known: dict[str, Known] = {}
    if database is not None:
        found, known = await examine_database(settings, database)
    found += await examine_ports(settings)
    if offline:
        return [*found, not_checked("vendors", "--offline: nobody was asked")]
    if not accounts:
        return [*found, not_checked("vendors", "the settings have no account")]
    return found + await examine_vendors(accounts, known)


def _show(found: Sequence[Finding], redact: Redaction, output: str) -> int:
    rows = [redact.within(msgspec.to_builtins(finding)) for finding in found]
    counts = {result: sum(row["result"] == result for row in rows) for result in _TONES}
    if output == "json":
        show_json({"counts": counts, "items": rows})
    elif sys.stdout.isatty():
        _show_lines(rows)
    else:
        show_table(_COLUMNS, rows)
    if output != "json":
        click.echo()
        click.echo(", ".join(f"{count} {result}" for result, count in counts.items() if count))
    return 1 if counts["failed"] else 0


def _show_lines(rows: Sequence[dict[str, str]]) -> None:
    """Show findings to a person: what to do about one stands below it."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for row in rows:
        about = f"{row['check']} {row['account']}".strip()
        console.print(
            Text.assemble(
                (f"{row['result']:<12}", _TONES[row["result"]]),
                (about, "bold"),
                f"  {row['found']}",
            )
        )
        if row["advice"]:
            console.print(Text(f"{'':<12}-> {row['advice']}"))
