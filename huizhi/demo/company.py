"""The company: systems that send by the vendors' own HTTP calls, and one that sends through Huizhi.

What the first kind sends is dated within the month by `X-Sandbox-Time`; it speaks to the vendors as
their pages say, and uses nothing of Huizhi.
"""

import asyncio
import hashlib
import hmac
import random
import time
import uuid
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, NamedTuple

import httpx
import msgspec

from huizhi.demo.cast import (
    ABROAD,
    CLOUD,
    FINCH,
    ITNIO,
    LONG_TEMPLATE,
    SIGN,
    SIGN_ID,
    SMS,
    TEMPLATE_ID,
    THINK,
    Part,
)
from runtime import Problem

# Texts that the second vendor's customer sends: one segment, two, three, and some emoji.
_TEXTS = (
    "您的验证码是{n},五分钟内有效。",
    "您的订单{n}已发货,请注意查收。",
    "会员{n}您好,本月账单已出,请登录查看;如有疑问请致电客服,我们将竭诚为您服务。" * 2,
    "尊敬的用户{n},系统将于本周六凌晨进行升级维护,期间部分功能暂停使用,敬请谅解。" * 4,
    "生日快乐🎂{n}号会员,送您一张优惠券🎁,点击领取。",
)
# And abroad: GSM-7 of one segment and two, with characters that count twice, and UCS-2.
_TEXTS_ABROAD = (
    "Your code is {n}. It expires in 5 minutes.",
    "Order {n} has been shipped. Track it in the app; the courier will call you before delivery. "
    "If you are not at home, choose another day or a parcel shop near you, until 8 pm today.",
    "Only today: [{n}] saves you 20 € ^_^",
    "您的订单{n}已发货,请注意查收。",
)


class Sent(NamedTuple):
    """One message as the company's application knows it: just what it can register."""

    account: str
    vendor_message_id: str
    phone: str
    sent_at: datetime
    content: str
    sign: str | None

    def row(self) -> dict[str, Any]:
        """Return it as `POST /v1/sent` and `huizhi sent import` take it."""
        return {**self._asdict(), "sent_at": self.sent_at.isoformat()}


Job = Callable[[httpx.AsyncClient], Awaitable[list[Sent]]]


