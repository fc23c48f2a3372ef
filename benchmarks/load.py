"""The load generator: a process that pushes callbacks, as light as Python lets it be.

Plain sockets and one selector, requests made beforehand: what it uses of the processors is missing
to the service and to PostgreSQL. A connection sends its next callback when the last is acknowledged;
or, where a rate is given, callbacks fall due at that rate, whatever becomes of those before them.
"""

import selectors
import socket
import sys
import time
from collections import deque

import msgspec

_ACKNOWLEDGEMENTS = (b'{"code":0}', b"\r\n\r\nok")
_OK = b"HTTP/1.1 200 "
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"
# In one packet on loopback; vendors' clients send less or more headers than these.
_REQUEST = (
    "POST {path} HTTP/1.1\r\n"
    "Host: 127.0.0.1:{port}\r\n"
    "User-Agent: GuzzleHttp/7\r\n"
    "Content-Type: application/json\r\n"
    "X-ThinkPHP-Event: sms\r\n"
    "Content-Length: {length}\r\n"
    "\r\n"
)
# The vendor page's fields in the vendor page's order.
_BODY = (
    '{{"action":"report","sms":{{"id":"{id}","phone":"{phone}",'
    '"content":"【顶想云】您的验证码是123456，5分钟内有效，请勿告诉他人。",'
    '"sendDate":"2026-01-01 08:00:00","receiveDate":"2026-01-01 08:00:03","status":1,"message":""}}}}'
)


# A task of the "sms.aspx" platform goes to many numbers, and one push tells of many of them.
_BOX = (
    "<statusbox>\n<mobile>{phone}</mobile>\n<taskid>{task}</taskid>\n<status>10</status>\n"
    "<receivetime>2026-01-01 08:00:03</receivetime>\n<errorcode>DELIVRD</errorcode>\n"
    "<extno></extno>\n</statusbox>\n"
)


class Plan(msgspec.Struct, kw_only=True):
    """What to push: the reports of `count` messages from number `first` on, for `seconds`.

    `reports` of them in one callback; `rate` callbacks a second, None: as many as are acknowledged.
    """

    port: int
    path: str
    connections: int
    seconds: float
    first: int
    count: int
    reports: int = 1
    rate: float | None = None


class Outcome(msgspec.Struct, kw_only=True):
    """What came of it; times in seconds, of acknowledged callbacks from send to acknowledgement.

    With a rate they begin when the callback was due, so that one that could not be sent in time counts.
    """

    acknowledged: int
    refused: int
    seconds: float
    p50: float
    p99: float
    p999: float
    worst: float
    processor_seconds: float


def body(number: int) -> bytes:
    """Return the push that reports message `number` of `fill_messages` delivered."""
    return _BODY.format(id=10**12 + number, phone=13_800_000_000 + number % 10**8).encode()


def document(first: int, count: int) -> bytes:
    """Return the push that reports `count` messages of `fill_messages`, 100 to a task, delivered."""
    boxes = "".join(
        _BOX.format(phone=13_800_000_000 + number % 10**8, task=10**12 + number // 100)
        for number in range(first, first + count)
    )
    return f'<?xml version="1.0" encoding="utf-8" ?>\n<returnsms>\n{boxes}</returnsms>'.encode()


class _Connection:
    __slots__ = ("received", "sent_at", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.received = b""
        self.sent_at = 0.0

    def answer(self) -> bool | None:
        """Read; tell whether the callback was acknowledged, None: its answer has not ended."""
        received = self.received + self.socket.recv(65536)
        if not received:
            raise ConnectionError("the service closed a connection")
        well = received.startswith(_OK)
        if not (well and received.endswith(_ACKNOWLEDGEMENTS)) and not _whole(received):
            self.received = received
            return None
        self.received = b""
        return well


def push(plan: Plan) -> Outcome:
    """Push until the time or the messages are over, and every callback is answered."""
    requests = _requests(plan)
    connections = [_Connection(plan.port) for _ in range(plan.connections)]
    used = time.process_time()
    way = _one_after_another if plan.rate is None else _as_they_fall_due
    took, refused, seconds = way(plan, requests, connections)
    used = time.process_time() - used
    for connection in connections:
        connection.socket.close()
    took.sort()
    return Outcome(
        acknowledged=len(took),
        refused=refused,
        seconds=seconds,
        p50=took[len(took) // 2],
        p99=took[len(took) * 99 // 100],
        p999=took[len(took) * 999 // 1000],
        worst=took[-1],
        processor_seconds=used,
    )


def _requests(plan: Plan) -> list[bytes]:
    """Return the requests to pop from the end."""
    requests = []
    for number in range(plan.first, plan.first + plan.count, plan.reports):
        text = body(number) if plan.reports == 1 else document(number, plan.reports)
        head = _REQUEST.format(path=plan.path, port=plan.port, length=len(text))
        requests.append(head.encode() + text)
    requests.reverse()
    return requests


def _one_after_another(
    plan: Plan, requests: list[bytes], connections: list[_Connection]
) -> tuple[list[float], int, float]:
    selector = selectors.DefaultSelector()
    clock = time.perf_counter
    took: list[float] = []
    refused = 0
    started = clock()
    deadline = started + plan.seconds
    ended = started
    waiting = 0
    for connection in connections:
        if requests:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.sent_at = clock()
            connection.socket.sendall(requests.pop())
            waiting += 1
    while waiting:
        ready = selector.select(30)
        if not ready:
            raise TimeoutError(f"{waiting} callbacks are not answered after 30 seconds")
        for key, _ in ready:
            connection = key.data
            acknowledged = connection.answer()
            if acknowledged is None:
                continue
            ended = clock()
            if acknowledged:
                took.append(ended - connection.sent_at)
            else:
                refused += 1
            if requests and ended < deadline:
                connection.sent_at = ended
                connection.socket.sendall(requests.pop())
            else:
                waiting -= 1
    return took, refused, ended - started


def _as_they_fall_due(
    plan: Plan, requests: list[bytes], connections: list[_Connection]
) -> tuple[list[float], int, float]:
    assert plan.rate is not None
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    clock = time.perf_counter
    took: list[float] = []
    refused = sent = 0
    total = min(len(requests), round(plan.seconds * plan.rate))
    # In turn: one that says nothing for 20 seconds is dropped, as it should be.
    free = deque(connections)
    ended = started = clock()
    while len(took) + refused < total:
        now = clock()
        while free and sent < total and (due := started + sent / plan.rate) <= now:
            connection = free.popleft()
            connection.sent_at = due
            connection.socket.sendall(requests.pop())
            sent += 1
        pause = 30.0
        if free and sent < total:
            pause = max(0.0, started + sent / plan.rate - clock())
        for key, _ in selector.select(pause):
            connection = key.data
            acknowledged = connection.answer()
            if acknowledged is None:
                continue
            ended = clock()
            if acknowledged:
                took.append(ended - connection.sent_at)
            else:
                refused += 1
            free.append(connection)
        if ended < clock() - 30:
            raise TimeoutError("callbacks are not answered after 30 seconds")
    return took, refused, ended - started


def _whole(received: bytes) -> bool:
    """Tell whether an answer has come to its end."""
    head, end, rest = received.partition(_END_OF_HEAD)
    if not end:
        return False
    length = head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0].strip()
    return len(rest) >= int(length or b"0")


if __name__ == "__main__":
    outcome = push(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
