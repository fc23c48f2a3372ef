"""Forged reports against known ids, pushed as each vendor pushes over real HTTP, change nothing."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import httpx
import pytest

from gateways import GATEWAYS
from gateways.gateway import Call, Reply
from reconciler import ledger, match, periods, statements, suspects
from reconciler.reading import arrived
from runtime import records, settlement
from runtime.database import Database
from runtime.settings import Settings, load

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
ZONE = ZoneInfo("Asia/Shanghai")
PHONE, OTHER = "13900000001", "13900000002"
KNOWN, FOREIGN = "203.0.113.7", "198.51.100.9"
# What a test's receiver runs, on a socket that it inherits.
WORKER = """
import socket, sys
from pathlib import Path
from gateways.gateway import Secret
from receiver import worker
from runtime import logs, settings
from runtime.database import Database
read = settings.load(Path(sys.argv[1]), {})
logs.configure(secrets=read.secrets)
worker.run(read, Database(dsn=Secret(sys.argv[2]), name="receiver"), socket.socket(fileno=int(sys.argv[3])))
"""
SETTINGS = """
data_dir = "data"
[receiver]
trusted_proxies = ["127.0.0.0/8"]
"""
ACCOUNT = """
[accounts.{name}]
gateway = "{gateway}"
clock_slack_seconds = 3600
credentials = {credentials}
callback_tokens = ["token"]
known_networks = ["203.0.113.0/24"]
{more}
[[accounts.{name}.tariffs]]
from = 2026-01-01
price = "0.04"
currency = "{currency}"
basis = "delivered"
"""


def local(at: datetime) -> str:
    return at.astimezone(ZONE).strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True)
class Push:
    """A request as a vendor makes it."""

    body: bytes
    content_type: str


def form(**fields: str) -> Push:
    return Push(urlencode(fields).encode(), "application/x-www-form-urlencoded")


def thinkapi(id: str, phone: str, delivered: bool, at: datetime) -> Push:
    sms = {
        "id": id,
        "phone": phone,
        "status": 1 if delivered else -1,
        "message": "",
        "receiveDate": local(at),
    }
    return Push(json.dumps({"action": "report", "sms": sms}).encode(), "application/json")


def thinksms(id: str, phone: str, delivered: bool, at: datetime) -> Push:
    return form(
        mobile=phone,
        taskid=id,
        status="10" if delivered else "20",
        receivetime=local(at),
        errorcode="DELIVRD",
        extno="01",
    )


def onecloudsp(id: str, phone: str, delivered: bool, at: datetime) -> Push:
    return form(
        smUuid=f"52015_1_0_{phone}_1_{id}_1",
        deliverTime=local(at),
        mobile=phone,
        deliverResult="DELIVRD" if delivered else "MK:0011",
        batchId=id,
    )


def itniotech(id: str, phone: str, delivered: bool, at: datetime) -> Push:
    report = {
        "appId": "app",
        "msgid": id,
        "mobile": phone,
        "status": 0 if delivered else 3,
        "reason": "0" if delivered else "UNDELIV",
        "timestamp": round(at.timestamp() * 1000),
        "pricedetail": {"pay": "0.04", "currency": "USD", "chargeCnt": 1, "price": "0.04"},
    }
    return Push(json.dumps(report).encode(), "application/json")


def think_answer(id: str, phone: str, delivered: bool, at: datetime) -> bytes:
    data = {"id": id, "phone": phone, "status": 1 if delivered else -1, "receiveDate": local(at)}
    return json.dumps({"code": 0, "message": "ok", "data": data}).encode()


def itniotech_answer(id: str, phone: str, delivered: bool, at: datetime) -> bytes:
    row = {
        "msgId": id,
        "number": phone,
        "receiveTime": at.astimezone(ZONE).isoformat(),
        "status": "0" if delivered else "1",
    }
    counts = {"success": "1", "fail": "0", "sending": "0", "nofound": "0"}
    return json.dumps({"status": "0", "reason": "success", **counts, "array": [row]}).encode()


@dataclass(frozen=True)
class Vendor:
    """How one vendor pushes and, if it does, answers."""

    name: str
    credentials: str
    push: Callable[[str, str, bool, datetime], Push]
    answer: Callable[[str, str, bool, datetime], bytes] | None = None
    more: str = ""
    currency: str = "CNY"


ONE_NUMBER = {name for name, gateway in GATEWAYS.items() if gateway.id_per_number}
VENDORS = [
    Vendor("thinkapi", '{ app_code = "code" }', thinkapi, think_answer),
    Vendor("thinksms", '{ user_id = "7", account = "me", password = "hush" }', thinksms),
    Vendor("onecloudsp", '{ access_key = "key", secret = "hush" }', onecloudsp),
    Vendor(
        "itniotech",
        '{ api_key = "key", api_secret = "hush", app_id = "app" }',
        itniotech,
        itniotech_answer,
        'push_timestamp = "reported"',
        "USD",
    ),
]


def written(folder: Path) -> Settings:
    parts = [SETTINGS]
    for vendor in VENDORS:
        for name, more in (("plain", ""), ("attacked", ""), ("strict", "confirm_pushes = true")):
            if name == "strict" and vendor.answer is None:
                continue
            parts.append(
                ACCOUNT.format(
                    name=f"{name}-{vendor.name}",
                    gateway=vendor.name,
                    credentials=vendor.credentials,
                    more=f"{more}\n{vendor.more}",
                    currency=vendor.currency,
                )
            )
    file = folder / "huizhi.toml"
    file.write_text("\n".join(parts))
    return load(file, {})


@pytest.fixture
def address(database: Database, tmp_path: Path) -> Iterator[str]:
    """The address of a receiver of the test's own."""
    import socket

    written(tmp_path)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(100)
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", WORKER, str(tmp_path / "huizhi.toml")),
                    *(database.dsn.reveal(), str(bound.fileno())),
                ],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                pass_fds=[bound.fileno()],
            )
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            process.kill()
            process.wait()


