"""The ledger: each message once, a bad row by its index, the others all the same."""

import asyncio
import dataclasses
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateways.gateway import Callback
from reconciler import ledger
from reconciler.ledger import Registered, Rejected, Sent
from runtime import records, settlement, trust
from runtime.settings import parse

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 10, 20, tzinfo=UTC)
ACCOUNTS = parse(
    """
    [accounts.api]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    poll_after_seconds = 90
    [accounts.sms]
    gateway = "thinksms"
    credentials = { user_id = "7", account = "me", password = "hush" }
    poll_until_hours = 48
    """,
    Path("huizhi.toml"),
    {},
).accounts


def row(**more: Any) -> dict[str, Any]:
    return {
        "account": "api",
        "vendor_message_id": "1",
        "phone": "13800138000",
        "sent_at": "2026-10-05T09:30:00+08:00",
        **more,
    }


async def register(pool: Any, *rows: object, now: datetime = NOW) -> Registered:
    checked: list[Sent | Rejected] = []
    for index, one in enumerate(rows):
        try:
            checked.append(ledger.convert(one, ACCOUNTS, now))
        except ValueError as error:
            checked.append(Rejected(index, str(error)))
    return await ledger.register(pool, ACCOUNTS, checked, now=now)


async def test_registers_a_message_whole(pool: Any) -> None:
    done = await register(
        pool, row(content="您的验证码是7865", sign="顶想云", reference="order-1", template_id="t1")
    )
    assert done == Registered(recorded=1, duplicates=0, rejected=[])
    kept = dict(await pool.fetchrow("SELECT * FROM messages"))
    assert kept["sent_at"] == datetime(2026, 10, 5, 1, 30, tzinfo=UTC)
    assert kept["registered_at"] == NOW
    assert (kept["status"], kept["segments"], kept["segments_given"]) == ("submitted", 1, False)
    assert (kept["content"], kept["sign"]) == ("您的验证码是7865", "顶想云")
    assert (kept["reference"], kept["template_id"]) == ("order-1", "t1")


async def test_again_and_again_changes_nothing(pool: Any) -> None:
    rows = [row(vendor_message_id=str(number)) for number in range(20)]
    assert await register(pool, *rows) == Registered(recorded=20, duplicates=0, rejected=[])
    before = await pool.fetch("SELECT xmin::text, * FROM messages ORDER BY id")
    waiting = await pool.fetch("SELECT * FROM awaiting ORDER BY message_id")
    for _ in range(2):
        again = [{**one, "content": "other", "segments": 9} for one in rows]
        done = await register(pool, *again, *rows[:3], now=NOW + timedelta(hours=1))
        assert done == Registered(recorded=0, duplicates=23, rejected=[])
    assert await pool.fetch("SELECT xmin::text, * FROM messages ORDER BY id") == before
    assert await pool.fetch("SELECT * FROM awaiting ORDER BY message_id") == waiting


async def test_same_message_twice_in_one_call_is_registered_once_and_the_first_stands(
    pool: Any,
) -> None:
    done = await register(
        pool, row(segments=2), row(segments=3), row(phone="+86 138-0013-8000", segments=4)
    )
    assert done == Registered(recorded=1, duplicates=2, rejected=[])
    assert await pool.fetchval("SELECT segments FROM messages") == 2


@pytest.mark.parametrize(
    "spelling",
    [
        "13800138000",
        "+8613800138000",
        "8613800138000",
        "008613800138000",
        "+86 138 0013 8000",
        "138-0013-8000",
        "（86）13800138000",
        "１３８００１３８０００",
        " 13800138000\t",
    ],
)
async def test_every_spelling_of_a_number_is_one_number(pool: Any, spelling: str) -> None:
    await register(pool, row())
    done = await register(pool, row(phone=spelling))
    assert (done.recorded, done.duplicates) == (0, 1)
    assert await pool.fetchval("SELECT phone FROM messages") == "13800138000"


async def test_blanks_around_an_id_are_no_part_of_it(pool: Any) -> None:
    await register(pool, row(vendor_message_id="77"))
    done = await register(pool, row(vendor_message_id=" 77\n"))
    assert (done.recorded, done.duplicates) == (0, 1)


