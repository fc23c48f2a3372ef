"""ThinkAPI: its codes, the almost-JSON of its page, and the requests its page describes."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways import wire
from gateways.errors import Garbled, Indeterminate, Malformed, Refused, Unsupported
from gateways.events import (
    Accepted,
    DeliveryReport,
    ReviewKind,
    ReviewResult,
    ReviewStatus,
    Status,
)
from gateways.gateway import Account, Batch, Call, Callback, Outgoing, Reply, Secret
from gateways.http import Transport
from gateways.phone import normalise
from gateways.thinkapi import GATEWAY, codes, documents
from gateways.thinkapi.client import Credentials, ThinkApiClient
from gateways.thinkapi.reviews import review_warnings
from sandbox import Config, running
from sandbox.config import ThinkApiConfig
from sandbox.thinkapi import ReviewedText, ThinkApiAccount


@pytest.fixture
def account(account_at: Callable[..., Account]) -> Account:
    return account_at("thinkapi")


def _push(account: Account, document: dict[str, Any]) -> Any:
    callback = Callback(method="POST", query=b"", headers={}, body=json.dumps(document).encode())
    (event,) = GATEWAY.parse_callback(callback, account).events
    return event


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (1, Status.DELIVERED),
        ("1", Status.DELIVERED),
        (-1, Status.FAILED),
        ("-1", Status.FAILED),
        (0, Status.PENDING),
        ("0", Status.PENDING),
        (2, Status.UNKNOWN),
        ("DELIVRD", Status.UNKNOWN),
        ("", Status.UNKNOWN),
        (1.5, Status.UNKNOWN),
        (10**40, Status.UNKNOWN),
    ],
)
def test_report_status(account: Account, status: Any, meaning: Status) -> None:
    event = _push(account, {"action": "report", "sms": {"id": 1, "phone": 1, "status": status}})
    assert event == DeliveryReport(
        vendor_message_id="1", phone="1", status=meaning, vendor_code=str(status)
    )


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (0, ReviewStatus.PENDING),
        ("1", ReviewStatus.APPROVED),
        (2, ReviewStatus.REJECTED),
        (9, ReviewStatus.UNKNOWN),
    ],
)
@pytest.mark.parametrize("action", ["sign", "template"])
def test_review_status(account: Account, action: str, status: Any, meaning: ReviewStatus) -> None:
    event = _push(account, {"action": action, "sign": {"id": "471", "status": status}})
    assert (event.kind, event.vendor_id, event.status) == (action, "471", meaning)


@pytest.mark.parametrize("missing", ["id", "phone", "status"])
def test_reason_names_the_missing_field(account: Account, missing: str) -> None:
    sms = {"id": "1", "phone": "13509898765", "status": 1}
    del sms[missing]
    with pytest.raises(Malformed, match=f"`{missing}`"):
        _push(account, {"action": "report", "sms": sms})


@pytest.mark.parametrize(
    ("action", "payload", "reason"),
    [
        ("report", {}, "sms is missing"),
        ("sign", {"sign": None}, "sign is missing"),
        ("template", {}, "template is missing"),
        ("report", {"sms": []}, "sms: Expected `object`, got `array`"),
    ],
)
def test_reason_names_the_payload(
    account: Account, action: str, payload: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Malformed, match=reason):
        _push(account, {"action": action, **payload})


def test_a_null_template_does_not_hide_the_sign(account: Account) -> None:
    review = {"id": 278, "status": 1}
    event = _push(account, {"action": "template", "sign": review, "template": None})
    assert event.vendor_id == "278"


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("{'code': 0}", {"code": 0}),
        ('{"code": 0, // it\'s "fine"\n}', {"code": 0}),
        ("{'code': 0 // the end }", {"code": 0}),
        ("{'code': 0, 'message': 'say \"yes\"', }", {"code": 0, "message": 'say "yes"'}),
        (r"{'code': 0, 'message': 'it\'s \u4e2d \\'}", {"code": 0, "message": "it's 中 \\"}),
        ("{'code': 0 'message': 'http://a/b // c'}", {"code": 0, "message": "http://a/b // c"}),
        ("{'code': 0\n'message': [1, 2,],}", {"code": 0, "message": [1, 2]}),
    ],
)
def test_almost_json_is_read(text: str, document: dict[str, Any]) -> None:
    envelope = wire.read_json(text.encode(), documents.ENVELOPE)
    assert {"message": None, **document} == {"code": envelope.code, "message": envelope.message}


@pytest.mark.parametrize(
    "text",
    [
        "{code: 0}",
        "{'code': 0,,}",
        "{'code': 0} {'code': 1}",
        "{'code': 0 1}",
        "{'code' 0}",
        "{'code': 'it's'}",
        "{'code': 0, 'message': 'open}",
        "{'code': 0 /* other */}",
        "{'code': 0, 'message': undefined}",
        "{'code': 0 // no end",
        "// only",
        "{'code': 0" + " " * 40_000 + "}",
    ],
)
def test_anything_else_that_is_not_json_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        wire.read_json(text.encode(), documents.ENVELOPE)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=10,
)


@given(_JSON)
def test_repairing_json_changes_nothing(value: Any) -> None:
    for indent in (None, 1):
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        assert json.loads(wire.repaired(text)) == value


@pytest.mark.parametrize("code", [1, "1", -1, "00", 401])
def test_any_code_but_0_is_a_refusal(account: Account, code: int | str) -> None:
    body = json.dumps({"code": code, "message": "授权码错误"}).encode()
    with pytest.raises(Refused) as refused:
        GATEWAY.parse_reply(Reply(call=Call.QUERY_STATUS, headers={}, body=body), account)
    assert (refused.value.code, refused.value.words) == (str(code), "授权码错误")


def test_a_reply_to_a_call_of_other_vendors_is_garbled(account: Account) -> None:
    with pytest.raises(Garbled, match="pull_reports"):
        GATEWAY.parse_reply(
            Reply(call=Call.PULL_REPORTS, headers={}, body=b'{"code":0,"data":{}}'), account
        )


# The page's tables of parameters: path, and every parameter but appCode, which the header carries.
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("ask", "path", "call"),
    [
        (
            lambda client: client.query_status(["6055075678d9"]),
            "/sms/query_status",
            Call.QUERY_STATUS,
        ),
        (
            lambda client: client.query_review(ReviewKind.SIGN, "6055075678d9"),
            "/sms/query_sign",
            Call.QUERY_SIGN,
        ),
        (
            lambda client: client.query_review(ReviewKind.TEMPLATE, "6055075678d9"),
            "/sms/query_template",
            Call.QUERY_TEMPLATE,
        ),
    ],
)
@pytest.mark.parametrize("base_url", ["", "https://api.topthink.com/"])
async def test_queries_are_those_of_the_page(
    account_at: Callable[..., Account], ask: Any, path: str, call: Call, base_url: str
) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"code": 0})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = ThinkApiClient(account_at("thinkapi", base_url), Transport(http, 1000))
        reply = await ask(client)
    (request,) = seen
    assert request.method == "GET"
    assert request.url == f"https://api.topthink.com{path}?id=6055075678d9"
    assert request.headers["authorization"] == "AppCode s3cret-app_code"
    assert "s3cret" not in str(request.url)
    assert request.content == b""
    assert (reply.call, reply.body) == (call, b'{"code":0}')
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.anyio
async def test_what_is_not_offered_is_unsupported(account: Account) -> None:
    async with httpx.AsyncClient() as http:
        client = ThinkApiClient(account, Transport(http, 1000))
        with pytest.raises(Unsupported, match="thinkapi has no report pull"):
            await client.pull_reports(100)
        with pytest.raises(Unsupported):
            await client.pull_inbound(100)
    assert GATEWAY.supports == {
        "send",
        "query_status",
        *("query_review", "add_review", "modify_review", "delete_review"),
    }


PHONE = "15687902345"


def batch(
    params: Mapping[str, str] | Sequence[str] | None = None, *phones: str, **more: Any
) -> Batch:
    """The page's example, to `phones` or to one number."""
    messages = tuple(
        Outgoing(
            phone=normalise(phone),
            number=phone,
            reference=f"{number:032x}",
            content=more.get("content"),
            params=params,
        )
        for number, phone in enumerate(phones or (PHONE,))
    )
    more = {"sign": "78", "template_id": "234", **more}
    more.pop("content", None)
    return Batch(messages=messages, **more)


