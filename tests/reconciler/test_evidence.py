"""Evidence packages: what an honest one says, and that no forged one passes."""

import asyncio
import contextlib
import csv
import hashlib
import io
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from proving import NOW, World, accounts, disputed, packed, record, unpacked

from gateways.gateway import Callback
from reconciler import canonical, evidence, suspects, verifier
from reconciler.match import KINDS
from runtime import records

pytestmark = pytest.mark.anyio

Files = dict[str, bytes]


@dataclass
class Made:
    """A world, its run's package, and the head that was kept outside."""

    world: World
    run: Any
    path: Path
    head: str


@pytest.fixture
async def made(pool: Any, connection: Any, tmp_path: Path) -> Made:
    world = World(pool, connection, tmp_path, accounts())
    run = await disputed(world)
    path = tmp_path / "evidence.zip"
    await evidence.write(pool, connection, run, path, holder="test")
    return Made(world, run, path, json.loads(unpacked(path)["head.json"])["hash"])


def verified(path: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[int, str]:
    """What the verifier comes to, run within this process."""
    monkeypatch.setattr(sys, "argv", ["verify.py", str(path), *options])
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        code = verifier.main()
    return code, told.getvalue()


def resummed(files: Files) -> Files:
    """The files with a list of digests that a forger made to fit."""
    kept = {name: data for name, data in files.items() if name != "SHA256SUMS"}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in kept.items())
    return {**kept, "SHA256SUMS": sums.encode()}


