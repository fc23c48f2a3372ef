"""Jobs: what the reconciler does by itself, when, and how that went.

The scheduler is a timer and nothing else. Each job runs in one place at a time, by its lease; how
it went stands in a row of `jobs`; a failing one waits longer each time.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from gateways.errors import GatewayError
from gateways.gateway import Call
from gateways.http import open_client
from reconciler import alerts, arrivals, chain, drift, retention, suspects, watching
from reconciler import lease as leases
from reconciler.backoff import backoff
from reconciler.balances import poll_balance
from reconciler.lease import Lease
from reconciler.poll import Caller, Done, callers, expire_by_clock, poll_reviews, poll_statuses
from reconciler.pull import PULLS, pull
from reconciler.sending import give_up_dead, resolve
from reconciler.sweep import sweep
from runtime import LeaseLost, Problem, metrics, settlement, telemetry
from runtime.database import DATABASE_ERRORS
from runtime.pseudonyms import pseudonyms
from runtime.queries import QUERIES
from runtime.settings import AccountSettings, Settings

log = structlog.get_logger()

STATUS_SECONDS = 5.0
PULL_SECONDS = 10.0
REVIEW_SECONDS = 30.0
EXPIRY_SECONDS = 30.0
INBOUND_SECONDS = 300.0
SWEEP_SECONDS = 3600.0
BALANCE_SECONDS = 3600.0
SETTLE_SECONDS = 5.0
ORPHANS_SECONDS = 60.0
SENDS_SECONDS = 5.0
LINK_SECONDS = 60.0
SUSPECTS_SECONDS = 60.0
SILENCE_SECONDS = 60.0
ARRIVALS_SECONDS = 3600.0
DRIFT_SECONDS = 60.0
WATCH_SECONDS = 60.0
BUDGET_SECONDS = 3600.0
ALERTS_SECONDS = 10.0
RETENTION_SECONDS = 3600.0
RESOLVE_SECONDS = 10.0
# A job that runs less often is looked at as often: to be taken up soon after its holder died.
LONGEST_TICK_SECONDS = 10.0
# What a job that failed first waits is twice its pause, or twice this if that is longer.
LONGEST_RETRY_SECONDS = 60.0
# So much earlier than after `every_seconds` a job is due too: no two ticks are quite as far apart.
_EARLY = 0.2
LONGEST_BACKOFF_SECONDS = 600.0
# How often the clock is compared with the one that nobody sets, and what is a step.
CLOCK_SECONDS = 1.0
_STEP_SECONDS = 0.5
# A vendor that refuses, most likely for a wrong credential, waits for a person.
LONGEST_REFUSED_SECONDS = 3600.0
# Batches unsettled for longer were left behind by a dead or overloaded process.
LEFT_BEHIND_SECONDS = 10.0
# By hand one waits so long for a job that runs elsewhere at this moment.
PATIENCE_SECONDS = 10.0


Work = Callable[[Lease], Coroutine[Any, Any, Done]]


class Summary(Done, kw_only=True):
    """What one pass did at one account; `skipped` names calls that another process is making."""

    account: str
    skipped: list[str] = msgspec.field(default_factory=list)


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """Something done every so often, given its lease; `account` "" stands for all.

    All that it writes it writes through the lease's pool. Every process has the same jobs and does
    what no other has done lately; `begun` says that this one did so before.
    """

    name: str
    account: str
    every_seconds: float
    work: Work
    begun: bool = False
    failures_in_row: int = 0
    not_before: float = 0.0
    running: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def tick_seconds(self) -> float:
        """How often it is looked at whether to run it."""
        return min(self.every_seconds, LONGEST_TICK_SECONDS)

    @property
    def lease_name(self) -> str:
        """The name of the lease under which it runs, here or anywhere."""
        return f"{self.name}:{self.account}"


class Jobs:
    """Runs all jobs of `settings` while its context is open.

    Leaving it stops what runs: a page on its way lands first, everything else is taken up again by
    whoever runs the jobs next.
    """

    def __init__(self, settings: Settings, pool: Any, asking: Mapping[str, Caller]) -> None:
        self._settings = settings
        self._pool = pool
        self._asking = asking
        self._holder = holder()
        self._jobs: list[Job] = []
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "Jobs":
        self._jobs = jobs_of(self._settings, self._asking)
        # Each start and end is no news; what fails is logged and counted here.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        scheduler: Any = AsyncIOScheduler(timezone=UTC)  # type: ignore[no-untyped-call]
        for job in self._jobs:
            scheduler.add_job(
                self._fire,
                "interval",
                seconds=job.tick_seconds,
                args=[job],
                next_run_time=datetime.now(UTC),
                misfire_grace_time=None,
                coalesce=True,
            )
        scheduler.start()
        watch = asyncio.create_task(_watch_clock(scheduler))
        self._open.push_async_callback(self._stop, scheduler, watch)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def _stop(self, scheduler: Any, watch: asyncio.Task[None]) -> None:
        scheduler.pause()
        running = [watch, *(job.running for job in self._jobs if job.running is not None)]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        # Only now: shutting down cancels what the scheduler runs.
        scheduler.shutdown(wait=False)

    async def _fire(self, job: Job) -> None:
        if (job.running is None or job.running.done()) and time.monotonic() >= job.not_before:
            job.running = asyncio.create_task(self._run(job))

    async def _run(self, job: Job) -> None:
        """Run `job` if it is due, whichever process ran it last; the first time in any case.

        For a process that has just started may know better: settings that were wrong are mended.
        """
        due_in = None
        if job.begun:
            every = job.every_seconds - _EARLY * job.tick_seconds
            # Without a database `run` says so.
            with contextlib.suppress(*DATABASE_ERRORS):
                due_in = await self._pool.fetchval(
                    QUERIES["job_due_in"], job.name, job.account, every, datetime.now(UTC)
                )
        if due_in is not None and due_in > 0:
            job.not_before = time.monotonic() + due_in
            return
        job.begun = True
        await run(self._pool, job, holder=self._holder)


async def _watch_clock(scheduler: Any) -> None:
    """Have every job looked at when somebody has set the clock.

    The scheduler goes by that clock: set back, it would hold all jobs up for as long.
    """
    ahead = time.time() - time.monotonic()
    while True:
        await asyncio.sleep(CLOCK_SECONDS)
        now = time.time() - time.monotonic()
        if abs(now - ahead) > _STEP_SECONDS:
            log.warning("clock.set", seconds=round(now - ahead, 3))
            for scheduled in scheduler.get_jobs():
                scheduled.modify(next_run_time=datetime.now(UTC))
        ahead = now


async def run(pool: Any, job: Job, *, holder: str) -> None:
    """Run `job` once, unless it is running elsewhere, and note how it went; raises nothing."""
    done = Done()
    failure: str | None = None
    started = datetime.now(UTC)
    try:
        async with leases.held(pool, job.lease_name, holder=holder) as lease:
            if lease is None:
                return
            job.failures_in_row = await lease.pool.fetchval(
                QUERIES["job_started"], job.name, job.account, started
            )
            try:
                with telemetry.span(f"job {job.name}", job=job.name, account=job.account):
                    done = await lease.guard(job.work(lease))
                failure = "; ".join(done.failures) or None
            except Exception as error:
                failure = _told(error)
            finished = datetime.now(UTC)
            await lease.pool.execute(
                QUERIES["job_finished"],
                job.name,
                job.account,
                finished,
                failure,
                _detail(done),
                finished + timedelta(seconds=_wait(job, done)) if failure else None,
            )
    except Exception as error:
        failure = failure or _told(error)
    _note(job, failure, _wait(job, done))


def _detail(done: Done) -> dict[str, Any]:
    counts = msgspec.structs.asdict(done)
    return {name: count for name, count in counts.items() if count and name != "failures"}


def _told(error: Exception) -> str:
    """Say what `error` is without quoting what it may quote."""
    if isinstance(error, LeaseLost | Problem | GatewayError):
        return str(error)
    if isinstance(error, DATABASE_ERRORS):
        return f"the database or a file cannot be used: {type(error).__name__}"
    log.error("job.crashed", exc_info=error)
    return f"unexpected: {type(error).__name__}"


def _wait(job: Job, done: Done) -> float:
    """Say how many seconds `job` waits if it failed, `done` being what it did."""
    longest = LONGEST_REFUSED_SECONDS if done.refused else LONGEST_BACKOFF_SECONDS
    pause = min(job.every_seconds, LONGEST_RETRY_SECONDS)
    wait = backoff(pause, job.failures_in_row + 1, longest)
    return max(wait, done.retry_after_seconds)


def _note(job: Job, failure: str | None, wait: float) -> None:
    metrics.JOB_RUNS.labels(job.name, job.account, "ok" if failure is None else "failed").inc()
    if failure is None:
        job.failures_in_row = 0
        job.not_before = time.monotonic() + job.every_seconds - job.tick_seconds
        return
    job.failures_in_row += 1
    job.not_before = time.monotonic() + wait
    log.error(
        "job.failed",
        job=job.name,
        account=job.account,
        failures_in_row=job.failures_in_row,
        again_seconds=wait,
        error=failure,
    )


def holder() -> str:
    """What leases and batches call this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def pages(settings: Settings) -> Path:
    """The folder of read-once pages on their way into the database."""
    return settings.data_dir / "pages"


