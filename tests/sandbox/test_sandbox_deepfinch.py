"""The pretend deepfinch and its gateway do what vendor-docs/004 and vendors.md 5 say."""

import contextlib
import csv
import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox import Config, Running, running
from sandbox.config import DeepFinchConfig
from sandbox.deepfinch import DeepFinchAccount
from sandbox.settings import Faults, Outcomes

pytestmark = pytest.mark.anyio

URL = "/deepfinch/release/data/send_sms"
GOOD = {"content": "code:7865", "phone_number": "15687902345", "template_id": "TPL_0000"}


@contextlib.asynccontextmanager
async def play(**changes: Any) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    common = {name: changes.pop(name) for name in ("faults", "outcomes", "seed") if name in changes}
    account = DeepFinchAccount(**{"secret_id": "AKIDfinch", "secret_key": "the-key", **changes})
    config = Config(port=0, strict=True, deepfinch=DeepFinchConfig({"main": account}), **common)
    async with (
        running(config) as handle,
        httpx.AsyncClient(base_url=handle.url, timeout=10) as http,
    ):
        yield handle, http


def now(**ago: float) -> str:
    """RFC 1123 as the page's Go sample writes it."""
    return (datetime.now(UTC) - timedelta(**ago)).strftime("%a, %d %b %Y %H:%M:%S GMT")


def sign(
    signed: list[tuple[str, str]],
    *,
    id: str = "AKIDfinch",
    key: str = "the-key",
    algorithm: str = "sha1",
    **more: str,
) -> dict[str, str]:
    """The headers of `signed`, in its order, and their signature."""
    text = "\n".join(f"{name}: {value}" for name, value in signed)
    made = hmac.new(key.encode(), text.encode(), getattr(hashlib, algorithm)).digest()
    names = " ".join(name for name, _ in signed)
    authorization = (
        f'hmac id="{id}", algorithm="hmac-{algorithm}", headers="{names}",'
        f' signature="{b64encode(made).decode()}"'
    )
    return {**dict(signed), "Authorization": authorization, **more}


def usual(**more: Any) -> dict[str, str]:
    return sign([("x-date", now()), ("x-source", "market")], **more)


def without(name: str) -> dict[str, str]:
    return {each: value for each, value in usual().items() if each != name}


def minutes_off(minutes: int) -> dict[str, str]:
    return sign([("x-date", now(minutes=minutes)), ("x-source", "market")])


async def test_a_signed_form_is_answered_as_the_page_shows() -> None:
    async with play() as (handle, http):
        reply = await http.post(URL, data=GOOD, headers=usual())
        assert reply.status_code == 200
        assert re.fullmatch("TID[0-9a-f]{32}", reply.json()["request_id"])
        assert reply.json() == {"request_id": reply.json()["request_id"], "status": "OK"}
        (row,) = handle.truth("message")
        assert row["vendor_message_id"] == reply.json()["request_id"]
        assert row["content"] == "【Deepfinch】您的验证码是:7865,有效期5分钟。"
        assert row["expected"] == []
        again = await http.post(URL, data=GOOD, headers=usual())
        assert again.json()["request_id"] != reply.json()["request_id"]
        assert (await http.get("/_sandbox/violations")).json() == {"items": []}


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
async def test_other_algorithms_and_the_older_headers_are_taken(algorithm: str) -> None:
    async with play() as (_, http):
        old = [("source", "anything"), ("date", "Mon, 19 Mar 2018 12:08:40 GMT")]
        for headers in (usual(algorithm=algorithm), sign(old)):
            reply = await http.post(URL, data=GOOD, headers=headers)
            assert reply.json()["status"] == "OK"


