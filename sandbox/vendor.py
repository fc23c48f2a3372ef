"""What a pretend vendor must offer to the parts that all vendors share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from sandbox.exchange import Reply, Request
from sandbox.pushes import Push
from sandbox.settings import Account
from sandbox.world import Inbound, Message, Report, Status

ReportKind = Literal["final", "pending", "contradicting", "forged", "malformed"]


@dataclass(slots=True, frozen=True)
class Identity:
    """What a request is about, known before it is carried out."""

    call: str
    kind: Literal["send", "query", "page"]
    """`page` is a read-once query."""
    account: str
    key: str
    """Equal for repeated attempts at the same thing."""


@dataclass(slots=True, frozen=True)
class StatementLayout:
    """The CSV file that the vendor's console exports."""

    columns: Mapping[str, str]
    charset: str
    status_words: Mapping[Status, str]


class Vendor(Protocol):
    """One vendor's dialect: what can be asked of it, and its bill."""

    name: str
    statement_layout: StatementLayout
    reads_json: bool
    """Whether bodies may be JSON rather than forms."""

    @property
    def accounts(self) -> Mapping[str, Account]: ...

    def charset(self, path: str) -> str:
        """The charset in which requests to `path` are to be read."""
        ...

    def identify(self, request: Request) -> Identity | None:
        """Tell what is asked, or None for a path that the vendor does not have."""
        ...

    async def answer(self, request: Request, identity: Identity) -> Reply: ...

    def throttled(self, status: int) -> Reply:
        """What the vendor's front says with 429 or 500."""
        ...

    def strange_id(self, key: str) -> str:
        """An id in the vendor's shape for a message that was never sent."""
        ...


@runtime_checkable
class ReportingVendor(Vendor, Protocol):
    """A vendor that tells what became of messages."""

    malformations: tuple[str, ...]
    sends_pending: bool
    """Whether its pushes know a status that is not final."""
    offers_inbound: bool

    def pulls(self, account: str) -> bool:
        """Whether the account can pull reports."""
        ...

    def push_many(self, account: str) -> int:
        """How many reports go into one push at most."""
        ...

    def report_push(
        self, account: str, records: list[tuple[Message, Report | None]], url: str
    ) -> Push:
        """Write a push; no report means: still sending."""
        ...

    def malformed_push(self, account: str, message: Message, report: Report, how: str) -> Push: ...

    def inbound_push(self, account: str, inbound: Inbound) -> Push | None:
        """Write the push of an inbound message, or None where it waits to be pulled."""
        ...

    def unhanded_report(self, account: str, message: Message, report: Report) -> None:
        """Deal with a report that no push has handed over; sets `report.handed`."""
        ...

    def unhanded_inbound(self, account: str, inbound: Inbound) -> None: ...
