"""Submitting signs and templates, against a vendor that shares nothing with us, and against broken ones."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from every_call import asking, no, told
from pretend import Answer, Vendor, refusal, serving, settings

from gateways.errors import Garbled, Indeterminate, Refused, Unavailable, Unsupported
from gateways.events import ReviewKind, ReviewResult, ReviewStatus
from gateways.http import open_client
from reconciler import reviews
from reconciler.poll import Caller, callers, poll_reviews
from reconciler.reading import reviewed
from runtime import records
from sandbox import Config, Running, running
from sandbox import clock as sandbox_clock
from sandbox.config import ThinkApiConfig
from sandbox.settings import Faults
from sandbox.thinkapi import ThinkApiAccount

pytestmark = pytest.mark.anyio

CONTENT = {ReviewKind.SIGN: None, ReviewKind.TEMPLATE: "你有一个新的${name}订单,请及时处理!"}
BAD = {
    ReviewKind.SIGN: ("顶想云测试", None),
    ReviewKind.TEMPLATE: ("订单", "【顶想云】新的${name}订单"),
}
both = pytest.mark.parametrize("kind", list(ReviewKind))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let an hour go by at the vendor, where a verdict takes half of one."""
    passed = timedelta(0)
    real = sandbox_clock.now
    monkeypatch.setattr(sandbox_clock, "now", lambda: real() + passed)

    def go_on() -> None:
        nonlocal passed
        passed += timedelta(hours=1)

    return go_on


@asynccontextmanager
async def _sandbox(
    pool: Any, folder: Path, **faults: float
) -> AsyncIterator[tuple[Caller, Running]]:
    """A ThinkAPI whose every push is lost, strict about parameters."""
    config = Config(
        port=0,
        hold_pushes=True,
        review_rejected=0.0,
        strict=True,
        faults=Faults(push_lost=1.0, **faults),
        thinkapi=ThinkApiConfig(
            {"api": ThinkApiAccount(app_code="code", callback_url="http://127.0.0.1:1/x/token")}
        ),
    )
    async with running(config) as vendor, open_client() as http:
        read = settings(folder, vendor.base_url("thinkapi"))
        yield callers(read, pool, http, recorder="test")["api"], vendor


@asynccontextmanager
async def _pretended(
    pool: Any, folder: Path, answer: Callable[[str, dict[str, str]], Answer], account: str = "api"
) -> AsyncIterator[tuple[Caller, Vendor]]:
    with serving(answer) as vendor:
        async with open_client() as http:
            read = settings(folder, vendor.url)
            yield callers(read, pool, http, recorder="test")[account], vendor


async def _stored(pool: Any, kind: ReviewKind, vendor_id: str) -> dict[str, Any]:
    row = await reviewed.review(pool, "api", kind, vendor_id)
    assert row is not None
    return row


def _told(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["status"], each["vendor_code"]) for each in row["history"]]


async def _recover(caller: Caller) -> None:
    done = await poll_reviews(caller, all_now=True)
    assert (done.asked, done.answered, done.failures) == (1, 1, [])


@both
async def test_a_verdict_whose_only_push_is_lost_is_asked_for(
    pool: Any, tmp_path: Path, later: Callable[[], None], kind: ReviewKind
) -> None:
    async with _sandbox(pool, tmp_path) as (caller, vendor):
        row = await reviews.submit(
            caller, kind, name="顶想云", content=CONTENT[kind], remark="用于 & 通知"
        )
        assert (row["status"], row["vendor_code"], row["reason"]) == ("pending", "", None)
        assert (row["name"], row["content"], row["remark"]) == (
            "顶想云",
            CONTENT[kind],
            "用于 & 通知",
        )
        assert row["updated_at"] is not None
        id = row["vendor_id"]
        assert row == await _stored(pool, kind, id)
        stored = await pool.fetchrow("SELECT source, call, subject, method FROM records")
        assert tuple(stored) == ("query", f"add_{kind}", "顶想云", "")

        # It is due from now on, and asked about like any other.
        assert (await poll_reviews(caller)).answered == 1
        assert (await _stored(pool, kind, id))["status"] == "pending"

        await vendor.release("reviews")
        await _recover(caller)
        row = await _stored(pool, kind, id)
        assert row["status"] == "approved"
        assert _told(row) == [("pending", ""), ("pending", "0"), ("approved", "1")]
        assert [faults["faults"] for faults in vendor.truth("review")] == [[{"kind": "push_lost"}]]
        assert (await poll_reviews(caller, all_now=True)).asked == 0
        assert vendor.truth("violation") == []


