"""The record of what operators did: every call and command that changes something, before and after.

The first row is written before anything is done, and without it nothing is: so there is no change
without its row. It says who, by which route or command, and on what; never a phone or a text.
"""

import os
import pwd
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec
import structlog

from reconciler.reading.fields import rfc3339
from reconciler.reading.paging import Page, cursor_of, key_of, page_of
from runtime.database import DATABASE_ERRORS
from runtime.logs import Redaction
from runtime.queries import QUERIES

log = structlog.get_logger()

COLUMNS = (
    "id",
    "at",
    "actor",
    "role",
    "via",
    "peer",
    "what",
    "subject",
    "outcome",
    "status",
    "ended_at",
)
_LONGEST = 200
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_subject: ContextVar[dict[str, str] | None] = ContextVar("subject", default=None)
_redacted = Redaction()

Via = Literal["api", "dashboard", "command"]


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an operator does; `what` is a route such as `POST /v1/sent`, or a command."""

    id: UUID
    actor: str
    role: str
    via: Via
    peer: str
    what: str


def concerns(**subject: object) -> None:
    """Say of the action under way, if there is one, what it is about: accounts, periods, ids."""
    noted = _subject.get()
    if noted is not None:
        noted.update({name: _told(value) for name, value in subject.items()})


def _told(value: object) -> str:
    text = str(value)
    if _ID.fullmatch(text):
        return text  # a number would be its last digits by chance, and it would name nothing
    return _redacted(text)[:_LONGEST].encode("utf-8", "replace").decode().replace("\0", "")


async def begin(pool: Any, action: Action, **subject: object) -> dict[str, str]:
    """Record that an action begins, and return what `concerns` will add to; durable on return."""
    noted: dict[str, str] = {}
    _subject.set(noted)
    concerns(**subject)
    await _add(pool, action, "begun", noted, None)
    return noted


async def end(
    pool: Any, action: Action, noted: dict[str, str], *, failed: bool, status: int
) -> None:
    """Record how an action ended; `status` is the answer's, or a command's exit code.

    That this could not be written is logged and no more: what was done is done.
    """
    outcome = "done"
    if failed:
        outcome = "failed" if action.via == "command" or status >= 500 else "refused"
    try:
        await _add(pool, action, outcome, noted, status)
    except DATABASE_ERRORS as error:
        log.error(
            "action.not_ended", what=action.what, id=str(action.id), error=type(error).__name__
        )


async def _add(
    pool: Any, action: Action, outcome: str, subject: dict[str, str], status: int | None
) -> None:
    async with pool.acquire() as connection:
        await connection.execute(
            QUERIES["add_action"],
            uuid4(),
            action.id,
            datetime.now(UTC),
            outcome,
            action.actor,
            action.role,
            action.via,
            action.peer,
            action.what,
            subject,
            status,
        )


@asynccontextmanager
async def command(pool: Any, name: str, subject: dict[str, object]) -> AsyncIterator[list[int]]:
    """Record a command that changes something around what it does; takes its exit code from the list."""
    action = Action(
        id=uuid4(),
        actor=login(),
        role="admin",  # who has the database and the settings may do everything
        via="command",
        peer=socket.gethostname(),
        what=f"huizhi {name}",
    )
    noted = await begin(pool, action, **subject)
    codes: list[int] = []
    try:
        yield codes
    except BaseException:
        await end(pool, action, noted, failed=True, status=2)
        raise
    # 1 is an answer: rows that were rejected, discrepancies that were found.
    code = codes[0] if codes else 0
    await end(pool, action, noted, failed=code > 1, status=code)


def login() -> str:
    """Return the user of this process as the system has it, whatever the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container nobody may be
        return f"uid {os.getuid()}"


async def listed(
    connection: Any,
    *,
    actor: str | None,
    what: str | None,
    since: datetime | None,
    until: datetime | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """List what operators did, the newest first; raises `BadCursor`."""
    at, id = key_of(cursor, datetime, UUID)
    rows = await connection.fetch(QUERIES["actions"], actor, what, since, until, at, id, limit + 1)
    return page_of(
        rows,
        limit,
        lambda row: {
            **{name: row[name] for name in COLUMNS},
            "id": str(row["id"]),
            "at": rfc3339(row["at"]),
            "ended_at": rfc3339(row["ended_at"]),
        },
        lambda row: cursor_of(row["at"], row["id"]),
    )
