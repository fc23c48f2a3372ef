"""ThinkAPI's calls, and the reading of their replies."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from gateways import wire
from gateways.errors import Garbled, Malformed, Refused
from gateways.events import Event, Parsed, ReviewKind, ReviewResult, ReviewStatus
from gateways.gateway import Account, Batch, Call, Client, Reply, Secret
from gateways.thinkapi import documents
from gateways.thinkapi.codes import NO_STATUS

_QUERY = {ReviewKind.SIGN: Call.QUERY_SIGN, ReviewKind.TEMPLATE: Call.QUERY_TEMPLATE}
_ADD = {ReviewKind.SIGN: Call.ADD_SIGN, ReviewKind.TEMPLATE: Call.ADD_TEMPLATE}
_MODIFY = {ReviewKind.SIGN: Call.MODIFY_SIGN, ReviewKind.TEMPLATE: Call.MODIFY_TEMPLATE}
_DELETE = {ReviewKind.SIGN: Call.DELETE_SIGN, ReviewKind.TEMPLATE: Call.DELETE_TEMPLATE}
_SUBMISSIONS = {call: kind for calls in (_ADD, _MODIFY) for kind, call in calls.items()}
_DELETIONS = {call: kind for kind, call in _DELETE.items()}


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    app_code: Secret


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`batch_send`: how many numbers one `sms/batch_send` takes; 1 leaves that call alone.

    The SDK has the call, the vendor's page has not: nobody says how it answers. All goes into the
    query of a GET, which bounds it.
    """

    batch_send: Annotated[int, Meta(ge=1, le=200, description="an integer from 1 to 200")] = 1


class ThinkApiClient(Client):
    """ThinkAPI's queries, which are repeatable, and what changes something, which is not."""

    @property
    def numbers_per_send(self) -> int:
        """One, as the page has it, or what `batch_send` is set to."""
        options: Options = self.account.options
        return options.batch_send

    async def send(self, batch: Batch) -> Reply:
        """Send a template: to one number, or with `sms/batch_send` the same text to several."""
        params = {
            "signId": batch.sign or "",
            "templateId": batch.template_id or "",
            "phone": ",".join(message.phone for message in batch.messages),
        }
        # "如果你的模板没有变量,请不要传任何变量参数": no empty object either.
        if values := batch.messages[0].params:
            params["params"] = msgspec.json.encode(values).decode()
        path = "send" if len(batch.messages) == 1 else "batch_send"
        return await self._get(Call.SEND, params, path=path, submits=True)

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

    async def delete_review(self, kind: ReviewKind, vendor_id: str) -> Reply:
        """Delete a sign or template; what is gone already, the vendor refuses to delete."""
        # Not repeatable: after a lost reply, a second try would report a refusal of what was done.
        return await self._get(_DELETE[kind], {"id": vendor_id}, submits=True)

    async def _get(
        self, call: Call, params: dict[str, str], *, path: str = "", submits: bool = False
    ) -> Reply:
        # But for sending, the calls are named as the vendor's paths are: sms/query_status and so on.
        headers, body = await self.transport.get(
            f"{self.account.base_url.rstrip('/')}/sms/{path or call}",
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
    """Return the events of a reply: one, or one a number sent to. Raises `Refused`, `Garbled`; pure."""
    try:
        envelope = wire.read_json(reply.body, documents.ENVELOPE)
        if str(envelope.code).strip() != "0":
            raise Refused(
                wire.code(envelope.code, "code"), wire.words(envelope.message, "message") or ""
            )
        events = _events(reply, envelope.data, account)
    except Malformed as error:
        raise Garbled(str(error)) from None
    return Parsed(events=events, rows=len(events))


def _events(reply: Reply, data: msgspec.Raw, account: Account) -> tuple[Event, ...]:
    match reply.call:
        case Call.SEND:
            return documents.accepted(data, "data")
        case Call.QUERY_STATUS:
            return (documents.report(data, "data", account.zone),)
        case Call.QUERY_SIGN:
            return (documents.review(data, "data", ReviewKind.SIGN, account.zone),)
        case Call.QUERY_TEMPLATE:
            return (documents.review(data, "data", ReviewKind.TEMPLATE, account.zone),)
        case submission if kind := _SUBMISSIONS.get(submission):
            return (documents.submitted(data, "data", kind, account.zone),)
        case deletion if kind := _DELETIONS.get(deletion):
            # The reply names nothing: what was deleted is what we asked for.
            return (
                ReviewResult(
                    kind=kind,
                    vendor_id=wire.identity(reply.subject, "the id that was asked for"),
                    status=ReviewStatus.DELETED,
                    vendor_code=NO_STATUS,
                ),
            )
        case _:
            raise Garbled(f"ThinkAPI has no {reply.call}")
