"""What an examination finds, one thing at a time."""

from typing import Literal

import msgspec

Result = Literal["ok", "warning", "failed", "not checked"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, of which account if of one, how it is, and what to do about it.

    `found` and `advice` are a sentence each, without secrets and phone numbers; `advice` is empty
    where there is nothing to do.
    """

    check: str
    account: str = ""
    result: Result
    found: str
    advice: str = ""


def ok(check: str, found: str, *, account: str = "") -> Finding:
    """It is as it should be."""
    return Finding(check=check, account=account, result="ok", found=found)


def warning(check: str, found: str, advice: str, *, account: str = "") -> Finding:
    """It works, and somebody should look at it."""
    return Finding(check=check, account=account, result="warning", found=found, advice=advice)


def failed(check: str, found: str, advice: str, *, account: str = "") -> Finding:
    """It does not work."""
    return Finding(check=check, account=account, result="failed", found=found, advice=advice)


def not_checked(check: str, found: str, advice: str = "", *, account: str = "") -> Finding:
    """It could not be looked at, for the reason given."""
    return Finding(check=check, account=account, result="not checked", found=found, advice=advice)
