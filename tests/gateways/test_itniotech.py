"""itniotech: its signature, its three tables of status numbers, and the requests its pages describe."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import msgspec
import pytest

from gateways.errors import Garbled, Indeterminate, Refused, Unavailable, Unsupported
from gateways.events import (
    Accepted,
    Balance,
    Charge,
    DeliveryReport,
    InboundMessage,
    Parsed,
    Status,
)
from gateways.gateway import Account, Batch, Call, Callback, Outgoing, Reply
from gateways.http import Transport
from gateways.itniotech import GATEWAY, codes
from gateways.itniotech.client import ItniotechClient, Options, signature
from gateways.segments import Rule, count
from sandbox import Config, Running, running
from sandbox.config import ItniotechConfig
from sandbox.itniotech import ItniotechAccount
from sandbox.settings import Outcomes

CAPTURED = Path(__file__).parent / "itniotech" / "captured"
REFERENCE = "0123456789abcdef0123456789abcdef"
START = datetime(2021, 2, 11, 16, tzinfo=UTC)
END = datetime(2021, 2, 12, 15, 59, 59, tzinfo=UTC)


@pytest.fixture
def account(account_at: Callable[..., Account]) -> Account:
    return account_at("itniotech")


def _pushed(account: Account, **fields: Any) -> Parsed:
    body = json.dumps({"msgid": "1", "mobile": "91856321413", "status": 0, **fields}).encode()
    callback = Callback(method="POST", query=b"", headers={}, body=body)
    return GATEWAY.parse_callback(callback, account)


def _report(account: Account, **fields: Any) -> DeliveryReport:
    (event,) = _pushed(account, **fields).events
    assert isinstance(event, DeliveryReport)
    return event


def _replied(account: Account, call: Call, document: Any) -> Parsed:
    reply = Reply(call=call, headers={}, body=json.dumps(document).encode())
    return GATEWAY.parse_reply(reply, account)


def _listed(account: Account, call: Call, status: Any) -> Status:
    row = {"msgId": "1", "number": "91856321412", "receiveTime": "", "status": status}
    (event,) = _replied(account, call, {"status": "0", "array": [row]}).events
    assert isinstance(event, DeliveryReport)
    assert event.vendor_code == str(status)
    return event.status


# --- the signature -----------------------------------------------------------------------------------


def test_signature_is_that_of_the_vendors_own_example() -> None:
    assert signature("bDqJFiq9", "7bz1lzh9", "1630468800") == "05d7a50893e22a5c4bb3216ae3396c7c"


# --- the three tables of status numbers --------------------------------------------------------------


def test_1_is_a_failure_in_get_report_only(account: Account) -> None:
    assert _listed(account, Call.QUERY_STATUS, "1") is Status.FAILED
    assert _listed(account, Call.LIST_SENT, "1") is Status.UNKNOWN


def test_2_is_a_failure_in_get_sent_rcd_only(account: Account) -> None:
    assert _listed(account, Call.LIST_SENT, "2") is Status.FAILED
    assert _listed(account, Call.QUERY_STATUS, "2") is Status.UNKNOWN


def test_minus_1_is_pending_in_get_report_and_a_failure_in_a_push(account: Account) -> None:
    assert _listed(account, Call.QUERY_STATUS, "-1") is Status.PENDING
    assert _listed(account, Call.LIST_SENT, "-1") is Status.UNKNOWN
    assert _report(account, status=-1).status is Status.FAILED


@pytest.mark.parametrize("status", [0, "0", " 0 "])
def test_0_is_delivered_everywhere(account: Account, status: int | str) -> None:
    assert _listed(account, Call.QUERY_STATUS, status) is Status.DELIVERED
    assert _listed(account, Call.LIST_SENT, status) is Status.DELIVERED
    assert _report(account, status=status).status is Status.DELIVERED


@pytest.mark.parametrize("status", [1, 2, 3, "5", -9, 999_999_999])
def test_any_other_integer_is_a_failure_in_a_push(account: Account, status: int | str) -> None:
    assert _report(account, status=status).status is Status.FAILED


@pytest.mark.parametrize("status", ["", "DELIVRD", "-0", "00", 0.5, "0.0", "+1", 10**12, "٣"])
def test_what_is_no_number_of_the_tables_is_never_final(account: Account, status: Any) -> None:
    assert _report(account, status=status).status is Status.UNKNOWN
    assert _listed(account, Call.QUERY_STATUS, status) is Status.UNKNOWN


# --- pushes ------------------------------------------------------------------------------------------


def test_timestamp_is_no_time_of_the_report_unless_the_account_says_so(
    account_at: Callable[..., Account],
) -> None:
    sent, reported = account_at("itniotech"), account_at("itniotech", push_timestamp="reported")
    assert _report(sent, timestamp=1629801177192).reported_at is None
    for timestamp in (1629801177192, "1629801177192"):
        at = _report(reported, timestamp=timestamp).reported_at
        assert at == datetime(2021, 8, 24, 10, 32, 57, 192_000, UTC)
    for nothing in (None, "", 0):
        assert _report(reported, timestamp=nothing).reported_at is None


@pytest.mark.parametrize("timestamp", [1629801177, -1, 10**20, "soon", [], 1.5])
def test_a_timestamp_that_is_none_is_a_problem_and_the_report_counts(
    account_at: Callable[..., Account], timestamp: Any
) -> None:
    parsed = _pushed(account_at("itniotech", push_timestamp="reported"), timestamp=timestamp)
    (report,) = parsed.events
    assert isinstance(report, DeliveryReport)
    assert (report.status, report.reported_at) == (Status.DELIVERED, None)
    assert len(parsed.problems) == 1


@pytest.mark.parametrize(
    ("order", "reference"),
    [
        (REFERENCE, REFERENCE),
        (f" {REFERENCE} ", REFERENCE),
        ("21412", None),
        (REFERENCE.upper(), None),
        (REFERENCE + "0", None),
        (None, None),
        (7, None),
    ],
)
def test_order_id_is_our_reference_where_it_looks_like_one(
    account: Account, order: Any, reference: str | None
) -> None:
    assert _report(account, orderId=order).reference == reference
    assert _report(account, **{"orderId ": order}).reference == reference


@pytest.mark.parametrize(
    ("detail", "charge"),
    [
        (
            '{"pay": "0.02", "price": "0.01", "chargeCnt": 2, "currency": "USD"}',
            Charge(
                segments=2, price=Decimal("0.01"), amount=Decimal("0.02"), currency="USD"
            ),
        ),
        (
            '{"pay": 0.30000000000000004, "price": 0.1, "chargeCnt": "3"}',
            Charge(segments=3, price=Decimal("0.1"), amount=Decimal("0.30000000000000004")),
        ),
        (
            '{"pay ": "1", "price": "0.4", "chargeCnt": 2, "currency": ""}',
            Charge(segments=2, price=Decimal("0.4"), amount=Decimal(1)),
        ),
        ('{"pay": 1.0E-4, "chargeCnt": null}', Charge(amount=Decimal("0.00010"))),
        ('{"pay": "", "currency": null}', None),
        ("{}", None),
        ("null", None),
        ('""', None),
    ],
)  # fmt: skip
def test_charge_is_kept_to_the_last_digit_and_never_corrected(
    account: Account, detail: str, charge: Charge | None
) -> None:
    body = f'{{"msgid": "1", "mobile": "1", "status": 0, "pricedetail": {detail}}}'.encode()
    parsed = GATEWAY.parse_callback(
        Callback(method="POST", query=b"", headers={}, body=body), account
    )
    (report,) = parsed.events
    assert isinstance(report, DeliveryReport)
    assert (report.charge, parsed.problems) == (charge, ())


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *(("pay", value) for value in ("free", "NaN", "1e99", True, [], "0.1.2", "9" * 40)),
        *(("chargeCnt", value) for value in (-1, 1.5, "two", 10**9, {})),
        *(("currency", value) for value in (["USD"], "U" * 17)),
    ],
)
def test_a_part_of_the_charge_that_cannot_be_read_is_a_problem_and_the_report_counts(
    account: Account, part: str, value: Any
) -> None:
    parsed = _pushed(account, pricedetail={"price": "0.01", part: value})
    (report,) = parsed.events
    assert isinstance(report, DeliveryReport)
    assert report.status is Status.DELIVERED
    assert report.charge == Charge(price=Decimal("0.01"))
    assert [problem.partition(" ")[0].rstrip(":") for problem in parsed.problems] == [part]


def test_an_inbound_message_is_told_from_a_report_by_its_fields(account: Account) -> None:
    body = {"msgid": 7, "mobile": "+91 856321413", "content": "STOP", "reply_time": None}
    callback = Callback(method="POST", query=b"", headers={}, body=json.dumps(body).encode())
    assert GATEWAY.parse_callback(callback, account).events == (
        InboundMessage(
            phone="91856321413", content="STOP", sent_at=None, vendor_message_id="7"
        ),
    )  # fmt: skip
    with_status = {**body, "status": 0}
    callback = Callback(method="POST", query=b"", headers={}, body=json.dumps(with_status).encode())
    (event,) = GATEWAY.parse_callback(callback, account).events
    assert isinstance(event, DeliveryReport)


# --- replies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [-1, "-1", "-3", "-10", "-16", "-26", "-32", "1"])
@pytest.mark.parametrize("call", [Call.SEND, Call.QUERY_STATUS, Call.QUERY_BALANCE])
def test_any_status_but_0_is_a_refusal(account: Account, call: Call, code: int | str) -> None:
    with pytest.raises(Refused) as refused:
        _replied(account, call, {"status": code, "reason": "认证错误"})
    assert (refused.value.code, refused.value.words) == (str(code), "认证错误")


@pytest.mark.parametrize("code", sorted(codes.UNDECIDED))
def test_the_vendors_own_failure_leaves_a_send_open_and_a_query_refused(
    account: Account, code: str
) -> None:
    with pytest.raises(Indeterminate):
        _replied(account, Call.SEND, {"status": code, "reason": "端口程序异常"})
    with pytest.raises(Refused):
        _replied(account, Call.QUERY_STATUS, {"status": code, "reason": "端口程序异常"})


@pytest.mark.parametrize("array", [None, [], "", {}])
def test_nothing_in_the_array_of_a_refusal_hides_it(account: Account, array: Any) -> None:
    with pytest.raises(Refused):
        _replied(account, Call.SEND, {"status": "-10", "reason": ["low"], "array": array})


def test_what_was_taken_counts_whatever_the_status_says(account: Account) -> None:
    array = [{"msgId": "1", "number": "8613800138000", "orderId": REFERENCE}]
    parsed = _replied(account, Call.SEND, {"status": "-18", "fail": "9" * 20, "array": array})
    assert parsed.events == (Accepted(vendor_message_id="1", phone="13800138000"),)
    assert parsed.problems == (
        "some numbers were taken although status says no",
        "fail is no count",
    )


def test_a_reply_to_a_call_of_other_vendors_is_garbled(account: Account) -> None:
    with pytest.raises(Garbled, match="pull_reports"):
        _replied(account, Call.PULL_REPORTS, {"status": "0"})


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2021-02-12T09:30:03+08:00", datetime(2021, 2, 12, 1, 30, 3, tzinfo=UTC)),
        ("2021-02-12T09:30:03.5+0530", datetime(2021, 2, 12, 4, 0, 3, 500_000, UTC)),
        ("2021-02-12T01:30:03Z", datetime(2021, 2, 12, 1, 30, 3, tzinfo=UTC)),
        ("2021-02-12 09:30:03", datetime(2021, 2, 12, 1, 30, 3, tzinfo=UTC)),
        ("0000-00-00 00:00:00", None),
        ("", None),
    ],
)
def test_times_are_iso_8601_and_of_the_accounts_zone_without_an_offset(
    account: Account, text: str, at: datetime | None
) -> None:
    row = {"msgId": "1", "number": "1", "receiveTime": text, "status": "0"}
    parsed = _replied(account, Call.QUERY_STATUS, {"status": "0", "array": [row]})
    (event,) = parsed.events
    assert isinstance(event, DeliveryReport)
    assert (event.reported_at, parsed.problems) == (at, ())


# --- requests ----------------------------------------------------------------------------------------


@asynccontextmanager
async def _calling(
    account: Account, *answers: httpx.Response | Exception
) -> AsyncIterator[tuple[ItniotechClient, list[httpx.Request]]]:
    seen: list[httpx.Request] = []
    waiting = iter(answers or (httpx.Response(200, json={"status": "0"}),))

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answered = next(waiting)
        if isinstance(answered, Exception):
            raise answered
        return answered

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        yield ItniotechClient(account, Transport(http, 1000)), seen


def _own(account_at: Callable[..., Account], base_url: str = "", **options: Any) -> Account:
    """The account of the vendor's examples."""
    made = account_at("itniotech", base_url, **options)
    credentials = msgspec.convert(
        {"api_key": "bDqJFiq9", "api_secret": "7bz1lzh9", "app_id": "4luaKsL2"},
        GATEWAY.credentials,
        dec_hook=lambda secret, text: secret(text),
    )
    return Account(
        name=made.name,
        gateway=made.gateway,
        base_url=made.base_url,
        zone=made.zone,
        credentials=credentials,
        options=made.options,
    )


