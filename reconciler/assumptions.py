"""What-if: other rules than the settings', for a run that is kept apart from the real ones."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gateways.segments import Rule, Unit
from runtime.settings import AccountSettings

BASES = ("delivered", "submitted")


def assumed(
    settings: AccountSettings, assume: Mapping[str, str]
) -> tuple[AccountSettings, dict[str, str]]:
    """Return the settings as they would be, and the assumptions in one order and spelling; pure.

    `price` and `basis` are those of every tariff. Raises ValueError with one line.
    """
    spelt: dict[str, str] = {}
    for name in assume:
        if name not in ASSUMABLE:
            raise ValueError(f"no assumption {name[:40]!r}; there are {', '.join(ASSUMABLE)}")
    for name, change in ASSUMABLE.items():
        if name in assume:
            text = assume[name].strip()
            settings = change(settings, text)
            spelt[name] = text
    return settings, spelt


def _wrong(name: str, text: str, expected: str) -> ValueError:
    return ValueError(f"assumption {name}: {text[:40]!r} is not {expected}")


def _tariffs(settings: AccountSettings, **changed: Any) -> AccountSettings:
    return msgspec.structs.replace(
        settings,
        tariffs=tuple(msgspec.structs.replace(tariff, **changed) for tariff in settings.tariffs),
    )


def _price(settings: AccountSettings, text: str) -> AccountSettings:
    try:
        price = Decimal(text)
    except InvalidOperation:
        price = Decimal("NaN")
    # As many digits as a price of the settings can have, and more than any has.
    if not price.is_finite() or price < 0 or len(text) > 30 or "E" in text.upper():
        raise _wrong("price", text, 'decimal text such as "0.035"')
    return _tariffs(settings, price=price)


def _basis(settings: AccountSettings, text: str) -> AccountSettings:
    if text not in BASES:
        raise _wrong("basis", text, "delivered or submitted")
    return _tariffs(settings, basis=text)


def _rule(settings: AccountSettings, text: str) -> AccountSettings:
    if text not in list(Rule):
        raise _wrong("segment_rule", text, " or ".join(Rule))
    return msgspec.structs.replace(settings, rule=Rule(text))


def _unit(settings: AccountSettings, text: str) -> AccountSettings:
    if text not in list(Unit):
        raise _wrong("segment_unit", text, " or ".join(Unit))
    return msgspec.structs.replace(settings, unit=Unit(text))


def _hours(settings: AccountSettings, text: str) -> AccountSettings:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours <= 87_600:
        raise _wrong("poll_until_hours", text, "a number of hours above 0")
    return msgspec.structs.replace(settings, poll_until_hours=hours)


def _zone(settings: AccountSettings, text: str) -> AccountSettings:
    try:
        zone = ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise _wrong("timezone", text, 'a time zone such as "Asia/Shanghai"') from None
    return msgspec.structs.replace(settings, account=replace(settings.account, zone=zone))


ASSUMABLE: dict[str, Callable[[AccountSettings, str], AccountSettings]] = {
    "price": _price,
    "basis": _basis,
    "segment_rule": _rule,
    "segment_unit": _unit,
    "poll_until_hours": _hours,
    "timezone": _zone,
}
