"""Jobs: what each did last, who runs it, when it runs next; run one now."""

from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from reconciler.actions import concerns
from reconciler.dashboard.pages import asked, goes_on, is_partial, link, need, render
from reconciler.dashboard.tasks import Task
from reconciler.jobs import Job, holder, jobs_of, run
from reconciler.reading import watched
from reconciler.tokens import Role

_ROWS = 50


@get("/jobs")
async def show_jobs(request: Request[Any, Any, Any], state: State) -> Response[Any]:
    """Show every job, and the newest read-once pages."""
    cursor = asked(request, "cursor")
    async with state.pool.acquire() as connection:
        noted = {
            (job["job"], job["account"] or ""): job
            for job in (await watched.jobs(connection)).items
        }
        pulls = await watched.pulls(connection, None, state=None, cursor=cursor, limit=_ROWS)
    shown = [_shown(job, noted.get((job.name, job.account))) for job in _jobs(state)]
    template = "pull_rows.html" if cursor and is_partial(request) else "jobs.html"
    return render(
        request,
        template,
        jobs=shown,
        pulls=pulls.items,
        next=None if pulls.next is None else link("/jobs", {}, cursor=pulls.next),
    )


def _jobs(state: State) -> list[Job]:
    return jobs_of(state.settings, state.callers)


def _shown(job: Job, noted: dict[str, Any] | None) -> dict[str, Any]:
    """Say when a job runs next: after a failure when it says, else one interval after it began."""
    next_at: datetime | None = None
    if noted is not None and noted["holder"] is None:
        again = noted["again_at"] or noted["started_at"]
        wait = timedelta(seconds=0 if noted["again_at"] else job.every_seconds)
        next_at = max(datetime.fromisoformat(again) + wait, datetime.now(UTC))
    return {
        "name": job.name,
        "account": job.account,
        "every_seconds": job.every_seconds,
        "noted": noted,
        "next_at": next_at,
    }


@post("/jobs/{name:str}/run", status_code=200)
async def run_now(
    request: Request[Any, Any, Any], state: State, name: FromPath[str]
) -> Response[Any]:
    """Run a job now; one that runs elsewhere at this moment is left to that process."""
    need(request, Role.OPERATOR)
    account = str((await request.form()).get("account") or "")
    concerns(account=account)
    found = next((job for job in _jobs(state) if (job.name, job.account) == (name, account)), None)
    if found is None:
        raise NotFoundException("no such job")
    job = found

    async def work(task: Task) -> None:
        await run(state.pool, job, holder=holder())

    task = state.tasks.begin("job", f"{name} {account}".strip(), "/jobs", work)
    await task.soon()
    return goes_on("/jobs", request=request)


ROUTES = [show_jobs, run_now]
