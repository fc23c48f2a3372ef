"""What a registrar holds and decides, without I/O, clock or lock.

Every message that was put is recorded, a duplicate, handed back, or waiting: always exactly one of them.
"""

from collections import deque

from huizhi.client import calls
from huizhi.client.errors import Closed, HuizhiError, Unavailable
from huizhi.client.shapes import Registered, Sent, Totals, Unregistered

ABANDONED = (
    "not registered before the registrar was closed; it may be all the same: register it again"
)


class Batches:
    """Messages in the order in which they were put, and what became of them.

    At most `capacity` wait. A batch is due when `rows` wait, when the oldest has waited for `seconds`,
    when somebody flushes, and at the end. One batch is under way at a time; what cannot be registered
    now goes before all others again. Times are seconds of any clock that never goes back.
    """

    def __init__(self, capacity: int, rows: int, seconds: float) -> None:
        if not 0 < rows <= calls.MAX_ROWS or capacity < rows or seconds < 0:
            raise ValueError(
                "expected 0 < batch_rows <= 10,000, capacity >= batch_rows, seconds >= 0"
            )
        self._capacity = capacity
        self._rows = rows
        self._seconds = seconds
        self._waiting: deque[tuple[float, Sent]] = deque()
        self._under_way: list[Sent] = []
        self._held: list[Unregistered] = []
        self._recorded = 0
        self._duplicates = 0
        self._handed_back = 0
        self._flushed = 0  # as many of all that were put are not to wait
        self._failures = 0
        self._not_before = float("-inf")
        self.ending = False
        self.abandoned = False
        self.broken: Exception | None = None

    @property
    def room(self) -> bool:
        """Whether another message can be put."""
        return self._unsettled < self._capacity

    @property
    def open_or_over(self) -> bool:
        """Whether who waits to put a message need wait no longer."""
        return self.room or self.ending or self.broken is not None

    @property
    def over(self) -> bool:
        """Whether no batch will be due any more."""
        ended = self.ending and not self._waiting
        return ended or self.abandoned or self.broken is not None

    def reached(self, goal: int) -> bool:
        """Whether who waits for `done` to reach `goal` need wait no longer."""
        return self.done >= goal or self.broken is not None

    @property
    def done(self) -> int:
        """How many of all that were put are settled."""
        return self._recorded + self._duplicates + self._handed_back

    @property
    def put(self) -> int:
        """How many were put, ever."""
        return self.done + self._unsettled

    @property
    def totals(self) -> Totals:
        """What became of all messages so far."""
        return Totals(
            recorded=self._recorded,
            duplicates=self._duplicates,
            handed_back=self._handed_back,
            waiting=self._unsettled,
        )

    @property
    def _unsettled(self) -> int:
        return len(self._waiting) + len(self._under_way) + len(self._held)

    def check(self) -> None:
        """Raise `Closed` if no message can be put any more."""
        if self.broken is not None:
            raise Closed("hand_back failed: close the registrar") from self.broken
        if self.ending:
            raise Closed("the registrar is closed")

    def add(self, message: Sent, now: float) -> bool:
        """Take a message; say whether that can make a batch due earlier than it was."""
        self._waiting.append((now, message))
        return len(self._waiting) in (1, self._rows)

    def flush(self) -> int:
        """Let nothing wait that was put so far; return what `done` must reach."""
        self._flushed = self.put
        return self._flushed

    def end(self) -> None:
        """Take no more, and let nothing wait: not even for a pause that is under way."""
        self.ending = True
        self._not_before = float("-inf")

    def due_in(self, now: float) -> float | None:
        """Return after how many seconds a batch is due; None while nothing waits."""
        if not self._waiting:
            return None
        hurried = self.ending or self.done < self._flushed or len(self._waiting) >= self._rows
        due = now if hurried else self._waiting[0][0] + self._seconds
        return max(due - now, self._not_before - now, 0.0)

    def take(self) -> list[Sent]:
        """Return the next batch, which is under way from now on."""
        while self._waiting and len(self._under_way) < self._rows:
            self._under_way.append(self._waiting.popleft()[1])
        return list(self._under_way)

    def settle(self, answer: Registered | Exception, now: float) -> list[Unregistered]:
        """Settle the batch under way; return what is to be handed back before `taken_back` is called.

        What Huizhi could not take now is put before all others again.
        """
        batch = self._end()
        if isinstance(answer, Unavailable):
            self._failures += 1
            self._not_before = now + calls.pause_seconds(self._failures, answer.retry_after_seconds)
            self._waiting.extendleft((now, message) for message in reversed(batch))
            return []
        self._failures = 0
        if isinstance(answer, Exception):
            reason = str(answer) if isinstance(answer, HuizhiError) else type(answer).__name__
            return self._hold([Unregistered(message, reason) for message in batch])
        self._recorded += answer.recorded
        self._duplicates += answer.duplicates
        return self._hold([Unregistered(batch[row.index], row.reason) for row in answer.rejected])

    def abandon(self) -> list[Unregistered]:
        """Return everything that is not settled: nobody will register it."""
        self.abandoned = True
        left = self._end() + [message for _, message in self._waiting]
        self._waiting.clear()
        self._hold([Unregistered(message, ABANDONED) for message in left])
        return list(self._held)

    def taken_back(self) -> None:
        """Settle what was returned to be handed back: somebody has it."""
        self._handed_back += len(self._held)
        self._held.clear()

    def _end(self) -> list[Sent]:
        batch = self._under_way
        self._under_way = []
        return batch

    def _hold(self, back: list[Unregistered]) -> list[Unregistered]:
        self._held += back
        return list(self._held)