# 接口1, 3, 5, 6, 7, 9 and 10: paths and parameters, appCode in the header. modify_template's table has no
# content; the SDK's sample there passes it.
SUBMISSIONS = [
    (
        lambda client: client.add_review(
            ReviewKind.SIGN, name="顶想云", content=None, remark="用于通知&验证码"
        ),
        "add_sign",
        {"name": "顶想云", "remark": "用于通知&验证码"},
    ),
    (
        lambda client: client.modify_review(
            ReviewKind.SIGN, "471", name="顶想云", content=None, remark="用于通知"
        ),
        "modify_sign",
        {"id": "471", "name": "顶想云", "remark": "用于通知"},
    ),
    (
        lambda client: client.add_review(
            ReviewKind.TEMPLATE, name="订单通知", content="新的${name}订单!", remark="通知"
        ),
        "add_template",
        {"name": "订单通知", "content": "新的${name}订单!", "remark": "通知"},
    ),
    (
        lambda client: client.modify_review(
            ReviewKind.TEMPLATE, "278", name="订单通知1", content="新的${name}订单!", remark="通知"
        ),
        "modify_template",
        {"id": "278", "name": "订单通知1", "content": "新的${name}订单!", "remark": "通知"},
    ),
    (lambda client: client.delete_review(ReviewKind.SIGN, "471"), "delete_sign", {"id": "471"}),
    (
        lambda client: client.delete_review(ReviewKind.TEMPLATE, "278"),
        "delete_template",
        {"id": "278"},
    ),
    (
        lambda client: client.send(batch({"code": "7865"})),
        "send",
        {"signId": "78", "templateId": "234", "phone": PHONE, "params": '{"code":"7865"}'},
    ),
    (
        lambda client: client.send(batch()),
        "send",
        {"signId": "78", "templateId": "234", "phone": PHONE},
    ),
    (
        lambda client: client.send(batch({})),
        "send",
        {"signId": "78", "templateId": "234", "phone": PHONE},
    ),
]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("ask", "call", "params"), SUBMISSIONS, ids=[each[1] for each in SUBMISSIONS]
)
async def test_submissions_are_those_of_the_page(
    account: Account, ask: Any, call: str, params: dict[str, str]
) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"code": 0})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        reply = await ask(ThinkApiClient(account, Transport(http, 1000)))
    (request,) = seen
    assert request.method == "GET"
    assert request.url.copy_with(query=None) == f"https://api.topthink.com/sms/{call}"
    query = parse_qsl(request.url.query.decode(), keep_blank_values=True, strict_parsing=True)
    assert len(query) == len(dict(query))
    assert dict(query) == params
    assert request.headers["authorization"] == "AppCode s3cret-app_code"
    assert request.content == b""
    assert reply.call == call


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("ask", "call", "_params"), SUBMISSIONS, ids=[each[1] for each in SUBMISSIONS]
)
async def test_a_submission_that_left_is_never_repeated(
    account: Account, ask: Any, call: str, _params: Any
) -> None:
    seen: list[httpx.Request] = []

    def lost(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        raise httpx.ReadTimeout("no reply")

    async with httpx.AsyncClient(transport=httpx.MockTransport(lost)) as http:
        with pytest.raises(Indeterminate):
            await ask(ThinkApiClient(account, Transport(http, 1000)))
    assert len(seen) == 1


@pytest.mark.parametrize("id", [471, "471"])
def test_what_was_submitted_is_pending_without_a_code(account: Account, id: int | str) -> None:
    body = json.dumps(
        {"code": 0, "message": "添加成功", "data": {"id": id, "name": "签名"}}
    ).encode()
    for call, kind in (
        (Call.ADD_SIGN, ReviewKind.SIGN),
        (Call.MODIFY_SIGN, ReviewKind.SIGN),
        (Call.ADD_TEMPLATE, ReviewKind.TEMPLATE),
        (Call.MODIFY_TEMPLATE, ReviewKind.TEMPLATE),
    ):
        (event,) = GATEWAY.parse_reply(Reply(call=call, headers={}, body=body), account).events
        assert event == ReviewResult(
            kind=kind,
            vendor_id="471",
            status=ReviewStatus.PENDING,
            vendor_code=codes.NO_STATUS,
            name="签名",
        )


@pytest.mark.parametrize(
    ("name", "warnings"),
    [
        ("顶想云", ()),
        ("ThinkPHP8", ()),
        ("【顶想云】", ("the sign has 【", "the sign has 】")),
        ("[a]", ("the sign has [", "the sign has ]")),
        ("顶想·云 &云", ("the sign has special characters: ·   &",)),
        ("顶想测试", ("the sign has the word 测试",)),
    ],
)
def test_sign_is_checked_by_the_rules_of_the_page(name: str, warnings: tuple[str, ...]) -> None:
    assert review_warnings(ReviewKind.SIGN, name, None) == warnings


@pytest.mark.parametrize(
    ("content", "warnings"),
    [
        ("你有一个新的${name}订单,请及时处理!", ()),
        ("".join(f"${{{letter}}}" for letter in "abcdefgH"), ()),
        (
            "".join(f"${{{letter}}}" for letter in "abcdefgh_"),
            ("9 variables; at most 8 are taken",),
        ),
        ("${a}" * 9, ("9 variables; at most 8 are taken",)),
        (
            "【云】您好",
            (
                "the template has 【, which is taken for a sign",
                "the template has 】, which is taken for a sign",
            ),
        ),
        (
            "${code1} ${} ${名} ${code1}",
            ("variables are named by letters a to z and underscores only: ${code1} ${} ${名}",),
        ),
        ("${nick}${id}", ("variable names that the vendor keeps to itself: id nick",)),
        (
            "${code",
            ("a { or } stands outside a variable, which is written ${name}",),
        ),
        ("{code}", ("a { or } stands outside a variable, which is written ${name}",)),
    ],
)
def test_template_is_checked_by_the_rules_of_the_page(
    content: str, warnings: tuple[str, ...]
) -> None:
    assert review_warnings(ReviewKind.TEMPLATE, "通知", content) == warnings
    assert GATEWAY.check_review is review_warnings


@given(st.sampled_from(ReviewKind), st.text(), st.none() | st.text())
def test_checking_takes_any_text(kind: ReviewKind, name: str, content: str | None) -> None:
    for warning in review_warnings(kind, name, content):
        assert "\n" not in warning
        assert len(warning) < 120


# --- sending and deleting -----------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_failure_may_have_come_after_the_text_was_sent(
    account: Account, status: int
) -> None:
    seen: list[httpx.Request] = []

    def fail(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status, text="down")

    async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as http:
        with pytest.raises(Indeterminate):
            await ThinkApiClient(account, Transport(http, 1000)).send(batch())
    assert len(seen) == 1


