"""What balances lost between readings, beside what was sent and owed."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Tariff
from test_reconcile import (
    DELIVERED,
    FAILED,
    OCTOBER,
    SENT,
    TARIFF,
    World,
    account,
    case,
    line,
    message,
    put,
    register,
    settle,
)
from test_reconcile import push as pushed

from huizhi.__main__ import group
from reconciler import auditing, match, periods
from runtime import Problem
from runtime.database import Database
from runtime.settings import AccountSettings

pytestmark = pytest.mark.anyio

MONTH = periods.Period(*OCTOBER)
START = datetime(2026, 9, 30, 16, tzinfo=UTC)  # midnight of October in Shanghai
numbers = itertools.count()


async def read(
    connection: Any,
    own: AccountSettings,
    amount: str,
    at: datetime,
    kind: str = "balance",
    currency: str | None = "CNY",
) -> None:
    digest = hashlib.sha256(str(next(numbers)).encode()).digest()
    await connection.execute(
        "INSERT INTO balances (account, kind, digest, read_at, amount, currency)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        own.account.name,
        kind,
        digest,
        at,
        Decimal(amount),
        currency,
    )


async def audited(
    connection: Any, own: AccountSettings, limit: int = 2, period: periods.Period = MONTH
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = await auditing.intervals(connection, own, period, cursor=cursor, limit=limit)
        items += page.items
        if (cursor := page.next) is None:
            return items, await auditing.totals(connection, own, period)


def hour(number: int) -> datetime:
    return START + timedelta(hours=number)


async def test_drift_is_what_was_lost_less_what_was_owed_and_a_rise_is_a_rise(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    sent = [
        message("a", sent_at=hour(-1)),
        message("b", sent_at=hour(1)),
        message("c", sent_at=hour(2), segments=2),
        message("d", sent_at=hour(2) + timedelta(minutes=1), reports=FAILED),
        message("e", sent_at=hour(5)),
    ]
    own = await put(pool, connection, World(case(sent, [line(2)])), tmp_path)
    for amount, at in (("10", -2), ("9.96", 0), ("9.8", 2), ("109.8", 4), ("109.76", 6)):
        await read(connection, own, amount, hour(at))
    items, totals = await audited(connection, own)
    shown = [
        (each["lost"], each["risen"], each["sent_messages"], each["owed"], each["balance_drift"])
        for each in items
    ]
    # The first interval ends with the first moment of the period, and is this period's.
    assert shown == [
        ("0.04", "0", 1, "0.04", "0"),
        ("0.16", "0", 2, "0.12", "0.04"),
        ("0", "100", 1, "0", None),
        ("0.04", "0", 1, "0.04", "0"),
    ]
    assert items[0]["from"] == "2026-09-30T14:00:00Z"
    assert totals == [
        {
            "kind": "balance",
            "currency": "CNY",
            "intervals": 4,
            "lost": "0.24",
            "risen": "100",
            "owed": "0.2",
            "owed_while_risen": "0",
            "balance_drift": "0.04",
        }
    ]
    september = periods.parse("2026-09")
    with pytest.raises(match.Impossible, match="has no two readings of a balance to compare"):
        await audited(connection, own, period=september)


async def test_points_are_held_against_segments_and_other_money_against_nothing(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    sent = [message("a", 3, sent_at=hour(1))]
    own = await put(pool, connection, World(case(sent, [line(2)])), tmp_path)
    for amount, at in (("100", 0), ("97", 2)):
        await read(connection, own, amount, hour(at), "points", None)
        await read(connection, own, amount, hour(at), "dollars", "USD")
    # The same word with and without a currency is two things.
    await read(connection, own, "5", hour(3), "points", "CNY")
    items, totals = await audited(connection, own)
    assert [(one["kind"], one["owed"], one["balance_drift"]) for one in items] == [
        ("dollars", None, None),
        ("points", "3", "0"),
    ]
    assert [(one["kind"], one["currency"], one["balance_drift"]) for one in totals] == [
        ("dollars", "USD", None),
        ("points", None, "0"),
    ]


async def test_day_without_a_tariff_stops_the_audit(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    late = replace(TARIFF, start=SENT.date() + timedelta(days=1))
    own = await put(pool, connection, World(case([message()], [line(2)], [late])), tmp_path)
    for amount, at in (("1", SENT - timedelta(hours=1)), ("0", SENT + timedelta(hours=1))):
        await read(connection, own, amount, at)
    with pytest.raises(match.Impossible, match="has no tariff in CNY for 2026-10-05"):
        await audited(connection, own)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    readings=st.lists(
        st.tuples(
            st.integers(-30, 780),
            st.sampled_from(["balance", "gift"]),
            st.decimals("0", "99999", places=4),
        ),
        min_size=1,
        max_size=12,
        unique_by=lambda one: one[:2],
    ),
    sent=st.lists(
        st.tuples(
            st.integers(-40, 760), st.integers(0, 3), st.sampled_from([DELIVERED, FAILED, ()])
        ),
        max_size=10,
    ),
    basis=st.sampled_from(["delivered", "submitted"]),
)
async def test_every_message_between_readings_is_in_one_interval_and_sums_hold(
    readings: Sequence[tuple[int, str, Decimal]],
    sent: Sequence[tuple[int, int, Any]],
    basis: Any,
    pool: Any,
    connection: Any,
) -> None:
    tariffs = [replace(TARIFF, basis=basis), Tariff(date(2026, 10, 9), Decimal("0.0503"), basis)]
    messages = [
        message(str(number), segments, sent_at=hour(at), reports=reports)
        for number, (at, segments, reports) in enumerate(sent)
    ]
    now = case(messages, [], tariffs)
    own = account(now)
    await register(pool, own, messages)
    await settle(pool, own, [pushed(now, each, one) for each in messages for one in each.reports])
    for at, kind, amount in readings:
        await read(connection, own, str(amount), hour(at), kind)
    state = oracle._State(now)
    expected = []
    for kind in ("balance", "gift"):
        told = sorted((at, amount) for at, each, amount in readings if each == kind)
        for (earlier, had), (later, has) in itertools.pairwise(told):
            if 0 <= later < 31 * 24:
                between = [one for one in messages if hour(earlier) < one.sent_at <= hour(later)]
                owed = oracle.total(state.owed(one) or Decimal(0) for one in between)
                lost, risen = max(had - has, Decimal(0)), max(has - had, Decimal(0))
                expected.append((kind, lost, risen, len(between), owed))
    if not expected:
        with pytest.raises(match.Impossible):
            await auditing.totals(connection, own, MONTH)
        return
    items, totals = await audited(connection, own)
    assert expected == [
        (
            item["kind"],
            Decimal(item["lost"]),
            Decimal(item["risen"]),
            item["sent_messages"],
            Decimal(item["owed"]),
        )
        for item in items
    ]
    for total in totals:
        of_kind = [one for one in expected if one[0] == total["kind"]]
        assert total["intervals"] == len(of_kind)
        assert Decimal(total["lost"]) == sum(one[1] for one in of_kind)
        assert Decimal(total["risen"]) == sum(one[2] for one in of_kind)
        assert Decimal(total["owed"]) == sum(one[4] for one in of_kind)
        assert Decimal(total["balance_drift"]) == (
            Decimal(total["lost"]) - Decimal(total["owed"]) + Decimal(total["owed_while_risen"])
        )


# --- as typed ----------------------------------------------------------------------------------------


def test_the_command_audits_and_asks_nobody(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import asyncio

    (tmp_path / "huizhi.toml").write_text(
        '[accounts.main]\ngateway = "thinksms"\n'
        'credentials = { user_id = "7", account = "me", password = "hush" }\n'
        '[[accounts.main.tariffs]]\nfrom = 2026-01-01\nprice = "0.04"\n'
    )
    monkeypatch.setenv("DATABASE_URL", database.dsn.reveal())

    def typed(*more: str) -> Any:
        command = ["--config", str(tmp_path / "huizhi.toml"), "balance", *more]
        return group.main(command, prog_name="huizhi", standalone_mode=False)

    async def prepare() -> None:
        from runtime.settings import load

        own = load(tmp_path / "huizhi.toml", {}).accounts["main"]
        async with database.connection() as connection:
            await read(connection, own, "5", hour(0))
            await read(connection, own, "4", hour(1))

    asyncio.run(prepare())
    audit = ("--audit", "--account", "main", "--period", "2026-10")
    assert typed(*audit, "--output", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["lost"], one["balance_drift"]) for one in told["items"]] == [("1", "1")]
    assert told["totals"][0]["balance_drift"] == "1"
    assert typed(*audit) == 0
    head, row, _, totals, total = capsys.readouterr().out.splitlines()
    assert head.split() == list(auditing.AUDIT_COLUMNS)
    assert row.split()[0] == "balance"
    assert totals.split() == list(auditing.TOTAL_COLUMNS)
    assert total.split() == ["balance", "CNY", "1", "1", "0", "0", "0", "1"]
    assert typed(*audit, "--output", "csv") == 0
    assert capsys.readouterr().out.count("\r\n") == 2
    for wrong in (("--audit",), ("--period", "2026-10"), ("--audit", "--account", "main")):
        with pytest.raises(Problem, match="--audit goes with --account and --period"):
            typed(*wrong)
    with pytest.raises(Problem, match="--audit goes with neither --history nor --from and --to"):
        typed(*audit, "--history")
    with pytest.raises(Problem, match="is no period"):
        typed(*audit[:-1], "October")
