"""The pretend ThinkAPI does what vendor-docs/001 says."""

import json
import re
from typing import Any

import pytest

from sandbox.settings import Faults, Outcomes

pytestmark = pytest.mark.anyio

AT = "2026-10-03T10:00:00+08:00"


async def test_send_answers_the_documented_envelope(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        reply = await it.think(
            "send", signId=78, templateId=234, phone="15687902345", params='{"code": "7865"}'
        )
        assert reply["code"] == 0
        assert reply["message"] == "发送成功"
        assert re.fullmatch(r"[0-9a-f]{13}", reply["data"]["id"])


async def test_app_code_may_come_as_parameter_and_form_post_is_read(
    configure: Any, play: Any
) -> None:
    async with play(configure()) as it:
        fields = {"appCode": "the-code", "signId": "78", "templateId": "235", "phone": "1" * 11}
        by_query = await it.http.get("/thinkapi/sms/send", params=fields)
        by_form = await it.http.post("/thinkapi/sms/send", data=fields)
        assert by_query.json()["code"] == by_form.json()["code"] == 0
        assert by_query.json()["data"] != by_form.json()["data"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "AppCode wrong"}])
async def test_wrong_app_code_is_refused_in_the_envelope(
    configure: Any, play: Any, headers: dict[str, str]
) -> None:
    async with play(configure()) as it:
        reply = await it.http.get("/thinkapi/sms/query_status?id=1", headers=headers)
        assert reply.status_code == 200
        assert reply.json()["code"] == 401


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"phone": ""}, 400),
        ({"phone": "123"}, 400),
        ({"signId": "79"}, 404),
        ({"params": ""}, 400),
        ({"params": '{"other": "1"}'}, 400),
        ({"params": '{"code": "1", "more": "2"}'}, 400),
        ({"params": json.dumps({"code": "x" * 51})}, 400),
        ({"templateId": "235"}, 400),
        ({"surprise": "1"}, 400),
    ],
)
async def test_send_refuses_what_the_page_rules_out(
    configure: Any, play: Any, changes: dict[str, str], code: int
) -> None:
    good = {"signId": "78", "templateId": "234", "phone": "15687902345", "params": '{"code": "1"}'}
    async with play(configure()) as it:
        assert (await it.think("send", **(good | changes)))["code"] == code
        assert it.handle.truth("message") == []
        violations = (await it.http.get("/_sandbox/violations")).json()["items"]
        assert [each["parameter"] for each in violations] == [
            name for name in changes if name == "surprise"
        ]


