"""Lists go by a cursor that names the last row seen, so that no page is slow and none repeats."""

import base64
import binascii
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

MAX_LIMIT = 1000


class BadCursor(ValueError):
    """A cursor that we did not make."""


class Page(NamedTuple):
    """One page of a list; `next` is the cursor of the page after it, None on the last."""

    items: list[dict[str, Any]]
    next: str | None


def cursor_of(*key: Any) -> str:
    """Return a cursor that holds `key`, for people to pass on and not to read."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(key)).decode().rstrip("=")


def key_of(cursor: str | None, *types: type) -> tuple[Any, ...]:
    """Return the key that `cursor` holds, all None without one; raises `BadCursor`."""
    if cursor is None:
        return (None,) * len(types)
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        decoded: tuple[Any, ...] = msgspec.msgpack.decode(
            base64.urlsafe_b64decode(padded.encode("ascii")),
            type=tuple[types],  # type: ignore[valid-type]
        )
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise BadCursor("the cursor is not one of ours") from None
    if any(isinstance(part, datetime) and part.tzinfo is None for part in decoded):
        raise BadCursor("the cursor is not one of ours")
    return decoded


async def every(page: Callable[[str | None], Any]) -> AsyncIterator[dict[str, Any]]:
    """Yield the items of all pages; `page` takes a cursor and returns an awaitable `Page`."""
    cursor: str | None = None
    while True:
        found: Page = await page(cursor)
        for item in found.items:
            yield item
        if found.next is None:
            return
        cursor = found.next


def page_of(
    rows: Sequence[Any],
    limit: int,
    item: Callable[[Any], dict[str, Any]],
    cursor: Callable[[Any], str],
) -> Page:
    """Make a page of `rows`, which were asked for with one more than `limit`."""
    shown = rows[:limit]
    return Page([item(row) for row in shown], cursor(shown[-1]) if len(rows) > limit else None)
