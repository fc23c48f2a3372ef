"""Errors whose class is the caller's decision; nobody above looks at codes.

No text here may hold a secret or a whole phone number: these texts reach logs and terminals.
"""

from gateways.phone import redacted


class GatewayError(Exception):
    """Anything a gateway can say no with."""


class Unavailable(GatewayError):
    """Nothing happened at the vendor: retry with back-off.

    `retry_after_seconds` is the vendor's own wish (Retry-After), None where it gave none.
    """

    def __init__(self, text: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds


class Indeterminate(GatewayError):
    """It may have happened: never send again; ask by reference. A read-once page may be gone.

    `partial` holds the bytes that did arrive, evidence of what was lost.
    """

    def __init__(self, text: str, *, partial: bytes = b"") -> None:
        super().__init__(text)
        self.partial = partial


class Refused(GatewayError):
    """The vendor said no, in its own `code` and `words`; the text has numbers in them masked."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(redacted(f"refused by the vendor with {code}: {words}"[:500]))
        self.code = code
        self.words = words


class Garbled(GatewayError):
    """A reply that is not the documented shape; its bytes are kept, and somebody is told.

    `body` holds the bytes where no `Reply` came to hold them (an HTTP status that is no success).
    """

    def __init__(self, text: str, *, body: bytes = b"") -> None:
        super().__init__(text)
        self.body = body


class Unsupported(GatewayError):
    """The vendor offers no such call."""


class Malformed(GatewayError):
    """A callback that cannot be understood: it is quarantined, never refused."""
