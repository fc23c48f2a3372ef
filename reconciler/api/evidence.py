"""Evidence: packages that are checked without us, and the head of the chain."""

import asyncio
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from litestar import get
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Stream

from reconciler import chain, evidence, exports
from reconciler.api.access import READER
from reconciler.api.asked import Text
from reconciler.api.problems import Unprocessable, problems
from reconciler.jobs import holder


@get("/v1/reconciliations/{run_id:uuid}/evidence", responses=problems(404, 409, 422), **READER)
async def show_evidence(state: State, run_id: FromPath[UUID], head: Text = None) -> Stream:
    """Give a reconciliation's evidence package: a zip that is checked without us."""
    if head is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", head):
        raise Unprocessable("head: expected 64 hexadecimal digits")
    anchored = None if head is None else bytes.fromhex(head)
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="huizhi-"))
    path = folder / "evidence.zip"
    try:
        async with state.database.connection() as connection:
            await evidence.write(
                state.pool, connection, run_id, path, holder=holder(), head=anchored
            )
    except BaseException as error:
        shutil.rmtree(folder)
        if isinstance(error, evidence.NoRun):
            raise NotFoundException("no such reconciliation") from None
        raise
    return Stream(
        exports.file_chunks(path),
        media_type="application/zip",
        headers={"content-disposition": f'attachment; filename="evidence-{run_id}.zip"'},
    )


@get("/v1/chain/head", responses=problems(), **READER)
async def show_chain_head(state: State) -> dict[str, Any]:
    """Show the newest link of the chain: what is anchored outside."""
    async with state.pool.acquire() as connection:
        found = await chain.head(connection)
        behind = await chain.behind_seconds(connection)
    return {**msgspec.structs.asdict(found), "behind_seconds": behind}


ROUTES = [show_evidence, show_chain_head]