@pytest.mark.anyio
async def test_several_numbers_go_by_batch_send_and_one_by_send(
    account_at: Callable[..., Account],
) -> None:
    seen: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url)
        return httpx.Response(200, json={"code": 0})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = ThinkApiClient(account_at("thinkapi", batch_send=50), Transport(http, 1000))
        assert (client.numbers_per_send, client.texts_per_send) == (50, 1)
        await client.send(batch({"code": "1"}, PHONE, "+86 13509898765"))
        await client.send(batch({"code": "1"}, PHONE))
        assert ThinkApiClient(account_at("thinkapi"), Transport(http, 1000)).numbers_per_send == 1
    assert [url.path for url in seen] == ["/sms/batch_send", "/sms/send"]
    assert seen[0].params["phone"] == f"{PHONE},13509898765"
    assert seen[1].params["phone"] == PHONE


@pytest.mark.parametrize(
    "data",
    [
        *(None, {}, [], True, 1.5, "", [{"id": "1"}], [{"phone": PHONE}], {"id": None}),
        *({"id": True}, {"id": {}}, {PHONE: ["1"]}, {PHONE: None}, {"0": "1"}, {"sms1": "1"}),
    ],
)
def test_a_send_reply_of_another_shape_is_garbled(account: Account, data: Any) -> None:
    body = json.dumps({"code": 0, "data": data}).encode()
    with pytest.raises(Garbled):
        GATEWAY.parse_reply(Reply(call=Call.SEND, headers={}, body=body), account)


