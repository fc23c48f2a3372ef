"""The bill that a vendor's console exports, with faults whose kind and amount are known exactly.

Each line bears at most one fault (or wrong segments and a wrong price together), on messages whose
state can be known, so that every fault has one right finding.
"""

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sandbox.chance import Chance
from sandbox.clock import local_text, period_bounds
from sandbox.exchange import BadRequest
from sandbox.settings import Account, Faults
from sandbox.vendor import Vendor
from sandbox.world import Message, World

# In the order in which one message's draws are made; the first hit is its fault.
OWED_FAULTS = (
    "not_billed",
    "billed_twice",
    "segments_and_price_differ",
    "segments_differ",
    "price_differs",
)
STATEMENT_KINDS = (
    "billed_not_sent",
    "billed_not_delivered",
    "billed_twice",
    "billed_out_of_period",
    "segments_differ",
    "price_differs",
    "not_billed",
)
NEIGHBOUR_DAYS = 31


@dataclass(slots=True, eq=False)
class Line:
    vendor_message_id: str
    phone: str
    segments: int
    amount: Decimal
    sent_at: datetime
    status: str
    message: Message | None
    fault: str = ""
    """`segments_and_price_differ` is two findings, every other fault one."""


@dataclass(slots=True, eq=False)
class Statement:
    vendor: str
    account: str
    period: str
    start: datetime
    end: datetime
    lines: list[Line] = field(default_factory=list)
    left_out: list[tuple[Message, str]] = field(default_factory=list)
    """Owed messages without a line, and why: not_billed or billed_out_of_period."""
    path: str = ""