async def test_an_honest_package_verifies_by_itself_in_an_empty_place(made: Made) -> None:
    place = made.path.parent / "elsewhere"
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(place)
    bill = made.path.parent / "bill.csv"
    ran = subprocess.run(
        [sys.executable, "-I", "verify.py", "--head", made.head, "--statement", str(bill)],
        cwd=place,
        capture_output=True,
        text=True,
        env={"PYTHONIOENCODING": "utf-8"},
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "FAILED" not in ran.stdout
    assert ran.stdout.endswith("VERIFIED\n")
    sources = {row["source"] for row in rows(unpacked(made.path), "reports.ndjson")}
    assert sources == {"push", "query", "send"}
    kinds = {row["kind"] for row in rows(unpacked(made.path), "discrepancies.ndjson")}
    assert len(kinds & set(KINDS)) >= 6


async def test_the_copy_in_the_package_is_the_verifier_of_the_source(made: Made) -> None:
    assert unpacked(made.path)["verify.py"] == Path(verifier.__file__).read_bytes()


def rows(files: Files, name: str) -> list[Any]:
    return [json.loads(line) for line in files[name].splitlines()]


async def test_the_same_run_gives_the_same_bytes_also_when_more_has_come_since(made: Made) -> None:
    await made.world.push(("failed", 1), ("unheard", 1))
    await made.world.register("stranger")
    await made.world.reconcile()
    await made.world.link()
    again = made.path.parent / "again.zip"
    world = made.world
    await evidence.write(world.pool, world.connection, made.run, again, holder="test")
    assert again.read_bytes() == made.path.read_bytes()


async def test_a_package_goes_on_to_a_later_head_that_was_kept_outside(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, longer = made.world, made.path.parent / "longer.zip"
    for name in "abc":
        await world.push((name, 1))
        await world.link()
    later = (await world.head()).hash
    write = lambda head: evidence.write(  # noqa: E731
        world.pool, world.connection, made.run, longer, holder="test", head=bytes.fromhex(head)
    )
    await write(later)
    code, told = verified(longer, monkeypatch, "--head", later)
    assert code == 0, told
    assert verified(longer, monkeypatch, "--head", made.head)[0] == 1
    with pytest.raises(evidence.BadHead):
        await write("00" * 32)


async def test_a_suspect_report_stands_in_a_package_with_what_was_held_against_it(
    pool: Any, connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(pool, connection, tmp_path, accounts())
    at = NOW - timedelta(days=8)
    # From an address that is not the vendor's: the bill's line is disputed all the same.
    told = record("failed", 1, at)
    callback = Callback(method=told.method, query=told.query, headers=told.headers, body=told.body)
    foreign = records.of_callback(
        "main", callback, received_at=at, peer="198.51.100.9", foreign=True
    )
    await world.take([foreign], at)
    run = await disputed(world)
    path = tmp_path / "evidence.zip"
    await evidence.write(pool, connection, run, path, holder="test")
    files = unpacked(path)
    held = {
        row["record"]: row["suspect"] for row in rows(files, "reports.ndjson") if "suspect" in row
    }
    # The vendor was asked, and said that it failed.
    against = ["foreign_network", "contradicted_by_query"]
    assert held == {foreign.digest.hex(): {"state": "contradicted", "reasons": against}}
    code, said = verified(path, monkeypatch)
    assert code == 0, said
    # Decided later, it is what was linked then.
    row = await connection.fetchrow("SELECT message_id, fingerprint FROM suspects")
    done = await suspects.decide(
        pool, "rejected", ids=[suspects.id_of(*row)], by="li", note=None, now=NOW
    )
    assert done.changed == 1
    again = tmp_path / "again.zip"
    await evidence.write(pool, connection, run, again, holder="test")
    assert again.read_bytes() == path.read_bytes()
    # That it came from elsewhere is part of what it is.
    listed = files["records.ndjson"].replace(b'"foreign_network"', b"null")
    assert listed != files["records.ndjson"]
    path.write_bytes(packed(resummed({**files, "records.ndjson": listed})))
    assert verified(path, monkeypatch)[0] == 1


async def test_nothing_is_left_beside_a_package(made: Made) -> None:
    assert {path.name for path in made.path.parent.iterdir()} == {"evidence.zip", "bill.csv"}


async def test_a_run_that_rests_on_what_is_not_settled_has_no_package_yet(
    pool: Any, connection: Any, tmp_path: Path
) -> None:
    world = World(pool, connection, tmp_path, accounts())
    run = await disputed(world)
    await connection.execute("UPDATE batches SET settled_at = NULL WHERE id = 1")
    to = tmp_path / "evidence.zip"
    with pytest.raises(evidence.NotLinked):
        await evidence.write(pool, connection, run, to, holder="test", patience_seconds=0)
    assert not to.exists()

    # Who has patience waits for it.
    looked = asyncio.Event()

    async def made() -> None:
        async with pool.acquire() as other:
            await evidence.write(
                pool, other, run, to, holder="test", progress=lambda _: looked.set()
            )

    making = asyncio.create_task(made())
    await looked.wait()
    await connection.execute("UPDATE batches SET settled_at = now()")
    await making
    assert to.exists()


def test_the_verifier_is_short_and_needs_nothing_of_ours() -> None:
    source = Path(verifier.__file__).read_text("utf-8")
    assert len(source.splitlines()) < 315
    modules = {
        line.split()[1].partition(".")[0] for line in source.splitlines() if "import " in line[:12]
    }
    modules |= {
        line.split()[1].partition(".")[0]
        for line in source.splitlines()
        if line.startswith("from ")
    }
    assert modules <= set(sys.stdlib_module_names)


# --- forgers ------------------------------------------------------------------------------------------

# What is no evidence itself, and which a forger can therefore rewrite together with the list of digests.
PROSE = {"README.md", "README.zh-CN.md", "verify.py", "SHA256SUMS"}


def forged(made: Made, files: Files) -> Path:
    path = made.path.parent / "forged.zip"
    path.write_bytes(packed(files))
    return path


async def test_a_single_changed_byte_of_any_file_is_found(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = unpacked(made.path)
    chance = random.Random(20261122)
    for name in files:
        for _ in range(3):
            data = bytearray(files[name])
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path = forged(made, {**files, name: bytes(data)})
            assert verified(path, monkeypatch)[0] == 1, name


async def test_a_single_changed_byte_is_found_by_a_forger_s_own_list_of_digests_too(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = unpacked(made.path)
    chance = random.Random(20261123)
    for name in sorted(files.keys() - PROSE - {"discrepancies.xlsx"}):
        for _ in range(12):
            data = bytearray(files[name])
            place, bit = chance.randrange(len(data)), chance.randrange(8)
            data[place] ^= 1 << bit
            path = forged(made, resummed({**files, name: bytes(data)}))
            code, told = verified(path, monkeypatch, "--head", made.head)
            assert code == 1, (name, place, bit, told)


async def test_a_changed_byte_of_the_archive_is_a_verdict_and_changes_no_file_unseen(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, chance = made.path.read_bytes(), random.Random(20261124)
    path = made.path.parent / "changed.zip"
    for _ in range(60):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        code, told = verified(path, monkeypatch)
        assert code == 1 or unpacked(path) == unpacked(made.path), told


async def test_a_package_of_a_database_that_was_tampered_with_does_not_verify(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, path = made.world, made.path.parent / "after.zip"
    await world.connection.execute("UPDATE records SET body = body || ' ' WHERE source = 'push'")
    await evidence.write(world.pool, world.connection, made.run, path, holder="test")
    code, told = verified(path, monkeypatch)
    assert code == 1
    assert "is not the digest of its bytes" in told


async def test_a_cell_of_the_spreadsheet_cannot_be_changed(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = unpacked(made.path)
    with zipfile.ZipFile(io.BytesIO(files["discrepancies.xlsx"])) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    sheet = parts["xl/worksheets/sheet1.xml"]
    for old, new in (
        (b"0.04", b"9.04"),
        (b"<v>1</v>", b"<v>2</v>"),
        (b"billed_twice", b"fine"),
        (b"<v>1</v>", b"<f>1+0</f><v>1</v>"),
    ):
        assert old in sheet
        changed = packed({**parts, "xl/worksheets/sheet1.xml": sheet.replace(old, new, 1)})
        path = forged(made, resummed({**files, "discrepancies.xlsx": changed}))
        code, told = verified(path, monkeypatch)
        assert code == 1
        assert "xlsx differs" in told


def _without_line(files: Files, name: str, place: int) -> Files:
    kept = files[name].splitlines(keepends=True)
    del kept[place]
    return {**files, name: b"".join(kept)}


def _drop_record(files: Files) -> Files:
    """Leave out a report with all that belongs to it."""
    gone = rows(files, "records.ndjson")[0]["digest"]
    left = {name: data for name, data in files.items() if gone not in name}
    for name in ("records.ndjson", "reports.ndjson", "proofs.ndjson"):
        lines = left[name].splitlines(keepends=True)
        left[name] = b"".join(line for line in lines if gone.encode() not in line)
    return left


def _add_record(files: Files) -> Files:
    """Put in a report that never came, with a record whose digest is right."""
    old = rows(files, "records.ndjson")[0]
    body = files[f"records/{old['digest']}.bin"] + b" "
    made = verifier.framed(
        b"push", old["account"].encode(), old["method"].encode(), bytes.fromhex(old["query"]), body
    ).hex()
    said = {**old, "digest": made}
    report = {**rows(files, "reports.ndjson")[0], "record": made}
    return {
        **files,
        "records.ndjson": files["records.ndjson"] + canonical.text(said) + b"\n",
        "reports.ndjson": files["reports.ndjson"] + canonical.text(report) + b"\n",
        f"records/{made}.bin": body,
    }


def _amount_in_csv(files: Files) -> Files:
    table = list(csv.reader(io.StringIO(files["discrepancies.csv"].decode("utf-8-sig"))))
    table[1][table[0].index("amount")] = "1000"
    text = io.StringIO()
    csv.writer(text).writerows(table)
    return {**files, "discrepancies.csv": text.getvalue().encode("utf-8-sig")}


def _amount_everywhere(files: Files) -> Files:
    """Have the result, the list and their digests say the same wrong amount."""
    found = rows(files, "discrepancies.ndjson")
    found[0]["amount"] = "1000.04"
    listed = b"".join(canonical.text(row) + b"\n" for row in found)
    run = json.loads(files["run.json"])
    run["discrepancies_sha256"] = hashlib.sha256(listed).hexdigest()
    kind = run["result"]["discrepancies"][found[0]["kind"]]
    total = sum(Decimal(row["amount"]) for row in found if row["kind"] == found[0]["kind"])
    kind["amount"] = str(total)
    return {**files, "discrepancies.ndjson": listed, "run.json": canonical.text(run)}


def _another_cause(files: Files) -> Files:
    """Have a discrepancy come from another cause than the result counts it under."""
    found = rows(files, "discrepancies.ndjson")
    found[0]["cause"] = "refused_by_us"
    listed = b"".join(canonical.text(row) + b"\n" for row in found)
    run = json.loads(files["run.json"])
    run["discrepancies_sha256"] = hashlib.sha256(listed).hexdigest()
    return {**files, "discrepancies.ndjson": listed, "run.json": canonical.text(run)}


def _swap_bodies(files: Files) -> Files:
    first, second = [name for name in files if name.startswith("records/")][:2]
    return {**files, first: files[second], second: files[first]}


def _swap_readings(files: Files) -> Files:
    """Have a report of one message speak of another."""
    listed = rows(files, "reports.ndjson")
    other = next(row for row in listed if row["message_id"] != listed[0]["message_id"])
    listed[0]["message_id"] = other["message_id"]
    return {**files, "reports.ndjson": b"".join(canonical.text(row) + b"\n" for row in listed)}


def _proof_of_another(files: Files) -> Files:
    proofs = rows(files, "proofs.ndjson")
    proofs[0]["path"], proofs[-1]["path"] = proofs[-1]["path"], proofs[0]["path"]
    proofs[0]["position"] += 1
    return {**files, "proofs.ndjson": b"".join(canonical.text(row) + b"\n" for row in proofs)}


def _cut_chain(files: Files) -> Files:
    cut = _without_line(files, "chain.ndjson", -1)
    last = rows(cut, "chain.ndjson")[-1]
    head = {name: last[name] for name in ("height", "hash", "linked_at")}
    return {**cut, "head.json": canonical.text(head)}


def _made_anew(files: Files) -> Files:
    """Change a report's record and make all digests, proofs and links anew: only the anchor is left."""
    links = rows(files, "chain.ndjson")
    old = rows(files, "records.ndjson")[0]
    said = {**old, "peer": "198.51.100.7"}
    content = verifier.framed(said["headers"].encode(), said["peer"].encode())
    proofs = rows(files, "proofs.ndjson")
    proof = next(row for row in proofs if row["key"] == old["digest"])
    proof["content"] = content.hex()
    # The forger makes every other entry's link one of its own, which holds nothing else.
    previous, kept = links[0]["previous"], []
    for height, row in enumerate(sorted(proofs, key=lambda row: row["kind"] == "run"), 1):
        row.update(height=height, position=0, path=[])
        leaf = canonical.leaf(
            row["kind"],
            bytes.fromhex(row["key"]),
            row["account"],
            _at(row["at"]),
            bytes.fromhex(row["content"]),
        )
        at = links[-1]["linked_at"]
        hash = canonical.link_hash(bytes.fromhex(previous), height, leaf, 1, _at(at)).hex()
        kept.append(
            {
                "height": height,
                "previous": previous,
                "root": leaf.hex(),
                "entries": 1,
                "linked_at": at,
                "hash": hash,
            }
        )
        previous = hash
    head = {name: kept[-1][name] for name in ("height", "hash", "linked_at")}
    records = [said if row == old else row for row in rows(files, "records.ndjson")]
    return {
        **files,
        "records.ndjson": b"".join(canonical.text(row) + b"\n" for row in records),
        "proofs.ndjson": b"".join(canonical.text(row) + b"\n" for row in proofs),
        "chain.ndjson": b"".join(canonical.text(row) + b"\n" for row in kept),
        "head.json": canonical.text(head),
    }


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


FORGERIES: list[Callable[[Files], Files]] = [
    _drop_record,
    _add_record,
    _amount_in_csv,
    _amount_everywhere,
    _another_cause,
    _swap_bodies,
    _swap_readings,
    _proof_of_another,
    _cut_chain,
    _made_anew,
    lambda files: _without_line(files, "chain.ndjson", 0),
    lambda files: _without_line(files, "messages.ndjson", 0),
    lambda files: _without_line(files, "lines.ndjson", 2),
    lambda files: _without_line(files, "proofs.ndjson", 0),
    lambda files: _without_line(files, "discrepancies.ndjson", 1),
    lambda files: {**files, "messages.ndjson": files["messages.ndjson"] * 2},
    lambda files: {**files, "records/00.bin": b"more"},
    lambda files: {name: data for name, data in files.items() if name != "head.json"},
    lambda files: {name: data for name, data in files.items() if name != "discrepancies.xlsx"},
]


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
async def test_a_forged_package_is_found_out_though_its_digests_fit(
    forge: Callable[[Files], Files], made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = forged(made, resummed(forge(unpacked(made.path))))
    code, told = verified(path, monkeypatch, "--head", made.head)
    assert code == 1, told
    if forge in (_amount_everywhere, _another_cause):
        assert "FAILED     the discrepancies add up" in told
    assert "FAILED" in told
    assert "FAILED     every file is the one" not in told, "the forger's own list fits"


async def test_only_the_head_kept_outside_tells_a_chain_that_was_made_anew(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = forged(made, resummed(_made_anew(unpacked(made.path))))
    code, told = verified(path, monkeypatch)
    assert code == 0, told
    assert "NOT COMPARED" in told
    assert verified(path, monkeypatch, "--head", made.head)[0] == 1


async def test_another_file_than_the_statement_is_told(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = made.path.parent / "other.csv"
    other.write_bytes((made.path.parent / "bill.csv").read_bytes() + b"\n")
    code, told = verified(made.path, monkeypatch, "--statement", str(other))
    assert code == 1
    assert "another one" in told


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all"])
async def test_what_is_no_package_is_a_verdict_and_no_crash(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.zip").write_bytes(data)
    assert verified(tmp_path / "bad.zip", monkeypatch)[0] == 1
