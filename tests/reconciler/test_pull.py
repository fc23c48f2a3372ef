"""Read-once pages: whatever dies when, at most the page in flight is missing, and it is known."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from pretend import Answer, Box, Vendor, page, reported, serving, settings, until

from gateways.gateway import Call
from gateways.http import open_client
from reconciler import lease as leases
from reconciler import pull as pulling
from reconciler.poll import Caller, Done, callers
from reconciler.pull import pull
from runtime import LeaseLost, Problem
from runtime.database import Database
from runtime.settlement import settle_left_behind

pytestmark = pytest.mark.anyio

LIMIT = 5
LEASE = "pull_reports:sms"
LOST = "SELECT count(*) FROM pulls WHERE state = 'lost'"


def _small_pages(caller: Caller) -> Caller:
    account = caller.client.account
    options = msgspec.structs.replace(account.options, status_num=LIMIT)
    client = type(caller.client)(replace(account, options=options), caller.client.transport)
    return replace(caller, client=client)


@asynccontextmanager
async def _reading(
    pool: Any, folder: Path, answer: Callable[[str, dict[str, str]], Answer]
) -> AsyncIterator[tuple[Caller, Vendor]]:
    with serving(answer) as vendor:
        read = settings(folder, vendor.url)
        async with open_client() as http:
            caller = callers(read, pool, http, recorder="test")["sms"]
            yield _small_pages(caller), vendor


async def _pull(caller: Caller, folder: Path, call: Call = Call.PULL_REPORTS) -> Done:
    async with leases.held(caller.pool, f"{call}:sms", holder="test") as lease:
        assert lease is not None
        return await pull(caller, call, lease, folder / "pages")


async def _hung(pool: Any) -> None:
    """Let time pass for whoever holds the lease."""
    await pool.execute("UPDATE leases SET expires_at = now()")


async def _states(pool: Any) -> list[str]:
    rows = await pool.fetch("SELECT state FROM pulls ORDER BY intended_at")
    return [row["state"] for row in rows]


async def test_pages_are_read_until_one_has_fewer_rows(pool: Any, tmp_path: Path) -> None:
    box = Box(12)
    everything = list(box.waiting)
    async with _reading(pool, tmp_path, box.answer) as (caller, vendor):
        done = await _pull(caller, tmp_path)
        assert (done.pages, done.rows, done.lost, done.failures) == (3, 12, 0, [])
        assert await reported(pool) == everything
        assert [params["statusNum"] for _, params in vendor.requests] == ["5"] * 3
    assert await _states(pool) == ["recorded"] * 3
    rows = await pool.fetch("SELECT rows FROM pulls ORDER BY intended_at")
    assert [row["rows"] for row in rows] == [5, 5, 2]
    assert list((tmp_path / "pages").iterdir()) == []


async def test_pages_with_the_same_bytes_are_records_of_their_own(
    pool: Any, tmp_path: Path
) -> None:
    async with _reading(pool, tmp_path, lambda *_: Answer(page([]))) as (caller, _):
        await _pull(caller, tmp_path)
        await _pull(caller, tmp_path)
    assert await pool.fetchval("SELECT count(*) FROM records WHERE source = 'pull'") == 2


async def test_inbound_messages_are_pulled(pool: Any, tmp_path: Path) -> None:
    body = (
        '<?xml version="1.0" encoding="utf-8"?><returnsms><callbox><mobile>13900000001</mobile>'
        "<taskid>0</taskid><content>退订</content><receivetime>2017/5/13 13:09:46</receivetime>"
        "<extno>12</extno></callbox></returnsms>"
    ).encode()
    async with _reading(pool, tmp_path, lambda *_: Answer(body)) as (caller, vendor):
        done = await _pull(caller, tmp_path, Call.PULL_INBOUND)
        assert (done.pages, done.rows) == (1, 1)
        assert [path for path, _ in vendor.requests] == ["/callApi.aspx"]
    assert await pool.fetchval("SELECT content FROM inbound") == "退订"


async def test_two_readers_at_once_take_turns_and_read_nothing_twice(
    pool: Any, tmp_path: Path
) -> None:
    box = Box(57)
    everything = list(box.waiting)
    async with _reading(pool, tmp_path, box.answer) as (caller, _):

        async def reader() -> int:
            rows = 0
            while box.waiting:
                async with leases.held(pool, LEASE, holder="x") as lease:
                    if lease is not None:
                        rows += (await pull(caller, Call.PULL_REPORTS, lease, tmp_path / "p")).rows
                await asyncio.sleep(0)
            return rows

        assert sum(await asyncio.gather(reader(), reader())) == 57
    assert await reported(pool) == everything
    assert box.overlaps == 0
    assert set(await _states(pool)) == {"recorded"}


class Killed(BaseException):
    """What stands for a death: no handler of ours catches it."""


STEPS = ("intend", "fetch", "file", "store", "commit", "understand", "settle")


@pytest.mark.parametrize("step", STEPS)
async def test_killed_at_any_step_at_most_the_page_in_flight_is_missing(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    box = Box(12)
    everything = list(box.waiting)
    async with _reading(pool, tmp_path, box.answer) as (caller, vendor):
        with monkeypatch.context() as patched:
            _die_at(step, patched, caller)
            with pytest.raises(Killed):
                await _pull(caller, tmp_path)
        asked = len(vendor.requests)
        assert asked == (0 if step == "intend" else 1)
        # The dead one did not let go of its lease; its time passes.
        await _hung(pool)
        done = await _pull(caller, tmp_path)
        assert done.failures == []
    in_flight = step == "fetch"
    assert done.lost == await pool.fetchval(LOST) == (1 if step in ("intend", "fetch") else 0)
    missing = box.pages[0] if in_flight else []
    await _settle_left_behind(pool, caller)
    assert await reported(pool) == [phone for phone in everything if phone not in missing]
    assert list((tmp_path / "pages").iterdir()) == []
    if done.lost:
        row = await pool.fetchrow(
            "SELECT intended_at, finished_at, error FROM pulls WHERE state = 'lost'"
        )
        assert row["intended_at"] < row["finished_at"]
        assert row["error"]


def _die_at(step: str, patched: pytest.MonkeyPatch, caller: Caller) -> None:
    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    client = type(caller.client)
    fetch, store = client.pull_reports, pulling.records.store

    async def fetch_and_die(self: Any, limit: int) -> Any:
        await fetch(self, limit)
        raise Killed

    async def store_and_die(*arguments: Any, **keys: Any) -> Any:
        await store(*arguments, **keys)
        raise Killed

    if step == "intend":
        patched.setattr(client, "pull_reports", die)
    elif step == "fetch":
        patched.setattr(client, "pull_reports", fetch_and_die)
    elif step == "file":
        patched.setattr(pulling, "_sync", die)
    elif step == "store":
        patched.setattr(pulling.records, "store", store_and_die)  # the transaction is undone
    elif step == "commit":
        patched.setattr(pulling, "_understand", die)
    elif step == "understand":
        patched.setattr(pulling.records, "parse", die)
    else:
        patched.setattr(Caller, "settle", die)


@pytest.mark.parametrize("step", ["intend", "torn"])
async def test_whoever_dies_before_a_lost_page_was_told_leaves_that_to_the_next(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    counted = pulling.metrics.LOST_PAGES.labels("sms")._value.get
    before = counted()
    async with _reading(pool, tmp_path, Box(LIMIT - 1).answer) as (caller, _):
        with monkeypatch.context() as patched:
            _die_at("file" if step == "torn" else step, patched, caller)
            with pytest.raises(Killed):
                await _pull(caller, tmp_path)
        await _hung(pool)
        for file in (tmp_path / "pages").iterdir():
            file.write_bytes(file.read_bytes()[:-100])

        def die(*_: Any) -> None:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(pulling, "_mourn", die)
            with pytest.raises(Killed):
                await _pull(caller, tmp_path)
        await _hung(pool)
        assert (await _pull(caller, tmp_path)).lost == 1
        assert (await _pull(caller, tmp_path)).lost == 0
    assert await pool.fetchval(LOST) == 1
    assert counted() == before + 1


async def _settle_left_behind(pool: Any, caller: Caller) -> None:
    now = datetime.now(UTC)
    while await settle_left_behind(pool, caller.accounts, recorded_before=now, now=now):
        pass


_CHILD = """
import asyncio, sys
from pathlib import Path
from gateways.gateway import Secret
from reconciler.jobs import one_pass
from runtime.database import Database
from runtime.settings import load