@pytest.mark.parametrize("sign", ["回执", "【回执】", " 【回执】 "])
async def test_sign_counts_with_its_brackets_given_or_not(pool: Any, sign: str) -> None:
    rows = [
        row(vendor_message_id=str(length), content="字" * length, sign=sign)
        for length in (66, 67, 130, 131)
    ]
    rows.append(row(vendor_message_id="in the text", content="【回执】" + "字" * 66, sign=sign))
    await register(pool, *rows)
    found = await pool.fetch("SELECT vendor_message_id, segments FROM messages")
    counted = {one["vendor_message_id"]: one["segments"] for one in found}
    assert counted == {"66": 1, "67": 2, "130": 2, "131": 3, "in the text": 1}


async def test_senders_own_count_stands_also_nought(pool: Any) -> None:
    await register(
        pool,
        row(vendor_message_id="a", segments=5, content="短"),
        row(vendor_message_id="b", segments=0),
        row(vendor_message_id="c"),
    )
    found = await pool.fetch(
        "SELECT segments, segments_given FROM messages ORDER BY vendor_message_id"
    )
    assert [tuple(one) for one in found] == [(5, True), (0, True), (1, False)]


async def test_segments_are_counted_by_the_accounts_rule_and_unit(pool: Any) -> None:
    text = """
    [accounts.usual]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    [accounts.points]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    segment_unit = "code_point"
    [accounts.abroad]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    segment_rule = "international"
    """
    accounts = parse(text, Path("huizhi.toml"), {}).accounts
    contents = ("x" * 160, "𠮷" * 70)
    rows: list[Sent | Rejected] = [
        ledger.convert(
            row(account=account, vendor_message_id=str(number), content=content), accounts, NOW
        )
        for account in accounts
        for number, content in enumerate(contents)
    ]
    await ledger.register(pool, accounts, rows, now=NOW)
    found = await pool.fetch(
        "SELECT account, array_agg(segments ORDER BY vendor_message_id) AS segments"
        " FROM messages GROUP BY account"
    )
    counted = {one["account"]: one["segments"] for one in found}
    # 140 units by 67 are three; no boundary of the international rule parts a pair: 33 to a segment.
    assert counted == {"usual": [3, 3], "points": [3, 1], "abroad": [1, 3]}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(account="nobody"), "unknown account"),
        (row(account=None), "account"),
        (row(vendor_message_id=""), "vendor_message_id is empty"),
        (row(vendor_message_id=" \t"), "vendor_message_id is empty"),
        (row(vendor_message_id="x" * 129), "vendor_message_id has more than 128"),
        (row(vendor_message_id=" ~f00d"), "vendor_message_id begins with ~, as only our own"),
        (row(vendor_message_id="a\0b"), "vendor_message_id has a NUL"),
        (row(vendor_message_id=["1"]), "vendor_message_id"),
        (row(phone=""), "phone has no digits"),
        (row(phone="none"), "phone has no digits"),
        (row(phone=1.38e10), "phone"),
        (row(phone=10**30), "phone"),
        (row(phone="1" * 33), "phone has more than 32"),
        (row(phone="138\ud8000013"), "phone has half of a surrogate pair"),
        (row(sent_at="2026-10-05T09:30:00"), "sent_at has no offset"),
        (row(sent_at="yesterday"), "sent_at"),
        (row(sent_at=1_790_000_000), "sent_at"),
        (row(sent_at=None), "sent_at"),
        (row(sent_at="2026-10-22T00:00:00Z"), "sent_at is in the future"),
        (row(sent_at="1026-10-22T00:00:00Z"), "sent_at is not a time"),
        (row(sent_at="0001-01-01T00:00:00+14:00"), "sent_at is not a time"),
        (row(sent_at="9999-12-31T23:59:59-14:00"), "sent_at is not a time"),
        (row(segments=-1), "segments"),
        (row(segments=1001), "segments"),
        (row(segments=1.5), "segments"),
        (row(segments="2"), "segments"),
        (row(segments=True), "segments"),
        (row(segments=2**70), "segments"),
        (row(content="a\0b"), "content has a NUL"),
        (row(content="\udfff"), "content has half of a surrogate pair"),
        (row(content="x" * 10_001), "content has more than"),
        (row(content=7), "content"),
        (row(sign="\0"), "sign has a NUL"),
        (row(sign="x" * 101), "sign has more than"),
        (row(reference="\ud800"), "reference has half of a surrogate pair"),
        (row(reference="x" * 201), "reference has more than"),
        (row(template_id="x" * 65), "template_id has more than"),
        (row(colour="red"), "colour"),
        ({}, "account"),
        ([], "object"),
        (None, "object"),
        (7, "object"),
        ("text", "object"),
    ],
)
async def test_bad_row_is_named_by_its_index_and_never_sinks_the_rest(
    pool: Any, bad: object, reason: str
) -> None:
    good = [row(vendor_message_id=f"good-{number}") for number in range(4)]
    done = await register(pool, *good[:2], bad, *good[2:], bad)
    assert (done.recorded, done.duplicates) == (4, 0)
    assert [one.index for one in done.rejected] == [2, 5]
    for one in done.rejected:
        assert reason in one.reason
        assert "138001380" not in one.reason
    assert await pool.fetchval("SELECT count(*) FROM messages") == 4


