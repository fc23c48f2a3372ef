"""The fence: what a job writes, its lease's holder writes, or nobody."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from every_call import EVERY, told
from pretend import Answer, Box, Vendor, serving, state

from gateways import GATEWAYS
from gateways.events import Balance, InboundMessage, ReviewKind, ReviewResult, ReviewStatus
from gateways.gateway import Callback
from gateways.http import open_client
from reconciler import lease as leases
from reconciler import ledger, silence
from reconciler.dashboard.words import LANGUAGES, WORDS
from reconciler.jobs import Job, jobs_of, run
from reconciler.lease import Lease
from reconciler.poll import Caller, callers
from runtime import LeaseLost, records, sends
from runtime import settings as runtime_settings
from runtime.database import DATABASE_ERRORS
from runtime.identity import message_id, shard_of
from runtime.queries import QUERIES
from runtime.settings import Settings, load

pytestmark = pytest.mark.anyio

PHONE = "13800138000"
DOUBTED = "13900139000"
NOW = datetime.now(UTC)
AGO = NOW - timedelta(hours=1)

# A table in which each job leaves something, by which one sees that it did its work here.
LEFT = {
    "settle": "reports",
    "join_orphans": "reports",
    "give_up_dead_sends": "submissions",
    "link": "chain_links",
    "query_status": "messages",
    "pull_reports": "reports",
    "pull_inbound": "pulls",
    "query_review": "reviews",
    "resolve": "messages",
    "inbound-list": "inbound",
    "sweep": "sweeps",
    "expire": "messages",
    "balance": "balances",
    "suspects": "alarms",
    "arrivals": "arrival_days",
    "silence": "alarms",
    "drift": "positions",
    "retention": "purges",
    "watch": "alarms",
    "budget": "alarms",
    "alerts": "alerts",
}
# What a vendor handed out once is kept by whoever read it.
KEPT = {"records", "batches", "pulls"}

# Notes each write and whether its transaction began with the fence, whose mark is its pause.
_WATCHED = """
CREATE TABLE written (name text NOT NULL, level text NOT NULL, fenced boolean NOT NULL);
CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO written VALUES (
        tg_table_name, tg_level, current_setting('idle_in_transaction_session_timeout') = '10s'
    );
    RETURN NULL;
END
$$;
DO $$
DECLARE
    watched record;
BEGIN
    FOR watched IN
        SELECT tablename AS name
        FROM pg_tables
        WHERE schemaname = 'public' AND tablename NOT IN ('written', 'leases', 'schema_migrations')
    LOOP
        EXECUTE format(
            'CREATE TRIGGER note_rows AFTER INSERT OR UPDATE OR DELETE ON %I'
            ' FOR EACH ROW EXECUTE FUNCTION note_write()', watched.name);
        EXECUTE format(
            'CREATE TRIGGER note_writes AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION note_write()', watched.name);
    END LOOP;
