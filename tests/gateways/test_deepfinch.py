"""deepfinch: the signed request its page describes, and what replies and the gateway's errors mean."""

import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gateways.deepfinch.client
from gateways.deepfinch import GATEWAY, codes
from gateways.deepfinch.client import Credentials, DeepFinchClient, signed_headers
from gateways.errors import Garbled, Indeterminate, Malformed, Refused, Unsupported
from gateways.events import Accepted
from gateways.gateway import Account, Batch, Call, Callback, Outgoing, Reply, Secret
from gateways.http import Transport, open_client
from sandbox import Config, Running, running
from sandbox.config import DeepFinchConfig
from sandbox.deepfinch import DeepFinchAccount

PHONE = "15687902345"


def batch(
    params: Mapping[str, str] | Sequence[str] | None = None,
    *,
    content: str | None = None,
    phone: str = PHONE,
    template_id: str | None = "TPL_0000",
    **more: Any,
) -> Batch:
    message = Outgoing(
        phone=phone, number=phone, reference="0" * 32, content=content, params=params
    )
    return Batch(messages=(message,), template_id=template_id, **more)


@pytest.fixture
def account(account_at: Callable[..., Account]) -> Account:
    return account_at("deepfinch")


def _reply(account: Account, body: bytes | str | dict[str, Any]) -> Any:
    if isinstance(body, dict):
        body = json.dumps(body)
    raw = body.encode() if isinstance(body, str) else body
    (event,) = GATEWAY.parse_reply(Reply(call=Call.SEND, headers={}, body=raw), account).events
    return event


async def _sent(
    account: Account, wanted: Batch, response: Callable[[], httpx.Response]
) -> tuple[Reply, list[httpx.Request]]:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return response()

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        return await DeepFinchClient(account, Transport(http, 1000)).send(wanted), seen


# --- the request --------------------------------------------------------------------------------------


def test_signature_is_that_of_another_program(account: Account) -> None:
    # Made with: printf 'x-date: …\nx-source: market' | openssl dgst -sha1 -hmac s3cret-secret_key
    at = datetime(2018, 3, 19, 12, 8, 40, tzinfo=UTC)
    assert signed_headers(account.credentials, "market", at) == {
        "x-date": "Mon, 19 Mar 2018 12:08:40 GMT",
        "x-source": "market",
        "authorization": (
            'hmac id="s3cret-secret_id", algorithm="hmac-sha1", headers="x-date x-source",'
            ' signature="D0oE9o0vDaYx5ZVTXTtEUv8k4ls="'
        ),
    }


def _read_date(text: str) -> datetime:
    return datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)


@given(st.floats(0, 4e9))
def test_date_is_english_and_in_gmt(seconds: float) -> None:
    at = datetime.fromtimestamp(seconds, UTC)
    credentials = Credentials(secret_id=Secret("a"), secret_key=Secret("b"))
    date = signed_headers(credentials, "market", at)["x-date"]
    days, months = "Mon|Tue|Wed|Thu|Fri|Sat|Sun", "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
    assert re.fullmatch(rf"({days}), \d\d ({months}) \d{{4}} \d\d:\d\d:\d\d GMT", date)
    assert _read_date(date) == at.replace(microsecond=0)


@pytest.mark.anyio
@pytest.mark.parametrize("base_url", ["", f"{GATEWAY.default_base_url}/"])
async def test_request_is_that_of_the_page(
    account_at: Callable[..., Account], base_url: str
) -> None:
    reply, (request,) = await _sent(
        account_at("deepfinch", base_url),
        batch({"code": "1234", "expire_at": "5 分+&"}),
        lambda: httpx.Response(200, content=b'{"status":"OK"}'),
    )
    assert request.method == "POST"
    assert request.url == (
        "https://service-6pdvpyfd-1300075552.bj.apigw.tencentcs.com/release/data/send_sms"
    )
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qsl(request.content.decode(), strict_parsing=True) == [
        ("content", "code:1234,expire_at:5 分+&"),
        ("phone_number", PHONE),
        ("template_id", "TPL_0000"),
    ]
    names = [name for name, _ in request.headers.multi_items()]
    assert names.count("x-date") == names.count("x-source") == names.count("authorization") == 1
    assert abs(_read_date(request.headers["x-date"]).timestamp() - time.time()) < 60
    assert b"s3cret" not in request.content
    assert "s3cret" not in str(request.url)
    assert (reply.call, reply.body) == (Call.SEND, b'{"status":"OK"}')


