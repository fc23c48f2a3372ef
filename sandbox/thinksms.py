"""Pretend thinksms, the "sms.aspx" platform, from vendor-docs/000 and vendors.md 1.

The page leaves open, and this module decides: the push (a form POST with the pull's field names,
switchable), the JSON of the two read-once pages (PascalCase, StatusBox and CallBox, after the
names that the page does give), p2p items (one a line), the reply to changespwd (returnstatus and
message), and that a number twice in one request counts once. The signed v2 paths and the MD5
passwords of a fork are from vendors.md 1.1 and 1.2; that a signature holds for five minutes, and an
extno of ten digits at most, from single resellers' pages.
"""

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal
from urllib.parse import urlencode
from xml.sax.saxutils import escape

import msgspec

from sandbox.clock import VENDOR_ZONE, local_text, parse_local, slashed_text
from sandbox.delivery import Deliveries
from sandbox.exchange import HandedOut, Reply, Request
from sandbox.pushes import Push
from sandbox.settings import Account, Basis
from sandbox.vendor import Identity, StatementLayout
from sandbox.world import Inbound, Message, Report, World

NAME = "thinksms"

STATUS_NUMBERS = {"delivered": "10", "failed": "20"}
DEFAULT_PAGE = 4000
MAX_NUMBERS = 50_000

FAILURE_CODES = ("MK:0011", "MY:0001", "UNDELIV", "EXPIRED", "REJECTD", "DB:0103", "CA:0051", "2")
# One published sample pairs 10 with MK:0011: the code is for reference only, the status wins.
SUCCESS_CODES = (*("DELIVRD",) * 60, "0", "MK:0011")

_PHONE = re.compile(r"1\d{10}")
_SIGN = re.compile(r"【([^【】]+)】")
_EXTNO = re.compile(r"\d{1,10}", re.ASCII)
_TIMESTAMP = re.compile(r"\d{14}", re.ASCII)

_COMMON = frozenset({"action", "userid", "rt"})
_LOGIN = frozenset({"account", "password"})
_SIGNATURE = frozenset({"timestamp", "sign"})
# vendors.md 1.2: legacy parameters that clients still send and the platform ignores.
_LEGACY = frozenset({"taskName", "checkcontent", "mobilenumber", "countnumber", "telephonenumber"})
PARAMETERS: dict[str, frozenset[str]] = {
    "send": _COMMON | {"mobile", "content", "sendTime", "extno"} | _LEGACY,
    "overage": _COMMON,
    "checkkeyword": _COMMON | {"content"},
    "changespwd": _COMMON | {"newpwd", "renewpwd"},
    "p2p": _COMMON | {"mobileContentList", "sendTime", "extno"} | _LEGACY,
    "reports": _COMMON | {"statusNum"},
    "inbound": _COMMON | {"ownExt"},
}
"""Besides these a call has `account` and `password`, or `timestamp` and `sign`."""
_CALLS_OF_SMS = ("send", "overage", "checkkeyword", "changespwd")
_ACTIONS = {
    "/sms.aspx": _CALLS_OF_SMS,
    "/smsGBK.aspx": _CALLS_OF_SMS,
    "/v2sms.aspx": _CALLS_OF_SMS,
    "/v2smsGBK.aspx": _CALLS_OF_SMS,
    "/p2p.aspx": ("send",),
    "/statusApi.aspx": ("query",),
    "/v2statusApi.aspx": ("query",),
    "/callApi.aspx": ("query",),
    "/v2callApi.aspx": ("query",),
}
_CALLS = {
    "/p2p.aspx": "p2p",
    "/statusApi.aspx": "reports",
    "/v2statusApi.aspx": "reports",
    "/callApi.aspx": "inbound",
    "/v2callApi.aspx": "inbound",
}


Row = tuple[tuple[str, str], ...]
"""Element names of the XML, and their text."""
_PageRow = tuple[HandedOut, dict[str, str], Row]


