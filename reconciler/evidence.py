"""Evidence packages: a run with all that it rests on, for who checks it without us and our database.

Everything in a package is either linked itself or proved to be what was linked, up to the link of the
run, and then on to a head. So a run's package up to a head is the same bytes whenever it is made.
"""

import asyncio
import hashlib
import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from reconciler import canonical, chain, exports, verifier
from runtime import Problem
from runtime.queries import QUERIES

PATIENCE_SECONDS = 20.0
# On a cluster what came just now is linked after two minutes: whoever sees how far it is waits that long.
LONG_PATIENCE_SECONDS = 150.0
_PAUSE_SECONDS = 0.5
_README = Path(__file__).parent / "evidence_readme"
_ROWS = 500
_RECORDS = 20  # with their bodies
_BLOCK = 1 << 20
# Every file of a package is from this time: the format's first.
_STAMP = (1980, 1, 1, 0, 0, 0)

Progress = Callable[[str], None]


class BadHead(Problem):
    """A head that the chain does not have, or that the run is not under."""


class NoRun(Problem):
    """There is no such run."""


class NoPackage(Problem):
    """No package is made of such a run; the text says in one line why."""


class NotLinked(Problem):
    """The run, or something that it rests on, is not in the chain yet."""


async def write(
    pool: Any,
    connection: Any,
    run_id: UUID,
    to: Path,
    *,
    holder: str,
    head: bytes | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
    progress: Progress = lambda _: None,
) -> chain.Head:
    """Write the package of a run to the file `to`, which is there only when it is whole.

    Returns the package's head: the run's own link, or the later one whose hash is `head`, one that was
    kept outside. First links what is not linked yet, waiting for what cannot be linked at once.
    `connection` is one of its own. Memory is bounded whatever the run's size; lists are spooled beside
    `to`. Raises `NoRun`, `NoPackage`, `NotLinked`, `BadHead`, `LeaseLost` and one of `DATABASE_ERRORS`.
    """
    run = await connection.fetchrow(QUERIES["run"], run_id)
    if run is None:
        raise NoRun(f"no reconciliation {run_id}")
    if run["assumed"]:
        raise NoPackage(f"reconciliation {run_id} assumes something: it is no evidence")
    if run["statement_id"] is None:
        raise NoPackage(
            f"reconciliation {run_id} rests on no statement, only on what reports say that messages "
            "cost: no package is made of it"
        )
    progress("linking")
    give_up = time.monotonic() + patience_seconds
    while await connection.fetchval(QUERIES["run_linked"], run_id) is None:
        await chain.link_now(pool, holder=holder, patience_seconds=PATIENCE_SECONDS)
        if time.monotonic() >= give_up:
            break
        await asyncio.sleep(_PAUSE_SECONDS)
    folder = Path(tempfile.mkdtemp(prefix=".huizhi-", dir=to.parent))
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.execute(QUERIES["think_long"])
            reached = await _write(connection, run_id, head, folder, progress)
        (folder / "package.zip").replace(to)
        return reached
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)


async def _write(
    connection: Any, run_id: UUID, head: bytes | None, folder: Path, progress: Progress
) -> chain.Head:
    height = await connection.fetchval(QUERIES["run_linked"], run_id)
    if height is None:
        raise NotLinked(
            f"reconciliation {run_id} is not in the chain yet: callbacks that it can rest on wait to be "
            "settled or linked; try again"
        )
    top = height if head is None else await connection.fetchval(QUERIES["height_of_hash"], head)
    if top is None or top < height:
        raise BadHead(
            f"no link with that hash, or one from before link {height}, which the reconciliation is in"
        )
    run = await connection.fetchrow(QUERIES["run"], run_id)
    statement = await connection.fetchrow(QUERIES["statement"], run["statement_id"])
    await connection.execute(QUERIES["evidence_tables"])
    await connection.execute(QUERIES["take_evidence"], run_id, run["statement_id"], height)
    files = folder / "files"
    files.mkdir()
    for name in ("README.md", "README.zh-CN.md"):
        shutil.copyfile(_README / name, files / name)
    shutil.copyfile(verifier.__file__, files / "verify.py")
    progress("the run, its statement, messages and reports")
    (files / "run.json").write_bytes(await canonical.run(connection, run))
    (files / "statement.json").write_bytes(await canonical.statement(connection, statement))
    await _spool(files / "lines.ndjson", canonical.lines(connection, run["statement_id"]))
    await _spool(files / "discrepancies.ndjson", canonical.discrepancies(connection, run_id))
    await _spool(files / "reports.ndjson", canonical.reports(connection, run_id))
    await _spool(files / "messages.ndjson", _messages(connection, run_id))
    await _spool(files / "records.ndjson", _records(connection))
    purged = {
        name: canonical.moment(at)
        for name, id in (("run", run_id), ("statement", run["statement_id"]))
        if (at := await connection.fetchval(QUERIES["purged_since"], id)) is not None
    }
    if purged:
        (files / "purged.json").write_bytes(canonical.text(purged))
    progress("tables")
    await _tables(files, run["run_at"])
    progress("proofs")
    lowest = await _proofs(connection, files / "proofs.ndjson")
    await _spool(files / "chain.ndjson", _links(connection, lowest, top))
    reached = chain.head_of(await connection.fetchrow(QUERIES["chain_links"], top, top))
    (files / "head.json").write_bytes(canonical.text(msgspec.structs.asdict(reached)))
    await _pack(connection, folder, progress)
    return reached


