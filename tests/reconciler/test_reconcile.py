"""Reconciliation against an oracle that shares nothing with it, on a real database."""

import csv
import dataclasses
import hashlib
import io
import itertools
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Case, Found, Line, Message, Report, Tariff

from gateways.gateway import Callback
from reconciler import ledger, match, periods, statements
from reconciler.causes import CAUSES
from reconciler.reading import billed, sent
from reconciler.tables import FileError
from runtime import records, settlement
from runtime.database import DATABASE_ERRORS
from runtime.identity import message_id
from runtime.settings import AccountSettings, parse

pytestmark = pytest.mark.anyio

SHANGHAI = ZoneInfo("Asia/Shanghai")
FAR = datetime(2027, 6, 1, tzinfo=UTC)
OCTOBER = (date(2026, 10, 1), date(2026, 10, 31))
SENT = datetime(2026, 10, 5, 12, tzinfo=SHANGHAI)
LATER = SENT + timedelta(seconds=5)
DELIVERED = (Report("delivered", LATER),)
FAILED = (Report("failed", LATER),)
PHONE = "13800138000"
PRICE = Decimal("0.04")
TARIFF = Tariff(date(2026, 1, 1), PRICE, "delivered")
STATUS = {"delivered": 1, "failed": -1, "pending": 0, "unknown": 7}

numbers = itertools.count(1)