@both
async def test_modified_after_rejection_it_is_pending_again_and_its_history_is_kept(
    pool: Any, tmp_path: Path, later: Callable[[], None], kind: ReviewKind
) -> None:
    name, content = BAD[kind]
    async with _sandbox(pool, tmp_path) as (caller, vendor):
        row = await reviews.submit(caller, kind, name=name, content=content, remark="通知")
        id = row["vendor_id"]
        await vendor.release("reviews")
        await _recover(caller)
        row = await _stored(pool, kind, id)
        assert row["status"] == "rejected"
        assert row["reason"]
        assert (await poll_reviews(caller, all_now=True)).asked == 0

        later()
        row = await reviews.submit(
            caller, kind, name="订单", content=CONTENT[kind], remark="订单通知", vendor_id=id
        )
        assert row["vendor_id"] == id
        assert (row["status"], row["name"], row["reason"]) == ("pending", "订单", None)
        assert row["content"] == CONTENT[kind]

        await vendor.release("reviews")
        await _recover(caller)
        row = await _stored(pool, kind, id)
        assert (row["status"], row["name"]) == ("approved", "订单")
        assert [each["status"] for each in row["history"]] == [
            "pending",
            "rejected",
            "pending",
            "approved",
        ]
        with pytest.raises(Refused, match="refused by the vendor with 409: 已经通过审核的"):
            await reviews.submit(
                caller, kind, name="别名", content=CONTENT[kind], remark="通知", vendor_id=id
            )
        assert await _stored(pool, kind, id) == row


@both
async def test_what_others_submitted_is_known_by_asking_for_it(
    pool: Any, tmp_path: Path, kind: ReviewKind
) -> None:
    async with _sandbox(pool, tmp_path) as (caller, vendor):
        async with httpx.AsyncClient(base_url=vendor.base_url("thinkapi")) as http:
            params = {"appCode": "code", "name": "顶想云", "remark": "通知"}
            if content := CONTENT[kind]:
                params["content"] = content
            added = (await http.get(f"/sms/add_{kind}", params=params)).json()
        id = str(added["data"]["id"])
        assert (await reviews.query(caller, kind, id))["status"] == "pending"
        await vendor.release("reviews")
        assert (await reviews.query(caller, kind, id))["status"] == "approved"
        again = await reviews.query(caller, kind, id)  # the same bytes, known already
        assert _told(again) == [("pending", "0"), ("approved", "1")]
        with pytest.raises(Refused, match="404"):
            await reviews.query(caller, kind, "99999")
        assert await pool.fetchval("SELECT count(*) FROM reviews") == 1


@pytest.mark.parametrize("fault", ["reply_cut", "reply_500"])
async def test_a_new_one_whose_reply_is_lost_is_never_submitted_twice(
    pool: Any, tmp_path: Path, fault: str
) -> None:
    async with _sandbox(pool, tmp_path, **{fault: 1.0}) as (caller, vendor):
        with pytest.raises(Indeterminate):
            await reviews.submit(
                caller, ReviewKind.SIGN, name="顶想云", content=None, remark="通知"
            )
        assert len(vendor.truth("review")) == (1 if fault == "reply_cut" else 0)
        assert len(vendor.sandbox.world.requests) == 1
    # What did arrive is kept.
    assert await pool.fetchval("SELECT call FROM records") == "add_sign"
    assert await pool.fetchval("SELECT count(*) FROM quarantine") == (fault == "reply_cut")


def _review(id: str, status: int | None, at: str) -> Answer:
    told = "" if status is None else f',"status":{status}'
    body = (
        f'{{"code":0,"message":"","data":{{"id":{id},"name":"签名","update_time":"{at}"{told}}}}}'
    )
    return Answer(body.encode())


