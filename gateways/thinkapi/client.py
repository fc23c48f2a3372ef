"""ThinkAPI's calls, and the reading of their replies."""

from collections.abc import Sequence

import msgspec

from gateways import wire
from gateways.errors import Garbled, Malformed, Refused
from gateways.events import Event, Parsed, ReviewKind
from gateways.gateway import Account, Call, Client, Reply, Secret
from gateways.thinkapi import documents

_QUERY = {ReviewKind.SIGN: Call.QUERY_SIGN, ReviewKind.TEMPLATE: Call.QUERY_TEMPLATE}
_ADD = {ReviewKind.SIGN: Call.ADD_SIGN, ReviewKind.TEMPLATE: Call.ADD_TEMPLATE}
_MODIFY = {ReviewKind.SIGN: Call.MODIFY_SIGN, ReviewKind.TEMPLATE: Call.MODIFY_TEMPLATE}
_SUBMISSIONS = {call: kind for calls in (_ADD, _MODIFY) for kind, call in calls.items()}


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    app_code: Secret


class ThinkApiClient(Client):
    """ThinkAPI's queries, which are repeatable, and its submissions, which are not."""

    async def query_status(self, vendor_message_ids: Sequence[str]) -> Reply:
        """Ask for the state of one message."""
        (one,) = vendor_message_ids
        return await self._get(Call.QUERY_STATUS, {"id": one})

    async def query_review(self, kind: ReviewKind, vendor_id: str) -> Reply:
        """Ask for the state of one sign or template."""
        return await self._get(_QUERY[kind], {"id": vendor_id})

    async def add_review(
        self, kind: ReviewKind, *, name: str, content: str | None, remark: str
    ) -> Reply:
        """Submit a new sign or template."""
        return await self._get(_ADD[kind], _submission(name, content, remark), submits=True)

    async def modify_review(
        self, kind: ReviewKind, vendor_id: str, *, name: str, content: str | None, remark: str
    ) -> Reply:
        """Submit a rejected sign or template again; the vendor refuses it for an approved one."""
        params = {"id": vendor_id, **_submission(name, content, remark)}
        return await self._get(_MODIFY[kind], params, submits=True)

    async def _get(self, call: Call, params: dict[str, str], *, submits: bool = False) -> Reply:
        # The calls are named as the vendor's paths are: sms/query_status and so on.
        headers, body = await self.transport.get(
            f"{self.account.base_url.rstrip('/')}/sms/{call}",
            params=params,
            headers={"authorization": f"AppCode {self.account.credentials.app_code.reveal()}"},
            submits=submits,
        )
        return Reply(call=call, headers=headers, body=body)


def _submission(name: str, content: str | None, remark: str) -> dict[str, str]:
    # A template's content, also when it is modified: the page's table forgets it there, its sample
    # passes it.
    with_content = {} if content is None else {"content": content}
    return {"name": name, **with_content, "remark": remark}


def parse_reply(reply: Reply, account: Account) -> Parsed:
    """Return the one event of a reply to a query or submission. Raises `Refused`, `Garbled`; pure."""
    try:
        envelope = documents.read(reply.body, documents.ENVELOPE)
        if str(envelope.code).strip() != "0":
            raise Refused(
                wire.code(envelope.code, "code"), wire.words(envelope.message, "message") or ""
            )
        event: Event
        match reply.call:
            case Call.QUERY_STATUS:
                event = documents.report(envelope.data, "data", account.zone)
            case Call.QUERY_SIGN:
                event = documents.review(envelope.data, "data", ReviewKind.SIGN, account.zone)
            case Call.QUERY_TEMPLATE:
                event = documents.review(envelope.data, "data", ReviewKind.TEMPLATE, account.zone)
            case submission if kind := _SUBMISSIONS.get(submission):
                event = documents.submitted(envelope.data, "data", kind, account.zone)
            case _:
                raise Garbled(f"ThinkAPI has no {reply.call}")
    except Malformed as error:
        raise Garbled(str(error)) from None
    return Parsed(events=(event,), rows=1)
