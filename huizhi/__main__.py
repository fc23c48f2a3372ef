"""`huizhi`: a table of commands, each imported when called, and the one place they fail in."""

import importlib
import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import rich_click as click

from huizhi import manual

COMPLETION_VARIABLE = "_HUIZHI_COMPLETE"
_HELP = ["-h", "--help"]

# Name: where the command is, and what `huizhi --help` says of it.
COMMANDS = {
    "init": ("huizhi.init:init", "Write huizhi.toml for an account at a vendor."),
    "check-config": ("huizhi.cli_config:check_config", "Check huizhi.toml, and start nothing."),
    "doctor": ("huizhi.doctor:doctor", "Say what is not as it should be, and what to do."),
    "completion": ("huizhi.completion:completion", "Print a shell's completion script."),
    "migrate": ("huizhi.cli_migrate:migrate", "Bring the database to this version's schema."),
    "serve": ("huizhi.serve:serve", "Run everything: receivers, reconciler, database."),
    "receiver": ("huizhi.serve:receiver", "Run the internet-facing side only."),
    "reconciler": ("huizhi.serve:reconciler", "Run the internal side only: API and jobs."),
    "send": ("huizhi.send:send", "Send a text through an account's vendor, once."),
    "sent": ("huizhi.ledger:sent", "Register sent messages from a file."),
    "poll": ("huizhi.poll:poll", "Ask the vendors once, now, for what is missing."),
    "replay": ("huizhi.replay:replay", "Parse stored bytes again with today's parsers."),
    "retention": ("huizhi.retention:retention", "Purge what is old enough (留存), or say what."),
    "erase": ("huizhi.erase:erase", "Erase one number everywhere on request (删除权)."),
    "statement": ("huizhi.statement:statement", "Import and list vendors' bills."),
    "reconcile": ("huizhi.reconcile:reconcile", "Hold a bill against the ledger."),
    "backup": ("huizhi.backup:backup", "Back up the database and what waits for it."),
    "restore": ("huizhi.backup:restore", "Restore a backup into an empty database."),
    "evidence": ("huizhi.evidence:evidence", "Pack a reconciliation with all its evidence."),
    "chain": ("huizhi.chain:chain", "Check the chain over everything recorded."),
    "suspects": ("huizhi.suspects:suspects", "Accept or reject reports that fall short of trust."),
    "arrivals": ("huizhi.alarms:arrivals", "Say how soon receipts come, as learned."),
    "alarms": ("huizhi.alarms:alarms", "List what a person should know of."),
    "alerts": ("huizhi.alerts:alerts", "Try the ways by which people are told of alarms."),
    "drift": ("huizhi.drift:drift", "List what is new in vendors' documents."),
    "callback": ("huizhi.callback:callback", "Say what became of a callback."),
    "discrepancy": ("huizhi.discrepancy:discrepancy", "Work on what reconciling found."),
    "credit": ("huizhi.credit:credit", "Import and list vendors' credit notes."),
    "balance": ("huizhi.balance:balance", "Ask what accounts have left."),
    "inbound": ("huizhi.inbound:inbound", "List messages from handsets (上行)."),
    "keyword": ("huizhi.keyword:keyword", "Have a text checked for forbidden words."),
    "audit": ("huizhi.audit:audit", "Ask the billing audit queries."),
    "sign": ("huizhi.reviews:sign", "Submit signs (签名) for review, follow their verdicts."),
    "template": ("huizhi.reviews:template", "Submit templates (模板), follow their verdicts."),
    "password": ("huizhi.password:password", "Change an account's password at its vendor."),
    "token": ("huizhi.token:token", "Make and revoke tokens for the API."),
    "actions": ("huizhi.actions:actions", "List what operators did."),
    "segments": ("huizhi.segments:segments", "Explain how many segments a text is."),
    "sandbox": ("huizhi.sandbox:sandbox", "Run pretend vendors."),
    "demo": ("huizhi.demo:demo", "Play a month with faults, from sending to reconciling."),
}

# What `huizhi --help` shows together.
THEMES = {
    "Set up": ("init", "check-config", "doctor", "completion", "migrate", "token"),
    "Run": ("serve", "receiver", "reconciler", "backup", "restore"),
    "Send and receive": (
        "send",
        "sent",
        "poll",
        "replay",
        "inbound",
        "balance",
        "keyword",
        "sign",
        "template",
        "password",
        "segments",
    ),
    "Keep watch": ("alarms", "alerts", "suspects", "arrivals", "drift", "callback"),
    "Check the bill": ("statement", "reconcile", "discrepancy", "credit", "audit"),
    "Forget": ("retention", "erase"),
    "Prove it": ("evidence", "chain", "actions"),
    "Try it": ("sandbox", "demo"),
}


def _config_option() -> click.Option:
    """`--config FILE`, which may stand before the command or after it."""

    def keep(context: click.Context, _: click.Parameter, value: Path | None) -> None:
        if value is not None:
            context.find_root().obj = value

    return click.Option(
        ["--config"],
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        expose_value=False,
        callback=keep,
        help="Settings; else $HUIZHI_CONFIG, else ./huizhi.toml.",
    )


class Commands(click.RichGroup):
    """Commands that are imported when one is called, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a stand-in that knows the command's name and its line of help."""
        if cmd_name not in COMMANDS:
            return None
        return click.RichCommand(name=cmd_name, short_help=COMMANDS[cmd_name][1])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import the command that `args` begin with."""
        name, stand_in, rest = super().resolve_command(ctx, args)
        if name is None or stand_in is None:
            return name, stand_in, rest
        from runtime import logs

        logs.configure(level=logging.WARNING)
        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        _accept_config(command)
        if set(rest) & set(_HELP):
            manual.describe(name, command)
        return name, command, rest


def _accept_config(command: click.Command) -> None:
    if not any("--config" in parameter.opts for parameter in command.params):
        command.params.append(_config_option())
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _accept_config(inner)


@click.group(
    cls=Commands,
    params=[_config_option()],
    context_settings={"help_option_names": _HELP, "max_content_width": 100},
)
@click.rich_config(
    help_config={
        "command_groups": {
            "huizhi": [{"name": theme, "commands": list(names)} for theme, names in THEMES.items()]
        }
    }
)
@click.version_option(package_name="huizhi", message="%(package)s %(version)s")
def group() -> None:
    """Huizhi (回执) keeps what SMS vendors push, finds what was missed, checks what was billed."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: with its own code, or with 2 and one line on stderr for a mistake."""
    _take_colours()
    try:
        code: Any = group.main(
            arguments, prog_name="huizhi", complete_var=COMPLETION_VARIABLE, standalone_mode=False
        )
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except Exception as error:
        if not isinstance(error, _explained()):
            raise
        _fail(str(error), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _take_colours() -> None:
    """Hear CLICOLOR and CLICOLOR_FORCE; NO_COLOR, which wins, and FORCE_COLOR everything below knows."""
    environment = os.environ
    if environment.get("NO_COLOR"):
        return
    if environment.get("CLICOLOR_FORCE", "0") != "0":
        environment["FORCE_COLOR"] = "1"
    elif environment.get("CLICOLOR") == "0":
        environment["NO_COLOR"] = "1"


def _explained() -> tuple[type[Exception], ...]:
    from gateways.errors import GatewayError
    from runtime import Problem

    return Problem, GatewayError


def _fail(text: str, code: int) -> NoReturn:
    from runtime.logs import Redaction

    click.echo(f"huizhi: {Redaction()(' '.join(text.split()))}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
