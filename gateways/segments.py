"""How many parts (条) a text is billed as, by the rules that vendors state, and why.

Domestic (mainland): sign and text together, every character one unit, up to 70 units one segment,
else units / 67 rounded up. Both vendors' pages say so: "短信70字按一条计费" and
"长短信67字按一条计费" (thinksms), "短信字数=短信模版内容字数 + 签名字数" (ThinkAPI). That is
arithmetic: a pair of surrogates on a boundary costs nothing extra.

International (3GPP TS 23.038, 23.040): GSM-7 160/153 where every character is in its alphabet, an
extension character costing two septets that no boundary may part; else UCS-2 70/67, where no
boundary may part a surrogate pair.
"""

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
    each; `left` is the room in the last segment, `over` by how much one segment was missed.
    """

    text: str
    rule: Rule
    encoding: str
    units: int
    limit: int
    segments: int
    parts: tuple[str, ...]
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


def signed(content: str, sign: str | None) -> str:
    """Return what is sent: `content` behind its sign in 【】, which it may already begin with."""
    name = sign.strip().removeprefix("【").removesuffix("】") if sign else ""
    bracketed = f"【{name}】" if name else ""
    return content if content.startswith(bracketed) else bracketed + content


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
    text = signed(content, sign)
    if rule is Rule.DOMESTIC:
        # Two units a character at most: short texts need no counting.
        if len(text) <= 35:
            return 1
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
    for place, character in zip(places, text, strict=True):
        parts[place] += character
    # Plain division leaves no gaps; packing leaves one before each pair that did not fit.
    alone = sum(costs[len(text) - len(parts[-1]) :])
    left = limit * len(parts) - units if rule is Rule.DOMESTIC else limit - alone
    return Explanation(
        text=text,
        rule=rule,
        encoding=coding.name,
        units=units,
        limit=limit,
        segments=len(parts),
        parts=tuple(parts),
        costly=tuple(
            (character, cost) for character, cost in zip(text, costs, strict=True) if cost > 1
        ),
        forcing=tuple(dict.fromkeys(c for c in text if c not in _GSM7)) if coding is _UCS2 else (),
        left=left,
        over=max(0, units - coding.single),
    )


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
