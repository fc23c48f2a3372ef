"""What a receiver counts that shares its `data_dir` with no reconciler, and what is read at a look."""

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from services import AUTHORIZATION, HUIZHI, ROOT, TOKEN, Process, until

from runtime.database import Database
from runtime.sockets import bind

SETTINGS = f"""
data_dir = "data"
[receiver]
host = "127.0.0.1"
port = 0
workers = 1
metrics_port = PORT
[reconciler]
port = 0
api_token = "{TOKEN}"
[accounts.think]
gateway = "thinkapi"
base_url = "http://127.0.0.1:9"
credentials = {{ app_code = "code" }}
callback_tokens = ["think-token"]
"""
PUSH = "/callbacks/think/think-token"


def _written(folder: Path, port: int = 0) -> Path:
    (folder / "huizhi.toml").write_text(SETTINGS.replace("PORT", str(port)))
    return folder / "huizhi.toml"


def test_receiver_shows_its_own_metrics(database: Database, tmp_path: Path) -> None:
    receiver = Process("receiver", _written(tmp_path), dsn=database.dsn.reveal(), places=2)
    try:
        pushed = until(lambda: httpx.post(receiver.places["receiver"] + PUSH, content=b"{}"))
        assert pushed.status_code == 200
        shown = httpx.get(receiver.places["metrics"] + "/metrics").text
        assert 'huizhi_callbacks_total{account="think",outcome="recorded"} 1.0' in shown
        assert 'huizhi_callbacks_total{account="think",outcome="unavailable"} 0.0' in shown
        assert 'huizhi_database_away{process="receiver"} 0.0' in shown
        free = re.search(r"^huizhi_disk_free_bytes (\S+)$", shown, re.MULTILINE)
        size = re.search(r"^huizhi_disk_bytes (\S+)$", shown, re.MULTILINE)
        assert free is not None
        assert size is not None
        assert 0 < float(free[1]) <= float(size[1])
        receiver.stop()
    finally:
        receiver.end()


def test_port_that_is_taken_is_one_line(database: Database, tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*HUIZHI, "--config", str(_written(tmp_path, port)), "receiver"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60,
            env={"DATABASE_URL": database.dsn.reveal(), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"huizhi: receiver.metrics_port {port} at 127.0.0.1: Address already in use"
    ]


def test_jobs_and_what_is_unsettled_show_whoever_did_them(
    database: Database, tmp_path: Path
) -> None:
    """Also jobs that another reconciler ran: this is read from the database."""
    import asyncio

    hour_ago = datetime.now(UTC) - timedelta(hours=1)

    async def before() -> None:
        async with database.connection() as connection:
            await connection.execute(
                "INSERT INTO jobs (name, account, started_at, finished_at, failures_in_row)"
                " VALUES ('retired', '', $1, $1, 9)",
                hour_ago,
            )

    asyncio.run(before())
    reconciler = Process("reconciler", _written(tmp_path), dsn=database.dsn.reveal(), places=1)
    try:

        def look() -> Any:
            shown = httpx.get(reconciler.places["reconciler"] + "/metrics", headers=AUTHORIZATION)
            found = re.search(
                r'^huizhi_job_ended_timestamp_seconds\{account="",job="settle"\} (\S+)$',
                shown.text,
                re.MULTILINE,
            )
            return found and (float(found[1]), shown.text)

        ended, shown = until(look)
        assert ended > hour_ago.timestamp() + 3000
        assert 'huizhi_job_every_seconds{account="",job="settle"} 5.0' in shown
        assert 'huizhi_job_failures_in_row{account="",job="settle"} 0.0' in shown
        assert "retired" not in shown, "a job that is in no schedule is never late"
        assert "huizhi_settlement_behind_seconds 0.0" in shown
        assert 'huizhi_leases_lost_total{lease="settle:"} 0.0' in shown
        assert 'huizhi_answers_failed_total{status="500"} 0.0' in shown

        async def unsettled() -> None:
            async with database.connection() as connection:
                # Taken up by another just now, so that nobody here settles it meanwhile.
                await connection.execute(
                    "INSERT INTO batches (recorder, recorded_at, taken_up_at)"
                    " VALUES ('gone', $1, $2)",
                    hour_ago,
                    datetime.now(UTC),
                )

        asyncio.run(unsettled())
        shown = httpx.get(reconciler.places["reconciler"] + "/metrics", headers=AUTHORIZATION).text
        behind = re.search(r"^huizhi_settlement_behind_seconds (\S+)$", shown, re.MULTILINE)
        assert behind is not None
        assert 3600 <= float(behind[1]) < 3700
        reconciler.stop()
    finally:
        reconciler.end()
