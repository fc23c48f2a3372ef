"""The API of interface section 4, over real HTTP: what it gives, and that nothing makes it stumble."""

import asyncio
import csv
import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
import msgspec
import pytest
import python_calamine
import uvicorn
import xlsxwriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pretend import until

from gateways.gateway import Callback, Secret
from gateways.segments import Unit
from reconciler import match
from reconciler.api import create_app
from reconciler.reading import billed, sent
from reconciler.reading.paging import cursor_of
from runtime import records, settlement
from runtime.database import Database
from runtime.records import Record
from runtime.settings import Settings, parse
from runtime.sockets import bind

pytestmark = pytest.mark.anyio

TOKEN = "the-token"
SETTINGS = parse(
    f"""
    [reconciler]
    api_token = "{TOKEN}"
    [accounts.think]
    gateway = "thinkapi"
    credentials = {{ app_code = "code" }}
    clock_slack_seconds = 3600
    [[accounts.think.tariffs]]
    from = 2024-01-01
    price = "0.04"
    [accounts.sms]
    gateway = "thinksms"
    credentials = {{ user_id = "7", account = "me", password = "hush" }}
    [statements.bank]
    columns = {{ vendor_message_id = "编号", segments = "条" }}
    """,
    Path("huizhi.toml"),
    {},
)
PHONE = "13800138000"
SENT = "2024-10-05T09:30:00+08:00"
NOW = datetime(2024, 10, 20, tzinfo=UTC)
ROW = {"account": "think", "vendor_message_id": "a", "phone": PHONE, "sent_at": SENT}
NOBODY = UUID(int=0)
BILL = "任务ID,手机号,计费条数,金额\n"

Api = httpx.AsyncClient


@asynccontextmanager
async def serving(database: Database, settings: Settings = SETTINGS) -> AsyncIterator[Api]:
    """Yield a client, with the token, of an API on a port of its own."""
    # With the rights that it has where `huizhi` starts it.
    app = create_app(settings, replace(database, role="huizhi_reconciler"))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
        )
    )
    bound = bind("127.0.0.1", 0)
    bound.listen(64)  # who comes before the server waits for it
    served = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        async with Api(
            base_url=f"http://127.0.0.1:{bound.getsockname()[1]}",
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=30,
        ) as client:
            yield client
    finally:
        server.should_exit = True
        await served
        bound.close()


@pytest.fixture
async def api(database: Database) -> AsyncIterator[Api]:
    async with serving(database) as client:
        yield client


def problem(answer: httpx.Response, *statuses: int) -> str:
    """Assert that `answer` is a problem as RFC 9457 has it, and return its detail."""
    assert answer.status_code in statuses, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert set(told) == {"type", "title", "status", "detail"}
    assert told["type"] == "about:blank"
    assert told["status"] == answer.status_code
    assert told["title"]
    detail: str = told["detail"]
    assert detail
    assert "\n" not in detail
    return detail


async def got(api: Api, path: str, **params: Any) -> Any:
    answer = await api.get(path, params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def register(api: Api, *rows: dict[str, Any]) -> dict[str, Any]:
    answer = await api.post("/v1/sent", json=rows)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def upload(
    api: Api, bill: str | bytes, name: str = "october.csv", **data: Any
) -> httpx.Response:
    given = {"account": "think", "period": "2024-10", **data}
    content = bill.encode() if isinstance(bill, str) else bill
    return await api.post("/v1/statements", data=given, files={"file": (name, content)})


def pushed(body: Any, account: str = "think", at: datetime = NOW) -> Record:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"} if account == "sms" else {}
    callback = Callback(method="POST", query=b"", headers=headers, body=content)
    return records.of_callback(account, callback, received_at=at, peer="192.0.2.1")


async def store(pool: Any, *found: Record, settled: bool = True) -> None:
    async with pool.acquire() as connection:
        batch, _ = await records.store(connection, found, recorder="test", now=NOW)
    if settled:
        await settlement.settle(pool, SETTINGS.accounts, found, batches=[batch], now=NOW)


def report(id: str, status: int, at: str | None) -> dict[str, Any]:
    sms = {"id": id, "phone": PHONE, "status": status, "message": "", "receiveDate": at}
    return {"action": "report", "sms": sms}


LISTS = (
    "/v1/messages",
    "/v1/callbacks",
    "/v1/statements",
    "/v1/reconciliations",
    "/v1/discrepancies",
    "/v1/credits",
    "/v1/signs",
    "/v1/templates",
    "/v1/inbound",
    "/v1/balances",
    "/v1/orphans",
    "/v1/pulls",
    "/v1/suspects",
    "/v1/alarms",
    "/v1/drift",
)
PATHS = (
    *LISTS,
    "/v1/erasures",
    f"/v1/erasures/{NOBODY}",
    "/v1/replays",
    f"/v1/messages/{NOBODY}",
    f"/v1/sends/{NOBODY}",
    "/v1/callbacks/00",
    "/v1/callbacks/00/body",
    f"/v1/reconciliations/{NOBODY}",
    f"/v1/reconciliations/{NOBODY}/discrepancies",
    f"/v1/reconciliations/{NOBODY}/evidence",
    "/v1/chain/head",
    "/v1/actions",
    f"/v1/discrepancies/{NOBODY}",
    "/v1/discrepancies/ageing",
    f"/v1/reconciliations/{NOBODY}/causes",
    f"/v1/reconciliations/{NOBODY}/adjustments",
    f"/v1/reconciliations/{NOBODY}/close",
    "/v1/balances/audit",
    "/v1/arrivals",
    "/v1/jobs",
    "/v1/audit",
    "/v1/audit/by-day",
    "/v1/sent",
    "/schema",
    "/schema/openapi.json",
    "/metrics",
)


# --- who may ask, and how no is said -----------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN} {TOKEN}",
        f"Bearer {TOKEN.upper()}",
        "Bearer 令牌",
    ],
)
async def test_without_the_token_everything_is_401(api: Api, header: str | None) -> None:
    del api.headers["authorization"]
    headers = {} if header is None else {b"authorization": header.encode()}
    elsewhere = ("/nowhere", "/health", "/health/other", "/schema/x", "/v1")
    for path in (*PATHS, *elsewhere):
        for method in ("GET", "POST"):
            answer = await api.request(method, path, headers=headers)
            problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        problem(await api.request(method, "/v1/messages", headers=headers), 401)
    for path in ("/health/live", "/health/ready"):
        assert (await api.get(path, headers=headers)).status_code == 200


async def test_with_the_token_everything_answers(api: Api) -> None:
    for path in LISTS:
        assert await got(api, path) == {"items": [], "next": None}
    assert await got(api, "/v1/jobs") == {"items": [], "next": None}
    answer = await api.get("/v1/messages", headers={"authorization": f"bearer {TOKEN}"})
    assert answer.status_code == 200
    answer = await api.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# HELP " in answer.text


async def test_what_is_not_there_is_a_404_and_never_a_page(api: Api) -> None:
    for path in (
        *("/nowhere", "/v1", "/schema/x", "/schema/redoc", "/docs", "/health/other"),
        "/v1/messages/x",
        f"/v1/messages/{NOBODY}",
        f"/v1/messages/{NOBODY}x",
        "/v1/messages/%00",
        "/v1/reconciliations/1",
        f"/v1/reconciliations/{NOBODY}",
        f"/v1/reconciliations/{NOBODY}/discrepancies",
        f"/v1/reconciliations/{NOBODY}/discrepancies?format=csv",
        f"/v1/reconciliations/{NOBODY}/causes",
        f"/v1/reconciliations/{NOBODY}/adjustments?format=csv",
        "/v1/callbacks/x/body",
        "/v1/callbacks/00/body",
        "/v1/callbacks/%00/body",
        "/v1/callbacks/%FF/body",
        f"/v1/callbacks/{'0' * 64}/body",
    ):
        problem(await api.get(path), 404)
    for method, path in (("PUT", "/v1/messages"), ("GET", "/v1/sent"), ("PUT", "/v1/statements")):
        answer = await api.request(method, path)
        problem(answer, 405)


