"""Long work behind a page: how far it is, how it ends, and that it is not begun without end."""

import asyncio
from pathlib import Path

import httpx
import pytest
from browsing import TOKEN, serving, settings

from reconciler.dashboard import tasks
from reconciler.dashboard.tasks import Busy, Task, Tasks
from runtime import Problem
from runtime.database import Database

pytestmark = pytest.mark.anyio


async def test_a_task_tells_how_far_it_is_and_how_it_ended() -> None:
    kept, going_on = Tasks(), asyncio.Event()

    async def work(task: Task) -> None:
        task.progress("1,000", 0.5)
        await going_on.wait()
        task.result = "/there"

    task = kept.begin("import", "a.csv", "/back", work)
    await asyncio.sleep(0)
    assert (task.said, task.share, task.ended) == ("1,000", 0.5, None)
    assert kept.get(task.id) is task
    going_on.set()
    await task.soon()
    assert task.ended is not None
    assert (task.result, task.error) == ("/there", None)
    await kept.close()
    assert not kept.folder.exists()


async def test_what_goes_wrong_is_told_and_quotes_nothing_it_should_not() -> None:
    kept = Tasks()

    async def refused(_: Task) -> None:
        raise Problem("there is no bill")

    async def broken(_: Task) -> None:
        raise RuntimeError("13800138000")

    first, second = (kept.begin("import", "", "/", work) for work in (refused, broken))
    await first.soon()
    await second.soon()
    assert first.error == "there is no bill"
    assert second.error == "it could not be done: the log says more"
    await kept.close()


async def test_too_much_at_once_is_refused_and_closing_stops_all() -> None:
    kept = Tasks()

    async def work(_: Task) -> None:
        await asyncio.Event().wait()

    begun = [kept.begin("job", "", "/", work) for _ in range(tasks.MOST)]
    with pytest.raises(Busy):
        kept.begin("job", "", "/", work)
    await kept.close()
    assert all(task.running is not None and task.running.done() for task in begun)


async def test_what_takes_long_is_shown_with_its_progress(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "SOON_SECONDS", 0.05)
    going_on = asyncio.Event()

    async def slowly(*_: object, progress: object = None, **__: object) -> None:
        assert callable(progress)
        progress(12_000, 0.25)
        await going_on.wait()
        raise Problem("line 7 is wrong")

    monkeypatch.setattr("reconciler.statements.import_file", slowly)
    async with (
        serving(database, settings(tmp_path)) as address,
        httpx.AsyncClient(
            base_url=address, headers={"sec-fetch-site": "same-origin"}, timeout=30
        ) as client,
    ):
        await client.post("/login", data={"token": TOKEN})
        form = (await client.get("/upload")).text
        csrf = {"csrf": form.split('name="csrf" value="', 1)[1].split('"', 1)[0]}
        bill = "任务ID,计费条数,金额\na,1,0.04\n".encode()
        taken = await client.post(
            "/upload",
            data={**csrf, "account": "think", "period": "2024-10"},
            files={"file": ("a.csv", bill)},
        )
        place = taken.headers["location"]
        while place.startswith("/tasks/"):  # reading it may take a moment
            answer = await client.get(place)
            place = answer.headers.get("location", place)
        begun = await client.post(f"{place}/import", data=csrf)
        shown = begun.headers["location"]
        page = ""
        while "12,000" not in page:  # begun it may be a moment later
            page = (await client.get(shown)).text
            await asyncio.sleep(0.01)
        assert 'value="0.25"' in page
        assert f'hx-get="{shown}"' in page
        going_on.set()
        while "line 7 is wrong" not in page:
            page = (await client.get(shown, headers={"hx-request": "true"})).text
            await asyncio.sleep(0.01)
        assert "<html" not in page
        assert (await client.get(place)).status_code == 200, "the file is still there"
