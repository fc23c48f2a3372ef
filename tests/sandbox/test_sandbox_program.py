"""The sandbox as a program: its file, its port, its end."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

import sandbox
from sandbox import ConfigError, load

ROOT = Path(sandbox.__file__).parent.parent


def write_config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sandbox.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_example_configuration_loads() -> None:
    config = load(ROOT / "sandbox" / "sandbox.toml")
    assert set(config.thinkapi.accounts) == {"think-main"}


@pytest.mark.parametrize("text", ["ports = 1", 'port = "x"', "[faults]\nlost = 0.1", "port ="])
def test_wrong_configuration_names_file_and_key(tmp_path: Path, text: str) -> None:
    path = write_config(tmp_path, text)
    with pytest.raises(ConfigError, match=r"sandbox\.toml"):
        load(path)


def test_program_writes_its_port_and_on_sigterm_its_truth(tmp_path: Path) -> None:
    truth_path = tmp_path / "truth.jsonl"
    config = write_config(
        tmp_path,
        f"""
port = 0
truth_path = "{truth_path}"
[thinksms.accounts.sms-main]
user_id = "1"
account = "a"
password = "p"
""",
    )
    port_file = tmp_path / "port"
    command = [
        sys.executable, "-m", "sandbox", "--config", str(config), "--port-file", str(port_file),
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        greeting = process.stdout.readline()
        port = port_file.read_text().strip()
        assert greeting == f"sandbox listening on http://127.0.0.1:{port}\n"
        fields: dict[str, Any] = {
            "action": "send",
            "userid": "1",
            "account": "a",
            "password": "p",
            "mobile": "13800138000",
            "content": "【智想】好",
        }
        httpx.post(f"http://127.0.0.1:{port}/thinksms/sms.aspx", data=fields).raise_for_status()
        stats = httpx.get(f"http://127.0.0.1:{port}/_sandbox/stats").json()
        assert sum(stats["messages"].values()) == 1
        process.terminate()
        assert process.wait(timeout=20) == 0
    rows = [json.loads(line) for line in truth_path.read_text(encoding="utf-8").splitlines()]
    assert [(row["type"], row["phone"]) for row in rows] == [("message", "13800138000")]


def test_sandbox_imports_nothing_of_the_project() -> None:
    ours = ("gateways", "runtime", "receiver", "reconciler", "huizhi")
    for path in (ROOT / "sandbox").glob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                assert words[1].split(".")[0] not in ours, f"{path.name}: {line}"
