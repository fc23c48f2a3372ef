"""Polling on a real database, against vendors faked at the network."""

import asyncio
import itertools
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pretend import Answer, Vendor, local, refusal, serving, settings, state

from gateways.gateway import Call, Callback, Reply
from gateways.http import open_client
from reconciler import ledger, poll
from reconciler.poll import Caller, callers, expire_by_clock, poll_reviews, poll_statuses
from runtime import records, settlement
from runtime.queries import QUERIES
from runtime.settings import Settings, load

pytestmark = pytest.mark.anyio

PHONE = "13800138000"
NOW = datetime(2026, 11, 1, tzinfo=UTC)


@asynccontextmanager
async def _asking(
    pool: Any,
    folder: Path,
    answer: Callable[[str, dict[str, str]], Answer],
    *,
    account: str = "api",
    **keys: Any,
) -> AsyncIterator[tuple[Caller, Vendor, Settings]]:
    with serving(answer) as vendor:
        read = settings(folder, vendor.url, **keys)
        async with open_client() as http:
            yield callers(read, pool, http, recorder="test")[account], vendor, read


async def _register(
    pool: Any, read: Settings, *ids: str, ago: timedelta, account: str = "api"
) -> None:
    now = datetime.now(UTC)
    sent = [
        ledger.Sent(
            account=account, vendor_message_id=id, phone=PHONE, sent_at=now - ago, segments=1
        )
        for id in ids
    ]
    registered = await ledger.register(pool, read.accounts, sent, now=now)
    assert registered.recorded == len(ids)


async def _statuses(pool: Any) -> dict[str, str]:
    rows = await pool.fetch("SELECT vendor_message_id, status FROM messages")
    return {row["vendor_message_id"]: row["status"] for row in rows}


def _delivered(_: str, params: dict[str, str]) -> Answer:
    return state(params["id"], PHONE, 1, "2026-10-02 11:00:00")


def _pending(_: str, params: dict[str, str]) -> Answer:
    return state(params["id"], PHONE, 0)


async def test_an_answer_is_recorded_settled_and_ends_the_waiting(
    pool: Any, tmp_path: Path
) -> None:
    async with _asking(pool, tmp_path, _delivered) as (caller, vendor, read):
        await _register(pool, read, "1", "2", ago=timedelta(hours=1))
        done = await poll_statuses(caller)
        assert (done.asked, done.answered, done.final, done.failures) == (2, 2, 2, [])
        assert await _statuses(pool) == {"1": "delivered", "2": "delivered"}
        assert await pool.fetchval("SELECT count(*) FROM awaiting") == 0
        assert await pool.fetch("SELECT DISTINCT source, call FROM records") == [
            ("query", "query_status")
        ]
        assert (await poll_statuses(caller)).asked == 0
        assert {path for path, _ in vendor.requests} == {"/sms/query_status"}
        assert sorted(params["id"] for _, params in vendor.requests) == ["1", "2"]


async def test_a_message_is_left_alone_until_it_is_due(pool: Any, tmp_path: Path) -> None:
    async with _asking(pool, tmp_path, _delivered) as (caller, vendor, read):
        await _register(pool, read, "1", ago=timedelta(seconds=60))
        assert (await poll_statuses(caller)).asked == 0
        assert (await poll_statuses(caller, all_now=True)).asked == 0
        await _register(pool, read, "2", ago=timedelta(seconds=121))
        await pool.execute("UPDATE awaiting SET next_poll_at = now() + interval '1 hour'")
        assert (await poll_statuses(caller)).asked == 0
        assert (await poll_statuses(caller, all_now=True)).asked == 1
        assert vendor.requests == [("/sms/query_status", {"id": "2"})]


