"""Statements are wrong exactly where the truth says, and by exactly those amounts."""

import csv
import io
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sandbox.segments import count_segments
from sandbox.settings import Faults, Outcomes

pytestmark = pytest.mark.anyio

OUTCOMES = Outcomes(failed=0.2, never_final=0.05)


async def send_a_month(it: Any, count: int = 120) -> None:
    for number in range(count):
        month = 9 if number % 10 == 0 else 10
        at = f"2026-{month:02d}-{1 + number % 30:02d}T00:30:00+08:00"
        phone = str(13800138000 + number)
        await it.think_send(phone, at=at)
        await it.sms_send(phone, content=f"【智想】{'长' * (number * 3 % 150)}。", at=at)
        await it.cloud_send(phone, at=at)


def lines_of(path: Path, charset: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(charset))))


async def test_faultless_statement_is_exactly_what_is_owed(
    configure: Any, play: Any, tmp_path: Path, price: Decimal
) -> None:
    async with play(configure(outcomes=OUTCOMES)) as it:
        await send_a_month(it, 40)
        order = {"vendor": "thinkapi", "account": "think-main", "period": "2026-10"}
        path = tmp_path / "think.csv"
        reply = await it.http.post("/_sandbox/statements", json={**order, "path": str(path)})
        totals = reply.json()
        assert totals["faults"] == []
        assert Decimal(totals["difference"]) == 0
        delivered = {
            row["vendor_message_id"]
            for row in it.handle.truth("message")
            if row["vendor"] == "thinkapi"
            and row["status"] == "delivered"
            and row["sent_at"].month == 10
        }
    assert path.read_bytes().startswith(b"\xef\xbb\xbfvendor_message_id,phone,segments,amount,")
    lines = lines_of(path, "utf-8-sig")
    assert {line["vendor_message_id"] for line in lines} == delivered
    assert sum(Decimal(line["amount"]) for line in lines) == price * len(lines)


async def test_thinksms_bills_what_was_submitted_under_chinese_headings(
    configure: Any, play: Any, tmp_path: Path
) -> None:
    async with play(configure(outcomes=OUTCOMES)) as it:
        await send_a_month(it, 40)
        path = tmp_path / "sms.csv"
        statement = it.handle.write_statement("thinksms", "sms-main", "2026-10", path)
        assert len(statement.lines) == 36
    lines = lines_of(path, "gb18030")
    assert list(lines[0]) == ["任务ID", "手机号", "计费条数", "金额", "发送时间", "状态"]
    assert {line["状态"] for line in lines} == {"成功", "失败", "未知"}
    assert lines[0]["发送时间"].endswith("00:30:00")