def _to(*numbers: str, content: str | None = "hello world", **more: Any) -> Outgoing:
    return Outgoing(
        phone=numbers[0], number=numbers[-1], reference=REFERENCE, content=content, **more
    )


BATCH = Batch(
    messages=(
        msgspec.structs.replace(_to("91856321412"), reference="21412"),
        msgspec.structs.replace(_to("91856321413", "+91 856 321 413"), reference="21413"),
    )
)
NOW = pytest.mark.usefixtures("at_1630468800")
SIGNED = {
    "sign": "05d7a50893e22a5c4bb3216ae3396c7c",
    "timestamp": "1630468800",
    "api-key": "bDqJFiq9",
    "content-type": "application/json;charset=UTF-8",
}


@pytest.fixture
def at_1630468800(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateways.itniotech.client.time", lambda: 1630468800.9)


@NOW
@pytest.mark.anyio
async def test_send_by_post_is_the_request_of_the_page(account_at: Callable[..., Account]) -> None:
    async with _calling(_own(account_at, sender_id="123")) as (client, seen):
        reply = await client.send(BATCH)
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", "https://api.itniotech.com/sms/sendSms")
    assert SIGNED.items() <= dict(request.headers).items()
    body = (CAPTURED / "document_send_request.http").read_bytes().split(b"\n\n", 1)[1]
    assert json.loads(request.content) == json.loads(body)
    assert reply.call is Call.SEND


@NOW
@pytest.mark.anyio
async def test_send_by_get_is_the_request_of_the_page(account_at: Callable[..., Account]) -> None:
    account = _own(account_at, sender_id="123", send_method="get")
    async with _calling(account) as (client, seen):
        assert client.numbers_per_send == 100
        await client.send(BATCH)
    (request,) = seen
    assert request.method == "GET"
    assert SIGNED.items() <= dict(request.headers).items()
    page = (
        "https://api.itniotech.com/sms/sendSms?appId=4luaKsL2&numbers=91856321412,91856321413"
        "&content=hello%20world&senderId=123&orderId=21412,21413"
    )
    assert request.url.path == httpx.URL(page).path
    assert dict(request.url.params) == dict(httpx.URL(page).params)
    assert request.content == b""


@NOW
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("ask", "url"),
    [
        (
            lambda client: client.query_status(["2108021054011000095", "2108021059531000096"]),
            "getReport?appId=4luaKsL2&msgIds=2108021054011000095,2108021059531000096",
        ),
        (
            lambda client: client.list_sent(START, END, 0),
            "getSentRcd?appId=4luaKsL2&startTime=2021-02-12T00%3A00%3A00%2B08%3A00"
            "&endTime=2021-02-12T23%3A59%3A59%2B08%3A00&startIndex=0",
        ),
        (lambda client: client.query_balance(), "getBalance"),
    ],
)
async def test_queries_are_the_requests_of_the_pages(
    account_at: Callable[..., Account], ask: Any, url: str
) -> None:
    async with _calling(_own(account_at)) as (client, seen):
        await ask(client)
    (request,) = seen
    assert request.method == "GET"
    assert SIGNED.items() <= dict(request.headers).items()
    assert request.url.path == f"/sms/{url.partition('?')[0]}"
    query = dict(parse_qsl(request.url.query.decode(), strict_parsing=bool(request.url.query)))
    assert query == dict(parse_qsl(url.partition("?")[2]))
    assert "+" not in request.url.query.decode()


