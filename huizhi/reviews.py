"""`huizhi sign` and `huizhi template`: what a vendor reviews before it may be sent."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import rich_click as click

from gateways.errors import Garbled, Indeterminate
from gateways.events import ReviewKind, ReviewStatus
from huizhi import cli_config
from huizhi.options import (
    OUTPUTS,
    offered,
    output_option,
    show_json,
    show_list,
    show_table,
    with_callers,
    with_pool,
    writing,
)
from huizhi.progress import shown
from reconciler import reviews
from reconciler.poll import Caller
from reconciler.reading import paging, reviewed
from runtime import Problem
from runtime.settings import AccountSettings, Settings

_WARNED = 2
# What the vendor must offer for each command.
_CALLS = {
    "add": "add_review",
    "modify": "modify_review",
    "query": "query_review",
    "delete": "delete_review",
    "list": "query_review",
}


@click.group()
def sign() -> None:
    """Signs (签名): submit them for review, ask for verdicts, list and delete them."""


@click.group()
def template() -> None:
    """Templates (模板): submit them for review, ask for verdicts, list and delete them."""


def _add_commands(group: click.Group, kind: ReviewKind) -> None:
    """Give `group` its commands; a template has a content, a sign has none."""

    def submission(command: Callable[..., Any]) -> Callable[..., Any]:
        command = output_option("table", "json")(command)
        command = click.option("--force", is_flag=True, help="Submit in spite of warnings.")(
            command
        )
        command = click.option(
            "--remark", required=True, help="What it is for; reviewers want the use and a website."
        )(command)
        if kind == ReviewKind.TEMPLATE:
            command = click.option(
                "--content", required=True, help="The text, its variables written ${name}."
            )(command)
        command = click.option(
            "--name", required=True, help="What it is called; of a sign: the sign."
        )(command)
        return click.option("--account", required=True, help="As the settings name it.")(command)

    @group.command("add", help=f"Submit a new {kind} for review; its id is in the answer.")
    @submission
    @writing(f"{kind} add")
    def add(**given: Any) -> int:
        return _submit(kind, None, **given)

    @group.command("modify", help=f"Submit a rejected {kind} again, corrected, under its ID.")
    @click.argument("vendor_id", metavar="ID")
    @submission
    @writing(f"{kind} modify")
    def modify(vendor_id: str, **given: Any) -> int:
        return _submit(kind, vendor_id, **given)

    @group.command("query", help=f"Ask the vendor now about the {kind} ID, known here or not.")
    @click.argument("vendor_id", metavar="ID")
    @click.option("--account", required=True, help="As the settings name it.")
    @output_option("table", "json")
    @writing(f"{kind} query")
    def query(vendor_id: str, account: str, output: str) -> int:
        settings = cli_config.settings()
        _offered(settings, account, kind, "query")
        return _ask(
            settings, account, kind, output, lambda caller: reviews.query(caller, kind, vendor_id)
        )

    @group.command("delete", help=f"Delete the {kind} ID at the vendor, whatever became of it.")
    @click.argument("vendor_id", metavar="ID")
    @click.option("--account", required=True, help="As the settings name it.")
    @output_option("table", "json")
    @writing(f"{kind} delete")
    def delete(vendor_id: str, account: str, output: str) -> int:
        settings = cli_config.settings()
        _offered(settings, account, kind, "delete")

        async def work(caller: Caller) -> dict[str, Any]:
            try:
                return await reviews.delete(caller, kind, vendor_id)
            except (Indeterminate, Garbled) as error:
                look = f"`huizhi {kind} query {vendor_id} --account {account}` tells"
                raise Problem(f"{error}; it may have been deleted: {look}") from error

        return _ask(settings, account, kind, output, work)

    @group.command(
        "list", help=f"List the {kind}s known here, with the vendor's last word on each."
    )
    @click.option("--account", help="Only this account; else all.")
    @click.option(
        "--status",
        type=click.Choice([status.value for status in ReviewStatus]),
        help="Only those that stand so.",
    )
    @output_option(*OUTPUTS)
    def list_(account: str | None, status: str | None, output: str) -> int:
        settings = cli_config.settings()
        if account is not None:
            _offered(settings, account, kind, "list")
        accounts = list(settings.accounts) if account is None else [account]

        async def work(pool: Any) -> int:
            async with pool.acquire() as connection:
                await show_list(
                    lambda cursor: reviewed.reviews(
                        connection,
                        accounts,
                        kind,
                        status=status,
                        cursor=cursor,
                        limit=paging.MAX_LIMIT,
                    ),
                    _columns(kind),
                    output,
                )
            return 0

        return with_pool(settings, f"{kind} list", work)


def _submit(
    kind: ReviewKind,
    vendor_id: str | None,
    *,
    account: str,
    name: str,
    remark: str,
    force: bool,
    output: str,
    content: str | None = None,
) -> int:
    settings = cli_config.settings()
    gateway = _offered(settings, account, kind, "add" if vendor_id is None else "modify").gateway
    warnings = gateway.check_review(kind, name, content) if gateway.check_review else ()
    for warning in warnings:
        how = "" if force else "; --force submits it all the same"
        click.echo(f"huizhi: warning: {warning}{how}", err=True)
    if warnings and not force:
        return _WARNED

    async def work(caller: Caller) -> dict[str, Any]:
        try:
            return await reviews.submit(
                caller, kind, name=name, content=content, remark=remark, vendor_id=vendor_id
            )
        except (Indeterminate, Garbled) as error:
            look = (
                "look into the vendor's console before submitting it again"
                if vendor_id is None
                else f"`huizhi {kind} query {vendor_id}` tells"
            )
            raise Problem(f"{error}; it may have been submitted: {look}") from error

    return _ask(settings, account, kind, output, work)


def _offered(settings: Settings, account: str, kind: ReviewKind, command: str) -> AccountSettings:
    return offered(settings, account, _CALLS[command], f"{kind} {command}")


def _ask(
    settings: Settings,
    account: str,
    kind: ReviewKind,
    output: str,
    work: Callable[[Caller], Coroutine[Any, Any, dict[str, Any]]],
) -> int:
    """Show what `work` brings of the vendor."""

    async def asked(asking: Mapping[str, Caller]) -> int:
        with shown("Asking the vendor"):
            row = await work(asking[account])
        if output == "json":
            show_json(row)
        else:
            show_table(_columns(kind), [row])
        return 0

    return with_callers(settings, f"{kind}", asked)


def _columns(kind: ReviewKind) -> tuple[str, ...]:
    return tuple(
        name for name in reviewed.REVIEW_COLUMNS if kind == ReviewKind.TEMPLATE or name != "content"
    )


_add_commands(sign, ReviewKind.SIGN)
_add_commands(template, ReviewKind.TEMPLATE)
