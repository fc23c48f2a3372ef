"""The commands of a dispute, as typed: discrepancy, credit."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from test_commands import MONTH, Typed, api, mistake, said, typed

from reconciler.reading import disputed
from runtime.database import Database

__all__ = ["typed"]  # a fixture
pytestmark = pytest.mark.anyio

BILL = "任务ID,手机号,计费条数,金额\nx,13800138000,1,0.04\ny,13800138000,2,0.08\n"


async def test_dispute_from_finding_to_credit(
    typed: Typed, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "bill.csv").write_text(BILL, "utf-8")
    said(await typed("statement", "import", "bill.csv", *MONTH))
    said(await typed("reconcile", *MONTH), code=1)
    told = json.loads(said(await typed("discrepancy", "list", "--output", "json")))
    there = await api(database, tmp_path, "/v1/discrepancies")
    assert told == there
    ids = {each["vendor_message_id"]: each["id"] for each in told["items"]}

    done = said(
        await typed(
            *("discrepancy", "set", "--account", "think", "--period", "2024-10"),
            *("--in-state", "open", "--state", "disputed", "--owner", "wang", "--by", "li"),
        )
    )
    assert done == "2 changed, 0 so already\n"
    table = said(await typed("discrepancy", "list", "--owner", "wang", "--kind", "billed_not_sent"))
    assert [line.split()[4] for line in table.splitlines()[1:]] == ["disputed", "disputed"]
    assert said(await typed("discrepancy", "list", "--owner", "")).count("\n") == 1

    (tmp_path / "credits.csv").write_text(
        "贷项通知单号,任务ID,金额,币种\nCN-1,x,0.05,CNY\nCN-1,,0.02,CNY\n", "gb18030"
    )
    imported = ("credit", "import", "credits.csv", "--account", "think")
    assert said(await typed(*imported)).splitlines() == [
        "imported: 2 lines",
        "0.07 CNY: 0.06 set against disputes, 0.01 left",
        "line 2, CN-1, x: 0.01 of 0.05 CNY left, more than is disputed",
    ]
    assert said(await typed(*imported)).startswith("known already: 2 lines\n")
    again = json.loads(said(await typed(*imported, "--output", "json")))
    assert again["duplicate_of"] == again["id"]
    rows = csv.DictReader(
        io.StringIO(said(await typed("credit", "list", "--output", "csv")).removeprefix("\ufeff"))
    )
    assert [(row["line"], row["allocated"]) for row in rows] == [("3", "0.02"), ("2", "0.04")]
    left = said(await typed("credit", "list", "--unallocated", "--account", "think"))
    assert left.count("\n") == 2

    shown = said(await typed("discrepancy", "show", ids["y"]))
    assert "\nrest: 0.06\n" in shown
    assert "0.02 of credit note CN-1, 0.06 left" in shown
    told = json.loads(said(await typed("discrepancy", "show", ids["x"], "--output", "json")))
    assert told == await api(database, tmp_path, f"/v1/discrepancies/{ids['x']}")
    assert told["state"] == "credited"
    refused = mistake(await typed("discrepancy", "set", ids["x"], "--state", "open"))
    assert refused.endswith("credited ended it: opening it again needs a note")
    opened = await typed(
        *("discrepancy", "set", ids["x"], "--state", "open", "--note", "withdrawn"),
        *("--by", "li", "--version", "3", "--output", "json"),
    )
    assert json.loads(said(opened))["version"] == 4

    ageing = json.loads(said(await typed("discrepancy", "ageing", "--output", "json")))
    kept: Any = await api(database, tmp_path, "/v1/discrepancies/ageing")
    assert {**ageing, "as_of": None} == {**kept, "as_of": None}
    assert [row["state"] for row in ageing["items"]] == ["open", "disputed"]
    assert ageing["totals"][-1]["amount"] == "0.12"
    table = said(await typed("discrepancy", "ageing"))
    assert table.split("\n")[0].split() == list(disputed.AGEING_COLUMNS)


async def test_mistakes_are_one_line(typed: Typed, tmp_path: Path) -> None:
    nobody = "00000000-0000-0000-0000-000000000000"
    for arguments, told in (
        (("show", nobody), f"no discrepancy {nobody}"),
        (("set", nobody, "--note", "n"), f"no discrepancy {nobody}"),
        (("set", "--note", "n"), "name discrepancies by their IDs"),
        (("set", nobody, "--account", "think", "--note", "n"), "name discrepancies by their IDs"),
        (("set", "--account", "think"), "nothing to set"),
        (("set", "--account", "think", "--version", "1", "--note", "n"), "--version is of one ID"),
        (("list", "--account", "none"), "no account 'none'"),
        (("list", "--period", "x"), "'x' is no period"),
    ):
        assert told in mistake(await typed("discrepancy", *arguments)), arguments
    (tmp_path / "credits.csv").write_text("number,amount,currency\nA,1,\n", "utf-8")
    told = mistake(await typed("credit", "import", "credits.csv", "--account", "think"))
    assert told == "credits.csv: line 2, column currency: '' is no currency, such as CNY"