@NOW
@pytest.mark.anyio
async def test_list_of_inbound_messages_is_the_request_of_the_page(
    account_at: Callable[..., Account],
) -> None:
    start = datetime(2022, 7, 31, 16, tzinfo=UTC)
    async with _calling(_own(account_at)) as (client, seen):
        await client.list_inbound(start, start + timedelta(days=30), 1)
        assert client.inbound_per_list == 100
    (request,) = seen
    assert (request.method, request.url.path) == ("POST", "/sms/recordMo")
    assert json.loads(request.content) == {
        "appId": "4luaKsL2",
        "current": 1,
        "size": 100,
        "params": {
            "strTime": "2022-08-01T00:00:00+08:00",
            "endTime": "2022-08-31T00:00:00+08:00",
        },
    }


@pytest.mark.anyio
@pytest.mark.parametrize("send_method", ["get", "post"])
async def test_what_cannot_be_written_is_not_sent(
    account_at: Callable[..., Account], send_method: str
) -> None:
    account = account_at("itniotech", send_method=send_method)
    async with _calling(account) as (client, seen):
        with pytest.raises(Unavailable):
            await client.send(Batch(messages=(_to("91856321412", content="\ud83d"),)))
    assert seen == []


@pytest.mark.anyio
async def test_a_list_ends_no_earlier_than_asked_for(account: Account) -> None:
    async with _calling(account) as (client, seen):
        part = timedelta(microseconds=1)
        await client.list_sent(START + part, END + part, 50_000)
    params = seen[0].url.params
    assert params["startTime"] == "2021-02-12T00:00:00+08:00"
    assert params["endTime"] == "2021-02-13T00:00:00+08:00"
    assert params["startIndex"] == "50000"