@pytest.mark.parametrize(
    ("polls", "wait_seconds"),
    [(0, 120), (1, 240), (2, 480), (5, 3840), (7, 15_360), (8, 21_600), (9, 21_600), (500, 21_600)],
)
async def test_waiting_doubles_with_every_question_up_to_six_hours(
    pool: Any, tmp_path: Path, polls: int, wait_seconds: float
) -> None:
    async with _asking(pool, tmp_path, _pending) as (caller, _, read):
        await _register(pool, read, "1", ago=timedelta(hours=1))
        await pool.execute("UPDATE awaiting SET polls = $1", polls)
        before = datetime.now(UTC)
        assert (await poll_statuses(caller)).answered == 1
        row = await pool.fetchrow("SELECT next_poll_at, polls FROM awaiting")
        assert row["polls"] == polls + 1
        wait = timedelta(seconds=wait_seconds)
        assert before + wait <= row["next_poll_at"] <= datetime.now(UTC) + wait


async def test_the_last_question_comes_when_waiting_ends_and_then_it_expires(
    pool: Any, tmp_path: Path
) -> None:
    async with _asking(pool, tmp_path, _pending) as (caller, _, read):
        await _register(pool, read, "1", ago=timedelta(hours=71))
        await pool.execute("UPDATE awaiting SET polls = 20")
        assert (await poll_statuses(caller)).expired == 0
        row = await pool.fetchrow("SELECT next_poll_at, sent_at FROM awaiting")
        assert row["next_poll_at"] == row["sent_at"] + timedelta(hours=72)
        earlier = row["sent_at"] - timedelta(hours=1)
        for table in ("messages", "awaiting"):
            await pool.execute(f"UPDATE {table} SET sent_at = $1", earlier)
        await pool.execute("UPDATE awaiting SET next_poll_at = now()")
        done = await poll_statuses(caller)
        assert (done.asked, done.expired) == (1, 1)
        assert await _statuses(pool) == {"1": "expired"}
        assert await pool.fetchval("SELECT count(*) FROM awaiting") == 0


async def test_registered_long_after_sending_it_is_asked_once_before_it_expires(
    pool: Any, tmp_path: Path
) -> None:
    async with _asking(pool, tmp_path, _delivered) as (caller, vendor, read):
        await _register(pool, read, "late", ago=timedelta(days=30))
        done = await poll_statuses(caller)
        assert (done.asked, done.expired) == (1, 0)
        assert await _statuses(pool) == {"late": "delivered"}
        assert len(vendor.requests) == 1


async def test_late_truth_reopens_an_expired_message(pool: Any, tmp_path: Path) -> None:
    async with _asking(pool, tmp_path, _pending) as (caller, _, read):
        await _register(pool, read, "1", ago=timedelta(days=4))
        await poll_statuses(caller)
        assert await _statuses(pool) == {"1": "expired"}
        reply = Reply(
            call=Call.QUERY_STATUS,
            headers={},
            body=state("1", PHONE, -1, "2026-10-09 01:00:00").body,
        )
        await caller.store(
            [records.of_reply("api", reply, subject="1", once=False, received_at=datetime.now(UTC))]
        )
        assert await _statuses(pool) == {"1": "failed"}


async def test_a_vendor_that_is_down_proves_nothing_until_patience_ends(
    pool: Any, tmp_path: Path
) -> None:
    async with _asking(pool, tmp_path, lambda *_: Answer(b"", 503, {"retry-after": "3600"})) as (
        caller,
        _,
        read,
    ):
        await _register(pool, read, "1", ago=timedelta(days=4))
        for expected in [0] * (poll.UNANSWERED_POLLS - 1) + [1]:
            await pool.execute("UPDATE awaiting SET next_poll_at = now()")
            done = await poll_statuses(caller)
            assert (done.asked, done.answered, done.expired) == (1, 0, expected)
            assert done.retry_after_seconds == 3600
            assert done.failures == [
                "query_status: 1 of 1 not answered: the vendor answered HTTP 503"
            ]
        assert await _statuses(pool) == {"1": "expired"}


async def test_a_vendor_that_asks_for_a_pause_gets_it(pool: Any, tmp_path: Path) -> None:
    async with _asking(pool, tmp_path, lambda *_: Answer(b"", 429, {"retry-after": "600"})) as (
        caller,
        vendor,
        read,
    ):
        await _register(pool, read, *map(str, range(300)), ago=timedelta(hours=1))
        done = await poll_statuses(caller)
        assert done.retry_after_seconds == 600
        assert done.failures
        assert len(vendor.requests) <= poll.CONCURRENT
        assert (
            await pool.fetchval("SELECT count(*) FROM messages WHERE status = 'submitted'") == 300
        )


