"""The spool's files: what is read back from them, whatever happened to their bytes or to the disk."""

import errno
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from by_hand import report
from hypothesis import given
from hypothesis import strategies as st

from gateways.gateway import Callback
from receiver import spool as spooling
from receiver.spool import Level, Segment, Spool, SpoolFull, frame, read
from runtime import Problem, records
from runtime.records import Record

MARK = bytes(range(8))
PLENTY = 100_000_000


def push(body: bytes, **more: Any) -> Record:
    callback = Callback(
        method=more.get("method", "POST"),
        query=more.get("query", b""),
        headers=more.get("headers", {"content-type": "application/json"}),
        body=body,
    )
    record = records.of_callback(
        more.get("account", "think"),
        callback,
        received_at=more.get("received_at", datetime.now(UTC)),
        peer=more.get("peer", "::1"),
    )
    record.deliveries = more.get("deliveries", 1)
    return record


def pushes(count: int, start: int = 0) -> list[Record]:
    return [push(report(str(number))) for number in range(start, start + count)]


recorded = st.builds(
    push,
    st.binary(max_size=300),
    method=st.sampled_from(["GET", "POST"]),
    query=st.binary(max_size=40),
    headers=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
    account=st.text(min_size=1, max_size=8),
    received_at=st.timedeltas(timedelta(0), timedelta(days=70_000)).map(
        lambda since: datetime(2000, 1, 1, tzinfo=timezone(timedelta(hours=8))) + since
    ),
    deliveries=st.integers(1, 1000),
)


@given(st.lists(recorded, max_size=6), st.binary(min_size=8, max_size=8))
def test_what_was_written_is_read(written: list[Record], mark: bytes) -> None:
    contents = read(b"".join(frame(record, mark) for record in written), mark)
    assert contents.records == written
    assert (contents.damaged, contents.torn) == ([], 0)


def test_tail_torn_at_any_byte_is_cut_and_all_before_it_read() -> None:
    written = pushes(3)
    frames = [frame(record, MARK) for record in written]
    before = b"".join(frames[:2])
    for end in range(len(frames[2])):
        contents = read(before + frames[2][:end], MARK)
        assert contents.records == written[:2]
        assert (contents.damaged, contents.torn) == ([], end)


@given(st.lists(recorded, min_size=1, max_size=6), st.data())
def test_damage_takes_no_other_frame_with_it_and_makes_none_up(
    written: list[Record], data: st.DataObject
) -> None:
    frames = [frame(record, MARK) for record in written]
    ends = [sum(map(len, frames[: number + 1])) for number in range(len(frames))]
    whole = b"".join(frames)
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, min(len(whole), begin + 400)))
    instead = data.draw(st.one_of(st.just(b""), st.binary(max_size=400)))
    contents = read(whole[:begin] + instead + whole[end:], MARK)
    untouched = [
        record
        for record, piece, stop in zip(written, frames, ends, strict=True)
        if stop <= begin or stop - len(piece) >= end
    ]
    found = iter(contents.records)
    assert all(any(record == other for other in found) for record in untouched)
    rest = iter(written)
    assert all(any(record == other for other in rest) for record in contents.records)
    read_bytes = sum(stop - start for start, stop in contents.frames)
    damaged = sum(len(piece) for _, piece in contents.damaged)
    assert read_bytes + damaged + contents.torn == len(whole) - (end - begin) + len(instead)


@given(st.binary(max_size=600))
def test_bytes_that_are_no_segment_are_no_record(noise: bytes) -> None:
    contents = read(noise, MARK)
    assert contents.records == []


@given(st.data())
def test_one_bit_of_a_frame_flipped_is_always_noticed(data: st.DataObject) -> None:
    written = pushes(3)
    frames = [bytearray(frame(record, MARK)) for record in written]
    place = data.draw(st.integers(0, len(frames[1]) - 1))
    frames[1][place] ^= 1 << data.draw(st.integers(0, 7))
    contents = read(b"".join(frames), MARK)
    assert contents.records == [written[0], written[2]]
    assert contents.damaged == [(len(frames[0]), bytes(frames[1]))]


