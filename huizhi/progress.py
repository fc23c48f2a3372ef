"""How far long work has come: a bar on a terminal's stderr, and nothing without a terminal."""

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

# Told what is done so far, and which share of all that is; None where nobody knows.
Progress = Callable[[str, float | None], None]

_EVERY = 500


@contextmanager
def shown(what: str) -> Iterator[Progress]:
    """Show a bar named `what` until the end of the block; the function given may be called from any thread."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _words, _share: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task(escape(what), total=None, words="")

        def update(words: str, share: float | None) -> None:
            if share is None:
                progress.update(task, words=words)
            else:
                progress.update(task, words=words, total=1.0, completed=share)

        yield update


async def counted(rows: AsyncIterator[T], progress: Progress) -> AsyncIterator[T]:
    """Pass rows on, telling every few hundred how many there were."""
    count = 0
    async for row in rows:
        count += 1
        if count % _EVERY == 0:
            progress(f"{count:,} rows", None)
        yield row
