"""Registering in the background: batches, back-pressure, and no message lost without a word."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import TOKEN, Api

from huizhi.client import (
    AsyncHuizhi,
    AsyncRegistrar,
    Closed,
    Full,
    Huizhi,
    NotTaken,
    Refused,
    Registered,
    Registrar,
    Rejected,
    Sent,
    Totals,
    Unavailable,
    Unregistered,
)
from huizhi.client.batching import Batches

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
AT = datetime(2026, 10, 5, 9, 30, tzinfo=UTC)


def sent(id: Any, account: str = "think-main") -> Sent:
    return Sent(account=account, vendor_message_id=str(id), phone="13800138000", sent_at=AT)


class Either:
    """One registrar or the other, each call awaited."""

    def __init__(self, wrapped: Registrar | AsyncRegistrar) -> None:
        self._wrapped = wrapped

    async def put(self, message: Sent) -> None:
        await self._call("put", message)

    async def flush(self, **given: Any) -> Totals:
        return await self._call("flush", **given)

    async def close(self, **given: Any) -> Totals:
        return await self._call("close", **given)

    async def put_in_time(self, message: Sent, seconds: float) -> bool:
        try:
            if isinstance(self._wrapped, Registrar):
                await self._call("put", message, timeout_seconds=seconds)
            else:
                async with asyncio.timeout(seconds):
                    await self._wrapped.put(message)
        except (Full, TimeoutError):
            return False
        return True

    async def _call(self, name: str, *given: Any, **named: Any) -> Any:
        call = getattr(self._wrapped, name)
        if isinstance(self._wrapped, AsyncRegistrar):
            return await call(*given, **named)
        return await asyncio.to_thread(call, *given, **named)


@asynccontextmanager
async def opened(
    kind: str, url: str, hand_back: Callable[[list[Unregistered]], Any], **more: Any
) -> AsyncIterator[Either]:
    if kind == "async":
        async with AsyncHuizhi(url, TOKEN, patience_seconds=0) as awaiting:
            registrar = AsyncRegistrar(awaiting, hand_back=hand_back, **more)
            async with registrar:
                yield Either(registrar)
    else:
        with Huizhi(url, TOKEN, patience_seconds=0) as blocking:
            wrapped = Registrar(blocking, hand_back=hand_back, **more)
            try:
                yield Either(wrapped)
            finally:
                await asyncio.to_thread(wrapped.close)


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def count(pool: Any) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM messages"))


async def test_messages_go_out_in_batches_and_what_is_rejected_comes_back(
    kind: str, served: Api, pool: Any
) -> None:
    back: list[Unregistered] = []
    async with opened(kind, served.url, back.extend, batch_rows=50, batch_seconds=60) as registrar:
        for number in range(120):
            await registrar.put(sent(number, "nobody" if number == 7 else "think-main"))
        await registrar.put(sent(1))
        totals = await registrar.flush()
        assert totals == Totals(recorded=119, duplicates=1, handed_back=1, waiting=0)
        assert back == [Unregistered(sent(7, "nobody"), "unknown account")]
        assert served.requests <= 4
        assert await count(pool) == 119


async def test_a_message_waits_no_longer_than_it_is_told(kind: str, served: Api, pool: Any) -> None:
    async with opened(kind, served.url, [].extend, batch_seconds=0.05) as registrar:
        await registrar.put(sent(1))
        async with asyncio.timeout(20):
            while await count(pool) == 0:
                await asyncio.sleep(0.01)


async def test_while_huizhi_is_away_the_queue_fills_and_then_nothing_is_lost(
    kind: str, served: Api, pool: Any
) -> None:
    served.stop()
    back: list[Unregistered] = []
    more = {"capacity": 20, "batch_rows": 10, "batch_seconds": 0.0}
    async with opened(kind, served.url, back.extend, **more) as registrar:
        for number in range(20):
            assert await registrar.put_in_time(sent(number), 20)
        assert not await registrar.put_in_time(sent("too many"), 0.2)
        waiting = asyncio.create_task(registrar.put(sent("patient")))
        still = await registrar.flush(timeout_seconds=0.2)
        assert still == Totals(recorded=0, duplicates=0, handed_back=0, waiting=20)
        served.start()
        async with asyncio.timeout(60):
            await waiting
            totals = await registrar.flush()
        assert (totals.recorded, totals.waiting) == (21, 0)
        assert back == []
    assert await count(pool) == 21


async def test_what_is_left_at_the_end_is_handed_back(kind: str, served: Api, pool: Any) -> None:
    served.stop()
    back: list[Unregistered] = []
    async with opened(kind, served.url, back.extend, batch_rows=2) as registrar:
        for number in range(5):
            await registrar.put(sent(number))
        totals = await registrar.close(timeout_seconds=0.1)
        assert totals == Totals(recorded=0, duplicates=0, handed_back=5, waiting=0)
        assert await registrar.close() == totals
        with pytest.raises(Closed):
            await registrar.put(sent(6))
    assert [left.message for left in back] == [sent(number) for number in range(5)]
    assert all("register it again" in left.reason for left in back)
    served.start()


async def test_answer_that_was_lost_is_asked_for_again(kind: str, served: Api, pool: Any) -> None:
    served.faults += ["cut", 503, 429]
    async with opened(kind, served.url, [].extend, batch_seconds=0.0) as registrar:
        await registrar.put(sent(1))
        totals = await registrar.flush()
        assert totals == Totals(recorded=0, duplicates=1, handed_back=0, waiting=0)
    assert await count(pool) == 1


async def test_close_in_the_middle_of_a_call_hands_back_what_it_was_about(
    kind: str, served: Api, pool: Any
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        go_on.wait(30)

    served.faults.append(hold)
    back: list[Unregistered] = []
    async with opened(kind, served.url, back.extend, batch_seconds=0.0) as registrar:
        await registrar.put(sent(1))
        await asyncio.to_thread(reached.wait, 30)
        totals = await registrar.close(timeout_seconds=0.05)
        assert (totals.recorded, totals.handed_back, totals.waiting) == (0, 1, 0)
        go_on.set()
    # It was registered, and is handed back: registering it again changes nothing.
    assert await count(pool) == 1
    assert [left.message for left in back] == [sent(1)]
    assert "it may be all the same" in back[0].reason


async def test_close_that_is_cancelled_still_hands_back(served: Api) -> None:
    served.stop()
    back: list[Unregistered] = []
    async with AsyncHuizhi(served.url, TOKEN, patience_seconds=0) as client:
        registrar = AsyncRegistrar(client, hand_back=back.extend)
        async with registrar:
            await registrar.put(sent(1))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(registrar.close(timeout_seconds=60), 0.2)
            assert len(back) == 1
    assert [left.message for left in back] == [sent(1)]
    served.start()


async def test_wrong_token_hands_back_everything_with_the_reason(served: Api) -> None:
    back: list[Unregistered] = []
    with Huizhi(served.url, "another") as client, Registrar(client, hand_back=back.extend) as one:
        one.put(sent(1))
        assert one.flush().handed_back == 1
    assert back == [Unregistered(sent(1), "HTTP 401: no API token, or another")]


async def test_hand_back_may_be_a_coroutine_function(served: Api) -> None:
    back: list[Unregistered] = []

    async def keep(left: list[Unregistered]) -> None:
        await asyncio.sleep(0)
        back.extend(left)

    async with opened("async", served.url, keep) as registrar:
        await registrar.put(sent(1, "nobody"))
        await registrar.flush()
    assert len(back) == 1


async def test_hand_back_that_fails_loses_nothing(kind: str, served: Api) -> None:
    fails = True
    back: list[Unregistered] = []

    def hand_back(left: list[Unregistered]) -> None:
        if fails:
            raise OSError("disk full")
        back.extend(left)

    async with opened(kind, served.url, hand_back, batch_rows=1) as registrar:
        await registrar.put(sent(1, "nobody"))
        with pytest.raises(Closed) as stopped:
            await registrar.flush()
        assert isinstance(stopped.value.__cause__, OSError)
        with pytest.raises(Closed):
            await registrar.put(sent(2))
        with pytest.raises(NotTaken) as caught:
            await registrar.close()
        assert caught.value.left == [Unregistered(sent(1, "nobody"), "unknown account")]
        assert isinstance(caught.value.__cause__, OSError)
        fails = False
        assert (await registrar.close()).handed_back == 1
    assert back == caught.value.left


async def test_registrar_that_was_not_started_takes_nothing() -> None:
    async with AsyncHuizhi("http://huizhi", TOKEN) as client:
        with pytest.raises(Closed, match="async with"):
            await AsyncRegistrar(client, hand_back=[].extend).put(sent(1))


def test_many_threads_put_into_one_registrar(served: Api) -> None:
    with (
        Huizhi(served.url, TOKEN) as client,
        Registrar(client, hand_back=[].extend, capacity=100, batch_rows=40) as registrar,
    ):

        def put(thread: int) -> None:
            for number in range(100):
                registrar.put(sent(f"{thread}-{number}"))

        threads = [threading.Thread(target=put, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert registrar.flush().recorded == 400


def test_program_that_ends_without_closing_registers_what_waits(served: Api) -> None:
    code = f"""
