"""Sweeping vendors' lists by time: every page once, and no window left behind."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from every_call import asking, no, settled_on, told
from pretend import Answer

from gateways.events import DeliveryReport, InboundMessage, Status
from gateways.gateway import Call
from huizhi.__main__ import group
from reconciler import lease as leases
from reconciler import ledger
from reconciler.jobs import one_pass
from reconciler.poll import Caller, Done
from reconciler.reading import arrived
from reconciler.sweep import OVERLAP, sweep
from runtime import LeaseLost
from runtime.database import Database
from runtime.settings import Settings

pytestmark = pytest.mark.anyio

PHONE = "13800138000"
both = pytest.mark.parametrize("call", [Call.LIST_SENT, Call.LIST_INBOUND])

Span = tuple[datetime, datetime]


def _row(call: str, number: int) -> Any:
    at = datetime(2026, 10, 2, tzinfo=UTC)
    if call == Call.LIST_INBOUND:
        return InboundMessage(phone=PHONE, content=f"T{number}", sent_at=at)
    return DeliveryReport(
        vendor_message_id=f"m{number}",
        phone=PHONE,
        status=Status.DELIVERED,
        vendor_code="0",
        reported_at=at,
    )


def _listing(count: int, size: int) -> Callable[[str, dict[str, str]], Answer]:
    """A vendor whose lists hold `count` rows in every span, `size` a page."""

    def answer(path: str, params: dict[str, str]) -> Answer:
        call = path.rpartition("/")[2]
        first = int(params["index"]) if "index" in params else (int(params["page"]) - 1) * size
        return told(*(_row(call, n) for n in range(first, min(first + size, count))))

    return answer


def _spans(requests: list[tuple[str, dict[str, str]]]) -> list[Span]:
    found = [
        (datetime.fromisoformat(params["start"]), datetime.fromisoformat(params["end"]))
        for _, params in requests
    ]
    return list(dict.fromkeys(found))


async def _sweep(caller: Caller, call: Any) -> Done:
    async with leases.held(caller.pool, f"test:{call}", holder="me") as lease:
        assert lease is not None
        return await sweep(caller, call, lease)


async def _until(pool: Any, call: str) -> datetime | None:
    until: datetime | None = await pool.fetchval(
        "SELECT swept_until FROM sweeps WHERE account = 'main' AND call = $1", call
    )
    return until


async def _found(pool: Any, call: str) -> int:
    table = "inbound" if call == Call.LIST_INBOUND else "reports"
    count: int = await pool.fetchval(f"SELECT count(*) FROM {table}")
    return count


@both
@pytest.mark.parametrize(
    ("count", "pages"), [(0, 1), (1, 1), (3, 1), (4, 2), (5, 2), (7, 2), (8, 3), (9, 3)]
)
async def test_pages_are_read_until_a_short_one(
    pool: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
    count: int,
    pages: int,
) -> None:
    async with asking(pool, tmp_path, monkeypatch, _listing(count, 4), rows=4) as (
        caller,
        vendor,
        _,
    ):
        done = await _sweep(caller, call)
        assert (done.pages, done.rows, done.failures) == (pages, count, [])
        assert await _found(pool, call) == count
        name, step = ("index", 4) if call == Call.LIST_SENT else ("page", 1)
        first = 0 if call == Call.LIST_SENT else 1
        asked = [int(params[name]) for _, params in vendor.requests]
        assert asked == [first + step * page for page in range(pages)]
    rows = await pool.fetch("SELECT source, call, subject FROM records ORDER BY subject")
    assert {(row["source"], row["call"]) for row in rows} == {("query", call.value)}
    [(start, end)] = _spans(vendor.requests)
    where = "from row 0" if call == Call.LIST_SENT else "page 1"
    assert rows[0]["subject"] == f"{start.isoformat()}..{end.isoformat()} {where}"


async def test_a_vendor_with_lists_of_one_page_is_asked_once(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(pool, tmp_path, monkeypatch, _listing(9, 9)) as (caller, vendor, _):
        assert (await _sweep(caller, Call.LIST_SENT)).rows == 9
        assert len(vendor.requests) == 1


@both
async def test_the_first_window_reaches_back_and_the_next_overlaps(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    keys: Any = {"rows": 4, "poll_until_hours": 5}
    async with asking(pool, tmp_path, monkeypatch, _listing(0, 4), **keys) as (caller, vendor, _):
        before = datetime.now(UTC)
        await _sweep(caller, call)
        [(start, end)] = _spans(vendor.requests)
        assert before <= end <= datetime.now(UTC)
        assert end - start == timedelta(hours=5)
        assert await _until(pool, call) == end
        vendor.requests.clear()
        await _sweep(caller, call)
        [(again, later)] = _spans(vendor.requests)
        assert (again, await _until(pool, call)) == (end - OVERLAP, later)
        other = Call.LIST_SENT if call == Call.LIST_INBOUND else Call.LIST_INBOUND
        assert await _until(pool, other) is None


@pytest.mark.parametrize(("days", "lengths"), [(0, [31, 31, 9]), (28, [28, 28, 15])])
async def test_a_long_absence_is_swept_window_by_window(
    pool: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    lengths: list[int],
) -> None:
    keys: Any = {"rows": 4, "days": days, "poll_until_hours": 71 * 24}
    async with asking(pool, tmp_path, monkeypatch, _listing(5, 4), **keys) as (caller, vendor, _):
        done = await _sweep(caller, Call.LIST_SENT)
        spans = _spans(vendor.requests)
        assert [end - start for start, end in spans] == [timedelta(days=each) for each in lengths]
        assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]
        assert (done.pages, done.rows) == (6, 15)
        assert await _found(pool, Call.LIST_SENT) == 5


@both
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (no("-16", "the time is out of range"), "refused by the vendor with -16"),
        (Answer(b"", 503, {"retry-after": "90"}), "the vendor answered HTTP 503"),
        (Answer(b"<html>"), "not what was agreed on"),
        (told(rows=4, problems=["row 1: no phone"]), "not one row is understood: row 1: no phone"),
    ],
)
async def test_a_failed_page_stops_the_pass_and_is_read_again(
    pool: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
    bad: Answer,
    said: str,
) -> None:
    listing, broken = _listing(9, 4), True

    def answer(path: str, params: dict[str, str]) -> Answer:
        second = params.get("index") == "4" or params.get("page") == "2"
        return bad if broken and second else listing(path, params)

    keys: Any = {"rows": 4, "days": 31, "poll_until_hours": 40 * 24}
    async with asking(pool, tmp_path, monkeypatch, answer, **keys) as (caller, vendor, _):
        done = await _sweep(caller, call)
        [failure] = done.failures
        assert failure.startswith(f"{call}: {said}")
        assert done.refused == ("refused" in said)
        assert done.retry_after_seconds == (90 if "503" in said else 0)
        assert (await _until(pool, call), await _found(pool, call)) == (None, 4)
        assert len(vendor.requests) == 2
        broken = False
        assert (await _sweep(caller, call)).failures == []
        assert await _found(pool, call) == 9


async def test_a_window_read_whole_stays_read_when_a_later_one_fails(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([told(), no("1", "no")])
    keys: Any = {"rows": 4, "days": 31, "poll_until_hours": 40 * 24}
    async with asking(pool, tmp_path, monkeypatch, lambda *_: next(answers), **keys) as (
        caller,
        vendor,
        _,
    ):
        assert len((await _sweep(caller, Call.LIST_SENT)).failures) == 1
        (_, end), _ = _spans(vendor.requests)
        assert await _until(pool, Call.LIST_SENT) == end


async def test_a_vendor_that_turns_no_page_is_not_asked_for_ever(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = told(*(_row(Call.LIST_SENT, number) for number in range(4)))
    async with asking(pool, tmp_path, monkeypatch, lambda *_: full, rows=4) as (caller, vendor, _):
        done = await _sweep(caller, Call.LIST_SENT)
        assert done.failures == ["list_sent: the vendor gives the same page again"]
        assert len(vendor.requests) == 2
        assert await _until(pool, Call.LIST_SENT) is None


async def test_rows_that_are_not_understood_are_quarantined_and_hold_nothing_up(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = told(_row(Call.LIST_SENT, 1), rows=2, problems=["row 2: no id"])
    async with asking(pool, tmp_path, monkeypatch, lambda *_: answer, rows=4) as (caller, _, __):
        assert (await _sweep(caller, Call.LIST_SENT)).failures == []
        assert await _until(pool, Call.LIST_SENT) is not None
    assert await pool.fetchval("SELECT reason FROM quarantine") == "row 2: no id"


async def test_a_replaced_holder_moves_nothing(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        asking(pool, tmp_path, monkeypatch, _listing(1, 4), rows=4) as (caller, vendor, _),
        leases.held(pool, "sweep:main", holder="hung") as hung,
    ):
        assert hung is not None
        await pool.execute("UPDATE leases SET expires_at = now()")
        with pytest.raises(LeaseLost, match="the lease of sweep:main was lost"):
            await sweep(caller, Call.LIST_SENT, hung)
        assert await _until(pool, Call.LIST_SENT) is None
        hung._ends = 0.0
        vendor.requests.clear()
        with pytest.raises(LeaseLost, match="was lost"):
            await sweep(caller, Call.LIST_SENT, hung)
        assert vendor.requests == []


async def _register(pool: Any, read: Settings, *ids: str) -> None:
    now = datetime.now(UTC)
    sent = [
        ledger.Sent(
            account="main",
            vendor_message_id=id,
            phone=PHONE,
            sent_at=now - timedelta(hours=1),
            segments=1,
        )
        for id in ids
    ]
    await ledger.register(pool, read.accounts, sent, now=now)


async def test_by_hand_both_lists_are_read_and_what_was_missed_is_found(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with settled_on(tmp_path, monkeypatch, _listing(3, 4), rows=4) as (vendor, read):
        await _register(pool, read, "m0", "m1")
        [summary] = await one_pass(read, pool, "main")
        assert (summary.failures, summary.pages, summary.rows, summary.final) == ([], 2, 6, 2)
        # A balance is not missing: it is not asked for.
        assert {path for path, _ in vendor.requests} == {"/main/list_sent", "/main/list_inbound"}
        rows = await pool.fetch("SELECT status FROM messages")
        assert [row["status"] for row in rows] == ["delivered", "delivered"]
        assert await _found(pool, Call.LIST_INBOUND) == 3

        async with pool.acquire() as connection:
            page = await arrived.orphans(
                connection, ["main"], since=None, until=None, cursor=None, limit=10
            )
        [orphan] = page.items
        assert (orphan["vendor_message_id"], orphan["phone"]) == ("m2", PHONE)
        assert (orphan["status"], orphan["reports"], orphan["source"]) == ("delivered", 1, "query")

        async with leases.held(pool, "inbound-list:main", holder="serve"):
            [summary] = await one_pass(read, pool, "main", patience_seconds=0)
        assert summary.skipped == ["inbound-list"]


async def test_orphans_are_listed_once_each_by_their_first_report_until_they_are_registered(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = DeliveryReport(
        vendor_message_id="m1", phone=PHONE, status=Status.PENDING, vendor_code="-1"
    )
    pages = iter(
        [
            told(_row("list_sent", 0), pending),
            told(_row("list_sent", 1)),
            told(_row("list_sent", 2)),
        ]
    )

    async def listed(**given: Any) -> list[dict[str, Any]]:
        filters = {"since": None, "until": None, "cursor": None, "limit": 100} | given
        async with pool.acquire() as connection:
            page = await arrived.orphans(connection, ["main", "finch"], **filters)
            rows = page.items
            while page.next is not None and "limit" in given:
                page = await arrived.orphans(
                    connection, ["main"], **filters | {"cursor": page.next}
                )
                rows += page.items
            return rows

    async with asking(pool, tmp_path, monkeypatch, lambda *_: next(pages), rows=4) as (
        caller,
        _,
        read,
    ):
        for _ in range(3):
            await _sweep(caller, Call.LIST_SENT)
        rows = await listed()
        assert rows[0]["vendor_message_id"] == "m2"
        assert {row["vendor_message_id"]: (row["status"], row["reports"]) for row in rows} == {
            "m0": ("delivered", 1),
            "m1": ("delivered", 2),
            "m2": ("delivered", 1),
        }
        assert await listed(limit=1) == rows
        moment = datetime.fromisoformat(rows[0]["received_at"])
        assert await listed(since=moment) == rows[:1]
        assert await listed(until=moment) == rows[1:]
        await _register(pool, read, "m1", "m2")
        assert [row["vendor_message_id"] for row in await listed()] == ["m0"]


def test_what_came_from_handsets_is_listed_as_the_api_lists_it(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def typed(*arguments: str) -> str:
        given = ["--config", str(read.file), *arguments]
        assert group.main(given, prog_name="huizhi", standalone_mode=False) == 0
        return capsys.readouterr().out

    monkeypatch.setenv("DATABASE_URL", database.dsn.reveal())
    with settled_on(tmp_path, monkeypatch, _listing(3, 4), rows=4) as (vendor, read):
        typed("poll", "--account", "main")
        vendor.requests.clear()
        listed = json.loads(typed("inbound", "--output", "json"))
        assert listed["next"] is None
        assert {row["content"] for row in listed["items"]} == {"T0", "T1", "T2"}
        assert list(listed["items"][0]) == list(arrived.INBOUND_COLUMNS)
        # A time without an offset is the account's.
        came = min(datetime.fromisoformat(row["received_at"]) for row in listed["items"])
        later = (came + timedelta(seconds=1)).astimezone(read.accounts["main"].account.zone)
        at = later.strftime("%Y-%m-%d %H:%M:%S")
        for span in (("--to", "2020-01-01"), ("--from", "2100-01-01")):
            found = typed("inbound", "--account", "main", *span, "--output", "json")
            assert json.loads(found)["items"] == []
        found = typed("inbound", "--account", "main", "--to", f"{at}+08:00", "--output", "json")
        assert json.loads(found)["items"] == listed["items"]
        found = typed("inbound", "--account", "main", "--to", at, "--output", "json")
        assert json.loads(found)["items"] == listed["items"]
        assert typed("inbound", "--output", "csv").count("\r\n") == 4
        assert typed("inbound").splitlines()[0].split() == list(arrived.INBOUND_COLUMNS)
        assert vendor.requests == []
