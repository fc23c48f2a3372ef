"""The embedded server, as root and as a user: started, shared, taken over, killed, recovered."""

import asyncio
import os
import pwd
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from runtime import DatabaseUnavailable, DatabaseUnusable, embedded
from runtime.embedded import Embedded, running

ROOT = Path(__file__).parents[2]
PACKAGES = str(Path(asyncpg.__file__).parents[1])
KEPT = {
    name: os.environ[name]
    for name in ("PATH", "TMPDIR", embedded.BINARIES_VARIABLE)
    if name in os.environ
}
AS_ROOT = os.geteuid() == 0

pytestmark = pytest.mark.anyio

# Starts (or attaches), says so, and stays until it is told to stop or is killed.
STAYING = """
import asyncio, sys
from pathlib import Path
from runtime import logs
from runtime.embedded import Embedded
logs.configure()
server = Embedded(Path(sys.argv[1]))
server.start()
print("owner" if server.owner else "attached", server.dsn, flush=True)

async def stay():
    keeper = asyncio.create_task(server.keep())
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.readline)
    keeper.cancel()
asyncio.run(stay())
print("owner" if server.owner else "attached", flush=True)
server.stop()
"""


class Staying:
    """A process that has started or attached to the server of `data_dir`."""

    def __init__(
        self, data_dir: Path, user: int | None = None, python: str = sys.executable
    ) -> None:
        self.process = subprocess.Popen(
            [python, "-c", STAYING, str(data_dir)],
            cwd=ROOT,
            env={"PYTHONPATH": PACKAGES, **KEPT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            user=user,
            group=user,
            extra_groups=[] if user is not None else None,
        )
        self.role, _, self.dsn = self.line().partition(" ")

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> str:
        """Stop it, and return what it was at the end."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        role = self.line()
        assert self.process.wait(60) == 0
        self.close()
        return role

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def stay() -> Iterator[Callable[..., Staying]]:
    started: list[Staying] = []

    def start(*arguments: Any) -> Staying:
        started.append(Staying(*arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.kill()


async def ask(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def answers(dsn: str, query: str = "SELECT 1") -> object:
    """Ask until the server answers: the test's own time limit is the limit."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await ask(dsn, query)
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.02)