class Company:
    """The systems that send past Huizhi; `values` has the vendors' address and the credentials."""

    def __init__(
        self, values: Mapping[str, Any], seed: int, month: datetime, end: datetime
    ) -> None:
        self._values = values
        self._random = random.Random(seed)  # noqa: S311  a play repeats itself
        self._month = month
        self._end = end

    def jobs(self, part: Part, count: int) -> Iterator[Job]:
        """Give the sends that make up `count` messages of the month at an account."""
        make = {
            THINK: self._think,
            SMS: self._sms,
            CLOUD: self._cloud,
            ABROAD: self._abroad,
            ITNIO: self._itnio,
            FINCH: self._finch,
        }[part.account]
        number = 0
        while number < count:
            most = 1 if part.account in (THINK, FINCH) else count - number
            many = min(self._random.choice((1, 5, 20, 50)), most)
            yield make(range(number, number + many), self._time())
            number += many

    def forgotten(self, count: int) -> Iterator[Job]:
        """Give sends of today at itniotech, by a system whose messages nobody registers."""
        for number in range(count):
            yield self._itnio(range(90_000_000 + number, 90_000_001 + number), None)

    def shuffle(self, jobs: list[Job]) -> None:
        """Bring `jobs` into the order in which they are done."""
        self._random.shuffle(jobs)

    async def work(self, http: httpx.AsyncClient, jobs: Iterable[Job]) -> list[Sent]:
        """Do `jobs`, several at a time; return what was sent."""
        sent: list[Sent] = []
        waiting = iter(jobs)

        async def one_after_another() -> None:
            for job in waiting:
                sent.extend(await job(http))

        await asyncio.gather(*(one_after_another() for _ in range(16)))
        return sent

    def _time(self) -> datetime:
        """A second of the month, now and then of the last days before it or the first after."""
        draw = self._random.random()
        start, days = self._month, (self._end - self._month).days
        if draw < 0.03:
            start, days = start - timedelta(days=3), 3
        elif draw < 0.06:
            start, days = self._end, 3
        return start + timedelta(seconds=self._random.randrange(days * 86_400))

    async def _call(
        self, http: httpx.AsyncClient, method: str, path: str, at: datetime | None, **more: Any
    ) -> Any:
        headers = {**more.pop("headers", {})}
        if at is not None:
            headers["X-Sandbox-Time"] = at.isoformat()
        url = f"{self._values['sandbox']}/{path}"
        return (await http.request(method, url, headers=headers, **more)).json()

    def _think(self, numbers: range, at: datetime) -> Job:
        code = str(self._random.randrange(100000, 999999))
        template, params, content = self._random.choice(
            (
                (234, {"code": code}, f"您的验证码是{code},五分钟内有效。"),
                (235, {"name": f"生鲜{code}"}, f"你有一个新的生鲜{code}订单,请及时处理!"),
                (
                    236,
                    {"name": f"{code}号用户"},
                    LONG_TEMPLATE.replace("${name}", f"{code}号用户"),
                ),
            )
        )
        phone = f"138{numbers[0]:08d}"

        async def send(http: httpx.AsyncClient) -> list[Sent]:
            answer = await self._call(
                http,
                "GET",
                "thinkapi/sms/send",
                at,
                params={
                    "signId": int(SIGN_ID),
                    "templateId": template,
                    "phone": phone,
                    "params": msgspec.json.encode(params).decode(),
                },
                headers={"Authorization": f"AppCode {self._values['app_code']}"},
            )
            _expect(answer["code"] == 0, answer)
            return [Sent(THINK, str(answer["data"]["id"]), phone, at, content, SIGN)]

        return send

    def _sms(self, numbers: range, at: datetime) -> Job:
        phones = [f"139{number:08d}" for number in numbers]
        text = self._random.choice(_TEXTS).format(n=self._random.randrange(1000, 9999))
        content = f"【{SIGN}】{text}"

        async def send(http: httpx.AsyncClient) -> list[Sent]:
            form = {
                "action": "send",
                "userid": "1001",
                "account": "demo",
                "password": self._values["password"],
                "mobile": ",".join(phones),
                "content": content,
                "rt": "json",
            }
            answer = await self._call(http, "POST", "thinksms/sms.aspx", at, data=form)
            _expect(answer["ReturnStatus"] == "Success", answer)
            id = str(answer["TaskID"])
            return [Sent(SMS, id, phone, at, content, None) for phone in phones]

        return send

    def _cloud(self, numbers: range, at: datetime) -> Job:
        phones = [f"136{number:08d}" for number in numbers]
        n = self._random.randrange(1000, 9999)
        template, content, shown = self._random.choice(
            (
                ("101", f"{n}", f"您的验证码是{n},五分钟内有效。"),
                ("100", f"会员##顺丰##SF{n}", f"会员您好,您的订单已通过顺丰发货,运单号SF{n}"),
            )
        )
        single = len(phones) == 1

        async def send(http: httpx.AsyncClient) -> list[Sent]:
            form = {
                "accesskey": "demo",
                "secret": self._values["cloud_secret"],
                "sign": f"【{SIGN}】",
                "templateId": template,
                "mobile": ",".join(phones),
                "content": content,
            }
            path = "single_send" if single else "send"
            answer = await self._call(http, "POST", f"onecloudsp/api/v2/{path}", at, data=form)
            _expect(int(answer["code"]) == 0, answer)
            id = answer["smUuid" if single else "batchId"]
            return [Sent(CLOUD, id, phone, at, shown, SIGN) for phone in phones]

        return send

    def _abroad(self, numbers: range, at: datetime) -> Job:
        phones = [f"63918{number:07d}" for number in numbers]
        text = self._random.choice(_TEXTS_ABROAD).format(n=self._random.randrange(1000, 9999))

        async def send(http: httpx.AsyncClient) -> list[Sent]:
            form = {
                "accesskey": "demo-intl",
                "secret": self._values["abroad_secret"],
                "mobile": ",".join(phones),
                "content": text,
            }
            answer = await self._call(http, "POST", "onecloudsp/intl/api/v2/send", at, data=form)
            _expect(int(answer["code"]) == 0, answer)
            return [
                Sent(ABROAD, answer["batchId"], f"+{phone}", at, text, None) for phone in phones
            ]

        return send

    def _itnio(self, numbers: range, at: datetime | None) -> Job:
        phones = [f"6391{number:08d}" for number in numbers]
        text = self._random.choice(_TEXTS_ABROAD).format(n=self._random.randrange(1000, 9999))

        async def send(http: httpx.AsyncClient) -> list[Sent]:
            key, secret = "demo", self._values["itnio_secret"]
            now = str(int(time.time()))
            sign = hashlib.md5((key + secret + now).encode(), usedforsecurity=False).hexdigest()
            answer = await self._call(
                http,
                "POST",
                "itniotech/sms/sendSms",
                at,
                json={"appId": "app", "numbers": ",".join(phones), "content": text},
                headers={"Api-Key": key, "Timestamp": now, "Sign": sign},
            )
            _expect(answer["status"] == "0", answer)
            sent_at = at or datetime.now(UTC)
            return [
                Sent(ITNIO, each["msgId"], f"+{each['number']}", sent_at, text, None)
                for each in answer["array"]
            ]

        return send

    def _finch(self, numbers: range, at: datetime) -> Job:
        phone = f"135{numbers[0]:08d}"
        code = str(self._random.randrange(1000, 9999))
        shown = f"【深智科技】您的验证码是:{code},有效期5分钟。"

        async def send(http: httpx.AsyncClient) -> list[Sent]:
            date = format_datetime(datetime.now(UTC), usegmt=True)
            signed = hmac.digest(
                self._values["finch_secret"].encode(),
                f"x-date: {date}\nx-source: market".encode(),
                "sha1",
            )
            answer = await self._call(
                http,
                "POST",
                "deepfinch/release/data/send_sms",
                at,
                data={
                    "template_id": "TPL_0001",
                    "phone_number": phone,
                    "content": f"code:{code},expire_at:5",
                },
                headers={
                    "x-date": date,
                    "x-source": "market",
                    "Authorization": 'hmac id="demo", algorithm="hmac-sha1",'
                    f' headers="x-date x-source", signature="{b64encode(signed).decode()}"',
                },
            )
            _expect(answer["status"] == "OK", answer)
            return [Sent(FINCH, answer["request_id"], phone, at, shown, None)]

        return send


