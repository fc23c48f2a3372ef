"""A small world of which there is everything to prove: pushes stored, messages, a bill, a run."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from pretend import state

from gateways.gateway import Call, Callback, Reply
from reconciler import chain, ledger, match, periods, statements
from reconciler import lease as leases
from runtime import records, settlement
from runtime.settings import AccountSettings, parse

NOW = datetime(2026, 11, 10, tzinfo=UTC)
SENT = datetime(2026, 10, 5, 4, tzinfo=UTC)
OCTOBER = periods.parse("2026-10")
# Ids of lines that nobody sent, as spreadsheets and XML would rather not have them.
ODD = ("=1+1", "@SUM(1)", "_x0041_", "-7\x02", "条<&>'")
_SETTINGS = """
[accounts.main]
gateway = "thinkapi"
credentials = { app_code = "none" }
timezone = "Asia/Shanghai"
[[accounts.main.tariffs]]
from = 2026-01-01
price = "0.04"
currency = "CNY"
basis = "delivered"
"""


def accounts() -> dict[str, AccountSettings]:
    return dict(parse(_SETTINGS, Path("huizhi.toml"), {}).accounts)


@dataclass
class World:
    """What came in and what was found."""

    pool: Any
    connection: Any
    folder: Path
    accounts: Mapping[str, AccountSettings]

    async def register(self, *names: str, segments: int = 1) -> None:
        rows: list[ledger.Sent | ledger.Rejected] = [
            ledger.Sent(
                account="main",
                vendor_message_id=name,
                phone=phone(name),
                sent_at=SENT,
                segments=segments,
                content=f"=您的验证码 {name}",
            )
            for name in names
        ]
        await ledger.register(self.pool, self.accounts, rows, now=NOW - timedelta(days=9))

    async def push(self, *reports: tuple[str, int], recorded_at: datetime | None = None) -> int:
        """Store and settle pushes, one commit; return its batch."""
        at = recorded_at or NOW - timedelta(days=8)
        return await self.take([record(name, status, at) for name, status in reports], at)

    async def answer(self, name: str, status: int) -> None:
        """Store and settle the vendor's reply to a question about a message."""
        body = state(name, phone(name), status, "2026-10-05 12:00:07").body
        reply = Reply(call=Call.QUERY_STATUS, headers={"date": "then"}, body=body)
        at = NOW - timedelta(days=7)
        found = records.of_reply("main", reply, subject=name, once=False, received_at=at)
        await self.take([found], at)

    async def sent_through_us(self, name: str) -> None:
        """Have a message be one that was sent by us, the vendor's reply to it stored."""
        at = NOW - timedelta(days=30)
        reply = Reply(call=Call.SEND, headers={}, body=b'{"code": 0, "message": "taken"}')
        call = uuid4()
        found = records.of_reply("main", reply, subject=str(call), once=False, received_at=at)
        await self.take([found], at)
        await self.connection.execute(
            "INSERT INTO submissions (id, send_id, account, seq, numbers, state, digest)"
            " VALUES ($1, $1, 'main', 1, 1, 'accepted', $2)",
            call,
            found.digest,
        )
        await self.connection.execute(
            "UPDATE messages SET submission_id = $1 WHERE vendor_message_id = $2", call, name
        )

    async def take(self, found: list[records.Record], at: datetime) -> int:
        async with self.pool.acquire() as connection:
            batch, fresh = await records.store(connection, found, recorder="test", now=at)
        await settlement.settle(self.pool, self.accounts, fresh, batches=[batch], now=at)
        return batch

    async def bill(self, *lines: tuple[str, int, str]) -> Path:
        path = self.folder / "bill.csv"
        rows = [f"{name},{phone(name)},{segments},{amount}" for name, segments, amount in lines]
        path.write_text("\n".join(["任务ID,手机号,计费条数,金额", *rows]) + "\n", "utf-8")
        await statements.import_file(
            self.connection,
            self.accounts["main"],
            OCTOBER,
            path,
            file_name=path.name,
            format_name="generic",
            layout=statements.GENERIC_LAYOUT,
            now=NOW - timedelta(days=1),
        )
        return path

    async def reconcile(self, **given: Any) -> UUID:
        result = await match.reconcile(
            self.connection, self.accounts["main"], OCTOBER, now=NOW, **given
        )
        return UUID(result["id"])

    async def link(self) -> int:
        async with leases.held(self.pool, chain.LEASE, holder="test") as lease:
            assert lease is not None
            return await chain.link_all(lease)

    async def faults(self, anchored: str | None = None) -> list[str]:
        hash = None if anchored is None else bytes.fromhex(anchored)
        return [fault.what async for fault in chain.verify(self.connection, hash)]

    async def head(self) -> chain.Head:
        return await chain.head(self.connection)


def phone(name: str) -> str:
    return f"138{sum(name.encode()) * 7919 % 10**8:08}"


def record(name: str, status: int, at: datetime) -> records.Record:
    sms = {
        "id": name,
        "phone": phone(name),
        "status": status,
        "message": "",
        "receiveDate": "2026-10-05 12:00:05",
    }
    callback = Callback(
        method="POST",
        query=b"",
        headers={"x-thinkphp-event": "sms"},
        body=json.dumps({"action": "report", "sms": sms}).encode(),
    )
    return records.of_callback("main", callback, received_at=at, peer="192.0.2.1")


async def disputed(world: World) -> UUID:
    """Let a month come in with something of every money kind; return its run."""
    await world.push(("early", 1))  # before its message
    await world.register("fine", "early", "failed", "twice", "unbilled", "dear")
    await world.register("long", segments=2)
    await world.push(("fine", 1), ("failed", -1), ("twice", 1))
    await world.push(("unbilled", 1), ("dear", 1), ("long", 1), ("stranger", 1))
    await world.answer("failed", -1)
    await world.sent_through_us("twice")
    await world.bill(
        ("fine", 1, "0.04"),
        ("early", 1, "0.04"),
        ("failed", 1, "0.04"),
        ("twice", 1, "0.04"),
        ("twice", 1, "0.04"),
        ("dear", 1, "0.05"),
        ("long", 3, "0.12"),
        ("stranger", 1, "0.04"),
        *((name, 1, "0.04") for name in ODD),
    )
    return await world.reconcile()


def unpacked(package: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(package) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()