@pytest.mark.anyio
async def test_every_attempt_is_signed_for_its_own_time(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((1630468800.0, 1630468899.0))
    monkeypatch.setattr("gateways.itniotech.client.time", lambda: next(clock))
    again = httpx.Response(503, headers={"retry-after": "0"})
    async with _calling(account, again, httpx.Response(200, json={})) as (client, seen):
        await client.query_balance()
    assert [request.headers["timestamp"] for request in seen] == ["1630468800", "1630468899"]
    assert seen[0].headers["sign"] != seen[1].headers["sign"]


@pytest.mark.anyio
@pytest.mark.parametrize("send_method", ["get", "post"])
async def test_a_send_that_left_is_never_repeated(
    account_at: Callable[..., Account], send_method: str
) -> None:
    account = account_at("itniotech", send_method=send_method)
    for lost in (httpx.ReadTimeout("no reply"), httpx.Response(500), httpx.Response(502)):
        async with _calling(account, lost) as (client, seen):
            with pytest.raises(Indeterminate):
                await client.send(BATCH)
        assert len(seen) == 1


@pytest.mark.anyio
async def test_a_send_that_was_put_off_is_tried_again(account: Account) -> None:
    put_off = [httpx.Response(429, headers={"retry-after": "0"}) for _ in range(3)]
    async with _calling(account, *put_off) as (client, seen):
        with pytest.raises(Unavailable):
            await client.send(BATCH)
    assert len(seen) == 3


@pytest.mark.anyio
async def test_a_text_goes_behind_its_sign_to_numbers_with_a_country_code(account: Account) -> None:
    messages = (_to("13800138000"), _to("14155550100", "+1 (415) 555-0100"))
    async with _calling(account) as (client, seen):
        await client.send(Batch(messages=messages, sign="顶想云"))
    sent = json.loads(seen[0].content)
    assert sent["numbers"] == "8613800138000,14155550100"
    assert sent["content"] == "【顶想云】hello world"
    assert "senderId" not in sent


@pytest.mark.anyio
async def test_a_twin_is_another_address_and_path(account_at: Callable[..., Account]) -> None:
    twin = account_at("itniotech", "https://api.laaffic.com/", api_path="v3/")
    async with _calling(twin) as (client, seen):
        await client.query_balance()
    assert str(seen[0].url) == "https://api.laaffic.com/v3/getBalance"


@pytest.mark.anyio
async def test_what_it_offers_and_how_much_at_once(account: Account) -> None:
    async with _calling(account) as (client, _):
        assert (client.numbers_per_send, client.texts_per_send) == (1000, 1)
        assert (client.ids_per_query, client.rows_per_list, client.days_per_list) == (
            200,
            50_000,
            28,
        )
        with pytest.raises(Unsupported):
            await client.pull_reports(1)
    assert GATEWAY.supports == {
        "send",
        "query_status",
        "list_sent",
        "list_inbound",
        "query_balance",
    }
    assert GATEWAY.rule(account) is Rule.INTERNATIONAL


@pytest.mark.parametrize("sender_id", ["s" * 33, 5])
def test_a_sender_id_has_at_most_32_characters(sender_id: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"sender_id": sender_id}, Options)


