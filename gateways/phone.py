"""One spelling of a phone number, so that a vendor's, a bank's and ours meet."""

import re
import unicodedata

_NOT_DIGITS = re.compile(r"\D+", re.ASCII)
_MAINLAND = re.compile(r"(?:86)?(1\d{10})", re.ASCII)
_MOBILE = re.compile(r"1[3-9]\d{9}", re.ASCII)
_MAINLAND_MOBILE = re.compile(r"861[3-9]\d{9}", re.ASCII)
_LONG_NUMBER = re.compile(r"\d{7,}")


def normalise(phone: str | int) -> str:
    """Return the digits of `phone`, without `+` or `00`, mainland numbers without `86`.

    Pure and idempotent; never rejects: access codes such as 1069... are numbers too. Full-width
    digits count as digits. Empty text means that there was no digit.
    """
    text = str(phone)
    if len(text) == 11 and text[0] == "1" and text.isascii() and text.isdigit():
        return text  # what nearly all are
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    digits = _NOT_DIGITS.sub("", text)
    while digits.startswith("00"):
        digits = digits[2:]
    mainland = _MAINLAND.fullmatch(digits)
    return mainland[1] if mainland else digits


def international(number: str) -> str:
    """Return `number` as digits with its country code, as vendors who send abroad want it; pure.

    What begins with `+` or `00` has its code; of what has neither, a mainland number without `86`
    gets it and everything else is taken to have its own.
    """
    text = unicodedata.normalize("NFKC", number).strip()
    digits = _NOT_DIGITS.sub("", text)
    if text.startswith("+") or digits.startswith("00"):
        return digits.lstrip("0")
    return f"86{digits}" if _MOBILE.fullmatch(digits) else digits


def is_mainland(number: str) -> bool:
    """Tell whether `number`, as its sender wrote it, is a mobile number of mainland China; pure."""
    return _MAINLAND_MOBILE.fullmatch(international(number)) is not None


def masked(phone: str) -> str:
    """Return `phone` as it may stand in a log line: the last four digits at most."""
    return f"…{phone[-4:]}" if len(phone) > 7 else "…"


def redacted(text: str) -> str:
    """Return `text` with runs of seven or more digits masked: vendors' words quote numbers."""
    return _LONG_NUMBER.sub(lambda number: masked(number[0]), text)
