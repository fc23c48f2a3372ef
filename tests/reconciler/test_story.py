"""A callback's story: every step that it took, and nothing that a log should not hold."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from gateways.gateway import Callback
from reconciler import ledger, story
from reconciler.ledger import Sent
from runtime import records, settlement
from runtime.records import Record
from runtime.settings import Settings, parse

pytestmark = pytest.mark.anyio

SETTINGS = """
data_dir = "data"
[accounts.think]
gateway = "thinkapi"
credentials = { app_code = "code" }
callback_tokens = ["token"]
"""
CAME = datetime(2026, 10, 5, 1, 30, tzinfo=UTC)
PHONE = "13509898765"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse(SETTINGS, tmp_path / "huizhi.toml", {})


def pushed(body: bytes, *, times: int = 1) -> Record:
    callback = Callback(method="POST", query=b"", headers={"x-thinkphp-event": "sms"}, body=body)
    record = records.of_callback("think", callback, received_at=CAME, peer="192.0.2.7")
    record.deliveries = times
    return record


def report(name: str) -> bytes:
    sms = {"id": name, "phone": PHONE, "status": 1, "message": "",
           "receiveDate": "2026-10-05 09:30:05"}  # fmt: skip
    return json.dumps({"action": "report", "sms": sms}).encode()


async def stored(pool: Any, record: Record, *, after: float) -> int:
    at = CAME + timedelta(seconds=after)
    async with pool.acquire() as connection:
        batch, _ = await records.store(connection, [record], recorder="here:1", now=at)
    return batch


async def told(pool: Any, settings: Settings, record: Record) -> Any:
    async with pool.acquire() as connection:
        return await story.tell(connection, settings.accounts, record.digest)


async def test_story_of_an_orphan_that_is_joined(pool: Any, settings: Settings) -> None:
    record = pushed(report("a"), times=3)
    batch = await stored(pool, record, after=0.25)
    now = await told(pool, settings, record)
    assert now["state"] == "recorded"
    assert [step["what"] for step in now["steps"]] == ["received", "received_again", "recorded"]
    assert now["steps"][0] == {
        "at": "2026-10-05T01:30:00Z",
        "what": "received",
        "words": "from 192.0.2.7",
    }
    assert now["steps"][2]["words"] == f"batch {batch} by here:1, 0.250 s after it came"
    assert now["reports"] == []

    settled = CAME + timedelta(seconds=1)
    await settlement.settle(pool, settings.accounts, [record], batches=[batch], now=settled)
    now = await told(pool, settings, record)
    assert (now["state"], now["events"]) == ("settled", {"reports": 1})
    (known,) = now["reports"]
    assert (known["orphan"], known["message_status"], known["vendor_message_id"]) == (
        True,
        None,
        "a",
    )

    registered = CAME + timedelta(minutes=5)
    sent = Sent(
        account="think", vendor_message_id="a", phone=PHONE, segments=1,
        sent_at=CAME - timedelta(minutes=1),
    )  # fmt: skip
    await ledger.register(pool, settings.accounts, [sent], now=registered)
    now = await told(pool, settings, record)
    (known,) = now["reports"]
    assert (known["orphan"], known["message_status"]) == (False, "delivered")
    assert now["steps"][-1] == {
        "at": "2026-10-05T01:35:00Z",
        "what": "joined",
        "words": f"message {known['message']} was registered",
    }
    assert PHONE not in json.dumps(now)


async def test_story_of_what_is_not_understood(pool: Any, settings: Settings) -> None:
    record = pushed(b"<html>")
    batch = await stored(pool, record, after=40)
    at = CAME + timedelta(seconds=41)
    await settlement.settle(pool, settings.accounts, [record], batches=[batch], now=at)
    now = await told(pool, settings, record)
    assert (now["state"], now["events"], now["reports"]) == ("quarantined", {}, [])
    words = {step["what"]: step["words"] for step in now["steps"]}
    assert words["recorded"].endswith("40.000 s after it came")
    assert words["quarantined"]
    assert set(words) == {"received", "recorded", "quarantined", "settled"}


async def test_story_of_what_another_took_up_and_of_nothing(pool: Any, settings: Settings) -> None:
    record = pushed(report("left"))
    await stored(pool, record, after=0)
    later = CAME + timedelta(minutes=1)
    await settlement.settle_left_behind(
        pool, settings.accounts, recorded_before=later - timedelta(seconds=10), now=later
    )
    now = await told(pool, settings, record)
    assert [step["what"] for step in now["steps"]] == [
        "received",
        "recorded",
        "taken_up",
        "settled",
    ]
    async with pool.acquire() as connection:
        assert await story.tell(connection, settings.accounts, bytes(32)) is None
        # Nor of an account that is not ours to show.
        assert await story.tell(connection, {}, record.digest) is None


async def test_purged_bytes_say_nothing_and_the_steps_stay(pool: Any, settings: Settings) -> None:
    record = pushed(report("old"))
    batch = await stored(pool, record, after=0)
    at = CAME + timedelta(seconds=1)
    await settlement.settle(pool, settings.accounts, [record], batches=[batch], now=at)
    purged = datetime(2026, 12, 1, tzinfo=UTC)
    async with pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO purges (id, account, what, purged_at, purged_by, records, messages,"
            " content, touched) VALUES ($1, 'think', 'bodies', $2, 'test', 1, 0, $3, '{}')",
            UUID(int=1),
            purged,
            bytes(32),
        )
        await connection.execute(
            "UPDATE records SET purge_id = $1, purged_bytes = length(body), body = '', query = '',"
            " headers = '{}', peer = NULL WHERE digest = $2",
            UUID(int=1),
            record.digest,
        )
    now = await told(pool, settings, record)
    assert (now["state"], now["events"], now["reports"]) == ("settled", None, None)
    assert now["steps"][-1] == {
        "at": "2026-12-01T00:00:00Z",
        "what": "purged",
        "words": "its bytes are gone",
    }
