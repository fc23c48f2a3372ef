"""thinksms: its codes, and the requests of its page."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import msgspec
import pytest
import stamina
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from gateways.errors import (
    Garbled,
    Indeterminate,
    Malformed,
    Refused,
    Unavailable,
    Unsupported,
)
from gateways.events import (
    Accepted,
    Answer,
    Balance,
    DeliveryReport,
    InboundMessage,
    ReviewKind,
    Status,
)
from gateways.gateway import Account, Batch, Call, Callback, Client, Outgoing, Reply, Secret
from gateways.http import Transport
from gateways.thinksms import GATEWAY, documents
from gateways.thinksms.client import ThinkSmsClient

CAPTURED = Path(__file__).parent / "thinksms" / "captured"
ROW = {"mobile": "15023239810", "taskid": "1212", "status": "10", "errorcode": ""}


@pytest.fixture
def account(account_at: Callable[..., Account]) -> Account:
    return account_at("thinksms")


def _pull(account: Account, document: Any, call: Call = Call.PULL_REPORTS) -> Any:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return GATEWAY.parse_reply(Reply(call=call, headers={}, body=body), account)


@pytest.mark.parametrize(
    ("status", "errorcode", "meaning"),
    [
        ("10", "DELIVRD", Status.DELIVERED),
        ("10", "MK:0011", Status.DELIVERED),
        (10, "", Status.DELIVERED),
        ("20", "DELIVRD", Status.FAILED),
        ("20", "", Status.FAILED),
        ("20", "ACCEPTD", Status.PENDING),
        ("20", "acceptd:01", Status.PENDING),
        ("DELIVRD", "", Status.DELIVERED),
        ("delivrd", "", Status.DELIVERED),
        ("UNDELIV", "ACCEPTD", Status.FAILED),
        ("EXPIRED", "", Status.FAILED),
        ("REJECTD", "", Status.FAILED),
        ("DELETED", "", Status.FAILED),
        ("ENROUTE", "", Status.PENDING),
        ("ACCEPTD", "", Status.PENDING),
        ("UNKNOWN", "", Status.UNKNOWN),
        ("30", "DELIVRD", Status.UNKNOWN),
    ],
)
def test_report_status(account: Account, status: Any, errorcode: str, meaning: Status) -> None:
    (event,) = _pull(account, {**ROW, "status": status, "errorcode": errorcode}).events
    assert (event.status, event.vendor_code) == (meaning, str(status))
    assert event.reason == (errorcode or None)


@pytest.mark.parametrize("taskid", ["", "0", 0, "00", None])
def test_no_task_is_a_problem_for_reports_only(account: Account, taskid: Any) -> None:
    inbound = {"mobile": "15023239810", "content": "TD", "taskid": taskid}
    parsed = _pull(account, [{**ROW, "taskid": taskid}, inbound, ROW])
    assert parsed.rows == 3
    assert parsed.problems == ("row 1: taskid is empty or 0",)
    assert [type(event) for event in parsed.events] == [InboundMessage, DeliveryReport]
    assert parsed.events[0].vendor_message_id is None


def test_content_of_an_inbound_message_is_kept_as_it_is(account: Account) -> None:
    page = (
        "<returnsms><callbox><mobile>1</mobile><content> a\n&lt;b </content></callbox></returnsms>"
    )
    (event,) = _pull(account, page.encode(), Call.PULL_INBOUND).events
    assert event.content == " a\n<b "


def test_names_are_read_in_any_case_with_prefix_and_blanks(account: Account) -> None:
    page = (
        '<x:ReturnSms xmlns:x="y"><x:StatusBox a="1"><x:Mobile> 1 </x:Mobile>'
        "<TASKID>2</TASKID><Status>10</Status><more><mobile>3</mobile></more></x:StatusBox>"
        "</x:ReturnSms>"
    )
    (event,) = _pull(account, page.encode()).events
    assert (event.phone, event.vendor_message_id) == ("1", "2")
    (event,) = _pull(account, {" StatusBox ": {" MOBILE ": 1, "taskId": 2, "STATUS": 10}}).events
    assert (event.phone, event.vendor_message_id) == ("1", "2")


@pytest.mark.parametrize(
    "row", ["text", 7, None, [], {"mobile": {}}, {"mobile": True}, {**ROW, "status": [1]}]
)
def test_a_row_that_is_none_sinks_no_others(account: Account, row: Any) -> None:
    parsed = _pull(account, {"statusbox": [row, ROW]})
    assert (parsed.rows, len(parsed.events), len(parsed.problems)) == (2, 1, 1)


@pytest.mark.parametrize("document", [{}, [], {"statusbox": None}, {"StatusBox": ""}, b" \r\n"])
def test_nothing_waiting_is_no_rows(account: Account, document: Any) -> None:
    parsed = _pull(account, document)
    assert (parsed.rows, parsed.events, parsed.problems) == (0, (), ())


@pytest.mark.parametrize(
    ("document", "code", "words"),
    [
        ({"error": "1", "remark": "账号或密码为空"}, "1", "账号或密码为空"),
        ({"error": 3, "remark": "x", "statusbox": []}, "3", "x"),
        ({"ErrorStatus": [{"Error": "1", "Remark": "x"}], "statusbox": None}, "1", "x"),
        (
            {"ReturnStatus": "Faild", "Message": "用户名或密码错误"},
            "credentials",
            "用户名或密码错误",
        ),
        ({"ReturnStatus": "Faild", "Message": "系统繁忙"}, "Faild", "系统繁忙"),
        (b"<returnsms><errorstatus/></returnsms>", "errorstatus", ""),
        (b"<returnsms><error>6</error></returnsms>", "6", ""),
    ],
)
def test_refusals(account: Account, document: Any, code: str, words: str) -> None:
    with pytest.raises(Refused) as refused:
        _pull(account, document)
    assert (refused.value.code, refused.value.words) == (code, words)


@pytest.mark.parametrize(
    "document",
    [
        {"errorstatus": None, "statusbox": []},
        {"ReturnStatus": "Sucess"},
        {"error": "1", "callbox": []},
    ],
)
def test_success_is_not_taken_for_a_refusal(account: Account, document: Any) -> None:
    assert _pull(account, document).rows == 0


def test_rows_beside_an_error_are_never_lost(account: Account) -> None:
    assert len(_pull(account, {"error": "4", "remark": "x", "statusbox": [ROW]}).events) == 1
    page = (
        "<returnsms><message>ok</message><statusbox><mobile>1</mobile><taskid>2</taskid>"
        "<status>10</status></statusbox></returnsms>"
    )
    assert len(_pull(account, page.encode()).events) == 1


@pytest.mark.parametrize("document", [b"ok", {"msg": "x"}, b"null", b"7", b"<a/>", b"{"])
def test_a_reply_of_another_shape_is_garbled(account: Account, document: Any) -> None:
    with pytest.raises(Garbled):
        _pull(account, document)


def test_a_page_cut_anywhere_keeps_every_whole_row(account: Account) -> None:
    box = b"<statusbox>" + b"".join(
        f"<{name}>{value}</{name}>".encode() for name, value in ROW.items()
    )
    page = b"<returnsms>" + (box + b"</statusbox>") * 3 + b"</returnsms>"
    listed = json.dumps({"statusbox": [ROW, ROW, ROW]}).encode()
    for whole, closing in ((page, b"</statusbox>"), (listed, b"}")):
        for end in range(whole.index(closing) + len(closing), len(whole)):
            cut = whole[:end]
            parsed = _pull(account, cut)
            assert len(parsed.events) == parsed.rows == min(cut.count(closing), 3)
            assert len(parsed.problems) == 1


@pytest.mark.parametrize("charset", ["utf-8", "gbk"])
def test_a_cut_inside_a_character_garbles_no_whole_row(account: Account, charset: str) -> None:
    row = "<callbox><mobile>1</mobile><content>退订，谢谢</content></callbox>"
    page = f"<returnsms>{row}{row}</returnsms>".encode(charset)
    whole = len(f"<returnsms>{row}".encode(charset))
    for end in range(whole, len(page)):
        for event in _pull(account, page[:end], Call.PULL_INBOUND).events:
            assert event.content == "退订，谢谢"


def test_document_in_a_form_field_may_stand_beside_others(account: Account) -> None:
    body = b"id=7&data=%5B" + b'{"mobile":1,"taskid":2,"status":10}%5D'
    callback = Callback(method="POST", query=b"", headers={}, body=body)
    assert len(GATEWAY.parse_callback(callback, account).events) == 1


def test_body_goes_before_query(account: Account) -> None:
    callback = Callback(
        method="POST", query=b"mobile=2", headers={}, body=b"mobile=1&taskid=2&status=10"
    )
    (event,) = GATEWAY.parse_callback(callback, account).events
    assert isinstance(event, DeliveryReport)
    assert event.phone == "1"


def test_too_many_fields_are_malformed(account: Account) -> None:
    callback = Callback(method="POST", query=b"", headers={}, body=b"a=1&" * 20_001)
    with pytest.raises(Malformed, match="too many fields"):
        GATEWAY.parse_callback(callback, account)


def test_the_documented_send_reply_can_be_read() -> None:
    body = (CAPTURED / "document_send_reply.http").read_bytes().split(b"\n\n", 1)[1]
    page = documents.read(body)
    assert page.rows == []
    assert page.answer == {
        "returnstatus": "Success",
        "message": "ok",
        "remainpoint": 109346,
        "taskid": 365,
        "successcounts": 2,
    }


def _documented_request() -> tuple[httpx.Headers, dict[str, str]]:
    """Return headers and fields of the page's sample request (a send)."""
    text = (CAPTURED / "document_send_request.http").read_text("utf-8").split("\n\n", 1)[1]
    head, body = text.split("\n\n")
    pairs = [line.partition(": ")[::2] for line in head.split("\n")[1:]]
    return httpx.Headers(pairs), dict(parse_qsl(body))


