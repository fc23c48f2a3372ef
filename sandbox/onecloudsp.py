"""Pretend 1cloudsp (天瑞云, Chonry), from vendor-docs/002 and vendors.md 3.

Both hosts are played under one path: `/intl/api/v2/send` and `/api/v2/...`. The documents leave
open, and this module decides: that international reports and inbound messages are pulled where the
domestic ones are, the names of an inbound message (`mobile, content, receiveTime, extend`), the
shape of a batchId (20 hex digits), that the domestic batch takes `data` and `scheduleSendTime` as
the international one, that a bad time is 9012 and a past one 10003, and that one bad number sinks
its whole request.
"""

import re
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import urlencode
from zlib import crc32

import msgspec

from sandbox.clock import VENDOR_ZONE, local_text, parse_local
from sandbox.delivery import Deliveries
from sandbox.exchange import HandedOut, Reply, Request
from sandbox.pushes import Push
from sandbox.segments import count_international, count_segments
from sandbox.settings import Account, Basis
from sandbox.vendor import Identity, StatementLayout
from sandbox.world import Inbound, Message, Report, World

NAME = "onecloudsp"

# vendors.md 3.2: everything but DELIVRD is a failure, named by vendor or carrier.
FAILURE_CODES = ("REJECT", "BLACK", "UNDELIV", "EXPIRED", "CA:0051", "MK:0011", "DB:0103")
SUCCESS_CODES = ("DELIVRD",)

MAX_NUMBERS = 50_000
MAX_TEXTS = 10_000
MAX_VARIABLE_LENGTH = 20

# vendors.md 3.3
CODES = {
    "9001": "短信签名格式不正确",
    "9002": "参数未赋值",
    "9003": "手机号码格式不正确",
    "9006": "用户accesskey不正确",
    "9007": "IP白名单限制",
    "9009": "短信内容参数不正确",
    "9010": "用户短信余额不足",
    "9011": "用户帐户异常",
    "9012": "日期时间格式不正确",
    "9014": "号码个数超过限制",
    "9015": "不支持的国家",
    "9016": "签名无效或签名ID无效",
    "9017": "模板ID无效",
    "9018": "变量长度应为1-20",
    "9019": "短信内容不能为空",
    "9022": "手机号码不能为空",
    "9023": "黑名单号码",
    "9024": "号码超频",
    "10001": "内容含敏感词",
    "10002": "内容含屏蔽词",
    "10003": "定时发送时间不正确",
}

_SEPARATOR = re.compile(r"##|\$\$")
_HOLE = re.compile(r"\{(\d+)\}")
_MAINLAND = re.compile(r"1\d{10}")
_ABROAD = re.compile(r"[1-9]\d{6,14}")
_SIGN = re.compile(r"【([^【】]+)】")

_KEYS = frozenset({"accesskey", "secret"})
_TEXT = frozenset({"sign", "templateId", "mobile", "content"})
PARAMETERS: dict[str, frozenset[str]] = {
    "single": _KEYS | _TEXT,
    "batch": _KEYS | _TEXT | {"data", "scheduleSendTime"},
    # The page's table lacks sign and templateId; its sample for `data` passes both.
    "international": _KEYS | _TEXT | {"data", "scheduleSendTime", "senderId"},
    "reports": _KEYS,
    "inbound": _KEYS,
    "balance": _KEYS,
}
_CALLS = {
    "/intl/api/v2/send": "international",
    "/api/v2/single_send": "single",
    "/api/v2/send": "batch",
    "/report/status": "reports",
    "/report/up": "inbound",
    "/query/account": "balance",
}
_SENDS = frozenset({"international", "single", "batch"})

_DOMESTIC, _INTERNATIONAL, _VOICE = "营销短信", "国际短信", "语音验证码"

Row = dict[str, str]
_PageRow = tuple[HandedOut, dict[str, str], Row]


class Sign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sign that the account has, approved; `name` without its brackets."""

    id: int
    name: str


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A template that the account has, approved; its variables are {1}, {2} and so on."""

    id: int
    content: str


