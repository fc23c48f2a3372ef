"""The pretend 1cloudsp does what vendor-docs/002 and vendors.md 3 say."""

import contextlib
import json
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from sandbox.clock import local_text, now
from sandbox.segments import count_international
from sandbox.settings import Faults, Outcomes

pytestmark = pytest.mark.anyio

AT = "2026-10-03T10:00:00+08:00"
PULL = {"cloud_hand_out": "pull"}
INTERNATIONAL = "intl/api/v2/send"
SINGLE = "api/v2/single_send"
BATCH = "api/v2/send"
DOMESTIC_FIELDS = {
    "sign": "【创瑞云】",
    "templateId": "101",
    "mobile": "13900000000",
    "content": "8899",
}
ABROAD_FIELDS = {"mobile": "447700900123", "content": "Hello"}
VARIABLES = "先生##9:40##快递公司##1234567"


async def test_international_send_answers_as_the_page_does(configure: Any, play: Any) -> None:
    async with play(configure(cloud_bare_code_share=0.0)) as it:
        fields = {"mobile": "8613900000001,8613900000002", "content": "Hello", "senderId": "ACME"}
        body = (await it.cloud(INTERNATIONAL, **fields)).json()
        assert list(body) == ["code", "msg", "batchId"]
        assert (body["code"], body["msg"]) == ("0", "SUCCESS")
        rows = it.handle.truth("message")
        assert {row["vendor_message_id"] for row in rows} == {body["batchId"]}
        assert [row["phone"] for row in rows] == ["8613900000001", "8613900000002"]
        assert {row["content"] for row in rows} == {"Hello"}
        reply = await it.http.get(
            "/onecloudsp/intl/api/v2/send", params={"accesskey": "key", "secret": "hush", **fields}
        )
        assert reply.json()["msg"] == "SUCCESS"


async def test_template_is_filled_and_signed(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        data = {"8613700000000": VARIABLES, "8613700000001": "女士$$10:10$$物流公司$$000000"}
        fields = {"sign": "123", "templateId": "100", "data": json.dumps(data)}
        assert (await it.cloud(INTERNATIONAL, **fields)).json()["msg"] == "SUCCESS"
        first, second = it.handle.truth("message")
        assert (
            first["content"] == "【创瑞云】先生您好,您的订单于9:40已通过快递公司发货,运单号1234567"
        )
        assert (
            second["content"] == "【创瑞云】女士您好,您的订单于10:10已通过物流公司发货,运单号000000"
        )
        assert first["sign"] == "创瑞云"


async def test_single_send_answers_sm_uuid_and_batch_its_id(configure: Any, play: Any) -> None:
    async with play(configure(cloud_bare_code_share=1.0)) as it:
        body = (await it.cloud(SINGLE, **DOMESTIC_FIELDS)).json()
        assert (list(body), body["code"]) == (["code", "msg", "smUuid"], 0)
        parts = body["smUuid"].split("_")
        assert (len(parts), parts[3]) == (7, "13900000000")
        batch = (await it.cloud(BATCH, **DOMESTIC_FIELDS)).json()
        assert list(batch) == ["code", "msg", "batchId"]
        ids = [row["vendor_message_id"] for row in it.handle.truth("message")]
        assert ids == [body["smUuid"], batch["batchId"]]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"accesskey": "no"}, 9006),
        ({"secret": "no"}, 9006),
        ({"secret": ""}, 9002),
        ({"sign": ""}, 9002),
        ({"templateId": ""}, 9002),
        ({"surprise": "1"}, 9002),
        ({"sign": "创瑞云"}, 9001),
        ({"sign": "【别人】"}, 9016),
        ({"sign": "7"}, 9016),
        ({"templateId": "7"}, 9017),
        ({"content": ""}, 9019),
        ({"content": "8899##1"}, 9009),
        ({"content": "123456789012345678901"}, 9018),
        ({"content": "贷款"}, 10001),
        ({"content": "赌博"}, 10002),
        ({"mobile": ""}, 9022),
        ({"mobile": "13900000000,139"}, 9003),
        ({"mobile": "8613900000000"}, 9003),
        ({"mobile": "13900000000,13900000009"}, 9023),
        ({"mobile": ",".join(["13900000000"] * 50_001)}, 9014),
        ({"data": "[]"}, 9009),
        ({"data": json.dumps({str(1): "a" for _ in range(1)})}, 9003),
        ({"data": json.dumps({str(13900000000 + n): "a" for n in range(10_001)})}, 9014),
        ({"scheduleSendTime": "tomorrow"}, 9012),
        ({"scheduleSendTime": "2018-01-01 18:00:00"}, 10003),
    ],
)
async def test_domestic_send_is_refused_with_the_code_for_it(
    configure: Any, play: Any, changes: dict[str, str], code: int
) -> None:
    async with play(configure(cloud_blacklist=("13900000009",))) as it:
        body = (await it.cloud(BATCH, **{**DOMESTIC_FIELDS, **changes})).json()
        assert int(body["code"]) == code
        assert body["batchId"] == ""
        assert it.handle.truth("message") == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"mobile": "850123456789"}, 9015),
        ({"mobile": "0447700900123"}, 9003),
        ({"mobile": ""}, 9022),
        ({"content": ""}, 9019),
        ({"templateId": "100"}, 9009),
        ({"sign": "123", "templateId": "101", "content": "1" * 21}, 0),
    ],
)
async def test_international_send_is_refused_with_the_code_for_it(
    configure: Any, play: Any, changes: dict[str, str], code: int
) -> None:
    async with play(configure()) as it:
        body = (await it.cloud(INTERNATIONAL, **{**ABROAD_FIELDS, **changes})).json()
        assert int(body["code"]) == code


