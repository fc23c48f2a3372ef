"""An outbox in a FastAPI application: a task beside it registers what was sent.

    uvicorn app:app

Reads DATABASE_URL, HUIZHI_URL and HUIZHI_API_TOKEN from the environment.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import psycopg
from fastapi import FastAPI
from psycopg.rows import DictRow, dict_row
from pydantic import BaseModel

from huizhi.client import AsyncHuizhi, HuizhiError, Sent

log = logging.getLogger("outbox")

ACCOUNT = "think-main"
BATCH_ROWS = 500
PAUSE_SECONDS = 1.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    id text PRIMARY KEY,
    texted_at timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text NOT NULL,
    vendor_message_id text NOT NULL,
    phone text NOT NULL,
    sent_at timestamptz NOT NULL,
    content text,
    reference text,
    rejected text  -- why Huizhi will not have it; somebody has to look
);
"""
ORDER = "INSERT INTO orders (id, texted_at) VALUES (%s, %s)"
ADD = """
INSERT INTO outbox (account, vendor_message_id, phone, sent_at, content, reference)
VALUES (%s, %s, %s, %s, %s, %s)
"""
# Rows that another process of this application is at are skipped, not waited for.
TAKE = """
SELECT id, account, vendor_message_id, phone, sent_at, content, reference
FROM outbox
WHERE rejected IS NULL
ORDER BY id
LIMIT %s
FOR UPDATE SKIP LOCKED
"""
DONE = "DELETE FROM outbox WHERE id = ANY(%s)"
REJECT = "UPDATE outbox SET rejected = %s WHERE id = %s"

Connection = psycopg.AsyncConnection[DictRow]


async def connected() -> Connection:
    """Open a connection; a busy application takes them from a pool."""
    return await psycopg.AsyncConnection.connect(
        os.environ["DATABASE_URL"], autocommit=True, row_factory=dict_row
    )


async def drain(connection: Connection, huizhi: AsyncHuizhi) -> int:
    """Register a batch and take it out of the outbox; returns how many rows it had.

    A crash before the commit leaves the rows, and they are registered again: to Huizhi they are
    duplicates then, and nothing is counted twice.
    """
    async with connection.transaction():
        rows = await (await connection.execute(TAKE, (BATCH_ROWS,))).fetchall()
        ids = [row.pop("id") for row in rows]
        told = await huizhi.register([Sent(**row) for row in rows])
        rejected = {ids[row.index]: row.reason for row in told.rejected}
        await connection.execute(DONE, ([id for id in ids if id not in rejected],))
        for id, reason in rejected.items():
            await connection.execute(REJECT, (reason, id))
    return len(rows)


async def drain_forever(huizhi: AsyncHuizhi, added: asyncio.Event) -> None:
    """Register what waits, when something was added and every now and then."""
    while True:
        added.clear()
        try:
            async with await connected() as connection:
                while await drain(connection, huizhi):
                    pass
        except (HuizhiError, psycopg.OperationalError) as error:
            log.warning("the outbox waits: %s", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(added.wait(), PAUSE_SECONDS)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the task for as long as the application runs."""
    async with await connected() as connection:
        await connection.execute(SCHEMA)
    app.state.added = asyncio.Event()
    async with AsyncHuizhi(os.environ["HUIZHI_URL"], os.environ["HUIZHI_API_TOKEN"]) as huizhi:
        draining = asyncio.create_task(drain_forever(huizhi, app.state.added))
        yield
        # Between two statements or in a call: the transaction is undone, and the rows wait.
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)


app = FastAPI(lifespan=lifespan)


class Text(BaseModel):
    """A text that was sent: what you know of it once the vendor has answered."""

    order: str
    vendor_message_id: str
    phone: str
    content: str


@app.post("/texts", status_code=201)
async def texted(text: Text) -> None:
    """Keep that an order was texted about: the order and its outbox row in one transaction."""
    now = datetime.now(UTC)
    row = (ACCOUNT, text.vendor_message_id, text.phone, now, text.content, text.order)
    async with await connected() as connection, connection.transaction():
        await connection.execute(ORDER, (text.order, now))
        await connection.execute(ADD, row)
    app.state.added.set()
