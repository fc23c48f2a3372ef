"""The one public route: a vendor's callback, recorded durably and then acknowledged.

A bare ASGI handler: this path carries every receipt of a company, and parsing, validation and
serialisation of a web framework would only stand between the bytes and the disk.
"""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
import structlog

from gateways.gateway import Acknowledgement, Callback
from receiver.ingest import Full, Ingest, Waiter
from receiver.limits import Guesses, Pace
from runtime import metrics, records
from runtime.records import Record
from runtime.settings import AccountSettings, Settings

log = structlog.get_logger()

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Where a request's scope says what it was found to be: for its span.
ACCOUNT, RECORD = "huizhi.account", "huizhi.record"
_GUESSES_TOLD = 60  # of one peer in a minute
# No token that anybody could know has this digest.
_NOTHING = secrets.token_bytes(32)
# Kept as evidence: what says how the bytes are to be read, and who sent them; and no secret.
_NOT_KEPT = frozenset({b"authorization", b"cookie", b"proxy-authorization"})


class Head(msgspec.Struct, frozen=True, gc=False):
    """What came before the body of a callback that may be recorded without another question.

    `peer` sent it, through proxies of ours or not; `foreign`: from outside the account's `known_networks`.
    """

    account: AccountSettings
    method: str
    query: bytes
    headers: Mapping[str, str]
    length: int
    peer: str
    foreign: bool


