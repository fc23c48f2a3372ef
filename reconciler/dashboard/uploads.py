"""A vendor's bill on its way in: shown as it would be read, its columns mapped by hand, imported.

A file waits here, in this process and its folder, for as long as somebody looks at it. What is imported
is in the database.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State, UploadFile
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from reconciler import match, periods, statements
from reconciler.actions import concerns
from reconciler.dashboard.pages import asked, goes_on, need, render
from reconciler.dashboard.reconciliation import chosen, shown_soon
from reconciler.dashboard.tasks import Task, Tasks
from reconciler.periods import Period
from reconciler.tables import MAX_UPLOAD_BYTES, Complaint, FileError, Layout, opened
from reconciler.tokens import Role
from runtime import Problem
from runtime.settings import STATEMENT_COLUMNS, Settings

_KEPT_SECONDS = 24 * 3600.0
_HEADING_ROWS = 30
_GIVEN = ("account", "period", "format", "sheet", "lines", "segments", "amount")


@dataclass(slots=True, eq=False)
class Upload:
    """A file that waits; `mapping` has the field of a heading where a person has said so."""

    id: str
    account: str
    period: str
    path: Path
    file_name: str
    format: str
    sheet: str | None
    expect: dict[str, str]
    at: float = field(default_factory=time.monotonic)
    mapping: dict[str, str] | None = None
    columns: list[tuple[str, str]] = field(default_factory=list)  # headings, and a cell of each
    preview: statements.Preview | None = None
    complaints: list[Complaint] = field(default_factory=list)

    def layout(self, settings: Settings) -> Layout:
        """Return how the file is read; raises ValueError for an unknown format."""
        if self.mapping is None:
            return statements.format_layout(settings, self.format, sheet=self.sheet)
        known = {field: (heading,) for heading, field in self.mapping.items()}
        return Layout(known=known, required=statements.REQUIRED, sheet=self.sheet)

    @property
    def format_name(self) -> str:
        """What the statement says it was read by."""
        return self.format if self.mapping is None else "mapped"

    def expected(self) -> statements.Expected:
        """Return the control totals; raises ValueError."""
        lines, segments = (
            int(text) if (text := self.expect[name]) else None for name in ("lines", "segments")
        )
        return statements.expected(lines, segments, self.expect["amount"] or None)


@get("/upload")
async def show_form(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show the form for a vendor's bill."""
    need(request, Role.OPERATOR)
    return _form(request, state, {name: asked(request, name) for name in ("account", "period")})


def _form(
    request: Request[Any, Any, Any],
    state: State,
    given: Mapping[str, Any],
    problem: str | None = None,
) -> Response[Any]:
    return render(
        request,
        "upload.html",
        names=sorted(state.settings.accounts),
        formats=["generic", *sorted(state.settings.statements)],
        given={name: given.get(name) or "" for name in _GIVEN},
        problem=problem,
    )


