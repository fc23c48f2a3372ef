"""Files that somebody damaged or built on purpose: read or refused in our own words, at little cost."""

import asyncio
import io
import re
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import xlsxwriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_api import SETTINGS
from test_workbooks import crafted

from reconciler import credits, sent_files, statements
from reconciler.workbooks import RATIO_FROM_BYTES, Workbook, WorkbookError
from runtime import Problem
from runtime.settings import parse

STATEMENT = (
    "任务ID,手机号,计费条数,金额,发送时间,状态\n"
    "a,13800138000,1,0.04,2024-10-05 09:30:00,成功\n"
    "b,13800138001,2,0.08,,\n"
    "合计,,3,0.12,,\n"
)
CREDIT = "贷项通知单号,任务ID,手机号,金额,币种,原因\nC1,a,13800138000,0.04,CNY,多收\n"
SENT = (
    "account,vendor_message_id,phone,sent_at,content\nthink,a,13800138000,2024-10-05 09:30:00,hi\n"
)
LINES = '{"account":"think","vendor_message_id":"a","phone":"1","sent_at":"2024-10-05T09:30:00Z"}\n'


def workbook(text: str) -> bytes:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file, {"in_memory": True}) as book:
        sheet = book.add_worksheet()
        for number, line in enumerate(text.splitlines()):
            sheet.write_row(number, 0, line.split(","))
    return file.getvalue()


GOOD = {
    "statement.csv": STATEMENT.encode("gb18030"),
    "statement.xlsx": workbook(STATEMENT),
    "credit.csv": CREDIT.encode(),
    "credit.xlsx": workbook(CREDIT),
    "sent.csv": SENT.encode("utf-16"),
    "sent.xlsx": workbook(SENT),
    "sent.ndjson": LINES.encode() * 3,
}
SPLICES = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [
            *(b'"', b"\n", b"\r", b"\0", b",", b"\t", b"\xff\xfe", b"\xef\xbb\xbf", b"PK\x03\x04"),
            *(b"1e999999999", b"9" * 400, b"NaN", b"-", b"=1+1", b'{"a":' * 50, b"[" * 3000),
            *(
                "合计".encode(),
                "０".encode(),
                b"2024-13-45",
                b"0000-00-00",
                b"PK\x05\x06",
                b"\x00" * 30,
            ),
        ]
    ),
)


@contextmanager
def cheap(seconds: float, size: int) -> Iterator[None]:
    """Assert that what is done within takes little time of the processor, and memory."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        used, most = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert used < seconds
    assert most < size


def read(path: Path) -> None:
    """Read a file by what it is for, as its import does up to the database."""
    account = SETTINGS.accounts["think"]
    kind = path.name.partition(".")[0]
    if kind == "statement":
        layout = statements.format_layout(SETTINGS, "generic")
        asyncio.run(
            statements.preview(
                account, path, file_name=path.name, format_name="generic", layout=layout
            )
        )
    elif kind == "credit":
        credits._read(path, path.name, None, "CNY")
    else:
        for _ in sent_files._decoded(path, SETTINGS, None, None):
            pass


def complaint(work: Callable[[], object]) -> str:
    """What `work` says against what it reads, if anything; an error of no other kind is met."""
    try:
        work()
    except Problem as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", GOOD)
def test_the_files_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(GOOD[name])
    read(path)


@pytest.mark.parametrize("name", GOOD)
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_are_read_or_refused_and_nothing_else(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    body = bytearray(GOOD[name])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(start + 60, len(body))))
        body[start:end] = data.draw(SPLICES)
    path = tmp_path / name
    path.write_bytes(body)
    with cheap(5, 64 << 20):
        assert "\n" not in complaint(lambda: read(path))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_workbook_with_any_part_damaged_is_read_or_refused(
    tmp_path: Path, data: st.DataObject
) -> None:
    with zipfile.ZipFile(io.BytesIO(GOOD["statement.xlsx"])) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    chosen = data.draw(st.sampled_from(sorted(parts)))
    body = bytearray(parts[chosen])
    start = data.draw(st.integers(0, len(body)))
    body[start : start + data.draw(st.integers(0, 40))] = data.draw(
        SPLICES
        | st.sampled_from([b"<c", b"</row>", b"&lt;", b"&#0;", b"&a;", b"<!DOCTYPE x>", b"-1"])
    )
    path = tmp_path / "statement.xlsx"
    with zipfile.ZipFile(path, "w") as book:
        for name, part in parts.items():
            book.writestr(name, bytes(body) if name == chosen else part)
    with cheap(5, 64 << 20):
        assert "\n" not in complaint(lambda: read(path))


def test_a_sheet_that_unpacks_to_hundreds_of_times_its_size_is_refused_unread(
    tmp_path: Path,
) -> None:
    row = "<row><c><v>1</v></c></row>"
    path = crafted(tmp_path, row * (RATIO_FROM_BYTES // len(row) + 1))
    assert path.stat().st_size < 1 << 20
    with (
        pytest.raises(WorkbookError, match="unpacks to more than 200 times its size"),
        Workbook(path) as book,
        cheap(1, 16 << 20),
    ):
        list(book.rows(book.sheets[0]))


TOML = """
data_dir = "./data"
[receiver]
port = 8080
[reconciler]
api_token = "hush-hush-hush"
[accounts.think]
gateway = "thinkapi"
credentials = { app_code = "secret-app-code" }
callback_tokens = ["secret-token"]
[[accounts.think.tariffs]]
from = 2024-01-01
price = "0.04"
[statements.bank]
columns = { vendor_message_id = "编号", segments = "条" }
time_format = "%d/%m/%Y"
"""


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_settings_are_read_or_refused_in_one_line_without_a_secret(
    data: st.DataObject,
) -> None:
    text = TOML
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 25, len(text))))
        splice = data.draw(
            st.text(max_size=6)
            | st.sampled_from(
                [
                    *("[", "]", "{", "}", "=", '"', "\n", "nan", "inf", "1e999", "9" * 30, "[[x]]"),
                    *(
                        "#",
                        "-1",
                        "true",
                        "2024-02-30",
                        "{ env = 'X' }",
                        "{ file = '/' }",
                        "a.b = 1",
                    ),
                ]
            )
        )
        text = text[:start] + splice + text[end:]
    told = complaint(lambda: parse(text, Path("huizhi.toml"), {}))
    assert not re.search(r"\n|hush-hush-hush|secret-app-code|secret-token", told)
