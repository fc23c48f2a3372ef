"""One `grep` of a callback's name in the log of a service that tells in detail."""

import json
import re
from pathlib import Path

import httpx
from services import AUTHORIZATION, TOKEN, Process, until

from runtime.database import Database
from runtime.records import push_digest

SETTINGS = f"""
data_dir = "data"
[logs]
level = "LEVEL"
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
"""
REPORT = {"id": "a", "phone": "13509898765", "status": 1, "message": "",
          "receiveDate": "2026-10-05 09:30:05"}  # fmt: skip
BODY = json.dumps({"action": "report", "sms": REPORT}).encode()
DIGEST = push_digest("think", "POST", b"", BODY).hex()
ROW = {"account": "think", "vendor_message_id": "a", "phone": "13509898765",
       "sent_at": "2026-10-05T09:30:00+08:00", "segments": 1}  # fmt: skip


def played(folder: Path, database: Database, level: str) -> tuple[list[str], str]:
    """Push a report before its message is registered; return the lines that name it, and its story."""
    file = folder / "huizhi.toml"
    file.write_text(SETTINGS.replace("LEVEL", level))
    service = Process("serve", file, dsn=database.dsn.reveal(), places=2)
    try:
        url = f"{service.places['receiver']}/callbacks/think/think-token"
        headers = {"x-thinkphp-event": "sms"}
        until(lambda: httpx.post(url, content=BODY, headers=headers).status_code == 200)
        api = f"{service.places['reconciler']}/v1"

        def settled() -> bool:
            told = httpx.get(f"{api}/callbacks/{DIGEST}", headers=AUTHORIZATION)
            return told.status_code == 200 and told.json()["state"] == "settled"

        until(settled)
        httpx.post(f"{api}/sent", json=[ROW], headers=AUTHORIZATION).raise_for_status()
        told = service.command("callback", "show", DIGEST)
        assert told.returncode == 0, told.stderr
        service.stop()
    finally:
        service.end()
    log = service.log.read_text("utf-8")
    return [json.loads(line)["event"] for line in log.splitlines() if DIGEST in line], told.stdout


def test_one_grep_gives_the_story_where_it_is_asked_for(database: Database, tmp_path: Path) -> None:
    named, story = played(tmp_path, database, "debug")
    assert named == ["callbacks.recorded", "records.settled", "reports.joined"]
    steps = re.findall(r"^\S+Z +(\w+)", story, re.MULTILINE)
    # Linking runs when it will.
    assert [step for step in steps if step != "linked"] == [
        "received",
        "recorded",
        "settled",
        "joined",
    ]
    assert re.search(r"^delivered for a, message \S+: delivered$", story, re.MULTILINE)


def test_by_default_no_line_names_a_callback_with_which_all_is_well(
    database: Database, tmp_path: Path
) -> None:
    named, story = played(tmp_path, database, "info")
    assert named == []
    assert "joined" in story


def test_the_way_through_the_spool_is_named_too(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "huizhi.toml"
    file.write_text(SETTINGS.replace("LEVEL", "debug"))

    def named(dsn: str, awaited: str) -> list[str]:
        receiver = Process("receiver", file, dsn=dsn, places=1)
        try:
            url = f"{receiver.places['receiver']}/callbacks/think/think-token"
            headers = {"x-thinkphp-event": "sms"}
            if awaited == "callbacks.spooled":
                until(lambda: httpx.post(url, content=BODY, headers=headers).status_code == 200)
            until(lambda: awaited in receiver.log.read_text("utf-8"))
            receiver.stop()
        finally:
            receiver.end()
        lines = receiver.log.read_text("utf-8").splitlines()
        return [json.loads(line)["event"] for line in lines if DIGEST in line]

    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    assert named(nowhere, "callbacks.spooled") == ["callbacks.spooled"]
    assert named(database.dsn.reveal(), "records.settled") == [
        "callbacks.drained",
        "records.settled",
    ]
