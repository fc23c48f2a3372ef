"""itniotech's calls, and the reading of their replies."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from time import time
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateways import wire
from gateways.errors import Garbled, Indeterminate, Malformed, Refused
from gateways.events import Event, Parsed
from gateways.gateway import Account, Batch, Call, Client, Reply, Secret
from gateways.itniotech import codes, documents
from gateways.itniotech.documents import Fields
from gateways.phone import international
from gateways.segments import Rule, signed

_LONGEST_CONTENT = 1024
_ROWS_PER_LIST = 50_000
_INBOUND_PER_LIST = 100
# getSentRcd takes 31 days, recordMo "a month": February's fit both.
_DAYS_PER_LIST = 28


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    api_key: Secret
    api_secret: Secret
    app_id: Secret


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What differs between the hosts of this vendor, and what its pages leave open.

    `push_timestamp` is what the timestamp of a pushed report says: when the message was sent, or
    when its report came.
    """

    api_path: str = "/sms"
    sender_id: Annotated[str, Meta(max_length=32, description="text of at most 32 characters")] = ""
    send_method: Literal["post", "get"] = "post"
    push_timestamp: Literal["sent", "reported"] = "sent"


def signature(api_key: str, api_secret: str, timestamp: str) -> str:
    """Return the header Sign: the MD5 of key, secret and timestamp, in lower-case hexadecimals."""
    text = f"{api_key}{api_secret}{timestamp}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class ItniotechClient(Client):
    """All calls but the sending are repeatable."""

    @property
    def ids_per_query(self) -> int:
        """How many messages one getReport can ask about."""
        return 200

    @property
    def numbers_per_send(self) -> int:
        """How many numbers one sendSms takes, by its method."""
        options: Options = self.account.options
        return 1000 if options.send_method == "post" else 100

    @property
    def rows_per_list(self) -> int:
        """How many rows one getSentRcd hands out at most."""
        return _ROWS_PER_LIST

    @property
    def inbound_per_list(self) -> int:
        """How many rows one recordMo hands out at most."""
        return _INBOUND_PER_LIST

    @property
    def days_per_list(self) -> int:
        """How many days one list may span."""
        return _DAYS_PER_LIST

    async def send(self, batch: Batch) -> Reply:
        """Send one text to up to `numbers_per_send` numbers; never repeated."""
        options: Options = self.account.options
        params = {
            **self._app(),
            "numbers": ",".join(international(one.number) for one in batch.messages),
            "content": signed(batch.messages[0].content or "", batch.sign),
            "orderId": ",".join(one.reference for one in batch.messages),
        }
        if options.sender_id:
            params["senderId"] = options.sender_id
        url = self._url("sendSms")
        if options.send_method == "get":
            headers, body = await self.transport.get(
                url, params=params, headers=self._headers, submits=True
            )
        else:
            headers, body = await self.transport.post_json(
                url, document=params, headers=self._headers, submits=True
            )
        return Reply(call=Call.SEND, headers=headers, body=body)

    async def query_status(self, vendor_message_ids: Sequence[str]) -> Reply:
        """Ask for the state of up to 200 messages."""
        params = {**self._app(), "msgIds": ",".join(vendor_message_ids)}
        return await self._get(Call.QUERY_STATUS, "getReport", params)

    async def list_sent(self, start: datetime, end: datetime, index: int) -> Reply:
        """Ask for what was sent from `start` to `end`, whole seconds around them, from row `index`."""
        params = {
            **self._app(),
            "startTime": self._time(start),
            "endTime": self._time(_rounded_up(end)),
            "startIndex": str(index),
        }
        return await self._get(Call.LIST_SENT, "getSentRcd", params)

    async def list_inbound(self, start: datetime, end: datetime, page: int) -> Reply:
        """Ask for the inbound messages from `start` to `end`, 100 a page, page 1 first."""
        document = {
            **self._app(),
            "current": page,
            "size": _INBOUND_PER_LIST,
            # The page spells it so.
            "params": {"strTime": self._time(start), "endTime": self._time(_rounded_up(end))},
        }
        headers, body = await self.transport.post_json(
            self._url("recordMo"), document=document, headers=self._headers
        )
        return Reply(call=Call.LIST_INBOUND, headers=headers, body=body)

    async def query_balance(self) -> Reply:
        """Ask what the account has left."""
        return await self._get(Call.QUERY_BALANCE, "getBalance", {})

    async def _get(self, call: Call, name: str, params: Mapping[str, str]) -> Reply:
        headers, body = await self.transport.get(
            self._url(name), params=params, headers=self._headers
        )
        return Reply(call=call, headers=headers, body=body)

    def _url(self, name: str) -> str:
        options: Options = self.account.options
        parts = (self.account.base_url.rstrip("/"), options.api_path.strip("/"), name)
        return "/".join(filter(None, parts))

    def _app(self) -> dict[str, str]:
        credentials: Credentials = self.account.credentials
        return {"appId": credentials.app_id.reveal()}

    def _headers(self) -> dict[str, str]:
        """Sign for now; called at each attempt."""
        credentials: Credentials = self.account.credentials
        key, secret = credentials.api_key.reveal(), credentials.api_secret.reveal()
        timestamp = str(int(time()))
        return {
            "content-type": "application/json;charset=UTF-8",
            "Sign": signature(key, secret, timestamp),
            "Timestamp": timestamp,
            "Api-Key": key,
        }

    def _time(self, at: datetime) -> str:
        return at.astimezone(self.account.zone).isoformat(timespec="seconds")