@post("/upload", status_code=200, request_max_body_size=MAX_UPLOAD_BYTES)
async def take(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Keep the file, and read it without importing anything."""
    need(request, Role.OPERATOR)
    form = await request.form()
    given = {
        name: str(form.get(name) or "").strip() for name in ("account", "period", "format", "sheet")
    }
    expect = {name: str(form.get(name) or "").strip() for name in ("lines", "segments", "amount")}
    file = form.get("file")
    try:
        if given["account"] not in state.settings.accounts:
            raise ValueError("account: choose one")
        period = periods.parse(given["period"])
        if not isinstance(file, UploadFile) or not file.filename:
            raise ValueError("file: choose one")
        upload = Upload(
            token_urlsafe(12),
            given["account"],
            str(period),
            state.tasks.folder / "none",
            Path(file.filename).name,
            given["format"] or "generic",
            given["sheet"] or None,
            expect,
        )
        upload.layout(state.settings)
        upload.expected()
    except ValueError as error:
        return _form(request, state, {**given, **expect}, str(error))
    concerns(account=upload.account, period=upload.period)
    upload.path = state.tasks.folder / f"{upload.id}.statement"
    await keep(file, upload.path)
    _keep(state, upload)
    return await _read(request, state, upload)


async def keep(file: UploadFile, path: Path) -> None:
    """Write a request's file to `path`, piece by piece."""
    with path.open("wb") as kept:
        while chunk := await file.read(1 << 20):
            await asyncio.to_thread(kept.write, chunk)


def _keep(state: State, upload: Upload) -> None:
    """Keep it, and forget those that nobody came back to."""
    kept: dict[str, Upload] = state.uploads
    over = time.monotonic() - _KEPT_SECONDS
    for id in [id for id, each in kept.items() if each.at < over]:
        kept.pop(id).path.unlink(missing_ok=True)
    kept[upload.id] = upload


async def _read(request: Request[Any, Any, Any], state: State, upload: Upload) -> Response[Any]:
    """Read the file as it would be imported, and show that."""
    settings = state.settings.accounts[upload.account]
    here = f"/upload/{upload.id}"

    async def work(task: Task) -> None:
        upload.preview, upload.complaints = None, []
        try:
            upload.columns = await asyncio.to_thread(_columns, upload)
            upload.preview = await statements.preview(
                settings,
                upload.path,
                file_name=upload.file_name,
                format_name=upload.format_name,
                layout=upload.layout(state.settings),
                expect=upload.expected(),
                progress=lambda lines, share: task.progress(f"{lines:,}", share),
            )
        except FileError as error:
            upload.complaints = error.complaints
        task.result = here

    task = state.tasks.begin("preview", upload.file_name, here, work)
    return await shown_soon(request, task)


def _columns(upload: Upload) -> list[tuple[str, str]]:
    """Return what columns are headed with, of the first rows the first of the fullest, and a cell below."""
    anything = Layout(known={}, required=(), sheet=upload.sheet)
    with opened(upload.path, upload.file_name, anything) as table:
        rows = [table.columns.header, *islice(table.rows(), _HEADING_ROWS)]
    fullest = max(rows, key=lambda row: sum(bool(cell) for cell in row.cells))
    below = [row for row in rows if row.line > fullest.line]
    return [
        (heading, next((cells[at] for _, cells in below if at < len(cells) and cells[at]), ""))
        for at, heading in enumerate(fullest.cells)
        if heading
    ]


@get("/upload/{upload_id:str}")
async def show_preview(
    request: Request[Any, Any, Any], state: State, upload_id: FromPath[str]
) -> Response[Any]:
    """Show what an import of the file would read."""
    need(request, Role.OPERATOR)
    upload = _found(state, upload_id)
    preview = upload.preview
    taken = {}
    if upload.mapping is not None:
        taken = dict(upload.mapping)
    elif preview is not None:
        taken = {each.heading: each.field for each in preview.columns if each.field}
    because = {} if preview is None else {each.heading: each.because for each in preview.columns}
    problems: list[Any] = list(upload.complaints)
    if preview is not None:
        problems = list(preview.problems)
    return render(
        request,
        "preview.html",
        upload=upload,
        preview=preview,
        problems=problems,
        more=preview is not None and preview.more_problems,
        taken=taken,
        because=because,
        missing=[
            each
            for each in statements.REQUIRED
            if preview is None and upload.columns and each not in taken.values()
        ],
        fields=STATEMENT_COLUMNS,
        required=statements.REQUIRED,
        toml=None if upload.mapping is None else _toml(upload),
    )


def _toml(upload: Upload) -> str:
    """Write the mapping as the settings would have it, to be read by `--format` from then on."""
    assert upload.mapping is not None
    columns = ", ".join(
        f"{field} = {msgspec.json.encode(heading).decode()}"
        for heading, field in sorted(
            upload.mapping.items(), key=lambda each: STATEMENT_COLUMNS.index(each[1])
        )
    )
    sheet = (
        "" if upload.sheet is None else f"sheet = {msgspec.json.encode(upload.sheet).decode()}\n"
    )
    return f"[statements.{upload.account}]\ncolumns = {{ {columns} }}\n{sheet}"


def _found(state: State, id: str) -> Upload:
    upload: Upload | None = state.uploads.get(id)
    if upload is None or not upload.path.exists():
        raise NotFoundException("no such upload")
    return upload


@post("/upload/{upload_id:str}/columns", status_code=200)
async def map_columns(
    request: Request[Any, Any, Any], state: State, upload_id: FromPath[str]
) -> Response[Any]:
    """Read the file again with the columns as a person says."""
    need(request, Role.OPERATOR)
    upload = _found(state, upload_id)
    form = await request.form()
    mapping: dict[str, str] = {}
    for place, (heading, _) in enumerate(upload.columns):
        named = str(form.get(f"column-{place}") or "")
        if named in STATEMENT_COLUMNS:
            mapping[heading] = named
    if len(set(mapping.values())) < len(mapping):
        raise Problem("two columns are mapped to the same field")
    upload.mapping = mapping
    return await _read(request, state, upload)


@post("/upload/{upload_id:str}/import", status_code=200)
async def import_file(
    request: Request[Any, Any, Any], state: State, upload_id: FromPath[str]
) -> Response[Any]:
    """Import the file, whole or not at all, and reconcile if that was asked for too."""
    need(request, Role.OPERATOR)
    upload = _found(state, upload_id)
    form = await request.form()
    concerns(account=upload.account, period=upload.period, reconcile=form.get("reconcile") == "yes")
    settings, period = chosen(state, upload.account, upload.period)
    back = f"/upload/{upload.id}"

    async def work(task: Task) -> None:
        await _import(state, upload, period, task)
        if form.get("reconcile") == "yes":
            task.progress("reconcile")
            async with state.database.connection() as connection:
                await match.reconcile(
                    connection,
                    settings,
                    period,
                    now=datetime.now(UTC),
                    beside=state.database.connection,
                )
        task.result = f"/reconciliation/{upload.account}/{period}"

    tasks: Tasks = state.tasks
    task = tasks.begin("import", upload.file_name, back, work)
    return await shown_soon(request, task)


async def _import(state: State, upload: Upload, period: Period, task: Task) -> None:
    # On a connection of its own: a large file takes minutes.
    async with state.database.connection() as connection:
        await statements.import_file(
            connection,
            state.settings.accounts[upload.account],
            period,
            upload.path,
            file_name=upload.file_name,
            format_name=upload.format_name,
            layout=upload.layout(state.settings),
            now=datetime.now(UTC),
            expect=upload.expected(),
            progress=lambda lines, share: task.progress(f"{lines:,}", share),
        )


@post("/upload/{upload_id:str}/drop", status_code=200)
async def drop(
    request: Request[Any, Any, Any], state: State, upload_id: FromPath[str]
) -> Response[Any]:
    """Forget the file; nothing was imported."""
    need(request, Role.OPERATOR)
    upload = _found(state, upload_id)
    state.uploads.pop(upload.id)
    upload.path.unlink(missing_ok=True)
    return goes_on(f"/reconciliation/{upload.account}/{upload.period}", request=request)


ROUTES = [show_form, take, show_preview, map_columns, import_file, drop]