async def test_one_message_that_is_put_off_briefly_does_not_stop_the_others(
    pool: Any, tmp_path: Path
) -> None:
    def answer(path: str, params: dict[str, str]) -> Answer:
        if params["id"] == "2":
            return Answer(b"", 429, {"retry-after": "0"})
        return _delivered(path, params)

    async with _asking(pool, tmp_path, answer) as (caller, _, read):
        await _register(pool, read, "1", "2", "3", ago=timedelta(hours=1))
        done = await poll_statuses(caller)
        assert (done.asked, done.answered, done.failures) == (3, 2, [])
        assert done.retry_after_seconds == 0


async def test_a_refusal_is_no_evidence_and_keeps_the_message(pool: Any, tmp_path: Path) -> None:
    async with _asking(pool, tmp_path, lambda *_: refusal(10, "appCode 错误")) as (
        caller,
        vendor,
        read,
    ):
        await _register(pool, read, "1", "2", ago=timedelta(days=4))
        done = await poll_statuses(caller)
        assert (done.asked, done.answered, done.expired) == (2, 0, 0)
        assert "refused by the vendor with 10" in done.failures[0]
        assert await pool.fetchval("SELECT count(*) FROM records") == 0
        assert await _statuses(pool) == {"1": "submitted", "2": "submitted"}
        assert (await poll_statuses(caller)).asked == 0  # each waits, so wrong keys never loop fast
        assert len(vendor.requests) == 2


async def test_one_refused_message_does_not_stop_the_others(pool: Any, tmp_path: Path) -> None:
    def answer(path: str, params: dict[str, str]) -> Answer:
        return refusal(5, "不存在") if params["id"] == "2" else _delivered(path, params)

    async with _asking(pool, tmp_path, answer) as (caller, _, read):
        await _register(pool, read, "1", "2", "3", ago=timedelta(hours=1))
        done = await poll_statuses(caller)
        assert (done.asked, done.answered, done.failures) == (3, 2, [])


@pytest.mark.parametrize("status", [200, 404])
async def test_a_garbled_reply_is_kept_in_quarantine(
    pool: Any, tmp_path: Path, status: int
) -> None:
    async with _asking(pool, tmp_path, lambda *_: Answer(b"<html>oops", status)) as (
        caller,
        _,
        read,
    ):
        await _register(pool, read, "1", ago=timedelta(days=4))
        done = await poll_statuses(caller)
        assert (done.answered, done.expired) == (0, 0)
        assert await pool.fetchval("SELECT body FROM records") == b"<html>oops"
        assert await pool.fetchval("SELECT count(*) FROM quarantine") == 1
        assert await _statuses(pool) == {"1": "submitted"}


async def test_two_reconcilers_at_once_never_ask_about_a_message_twice(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll, "CHUNK", 10)  # so that both take many
    ids = [str(number) for number in range(400)]
    both = threading.Barrier(2)
    first = itertools.count()

    def answer(path: str, params: dict[str, str]) -> Answer:
        if next(first) < 2:
            both.wait(timeout=20)  # both are asking, before either goes on
        return _delivered(path, params)

    async with _asking(pool, tmp_path, answer, requests_per_second=10_000) as (one, vendor, read):
        await _register(pool, read, *ids, ago=timedelta(hours=1))
        async with open_client() as http:
            other = callers(read, pool, http, recorder="other")["api"]
            done = await asyncio.gather(poll_statuses(one), poll_statuses(other))
        assert [each.asked > 0 for each in done] == [True, True]
        assert sum(each.asked for each in done) == 400
        assert Counter(params["id"] for _, params in vendor.requests) == Counter(ids)


