"""`huizhi audit` as typed."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from test_commands import Typed, api, mistake, said, typed  # noqa: F401

from reconciler.audit import AUDIT
from runtime.database import Database

pytestmark = pytest.mark.anyio

MONTH = ("--param", "period=2024-10")


async def test_lists_every_query_with_its_question_in_either_language(
    typed: Typed,  # noqa: F811
    database: Database,
    tmp_path: Path,
) -> None:
    told = said(await typed("audit"))
    zh = said(await typed("audit", "--lang", "zh"))
    for query in AUDIT.values():
        assert f"{query.name} " in told
        assert query.question.en in told
        assert query.question.zh in zh
    assert "[account], period, minutes=10" in told
    listed = json.loads(said(await typed("audit", "--output", "json")))
    assert listed == await api(database, tmp_path, "/v1/audit")
    rows = list(csv.reader(io.StringIO(said(await typed("audit", "--output", "csv")))))
    assert len(rows) == 1 + len(AUDIT)


async def test_runs_a_query_as_table_json_and_file(
    typed: Typed,  # noqa: F811
    database: Database,
    tmp_path: Path,
    pool: Any,
) -> None:
    said(await typed("sent", "import", "sent.csv"))
    await pool.execute("UPDATE messages SET sign = '[回执]' WHERE vendor_message_id = 'a'")
    table = said(await typed("audit", "by-sign", *MONTH))
    assert table.split()[:4] == ["account", "sign", "messages", "segments"]
    assert "[回执]" in table
    assert said(await typed("audit", "by-sign", *MONTH, "--lang", "zh")).startswith("账号")
    found = json.loads(said(await typed("audit", "by-sign", *MONTH, "--output", "json")))
    assert found == await api(database, tmp_path, "/v1/audit/by-sign?period=2024-10")
    assert [row["owed"] for row in found["items"]] == ["0.04", "0.04"]
    text = said(await typed("audit", "by-sign", *MONTH, "--output", "csv", "--lang", "zh"))
    assert text.removeprefix("\ufeff").startswith("账号,签名,短信数")
    limited = ("--param", "account=sms", "--output", "csv")
    assert len(said(await typed("audit", "by-sign", *MONTH, *limited)).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("by-night",), "no audit query 'by-night'; there are: billed-by-day"),
        (("by-day",), "period: missing; expected a period, such as 2026-10 or"),
        (("by-day", "--param", "period"), "--param 'period': expected NAME=VALUE"),
        (("by-day", "--param", "=x"), "--param '=x': expected NAME=VALUE"),
        (("by-day", *MONTH, *MONTH), "--param 'period': given twice"),
        (("by-day", *MONTH, "--param", "day=1"), "'day': no parameter of by-day"),
        (("long-texts", *MONTH, "--param", "segments=1"), "segments: expected an integer from 2"),
        (MONTH, "--param is for a query; name one before it"),
    ],
)
async def test_mistake_is_one_line(
    typed: Typed,  # noqa: F811
    arguments: tuple[str, ...],
    complaint: str,
) -> None:
    assert mistake(await typed("audit", *arguments)).startswith(complaint)
