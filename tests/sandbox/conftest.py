"""A customer's callback address, and sandboxes on free ports."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx
import pytest

from sandbox import Config, Running, running
from sandbox.config import ItniotechConfig, OneCloudSpConfig, ThinkApiConfig, ThinkSmsConfig
from sandbox.itniotech import ItniotechAccount
from sandbox.onecloudsp import OneCloudSpAccount, Sign, Template
from sandbox.settings import Faults, Outcomes
from sandbox.thinkapi import ReviewedText, ThinkApiAccount
from sandbox.thinksms import ThinkSmsAccount

TOKEN = "right-token"


@dataclass
class Received:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Customer:
    """A receiver that keeps every push and answers 404 to a wrong token."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answer: int = 200
    at_work: int = 0
    most_at_work: int = 0
    grown: asyncio.Condition = field(default_factory=asyncio.Condition)

    def callback_url(self, account: str) -> str:
        return f"{self.url}/callbacks/{account}/{TOKEN}"

    def genuine(self) -> list[Received]:
        return [push for push in self.received if f"/{TOKEN}" in push.target]

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10), self.grown:
            await self.grown.wait_for(lambda: len(self.received) >= count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, target, _ = head[0].split(" ")
                pairs = (line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.at_work += 1
                self.most_at_work = max(self.most_at_work, self.at_work)
                await asyncio.sleep(0)
                status = self.answer if f"/{TOKEN}" in target else 404
                async with self.grown:
                    self.received.append(Received(method, target, headers, body))
                    self.grown.notify_all()
                self.at_work -= 1
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok".encode())
        writer.close()


@pytest.fixture
async def customer() -> AsyncIterator[Customer]:
    customer = Customer()
    server = await asyncio.start_server(customer.serve, "127.0.0.1", 0)
    customer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield customer
    server.close()


@dataclass
class Play:
    """A running sandbox and an HTTP client to it."""

    handle: Running
    http: httpx.AsyncClient

    async def think(self, call: str, at: str = "", **params: str | int) -> dict[str, Any]:
        headers = {"Authorization": "AppCode the-code"} | ({"X-Sandbox-Time": at} if at else {})
        reply = await self.http.get(f"/thinkapi/sms/{call}", params=params, headers=headers)
        assert reply.status_code == 200
        decoded: dict[str, Any] = reply.json()
        return decoded

    async def think_send(self, phone: str, at: str = "", code: str = "7865") -> str:
        params = f'{{"code": "{code}"}}'
        reply = await self.think(
            "send", at=at, signId=78, templateId=234, phone=phone, params=params
        )
        assert reply["code"] == 0, reply
        return str(reply["data"]["id"])

    async def sms(
        self, path: str, action: str, at: str = "", method: str = "GET", **params: str
    ) -> httpx.Response:
        fields = {
            "action": action,
            "userid": "1001",
            "account": "acc",
            "password": "pw",
            **params,
        }
        headers = {"X-Sandbox-Time": at} if at else {}
        if method == "POST":
            return await self.http.post(f"/thinksms/{path}", data=fields, headers=headers)
        return await self.http.get(f"/thinksms/{path}", params=fields, headers=headers)

    async def itnio(
        self, call: str, at: str = "", method: str = "GET", **params: Any
    ) -> dict[str, Any]:
        now = str(int(time.time()))
        headers = {
            "Api-Key": "key",
            "Timestamp": now,
            "Sign": hashlib.md5(f"keysecret{now}".encode()).hexdigest(),
            "Content-Type": "application/json;charset=UTF-8",
        } | ({"X-Sandbox-Time": at} if at else {})
        if call != "getBalance":
            params = {"appId": "app", **params}
        path = f"/itniotech/sms/{call}"
        if method == "POST":
            reply = await self.http.post(path, json=params, headers=headers)
        else:
            reply = await self.http.get(path, params=params, headers=headers)
        assert reply.status_code == 200
        decoded: dict[str, Any] = reply.json()
        return decoded

    async def itnio_send(self, *numbers: str, at: str = "", **params: str) -> list[str]:
        fields = {"numbers": ",".join(numbers), "content": "hello", **params}
        reply = await self.itnio("sendSms", at=at, method="POST", **fields)
        assert reply["status"] == "0", reply
        return [row["msgId"] for row in reply["array"]]

    async def sms_send(self, mobile: str, content: str = "【智想云创】您好", at: str = "") -> str:
        reply = await self.sms("sms.aspx", "send", at=at, mobile=mobile, content=content, rt="json")
        assert reply.json()["ReturnStatus"] == "Success", reply.text
        return str(reply.json()["TaskID"])

    async def cloud(self, path: str, at: str = "", **params: str) -> httpx.Response:
        fields = {"accesskey": "key", "secret": "hush", **params}
        headers = {"X-Sandbox-Time": at} if at else {}
        return await self.http.post(f"/onecloudsp/{path}", data=fields, headers=headers)

    async def cloud_send(self, mobile: str, code: str = "7865", at: str = "") -> str:
        fields = {"sign": "【创瑞云】", "templateId": "101", "mobile": mobile, "content": code}
        reply = await self.cloud("api/v2/send", at=at, **fields)
        assert reply.json()["msg"] == "SUCCESS", reply.text
        return str(reply.json()["batchId"])


@pytest.fixture
def configure(customer: Customer) -> Callable[..., Config]:
    """Build a configuration; what begins with sms_, think_, cloud_ or itnio_ goes to that account."""

    def build(**changes: Any) -> Config:
        sms = {k.removeprefix("sms_"): v for k, v in changes.items() if k.startswith("sms_")}
        think = {k.removeprefix("think_"): v for k, v in changes.items() if k.startswith("think_")}
        cloud = {k.removeprefix("cloud_"): v for k, v in changes.items() if k.startswith("cloud_")}
        itnio = {k.removeprefix("itnio_"): v for k, v in changes.items() if k.startswith("itnio_")}
        own = ("sms_", "think_", "cloud_", "itnio_")
        common = {k: v for k, v in changes.items() if not k.startswith(own)}
        think_account = ThinkApiAccount(
            **{
                "app_code": "the-code",
                "callback_url": customer.callback_url("think-main"),
                "signs": (ReviewedText(78, "顶想云"),),
                "templates": (
                    ReviewedText(234, "验证码", "您的验证码是${code}。"),
                    ReviewedText(235, "通知", "系统将于今晚维护。"),
                ),
                **think,
            }
        )
        sms_account = ThinkSmsAccount(
            **{
                "user_id": "1001",
                "account": "acc",
                "password": "pw",
                "callback_url": customer.callback_url("sms-main"),
                "pull_share": 0.0,
                **sms,
            }
        )
        cloud_account = OneCloudSpAccount(
            **{
                "access_key": "key",
                "secret": "hush",
                "callback_url": customer.callback_url("cloud-main"),
                "pull_share": 0.0,
                "signs": (Sign(123, "创瑞云"),),
                "templates": (
                    Template(100, "{1}您好,您的订单于{2}已通过{3}发货,运单号{4}"),
                    Template(101, "您的验证码是{1}。"),
                ),
                **cloud,
            }
        )
        itnio_account = ItniotechAccount(
            **{
                "api_key": "key",
                "api_secret": "secret",
                "app_id": "app",
                "callback_url": customer.callback_url("itnio-main"),
                **itnio,
            }
        )
        settings: dict[str, Any] = {
            "port": 0,
            "hold_pushes": True,
            "outcomes": Outcomes(failed=0.0, never_final=0.0),
            "pending_push": 0.0,
            "review_rejected": 0.0,
            "strict": True,
            **common,
        }
        return Config(
            thinkapi=ThinkApiConfig({"think-main": think_account}),
            thinksms=ThinkSmsConfig({"sms-main": sms_account}),
            onecloudsp=OneCloudSpConfig({"cloud-main": cloud_account}),
            itniotech=ItniotechConfig({"itnio-main": itnio_account}),
            **settings,
        )

    return build


@pytest.fixture
def play() -> Callable[[Config], contextlib.AbstractAsyncContextManager[Play]]:
    @contextlib.asynccontextmanager
    async def start(config: Config) -> AsyncIterator[Play]:
        async with (
            running(config) as handle,
            httpx.AsyncClient(base_url=handle.url, timeout=10) as http,
        ):
            yield Play(handle, http)

    return start


@pytest.fixture
def every_statement_fault() -> Faults:
    return Faults(
        billed_not_sent=0.05,
        billed_not_delivered=0.3,
        billed_twice=0.05,
        billed_out_of_period=0.3,
        segments_differ=0.05,
        price_differs=0.05,
        segments_and_price_differ=0.05,
        not_billed=0.05,
        statement_at_least=1,
    )


@pytest.fixture
def price() -> Decimal:
    return Decimal("0.035")
