"""Jobs: what runs by itself, how its failures show, and one pass by hand."""

import asyncio
import dataclasses
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import time_machine
from pretend import Answer, Box, page, refusal, reported, serving, settings, state, until

from gateways.errors import Unavailable
from gateways.gateway import Client
from gateways.http import open_client
from huizhi.__main__ import group
from reconciler import jobs, ledger
from reconciler import lease as leases
from reconciler.backoff import backoff
from reconciler.jobs import Job, Jobs, one_pass, run
from reconciler.lease import Lease
from reconciler.poll import Done, callers
from runtime import Problem
from runtime.database import Database
from runtime.metrics import JOB_RUNS
from runtime.settings import Settings

pytestmark = pytest.mark.anyio

PHONE = "13800138000"


async def _register(pool: Any, read: Settings, account: str, *ids: str, ago: timedelta) -> None:
    now = datetime.now(UTC)
    sent = [
        ledger.Sent(
            account=account, vendor_message_id=id, phone=PHONE, sent_at=now - ago, segments=1
        )
        for id in ids
    ]
    await ledger.register(pool, read.accounts, sent, now=now)


def _both(box: Box) -> Any:
    """Both vendors at one address: ThinkAPI delivered everything, thinksms hands out `box`."""

    def answer(path: str, params: dict[str, str]) -> Answer:
        if path == "/sms/query_status":
            return state(params["id"], PHONE, 1, "2026-10-02 11:00:00")
        return box.answer(path, params)

    return answer


def _runs(job: str, outcome: str) -> float:
    return JOB_RUNS.labels(job, "sms", outcome)._value.get()


@pytest.mark.parametrize(
    ("every", "failures", "seconds"),
    [(5, 1, 10), (5, 2, 20), (5, 6, 320), (5, 7, 600), (5, 10_000, 600), (10, 1, 20), (30, 5, 600)],
)
def test_a_failing_job_waits_twice_as_long_each_time(
    every: float, failures: int, seconds: float
) -> None:
    assert backoff(every, failures, jobs.LONGEST_BACKOFF_SECONDS) == seconds


async def test_failures_are_counted_shown_and_forgotten_on_success(pool: Any) -> None:
    outcomes = iter(
        [
            Done(asked=3, failures=["query_status: 3 of 3 not answered: it is down"]),
            Unavailable("secret-free words"),
            Done(asked=1, failures=["x"], retry_after_seconds=3000),
            Done(asked=2, answered=2),
        ]
    )

    async def work(_: Lease) -> Done:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    job = Job(name="failing", account="sms", every_seconds=5, work=work)
    query = "SELECT runs, failures, failures_in_row, error, detail FROM jobs"

    async def fails_and_pauses(seconds: int) -> None:
        began = time.monotonic()
        await run(pool, job, holder="me")
        assert began + seconds <= job.not_before <= time.monotonic() + seconds

    await fails_and_pauses(10)
    row = await pool.fetchrow(query)
    assert tuple(row) == (1, 1, 1, "query_status: 3 of 3 not answered: it is down", {"asked": 3})
    await fails_and_pauses(20)
    assert tuple(await pool.fetchrow(query)) == (2, 2, 2, "secret-free words", {})
    await fails_and_pauses(3000)
    assert (_runs("failing", "failed"), _runs("failing", "ok")) == (3, 0)
    await run(pool, job, holder="me")
    row = await pool.fetchrow(query)
    assert tuple(row) == (4, 3, 0, None, {"asked": 2, "answered": 2})
    assert (job.failures_in_row, _runs("failing", "ok")) == (0, 1)


async def test_an_unexpected_error_is_named_but_never_quoted(pool: Any) -> None:
    async def work(_: Lease) -> Done:
        raise ValueError("13800138000 and hush")

    await run(pool, Job(name="bug", account="sms", every_seconds=5, work=work), holder="me")
    row = await pool.fetchrow("SELECT error, finished_at FROM jobs")
    assert row["error"] == "unexpected: ValueError"
    assert row["finished_at"] is not None


