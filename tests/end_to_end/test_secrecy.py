"""No secret and no phone number leaves by the back door: a whole demo is played, and all it leaves is read.

Read is what every process said, what it was called in the process list, its metrics, what its API
says when it says no, and every file but the database and what the company and the vendors wrote.
"""

import base64
import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from runtime.settings import Settings, load

ROOT = Path(__file__).parents[2]
# Written by the company or the vendors, or given by the operator: not by us.
GIVEN = {"huizhi.toml", "sandbox.toml", "truth.jsonl", "sent.ndjson"}
PATIENCE_SECONDS = 400


class Play:
    """A demo that is played to its end and left up, and what was seen of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.titles: set[str] = set()
        self._lines: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "huizhi", "demo", "--keep", "--messages", "900"),
                *("--folder", str(folder)),
            ],
            cwd=folder.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def watch(self) -> bool:
        """Look at the process list until the play is over; return whether all was found."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            self.titles |= set(titles(self.process.pid))
            with contextlib.suppress(queue.Empty):
                while True:
                    self.said.append(self._lines.get(timeout=0.1))
            if any("Ctrl-C" in line for line in self.said):
                return True
            if self.process.poll() is not None:
                return False
        return False

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
        self._listener.join(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        while not self._lines.empty():
            self.said.append(self._lines.get())


def titles(root: int) -> Iterator[str]:
    """What a process, and all that it started, are called in the process list."""
    parents: dict[int, int] = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError, IndexError, ValueError):
            status = Path(f"/proc/{pid}/stat").read_text()
            parents[pid] = int(status.rpartition(")")[2].split()[1])
    ours = {root}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    # The embedded server has left its family: it is found by where it works.
    for pid in ours:
        with contextlib.suppress(OSError):
            yield Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            yield Path(f"/proc/{pid}/comm").read_text()


def everybody_in(folder: Path) -> Iterator[str]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cwd").resolve().is_relative_to(folder):
                yield Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def refusals(settings: Settings, phones: list[str]) -> Iterator[str]:
    """What the API says when it says no, to questions about real numbers with real secrets in them."""
    secret = settings.secrets[0].reveal()
    base = f"http://127.0.0.1:{settings.reconciler.port}"
    assert settings.reconciler.api_token is not None
    headers = {"authorization": f"Bearer {settings.reconciler.api_token.reveal()}"}
    message = {"account": "think-main", "phones": [phones[0], phones[0]], "content": "x"}
    with httpx.Client(base_url=base, timeout=30) as http:
        yield http.get("/metrics", headers=headers).text
        for given in ({}, {"authorization": f"Bearer {secret}x"}):
            yield http.get("/v1/messages", headers=given).text
        for path in (f"/v1/{phones[0]}", "/v1/messages?limit=0", "/v1/messages?cursor=x"):
            answer = http.get(path, headers=headers)
            assert answer.status_code >= 400
            yield answer.text
        for path, body in (
            ("/v1/messages", message),
            ("/v1/messages", {**message, "phones": [phones[0]], "sign": 7}),
            ("/v1/messages", {**message, "phones": [phones[0] * 3]}),
            ("/v1/sent", [{"account": "think-main", "phone": phones[0]}]),
            ("/v1/reconciliations", {"account": "think-main", "period": "1999-01"}),
        ):
            answer = http.post(path, headers=headers, json=body)
            assert answer.status_code >= 400 or path == "/v1/sent"
            yield answer.text
        receiver = f"http://127.0.0.1:{settings.receiver.port}/callbacks/think-main/{secret}x"
        yield http.post(receiver, json={"phone": phones[0]}).text


def spellings(text: str) -> set[bytes]:
    """A text as it stands, escaped for an address, in hex, and in base64 wherever in it it begins."""
    data = text.encode()
    found = {data, quote(text, safe="").encode(), data.hex().encode()}
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + data)
        # Without the characters that its neighbours have a share in.
        whole = encoded[[0, 2, 3][before] : len(encoded) - [0, 3, 2][(before + len(data)) % 3] - 1]
        found |= {whole, whole.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def test_spellings_are_found_wherever_they_begin() -> None:
    for before in range(4):
        for after in range(4):
            text = base64.b64encode(b"x" * before + b"13800138000" + b"y" * after)
            assert any(each in text for each in spellings("13800138000")), (before, after)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads the process list")
def test_a_whole_demo_leaves_no_secret_and_no_number_behind(tmp_path: Path) -> None:
    play = Play(tmp_path / "play")
    try:
        whole = play.watch()
        assert whole, "".join(play.said[-20:])
        settings = load(play.folder / "huizhi.toml", {})
        truth = [json.loads(line) for line in truth_lines(play.folder)]
        phones = sorted({row["phone"] for row in truth if row.get("phone")})
        play.titles |= set(everybody_in(play.folder))
        answers = list(refusals(settings, phones))
    finally:
        play.end()
    assert len(phones) > 500

    leaves = {
        "the screen": "".join(play.said).encode(),
        "the process list": "\n".join(sorted(play.titles)).encode(),
        "metrics and refusals": "\n".join(answers).encode(),
    }
    for path in sorted(play.folder.rglob("*")):
        name = str(path.relative_to(play.folder))
        # The vendors' bills, which the sandbox writes.
        ours = path.name not in GIVEN and path.suffix not in (".csv", ".xlsx")
        if path.is_file() and ours and not name.startswith("data/postgres/"):
            leaves[name] = path.read_bytes()
    assert {"processes.log", "data/postgres.log"} <= set(leaves)
    assert any("postgres" in title for title in play.titles)
    assert any(name.startswith("data/metrics/") for name in leaves)

    for name in ("processes.log", "data/postgres.log"):
        # The services ran with the rights of their roles, and these were enough.
        assert not re.search(rb"permission denied|all_rights", leaves[name]), name
    given = (play.folder / "sent.ndjson").read_bytes()
    assert any(needle in given for needle in spellings(phones[0]))  # what is there would be found
    secrets = [each.reveal() for each in settings.secrets if len(each.reveal()) >= 6]
    assert len(secrets) > 10
    found = [
        f"{kind} in {name}: …{context(content, needle)}…"
        for kind, texts in (("a secret", secrets), ("a number", phones))
        for text in texts
        for needle in spellings(text)
        for name, content in leaves.items()
        if needle in content
    ]
    assert found == []


def truth_lines(folder: Path) -> list[str]:
    return (folder / "truth.jsonl").read_text("utf-8").splitlines()


def context(content: bytes, needle: bytes) -> str:
    at = content.index(needle)
    return re.sub(r"\s+", " ", content[max(0, at - 150) : at + 80].decode("utf-8", "replace"))
