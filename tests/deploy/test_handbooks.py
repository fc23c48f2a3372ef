"""The documents of operations: both languages say the same, and what they quote is what is said."""

import re
import subprocess
from pathlib import Path

import pytest

from huizhi.processes import STOP_SECONDS
from runtime import migrate

ROOT = Path(__file__).resolve().parents[2]


def _text(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


@pytest.mark.parametrize("name", ["backup", "upgrade"])
def test_both_languages_say_the_same(name: str) -> None:
    texts = [_text(f"{name}.md"), _text(f"{name}.zh-CN.md")]
    blocks = [re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL) for text in texts]
    assert blocks[0] == blocks[1]
    for shape in (r"^(#+) ", r"^\|", r"^\d\. ", r"^(\|[-|]+)$"):
        found = [re.findall(shape, text, re.MULTILINE) for text in texts]
        assert len(found[0]) == len(found[1]), shape
    spans = [set(re.findall(r"`([^`\n]+)`", text)) for text in texts]
    assert spans[0] == spans[1]


def test_words_that_are_quoted_are_those_that_are_said() -> None:
    said = (ROOT / "runtime/migrate.py").read_text("utf-8")
    for name in ("upgrade.md", "upgrade.zh-CN.md"):
        text = _text(name)
        assert "the database is newer than this version of Huizhi" in said
        assert "`the database is newer than this version of Huizhi`" in text
        assert "`the database lacks 1 of 14 migrations; run: huizhi migrate`" in text
        assert "migrations; run: huizhi migrate" in said
    assert f" {migrate._PATIENCE_SECONDS} seconds " in _text("upgrade.md")
    assert f" {migrate._PATIENCE_SECONDS} 秒" in _text("upgrade.zh-CN.md")


def test_times_of_stopping_are_the_same_everywhere() -> None:
    for name in ("deployment.md", "replicas.md"):
        assert f"{STOP_SECONDS:.0f} seconds" in _text(name)


@pytest.mark.parametrize("name", ["backup.md", "upgrade.md", "deployment.md", "logs.md"])
def test_what_is_to_be_typed_can_be_typed(name: str) -> None:
    for block in re.findall(r"^```sh\n(.*?)^```$", _text(name), re.MULTILINE | re.DOTALL):
        ran = subprocess.run(
            ["bash", "-n"], input=block, capture_output=True, text=True, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, "")