CANNOT = "HMAC signature cannot be verified"


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        (dict, 401, f"{CANNOT}, a validate authorization header is required."),
        (lambda: usual(Authorization="Bearer x"), 401, "HMAC authorization format error."),
        (
            lambda: usual(Authorization='hmac id="a", signature = yMCxXNyt='),
            401,
            "HMAC authorization format error.",
        ),
        (lambda: usual(Authorization='hmac id="a"'), 401, "HMAC id or signature missing."),
        (
            lambda: usual(Authorization='hmac id="a", signature="b"'),
            401,
            "HMAC authorization headers is invalidate.",
        ),
        (lambda: usual(algorithm="md5"), 401, "HMAC algorithm hmac-md5 not supported."),
        (
            lambda: sign([("x-source", "market")]),
            401,
            f"{CANNOT}, a valid date or x-date header is required.",
        ),
        (
            lambda: without("x-date"),
            401,
            f"{CANNOT}, a valid x-date header is required for HMAC Authentication.",
        ),
        (
            lambda: without("x-source"),
            401,
            f"{CANNOT}, a valid x-source header is required.",
        ),
        *(
            (
                partial(sign, [("x-date", date), ("x-source", "market")]),
                401,
                f"{CANNOT}, a valid x-date header is required for HMAC Authentication.",
            )
            for date in (
                "周一, 19 三月 2018 12:08:40 GMT".encode().decode("latin-1"),
                "Mo, 19 Mär 2018 12:08:40 GMT",
                "Sun, 19 Mar 2018 12:08:40 GMT",
                "Mon, 19 Mar 2018 12:08:40 +0000",
                "Fri, 31 Feb 2025 12:08:40 GMT",
                "2018-03-19T12:08:40Z",
            )
        ),
        *(
            (
                partial(minutes_off, minutes),
                401,
                f"{CANNOT}, the x-date header is out of date for HMAC Authentication.",
            )
            for minutes in (16, -16)
        ),
        (lambda: usual(id="AKIDother"), 401, f"{CANNOT}."),
        (lambda: usual(key="another"), 401, "HMAC signature does not match."),
        (lambda: usual(**{"x-source": "other"}), 401, "HMAC signature does not match."),
    ],
)
async def test_the_gateway_refuses_in_its_own_words(
    headers: Callable[[], dict[str, str]], status: int, text: str
) -> None:
    async with play() as (handle, http):
        raw = {name: value.encode("latin-1") for name, value in headers().items()}
        reply = await http.post(URL, data=GOOD, headers=raw)
        assert (reply.status_code, reply.text) == (status, text)
        assert handle.truth("message") == []


async def test_14_minutes_are_within_the_skew() -> None:
    async with play() as (_, http):
        for minutes in (14, -14):
            headers = minutes_off(minutes)
            assert (await http.post(URL, data=GOOD, headers=headers)).json()["status"] == "OK"


async def test_order_of_the_header_list_is_the_order_of_the_signed_text() -> None:
    async with play() as (_, http):
        swapped = sign([("x-source", "market"), ("x-date", now())])
        assert (await http.post(URL, data=GOOD, headers=swapped)).json()["status"] == "OK"
        swapped["Authorization"] = swapped["Authorization"].replace(
            "x-source x-date", "x-date x-source"
        )
        reply = await http.post(URL, data=GOOD, headers=swapped)
        assert reply.text == "HMAC signature does not match."


@pytest.mark.parametrize("name", ["x-date", "x-source", "Authorization"])
async def test_a_doubled_header_is_refused(name: str) -> None:
    async with play() as (_, http):
        headers = usual()
        doubled = [*headers.items(), (name, headers[name])]
        reply = await http.post(URL, data=GOOD, headers=doubled)
        assert (reply.status_code, reply.text) == (401, "HMAC do not support multiple HTTP header.")


@pytest.mark.parametrize(
    ("state", "status", "text"),
    [
        ("unbound", 401, "HMAC apikey is invalid for API."),
        ("no_plan", 403, "Found no validate usage plan."),
    ],
)
async def test_a_key_can_be_without_its_plan(state: str, status: int, text: str) -> None:
    async with play(key_state=state) as (_, http):
        reply = await http.post(URL, data=GOOD, headers=usual())
        assert (reply.status_code, reply.text) == (status, text)


async def test_other_methods_bodies_and_paths_do_not_get_through() -> None:
    async with play() as (_, http):
        reply = await http.get(URL, params=GOOD, headers=usual())
        assert (reply.status_code, reply.text) == (404, "Could not support method.")
        reply = await http.post(URL, json=GOOD, headers=usual())
        assert reply.status_code == 403
        assert reply.text == "req content type need application/x-www-form-urlencoded."
        assert (await http.post("/deepfinch/data/send_sms", data=GOOD)).status_code == 404


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"content": ""}, "content mismatch"),
        ({"content": "7865"}, "content mismatch"),
        ({"content": "code:1,code:2"}, "content mismatch"),
        ({"content": "code:1,expire_at:5"}, "content mismatch"),
        ({"content": "code:1,", "template_id": "TPL_0001"}, "content mismatch"),
        ({"template_id": "TPL_0009"}, "template_id invalid"),
        ({"phone_number": "+8615687902345"}, "phone_number invalid"),
        ({"surprise": "1"}, "unknown surprise"),
    ],
)
@pytest.mark.parametrize("http_statuses", [True, False])
async def test_the_vendor_refuses_in_its_json(
    http_statuses: bool, changes: dict[str, str], reason: str
) -> None:
    async with play(http_statuses=http_statuses) as (handle, http):
        reply = await http.post(URL, data=GOOD | changes, headers=usual())
        assert reply.status_code == (400 if http_statuses else 200)
        assert reply.json().keys() == {"status", "reason", "request_id"}
        assert (reply.json()["status"], reply.json()["reason"]) == ("INVALID_ARGUMENT", reason)
        assert handle.truth("message") == []