def jobs_of(settings: Settings, asking: Mapping[str, Caller]) -> list[Job]:
    """List all jobs: those of each account as its vendor allows, and those of the house."""
    jobs = [
        Job(
            name="settle",
            account="",
            every_seconds=SETTLE_SECONDS,
            work=lambda lease: settle(settings, lease.pool, timedelta(seconds=LEFT_BEHIND_SECONDS)),
        ),
        Job(
            name="join_orphans",
            account="",
            every_seconds=ORPHANS_SECONDS,
            work=lambda lease: join_orphans(lease.pool),
        ),
        Job(
            name="give_up_dead_sends",
            account="",
            every_seconds=SENDS_SECONDS,
            work=lambda lease: give_up_dead_sends(settings, lease.pool),
        ),
        Job(name="link", account="", every_seconds=LINK_SECONDS, work=_link),
        Job(
            name="suspects",
            account="",
            every_seconds=SUSPECTS_SECONDS,
            work=lambda lease: _watch_suspects(settings, lease.pool),
        ),
        Job(
            name="arrivals",
            account="",
            every_seconds=ARRIVALS_SECONDS,
            work=lambda lease: _learn_arrivals(settings, lease),
        ),
        Job(
            name="silence",
            account="",
            every_seconds=SILENCE_SECONDS,
            work=lambda lease: _watch_silence(settings, lease.pool),
        ),
        Job(
            name="drift",
            account="",
            every_seconds=DRIFT_SECONDS,
            work=lambda lease: _read_documents(settings, lease),
        ),
    ]
    begun = datetime.now(UTC)
    jobs.append(
        Job(
            name="watch",
            account="",
            every_seconds=WATCH_SECONDS,
            work=lambda lease: _watch(settings, lease.pool, _pauses(jobs), begun),
        )
    )
    if settings.alerts:
        jobs.append(
            Job(
                name="alerts",
                account="",
                every_seconds=ALERTS_SECONDS,
                work=lambda lease: _tell(settings, lease),
            )
        )
    jobs += [
        Job(
            name="budget",
            account=name,
            every_seconds=BUDGET_SECONDS,
            work=partial(_watch_budget, account),
        )
        for name, account in settings.accounts.items()
        if account.monthly_budget is not None
    ]
    jobs += [
        Job(
            name="retention",
            account=name,
            every_seconds=RETENTION_SECONDS,
            work=partial(_retain, settings, account),
        )
        for name, account in settings.accounts.items()
    ]
    for name, caller in asking.items():
        jobs += [
            Job(name=work_name, account=name, every_seconds=seconds, work=work)
            for work_name, seconds, work in _works(caller, pages(settings), all_now=False)
        ]
        if caller.offers("query_balance"):
            jobs.append(
                Job(
                    name="balance",
                    account=name,
                    every_seconds=BALANCE_SECONDS,
                    work=partial(_balance, caller),
                )
            )
    return jobs


