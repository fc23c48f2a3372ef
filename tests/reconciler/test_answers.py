"""Keyword checks and password changes, as typed: exit codes, records, and no password anywhere."""

import asyncio
import html
import io
import json
import logging
import sys
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
import rich_click as click
from every_call import no, settled_on, told
from pretend import Answer as Said

from gateways.errors import Refused, Unavailable, Unsupported
from gateways.events import Answer, Balance
from huizhi.__main__ import group, main
from runtime import Problem, logs, records
from runtime.database import Database

PASSWORD = "n3w & söcret"


@dataclass
class Typed:
    """Types commands against a vendor that answers as told; keeps what that was asked."""

    database: Database
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def __call__(self, answer: Said, *arguments: str) -> tuple[Any, list[Any]]:
        self.monkeypatch.setenv("DATABASE_URL", self.database.dsn.reveal())
        with settled_on(self.folder, self.monkeypatch, lambda *_: answer) as (vendor, read):
            self.requests = vendor.requests
            given = ["--config", str(read.file), *arguments]
            code = group.main(given, prog_name="huizhi", standalone_mode=False)
        return code, self.requests


@pytest.fixture
def typed(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return Typed(database, tmp_path, monkeypatch)


async def _rows(database: Database, query: str) -> list[Any]:
    async with database.connection() as connection:
        rows: list[Any] = await connection.fetch(query)
        return rows


def _rows_of(database: Database, query: str) -> list[Any]:
    return asyncio.run(_rows(database, query))


# --- keyword check -----------------------------------------------------------------------------------

CHECK = ("keyword", "check", "一个文本", "--account", "main")


@pytest.mark.parametrize(
    ("positive", "code"),
    [(True, 0), (False, 1), (None, 2)],
)
def test_a_text_is_clean_or_not_or_that_cannot_be_told(
    typed: Typed,
    database: Database,
    capsys: pytest.CaptureFixture[str],
    positive: bool | None,
    code: int,
) -> None:
    said = told(Answer(words="包含非法字符:甲", positive=positive))
    assert typed(said, *CHECK) == (code, [("/main/check_keyword", {"content": "一个文本"})])
    out, err = capsys.readouterr()
    assert out == "包含非法字符:甲\n"
    assert err.count("\n") == (positive is None)
    assert typed(said, *CHECK, "--output", "json")[0] == code
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"account": "main", "clean": positive, "words": "包含非法字符:甲"}
    [row] = _rows_of(database, "SELECT source, call, subject, deliveries FROM records")
    assert (row["source"], row["call"], row["deliveries"]) == ("query", "check_keyword", 2)
    assert row["subject"].startswith("text ")
    assert "文本" not in row["subject"]
    assert _rows_of(database, "SELECT 1 FROM quarantine") == []


def test_a_text_is_read_from_standard_input(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    said = told(Answer(words="ok", positive=True))
    for given, content in (("甲\n乙\n".encode(), "甲\n乙"), ("甲".encode(), "甲")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        code, requests = typed(said, "keyword", "check", "-", "--account", "main")
        assert (code, requests) == (0, [("/main/check_keyword", {"content": content})])
    for given, problem in ((b"\xff\xfe", "not UTF-8"), (b"\n", "empty")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        with pytest.raises(Problem, match=f"the text is {problem}"):
            typed(said, "keyword", "check", "-", "--account", "main")


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("keyword", "check", "T"), "keyword check"),
        (("password", "change"), "password change"),
        (("sign", "delete", "1"), "sign delete"),
        (("template", "delete", "1"), "template delete"),
        (("inbound",), "inbound"),
    ],
)
def test_what_a_vendor_does_not_offer_is_refused(
    typed: Typed, command: tuple[str, ...], named: str
) -> None:
    with pytest.raises(Unsupported, match=rf"\(finch\) offers no `{named}`"):
        typed(no("1", "unused"), *command, "--account", "finch")
    assert typed.requests == []


# --- password change ---------------------------------------------------------------------------------

CHANGE = ("password", "change", "--account", "main", "--from-env", "NEW_PASSWORD")
CHANGED = Answer(words="修改成功", positive=True)


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NEW_PASSWORD", PASSWORD)
    return PASSWORD


