"""Suspects and alarms on the dashboard: shown to all, decided by operators."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from browsing import NOW, push, register, report, serving, settings
from test_sessions import logged_in, made, visiting

from reconciler import alarms
from reconciler.dashboard.words import LANGUAGES, Words
from reconciler.reading import arrived
from reconciler.tokens import Role
from runtime.database import Database

pytestmark = pytest.mark.anyio


async def suspicious(pool: Any, given: Any) -> None:
    """A message whose only report bears a time in the future."""
    sent = {
        "account": "think",
        "vendor_message_id": "id-1",
        "phone": "13800138000",
        "sent_at": (NOW - timedelta(hours=2)).isoformat(),
        "content": "c",
    }
    await register(pool, given, [sent])
    at = f"{NOW + timedelta(days=3):%Y-%m-%d %H:%M:%S}"
    await push(pool, given, report("id-1", "13800138000", 1, at))


@pytest.mark.parametrize("language", LANGUAGES)
async def test_what_waits_and_alarms_stand_on_the_overview(
    database: Database, pool: Any, connection: Any, tmp_path: Path, language: str
) -> None:
    given, words = settings(tmp_path), Words(language)
    await suspicious(pool, given)
    for kind in alarms.KINDS:
        await alarms.raise_(connection, "think", kind, f"of {kind}", {"count": 1}, now=NOW)
    async with serving(database, given) as address, visiting(address) as client:
        client.cookies.set("huizhi_language", language)
        await logged_in(client)
        page = (await client.get("/")).text
        for kind in (*alarms.KINDS, "waiting"):
            assert words(f"alarm.{kind}") in page
        for kind in alarms.KINDS:
            assert f"of {kind}" in page
        assert "/suspects?account=think&amp;state=waiting" in page
        shown = (await client.get("/suspects?account=think&state=waiting")).text
        assert words("doubt.in_future") in shown
        assert "13800138000" in shown


async def test_an_operator_decides_and_a_reader_only_sees(
    database: Database, pool: Any, connection: Any, tmp_path: Path
) -> None:
    given = settings(tmp_path)
    await suspicious(pool, given)
    found = await arrived.suspects(
        connection, ["think"], state=None, reason=None, cursor=None, limit=10
    )
    (suspect,) = found.items
    form = {"id": suspect["id"], "verdict": "accepted", "note": "asked by mail"}
    async with serving(database, given) as address:
        for role, status in ((Role.READER, 403), (Role.OPERATOR, 303)):
            token = (await made(connection, role)).token
            async with visiting(address) as client:
                headers = {"x-csrf-token": await logged_in(client, token)}
                shown = (await client.get("/suspects")).text
                assert (suspect["id"] in shown) == (role is Role.OPERATOR)
                answer = await client.post("/suspects", data=form, headers=headers)
                assert answer.status_code == status
                wrong = await client.post("/suspects", data={"verdict": "x"}, headers=headers)
                assert wrong.status_code in (403, 422)
    found = await arrived.suspects(
        connection, ["think"], state="accepted", reason=None, cursor=None, limit=10
    )
    (suspect,) = found.items
    assert (suspect["decided_by"], suspect["note"]) == ("Li Wei", "asked by mail")
    assert suspect["message_status"] == "delivered"