def _pauses(jobs: Sequence[Job]) -> dict[tuple[str, str], float]:
    return {(job.name, job.account): job.every_seconds for job in jobs}


def pauses_of(settings: Settings) -> dict[tuple[str, str], float]:
    """Return the seconds between two runs of each job, by its name and account."""
    # Nobody is called: without a pool and a client there is no way to.
    asking = callers(settings, None, cast(Any, None), recorder="")
    return _pauses(jobs_of(settings, asking))


def _works(caller: Caller, folder: Path, *, all_now: bool) -> list[tuple[str, float, Work]]:
    """Name what can be done at an account, how often, and how."""
    works: list[tuple[str, float, Work]] = []
    if caller.offers("query_status"):
        works.append(
            (
                "query_status",
                STATUS_SECONDS,
                lambda lease: poll_statuses(caller.under(lease), all_now=all_now),
            )
        )
    for call in PULLS:
        if caller.offers(call):
            works.append((call.value, PULL_SECONDS, partial(_pull, caller, call, folder)))
    if caller.offers("query_review"):
        works.append(
            (
                "query_review",
                REVIEW_SECONDS,
                lambda lease: poll_reviews(caller.under(lease), all_now=all_now),
            )
        )
    if caller.offers(Call.SEND):
        works.append(("resolve", RESOLVE_SECONDS, lambda lease: resolve(caller.under(lease))))
    if caller.offers("list_inbound"):
        works.append(("inbound-list", INBOUND_SECONDS, partial(sweep, caller, Call.LIST_INBOUND)))
    if caller.offers("list_sent"):
        works.append(("sweep", SWEEP_SECONDS, partial(sweep, caller, Call.LIST_SENT)))
    reports = caller.settings.gateway.reports
    if reports and not caller.offers("query_status") and not caller.offers(Call.PULL_REPORTS):
        works.append(
            (
                "expire",
                EXPIRY_SECONDS,
                lambda lease: _expire(caller.under(lease), datetime.now(UTC)),
            )
        )
    return works