@dataclass
class World:
    pool: Any
    settings: Settings
    http: httpx.AsyncClient
    folder: Path
    now: datetime

    async def push(self, account: str, push: Push, *, by: str = KNOWN) -> None:
        told = await self.http.post(
            f"/callbacks/{account}/token",
            content=push.body,
            headers={"content-type": push.content_type, "x-forwarded-for": by},
        )
        assert told.status_code == 200

    async def settled(self) -> None:
        async with asyncio.timeout(30):
            while await self.pool.fetchval(
                "SELECT EXISTS (SELECT FROM batches WHERE settled_at IS NULL)"
            ):
                await asyncio.sleep(0.02)

    async def register(self, account: str, *ids: str, sent_at: datetime) -> None:
        rows: list[ledger.Sent | ledger.Rejected] = [
            ledger.Sent(
                account=account, vendor_message_id=id, phone=PHONE, sent_at=sent_at, segments=1
            )
            for id in ids
        ]
        await ledger.register(self.pool, self.settings.accounts, rows, now=self.now)

    async def answer(self, account: str, body: bytes, subject: str) -> None:
        """Store and settle what the vendor answered to our question."""
        reply = Reply(call=Call.QUERY_STATUS, headers={}, body=body)
        at = datetime.now(UTC)
        found = records.of_reply(account, reply, subject=subject, once=False, received_at=at)
        await settlement.settle(self.pool, self.settings.accounts, [found], batches=(), now=at)

    async def states(self, account: str) -> dict[str, Any]:
        rows = await self.pool.fetch(
            "SELECT m.*, EXISTS (SELECT FROM awaiting a WHERE a.shard = m.shard"
            " AND a.message_id = m.id) AS awaited FROM messages m WHERE account = $1",
            account,
        )
        names = ("status", "vendor_code", "reported_at", "contradicted", "awaited")
        return {row["vendor_message_id"]: {name: row[name] for name in names} for row in rows}

    async def reconciled(self, account: str, bill: list[str], source: Any) -> dict[str, Any]:
        """What a bill of the month comes to, without what names the account or counts suspects."""
        settings = self.settings.accounts[account]
        month = periods.parse(self.now.astimezone(ZONE).strftime("%Y-%m"))
        async with self.pool.acquire() as connection:
            if source == "statement":
                path = self.folder / f"{account}.csv"
                rows = [f"{id},{PHONE},1,0.04" for id in bill]
                path.write_text("\n".join(["任务ID,手机号,计费条数,金额", *rows]) + "\n", "utf-8")
                await statements.import_file(
                    connection,
                    settings,
                    month,
                    path,
                    file_name=path.name,
                    format_name="generic",
                    layout=statements.GENERIC_LAYOUT,
                    now=self.now,
                )
            result = await match.reconcile(connection, settings, month, now=self.now, source=source)
        for name in ("suspects", "orphans"):
            del result["unresolved"][name]
        return {name: result[name] for name in result if name not in ("id", "account")}

    async def suspects(self, account: str) -> dict[str, tuple[str, list[str]]]:
        async with self.pool.acquire() as connection:
            page = await arrived.suspects(
                connection, [account], state=None, reason=None, cursor=None, limit=100
            )
        return {
            f"{item['vendor_message_id']} {item['status']}": (item["state"], item["reasons"])
            for item in page.items
        }


