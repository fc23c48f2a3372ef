"""The demo's parts that need no play: who takes part, what is sent, and how it judges."""

import json
import re
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateways import GATEWAYS
from huizhi.demo import comparison
from huizhi.demo.cast import CAST, FINCH, SANDBOX, SETTINGS, SMS, THINK
from huizhi.demo.company import own_requests
from huizhi.demo.comparison import Finding, Row, Truth
from huizhi.demo.play import _Demo
from runtime.settings import load
from sandbox.config import Config

TODAY = datetime.fromisoformat("2026-11-22T09:00:00+08:00")


class _Names(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return {"faults": "", "faults_of_listed": "", "seed": "1"}.get(name, f"the-{name}")


def test_every_vendor_takes_part_and_both_sides_have_the_same_accounts(tmp_path: Path) -> None:
    values = _Names(receiver="1", reconciler="2", sandbox_port="3", sandbox="http://127.0.0.1:3")
    (tmp_path / "huizhi.toml").write_text(SETTINGS.format_map(values), "utf-8")
    ours = load(tmp_path / "huizhi.toml").accounts
    document = tomllib.loads(SANDBOX.format_map(values))
    theirs = msgspec.convert(document, Config)
    accounts = {part.account: part.vendor for part in CAST}
    assert set(accounts.values()) == set(GATEWAYS)
    assert {name: each.gateway.name for name, each in ours.items()} == accounts
    for name, vendor in accounts.items():
        account = getattr(theirs, vendor).accounts[name]
        (tariff,) = ours[name].tariffs
        assert (account.price, account.basis) == (tariff.price, tariff.basis)
        tokens = [token.reveal() for token in ours[name].callback_tokens]
        assert [account.callback_url.rpartition("/")[2]] == (tokens or [""])


def test_numbers_sent_to_through_huizhi_are_nobody_elses() -> None:
    phones = [
        (part.vendor, phone)
        for part in CAST
        for own in own_requests(part)
        for phone in own.body["phones"]
    ]
    assert len(phones) == len(set(phones))
    # What `company` sends to by the vendors' own calls.
    others = re.compile(r"13[5689]\d{8}|63918\d{7}|6391\d{8}")
    assert not any(others.fullmatch(re.sub(r"\D", "", phone)) for _, phone in phones)


def _message(account: str, id: str, *, status: str = "delivered", **more: Any) -> dict[str, Any]:
    report = {"status": status, "handed": "push", "salvageable": False}
    return {
        "type": "message",
        "account": account,
        "vendor_message_id": id,
        "phone": "13800000000",
        "sent_at": "2026-10-05T08:00:00+08:00",
        "status": status,
        "segments": 1,
        "reports": [report],
        "reply_lost": False,
        **more,
    }


def _lost(handed: str = "lost", status: str = "delivered") -> list[dict[str, Any]]:
    return [{"status": status, "handed": handed, "salvageable": False}]


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (_message(THINK, "1"), "delivered"),
        (_message(THINK, "1", status="failed"), "failed"),
        (_message(SMS, "1", reports=_lost()), "expired"),
        (_message(SMS, "1", reports=_lost(), sent_at=TODAY.isoformat()), "submitted"),
        (_message(FINCH, "1", reports=_lost()), "submitted"),
    ],
)
def test_a_message_is_to_be_taken_for_what_can_be_known_of_it(
    message: dict[str, Any], status: str
) -> None:
    truth = Truth([message], TODAY, set())
    assert truth.status(message) == status
    right = {(message["account"], "1", "13800000000"): {"status": status, "segments": 1}}
    assert truth.settled(right) == right.keys()
    assert not truth.settled({key: {**row, "segments": 2} for key, row in right.items()})


def test_only_what_neither_report_nor_bill_tells_may_stay_in_doubt() -> None:
    hidden = {"reply_lost": True, "reports": _lost("query", "failed"), "status": "failed"}
    rows = [
        _message(THINK, "nobody knows", **hidden),
        _message(THINK, "a report came", reply_lost=True, status="failed"),
        _message(THINK, "billed", reply_lost=True, reports=_lost("query")),
        _message(SMS, "billed anyway", **hidden),
    ]
    truth = Truth(rows, TODAY, set())
    assert [key[1] for key in truth.unknowable] == ["nobody knows"]


def _finding(kind: str, id: str, amount: str = "0.035") -> dict[str, Any]:
    return {"kind": kind, "vendor_message_id": id, "phone": "13800000000", "amount": amount}


@pytest.mark.parametrize(
    ("found", "right"),
    [
        ([_finding("billed_twice", "1")], True),
        ([], False),
        ([_finding("billed_twice", "1", "0.036")], False),
        ([_finding("billed_twice", "1"), _finding("billed_twice", "1")], False),
        ([_finding("billed_twice", "1"), _finding("not_billed", "1")], False),
        ([_finding("billed_twice", "1"), _finding("report_missing", "1", "0")], False),
    ],
)
def test_a_discrepancy_counts_with_its_message_its_number_and_its_amount(
    found: list[dict[str, Any]], right: bool
) -> None:
    fault = {**_finding("billed_twice", "1", "0.0350"), "account": THINK, "period": "2026-10"}
    truth = Truth([_message(THINK, "1"), {**fault, "type": "statement_fault"}], TODAY, set())
    result = {"discrepancies": found, "holds": lambda sent_at: sent_at.startswith("2026-10")}
    judged = comparison.findings(truth, {(THINK, "2026-10"): result})
    assert all(each.right for each in judged) is right


def test_result_as_json_has_everything_that_the_tables_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play = _Demo(10, 1, tmp_path, "json")
    result = {"account": THINK, "difference": {"amount": "0"}}
    play._say("a story for people")
    play._show_json(
        {(THINK, "2026-10"): {"result": result, "discrepancies": []}},
        [Row("push_lost", 3, 2, 1, "recovered")],
        [Finding("not_billed", {THINK: 2}, {THINK: 1}, 0)],
        [{"account": THINK, "sent twice": 0}],
        ["think-main 5 CNY"],
    )
    out, err = capsys.readouterr()
    assert "a story for people" in err
    assert json.loads(out) == {
        "bills": [result],
        "discrepancies": [
            {
                "kind": "not_billed",
                "injected": {THINK: 2},
                "found": {THINK: 1},
                "falsely_reported": 0,
            }
        ],
        "sent": [{"account": THINK, "sent_twice": 0}],
        "others": [
            {
                "what": "push_lost",
                "injected": 3,
                "found": 2,
                "falsely_reported": 1,
                "how": "recovered",
            }
        ],
        "balances": ["think-main 5 CNY"],
        "notes": [],
        "problems": [],
    }
