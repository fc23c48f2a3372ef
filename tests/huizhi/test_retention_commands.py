"""`huizhi retention` and `huizhi erase`, as typed, and the API beside them."""

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from test_commands import SENT, SETTINGS, delivered, pushed

from reconciler.api import create_app
from runtime import records, settlement
from runtime.database import Database
from runtime.settings import SettingsError, load, parse

pytestmark = pytest.mark.anyio

NUMBER = "13800138000"
Told = subprocess.CompletedProcess[str]
Typed = Callable[..., Awaitable[Told]]
KEPT = """
[accounts.think.retention]
bodies_days = 30
texts_days = 30
numbers_days = 60
"""


@pytest.fixture
def typed(tmp_path: Path, database: Database) -> Typed:
    (tmp_path / "huizhi.toml").write_text(
        SETTINGS.replace("[accounts.sms]", KEPT + "[accounts.sms]")
    )
    (tmp_path / "sent.csv").write_text(SENT, "utf-8")
    env = {
        **os.environ,
        "DATABASE_URL": database.dsn.reveal(),
        "COLUMNS": "300",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    def run(*arguments: str, stdin: str = "") -> Told:
        return subprocess.run(
            [sys.executable, "-m", "huizhi", *arguments],
            cwd=tmp_path,
            env=env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    async def elsewhere(*arguments: str, stdin: str = "") -> Told:
        return await asyncio.to_thread(run, *arguments, stdin=stdin)

    return elsewhere


async def fill(typed: Typed, pool: Any, folder: Path) -> None:
    assert (await typed("sent", "import", "sent.csv")).returncode == 0
    found = [pushed(delivered("a")), pushed(delivered("b"))]
    async with pool.acquire() as connection:
        batch, _ = await records.store(connection, found, recorder="test", now=found[0].received_at)
    accounts = load(folder / "huizhi.toml", {}).accounts
    await settlement.settle(pool, accounts, found, batches=[batch], now=found[0].received_at)


async def test_retention_says_what_is_held_and_what_would_go_and_then_it_goes(
    typed: Typed, pool: Any, tmp_path: Path
) -> None:
    await fill(typed, pool, tmp_path)
    held = json.loads((await typed("retention", "--output", "json")).stdout)
    think = held["accounts"][0]
    assert (think["account"], think["bodies"], think["texts"]) == ("think", 0, 0)
    assert think["held_unclosed"] == 3
    await pool.execute(
        "INSERT INTO periods (account, first_day, last_day, versions, closed_run, closed_at, closed_by)"
        " VALUES ('think', '2024-10-01', '2024-10-31', 1, gen_random_uuid(), now(), 'x')"
    )
    dry = await typed("retention", "--dry-run")
    assert "Nothing was purged" in dry.stdout
    assert dry.stderr == (
        "huizhi: sms: keeps everything: no [accounts.sms.retention] says what is old enough\n"
    )
    assert await pool.fetchval("SELECT count(*) FROM records WHERE body <> ''") == 2
    done = json.loads((await typed("retention", "--account", "think", "--output", "json")).stdout)
    assert done["accounts"][0]["bodies"] == 2
    assert done["accounts"][0]["numbers"] == 2
    assert await pool.fetchval("SELECT count(*) FROM records WHERE body <> ''") == 0
    key = tmp_path / "data" / "pseudonym-key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.write_text("another\n")
    refused = await typed("retention")
    assert refused.returncode != 0
    assert "is not the one that this database's were made with" in refused.stderr
    assert "Traceback" not in refused.stderr


async def test_erase_takes_the_number_from_standard_input_and_never_shows_it(
    typed: Typed, pool: Any, tmp_path: Path
) -> None:
    await fill(typed, pool, tmp_path)
    told = await typed("erase", "--by", "dpo", stdin=f"+86 {NUMBER}\n")
    assert (told.returncode, told.stderr) == (0, "")
    subject = await pool.fetchval(
        "SELECT subject FROM operator_actions WHERE what = 'huizhi erase' AND outcome = 'done'"
    )
    assert subject == {"erasure": told.stdout.split(":")[0]}
    assert "2 messages" in told.stdout
    assert "2 bodies" in told.stdout
    assert NUMBER not in told.stdout
    assert await pool.fetchval("SELECT count(*) FROM messages WHERE phone = $1", NUMBER) == 0
    assert (await typed("erase", stdin="no number\n")).returncode != 0
    assert (await typed("erase", NUMBER)).returncode != 0


async def test_the_api_erases_lists_and_says_what_is_gone(
    typed: Typed, pool: Any, database: Database, tmp_path: Path
) -> None:
    await fill(typed, pool, tmp_path)
    digest = await pool.fetchval("SELECT encode(digest, 'hex') FROM records LIMIT 1")
    app = create_app(load(tmp_path / "huizhi.toml", {}), database)
    transport = httpx.ASGITransport(cast(Any, app), raise_app_exceptions=False)
    headers = {"authorization": "Bearer the-token"}
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers) as client,
    ):
        assert (await client.get(f"/v1/callbacks/{digest}/body")).status_code == 200
        bad = await client.post("/v1/erasures", json={"phone": "12"})
        assert bad.status_code == 422
        done = await client.post("/v1/erasures", json={"phone": NUMBER, "by": "dpo"})
        assert (done.status_code, done.json()["requested_by"]) == (200, "dpo")
        assert NUMBER not in done.text
        gone = await client.get(f"/v1/callbacks/{digest}/body")
        assert (gone.status_code, "purged on" in gone.json()["detail"]) == (410, True)
        listed = (await client.get("/v1/erasures")).json()
        assert listed["items"] == [done.json()]
        assert done.json()["state"] == "done"
        shown = await client.get(f"/v1/erasures/{done.json()['id']}")
        assert (shown.status_code, shown.json()) == (200, done.json())
        messages = (await client.get("/v1/messages")).json()["items"]
        assert {each["phone"] for each in messages} == {done.json()["pseudonym"]}
        one = await client.get(f"/v1/messages/{messages[0]['id']}")
        assert one.status_code == 200
        assert NUMBER not in one.text
        callbacks = (await client.get("/v1/callbacks")).json()["items"]
        assert all(each["bytes"] > 0 for each in callbacks)
        replays = await client.get("/v1/replays")
        assert (replays.status_code, replays.json()["items"]) == (200, [])


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("numbers_days = 30", "bodies_days: missing; expected at most numbers_days, 30"),
        (
            "numbers_days = 30\nbodies_days = 40\ntexts_days = 3",
            "bodies_days: expected at most numbers_days, 30",
        ),
        (
            "texts_days = 2",
            "texts_days: expected days that are not over before poll_until_hours, 72",
        ),
        ("bodies_days = 0", "bodies_days: expected a number of days of at least 1"),
        ("bodies = 3", "bodies: unknown key; did you mean bodies_days?"),
    ],
)
def test_retention_that_cannot_be_meant_is_refused(lines: str, complaint: str) -> None:
    text = SETTINGS.replace(
        "[accounts.sms]", f"[accounts.think.retention]\n{lines}\n[accounts.sms]"
    )
    with pytest.raises(SettingsError) as refused:
        parse(text, Path("huizhi.toml"), {})
    assert f"accounts.think.retention.{complaint}" in str(refused.value)
