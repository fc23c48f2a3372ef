"""The dashboard's words in English and Chinese: two plain files with the same keys."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LANGUAGES = {"en": "English", "zh": "中文"}
COOKIE = "huizhi_language"
_FOLDER = Path(__file__).parent / "words"


def _flat(table: Mapping[str, Any], before: str = "") -> dict[str, str]:
    words: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            words |= _flat(value, f"{before}{key}.")
        else:
            words[f"{before}{key}"] = value
    return words


WORDS = {
    language: _flat(tomllib.loads((_FOLDER / f"{language}.toml").read_text("utf-8")))
    for language in LANGUAGES
}


def _gaps(template: str) -> re.Pattern[str]:
    """Return what finds a sentence made of `template`, and what stood in its braces."""
    pieces = re.split(r"\{(\w+)\}", template)
    found = [
        f"(?P<{piece}>.+?)" if place % 2 else re.escape(piece) for place, piece in enumerate(pieces)
    ]
    return re.compile("".join(found), re.DOTALL)


SENTENCES = tomllib.loads((_FOLDER / "sentences.zh.toml").read_text("utf-8"))
_SENTENCES = [(_gaps(english), chinese) for english, chinese in SENTENCES.items()]


def in_chinese(sentence: str) -> str | None:
    """Return a sentence of the functions below in Chinese, None if it is not among those known."""
    for pattern, chinese in _SENTENCES:
        if found := pattern.fullmatch(sentence):
            gaps = found.groupdict()
            if "reason" in gaps:
                gaps["reason"] = in_chinese(gaps["reason"]) or gaps["reason"]
            return str(chinese.format_map(gaps))
    return None


class Words:
    """The words of one language; called with a key, and what stands in its braces."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._words = WORDS[language]

    def __call__(self, key: str, /, **values: object) -> str:
        """Return the words of `key`; raises KeyError for one that is not there."""
        found = self._words[key]
        return found.format_map(values) if values else found

    def known(self, key: str, other: str) -> str:
        """Return the words of `key`, or `other` where there are none: for what vendors name."""
        return self._words.get(key, other)


def language_of(cookie: str | None, accepted: str) -> str:
    """Choose a language: the one chosen by hand, else what the browser likes best, else English."""
    if cookie in LANGUAGES:
        return cookie
    liked: list[tuple[float, int, str]] = []
    for place, part in enumerate(accepted.split(",")):
        name, _, rest = part.strip().partition(";")
        try:
            quality = float(rest.partition("=")[2]) if rest else 1.0
        except ValueError:
            quality = 0.0
        liked.append((-quality, place, name.strip().lower()[:2]))
    return next((name for quality, _, name in sorted(liked) if quality and name in LANGUAGES), "en")
