"""The pretend itniotech does what vendor-docs/003 and its other pages say."""

import csv
import hashlib
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sandbox import clock
from sandbox.segments import count_segments
from sandbox.settings import Faults, Outcomes

pytestmark = pytest.mark.anyio

AT = "2026-10-03T10:00:00+08:00"
SPAN = {"startTime": "2026-10-03T00:00:00+08:00", "endTime": "2026-10-03T23:59:59+08:00"}
FAILED = Outcomes(failed=1.0, never_final=0.0)


async def test_send_answers_as_the_page_does(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        fields = {
            "numbers": "91856321412,91856321413",
            "content": "hello world",
            "senderId": "123",
            "orderId": "21412,21413",
        }
        by_post = await it.itnio("sendSms", method="POST", **fields)
        by_get = await it.itnio("sendSms", **fields)
        for reply in (by_post, by_get):
            array = reply.pop("array")
            assert reply == {"status": "0", "reason": "success", "success": "2", "fail": "0"}
            assert [row["number"] for row in array] == fields["numbers"].split(",")
            assert [row["orderId"] for row in array] == ["21412", "21413"]
            assert all(re.fullmatch(r"\d{19}", row["msgId"]) for row in array)
        assert len(it.handle.truth("message")) == 4
        assert (await it.http.get("/_sandbox/violations")).json() == {"items": []}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, "0"),
        ({"Sign": "upper"}, "0"),
        ({"Sign": "0" * 32}, "-1"),
        ({"Api-Key": "other"}, "-1"),
        ({"Timestamp": "1630468800"}, "-1"),
        ({"age": "299"}, "0"),
        ({"age": "302"}, "-16"),
        ({"age": "-302"}, "-16"),
    ],
)
async def test_signature_and_timestamp_are_checked(
    configure: Any,
    play: Any,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    status: str,
) -> None:
    read = clock.now()
    monkeypatch.setattr(clock, "now", lambda: read)
    headers = dict(headers)
    now = str(int(read.timestamp()) - int(headers.pop("age", "0")))
    sign = hashlib.md5(f"keysecret{now}".encode()).hexdigest()
    if headers.get("Sign") == "upper":
        headers = {"Sign": sign.upper()}
    own = {"Api-Key": "key", "Timestamp": now, "Sign": sign, "Content-Type": "application/json"}
    async with play(configure()) as it:
        reply = await it.http.get("/itniotech/sms/getBalance", headers=own | headers)
        assert (reply.status_code, reply.json()["status"]) == (200, status)


async def test_the_vendors_own_example_of_a_signature_is_accepted(
    configure: Any, play: Any
) -> None:
    config = configure(
        itnio_api_key="bDqJFiq9", itnio_api_secret="7bz1lzh9", itnio_skew_seconds=1e10
    )
    headers = {
        "Sign": "05d7a50893e22a5c4bb3216ae3396c7c",
        "Timestamp": "1630468800",
        "Api-Key": "bDqJFiq9",
        "Content-Type": "application/json;charset=UTF-8",
    }
    async with play(config) as it:
        reply = (await it.http.get("/itniotech/sms/getBalance", headers=headers)).json()
        assert reply == {
            "status": "0",
            "reason": "success",
            "balance": "1000000",
            "gift": "0",
            "credit": "0",
        }


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"content": ""}, "-4"),
        ({"content": "x" * 1025}, "-5"),
        ({"content": "Best Casino"}, "-3"),
        ({"numbers": ""}, "-8"),
        ({"numbers": "123,+91856321413", "orderId": "1,2"}, "-9"),
        ({"numbers": ",".join(["91856321412"] * 1001)}, "-7"),
        ({"appId": ""}, "-14"),
        ({"appId": "other"}, "-32"),
        ({"orderId": "1,2"}, "-22"),
        ({"senderId": "s" * 33}, "-22"),
        ({"content": 5}, "-22"),
        ({"surprise": "1"}, "-22"),
    ],
)
async def test_send_refuses_what_the_page_rules_out(
    configure: Any, play: Any, changes: dict[str, Any], status: str
) -> None:
    good = {"numbers": "91856321412", "content": "hello", "orderId": "1"}
    async with play(configure()) as it:
        reply = await it.itnio("sendSms", method="POST", **(good | changes))
        assert reply["status"] == status
        assert it.handle.truth("message") == []
        violations = (await it.http.get("/_sandbox/violations")).json()["items"]
        assert [each["parameter"] for each in violations] == [
            name for name in changes if name == "surprise"
        ]


