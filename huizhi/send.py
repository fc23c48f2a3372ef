"""`huizhi send`: a text to one or more numbers, once."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import rich_click as click

from gateways.gateway import Call
from huizhi import cli_config
from huizhi.options import (
    offered,
    output_option,
    show_json,
    show_table,
    with_callers,
    writing,
)
from huizhi.progress import shown
from reconciler import sending
from reconciler.poll import Caller
from runtime import Problem

_NOT_ALL = 1
_COLUMNS = ("phone", "status", "vendor_message_id", "segments", "vendor_code", "reason", "id")


@click.command()
@click.option("--account", required=True, help="As the settings name it.")
@click.option("--phone", "phones", multiple=True, help="A number; give it as often as needed.")
@click.option(
    "--phones",
    "phones_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with a number a line.",
)
@click.option("--content", help="The text without its sign; - reads it from standard input.")
@click.option(
    "--sign", help="The sign (签名), with or without 【】; its id where the vendor wants that."
)
@click.option("--template", "template_id", help="The template's (模板) id at the vendor.")
@click.option(
    "--param", "params", multiple=True, help="A template's variable: NAME=VALUE, or VALUE."
)
@click.option("--reference", help="Your own word for it, to find it by.")
@click.option(
    "--at", "send_at", help="When the vendor is to send it, such as 2026-12-01T09:00:00+08:00."
)
@click.option("--key", help="Idempotency key: what was sent under it before is not sent again.")
@output_option("table", "json")
@writing("send")
def send(
    account: str,
    phones: Sequence[str],
    phones_file: Path | None,
    content: str | None,
    sign: str | None,
    template_id: str | None,
    params: Sequence[str],
    reference: str | None,
    send_at: str | None,
    key: str | None,
    output: str,
) -> int:
    """Send a text, and say of each number what became of it.

    What left and was not answered is `indeterminate` and is never sent again: reports or the
    vendor's bill will tell. The exit code is 0 if every number was taken by the vendor, else 1.
    """
    settings = cli_config.settings()
    offered(settings, account, "send", "send")
    numbers = list(phones)
    if phones_file is not None:
        numbers += [line.strip() for line in phones_file.read_text("utf-8-sig").splitlines()]
    numbers = [number for number in numbers if number]
    if not numbers:
        raise Problem("nobody to send to: give --phone, or --phones with a file")
    request = sending.Request(
        account=account,
        phones=numbers,
        content=sys.stdin.read().rstrip("\n") if content == "-" else content,
        sign=sign,
        template_id=template_id,
        params=_params(params),
        reference=reference,
        send_at=_time(send_at),
    )

    async def work(asking: Mapping[str, Caller]) -> int:
        with shown("Sending"):
            try:
                done = await sending.send(asking[account], request, key, now=datetime.now(UTC))
            except sending.NothingSent as error:
                raise Problem(f"{error}; nothing was sent") from error
        if output == "json":
            show_json(done)
        else:
            show_table(_COLUMNS, done["messages"])
            told = ", ".join(f"{count} {what}" for what, count in done["counts"].items() if count)
            again = " (sent before under this key)" if done["replayed"] else ""
            click.echo(f"{told}{again}; send {done['id']}")
            if dropped := len(done["duplicates"]):
                click.echo(f"{dropped} numbers were given twice and dropped", err=True)
        return 0 if done["status"] == "submitted" else _NOT_ALL

    return with_callers(settings, Call.SEND.value, work)


def _params(given: Sequence[str]) -> sending.Params | None:
    if not given:
        return None
    if all("=" in param for param in given):
        return {name: value for name, _, value in (param.partition("=") for param in given)}
    return list(given)


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        raise Problem(f"--at: {text!r} is no time such as 2026-12-01T09:00:00+08:00") from None
