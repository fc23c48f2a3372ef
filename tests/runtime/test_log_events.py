"""Every line that the code can log stands in docs/logs.md, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception"}
# What is named by what came of it: the states that are no success.
NAMED_BY_STATE = {"f'send.{outcome.state}'": ("send.refused", "send.indeterminate")}


def _logged() -> Iterator[tuple[str, str, set[str]]]:
    """Yield each call: event, level, fields."""
    for package in ("gateways", "runtime", "receiver", "reconciler", "huizhi"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                match node:
                    case ast.Call(
                        func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[event, *_]
                    ) if level in LEVELS:
                        fields = {word.arg for word in node.keywords if word.arg} - {"exc_info"}
                        level = "error" if level == "exception" else level
                        text = ast.unparse(event)
                        for name in NAMED_BY_STATE.get(text, (text.strip("'"),)):
                            yield name, level, fields


def test_every_event_is_documented_with_its_levels_and_fields_and_no_other_is() -> None:
    made: dict[str, tuple[set[str], set[str]]] = {}
    for event, level, fields in _logged():
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", event), event
        levels, known = made.setdefault(event, (set(), set()))
        levels.add(level)
        known |= fields
    documented: dict[str, tuple[set[str], set[str]]] = {}
    table = (ROOT / "docs/logs.md").read_text("utf-8").split("\n## Events\n", 1)[1]
    for names, level, fields in re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) ?\| ", table, re.M):
        for name in re.findall(r"`([^`]+)`", names):
            documented[name] = (set(level.split(", ")), set(re.findall(r"`(\w+)`", fields)))
    assert documented == made


def test_no_line_is_written_for_each_callback_that_is_taken() -> None:
    """Below `debug` only what is turned away, or wrong, is a line of its own."""
    plain = {event for event, level, _ in _logged() if level == "info"}
    assert not {event for event in plain if event.startswith(("callback", "record", "report"))}
