"""How long what failed waits before it is tried again: jobs, and channels that take no message."""


def backoff(pause_seconds: float, failures_in_row: int, longest_seconds: float) -> float:
    """Return the seconds to wait: the pause doubled with each failure, `longest_seconds` at most."""
    return min(pause_seconds * 2.0 ** min(failures_in_row, 30), longest_seconds)
