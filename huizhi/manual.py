"""The end of every command's `--help`: exit codes, examples, and the environment it reads.

A table of its own and not in the commands: who adds a command fails a test until its page is here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_WIDTH = 76  # in the 80 columns of a terminal, less the margins
_DEEP = "      "

_DONE = {0: "done"}
_ALL_WELL: Mapping[int, str] = {
    2: "a mistake, or it could not be done: one line on stderr says why",
    130: "interrupted with Ctrl-C",
}
_SETTINGS = {
    "HUIZHI_CONFIG": "the settings, where --config names none",
}
_DATABASE = {**_SETTINGS, "DATABASE_URL": "the database, in place of [database] url"}
_COLOURS = {
    "NO_COLOR": "if set: no colours; CLICOLOR=0 says the same",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What `--help` says of a command after its options."""

    examples: tuple[str, ...]
    exits: Mapping[int, str] = field(default_factory=lambda: _DONE)
    environment: Mapping[str, str] = field(default_factory=lambda: _DATABASE)

    @property
    def codes(self) -> dict[int, str]:
        """Every exit code, in order."""
        return dict(sorted({**_ALL_WELL, **self.exits}.items()))

    @property
    def variables(self) -> dict[str, str]:
        """Every variable that is read."""
        return {**self.environment, **_COLOURS}


_ASKED = {
    0: "every vendor answered",
    2: "one could not be asked or did not answer, or a mistake: stderr says which",
}
_STOPPED = {0: "ended by SIGTERM or Ctrl-C, everything stored"}
_SUBMITTED = {
    0: "submitted",
    2: "warned, and nothing submitted; a mistake; or the vendor refused",
}
_SECRETS = {**_DATABASE, "...": "those in which the settings keep secrets"}