async def _asked(account: Account, ask: Callable[[ThinkSmsClient], Any]) -> httpx.Request:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"<returnsms/>", headers={"X-A": "b"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        reply = await ask(ThinkSmsClient(account, Transport(http, 1000)))
    assert reply.body == b"<returnsms/>"
    assert reply.headers["x-a"] == "b"
    (request,) = seen
    assert request.method == "POST"
    assert "s3cret" not in str(request.url)
    assert "s3cret" not in str(request.headers)
    return request


CREDENTIALS = {
    "userid": "s3cret-user_id",
    "account": "s3cret-account",
    "password": "s3cret-password",
}


@pytest.mark.anyio
async def test_report_pull_is_that_of_the_page(account: Account) -> None:
    request = await _asked(account, lambda client: client.pull_reports(4000))
    assert request.url == "http://cloud.thinksms.cn/statusApi.aspx"
    fields = dict(parse_qsl(request.content.decode(), strict_parsing=True))
    assert fields == {"action": "query", **CREDENTIALS, "statusNum": "4000"}
    headers, documented = _documented_request()
    assert request.headers["host"] == headers["host"]
    assert request.headers["content-type"].startswith(headers["content-type"])
    assert {"action", *CREDENTIALS} <= documented.keys()


@pytest.mark.anyio
async def test_inbound_pull_is_that_of_the_page(account: Account) -> None:
    request = await _asked(account, lambda client: client.pull_inbound(4000))
    assert request.url == "http://cloud.thinksms.cn/callApi.aspx"
    fields = dict(parse_qsl(request.content.decode(), strict_parsing=True))
    assert fields == {"action": "query", **CREDENTIALS}


@pytest.mark.anyio
async def test_what_the_page_leaves_open_is_an_option(
    account_at: Callable[..., Account],
) -> None:
    account = account_at(
        "thinksms",
        "https://sms.example.com/api/",
        charset="gbk",
        report_path="r.aspx",
        inbound_path="/i.aspx",
        reply_format="json",
        own_extension="分机",
    )
    request = await _asked(account, lambda client: client.pull_inbound(10))
    assert request.url == "https://sms.example.com/api/i.aspx"
    assert request.headers["content-type"].endswith("charset=gbk")
    fields = dict(parse_qsl(request.content.decode(), encoding="gbk", strict_parsing=True))
    assert fields == {"action": "query", **CREDENTIALS, "ownExt": "分机", "rt": "json"}
    request = await _asked(account, lambda client: client.pull_reports(10))
    assert request.url == "https://sms.example.com/api/r.aspx"
    assert GATEWAY.supports == {
        *("send", "query_balance", "check_keyword", "change_password"),
        *("pull_reports", "pull_inbound"),
    }
    assert GATEWAY.methods == {"GET", "POST"}


@pytest.mark.anyio
async def test_a_pull_asks_for_as_many_reports_as_the_account_says(
    account: Account, account_at: Callable[..., Account]
) -> None:
    async with httpx.AsyncClient() as http:
        assert ThinkSmsClient(account, Transport(http, 1000)).pull_limit == 4000
        some = account_at("thinksms", status_num=200)
        assert ThinkSmsClient(some, Transport(http, 1000)).pull_limit == 200
        assert Client(account, Transport(http, 1000)).pull_limit == 0
        with pytest.raises(Unsupported, match="thinksms takes no signs for review"):
            await ThinkSmsClient(account, Transport(http, 1000)).add_review(
                ReviewKind.SIGN, name="a", content=None, remark="b"
            )
        with pytest.raises(Unsupported, match="thinksms takes no templates for review"):
            await ThinkSmsClient(account, Transport(http, 1000)).modify_review(
                ReviewKind.TEMPLATE, "1", name="a", content="c", remark="b"
            )


# --- sending -----------------------------------------------------------------------------------------


def _outgoing(phone: str, content: str | None = "您的注册验证码:8899") -> Outgoing:
    return Outgoing(phone=phone, number=f"+86 {phone}", reference="0" * 32, content=content)


def _batch(*contents: str | None, **changes: Any) -> Batch:
    texts = contents or ("您的注册验证码:8899",)
    messages = tuple(_outgoing(str(13800138000 + n), text) for n, text in enumerate(texts))
    return Batch(**{"messages": messages, "sign": "智想云创", **changes})


async def _fields(account: Account, batch: Batch, charset: str = "utf-8") -> dict[str, str]:
    request = await _asked(account, lambda client: client.send(batch))
    assert request.headers["content-type"].endswith(f"charset={charset}")
    body = request.content.decode("ascii")
    return dict(parse_qsl(body, keep_blank_values=True, strict_parsing=True, encoding=charset))


@pytest.mark.anyio
async def test_send_is_that_of_the_page(account_at: Callable[..., Account]) -> None:
    account = account_at("thinksms", reply_format="json")
    batch = Batch(
        messages=(_outgoing("13800138000"), _outgoing("15900159000")), sign="【智想云创】"
    )
    request = await _asked(account, lambda client: client.send(batch))
    headers, documented = _documented_request()
    assert request.url == f"http://{headers['host']}/sms.aspx"
    fields = dict(parse_qsl(request.content.decode(), strict_parsing=True))
    assert fields == documented | CREDENTIALS


@pytest.mark.anyio
async def test_content_that_begins_with_its_sign_gets_no_second(account: Account) -> None:
    for sign in ("智想云创", None):
        fields = await _fields(account, _batch("【智想云创】您好", sign=sign))
        assert fields["content"] == "【智想云创】您好"
    assert fields.keys() == {"action", *CREDENTIALS, "mobile", "content"}


@pytest.mark.anyio
async def test_scheduled_send_says_the_time_in_the_accounts_zone(
    account_at: Callable[..., Account],
) -> None:
    at = datetime(2026, 10, 3, 23, 5, 9, 999, timezone(timedelta(hours=-5)))
    fields = await _fields(account_at("thinksms", extension="0123"), _batch(send_at=at))
    assert fields["sendTime"] == "2026-10-04 12:05:09"
    assert fields["extno"] == "0123"


@pytest.mark.anyio
async def test_personal_texts_go_to_the_page_of_their_own(
    account_at: Callable[..., Account],
) -> None:
    address = "https://cloud.example.com/p2p.aspx"
    for options, url in (
        ({}, "http://cloud.thinksms.cn/p2p.aspx"),
        ({"p2p_path": "texts.aspx"}, "http://cloud.thinksms.cn/texts.aspx"),
        ({"p2p_path": address, "charset": "gbk"}, address),
    ):
        account = account_at("thinksms", **options)
        batch = _batch("甲", "乙 + &=%41", personal=True)
        request = await _asked(account, lambda client: client.send(batch))  # noqa: B023
        assert request.url == url
        fields = dict(parse_qsl(request.content.decode(), strict_parsing=True))
        assert fields == {
            "action": "send",
            **CREDENTIALS,
            "mobileContentList": "13800138000\t【智想云创】甲\n13800138001\t【智想云创】乙 + &=%41",
        }
    account = account_at("thinksms", p2p_separator="|", p2p_charset="gbk")
    fields = await _fields(account, _batch("甲", "乙", personal=True), "gbk")
    assert fields["mobileContentList"].count("|") == 1


@pytest.mark.parametrize(
    ("options", "send", "reports", "inbound"),
    [
        ({}, "sms.aspx", "statusApi.aspx", "callApi.aspx"),
        ({"charset": "gbk"}, "smsGBK.aspx", "statusApi.aspx", "callApi.aspx"),
        ({"auth": "md5"}, "sms.aspx", "statusApi.aspx", "callApi.aspx"),
        ({"auth": "signed"}, "v2sms.aspx", "v2statusApi.aspx", "v2callApi.aspx"),
        (
            {"auth": "signed", "charset": "gbk"},
            *("v2smsGBK.aspx", "v2statusApi.aspx", "v2callApi.aspx"),
        ),
        (
            {"auth": "signed", "send_path": "a", "report_path": "/b", "inbound_path": "c/d"},
            *("a", "b", "c/d"),
        ),
    ],
)
@pytest.mark.anyio
async def test_paths_follow_from_auth_and_charset_unless_given(
    account_at: Callable[..., Account],
    options: dict[str, str],
    send: str,
    reports: str,
    inbound: str,
) -> None:
    account = account_at("thinksms", **options)
    calls: dict[str, list[Callable[[ThinkSmsClient], Any]]] = {
        send: [
            lambda client: client.send(_batch()),
            lambda client: client.query_balance(),
            lambda client: client.check_keyword("您好"),
            lambda client: client.change_password(Secret("s3cret-new")),
        ],
        reports: [lambda client: client.pull_reports(9)],
        inbound: [lambda client: client.pull_inbound(9)],
    }
    for path, asked in calls.items():
        for ask in asked:
            assert (await _asked(account, ask)).url == f"http://cloud.thinksms.cn/{path}"


@pytest.mark.anyio
async def test_questions_and_the_password_change_are_those_of_the_page(account: Account) -> None:
    for ask, fields in (
        (lambda client: client.query_balance(), {"action": "overage"}),
        (
            lambda client: client.check_keyword("a b&您好"),
            {"action": "checkkeyword", "content": "a b&您好"},
        ),
        (
            lambda client: client.change_password(Secret("s3cret-new")),
            {"action": "changespwd", "newpwd": "s3cret-new", "renewpwd": "s3cret-new"},
        ),
    ):
        request = await _asked(account, ask)
        assert dict(parse_qsl(request.content.decode())) == fields | CREDENTIALS


@pytest.mark.anyio
async def test_signed_calls_bear_the_time_of_24_hours_and_no_password(
    account_at: Callable[..., Account],
) -> None:
    account = account_at("thinksms", auth="signed")
    with time_machine.travel(datetime(2026, 10, 3, 9, 8, 7, tzinfo=UTC), tick=False):
        fields = await _fields(account, _batch())
    # printf 's3cret-accounts3cret-password20261003170807' | md5sum
    assert fields["timestamp"] == "20261003170807"
    assert fields["sign"] == "29bb32596a3152670a041304d1eaa896"
    assert fields["userid"] == CREDENTIALS["userid"]
    assert not {"account", "password"} & fields.keys()
    assert "s3cret-account" not in str(fields)
    assert "s3cret-password" not in str(fields)


@pytest.mark.anyio
async def test_md5_calls_bear_the_password_as_md5_in_capitals(
    account_at: Callable[..., Account],
) -> None:
    fields = await _fields(account_at("thinksms", auth="md5"), _batch())
    assert fields["password"] == hashlib.md5(b"s3cret-password").hexdigest().upper()
    assert fields["account"] == CREDENTIALS["account"]


@pytest.mark.anyio
async def test_only_questions_are_asked_again(account: Account) -> None:
    actions: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        actions.append(dict(parse_qsl(request.content.decode()))["action"])
        return httpx.Response(500)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = ThinkSmsClient(account, Transport(http, 1000))
        with stamina.set_testing(True, attempts=2, cap=True):
            for ask in (client.send(_batch()), client.change_password(Secret("new"))):
                with pytest.raises(Indeterminate):
                    await ask
            for question in (client.query_balance(), client.check_keyword("您好")):
                with pytest.raises(Unavailable):
                    await question
    assert actions == ["send", "changespwd", *["overage"] * 2, *["checkkeyword"] * 2]


@pytest.mark.anyio
async def test_a_request_has_as_many_numbers_as_the_account_says(
    account: Account, account_at: Callable[..., Account]
) -> None:
    async with httpx.AsyncClient() as http:
        usual = ThinkSmsClient(account, Transport(http, 1000))
        assert (usual.numbers_per_send, usual.texts_per_send) == (1000, 200)
        other = account_at("thinksms", numbers_per_send=50_000, texts_per_send=1)
        set_ = ThinkSmsClient(other, Transport(http, 1000))
        assert (set_.numbers_per_send, set_.texts_per_send) == (50_000, 1)


def _said(account: Account, batch: Batch) -> tuple[str, ...]:
    assert GATEWAY.check_send is not None
    return GATEWAY.check_send(batch, account)


GBK = {"charset": "gbk", "p2p_charset": "gbk"}


@pytest.mark.parametrize(
    ("options", "batch", "words"),
    [
        ({}, _batch(), None),
        ({}, _batch("【智想】您好", sign=None), None),
        ({}, _batch("😀𠮷\t\n"), None),
        ({}, _batch(None), "content is missing"),
        ({}, _batch(" \n"), "content is missing"),
        ({}, _batch("您好", "", personal=True), "content is missing"),
        ({}, _batch(None, template_id="7"), "template_id"),
        ({}, _batch("您好", template_id="7"), "template_id"),
        ({}, _batch("\ud800"), "cannot be written in utf-8"),
        (GBK, _batch("“您好”——￥①"), None),
        (GBK, _batch("您好😀"), "cannot be written in gbk"),
        (GBK, _batch("您好", sign="𠮷"), "cannot be written in gbk"),
        (GBK, _batch("您好", "€", personal=True), "cannot be written in gbk"),
        ({"charset": "gbk"}, _batch("您好", "€", personal=True), None),
        ({}, _batch("您\t好", personal=True), "TAB"),
        ({}, _batch("您\n好", personal=True), "TAB"),
        ({}, _batch("您好\r", personal=True), "TAB"),
        ({}, _batch("您|好", personal=True), None),
        ({"p2p_separator": "|"}, _batch("您\n好", personal=True), None),
        ({"p2p_separator": "|"}, _batch("您|好", personal=True), "TAB"),
        ({"p2p_separator": "||"}, _batch("您|好", personal=True), None),
        ({"p2p_separator": "||"}, _batch("您好|", personal=True), "TAB"),
    ],
)
def test_what_cannot_be_sent_is_said_before(
    account_at: Callable[..., Account],
    options: dict[str, str],
    batch: Batch,
    words: str | None,
) -> None:
    said = _said(account_at("thinksms", **options), batch)
    assert len(said) == (words is not None)
    assert (words or "") in "".join(said)
    assert "您" not in "".join(said)


_TEXTS = st.text(st.sampled_from("您好a|#\t\n\r \u2028"), min_size=1, max_size=6)


@pytest.mark.anyio
@given(
    texts=st.lists(_TEXTS, min_size=1, max_size=5),
    separator=st.sampled_from(["\n", "\r\n", "|", "||", "#|#", "\u2028"]),
)
async def test_personal_texts_that_may_be_sent_can_be_told_apart(
    account_at: Callable[..., Account], texts: list[str], separator: str
) -> None:
    account = account_at("thinksms", p2p_separator=separator)
    batch = _batch(*texts, personal=True)
    if _said(account, batch):
        return
    listed = (await _fields(account, batch))["mobileContentList"]
    assert [item.split("\t") for item in listed.split(separator)] == [
        [one.phone, f"【智想云创】{one.content}"] for one in batch.messages
    ]


@pytest.mark.parametrize("separator", ["", "\t", "a1", "\t|"])
def test_separator_that_parts_nothing_is_refused(separator: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"p2p_separator": separator}, GATEWAY.options)


