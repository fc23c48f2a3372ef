"""Messages: those that other systems sent, those that we send, and what became of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException, NotFoundException
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIFormat
from litestar.params import FromPath, HeaderParameter, JSONBody

from reconciler import ledger, sending
from reconciler.api.access import OPERATOR, READER
from reconciler.api.asked import Since, Text, Until, accounts_of, between, known_account
from reconciler.api.lists import Format, Limit, page_or_file
from reconciler.api.problems import LISTING, SHOWING, TAKING, problems
from reconciler.reading import sent
from runtime.settings import AccountSettings

_MAX_SENT_BYTES = 64 * 1024 * 1024
_TEXT = Schema(type=OpenAPIType.STRING)
_SENT = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        **dict.fromkeys(ledger.Sent.__struct_fields__, _TEXT),
        "sent_at": Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME),
        "segments": Schema(type=OpenAPIType.INTEGER, minimum=0, maximum=1000),
    },
    required=["account", "vendor_message_id", "phone", "sent_at"],
)


@dataclass
class _SentOperation(Operation):
    """Says what `POST /v1/sent` takes, which reads its body by itself: no bad row sinks the others."""

    def __post_init__(self) -> None:
        """Add the body that Litestar cannot know of."""
        array = Schema(type=OpenAPIType.ARRAY, items=_SENT, max_items=ledger.MAX_ROWS)
        self.request_body = RequestBody(
            content={
                "application/json": OpenAPIMediaType(schema=array),
                "application/x-ndjson": OpenAPIMediaType(schema=_TEXT),
            },
            required=True,
        )


@post(
    "/v1/sent",
    status_code=200,
    responses=TAKING,
    request_max_body_size=_MAX_SENT_BYTES,
    operation_class=_SentOperation,
    **OPERATOR,
)
async def register_sent(request: Request[Any, Any, Any], state: State) -> dict[str, Any]:
    """Register messages that another system sent: a JSON array or NDJSON, up to 10,000."""
    accounts = state.settings.accounts
    now = datetime.now(UTC)
    rows = _sent_rows(await request.body(), request.headers.get("content-type", ""))
    if len(rows) > ledger.MAX_ROWS:
        raise HTTPException(
            f"{len(rows)} rows; a call takes {ledger.MAX_ROWS} at most", status_code=413
        )
    registered = await ledger.register(state.pool, accounts, _checked(rows, accounts, now), now=now)
    return msgspec.to_builtins(registered)  # type: ignore[no-any-return]


@post(
    "/v1/messages",
    status_code=200,
    responses=problems(409, 413, 422),
    request_max_body_size=_MAX_SENT_BYTES,
    **OPERATOR,
)
async def send_messages(
    state: State,
    data: JSONBody[sending.Request],
    key: Annotated[
        str | None,
        HeaderParameter(
            name="Idempotency-Key",
            description="a request with the key of one before is not sent again",
        ),
    ] = None,
) -> dict[str, Any]:
    """Send a text through an account's vendor, and say of each number what became of it."""
    known_account(state, data.account)
    return await sending.send(state.callers[data.account], data, key, now=datetime.now(UTC))


@get("/v1/sends/{send_id:uuid}", responses=SHOWING, **READER)
async def show_send(state: State, send_id: FromPath[UUID]) -> dict[str, Any]:
    """Show what became of a request to send, number by number."""
    async with state.pool.acquire() as connection:
        found = await sent.send(connection, state.settings.accounts, send_id)
    if found is None:
        raise NotFoundException("no such send")
    return found


@get("/v1/messages", responses=LISTING, **READER)
async def list_messages(
    state: State,
    since: Since = None,
    until: Until = None,
    account: Text = None,
    phone: Text = None,
    vendor_message_id: Text = None,
    reference: Text = None,
    status: Text = None,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List messages, the newest first."""
    filters = sent.Filters(phone, vendor_message_id, reference, status, *between(since, until))
    return await page_or_file(
        state,
        partial(sent.messages, accounts=accounts_of(state, account), filters=filters),
        cursor,
        limit,
        shape,
        columns=sent.MESSAGE_COLUMNS,
        name="messages",
    )


@get("/v1/messages/{message_id:uuid}", responses=SHOWING, **READER)
async def show_message(state: State, message_id: FromPath[UUID]) -> dict[str, Any]:
    """Show one message with its evidence in order."""
    async with state.pool.acquire() as connection:
        found = await sent.message(connection, state.settings.accounts, message_id)
    if found is None:
        raise NotFoundException("no such message")
    return found


def _sent_rows(body: bytes, content_type: str) -> list[Any]:
    """Return the decoded rows of a JSON array or NDJSON; a line that is no JSON is a ValueError in its place."""
    text = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"[") and "ndjson" not in content_type:
        try:
            return ledger.decode_array(text)
        except ValueError:
            raise HTTPException("the body is not JSON", status_code=400) from None
    if not text:
        raise HTTPException("the body is empty", status_code=400)
    found: list[Any] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            found.append(ledger.decode_row(line))
        except ValueError as error:
            found.append(error)
        if len(found) > ledger.MAX_ROWS:
            break
    if all(isinstance(row, ValueError) for row in found):
        raise HTTPException("the body is neither a JSON array nor NDJSON", status_code=400)
    return found


def _checked(
    rows: Sequence[Any], accounts: Mapping[str, AccountSettings], now: datetime
) -> Iterator[ledger.Sent | ledger.Rejected]:
    """Check decoded rows one by one, as they are registered: no other request waits for all of them."""
    for index, row in enumerate(rows):
        try:
            if isinstance(row, ValueError):
                raise row
            checked: ledger.Sent | ledger.Rejected = ledger.convert(row, accounts, now)
        except ValueError as error:
            checked = ledger.Rejected(index, str(error))
        yield checked


ROUTES = [register_sent, send_messages, show_send, list_messages, show_message]
