"""What the image, the compose file and the units say is what the command line and the settings have."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import rich_click as click
import yaml

from huizhi.__main__ import COMMANDS, group
from huizhi.processes import STOP_SECONDS
from runtime import embedded, serving, settings
from runtime.settings import ReceiverSettings, ReconcilerSettings, load

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
UNITS = {path.name: path.read_text("utf-8") for path in (ROOT / "deploy/systemd").iterdir()}
OURS = {name: one for name, one in COMPOSE["services"].items() if one["image"] == "huizhi"}


def typed(words: list[str]) -> str:
    """Have `huizhi …` parsed as the command line does, and return the command's name."""
    assert Path(words[0]).name == "huizhi"
    name, command, rest = group.resolve_command(click.Context(group), words[1:])
    assert name in COMMANDS
    assert command is not None
    command.make_context(name, list(rest))
    return name


def written(folder: Path) -> settings.Settings:
    """The settings that the README has containers run with."""
    text = (ROOT / "README.md").read_text("utf-8")
    block = next(
        block
        for block in re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        if tomllib.loads(block).get("data_dir") == "/data"
    )
    (folder / "huizhi.toml").write_text(block, "utf-8")
    return load(folder / "huizhi.toml", {"HUIZHI_API_TOKEN": "none-of-it-is-real"})


# --- image -------------------------------------------------------------------------------------------


def test_image_runs_a_command_that_there_is_and_names_our_variables() -> None:
    command = re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert command is not None
    assert typed(yaml.safe_load(command[1])) == "serve"
    assert f"{settings.FILE_VARIABLE}=/etc/huizhi/huizhi.toml" in DOCKERFILE
    variables = set(re.findall(r"^(?:ENV|   ) (\w+)=", DOCKERFILE, re.MULTILINE))
    ours = {name for name in variables if name.startswith("HUIZHI_")}
    assert ours == {settings.FILE_VARIABLE, "HUIZHI_HEALTH"}
    python = re.search(r"^FROM python:(\d\.\d+)-", DOCKERFILE, re.MULTILINE)
    assert python is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    oldest, newest = re.findall(r"\d\.\d+", project["requires-python"])
    assert oldest.split(".") <= python[1].split(".") < newest.split(".")


def test_image_exposes_the_ports_that_processes_listen_on(tmp_path: Path) -> None:
    read = written(tmp_path)
    exposed = re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert exposed is not None
    assert [int(port) for port in exposed[1].split()] == [
        read.receiver.port,
        read.reconciler.port,
        read.receiver.metrics_port,
    ]


def test_image_keeps_its_data_where_it_may_write_and_is_nobody_else() -> None:
    (volume,) = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)
    assert f"--owner=huizhi --group=huizhi {volume}" in DOCKERFILE
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert user == "10001:10001"
    assert "--uid 10001 " in DOCKERFILE
    for name in ("README.md", "README.zh-CN.md"):
        assert "sudo chown 10001 huizhi.toml" in (ROOT / name).read_text("utf-8")


@pytest.mark.skipif(
    shutil.which("hadolint", path=Path(sys.executable).parent) is None,
    reason="hadolint comes with the group `check`",
)
def test_image_is_well_made() -> None:
    ran = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--no-color", ROOT / "Dockerfile"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "")


# --- compose -----------------------------------------------------------------------------------------


@pytest.mark.skipif(
    importlib.util.find_spec("check_jsonschema") is None,
    reason="check-jsonschema comes with the group `check`",
)
def test_compose_file_is_as_its_specification_says() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec",
         ROOT / "compose.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "m": 60}[unit]


def test_compose_runs_every_side_by_a_command_that_there_is() -> None:
    assert {name: typed(one["command"]) for name, one in OURS.items()} == {
        "migrate": "migrate",
        "receiver": "receiver",
        "reconciler": "reconciler",
    }


def test_compose_shows_the_receiver_to_all_and_the_rest_to_the_machine(tmp_path: Path) -> None:
    read = written(tmp_path)
    assert OURS["receiver"]["ports"] == [f"{read.receiver.port}:{ReceiverSettings().port}"]
    assert OURS["reconciler"]["ports"] == [
        f"127.0.0.1:{read.reconciler.port}:{ReconcilerSettings().port}"
    ]
    for name, one in COMPOSE["services"].items():
        if name != "receiver":
            assert all(port.startswith("127.0.0.1:") for port in one.get("ports", ())), name
    assert read.reconciler.host == "0.0.0.0", "it is reached from outside its container"


def test_compose_keeps_what_must_be_kept(tmp_path: Path) -> None:
    for name in ("receiver", "reconciler"):
        kept = dict(volume.split(":", 1) for volume in OURS[name]["volumes"])
        assert kept[name] == str(written(tmp_path).data_dir), "a volume of its own"
        assert name in COMPOSE["volumes"]
        assert kept["./huizhi.toml"] == "/etc/huizhi/huizhi.toml:ro"
    assert len({tuple(one["volumes"]) for one in OURS.values()}) == len(OURS)


@pytest.mark.parametrize("name", ["receiver", "reconciler"])
def test_compose_waits_for_what_stops(name: str) -> None:
    assert seconds(OURS[name]["stop_grace_period"]) > STOP_SECONDS