class OneCloudSpAccount(Account, frozen=True, kw_only=True, forbid_unknown_fields=True):
    access_key: str
    secret: str
    price: Decimal = Decimal("0.05")
    basis: Basis = "submitted"
    signs: tuple[Sign, ...] = ()
    templates: tuple[Template, ...] = ()
    domestic_balance: int = 1_000_000
    international_balance: int = 1_000_000
    """Both in segments."""
    standing: Literal["good", "suspended", "address_refused"] = "good"
    sensitive_words: tuple[str, ...] = ("贷款",)
    blocked_words: tuple[str, ...] = ("赌博", "代开发票")
    blacklist: tuple[str, ...] = ()
    """Numbers as they are sent to."""
    unsupported_countries: tuple[str, ...] = ("850",)
    per_number_and_day: int = 0
    """0: no limit."""
    hand_out: Literal["both", "push", "pull"] = "both"
    """How reports reach the customer; with both, what was pushed is never pulled."""
    pull_share: float = 0.3
    """With both: the share of messages whose report is never pushed."""
    pull_after_failed_push: bool = True
    """With both: a report whose push was lost, malformed or not answered 2xx waits to be pulled."""
    pull_rows: int = 500
    """Rows in one pull at most."""
    batch_id_share: float = 0.5
    """Share of messages whose reports carry a batchId; it is optional."""
    bare_code_share: float = 0.2
    """Share of replies with `code` as a number."""
    inbound_rate: float = 0.0
    """Share of delivered messages that the handset replies to."""


@dataclass(slots=True, eq=False)
class _Books:
    name: str
    account: OneCloudSpAccount
    balances: dict[str, int]
    signs: dict[str, str]
    templates: dict[str, str]
    names: dict[Message, tuple[str, str]] = field(default_factory=dict)
    """smUuid and batchId of every message."""
    sent_on: Counter[tuple[str, str]] = field(default_factory=Counter)
    reports: deque[tuple[Message, Report]] = field(default_factory=deque)
    inbound: deque[Inbound] = field(default_factory=deque)
    replies: int = 0


