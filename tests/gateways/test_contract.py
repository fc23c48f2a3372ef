"""What every gateway keeps, on every captured payload and on what those can turn into on the way.

A case is `<vendor>/captured/<name>.http` (what came: a line that says what it is, for a reply the
call and what that was about; headers, an empty line, the body's exact bytes) and `<name>.json`
(where it is from, and what we make of it).
"""

import json
import logging
import re
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import stamina
from hypothesis import given
from hypothesis import strategies as st

import gateways
from gateways import GATEWAYS
from gateways.errors import Garbled, GatewayError, Indeterminate, Malformed, Refused
from gateways.events import Event, Parsed, ReviewKind
from gateways.gateway import (
    Account,
    Batch,
    Call,
    Callback,
    Client,
    Gateway,
    Outgoing,
    Reply,
    Secret,
)
from gateways.http import Transport

HERE = Path(__file__).parent
HEADS = ["Auth", "Callback", "Acknowledge", "Retries", "Clock"]
HEADS += ["Identity", "Limits", "Billing", "Sources"]


@dataclass(frozen=True)
class Case:
    gateway: Gateway
    name: str
    what: str
    detail: str
    headers: dict[str, str]
    body: bytes
    golden: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.gateway.name}-{self.name}"

    def parse(self, account: Account, body: bytes | None = None) -> Parsed:
        body = self.body if body is None else body
        if self.what == "REPLY":
            call, _, subject = self.detail.partition(" ")
            reply = Reply(call=Call(call), headers=self.headers, body=body, subject=subject)
            return self.gateway.parse_reply(reply, account)
        return self.gateway.parse_callback(self.callback(body), account)

    def callback(self, body: bytes) -> Callback:
        return Callback(
            method=self.what,
            query=self.detail.removeprefix("?").encode(),
            headers=self.headers,
            body=body,
        )


def _read(gateway: Gateway, path: Path) -> Case:
    head, body = path.read_bytes().split(b"\n\n", 1)
    first, *lines = head.decode().split("\n")
    what, _, detail = first.partition(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    golden = json.loads(path.with_suffix(".json").read_text("utf-8"))
    return Case(gateway, path.stem, what, detail, headers, body, golden)


EVERY = [
    _read(gateway, path)
    for gateway in GATEWAYS.values()
    for path in sorted((HERE / gateway.name / "captured").glob("*.http"))
]
CASES = [case for case in EVERY if case.what != "DOCUMENT"]
CALLBACKS = [case for case in CASES if case.what != "REPLY"]
UNDERSTOOD = [case for case in CASES if "raises" not in case.golden]

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_gateway = pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=GATEWAYS)


def _plain(parsed: Parsed) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "events": [
            {
                type(event).__name__: {
                    k: v for k, v in json.loads(msgspec.json.encode(event)).items() if v
                }
            }
            for event in parsed.events
        ],
        "rows": parsed.rows,
    }
    return plain | ({"problems": list(parsed.problems)} if parsed.problems else {})


@every_case
def test_captured_payload_gives_its_golden_events(
    case: Case, account_at: Callable[..., Account]
) -> None:
    outcome: dict[str, Any]
    try:
        outcome = _plain(case.parse(account_at(case.gateway.name)))
    except (Malformed, Garbled, Refused, Indeterminate) as error:
        outcome = {"raises": f"{type(error).__name__}: {error}"}
    assert outcome == {k: v for k, v in case.golden.items() if k != "provenance"}


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_captured_payload_says_where_it_is_from(case: Case) -> None:
    provenance = case.golden["provenance"]
    assert provenance["page"]
    assert provenance["section"]
    assert provenance["text"] in ("literal", "adapted")
    assert provenance["text"] == "literal" or provenance["note"]


@pytest.mark.parametrize("case", UNDERSTOOD, ids=str)
def test_redelivery_gives_equal_events(case: Case, account_at: Callable[..., Account]) -> None:
    account = account_at(case.gateway.name)
    first, again = case.parse(account), case.parse(account)
    assert first == again
    assert hash(first) == hash(again)


@pytest.mark.parametrize("case", UNDERSTOOD, ids=str)
def test_events_can_be_stored(case: Case, account_at: Callable[..., Account]) -> None:
    for event in case.parse(account_at(case.gateway.name)).events:
        _assert_storable(event)


@every_case
def test_cut_anywhere_raises_nothing_else(case: Case, account_at: Callable[..., Account]) -> None:
    account = account_at(case.gateway.name)
    for end in range(len(case.body)):
        _parse_or_say_no(case, account, case.body[:end])


@every_case
def test_reencoded_raises_nothing_else(case: Case, account_at: Callable[..., Account]) -> None:
    account = account_at(case.gateway.name)
    text = case.body.decode("utf-8", "replace")
    for codec in ("utf-8-sig", "gb18030", "utf-16", "utf-16-le", "utf-32", "utf-7", "big5"):
        _parse_or_say_no(case, account, text.encode(codec, "replace"))


