"""What was done to what is stored: numbers erased, and records parsed again."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, JSONBody

from reconciler import erasure, replay
from reconciler.api.access import ADMIN, READER
from reconciler.api.asked import Name, Text
from reconciler.api.lists import Limit, one_page
from reconciler.api.problems import LISTING, SHOWING, problems
from runtime.pseudonyms import pseudonyms

_ERASING_SECONDS = 5.0  # an answer is waited for so long


class Number(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose number to erase, and in whose name."""

    phone: Name
    by: Name = "api"


@post(
    "/v1/erasures",
    status_code=200,
    responses={
        **problems(409, 413, 422),
        202: ResponseSpec(
            erasure.Erasure, generate_examples=False, description="Under way: ask for it by its id"
        ),
    },
    **ADMIN,
)
async def erase_number(state: State, data: JSONBody[Number]) -> Response[erasure.Erasure]:
    """Erase one number everywhere; answers when that is done, or with 202 when it takes longer."""
    begun = await erasure.begin(
        state.pool,
        pseudonyms(state.settings),
        data.phone,
        by=data.by,
        now=datetime.now(UTC),
    )
    erasing = state.erasing.start(state.pool, state.settings.accounts, begun)
    done, _ = await asyncio.wait({erasing}, timeout=_ERASING_SECONDS)
    if done:
        return Response(await erasing)
    async with state.pool.acquire() as connection:
        so_far = await erasure.one(connection, begun.id)
    assert so_far is not None
    headers = {"location": f"/v1/erasures/{begun.id}"}
    return Response(so_far, status_code=202, headers=headers)


@get("/v1/erasures/{erasure_id:uuid}", responses=SHOWING, **READER)
async def show_erasure(state: State, erasure_id: FromPath[UUID]) -> erasure.Erasure:
    """Show an erasure: how far it has come, never the number."""
    async with state.pool.acquire() as connection:
        found = await erasure.one(connection, erasure_id)
    if found is None:
        raise NotFoundException("no such erasure")
    return found


@get("/v1/erasures", responses=LISTING, **READER)
async def list_erasures(state: State, cursor: Text = None, limit: Limit = 100) -> Response[Any]:
    """List erasures, the newest first; never the numbers."""
    return await one_page(state, erasure.erasures, cursor, limit)


@get("/v1/replays", responses=LISTING, **READER)
async def list_replays(state: State, cursor: Text = None, limit: Limit = 100) -> Response[Any]:
    """List what was parsed again and put right, the newest first."""
    return await one_page(state, replay.replays, cursor, limit)


ROUTES = [erase_number, show_erasure, list_erasures, list_replays]
