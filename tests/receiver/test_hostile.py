"""What strangers send: junk, riddles, floods, and clients that never finish. Bytes by hand, a real process."""

import asyncio
import contextlib
import re
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from by_hand import Answer, Connection, ask, report, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from receivers import Receiver

from receiver.callbacks import Callbacks
from receiver.limits import Guesses, Pace
from runtime.database import Database
from runtime.settings import parse

pytestmark = pytest.mark.anyio

PATH = "/callbacks/think/think-token"
HEAD, BODY = 3.0, 4.0
QUICK = f"""
from runtime import bounds
bounds.HEAD_SECONDS, bounds.BODY_SECONDS, bounds.LOOK_SECONDS = {HEAD}, {BODY}, 0.1
"""
# Leaves what only the collector can free, and tells how many connections are kept when it is asked.
HOARDING = """
import gc, signal
from receiver.protocol import Protocol
gc.disable()
def tell(*_):
    print("kept:", sum(isinstance(one, Protocol) for one in gc.get_objects()), flush=True)
signal.signal(signal.SIGUSR1, tell)
"""
FEW = f"{QUICK}\nbounds.CONNECTIONS = 20\n"


@pytest.fixture(scope="module")
def receiver(shared: Database, start: Callable[..., Receiver]) -> Receiver:
    return start(shared)


@pytest.fixture(scope="module")
def quick(shared: Database, start: Callable[..., Receiver]) -> Receiver:
    """A receiver of the same code with short limits."""
    return start(shared, first=QUICK)


async def exchange(port: int, data: bytes, *, seconds: float = 10) -> bytes:
    """Write bytes as they are and return all that comes until the other side ends the connection."""
    async with Connection(port) as connection, asyncio.timeout(seconds):
        with contextlib.suppress(OSError):
            await connection.send(data)
        heard = b""
        with contextlib.suppress(OSError):
            while chunk := await connection.reader.read(65_536):
                heard += chunk
        return heard


def statuses(heard: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3})", heard)]


