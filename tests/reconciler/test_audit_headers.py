"""The files of `sql/audit`: their headers are complete, and say what PostgreSQL says of them."""

import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from reconciler import audit
from reconciler.audit import AUDIT, parse
from runtime.queries import SQL

TYPES = {
    "text": "text",
    "int4": "integer",
    "int8": "integer",
    "numeric": "decimal",
    "date": "date",
    "timestamptz": "time",
    "bool": "boolean",
    "uuid": "id",
}
GOOD = """\
-- Asks: How many?
-- 问: 多少？
-- Parameter account (account, optional): only this one | 只查这个账号
-- Parameter period (period): the days | 账期
-- Parameter minutes (integer, default 10, 1 to 60): within | 分钟
-- Binds: account, starts, ends, minutes, limit
-- Column messages (integer) 短信数: messages | 短信数
-- Note: a sign | 迹象

SELECT $1 || $2 || $3 || $4 AS messages
LIMIT $5::bigint;
"""


def test_there_are_at_least_twenty_and_every_file_is_one() -> None:
    assert len(AUDIT) >= 20
    assert sorted(AUDIT) == sorted(path.stem for path in (SQL / "audit").glob("*"))


@pytest.mark.anyio
@pytest.mark.parametrize("name", AUDIT)
async def test_columns_are_those_that_postgresql_finds(connection: Any, name: str) -> None:
    query = AUDIT[name]
    try:
        found = (await connection.prepare(query.text)).get_attributes()
    except asyncpg.PostgresError as error:
        raise AssertionError(f"{name}: {error}") from error
    assert [(column.name, column.type) for column in query.columns] == [
        (column.name, TYPES[column.type.name]) for column in found
    ]
    assert found[0].name == "account"


@pytest.mark.parametrize("name", AUDIT)
def test_query_asks_about_one_account_and_writes_nothing(name: str) -> None:
    query = AUDIT[name]
    assert "account" in query.binds
    assert not re.search(r"\b(INSERT|UPDATE|DELETE|CREATE|DROP|TRUNCATE|SET|COPY)\b", query.text)
    # What decides which rows a limit leaves must decide it for good.
    assert "ORDER BY" in query.text or name in ("by-account", "flat-success-rate")


@pytest.mark.parametrize("name", AUDIT)
def test_column_of_an_amount_has_a_currency_beside_it(name: str) -> None:
    columns = {column.name for column in AUDIT[name].columns}
    if columns & {"owed", "billed", "extra", "extra_owed", "extra_amount", "difference"}:
        assert "currency" in columns


def test_good_header_is_read_whole() -> None:
    query = parse("by-day", GOOD)
    assert query.question == audit.Words("How many?", "多少？")
    assert [each.name for each in query.parameters] == ["account", "period", "minutes"]
    assert [each.required for each in query.parameters] == [False, True, False]
    assert (query.parameters[2].default, query.parameters[2].low) == ("10", "1")
    assert query.columns[0] == audit.Column(
        "messages", "integer", "短信数", audit.Words("messages", "短信数")
    )
    assert query.note == audit.Words("a sign", "迹象")
    assert query.binds == ("account", "starts", "ends", "minutes", "limit")
    assert query.headings("en") == ["messages"]
    assert query.headings("zh") == ["短信数"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("-- Asks: How many?\n", "", "expected one line 'Asks'"),
        ("-- 问: 多少？\n", "", "expected one line '问'"),
        ("-- 问: 多少？", "-- 问: many", "lacks Chinese words"),
        ("-- 问: 多少？", "-- 问:", "line 2: is no line of a header"),
        (" | 只查这个账号", "", "line 3: is no line of a header"),
        ("只查这个账号", "only", "lacks Chinese words"),
        ("(integer, default 10, 1 to 60)", "(integer)", "a number without a default"),
        ("(integer, default 10, 1 to 60)", "(string)", "line 5: is no line of a header"),
        ("(period)", "(period, default 1, 1 to 2)", "a default for what is no number"),
        ("account (account, optional)", "vendor (account, optional)", "has no parameter account"),
        ("Parameter minutes", "Parameter period", "names a parameter twice"),
        ("Parameter minutes", "Parameter now", "a parameter whose name is taken"),
        ("ends, minutes, limit", "ends, hours, limit", "does not bind exactly its parameters"),
        ("ends, minutes, limit", "ends, ends, limit", "binds a value twice"),
        ("-- Parameter period (period): the days | 账期\n", "", "has a period without binding"),
        ("|| $4", "", "does not use exactly what it binds"),
        ("LIMIT $5::bigint", "OFFSET $5::bigint", "does not end in its limit"),
        ("-- Column messages (integer) 短信数: messages | 短信数\n", "", "has no columns"),
        ("-- Column messages (integer) 短信数", "-- Column messages (integer)", "line 7: is no"),
        ("-- Column messages (integer)", "-- Column messages (float)", "line 7: is no line"),
        ("-- Note: a sign | 迹象", "-- Asks: a sign", "line 8: Asks stands too late"),
        ("-- Note: a sign | 迹象", "-- Remark: a sign", "line 8: is no line of a header"),
    ],
)
def test_malformed_header_is_refused_with_what_is_wrong(old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        parse("by-day", GOOD.replace(old, new, 1))
    assert str(caught.value).startswith("by-day")


def test_malformed_file_stops_the_whole_load(tmp_path: Path) -> None:
    (tmp_path / "by-day.sql").write_text(GOOD, "utf-8")
    assert list(audit.load(tmp_path)) == ["by-day"]
    (tmp_path / "by_night.sql").write_text(GOOD, "utf-8")
    with pytest.raises(ValueError, match=r"by_night: is not named as queries are: by-day\.sql"):
        audit.load(tmp_path)