async def main():
    read = load(Path(sys.argv[1]), env={})
    async with Database(dsn=Secret(sys.argv[2]), name="child").pool() as pool:
        while True:
            await one_pass(read, pool, "sms")
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


@pytest.mark.parametrize("victim", [1, 2, 4])
@pytest.mark.parametrize("when", ["before the reply", "within the reply", "after the reply"])
def test_kill_9_loses_no_page_but_that_in_flight(
    database: Database, tmp_path: Path, victim: int, when: str
) -> None:
    """A real process, killed by the vendor while it reads page number `victim`."""
    box = Box(40)
    everything = list(box.waiting)
    child: subprocess.Popen[bytes] | None = None

    def kill() -> None:
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)

    def answer(path: str, params: dict[str, str]) -> Answer:
        if path != "/statusApi.aspx" or not box.waiting:
            return Answer(page([]))
        reply = box.answer(path, {"statusNum": str(LIMIT)})
        if len(box.pages) == victim:
            if when == "before the reply":
                kill()
            elif when == "within the reply":
                reply.cut, reply.after = len(reply.body) // 2, kill
            else:
                reply.after = kill
        return reply

    with serving(answer) as vendor:
        file = settings(tmp_path, vendor.url).file
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(file), database.dsn.reveal()],
            cwd=Path(pulling.__file__).parent.parent,
        )
        assert child.wait(timeout=60) == -signal.SIGKILL

        async def recover() -> tuple[list[str], int]:
            async with database.pool() as pool:
                await _hung(pool)
                read = settings(tmp_path, vendor.url)
                async with open_client() as http:
                    caller = callers(read, pool, http, recorder="test")["sms"]
                    while box.waiting:
                        async with leases.held(pool, LEASE, holder="next") as lease:
                            assert lease is not None
                            await pull(caller, Call.PULL_REPORTS, lease, read.data_dir / "pages")
                    async with leases.held(pool, LEASE, holder="last") as lease:
                        assert lease is not None
                        await pull(caller, Call.PULL_REPORTS, lease, read.data_dir / "pages")
                    await _settle_left_behind(pool, caller)
                return await reported(pool), await pool.fetchval(LOST)

        found, lost = asyncio.run(recover())
    in_flight = box.pages[victim - 1]
    without = [phone for phone in everything if phone not in in_flight]
    if when == "after the reply":
        # Dead before it read the page, or after: either it is there, or it is known to be lost.
        assert (found, lost) in ((without, 1), (everything, 0))
    else:
        assert (found, lost) == (without, 1)