def resident_bytes(receiver: Receiver) -> int:
    status = Path(f"/proc/{receiver.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def still_well(receiver: Receiver, rows: Any, id: str = "well") -> None:
    """It takes a callback as ever."""
    assert (await ask(receiver.port, PATH, report(id))).status == 200
    assert receiver.process.poll() is None
    assert await rows.fetchval(
        "SELECT count(*) FROM records WHERE body LIKE $1", f"%{id}%".encode()
    )


# --- requests inside requests -------------------------------------------------------------------------

INNER = request(PATH, report("smuggled"))
POST = f"POST {PATH} HTTP/1.1\r\nhost: receiver\r\n".encode()


async def test_connections_that_end_leave_nothing_to_the_collector(
    shared: Database, start: Callable[..., Receiver]
) -> None:
    # Most vendors open one for each callback; what each left would be freed some ten thousand later.
    hoarding = start(shared, first=HOARDING)
    pushes = [report(f"gone-{number}") for number in range(40)]
    for body in pushes:
        assert (await ask(hoarding.port, PATH, body)).status == 200
    for body in pushes:  # and those that end before their answer
        async with Connection(hoarding.port) as connection:
            await connection.send(request(PATH, body))
    for body in pushes:  # and those whose peer resets them, which a keep-alive timer would outlive
        async with Connection(hoarding.port) as connection:
            assert (await connection.ask(request(PATH, body))).status == 200
            sock = connection.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    told: list[str] = []
    async with asyncio.timeout(20):
        while not told or int(told[-1]) > 2:
            hoarding.process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(0.05)
            told = re.findall(r"kept: (\d+)\n", hoarding.log.read_text())


@pytest.mark.parametrize(
    "outer",
    [
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        POST + b"content-length: 0\r\ncontent-length: 5\r\n\r\n",
        POST + b"content-length: 5, 0\r\n\r\n",
        POST + b"content-length: +0\r\n\r\n",
        POST + b"content-length: -1\r\n\r\n",
        POST + b"content-length: 0x0\r\n\r\n",
        POST + b"content-length: 18446744073709551616\r\n\r\n",
        POST + b"content-length:\r\n 0\r\n\r\n",
        POST + b"x: y\r\n folded\r\ncontent-length: 0\r\n\r\n",
        POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        POST + b"x\0y: z\r\ncontent-length: 0\r\n\r\n",
        POST + b"x: a\0b\r\ncontent-length: 0\r\n\r\n",
        POST + b"x: a\rcontent-length: 9\r\n\r\n",
        POST.replace(b"HTTP/1.1", b"HTTP/1.1 ") + b"content-length: 0\r\n\r\n",
        POST.replace(b"HTTP/1.1", b"HTTP/9.9") + b"content-length: 0\r\n\r\n",
        POST.replace(b"\r\n", b"\r") + b"\r\r",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_a_request_that_can_be_read_two_ways_is_refused_with_all_that_follows(
    receiver: Receiver, rows: Any, outer: bytes
) -> None:
    heard = await exchange(receiver.port, outer + INNER)
    assert statuses(heard) == [400]
    assert b"connection: close" in heard
    assert await rows.fetchval("SELECT count(*) FROM records") == 0
    await still_well(receiver, rows)


@pytest.mark.parametrize("target", [f"http://elsewhere.example{PATH}", PATH])
@pytest.mark.parametrize("host", ["receiver", "evil.example", "[::1]:80", "a b", "", "x" * 5000])
async def test_no_host_makes_a_difference(
    receiver: Receiver, rows: Any, target: str, host: str
) -> None:
    told = await ask(receiver.port, target, report("hosted"), host=host)
    assert told.status == 200
    assert await rows.fetchval("SELECT count(*) FROM records") == 1


@pytest.mark.parametrize(
    "path",
    [
        "/callbacks/think/think-token/..",
        "/callbacks/../callbacks/think/think-token",
        "/callbacks/./think/think-token",
        "/callbacks/think%2fthink-token",
        "/callbacks/think/think-token%00",
        "/callbacks/think/think-token%",
        "/callbacks/think/think-token%zz",
        "/callbacks/think/%2574hink-token",
        "/callbacks\\think\\think-token",
        "/CALLBACKS/think/think-token",
        "//callbacks/think/think-token",
        "/callbacks/think/think-token;x=y",
        "http://elsewhere.example",
        "*",
    ],
)
async def test_another_spelling_of_the_path_is_another_path(
    receiver: Receiver, rows: Any, path: str
) -> None:
    heard = await exchange(receiver.port, request(path, report("1"), connection="close"))
    assert statuses(heard) in ([404], [400])
    assert await rows.fetchval("SELECT count(*) FROM records") == 0


# --- too much -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        POST + b"".join(b"x-%d: y\r\n" % n for n in range(101)) + b"content-length: 0\r\n\r\n",
        POST + b"x: " + b"y" * 70_000 + b"\r\ncontent-length: 0\r\n\r\n",
        b"POST /" + b"y" * 70_000 + b" HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        POST + b"x: " + b"y" * 1_000_000,
        b"POST /" + b"y" * 1_000_000,
    ],
)
async def test_a_head_too_long_or_of_too_many_lines_is_431(
    receiver: Receiver, rows: Any, head: bytes
) -> None:
    heard = await exchange(receiver.port, head + INNER)
    assert statuses(heard) == [431]
    assert await rows.fetchval("SELECT count(*) FROM records") == 0


async def test_a_hundred_headers_are_fine(receiver: Receiver, rows: Any) -> None:
    more = {f"x_{n}": "y" for n in range(98)}
    assert (await ask(receiver.port, PATH, report("1"), **more)).status == 200


async def pour(port: int, data: bytes, *, seconds: float) -> bool:
    """Write without ever reading; return whether the other side ended it."""
    loop = asyncio.get_running_loop()
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.setblocking(False)
        await loop.sock_connect(peer, ("127.0.0.1", port))
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await loop.sock_sendall(peer, data)
        except TimeoutError:
            return False
        except OSError:
            return True


async def test_requests_that_wait_for_their_turn_are_not_kept_in_memory(
    quick: Receiver, rows: Any
) -> None:
    await still_well(quick, rows)
    before = resident_bytes(quick)
    await pour(quick.port, request(PATH, report("poured")) * 200, seconds=5)
    assert resident_bytes(quick) - before < 32 * 1024 * 1024
    await still_well(quick, rows, "well again")


async def test_who_does_not_read_its_answers_is_dropped(quick: Receiver, rows: Any) -> None:
    before = resident_bytes(quick)
    assert await pour(quick.port, request("/nowhere", method="GET") * 500, seconds=60)
    assert resident_bytes(quick) - before < 32 * 1024 * 1024
    await still_well(quick, rows)


async def test_a_full_process_makes_room_for_who_has_something_to_say(
    shared: Database, start: Callable[..., Receiver], rows: Any
) -> None:
    crowded = start(shared, first=FEW.replace(f"= {HEAD}, {BODY}", "= 60, 60"))
    async with contextlib.AsyncExitStack() as stack:
        good = await stack.enter_async_context(Connection(crowded.port))
        assert (await good.ask(request(PATH, report("before")))).status == 200
        idle = [await stack.enter_async_context(Connection(crowded.port)) for _ in range(60)]
        for connection in idle[::2]:
            await connection.send(b"POST /callbacks/")
        assert (await ask(crowded.port, PATH, report("new"))).status == 200
        # Those that said nothing went first; the one that is kept alive was never taken for one.
        assert (await good.ask(request(PATH, report("after")))).status == 200
        async with asyncio.timeout(20):
            ended = 0
            while ended < 40:
                ended = sum(
                    connection.reader.at_eof() or bool(connection.reader.exception())
                    for connection in idle
                )
                await asyncio.sleep(0.01)


# --- too slow -----------------------------------------------------------------------------------------


async def trickle(connection: Connection, data: bytes) -> float:
    """Write a byte now and then until the other side ends it; return how long it bore with us."""
    began = time.monotonic()
    with contextlib.suppress(OSError):
        for byte in data:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.05)
            if connection.reader.at_eof():
                break
    return time.monotonic() - began


