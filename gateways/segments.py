"""How many parts (条) a text is billed as, by the rules that vendors state, and why.

Domestic (mainland): sign and text together, every character one unit, up to 70 units one segment,
else units / 67 rounded up. Both vendors' pages say so: "短信70字按一条计费" and
"长短信67字按一条计费" (thinksms), "短信字数=短信模版内容字数 + 签名字数" (ThinkAPI). That is
arithmetic: a pair of surrogates on a boundary costs nothing extra.

International (3GPP TS 23.038, 23.040): GSM-7 160/153 where every character is in its alphabet, an
extension character costing two septets that no boundary may part; else UCS-2 70/67, where no
boundary may part a surrogate pair.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import accumulate
from math import ceil

import msgspec


class Unit(StrEnum):
    """What the domestic rule counts as one character: vendors are silent on 😀 and 𠮷."""

    CODE_POINT = "code_point"
    UTF16 = "utf16"


class Rule(StrEnum):
    DOMESTIC = "domestic"
    INTERNATIONAL = "international"


_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = frozenset("\f^{}\\[~]|€")
_GSM7 = _BASIC | _EXTENSION


class _Coding(msgspec.Struct, frozen=True):
    name: str
    single: int
    multi: int


_CODE_POINTS = _Coding("code points", 70, 67)
_UTF16 = _Coding("UTF-16 units", 70, 67)
_SEPTETS = _Coding("GSM-7 septets", 160, 153)
_UCS2 = _Coding("UCS-2 units", 70, 67)


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a text counts as that many segments.

    `limit` is what one segment holds, given how many there are; `costly` are the characters that
    cost more than one unit, in order, with their cost; `forcing` those that GSM-7 lacks, once
    each; `part_units` what each of `parts` holds; `left` is the room in the last segment, `over` by
    how much one segment was missed.
    """

    text: str
    rule: Rule
    encoding: str
    units: int
    limit: int
    segments: int
    parts: tuple[str, ...]
    part_units: tuple[int, ...]
    costly: tuple[tuple[str, int], ...]
    forcing: tuple[str, ...]
    left: int
    over: int

    @property
    def lines(self) -> tuple[str, ...]:
        """Say it in English, a sentence a line."""
        said = [f"{self.segments} segment{'s' * (self.segments != 1)} by the {self.rule} rule"]
        if self.segments == 1:
            said.append(f"{self.units} {self.encoding} of {self.limit}, {self.left} left")
        else:
            said.append(
                f"{self.units} {self.encoding}, {self.over} more than fit one segment: "
                f"{self.limit} to each segment, {self.left} left in the last"
            )
        if self.forcing:
            said.append(f"not in GSM-7, so the text goes as UCS-2: {_shown(self.forcing)}")
        if self.costly:
            characters = tuple(dict.fromkeys(character for character, _ in self.costly))
            said.append(f"cost two each: {_shown(characters)} ({len(self.costly)} in all)")
        if self.segments > 1:
            said += [f"segment {number}: {part!r}" for number, part in enumerate(self.parts, 1)]
        return tuple(said)


class Variables(msgspec.Struct, frozen=True):
    """A text as its template makes it: `values[names[i]]` stands between `texts[i]` and `texts[i+1]`."""

    texts: tuple[str, ...]
    names: tuple[str, ...]
    values: Mapping[str, str]

    def filled(self, values: Mapping[str, str]) -> str:
        """Return the text with other values."""
        pieces = [self.texts[0]]
        for name, text in zip(self.names, self.texts[1:], strict=True):
            pieces += (values[name], text)
        return "".join(pieces)


