"""How the pretend vendors count segments (条) for their bills, written from their pages alone.

vendor-docs/001 计费规则: template text plus sign, every character one, up to 70 is one segment,
else one per 67. vendor-docs/000 says the same 70/67 of the whole content, sign included.
"""

from typing import Literal

CountBy = Literal["code_point", "utf16"]

SINGLE_LIMIT = 70
JOINED_LIMIT = 67


def count_segments(text: str, count_by: CountBy) -> int:
    """Count what the vendor bills for `text`, its 【sign】 included; an empty text is one segment.

    Neither page says what an emoji counts, hence the choice of unit.
    """
    length = len(text) if count_by == "code_point" else len(text.encode("utf-16-le")) // 2
    if length <= SINGLE_LIMIT:
        return 1
    return -(-length // JOINED_LIMIT)