MANUAL = {
    "init": Page(
        examples=(
            "huizhi init",
            "huizhi init --gateway thinkapi --account think-main"
            " --credential app_code=THINK_APP_CODE",
        ),
        exits={0: "the file is written"},
        environment=_SETTINGS,
    ),
    "check-config": Page(
        examples=("huizhi check-config", "huizhi check-config --config /etc/huizhi/huizhi.toml"),
        exits={0: "the settings and the secrets that they name are in order"},
        environment=_SECRETS,
    ),
    "doctor": Page(
        examples=(
            "huizhi doctor",
            "huizhi doctor --account think-main",
            "huizhi doctor --offline --output json",
        ),
        exits={0: "nothing failed; there may be warnings", 1: "something failed"},
        environment=_SECRETS,
    ),
    "completion": Page(
        examples=(
            "huizhi completion bash > ~/.local/share/bash-completion/completions/huizhi",
            'huizhi completion zsh > "${fpath[1]}/_huizhi"',
            "huizhi completion fish > ~/.config/fish/completions/huizhi.fish",
        ),
        environment={},
    ),
    "migrate": Page(
        examples=("huizhi migrate", "huizhi migrate --output json"),
        exits={0: "the database has this version's schema"},
    ),
    "serve": Page(
        examples=("huizhi serve", "huizhi serve --config /etc/huizhi/huizhi.toml"),
        exits=_STOPPED,
        environment=_SECRETS,
    ),
    "receiver": Page(examples=("huizhi receiver",), exits=_STOPPED, environment=_SECRETS),
    "reconciler": Page(examples=("huizhi reconciler",), exits=_STOPPED, environment=_SECRETS),
    "send": Page(
        examples=(
            "huizhi send --account think-main --phone 13509898765 --template 21"
            " --param code=7865 --key order-7",
            "echo 您的订单已发货 | huizhi send --account sms-main --phone 13509898765"
            " --sign 顶想云 --content -",
        ),
        exits={0: "the vendor took every number", 1: "not every one: the table says which"},
        environment=_SECRETS,
    ),
    "sent import": Page(
        examples=(
            "huizhi sent import sent-october.csv",
            "huizhi sent import sent.ndjson --account think-main --output json",
        ),
        exits={0: "every row is registered", 1: "some are not, and are named; the others are"},
    ),
    "poll": Page(
        examples=("huizhi poll", "huizhi poll --account think-main"),
        exits=_ASKED,
        environment=_SECRETS,
    ),
    "replay": Page(
        examples=(
            "huizhi replay --dry-run",
            "huizhi replay --account think-main --from 2026-10-01",
            "huizhi replay --list --output json",
        )
    ),
    "retention": Page(
        examples=("huizhi retention --dry-run", "huizhi retention --account think-main"),
        exits={0: "purged, or nothing was old enough", 1: "another process is purging an account"},
    ),
    "erase": Page(
        examples=("huizhi erase --by wang", "cat number.txt | huizhi erase --output json"),
        exits={
            0: "erased everywhere, or found nowhere",
            1: "some is held back, being sent or settled: erase it again",
        },
    ),
    "statement import": Page(
        examples=(
            "huizhi statement import bill.xlsx --account think-main --period 2026-10 --preview",
            "huizhi statement import bill.xlsx --account think-main --period 2026-10"
            " --expect-amount 1234.50",
        ),
        exits={0: "imported, or known already", 1: "with --preview: it would be refused"},
    ),
    "statement list": Page(
        examples=("huizhi statement list", "huizhi statement list --output csv > statements.csv")
    ),
    "reconcile": Page(
        examples=(
            "huizhi reconcile --account think-main --period 2026-10",
            "huizhi reconcile --account think-main --period 2026-10 --assume price=0.03",
            "huizhi reconcile --account think-main --period 2026-10 --output xlsx > october.xlsx",
        ),
        exits={0: "balanced", 1: "reconciled, with discrepancies"},
    ),
    "evidence": Page(
        examples=(
            "huizhi evidence 0b1e5c1e-7a51-4b2e-9d53-1f6d0e3c2a10",
            "huizhi evidence 0b1e5c1e-7a51-4b2e-9d53-1f6d0e3c2a10 --to october.zip",
        ),
        exits={0: "the package is written, whole"},
    ),
    "chain head": Page(examples=("huizhi chain head", "huizhi chain head --to head.json")),
    "chain verify": Page(
        examples=("huizhi chain verify", "huizhi chain verify --output json"),
        exits={0: "all holds", 1: "something was changed, dropped or added"},
    ),
    "discrepancy list": Page(
        examples=(
            "huizhi discrepancy list --account think-main --state open",
            "huizhi discrepancy list --owner '' --min-age-days 30 --output csv > old.csv",
        )
    ),
    "discrepancy show": Page(
        examples=("huizhi discrepancy show 0b1e5c1e-7a51-4b2e-9d53-1f6d0e3c2a10",)
    ),
    "discrepancy set": Page(
        examples=(
            "huizhi discrepancy set 0b1e5c1e-7a51-4b2e-9d53-1f6d0e3c2a10 --state disputed",
            "huizhi discrepancy set --account think-main --period 2026-10"
            " --kind billed_twice --owner wang",
        )
    ),
    "discrepancy ageing": Page(
        examples=("huizhi discrepancy ageing", "huizhi discrepancy ageing --output xlsx > age.xlsx")
    ),
    "credit import": Page(
        examples=("huizhi credit import credit-notes.csv --account think-main",),
        exits={0: "imported, or known already"},
    ),
    "credit list": Page(
        examples=("huizhi credit list --unallocated", "huizhi credit list --number 2026-118")
    ),
    "balance": Page(
        examples=(
            "huizhi balance",
            "huizhi balance --history --account sms-main --from 2026-10-01",
            "huizhi balance --audit --account sms-main --period 2026-10",
        ),
        exits=_ASKED,
        environment=_SECRETS,
    ),
    "alarms": Page(
        examples=("huizhi alarms", "huizhi alarms --account think-main --ended --output json"),
        exits={0: "listed, also where there is none"},
    ),
    "alerts test": Page(
        examples=("huizhi alerts test", "huizhi alerts test --channel ops --output json"),
        exits={
            0: "every channel took the message",
            1: "one did not: the table says which, and why",
        },
        environment=_SECRETS,
    ),
    "alerts list": Page(
        examples=("huizhi alerts list", "huizhi alerts list --output json"),
        exits={0: "listed, also where there is none"},
        environment=_SECRETS,
    ),
    "suspects list": Page(
        examples=(
            "huizhi suspects list --state waiting",
            "huizhi suspects list --account think-main --reason number_differs --output csv",
        ),
        exits={0: "listed, also where there is none"},
    ),
    "suspects accept": Page(
        examples=(
            "huizhi suspects accept 8f0c7d1e-0000-4000-8000-5d2f9b1c6a70.9a3f"
            ' --note "the vendor confirms it by mail"',
            'huizhi suspects accept --account think-main --reason in_future --note "wrong timezone"',
        ),
        exits={0: "decided, or decided so already"},
    ),
    "suspects reject": Page(
        examples=(
            "huizhi suspects reject --account think-main --reason foreign_network"
            ' --note "not the vendor\'s addresses"',
        ),
        exits={0: "decided, or decided so already"},
    ),
    "arrivals": Page(
        examples=("huizhi arrivals", "huizhi arrivals --account think-main --output json"),
        exits={0: "listed"},
    ),
    "backup": Page(
        examples=(
            'huizhi backup "/backups/huizhi-$(date +%F)"',
            "huizhi backup /backups/now --output json",
        ),
        exits={0: "the folder holds a whole backup", 2: "there is none, and no folder"},
    ),
    "restore": Page(
        examples=("huizhi restore /backups/huizhi-2026-11-01",),
        exits={0: "restored", 2: "nothing was: stderr says why"},
    ),
    "callback show": Page(
        examples=('huizhi callback show "$ID"', 'huizhi callback show "$ID" --output json'),
        exits={0: "told", 2: "no such callback, or a mistake: stderr says which"},
    ),
    "drift": Page(
        examples=("huizhi drift", "huizhi drift --account think-main --all --output csv"),
        exits={0: "listed, also where there is none"},
    ),
    "inbound": Page(
        examples=("huizhi inbound --from 2026-10-01", "huizhi inbound --output csv > inbound.csv")
    ),
    "keyword check": Page(
        examples=("huizhi keyword check 您的订单已发货 --account sms-main",),
        exits={
            0: "the text holds no forbidden words",
            1: "it does",
            2: "that cannot be told; a mistake; or the vendor did not answer",
        },
        environment=_SECRETS,
    ),
    "audit": Page(
        examples=(
            "huizhi audit",
            "huizhi audit duplicate-texts --param period=2026-10 --param minutes=5",
            "huizhi audit by-day --param period=2026-10 --output xlsx > by-day.xlsx",
        )
    ),
    "sign add": Page(
        examples=(
            "huizhi sign add --account think-main --name 顶想云 --remark 'order notices, topthink'",
        ),
        exits=_SUBMITTED,
        environment=_SECRETS,
    ),
    "sign modify": Page(
        examples=("huizhi sign modify 78 --account think-main --name 顶想云 --remark 'a website'",),
        exits=_SUBMITTED,
        environment=_SECRETS,
    ),
    "sign query": Page(
        examples=("huizhi sign query 78 --account think-main",), environment=_SECRETS
    ),
    "sign delete": Page(
        examples=("huizhi sign delete 78 --account think-main",), environment=_SECRETS
    ),
    "sign list": Page(examples=("huizhi sign list", "huizhi sign list --status rejected")),
    "template add": Page(
        examples=(
            "huizhi template add --account think-main --name code"
            " --content '您的验证码是${code}' --remark 'log-in codes'",
        ),
        exits=_SUBMITTED,
        environment=_SECRETS,
    ),
    "template modify": Page(
        examples=(
            "huizhi template modify 234 --account think-main --name code"
            " --content '验证码${code}' --remark 'log-in codes'",
        ),
        exits=_SUBMITTED,
        environment=_SECRETS,
    ),
    "template query": Page(
        examples=("huizhi template query 234 --account think-main",), environment=_SECRETS
    ),
    "template delete": Page(
        examples=("huizhi template delete 234 --account think-main",), environment=_SECRETS
    ),
    "template list": Page(
        examples=("huizhi template list", "huizhi template list --status pending")
    ),
    "password change": Page(
        examples=(
            "huizhi password change --account sms-main",
            "huizhi password change --account sms-main --from-env NEW_PASSWORD",
        ),
        exits={
            0: "the new password holds",
            2: "the old one holds, or either may: one line on stderr says which",
        },
        environment=_SECRETS,
    ),
    "token add": Page(
        examples=(
            "huizhi token add shop --role operator",
            "huizhi token add auditor --role reader --expires 90 --output json",
        ),
        exits={0: "made: what is printed on stdout is shown this once"},
    ),
    "token list": Page(examples=("huizhi token list", "huizhi token list --output json")),
    "token revoke": Page(
        examples=("huizhi token revoke 0b1e5c1e-7a51-4b2e-9d53-1f6d0e3c2a10",),
        exits={0: "the token has ended"},
    ),
    "actions": Page(
        examples=(
            "huizhi actions --from 2026-10-01",
            "huizhi actions --actor shop --what 'POST /v1/sent' --output json",
        ),
        exits={0: "listed, also where there is none"},
    ),
    "segments": Page(
        examples=(
            "huizhi segments 您的验证码是7865 --sign 顶想云",
            "huizhi segments 'Your code is 7865' --rule international --price 0.035",
        ),
        environment=_SETTINGS,
    ),
    "sandbox": Page(
        examples=("huizhi sandbox", "huizhi sandbox --config sandbox.toml --port 0"),
        exits=_STOPPED,
        environment={},
    ),
    "demo": Page(
        examples=("huizhi demo", "huizhi demo --messages 2000 --keep"),
        exits={
            0: "everything injected was found, and nothing else",
            1: "something was not, or was invented",
        },
        environment={},
    ),
}