def test_compose_asks_the_right_port_whether_it_is_ready() -> None:
    asked = re.search(r"HUIZHI_HEALTH=(\S+)", DOCKERFILE)
    assert asked is not None
    assert asked[1] == f"http://127.0.0.1:{ReceiverSettings().port}/health/ready"
    assert OURS["reconciler"]["environment"]["HUIZHI_HEALTH"] == (
        f"http://127.0.0.1:{ReconcilerSettings().port}/health/ready"
    )
    assert OURS["migrate"]["healthcheck"] == {"disable": True}


def test_compose_gives_the_database_by_our_variable_and_reaches_it() -> None:
    for name, one in OURS.items():
        given = one["environment"][settings.DATABASE_VARIABLE]
        assert re.fullmatch(
            r"postgresql://huizhi:\$\{POSTGRES_PASSWORD:\?.*\}@postgres:5432/huizhi", given
        )
        assert set(COMPOSE["services"]["postgres"]["networks"]) <= set(one["networks"]), name
    assert COMPOSE["networks"]["inside"]["internal"] is True
    major = int(COMPOSE["services"]["postgres"]["image"].partition(":")[2])
    assert major >= embedded.OLDEST_MAJOR
    # From 18 on the image has its data elsewhere.
    assert (major < 18) == (
        "postgres:/var/lib/postgresql/data" in COMPOSE["services"]["postgres"]["volumes"]
    )


def test_compose_gives_processes_no_more_than_they_need() -> None:
    for one in OURS.values():
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]


def test_prometheus_finds_what_compose_runs(tmp_path: Path) -> None:
    read = written(tmp_path)
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    targets = {
        config["job_name"]: config["static_configs"][0]["targets"]
        for config in scraped["scrape_configs"]
    }
    assert targets == {
        "huizhi-reconciler": [f"reconciler:{ReconcilerSettings().port}"],
        "huizhi-receiver": [f"receiver:{read.receiver.metrics_port}"],
    }
    assert read.receiver.metrics_host == "0.0.0.0"
    (secret,) = COMPOSE["services"]["prometheus"]["secrets"]
    assert COMPOSE["secrets"][secret] == {"environment": "HUIZHI_API_TOKEN"}
    credentials = scraped["scrape_configs"][0]["authorization"]["credentials_file"]
    assert credentials == f"/run/secrets/{secret}"
    mounted = [
        volume.split(":")[0]
        for name in ("prometheus", "grafana")
        for volume in COMPOSE["services"][name]["volumes"]
        if volume.startswith("./")
    ]
    assert all((ROOT / path).exists() for path in mounted)
    assert set(scraped["rule_files"]) <= {
        path.name for path in (ROOT / "deploy/prometheus").iterdir()
    }


# --- systemd -----------------------------------------------------------------------------------------


def _of(unit: str, key: str) -> str:
    (value,) = re.findall(rf"^{key}=(.*)$", UNITS[unit], re.MULTILINE)
    return str(value)


@pytest.mark.parametrize(
    ("unit", "command"),
    [
        ("huizhi-receiver.service", "receiver"),
        ("huizhi-reconciler.service", "reconciler"),
        ("huizhi@.service", "serve"),
    ],
)
def test_units_run_a_command_that_there_is_and_wait_for_its_end(unit: str, command: str) -> None:
    words = shlex.split(_of(unit, "ExecStart"))
    assert typed(words) == command
    assert words[0].endswith("/.venv/bin/huizhi"), "as `make install` makes it"
    # The parent stops its children, and the database after them: nobody else may.
    assert (_of(unit, "KillMode"), _of(unit, "KillSignal")) == ("mixed", "SIGTERM")
    longest = STOP_SECONDS
    if command == "serve":
        longest += embedded._STOP_SECONDS + 20  # interrupt, quit, kill
    assert float(_of(unit, "TimeoutStopSec")) > longest
    assert serving.DRAIN_SECONDS < STOP_SECONDS
    assert _of(unit, "WorkingDirectory") == f"/var/lib/{_of(unit, 'StateDirectory')}"


def test_every_unit_is_looked_at_and_documented() -> None:
    text = (ROOT / "docs/deployment.md").read_text("utf-8")
    assert set(re.findall(r"`deploy/systemd/([^`]+)`", text)) == set(UNITS)
    for unit in UNITS:
        state = _of(unit, "WorkingDirectory").replace("%i", "main")
        assert f'data_dir = "{state}"' in text, unit


def _installed(folder: Path) -> list[str]:
    """Put the units where they can be looked at, running something that is there."""
    for name, text in UNITS.items():
        runs = text.replace("/opt/huizhi/.venv/bin/huizhi", "/bin/true")
        (folder / name).write_text(runs, "utf-8")
    return [str(folder / name.replace("@.", "@main.")) for name in UNITS]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_the_units_and_finds_them_locked_up(tmp_path: Path) -> None:
    paths = _installed(tmp_path)
    verified = subprocess.run(
        ["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    for path in paths:
        # In tenths: 100 is exposed to everything.
        looked = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=20", path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert looked.returncode == 0, looked.stdout[-300:]
