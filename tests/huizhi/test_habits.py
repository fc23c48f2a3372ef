"""Habits of command lines: completion, JSON, colours, bars, and help that answers questions."""

import asyncio
import contextlib
import importlib
import json
import os
import pty
import re
import resource
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import threading
import unicodedata
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
import rich_click as click
from test_commands import BILL, MONTH, SENT, SETTINGS
from test_init import PYTHONPATH, huizhi

from huizhi.__main__ import COMMANDS, THEMES, group
from huizhi.manual import MANUAL, folded
from runtime.database import Database

# They run until they are stopped, or print a script: there is no result to show.
WITHOUT_RESULT = {"serve", "receiver", "reconciler", "sandbox", "completion"}
CODES = re.compile(r"^ +(\d+)  \S", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[\d;]*3\d[\d;]*m")


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its whole name."""
    for name, (place, _) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", each) for inner, each in command.commands.items())
        else:
            yield name, command


NAMES = [name for name, _ in commands()]


_HELP: dict[str, str] = {}


def help_of(name: str) -> str:
    """What `--help` prints on a terminal of 80 columns."""
    if not _HELP:
        code = (
            "import sys; from huizhi.__main__ import main\n"
            "for name in sys.argv[1:]:\n"
            "    try: main([*name.split(), '--help'])\n"
            "    except SystemExit: print('\\0', flush=True)\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code, *NAMES], capture_output=True, text=True, check=True,
            env={**os.environ, "COLUMNS": "80", "PYTHONPATH": PYTHONPATH, "PYTHONUTF8": "1"},
        )  # fmt: skip
        _HELP.update(zip(NAMES, ran.stdout.split("\0\n"), strict=False))
    return _HELP[name]


# --- help --------------------------------------------------------------------------------------------


def test_every_command_has_a_page_of_the_manual_and_no_other_has() -> None:
    assert set(MANUAL) == set(NAMES)


def test_every_command_stands_under_one_theme() -> None:
    listed = [name for names in THEMES.values() for name in names]
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("name", NAMES)
def test_help_tells_exit_codes_examples_and_environment(name: str) -> None:
    told = help_of(name)
    _, codes = told.split(" Exit codes", 1)
    codes, examples = codes.split(" Examples", 1)
    examples, environment = examples.split(" Environment", 1)
    assert {"0", "2", "130"} <= set(CODES.findall(codes))
    assert f"huizhi {name}" in examples
    assert "NO_COLOR" in environment
    for example in MANUAL[name].examples:
        for line in folded(example):
            assert line in examples, "an example is not broken by the terminal"


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_a_terminal(name: str) -> None:
    for line in help_of(name).splitlines():
        wide = sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line)
        assert wide <= 80, line


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_each_option_is_for(name: str) -> None:
    for parameter in dict(commands())[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_commands_that_can_be_typed(name: str) -> None:
    for example in MANUAL[name].examples:
        text = "\n".join(folded(example)).replace("\\\n", "")
        typed = next(part for part in text.split("|") if part.strip().startswith("huizhi "))
        words = shlex.split(typed.partition(" > ")[0])[1:]
        _, command, rest = group.resolve_command(click.Context(group), words)
        assert command is not None
        context = command.make_context(command.name, rest)
        if isinstance(command, click.Group):
            _, inner, rest = command.resolve_command(
                context, [*context._protected_args, *context.args]
            )
            assert inner is not None
            inner.make_context(inner.name, rest, parent=context)


def test_help_by_theme_takes_no_fifth_of_a_second(tmp_path: Path) -> None:
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        told = huizhi(tmp_path, "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: the machine may be busy with other tests.
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.2 * (2 if sys.gettrace() else 1)
    positions = [told.stdout.index(f"─ {theme} ─") for theme in THEMES]
    assert positions == sorted(positions)
    assert "─ Commands ─" not in told.stdout, "a command stands under no theme"


# --- JSON --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_command_with_a_result_shows_it_as_json(name: str) -> None:
    options = {
        parameter.opts[0]: parameter
        for parameter in dict(commands())[name].params
        if isinstance(parameter, click.Option)
    }
    if name in WITHOUT_RESULT:
        assert "--output" not in options
    else:
        assert "json" in options["--output"].type.choices


def test_setting_up_speaks_json(tmp_path: Path, database: Database) -> None:
    init = ("init", "--gateway", "thinkapi", "--account", "mine", "--output", "json")
    wrote = json.loads(huizhi(tmp_path, *init).stdout)
    assert (wrote["file"], wrote["account"], wrote["gateway"]) == (
        "huizhi.toml",
        "mine",
        "thinkapi",
    )
    assert wrote["callback_address"].startswith("http://<your host>:8080/callbacks/mine/")
    assert wrote["variables"] == {"app_code": "MINE_APP_CODE"}
    env = {"MINE_APP_CODE": "none", "DATABASE_URL": database.dsn.reveal()}
    checked = json.loads(huizhi(tmp_path, "check-config", "--output", "json", env=env).stdout)
    assert checked["accounts"] == [
        {"account": "mine", "gateway": "thinkapi", "takes_callbacks": True, "tariffs": []}
    ]
    assert (checked["database"], checked["receiver"]["port"]) == ("given", 8080)
    migrated = huizhi(tmp_path, "migrate", "--output", "json", env=env)
    assert json.loads(migrated.stdout) == {"applied": []}


# --- terminals ---------------------------------------------------------------------------------------


def on_terminal(
    folder: Path, *arguments: str, env: dict[str, str], out: Path | None = None
) -> tuple[int, str]:
    """Run a command whose stderr is a terminal, and its stdout too or a file; what that shows."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with contextlib.ExitStack() as stack:
        stdout: Any = theirs if out is None else stack.enter_context(out.open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", "huizhi", *arguments],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=theirs,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH, "TERM": "xterm-256color",
                 "PYTHONUTF8": "1", **env},
        )  # fmt: skip
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # the other side is closed
            while piece := os.read(ours, 65_536):
                shown.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait(240)  # on a cluster evidence waits for two minutes
    reader.join(60)
    os.close(ours)
    return code, shown.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # However few connections a process may have, a command has those that it needs.
    few = "\n[database]\npool_size = 1\n"
    (tmp_path / "huizhi.toml").write_text(SETTINGS + few, "utf-8")
    (tmp_path / "sent.csv").write_text(SENT, "utf-8")
    (tmp_path / "bill.csv").write_text(BILL, "utf-8")
    return tmp_path


