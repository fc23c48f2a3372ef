"""What a call can end in; the class says what to do about it."""

from huizhi.client.shapes import Unregistered


class HuizhiError(Exception):
    """A call to Huizhi did not succeed. Its text holds no token, text or phone number."""


class Unavailable(HuizhiError):
    """Huizhi cannot be reached, or cannot do it now: make the same call again later.

    It may have been done all the same: every call of this client can be repeated without harm.
    `retry_after_seconds` is what Huizhi asked for, if it did.
    """

    def __init__(self, words: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(words)
        self.retry_after_seconds = retry_after_seconds


class Refused(HuizhiError):
    """Huizhi said no, and will say it again: `status` is HTTP's, `detail` its own line."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"HTTP {status}: {detail}")
        self.status = status
        self.detail = detail


class Garbled(HuizhiError):
    """The answer is not Huizhi's: is `base_url` the reconciler's address?"""


class Full(HuizhiError):
    """No room in a registrar came free in time; the message was not taken."""


class Closed(HuizhiError):
    """The registrar takes no more messages; this one was not taken."""


class NotTaken(HuizhiError):
    """`hand_back` failed; `left` are all that were neither registered nor taken back."""

    def __init__(self, left: list[Unregistered]) -> None:
        super().__init__(f"{len(left)} messages were neither registered nor taken back")
        self.left = left
