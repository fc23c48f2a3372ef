"""ThinkAPI: its codes, the almost-JSON of its page, and the requests its page describes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways.errors import Garbled, Indeterminate, Malformed, Refused, Unsupported
from gateways.events import DeliveryReport, ReviewKind, ReviewResult, ReviewStatus, Status
from gateways.gateway import Account, Call, Callback, Reply
from gateways.http import Transport
from gateways.thinkapi import GATEWAY, codes, documents
from gateways.thinkapi.client import ThinkApiClient
from gateways.thinkapi.reviews import review_warnings

CAPTURED = Path(__file__).parent / "thinkapi" / "captured"


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
    envelope = documents.read(text.encode(), documents.ENVELOPE)
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
        documents.read(text.encode(), documents.ENVELOPE)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=10,
)


@given(_JSON)
def test_repairing_json_changes_nothing(value: Any) -> None:
    for indent in (None, 1):
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        assert json.loads(documents._repaired(text)) == value


@pytest.mark.parametrize(
    ("name", "message", "data"),
    [
        ("send", "发送成功", {"id": "6055df2f45e10"}),
        ("delete_sign", "删除成功", None),
        ("delete_template", "删除成功", None),
    ],
)
def test_every_documented_reply_can_be_read(
    name: str, message: str, data: dict[str, Any] | None
) -> None:
    body = (CAPTURED / f"document_{name}.http").read_bytes().split(b"\n\n", 1)[1]
    envelope = documents.read(body, documents.ENVELOPE)
    assert (envelope.code, envelope.message) == (0, message)
    if data is None:
        assert envelope.data in documents.ABSENT
    else:
        assert data.items() <= json.loads(bytes(envelope.data)).items()


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
    assert GATEWAY.supports == {"query_status", "query_review", "add_review", "modify_review"}


# 接口3, 5, 7 and 9: paths and parameters, appCode in the header. modify_template's table has no
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
