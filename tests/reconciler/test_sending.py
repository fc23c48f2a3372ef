"""Sending: once, whatever happens; and every message with its outcome, sooner or later."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count, permutations
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from dialect import DIALECT, settings_of
from pretend import Answer, Vendor, serving

from gateways.gateway import Account, Batch, Call, Callback, Gateway, Reply
from gateways.http import Transport, open_client
from reconciler import ledger, periods, sending, statements
from reconciler.poll import Caller
from reconciler.reading import sent
from reconciler.sending import Request
from runtime import records, settlement
from runtime.records import Record

pytestmark = pytest.mark.anyio

PHONES = [f"1390000000{digit}" for digit in range(10)]


class House:
    """Everything that a send goes through, with a vendor that answers as a test says."""

    def __init__(self, pool: Any, caller: Caller, vendor: Vendor) -> None:
        self.pool = pool
        self.caller = caller
        self.vendor = vendor
        self._pushes = count()

    async def send(self, *phones: str, key: str | None = None, **more: Any) -> dict[str, Any]:
        request = Request(account="api", phones=list(phones), **{"content": "你好", **more})
        return await sending.send(self.caller, request, key, now=datetime.now(UTC))

    async def push(self, id: str, phone: str, **more: Any) -> None:
        """Take a report as the receiver does."""
        body = json.dumps({"id": id, "phone": phone, "n": next(self._pushes), **more}).encode()
        callback = Callback(method="POST", query=b"", headers={}, body=body)
        record = records.of_callback(
            "api", callback, received_at=datetime.now(UTC), peer="192.0.2.1"
        )
        await self.take([record])

    async def take(self, found: Sequence[Record]) -> None:
        async with self.pool.acquire() as connection:
            batch, fresh = await records.store(
                connection, found, recorder="test", now=datetime.now(UTC)
            )
        await self.caller.settle(batch, fresh)

    async def register(self, id: str, phone: str) -> None:
        now = datetime.now(UTC)
        sent = ledger.Sent(account="api", vendor_message_id=id, phone=phone, sent_at=now)
        await ledger.register(self.pool, self.caller.accounts, [sent], now=now)

    async def messages(self, **filters: Any) -> list[dict[str, Any]]:
        async with self.pool.acquire() as connection:
            page = await sent.messages(
                connection, ["api"], sent.Filters(**filters), cursor=None, limit=1000
            )
        return page.items

    async def message(self, id: str) -> dict[str, Any]:
        async with self.pool.acquire() as connection:
            found = await sent.message(connection, self.caller.accounts, UUID(id))
        assert found is not None
        return found

    async def orphans(self) -> int:
        async with self.pool.acquire() as connection:
            row = await connection.fetchrow(
                "SELECT count(*) AS n FROM reports WHERE orphan AND NOT alternate"
            )
        return int(row["n"])

    async def states(self) -> list[str]:
        rows = await self.pool.fetch("SELECT state FROM submissions ORDER BY called_at, seq")
        return [row["state"] for row in rows]


@asynccontextmanager
async def _house(
    pool: Any,
    folder: Path,
    answer: Callable[[str, dict[str, str]], Answer],
    gateway: Gateway = DIALECT,
    **account: Any,
) -> AsyncIterator[House]:
    with serving(answer) as vendor:
        async with open_client() as http:
            read = settings_of(folder, vendor.url, gateway, **account)
            own = read.accounts["api"]
            caller = Caller(
                pool=pool,
                accounts=read.accounts,
                settings=own,
                client=gateway.client(
                    own.account, Transport(http, own.requests_per_second, attempts=1)
                ),
                recorder="test",
            )
            yield House(pool, caller, vendor)


def _json(**told: Any) -> Answer:
    return Answer(json.dumps(told).encode())


def _ids(_path: str, form: dict[str, str]) -> Answer:
    return _json(ids={phone: f"v{phone}" for phone in form["phones"].split(",")})


def _outcomes(done: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    return sorted((m["phone"], m["status"], m["vendor_message_id"]) for m in done["messages"])


async def test_what_the_vendor_takes_is_registered_under_its_ids(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        done = await house.send(*PHONES[:2], sign="【顶想云】", reference="order 7")
        assert done["status"] == "submitted"
        assert done["counts"] == {"submitted": 2, "refused": 0, "indeterminate": 0}
        assert _outcomes(done) == [(phone, "submitted", f"v{phone}") for phone in PHONES[:2]]
        assert {m["id"] for m in done["messages"]} == {
            m["id"] for m in await house.messages(reference="order 7")
        }
        shown = await house.message(done["messages"][0]["id"])
        assert (shown["content"], shown["sign"], shown["segments"]) == ("你好", "顶想云", 1)
        assert shown["sending"]["state"] == "accepted"
        assert shown["sending"]["outcome_by"] == "reply"
        assert shown["sending"]["record"] is not None
        await house.push(f"v{PHONES[0]}", PHONES[0])
        assert [m["status"] for m in await house.messages(phone=PHONES[0])] == ["delivered"]
        assert await pool.fetchval("SELECT count(*) FROM awaiting") == 1


async def test_a_request_is_split_to_what_the_vendor_takes(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, lambda _p, form: _json(task=form["phones"])) as house:
        done = await house.send(*PHONES[:7])
        sizes = sorted(len(form["phones"].split(",")) for _, form in house.vendor.requests)
        assert sizes == [1, 3, 3]
        assert [m["vendor_message_id"].count(m["phone"]) for m in done["messages"]] == [1] * 7


async def test_a_vendor_that_took_fewer_and_not_which_is_noted(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, lambda _p, _f: _json(task="t", taken=1)) as house:
        done = await house.send(*PHONES[:2])
        assert done["counts"]["submitted"] == 2
        shown = await house.message(done["messages"][0]["id"])
        assert shown["sending"]["reason"] == "the vendor says it took 1 of 2, not which"


async def test_a_text_each_goes_in_a_call_each(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        request = Request(
            account="api",
            recipients=[
                sending.Recipient(phone=PHONES[0], content="短"),
                sending.Recipient(phone=PHONES[1], content="长" * 71),
            ],
        )
        done = await sending.send(house.caller, request, None, now=datetime.now(UTC))
        assert sorted(form["texts"] for _, form in house.vendor.requests) == sorted(
            json.dumps([text], ensure_ascii=False) for text in ("短", "长" * 71)
        )
        assert {m["phone"]: m["segments"] for m in done["messages"]} == {PHONES[0]: 1, PHONES[1]: 2}


async def test_a_number_given_twice_is_sent_once_where_the_vendor_cannot_tell_them_apart(
    pool: Any, tmp_path: Path
) -> None:
    async with _house(
        pool,
        tmp_path,
        lambda _p, form: _json(task="t1"),
        dataclasses.replace(DIALECT, id_per_number=False),
    ) as house:
        done = await house.send(PHONES[0], PHONES[1], "+86 " + PHONES[0])
        assert done["duplicates"] == [2]
        assert len(done["messages"]) == 2


async def test_a_number_given_twice_goes_in_another_call_where_the_vendor_can(
    pool: Any, tmp_path: Path
) -> None:
    ids = count()
    async with _house(
        pool,
        tmp_path,
        lambda _p, form: _json(ids={p: f"v{next(ids)}" for p in form["phones"].split(",")}),
        dataclasses.replace(DIALECT, id_per_number=True),
    ) as house:
        done = await house.send(PHONES[0], PHONES[1], PHONES[0])
        assert done["duplicates"] == []
        assert sorted(form["phones"] for _, form in house.vendor.requests) == [
            PHONES[0],
            f"{PHONES[0]},{PHONES[1]}",
        ]
        assert len({m["vendor_message_id"] for m in done["messages"]}) == 3


async def test_a_refusal_is_told_in_the_vendor_s_words_and_ours(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, lambda _p, _f: _json(no="E7")) as house:
        done = await house.send(PHONES[0])
        (message,) = done["messages"]
        assert done["status"] == message["status"] == "refused"
        assert (message["vendor_code"], message["reason"]) == ("E7", "not for 13900000000")
        assert message["explanation"] == "the account is locked"
        assert message["vendor_message_id"] is None
        assert await pool.fetchval("SELECT count(*) FROM quarantine") == 0
        assert await pool.fetchval("SELECT count(*) FROM awaiting") == 0


async def test_numbers_have_outcomes_of_their_own(pool: Any, tmp_path: Path) -> None:
    told = _json(ids={PHONES[0]: "v0"}, refused={PHONES[1]: "E1"})
    async with _house(pool, tmp_path, lambda _p, _f: told) as house:
        done = await house.send(*PHONES[:3])
        assert _outcomes(done) == [
            (PHONES[0], "submitted", "v0"),
            (PHONES[1], "refused", None),
            (PHONES[2], "indeterminate", None),
        ]
        assert done["status"] == "indeterminate"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b'{"ids":{"13900000000":"v0"}}', cut=10),
        Answer(b"<html>so busy</html>"),
        Answer(b"", status=500),
        Answer(b"", status=504),
        Answer(b"nothing here", status=404),
    ],
    ids=["cut", "another shape", "500", "504", "404"],
)
async def test_what_may_have_been_sent_is_never_sent_again(
    pool: Any, tmp_path: Path, answer: Answer
) -> None:
    async with _house(pool, tmp_path, lambda _p, _f: answer) as house:
        done = await house.send(PHONES[0], key="k")
        assert done["status"] == "indeterminate"
        again = await house.send(PHONES[0], key="k")
        assert again["status"] == "indeterminate"
        assert again["replayed"]
        assert len(house.vendor.requests) == 1
        kept = await pool.fetch("SELECT body FROM records")
        expected = [] if not answer.body else [answer.body[: answer.cut]]
        assert [row["body"] for row in kept] == expected
        assert await pool.fetchval("SELECT count(*) FROM quarantine") == len(expected)


@pytest.mark.parametrize("answer", [Answer(b"", status=503), Answer(b"", status=429)])
async def test_what_was_not_sent_is_sent_under_the_same_key_again(
    pool: Any, tmp_path: Path, answer: Answer
) -> None:
    answers = iter([answer])
    async with _house(
        pool, tmp_path, lambda path, form: next(answers, None) or _ids(path, form)
    ) as house:
        with pytest.raises(sending.NothingSent):
            await house.send(PHONES[0], key="k")
        assert [m["status"] for m in await house.messages()] == ["refused"]
        done = await house.send(PHONES[0], key="k")
        assert done["status"] == "submitted"
        assert not done["replayed"]


async def test_no_connection_is_nothing_sent(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids, base_url="http://127.0.0.1:1") as house:
        with pytest.raises(sending.NothingSent, match="cannot be reached"):
            await house.send(PHONES[0])


async def test_one_key_sends_once_however_many_ask_at_once(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        done = await asyncio.gather(*(house.send(*PHONES[:5], key="k") for _ in range(8)))
        assert len(house.vendor.requests) == 2
        assert len({each["id"] for each in done}) == 1
        assert sorted(each["replayed"] for each in done) == [False] + [True] * 7
        assert {each["status"] for each in done} == {"submitted"}


async def test_one_key_is_for_one_request(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        await house.send(PHONES[0], key="k")
        with pytest.raises(sending.KeyReused):
            await house.send(PHONES[1], key="k")
        assert len(house.vendor.requests) == 1


async def test_reports_before_the_reply_are_joined(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        await house.push(f"v{PHONES[0]}", PHONES[0])
        done = await house.send(PHONES[0])
        assert _outcomes(done) == [(PHONES[0], "delivered", f"v{PHONES[0]}")]
        assert await house.orphans() == 0


async def test_a_message_registered_before_the_reply_stands(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        await house.register(f"v{PHONES[0]}", PHONES[0])
        done = await house.send(PHONES[0])
        assert _outcomes(done) == [(PHONES[0], "submitted", f"v{PHONES[0]}")]
        assert len(await house.messages()) == 1


# --- senders that die ---------------------------------------------------------------------------------


async def _die_while_calling(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave one submission being called and one queued, of a sender that is gone."""
    monkeypatch.setattr(sending, "CONCURRENT", 1)
    called = asyncio.Event()

    async def hang(_batch: Batch) -> Reply:
        called.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(house.caller.client, "send", hang)
    work = asyncio.create_task(house.send(*PHONES[:4], key="k"))
    await called.wait()
    for task in asyncio.all_tasks():
        if "_carry_out" in repr(task.get_coro()) or "call_one" in repr(task.get_coro()):
            task.cancel()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    monkeypatch.undo()
    await house.pool.execute("UPDATE sends SET alive_until = now() - interval '1 second'")


