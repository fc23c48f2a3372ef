"""The group robots of DingTalk, WeCom and Feishu, which answer HTTP 200 also to what they drop.

Apprise knows their addresses, and how long a message may be. It takes every HTTP 200 for a message that
was sent, and percent-encodes DingTalk's signature (加签) twice, which DingTalk drops. So these three are
asked here, and their answers read. To be imported only where something is sent: it loads Apprise.
"""
# mypy: allow-untyped-calls

import hmac
import time
from base64 import b64encode
from typing import Any
from urllib.parse import unquote

import httpx
import msgspec
from apprise.manager_plugins import NotificationManager
from apprise.plugins.dingtalk import NotifyDingTalk
from apprise.plugins.feishu import NotifyFeishu
from apprise.plugins.wecombot import NotifyWeComBot

_WECOM_BYTES = 2048
_BYTES_A_CHARACTER = 4


class _Answer(msgspec.Struct):
    """What a robot says of a message, by one of these names: 0 if it took it."""

    errcode: int | None = None  # DingTalk, WeCom
    code: int | None = None  # Feishu
    status: int | None = msgspec.field(default=None, name="StatusCode")  # Feishu in former years

    @property
    def number(self) -> int | None:
        said = (self.errcode, self.code, self.status)
        return next((each for each in said if each is not None), None)


class DingTalk(NotifyDingTalk):
    """A robot of DingTalk's."""

    def send(
        self,
        body: str,
        title: str = "",
        notify_type: Any = None,
        body_format: Any = None,
        **_: Any,
    ) -> bool:
        """Send a message; False, with a line in Apprise's log, if it was not taken."""
        url = httpx.URL(self.notify_url.format(token=self.token))
        if self.secret:
            timestamp, encoded = self.get_signature()
            url = url.copy_merge_params({"timestamp": timestamp, "sign": unquote(encoded)})
        text = f"{title}\n{body}" if title else body
        at = {"atMobiles": self.targets, "isAtAll": False}
        return _taken(self, url, {"msgtype": "text", "text": {"content": text}, "at": at})


class WeCom(NotifyWeComBot):
    """A robot of WeCom's."""

    # Its limit is of bytes, Apprise's of characters.
    body_maxlen = _WECOM_BYTES // _BYTES_A_CHARACTER

    def send(self, body: str, title: str = "", notify_type: Any = None, **_: Any) -> bool:
        """Send a message; False, with a line in Apprise's log, if it was not taken."""
        return _taken(self, httpx.URL(self.api_url), {"msgtype": "text", "text": {"content": body}})


class Feishu(NotifyFeishu):
    """A robot of Feishu's. Its secret (签名校验) stands before the token, as DingTalk's does: SECRET@TOKEN."""

    def send(self, body: str, title: str = "", notify_type: Any = None, **_: Any) -> bool:
        """Send a message; False, with a line in Apprise's log, if it was not taken."""
        url = httpx.URL(self.notify_url.format(token=self.token).rstrip("/"))
        payload: dict[str, Any] = {"msg_type": "text", "content": {"text": body}}
        if self.user:
            timestamp = str(int(time.time()))
            key = f"{timestamp}\n{self.user}".encode()
            payload["timestamp"] = timestamp
            payload["sign"] = b64encode(hmac.digest(key, b"", "sha256")).decode()
        return _taken(self, url, payload)


def register() -> None:
    """Have Apprise use these for the addresses of its own."""
    for robot in (DingTalk, WeCom, Feishu):
        NotificationManager().add(robot, force=True)


def _taken(robot: Any, url: httpx.URL, payload: dict[str, Any]) -> bool:
    """Post a message, and tell whether the robot says that it took it."""
    robot.throttle()
    connect, read = robot.request_timeout
    try:
        told = httpx.post(
            url,
            json=payload,
            timeout=httpx.Timeout(read, connect=connect),
            verify=robot.verify_certificate,
        )
    except httpx.HTTPError as error:
        robot.logger.warning("no answer: %s", type(error).__name__)
        return False
    if told.status_code != httpx.codes.OK:
        robot.logger.warning("not sent: error=%d", told.status_code)
        return False
    try:
        number = msgspec.json.decode(told.content, type=_Answer).number
    except msgspec.DecodeError:  # somebody else's page
        number = None
    if number is None:
        robot.logger.warning("not sent: the answer is no robot's")
    elif number:
        robot.logger.warning("not sent: code=%d", number)
    return number == 0
