"""`huizhi doctor`, as typed: against vendors that share nothing with us, and in broken set-ups."""

import asyncio
import contextlib
import json
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_init import huizhi

from runtime.database import Database
from runtime.sockets import free_ports
from sandbox import Config, Running, running
from sandbox.config import (
    DeepFinchConfig,
    ItniotechConfig,
    OneCloudSpConfig,
    ThinkApiConfig,
    ThinkSmsConfig,
)
from sandbox.deepfinch import DeepFinchAccount
from sandbox.itniotech import ItniotechAccount
from sandbox.onecloudsp import OneCloudSpAccount
from sandbox.thinkapi import ThinkApiAccount
from sandbox.thinksms import ThinkSmsAccount

pytestmark = pytest.mark.anyio

Found = list[dict[str, str]]
RIGHT = {
    "thinkapi": {"app_code": "right-app-code"},
    "thinksms": {"user_id": "1001", "account": "acme-account", "password": "right-password"},
    "onecloudsp": {"access_key": "right-access-key", "secret": "right-secret"},
    "itniotech": {"api_key": "right-api-key", "api_secret": "right-secret", "app_id": "right-app"},
    "deepfinch": {"secret_id": "right-secret-id", "secret_key": "right-secret-key"},
}
WRONG = {
    gateway: {name: "1002" if name == "user_id" else f"wrong-{name}" for name in credentials}
    for gateway, credentials in RIGHT.items()
}
TOKEN = "a-token-that-is-long-enough"


@pytest.fixture
async def vendors() -> AsyncIterator[Running]:
    config = Config(
        port=0,
        strict=True,
        thinkapi=ThinkApiConfig({"a": ThinkApiAccount(**RIGHT["thinkapi"])}),
        thinksms=ThinkSmsConfig({"a": ThinkSmsAccount(**RIGHT["thinksms"])}),
        onecloudsp=OneCloudSpConfig({"a": OneCloudSpAccount(**RIGHT["onecloudsp"])}),
        itniotech=ItniotechConfig({"a": ItniotechAccount(**RIGHT["itniotech"])}),
        deepfinch=DeepFinchConfig({"a": DeepFinchAccount(**RIGHT["deepfinch"])}),
    )
    async with running(config) as handle:
        yield handle


def written(
    folder: Path,
    credentials: dict[str, dict[str, str]],
    base_url: Callable[[str], str],
    *more: str,
) -> None:
    receiver, reconciler = free_ports(2)
    lines = [
        *("[receiver]", 'host = "127.0.0.1"', f"port = {receiver}"),
        *("[reconciler]", f"port = {reconciler}", f'api_token = "{TOKEN}"'),
    ]
    for gateway, secrets in credentials.items():
        given = ", ".join(f'{name} = "{secret}"' for name, secret in secrets.items())
        lines += [f"[accounts.{gateway}]", f'gateway = "{gateway}"']
        lines += [f'base_url = "{base_url(gateway)}"', f"credentials = {{ {given} }}"]
        lines += [f'callback_tokens = ["{TOKEN}"]']
    (folder / "huizhi.toml").write_text("\n".join([*lines, *more]) + "\n", "utf-8")


def nowhere(_gateway: str) -> str:
    return "http://127.0.0.1:9"


async def examined(
    folder: Path, database: Database | None, *arguments: str, url: str | None = None
) -> tuple[int, Found]:
    """What it says of the settings in `folder`; it is never more than JSON, and holds no secret."""
    dsn = url or (database.dsn.reveal() if database else None)
    env = {"PYTHONUTF8": "1", **({"DATABASE_URL": dsn} if dsn else {})}
    for name in ("HUIZHI_POSTGRES_BIN",):
        if name in os.environ:
            env[name] = os.environ[name]
    told = await asyncio.to_thread(
        huizhi, folder, "doctor", "--output", "json", *arguments, env=env
    )
    assert told.stderr == ""
    for credentials in (RIGHT, WRONG):
        for secrets in credentials.values():
            for name, secret in secrets.items():
                assert name == "user_id" or secret not in told.stdout, name
    assert TOKEN not in told.stdout
    shown = json.loads(told.stdout)
    assert sum(shown["counts"].values()) == len(shown["items"])
    for finding in shown["items"]:
        needs = finding["result"] in ("warning", "failed")
        assert bool(finding["advice"]) or not needs, finding
    assert told.returncode == (1 if shown["counts"]["failed"] else 0)
    return told.returncode, shown["items"]