async def test_a_job_that_runs_elsewhere_is_left_alone(pool: Any) -> None:
    async def work(_: Lease) -> Done:
        raise AssertionError

    job = Job(name="busy", account="sms", every_seconds=5, work=work)
    async with leases.held(pool, job.lease_name, holder="other"):
        await run(pool, job, holder="me")
    assert await pool.fetchval("SELECT count(*) FROM jobs") == 0
    assert job.failures_in_row == 0


async def test_without_a_database_a_job_fails_and_waits(database: Database) -> None:
    async with database.pool() as closed:
        pass

    async def work(_: Lease) -> Done:
        return Done()

    job = Job(name="alone", account="sms", every_seconds=5, work=work)
    await run(closed, job, holder="me")
    assert job.failures_in_row == 1


async def test_replicas_run_a_job_no_oftener_than_one_would(pool: Any, tmp_path: Path) -> None:
    ran: list[str] = []
    outcomes = {"one": Done(), "two": Done()}

    def job(process: str) -> Job:
        async def work(_: Lease) -> Done:
            ran.append(process)
            return outcomes[process]

        return Job(name="shared", account="sms", every_seconds=3600, work=work)

    read = settings(tmp_path, "http://127.0.0.1:1")
    one, two = Jobs(read, pool, {}), Jobs(read, pool, {})
    mine, theirs = job("one"), job("two")
    # A process that has just started does everything once.
    await one._run(mine)
    await two._run(theirs)
    assert ran == ["one", "two"]
    # From then on it does what nobody has done.
    await one._run(mine)
    assert ran == ["one", "two"]
    assert 3590 < mine.not_before - time.monotonic() <= 3600
    await pool.execute("UPDATE jobs SET started_at = now() - interval '1 hour'")
    outcomes["one"] = Done(failures=["it is down"])
    await one._run(mine)
    assert ran == ["one", "two", "one"]
    # A failure is everybody's: so is the pause after it, which grows with each.
    await pool.execute("UPDATE jobs SET started_at = now() - interval '1 hour'")
    await two._run(theirs)
    assert ran == ["one", "two", "one"]
    assert 100 < theirs.not_before - time.monotonic() <= 120
    outcomes["two"] = Done(failures=["it is down"])
    await pool.execute("UPDATE jobs SET again_at = now()")
    await two._run(theirs)
    assert ran == ["one", "two", "one", "two"]
    assert theirs.failures_in_row == 2
    # One that nobody finished is due.
    await pool.execute("UPDATE jobs SET finished_at = NULL")
    await one._run(mine)
    assert ran == ["one", "two", "one", "two", "one"]


@asynccontextmanager
async def _jobs(read: Settings, pool: Any) -> AsyncIterator[Jobs]:
    async with open_client() as http:
        asking = callers(read, pool, http, recorder=jobs.holder())
        async with Jobs(read, pool, asking) as running:
            yield running


async def test_all_jobs_run_by_themselves(pool: Any, tmp_path: Path) -> None:
    box = Box(3)
    with serving(_both(box)) as vendor:
        read = settings(tmp_path, vendor.url)
        await _register(pool, read, "api", "1", ago=timedelta(hours=1))
        await _register(pool, read, "sms", "gone", ago=timedelta(days=4))
        async with _jobs(read, pool) as running:

            async def all_ran() -> bool:
                count = "SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL"
                return bool(await pool.fetchval(count) == len(running._jobs))

            await until(all_ran)
    rows = await pool.fetch("SELECT name, account, error FROM jobs ORDER BY name, account")
    assert [tuple(row) for row in rows if row["name"] != "balance"] == [
        ("arrivals", "", None),
        ("drift", "", None),
        ("give_up_dead_sends", "", None),
        ("join_orphans", "", None),
        ("link", "", None),
        ("pull_inbound", "sms", None),
        ("pull_reports", "sms", None),
        ("query_review", "api", None),
        ("query_status", "api", None),
        ("resolve", "api", None),
        ("resolve", "sms", None),
        ("retention", "api", None),
        ("retention", "sms", None),
        ("settle", "", None),
        ("silence", "", None),
        ("suspects", "", None),
        ("watch", "", None),
    ]
    rows = await pool.fetch("SELECT vendor_message_id, status FROM messages")
    assert {tuple(row) for row in rows} == {("1", "delivered"), ("gone", "expired")}
    assert len(await reported(pool)) == 4


