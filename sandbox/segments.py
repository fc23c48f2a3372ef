"""How the pretend vendors count segments (条) for their bills, written from their pages alone.

vendor-docs/001 计费规则: template text plus sign, every character one, up to 70 is one segment,
else one per 67. vendor-docs/000 says the same 70/67 of the whole content, sign included. Abroad,
where no page of theirs says anything, as other vendors state it (vendors.md 6): GSM-7 160/153, its
extension characters costing two, else UCS-2 70/67.
"""

from typing import Literal

CountBy = Literal["code_point", "utf16", "international"]

SINGLE_LIMIT = 70
JOINED_LIMIT = 67

# 3GPP TS 23.038, 6.2.1 and 6.2.1.1.
_GSM7 = set(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM7_TWICE = set("|^€{}[]~\\\f")


def count_segments(text: str, count_by: CountBy) -> int:
    """Count what the vendor bills for `text`, its 【sign】 included; an empty text is one segment.

    Neither page says what an emoji counts, hence the choice of unit.
    """
    if count_by == "international":
        return count_international(text)
    length = len(text) if count_by == "code_point" else len(text.encode("utf-16-le")) // 2
    if length <= SINGLE_LIMIT:
        return 1
    return -(-length // JOINED_LIMIT)


def count_international(text: str) -> int:
    """Count the parts of a text sent abroad; no character is parted between two of them."""
    if set(text) <= _GSM7 | _GSM7_TWICE:
        costs = [2 if character in _GSM7_TWICE else 1 for character in text]
        single, joined = 160, 153
    else:
        costs = [2 if ord(character) > 0xFFFF else 1 for character in text]
        single, joined = SINGLE_LIMIT, JOINED_LIMIT
    if sum(costs) <= single:
        return 1
    parts, room = 0, 0
    for cost in costs:
        if cost > room:
            parts, room = parts + 1, joined
        room -= cost
    return parts
