#!/usr/bin/env python3
"""Checks a Huizhi evidence package offline: Python 3.9 or newer, its standard library, nothing else.

    python3 verify.py [PACKAGE.zip or its folder] [--head HASH] [--statement FILE]
Prints what each check came to; exits with 0 if all hold, else with 1.
"""

import argparse
import csv
import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from decimal import Context, Decimal, localcontext
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

COLUMNS = [  # of discrepancies.csv and .xlsx
    *("kind", "message_id", "vendor_message_id", "phone", "line", "sent_at", "status"),
    *("owed_segments", "billed_segments", "price", "billed_amount", "segments", "amount", "cause"),
]
FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")
ESCAPED = re.compile("_x([0-9A-F]{4})_")  # what XML cannot hold, in a spreadsheet
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
PURGED = ", but for what was purged or erased since: of it digest, account, time and sums alone are proved: "


def need(holds: object, what: str) -> None:
    if not holds:
        raise ValueError(what)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def framed(*parts: bytes) -> bytes:
    """sha256 over parts, each after its length in 8 bytes: no two lists are the same bytes."""
    return sha256(*(piece for part in parts for piece in (len(part).to_bytes(8, "big"), part)))


def unhex(text: str) -> bytes:
    need(not re.search("[^0-9a-f]", text), f"{text[:80]!r} is no lower-case hexadecimal number")
    return bytes.fromhex(text)


