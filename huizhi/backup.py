"""`huizhi backup` and `huizhi restore`: one folder that holds what must not be lost.

What waits in `data_dir` for the database is copied before the database is dumped: what passes from the one
into the other meanwhile is in both, which adds nothing, and never in neither.
"""

import asyncio
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import rich_click as click

from huizhi import cli_config
from huizhi.options import output_option, show_json, with_pool, writing
from huizhi.progress import Progress, shown
from reconciler import actions, chain
from reconciler.chain import Head
from runtime import Problem, database, migrate
from runtime.embedded import Embedded, programs
from runtime.queries import QUERIES
from runtime.settings import Settings

DUMP = "database.dump"
MANIFEST = "manifest.json"
# What is on its way from `data_dir` into the database: the spool, and pages that were handed out once.
WAITING = ("spool", "pages")
_ROLES = {
    "auditor": QUERIES["make_auditor"],
    "huizhi_receiver": QUERIES["make_huizhi_receiver"],
    "huizhi_reconciler": QUERIES["make_huizhi_reconciler"],
}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of; `files` has the sha256 of each by its path, `head` the chain's newest link."""

    huizhi: str
    postgres: str
    made_at: datetime
    migrations: int
    head: Head
    files: dict[str, str]


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@output_option("table", "json")
@writing("backup")
def backup(folder: Path, output: str) -> int:
    """Back up the database, and what waits in data_dir for it, into FOLDER, which is made.

    Services go on meanwhile. Keys and settings are not in it: they are kept elsewhere.
    """
    settings = cli_config.settings()
    whole = folder.absolute()

    async def work(pool: Any) -> int:
        with shown("backup") as progress:
            made = await _back_up(settings, pool, whole, progress)
        if output == "json":
            show_json({"folder": str(folder), **msgspec.to_builtins(made)})
        else:
            size = sum(path.stat().st_size for path in _files(whole))
            click.echo(f"{folder}: {len(made.files)} files, {size} bytes")
            click.echo(f"chain up to link {made.head.height}, {made.head.hash}")
        return 0

    return with_pool(settings, "backup", work)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@output_option("table", "json")
def restore(folder: Path, output: str) -> None:
    """Restore what `huizhi backup` put into FOLDER: into a database that is empty, and into data_dir.

    No service may run. Nothing that is there is replaced; whole or not at all.
    """
    settings = cli_config.settings()
    manifest = _checked(folder)
    with database.server(settings) as embedded:
        found = database.of(settings, embedded, "restore")

        async def run() -> list[str]:
            async with found.connection() as connection:
                await _prepare(connection, manifest)
            dsn = found.dsn.reveal()
            with shown("restore"):
                await _run(
                    embedded,
                    int(manifest.postgres.partition(".")[0]),
                    ["pg_restore", "--single-transaction", "--exit-on-error", "--no-owner"],
                    dsn,
                    folder / DUMP,
                )
            async with found.connection() as connection:
                # A version that is newer than the backup brings it up to its own schema.
                applied = await migrate.migrate(connection)
            async with found.pool() as pool, actions.command(pool, "restore", {}):
                pass
            return applied

        applied = asyncio.run(run())
    _put_back(folder, settings)
    if output == "json":
        show_json({"applied": applied, **msgspec.to_builtins(manifest)})
        return
    click.echo(f"restored what was backed up at {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC")
    for name in applied:
        click.echo(f"applied {name}")
    click.echo(f"check it: huizhi chain verify --head {manifest.head.hash}")


