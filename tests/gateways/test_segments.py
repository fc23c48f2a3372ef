"""Segment counts against strings that decide, and against an encoder that takes the long way."""

import itertools
import random
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateways.segments import (
    Change,
    ChangeKind,
    Rule,
    Unit,
    Variables,
    aligned,
    cheaper,
    count,
    explain,
    signed,
)

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


# --- an oracle from the standard's tables: encode all of it, cut the bytes, read the cuts back --------

# TS 23.038, 6.2.1: the default alphabet by its codes, as code points; 1B is the escape.
_DEFAULT = bytes.fromhex(
    "40 A3 24 A5 E8 E9 F9 EC F2 C7 0A D8 F8 0D C5 E5  00 5F 00 00 00 00 00 00 00 00 00 00 C6 E6 DF C9"
    "20 21 22 23 A4 25 26 27 28 29 2A 2B 2C 2D 2E 2F  30 31 32 33 34 35 36 37 38 39 3A 3B 3C 3D 3E 3F"
    "A1 41 42 43 44 45 46 47 48 49 4A 4B 4C 4D 4E 4F  50 51 52 53 54 55 56 57 58 59 5A C4 D6 D1 DC A7"
    "BF 61 62 63 64 65 66 67 68 69 6A 6B 6C 6D 6E 6F  70 71 72 73 74 75 76 77 78 79 7A E4 F6 F1 FC E0"
)
_GREEK = {0x10: 0x394, 0x12: 0x3A6, 0x13: 0x393, 0x14: 0x39B, 0x15: 0x3A9, 0x16: 0x3A0, 0x17: 0x3A8}
_GREEK |= {0x18: 0x3A3, 0x19: 0x398, 0x1A: 0x39E}
_ESCAPE = 0x1B
# TS 23.038, 6.2.1.1: what the escape makes of a code.
_ESCAPED = {0x0A: 0x0C, 0x14: 0x5E, 0x28: 0x7B, 0x29: 0x7D, 0x2F: 0x5C, 0x3C: 0x5B, 0x3D: 0x7E}
_ESCAPED |= {0x3E: 0x5D, 0x40: 0x7C, 0x65: 0x20AC}
_TO_SEPTETS = {chr(point): bytes([code]) for code, point in enumerate(_DEFAULT) if point}
_TO_SEPTETS |= {chr(point): bytes([code]) for code, point in _GREEK.items()}
_TO_SEPTETS |= {chr(point): bytes([_ESCAPE, code]) for code, point in _ESCAPED.items()}
_FROM_SEPTETS = {septets: character for character, septets in _TO_SEPTETS.items()}


def _cut(data: bytes, single: int, multi: int, divides: Callable[[bytes], int]) -> list[bytes]:
    """Cut as TS 23.040, 9.2.3.24.1 has it: `divides` is how far before a cut to cut instead."""
    if len(data) <= single:
        return [data]
    cuts = []
    while data:
        end = multi - divides(data[:multi]) if len(data) > multi else multi
        cuts.append(data[:end])
        data = data[end:]
    return cuts


def _half_an_escape(head: bytes) -> int:
    return 1 if head[-1] == _ESCAPE else 0


def _half_a_pair(head: bytes) -> int:
    return 2 if 0xD8 <= head[-2] <= 0xDB else 0


def _septets_read(septets: bytes) -> str:
    """Read a part alone; a lone escape or a code that is none raises."""
    codes = iter(septets)
    return "".join(
        _FROM_SEPTETS[bytes([code, next(codes)] if code == _ESCAPE else [code])] for code in codes
    )


def _oracle(text: str) -> list[str]:
    """Return the parts that a handset would put together again."""
    if all(character in _TO_SEPTETS for character in text):
        septets = b"".join(map(_TO_SEPTETS.__getitem__, text))
        return [_septets_read(cut) for cut in _cut(septets, 160, 153, _half_an_escape)]
    units = text.encode("utf-16-be")
    return [cut.decode("utf-16-be") for cut in _cut(units, 140, 134, _half_a_pair)]


def test_oracle_has_the_whole_alphabet() -> None:
    assert len(_DEFAULT) == 128
    assert len(_TO_SEPTETS) == len(_FROM_SEPTETS) == 127 + 10
    assert set(_TO_SEPTETS) == set(BASIC + EXTENSION)


