"""What is true in the sandbox: messages, reports, reviews, inbound messages and every fault.

Shared by all vendors; a vendor module adds only its own dialect.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sandbox.chance import Chance
from sandbox.exchange import Request
from sandbox.segments import count_segments
from sandbox.settings import Account, Faults, Settings

Status = Literal["delivered", "failed", "none"]
Handed = Literal["", "push", "queued", "pull", "query", "cut", "lost"]
"""How a report or inbound message reached the customer.

`queued` waits for a pull, `query` can be asked for by id at any time, `cut` stood in a read-once
page whose reply was cut, `lost` will never be handed out again.
"""
Fault = dict[str, Any]
"""`kind`, and what else there is to say of it."""


@dataclass(slots=True, eq=False)
class Report:
    """The vendor's word on one message at one time."""

    status: Literal["delivered", "failed"]
    at: datetime
    code: str
    handed: Handed = ""
    salvageable: bool = False
    """Stood whole in the part of a cut page that was still sent."""


@dataclass(slots=True, eq=False)
class Message:
    """One text to one number, and what truly became of it."""

    vendor: str
    account: str
    vendor_message_id: str
    key: str
    phone: str
    content: str
    sign: str
    sent_at: datetime
    segments: int
    status: Status
    final: Report | None
    contradiction: Report | None = None
    extno: str = ""
    pulled: bool = False
    """Never pushed: waits to be pulled."""
    pending_push: bool = False
    known: bool = False
    """The vendor has its outcome: queries tell it from now on."""
    early_sent: bool = False
    unreported: bool = False
    """The vendor reports nothing at all, so no report of it can be missed."""
    reply_lost: bool = False
    """The reply to the send was spoilt, so the sender may never have learnt the id."""
    faults: list[Fault] = field(default_factory=list)
    pushes: list[dict[str, Any]] = field(default_factory=list)

    def fault(self, kind: str) -> Fault | None:
        for fault in self.faults:
            if fault["kind"] == kind:
                return fault
        return None

    @property
    def reports(self) -> list[Report]:
        return [report for report in (self.final, self.contradiction) if report is not None]

    @property
    def report_lost(self) -> bool:
        """There is a final report, and nobody can learn it any more."""
        return self.final is not None and self.final.handed in ("cut", "lost")

    @property
    def expected(self) -> list[str]:
        """Discrepancies of evidence that a perfect reconciler finds for this message."""
        if self.unreported:
            return []
        kinds = []
        if self.status == "none" or self.report_lost:
            kinds.append("report_missing")
        if self.contradiction is not None and not any(
            report.handed in ("cut", "lost") for report in self.reports
        ):
            kinds.append("reports_contradict")
        return kinds


@dataclass(slots=True, eq=False)
class Inbound:
    """A text from a handset."""

    vendor: str
    account: str
    key: str
    phone: str
    content: str
    extno: str
    vendor_message_id: str
    received_at: datetime
    handed: Handed = ""
    salvageable: bool = False
    pushes: list[dict[str, Any]] = field(default_factory=list)


class World:
    """State and decisions that all vendors share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.chance = Chance(settings.seed)
        self.messages: list[Message] = []
        self.by_account: dict[tuple[str, str], list[Message]] = {}
        self.inbound: list[Inbound] = []
        self.reviews: list[dict[str, Any]] = []
        self.odd_pushes: list[dict[str, Any]] = []
        """Forged and malformed ones, as rows of the truth."""
        self.reply_faults: list[dict[str, Any]] = []
        self.cuts_ordered: Counter[tuple[str, str]] = Counter()
        """How many replies to the next sends of an account (vendor and name) are to be cut."""
        self.violations: list[dict[str, Any]] = []
        self.requests: deque[tuple[str, str, Request]] = deque(maxlen=settings.record_requests)
        self.counts: Counter[str] = Counter()
        self._occurrences: Counter[str] = Counter()

    def faults_of(self, account: Account) -> Faults:
        return account.faults if account.faults is not None else self.settings.faults

    def occurrence(self, *names: str) -> str:
        """Name a thing by what it is, and by how many alike came before it.

        Alike things are interchangeable, so the name does not depend on the order of requests.
        """
        natural = self.chance.digest(*names)
        self._occurrences[natural] += 1
        return self.chance.digest(natural, str(self._occurrences[natural]))

    def new_message(
        self,
        account: Account,
        *,
        vendor: str,
        account_name: str,
        vendor_message_id: str,
        key: str,
        phone: str,
        content: str,
        sign: str,
        sent_at: datetime,
        failure_codes: tuple[str, ...],
        success_codes: tuple[str, ...],
        extno: str = "",
    ) -> Message:
        """Accept one text and decide, from its key alone, what becomes of it."""
        chance = self.chance
        outcomes = account.outcomes if account.outcomes is not None else self.settings.outcomes
        draw = chance.unit("outcome", key)
        status: Status = "delivered"
        final = None
        if draw < outcomes.never_final:
            status = "none"
        else:
            reported_at = sent_at + timedelta(seconds=self._latency_seconds(key))
            if draw < outcomes.never_final + outcomes.failed:
                status = "failed"
                final = Report("failed", reported_at, chance.pick(failure_codes, "code", key))
            else:
                final = Report("delivered", reported_at, chance.pick(success_codes, "code", key))
        message = Message(
            vendor=vendor,
            account=account_name,
            vendor_message_id=vendor_message_id,
            key=key,
            phone=phone,
            content=content,
            sign=sign,
            sent_at=sent_at,
            segments=count_segments(content, account.count_by),
            status=status,
            final=final,
            extno=extno,
        )
        self.messages.append(message)
        self.by_account.setdefault((vendor, account_name), []).append(message)
        return message

    def _latency_seconds(self, key: str) -> int:
        """Most reports come in seconds, some in minutes, a few when the handset is on again."""
        draw = self.chance.unit("latency", key)
        if draw < 0.75:
            return int(self.chance.between(2, 16, "latency seconds", key))
        if draw < 0.97:
            return int(self.chance.between(16, 300, "latency seconds", key))
        return int(self.chance.between(300, 6 * 3600, "latency seconds", key))

    def violation(self, request: Request, vendor: str, call: str, parameter: str, why: str) -> None:
        """Note a request that the vendor's page does not provide for."""
        self.violations.append(
            {
                "vendor": vendor,
                "call": call,
                "parameter": parameter,
                "reason": why,
                "at": request.received_at,
            }
        )