END
$$;
"""


def _answers(box: Box) -> Any:
    """What three vendors at one address say: each has something for every question."""

    def answer(path: str, params: dict[str, str]) -> Answer:
        match path.rpartition("/")[2]:
            case "query_status":
                return state(params["id"], PHONE, 1, "2026-10-02 11:00:00")
            case "query_sign":
                approved = ReviewResult(
                    kind=ReviewKind.SIGN,
                    vendor_id=params["id"],
                    status=ReviewStatus.APPROVED,
                    vendor_code="1",
                )
                return told(approved)
            case "list_inbound":
                return told(InboundMessage(phone=PHONE, content="T", sent_at=NOW))
            case "list_sent":
                return told()
            case "alert":
                return Answer(b"ok")
            case "query_balance":
                return told(Balance(kind="balance", amount=Decimal(1)))
        return box.answer(path, params)

    return answer


def _settings(folder: Path, url: str) -> Settings:
    lines = ['data_dir = "data"']
    for name, gateway, place, credentials in (
        ("api", "thinkapi", url, '{ app_code = "code" }'),
        ("sms", "thinksms", url, '{ user_id = "7", account = "me", password = "hush" }'),
        ("main", "every", f"{url}/main", '{ password = "old-password" }'),
    ):
        lines += [f"[accounts.{name}]", f'gateway = "{gateway}"', f'base_url = "{place}"']
        lines += [f"credentials = {credentials}", "requests_per_second = 1000"]
        lines.append("retention = { bodies_days = 30 }")
        if name == "api":
            lines += ['monthly_budget = "0.01"', f"[[accounts.{name}.tariffs]]"]
            lines += ["from = 2020-01-01", 'price = "1"', 'basis = "submitted"']
    lines += ["[alerts.ops]", f'url = "{url.replace("http", "json")}/alert"']
    file = folder / "huizhi.toml"
    file.write_text("\n".join(lines), "utf-8")
    return load(file, env={})


async def _push(
    pool: Any,
    asking: dict[str, Caller],
    id: str,
    phone: str,
    settled: bool,
    *,
    said: str | None = None,
    received_at: datetime = NOW,
) -> None:
    sms = {"id": id, "phone": phone, "status": 1, "message": "", "receiveDate": said}
    body = json.dumps({"action": "report", "sms": sms}).encode()
    callback = Callback(method="POST", query=b"", headers={}, body=body)
    record = records.of_callback("api", callback, received_at=received_at, peer="192.0.2.1")
    async with pool.acquire() as connection:
        batch, fresh = await records.store(connection, [record], recorder="dead", now=AGO)
    if settled:
        await asking["api"].settle(batch, fresh)


async def _register(pool: Any, read: Settings, account: str, id: str, sent_at: datetime) -> None:
    sent = ledger.Sent(
        account=account, vendor_message_id=id, phone=PHONE, sent_at=sent_at, segments=1
    )
    await ledger.register(pool, read.accounts, [sent], now=AGO)


async def _something_for_every_job(pool: Any, read: Settings, asking: dict[str, Caller]) -> None:
    await _register(pool, read, "api", "asked", AGO)
    await _register(pool, read, "main", "over", NOW - timedelta(days=9))
    # Registered by a process that died before it joined the report that had come before.
    await _push(pool, asking, "early", PHONE, settled=True)
    await _register(pool, read, "api", "early", AGO)
    await pool.execute("UPDATE reports SET orphan = TRUE")
    await _push(pool, asking, "unsettled", PHONE, settled=False)
    await pool.execute(
        "INSERT INTO reviews (account, kind, vendor_id, status, next_poll_at)"
        " VALUES ('main', 'sign', '7', 'pending', now())"
    )
    # A page that was lost on the way.
    await pool.execute(
        "INSERT INTO pulls (id, account, call, token, asked_rows, state, intended_at, finished_at)"
        " VALUES ($1, 'sms', 'pull_reports', 0, 10, 'lost', $2, $2)",
        uuid4(),
        AGO,
    )
    # A send whose sender died, and one of which nobody knows, but a report tells.
    for account, state_of_it in (("sms", "queued"), ("api", "indeterminate")):
        send, submission = uuid4(), uuid4()
        dead = NOW - timedelta(minutes=1) if state_of_it == "queued" else None
        await pool.execute(
            "INSERT INTO sends (id, account, request_digest, requested_at, duplicates, alive_until)"
            " VALUES ($1, $2, '', now(), '{}', $3)",
            send,
            account,
            dead,
        )
        await pool.execute(
            "INSERT INTO submissions (id, send_id, account, seq, numbers, state)"
            " VALUES ($1, $2, $3, 1, 1, $4)",
            submission,
            send,
            account,
            state_of_it,
        )
        name = sends.provisional_id(submission)
        await pool.execute(
            QUERIES["add_submitting"],
            account,
            AGO,
            AGO,
            None,
            None,
            None,
            [shard_of(account, name)],
            [message_id(account, name, DOUBTED)],
            [name],
            [DOUBTED],
            [1],
            ["T"],
            [submission],
        )
    await pool.execute(
        "UPDATE messages SET status = 'indeterminate' WHERE account = 'api'"
        " AND status = 'submitting'"
    )
    await _push(pool, asking, "real", DOUBTED, settled=True)
    # A push that nobody can believe; long enough ago for its document to be read.
    await _register(pool, read, "api", "believed", AGO)
    await _push(
        pool,
        asking,
        "believed",
        PHONE,
        settled=True,
        said="2020-01-01 00:00:00",
        received_at=NOW - timedelta(minutes=10),
    )
    # A push of which nobody needs the bytes any more.
    await _push(pool, asking, "old", PHONE, settled=True, received_at=NOW - timedelta(days=40))
    # Receipts that come at once, and have stopped.
    for number in range(100):
        await _register(pool, read, "sms", f"silent-{number}", NOW - timedelta(minutes=3))
    model = silence.Model(
        days=9,
        messages=900,
        shares=[1.0, *[0.0] * silence.LAGS],
        most=1000.0,
        spread={str(window): 0.01 for window in silence.WINDOWS},
    )
    await pool.execute(
        "INSERT INTO arrival_curves VALUES ('sms', now(), 'push', $1)", msgspec.to_builtins(model)
    )


@asynccontextmanager
async def _world(
    pool: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[list[Job], Vendor]]:
    """All jobs of three accounts, each with something to do, in a database that notes writes."""
    spoken = {**GATEWAYS, "every": EVERY}
    monkeypatch.setattr(runtime_settings, "GATEWAYS", spoken)
    monkeypatch.setattr(runtime_settings, "GATEWAY_NAMES", tuple(spoken))
    with serving(_answers(Box(3))) as vendor:
        read = _settings(folder, vendor.url)
        async with open_client() as http:
            asking = callers(read, pool, http, recorder="test")
            await _something_for_every_job(pool, read, asking)
            await pool.execute(_WATCHED)
            yield jobs_of(read, asking), vendor


async def _written(pool: Any, *, fenced: bool, level: str) -> set[str]:
    rows = await pool.fetch(
        "SELECT DISTINCT name FROM written WHERE fenced = $1 AND level = $2", fenced, level
    )
    return {row["name"] for row in rows}


async def test_every_write_of_every_job_is_in_a_transaction_of_its_lease(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    async with _world(pool, tmp_path, monkeypatch) as (jobs, _):
        # Linking last: by then there is something, and all of it is settled.
        for job in sorted(jobs, key=lambda job: (job.name == "link", job.name != "settle")):
            await pool.execute("TRUNCATE written")
            await run(pool, job, holder="me")
            unfenced = await _written(pool, fenced=False, level="STATEMENT")
            assert unfenced <= (KEPT if job.name.startswith("pull_") else set()), job
            changed = await _written(pool, fenced=True, level="ROW")
            seen.setdefault(job.name, set()).update(changed - {"jobs"})
    failed = await pool.fetch("SELECT name, account, error FROM jobs WHERE error IS NOT NULL")
    assert [tuple(row) for row in failed] == []
    assert {name for name, table in LEFT.items() if table in seen[name]} == set(seen) == set(LEFT)


def test_every_job_has_a_name_for_people() -> None:
    for language in LANGUAGES:
        named = {key for key in WORDS[language] if key.startswith("job.")}
        assert named == {f"job.{name}" for name in LEFT}


async def test_a_replaced_holder_changes_nothing_in_any_job_and_reads_no_page(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _world(pool, tmp_path, monkeypatch) as (jobs, vendor):
        for job in jobs:
            async with leases.held(pool, job.lease_name, holder="hung") as hung:
                assert hung is not None
                await pool.execute("UPDATE leases SET expires_at = now()")
                async with leases.held(pool, job.lease_name, holder="next") as lease:
                    assert lease is not None
                    with pytest.raises(LeaseLost):
                        await job.work(hung)
                    # So does the note of how it went.
                    with pytest.raises(LeaseLost):
                        await hung.pool.execute(QUERIES["job_started"], job.name, job.account, NOW)
    assert await pool.fetchval("SELECT count(*) FROM written") == 0
    asked = {path.rpartition("/")[2] for path, _ in vendor.requests}
    assert asked <= {"query_balance", "sms.aspx", "list_sent", "list_inbound"}


async def test_who_hangs_within_a_transaction_is_replaced_in_time_and_nothing_of_it_stands(
    pool: Any,
) -> None:
    seconds = 1.5
    # Nobody renews it: its process is stopped.
    token = await pool.fetchval(QUERIES["acquire_lease"], "job", "hung", seconds)
    ends = await pool.fetchval("SELECT expires_at FROM leases")
    hung = Lease("job", token, pool, ends=float("inf"), ttl_seconds=seconds)
    add = "INSERT INTO sweeps VALUES ('main', 'list_sent', now(), 1)"
    with pytest.raises((*DATABASE_ERRORS, LeaseLost)):  # noqa: PT012  the block is what raises
        async with hung.pool.acquire() as connection, connection.transaction():
            await connection.execute(add)
            async with leases.held(pool, "job", holder="b", patience_seconds=30) as lease:
                assert lease is not None
                assert lease.token == token + 1
                taken = await pool.fetchval("SELECT clock_timestamp()")
                assert timedelta(0) <= taken - ends < timedelta(seconds=5)
            await connection.execute(add)
    assert await pool.fetchval("SELECT count(*) FROM sweeps") == 0


async def test_what_is_guarded_stops_when_the_lease_is_lost(pool: Any) -> None:
    stopped = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with leases.held(pool, "job", holder="a", ttl_seconds=0.6) as lease:
        assert lease is not None
        await pool.execute("UPDATE leases SET expires_at = now()")
        with pytest.raises(LeaseLost, match="the lease of job was lost"):
            await lease.guard(work())
    assert stopped.is_set()