def _rounded_up(at: datetime) -> datetime:
    return at + timedelta(microseconds=-at.microsecond % 1_000_000)


def counting_rule(_account: Account) -> Rule:
    """Return how segments are counted, which the vendor does not say: as texts abroad are."""
    return Rule.INTERNATIONAL


def check_send(batch: Batch, account: Account) -> tuple[str, ...]:
    """Say why `batch` cannot be sent at all; pure."""
    problems: list[str] = []
    if batch.template_id is not None or any(one.params is not None for one in batch.messages):
        problems.append("the vendor has no templates: give content")
    if batch.send_at is not None:
        problems.append("the vendor sends at once only: send_at cannot be given")
    texts = {one.content or "" for one in batch.messages}
    if not all(text.strip() for text in texts):
        problems.append("content is missing")
    if any(len(signed(text, batch.sign)) > _LONGEST_CONTENT for text in texts):
        problems.append(f"content with its sign has more than {_LONGEST_CONTENT} characters")
    return tuple(problems)


def parse_reply(reply: Reply, account: Account) -> Parsed:
    """Return the events of a reply to a call; pure. Raises `Refused`, `Garbled`, `Indeterminate`."""
    try:
        found = documents.read(reply.body)
        status = documents.code(found, "status")
        if reply.call is Call.SEND:
            return _sent(found, status)
        if status.strip() != codes.SUCCESS:
            raise _refused(found, status)
        problems: list[str] = []
        zone = account.zone
        match reply.call:
            case Call.QUERY_STATUS:
                return _listed(
                    documents.rows(found, "array"),
                    lambda row: documents.listed_report(row, codes.QUERY, zone, problems),
                    problems,
                )
            case Call.LIST_SENT:
                return _listed(
                    documents.rows(found, "array"),
                    lambda row: documents.listed_report(row, codes.LIST, zone, problems),
                    problems,
                )
            case Call.LIST_INBOUND:
                page = documents.fields(found.get("data", documents.NULL), "data")
                return _listed(
                    documents.rows(page, "records"),
                    lambda row: documents.listed_inbound(row, zone, problems),
                    problems,
                )
            case Call.QUERY_BALANCE:
                balances = documents.balances(found, problems)
                if not balances:
                    raise Garbled(wire.listed(problems) or "no balance is there")
                return Parsed(events=balances, rows=len(balances), problems=tuple(problems))
        raise Garbled(f"itniotech has no {reply.call}")
    except Malformed as error:
        raise Garbled(str(error)) from None


def _sent(found: Fields, status: str) -> Parsed:
    """Return what was taken: `array` names what was, and nothing names what was not."""
    problems: list[str] = []
    if status.strip() == codes.SUCCESS:
        rows = documents.rows(found, "array")
        if rows is None:
            raise Garbled("array is missing")
    else:
        rows = documents.optional([], lambda: documents.rows(found, "array"))
        if not rows:
            if status.strip() in codes.UNDECIDED:
                raise Indeterminate(f"the vendor failed while sending, with {status.strip()}")
            raise _refused(found, status)
        problems.append("some numbers were taken although status says no")
    if failed := documents.optional(problems, lambda: documents.count(found, "fail")):
        problems.append(f"numbers not taken, which the vendor does not name: {failed}")
    return _listed(rows, documents.accepted, problems)


def _refused(found: Fields, status: str) -> Refused:
    words = documents.optional([], lambda: documents.words(found, "reason"))
    return Refused(status.strip(), words or "")


def _listed(
    rows: Sequence[msgspec.Raw] | None, read: Callable[[msgspec.Raw], Event], problems: list[str]
) -> Parsed:
    """Return an event of each row that can be read, and a problem of each that cannot."""
    events: list[Event] = []
    for number, row in enumerate(rows or (), 1):
        before = len(problems)
        try:
            events.append(read(row))
        except Malformed as error:
            problems.append(str(error))
        if len(problems) > before:
            problems[before:] = [f"row {number}: {problem}" for problem in problems[before:]]
    return Parsed(events=tuple(events), rows=len(rows or ()), problems=tuple(problems))