def describe(name: str, command: Any) -> None:
    """Put its page at the end of a command's help; of a group, at that of each of its commands."""
    if hasattr(command, "commands"):
        for inner, each in command.commands.items():
            describe(f"{name} {inner}", each)
    elif page := MANUAL.get(name):
        command.epilog = _text(page)


def _text(page: Page) -> Any:
    from rich.text import Text

    text = Text()
    text.append("Exit codes\n", "bold")
    for code, meaning in page.codes.items():
        text.append(f"  {code:>3}  {meaning}\n")
    text.append("\nExamples\n", "bold")
    for example in page.examples:
        text.append("".join(f"  {line}\n" for line in folded(example)))
    text.append("\nEnvironment\n", "bold")
    widest = max(map(len, page.variables))
    for variable, meaning in page.variables.items():
        text.append(f"  {variable:<{widest}}  {meaning}\n")
    text.rstrip()
    return text


def folded(example: str) -> list[str]:
    """Return an example in lines that fit, to be typed or copied as they are."""
    from rich.cells import cell_len

    lines = [""]
    for part in example.replace(" --", "\n--").splitlines():
        if not lines[-1]:
            lines[-1] = part
        elif cell_len(lines[-1]) + cell_len(part) + 3 <= _WIDTH:
            lines[-1] += f" {part}"
        else:
            lines[-1] += " \\"
            lines.append(f"{_DEEP}{part}")
    return lines