def test_body_that_imitates_a_frame_is_never_taken_for_one() -> None:
    forged = frame(push(b"forged"), bytes(8))
    outer = bytearray(frame(push(forged), MARK))
    outer[20] ^= 1
    contents = read(bytes(outer) + frame(push(b"next"), MARK), MARK)
    assert [record.body for record in contents.records] == [b"next"]
    assert contents.damaged == [(0, bytes(outer))]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool", PLENTY)
    made.prepare()
    return made


@pytest.fixture
def other(tmp_path: Path, spool: Spool) -> Spool:
    """Another process' way into the same folder."""
    return Spool(tmp_path / "spool", PLENTY)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def drained(spool: Spool) -> list[Record]:
    """Claim, read and remove all that can be claimed."""
    found: list[Record] = []
    while (segment := spool.claim()) is not None:
        found += segment.read().records
        segment.remove()
    return found


def test_segment_is_claimed_by_one_and_not_while_its_writer_lives(
    spool: Spool, other: Spool, tmp_path: Path
) -> None:
    written = pushes(5)
    spool.append(written[:3])
    assert spool.claim() is None
    assert other.claim() is None
    spool.append(written[3:])
    spool.seal()
    claimed = other.claim()
    assert isinstance(claimed, Segment)
    assert spool.claim() is None
    assert claimed.read().records == written
    claimed.release()
    assert drained(spool) == written
    assert segments(tmp_path / "spool") == []


def test_oldest_first_and_a_new_segment_when_one_is_large_enough(
    spool: Spool, other: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "SEGMENT_BYTES", 1000)
    written = pushes(20)
    for record in written:
        spool.append([record])
    assert len(segments(tmp_path / "spool")) > 3
    spool.seal()
    assert drained(other) == written


def test_group_that_is_to_be_alone_shares_its_segment_with_none(spool: Spool, other: Spool) -> None:
    written = pushes(3)
    spool.append(written[:1])
    spool.append(written[1:2], alone=True)
    spool.append(written[2:])
    first, second = other.claim(), other.claim()
    assert first is not None
    assert second is not None
    assert [first.read().records, second.read().records] == [written[:1], written[1:2]]
    assert other.claim() is None
    first.release()
    second.release()


def test_segment_that_cannot_be_drained_keeps_the_next_from_nobody(
    spool: Spool, tmp_path: Path
) -> None:
    for record in (written := pushes(2)):
        spool.append([record])
        spool.seal()
    first, _ = segments(tmp_path / "spool")
    claimed = spool.claim({first.name})
    assert claimed is not None
    assert claimed.read().records == written[1:]
    claimed.release()


def test_level_is_that_of_all_processes(
    spool: Spool, other: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spool.measure() == Level()
    spool.append(pushes(3))
    other.append(pushes(4, 3))
    later = time.time_ns() + 42_000_000_000
    monkeypatch.setattr(spooling.time, "time_ns", lambda: later)
    for looking in (spool, other):
        level = looking.measure()
        assert level.records == 7
        assert level.bytes == sum(path.stat().st_size for path in segments(tmp_path / "spool"))
        assert 42 <= level.oldest_seconds < 60
    spool.append(pushes(1, 7))
    spool.seal()
    assert other.measure().records == 8
    assert len(drained(other)) == 4
    assert spool.measure().records == 4


def filled(spools: list[Spool]) -> int:
    """Append to all in turn until one is full; return how many were taken."""
    for number, record in enumerate(pushes(100)):
        try:
            spools[number % len(spools)].append([record])
        except SpoolFull:
            return number
    return 100


def test_nothing_is_taken_past_the_bound_until_there_is_room(tmp_path: Path) -> None:
    small = Spool(tmp_path / "spool", 8000)
    small.prepare()
    taken = filled([small])
    assert 5 < taken < 50
    assert small.measure().bytes <= 8000
    assert small.takes() is False
    small.seal()
    assert len(drained(small)) == taken
    assert small.measure() == Level()
    assert small.takes() is True
    small.append(pushes(1))


def test_bound_holds_for_all_processes_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "_COUNTED_SECONDS", 0.0)
    pair = [Spool(tmp_path / "spool", 8000) for _ in range(2)]
    pair[0].prepare()
    assert filled(pair) < 50
    assert pair[0].measure().bytes <= 8000


