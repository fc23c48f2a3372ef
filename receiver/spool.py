"""The spool: where callbacks are durable while PostgreSQL cannot take them.

A folder of segments. A segment is written by one process, which holds its lock while it may still
append; whoever gets the lock afterwards may drain it, be it of this process, of another, or of one
that died. A segment's name gives its age and the mark that its frames begin with. That mark is random:
nobody who pushes knows it, so bytes in a body never pass for a frame when a damaged segment is read.

A frame is the mark (8 bytes), the payload's length (4) and a crc32 of the two (4), sha256 of the
payload (32), and the payload: one record as MessagePack.
"""

import fcntl
import hashlib
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from gateways.gateway import Callback
from runtime import Problem, records
from runtime.records import Record
from runtime.settings import Settings

log = structlog.get_logger()

# A segment that has so many bytes takes no further group: each is drained by one commit, and has
# about as many callbacks as are settled at once.
SEGMENT_BYTES = 1024 * 1024
# What is proved to fit when somebody asks whether the spool can take a callback.
PROOF_BYTES = 4096
_COUNTED_SECONDS = 0.25
_SUFFIX = ".spool"
_SET_ASIDE = "set-aside"
_MARK_BYTES = 8
_HEAD = struct.Struct(">8sII32s")
_LENGTH = struct.Struct(">8sI")
_CHECKED = _LENGTH.size + 4


class SpoolFull(Exception):
    """The spool has as many bytes as it may have."""


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """What the spool holds, of all processes that share it; `oldest_seconds` is 0 when it is empty."""

    records: int = 0
    bytes: int = 0
    oldest_seconds: float = 0.0


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a segment was read as.

    `records` are those of its whole frames in order, `frames` where each of them begins and ends.
    `damaged` has (place, bytes) of what is no frame. The last `torn` bytes are the beginning of a
    frame that was never finished, and so never acknowledged.
    """

    records: list[Record]
    frames: list[tuple[int, int]]
    damaged: list[tuple[int, bytes]]
    torn: int


class _Spooled(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The payload of a frame."""

    received_at: datetime
    account: str
    peer: str
    deliveries: int
    method: str
    query: bytes
    headers: Mapping[str, str]
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Spooled).decode


def frame(record: Record, mark: bytes) -> bytes:
    """Return the frame of a callback's record in a segment with `mark`."""
    payload = _encode(
        _Spooled(
            received_at=record.received_at,
            account=record.account,
            peer=record.peer or "",
            deliveries=record.deliveries,
            method=record.method,
            query=record.query,
            headers=record.headers,
            body=record.body,
        )
    )
    start = _LENGTH.pack(mark, len(payload))
    return b"".join(
        (start, zlib.crc32(start).to_bytes(4), hashlib.sha256(payload).digest(), payload)
    )


def read(data: bytes, mark: bytes) -> Contents:
    """Read a segment, whatever happened to its bytes; pure.

    Every frame that is whole is found, whatever is wrong before it, and every byte ends up in one of
    a frame, `damaged` and `torn`.
    """
    contents = Contents(records=[], frames=[], damaged=[], torn=0)
    place = 0
    while place < len(data):
        if (found := _frame_at(data, place, mark)) is not None:
            record, end = found
            contents.records.append(record)
            contents.frames.append((place, end))
        else:
            end = data.find(mark, place + 1)
            if end < 0:
                if _is_torn(data[place:], mark):
                    return msgspec.structs.replace(contents, torn=len(data) - place)
                end = len(data)
            contents.damaged.append((place, data[place:end]))
        place = end
    return contents


def _frame_at(data: bytes, place: int, mark: bytes) -> tuple[Record, int] | None:
    """Return the record of the whole frame at `place` and where that ends."""
    if len(data) - place < _HEAD.size:
        return None
    marked, length, check, digest = _HEAD.unpack_from(data, place)
    begin = place + _HEAD.size
    end = begin + length
    if marked != mark or end > len(data) or check != zlib.crc32(data[place : place + 12]):
        return None
    payload = data[begin:end]
    if hashlib.sha256(payload).digest() != digest:
        return None
    try:
        told = _decode(payload)
    except msgspec.MsgspecError:
        return None
    callback = Callback(method=told.method, query=told.query, headers=told.headers, body=told.body)
    record = records.of_callback(
        told.account, callback, received_at=told.received_at, peer=told.peer
    )
    record.deliveries = told.deliveries
    return record, end


