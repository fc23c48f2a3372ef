"""The ledger from files: CSV, XLSX and NDJSON, some thousand rows at a time."""

import codecs
import os
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from reconciler import cells, ledger
from reconciler.tables import FileError, Layout, Row, Table, opened
from runtime.settings import Settings

CHUNK_ROWS = 5_000
SHOWN_REJECTIONS = 100

_HEADINGS: dict[str, tuple[str, ...]] = {
    "account": ("account", "账号", "帐号"),
    "vendor_message_id": ("vendor_message_id", "任务ID", "短信ID", "消息ID", "taskid", "msgid"),
    "phone": ("phone", "mobile", "手机号", "手机号码", "号码"),
    "sent_at": ("sent_at", "发送时间", "提交时间"),
    "content": ("content", "内容", "短信内容"),
    "sign": ("sign", "签名"),
    "segments": ("segments", "条数", "计费条数"),
    "reference": ("reference", "业务编号", "流水号"),
    "template_id": ("template_id", "模板ID", "模板编号"),
}
_REQUIRED = ("vendor_message_id", "phone", "sent_at")


class Imported(msgspec.Struct, kw_only=True):
    """What an import did; `rejected` holds the first lines with their reasons."""

    recorded: int = 0
    duplicates: int = 0
    rejected_count: int = 0
    rejected: list[tuple[int, str]] = msgspec.field(default_factory=list)


async def import_file(
    pool: Any,
    settings: Settings,
    path: Path,
    *,
    default_account: str | None,
    now: datetime,
    sheet: str | None = None,
    progress: Callable[[int, float], None] = lambda _rows, _share: None,
) -> Imported:
    """Register the messages of a file; rows without an account are `default_account`'s.

    `sheet` names the one to read of a workbook that has several. `progress` is told how many rows are
    registered, and which share of the file is read.

    Each chunk is durable when the next begins; running it again after a crash is harmless. Raises
    `FileError` for a file that is no table, before anything is registered.
    """
    done = Imported()
    lines: list[int] = []
    chunk: list[ledger.Sent | ledger.Rejected] = []
    for line, row, share in _decoded(path, settings, default_account, sheet):
        try:
            if isinstance(row, ValueError):
                raise row
            chunk.append(ledger.convert(row, settings.accounts, now))
        except ValueError as error:
            chunk.append(ledger.Rejected(len(chunk), str(error)))
        lines.append(line)
        if len(chunk) == CHUNK_ROWS:
            await _register(pool, settings, chunk, lines, done, now)
            lines, chunk = [], []
            progress(done.recorded + done.duplicates + done.rejected_count, share)
    if chunk:
        await _register(pool, settings, chunk, lines, done, now)
    return done


async def _register(
    pool: Any,
    settings: Settings,
    chunk: list[ledger.Sent | ledger.Rejected],
    lines: list[int],
    done: Imported,
    now: datetime,
) -> None:
    registered = await ledger.register(pool, settings.accounts, chunk, now=now)
    done.recorded += registered.recorded
    done.duplicates += registered.duplicates
    done.rejected_count += len(registered.rejected)
    room = SHOWN_REJECTIONS - len(done.rejected)
    done.rejected += [(lines[row.index], row.reason) for row in registered.rejected[:room]]


def _decoded(
    path: Path, settings: Settings, default_account: str | None, sheet: str | None
) -> Iterator[tuple[int, dict[str, Any] | ValueError, float]]:
    """Yield each row's line, its values or why it has none, and the share of the file up to it."""
    defaults = {} if default_account is None else {"account": default_account}
    if path.suffix.lower() in (".ndjson", ".jsonl"):
        yield from _ndjson(path, defaults)
        return
    required = _REQUIRED if default_account is not None else ("account", *_REQUIRED)
    layout = Layout(known=_HEADINGS, required=required, sheet=sheet)
    with opened(path, path.name, layout) as table:
        # Once to its end before anything is registered: a file that breaks off is refused whole.
        deque(table.rows(), maxlen=0)
        for row in table.rows():
            try:
                values = _values(row, table, settings, default_account)
                yield row.line, {**defaults, **values}, table.share
            except ValueError as error:
                yield row.line, error, table.share


def _ndjson(
    path: Path, defaults: dict[str, str]
) -> Iterator[tuple[int, dict[str, Any] | ValueError, float]]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size or 1
            read = 0
            for line, text in enumerate(file, start=1):
                read += len(text)
                text = text.removeprefix(codecs.BOM_UTF8) if line == 1 else text
                if not text.strip():
                    continue
                try:
                    decoded = ledger.decode(text)
                except ValueError as error:
                    yield line, error, read / size
                    continue
                if isinstance(decoded, dict):
                    yield line, {**defaults, **decoded}, read / size
                else:
                    yield line, ValueError("is not a JSON object"), read / size
    except OSError as error:
        raise FileError(path.name, f"cannot be read: {error.strerror}") from None


def _values(
    row: Row, table: Table, settings: Settings, default_account: str | None
) -> dict[str, Any]:
    values: dict[str, Any] = {
        field: text for field in _HEADINGS if (text := table.columns.get(row, field))
    }
    for field in ("vendor_message_id", "phone"):
        if cells.rounded(values.get(field, "")):
            raise ValueError(f"{field} is a number that a spreadsheet has rounded")
    if "segments" in values:
        try:
            values["segments"] = cells.whole(values["segments"])
        except ValueError as error:
            raise ValueError(f"segments {error}") from None
    if "sent_at" in values:
        account = settings.accounts.get(values.get("account", default_account) or "")
        # A file's time without a zone is the account's local time.
        zone = settings.timezone if account is None else account.account.zone
        try:
            at = cells.moment(values["sent_at"], zone, since_1904=table.since_1904)
            values["sent_at"] = at.isoformat()
        except ValueError:
            raise ValueError("sent_at is not a time such as 2026-10-01 09:30:00") from None
    return values