def read_json(text: bytes, name: str) -> Any:
    said = json.loads(text)
    again = json.dumps(said, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    need(again.encode() == text, f"{name} is not written as it was linked")
    return said


class Package:
    """The files of a package: a zip, or the folder that it was unpacked in."""

    def __init__(self, place: Path) -> None:
        self.root: Any = place if place.is_dir() else zipfile.Path(place)
        files = [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()]
        self.names = files if place.is_dir() else zipfile.ZipFile(place).namelist()

    def read(self, name: str) -> bytes:
        return bytes(self.root.joinpath(name).read_bytes())

    def digest(self, name: str) -> str:
        sha = hashlib.sha256()
        with self.root.joinpath(name).open("rb") as file:
            for line in file:
                sha.update(line)
        return sha.hexdigest()

    def rows(self, name: str) -> Iterator[tuple[bytes, Any]]:
        with self.root.joinpath(name).open("rb") as file:
            for number, line in enumerate(file, 1):
                need(line.endswith(b"\n"), f"{name} ends within line {number}")
                yield line[:-1], read_json(line[:-1], f"{name}, line {number}")


class Verifier:
    """The checks in their order; each says what holds, and raises if it does not."""

    def __init__(self, package: Package, head: str, statement: Path) -> None:
        self.package, self.anchored, self.file = package, head, statement
        self.chain: dict[int, tuple[bytes, int]] = {}
        self.entries: dict[tuple[str, bytes], tuple[Any, Any, Any, int]] = {}
        self.height = self.last = self.run = self.statement = self.found = None  # type: Any
        self.purged: Counter[str] = Counter()  # what was dropped since, and is known by its digest

    def check_files(self) -> str:
        """every file is the one that SHA256SUMS names, and there is no other"""
        lines = self.package.read("SHA256SUMS").decode().splitlines()
        listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        need(len(listed) == len(lines) and all(listed), "SHA256SUMS names none, or one twice")
        need(sorted(self.package.names) == sorted([*listed, "SHA256SUMS"]), "missing or too many")
        for name, digest in listed.items():
            need(self.package.digest(name) == digest, f"{name} was changed")
        return f"{len(listed)} files"

    def check_chain(self) -> str:
        """each link's hash is over the one before it, up to the head"""
        for _, link in self.package.rows("chain.ndjson"):
            height, root, previous = link["height"], unhex(link["root"]), unhex(link["previous"])
            if self.last is not None:
                need(height == self.last["height"] + 1, f"link {height} stands in another's place")
                need(link["previous"] == self.last["hash"], f"link {height} does not follow")
            numbers = (str(height).encode(), root, str(link["entries"]).encode())
            made = framed(b"huizhi link", previous, *numbers, link["linked_at"].encode())
            need(made.hex() == link["hash"], f"link {height} was changed")
            self.chain[height], self.last = (root, link["entries"]), link
        need(self.last, "there is no link")
        head = read_json(self.package.read("head.json"), "head.json")
        same = {name: self.last[name] for name in ("height", "hash", "linked_at")}
        need(head == same, "head.json is not the last link")
        need(head["hash"] == (self.anchored or head["hash"]).lower(), "the head is another one")
        kept = "as kept outside" if self.anchored else "NOT COMPARED with one kept outside (--head)"
        return f"{len(self.chain)} links to height {head['height']}, hash {head['hash']}, {kept}"

    def check_proofs(self) -> str:
        """every proof leads from its entry to the root of its link"""
        for _, proof in self.package.rows("proofs.ndjson"):
            kind, key, place = proof["kind"], unhex(proof["key"]), proof["position"]
            content, name = unhex(proof["content"]), f"{kind} {proof['key']}"
            words = (proof["account"].encode(), proof["at"].encode())
            node = sha256(b"\0", framed(kind.encode(), key, *words, content))
            root, count = self.chain.get(proof["height"], (b"", 0))
            need(0 <= place < count, f"{name}: there is no place {place} in link {proof['height']}")
            path = [unhex(beside) for beside in proof["path"]]
            while count > 1:
                if place ^ 1 < count:
                    need(path, f"{name}: the proof is too short")
                    node = sha256(b"\1", *[node, path.pop(0)][:: -1 if place & 1 else 1])
                place, count = place >> 1, (count + 1) >> 1
            need(not path and node == root, f"{name} is not in link {proof['height']}")
            need((kind, key) not in self.entries, f"{name} is there twice")
            self.entries[kind, key] = (proof["account"], proof["at"], content, proof["height"])
        return f"{len(self.entries)} entries"

    def linked(self, kind: str, key: bytes, account: str, at: str, content: bytes) -> None:
        """Hold something against its proof, which is used up by that; without content if it was purged."""
        *proved, height = self.entries.pop((kind, key), (None, None, None, 0))
        self.purged[f"{kind}s"] += not content
        said = [account, at, content or proved[2]]
        need(proved == said and proved[2], f"{kind} {key.hex()} is not what was linked")
        self.height = height if kind == "run" else self.height
        need(height <= self.height, f"{kind} {key.hex()} was linked after the run")

    def linked_text(self, kind: str, text: bytes, said: Any, at: str) -> None:
        content = b"" if kind == "message" and said.get("purged_at") else sha256(text)
        self.linked(kind, unhex(said["id"].replace("-", "")), said["account"], said[at], content)

    def check_run(self) -> str:
        """the run, what it found, its reports and its statement are those that were linked"""
        for name, at in (("run", "run_at"), ("statement", "imported_at")):
            text = self.package.read(f"{name}.json")
            setattr(self, name, read_json(text, f"{name}.json"))
            self.linked_text(name, text, getattr(self, name), at)
        need(self.statement["id"] == self.run["statement_id"], "it is another run's statement")
        there = "purged.json" in self.package.names
        purged = read_json(self.package.read("purged.json"), "purged.json") if there else {}
        for name, owner in (("discrepancies", "run"), ("reports", "run"), ("lines", "statement")):
            same = self.package.digest(f"{name}.ndjson") == getattr(self, owner)[f"{name}_sha256"]
            need(same or owner in purged, f"{name}.ndjson is not what was linked")
            self.purged[f"{name}.ndjson (numbers)"] += not same
        self.found = [row for _, row in self.package.rows("discrepancies.ndjson")]
        return f"{self.run['id']}, linked at {self.last['linked_at']}"

    def check_amounts(self) -> str:
        """the discrepancies add up to the run's difference, by kind and by cause, exactly"""
        result = self.run["result"]
        told = {(kind, None): each for kind, each in result["discrepancies"].items()}
        told.update({(each["kind"], each["cause"]): each for each in result.get("causes", ())})
        for name in ("count", "segments", "amount"):
            sums: dict[Any, Decimal] = {}
            for row in self.found:
                for part in {(row["kind"], None), (row["kind"], row.get("cause"))}:
                    sums[part] = sums.get(part, Decimal(0)) + Decimal(row.get(name, 1))
            need(sums == {part: Decimal(told[part][name]) for part in told}, f"{name} differs")
        for name in ("segments", "amount"):
            whole = sum(Decimal(row[name]) for row in self.found)
            owed, billed = (Decimal(result[side][name]) for side in ("owed", "billed"))
            need(whole == Decimal(result["difference"][name]) == billed - owed, f"{name} differs")
        return f"{len(self.found)}, together {result['difference']['amount']} {result['currency']}"

    def check_tables(self) -> str:
        """discrepancies.csv and .xlsx say the same as what was linked"""
        cells = [[str(cell(row.get(name))) for name in COLUMNS] for row in self.found]
        csv.writer(text := io.StringIO()).writerows([COLUMNS, *cells])
        same = self.package.read("discrepancies.csv") == text.getvalue().encode("utf-8-sig")
        need(same, "discrepancies.csv differs")
        if len(cells) <= 1_048_575:  # more do not fit into a spreadsheet
            rows = list(sheet_rows(self.package.read("discrepancies.xlsx")))
            need(rows == [COLUMNS, *cells], "discrepancies.xlsx differs")
        return f"{len(cells)} rows"

    def check_lines(self) -> str:
        """the statement's lines add up to what was billed, and discrepancies quote them rightly"""
        quoted: dict[int, list[Any]] = {}
        for row in (row for row in self.found if row["line"] is not None):
            quoted.setdefault(row["line"], []).append(row)
        segments, amount, priced, count = 0, Decimal(0), True, 0
        for _, line in self.package.rows("lines.ndjson"):
            count, segments = count + 1, segments + line["segments"]
            priced = priced and line["amount"] is not None
            amount += Decimal(line["amount"] or 0)
            for row in quoted.pop(line["line"], ()):
                said = {"billed_segments": line["segments"], "billed_amount": line["amount"]}
                said.update({name: line[name] for name in ("vendor_message_id", "phone")})
                same = all(said[name] in (None, row[name]) for name in said)
                need(same, f"line {line['line']} is quoted wrongly")
        need(not quoted, f"lines that are not there: {sorted(quoted)[:3]}")
        billed = self.run["result"]["billed"]
        same = (count, segments) == (billed["lines"], billed["segments"])
        need(same and (not priced or amount == Decimal(billed["amount"])), "lines do not add up")
        digest = self.file and sha256(self.file.read_bytes()).hex()
        need(digest in (None, self.statement["file_sha256"]), "the statement's file is another one")
        return f"{count} lines" + (", of this file" if self.file else "")

    def check_messages(self) -> str:
        """every message in dispute is there as it was registered"""
        known = (row for row in self.found if row["message_id"] and row["vendor_message_id"])
        disputed = {row["message_id"]: row for row in known}
        for text, said in self.package.rows("messages.ndjson"):
            row = disputed.pop(said["id"], {})
            same = all(row.get(name) == said[name] for name in ("phone", "vendor_message_id"))
            need(same, f"{said['id']} is in no dispute, there twice, or to another number")
            self.linked_text("message", text, said, "registered_at")
        need(not disputed, f"missing: {sorted(disputed)[:3]}")
        return "none is missing"

    def check_records(self) -> str:
        """the bytes of every report are there, and are those that its digest was made of"""
        named = {row["record"] for _, row in self.package.rows("reports.ndjson")}
        left, bodies = set(named), {name for name in self.package.names if name[:8] == "records/"}
        for _, said in self.package.rows("records.ndjson"):
            digest, parts = said["digest"], [said["source"].encode(), said["account"].encode()]
            need(digest in left, f"{digest}: no report names it, or it is there twice")
            left.discard(digest)
            content, subject = b"", (said["subject"] or "").encode()
            if said["source"] == "push":
                need(said["call"] is None, f"{digest}: no push has a call")
                parts += [said["method"].encode(), unhex(said["query"])]
            else:
                need(said["method"] == said["query"] == "", f"{digest}: no reply has a query")
                parts += [said["call"].encode(), subject]
            if not said.get("purged_at"):
                bodies.discard(f"records/{digest}.bin")
                parts.append(self.package.read(f"records/{digest}.bin"))
                made = framed(*parts, *([subject] if said["call"] is None and subject else ()))
                need(made.hex() == digest, f"{digest} is not the digest of its bytes")
                content = framed(said["headers"].encode(), (said["peer"] or "").encode())
            self.linked("record", unhex(digest), said["account"], said["received_at"], content)
        need(not left, f"missing: {sorted(left)[:3]}")
        need(not bodies, f"no report names {sorted(bodies)[:3]}")
        need(not self.entries, f"{len(self.entries)} proofs of what is not there")
        return f"{len(named)} records"


def cell(value: Any) -> Any:
    """Return a value as our tables have it: no text that a spreadsheet would compute."""
    computed = isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value)
    return f"'{value}" if computed else "" if value is None else value