@every_gateway
@given(data=st.data())
def test_damaged_bytes_raise_nothing_else(
    gateway: Gateway, account_at: Callable[..., Account], data: st.DataObject
) -> None:
    account = account_at(gateway.name)
    case = data.draw(st.sampled_from([case for case in CASES if case.gateway is gateway]))
    body = bytearray(case.body)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(start + 40, len(body))))
        body[start:end] = data.draw(
            st.one_of(
                st.binary(max_size=6),
                st.text(max_size=3).map(lambda text: text.encode("utf-8", "surrogatepass")),
                st.sampled_from([b"\\ud83d", b"\\u0000", b"null", b"{", b"]", b'"', b"//", b"1e9"]),
            )
        )
    _parse_or_say_no(case, account, bytes(body))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
_FIELDS = st.dictionaries(
    st.sampled_from(
        [
            *("id", "phone", "status", "message", "receiveDate", "error", "name", "create_time"),
            *("request_id", "reason"),
            *("Mobile", "TaskID", "Status", "ReceiveTime", "ErrorCode", "ExtNo", "Content"),
            *("code", "msg", "batchId", "smUuid", "deliverResult", "deliverTime", "moTime", "sign"),
            *("msgid", "mobile", "timestamp", "reason", "orderId", "pricedetail", "content"),
            *("msgId", "number", "receiveTime", "reply_time", "sendid", "sendId", "fail"),
            *("pay", "price", "currency", "chargeCnt", "balance", "gift", "credit", "array"),
        ]
    ),
    _VALUES,
)


@every_gateway
@given(
    fields=_FIELDS,
    shell=st.sampled_from(
        [
            '{"action":"report","sms":%s}',
            '{"action":"template","sign":%s}',
            '{"code":0,"data":%s}',
            '{"StatusBox":[%s]}',
            '{"code":"0","data":[%s]}',
            '{"status":"0","array":[%s]}',
            '{"status":"0","data":{"records":[%s]}}',
            '{"msgid":"1","mobile":"1","status":0,"pricedetail":%s}',
            "%s",
        ]
    ),
)
def test_any_value_in_any_field_raises_nothing_else(
    gateway: Gateway, account_at: Callable[..., Account], fields: dict[str, Any], shell: str
) -> None:
    body = (shell % json.dumps(fields)).encode()
    for case in _one_of_each(gateway):
        _parse_or_say_no(case, account_at(gateway.name), body)


@every_gateway
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b"{'a':" * 200_000,
        b"[]," * 300_000,
        b"," * 1_000_000,
        b'"' * 1_000_001,
        b"//" * 500_000,
        b"&a=b" * 250_000,
        b"%5B" * 300_000,
        b"<a>" * 300_000,
        b"<returnsms>" + b"<callbox>" * 100_000,
        b'{"mobile":' + b"9" * 100_000 + b"}",
        b"mobile=" + b"%00" * 300_000,
    ],
    ids=lambda body: body[:12].decode(),
)
def test_hostile_bytes_cost_little(
    gateway: Gateway, account_at: Callable[..., Account], body: bytes
) -> None:
    for case in _one_of_each(gateway):
        _parse_or_say_no(case, account_at(gateway.name), body)


@every_gateway
def test_acknowledgement_is_small_and_constant(gateway: Gateway) -> None:
    came = [case.callback(case.body) for case in CALLBACKS if case.gateway is gateway]
    came.append(Callback(method="POST", query=b"", headers={}, body=b""))
    answers = {gateway.acknowledge(callback) for callback in came}
    (answer,) = answers
    assert answer == {
        "thinkapi": type(answer)(b'{"code":0}', "application/json"),
        "thinksms": type(answer)(b"ok", "text/plain; charset=utf-8"),
        "deepfinch": type(answer)(b"ok", "text/plain; charset=utf-8"),
        "onecloudsp": type(answer)(b'{"code":"0","msg":"SUCCESS"}', "application/json"),
        "itniotech": type(answer)(b'{"status":"0"}', "application/json"),
    }.get(gateway.name, answer)
    assert len(answer.body) < 100


@every_gateway
def test_secrets_never_show(gateway: Gateway, account_at: Callable[..., Account]) -> None:
    account = account_at(gateway.name)
    for shown in (repr(account), str(account), repr(account.credentials), f"{account.credentials}"):
        assert "s3cret" not in shown


_NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
_BATCH = Batch(
    messages=(
        Outgoing(phone="13900000000", number="13900000000", reference="0" * 32, content="hi"),
    ),
    template_id="7",
    sign="78",
)
_CALLS: dict[str, Callable[[Client], Awaitable[Reply]]] = {
    "send": lambda client: client.send(_BATCH),
    "query_status": lambda client: client.query_status(["1"]),
    "list_sent": lambda client: client.list_sent(_NOW, _NOW, 0),
    "list_inbound": lambda client: client.list_inbound(_NOW, _NOW, 1),
    "query_balance": lambda client: client.query_balance(),
    "check_keyword": lambda client: client.check_keyword("hi"),
    "change_password": lambda client: client.change_password(Secret("s3cret-new")),
    "query_review": lambda client: client.query_review(ReviewKind.SIGN, "1"),
    "add_review": lambda client: client.add_review(
        ReviewKind.SIGN, name="a", content=None, remark="b"
    ),
    "modify_review": lambda client: client.modify_review(
        ReviewKind.SIGN, "1", name="a", content=None, remark="b"
    ),
    "delete_review": lambda client: client.delete_review(ReviewKind.SIGN, "1"),
    "pull_reports": lambda client: client.pull_reports(1),
    "pull_inbound": lambda client: client.pull_inbound(1),
}


def test_every_call_is_tried_here() -> None:
    assert set().union(*(gateway.supports for gateway in GATEWAYS.values())) == set(_CALLS)


def _hang_up(_request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("cut")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [401, 403, 404, 429, 500, 503, 200, pytest.param(_hang_up, id="hang-up")],
)
@pytest.mark.parametrize(
    ("gateway", "call"),
    [(gateway, call) for gateway in GATEWAYS.values() for call in sorted(gateway.supports)],
    ids=lambda value: getattr(value, "name", value),
)
async def test_secrets_and_numbers_are_in_no_error_and_no_log(
    gateway: Gateway,
    call: str,
    answer: Any,
    account_at: Callable[..., Account],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        said = request.url.query + b" " + request.content + repr(request.headers).encode()
        return httpx.Response(answer, content=b"<html>what? " + said[:200])

    caplog.set_level(logging.DEBUG)
    account = account_at(gateway.name)
    chosen = answer if callable(answer) else reply
    said = ""
    with stamina.set_testing(True, attempts=2, cap=True):
        async with httpx.AsyncClient(transport=httpx.MockTransport(chosen)) as http:
            try:
                got = await _CALLS[call](gateway.client(account, Transport(http, 10_000)))
                gateway.parse_reply(got, account)
            except GatewayError as error:
                said = "".join(traceback.format_exception(error)) + repr(error)
    ours = [record.getMessage() for record in caplog.records if record.name != "httpx"]
    for text in (said, *ours):
        assert "s3cret" not in text
        assert "13900000000" not in text


@every_gateway
def test_quirk_sheet_has_its_heads(gateway: Gateway) -> None:
    sheet = getattr(gateways, gateway.name).__doc__
    assert [line for line in sheet.splitlines() if line in HEADS] == HEADS


def _one_of_each(gateway: Gateway) -> list[Case]:
    """Return a callback of `gateway`, and a reply to each of its calls."""
    mine = [case for case in CASES if case.gateway is gateway]
    return list({case.what == "REPLY" and case.detail: case for case in mine}.values())


def _parse_or_say_no(case: Case, account: Account, body: bytes) -> None:
    expected: tuple[type[GatewayError], ...] = (Malformed,)
    if case.what == "REPLY":
        unsure = (Indeterminate,) if case.detail == Call.SEND else ()
        expected = (Garbled, Refused, *unsure)
    try:
        parsed = case.parse(account, body)
    except expected as error:
        _assert_discreet(str(error))
    else:
        assert len(parsed.events) <= parsed.rows
        for event in parsed.events:
            _assert_storable(event)
        for problem in parsed.problems:
            _assert_discreet(problem)


def _assert_discreet(text: str) -> None:
    assert "s3cret" not in text
    assert not re.search(r"(?<!byte )\d{7}", text)


def _assert_storable(event: Event) -> None:
    _assert_values_storable(event)
    phone = getattr(event, "phone", None)
    if phone is not None:
        assert phone.isascii()
        assert phone.isdigit()
        assert len(phone) <= 20
    identities = [getattr(event, name, None) for name in ("vendor_message_id", "vendor_id")]
    for identity in (*identities, *getattr(event, "also", ())):
        assert identity is None or 1 <= len(identity) <= 128


def _assert_values_storable(values: msgspec.Struct) -> None:
    for value in (getattr(values, name) for name in values.__struct_fields__):
        match value:
            case str():
                assert "\0" not in value
                value.encode()
            case datetime():
                assert value.tzinfo is UTC
            case Decimal():
                assert value.is_finite()
                assert abs(value) < Decimal(10) ** 30
            case tuple():
                assert all(isinstance(one, str) for one in value)
            case msgspec.Struct():
                _assert_values_storable(value)
            case _:
                assert value is None or isinstance(value, int)