async def test_a_lost_reply_to_a_modification_is_followed_by_a_question(
    pool: Any, tmp_path: Path
) -> None:
    asked = _review("7", 2, "2026-10-02 11:00:00")

    def answer(path: str, _: dict[str, str]) -> Answer:
        if path == "/sms/query_sign":
            return asked
        reply = _review("7", None, "2026-10-02 12:00:00")
        reply.cut = 20
        return reply

    async with _pretended(pool, tmp_path, answer) as (caller, vendor):
        assert (await reviews.query(caller, ReviewKind.SIGN, "7"))["status"] == "rejected"
        asked = _review("7", 0, "2026-10-02 12:00:00")  # it was taken
        with pytest.raises(Indeterminate):
            await reviews.submit(
                caller, ReviewKind.SIGN, name="签名", content=None, remark="x", vendor_id="7"
            )
        assert [path for path, _ in vendor.requests] == [
            "/sms/query_sign",
            "/sms/modify_sign",
            "/sms/query_sign",
        ]
        assert (await _stored(pool, ReviewKind.SIGN, "7"))["status"] == "pending"
        assert (await poll_reviews(caller)).asked == 1


async def test_a_whole_reply_counts_however_its_connection_ended(pool: Any, tmp_path: Path) -> None:
    def answer(_: str, __: dict[str, str]) -> Answer:
        reply = _review("7", None, "2026-10-02 12:00:00")
        reply.cut, reply.body = len(reply.body), reply.body + b"\n"
        return reply

    async with _pretended(pool, tmp_path, answer) as (caller, vendor):
        row = await reviews.submit(caller, ReviewKind.SIGN, name="签名", content=None, remark="x")
        assert (row["vendor_id"], row["status"]) == ("7", "pending")
        assert len(vendor.requests) == 1


@pytest.mark.parametrize(
    ("answer", "error", "kept", "quarantined"),
    [
        (refusal(10, "签名已存在"), Refused, 1, 0),
        (Answer(b"", 503, {"retry-after": "60"}), Unavailable, 0, 0),
        (Answer(b'{"code":0,"message":"ok"}'), Garbled, 1, 1),
        (Answer(b"<html>oops"), Garbled, 1, 1),
        (Answer(b""), Garbled, 1, 1),
        (Answer(b"no such page", 404), Garbled, 1, 1),
        (Answer(b"", 404), Garbled, 0, 0),
        (Answer(b'{"code":0,"data":{"id":""}}'), Garbled, 1, 1),
    ],
)
async def test_a_no_is_raised_and_its_bytes_are_kept(
    pool: Any, tmp_path: Path, answer: Answer, error: type[Exception], kept: int, quarantined: int
) -> None:
    async with _pretended(pool, tmp_path, lambda *_: answer) as (caller, vendor):
        with pytest.raises(error):
            await reviews.submit(caller, ReviewKind.SIGN, name="签", content=None, remark="x")
        assert len(vendor.requests) == 1
    assert await pool.fetchval("SELECT count(*) FROM records") == kept
    assert await pool.fetchval("SELECT count(*) FROM quarantine") == quarantined
    assert await pool.fetchval("SELECT count(*) FROM reviews") == 0