@pytest.mark.anyio
async def test_host_path_and_source_are_settings(account_at: Callable[..., Account]) -> None:
    account = account_at(
        "deepfinch", "https://sms.example.com/v2", send_path="/send", source="huizhi"
    )
    _, (request,) = await _sent(account, batch({}), lambda: httpx.Response(200))
    assert request.url == "https://sms.example.com/v2/send"
    assert request.headers["x-source"] == "huizhi"


@pytest.mark.parametrize(
    ("wanted", "content"),
    [
        (batch({"code": "1"}, content="what the handset shows"), "code:1"),
        (batch({}), ""),
        (batch(content="code:1,expire_at:5"), "code:1,expire_at:5"),
    ],
)
@pytest.mark.anyio
async def test_params_go_before_content(account: Account, wanted: Batch, content: str) -> None:
    _, (request,) = await _sent(account, wanted, lambda: httpx.Response(200))
    assert dict(parse_qsl(request.content.decode(), keep_blank_values=True))["content"] == content


@pytest.mark.anyio
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 426, 500])
async def test_body_is_read_whatever_the_status(account: Account, status: int) -> None:
    reply, seen = await _sent(account, batch({}), lambda: httpx.Response(status, content=b"words"))
    assert reply.body == b"words"
    assert len(seen) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("status", [502, 504])
async def test_a_lost_vendor_leaves_it_open(account: Account, status: int) -> None:
    with pytest.raises(Indeterminate):
        await _sent(account, batch({}), lambda: httpx.Response(status, text="Bad Gateway."))


@pytest.mark.anyio
async def test_a_send_that_left_is_never_repeated(account: Account) -> None:
    seen = []

    def lost() -> httpx.Response:
        seen.append(1)
        raise httpx.ReadTimeout("no reply")

    with pytest.raises(Indeterminate):
        await _sent(account, batch({}), lost)
    assert len(seen) == 1


@pytest.mark.anyio
async def test_sending_is_all_that_is_offered(account: Account) -> None:
    assert GATEWAY.supports == {"send"}
    assert not GATEWAY.reports
    async with httpx.AsyncClient() as http:
        client = DeepFinchClient(account, Transport(http, 1000))
        assert (client.numbers_per_send, client.texts_per_send) == (1, 1)
        with pytest.raises(Unsupported, match="deepfinch has no status query"):
            await client.query_status(["TID1"])


# --- before it is sent --------------------------------------------------------------------------------

MARKS = "a variable has a : or a , which the vendor cannot tell from those between variables"
PAIRS = (
    "content without params has to be the template's variables, as name:value, separated by commas"
)


@pytest.mark.parametrize(
    ("wanted", "objections"),
    [
        (batch({"code": "1234", "expire_at": "5"}), ()),
        (batch({"code": "十二：三，四"}), ()),
        (batch({}), ()),
        (batch(content="code:1234"), ()),
        (batch(content="code:1234,expire_at:"), ()),
        (batch({"code": "1"}, content="您的验证码是:1,有效期5分钟。"), ()),
        (batch(), ("params are missing",)),
        (batch(["1234"]), ("params are a list: the vendor wants each variable by its name",)),
        *((batch({"code": value}), (MARKS,)) for value in ("12:34", "1,2", ":", "a,b:c")),
        *((batch({name: "1"}), (MARKS,)) for name in ("co:de", "a,b")),
        (batch({"": "1"}), ("a variable has no name",)),
        *(
            (batch(content=text), (PAIRS,))
            for text in ("", "您好", "code:12:34", "code:1,2", ":1", "code:1,", "a:1,,b:2")
        ),
        (
            batch(content="free text", template_id=None),
            ("template_id is missing: the vendor sends its own templates, no other text", PAIRS),
        ),
        (
            batch({}, sign="深智科技", send_at=datetime(2026, 11, 1, tzinfo=UTC)),
            (
                "sign cannot be chosen: it is part of the template",
                "send_at cannot be kept: the vendor sends at once",
            ),
        ),
    ],
)
def test_what_cannot_be_sent_is_said_before(
    account: Account, wanted: Batch, objections: tuple[str, ...]
) -> None:
    assert GATEWAY.check_send is not None
    assert GATEWAY.check_send(wanted, account) == objections


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=8), max_size=4))
def test_what_may_be_sent_can_be_read_back(
    account_at: Callable[..., Account], params: dict[str, str]
) -> None:
    wanted = batch(params)
    assert GATEWAY.check_send is not None
    if not GATEWAY.check_send(wanted, account_at("deepfinch")):
        content = gateways.deepfinch.client._content(wanted.messages[0])
        pairs = [pair.split(":") for pair in content.split(",")] if content else []
        assert pairs == [[name, value] for name, value in params.items()]