@pytest.mark.parametrize("path", LISTS)
async def test_bad_parameters_are_400(api: Api, path: str) -> None:
    for limit in ("0", "-1", "1001", "99999999999999999999", "x", "", "1e999", "NaN", "%00"):
        told = problem(await api.get(f"{path}?limit={limit}"), 400)
        assert told.startswith("limit: ")
    for cursor in ("", "x", "%00", "é", "%FF", "AAAA", "kg", "=" * 999, "x" * 9999):
        assert problem(await api.get(f"{path}?cursor={cursor}"), 400)
    forged = [
        (),
        (1,),
        (2**63, 2**63),
        (NOW.replace(tzinfo=None), NOBODY),
        ("think", 1),
        (NOW, "x"),
        ("\0", "\0"),
        (NOW, NOBODY, 1),
    ]
    of_texts = path in ("/v1/signs", "/v1/templates")  # as which a time without a zone is written
    for key in forged:
        answer = await api.get(path, params={"cursor": cursor_of(*key)})
        if answer.status_code != 200 or not of_texts:
            problem(answer, 400)
    problem(await api.get(f"{path}?account=%00"), 400)


async def test_bad_parameters_of_single_lists_are_400(api: Api) -> None:
    for query in (
        *("messages?status=%00", "messages?reference=%00", "messages?vendor_message_id=%00"),
        *("messages?format=pdf", "messages?format=", "messages?format=JSON"),
        *("callbacks?state=other", "pulls?state=", "signs?status=%00", "templates?format=xml"),
        *("messages?format=csv&cursor=x", "messages?format=xlsx&cursor=x"),
        *("messages?format=csv&account=%00", "messages?format=xlsx&reference=%00"),
        *("signs?format=csv&cursor=x", "inbound?format=csv&account=%00"),
    ):
        problem(await api.get(f"/v1/{query}"), 400)
    assert problem(await api.get("/v1/messages?format=pdf"), 400).startswith("format: ")
    told = await api.get(f"/v1/reconciliations/{NOBODY}/discrepancies?kind=other")
    assert "billed_twice" in problem(told, 422)
    told = await api.get(f"/v1/reconciliations/{NOBODY}/discrepancies?cause=other")
    assert "stale_tariff" in problem(told, 422)
    assert await got(api, "/v1/messages", phone="\0", status="unheard of") == {
        "items": [],
        "next": None,
    }


async def test_a_bad_parameter_is_called_what_the_document_calls_it(api: Api) -> None:
    paths = (await api.get("/schema/openapi.json")).json()["paths"]
    tried = set()
    for path, methods in paths.items():
        parameters = methods.get("get", {}).get("parameters", [])
        needed = {
            each["name"]: "x" for each in parameters if each["in"] == "query" and each["required"]
        }
        for each in parameters:
            if each["in"] == "query" and re.search(r"enum|boolean|integer", str(each["schema"])):
                filled = re.sub(r"\{\w+\}", str(NOBODY), path)
                told = problem(await api.get(filled, params={**needed, each["name"]: "x"}), 400)
                assert told.startswith(f"{each['name']}: "), path
                tried.add(each["name"])
    assert {"limit", "format", "state", "all", "min_age_days", "lang", "ended"} <= tried


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/callbacks", "/v1/inbound", "/v1/balances", "/v1/orphans"]
)
async def test_times_want_an_offset(api: Api, path: str) -> None:
    for name in ("from", "to"):
        for at in (
            *("2024-10-01", "2024-10-01T00:00:00", "x", "", "1700000000", "2024-13-01T00:00:00Z"),
            *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2024-10-01T00:00:00+08"),
        ):
            told = problem(await api.get(path, params={name: at}), 400)
            assert told.startswith(f"{name}: {at!r} is no time with an offset")
        for at in (
            "2024-10-01T00:00:00Z",
            "2024-10-01t00:00:00.123456+08:00",
            "0001-01-01T00:00:00Z",
        ):
            await got(api, path, **{name: at})
        # A + that nobody escaped.
        assert (await api.get(f"{path}?{name}=2024-10-01T00:00:00+08:00")).status_code == 200


async def test_while_the_database_is_away_it_is_503(database: Database) -> None:
    nowhere = replace(database, dsn=Secret("postgresql://nobody@127.0.0.1:1/none"))
    async with serving(nowhere) as api:
        for path in (*LISTS, f"/v1/messages/{NOBODY}", "/v1/jobs"):
            answer = await api.get(path)
            problem(answer, 503)
            assert int(answer.headers["retry-after"]) > 0
        problem(await api.get("/v1/messages?format=csv"), 503)
        problem(await api.get("/v1/messages?format=xlsx"), 503)
        problem(await api.post("/v1/sent", json=[ROW]), 503)
        problem(await upload(api, BILL + "a,,1,\n"), 503)
        asked = {"account": "think", "period": "2024-10"}
        problem(await api.post("/v1/reconciliations", json=asked), 503)
        # What is wrong by itself is said all the same.
        problem(await api.get("/v1/messages?limit=0"), 400)
        problem(await api.get("/nowhere"), 404)
        assert (await api.get("/health/live")).status_code == 200
        assert (await api.get("/health/ready")).status_code == 503
        assert (await api.get("/metrics")).status_code == 200


# --- whatever is asked -------------------------------------------------------------------------------

NASTY = (
    *("", "0", "-1", "9" * 30, "1.5", "null", "true", "[]", "{}", "think", "2024-10", SENT, PHONE),
    *(
        "\0",
        "a\0b",
        "\ud800",
        "\udfff\ud800",
        "😀",
        "中文",
        "' OR 1=1 --",
        "%s%n",
        "../../x",
        "\r\n",
    ),
    *(f"{NOBODY}", "x" * 5000, "2024-02-30T00:00:00Z", "0000-00-00T00:00:00Z", "+08:00", "csv"),
    *(cursor_of(NOW, NOBODY), cursor_of(2**63), cursor_of("a", "b"), "xlsx", "settled", "inf"),
)
NAMES = (
    *("limit", "cursor", "account", "phone", "vendor_message_id", "reference", "status", "from"),
    *("to", "state", "kind", "format", "period", "file", "data", "unknown", "", "中文"),
    *("owner", "min_age_days", "number", "unallocated"),
)
values = st.one_of(st.sampled_from(NASTY), st.text(max_size=20))
queries = st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=4)
types = st.sampled_from(
    [
        None,
        "application/json",
        "application/json; charset=utf-16",
        "application/x-ndjson",
        "application/msgpack",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=b",
        "multipart/form-data; boundary=" + "b" * 300,
        "text/html",
        "/",
        "nonsense",
    ]
)
parts = st.lists(
    st.tuples(
        st.sampled_from(["file", "account", "period", "format", "", "x"]), st.booleans(), values
    ),
    max_size=5,
)


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    shape = draw(st.integers(0, 4))
    if shape == 0:
        return draw(st.binary(max_size=200))
    if shape == 1:
        written: Any = st.recursive(
            values | st.integers() | st.none() | st.booleans() | st.floats(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(values, inner, max_size=3),
            max_leaves=8,
        )
        return json.dumps(draw(written)).encode()
    if shape == 2:
        keys = st.sampled_from([*ROW, "content", "sign", "segments", "reference", "period", "x"])
        row = draw(st.dictionaries(keys, values | st.integers() | st.none(), max_size=9))
        rows = draw(st.lists(st.sampled_from([row, ROW, None]), max_size=4))
        return json.dumps(draw(st.sampled_from([row, rows, [rows]]))).encode()
    if shape == 3:
        return draw(
            st.sampled_from([b"", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"NaN", b"{}\n["])
        )
    body = b""
    for name, is_file, value in draw(parts):
        file = '; filename="a.csv"' if is_file else ""
        body += f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += as_bytes(draw(st.sampled_from([value, f"{BILL}a,{PHONE},1,0.04\n"]))) + b"\r\n"
    return body + draw(st.sampled_from([b"--b--\r\n", b"", b"--b\r\n"]))


OPERATIONS = (
    *(("GET", path) for path in PATHS if path != "/v1/sent" and not path.endswith("/close")),
    *(
        ("POST", path)
        for path in (
            *("/v1/sent", "/v1/messages", "/v1/statements", "/v1/reconciliations"),
            *("/v1/discrepancies", f"/v1/discrepancies/{NOBODY}", "/v1/credits"),
            f"/v1/reconciliations/{NOBODY}/close",
        )
    ),
)


@settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operation=st.sampled_from(OPERATIONS), query=queries, kind=types, body=bodies())
async def test_nothing_that_is_asked_makes_it_stumble(
    operation: tuple[str, str],
    query: list[tuple[str, str]],
    kind: str | None,
    body: bytes,
    api: Api,
) -> None:
    method, path = operation
    asked = "&".join(f"{quote(name)}={quote(as_bytes(value))}" for name, value in query)
    content = body if method == "POST" else b""
    headers = {"content-type": kind} if kind is not None and method == "POST" else {}
    answer = await api.request(method, f"{path}?{asked}", content=content, headers=headers)
    if answer.status_code != 200:
        problem(answer, 400, 404, 413, 422)
        documented = (await documents(api))[path_of(path)][method.lower()]["responses"]
        assert str(answer.status_code) in documented


