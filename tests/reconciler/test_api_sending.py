"""`POST /v1/messages` and `huizhi send`, from outside."""

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from dialect import DIALECT, settings_of
from pretend import Answer, serving
from test_api import TOKEN, problem
from test_api import serving as serving_api

import huizhi.cli_config
from gateways.gateway import Secret
from huizhi.__main__ import main
from runtime.database import Database
from runtime.settings import Settings

pytestmark = pytest.mark.anyio

PHONE = "13900000000"
ASKED = {"account": "api", "phones": [PHONE, "13900000001"], "content": "你好", "reference": "r"}


def _ids(_path: str, form: dict[str, str]) -> Answer:
    return Answer(json.dumps({"ids": {p: f"v{p}" for p in form["phones"].split(",")}}).encode())


def _with_token(read: Settings) -> Settings:
    own = msgspec.structs.replace(read.reconciler, api_token=Secret(TOKEN))
    return msgspec.structs.replace(read, reconciler=own)


async def test_a_send_is_answered_when_its_outcome_is_known(
    database: Database, tmp_path: Path
) -> None:
    with serving(_ids) as vendor:
        read = _with_token(settings_of(tmp_path, vendor.url, DIALECT))
        async with serving_api(database, read) as api:
            answer = await api.post("/v1/messages", json=ASKED)
            assert answer.status_code == 200, answer.text
            done = answer.json()
            assert done["status"] == "submitted"
            assert (await api.get(f"/v1/sends/{done['id']}")).json() == done
            listed = (await api.get("/v1/messages", params={"reference": "r"})).json()["items"]
            assert {m["id"] for m in listed} == {m["id"] for m in done["messages"]}


async def test_a_key_sends_once_at_once_and_later(database: Database, tmp_path: Path) -> None:
    with serving(_ids) as vendor:
        read = _with_token(settings_of(tmp_path, vendor.url, DIALECT))
        async with serving_api(database, read) as api:

            async def ask(key: str = "k", **more: Any) -> httpx.Response:
                return await api.post(
                    "/v1/messages", json=ASKED | more, headers={"Idempotency-Key": key}
                )

            answers = await asyncio.gather(*(ask() for _ in range(6)))
            assert [answer.status_code for answer in answers] == [200] * 6
            assert len({answer.json()["id"] for answer in answers}) == 1
            assert len(vendor.requests) == 1
            assert "another request" in problem(await ask(content="anders"), 422)
            assert "Idempotency-Key" in problem(await ask(key="x" * 256), 422)
            assert len(vendor.requests) == 1


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"phones": ["1390"]}, 422, r"phones\[0\] is no phone number"),
        ({"account": "nobody"}, 422, "no account 'nobody'"),
        ({"colour": "red"}, 400, "colour"),
        ({"phones": "13900000000"}, 400, "phones"),
        ({"content": 7}, 400, "content"),
        ({"send_at": "tomorrow"}, 400, "send_at"),
    ],
)
async def test_bad_requests_are_told_and_nothing_is_sent(
    database: Database, tmp_path: Path, given: dict[str, Any], status: int, words: str
) -> None:
    with serving(_ids) as vendor:
        read = _with_token(settings_of(tmp_path, vendor.url, DIALECT))
        async with serving_api(database, read) as api:
            detail = problem(await api.post("/v1/messages", json=ASKED | given), status)
            assert re.search(words, detail)
            assert "13900000000" not in detail
            assert vendor.requests == []


async def test_an_unreachable_vendor_is_a_503_after_which_nothing_was_sent(
    database: Database, tmp_path: Path
) -> None:
    read = _with_token(settings_of(tmp_path, "http://127.0.0.1:1", DIALECT))
    async with serving_api(database, read) as api:
        answer = await api.post("/v1/messages", json=ASKED, headers={"Idempotency-Key": "k"})
        assert "nothing was sent" in problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0


class Terminal:
    """`huizhi send` at a database and a vendor."""

    def __init__(self, read: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        own = msgspec.structs.replace(read.database, url=database.dsn)
        read = msgspec.structs.replace(read, database=own)
        monkeypatch.setattr(huizhi.cli_config, "settings", lambda: read)
        self._monkeypatch = monkeypatch

    def run(self, *arguments: str, stdin: str = "") -> int:
        self._monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main(["send", "--account", "api", "--phone", PHONE, *arguments])
        assert isinstance(ended.value.code, int)
        return ended.value.code


def test_the_command_sends_and_shows_each_number(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(_ids) as vendor:
        terminal = Terminal(settings_of(tmp_path, vendor.url, DIALECT), database, monkeypatch)
        numbers = tmp_path / "numbers.txt"
        numbers.write_text(f"13900000001\n\n{PHONE}\n")
        send = ["--phones", str(numbers), "--content", "-", "--key", "k"]
        assert terminal.run(*send, stdin="你好\n") == 0
        shown = capsys.readouterr()
        assert "2 submitted" in shown.out
        assert "v13900000001" in shown.out
        assert "1 numbers were given twice" in shown.err
        assert terminal.run(*send, "--output", "json", stdin="你好\n") == 0
        assert json.loads(capsys.readouterr().out)["replayed"]
        assert len(vendor.requests) == 1


def test_the_command_exits_with_1_if_a_number_was_not_taken(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(lambda _p, _f: Answer(b'{"no":"E7"}')) as vendor:
        terminal = Terminal(settings_of(tmp_path, vendor.url, DIALECT), database, monkeypatch)
        assert terminal.run("--content", "x") == 1
        shown = capsys.readouterr().out
        assert "1 refused" in shown
        assert "E7" in shown


def test_the_command_says_in_a_line_what_cannot_be_sent(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = Terminal(settings_of(tmp_path, "http://127.0.0.1:1", DIALECT), database, monkeypatch)
    assert terminal.run("--content", "x", "--phone", "1") == 2
    assert capsys.readouterr().err == "huizhi: phones[1] is no phone number\n"
    assert terminal.run("--content", "x") == 2
    assert "nothing was sent" in capsys.readouterr().err