def _texts(dice: random.Random) -> Iterator[str]:
    """Yield texts whose ends and costly characters lie around the boundaries."""
    for _ in range(4_000):
        pool = dice.choice([BASIC, BASIC + EXTENSION * 9, "汉字，。", "汉😀𠮷a", BASIC + "汉😀"])
        alone, many = (160, 153) if pool.startswith("@") and "汉" not in pool else (70, 67)
        near = dice.choice([alone, many, 2 * many, 3 * many, dice.randint(1, 7 * many)])
        length = max(1, near + dice.randint(-3, 3))
        text = dice.choices(pool, k=length)
        for boundary in range(many, length, many):
            # Something of two units or septets astride, or just beside, each boundary.
            text[min(length - 1, boundary - dice.randint(0, 2))] = dice.choice(pool[-3:])
        yield "".join(text)


def test_international_parts_are_those_of_the_oracle() -> None:
    costly = 0
    for text in _texts(random.Random(23_038)):
        parts = _oracle(text)
        explanation = explain(text, rule=Rule.INTERNATIONAL)
        assert list(explanation.parts) == parts, text
        assert count(text, rule=Rule.INTERNATIONAL) == len(parts)
        costly += len(parts) > 1 and len(parts) * explanation.limit - explanation.left > (
            explanation.units
        )
    assert costly > 100, "the texts meet boundaries that part nothing"


def test_domestic_counts_are_those_of_cut_bytes() -> None:
    for text in _texts(random.Random(7067)):
        for unit, codec, width in ((Unit.UTF16, "utf-16-le", 2), (Unit.CODE_POINT, "utf-32-le", 4)):
            data = text.encode(codec)
            cuts = [data] if len(data) <= 70 * width else _cut(data, 0, 67 * width, lambda _: 0)
            assert count(text, unit=unit) == len(cuts), text
            assert explain(text, unit=unit).segments == len(cuts)


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(EXTENSION), max_size=500))
def test_any_text_is_parted_as_the_oracle_does(text: str) -> None:
    assert list(explain(text, rule=Rule.INTERNATIONAL).parts) == _oracle(text)


# --- what would cost less -----------------------------------------------------------------------------

DOLLAR = re.compile(r"\$\{([^{}]*)\}")


def changed(change: Change, text: str, sign: str, variables: Variables | None) -> str:
    """Make the text that a change is about, the long way."""
    body = text.removeprefix(sign)
    if change.kind is ChangeKind.SIGN:
        return body
    if change.kind is ChangeKind.SHORTER:
        return sign + body[: len(body) - change.characters]
    assert variables is not None
    value = variables.values[change.about]
    values = {**variables.values, change.about: value[: len(value) - change.characters]}
    return sign + variables.filled(values)


@given(TEXTS, st.sampled_from([None, "签"]), st.sampled_from(Rule), st.sampled_from(Unit))
@example("a" * 160 + HAN, None, Rule.INTERNATIONAL, Unit.UTF16)
@example("a" * 150, "签", Rule.INTERNATIONAL, Unit.UTF16)
def test_cuts_are_the_shortest_that_help(
    text: str, sign: str | None, rule: Rule, unit: Unit
) -> None:
    whole = signed(text, sign)
    prefix = "【签】" if sign else ""
    now = count(whole, rule=rule, unit=unit)
    found = {change.kind: change for change in cheaper(text, sign, rule, unit)}
    tried = [
        count(whole[: len(whole) - fewer], rule=rule, unit=unit)
        for fewer in range(len(whole) - len(prefix) + 1)
    ]
    helping = [fewer for fewer, segments in enumerate(tried) if segments < now]
    change = found.get(ChangeKind.SHORTER)
    assert (change is None) == (not helping)
    if change is not None:
        assert (change.characters, change.segments) == (helping[0], tried[helping[0]])
    for change in found.values():
        assert change.saves == now - change.segments > 0
    for kind in (ChangeKind.SIGN, ChangeKind.SHORTER):
        if kind in found:
            text_now = changed(found[kind], whole, prefix, None)
            assert count(text_now, rule=rule, unit=unit) == found[kind].segments
    without = count(whole.removeprefix(prefix), rule=rule, unit=unit)
    assert (ChangeKind.SIGN in found) == (without < now)