def path_of(path: str) -> str:
    """A path as the document has it."""
    for pattern, written in (
        (rf"/v1/messages/{NOBODY}", "/v1/messages/{message_id}"),
        (rf"/v1/sends/{NOBODY}", "/v1/sends/{send_id}"),
        (rf"/v1/erasures/{NOBODY}", "/v1/erasures/{erasure_id}"),
        (r"/v1/callbacks/00", "/v1/callbacks/{callback_id}"),
        (rf"/v1/reconciliations/{NOBODY}", "/v1/reconciliations/{run_id}"),
        (r"/v1/audit/by-day", "/v1/audit/{query_name}"),
        (rf"/v1/discrepancies/{NOBODY}", "/v1/discrepancies/{discrepancy_id}"),
    ):
        path = re.sub(pattern, written, path)
    return path


async def documents(api: Api) -> dict[str, Any]:
    paths: dict[str, Any] = (await api.get("/schema")).json()["paths"]
    return paths


# --- its document ------------------------------------------------------------------------------------


def inside(value: Any) -> Iterable[tuple[str, Any]]:
    """Every key in `value` with what it holds."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from inside(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from inside(inner)


async def test_document_lists_every_route_and_how_each_fails(api: Api) -> None:
    answer = await api.get("/schema")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/vnd.oai.openapi+json"
    document = answer.json()
    assert (await api.get("/schema/openapi.json")).json() == document
    assert document["openapi"].startswith("3.1.")
    assert {"title", "version"} <= set(document["info"])
    assert document["security"] == [{"token": []}]
    assert document["components"]["securitySchemes"] == {
        "token": {"type": "http", "scheme": "bearer"}
    }
    paths = document["paths"]
    assert {path_of(path) for path in PATHS if path.startswith("/v1")} == set(paths)

    for path, operations in paths.items():
        for method, operation in operations.items():
            assert method in ("get", "post")
            assert operation["description"]
            named = {
                each["name"] for each in operation.get("parameters", []) if each["in"] == "path"
            }
            assert named == set(re.findall(r"{(\w+)}", path))
            assert ("requestBody" in operation) == (method == "post")
            responses = operation["responses"]
            assert {"200", "400", "401", "503"} <= set(responses)
            for status, response in responses.items():
                assert response["description"]
                if not status.startswith("2"):
                    assert list(response["content"]) == ["application/problem+json"]
    ids = [value for key, value in inside(paths) if key == "operationId"]
    assert len(ids) == len(set(ids)) == sum(map(len, paths.values()))

    defined = {
        f"#/components/{kind}/{name}"
        for kind, entries in document["components"].items()
        for name in entries
    }
    referred = {value for key, value in inside(document) if key == "$ref"}
    assert referred <= defined
    (details,) = [
        schema for name, schema in document["components"]["schemas"].items() if "Problem" in name
    ]
    assert set(details["required"]) == {"type", "title", "status", "detail"}
    listed = {each["name"] for each in paths["/v1/messages"]["get"]["parameters"]}
    assert listed == {
        *("account", "phone", "vendor_message_id", "reference", "status", "from", "to"),
        *("limit", "cursor", "format"),
    }


# --- registering -------------------------------------------------------------------------------------


def numbered(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{**ROW, "vendor_message_id": f"m{number:05}"} for number in range(start, start + count)]


async def test_one_bad_row_never_sinks_the_others(api: Api) -> None:
    rows: list[Any] = [*numbered(3), {**ROW, "sent_at": "2024-10-05T09:30:00"}, *numbered(2, 2)]
    expected = {
        "recorded": 4,
        "duplicates": 1,
        "rejected": [{"index": 3, "reason": "sent_at has no offset, such as +08:00"}],
    }
    assert await register(api, *rows) == expected
    lines = "\r\n\r\n".join(map(json.dumps, rows)) + "\n"
    answer = await api.post(
        "/v1/sent", content=lines, headers={"content-type": "application/x-ndjson"}
    )
    # Sent again, it changes nothing.
    assert answer.json() == {**expected, "recorded": 0, "duplicates": 5}


async def test_ndjson_line_that_is_no_json_is_a_row_rejected(api: Api) -> None:
    good = [json.dumps(row) for row in numbered(2)]
    answer = await api.post("/v1/sent", content=f"\ufeff{good[0]}\n{{oops\n{good[1]}\n[1]\n")
    assert answer.json() == {
        "recorded": 2,
        "duplicates": 0,
        "rejected": [
            {"index": 1, "reason": "is not JSON"},
            {"index": 3, "reason": "Expected `object`, got `array`"},
        ],
    }
    assert len((await got(api, "/v1/messages"))["items"]) == 2


async def test_bodies_that_are_nothing_of_the_kind_are_400(api: Api) -> None:
    for content in (b"", b" \n", b"x", b"[", b"[1,", b"[" * 100_000, b"\xff\xfe[\0]\0", b"<xml/>"):
        problem(await api.post("/v1/sent", content=content), 400)
    assert await register(api) == {"recorded": 0, "duplicates": 0, "rejected": []}


@pytest.mark.parametrize("parted", [",", "\n"])
async def test_ten_thousand_rows_are_taken_and_one_more_is_413(api: Api, parted: str) -> None:
    rows = [json.dumps(row) for row in numbered(10_001)]
    brackets = "[]" if parted == "," else ("", "")
    too_many = brackets[0] + parted.join(rows) + brackets[1]
    assert "10000 at most" in problem(await api.post("/v1/sent", content=too_many), 413)
    assert (await got(api, "/v1/messages"))["items"] == []
    whole = brackets[0] + parted.join(rows[1:]) + brackets[1]
    answer = await api.post("/v1/sent", content=whole)
    assert answer.json() == {"recorded": 10_000, "duplicates": 0, "rejected": []}


async def test_more_bytes_than_a_call_takes_are_413(api: Api) -> None:
    problem(await api.post("/v1/sent", content=b" " * (64 * 1024 * 1024 + 1)), 413)
    problem(await api.post("/v1/reconciliations", content=b" " * (11 * 1024 * 1024)), 413)


# --- lists -------------------------------------------------------------------------------------------


async def test_messages_are_found_by_each_filter(api: Api, pool: Any) -> None:
    other = {
        **ROW,
        "account": "sms",
        "phone": "13900139000",
        "sent_at": "2024-10-06T00:00:00+08:00",
    }
    await register(api, {**ROW, "reference": "订单-1"}, {**ROW, "vendor_message_id": "b"}, other)
    await store(pool, pushed(report("a", 1, "2024-10-05 09:30:05")))

    async def found(**params: str) -> list[tuple[str, str]]:
        items = (await got(api, "/v1/messages", **params))["items"]
        return [(item["account"], item["vendor_message_id"]) for item in items]

    a, b, sms = ("think", "a"), ("think", "b"), ("sms", "a")
    assert set(await found()) == {a, b, sms}
    assert (await found())[0] == sms  # the newest
    assert await found(account="sms") == [sms]
    assert await found(account="gone") == []
    assert set(await found(phone=f"+86 {PHONE}")) == {a, b}
    assert set(await found(vendor_message_id="a")) == {a, sms}
    assert await found(vendor_message_id="a", phone=PHONE) == [a]
    assert await found(reference="订单-1") == [a]
    assert await found(status="delivered") == [a]
    assert set(await found(status="submitted")) == {b, sms}
    assert await found(**{"from": "2024-10-05T16:00:00Z"}) == [sms]
    assert set(await found(to="2024-10-06T00:00:00+08:00")) == {a, b}
    assert await found(status="delivered", phone="13900139000") == []

    (item,) = (await got(api, "/v1/messages", status="delivered"))["items"]
    assert item == {
        "id": item["id"],
        "account": "think",
        "vendor_message_id": "a",
        "phone": PHONE,
        "status": "delivered",
        "segments": 1,
        "sent_at": "2024-10-05T01:30:00Z",
        "reported_at": "2024-10-05T01:30:05Z",
        "vendor_code": "1",
        "reason": item["reason"],
        "reference": "订单-1",
        "contradicted": False,
    }


async def paged(
    api: Api, path: str, between: Callable[[int], Awaitable[None]], **params: Any
) -> list[dict[str, Any]]:
    """All items of a list, page by page; `between` is called after each page."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await got(api, path, **params, **cursor)
        items += page["items"]
        if page["next"] is None:
            return items
        assert len(page["items"]) == params["limit"]
        cursor = {"cursor": page["next"]}
        await between(len(items))


