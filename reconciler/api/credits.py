"""Vendors' credit notes, set against what is disputed."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State, UploadFile
from litestar.params import MultipartBody, QueryParameter

from reconciler import credits
from reconciler.api.access import OPERATOR, READER
from reconciler.api.asked import Text, accounts_of, known_account, spooled
from reconciler.api.lists import Format, Limit, page_or_file
from reconciler.api.problems import LISTING, TAKING
from reconciler.reading import disputed
from reconciler.tables import MAX_UPLOAD_BYTES


class CreditFile(msgspec.Struct):
    """A vendor's credit notes as multipart form data."""

    file: UploadFile
    account: str
    sheet: str | None = None


@post(
    "/v1/credits",
    status_code=200,
    responses=TAKING,
    request_max_body_size=MAX_UPLOAD_BYTES,
    **OPERATOR,
)
async def import_credits(state: State, data: MultipartBody[CreditFile]) -> dict[str, Any]:
    """Import a vendor's credit notes, whole or not at all, and set them against what is disputed."""
    settings = known_account(state, data.account)
    async with spooled(data.file) as path, state.pool.acquire() as connection:
        return await credits.import_file(
            connection,
            settings,
            path,
            file_name=Path(data.file.filename or "credits").name,
            sheet=data.sheet or None,
            now=datetime.now(UTC),
        )


@get("/v1/credits", responses=LISTING, **READER)
async def list_credits(
    state: State,
    account: Text = None,
    number: Text = None,
    unallocated: Annotated[bool, QueryParameter(description="only what is not used up")] = False,
    cursor: Text = None,
    limit: Limit = 100,
    shape: Format = "json",
) -> Response[Any]:
    """List lines of credit notes with what became of each; those imported last first."""
    return await page_or_file(
        state,
        partial(
            disputed.credits, accounts=accounts_of(state, account), number=number, left=unallocated
        ),
        cursor,
        limit,
        shape,
        columns=disputed.CREDIT_COLUMNS,
        name="credits",
    )


ROUTES = [import_credits, list_credits]