# --- what can be sent --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "problems"),
    [
        (Batch(messages=(_to("1"),)), ()),
        (Batch(messages=(_to("1"), _to("2", content="other")), personal=True), ()),
        (Batch(messages=(_to("1", content="x" * 1024),)), ()),
        (Batch(messages=(_to("1", content="x" * 1020),), sign="ab"), ()),
        (
            Batch(messages=(_to("1", content="x" * 1021),), sign="ab"),
            ("content with its sign has more than 1024 characters",),
        ),
        (Batch(messages=(_to("1", content=None),)), ("content is missing",)),
        (Batch(messages=(_to("1"), _to("2", content=" ")), personal=True), ("content is missing",)),
        (
            Batch(messages=(_to("1"),), template_id="7"),
            ("the vendor has no templates: give content",),
        ),
        (
            Batch(messages=(_to("1", params={"code": "1"}),)),
            ("the vendor has no templates: give content",),
        ),
        (
            Batch(messages=(_to("1"),), send_at=START),
            ("the vendor sends at once only: send_at cannot be given",),
        ),
    ],
)
def test_what_cannot_be_sent_is_said_before(
    account: Account, batch: Batch, problems: tuple[str, ...]
) -> None:
    assert GATEWAY.check_send is not None
    assert GATEWAY.check_send(batch, account) == problems


