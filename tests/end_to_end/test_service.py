"""The service as it is run: `huizhi serve` in a process of its own, on real ports, with real signals."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import databases
import httpx
import pytest

from gateways.gateway import Secret
from runtime.database import Database
from runtime.embedded import Embedded

ROOT = Path(__file__).parents[2]
HUIZHI = [sys.executable, "-m", "huizhi"]
TOKEN = "a-token-of-the-api"
PUSH = "/callbacks/think/think-token"
SETTINGS = f"""
data_dir = "data"
[receiver]
host = "127.0.0.1"
port = 0
workers = 2
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


class Service:
    """A running `huizhi` with its ports."""

    def __init__(
        self, folder: Path, dsn: str | None, command: str = "serve", *, database: bool = True
    ) -> None:
        self.file = folder / "huizhi.toml"
        self.file.write_text(SETTINGS)
        self.environment = {
            name: os.environ[name] for name in ("PATH", "HUIZHI_POSTGRES_BIN") if name in os.environ
        }
        if dsn is not None:
            self.environment["DATABASE_URL"] = dsn
        self.log = folder / f"{command}-{uuid.uuid4().hex[:6]}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*HUIZHI, "--config", str(self.file), command],
                cwd=ROOT,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        ports: list[int] = []
        assert self.process.stdout is not None
        for _ in range(2 if command == "serve" else 1):
            line = self.process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
            assert found, f"{line}\n{self.log.read_text()}"
            ports.append(int(found[1]))
        self.receiver = f"http://127.0.0.1:{ports[0]}"
        self.port = ports[0]
        self.api = f"http://127.0.0.1:{ports[-1]}"
        for port in ports if database else ports[:1]:
            until(lambda port=port: listening(port))

    def children(self) -> set[int]:
        """The processes that it keeps up."""
        said = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        found = set()
        for pid in map(int, said.split()):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"spawn_main" in line:
                    found.add(pid)
        return found

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run another `huizhi` with the same settings."""
        return subprocess.run(
            [*HUIZHI, *arguments, "--config", str(self.file)],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def until(true: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until `true` says something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (said := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return said


def listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def running(pid: int) -> bool:
    """Whether a process is there and not just waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def dsn(postgres: str, template: str) -> Iterator[str]:
    """A migrated database that the tests of this module share."""
    with databases.copied(postgres, template) as copy:
        yield copy.dsn.reveal()


