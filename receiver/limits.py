"""What one peer or one account may do in a while; counted in this process, in bounded memory."""

import ipaddress
import time
from collections.abc import Callable

_KEYS = 10_000
_MINUTE = 60.0
_ROUNDING = 1e-6


class Guesses:
    """How many wrong tokens each peer has sent in the running minute."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._counts: dict[str, int] = {}

    def another(self, peer: str) -> int:
        """Count one more and return how many there are; a network of IPv6 is one peer."""
        now = self._clock()
        if now - self._began >= _MINUTE or len(self._counts) >= _KEYS:
            self._began = now
            self._counts.clear()
        key = _network(peer)
        self._counts[key] = count = self._counts.get(key, 0) + 1
        return count


class Pace:
    """At most so many a second for each key, a second's worth at once."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._free_at: dict[str, float] = {}

    def admits(self, key: str, rate: float) -> bool:
        """Tell whether one more of `key` is within `rate`, and count it if so."""
        now = self._clock()
        if len(self._free_at) >= _KEYS:
            self._free_at = {each: at for each, at in self._free_at.items() if at > now}
            if len(self._free_at) >= _KEYS:
                self._free_at.clear()
        free_at = max(self._free_at.get(key, now), now)
        if free_at - now > max(1.0 - 1.0 / rate, 0.0) + _ROUNDING:
            return False
        self._free_at[key] = free_at + 1.0 / rate
        return True


def _network(peer: str) -> str:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return peer
