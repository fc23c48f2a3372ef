"""Understanding: from records to rows of their tables. It touches no database.

Parsers are of today, and so are the rows: what a parser of another day made of a record is replaced by
a replay (`reconciler/replay.py`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
import structlog

from gateways.errors import Garbled, Indeterminate, Malformed, Refused
from gateways.events import (
    Accepted,
    Answer,
    Balance,
    DeliveryReport,
    InboundMessage,
    Parsed,
    Rejected,
    ReviewResult,
)
from gateways.gateway import Call
from runtime import records, trust
from runtime.identity import PROVISIONAL, message_keys, shard_of, text_digest
from runtime.records import Record
from runtime.sends import Outcome
from runtime.settings import AccountSettings
from runtime.trust import Judge, ReportKey

log = structlog.get_logger()

# A row as its table's query takes it, under its key there.
_InboundKey = tuple[int, bytes]
_INBOUND_ID = 8  # where a row of inbound has the vendor's id
_ReviewKey = tuple[str, str, str, bytes]
_BalanceKey = tuple[str, str, bytes]


class Understood(msgspec.Struct):
    """The events of some records as rows of their tables, by their keys, and what was not understood."""

    reports: dict[ReportKey, tuple[Any, ...]] = msgspec.field(default_factory=dict)
    inbound: dict[_InboundKey, tuple[Any, ...]] = msgspec.field(default_factory=dict)
    reviews: dict[_ReviewKey, tuple[Any, ...]] = msgspec.field(default_factory=dict)
    balances: dict[_BalanceKey, tuple[Any, ...]] = msgspec.field(default_factory=dict)
    quarantined: dict[bytes, tuple[Any, ...]] = msgspec.field(default_factory=dict)
    outcomes: dict[UUID, Outcome] = msgspec.field(default_factory=dict)
    # By account: our reference handed back, with the phone and vendor id that it came with.
    references: dict[str, dict[UUID, tuple[str, str]]] = msgspec.field(default_factory=dict)
    # The fingerprints that a pushed report has where settings of another time judged it.
    judged: dict[ReportKey, set[bytes]] = msgspec.field(default_factory=dict)
    # How many messages were settled of these, and committed, by the short way of settling.
    settled: int = 0

    @property
    def others(self) -> bool:
        """Whether there is anything besides reports."""
        return bool(
            self.inbound
            or self.reviews
            or self.balances
            or self.quarantined
            or self.outcomes
            or self.references
        )

    def add(self, other: "Understood") -> None:
        self.reports.update(other.reports)
        for row in other.inbound.values():
            self.add_inbound(row)
        self.reviews.update(other.reviews)
        self.balances.update(other.balances)
        self.quarantined.update(other.quarantined)
        self.outcomes.update(other.outcomes)
        for account, references in other.references.items():
            self.references.setdefault(account, {}).update(references)

    def add_inbound(self, row: tuple[Any, ...]) -> None:
        """Add a row, or to the one that is the same message the smaller of their ids, if any."""
        known = self.inbound.setdefault(row[:2], row)
        if (named := row[_INBOUND_ID]) is not None:
            smaller = min(named, known[_INBOUND_ID] or named)
            self.inbound[row[:2]] = (*known[:_INBOUND_ID], smaller, *known[_INBOUND_ID + 1 :])

    def quarantine(self, record: Record, reason: str) -> None:
        self.quarantined[record.digest] = (
            record.digest,
            record.account,
            record.received_at,
            reason,
        )


def understand(
    accounts: Mapping[str, AccountSettings],
    found: Sequence[Record],
    *,
    judgements: bool = False,
    parsed: Mapping[bytes, Parsed] | None = None,
    into: Understood | None = None,
) -> Understood:
    """Parse records with today's parsers; pure but for what it logs of a parser's bug.

    Those in `parsed`, by their digests, were parsed already. What they say is added to `into`, if given.
    With `judgements` say too what the same reports are known by if other settings judged them.
    """
    understood = Understood() if into is None else into
    known = parsed or {}
    for record in found:
        try:
            read = known.get(record.digest) or _parse(accounts, record)
            judge = trust.judge_of(accounts, record)
            if len(read.events) == 1 and not read.problems and not judgements:
                (event,) = read.events
                if isinstance(event, DeliveryReport) and record.call != Call.SEND:
                    _add_report(understood, record, event, judge)  # what most are
                    continue
            rows = _rows(record, read, judge)
            understood.add(rows)
            if judgements and judge is not None:
                for other in (*judge.others(), None):
                    same = _rows(record, read, other).reports
                    for key, (_, _, fingerprint) in zip(rows.reports, same, strict=True):
                        understood.judged.setdefault(key, set()).add(fingerprint)
        except (Malformed, Garbled) as error:
            understood.quarantine(record, str(error))
            _doubt(understood, record, str(error))
        except Indeterminate as error:
            _doubt(understood, record, str(error))
        except Refused as refused:
            # Understood: the vendor's no. To a query it brings no event.
            if record.call == Call.SEND:
                outcome = _outcome(record, "refused")
                outcome.vendor_code, outcome.reason = refused.code, refused.words
                understood.outcomes[outcome.submission] = outcome
        except Exception as error:
            # A parser's bug must not lose the record nor stop the others.
            log.exception(
                "record.parser_failed", digest=record.digest.hex(), account=record.account
            )
            reason = f"the parser failed: {type(error).__name__}"
            understood.quarantine(record, reason)
            _doubt(understood, record, reason)
    return understood


def _doubt(understood: Understood, record: Record, reason: str) -> None:
    """Note of a reply to a send that it does not tell whether anything was sent."""
    if record.call == Call.SEND:
        outcome = _outcome(record, "indeterminate")
        outcome.reason = reason
        understood.outcomes[outcome.submission] = outcome


def _outcome(record: Record, state: Literal["accepted", "refused", "indeterminate"]) -> Outcome:
    assert record.subject is not None
    return Outcome(
        submission=UUID(record.subject), account=record.account, state=state, digest=record.digest
    )


def _parse(accounts: Mapping[str, AccountSettings], record: Record) -> Parsed:
    settings = accounts.get(record.account)
    if settings is None:
        raise Malformed("the account is no longer in the settings")
    return records.parse(record, settings.gateway, settings.account)


def _rows(record: Record, parsed: Parsed, judge: Judge | None) -> Understood:
    """Make rows of one record's events; raises, as parsers do, for an event that makes none."""
    understood = Understood()
    for event in parsed.events:
        match event:
            case DeliveryReport():
                _add_report(understood, record, event, judge)
            case InboundMessage():
                understood.add_inbound(_inbound(record, event))
            case ReviewResult():
                review = _review(record, event)
                understood.reviews[review[:4]] = review
            case Accepted() | Rejected() if record.call == Call.SEND:
                pass
            case Balance():
                balance = _balance(record, event)
                understood.balances[balance[:3]] = balance
            case Answer():
                pass  # for whoever asked; its record is all that is kept
            case _:
                raise TypeError(type(event).__name__)
    if record.call == Call.SEND:
        outcome = _outcome(record, "accepted")
        outcome.accepted = [event for event in parsed.events if isinstance(event, Accepted)]
        outcome.rejected = [event for event in parsed.events if isinstance(event, Rejected)]
        understood.outcomes[outcome.submission] = outcome
    if parsed.problems:
        understood.quarantine(record, "; ".join(parsed.problems))
    return understood