async def test_a_dead_sender_s_calls_are_given_up(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        await _die_while_calling(house, monkeypatch)
        assert sorted(await house.states()) == ["calling", "queued"]
        assert {m["status"] for m in await house.messages()} == {"submitting"}
        assert await sending.give_up_dead(pool, house.caller.accounts) == 2
        assert sorted(await house.states()) == ["indeterminate", "nothing"]
        statuses = sorted(m["status"] for m in await house.messages())
        assert statuses == ["indeterminate"] * 3 + ["refused"]
        again = await house.send(*PHONES[:4], key="k")
        assert again["replayed"]
        assert house.vendor.requests == []


async def test_who_is_taken_for_dead_makes_no_call_any_more(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "CONCURRENT", 1)
    async with _house(pool, tmp_path, _ids) as house:
        real = house.caller.client.send

        async def slow(batch: Batch) -> Reply:
            reply = await real(batch)
            await pool.execute("UPDATE sends SET alive_until = now() - interval '1 second'")
            await sending.give_up_dead(pool, house.caller.accounts)
            return reply

        monkeypatch.setattr(house.caller.client, "send", slow)
        done = await house.send(*PHONES[:4])
        # The call under way is answered after all; the one that was queued is not made.
        assert len(house.vendor.requests) == 1
        assert done["counts"] == {"submitted": 3, "refused": 1, "indeterminate": 0}


async def test_a_reply_recorded_by_a_sender_that_died_then_is_settled_by_others(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        await _die_while_calling(house, monkeypatch)
        row = await pool.fetchrow("SELECT id FROM submissions WHERE state = 'calling'")
        body = json.dumps({"ids": {phone: f"v{phone}" for phone in PHONES[:3]}}).encode()
        reply = Reply(call=Call.SEND, headers={}, body=body)
        now = datetime.now(UTC)
        record = records.of_reply("api", reply, subject=str(row["id"]), once=False, received_at=now)
        async with pool.acquire() as connection:
            await records.store(connection, [record], recorder="dead", now=now)
        later = datetime.now(UTC)
        await settlement.settle_left_behind(
            pool, house.caller.accounts, recorded_before=later, now=later
        )
        await sending.give_up_dead(pool, house.caller.accounts)
        statuses = sorted(m["status"] for m in await house.messages())
        assert statuses == ["refused"] + ["submitted"] * 3


# --- what became of those in doubt --------------------------------------------------------------------


async def _in_doubt(house: House, *phones: str) -> list[dict[str, Any]]:
    house.vendor.answer = lambda _p, _f: Answer(b"{", cut=1)
    done = await house.send(*phones)
    assert {m["status"] for m in done["messages"]} == {"indeterminate"}
    found: list[dict[str, Any]] = done["messages"]
    return found


async def test_our_reference_handed_back_identifies_a_message(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        (message,) = await _in_doubt(house, PHONES[0])
        reference = house.vendor.requests[0][1]["references"]
        assert reference == UUID(message["id"]).hex
        await house.push("real", PHONES[1], reference=reference)
        assert (await house.message(message["id"]))["status"] == "indeterminate"
        await house.push("real", PHONES[0], reference=reference)
        moved = await house.message(message["id"])
        assert (moved["status"], moved["vendor_message_id"]) == ("delivered", "real")
        assert moved["sending"]["outcome_by"] == "reference"
        assert moved["id"] != message["id"]
        assert await house.orphans() == 1  # the one that named another number


async def test_a_report_that_can_mean_no_other_identifies_a_message(
    pool: Any, tmp_path: Path
) -> None:
    async with _house(pool, tmp_path, _ids, poll_after_seconds=0) as house:
        message, other = await _in_doubt(house, *PHONES[:2])
        await house.push("real", PHONES[0], at=datetime.now(UTC).isoformat())
        assert (await sending.resolve(house.caller)).final == 1
        assert (await house.message(message["id"]))["status"] == "delivered"
        assert (await house.message(other["id"]))["status"] == "indeterminate"
        assert await house.orphans() == 0


async def test_who_sends_by_another_way_has_time_to_register(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids, poll_after_seconds=600) as house:
        await _in_doubt(house, PHONES[0])
        await house.push("theirs", PHONES[0])
        assert (await sending.resolve(house.caller)).final == 0
        await house.register("theirs", PHONES[0])
        assert sorted(m["status"] for m in await house.messages()) == ["delivered", "indeterminate"]


@pytest.mark.parametrize("what", ["two ids", "two messages", "an old report"])
async def test_what_could_mean_another_identifies_nothing(
    pool: Any, tmp_path: Path, what: str
) -> None:
    async with _house(pool, tmp_path, _ids, poll_after_seconds=0) as house:
        await _in_doubt(house, PHONES[0])
        if what == "two messages":
            await _in_doubt(house, PHONES[0])
        at = datetime.now(UTC) - timedelta(hours=what == "an old report")
        await house.push("one", PHONES[0], at=at.isoformat())
        if what == "two ids":
            await house.push("two", PHONES[0], at=at.isoformat())
        assert (await sending.resolve(house.caller)).final == 0
        assert {m["status"] for m in await house.messages()} == {"indeterminate"}


async def test_a_statement_s_line_identifies_a_message(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        message, other = await _in_doubt(house, *PHONES[:2])
        await house.register("known", PHONES[1])
        day = datetime.now(house.caller.settings.account.zone).date()
        bill = tmp_path / "bill.csv"
        bill.write_text(
            f"vendor_message_id,phone,segments,amount\nbilled,{PHONES[0]},1,0.03\n"
            f"known,{PHONES[1]},1,0.03\n"
        )
        async with pool.acquire() as connection:
            await statements.import_file(
                connection,
                house.caller.settings,
                periods.Period(day, day),
                bill,
                file_name="bill.csv",
                format_name="generic",
                layout=statements.GENERIC_LAYOUT,
                now=datetime.now(UTC),
            )
        moved = await house.message(message["id"])
        assert (moved["status"], moved["vendor_message_id"]) == ("submitted", "billed")
        assert moved["sending"]["outcome_by"] == "statement"
        assert len(moved["statement_lines"]) == 1
        assert (await house.message(other["id"]))["status"] == "indeterminate"


# --- reports that name a message by several ids -------------------------------------------------------


@pytest.mark.parametrize("named", ["batch", "sixth", "single"])
@pytest.mark.parametrize("order", list(permutations(["register", "push", "late"])))
async def test_a_report_is_that_of_whichever_id_is_registered(
    pool: Any, tmp_path: Path, named: str, order: tuple[str, ...]
) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        begun = datetime.now(UTC)
        for step in order:
            if step == "register":
                await house.register(named, PHONES[0])
            else:
                code = "1" if step == "push" else "2"
                await house.push(
                    "batch",
                    PHONES[0],
                    also=["sixth", "single"],
                    code=code,
                    at=(begun + timedelta(seconds=int(code))).isoformat(),
                )
        (message,) = await house.messages()
        assert (message["status"], message["vendor_code"]) == ("delivered", "1")
        assert await house.orphans() == 0
        assert len((await house.message(message["id"]))["reports"]) == 2


async def test_a_report_identifies_a_message_under_the_id_that_its_send_answered(
    pool: Any, tmp_path: Path
) -> None:
    asked: list[tuple[list[str], int]] = []

    def sent_under(names: Sequence[str], numbers: int, _account: Account) -> str:
        asked.append((list(names), numbers))
        return "single"

    gateway = dataclasses.replace(DIALECT, sent_under=sent_under)
    async with _house(pool, tmp_path, _ids, gateway, poll_after_seconds=0) as house:
        await _in_doubt(house, PHONES[0])
        at = datetime.now(UTC).isoformat()
        await house.push("batch", PHONES[0], also=["single", "sixth"], at=at)
        assert (await sending.resolve(house.caller)).final == 1
        assert asked == [(["batch", "single", "sixth"], 1)]
        (message,) = await house.messages()
        assert (message["vendor_message_id"], message["status"]) == ("single", "delivered")
        assert await house.orphans() == 0


async def test_a_report_of_nobody_is_one_orphan(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        await house.push("batch", PHONES[0], also=["sixth", "single"])
        assert await house.orphans() == 1


async def test_nobody_reports_on_a_provisional_id(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        await _in_doubt(house, PHONES[0])
        provisional = await pool.fetchval("SELECT vendor_message_id FROM messages")
        await house.push(provisional, PHONES[0])
        assert [m["status"] for m in await house.messages()] == ["indeterminate"]
        assert (
            await pool.fetchval("SELECT count(*) FROM quarantine WHERE reason LIKE '%begins%'") == 1
        )


async def test_what_a_message_cost_is_kept_as_evidence(pool: Any, tmp_path: Path) -> None:
    async with _house(pool, tmp_path, _ids) as house:
        await house.send(PHONES[0])
        await house.push(f"v{PHONES[0]}", PHONES[0], amount="0.0125")
        (message,) = await house.messages()
        (report,) = (await house.message(message["id"]))["reports"]
        assert report["charge"] == {
            "segments": 1,
            "price": "0.0125",
            "amount": "0.0125",
            "currency": "USD",
        }


# --- what cannot be sent ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"phones": []}, "expected phones"),
        ({"phones": ["13900000000", "abc"]}, r"phones\[1\] is no phone number"),
        ({"content": None}, "content is missing"),
        ({"content": "x" * 10_001}, "content has more than 10000 characters"),
        ({"content": "a\0b"}, "content holds a character that is no text"),
        ({"send_at": datetime(2020, 1, 1, tzinfo=UTC)}, "send_at is over"),
        ({"send_at": datetime(2050, 1, 1)}, "send_at has no offset"),  # noqa: DTZ001
        ({"phones": ["13900000000"] * 10_001}, "at most 10000 numbers"),
        ({"sign": "未知"}, "no approved sign of that name"),
    ],
)
async def test_what_cannot_be_sent_is_said_before_anything_is(
    pool: Any, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    gateway = dataclasses.replace(DIALECT, signs_by_id=True, check_send=lambda _b, _a: ())
    async with _house(pool, tmp_path, _ids, gateway) as house:
        given = {"phones": [PHONES[0]], "content": "你好", **more}
        with pytest.raises(sending.Unfit, match=words) as refused:
            await sending.send(
                house.caller, Request(account="api", **given), None, now=datetime.now(UTC)
            )
        assert "13900000000" not in str(refused.value)
        assert house.vendor.requests == []
        assert await pool.fetchval("SELECT count(*) FROM sends") == 0


async def test_the_vendor_s_own_rules_are_told_whole(pool: Any, tmp_path: Path) -> None:
    gateway = dataclasses.replace(DIALECT, check_send=lambda _b, _a: ("too long", "no template"))
    async with _house(pool, tmp_path, _ids, gateway) as house:
        with pytest.raises(sending.Unfit, match="too long; no template"):
            await house.send(PHONES[0])
