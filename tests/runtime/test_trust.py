"""What a report falls short of is a function of the set, whatever the order in which all came."""

import asyncio
import itertools
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateways.gateway import Call, Callback, Reply
from reconciler import ledger
from runtime import records, settlement, trust
from runtime.database import Database
from runtime.identity import shard_of
from runtime.queries import QUERIES
from runtime.records import Record
from runtime.settings import parse

pytestmark = pytest.mark.anyio

SENT = datetime(2026, 10, 5, 1, tzinfo=UTC)
CAME = SENT + timedelta(hours=5)
PHONES = ("13800138000", "13800138001")
ACCOUNTS = parse(
    """
    [accounts.think]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    clock_slack_seconds = 3600
    [accounts.strict]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    clock_slack_seconds = 3600
    confirm_pushes = true
    [accounts.sms]
    gateway = "thinksms"
    credentials = { user_id = "7", account = "me", password = "hush" }
    """,
    Path("huizhi.toml"),
    {},
).accounts
fresh = itertools.count(1)
MEANING = {"1": "delivered", "-1": "failed", "0": "pending"}


@dataclass(frozen=True)
class Word:
    """One report: pushed, from known addresses or others, or the answer to a question."""

    asked: bool
    foreign: bool
    phone: str
    status: str
    hours: int | None  # after sending, by the vendor's clock
    came: int  # hours after sending, by ours

    def record(self, account: str, id: str) -> Record:
        at = None if self.hours is None else SENT + timedelta(hours=self.hours)
        shown = (
            None if at is None else f"{at.astimezone(ZoneInfo('Asia/Shanghai')):%Y-%m-%d %H:%M:%S}"
        )
        told = {"id": id, "phone": self.phone, "status": self.status, "receiveDate": shown}
        received = SENT + timedelta(hours=self.came)
        if self.asked:
            body = json.dumps({"code": 0, "data": told, "n": self.came}).encode()
            reply = Reply(call=Call.QUERY_STATUS, headers={}, body=body)
            return records.of_reply(account, reply, subject=id, once=False, received_at=received)
        body = json.dumps({"action": "report", "sms": told, "n": self.came}).encode()
        callback = Callback(method="POST", query=b"", headers={}, body=body)
        return records.of_callback(
            account, callback, received_at=received, peer="192.0.2.1", foreign=self.foreign
        )

    @property
    def final(self) -> bool:
        return MEANING.get(self.status) in ("delivered", "failed")

    def reasons(self, strict: bool) -> list[str]:
        """Interface and docs/trust.md, read once more and without looking at SQL."""
        if self.asked:
            return []
        found = ["foreign_network"] if self.foreign else []
        found += ["unconfirmed"] if strict else []
        if self.hours is not None and self.hours > self.came + 1:
            found.append("in_future")
        if self.phone != PHONES[0]:
            found.append("number_differs")
        elif (self.came if self.hours is None else self.hours) < -1:
            found.append("before_sending")
        return found


def naive(words: Sequence[Word], strict: bool) -> dict[str, Any]:
    counts = [
        word
        for word in words
        if word.final and not word.reasons(strict) and word.phone == PHONES[0]
    ]
    if not counts:
        return {"status": "submitted", "code": None, "contradicted": False, "awaited": True}
    timed = [word for word in counts if word.hours is not None]
    first = min((word.hours for word in timed if word.hours is not None), default=None)
    said = {word.status for word in counts if word.hours == first}
    code = "1" if "1" in said else "-1"
    return {
        "status": MEANING[code],
        "code": code,
        "contradicted": len({word.status for word in counts}) > 1,
        "awaited": False,
    }


words = st.builds(
    Word,
    asked=st.sampled_from([False, False, True]),
    foreign=st.sampled_from([False, False, True]),
    phone=st.sampled_from([PHONES[0]] * 3 + [PHONES[1]]),
    status=st.sampled_from(["1", "1", "-1", "-1", "0"]),
    hours=st.sampled_from([None, 0, 1, 2, -3, 9]),
    came=st.sampled_from([3, 4, -5]),
)


async def register(pool: Any, account: str, id: str, phone: str = PHONES[0]) -> None:
    rows: list[ledger.Sent | ledger.Rejected] = [
        ledger.Sent(account=account, vendor_message_id=id, phone=phone, sent_at=SENT)
    ]
    await ledger.register(pool, ACCOUNTS, rows, now=CAME)


async def settle(pool: Any, found: Sequence[Record]) -> None:
    only = {record.digest: record for record in found}
    await settlement.settle(pool, ACCOUNTS, list(only.values()), batches=(), now=CAME)