# --- against the vendor's stand-in, which was written from the same pages and shares nothing ---------


@dataclass
class Played:
    """An account at a running sandbox, and what it pushed."""

    account: Account
    client: ItniotechClient
    sandbox: Running
    pushes: list[bytes]

    async def ask(self, reply: Awaitable[Reply]) -> Parsed:
        return GATEWAY.parse_reply(await reply, self.account)

    def parsed_pushes(self) -> list[Parsed]:
        return [
            GATEWAY.parse_callback(
                Callback(method="POST", query=b"", headers={}, body=body), self.account
            )
            for body in self.pushes
        ]


@asynccontextmanager
async def _playing(
    account_at: Callable[..., Account], *, vendor: dict[str, Any], **options: Any
) -> AsyncIterator[Played]:
    pushes: list[bytes] = []

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        pushes.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    # The credentials of `account_at`.
    spoken = {name: f"s3cret-{name}" for name in ("api_key", "api_secret", "app_id")}
    played = ItniotechAccount(
        **{**spoken, "callback_url": f"http://127.0.0.1:{port}/callbacks/x/y", **vendor}
    )
    config = Config(
        port=0,
        hold_pushes=True,
        strict=True,
        outcomes=Outcomes(failed=0.3, never_final=0.1),
        itniotech=ItniotechConfig({"main": played}),
    )
    async with server, running(config) as sandbox, httpx.AsyncClient() as http:
        account = account_at("itniotech", sandbox.base_url("itniotech"), **options)
        yield Played(account, ItniotechClient(account, Transport(http, 1000)), sandbox, pushes)
        assert sandbox.sandbox.world.violations == []