from datetime import UTC, datetime
from huizhi.client import Huizhi, Registrar, Sent
registrar = Registrar(Huizhi({served.url!r}, {TOKEN!r}), hand_back=print, batch_seconds=60)
registrar.put(Sent(account="think-main", vendor_message_id="1", phone="13800138000",
                   sent_at=datetime(2026, 10, 5, tzinfo=UTC)))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    with Huizhi(served.url, TOKEN) as client:
        assert [message.vendor_message_id for message in client.messages()] == ["1"]


# --- the decisions, without any I/O ------------------------------------------------------------------


def test_batch_is_due_when_it_is_full_or_old_or_flushed_or_at_the_end() -> None:
    batches = Batches(10, 3, 5.0)
    assert batches.due_in(0) is None
    batches.add(sent(1), 100)
    assert batches.due_in(101) == 4
    assert batches.due_in(200) == 0
    batches.add(sent(2), 101)
    batches.add(sent(3), 101)
    assert batches.due_in(101) == 0
    assert len(batches.take()) == 3
    batches.settle(Registered(recorded=3, duplicates=0, rejected=[]), 101)
    batches.add(sent(4), 102)
    assert batches.flush() == 4
    assert batches.due_in(102) == 0
    batches.take()
    batches.settle(Unavailable("away", retry_after_seconds=7), 102)
    assert batches.due_in(103) == 6
    assert not batches.reached(4)
    batches.end()
    assert batches.due_in(103) == 0