async def test_what_a_dead_reconciler_claimed_comes_back(pool: Any, tmp_path: Path) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    hang = threading.Event()

    def answer(path: str, params: dict[str, str]) -> Answer:
        loop.call_soon_threadsafe(asked.set)
        hang.wait(20)
        return _delivered(path, params)

    async with _asking(pool, tmp_path, answer) as (caller, _, read):
        await _register(pool, read, "1", ago=timedelta(hours=1))
        dying = asyncio.create_task(poll_statuses(caller))
        await asked.wait()
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        hang.set()
        wait = await pool.fetchval("SELECT next_poll_at - now() FROM awaiting")
        assert timedelta(0) < wait <= timedelta(seconds=poll.CLAIM_SECONDS)
        await pool.execute("UPDATE awaiting SET next_poll_at = now()")
        assert (await poll_statuses(caller)).final == 1


async def test_a_vendor_that_never_answers_is_left_after_a_while(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()

    def answer(path: str, params: dict[str, str]) -> Answer:
        hang.wait(20)
        return _delivered(path, params)

    monkeypatch.setattr(poll, "ASK_SECONDS", 0.2)
    async with _asking(pool, tmp_path, answer) as (caller, _, read):
        await _register(pool, read, "1", ago=timedelta(days=4))
        await pool.execute("UPDATE awaiting SET polls = $1", poll.UNANSWERED_POLLS)
        done = await poll_statuses(caller)
        hang.set()
        assert (done.asked, done.answered, done.expired) == (1, 0, 1)
        assert "no reply within" in done.failures[0]


async def test_reviews_are_asked_until_decided_backing_off(pool: Any, tmp_path: Path) -> None:
    verdict = 0

    def answer(path: str, params: dict[str, str]) -> Answer:
        body = (
            f'{{"code":0,"message":"","data":{{"id":{params["id"]},"status":{verdict},"name":"签名",'
            f'"update_time":"{local(datetime.now(UTC))}"}}}}'
        )
        return Answer(body.encode())

    async with _asking(pool, tmp_path, answer) as (caller, vendor, _):
        for kind in ("sign", "template"):
            await pool.execute(
                "INSERT INTO reviews (account, kind, vendor_id, status, next_poll_at)"
                " VALUES ('api', $1, '9', 'pending', now())",
                kind,
            )
        assert (await poll_reviews(caller)).answered == 2
        assert {path for path, _ in vendor.requests} == {"/sms/query_sign", "/sms/query_template"}
        for expected in (60, 120, 240, 480, 960, 1920, 3600, 3600):
            wait = await pool.fetchval("SELECT min(next_poll_at - now()) FROM reviews")
            assert timedelta(seconds=expected - 30) < wait <= timedelta(seconds=expected)
            assert (await poll_reviews(caller)).asked == 0
            await pool.execute("UPDATE reviews SET next_poll_at = now()")
            assert (await poll_reviews(caller)).asked == 2
        verdict = 1
        assert (await poll_reviews(caller, all_now=True)).answered == 2
        rows = await pool.fetch("SELECT status, next_poll_at FROM reviews")
        assert [tuple(row) for row in rows] == [("approved", None)] * 2
        assert (await poll_reviews(caller, all_now=True)).asked == 0


async def test_without_a_status_query_the_clock_alone_expires(pool: Any, tmp_path: Path) -> None:
    async with _asking(pool, tmp_path, _delivered, account="sms") as (caller, _, read):
        await _register(pool, read, "old", ago=timedelta(hours=73), account="sms")
        await _register(pool, read, "new", ago=timedelta(hours=71), account="sms")
        before = datetime.now(UTC) - timedelta(minutes=1)
        assert await expire_by_clock(caller, before) == 0  # registered after that pull pass began
        assert await expire_by_clock(caller, datetime.now(UTC)) == 1
        assert await _statuses(pool) == {"old": "expired", "new": "submitted"}
        assert await pool.fetchval("SELECT count(*) FROM awaiting") == 1


async def test_expiring_and_a_final_report_at_one_moment_end_in_the_report(
    pool: Any, tmp_path: Path
) -> None:
    async with _asking(pool, tmp_path, _delivered) as (caller, _, read):
        ids = [str(number) for number in range(40)]
        await _register(pool, read, *ids, ago=timedelta(days=4))
        replies = [
            Reply(call=Call.QUERY_STATUS, headers={}, body=_delivered("", {"id": id}).body)
            for id in ids
        ]
        found = [
            records.of_reply("api", reply, subject=id, once=False, received_at=datetime.now(UTC))
            for id, reply in zip(ids, replies, strict=True)
        ]
        await asyncio.gather(
            caller.store(found),
            *(expire_by_clock(caller, datetime.now(UTC)) for _ in range(3)),
            poll_statuses(caller, all_now=True),
        )
        assert set((await _statuses(pool)).values()) == {"delivered"}


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        ("claim_awaiting", ("api", NOW, NOW, 500)),
        ("expirable", ("api", NOW, NOW, 1000)),
    ],
)
async def test_finding_what_is_due_reads_no_whole_table(
    connection: Any, query: str, arguments: tuple[Any, ...]
) -> None:
    await connection.execute(
        """
        INSERT INTO awaiting (shard, message_id, account, sent_at, next_poll_at)
        SELECT n, gen_random_uuid(), 'api', now(), now() + make_interval(secs => n)
        FROM generate_series(1, 20000) AS n
        """
    )
    await connection.execute(
        """
        INSERT INTO messages (
            shard, id, account, vendor_message_id, phone, sent_at, registered_at, segments,
            segments_given, status
        )
        SELECT shard, message_id, account, shard, '1', sent_at, sent_at, 1, TRUE, 'submitted'
        FROM awaiting
        """
    )
    await connection.execute("ANALYZE awaiting")
    await connection.execute("ANALYZE messages")
    plan = await connection.fetch(f"EXPLAIN {QUERIES[query]}", *arguments)
    text = "\n".join(row[0] for row in plan)
    assert "awaiting_due_idx" in text
    assert "Seq Scan" not in text


