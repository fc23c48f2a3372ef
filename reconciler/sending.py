"""Sending: the intent is stored, then the vendor is called, once; what became of it is stored as it came.

A call whose outcome nobody knows is never made again. Its messages are `indeterminate` until a report,
a query or a statement tells; a sender that died is found by its send, which nobody keeps alive.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import structlog

from gateways import segments, wire
from gateways.errors import (
    Garbled,
    Indeterminate,
    Malformed,
    Refused,
    Unavailable,
    Unsupported,
)
from gateways.events import ReviewKind
from gateways.gateway import Batch, Call, Outgoing, Reply
from gateways.phone import normalise
from reconciler import ledger
from reconciler.asking import keep
from reconciler.poll import Caller, Done
from reconciler.reading import sent
from runtime import Problem, metrics, records, sends, settlement
from runtime.database import DATABASE_ERRORS
from runtime.identity import message_id, shard_of
from runtime.queries import QUERIES
from runtime.sends import Identified, Outcome
from runtime.settings import AccountSettings

log = structlog.get_logger()

MAX_NUMBERS = 10_000
CONCURRENT = 16
ALIVE_SECONDS = 30.0
BEAT_SECONDS = 5.0
# How long a second request with the same key waits for the first one's outcome.
PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.2
_LONGEST_PHONE = 20
_TEXTS = ("content", "sign", "template_id", "reference")
_LONGEST_KEY = 255
_DEAD = 100
_RESOLVED = 1000
# How far a vendor's clock and ours may be apart.
_SKEW_SECONDS = 300.0
# A statement's time of a message is that of its sending, to the day at worst.
_LINE_SECONDS = 86_400.0

Params = dict[str, str | int] | list[str | int]


class Unfit(Problem):
    """A request that cannot be sent, before anything was; the text says why and quotes no number."""


class KeyReused(Problem):
    """The idempotency key was used before for another request."""


class StillSending(Problem):
    """What was asked for under the same key is still being sent; ask again."""


class NothingSent(Problem):
    """The vendor cannot be reached and nothing of the request was sent; ask again.

    `retry_after_seconds` is the vendor's own wish.
    """

    def __init__(self, text: str, retry_after_seconds: float | None) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds


class Interrupted(Problem):
    """The database went away while a request was being sent: parts of it may have been."""


class Recipient(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number with a text or with variables of its own."""

    phone: str
    content: str | None = None
    params: Params | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to send: the same to all `phones`, or to each of `recipients` its own.

    `content` is the text without its sign; with `template_id` it is what the handset will show, for
    the ledger, and the vendor makes the text from the template and `params`. `send_at` is aware.
    """

    account: str
    phones: list[str] = []
    recipients: list[Recipient] = []
    content: str | None = None
    sign: str | None = None
    template_id: str | None = None
    params: Params | None = None
    reference: str | None = None
    send_at: datetime | None = None


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    """One text to one number; `shown` is what the handset will show, where we can know."""

    phone: str
    number: str
    content: str | None
    params: Mapping[str, str] | Sequence[str] | None
    shown: str | None


class _Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A request that can be sent; `sign` is the name, `wire_sign` what the vendor wants for it."""

    messages: Sequence[_Message]
    duplicates: Sequence[int]
    personal: bool
    sign: str | None
    wire_sign: str | None
    sent_at: datetime


