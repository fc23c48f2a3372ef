"""The commands of access, as typed: token, actions; and that commands which change things are recorded."""

import json
import re

import pytest
from test_commands import MONTH, Typed, mistake, said, typed

from reconciler.actions import login

pytestmark = pytest.mark.anyio
__all__ = ("typed",)


async def test_a_token_is_printed_once_and_listed_without_itself(typed: Typed) -> None:
    told = await typed("token", "add", "grafana", "--role", "reader", "--expires", "90")
    assert told.returncode == 0
    token = told.stdout.strip()
    assert re.fullmatch(r"huizhi_[A-Za-z0-9_-]{43}", token)
    assert "grafana, reader, id " in told.stderr
    assert token not in told.stderr
    (row,) = json.loads(said(await typed("token", "list", "--output", "json")))["items"]
    assert (row["name"], row["role"], row["ended_at"]) == ("grafana", "reader", None)
    assert token not in said(await typed("token", "list"))
    added = json.loads(
        said(await typed("token", "add", "grafana", "--role", "admin", "--output", "json"))
    )
    assert "two tokens already" in mistake(
        await typed("token", "add", "grafana", "--role", "admin")
    )
    assert said(await typed("token", "revoke", added["id"])) == f"revoked {added['id']}\n"
    assert "no living token" in mistake(await typed("token", "revoke", added["id"]))


async def test_commands_that_change_something_are_recorded_and_others_are_not(typed: Typed) -> None:
    said(await typed("sent", "import", "sent.csv"))
    said(await typed("statement", "import", "bill.csv", *MONTH, "--preview"))
    said(await typed("statement", "import", "bill.csv", *MONTH))
    said(await typed("reconcile", *MONTH), 1)  # what was never reported was billed
    said(await typed("statement", "list"))
    mistake(await typed("reconcile", "--account", "think", "--period", "2023-01"))
    found = json.loads(said(await typed("actions", "--output", "json")))["items"]
    month = {"account": "think", "period": "2024-10"}
    assert [(each["what"], each["subject"], each["outcome"]) for each in found[::-1]] == [
        ("huizhi sent import", {}, "done"),
        ("huizhi statement import", month, "done"),
        ("huizhi reconcile", month, "done"),
        ("huizhi reconcile", {"account": "think", "period": "2023-01"}, "failed"),
    ]
    assert {(each["actor"], each["via"]) for each in found} == {(login(), "command")}
    table = said(await typed("actions", "--what", "huizhi sent import"))
    assert "huizhi sent import" in table
    assert "huizhi reconcile" not in table