# --- replies -----------------------------------------------------------------------------------------


def _read(account: Account, call: Call, document: Any) -> Any:
    return _pull(account, document, call)


SENT = {"ReturnStatus": "Success", "Message": "ok", "TaskID": 365}


@pytest.mark.parametrize(
    ("fields", "events"),
    [
        ({}, (Accepted(vendor_message_id="365"),)),
        ({"TaskID": " 365 ", "SuccessCounts": "2"}, (Accepted(vendor_message_id="365", taken=2),)),
        ({"SuccessCounts": 0}, (Accepted(vendor_message_id="365", taken=0),)),
        ({"SuccessCounts": "many"}, (Accepted(vendor_message_id="365"),)),
        (
            {"RemainPoint": -1.5},
            (
                Accepted(vendor_message_id="365"),
                Balance(kind="remainpoint", amount=Decimal("-1.5")),
            ),
        ),
        ({"RemainPoint": None}, (Accepted(vendor_message_id="365"),)),
        ({"ReturnStatus": "SUCCESS"}, (Accepted(vendor_message_id="365"),)),
        ({"TaskID": 10**25}, (Accepted(vendor_message_id="1" + "0" * 25),)),
    ],
)
def test_a_send_that_was_taken(
    account: Account, fields: dict[str, Any], events: tuple[Any, ...]
) -> None:
    parsed = _read(account, Call.SEND, SENT | fields)
    assert (parsed.events, parsed.rows, parsed.problems) == (events, len(events), ())