class _Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One call, with its messages as they go out and as they stand in the ledger."""

    id: UUID
    batch: Batch
    rows: Sequence[tuple[Any, ...]]


async def send(
    caller: Caller, request: Request, key: str | None, *, now: datetime
) -> dict[str, Any]:
    """Send what `request` asks for, once; return it as `sent.send` does.

    With the idempotency `key` of a request made before, nothing is sent and what became of that one
    is returned. Raises `Unfit`, `KeyReused`, `StillSending` and `NothingSent`, after which this
    call has sent nothing; `Interrupted`; and one of `DATABASE_ERRORS` before anything was sent.
    """
    if not caller.offers(Call.SEND):
        raise Unsupported(f"{caller.settings.gateway.vendor} ({caller.name}) does not send")
    digest = hashlib.sha256(msgspec.json.encode(request, order="sorted")).digest()
    if key is not None:
        if not key.strip() or len(key) > _LONGEST_KEY:
            raise Unfit(f"Idempotency-Key: expected 1 to {_LONGEST_KEY} characters")
        if earlier := await _earlier(caller, key, digest):
            return earlier
    draft = await _draft(caller, request, now)
    submissions = _submissions(caller, request, draft)
    send_id = uuid4()
    if not await _intend(caller, request, send_id, key, digest, draft, submissions, now):
        # Another request with this key was quicker.
        assert key is not None
        if earlier := await _earlier(caller, key, digest):
            return earlier
        raise StillSending("a request with the same Idempotency-Key has just failed; ask again")
    stopped = asyncio.Event()
    work = asyncio.create_task(_carry_out(caller, send_id, submissions, stopped))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        # What has left lands first; what has not is given up by whoever finds the send dead.
        stopped.set()
        await asyncio.gather(work, return_exceptions=True)
        raise
    except DATABASE_ERRORS as error:
        raise Interrupted(
            f"the database went away during send {send_id}; do not send again but with the same"
            " Idempotency-Key: it may have been sent"
        ) from error


async def give_up_dead(pool: Any, accounts: Mapping[str, AccountSettings]) -> int:
    """Conclude sends whose sender is gone; return how many submissions that were.

    What was queued was not sent; what was being called may have been.
    """
    given_up = 0
    async with pool.acquire() as connection, connection.transaction():
        for dead in await connection.fetch(QUERIES["dead_sends"], _DEAD):
            settings = accounts.get(dead["account"])
            if settings is None:
                continue
            for row in await connection.fetch(QUERIES["open_submissions"], dead["id"]):
                called = row["state"] == "calling"
                outcome = Outcome(
                    submission=row["id"],
                    account=dead["account"],
                    state="indeterminate" if called else "nothing",
                    reason="the sender stopped before it knew the outcome"
                    if called
                    else "not sent: the sender stopped before its turn",
                )
                await sends.conclude(connection, settings, outcome, datetime.now(UTC))
                _tell(outcome)
                given_up += 1
            await connection.execute(QUERIES["end_send"], dead["id"], False)
    return given_up


async def resolve(caller: Caller) -> Done:
    """Identify messages in doubt by reports that can mean no other; see `identifiable_by_reports`.

    Not before `poll_after_seconds` after the send, so that whoever sends by another way through the
    same account has registered what is theirs.
    """
    settings, now = caller.settings, datetime.now(UTC)
    async with caller.pool.acquire() as connection:
        async with connection.transaction():
            rows = await connection.fetch(
                QUERIES["identifiable_by_reports"],
                caller.name,
                now - timedelta(seconds=settings.poll_after_seconds),
                _SKEW_SECONDS,
                settings.poll_until_hours * 3600,
                _RESOLVED,
            )
            found = _identified(rows)
            if pick := settings.gateway.sent_under:
                found = [
                    msgspec.structs.replace(
                        one, vendor_message_id=pick(row["names"], row["numbers"], settings.account)
                    )
                    for one, row in zip(found, rows, strict=True)
                ]
            keys = await sends.identify(connection, settings, found, by="report", now=now)
        final = await settlement.join_orphans(connection, keys)
    if keys:
        log.info("send.resolved", account=caller.name, messages=len(keys), by="report")
    return Done(final=final)


async def resolve_by_statement(
    connection: Any, settings: AccountSettings, statement: UUID, period: tuple[datetime, datetime]
) -> list[sends.Key]:
    """Identify messages in doubt by the lines of a statement; fold the keys after the commit."""
    rows = await connection.fetch(
        QUERIES["identifiable_by_statement"],
        settings.account.name,
        statement,
        _LINE_SECONDS,
        *period,
    )
    return await sends.identify(
        connection, settings, _identified(rows), by="statement", now=datetime.now(UTC)
    )


def _identified(rows: Iterable[Any]) -> list[Identified]:
    return [
        Identified(**{name: row[name] for name in Identified.__struct_fields__}) for row in rows
    ]


# --- before the call ----------------------------------------------------------------------------------


async def _earlier(caller: Caller, key: str, digest: bytes) -> dict[str, Any] | None:
    """Return what became of the request made before with `key`, once that is known."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        async with caller.pool.acquire() as connection:
            known = await connection.fetchrow(QUERIES["send_of_key"], caller.name, key)
            if known is None:
                return None
            if known["request_digest"] != digest:
                raise KeyReused("this Idempotency-Key was used before for another request")
            found = await sent.send(connection, caller.accounts, known["id"])
        if found is not None and found["status"] != "submitting":
            return {**found, "replayed": True}
        if asyncio.get_running_loop().time() > deadline:
            raise StillSending("what was asked for under this Idempotency-Key is still being sent")
        await give_up_dead(caller.pool, caller.accounts)
        await asyncio.sleep(_LOOK_SECONDS)