async def test_ten_thousand_rows_at_once(pool: Any) -> None:
    rows = [row(vendor_message_id=str(number), content="字" * 100) for number in range(10_000)]
    async with asyncio.timeout(20):
        assert (await register(pool, *rows)).recorded == 10_000
        assert (await register(pool, *rows)).duplicates == 10_000
    assert await pool.fetchval("SELECT count(*) FROM awaiting") == 10_000


async def test_same_calls_at_once_register_each_message_once_and_never_deadlock(pool: Any) -> None:
    rows = [row(vendor_message_id=str(number)) for number in range(300)]
    chance = random.Random(9)
    done = await asyncio.gather(
        *(register(pool, *chance.sample(rows, 200)) for _ in range(8)),
        *(register(pool, *rows) for _ in range(4)),
    )
    assert sum(one.recorded for one in done) == 300
    assert sum(one.duplicates for one in done) == 8 * 200 + 4 * 300 - 300
    assert await pool.fetchval("SELECT count(*) FROM messages") == 300
    assert await pool.fetchval("SELECT count(*) FROM awaiting") == 300


async def test_vendor_is_asked_when_it_can_be_and_else_the_clock_decides(pool: Any) -> None:
    await register(
        pool,
        row(sent_at="2026-10-19T23:59:50Z"),
        row(account="sms", sent_at="2026-10-19T23:59:50Z"),
        row(vendor_message_id="old"),
    )
    found = await pool.fetch(
        "SELECT a.account, m.vendor_message_id, a.next_poll_at FROM awaiting a"
        " JOIN messages m ON m.shard = a.shard AND m.id = a.message_id"
    )
    due = {(one["account"], one["vendor_message_id"]): one["next_poll_at"] for one in found}
    assert due == {
        ("api", "1"): NOW + timedelta(seconds=80),
        ("sms", "1"): NOW - timedelta(seconds=10) + timedelta(hours=48),
        ("api", "old"): NOW,
    }


async def test_nothing_is_awaited_of_a_vendor_that_reports_nothing(pool: Any) -> None:
    api = ACCOUNTS["api"]
    silent = msgspec.structs.replace(api, gateway=dataclasses.replace(api.gateway, reports=False))
    accounts = {**ACCOUNTS, "api": silent}
    rows: list[Sent | Rejected] = [
        ledger.convert(row(account=account), accounts, NOW) for account in accounts
    ]
    done = await ledger.register(pool, accounts, rows, now=NOW)
    assert done.recorded == 2
    assert [one["account"] for one in await pool.fetch("SELECT account FROM awaiting")] == ["sms"]
    assert await pool.fetchval("SELECT status FROM messages WHERE account = 'api'") == "submitted"


async def test_nothing_is_registered_of_nothing(pool: Any) -> None:
    assert await register(pool) == Registered(recorded=0, duplicates=0, rejected=[])
    assert (await register(pool, {})).recorded == 0


async def test_same_id_at_two_accounts_is_two_messages(pool: Any) -> None:
    assert (await register(pool, row(), row(account="sms"))).recorded == 2


