"""`POST /v1/sent`: an array or NDJSON, and one bad row never sinks the others."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.api import create_app
from runtime.database import Database
from runtime.settings import parse

pytestmark = pytest.mark.anyio

SETTINGS = """
data_dir = "data"
[reconciler]
api_token = "a-token-of-the-api"
[accounts.api]
gateway = "thinkapi"
credentials = { app_code = "code" }
"""


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(parse(SETTINGS, tmp_path / "huizhi.toml", {}), database)
    async with (
        app.lifespan(),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://reconciler",
            headers={"authorization": "Bearer a-token-of-the-api"},
        ) as client,
    ):
        yield client


def row(id: str = "1", **more: Any) -> dict[str, Any]:
    return {
        "account": "api",
        "vendor_message_id": id,
        "phone": "13800138000",
        "sent_at": "2026-10-05T09:30:00+08:00",
        **more,
    }


def text(id: str, content: str = '""') -> bytes:
    """A row spelled by hand, its content as it stands."""
    whole = json.dumps(row(id, content="@"))
    return whole.replace('"@"', content).encode()


async def sent(api: httpx.AsyncClient, body: bytes, kind: str = "application/json") -> Any:
    told = await api.post("/v1/sent", content=body, headers={"content-type": kind})
    assert told.status_code == 200, told.text
    return told.json()


async def test_array_and_ndjson_are_the_same(api: httpx.AsyncClient) -> None:
    rows = [row(str(number)) for number in range(3)]
    first = await sent(api, json.dumps(rows).encode())
    assert first == {"recorded": 3, "duplicates": 0, "rejected": []}
    lines = [json.dumps(one).encode() for one in rows]
    for body, kind in (
        (b"\n".join(lines), "application/x-ndjson"),
        (b"\r\n\r\n".join(lines) + b"\r\n", "application/json"),
        (b"\xef\xbb\xbf" + b"\n".join(lines), ""),
        (b" \n" + json.dumps(rows, indent=2).encode(), "text/plain"),
    ):
        assert await sent(api, body, kind) == {"recorded": 0, "duplicates": 3, "rejected": []}
    assert await sent(api, b"[]") == {"recorded": 0, "duplicates": 0, "rejected": []}


BAD = [
    rb'"\ud800"',
    rb'"\udfff x"',
    b'"\xff\xfe"',
    b"1e999",
    b"9" * 5000,
    b"9" * 400,
    rb'"a\u0000b"',
    b"[" * 200 + b"]" * 200,
    b'{"a": {"b": null}}',
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad[:12]))
async def test_row_that_cannot_be_read_is_rejected_by_its_index(
    api: httpx.AsyncClient, bad: bytes
) -> None:
    found = bad.decode("latin-1")
    wrong = text("bad").replace(b'""', found.encode("latin-1"))
    rows = [text("a"), wrong, text("b"), wrong]
    for body in (b"[" + b",".join(rows) + b"]", b"\n".join(rows)):
        told = await sent(api, body)
        assert told["recorded"] + told["duplicates"] == 2
        assert [one["index"] for one in told["rejected"]] == [1, 3]
        assert all(one["reason"] for one in told["rejected"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"[",
        b"[1,]",
        b"[1] 2",
        b"hello",
        b"<xml/>",
        b"\xff\xff",
        b"[NaN]",
        b"[" * 100_000,
        b"a=b&c=d",
    ],
)
async def test_body_that_is_neither_is_a_problem(api: httpx.AsyncClient, body: bytes) -> None:
    told = await api.post("/v1/sent", content=body)
    assert told.status_code == 400
    assert told.headers["content-type"].startswith("application/problem+json")


@pytest.mark.parametrize("body", [b"{}", b"7", b'"x"', b"null", b"[7, null, {}]"])
async def test_json_that_is_no_message_is_rejected_row_by_row(
    api: httpx.AsyncClient, body: bytes
) -> None:
    told = await sent(api, body)
    assert told["recorded"] == 0
    assert len(told["rejected"]) == (3 if body.startswith(b"[") else 1)


async def test_ten_thousand_are_taken_and_one_more_is_not(api: httpx.AsyncClient) -> None:
    rows = [row(str(number)) for number in range(10_001)]
    assert (await sent(api, json.dumps(rows[:-1]).encode()))["recorded"] == 10_000
    for body in (json.dumps(rows), "\n".join(json.dumps(one) for one in rows)):
        told = await api.post("/v1/sent", content=body)
        assert told.status_code == 413
        assert told.headers["content-type"].startswith("application/problem+json")
