"""Logs: one JSON object a line, and nothing in it that must not leave."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateways.gateway import Secret
from runtime import logs
from runtime.logs import Redaction

ROOT = Path(__file__).parents[2]


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    logs.configure(secrets=[Secret("hush-hush"), Secret('ü &"geheim"')], stream=stream)
    yield stream
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_line_is_an_object_with_its_context(output: io.StringIO) -> None:
    structlog.contextvars.bind_contextvars(account="think-main")
    structlog.get_logger().info("callback.recorded", count=2, vendor="顶想云")
    (line,) = lines(output)
    assert line.pop("at").endswith("Z")
    assert line == {
        "event": "callback.recorded",
        "level": "info",
        "count": 2,
        "vendor": "顶想云",
        "account": "think-main",
    }
    assert "顶想云" in output.getvalue()


def test_standard_library_comes_out_alike(output: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").warning("on port %d", 8080, extra={"more": 1})
    (line,) = lines(output)
    assert (line["event"], line["level"], line["more"]) == ("on port 8080", "warning", 1)


def test_addresses_that_httpx_would_log_stay_out(output: io.StringIO) -> None:
    logging.getLogger("httpx").info("HTTP Request: GET https://vendor/?password=x")
    logging.getLogger("httpcore.http11").info("send_request_headers")
    assert output.getvalue() == ""


def test_secrets_and_numbers_are_taken_out_wherever_they_stand(output: io.StringIO) -> None:
    log = structlog.get_logger()
    log.warning("sent hush-hush", body={"phone": "13812345678", "number": 8613812345678})
    log.warning("query", address="https://v/?p=%C3%BC%20%26%22geheim%22&q=%C3%BC+%26%22geheim%22")
    log.warning("text", text='ü &"geheim"', shown=repr('ü &"geheim"'))
    try:
        raise ValueError("hush-hush to +86 13812345678")
    except ValueError:
        log.exception("failed")
    shown = output.getvalue()
    for secret in ("hush-hush", "geheim", "13812345678"):
        assert secret not in shown
    assert lines(output)[0]["body"]["phone"] == "…5678"
    assert "ValueError" in lines(output)[3]["exception"]


def test_terminal_gets_lines_for_people(output: io.StringIO) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    logs.configure(secrets=[Secret("hush-hush")], stream=terminal)
    try:
        raise ValueError("hush-hush")
    except ValueError:
        structlog.get_logger().exception("failed", phone="13812345678")
    assert "failed" in terminal.getvalue()
    assert "Traceback" in terminal.getvalue()
    for secret in ("hush-hush", "13812345678"):
        assert secret not in terminal.getvalue()


def test_traceback_shows_no_local_variables(output: io.StringIO) -> None:
    password = "a local value"
    try:
        raise ValueError(f"about {len(password)} letters")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "a local value" not in output.getvalue().replace('password = "a local value"', "")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("to 13812345678.", "to …5678."),
        ("to +8613812345678", "to +…5678"),
        ("taken 1700000000000 ms", "taken 1700000000000 ms"),
        ("id 12345678901 of 138123456789", "id 12345678901 of 138123456789"),
    ],
)
def test_only_mainland_numbers_are_masked(text: str, left: str) -> None:
    assert Redaction()(text) == left


def test_short_secret_is_no_reason_to_mangle_lines() -> None:
    assert Redaction([Secret("1")])("1 of 11") == "1 of 11"


def test_stdout_stays_free_for_output() -> None:
    code = (
        "import structlog; from runtime import logs; logs.configure();"
        "structlog.get_logger().warning('said')"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert told.stdout == ""
    assert json.loads(told.stderr)["event"] == "said"


def test_a_digest_is_left_alone_though_it_has_the_digits_of_a_number() -> None:
    digest = "ab" * 10 + "13812345678" + "c" + "0f" * 16
    assert len(digest) == 64
    redaction = Redaction()
    assert redaction(f"records {digest}, 13812345678") == f"records {digest}, …5678"
    # One digit more or less is no digest.
    assert "13812345678" not in redaction(digest[1:])


def test_only_our_own_lines_are_told_in_detail(output: io.StringIO) -> None:
    logs.configure(level=logging.DEBUG, stream=output)
    logging.getLogger("uvicorn.error").debug("connection lost")
    logging.getLogger("receiver.ingest").debug("callbacks.recorded")
    assert [line["event"] for line in lines(output)] == ["callbacks.recorded"]
