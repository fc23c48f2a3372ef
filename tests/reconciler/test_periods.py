"""Periods: days of the account's calendar, both ends in."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.periods import Period, day_start, parse

SHANGHAI = ZoneInfo("Asia/Shanghai")
days = st.dates(date(2000, 1, 1), date(8999, 12, 30))


def test_month_and_days_are_read() -> None:
    assert parse("2026-10") == Period(date(2026, 10, 1), date(2026, 10, 31))
    assert parse("2024-02") == Period(date(2024, 2, 1), date(2024, 2, 29))
    assert parse("2026-10-01..2026-10-15") == Period(date(2026, 10, 1), date(2026, 10, 15))
    assert parse("2026-10-01..2026-10-01") == Period(date(2026, 10, 1), date(2026, 10, 1))
    assert parse("2025-12-20..2026-01-10") == Period(date(2025, 12, 20), date(2026, 1, 10))


def test_whole_month_spelled_by_its_days_is_the_month() -> None:
    assert str(parse("2026-10-01..2026-10-31")) == "2026-10"
    assert str(parse("2026-10-01..2026-11-30")) == "2026-10-01..2026-11-30"


@settings(derandomize=True)
@given(days, days)
def test_every_period_is_read_as_it_is_written(one: date, other: date) -> None:
    period = Period(min(one, other), max(one, other))
    assert parse(str(period)) == period
    starts, ends = period.bounds(SHANGHAI)
    assert ends - starts == (period.last - period.first) + timedelta(days=1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026",
        "2026-13",
        "2026-00",
        "2026-1",
        "2026-10-01",
        "2026-02-30..2026-03-01",
        "2026-10-15..2026-10-01",
        "2026-10..2026-11",
        "2026-10-01...2026-10-15",
        " 2026-10",
        "2026-10\n",
        "２０２６-１０",
        "0000-01",
        "0001-01",
        "1999-12",
        "9000-01",
        "9999-12",
        "0001-01-01..0001-01-02",
        "2026-01-01..9999-12-31",
        "x" * 100_000,
    ],
)
def test_anything_else_is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"period|ends before") as caught:
        parse(text)
    assert len(str(caught.value)) < 120
    assert "\n" not in str(caught.value)


def test_days_begin_in_the_accounts_zone() -> None:
    assert day_start(date(2026, 10, 1), SHANGHAI) == datetime(2026, 9, 30, 16, tzinfo=UTC)
    assert parse("2026-10").bounds(SHANGHAI) == (
        datetime(2026, 9, 30, 16, tzinfo=UTC),
        datetime(2026, 10, 31, 16, tzinfo=UTC),
    )


def test_day_without_a_midnight_begins_when_its_clock_does() -> None:
    # Clocks in Cairo went from 00:00 to 01:00 on that day.
    cairo = ZoneInfo("Africa/Cairo")
    began = day_start(date(2026, 4, 24), cairo)
    assert began == datetime(2026, 4, 23, 22, tzinfo=UTC)
    assert (began - timedelta(seconds=1)).astimezone(cairo).date() == date(2026, 4, 23)
    assert began.astimezone(cairo).date() == date(2026, 4, 24)
