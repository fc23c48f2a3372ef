"""The one abstraction: a gateway is a value that speaks one vendor's dialect.

Parsing is pure (the same bytes give the same events, which is what makes replay possible) and sees
stored bytes only. A client fetches bytes and understands nothing: what a vendor hands out once must
be durable before a parser's bug can meet it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec

from gateways.errors import Unsupported
from gateways.events import Parsed, ReviewKind
from gateways.segments import Rule, Unit

if TYPE_CHECKING:
    from gateways.http import Transport


class Secret:
    """Text that never shows itself: not in a repr, a log line or an exception."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text; call it only where it goes on the wire or is compared."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One set of credentials at one vendor, as a gateway sees it.

    `credentials` and `options` are instances of the gateway's own `credentials` and `options`
    types; `zone` is for vendors' times without one.
    """

    name: str
    gateway: str
    base_url: str
    zone: ZoneInfo
    credentials: Any
    options: Any


class Callback(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One HTTP push, raw: `query` and `body` as the bytes that came, header names lower-case."""

    method: str
    query: bytes
    headers: Mapping[str, str]
    body: bytes


class Call(StrEnum):
    """The calls whose replies are kept as records and parsed later."""

    QUERY_STATUS = "query_status"
    QUERY_SIGN = "query_sign"
    QUERY_TEMPLATE = "query_template"
    ADD_SIGN = "add_sign"
    ADD_TEMPLATE = "add_template"
    MODIFY_SIGN = "modify_sign"
    MODIFY_TEMPLATE = "modify_template"
    DELETE_SIGN = "delete_sign"
    DELETE_TEMPLATE = "delete_template"
    SEND = "send"
    LIST_SENT = "list_sent"
    LIST_INBOUND = "list_inbound"
    QUERY_BALANCE = "query_balance"
    CHECK_KEYWORD = "check_keyword"
    CHANGE_PASSWORD = "change_password"  # noqa: S105  the name of a call
    PULL_REPORTS = "pull_reports"
    PULL_INBOUND = "pull_inbound"


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A vendor's answer to one of our calls, raw; header names lower-case.

    HTTP status was 2xx, or one that the client asked the transport to read. `subject` is what the
    call was about, as the record that keeps the reply has it; a client leaves it empty.
    """

    call: Call
    headers: Mapping[str, str]
    body: bytes
    subject: str = ""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """One text to one number, on its way out.

    `phone` is normalised; `number` is what the sender wrote, for vendors who want a country code
    (`gateways.phone.international`). `reference` is our own word for it, 32 hexadecimal digits,
    unique for ever. `content` is the text without its sign, `params` are a template's variables:
    by name, or in their order.
    """

    phone: str
    number: str
    reference: str
    content: str | None = None
    params: Mapping[str, str] | Sequence[str] | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one call sends: the same text to all, or where `personal` to each its own.

    `sign` has no brackets; for a gateway with `signs_by_id` it is the sign's id. `send_at` is aware.
    No two `messages` have the same `phone`.
    """

    messages: tuple[Outgoing, ...]
    personal: bool = False
    sign: str | None = None
    template_id: str | None = None
    send_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The bytes the vendor expects back, always with status 200."""

    body: bytes
    content_type: str


class Client:
    """Calls to one vendor for one account. What a vendor does not offer raises `Unsupported`.

    Every call returns the vendor's bytes (`Reply`) for `Gateway.parse_reply`. Raises `Unavailable`
    (nothing happened), `Indeterminate` (a read-once page may be gone, a submission may have been
    taken), `Refused` and `Garbled` as `Transport` does.
    """

    def __init__(self, account: Account, transport: "Transport") -> None:
        self.account = account
        self.transport = transport

    @property
    def pull_limit(self) -> int:
        """How many rows to ask a pull for; a page with fewer is the last. 0: the vendor decides."""
        return 0

    @property
    def ids_per_query(self) -> int:
        """How many messages one `query_status` can ask about."""
        return 1

    @property
    def numbers_per_send(self) -> int:
        """How many numbers one `send` takes with the same text."""
        return 1

    @property
    def texts_per_send(self) -> int:
        """How many numbers one `send` takes with a text each."""
        return 1

    @property
    def rows_per_list(self) -> int:
        """How many rows one `list_sent` hands out at most; a list with fewer is whole. 0: no such list."""
        return 0

    @property
    def inbound_per_list(self) -> int:
        """How many rows one `list_inbound` hands out at most; a page with fewer is the last."""
        return 0

    @property
    def days_per_list(self) -> int:
        """How many days `list_sent` and `list_inbound` may span. 0: no such list."""
        return 0

    async def send(self, batch: Batch) -> Reply:
        """Send; never repeated once the request left. The reply gives `Accepted` and `Rejected`."""
        raise Unsupported(f"{self.account.gateway} does not send")

    async def query_status(self, vendor_message_ids: Sequence[str]) -> Reply:
        """Ask for the state of up to `ids_per_query` messages; repeatable."""
        raise Unsupported(f"{self.account.gateway} has no status query")

    async def list_sent(self, start: datetime, end: datetime, index: int) -> Reply:
        """Ask for what was sent from `start` to `end` (aware), from row `index` on; repeatable."""
        raise Unsupported(f"{self.account.gateway} has no list of what was sent")

    async def list_inbound(self, start: datetime, end: datetime, page: int) -> Reply:
        """Ask for the inbound messages from `start` to `end`, page 1 first; repeatable."""
        raise Unsupported(f"{self.account.gateway} has no list of inbound messages")

    async def query_balance(self) -> Reply:
        """Ask what the account has left; repeatable."""
        raise Unsupported(f"{self.account.gateway} has no balance query")

    async def check_keyword(self, content: str) -> Reply:
        """Ask whether a text holds forbidden words; repeatable."""
        raise Unsupported(f"{self.account.gateway} has no keyword check")

    async def change_password(self, password: Secret) -> Reply:
        """Give the account a new password."""
        raise Unsupported(f"{self.account.gateway} has no password change")

    async def query_review(self, kind: ReviewKind, vendor_id: str) -> Reply:
        """Ask for the state of one sign or template; repeatable."""
        raise Unsupported(f"{self.account.gateway} has no review query")

    async def add_review(
        self, kind: ReviewKind, *, name: str, content: str | None, remark: str
    ) -> Reply:
        """Submit a new sign, or a template with its `content`. Done again it makes a second one."""
        raise Unsupported(f"{self.account.gateway} takes no {kind}s for review")

    async def modify_review(
        self, kind: ReviewKind, vendor_id: str, *, name: str, content: str | None, remark: str
    ) -> Reply:
        """Submit a rejected sign or template again, corrected, under its id."""
        raise Unsupported(f"{self.account.gateway} takes no {kind}s for review")

    async def delete_review(self, kind: ReviewKind, vendor_id: str) -> Reply:
        """Delete a sign or template, whatever became of it."""
        raise Unsupported(f"{self.account.gateway} deletes no {kind}s")

    async def pull_reports(self, limit: int) -> Reply:
        """Take up to `limit` reports. The vendor hands each out once."""
        raise Unsupported(f"{self.account.gateway} has no report pull")

    async def pull_inbound(self, limit: int) -> Reply:
        """Take waiting inbound messages. The vendor hands each out once."""
        raise Unsupported(f"{self.account.gateway} has no inbound pull")


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For a gateway whose accounts have no keys of their own."""