async def test_get_takes_a_hundred_numbers(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        many = ",".join(f"918563{n:05}" for n in range(101))
        assert (await it.itnio("sendSms", numbers=many, content="x"))["status"] == "-7"
        assert (await it.itnio("sendSms", numbers=many[:-12], content="x"))["success"] == "100"


async def test_strange_numbers_among_others_are_counted_and_not_named(
    configure: Any, play: Any
) -> None:
    async with play(configure()) as it:
        reply = await it.itnio(
            "sendSms", method="POST", numbers="91856321412,12,91856321413", content="x", orderId="a,b,c"
        )  # fmt: skip
        assert (reply["success"], reply["fail"]) == ("2", "1")
        assert [row["orderId"] for row in reply["array"]] == ["a", "c"]


async def test_balance_goes_down_until_it_is_too_low(configure: Any, play: Any) -> None:
    config = configure(itnio_balance=Decimal("0.03"), itnio_credit=Decimal("0.01"))
    async with play(config) as it:
        await it.itnio_send("91856321412", "91856321413", content="é" * 161)
        assert (await it.itnio("getBalance"))["balance"] == "-0.01"
        refused = await it.itnio("sendSms", method="POST", numbers="91856321412", content="x")
        assert refused == {"status": "-10", "reason": "Insufficient balance"}
        assert len(it.handle.truth("message")) == 2


@pytest.mark.parametrize("status", ["-2", "-13", "-18", "-19"])
async def test_an_account_can_be_refused_everything(configure: Any, play: Any, status: str) -> None:
    async with play(configure(itnio_always=status)) as it:
        assert (await it.itnio("getBalance"))["status"] == status


async def test_get_report_knows_the_queue_and_the_end(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        ids = await it.itnio_send("91856321412", "91856321413", at=AT)
        asked = ",".join([*ids, "2100000000000000000"])
        queued = await it.itnio("getReport", msgIds=asked)
        assert (queued["nofound"], queued["sending"], queued["array"]) == ("3", "0", [])
        await it.handle.release()
        told = await it.itnio("getReport", msgIds=asked)
        assert (told["success"], told["fail"], told["nofound"]) == ("2", "0", "1")
        assert [row["msgId"] for row in told["array"]] == ids
        assert {row["status"] for row in told["array"]} == {"0"}
        assert all(row["receiveTime"].startswith("2026-10-03T1") for row in told["array"])
        assert (await it.itnio("getReport", msgIds=",".join(["1"] * 201)))["status"] == "-14"


async def test_one_failure_has_three_numbers(configure: Any, play: Any, customer: Any) -> None:
    async with play(configure(outcomes=FAILED)) as it:
        (id,) = await it.itnio_send("91856321412", at=AT)
        await it.handle.release()
        (by_id,) = (await it.itnio("getReport", msgIds=id))["array"]
        (by_time,) = (await it.itnio("getSentRcd", **SPAN))["array"]
        assert (by_id["status"], by_time["status"]) == ("1", "2")
    (push,) = customer.received
    assert json.loads(push.body)["status"] not in (0, None)


async def test_never_final_message_is_sending_for_ever(configure: Any, play: Any) -> None:
    async with play(configure(outcomes=Outcomes(failed=0.0, never_final=1.0))) as it:
        (id,) = await it.itnio_send("91856321412", at=AT)
        await it.handle.release()
        told = await it.itnio("getReport", msgIds=id)
        assert told["sending"] == "1"
        assert told["array"] == [
            {"msgId": id, "number": "91856321412", "receiveTime": "", "status": "-1"}
        ]
        assert (await it.itnio("getSentRcd", **SPAN))["array"] == []


async def test_list_is_handed_out_by_pages(configure: Any, play: Any) -> None:
    async with play(configure(itnio_list_rows=3)) as it:
        ids = await it.itnio_send(*(f"9185632141{n}" for n in range(7)), at=AT)
        await it.itnio_send("91856321419", at="2026-10-04T10:00:00+08:00")
        await it.handle.release()
        pages = [
            (await it.itnio("getSentRcd", **SPAN, startIndex=index))["array"]
            for index in (0, 3, 6, 9)
        ]
        assert [len(page) for page in pages] == [3, 3, 1, 0]
        assert sorted(row["msgId"] for page in pages for row in page) == sorted(ids)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"startTime": "2026-09-02T23:59:59+08:00"}, "0"),
        ({"startTime": "2026-09-02T23:59:58+08:00"}, "-25"),
        ({"startTime": "2026-10-04T00:00:00+08:00"}, "-25"),
        ({"startTime": "2026-10-03 00:00:00"}, "-11"),
        ({"startTime": "2026-10-03T00:00:00 08:00"}, "-11"),  # a plus that was not encoded
        ({"endTime": "2026-13-03T00:00:00+08:00"}, "-11"),
        ({"endTime": ""}, "-14"),
        ({"startIndex": "-1"}, "-22"),
    ],
)
async def test_list_refuses_what_the_page_rules_out(
    configure: Any, play: Any, changes: dict[str, str], status: str
) -> None:
    async with play(configure()) as it:
        assert (await it.itnio("getSentRcd", **(SPAN | changes)))["status"] == status