@asynccontextmanager
async def _asking_about_many(
    pool: Any, folder: Path, answer: Callable[[str, dict[str, str]], Answer], **keys: Any
) -> AsyncIterator[tuple[Caller, Vendor, Settings]]:
    """As `_asking`, at a vendor that is asked about 200 messages in one call."""
    with serving(answer) as vendor:
        lines = [
            "[accounts.many]",
            'gateway = "itniotech"',
            'credentials = { api_key = "key", api_secret = "hush", app_id = "app" }',
            f'base_url = "{vendor.url}"',
            *(f"{key} = {value}" for key, value in {"requests_per_second": 1000, **keys}.items()),
        ]
        (folder / "huizhi.toml").write_text('data_dir = "data"\n' + "\n".join(lines), "utf-8")
        read = load(folder / "huizhi.toml", env={})
        async with open_client() as http:
            yield callers(read, pool, http, recorder="test")["many"], vendor, read


def _told(ids: Iterable[str], status: str = "0") -> Answer:
    rows = [
        {
            "msgId": id,
            "number": PHONE,
            "receiveTime": "2026-10-02T11:00:00+08:00",
            "status": status,
        }
        for id in ids
    ]
    return Answer(json.dumps({"status": "0", "reason": "success", "array": rows}).encode())


async def test_many_messages_are_asked_about_in_one_call(pool: Any, tmp_path: Path) -> None:
    def answer(_: str, params: dict[str, str]) -> Answer:
        return _told(params["msgIds"].split(","))

    ids = [str(n) for n in range(450)]
    async with _asking_about_many(pool, tmp_path, answer) as (caller, vendor, read):
        await _register(pool, read, *ids, ago=timedelta(hours=1), account="many")
        done = await poll_statuses(caller)
        assert (done.asked, done.answered, done.final, done.failures) == (450, 450, 450, [])
        assert {path for path, _ in vendor.requests} == {"/sms/getReport"}
        asked = [params["msgIds"].split(",") for _, params in vendor.requests]
        assert sorted(len(group) for group in asked) == [50, 200, 200]
        assert sorted(id for group in asked for id in group) == sorted(ids)
        assert set((await _statuses(pool)).values()) == {"delivered"}
        assert await pool.fetchval("SELECT count(*) FROM awaiting") == 0
        # A subject is kept in a column and in every digest: it names a group without listing it.
        subjects = [row["subject"] for row in await pool.fetch("SELECT subject FROM records")]
        assert len(set(subjects)) == 3
        assert all(len(subject) < 64 for subject in subjects)


