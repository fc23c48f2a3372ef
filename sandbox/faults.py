"""Which faults befall which push and which reply: a function of seed, kind and name alone.

At most one fault decides over the real report of a message (lost, malformed in its place,
contradicting, reordered, doubled, in that order), so that the truth stays unambiguous; early,
forged and additional malformed pushes may come on top.
"""

from typing import Literal

from sandbox.chance import Chance
from sandbox.settings import Faults
from sandbox.world import Fault

PUSH_FAULTS = (
    "push_lost",
    "push_doubled",
    "push_reordered",
    "push_early",
    "push_contradicting",
    "push_forged",
    "push_malformed",
)
ReplyFault = Literal["reply_429", "reply_500", "reply_slow", "reply_cut", "page_cut"]
RETRY_AFTER_SECONDS = 1


def push_faults(
    chance: Chance, rates: Faults, key: str, *, malformations: tuple[str, ...], has_pending: bool
) -> list[Fault]:
    """Decide what happens to the pushes of a message that has a final report and is pushed."""
    faults: list[Fault] = []
    malformed: Fault | None = None
    if chance.hit(rates.push_malformed, "push_malformed", key):
        malformed = {
            "kind": "push_malformed",
            "how": chance.pick(malformations, "malformation", key),
            "replaces": chance.hit(0.5, "malformed replaces", key),
        }
    if chance.hit(rates.push_lost, "push_lost", key):
        faults.append({"kind": "push_lost"})
    elif malformed is not None and malformed["replaces"]:
        faults.append(malformed)
    elif chance.hit(rates.push_contradicting, "push_contradicting", key):
        faults.append(
            {
                "kind": "push_contradicting",
                "later_first": chance.hit(0.5, "contradiction first", key),
            }
        )
    elif has_pending and chance.hit(rates.push_reordered, "push_reordered", key):
        faults.append({"kind": "push_reordered"})
    elif chance.hit(rates.push_doubled, "push_doubled", key):
        faults.append(
            {"kind": "push_doubled", "concurrent": chance.hit(0.5, "doubled at once", key)}
        )
    gone = bool(faults) and faults[0]["kind"] in ("push_lost", "push_malformed")
    if not gone and chance.hit(rates.push_early, "push_early", key):
        faults.append({"kind": "push_early"})
    if malformed is not None and not malformed["replaces"]:
        faults.append(malformed)
    if chance.hit(rates.push_forged, "push_forged", key):
        faults.append({"kind": "push_forged", "before_real": chance.hit(0.5, "forged first", key)})
    return faults


def reply_fault(
    chance: Chance, rates: Faults, name: str, kind: Literal["send", "query", "page"]
) -> ReplyFault | None:
    """Decide what happens to one reply; `name` tells the call and which attempt at it this is."""
    if kind == "send" and not rates.on_send:
        return None
    if chance.hit(rates.reply_429, "reply_429", name):
        return "reply_429"
    if chance.hit(rates.reply_500, "reply_500", name):
        return "reply_500"
    if kind == "page":
        if chance.hit(rates.page_cut, "page_cut", name):
            return "page_cut"
    elif chance.hit(rates.reply_cut, "reply_cut", name):
        return "reply_cut"
    if chance.hit(rates.reply_slow, "reply_slow", name):
        return "reply_slow"
    return None
