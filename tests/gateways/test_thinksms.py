"""thinksms: its codes, and the requests of its page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from gateways.errors import Garbled, Malformed, Refused, Unsupported
from gateways.events import DeliveryReport, InboundMessage, ReviewKind, Status
from gateways.gateway import Account, Call, Callback, Client, Reply
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
        ({"ReturnStatus": "Faild", "Message": "用户名或密码错误"}, "Faild", "用户名或密码错误"),
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
    assert GATEWAY.supports == {"pull_reports", "pull_inbound"}
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
