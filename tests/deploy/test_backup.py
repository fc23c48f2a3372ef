"""Backing up under load, losing everything, restoring: what was there is there, and services go on."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from services import AUTHORIZATION, TOKEN, Process, until

SETTINGS = f"""
data_dir = "data"
[receiver]
host = "127.0.0.1"
port = 0
workers = 1
[reconciler]
port = 0
api_token = "{TOKEN}"
[accounts.think]
gateway = "thinkapi"
base_url = "http://127.0.0.1:9"
credentials = {{ app_code = "code" }}
callback_tokens = ["think-token"]
poll_after_seconds = 86400
[[accounts.think.tariffs]]
from = 2026-01-01
price = "0.035"
"""
PHONE = "13509898765"


def body(name: str) -> bytes:
    sms = {"id": name, "phone": PHONE, "status": 1, "message": "",
           "receiveDate": "2026-10-05 09:30:05"}  # fmt: skip
    return json.dumps({"action": "report", "sms": sms}).encode()


def push(service: Process, name: str) -> bool:
    answer = httpx.post(
        f"{service.places['receiver']}/callbacks/think/think-token",
        content=body(name),
        headers={"x-thinkphp-event": "sms"},
    )
    return answer.status_code == 200


def register(service: Process, names: list[str]) -> None:
    rows = [
        {"account": "think", "vendor_message_id": name, "phone": PHONE, "segments": 1,
         "sent_at": "2026-10-05T09:30:00+08:00"}
        for name in names
    ]  # fmt: skip
    httpx.post(
        f"{service.places['reconciler']}/v1/sent", json=rows, headers=AUTHORIZATION
    ).raise_for_status()


def listed(service: Process, path: str, **params: Any) -> list[Any]:
    found: list[Any] = []
    cursor: str | None = None
    while True:
        asked = {"limit": 1000, **params, **({} if cursor is None else {"cursor": cursor})}
        answer = httpx.get(
            service.places["reconciler"] + path, params=asked, headers=AUTHORIZATION, timeout=30
        )
        answer.raise_for_status()
        found += answer.json()["items"]
        cursor = answer.json()["next"]
        if cursor is None:
            return found


def delivered(service: Process) -> set[str]:
    return {m["vendor_message_id"] for m in listed(service, "/v1/messages", status="delivered")}


class Load:
    """Pushes one callback after the other until stopped; `acknowledged` in order."""

    def __init__(self, service: Process) -> None:
        self._service = service
        self._stop = threading.Event()
        self.acknowledged: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            name = f"load-{number}"
            if push(self._service, name):
                self.acknowledged.append(name)
            number += 1

    def reaches(self, count: int) -> None:
        until(lambda: len(self.acknowledged) >= count)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "huizhi.toml").write_text(SETTINGS, "utf-8")
    return tmp_path


def started(folder: Path) -> Process:
    service = Process("serve", folder / "huizhi.toml", places=2)
    until(lambda: httpx.get(service.places["receiver"] + "/health/ready").status_code == 200)
    until(lambda: httpx.get(service.places["reconciler"] + "/health/ready").status_code == 200)
    return service


def test_embedded_database_backed_up_under_load_and_restored_on_nothing(folder: Path) -> None:
    first = started(folder)
    try:
        known = [f"known-{number}" for number in range(50)]
        register(first, known)
        assert all(push(first, name) for name in known[:40])
        assert push(first, "orphan")
        until(lambda: delivered(first) == set(known[:40]))

        load = Load(first)
        try:
            load.reaches(100)
            before = list(load.acknowledged)
            done = first.command("backup", "kept", "--output", "json")
            assert done.returncode == 0, done.stderr
            after_backup = len(load.acknowledged)
            load.reaches(after_backup + 20)
        finally:
            load.stop()
        # A whole minute may pass before the job links it.
        head = json.loads(done.stdout)["head"]
        acted = [action["what"] for action in listed(first, "/v1/actions")]
        assert "huizhi backup" in acted
        again = first.command("backup", "kept")
        assert (again.returncode, again.stderr.count("\n")) == (2, 1)
        assert "is there already" in again.stderr
    finally:
        # Everything goes at once: processes without a word, and the disk.
        first.end()
    until(lambda: not (folder / "data/postgres/postmaster.pid").exists())
    shutil.rmtree(folder / "data")

    second_command = Process.command(first, "restore", "kept")
    assert second_command.returncode == 0, second_command.stderr
    assert f"huizhi chain verify --head {head['hash']}" in second_command.stdout
    second = started(folder)
    try:
        # The states, and what was acknowledged before the backup began.
        assert delivered(second) >= set(known[:40])
        found = {o["vendor_message_id"] for o in listed(second, "/v1/orphans")}
        assert {"orphan", *before} <= found
        lost = [name for name in load.acknowledged if name not in found]
        assert lost, "what came after the backup is lost: it is that that the walk-through is about"
        assert not set(lost) & set(before)
        verified = second.command(
            "chain", "verify", *(("--head", head["hash"]) if head["height"] else ())
        )
        assert verified.returncode == 0, verified.stdout + verified.stderr

        # Services go on: what the vendor sends again is stored once, the gap's messages settle.
        register(second, [*known[40:], "orphan"])
        assert all(push(second, name) for name in (*known, *lost))
        until(lambda: delivered(second) == {*known, "orphan"})
        callbacks = listed(second, "/v1/callbacks")
        assert len(callbacks) == len(known) + 1 + len(load.acknowledged)
        second.stop()
    finally:
        second.end()


def test_what_waited_in_data_dir_is_backed_up_and_drained_after_restoring(folder: Path) -> None:
    service = started(folder)
    try:
        waiting = folder / "data/spool/set-aside"
        waiting.mkdir(parents=True, exist_ok=True)
        (waiting / "for-people").write_bytes(b"x")
        (folder / "data/pages/page").parent.mkdir(exist_ok=True)
        (folder / "data/pages/page").write_bytes(b'{"no":"page"}\nbytes')
        done = service.command("backup", "kept")
        assert done.returncode == 0, done.stderr
        service.stop()
    finally:
        service.end()
    assert (folder / "kept/pages/page").read_bytes() == b'{"no":"page"}\nbytes'
    assert not (folder / "kept/spool/set-aside").exists()
    modes = {path.stat().st_mode & 0o077 for path in (folder / "kept", folder / "kept/pages")}
    assert modes == {0}
    kept = {path.name for path in (folder / "kept").iterdir()}
    assert kept == {"database.dump", "manifest.json", "pages", "spool"}, "and no key or setting"

    # Over something that is there, or damaged, or not whole: one line, and nothing is changed.
    refused = service.command("restore", "kept")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "not empty" in refused.stderr
    shutil.copytree(folder / "kept", folder / "bad")
    with (folder / "bad/database.dump").open("r+b") as dump:
        dump.seek(-1, 2)
        dump.write(b"\0" if dump.read(1) != b"\0" else b"\1")
    shutil.rmtree(folder / "data")
    for name, told in (("bad", "not as it was backed up"), ("data", "no whole backup")):
        refused = service.command("restore", name)
        assert refused.returncode == 2
        assert told in refused.stderr
    (folder / "bad/database.dump").unlink()
    assert "database.dump is missing" in service.command("restore", "bad").stderr
    restored = service.command("restore", "kept", "--output", "json")
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["applied"] == []
    assert (folder / "data/pages/page").exists()
