"""Pretend deepfinch behind the API gateway of Tencent's cloud market, from vendor-docs/004.

What the gateway checks, and its words: Tencent's pages 628/11819, 628/31717 and 628/35260
(vendors.md 5.1). The pages leave open, and this module decides: the order of the checks, reasons
other than "content mismatch", that the codes of the page's table are HTTP statuses too
(`http_statuses`), whether a text went out all the same after INTERNAL_ERROR (half of them did).
"""

import hmac
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

import msgspec

from sandbox.exchange import Reply, Request
from sandbox.settings import Account, Basis
from sandbox.vendor import Identity, StatementLayout
from sandbox.world import Message, World

NAME = "deepfinch"

PATH = "/release/data/send_sms"
PARAMETERS = frozenset({"content", "phone_number", "template_id"})
SKEW_SECONDS = 900
ALGORITHMS = ("hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512")

CodeWord = Literal["DETECTION_FAILED", "RATE_LIMIT_EXCEEDED", "INTERNAL_ERROR", "INVALID_ARGUMENT"]
# vendor-docs/004 返回码定义; the fourth word stands in the sample of a failure, without a number.
NUMBERS: dict[CodeWord, int] = {
    "DETECTION_FAILED": 400,
    "RATE_LIMIT_EXCEEDED": 403,
    "INTERNAL_ERROR": 500,
    "INVALID_ARGUMENT": 400,
}
DESCRIPTIONS: dict[CodeWord, str] = {
    "DETECTION_FAILED": "核验测失败",
    "RATE_LIMIT_EXCEEDED": "调用频率超出限额",
    "INTERNAL_ERROR": "服务器内部错误",
}

# vendor-docs/004 商品介绍; the sign stands in the text.
TEMPLATES = {
    "TPL_0000": "【Deepfinch】您的验证码是:%{code},有效期5分钟。",
    "TPL_0001": "【深智科技】您的验证码是:%{code},有效期%{expire_at}分钟。",
}

_AUTHORIZATION = re.compile(r'hmac\s+\w+\s*=\s*"[^"]*"(?:\s*,\s*\w+\s*=\s*"[^"]*")*\s*')
_PART = re.compile(r'(\w+)\s*=\s*"([^"]*)"')
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_DATE = re.compile(
    rf"({'|'.join(_DAYS)}), (\d\d) ({'|'.join(_MONTHS)}) (\d{{4}}) (\d\d):(\d\d):(\d\d) GMT",
    re.ASCII,
)
_VARIABLE = re.compile(r"%\{([^}]*)\}")
_PHONE = re.compile(r"1\d{10}", re.ASCII)


class DeepFinchAccount(Account, frozen=True, kw_only=True, forbid_unknown_fields=True):
    secret_id: str
    secret_key: str
    price: Decimal = Decimal("0.04")
    basis: Basis = "submitted"
    key_state: Literal["bound", "unbound", "no_plan"] = "bound"
    http_statuses: bool = True
    """Whether the numbers of the code words are HTTP statuses; else all is HTTP 200."""
    templates: dict[str, str] = msgspec.field(default_factory=TEMPLATES.copy)
    answers: dict[str, CodeWord] = msgspec.field(default_factory=dict)
    """What is answered to texts for some numbers."""


