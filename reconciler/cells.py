"""What the cells of people's tables say: numbers, amounts and times as they are really written.

All here is pure. A cell that says nothing is a ValueError; `quoted` makes of it what a complaint may
show.
"""

import re
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from zoneinfo import ZoneInfo

from gateways.phone import redacted
from reconciler.workbooks import serial

_MAX_DIGITS = 30
_HALF_WIDTH = {0xFF01 + offset: 0x21 + offset for offset in range(94)}
_HALF_WIDTH |= {0x3000: 0x20, 0xA0: 0x20, 0xFFE5: 0xA5}
# As spreadsheets write it, with a sign: 6055df2f45e10 and 635303e52052 are ids of ThinkAPI's.
_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d+)?[eE]\+\d+", re.ASCII)
_WHOLE = re.compile(r"(\d{1,3}(?:,\d{3})+|\d+)(?:\.0+)?条?", re.ASCII)
_DECIMAL = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d{1,12})?", re.ASCII)
_CURRENCY = r"(?:CN)?¥|RMB|CNY|人民币"
_AMOUNT = re.compile(
    rf"(?P<sign>[-+]?)(?:{_CURRENCY})?(?P<inner>[-+]?)(?P<digits>[\d,.]+)(?:元|圆|RMB|CNY)?",
    re.ASCII | re.IGNORECASE,
)
_ISO_CURRENCY = re.compile(r"[A-Z]{3}")
_CURRENCIES = {
    **dict.fromkeys(("人民币", "元", "RMB"), "CNY"),
    **dict.fromkeys(("港币", "港元"), "HKD"),
    "美元": "USD",
    "欧元": "EUR",
}
_IN_YUAN = re.compile(r"CN¥|CNY|RMB|人民币|(?<![美欧港日])元", re.IGNORECASE)
_SERIAL = re.compile(r"\d{5}(?:\.\d+)?", re.ASCII)
# Days of 2000 and of 2099: any other number of five digits is none.
_FIRST_SERIAL, _END_SERIAL = 36_526, 73_051
_TIME = re.compile(
    r"(?:(?P<year>\d{4})[-/.年] ?(?P<month>\d{1,2})[-/.月] ?(?P<day>\d{1,2})日?"
    r"|(?P<digits>\d{8}))"
    r"(?: ?(?:星期|周)[一二三四五六日天])?"
    r"(?:(?:[ T]+|(?<=[一二三四五六日天])|(?=[上下]))(?P<half>上午|下午|AM|PM)? ?"
    r"(?:(?P<hour>\d{1,2})[:时] ?(?P<minute>\d{1,2})(?:[:分] ?(?:(?P<second>\d{1,2})(?:\.\d+)?秒?)?)?"
    r"|(?P<clock>\d{6}))"
    r" ?(?P<after>AM|PM)?)?"
    r" ?(?P<zone>Z|[+-]\d{2}:?\d{2})?",
    re.ASCII | re.IGNORECASE,
)
_MOBILE = re.compile(r"(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}")


def plain(text: str) -> str:
    """Return `text` with its full-width characters in half width."""
    # Not Unicode's own folding, to which 10² is 102.
    return text if text.isascii() else text.translate(_HALF_WIDTH)


def rounded(text: str) -> bool:
    """Tell whether this is a number that a spreadsheet has written as 1.23E+15."""
    return "+" in text and _SCIENTIFIC.fullmatch(plain(text)) is not None


@lru_cache(maxsize=1024)
def whole(text: str) -> int:
    """Return a count: perhaps with thousands separators, as 3.0, or with 条 behind it."""
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        return int(text)
    matched = _WHOLE.fullmatch(plain(text).replace(" ", "")) if len(text) <= _MAX_DIGITS else None
    if matched is None:
        raise ValueError("is not a whole number")
    return int(matched[1].replace(",", ""))