def test_long_work_shows_a_bar_on_a_terminal_and_nothing_without_one(
    folder: Path, database: Database
) -> None:
    env = {"DATABASE_URL": database.dsn.reveal()}
    reconciled = ""
    for arguments, code, bar in (
        # First, while there is nothing that a vendor could be asked.
        (("poll", "--account", "think"), 0, "Asking the vendors"),
        (("sent", "import", "sent.csv"), 0, "sent.csv"),
        (("statement", "import", "bill.csv", *MONTH), 0, "bill.csv"),
        (("reconcile", *MONTH, "--output", "json"), 1, "think 2024-10"),
        (("replay",), 0, "replay"),
        (("evidence", "RUN", "--to", "package.zip"), 0, "evidence"),
        (("chain", "verify"), 0, "chain"),
        (("audit", "by-day", "--param", "period=2024-10", "--output", "csv"), 0, "csv"),
        (("audit", "by-day", "--param", "period=2024-10", "--output", "xlsx"), 0, "xlsx"),
    ):
        given = [reconciled if word == "RUN" else word for word in arguments]
        out = folder / "out"
        told, shown = on_terminal(folder, *given, env=env, out=out)
        assert told == code, shown[-500:]
        assert f"{bar} \x1b" in shown, arguments
        assert "━" in shown, arguments
        if arguments[0] == "reconcile":
            reconciled = json.loads(out.read_text("utf-8"))["id"]
        with out.open("wb") as file:
            silent = subprocess.run(
                [sys.executable, "-m", "huizhi", *given],
                cwd=folder, stdout=file, stderr=subprocess.PIPE, check=False,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH, "FORCE_COLOR": "1", **env},
            )  # fmt: skip
        assert (silent.returncode, silent.stderr) == (code, b""), arguments


def test_evidence_says_as_json_where_it_is_and_up_to_which_head(
    folder: Path, database: Database
) -> None:
    env = {"DATABASE_URL": database.dsn.reveal()}
    assert huizhi(folder, "sent", "import", "sent.csv", env=env).returncode == 0
    assert huizhi(folder, "statement", "import", "bill.csv", *MONTH, env=env).returncode == 0
    run = json.loads(huizhi(folder, "reconcile", *MONTH, "--output", "json", env=env).stdout)["id"]
    told = huizhi(folder, "evidence", run, "--output", "json", env=env)
    assert (told.returncode, told.stderr) == (0, "")
    made = json.loads(told.stdout)
    assert made["file"] == f"evidence-{run}.zip"
    assert made["bytes"] == (folder / made["file"]).stat().st_size
    head = json.loads(huizhi(folder, "chain", "head", "--output", "json", env=env).stdout)
    assert made["head"].items() <= head.items()