def _add_report(
    understood: Understood, record: Record, event: DeliveryReport, judge: Judge | None
) -> None:
    """Add a report under the id that it names its message by, and under each that it may have.

    What it falls short of by itself is part of its fingerprint, so that the same words, said again
    and to be trusted, are another report; so is the record of a push without a time, which is
    judged by when it came.
    """
    charge = event.charge
    charged = () if charge is None else tuple(getattr(charge, f) for f in charge.__struct_fields__)
    reference = None if event.reference is None else UUID(event.reference)
    reported = _seconds(event.reported_at)
    doubts = None if judge is None else judge.doubts(reported)
    fingerprint = text_digest(
        record.source,
        event.status.value,
        event.vendor_code,
        event.reason,
        record.digest.hex() if reported is None and judge is not None else reported,
        *charged,
        *(() if doubts is None else (doubts,)),
    )
    names = (event.vendor_message_id, *event.also)
    keys = []
    for name in names:
        if name.startswith(PROVISIONAL):
            raise Malformed(f"the id begins with {PROVISIONAL}, as no vendor's does")
        keys.append(message_keys(record.account, name, event.phone))
    ids = [id for _, id in keys]
    for name, (shard, own) in zip(names, keys, strict=True):
        understood.reports[shard, own, fingerprint] = (
            shard,
            own,
            fingerprint,
            record.account,
            name,
            event.phone,
            event.status.value,
            event.vendor_code,
            event.reason,
            event.reported_at,
            record.received_at,
            record.source,
            record.digest,
            own != ids[0],
            None if len(ids) == 1 else " ".join(str(id) for id in ids if id != own) or None,
            *(charged or (None,) * 4),
            doubts,
            None if judge is None else judge.slack_seconds,
        )
    if reference is not None:
        references = understood.references.setdefault(record.account, {})
        references[reference] = (event.phone, event.vendor_message_id)


def _inbound(record: Record, event: InboundMessage) -> tuple[Any, ...]:
    sent = _seconds(event.sent_at)
    return (
        shard_of(record.account, event.phone),
        # A vendor's list may leave out the id that its push has; where there is a time, that will do.
        text_digest(
            event.phone,
            event.content,
            sent,
            event.extension,
            event.vendor_message_id if sent is None else None,
        ),
        record.account,
        event.phone,
        event.content,
        event.sent_at,
        record.received_at,
        event.extension,
        event.vendor_message_id,
        record.source,
        record.digest,
    )


def _review(record: Record, event: ReviewResult) -> tuple[Any, ...]:
    for at in (event.created_at, event.updated_at):
        _seconds(at)
    return (
        record.account,
        event.kind.value,
        event.vendor_id,
        text_digest(*(getattr(event, name) for name in event.__struct_fields__)),
        event.status.value,
        event.vendor_code,
        event.name,
        event.content,
        event.remark,
        event.reason,
        event.created_at,
        event.updated_at,
        record.received_at,
        record.source,
        record.digest,
    )


def _balance(record: Record, event: Balance) -> tuple[Any, ...]:
    if not event.amount.is_finite():
        raise ValueError("a balance that is no number")
    return (
        record.account,
        event.kind,
        record.digest,
        record.received_at,
        event.amount,
        event.currency,
        record.call,
    )


def _seconds(at: datetime | None) -> float | None:
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError("a time without a zone")
    return at.timestamp()
