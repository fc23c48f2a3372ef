"""What commands share: the settings they run with, and how they show what they found."""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import rich_click as click

from gateways.errors import Unsupported
from gateways.http import open_client
from huizhi.progress import counted, shown
from reconciler import actions, exports
from reconciler.cells import moment
from reconciler.jobs import holder
from reconciler.poll import Caller, callers
from reconciler.reading.paging import Page, every
from runtime import Problem
from runtime.database import connected
from runtime.settings import AccountSettings, Settings

WIDE = 250
OUTPUTS = ("table", "json", "csv", "xlsx")
# What of a command's arguments may stand in the record of what operators did: no phone, no text.
_SUBJECT = ("account", "period", "id", "vendor_id", "close", "dry_run", "role")

_written: ContextVar[tuple[str, dict[str, object]] | None] = ContextVar("written", default=None)


def writing(
    name: str, *, unless: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Have the command `name` recorded as something that an operator did, before and after.

    Not where one of its options `unless` is given, with which it only reads.
    """

    def wrap(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            if not any(given.get(option) for option in unless):
                subject = {
                    key: " ".join(map(str, given[key]))
                    if isinstance(given[key], tuple)
                    else given[key]
                    for key in _SUBJECT
                    if given.get(key)
                }
                _written.set((name, subject))
            return command(**given)

        run.writes = name  # type: ignore[attr-defined]
        return run

    return wrap


def account_of(settings: Settings, name: str) -> AccountSettings:
    """Return the account's settings; raises `Problem` naming those there are."""
    try:
        return settings.accounts[name]
    except KeyError:
        known = ", ".join(sorted(settings.accounts)) or "none"
        raise Problem(f"no account {name!r} in {settings.file}; there are: {known}") from None


def names_of(settings: Settings, account: str | None) -> list[str]:
    """Return the accounts that a list is of: the one named, else all; raises as `account_of` does."""
    if account is None:
        return sorted(settings.accounts)
    return [account_of(settings, account).account.name]


def with_pool(
    settings: Settings, name: str, work: Callable[[Any], Coroutine[Any, Any, int]]
) -> int:
    """Run `work` with a pool on the database and return its exit code."""

    async def run() -> int:
        async with connected(settings, name) as pool:
            written = _written.get()
            if written is None:
                return await work(pool)
            async with actions.command(pool, *written) as codes:
                codes.append(await work(pool))
            return codes[0]

    return asyncio.run(run())


def offered(settings: Settings, account: str, call: str, command: str) -> AccountSettings:
    """Return the account's settings; raises `Unsupported` if its vendor has no `call` for `command`."""
    chosen = account_of(settings, account)
    if call not in chosen.gateway.supports:
        raise Unsupported(f"{chosen.gateway.vendor} ({account}) offers no `{command}`")
    return chosen


def with_callers(
    settings: Settings,
    name: str,
    work: Callable[[Mapping[str, Caller]], Coroutine[Any, Any, int]],
) -> int:
    """Run `work` with the accounts' ways to their vendors and return its exit code."""

    async def run(pool: Any) -> int:
        async with open_client() as http:
            return await work(callers(settings, pool, http, recorder=holder()))

    return with_pool(settings, name, run)


def span_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--from` and `--to`, given as `since` and `until`; `span_of` reads them."""
    command = click.option(
        "--to", "until", metavar="TIME", help="Not included; a day begins at midnight."
    )(command)
    return click.option(
        "--from",
        "since",
        metavar="TIME",
        help="2026-10-01, or 2026-10-01 08:00, or with an offset.",
    )(command)


def span_of(
    settings: Settings, account: str | None, since: str | None, until: str | None
) -> tuple[datetime | None, datetime | None]:
    """Read `--from` and `--to`, without an offset in the account's zone; raises `Problem`."""
    zone = settings.timezone if account is None else settings.accounts[account].account.zone
    return _moment("--from", since, zone), _moment("--to", until, zone)


def _moment(option: str, text: str | None, zone: ZoneInfo) -> datetime | None:
    if text is None:
        return None
    try:
        return moment(text, zone)
    except ValueError:
        raise Problem(f"{option}: expected a time such as 2026-10-01 or 2026-10-01 08:00") from None


def output_option(*shapes: str) -> Callable[[Any], Any]:
    """Add `--output`, the first of `shapes` by default."""
    return click.option(
        "--output",
        type=click.Choice(shapes),
        default=shapes[0],
        show_default=True,
        help="How to show it; JSON is the API's.",
    )


def show_json(value: Any) -> None:
    """Print `value` as the API gives it, readable."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


async def show_file(
    rows: AsyncIterator[Mapping[str, Any]],
    columns: Sequence[str],
    output: str,
    headings: Sequence[str] | None = None,
) -> None:
    """Write rows to standard output as a csv or xlsx file."""
    if output == "csv" and sys.stdout.isatty():
        async for chunk in exports.csv_chunks(columns, rows, headings):
            sys.stdout.buffer.write(chunk)
        return
    if sys.stdout.isatty():
        raise Problem("xlsx is not for a terminal: send it to a file with > NAME.xlsx")
    with shown(output) as progress:
        rows = counted(rows, progress)
        if output == "csv":
            async for chunk in exports.csv_chunks(columns, rows, headings):
                sys.stdout.buffer.write(chunk)
            return
        path = await exports.xlsx_file(columns, rows, headings)
    for chunk in exports.file_chunks(path):
        sys.stdout.buffer.write(chunk)


async def show_list(page: Callable[[str | None], Any], columns: Sequence[str], output: str) -> None:
    """Print every row of a list; `page` takes a cursor and returns an awaitable `Page`."""
    rows = every(page)
    if output in ("csv", "xlsx"):
        await show_file(rows, columns, output)
    elif output == "json":
        # As the API gives a list; this is every page of it.
        show_json({"items": [row async for row in rows], "next": None})
    else:
        show_table(columns, [row async for row in rows])


def show_table(
    columns: Sequence[str],
    rows: Sequence[dict[str, Any]],
    headings: Sequence[str] | None = None,
) -> None:
    """Print rows as a table: numbers to the right, lists as words, nothing where there is nothing."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, heading in zip(columns, headings or columns, strict=True):
        numeric = any(isinstance(row[name], int) for row in rows) or "amount" in name
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in columns))
    # In a file or a pipe nothing is folded to the width of a terminal that is not there.
    width = None if sys.stdout.isatty() else WIDE
    Console(highlight=False, markup=False, width=width).print(table)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def one_page(items: list[dict[str, Any]]) -> Callable[[str | None], Any]:
    """Make the only page of a list that is at hand whole."""

    async def page(_: str | None) -> Page:
        return Page(items, None)

    return page


def say(line: str) -> None:
    """Print what went wrong, or is to be known, as one line on stderr."""
    click.echo(f"huizhi: {' '.join(line.split())}", err=True)