@pytest.mark.parametrize("point", ["1e5", "NaN", "１", "9" * 19, "1,000", "ok"])
def test_a_balance_that_is_no_number_is_a_problem_and_sinks_nothing(
    account: Account, point: str
) -> None:
    parsed = _read(account, Call.SEND, SENT | {"RemainPoint": point})
    assert parsed.events == (Accepted(vendor_message_id="365"),)
    assert parsed.problems == ("remainpoint is no number",)
    with pytest.raises(Garbled, match="overage is no number"):
        _read(account, Call.QUERY_BALANCE, {"Overage": point})


@pytest.mark.parametrize("task", [0, "0", "", "00", None, [], "1" * 129, [1], {"a": 1}])
def test_a_success_without_a_usable_task_is_garbled(account: Account, task: Any) -> None:
    with pytest.raises(Garbled):
        _read(account, Call.SEND, SENT | {"TaskID": task})


@pytest.mark.parametrize(
    "document",
    [b"", b"<returnsms/>", {}, {"Message": "ok"}, {"TaskID": 365}, b"ok", [SENT], {"result": "{"}],
)
def test_a_send_answered_with_anything_else_is_garbled(account: Account, document: Any) -> None:
    with pytest.raises(Garbled):
        _read(account, Call.SEND, document)


