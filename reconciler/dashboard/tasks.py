"""Long work behind a page: what is under way in this process, for a page to ask after.

What the work makes is in the database, or in a file that the task names; the task itself is kept by
this process alone and is gone with it, or asked of another replica. Then its page says where to look.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import structlog

from runtime import Problem
from runtime.database import DATABASE_ERRORS

log = structlog.get_logger()

KEPT_SECONDS = 3600.0
MOST = 32
SOON_SECONDS = 1.5


@dataclass(slots=True, eq=False)
class Task:
    """Work under way; `result` is the address to go on at, `file` what it made to be fetched.

    `plan` is what a dry run found, for the page at `result`.
    """

    id: str
    kind: str
    about: str
    back: str
    begun: float = field(default_factory=time.monotonic)
    ended: float | None = None
    said: str = ""
    share: float | None = None
    result: str | None = None
    plan: dict[str, Any] | None = None
    file: Path | None = None
    file_name: str = ""
    error: str | None = None
    running: asyncio.Task[None] | None = field(default=None, repr=False)

    def progress(self, said: str, share: float | None = None) -> None:
        """Note how far it is; from any thread."""
        self.said, self.share = said, share

    async def soon(self) -> None:
        """Wait a moment for the end, so that what is quick needs no page of its own."""
        assert self.running is not None
        await asyncio.wait({self.running}, timeout=SOON_SECONDS)

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return (self.ended or time.monotonic()) - self.begun


class Busy(Problem):
    """So much is under way that nothing more is begun."""


class Tasks:
    """The tasks of this process."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="huizhi-dashboard-"))

    def get(self, id: str) -> Task | None:
        """Return a task, None if this process has none such."""
        return self._tasks.get(id)

    def begin(
        self, kind: str, about: str, back: str, work: Callable[[Task], Awaitable[Any]]
    ) -> Task:
        """Begin `work`; raises `Busy`."""
        self._forget()
        if sum(task.ended is None for task in self._tasks.values()) >= MOST:
            raise Busy("too much is under way: try again in a minute")
        task = Task(token_urlsafe(12), kind, about, back)
        self._tasks[task.id] = task
        task.running = asyncio.create_task(self._run(task, work))
        return task

    async def close(self) -> None:
        """Stop what runs: what a transaction did not end did not happen."""
        running = [task.running for task in self._tasks.values() if task.running is not None]
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    async def _run(self, task: Task, work: Callable[[Task], Awaitable[Any]]) -> None:
        try:
            await work(task)
        except Problem as error:
            task.error = str(error)
        except DATABASE_ERRORS as error:
            log.error("database.away", error=type(error).__name__)
            task.error = "the database is away; try again"
        except Exception as error:
            log.exception("dashboard.task_failed", kind=task.kind, exc_info=error)
            task.error = "it could not be done: the log says more"
        finally:
            task.ended = time.monotonic()

    def _forget(self) -> None:
        over = time.monotonic() - KEPT_SECONDS
        for id, task in list(self._tasks.items()):
            if task.ended is not None and task.ended < over:
                del self._tasks[id]
                if task.file is not None:
                    task.file.unlink(missing_ok=True)
