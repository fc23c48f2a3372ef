"""The dashboard's words: the same in both languages, all of them used, and none missing."""

import re
from pathlib import Path

import pytest

import reconciler.dashboard as dashboard
from gateways.segments import Rule
from reconciler import alarms, assumptions, cases, match, story
from reconciler.causes import CAUSES
from reconciler.dashboard import (
    assumed,
    callbacks,
    credits,
    messages,
    others,
    overview,
)
from reconciler.dashboard.pages import NAVIGATION
from reconciler.dashboard.words import LANGUAGES, SENTENCES, WORDS, Words, in_chinese, language_of
from reconciler.replay import Replayed
from runtime import trust
from runtime.settings import STATEMENT_COLUMNS

FOLDER = Path(dashboard.__file__).parent
TEXT = "\n".join(
    path.read_text("utf-8") for path in sorted([*FOLDER.rglob("*.html"), *FOLDER.glob("*.py")])
)


def test_both_languages_have_the_same_keys_with_the_same_gaps() -> None:
    english, chinese = (WORDS[language] for language in LANGUAGES)
    assert list(english) == list(chinese)
    for key, words in english.items():
        assert words, key
        assert chinese[key], key
        gaps = re.compile(r"\{\w+\}")
        assert set(gaps.findall(words)) == set(gaps.findall(chinese[key])), key


def test_every_word_is_used_and_every_used_word_is_there() -> None:
    whole = set(re.findall(r"""\b(?:t|words)\(\s*["']([a-z_]+\.\w+)["']\s*[,)]""", TEXT))
    whole |= {key for _, key in NAVIGATION} | set(re.findall(r'"(error\.(?!html)\w+)"', TEXT))
    families = set(re.findall(r"""\b(?:t|t\.known)\(\s*["']([a-z_.]+\.)["'] ~""", TEXT))
    families |= set(re.findall(r"""words\(f"([a-z_.]+\.)\{""", TEXT))
    assert whole <= set(WORDS["en"]), whole - set(WORDS["en"])
    unused = {
        key for key in WORDS["en"] if key not in whole and not key.startswith(tuple(families))
    }
    assert unused == set()
    for family in families:
        assert any(key.startswith(family) for key in WORDS["en"]), family


ALARMS = (*alarms.KINDS, "waiting", "orphans")


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("kind", match.KINDS),
        ("kind_means", match.KINDS),
        ("cause", [cause for causes in CAUSES.values() for cause in causes]),
        ("case", cases.STATES),
        ("status", (*messages.STATUSES, "waiting")),
        ("status", overview.STATES),
        ("report", ("delivered", "failed", "pending", "unknown")),
        ("callback", callbacks.STATES),
        ("step", story.WHATS),
        ("review", (*others.REVIEW_STATES, *others.KINDS)),
        ("source", overview.SOURCES),
        ("run", ("balanced", "discrepant", "no_statement", "unreconciled")),
        ("run", ("assumed_balanced", "assumed_discrepant")),
        ("assume", (*assumed.ASSUMED, *assumptions.BASES, *Rule)),
        ("credit", credits.OUTCOMES),
        ("coverage", (*match.COVERAGE, "accepted_is_last_known")),
        ("pull", ("intended", "recorded", "nothing", "lost")),
        ("field", STATEMENT_COLUMNS),
        ("basis", ("delivered", "submitted")),
        ("role", ("reader", "operator", "admin")),
        ("rule", ("domestic", "international")),
        ("encoding", ("code points", "UTF-16 units", "GSM-7 septets", "UCS-2 units")),
        ("alarm", ALARMS),
        ("alarm", [f"{kind}_words" for kind in ALARMS]),
        ("suspect", trust.STATES),
        ("doubt", trust.REASONS),
        ("replayed", Replayed.__struct_fields__),
        ("task", ("credits", "reconcile", "evidence", "preview", "import", "replay", "job")),
    ],
)
def test_all_that_there_can_be_has_words(family: str, names: tuple[str, ...]) -> None:
    for name in names:
        assert f"{family}.{name}" in WORDS["en"]


def test_words_fill_their_gaps_and_a_missing_key_is_an_error() -> None:
    assert Words("en")("time.minutes", n=5) == "5 min"
    assert Words("zh")("time.minutes", n=5) == "5 分"
    assert Words("en").known("job.nothing", "nothing") == "nothing"
    with pytest.raises(KeyError):
        Words("en")("no.such")


@pytest.mark.parametrize(
    ("cookie", "accepted", "language"),
    [
        (None, "", "en"),
        (None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, "en-GB,zh;q=0.5", "en"),
        (None, "fr, zh;q=0.2", "zh"),
        (None, "zh;q=0, en;q=0.1", "en"),
        (None, "fr;q=x, ,;", "en"),
        ("zh", "en", "zh"),
        ("xx", "zh", "zh"),
    ],
)
def test_language_is_chosen_by_hand_or_by_the_browser(
    cookie: str | None, accepted: str, language: str
) -> None:
    assert language_of(cookie, accepted) == language


def test_every_sentence_that_is_known_in_chinese_is_said_somewhere() -> None:
    # Of each how the longest piece between its gaps begins, wherever the code breaks it over lines.
    code = "\n".join(path.read_text("utf-8") for path in FOLDER.parent.rglob("*.py"))
    joined = re.sub(r"\"\s*\n\s*f?\"", "", code)
    for english, chinese in SENTENCES.items():
        pieces = re.split(r"\{\w+\}", english)
        longest = max(pieces, key=len)
        if len(longest) > 6:
            assert longest.strip()[:22].removesuffix(" as") in joined, english
        gaps = re.compile(r"\{\w+\}")
        assert sorted(gaps.findall(english)) == sorted(gaps.findall(chinese)), english


def test_sentences_are_said_in_chinese_as_far_as_they_are_known() -> None:
    assert in_chinese("a.csv: line 3, column 条数: 'x' is not a whole number") == (
        "a.csv：第 3 行，列 条数：'x' 不是整数"
    )
    assert in_chinese("think has no statement for 2026-10: import it first") == (
        "think 没有 2026-10 的账单：请先导入"
    )
    assert in_chinese("batch 935 by vm:1344, 0.002 s after it came") == (
        "批 935，由 vm:1344 写入，距到达 0.002 秒"
    )
    assert in_chinese("from 127.0.0.1") == "来自 127.0.0.1"
    assert in_chinese("what nobody has put into Chinese") is None
    assert in_chinese("a.csv: line 3: what nobody has put into Chinese") == (
        "a.csv：第 3 行：what nobody has put into Chinese"
    )
