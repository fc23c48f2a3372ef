"""The calls of the "sms.aspx" platform."""

import hashlib
import re
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateways.gateway import Account, Batch, Call, Client, Outgoing, Reply, Secret
from gateways.segments import signed

_ADDRESS = re.compile("https?://", re.IGNORECASE)
_TAB = "\t"

_Many = Annotated[int, Meta(ge=1, le=50_000, description="an integer from 1 to 50000")]


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user_id: Secret
    account: Secret
    password: Secret


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What differs from host to host; the vendor's page leaves most of it open.

    `auth`: how a call says who it is from. "password" and "md5" send account and password, as it is
    or as its MD5; "signed" sends neither, but a `sign` over them and the time, to the "v2" paths.
    `send_path`, `report_path` and `inbound_path` left empty are the platform's own for `auth` and
    `charset`; a path may also be a whole address.
    `charset` is of what is sent, `p2p_charset` of personal texts: their path has no GBK twin.
    `extension` is the `extno` that texts go out under, `own_extension` asks the inbound pull for
    messages to one's own extension numbers. `status_num` is how many reports one pull asks for,
    `numbers_per_send` and `texts_per_send` how many numbers one request has at most.
    """

    charset: Literal["utf-8", "gbk"] = "utf-8"
    auth: Literal["password", "md5", "signed"] = "password"
    send_path: str = ""
    report_path: str = ""
    inbound_path: str = ""
    p2p_path: str = "/p2p.aspx"
    p2p_charset: Literal["utf-8", "gbk"] = "utf-8"
    p2p_separator: Annotated[
        str, Meta(pattern=r"^[^\t\d]+$", description="text without a TAB or a digit")
    ] = "\n"
    reply_format: Literal["xml", "json"] = "xml"
    extension: str = ""
    own_extension: str = ""
    status_num: Annotated[int, Meta(ge=1, le=4000, description="an integer from 1 to 4000")] = 4000
    numbers_per_send: _Many = 1000
    texts_per_send: _Many = 200


class ThinkSmsClient(Client):
    """Sends, questions and the two pulls, which hand out each row once; all of them POST a form."""

    @property
    def pull_limit(self) -> int:
        """How many reports a pull asks for."""
        options: Options = self.account.options
        return options.status_num

    @property
    def numbers_per_send(self) -> int:
        """How many numbers one request names; the vendor's page names no limit."""
        options: Options = self.account.options
        return options.numbers_per_send

    @property
    def texts_per_send(self) -> int:
        """How many personal texts one request carries; the vendor's page names no limit."""
        options: Options = self.account.options
        return options.texts_per_send

    async def send(self, batch: Batch) -> Reply:
        """Send one text to many numbers, or each its own: two paths of the platform."""
        options: Options = self.account.options
        if batch.personal:
            path, charset = options.p2p_path, options.p2p_charset
            items = (f"{one.phone}{_TAB}{_text(one, batch)}" for one in batch.messages)
            form = {"mobileContentList": options.p2p_separator.join(items)}
        else:
            path, charset = self._send_path, options.charset
            form = {
                "mobile": ",".join(one.phone for one in batch.messages),
                "content": _text(batch.messages[0], batch),
            }
        if batch.send_at is not None:
            local = batch.send_at.astimezone(self.account.zone)
            form["sendTime"] = local.strftime("%Y-%m-%d %H:%M:%S")
        if options.extension:
            form["extno"] = options.extension
        return await self._post(Call.SEND, path, "send", form, charset=charset, submits=True)

    async def query_balance(self) -> Reply:
        """Ask what the account has left."""
        return await self._post(Call.QUERY_BALANCE, self._send_path, "overage", {})

    async def check_keyword(self, content: str) -> Reply:
        """Ask whether `content` holds forbidden words."""
        form = {"content": content}
        return await self._post(Call.CHECK_KEYWORD, self._send_path, "checkkeyword", form)

    async def change_password(self, password: Secret) -> Reply:
        """Give the account a new password, in the clear whatever `auth` is: so the page has it."""
        form = {"newpwd": password.reveal(), "renewpwd": password.reveal()}
        return await self._post(
            Call.CHANGE_PASSWORD, self._send_path, "changespwd", form, submits=True
        )

    async def pull_reports(self, limit: int) -> Reply:
        """Take up to `limit` reports."""
        options: Options = self.account.options
        path = options.report_path or f"/{self._family}statusApi.aspx"
        form = {"statusNum": str(limit)}
        return await self._post(Call.PULL_REPORTS, path, "query", form, destructive=True)

    async def pull_inbound(self, limit: int) -> Reply:
        """Take the waiting inbound messages; the vendor takes no `limit`."""
        options: Options = self.account.options
        path = options.inbound_path or f"/{self._family}callApi.aspx"
        form = {"ownExt": options.own_extension} if options.own_extension else {}
        return await self._post(Call.PULL_INBOUND, path, "query", form, destructive=True)

    @property
    def _family(self) -> str:
        options: Options = self.account.options
        return "v2" if options.auth == "signed" else ""

    @property
    def _send_path(self) -> str:
        options: Options = self.account.options
        twin = "GBK" if options.charset == "gbk" else ""
        return options.send_path or f"/{self._family}sms{twin}.aspx"

    async def _post(
        self,
        call: Call,
        path: str,
        action: str,
        form: dict[str, str],
        *,
        charset: str = "",
        destructive: bool = False,
        submits: bool = False,
    ) -> Reply:
        options: Options = self.account.options
        whole = {"action": action, **_authentication(self.account), **form}
        if options.reply_format == "json":
            whole["rt"] = "json"
        address = f"{self.account.base_url.rstrip('/')}/{path.lstrip('/')}"
        headers, body = await self.transport.post(
            path if _ADDRESS.match(path) else address,
            form=whole,
            charset=charset or options.charset,
            destructive=destructive,
            submits=submits,
        )
        return Reply(call=call, headers=headers, body=body)


