"""1cloudsp's calls."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateways.gateway import Account, Batch, Call, Client, Outgoing, Reply, Secret
from gateways.onecloudsp import sending
from gateways.phone import international
from gateways.segments import Rule

_MOST_NUMBERS = 50_000
_MOST_TEXTS = 10_000


DOMESTIC_URL = "http://api.1cloudsp.com"
INTERNATIONAL_URL = "http://intlapi.1cloudsp.com"


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    access_key: Secret
    secret: Secret


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of the two markets an account sends to, and where; the paths are those seen in use.

    `market`: "auto" goes by each request, see `sending.goes_abroad`. `international_url` is the host of
    `international_path` alone, by default the vendor's own beside the vendor's own `base_url`, else
    `base_url`, where everything else is.
    `sender_id` is what an international message shows as its sender.
    """

    market: Literal["auto", "domestic", "international"] = "auto"
    international_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s/?#]+[^\s?#]*)?$",
            description='an address such as "http://intlapi.1cloudsp.com"',
        ),
    ] = ""
    international_path: str = "/intl/api/v2/send"
    single_path: str = "/api/v2/single_send"
    batch_path: str = "/api/v2/send"
    report_path: str = "/report/status"
    inbound_path: str = "/report/up"
    balance_path: str = "/query/account"
    sender_id: str = ""


def rule(account: Account) -> Rule:
    """Return how the vendor counts segments for the account."""
    abroad = account.options.market == "international"
    return Rule.INTERNATIONAL if abroad else Rule.DOMESTIC


class OneCloudSpClient(Client):
    """Sends of both markets, the balance, and two pulls that hand out each row once."""

    @property
    def numbers_per_send(self) -> int:
        """How many numbers `mobile` takes."""
        return _MOST_NUMBERS

    @property
    def texts_per_send(self) -> int:
        """How many texts `data` takes."""
        return _MOST_TEXTS

    async def send(self, batch: Batch) -> Reply:
        """Send; one domestic message of a template, at once, goes by the single send, all else by a batch."""
        options: Options = self.account.options
        abroad = sending.goes_abroad(batch, self.account)
        form: dict[str, str] = {}
        if batch.sign:
            form["sign"] = batch.sign if batch.sign.isdecimal() else f"【{batch.sign}】"
        if batch.template_id:
            form["templateId"] = batch.template_id
        alone = len(batch.messages) == 1
        if batch.personal and not alone:
            texts = {_number(each, abroad): sending.content(each) for each in batch.messages}
            form["data"] = msgspec.json.encode(texts).decode()
        else:
            form["mobile"] = ",".join(_number(each, abroad) for each in batch.messages)
            form["content"] = sending.content(batch.messages[0])
        if batch.send_at:
            local = batch.send_at.astimezone(self.account.zone)
            form["scheduleSendTime"] = local.strftime("%Y-%m-%d %H:%M:%S")
        if abroad:
            if options.sender_id:
                form["senderId"] = options.sender_id
            own = self.account.base_url == DOMESTIC_URL
            host = options.international_url or (
                INTERNATIONAL_URL if own else self.account.base_url
            )
            url = _joined(host, options.international_path)
        elif alone and batch.template_id and not batch.send_at:
            url = _joined(self.account.base_url, options.single_path)
        else:
            url = _joined(self.account.base_url, options.batch_path)
        return await self._post(Call.SEND, url, form, submits=True)

    async def query_balance(self) -> Reply:
        """Ask what the account has left."""
        options: Options = self.account.options
        url = _joined(self.account.base_url, options.balance_path)
        return await self._post(Call.QUERY_BALANCE, url, {})

    async def pull_reports(self, limit: int) -> Reply:
        """Take the waiting reports; the vendor takes no `limit`."""
        options: Options = self.account.options
        url = _joined(self.account.base_url, options.report_path)
        return await self._post(Call.PULL_REPORTS, url, {}, destructive=True)

    async def pull_inbound(self, limit: int) -> Reply:
        """Take the waiting inbound messages; the vendor takes no `limit`."""
        options: Options = self.account.options
        url = _joined(self.account.base_url, options.inbound_path)
        return await self._post(Call.PULL_INBOUND, url, {}, destructive=True)

    async def _post(
        self,
        call: Call,
        url: str,
        form: Mapping[str, str],
        *,
        destructive: bool = False,
        submits: bool = False,
    ) -> Reply:
        credentials: Credentials = self.account.credentials
        keys = {
            "accesskey": credentials.access_key.reveal(),
            "secret": credentials.secret.reveal(),
        }
        headers, body = await self.transport.post(
            url, form=keys | dict(form), destructive=destructive, submits=submits
        )
        return Reply(call=call, headers=headers, body=body)


def _number(outgoing: Outgoing, abroad: bool) -> str:
    return international(outgoing.number) if abroad else outgoing.phone


def _joined(host: str, path: str) -> str:
    return f"{host.rstrip('/')}/{path.lstrip('/')}"