def domestic(_account: Account) -> Rule:
    """Return the rule of vendors who count every account's segments alike; named, to be pickled."""
    return Rule.DOMESTIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One vendor's dialect.

    `parse_callback` and `parse_reply` are pure. Both raise `Malformed`/`Garbled` where nothing at
    all can be understood; `parse_reply` raises `Refused` where the vendor said no.
    `credentials` and `options` are msgspec Structs (fields of type `Secret` for secrets) that
    settings are converted to, unknown keys forbidden. `methods`: how the vendor may push.
    `check_review` says, a sentence each, what the vendor's rules have against a sign (`content` is
    None) or a template before it is submitted; pure. `check_send` says, a sentence each, why what a
    sender wants cannot be sent through this account at all, before anything is; pure, phones and
    texts not quoted; None: everything can. `fill` puts variables into a template's text, None where
    it cannot; `variable` finds one in such a text, its first group its name. `explain` says what a
    code means with which the vendor refuses a send. `signs_by_id`: the vendor wants a sign's id, not its name.
    `sent_under` picks, of the ids that a report may name its message by, the one that the reply to
    its send gave, for so many numbers in the call; None: the first.
    `id_per_number`: each number of a request gets an id of its own, so that the same number twice can
    be told apart. `reports` False: nothing
    ever comes back, and "taken by the vendor" is the last that can be known of a message. `rule` is
    how the vendor counts segments for the account, `unit` what the domestic rule takes for one
    character; both are what the settings may override.
    """

    name: str
    vendor: str
    default_base_url: str
    credentials: type[msgspec.Struct]
    parse_callback: Callable[[Callback, Account], Parsed]
    parse_reply: Callable[[Reply, Account], Parsed]
    acknowledge: Callable[[Callback], Acknowledgement]
    client: type[Client]
    options: type[msgspec.Struct] = NoOptions
    methods: frozenset[str] = frozenset({"POST"})
    unit: Unit = Unit.UTF16
    rule: Callable[[Account], Rule] = domestic
    check_review: Callable[[ReviewKind, str, str | None], tuple[str, ...]] | None = None
    check_send: Callable[[Batch, Account], tuple[str, ...]] | None = None
    fill: Callable[[str, Mapping[str, str] | Sequence[str]], str | None] | None = None
    variable: re.Pattern[str] | None = None
    explain: Callable[[str], str | None] | None = None
    sent_under: Callable[[Sequence[str], int, Account], str] | None = None
    signs_by_id: bool = False
    id_per_number: bool = False
    reports: bool = True
    supports: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Derive `supports` from the calls that the client overrides."""
        offered = {
            name
            for name in dir(Client)
            if not name.startswith("_")
            and callable(getattr(Client, name))
            and getattr(self.client, name) is not getattr(Client, name)
        }
        object.__setattr__(self, "supports", frozenset(offered))