async def test_cursors_show_every_row_once_in_order_while_rows_are_added(api: Api) -> None:
    # Many of one moment, so that the time alone does not say where a page ends.
    first = [
        {
            **row,
            "sent_at": f"2024-10-05T09:30:0{number % 2}+08:00",
            "account": ("think", "sms")[number % 3 > 0],
        }
        for number, row in enumerate(numbered(53))
    ]
    await register(api, *first)

    async def add(seen: int) -> None:
        newer = {**ROW, "vendor_message_id": f"new{seen}", "sent_at": "2024-10-06T00:00:00+08:00"}
        older = {**ROW, "vendor_message_id": f"old{seen}", "sent_at": "2024-10-01T00:00:00+08:00"}
        await register(api, newer, older)

    items = await paged(api, "/v1/messages", add, limit=10)
    keys = [(item["sent_at"], UUID(item["id"]).bytes) for item in items]
    assert keys == sorted(set(keys), reverse=True)
    ids = [item["vendor_message_id"] for item in items]
    assert sorted(id for id in ids if id.startswith("m")) == [
        row["vendor_message_id"] for row in first
    ]
    # What was added behind the cursor is seen once, what was added before it never.
    assert [id for id in ids if id.startswith("new")] == []
    assert len([id for id in ids if id.startswith("old")]) == len(set(ids)) - 53


async def nothing(_: int) -> None:
    pass


async def test_every_list_is_paged_whole(api: Api, pool: Any) -> None:
    for number in range(5):
        # The last has five lines, and so do the runs.
        await upload(api, BILL + "".join(f"a{line},,1,1\n" for line in range(number + 1)))
    notes = "number,amount,currency\n" + "CN-1,1,CNY\n" * 5
    given = {"data": {"account": "think"}, "files": {"file": ("credits.csv", notes)}}
    assert (await api.post("/v1/credits", **given)).status_code == 200
    for _ in range(5):
        asked = {"account": "think", "period": "2024-10"}
        assert (await api.post("/v1/reconciliations", json=asked)).status_code == 200
    await register(api, *numbered(5))
    for number in range(5):
        review = {
            "id": number,
            "name": f"签{number}",
            "status": 1,
            "update_time": "2024-10-05 09:30:00",
        }
        sms = f"type=inbound&mobile=1380013800{number}&content=T&receivetime=2024-10-05 09:30:00"
        await store(
            pool,
            pushed(report(f"m{number:05}", 1, "2024-10-05 09:30:05")),
            pushed({"action": "sign", "sign": review}),
            pushed({"action": "template", "template": {**review, "content": "c"}}),
            pushed(sms.encode(), "sms"),
            pushed(report(f"nobody-{number}", 1, "2024-10-05 09:30:05")),
            pushed(report(f"m{number:05}", 1, "2024-10-04 09:30:05")),
        )
        await pool.execute(
            "INSERT INTO alarms (id, account, kind, since, last_seen_at, words, figures)"
            " VALUES (gen_random_uuid(), 'sms', $1, $2, $2, 'w', '{\"waiting\": 1}')",
            f"kind-{number}",
            NOW,
        )
        await pool.execute(
            "INSERT INTO document_features VALUES"
            " ('sms', 'callback', $1, 'text', FALSE, 'field', $2, $2, 1, sha256('x'))",
            f"field-{number}",
            NOW,
        )
        await pool.execute(
            "INSERT INTO balances (account, kind, digest, read_at, amount)"
            " VALUES ('sms', 'overage', sha256($1::text::bytea), $2, 1)",
            str(number),
            NOW,
        )
        await pool.execute(
            "INSERT INTO pulls (id, account, call, token, asked_rows, state, intended_at)"
            " VALUES (gen_random_uuid(), 'sms', 'pull_reports', 1, 10, 'intended', $1)",
            NOW,
        )
    for path in LISTS:
        whole = (await got(api, path))["items"]
        expected = 30 if path == "/v1/callbacks" else 5
        assert len(whole) == expected, path
        for limit in (1, 2, 5):
            assert await paged(api, path, nothing, limit=limit) == whole
        if path not in ("/v1/callbacks", "/v1/statements", "/v1/reconciliations", "/v1/pulls"):
            answer = await api.get(path, params={"format": "csv", "limit": 1})
            assert len(list(csv.reader(io.StringIO(answer.text)))) == expected + 1
    run = (await got(api, "/v1/reconciliations"))["items"][-1]
    below = f"/v1/reconciliations/{run['id']}/discrepancies"
    assert await paged(api, below, nothing, limit=1) == (await got(api, below))["items"] != []


async def _keep_balance(pool: Any, kind: str, amount: str, at: datetime) -> None:
    await pool.execute(
        "INSERT INTO balances (account, kind, digest, read_at, amount, currency, call)"
        " VALUES ('sms', $1, sha256($2::text::bytea), $3, $2::text::numeric, 'CNY', 'query_balance')",
        kind,
        amount,
        at,
    )


async def test_balances_are_listed_by_kind_and_time_and_the_newest_is_a_metric(
    api: Api, pool: Any
) -> None:
    day = timedelta(days=1)
    await _keep_balance(pool, "余额", "100.50", NOW)
    await _keep_balance(pool, "余额", "-3.250", NOW + day)
    await _keep_balance(pool, "gift", "7", NOW)
    items = (await got(api, "/v1/balances"))["items"]
    assert [(item["kind"], item["amount"]) for item in items] == [
        ("余额", "-3.25"),
        ("余额", "100.5"),
        ("gift", "7"),
    ]
    assert items[0] | {"record": None} == {
        "account": "sms",
        "kind": "余额",
        "amount": "-3.25",
        "currency": "CNY",
        "read_at": "2024-10-21T00:00:00Z",
        "call": "query_balance",
        "record": None,
    }
    later = (NOW + day).isoformat()
    assert (await got(api, "/v1/balances", kind="gift"))["items"] == items[2:]
    assert (await got(api, "/v1/balances", **{"from": later}))["items"] == items[:1]
    assert (await got(api, "/v1/balances", to=later))["items"] == items[1:]
    assert (await got(api, "/v1/balances", account="think"))["items"] == []
    shown = (await api.get("/metrics")).text
    assert 'huizhi_balance{account="sms",kind="余额"} -3.25\n' in shown
    assert 'huizhi_balance{account="sms",kind="gift"} 7.0\n' in shown


