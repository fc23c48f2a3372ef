"""Interface section 6 once more, in plain loops: what a reconciliation must come to.

Written from the contract and not from our SQL, and slow: it looks at every message for every line.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal, Inexact
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

# Wide enough for any sum here; a rounding would be an error of the oracle.
EXACT = Context(prec=200, traps=[Inexact])

KINDS = (
    "billed_not_sent",
    "billed_not_delivered",
    "billed_twice",
    "billed_out_of_period",
    "segments_differ",
    "price_differs",
    "not_billed",
    "reports_contradict",
    "report_missing",
)


@dataclass(frozen=True)
class Report:
    """The vendor's word; `at` None: it gave no time."""

    status: Literal["delivered", "failed", "pending", "unknown"]
    at: datetime | None


@dataclass(frozen=True)
class Message:
    """A registered message; phones in any spelling.

    `sending` is how our own sending of it ended, or None if the vendor took it: "submitting" and
    "indeterminate" leave open whether it was sent, "refused" says that it was not. A final report
    proves that it was.
    """

    id: str
    phone: str
    sent_at: datetime
    segments: int
    reports: tuple[Report, ...] = ()
    sending: Literal["submitting", "indeterminate", "refused"] | None = None


@dataclass(frozen=True)
class Line:
    """A line of the bill, by its number in the file."""

    number: int
    id: str
    phone: str | None
    segments: int
    amount: Decimal | None
    sent_at: datetime | None = None


@dataclass(frozen=True)
class Tariff:
    start: date
    price: Decimal
    basis: Literal["delivered", "submitted"]
    currency: str = "CNY"


@dataclass(frozen=True)
class Case:
    """All that a reconciliation depends on; `reports` False: the vendor has none to give."""

    zone: ZoneInfo
    first: date
    last: date
    tariffs: tuple[Tariff, ...]
    messages: tuple[Message, ...]
    lines: tuple[Line, ...]
    now: datetime
    poll_until_hours: int
    reports: bool = True


class Found(NamedTuple):
    """A discrepancy."""

    kind: str
    id: str
    phone: str | None
    line: int | None
    segments: int
    amount: Decimal


@dataclass
class Impossible(Exception):
    """It cannot be reconciled; what says so must name all that stands in one of these."""

    names: list[tuple[str, ...]] = field(default_factory=list)

    def named_in(self, text: str) -> bool:
        return any(all(name in text for name in names) for names in self.names)


def digits(phone: str) -> str:
    """The number itself, however it is spelt."""
    found = "".join(character for character in phone if character in "0123456789")
    while found[:2] == "00":
        found = found[2:]
    if len(found) == 13 and found[:3] == "861":
        found = found[2:]
    return found


def status(message: Message) -> str | None:
    """The final status: the earliest by the vendor's time, one without a time after all others."""
    final = [report for report in message.reports if report.status in ("delivered", "failed")]
    timed = [report.at for report in final if report.at is not None]
    if timed:
        final = [report for report in final if report.at == min(timed)]
    # Of two at one time delivered stands.
    words = {report.status for report in final}
    return "delivered" if "delivered" in words else "failed" if words else None


def contradicted(message: Message) -> bool:
    return {"delivered", "failed"} <= {report.status for report in message.reports}


def known_to_be_sent(message: Message) -> bool:
    return message.sending is None or status(message) is not None


def never_sent(message: Message) -> bool:
    return message.sending == "refused" and status(message) is None


def reconcile(case: Case) -> tuple[dict[str, Any], list[Found]]:
    """The result without `id` and `account`, and the discrepancies in no order; raises `Impossible`."""
    state = _State(case)
    state.raise_impossible()
    for line in case.lines:
        state.bill(line)
    for message in case.messages:
        if state.inside(message):
            state.close(message)
    return state.result(), state.found