class ThinkSmsAccount(Account, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user_id: str
    account: str
    password: str
    price: Decimal = Decimal("0.045")
    basis: Basis = "submitted"
    payinfo: Literal["预付费", "后付费"] = "预付费"
    balance: int = 1_000_000
    """In segments; a post-paid account may go below zero."""
    reply_charset: Literal["utf-8", "gb2312"] = "utf-8"
    """gb2312: XML is declared so but really GB18030, on every path."""
    forbidden_words: tuple[str, ...] = ("赌博", "代开发票", "贷款")
    hand_out: Literal["both", "push", "pull"] = "both"
    """How reports reach the customer; with both, what was pushed is never pulled."""
    pull_share: float = 0.3
    """With both: the share of messages whose report is never pushed."""
    pull_after_failed_push: bool = True
    """With both: a report whose push was lost, malformed or not answered 2xx waits to be pulled."""
    push_format: Literal["form", "query", "json", "xml"] = "form"
    push_many: int = 1
    """Reports in one push at most; more than one only as json or xml."""
    inbound_push: bool = False
    inbound_rate: float = 0.0
    """Share of delivered messages that the handset replies to."""
    p2p_separator: str = "\n"
    password_md5: bool = False
    """The fork that wants the password as its MD5, in capitals."""
    sign_window_seconds: float = 300.0
    """How far a signed call's timestamp may be from now, either way; 0: any distance."""


@dataclass(slots=True, eq=False)
class _Books:
    name: str
    account: ThinkSmsAccount
    password: str
    balance: int
    sent_total: int = 0
    reports: deque[tuple[Message, Report]] = field(default_factory=deque)
    inbound: deque[Inbound] = field(default_factory=deque)
    pages: dict[str, int] = field(default_factory=lambda: {"reports": 0, "inbound": 0})
    task_ids: set[str] = field(default_factory=set)


class Refusal(Exception):
    """The vendor says no; `number` is for the error table of the two queries (vendors.md 1.4)."""

    def __init__(self, message: str, number: int = 6) -> None:
        super().__init__(message)
        self.message = message
        self.number = number


class ThinkSms:
    name = NAME
    reads_json = False
    sends_pending = False
    offers_inbound = True
    malformations: tuple[str, ...] = ("truncated", "empty_body", "missing_fields", "wrong_charset")
    statement_layout = StatementLayout(
        columns={
            "vendor_message_id": "任务ID",
            "phone": "手机号",
            "segments": "计费条数",
            "amount": "金额",
            "sent_at": "发送时间",
            "status": "状态",
        },
        charset="gb18030",
        status_words={"delivered": "成功", "failed": "失败", "none": "未知"},
    )

    def __init__(
        self, world: World, deliveries: Deliveries, accounts: Mapping[str, ThinkSmsAccount]
    ) -> None:
        self._world = world
        self._chance = world.chance
        self._deliveries = deliveries
        self.accounts: Mapping[str, ThinkSmsAccount] = accounts
        self._books = {
            name: _Books(name, account, account.password, account.balance)
            for name, account in accounts.items()
        }
        self._by_login = {
            (books.account.user_id, books.account.account): books for books in self._books.values()
        }
        self._by_user_id: dict[str, list[_Books]] = {}
        for books in self._books.values():
            self._by_user_id.setdefault(books.account.user_id, []).append(books)

    # What every vendor offers

    def charset(self, path: str) -> str:
        return "gb18030" if path.endswith("GBK.aspx") else "utf-8"

    def identify(self, request: Request) -> Identity | None:
        if request.path not in _ACTIONS:
            return None
        params = request.params
        action = params.get("action", "")
        call = _CALLS.get(request.path, action)
        if _is_signed(request):
            books = self._signer(params)
        else:
            books = self._by_login.get((params.get("userid", ""), params.get("account", "")))
        if call in ("reports", "inbound"):
            return Identity(call, "page", books.name if books else "", call)
        about = (params.get(name, "") for name in ("mobile", "content", "mobileContentList"))
        return Identity(
            call=call,
            kind="send" if action == "send" else "query",
            account=books.name if books else "",
            key=self._chance.digest(call, *about),
        )

    def throttled(self, status: int) -> Reply:
        words = b"Service Unavailable" if status == 429 else b"Server Error in '/' Application."
        return Reply(words, b"text/html", status)

    async def answer(self, request: Request, identity: Identity) -> Reply:
        call = identity.call
        try:
            self._check(request, call)
            books = self._authenticated(request)
            if call in ("send", "p2p"):
                return await self._send(books, request, call)
            if call == "reports":
                return self._reports(books, request)
            if call == "inbound":
                return self._inbound(books, request)
            if call == "overage":
                return self._overage(books, request)
            if call == "checkkeyword":
                return self._check_keyword(books, request)
            return self._change_password(books, request)
        except Refusal as refusal:
            return self._refused(request, identity, refusal)

    def _check(self, request: Request, call: str) -> None:
        action = request.params.get("action", "")
        if action not in _ACTIONS[request.path]:
            self._world.violation(request, NAME, call, f"action={action}", "undocumented action")
            raise Refusal("参数错误", 4)
        proof = _SIGNATURE if _is_signed(request) else _LOGIN
        undocumented = request.params.keys() - PARAMETERS[call] - proof
        for name in sorted(undocumented):
            self._world.violation(request, NAME, call, name, "undocumented parameter")
        if undocumented and self._world.settings.strict:
            raise Refusal(f"参数错误:{','.join(sorted(undocumented))}", 4)

    def _authenticated(self, request: Request) -> _Books:
        params = request.params
        if _is_signed(request):
            if not all(params.get(name) for name in ("userid", "timestamp", "sign")):
                raise Refusal("用户名或密码不能为空", 1)
            signer = self._signer(params)
            if signer is None or not _timely(request, signer.account.sign_window_seconds):
                raise Refusal("sign参数错误", 2)
            return signer
        user_id, account = params.get("userid", ""), params.get("account", "")
        password = params.get("password", "")
        if not account or not password or not user_id:
            raise Refusal("用户名或密码不能为空", 1)
        books = self._by_login.get((user_id, account))
        if books is None or password != _password_on_the_wire(books):
            raise Refusal("用户名或密码错误", 2)
        return books

    def _signer(self, params: Mapping[str, str]) -> _Books | None:
        """Return the account of the enterprise whose signature this is (vendors.md 1.2)."""
        timestamp, sign = params.get("timestamp", ""), params.get("sign", "").lower()
        for books in self._by_user_id.get(params.get("userid", ""), ()):
            text = f"{books.account.account}{books.password}{timestamp}"
            if sign == hashlib.md5(text.encode()).hexdigest():
                return books
        return None

    # Replies: XML by default, JSON on rt=json

    def _reply(self, request: Request, books: _Books | None, xml: str, json: object) -> Reply:
        if request.params.get("rt") == "json":
            return Reply(msgspec.json.encode(json), b"application/json; charset=utf-8")
        charset = self._reply_charset(request, books)
        body = (f'<?xml version="1.0" encoding="{charset}" ?>' + xml).encode(_codec(charset))
        return Reply(body, b"text/xml; charset=" + charset.encode())

    def _reply_charset(self, request: Request, books: _Books | None) -> str:
        if request.path.endswith("GBK.aspx"):
            return "gb2312"
        return books.account.reply_charset if books else "utf-8"

    def _refused(self, request: Request, identity: Identity, refusal: Refusal) -> Reply:
        books = self._books.get(identity.account)
        if identity.kind == "page":
            error = (("error", str(refusal.number)), ("remark", refusal.message))
            xml = f"<returnsms><errorstatus>{_elements(error)}</errorstatus></returnsms>"
            json: object = {"ErrorStatus": {"Error": refusal.number, "Remark": refusal.message}}
            return self._reply(request, books, xml, json)
        return self._send_reply(request, books, "Faild", refusal.message, 0, "0", 0)

    def _send_reply(
        self,
        request: Request,
        books: _Books | None,
        status: str,
        message: str,
        balance: int,
        task_id: str,
        accepted: int,
    ) -> Reply:
        xml = _elements(
            (
                ("returnstatus", status),
                ("message", message),
                ("remainpoint", str(balance)),
                ("taskID", task_id),
                ("successCounts", str(accepted)),
            )
        )
        json = {
            "ReturnStatus": status,
            "Message": message,
            "RemainPoint": balance,
            "TaskID": int(task_id),
            "SuccessCounts": accepted,
        }
        return self._reply(request, books, f"<returnsms>{xml}</returnsms>", json)

    # Sending

    async def _send(self, books: _Books, request: Request, call: str) -> Reply:
        pairs = self._pairs(books, request) if call == "p2p" else self._same_text(request)
        texts: dict[str, str] = {}
        for phone, content in pairs:
            self._check_content(books, content)
            if _PHONE.fullmatch(phone):
                texts.setdefault(phone, content)
        if not texts:
            raise Refusal("手机号码为空")
        if len(texts) > MAX_NUMBERS:
            raise Refusal("号码数量超过限制")
        extno = request.params.get("extno", "")
        if extno and not _EXTNO.fullmatch(extno):
            raise Refusal("扩展号错误")
        sent_at = self._sent_at(request)
        task_key = self._world.occurrence(
            NAME,
            books.name,
            *(part for pair in texts.items() for part in pair),
            request.virtual_time,
            request.params.get("sendTime", ""),
        )
        task_id = self.strange_id(task_key)
        messages = []
        for phone, content in texts.items():
            sign = _SIGN.match(content)
            messages.append(
                self._world.new_message(
                    books.account,
                    vendor=NAME,
                    account_name=books.name,
                    vendor_message_id=task_id,
                    key=self._chance.digest(task_key, phone),
                    phone=phone,
                    content=content,
                    sign=sign.group(1) if sign else "",
                    sent_at=sent_at,
                    failure_codes=FAILURE_CODES,
                    success_codes=SUCCESS_CODES,
                    extno=extno,
                )
            )
        for message in messages:
            self._deliveries.accept(
                self, books.account, message, self._is_pushed(books.account, message)
            )
            books.balance -= message.segments
        books.sent_total += len(messages)
        await self._deliveries.dispatch(self, messages)
        reply = self._send_reply(
            request, books, "Success", "ok", books.balance, task_id, len(messages)
        )
        reply.sent_messages = list(messages)
        return reply

    def _same_text(self, request: Request) -> Iterable[tuple[str, str]]:
        mobiles = request.params.get("mobile", "")
        content = request.params.get("content", "")
        if not mobiles:
            raise Refusal("手机号码为空")
        return [(mobile.strip(), content) for mobile in mobiles.split(",")]

    def _pairs(self, books: _Books, request: Request) -> Iterable[tuple[str, str]]:
        """Number TAB content (vendor-docs/000, 一对一发送); what parts items is not said."""
        raw = request.params.get("mobileContentList", "").replace("\r\n", "\n")
        items = [item for item in raw.split(books.account.p2p_separator) if item.strip()]
        if not items:
            raise Refusal("手机号码为空")
        pairs = []
        for item in items:
            mobile, tab, content = item.partition("\t")
            if not tab:
                raise Refusal("参数错误")
            pairs.append((mobile.strip(), content))
        return pairs

    def _check_content(self, books: _Books, content: str) -> None:
        if not content:
            raise Refusal("短信内容不能为空")
        if not _SIGN.match(content):
            raise Refusal("短信必须带【】格式签名")
        found = [word for word in books.account.forbidden_words if word in content]
        if found:
            raise Refusal(f"包含非法字符:{','.join(found)}")
        if books.account.payinfo == "预付费" and books.balance <= 0:
            raise Refusal("余额不足")

    @staticmethod
    def _sent_at(request: Request) -> datetime:
        at = request.at.replace(microsecond=0)
        scheduled = request.params.get("sendTime", "")
        if not scheduled:
            return at
        try:
            return max(at, parse_local(scheduled))
        except ValueError:
            raise Refusal("定时发送时间格式错误") from None

    def _is_pushed(self, account: ThinkSmsAccount, message: Message) -> bool:
        if not account.callback_url or account.hand_out == "pull":
            return False
        return account.hand_out == "push" or not self._chance.hit(
            account.pull_share, "pulled", message.key
        )

    def strange_id(self, key: str) -> str:
        """15 digits: task ids were seen with 3, 9 and 16 (vendors.md 1.3), all unquoted in JSON."""
        return str(10**14 + int(key[:15], 16) % (9 * 10**14))

    # The other calls of sms.aspx

    def _overage(self, books: _Books, request: Request) -> Reply:
        # Success is spelled with one c here, unlike on send (vendors.md 1.3).
        xml = _elements(
            (
                ("returnstatus", "Sucess"),
                ("message", ""),
                ("payinfo", books.account.payinfo),
                ("overage", str(books.balance)),
                ("sendTotal", str(books.sent_total)),
            )
        )
        json = {
            "ReturnStatus": "Sucess",
            "Message": "",
            "Payinfo": books.account.payinfo,
            "Overage": books.balance,
            "SendTotal": books.sent_total,
        }
        return self._reply(request, books, f"<returnsms>{xml}</returnsms>", json)

    def _check_keyword(self, books: _Books, request: Request) -> Reply:
        content = request.params.get("content", "")
        found = any(word in content for word in books.account.forbidden_words)
        words = "包含非法字符" if found else "没有包含屏蔽词"
        xml = f"<returnsms>{_elements((('message', words),))}</returnsms>"
        return self._reply(request, books, xml, {"Message": words})

    def _change_password(self, books: _Books, request: Request) -> Reply:
        new, again = request.params.get("newpwd", ""), request.params.get("renewpwd", "")
        if not new or new != again:
            raise Refusal("两次输入的密码不一致")
        books.password = new
        xml = _elements((("returnstatus", "Success"), ("message", "ok")))
        json = {"ReturnStatus": "Success", "Message": "ok"}
        return self._reply(request, books, f"<returnsms>{xml}</returnsms>", json)

    # Read-once pages

    def _reports(self, books: _Books, request: Request) -> Reply:
        raw = request.params.get("statusNum", "")
        if raw and (not raw.isdecimal() or int(raw) < 1):
            raise Refusal("参数错误", 4)
        count = min(int(raw) if raw else DEFAULT_PAGE, len(books.reports))
        rows: list[_PageRow] = []
        for _ in range(count):
            message, report = books.reports.popleft()
            report.handed = "pull"
            name = {"vendor_message_id": message.vendor_message_id, "phone": message.phone}
            rows.append((report, name, _report_row(message, report)))
        return self._page(request, books, "statusbox", rows)

    def _inbound(self, books: _Books, request: Request) -> Reply:
        own = request.params.get("ownExt")
        kept = deque[Inbound]()
        rows: list[_PageRow] = []
        for inbound in books.inbound:
            if own and inbound.extno != own:
                kept.append(inbound)
                continue
            inbound.handed = "pull"
            name = {"phone": inbound.phone, "content": inbound.content}
            rows.append((inbound, name, self._inbound_row(inbound)))
        books.inbound = kept
        return self._page(request, books, "callbox", rows)

    def _page(self, request: Request, books: _Books, box: str, rows: list[_PageRow]) -> Reply:
        """Write a page and note where in the body each row ends, in case the reply is cut."""
        if request.params.get("rt") == "json":
            name = {"statusbox": "StatusBox", "callbox": "CallBox"}[box]
            prefix, separator, suffix = f'{{"{name}":['.encode(), b",", b"]}"
            written = [msgspec.json.encode(_json_row(row)) for *_, row in rows]
            content_type = b"application/json; charset=utf-8"
        else:
            charset = self._reply_charset(request, books)
            prefix = f'<?xml version="1.0" encoding="{charset}" ?><returnsms>'.encode()
            separator, suffix = b"", b"</returnsms>"
            written = [
                f"<{box}>{_elements(row)}</{box}>".encode(_codec(charset)) for *_, row in rows
            ]
            content_type = b"text/xml; charset=" + charset.encode()
        reply = Reply(prefix + separator.join(written) + suffix, content_type)
        end = len(prefix)
        for (thing, thing_name, _), row_bytes in zip(rows, written, strict=True):
            end += len(row_bytes)
            reply.handed.append((thing, thing_name, end))
            end += len(separator)
        return reply

    def _inbound_row(self, inbound: Inbound) -> Row:
        slashed = self._chance.hit(0.5, "slashed time", inbound.key)
        return (
            ("mobile", inbound.phone),
            ("taskid", inbound.vendor_message_id or "0"),
            ("content", inbound.content),
            (
                "receivetime",
                slashed_text(inbound.received_at) if slashed else local_text(inbound.received_at),
            ),
            ("extno", inbound.extno),
        )

    # Pushes: claimed by the page, format unpublished

    def pulls(self, account: str) -> bool:
        return self.accounts[account].hand_out != "push"

    def push_many(self, account: str) -> int:
        settings = self.accounts[account]
        return settings.push_many if settings.push_format in ("json", "xml") else 1

    def report_push(
        self, account: str, records: list[tuple[Message, Report | None]], url: str
    ) -> Push:
        rows = [_report_row(message, report) for message, report in records if report is not None]
        return self._push(self.accounts[account], url, "statusbox", rows)

    def _push(self, account: ThinkSmsAccount, url: str, box: str, rows: list[Row]) -> Push:
        form = account.push_format
        if form == "query":
            return Push("GET", f"{url}{'&' if '?' in url else '?'}{urlencode(rows[0])}", (), b"")
        if form == "form":
            headers = (("Content-Type", "application/x-www-form-urlencoded"),)
            return Push("POST", url, headers, urlencode(rows[0]).encode())
        if form == "json":
            written: object = [_json_row(row) for row in rows]
            if len(rows) == 1:
                written = _json_row(rows[0])
            headers = (("Content-Type", "application/json"),)
            return Push("POST", url, headers, msgspec.json.encode(written))
        charset = account.reply_charset
        boxes = "".join(f"<{box}>{_elements(row)}</{box}>" for row in rows)
        xml = f'<?xml version="1.0" encoding="{charset}" ?><returnsms>{boxes}</returnsms>'
        headers = (("Content-Type", f"text/xml; charset={charset}"),)
        return Push("POST", url, headers, xml.encode(_codec(charset)))

    def malformed_push(self, account: str, message: Message, report: Report, how: str) -> Push:
        settings = self.accounts[account]
        row = _report_row(message, report)
        if how == "missing_fields":
            row = tuple(pair for pair in row if pair[0] not in ("taskid", "status"))
        push = self._push(settings, settings.callback_url, "statusbox", [row])
        if push.method == "GET":
            # A query string has neither charset nor end: only its fields can be missing.
            stem, _, query = push.url.partition("?")
            return push._replace(url=stem if how == "empty_body" else f"{stem}?{query[:16]}")
        if how == "truncated":
            # Within the second field, whatever the format: neither task nor status is left whole.
            return push._replace(body=push.body[: push.body.lower().index(b"task") + 3])
        if how == "empty_body":
            return push._replace(body=b"")
        if how == "wrong_charset":
            # EBCDIC: neither UTF-8 nor any GB charset makes fields of it.
            return push._replace(body=push.body.decode("ascii", "ignore").encode("cp037"))
        return push

    def inbound_push(self, account: str, inbound: Inbound) -> Push | None:
        settings = self.accounts[account]
        if not settings.callback_url or not settings.inbound_push:
            return None
        return self._push(settings, settings.callback_url, "callbox", [self._inbound_row(inbound)])

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


# JSON names: MO fields are given on the page as Mobile, Content, ReceiveTime, and it says Status.
_JSON_NAMES = {
    "mobile": "Mobile",
    "taskid": "TaskID",
    "status": "Status",
    "receivetime": "ReceiveTime",
    "errorcode": "ErrorCode",
    "extno": "ExtNo",
    "content": "Content",
}
# The page's send reply leaves numbers unquoted.
_JSON_NUMBERS = frozenset({"taskid", "status"})


def _is_signed(request: Request) -> bool:
    """The v2 paths take signatures only; of p2p there is one path, for either."""
    if request.path == "/p2p.aspx":
        return "sign" in request.params
    return request.path.startswith("/v2")


def _timely(request: Request, window_seconds: float) -> bool:
    """Read the timestamp, yyyyMMddHHmmss in 24 hours, in the vendor's zone."""
    text = request.params["timestamp"]
    if not _TIMESTAMP.fullmatch(text):
        return False
    try:
        said = datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=VENDOR_ZONE)
    except ValueError:
        return False
    distance = abs((request.received_at - said).total_seconds())
    return not window_seconds or distance <= window_seconds


def _password_on_the_wire(books: _Books) -> str:
    if books.account.password_md5:
        return hashlib.md5(books.password.encode()).hexdigest().upper()
    return books.password


def _codec(charset: str) -> str:
    return "gb18030" if charset == "gb2312" else charset


def _elements(row: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<{name}>{escape(text)}</{name}>" for name, text in row)


def _json_row(row: Row) -> dict[str, str | int]:
    return {_JSON_NAMES[name]: int(text) if name in _JSON_NUMBERS else text for name, text in row}


def _report_row(message: Message, report: Report) -> Row:
    return (
        ("mobile", message.phone),
        ("taskid", message.vendor_message_id),
        ("status", STATUS_NUMBERS[report.status]),
        ("receivetime", local_text(report.at)),
        ("errorcode", report.code),
        ("extno", message.extno),
    )
