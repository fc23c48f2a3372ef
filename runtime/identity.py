"""Who is who: the keys by which bytes, messages and reports are the same.

All keys are hashes of what they identify, so that any process computes them without asking the
database, and a report meets its message whichever of the two comes first.
"""

import hashlib
import struct
from uuid import UUID

# What a message is filed under while its vendor has given it no id begins so; no vendor's id does.
PROVISIONAL = "~"

_SHARD = struct.Struct(">i")
_length = struct.Struct(">Q").pack


def digest(*parts: bytes) -> bytes:
    """Return sha256 over `parts`, each with its length, so that no two lists of parts collide."""
    framed = b"".join([piece for part in parts for piece in (_length(len(part)), part)])
    return hashlib.sha256(framed).digest()


def text_digest(*parts: object) -> bytes:
    """Return the first 16 bytes of `digest` over texts; None differs from every text."""
    return digest(*(b"\0" if part is None else b"\1" + str(part).encode() for part in parts))[:16]


def shard_of(account: str, vendor_message_id: str) -> int:
    """Return the distribution key of everything about one vendor message id (signed 32 bits)."""
    shard: int = _SHARD.unpack(_shard_bytes(account, vendor_message_id))[0]
    return shard


def message_id(account: str, vendor_message_id: str, phone: str) -> UUID:
    """Return the id of the message to `phone` (normalised); it begins with its shard's bytes."""
    own = hashlib.sha256(f"{account}\0{vendor_message_id}\0{phone}".encode()).digest()
    return UUID(bytes=_shard_bytes(account, vendor_message_id) + own[:12])


def shard_of_message(message: UUID) -> int:
    """Return the shard that a message id begins with."""
    shard: int = _SHARD.unpack(message.bytes[:4])[0]
    return shard


def _shard_bytes(account: str, vendor_message_id: str) -> bytes:
    return hashlib.sha256(f"{account}\0{vendor_message_id}".encode()).digest()[:4]