@lru_cache(maxsize=1024)  # a bill has few prices
def amount(text: str) -> Decimal:
    """Return money: perhaps with thousands separators, ¥, 元 or a sign, or as (1.00) for -1.00."""
    if len(text) <= _MAX_DIGITS:
        if _DECIMAL.fullmatch(text):
            return Decimal(text.replace(",", ""))
        spelt = plain(text).replace(" ", "").replace("\u2212", "-")
        negative = spelt.startswith("(") and spelt.endswith(")")
        matched = _AMOUNT.fullmatch(spelt[1:-1] if negative else spelt)
        if matched and _DECIMAL.fullmatch(matched["digits"]):
            signs = matched["sign"] + matched["inner"]
            if len(signs) + negative <= 1:
                sign = "-" if negative else signs
                return Decimal(sign + matched["digits"].replace(",", ""))
    raise ValueError("is not a decimal amount")


@lru_cache(maxsize=64)  # a bill has one
def currency(text: str) -> str:
    """Return a currency's three letters: perhaps written in small ones, or 人民币, 元, RMB, 美元 and the like."""
    spelt = plain(text).upper()
    letters = _CURRENCIES.get(spelt, spelt)
    if not _ISO_CURRENCY.fullmatch(letters):
        raise ValueError("is no currency, such as CNY")
    return letters


def in_yuan(text: str) -> bool:
    """Tell whether an amount, or its heading such as 金额(元), says that it is in yuan; ¥ alone is Japan's too."""
    return _IN_YUAN.search(text) is not None


def moment(
    text: str, zone: ZoneInfo, *, time_format: str | None = None, since_1904: bool = False
) -> datetime:
    """Return a date, perhaps with a time; without an offset it is in `zone`.

    Read are ISO 8601, Chinese spellings (2026年10月5日 下午3:05), 20261005093000, and a spreadsheet's
    count of days; with `time_format`, as `strptime` has it, that and 2026-10-05 09:30:00 alone,
    which is what a spreadsheet's own dates are read as.
    """
    iso = len(text) == 19 and (text[4], text[7], text[13], text[16]) == ("-", "-", ":", ":")
    try:
        if time_format is not None and not iso:
            at = datetime.strptime(text, time_format)  # noqa: DTZ007  the zone follows
            at = at if at.tzinfo else at.replace(tzinfo=zone)
        elif iso:
            at = datetime.fromisoformat(text).replace(tzinfo=zone)
        else:
            at = _moment(plain(text), zone, since_1904)
    except ValueError:
        raise ValueError("is not a time") from None
    if not 2000 <= at.year <= 9000:
        raise ValueError("is not a time")
    return at


def _moment(text: str, zone: ZoneInfo, since_1904: bool) -> datetime:
    if _SERIAL.fullmatch(text):
        at = serial(float(text), since_1904=since_1904)
        if at is None or not _FIRST_SERIAL <= float(text) + 1462 * since_1904 < _END_SERIAL:
            raise ValueError("is not a time")
        return at.replace(tzinfo=zone)
    if text.isascii() and text.isdigit() and len(text) == 14:
        text = f"{text[:8]} {text[8:]}"
    matched = _TIME.fullmatch(text)
    if matched is None:
        raise ValueError("is not a time")
    if digits := matched["digits"]:
        year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:])
    else:
        year, month, day = (int(matched[part]) for part in ("year", "month", "day"))
    if clock := matched["clock"]:
        hour, minute, second = int(clock[:2]), int(clock[2:4]), int(clock[4:])
    else:
        hour, minute, second = (int(matched[part] or 0) for part in ("hour", "minute", "second"))
    half = (matched["half"] or matched["after"] or "").upper()
    if half:
        hour = _of_day(hour, half)
    at = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    if offset := matched["zone"]:
        at = datetime.fromisoformat(at.replace(tzinfo=None).isoformat() + offset.upper())
    return at


def _of_day(hour: int, half: str) -> int:
    """Return the hour from 0 to 23; people also write 下午15:05."""
    if half in ("上午", "AM"):
        if hour > 12:
            raise ValueError("is not a time")
        return hour % 12
    return hour if hour >= 12 else hour + 12


def quoted(text: str) -> str:
    """Return a cell as a complaint may show it: short, and without what could be a phone number."""
    return repr(redacted(_MOBILE.sub("…", plain(text)))[:40])