@pytest.fixture(scope="module")
def service(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    started = Service(tmp_path_factory.mktemp("service"), dsn)
    yield started
    started.end()


@pytest.fixture
def api(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=service.api, headers={"authorization": f"Bearer {TOKEN}"}, timeout=30
    ) as client:
        yield client


def query(dsn: str, text: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetch(text)
        finally:
            await connection.close()

    return asyncio.run(run())


def report(id: str, status: int = 1) -> dict[str, Any]:
    sms = {
        "id": id,
        "phone": "13800138000",
        "status": status,
        "message": "",
        "receiveDate": "2026-10-05 09:30:30",
    }
    return {"action": "report", "sms": sms}


def sent(id: str) -> dict[str, Any]:
    return {
        "account": "think",
        "vendor_message_id": id,
        "phone": "+86 138 0013 8000",
        "sent_at": "2026-10-05T09:30:00+08:00",
        "content": "您的验证码是7865",
        "sign": "顶想云",
    }


def bill(*lines: tuple[str, str]) -> bytes:
    rows = [f"{id},13800138000,1,{amount}" for id, amount in lines]
    return "\n".join(["任务ID,手机号,计费条数,金额", *rows]).encode("gb18030")


def test_from_an_early_receipt_to_a_reconciled_bill(service: Service, api: httpx.Client) -> None:
    early = httpx.post(service.receiver + PUSH, json=report("loop-1"))
    assert (early.status_code, early.content) == (200, b'{"code":0}')
    assert httpx.post(service.receiver + PUSH, content=b"garbage").status_code == 200
    told = api.post("/v1/sent", json=[sent("loop-1"), sent("loop-2"), {"account": "think"}])
    assert told.json()["recorded"] == 2
    assert [row["index"] for row in told.json()["rejected"]] == [2]
    assert httpx.post(service.receiver + PUSH, json=report("loop-2", -1)).status_code == 200

    def state() -> dict[str, str]:
        items = api.get("/v1/messages", params={"account": "think"}).json()["items"]
        return {item["vendor_message_id"]: item["status"] for item in items}

    until(lambda: state() == {"loop-1": "delivered", "loop-2": "failed"})
    lost = service.command("reconcile", "--account", "think", "--period", "2026-10")
    assert (lost.returncode, lost.stdout) == (2, "")
    assert "no statement for 2026-10" in lost.stderr

    form = {"account": "think", "period": "2026-10"}
    fair = {"file": ("october.csv", bill(("loop-1", "0.035")))}
    assert api.post("/v1/statements", data=form, files=fair).json()["version"] == 1
    result = api.post("/v1/reconciliations", json=form).json()
    assert (result["status"], result["billed"]["amount"]) == ("balanced", "0.035")
    assert result["unresolved"]["quarantined"] == 1
    again = service.command(
        "reconcile", "--account", "think", "--period", "2026-10", "--output", "json"
    )
    assert (again.returncode, again.stderr) == (0, "")
    by_hand = json.loads(again.stdout)
    assert by_hand | {"id": result["id"]} == result
    assert list(by_hand) == list(result)

    corrected = service.file.parent / "corrected.csv"
    corrected.write_bytes(bill(("loop-1", "0.035"), ("loop-2", "0.035"), ("loop-9", "1")))
    done = service.command(
        "statement", "import", str(corrected), "--account", "think", "--period", "2026-10"
    )
    assert done.returncode == 0
    result = api.post("/v1/reconciliations", json=form).json()
    assert result["difference"]["amount"] == "1.035"
    assert list(result["discrepancies"]) == ["billed_not_sent", "billed_not_delivered"]
    again = service.command("reconcile", "--account", "think", "--period", "2026-10")
    assert again.returncode == 1
    message = api.get("/v1/messages", params={"vendor_message_id": "loop-2"}).json()["items"][0]
    evidence = api.get(f"/v1/messages/{message['id']}").json()
    assert [found["status"] for found in evidence["reports"]] == ["failed"]
    assert [line["line"] for line in evidence["statement_lines"]] == [3]
    assert {found["kind"] for found in evidence["discrepancies"]} == {"billed_not_delivered"}
    raw = api.get(f"/v1/callbacks/{evidence['reports'][0]['record']}/body").content
    assert json.loads(raw) == report("loop-2", -1)


def test_commands_work_beside_the_running_service(service: Service, api: httpx.Client) -> None:
    file = service.file.parent / "sent.ndjson"
    file.write_text("\n".join(json.dumps(sent(f"file-{number}")) for number in range(5)))
    done = service.command("sent", "import", str(file), "--output", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["recorded"] == 5
    found = api.get("/v1/messages", params={"vendor_message_id": "file-3"}).json()
    assert len(found["items"]) == 1


def test_child_that_is_killed_is_started_again_and_the_others_serve_meanwhile(
    service: Service, dsn: str
) -> None:
    before = until(lambda: len(found := service.children()) == 3 and found)
    pushed = 0

    def receivers() -> set[int]:
        nonlocal pushed
        httpx.post(service.receiver + PUSH, json=report(f"before-{pushed}"))
        pushed += 1
        recorders = query(dsn, "SELECT DISTINCT recorder FROM batches")
        return {int(row["recorder"].rpartition(":")[2]) for row in recorders} & before

    # Both are up: one alone, killed, leaves nobody to serve.
    victim = max(until(lambda: len(found := receivers()) == 2 and found))
    os.kill(victim, signal.SIGKILL)
    refused = 0
    served = 0

    def revived() -> bool:
        nonlocal refused, served
        try:
            id = f"killed-{served}"
            served += httpx.post(service.receiver + PUSH, json=report(id)).status_code == 200
        except httpx.TransportError:
            refused += 1  # what was on its way to the one that was killed
        return len(service.children()) == 3 and victim not in service.children()

    until(revived)
    assert served > 0
    assert refused <= 3
    assert "process.ended" in service.log.read_text()
    stored = query(dsn, "SELECT count(*) FROM records WHERE body LIKE '%killed-%'::bytea")
    assert stored[0]["count"] >= served


def test_port_in_use_is_one_line(service: Service, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file = tmp_path / "huizhi.toml"
        file.write_text(SETTINGS.replace("port = 0", f"port = {taken.getsockname()[1]}", 1))
        done = subprocess.run(
            [*HUIZHI, "--config", str(file), "receiver"],
            cwd=ROOT,
            env=service.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot listen on 127.0.0.1 port" in done.stderr


def test_sigterm_under_load_keeps_every_promise_and_exits_with_0(dsn: str, tmp_path: Path) -> None:
    service = Service(tmp_path, dsn, "receiver")
    begun = datetime.now(UTC)
    acknowledged: set[str] = set()
    refused: list[int] = []

    async def push(number: int, client: httpx.AsyncClient) -> None:
        for count in range(100_000):
            id = f"term-{number}-{count}"
            told = await client.post(service.receiver + PUSH, json=report(id))
            if told.status_code == 200:
                acknowledged.add(id)
            else:
                refused.append(told.status_code)

    async def load() -> None:
        async with httpx.AsyncClient(timeout=20) as client:
            pushing = [asyncio.create_task(push(number, client)) for number in range(8)]
            async with asyncio.timeout(30):
                while len(acknowledged) < 200:
                    await asyncio.sleep(0.01)
            service.process.send_signal(signal.SIGTERM)
            ended = await asyncio.gather(*pushing, return_exceptions=True)
            assert all(isinstance(error, httpx.TransportError) for error in ended)

    try:
        asyncio.run(load())
        assert service.process.wait(40) == 0
    finally:
        service.end()
    assert refused == []
    rows = query(dsn, "SELECT body FROM records WHERE body LIKE '%term-%'::bytea")
    assert acknowledged <= {json.loads(row["body"])["sms"]["id"] for row in rows}
    left = query(
        dsn,
        "SELECT count(*) FROM batches WHERE settled_at IS NULL AND recorded_at >="
        f" '{begun.isoformat()}'",
    )
    assert left[0]["count"] == 0


def test_children_die_with_their_parent(dsn: str, tmp_path: Path) -> None:
    service = Service(tmp_path, dsn, "receiver")
    try:
        children = until(lambda: len(found := service.children()) == 2 and found)
        service.process.kill()
        service.process.wait()
        until(lambda: not any(map(running, children)))
        assert not listening(service.port)
    finally:
        service.end()


def test_stopping_the_whole_service_leaves_no_process(dsn: str, tmp_path: Path) -> None:
    service = Service(tmp_path, dsn)
    try:
        children = until(lambda: len(found := service.children()) == 3 and found)
        assert service.stop() == 0
        assert not any(map(running, children))
        assert not listening(service.port)
        assert "Traceback" not in service.log.read_text()
    finally:
        service.end()


def test_reconciler_that_is_stopped_answers_first_and_gives_up_its_leases(
    dsn: str, tmp_path: Path
) -> None:
    service = Service(tmp_path, dsn, "reconciler")
    holders = "SELECT DISTINCT holder FROM leases WHERE expires_at > now()"
    try:
        [child] = until(lambda: len(found := service.children()) == 1 and found)
        with httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}, timeout=20) as client:
            told = client.get(service.api + "/v1/messages", params={"account": "think"})
            assert (told.status_code, told.headers.get("connection")) == (200, None)
            until(lambda: query(dsn, f"SELECT 1 FROM leases WHERE holder LIKE '%:{child}'"))
            service.process.send_signal(signal.SIGTERM)
            until(lambda: not listening(service.port))
            told = client.get(service.api + "/v1/messages", params={"account": "think"})
            assert (told.status_code, told.headers.get("connection")) == (200, "close")
            with pytest.raises(httpx.ConnectError):
                client.get(service.api + "/v1/messages", params={"account": "think"})
        assert service.process.wait(40) == 0
    finally:
        service.end()
    assert not [row for row in query(dsn, holders) if row["holder"].endswith(f":{child}")]
    assert "Traceback" not in service.log.read_text()


def test_whole_service_stops_in_time_though_its_database_hangs_in_the_middle_of_everything(
    tmp_path: Path,
) -> None:
    server = Embedded(tmp_path / "postgres", options={"fsync": "off"})
    service = Service(tmp_path, server.start())

    async def hung() -> int:
        database = Database(dsn=Secret(server.dsn), name="test")
        async with database.connection() as other, database.connection() as watch:
            await other.execute("BEGIN; LOCK TABLE messages")
            told = httpx.post(service.receiver + PUSH, json=report("hangs"), timeout=20)
            assert told.status_code == 200
            # The receiver settles it, the reconciler runs its jobs, and neither gets on.
            waiting = "SELECT count(DISTINCT application_name) FROM pg_stat_activity"
            async with asyncio.timeout(60):
                while await watch.fetchval(f"{waiting} WHERE wait_event_type = 'Lock'") < 2:
                    await asyncio.sleep(0.02)
            with databases.frozen(tmp_path / "postgres"):
                service.process.send_signal(signal.SIGTERM)
                return await asyncio.to_thread(service.process.wait, 100)

    try:
        assert asyncio.run(hung()) == 0
    finally:
        service.end()
        server.stop()
    # Nobody had to be killed for it, as is done after 80 seconds.
    assert '"process.killed"' not in service.log.read_text()


def test_the_embedded_database_stops_last_however_often_one_is_told_to_stop(
    tmp_path: Path,
) -> None:
    service = Service(tmp_path, None)
    try:
        children = until(lambda: len(found := service.children()) == 3 and found, 60)
        assert httpx.post(service.receiver + PUSH, json=report("last")).status_code == 200
        for _ in range(3):
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert service.process.wait(60) == 0
        assert not any(map(running, children))
    finally:
        service.end()
    said = (tmp_path / "data" / "postgres.log").read_text()
    assert said.rstrip().endswith("database system is shut down")
    # Nobody was connected to it any more.
    assert "terminating connection" not in said


def test_a_demo_that_is_ended_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "play"
    demo = subprocess.Popen(
        [*HUIZHI, "demo", "--folder", str(folder), "--messages", "700"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert demo.stdout is not None
    try:
        until(lambda: "receiver and vendors are up" in demo.stdout.readline(), 90)
        started = [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if at(pid, folder)
        ]
        assert len(started) >= 2
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(60) == 128 + signal.SIGTERM
        until(lambda: not any(map(running, started)))
    finally:
        demo.kill()
        demo.wait()
        demo.stdout.close()


def at(pid: int, folder: Path) -> bool:
    """Whether a process works in `folder`."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cwd").resolve() == folder
    return False


def test_started_without_its_database_it_acknowledges_and_does_the_rest_when_that_is_there(
    tmp_path: Path,
) -> None:
    server = Embedded(tmp_path / "postgres", options={"fsync": "off"})
    dsn = server.start()
    server.stop()
    service = Service(tmp_path, dsn, database=False)
    try:
        told = httpx.post(service.receiver + PUSH, json=report("first"), timeout=20)
        assert (told.status_code, told.content) == (200, b'{"code":0}')
        ready = httpx.get(service.receiver + "/health/ready", timeout=20)
        assert (ready.status_code, ready.json()["database"]) == (200, "away")
        assert not listening(int(service.api.rpartition(":")[2]))
        server.start()
        # Nobody had migrated it yet.
        until(lambda: listening(int(service.api.rpartition(":")[2])))

        def stored() -> bool:
            found = httpx.get(
                service.api + "/v1/callbacks",
                params={"account": "think", "state": "settled"},
                headers={"authorization": f"Bearer {TOKEN}"},
                timeout=20,
            )
            return len(found.json()["items"]) == 1

        until(stored)
        metrics = httpx.get(
            service.api + "/metrics", headers={"authorization": f"Bearer {TOKEN}"}
        ).text
        assert re.search(r"^huizhi_spooled_total 1\.0$", metrics, re.MULTILINE)
        assert re.search(r"^huizhi_spool_drained_total 1\.0$", metrics, re.MULTILINE)
        assert re.search(r"^huizhi_spool_bytes 0\.0$", metrics, re.MULTILINE)
        assert service.stop() == 0
    finally:
        service.end()
        server.stop()


def test_folder_where_nothing_can_be_spooled_is_one_line(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "spool").write_text("in the way")
    file = tmp_path / "huizhi.toml"
    file.write_text(SETTINGS)
    done = subprocess.run(
        [*HUIZHI, "--config", str(file), "receiver"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": dsn},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot write to the spool folder" in done.stderr
