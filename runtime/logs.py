"""Logs: events in our words, one JSON object a line on stderr; on a terminal, lines for people.

What a line says is decided where it is written: no secret, no whole phone number. `Redaction` is
the last line of defence, for what libraries log and what exceptions quote.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, TextIO
from urllib.parse import quote, quote_plus

import structlog
from structlog.stdlib import ProcessorFormatter

from gateways.gateway import Secret

_SHORTEST_SECRET = 6  # a shorter one stands in too much that is none
# A digest is no number, though one in a few hundred has the digits of one in it.
_MAINLAND = re.compile(r"\b[0-9a-f]{64}\b|(?<!\d)(?:86)?1[3-9]\d{5}(\d{4})(?!\d)")
# httpx logs whole addresses, and some vendors' secrets stand in them; the others log each job run.
_QUIET = ("httpx", "httpcore", "apscheduler", "asyncio")
# Whose lines are told below `info` if asked for; a library's details are nobody's story.
_OURS = ("gateways", "runtime", "receiver", "reconciler", "huizhi")


class Redaction:
    """Takes secrets and mainland phone numbers out of text, and out of all that a line holds."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        spellings: set[str] = set()
        for secret in secrets:
            text = secret.reveal()
            if len(text) >= _SHORTEST_SECRET:
                spellings |= {text, quote(text, safe=""), quote(text), quote_plus(text)}
                spellings |= {repr(text)[1:-1], json.dumps(text)[1:-1]}
        longest_first = sorted(spellings, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, longest_first))) if spellings else None

    def __call__(self, line: str) -> str:
        if self._secrets is not None:
            line = self._secrets.sub("***", line)
        return _MAINLAND.sub(_masked, line)

    def within(self, value: Any) -> Any:
        """Return `value`, of any type, without them; what is neither text nor number becomes text."""
        match value:
            case str():
                return self(value)
            case None | bool() | float():
                return value
            case int():
                text = self(str(value))
                return value if text == str(value) else text
            case Mapping():
                return {self(str(key)): self.within(inner) for key, inner in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.within(inner) for inner in value]
            case _:
                return self(str(value))


def _masked(found: re.Match[str]) -> str:
    return found[0] if found[1] is None else f"…{found[1]}"


def _without_colour(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("color_message", None)
    return event


def configure(
    *, secrets: Iterable[Secret] = (), level: int = logging.INFO, stream: TextIO | None = None
) -> None:
    """Send this process's logs, the standard library's too, to `stream` (stderr); replaces itself.

    Context variables (`structlog.contextvars`) ride along. Tracebacks never show local variables.
    """
    output = stream or sys.stderr
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: Any = structlog.processors.JSONRenderer(ensure_ascii=False)
    if output.isatty():
        renderer = structlog.dev.ConsoleRenderer(
            exception_formatter=structlog.dev.plain_traceback,
            timestamp_key="at",
            colors=not os.environ.get("NO_COLOR"),
        )
    redaction = Redaction(secrets)
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        ProcessorFormatter(
            # uvicorn adds each line a second time, in colour.
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _without_colour],
            processors=[
                ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                lambda _logger, _method, line: redaction.within(line),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.INFO))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    # A call that is repeated is no news; one that fails for good is told of by its caller.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    structlog.configure(
        processors=[*shared, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # configured again once settings tell the secrets
    )