@pytest.mark.parametrize("call", [Call.SEND, Call.QUERY_BALANCE, Call.CHECK_KEYWORD])
def test_rows_are_no_answer_to_a_question(account: Account, call: Call) -> None:
    with pytest.raises(Garbled, match="rows"):
        _read(account, call, [ROW])


def test_an_answer_is_no_page_of_rows(account: Account) -> None:
    for document in (
        {"Message": "没有包含屏蔽词"},
        {"code": 1, "message": "no"},
        b"<returnsms><overage>1</overage></returnsms>",
    ):
        with pytest.raises(Garbled):
            _pull(account, document)


def test_a_call_that_the_platform_lacks_is_garbled(account: Account) -> None:
    with pytest.raises(Garbled, match="has no list_sent"):
        _read(account, Call.LIST_SENT, SENT)


@pytest.mark.parametrize("fields", [{"TaskID": 365}, {"TaskID": 0, "SuccessCounts": 1}])
def test_a_failure_that_took_something_leaves_it_open(
    account: Account, fields: dict[str, Any]
) -> None:
    with pytest.raises(Indeterminate):
        _read(account, Call.SEND, SENT | {"ReturnStatus": "Faild"} | fields)
    with pytest.raises(Refused):
        _read(account, Call.QUERY_BALANCE, SENT | {"ReturnStatus": "Faild"} | fields)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("用户名或密码错误", "credentials"),
        ("用户名或密码不能为空", "credentials"),
        ("sign参数错误", "credentials"),
        ("对不起,您的余额不足", "balance"),
        ("发送条数大于余额", "balance"),
        ("敏感词(账号或密码错误,余额)", "forbidden_words"),
        ("包含非法字符:签名", "forbidden_words"),
        ("内容包含sql注入字符", "forbidden_words"),
        ("手机号码为空", "phone_missing"),
        ("手机号码不能为空", "phone_missing"),
        ("发送内容为空", "content_missing"),
        ("需要签名", "sign"),
        ("短信必须带【】格式签名", "sign"),
        ("其它错误", "Faild"),
        ("", "Faild"),
    ],
)
def test_refusals_are_placed_by_their_words(account: Account, words: str, code: str) -> None:
    document = {"ReturnStatus": "Faild", "Message": words, "TaskID": 0, "SuccessCounts": 0}
    with pytest.raises(Refused) as refused:
        _read(account, Call.SEND, document)
    assert (refused.value.code, refused.value.words) == (code, words)


