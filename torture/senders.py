"""Vendors that push under load: kept and fresh connections, twins, repeats, and some bytes that mean nothing.

Written from the vendors' pages and HTTP alone. The ledger of what was acknowledged is theirs.
"""

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import msgspec

from torture.stage import Violation

SENDERS = 16
ANSWER_SECONDS = 8.0
_ZONE = ZoneInfo("Asia/Shanghai")
_ACKNOWLEDGEMENTS = {"think": b'{"code":0}', "sms": b"ok"}
_STATUSES = {"think": {"delivered": 1, "failed": -1}, "sms": {"delivered": 10, "failed": 20}}


class Callback(msgspec.Struct, eq=False):
    """One push and what came of it; `report` is (status, vendor's time), None where nobody understands it."""

    account: str
    message: str
    phone: str
    method: str
    target: str
    headers: str
    body: bytes
    chunked: bool
    report: tuple[str, datetime] | None
    tries: int = 0
    acknowledged: int = 0
    refused: int = 0

    @property
    def identity(self) -> tuple[str, str, bytes, bytes]:
        """What a record of it holds: account, method, query, body."""
        return (self.account, self.method, self.target.partition("?")[2].encode(), self.body)

    def request(self, *, keep: bool) -> bytes:
        """Its bytes on the wire."""
        kept = "" if keep else "Connection: close\r\n"
        head = f"{self.method} {self.target} HTTP/1.1\r\nHost: receiver\r\n{self.headers}{kept}"
        if self.chunked:
            middle = len(self.body) // 2
            pieces = b"".join(
                b"%x\r\n%b\r\n" % (len(piece), piece)
                for piece in (self.body[:middle], self.body[middle:])
                if piece
            )
            return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + pieces + b"0\r\n\r\n"
        return f"{head}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body


class Ledger:
    """What was pushed in a round, and what was acknowledged of it."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.sent_at = datetime.now(_ZONE).replace(microsecond=0)
        self.callbacks: list[Callback] = []

    def count(self, what: str) -> int:
        """Add up `tries`, `acknowledged` or `refused`."""
        return sum(getattr(callback, what) for callback in self.callbacks)

    @property
    def acknowledged(self) -> list[Callback]:
        """Those of which at least one push was acknowledged."""
        return [callback for callback in self.callbacks if callback.acknowledged]

    @property
    def messages(self) -> dict[tuple[str, str], str]:
        """The phones of the messages, by account and vendor's id."""
        return {
            (callback.account, callback.message): callback.phone
            for callback in self.callbacks
            if callback.report is not None
        }


class Load:
    """Senders that push until told to stop; an async context manager.

    Leaving it, those that repeat until they are answered go on until they are, at most so long.
    """

    def __init__(self, port: int, ledger: Ledger, seed: str) -> None:
        self._port = port
        self._ledger = ledger
        self._numbers = itertools.count(1)
        self._stopping = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._send(random.Random(f"{seed}:{number}"), number))
            for number in range(SENDERS)
        ]

    async def stop(self) -> None:
        """Begin no other message, and wait until those begun are through."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _send(self, chance: random.Random, number: int) -> None:
        # Some vendors keep connections, and some push again what nobody answered.
        connection = _Connection(self._port, keep=number % 2 == 0)
        persistent = number % 4 < 2
        while not self._stopping.is_set():
            pushes = list(_pushes(self._ledger, next(self._numbers), chance))
            self._ledger.callbacks += pushes
            chance.shuffle(pushes)
            for callback in pushes:
                twins = chance.choice((0, 0, 0, 1, 2))
                others = [_Connection(self._port, keep=False) for _ in range(twins)]
                await asyncio.gather(
                    self._push(callback, connection, chance, persistent=persistent),
                    *(self._push(callback, other, chance, persistent=False) for other in others),
                )
                if chance.random() < 0.1:
                    await self._push(callback, connection, chance, persistent=False)
            await asyncio.sleep(chance.uniform(0.0, 0.03))
        connection.close()

    async def _push(
        self,
        callback: Callback,
        connection: "_Connection",
        chance: random.Random,
        *,
        persistent: bool,
    ) -> None:
        for again in itertools.count():
            callback.tries += 1
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    status, body = await connection.ask(callback)
            except (OSError, EOFError, ValueError):  # and TimeoutError
                connection.close()
            else:
                if status == 200 and body == _ACKNOWLEDGEMENTS[callback.account]:
                    callback.acknowledged += 1
                    return
                if status != 503:
                    raise Violation(f"a callback was answered {status} {body[:100]!r}")
                callback.refused += 1
            if not persistent or again >= 60:
                return
            await asyncio.sleep(chance.uniform(0.1, 0.5))


class _Connection:
    """A connection to the receiver, made again when it was lost, or for each request."""

    def __init__(self, port: int, *, keep: bool) -> None:
        self._port = port
        self._keep = keep
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def ask(self, callback: Callback) -> tuple[int, bytes]:
        """Push once; return status and body. Raises OSError, EOFError or ValueError without an answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(callback.request(keep=self._keep))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].split("\r\n", 1)[0])
        body = await reader.readexactly(length)
        if not self._keep or "\r\nconnection: close" in head:
            self.close()
        return int(head.split(" ", 2)[1]), body


def _pushes(ledger: Ledger, number: int, chance: random.Random) -> Iterator[Callback]:
    """Yield the callbacks about one message, or one that is about nothing."""
    account = chance.choice(("think", "think", "sms"))
    message = f"{ledger.tag}-{number}"
    phone = f"138{number:08d}"
    if chance.random() < 0.03:
        body = f"<html>{message} is no report</html>".encode()
        yield _think(message, phone, body, None, chance)
        return
    # No two reports of one time: which of them stands would be the product's own choice.
    times = [ledger.sent_at + timedelta(seconds=late) for late in chance.sample(range(3600), 3)]
    many = chance.choice((1, 1, 1, 2, 3))
    for at in times[:many]:
        status = chance.choice(("delivered", "delivered", "failed", "unknown"))
        code = _STATUSES[account].get(status, 77)
        clock = at.strftime("%Y-%m-%d %H:%M:%S")
        if account == "think":
            sms = {
                "id": message,
                "phone": phone,
                "status": code,
                "message": "",
                "receiveDate": clock,
                "content": "【回执】您的验证码是123456" + "。" * chance.choice((0, 0, 10, 2000)),
            }
            body = json.dumps({"action": "report", "sms": sms}, ensure_ascii=False).encode()
            yield _think(message, phone, body, (status, at), chance)
        else:
            fields = {"mobile": phone, "taskid": message, "status": code, "receivetime": clock}
            yield _sms(message, phone, urlencode(fields), (status, at), chance)


def _think(
    message: str,
    phone: str,
    body: bytes,
    report: tuple[str, datetime] | None,
    chance: random.Random,
) -> Callback:
    return Callback(
        account="think",
        message=message,
        phone=phone,
        method="POST",
        target="/callbacks/think/think-token",
        headers="Content-Type: application/json\r\n",
        body=body,
        chunked=chance.random() < 0.1,
        report=report,
    )


def _sms(
    message: str, phone: str, fields: str, report: tuple[str, datetime], chance: random.Random
) -> Callback:
    target = "/callbacks/sms/sms-token"
    get = chance.random() < 0.5
    return Callback(
        account="sms",
        message=message,
        phone=phone,
        method="GET" if get else "POST",
        target=f"{target}?{fields}" if get else target,
        headers="" if get else "Content-Type: application/x-www-form-urlencoded\r\n",
        body=b"" if get else fields.encode(),
        chunked=False,
        report=report,
    )