def test_a_changed_password_is_to_be_put_into_the_settings(
    typed: Typed, database: Database, password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(told(CHANGED), *CHANGE) == (0, [("/main/change_password", {"new": password})])
    out, err = capsys.readouterr()
    assert out.startswith("The password of main is changed. The vendor says: 修改成功\n")
    assert "Now change [accounts.main] credentials in " in out
    assert password not in out + err
    [row] = _rows_of(database, "SELECT call, body FROM records")
    assert row["call"] == "change_password"
    assert "修改成功".encode() in row["body"]


def test_a_changed_password_is_told_as_json(
    typed: Typed, password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(told(CHANGED), *CHANGE, "--output", "json")[0] == 0
    assert json.loads(capsys.readouterr().out) == {"account": "main", "words": "修改成功"}


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (no("4", f"新密码 {PASSWORD} 太弱"), Refused, r"with 4: 新密码 \*\*\* 太弱$"),
        (Said(b"", 503, {"retry-after": "90"}), Unavailable, "HTTP 503$"),
        (
            told(Answer(words=f"{PASSWORD} 不对", positive=False)),
            Problem,
            r"the vendor says: \*\*\* 不对; the old password holds$",
        ),
        (
            told(Answer(words="嗯", positive=None)),
            Problem,
            "the vendor says: 嗯; either password may hold: try the new one first",
        ),
        (Said(told(CHANGED).body, cut=9), Problem, "not come whole .*; either password may hold"),
        (Said(b"proxy gave up", 502), Problem, "HTTP 502.*; either password may hold"),
        (Said(b"", 404), Problem, "HTTP 404; either password may hold"),
        (Said(f"<p>{PASSWORD}".encode()), Problem, r"<p>\*\*\*.*; either password may hold"),
        (
            told(Balance(kind="b", amount=Decimal(1))),
            Problem,
            "asked for; either password may hold",
        ),
    ],
)
def test_what_is_not_a_plain_yes_says_which_password_holds(
    typed: Typed, password: str, answer: Said, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        typed(answer, *CHANGE)
    assert len(typed.requests) == 1
    assert password not in str(caught.value)


@pytest.mark.parametrize(
    "spelt",
    [
        PASSWORD.encode(),
        PASSWORD.encode("gb18030"),
        PASSWORD.encode("utf-16-le"),
        html.escape(PASSWORD).encode(),
        quote(PASSWORD).encode(),
        quote(PASSWORD, safe="", encoding="gb18030").replace("%20", "+").encode(),
        json.dumps(PASSWORD)[1:-1].encode(),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_the_password_stands_nowhere_whatever_the_vendor_says(
    typed: Typed,
    database: Database,
    password: str,
    capsys: pytest.CaptureFixture[str],
    spelt: bytes,
    cut: bool,
) -> None:
    body = b'{"events": [], "echo": "' + spelt + b'"}'
    answer = Said(body + b"more", headers={"x-new": "value"}, cut=len(body) if cut else None)
    with pytest.raises(Problem) as caught:
        typed(answer, *CHANGE)
    shown = "".join(capsys.readouterr()) + str(caught.value)
    [row] = _rows_of(database, "SELECT * FROM records")
    assert b"***" in row["body"].replace(b"\0", b"")
    assert spelt not in row["body"]
    dumped = json.dumps(
        [str(value) for each in _everything(database) for value in each], ensure_ascii=False
    )
    for text in (shown, dumped):
        assert password not in text
        assert spelt.decode("latin-1") not in text
    assert spelt.hex() not in dumped


def _everything(database: Database) -> list[Any]:
    """Every row of every table, and nothing decoded away."""
    tables = _rows_of(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    found: list[Any] = []
    for table in tables:
        found += _rows_of(database, f"SELECT t::text FROM {table['tablename']} AS t")
    return found


def test_the_logs_leave_the_new_password_out(
    typed: Typed, password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(told(CHANGED), *CHANGE)[0] == 0
    capsys.readouterr()
    logging.getLogger("some.library").error("now %s", password)
    assert "now ***" in capsys.readouterr().err
    logs.configure()


def test_a_database_that_goes_away_meanwhile_leaves_it_open(
    typed: Typed, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise asyncpg.ConnectionDoesNotExistError

    monkeypatch.setattr(records, "store", away)
    monkeypatch.setattr("reconciler.asking._ONLY_COPY_SECONDS", 0.1)
    with pytest.raises(Problem, match=r"could not be kept .*; either password may hold"):
        typed(told(CHANGED), *CHANGE)


@pytest.mark.parametrize(
    ("value", "said"), [(None, "NEW_PASSWORD is not set"), ("12345", "at least 6 characters")]
)
def test_a_password_that_cannot_be_used_is_said_before_anybody_is_asked(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, value: str | None, said: str
) -> None:
    if value is not None:
        monkeypatch.setenv("NEW_PASSWORD", value)
    with pytest.raises(Problem, match=said):
        typed(told(CHANGED), *CHANGE)
    assert typed.requests == []


def test_without_a_terminal_it_is_not_asked_for(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("typed-in-vain\n"))
    with pytest.raises(Problem, match="give --from-env NAME"):
        typed(told(CHANGED), "password", "change", "--account", "main")


def test_at_a_terminal_it_is_asked_for_twice_and_never_shown(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def hidden(prompt: str) -> str:
        asked.append(prompt)
        return PASSWORD

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(click.termui, "hidden_prompt_func", hidden)
    code, requests = typed(told(CHANGED), "password", "change", "--account", "main")
    assert (code, requests) == (0, [("/main/change_password", {"new": PASSWORD})])
    assert len(asked) == 2
    assert PASSWORD not in "".join(capsys.readouterr())


def test_it_is_no_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["password", "change", "--account", "main", PASSWORD])
    assert caught.value.code == 2
