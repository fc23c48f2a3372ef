"""SQL by name: static text from `sql/`, read and checked once, when a process starts.

A file holds queries, each headed by `-- name: x` and one sentence that says what it does.
Parameters are positional (`$1`).
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

SQL = Path(__file__).resolve().parent.parent / "sql"  # beside the packages, installed or not

_NAME = re.compile(r"^-- name:(.*)$", re.MULTILINE)
_PARAMETER = re.compile(r"\$(\d+)")


class Queries(Mapping[str, str]):
    """The queries of a folder, name to text; `about` says in a sentence what each does.

    An unknown name is a KeyError that lists what is there: look names up when a module is imported.
    Raises ValueError, naming file and query, for a name used twice, a missing sentence, no SQL, or
    parameters with a gap.
    """

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        self._folder = folder
        for path in sorted(folder.glob("*.sql")):
            _, *parts = _NAME.split(path.read_text("utf-8"))
            for name, text in zip(parts[::2], parts[1::2], strict=True):
                self._add(path, name.strip(), text.strip())

    def _add(self, path: Path, name: str, text: str) -> None:
        lines = text.splitlines()
        sentence: list[str] = []
        while lines and lines[0].startswith("--"):
            sentence.append(lines.pop(0).removeprefix("--").strip())
        body = "\n".join(lines).strip()
        numbers = {int(number) for number in _PARAMETER.findall(body)}
        for wrong, complaint in (
            (not name.isidentifier(), "is no name for a query"),
            (name in self._texts, "is a name used twice"),
            (not sentence, "has no sentence that says what it does"),
            (not body, "has no SQL"),
            (numbers != set(range(1, len(numbers) + 1)), "has a gap in its parameters"),
        ):
            if wrong:
                raise ValueError(f"{path.name}: {name!r} {complaint}")
        self.about[name] = " ".join(sentence)
        self._texts[name] = body

    def replace(self, others: Mapping[str, str]) -> None:
        """From now on give the texts of `others` for their names; raises KeyError for a new name."""
        for name, text in others.items():
            self[name]
            self._texts[name] = text

    def __getitem__(self, name: str) -> str:
        try:
            return self._texts[name]
        except KeyError:
            raise KeyError(
                f"no query {name!r} in {self._folder.name}: {', '.join(self._texts)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


QUERIES = Queries(SQL / "queries")
# What takes the place of some of them in a process whose database is a Citus cluster.
CITUS = Queries(SQL / "citus")