def server_pid(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def wait_for_end(pid: int) -> None:
    """Return when the process is gone; fail after 10 seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], 10)[0], "the server is still there"
    finally:
        os.close(handle)


async def test_data_survives_a_restart(tmp_path: Path) -> None:
    with running(tmp_path / "data") as dsn:
        await ask(dsn, "CREATE TABLE kept (x int)")
        await ask(dsn, "INSERT INTO kept VALUES (7)")
    with running(tmp_path / "data") as dsn:
        assert await ask(dsn, "SELECT x FROM kept") == 7


async def test_listens_on_a_private_socket_only_and_is_durable(tmp_path: Path) -> None:
    with running(tmp_path / "data") as dsn:
        assert await ask(dsn, "SHOW listen_addresses") == ""
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert await ask(dsn, f"SHOW {setting}") == "on"
        assert await ask(dsn, "SHOW server_encoding") == "UTF8"
        assert await ask(dsn, "SHOW timezone") == "UTC"
        folder = tmp_path / "data" / "postgres"
        assert (folder / ".s.PGSQL.5432").is_socket()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not (folder / ".s.PGSQL.5432").exists()


async def test_long_data_dir_gets_a_short_private_socket_folder(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 30)
    with running(data_dir) as dsn:
        assert await ask(dsn, "SELECT 1") == 1
        folder = Path(str(await ask(dsn, "SHOW unix_socket_directories")))
        assert folder.parent != data_dir
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        other = Embedded(data_dir)
        assert other.start() == dsn
        assert not other.owner
    folder.rmdir()


async def test_server_goes_when_its_parent_is_killed_and_recovers(
    tmp_path: Path, stay: Callable[..., Staying]
) -> None:
    first = stay(tmp_path / "data")
    assert first.role == "owner"
    await ask(first.dsn, "CREATE TABLE kept (x int)")
    await ask(first.dsn, "INSERT INTO kept VALUES (7)")
    pid = server_pid(tmp_path / "data")
    first.kill()
    wait_for_end(pid)
    with running(tmp_path / "data") as dsn:
        assert await ask(dsn, "SELECT x FROM kept") == 7


async def test_killed_server_is_started_again_and_recovers(
    tmp_path: Path, stay: Callable[..., Staying]
) -> None:
    owner = stay(tmp_path / "data")
    await ask(owner.dsn, "CREATE TABLE kept (x int)")
    await ask(owner.dsn, "INSERT INTO kept VALUES (7)")
    pid = server_pid(tmp_path / "data")
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    assert await answers(owner.dsn, "SELECT x FROM kept") == 7
    assert server_pid(tmp_path / "data") != pid
    assert owner.leave() == "owner"


async def test_others_attach_and_take_over_when_the_owner_goes(
    tmp_path: Path, stay: Callable[..., Staying]
) -> None:
    owner = stay(tmp_path / "data")
    others = [stay(tmp_path / "data"), stay(tmp_path / "data")]
    assert {one.role for one in others} == {"attached"}
    assert {one.dsn for one in others} == {owner.dsn}
    await ask(owner.dsn, "CREATE TABLE kept (x int)")
    pid = server_pid(tmp_path / "data")
    owner.kill()
    wait_for_end(pid)
    assert await answers(owner.dsn, "SELECT count(*) FROM kept") == 0
    roles = [one.role for one in others]
    assert roles == ["attached", "attached"]
    assert {others[0].leave(), others[1].leave()} <= {"owner", "attached"}
    with running(tmp_path / "data") as dsn:
        assert await ask(dsn, "SELECT count(*) FROM kept") == 0


async def test_attached_process_leaves_the_server_up(tmp_path: Path) -> None:
    with running(tmp_path / "data") as dsn:
        with running(tmp_path / "data") as again:
            assert again == dsn
        assert await ask(dsn, "SELECT 1") == 1


async def test_many_first_starts_at_once_make_one_database(
    tmp_path: Path, stay: Callable[..., Staying]
) -> None:
    found = await asyncio.gather(*(asyncio.to_thread(stay, tmp_path / "data") for _ in range(4)))
    assert sorted(one.role for one in found) == ["attached", "attached", "attached", "owner"]
    for one in sorted(found, key=lambda one: one.role):
        one.leave()


async def test_initdb_cut_short_is_done_again(tmp_path: Path) -> None:
    left = tmp_path / "data" / "postgres.new"
    left.mkdir(parents=True)
    (left / "PG_VERSION").write_text("18\n")
    with running(tmp_path / "data") as dsn:
        assert await ask(dsn, "SELECT 1") == 1
    assert not left.exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
async def test_stale_pid_file_with_a_living_number_does_not_stop_the_start(tmp_path: Path) -> None:
    with running(tmp_path / "data"):
        text = (tmp_path / "data" / "postgres" / "postmaster.pid").read_text()
    # As in a container, where after a restart the number belongs to one of our own processes.
    sleeper = subprocess.Popen(["sleep", "1000"])
    try:
        pid_file = tmp_path / "data" / "postgres" / "postmaster.pid"
        pid_file.write_text(text.replace(text.splitlines()[0], str(sleeper.pid), 1))
        with running(tmp_path / "data") as dsn:
            assert await ask(dsn, "SELECT 1") == 1
    finally:
        sleeper.kill()
        sleeper.wait()


async def test_zombie_in_the_pid_file_does_not_stop_the_start(tmp_path: Path) -> None:
    with running(tmp_path / "data"):
        text = (tmp_path / "data" / "postgres" / "postmaster.pid").read_text()
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    try:
        pid_file = tmp_path / "data" / "postgres" / "postmaster.pid"
        pid_file.write_text(text.replace(text.splitlines()[0], str(zombie.pid), 1))
        with running(tmp_path / "data") as dsn:
            assert await ask(dsn, "SELECT 1") == 1
    finally:
        zombie.wait()


def test_only_the_main_thread_becomes_the_owner(tmp_path: Path) -> None:
    raised: list[BaseException] = []

    def start() -> None:
        try:
            Embedded(tmp_path / "data").start()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


def test_data_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    cluster = tmp_path / "data" / "postgres"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("9\n")
    if AS_ROOT:
        shutil.chown(cluster, "nobody")
    with pytest.raises(DatabaseUnusable, match=r"was made by PostgreSQL 9, and only .* is here"):
        Embedded(tmp_path / "data").start()


def test_folder_without_binaries_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUIZHI_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(DatabaseUnusable, match=f"{tmp_path} holds no `postgres`"):
        Embedded(tmp_path / "data").start()


def test_failing_start_says_why_in_one_line_and_gives_up_the_lock(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        Embedded(tmp_path / "data", options={"wal_level": "minimal"}).start()
    assert str(caught.value).startswith("PostgreSQL did not start: WAL streaming")
    assert "\n" not in str(caught.value)
    with running(tmp_path / "data"):
        pass


def test_unusable_data_dir_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseUnusable, match=r"data_dir .*/file/data cannot be used"):
        Embedded(tmp_path / "file" / "data").start()


async def test_server_sees_none_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VENDOR_PASSWORD", "hush")
    monkeypatch.setenv("PGDATA", "/nonexistent")
    monkeypatch.setenv("PGPORT", "1")
    with running(tmp_path / "data") as dsn:
        assert await ask(dsn, "SELECT 1") == 1
        environment = Path(f"/proc/{server_pid(tmp_path / 'data')}/environ").read_bytes()
    assert b"hush" not in environment


def python_for_others() -> str | None:
    """A Python of this version that any user can run; None if there is none, or no way to ours."""
    if not all(path.stat().st_mode & 0o001 for path in (ROOT, *ROOT.parents)):
        return None
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            subprocess.run([python, "-c", ""], cwd=ROOT, env={}, user="nobody", check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    return None


@pytest.mark.skipif(not AS_ROOT, reason="needs root")
class TestAsRoot:
    async def test_runs_as_an_ordinary_user_whose_data_nobody_else_can_reach(
        self, tmp_path: Path
    ) -> None:
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        with running(home / "data") as dsn:
            assert await ask(dsn, "SELECT 1") == 1
            owner = Path(f"/proc/{server_pid(home / 'data')}").stat().st_uid
            assert owner == (home / "data" / "postgres").stat().st_uid != 0
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "data").stat().st_mode) == 0o700

    async def test_goes_on_as_the_owner_of_the_data(self, tmp_path: Path) -> None:
        with running(tmp_path / "data"):
            pass
        nobody = pwd.getpwnam("nobody")
        cluster = tmp_path / "data" / "postgres"
        for path in (cluster, *cluster.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        with running(tmp_path / "data") as dsn:
            assert await ask(dsn, "SELECT 1") == 1
            assert Path(f"/proc/{server_pid(tmp_path / 'data')}").stat().st_uid == nobody.pw_uid

    async def test_copies_binaries_that_the_user_cannot_reach(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = embedded._choose(None, None, tmp_path)
        prefix = found.folder.parent
        closed = tmp_path / "closed" / prefix.parent.name / prefix.name
        shutil.copytree(prefix, closed, symlinks=True)
        libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, tmp_path / "closed" / libraries.name, symlinks=True)
        (tmp_path / "closed").chmod(0o700)
        open_to_all = Path("/var/tmp") / f"huizhi-test-{os.getpid()}"
        monkeypatch.setattr(embedded, "_COPIES", open_to_all)
        try:
            server = Embedded(tmp_path / "data", binaries=closed / found.folder.name)
            try:
                assert await ask(server.start(), "SELECT 1") == 1
                program = os.readlink(f"/proc/{server_pid(tmp_path / 'data')}/exe")
                assert Path(program).is_relative_to(open_to_all)
            finally:
                server.stop()
            assert len(list(open_to_all.iterdir())) == 1
        finally:
            shutil.rmtree(open_to_all, ignore_errors=True)
        assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == 0o700

    async def test_as_an_ordinary_user_without_a_home(self, stay: Callable[..., Staying]) -> None:
        python = python_for_others()
        if python is None:
            pytest.skip("no other user can read the checkout and run a Python of this version")
        nobody = pwd.getpwnam("nobody")
        folder = Path("/var/tmp") / f"huizhi-test-{os.getpid()}-user"
        folder.mkdir(mode=0o700)
        try:
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            owner = stay(folder / "data", nobody.pw_uid, python)
            assert owner.role == "owner"
            assert await ask(owner.dsn, "SELECT 1") == 1
            # Root, too, can attach to it.
            with running(folder / "data") as dsn:
                assert dsn == owner.dsn
            pid = server_pid(folder / "data")
            owner.kill()
            wait_for_end(pid)
        finally:
            shutil.rmtree(folder)
