"""What each request on the public port gets, over real HTTP: interface section 3, row by row."""

import asyncio
import contextlib
import itertools
import json
import random
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from by_hand import Answer, Connection, ask, chunked, report, request
from receivers import SETTINGS, Receiver

from reconciler import ledger
from runtime import settings as reading
from runtime.database import Database

pytestmark = pytest.mark.anyio

THINK = "/callbacks/think/think-token"
SMS = "/callbacks/sms/sms-token"
TOO_MUCH = 20_001


@pytest.fixture(scope="module")
def receiver(shared: Database, start: Callable[..., Receiver]) -> Receiver:
    return start(shared)


@pytest.fixture(scope="module")
def behind_proxy(shared: Database, start: Callable[..., Receiver]) -> Receiver:
    return start(shared, more='trusted_proxies = ["127.0.0.1/32", "10.0.0.0/8"]')


async def until(true: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Wait until the async function `true` says something true, and return that."""
    async with asyncio.timeout(seconds):
        while not (said := await true()):
            await asyncio.sleep(0.01)
        return said


async def settled(rows: Any, count: int) -> list[Any]:
    """Wait until `count` records are there and all batches settled; return the records."""

    async def there() -> list[Any] | None:
        found = await rows.fetch("SELECT * FROM records ORDER BY received_at")
        left = await rows.fetchval("SELECT count(*) FROM batches WHERE settled_at IS NULL")
        return found if len(found) == count and not left else None

    found: list[Any] = await until(there)
    return found


async def nothing_stored(rows: Any) -> bool:
    return await rows.fetchval("SELECT NOT EXISTS (SELECT 1 FROM records)") is True


async def test_callback_is_stored_whole_and_gets_the_vendors_acknowledgement(
    receiver: Receiver, rows: Any
) -> None:
    body = report("1")
    told = await ask(
        receiver.port,
        THINK + "?from=console",
        body,
        content_type="application/json",
        X_ThinkPHP_Event="sms",
        authorization="Bearer hush",
        cookie="hush",
    )
    assert (told.status, told.body) == (200, b'{"code":0}')
    assert told.header("content-type") == "application/json"
    (record,) = await settled(rows, 1)
    assert record["body"] == body
    assert record["query"] == b"from=console"
    assert (record["account"], record["source"], record["method"]) == ("think", "push", "POST")
    assert record["peer"] == "127.0.0.1"
    headers = json.loads(record["headers"])
    assert headers["x-thinkphp-event"] == "sms"
    assert "hush" not in record["headers"]
    row = await rows.fetchrow("SELECT * FROM reports")
    assert (row["vendor_message_id"], row["status"], row["orphan"]) == ("1", "delivered", True)
    assert row["digest"] == record["digest"]


async def test_stored_before_it_is_answered(receiver: Receiver, rows: Any) -> None:
    for number in range(50):
        body = report(f"before-{number}")
        assert (await ask(receiver.port, THINK, body)).status == 200
        assert await rows.fetchval("SELECT count(*) FROM records WHERE body = $1", body) == 1


async def test_every_token_of_an_account_admits_while_one_is_rotated_out(
    receiver: Receiver, rows: Any
) -> None:
    assert (await ask(receiver.port, "/callbacks/think/older-token", report("1"))).status == 200
    assert (await ask(receiver.port, THINK, report("2"))).status == 200
    await settled(rows, 2)


async def test_percent_encoded_token_is_the_token(receiver: Receiver, rows: Any) -> None:
    spelled = "".join(f"%{ord(character):02x}" for character in "think-token")
    assert (await ask(receiver.port, f"/callbacks/think/{spelled}", report("1"))).status == 200
    await settled(rows, 1)


async def test_pushes_by_get_where_the_vendor_pushes_by_get(receiver: Receiver, rows: Any) -> None:
    query = "mobile=13800138000&taskid=77&status=10&receivetime=2026-10-05+09:30:00"
    told = await ask(receiver.port, f"{SMS}?{query}", method="GET")
    assert (told.status, told.body) == (200, b"ok")
    (record,) = await settled(rows, 1)
    assert (record["method"], record["query"], record["body"]) == ("GET", query.encode(), b"")
    assert await rows.fetchval("SELECT vendor_message_id FROM reports") == "77"
    assert (await ask(receiver.port, THINK, method="GET")).status == 404


@pytest.mark.parametrize("method", ["HEAD", "PUT", "OPTIONS", "DELETE", "PATCH", "TRACE", "BREW"])
@pytest.mark.parametrize("path", [THINK, SMS, "/health/live", "/health/ready", "/"])
async def test_other_methods_get_404(receiver: Receiver, rows: Any, method: str, path: str) -> None:
    told = await ask(receiver.port, path, report("1"), method=method)
    # What is no method of HTTP ends in the server's parser.
    assert told.status == (404 if method != "BREW" else 400)
    assert await nothing_stored(rows)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/callbacks",
        "/callbacks/",
        "/callbacks/think",
        "/callbacks/think/",
        "/callbacks//think-token",
        "/callbacks/think/think-token/",
        "/callbacks/think/think-token/more",
        "//callbacks/think/think-token",
        "/callbacks//think/think-token",
        "/callbacks/think//think-token",
        "/callbacksthink/think-token",
        "/callbacks.think/think-token",
        "/CALLBACKS/think/think-token",
        "/callbacks/Think/think-token",
        "/callbacks/think/THINK-TOKEN",
        "/callbacks/think/think-toke",
        "/callbacks/think/think-tokenn",
        "/callbacks/think/think-token%00",
        "/callbacks/think/think-token%20",
        "/callbacks/think/%20think-token",
        "/callbacks/think/think-token%2f",
        "/callbacks/think%2fthink-token",
        "/callbacks%2fthink%2fthink-token",
        "/callbacks/./think/think-token",
        "/callbacks/sms/../think/think-token",
        "/callbacks/sms/%2e%2e/think/think-token",
        "/callbacks/think/sms-token",
        "/callbacks/think/%ff%fe",
        "/callbacks/think/%ed%a0%80",
        "/callbacks/think/" + quote("令牌"),
        "/callbacks/" + quote("账号") + "/think-token",
        "/callbacks/think/;think-token",
        "/callbacks/tokenless/",
        "/callbacks/tokenless",
        "/callbacks/tokenless/no%20token%20has%20this%20digest%27s%20text",
        "/callbacks/think/" + "t" * 50_000,
        "/callbacks/" + "a/" * 20_000,
        "/metrics",
        "/schema",
        "/v1/messages",
        "/health",
        "/health/",
        "/health/live/",
        "//health/live",
        "/health//live",
        "/health/ready/x",
        "/favicon.ico",
    ],
)
async def test_nothing_else_answers(receiver: Receiver, rows: Any, path: str) -> None:
    for method in ("POST", "GET"):
        told = await ask(receiver.port, path, report("1"), method=method)
        assert told.status == 404, method
    assert await nothing_stored(rows)


async def test_wrong_token_and_unknown_account_are_told_the_same_bytes(
    receiver: Receiver, rows: Any
) -> None:
    told = [
        await ask(receiver.port, path, report("1"))
        for path in (
            "/callbacks/think/wrong",
            "/callbacks/nobody/wrong",
            "/callbacks/nobody/think-token",
            "/callbacks/tokenless/wrong",
            "/callbacks/fenced/wrong",
        )
    ]
    told.append(await ask(receiver.port, THINK, report("1"), method="PUT"))
    assert set(told) == {Answer(404, told[0].head, b"not found\n")}
    assert await nothing_stored(rows)


async def test_foreign_address_gets_403_and_nothing_is_stored(
    receiver: Receiver, rows: Any
) -> None:
    path = "/callbacks/fenced/fenced-token"
    assert (await ask(receiver.port, path, report("1"))).status == 403
    # Nobody's X-Forwarded-For is believed where no proxy is trusted.
    spoofed = await ask(receiver.port, path, report("1"), x_forwarded_for="203.0.113.7")
    assert spoofed.status == 403
    assert await nothing_stored(rows)


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [
        ("203.0.113.7", 200),
        ("198.51.100.1", 403),
        # What a client wrote there itself stands further left than what our proxy added.
        ("203.0.113.7, 198.51.100.1", 403),
        ("198.51.100.1, 203.0.113.7", 200),
        ("198.51.100.1, 203.0.113.7, 10.1.2.3", 200),
        ("203.0.113.7, 198.51.100.1, 10.1.2.3", 403),
        ("2001:db8::7", 200),
        ("::ffff:203.0.113.7", 200),
        ("unknown", 403),
        ("203.0.113.7,", 403),
        (",", 403),
        ("10.0.0.1", 403),
    ],
)
async def test_behind_a_trusted_proxy_the_nearest_stranger_counts(
    behind_proxy: Receiver, rows: Any, forwarded: str, status: int
) -> None:
    path = "/callbacks/fenced/fenced-token"
    async with Connection(behind_proxy.port) as connection:
        # The short way; the same by its known head; the long way.
        told = [
            await connection.ask(request(path, report(id), x_forwarded_for=forwarded))
            for id in ("1", "2")
        ]
        told.append(await connection.ask(chunked(path, report("3"), x_forwarded_for=forwarded)))
    assert [answer.status for answer in told] == [status] * 3
    if status == 200:
        (peer,) = {record["peer"] for record in await settled(rows, 3)}
        assert peer in forwarded
    else:
        assert await nothing_stored(rows)


async def test_head_that_a_proxy_has_sent_is_not_believed_of_a_stranger(
    behind_proxy: Receiver, rows: Any
) -> None:
    path = "/callbacks/fenced/fenced-token"
    same = request(path, report("1"), x_forwarded_for="203.0.113.7")
    for source, status in (("127.0.0.1", 200), ("127.0.0.2", 403), ("127.0.0.1", 200)):
        async with Connection(behind_proxy.port, source=source) as connection:
            assert [(await connection.ask(same)).status for _ in range(2)] == [status] * 2
    (record,) = await settled(rows, 1)
    assert (record["peer"], record["deliveries"]) == ("203.0.113.7", 4)


async def test_behind_a_proxy_without_the_header_the_proxy_itself_is_the_peer(
    behind_proxy: Receiver, rows: Any
) -> None:
    assert (await ask(behind_proxy.port, THINK, report("1"))).status == 200
    (record,) = await settled(rows, 1)
    assert record["peer"] == "127.0.0.1"
    twice = request(THINK, report("2")).replace(
        b"host:", b"x-forwarded-for: 198.51.100.1\r\nx-forwarded-for: 203.0.113.9\r\nhost:"
    )
    async with Connection(behind_proxy.port) as connection:
        assert (await connection.ask(twice)).status == 200
    assert "203.0.113.9" in {row["peer"] for row in await settled(rows, 2)}


async def test_too_large_by_its_own_word_gets_413_before_it_is_sent(
    receiver: Receiver, rows: Any
) -> None:
    for declared in (str(TOO_MUCH), "99999999999"):
        async with Connection(receiver.port) as connection:
            told = await connection.ask(request(THINK, b"", content_length=declared))
            assert told.status == 413
            assert told.header("connection") == "close"
    assert await nothing_stored(rows)


async def test_too_large_in_chunks_gets_413(receiver: Receiver, rows: Any) -> None:
    async with Connection(receiver.port) as connection:
        await connection.send(request(THINK, content_length="", transfer_encoding="chunked"))
        for _ in range(21):
            await connection.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        assert (await connection.answer()).status == 413
    assert await nothing_stored(rows)


async def test_the_largest_body_is_taken(receiver: Receiver, rows: Any) -> None:
    body = b"x" * (TOO_MUCH - 1)
    assert (await ask(receiver.port, THINK, body)).status == 200
    async with Connection(receiver.port) as connection:
        await connection.send(request(THINK, content_length="", transfer_encoding="chunked"))
        other = b"y" * (TOO_MUCH - 1)
        assert (await connection.ask(b"4e20\r\n" + other + b"\r\n0\r\n\r\n")).status == 200
    found = await settled(rows, 2)
    assert [row["body"] for row in found] == [body, other]


async def test_length_that_is_no_number_is_refused_by_the_server(
    receiver: Receiver, rows: Any
) -> None:
    for wrong in ("-1", "1e3", "9" * 5000):
        told = await ask(receiver.port, THINK, b"", content_length=wrong)
        assert told.status == 400
    assert await nothing_stored(rows)


async def test_body_in_pieces_from_a_slow_client_is_put_together(
    receiver: Receiver, rows: Any
) -> None:
    body = report("slow", message="迟到")
    whole = request(THINK, body)
    async with Connection(receiver.port) as connection:
        connection.writer.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        for place in range(0, len(whole), 7):
            await connection.send(whole[place : place + 7])
            await asyncio.sleep(0)
        assert (await connection.answer()).status == 200
    (record,) = await settled(rows, 1)
    assert record["body"] == body


async def test_peer_that_leaves_in_the_middle_of_its_body_stores_nothing(
    receiver: Receiver, rows: Any
) -> None:
    for _ in range(5):
        async with Connection(receiver.port) as connection:
            await connection.send(request(THINK, report("1"))[:-10])
    # The same process takes the next one after it has seen those leave.
    assert (await ask(receiver.port, THINK, report("2"))).status == 200
    (record,) = await settled(rows, 1)
    assert record["body"] == report("2")


async def test_many_requests_on_one_connection_and_ahead_of_their_answers(
    receiver: Receiver, rows: Any
) -> None:
    async with Connection(receiver.port) as connection:
        for number in range(20):
            told = await connection.ask(request(THINK, report(f"kept-{number}")))
            assert told.status == 200
        paths = [THINK, "/callbacks/think/wrong", SMS, THINK, "/health/live"]
        await connection.send(
            b"".join(
                request(path, report(f"ahead-{number}"), method="GET" if "live" in path else "POST")
                for number, path in enumerate(paths)
            )
        )
        answers = [(await connection.answer()).status for _ in paths]
        assert answers == [200, 404, 200, 200, 200]
    await settled(rows, 23)


async def test_same_callback_again_is_counted_and_answered_alike(
    receiver: Receiver, rows: Any
) -> None:
    told = [await ask(receiver.port, THINK, report("1")) for _ in range(5)]
    assert len(set(told)) == 1
    (record,) = await settled(rows, 1)
    assert record["deliveries"] == 5
    assert record["last_received_at"] > record["received_at"]
    # Headers are no part of a callback's identity: proxies change them.
    assert (await ask(receiver.port, THINK, report("1"), x_request_id="2")).status == 200
    assert await rows.fetchval("SELECT deliveries FROM records") == 6
    assert await rows.fetchval("SELECT count(*) FROM reports") == 1


async def test_concurrent_duplicates_at_two_receivers_are_stored_once(
    receiver: Receiver, behind_proxy: Receiver, rows: Any
) -> None:
    bodies = [report(f"twin-{number}") for number in range(5)]
    told = await asyncio.gather(
        *(
            ask(port, THINK, body)
            for _ in range(10)
            for body in bodies
            for port in (receiver.port, behind_proxy.port)
        )
    )
    assert {answer.status for answer in told} == {200}
    found = await settled(rows, 5)
    assert [row["deliveries"] for row in found] == [20] * 5
    assert await rows.fetchval("SELECT count(*) FROM reports") == 5


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (THINK, b""),
        (THINK, b"{"),
        (THINK, b"not json at all"),
        (THINK, b'{"action":"report"}'),
        (THINK, b'{"action":"holiday","sms":{}}'),
        (THINK, b'{"action":"report","sms":{"id":"1"}}'),
        (THINK, '{"action":"report","sms":{"id":"1","phone":"电话","status":1}}'.encode("gb18030")),
        (THINK, b'{"action":"report","sms":{"id":"a\\u0000b","phone":"13800138000","status":1}}'),
        (THINK, b'{"action":"report","sms":{"id":"\\ud800","phone":"13800138000","status":1}}'),
        (THINK, b"\x00\xff\xfe" * 100),
        (THINK, b"[" * 15_000),
        (THINK, b"<html>"),
        (SMS, b""),
        (SMS, b"<returnsms><statusbox></returnsms>"),
        (SMS, b"a=b"),
        (SMS, b"\xff\xff\xff"),
        (SMS, b"<!DOCTYPE x [<!ENTITY a 'b'>]><returnsms/>"),
    ],
)
async def test_body_that_nobody_understands_is_kept_quarantined_and_acknowledged(
    receiver: Receiver, rows: Any, path: str, body: bytes
) -> None:
    told = await ask(receiver.port, path, body)
    assert (told.status, told.body) == (200, b'{"code":0}' if path == THINK else b"ok")
    (record,) = await settled(rows, 1)
    assert record["body"] == body
    reason = await rows.fetchval("SELECT reason FROM quarantine")
    assert reason
    assert "13800138000" not in reason
    assert await rows.fetchval("SELECT count(*) FROM reports") == 0


async def test_field_too_many_and_unknown_code_are_no_reason_for_quarantine(
    receiver: Receiver, rows: Any
) -> None:
    assert (await ask(receiver.port, THINK, report("1", new="field"))).status == 200
    assert (await ask(receiver.port, THINK, report("2", status=42))).status == 200
    await settled(rows, 2)
    assert await rows.fetchval("SELECT count(*) FROM quarantine") == 0
    found = await rows.fetch("SELECT status, vendor_code FROM reports ORDER BY vendor_message_id")
    assert [tuple(row) for row in found] == [("delivered", "1"), ("unknown", "42")]


async def test_garbage_among_good_callbacks_stops_none(receiver: Receiver, rows: Any) -> None:
    bodies = [report(str(number)) if number % 3 else b"%d" % number for number in range(60)]
    told = await asyncio.gather(*(ask(receiver.port, THINK, body) for body in bodies))
    assert {answer.status for answer in told} == {200}
    await settled(rows, 60)
    assert await rows.fetchval("SELECT count(*) FROM reports") == 40
    assert await rows.fetchval("SELECT count(*) FROM quarantine") == 20


async def test_early_receipt_waits_for_its_message(
    shared: Database, receiver: Receiver, rows: Any, tmp_path: Any
) -> None:
    assert (await ask(receiver.port, THINK, report("early"))).status == 200
    await settled(rows, 1)
    assert await rows.fetchval("SELECT count(*) FROM messages") == 0
    now = datetime.now(UTC)
    accounts = reading.parse(SETTINGS.format(receiver=""), tmp_path / "huizhi.toml", {}).accounts
    sent = ledger.convert(
        {
            "account": "think",
            "vendor_message_id": "early",
            "phone": "+86 138 0013 8000",
            "sent_at": "2026-10-05T09:29:00+08:00",
        },
        accounts,
        now,
    )
    async with shared.pool(size=2) as pool:
        await ledger.register(pool, accounts, [sent], now=now)
    assert await rows.fetchval("SELECT status FROM messages") == "delivered"
    assert not await rows.fetchval("SELECT orphan FROM reports")


async def test_reviews_of_signs_and_templates_are_folded(receiver: Receiver, rows: Any) -> None:
    for status, at in ((2, "10:00:00"), (0, "09:00:00")):
        push = {
            "action": "sign",
            "sign": {"id": 5, "name": "回执", "status": status, "update_time": f"2026-10-05 {at}"},
        }
        assert (await ask(receiver.port, THINK, json.dumps(push).encode())).status == 200
    await settled(rows, 2)
    assert tuple(await rows.fetchrow("SELECT vendor_id, status, name FROM reviews")) == (
        "5",
        "rejected",
        "回执",
    )


async def test_health_tells_whether_something_durable_can_be_written(receiver: Receiver) -> None:
    for path in ("/health/live", "/health/ready"):
        told = await ask(receiver.port, path, method="GET")
        assert told.status == 200
        assert json.loads(told.body)["status"] in ("live", "ready")


async def test_upgrade_to_a_websocket_is_no_way_in(receiver: Receiver, rows: Any) -> None:
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec_websocket_version": "13",
    }
    for path in (THINK, "/callbacks/think/wrong", "/x"):
        told = await ask(receiver.port, path, method="GET", content_length="", **upgrade)
        assert told.status == 404
    assert await nothing_stored(rows)


async def test_port_stays_alive_through_noise(receiver: Receiver, rows: Any) -> None:
    for noise in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client
        b"GET\r\n\r\n",
        b"POST " + THINK.encode() + b" HTTP/1.1\r\ncontent-length: 5\r\n\r\n",
        b"POST /\xff\xfe HTTP/1.1\r\n\r\n",
        b"POST " + THINK.encode() + b" HTTP/1.1\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
        b"\0" * 1000,
    ):
        async with Connection(receiver.port) as connection:
            await connection.send(noise)
    assert (await ask(receiver.port, THINK, report("1"))).status == 200
    await settled(rows, 1)


@pytest.mark.parametrize(
    "begun",
    [
        b"POST /",
        b"GET / HTTP/1.1\r\nx: ",
        request("/callbacks/x/y", content_length="", transfer_encoding="chunked") + b"1;a=",
        request("/callbacks/x/y", content_length="", transfer_encoding="chunked") + b"0\r\nx: ",
    ],
    ids=["path", "header", "chunk", "trailer"],
)
async def test_head_or_trailer_without_an_end_is_cut_off(
    receiver: Receiver, rows: Any, begun: bytes
) -> None:
    async with Connection(receiver.port) as connection:
        with contextlib.suppress(ConnectionError):
            await connection.send(begun)
            for _ in range(1000):
                await connection.send(b"a" * 65_536)
            pytest.fail("it took 64 MB")
    assert (await ask(receiver.port, THINK, report("1"))).status == 200
    await settled(rows, 1)


async def test_body_that_nobody_reads_does_not_keep_the_connection_from_its_next_request(
    receiver: Receiver, rows: Any
) -> None:
    async with Connection(receiver.port) as connection:
        await connection.send(request("/callbacks/think/wrong", b"x" * 300_000))
        assert (await connection.answer()).status == 404
        assert (await connection.ask(request(THINK, report("1")))).status == 200
    await settled(rows, 1)


def spelled(number: int, chance: random.Random) -> tuple[bytes, int, bytes | None]:
    """A request in one of many spellings, the status it is due, and what is to be stored of it."""
    body = report(f"cut-{number}", message="迟" * chance.randint(0, 3))
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(body[at : at + 40]), body[at : at + 40])
        for at in range(0, len(body), 40)
    )
    heads = {"content_length": "", "transfer_encoding": "chunked"}
    return chance.choice(
        [
            (request(THINK, body), 200, body),
            (request(THINK, body), 200, body),
            (request(THINK, body, x_request_id=str(number)), 200, body),
            (request(THINK, body).replace(b"\r\ncontent-length", b"\r\nContent-Length"), 200, body),
            (request("/callbacks/think/older-token", body), 200, body),
            (request(f"{THINK}?n={number}", body), 200, body),
            (request(THINK, **heads) + chunks + b"0\r\n\r\n", 200, body),
            (request(THINK, **heads) + chunks + b"0\r\nx: trailer\r\n\r\n", 200, body),
            (request(THINK, body, expect="100-continue"), 200, body),
            (request(SMS, body), 200, body),
            (request("/callbacks/think/wrong", body), 404, None),
            (request(THINK, body, method="PUT"), 404, None),
            (request("/callbacks/fenced/fenced-token", body), 403, None),
            (request("/health/live", method="GET"), 200, None),
        ]
    )


@pytest.mark.parametrize("seed", range(12))
async def test_requests_however_cut_and_however_many_ahead_are_answered_alike(
    receiver: Receiver, rows: Any, seed: int
) -> None:
    chance = random.Random(seed)
    requests = [spelled(number, chance) for number in range(30)]
    stream = b"".join(data for data, _, _ in requests)
    # Cut where requests end, within heads, between head and body, in the middle of a character.
    ends = list(itertools.accumulate(len(data) for data, _, _ in requests))
    cuts = {0, len(stream), *chance.sample(ends, chance.randint(0, 30))}
    cuts |= set(chance.sample(range(len(stream)), chance.randint(0, 40)))
    places = sorted(cuts)
    async with Connection(receiver.port) as connection:
        connection.writer.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )

        async def send() -> None:
            for begin, end in itertools.pairwise(places):
                await connection.send(stream[begin:end])
                await asyncio.sleep(chance.choice([0, 0, 0.001]))

        sending = asyncio.create_task(send())
        told = [(await connection.answer()).status for _ in requests]
        await sending
    assert told == [status for _, status, _ in requests]
    due = [body for _, _, body in requests if body is not None]
    assert sorted(row["body"] for row in await settled(rows, len(due))) == sorted(due)


async def test_head_seen_before_admits_nothing_that_it_did_not_spell(
    receiver: Receiver, rows: Any
) -> None:
    body = report("1")
    async with Connection(receiver.port) as connection:
        for number in range(3):
            assert (await connection.ask(request(THINK, report(str(number))))).status == 200
        for wrong in (
            request(THINK, body).replace(b"think-token", b"Think-token"),
            request(THINK, body).replace(b"think-token", b"think-tokem"),
            request(THINK, body).replace(b"/callbacks/think", b"/callbacks/fence"),
        ):
            assert (await connection.ask(wrong)).status == 404
        # A body shorter than said waits for the rest, and is no callback before it is whole.
        await connection.send(request(THINK, report("9"))[:-1])
    assert len(await settled(rows, 3)) == 3