async def test_orphans_are_listed_until_they_are_registered(api: Api, pool: Any) -> None:
    await store(pool, pushed(report("a", 0, "2024-10-05 09:30:05")))
    await store(pool, pushed(report("a", 1, "2024-10-05 09:30:09"), at=NOW + timedelta(hours=1)))
    await store(pool, pushed(report("b", 0, None), at=NOW + timedelta(hours=2)))
    items = (await got(api, "/v1/orphans"))["items"]
    assert [(item["vendor_message_id"], item["status"], item["reports"]) for item in items] == [
        ("b", "pending", 1),
        ("a", "delivered", 2),
    ]
    assert items[1]["received_at"] == "2024-10-20T00:00:00Z"
    assert items[1]["reported_at"] == "2024-10-05T01:30:09Z"
    body = await api.get(f"/v1/callbacks/{items[1]['record']}/body")
    assert body.json() == report("a", 1, "2024-10-05 09:30:09")
    since = {"from": (NOW + timedelta(hours=1)).isoformat()}
    assert (await got(api, "/v1/orphans", **since))["items"] == items[:1]
    assert (await got(api, "/v1/orphans", account="sms"))["items"] == []
    assert (await register(api, ROW))["recorded"] == 1
    assert (await got(api, "/v1/orphans"))["items"] == items[:1]
    # The id it was listed by is the message's.
    assert (await got(api, f"/v1/messages/{items[1]['id']}"))["status"] == "delivered"


# --- files of lists ----------------------------------------------------------------------------------

FORMULAS = (
    "=1+1",
    '=cmd|"/c calc"!A1',
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1+1",
    '订单，“甲”\n乙;,"x"',
    "😀𠮷",
)


async def test_files_keep_chinese_and_no_cell_starts_a_formula(api: Api) -> None:
    rows = [
        {**ROW, "vendor_message_id": f"m{number}", "reference": text}
        for number, text in enumerate(FORMULAS)
    ]
    told = await register(api, *rows)
    assert told["recorded"] == len(rows), told
    order = {item["vendor_message_id"]: item for item in (await got(api, "/v1/messages"))["items"]}
    wanted = ["'" + text if text[0] in "=+-@\t" else text for text in FORMULAS]

    answer = await api.get("/v1/messages", params={"format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="messages.csv"'
    assert answer.content.startswith(b"\xef\xbb\xbfid,account,")
    lines = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline="")))
    assert [line["vendor_message_id"] for line in lines] == list(order)
    by_id = {line["vendor_message_id"]: line for line in lines}
    assert [by_id[f"m{number}"]["reference"] for number in range(len(rows))] == wanted
    for line in lines:
        assert {name: line[name] for name in ("id", "phone", "sent_at", "status")} == {
            name: order[line["vendor_message_id"]][name]
            for name in ("id", "phone", "sent_at", "status")
        }
        assert (line["segments"], line["reported_at"], line["contradicted"]) == ("1", "", "false")

    answer = await api.get("/v1/messages", params={"format": "xlsx"})
    assert answer.headers["content-type"].startswith("application/vnd.openxmlformats")
    assert answer.headers["content-disposition"] == 'attachment; filename="messages.xlsx"'
    sheet = python_calamine.load_workbook(io.BytesIO(answer.content)).get_sheet_by_index(0)
    head, *cells = sheet.to_python()
    assert tuple(head) == sent.MESSAGE_COLUMNS
    at = {name: position for position, name in enumerate(sent.MESSAGE_COLUMNS)}
    shown = {row[at["vendor_message_id"]]: row[at["reference"]] for row in cells}
    assert [shown[f"m{number}"] for number in range(len(rows))] == wanted
    assert {row[at["segments"]] for row in cells} == {1.0}


async def test_file_of_a_list_goes_on_from_its_cursor_through_all_pages(api: Api) -> None:
    await register(api, *numbered(2005))
    page = await got(api, "/v1/messages", limit=3)
    answer = await api.get(
        "/v1/messages", params={"format": "csv", "cursor": page["next"], "limit": 1}
    )
    lines = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert len({line["id"] for line in lines}) == len(lines) == 2002
    assert not {line["id"] for line in lines} & {item["id"] for item in page["items"]}


# --- one message -------------------------------------------------------------------------------------


async def test_count_is_explained_by_the_rule_that_the_account_has_now(api: Api, pool: Any) -> None:
    await register(api, {**ROW, "content": "𠮷" * 70})
    think = SETTINGS.accounts["think"]
    points = msgspec.structs.replace(think, unit=Unit.CODE_POINT)
    id = UUID((await got(api, "/v1/messages"))["items"][0]["id"])
    because = []
    for own in (think, points):
        shown = await sent.message(pool, {"think": own}, id)
        assert shown is not None
        because.append(shown["segments_because"])
    usual, other = because
    assert usual[:2] == [
        "3 segments by the domestic rule",
        "140 UTF-16 units, 70 more than fit one segment: 67 to each segment, 61 left in the last",
    ]
    # The count stands; that the settings would count otherwise is said.
    assert other == [
        "3: counted when the settings said otherwise",
        "1 segment by the domestic rule",
        "70 code points of 70, 0 left",
    ]


async def test_message_says_what_would_have_cost_less(api: Api, pool: Any) -> None:
    await pool.execute(
        "INSERT INTO reviews (account, kind, vendor_id, status, content)"
        " VALUES ('think', 'template', '7', 'approved', '您好${name}，您的订单已经发货。')"
    )
    name = "张" * 60
    text = f"您好{name}，您的订单已经发货。"
    await register(
        api,
        {**ROW, "content": text, "sign": "顶想云", "template_id": "7"},
        {**ROW, "vendor_message_id": "b", "segments": 2},
    )
    by_id = {
        item["vendor_message_id"]: (await got(api, f"/v1/messages/{item['id']}"))
        for item in (await got(api, "/v1/messages"))["items"]
    }
    assert by_id["b"]["segments_explained"] is None
    told = by_id["a"]["segments_explained"]
    assert (told["segments"], told["units"], told["part_units"]) == (2, 77, [67, 10])
    assert (told["price"], told["currency"], told["amount"]) == ("0.04", "CNY", "0.08")
    assert told["variables"] == {"name": name}
    assert [change["words"] for change in told["cheaper"]] == [
        "7 characters fewer at the end: 1 segment, saves 0.04 CNY",
        "7 characters fewer in the variable name: 1 segment, saves 0.04 CNY",
    ]


