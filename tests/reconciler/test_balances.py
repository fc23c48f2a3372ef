"""Balances: asked for by the hour or by hand, kept one by one, shown."""

import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from every_call import asking, no, settled_on, told
from pretend import Answer

from gateways.errors import Garbled, Refused, Unavailable, Unsupported
from gateways.events import Balance, InboundMessage
from gateways.gateway import Call, Reply
from huizhi.__main__ import group
from reconciler import balances, jobs
from reconciler.jobs import jobs_of, run
from reconciler.poll import callers
from reconciler.reading import arrived, watched
from runtime import Problem, records, settlement
from runtime.database import Database
from runtime.settings import Settings

pytestmark = pytest.mark.anyio

BALANCE = Balance(kind="balance", amount=Decimal("-12.50"), currency="USD")
GIFT = Balance(kind="gift", amount=Decimal("0.000"))


async def _kept(pool: Any, **given: Any) -> list[dict[str, Any]]:
    filters = {"kind": None, "since": None, "until": None, "cursor": None, "limit": 100} | given
    async with pool.acquire() as connection:
        return (await arrived.balances(connection, ["main"], **filters)).items


async def test_the_same_words_at_another_time_are_another_reading(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(pool, tmp_path, monkeypatch, lambda *_: told(BALANCE, GIFT)) as (
        caller,
        _,
        __,
    ):
        first = await balances.read(caller)
        assert [(row["kind"], row["amount"], row["currency"]) for row in first] == [
            ("balance", "-12.5", "USD"),
            ("gift", "0", None),
        ]
        assert {row["call"] for row in first} == {"query_balance"}
        second = await balances.read(caller)
        assert first[0]["record"] != second[0]["record"]
        assert await _kept(pool) == list(reversed(first + second))
        assert await _kept(pool, kind="gift") == [second[1], first[1]]
        moment = datetime.fromisoformat(second[0]["read_at"])
        assert await _kept(pool, until=moment) == list(reversed(first))
        assert await _kept(pool, since=moment) == list(reversed(second))
    assert await pool.fetchval("SELECT count(*) FROM records") == 2


async def test_settling_a_record_again_adds_no_reading(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(pool, tmp_path, monkeypatch, lambda *_: told(BALANCE)) as (caller, _, read):
        await balances.read(caller)
        batch = await pool.fetchval("SELECT batch_id FROM records")
        kept = records.of_rows(await pool.fetch("SELECT * FROM records WHERE batch_id = $1", batch))
        later = datetime.now(UTC) + timedelta(days=1)
        done = await settlement.settle(pool, read.accounts, kept, batches=[batch], now=later)
        assert (done.balances, done.quarantined) == (1, 0)
        assert len(await _kept(pool)) == 1


async def test_a_reply_to_sending_brings_a_reading_too(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with settled_on(tmp_path, monkeypatch, lambda *_: no("1", "unused")) as (_, read):
        reply = Reply(call=Call.SEND, headers={}, body=told(BALANCE).body)
        now = datetime.now(UTC)
        record = records.of_reply("main", reply, subject=str(uuid4()), once=False, received_at=now)
        await settlement.settle(pool, read.accounts, [record], batches=(), now=now)
    [row] = await _kept(pool)
    assert (row["call"], row["amount"]) == ("send", "-12.5")


@pytest.mark.parametrize(
    ("answer", "error", "quarantined"),
    [
        (no("403", "no such account 13800138000"), Refused, 0),
        (Answer(b"<html>"), Garbled, 1),
        (Answer(b"", 503, {"retry-after": "90"}), Unavailable, 0),
        (told(InboundMessage(phone="1", content="T", sent_at=None)), Garbled, 0),
        (Answer(b'{"events": [["Balance", {"kind": "b", "amount": "NaN"}]]}'), Garbled, 1),
    ],
)
async def test_what_tells_no_balance_is_an_error_and_is_kept(
    pool: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer,
    error: type[Exception],
    quarantined: int,
) -> None:
    async with asking(pool, tmp_path, monkeypatch, lambda *_: answer) as (caller, _, __):
        with pytest.raises(error):
            await balances.read(caller)
    assert await pool.fetchval("SELECT count(*) FROM quarantine") == quarantined
    assert await pool.fetchval("SELECT count(*) FROM records") == (error is not Unavailable)
    assert await _kept(pool) == []


async def test_the_job_is_of_accounts_whose_vendor_tells_by_the_hour_and_sooner_if_it_failed(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = told(BALANCE)
    async with asking(pool, tmp_path, monkeypatch, lambda *_: answer) as (caller, vendor, read):
        found = jobs_of(read, {"main": caller})
        [job] = [job for job in found if job.name == "balance"]
        assert (job.account, job.every_seconds) == ("main", 3600)
        think = {
            "finch": callers(read, pool, caller.client.transport._client, recorder="t")["finch"]
        }
        assert "balance" not in {job.name for job in jobs_of(read, think)}

        await run(pool, job, holder="me")
        row = (await _jobs(pool))["balance"]
        assert (row["error"], row["again_at"]) == (None, None)
        assert row["detail"] == {"asked": 1, "answered": 1}
        assert job.tick_seconds == 10
        assert 3580 < job.not_before - time.monotonic() <= 3590  # and then at the next look

        answer = no("2", "wrong password")
        for failures, minutes in ((1, 2), (2, 4), (3, 8)):
            before = datetime.now(UTC)
            await run(pool, job, holder="me")
            row = (await _jobs(pool))["balance"]
            assert row["failures_in_row"] == failures
            assert row["detail"] == {"asked": 1, "refused": True}
            again = datetime.fromisoformat(row["again_at"])
            assert (
                timedelta(0) <= again - before - timedelta(minutes=minutes) < timedelta(seconds=30)
            )
            assert job.not_before - time.monotonic() <= minutes * 60
        assert row["error"] == "query_balance: refused by the vendor with 2: wrong password"
        assert len(vendor.requests) == 4


async def test_a_quick_job_that_is_refused_waits_longer_each_time_up_to_an_hour(
    pool: Any,
) -> None:
    async def work(_: Any) -> jobs.Done:
        done = jobs.Done()
        done.fail(Call.LIST_INBOUND, Refused("2", "wrong password"))
        return done

    job = jobs.Job(name="refused", account="main", every_seconds=5, work=work)
    waits = []
    for _ in range(12):
        before = datetime.now(UTC)
        await run(pool, job, holder="me")
        again = datetime.fromisoformat((await _jobs(pool))["refused"]["again_at"])
        waits.append(round((again - before).total_seconds()))
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]


async def _jobs(pool: Any) -> dict[str, dict[str, Any]]:
    async with pool.acquire() as connection:
        return {row["job"]: row for row in (await watched.jobs(connection)).items}


async def test_newest_readings_of_each_kind_are_found(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([told(GIFT, BALANCE), told(Balance(kind="gift", amount=Decimal(7)))])
    async with asking(pool, tmp_path, monkeypatch, lambda *_: next(answers)) as (caller, _, __):
        await balances.read(caller)
        await balances.read(caller)
    async with pool.acquire() as connection:
        found = await arrived.newest_balances(connection, ["main", "finch"])
    assert sorted(found) == [("main", "balance", Decimal("-12.50")), ("main", "gift", Decimal(7))]


# --- as typed ----------------------------------------------------------------------------------------


def _type(database: Database, read: Settings, monkeypatch: pytest.MonkeyPatch, *more: str) -> Any:
    monkeypatch.setenv("DATABASE_URL", database.dsn.reveal())
    return group.main(
        ["--config", str(read.file), "balance", *more], prog_name="huizhi", standalone_mode=False
    )


def test_the_command_asks_every_vendor_that_tells(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answer(path: str, _: dict[str, str]) -> Answer:
        return told(BALANCE) if path.startswith("/main") else no("9", "call 13800138000")

    common: Any = (tmp_path, monkeypatch, answer)
    with settled_on(*common, accounts=("main", "other")) as (vendor, read):
        assert _type(database, read, monkeypatch, "--output", "json") == 2
        out, err = capsys.readouterr()
        [row] = json.loads(out)["items"]
        assert (row["account"], row["amount"], row["currency"]) == ("main", "-12.5", "USD")
        assert err == "huizhi: other: refused by the vendor with 9: call …8000\n"

        assert _type(database, read, monkeypatch, "--account", "main") == 0
        head, line = capsys.readouterr().out.splitlines()
        assert head.split() == list(arrived.BALANCE_COLUMNS)
        assert line.split()[:4] == ["main", "balance", "-12.5", "USD"]
        assert len(vendor.requests) == 3

        with pytest.raises(Unsupported, match=r"\(finch\) offers no `balance`"):
            _type(database, read, monkeypatch, "--account", "finch")
        with pytest.raises(Problem, match="no account 'none'"):
            _type(database, read, monkeypatch, "--account", "none")


def test_the_command_lists_what_was_kept_and_asks_nobody(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with settled_on(tmp_path, monkeypatch, lambda *_: told(BALANCE)) as (vendor, read):
        for _ in range(2):
            assert _type(database, read, monkeypatch) == 0
        capsys.readouterr()
        assert _type(database, read, monkeypatch, "--history", "--output", "json") == 0
        assert len(json.loads(capsys.readouterr().out)["items"]) == 2
        assert len(vendor.requests) == 2
        for option, count in (("--from", 2), ("--to", 1)):
            day = ("--history", option, "2020-01-01", "--output", "csv")
            assert _type(database, read, monkeypatch, *day) == 0
            assert capsys.readouterr().out.count("\r\n") == (3 if count == 2 else 1)
        with pytest.raises(Problem, match="--from and --to go with --history"):
            _type(database, read, monkeypatch, "--from", "2020-01-01")
        with pytest.raises(Problem, match="--to: expected a time such as 2026-10-01"):
            _type(database, read, monkeypatch, "--history", "--to", "soon")
