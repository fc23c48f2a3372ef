"""Pretend ThinkAPI (顶想云), written from vendor-docs/001 (接口1 to 10) and its SDK's calls.

The page leaves open, and this module decides: error codes (400 parameters, 401 appCode, 404 no
such thing, 409 not in a state for that), the reply of `batch_send` (a list of id and phone),
whether a report's `content` carries the sign (it does, as the handset shows it).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from sandbox.clock import local_text
from sandbox.delivery import Deliveries
from sandbox.exchange import Reply, Request
from sandbox.pushes import Push
from sandbox.settings import Account, Basis
from sandbox.vendor import Identity, StatementLayout
from sandbox.world import Fault, Inbound, Message, Report, World

NAME = "thinkapi"

IN_REVIEW, APPROVED, REJECTED = 0, 1, 2
STATUS_NUMBERS = {"delivered": 1, "failed": -1}
SENDING = 0

# vendor-docs/001 模板提交注意事项
RESERVED_VARIABLES = frozenset({"id", "email", "mobile", "nick", "site"})
MAX_VARIABLES = 8
MAX_VARIABLE_LENGTH = 50
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_]+")
_PHONE = re.compile(r"1\d{10}")
_NUMBER = re.compile(r"\d+")

FAILURE_CODES = ("MK:0011", "MK:0001", "UNDELIV", "空号", "关机或停机", "EXPIRED", "DB:0103")
REJECTIONS = ("请提供网址或公众号", "请先完成企业认证", "内容不符合规范")

# Parameters by call: what must be there, what may be. appCode may always be there.
PARAMETERS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "send": (frozenset({"signId", "templateId", "phone"}), frozenset({"params"})),
    # Not on the page, in the SDK since 2024-03-09 (vendors.md 2.1).
    "batch_send": (frozenset({"signId", "templateId", "phone"}), frozenset({"params"})),
    "query_status": (frozenset({"id"}), frozenset()),
    "add_sign": (frozenset({"name", "remark"}), frozenset()),
    "query_sign": (frozenset({"id"}), frozenset()),
    "modify_sign": (frozenset({"id", "name", "remark"}), frozenset()),
    "delete_sign": (frozenset({"id"}), frozenset()),
    # The SDK's template calls also know signId and type (vendors.md 2.1).
    "add_template": (frozenset({"name", "content", "remark"}), frozenset({"signId", "type"})),
    "query_template": (frozenset({"id"}), frozenset()),
    # The page returns content but forgets it among the parameters (接口9).
    "modify_template": (
        frozenset({"id", "name", "remark"}),
        frozenset({"content", "signId", "type"}),
    ),
    "delete_template": (frozenset({"id"}), frozenset()),
}


class ReviewedText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sign or template that the account already has, approved."""

    id: int
    name: str
    content: str = ""
    remark: str = ""


class ThinkApiAccount(Account, frozen=True, kw_only=True, forbid_unknown_fields=True):
    app_code: str
    price: Decimal = Decimal("0.035")
    basis: Basis = "delivered"
    user_id: int = 1
    signs: tuple[ReviewedText, ...] = ()
    templates: tuple[ReviewedText, ...] = ()


