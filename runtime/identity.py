"""Who is who: the keys by which bytes, messages and reports are the same.

All keys are hashes of what they identify, so that any process computes them without asking the
database, and a report meets its message whichever of the two comes first.
"""

import struct
from hashlib import sha256
from uuid import UUID

# What the driver reads and writes without a detour; equal to the other UUID, and made in half the time.
from asyncpg.pgproto.pgproto import UUID as _UUID

# What a message is filed under while its vendor has given it no id begins so; no vendor's id does.
PROVISIONAL = "~"

_SHARD = struct.Struct(">i")
_length = struct.Struct(">Q").pack
_NONE = _length(1) + b"\0"


def digest(*parts: bytes) -> bytes:
    """Return sha256 over `parts`, each with its length, so that no two lists of parts collide."""
    framed: list[bytes] = []
    for part in parts:
        framed += (_length(len(part)), part)
    return sha256(b"".join(framed)).digest()


def text_digest(*parts: object) -> bytes:
    """Return the first 16 bytes of `digest` over texts; None differs from every text."""
    framed: list[bytes] = []
    for part in parts:
        if part is None:
            framed.append(_NONE)
        else:
            text = str(part).encode()
            framed += (_length(len(text) + 1), b"\1", text)
    return sha256(b"".join(framed)).digest()[:16]


def shard_of(account: str, vendor_message_id: str) -> int:
    """Return the distribution key of everything about one vendor message id (signed 32 bits)."""
    shard: int = _SHARD.unpack(_shard_bytes(account, vendor_message_id))[0]
    return shard


def message_id(account: str, vendor_message_id: str, phone: str) -> UUID:
    """Return the id of the message to `phone` (normalised); it begins with its shard's bytes."""
    return message_keys(account, vendor_message_id, phone)[1]


def message_keys(account: str, vendor_message_id: str, phone: str) -> tuple[int, UUID]:
    """Return `shard_of` and `message_id` of a message, in one go."""
    shard = _shard_bytes(account, vendor_message_id)
    own = sha256(f"{account}\0{vendor_message_id}\0{phone}".encode()).digest()
    return _SHARD.unpack(shard)[0], _UUID(shard + own[:12])


def shard_of_message(message: UUID) -> int:
    """Return the shard that a message id begins with."""
    shard: int = _SHARD.unpack(message.bytes[:4])[0]
    return shard


def _shard_bytes(account: str, vendor_message_id: str) -> bytes:
    return sha256(f"{account}\0{vendor_message_id}".encode()).digest()[:4]
