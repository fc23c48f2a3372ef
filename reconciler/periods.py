"""Periods: days on the calendar of the account's zone, both ends in."""

import re
from calendar import monthrange
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec

_MONTH = re.compile(r"(\d{4})-(\d{2})", re.ASCII)
_DAYS = re.compile(r"(\d{4}-\d{2}-\d{2})\.\.(\d{4}-\d{2}-\d{2})", re.ASCII)
# Whose days no clock runs out of, in any zone.
_YEARS = range(2000, 9000)


class Period(msgspec.Struct, frozen=True):
    """From `first` to `last`, both days in."""

    first: date
    last: date

    def __str__(self) -> str:
        """Return the shortest spelling: `2026-10` for a whole month."""
        if self == _month(self.first.year, self.first.month):
            return f"{self.first:%Y-%m}"
        return f"{self.first}..{self.last}"

    def bounds(self, zone: ZoneInfo) -> tuple[datetime, datetime]:
        """Return the first moment of the period and the first after it, in UTC."""
        return day_start(self.first, zone), day_start(self.last + timedelta(days=1), zone)


def parse(text: str) -> Period:
    """Read `2026-10` or `2026-10-01..2026-10-15`; raises ValueError with one line."""
    complaint = f"{text[:40]!r} is no period, such as 2026-10 or 2026-10-01..2026-10-15"
    try:
        if month := _MONTH.fullmatch(text):
            period = _month(int(month[1]), int(month[2]))
        elif days := _DAYS.fullmatch(text):
            period = Period(date.fromisoformat(days[1]), date.fromisoformat(days[2]))
        else:
            raise ValueError
        if period.first.year not in _YEARS or period.last.year not in _YEARS:
            raise ValueError
    except ValueError:
        raise ValueError(complaint) from None
    if period.last < period.first:
        raise ValueError(f"{text!r} ends before it begins")
    return period


def day_start(day: date, zone: ZoneInfo) -> datetime:
    """Return midnight at the start of `day` in `zone`, in UTC."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _month(year: int, month: int) -> Period:
    return Period(date(year, month, 1), date(year, month, monthrange(year, month)[1]))