class Callbacks:
    """The ASGI handler of `/callbacks/{account}/{token}`."""

    def __init__(self, settings: Settings, ingest: Ingest) -> None:
        self._accounts = settings.accounts
        self._ingest = ingest
        self._max_body_bytes = settings.receiver.max_body_bytes
        self._trusted = settings.receiver.trusted_proxies
        self._guesses = Guesses()
        self._pace = Pace()
        self._pace_of_peers = settings.receiver.callbacks_per_second_per_peer
        self._tokens: Mapping[str, Sequence[bytes]] = {
            name: [
                hashlib.sha256(token.reveal().encode()).digest()
                for token in account.callback_tokens
            ]
            for name, account in settings.accounts.items()
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; see interface section 3 for what gets which answer."""
        account = self._admit(scope["method"], scope["raw_path"])
        headers = _merged(scope["headers"])
        peer = self._peer(_peer_of(scope), headers)
        if account is None:
            await self._turn_away(peer, send)
            return
        name = account.account.name
        scope[ACCOUNT] = name
        if _outside(peer, account.callback_networks):
            metrics.CALLBACKS.labels(name, "foreign").inc()
            log.warning("callback.foreign", account=name, peer=peer)
            await _answer(send, 403, b"forbidden\n")
            return
        if not self._paced(account, peer):
            metrics.CALLBACKS.labels(name, "limited").inc()
            log.warning("callback.limited", account=name, peer=peer)
            await _answer(send, 429, b"too many\n", retry_after=1, close=True)
            return
        body = await self._body(headers, receive)
        if body is None:
            return  # the peer went away in the middle of its body: nothing was said, nothing is owed
        if len(body) > self._max_body_bytes:
            metrics.CALLBACKS.labels(name, "too_large").inc()
            log.warning("callback.too_large", account=name, peer=peer)
            await _answer(send, 413, b"too large\n", close=True)
            return
        callback = Callback(
            method=scope["method"],
            query=scope["query_string"],
            headers=_kept(headers),
            body=bytes(body),
        )
        record = _record(account, callback, peer, _outside(peer, account.known_networks))
        scope[RECORD] = record.digest
        try:
            await self._ingest.store(record)
        except Full:
            metrics.CALLBACKS.labels(name, "unavailable").inc()
            await _answer(send, 503, b"not stored, try again\n", retry_after=5)
            return
        await _acknowledge(send, account.gateway.acknowledge(callback))

    async def _turn_away(self, peer: str, send: Any) -> None:
        """Answer a wrong token, always alike; after so many in a minute without a line in the log.

        Whoever has the right one is never held up by what else came from its address.
        """
        metrics.CALLBACKS.labels("", "forged").inc()
        count = self._guesses.another(peer)
        if count <= _GUESSES_TOLD:
            log.warning("callback.forged", peer=peer, untold_from_here=count == _GUESSES_TOLD)
        await not_found(send)

    def _paced(self, account: AccountSettings, peer: str) -> bool:
        of_account, of_peers = account.callbacks_per_second, self._pace_of_peers
        if of_peers is not None and not self._pace.admits(f"peer {peer}", of_peers):
            return False
        name = f"account {account.account.name}"
        return of_account is None or self._pace.admits(name, of_account)

    def head(
        self, method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], peer: str
    ) -> Head | None:
        """Return the head of a callback that is to be recorded whatever its body says.

        None for anything that `__call__` must look at: whom it turns away, and what depends on the time.
        `target` is the request's path and query, `peer` the connection's other end.
        """
        path, _, query = target.partition(b"?")
        account = self._admit(method, path)
        if (
            account is None
            or account.callbacks_per_second is not None
            or self._pace_of_peers is not None
        ):
            return None
        merged = _merged(headers)
        length = merged.get(b"content-length", b"0")
        if (
            b"transfer-encoding" in merged
            or not length.isdigit()
            or int(length) > self._max_body_bytes
        ):
            return None
        peer = self._peer(peer, merged)
        if _outside(peer, account.callback_networks):
            return None
        return Head(
            account=account,
            method=method,
            query=query,
            headers=_kept(merged),
            length=int(length),
            peer=peer,
            foreign=_outside(peer, account.known_networks),
        )

    def take(self, head: Head, body: bytes, waiter: Waiter) -> Acknowledgement:
        """Have a callback recorded, and return what to say when `waiter` is told that it is.

        Raises `Full`.
        """
        callback = Callback(method=head.method, query=head.query, headers=head.headers, body=body)
        self._ingest.put(_record(head.account, callback, head.peer, head.foreign), waiter)
        return head.account.gateway.acknowledge(callback)

    def _admit(self, method: str, path: bytes) -> AccountSettings | None:
        """Return the account that may be pushed to by `method` at `path`, spelled just so, token right.

        Takes the raw path: routers forgive a slash too many. Takes as long for a name that is wrong
        as for a token that is.
        """
        root, _, rest = path.partition(b"/callbacks/")
        parts = rest.split(b"/", 2)
        name, token = parts if not root and len(parts) == 2 else (b"", b"")
        named = unquote_to_bytes(name).decode("utf-8", "replace")
        given = hashlib.sha256(unquote_to_bytes(token)).digest()
        admitted = False
        for expected in self._tokens.get(named) or (_NOTHING,):
            admitted |= hmac.compare_digest(given, expected)
        account = self._accounts.get(named) if admitted else None
        return account if account is not None and method in account.gateway.methods else None

    def _peer(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """Return who sent what came from `peer`: the nearest address that is no proxy of ours.

        What stands before that in the header is the sender's own word, and is not looked at.
        """
        if not self._trusted or b"x-forwarded-for" not in headers:
            return peer
        hops = headers[b"x-forwarded-for"].decode("latin-1").split(",")
        while hops and _within(peer, self._trusted):
            peer = _address(hops.pop())
        return peer

    async def _body(self, headers: Mapping[bytes, bytes], receive: Any) -> bytearray | None:
        """Read the body, one byte past the limit at most counts; None if the peer went away."""
        body = bytearray()
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            return bytearray(self._max_body_bytes + 1)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes or not message.get("more_body", False):
                return body


def _record(account: AccountSettings, callback: Callback, peer: str, foreign: bool) -> Record:
    return records.of_callback(
        account.account.name,
        callback,
        received_at=datetime.now(UTC),
        peer=peer,
        foreign=foreign,
    )


def _merged(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    merged: dict[bytes, bytes] = {}
    for key, value in headers:
        merged[key] = merged[key] + b", " + value if key in merged else value
    return merged


def _kept(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    return {
        key.decode("latin-1"): value.decode("latin-1")
        for key, value in headers.items()
        if key not in _NOT_KEPT
    }


def _peer_of(scope: Any) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _address(hop: str) -> str:
    """Return the address of a hop, which some proxies write with a port; `unknown` if it is none."""
    text = hop.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return "unknown"
    return text


def _within(peer: str, networks: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)


def _outside(peer: str, networks: Sequence[Network]) -> bool:
    """Tell whether there are networks, and none of them has `peer`."""
    return bool(networks) and not _within(peer, networks)


async def _acknowledge(send: Any, acknowledgement: Acknowledgement) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", acknowledgement.content_type.encode()),
                (b"content-length", str(len(acknowledgement.body)).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": acknowledgement.body})


async def not_found(send: Any) -> None:
    """Answer as if nothing were here: a wrong token, a wrong path and a wrong method are all alike."""
    await _answer(send, 404, b"not found\n")


async def _answer(
    send: Any, status: int, body: bytes, *, retry_after: int | None = None, close: bool = False
) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    if retry_after is not None:
        headers.append((b"retry-after", b"%d" % retry_after))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