def _many(
    number: int, content: str = "Your code is 1234, valid for 5 minutes & more: 100%+"
) -> Batch:
    return Batch(
        messages=tuple(
            Outgoing(
                phone=f"9185632{n:05}",
                number=f"+91 85632{n:05}",
                reference=f"{n:032x}",
                content=content,
            )
            for n in range(number)
        )
    )


WORDS = {"delivered": Status.DELIVERED, "failed": Status.FAILED}


@pytest.mark.anyio
@pytest.mark.parametrize("send_method", ["get", "post"])
async def test_what_is_sent_is_taken_as_it_was_written(
    account_at: Callable[..., Account], send_method: str
) -> None:
    async with _playing(account_at, vendor={}, send_method=send_method) as it:
        batch = _many(it.client.numbers_per_send)
        parsed = await it.ask(it.client.send(batch))
        assert parsed.problems == ()
        rows = it.sandbox.truth("message")
        taken = {row["vendor_message_id"]: row["phone"] for row in rows}
        assert {
            event.vendor_message_id: event.phone
            for event in parsed.events
            if isinstance(event, Accepted)
        } == taken
        assert set(taken.values()) == {one.phone for one in batch.messages}
        assert {row["content"] for row in rows} == {batch.messages[0].content}


@pytest.mark.anyio
@pytest.mark.parametrize("published_style", [0.0, 1.0])
async def test_every_way_of_learning_a_state_tells_the_same(
    account_at: Callable[..., Account], published_style: float
) -> None:
    vendor = {"published_style": published_style, "list_rows": 40, "push_timestamp": "reported"}
    async with _playing(account_at, vendor=vendor, push_timestamp="reported") as it:
        client = it.client
        batch = _many(100)
        sent = await it.ask(client.send(batch))
        ids = [event.vendor_message_id for event in sent.events if isinstance(event, Accepted)]
        assert (await it.ask(client.query_status(ids))).events == ()
        await it.sandbox.release()
        truth = {
            row["vendor_message_id"]: (
                row["phone"],
                WORDS.get(row["status"], Status.PENDING),
                row["reported_at"],
            )
            for row in it.sandbox.truth("message")
        }
        assert {state[1] for state in truth.values()} == {*WORDS.values(), Status.PENDING}

        def states(*pages: Parsed) -> dict[str, Any]:
            found = {}
            for page in pages:
                assert page.problems == ()
                for event in page.events:
                    assert isinstance(event, DeliveryReport)
                    found[event.vendor_message_id] = (
                        event.phone,
                        event.status,
                        event.reported_at,
                    )
            return found

        ended = {id: state for id, state in truth.items() if state[1] is not Status.PENDING}
        assert states(await it.ask(client.query_status(ids))) == truth
        now = datetime.now(UTC)
        hour = timedelta(hours=1)
        pages = [
            await it.ask(client.list_sent(now - hour, now, index)) for index in (0, 40, 80, 120)
        ]
        assert sum(page.rows for page in pages) == len(ended)
        assert states(*pages) == ended
        pushed = it.parsed_pushes()
        assert states(*pushed) == ended
        references = {one.phone: one.reference for one in batch.messages}
        for (report,) in (parsed.events for parsed in pushed):
            assert isinstance(report, DeliveryReport)
            assert report.reference == references[report.phone]
            assert report.charge == Charge(
                segments=1, price=Decimal("0.01"), amount=Decimal("0.01"), currency="USD"
            )