@dataclass(frozen=True)
class Sheet:
    """How a statement file is written."""

    headings: Sequence[str] = ("任务ID", "手机号", "计费条数", "金额", "发送时间")
    encoding: str = "utf-8"
    delimiter: str = ","
    ending: str = "\r\n"

    def written(self, lines: Sequence[Line], zone: ZoneInfo) -> bytes:
        """The file whose lines have the numbers of `lines`: between them it is empty."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self.delimiter, lineterminator=self.ending)
        writer.writerow(self.headings)
        at = 2
        for line in lines:
            text.write(self.ending * (line.number - at))
            at = line.number + 1
            writer.writerow(
                (
                    line.id,
                    line.phone or "",
                    line.segments,
                    "" if line.amount is None else format(line.amount, "f"),
                    "" if line.sent_at is None else f"{line.sent_at.astimezone(zone):%F %T}",
                )
            )
        return text.getvalue().encode(self.encoding)


@dataclass(frozen=True)
class World:
    """A case, and in which order and shape it comes to us."""

    case: Case
    sheet: Sheet = Sheet()
    seed: int = 0
    bill_first: bool = False
    reports_first: bool = False


def account(case: Case) -> AccountSettings:
    """The account that a case is about, under a name of its own."""
    tables = [
        f"[[accounts.case-{next(numbers)}.tariffs]]",
        *(
            f'from = {tariff.start}\nprice = "{tariff.price:f}"\n'
            f'currency = "{tariff.currency}"\nbasis = "{tariff.basis}"'
            for tariff in case.tariffs
        ),
    ]
    name = tables[0].split(".")[1]
    text = (
        f'[accounts.{name}]\ngateway = "thinkapi"\ncredentials = {{ app_code = "code" }}\n'
        f'timezone = "{case.zone.key}"\npoll_until_hours = {case.poll_until_hours}\n'
        # Of what is not to be trusted by its time other tests tell.
        "clock_slack_seconds = 31536000\n"
    )
    text += "".join(f"{tables[0]}\n{tariff}\n" for tariff in tables[1:])
    own = parse(text, Path("huizhi.toml"), {}).accounts[name]
    gateway = dataclasses.replace(own.gateway, reports=case.reports)
    return msgspec.structs.replace(own, gateway=gateway)


def push(case: Case, message: Message, report: Report) -> Callback:
    at = None if report.at is None else f"{report.at.astimezone(case.zone):%F %T}"
    sms = {
        "id": message.id,
        "phone": message.phone,
        "status": STATUS[report.status],
        "message": "",
        "receiveDate": at,
    }
    body = json.dumps({"action": "report", "sms": sms}).encode()
    return Callback(method="POST", query=b"", headers={}, body=body)


async def register(pool: Any, own: AccountSettings, messages: Sequence[Message]) -> None:
    name = own.account.name
    rows = [
        ledger.Sent(
            account=name,
            vendor_message_id=message.id,
            phone=message.phone,
            sent_at=message.sent_at,
            segments=message.segments,
        )
        for message in messages
    ]
    await ledger.register(pool, {name: own}, rows, now=FAR)


async def settle(pool: Any, own: AccountSettings, pushes: Sequence[Callback]) -> None:
    name = own.account.name
    found = [records.of_callback(name, one, received_at=FAR, peer="192.0.2.1") for one in pushes]
    settled = await settlement.settle(pool, {name: own}, found, batches=(), now=FAR)
    assert settled.quarantined == 0


async def bill(
    connection: Any,
    own: AccountSettings,
    case: Case,
    folder: Path,
    sheet: Sheet,
    now: datetime = FAR,
) -> statements.Statement:
    file = folder / "bill.csv"
    file.write_bytes(sheet.written(case.lines, case.zone))
    return await statements.import_file(
        connection,
        own,
        periods.Period(case.first, case.last),
        file,
        file_name=file.name,
        format_name="generic",
        layout=statements.GENERIC_LAYOUT,
        now=now,
    )


async def put(pool: Any, connection: Any, world: World, folder: Path) -> AccountSettings:
    """Let all that a case consists of come in."""
    case, order = world.case, random.Random(world.seed)
    own = account(case)
    messages = list(case.messages)
    order.shuffle(messages)
    pushes = [
        push(case, message, report) for message in case.messages for report in message.reports
    ]
    order.shuffle(pushes)
    middle = len(pushes) // 2
    if world.bill_first:
        await bill(connection, own, case, folder, world.sheet)
    if world.reports_first:
        await settle(pool, own, pushes[:middle])
    await register(pool, own, messages[: len(messages) // 2])
    await register(pool, own, messages)  # the first half once more
    await settle(pool, own, pushes[0 if not world.reports_first else middle :])
    await end_sending(connection, own, messages)
    if not world.bill_first:
        await bill(connection, own, case, folder, world.sheet)
    return own


async def end_sending(connection: Any, own: AccountSettings, messages: Sequence[Message]) -> None:
    """Leave messages as our own sending leaves them, those that reports are final about excepted."""
    for message in messages:
        if message.sending is not None:
            await connection.execute(
                "UPDATE messages SET status = $2 WHERE id = $1 AND status = 'submitted'",
                filed_as(own, message),
                message.sending,
            )


def filed_as(own: AccountSettings, message: Message) -> UUID:
    return message_id(own.account.name, message.id, oracle.digits(message.phone))


async def listed(connection: Any, run: str, limit: int = 1000) -> list[dict[str, Any]]:
    """The discrepancies of a run, page by page."""
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = await billed.discrepancies(
            connection, UUID(run), kind=None, cursor=cursor, limit=limit
        )
        assert 0 < len(page.items) <= limit or (not items and page.next is None)
        items += page.items
        if (cursor := page.next) is None:
            return items


def of_items(items: Sequence[dict[str, Any]], hidden: dict[str, str]) -> list[Found]:
    """What was found; `hidden` are the ids of messages that the vendor has given none."""
    return [
        Found(
            item["kind"],
            item["vendor_message_id"] or hidden[item["message_id"]],
            item["phone"],
            item["line"],
            item["segments"],
            Decimal(item["amount"]),
        )
        for item in items
    ]


def as_decimals(value: Any) -> Any:
    """A result with its amounts as Decimals, each of which must be written in the shortest way."""
    if isinstance(value, list):
        return [as_decimals(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    read = {name: as_decimals(inner) for name, inner in value.items()}
    if "amount" in value:
        text = value["amount"]
        read["amount"] = Decimal(text)
        assert "E" not in text
        assert text not in ("-0", "")
        assert "." not in text or text[-1] not in "0."
    return read


def in_order(found: Sequence[Found]) -> list[Found]:
    return sorted(
        found,
        key=lambda one: (oracle.KINDS.index(one.kind), one.id, one.phone or "~", one.line or 0),
    )


def sums_hold(result: dict[str, Any], found: Sequence[Found]) -> None:
    """Everything is in one class, and the amounts of what was found are all of the difference."""
    assert sum(result["messages"].values()) == result["sent"]["messages"]
    assert sum(result["lines"].values()) == result["billed"]["lines"]
    assert oracle.total(one.amount for one in found) == result["difference"]["amount"]
    assert sum(one.segments for one in found) == result["difference"]["segments"]
    kinds = result["discrepancies"]
    assert oracle.total(kind["amount"] for kind in kinds.values()) == result["difference"]["amount"]
    assert sum(kind["count"] for kind in kinds.values()) == len(found)
    causes = result["causes"]
    assert oracle.total(cause["amount"] for cause in causes) == result["difference"]["amount"]
    assert sum(cause["segments"] for cause in causes) == result["difference"]["segments"]
    assert sum(cause["count"] for cause in causes) == len(found)
    assert sum(result["coverage"].values()) == result["sent"]["segments"]


async def reconciled(
    pool: Any, connection: Any, world: World, folder: Path
) -> tuple[dict[str, Any], list[Found]]:
    """What our reconciliation comes to, its amounts as Decimals; raises `match.Impossible`."""
    own = await put(pool, connection, world, folder)
    case = world.case
    period = periods.Period(case.first, case.last)
    result = await match.reconcile(connection, own, period, now=case.now)
    items = await listed(connection, result["id"], limit=3)

    # Again, on another connection, and by two at once: the same bytes, and the same list.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(match, "_MANY_LINES", 0)
        async with pool.acquire() as other:
            again = await match.reconcile(other, own, period, now=case.now, beside=pool.acquire)
    assert again["id"] != result["id"]
    first, second = ({**each, "id": ""} for each in (result, again))
    assert msgspec.json.encode(first) == msgspec.json.encode(second)
    assert items == await listed(connection, again["id"])
    kept = await billed.run(connection, UUID(result["id"]))
    assert kept is not None
    assert {name: kept[name] for name in result} == result

    assert {(item["kind"], item["cause"]) for item in items} == {
        (cause["kind"], cause["cause"]) for cause in result["causes"]
    }
    assert all(item["cause"] in CAUSES[item["kind"]] for item in items)

    compared = as_decimals(result)
    assert compared.pop("account") == own.account.name
    compared.pop("id")
    unsent = [message for message in case.messages if not oracle.known_to_be_sent(message)]
    found = of_items(items, {str(filed_as(own, message)): message.id for message in unsent})
    sums_hold(compared, found)
    # Which message each is about, and which it cannot be about.
    by_key = {
        (message.id, oracle.digits(message.phone))
        for message in case.messages
        if message not in unsent
    }
    for item in items:
        assert (item["message_id"] is not None) == (
            item["vendor_message_id"] is None
            or (item["vendor_message_id"], item["phone"]) in by_key
        )
    return compared, found


# --- the nine kinds, one by one ----------------------------------------------------------------------


def message(id: str = "a", segments: int = 1, **given: Any) -> Message:
    return Message(
        id, **{"phone": PHONE, "sent_at": SENT, "reports": DELIVERED, **given}, segments=segments
    )


def line(
    number: int, id: str = "a", segments: int = 1, amount: str | None = "0.04", **given: Any
) -> Line:
    exact = None if amount is None else Decimal(amount)
    return Line(number, id, **{"phone": PHONE, **given}, segments=segments, amount=exact)


def case(
    messages: Sequence[Message],
    lines: Sequence[Line],
    tariffs: Sequence[Tariff] = (TARIFF,),
    **given: Any,
) -> Case:
    common = {
        "zone": SHANGHAI,
        "first": OCTOBER[0],
        "last": OCTOBER[1],
        "now": FAR,
        "poll_until_hours": 72,
    }
    return Case(
        tariffs=tuple(tariffs), messages=tuple(messages), lines=tuple(lines), **{**common, **given}
    )


Run = Any  # from a case to its result, compared with the oracle's, and what was found


@pytest.fixture
def run(pool: Any, connection: Any, tmp_path: Path) -> Run:
    async def run(case: Case) -> tuple[dict[str, Any], list[Found]]:
        result, found = await reconciled(pool, connection, World(case), tmp_path)
        expected, oracles = oracle.reconcile(case)
        assert (result, found) == (expected, in_order(oracles))
        return result, found

    return run


def found(kind: str, line: int | None, segments: int, amount: str, id: str = "a") -> Found:
    return Found(kind, id, PHONE, line, segments, Decimal(amount))


SUBMITTED = replace(TARIFF, basis="submitted")
SEPTEMBER = datetime(2026, 9, 30, 23, 59, 59, tzinfo=SHANGHAI)


async def test_bill_that_is_right_is_balanced(run: Run) -> None:
    result, nothing = await run(
        case([message(), message("b", 2)], [line(2), line(3, "b", 2, "0.08")])
    )
    assert nothing == []
    assert result["status"] == "balanced"
    assert result["discrepancies"] == {}
    assert result["owed"] == {"messages": 2, "segments": 3, "amount": Decimal("0.12")}
    assert result["difference"] == {"segments": 0, "amount": 0}
    assert result["messages"]["matched"] == result["lines"]["matched"] == 2


async def test_billed_not_sent(run: Run) -> None:
    result, wrong = await run(case([message()], [line(2), line(3, "nobody", 2, "0.08")]))
    assert wrong == [found("billed_not_sent", 3, 2, "0.08", "nobody")]
    assert (result["status"], result["lines"]) == ("discrepant", {"matched": 1, "discrepant": 1})


@pytest.mark.parametrize(
    "reports", [FAILED, (), (Report("pending", LATER),), (Report("unknown", LATER),)]
)
async def test_billed_not_delivered(run: Run, reports: tuple[Report, ...]) -> None:
    waiting = SENT + timedelta(hours=1)
    undelivered = message(reports=reports)
    result, wrong = await run(case([undelivered], [line(2)], now=waiting))
    assert wrong == [found("billed_not_delivered", 2, 1, "0.04")]
    assert result["owed"] == {"messages": 0, "segments": 0, "amount": 0}
    # Charged by what is submitted, the same line is right.
    _, wrong = await run(case([undelivered], [line(2)], [SUBMITTED], now=waiting))
    assert wrong == []


async def test_billed_twice(run: Run) -> None:
    result, wrong = await run(case([message()], [line(2), line(3), line(4, amount="9")]))
    assert wrong == [found("billed_twice", 3, 1, "0.04"), found("billed_twice", 4, 1, "9")]
    assert result["messages"] == {"matched": 0, "discrepant": 1, "not_billed": 0, "not_charged": 0}
    assert result["lines"] == {"matched": 1, "discrepant": 2}


async def test_billed_out_of_period(run: Run) -> None:
    result, wrong = await run(case([message(sent_at=SEPTEMBER)], [line(2)]))
    assert wrong == [found("billed_out_of_period", 2, 1, "0.04")]
    assert result["sent"] == {"messages": 0, "segments": 0}
    assert sum(result["messages"].values()) == 0


async def test_segments_differ(run: Run) -> None:
    _, wrong = await run(case([message(segments=1)], [line(2, segments=3, amount="0.12")]))
    assert wrong == [found("segments_differ", 2, 2, "0.08")]
    _, wrong = await run(case([message(segments=3)], [line(2, segments=1, amount="0.04")]))
    assert wrong == [found("segments_differ", 2, -2, "-0.08")]


async def test_price_differs(run: Run) -> None:
    _, wrong = await run(case([message()], [line(2, amount="0.040000000001")]))
    assert wrong == [found("price_differs", 2, 0, "0.000000000001")]
    _, wrong = await run(case([message()], [line(2, amount="-0.04")]))
    assert wrong == [found("price_differs", 2, 0, "-0.08")]


async def test_not_billed(run: Run) -> None:
    result, wrong = await run(case([message(segments=2), message("b")], [line(2, "b")]))
    assert wrong == [found("not_billed", None, -2, "-0.08")]
    assert result["messages"] == {"matched": 1, "discrepant": 0, "not_billed": 1, "not_charged": 0}


async def test_neither_owed_nor_billed_is_not_charged(run: Run) -> None:
    result, wrong = await run(case([message(reports=FAILED), message("b")], [line(2, "b")]))
    assert wrong == []
    assert result["messages"] == {"matched": 1, "discrepant": 0, "not_billed": 0, "not_charged": 1}


async def test_reports_contradict(run: Run) -> None:
    result, wrong = await run(
        case(
            [message(reports=(Report("failed", LATER + timedelta(hours=1)), *DELIVERED))], [line(2)]
        )
    )
    assert wrong == [found("reports_contradict", None, 0, "0")]
    # Evidence, not money: what its line makes of it, it stays.
    assert result["messages"]["matched"] == result["lines"]["matched"] == 1
    assert result["status"] == "discrepant"


async def test_report_missing(run: Run) -> None:
    silent = message(reports=(Report("pending", LATER),))
    due = SENT + timedelta(hours=72)
    result, wrong = await run(case([silent, message("b")], [line(2, "b")], now=due))
    assert wrong == [found("report_missing", None, 0, "0")]
    assert result["messages"]["not_charged"] == 1
    assert result["unresolved"]["report_missing"] == 1
    before = due - timedelta(microseconds=1)
    result, wrong = await run(case([silent, message("b")], [line(2, "b")], now=before))
    assert (wrong, result["status"]) == ([], "balanced")


async def test_segments_and_price_can_differ_on_one_line(run: Run) -> None:
    result, wrong = await run(case([message(segments=2)], [line(2, segments=3, amount="0.14")]))
    assert wrong == [
        found("segments_differ", 2, 1, "0.04"),
        found("price_differs", 2, 0, "0.02"),
    ]
    assert result["lines"] == {"matched": 0, "discrepant": 1}


# --- messages that Huizhi sends itself ---------------------------------------------------------------

Sending = Literal["submitting", "indeterminate"]
BASES = pytest.mark.parametrize("tariff", [TARIFF, SUBMITTED], ids=["delivered", "submitted"])


@BASES
async def test_refused_message_was_never_sent(run: Run, tariff: Tariff) -> None:
    refused = message("~b", segments=5, reports=(), sending="refused")
    result, wrong = await run(case([message(), refused], [line(2)], [tariff]))
    assert (wrong, result["status"]) == ([], "balanced")
    assert result["sent"] == {"messages": 1, "segments": 1}
    assert result["messages"] == {"matched": 1, "discrepant": 0, "not_billed": 0, "not_charged": 0}


async def test_refused_message_needs_no_tariff(run: Run) -> None:
    refused = message("~b", sent_at=SENT - timedelta(days=1), reports=(), sending="refused")
    _, wrong = await run(
        case([message(), refused], [line(2)], [replace(TARIFF, start=SENT.date())])
    )
    assert wrong == []


@BASES
@pytest.mark.parametrize("sending", ["submitting", "indeterminate"])
async def test_message_that_may_have_been_sent_is_not_charged_and_in_time_its_report_is_missing(
    run: Run, tariff: Tariff, sending: Sending
) -> None:
    open_ended = message("~b", segments=5, reports=(), sending=sending)
    due = SENT + timedelta(hours=72)
    result, wrong = await run(case([message(), open_ended], [line(2)], [tariff], now=due))
    assert wrong == [found("report_missing", None, 0, "0", "~b")]
    assert result["sent"] == {"messages": 2, "segments": 6}
    assert result["owed"] == {"messages": 1, "segments": 1, "amount": Decimal("0.04")}
    assert result["messages"] == {"matched": 1, "discrepant": 0, "not_billed": 0, "not_charged": 1}
    before = due - timedelta(microseconds=1)
    result, wrong = await run(case([message(), open_ended], [line(2)], [tariff], now=before))
    assert (wrong, result["status"]) == ([], "balanced")


@BASES
@pytest.mark.parametrize("sending", ["submitting", "indeterminate", "refused"])
async def test_no_line_is_for_a_message_that_nobody_knows_to_have_been_sent(
    run: Run, tariff: Tariff, sending: Literal["submitting", "indeterminate", "refused"]
) -> None:
    lines = [line(2), line(3, phone=None)]
    waiting = SENT + timedelta(hours=1)
    unsent = message(reports=(), sending=sending)
    _, wrong = await run(case([unsent], lines, [tariff], now=waiting))
    assert wrong == [
        found("billed_not_sent", 2, 1, "0.04"),
        Found("billed_not_sent", "a", None, 3, 1, PRICE),
    ]


async def test_final_report_proves_that_a_message_was_sent(run: Run) -> None:
    result, wrong = await run(case([message(sending="indeterminate")], [line(2)]))
    assert (wrong, result["messages"]["matched"]) == ([], 1)


async def test_provisional_id_is_shown_to_nobody_and_still_finds_its_message(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    unsent = message("~f00d", reports=(), sending="indeterminate")
    own = await put(pool, connection, World(case([message(), unsent], [line(2)])), tmp_path)
    name = own.account.name
    result = await match.reconcile(connection, own, periods.Period(*OCTOBER), now=FAR)
    (missing,) = await listed(connection, result["id"])
    assert (missing["kind"], missing["vendor_message_id"]) == ("report_missing", None)
    assert missing["message_id"] == str(filed_as(own, unsent))

    by_id = sent.Filters(vendor_message_id="~f00d")
    (shown,) = (await sent.messages(connection, [name], by_id, cursor=None, limit=10)).items
    assert (shown["id"], shown["vendor_message_id"]) == (missing["message_id"], None)
    whole = await sent.message(connection, {name: own}, UUID(shown["id"]))
    assert whole is not None
    assert (whole["vendor_message_id"], whole["status"]) == (None, "indeterminate")
    every = await sent.messages(connection, [name], sent.Filters(), cursor=None, limit=10)
    assert {each["vendor_message_id"] for each in every.items} == {"a", None}


# --- vendors that report nothing ---------------------------------------------------------------------


async def test_accepted_is_charged_for_where_no_more_can_be_known(
    pool: Any, connection: Any, tmp_path: Path, run: Run
) -> None:
    accepted = message(reports=()), message("b", segments=2, reports=())
    silent = case(accepted, [line(2)], reports=False)
    result, wrong = await run(silent)
    assert wrong == [found("not_billed", None, -2, "-0.08", "b")]
    assert result["owed"] == {"messages": 2, "segments": 3, "amount": Decimal("0.12")}
    assert result["messages"] == {"matched": 1, "discrepant": 0, "not_billed": 1, "not_charged": 0}
    assert list(result["unresolved"].items()) == [
        ("report_missing", 0),
        ("orphans", 0),
        ("quarantined", 0),
        ("suspects", 0),
        ("accepted_is_last_known", 2),
    ]

    own = await put(pool, connection, World(silent), tmp_path)
    kept = await match.reconcile(connection, own, periods.Period(*OCTOBER), now=FAR)
    rules = (await billed.run(connection, UUID(kept["id"])) or {})["rules"]
    assert rules["accepted_is_last_known"] is True


@pytest.mark.parametrize("sending", ["submitting", "indeterminate", "refused"])
async def test_where_no_more_can_be_known_only_what_was_taken_is_charged_for(
    run: Run, sending: Literal["submitting", "indeterminate", "refused"]
) -> None:
    unsent = message("~b", reports=(), sending=sending)
    result, wrong = await run(case([message(reports=()), unsent], [line(2)], reports=False))
    assert (wrong, result["status"]) == ([], "balanced")
    assert result["owed"]["messages"] == 1
    assert result["messages"]["not_charged"] == (sending != "refused")
    assert result["unresolved"]["accepted_is_last_known"] == 1


async def test_message_says_that_accepted_is_the_last_that_can_be_known(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    notes = {}
    for reports in (True, False):
        silent = message(reports=())
        own = await put(
            pool, connection, World(case([silent], [line(2)], reports=reports)), tmp_path
        )
        name, id = own.account.name, filed_as(own, silent)
        shown = await sent.message(connection, {name: own}, id)
        assert shown is not None
        notes[reports] = shown["notes"]
        await settle(pool, own, [push(case([], []), silent, DELIVERED[0])])
        shown = await sent.message(connection, {name: own}, id)
        assert shown is not None
        assert (shown["status"], shown["notes"]) == ("delivered", [])
    assert notes[True] == []
    (said,) = notes[False]
    assert "reports nothing: that it took the message is the last that can be known" in said


# --- which kind, where several would do --------------------------------------------------------------


async def test_second_line_of_an_undelivered_message_is_not_delivered_before_it_is_twice(
    run: Run,
) -> None:
    _, wrong = await run(case([message(reports=FAILED)], [line(2), line(3, segments=9)]))
    assert wrong == [
        found("billed_not_delivered", 2, 1, "0.04"),
        found("billed_not_delivered", 3, 9, "0.04"),
    ]


async def test_undelivered_message_of_another_period_is_not_delivered_before_it_is_out_of_period(
    run: Run,
) -> None:
    _, wrong = await run(case([message(reports=FAILED, sent_at=SEPTEMBER)], [line(2, amount="7")]))
    assert wrong == [found("billed_not_delivered", 2, 1, "7")]


async def test_second_line_of_another_periods_message_is_twice_before_it_is_out_of_period(
    run: Run,
) -> None:
    _, wrong = await run(case([message(sent_at=SEPTEMBER)], [line(2), line(3, segments=2)]))
    assert wrong == [
        found("billed_twice", 3, 2, "0.04"),
        found("billed_out_of_period", 2, 1, "0.04"),
    ]


async def test_line_of_the_first_four_kinds_has_no_other(run: Run) -> None:
    off: dict[str, Any] = {"segments": 5, "amount": "1"}
    _, wrong = await run(
        case(
            [message(), message("b", reports=FAILED), message("c", sent_at=SEPTEMBER)],
            [
                line(2),
                line(3, **off),
                line(4, "b", **off),
                line(5, "c", **off),
                line(6, "d", **off),
            ],
        )
    )
    assert [(one.kind, one.line) for one in wrong] == [
        ("billed_not_sent", 6),
        ("billed_not_delivered", 4),
        ("billed_twice", 3),
        ("billed_out_of_period", 5),
    ]


async def test_basis_is_that_of_the_day_of_sending_also_outside_the_period(run: Run) -> None:
    tariffs = [SUBMITTED, replace(TARIFF, start=OCTOBER[0])]
    lines = [line(2), line(3, "b")]
    _, wrong = await run(
        case(
            [message(reports=FAILED, sent_at=SEPTEMBER), message("b", reports=FAILED)],
            lines,
            tariffs,
        )
    )
    assert wrong == [
        found("billed_not_delivered", 3, 1, "0.04", "b"),
        found("billed_out_of_period", 2, 1, "0.04"),
    ]


async def test_line_without_a_phone_is_the_one_messages_that_its_id_names(run: Run) -> None:
    _, wrong = await run(
        case(
            [message(), message("b")],
            [line(2, phone=None), line(3), line(4, "b", phone=None), line(5, "c", phone=None)],
        )
    )
    assert wrong == [
        Found("billed_not_sent", "c", None, 5, 1, PRICE),
        found("billed_twice", 3, 1, "0.04"),
    ]


async def test_line_without_an_amount_has_our_price_of_the_day(run: Run) -> None:
    dearer = Tariff(date(2026, 10, 15), Decimal("0.05"), "delivered")
    late = datetime(2026, 10, 15, tzinfo=SHANGHAI)
    result, wrong = await run(
        case(
            [message(), message("b", sent_at=late), message("c", sent_at=late)],
            [
                line(2, amount=None),
                line(3, "b", 2, amount=None),
                line(4, "b", amount=None),
                line(5, "nobody", amount=None),
                line(6, "nobody", amount=None, sent_at=late),
            ],
            [TARIFF, dearer],
        )
    )
    assert wrong == [
        found("billed_not_sent", 5, 1, "0.04", "nobody"),
        found("billed_not_sent", 6, 1, "0.05", "nobody"),
        found("billed_twice", 4, 1, "0.05", "b"),
        found("segments_differ", 3, 1, "0.05", "b"),
        found("not_billed", None, -1, "-0.05", "c"),
    ]
    assert result["billed"]["amount"] == Decimal("0.28")


async def test_tariff_changes_at_midnight_of_the_accounts_zone(run: Run) -> None:
    change = Tariff(date(2026, 10, 15), Decimal("1"), "delivered")
    midnight = datetime(2026, 10, 14, 16, tzinfo=UTC)
    before = midnight - timedelta(microseconds=1)
    result, wrong = await run(
        case(
            [message(sent_at=before), message("b", sent_at=midnight)],
            [line(2), line(3, "b", amount="1")],
            [TARIFF, change],
        )
    )
    assert wrong == []
    assert result["owed"]["amount"] == Decimal("1.04")


async def test_sums_keep_every_digit(run: Run) -> None:
    tiny = replace(TARIFF, price=Decimal("0.000000001"))
    result, _ = await run(
        case([message()], [line(2), line(3, amount="99999999999999999.999999999999")], [tiny])
    )
    assert result["billed"]["amount"] == Decimal("100000000000000000.039999999999")
    assert result["difference"]["amount"] == Decimal("100000000000000000.039999998999")


# --- the rest of the result --------------------------------------------------------------------------


async def test_what_is_unresolved_is_the_accounts_own(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    own = await put(pool, connection, World(case([message()], [line(2)])), tmp_path)
    stranger = replace(message("nobody"), reports=(*DELIVERED, Report("failed", LATER)))
    pushes = [push(case([], []), stranger, report) for report in stranger.reports]
    await settle(pool, own, pushes)
    body = Callback(method="POST", query=b"", headers={}, body=b"no JSON")
    for name in (own.account.name, "other"):
        record = records.of_callback(name, body, received_at=FAR, peer="192.0.2.1")
        await settlement.settle(pool, {}, [record], batches=(), now=FAR)
    october = periods.Period(*OCTOBER)
    result = await match.reconcile(connection, own, october, now=FAR)
    # Two reports on one message that nobody registered are one orphan, and no discrepancy.
    assert result["unresolved"] == {
        "report_missing": 0,
        "orphans": 1,
        "quarantined": 1,
        "suspects": 0,
    }
    assert result["status"] == "balanced"


async def test_evidence_that_comes_later_changes_the_next_run_and_never_a_kept_one(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    world = World(case([message(reports=())], [line(2), line(3, "b")]))
    own = await put(pool, connection, world, tmp_path)
    october = periods.Period(*OCTOBER)
    result = await match.reconcile(connection, own, october, now=FAR)
    items = await listed(connection, result["id"])
    assert [item["kind"] for item in items] == [
        "billed_not_sent",
        "billed_not_delivered",
        "report_missing",
    ]

    await settle(pool, own, [push(world.case, message(), DELIVERED[0])])
    await register(pool, own, [message("b", segments=2)])
    later = await match.reconcile(connection, own, october, now=SENT + timedelta(hours=1))
    assert [item["kind"] for item in await listed(connection, later["id"])] == [
        "billed_not_delivered"
    ]

    kept = await billed.run(connection, UUID(result["id"]))
    assert kept is not None
    root = Path(match.__file__).parent.parent
    rules = ("sql/queries/reconcile.sql", "reconciler/causes.py", "gateways/segments.py")
    assert kept["rules"] == {
        "rules_version": hashlib.sha256(
            b"".join((root / name).read_bytes() for name in rules)
        ).hexdigest(),
        "statement_version": 1,
        "timezone": "Asia/Shanghai",
        "poll_until_hours": 72.0,
        "segment_rule": "domestic",
        "segment_unit": "utf16",
        "tariffs": [
            {"from": "2026-01-01", "price": "0.04", "currency": "CNY", "basis": "delivered"}
        ],
    }
    assert {name: kept[name] for name in result} == result
    assert await listed(connection, result["id"]) == items


async def test_corrected_statement_takes_the_place_of_the_old_which_stays_readable(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    wrong, right = case([message()], [line(2, amount="1")]), case([message()], [line(2)])
    own = await put(pool, connection, World(wrong), tmp_path)
    october = periods.Period(*OCTOBER)
    before = await match.reconcile(connection, own, october, now=FAR)
    assert before["discrepancies"]["price_differs"]["amount"] == "0.96"

    corrected = await bill(connection, own, right, tmp_path, Sheet(), now=FAR + timedelta(days=1))
    assert (corrected.version, corrected.duplicate_of) == (2, None)
    after = await match.reconcile(connection, own, october, now=FAR)
    assert after["status"] == "balanced"

    # The old file again is known already: it does not become the newest once more.
    again = await bill(connection, own, wrong, tmp_path, Sheet(), now=FAR + timedelta(days=2))
    assert (again.version, again.duplicate_of) == (1, again.id)
    assert (await match.reconcile(connection, own, october, now=FAR))["status"] == "balanced"

    name = own.account.name
    listed = await billed.statements(connection, name, cursor=None, limit=10)
    assert [(one["version"], one["amount"]) for one in listed.items] == [(2, "0.04"), (1, "1")]
    (shown,) = (
        await sent.messages(connection, [name], sent.Filters(), cursor=None, limit=10)
    ).items
    whole = await sent.message(connection, {name: own}, UUID(shown["id"]))
    assert whole is not None
    assert [(one["version"], one["amount"]) for one in whole["statement_lines"]] == [
        (1, "1"),
        (2, "0.04"),
    ]
    assert [(one["reconciliation_id"], one["kind"]) for one in whole["discrepancies"]] == [
        (before["id"], "price_differs")
    ]


async def test_statement_counts_for_its_own_period_only(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    half = case([message()], [line(2)], last=date(2026, 10, 15))
    own = await put(pool, connection, World(half), tmp_path)
    with pytest.raises(match.Impossible, match="no statement for 2026-10: import it first"):
        await match.reconcile(connection, own, periods.Period(*OCTOBER), now=FAR)
    first_half = periods.Period(half.first, half.last)
    result = await match.reconcile(connection, own, first_half, now=FAR)
    assert (result["period"], result["status"]) == ("2026-10-01..2026-10-15", "balanced")


# --- what cannot be reconciled -----------------------------------------------------------------------

DOLLARS = Tariff(date(2026, 10, 15), Decimal("0.01"), "delivered", "USD")
NOON = SENT.replace(day=14)


@pytest.mark.parametrize(
    ("impossible", "said"),
    [
        (
            case([message()], [line(2)], []),
            "has no tariff for 2026-10-01: the settings give it none",
        ),
        (
            case(
                [message(), message("b", sent_at=NOON)],
                [line(2)],
                [replace(TARIFF, start=date(2026, 10, 6))],
            ),
            "has no tariff for 2026-10-05, when it sent messages",
        ),
        (
            case([message()], [line(2)], [TARIFF, DOLLARS]),
            "has tariffs in CNY and USD within 2026-10: reconcile the days of each currency",
        ),
        (
            case(
                [message(sent_at=SEPTEMBER)],
                [line(4, amount=None)],
                [replace(TARIFF, start=OCTOBER[0])],
            ),
            "statement for 2026-10: line 4 has no amount, and its day, 2026-09-30, no tariff in CNY",
        ),
        (
            case(
                [], [line(2), line(3, "b", amount=None)], [replace(TARIFF, start=date(2026, 10, 2))]
            ),
            "statement for 2026-10: line 3 has no amount, and its day, 2026-10-01, no tariff in CNY",
        ),
        (
            case(
                [message(sent_at=SEPTEMBER)],
                [line(2, amount=None)],
                [replace(TARIFF, currency="USD"), replace(TARIFF, start=OCTOBER[0])],
            ),
            "statement for 2026-10: line 2 has no amount, and its day, 2026-09-30, no tariff in CNY",
        ),
    ],
    ids=[
        "no tariffs",
        "day",
        "currencies",
        "line",
        "unknown message's line",
        "other currency's line",
    ],
)
async def test_what_is_missing_is_said_in_one_line_and_nothing_is_kept(
    pool: Any, connection: Any, tmp_path: Path, impossible: Case, said: str
) -> None:
    own = await put(pool, connection, World(impossible), tmp_path)
    period = periods.Period(impossible.first, impossible.last)
    with pytest.raises(match.Impossible) as raised:
        await match.reconcile(connection, own, period, now=FAR)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert await connection.fetchval("SELECT count(*) FROM runs") == 0
    assert await connection.fetchval("SELECT count(*) FROM discrepancies") == 0
    with pytest.raises(oracle.Impossible) as oracles:
        oracle.reconcile(impossible)
    assert oracles.value.named_in(str(raised.value))


async def test_run_whose_second_connection_breaks_keeps_nothing_and_can_be_made_again(
    pool: Any, connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match, "_MANY_LINES", 0)
    own = await put(pool, connection, World(case([message()], [line(2)])), tmp_path)
    october = periods.Period(*OCTOBER)

    @asynccontextmanager
    async def broken() -> AsyncIterator[Any]:
        async with pool.acquire() as other:
            other.terminate()
            yield other

    with pytest.raises(DATABASE_ERRORS):
        await match.reconcile(connection, own, october, now=FAR, beside=broken)
    assert await connection.fetchval("SELECT count(*) FROM runs") == 0
    done = await match.reconcile(connection, own, october, now=FAR, beside=pool.acquire)
    assert done["messages"]["matched"] == 1


async def test_currencies_of_other_periods_are_no_matter(run: Run) -> None:
    until = {"last": date(2026, 10, 14)}
    result, wrong = await run(case([message()], [line(2)], [TARIFF, DOLLARS], **until))
    assert (result["currency"], wrong) == ("CNY", [])
    from_then = {"first": date(2026, 10, 15)}
    result, wrong = await run(case([message()], [line(2)], [TARIFF, DOLLARS], **from_then))
    assert result["currency"] == "USD"
    assert [one.kind for one in wrong] == ["billed_out_of_period"]


async def test_line_without_a_phone_that_has_come_to_name_several_messages_stops_the_run(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    unclear = case([message()], [line(2), line(3, phone=None)])
    own = await put(pool, connection, World(unclear), tmp_path)
    await register(pool, own, [message(phone="13900139000")])
    with pytest.raises(match.Impossible, match="line 3 has no phone and its id names several"):
        await match.reconcile(connection, own, periods.Period(*OCTOBER), now=FAR)
    corrected = replace(unclear, lines=(line(2), line(4, phone=None)))
    with pytest.raises(FileError, match=r"bill.csv: line 4: has no phone and its id names several"):
        await bill(connection, own, corrected, tmp_path, Sheet())
    assert await connection.fetchval("SELECT count(*) FROM statements") == 1
    assert await connection.fetchval("SELECT count(*) FROM lines") == 2


async def test_tariff_from_the_beginning_of_time_holds(run: Run) -> None:
    _, wrong = await run(case([message()], [line(2)], [replace(TARIFF, start=date(1, 1, 1))]))
    assert wrong == []


# --- everything at once, generated -------------------------------------------------------------------

IDS = ("a", "b", "任务-1", "635303e52052", "007", "=x", "-1")
NUMBERS = ("13800138000", "13900139000", "12025550100", "10690001", "85291234567")
SPELLINGS = {
    "13800138000": ("13800138000", "+8613800138000", "0086 138-0013-8000", "8613800138000"),
    "12025550100": ("12025550100", "+1 (202) 555-0100", "0012025550100"),
}
PERIODS = (
    (SHANGHAI, *OCTOBER),
    (SHANGHAI, date(2026, 10, 1), date(2026, 10, 15)),
    (ZoneInfo("America/New_York"), date(2026, 11, 1), date(2026, 11, 30)),  # 25 hours on the 1st
    (ZoneInfo("Europe/Berlin"), date(2026, 10, 25), date(2026, 10, 25)),  # 25 hours, and no others
    (ZoneInfo("America/Santiago"), date(2026, 9, 6), date(2026, 9, 30)),  # begins at 01:00
    (ZoneInfo("Pacific/Kiritimati"), date(2027, 1, 1), date(2027, 1, 31)),  # +14:00
)
HEADINGS = (
    ("任务ID", "手机号", "计费条数", "金额", "发送时间"),
    ("vendor_message_id", "phone", "segments", "amount", "sent_at"),
    ("TaskID", "Mobile", " 条数 ", "金额(元)", "提交时间"),
)
prices = st.sampled_from(
    [Decimal(text) for text in ("0.035", "0.04", "0", "1", "0.000000001", "999999999.999999999")]
)
tiny = st.sampled_from([timedelta(0), timedelta(microseconds=1), timedelta(seconds=1)])


@st.composite
def worlds(draw: st.DrawFn) -> World:
    zone, first, last = draw(st.sampled_from(PERIODS))
    tariffs = draw(tariffs_of(first, last))
    edges = [midnight(day, zone) for day in (first, last + timedelta(days=1))]
    edges += [midnight(tariff.start, zone) for tariff in tariffs[1:]]
    inside = st.integers(0, (last - first).days * 24 * 60 + 600).map(
        lambda minutes: edges[0] + timedelta(minutes=minutes)
    )
    around = st.integers(-20, 50).map(lambda days: edges[0] + timedelta(days=days))
    at_edges = st.builds(
        lambda edge, by, sign: edge + by * sign,
        st.sampled_from(edges),
        tiny,
        st.sampled_from([1, -1]),
    )
    moments = st.one_of(inside, inside, inside, at_edges, at_edges, around)
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from(IDS), st.sampled_from(NUMBERS)),
            unique=True,
            min_size=draw(st.sampled_from([0, 6, 6, 6])),
            max_size=12,
        )
    )
    sendings: st.SearchStrategy[Literal["submitting", "indeterminate", "refused"] | None] = (
        st.sampled_from([None, None, None, None, "submitting", "indeterminate", "refused"])
    )
    messages = tuple(
        Message(
            id="~" * provisional + id,
            phone=draw(st.sampled_from(SPELLINGS.get(number, (number,)))),
            sent_at=draw(moments),
            segments=draw(st.sampled_from([1, 1, 1, 2, 3, 0, 1000])),
            # Nobody reports on an id that no vendor gave.
            reports=() if provisional else draw(reports_after(edges[0])),
            sending=sending,
        )
        for (id, number), sending in ((key, draw(sendings)) for key in keys)
        for provisional in [sending is not None and draw(st.booleans())]
    )
    poll_until_hours = draw(st.integers(1, 100))
    ends = [message.sent_at + timedelta(hours=poll_until_hours) for message in messages]
    now = draw(st.sampled_from([FAR, *ends])) - draw(st.sampled_from([0, 1])) * draw(tiny)
    case = Case(
        zone=zone,
        first=first,
        last=last,
        tariffs=tariffs,
        messages=messages,
        lines=draw(lines_about(messages, tariffs, zone, edges[0])),
        now=now,
        poll_until_hours=poll_until_hours,
        reports=draw(st.sampled_from([True, True, False])),
    )
    headings = draw(st.sampled_from(HEADINGS))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "gb18030", "utf-16"]))
    sheet = Sheet(
        headings, encoding, draw(st.sampled_from(",;\t")), draw(st.sampled_from(["\n", "\r\n"]))
    )
    return World(case, sheet, draw(st.integers(0, 999)), draw(st.booleans()), draw(st.booleans()))


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first moment of a day, found by looking and not by reckoning."""
    at = datetime.combine(day, time(), UTC) - timedelta(hours=15)
    while at.astimezone(zone).date() != day:
        at += timedelta(minutes=15)
    return at


