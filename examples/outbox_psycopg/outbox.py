"""An outbox with plain psycopg: what was sent is registered, whatever crashes in between.

    python outbox.py add ORDER VENDOR_MESSAGE_ID PHONE CONTENT
    python outbox.py drain

`add` stands for the place in your code where the vendor has answered a send. `drain` registers what
waits, and ends; run it from cron, from a timer, or in a loop. Several may run at once.

Reads DATABASE_URL, HUIZHI_URL and HUIZHI_API_TOKEN from the environment.
"""

import os
import sys
from datetime import UTC, datetime

import psycopg
from psycopg.rows import DictRow, dict_row

from huizhi.client import Huizhi, HuizhiError, Sent

ACCOUNT = "think-main"
BATCH_ROWS = 500

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
# Rows that another drain is at are skipped, not waited for.
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

Connection = psycopg.Connection[DictRow]


def texted(
    connection: Connection, order: str, vendor_message_id: str, phone: str, content: str
) -> None:
    """Keep that an order was texted about: the order and its outbox row in one transaction."""
    now = datetime.now(UTC)
    with connection.transaction():
        connection.execute(ORDER, (order, now))
        connection.execute(ADD, (ACCOUNT, vendor_message_id, phone, now, content, order))


def drain(connection: Connection, huizhi: Huizhi) -> int:
    """Register a batch and take it out of the outbox; returns how many rows it had.

    A crash before the commit leaves the rows, and they are registered again: to Huizhi they are
    duplicates then, and nothing is counted twice.
    """
    with connection.transaction():
        rows = connection.execute(TAKE, (BATCH_ROWS,)).fetchall()
        ids = [row.pop("id") for row in rows]
        told = huizhi.register([Sent(**row) for row in rows])
        rejected = {ids[row.index]: row.reason for row in told.rejected}
        connection.execute(DONE, ([id for id in ids if id not in rejected],))
        for id, reason in rejected.items():
            connection.execute(REJECT, (reason, id))
    return len(rows)


def main(command: str, *arguments: str) -> None:
    """Run one of the two commands."""
    with psycopg.connect(
        os.environ["DATABASE_URL"], autocommit=True, row_factory=dict_row
    ) as connection:
        connection.execute(SCHEMA)
        if command == "add":
            texted(connection, *arguments)
            return
        with Huizhi(os.environ["HUIZHI_URL"], os.environ["HUIZHI_API_TOKEN"]) as huizhi:
            try:
                while drain(connection, huizhi):
                    pass
            except HuizhiError as error:
                sys.exit(f"{error}; what waits in the outbox goes on waiting")


if __name__ == "__main__":
    main(*sys.argv[1:])