# --- the reply ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["OK", " OK ", "ok"])
def test_ok_is_taken_under_its_id(account: Account, status: str) -> None:
    assert _reply(account, {"status": status, "request_id": " TID1 "}) == Accepted(
        vendor_message_id="TID1"
    )


@pytest.mark.parametrize("word", [*sorted(codes.CODE_WORDS.keys() - codes.UNDECIDED), "NEWS"])
@pytest.mark.parametrize("reason", ["content mismatch", None, ""])
def test_any_other_word_is_a_refusal(account: Account, word: str, reason: str | None) -> None:
    with pytest.raises(Refused) as refused:
        _reply(account, {"status": word, "reason": reason, "request_id": "TID1"})
    assert refused.value.code == word
    assert refused.value.words == (reason or codes.CODE_WORDS.get(word, ""))


@pytest.mark.parametrize("word", sorted(codes.UNDECIDED))
def test_an_internal_error_leaves_it_open(account: Account, word: str) -> None:
    with pytest.raises(Indeterminate, match=word):
        _reply(account, {"status": word, "reason": "x"})


@pytest.mark.parametrize("beginning", codes.GATEWAY_ERRORS)
@pytest.mark.parametrize("written", ["{}", "{}.", " {} xxx\r\n", '{{"message": "{} xxx."}}'])
def test_gateway_errors_are_no_words_of_the_vendor(
    account: Account, beginning: str, written: str
) -> None:
    for text in (beginning, beginning.capitalize(), beginning.upper()):
        with pytest.raises(Refused) as refused:
            _reply(account, written.format(text))
        assert refused.value.code == codes.GATEWAY
        assert refused.value.words.startswith(text)
        assert refused.value.words.endswith(f"({codes.GATEWAY_ERRORS[beginning]})")


def test_narrower_gateway_errors_come_first() -> None:
    for earlier, later in combinations(codes.GATEWAY_ERRORS, 2):
        assert not later.startswith(earlier), later
    assert all(text == text.lower() for text in codes.GATEWAY_ERRORS)
    assert all(word == word.upper() for word in codes.CODE_WORDS)


@pytest.mark.parametrize("beginning", codes.GATEWAY_UNDECIDED)
def test_a_gateway_that_lost_the_vendor_leaves_it_open(account: Account, beginning: str) -> None:
    with pytest.raises(Indeterminate):
        _reply(account, f"{beginning.capitalize()}.")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b'"OK"', b"OK", b"7", b"\xff\xfe", b"<html>", b"{"),
        *({}, {"status": None}, {"status": ""}, {"status": 200}, {"status": {"a": 1}}),
        *({"status": "OK"}, {"status": "OK", "request_id": 7}, {"status": "OK", "request_id": ""}),
        *({"status": "NO", "reason": {"a": 1}}, {"message": "hello"}, {"message": 7}),
    ],
)
def test_a_reply_of_another_shape_is_garbled(account: Account, body: Any) -> None:
    with pytest.raises(Garbled):
        _reply(account, body)


def test_a_reply_to_a_call_of_other_vendors_is_garbled(account: Account) -> None:
    with pytest.raises(Garbled, match="query_status"):
        GATEWAY.parse_reply(Reply(call=Call.QUERY_STATUS, headers={}, body=b"{}"), account)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"status":"OK"}', b"a=1", b"\xff"])
def test_no_push_is_understood_and_each_is_answered(account: Account, body: bytes) -> None:
    callback = Callback(method="POST", query=b"", headers={}, body=body)
    with pytest.raises(Malformed, match="pushes nothing"):
        GATEWAY.parse_callback(callback, account)
    assert GATEWAY.acknowledge(callback).body == b"ok"


# --- against the pretend vendor, which was written from the page by itself -----------------------------