async def rest(connection: Connection) -> bytes:
    with contextlib.suppress(OSError):
        async with asyncio.timeout(10):
            return await connection.reader.read()
    return b""


async def test_who_does_not_finish_a_head_is_dropped_and_keeps_nobody_waiting(
    quick: Receiver, rows: Any
) -> None:
    async def slow() -> tuple[float, bytes]:
        async with Connection(quick.port) as connection:
            lasted = await trickle(connection, POST + b"x: " + b"y" * 500)
            return lasted, await rest(connection)

    attack = [asyncio.create_task(slow()) for _ in range(50)]
    for number in range(20):
        assert (await ask(quick.port, PATH, report(str(number)))).status == 200
    for lasted, heard in await asyncio.gather(*attack):
        assert lasted < HEAD + 10
        assert statuses(heard) in ([408], [])  # it may be lost where bytes were still on their way
    assert await rows.fetchval("SELECT count(*) FROM records") == 20


async def test_who_does_not_finish_a_body_is_told_so_and_nothing_is_stored(
    quick: Receiver, rows: Any
) -> None:
    for head in (
        POST + b"content-length: 5000\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n",
    ):
        async with Connection(quick.port) as connection:
            began = time.monotonic()
            await connection.send(head + b"5\r\nabcde\r\n")
            heard = await rest(connection)
            assert statuses(heard) == [408]
            assert BODY - 0.5 < time.monotonic() - began < BODY + 10
    assert await rows.fetchval("SELECT count(*) FROM records") == 0


async def test_who_never_says_a_word_is_dropped(quick: Receiver) -> None:
    began = time.monotonic()
    assert await exchange(quick.port, b"") == b""
    assert HEAD - 0.5 < time.monotonic() - began < HEAD + 10


async def test_who_was_answered_may_rest_longer_than_a_head_may_take(
    quick: Receiver, rows: Any
) -> None:
    async with Connection(quick.port) as connection:
        for number in range(2):
            assert (await connection.ask(request(PATH, report(str(number))))).status == 200
            await asyncio.sleep(HEAD + 0.5)
        assert (await connection.ask(request(PATH, report("2")))).status == 200


