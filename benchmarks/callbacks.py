"""Durable callbacks per second, against `pgbench` inserting the same rows and a plain receiver."""

import asyncio
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks import load, machine
from benchmarks.baseline import Pgbench, Run, script
from benchmarks.figures import Figure, compared
from benchmarks.ground import (
    PULLED,
    PUSHED,
    TOKEN,
    CannotRun,
    Ground,
    Service,
    plain_receiver,
    prepared,
    receiver,
)

CONNECTIONS = 64
# A round has messages for so many times the rate before; one that runs out of them ends early.
_HEADROOM = 1.5
_FIRST_RATE = 20_000.0
_FIRST_PLAIN_RATE = 2_000.0
_SAMPLE_SECONDS = 0.25
_SETTLE_SECONDS = 600.0
_SENT_FROM = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Pushed:
    """One half of a round; `used` is processor time by what used it, in seconds."""

    outcome: load.Outcome
    left_batches: int
    left_seconds: float
    behind_seconds: float
    used: dict[str, float]
    wal_bytes: int

    @property
    def rate(self) -> float:
        return self.outcome.acknowledged / self.outcome.seconds

    @property
    def settled_rate(self) -> float:
        return self.outcome.acknowledged / (self.outcome.seconds + self.left_seconds)


async def run(parent: Path, *, quick: bool) -> list[Figure]:
    """Measure rounds of both halves, one after the other, on one server."""
    # The last round is a long one, which says whether the speed lasts.
    lengths = [2.0, 2.0] if quick else [8.0] * 4 + [60.0]
    async with prepared(parent, "callbacks") as ground:
        pgbench = await Pgbench.found(ground)
        for made in ("baseline_records", "plain_tables", "plain_callbacks", "plain_index"):
            await ground.execute(made)
        with receiver(ground) as service, plain_receiver(ground) as ordinary:
            pusher, plain = Pusher(ground, service), _Plain(ground, ordinary)
            # Once without counting: prepared statements, caches, and the first pages of the indexes.
            await pusher.round(2.0)
            await plain.round(2.0)
            row = await _row(ground)
            text = script("insert_record")
            await pgbench.run(text, row, clients=CONNECTIONS, seconds=2.0)
            measured: list[tuple[Pushed, Run]] = []
            plains: list[tuple[float, float]] = []
            wal: list[float] = []
            for seconds in lengths:
                pushed = await pusher.round(seconds)
                await ground.settle_down()
                before = await ground.value("wal_position")
                baseline = await pgbench.run(text, row, clients=CONNECTIONS, seconds=seconds)
                wal.append(
                    float(await ground.value("wal_position") - before) / baseline.transactions
                )
                measured.append((pushed, baseline))
                await ground.settle_down()
                plains.append((pushed.rate, await plain.round(min(seconds, 8.0))))
            memory = [machine.peak_bytes(process) for process in machine.below(service.process)]
        sizes = await ground.row("record_bytes")
    halves = [pushed for pushed, _ in measured]
    baselines = [baseline for _, baseline in measured]
    rows = sum(baseline.transactions for baseline in baselines)
    total = sum(pushed.outcome.acknowledged for pushed in halves)
    return [
        compared(
            "callbacks",
            f"single-report callbacks, acknowledged after their commit, {CONNECTIONS} connections",
            "callbacks/s",
            [(pushed.rate, baseline.rate) for pushed, baseline in measured],
            baseline_work=f"pgbench, single-row inserts of the same rows, {CONNECTIONS} clients",
            at_least=1.0,
            stretch=1.25,
            notes={
                f"the last round, {lengths[-1]:.0f} s": {
                    "callbacks/s": halves[-1].rate,
                    "ratio": halves[-1].rate / baselines[-1].rate,
                    "settlement behind at most, seconds": halves[-1].behind_seconds,
                },
                "recorded = acknowledged": f"{total:,} callbacks, each one's message delivered",
                "refused with 503": sum(pushed.outcome.refused for pushed in halves),
                "ratio until all is settled": median(
                    pushed.settled_rate / baseline.rate for pushed, baseline in measured
                ),
                "unsettled at the end": {
                    "batches": max(pushed.left_batches for pushed in halves),
                    "seconds": max(pushed.left_seconds for pushed in halves),
                },
                "settlement behind at most, seconds": max(p.behind_seconds for p in halves),
                "milliseconds": {
                    "p50": median(pushed.outcome.p50 for pushed in halves) * 1000,
                    "p99": median(pushed.outcome.p99 for pushed in halves) * 1000,
                    "worst": max(pushed.outcome.worst for pushed in halves) * 1000,
                },
                "ratio of the processor time of both, load generators included": (
                    sum(sum(one.used.values()) for one in baselines) / rows
                )
                / (sum(sum(p.used.values()) for p in halves) / total),
                "processor microseconds a callback": {
                    name: sum(p.used[name] for p in halves) / total * 1e6 for name in halves[0].used
                },
                "processor microseconds a row of the baseline": {
                    name: sum(one.used[name] for one in baselines) / rows * 1e6
                    for name in baselines[0].used
                },
                "WAL bytes a row": {
                    "huizhi": sum(pushed.wal_bytes for pushed in halves) / total,
                    "baseline": median(wal),
                },
                "row bytes": {"huizhi": sizes["ours"], "baseline": sizes["baseline"]},
                "worker MiB at most": [round(peak / 2**20) for peak in memory if peak > 2**24],
            },
        ),
        compared(
            "callbacks-plain",
            "the same rounds",
            "callbacks/s",
            plains,
            baseline_work="FastAPI and SQLAlchemy, a commit for each callback (benchmarks/plain.py)",
            at_least=12.0,
        ),
    ]