async def test_while_the_database_is_away_a_page_stays_in_its_file(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(12)
    everything = list(box.waiting)

    async def away(*_: Any, **__: Any) -> Any:
        raise asyncpg.ConnectionDoesNotExistError

    async with _reading(pool, tmp_path, box.answer) as (caller, vendor):
        with monkeypatch.context() as patched:
            patched.setattr(pulling.records, "store", away)
            with pytest.raises(asyncpg.ConnectionDoesNotExistError):
                await _pull(caller, tmp_path)
        assert len(vendor.requests) == 1
        assert len(list((tmp_path / "pages").iterdir())) == 1
        done = await _pull(caller, tmp_path)
        assert (done.pages, done.rows, done.lost) == (3, 12, 0)
    assert await reported(pool) == everything
    assert await _states(pool) == ["recorded"] * 3


async def test_without_a_file_the_only_copy_waits_for_the_database(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(3)
    store = pulling.records.store
    tries = 0

    async def away_once(*arguments: Any, **keys: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise asyncpg.ConnectionDoesNotExistError
        return await store(*arguments, **keys)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pulling, "_write", full)
    monkeypatch.setattr(pulling.records, "store", away_once)
    async with _reading(pool, tmp_path, box.answer) as (caller, _):
        assert (await _pull(caller, tmp_path)).rows == 3
    assert tries == 2
    assert len(await reported(pool)) == 3


async def test_a_folder_that_cannot_be_written_stops_before_the_vendor_is_asked(
    pool: Any, tmp_path: Path
) -> None:
    (tmp_path / "pages").write_text("no folder")
    async with _reading(pool, tmp_path, Box(3).answer) as (caller, vendor):
        with pytest.raises(Problem, match="cannot be written"):
            await _pull(caller, tmp_path)
        assert vendor.requests == []


async def test_pages_on_disk_are_for_us_alone(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    sync = pulling._sync

    def look(handle: int, folder: Path) -> None:
        seen.append(stat.S_IMODE(folder.stat().st_mode))
        seen.extend(stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir())
        sync(handle, folder)

    monkeypatch.setattr(pulling, "_sync", look)
    async with _reading(pool, tmp_path, Box(1).answer) as (caller, _):
        await _pull(caller, tmp_path)
    assert seen == [0o700, 0o600]


async def test_a_torn_file_is_kept_as_evidence_of_a_lost_page(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _reading(pool, tmp_path, Box(LIMIT - 1).answer) as (caller, _):
        with monkeypatch.context() as patched:
            _die_at("file", patched, caller)
            with pytest.raises(Killed):
                await _pull(caller, tmp_path)
        await _hung(pool)
        [file] = (tmp_path / "pages").iterdir()
        whole = file.read_bytes()
        file.write_bytes(whole[:-100])
        done = await _pull(caller, tmp_path)
        assert done.lost == 1
    assert await _states(pool) == ["lost", "recorded"]
    body = await pool.fetchval(
        "SELECT body FROM records INNER JOIN pulls USING (digest) WHERE state = 'lost'"
    )
    assert whole[:-100].endswith(body)
    # What is whole in it counts, the rest is in quarantine.
    assert len(await reported(pool)) == LIMIT - 2
    assert await pool.fetchval("SELECT count(*) FROM quarantine") == 1


async def test_files_of_others_and_unreadable_ones_are_left_alone(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _reading(pool, tmp_path, Box(1).answer) as (caller, _):
        with monkeypatch.context() as patched:
            _die_at("file", patched, caller)
            with pytest.raises(Killed):
                await _pull(caller, tmp_path)
        await _hung(pool)
        (tmp_path / "pages" / "torn").write_bytes(b'{"account": "s')
        assert (await _pull(caller, tmp_path, Call.PULL_INBOUND)).pages == 1
        assert len(list((tmp_path / "pages").iterdir())) == 2
        assert (await _pull(caller, tmp_path)).rows == 1
        assert [file.name for file in (tmp_path / "pages").iterdir()] == ["torn"]


async def test_a_reply_that_is_cut_is_a_lost_page_with_evidence(pool: Any, tmp_path: Path) -> None:
    box = Box(8)
    everything = list(box.waiting)

    def answer(path: str, params: dict[str, str]) -> Answer:
        reply = box.answer(path, params)
        if len(box.pages) == 1:
            reply.cut = len(reply.body) - 100
        return reply

    async with _reading(pool, tmp_path, answer) as (caller, vendor):
        done = await _pull(caller, tmp_path)
        assert (done.pages, done.lost) == (0, 1)
        assert "did not come whole" in done.failures[0]
        assert len(vendor.requests) == 1
        done = await _pull(caller, tmp_path)
        assert (done.pages, done.lost, done.failures) == (1, 0, [])
    assert await _states(pool) == ["lost", "recorded"]
    assert await reported(pool) == everything[:4] + everything[5:]
    assert await pool.fetchval("SELECT count(*) FROM quarantine") == 1


async def test_a_vendor_that_cannot_be_asked_hands_out_nothing(pool: Any, tmp_path: Path) -> None:
    refused = Answer(b"", 429, {"retry-after": "300"})
    async with _reading(pool, tmp_path, lambda *_: refused) as (caller, vendor):
        done = await _pull(caller, tmp_path)
        assert (done.pages, done.lost, done.retry_after_seconds) == (0, 0, 300)
        assert done.failures == ["pull_reports: the vendor answered HTTP 429"]
        assert len(vendor.requests) == 1
    assert await _states(pool) == ["nothing"]


async def test_a_short_retry_after_is_waited_for(pool: Any, tmp_path: Path) -> None:
    box = Box(2)
    at: list[float] = []

    def answer(path: str, params: dict[str, str]) -> Answer:
        at.append(time.monotonic())
        return Answer(b"", 429, {"retry-after": "1"}) if len(at) == 1 else box.answer(path, params)

    async with _reading(pool, tmp_path, answer) as (caller, _):
        assert (await _pull(caller, tmp_path)).rows == 2
    assert at[1] - at[0] >= 1


ERROR = (
    '<?xml version="1.0" encoding="utf-8"?><returnsms><errorstatus><error>2</error>'
    "<remark>用户名或密码错误</remark></errorstatus></returnsms>"
)


@pytest.mark.parametrize(
    ("answer", "words", "quarantined"),
    [
        (Answer(ERROR.encode()), "refused by the vendor with 2", 0),
        (Answer(b"<html>maintenance</html"), "pull_reports: ", 1),
        (Answer(b"<html>not here</html", 404), "HTTP 404", 1),
    ],
    ids=["refused", "garbled", "not found"],
)
async def test_what_is_no_page_is_recorded_and_stops_the_pass(
    pool: Any, tmp_path: Path, answer: Answer, words: str, quarantined: int
) -> None:
    async with _reading(pool, tmp_path, lambda *_: answer) as (caller, vendor):
        done = await _pull(caller, tmp_path)
        assert len(vendor.requests) == 1
    assert len(done.failures) == 1
    assert words in done.failures[0]
    assert await pool.fetchval("SELECT body FROM records") == answer.body
    assert words.removeprefix("pull_reports: ") in await pool.fetchval("SELECT error FROM pulls")
    assert await _states(pool) == ["recorded"]
    assert await pool.fetchval("SELECT count(*) FROM quarantine") == quarantined


async def test_a_replaced_reader_asks_for_nothing_more(pool: Any, tmp_path: Path) -> None:
    async with (
        _reading(pool, tmp_path, Box(9).answer) as (caller, vendor),
        leases.held(pool, LEASE, holder="hung") as hung,
    ):
        assert hung is not None
        await _hung(pool)
        async with leases.held(pool, LEASE, holder="next") as lease:
            assert lease is not None
            with pytest.raises(LeaseLost):
                await pull(caller, Call.PULL_REPORTS, hung, tmp_path / "pages")
            assert vendor.requests == []
            assert (await pull(caller, Call.PULL_REPORTS, lease, tmp_path / "pages")).rows == 9


async def test_a_page_given_up_for_lost_that_lands_after_all_is_kept(
    pool: Any, tmp_path: Path
) -> None:
    box = Box(2)
    everything = list(box.waiting)
    asked, go_on = threading.Event(), threading.Event()

    def answer(path: str, params: dict[str, str]) -> Answer:
        reply = box.answer(path, params)
        if len(box.pages) == 1:
            asked.set()
            go_on.wait(20)
        return reply

    async with _reading(pool, tmp_path, answer) as (caller, _):
        hung = asyncio.create_task(_pull(caller, tmp_path))
        await until(asked.is_set)
        await _hung(pool)
        assert (await _pull(caller, tmp_path)).lost == 1
        go_on.set()
        # What was handed out is kept, and is all that it may still write.
        with pytest.raises(LeaseLost):
            await hung
        assert await reported(pool) == []
        await _settle_left_behind(pool, caller)
    assert await _states(pool) == ["recorded", "recorded"]
    assert await reported(pool) == everything


async def test_cancelled_it_lets_the_page_in_flight_land(pool: Any, tmp_path: Path) -> None:
    box = Box(12)
    everything = list(box.waiting)
    asked, go_on = threading.Event(), threading.Event()

    def answer(path: str, params: dict[str, str]) -> Answer:
        reply = box.answer(path, params)
        asked.set()
        go_on.wait(20)
        return reply

    async with _reading(pool, tmp_path, answer) as (caller, vendor):
        reading = asyncio.create_task(_pull(caller, tmp_path))
        await until(asked.is_set)
        reading.cancel()
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert len(vendor.requests) == 1
    assert await reported(pool) == everything[:LIMIT]
    assert await _states(pool) == ["recorded"]


async def test_the_next_page_is_read_while_one_is_settled_and_two_wait_at_most(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(22)
    everything = list(box.waiting)
    settle = Caller.settle
    go_on = asyncio.Event()

    async def slow(self: Caller, *arguments: Any) -> int:
        await go_on.wait()
        return await settle(self, *arguments)

    monkeypatch.setattr(Caller, "settle", slow)
    async with _reading(pool, tmp_path, box.answer) as (caller, vendor):
        reading = asyncio.create_task(_pull(caller, tmp_path))
        await until(lambda: _recorded(pool, 2))
        assert len(vendor.requests) == 2
        assert await reported(pool) == []
        go_on.set()
        done = await reading
    assert (done.pages, done.rows, done.failures) == (5, 22, [])
    assert await reported(pool) == everything


async def test_a_page_that_cannot_be_settled_ends_the_pass_when_the_one_in_flight_has_landed(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(22)
    everything = list(box.waiting)
    settle = Caller.settle
    pages = 0

    async def away_for_the_first(self: Caller, *arguments: Any) -> int:
        nonlocal pages
        pages += 1
        if pages == 1:
            await until(lambda: len(vendor.requests) == 2)
            raise asyncpg.ConnectionDoesNotExistError
        return await settle(self, *arguments)

    async with _reading(pool, tmp_path, box.answer) as (caller, vendor):
        with monkeypatch.context() as patched:
            patched.setattr(Caller, "settle", away_for_the_first)
            with pytest.raises(asyncpg.ConnectionDoesNotExistError):
                await _pull(caller, tmp_path)
        assert len(vendor.requests) == 2
        assert await _states(pool) == ["recorded"] * 2
        await _settle_left_behind(pool, caller)
        assert await reported(pool) == everything[: 2 * LIMIT]
        await _pull(caller, tmp_path)
    assert await reported(pool) == everything
    assert await pool.fetchval(LOST) == 0


async def _recorded(pool: Any, pages: int) -> bool:
    return bool(await pool.fetchval("SELECT count(*) FROM records") == pages)
