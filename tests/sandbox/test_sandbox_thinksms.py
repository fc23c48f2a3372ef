"""The pretend thinksms does what vendor-docs/000 and vendors.md 1 say."""

import contextlib
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit
from xml.etree import ElementTree

import httpx
import pytest

from sandbox.settings import Faults, Outcomes

pytestmark = pytest.mark.anyio

AT = "2026-10-03T10:00:00+08:00"
PULL = {"sms_hand_out": "pull"}


def fields(element: ElementTree.Element) -> dict[str, str]:
    return {child.tag: child.text or "" for child in element}


async def test_send_answers_the_documented_json(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        reply = await it.sms(
            "sms.aspx",
            "send",
            method="POST",
            mobile="13800138000,15900159000",
            content="【智想云创】您的注册验证码:8899",
            extno="",
            rt="json",
        )
        body = reply.json()
        assert list(body) == ["ReturnStatus", "Message", "RemainPoint", "TaskID", "SuccessCounts"]
        assert (body["ReturnStatus"], body["Message"], body["SuccessCounts"]) == (
            "Success",
            "ok",
            2,
        )
        assert type(body["TaskID"]) is int
        assert body["RemainPoint"] == 999_998
        rows = it.handle.truth("message")
        assert {row["vendor_message_id"] for row in rows} == {str(body["TaskID"])}
        assert [row["phone"] for row in rows] == ["13800138000", "15900159000"]


async def test_send_answers_xml_unless_asked_otherwise(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        reply = await it.sms("sms.aspx", "send", mobile="13800138000", content="【智想】您好")
        root = ElementTree.fromstring(reply.text)
        assert root.tag == "returnsms"
        assert list(fields(root)) == [
            "returnstatus", "message", "remainpoint", "taskID", "successCounts",
        ]  # fmt: skip
        assert fields(root)["returnstatus"] == "Success"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"content": "您好【智想】"}, "短信必须带【】格式签名"),
        ({"content": ""}, "短信内容不能为空"),
        ({"mobile": ""}, "手机号码为空"),
        ({"password": "no"}, "用户名或密码错误"),
        ({"password": ""}, "用户名或密码不能为空"),
        ({"content": "【智想】赌博"}, "包含非法字符:赌博"),
        ({"sendTime": "tomorrow"}, "定时发送时间格式错误"),
        ({"surprise": "1"}, "参数错误:surprise"),
    ],
)
async def test_send_fails_with_the_vendors_word_for_it(
    configure: Any, play: Any, changes: dict[str, str], words: str
) -> None:
    good = {"mobile": "13800138000", "content": "【智想】您好", "rt": "json"}
    async with play(configure()) as it:
        body = (await it.sms("sms.aspx", "send", **(good | changes))).json()
        assert (body["ReturnStatus"], body["Message"]) == ("Faild", words)
        assert body["TaskID"] == 0
        assert it.handle.truth("message") == []


async def test_numbers_that_are_none_and_repeated_ones_are_not_counted(
    configure: Any, play: Any
) -> None:
    async with play(configure()) as it:
        mobile = "13800138000,123,13800138000,15900159000"
        reply = await it.sms("sms.aspx", "send", mobile=mobile, content="【智想】您好", rt="json")
        assert reply.json()["SuccessCounts"] == 2