async def seen(pool: Any, account: str, id: str) -> tuple[dict[str, Any] | None, list[Any]]:
    row = await pool.fetchrow(
        "SELECT status, vendor_code AS code, contradicted, EXISTS (SELECT FROM awaiting a WHERE"
        " a.shard = m.shard AND a.message_id = m.id) AS awaited FROM messages m"
        " WHERE shard = $1 AND account = $2",
        shard_of(account, id),
        account,
    )
    suspects = await pool.fetch(
        "SELECT r.phone, r.status, r.reported_at, r.left_out, r.orphan, s.reasons, s.state"
        " FROM reports r LEFT JOIN suspects s USING (shard, message_id, fingerprint)"
        " WHERE r.shard = $1 AND r.account = $2"
        " ORDER BY r.phone, r.source, r.status, r.reported_at, r.fingerprint, s.reasons",
        shard_of(account, id),
        account,
    )
    # Of reports without a time the fingerprint differs, for it holds the id.
    shown = sorted((tuple(row) for row in suspects), key=repr)
    return (None if row is None else dict(row)), shown


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    given_words=st.lists(words, max_size=7, unique=True),
    strict=st.booleans(),
    seed=st.integers(0, 2**32),
)
async def test_trust_is_a_function_of_the_set_under_every_order_batching_and_concurrency(
    pool: Any, given_words: list[Word], strict: bool, seed: int
) -> None:
    chance = random.Random(seed)
    account, number = ("strict" if strict else "think"), next(fresh)
    ids = [f"w{number}.{way}" for way in range(4)]
    for way, id in enumerate(ids):
        arriving = [*given_words, *given_words[: chance.randint(0, 3)]]
        chance.shuffle(arriving)
        steps: list[Callable[[], Awaitable[Any]]] = []
        while arriving:
            taken, arriving = arriving[: (n := chance.randint(1, 3))], arriving[n:]
            found = [word.record(account, id) for word in taken]
            steps.append(lambda found=found: settle(pool, found))  # type: ignore[misc]
        # Registered first, in between, or last of all; also twice.
        steps.insert(chance.randint(0, len(steps)), lambda id=id: register(pool, account, id))  # type: ignore[misc]
        if chance.random() < 0.3:
            steps.append(lambda id=id: register(pool, account, id))  # type: ignore[misc]
        if way % 2:
            await asyncio.gather(*(step() for step in steps))
        else:
            for step in steps:
                await step()
    states = [await seen(pool, account, id) for id in ids]
    assert states[0][0] == naive(given_words, strict)
    for other in states[1:]:
        assert other == states[0]
    counted = {repr(sorted(word.reasons(strict))) for word in given_words if not word.asked}
    for _, _, _, left_out, _, reasons, _ in states[0][1]:
        if reasons == ["contradicted_by_query"]:
            assert not left_out  # it is told, and counts as any report does
        elif reasons is not None:
            assert left_out
            assert repr(sorted(set(reasons) - {"contradicted_by_query"})) in counted
        else:
            assert not left_out


async def waits_for_a_lock(connection: Any, task: "asyncio.Task[Any]") -> None:
    """Wait until somebody waits for a lock, or `task` is done."""
    while not task.done() and not await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock')"
    ):
        await asyncio.sleep(0.005)


async def suspects_of(pool: Any) -> list[tuple[list[str], str]]:
    rows = await pool.fetch("SELECT reasons, state FROM suspects ORDER BY fingerprint")
    return [(row["reasons"], row["state"]) for row in rows]


