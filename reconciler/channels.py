"""The ways to people: DingTalk, WeCom, Feishu, mail, webhooks and what else Apprise knows.

Apprise, which sends, is loaded when there is something to send. An address is a secret, and Apprise's
own words may quote it: of those nothing is kept but a number.
"""

import asyncio
import logging
import re
import warnings
from typing import Any, Literal

from gateways.gateway import Secret

# Longer than Apprise waits for one request, and for its turn at a service before that.
SEND_SECONDS = 40.0

Tone = Literal["info", "success", "warning", "failure"]

# Without a handler of its own, what it logs would be printed.
logging.getLogger("apprise").addHandler(logging.NullHandler())

_STATUS = re.compile(r"error=(\d{3})\b")
_CODE = re.compile(r"code=(-?\d+)\b")  # of a robot


class NotSent(Exception):
    """A message that a channel did not take; the text says why, without its address."""


class NoChannel(NotSent):
    """An address that Apprise does not understand: trying again is no help."""


async def send(url: Secret, *, title: str, body: str, tone: Tone) -> None:
    """Send a message; raises `NotSent`. Never blocks the loop, and takes `SEND_SECONDS` at most."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await asyncio.to_thread(_send, url, title, body, tone)
    except TimeoutError:
        raise NotSent(f"it did not answer within {SEND_SECONDS:.0f} seconds") from None


def check(url: Secret) -> None:
    """Raise `NoChannel` unless Apprise understands the address; sends nothing."""
    _channel(url)


def _channel(url: Secret) -> tuple[Any, Any]:
    """Return Apprise, and the channel of an address."""
    logging.getLogger("apprise").propagate = False
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # It looks for modules that Python is about to lose.
        warnings.simplefilter("ignore", DeprecationWarning)
        import apprise

        from reconciler import robots

        robots.register()
        asset = apprise.AppriseAsset(
            app_id="Huizhi", app_desc="Huizhi 回执", app_url="", async_mode=False
        )
        channel = apprise.Apprise.instantiate(url.reveal(), asset=asset)
    if channel is None:
        raise NoChannel("its address is none that Apprise understands, or lacks something")
    channel.overflow_mode = apprise.OverflowMode.SPLIT
    return apprise, channel


def _send(url: Secret, title: str, body: str, tone: Tone) -> None:
    apprise, channel = _channel(url)
    said: list[str] = []
    ways = apprise.Apprise(asset=channel.asset)
    ways.add(channel)
    try:
        taken = ways.notify(
            title=title,
            body=body,
            notify_type=tone,
            body_format=apprise.NotifyFormat.TEXT,
            log_callback=lambda entry, _: said.append(entry.message),
        )
    except Exception as error:  # a library's, whose words may quote the address
        raise NotSent(f"sending failed: {type(error).__name__}") from None
    if not taken:
        words = "\n".join(said)
        if status := _STATUS.search(words):
            raise NotSent(f"it answered HTTP {status[1]}")
        if code := _CODE.search(words):
            raise NotSent(f"it dropped the message: it answered {code[1]}")
        raise NotSent("it cannot be reached, or did not take it")