async def _draft(caller: Caller, request: Request, now: datetime) -> _Draft:
    """Check `request` whole before anything is stored; raises `Unfit`."""
    settings = caller.settings
    gateway = settings.gateway
    if bool(request.phones) == bool(request.recipients):
        raise Unfit("expected phones, or recipients with a text each, and not both")
    if len(request.phones) + len(request.recipients) > MAX_NUMBERS:
        raise Unfit(f"expected at most {MAX_NUMBERS} numbers in one request")
    for name in _TEXTS:
        text = getattr(request, name)
        if text is not None:
            _check_text(name, text, ledger.MAX_TEXT[name])
    if request.send_at is not None and request.send_at.tzinfo is None:
        raise Unfit("send_at has no offset, such as +08:00")
    if request.send_at is not None and request.send_at <= now:
        raise Unfit("send_at is over")
    sign = segments.unbracketed(request.sign) if request.sign else None
    async with caller.pool.acquire() as connection:
        wire_sign = sign
        if sign and gateway.signs_by_id:
            sign, wire_sign = await _sign(connection, caller.name, sign)
        template = None
        if request.template_id is not None:
            row = await connection.fetchrow(
                QUERIES["review_text"], caller.name, ReviewKind.TEMPLATE, request.template_id
            )
            template = None if row is None else row["content"]
    given = request.recipients or [Recipient(phone=phone) for phone in request.phones]
    where = "recipients" if request.recipients else "phones"
    messages: list[_Message] = []
    duplicates: list[int] = []
    seen: set[str] = set()
    for index, one in enumerate(given):
        phone = normalise(one.phone)
        if not 5 <= len(phone) <= _LONGEST_PHONE:
            raise Unfit(f"{where}[{index}] is no phone number")
        if one.content is not None:
            _check_text(f"{where}[{index}].content", one.content, ledger.MAX_TEXT["content"])
        if phone in seen and not gateway.id_per_number:
            duplicates.append(index)
            continue
        seen.add(phone)
        params = _params(one.params if one.params is not None else request.params)
        content = one.content if one.content is not None else request.content
        shown = content
        if content is None and template is not None and gateway.fill is not None:
            shown = gateway.fill(template, params or {})
        messages.append(
            _Message(phone=phone, number=one.phone, content=content, params=params, shown=shown)
        )
    if request.template_id is None and any(not message.content for message in messages):
        raise Unfit("content is missing")
    draft = _Draft(
        messages=messages,
        duplicates=duplicates,
        personal=len({(one.content, repr(one.params)) for one in messages}) > 1,
        sign=sign,
        wire_sign=wire_sign,
        sent_at=request.send_at or now,
    )
    if gateway.check_send is not None:
        whole = _batch(request, draft, messages, [UUID(int=0)] * len(messages))
        if problems := gateway.check_send(whole, settings.account):
            raise Unfit("; ".join(problems))
    return draft