async def _back_up(settings: Settings, pool: Any, folder: Path, progress: Progress) -> Manifest:
    made = _begun(folder)
    try:
        progress("what waits in data_dir", None)
        for name in WAITING:
            _copy(settings.data_dir / name, made / name)
        async with pool.acquire() as connection:
            version = connection.get_server_version()
            head = await chain.head(connection)
        url = settings.database.url
        embedded = Embedded(settings.data_dir) if url is None else None
        dsn = Embedded(settings.data_dir).dsn if url is None else url.reveal()
        progress("the database", None)
        await _run(embedded, version.major, ["pg_dump", "--format=custom"], dsn, made / DUMP)
        manifest = Manifest(
            huizhi=importlib.metadata.version("huizhi"),
            postgres=f"{version.major}.{version.minor}",
            made_at=datetime.now(UTC),
            migrations=len(migrate.load()),
            head=head,
            files={str(path.relative_to(made)): _sha256(path) for path in _files(made)},
        )
        _finish(made, manifest, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return manifest


def _begun(folder: Path) -> Path:
    """Make the folder that is to become `folder` when it is whole."""
    if folder.exists():
        raise Problem(f"{folder} is there already: a backup has a folder of its own")
    made = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(made, ignore_errors=True)  # of one that was killed
    try:
        made.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise Problem(f"{made} cannot be made: {error.strerror}") from error
    return made


def _finish(made: Path, manifest: Manifest, folder: Path) -> None:
    (made / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    for path in (*_files(made), *(made / name for name in WAITING), made):
        _sync(path)
    made.rename(folder)
    _sync(folder.parent)


def _copy(source: Path, target: Path) -> None:
    """Copy the files of a folder; those that are drained meanwhile are in the database by then."""
    target.mkdir(mode=0o700)
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        # Set aside for people, in a folder below, is nothing that waits.
        if path.is_file():
            try:
                shutil.copy(path, target)
            except FileNotFoundError:
                continue


def _checked(folder: Path) -> Manifest:
    """Read the manifest and hold every file against it; raises `Problem`."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise Problem(f"{folder} is no whole backup: {MANIFEST}: {error}") from error
    there = {str(path.relative_to(folder)) for path in _files(folder)} - {MANIFEST}
    for name in sorted(there ^ manifest.files.keys()):
        raise Problem(f"{folder}: {name} is missing, or was not backed up")
    for name, digest in manifest.files.items():
        if _sha256(folder / name) != digest:
            raise Problem(f"{folder}: {name} is not as it was backed up")
    known = len(migrate.load())
    if manifest.migrations > known:
        raise Problem(
            f"{folder} was made by Huizhi {manifest.huizhi}, which knows"
            f" {manifest.migrations} migrations; this version knows {known}"
        )
    return manifest


async def _prepare(connection: Any, manifest: Manifest) -> None:
    """Make the roles that the dump grants to; raises `Problem` where something is in the way."""
    version = connection.get_server_version().major
    if version < int(manifest.postgres.partition(".")[0]):
        raise Problem(f"the backup is of PostgreSQL {manifest.postgres}; this server is {version}")
    if not await connection.fetchval(QUERIES["nothing_there"]):
        raise Problem("the database is not empty: restore into one that has no tables")
    rows = await connection.fetch(QUERIES["roles_there"], list(_ROLES))
    there = {row["rolname"] for row in rows}
    for name, statement in _ROLES.items():
        if name not in there:
            await connection.execute(statement)


async def _run(
    embedded: Embedded | None, major: int, command: list[str], dsn: str, file: Path
) -> None:
    """Run one of PostgreSQL's own programs on the database; raises `Problem` with its last words."""
    binaries = embedded.binaries if embedded is not None else programs(major)
    password = urlsplit(dsn).netloc.rpartition("@")[0].partition(":")[2]
    # Others see the arguments of a process, and not its environment.
    environment = {**os.environ, "LC_ALL": "C"}
    if password:
        dsn = dsn.replace(f":{password}@", "@", 1)
        environment["PGPASSWORD"] = unquote(password)
    program, *options = command
    place = ["--file", str(file)] if program == "pg_dump" else [str(file)]
    ran = await asyncio.create_subprocess_exec(
        binaries.folder / program, *options, "--dbname", dsn, *place,
        env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, said = await ran.communicate()
    if ran.returncode != 0:
        lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
        raise Problem(
            f"{program} failed: {lines[0] if lines else f'it ended with {ran.returncode}'}"
        )


def _put_back(folder: Path, settings: Settings) -> None:
    """Copy what waited to where it is waited for; a file that is there is left alone."""
    for name in WAITING:
        target = settings.data_dir / name
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted((folder / name).iterdir()):
            if not (target / path.name).exists():
                shutil.copy(path, target)
                _sync(target / path.name)
        _sync(target)


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