async def test_report_push_is_the_documented_one_and_says_what_it_cost(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure()) as it:
        (id,) = await it.itnio_send("91856321412", at=AT, orderId="a-1", content="x" * 161)
        await it.handle.release()
    (push,) = customer.received
    assert (push.method, push.headers["content-type"]) == ("POST", "application/json;charset=UTF-8")
    assert json.loads(push.body) == {
        "appId": "app",
        "msgid": id,
        "mobile": "91856321412",
        "status": 0,
        "reason": "0",
        "timestamp": 1790992800000,
        "orderId": "a-1",
        "mcc": "404",
        "mnc": "-1",
        "pricedetail": {"pay": "0.02", "currency": "USD", "chargeCnt": 2, "price": "0.01"},
    }


async def test_timestamp_can_be_the_reports(configure: Any, play: Any, customer: Any) -> None:
    async with play(configure(itnio_push_timestamp="reported")) as it:
        await it.itnio_send("91856321412", at=AT)
        await it.handle.release()
    assert json.loads(customer.received[0].body)["timestamp"] > 1790992800000


async def test_a_failure_costs_by_the_accounts_basis(
    configure: Any, play: Any, customer: Any
) -> None:
    for basis, count in (("submitted", 1), ("delivered", 0)):
        async with play(configure(outcomes=FAILED, itnio_basis=basis)) as it:
            await it.itnio_send("91856321412", at=AT)
            await it.handle.release()
        assert json.loads(customer.received[-1].body)["pricedetail"]["chargeCnt"] == count


async def test_published_style_is_no_json(configure: Any, play: Any, customer: Any) -> None:
    async with play(configure(itnio_published_style=1.0)) as it:
        await it.itnio_send("91856321412", at=AT, orderId="a-1")
        await it.handle.release()
    text = customer.received[0].body.decode()
    assert """"orderId ":'a-1',"mcc":'404',"mnc":'-1',""" in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


