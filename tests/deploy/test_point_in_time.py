"""The walk-through of docs/backup.md, as it is typed: base backup under load, WAL, everything lost."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from services import Process, until
from test_backup import SETTINGS, Load, delivered, listed, push, register

from runtime import embedded

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/backup.md").read_text("utf-8")


def _block(language: str, word: str) -> str:
    """The block of the document that has `word` in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return str(found)


class Server:
    """A PostgreSQL of one's own, run by a user who may: not by root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        user = None
        if os.geteuid() == 0:
            entry = embedded._server_user(folder / "none")
            assert entry is not None
            user = entry.uid
        self._user = user
        binaries = embedded._choose(None, None, folder)
        owner = None if user is None else embedded._User(user, pwd.getpwuid(user).pw_gid)
        binaries = embedded._reachable(binaries, owner)
        for name in ("wal", "socket"):
            (folder / name).mkdir()
        if user is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, user, pwd.getpwuid(user).pw_gid)
        self.environment = {
            "PATH": f"{binaries.folder}:{os.environ['PATH']}",
            "PGDATA": str(folder / "data"),
            "BASE": str(folder / "base"),
            "WAL_ARCHIVE": str(folder / "wal"),
            "PGHOST": str(folder / "socket"),
            "PGUSER": "huizhi",
            "LC_ALL": "C",
        }

    @property
    def dsn(self) -> str:
        return f"postgresql:///huizhi?user=huizhi&host={self.folder}/socket"

    def sh(self, script: str) -> None:
        log = self.folder / "log"
        with log.open("ab") as output:
            ran = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, user=self._user, check=False, timeout=120,
                extra_groups=None if self._user is None else [],
            )  # fmt: skip
        assert ran.returncode == 0, log.read_text("utf-8", "replace")[-3000:]

    def kill(self) -> None:
        pid = int((self.folder / "data/postmaster.pid").read_text().split("\n")[0])
        os.kill(pid, 9)
        until(
            lambda: (
                not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
            )
        )
        # Not reaped yet, it would still count as the owner of its socket's lock. A machine that goes down
        # takes the folder of sockets with it.
        for path in (self.folder / "socket").iterdir():
            path.unlink()


@pytest.fixture
def server() -> Iterator[Server]:
    # Where another user can get at it, and short enough for a socket's name.
    folder = Path(tempfile.mkdtemp(prefix="huizhi-wal-", dir="/tmp"))
    made = Server(folder)
    made.sh("initdb --auth=trust --username=huizhi --encoding=UTF8 --locale=C > /dev/null")
    conf = _block("ini", "archive_mode")
    own = f"\nlisten_addresses = ''\nunix_socket_directories = '{folder}/socket'\n"
    (folder / "conf").write_text(conf + own)
    made.sh('cat conf >> "$PGDATA/postgresql.conf"; pg_ctl --wait start; createdb huizhi')
    yield made
    made.sh("pg_ctl --wait --mode=immediate stop || true")
    shutil.rmtree(folder)


def test_walk_through_of_base_backup_and_wal(server: Server, tmp_path: Path) -> None:
    (tmp_path / "huizhi.toml").write_text(SETTINGS, "utf-8")
    service = Process("serve", tmp_path / "huizhi.toml", dsn=server.dsn, places=2)
    try:
        for place in service.places.values():
            until(lambda place=place: httpx.get(place + "/health/ready").status_code == 200)
        known = [f"known-{number}" for number in range(20)]
        register(service, known)
        assert all(push(service, name) for name in known)
        until(lambda: delivered(service) == set(known))
        load = Load(service)
        try:
            load.reaches(50)
            server.sh(_block("sh", "pg_basebackup"))
            load.reaches(len(load.acknowledged) + 50)
        finally:
            load.stop()
        # The last minute is archived when the segment is full, or the minute is over.
        server.sh('psql --quiet --dbname=huizhi --command="SELECT pg_switch_wal()" > /dev/null')
        kept = list(load.acknowledged)
        until(
            lambda: (
                not [
                    path
                    for path in (server.folder / "data/pg_wal/archive_status").iterdir()
                    if path.suffix == ".ready"
                ]
            )
        )
        head = service.command("chain", "head", "--output", "json")
        assert head.returncode == 0

        # PostgreSQL and its disk are gone. The receiver stays, and goes on acknowledging.
        server.kill()
        shutil.rmtree(server.folder / "data")
        until(lambda: push(service, "while-it-was-gone"))

        server.sh(_block("sh", "recovery.signal"))
        until(lambda: httpx.get(service.places["reconciler"] + "/health/ready").status_code == 200)
        # All that was archived, past the base backup, and what was in the spool. The last batch may not have
        # been settled when its WAL was: it is taken up.
        wanted = {*kept, "while-it-was-gone"}
        until(lambda: wanted <= {o["vendor_message_id"] for o in listed(service, "/v1/orphans")})
        assert delivered(service) == set(known)
        verified = service.command("chain", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert push(service, "and-on")
        service.stop()
    finally:
        service.end()
