"""Segment counts against strings that decide, and against an encoder that takes the long way."""

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateways.segments import Rule, Unit, count, explain, signed

HAN, EMOJI = "汉", "😀"
BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = "\f^{}\\[~]|€"


@pytest.mark.parametrize(
    ("length", "segments"),
    [(0, 1), (1, 1), (70, 1), (71, 2), (134, 2), (135, 3), (201, 3), (202, 4), (500, 8)],
)
def test_domestic_counts_by_70_and_67(length: int, segments: int) -> None:
    for character in (HAN, "a", "."):
        assert count(character * length) == segments
        assert explain(character * length).segments == segments


@pytest.mark.parametrize("sign", ["智想云创", "【智想云创】"])
def test_sign_counts_with_its_brackets_given_with_or_without_them(sign: str) -> None:
    assert count(HAN * 64, sign) == 1
    assert count(HAN * 65, sign) == 2
    assert signed("码", sign) == "【智想云创】码"


def test_sign_that_content_begins_with_is_not_added_twice() -> None:
    assert count("【智想云创】" + HAN * 64, "智想云创") == 1
    assert count("【智想】" + HAN * 64, "智想云创") == 2
    assert signed("智想云创" + HAN, "智想云创") == "【智想云创】智想云创" + HAN


@pytest.mark.parametrize("sign", [None, "", "  ", "【】"])
def test_no_sign_adds_nothing(sign: str | None) -> None:
    assert signed("码", sign) == "码"


def test_unit_decides_what_an_emoji_costs() -> None:
    text = HAN * 69 + EMOJI
    assert count(text, unit=Unit.CODE_POINT) == 1
    assert count(text, unit=Unit.UTF16) == 2


def test_domestic_is_arithmetic_where_a_pair_meets_a_boundary() -> None:
    text = HAN * 66 + EMOJI + HAN * 66
    assert count(text) == 2
    assert count(text, rule=Rule.INTERNATIONAL) == 3


@pytest.mark.parametrize(
    ("text", "units", "segments"),
    [
        ("a" * 160, 160, 1),
        ("a" * 161, 161, 2),
        ("a" * 306, 306, 2),
        ("a" * 152 + "€" + "a" * 152, 306, 3),
        ("€" * 80, 160, 1),
        ("€" * 153, 306, 3),
        (HAN * 70, 70, 1),
        (HAN * 71, 71, 2),
        (HAN * 66 + EMOJI + HAN * 66, 134, 3),
        (EMOJI * 35, 70, 1),
    ],
)
def test_international_counts_septets_or_units(text: str, units: int, segments: int) -> None:
    assert count(text, rule=Rule.INTERNATIONAL) == segments
    explanation = explain(text, rule=Rule.INTERNATIONAL)
    assert (explanation.units, explanation.segments) == (units, segments)


@pytest.mark.parametrize("character", ["ç", "á", "`", "\xa0", "\t"])
def test_characters_that_force_ucs2(character: str) -> None:
    explanation = explain("a" * 80 + character, rule=Rule.INTERNATIONAL)
    assert explanation.encoding == "UCS-2 units"
    assert explanation.forcing == (character,)
    assert explanation.segments == 2


@pytest.mark.parametrize("character", ["Ç", "Ω", "§"])
def test_characters_that_do_not_force_ucs2(character: str) -> None:
    explanation = explain("a" * 80 + character, rule=Rule.INTERNATIONAL)
    assert explanation.encoding == "GSM-7 septets"
    assert explanation.segments == 1


def test_explanation_says_why() -> None:
    explanation = explain(HAN * 69 + EMOJI, "智想")
    assert explanation.units == 75
    assert explanation.over == 5
    assert explanation.left == 2 * 67 - 75
    assert explanation.costly == ((EMOJI, 2),)
    assert "".join(explanation.parts) == explanation.text
    assert explanation.lines[:3] == (
        "2 segments by the domestic rule",
        "75 UTF-16 units, 5 more than fit one segment: 67 to each segment, 59 left in the last",
        "cost two each: 😀 (1 in all)",
    )
    assert explanation.lines[3].startswith("segment 1: '【智想】")
    assert explain("a\t", rule=Rule.INTERNATIONAL).lines == (
        "1 segment by the international rule",
        "2 UCS-2 units of 70, 68 left",
        "not in GSM-7, so the text goes as UCS-2: U+0009",
    )


TEXTS = st.one_of(
    st.text(alphabet=BASIC + EXTENSION, max_size=700),
    st.text(alphabet=HAN + EMOJI + "a𠮷\ud800", max_size=300),
    st.text(max_size=300),
)


@given(TEXTS, st.sampled_from([None, "签", "😀"]), st.sampled_from(Rule), st.sampled_from(Unit))
@example(HAN * 67 + EMOJI, None, Rule.DOMESTIC, Unit.UTF16)
@example(HAN * 133 + EMOJI, None, Rule.DOMESTIC, Unit.UTF16)
def test_explanation_agrees_with_count(text: str, sign: str | None, rule: Rule, unit: Unit) -> None:
    explanation = explain(text, sign, rule, unit)
    assert explanation.segments == count(text, sign, unit, rule=rule)
    assert explanation.segments == len(explanation.parts)
    assert "".join(explanation.parts) == explanation.text == signed(text, sign)
    assert 0 <= explanation.left <= explanation.limit
    assert all(explanation.parts) or not explanation.text


@given(TEXTS, st.sampled_from(Rule), st.sampled_from(Unit))
def test_count_agrees_with_a_naive_encoder(text: str, rule: Rule, unit: Unit) -> None:
    assert count(text, unit=unit, rule=rule) == _naive(text, rule, unit)


def test_count_agrees_with_a_naive_encoder_on_long_texts_near_boundaries() -> None:
    dice = random.Random(7)
    for _ in range(2_000):
        text = "".join(
            dice.choice(["a", "€", HAN, EMOJI]) * dice.randint(1, 80)
            for _ in range(dice.randint(1, 5))
        )
        for rule in Rule:
            assert count(text, rule=rule) == _naive(text, rule, Unit.UTF16)


def _naive(text: str, rule: Rule, unit: Unit) -> int:
    """Encode each part for real and start another when the next character does not fit."""
    if rule is Rule.DOMESTIC:
        width = 4 if unit is Unit.CODE_POINT else 2
        codec = "utf-32-be" if unit is Unit.CODE_POINT else "utf-16-be"
        units = len(text.encode(codec, "surrogatepass")) // width
        if units <= 70:
            return 1
        return units // 67 + (units % 67 > 0)
    table = {character: bytes([place]) for place, character in enumerate(BASIC)}
    table |= {character: b"\x1b" + character.encode()[:1] for character in EXTENSION}
    if all(character in table for character in text):
        pieces, single, multi = [table[character] for character in text], 160, 153
    else:
        pieces = [character.encode("utf-16-be", "surrogatepass") for character in text]
        single, multi = 140, 134
    if len(b"".join(pieces)) <= single:
        return 1
    parts = [b""]
    for piece in pieces:
        if len(parts[-1]) + len(piece) > multi:
            parts.append(b"")
        parts[-1] += piece
    return len(parts)