async def test_headings_and_charset_can_be_chosen(
    configure: Any, play: Any, tmp_path: Path
) -> None:
    config = configure(
        think_statement_columns={"vendor_message_id": "编号", "amount": "费用"},
        think_statement_charset="gbk",
        think_statement_delimiter=";",
    )
    async with play(config) as it:
        message_id = await it.think_send("13800138000", at="2026-10-01T00:00:00+08:00")
        it.handle.write_statement("thinkapi", "think-main", "2026-10", tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes().decode("gbk") == f"编号;费用\r\n{message_id};0.035\r\n"


@pytest.mark.parametrize(
    ("vendor", "account", "basis"),
    [
        ("thinkapi", "think-main", "delivered"),
        ("thinkapi", "think-main", "submitted"),
        ("thinksms", "sms-main", "delivered"),
        ("thinksms", "sms-main", "submitted"),
        ("onecloudsp", "cloud-main", "delivered"),
        ("onecloudsp", "cloud-main", "submitted"),
    ],
)
async def test_amounts_of_all_findings_add_up_to_billed_minus_owed(
    configure: Any,
    play: Any,
    tmp_path: Path,
    every_statement_fault: Faults,
    vendor: str,
    account: str,
    basis: str,
) -> None:
    key = {"thinkapi": "think", "thinksms": "sms", "onecloudsp": "cloud"}[vendor] + "_basis"
    config = configure(outcomes=OUTCOMES, faults=every_statement_fault, **{key: basis})
    async with play(config) as it:
        await send_a_month(it)
        await it.handle.release()
        path = tmp_path / "statement.csv"
        order = {"vendor": vendor, "account": account, "period": "2026-10", "path": str(path)}
        totals = (await it.http.post("/_sandbox/statements", json=order)).json()
        first = path.read_bytes()
        again = (await it.http.post("/_sandbox/statements", json=order)).json()
        assert again == totals
        assert path.read_bytes() == first
        messages = {
            (row["vendor_message_id"], row["phone"]): row
            for row in it.handle.truth("message")
            if row["vendor"] == vendor
        }
    faults = totals["faults"]
    kinds = Counter(row["kind"] for row in faults)
    expected = {
        "billed_not_sent", "billed_twice", "billed_out_of_period", "segments_differ",
        "price_differs", "not_billed",
    }  # fmt: skip
    assert set(kinds) == expected | ({"billed_not_delivered"} if basis == "delivered" else set())
    difference = Decimal(totals["billed"]["amount"]) - Decimal(totals["owed"]["amount"])
    assert sum(Decimal(row["amount"]) for row in faults) == difference
    assert Decimal(totals["difference"]) == difference
    assert (
        sum(row["segments"] for row in faults)
        == totals["billed"]["segments"] - totals["owed"]["segments"]
    )
    columns = {
        "thinkapi": ("vendor_message_id", "phone", "segments", "amount"),
        "thinksms": ("任务ID", "手机号", "计费条数", "金额"),
        "onecloudsp": ("消息ID", "手机号码", "计费条数", "金额"),
    }[vendor]
    charset = "gb18030" if vendor == "thinksms" else "utf-8-sig"
    lines = [tuple(line[name] for name in columns) for line in lines_of(path, charset)]
    assert sum(Decimal(line[3]) for line in lines) == Decimal(totals["billed"]["amount"])
    on_line = Counter((message_id, phone) for message_id, phone, *_ in lines)
    for row in faults:
        place = (row["vendor_message_id"], row["phone"])
        message = messages.get(place)
        match row["kind"]:
            case "billed_not_sent":
                assert message is None
                assert on_line[place] == 1
            case "not_billed":
                assert on_line[place] == 0
            case "billed_twice":
                assert on_line[place] in (2, 3)
            case "billed_out_of_period":
                assert message is not None
                assert message["sent_at"].month == 9
            case "billed_not_delivered":
                assert message is not None
                assert message["status"] == "failed"
            case _:
                assert on_line[place] == 1


async def test_message_billed_in_another_month_is_missing_from_its_own(
    configure: Any, play: Any, tmp_path: Path
) -> None:
    config = configure(faults=Faults(billed_out_of_period=1.0))
    async with play(config) as it:
        await it.think_send("13800138000", at="2026-09-30T23:59:59+08:00")
        await it.think_send("13800138001", at="2026-10-01T00:00:00+08:00")
        october = it.handle.write_statement(
            "thinkapi", "think-main", "2026-10", tmp_path / "10.csv"
        )
        september = it.handle.write_statement(
            "thinkapi", "think-main", "2026-09", tmp_path / "09.csv"
        )
        rows = it.handle.truth("statement_fault")
    assert len(october.lines) == 2
    assert september.lines == []
    assert [(row["period"], row["kind"], row["amount"], row["cause"]) for row in rows] == [
        ("2026-10", "billed_out_of_period", "0.035", "injected"),
        ("2026-09", "not_billed", "-0.035", "billed_out_of_period"),
    ]


async def test_delivered_message_whose_report_was_cut_away_is_expected_as_not_delivered(
    configure: Any, play: Any, tmp_path: Path
) -> None:
    config = configure(faults=Faults(page_cut=1.0), sms_hand_out="pull", sms_basis="delivered")
    async with play(config) as it:
        await it.sms_send("13800138000", at="2026-10-01T00:00:00+08:00")
        await it.handle.release()
        it.handle.write_statement("thinksms", "sms-main", "2026-10", tmp_path / "x.csv")
        assert it.handle.truth("statement_fault") == []
        with pytest.raises(Exception, match="without sending complete"):
            await it.sms("statusApi.aspx", "query")
        (row,) = it.handle.truth("statement_fault")
        assert (row["kind"], row["cause"]) == ("billed_not_delivered", "report_lost")
        (totals,) = it.handle.truth("statement")
        assert totals["owed"]["amount"] == "0"
        assert totals["difference"] == row["amount"]


@pytest.mark.parametrize("period", ["2026-13", "October", "2026-10-05..2026-10-01"])
async def test_period_that_is_none_is_refused(
    configure: Any, play: Any, tmp_path: Path, period: str
) -> None:
    async with play(configure()) as it:
        order = {
            "vendor": "thinkapi",
            "account": "think-main",
            "period": period,
            "path": str(tmp_path / "x.csv"),
        }
        reply = await it.http.post("/_sandbox/statements", json=order)
        assert reply.status_code == 400
        assert reply.json()["error"]
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    ("length", "segments"), [(0, 1), (70, 1), (71, 2), (134, 2), (135, 3), (201, 3), (202, 4)]
)
def test_segments_are_70_then_67(length: int, segments: int) -> None:
    assert count_segments("字" * length, "code_point") == segments


def test_counting_unit_decides_over_an_emoji() -> None:
    text = "字" * 69 + "😀"
    assert count_segments(text, "code_point") == 1
    assert count_segments(text, "utf16") == 2
