"""The vendors' clock: times without a zone, and virtual time for a month played in minutes.

Both vendors print local times without a zone (vendor-docs/001, 接口2); that they mean
UTC+8 is inferred, as both serve mainland China only.
"""

from datetime import UTC, date, datetime, time, timedelta, timezone
from functools import lru_cache

VENDOR_ZONE = timezone(timedelta(hours=8))


def now() -> datetime:
    return datetime.now(UTC)


@lru_cache(maxsize=4096)
def parse_virtual(text: str) -> datetime:
    """Read an `X-Sandbox-Time` header; raises ValueError unless it is ISO 8601 with an offset."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("X-Sandbox-Time needs an offset, as in 2026-10-03T10:00:00+08:00")
    return at


def local_text(at: datetime) -> str:
    """YYYY-MM-DD HH:MM:SS in the vendors' zone."""
    return at.astimezone(VENDOR_ZONE).strftime("%Y-%m-%d %H:%M:%S")


def slashed_text(at: datetime) -> str:
    """2017/5/13 13:09:46, as inbound messages were seen to carry (vendors.md 1.5)."""
    local = at.astimezone(VENDOR_ZONE)
    return f"{local.year}/{local.month}/{local.day} {local:%H:%M:%S}"


def parse_local(text: str) -> datetime:
    """Read YYYY-MM-DD HH:MM:SS as the vendors' zone; raises ValueError."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=VENDOR_ZONE)


def period_bounds(period: str) -> tuple[datetime, datetime]:
    """Turn `2026-10` or `2026-10-01..2026-10-15` (both days in) into [start, end).

    Raises ValueError.
    """
    if ".." in period:
        first_text, last_text = period.split("..", 1)
        first, last = date.fromisoformat(first_text), date.fromisoformat(last_text)
    else:
        first = date.fromisoformat(f"{period}-01")
        last = (first.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    if last < first:
        raise ValueError(f"period {period} ends before it begins")
    start = datetime.combine(first, time(), VENDOR_ZONE)
    return start, datetime.combine(last, time(), VENDOR_ZONE) + timedelta(days=1)