class ChangeKind(StrEnum):
    """What is changed; of two that cost the same the first is shown first."""

    SHORTER = "shorter"
    VARIABLE = "variable"
    COSTLY = "costly"
    ENCODING = "encoding"
    SIGN = "sign"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change, alone, that makes a text count fewer segments.

    `characters` is how many it takes away or writes otherwise, the fewest that help; `segments` what
    the text then counts as, `saves` how many fewer that is. `about`: the variable's name, the
    characters, or the sign; empty for the text's own end.
    """

    kind: ChangeKind
    about: str
    characters: int
    segments: int
    saves: int

    @property
    def words(self) -> str:
        """Say the change in English."""
        number = f"{self.characters} character{'s' * (self.characters != 1)}"
        match self.kind:
            case ChangeKind.SHORTER:
                return f"{number} fewer at the end"
            case ChangeKind.VARIABLE:
                return f"{number} fewer in the variable {self.about}"
            case ChangeKind.COSTLY:
                return f"{number} that cost two written with ones that cost one: {self.about}"
            case ChangeKind.ENCODING:
                return f"{number} that GSM-7 lacks written with ones that it has: {self.about}"
            case ChangeKind.SIGN:
                return "without the sign"


def unbracketed(sign: str) -> str:
    """Return the name of a sign that may be written in its 【】."""
    return sign.strip().removeprefix("【").removesuffix("】")


def signed(content: str, sign: str | None) -> str:
    """Return what is sent: `content` behind its sign in 【】, which it may already begin with."""
    return "".join(parted(content, sign))


def parted(content: str, sign: str | None) -> tuple[str, str]:
    """Return the sign in its 【】, empty without one, and the text behind it."""
    name = unbracketed(sign) if sign else ""
    bracketed = f"【{name}】" if name else ""
    return bracketed, content.removeprefix(bracketed)


def count(
    content: str,
    sign: str | None = None,
    unit: Unit = Unit.UTF16,
    *,
    rule: Rule = Rule.DOMESTIC,
) -> int:
    """Return how many segments `content` with `sign` (brackets or not) is billed as; pure.

    `unit` is of the domestic rule only. Empty text counts as one segment.
    """
    # Two units a character at most: short texts need no counting.
    if rule is Rule.DOMESTIC and len(content) + len(sign or "") <= 33:
        return 1
    text = signed(content, sign)
    if rule is Rule.DOMESTIC:
        units = len(text) if unit is Unit.CODE_POINT else _utf16_units(text)
        return 1 if units <= 70 else -(-units // 67)
    coding, costs = _coded(text, rule, unit)
    return 1 if sum(costs) <= coding.single else max(_packed(costs, coding.multi)) + 1


def explain(
    content: str,
    sign: str | None = None,
    rule: Rule = Rule.DOMESTIC,
    unit: Unit = Unit.UTF16,
) -> Explanation:
    """Return how `count` arrives at its number, for the same arguments; pure."""
    text = signed(content, sign)
    coding, costs = _coded(text, rule, unit)
    units = sum(costs)
    if units <= coding.single:
        limit, places = coding.single, [0] * len(text)
    else:
        limit = coding.multi
        places = _spread(costs, limit) if rule is Rule.DOMESTIC else _packed(costs, limit)
    parts = [""] * ((places[-1] + 1) if places else 1)
    part_units = [0] * len(parts)
    for place, character, cost in zip(places, text, costs, strict=True):
        parts[place] += character
        part_units[place] += cost
    # Plain division leaves no gaps; packing leaves one before each pair that did not fit.
    left = limit * len(parts) - units if rule is Rule.DOMESTIC else limit - part_units[-1]
    return Explanation(
        text=text,
        rule=rule,
        encoding=coding.name,
        units=units,
        limit=limit,
        segments=len(parts),
        parts=tuple(parts),
        part_units=tuple(part_units),
        costly=tuple(
            (character, cost) for character, cost in zip(text, costs, strict=True) if cost > 1
        ),
        forcing=tuple(dict.fromkeys(c for c in text if c not in _GSM7)) if coding is _UCS2 else (),
        left=left,
        over=max(0, units - coding.single),
    )


def cheaper(
    content: str,
    sign: str | None = None,
    rule: Rule = Rule.DOMESTIC,
    unit: Unit = Unit.UTF16,
    variables: Variables | None = None,
) -> tuple[Change, ...]:
    """Return each single change that would cost fewer segments, the cheapest result first; pure.

    Of those with the same result the one that touches the fewest characters is first. A cut is the
    shortest from the end that helps: of the text, or of the value of one of `variables`, wherever
    that stands; these are what `aligned` returns for the text that `parted` leaves.
    """
    bracketed, body = parted(content, sign)
    text = bracketed + body
    now = count(text, None, unit, rule=rule)

    def cost(changed: str) -> int:
        return count(bracketed + changed, None, unit, rule=rule)

    found: list[Change] = []

    def add(kind: ChangeKind, about: str, characters: int, segments: int) -> None:
        if segments < now:
            found.append(
                Change(
                    kind=kind,
                    about=about,
                    characters=characters,
                    segments=segments,
                    saves=now - segments,
                )
            )

    if bracketed:
        without = count(body, None, unit, rule=rule)
        add(ChangeKind.SIGN, bracketed, len(bracketed), without)
    fewer = _shortest(body, now, cost)
    add(ChangeKind.SHORTER, "", fewer, cost(body[: len(body) - fewer]))
    for name, value in (variables.values if variables is not None else {}).items():

        def cost_with(cut: str, name: str = name) -> int:
            assert variables is not None
            return cost(variables.filled({**variables.values, name: cut}))

        fewer = _shortest(value, now, cost_with)
        add(ChangeKind.VARIABLE, name, fewer, cost_with(value[: len(value) - fewer]))
    because = explain(content, sign, rule, unit)
    if because.forcing:
        # A question mark is in the alphabet: which other character it is does not matter.
        plain = "".join(character if character in _GSM7 else "?" for character in text)
        number = sum(character not in _GSM7 for character in text)
        shown = _shown(because.forcing)
        add(ChangeKind.ENCODING, shown, number, count(plain, None, unit, rule=rule))
    if because.costly:
        cheap = "?" if because.encoding == _SEPTETS.name else "\u4e00"
        costly = {character for character, _ in because.costly}
        plain = "".join(cheap if character in costly else character for character in text)
        shown = _shown(tuple(dict.fromkeys(character for character, _ in because.costly)))
        add(ChangeKind.COSTLY, shown, len(because.costly), count(plain, None, unit, rule=rule))
    order = list(ChangeKind)
    found.sort(key=lambda each: (each.segments, each.characters, order.index(each.kind)))
    return tuple(found)


def aligned(template: str, content: str, variable: re.Pattern[str]) -> Variables | None:
    """Return what stands in each variable of `template` to make `content`; pure.

    `variable` finds a variable, its first group its name. None where the template makes no such
    text, or where it can make it in more than one way.
    """
    places = list(variable.finditer(template))
    names = tuple(place[1] for place in places)
    edges = [0, *(edge for place in places for edge in place.span()), len(template)]
    texts = tuple(template[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))
    if not names:
        return Variables(texts, (), {}) if content == template else None
    first, last = texts[0], texts[-1]
    start, end = len(first), len(content) - len(last)
    if end < start or not content.startswith(first) or not content.endswith(last):
        return None
    earliest = _found(content, texts[1:-1], start, end)
    # The latest is the earliest of everything reversed.
    backwards = [text[::-1] for text in reversed(texts[1:-1])]
    size = len(content)
    latest = _found(content[::-1], backwards, size - end, size - start)
    if earliest is None or latest is None:
        return None
    if earliest != [(size - stop, size - begin) for begin, stop in reversed(latest)]:
        return None
    edges = [start, *(edge for place in earliest for edge in place), end]
    values: dict[str, str] = {}
    for name, begin, stop in zip(names, edges[::2], edges[1::2], strict=True):
        if values.setdefault(name, content[begin:stop]) != content[begin:stop]:
            return None
    return Variables(texts, names, values)


def _found(
    content: str, texts: tuple[str, ...] | list[str], start: int, end: int
) -> list[tuple[int, int]] | None:
    """Return where each of `texts` stands in content[start:end], one behind the other, each first."""
    places = []
    for text in texts:
        at = content.find(text, start, end)
        if at < 0:
            return None
        start = at + len(text)
        places.append((at, start))
    return places


def _shortest(text: str, now: int, cost: Callable[[str], int]) -> int:
    """Return how few characters less at the end make `cost` less than `now`; all if nothing does."""
    # A shorter text never costs more: not even where it comes to fit GSM-7.
    cuts = range(len(text))
    return bisect_left(cuts, True, key=lambda fewer: cost(text[: len(text) - fewer]) < now)


def _coded(text: str, rule: Rule, unit: Unit) -> tuple[_Coding, list[int]]:
    """Return the coding that `text` goes in, and what each of its characters costs there."""
    if rule is Rule.INTERNATIONAL and _GSM7.issuperset(text):
        return _SEPTETS, [2 if character in _EXTENSION else 1 for character in text]
    if rule is Rule.DOMESTIC and unit is Unit.CODE_POINT:
        return _CODE_POINTS, [1] * len(text)
    coding = _UTF16 if rule is Rule.DOMESTIC else _UCS2
    return coding, [2 if character > "\uffff" else 1 for character in text]


def _packed(costs: list[int], limit: int) -> list[int]:
    """Return each character's part, filling parts of `limit` units without parting a character."""
    places = []
    part = filled = 0
    for cost in costs:
        filled += cost
        if filled > limit:
            part += 1
            filled = cost
        places.append(part)
    return places


def _spread(costs: list[int], limit: int) -> list[int]:
    """Return each character's part by plain division: the part that its last unit falls in."""
    return [ceil(end / limit) - 1 for end in accumulate(costs)]


def _utf16_units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def _shown(characters: tuple[str, ...]) -> str:
    return " ".join(
        character if character.isprintable() and character != " " else f"U+{ord(character):04X}"
        for character in characters
    )
