"""Who is asking the dashboard: log-in with an API token, sessions in a cookie, and forged requests.

A session is a signed cookie and nothing else: any replica can check it, a restart ends none. Its key
is made of the settings' API token, so that who can read the database alone can forge none; and it
names its token by digest, so that a token which is taken away takes its sessions with it.
"""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from gateways.gateway import Secret
from reconciler.tokens import Doorkeeper, Role

COOKIE = "huizhi_session"
SESSION_SECONDS = 12 * 3600
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"
_LONGEST_NAME = 40
_SAFE = ("GET", "HEAD", "OPTIONS")


class Asker(NamedTuple):
    """Who asks; `name` stands in the history of what they decide, `csrf` in their forms.

    `token` is the name of the API token that the session is bound to.
    """

    name: str
    role: Role
    csrf: str
    token: str


class _Session(msgspec.Struct, array_like=True):
    token: bytes  # the sha256 of the API token that it was made with
    name: str
    ends: int  # seconds since 1970
    nonce: bytes


class Sessions:
    """Begins sessions, and tells who asks by one.

    Both raise one of `DATABASE_ERRORS`, but for the settings' own token, which needs no database.
    """

    def __init__(self, of_settings: Secret, doorkeeper: Doorkeeper) -> None:
        digest = hashlib.sha256(of_settings.reveal().encode()).digest()
        self._key = hmac.digest(digest, b"huizhi dashboard session", "sha256")
        self._doorkeeper = doorkeeper

    async def begin(self, pool: Any, token: str, name: str, *, now: float) -> str | None:
        """Return the cookie of a new session, None for a token that is nobody's."""
        given = token.strip().encode()
        found = await self._doorkeeper.asker(pool, given, now=_moment(now))
        if found is None:
            return None
        shown = " ".join("".join(c if c.isprintable() else " " for c in name).split())
        session = _Session(
            hashlib.sha256(given).digest(),
            shown[:_LONGEST_NAME] or found.role.word,
            int(now) + SESSION_SECONDS,
            secrets.token_bytes(16),
        )
        packed = msgspec.msgpack.encode(session)
        return f"{_text(packed)}.{_text(self._mac(b'session', packed))}"

    async def asker(self, pool: Any, cookie: str | None, *, now: float) -> Asker | None:
        """Return who holds this session; None without one, or when it or its token has ended."""
        packed, _, mac = (cookie or "").partition(".")
        try:
            raw, given = _bytes(packed), _bytes(mac)
            if not hmac.compare_digest(given, self._mac(b"session", raw)):
                return None
            session = msgspec.msgpack.decode(raw, type=_Session)
        except (ValueError, msgspec.MsgspecError):
            return None
        if session.ends <= now:
            return None
        found = await self._doorkeeper.asker_of(pool, session.token, now=_moment(now))
        if found is None:
            return None
        return Asker(session.name, found.role, _text(self._mac(b"csrf", raw)), found.name)

    def _mac(self, purpose: bytes, content: bytes) -> bytes:
        return hmac.digest(self._key, purpose + b"\0" + content, "sha256")


def is_forged(
    method: str, headers: Mapping[str, str], *, asker: Asker | None, given: str | None
) -> bool:
    """Whether a request that changes something was not made by a page of ours.

    `given` is the session's own token as the request brought it. A browser says where a request comes
    from by `Sec-Fetch-Site`, an older one by `Origin`; what says neither is no browser, and has the
    token or is refused.
    """
    if method in _SAFE:
        return False
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        if site not in ("same-origin", "none"):
            return True
    # Only then: a proxy may have given the request another Host.
    elif origin is not None and urlsplit(origin).netloc != headers.get("host", ""):
        return True
    if asker is None:  # a log-in: there is no session to misuse
        return False
    return given is None or not hmac.compare_digest(given.encode(), asker.csrf.encode())


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode((text + "=" * (-len(text) % 4)).encode("ascii"))