class Statements:
    """Writes statements and tells what a perfect reconciler finds in them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance: Chance = world.chance
        self.vendors: dict[str, Vendor] = {}
        self.written: dict[tuple[str, str, str], Statement] = {}
        self._billed_elsewhere: dict[Message, str] = {}
        """Messages whose only line stands in the statement of another period."""

    # Writing

    def write(
        self,
        vendor_name: str,
        account_name: str,
        period: str,
        path: str,
        neighbour_days: int = NEIGHBOUR_DAYS,
    ) -> Statement:
        """Write the period's statement to `path`; the same call again writes the same bytes.

        What was sent up to `neighbour_days` before or after the period may be billed in it.
        Raises BadRequest for an unknown vendor or account, or a period that is none.
        """
        vendor = self.vendors.get(vendor_name)
        if vendor is None or account_name not in vendor.accounts:
            raise BadRequest(f"no account {account_name!r} at vendor {vendor_name!r}")
        try:
            start, end = period_bounds(period)
        except ValueError as error:
            raise BadRequest(str(error)) from error
        statement = Statement(vendor_name, account_name, period, start, end)
        near = timedelta(days=neighbour_days)
        self._fill(statement, vendor, vendor.accounts[account_name], near)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self._export(statement, vendor))
        statement.path = path
        self.written[vendor_name, account_name, period] = statement
        return statement

    def _fill(
        self, statement: Statement, vendor: Vendor, account: Account, near: timedelta
    ) -> None:
        world = self._world
        rates = world.faults_of(account)
        mine = sorted(
            world.by_account.get((statement.vendor, statement.account), ()),
            key=lambda message: (message.sent_at, message.vendor_message_id, message.phone),
        )
        of_period = [each for each in mine if statement.start <= each.sent_at < statement.end]
        charged = [each for each in of_period if is_charged(each, account)]
        elsewhere = {
            each
            for each in charged
            if self._billed_elsewhere.get(each, statement.period) != statement.period
        }
        chosen = self._choose_owed(
            rates, [each for each in charged if each not in elsewhere], account
        )
        for message in charged:
            if message in elsewhere:
                statement.left_out.append((message, "billed_out_of_period"))
            elif chosen.get(message) == "not_billed":
                statement.left_out.append((message, "not_billed"))
            else:
                fault = chosen.get(message, "")
                statement.lines += self._lines_of(vendor, account, message, fault)
        self._bill_undelivered(statement, vendor, account, rates, of_period)
        neighbours = [
            each
            for each in mine
            if statement.start - near <= each.sent_at < statement.start
            or statement.end <= each.sent_at < statement.end + near
        ]
        self._bill_neighbours(statement, vendor, account, rates, neighbours)
        self._bill_never_sent(statement, vendor, account, rates, charged)
        statement.lines.sort(key=lambda line: line.sent_at)

    def _choose_owed(
        self, rates: Faults, candidates: list[Message], account: Account
    ) -> dict[Message, str]:
        chosen: dict[Message, str] = {}
        clear = [message for message in candidates if is_clear(message, account)]
        for kind in OWED_FAULTS:
            free = [message for message in clear if message not in chosen]
            for message in self._choose(kind, getattr(rates, kind), rates, free):
                chosen[message] = kind
        return chosen

    def _choose(
        self, kind: str, rate: float, rates: Faults, candidates: Iterable[Message]
    ) -> list[Message]:
        """Take about `rate` of the candidates, each by its own draw, or the least number."""
        if rate <= 0:
            return []
        draws = sorted(
            ((self._chance.unit(kind, message.key), message) for message in candidates),
            key=lambda draw: draw[0],
        )
        return [
            message
            for index, (draw, message) in enumerate(draws)
            if draw < rate or index < rates.statement_at_least
        ]

    def _lines_of(
        self, vendor: Vendor, account: Account, message: Message, fault: str
    ) -> list[Line]:
        price = account.price_at(message.sent_at)
        line = self._line(vendor, message, message.segments, message.segments * price)
        line.fault = fault
        if fault in ("segments_differ", "segments_and_price_differ"):
            line.segments = self._other_segments(message)
            line.amount = line.segments * price
        if fault in ("price_differs", "segments_and_price_differ"):
            line.amount += self._surcharge(message, line.segments, price)
        if fault != "billed_twice":
            return [line]
        line.fault = ""
        copies = 2 if self._chance.hit(0.3, "billed a third time", message.key) else 1
        again = [self._line(vendor, message, line.segments, line.amount) for _ in range(copies)]
        for copy in again:
            copy.fault = "billed_twice"
        return [line, *again]

    def _line(self, vendor: Vendor, message: Message, segments: int, amount: Decimal) -> Line:
        return Line(
            vendor_message_id=message.vendor_message_id,
            phone=message.phone,
            segments=segments,
            amount=amount,
            sent_at=message.sent_at,
            status=vendor.statement_layout.status_words[message.status],
            message=message,
        )

    def _other_segments(self, message: Message) -> int:
        if message.segments > 1 and self._chance.hit(0.3, "fewer segments", message.key):
            return message.segments - 1
        return message.segments + self._chance.pick((1, 1, 2), "more segments", message.key)

    def _surcharge(self, message: Message, segments: int, price: Decimal) -> Decimal:
        """A wrong price per segment, or a wrong sum; never zero, and the amount stays positive."""
        if self._chance.hit(0.5, "wrong sum", message.key):
            return self._chance.pick((Decimal("0.01"), Decimal("0.001")), "sum", message.key)
        step = self._chance.pick(
            (Decimal("0.005"), Decimal("0.01"), Decimal("-0.005")), "price step", message.key
        )
        return segments * (step if price + step > 0 else abs(step))

    def _bill_undelivered(
        self,
        statement: Statement,
        vendor: Vendor,
        account: Account,
        rates: Faults,
        of_period: list[Message],
    ) -> None:
        if account.basis != "delivered":
            return
        failed = [each for each in of_period if each.status == "failed" and is_clear(each, account)]
        for message in self._choose(
            "billed_not_delivered", rates.billed_not_delivered, rates, failed
        ):
            price = account.price_at(message.sent_at)
            line = self._line(vendor, message, message.segments, message.segments * price)
            line.fault = "billed_not_delivered"
            statement.lines.append(line)

    def _bill_neighbours(
        self,
        statement: Statement,
        vendor: Vendor,
        account: Account,
        rates: Faults,
        neighbours: list[Message],
    ) -> None:
        """Bill messages of the days around here; their own statement will lack them."""
        already = {
            line.message
            for (name, account_name, period), other in self.written.items()
            if (name, account_name) == (statement.vendor, statement.account)
            and period != statement.period
            for line in other.lines
        }
        near = [
            each
            for each in neighbours
            if is_charged(each, account) and is_clear(each, account) and each not in already
        ]
        for message in self._choose(
            "billed_out_of_period", rates.billed_out_of_period, rates, near
        ):
            price = account.price_at(message.sent_at)
            line = self._line(vendor, message, message.segments, message.segments * price)
            line.fault = "billed_out_of_period"
            statement.lines.append(line)
            self._billed_elsewhere[message] = statement.period

    def _bill_never_sent(
        self,
        statement: Statement,
        vendor: Vendor,
        account: Account,
        rates: Faults,
        charged: list[Message],
    ) -> None:
        real = {message.vendor_message_id for message in charged}
        for model in self._choose("billed_not_sent", rates.billed_not_sent, rates, charged):
            key = self._chance.digest("never sent", model.key)
            strange = vendor.strange_id(key)
            if strange in real:
                continue
            segments = self._chance.pick((1, 1, 2, 3), "never sent segments", key)
            line = self._line(vendor, model, segments, segments * account.price_at(model.sent_at))
            line.vendor_message_id = strange
            line.phone = f"139{self._chance.integer('never sent phone', key) % 10**8:08d}"
            line.message = None
            line.fault = "billed_not_sent"
            statement.lines.append(line)

    def _export(self, statement: Statement, vendor: Vendor) -> bytes:
        account = vendor.accounts[statement.account]
        layout = vendor.statement_layout
        columns = account.statement_columns or layout.columns
        cells: dict[str, Callable[[Line], str]] = {
            "vendor_message_id": lambda line: line.vendor_message_id,
            "phone": lambda line: line.phone,
            "segments": lambda line: str(line.segments),
            "amount": lambda line: format(line.amount, "f"),
            "currency": lambda _: account.currency,
            "sent_at": lambda line: local_text(line.sent_at),
            "status": lambda line: line.status,
        }
        unknown = columns.keys() - cells.keys()
        if unknown:
            raise BadRequest(f"statement_columns: no such field {', '.join(sorted(unknown))}")
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=account.statement_delimiter)
        writer.writerow(columns.values())
        wanted = [cells[name] for name in columns]
        writer.writerows([cell(line) for cell in wanted] for line in statement.lines)
        return text.getvalue().encode(account.statement_charset or layout.charset)

    # What is to be found

    def expectations(self, statement: Statement) -> list[dict[str, Any]]:
        """One row per finding, with its amount as the customer's reconciliation defines amounts."""
        account = self.vendors[statement.vendor].accounts[statement.account]
        found: list[dict[str, Any]] = []

        def add(line_or_message: Line | Message, kind: str, amount: Decimal, **more: Any) -> None:
            found.append(
                {
                    "type": "statement_fault",
                    "vendor": statement.vendor,
                    "account": statement.account,
                    "period": statement.period,
                    "vendor_message_id": line_or_message.vendor_message_id,
                    "phone": line_or_message.phone,
                    "kind": kind,
                    "amount": format(amount, "f"),
                    **more,
                }
            )

        for line in statement.lines:
            message = line.message
            price = account.price_at(line.sent_at)
            billed_as_sent = not line.fault or "differ" in line.fault
            if message is not None and billed_as_sent and not is_owed(message, account):
                # It was delivered, but the report is lost for good: nobody can know.
                add(
                    line,
                    "billed_not_delivered",
                    line.amount,
                    segments=line.segments,
                    cause="report_lost",
                    salvageable=message.final is not None and message.final.salvageable,
                )
                continue
            if not line.fault:
                continue
            if message is None or "differ" not in line.fault:
                add(line, line.fault, line.amount, segments=line.segments, cause="injected")
                continue
            ours = message.segments
            if line.fault != "price_differs":
                add(
                    line,
                    "segments_differ",
                    (line.segments - ours) * price,
                    segments=line.segments - ours,
                    cause="injected",
                )
            if line.fault != "segments_differ":
                rest = line.amount - line.segments * price
                add(line, "price_differs", rest, segments=0, cause="injected")
        for message, why in statement.left_out:
            if is_owed(message, account):
                owed = message.segments * account.price_at(message.sent_at)
                cause = "injected" if why == "not_billed" else why
                add(message, "not_billed", -owed, segments=-message.segments, cause=cause)
        return found

    def totals(self, statement: Statement) -> dict[str, Any]:
        """What the reconciliation of a perfect customer adds up to."""
        account = self.vendors[statement.vendor].accounts[statement.account]
        sent = [
            message
            for message in self._world.by_account.get((statement.vendor, statement.account), ())
            if statement.start <= message.sent_at < statement.end
        ]
        owed = [message for message in sent if is_owed(message, account)]
        owed_amount = sum(
            (each.segments * account.price_at(each.sent_at) for each in owed), Decimal(0)
        )
        billed_amount = sum((line.amount for line in statement.lines), Decimal(0))
        by_kind: dict[str, dict[str, Any]] = {}
        for row in self.expectations(statement):
            kind = by_kind.setdefault(row["kind"], {"count": 0, "amount": Decimal(0)})
            kind["count"] += 1
            kind["amount"] += Decimal(row["amount"])
        for kind in by_kind.values():
            kind["amount"] = format(kind["amount"], "f")
        return {
            "vendor": statement.vendor,
            "account": statement.account,
            "period": statement.period,
            "path": statement.path,
            "sent": {"messages": len(sent), "segments": sum(each.segments for each in sent)},
            "owed": {
                "messages": len(owed),
                "segments": sum(each.segments for each in owed),
                "amount": format(owed_amount, "f"),
            },
            "billed": {
                "lines": len(statement.lines),
                "segments": sum(line.segments for line in statement.lines),
                "amount": format(billed_amount, "f"),
            },
            "difference": format(billed_amount - owed_amount, "f"),
            "discrepancies": by_kind,
        }


def is_charged(message: Message, account: Account) -> bool:
    """ASSUMPTION: the vendor charges by what truly happened (vendor-docs/001 计费规则)."""
    return account.basis == "submitted" or message.status == "delivered"


def is_owed(message: Message, account: Account) -> bool:
    """Charged as far as the customer can know: a report lost for good cannot be owed on."""
    return is_charged(message, account) and not (
        account.basis == "delivered" and message.report_lost
    )


def is_clear(message: Message, account: Account) -> bool:
    """Fit to bear a statement fault: whether it is owed can be known beyond doubt."""
    if message.reply_lost:
        return False
    if message.unreported:
        return account.basis == "submitted"
    if message.report_lost:
        return False
    return account.basis == "submitted" or message.contradiction is None
