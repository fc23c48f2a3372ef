"""The load generator: a process that pushes callbacks, as light as Python lets it be.

Plain sockets and one selector, requests made beforehand: what it uses of the processors is missing
to the service and to PostgreSQL. A connection sends its next callback when the last is acknowledged.
"""

import selectors
import socket
import sys
import time

import msgspec

ACKNOWLEDGEMENT = b'{"code":0}'
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


class Plan(msgspec.Struct, kw_only=True):
    """What to push: the reports of `count` messages from number `first` on, for `seconds`."""

    port: int
    path: str
    connections: int
    seconds: float
    first: int
    count: int


class Outcome(msgspec.Struct, kw_only=True):
    """What came of it; times in seconds, of acknowledged callbacks from send to acknowledgement."""

    acknowledged: int
    refused: int
    seconds: float
    p50: float
    p99: float
    worst: float
    processor_seconds: float


def body(number: int) -> bytes:
    """Return the push that reports message `number` of `fill_messages` delivered."""
    return _BODY.format(id=10**12 + number, phone=13_800_000_000 + number % 10**8).encode()


class _Connection:
    __slots__ = ("received", "sent_at", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.received = b""
        self.sent_at = 0.0


def push(plan: Plan) -> Outcome:
    """Push until the time or the messages are over, and every callback is answered."""
    requests = []
    for number in range(plan.first, plan.first + plan.count):
        text = body(number)
        head = _REQUEST.format(path=plan.path, port=plan.port, length=len(text))
        requests.append(head.encode() + text)
    requests.reverse()
    selector = selectors.DefaultSelector()
    connections = [_Connection(plan.port) for _ in range(plan.connections)]
    clock = time.perf_counter
    took: list[float] = []
    refused = 0
    used = time.process_time()
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
            received = connection.received + connection.socket.recv(65536)
            if not received:
                raise ConnectionError("the service closed a connection")
            if received.startswith(_OK) and received.endswith(ACKNOWLEDGEMENT):
                ended = clock()
                took.append(ended - connection.sent_at)
            elif _whole(received):
                ended = clock()
                refused += 1
            else:
                connection.received = received
                continue
            connection.received = b""
            if requests and ended < deadline:
                connection.sent_at = ended
                connection.socket.sendall(requests.pop())
            else:
                waiting -= 1
    for connection in connections:
        connection.socket.close()
    took.sort()
    return Outcome(
        acknowledged=len(took),
        refused=refused,
        seconds=ended - started,
        p50=took[len(took) // 2],
        p99=took[len(took) * 99 // 100],
        worst=took[-1],
        processor_seconds=time.process_time() - used,
    )


def _whole(received: bytes) -> bool:
    """Tell whether an answer, of whatever kind, has come to its end."""
    head, end, rest = received.partition(_END_OF_HEAD)
    if not end:
        return False
    length = head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0].strip()
    return len(rest) >= int(length or b"0")


if __name__ == "__main__":
    outcome = push(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
