"""What is new in a vendor's documents is noticed, and nothing of what they say is kept."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pretend
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways import GATEWAYS, vocabulary
from gateways.gateway import Call, Callback, Reply
from reconciler import drift, shapes
from reconciler import lease as leases
from reconciler.reading import fields, watched
from runtime import LeaseLost, records

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)
PHONE = "13800138000"


@pytest.mark.parametrize(
    ("body", "content_type", "found"),
    [
        (
            b'{"action": "report", "sms": {"id": 7, "list": [{"a": null}, {"a": true}]}}',
            "application/json",
            {
                ("action", "text"),
                ("sms", "object"),
                ("sms.id", "number"),
                ("sms.list", "list"),
                ("sms.list[]", "object"),
                ("sms.list[].a", "null"),
                ("sms.list[].a", "boolean"),
            },
        ),
        (
            "<returnsms><statusbox><taskid>1</taskid></statusbox><stat".encode("gb18030"),
            "text/xml",
            {
                ("returnsms", "element"),
                ("returnsms.statusbox", "element"),
                ("returnsms.statusbox.taskid", "element"),
            },
        ),
        (
            b"mobile=13800138000&status=10&xml=%3Ca%3E%3C%2Fa%3E",
            "application/x-www-form-urlencoded",
            {("mobile", "text"), ("status", "text"), ("xml", "text"), ("xml.a", "element")},
        ),
        (b"{'id': 1, // theirs\n}", "", {("id", "number")}),
        (b'{"13800138000": "x", "a5555555": 1}', "", {("#", "text"), ("a#", "number")}),
        ('{"\\u0000": 1, "您的验证码": 2, "a b": 3}'.encode(), "", {("?", "number")}),
        (b"", "", set()),
        (b"\xff\xfe\x00nothing", "", set()),
        (b"[" * 100_000, "", set()),
    ],
)
def test_shape_is_fields_and_types(
    body: bytes, content_type: str, found: set[tuple[str, str]]
) -> None:
    assert shapes.features(body, b"", content_type) == found


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_anything_has_a_shape_and_a_bounded_one(body: bytes) -> None:
    assert len(shapes.features(body, b"", "")) <= shapes.MOST_FEATURES


@pytest.mark.parametrize(
    ("text", "shown"),
    [("DELIVRD", "DELIVRD"), ("-1", "-1"), (PHONE, "#"), ("您的验证码是 4711", "#")],
)
def test_a_code_is_shown_unless_it_could_be_more(text: str, shown: str) -> None:
    assert shapes.code(text) == shown


@pytest.mark.parametrize("name", [name for name, gateway in GATEWAYS.items() if gateway.reports])
def test_a_gateway_knows_the_fields_that_decide_in_its_captured_pushes(name: str) -> None:
    """Whatever a golden event was made of has names that the parsers speak of."""
    known = vocabulary.names(name)
    decide = {
        "thinkapi": {"id", "phone", "status", "receivedate"},
        "thinksms": {"mobile", "taskid", "status", "receivetime", "errorcode"},
        "onecloudsp": {"smuuid", "batchid", "mobile", "deliverresult", "delivertime"},
        "itniotech": {"msgid", "mobile", "status", "timestamp", "pricedetail"},
    }[name]
    assert decide <= known
    assert "a_field_of_tomorrow" not in known


def pushed(at: datetime, *, status: Any = 1, id: Any = "1", **more: Any) -> records.Record:
    sms = {"id": id, "phone": PHONE, "status": status, "receiveDate": pretend.local(at), **more}
    body = json.dumps({"action": "report", "sms": sms}).encode()
    callback = Callback(method="POST", query=b"", headers={}, body=body)
    return records.of_callback("api", callback, received_at=at, peer="192.0.2.1")


@pytest.mark.anyio
async def test_new_fields_types_and_codes_are_noticed_with_when_and_where(
    pool: Any, tmp_path: Path
) -> None:
    accounts = pretend.settings(tmp_path, "http://127.0.0.1:1").accounts

    async def store(*found: records.Record) -> None:
        async with pool.acquire() as connection:
            await records.store(connection, found, recorder="test", now=NOW)

    async def read(now: datetime) -> int:
        async with leases.held(pool, "drift:", holder="test") as lease:
            assert lease is not None
            return await drift.read(accounts, lease, now=now)

    async def listed(every: bool = False) -> dict[tuple[str, str], dict[str, Any]]:
        async with pool.acquire() as connection:
            page = await watched.features(connection, ["api"], every=every, cursor=None, limit=100)
        return {(item["feature"], item["kind"]): item for item in page.items}

    async def alarmed() -> list[str]:
        async with pool.acquire() as connection:
            page = await watched.alarms(
                connection, ["api"], kind="drift", ended=False, cursor=None, limit=10
            )
        return [item["words"] for item in page.items]

    minute = timedelta(minutes=1)
    reply = Reply(call=Call.QUERY_STATUS, headers={}, body=b'{"code": 0, "data": {}}')
    asked = records.of_reply("api", reply, subject="1", once=False, received_at=NOW)
    await store(pushed(NOW), pushed(NOW + minute, id="2", extra="x", message=None), asked)
    assert await read(NOW + 10 * minute) == 3
    assert await read(NOW + 10 * minute) == 0
    # All of it is how its documents are, and only what the gateway speaks of is known.
    assert await listed() == {}
    assert await alarmed() == []
    every = await listed(every=True)
    assert every["sms.id", "text"]["known"]
    assert not every["sms.extra", "text"]["known"]
    assert every["sms.id", "text"]["seen"] == 2
    assert every["code", "1"]["document"] == "callback: report"
    assert PHONE not in str(every)

    # A code that nobody knows is new at any time; fields and types after a day.
    odd = pushed(NOW + 20 * minute, id="3", status=42)
    await store(odd)
    await read(NOW + 30 * minute)
    assert {key: row["drift"] for key, row in (await listed()).items()} == {("code", "42"): "code"}
    later = NOW + timedelta(days=2)
    first = pushed(later, id="4", fee="0.04", message="x")
    await store(first, pushed(later + minute, id=5), pushed(later + 2 * minute, id="6", fee=None))
    await store(pushed(later + 3 * minute, id="7", fee="0.05"))
    await read(later + 10 * minute)
    found = await listed()
    assert {key: row["drift"] for key, row in found.items()} == {
        ("code", "42"): "code",
        ("sms.fee", "text"): "field",
        ("sms.message", "text"): "field",
        ("sms.id", "number"): "type",
    }
    fee = found["sms.fee", "text"]
    assert fee["record"] == first.digest.hex()
    assert (fee["first_seen_at"], fee["last_seen_at"], fee["seen"]) == (
        fields.rfc3339(later),
        fields.rfc3339(later + 3 * minute),
        2,
    )
    (words,) = await alarmed()
    assert words.startswith("4 new fields, types or codes")
    await read(later + timedelta(days=8))
    assert await alarmed() == []


@pytest.mark.anyio
async def test_whoever_lost_the_lease_keeps_nothing(pool: Any, tmp_path: Path) -> None:
    accounts = pretend.settings(tmp_path, "http://127.0.0.1:1").accounts
    async with pool.acquire() as connection:
        await records.store(connection, [pushed(NOW)], recorder="test", now=NOW)
    async with leases.held(pool, "drift:", holder="test") as lease:
        assert lease is not None
        await pool.execute("UPDATE leases SET token = token + 1")
        with pytest.raises(LeaseLost):
            await drift.read(accounts, lease, now=NOW + timedelta(minutes=5))
    assert await pool.fetchval("SELECT count(*) FROM document_features") == 0