async def test_batch_send_gives_one_id_a_number(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        reply = await it.think(
            "batch_send", signId=78, templateId=235, phone="15687902345,15687902346"
        )
        assert [each["phone"] for each in reply["data"]] == ["15687902345", "15687902346"]
        assert len({each["id"] for each in reply["data"]}) == 2


async def test_query_status_is_sending_until_the_report_and_then_final_for_ever(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure()) as it:
        message_id = await it.think_send("15687902345", at=AT)
        before = (await it.think("query_status", id=message_id))["data"]
        assert (before["status"], before["reveiveDate"], before["message"]) == (0, "", "")
        await it.handle.release()
        after = [(await it.think("query_status", id=message_id))["data"] for _ in range(2)]
        assert after[0] == after[1]
        assert after[0]["status"] == 1
        assert after[0]["phone"] == 15687902345
        assert after[0]["sendDate"] == "2026-10-03 10:00:00"
        assert after[0]["reveiveDate"] > after[0]["sendDate"]
        assert after[0]["content"] == "【顶想云】您的验证码是7865。"
        assert (await it.think("query_status", id="nope"))["code"] == 404


async def test_report_push_is_the_documented_one_and_comes_once(
    configure: Any, play: Any, customer: Any
) -> None:
    customer.answer = 500
    async with play(configure(outcomes=Outcomes(failed=1.0, never_final=0.0))) as it:
        message_id = await it.think_send("13509898765", at=AT)
        assert (await it.handle.release())["reports"] == 1
        assert await it.handle.release() == {}
    (push,) = customer.received
    assert push.method == "POST"
    assert push.headers["x-thinkphp-event"] == "sms"
    assert push.headers["content-type"] == "application/json"
    body = json.loads(push.body)
    assert body["action"] == "report"
    sms = body["sms"]
    assert list(sms) == [
        "id", "phone", "content", "sendDate", "receiveDate", "status", "message",
    ]  # fmt: skip
    assert (sms["id"], sms["phone"]) == (message_id, "13509898765")
    assert int(sms["status"]) == -1
    assert sms["message"]
    assert sms["sendDate"] == "2026-10-03 10:00:00"


async def test_without_hold_the_push_comes_by_itself(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure(hold_pushes=False, push_delay_seconds=(0.0, 0.0))) as it:
        await it.think_send("13509898765")
        await customer.wait_for(1)


async def test_never_final_message_stays_at_sending(
    configure: Any, play: Any, customer: Any
) -> None:
    config = configure(outcomes=Outcomes(failed=0.0, never_final=1.0), pending_push=1.0)
    async with play(config) as it:
        message_id = await it.think_send("13509898765")
        await it.handle.release()
        assert (await it.think("query_status", id=message_id))["data"]["status"] == 0
        (row,) = it.handle.truth("message")
        assert row["status"] == "none"
        assert row["expected"] == ["report_missing"]
    assert [int(json.loads(push.body)["sms"]["status"]) for push in customer.received] == [0]


async def test_sign_goes_from_review_to_approved_and_can_then_not_be_modified(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure()) as it:
        added = await it.think("add_sign", at=AT, name="回执", remark="用于 huizhi 通知")
        assert added["message"] == "添加成功"
        assert added["data"].keys() == {
            "name", "remark", "user_id", "create_time", "update_time", "id",
        }  # fmt: skip
        sign_id = str(added["data"]["id"])
        asked = (await it.think("query_sign", id=sign_id))["data"]
        assert (asked["status"], asked["error"]) == (0, None)
        refused = await it.think("send", signId=sign_id, templateId=235, phone="13509898765")
        assert refused["code"] == 409
        assert await it.handle.release("reviews") == {"reviews": 1}
        asked = (await it.think("query_sign", id=sign_id))["data"]
        assert asked["status"] == 1
        assert asked["update_time"] == "2026-10-03 10:30:00"
        sent = await it.think("send", signId=sign_id, templateId=235, phone="13509898765")
        assert sent["code"] == 0
        modified = await it.think("modify_sign", id=sign_id, name="别名", remark="用途")
        assert modified["code"] == 409
        assert await it.think("delete_sign", id=sign_id) == {"code": 0, "message": "删除成功"}
        assert (await it.think("query_sign", id=sign_id))["code"] == 404
    body = json.loads(customer.received[0].body)
    assert body["action"] == "sign"
    assert str(body["sign"]["id"]) == sign_id
    assert int(body["sign"]["status"]) == 1
    assert body["sign"]["error"] is None


@pytest.mark.parametrize(
    "content",
    [
        "【顶想云】订单${name}",
        "订单${name1}",
        "订单${mobile}",
        "".join(f"${{{letter}}}" for letter in "abcdefghi"),
    ],
)
async def test_template_that_breaks_the_rules_is_rejected_with_a_reason_and_can_be_mended(
    configure: Any, play: Any, customer: Any, content: str
) -> None:
    async with play(configure()) as it:
        added = await it.think("add_template", name="订单", content=content, remark="订单通知")
        assert added["data"]["content"] == content
        template_id = str(added["data"]["id"])
        await it.handle.release()
        asked = (await it.think("query_template", id=template_id))["data"]
        assert asked["status"] == 2
        assert asked["error"]
        modified = await it.think(
            "modify_template", id=template_id, name="订单", remark="通知", content="订单${name}。"
        )
        assert modified["message"] == "修改成功"
        await it.handle.release()
        assert (await it.think("query_template", id=template_id))["data"]["status"] == 1
        assert [row["status"] for row in it.handle.truth("review")] == ["rejected", "approved"]
        deleted = await it.think("delete_template", id=template_id)
        assert deleted == {"code": 0, "message": "删除成功"}


async def test_template_push_carries_its_payload_under_sign_or_template(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure()) as it:
        for number in range(24):
            name = f"订单{'甲乙丙'[number % 3]}{number}"
            await it.think("add_template", name=name, content="订单${name}", remark="通知")
        await it.handle.release()
    bodies = [json.loads(push.body) for push in customer.received]
    assert {body["action"] for body in bodies} == {"template"}
    assert {next(key for key in body if key != "action") for body in bodies} == {
        "sign",
        "template",
    }
    payloads = [body.get("sign") or body["template"] for body in bodies]
    assert {type(payload["id"]) for payload in payloads} == {int, str}
    assert {type(payload["status"]) for payload in payloads} == {int, str}


async def test_every_request_is_recorded_as_received(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        await it.think_send("13509898765", at=AT)
        items = (await it.http.get("/_sandbox/requests?vendor=thinkapi&limit=1")).json()["items"]
        assert items[0]["path"] == "/sms/send"
        assert items[0]["method"] == "GET"
        assert items[0]["query"]["params"] == '{"code": "7865"}'
        assert items[0]["headers"]["authorization"] == "AppCode the-code"


async def test_send_is_spared_reply_faults_unless_switched_on(configure: Any, play: Any) -> None:
    async with play(configure(faults=Faults(reply_500=1.0))) as it:
        await it.think_send("13509898765")
    async with play(configure(faults=Faults(reply_500=1.0, on_send=True))) as it:
        reply = await it.http.get("/thinkapi/sms/send")
        assert reply.status_code == 500