def test_what_was_deleted_is_known_from_the_call(account: Account) -> None:
    body = b'{"code": 0, "message": "deleted"}'
    reply = Reply(call=Call.DELETE_SIGN, headers={}, body=body, subject="471")
    (event,) = GATEWAY.parse_reply(reply, account).events
    assert event == ReviewResult(
        kind=ReviewKind.SIGN, vendor_id="471", status=ReviewStatus.DELETED, vendor_code=""
    )
    with pytest.raises(Garbled, match="the id that was asked for"):
        GATEWAY.parse_reply(Reply(call=Call.DELETE_SIGN, headers={}, body=body), account)


@pytest.mark.parametrize(
    ("wanted", "objections"),
    [
        (batch({"code": "7865"}), ()),
        (batch(None, PHONE, "+86 135-0989-8765", "0086 13509898766", "8613509898767"), ()),
        (batch(dict.fromkeys("abcdefg_", "x" * 50)), ()),
        (batch(None, content="your text"), ()),
        (
            batch(None, content="您的验证码是7865", template_id=None, sign=None),
            (
                "template_id is missing: the vendor sends reviewed templates, no other text",
                "sign is missing: the id of a reviewed sign",
            ),
        ),
        (
            batch(template_id="TPL_1", sign="顶想云"),
            (
                "template_id is no number",
                "sign is not the id of a reviewed sign, which is a number",
            ),
        ),
        (
            batch(send_at=datetime(2026, 11, 1, tzinfo=UTC)),
            ("send_at cannot be kept: the vendor sends at once",),
        ),
        *(
            (batch(None, PHONE, number), ("a number is no mobile number of mainland China",))
            for number in ("+1 415 555 0100", "85251234567", "02187654321", "12345678901", "x")
        ),
        (
            batch(["7865"]),
            ("params are a list: the vendor wants each variable by its name",),
        ),
        (batch(dict.fromkeys("abcdefghi", "")), ("more than 8 variables",)),
        *(
            (
                batch({name: "1"}),
                ("a variable's name is not made of letters a to z and underscores",),
            )
            for name in ("code1", "", "名", "a-b")
        ),
        (
            batch({"mobile": "1"}),
            (
                "a variable has a name that the vendor keeps to itself:"
                " id, email, mobile, nick, site",
            ),
        ),
        (batch({"code": "x" * 51}), ("a variable has more than 50 characters",)),
    ],
)
def test_what_the_page_rules_out_is_said_before_sending(
    account: Account, wanted: Batch, objections: tuple[str, ...]
) -> None:
    assert GATEWAY.check_send is not None
    assert GATEWAY.check_send(wanted, account) == objections
    assert GATEWAY.signs_by_id