def sheet_rows(data: bytes) -> Iterator[list[str]]:
    """Yield the rows of a workbook's sheet as we write them."""
    book = zipfile.ZipFile(io.BytesIO(data)).read("xl/worksheets/sheet1.xml")
    for row in ElementTree.fromstring(book).findall(".//{*}row"):  # noqa: S314
        cells = dict.fromkeys("ABCDEFGHIJKLMN", "")
        cells.update((re.sub(r"\d", "", at.get("r", "")), "".join(at.itertext())) for at in row)
        yield [ESCAPED.sub(lambda code: chr(int(code[1], 16)), text) for text in cells.values()]


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a Huizhi evidence package offline.")
    parser.add_argument("package", nargs="?", default=Path(__file__).parent, type=Path)
    parser.add_argument("--head", help="the hash that was kept outside")
    parser.add_argument("--statement", type=Path, help="the vendor's own file")
    given = parser.parse_args()
    failed, verifier = 0, None
    for check in (made for name, made in vars(Verifier).items() if name.startswith("check_")):
        try:
            verifier = verifier or Verifier(Package(given.package), given.head, given.statement)
            with localcontext(Context(prec=200)):
                print(f"ok         {check.__doc__}: {check(verifier)}")
        except Exception as error:  # whatever a forger wrote, it is a verdict and no crash
            failed += 1
            print(f"FAILED     {check.__doc__}: {type(error).__name__}: {error}")
    gone = sorted((+verifier.purged).items()) if verifier else ()
    but = PURGED + ", ".join(f"{count} {what}" for what, count in gone) if gone else ""
    print("NOT VERIFIED: do not rely on this package" if failed else f"VERIFIED{but}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
