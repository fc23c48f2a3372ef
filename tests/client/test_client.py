"""The client, sync and async, against the real API with real faults in between."""

import asyncio
import inspect
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from serving import TOKEN, Api

from huizhi import client
from huizhi.client import (
    AsyncHuizhi,
    Evidence,
    Garbled,
    Huizhi,
    Message,
    Outgoing,
    Refused,
    Registered,
    Rejected,
    Sent,
    Unavailable,
    calls,
)
from reconciler import ledger, sending
from reconciler.reading.sent import MESSAGE_COLUMNS

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
AT = datetime(2026, 10, 5, 9, 30, tzinfo=UTC)


def sent(id: str = "1", **more: Any) -> Sent:
    return Sent(
        **{
            "account": "think-main",
            "vendor_message_id": id,
            "phone": "13800138000",
            "sent_at": AT,
            **more,
        }
    )


class Either:
    """One client or the other, each call awaited."""

    def __init__(self, wrapped: Huizhi | AsyncHuizhi) -> None:
        self._wrapped = wrapped

    async def register(self, messages: list[Sent]) -> Registered:
        return await self._call("register", messages)

    async def message(self, id: str) -> Evidence:
        return await self._call("message", id)

    async def send(self, request: Outgoing, key: str) -> client.SendResult:
        return await self._call("send", request, key=key)

    async def messages(self, **filters: Any) -> list[Message]:
        if isinstance(self._wrapped, AsyncHuizhi):
            return [message async for message in self._wrapped.messages(**filters)]
        blocking = self._wrapped
        return await asyncio.to_thread(lambda: list(blocking.messages(**filters)))

    async def _call(self, name: str, *given: Any, **named: Any) -> Any:
        call = getattr(self._wrapped, name)
        if isinstance(self._wrapped, AsyncHuizhi):
            return await call(*given, **named)
        return await asyncio.to_thread(call, *given, **named)


@asynccontextmanager
async def opened(kind: str, url: str, token: str = TOKEN, **more: Any) -> AsyncIterator[Either]:
    if kind == "async":
        async with AsyncHuizhi(url, token, **more) as awaiting:
            yield Either(awaiting)
    else:
        with Huizhi(url, token, **more) as blocking:
            yield Either(blocking)


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_rows_are_recorded_once_and_bad_ones_are_named(kind: str, served: Api) -> None:
    rows = [
        sent("a", content="您的验证码是7865", sign="顶想云", reference="order 7"),
        sent("b", account="nobody"),
        sent("c", sent_at=datetime(2026, 10, 5)),  # noqa: DTZ001
        sent("d", content="\ud800"),
        sent("e", phone=object()),
        sent("f", content="x" * 2_000_000),
        sent("g"),
    ]
    async with opened(kind, served.url) as huizhi:
        told = await huizhi.register(rows)
        assert (told.recorded, told.duplicates) == (2, 0)
        assert told.rejected == [
            Rejected(1, "unknown account"),
            Rejected(2, "sent_at has no offset, such as +08:00"),
            Rejected(3, "cannot be written as JSON"),
            Rejected(4, "cannot be written as JSON"),
            Rejected(5, "is larger than any message"),
        ]
        again = await huizhi.register([rows[0], rows[6]])
        assert again == Registered(recorded=0, duplicates=2, rejected=[])
        assert await huizhi.register([]) == Registered(recorded=0, duplicates=0, rejected=[])
        (found,) = await huizhi.messages(reference="order 7")
        assert (found.vendor_message_id, found.phone, found.sent_at) == ("a", "13800138000", AT)
        told_of = await huizhi.message(found.id)
        assert (told_of.content, told_of.sign, told_of.reports) == (rows[0].content, "顶想云", [])
        assert isinstance(told_of.registered_at, datetime)


