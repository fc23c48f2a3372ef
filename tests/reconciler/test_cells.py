"""What cells say: the ways in which vendors and people write counts, money and times."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler import cells

CHINA = ZoneInfo("Asia/Shanghai")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3),
        ("3.0", 3),
        ("1,234", 1234),
        ("1,234.00", 1234),
        ("１，２３４", 1234),
        ("12条", 12),
        ("12 条", 12),
        ("007", 7),
    ],
)
def test_counts_are_read_as_people_write_them(text: str, number: int) -> None:
    assert cells.whole(text) == number


@pytest.mark.parametrize(
    "text", ["", "1.5", "-1", "1,00", "1e3", "²", "9" * 31, "one", "条", "0x1"]
)
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number"):
        cells.whole(text)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0.1", "0.1"),
        ("1,234.50", "1234.50"),
        ("１，２３４．５０", "1234.50"),
        ("¥35.00", "35.00"),
        ("￥ 35", "35"),
        ("35元", "35"),
        ("-0.105", "-0.105"),
        ("-¥1.5", "-1.5"),
        ("¥-1.5", "-1.5"),
        ("\u22121.5", "-1.5"),
        ("(1,000.00)", "-1000.00"),
        ("（¥2.00）", "-2.00"),
        ("CNY 12.3", "12.3"),
        ("rmb12.3", "12.3"),
        ("12.3 CNY", "12.3"),
        ("人民币12.3元", "12.3"),
        ("+2", "2"),
    ],
)
def test_amounts_are_read_to_the_last_digit(text: str, amount: str) -> None:
    assert str(cells.amount(text)) == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$1",
        "1.2.3",
        "1,00.0",
        "1.234,50",
        "--1",
        "-(1)",
        "-¥-1",
        "¥",
        "1e3",
        "NaN",
        "0." + "1" * 13,
    ],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a decimal amount"):
        cells.amount(text)


@given(st.decimals(-(10**12), 10**12, places=6))
def test_amount_with_separators_and_marks_is_the_same(amount: Decimal) -> None:
    for spelt in (f"{amount:f}", f"{amount:,}", f"¥{amount:,}元", f"{amount:,}".replace(",", "，")):
        assert cells.amount(spelt) == amount


AFTERNOON = datetime(2026, 10, 5, 15, 5, tzinfo=CHINA)


@pytest.mark.parametrize(
    "text",
    [
        "2026-10-05 15:05:00",
        "2026-10-05T15:05:00",
        "2026-10-05 15:05",
        "2026/10/5 15:05",
        "2026.10.05 15:05:00.123",
        "20261005150500",
        "20261005 15:05:00",
        "20261005 150500",
        "2026年10月5日 15时05分00秒",
        "2026年10月05日15:05",
        "2026年10月5日 15时5分",
        "2026年10月5日 下午3:05:00",
        "2026/10/5 下午 3:05",
        "2026/10/5下午3:05",
        "2026-10-5 3:05 PM",
        "2026年10月5日星期一 15:05",
        "２０２６－１０－０５　１５：０５",
        "2026-10-05T07:05:00Z",
        "2026-10-05 15:05:00+08:00",
        "2026-10-05T15:05:00.5+0800",
    ],
)
def test_times_are_read_as_people_write_them(text: str) -> None:
    assert cells.moment(text, CHINA) == AFTERNOON


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2026-10-05", 5),
        ("2026年10月5日", 5),
        ("20261005", 5),
        ("2026/10/6 上午12:00", 6),
        ("46300", 5),
    ],
)
def test_days_begin_at_midnight_in_the_zone(text: str, day: int) -> None:
    assert cells.moment(text, CHINA) == datetime(2026, 10, day, tzinfo=CHINA)


@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "2026", "2026-13-01", "2026-02-30", "05/10/2026", "1/2/26", "1633392000"),
        *("2026-10-05 25:00:00", "2026-10-05 09:30:00+99:00", "2026-10-0509:30", "0001-01-01"),
        *(
            "9999-12-31",
            "2026-10-05 上午15:05",
            "36525",
            "73051",
            "46300.5.5",
            "2026-W41-1T09:30:0",
        ),
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not a time$"):
        cells.moment(text, CHINA)


def test_declared_time_format_is_the_only_one_beside_the_dates_of_spreadsheets() -> None:
    found = cells.moment("05/10/2026 15:05", CHINA, time_format="%d/%m/%Y %H:%M")
    assert found == AFTERNOON
    found = cells.moment("05/10/26 15:05 +0000", CHINA, time_format="%d/%m/%y %H:%M %z")
    assert found == datetime(2026, 10, 5, 15, 5, tzinfo=UTC)
    with pytest.raises(ValueError, match=r"^is not a time$"):
        cells.moment("2026-10-05 15:05", CHINA, time_format="%d/%m/%Y %H:%M")
    # What a spreadsheet's own date is read as.
    found = cells.moment("2026-10-05 15:05:00", CHINA, time_format="%d/%m/%Y %H:%M")
    assert found == AFTERNOON


@given(st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)))  # noqa: DTZ001
def test_serial_of_either_calendar_is_the_time_to_the_second(at: datetime) -> None:
    wanted = at.replace(microsecond=0)
    for since_1904, epoch in ((False, datetime(1899, 12, 30)), (True, datetime(1904, 1, 1))):  # noqa: DTZ001
        text = f"{(wanted - epoch) / timedelta(days=1):.10f}"
        found = cells.moment(text, CHINA, since_1904=since_1904)
        assert found == wanted.replace(tzinfo=CHINA)


@pytest.mark.parametrize(
    ("text", "is_rounded"),
    [
        ("1.23E+15", True),
        ("1e+21", True),
        ("1.234568e+15", True),
        ("１.２３E+15", True),
        ("635303e52052", False),
        ("6055df2f45e10", False),
        ("1234567890123456", False),
        ("+8613800138000", False),
    ],
)
def test_number_that_a_spreadsheet_rounded_is_told_from_an_id(text: str, is_rounded: bool) -> None:
    assert cells.rounded(text) is is_rounded


@pytest.mark.parametrize(
    "phone",
    [
        "13800138000",
        "+86 138 0013 8000",
        "138-0013-8000",
        "８６１３８００１３８０００",
        "008613800138000",
    ],
)
def test_quoted_cell_shows_no_phone_number(phone: str) -> None:
    shown = cells.quoted(f"to {phone}!")
    assert "0013" not in shown
    assert "38001" not in shown
    assert cells.quoted("3.5 x") == "'3.5 x'"
    assert len(cells.quoted("x" * 1000)) < 50