async def _pull(caller: Caller, call: Call, folder: Path, lease: Lease) -> Done:
    begun = datetime.now(UTC)
    done = await pull(caller, call, lease, folder)
    if call == Call.PULL_REPORTS and not done.failures and not caller.offers("query_status"):
        # A whole pass brought no final report: now the clock may speak.
        done.add(await _expire(caller.under(lease), begun))
    return done


async def _balance(caller: Caller, lease: Lease) -> Done:
    return await poll_balance(caller.under(lease))


async def _expire(caller: Caller, due_by: datetime) -> Done:
    return Done(expired=await expire_by_clock(caller, due_by))


async def settle(settings: Settings, pool: Any, left_for: timedelta) -> Done:
    """Settle all batches left unsettled for so long."""
    while True:
        now = datetime.now(UTC)
        found = await settlement.settle_left_behind(
            pool, settings.accounts, recorded_before=now - left_for, now=now
        )
        if not found:
            return Done()
        log.warning("settlement.taken_up", batches=found)


async def join_orphans(pool: Any) -> Done:
    """Join reports that came before their message, where registering it did not get to that."""
    async with pool.acquire() as connection:
        return Done(final=await settlement.join_left_orphans(connection))


async def _link(lease: Lease) -> Done:
    await chain.link_all(lease)
    return Done()