def test_damaged_piece_goes_into_a_file_and_the_rest_is_read(spool: Spool, tmp_path: Path) -> None:
    written = pushes(3)
    spool.append(written)
    spool.seal()
    (path,) = segments(tmp_path / "spool")
    data = bytearray(path.read_bytes())
    size = len(data) // 3
    data[size + 60] ^= 0xFF
    path.write_bytes(data)
    segment = spool.claim()
    assert segment is not None
    contents = segment.read()
    assert contents.records == [written[0], written[2]]
    segment.set_aside(*contents.frames[0])
    segment.remove()
    kept = {file.name: file for file in (tmp_path / "spool" / "set-aside").iterdir()}
    assert set(kept) == {f"{path.stem}-0", f"{path.stem}-{size}"}
    assert kept[f"{path.stem}-{size}"].read_bytes() == bytes(data[size : size * 2])
    assert read(kept[f"{path.stem}-0"].read_bytes(), segment.mark).records == [written[0]]
    assert all(file.stat().st_mode & 0o077 == 0 for file in kept.values())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let this process write no file past `size` bytes: what comes after fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_half_written_to_a_full_disk_is_cut_away(spool: Spool, tmp_path: Path) -> None:
    written = pushes(3)
    spool.append(written[:1])
    (path,) = segments(tmp_path / "spool")
    before = path.read_bytes()
    with files_of_at_most(len(before) + 10), pytest.raises(OSError, match="too large"):
        spool.append(written[1:2])
    assert path.read_bytes() == before
    spool.append(written[2:])
    assert len(segments(tmp_path / "spool")) == 2
    spool.seal()
    assert drained(spool) == [written[0], written[2]]


def test_disk_without_room_refuses_and_leaves_nothing(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real ENOSPC, of the one device that is always full."""
    opened = os.open

    def full(path: Any, flags: int, mode: int = 0o777) -> int:
        return opened("/dev/full" if flags & os.O_WRONLY else path, flags & ~os.O_EXCL, mode)

    with monkeypatch.context() as patched:
        patched.setattr(spooling.os, "open", full)
        with pytest.raises(OSError, match="No space left"):
            spool.append(pushes(1))
        assert spool.takes() is False
    assert segments(tmp_path / "spool") == []
    spool.append(pushes(1))
    assert spool.takes() is True
    assert spool.measure().records == 1


def test_file_whose_fsync_failed_is_never_written_again(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = pushes(4)
    spool.append(written[:1])

    def failing(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(spooling.os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output"):
            spool.append(written[1:2])
        with pytest.raises(OSError, match="Input/output"):
            spool.append(written[2:3])
    spool.append(written[3:])
    assert len(segments(tmp_path / "spool")) == 2
    spool.seal()
    assert drained(spool) == [written[0], written[3]]


def test_empty_segment_taken_by_another_process_is_made_anew(
    spool: Spool, other: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = spooling._lock
    taken: list[Path] = []

    def after_another(handle: int) -> bool:
        if not taken:
            (path,) = segments(tmp_path / "spool")
            taken.append(path)
            path.unlink()
        return lock(handle)

    monkeypatch.setattr(spooling, "_lock", after_another)
    spool.append(pushes(1))
    assert segments(tmp_path / "spool") != taken
    spool.seal()
    assert len(drained(other)) == 1


def test_folder_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    with pytest.raises(Problem) as raised:
        Spool(tmp_path / "spool", PLENTY).prepare()
    assert str(raised.value) == (
        f"cannot write to the spool folder {tmp_path / 'spool'}: File exists"
    )
