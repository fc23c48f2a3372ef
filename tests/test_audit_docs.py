"""The audit's documents say what its headers say; `python tests/test_audit_docs.py` writes them anew."""

import re
from pathlib import Path

import pytest

from reconciler.audit import AUDIT, RESERVED, Parameter, Words

DOCS = Path(__file__).resolve().parent.parent / "docs"
FILES = {"en": DOCS / "audit.md", "zh": DOCS / "audit.zh-CN.md"}
HEADS = {
    "en": ("query", "asks", "Parameters:", "column", "type", "meaning"),
    "zh": ("查询", "问题", "参数：", "列", "类型", "含义"),
}
RULES = {
    "en": {"needed": "required", "from": "from {low} to {high}, by default {default}"},
    "zh": {"needed": "必填", "from": "{low} 至 {high}，缺省 {default}"},
}


def _said(words: Words, lang: str) -> str:
    return words.zh if lang == "zh" else words.en


def _rule(parameter: Parameter, lang: str) -> str:
    """Return what a number may be, in brackets."""
    if parameter.default is None:
        return ""
    rule = RULES[lang]["from"].format(
        low=parameter.low, high=parameter.high, default=parameter.default
    )
    return f" ({rule})" if lang == "en" else f"（{rule}）"


def _queries(lang: str) -> str:
    """Return an index of all queries, and below it each with its parameters and columns."""
    query_head, asks, parameters, column, kind, meaning = HEADS[lang]
    lines = [f"| {query_head} | {asks} |", "|---|---|"]
    for query in AUDIT.values():
        lines.append(f"| [`{query.name}`](#{query.name}) | {_said(query.question, lang)} |")
    colon = "：" if lang == "zh" else ": "
    for query in AUDIT.values():
        lines += ["", f"### {query.name}", "", _said(query.question, lang), ""]
        if query.note is not None:
            note = _said(query.note, lang)
            lines += [f"*{note[:1].upper()}{note[1:]}.*" if lang == "en" else f"*{note}。*", ""]
        lines += [parameters, ""]
        for each in query.parameters:
            said = _said(each.meaning, lang) + _rule(each, lang)
            needed = f" ({RULES[lang]['needed']})" if each.required else ""
            lines.append(f"- `{each.name}`{needed}{colon}{said}")
        lines += ["", f"| {column} | {kind} | {meaning} |", "|---|---|---|"]
        for each_column in query.columns:
            heading = f" {each_column.heading}" if lang == "zh" else ""
            said = _said(each_column.meaning, lang)
            lines.append(f"| `{each_column.name}`{heading} | {each_column.type} | {said} |")
    return "\n".join(lines)


def _reserved() -> str:
    lines = ["| name | is |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {said} |" for name, said in RESERVED.items())])


def _written(text: str, lang: str) -> str:
    """Return a document with what is between its marks made anew."""
    blocks = {"queries": _queries(lang)}
    if lang == "en":
        blocks["reserved"] = _reserved()
    for name, block in blocks.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        head, _, rest = text.partition(begin)
        _, found, tail = rest.partition(end)
        assert found, f"no {begin} and {end}"
        text = f"{head}{begin}\n{block}\n{end}{tail}"
    return text


@pytest.mark.parametrize("lang", FILES)
def test_document_says_what_the_headers_say(lang: str) -> None:
    text = FILES[lang].read_text("utf-8")
    assert text == _written(text, lang), "run: python tests/test_audit_docs.py"


def test_both_documents_have_the_same_parts() -> None:
    texts = [path.read_text("utf-8") for path in FILES.values()]
    for pattern in (r"^#+ ", r"^```.*?^```$"):
        flags = re.MULTILINE | re.DOTALL if "`" in pattern else re.MULTILINE
        english, chinese = (re.findall(pattern, text, flags) for text in texts)
        assert english == chinese


def test_number_of_queries_is_right_where_it_stands() -> None:
    for name in ("README.md", "README.zh-CN.md", "CHANGELOG.md"):
        text = (DOCS.parent / name).read_text("utf-8")
        counted = re.findall(
            r"(\d+) (?:questions of finance|queries in English)|的 (\d+) 个问题", text
        )
        assert {"".join(found) for found in counted} == {str(len(AUDIT))}, name


if __name__ == "__main__":
    for lang, path in FILES.items():
        path.write_text(_written(path.read_text("utf-8"), lang), "utf-8")
