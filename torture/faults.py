"""What is done to the services; each fault lasts for its seconds and need not undo itself well.

The stage heals everything after a round. Which faults a round has, when, and for how long is drawn
from its seed; what they hit at that moment is the machine's chance.
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable

import msgspec

from runtime.database import DATABASE_ERRORS
from torture.stage import SQL, Stage, signalled

# Beyond the second after which a commit is not waited for.
_LONG = (1.3, 2.5)
_SHORT = (0.0, 1.0)


class Fault(msgspec.Struct, frozen=True):
    """One fault of a round: `name` in `FAULTS`, when it begins, how long it lasts, a number to choose by."""

    name: str
    at_seconds: float
    seconds: float
    choice: int

    def __str__(self) -> str:
        return f"{self.name}@{self.at_seconds:.1f}+{self.seconds:.1f}"


Work = Callable[[Stage, Fault], Awaitable[None]]


async def _kill_worker(stage: Stage, fault: Fault) -> None:
    victims = stage.receiver.children()
    if victims:
        signalled(victims[fault.choice % len(victims)], signal.SIGKILL)
        stage.receiver.quick_ends += 1


async def _kill_receiver(stage: Stage, fault: Fault) -> None:
    stage.receiver.kill()
    await asyncio.sleep(fault.seconds)
    stage.receiver.start()


async def _kill_parent(stage: Stage, fault: Fault) -> None:
    stage.receiver.kill(children=False)
    await asyncio.sleep(fault.seconds)
    stage.receiver.start()


async def _restart_receiver(stage: Stage, fault: Fault) -> None:
    if stage.receiver.running:
        await stage.receiver.stop()
    stage.receiver.start()


async def _kill_reconciler(stage: Stage, fault: Fault) -> None:
    stage.reconciler.kill()
    await asyncio.sleep(fault.seconds)
    stage.reconciler.start()


async def _stop_worker(stage: Stage, fault: Fault) -> None:
    victims = stage.receiver.children()
    await _stopped(stage, fault, victims and [victims[fault.choice % len(victims)]])


async def _stop_receiver(stage: Stage, fault: Fault) -> None:
    await _stopped(stage, fault, stage.receiver.children())


async def _stop_reconciler(stage: Stage, fault: Fault) -> None:
    await _stopped(stage, fault, stage.reconciler.children())


async def _stop_postgres(stage: Stage, fault: Fault) -> None:
    await _stopped(stage, fault, stage.postgres_processes())


async def _stopped(stage: Stage, fault: Fault, victims: list[int]) -> None:
    for pid in victims:
        signalled(pid, signal.SIGSTOP)
    await asyncio.sleep(fault.seconds)
    for pid in victims:
        signalled(pid, signal.SIGCONT)


async def _kill_postgres(stage: Stage, fault: Fault) -> None:
    await _ended(stage, fault, signal.SIGKILL)


async def _shut_postgres(stage: Stage, fault: Fault) -> None:
    await _ended(stage, fault, signal.SIGINT)


async def _ended(stage: Stage, fault: Fault, number: signal.Signals) -> None:
    await stage.leave_postgres()
    if processes := stage.postgres_processes():
        signalled(processes[0], number)
    await asyncio.sleep(fault.seconds)
    stage.keep_postgres()


async def _kill_backend(stage: Stage, fault: Fault) -> None:
    # PostgreSQL then drops every connection and recovers from its log.
    if victims := stage.postgres_processes()[1:]:
        signalled(victims[fault.choice % len(victims)], signal.SIGKILL)


async def _terminate(stage: Stage, fault: Fault) -> None:
    with contextlib.suppress(*DATABASE_ERRORS):
        async with stage.database.connection() as connection:
            await connection.fetch(SQL["terminate_connections"])


async def _cut(stage: Stage, fault: Fault) -> None:
    stage.proxy.cut()


async def _cut_half(stage: Stage, fault: Fault) -> None:
    stage.proxy.cut(half=True)


async def _refuse(stage: Stage, fault: Fault) -> None:
    stage.proxy.refusing = True
    stage.proxy.cut()
    await asyncio.sleep(fault.seconds)
    stage.proxy.refusing = False


async def _hold(stage: Stage, fault: Fault) -> None:
    stage.proxy.hold()
    await asyncio.sleep(fault.seconds)
    if fault.choice % 2:
        stage.proxy.cut()
    stage.proxy.flow()


async def _fill_postgres(stage: Stage, fault: Fault) -> None:
    disk = stage.disks["postgres"]
    disk.fill(stage.postgres_processes())
    await asyncio.sleep(fault.seconds)
    disk.free(stage.postgres_processes())


async def _fill_spool(stage: Stage, fault: Fault) -> None:
    disk = stage.disks["data"]
    stage.proxy.refusing = True
    stage.proxy.cut()
    await asyncio.sleep(fault.seconds / 3)
    disk.fill(stage.writers())
    await asyncio.sleep(fault.seconds / 3)
    disk.free(stage.writers())
    await asyncio.sleep(fault.seconds / 3)
    stage.proxy.refusing = False


async def _fill_both(stage: Stage, fault: Fault) -> None:
    disks = stage.disks
    disks["data"].fill(stage.writers())
    disks["postgres"].fill(stage.postgres_processes())
    await asyncio.sleep(fault.seconds)
    disks["postgres"].free(stage.postgres_processes())
    disks["data"].free(stage.writers())


async def _step_clock(stage: Stage, fault: Fault) -> None:
    steps = (-7200.0, -60.0, -2.0, 2.0, 60.0, 7200.0)
    stage.step_clock(steps[fault.choice % len(steps)])
    await asyncio.sleep(fault.seconds)
    stage.step_clock(0.0)


# By name: what is done, for how long (from, to), and how often it is drawn beside the others.
FAULTS: dict[str, tuple[Work, tuple[float, float], int]] = {
    "kill-worker": (_kill_worker, _SHORT, 3),
    "kill-receiver": (_kill_receiver, _SHORT, 3),
    "kill-parent": (_kill_parent, _SHORT, 1),
    "restart-receiver": (_restart_receiver, _SHORT, 1),
    "kill-reconciler": (_kill_reconciler, _SHORT, 1),
    "stop-worker": (_stop_worker, _LONG, 2),
    "stop-receiver": (_stop_receiver, _LONG, 1),
    "stop-reconciler": (_stop_reconciler, _LONG, 1),
    "stop-postgres": (_stop_postgres, _LONG, 2),
    "kill-postgres": (_kill_postgres, _SHORT, 3),
    "shut-postgres": (_shut_postgres, _SHORT, 1),
    "kill-backend": (_kill_backend, _SHORT, 2),
    "terminate-connections": (_terminate, _SHORT, 1),
    "cut-connections": (_cut, _SHORT, 1),
    "cut-by-half": (_cut_half, _SHORT, 1),
    "refuse-connections": (_refuse, _LONG, 1),
    "hold-connections": (_hold, _LONG, 2),
    "full-postgres": (_fill_postgres, _LONG, 2),
    "full-spool": (_fill_spool, _LONG, 2),
    "full-both": (_fill_both, _LONG, 1),
    "step-clock": (_step_clock, _LONG, 2),
}


def plan(chance: random.Random, seconds: float) -> list[Fault]:
    """Draw the faults of a round of load that lasts so long: one to three, which may overlap."""
    names = list(FAULTS)
    weights = [FAULTS[name][2] for name in names]
    drawn = chance.choices(names, weights, k=chance.choice((1, 2, 2, 3)))
    return sorted(
        (
            Fault(
                name=name,
                at_seconds=chance.uniform(0.2, seconds),
                seconds=chance.uniform(*FAULTS[name][1]),
                choice=chance.randrange(1000),
            )
            for name in drawn
        ),
        key=lambda fault: fault.at_seconds,
    )


async def inflict(stage: Stage, faults: list[Fault]) -> None:
    """Carry out the faults of a round, each at its time."""

    async def one(fault: Fault) -> None:
        await asyncio.sleep(fault.at_seconds)
        await FAULTS[fault.name][0](stage, fault)

    await asyncio.gather(*(one(fault) for fault in faults))