def check_send(batch: Batch, account: Account) -> tuple[str, ...]:
    """Return what keeps `batch` from being sent through `account`; pure, nothing of it quoted.

    A text without a sign is the vendor's to refuse: some hosts put the account's own in front of it.
    """
    options: Options = account.options
    if batch.template_id is not None:
        return ("template_id: the vendor takes whole texts, not templates",)
    # To many numbers goes the text of the first.
    messages = batch.messages if batch.personal else batch.messages[:1]
    if not all((one.content or "").strip() for one in messages):
        return ("content is missing",)
    texts = [_text(one, batch) for one in messages]
    charset = options.p2p_charset if batch.personal else options.charset
    faults = []
    if not all(character.encode(charset, "ignore") for character in set().union(*texts)):
        faults.append(f"content holds characters that cannot be written in {charset}")
    if batch.personal and any(_parts(text, options.p2p_separator) for text in texts):
        faults.append(
            "content holds a TAB or what parts one personal text from the next (p2p_separator)"
        )
    return tuple(faults)


def _text(message: Outgoing, batch: Batch) -> str:
    return signed(message.content or "", batch.sign)


def _parts(text: str, separator: str) -> bool:
    """Tell whether the items of a list with `text` in it could be told apart in another way."""
    if _TAB in text:
        return True
    if separator.isspace():
        # A host that parts items by lines may take any kind of line end for one.
        return any(character in text for character in ("\r", "\n", separator))
    # Also where an end of the text and the beginning of the separator make one.
    return separator in (text + separator)[:-1]


def _authentication(account: Account) -> dict[str, str]:
    credentials: Credentials = account.credentials
    options: Options = account.options
    user_id, password = credentials.user_id.reveal(), credentials.password.reveal()
    if options.auth == "signed":
        timestamp = datetime.now(account.zone).strftime("%Y%m%d%H%M%S")
        sign = _md5(credentials.account.reveal() + password + timestamp)
        return {"userid": user_id, "timestamp": timestamp, "sign": sign}
    if options.auth == "md5":
        password = _md5(password).upper()
    return {"userid": user_id, "account": credentials.account.reveal(), "password": password}


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
