"""Sent messages registered, against COPY of the same messages."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from benchmarks.copying import copied
from benchmarks.figures import Figure, compared
from benchmarks.ground import PUSHED, CannotRun, apart, prepared
from reconciler import ledger
from runtime import settings as settings_file
from runtime.database import Database

_MESSAGES = 200_000
_QUICK_MESSAGES = 20_000
_ROUNDS = 3


async def run(parent: Path, *, quick: bool) -> list[Figure]:
    """Measure registering and COPY alternately, each into an empty ledger."""
    messages = _QUICK_MESSAGES if quick else _MESSAGES
    async with prepared(parent, "sent") as ground:
        measured = []
        peaks = []
        for _ in range(1 if quick else _ROUNDS):
            await ground.execute("forget_messages")
            await ground.settle_down()
            ours = apart(_register, ground.settings.file, ground.database, messages)
            if ours.result != messages:
                raise CannotRun(f"{ours.result} of {messages} messages were registered")
            seconds = await copied(
                ground,
                "messages",
                rows="ledger_messages",
                forget="forget_messages",
                expected=messages,
            )
            measured.append((messages / ours.seconds, messages / seconds))
            peaks.append(ours.peak_bytes)
    return [
        compared(
            "sent",
            f"POST /v1/sent without its HTTP, {ledger.MAX_ROWS:,} messages a call",
            "messages/s",
            measured,
            baseline_work="COPY of the same rows into the table of messages alone",
            later=0.4,
            notes={"messages": messages, "peak MiB of our process": max(peaks) / 2**20},
        )
    ]


async def _register(file: Path, database: Database, messages: int) -> tuple[float, int]:
    accounts = settings_file.load(file, {}).accounts
    bodies = [
        _body(first, min(first + ledger.MAX_ROWS, messages))
        for first in range(0, messages, ledger.MAX_ROWS)
    ]
    recorded = 0
    async with database.pool() as pool:
        await pool.execute("SELECT 1")  # connect before the clock starts
        started = time.perf_counter()
        for body in bodies:
            now = datetime.now(UTC)
            rows = (ledger.convert(row, accounts, now) for row in ledger.decode_array(body))
            recorded += (await ledger.register(pool, accounts, rows, now=now)).recorded
        return time.perf_counter() - started, recorded


def _body(first: int, end: int) -> bytes:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return msgspec.json.encode(
        [
            {
                "account": PUSHED,
                "vendor_message_id": str(10**12 + number),
                "phone": str(13_800_000_000 + number % 10**8),
                "sent_at": (start + timedelta(seconds=number)).isoformat(),
                "content": f"您的验证码是{number % 10**6:06}，5分钟内有效，请勿告诉他人。",
                "sign": "顶想云",
                "reference": f"order-{number}",
            }
            for number in range(first, end)
        ]
    )