@pytest.mark.parametrize(
    ("document", "positive"),
    [
        ({"Message": "没有包含屏蔽词"}, True),
        ({"Message": "不包含非法字符"}, True),
        ({"Message": "包含非法字符"}, False),
        ({"Message": "包含屏蔽词:贷款"}, False),
        ({"ReturnStatus": "Faild", "Message": "包含非法字符"}, False),
        ({"ReturnStatus": "Success", "Message": "没有包含屏蔽词"}, True),
        ({"ReturnStatus": "Success", "Message": "ok"}, None),
        ({"Message": "没有"}, None),
    ],
)
def test_a_keyword_check_is_read_by_its_words(
    account: Account, document: dict[str, str], positive: bool | None
) -> None:
    parsed = _read(account, Call.CHECK_KEYWORD, document)
    assert parsed.events == (Answer(words=document["Message"], positive=positive),)


@pytest.mark.parametrize("call", [Call.CHECK_KEYWORD, Call.CHANGE_PASSWORD])
def test_a_refusal_in_words_alone_is_one(account: Account, call: Call) -> None:
    with pytest.raises(Refused) as refused:
        _read(account, call, {"Message": "用户名或密码错误"})
    assert refused.value.code == "credentials"
    with pytest.raises(Garbled, match="message is missing"):
        _read(account, call, b"<returnsms><message/></returnsms>")