def of(found: Found, check: str, account: str = "") -> list[tuple[str, str]]:
    return [
        (each["result"], each["found"])
        for each in found
        if (each["check"], each["account"]) == (check, account)
    ]


def result(found: Found, check: str, account: str = "") -> str:
    ((told, _),) = of(found, check, account)
    return told


def wrong(found: Found) -> set[str]:
    """What failed, but for the durability of the tests' own server, which runs without fsync."""
    return {each["check"] for each in found if each["result"] == "failed"} - {"durability"}


# --- vendors -----------------------------------------------------------------------------------------


async def test_right_credentials_are_accepted_and_nothing_at_the_vendors_changes(
    vendors: Running, database: Database, tmp_path: Path
) -> None:
    written(tmp_path, RIGHT, vendors.base_url)
    _, found = await examined(tmp_path, database)
    assert wrong(found) == set()
    for gateway in ("thinksms", "onecloudsp", "itniotech"):
        assert of(found, "vendor", gateway) == [
            ("ok", "it told the balance: the credentials are accepted")
        ]
        assert result(found, "clock", gateway) == "ok"
    # Nothing is known here that ThinkAPI could be asked about, and deepfinch has no harmless call.
    for gateway in ("thinkapi", "deepfinch"):
        assert result(found, "vendor", gateway) == "ok"
        assert result(found, "credentials", gateway) == "not checked"
    assert "no call that is harmless" in of(found, "credentials", "deepfinch")[0][1]
    assert vendors.truth("message", "push") == []
    assert vendors.sandbox.world.violations == [
        each for each in vendors.sandbox.world.violations if "deepfinch" in str(each)
    ]


async def test_a_vendor_is_asked_about_what_is_known_here(
    vendors: Running, database: Database, pool: Any, tmp_path: Path
) -> None:
    only = {"thinkapi": RIGHT["thinkapi"]}
    written(tmp_path, only, vendors.base_url)
    add = "INSERT INTO reviews (account, kind, vendor_id, status) VALUES ('thinkapi', 'sign', $1, 'approved')"
    await pool.execute(add, "98765")
    _, found = await examined(tmp_path, database)
    assert wrong(found) == set()
    assert result(found, "credentials", "thinkapi") == "warning"
    assert "does not know" in of(found, "credentials", "thinkapi")[0][1]


@pytest.mark.parametrize("gateway", [name for name in RIGHT if name != "deepfinch"])
async def test_wrong_credentials_are_found_out(
    vendors: Running, database: Database, tmp_path: Path, gateway: str
) -> None:
    written(tmp_path, WRONG, vendors.base_url)
    code, found = await examined(tmp_path, database, "--account", gateway)
    assert code == 1
    ((told, words),) = of(found, "vendor", gateway)
    assert (told, "does not answer us: refused by the vendor with" in words) == ("failed", True)
    assert {each["account"] for each in found if each["check"] == "vendor"} == {gateway}


async def test_vendors_that_cannot_be_reached_are_named(database: Database, tmp_path: Path) -> None:
    written(tmp_path, RIGHT, nowhere)
    code, found = await examined(tmp_path, database)
    assert code == 1
    for gateway in RIGHT:
        ((told, words),) = of(found, "vendor", gateway)
        assert (told, "cannot be reached" in words) == ("failed", True)