class Refusal(Exception):
    """The vendor says no, in its envelope."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(slots=True, eq=False)
class Item:
    """A sign or a template under review."""

    what: str
    id: int
    name: str
    content: str
    remark: str
    status: int
    error: str | None
    created_at: datetime
    updated_at: datetime
    submissions: int = 1
    variables: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class _Books:
    """What the vendor keeps for one account."""

    name: str
    account: ThinkApiAccount
    items: dict[str, dict[int, Item]] = field(default_factory=lambda: {"sign": {}, "template": {}})
    next_ids: dict[str, int] = field(default_factory=lambda: {"sign": 471, "template": 278})
    messages: dict[str, Message] = field(default_factory=dict)


def _envelope(code: int, message: str, **data: Any) -> Reply:
    return Reply(
        msgspec.json.encode({"code": code, "message": message, **data}),
        b"application/json; charset=utf-8",
    )


class ThinkApi:
    name = NAME
    reads_json = False
    sends_pending = True
    offers_inbound = False
    malformations: tuple[str, ...] = (
        "truncated_json",
        "empty_body",
        "unknown_action",
        "missing_fields",
        "wrong_charset",
    )
    statement_layout = StatementLayout(
        columns={
            "vendor_message_id": "vendor_message_id",
            "phone": "phone",
            "segments": "segments",
            "amount": "amount",
            "sent_at": "sent_at",
            "status": "status",
        },
        charset="utf-8-sig",
        status_words={"delivered": "success", "failed": "failed", "none": "sending"},
    )
    _noun: ClassVar[dict[str, str]] = {"sign": "签名", "template": "模板"}

    def __init__(
        self, world: World, deliveries: Deliveries, accounts: Mapping[str, ThinkApiAccount]
    ) -> None:
        self._world = world
        self._chance = world.chance
        self._deliveries = deliveries
        self.accounts: Mapping[str, ThinkApiAccount] = accounts
        self._books = {name: _Books(name, account) for name, account in accounts.items()}
        self._by_code = {books.account.app_code: books for books in self._books.values()}
        for books in self._books.values():
            self._stock(books)

    def _stock(self, books: _Books) -> None:
        then = datetime.fromisoformat("2026-01-05T09:00:00+08:00")
        account = books.account
        for what, texts in (("sign", account.signs), ("template", account.templates)):
            for text in texts:
                books.items[what][text.id] = Item(
                    what, text.id, text.name, text.content, text.remark, APPROVED, None, then, then
                )
                books.items[what][text.id].variables = frozenset(_VARIABLE.findall(text.content))
                books.next_ids[what] = max(books.next_ids[what], text.id + 1)

    # What every vendor offers

    def charset(self, path: str) -> str:
        return "utf-8"

    def identify(self, request: Request) -> Identity | None:
        call = request.path.removeprefix("/sms/")
        if call == request.path or call not in PARAMETERS:
            return None
        books = self._authenticated(request)
        params = request.params
        # What an attempt is about, so that the n-th retry of one thing has a fate of its own.
        about = (params.get(name, "") for name in ("id", "phone", "name", "content", "params"))
        return Identity(
            call=call,
            kind="send" if call in ("send", "batch_send") else "query",
            account=books.name if books else "",
            key="/".join((call, *filter(None, about))),
        )

    def throttled(self, status: int) -> Reply:
        words = "Too Many Requests" if status == 429 else "Internal Server Error"
        return Reply(
            msgspec.json.encode({"code": status, "message": words}), b"application/json", status
        )

    async def answer(self, request: Request, identity: Identity) -> Reply:
        try:
            books = self._authenticated(request)
            if books is None:
                raise Refusal(401, "AppCode错误")
            self._check_parameters(request, identity.call)
            if identity.kind == "send":
                return await self._send(books, request, identity.call)
            if identity.call == "query_status":
                return self._query_status(books, request)
            verb, _, what = identity.call.partition("_")
            item_call = {
                "add": self._add,
                "query": self._query,
                "modify": self._modify,
                "delete": self._delete,
            }[verb]
            return item_call(books, what, request)
        except Refusal as refusal:
            return _envelope(refusal.code, refusal.message)

    def _authenticated(self, request: Request) -> _Books | None:
        """Find the account by header (recommended) or parameter."""
        header = request.headers.get("authorization")
        if header is not None:
            scheme, _, code = header.partition(" ")
            return self._by_code.get(code.strip()) if scheme.lower() == "appcode" else None
        return self._by_code.get(request.params.get("appCode", ""))

    def _check_parameters(self, request: Request, call: str) -> None:
        required, optional = PARAMETERS[call]
        params = request.params
        for name in sorted(required):
            if not params.get(name):
                raise Refusal(400, f"缺少参数: {name}")
        undocumented = params.keys() - required - optional - {"appCode"}
        for name in sorted(undocumented):
            self._world.violation(request, NAME, call, name, "undocumented parameter")
        if undocumented and self._world.settings.strict:
            raise Refusal(400, f"未知参数: {', '.join(sorted(undocumented))}")
        if request.method not in ("GET", "POST"):
            self._world.violation(request, NAME, call, request.method, "undocumented method")

    # 接口1: sending

    async def _send(self, books: _Books, request: Request, call: str) -> Reply:
        params = request.params
        sign = self._approved(books, "sign", params["signId"])
        template = self._approved(books, "template", params["templateId"])
        values = self._values(params.get("params"), template)
        phones = params["phone"].split(",") if call == "batch_send" else [params["phone"]]
        for phone in phones:
            if not _PHONE.fullmatch(phone):
                raise Refusal(400, "手机号码格式错误")
        text = _VARIABLE.sub(lambda match: values[match.group(1)], template.content)
        content = f"【{sign.name}】{text}"
        messages = [self._accept(books, request, sign.name, phone, content) for phone in phones]
        await self._deliveries.dispatch(self, messages)
        if call == "send":
            reply = _envelope(0, "发送成功", data={"id": messages[0].vendor_message_id})
        else:
            ids = [{"id": each.vendor_message_id, "phone": each.phone} for each in messages]
            reply = _envelope(0, "发送成功", data=ids)
        reply.sent_messages = list(messages)
        return reply

    def _accept(
        self, books: _Books, request: Request, sign: str, phone: str, content: str
    ) -> Message:
        world = self._world
        key = world.occurrence(NAME, books.name, phone, content, request.virtual_time)
        message = world.new_message(
            books.account,
            vendor=NAME,
            account_name=books.name,
            vendor_message_id=self._message_id(key),
            key=key,
            phone=phone,
            content=content,
            sign=sign,
            sent_at=request.at.replace(microsecond=0),
            failure_codes=FAILURE_CODES,
            success_codes=("",),
        )
        books.messages[message.vendor_message_id] = message
        pushed = bool(books.account.callback_url)
        self._deliveries.accept(self, books.account, message, pushed)
        return message

    @staticmethod
    def _message_id(key: str) -> str:
        """13 hex digits like the page's 6055df2f45e10: some look like a number, some like 1e5."""
        return f"6{key[:12]}"

    def strange_id(self, key: str) -> str:
        return self._message_id(key)

    def _values(self, raw: str | None, template: Item) -> dict[str, str]:
        """Read `params`; the page: a template without variables must be sent without any."""
        if raw is None:
            if template.variables:
                raise Refusal(400, "变量错误: 缺少模板变量")
            return {}
        try:
            decoded = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            raise Refusal(400, "变量错误: 不是Json对象") from None
        if not isinstance(decoded, dict) or not template.variables:
            raise Refusal(400, "变量错误")
        if decoded.keys() != template.variables:
            raise Refusal(400, "变量错误: 变量与模板不一致")
        values = {name: str(value) for name, value in decoded.items()}
        if any(len(value) > MAX_VARIABLE_LENGTH for value in values.values()):
            raise Refusal(400, f"变量错误: 单个变量不能超过{MAX_VARIABLE_LENGTH}个字符")
        return values

    # 接口2: status

    def _query_status(self, books: _Books, request: Request) -> Reply:
        message = books.messages.get(request.params["id"])
        if message is None:
            raise Refusal(404, "短信记录不存在")
        report = message.final if message.known else None
        data = {
            "id": message.vendor_message_id,
            "phone": int(message.phone),
            "content": message.content,
            "sendDate": local_text(message.sent_at),
            "reveiveDate": local_text(report.at) if report else "",
            "status": STATUS_NUMBERS[report.status] if report else SENDING,
            "message": _error_text(report),
        }
        return _envelope(0, "查询成功", data=data)

    # 接口3 to 接口10: signs and templates

    def _approved(self, books: _Books, what: str, raw_id: str) -> Item:
        item = self._item(books, what, raw_id)
        if item.status != APPROVED:
            raise Refusal(409, f"{self._noun[what]}未通过审核")
        return item

    def _item(self, books: _Books, what: str, raw_id: str) -> Item:
        item = books.items[what].get(int(raw_id)) if _NUMBER.fullmatch(raw_id) else None
        if item is None:
            raise Refusal(404, f"{self._noun[what]}不存在")
        return item

    def _add(self, books: _Books, what: str, request: Request) -> Reply:
        params = request.params
        number = books.next_ids[what]
        books.next_ids[what] += 1
        at = request.at.replace(microsecond=0)
        item = Item(
            what=what,
            id=number,
            name=params["name"],
            content=params.get("content", ""),
            remark=params["remark"],
            status=IN_REVIEW,
            error=None,
            created_at=at,
            updated_at=at,
        )
        books.items[what][number] = item
        self._submit(books, item, at)
        return _envelope(0, "添加成功", data=self._described(books, item))

    def _query(self, books: _Books, what: str, request: Request) -> Reply:
        item = self._item(books, what, request.params["id"])
        data = self._described(books, item) | {"status": item.status, "error": item.error}
        return _envelope(0, "查询成功", data=data)

    def _modify(self, books: _Books, what: str, request: Request) -> Reply:
        item = self._item(books, what, request.params["id"])
        if item.status == APPROVED:
            raise Refusal(409, f"已经通过审核的{self._noun[what]}不允许修改")
        item.name = request.params["name"]
        item.remark = request.params["remark"]
        item.content = request.params.get("content", item.content)
        item.status, item.error = IN_REVIEW, None
        item.submissions += 1
        item.updated_at = request.at.replace(microsecond=0)
        self._submit(books, item, item.updated_at)
        return _envelope(0, "修改成功", data=self._described(books, item))

    def _delete(self, books: _Books, what: str, request: Request) -> Reply:
        del books.items[what][self._item(books, what, request.params["id"]).id]
        return _envelope(0, "删除成功")

    def _described(self, books: _Books, item: Item) -> dict[str, Any]:
        described: dict[str, Any] = {"name": item.name}
        if item.what == "template":
            described["content"] = item.content
        return described | {
            "remark": item.remark,
            "user_id": books.account.user_id,
            "create_time": local_text(item.created_at),
            "update_time": local_text(item.updated_at),
            # Text in every sample, int in every table (接口3 to 接口9).
            "id": self._number_or_text(item.id, "reply id", item),
        }

    def _number_or_text(self, number: int, *names: str | Item) -> int | str:
        parts = [
            f"{name.what}/{name.id}/{name.submissions}" if isinstance(name, Item) else name
            for name in names
        ]
        return str(number) if self._chance.hit(0.5, "as text", *parts) else number

    def _submit(self, books: _Books, item: Item, at: datetime) -> None:
        key = self._chance.digest(
            "review", books.name, item.what, item.name, item.content, str(item.submissions)
        )
        submission = item.submissions
        settings = self._world.settings
        rates = self._world.faults_of(books.account)
        faults: list[Fault] = []
        if books.account.callback_url:
            if self._chance.hit(rates.push_lost, "push_lost", key):
                faults.append({"kind": "push_lost"})
            elif self._chance.hit(rates.push_doubled, "push_doubled", key):
                faults.append({"kind": "push_doubled", "concurrent": False})
        row: dict[str, Any] = {
            "type": "review",
            "vendor": NAME,
            "account": books.name,
            "what": item.what,
            "id": str(item.id),
            "name": item.name,
            "submission": submission,
            "status": "in_review",
            "error": None,
            "submitted_at": at,
            "reviewed_at": None,
            "faults": faults,
        }
        self._world.reviews.append(row)

        def give_verdict() -> list[Push]:
            if item.submissions != submission or books.items[item.what].get(item.id) is not item:
                row["status"] = "withdrawn"
                return []
            item.error = self._objection(item, key, settings.review_rejected)
            item.status = APPROVED if item.error is None else REJECTED
            item.updated_at = at + timedelta(seconds=settings.review_after_seconds)
            if item.what == "template":
                item.variables = frozenset(_VARIABLE.findall(item.content))
            row["status"] = "approved" if item.status == APPROVED else "rejected"
            row["error"] = item.error
            row["reviewed_at"] = item.updated_at
            if not books.account.callback_url or {"kind": "push_lost"} in faults:
                return []
            push = self._review_push(books, item)
            return [push] * (2 if faults else 1)

        row["pushes"] = self._deliveries.schedule_review(self, books.name, key, give_verdict)

    def _objection(self, item: Item, key: str, rejected: float) -> str | None:
        """Reject what breaks the page's rules, and by seed some that keep them."""
        if item.what == "sign":
            if any(mark in item.name for mark in "【】[]"):
                return "签名中不要包含任何特殊字符"
            if "测试" in item.name:
                return "不要使用带有测试字样的签名"
        else:
            variables = _VARIABLE.findall(item.content)
            if "【" in item.content or "】" in item.content:
                return "模板内容里面不要包含【】符号"
            if any(not _VARIABLE_NAME.fullmatch(name) for name in variables):
                return "变量名规范为英文大小写字母及下划线"
            if RESERVED_VARIABLES.intersection(variables):
                return "不能使用系统内置变量"
            if len(variables) > MAX_VARIABLES:
                return f"单个模板中不得超过{MAX_VARIABLES}个变量"
        if self._chance.hit(rejected, "rejected", key):
            return self._chance.pick(REJECTIONS, "rejection", key)
        return None

    # Pushes: one POST, JSON, X-ThinkPHP-Event: sms (接口2, 接口4, 接口8)

    def pulls(self, account: str) -> bool:
        return False

    def push_many(self, account: str) -> int:
        return 1

    def report_push(
        self, account: str, records: list[tuple[Message, Report | None]], url: str
    ) -> Push:
        (message, report), *_ = records
        return self._push(url, {"action": "report", "sms": self._report_body(message, report)})

    def _report_body(self, message: Message, report: Report | None) -> dict[str, Any]:
        status = STATUS_NUMBERS[report.status] if report else SENDING
        as_text = self._chance.hit(0.3, "status as text", message.key)
        return {
            "id": message.vendor_message_id,
            "phone": message.phone,
            "content": message.content,
            "sendDate": local_text(message.sent_at),
            "receiveDate": local_text(report.at) if report else "",
            "status": str(status) if as_text else status,
            "message": _error_text(report),
        }

    def _push(self, url: str, body: dict[str, Any]) -> Push:
        return self._raw_push(url, msgspec.json.encode(body))

    def _raw_push(self, url: str, body: bytes) -> Push:
        headers = (("Content-Type", "application/json"), ("X-ThinkPHP-Event", "sms"))
        return Push("POST", url, headers, body)

    def _review_push(self, books: _Books, item: Item) -> Push:
        as_text = self._chance.hit(0.3, "status as text", item.what, str(item.id), item.name)
        user_id = self._number_or_text(books.account.user_id, "user id", item)
        body = self._described(books, item) | {
            "id": self._number_or_text(item.id, "push id", item),
            "user_id": user_id,
            "status": str(item.status) if as_text else item.status,
            "error": item.error,
        }
        payload = item.what
        # The page's template sample carries its payload under `sign` (接口8).
        if item.what == "template" and self._chance.hit(
            0.5, "template under sign", str(item.id), item.name, str(item.submissions)
        ):
            payload = "sign"
        return self._push(books.account.callback_url, {"action": item.what, payload: body})

    def malformed_push(self, account: str, message: Message, report: Report, how: str) -> Push:
        sms = self._report_body(message, report)
        body: dict[str, Any] = {"action": "report", "sms": sms}
        if how == "unknown_action":
            body["action"] = "refund"
        elif how == "missing_fields":
            del sms["id"], sms["status"]
        raw = msgspec.json.encode(body)
        if how == "truncated_json":
            raw = raw[: len(raw) // 2]
        elif how == "empty_body":
            raw = b""
        elif how == "wrong_charset":
            raw = raw.decode("utf-8").encode("gb18030") + b"\xff"
        return self._raw_push(self.accounts[account].callback_url, raw)

    def inbound_push(self, account: str, inbound: Inbound) -> Push | None:
        return None

    def unhanded_report(self, account: str, message: Message, report: Report) -> None:
        # query_status tells the final state for ever, but never that it was contradicted.
        report.handed = "query" if report is message.final else "lost"

    def unhanded_inbound(self, account: str, inbound: Inbound) -> None:
        inbound.handed = "lost"


def _error_text(report: Report | None) -> str:
    return report.code if report is not None and report.status == "failed" else ""