class _Plain:
    """Pushes to the plain receiver."""

    def __init__(self, ground: Ground, service: Service) -> None:
        self._ground = ground
        self._service = service
        self._next = 0
        self._rate = _FIRST_PLAIN_RATE
        self._acknowledged = 0

    async def round(self, seconds: float) -> float:
        """Push for `seconds`, and return how many a second were acknowledged."""
        first, count = self._next, int(seconds * self._rate * _HEADROOM * 2)
        self._next += count
        await self._ground.execute("fill_plain", first, first + count - 1)
        await self._ground.settle_down()
        outcome = await generate(
            load.Plan(
                port=self._service.port,
                path=f"/callbacks/{PUSHED}/{TOKEN}",
                connections=CONNECTIONS,
                seconds=seconds,
                first=first,
                count=count,
            )
        )
        self._acknowledged += outcome.acknowledged
        stored = await self._ground.row("plain_recorded")
        if outcome.refused or set(stored) != {self._acknowledged}:
            raise CannotRun(
                f"the plain receiver acknowledged {self._acknowledged}, refused {outcome.refused},"
                f" and stored {stored['callbacks']} and {stored['delivered']}"
            )
        self._rate = outcome.acknowledged / outcome.seconds
        return self._rate


class Pusher:
    """Pushes the reports of messages that it has registered before, and checks what was stored.

    `reports` of them in each callback, which then go to an account whose vendor pushes many.
    """

    def __init__(self, ground: Ground, service: Service, *, reports: int = 1) -> None:
        self._ground = ground
        self._service = service
        self._reports = reports
        self._account = PUSHED if reports == 1 else PULLED
        self._next = 0
        self._rate = _FIRST_RATE / reports
        self._behind = 0.0
        self._acknowledged = 0
        self._refused = 0

    async def round(
        self, seconds: float, *, rate: float | None = None, connections: int = CONNECTIONS
    ) -> Pushed:
        """Push for `seconds`, wait until all is settled, and return what came of it.

        As much as is acknowledged, or `rate` callbacks a second.
        """
        callbacks = seconds * rate + 1 if rate else seconds * self._rate * _HEADROOM
        first, count = self._next, int(callbacks) * self._reports
        self._next += count
        await self._ground.execute(
            *("fill_messages", self._account, first, first + count - 1),
            *(self._reports, _SENT_FROM, 0.001),
        )
        await self._ground.execute("analyze_messages")
        await self._ground.settle_down()
        plan = load.Plan(
            port=self._service.port,
            path=f"/callbacks/{self._account}/{TOKEN}",
            connections=connections,
            seconds=seconds,
            first=first,
            count=count,
            reports=self._reports,
            rate=rate,
        )
        server = await self._ground.value("server_process")
        before = (
            machine.processor_seconds(self._service.process),
            machine.processor_seconds(server),
            await self._ground.value("wal_position"),
        )
        self._behind = 0.0
        watch = asyncio.create_task(self._watch())
        try:
            outcome = await generate(plan)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        ended = time.perf_counter()
        left = await self._ground.row("unsettled")
        await self._settled()
        left_seconds = time.perf_counter() - ended if left["batches"] else 0.0
        after = (
            machine.processor_seconds(self._service.process),
            machine.processor_seconds(server),
            await self._ground.value("wal_position"),
        )
        await self._check(outcome)
        pushed = Pushed(
            outcome=outcome,
            left_batches=left["batches"],
            left_seconds=left_seconds,
            behind_seconds=self._behind,
            used={
                "receivers": after[0] - before[0],
                "postgres": after[1] - before[1],
                "load": outcome.processor_seconds,
            },
            wal_bytes=int(after[2] - before[2]),
        )
        self._rate = pushed.rate
        return pushed

    async def _watch(self) -> None:
        """Keep how far settlement was behind at most."""
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            seen = await self._ground.row("unsettled")
            self._behind = max(self._behind, seen["seconds"])

    async def _settled(self) -> None:
        deadline = time.monotonic() + _SETTLE_SECONDS
        while (await self._ground.row("unsettled"))["batches"]:
            if time.monotonic() > deadline:
                raise CannotRun(f"settlement is not done after {_SETTLE_SECONDS:.0f} seconds")
            await asyncio.sleep(0.05)

    async def _check(self, outcome: load.Outcome) -> None:
        """Prove that what was acknowledged is there, and that it became of it what should.

        What was told 503 may be there too.
        """
        self._acknowledged += outcome.acknowledged
        self._refused += outcome.refused
        stored = await self._ground.row("recorded")
        for what, each in (
            ("records", 1),
            ("reports", self._reports),
            ("delivered", self._reports),
        ):
            more = stored[what] - self._acknowledged * each
            if not 0 <= more <= self._refused * each:
                raise CannotRun(
                    f"{self._acknowledged} callbacks were acknowledged, and {stored[what]} {what} are there"
                )


async def generate(plan: load.Plan) -> load.Outcome:
    """Have a process of its own push; raises `CannotRun`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(msgspec.json.encode(plan))
    if process.returncode != 0:
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        raise CannotRun(f"the load generator failed: {lines[-1] if lines else 'it said nothing'}")
    return msgspec.json.decode(output, type=load.Outcome)


async def _row(ground: Ground) -> dict[str, str]:
    """Return what the baseline's rows are made of: a callback as the service stored it."""
    stored: Any = await ground.row("one_record")
    head, _, tail = load.body(0).decode().partition(str(10**12))
    return {
        **{name: stored[name] for name in ("account", "method", "headers", "peer")},
        "body_head": head,
        "body_tail": tail,
    }
