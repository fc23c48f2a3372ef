"""Why a bill differs: each discrepancy has exactly one cause, so that causes add up as kinds do.

Most causes are told in SQL (`add_discrepancies`). Why a text was billed with other segments than
ours takes the text: this module tries what vendors are known to count otherwise, in a fixed order.
"""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

from gateways import segments
from gateways.segments import Rule, Unit
from runtime.queries import QUERIES
from runtime.settings import AccountSettings

# By kind; of several that would do the first is the one.
CAUSES = {
    "billed_not_sent": ("refused_by_us", "in_doubt", "id_with_other_phone", "id_unknown"),
    "billed_not_delivered": ("failed", "expired", "no_report_yet"),
    "billed_twice": ("double_same_amount", "double_other_amount"),
    "billed_out_of_period": ("time_zone", "month_edge", "other_period"),
    "segments_differ": (
        "content_unknown",
        "own_count",
        "sign_not_counted",
        "sign_counted",
        "emoji_unit",
        "parts_of_70",
        "coding",
        "segments_other",
    ),
    "price_differs": ("stale_tariff", "price_other"),
    "not_billed": ("no_line_at_edge", "no_line"),
    "reports_contradict": ("states_contradict", "charges_contradict"),
    "report_missing": ("no_report",),
}

_ROWS = 2000
_SIGNED = re.compile("【([^【】]+)】")
# The shortest and the longest sign that a vendor could put in front of a text that names none.
_SHORT_SIGN, _LONG_SIGN = "字", "字" * 20


def segment_cause(
    content: str | None,
    sign: str | None,
    *,
    billed: int,
    rule: Rule,
    unit: Unit,
) -> str:
    """Return why a text was billed as `billed` segments, which is not our number; pure.

    Our number may be the sender's own count, or one made when the settings said otherwise. A sign
    that is not known here is the last thing tried, since one of some length explains much.
    """
    if content is None:
        return "content_unknown"

    def counted(content: str, sign: str | None = None) -> int:
        return segments.count(content, sign, unit, rule=rule)

    if counted(content, sign) == billed:
        return "own_count"
    name = segments.unbracketed(sign) if sign else ""
    if not name and (begun := _SIGNED.match(content)):
        name = begun[1]
    bare = content.removeprefix(f"【{name}】") if name else content
    if name:
        if counted(bare) == billed:
            return "sign_not_counted"
        if counted(f"【{name}】" + segments.signed(content, sign)) == billed:
            return "sign_counted"
    if rule is Rule.DOMESTIC:
        other = Unit.CODE_POINT if unit is Unit.UTF16 else Unit.UTF16
        if segments.count(content, sign, other, rule=rule) == billed:
            return "emoji_unit"
    explained = segments.explain(content, sign, rule, unit)
    single = 160 if explained.encoding == "GSM-7 septets" else 70
    if max(1, -(-explained.units // single)) == billed:
        return "parts_of_70"
    otherwise = Rule.INTERNATIONAL if rule is Rule.DOMESTIC else Rule.DOMESTIC
    if segments.count(content, sign, unit, rule=otherwise) == billed:
        return "coding"
    if not name and counted(content, _SHORT_SIGN) <= billed <= counted(content, _LONG_SIGN):
        return "sign_counted"
    return "segments_other"


async def explain_segments(connection: Any, settings: AccountSettings) -> None:
    """Tell the cause of each line that was billed with other segments; part of a run."""
    async for rows in _pages(connection, QUERIES["texts_to_explain"]):
        causes = [
            segment_cause(
                row["content"],
                row["sign"],
                billed=row["billed_segments"],
                rule=settings.rule,
                unit=settings.unit,
            )
            for row in rows
        ]
        await _add(connection, rows, [None] * len(rows), causes)


async def recount(connection: Any, settings: AccountSettings) -> None:
    """Count a run's texts anew, by the rule and unit of `settings`; part of a run that assumes.

    A count that the sender gave stands, and so does the count of a text that is not known.
    """
    async for rows in _pages(connection, QUERIES["texts_to_count"]):
        counts = [
            segments.count(row["content"], row["sign"], settings.unit, rule=settings.rule)
            for row in rows
        ]
        await _add(connection, rows, counts, [None] * len(rows))
    await connection.execute(QUERIES["recount"])


async def _pages(connection: Any, query: str) -> AsyncIterator[list[Any]]:
    """Yield rows some thousands at a time, however many there are."""
    reader = await connection.cursor(query)
    while rows := await reader.fetch(_ROWS):
        yield rows


async def _add(
    connection: Any, rows: list[Any], counts: Sequence[int | None], causes: Sequence[str | None]
) -> None:
    await connection.execute(
        QUERIES["add_texts"],
        [row["shard"] for row in rows],
        [row["id"] for row in rows],
        counts,
        causes,
    )
