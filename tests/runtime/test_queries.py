"""SQL by name."""

from pathlib import Path

import pytest

from runtime.queries import QUERIES, Queries


def test_reads_names_sentences_and_text(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text(
        "-- What this file is about.\n\n-- name: one\n-- Does one\n-- thing.\n\nSELECT $1, $2;\n"
        "\n-- name: two\n-- Does another.\nSELECT 2 -- a comment that stays\n"
    )
    (tmp_path / "b.sql").write_text("-- name: three\n-- Third.\nSELECT $1 + $1")
    queries = Queries(tmp_path)
    assert dict(queries) == {
        "one": "SELECT $1, $2;",
        "two": "SELECT 2 -- a comment that stays",
        "three": "SELECT $1 + $1",
    }
    assert queries.about["one"] == "Does one thing."


def test_unknown_name_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("-- name: one\n-- One.\nSELECT 1")
    with pytest.raises(KeyError, match=r"no query 'won' in .*: one"):
        Queries(tmp_path)["won"]


def test_other_texts_take_the_place_of_those_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text(
        "-- name: one\n-- One.\nSELECT 1\n-- name: two\n-- Two.\nSELECT 2"
    )
    queries = Queries(tmp_path)
    queries.replace({"two": "SELECT 1 + 1"})
    assert dict(queries) == {"one": "SELECT 1", "two": "SELECT 1 + 1"}
    with pytest.raises(KeyError, match="no query 'three'"):
        queries.replace({"three": "SELECT 3"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("-- name: a\n-- A.\nSELECT 1\n-- name: a\n-- A.\nSELECT 1", "'a' is a name used twice"),
        ("-- name: a\nSELECT 1", "'a' has no sentence that says what it does"),
        ("-- name: a\n-- A.\n", "'a' has no SQL"),
        ("-- name: a\n-- A.\nSELECT $1, $3", "'a' has a gap in its parameters"),
        ("-- name: a-b\n-- A.\nSELECT 1", "'a-b' is no name for a query"),
    ],
)
def test_refuses_what_is_half_written(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "x.sql").write_text(text)
    with pytest.raises(ValueError, match=r"x.sql") as caught:
        Queries(tmp_path)
    assert str(caught.value) == f"x.sql: {complaint}"


def test_name_used_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("x.sql", "y.sql"):
        (tmp_path / name).write_text("-- name: a\n-- A.\nSELECT 1")
    with pytest.raises(ValueError, match=r"y.sql: 'a' is a name used twice"):
        Queries(tmp_path)


def test_our_own_queries_are_found() -> None:
    assert len(QUERIES) > 0