async def test_a_parser_that_fails_loses_no_reply(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _pretended(pool, tmp_path, lambda *_: _review("7", None, "2026-10-02 12:00:00")) as (
        caller,
        _,
    ):
        with monkeypatch.context() as patched:
            patched.setattr(records, "parse", lambda *_: 1 / 0)
            with pytest.raises(Garbled, match="reading the reply failed: ZeroDivisionError"):
                await reviews.submit(caller, ReviewKind.SIGN, name="签", content=None, remark="x")
        assert await pool.fetchval("SELECT count(*) FROM quarantine") == 1


async def test_the_only_copy_of_a_reply_waits_for_the_database(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, tries = records.store, 0

    async def away_once(*arguments: Any, **keys: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise asyncpg.ConnectionDoesNotExistError
        return await store(*arguments, **keys)

    monkeypatch.setattr(records, "store", away_once)
    async with _pretended(pool, tmp_path, lambda *_: _review("7", None, "2026-10-02 12:00:00")) as (
        caller,
        vendor,
    ):
        row = await reviews.submit(caller, ReviewKind.SIGN, name="签", content=None, remark="x")
        assert (row["vendor_id"], tries, len(vendor.requests)) == ("7", 2, 1)


async def test_a_vendor_without_reviews_is_not_called(pool: Any, tmp_path: Path) -> None:
    async with _pretended(pool, tmp_path, lambda *_: Answer(b""), "sms") as (caller, vendor):
        with pytest.raises(Unsupported):
            await reviews.submit(caller, ReviewKind.SIGN, name="签", content=None, remark="x")
        with pytest.raises(Unsupported):
            await reviews.query(caller, ReviewKind.SIGN, "1")
        assert vendor.requests == []


# --- deletion, and how long decisions are waited for, at a vendor that makes every call ----------------

T0 = datetime(2026, 10, 1, 9, tzinfo=UTC)


def _word(status: str, minute: float | None, kind: ReviewKind = ReviewKind.SIGN) -> ReviewResult:
    return ReviewResult(
        kind=kind,
        vendor_id="7",
        status=ReviewStatus(status),
        vendor_code=status[0],
        reason="资质不符" if status == "rejected" else None,
        created_at=T0,
        updated_at=None if minute is None else T0 + timedelta(minutes=minute),
    )


@both
@pytest.mark.parametrize("known", [True, False])
async def test_a_deleted_one_stays_deleted_and_is_asked_about_no_more(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: ReviewKind, known: bool
) -> None:
    asked = told(_word("approved", 5, kind))

    def answer(path: str, params: dict[str, str]) -> Answer:
        assert params == {"id": "7"}
        # Deleting has no time of the vendor's.
        return told(_word("deleted", None, kind)) if "delete" in path else asked

    async with asking(pool, tmp_path, monkeypatch, answer) as (caller, vendor, _):
        if known:
            await reviews.query(caller, kind, "7")
        row = await reviews.delete(caller, kind, "7")
        assert (row["vendor_id"], row["status"]) == ("7", "deleted")
        assert vendor.requests[-1][0] == f"/main/delete_{kind}"
        assert (await poll_reviews(caller, all_now=True)).asked == 0
        # Whatever is said of it later, or was said before and comes late.
        for late in (_word("pending", 60, kind), _word("rejected", 90, kind)):
            asked = told(late)
            assert (await reviews.query(caller, kind, "7"))["status"] == "deleted"
        assert (await poll_reviews(caller, all_now=True)).asked == 0
        page = await reviewed.reviews(pool, ["main"], kind, status="deleted", cursor=None, limit=10)
        assert [item["vendor_id"] for item in page.items] == ["7"]
        assert await reviews.delete(caller, kind, "7") == page.items[0]
    stored = await pool.fetchrow("SELECT subject FROM records WHERE call = $1", f"delete_{kind}")
    assert stored["subject"] == "7"


async def test_a_deleted_one_is_still_shown_as_what_it_was(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def word(status: ReviewStatus, name: str | None, minute: int | None) -> Answer:
        return told(
            ReviewResult(
                kind=ReviewKind.TEMPLATE,
                vendor_id="7",
                status=status,
                vendor_code="",
                name=name,
                content=name and f"{name}${{code}}",
                remark=name and "通知",
                created_at=T0 if name else None,
                updated_at=None if minute is None else T0 + timedelta(minutes=minute),
            )
        )

    said = [
        word(ReviewStatus.REJECTED, "旧", 1),
        word(ReviewStatus.APPROVED, "新", 5),
        word(ReviewStatus.DELETED, None, None),
    ]
    shown = []
    for order in (said, said[::-1]):
        await pool.execute("TRUNCATE reviews, review_results, records")
        answers = iter(order)
        async with asking(pool, tmp_path, monkeypatch, lambda *_, a=answers: next(a)) as (
            caller,
            _,
            __,
        ):
            for _ in order:
                row = await reviews.query(caller, ReviewKind.TEMPLATE, "7")
        shown.append([row[name] for name in ("status", "name", "content", "remark", "created_at")])
    assert shown == [["deleted", "新", "新${code}", "通知", _after(0)]] * 2


async def test_what_the_vendor_does_not_delete_stands(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = told(_word("pending", 0))
    async with asking(pool, tmp_path, monkeypatch, lambda *_: said) as (caller, _, __):
        before = await reviews.query(caller, ReviewKind.SIGN, "7")
        said = no("5", "在用的签名不能删除")
        with pytest.raises(Refused, match="with 5: 在用的签名不能删除"):
            await reviews.delete(caller, ReviewKind.SIGN, "7")
        said = told(rows=0)
        with pytest.raises(Garbled, match="does not hold what was asked for"):
            await reviews.delete(caller, ReviewKind.SIGN, "7")
        row = await reviewed.review(pool, "main", "sign", "7")
        assert row == before


def _after(minute: float) -> str:
    return (T0 + timedelta(minutes=minute)).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("words", "waits", "submitted", "decided"),
    [
        ([("pending", 0)], [None], 0, None),
        ([("pending", 0), ("approved", 30)], [None, 1800], 0, 30),
        ([("pending", 3), ("pending", 5), ("approved", 30)], [None, None, 1800], 0, 30),
        ([("approved", 30)], [1800], 0, 30),
        ([("pending", 0), ("unknown", 5), ("rejected", 8)], [None, None, 480], 0, 8),
        ([("pending", 0), ("rejected", 8), ("rejected", 9)], [None, 480, 480], 0, 8),
        (
            [("pending", 0), ("rejected", 8), ("pending", 60), ("approved", 61)],
            [None, 480, None, 60],
            60,
            61,
        ),
        ([("pending", 0), ("rejected", 8), ("pending", 60)], [None, 480, None], 60, None),
        ([("pending", 0), ("rejected", 8), ("approved", 61)], [None, 480, None], None, 61),
        ([("pending", 0), ("approved", 8), ("deleted", 90)], [None, 480, None], 0, 8),
        ([("pending", 0), ("deleted", 90)], [None, None], 0, None),
        ([("approved", -5)], [0], 0, -5),
    ],
)
async def test_waiting_is_from_submission_to_decision_each_time(
    pool: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[tuple[str, float]],
    waits: list[int | None],
    submitted: float | None,
    decided: float | None,
) -> None:
    answers = iter([told(_word(status, minute)) for status, minute in words])
    async with asking(pool, tmp_path, monkeypatch, lambda *_: next(answers)) as (caller, _, __):
        for _ in words:
            row = await reviews.query(caller, ReviewKind.SIGN, "7")
    assert [each["waited_seconds"] for each in row["history"]] == waits
    assert row["submitted_at"] == (None if submitted is None else _after(submitted))
    assert row["decided_at"] == (None if decided is None else _after(decided))
    decisions = [
        wait
        for (status, _), wait in zip(words, waits, strict=True)
        if status in ("approved", "rejected")
    ]
    assert row["waited_seconds"] == (None if decided is None else decisions[-1])
    assert [each["reason"] for each in row["history"]] == [
        "资质不符" if status == "rejected" else None for status, _ in words
    ]


async def test_where_the_vendor_gives_no_time_waiting_goes_by_our_clock(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def word(status: ReviewStatus) -> Answer:
        return told(
            ReviewResult(kind=ReviewKind.SIGN, vendor_id="7", status=status, vendor_code="")
        )

    answers = iter([word(ReviewStatus.PENDING), word(ReviewStatus.APPROVED)])
    async with asking(pool, tmp_path, monkeypatch, lambda *_: next(answers)) as (caller, _, __):
        await reviews.query(caller, ReviewKind.SIGN, "7")
        await pool.execute("UPDATE review_results SET received_at = received_at - interval '1 day'")
        row = await reviews.query(caller, ReviewKind.SIGN, "7")
    assert row["waited_seconds"] == pytest.approx(86_400, abs=60)
