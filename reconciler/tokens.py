"""API tokens with roles, beside the one of the settings.

A token is 256 bits from the system's random source, so a single sha256 keeps it: there is nothing
to guess that salting or a slow hash would slow down, and it is looked up by its hash, which takes
as long whatever is given.
"""

import hashlib
import hmac
import re
import secrets
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec

from gateways.gateway import Secret
from reconciler.reading.fields import rfc3339
from runtime import Problem
from runtime.queries import QUERIES

PREFIX = "huizhi_"  # what scanners for leaked secrets can look for
OF_SETTINGS = "api_token"  # no token that was added can have this name
COLUMNS = (
    "id",
    "name",
    "role",
    "created_at",
    "created_by",
    "expires_at",
    "last_used_at",
    "ended_at",
)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_SHAPE = re.compile(rb"huizhi_[A-Za-z0-9_-]{43}")


class Role(IntEnum):
    """What a caller may do; each may all that those before it may."""

    READER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """How it is written outside."""
        return self.name.lower()


ROLES = tuple(role.word for role in Role)


class Asker(NamedTuple):
    """Who asks the API."""

    name: str
    role: Role


class Added(msgspec.Struct, frozen=True):
    """A new token; `token` is shown here and never again."""

    id: str
    name: str
    role: str
    expires_at: str | None
    token: str


class Doorkeeper:
    """Tells who asks, by the token that is given."""

    def __init__(self, of_settings: Secret) -> None:
        self._of_settings = hashlib.sha256(of_settings.reveal().encode()).digest()

    async def asker(self, pool: Any, given: bytes, *, now: datetime) -> Asker | None:
        """Return whose token `given` is; None if it is nobody's, or has ended.

        The settings' token is known also while the database is away; for another this raises one
        of `DATABASE_ERRORS`.
        """
        digest = hashlib.sha256(given).digest()
        if hmac.compare_digest(digest, self._of_settings) or _SHAPE.fullmatch(given):
            return await self.asker_of(pool, digest, now=now)
        return None

    async def asker_of(self, pool: Any, digest: bytes, *, now: datetime) -> Asker | None:
        """As `asker`, by the token's sha256: what a session of the dashboard is bound to."""
        if hmac.compare_digest(digest, self._of_settings):
            return Asker(OF_SETTINGS, Role.ADMIN)
        async with pool.acquire() as connection:
            found = await connection.fetchrow(QUERIES["token_of_hash"], digest, now)
            if found is None:
                return None
            if found["unnoted"]:
                await connection.execute(QUERIES["note_token_used"], found["id"], now)
        return Asker(found["name"], Role[found["role"].upper()])


async def add(
    connection: Any, name: str, role: str, *, days: int | None, by: str, now: datetime
) -> Added:
    """Make a token that lives for `days`, or until it is revoked; raises `Problem`.

    A name has at most two that live: the one in use, and the one that is to replace it.
    """
    if not _NAME.fullmatch(name):
        raise Problem("a name has at most 64 lower-case letters, digits and hyphens")
    token = PREFIX + secrets.token_urlsafe(32)
    expires_at = None if days is None else now + timedelta(days=days)
    async with connection.transaction():
        await connection.execute(QUERIES["end_expired_tokens"], name, now)
        added = await connection.fetchval(
            QUERIES["add_token"],
            uuid4(),
            name,
            role,
            hashlib.sha256(token.encode()).digest(),
            now,
            by,
            expires_at,
        )
    if added is None:
        raise Problem(f"{name} has two tokens already: revoke one first (`huizhi token list`)")
    return Added(str(added), name, role, rfc3339(expires_at), token)


async def revoke(connection: Any, id: UUID, *, now: datetime) -> None:
    """End a token at once; raises `Problem` if there is none that lives."""
    if await connection.fetchrow(QUERIES["revoke_token"], id, now) is None:
        raise Problem(f"no living token {id}")


async def listed(connection: Any, *, now: datetime) -> list[dict[str, Any]]:
    """Return all tokens that there are and were, without what they are; those made last first."""
    return [
        {name: str(row[name]) if name == "id" else _shown(row[name]) for name in COLUMNS}
        for row in await connection.fetch(QUERIES["tokens"], now)
    ]


def _shown(value: Any) -> Any:
    return rfc3339(value) if isinstance(value, datetime) else value