async def test_what_a_reply_leaves_out_is_unanswered_and_asked_again(
    pool: Any, tmp_path: Path
) -> None:
    async with _asking_about_many(pool, tmp_path, lambda *_: _told(["1"])) as (
        caller,
        vendor,
        read,
    ):
        await _register(pool, read, "1", "2", "3", ago=timedelta(hours=1), account="many")
        done = await poll_statuses(caller)
        assert (done.asked, done.answered, done.final, done.failures) == (3, 1, 1, [])
        assert await _statuses(pool) == {"1": "delivered", "2": "submitted", "3": "submitted"}
        waiting = await pool.fetch("SELECT next_poll_at > now() AS later, polls FROM awaiting")
        assert [(row["later"], row["polls"]) for row in waiting] == [(True, 1), (True, 1)]
        assert (await poll_statuses(caller, all_now=True)).asked == 2
        assert sorted(vendor.requests[1][1]["msgIds"].split(",")) == ["2", "3"]


async def test_only_what_was_answered_expires_at_its_time(pool: Any, tmp_path: Path) -> None:
    def answer(_: str, __: dict[str, str]) -> Answer:
        return _told(["1"], status="-1")

    async with _asking_about_many(pool, tmp_path, answer) as (caller, _, read):
        await _register(pool, read, "1", "2", "3", ago=timedelta(hours=73), account="many")
        await pool.execute(
            "UPDATE awaiting SET polls = $1 WHERE message_id = "
            "(SELECT id FROM messages WHERE vendor_message_id = '3')",
            poll.UNANSWERED_POLLS,
        )
        done = await poll_statuses(caller)
        assert (done.asked, done.answered, done.expired) == (3, 1, 2)
        # 1 was answered, 3 never will be; 2 is still given its chances.
        assert await _statuses(pool) == {"1": "expired", "2": "submitted", "3": "expired"}


async def test_a_group_that_is_refused_is_unanswered_whole(pool: Any, tmp_path: Path) -> None:
    def answer(_: str, __: dict[str, str]) -> Answer:
        return Answer(b'{"status":"-16","reason":"Timestamp expires"}')

    async with _asking_about_many(pool, tmp_path, answer) as (caller, _, read):
        await _register(pool, read, "1", "2", ago=timedelta(hours=1), account="many")
        done = await poll_statuses(caller)
        assert (done.asked, done.answered) == (2, 0)
        assert done.failures == [
            "query_status: 1 of 1 not answered: refused by the vendor with -16: Timestamp expires"
        ]
        assert [row["polls"] for row in await pool.fetch("SELECT polls FROM awaiting")] == [1, 1]


async def test_a_suspect_report_has_its_message_asked_about_at_once_and_only_once(
    pool: Any, tmp_path: Path
) -> None:
    async with _asking(pool, tmp_path, _pending) as (caller, vendor, read):
        # One that waits, one that is expired, and one of which the report names another number.
        await _register(pool, read, "1", "2", "3", ago=timedelta(minutes=1))
        await pool.execute(
            "DELETE FROM awaiting WHERE message_id IN (SELECT id FROM messages WHERE vendor_message_id = '2')"
        )
        await pool.execute("UPDATE messages SET status = 'expired' WHERE vendor_message_id = '2'")
        found = [
            _pushed(id, phone) for id, phone in (("1", PHONE), ("2", PHONE), ("3", "13800138001"))
        ]
        await settlement.settle(pool, read.accounts, found, batches=(), now=datetime.now(UTC))
        assert (await poll_statuses(caller)).asked == 3
        assert sorted(params["id"] for _, params in vendor.requests) == ["1", "2", "3"]
        assert (await poll_statuses(caller)).asked == 0
        assert await _statuses(pool) == {"1": "submitted", "2": "expired", "3": "submitted"}


def _pushed(id: str, phone: str) -> records.Record:
    report = {"id": id, "phone": phone, "status": 1, "receiveDate": "2030-01-01 00:00:00"}
    body = json.dumps({"action": "report", "sms": report}).encode()
    callback = Callback(method="POST", query=b"", headers={}, body=body)
    return records.of_callback("api", callback, received_at=datetime.now(UTC), peer="192.0.2.1")
