"""The torture can fail: what it is to find it finds, and its rounds can be repeated."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from gateways.gateway import Callback as Pushed
from runtime import records
from runtime.database import Database
from torture import faults, proof
from torture.senders import Callback, Ledger
from torture.stage import Violation

pytestmark = pytest.mark.anyio

AT = datetime(2026, 10, 5, 1, 30, tzinfo=UTC)


def pushed(number: int, acknowledged: int = 1, tries: int = 1) -> Callback:
    return Callback(
        account="sms",
        message=f"r1-{number}",
        phone="13800138000",
        method="GET",
        target=f"/callbacks/sms/token?taskid=r1-{number}",
        headers="",
        body=b"",
        chunked=False,
        report=("delivered", AT),
        tries=tries,
        acknowledged=acknowledged,
    )


async def recorded(pool: Any, *callbacks: Callback) -> None:
    found = [
        records.of_callback(
            one.account,
            Pushed(method=one.method, query=one.identity[2], headers={}, body=one.body),
            received_at=AT,
            peer="::1",
        )
        for one in callbacks
    ]
    async with pool.acquire() as connection:
        await records.store(connection, found, recorder="here:1", now=AT)


@pytest.fixture
def present(database: Database) -> Callable[..., Any]:
    async def present(*callbacks: Callback) -> proof.Found:
        ledger = Ledger("r1")
        ledger.callbacks += callbacks
        stage: Any = SimpleNamespace(database=database)
        return await proof.present(stage, ledger)

    return present


async def test_acknowledged_and_recorded_once_is_as_it_must_be(pool: Any, present: Any) -> None:
    await recorded(pool, pushed(1), pushed(2, acknowledged=0))
    found = await present(pushed(1), pushed(2, acknowledged=0), pushed(3, acknowledged=0))
    assert len(found.records) == 2


async def test_acknowledged_and_not_recorded_is_a_violation(pool: Any, present: Any) -> None:
    await recorded(pool, pushed(1))
    with pytest.raises(Violation, match="1 acknowledged callbacks are missing: sms r1-2"):
        await present(pushed(1), pushed(2))


async def test_recorded_and_never_pushed_is_a_violation(pool: Any, present: Any) -> None:
    await recorded(pool, pushed(1), pushed(2))
    with pytest.raises(Violation, match="1 records were never pushed"):
        await present(pushed(1))


@pytest.mark.parametrize(
    ("reports", "state"),
    [
        (set(), ("submitted", None, False)),
        ({("unknown", AT)}, ("submitted", None, False)),
        ({("failed", AT)}, ("failed", AT, False)),
        (
            {("failed", AT.replace(minute=40)), ("delivered", AT), ("unknown", AT)},
            ("delivered", AT, True),
        ),
    ],
)
def test_states_are_folded_by_the_rule_as_it_is_written_down(
    reports: set[tuple[str, datetime]], state: tuple[str, datetime | None, bool]
) -> None:
    assert proof._fold(reports) == state


def test_a_seed_gives_the_same_faults_again_and_many_seeds_give_them_all() -> None:
    plans = [faults.plan(random.Random(f"seed:{number}"), 2.0) for number in range(300)]
    assert plans == [faults.plan(random.Random(f"seed:{number}"), 2.0) for number in range(300)]
    drawn = Counter(fault.name for plan in plans for fault in plan)
    assert drawn.keys() == faults.FAULTS.keys()