def _is_torn(rest: bytes, mark: bytes) -> bool:
    """Tell whether `rest` is the beginning of a frame and less than the whole of it."""
    if len(rest) < _CHECKED:
        return rest[:_MARK_BYTES] == mark[: len(rest)]
    marked, length = _LENGTH.unpack_from(rest)
    check = int.from_bytes(rest[_LENGTH.size : _CHECKED])
    return bool(
        marked == mark
        and check == zlib.crc32(rest[: _LENGTH.size])
        and len(rest) < _HEAD.size + length
    )


class Segment:
    """A segment that this process has claimed: nobody else appends to it or drains it."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self.mark = _mark_of(path.name)
        self._file = os.fdopen(handle, "r+b", buffering=0)

    def read(self) -> Contents:
        """Read it whole, and keep what is damaged in files for people. Raises `OSError`."""
        data = _read_all(self._file.fileno())
        contents = read(data, self.mark)
        for place, damaged in contents.damaged:
            self._keep(place, damaged)
        if contents.torn:
            log.warning("spool.torn", segment=self.path.name, bytes=contents.torn)
        return contents

    def set_aside(self, begin: int, end: int) -> None:
        """Keep a frame, which the database will not have, in a file for people. Raises `OSError`."""
        self._keep(begin, os.pread(self._file.fileno(), end - begin, begin))

    def remove(self) -> None:
        """Remove it: every record in it is committed or set aside. Raises `OSError`."""
        self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let others claim it, or claim it again later; no harm done where that was done before."""
        self._file.close()

    def _keep(self, place: int, data: bytes) -> None:
        folder = self.path.parent / _SET_ASIDE
        folder.mkdir(mode=0o700, exist_ok=True)
        kept = folder / f"{self.path.stem}-{place}"
        handle = os.open(kept, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        try:
            _write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        _sync_folder(folder)
        log.error("spool.set_aside", file=str(kept), bytes=len(data))


class _Open(msgspec.Struct):
    """The segment that this process appends to; its first `size` bytes are durable."""

    path: Path
    mark: bytes
    handle: int
    size: int = 0


class Spool:
    """This process' way into the folder. Its methods block, and are for one thread at a time.

    What `claim` returns may be used in any thread.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._open: _Open | None = None
        self._bytes = 0
        self._summed_at = 0.0
        # What was counted in a segment: up to which byte, and how many records.
        self._counted: dict[str, tuple[int, int]] = {}

    @classmethod
    def of(cls, settings: Settings) -> "Spool":
        """Return the spool that `settings` describe."""
        return cls(settings.data_dir / "spool", settings.receiver.spool_max_bytes)

    def prepare(self) -> None:
        """Make the folder and prove that it can be written; raises `Problem` if it cannot."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._prove()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise Problem(f"cannot write to the spool folder {self._folder}: {reason}") from error

    def append(self, found: Sequence[Record], *, alone: bool = False) -> None:
        """Make `found` durable with one fsync, `alone` in a segment of their own.

        Raises `SpoolFull` or `OSError`: then nothing is promised of any of them.
        """
        if alone or (self._open is not None and self._open.size >= SEGMENT_BYTES):
            self.seal()
        self._append(found)
        if alone:
            self.seal()

    def _append(self, found: Sequence[Record]) -> None:
        into = self._open
        mark = into.mark if into is not None else secrets.token_bytes(_MARK_BYTES)
        data = b"".join([frame(record, mark) for record in found])
        self._sum()
        if self._bytes + len(data) > self._max_bytes:
            raise SpoolFull
        if into is None:
            into = self._open = self._create(mark)
        try:
            _write_all(into.handle, data)
            os.fsync(into.handle)
        except OSError:
            # After a failed fsync the kernel may take lost pages for written ones, and a second
            # fsync succeed: nothing is appended to this file any more. What was durable stays.
            self._abandon()
            raise
        into.size += len(data)
        self._bytes += len(data)

    def seal(self) -> None:
        """Append no more to the segment under way, so that it can be claimed."""
        into, self._open = self._open, None
        if into is not None:
            os.close(into.handle)

    def claim(self, put_off: Set[str] = frozenset()) -> Segment | None:
        """Claim the oldest segment that nobody appends to or drains, and that is not in `put_off`."""
        for name, _ in self._segments():
            if name in put_off:
                continue
            path = self._folder / name
            try:
                handle = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            if _lock(handle):
                return Segment(path, handle)
            os.close(handle)
        return None

    def measure(self) -> Level:
        """Return what the spool holds, by what is on disk. Raises `OSError`."""
        counted: dict[str, tuple[int, int]] = {}
        total = 0
        segments = list(self._segments())
        for name, size in segments:
            place, count = self._counted.get(name, (0, 0))
            if place < size:
                place, count = self._count(name, place, count)
            counted[name] = (place, count)
            total += size
        self._counted = counted
        self._bytes, self._summed_at = total, time.monotonic()
        oldest = (time.time_ns() - _made_at(segments[0][0])) / 1e9 if segments else 0.0
        return Level(
            records=sum(count for _, count in counted.values()),
            bytes=total,
            oldest_seconds=round(max(oldest, 0.0), 3),
        )

    def takes(self) -> bool:
        """Tell, having tried, whether a callback of ordinary size could be taken now."""
        try:
            self._sum()
            if self._bytes + PROOF_BYTES > self._max_bytes:
                return False
            self._prove()
        except OSError:
            return False
        return True

    def _prove(self) -> None:
        proof = self._folder / f"proof-{os.getpid()}"
        handle = os.open(proof, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        try:
            _write_all(handle, bytes(PROOF_BYTES))
            os.fsync(handle)
        finally:
            os.close(handle)
            proof.unlink(missing_ok=True)

    def _create(self, mark: bytes) -> _Open:
        """Make an empty segment, locked, its name durable."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        while True:
            path = self._folder / f"{time.time_ns():020d}-{mark.hex()}{_SUFFIX}"
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            # Another process may have taken the empty file for one that was left behind.
            if _lock(handle):
                break
            os.close(handle)
        try:
            _sync_folder(self._folder)
        except OSError:
            path.unlink(missing_ok=True)
            os.close(handle)
            raise
        return _Open(path=path, mark=mark, handle=handle)

    def _abandon(self) -> None:
        """Cut away what is not durable in the segment under way, and append no more to it."""
        into = self._open
        assert into is not None
        try:
            if into.size:
                os.ftruncate(into.handle, into.size)
            else:
                into.path.unlink(missing_ok=True)
        except OSError as error:
            # What stays is read as torn, or as a record that the vendor pushes again.
            log.warning("spool.not_cut", segment=into.path.name, error=type(error).__name__)
        self.seal()

    def _sum(self) -> None:
        """Have `_bytes` count what other processes spool as well: as it was a moment ago."""
        now = time.monotonic()
        if now - self._summed_at > _COUNTED_SECONDS:
            self._bytes, self._summed_at = sum(size for _, size in self._segments()), now

    def _segments(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of the segments, the oldest first."""
        names = sorted(name for name in os.listdir(self._folder) if name.endswith(_SUFFIX))
        for name in names:
            try:
                yield name, (self._folder / name).stat().st_size
            except FileNotFoundError:
                continue  # another process has drained it

    def _count(self, name: str, place: int, count: int) -> tuple[int, int]:
        """Count the frames of a segment by their heads, from `place` on; a damaged one ends it."""
        try:
            handle = os.open(self._folder / name, os.O_RDONLY)
        except FileNotFoundError:
            return place, count
        try:
            mark, size = _mark_of(name), os.fstat(handle).st_size
            while len(head := os.pread(handle, _LENGTH.size, place)) == _LENGTH.size:
                marked, length = _LENGTH.unpack(head)
                end = place + _HEAD.size + length
                if marked != mark or end > size:
                    break
                place, count = end, count + 1
        finally:
            os.close(handle)
        return place, count


def _made_at(name: str) -> int:
    made, _, _ = name.partition("-")
    return int(made) if made.isdigit() else 0


def _mark_of(name: str) -> bytes:
    """Return the mark in a segment's name; random where somebody changed that name."""
    try:
        mark = bytes.fromhex(name.removesuffix(_SUFFIX).partition("-")[2])
    except ValueError:
        mark = b""
    return mark if len(mark) == _MARK_BYTES else secrets.token_bytes(_MARK_BYTES)


def _lock(handle: int) -> bool:
    """Lock a file that is still in its folder; False if another has it, or has removed it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(handle).st_nlink > 0


def _read_all(handle: int) -> bytes:
    size = os.fstat(handle).st_size
    data = bytearray()
    while len(data) < size and (piece := os.pread(handle, size - len(data), len(data))):
        data += piece
    return bytes(data)


def _write_all(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