@pytest.mark.parametrize("how", range(6))
async def test_faults_befall_it_like_the_others(
    configure: Any, play: Any, customer: Any, how: int
) -> None:
    kind = (
        "push_lost",
        "push_doubled",
        "push_early",
        "push_contradicting",
        "push_forged",
        "push_malformed",
    )[how]
    async with play(configure(faults=Faults(**{kind: 1.0}))) as it:
        (id,) = await it.itnio_send("91856321412", at=AT)
        await it.handle.release()
        (row,) = it.handle.truth("message")
        assert [fault["kind"] for fault in row["faults"]] == [kind]
        expected = {"push_lost": 0, "push_doubled": 2, "push_early": 1, "push_contradicting": 2}
        if kind in expected:
            assert len(customer.genuine()) == expected[kind]
        elif kind == "push_forged":
            assert len(customer.received) - len(customer.genuine()) == 1
        (told,) = (await it.itnio("getReport", msgIds=id))["array"]
        assert told["status"] == "0"
        assert row["reports"][0]["handed"] in ("push", "query")


async def test_inbound_messages_are_pushed_and_listed(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure()) as it:
        items = [
            {"phone": f"9185632141{n}", "content": "STOP", "extno": "123", "at": AT}
            for n in range(5)
        ]
        order = {"vendor": "itniotech", "account": "itnio-main", "items": items}
        await it.http.post("/_sandbox/inbound", json=order)
        await it.handle.release()
        pages = []
        for current in (1, 2, 3):
            span = {"strTime": SPAN["startTime"], "endTime": SPAN["endTime"]}
            fields = {"current": current, "size": 3, "params": span}
            reply = await it.itnio("recordMo", method="POST", **fields)
            assert (reply["data"]["total"], reply["data"]["pages"]) == (5, 2)
            pages.append(reply["data"]["records"])
        assert [len(page) for page in pages] == [3, 2, 0]
        assert sorted(row["number"] for page in pages for row in page) == [
            item["phone"] for item in items
        ]
        assert pages[0][0]["receiveTime"] == AT
    first = json.loads(customer.received[0].body)
    assert (first["reply_time"], first["content"], first["sendid"], first["mcn"]) == (
        "2026-10-03 10:00:00",
        "STOP",
        "123",
        -1,
    )


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"size": 101}, "-22"),
        ({"size": "10"}, "-22"),
        ({"current": 0}, "-14"),
        ({"params": {"strTime": SPAN["startTime"]}}, "-22"),
        (
            {"params": {"strTime": "2026-08-01T00:00:00+08:00", "endTime": SPAN["endTime"]}},
            "-25",
        ),
    ],
)
async def test_list_of_inbound_refuses_what_the_page_rules_out(
    configure: Any, play: Any, changes: dict[str, Any], status: str
) -> None:
    span = {"strTime": SPAN["startTime"], "endTime": SPAN["endTime"]}
    good = {"current": 1, "size": 100, "params": span}
    async with play(configure()) as it:
        reply = await it.itnio("recordMo", method="POST", **(good | changes))
        assert reply["status"] == status


async def test_statement_has_a_currency(configure: Any, play: Any, tmp_path: Path) -> None:
    async with play(configure(outcomes=Outcomes(failed=0.5, never_final=0.0))) as it:
        await it.itnio_send(*(f"918563214{n:02}" for n in range(20)), at=AT, content="é" * 161)
        await it.handle.release()
        statement = it.handle.write_statement(
            "itniotech", "itnio-main", "2026-10", tmp_path / "bill.csv"
        )
    rows = list(csv.DictReader((tmp_path / "bill.csv").read_text("utf-8").splitlines()))
    assert len(rows) == len(statement.lines) == 20
    assert {(row["currency"], row["segments"], row["amount"]) for row in rows} == {
        ("USD", "2", "0.02")
    }


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("", 1),
        ("x" * 160, 1),
        ("x" * 161, 2),
        ("x" * 306, 2),
        ("x" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("x" * 152 + "€" * 4 + "x", 2),
        ("x" * 152 + "€" + "x" * 152, 3),
        ("字" * 70, 1),
        ("字" * 71, 2),
        ("字" * 66 + "😀" + "字" * 66, 3),
        ("😀" * 35, 1),
        ("😀" * 36, 2),
    ],
)
def test_international_count(text: str, segments: int) -> None:
    assert count_segments(text, "international") == segments
