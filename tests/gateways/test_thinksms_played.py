"""thinksms' client against the pretend vendor, which knows the documents and not the client."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

import sandbox
from gateways.errors import Refused, Unavailable
from gateways.events import Accepted, Answer, Balance, DeliveryReport, InboundMessage, Status
from gateways.gateway import Account, Batch, Outgoing, Reply, Secret
from gateways.http import Transport
from gateways.thinksms import GATEWAY
from gateways.thinksms.client import Credentials, Options, ThinkSmsClient
from sandbox.config import ThinkSmsConfig
from sandbox.settings import Outcomes
from sandbox.thinksms import ThinkSmsAccount

pytestmark = pytest.mark.anyio

PHONES = ("13800138000", "15900159000", "13700137000")


@dataclass
class Line:
    """A client of ours, at a pretend vendor."""

    handle: sandbox.Running
    account: Account
    http: httpx.AsyncClient

    @property
    def client(self) -> ThinkSmsClient:
        return ThinkSmsClient(self.account, Transport(self.http, 1000))

    def read(self, reply: Reply) -> tuple[Any, ...]:
        parsed = GATEWAY.parse_reply(reply, self.account)
        assert parsed.problems == ()
        return parsed.events

    async def send(self, *contents: str, **changes: Any) -> tuple[Any, ...]:
        """Send the one text to every number, or each its own."""
        texts = contents * len(PHONES) if len(contents) == 1 else contents
        messages = tuple(
            Outgoing(phone=phone, number=phone, reference=f"{number:032x}", content=text)
            for number, (phone, text) in enumerate(zip(PHONES, texts, strict=False))
        )
        personal = len(contents) > 1
        batch = Batch(**{"messages": messages, "sign": "智想云创", "personal": personal} | changes)
        assert GATEWAY.check_send is not None
        assert GATEWAY.check_send(batch, self.account) == ()
        return self.read(await self.client.send(batch))

    def with_password(self, password: str) -> "Line":
        credentials = Credentials(Secret("1001"), Secret("acc"), Secret(password))
        return Line(
            self.handle, _account(self.account.base_url, credentials, self.account), self.http
        )


def _account(base_url: str, credentials: Credentials, like: Any) -> Account:
    return Account(
        name="sms-main",
        gateway="thinksms",
        base_url=base_url,
        zone=ZoneInfo("Asia/Shanghai"),
        credentials=credentials,
        options=like.options if isinstance(like, Account) else like,
    )


@contextlib.asynccontextmanager
async def playing(options: Options, **changes: Any) -> AsyncIterator[Line]:
    played = ThinkSmsAccount(
        user_id="1001",
        account="acc",
        password="pw",
        password_md5=options.auth == "md5",
        hand_out="pull",
        **changes,
    )
    config = sandbox.Config(
        port=0,
        strict=True,
        hold_pushes=True,
        outcomes=Outcomes(failed=0.0, never_final=0.0),
        thinksms=ThinkSmsConfig({"sms-main": played}),
    )
    async with sandbox.running(config) as handle, httpx.AsyncClient(trust_env=False) as http:
        credentials = Credentials(Secret("1001"), Secret("acc"), Secret("pw"))
        yield Line(handle, _account(handle.base_url("thinksms"), credentials, options), http)


hosts = pytest.mark.parametrize(
    "options",
    [
        Options(charset=charset, reply_format=reply_format, auth=auth)
        for charset in ("utf-8", "gbk")
        for reply_format in ("xml", "json")
        for auth in ("password", "md5", "signed")
    ],
    ids=lambda options: f"{options.charset}-{options.reply_format}-{options.auth}",
)


@hosts
async def test_every_call_is_understood_and_its_reply_is(options: Options) -> None:
    async with playing(options) as line:
        accepted, balance = await line.send("您的验证码:8899,请勿告诉他人&=+%41 §")
        assert accepted.taken == 3
        assert accepted.phone is None
        assert balance == Balance(kind="remainpoint", amount=Decimal(999_997))
        rows = line.handle.truth("message")
        assert [row["phone"] for row in rows] == list(PHONES)
        assert {row["vendor_message_id"] for row in rows} == {accepted.vendor_message_id}
        assert {row["content"] for row in rows} == {
            "【智想云创】您的验证码:8899,请勿告诉他人&=+%41 §"
        }

        personal, _ = await line.send("甲 & 乙", "😀丙%0A", "【丁】丁")
        assert isinstance(personal, Accepted)
        assert personal.taken == 3
        rows = line.handle.truth("message")[3:]
        assert [(row["phone"], row["content"]) for row in rows] == [
            (PHONES[0], "【智想云创】甲 & 乙"),
            (PHONES[1], "【智想云创】😀丙%0A"),
            (PHONES[2], "【智想云创】【丁】丁"),
        ]

        (left,) = line.read(await line.client.query_balance())
        assert left == Balance(kind="overage", amount=Decimal(999_994))
        for text, words, clean in (
            ("您好", "没有包含屏蔽词", True),
            ("低息贷款", "包含非法字符", False),
        ):
            (answer,) = line.read(await line.client.check_keyword(text))
            assert answer == Answer(words=words, positive=clean)

        await line.handle.release()
        reports = line.read(await line.client.pull_reports(4000))
        assert {(report.vendor_message_id, report.phone) for report in reports} == {
            (task.vendor_message_id, phone) for task in (accepted, personal) for phone in PHONES
        }
        assert {type(report) for report in reports} == {DeliveryReport}
        assert {report.status for report in reports} == {Status.DELIVERED}
        assert line.handle.sandbox.world.violations == []


@hosts
async def test_password_is_changed_for_every_kind_of_call(options: Options) -> None:
    async with playing(options) as line:
        (answer,) = line.read(await line.client.change_password(Secret("n3w -+&=%41")))
        assert answer == Answer(words="ok", positive=True)
        with pytest.raises(Refused) as refused:
            line.read(await line.client.query_balance())
        assert refused.value.code == "credentials"
        renewed = line.with_password("n3w -+&=%41")
        assert len(await renewed.send("您好")) == 2
        assert renewed.read(await renewed.client.pull_reports(10)) == ()


@hosts
async def test_refusals_are_placed(options: Options) -> None:
    async with playing(options, balance=0) as line:
        for content, code in (("您好", "balance"), ("低息贷款", "forbidden_words")):
            with pytest.raises(Refused) as refused:
                await line.send(content)
            assert refused.value.code == code
        stranger = line.with_password("wrong")
        with pytest.raises(Refused) as refused:
            await stranger.send("您好")
        assert refused.value.code == "credentials"
        with pytest.raises(Refused) as refused:
            stranger.read(await stranger.client.pull_reports(10))
        assert refused.value.code == "2"
        assert line.handle.truth("message") == []


@hosts
async def test_schedule_and_extension_arrive(options: Options) -> None:
    fields = {name: getattr(options, name) for name in options.__struct_fields__}
    async with playing(Options(**fields | {"extension": "0123", "own_extension": "0123"})) as line:
        at = datetime(2031, 10, 5, 1, 8, 10, tzinfo=UTC)
        await line.send("您好", send_at=at)
        await line.send("甲", "乙", send_at=at)
        assert {row["sent_at"] for row in line.handle.truth("message")} == {at}
        items = [
            {
                "phone": "13800138000",
                "content": content,
                "extno": extno,
                "at": "2031-10-05T10:00:00Z",
            }
            for content, extno in (("退订", "0123"), ("别人的", "04"))
        ]
        order = {"vendor": "thinksms", "account": "sms-main", "items": items}
        await line.http.post(f"{line.handle.url}/_sandbox/inbound", json=order)
        await line.handle.release()
        inbound = line.read(await line.client.pull_inbound(10))
        assert [type(one) for one in inbound] == [InboundMessage]
        assert (inbound[0].content, inbound[0].extension) == ("退订", "0123")


async def test_numbers_that_the_vendor_leaves_out_are_told_by_the_count() -> None:
    async with playing(Options()) as line:
        messages = tuple(
            Outgoing(phone=phone, number=phone, reference="0" * 32, content="您好")
            for phone in ("13800138000", "123")
        )
        batch = Batch(messages=messages, sign="智想云创")
        accepted, _ = line.read(await line.client.send(batch))
        assert accepted.taken == 1


async def test_many_numbers_go_in_one_request() -> None:
    async with playing(Options(numbers_per_send=50_000)) as line:
        messages = tuple(
            Outgoing(phone=str(13800000000 + n), number="", reference="0" * 32, content="您好")
            for n in range(5_000)
        )
        accepted, _ = line.read(await line.client.send(Batch(messages=messages, sign="智想云创")))
        assert accepted.taken == 5_000


async def test_a_host_of_its_own_for_personal_texts() -> None:
    async with playing(Options()) as line:
        options = Options(p2p_path=f"{line.account.base_url}/p2p.aspx")
        elsewhere = _account("http://127.0.0.1:1", line.account.credentials, options)
        there = Line(line.handle, elsewhere, line.http)
        assert (await there.send("甲", "乙"))[0].taken == 2
        with pytest.raises(Unavailable):
            await ThinkSmsClient(elsewhere, Transport(line.http, 1000, attempts=1)).query_balance()