async def register_and_die(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register message "a", as a process does that ends before it looks for what came before."""

    async def killed(*_: Any) -> int:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(settlement, "join_orphans", killed)
        with pytest.raises(asyncio.CancelledError):
            await register(pool, "think", "a")


async def test_who_looks_for_strangers_with_an_old_view_hides_none_from_who_knows_more(
    database: Database,
) -> None:
    # One looks, sees no message, and keeps the report locked until its commit. Meanwhile the message
    # is registered: nobody else will look after that.
    async with database.pool(size=6) as pool, pool.acquire() as old, pool.acquire() as watching:
        await settle(pool, [Word(False, True, PHONES[1], "1", 1, 3).record("think", "a")])
        looking = old.transaction()
        await looking.start()
        await trust.settle_strangers(old, [shard_of("think", "a")])
        registering = asyncio.create_task(register(pool, "think", "a"))
        await waits_for_a_lock(watching, registering)
        await looking.commit()
        await registering
        assert await suspects_of(pool) == [(["foreign_network", "number_differs"], "waiting")]


async def test_who_looks_for_strangers_with_an_old_view_leaves_no_suspect_that_is_none(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The report's own message is registered while somebody still takes it for a stranger.
    async with database.pool(size=6) as pool, pool.acquire() as old, pool.acquire() as watching:
        report = Word(False, False, PHONES[1], "1", 1, 3).record("think", "a")
        await settle(pool, [report])
        looking = old.transaction()
        await looking.start()
        # Registered, and who registered it died before looking.
        await register_and_die(pool, monkeypatch)
        await trust.settle_strangers(old, [shard_of("think", "a")])
        registering = asyncio.create_task(register(pool, "think", "a", PHONES[1]))
        await waits_for_a_lock(watching, registering)
        await looking.commit()
        await registering
        assert await suspects_of(pool) == []
        assert await pool.fetchval("SELECT left_out OR orphan FROM reports") is False


async def test_stranger_is_told_though_the_registration_died_before_it_looked(
    pool: Any, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for foreign in (False, True):
        word = Word(False, foreign, PHONES[1], "1", 1, 3)
        await settle(pool, [word.record("think", "a")])
    await register_and_die(pool, monkeypatch)
    assert await suspects_of(pool) == [(["foreign_network"], "waiting")]
    for _ in range(2):
        await settlement.join_left_orphans(connection)
        assert sorted(await suspects_of(pool)) == [
            (["foreign_network", "number_differs"], "waiting"),
            (["number_differs"], "waiting"),
        ]
    shards = await connection.fetch(QUERIES["shards_with_unsaid_strangers"], 10)
    assert shards == []


async def test_an_accepted_report_counts_and_is_never_taken_back(pool: Any) -> None:
    from reconciler.suspects import decide, id_of

    await register(pool, "think", "a")
    await settle(pool, [Word(False, True, PHONES[0], "1", 1, 3).record("think", "a")])
    row = await pool.fetchrow("SELECT message_id, fingerprint, state FROM suspects")
    assert row["state"] == "waiting"
    id = id_of(row["message_id"], row["fingerprint"])

    async def say(verdict: Any) -> tuple[int, int]:
        done = await decide(
            pool, verdict, ids=[id], by="li", note="asked them", now=datetime.now(UTC)
        )
        return done.changed, done.unchanged

    assert await say("rejected") == (1, 0)
    state, _ = await seen(pool, "think", "a")
    assert state is not None
    assert state["status"] == "submitted"
    assert await say("accepted") == (1, 0)
    state, _ = await seen(pool, "think", "a")
    assert state == {"status": "delivered", "code": "1", "contradicted": False, "awaited": False}
    assert await say("rejected") == (0, 1)
    assert await pool.fetchval("SELECT state FROM suspects") == "accepted"
    decided = await pool.fetch(
        "SELECT verdict, decided_by, note FROM suspect_decisions ORDER BY decided_at"
    )
    assert [tuple(row) for row in decided] == [
        ("rejected", "li", "asked them"),
        ("accepted", "li", "asked them"),
    ]


async def test_the_vendors_own_push_counts_though_a_stranger_pushed_the_same_bytes_first(
    pool: Any,
) -> None:
    word = Word(False, False, PHONES[0], "1", 1, 3)
    guess = Word(False, True, PHONES[0], "1", 1, 3)
    await register(pool, "think", "a")
    await settle(pool, [guess.record("think", "a")])
    await settle(pool, [word.record("think", "a")])
    state, reports = await seen(pool, "think", "a")
    assert state is not None
    assert state["status"] == "delivered"
    assert sorted(report[-1] or "counts" for report in reports) == ["confirmed", "counts"]


async def test_what_a_pull_hands_out_takes_back_no_earlier_push_and_denies_what_waits(
    pool: Any,
) -> None:
    def row(status: int, at: datetime) -> str:
        local = at.astimezone(ZoneInfo("Asia/Shanghai"))
        return (
            f"<returnsms><statusbox><mobile>{PHONES[0]}</mobile><taskid>7</taskid>"
            f"<status>{status}</status><receivetime>{local:%Y-%m-%d %H:%M:%S}</receivetime>"
            "</statusbox></returnsms>"
        )

    def pushed(status: int, at: datetime) -> Record:
        body = row(status, at).encode()
        callback = Callback(method="POST", query=b"", headers={}, body=body)
        return records.of_callback("sms", callback, received_at=CAME, peer="192.0.2.1")

    sent: list[ledger.Sent | ledger.Rejected] = [
        ledger.Sent(account="sms", vendor_message_id="7", phone=PHONES[0], sent_at=SENT)
    ]
    await ledger.register(pool, ACCOUNTS, sent, now=CAME)
    minute = timedelta(minutes=1)
    await settle(pool, [pushed(20, SENT + minute), pushed(20, SENT - timedelta(days=1))])
    reply = Reply(call=Call.PULL_REPORTS, headers={}, body=row(10, SENT + 2 * minute).encode())
    await settle(
        pool, [records.of_reply("sms", reply, subject="pull", once=True, received_at=CAME)]
    )
    state, _ = await seen(pool, "sms", "7")
    assert state == {"status": "failed", "code": "20", "contradicted": True, "awaited": False}
    suspects = await pool.fetch("SELECT reasons, state FROM suspects")
    assert [tuple(each) for each in suspects] == [
        (["before_sending", "contradicted_by_query"], "contradicted")
    ]