async def test_many_rows_go_out_in_several_calls_and_keep_their_places(
    kind: str, served: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_ROWS", 10)
    rows = [
        sent(str(number), account="nobody" if number in (3, 17) else "think-main")
        for number in range(25)
    ]
    async with opened(kind, served.url) as huizhi:
        told = await huizhi.register(rows)
        assert (told.recorded, [row.index for row in told.rejected]) == (23, [3, 17])
        assert served.requests == 3
        monkeypatch.setattr(calls, "MAX_BYTES", 400)
        assert (await huizhi.register(rows)).duplicates == 23
        assert served.requests > 6
        monkeypatch.setattr(calls, "_PAGE", 10)
        listed = await huizhi.messages(account="think-main", since=AT, until=AT + timedelta(days=1))
        assert {message.vendor_message_id for message in listed} == {
            str(number) for number in range(25)
        } - {"3", "17"}
        assert len(listed) == 23
        assert await huizhi.messages(account="think-main", until=AT) == []


@pytest.mark.parametrize("fault", [429, 500, 502, 503, "cut"])
async def test_what_passes_is_tried_again_and_registered_once(
    kind: str, served: Api, fault: int | str
) -> None:
    served.faults += [fault, fault]
    async with opened(kind, served.url) as huizhi:
        told = await huizhi.register([sent("a"), sent("b")])
        assert told.recorded + told.duplicates == 2
        assert (told.recorded == 0) is (fault == "cut")
        assert served.requests == 3
        assert len(await huizhi.messages()) == 2


async def test_without_patience_it_is_unavailable_and_says_for_how_long(kind: str) -> None:
    def busy(_: httpx.Request) -> httpx.Response:
        problem = {"type": "about:blank", "detail": "the database is away; try again"}
        return httpx.Response(503, json=problem, headers={"retry-after": "40"})

    started = time.monotonic()
    async with opened(kind, "http://huizhi", transport=httpx.MockTransport(busy)) as huizhi:
        with pytest.raises(Unavailable, match="the database is away") as caught:
            await huizhi.register([sent()])
    # More than its patience: the caller's schedule knows better.
    assert caught.value.retry_after_seconds == 40
    assert time.monotonic() - started < 10


async def test_huizhi_away_is_unavailable_and_names_no_address(kind: str, served: Api) -> None:
    served.stop()
    async with opened(kind, served.url, patience_seconds=0) as huizhi:
        with pytest.raises(Unavailable, match=r"^Huizhi does not answer \(ConnectError\)$"):
            await huizhi.register([sent()])
    served.start()


async def test_refusal_is_final_and_has_its_words(kind: str, served: Api) -> None:
    async with opened(kind, served.url, token="another") as huizhi:
        with pytest.raises(Refused, match="no API token, or another") as caught:
            await huizhi.register([sent()])
        assert caught.value.status == 401
    assert served.requests == 1
    async with opened(kind, served.url) as huizhi:
        with pytest.raises(Refused) as caught:
            await huizhi.message("0190c0c0-0000-7000-8000-000000000000")
        assert (caught.value.status, caught.value.detail) == (404, "no such message")


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'{"recorded": 0, "duplicates": 0, "rejected": []}',
        b'{"recorded": 0, "duplicates": 0, "rejected": [{"index": 1, "reason": ""}]}',
        b'{"recorded": 0, "duplicates": 0, "rejected": [{"index": -1, "reason": ""}]}',
    ],
)
async def test_answer_that_does_not_account_for_every_row_is_garbled(
    kind: str, body: bytes
) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    async with opened(kind, "http://huizhi", transport=transport) as huizhi:
        with pytest.raises(Garbled):
            await huizhi.register([sent()])


async def test_request_to_send_goes_out_under_its_key(kind: str) -> None:
    came: list[httpx.Request] = []
    told = {
        "id": "0b1e", "account": "sms", "status": "submitted", "replayed": False,
        "requested_at": "2026-10-05T01:30:00Z", "counts": {"submitted": 1}, "duplicates": [],
        "messages": [
            {"id": "1", "account": "sms", "vendor_message_id": "365", "phone": "13900000000",
             "status": "submitted", "segments": 1, "sent_at": "2026-10-05T01:30:00Z"}
        ],
    }  # fmt: skip

    def answer(request: httpx.Request) -> httpx.Response:
        came.append(request)
        if len(came) == 1:
            return httpx.Response(409, json={"detail": "on its way"}, headers={"retry-after": "0"})
        return httpx.Response(200, json=told)

    text = Outgoing(account="sms", phones=["13900000000"], content="x")
    async with opened(kind, "http://huizhi/", transport=httpx.MockTransport(answer)) as huizhi:
        done = await huizhi.send(text, "order-7")
        assert (done.status, done.messages[0].vendor_message_id) == ("submitted", "365")
        assert [request.headers["idempotency-key"] for request in came] == ["order-7"] * 2
        assert json.loads(came[0].content) == {
            "account": "sms", "phones": ["13900000000"], "content": "x",
        }  # fmt: skip
        for key in ("", "x" * 256, "键"):
            with pytest.raises(ValueError, match="1 to 255 characters"):
                await huizhi.send(text, key)


