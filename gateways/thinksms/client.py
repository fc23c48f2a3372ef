"""The calls of the "sms.aspx" platform."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateways.gateway import Call, Client, Reply, Secret


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user_id: Secret
    account: Secret
    password: Secret


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What differs from host to host; the vendor's page leaves all of it open.

    `own_extension` asks the inbound pull for messages to one's own extension numbers; `status_num`
    is how many reports one pull asks for.
    """

    charset: Literal["utf-8", "gbk"] = "utf-8"
    report_path: str = "/statusApi.aspx"
    inbound_path: str = "/callApi.aspx"
    p2p_path: str = "/p2p.aspx"
    reply_format: Literal["xml", "json"] = "xml"
    own_extension: str = ""
    status_num: Annotated[int, Meta(ge=1, le=4000, description="an integer from 1 to 4000")] = 4000


class ThinkSmsClient(Client):
    """The two pulls; both hand out each row once."""

    @property
    def pull_limit(self) -> int:
        """How many reports a pull asks for."""
        options: Options = self.account.options
        return options.status_num

    async def pull_reports(self, limit: int) -> Reply:
        """Take up to `limit` reports."""
        options: Options = self.account.options
        return await self._pull(Call.PULL_REPORTS, options.report_path, {"statusNum": str(limit)})

    async def pull_inbound(self, limit: int) -> Reply:
        """Take the waiting inbound messages; the vendor takes no `limit`."""
        options: Options = self.account.options
        own = {"ownExt": options.own_extension} if options.own_extension else {}
        return await self._pull(Call.PULL_INBOUND, options.inbound_path, own)

    async def _pull(self, call: Call, path: str, parameters: dict[str, str]) -> Reply:
        credentials: Credentials = self.account.credentials
        options: Options = self.account.options
        form = {
            "action": "query",
            "userid": credentials.user_id.reveal(),
            "account": credentials.account.reveal(),
            "password": credentials.password.reveal(),
            **parameters,
        }
        if options.reply_format == "json":
            form["rt"] = "json"
        headers, body = await self.transport.post(
            f"{self.account.base_url.rstrip('/')}/{path.lstrip('/')}",
            form=form,
            charset=options.charset,
            destructive=True,
        )
        return Reply(call=call, headers=headers, body=body)