async def test_clock_that_is_set_back_holds_no_job_up(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(jobs, "CLOCK_SECONDS", 0.05)
    runs = "SELECT coalesce(sum(runs), 0) FROM jobs WHERE name = 'settle'"

    async def grown(by: int) -> None:
        wanted = await pool.fetchval(runs) + by

        async def enough() -> bool:
            return bool(await pool.fetchval(runs) >= wanted)

        await until(enough)

    with serving(Box(0).answer) as vendor:
        ahead = datetime.now(UTC) + timedelta(hours=2)
        with time_machine.travel(ahead, tick=True) as clock:
            async with _jobs(settings(tmp_path, vendor.url), pool):
                await grown(2)
                clock.shift(timedelta(hours=-2))
                await grown(2)


async def test_stopping_lets_the_page_in_flight_land(pool: Any, tmp_path: Path) -> None:
    box = Box(3)
    asked, go_on = threading.Event(), threading.Event()

    def answer(path: str, params: dict[str, str]) -> Answer:
        reply = box.answer(path, params)
        if path == "/statusApi.aspx":
            asked.set()
            go_on.wait(20)
        return reply

    with serving(answer) as vendor:
        async with _jobs(settings(tmp_path, vendor.url), pool):
            await until(asked.is_set)
            asyncio.get_running_loop().call_later(0.1, go_on.set)
        assert len(await reported(pool)) == 3
    row = await pool.fetchrow("SELECT * FROM leases WHERE name = 'pull_reports:sms'")
    assert row["expires_at"] <= datetime.now(UTC)


async def test_two_reconcilers_read_each_page_once(pool: Any, tmp_path: Path) -> None:
    box = Box(30)
    everything = list(box.waiting)

    def answer(path: str, params: dict[str, str]) -> Answer:
        return box.answer(path, {"statusNum": "4"})

    with serving(lambda path, params: answer(path, params)) as vendor:
        read = settings(tmp_path, vendor.url)

        async def reconciler() -> None:
            while box.waiting:
                await one_pass(read, pool, "sms")

        await asyncio.gather(reconciler(), reconciler())
    assert await reported(pool) == everything
    assert await pool.fetchval("SELECT count(*) FROM pulls WHERE state <> 'recorded'") == 0


async def test_by_hand_everything_is_asked_whatever_its_back_off(pool: Any, tmp_path: Path) -> None:
    with serving(_both(Box(2))) as vendor:
        read = settings(tmp_path, vendor.url)
        await _register(pool, read, "api", "1", "2", ago=timedelta(hours=1))
        await _register(pool, read, "api", "young", ago=timedelta(seconds=5))
        await pool.execute(
            "UPDATE awaiting SET next_poll_at = now() + interval '5 hours', polls = 9"
        )
        api, sms = await one_pass(read, pool)
        assert (api.account, api.asked, api.answered, api.final) == ("api", 2, 2, 2)
        assert (sms.account, sms.pages, sms.rows, sms.asked) == ("sms", 2, 2, 0)
        assert api.failures + sms.failures == []
        [only] = await one_pass(read, pool, "sms")
        assert only.account == "sms"


async def test_by_hand_what_another_is_doing_is_skipped(pool: Any, tmp_path: Path) -> None:
    with serving(_both(Box(2))) as vendor:
        read = settings(tmp_path, vendor.url)
        async with leases.held(pool, "pull_reports:sms", holder="serve"):
            [summary] = await one_pass(read, pool, "sms", patience_seconds=0)
        assert summary.skipped == ["pull_reports"]
        assert [path for path, _ in vendor.requests] == ["/callApi.aspx"]


async def test_nothing_expires_before_a_whole_pull_succeeded(pool: Any, tmp_path: Path) -> None:
    replies = [Answer(b"", 429, {"retry-after": "99"}), Answer(page([]))]
    with serving(lambda path, _: replies[0] if "status" in path else Answer(page([]))) as vendor:
        read = settings(tmp_path, vendor.url)
        await _register(pool, read, "sms", "1", ago=timedelta(days=9))
        [summary] = await one_pass(read, pool, "sms")
        assert (summary.expired, len(summary.failures)) == (0, 1)
        replies.pop(0)
        [summary] = await one_pass(read, pool, "sms")
        assert (summary.expired, summary.failures) == (1, [])


@pytest.mark.parametrize(("reports", "status"), [(True, "expired"), (False, "submitted")])
async def test_clock_ends_no_waiting_for_a_vendor_that_reports_nothing(
    pool: Any, tmp_path: Path, reports: bool, status: str
) -> None:
    read = settings(tmp_path, "http://127.0.0.1:1")
    api = read.accounts["api"]
    # Neither asked nor pulled from: at most the clock has a word.
    gateway = dataclasses.replace(api.gateway, client=Client, reports=reports)
    read = msgspec.structs.replace(
        read, accounts={"api": msgspec.structs.replace(api, gateway=gateway)}
    )
    await _register(pool, read, "api", "1", ago=timedelta(days=9))
    [summary] = await one_pass(read, pool, "api")
    assert (summary.expired, summary.failures) == (int(reports), [])
    assert await pool.fetchval("SELECT status FROM messages") == status
    async with open_client() as http:
        made = jobs.jobs_of(read, callers(read, pool, http, recorder="test"))
    assert [job.name for job in made if job.account] == ["retention", *["expire"] * reports]


async def test_an_account_nobody_knows_is_a_problem(pool: Any, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no account 'nobody'"):
        await one_pass(settings(tmp_path, "http://127.0.0.1:1"), pool, "nobody")


def test_a_process_is_known_by_host_and_number() -> None:
    assert jobs.holder().rpartition(":")[2].isdigit()


def _poll(database: Database, file: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    monkeypatch.setenv("DATABASE_URL", database.dsn.reveal())
    code = group.main(
        ["--config", str(file), "poll", *more], prog_name="huizhi", standalone_mode=False
    )
    assert isinstance(code, int)
    return code


def test_the_command_prints_what_was_done(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(_both(Box(3))) as vendor:
        file = settings(tmp_path, vendor.url).file
        assert _poll(database, file, monkeypatch) == 0
        assert "sms" in capsys.readouterr().out
        assert _poll(database, file, monkeypatch, "--account", "sms", "--output", "json") == 0
        [summary] = json.loads(capsys.readouterr().out)
        assert (summary["account"], summary["pages"], summary["rows"]) == ("sms", 2, 0)


def test_the_command_fails_with_a_line_for_each_vendor_that_could_not_be_asked(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(lambda *_: refusal(1, "no 13800138000")) as vendor:
        file = settings(tmp_path, vendor.url).file
        assert _poll(database, file, monkeypatch) == 2
    told = capsys.readouterr().err
    lines = [line for line in told.splitlines() if line.startswith("huizhi: ")]
    assert [line.split(":")[2].strip() for line in lines] == ["pull_reports", "pull_inbound"]
    assert "13800138000" not in told
    with pytest.raises(Problem, match="no account 'nobody'"):
        _poll(database, file, monkeypatch, "--account", "nobody")