@given(
    st.text(alphabet=HAN + "a😀", max_size=80),
    st.text(alphabet="b" + HAN, max_size=80),
    st.sampled_from(Rule),
)
def test_cuts_of_a_variable_are_the_shortest_that_help(one: str, two: str, rule: Rule) -> None:
    template = "${one}, dear ${two}: ${one}."
    text = f"{one}, dear {two}: {one}."
    variables = aligned(template, text, DOLLAR)
    assert variables is not None
    assert variables.values == {"one": one, "two": two}
    now = count(text, rule=rule)
    found = {change.about: change for change in cheaper(text, None, rule, variables=variables)}
    for name, value in variables.values.items():
        tried = [
            count(variables.filled({**variables.values, name: value[:size]}), rule=rule)
            for size in range(len(value), -1, -1)
        ]
        helping = [fewer for fewer, segments in enumerate(tried) if segments < now]
        assert (name in found) == bool(helping)
        if helping:
            assert found[name].characters == helping[0]
            assert found[name].segments == tried[helping[0]]


def test_changes_are_told_the_cheapest_first() -> None:
    found = cheaper(HAN * 100 + EMOJI * 20, "智想云创顶想云智想云创")
    assert [(each.segments, each.kind) for each in found] == [
        (2, ChangeKind.SHORTER),
        (2, ChangeKind.COSTLY),
    ]
    several = cheaper("a" * 60 + HAN, "智想云创" * 4, Rule.INTERNATIONAL)
    assert [each.segments for each in several] == sorted(each.segments for each in several)


@pytest.mark.parametrize(
    ("text", "sign", "told"),
    [
        (HAN * 70, None, []),
        (HAN * 69, "签", ["2 characters fewer at the end", "without the sign"]),
        (
            "a" * 80 + "’",
            None,
            [
                "1 character fewer at the end",
                "1 character that GSM-7 lacks written with ones that it has: ’",
            ],
        ),
        (
            "a" * 158 + "€€",
            None,
            [
                "1 character fewer at the end",
                "2 characters that cost two written with ones that cost one: €",
            ],
        ),
    ],
)
def test_changes_are_told_in_words(text: str, sign: str | None, told: list[str]) -> None:
    rule = Rule.DOMESTIC if HAN in text else Rule.INTERNATIONAL
    assert [each.words for each in cheaper(text, sign, rule)] == told


@pytest.mark.parametrize(
    ("template", "text", "values"),
    [
        ("code ${a}", "code 12", {"a": "12"}),
        ("${a} and ${b}", "x and y", {"a": "x", "b": "y"}),
        ("${a} and ${b}", "x and y and z", None),
        ("${a}${b}", "xy", None),
        ("${a}-${a}", "x-x", {"a": "x"}),
        ("${a}-${a}", "x-y", None),
        ("code ${a}", "kode 12", None),
        ("aba${a}ba", "aba", None),
        ("fixed", "fixed", {}),
        ("fixed", "other", None),
        ("${a}", "", {"a": ""}),
    ],
)
def test_variables_are_found_where_only_one_way_makes_the_text(
    template: str, text: str, values: dict[str, str] | None
) -> None:
    found = aligned(template, text, DOLLAR)
    assert (None if found is None else found.values) == values
    if found is not None:
        assert found.filled(found.values) == text


@given(
    st.text(alphabet="ab", max_size=8),
    st.lists(st.text(alphabet="ab", max_size=2), min_size=2, max_size=4),
)
def test_variables_are_those_that_trying_all_ways_finds(text: str, texts: list[str]) -> None:
    names = [f"v{number}" for number in range(len(texts) - 1)]
    template = texts[0] + "".join(
        f"${{{name}}}{after}" for name, after in zip(names, texts[1:], strict=True)
    )
    pieces = [text[start:end] for start, end in itertools.combinations(range(len(text) + 1), 2)]
    ways = {
        values
        for values in itertools.product({"", *pieces}, repeat=len(names))
        if texts[0] + "".join(v + t for v, t in zip(values, texts[1:], strict=True)) == text
    }
    found = aligned(template, text, DOLLAR)
    if len(ways) == 1:
        assert found is not None
        assert tuple(found.values.values()) == next(iter(ways))
    else:
        assert found is None
