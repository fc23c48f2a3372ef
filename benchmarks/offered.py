"""Callbacks at a vendor's full speed: how long each waits for its answer, and what memory that takes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from benchmarks import machine
from benchmarks.callbacks import Pushed, Pusher
from benchmarks.figures import Figure
from benchmarks.ground import prepared, receiver, reconciler

RATE = 3_000.0
_CONNECTIONS = 256  # a vendor opens another where all wait
_SAMPLE_SECONDS = 1.0
_P99_MS = 100.0
_STRETCH_P99_MS = 20.0
_STRETCH_P999_MS = 100.0
_RECEIVER_MIB = 120
_RECONCILER_MIB = 512
_FLAT = 1.1


async def run(parent: Path, *, quick: bool, minutes: float = 1.0) -> list[Figure]:
    """Offer callbacks at one rate for `minutes`, a minute at a time."""
    seconds = 3.0 if quick else 60.0
    held: dict[str, list[float]] = {"receiver": [], "reconciler": []}
    rounds: list[Pushed] = []
    async with prepared(parent, "offered") as ground:
        with receiver(ground) as service, reconciler(ground) as other:
            pusher = Pusher(ground, service)
            await pusher.round(2.0, rate=RATE, connections=_CONNECTIONS)
            processes = {"receiver": service.process, "reconciler": other.process}
            for _ in range(1 if quick else max(1, round(minutes))):
                async with _watched(processes, held):
                    rounds.append(await pusher.round(seconds, rate=RATE, connections=_CONNECTIONS))
            peaks = {
                name: max(machine.peak_bytes(one) for one in (process, *machine.below(process)))
                / 2**20
                for name, process in processes.items()
            }
    return [_latency(rounds), *_memory(held, peaks, len(rounds) * seconds)]


def _latency(rounds: list[Pushed]) -> Figure:
    outcomes = [pushed.outcome for pushed in rounds]
    refused = sum(outcome.refused for outcome in outcomes)
    p99, p999 = (
        max(getattr(outcome, name) for outcome in outcomes) * 1000 for name in ("p99", "p999")
    )
    return Figure(
        name="latency",
        work=f"callbacks that fall due at {RATE:,.0f}/s, from then to their answer; p99 of the worst minute",
        unit="ms",
        value=p99,
        goal=f"< {_P99_MS:.0f} ms, none refused",
        met=p99 < _P99_MS and not refused,
        notes={
            "stretch": f"p99 < {_STRETCH_P99_MS:.0f} ms and p99.9 < {_STRETCH_P999_MS:.0f} ms: "
            + ("yes" if p99 < _STRETCH_P99_MS and p999 < _STRETCH_P999_MS else "no"),
            "milliseconds": {
                "p50": median(outcome.p50 for outcome in outcomes) * 1000,
                "p99.9": p999,
                "worst": max(outcome.worst for outcome in outcomes) * 1000,
            },
            "acknowledged": sum(outcome.acknowledged for outcome in outcomes),
            "refused": refused,
            "settlement behind at most, seconds": max(p.behind_seconds for p in rounds),
            "processor microseconds a callback": {
                name: sum(p.used[name] for p in rounds)
                / sum(outcome.acknowledged for outcome in outcomes)
                * 1e6
                for name in rounds[0].used
            },
        },
    )


def _memory(held: dict[str, list[float]], peaks: dict[str, float], seconds: float) -> list[Figure]:
    figures = []
    for name, most in (("receiver", _RECEIVER_MIB), ("reconciler", _RECONCILER_MIB)):
        samples = held[name]
        fifth = max(1, len(samples) // 5)
        early, late = median(samples[fifth : 2 * fifth] or samples), median(samples[-fifth:])
        figures.append(
            Figure(
                name=f"memory-{name}",
                work=f"the largest process of the {name}, {RATE:,.0f} callbacks/s for {seconds:,.0f} s",
                unit="MiB",
                value=peaks[name],
                goal=f"< {most} MiB, flat",
                met=peaks[name] < most and late < early * _FLAT,
                notes={
                    "MiB in the second fifth": early,
                    "MiB in the last fifth": late,
                    # A step is a spike that malloc keeps; a slope is a leak.
                    "MiB in each tenth": [round(tenth, 1) for tenth in _tenths(samples)],
                },
            )
        )
    return figures


def _tenths(samples: list[float]) -> list[float]:
    size = -(-len(samples) // 10)
    return [median(samples[first : first + size]) for first in range(0, len(samples), size)]


@asynccontextmanager
async def _watched(processes: dict[str, int], held: dict[str, list[float]]) -> AsyncIterator[None]:
    """Meanwhile keep what the largest process of each holds, in MiB, once a second."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            for name, process in processes.items():
                held[name].append(
                    max(machine.held_bytes(one) for one in (process, *machine.below(process)))
                    / 2**20
                )

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
