"""Credit notes: what vendors gave back, what became of it, and a file of them on its way in."""

from datetime import UTC, datetime
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from litestar import Request, Response, get, post
from litestar.datastructures import State, UploadFile

from reconciler import credits
from reconciler.actions import concerns
from reconciler.dashboard.pages import (
    account_asked,
    accounts_of,
    asked,
    is_partial,
    link,
    need,
    render,
)
from reconciler.dashboard.reconciliation import shown_soon
from reconciler.dashboard.tasks import Task
from reconciler.dashboard.uploads import keep
from reconciler.reading import disputed
from reconciler.tables import MAX_UPLOAD_BYTES
from reconciler.tokens import Role
from runtime import Problem

OUTCOMES = ("settled", "partly", "over")
_ROWS = 100


@get("/credits")
async def show_credits(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show lines of credit notes, those imported last first."""
    account, left = account_asked(request), asked(request, "unallocated")
    cursor = asked(request, "cursor")
    async with state.pool.acquire() as connection:
        page = await disputed.credits(
            connection,
            accounts_of(request, account),
            left=left is not None,
            cursor=cursor,
            limit=_ROWS,
        )
    values = {"account": account, "unallocated": left}
    return render(
        request,
        "credit_rows.html" if cursor and is_partial(request) else "credits.html",
        items=page.items,
        next=None if page.next is None else link("/credits", values, cursor=page.next),
        values=values,
        names=sorted(state.settings.accounts),
        exports=link("/v1/credits", {"account": account, "unallocated": left and "true"}),
    )


@post("/credits", status_code=200, request_max_body_size=MAX_UPLOAD_BYTES)
async def take(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Import a file of credit notes, whole or not at all, against what is disputed."""
    need(request, Role.OPERATOR)
    form = await request.form()
    account, file = str(form.get("account") or ""), form.get("file")
    settings = state.settings.accounts.get(account)
    if settings is None:
        raise Problem("account: choose one")
    if not isinstance(file, UploadFile) or not file.filename:
        raise Problem("file: choose one")
    concerns(account=account)
    name, sheet = Path(file.filename).name, str(form.get("sheet") or "").strip() or None
    back = link("/credits", {"account": account})
    # The request's own file is gone when it is answered.
    path = state.tasks.folder / f"{token_urlsafe(12)}.credits"
    await keep(file, path)

    async def work(task: Task) -> None:
        try:
            async with state.database.connection() as connection:
                await credits.import_file(
                    connection,
                    settings,
                    path,
                    file_name=name,
                    sheet=sheet,
                    now=datetime.now(UTC),
                )
        finally:
            path.unlink(missing_ok=True)
        task.result = back

    return await shown_soon(request, state.tasks.begin("credits", name, back, work))


ROUTES = [show_credits, take]