async def _spool(path: Path, pieces: AsyncIterator[bytes]) -> None:
    with path.open("wb") as file:
        async for piece in pieces:
            file.write(piece)


async def _messages(connection: Any, run_id: UUID) -> AsyncIterator[bytes]:
    async for row in connection.cursor(QUERIES["evidence_messages"], run_id, prefetch=_ROWS):
        said = canonical.message(row)
        if purged := _purged(row["purged_at"]):
            said = canonical.text({**json.loads(said), **purged})
        yield said + b"\n"


async def _records(connection: Any) -> AsyncIterator[bytes]:
    async for row in connection.cursor(QUERIES["evidence_records"], prefetch=_RECORDS):
        yield (
            canonical.text(
                {
                    "digest": row["digest"].hex(),
                    "account": row["account"],
                    "source": row["source"],
                    "call": row["call"],
                    "subject": row["subject"],
                    "received_at": canonical.moment(row["received_at"]),
                    "method": row["method"],
                    "query": row["query"].hex(),
                    "headers": row["headers"],
                    "peer": row["peer"],
                    **_purged(row["purged_at"]),
                }
            )
            + b"\n"
        )


def _purged(at: datetime | None) -> dict[str, str]:
    """Say when something lost its bytes, if it did."""
    return {} if at is None else {"purged_at": canonical.moment(at)}


async def _tables(files: Path, made_at: datetime) -> None:
    def rows() -> AsyncIterator[dict[str, Any]]:
        return _read(files / "discrepancies.ndjson")

    await _spool(files / "discrepancies.csv", exports.csv_chunks(verifier.COLUMNS, rows()))
    try:
        sheet = await exports.xlsx_file(verifier.COLUMNS, rows(), made_at=made_at)
    except exports.TooLong:
        return  # the CSV has them all
    with (files / "discrepancies.xlsx").open("wb") as file:
        for chunk in exports.file_chunks(sheet):
            file.write(chunk)


async def _read(path: Path) -> AsyncIterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


async def _proofs(connection: Any, path: Path) -> int:
    """Write the proof of every entry; return the lowest link's height."""
    tree: list[list[bytes]] = []
    lowest = current = 0
    with path.open("wb") as file:
        async for row in connection.cursor(QUERIES["evidence_in_order"], prefetch=_ROWS):
            if row["height"] != current:
                current = row["height"]
                lowest = lowest or current
                entries = await chain.entries_of(connection, current)
                tree = await asyncio.to_thread(canonical.levels, [entry.leaf for entry in entries])
            proof = {
                "kind": row["kind"],
                "key": row["key"].hex(),
                "account": row["account"],
                "at": canonical.moment(row["at"]),
                "content": row["content"].hex(),
                "height": current,
                "position": row["position"],
                "path": [node.hex() for node in canonical.path(tree, row["position"])],
            }
            file.write(canonical.text(proof) + b"\n")
    return lowest


async def _links(connection: Any, lowest: int, height: int) -> AsyncIterator[bytes]:
    async for row in connection.cursor(QUERIES["chain_links"], lowest, height, prefetch=_ROWS):
        yield (
            canonical.text(
                {
                    "height": row["height"],
                    "previous": row["previous"].hex(),
                    "root": row["root"].hex(),
                    "entries": row["entries"],
                    "linked_at": canonical.moment(row["linked_at"]),
                    "hash": row["hash"].hex(),
                }
            )
            + b"\n"
        )


async def _pack(connection: Any, folder: Path, progress: Progress) -> None:
    """Put all files into one archive in the order of their names, the list of their digests last."""
    with (
        zipfile.ZipFile(folder / "package.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        (folder / "sums").open("w+b") as sums,
    ):
        ordered = sorted((folder / "files").iterdir())
        for path in (path for path in ordered if path.name < "records/"):
            sums.write(await asyncio.to_thread(_put_file, archive, path))
        count = 0
        async for row in connection.cursor(QUERIES["evidence_records"], prefetch=_RECORDS):
            if row["purged_at"] is not None:
                continue  # its digest is what is left
            name = f"records/{row['digest'].hex()}.bin"
            sums.write(await asyncio.to_thread(_put, archive, name, row["body"]))
            count += 1
            if count % _ROWS == 0:
                progress(f"{count:,} records")
        for path in (path for path in ordered if path.name > "records/"):
            sums.write(await asyncio.to_thread(_put_file, archive, path))
        sums.flush()
        await asyncio.to_thread(_put_file, archive, folder / "sums", "SHA256SUMS")


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> bytes:
    archive.writestr(_stamped(name), data)
    return _sum(hashlib.sha256(data).hexdigest(), name)


def _put_file(archive: zipfile.ZipFile, path: Path, name: str | None = None) -> bytes:
    name = name or path.name
    sha = hashlib.sha256()
    with path.open("rb") as source, archive.open(_stamped(name), "w", force_zip64=True) as target:
        while block := source.read(_BLOCK):
            sha.update(block)
            target.write(block)
    return _sum(sha.hexdigest(), name)


def _stamped(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _STAMP)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3  # as on every system
    info.external_attr = 0o100644 << 16
    return info


def _sum(digest: str, name: str) -> bytes:
    """Return a line as sha256sum writes and checks it."""
    return f"{digest}  {name}\n".encode()
