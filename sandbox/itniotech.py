"""Pretend itniotech, written from vendor-docs/003 (sendSms) and its other pages (vendors.md 4).

The pages leave open, and this module decides: how far a timestamp may be off (`skew_seconds`, -16);
-14 for a missing field or more than 200 ids, -22 for a parameter that makes no sense, -32 for an
application that is not the key's; that of several numbers the strange ones are counted by `fail`
and only strange ones are -9; that a failed message costs nothing where the account's basis is
delivery; that the 90 days of the queries are not played.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import md5
from typing import Any, Literal

import msgspec

from sandbox.clock import VENDOR_ZONE, local_text
from sandbox.delivery import Deliveries
from sandbox.exchange import Reply, Request
from sandbox.pushes import Push
from sandbox.segments import CountBy, count_segments
from sandbox.settings import Account, Basis
from sandbox.statements import is_charged
from sandbox.vendor import Identity, StatementLayout
from sandbox.world import Inbound, Message, Report, World

NAME = "itniotech"

# vendor-docs/003 请求参数; vendors.md 4.2. What must be there, what may be.
PARAMETERS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "sendSms": (frozenset({"appId", "numbers", "content"}), frozenset({"senderId", "orderId"})),
    "getReport": (frozenset({"appId", "msgIds"}), frozenset()),
    "getSentRcd": (frozenset({"appId", "startTime", "endTime"}), frozenset({"startIndex"})),
    "getBalance": (frozenset(), frozenset()),
    "recordMo": (frozenset({"appId", "current", "size", "params"}), frozenset()),
}
METHODS = {"sendSms": ("GET", "POST"), "recordMo": ("POST",)}
MOST_NUMBERS = {"GET": 100, "POST": 1000}
LONGEST_CONTENT = 1024
LONGEST_SENDER = 32
MOST_IDS = 200
MOST_INBOUND = 100
LONGEST_SPAN = timedelta(days=31)

# vendors.md 4.4, in the words of the status page.
WORDS = {
    "0": "success",
    "-1": "Authentication error",
    "-2": "Restricted IP access",
    "-3": "The content contains sensitive characters",
    "-4": "The content is empty",
    "-5": "The content is too long",
    "-7": "Too many numbers",
    "-8": "The number is empty",
    "-9": "The number is abnormal",
    "-10": "Insufficient balance",
    "-11": "Incorrect time format",
    "-13": "User locked",
    "-14": "Field is empty or query ID is abnormal",
    "-15": "Too frequent",
    "-16": "Timestamp expires",
    "-18": "Port program unusual",
    "-19": "Confirm SMS pricing with the business team",
    "-22": "Parameter exception",
    "-25": "Out of time range",
    "-32": "The key has no right to the application",
}

# vendors.md 4.3: 0 success, any other a failure; the query and the list have numbers of their own.
PUSHED_FAILURES = (1, 2, 3, 7, 12, -1)
QUERIED = {"delivered": "0", "failed": "1"}
QUERIED_SENDING = "-1"
LISTED = {"delivered": "0", "failed": "2"}

FAILURE_CODES = ("UNDELIV", "EXPIRED", "REJECTD", "Absent subscriber", "Unknown subscriber")
_NUMBER = re.compile(r"\d{7,15}", re.ASCII)
_PUBLISHED = re.compile(rb'"(mcc|mnc|orderId)":"([^"]*)"')


class ItniotechAccount(Account, frozen=True, kw_only=True, forbid_unknown_fields=True):
    api_key: str
    api_secret: str
    app_id: str
    price: Decimal = Decimal("0.01")
    basis: Basis = "submitted"
    count_by: CountBy = "international"
    currency: str = "USD"
    balance: Decimal = Decimal(1_000_000)
    gift: Decimal = Decimal(0)
    credit: Decimal = Decimal(0)
    skew_seconds: float = 300.0
    """How far the Timestamp of a call may be from the clock."""
    always: str = ""
    """A status that every call is answered with, such as -2, -13, -18 or -19."""
    sensitive_words: tuple[str, ...] = ("casino",)
    list_rows: int = 50_000
    """Rows on one page of getSentRcd."""
    push_timestamp: Literal["sent", "reported"] = "sent"
    published_style: float = 0.0
    """Share of pushes as the pages print them: single-quoted values, a blank after orderId."""
    inbound_push: bool = True
    inbound_rate: float = 0.0
    """Share of delivered messages that the handset replies to."""


@dataclass(slots=True, eq=False)
class _Books:
    name: str
    account: ItniotechAccount
    balance: Decimal
    messages: dict[str, Message] = field(default_factory=dict)
    orders: dict[str, str] = field(default_factory=dict)
    inbound: list[Inbound] = field(default_factory=list)


class Refusal(Exception):
    """The vendor says no, with a number of its status page."""

    def __init__(self, status: str) -> None:
        super().__init__(WORDS.get(status, ""))
        self.status = status


def _reply(status: str, **more: Any) -> Reply:
    document = {"status": status, "reason": WORDS.get(status, ""), **more}
    return Reply(msgspec.json.encode(document), b"application/json;charset=UTF-8")


def _iso(at: datetime) -> str:
    return at.astimezone(VENDOR_ZONE).isoformat(timespec="seconds")


def _parameters(request: Request) -> dict[str, Any]:
    """Read the query of a GET, the JSON object of a POST; empty where it is none."""
    if request.method == "GET":
        return dict(request.query)
    try:
        document = msgspec.json.decode(request.body)
    except msgspec.DecodeError:
        return {}
    return document if isinstance(document, dict) else {}


class Itniotech:
    name = NAME
    reads_json = True
    sends_pending = False
    offers_inbound = True
    malformations: tuple[str, ...] = (
        "truncated_json",
        "empty_body",
        "missing_fields",
        "wrong_charset",
    )
    statement_layout = StatementLayout(
        columns={
            "vendor_message_id": "vendor_message_id",
            "phone": "phone",
            "segments": "segments",
            "amount": "amount",
            "currency": "currency",
            "sent_at": "sent_at",
            "status": "status",
        },
        charset="utf-8",
        status_words={"delivered": "success", "failed": "failed", "none": "sending"},
    )

    def __init__(
        self, world: World, deliveries: Deliveries, accounts: Mapping[str, ItniotechAccount]
    ) -> None:
        self._world = world
        self._chance = world.chance
        self._deliveries = deliveries
        self.accounts: Mapping[str, ItniotechAccount] = accounts
        self._books = {
            name: _Books(name, account, account.balance) for name, account in accounts.items()
        }
        self._by_key = {books.account.api_key: books for books in self._books.values()}

    # What every vendor offers

    def charset(self, path: str) -> str:
        return "utf-8"

    def identify(self, request: Request) -> Identity | None:
        call = request.path.removeprefix("/sms/")
        if call == request.path or call not in PARAMETERS:
            return None
        books = self._by_key.get(request.headers.get("api-key", ""))
        params = _parameters(request)
        about = (
            str(params.get(name, ""))
            for name in ("numbers", "content", "orderId", "msgIds", "startTime", "startIndex")
        )
        return Identity(
            call=call,
            kind="send" if call == "sendSms" else "query",
            account=books.name if books else "",
            key=self._chance.digest(call, *about, str(params.get("current", ""))),
        )

    def throttled(self, status: int) -> Reply:
        if status == 429:
            reply = _reply("-15")
            reply.status = status
            return reply
        return Reply(b"Internal Server Error", b"text/plain", status)

    async def answer(self, request: Request, identity: Identity) -> Reply:
        try:
            books = self._authenticated(request)
            params = self._checked(books, request, identity.call)
            match identity.call:
                case "sendSms":
                    return await self._send(books, request, params)
                case "getReport":
                    return self._report(books, params)
                case "getSentRcd":
                    return self._list_sent(books, params)
                case "recordMo":
                    return self._list_inbound(books, params)
                case _:
                    return self._balance(books)
        except Refusal as refusal:
            return _reply(refusal.status)

    def _authenticated(self, request: Request) -> _Books:
        """Check Api-Key, Timestamp and Sign: MD5 of key, secret and timestamp, in any case."""
        headers = request.headers
        books = self._by_key.get(headers.get("api-key", ""))
        if books is None:
            raise Refusal("-1")
        timestamp = headers.get("timestamp", "")
        account = books.account
        ours = md5((account.api_key + account.api_secret + timestamp).encode()).hexdigest()
        if headers.get("sign", "").lower() != ours:
            raise Refusal("-1")
        if not re.fullmatch(r"\d{10}", timestamp):
            raise Refusal("-16")
        # The real time of the request: a caller signs with its own clock, not a virtual one.
        if abs(request.received_at.timestamp() - int(timestamp)) > account.skew_seconds:
            raise Refusal("-16")
        if account.always:
            raise Refusal(account.always)
        return books

    def _checked(self, books: _Books, request: Request, call: str) -> dict[str, Any]:
        required, optional = PARAMETERS[call]
        params = _parameters(request)
        if request.method not in METHODS.get(call, ("GET",)):
            self._world.violation(request, NAME, call, request.method, "undocumented method")
            raise Refusal("-22")
        undocumented = params.keys() - required - optional
        for name in sorted(undocumented):
            self._world.violation(request, NAME, call, name, "undocumented parameter")
        if undocumented and self._world.settings.strict:
            raise Refusal("-22")
        if not request.headers.get("content-type", "").startswith("application/json"):
            self._world.violation(request, NAME, call, "Content-Type", "not application/json")
        own_refusals = {"numbers": "-8", "content": "-4"}
        for name in sorted(required):
            if not params.get(name):
                raise Refusal(own_refusals.get(name, "-14"))
        if required and params["appId"] != books.account.app_id:
            raise Refusal("-32")
        return params

    # sendSms (vendor-docs/003)

    async def _send(self, books: _Books, request: Request, params: dict[str, Any]) -> Reply:
        if not all(isinstance(value, str) for value in params.values()):
            raise Refusal("-22")
        content, sender = params["content"], params.get("senderId", "")
        numbers = params["numbers"].split(",")
        orders = params["orderId"].split(",") if params.get("orderId") else []
        if len(content) > LONGEST_CONTENT:
            raise Refusal("-5")
        if any(word in content.lower() for word in books.account.sensitive_words):
            raise Refusal("-3")
        if len(numbers) > MOST_NUMBERS[request.method]:
            raise Refusal("-7")
        if len(sender) > LONGEST_SENDER or (orders and len(orders) != len(numbers)):
            raise Refusal("-22")
        wanted = [
            (number, orders[place] if orders else "")
            for place, number in enumerate(numbers)
            if _NUMBER.fullmatch(number)
        ]
        if not wanted:
            raise Refusal("-9")
        account = books.account
        segments = count_segments(content, account.count_by)
        cost = len(wanted) * segments * account.price_at(request.at)
        if books.balance + account.gift + account.credit < cost:
            raise Refusal("-10")
        books.balance -= cost
        messages = [self._message(books, request, number, content, sender) for number, _ in wanted]
        for message, (_, order) in zip(messages, wanted, strict=True):
            books.messages[message.vendor_message_id] = message
            if order:
                books.orders[message.vendor_message_id] = order
            self._deliveries.accept(self, account, message, bool(account.callback_url))
        await self._deliveries.dispatch(self, messages)
        reply = _reply(
            "0",
            success=str(len(messages)),
            fail=str(len(numbers) - len(messages)),
            array=[
                {"msgId": message.vendor_message_id, "number": number}
                | ({"orderId": order} if order else {})
                for message, (number, order) in zip(messages, wanted, strict=True)
            ],
        )
        reply.sent_messages = list(messages)
        return reply

    def _message(
        self, books: _Books, request: Request, number: str, content: str, sender: str
    ) -> Message:
        world = self._world
        key = world.occurrence(NAME, books.name, number, content, request.virtual_time)
        return world.new_message(
            books.account,
            vendor=NAME,
            account_name=books.name,
            vendor_message_id=self._message_id(key),
            key=key,
            phone=number,
            content=content,
            sign="",
            sent_at=request.at.replace(microsecond=0),
            failure_codes=FAILURE_CODES,
            success_codes=("0",),
            extno=sender,
        )

    @staticmethod
    def _message_id(key: str) -> str:
        """19 digits like the page's 2108021054011000095: more than a double holds."""
        return f"21{int(key, 16) % 10**17:017d}"

    def strange_id(self, key: str) -> str:
        return self._message_id(key)

    # The queries (vendors.md 4.2)

    def _report(self, books: _Books, params: dict[str, Any]) -> Reply:
        ids = str(params["msgIds"]).split(",")
        if len(ids) > MOST_IDS:
            raise Refusal("-14")
        rows = []
        # What is still in the queue counts as not found, as the page says.
        known = [books.messages[id] for id in ids if id in books.messages]
        for message in (message for message in known if message.known):
            report = message.final
            rows.append(
                {
                    "msgId": message.vendor_message_id,
                    "number": message.phone,
                    "receiveTime": _iso(report.at) if report else "",
                    "status": QUERIED[report.status] if report else QUERIED_SENDING,
                }
            )
        counts = {
            name: str(sum(row["status"] == status for row in rows))
            for name, status in (("success", "0"), ("fail", "1"), ("sending", "-1"))
        }
        return _reply("0", **counts, nofound=str(len(ids) - len(rows)), array=rows)

    def _list_sent(self, books: _Books, params: dict[str, Any]) -> Reply:
        start, end = self._span(params["startTime"], params["endTime"])
        index = str(params.get("startIndex", "0"))
        if not re.fullmatch(r"\d{1,9}", index):
            raise Refusal("-22")
        found = sorted(
            (
                message
                for message in books.messages.values()
                if message.known and message.final and start <= message.sent_at <= end
            ),
            key=lambda message: (message.sent_at, message.vendor_message_id),
        )
        rows = [
            {
                "msgId": message.vendor_message_id,
                "number": message.phone,
                "receiveTime": _iso(message.final.at),
                "status": LISTED[message.final.status],
            }
            for message in found[int(index) : int(index) + books.account.list_rows]
            if message.final
        ]
        return _reply(
            "0",
            success=str(sum(row["status"] == "0" for row in rows)),
            fail=str(sum(row["status"] == "2" for row in rows)),
            array=rows,
        )

    def _list_inbound(self, books: _Books, params: dict[str, Any]) -> Reply:
        current, size, span = params["current"], params["size"], params["params"]
        if not isinstance(current, int) or current < 1:
            raise Refusal("-22")
        if not isinstance(size, int) or not 1 <= size <= MOST_INBOUND:
            raise Refusal("-22")
        if not isinstance(span, dict) or span.keys() != {"strTime", "endTime"}:
            raise Refusal("-22")
        start, end = self._span(span["strTime"], span["endTime"])
        found = sorted(
            (each for each in books.inbound if start <= each.received_at <= end),
            key=lambda each: (each.received_at, each.key),
        )
        records = [
            {
                "number": inbound.phone,
                "sendId": inbound.extno,
                "receiveTime": _iso(inbound.received_at),
                "content": inbound.content,
                "mcc": 515,
                "mnc": -1,
                "operator": "Philippines",
                "pricedetail": self._cost(books.account, 1, inbound.received_at),
            }
            for inbound in found[(current - 1) * size : current * size]
        ]
        return _reply(
            "0",
            data={
                "total": len(found),
                "size": size,
                "current": current,
                "pages": -(-len(found) // size),
                "records": records,
            },
        )

    def _span(self, start_text: Any, end_text: Any) -> tuple[datetime, datetime]:
        """Read ISO 8601 times with an offset; their span is at most 31 days."""
        times = []
        for text in (start_text, end_text):
            shape = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"
            if not isinstance(text, str) or not re.fullmatch(shape, text):
                raise Refusal("-11")
            try:
                times.append(datetime.fromisoformat(text))
            except ValueError:
                raise Refusal("-11") from None
        start, end = times
        if not timedelta(0) <= end - start <= LONGEST_SPAN:
            raise Refusal("-25")
        return start, end

    def _balance(self, books: _Books) -> Reply:
        account = books.account
        return _reply(
            "0",
            balance=format(books.balance, "f"),
            gift=format(account.gift, "f"),
            credit=format(account.credit, "f"),
        )

    # Pushes: one POST, one JSON object (vendors.md 4.3)

    def pulls(self, account: str) -> bool:
        return False

    def push_many(self, account: str) -> int:
        return 1

    def report_push(
        self, account: str, records: list[tuple[Message, Report | None]], url: str
    ) -> Push:
        (message, report), *_ = records
        return self._push(account, url, self._report_body(account, message, report), message.key)

    def _report_body(
        self, account_name: str, message: Message, report: Report | None
    ) -> dict[str, Any]:
        books = self._books[account_name]
        account = books.account
        status = self._chance.pick(PUSHED_FAILURES, "pushed status", message.key)
        delivered = report is not None and report.status == "delivered"
        reported = account.push_timestamp == "reported" and report is not None
        at = report.at if reported and report else message.sent_at
        body: dict[str, Any] = {
            "appId": account.app_id,
            "msgid": message.vendor_message_id,
            "mobile": message.phone,
            "status": 0 if delivered else status,
            "reason": "0" if delivered or report is None else report.code,
            "timestamp": int(at.timestamp()) * 1000,
        }
        if order := books.orders.get(message.vendor_message_id):
            body["orderId"] = order
        segments = message.segments if is_charged(message, account) else 0
        detail = self._cost(account, segments, message.sent_at)
        return body | {"mcc": "404", "mnc": "-1", "pricedetail": detail}

    @staticmethod
    def _cost(account: ItniotechAccount, segments: int, at: datetime) -> dict[str, Any]:
        price = account.price_at(at)
        return {
            "pay": format(price * segments, "f"),
            "currency": account.currency,
            "chargeCnt": segments,
            "price": format(price, "f"),
        }

    def _push(self, account: str, url: str, body: dict[str, Any], key: str) -> Push:
        raw = msgspec.json.encode(body)
        if self._chance.hit(self.accounts[account].published_style, "published style", key):
            raw = _PUBLISHED.sub(lambda found: b"\"%s\":'%s'" % found.groups(), raw)
            raw = raw.replace(b'"orderId":', b'"orderId ":')
        return self._raw_push(url, raw)

    @staticmethod
    def _raw_push(url: str, raw: bytes) -> Push:
        return Push("POST", url, (("Content-Type", "application/json;charset=UTF-8"),), raw)

    def malformed_push(self, account: str, message: Message, report: Report, how: str) -> Push:
        body = self._report_body(account, message, report)
        if how == "missing_fields":
            del body["msgid"], body["status"]
        raw = msgspec.json.encode(body)
        if how == "truncated_json":
            raw = raw[: len(raw) // 2]
        elif how == "empty_body":
            raw = b""
        elif how == "wrong_charset":
            raw = raw.decode("utf-8").encode("gb18030") + b"\xff"
        return self._raw_push(self.accounts[account].callback_url, raw)

    def inbound_push(self, account: str, inbound: Inbound) -> Push | None:
        books = self._books[account]
        books.inbound.append(inbound)
        if not (books.account.inbound_push and books.account.callback_url):
            return None
        body = {
            "msgid": inbound.vendor_message_id or self._message_id(inbound.key),
            "mobile": inbound.phone,
            "reply_time": local_text(inbound.received_at),
            "content": inbound.content,
            "sendid": inbound.extno,
            "mcc": 515,
            "mcn": -1,  # as the page's sample spells it
            "operator": "Philippines",
            "pricedetail": self._cost(books.account, 1, inbound.received_at),
        }
        return self._push(account, books.account.callback_url, body, inbound.key)

    def unhanded_report(self, account: str, message: Message, report: Report) -> None:
        # getReport and getSentRcd tell the final state, but never that it was contradicted.
        report.handed = "query" if report is message.final else "lost"

    def unhanded_inbound(self, account: str, inbound: Inbound) -> None:
        inbound.handed = "query"