@pytest.mark.parametrize(
    ("account", "codes"),
    [
        ({"standing": "suspended"}, [9011]),
        ({"standing": "address_refused"}, [9007]),
        ({"domestic_balance": 1}, [0, 9010]),
        ({"per_number_and_day": 1}, [0, 9024]),
    ],
)
async def test_account_may_be_what_stands_against_a_send(
    configure: Any, play: Any, account: dict[str, Any], codes: list[int]
) -> None:
    config = configure(**{f"cloud_{name}": value for name, value in account.items()})
    async with play(config) as it:
        bodies = [(await it.cloud(SINGLE, **DOMESTIC_FIELDS)).json() for _ in codes]
        assert [int(body["code"]) for body in bodies] == codes


async def test_scheduled_messages_are_sent_then(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        then = local_text(now() + timedelta(days=1))
        await it.cloud(BATCH, **DOMESTIC_FIELDS, scheduleSendTime=then)
        (row,) = it.handle.truth("message")
        assert local_text(row["sent_at"]) == then
        # The single send is not known to take a time.
        body = (await it.cloud(SINGLE, **DOMESTIC_FIELDS, scheduleSendTime=then)).json()
        assert int(body["code"]) == 9002


async def test_balance_has_chinese_names_and_mixed_values(configure: Any, play: Any) -> None:
    async with play(configure(cloud_bare_code_share=0.0)) as it:
        await it.cloud_send("13900000000,13900000001")
        await it.cloud(INTERNATIONAL, **ABROAD_FIELDS)
        assert (await it.cloud("query/account")).json() == {
            "code": "0",
            "msg": "SUCCESS",
            "data": {"营销短信": 999_998, "国际短信": "999999.00", "语音验证码": "0.00"},
        }
        refused = (await it.cloud("query/account", secret="no")).json()
        assert (refused["code"], "data" in refused) == ("9006", False)


async def test_push_is_a_form_of_one_report(configure: Any, play: Any, customer: Any) -> None:
    async with play(configure(cloud_batch_id_share=1.0)) as it:
        batch = await it.cloud_send("13900000000", at=AT)
        await it.handle.release()
        (message,) = it.handle.truth("message")
    (push,) = customer.received
    assert push.method == "POST"
    assert push.headers["content-type"].startswith("application/x-www-form-urlencoded")
    row = dict(parse_qsl(push.body.decode(), strict_parsing=True))
    assert row.keys() == {"smUuid", "batchId", "mobile", "deliverResult", "deliverTime"}
    assert (row["batchId"], row["mobile"], row["deliverResult"]) == (
        batch,
        "13900000000",
        "DELIVRD",
    )
    assert row["smUuid"].split("_")[5] == batch
    assert row["deliverTime"] == local_text(message["reported_at"])


async def test_batch_id_is_in_some_reports_only(configure: Any, play: Any) -> None:
    async with play(configure(**PULL)) as it:
        await it.cloud_send(",".join(str(13900000000 + number) for number in range(60)))
        await it.handle.release()
        rows = (await it.cloud("report/status")).json()["data"]
    assert 10 < sum("batchId" in row for row in rows) < 50
    assert len({row["smUuid"] for row in rows}) == 60


async def test_report_page_hands_each_row_out_once(configure: Any, play: Any) -> None:
    async with play(configure(outcomes=Outcomes(1.0, 0.0), cloud_pull_rows=2, **PULL)) as it:
        await it.cloud_send("13900000000,13900000001,13900000002")
        await it.handle.release()
        pages = [(await it.cloud("report/status")).json() for _ in range(3)]
        assert [len(page["data"]) for page in pages] == [2, 1, 0]
        assert {row["deliverResult"] for page in pages for row in page["data"]} & {
            "DELIVRD"
        } == set()
        assert {row["reports"][0]["handed"] for row in it.handle.truth("message")} == {"pull"}


async def test_what_was_pushed_is_not_pulled_and_an_unanswered_push_is(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure()) as it:
        await it.cloud_send("13900000000")
        await it.handle.release()
        customer.answer = 503
        await it.cloud_send("13900000001")
        await it.handle.release()
        (row,) = (await it.cloud("report/status")).json()["data"]
        assert row["mobile"] == "13900000001"
    assert len(customer.received) == 2


async def test_malformed_pushes_leave_nothing_to_understand(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure(faults=Faults(push_malformed=1.0))) as it:
        for number in range(40):
            await it.cloud_send(str(13900000000 + number))
        await it.handle.release()
        rows = it.handle.truth("push")
    assert {row["how"] for row in rows} == {
        "truncated", "empty_body", "missing_fields", "wrong_charset",
    }  # fmt: skip
    whole = [push for push in customer.received if b"deliverResult=" in push.body]
    assert len(whole) == len(customer.received) - len(rows)


async def test_inbound_messages_are_handed_out_once(configure: Any, play: Any) -> None:
    async with play(configure(cloud_inbound_rate=1.0)) as it:
        batch = await it.cloud_send("13900000000", at=AT)
        items = [{"phone": "13900000001", "content": "TD", "extno": "01", "at": AT}]
        order = {"vendor": "onecloudsp", "account": "cloud-main", "items": items}
        assert (await it.http.post("/_sandbox/inbound", json=order)).json() == {"received": 1}
        await it.handle.release()
        rows = {row["mobile"]: row for row in (await it.cloud("report/up")).json()["data"]}
        assert rows["13900000001"] == {
            "mobile": "13900000001",
            "content": "TD",
            "receiveTime": "2026-10-03 10:00:00",
            "extend": "01",
        }
        assert rows["13900000000"]["batchId"] == batch
        assert (await it.cloud("report/up")).json()["data"] == []


async def test_cut_page_is_lost_and_the_truth_says_what_stood_in_it(
    configure: Any, play: Any
) -> None:
    async with play(configure(faults=Faults(page_cut=1.0), **PULL)) as it:
        await it.cloud_send("13900000000,13900000001,13900000002,13900000003")
        await it.handle.release()
        got = b""
        url = "/onecloudsp/report/status?accesskey=key&secret=hush"
        async with it.http.stream("GET", url) as reply:
            with contextlib.suppress(httpx.RemoteProtocolError):
                async for part in reply.aiter_raw():
                    got += part
        (row,) = it.handle.truth("reply")
        assert (row["kind"], len(row["lost"])) == ("page_cut", 4)
        whole = [lost["phone"] for lost in row["lost"] if lost["salvageable"]]
        assert len(whole) == got.count(b"}")


async def test_statement_counts_abroad_by_another_rule(
    configure: Any, play: Any, tmp_path: Any
) -> None:
    async with play(configure()) as it:
        await it.cloud(INTERNATIONAL, at=AT, **{**ABROAD_FIELDS, "content": "a" * 160})
        await it.cloud(INTERNATIONAL, at=AT, **{**ABROAD_FIELDS, "content": "€" * 81})
        path = tmp_path / "october.csv"
        it.handle.write_statement("onecloudsp", "cloud-main", "2026-10", path)
    head, *lines = path.read_text("utf-8-sig").splitlines()
    assert head == "消息ID,手机号码,计费条数,金额,提交时间,状态"
    assert sorted(line.split(",")[2:4] for line in lines) == [["1", "0.05"], ["2", "0.10"]]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("{" * 80, 1),
        ("a" + "{" * 80, 2),
        ("a" * 152 + "{" + "a" * 152, 3),
        ("你" * 70, 1),
        ("你" * 71, 2),
        ("你" * 134, 2),
        ("你" * 66 + "😀" + "你" * 66, 3),
    ],
)
def test_segments_abroad(text: str, parts: int) -> None:
    assert count_international(text) == parts
