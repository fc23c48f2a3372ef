"""Faults come by seed and rate, and the truth tells of every one."""

import json
from hashlib import sha256
from typing import Any

import pytest

from sandbox.settings import Faults, Outcomes

pytestmark = pytest.mark.anyio

AT = "2026-10-03T10:00:00+08:00"
ALL_PUSH_FAULTS = Faults(
    push_lost=0.1,
    push_doubled=0.1,
    push_reordered=0.1,
    push_early=0.1,
    push_contradicting=0.1,
    push_forged=0.1,
    push_malformed=0.2,
)


def statuses(pushes: list[Any]) -> list[int]:
    return [int(json.loads(push.body)["sms"]["status"]) for push in pushes]


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the order in which pushes happened to be answered."""
    return sorted(
        ({key: row[key] for key in row if key != "pushes"} for row in rows),
        key=lambda row: (row["vendor_message_id"], row["phone"]),
    )


async def test_same_seed_and_sends_give_the_same_truth_in_any_order(
    configure: Any, play: Any
) -> None:
    truths = []
    phones = [str(13800138000 + number) for number in range(40)]
    for order in (phones, phones[::-1]):
        config = configure(
            faults=ALL_PUSH_FAULTS, outcomes=Outcomes(0.2, 0.1), sms_pull_share=0.3, seed=5
        )
        async with play(config) as it:
            for phone in order:
                await it.think_send(phone, at=AT)
                await it.sms_send(phone, at=AT)
            await it.handle.release()
            truths.append(comparable(it.handle.truth("message")))
    assert truths[0] == truths[1]


async def test_another_seed_gives_other_faults(configure: Any, play: Any) -> None:
    truths = []
    for seed in (1, 2):
        async with play(configure(faults=ALL_PUSH_FAULTS, seed=seed)) as it:
            for number in range(30):
                await it.think_send(str(13800138000 + number), at=AT)
            truths.append([row["faults"] for row in it.handle.truth("message")])
    assert truths[0] != truths[1]


async def test_lost_push_never_comes_but_can_be_queried(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure(faults=Faults(push_lost=1.0))) as it:
        message_id = await it.think_send("13800138000")
        await it.sms_send("13800138001")
        await it.handle.release()
        assert (await it.think("query_status", id=message_id))["data"]["status"] == 1
        assert len((await it.sms("statusApi.aspx", "query", rt="json")).json()["StatusBox"]) == 1
        assert [row["expected"] for row in it.handle.truth("message")] == [[], []]
    assert customer.received == []


async def test_lost_push_of_a_push_only_account_is_lost_for_good(configure: Any, play: Any) -> None:
    async with play(configure(faults=Faults(push_lost=1.0), sms_hand_out="push")) as it:
        await it.sms_send("13800138001")
        await it.handle.release()
        assert (await it.sms("statusApi.aspx", "query", rt="json")).json()["StatusBox"] == []
        assert it.handle.truth("message")[0]["expected"] == ["report_missing"]


async def test_doubled_push_is_the_same_bytes_twice(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure(faults=Faults(push_doubled=1.0))) as it:
        for number in range(10):
            await it.think_send(str(13800138000 + number))
        await it.handle.release()
        concurrent = {row["faults"][0]["concurrent"] for row in it.handle.truth("message")}
    assert concurrent == {True, False}
    assert len(customer.received) == 20
    assert len({push.body for push in customer.received}) == 10


async def test_reordered_push_tells_pending_after_final(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure(faults=Faults(push_reordered=1.0))) as it:
        await it.think_send("13800138000")
        await it.handle.release()
    assert statuses(customer.received) == [1, 0]


async def test_early_push_comes_before_the_send_is_answered(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure(faults=Faults(push_early=1.0))) as it:
        message_id = await it.think_send("13800138000")
        (push,) = customer.received
        assert json.loads(push.body)["sms"]["id"] == message_id
        await it.handle.release()
        assert it.handle.truth("message")[0]["pushes"] == [
            {"what": "final", "answer": 200, "early": True}
        ]
    assert len(customer.received) == 1


async def test_early_push_can_be_held_too(configure: Any, play: Any, customer: Any) -> None:
    async with play(configure(faults=Faults(push_early=1.0), early_pushes="held")) as it:
        await it.think_send("13800138000")
        assert customer.received == []
        assert await it.handle.release("early") == {"early": 1}
        assert len(customer.received) == 1
        assert await it.handle.release() == {"reports": 1}
    assert len(customer.received) == 1


async def test_contradicting_reports_disagree_and_the_true_one_is_earlier(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure(faults=Faults(push_contradicting=1.0))) as it:
        for number in range(8):
            await it.think_send(str(13800138000 + number))
        await it.handle.release()
        rows = it.handle.truth("message")
    assert {row["faults"][0]["later_first"] for row in rows} == {True, False}
    for row in rows:
        assert row["expected"] == ["reports_contradict"]
        assert row["status"] == "delivered"
        bodies = [
            json.loads(push.body)["sms"]
            for push in customer.received
            if row["vendor_message_id"].encode() in push.body
        ]
        earlier, later = sorted(bodies, key=lambda body: body["receiveDate"])
        assert (int(earlier["status"]), int(later["status"])) == (1, -1)
        assert earlier["receiveDate"] < later["receiveDate"]


async def test_contradicting_reports_of_thinksms_can_both_be_pulled(
    configure: Any, play: Any
) -> None:
    config = configure(faults=Faults(push_contradicting=1.0), sms_hand_out="pull")
    async with play(config) as it:
        await it.sms_send("13800138000")
        await it.handle.release()
        rows = (await it.sms("statusApi.aspx", "query", rt="json")).json()["StatusBox"]
        assert sorted(row["Status"] for row in rows) == [10, 20]
        assert it.handle.truth("message")[0]["expected"] == ["reports_contradict"]


async def test_forged_push_claims_the_opposite_at_a_wrong_token(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure(faults=Faults(push_forged=1.0))) as it:
        await it.think_send("13800138000")
        await it.handle.release()
        (row,) = it.handle.truth("push")
        assert (row["fault"], row["answer"]) == ("push_forged", 404)
    assert statuses(customer.genuine()) == [1]
    assert statuses([push for push in customer.received if push not in customer.genuine()]) == [-1]


async def test_malformed_pushes_cannot_be_understood_and_say_whether_they_replace(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure(faults=Faults(push_malformed=1.0))) as it:
        for number in range(40):
            await it.think_send(str(13800138000 + number))
            await it.sms_send(str(13800138000 + number))
        await it.handle.release()
        rows = it.handle.truth("push")
        messages = it.handle.truth("message")
    assert {row["how"] for row in rows if row["vendor"] == "thinkapi"} == {
        "truncated_json", "empty_body", "unknown_action", "missing_fields", "wrong_charset",
    }  # fmt: skip
    assert {row["how"] for row in rows if row["vendor"] == "thinksms"} == {
        "truncated", "empty_body", "missing_fields", "wrong_charset",
    }  # fmt: skip
    assert {row["replaces"] for row in rows} == {True, False}
    sent = {sha256(push.body).hexdigest(): push.body for push in customer.received}
    for row in rows:
        body = sent[row["body_sha256"]]
        if row["how"] == "wrong_charset" and row["vendor"] == "thinkapi":
            for charset in ("utf-8", "gb18030"):
                with pytest.raises(UnicodeDecodeError):
                    body.decode(charset)
        elif row["how"] == "truncated_json":
            with pytest.raises(ValueError, match=r"."):
                json.loads(body)
        elif row["vendor"] == "thinksms":
            assert b"taskid=" not in body
            assert b"status=" not in body
    for message in messages:
        replaced = message["faults"][0].get("replaces")
        assert message["reports"][0]["handed"] == (
            "push"
            if not replaced
            else {"thinkapi": "query", "thinksms": "queued"}[message["vendor"]]
        )


async def test_reply_faults_differ_by_attempt_and_stand_in_the_truth(
    configure: Any, play: Any
) -> None:
    faults = Faults(reply_429=0.3, reply_500=0.3)
    outcomes = []
    for _ in range(2):
        async with play(configure(faults=faults)) as it:
            message_id = await it.think_send("13800138000", at=AT)
            headers = {"Authorization": "AppCode the-code"}
            replies = [
                (await it.http.get(f"/thinkapi/sms/query_status?id={message_id}", headers=headers))
                for _ in range(20)
            ]
            outcomes.append([reply.status_code for reply in replies])
            bad = [status for status in outcomes[-1] if status != 200]
            assert [int(row["kind"][-3:]) for row in it.handle.truth("reply")] == bad
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0]) == {200, 429, 500}


async def test_pushes_keep_to_the_bound(configure: Any, play: Any, customer: Any) -> None:
    async with play(configure(push_concurrency=4)) as it:
        for number in range(40):
            await it.think_send(str(13800138000 + number))
        await it.handle.release()
    assert len(customer.received) == 40
    assert customer.most_at_work <= 4


async def test_pushes_to_nobody_are_told_apart(configure: Any, play: Any) -> None:
    config = configure(think_callback_url="http://127.0.0.1:9/callbacks/think-main/token")
    async with play(config) as it:
        await it.think_send("13800138000")
        await it.handle.release()
        assert it.handle.truth("message")[0]["pushes"] == [{"what": "final", "answer": 0}]
