"""deepfinch's one call, its signature, and the reading of its reply."""

import hmac
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import Meta

from gateways import wire
from gateways.deepfinch import codes
from gateways.errors import Garbled, Indeterminate, Malformed, Refused
from gateways.events import Accepted, Parsed
from gateways.gateway import Account, Batch, Call, Client, Outgoing, Reply, Secret

# Whether the page's 400, 403 and 500 are HTTP statuses too is not said; the rest is the gateway's.
_STATUSES_READ = frozenset({400, 401, 403, 404, 405, 426, 500})

_PAIRS = re.compile(r"[^:,]+:[^:,]*(?:,[^:,]+:[^:,]*)*")
_LONGEST_ERROR = 300


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pair that the market gives for the API, not that of the cloud account."""

    secret_id: Secret
    secret_key: Secret


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`source` is signed and sent as it is, and may be anything; `send_path` is the page's."""

    source: Annotated[
        str, Meta(pattern="^[!-~]+$", description="text of ASCII letters, digits and marks")
    ] = "market"
    send_path: str = "/release/data/send_sms"


class DeepFinchClient(Client):
    """deepfinch's one call: one text to one number."""

    async def send(self, batch: Batch) -> Reply:
        """Send a template to one number."""
        (message,) = batch.messages
        options: Options = self.account.options
        form = {
            "content": _content(message),
            "phone_number": message.phone,
            "template_id": batch.template_id or "",
        }
        headers, body = await self.transport.post(
            f"{self.account.base_url.rstrip('/')}/{options.send_path.lstrip('/')}",
            form=form,
            headers={
                # As in the page's samples, without a charset.
                "content-type": "application/x-www-form-urlencoded",
                **signed_headers(self.account.credentials, options.source, datetime.now(UTC)),
            },
            submits=True,
            reads=_STATUSES_READ,
        )
        return Reply(call=Call.SEND, headers=headers, body=body)


def signed_headers(credentials: Credentials, source: str, at: datetime) -> dict[str, str]:
    """Return the headers that the market's gateway knows us by, signed for the time `at` (UTC)."""
    date = format_datetime(at, usegmt=True)  # in English, whatever the locale
    signed = f"x-date: {date}\nx-source: {source}".encode()
    digest = hmac.digest(credentials.secret_key.reveal().encode(), signed, "sha1")
    return {
        "x-date": date,
        "x-source": source,
        "authorization": (
            f'hmac id="{credentials.secret_id.reveal()}", algorithm="hmac-sha1",'
            f' headers="x-date x-source", signature="{b64encode(digest).decode()}"'
        ),
    }


def _content(message: Outgoing) -> str:
    if isinstance(message.params, Mapping):
        return ",".join(f"{name}:{value}" for name, value in message.params.items())
    return message.content or ""


def send_objections(batch: Batch, _account: Account) -> tuple[str, ...]:
    """Say, a sentence each, why `batch` cannot be sent at all; empty if it can. Pure."""
    found = []
    if not batch.template_id:
        found.append("template_id is missing: the vendor sends its own templates, no other text")
    if batch.sign is not None:
        found.append("sign cannot be chosen: it is part of the template")
    if batch.send_at is not None:
        found.append("send_at cannot be kept: the vendor sends at once")
    found += dict.fromkeys(why for message in batch.messages for why in _of_message(message))
    return tuple(found)


def _of_message(message: Outgoing) -> Iterator[str]:
    if message.params is None:
        if message.content is None:
            yield "params are missing"
        elif not _PAIRS.fullmatch(message.content):
            yield (
                "content without params has to be the template's variables, as name:value,"
                " separated by commas"
            )
    elif not isinstance(message.params, Mapping):
        yield "params are a list: the vendor wants each variable by its name"
    elif any(mark in text for pair in message.params.items() for text in pair for mark in ":,"):
        yield "a variable has a : or a , which the vendor cannot tell from those between variables"
    elif "" in message.params:
        yield "a variable has no name"


class _Answer(msgspec.Struct, frozen=True):
    """deepfinch's reply; `message` is how the gateway may wrap its text."""

    status: Any = None
    reason: Any = None
    request_id: Any = None
    message: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)


def parse_reply(reply: Reply, _account: Account) -> Parsed:
    """Return the id that a text was taken under. Raises `Refused`, `Garbled`, `Indeterminate`; pure."""
    if reply.call != Call.SEND:
        raise Garbled(f"deepfinch has no {reply.call}")
    try:
        return Parsed(events=(_accepted(reply),), rows=1)
    except Malformed as error:
        raise Garbled(str(error)) from None


def _accepted(reply: Reply) -> Accepted:
    text = wire.decode(reply.body, reply.headers.get("content-type", ""))
    if wire.too_deep(text):
        raise Malformed("nested too deep")
    try:
        answer = _ANSWER.decode(text)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None
    except msgspec.DecodeError:
        _refused_by_gateway(text)
    if answer.status is None and isinstance(answer.message, str):
        _refused_by_gateway(answer.message)
    if not isinstance(answer.status, str) or not answer.status.strip():
        raise Malformed("status is missing, or is no text")
    status = wire.code(answer.status.strip(), "status")
    if status.upper() == codes.TAKEN:
        if not isinstance(answer.request_id, str):
            raise Malformed("request_id is missing, or is no text")
        return Accepted(vendor_message_id=wire.identity(answer.request_id, "request_id"))
    if status in codes.UNDECIDED:
        raise Indeterminate(f"the vendor answered {status}: the text may have been sent")
    reason = wire.words(answer.reason, "reason")
    raise Refused(status, reason or codes.CODE_WORDS.get(status, ""))


def _refused_by_gateway(text: str) -> NoReturn:
    """Raise what the gateway's `text` means; `Malformed` if it is no error that is known."""
    words = wire.storable(" ".join(text[:_LONGEST_ERROR].split()), "the gateway's error")
    known = words.lower()
    if known.startswith(codes.GATEWAY_UNDECIDED):
        raise Indeterminate("the gateway does not know what became of the request")
    for beginning, meaning in codes.GATEWAY_ERRORS.items():
        if known.startswith(beginning):
            raise Refused(codes.GATEWAY, f"{words} ({meaning})")
    raise Malformed("neither JSON nor an error that the gateway is known by")