async def _watch_suspects(settings: Settings, pool: Any) -> Done:
    await suspects.watch(pool, settings.accounts, now=datetime.now(UTC))
    return Done()


async def _learn_arrivals(settings: Settings, lease: Lease) -> Done:
    await arrivals.learn(settings.accounts, lease, now=datetime.now(UTC))
    return Done()


async def _watch_silence(settings: Settings, pool: Any) -> Done:
    await arrivals.watch(pool, settings.accounts, now=datetime.now(UTC))
    return Done()


async def _read_documents(settings: Settings, lease: Lease) -> Done:
    await drift.read(settings.accounts, lease, now=datetime.now(UTC))
    return Done()


async def _watch(
    settings: Settings, pool: Any, pauses: Mapping[tuple[str, str], float], since: datetime
) -> Done:
    await watching.watch(pool, settings, pauses, since=since, now=datetime.now(UTC))
    return Done()


async def _watch_budget(account: AccountSettings, lease: Lease) -> Done:
    await watching.watch_budget(lease.pool, account, now=datetime.now(UTC))
    return Done()


async def _tell(settings: Settings, lease: Lease) -> Done:
    await alerts.tell(settings, lease, now=datetime.now(UTC))
    return Done()


async def _retain(settings: Settings, account: AccountSettings, lease: Lease) -> Done:
    done = await retention.purge_account(
        lease, account, partial(pseudonyms, settings), by="retention", now=datetime.now(UTC)
    )
    return Done(
        purged=done.bodies + done.texts + done.numbers,
        held=done.held_unclosed + done.held_disputed,
    )


async def give_up_dead_sends(settings: Settings, pool: Any) -> Done:
    """Conclude what a sender left behind that is gone."""
    if found := await give_up_dead(pool, settings.accounts):
        log.warning("sends.given_up", submissions=found)
    return Done()


async def one_pass(
    settings: Settings,
    pool: Any,
    account: str | None = None,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[Summary]:
    """Ask all vendors, or one account's, once for everything, whatever the back-off.

    What another process does for longer than `patience_seconds` is skipped. `progress` is told how
    many of how many questions are done. Raises `Problem` for an
    account that settings do not have, and one of `DATABASE_ERRORS`.
    """
    if account is not None and account not in settings.accounts:
        known = ", ".join(settings.accounts) or "none"
        raise Problem(f"no account {account!r} in {settings.file}; there: {known}")
    # First what is already here, so that nothing is asked or expired for want of settling it.
    await settle(settings, pool, timedelta(0))
    await join_orphans(pool)
    await give_up_dead_sends(settings, pool)
    async with open_client() as http:
        asking = callers(settings, pool, http, recorder=holder())
        folder = pages(settings)
        asked = [caller for name, caller in asking.items() if account in (None, name)]
        every = sum(len(_works(caller, folder, all_now=True)) for caller in asked)
        done = count(1)
        ended = await asyncio.gather(
            *(
                _pass_at(caller, folder, patience_seconds, lambda: progress(next(done), every))
                for caller in asked
            ),
            return_exceptions=True,
        )
    summaries = []
    for result in ended:
        if isinstance(result, BaseException):
            raise result
        summaries.append(result)
    return summaries


async def _pass_at(
    caller: Caller, folder: Path, patience_seconds: float, step: Callable[[], None]
) -> Summary:
    summary = Summary(account=caller.name)
    for name, _, work in _works(caller, folder, all_now=True):
        lease_name = f"{name}:{caller.name}"
        async with leases.held(
            caller.pool, lease_name, holder=holder(), patience_seconds=patience_seconds
        ) as lease:
            if lease is None:
                summary.skipped.append(name)
            else:
                try:
                    summary.add(await lease.guard(work(lease)))
                except LeaseLost as error:
                    summary.failures.append(str(error))
        step()
    return summary