@pytest.mark.parametrize(
    ("document", "answer"),
    [
        (
            {"ReturnStatus": "Success", "Message": "修改成功"},
            Answer(words="修改成功", positive=True),
        ),
        ({"ReturnStatus": "Success"}, Answer(words="Success", positive=True)),
        ({"Message": "修改成功"}, Answer(words="修改成功", positive=None)),
    ],
)
def test_a_password_change_is_done_where_the_status_says_so(
    account: Account, document: dict[str, str], answer: Answer
) -> None:
    assert _read(account, Call.CHANGE_PASSWORD, document).events == (answer,)


_ANSWERS = st.dictionaries(
    st.sampled_from(
        ["ReturnStatus", "Message", "RemainPoint", "TaskID", "SuccessCounts", "Overage", "result"]
    ),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9)
    | st.sampled_from(["Success", "Faild", "0", "没有包含屏蔽词", '{"TaskID":1}', "<returnsms/>"]),
)


@given(fields=_ANSWERS, call=st.sampled_from(sorted(Call)))
def test_any_value_in_an_answer_is_read_or_refused(
    account_at: Callable[..., Account], fields: dict[str, Any], call: Call
) -> None:
    account = account_at("thinksms")
    try:
        parsed = _read(account, call, fields)
    except (Garbled, Refused):
        return
    except Indeterminate:
        assert call is Call.SEND
        return
    assert len(parsed.events) <= parsed.rows
    for event in parsed.events:
        if isinstance(event, Balance):
            assert event.amount.is_finite()