@pytest.fixture
async def vendor() -> AsyncIterator[Running]:
    key = {"secret_id": "AKIDfinch", "secret_key": "the-key"}
    answers = {
        "13800138001": "DETECTION_FAILED",
        "13800138002": "RATE_LIMIT_EXCEEDED",
        "13800138003": "INTERNAL_ERROR",
        "13800138004": "INVALID_ARGUMENT",
    }
    accounts = {
        "main": DeepFinchAccount(**key, answers=answers),
        "all-200": DeepFinchAccount(
            **key | {"secret_id": "b"}, answers=answers, http_statuses=False
        ),
        "unbound": DeepFinchAccount(**key | {"secret_id": "c"}, key_state="unbound"),
        "no-plan": DeepFinchAccount(**key | {"secret_id": "d"}, key_state="no_plan"),
    }
    async with running(Config(port=0, strict=True, deepfinch=DeepFinchConfig(accounts))) as played:
        yield played


@pytest.fixture
def send(vendor: Running, account_at: Callable[..., Account]) -> Callable[..., Any]:
    """Send over real HTTP and read the reply."""

    async def call(
        wanted: Batch, *, id: str = "AKIDfinch", key: str = "the-key", **options: str
    ) -> Any:
        account = replace(
            account_at("deepfinch", vendor.base_url("deepfinch"), **options),
            credentials=Credentials(secret_id=Secret(id), secret_key=Secret(key)),
        )
        async with open_client() as http:
            client = DeepFinchClient(account, Transport(http, 1000))
            (event,) = GATEWAY.parse_reply(await client.send(wanted), account).events
            return event

    return call


@pytest.mark.anyio
async def test_texts_are_taken_by_the_pretend_vendor(
    vendor: Running, send: Callable[..., Any]
) -> None:
    first = await send(batch({"code": "7 8&6=五%"}))
    second = await send(batch({"code": "1", "expire_at": "5"}, template_id="TPL_0001"))
    third = await send(batch(content="code:2"), source="anything!")
    rows = vendor.truth("message")
    assert [(row["vendor_message_id"], row["phone"], row["content"]) for row in rows] == [
        (first.vendor_message_id, PHONE, "【Deepfinch】您的验证码是:7 8&6=五%,有效期5分钟。"),
        (second.vendor_message_id, PHONE, "【深智科技】您的验证码是:1,有效期5分钟。"),
        (third.vendor_message_id, PHONE, "【Deepfinch】您的验证码是:2,有效期5分钟。"),
    ]
    async with httpx.AsyncClient() as http:
        violations = (await http.get(f"{vendor.url}/_sandbox/violations")).json()
    assert violations == {"items": []}


@pytest.mark.anyio
@pytest.mark.parametrize("id", ["AKIDfinch", "b"])
async def test_code_words_of_the_pretend_vendor_are_read_with_and_without_statuses(
    send: Callable[..., Any], id: str
) -> None:
    for phone, word in (
        ("13800138001", "DETECTION_FAILED"),
        ("13800138002", "RATE_LIMIT_EXCEEDED"),
        ("13800138004", "INVALID_ARGUMENT"),
    ):
        with pytest.raises(Refused) as refused:
            await send(batch({"code": "1"}, phone=phone), id=id)
        assert refused.value.code == word
    with pytest.raises(Indeterminate):
        await send(batch({"code": "1"}, phone="13800138003"), id=id)
    with pytest.raises(Refused, match="INVALID_ARGUMENT: content mismatch"):
        await send(batch({"other": "1"}), id=id)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("credentials", "words"),
    [
        ({"key": "another"}, "does not match"),
        ({"id": "unknown"}, "cannot be verified"),
        ({"id": "c"}, "apikey is invalid"),
        ({"id": "d"}, "no validate usage plan"),
    ],
)
async def test_refusals_of_the_pretend_gateway_are_told_from_the_vendors(
    vendor: Running, send: Callable[..., Any], credentials: dict[str, str], words: str
) -> None:
    with pytest.raises(Refused, match=words) as refused:
        await send(batch({"code": "1"}), **credentials)
    assert refused.value.code == codes.GATEWAY
    assert vendor.truth("message") == []


@pytest.mark.anyio
async def test_a_wrong_clock_is_named(
    send: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) - timedelta(minutes=16)

    monkeypatch.setattr(gateways.deepfinch.client, "datetime", Slow)
    with pytest.raises(Refused, match="this machine's clock") as refused:
        await send(batch({"code": "1"}))
    assert refused.value.code == codes.GATEWAY


@pytest.mark.anyio
async def test_a_wrong_path_is_not_taken_for_an_answer(send: Callable[..., Any]) -> None:
    with pytest.raises(Garbled):
        await send(batch({"code": "1"}), send_path="/release/data/other")