async def test_who_has_said_all_and_shut_its_side_is_answered(
    receiver: Receiver, rows: Any
) -> None:
    # Once the long way, once the short one: the second head is known.
    for number in range(2):
        async with Connection(receiver.port) as connection, asyncio.timeout(10):
            await connection.send(request(PATH, report(f"half {number}")))
            connection.writer.write_eof()
            told: Answer = await connection.answer()
            assert told.status == 200
            assert await connection.reader.read() == b""
    assert await rows.fetchval("SELECT count(*) FROM records") == 2


# --- noise --------------------------------------------------------------------------------------------

PIECES = st.one_of(
    st.sampled_from(
        [
            *(
                b"POST ",
                b"GET ",
                b"\r\n",
                b"\n",
                b"\r",
                b" ",
                b":",
                b"\0",
                b"%",
                b"%00",
                b"?",
                b"#",
            ),
            *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"host: x\r\n", b"content-length: ", b"5", b"0"),
            *(b"transfer-encoding: chunked\r\n", b"0\r\n\r\n", b"expect: 100-continue\r\n"),
            *(b"connection: close\r\n", b"connection: upgrade\r\nupgrade: h2c\r\n", b"\r\n\r\n"),
            *(
                PATH.encode(),
                b"/callbacks/sms/sms-token",
                b"/health/ready",
                b"/",
                b"http://",
                b"[::",
            ),
            *(INNER, POST, request("/health/live", method="GET"), b"\xff\xfe", b"\x16\x03\x01"),
        ]
    ),
    st.binary(max_size=40),
)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(pieces=st.lists(PIECES, min_size=1, max_size=12), cut=st.integers(0, 200))
async def test_no_noise_gets_a_5xx_or_hangs(quick: Receiver, pieces: list[bytes], cut: int) -> None:
    data = b"".join(pieces)
    async with Connection(quick.port) as connection, asyncio.timeout(30):
        with contextlib.suppress(OSError):
            await connection.send(data[:cut])
            await connection.send(data[cut:])
            connection.writer.write_eof()
        heard = b""
        with contextlib.suppress(OSError):
            heard = await connection.reader.read()
    allowed = {100, 200, 400, 404, 408, 413, 431}
    assert {int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", heard)} <= allowed
    assert quick.process.poll() is None


async def test_noise_leaves_no_line_for_each_of_it_in_the_log(
    shared: Database, start: Callable[..., Receiver], rows: Any
) -> None:
    receiver = start(shared)  # in whose log is no other noise
    began = time.monotonic()
    for _ in range(30):
        await exchange(receiver.port, b"no http\r\n\r\n")
    async with Connection(receiver.port) as connection:
        for number in range(200):
            told = await connection.ask(request(f"/callbacks/think/wrong-{number}"))
            assert told.status == 404
    lines = receiver.log.read_text().splitlines()
    minutes = 1 + int((time.monotonic() - began) / 60)
    assert 60 <= sum("callback.forged" in line for line in lines) <= 60 * minutes
    assert not any("Invalid HTTP" in line or "wrong-" in line for line in lines)
    await still_well(receiver, rows)


# --- limits -------------------------------------------------------------------------------------------


async def test_limits_of_an_account_and_of_peers_are_off_and_hold_where_they_are_set(
    shared: Database, start: Callable[..., Receiver], rows: Any
) -> None:
    limited = start(shared, more="callbacks_per_second_per_peer = 5")
    told = [await ask(limited.port, PATH, report(str(number))) for number in range(30)]
    assert {each.status for each in told} == {200, 429}
    late = next(each for each in told if each.status == 429)
    assert late.header("retry-after") == "1"
    taken = sum(each.status == 200 for each in told)
    assert await rows.fetchval("SELECT count(*) FROM records") == taken


def test_a_pace_is_kept_with_a_seconds_worth_at_once() -> None:
    now = [0.0]
    pace = Pace(clock=lambda: now[0])
    assert [pace.admits("a", 5) for _ in range(7)] == [True] * 5 + [False] * 2
    assert pace.admits("b", 5)
    now[0] = 0.2
    assert [pace.admits("a", 5) for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert sum(pace.admits("a", 5) for _ in range(50)) == 5
    assert [pace.admits("c", 0.5) for _ in range(2)] == [True, False]
    now[0] = 102.0
    assert pace.admits("c", 0.5)
    for number in range(30_000):
        pace.admits(str(number), 5)
    assert len(pace._free_at) <= 10_000


def test_guesses_are_counted_by_peer_and_minute_in_bounded_memory() -> None:
    now = [0.0]
    guesses = Guesses(clock=lambda: now[0])
    assert [guesses.another("192.0.2.1") for _ in range(3)] == [1, 2, 3]
    assert guesses.another("192.0.2.2") == 1
    assert [guesses.another(peer) for peer in ("2001:db8::1", "2001:db8::2")] == [1, 2]
    assert guesses.another("2001:db8:0:1::1") == 1
    assert [guesses.another(peer) for peer in ("no address", "")] == [1, 1]
    now[0] = 61.0
    assert guesses.another("192.0.2.1") == 1
    for number in range(30_000):
        guesses.another(str(number))
    assert len(guesses._counts) <= 10_000


# --- whose word counts --------------------------------------------------------------------------------

_PROXIED = parse(
    """
[receiver]
trusted_proxies = ["10.0.0.0/8", "2001:db8:ff::/48"]
[accounts.fenced]
gateway = "thinkapi"
credentials = { app_code = "code" }
callback_tokens = ["token"]
callback_networks = ["203.0.113.0/24", "198.51.100.0/24"]
known_networks = ["203.0.113.0/24"]
""",
    Path("huizhi.toml"),
    {},
)


def peer_of(client: str, forwarded: str) -> str:
    handler = Callbacks(_PROXIED, None)  # type: ignore[arg-type]
    return handler._peer(client, {b"x-forwarded-for": forwarded.encode("latin-1", "replace")})


@pytest.mark.parametrize(
    ("client", "forwarded", "peer"),
    [
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "203.0.113.7:4711", "203.0.113.7"),
        ("10.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("10.0.0.1", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.1", "203.0.113.7, 2001:db8:ff::1, 10.2.3.4", "203.0.113.7"),
        ("2001:db8:ff::9", "203.0.113.7", "203.0.113.7"),
        ("::ffff:10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "203.0.113.7, garbage", "unknown"),
        ("10.0.0.1", "203.0.113.7, ", "unknown"),
        ("10.0.0.1", "", "unknown"),
        ("10.0.0.1", "203.0.113.7, 1.2.3.4.5", "unknown"),
        ("10.0.0.1", "203.0.113.7, 0x7f.1", "unknown"),
        ("192.0.2.1", "203.0.113.7", "192.0.2.1"),
        ("", "203.0.113.7", ""),
    ],
)
def test_only_what_our_proxies_added_is_believed(client: str, forwarded: str, peer: str) -> None:
    assert peer_of(client, forwarded) == peer


@pytest.mark.parametrize(
    ("client", "forwarded", "found"),
    [
        ("10.0.0.1", "203.0.113.7", ("203.0.113.7", False)),
        ("10.0.0.1", "198.51.100.1", ("198.51.100.1", True)),
        ("203.0.113.7", "198.51.100.1", ("203.0.113.7", False)),
        ("10.0.0.1", "192.0.2.1", None),
        ("192.0.2.1", "203.0.113.7", None),
        ("10.0.0.1", "garbage", None),
        ("", "203.0.113.7", None),
    ],
)
def test_callback_of_a_known_network_goes_the_short_way_behind_our_proxies(
    client: str, forwarded: str, found: tuple[str, bool] | None
) -> None:
    handler = Callbacks(_PROXIED, None)  # type: ignore[arg-type]
    headers = [(b"content-length", b"3"), (b"x-forwarded-for", forwarded.encode())]
    head = handler.head("POST", b"/callbacks/fenced/token", headers, client)
    assert (head and (head.peer, head.foreign)) == found


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(spoofed=st.text(max_size=60), stranger=st.ip_addresses())
def test_nothing_that_a_client_writes_moves_the_address_that_our_proxy_added(
    spoofed: str, stranger: Any
) -> None:
    if any(stranger in network for network in _PROXIED.receiver.trusted_proxies):
        return
    assert peer_of("10.0.0.1", f"{spoofed}, {stranger}") == str(stranger)