async def test_vendor_that_does_not_answer_leaves_nothing_sent_and_the_key_free(
    kind: str, served: Api
) -> None:
    text = Outgoing(account="think-main", phones=["13900000000"], sign="1", template_id="1")
    async with opened(kind, served.url, patience_seconds=0) as huizhi:
        with pytest.raises(Unavailable, match="nothing was sent"):
            await huizhi.send(text, "order-7")


def test_token_text_and_phone_are_in_no_repr_and_no_error() -> None:
    async_client, blocking = AsyncHuizhi("http://huizhi", "hush"), Huizhi("http://huizhi", "hush")
    shown = [async_client, blocking, vars(async_client), vars(blocking)]
    shown += [sent(content="secret text"), [sent()], Rejected(0, "why")]
    shown += [Outgoing(account="a", phones=["13800138000"], content="secret text")]
    for each in shown:
        text = f"{each!r} {each}"
        assert "hush" not in text
        assert "13800138000" not in text
        assert "secret text" not in text
    assert repr(blocking) == "Huizhi('http://huizhi')"
    assert "think-main" in repr(sent())
    blocking.close()


@pytest.mark.parametrize(
    "url", ["", "huizhi:8081", "ftp://huizhi", "http://me:pw@huizhi", "http://h/?a=b"]
)
def test_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        Huizhi(url, TOKEN)


@pytest.mark.parametrize("token", ["", "a b", "hush\n", "密"])
def test_token_that_fits_no_header_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        AsyncHuizhi("http://huizhi", token)
    assert not token or token not in str(caught.value)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert calls.retry_after("7", AT) == 7
    assert calls.retry_after("Mon, 05 Oct 2026 09:30:30 GMT", AT) == 30
    assert calls.retry_after("Mon, 05 Oct 2026 09:29:30 GMT", AT) == 0
    assert calls.retry_after("99999999999999", AT) == 86_400
    assert calls.retry_after("soon", AT) is None


def test_types_are_those_of_the_api() -> None:
    def fields(struct: Any) -> list[str]:
        return [field.name for field in msgspec.structs.fields(struct)]

    assert fields(Sent) == fields(ledger.Sent)
    assert fields(Registered) == fields(ledger.Registered)
    assert fields(Rejected) == fields(ledger.Rejected)
    assert fields(Message) == list(MESSAGE_COLUMNS)
    assert set(fields(Outgoing)) <= set(fields(sending.Request))
    assert calls.MAX_ROWS == ledger.MAX_ROWS


def test_both_clients_offer_the_same() -> None:
    def offered(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(function).parameters)
            for name, function in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert offered(Huizhi) == offered(AsyncHuizhi)


def test_importing_the_client_imports_nothing_of_the_service() -> None:
    code = (
        "import sys; before = set(sys.modules); import huizhi.client\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('huizhi')))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported, ours = ran.stdout.splitlines()
    assert {"httpx", "msgspec", "stamina"} <= set(imported.split())
    service = {"gateways", "runtime", "receiver", "reconciler", "sandbox", "sql", "rich_click"}
    service |= {"litestar", "asyncpg", "uvicorn", "structlog", "apscheduler", "prometheus_client"}
    assert not service & set(imported.split())
    assert all(name == "huizhi" or name.startswith("huizhi.client") for name in ours.split())


def test_importing_the_client_is_quick() -> None:
    def seconds(code: str) -> float:
        """Processor time: the machine may be busy with other tests."""
        ran = subprocess.run(
            [sys.executable, "-c", f"import time\n{code}\nprint(time.process_time())"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return float(ran.stdout)

    bare = min(seconds("import httpx, msgspec, stamina") for _ in range(3))
    assert min(seconds("import huizhi.client") for _ in range(3)) - bare < 0.1


def test_package_says_that_it_is_typed() -> None:
    assert (ROOT / "huizhi/py.typed").is_file()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
