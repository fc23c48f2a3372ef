"""Each billing audit query on a small world, with an answer computed by hand."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest

from reconciler import audit, match, periods
from reconciler.audit import AUDIT
from runtime.identity import message_id, shard_of
from runtime.settings import parse

pytestmark = pytest.mark.anyio

SHANGHAI = ZoneInfo("Asia/Shanghai")
SETTINGS = parse(
    """
    [accounts.think]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    tariffs = [
        { from = 2026-01-01, price = "0.04" },
        { from = 2026-10-11, price = "0.05" },
    ]
    [accounts.sms]
    gateway = "thinksms"
    credentials = { user_id = "7", account = "me", password = "hush" }
    tariffs = [{ from = 2026-01-01, price = "0.03", basis = "submitted" }]
    [accounts.finch]
    gateway = "deepfinch"
    credentials = { secret_id = "id", secret_key = "key" }
    tariffs = [{ from = 2026-01-01, price = "0.05" }]
    [accounts.bare]
    gateway = "thinkapi"
    credentials = { app_code = "code" }
    timezone = "America/New_York"
    """,
    Path("huizhi.toml"),
    {},
)
NOW = datetime(2026, 11, 10, tzinfo=UTC)
OCTOBER = "2026-10"
A, B, C = "13800138000", "13012345678", "18912345678"  # of China Mobile, Unicom and Telecom


def at(text: str) -> datetime:
    """Return a moment of 2026 in Shanghai: "10-05 12:00:00", its seconds left out if they are 0."""
    return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=SHANGHAI)


def shown(text: str) -> str:
    """Return that moment as answers spell it."""
    return at(text).isoformat()


class World:
    """A database with what a test puts there."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._reports = 0

    async def sent(
        self,
        name: str,
        when: str = "10-05 12:00",
        status: str = "delivered",
        *,
        phone: str = A,
        account: str = "think",
        segments: int = 1,
        after: float | None = 3,
        code: str = "1",
        **more: Any,
    ) -> UUID:
        """Register a message with its state; its final report came `after` so many seconds."""
        final = status in ("delivered", "failed")
        moment = at(when)
        row = {
            "shard": shard_of(account, name),
            "id": message_id(account, name, phone),
            "account": account,
            "vendor_message_id": name,
            "phone": phone,
            "sent_at": moment,
            "registered_at": moment,
            "segments": segments,
            "segments_given": True,
            "status": status,
            "vendor_code": code if final else None,
            "reported_at": moment + timedelta(seconds=after) if final and after else None,
            **more,
        }
        await self._insert("messages", row)
        return row["id"]  # type: ignore[no-any-return]

    async def report(
        self,
        name: str,
        status: str,
        received: str,
        *,
        reported: str | None = None,
        source: str = "push",
        phone: str = A,
        orphan: bool = False,
        code: str = "1",
    ) -> str:
        """Add a report and return the digest of its record."""
        self._reports += 1
        digest = self._reports.to_bytes(32, "big")
        row = {
            "shard": shard_of("think", name),
            "message_id": message_id("think", name, phone),
            "fingerprint": digest,
            "account": "think",
            "vendor_message_id": name,
            "phone": phone,
            "status": status,
            "vendor_code": code,
            "reported_at": at(reported or received),
            "received_at": at(received),
            "source": source,
            "digest": digest,
            "orphan": orphan,
        }
        await self._insert("reports", row)
        return digest.hex()

    async def bill(
        self,
        lines: Sequence[tuple[Any, ...]],
        period: str = OCTOBER,
        *,
        version: int = 1,
        account: str = "think",
    ) -> UUID:
        """Add a statement of (name, phone, segments, amount) lines, perhaps with a time, from line 2 on."""
        days = periods.parse(period)
        own = uuid4()
        amounts = [Decimal(line[3]) for line in lines if line[3] is not None]
        statement = {
            "id": own,
            "account": account,
            "first_day": days.first,
            "last_day": days.last,
            "version": version,
            "file_digest": own.bytes,
            "file_name": f"v{version}.csv",
            "format": "generic",
            "lines": len(lines),
            "segments": sum(line[2] for line in lines),
            "amount": sum(amounts, Decimal(0)) if amounts else None,
            "imported_at": at("11-01 09:00") + timedelta(days=version - 1),
        }
        await self._insert("statements", statement)
        for number, (name, phone, segments, amount, *when) in enumerate(lines, start=2):
            line = {
                "shard": shard_of(account, name),
                "statement_id": own,
                "line": number,
                "message_id": None if phone is None else message_id(account, name, phone),
                "vendor_message_id": name,
                "phone": phone,
                "segments": segments,
                "amount": None if amount is None else Decimal(amount),
                "sent_at": at(when[0]) if when else None,
            }
            await self._insert("lines", line)
        return own

    async def reconcile(self, period: str = OCTOBER, *, now: datetime = NOW) -> UUID:
        """Reconcile a period of "think" for real."""
        own = SETTINGS.accounts["think"]
        days = periods.parse(period)
        return UUID((await match.reconcile(self._connection, own, days, now=now))["id"])

    async def wait(self, name: str, since: str) -> None:
        """Let a message wait for its final report."""
        await self._insert(
            "awaiting",
            {
                "shard": shard_of("think", name),
                "message_id": message_id("think", name, A),
                "account": "think",
                "sent_at": at(since),
                "next_poll_at": NOW,
            },
        )

    async def quarantined(self, received: str) -> None:
        """Put a record into quarantine."""
        await self._insert(
            "quarantine",
            {
                "digest": uuid4().bytes,
                "account": "think",
                "received_at": at(received),
                "quarantined_at": at(received),
                "reason": "no JSON",
            },
        )

    async def ask(self, name: str, **given: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query's answer, for the account "think" without its name."""
        asked_for = {key: str(value) for key, value in {"account": "think", **given}.items()}
        if any(each.name == "period" for each in AUDIT[name].parameters):
            asked_for.setdefault("period", OCTOBER)
        asked = audit.ask(SETTINGS, name, asked_for, now=NOW)
        rows, more = await audit.first(self._connection, asked, limit=100, seconds=60)
        assert not more
        assert all(row["account"] == asked_for["account"] for row in rows)
        return [tuple(row[column.name] for column in AUDIT[name].columns[1:]) for row in rows]

    async def _insert(self, table: str, row: dict[str, Any]) -> None:
        places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
        await self._connection.execute(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", *row.values()
        )


@pytest.fixture
def world(connection: Any) -> World:
    return World(connection)


def test_no_query_without_a_test() -> None:
    tested = {name.removeprefix("test_").replace("_", "-") for name in globals()}
    assert set(AUDIT) <= tested


# --- volume and outcome ---------------------------------------------------------------------------------


async def test_by_day(world: World) -> None:
    await world.sent("a", "10-05 00:00", segments=2)
    await world.sent("b", "10-05 23:59:59", "failed")
    await world.sent("c", "10-11 00:00", segments=3)  # the first day of the second tariff
    await world.sent("d", "10-11 10:00", "expired")
    await world.sent("e", "09-30 23:59:59")
    await world.sent("f", "11-01 00:00")
    await world.sent("g", "10-05 12:00", account="sms")
    assert await world.ask("by-day") == [
        ("2026-10-05", 2, 3, 1, 1, 0, "50", "0.08", "CNY"),
        ("2026-10-11", 2, 4, 1, 0, 1, "50", "0.15", "CNY"),
    ]


async def test_by_day_counts_days_in_the_zone_of_the_account(world: World) -> None:
    # 2026-10-05 03:00 in Shanghai is 2026-10-04 15:00 in New York.
    await world.sent("a", "10-05 03:00", account="bare")
    assert await world.ask("by-day", account="bare") == [
        ("2026-10-04", 1, 1, 1, 0, 0, "100", None, None)
    ]


async def test_by_account(world: World) -> None:
    await world.sent("a", "10-05 12:00", segments=2)
    await world.sent("b", "10-11 12:00")
    await world.sent("c", "10-11 12:00", "failed", segments=5)
    await world.sent("d", "10-05 12:00", "failed", account="sms", segments=2)
    assert await world.ask("by-account") == [(3, 8, 2, 1, 0, "66.67", "0.13", "CNY")]
    # By submission everything is owed for.
    assert await world.ask("by-account", account="sms") == [(1, 2, 0, 1, 0, "0", "0.06", "CNY")]
    assert await world.ask("by-account", account="bare") == []


async def test_what_was_not_sent_or_may_not_have_been_is_not_owed_for(world: World) -> None:
    await world.sent("~a", "10-05 12:00", "refused", account="sms", segments=7)
    await world.sent("~b", "10-05 12:00", "indeterminate", account="sms", segments=5)
    await world.sent("c", "10-05 12:00", "submitted", account="sms", segments=2)
    assert await world.ask("by-account", account="sms") == [(2, 7, 0, 0, 2, "0", "0.06", "CNY")]
    days = await world.ask("billed-by-day", account="sms")
    assert [(row[1], row[2], row[3]) for row in days] == [(2, 2, "0.06")]


async def test_what_a_vendor_who_reports_nothing_took_is_owed_for(world: World) -> None:
    await world.sent("a", "10-05 12:00", "submitted", account="finch", segments=2)
    await world.sent("~b", "10-05 12:00", "indeterminate", account="finch", segments=5)
    assert await world.ask("by-account", account="finch") == [(2, 7, 0, 0, 2, "0", "0.1", "CNY")]
    days = await world.ask("billed-by-day", account="finch")
    assert [(row[1], row[2], row[3]) for row in days] == [(2, 2, "0.1")]


async def test_by_template(world: World) -> None:
    await world.sent("a", template_id="7")
    await world.sent("b", "10-12 12:00", template_id="7")
    await world.sent("c", status="failed", template_id="8")
    await world.sent("d", status="submitted")
    assert await world.ask("by-template") == [
        ("7", 2, 2, 2, 0, 0, "100", "0.09", "CNY"),
        ("8", 1, 1, 0, 1, 0, "0", "0", "CNY"),
        (None, 1, 1, 0, 0, 1, "0", "0", "CNY"),
    ]


async def test_by_sign(world: World) -> None:
    await world.sent("a", sign="顶想云", segments=2)
    await world.sent("b", sign="回执")
    await world.sent("c", status="failed", sign="回执")
    assert await world.ask("by-sign") == [
        ("回执", 2, 2, 1, 1, 0, "50", "0.04", "CNY"),
        ("顶想云", 1, 2, 1, 0, 0, "100", "0.08", "CNY"),
    ]


async def test_by_reference(world: World) -> None:
    await world.sent("a", reference="double-11")
    await world.sent("b", "10-12 12:00", reference="double-11")
    await world.sent("c")
    assert await world.ask("by-reference") == [
        ("double-11", 2, 2, 2, 0, 0, "100", "0.09", "CNY"),
        (None, 1, 1, 1, 0, 0, "100", "0.04", "CNY"),
    ]


async def test_by_hour_of_day(world: World) -> None:
    await world.sent("a", "10-05 09:00")
    await world.sent("b", "10-06 09:59", "failed")
    await world.sent("c", "10-05 00:30")
    assert await world.ask("by-hour-of-day") == [
        (0, 1, 1, 1, 0, 0, "100", "0.04", "CNY"),
        (9, 2, 2, 1, 1, 0, "50", "0.04", "CNY"),
    ]


async def test_by_carrier(world: World) -> None:
    await world.sent("a", phone=A)
    await world.sent("b", phone=A, segments=2)
    await world.sent("c", "10-05 12:00", "failed", phone=B)
    await world.sent("d", phone="17051234567")  # lent to a reseller by China Mobile
    await world.sent("e", phone="13491234567")  # a segment within another
    await world.sent("f", phone="19212345678")
    await world.sent("g", phone="85261234567")  # Hong Kong: eleven digits too
    assert await world.ask("by-carrier") == [
        ("China Mobile 移动", 3, 4, 3, 0, 0, "100", "0.16", "CNY"),
        ("China Broadnet 广电", 1, 1, 1, 0, 0, "100", "0.04", "CNY"),
        ("China Telecom 电信", 1, 1, 1, 0, 0, "100", "0.04", "CNY"),
        ("China Unicom 联通", 1, 1, 0, 1, 0, "0", "0", "CNY"),
        (None, 1, 1, 1, 0, 0, "100", "0.04", "CNY"),
    ]


async def test_by_prefix(world: World) -> None:
    await world.sent("a", phone=A)
    await world.sent("b", phone="17051234567")
    await world.sent("c", "10-05 12:00", "failed", phone="17051234568")
    await world.sent("d", phone="13081234567890")
    assert await world.ask("by-prefix") == [
        ("138", "China Mobile 移动", 1, 1, 1, 0, 0, "100", "0.04", "CNY"),
        ("1705", "China Mobile 移动", 2, 2, 1, 1, 0, "50", "0.04", "CNY"),
        (None, None, 1, 1, 1, 0, 0, "100", "0.04", "CNY"),
    ]


async def test_by_status(world: World) -> None:
    await world.sent("a", segments=2)
    await world.sent("b", "10-12 12:00")
    await world.sent("c", status="expired")
    assert await world.ask("by-status") == [
        ("delivered", 2, "66.67", 3, "0.13", "CNY"),
        ("expired", 1, "33.33", 1, "0", "CNY"),
    ]


# --- time, failures, limits -----------------------------------------------------------------------------


async def test_latency_by_hour(world: World) -> None:
    for number in range(1, 11):
        await world.sent(f"a{number}", f"10-05 09:{number:02}", after=number)
    await world.sent("b", "10-05 10:00", "failed", after=90.5)
    await world.sent("c", "10-05 10:00", "expired")
    await world.sent("d", "10-05 10:00", after=None)
    assert await world.ask("latency-by-hour") == [
        (shown("10-05 09:00"), 10, "5", "9", "10", "10"),
        (shown("10-05 10:00"), 1, "90.5", "90.5", "90.5", "90.5"),
    ]


async def test_latency_by_carrier(world: World) -> None:
    await world.sent("a", after=1)
    await world.sent("b", after=9)
    await world.sent("c", phone=B, after=4)
    await world.sent("d", "10-05 12:00", "failed", phone=B, after=60)
    assert await world.ask("latency-by-carrier") == [
        ("China Mobile 移动", 2, "1", "9", "9", "9"),
        ("China Unicom 联通", 1, "4", "4", "4", "4"),
    ]


async def test_failure_reasons(world: World) -> None:
    await world.sent("a", status="failed", code="MK:0011", reason="空号")
    await world.sent("b", "10-06 12:00", "failed", code="MK:0011", reason="空号")
    await world.sent("c", status="failed", code="MK:0011", reason="空号", phone=B)
    await world.sent("d", status="failed", code="-1")
    await world.sent("e")
    assert await world.ask("failure-reasons") == [
        ("MK:0011", "空号", 3, "75", 2),
        ("-1", None, 1, "25", 1),
    ]


async def test_repeat_failures(world: World) -> None:
    for number in range(3):
        await world.sent(f"a{number}", f"10-0{number + 5} 12:00", "failed", code=f"c{number}")
        await world.sent(f"b{number}", f"10-0{number + 5} 12:00", "failed", phone=B)
    await world.sent("b", phone=B)
    await world.sent("c", status="failed", phone=C)
    await world.sent("d", status="failed", phone=C)
    assert await world.ask("repeat-failures") == [(A, 3, 3, shown("10-07 12:00"), "c2", "0", "CNY")]
    assert [row[:2] for row in await world.ask("repeat-failures", failures=2)] == [(A, 3), (C, 2)]


async def test_duplicate_texts(world: World) -> None:
    same = {"content": "您的验证码是7865", "sign": "顶想云"}
    first = await world.sent("a", "10-05 12:00", **same)
    second = await world.sent("b", "10-05 12:10", segments=2, **same)
    await world.sent("c", "10-05 12:20:01", **same)  # a second too late
    await world.sent("d", "10-05 12:10", phone=B, **same)
    await world.sent("e", "10-05 12:11", content="别的")
    await world.sent("f", "10-05 12:11")
    await world.sent("g", "10-05 12:12")
    before = await world.sent("h", "09-30 23:58", content="月末")
    after = await world.sent("i", "10-01 00:01", "failed", content="月末")
    assert await world.ask("duplicate-texts") == [
        (str(after), A, shown("10-01 00:01"), str(before), "180", 1, "0", "CNY"),
        (str(second), A, shown("10-05 12:10"), str(first), "600", 2, "0.08", "CNY"),
    ]
    assert await world.ask("duplicate-texts", minutes=1) == []


async def test_number_limits(world: World) -> None:
    # Two within a minute; then 60 seconds exactly, which is allowed.
    await world.sent("a1", "10-05 12:00:00")
    await world.sent("a2", "10-05 12:00:59")
    await world.sent("a3", "10-05 12:01:59")
    # Six within an hour, ten minutes apart.
    for number in range(6):
        await world.sent(f"b{number}", f"10-05 12:{number}0", phone=B)
    # Eleven on one day, two hours apart, and one on the next.
    for number in range(11):
        await world.sent(f"c{number}", f"10-05 {number * 2:02}:00", phone=C)
    await world.sent("c", "10-06 00:00", phone=C)
    # Of which one is before the period.
    await world.sent("d1", "09-30 23:59:30", phone="13900000000")
    await world.sent("d2", "10-01 00:00:10", phone="13900000000")
    assert await world.ask("number-limits") == [
        (B, 6, 1, 6, 6, 1),
        (A, 3, 2, 3, 3, 1),
        ("13900000000", 1, 2, 2, 1, 1),
        (C, 12, 1, 1, 11, 1),
    ]
    assert await world.ask("number-limits", per_minute=2, per_hour=6, per_day=11) == []


# --- what it costs --------------------------------------------------------------------------------------


async def test_long_texts(world: World) -> None:
    await world.sent("a", segments=3, template_id="7", content="字" * 150)
    await world.sent("b", "10-12 12:00", segments=3, template_id="7", content="字" * 160)
    await world.sent("c", status="failed", segments=2, template_id="7")
    await world.sent("d")
    assert await world.ask("long-texts") == [
        ("7", None, 3, 2, 160, 4, "0.18", "0.27", "CNY"),
        ("7", None, 2, 1, None, 1, "0", "0", "CNY"),
    ]
    assert len(await world.ask("long-texts", segments=3)) == 1


async def test_price_by_day(world: World) -> None:
    await world.sent("a", "10-05 12:00", segments=2)
    await world.sent("b", "10-05 13:00")
    await world.sent("c", "10-12 12:00")
    await world.bill([("a", A, 2, "9"), ("b", A, 1, "9")])
    # The newest version holds; "x" is nobody's message and names its day; "c" has no amount.
    lines = [
        ("a", A, 2, "0.08"),
        ("b", A, 1, "0.05"),
        ("x", A, 3, "0.2", "10-12 08:00"),
        ("c", A, 1, None),
    ]
    await world.bill(lines, version=2)
    assert await world.ask("price-by-day") == [
        ("2026-10-05", "0.04", "0.04", "0.05", 2, 1, 3, "0.13", "0.12", "0.01", "CNY"),
        ("2026-10-12", "0.05", "0.066667", "0.066667", 1, 1, 3, "0.2", "0.15", "0.05", "CNY"),
    ]


async def test_price_changes(world: World) -> None:
    prices = {"05": "0.04", "06": "0.04", "08": "0.06", "11": "0.05", "12": "0.05"}
    lines = []
    for day, price in prices.items():
        await world.sent(day, f"10-{day} 12:00")
        lines.append((day, A, 1, price))
    await world.sent("odd", "10-06 12:00")
    await world.sent("even", "10-06 13:00")
    lines += [("odd", A, 1, "0.09"), ("even", A, 1, "0.04")]
    await world.bill(lines)
    assert await world.ask("price-changes") == [
        ("2026-10-08", "0.04", "0.06", "0.04", False, 1, "CNY"),
        ("2026-10-11", "0.06", "0.05", "0.05", True, 1, "CNY"),
    ]


async def test_billed_by_day(world: World) -> None:
    await world.sent("a", "10-05 12:00", segments=2)
    await world.sent("b", "10-05 13:00", "failed")
    await world.sent("c", "10-12 12:00")
    await world.bill(
        [
            ("a", A, 3, "0.12"),
            ("b", A, 1, None),
            ("x", A, 1, "0.07", "10-20 08:00"),
            ("y", A, 1, "0.07"),
        ]
    )
    assert await world.ask("billed-by-day") == [
        ("2026-10-05", 2, 2, "0.08", 2, 4, "0.16", "0.08", "CNY"),
        ("2026-10-12", 1, 1, "0.05", 0, 0, "0", "-0.05", "CNY"),
        ("2026-10-20", 0, 0, "0", 1, 1, "0.07", "0.07", "CNY"),
    ]


async def test_cost_per_delivered(world: World) -> None:
    await world.sent("a", sign="回执", template_id="7")
    await world.sent("b", "10-05 13:00", "failed", sign="回执", template_id="7")
    await world.sent("c", "10-05 14:00", sign="回执", template_id="7")
    await world.sent("d", "10-05 14:00", "failed", sign="回执")
    await world.bill(
        [("a", A, 1, "0.04"), ("a", A, 1, "0.04"), ("b", A, 1, "0.02"), ("d", None, 1, None)]
    )
    assert await world.ask("cost-per-delivered") == [
        ("回执", "7", 3, 2, 3, "0.1", "0.05", "CNY"),
        ("回执", None, 1, 0, 1, "0.04", None, "CNY"),
    ]


async def test_month_on_month(world: World) -> None:
    await world.sent("a", "08-05 12:00")
    await world.sent("b", "08-06 12:00", "failed")
    await world.sent("c", "09-05 12:00", segments=2)
    await world.sent("d", "11-05 12:00")
    await world.bill([("a", A, 1, "0.08")], "2026-08")
    await world.bill([("c", A, 1, "0.5")], "2026-09")
    await world.bill([("c", A, 1, "0.1")], "2026-09", version=2)
    assert await world.ask("month-on-month", period="2026-08-01..2026-11-30") == [
        ("2026-08-01", 2, 2, "50", "0.04", "0.08", None, None, None, "CNY"),
        ("2026-09-01", 1, 2, "100", "0.08", "0.1", "-50", "100", "25", "CNY"),
        # October had none: nothing to compare with.
        ("2026-11-01", 1, 1, "100", "0.05", None, None, None, None, "CNY"),
    ]


async def test_segments_billed(world: World) -> None:
    await world.sent("a")
    await world.sent("b", "10-12 12:00")
    await world.sent("c", segments=2)
    await world.bill(
        [("a", A, 2, "0.08"), ("b", A, 2, "0.1"), ("c", None, 2, "0.08"), ("x", A, 9, "1")]
    )
    assert await world.ask("segments-billed") == [
        (1, 2, 2, 2, "0.09", "CNY"),
        (2, 2, 1, 0, "0", "CNY"),
    ]


# --- statements and runs --------------------------------------------------------------------------------


async def test_unbilled(world: World) -> None:
    await world.sent("a")
    await world.sent("b")
    own = await world.sent("c", "10-12 12:00", segments=2)
    await world.sent("d", status="failed")
    gone = await world.sent("e", "10-13 12:00")
    await world.bill([("e", A, 1, "0.05")])
    await world.bill([("a", A, 1, "0.04"), ("b", None, 1, "0.04")], version=2)
    assert await world.ask("unbilled") == [
        (str(own), "c", A, shown("10-12 12:00"), "delivered", 2, "0.1", "CNY"),
        (str(gone), "e", A, shown("10-13 12:00"), "delivered", 1, "0.05", "CNY"),
    ]


async def test_unbilled_by_submission_also_names_what_failed(world: World) -> None:
    own = await world.sent("d", status="failed", account="sms")
    assert await world.ask("unbilled", account="sms") == [
        (str(own), "d", A, shown("10-05 12:00"), "failed", 1, "0.03", "CNY")
    ]


async def test_billed_not_sent(world: World) -> None:
    await world.sent("a")
    await world.bill([("old", A, 1, "0.04")])
    own = await world.bill(
        [("a", A, 1, "0.04"), ("x", B, 2, "0.08", "10-07 08:00"), ("y", None, 1, None)], version=2
    )
    await world.bill([("z", A, 1, "0.04")], "2026-09")
    days = (str(own), "2026-10-01", "2026-10-31")
    assert await world.ask("billed-not-sent") == [
        (*days, 3, "x", B, 2, "0.08", shown("10-07 08:00")),
        (*days, 4, "y", None, 1, None, None),
    ]


async def test_billed_not_delivered(world: World) -> None:
    await world.sent("a")
    failed = await world.sent("b", "10-12 12:00", "failed", code="MK:0011")
    expired = await world.sent("c", "10-05 12:00", "expired")
    own = await world.bill([("a", A, 1, "0.04"), ("b", A, 2, None), ("c", None, 1, "0.07")])
    days = (str(own), "2026-10-01", "2026-10-31")
    assert await world.ask("billed-not-delivered") == [
        (*days, 3, str(failed), A, shown("10-12 12:00"), "failed", "MK:0011", 2, "0.1", "CNY"),
        (*days, 4, str(expired), A, shown("10-05 12:00"), "expired", None, 1, "0.07", "CNY"),
    ]
    # By submission what failed is billed by right.
    await world.sent("d", status="failed", account="sms")
    await world.bill([("d", A, 1, "0.03")], account="sms")
    assert await world.ask("billed-not-delivered", account="sms") == []


async def test_billed_twice(world: World) -> None:
    within = await world.sent("a")
    across = await world.sent("b", "10-31 23:00")
    await world.sent("c")
    await world.bill(
        [("a", A, 1, "0.04"), ("a", A, 1, None), ("b", A, 1, "0.05"), ("c", A, 1, "0.04")]
    )
    await world.bill([("b", None, 2, "0.1")], "2026-11")
    assert await world.ask("billed-twice") == [
        (str(within), "a", A, shown("10-05 12:00"), 2, 1, 2, "0.04", "CNY"),
        (str(across), "b", A, shown("10-31 23:00"), 2, 2, 3, "0.1", "CNY"),
    ]


async def test_discrepancies_by_kind(world: World) -> None:
    await world.sent("a", segments=2)
    await world.sent("b", status="failed")
    await world.bill([("a", A, 3, "0.12")])
    await world.reconcile()
    await world.bill([("a", A, 3, "0.12"), ("b", A, 1, "0.04"), ("x", A, 1, "0.04")], version=2)
    later = NOW + timedelta(hours=1)
    await world.reconcile(now=later)
    days = ("2026-10-01", "2026-10-31", later.astimezone(SHANGHAI).isoformat())
    assert await world.ask("discrepancies-by-kind") == [
        (*days, "billed_not_delivered", 1, 1, "0.04", "CNY"),
        (*days, "billed_not_sent", 1, 1, "0.04", "CNY"),
        (*days, "segments_differ", 1, 1, "0.04", "CNY"),
    ]


async def test_runs_compared(world: World) -> None:
    await world.sent("a")
    await world.bill([("a", A, 1, "0.09")])
    first = await world.reconcile()
    await world.bill([("a", A, 1, "0.04")], version=2)
    later = NOW + timedelta(hours=1)
    second = await world.reconcile(now=later)
    days = ("2026-10-01", "2026-10-31")
    times = [moment.astimezone(SHANGHAI).isoformat() for moment in (NOW, later)]
    assert await world.ask("runs-compared") == [
        (*days, times[0], str(first), 1, "discrepant", "0.04", "0.09", "0.05", None, "CNY"),
        (*days, times[1], str(second), 2, "balanced", "0.04", "0.04", "0", "-0.05", "CNY"),
    ]


async def test_statement_versions(world: World) -> None:
    await world.bill(
        [("a", A, 1, "0.04"), ("b", A, 1, "0.04"), ("b", A, 1, "0.04"), ("c", None, 1, None)]
    )
    await world.bill(
        [("b", A, 1, "0.04"), ("a", A, 2, "0.08"), ("c", None, 1, None), ("d", A, 1, "0.04")],
        version=2,
    )
    days = ("2026-10-01", "2026-10-31")
    assert await world.ask("statement-versions") == [
        (*days, 1, "v1.csv", shown("11-01 09:00"), 4, 4, "0.12", None, None, None),
        # "a" otherwise and "d" are new; "a" as it was and one of the two "b" are gone.
        (*days, 2, "v2.csv", shown("11-02 09:00"), 4, 5, "0.16", "0.04", 2, 2),
    ]


async def test_overlapping_statements(world: World) -> None:
    whole = await world.bill([("a", A, 1, "0.04")])
    half = await world.bill([("b", A, 1, "0.04")], "2026-10-20..2026-11-05")
    await world.bill([("c", A, 1, "0.04")], "2026-09")
    await world.bill([("d", A, 1, "0.04")], "2026-10", account="sms")
    assert await world.ask("overlapping-statements") == [
        (str(whole), "2026-10-01", "2026-10-31", str(half), "2026-10-20", "2026-11-05", 12)
    ]


async def test_days_without_statement(world: World) -> None:
    await world.sent("a", "10-05 12:00")
    await world.sent("b", "10-16 12:00", segments=2)
    await world.sent("c", "10-16 23:59:59", "failed")
    await world.bill([("a", A, 1, "0.04")], "2026-10-01..2026-10-15")
    assert await world.ask("days-without-statement") == [("2026-10-16", 2, 3, 1, "0.1", "CNY")]


async def test_credits_outstanding(world: World) -> None:
    await world.sent("a")
    await world.sent("b", "11-05 12:00")
    await world.bill([("a", A, 1, "0.14")])
    await world.bill([("b", A, 1, "0.05"), ("credit", None, 0, "-0.07")], "2026-11")
    for period in ("2026-10", "2026-11"):
        await world.reconcile(period)
    assert await world.ask("credits-outstanding", period="2026-10-01..2026-11-30") == [
        ("2026-10-01", "2026-10-31", "0.1", "0", "0.1", "CNY"),
        ("2026-11-01", "2026-11-30", "0", "0.07", "0.03", "CNY"),
    ]


# --- reports --------------------------------------------------------------------------------------------


async def test_late_reports(world: World) -> None:
    for name in ("in-time", "late", "passed-on-late", "pending"):
        await world.sent(name, "10-05 12:00")
    await world.report("in-time", "delivered", "10-06 12:00")
    await world.report("in-time", "delivered", "10-09 12:00", source="query")
    await world.report("late", "delivered", "10-06 12:00:01")
    await world.report("passed-on-late", "pending", "10-05 12:01")
    await world.report("passed-on-late", "failed", "10-07 12:00", reported="10-05 12:00:03")
    await world.report("pending", "pending", "10-05 12:01")
    await world._connection.execute(
        "UPDATE messages SET reported_at = $1 WHERE vendor_message_id = 'late'",
        at("10-06 12:00:01"),
    )
    assert await world.ask("late-reports") == [("2026-10-05", 3, 2, "66.67", 1, "48")]
    assert await world.ask("late-reports", hours=48) == [("2026-10-05", 3, 0, "0", 0, "48")]


async def test_reports_by_source(world: World) -> None:
    for name in ("pushed", "asked", "both", "none"):
        await world.sent(name)
    await world.report("pushed", "delivered", "10-05 12:01")
    await world.report("asked", "pending", "10-05 12:01")
    await world.report("asked", "failed", "10-05 12:05", source="query")
    await world.report("both", "delivered", "10-05 12:05", source="query")
    await world.report("both", "delivered", "10-05 12:09")
    assert await world.ask("reports-by-source") == [
        ("query", 2, "50"),
        ("push", 1, "25"),
        (None, 1, "25"),
    ]


async def test_contradicting_reports(world: World) -> None:
    own = await world.sent("a", contradicted=True)
    await world.sent("b")
    first = await world.report("a", "delivered", "10-05 12:01", reported="10-05 12:00:03")
    await world.report("a", "pending", "10-05 12:00:01")
    second = await world.report("a", "failed", "10-06 09:00", source="query", code="-1")
    await world.report("b", "delivered", "10-05 12:01")
    message = (str(own), "a", A, shown("10-05 12:00"), "delivered")
    times = [shown(text) for text in ("10-05 12:00:03", "10-05 12:01", "10-06 09:00")]
    assert await world.ask("contradicting-reports") == [
        (*message, "delivered", "1", times[0], times[1], "push", first),
        (*message, "failed", "-1", times[2], times[2], "query", second),
    ]


async def test_orphans(world: World) -> None:
    await world.report("x", "pending", "11-08 08:00", orphan=True)
    await world.report("x", "delivered", "11-09 08:00", orphan=True)
    await world.report("y", "failed", "11-09 20:00", orphan=True, phone=B)
    await world.report("z", "delivered", "11-09 20:00")
    own, other = message_id("think", "x", A), message_id("think", "y", B)
    assert await world.ask("orphans") == [
        (str(own), "x", A, "delivered", 2, shown("11-08 08:00"), "2"),
        (str(other), "y", B, "failed", 1, shown("11-09 20:00"), "0.5"),
    ]


async def test_unresolved_by_age(world: World) -> None:
    # It is 2026-11-10 08:00 in Shanghai.
    await world.wait("a", "11-10 07:30")
    await world.wait("b", "11-10 07:00:01")
    await world.wait("c", "11-09 08:00:01")
    await world.sent("d", "09-01 12:00", "expired")
    await world.sent("g", "08-10 07:59:59", "expired")
    await world.sent("e", "11-08 12:00", "indeterminate")
    await world.sent("f", "09-01 12:00", "failed")
    await world.report("x", "pending", "11-05 08:00", orphan=True)
    await world.report("x", "delivered", "11-09 08:00", orphan=True)
    await world.quarantined("11-01 08:00")
    assert await world.ask("unresolved-by-age") == [
        ("expired", "older", 1, shown("09-01 12:00")),
        ("indeterminate", "under 3 days", 1, shown("11-08 12:00")),
        ("orphan", "under 7 days", 1, shown("11-05 08:00")),
        ("quarantined", "under 30 days", 1, shown("11-01 08:00")),
        ("waiting", "under 1 day", 1, shown("11-09 08:00:01")),
        ("waiting", "under 1 hour", 2, shown("11-10 07:00:01")),
    ]


# --- signs of made-up reports ---------------------------------------------------------------------------


async def test_identical_latencies(world: World) -> None:
    for number, after in enumerate((3, 3.2, 3.9, 5, 8)):
        await world.sent(f"a{number}", after=after)
    await world.sent("b", status="failed")
    assert await world.ask("identical-latencies", least=5) == [
        (3, 3, "60"),
        (5, 1, "20"),
        (8, 1, "20"),
    ]
    assert await world.ask("identical-latencies", least=5, percent="20.01") == [(3, 3, "60")]
    assert await world.ask("identical-latencies", least=6) == []


async def test_flat_latency(world: World) -> None:
    for number, after in enumerate((3, 3, 3.5, 4, 60)):
        # Of five values the first is the lowest tenth's, the last the highest tenth's.
        await world.sent(f"a{number}", "10-05 09:10", after=after)
        await world.sent(f"b{number}", "10-05 10:10", after=min(after, 4))
    assert await world.ask("flat-latency", least=5) == [(shown("10-05 10:00"), 5, "3", "4", "1")]
    assert len(await world.ask("flat-latency", least=5, seconds=57)) == 2
    assert await world.ask("flat-latency", least=6) == []


async def test_flat_success_rate(world: World) -> None:
    # Two days of four messages, each with three delivered: chance would make them differ by
    # sqrt(0.75 * 0.25 / 4) = 0.2165.
    for day in ("05", "06"):
        for number in range(4):
            status = "failed" if number == 0 else "delivered"
            await world.sent(f"{day}-{number}", f"10-{day} 12:00", status)
    await world.sent("few", "10-07 12:00")
    assert await world.ask("flat-success-rate", least=4) == [(2, 8, "75", "0", "21.651", "0", True)]
    # A third day with one of four: shares 0.75, 0.75, 0.25; deviation 0.2887 against 0.2462.
    for number in range(4):
        status = "delivered" if number == 0 else "failed"
        await world.sent(f"08-{number}", "10-08 12:00", status)
    assert await world.ask("flat-success-rate", least=4) == [
        (3, 12, "58.33", "28.868", "24.65", "1.171", False)
    ]
    assert await world.ask("flat-success-rate") == []


async def test_round_times(world: World) -> None:
    for number in range(4):
        await world.sent(f"a{number}", f"10-05 12:0{number}:58", after=2)
    await world.sent("b", "10-05 12:00:00", after=7.9)
    assert await world.ask("round-times", least=5) == [(0, 4, "80"), (7, 1, "20")]
    assert await world.ask("round-times", least=5, percent=50) == [(0, 4, "80")]
    assert await world.ask("round-times", least=6) == []


async def test_reports_before_sending(world: World) -> None:
    own = await world.sent("a", "10-05 12:00:10", after=-5.5)
    await world.sent("b", after=-5)
    await world.sent("c")
    assert await world.ask("reports-before-sending") == [
        (
            str(own),
            "a",
            A,
            shown("10-05 12:00:10"),
            at("10-05 12:00:04.500").isoformat(),
            "5.5",
            "delivered",
        )
    ]
    assert len(await world.ask("reports-before-sending", seconds=4)) == 2


async def test_delivered_to_unknown_numbers(world: World) -> None:
    own = await world.sent("a", "10-12 12:00", phone="15412345678", segments=2)
    await world.sent("b", status="failed", phone="15412345678")
    await world.sent("c", phone="17051234567")
    await world.sent("d", phone="85261234567")
    await world.sent("e", phone="154123456789")
    assert await world.ask("delivered-to-unknown-numbers") == [
        (str(own), "a", "15412345678", shown("10-12 12:00"), 2, "0.1", "CNY")
    ]


# --- all of them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUDIT)
async def test_answer_is_empty_where_nothing_is(world: World, name: str) -> None:
    assert await world.ask(name) == []


async def test_prefixes_are_those_of_four_carriers(connection: Any) -> None:
    rows = await connection.fetch("SELECT prefix, carrier_zh FROM audit.prefixes")
    assert {row["carrier_zh"] for row in rows} == {"移动", "联通", "电信", "广电"}
    known = {row["prefix"]: row["carrier_zh"] for row in rows}
    assert (known["138"], known["130"], known["133"], known["192"]) == (
        "移动",
        "联通",
        "电信",
        "广电",
    )
    # Every segment from 130 on is somebody's but those that are not issued or for things only.
    whole = {prefix[:3] for prefix in known}
    missing = {str(number) for number in range(130, 200)} - whole
    assert missing == {
        "140",
        "141",
        "142",
        "143",
        "144",
        "154",
        "160",
        "161",
        "163",
        "164",
        "168",
        "169",
        "179",
        "194",
    }
