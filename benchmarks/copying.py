"""The baseline of what loads rows: COPY of the same rows into the same, emptied table."""

import time
from pathlib import Path

from benchmarks.ground import SQL, Ground


async def copied(ground: Ground, table: str, *, rows: str, forget: str, expected: int) -> float:
    """Copy the rows that stand in `table` into it again, and return the seconds it took.

    `rows` and `forget` name the queries that read them and that empty the table. The text between
    is COPY's own default format, and is written before the clock starts.
    """
    file: Path = ground.folder / f"{table}.copy"
    async with ground.database.connection() as connection:
        read = await connection.prepare(SQL[rows])
        columns = [column.name for column in read.get_attributes()]
        await connection.copy_from_query(SQL[rows].rstrip(";"), output=file)
        await connection.execute(SQL[forget])
        await connection.execute(SQL["checkpoint"])
        started = time.perf_counter()
        done = await connection.copy_to_table(table, source=file, columns=columns)
        seconds = time.perf_counter() - started
    assert done == f"COPY {expected}"
    return seconds
