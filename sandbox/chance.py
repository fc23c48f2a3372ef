"""Every choice of the sandbox is a function of seed and name, so a run can be repeated exactly.

Nothing here keeps state: the order and the timing of requests never change a decision.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

Choice = TypeVar("Choice")

_SPAN = float(1 << 64)


class Chance:
    """Decisions drawn from hash(seed, names)."""

    def __init__(self, seed: int) -> None:
        self._key = b"huizhi-sandbox:%d" % seed

    def digest(self, *names: str) -> str:
        """32 hex digits that name a thing by what it is."""
        text = "\x1f".join(names).encode("utf-8", "surrogatepass")
        return blake2b(text, digest_size=16, key=self._key).hexdigest()

    def integer(self, *names: str) -> int:
        """A number in [0, 2**64)."""
        text = "\x1f".join(names).encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(text, digest_size=8, key=self._key).digest(), "big")

    def unit(self, *names: str) -> float:
        """A number in [0, 1)."""
        return self.integer(*names) / _SPAN

    def hit(self, rate: float, *names: str) -> bool:
        """True for about `rate` of all names."""
        return rate > 0 and self.unit(*names) < rate

    def pick(self, choices: Sequence[Choice], *names: str) -> Choice:
        return choices[self.integer(*names) % len(choices)]

    def between(self, low: float, high: float, *names: str) -> float:
        return low + (high - low) * self.unit(*names)