class _State:
    def __init__(self, case: Case) -> None:
        self.case = case
        self.found: list[Found] = []
        self.causes: list[str] = []
        self.currency = self._currency()

    def day(self, at: datetime) -> date:
        return at.astimezone(self.case.zone).date()

    def inside(self, message: Message) -> bool:
        """Whether the period is the message's, which a message that was never sent has none of."""
        day = self.day(message.sent_at)
        return self.case.first <= day <= self.case.last and not never_sent(message)

    def tariff(self, day: date) -> Tariff | None:
        held = None
        for tariff in sorted(self.case.tariffs, key=lambda tariff: tariff.start):
            if tariff.start <= day:
                held = tariff
        return held

    def owed(self, message: Message) -> Decimal | None:
        """What is owed for a message, None if nothing is."""
        tariff = self.tariff(self.day(message.sent_at))
        assert tariff is not None
        if not known_to_be_sent(message) or not self.chargeable(message, tariff):
            return None
        return EXACT.multiply(Decimal(message.segments), tariff.price)

    def chargeable(self, message: Message, tariff: Tariff) -> bool:
        """Whether a message that was sent has become what the tariff charges for."""
        if tariff.basis == "submitted":
            return True
        if status(message) is None:
            # Accepted: of a vendor that reports nothing no more can be asked.
            return not self.case.reports
        return status(message) == "delivered"

    def of(self, line: Line) -> Message | None:
        """The message that a line is for: one that is known to have been sent."""
        named = [
            message
            for message in self.case.messages
            if known_to_be_sent(message)
            and message.id == line.id
            and (line.phone is None or digits(message.phone) == digits(line.phone))
        ]
        assert len(named) <= 1
        return named[0] if named else None

    def priced(self, line: Line) -> date:
        """The day whose price a line without an amount has."""
        if (message := self.of(line)) is not None:
            return self.day(message.sent_at)
        return self.case.first if line.sent_at is None else self.day(line.sent_at)

    def amount(self, line: Line) -> Decimal:
        if line.amount is not None:
            return line.amount
        tariff = self.tariff(self.priced(line))
        assert tariff is not None
        return EXACT.multiply(Decimal(line.segments), tariff.price)

    def raise_impossible(self) -> None:
        names: list[tuple[str, ...]] = [
            (str(self.day(message.sent_at)),)
            for message in self.case.messages
            if self.inside(message) and self.tariff(self.day(message.sent_at)) is None
        ]
        for line in self.case.lines:
            if line.amount is None:
                day = self.priced(line)
                tariff = self.tariff(day)
                if tariff is None or tariff.currency != self.currency:
                    names.append((f"line {line.number} ", str(day)))
        if names:
            raise Impossible(names)

    def kinds(self, line: Line) -> list[tuple[str, int, Decimal]]:
        """What is wrong with a line."""
        message, amount = self.of(line), self.amount(line)
        whole = (line.segments, amount)
        if message is None:
            return [("billed_not_sent", *whole)]
        tariff = self.tariff(self.day(message.sent_at))
        if tariff is not None and not self.chargeable(message, tariff):
            return [("billed_not_delivered", *whole)]
        if any(other.number < line.number for other in self.lines_of(message)):
            return [("billed_twice", *whole)]
        if not self.inside(message):
            return [("billed_out_of_period", *whole)]
        assert tariff is not None
        wrong = []
        more = line.segments - message.segments
        if more:
            wrong.append(
                ("segments_differ", more, EXACT.multiply(Decimal(more), tariff.price)),
            )
        rest = EXACT.subtract(amount, EXACT.multiply(Decimal(line.segments), tariff.price))
        if rest:
            wrong.append(("price_differs", 0, rest))
        return wrong

    def cause(self, kind: str, line: Line) -> str:
        """Why a line is wrong in this way. No text is known here."""
        message, amount = self.of(line), self.amount(line)
        if kind == "billed_not_sent":
            named = [other for other in self.case.messages if other.id == line.id]
            unsent = {
                other.sending
                for other in named
                if not known_to_be_sent(other)
                and (line.phone is None or digits(other.phone) == digits(line.phone))
            }
            if "refused" in unsent:
                return "refused_by_us"
            if unsent:
                return "in_doubt"
            known = any(known_to_be_sent(other) for other in named)
            return "id_with_other_phone" if known else "id_unknown"
        assert message is not None
        if kind == "billed_not_delivered":
            return "failed" if status(message) == "failed" else "no_report_yet"
        if kind == "billed_twice":
            first = min(self.lines_of(message), key=lambda other: other.number)
            same = self.amount(first) == amount
            return "double_same_amount" if same else "double_other_amount"
        if kind == "billed_out_of_period":
            return self.displaced(message, line)
        if kind == "segments_differ":
            return "content_unknown"
        prices = [each.price for each in self.case.tariffs if each.currency == self.currency]
        segments = Decimal(line.segments)
        stale = any(EXACT.multiply(segments, price) == amount for price in prices)
        return "stale_tariff" if stale else "price_other"

    def displaced(self, message: Message, line: Line) -> str:
        starts, ends = self.edges()
        if line.sent_at is not None:
            named = line.sent_at.replace(microsecond=0)  # as the file has it
            apart = abs(named - message.sent_at)
            for halves in range(1, 29):
                near = abs(apart - halves * timedelta(minutes=30)) <= timedelta(minutes=1)
                if near and starts <= named < ends:
                    return "time_zone"
        by = max(starts - message.sent_at, message.sent_at - ends)
        # The first moment of the period is in it, and so is the first of the day before it.
        if by < timedelta(days=1) or (by == timedelta(days=1) and message.sent_at < starts):
            return "month_edge"
        return "other_period"

    def edges(self) -> tuple[datetime, datetime]:
        """The first moment of the period, and the first after it, in UTC."""
        return tuple(  # type: ignore[return-value]
            datetime.combine(day, time(), self.case.zone).astimezone(UTC)
            for day in (self.case.first, self.case.last + timedelta(days=1))
        )

    def lines_of(self, message: Message) -> list[Line]:
        return [line for line in self.case.lines if self.of(line) is message]

    def bill(self, line: Line) -> None:
        message = self.of(line)
        phone = line.phone
        if phone is None and message is not None:
            phone = message.phone
        for kind, segments, amount in self.kinds(line):
            self.add(kind, self.cause(kind, line), line.id, phone, line.number, segments, amount)

    def close(self, message: Message) -> None:
        owed = self.owed(message)
        if owed is not None and not self.lines_of(message):
            starts, ends = self.edges()
            day = timedelta(days=1)
            inner = starts + day <= message.sent_at < ends - day
            self.add(
                "not_billed",
                "no_line" if inner else "no_line_at_edge",
                message.id,
                message.phone,
                None,
                -message.segments,
                EXACT.minus(owed),
            )
        if contradicted(message):
            self.add(
                "reports_contradict",
                "states_contradict",
                message.id,
                message.phone,
                None,
                0,
                Decimal(0),
            )
        if self.missing(message):
            self.add("report_missing", "no_report", message.id, message.phone, None, 0, Decimal(0))

    def missing(self, message: Message) -> bool:
        if not self.case.reports:
            return False
        waited = self.case.now - message.sent_at
        return status(message) is None and waited >= timedelta(hours=self.case.poll_until_hours)

    def add(
        self,
        kind: str,
        cause: str,
        id: str,
        phone: str | None,
        line: int | None,
        segments: int,
        amount: Decimal,
    ) -> None:
        self.causes.append(cause)
        spelt = None if phone is None else digits(phone)
        self.found.append(Found(kind, id, spelt, line, segments, amount))

    def result(self) -> dict[str, Any]:
        case = self.case
        sent = [message for message in case.messages if self.inside(message)]
        owed = [message for message in sent if self.owed(message) is not None]
        owed_amount = total(self.owed(message) for message in owed)
        owed_segments = sum(message.segments for message in owed)
        billed = total(self.amount(line) for line in case.lines)
        billed_segments = sum(line.segments for line in case.lines)
        wrong_lines = {line.number for line in case.lines if self.kinds(line)}
        classes = dict.fromkeys(("matched", "discrepant", "not_billed", "not_charged"), 0)
        for message in sent:
            numbers = {line.number for line in self.lines_of(message)}
            if numbers:
                name = "discrepant" if numbers & wrong_lines else "matched"
            else:
                name = "not_billed" if message in owed else "not_charged"
            classes[name] += 1
        discrepancies = {}
        for kind in KINDS:
            of_kind = [found for found in self.found if found.kind == kind]
            if of_kind:
                discrepancies[kind] = {
                    "count": len(of_kind),
                    "segments": sum(found.segments for found in of_kind),
                    "amount": total(found.amount for found in of_kind),
                }
        unresolved = {
            "report_missing": sum(1 for message in sent if self.missing(message)),
            "orphans": 0,
            "quarantined": 0,
            "suspects": 0,
        }
        if not case.reports:
            unresolved["accepted_is_last_known"] = sum(
                1 for message in sent if known_to_be_sent(message) and status(message) is None
            )
        coverage = dict.fromkeys(
            ("pushed", "polled", "pulled", "statement_only", "expired", "unexplained"), 0
        )
        if not case.reports:
            coverage["accepted_is_last_known"] = 0
        for message in sent:
            coverage[self.known_by(message)] += message.segments
        return {
            "period": _period(case.first, case.last),
            "source": "statement",
            "currency": self.currency,
            "status": "discrepant" if self.found else "balanced",
            "sent": {
                "messages": len(sent),
                "segments": sum(message.segments for message in sent),
            },
            "owed": {"messages": len(owed), "segments": owed_segments, "amount": owed_amount},
            "billed": {
                "lines": len(case.lines),
                "segments": billed_segments,
                "amount": billed,
            },
            "difference": {
                "segments": billed_segments - owed_segments,
                "amount": EXACT.subtract(billed, owed_amount),
            },
            "messages": classes,
            "lines": {
                "matched": len(case.lines) - len(wrong_lines),
                "discrepant": len(wrong_lines),
            },
            "discrepancies": discrepancies,
            "causes": self.ranked(),
            "coverage": coverage,
            "unresolved": unresolved,
        }

    def ranked(self) -> list[dict[str, Any]]:
        causes = []
        for cause, kind in set(zip(self.causes, (found.kind for found in self.found), strict=True)):
            of_cause = [
                found
                for found, why in zip(self.found, self.causes, strict=True)
                if (why, found.kind) == (cause, kind)
            ]
            causes.append(
                {
                    "cause": cause,
                    "kind": kind,
                    "count": len(of_cause),
                    "segments": sum(found.segments for found in of_cause),
                    "amount": total(found.amount for found in of_cause),
                }
            )
        return sorted(
            causes,
            key=lambda one: (
                -abs(one["amount"]),
                -abs(one["segments"]),
                -one["count"],
                one["cause"],
            ),
        )

    def known_by(self, message: Message) -> str:
        """By what the fate of a message is known; all reports here are pushed."""
        if status(message) is not None:
            return "pushed"
        if self.lines_of(message):
            return "statement_only"
        if known_to_be_sent(message) and not self.case.reports:
            return "accepted_is_last_known"
        return "unexplained"

    def _currency(self) -> str:
        day, currencies = self.case.first, set()
        while day <= self.case.last:
            if (tariff := self.tariff(day)) is not None:
                currencies.add(tariff.currency)
            day += timedelta(days=1)
        if len(currencies) > 1:
            raise Impossible([tuple(sorted(currencies))])
        if currencies:
            return currencies.pop()
        if not self.case.tariffs:
            raise Impossible([(str(self.case.first),)])
        return min(self.case.tariffs, key=lambda tariff: tariff.start).currency


def total(amounts: Iterable[Decimal | None]) -> Decimal:
    """Their sum, to the last digit."""
    added = Decimal(0)
    for amount in amounts:
        assert amount is not None
        added = EXACT.add(added, amount)
    return added


def _period(first: date, last: date) -> str:
    if first.day == 1 and (last + timedelta(days=1)).day == 1 and (last - first).days < 31:
        return f"{first.year:04}-{first.month:02}"
    return f"{first.isoformat()}..{last.isoformat()}"
