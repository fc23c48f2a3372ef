"""Fields of rows as JSON has them."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from reconciler.match import money

# Of messages in these states no vendor's id is known: what they are filed under is our own.
_WITHOUT_VENDOR_ID = frozenset({"submitting", "indeterminate", "refused"})


def rfc3339(at: datetime | None) -> str | None:
    """Return `at` as RFC 3339 with an offset."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def id_or_none(id: UUID | None) -> str | None:
    """Return an id as text."""
    return None if id is None else str(id)


def money_or_none(amount: Any) -> str | None:
    """Return an amount as `money` does."""
    return None if amount is None else money(amount)


def vendor_message_id_of(row: Any) -> str | None:
    """Return the vendor's id of a message, None while only we have one."""
    return None if row["status"] in _WITHOUT_VENDOR_ID else row["vendor_message_id"]
