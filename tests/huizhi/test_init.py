"""The commands one begins with: init, check-config, migrate; and how all commands fail."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gateways import GATEWAYS
from huizhi.__main__ import COMMANDS, group
from runtime.database import Database
from runtime.settings import load

ROOT = Path(__file__).parents[2]
PYTHONPATH = os.pathsep.join((str(ROOT), str(Path(msgspec.__file__).parents[1])))
ADDRESS = re.compile(r"https?://\S*/callbacks/(?P<account>[^/\s]+)/(?P<token>\S+)")
VARIABLES = {
    "thinkapi": ["MINE_APP_CODE"],
    "thinksms": ["MINE_USER_ID", "MINE_ACCOUNT", "MINE_PASSWORD"],
    "deepfinch": ["MINE_SECRET_ID", "MINE_SECRET_KEY"],
    "onecloudsp": ["MINE_ACCESS_KEY", "MINE_SECRET"],
    "itniotech": ["MINE_API_KEY", "MINE_API_SECRET", "MINE_APP_ID"],
}


def huizhi(
    folder: Path, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "huizhi", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def mistake(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """The one line that a command which must fail says."""
    told = huizhi(folder, *arguments, env=env)
    assert told.returncode == 2
    assert told.stdout == ""
    assert told.stderr.startswith("huizhi: ")
    assert told.stderr.count("\n") == 1
    return told.stderr.removeprefix("huizhi: ").rstrip("\n")


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_written_file_passes_the_check(tmp_path: Path, gateway: str) -> None:
    told = huizhi(
        tmp_path,
        *("init", "--gateway", gateway, "--account", "mine"),
        *("--public-url", "https://sms.example.com/"),
    )
    assert (told.returncode, told.stderr) == (0, "")
    file = tmp_path / "huizhi.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    variables = VARIABLES[gateway]
    for variable in variables:
        assert f"export {variable}=" in told.stdout
    missing = mistake(tmp_path, "check-config")
    assert f"the environment variable {variables[0]} is not set" in missing
    env = dict.fromkeys(variables, "given")
    checked = huizhi(tmp_path, "check-config", env=env)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.startswith("huizhi.toml is in order.\n")
    settings = load(file, env)
    account = settings.accounts["mine"]
    address = ADDRESS.search(told.stdout)
    assert address is not None
    assert address[0].startswith("https://sms.example.com/callbacks/mine/")
    assert [token.reveal() for token in account.callback_tokens] == [address["token"]]
    assert settings.reconciler.api_token is not None
    assert address["token"] not in checked.stdout


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_tariff_in_the_comment_holds_once_it_is_uncommented(tmp_path: Path, gateway: str) -> None:
    huizhi(tmp_path, "init", "--gateway", gateway, "--account", "mine")
    file = tmp_path / "huizhi.toml"
    head, mark, tail = file.read_text("utf-8").partition("# [[accounts.mine.tariffs]]")
    assert mark
    file.write_text(head + (mark + tail).replace("# ", "", 1).replace("\n# ", "\n"), "utf-8")
    settings = load(file, dict.fromkeys(VARIABLES[gateway], "given"))
    assert len(settings.accounts["mine"].tariffs) == 1


def test_thinkapi_says_where_in_the_vendors_console(tmp_path: Path) -> None:
    told = huizhi(tmp_path, "init", "--gateway", "thinkapi")
    assert "我的服务 -> 短信服务 -> 发信设置" in told.stdout
    assert "http://<your host>:8080/callbacks/thinkapi-main/" in told.stdout


def test_a_vendor_that_pushes_nothing_needs_no_address(tmp_path: Path) -> None:
    told = huizhi(tmp_path, "init", "--gateway", "deepfinch")
    assert "not known to push anything" in told.stdout
    assert "It goes into" not in told.stdout


def test_every_file_has_tokens_of_its_own(tmp_path: Path) -> None:
    texts = []
    for name in ("a.toml", "b.toml"):
        huizhi(tmp_path, "--config", name, "init", "--gateway", "thinkapi")
        texts.append((tmp_path / name).read_text("utf-8"))
    for key in ("callback_tokens", "api_token"):
        found = [re.findall(rf'{key} = \[?"(.+)"', text) for text in texts]
        assert found[0] != found[1]


def test_file_that_is_there_is_kept_without_force(tmp_path: Path) -> None:
    file = tmp_path / "huizhi.toml"
    file.write_text("kept")
    line = mistake(tmp_path, "init", "--gateway", "thinkapi")
    assert line == "huizhi.toml is there already; --force replaces it, tokens and all"
    assert file.read_text() == "kept"
    assert huizhi(tmp_path, "init", "--gateway", "thinkapi", "--force").returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["huizhi.toml"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("init",), f"--gateway is missing; expected one of {', '.join(GATEWAYS)}"),
        (
            ("init", "--gateway", "thinkapi", "--account", "Not A Name"),
            'huizhi.toml: accounts."Not A Name": expected a name of at most 64 lower-case letters,'
            " digits and hyphens",
        ),
        (
            ("init", "--gateway", "thinkapi", "--base-url", "api.example.com"),
            "huizhi.toml: accounts.thinkapi-main.base_url: expected an address such as"
            ' "https://api.example.com"',
        ),
        (
            ("init", "--gateway", "thinkapi", "--credential", "app_code=not a name"),
            "--credential app_code: expected KEY=VARIABLE with a KEY of app_code and the name of"
            " an environment variable, not its value",
        ),
        (("check-config",), "huizhi.toml: no such file; `huizhi init` writes one"),
        (("--config", "x.toml", "check-config"), "x.toml: no such file; `huizhi init` writes one"),
        (("check-config", "--config", "y.toml"), "y.toml: no such file; `huizhi init` writes one"),
        (("no-such-command",), "No such command 'no-such-command'."),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    tmp_path: Path, arguments: tuple[str, ...], line: str
) -> None:
    assert mistake(tmp_path, *arguments) == line
    assert os.listdir(tmp_path) == []


def test_migrate_brings_a_database_up_once(tmp_path: Path, empty_database: Database) -> None:
    (tmp_path / "huizhi.toml").write_text("")
    env = {"DATABASE_URL": empty_database.dsn.reveal()}
    first = huizhi(tmp_path, "migrate", env=env)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith("applied 0001_")
    again = huizhi(tmp_path, "migrate", env=env)
    assert again.stdout == "nothing to apply: the database has this version's schema\n"


def test_migrate_starts_and_stops_the_embedded_server(tmp_path: Path) -> None:
    (tmp_path / "huizhi.toml").write_text('data_dir = "kept"')
    told = huizhi(tmp_path, "migrate")
    assert (told.returncode, told.stderr) == (0, "")
    assert (tmp_path / "kept" / "postgres" / "PG_VERSION").exists()
    assert not (tmp_path / "kept" / "postgres" / "postmaster.pid").exists()


def test_unreachable_database_is_one_line_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "huizhi.toml").write_text("")
    env = {"DATABASE_URL": "postgresql://huizhi:hush@127.0.0.1:1/bank"}
    assert mistake(tmp_path, "migrate", env=env) == "no PostgreSQL listens at 127.0.0.1:1/bank"


def test_help_lists_every_command_and_imports_none(tmp_path: Path) -> None:
    told = huizhi(tmp_path, "--help")
    assert told.returncode == 0
    for name in COMMANDS:
        assert name in told.stdout
    code = "import sys; from huizhi.__main__ import main\ntry: main(['--help'])\n"
    code += "except SystemExit: print(sorted(m for m in sys.modules if m.startswith('runtime')))"
    listed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert listed.stdout.splitlines()[-1] == "[]"


def test_help_is_quick(tmp_path: Path) -> None:
    # By what it loads and not by a clock: that took 0.07 s on two idle cores, most of it rich's.
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "huizhi", "--help"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert "rich_click" in loaded
    packages = {name.partition(".")[0] for name in loaded}
    assert not packages & {
        "asyncpg",
        "httpx",
        "litestar",
        "msgspec",
        "apprise",
        "asyncio",
        "runtime",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_imported_and_has_help(name: str) -> None:
    import rich_click as click

    context = click.Context(group)
    _, command, _ = group.resolve_command(context, [name])
    assert command is not None
    assert command.name == name
    assert command.help
    assert any("--config" in parameter.opts for parameter in command.params)


def test_a_callback_token_that_can_be_guessed_is_pointed_out(tmp_path: Path) -> None:
    text = '[accounts.{}]\ngateway = "thinkapi"\ncredentials = {{ app_code = "x" }}\n'
    text += 'callback_tokens = ["{}"]\n'
    (tmp_path / "huizhi.toml").write_text(
        text.format("short", "hush") + text.format("long", "x" * 16), "utf-8"
    )
    told = huizhi(tmp_path, "check-config")
    assert told.returncode == 0
    notes = [line.strip() for line in told.stdout.splitlines() if "note" in line]
    said = "short has a callback token of less than 16 characters: it can be guessed"
    assert notes == [f"note        {said}"]
    told = huizhi(tmp_path, "check-config", "--output", "json")
    assert msgspec.json.decode(told.stdout)["notes"] == [said]