def _expect(taken: bool, answer: Any) -> None:
    if not taken:
        raise Problem(f"the sandbox refused a send: {answer}")


class Own(NamedTuple):
    """One request to `POST /v1/messages`."""

    key: str
    body: dict[str, Any]


def own_requests(part: Part) -> Iterator[Own]:
    """Give what an account sends through Huizhi: numbers that nobody else sends to, each once."""
    number = 0
    for index in range(part.own_requests):
        # The first ones, whose replies are cut, have one number: what could mean another number of
        # the same request would identify nothing.
        many = 1 if index < part.own_cuts else part.own_numbers
        phones = [_own_phone(part.account, number + step) for step in range(many)]
        number += many
        yield Own(
            str(uuid.uuid4()),
            {
                "account": part.account,
                "phones": phones,
                "reference": f"order {index}",
                **_own_text(part.account, 100_000 + index),
            },
        )
    if part.account == ITNIO:
        phone = _own_phone(ITNIO, number)
        body = {"account": ITNIO, "phones": [phone], "content": "Your casino bonus waits"}
        yield Own(str(uuid.uuid4()), body)


def _own_phone(account: str, number: int) -> str:
    if account == ABROAD:
        return f"+63 921 {number:07d}"
    if account == ITNIO:
        return f"+63 920 {number:07d}"
    return f"137{number:08d}"


def _own_text(account: str, n: int) -> dict[str, Any]:
    match account:
        case "think-main":
            # The text is filled in from the template, which Huizhi asked the vendor for.
            return {"sign": SIGN, "template_id": TEMPLATE_ID, "params": {"code": str(n)}}
        case "sms-main":
            return {"sign": SIGN, "content": _TEXTS[2].format(n=n)}
        case "cloud-main":
            return {
                "sign": SIGN,
                "template_id": "101",
                "params": [str(n)],
                "content": f"您的验证码是{n},五分钟内有效。",
            }
        case "finch-main":
            return {
                "template_id": "TPL_0001",
                "params": {"code": str(n), "expire_at": "5"},
                "content": f"【深智科技】您的验证码是:{n},有效期5分钟。",
            }
        case _:
            return {"content": _TEXTS_ABROAD[1].format(n=n)}
