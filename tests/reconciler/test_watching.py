"""What goes wrong slowly, and the alarms that it raises and ends."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from reconciler import ledger, watching
from reconciler.jobs import pauses_of
from runtime import metrics
from runtime.settings import Settings, parse

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC).replace(microsecond=0)
LONG_AGO = NOW - timedelta(days=9)


def settings(folder: Path, *more: str) -> Settings:
    text = """
        [accounts.think]
        gateway = "thinkapi"
        credentials = { app_code = "code" }
        {}
        [[accounts.think.tariffs]]
        from = 2020-01-01
        price = "0.5"
        basis = "delivered"
    """.replace("{}", "\n".join(more))
    return parse(text, folder / "huizhi.toml", {})


async def looked(pool: Any, given: Settings, now: datetime = NOW) -> None:
    await watching.watch(pool, given, pauses_of(given), since=LONG_AGO, now=now)


async def standing(pool: Any) -> dict[str, str]:
    rows = await pool.fetch("SELECT kind, words FROM alarms WHERE ended_at IS NULL")
    return {row["kind"]: row["words"] for row in rows}


async def quarantined(pool: Any, ages: Sequence[float], understood: int = 0) -> None:
    for number, hours in enumerate([*ages, *[2.0] * understood]):
        at = NOW - timedelta(hours=hours)
        digest = uuid4().bytes * 2
        await pool.execute(
            "INSERT INTO records (digest, account, source, batch_id, received_at, last_received_at,"
            " deliveries, method, query, headers, body)"
            " VALUES ($1, 'think', 'push', 1, $2, $2, 1, 'POST', '', '{}', 'x')",
            digest,
            at,
        )
        if number < len(ages):
            await pool.execute(
                "INSERT INTO quarantine (digest, account, received_at, quarantined_at, reason)"
                " VALUES ($1, 'think', $2, $2, 'odd')",
                digest,
                at,
            )


@pytest.mark.parametrize(
    ("ages", "understood", "alarmed"),
    [
        ([], 9, False),
        ([0.5] * 4, 9, False),
        ([0.5] * 5, 900, True),
        ([5.0] * 4, 9, False),
        ([5.0], 1, True),
        ([30.0] * 50, 9, False),
    ],
)
async def test_quarantine_that_grows_is_an_alarm_until_an_hour_is_quiet(
    pool: Any, tmp_path: Path, ages: list[float], understood: int, alarmed: bool
) -> None:
    given = settings(tmp_path)
    await quarantined(pool, ages, min(understood, 20))
    await looked(pool, given)
    assert ("quarantine" in await standing(pool)) is alarmed
    await looked(pool, given, NOW + timedelta(days=2))
    assert "quarantine" not in await standing(pool)


async def test_lost_pages_are_an_alarm_for_a_day(pool: Any, tmp_path: Path) -> None:
    given = settings(tmp_path)
    await pool.execute(
        "INSERT INTO pulls (id, account, call, token, asked_rows, state, intended_at, finished_at)"
        " VALUES ($1, 'think', 'pull_reports', 0, 10, 'lost', $2, $2)",
        uuid4(),
        NOW - timedelta(hours=3),
    )
    await looked(pool, given)
    assert (await standing(pool))["lost"].startswith("1 read-once page of")
    await looked(pool, given, NOW + timedelta(hours=22))
    assert "lost" not in await standing(pool)


async def test_erasures_that_came_to_no_end_are_an_alarm_until_the_number_is_erased(
    pool: Any, tmp_path: Path
) -> None:
    given = settings(tmp_path)
    now = datetime.now(UTC)

    async def add(pseudonym: str, hours: int, held: int, *, done: bool, worked: Any = None) -> None:
        await pool.execute(
            "INSERT INTO erasures (id, pseudonym, requested_at, requested_by, finished_at, found, held,"
            " worked_at) VALUES ($1, $2, $3, 'dpo', $4, '{}', $5, $6)",
            uuid4(),
            pseudonym,
            now - timedelta(hours=hours),
            now if done else None,
            held,
            worked,
        )

    await add("under way", 3, 0, done=False, worked=now)
    await add("done", 3, 0, done=True)
    await looked(pool, given)
    assert "erasure" not in await standing(pool)

    await add("broke off", 3, 0, done=False, worked=now - timedelta(minutes=2))
    await add("held", 3, 4, done=False)
    await looked(pool, given)
    assert (await standing(pool))["erasure"].startswith(
        "2 erasures are not complete: 1 broke off, and 1 left"
    )
    await add("broke off", 2, 0, done=True)
    await looked(pool, given)
    assert (await standing(pool))["erasure"].startswith("1 erasure is not complete: 0 broke off")
    await add("held", 2, 0, done=True)
    await looked(pool, given)
    assert "erasure" not in await standing(pool)


async def test_jobs_that_fail_or_are_late_are_an_alarm_until_they_go_well(
    pool: Any, tmp_path: Path
) -> None:
    given = settings(tmp_path)
    add = (
        "INSERT INTO jobs (name, account, started_at, finished_at, failures_in_row, error)"
        " VALUES ($1, $2, $3, $3, $4, $5)"
    )
    await pool.execute(add, "query_status", "think", NOW, 3, "query_status: no")
    await pool.execute(add, "query_review", "think", NOW, 2, "query_review: no")
    await pool.execute(add, "settle", "", NOW - timedelta(hours=1), 0, None)
    await pool.execute(add, "of-an-older-version", "", LONG_AGO, 7, "no")
    await looked(pool, given)
    rows = await pool.fetch("SELECT account, words FROM alarms WHERE kind = 'job'")
    assert {row["account"]: row["words"] for row in rows} == {
        "think": "the job query_status failed 3 times in a row: query_status: no",
        "": "the job settle is late: it last began 60 minutes ago",
    }
    await pool.execute("UPDATE jobs SET failures_in_row = 0, error = NULL, started_at = $1", NOW)
    await looked(pool, given)
    assert "job" not in await standing(pool)


async def test_a_job_is_not_late_while_it_runs_waits_to_be_tried_again_or_nobody_was_there(
    pool: Any, tmp_path: Path
) -> None:
    given = settings(tmp_path)
    pauses = pauses_of(given)
    assert pauses["settle", ""] == 5
    row = {
        "name": "settle",
        "account": "",
        "started_at": NOW - timedelta(hours=1),
        "again_at": None,
        "holder": None,
        "failures_in_row": 0,
        "error": None,
    }

    def late(**changed: Any) -> bool:
        since = changed.pop("since", None)
        return bool(watching.troubled([{**row, **changed}], pauses, now=NOW, since=since))

    assert late()
    assert not late(holder="me")
    assert not late(again_at=NOW + timedelta(minutes=5))
    assert late(again_at=NOW - timedelta(minutes=5))
    assert not late(since=NOW - timedelta(minutes=1))
    assert not late(started_at=NOW - timedelta(minutes=2))


async def read_balance(pool: Any, hours: float, amount: str) -> None:
    await pool.execute(
        "INSERT INTO balances (account, kind, digest, read_at, amount, currency)"
        " VALUES ('think', 'overage', $1, $2, $3, 'CNY')",
        uuid4().bytes * 2,
        NOW - timedelta(hours=hours),
        Decimal(amount),
    )


@pytest.mark.parametrize(
    ("more", "readings", "words"),
    [
        (
            (),
            [(48, "300"), (0, "100")],
            "overage: 100 CNY left, which lasts for 1.0 days as it goes",
        ),
        ((), [(48, "300"), (0, "290")], None),
        (("low_balance_days = 0",), [(48, "300"), (0, "100")], None),
        (("low_balance_days = 0", 'low_balance = "100.5"'), [(0, "100")], "overage: 100 CNY left"),
        (('low_balance = "100"',), [(0, "100")], None),
        # What was paid in between hides nothing.
        ((), [(48, "300"), (24, "10"), (0, "400")], "overage: 400 CNY left, which lasts for 2.8"),
        ((), [], None),
    ],
)
async def test_little_left_is_an_alarm(
    pool: Any, tmp_path: Path, more: Any, readings: list[tuple[float, str]], words: str | None
) -> None:
    given = settings(tmp_path, *more)
    for hours, amount in readings:
        await read_balance(pool, hours, amount)
    await looked(pool, given)
    told = (await standing(pool)).get("balance")
    assert (told or "").startswith(words or "")
    assert (told is None) == (words is None)
    if told:
        await pool.execute("UPDATE balances SET amount = 100000")
        await looked(pool, given)
        assert "balance" not in await standing(pool)


async def test_a_months_cost_past_its_budget_is_an_alarm(pool: Any, tmp_path: Path) -> None:
    zone = settings(tmp_path).accounts["think"].account.zone
    noon = NOW.astimezone(zone).replace(day=10, hour=12)
    sent = [
        ledger.Sent(
            account="think",
            vendor_message_id=str(number),
            phone="13800138000",
            sent_at=at,
            segments=2,
        )
        for number, at in enumerate([noon, noon, noon, noon - timedelta(days=40)])
    ]
    given = settings(tmp_path)
    await ledger.register(pool, given.accounts, sent, now=noon)
    await pool.execute(
        "UPDATE messages SET status = 'failed', vendor_code = '-1' WHERE vendor_message_id = '2'"
    )

    async def alarmed(budget: str) -> str | None:
        account = settings(tmp_path, f'monthly_budget = "{budget}"').accounts["think"]
        await watching.watch_budget(pool, account, now=noon)
        return (await standing(pool)).get("budget")

    # Two messages of two segments at 0.5: one has failed, another is of an earlier month.
    assert await alarmed("2") is None
    told = await alarmed("1.99")
    assert told is not None
    assert "comes to 2, and bills that are here to 0" in told
    assert await alarmed("2") is None
    first = noon.date().replace(day=1)
    for last, amount in ((15, "9"), (28, "30"), (28, "12.5")):
        version = 1 + (amount == "12.5")
        await pool.execute(
            "INSERT INTO statements (id, account, first_day, last_day, version, file_digest, file_name,"
            " format, lines, segments, amount, imported_at)"
            " VALUES ($1, 'think', $2, $3, $4, $5, 'f', 'generic', 1, 1, $6, now())",
            uuid4(),
            first,
            first.replace(day=last),
            version,
            uuid4().bytes,
            Decimal(amount),
        )
    # Of a period within another only the other counts, in its newest version.
    assert await alarmed("12.5") is None
    assert "bills that are here to 12.5" in (await alarmed("12.4") or "")
    await looked(pool, given)
    assert "budget" not in await standing(pool), "there is no budget any more"


async def test_a_spool_that_is_not_drained_is_an_alarm_of_its_machine(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(tmp_path)
    waits = {"huizhi_spool_oldest_seconds": 301.0, "huizhi_spool_records": 7.0}
    monkeypatch.setattr(metrics, "value_of", lambda name, _folder: waits.get(name))
    monkeypatch.setattr(watching.socket, "gethostname", lambda: "one")
    await looked(pool, given)
    words = "7 callbacks wait in the spool at one, the oldest for 5 minutes"
    assert (await standing(pool))["spool"] == words
    waits.clear()
    # Another machine knows nothing of it, but need not believe it for ever.
    monkeypatch.setattr(watching.socket, "gethostname", lambda: "two")
    await looked(pool, given, NOW + timedelta(minutes=1))
    assert "spool" in await standing(pool)
    await looked(pool, given, NOW + timedelta(minutes=70))
    assert "spool" not in await standing(pool)


async def test_a_disk_that_is_nearly_full_is_an_alarm_until_it_is_not(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    given = settings(tmp_path)
    gib = 1024**3
    for free, total, alarmed in (
        (4 * gib, 100 * gib, True),
        (6 * gib, 100 * gib, False),
        (9 * gib, 4000 * gib, True),
        (11 * gib, 4000 * gib, False),
        (gib // 2, 2 * gib, True),
    ):
        usage = type("Usage", (), {"free": free, "total": total})
        monkeypatch.setattr(watching.shutil, "disk_usage", lambda _path, usage=usage: usage)
        await looked(pool, given)
        assert ("disk" in await standing(pool)) is alarmed, (free, total)


def test_a_count_is_read_across_processes(tmp_path: Path) -> None:
    metrics.SPOOL_RECORDS.set(4)
    assert metrics.value_of("huizhi_spool_records", None) == 4
    metrics.SPOOL_RECORDS.set(0)
    assert metrics.value_of("huizhi_spool_records", str(tmp_path)) is None