async def test_a_long_call_is_registered_in_parts_and_the_first_of_two_rows_stands(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_PART_ROWS", 4)
    monkeypatch.setattr(ledger, "_STEP_ROWS", 3)
    rows = [row(vendor_message_id=str(number), reference=f"r{number}") for number in range(23)]
    again = [row(vendor_message_id=str(number), reference="again") for number in range(23)]
    bad = [row(vendor_message_id="x", phone="-")] * 9
    done = await register(pool, *rows, *bad, *again, *bad)
    assert (done.recorded, done.duplicates) == (23, 23)
    assert [one.index for one in done.rejected] == [*range(23, 32), *range(55, 64)]
    kept = await pool.fetch("SELECT vendor_message_id AS id, reference FROM messages")
    assert {one["id"]: one["reference"] for one in kept} == {
        str(number): f"r{number}" for number in range(23)
    }
    assert await pool.fetchval("SELECT count(*) FROM awaiting") == 23
    assert await pool.fetchval("SELECT sum(cardinality(message_ids)) FROM unlinked_messages") == 23


async def test_a_call_that_breaks_off_is_registered_whole_by_the_next(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_PART_ROWS", 2)
    monkeypatch.setattr(ledger, "_STEP_ROWS", 2)
    rows = [row(vendor_message_id=str(number)) for number in range(9)]
    store = ledger._store
    parts = 0

    async def away_at_the_third(*arguments: Any) -> Any:
        nonlocal parts
        parts += 1
        if parts == 3:
            raise ConnectionResetError
        return await store(*arguments)

    monkeypatch.setattr(ledger, "_store", away_at_the_third)
    with pytest.raises(ConnectionResetError):
        await register(pool, *rows)
    assert await pool.fetchval("SELECT count(*) FROM messages") < 9
    done = await register(pool, *rows)
    assert done.recorded + done.duplicates == 9
    assert await pool.fetchval("SELECT count(*) FROM messages") == 9
    assert await pool.fetchval("SELECT count(*) FROM awaiting") == 9


async def test_reports_that_came_first_are_no_strangers_to_the_other_parts_of_their_call(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_PART_ROWS", 2)
    monkeypatch.setattr(ledger, "_STEP_ROWS", 2)
    phones = [f"139{number:08}" for number in range(9)]
    boxes = "".join(
        f"<statusbox><mobile>{phone}</mobile><taskid>9</taskid><status>10</status></statusbox>"
        for phone in phones
    )
    push = Callback(
        method="POST", query=b"", headers={}, body=f"<returnsms>{boxes}</returnsms>".encode()
    )
    early = records.of_callback("sms", push, received_at=NOW, peer="1.2.3.4")
    await settlement.settle(pool, ACCOUNTS, [early], batches=(), now=NOW)
    assert await pool.fetchval("SELECT count(*) FROM reports WHERE orphan") == 9
    marked: list[Any] = []
    monkeypatch.setattr(trust, "_count", marked.extend)
    rows = [row(account="sms", vendor_message_id="9", phone=phone) for phone in phones]
    assert (await register(pool, *rows)).recorded == 9
    assert await pool.fetchval("SELECT count(*) FROM messages WHERE status = 'delivered'") == 9
    assert await pool.fetchval("SELECT count(*) FROM reports WHERE orphan OR left_out") == 0
    assert marked == []


SHAPES = [
    {"segments": 1.0},
    {"segments": True},
    {"segments": None},
    {"segments": 10**30},
    {"content": "\0"},
    {"content": "😀"},
    {"content": 5},
    {"other": 1},
    {"sent_at": "2026-10-05T09:30:00"},
    {"sent_at": 1_760_000_000},
    {"account": None},
    {"vendor_message_id": " 7 "},
    {"phone": "x"},
    {"reference": "r" * 201},
]


@pytest.mark.parametrize("more", SHAPES)
def test_a_row_is_the_same_decoded_alone_or_with_others(more: dict[str, Any]) -> None:
    def checked(one: object) -> object:
        try:
            return ledger.convert(one, ACCOUNTS, NOW)
        except ValueError as error:
            return str(error)

    rows = [row(), row(**more), row(vendor_message_id="3")]
    text = msgspec.json.encode(rows)
    found = [checked(one) for one in ledger.decode_array(text)]
    assert found == [checked(one) for one in rows]
    assert found == [checked(ledger.decode_row(msgspec.json.encode(one))) for one in rows]
