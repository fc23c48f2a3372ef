"""What can be configured and does not depend on a vendor."""

from datetime import date, datetime
from decimal import Decimal
from typing import Literal

import msgspec

from sandbox.clock import VENDOR_ZONE
from sandbox.segments import CountBy

Basis = Literal["delivered", "submitted"]


class Outcomes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares of what becomes of accepted messages; the rest is delivered."""

    failed: float = 0.06
    never_final: float = 0.01


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rates between 0 and 1 by kind of fault; all off until asked for."""

    push_lost: float = 0.0
    push_doubled: float = 0.0
    push_reordered: float = 0.0
    push_early: float = 0.0
    push_contradicting: float = 0.0
    push_forged: float = 0.0
    push_malformed: float = 0.0

    reply_slow: float = 0.0
    reply_429: float = 0.0
    reply_500: float = 0.0
    reply_cut: float = 0.0
    page_cut: float = 0.0
    """Cut replies of read-once pages: what stood in them is lost for good."""
    reply_slow_seconds: tuple[float, float] = (0.2, 1.0)
    on_send: bool = False
    """Whether sends suffer reply faults too."""

    billed_not_sent: float = 0.0
    billed_not_delivered: float = 0.0
    billed_twice: float = 0.0
    billed_out_of_period: float = 0.0
    segments_differ: float = 0.0
    price_differs: float = 0.0
    segments_and_price_differ: float = 0.0
    """Both of the above on one line."""
    not_billed: float = 0.0
    statement_at_least: int = 0
    """Lines that every kind with a rate gets in each statement, if there are candidates."""


class PriceChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    price: Decimal
    since: date = msgspec.field(name="from")


class Account(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What any vendor knows of one customer."""

    callback_url: str = ""
    """Where pushes go, its last path segment being the token; empty: no pushes."""
    price: Decimal
    """Per segment."""
    prices: tuple[PriceChange, ...] = ()
    """Later prices, by day of sending in UTC+8."""
    basis: Basis
    count_by: CountBy = "code_point"
    currency: str = "CNY"
    statement_columns: dict[str, str] = {}
    """Headings by field, where the console's export is to differ from the vendor's default."""
    statement_charset: str = ""
    statement_delimiter: str = ","
    faults: Faults | None = None
    """In place of the common rates, all of them."""
    outcomes: Outcomes | None = None

    def price_at(self, sent_at: datetime) -> Decimal:
        day = sent_at.astimezone(VENDOR_ZONE).date()
        price = self.price
        for change in sorted(self.prices, key=lambda change: change.since):
            if change.since <= day:
                price = change.price
        return price


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One running sandbox, whatever vendors it plays."""

    host: str = "127.0.0.1"
    port: int = 8090
    """0 takes a free one."""
    seed: int = 1
    truth_path: str = ""
    hold_pushes: bool = False
    """Keep reports, reviews and inbound messages back until `POST /_sandbox/release`."""
    early_pushes: Literal["before_reply", "held"] = "before_reply"
    """When `push_early` goes out: before its send is answered, or on release of `early`."""
    push_delay_seconds: tuple[float, float] = (0.05, 0.5)
    push_concurrency: int = 32
    push_timeout_seconds: float = 10.0
    pending_push: float = 0.05
    """Share of messages with a status-0 report before the final one, in good order."""
    strict: bool = False
    """Refuse undocumented parameters; they are listed as violations either way."""
    record_requests: int = 2000
    review_after_seconds: float = 1800.0
    """Virtual time from submission to verdict."""
    review_rejected: float = 0.1
    outcomes: Outcomes = Outcomes()
    faults: Faults = Faults()