@pytest.mark.parametrize(
    ("env", "coloured"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1", "CLICOLOR_FORCE": "1", "FORCE_COLOR": "1"}, False),
        ({"CLICOLOR": "0"}, False),
        ({"CLICOLOR": "1"}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_on_a_terminal_are_as_the_environment_says(
    folder: Path, database: Database, env: dict[str, str], coloured: bool
) -> None:
    code, shown = on_terminal(folder, "reconcile", "--help", env=env)
    assert code == 0
    assert bool(COLOUR.search(shown)) is coloured
    with_database = {"DATABASE_URL": database.dsn.reveal(), **env}
    code, shown = on_terminal(folder, "replay", env=with_database)
    assert code == 0
    assert bool(COLOUR.search(shown)) is coloured


def test_without_a_terminal_colours_have_to_be_asked_for(tmp_path: Path) -> None:
    assert "\x1b" not in huizhi(tmp_path, "--help").stdout
    for env in ({"CLICOLOR_FORCE": "1"}, {"FORCE_COLOR": "1"}):
        assert COLOUR.search(huizhi(tmp_path, "--help", env=env).stdout)
    both = {"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}
    assert not COLOUR.search(huizhi(tmp_path, "--help", env=both).stdout)
    assert "\x1b" not in huizhi(tmp_path, "--help", env={"CLICOLOR_FORCE": "0"}).stdout


def test_services_log_without_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    import structlog

    from runtime import logs

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    logs.configure(stream=terminal)
    structlog.get_logger().info("receiver.started")
    assert "receiver.started" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()
    logs.configure()


# --- completion --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_shells_script(shell: str, tmp_path: Path) -> None:
    told = huizhi(tmp_path, "completion", shell)
    assert (told.returncode, told.stderr) == (0, "")
    assert f"_HUIZHI_COMPLETE={shell}_complete" in told.stdout
    if found := shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(told.stdout, "utf-8")
        checked = subprocess.run([found, "-n", str(script)], capture_output=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, b"")


def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    (tmp_path / "huizhi").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m huizhi "$@"\n', "utf-8"
    )
    (tmp_path / "huizhi").chmod(0o755)
    script = huizhi(tmp_path, "completion", "bash").stdout

    def completed(*words: str) -> set[str]:
        asked = (
            f"{script}\nCOMP_WORDS=(huizhi {shlex.join(words)})\nCOMP_CWORD={len(words)}\n"
            "_huizhi_completion huizhi\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"
        )
        ran = subprocess.run(
            [bash, "--norc", "-c", asked], capture_output=True, text=True, check=True, cwd=tmp_path,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": PYTHONPATH},
        )  # fmt: skip
        return set(ran.stdout.split())

    assert completed("rec") == {"receiver", "reconciler", "reconcile"}
    assert completed("statement", "") == {"import", "list"}
    assert completed("reconcile", "--ca") == {"--causes"}
    assert completed("reconcile", "--source", "") == {"statement", "reports"}
    assert completed("completion", "") == {"bash", "zsh", "fish"}


def test_unknown_shell_is_a_mistake(tmp_path: Path) -> None:
    told = huizhi(tmp_path, "completion", "tcsh")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.count("\n") == 1


def test_progress_is_told_where_rows_are_known(database: Database, folder: Path) -> None:
    from reconciler import sent_files
    from runtime.settings import load

    told: list[tuple[int, float]] = []
    many = "".join(
        f"think,m{number},13800138000,2024-10-05 09:30:00,x\n" for number in range(5_100)
    )
    (folder / "many.csv").write_text(SENT + many, "utf-8")

    async def imported() -> None:
        from datetime import UTC, datetime

        async with database.pool() as pool:
            await sent_files.import_file(
                pool,
                load(folder / "huizhi.toml", {}),
                folder / "many.csv",
                default_account=None,
                now=datetime.now(UTC),
                progress=lambda rows, share: told.append((rows, share)),
            )

    asyncio.run(imported())
    ((rows, share),) = told
    assert rows == 5_000
    assert 0 < share <= 1