async def test_every_code_word_can_be_had() -> None:
    words = {
        "DETECTION_FAILED": 400,
        "INVALID_ARGUMENT": 400,
        "RATE_LIMIT_EXCEEDED": 403,
        "INTERNAL_ERROR": 500,
    }
    answers = {f"1380013800{number}": word for number, word in enumerate(words)}
    async with play(answers=answers) as (handle, http):
        for phone, word in answers.items():
            reply = await http.post(URL, data=GOOD | {"phone_number": phone}, headers=usual())
            assert (reply.status_code, reply.json()["status"]) == (words[word], word)
        told = {row["phone"] for row in handle.truth("message")}
        assert told <= {phone for phone, word in answers.items() if word == "INTERNAL_ERROR"}


async def test_about_half_of_what_met_an_internal_error_went_out() -> None:
    async with play(answers={"13800138000": "INTERNAL_ERROR"}) as (handle, http):
        for number in range(40):
            fields = GOOD | {"phone_number": "13800138000", "content": f"code:{number}"}
            await http.post(URL, data=fields, headers=usual())
        rows = handle.truth("message")
        assert 8 < len(rows) < 32
        assert all(row["reply_lost"] for row in rows)


async def test_faults_befall_its_replies() -> None:
    for fault, status, text in (
        ("reply_429", 429, "API rate limit exceeded."),
        ("reply_500", 500, "Internal Server Error."),
    ):
        async with play(faults=Faults(on_send=True, **{fault: 1.0})) as (handle, http):
            reply = await http.post(URL, data=GOOD, headers=usual())
            assert (reply.status_code, reply.text) == (status, text)
            assert handle.truth("message") == []


async def test_nothing_is_pushed_and_no_handset_answers() -> None:
    async with play() as (handle, http):
        await http.post(URL, data=GOOD, headers=usual())
        assert await handle.release() == {}
        order = {"vendor": "deepfinch", "account": "main", "items": []}
        reply = await http.post("/_sandbox/inbound", json=order)
        assert reply.json() == {"error": "deepfinch has no inbound messages"}


async def _month(http: httpx.AsyncClient, count: int) -> None:
    for number in range(count):
        at = f"2026-10-{1 + number % 30:02d}T10:00:00+08:00"
        fields = GOOD | {"phone_number": str(13800138000 + number), "content": f"code:{number}"}
        reply = await http.post(URL, data=fields, headers=usual() | {"X-Sandbox-Time": at})
        assert reply.json()["status"] == "OK"


async def test_the_bill_charges_what_was_taken_whatever_became_of_it(tmp_path: Path) -> None:
    path = tmp_path / "finch.csv"
    async with play(outcomes=Outcomes(failed=0.4, never_final=0.1)) as (handle, http):
        await _month(http, 30)
        handle.write_statement("deepfinch", "main", "2026-10", path)
        (totals,) = handle.truth("statement")
        assert handle.truth("statement_fault") == []
        assert Decimal(totals["difference"]) == 0
        assert totals["owed"]["messages"] == 30
        assert {row["status"] for row in handle.truth("message")} > {"delivered", "failed"}
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    assert list(rows[0]) == ["vendor_message_id", "phone", "segments", "amount", "sent_at"]
    assert sum(Decimal(row["amount"]) for row in rows) == Decimal("0.04") * 30


async def test_faults_of_its_bill_are_known_exactly(
    tmp_path: Path, every_statement_fault: Faults
) -> None:
    async with play(faults=every_statement_fault) as (handle, http):
        await _month(http, 60)
        handle.write_statement("deepfinch", "main", "2026-10", tmp_path / "finch.csv")
        (totals,) = handle.truth("statement")
        faults = handle.truth("statement_fault")
    assert {row["kind"] for row in faults} == {
        *("billed_not_sent", "billed_twice", "not_billed"),
        *("segments_differ", "price_differs"),
    }
    assert {row["cause"] for row in faults} == {"injected"}
    assert sum(Decimal(row["amount"]) for row in faults) == Decimal(totals["difference"])


async def test_on_delivery_nothing_of_it_can_be_owed(tmp_path: Path) -> None:
    async with play(basis="delivered") as (handle, http):
        await _month(http, 5)
        handle.write_statement("deepfinch", "main", "2026-10", tmp_path / "finch.csv")
        (totals,) = handle.truth("statement")
    assert totals["owed"]["messages"] == 0
    assert totals["discrepancies"].keys() == {"billed_not_delivered"}