TEXTS = st.sampled_from(
    ["", "10", " 退订 ", "a&amp;b", "<![CDATA[<b>]]>", "<!-- x -->7", "&#20013;"]
)
FIELDS = st.tuples(
    st.sampled_from(["mobile", "TaskId", "status", "x:status", "errorcode", "statusbox"]), TEXTS
)


@given(
    rows=st.lists(st.tuples(st.sampled_from(["statusbox", "CallBox", "error"]), st.lists(FIELDS))),
    head=st.sampled_from(["", '<?xml version="1.0" encoding="gb2312"?>', "<!DOCTYPE returnsms>"]),
    root=st.sampled_from(["returnsms", "ReturnSMS", "returnsms xmlns='u'", "other"]),
    cut=st.integers(0, 30),
)
def test_a_plain_document_has_the_rows_that_every_other_has(
    rows: list[tuple[str, list[tuple[str, str]]]], head: str, root: str, cut: int
) -> None:
    boxes = "".join(
        f"<{box}>{''.join(f'<{name}>{text}</{name}>' for name, text in fields)}</{box}>\n"
        for box, fields in rows
    )
    text = f"{head}<{root}>{boxes}</{root.split(' ')[0]}>"
    text = text[: len(text) - cut] if cut else text
    plain = documents._plain_rows(text)
    if plain is not None:
        assert plain == documents._xml_rows(text)
