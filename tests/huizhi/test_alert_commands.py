"""`huizhi alerts`, as typed, and alarms that are of no account."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_commands import SETTINGS, Typed, api, mistake, said, typed
from test_init import huizhi

from reconciler import alarms
from runtime.database import Database

__all__ = ["typed"]  # a fixture
pytestmark = pytest.mark.anyio

SECRET = "token-of-the-hook"


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook's address, and what it was told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"json://127.0.0.1:{server.server_port}/{SECRET}", told
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_test_message_is_sent_without_a_database(
    tmp_path: Path, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    url, told = hook
    (tmp_path / "huizhi.toml").write_text(
        f'[alerts.ops]\nurl = {{ env = "OPS" }}\nlanguage = "zh"\n'
        f'[alerts.dead]\nurl = "json://127.0.0.1:9/{SECRET}"\n',
        "utf-8",
    )
    env = {"OPS": url, "PYTHONUTF8": "1"}
    test = ("alerts", "test")
    done = await asyncio.to_thread(huizhi, tmp_path, *test, "--channel", "ops", env=env)
    assert said(done).split() == ["channel", "sent", "error", "ops", "yes"]
    (message,) = told
    assert message["title"] == "Huizhi 回执：1 条通知"
    assert "测试" in message["message"]
    done = await asyncio.to_thread(huizhi, tmp_path, *test, "--output", "json", env=env)
    assert (done.returncode, done.stderr) == (1, "")
    assert SECRET not in done.stdout
    items = {each["channel"]: each for each in json.loads(done.stdout)["items"]}
    assert items["ops"] == {"channel": "ops", "sent": True, "error": None}
    assert not items["dead"]["sent"]
    assert "cannot be reached" in items["dead"]["error"]
    assert len(told) == 2
    unknown = await asyncio.to_thread(huizhi, tmp_path, *test, "--channel", "x", env=env)
    assert "no channel 'x'" in mistake(unknown)


async def test_channels_are_listed_with_what_fails(typed: Typed, pool: Any, tmp_path: Path) -> None:
    assert "names no channel" in mistake(await typed("alerts", "test"))
    assert json.loads(said(await typed("alerts", "list", "--output", "json")))["items"] == []
    (tmp_path / "huizhi.toml").write_text(
        f'{SETTINGS}\n[alerts.ops]\nurl = "json://127.0.0.1:9/{SECRET}"\n', "utf-8"
    )
    listed = json.loads(said(await typed("alerts", "list", "--output", "json")))["items"]
    assert [(each["channel"], each["failures_in_row"]) for each in listed] == [("ops", 0)]
    await pool.execute(
        "INSERT INTO alert_channels (name, since, failures_in_row, error, again_at)"
        " VALUES ('ops', now(), 4, 'it answered HTTP 500', now())"
    )
    table = said(await typed("alerts", "list"))
    assert "it answered HTTP 500" in table
    assert SECRET not in table


async def test_alarms_of_the_machine_are_listed_and_not_as_an_accounts(
    typed: Typed, database: Database, pool: Any, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    async with pool.acquire() as connection:
        await alarms.raise_(connection, alarms.HOUSE, "disk", "little is left", {}, now=now)
        await alarms.raise_(connection, "think", "lost", "a page", {}, now=now)
    told = json.loads(said(await typed("alarms", "--output", "json")))
    assert told == await api(database, tmp_path, "/v1/alarms")
    assert {each["kind"]: each["account"] for each in told["items"]} == {
        "disk": None,
        "lost": "think",
    }
    told = json.loads(said(await typed("alarms", "--account", "think", "--output", "json")))
    assert [each["kind"] for each in told["items"]] == ["lost"]
    assert told == await api(database, tmp_path, "/v1/alarms?account=think")