@pytest.fixture
async def world(pool: Any, address: str, tmp_path: Path) -> AsyncIterator[World]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[World]:
        async with httpx.AsyncClient(base_url=address, timeout=30) as http:
            yield World(pool, load(tmp_path / "huizhi.toml", {}), http, tmp_path, datetime.now(UTC))

    async with opened() as it:
        yield it


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
async def test_forged_reports_change_no_state_and_no_bill_and_each_is_listed(
    vendor: Vendor, world: World
) -> None:
    # All in one month, however early in it the test is run.
    zone_now = world.now.astimezone(ZONE)
    sent = max(world.now - timedelta(hours=6), zone_now.replace(day=1, hour=0, minute=0, second=1))
    seen = sent + timedelta(seconds=7)
    ids = ["good", "bad", "open-1", "open-2", "open-3", "open-4"]
    for name in ("plain", "attacked"):
        account = f"{name}-{vendor.name}"
        if name == "attacked":  # one forgery is there before its message
            await world.push(account, vendor.push("open-1", OTHER, True, seen))
        await world.register(account, *ids, sent_at=sent)
        await world.push(account, vendor.push("good", PHONE, True, seen))
        await world.push(account, vendor.push("bad", PHONE, False, seen))
    attacked = f"attacked-{vendor.name}"
    # What says that a message was delivered which was not is money.
    day = timedelta(days=1)
    await world.push(attacked, vendor.push("open-2", PHONE, True, sent - day))
    await world.push(attacked, vendor.push("open-3", PHONE, True, world.now + day))
    await world.push(attacked, vendor.push("open-4", PHONE, True, seen), by=FOREIGN)
    await world.push(attacked, vendor.push("bad", PHONE, True, sent - day))
    await world.push(attacked, vendor.push("good", OTHER, False, seen))
    await world.settled()

    bill = ["good", "bad", "open-1", "open-2", "open-4"]
    sources = ["statement"] + ["reports"] * (vendor.name == "itniotech")
    plain = f"plain-{vendor.name}"
    assert await world.states(attacked) == await world.states(plain)
    for source in sources:
        assert await world.reconciled(attacked, bill, source) == await world.reconciled(
            plain, bill, source
        )
    assert await world.suspects(attacked) == {
        "open-1 delivered": ("waiting", ["number_differs"]),
        "open-2 delivered": ("waiting", ["before_sending"]),
        "open-3 delivered": ("waiting", ["in_future"]),
        "open-4 delivered": ("waiting", ["foreign_network"]),
        "bad delivered": ("waiting", ["before_sending"]),
        "good failed": ("waiting", ["number_differs"]),
    }
    assert await world.suspects(plain) == {}

    if vendor.answer is None:
        return
    # The vendor is asked: it confirms one, and shows the others to be forged.
    for account in (plain, attacked):
        for id, delivered in (
            ("open-2", False),
            ("open-3", True),
            ("open-4", False),
            ("bad", False),
            ("good", True),
        ):
            await world.answer(account, vendor.answer(id, PHONE, delivered, seen), id)
    await suspects.watch(world.pool, world.settings.accounts, now=world.now)
    assert await world.states(attacked) == await world.states(plain)
    after = await world.suspects(attacked)
    assert {id: state for id, (state, _) in after.items()} == {
        "open-1 delivered": "waiting",
        "open-2 delivered": "contradicted",
        "open-3 delivered": "confirmed",
        "open-4 delivered": "contradicted",
        "bad delivered": "contradicted",
        # Only where an id is one number's does an answer for another say anything.
        "good failed": "contradicted" if vendor.name in ONE_NUMBER else "waiting",
    }
    assert after["open-2 delivered"][1] == ["before_sending", "contradicted_by_query"]


@pytest.mark.parametrize(
    "vendor", [vendor for vendor in VENDORS if vendor.answer], ids=lambda vendor: vendor.name
)
async def test_a_forgery_that_is_right_in_everything_is_told_by_the_vendors_answer(
    vendor: Vendor, world: World
) -> None:
    assert vendor.answer is not None
    zone_now = world.now.astimezone(ZONE)
    sent = max(world.now - timedelta(hours=6), zone_now.replace(day=1, hour=0, minute=0, second=1))
    seen = sent + timedelta(seconds=7)
    names = [f"{name}-{vendor.name}" for name in ("plain", "attacked", "strict")]
    for account in names:
        await world.register(account, "1", "2", sent_at=sent)
    plain, attacked, strict = names
    for account in (attacked, strict):
        await world.push(account, vendor.push("1", PHONE, True, seen))
    await world.settled()
    # Nothing tells it from a real one: it counts, unless the account wants all confirmed.
    assert (await world.states(attacked))["1"]["status"] == "delivered"
    assert await world.states(strict) == await world.states(plain)
    assert await world.suspects(strict) == {"1 delivered": ("waiting", ["unconfirmed"])}

    for account in names:
        await world.answer(account, vendor.answer("1", PHONE, False, seen), "1")
    states = [await world.states(account) for account in names]
    assert states[2] == states[0]
    # Where it was trusted the earliest stands, as of any two reports, and it is told that they differ.
    assert (states[0]["1"]["contradicted"], states[1]["1"]["contradicted"]) == (False, True)
    bills = [await world.reconciled(account, ["1"], "statement") for account in names]
    assert bills[2] == bills[0]
    assert bills[1]["discrepancies"]["reports_contradict"]["count"] == 1
    assert await world.suspects(attacked) == {
        "1 delivered": ("contradicted", ["contradicted_by_query"])
    }
    assert await world.suspects(strict) == {
        "1 delivered": ("contradicted", ["unconfirmed", "contradicted_by_query"])
    }