class Refusal(Exception):
    """The vendor says no, with a code of its table."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class OneCloudSp:
    name = NAME
    sends_pending = False
    offers_inbound = True
    malformations: tuple[str, ...] = ("truncated", "empty_body", "missing_fields", "wrong_charset")
    reads_json = False
    statement_layout = StatementLayout(
        columns={
            "vendor_message_id": "消息ID",
            "phone": "手机号码",
            "segments": "计费条数",
            "amount": "金额",
            "sent_at": "提交时间",
            "status": "状态",
        },
        charset="utf-8-sig",
        status_words={"delivered": "成功", "failed": "失败", "none": "未返回"},
    )

    def __init__(
        self, world: World, deliveries: Deliveries, accounts: Mapping[str, OneCloudSpAccount]
    ) -> None:
        self._world = world
        self._chance = world.chance
        self._deliveries = deliveries
        self.accounts: Mapping[str, OneCloudSpAccount] = accounts
        self._books = {name: _open_books(name, account) for name, account in accounts.items()}
        self._by_key = {books.account.access_key: books for books in self._books.values()}

    # What every vendor offers

    def charset(self, path: str) -> str:
        return "utf-8"

    def identify(self, request: Request) -> Identity | None:
        call = _CALLS.get(request.path)
        if call is None:
            return None
        params = request.params
        books = self._by_key.get(params.get("accesskey", ""))
        name = books.name if books else ""
        if call in ("reports", "inbound"):
            return Identity(call, "page", name, call)
        about = (params.get(each, "") for each in ("mobile", "content", "data"))
        return Identity(
            call=call,
            kind="send" if call in _SENDS else "query",
            account=name,
            key=self._chance.digest(call, *about),
        )

    def throttled(self, status: int) -> Reply:
        words = b"Too Many Requests" if status == 429 else b"<h1>HTTP Status 500</h1>"
        return Reply(words, b"text/html;charset=utf-8", status)

    async def answer(self, request: Request, identity: Identity) -> Reply:
        call = identity.call
        try:
            self._check(request, call)
            books = self._authenticated(request)
            if call in _SENDS:
                return await self._send(books, request, call)
            if call == "reports":
                return self._reports(books)
            if call == "inbound":
                return self._inbound(books)
            return self._balance(books)
        except Refusal as refusal:
            ids = {_id_name(call): ""} if call in _SENDS else {}
            return self._reply(identity.account, refusal.code, CODES[refusal.code], **ids)

    def _check(self, request: Request, call: str) -> None:
        undocumented = request.params.keys() - PARAMETERS[call]
        for name in sorted(undocumented):
            self._world.violation(request, NAME, call, name, "undocumented parameter")
        if undocumented and self._world.settings.strict:
            raise Refusal("9002")

    def _authenticated(self, request: Request) -> _Books:
        key, secret = request.params.get("accesskey", ""), request.params.get("secret", "")
        if not key or not secret:
            raise Refusal("9002")
        books = self._by_key.get(key)
        if books is None or books.account.secret != secret:
            raise Refusal("9006")
        if books.account.standing == "address_refused":
            raise Refusal("9007")
        if books.account.standing == "suspended":
            raise Refusal("9011")
        return books

    def _reply(self, account: str, code: str, message: str, **more: Any) -> Reply:
        """Write a reply; `code` is text in the documents and a number in some replies."""
        books = self._books.get(account)
        written: str | int = code
        if books is not None:
            books.replies += 1
            share = books.account.bare_code_share
            if self._chance.hit(share, "bare code", account, str(books.replies)):
                written = int(code)
        return _json({"code": written, "msg": message, **more})

    # Sending

    async def _send(self, books: _Books, request: Request, call: str) -> Reply:
        abroad = call == "international"
        sign = self._sign(books, request, abroad)
        template = self._template(books, request, abroad)
        texts: dict[str, str] = {}
        for number, content in self._asked(request, call):
            self._check_number(books, number, abroad)
            texts.setdefault(number, _text(content, template, abroad))
        if not texts:
            raise Refusal("9022")
        for text in set(texts.values()):
            self._check_text(books, text)
        sent_at = self._sent_at(request)
        day = sent_at.astimezone(VENDOR_ZONE).date().isoformat()
        limit = books.account.per_number_and_day
        if limit and any(books.sent_on[number, day] >= limit for number in texts):
            raise Refusal("9024")
        contents = {number: sign + text for number, text in texts.items()}
        kind = _INTERNATIONAL if abroad else _DOMESTIC
        counts = {number: _count(books, text, abroad) for number, text in contents.items()}
        if sum(counts.values()) > books.balances[kind]:
            raise Refusal("9010")
        batch_key = self._world.occurrence(
            NAME,
            books.name,
            *(part for pair in contents.items() for part in pair),
            request.virtual_time,
            request.params.get("scheduleSendTime", ""),
        )
        batch_id = self.strange_id(batch_key)
        messages = []
        for index, (number, content) in enumerate(contents.items(), 1):
            # Seven parts (vendors.md 3.2); the last is taken for an index within the batch.
            uuid = f"{_customer_number(books)}_1_0_{number}_1_{batch_id}_{index}"
            message = self._world.new_message(
                books.account,
                vendor=NAME,
                account_name=books.name,
                vendor_message_id=uuid if call == "single" else batch_id,
                key=self._chance.digest(batch_key, number),
                phone=number,
                content=content,
                sign=sign.strip("【】"),
                sent_at=sent_at,
                failure_codes=FAILURE_CODES,
                success_codes=SUCCESS_CODES,
            )
            message.segments = counts[number]
            books.names[message] = (uuid, batch_id)
            messages.append(message)
        for message in messages:
            self._deliveries.accept(
                self, books.account, message, self._is_pushed(books.account, message)
            )
            books.balances[kind] -= message.segments
        books.sent_on.update((number, day) for number in texts)
        await self._deliveries.dispatch(self, messages)
        answer = {_id_name(call): messages[0].vendor_message_id}
        reply = self._reply(books.name, "0", "SUCCESS", **answer)
        reply.sent_messages = list(messages)
        return reply

    def _sign(self, books: _Books, request: Request, abroad: bool) -> str:
        """Return the sign with its brackets; asked for by its id, or by its name with them."""
        asked = request.params.get("sign", "")
        if not asked:
            if abroad:
                return ""
            raise Refusal("9002")
        if asked.isdecimal():
            name = books.signs.get(asked)
        elif bracketed := _SIGN.fullmatch(asked):
            name = next((each for each in books.signs.values() if each == bracketed[1]), None)
        else:
            raise Refusal("9001")
        if name is None:
            raise Refusal("9016")
        return f"【{name}】"

    def _template(self, books: _Books, request: Request, abroad: bool) -> str | None:
        asked = request.params.get("templateId", "")
        if not asked:
            if abroad:
                return None
            raise Refusal("9002")
        if asked not in books.templates:
            raise Refusal("9017")
        return books.templates[asked]

    @staticmethod
    def _asked(request: Request, call: str) -> list[tuple[str, str]]:
        """Return numbers and contents; `data` stands in place of both (vendor-docs/002)."""
        raw = request.params.get("data", "")
        if raw and call != "single":
            try:
                pairs = msgspec.json.decode(raw, type=dict[str, str])
            except msgspec.DecodeError:
                raise Refusal("9009") from None
            if len(pairs) > MAX_TEXTS:
                raise Refusal("9014")
            return list(pairs.items())
        mobiles = request.params.get("mobile", "")
        if not mobiles:
            raise Refusal("9022")
        numbers = [each.strip() for each in mobiles.split(",")]
        if len(numbers) > (1 if call == "single" else MAX_NUMBERS):
            raise Refusal("9014")
        return [(number, request.params.get("content", "")) for number in numbers]

    @staticmethod
    def _check_number(books: _Books, number: str, abroad: bool) -> None:
        if not (_ABROAD if abroad else _MAINLAND).fullmatch(number):
            raise Refusal("9003")
        if abroad and number.startswith(books.account.unsupported_countries):
            raise Refusal("9015")
        if number in books.account.blacklist:
            raise Refusal("9023")

    @staticmethod
    def _check_text(books: _Books, text: str) -> None:
        if any(word in text for word in books.account.sensitive_words):
            raise Refusal("10001")
        if any(word in text for word in books.account.blocked_words):
            raise Refusal("10002")

    @staticmethod
    def _sent_at(request: Request) -> datetime:
        at = request.at.replace(microsecond=0)
        scheduled = request.params.get("scheduleSendTime", "")
        if not scheduled:
            return at
        try:
            then = parse_local(scheduled)
        except ValueError:
            raise Refusal("9012") from None
        if then < at:
            raise Refusal("10003")
        return then

    def _is_pushed(self, account: OneCloudSpAccount, message: Message) -> bool:
        if not account.callback_url or account.hand_out == "pull":
            return False
        return account.hand_out == "push" or not self._chance.hit(
            account.pull_share, "pulled", message.key
        )

    def strange_id(self, key: str) -> str:
        return key[:20]

    # The balance, and the read-once pages

    def _balance(self, books: _Books) -> Reply:
        # Numbers and text with two digits after the point, mixed (vendors.md 3.3).
        figures = {
            _DOMESTIC: books.balances[_DOMESTIC],
            _INTERNATIONAL: f"{books.balances[_INTERNATIONAL]}.00",
            _VOICE: "0.00",
        }
        return self._reply(books.name, "0", "SUCCESS", data=figures)

    def _reports(self, books: _Books) -> Reply:
        rows: list[_PageRow] = []
        for _ in range(min(books.account.pull_rows, len(books.reports))):
            message, report = books.reports.popleft()
            report.handed = "pull"
            name = {"vendor_message_id": message.vendor_message_id, "phone": message.phone}
            rows.append((report, name, self._report_row(message, report)))
        return self._page(rows)

    def _inbound(self, books: _Books) -> Reply:
        rows: list[_PageRow] = []
        for _ in range(min(books.account.pull_rows, len(books.inbound))):
            inbound = books.inbound.popleft()
            inbound.handed = "pull"
            name = {"phone": inbound.phone, "content": inbound.content}
            rows.append((inbound, name, _inbound_row(inbound)))
        return self._page(rows)

    @staticmethod
    def _page(rows: list[_PageRow]) -> Reply:
        """Write a page and note where in the body each row ends, in case the reply is cut."""
        prefix, suffix = b'{"code":"0","msg":"SUCCESS","data":[', b"]}"
        written = [msgspec.json.encode(row) for *_, row in rows]
        reply = Reply(prefix + b",".join(written) + suffix, b"application/json;charset=UTF-8")
        end = len(prefix)
        for (thing, name, _), row_bytes in zip(rows, written, strict=True):
            end += len(row_bytes)
            reply.handed.append((thing, name, end))
            end += 1
        return reply

    def _report_row(self, message: Message, report: Report) -> Row:
        uuid, batch_id = self._books[message.account].names[message]
        share = self.accounts[message.account].batch_id_share
        row = {"smUuid": uuid, "deliverTime": local_text(report.at)}
        if self._chance.hit(share, "batchId in reports", message.key):
            row["batchId"] = batch_id
        return row | {"mobile": message.phone, "deliverResult": report.code}

    # Pushes: a form, one report each

    def pulls(self, account: str) -> bool:
        return self.accounts[account].hand_out != "push"

    def push_many(self, account: str) -> int:
        return 1

    def report_push(
        self, account: str, records: list[tuple[Message, Report | None]], url: str
    ) -> Push:
        ((message, report),) = records
        assert report is not None, "there is no push for a message still under way"
        return _push(url, self._report_row(message, report))

    def malformed_push(self, account: str, message: Message, report: Report, how: str) -> Push:
        row = self._report_row(message, report)
        url = self.accounts[account].callback_url
        if how == "missing_fields":
            return _push(url, {name: row[name] for name in ("deliverTime", "mobile")})
        push = _push(url, row)
        if how == "truncated":
            # Within the second field: neither number nor result is left.
            return push._replace(body=push.body[: push.body.index(b"deliverTime") + 7])
        if how == "empty_body":
            return push._replace(body=b"")
        # EBCDIC: neither UTF-8 nor any GB charset makes fields of it.
        return push._replace(body=push.body.decode("ascii").encode("cp037"))

    def inbound_push(self, account: str, inbound: Inbound) -> Push | None:
        return None

    def unhanded_report(self, account: str, message: Message, report: Report) -> None:
        settings = self.accounts[account]
        if self.pulls(account) and (message.pulled or settings.pull_after_failed_push):
            report.handed = "queued"
            self._books[account].reports.append((message, report))
        else:
            report.handed = "lost"

    def unhanded_inbound(self, account: str, inbound: Inbound) -> None:
        inbound.handed = "queued"
        self._books[account].inbound.append(inbound)


def _open_books(name: str, account: OneCloudSpAccount) -> _Books:
    return _Books(
        name,
        account,
        balances={
            _DOMESTIC: account.domestic_balance,
            _INTERNATIONAL: account.international_balance,
        },
        signs={str(sign.id): sign.name for sign in account.signs},
        templates={str(template.id): template.content for template in account.templates},
    )


def _id_name(call: str) -> str:
    return "smUuid" if call == "single" else "batchId"


def _customer_number(books: _Books) -> str:
    """Five digits that begin every smUuid of an account."""
    return str(10_000 + crc32(books.name.encode()) % 90_000)


def _text(content: str, template: str | None, abroad: bool) -> str:
    """Return what the handset shows, without the sign."""
    if not content:
        raise Refusal("9019")
    if template is None:
        return content
    variables = _SEPARATOR.split(content)
    # Known of the domestic send alone (vendors.md 3.1).
    if not abroad and not all(1 <= len(each) <= MAX_VARIABLE_LENGTH for each in variables):
        raise Refusal("9018")
    if {int(hole) for hole in _HOLE.findall(template)} != set(range(1, len(variables) + 1)):
        raise Refusal("9009")
    return _HOLE.sub(lambda hole: variables[int(hole[1]) - 1], template)


def _count(books: _Books, text: str, abroad: bool) -> int:
    return count_international(text) if abroad else count_segments(text, books.account.count_by)


def _json(document: object) -> Reply:
    return Reply(msgspec.json.encode(document), b"application/json;charset=UTF-8")


def _push(url: str, row: Row) -> Push:
    headers = (("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8"),)
    return Push("POST", url, headers, urlencode(row).encode())


def _inbound_row(inbound: Inbound) -> Row:
    row = {
        "mobile": inbound.phone,
        "content": inbound.content,
        "receiveTime": local_text(inbound.received_at),
        "extend": inbound.extno,
    }
    return row | ({"batchId": inbound.vendor_message_id} if inbound.vendor_message_id else {})