async def _sign(connection: Any, account: str, sign: str) -> tuple[str | None, str]:
    """Return the name of a sign, where we know it, and its id; `sign` is either."""
    if sign.isascii() and sign.isdigit():
        row = await connection.fetchrow(QUERIES["review_text"], account, ReviewKind.SIGN, sign)
        return (None if row is None else row["name"]), sign
    vendor_id = await connection.fetchval(QUERIES["approved_sign"], account, sign)
    if vendor_id is None:
        raise Unfit("no approved sign of that name is known here; give its id")
    return sign, vendor_id


def _params(given: Params | None) -> Mapping[str, str] | Sequence[str] | None:
    if isinstance(given, dict):
        return {name: str(value) for name, value in given.items()}
    return None if given is None else [str(value) for value in given]


def _check_text(name: str, text: str, most: int) -> None:
    if len(text) > most:
        raise Unfit(f"{name} has more than {most} characters")
    try:
        wire.storable(text, name)
    except Malformed as error:
        raise Unfit(str(error)) from None


def _submissions(caller: Caller, request: Request, draft: _Draft) -> list[_Submission]:
    """Split a draft to what the vendor takes in one call; a number stands in a call once."""
    client = caller.client
    size = client.texts_per_send if draft.personal else client.numbers_per_send
    found = []
    for messages in _split(draft.messages, max(size, 1)):
        submission = uuid4()
        provisional = sends.provisional_id(submission)
        shard = shard_of(caller.name, provisional)
        ids = [message_id(caller.name, provisional, message.phone) for message in messages]
        rows = [
            (
                shard,
                id,
                provisional,
                message.phone,
                ledger.counted(message.shown, draft.sign, caller.settings),
                message.shown,
                submission,
            )
            for id, message in zip(ids, messages, strict=True)
        ]
        batch = _batch(request, draft, messages, ids)
        found.append(_Submission(id=submission, batch=batch, rows=rows))
    return found


def _split(messages: Sequence[_Message], size: int) -> Iterator[list[_Message]]:
    rounds: list[list[_Message]] = []
    times: dict[str, int] = {}
    for message in messages:
        nth = times[message.phone] = times.get(message.phone, 0) + 1
        if nth > len(rounds):
            rounds.append([])
        rounds[nth - 1].append(message)
    for each in rounds:
        for start in range(0, len(each), size):
            yield each[start : start + size]


def _batch(
    request: Request, draft: _Draft, messages: Sequence[_Message], ids: Sequence[UUID]
) -> Batch:
    return Batch(
        messages=tuple(
            Outgoing(
                phone=message.phone,
                number=message.number,
                reference=id.hex,
                content=message.content,
                params=message.params,
            )
            for message, id in zip(messages, ids, strict=True)
        ),
        personal=draft.personal,
        sign=draft.wire_sign,
        template_id=request.template_id,
        send_at=request.send_at,
    )


async def _intend(
    caller: Caller,
    request: Request,
    send_id: UUID,
    key: str | None,
    digest: bytes,
    draft: _Draft,
    submissions: Sequence[_Submission],
    now: datetime,
) -> bool:
    """Store the intent; False if the key was used meanwhile. Durable on return."""
    async with caller.pool.acquire() as connection, connection.transaction():
        added = await connection.fetchval(
            QUERIES["add_send"],
            send_id,
            caller.name,
            key,
            digest,
            now,
            list(draft.duplicates),
            ALIVE_SECONDS,
        )
        if added is None:
            return False
        await connection.execute(
            QUERIES["add_submissions"],
            send_id,
            caller.name,
            [submission.id for submission in submissions],
            list(range(len(submissions))),
            [len(submission.rows) for submission in submissions],
        )
        rows = [row for submission in submissions for row in submission.rows]
        await connection.execute(
            QUERIES["add_submitting"],
            caller.name,
            draft.sent_at,
            now,
            draft.sign,
            request.reference,
            request.template_id,
            *map(list, zip(*rows, strict=True)),
        )
    return True


# --- the calls ----------------------------------------------------------------------------------------


