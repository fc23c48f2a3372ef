"""Questions about a text and requests about an account: calls that change no message."""

import html
import json
from collections.abc import Awaitable
from datetime import UTC, datetime
from urllib.parse import quote, quote_plus

from gateways.errors import Garbled, Indeterminate
from gateways.events import Answer
from gateways.gateway import Call, Reply, Secret
from reconciler.asking import answered
from reconciler.poll import Caller
from runtime.identity import text_digest

# What is shorter stands in too much that is no password: it could not be kept out of a record.
SHORTEST_PASSWORD = 6
_CHARSETS = ("utf-8", "gb18030", "utf-16-le", "utf-16-be")


async def check_keyword(caller: Caller, content: str) -> Answer:
    """Ask whether a text holds forbidden words: then the answer is not positive; repeatable.

    Durable on return. The record names the text by its digest. Raises what the gateway raises, and
    one of `DATABASE_ERRORS`.
    """
    subject = f"text {text_digest(content).hex()}"
    question = caller.client.check_keyword(content)
    return await _answer(caller, Call.CHECK_KEYWORD, subject, question)


async def change_password(caller: Caller, password: Secret) -> Answer:
    """Give the account a new password, of `SHORTEST_PASSWORD` characters at least; never repeated.

    The reply is recorded, with *** for the password where the vendor says it. Raises `Refused`,
    `Unavailable` and `Unsupported`, after which the old one holds, and `Indeterminate`, `Garbled` and
    one of `DATABASE_ERRORS`, after which either may.
    """
    question = _without_password(caller.client.change_password(password), password)
    asked_at = datetime.now(UTC).isoformat()
    return await _answer(caller, Call.CHANGE_PASSWORD, asked_at, question)


async def _answer(caller: Caller, call: Call, subject: str, question: Awaitable[Reply]) -> Answer:
    _, parsed, _ = await answered(caller, call, subject, question, wanted=Answer)
    return next(event for event in parsed.events if isinstance(event, Answer))


async def _without_password(question: Awaitable[Reply], password: Secret) -> Reply:
    """Take the password out of what comes back, before anybody keeps it."""
    try:
        reply = await question
    except Indeterminate as error:
        partial = _blanked(error.partial, password)
        raise Indeterminate(_without(str(error), password), partial=partial) from None
    except Garbled as error:
        body = _blanked(error.body, password)
        raise Garbled(_without(str(error), password), body=body) from None
    headers = {name: _without(value, password) for name, value in reply.headers.items()}
    return Reply(call=reply.call, headers=headers, body=_blanked(reply.body, password))


def _without(text: str, password: Secret) -> str:
    for spelling in _spellings(password.reveal()):
        text = text.replace(spelling, "***")
    return text


def _blanked(body: bytes, password: Secret) -> bytes:
    for spelling in _spellings(password.reveal()):
        for charset in _CHARSETS:
            body = body.replace(spelling.encode(charset), "***".encode(charset))
    return body


def _spellings(password: str) -> list[str]:
    """Return the ways in which a reply may write a password, the longest first."""
    spellings = {password, html.escape(password), html.escape(password, quote=False)}
    for escaped in (True, False):
        spellings.add(json.dumps(password, ensure_ascii=escaped)[1:-1])
    for charset in ("utf-8", "gb18030"):
        spellings |= {quote(password, safe="", encoding=charset), quote(password, encoding=charset)}
        spellings.add(quote_plus(password, encoding=charset))
    return sorted(spellings, key=len, reverse=True)
