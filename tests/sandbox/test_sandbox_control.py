"""The control plane, and that its README tells all of it."""

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import sandbox
from sandbox import Config
from sandbox.deepfinch import DeepFinchAccount
from sandbox.faults import PUSH_FAULTS
from sandbox.onecloudsp import OneCloudSp, OneCloudSpAccount
from sandbox.settings import Faults, Outcomes
from sandbox.thinkapi import ThinkApi, ThinkApiAccount
from sandbox.thinksms import ThinkSms, ThinkSmsAccount
from sandbox.truth import TYPES

pytestmark = pytest.mark.anyio


async def test_release_waits_until_all_is_attempted_and_can_be_narrowed(
    configure: Any, play: Any, customer: Any
) -> None:
    async with play(configure()) as it:
        await it.think_send("13800138000")
        await it.sms_send("13800138000")
        await it.think("add_sign", name="回执", remark="通知")
        narrowed = await it.http.post(
            "/_sandbox/release", json={"which": "reports", "vendor": "thinksms"}
        )
        assert narrowed.json() == {"released": {"reports": 1}, "waiting": 2, "failures": []}
        assert len(customer.received) == 1
        rest = await it.http.post("/_sandbox/release")
        assert rest.json()["released"] == {"reviews": 1, "reports": 1}
        assert len(customer.received) == 3


async def test_cut_reply_to_a_send_hides_a_text_that_was_sent(configure: Any, play: Any) -> None:
    async with play(configure()) as it:
        order = {"vendor": "thinkapi", "account": "think-main", "sends": 1}
        assert (await it.http.post("/_sandbox/cuts", json=order)).json() == {"sends": 1}
        with pytest.raises(httpx.RemoteProtocolError):
            await it.think_send("13800138000")
        await it.think_send("13800138001")
        assert [row["reply_lost"] for row in it.handle.truth("message")] == [True, False]
        (fault,) = it.handle.truth("reply")
        assert fault["kind"] == "reply_cut"
        assert [lost["phone"] for lost in fault["lost"]] == ["13800138000"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "release", {"which": "everything"}),
        ("POST", "release", {"what": "all"}),
        ("GET", "truth?type=lies", None),
        ("POST", "statements", {"vendor": "x", "account": "y", "period": "2026-10", "path": "z"}),
        ("POST", "inbound", {"vendor": "thinkapi", "account": "think-main", "items": []}),
        ("POST", "cuts", {"vendor": "thinkapi", "account": "nobody", "sends": 1}),
        ("POST", "cuts", {"vendor": "thinkapi", "account": "think-main", "sends": -1}),
    ],
)
async def test_misuse_is_refused(
    configure: Any, play: Any, method: str, path: str, body: dict[str, str] | None
) -> None:
    async with play(configure()) as it:
        reply = await it.http.request(method, f"/_sandbox/{path}", json=body)
        assert reply.status_code == 400


async def test_bad_virtual_time_is_refused_and_unknown_paths_are_not_found(
    configure: Any, play: Any
) -> None:
    async with play(configure()) as it:
        reply = await it.sms(
            "sms.aspx", "send", at="2026-10-03", mobile="13800138000", content="【智想】好"
        )
        assert reply.status_code == 400
        assert (await it.http.get("/thinksms/sms.asp")).status_code == 404
        assert (await it.http.get("/thinkapi/sms/refund")).status_code == 404
        items = (await it.http.get("/_sandbox/violations")).json()["items"]
        assert [item["call"] for item in items] == ["/sms.asp", "/sms/refund"]


async def test_truth_is_written_to_its_file_on_request(
    configure: Any, play: Any, tmp_path: Path
) -> None:
    path = tmp_path / "truth.jsonl"
    async with play(configure(truth_path=str(path))) as it:
        await it.think_send("13800138000")
        reply = await it.http.get("/_sandbox/truth")
        assert path.read_bytes() == reply.content
        stats = (await it.http.get("/_sandbox/stats")).json()
        assert stats["messages"] == {"thinkapi/think-main/delivered": 1}
        assert stats["waiting"] == 1


async def test_reviews_can_be_lost_or_doubled(configure: Any, play: Any, customer: Any) -> None:
    for faults, pushes in ((Faults(push_lost=1.0), 0), (Faults(push_doubled=1.0), 2)):
        customer.received.clear()
        async with play(configure(faults=faults)) as it:
            await it.think("add_sign", name="回执", remark="通知")
            await it.handle.release()
            (row,) = it.handle.truth("review")
            assert row["status"] == "approved"
            assert len(row["faults"]) == 1
        assert len(customer.received) == pushes


def test_readme_names_every_key_fault_and_type() -> None:
    text = (Path(sandbox.__file__).parent / "README.md").read_text(encoding="utf-8")
    names = [*PUSH_FAULTS, *TYPES]
    for vendor in (ThinkApi, ThinkSms, OneCloudSp):
        names += vendor.malformations
    accounts = (ThinkApiAccount, ThinkSmsAccount, OneCloudSpAccount, DeepFinchAccount)
    for struct in (Config, Faults, Outcomes, *accounts):
        names += [field.encode_name for field in msgspec.structs.fields(struct)]
    assert [name for name in names if f"`{name}" not in text and name not in text] == []