async def _carry_out(
    caller: Caller, send_id: UUID, submissions: Sequence[_Submission], stopped: asyncio.Event
) -> dict[str, Any]:
    """Make the calls, a few at a time, and return what became of them."""
    waiting = iter(submissions)
    outcomes: list[Outcome] = []
    wishes: list[float] = []

    async def call_one_after_another() -> None:
        for submission in waiting:
            if stopped.is_set():
                return
            outcome = await _call(caller, submission, wishes)
            if outcome is not None:
                outcomes.append(outcome)

    beating = asyncio.create_task(_beat(caller, send_id))
    workers = [
        asyncio.create_task(call_one_after_another())
        for _ in range(min(CONCURRENT, len(submissions)))
    ]
    try:
        await asyncio.gather(*workers)
    finally:
        stopped.set()
        await asyncio.gather(*workers, return_exceptions=True)
        beating.cancel()
    nothing = [outcome for outcome in outcomes if outcome.state == "nothing"]
    nothing_at_all = len(nothing) == len(submissions)
    if len(outcomes) == len(submissions):
        await caller.pool.execute(QUERIES["end_send"], send_id, nothing_at_all)
    if nothing_at_all:
        raise NothingSent(nothing[0].reason or "not sent", max(wishes, default=None))
    async with caller.pool.acquire() as connection:
        found = await sent.send(connection, caller.accounts, send_id)
    assert found is not None
    return found


async def _beat(caller: Caller, send_id: UUID) -> None:
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        # Who cannot say so in time is taken for dead, and finds the calls not yet made given up.
        with contextlib.suppress(*DATABASE_ERRORS):
            await caller.pool.execute(QUERIES["keep_send_alive"], send_id, ALIVE_SECONDS)


async def _call(caller: Caller, submission: _Submission, wishes: list[float]) -> Outcome | None:
    """Make one call, once, and store what became of it; None if it was given up before."""
    claimed = await caller.pool.fetchval(
        QUERIES["claim_submission"], submission.id, datetime.now(UTC)
    )
    if claimed is None:
        return None
    outcome = Outcome(submission=submission.id, account=caller.name, state="indeterminate")
    reply: Reply | None = None
    try:
        reply = await caller.client.send(submission.batch)
    except Unavailable as error:
        outcome.state, outcome.reason = "nothing", f"not sent: {error}"
        if error.retry_after_seconds is not None:
            wishes.append(error.retry_after_seconds)
    except Refused as error:
        outcome.state, outcome.vendor_code, outcome.reason = "refused", error.code, error.words
    except (Indeterminate, Garbled) as error:
        outcome.reason = str(error)
        left = error.partial if isinstance(error, Indeterminate) else error.body
        reply = Reply(call=Call.SEND, headers={}, body=left) if left else None
    except Exception as bug:
        # Whether the request had left by then, nobody knows.
        log.exception("send.failed", account=caller.name, submission=str(submission.id))
        outcome.reason = f"the call failed: {type(bug).__name__}"
    if reply is not None:
        # Settling it concludes the submission.
        await keep(
            caller,
            records.of_reply(
                caller.name,
                reply,
                subject=str(submission.id),
                once=False,
                received_at=datetime.now(UTC),
            ),
        )
        state = await caller.pool.fetchrow(QUERIES["submission"], submission.id)
        if state["state"] != "calling":
            outcome.state, outcome.reason = state["state"], state["reason"]
            outcome.vendor_code = state["vendor_code"]
            reply = None
            _tell(outcome)
            return outcome
        outcome.reason = outcome.reason or "the reply could not be stored whole"
    async with caller.pool.acquire() as connection, connection.transaction():
        await sends.conclude(connection, caller.settings, outcome, datetime.now(UTC))
    _tell(outcome)
    return outcome


_OUTCOMES = {
    "accepted": "ok",
    "refused": "refused",
    "nothing": "unavailable",
    "indeterminate": "indeterminate",
}


def _tell(outcome: Outcome) -> None:
    metrics.VENDOR_CALLS.labels(outcome.account, Call.SEND.value, _OUTCOMES[outcome.state]).inc()
    if outcome.state in ("refused", "indeterminate"):
        log.error(
            f"send.{outcome.state}",
            account=outcome.account,
            submission=str(outcome.submission),
            vendor_code=outcome.vendor_code,
            reason=outcome.reason,
        )