@contextlib.contextmanager
def page(body: bytes, date: datetime | None = None) -> Iterator[str]:
    """Serve one page for everything, with the clock at `date`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            at = (date or datetime.now(UTC)).strftime("%a, %d %b %Y %H:%M:%S GMT")
            self.send_header("date", at)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_a_proxys_page_is_not_taken_for_a_vendor_and_a_wrong_clock_is_seen(
    database: Database, tmp_path: Path
) -> None:
    with page(b"<html>log in</html>", datetime.now(UTC) - timedelta(hours=1)) as url:
        written(tmp_path, RIGHT, lambda _: url)
        code, found = await examined(tmp_path, database)
    assert code == 1
    for gateway in ("thinkapi", "onecloudsp", "itniotech"):
        ((told, words),) = of(found, "vendor", gateway)
        assert (told, "not understood" in words) == ("failed", True), gateway
    assert result(found, "vendor", "thinksms") == "failed"
    for gateway in RIGHT:
        assert result(found, "clock", gateway) == "failed"


# --- the database ------------------------------------------------------------------------------------


async def test_a_sound_database_and_machine_have_nothing_wrong(
    database: Database, tmp_path: Path
) -> None:
    written(tmp_path, {}, nowhere)
    _, found = await examined(tmp_path, database)
    assert wrong(found) == set()
    durable = await _shown(database, "fsync") == "on"
    assert result(found, "durability") == ("ok" if durable else "failed")
    for check in ("settings", "data_dir", "spool", "token", "database", "clock", "migrations"):
        assert result(found, check) == "ok", check
    assert {told for told, _ in of(found, "privileges")} == {"ok"}
    assert result(found, "jobs") == "not checked"
    assert result(found, "alerts") == "warning"
    assert result(found, "vendors") == "not checked"
    assert result(found, "port of the receiver") == "ok"


async def _shown(database: Database, name: str) -> str:
    async with database.connection() as connection:
        told: str = await connection.fetchval(f"SHOW {name}")
        return told


async def test_an_unmigrated_database_is_said_and_left_alone(
    empty_database: Database, tmp_path: Path
) -> None:
    written(tmp_path, {}, nowhere)
    code, found = await examined(tmp_path, empty_database)
    assert code == 1
    assert result(found, "migrations") == "failed"
    async with empty_database.connection() as connection:
        assert await connection.fetchval("SELECT to_regclass('migrations')") is None


@pytest.mark.parametrize(
    ("setting", "value", "check"),
    [
        ("synchronous_commit", "off", "durability"),
        ("default_transaction_read_only", "on", "database"),
    ],
)
async def test_a_database_that_forgets_or_takes_nothing_has_failed(
    database: Database, tmp_path: Path, setting: str, value: str, check: str
) -> None:
    written(tmp_path, {}, nowhere)
    name = await _shown_name(database)
    async with database.connection() as connection:
        await connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    code, found = await examined(tmp_path, database)
    assert code == 1
    assert "failed" in {told for told, _ in of(found, check)}


async def _shown_name(database: Database) -> str:
    async with database.connection() as connection:
        name: str = await connection.fetchval("SELECT current_database()")
        return name


async def test_a_log_in_without_rights_is_found_out(database: Database, tmp_path: Path) -> None:
    written(tmp_path, {}, nowhere)
    role = f"nobody_{os.getpid()}"
    async with database.connection() as connection:
        await connection.execute(f"CREATE ROLE {role} LOGIN")
        await connection.execute(
            f"GRANT SELECT ON migrations, jobs, leases, reviews, messages TO {role}"
        )
    try:
        parts = database.dsn.reveal().partition("?")
        user = f"user={role}"
        rest = "&".join(
            each for each in parts[2].split("&") if each and not each.startswith("user=")
        )
        place = re.sub(r"(?<=//)[^@/]*@", "", parts[0])
        code, found = await examined(tmp_path, None, url=f"{place}?{user}&{rest}".rstrip("&"))
    finally:
        async with database.connection() as connection:
            await connection.execute(f"DROP OWNED BY {role}")
            await connection.execute(f"DROP ROLE {role}")
    assert code == 1
    assert {told for told, _ in of(found, "privileges")} == {"failed"}


async def test_everything_else_is_examined_while_the_database_is_away(
    vendors: Running, tmp_path: Path
) -> None:
    written(tmp_path, {"thinksms": RIGHT["thinksms"]}, vendors.base_url)
    (port,) = free_ports(1)
    url = f"postgresql://me:very-secret-word@127.0.0.1:{port}/none"
    code, found = await examined(tmp_path, None, url=url)
    assert code == 1
    assert result(found, "database") == "failed"
    assert "very-secret-word" not in json.dumps(found)
    assert result(found, "vendor", "thinksms") == "ok"


async def test_without_a_database_of_its_own_none_is_made(tmp_path: Path) -> None:
    written(tmp_path, {}, nowhere)
    code, found = await examined(tmp_path, None, "--offline")
    assert code == 0
    assert result(found, "database") == "not checked"
    assert not (tmp_path / "data").exists()


async def test_jobs_that_fail_or_stand_still_are_named(
    database: Database, pool: Any, tmp_path: Path
) -> None:
    written(tmp_path, {"thinksms": RIGHT["thinksms"]}, nowhere)
    now = datetime.now(UTC)
    add = (
        "INSERT INTO jobs (name, account, started_at, finished_at, failures_in_row, error)"
        " VALUES ($1, $2, $3, $3, $4, $5)"
    )
    await pool.execute(add, "settle", "", now, 0, None)
    await pool.execute(add, "balance", "thinksms", now, 4, "query_balance: no")
    await pool.execute(add, "pull_reports", "thinksms", now - timedelta(hours=2), 0, None)
    await pool.execute(add, "gone", "thinksms", now - timedelta(days=2), 9, "no such job any more")
    code, found = await examined(tmp_path, database, "--offline")
    assert code == 1
    assert sorted(of(found, "jobs", "thinksms")) == [
        ("failed", "balance failed 4 times in a row: query_balance: no"),
        ("warning", "pull_reports is late: it last began 120 minutes ago"),
    ]
    await pool.execute("UPDATE jobs SET started_at = started_at - interval '1 day'")
    code, found = await examined(tmp_path, database, "--offline")
    ((told, words),) = of(found, "jobs")
    assert (code, told, words.startswith("none has run since")) == (1, "failed", True)


# --- the machine -------------------------------------------------------------------------------------


async def test_wrong_settings_are_a_finding(tmp_path: Path) -> None:
    (tmp_path / "huizhi.toml").write_text("[reciever]\nport = 1\n", "utf-8")
    code, found = await examined(tmp_path, None)
    assert code == 1
    assert [each["result"] for each in found] == ["failed", "not checked"]
    assert "reciever: unknown key; did you mean receiver?" in found[0]["found"]


async def test_an_account_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    written(tmp_path, {}, nowhere)
    told = huizhi(tmp_path, "doctor", "--account", "none")
    assert (told.returncode, told.stdout) == (2, "")
    assert "no account 'none'" in told.stderr


async def test_a_taken_port_a_left_spool_and_open_tokens_are_found(
    database: Database, tmp_path: Path
) -> None:
    with page(b"another program") as url:
        port = int(url.rpartition(":")[2])
        (tmp_path / "huizhi.toml").write_text(
            f"""
            [receiver]
            host = "127.0.0.1"
            port = {port}
            [reconciler]
            port = 0
            [accounts.a]
            gateway = "thinksms"
            credentials = {{ user_id = "1", account = "a", password = "p" }}
            callback_tokens = ["short"]
            [alerts.ops]
            url = "nosuchthing://x-secret-of-the-channel"
            """,
            "utf-8",
        )
        aside = tmp_path / "data/spool/set-aside"
        aside.mkdir(parents=True)
        (aside / "piece").write_bytes(b"x")
        (tmp_path / "data/api-token").write_text("a-token-that-others-can-read\n")
        (tmp_path / "data/api-token").chmod(0o644)
        code, found = await examined(tmp_path, database, "--offline")
    assert code == 1
    assert ("warning", "1 pieces were set aside") in of(found, "spool")
    assert result(found, "token") == "warning"
    assert result(found, "token", "a") == "warning"
    assert "x-secret-of-the-channel" not in json.dumps(found)
    assert result(found, "alerts") == "failed"
    assert result(found, "port of the receiver") == "failed"


@pytest.mark.parametrize("gateway", list(RIGHT))
async def test_two_accounts_with_the_same_credentials_are_found_where_it_does_harm(
    tmp_path: Path, gateway: str
) -> None:
    given = ", ".join(f'{name} = "{secret}"' for name, secret in RIGHT[gateway].items())
    again = f"[accounts.again]\ngateway = '{gateway}'\ncredentials = {{ {given} }}\n"
    there = "base_url = 'http://127.0.0.1:9/'\n"
    written(tmp_path, RIGHT, nowhere, again + there)
    harm = gateway not in ("thinkapi", "deepfinch")  # asked by id, and not at all
    _, found = await examined(tmp_path, None, "--offline")
    told = of(found, "accounts", "again")
    assert [each[0] for each in told] == ["warning"] * harm
    note = f"again has the credentials of {gateway}: each takes the other's reports"
    assert (note in huizhi(tmp_path, "check-config").stdout) == harm
    # The same words at another host are another account.
    written(tmp_path, RIGHT, nowhere, again + there.replace("127.0.0.1", "127.0.0.2"))
    _, found = await examined(tmp_path, None, "--offline")
    assert of(found, "accounts", "again") == []


async def test_a_folder_that_cannot_be_used_is_found(database: Database, tmp_path: Path) -> None:
    written(tmp_path, {}, nowhere)
    (tmp_path / "data").write_text("a file")
    code, found = await examined(tmp_path, database, "--offline")
    assert code == 1
    assert result(found, "data_dir") == "failed"


async def test_a_table_says_the_same(tmp_path: Path) -> None:
    written(tmp_path, {}, nowhere)
    told = huizhi(tmp_path, "doctor", "--offline")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.splitlines()[0].split() == ["result", "check", "account", "found", "advice"]
    assert told.stdout.splitlines()[-1] == "7 ok, 1 warning, 2 not checked"
