"""`huizhi sign` and `huizhi template`, as typed, against a vendor that shares nothing with us."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from test_init import huizhi

from runtime.database import Database
from sandbox import Config, Running, running
from sandbox import clock as sandbox_clock
from sandbox.config import ThinkApiConfig
from sandbox.settings import Faults
from sandbox.thinkapi import ThinkApiAccount

pytestmark = pytest.mark.anyio

Told = subprocess.CompletedProcess[str]
CONTENT = "你有一个新的${name}订单,请及时处理!"


async def _vendor(**faults: float) -> AsyncIterator[Running]:
    account = ThinkApiAccount(app_code="code")
    config = Config(
        port=0,
        hold_pushes=True,
        review_rejected=0.0,
        strict=True,
        faults=Faults(**faults),
        thinkapi=ThinkApiConfig({"api": account}),
    )
    async with running(config) as vendor:
        yield vendor


@pytest.fixture
async def vendor() -> AsyncIterator[Running]:
    async for each in _vendor():
        yield each


@pytest.fixture
async def cutting() -> AsyncIterator[Running]:
    """A vendor none of whose replies comes whole."""
    async for each in _vendor(reply_cut=1.0):
        yield each


@pytest.fixture
def typed(tmp_path: Path, database: Database) -> Callable[..., Awaitable[Told]]:
    async def run(vendor: Running, *arguments: str) -> Told:
        (tmp_path / "huizhi.toml").write_text(
            f"""
            [accounts.api]
            gateway = "thinkapi"
            base_url = "{vendor.base_url("thinkapi")}"
            credentials = {{ app_code = "code" }}

            [accounts.sms]
            gateway = "thinksms"
            base_url = "{vendor.base_url("thinksms")}"
            credentials = {{ user_id = "1", account = "me", password = "hush" }}
            """,
            "utf-8",
        )
        env = {"DATABASE_URL": database.dsn.reveal(), "COLUMNS": "300"}
        return await asyncio.to_thread(huizhi, tmp_path, *arguments, env=env)

    return run


def _row(told: Told) -> dict[str, Any]:
    assert (told.returncode, told.stderr) == (0, "")
    row: dict[str, Any] = json.loads(told.stdout)
    return row


def _mistake(told: Told) -> str:
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.count("\n") == 1
    assert told.stderr.startswith("huizhi: ")
    return told.stderr.removeprefix("huizhi: ").rstrip("\n")


async def test_a_template_from_submission_to_approval(
    vendor: Running, typed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("--account", "api", "--name", "订单通知", "--remark", "用于订单通知")
    told = await typed(vendor, "template", "add", *common, "--content", "【云】${name}")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.splitlines() == [
        "huizhi: warning: the template has 【, which is taken for a sign;"
        " --force submits it all the same",
        "huizhi: warning: the template has 】, which is taken for a sign;"
        " --force submits it all the same",
    ]
    assert vendor.truth("review") == []

    forced = ("--content", "【云】${name}", "--force", "--output", "json")
    told = await typed(vendor, "template", "add", *common, *forced)
    assert told.returncode == 0
    assert told.stderr.count("huizhi: warning: ") == told.stderr.count("\n") == 2
    row = json.loads(told.stdout)
    assert (row["account"], row["status"], row["content"]) == ("api", "pending", "【云】${name}")
    id = row["vendor_id"]

    await vendor.release("reviews")
    row = _row(await typed(vendor, "template", "query", id, "--account", "api", "--output", "json"))
    assert row["status"] == "rejected"
    assert "【】" in row["reason"]
    assert [each["status"] for each in row["history"]] == ["pending", "rejected"]

    real = sandbox_clock.now
    monkeypatch.setattr(sandbox_clock, "now", lambda: real() + timedelta(hours=1))
    told = await typed(vendor, "template", "modify", id, *common, "--content", CONTENT)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.splitlines()[0].split()[:5] == [
        *("account", "vendor_id", "status", "vendor_code", "name")
    ]
    await vendor.release("reviews")
    row = _row(await typed(vendor, "template", "query", id, "--account", "api", "--output", "json"))
    assert (row["status"], row["content"]) == ("approved", CONTENT)

    refused = await typed(vendor, "template", "modify", id, *common, "--content", CONTENT)
    assert _mistake(refused) == "refused by the vendor with 409: 已经通过审核的模板不允许修改"
    assert vendor.truth("violation") == []

    rows = json.loads((await typed(vendor, "template", "list", "--output", "json")).stdout)
    assert [each["vendor_id"] for each in rows["items"]] == [id]
    listed = await typed(vendor, "template", "list", "--status", "rejected", "--output", "json")
    assert json.loads(listed.stdout)["items"] == []


async def test_a_sign_has_no_content(vendor: Running, typed: Any) -> None:
    told = await typed(
        vendor, *("sign", "add", "--account", "api", "--name", "顶想云", "--remark", "通知")
    )
    assert (told.returncode, told.stderr) == (0, "")
    head, line = told.stdout.splitlines()
    assert "content" not in head
    assert {"api", "pending", "顶想云", "通知"} <= set(line.split())
    told = await typed(vendor, "sign", "list", "--output", "csv")
    assert told.stdout.splitlines()[1].count("顶想云") == 1
    assert vendor.truth("violation") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sign", "add", "--name", "a", "--remark", "b"), "offers no `sign add`"),
        (("sign", "modify", "1", "--name", "a", "--remark", "b"), "offers no `sign modify`"),
        (("template", "query", "1"), "offers no `template query`"),
        (("template", "list"), "offers no `template list`"),
    ],
)
async def test_what_a_vendor_does_not_offer_is_said_in_one_line(
    vendor: Running, typed: Any, arguments: tuple[str, ...], said: str
) -> None:
    told = _mistake(await typed(vendor, *arguments, "--account", "sms"))
    assert told == f"智想云创 thinksms (sms) {said}"
    told = _mistake(await typed(vendor, *arguments, "--account", "none"))
    assert told.startswith("no account 'none' in huizhi.toml; there are: api, sms")
    assert len(vendor.sandbox.world.requests) == 0


async def test_a_vendor_that_knows_of_no_such_sign_refuses(vendor: Running, typed: Any) -> None:
    told = await typed(vendor, "sign", "query", "99", "--account", "api")
    assert _mistake(told) == "refused by the vendor with 404: 签名不存在"


async def test_a_lost_reply_says_where_to_look(cutting: Running, typed: Any) -> None:
    common = ("--account", "api", "--name", "顶想云", "--remark", "通知")
    told = await typed(cutting, "sign", "add", *common)
    assert (told.returncode, told.stdout) == (2, "")
    # Before it: that what came of the reply stands in quarantine.
    assert ": the reply did not come whole (" in told.stderr.splitlines()[-1]
    assert told.stderr.endswith(
        "it may have been submitted: look into the vendor's console before submitting it again\n"
    )
    told = await typed(cutting, "sign", "modify", "471", *common)
    assert (told.returncode, told.stdout) == (2, "")
    # Before it: that the question which followed was repeated.
    assert told.stderr.endswith("it may have been submitted: `huizhi sign query 471` tells\n")
    assert len(cutting.truth("review")) == 2