def test_pauses_grow_while_huizhi_is_away_and_begin_anew_when_it_is_back() -> None:
    batches = Batches(10, 1, 0.0)
    batches.add(sent(1), 0)
    pauses = []
    for _ in range(9):
        batches.take()
        batches.settle(Unavailable("away"), 0)
        pauses.append(batches.due_in(0))
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    batches.take()
    batches.settle(Registered(recorded=1, duplicates=0, rejected=[]), 0)
    batches.add(sent(2), 0)
    batches.take()
    batches.settle(Unavailable("away"), 100)
    assert batches.due_in(100) == 0.5


@pytest.mark.parametrize("wrong", [(0, 0, 1.0), (1, 2, 1.0), (10, 10, -1.0), (20_000, 10_001, 1.0)])
def test_bounds_that_make_no_sense_are_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 < batch_rows"):
        Batches(*wrong)


STEPS = st.lists(
    st.one_of(
        st.just("put"),
        st.just("away"),
        st.just("refused"),
        st.just("bug"),
        st.sets(st.integers(0, 2)),  # answered; these rejected
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS)
def test_every_message_is_registered_or_handed_back_exactly_once(
    steps: Sequence[str | set[int]],
) -> None:
    batches = Batches(8, 3, 0.0)
    put, registered, back = 0, [], []
    for now, step in enumerate(steps):
        if step == "put":
            if batches.room:
                batches.add(sent(put), now)
                put += 1
            assert batches.totals.waiting <= 8
            continue
        if not (batch := batches.take()):
            continue
        assert len(batch) <= 3
        if isinstance(step, set):
            rejected = {index for index in step if index < len(batch)}
            registered += [row for index, row in enumerate(batch) if index not in rejected]
            answer: Registered | Exception = Registered(
                recorded=len(batch) - len(rejected),
                duplicates=0,
                rejected=[Rejected(index, "why") for index in sorted(rejected)],
            )
        else:
            answer = {
                "away": Unavailable("away"),
                "refused": Refused(422, "why"),
                "bug": KeyError("why"),
            }[step]
        back += [left.message for left in batches.settle(answer, now)]
        batches.taken_back()
        totals = batches.totals
        assert (totals.recorded, totals.handed_back) == (len(registered), len(back))
        assert batches.put == put
    back += [left.message for left in batches.abandon()]
    batches.taken_back()
    ids = sorted(int(message.vendor_message_id) for message in registered + back)
    assert ids == list(range(put))
    assert batches.totals.waiting == 0


def test_waiting_costs_no_processor_time(served: Api) -> None:
    with Huizhi(served.url, TOKEN) as client, Registrar(client, hand_back=[].extend):
        started = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - started < 0.4