@pytest.mark.parametrize(
    ("text", "params", "filled"),
    [
        ("您的验证码是${code}。", {"code": "7865"}, "您的验证码是7865。"),
        ("${a}${b}${a}", {"a": "${b}", "b": "\\1"}, "${b}\\1${b}"),
        ("系统将于今晚维护。", {}, "系统将于今晚维护。"),
        ("${code}", {}, None),
        ("${code}", {"other": "1"}, None),
        ("${code}", ["7865"], None),
        ("$code {code}", {"code": "1"}, "$code {code}"),
    ],
)
def test_template_is_filled(text: str, params: Any, filled: str | None) -> None:
    assert GATEWAY.fill is not None
    assert GATEWAY.fill(text, params) == filled


# The sandbox was written from the page by itself; it refuses what the page does not provide for.


def _played() -> Config:
    account = ThinkApiAccount(
        app_code="the-code",
        signs=(ReviewedText(78, "顶想云"),),
        templates=(
            ReviewedText(234, "验证码", "您的验证码是${code}。"),
            ReviewedText(235, "通知", "系统将于今晚维护。"),
        ),
    )
    return Config(
        port=0, hold_pushes=True, strict=True, thinkapi=ThinkApiConfig({"think-main": account})
    )


@pytest.mark.anyio
async def test_calls_are_taken_by_the_pretend_vendor(account_at: Callable[..., Account]) -> None:
    async with running(_played()) as vendor, httpx.AsyncClient() as http:
        account = replace(
            account_at("thinkapi", vendor.base_url("thinkapi"), batch_send=2),
            credentials=Credentials(app_code=Secret("the-code")),
        )
        client = ThinkApiClient(account, Transport(http, 1000))

        one = GATEWAY.parse_reply(await client.send(batch({"code": "7&=八+ %"})), account)
        plain = GATEWAY.parse_reply(await client.send(batch(template_id="235")), account)
        two = GATEWAY.parse_reply(
            await client.send(batch({"code": "1"}, PHONE, "13509898765")), account
        )
        with pytest.raises(Refused):
            GATEWAY.parse_reply(await client.send(batch()), account)
        with pytest.raises(Refused):
            GATEWAY.parse_reply(await client.send(batch({"code": "1"}, sign="79")), account)

        for kind, vendor_id in ((ReviewKind.SIGN, "78"), (ReviewKind.TEMPLATE, "235")):
            reply = await client.delete_review(kind, vendor_id)
            (event,) = GATEWAY.parse_reply(
                msgspec.structs.replace(reply, subject=vendor_id), account
            ).events
            assert event == ReviewResult(
                kind=kind, vendor_id=vendor_id, status=ReviewStatus.DELETED, vendor_code=""
            )
            for gone in (client.delete_review, client.query_review):
                with pytest.raises(Refused):
                    GATEWAY.parse_reply(await gone(kind, vendor_id), account)

        truth = vendor.truth("message")
        violations = (await http.get(f"{vendor.url}/_sandbox/violations")).json()
    sent = [(row["vendor_message_id"], row["phone"], row["content"]) for row in truth]
    assert [row[1:] for row in sent] == [
        (PHONE, "【顶想云】您的验证码是7&=八+ %。"),
        (PHONE, "【顶想云】系统将于今晚维护。"),
        (PHONE, "【顶想云】您的验证码是1。"),
        ("13509898765", "【顶想云】您的验证码是1。"),
    ]
    ids = [row[0] for row in sent]
    assert one.events == (Accepted(vendor_message_id=ids[0]),)
    assert plain.events == (Accepted(vendor_message_id=ids[1]),)
    assert two.events == (
        Accepted(vendor_message_id=ids[2], phone=PHONE),
        Accepted(vendor_message_id=ids[3], phone="13509898765"),
    )
    assert two.rows == 2
    assert violations == {"items": []}