class GatewayError(Exception):
    """The market's gateway lets a request not through."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Refusal(Exception):
    """The vendor says no, in its JSON."""

    def __init__(self, word: CodeWord, reason: str) -> None:
        super().__init__(reason)
        self.word = word
        self.reason = reason


@dataclass(slots=True, frozen=True)
class _Books:
    name: str
    account: DeepFinchAccount


class DeepFinch:
    name = NAME
    # No bill is documented: these are the plainest columns that one could have.
    reads_json = False
    statement_layout = StatementLayout(
        columns={
            "vendor_message_id": "vendor_message_id",
            "phone": "phone",
            "segments": "segments",
            "amount": "amount",
            "sent_at": "sent_at",
        },
        charset="utf-8",
        status_words={"delivered": "OK", "failed": "OK", "none": "OK"},
    )

    def __init__(self, world: World, accounts: Mapping[str, DeepFinchAccount]) -> None:
        self._world = world
        self._chance = world.chance
        self.accounts: Mapping[str, DeepFinchAccount] = accounts
        self._by_id = {
            account.secret_id: _Books(name, account) for name, account in accounts.items()
        }

    def charset(self, path: str) -> str:
        return "utf-8"

    def identify(self, request: Request) -> Identity | None:
        if request.path != PATH:
            return None
        parts = dict(_PART.findall(request.headers.get("authorization", "")))
        books = self._by_id.get(parts.get("id", ""))
        about = (request.params.get(name, "") for name in sorted(PARAMETERS))
        return Identity(
            call="send_sms",
            kind="send",
            account=books.name if books else "",
            key="/".join(("send_sms", *about)),
        )

    def throttled(self, status: int) -> Reply:
        text = "API rate limit exceeded." if status == 429 else "Internal Server Error."
        return _text(status, text)

    async def answer(self, request: Request, identity: Identity) -> Reply:
        try:
            books = self._let_through(request)
        except GatewayError as error:
            return _text(error.status, error.text)
        params = request.params
        about = (params.get(name, "") for name in sorted(PARAMETERS))
        key = self._world.occurrence(NAME, books.name, *about, request.virtual_time)
        try:
            message = self._send(books, request, key)
        except Refusal as refusal:
            return _json(
                NUMBERS[refusal.word] if books.account.http_statuses else 200,
                status=refusal.word,
                reason=refusal.reason,
                request_id=self.strange_id(key),
            )
        reply = _json(200, request_id=self.strange_id(key), status="OK")
        reply.sent_messages = [message]
        return reply

    def strange_id(self, key: str) -> str:
        """TID and 32 hex digits, like the page's TID8bf47ab6eda64476973cc5f5b6ebf57e."""
        return f"TID{key}"

    # The gateway

    def _let_through(self, request: Request) -> _Books:
        """Check the signature as the gateway does; raises GatewayError."""
        if request.method != "POST":
            raise GatewayError(404, "Could not support method.")
        books = self._authenticated(request)
        if request.body and not request.form:
            raise GatewayError(403, "req content type need application/x-www-form-urlencoded.")
        return books

    def _authenticated(self, request: Request) -> _Books:
        header = request.headers.get("authorization")
        cannot = "HMAC signature cannot be verified"
        if header is None:
            raise GatewayError(401, f"{cannot}, a validate authorization header is required.")
        if not _AUTHORIZATION.fullmatch(header):
            raise GatewayError(401, "HMAC authorization format error.")
        parts = {name: value.strip() for name, value in _PART.findall(header)}
        if not parts.get("id") or not parts.get("signature"):
            raise GatewayError(401, "HMAC id or signature missing.")
        if not parts.get("algorithm") or not parts.get("headers"):
            raise GatewayError(401, "HMAC authorization headers is invalidate.")
        if parts["algorithm"] not in ALGORITHMS:
            raise GatewayError(401, f"HMAC algorithm {parts['algorithm']} not supported.")
        names = parts["headers"].split()
        if request.repeated.intersection((*names, "authorization")):
            raise GatewayError(401, "HMAC do not support multiple HTTP header.")
        if not {"date", "x-date"}.intersection(names):
            raise GatewayError(401, f"{cannot}, a valid date or x-date header is required.")
        for name in names:
            if name not in request.headers:
                whose = " for HMAC Authentication" if name == "x-date" else ""
                raise GatewayError(401, f"{cannot}, a valid {name} header is required{whose}.")
        # A `date` alone is signed and not compared with the clock (628/35257).
        if "x-date" in names:
            at = _parse_date(request.headers["x-date"])
            if at is None:
                raise GatewayError(
                    401, f"{cannot}, a valid x-date header is required for HMAC Authentication."
                )
            if abs((request.received_at - at).total_seconds()) > SKEW_SECONDS:
                raise GatewayError(
                    401, f"{cannot}, the x-date header is out of date for HMAC Authentication."
                )
        books = self._by_id.get(parts["id"])
        if books is None:
            raise GatewayError(401, f"{cannot}.")
        if books.account.key_state == "unbound":
            raise GatewayError(401, "HMAC apikey is invalid for API.")
        text = "\n".join(f"{name}: {request.headers[name]}" for name in names)
        made = hmac.new(
            books.account.secret_key.encode(), text.encode("latin-1"), parts["algorithm"][5:]
        )
        if parts["signature"] != b64encode(made.digest()).decode():
            raise GatewayError(401, "HMAC signature does not match.")
        if books.account.key_state == "no_plan":
            raise GatewayError(403, "Found no validate usage plan.")
        return books

    # The vendor

    def _send(self, books: _Books, request: Request, key: str) -> Message:
        """Take a text or raise Refusal."""
        params, account = request.params, books.account
        undocumented = sorted(params.keys() - PARAMETERS)
        for name in undocumented:
            self._world.violation(request, NAME, "send_sms", name, "undocumented parameter")
        if undocumented and self._world.settings.strict:
            raise Refusal("INVALID_ARGUMENT", f"unknown {', '.join(undocumented)}")
        phone = params.get("phone_number", "")
        template = account.templates.get(params.get("template_id", ""))
        if template is None:
            raise Refusal("INVALID_ARGUMENT", "template_id invalid")
        if not _PHONE.fullmatch(phone):
            raise Refusal("INVALID_ARGUMENT", "phone_number invalid")
        values = _values(params.get("content", ""))
        if values is None or values.keys() != set(_VARIABLE.findall(template)):
            raise Refusal("INVALID_ARGUMENT", "content mismatch")
        text = _VARIABLE.sub(lambda found: values[found[1]], template)
        word = account.answers.get(phone)
        if word is None:
            return self._accept(books, request, phone, text, key)
        if word == "INTERNAL_ERROR" and self._chance.hit(0.5, "sent all the same", key):
            self._accept(books, request, phone, text, key, reply_lost=True)
        raise Refusal(word, DESCRIPTIONS.get(word, "content mismatch"))

    def _accept(
        self,
        books: _Books,
        request: Request,
        phone: str,
        text: str,
        key: str,
        *,
        reply_lost: bool = False,
    ) -> Message:
        message = self._world.new_message(
            books.account,
            vendor=NAME,
            account_name=books.name,
            vendor_message_id=self.strange_id(key),
            key=key,
            phone=phone,
            content=text,
            sign="",
            sent_at=request.at.replace(microsecond=0),
            failure_codes=("",),
            success_codes=("",),
        )
        message.unreported = True
        message.reply_lost = reply_lost
        if message.final is not None:
            message.final.handed = "lost"
        return message


def _values(content: str) -> dict[str, str] | None:
    """Read name:value,name:value; None if it is not that."""
    if not content:
        return {}
    pairs = [item.partition(":") for item in content.split(",")]
    if not all(name and colon for name, colon, _ in pairs):
        return None
    values = {name: value for name, _, value in pairs}
    return values if len(values) == len(pairs) else None


def _parse_date(text: str) -> datetime | None:
    """Read RFC 1123, in English and in GMT; the weekday has to be the day's."""
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    day, month, *rest = found[2], _MONTHS.index(found[3]) + 1, *found.groups()[3:]
    year, hour, minute, second = map(int, rest)
    try:
        at = datetime(year, month, int(day), hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return at if _DAYS[at.weekday()] == found[1] else None


def _text(status: int, text: str) -> Reply:
    return Reply(text.encode(), b"text/plain; charset=utf-8", status)


def _json(http_status: int, /, **fields: str) -> Reply:
    return Reply(msgspec.json.encode(fields), b"application/json", http_status)