@st.composite
def tariffs_of(draw: st.DrawFn, first: date, last: date) -> tuple[Tariff, ...]:
    """One to three, changing within the period or at its edges; now and then from too late on."""
    early = st.just(first - timedelta(days=60))
    near = st.integers(-2, (last - first).days + 2).map(lambda days: first + timedelta(days=days))
    starts = {draw(st.one_of(early, early, early, early, near)), *draw(st.sets(near, max_size=2))}
    basis: st.SearchStrategy[Literal["delivered", "submitted"]] = st.sampled_from(
        ["delivered", "submitted"]
    )
    return tuple(Tariff(start, draw(prices), draw(basis)) for start in sorted(starts))


@st.composite
def reports_after(draw: st.DrawFn, at: datetime) -> tuple[Report, ...]:
    words: st.SearchStrategy[Literal["delivered", "failed", "pending", "unknown"]] = (
        st.sampled_from(["delivered", "delivered", "delivered", "failed", "pending", "unknown"])
    )
    moments = st.one_of(
        st.none(), st.integers(0, 2).map(lambda minute: at + timedelta(days=9, minutes=minute))
    )
    return tuple(draw(st.lists(st.builds(Report, words, moments), max_size=3)))


@st.composite
def lines_about(
    draw: st.DrawFn,
    messages: Sequence[Message],
    tariffs: Sequence[Tariff],
    zone: ZoneInfo,
    at: datetime,
) -> tuple[Line, ...]:
    """Lines as they should be for most of the messages, then whatever may be wrong with a bill."""
    days = st.integers(-9, 40).map(lambda days: at + timedelta(days=days))
    billed = []
    for message in messages:
        if message.id.startswith("~"):
            continue  # no statement with such a line is taken
        for _ in range(draw(st.sampled_from([1, 1, 1, 1, 1, 0, 2]))):
            off = draw(st.sampled_from([0, 0, 0, 0, 1, -1, 1_000_000 - message.segments]))
            segments = max(0, message.segments + off)
            day = message.sent_at.astimezone(zone).date()
            price = max((t.start, t.price) for t in tariffs if t.start <= day or t is tariffs[0])[1]
            amount = draw(amounts(oracle.EXACT.multiply(Decimal(segments), price)))
            numbers = {oracle.digits(other.phone) for other in messages if other.id == message.id}
            number = oracle.digits(message.phone)
            phone: str | None = draw(st.sampled_from(SPELLINGS.get(number, (number,))))
            if len(numbers) == 1 and draw(st.booleans()):
                phone = None
            zones = st.integers(-30, 30).map(
                lambda halves, sent=message.sent_at: sent + halves * timedelta(minutes=30)  # type: ignore[misc]
            )
            named = draw(st.none() | days | zones)
            billed.append(Line(0, message.id, phone, segments, amount, named))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2] if billed else [1]))):
        id = draw(st.sampled_from(IDS))
        phone = draw(st.sampled_from(NUMBERS))
        amount = draw(amounts(tariffs[0].price))
        if all(message.id != id for message in messages) and draw(st.booleans()):
            phone = None
        billed.append(Line(0, id, phone, 1, amount, draw(st.none() | days)))
    billed = draw(st.permutations(billed))
    gaps = draw(st.lists(st.sampled_from([1, 1, 1, 3]), min_size=len(billed), max_size=len(billed)))
    placed = itertools.accumulate(gaps, initial=1)
    next(placed)
    return tuple(replace(line, number=number) for line, number in zip(billed, placed, strict=True))


def amounts(right: Decimal) -> st.SearchStrategy[Decimal | None]:
    odd = ("0", "-0.04", "0.000000000001", "99999999999999999.999999999999", "-12345678901234.5")
    wrong = st.sampled_from([Decimal(text) for text in odd])
    rights = st.just(right)
    return st.one_of(rights, rights, rights, rights, rights, st.none(), wrong)


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(world=worlds())
async def test_every_number_is_the_oracles_whatever_comes_in_whatever_order(
    world: World, pool: Any, connection: Any, tmp_path: Path
) -> None:
    try:
        result, found = oracle.reconcile(world.case)
    except oracle.Impossible as error:
        impossible = error
        with pytest.raises(match.Impossible) as raised:
            await reconciled(pool, connection, world, tmp_path)
        assert impossible.named_in(str(raised.value)), str(raised.value)
        return
    ours, listed_found = await reconciled(pool, connection, world, tmp_path)
    assert ours == result
    assert listed_found == in_order(found)
    sums_hold(result, found)

    # The same evidence from the other end.
    other = replace(
        world,
        seed=world.seed + 1,
        bill_first=not world.bill_first,
        reports_first=not world.reports_first,
    )
    assert await reconciled(pool, connection, other, tmp_path) == (ours, listed_found)