async def test_gbk_endpoint_reads_and_answers_gbk(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        content = quote("【智想】您好".encode("gbk"))
        reply = await it.http.get(
            "/thinksms/smsGBK.aspx?action=send&userid=1001&account=acc&password=pw"
            f"&mobile=13800138000&content={content}"
        )
        assert reply.content.startswith(b'<?xml version="1.0" encoding="gb2312" ?>')
        assert b"<returnstatus>Success</returnstatus>" in reply.content
        assert it.handle.truth("message")[0]["content"] == "【智想】您好"
        refused = await it.sms("smsGBK.aspx", "send", mobile="13800138000", content="x")
        assert "短信必须带【】格式签名" in refused.content.decode("gb18030")


async def test_overage_spells_success_with_one_c(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        await it.sms_send("13800138000")
        root = ElementTree.fromstring((await it.sms("sms.aspx", "overage")).text)
        assert fields(root) == {
            "returnstatus": "Sucess",
            "message": "",
            "payinfo": "预付费",
            "overage": "999999",
            "sendTotal": "1",
        }
        body = (await it.sms("sms.aspx", "overage", rt="json")).json()
        assert (body["Payinfo"], body["Overage"], body["SendTotal"]) == ("预付费", 999999, 1)


async def test_keyword_check_and_password_change(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        clean = await it.sms("sms.aspx", "checkkeyword", content="你好", rt="json")
        dirty = await it.sms("sms.aspx", "checkkeyword", content="赌博")
        assert clean.json() == {"Message": "没有包含屏蔽词"}
        assert "<message>包含非法字符</message>" in dirty.text
        changed = await it.sms("sms.aspx", "changespwd", newpwd="n", renewpwd="n", rt="json")
        assert changed.json()["ReturnStatus"] == "Success"
        body = (await it.sms("sms.aspx", "overage", rt="json")).json()
        assert body["Message"] == "用户名或密码错误"


async def test_p2p_sends_each_number_its_own_text(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        pairs = "13800138000\t【智想】甲\n15900159000\t【智想】乙"
        reply = await it.sms("p2p.aspx", "send", method="POST", mobileContentList=pairs, rt="json")
        assert reply.json()["SuccessCounts"] == 2
        assert [row["content"] for row in it.handle.truth("message")] == [
            "【智想】甲",
            "【智想】乙",
        ]


async def test_report_page_hands_each_row_out_once(configure: Any, play: Any) -> None:
    async with play(configure(**PULL)) as it:
        task = await it.sms_send("13800138000,13800138001,13800138002", at=AT)
        await it.handle.release()
        pages = [
            ElementTree.fromstring((await it.sms("statusApi.aspx", "query", statusNum="2")).text)
            for _ in range(3)
        ]
        assert [len(page) for page in pages] == [2, 1, 0]
        row = fields(pages[0][0])
        assert pages[0][0].tag == "statusbox"
        assert (row["mobile"], row["taskid"], row["status"]) == ("13800138000", task, "10")
        assert row["receivetime"].startswith("2026-10-03 1")
        assert row["errorcode"]
        assert {row["reports"][0]["handed"] for row in it.handle.truth("message")} == {"pull"}


async def test_report_page_in_json_has_pascal_case_and_bare_numbers(
    configure: Any, play: Any
) -> None:
    async with play(configure(outcomes=Outcomes(1.0, 0.0), **PULL)) as it:
        task = await it.sms_send("13800138000")
        await it.handle.release()
        (row,) = (await it.sms("statusApi.aspx", "query", rt="json")).json()["StatusBox"]
        assert list(row) == ["Mobile", "TaskID", "Status", "ReceiveTime", "ErrorCode", "ExtNo"]
        assert (row["Mobile"], row["TaskID"], row["Status"]) == ("13800138000", int(task), 20)


async def test_query_errors_are_the_documented_table(configure: Any, play: Any) -> None:
    async with play(configure(sms_reply_charset="gb2312")) as it:
        reply = await it.sms("statusApi.aspx", "query", password="wrong")
        assert b'encoding="gb2312"' in reply.content
        words = reply.content.decode("gb18030")
        assert "<errorstatus><error>2</error><remark>用户名或密码错误</remark>" in words
        reply = await it.sms("callApi.aspx", "query", password="")
        assert "<error>1</error>" in reply.content.decode("gb18030")
        reply = await it.sms("statusApi.aspx", "query", statusNum="many")
        assert "<error>4</error>" in reply.content.decode("gb18030")


async def test_what_was_pushed_is_not_pulled_and_an_unanswered_push_is(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure()) as it:
        await it.sms_send("13800138000")
        await it.handle.release()
        customer.answer = 503
        await it.sms_send("13800138001")
        await it.handle.release()
        (row,) = (await it.sms("statusApi.aspx", "query", rt="json")).json()["StatusBox"]
        assert row["Mobile"] == "13800138001"
    assert len(customer.received) == 2


async def test_share_of_reports_is_for_pull_only(configure: Any, play: Any, customer: Any) -> None:
    async with play(configure(sms_pull_share=0.5)) as it:
        await it.sms_send(",".join(str(13800138000 + number) for number in range(60)))
        await it.handle.release()
        rows = (await it.sms("statusApi.aspx", "query", rt="json")).json()["StatusBox"]
        assert 10 < len(rows) < 50
        assert len(rows) + len(customer.received) == 60


@pytest.mark.parametrize("push_format", ["form", "query", "json", "xml"])
async def test_push_formats(configure: Any, play: Any, customer: Any, push_format: str) -> None:
    async with play(configure(sms_push_format=push_format)) as it:
        task = await it.sms_send("13800138000", at=AT)
        await it.handle.release()
    (push,) = customer.received
    if push_format == "json":
        row = json.loads(push.body)
        assert (row["Mobile"], row["TaskID"], row["Status"]) == ("13800138000", int(task), 10)
        return
    if push_format == "xml":
        row = fields(ElementTree.fromstring(push.body)[0])
    else:
        query = urlsplit(push.target).query if push_format == "query" else push.body.decode()
        assert push.method == ("GET" if push_format == "query" else "POST")
        row = dict(parse_qsl(query, keep_blank_values=True))
    assert (row["mobile"], row["taskid"], row["status"]) == ("13800138000", task, "10")


async def test_many_reports_in_one_push(configure: Any, play: Any, customer: Any) -> None:
    async with play(configure(sms_push_format="json", sms_push_many=4)) as it:
        await it.sms_send(",".join(str(13800138000 + number) for number in range(10)))
        await it.handle.release()
        assert {row["reports"][0]["handed"] for row in it.handle.truth("message")} == {"push"}
    sizes = [len(json.loads(push.body)) for push in customer.received]
    assert sorted(sizes) == [2, 4, 4]


async def test_inbound_messages_are_handed_out_once_and_by_extension(
    configure: Any, play: Any
) -> None:
    async with play(configure()) as it:
        items = [
            {"phone": "13800138000", "content": "TD", "extno": "01", "at": AT},
            {"phone": "13800138001", "content": "收到", "extno": "02", "at": AT},
        ]
        order = {"vendor": "thinksms", "account": "sms-main", "items": items}
        assert (await it.http.post("/_sandbox/inbound", json=order)).json() == {"received": 2}
        await it.handle.release()
        (row,) = (await it.sms("callApi.aspx", "query", ownExt="02", rt="json")).json()["CallBox"]
        assert (row["Mobile"], row["Content"]) == ("13800138001", "收到")
        assert row["ReceiveTime"] in ("2026-10-03 10:00:00", "2026/10/3 10:00:00")
        root = ElementTree.fromstring((await it.sms("callApi.aspx", "query")).text)
        assert [fields(box)["content"] for box in root] == ["TD"]
        assert root[0].tag == "callbox"
        assert len(ElementTree.fromstring((await it.sms("callApi.aspx", "query")).text)) == 0


async def test_handsets_reply_by_rate(configure: Any, play: Any) -> None:
    async with play(configure(sms_inbound_rate=1.0)) as it:
        await it.sms_send("13800138000,13800138001")
        assert await it.handle.release() == {"reports": 2, "inbound": 2}
        assert len((await it.sms("callApi.aspx", "query", rt="json")).json()["CallBox"]) == 2


@pytest.mark.parametrize("fault", ["reply_429", "reply_500"])
async def test_refused_page_consumes_nothing(configure: Any, play: Any, fault: str) -> None:
    faults = Faults(reply_429=0.5) if fault == "reply_429" else Faults(reply_500=0.5)
    async with play(configure(faults=faults, **PULL)) as it:
        await it.sms_send("13800138000")
        await it.handle.release()
        seen: list[Any] = []
        while not seen:
            reply = await it.sms("statusApi.aspx", "query", rt="json")
            if reply.status_code == 200:
                seen = reply.json()["StatusBox"]
            elif fault == "reply_429":
                assert reply.status_code == 429
                assert reply.headers["retry-after"] == "1"
        assert len(seen) == 1


async def test_cut_page_is_lost_and_the_truth_says_what_stood_in_it(
    configure: Any, play: Any
) -> None:
    async with play(configure(faults=Faults(page_cut=1.0), **PULL)) as it:
        await it.sms_send("13800138000,13800138001,13800138002,13800138003")
        await it.handle.release()
        got = b""
        url = "/thinksms/statusApi.aspx?action=query&userid=1001&account=acc&password=pw"
        async with it.http.stream("GET", url) as reply:
            with contextlib.suppress(httpx.RemoteProtocolError):
                async for part in reply.aiter_raw():
                    got += part
            assert len(got) < int(reply.headers["content-length"])
        (row,) = it.handle.truth("reply")
        assert row["kind"] == "page_cut"
        assert len(row["lost"]) == 4
        whole = [lost["phone"] for lost in row["lost"] if lost["salvageable"]]
        assert len(whole) == got.count(b"</statusbox>")
        for message in it.handle.truth("message"):
            assert message["expected"] == ["report_missing"]
            assert message["reports"][0]["handed"] == "cut"


async def test_post_paid_balance_may_go_below_zero(configure: Any, play: Any) -> None:
    async with play(configure(sms_payinfo="后付费", sms_balance=0)) as it:
        await it.sms_send("13800138000")
        assert (await it.sms("sms.aspx", "overage", rt="json")).json()["Overage"] == -1
    async with play(configure(sms_balance=0)) as it:
        reply = await it.sms("sms.aspx", "send", mobile="13800138000", content="【智想】好")
        assert "<message>余额不足</message>" in reply.text


def signature(timestamp: str, account: str = "acc", password: str = "pw") -> dict[str, str]:
    sign = hashlib.md5(f"{account}{password}{timestamp}".encode()).hexdigest()
    return {"timestamp": timestamp, "sign": sign}


def shanghai(seconds: float = 0) -> str:
    at = datetime.now(UTC) + timedelta(hours=8, seconds=seconds)
    return at.strftime("%Y%m%d%H%M%S")


async def ask_signed(it: Any, path: str, action: str, **params: str) -> httpx.Response:
    fields = {"action": action, "userid": "1001", "rt": "json", **params}
    reply: httpx.Response = await it.http.post(f"/thinksms/{path}", data=fields)
    return reply


async def test_v2_family_takes_signatures_and_nothing_else(configure: Any, play: Any) -> None:
    async with play(configure(**PULL)) as it:
        text = {"mobile": "13800138000", "content": "【智想】您好"}
        signed = await ask_signed(it, "v2sms.aspx", "send", **text, **signature(shanghai()))
        assert signed.json()["ReturnStatus"] == "Success"
        upper = signature(shanghai())
        upper["sign"] = upper["sign"].upper()
        overage = await ask_signed(it, "v2sms.aspx", "overage", **upper)
        assert overage.json()["Overage"] == 999_999
        await it.handle.release()
        page = await ask_signed(it, "v2statusApi.aspx", "query", **signature(shanghai()))
        assert len(page.json()["StatusBox"]) == 1
        inbound = await ask_signed(it, "v2callApi.aspx", "query", **signature(shanghai()))
        assert inbound.json() == {"CallBox": []}
        pairs = {"mobileContentList": "13800138000\t【智想】甲"}
        p2p = await ask_signed(it, "p2p.aspx", "send", **pairs, **signature(shanghai()))
        assert p2p.json()["SuccessCounts"] == 1
        plain = {"account": "acc", "password": "pw"}
        refused = await ask_signed(it, "v2sms.aspx", "overage", **plain)
        assert refused.json()["Message"] == "参数错误:account,password"


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        (signature("20261003100000"), "sign参数错误"),
        (signature(shanghai(3600)), "sign参数错误"),
        (signature("20269999999999"), "sign参数错误"),
        (signature("now"), "sign参数错误"),
        (signature(shanghai(), password="no"), "sign参数错误"),
        ({"timestamp": shanghai()}, "用户名或密码不能为空"),
        ({"sign": "x"}, "用户名或密码不能为空"),
    ],
)
async def test_signatures_that_are_refused(
    configure: Any, play: Any, proof: dict[str, str], words: str
) -> None:
    async with play(configure()) as it:
        reply = await ask_signed(it, "v2sms.aspx", "overage", **proof)
        assert reply.json()["Message"] == words
        page = await ask_signed(it, "v2statusApi.aspx", "query", **proof)
        assert page.json()["ErrorStatus"]["Remark"] == words


async def test_any_timestamp_will_do_without_a_window(configure: Any, play: Any) -> None:
    async with play(configure(sms_sign_window_seconds=0)) as it:
        reply = await ask_signed(it, "v2sms.aspx", "overage", **signature("20200101120000"))
        assert reply.json()["ReturnStatus"] == "Sucess"


async def test_v2_gbk_twin_reads_and_answers_gbk(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        proof = "&".join(f"{name}={value}" for name, value in signature(shanghai()).items())
        content = quote("【智想】您好".encode("gbk"))
        reply = await it.http.get(
            f"/thinksms/v2smsGBK.aspx?action=send&userid=1001&{proof}"
            f"&mobile=13800138000&content={content}"
        )
        assert reply.content.startswith(b'<?xml version="1.0" encoding="gb2312" ?>')
        assert it.handle.truth("message")[0]["content"] == "【智想】您好"


async def test_fork_takes_the_md5_of_the_password_only(configure: Any, play: Any) -> None:
    async with play(configure(sms_password_md5=True)) as it:
        md5 = hashlib.md5(b"pw").hexdigest().upper()
        taken = await it.sms("sms.aspx", "overage", password=md5, rt="json")
        assert taken.json()["ReturnStatus"] == "Sucess"
        for password in ("pw", md5.lower()):
            refused = await it.sms("sms.aspx", "overage", password=password, rt="json")
            assert refused.json()["Message"] == "用户名或密码错误"


async def test_scheduled_send_is_dated_by_its_schedule(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        await it.sms(
            "sms.aspx",
            "send",
            at=AT,
            mobile="13800138000",
            content="【智想】您好",
            sendTime="2026-10-05 09:08:10",
        )
        (row,) = it.handle.truth("message")
        assert row["sent_at"] == datetime(2026, 10, 5, 1, 8, 10, tzinfo=UTC)


@pytest.mark.parametrize("path", ["sms.aspx", "p2p.aspx"])
async def test_extension_is_digits_and_comes_back_in_the_report(
    configure: Any, play: Any, path: str
) -> None:
    text = {"mobile": "13800138000", "content": "【智想】您好"}
    if path == "p2p.aspx":
        text = {"mobileContentList": "13800138000\t【智想】您好"}
    async with play(configure(**PULL)) as it:
        for extno in ("12a", "12345678901"):
            refused = await it.sms(path, "send", extno=extno, rt="json", **text)
            assert refused.json()["Message"] == "扩展号错误"
        taken = await it.sms(path, "send", extno="0123", rt="json", **text)
        assert taken.json()["SuccessCounts"] == 1
        await it.handle.release()
        (row,) = (await it.sms("statusApi.aspx", "query", rt="json")).json()["StatusBox"]
        assert row["ExtNo"] == "0123"
