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

# By kind, with what each says; of several that would do the first is the one.
CAUSES = {
    "billed_not_sent": {
        "refused_by_us": "the message was refused: it was never sent",
        "in_doubt": "nobody knows whether the message was sent",
        "id_with_other_phone": "the id is that of a message to another phone",
        "id_unknown": "no message of the account has this id",
    },
    "billed_not_delivered": {
        "failed": "the message failed",
        "expired": "no report came in time",
        "no_report_yet": "a report is still awaited",
    },
    "billed_twice": {
        "double_same_amount": "the line has the amount of the message's first line",
        "double_other_amount": "the line has another amount than the message's first line",
    },
    "billed_out_of_period": {
        "time_zone": "the line's own time is in the period: another zone's",
        "month_edge": "sent within a day of the period's first or last moment",
        "other_period": "sent further from the period than a day",
    },
    "segments_differ": {
        "content_unknown": "the text is not known here",
        "own_count": "the text counts as billed: the count that was registered is another",
        "sign_not_counted": "the text without its sign counts as billed",
        "sign_counted": "the text with a sign, or with its sign once more, counts as billed",
        "emoji_unit": "the other unit for characters such as emoji counts as billed",
        "parts_of_70": "parts of 70 in place of 67 (GSM-7: 160 in place of 153) count as billed",
        "coding": "the other alphabet, GSM-7 or UCS-2, counts as billed",
        "segments_other": "nothing known explains the count",
    },
    "price_differs": {
        "stale_tariff": "billed at the price of another of the account's tariffs",
        "price_other": "billed at a price that no tariff has",
    },
    "not_billed": {
        "no_line_at_edge": "sent within a day inside the period's edges: perhaps on the next bill",
        "no_line": "sent well within the period",
    },
    "reports_contradict": {
        "states_contradict": "reports say both delivered and failed",
        "charges_contradict": "reports say different costs",
    },
    "report_missing": {"no_report": "no final report came in time"},
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
            row["told"]
            or segment_cause(
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