async def test_one_message_with_its_evidence_in_order(api: Api, pool: Any) -> None:
    text = {"content": "您的验证码是7865", "sign": "顶想云", "template_id": "T1", "reference": "r"}
    await register(api, {**ROW, **text})
    late, early = (
        pushed(report("a", status, f"2024-10-05 09:{minute}:00"), at=NOW + timedelta(hours=number))
        for number, (status, minute) in enumerate(((-1, 50), (1, 40)))
    )
    untimed = pushed(report("a", 0, None))
    await store(pool, late, untimed, early)
    await upload(api, f"{BILL}a,{PHONE},2,0.08\n")
    asked = {"account": "think", "period": "2024-10"}
    first = (await api.post("/v1/reconciliations", json=asked)).json()
    corrected = (await upload(api, f"{BILL}a,+86{PHONE},1,0.04\na,,1,\n")).json()
    second = (await api.post("/v1/reconciliations", json=asked)).json()

    (item,) = (await got(api, "/v1/messages"))["items"]
    shown = await got(api, f"/v1/messages/{item['id']}")
    assert {name: shown[name] for name in item} == item
    assert (item["status"], item["contradicted"]) == ("delivered", True)
    assert {name: shown[name] for name in text} == text
    assert shown["segments_because"][0] == "1 segment by the domestic rule"
    assert "15 UTF-16 units of 70" in shown["segments_because"][1]

    assert shown["notes"] == []

    words = [(each["status"], each["reported_at"], each["source"]) for each in shown["reports"]]
    assert words == [
        ("delivered", "2024-10-05T01:40:00Z", "push"),
        ("failed", "2024-10-05T01:50:00Z", "push"),
        ("pending", None, "push"),
    ]
    for each, record in zip(shown["reports"], (early, late, untimed), strict=True):
        assert each["record"] == record.digest.hex()
        answer = await api.get(f"/v1/callbacks/{each['record']}/body")
        assert answer.content == record.body
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"

    lines = [(each["version"], each["line"], each["amount"]) for each in shown["statement_lines"]]
    assert lines == [(1, 2, "0.08"), (2, 2, "0.04"), (2, 3, None)]
    assert shown["statement_lines"][1]["statement_id"] == corrected["id"]
    found = [
        (each["reconciliation_id"], each["kind"], each["line"]) for each in shown["discrepancies"]
    ]
    assert found == [
        (first["id"], "segments_differ", 2),
        (first["id"], "reports_contradict", None),
        (second["id"], "billed_twice", 3),
        (second["id"], "reports_contradict", None),
    ]


# --- callbacks ---------------------------------------------------------------------------------------


async def test_callbacks_show_what_became_of_them(api: Api, pool: Any) -> None:
    settled, broken, fresh = (
        pushed(report("a", 1, "2024-10-05 09:30:05")),
        pushed(b"\x00\xff no JSON", at=NOW + timedelta(minutes=1)),
        pushed(report("b", 1, None), at=NOW + timedelta(minutes=2)),
    )
    await store(pool, settled, broken)
    await store(pool, fresh, settled=False)
    items = (await got(api, "/v1/callbacks"))["items"]
    assert [(item["id"], item["state"]) for item in items] == [
        (fresh.digest.hex(), "recorded"),
        (broken.digest.hex(), "quarantined"),
        (settled.digest.hex(), "settled"),
    ]
    assert items[1]["reason"]
    assert items[0]["reason"] is None
    assert (items[0]["method"], items[0]["peer"], items[0]["deliveries"]) == (
        "POST",
        "192.0.2.1",
        1,
    )
    assert items[1]["bytes"] == len(broken.body)
    for state, record in (("recorded", fresh), ("quarantined", broken), ("settled", settled)):
        (only,) = (await got(api, "/v1/callbacks", state=state))["items"]
        assert only == next(item for item in items if item["id"] == record.digest.hex())
        assert (await got(api, "/v1/callbacks", state=state, account="sms"))["items"] == []
    after = {"from": "2024-10-20T00:01:00Z", "to": "2024-10-20T00:02:00Z"}
    (only,) = (await got(api, "/v1/callbacks", **after))["items"]
    assert only["id"] == broken.digest.hex()
    answer = await api.get(f"/v1/callbacks/{broken.digest.hex()}/body")
    assert answer.content == b"\x00\xff no JSON"


# --- statements and reconciliations ------------------------------------------------------------------


async def test_statement_once_again_and_corrected(api: Api) -> None:
    bill = f"{BILL}a,{PHONE},2,0.08\nb,,1,\n"
    first = (await upload(api, bill)).json()
    assert first == {
        "id": first["id"],
        "version": 1,
        "lines": 2,
        "segments": 3,
        "amount": "0.08",
        "duplicate_of": None,
    }
    again = (await upload(api, bill, "another name.csv")).json()
    assert again == {**first, "duplicate_of": first["id"]}
    second = (await upload(api, f"{BILL}a,{PHONE},1,\n", "十月.csv")).json()
    assert (second["version"], second["amount"], second["duplicate_of"]) == (2, None, None)
    items = (await got(api, "/v1/statements"))["items"]
    assert [(item["id"], item["file"]) for item in items] == [
        (second["id"], "十月.csv"),
        (first["id"], "october.csv"),
    ]
    assert (items[1]["period"], items[1]["format"], items[1]["amount"]) == (
        "2024-10",
        "generic",
        "0.08",
    )
    declared = await upload(api, "编号,条\na,1\n", format="bank", period="2024-09")
    assert declared.json()["lines"] == 1


@pytest.mark.parametrize(
    ("bill", "told"),
    [
        (
            f"{BILL}a,{PHONE},2,0.08\nb,{PHONE},x,1\n",
            "october.csv: line 3, column 计费条数: 'x' is not a whole number",
        ),
        ("a,b\n1,2\n", "october.csv: line 1: no column of vendor_message_id"),
        ("", "october.csv: the file is empty"),
        (BILL, "october.csv: has headings but no lines"),
        (b"PK\x03\x04 no workbook", "october.csv: is not an XLSX workbook that can be read"),
        (b"a\0b", "october.csv: is neither CSV nor XLSX"),
    ],
)
async def test_statement_that_cannot_be_read_is_refused_whole(
    api: Api, pool: Any, bill: str | bytes, told: str
) -> None:
    assert problem(await upload(api, bill), 422).startswith(told)
    assert await pool.fetchval("SELECT count(*) FROM statements") == 0
    assert await pool.fetchval("SELECT count(*) FROM lines") == 0


async def test_statement_is_previewed_and_nothing_imported(api: Api, pool: Any) -> None:
    bill = f"账单\n{BILL}a,{PHONE},2,0.08\nb,,1,\n合计,,3,\n"
    file = {"file": ("十月.csv", bill.encode("gb18030"))}
    data = {"account": "think", "period": "2024-10", "expect_lines": "2"}
    answer = await api.post("/v1/statements?preview=true", data=data, files=file)
    assert answer.status_code == 200, answer.text
    seen = answer.json()
    assert {name: seen[name] for name in seen if name not in ("columns", "first_lines")} == {
        "file": "十月.csv",
        "format": "generic",
        "encoding": "gb18030",
        "delimiter": ",",
        "sheet": None,
        "header_line": 2,
        "lines": 2,
        "segments": 3,
        "amount": "0.08",
        "totals_line": 5,
        "problems": [],
        "more_problems": False,
    }
    assert seen["columns"][0] == {
        "heading": "任务ID",
        "field": "vendor_message_id",
        "because": "任务ID is a usual heading of vendor_message_id",
    }
    assert [line["phone"] for line in seen["first_lines"]] == [PHONE, None]
    data["expect_lines"] = "3"
    answer = await api.post("/v1/statements?preview=true", data=data, files=file)
    assert answer.json()["problems"] == [
        {"line": None, "column": None, "reason": "3 lines were expected, and it has 2"}
    ]
    problem(await api.post("/v1/statements?preview=perhaps", data=data, files=file), 400)
    assert await pool.fetchval("SELECT count(*) FROM statements") == 0
    assert await pool.fetchval("SELECT count(*) FROM lines") == 0


async def test_control_totals_are_form_fields(api: Api, pool: Any) -> None:
    bill = f"{BILL}a,{PHONE},2,0.08\nb,,1,\n"
    for field, wrong, told in (
        ("expect_lines", "3", "october.csv: 3 lines were expected, and it has 2"),
        ("expect_segments", "2", "2 segments were expected, and its lines add up to 3"),
        ("expect_amount", "0.09", "an amount of 0.09 was expected, and its lines add up to 0.08"),
        ("expect_amount", "much", "the expected amount 'much' is not a decimal amount"),
    ):
        assert told in problem(await upload(api, bill, **{field: wrong}), 422)
    for field in ("expect_lines", "expect_segments"):
        for wrong in ("-1", "two", "1.5"):
            assert field in problem(await upload(api, bill, **{field: wrong}), 400)
    assert await pool.fetchval("SELECT count(*) FROM statements") == 0
    blank = {"expect_amount": "", "sheet": ""}  # as a form that was not filled in sends them
    assert (await upload(api, bill, period="2024-09", **blank)).json()["version"] == 1
    right = {"expect_lines": "2", "expect_segments": "3", "expect_amount": "0.080"}
    assert (await upload(api, bill, **right)).json()["version"] == 1


