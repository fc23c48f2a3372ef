"""The ledger from files: each row as a call would register it, each complaint with its line."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter

from reconciler import sent_files
from reconciler.sent_files import Imported
from reconciler.tables import FileError
from runtime.settings import Settings, parse

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 10, 20, tzinfo=UTC)
SETTINGS = """
[accounts.api]
gateway = "thinkapi"
credentials = { app_code = "code" }
[accounts.utc]
gateway = "thinkapi"
credentials = { app_code = "code" }
timezone = "UTC"
"""
CSV = """账号,任务ID,手机号,发送时间,内容,签名,条数,流水号,备注
api,a1,+86 13800138000,2026-10-05 09:30:00,您的验证码是7865,顶想云,,order-1,x
utc,a2,13800138001,2026/10/5 9:30,,,3,,
api,a3,13800138002,2026-10-05T09:30:00+00:00,,,,,
"""


@pytest.fixture
def read(tmp_path: Path) -> Settings:
    return parse(SETTINGS, tmp_path / "huizhi.toml", {})


async def imported(
    pool: Any, read: Settings, path: Path, data: bytes | None = None, account: str | None = None
) -> Imported:
    if data is not None:
        path.write_bytes(data)
    return await sent_files.import_file(pool, read, path, default_account=account, now=NOW)


async def kept(pool: Any) -> list[tuple[Any, ...]]:
    rows = await pool.fetch(
        "SELECT account, vendor_message_id, phone, sent_at, content, sign, segments, reference"
        " FROM messages ORDER BY vendor_message_id"
    )
    return [tuple(row) for row in rows]


MORNING = datetime(2026, 10, 5, 1, 30, tzinfo=UTC)
NOON = datetime(2026, 10, 5, 9, 30, tzinfo=UTC)
KEPT = [
    ("api", "a1", "13800138000", MORNING, "您的验证码是7865", "顶想云", 1, "order-1"),
    ("utc", "a2", "13800138001", NOON, None, None, 3, None),
    ("api", "a3", "13800138002", NOON, None, None, 1, None),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
async def test_csv_is_registered_whole_and_again_changes_nothing(
    pool: Any, read: Settings, tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "sent.csv"
    done = await imported(pool, read, path, CSV.encode(encoding))
    assert done == Imported(recorded=3)
    assert await kept(pool) == KEPT
    assert await imported(pool, read, path) == Imported(duplicates=3)
    assert await kept(pool) == KEPT


async def test_xlsx_is_registered_as_a_person_sees_it(
    pool: Any, read: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "sent.xlsx"
    book = xlsxwriter.Workbook(path)
    dated = book.add_format({"num_format": "yyyy-mm-dd hh:mm"})
    sheet = book.add_worksheet()
    sheet.write_row(
        1, 0, ["account", "taskid", "mobile", "sent_at", "content", "sign", "segments", "流水号"]
    )
    sheet.write_row(2, 0, ["api", "a1", 8613800138000])
    sheet.write_datetime(2, 3, datetime(2026, 10, 5, 9, 30), dated)  # noqa: DTZ001
    sheet.write_row(2, 4, ["您的验证码是7865", "顶想云", "", "order-1"])
    sheet.write_row(3, 0, ["utc", "a2", "13800138001", "2026-10-05 09:30:00", "", "", 3])
    sheet.write_row(4, 0, ["api", 1234567890123456, 13800138000, "2026-10-05"])
    sheet.write_row(5, 0, ["api", "a3", "13800138002", "2026-10-05 17:30:00"])
    book.close()
    done = await imported(pool, read, path)
    assert (done.recorded, done.rejected_count) == (3, 1)
    assert done.rejected == [(5, "vendor_message_id is a number that a spreadsheet has rounded")]
    assert await kept(pool) == KEPT


async def test_ndjson_is_registered_as_calls_are(pool: Any, read: Settings, tmp_path: Path) -> None:
    rows = [
        {
            "vendor_message_id": f"n{n}",
            "phone": "13800138000",
            "sent_at": "2026-10-05T09:30:00+08:00",
        }
        for n in range(3)
    ]
    lines = [json.dumps(row).encode() for row in rows]
    bad = [b"{", b"[]", b'"x"', b'"\xff\xfe"', b"", b"  ", b"[" * 100_000, b'{"phone":1}']
    data = b"\xef\xbb\xbf" + b"\n".join([lines[0], *bad, lines[1], lines[2]])
    done = await imported(pool, read, tmp_path / "sent.ndjson", data, "api")
    assert (done.recorded, done.rejected_count) == (3, 6)
    assert [line for line, _ in done.rejected] == [2, 3, 4, 5, 8, 9]
    assert {reason for _, reason in done.rejected[:2]} == {"is not JSON", "is not a JSON object"}


async def test_rows_without_an_account_are_the_given_accounts(
    pool: Any, read: Settings, tmp_path: Path
) -> None:
    data = "任务ID,手机号,发送时间\na1,13800138000,2026-10-05 09:30:00\n".encode()
    path = tmp_path / "sent.csv"
    with pytest.raises(FileError, match="line 1: no column of account"):
        await imported(pool, read, path, data)
    assert await imported(pool, read, path, data, "utc") == Imported(recorded=1)
    assert (await kept(pool))[0][:4] == ("utc", "a1", "13800138000", NOON)


async def test_bad_rows_are_named_by_their_line_and_sink_no_other(
    pool: Any, read: Settings, tmp_path: Path
) -> None:
    data = (
        "任务ID,手机号,发送时间,条数\n"
        "a1,13800138000,2026-10-05 09:30:00,1\n"
        "\n"
        "1.23E+15,13800138000,2026-10-05,1\n"
        'a2,"138\n00138000",2026-10-05,1\n'
        "a3,1.38E+10,2026-10-05,1\n"
        ",13800138000,2026-10-05,1\n"
        "a4,,2026-10-05,1\n"
        "a5,13800138000,soon,1\n"
        "a6,13800138000,,1\n"
        "a7,13800138000,2026-10-05,two\n"
        f"a8,13800138000,2026-10-05,{'9' * 5000}\n"
        "a9,13800138000,2026-13-05,1\n"
        "b1,13800138000,2099-10-05,1\n"
        "635303e52052,13800138000,2026-10-05,1\n"
    )
    done = await imported(pool, read, tmp_path / "sent.csv", data.encode(), "api")
    assert (done.recorded, done.rejected_count) == (3, 10)
    assert [line for line, _ in done.rejected] == [4, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    assert all(reason for _, reason in done.rejected)
    assert {row[1] for row in await kept(pool)} == {"a1", "a2", "635303e52052"}


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("sent.csv", b"", "the file is empty"),
        ("sent.csv", b"\n\n", "the file is empty"),
        ("sent.csv", b"a,b\n1,2\n", "no column of"),
        ("sent.csv", b"id,phone\n\x00\n", "NUL"),
        ("sent.xlsx", b"PK\x03\x04", "not an XLSX workbook"),
    ],
)
async def test_file_that_is_no_table_is_refused(
    pool: Any, read: Settings, tmp_path: Path, name: str, data: bytes, complaint: str
) -> None:
    with pytest.raises(FileError, match=complaint):
        await imported(pool, read, tmp_path / name, data, "api")


async def test_missing_file_is_refused(pool: Any, read: Settings, tmp_path: Path) -> None:
    for name in ("none.csv", "none.ndjson"):
        with pytest.raises(FileError, match=f"{name}: cannot be read: No such file"):
            await imported(pool, read, tmp_path / name)


async def test_file_that_breaks_off_late_registers_nothing(
    pool: Any, read: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_files, "CHUNK_ROWS", 10)
    lines = [f"a{n},13800138000,2026-10-05" for n in range(50)]
    data = "\n".join(["任务ID,手机号,发送时间", *lines, 'b,"open'])
    with pytest.raises(FileError, match="line 52: is not CSV"):
        await imported(pool, read, tmp_path / "sent.csv", data.encode(), "api")
    assert await kept(pool) == []


async def test_long_file_goes_in_chunks_with_its_own_line_numbers(
    pool: Any, read: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_files, "CHUNK_ROWS", 100)
    monkeypatch.setattr(sent_files, "SHOWN_REJECTIONS", 3)
    lines = [f"a{n},{'13800138000' if n % 90 else ''},2026-10-05" for n in range(1000)]
    data = "\n".join(["任务ID,手机号,发送时间", *lines])
    done = await imported(pool, read, tmp_path / "sent.csv", data.encode(), "api")
    assert (done.recorded, done.rejected_count) == (988, 12)
    assert [line for line, _ in done.rejected] == [2, 92, 182]
    assert len(await kept(pool)) == 988
