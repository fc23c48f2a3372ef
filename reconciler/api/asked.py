"""What routes are asked with alike: accounts, periods, times and uploads."""

import contextlib
import re
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from litestar.datastructures import State, UploadFile
from litestar.exceptions import HTTPException
from litestar.params import QueryParameter

from reconciler import actions, match, periods
from reconciler.api.problems import Unprocessable
from runtime.settings import AccountSettings

Text = Annotated[str | None, QueryParameter()]
_DATE_TIME = {"format": "date-time"}
Since = Annotated[
    str | None,
    QueryParameter(name="from", description="RFC 3339, included", schema_extra=_DATE_TIME),
]
Until = Annotated[
    str | None,
    QueryParameter(name="to", description="RFC 3339, not included", schema_extra=_DATE_TIME),
]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


def between(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Read the times between which to list."""
    return _time("from", since), _time("to", until)


def _time(name: str, text: str | None) -> datetime | None:
    """Read a time of the query; a + of its offset that came unescaped is a blank."""
    if text is None:
        return None
    try:
        spelt = re.sub(r" (?=\d\d:\d\d$)", "+", text)
        at: datetime = msgspec.convert(spelt, Annotated[datetime, msgspec.Meta(tz=True)])
        return at.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        detail = (
            f"{name}: {text[:40]!r} is no time with an offset, such as 2026-10-01T00:00:00+08:00"
        )
        raise HTTPException(detail, status_code=400) from None


def known_account(state: State, name: str) -> AccountSettings:
    """Return the settings of the account named; raises `Unprocessable` if there are none."""
    settings: AccountSettings | None = state.settings.accounts.get(name)
    if settings is None:
        raise Unprocessable(f"no account {name[:64]!r} in the settings")
    actions.concerns(account=name)
    return settings


def accounts_of(state: State, name: str | None) -> list[str]:
    """Return the accounts to read: the one named, also if it has left the settings, or all."""
    return [name] if name is not None else sorted(state.settings.accounts)


def period_of(text: str) -> periods.Period:
    """Read a period; raises `Unprocessable`."""
    try:
        period = periods.parse(text)
    except ValueError as error:
        raise Unprocessable(str(error)) from None
    actions.concerns(period=period)
    return period


def check_kind(kind: str | None) -> None:
    """Raise `Unprocessable` for what is no kind of discrepancy."""
    if kind is not None and kind not in match.KINDS:
        raise Unprocessable(f"no such kind; there are {', '.join(match.KINDS)}")


@contextlib.asynccontextmanager
async def spooled(upload: UploadFile) -> AsyncIterator[Path]:
    """Copy an upload to a file of our own, in pieces, for as long as it is read."""
    with tempfile.NamedTemporaryFile(prefix="huizhi-", suffix=".statement") as file:
        while chunk := await upload.read(1 << 20):
            file.write(chunk)
        file.flush()
        yield Path(file.name)