@pytest.mark.anyio
async def test_the_stand_in_counts_segments_as_we_do(account_at: Callable[..., Account]) -> None:
    texts = ("x" * 160, "x" * 161, "€" * 80, "€" * 81, "字" * 71, "x" * 152 + "€" + "x" * 152)
    async with _playing(account_at, vendor={}) as it:
        for text in texts:
            await it.ask(it.client.send(_many(1, text)))
        truth = {row["content"]: row["segments"] for row in it.sandbox.truth("message")}
    assert truth == {text: count(text, rule=GATEWAY.rule(it.account)) for text in texts}


@pytest.mark.anyio
async def test_inbound_messages_come_by_push_and_by_list(
    account_at: Callable[..., Account],
) -> None:
    at = datetime(2026, 10, 3, 2, tzinfo=UTC)
    async with _playing(account_at, vendor={}) as it:
        world = it.sandbox.sandbox
        for n in range(103):
            world.deliveries.receive_inbound(
                world.itniotech,
                "main",
                phone=f"9185632{n:05}",
                content="STOP 停",
                extno="123",
                vendor_message_id="",
                received_at=at,
            )
        await it.sandbox.release()
        pages = [
            await it.ask(it.client.list_inbound(at - timedelta(days=28), at, page))
            for page in (1, 2)
        ]
        assert [page.rows for page in pages] == [it.client.inbound_per_list, 3]

        def told(*pages: Parsed) -> set[tuple[Any, ...]]:
            return {
                (event.phone, event.content, event.sent_at, event.extension)
                for page in pages
                for event in page.events
                if isinstance(event, InboundMessage)
            }

        assert told(*pages) == told(*it.parsed_pushes())
        assert len(told(*pages)) == 103


@pytest.mark.anyio
async def test_balance_is_what_is_left(account_at: Callable[..., Account]) -> None:
    vendor = {"balance": Decimal("0.05"), "gift": Decimal("0.005"), "credit": Decimal("0.1")}
    async with _playing(account_at, vendor=vendor) as it:
        await it.ask(it.client.send(_many(7)))
        parsed = await it.ask(it.client.query_balance())
        assert parsed.events == (
            Balance(kind="balance", amount=Decimal("-0.02")),
            Balance(kind="gift", amount=Decimal("0.005")),
            Balance(kind="credit", amount=Decimal("0.1")),
        )
        with pytest.raises(Refused) as refused:
            await it.ask(it.client.send(_many(9)))
        assert refused.value.code == "-10"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("vendor", "code"),
    [
        ({"api_secret": "other"}, "-1"),
        ({"api_key": "other"}, "-1"),
        ({"app_id": "other"}, "-32"),
        ({"always": "-13"}, "-13"),
        ({"sensitive_words": ("code",)}, "-3"),
    ],
)
async def test_the_vendors_no_is_a_refusal(
    account_at: Callable[..., Account], vendor: dict[str, Any], code: str
) -> None:
    async with _playing(account_at, vendor=vendor) as it:
        with pytest.raises(Refused) as refused:
            await it.ask(it.client.send(_many(2)))
        assert refused.value.code == code
        assert it.sandbox.truth("message") == []


@pytest.mark.anyio
async def test_an_old_signature_is_refused(
    account_at: Callable[..., Account], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _playing(account_at, vendor={"skew_seconds": 60.0}) as it:
        late = datetime.now(UTC).timestamp() - 62
        monkeypatch.setattr("gateways.itniotech.client.time", lambda: late)
        with pytest.raises(Refused) as refused:
            await it.ask(it.client.query_balance())
        assert refused.value.code == "-16"


@pytest.mark.anyio
async def test_numbers_that_were_not_taken_are_counted(account_at: Callable[..., Account]) -> None:
    async with _playing(account_at, vendor={}) as it:
        batch = _many(2)
        strange = msgspec.structs.replace(batch.messages[0], number="12", phone="12")
        parsed = await it.ask(it.client.send(Batch(messages=(strange, batch.messages[1]))))
        assert [event.phone for event in parsed.events if isinstance(event, Accepted)] == [
            batch.messages[1].phone
        ]
        assert parsed.problems == ("numbers not taken, which the vendor does not name: 1",)
