"""1cloudsp: its codes and ids, what it would not take, and the requests of its page."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways.errors import Indeterminate, Malformed, Refused, Unavailable
from gateways.events import Accepted, Balance, DeliveryReport, InboundMessage, Status
from gateways.gateway import Account, Batch, Call, Callback, Outgoing, Reply
from gateways.http import Transport
from gateways.onecloudsp import GATEWAY, sending
from gateways.onecloudsp.client import OneCloudSpClient
from gateways.onecloudsp.codes import REFUSALS
from gateways.segments import Rule
from sandbox import Config, Running, running
from sandbox.config import OneCloudSpConfig
from sandbox.onecloudsp import OneCloudSpAccount, Sign, Template
from sandbox.settings import Faults, Outcomes

UUID = "52015_1_0_13900000000_1_oTm1qY8_1"
ROW = {"smUuid": UUID, "mobile": "13900000000", "deliverResult": "DELIVRD"}
CREDENTIALS = {"accesskey": "s3cret-access_key", "secret": "s3cret-secret"}
ABROAD = {"market": "international"}


@pytest.fixture
def account(account_at: Callable[..., Account]) -> Account:
    return account_at("onecloudsp")


@pytest.fixture
def abroad(account_at: Callable[..., Account]) -> Account:
    return account_at("onecloudsp", **ABROAD)


def _reply(account: Account, document: Any, call: Call = Call.PULL_REPORTS) -> Any:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return GATEWAY.parse_reply(Reply(call=call, headers={}, body=body), account)


def _one(account: Account, **row: Any) -> Any:
    (event,) = _reply(account, {"code": "0", "data": [{**ROW, **row}]}).events
    return event


def outgoing(
    number: str,
    *,
    content: str | None = None,
    params: Mapping[str, str] | Sequence[str] | None = None,
) -> Outgoing:
    phone = number.removeprefix("+").removeprefix("86")
    return Outgoing(phone=phone, number=number, reference="0" * 32, content=content, params=params)


def batch(*messages: Outgoing, **changes: Any) -> Batch:
    return Batch(**{"messages": messages, "sign": "创瑞", "template_id": "100", **changes})


# --- reports -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "meaning"),
    [
        ("DELIVRD", Status.DELIVERED),
        ("delivrd", Status.DELIVERED),
        ("REJECT", Status.FAILED),
        ("BLACK", Status.FAILED),
        ("UNDELIV", Status.FAILED),
        ("EXPIRED", Status.FAILED),
        ("REJECTD", Status.FAILED),
        ("DELETED", Status.FAILED),
        ("CA:0051", Status.FAILED),
        ("MK:0011", Status.FAILED),
        ("db:0103", Status.FAILED),
        ("ENROUTE", Status.PENDING),
        ("ACCEPTD", Status.PENDING),
        ("MK:0000", Status.UNKNOWN),
        ("CA:00513", Status.UNKNOWN),
        ("UNKNOWN", Status.UNKNOWN),
        ("0", Status.UNKNOWN),
        (0, Status.UNKNOWN),
    ],
)
def test_report_status(account: Account, result: Any, meaning: Status) -> None:
    event = _one(account, deliverResult=result)
    assert (event.status, event.vendor_code) == (meaning, str(result))


@pytest.mark.parametrize(
    ("batch_id", "uuid", "ids"),
    [
        ("oTm1qY8", UUID, ("oTm1qY8", UUID)),
        ("77", UUID, ("77", UUID, "oTm1qY8")),
        (77, None, ("77",)),
        (UUID, UUID, (UUID, "oTm1qY8")),
        ("", UUID, (UUID, "oTm1qY8")),
        (None, "xxx", ("xxx",)),
        (None, UUID + "_1", (UUID + "_1",)),
        (None, "52015_1_0_13900000000_1__1", ("52015_1_0_13900000000_1__1",)),
        (None, "52015_1_0_13900000009_1_oTm1qY8_1", ("52015_1_0_13900000009_1_oTm1qY8_1",)),
    ],
)
def test_a_report_names_every_id_its_message_may_have(
    account: Account, batch_id: Any, uuid: Any, ids: tuple[str, ...]
) -> None:
    event = _one(account, batchId=batch_id, smUuid=uuid)
    assert (event.vendor_message_id, *event.also) == ids


@pytest.mark.parametrize(
    "row",
    ["text", 7, None, [], {"mobile": {}}, {**ROW, "smUuid": "x" * 129}, {**ROW, "smUuid": 1 > 0}],
)
def test_a_row_that_is_none_sinks_no_others(account: Account, row: Any) -> None:
    parsed = _reply(account, {"code": "0", "data": [row, ROW]})
    assert (parsed.rows, len(parsed.events), len(parsed.problems)) == (2, 1, 1)


@pytest.mark.parametrize(
    "document",
    [{"code": "0"}, {"code": 0, "data": ""}, {"data": []}, {"code": " 0 ", "data": None}, []],
)
def test_nothing_waiting_is_no_rows(account: Account, document: Any) -> None:
    assert _reply(account, document).rows == 0


def test_a_page_cut_anywhere_keeps_every_whole_row(account: Account) -> None:
    whole = json.dumps({"code": "0", "msg": "SUCCESS", "data": [ROW, ROW, ROW]}).encode()
    for end in range(whole.index(b"}") + 1, len(whole)):
        parsed = _reply(account, whole[:end])
        assert len(parsed.events) == parsed.rows == min(whole[:end].count(b"}"), 3)
        assert len(parsed.problems) == 1


def test_too_many_fields_are_malformed(account: Account) -> None:
    callback = Callback(method="POST", query=b"", headers={}, body=b"a=1&" * 201)
    with pytest.raises(Malformed, match="too many fields"):
        GATEWAY.parse_callback(callback, account)


# --- replies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["9006", 9006, "-1", "00"])
@pytest.mark.parametrize("call", [Call.SEND, Call.QUERY_BALANCE, Call.PULL_REPORTS])
def test_any_code_but_0_is_a_refusal(account: Account, code: Any, call: Call) -> None:
    with pytest.raises(Refused) as refused:
        _reply(account, {"code": code, "msg": "no", "batchId": "1", "a": 1}, call)
    assert (refused.value.code, refused.value.words) == (str(code), "no")


def test_a_refusal_without_words_gets_those_of_the_table(account: Account) -> None:
    for code, words in REFUSALS.items():
        with pytest.raises(Refused) as refused:
            _reply(account, {"code": code, "msg": ""}, Call.SEND)
        assert refused.value.words == words


@pytest.mark.parametrize("answer", [{"batchId": ""}, {"smUuid": None}, {}])
def test_what_was_taken_without_an_id_is_never_taken_for_refused(
    account: Account, answer: dict[str, Any]
) -> None:
    with pytest.raises(Indeterminate):
        _reply(account, {"code": "0", **answer}, Call.SEND)


@pytest.mark.parametrize("value", [1, "1", "1.00", 1.0, " 1 ", "+1"])
def test_a_balance_is_read_however_it_is_written(account: Account, value: Any) -> None:
    (event,) = _reply(account, {"data": {"国际短信": value}}, Call.QUERY_BALANCE).events
    assert (event.kind, event.amount, event.currency) == ("国际短信", Decimal(1), None)


@pytest.mark.parametrize("value", [True, None, "", "一", "1,000", "NaN", 1e300, [], {}])
def test_a_balance_that_is_no_number_is_a_problem(account: Account, value: Any) -> None:
    parsed = _reply(account, {"data": {"a": value, "b": 1}}, Call.QUERY_BALANCE)
    assert [event.kind for event in parsed.events] == ["b"]
    assert parsed.problems == ("row 1: the amount is no number",)


# --- sending -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sign": None}, "sign is missing"),
        ({"messages": (outgoing("+447700900123", params=["8899"]),)}, "a number is abroad"),
    ],
)
def test_what_a_domestic_send_needs(
    account_at: Callable[..., Account], wrong: dict[str, Any], said: str
) -> None:
    account = account_at("onecloudsp", market="domestic")
    good = batch(outgoing("13900000000", params=["8899"]))
    assert GATEWAY.check_send is not None
    assert GATEWAY.check_send(good, account) == ()
    text = batch(outgoing("13900000000", content="您好"), template_id=None)
    assert GATEWAY.check_send(text, account) == ()
    messages = wrong.pop("messages", good.messages)
    (sentence,) = GATEWAY.check_send(batch(*messages, **wrong), account)
    assert sentence.startswith(said)
    (sentence,) = GATEWAY.check_send(batch(outgoing("13900000000", content="8899")), account)
    assert sentence.startswith("params are missing")


@pytest.mark.parametrize(
    ("numbers", "given", "goes"),
    [
        (["13900000000"], {}, False),
        (["13900000000"], {"template_id": None}, False),
        (["13900000000"], {"sign": None, "template_id": None}, True),
        (["+447700900123"], {}, True),
        (["+13900000000"], {}, True),
        (["+8613900000000"], {}, False),
    ],
)
def test_without_a_market_a_request_goes_where_it_can(
    account: Account, numbers: list[str], given: dict[str, Any], goes: bool
) -> None:
    messages = [outgoing(number, params=["8899"]) for number in numbers]
    assert sending.goes_abroad(batch(*messages, **given), account) is goes
    assert sending.check_send(batch(*messages, **given), account) == ()


def test_both_markets_in_one_request_are_refused(account: Account) -> None:
    both = [outgoing(number, params=["1"]) for number in ("13900000000", "+447700900123")]
    (sentence,) = sending.check_send(batch(*both), account)
    assert sentence.startswith("there are numbers of the mainland and abroad")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("base_url", "more", "host"),
    [
        ("", {}, "intlapi.1cloudsp.com"),
        ("https://sms.example.com", {}, "sms.example.com"),
        ("", {"international_url": "https://abroad.example.com"}, "abroad.example.com"),
    ],
)
async def test_the_international_host_is_that_of_the_account(
    account_at: Callable[..., Account], base_url: str, more: dict[str, Any], host: str
) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(200, json={"code": "0", "batchId": "b"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = GATEWAY.client(account_at("onecloudsp", base_url, **more), Transport(http, 1000))
        await client.send(batch(outgoing("+447700900123", content="Hi"), template_id=None))
    assert asked == [host]


def test_what_an_international_send_needs(abroad: Account) -> None:
    text = outgoing("+447700900123", content="Hello")
    plain: dict[str, Any] = {"sign": None, "template_id": None}
    assert sending.check_send(batch(text, **plain), abroad) == ()
    assert sending.check_send(batch(outgoing("+44", params=["a"]), **plain), abroad) == ()
    (sentence,) = sending.check_send(batch(outgoing("+44"), **plain), abroad)
    assert sentence == "there is neither content nor params"
    (sentence,) = sending.check_send(batch(text), abroad)
    assert sentence.startswith("params are missing")


@pytest.mark.parametrize("params", [["a##b"], ["$$"], ["a#", "b"], {"x": "1", "y": "$$2"}])
def test_variables_that_the_vendor_would_part_elsewhere_are_refused(
    account: Account, abroad: Account, params: Any
) -> None:
    (sentence,) = sending.check_send(batch(outgoing("13900000000", params=params)), account)
    assert "holds ## or $$" in sentence
    text = batch(outgoing("+44", content="a##b"), sign=None, template_id=None)
    assert len(sending.check_send(text, abroad)) == 1


@given(st.lists(st.text("a#$", max_size=4), min_size=1, max_size=4))
def test_what_passes_the_check_can_be_parted_again(params: list[str]) -> None:
    message = outgoing("13900000000", params=params)
    joined = sending.content(message)
    parted = [part for half in joined.split("##") for part in half.split("$$")]
    assert sending._comes_apart(message) == (parted == params)


@pytest.mark.parametrize(
    ("text", "params", "filled"),
    [
        ("{1}您好,单号{2}", ["先生", "12"], "先生您好,单号12"),
        ("{2}{1}{2}", {"2": "b", "1": "a"}, "bab"),
        ("{1}-{2}", {"name": "a", "at": "{1}"}, "a-{1}"),
        ("没有变量", [], "没有变量"),
        ("{1}", [], None),
        ("{1}", ["a", "b"], None),
        ("{1}{3}", ["a", "b"], None),
        ("{0}", ["a"], None),
    ],
)
def test_a_template_is_filled_by_number(text: str, params: Any, filled: str | None) -> None:
    assert sending.fill(text, params) == filled


def test_rule_is_that_of_the_market(account: Account, abroad: Account) -> None:
    assert (GATEWAY.rule(account), GATEWAY.rule(abroad)) == (Rule.DOMESTIC, Rule.INTERNATIONAL)


async def _asked(account: Account, ask: Callable[[OneCloudSpClient], Any]) -> httpx.Request:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"{}", headers={"X-A": "b"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        reply = await ask(OneCloudSpClient(account, Transport(http, 1000)))
    assert (reply.body, reply.headers["x-a"]) == (b"{}", "b")
    (request,) = seen
    assert request.method == "POST"
    assert "s3cret" not in str(request.url)
    assert "s3cret" not in str(request.headers)
    return request


def _fields(request: httpx.Request) -> dict[str, str]:
    return dict(parse_qsl(request.content.decode("ascii"), strict_parsing=True))


@pytest.mark.anyio
async def test_international_send_is_that_of_the_page(abroad: Account) -> None:
    variables = ["先生", "9:40", "快递公司", "1234567"]
    messages = [outgoing(number, params=variables) for number in ("13900000001", "+8613900000002")]
    sent = batch(*messages, sign=None, template_id=None)
    request = await _asked(abroad, lambda client: client.send(sent))
    assert request.url == "http://intlapi.1cloudsp.com/intl/api/v2/send"
    assert _fields(request) == {
        **CREDENTIALS,
        "mobile": "8613900000001,8613900000002",
        "content": "先生##9:40##快递公司##1234567",
    }
    assert "%25" not in request.content.decode()  # encoded once, unlike the page's sample


@pytest.mark.anyio
async def test_personalised_send_is_that_of_the_page(account_at: Callable[..., Account]) -> None:
    sent = batch(
        outgoing("13700000000", params=["先生", "9:40", "快递公司", "1234567"]),
        outgoing("0086 137 0000 0001", params={"3": "物流公司", "1": "女士", "2": "10:10"}),
        personal=True,
        sign="123",
        send_at=datetime(2018, 1, 1, 10, tzinfo=UTC),
    )
    account = account_at("onecloudsp", **ABROAD, sender_id="ACME")
    fields = _fields(await _asked(account, lambda client: client.send(sent)))
    assert json.loads(fields.pop("data")) == {
        "8613700000000": "先生##9:40##快递公司##1234567",
        "8613700000001": "女士##10:10##物流公司",
    }
    assert fields == {
        **CREDENTIALS,
        "sign": "123",
        "templateId": "100",
        "scheduleSendTime": "2018-01-01 18:00:00",
        "senderId": "ACME",
    }


@pytest.mark.anyio
async def test_one_domestic_message_goes_by_the_single_send(account: Account) -> None:
    sent = batch(outgoing("+86 13900000001".replace(" ", ""), params=["8899"]), personal=True)
    request = await _asked(account, lambda client: client.send(sent))
    assert request.url == "http://api.1cloudsp.com/api/v2/single_send"
    assert _fields(request) == {
        **CREDENTIALS,
        "sign": "【创瑞】",
        "templateId": "100",
        "mobile": "13900000001",
        "content": "8899",
    }
    later = batch(*sent.messages, send_at=datetime(2018, 1, 1, 10, tzinfo=UTC))
    request = await _asked(account, lambda client: client.send(later))
    assert request.url == "http://api.1cloudsp.com/api/v2/send"
    assert _fields(request)["scheduleSendTime"] == "2018-01-01 18:00:00"


@pytest.mark.anyio
async def test_many_domestic_messages_go_by_the_batch_send(account: Account) -> None:
    messages = [outgoing(f"1390000000{last}", params=[str(last)]) for last in range(3)]
    request = await _asked(account, lambda client: client.send(batch(*messages)))
    assert request.url == "http://api.1cloudsp.com/api/v2/send"
    assert _fields(request)["mobile"] == "13900000000,13900000001,13900000002"
    request = await _asked(account, lambda client: client.send(batch(*messages, personal=True)))
    data = json.loads(_fields(request)["data"])
    assert data == {"13900000000": "0", "13900000001": "1", "13900000002": "2"}


@pytest.mark.anyio
async def test_what_the_documents_leave_open_is_an_option(
    account_at: Callable[..., Account],
) -> None:
    paths = {
        name: f"/{name}"
        for name in ("single_path", "batch_path", "report_path", "inbound_path", "balance_path")
    }
    account = account_at("onecloudsp", "https://sms.example.com/a/", **paths)
    one = outgoing("13900000000", params=["1"])
    two = outgoing("13900000001", params=["1"])
    asks: dict[str, Callable[[OneCloudSpClient], Any]] = {
        "single_path": lambda client: client.send(batch(one)),
        "batch_path": lambda client: client.send(batch(one, two)),
        "report_path": lambda client: client.pull_reports(0),
        "inbound_path": lambda client: client.pull_inbound(0),
        "balance_path": lambda client: client.query_balance(),
    }
    for name, ask in asks.items():
        request = await _asked(account, ask)
        assert request.url == f"https://sms.example.com/a/{name}"
        if "send" not in ask.__code__.co_names:
            assert _fields(request) == CREDENTIALS
    account = account_at(
        "onecloudsp", **ABROAD, international_url="https://intl.example.com", international_path="i"
    )
    request = await _asked(account, lambda client: client.send(batch(one)))
    assert request.url == "https://intl.example.com/i"


@pytest.mark.anyio
@pytest.mark.parametrize("status", [500, 502])
async def test_a_send_is_never_repeated_and_a_pull_that_failed_is(
    account: Account, status: int
) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        return httpx.Response(status)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = OneCloudSpClient(account, Transport(http, 1000, attempts=2))
        with pytest.raises(Indeterminate):
            await client.send(batch(outgoing("13900000000", params=["1"])))
        assert len(seen) == 1
        with pytest.raises(Unavailable if status == 500 else Indeterminate):
            await client.pull_reports(0)
        assert len(seen) == (3 if status == 500 else 2)
        with pytest.raises(Unavailable):
            await client.query_balance()


@pytest.mark.parametrize(
    "url", ["ftp://intl.example.com", "intl.example.com", "http://", "http://a?b"]
)
def test_the_international_host_is_an_address(url: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"international_url": url}, GATEWAY.options)


def test_what_it_offers() -> None:
    assert GATEWAY.supports == {"send", "query_balance", "pull_reports", "pull_inbound"}
    assert GATEWAY.methods == {"POST"}


# --- over real HTTP, to a vendor written from the same documents by somebody else --------------------


@contextlib.asynccontextmanager
async def played(
    account_at: Callable[..., Account], *, faults: Faults | None = None, **changes: Any
) -> AsyncIterator[tuple[Running, OneCloudSpClient, OneCloudSpClient]]:
    """Run the pretend vendor; give it, a domestic and an international client of one account."""
    account = OneCloudSpAccount(
        **{
            "access_key": CREDENTIALS["accesskey"],
            "secret": CREDENTIALS["secret"],
            "signs": (Sign(123, "创瑞"),),
            "templates": (
                Template(100, "{1}您好,您的订单于{2}已通过{3}发货"),
                Template(101, "您的验证码是{1}。"),
            ),
            **changes,
        }
    )
    config = Config(
        port=0,
        strict=True,
        hold_pushes=True,
        outcomes=Outcomes(failed=0.5, never_final=0.0),
        faults=faults or Faults(),
        onecloudsp=OneCloudSpConfig({"cloud-main": account}),
    )
    async with running(config) as vendor, httpx.AsyncClient() as http:
        url = vendor.base_url("onecloudsp")
        home = account_at("onecloudsp", url)
        abroad = account_at("onecloudsp", url, **ABROAD, international_url=url)
        clients = [OneCloudSpClient(each, Transport(http, 1000)) for each in (home, abroad)]
        yield vendor, clients[0], clients[1]


async def _accepted(client: OneCloudSpClient, sent: Batch) -> str:
    assert sending.check_send(sent, client.account) == ()
    (event,) = GATEWAY.parse_reply(await client.send(sent), client.account).events
    assert isinstance(event, Accepted)
    assert event.phone is None
    return event.vendor_message_id


async def _pulled(client: OneCloudSpClient, call: Call = Call.PULL_REPORTS) -> list[Any]:
    """Pull until nothing comes."""
    ask = client.pull_reports if call == Call.PULL_REPORTS else client.pull_inbound
    events: list[Any] = []
    while True:
        parsed = GATEWAY.parse_reply(await ask(client.pull_limit), client.account)
        assert parsed.problems == ()
        events += parsed.events
        if parsed.rows < max(client.pull_limit, 1):
            return events


@pytest.mark.anyio
async def test_the_sandbox_takes_every_kind_of_send(account_at: Callable[..., Account]) -> None:
    messages = [
        outgoing("13900000000", params=["先生", "9:40", "快递公司"]),
        outgoing("13900000001", params=["女士", "10:10", "物流公司"]),
    ]
    tomorrow = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    foreign = outgoing("+44 7700 900123", content="Hello")
    async with played(account_at) as (vendor, home, abroad):
        ids = [
            await _accepted(home, batch(*messages, personal=True)),
            await _accepted(
                home, batch(outgoing("13900000002", params=["8899"]), template_id="101")
            ),
            await _accepted(home, batch(messages[0], sign="123", send_at=tomorrow)),
            await _accepted(abroad, batch(foreign, sign=None, template_id=None)),
            await _accepted(abroad, batch(*messages, personal=True)),
        ]
        rows = vendor.truth("message")
        violations = vendor.sandbox.world.violations
    assert violations == []
    assert [(row["vendor_message_id"], row["phone"]) for row in rows] == [
        (ids[0], "13900000000"),
        (ids[0], "13900000001"),
        (ids[1], "13900000002"),
        (ids[2], "13900000000"),
        (ids[3], "447700900123"),
        (ids[4], "8613900000000"),
        (ids[4], "8613900000001"),
    ]
    said = [row["content"] for row in rows]
    assert said[0] == "【创瑞】先生您好,您的订单于9:40已通过快递公司发货"
    assert said[1] == "【创瑞】女士您好,您的订单于10:10已通过物流公司发货"
    assert said[2:5] == ["【创瑞】您的验证码是8899。", said[0], "Hello"]
    assert rows[3]["sent_at"] == tomorrow


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"sign": "别人"}, "9016"),
        ({"template_id": "7"}, "9017"),
        ({"messages": (outgoing("13900000000", params=["1" * 21]),)}, "9018"),
        ({"messages": (outgoing("13900000000", params=[""]),)}, "9019"),
        ({"messages": (outgoing("139", params=["1"]),)}, "9003"),
        ({"messages": (outgoing("13900000000", params=["赌博"]),)}, "10002"),
        ({"send_at": datetime(2018, 1, 1, tzinfo=UTC)}, "10003"),
    ],
)
async def test_the_sandbox_refuses_with_the_code_for_it(
    account_at: Callable[..., Account], wrong: dict[str, Any], code: str
) -> None:
    good = {"messages": (outgoing("13900000000", params=["8899"]),), "template_id": "101"}
    async with played(account_at) as (_, home, _abroad):
        reply = await home.send(batch(**{**good, **wrong}))
        with pytest.raises(Refused) as refused:
            GATEWAY.parse_reply(reply, home.account)
    assert refused.value.code == code
    assert code in REFUSALS


@pytest.mark.anyio
async def test_the_sandbox_tells_its_balances(account_at: Callable[..., Account]) -> None:
    async with played(account_at, domestic_balance=7, international_balance=8) as (_, home, _a):
        parsed = GATEWAY.parse_reply(await home.query_balance(), home.account)
    assert parsed.problems == ()
    assert parsed.events == (
        Balance(kind="营销短信", amount=Decimal(7)),
        Balance(kind="国际短信", amount=Decimal("8.00")),
        Balance(kind="语音验证码", amount=Decimal("0.00")),
    )


def _met(report: DeliveryReport, told: dict[tuple[str, str], Any]) -> Any:
    """Return the true message that a report is of, by any of its ids."""
    found = [
        told[id_, report.phone]
        for id_ in (report.vendor_message_id, *report.also)
        if (id_, report.phone) in told
    ]
    assert len(found) == 1
    return found[0]


def _assert_true(reports: Sequence[DeliveryReport], rows: Sequence[dict[str, Any]]) -> None:
    told = {(row["vendor_message_id"], row["phone"].removeprefix("86")): row for row in rows}
    met = [_met(report, told) for report in reports]
    assert len(reports) == len(rows) == len({id(row) for row in met})
    for report, row in zip(reports, met, strict=True):
        assert (report.status, report.vendor_code) == (row["status"], row["code"])
        assert report.reported_at == row["reported_at"]


async def _send_some(home: OneCloudSpClient, abroad: OneCloudSpClient) -> None:
    code = {"template_id": "101"}
    many = [outgoing(f"139000000{last:02}", params=["1"]) for last in range(20)]
    await _accepted(home, batch(*many, **code))
    for message in many[:6]:
        await _accepted(home, batch(message, **code))
    await _accepted(abroad, batch(*many[:4], outgoing("+447700900123", params=["1"]), **code))


@pytest.mark.anyio
async def test_every_report_pulled_meets_its_message(account_at: Callable[..., Account]) -> None:
    async with played(account_at, pull_rows=7) as (vendor, home, abroad):
        await _send_some(home, abroad)
        await vendor.release()
        _assert_true(await _pulled(home), vendor.truth("message"))
        assert await _pulled(home) == []


@pytest.mark.anyio
async def test_every_report_pushed_meets_its_message(account_at: Callable[..., Account]) -> None:
    bodies: list[tuple[str, bytes]] = []

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
                bodies.append((headers["content-type"], body))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
    async with played(
        account_at, callback_url=url, hand_out="push", faults=Faults(push_malformed=0.3)
    ) as (vendor, home, abroad):
        await _send_some(home, abroad)
        await vendor.release()
        rows = vendor.truth("message")
        odd = vendor.truth("push")
        account = home.account
    server.close()
    reports: list[Any] = []
    malformed = 0
    for content_type, body in bodies:
        callback = Callback(
            method="POST", query=b"", headers={"content-type": content_type}, body=body
        )
        try:
            reports += GATEWAY.parse_callback(callback, account).events
        except Malformed:
            malformed += 1
    assert 0 < malformed == len(odd)
    _assert_true(reports, [row for row in rows if row["reports"][0]["handed"] == "push"])


@pytest.mark.anyio
async def test_inbound_messages_are_pulled(account_at: Callable[..., Account]) -> None:
    async with played(account_at, inbound_rate=1.0) as (vendor, home, abroad):
        await _send_some(home, abroad)
        await vendor.release()
        events = await _pulled(home, Call.PULL_INBOUND)
        rows = vendor.truth("inbound")
    assert rows
    assert [type(event) for event in events] == [InboundMessage] * len(rows)
    assert sorted(
        (event.vendor_message_id, event.phone, event.content, event.sent_at) for event in events
    ) == sorted(
        (
            row["vendor_message_id"],
            row["phone"].removeprefix("86"),
            row["content"],
            row["received_at"],
        )
        for row in rows
    )


@pytest.mark.anyio
async def test_a_page_that_was_cut_gives_what_came_whole(
    account_at: Callable[..., Account],
) -> None:
    async with played(account_at, faults=Faults(page_cut=1.0)) as (vendor, home, abroad):
        await _send_some(home, abroad)
        await vendor.release()
        with pytest.raises(Indeterminate) as cut:
            await home.pull_reports(0)
        (row,) = vendor.truth("reply")
    reply = Reply(call=Call.PULL_REPORTS, headers={}, body=cut.value.partial)
    parsed = GATEWAY.parse_reply(reply, home.account)
    assert 0 < len(parsed.events) == sum(lost["salvageable"] for lost in row["lost"])
    assert parsed.problems == (f"the JSON breaks off after row {parsed.rows}",)


@pytest.mark.parametrize(
    ("names", "numbers", "taken"),
    [
        (["token", "10_1_0_13800138000_1_token_1"], 1, 1),
        (["10_1_0_13800138000_1_token_1", "token"], 1, 0),
        (["10_1_0_13800138000_1_token_1", "token"], 2, 1),
        (["token"], 1, 0),
    ],
)
def test_a_message_stands_under_the_id_that_its_send_answered(
    account: Account, abroad: Account, names: list[str], numbers: int, taken: int
) -> None:
    assert GATEWAY.sent_under is not None
    assert GATEWAY.sent_under(names, numbers, account) == names[taken]
    assert GATEWAY.sent_under(names, numbers, abroad) == "token"