async def test_sheet_is_a_form_field(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    book = xlsxwriter.Workbook(path)
    for name, id in (("one", "a"), ("two", "b")):
        sheet = book.add_worksheet(name)
        sheet.write_row(0, 0, ["任务ID", "条数"])
        sheet.write_row(1, 0, [id, 1])
    book.close()
    told = problem(await upload(api, path.read_bytes(), "book.xlsx"), 422)
    assert told.startswith("book.xlsx: has several sheets with something in them: one, two")
    assert (await upload(api, path.read_bytes(), "book.xlsx", sheet="two")).json()["lines"] == 1


async def test_line_that_names_several_messages_is_named(api: Api) -> None:
    await register(api, ROW, {**ROW, "phone": "13900139000"})
    told = problem(await upload(api, f"{BILL}b,,1,\na,,1,\n"), 422)
    assert told == "october.csv: line 3: has no phone and its id names several messages"


async def test_statement_for_nothing_known_is_422_and_of_no_shape_400(api: Api) -> None:
    bill = f"{BILL}a,{PHONE},1,0.04\n"
    for wrong, told in (
        ({"account": "other"}, "no account 'other' in the settings"),
        ({"account": "a\0"}, "no account"),
        ({"period": "October"}, "'October' is no period"),
        ({"period": "9999-12"}, "'9999-12' is no period"),
        ({"period": "2024-10-15..2024-10-01"}, "ends before it begins"),
        ({"format": "other"}, "no statement format 'other'; there are generic, bank"),
    ):
        assert told in problem(await upload(api, bill, **wrong), 422)
    data = {"account": "think", "period": "2024-10"}
    assert problem(await api.post("/v1/statements"), 400)
    problem(await api.post("/v1/statements", json=data), 400)
    problem(await api.post("/v1/statements", data=data), 400)
    file = ("october.csv", bill.encode())
    problem(await api.post("/v1/statements", data=data, files={"bill": file}), 400)
    told = problem(
        await api.post("/v1/statements", data=data, files=[("file", file), ("file", file)]), 400
    )
    assert told == "file: is more than one file"
    text = {**data, "file": bill}
    told = problem(await api.post("/v1/statements", data=text, files={"x": file}), 400)
    assert told == "file: is no file"
    for name in data:
        twice: dict[str, Any] = {name: [data[name]] * 2}
        problem(await upload(api, bill, **twice), 400)
    assert (await got(api, "/v1/statements"))["items"] == []


async def test_field_that_is_not_text_is_400(api: Api) -> None:
    for field in (b"\xff\xfe", b"\xed\xa0\x80"):
        body = (
            b'--b\r\nContent-Disposition: form-data; name="account"\r\n\r\n'
            + field
            + b"\r\n--b--\r\n"
        )
        kind = {"content-type": "multipart/form-data; boundary=b"}
        problem(await api.post("/v1/statements", content=body, headers=kind), 400)


async def test_file_name_is_only_a_name(api: Api) -> None:
    for name, kept in (("../../x.csv", "x.csv"), ("a/b/c.csv", "c.csv"), ("x" * 999, "x" * 200)):
        await upload(api, f"{BILL}{kept[:9]},,1,\n", name)
        assert (await got(api, "/v1/statements", limit=1))["items"][0]["file"] == kept


async def test_reconciliation_is_given_kept_and_listed(api: Api) -> None:
    await register(api, *numbered(2))
    await upload(api, f"{BILL}m00000,{PHONE},1,0.04\nb,,1,\n")
    asked = {"account": "think", "period": "2024-10-01..2024-10-31"}
    answer = await api.post("/v1/reconciliations", json=asked)
    assert answer.status_code == 200
    result = answer.json()
    assert list(result) == [
        *("id", "account", "period", "currency", "status", "sent", "owed", "billed", "difference"),
        *("messages", "lines", "discrepancies", "unresolved", "source", "causes", "coverage"),
    ]
    assert (result["period"], result["status"]) == ("2024-10", "discrepant")
    again = (await api.post("/v1/reconciliations", json=asked)).json()
    assert {**again, "id": result["id"]} == result

    shown = await got(api, f"/v1/reconciliations/{result['id']}")
    assert {name: shown[name] for name in result} == result
    more = {"run_at", "rules", "version", "closed_at", "closed_by", "adjusts"}
    assert set(shown) - set(result) == more
    assert (shown["version"], shown["closed_at"], shown["adjusts"]) == (1, None, None)
    items = (await got(api, "/v1/reconciliations", account="think"))["items"]
    assert [item["id"] for item in items] == [again["id"], result["id"]]
    assert items[1] == shown
    assert (await got(api, "/v1/reconciliations", account="sms"))["items"] == []

    below = f"/v1/reconciliations/{result['id']}/discrepancies"
    found = (await got(api, below))["items"]
    kinds = [item["kind"] for item in found]
    assert kinds == sorted(kinds, key=match.KINDS.index)
    for kind, counted in result["discrepancies"].items():
        assert len((await got(api, below, kind=kind))["items"]) == counted["count"]
    for cause in result["causes"]:
        assert len((await got(api, below, cause=cause["cause"]))["items"]) == cause["count"]
    assert found[0] == {
        "kind": "billed_not_sent",
        "message_id": None,
        "vendor_message_id": "b",
        "phone": None,
        "line": 3,
        "sent_at": None,
        "status": None,
        "owed_segments": None,
        "billed_segments": 1,
        "price": "0.04",
        "billed_amount": "0.04",
        "cause": "id_unknown",
        "segments": 1,
        "amount": "0.04",
    }
    causes = await got(api, f"/v1/reconciliations/{result['id']}/causes")
    assert causes == {"items": result["causes"], "next": None}
    answer = await api.get(f"/v1/reconciliations/{result['id']}/causes?format=csv")
    (head, *rows) = csv.reader(io.StringIO(answer.content.decode("utf-8-sig")))
    assert tuple(head) == billed.CAUSE_COLUMNS
    assert len(rows) == len(result["causes"]) > 0
    answer = await api.get(below, params={"format": "csv"})
    (head, first, *_) = csv.reader(io.StringIO(answer.content.decode("utf-8-sig")))
    assert tuple(head) == billed.DISCREPANCY_COLUMNS
    assert first[:4] == ["billed_not_sent", "", "b", ""]
    assert first[-1] == "0.04"
    assert (await api.get(below, params={"format": "xlsx"})).content.startswith(b"PK")


async def test_period_is_closed_adjusted_and_assumed_about(api: Api) -> None:
    await register(api, ROW)
    await upload(api, f"{BILL}a,{PHONE},1,0.04\n")
    asked = {"account": "think", "period": "2024-10"}
    runs = "/v1/reconciliations"
    result = (await api.post(runs, json=asked)).json()
    assumed = (await api.post(runs, json={**asked, "assume": {"price": 0.03}})).json()
    assert (assumed["status"], assumed["assumed"]) == ("assumed_discrepant", {"price": "0.03"})
    for assume, told in (
        ({"colour": "red"}, "no assumption 'colour'; there are price, basis"),
        ({"price": "\0"}, "is not decimal text"),
    ):
        answer = await api.post(runs, json={**asked, "assume": assume})
        assert told in problem(answer, 422)
    problem(await api.post(runs, json={**asked, "assume": {"price": [1]}}), 400)
    problem(await api.post(runs, json={**asked, "source": "nobody"}), 400)
    answer = await api.post(runs, json={**asked, "source": "reports"})
    assert "no report of think's says what a message of 2024-10 cost" in problem(answer, 422)
    answer = await api.post(f"{runs}/{assumed['id']}/close")
    assert "assumes something" in problem(answer, 409)
    problem(await api.post(f"{runs}/{NOBODY}/close"), 404)
    problem(await api.post(f"{runs}/{result['id']}/close", json={"by": ""}), 400)
    problem(await api.post(f"{runs}/{result['id']}/close", json={"by": "a\0"}), 400)

    answer = await api.post(f"{runs}/{result['id']}/close", json={"by": "李"})
    assert answer.status_code == 200
    closed = answer.json()
    assert (closed["closed_by"], closed["version"]) == ("李", 1)
    assert closed == await got(api, f"{runs}/{result['id']}")
    for path, body in ((f"{runs}/{result['id']}/close", {}), (runs, {**asked, "close": True})):
        assert "is never opened again" in problem(await api.post(path, json=body), 409)

    await upload(api, f"{BILL}a,{PHONE},2,0.08\n")
    adjustment = (await api.post(runs, json=asked)).json()
    assert adjustment["adjusts"] == result["id"]
    assert adjustment["adjustment"]["difference"] == {"segments": 1, "amount": "0.04"}
    items = (await got(api, runs))["items"]
    assert [(item["id"], item["version"], item["adjusts"]) for item in items] == [
        (adjustment["id"], 2, result["id"]),
        (result["id"], 1, None),
    ]
    assert items[1] == closed
    (apart,) = (await got(api, runs, assumed="true"))["items"]
    assert apart["id"] == assumed["id"]
    below = f"{runs}/{adjustment['id']}/adjustments"
    (item,) = (await got(api, below))["items"]
    assert (item["billed_amount_before"], item["billed_amount_after"]) == ("0.04", "0.08")
    answer = await api.get(below, params={"format": "csv"})
    (head, row) = csv.reader(io.StringIO(answer.content.decode("utf-8-sig")))
    assert tuple(head) == billed.ADJUSTMENT_COLUMNS
    assert row[-2:] == ["1", "0.04"]
    assert (await got(api, f"{runs}/{result['id']}/adjustments"))["items"] == []


async def test_period_is_closed_at_once_without_a_body_or_in_one_call(api: Api) -> None:
    for period in ("2024-10", "2024-11"):
        await upload(api, f"{BILL}a,{PHONE},1,0.04\n", period=period)
    runs = "/v1/reconciliations"
    asked = {"account": "think", "period": "2024-10", "close": True}
    told = (await api.post(runs, json=asked)).json()
    assert (told["closed_by"], told["version"]) == ("api", 1)
    result = (await api.post(runs, json={"account": "think", "period": "2024-11"})).json()
    told = (await api.post(f"{runs}/{result['id']}/close")).json()
    assert told["closed_by"] == "api"


async def test_balances_are_audited_by_period(api: Api, pool: Any) -> None:
    for number, amount in enumerate(("5", "4.96", "4.5")):
        await pool.execute(
            "INSERT INTO balances (account, kind, digest, read_at, amount, currency)"
            " VALUES ('think', 'balance', sha256($1::text::bytea), $2, $3, 'CNY')",
            str(number),
            datetime(2024, 10, 5, number + 1, tzinfo=UTC),
            Decimal(amount),
        )
    await register(api, ROW)  # at 01:30 UTC; and nothing has been delivered
    query = {"account": "think", "period": "2024-10"}
    told = await got(api, "/v1/balances/audit", **query)
    assert [(item["lost"], item["sent_segments"], item["owed"]) for item in told["items"]] == [
        ("0.04", 1, "0"),
        ("0.46", 0, "0"),
    ]
    assert told["next"] is None
    assert told["totals"][0]["balance_drift"] == "0.5"
    first = await got(api, "/v1/balances/audit", limit=1, **query)
    rest = await got(api, "/v1/balances/audit", limit=1, cursor=first["next"], **query)
    assert first["items"] + rest["items"] == told["items"]
    assert rest["totals"] == told["totals"]
    answer = await api.get("/v1/balances/audit", params={**query, "format": "csv"})
    assert len(list(csv.reader(io.StringIO(answer.text)))) == 3
    for wrong in ({"account": "other"}, {"period": "October"}, {"period": "2024-09"}):
        problem(await api.get("/v1/balances/audit", params={**query, **wrong}), 422)
    problem(await api.get("/v1/balances/audit"), 400)
    problem(await api.get("/v1/balances/audit", params={**query, "cursor": "x"}), 400)


async def test_what_cannot_be_reconciled_is_422_in_one_line(api: Api, pool: Any) -> None:
    for asked, told in (
        (
            {"account": "think", "period": "2024-10"},
            "think has no statement for 2024-10: import it first",
        ),
        ({"account": "other", "period": "2024-10"}, "no account 'other' in the settings"),
        ({"account": "think", "period": "10/2024"}, "'10/2024' is no period"),
        ({"account": "think", "period": "0001-01"}, "'0001-01' is no period"),
        ({"account": "sms", "period": "2024-10"}, "sms has no tariff for 2024-10-01"),
        ({"account": "think\0", "period": "\0"}, "no account"),
    ):
        answer = await api.post("/v1/reconciliations", json=asked)
        assert told in problem(answer, 422)
    await register(api, {**ROW, "sent_at": "2023-12-31T12:00:00+08:00"})
    await upload(api, f"{BILL}a,{PHONE},1,0.04\n", period="2023-12")
    asked = {"account": "think", "period": "2023-12"}
    answer = await api.post("/v1/reconciliations", json=asked)
    assert "no tariff for 2023-12-31" in problem(answer, 422)
    assert await pool.fetchval("SELECT count(*) FROM runs") == 0


async def test_request_to_reconcile_of_another_shape_is_400(api: Api) -> None:
    kind = {"content-type": "application/json"}
    for content in (
        *(b"", b"x", b"[]", b"null", b"1", b'"x"', b"{}", b"\xff", b'{"account": "think"}'),
        *(b'{"account": 1, "period": 2}', b'{"account": null, "period": null}'),
        *(b'{"account": "think", "period": "2024-10", "more": 1}', b"[" * 100_000),
        *(b'{"account": "\\ud800", "period": "2024-10"}', b'{"account": "think", "period": "20'),
    ):
        problem(await api.post("/v1/reconciliations", content=content, headers=kind), 400)
    assert problem(await api.post("/v1/reconciliations"), 400) == "the body: is missing"


# --- at the same time --------------------------------------------------------------------------------


async def test_calls_at_the_same_time_keep_out_of_each_others_way(api: Api, pool: Any) -> None:
    await register(api, *numbered(50))
    bill = BILL + "".join(f"m{number:05},{PHONE},1,0.04\n" for number in range(50))
    uploads = await asyncio.gather(*(upload(api, bill) for _ in range(6)))
    told = [answer.json() for answer in uploads]
    assert len({each["id"] for each in told}) == 1
    assert sorted(each["duplicate_of"] is None for each in told) == [False] * 5 + [True]
    asked = {"account": "think", "period": "2024-10"}
    runs = await asyncio.gather(*(api.post("/v1/reconciliations", json=asked) for _ in range(6)))
    results = [{**answer.json(), "id": ""} for answer in runs]
    assert all(result == results[0] for result in results)
    assert await pool.fetchval("SELECT count(*) FROM runs") == 6


async def test_client_that_hangs_up_costs_nothing(api: Api, pool: Any) -> None:
    await register(api, *numbered(3000))
    for shape in ("csv", "json"):
        async with api.stream("GET", "/v1/messages", params={"format": shape}) as answer:
            assert answer.status_code == 200

    async def idle() -> bool:
        busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
        return bool(await pool.fetchval(busy) == 0)

    await until(idle)
    assert len((await got(api, "/v1/messages"))["items"]) == 100
