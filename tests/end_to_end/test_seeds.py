"""Twenty months of twenty seeds: every error put into a bill is found, to the last digit, and no other."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from gateways.gateway import Callback
from gateways.http import open_client
from reconciler import ledger, match, periods, statements
from reconciler.poll import callers, poll_statuses
from reconciler.reading import billed, paging
from runtime import records, settlement
from runtime.settings import Settings, parse
from sandbox import Config, Running, running
from sandbox.config import ThinkApiConfig
from sandbox.settings import Faults, Outcomes
from sandbox.thinkapi import ReviewedText, ThinkApiAccount

pytestmark = pytest.mark.anyio

SEEDS = range(1, 21)
MESSAGES = 240
ZONE = ZoneInfo("Asia/Shanghai")
FAULTS = Faults(
    push_lost=0.1,
    push_doubled=0.05,
    push_reordered=0.05,
    push_contradicting=0.03,
    push_malformed=0.03,
    billed_not_sent=0.01,
    billed_not_delivered=0.1,
    billed_twice=0.01,
    billed_out_of_period=0.1,
    segments_differ=0.01,
    price_differs=0.01,
    segments_and_price_differ=0.01,
    not_billed=0.01,
    statement_at_least=2,
)
MONEY = match.KINDS[:-2]
Found = tuple[str, str, str | None, str]


class Customer:
    """The address that pushes go to: keeps each body, in the order of arrival."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                self.bodies.append(await reader.readexactly(length))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def _vendor(seed: int) -> AsyncIterator[tuple[Running, Customer]]:
    customer = Customer()
    server = await asyncio.start_server(customer.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    account = ThinkApiAccount(
        app_code="code",
        callback_url=f"http://127.0.0.1:{port}/callbacks/main/token",
        signs=(ReviewedText(78, "顶想云"),),
        templates=(ReviewedText(234, "通知", "您的订单${a}${b}${c}${d}已发货。"),),
    )
    config = Config(
        port=0,
        seed=seed,
        hold_pushes=True,
        outcomes=Outcomes(failed=0.15, never_final=0.03),
        faults=FAULTS,
        thinkapi=ThinkApiConfig({"main": account}),
    )
    async with server, running(config) as vendor:
        yield vendor, customer


def _settings(url: str) -> Settings:
    return parse(
        f"""
        [accounts.main]
        gateway = "thinkapi"
        base_url = "{url}"
        credentials = {{ app_code = "code" }}
        requests_per_second = 100000
        poll_after_seconds = 0
        [[accounts.main.tariffs]]
        from = 2020-01-01
        price = "0.035"
        """,
        Path("huizhi.toml"),
        {},
    )


async def _sent(vendor: Running, seed: int, first: datetime) -> list[ledger.Sent]:
    """Send texts of one segment and more, in the month from `first` on and a week to either side."""
    chance = random.Random(seed)
    found = []
    async with httpx.AsyncClient(base_url=vendor.base_url("thinkapi")) as http:
        for number in range(MESSAGES):
            at = first + timedelta(minutes=chance.randrange(-7 * 24 * 60, 37 * 24 * 60))
            # With the sign and what stands around it 70 characters, 71, 134, 135, and others.
            text = "号" * chance.choice([4, 5, 56, 57, 58, 120, 121, 122, 199])
            parts = {name: text[place::4] for place, name in enumerate("abcd")}
            phone = f"139{number:08}"
            asked = {"signId": "78", "templateId": "234", "phone": phone}
            reply = await http.get(
                "/sms/send",
                params=asked | {"params": json.dumps(parts)},
                headers={
                    "Authorization": "AppCode code",
                    "X-Sandbox-Time": at.isoformat(timespec="seconds"),
                },
            )
            found.append(
                ledger.Sent(
                    account="main",
                    vendor_message_id=reply.json()["data"]["id"],
                    phone=phone,
                    sent_at=at.replace(second=0, microsecond=0),
                    content=f"您的订单{text}已发货。",
                    sign="顶想云",
                )
            )
    return found


def _expected(
    vendor: Running, period: str, bounds: tuple[datetime, datetime]
) -> tuple[Counter[Found], set[str]]:
    """What a perfect reconciler finds, and which kinds of error the bill was given."""
    expected: Counter[Found] = Counter()
    injected = set()
    for row in vendor.truth("statement_fault"):
        if row["period"] == period:
            amount = match.money(Decimal(row["amount"]))
            expected[row["kind"], row["vendor_message_id"], row["phone"], amount] += 1
            injected.add(row["kind"])
    for row in vendor.truth("message"):
        if bounds[0] <= row["sent_at"] < bounds[1]:
            key = row["vendor_message_id"], row["phone"], "0"
            expected.update((kind, *key) for kind in row["expected"])
    return expected, injected


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_error_of_a_month_is_found_and_no_other(
    pool: Any, tmp_path: Path, seed: int
) -> None:
    now = datetime.now(UTC)
    last = now.astimezone(ZONE).replace(day=1) - timedelta(days=12)
    first = last.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    period = periods.parse(f"{first:%Y-%m}")
    async with _vendor(seed) as (vendor, customer), open_client() as http:
        read = _settings(vendor.base_url("thinkapi"))
        account = read.accounts["main"]
        sent = await _sent(vendor, seed, first)
        registered = await ledger.register(pool, read.accounts, sent, now=now)
        assert registered.recorded == MESSAGES
        await vendor.release()
        for body in customer.bodies:
            callback = Callback(method="POST", query=b"", headers={}, body=body)
            record = records.of_callback("main", callback, received_at=now, peer="127.0.0.1")
            async with pool.acquire() as connection:
                batch, fresh = await records.store(
                    connection, [record], recorder="test", now=datetime.now(UTC)
                )
            await settlement.settle(pool, read.accounts, fresh, batches=[batch], now=now)
        await poll_statuses(callers(read, pool, http, recorder="test")["main"], all_now=True)
        bill = tmp_path / "bill.csv"
        vendor.write_statement("thinkapi", "main", f"{first:%Y-%m}", bill)
        async with pool.acquire() as connection:
            await statements.import_file(
                connection,
                account,
                period,
                bill,
                file_name="bill.csv",
                format_name="generic",
                layout=statements.GENERIC_LAYOUT,
                now=now,
            )
            result = await match.reconcile(connection, account, period, now=now)
            listed = [
                row
                async for row in paging.every(
                    lambda cursor: billed.discrepancies(
                        connection, result["id"], kind=None, cursor=cursor, limit=1000
                    )
                )
            ]
        expected, injected = _expected(vendor, f"{first:%Y-%m}", period.bounds(ZONE))
    found = Counter(
        (row["kind"], row["vendor_message_id"], row["phone"], row["amount"]) for row in listed
    )
    assert found == expected
    assert injected == set(MONEY)
