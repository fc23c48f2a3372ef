"""What truly happened, held against what Huizhi found: fault by fault, line by line, sum by sum."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from huizhi.demo.cast import CAST, ITNIO, SIGN_ID, TEMPLATE_ID, THINK
from reconciler.match import KINDS

REPORTING = frozenset(part.account for part in CAST if part.reports)

Key = tuple[str, str, str]  # account, vendor_message_id, phone


class Row(NamedTuple):
    """One kind of fault: how many there were, were found, and were seen where there was none."""

    kind: str
    injected: int
    found: int
    false: int
    how: str

    @property
    def right(self) -> bool:
        """Whether all were found and none was imagined."""
        return self.injected == self.found and self.false == 0


class Finding(NamedTuple):
    """One kind of discrepancy: how many there are, and how many of them were found, by account."""

    kind: str
    expected: Mapping[str, int]
    found: Mapping[str, int]
    false: int

    @property
    def right(self) -> bool:
        """Whether all were found and none was imagined."""
        return self.expected == self.found and self.false == 0


class Truth:
    """The sandbox's rows; what was sent since `today` has a period of its own."""

    def __init__(self, rows: list[dict[str, Any]], today: datetime, unregistered: set[Key]) -> None:
        self.rows = rows
        everything = {_key(row): row for row in rows if row["type"] == "message"}
        self.unknowable = {key for key, row in everything.items() if _is_unknowable(row)}
        """Messages of which nobody but the vendor can know whether they were sent."""
        self.messages = {key: row for key, row in everything.items() if key not in self.unknowable}
        self.unregistered = unregistered
        """Messages that were registered only after their reports had come."""
        self._today = today

    def is_today(self, message: Mapping[str, Any]) -> bool:
        """Whether it was sent on the day of the play, by this machine's clock."""
        return datetime.fromisoformat(message["sent_at"]) >= self._today

    def status(self, message: Mapping[str, Any]) -> str:
        """What the message is to be taken for, as far as that can be known by now."""
        if states := learnable(message):
            return states[0]
        patient = message["account"] not in REPORTING or self.is_today(message)
        return "submitted" if patient else "expired"

    def evidence(self, message: Mapping[str, Any]) -> list[str]:
        """The discrepancies that say nothing about money, and are there for this message."""
        states = learnable(message)
        if self.status(message) == "expired":
            return ["report_missing"]
        return ["reports_contradict"] if len(set(states)) > 1 else []

    def tellable(self, key: Key) -> bool:
        """Whether anybody but the bill tells of the message: its id, or a report."""
        message = self.messages[key]
        return not message["reply_lost"] or key[0] == ITNIO or _came_by_itself(message)

    def settled(self, seen: Mapping[Key, Any]) -> set[Key]:
        """The messages that are taken for what they truly are."""
        return {
            key
            for key, message in self.messages.items()
            if key in seen
            and seen[key]["status"] == self.status(message)
            and seen[key]["segments"] == message["segments"]
        }


def push_rows(truth: Truth, seen: Mapping[Key, Any], settled: set[Key]) -> Iterator[Row]:
    """What befell pushes; `seen` are the rows of `demo_messages`."""
    messages = truth.messages

    def row(kind: str, is_seen: Any, how: str, without: Iterable[Key] = ()) -> Row:
        injected = {key for key, each in messages.items() if _has(each, kind)}.difference(without)
        found = {key for key, each in seen.items() if is_seen(each)}.difference(without)
        return Row(kind, len(injected), len(injected & found & settled), len(found - injected), how)

    def lost(message: dict[str, Any]) -> bool:
        return _has(message, "push_lost") or any(
            fault["kind"] == "push_malformed" and fault["replaces"] for fault in message["faults"]
        )

    # What came only by a recovery although the vendor was answered 200 for its push is a receipt lost
    # by us; what is pulled by the vendor's choice was never pushed.
    injected = {key for key, each in messages.items() if lost(each)}
    pushed = {key for key, each in messages.items() if _acknowledged(each)}
    recovered = {key for key, each in seen.items() if each["recovered"] and not each["pushed"]}
    yield Row(
        "push_lost",
        len(injected),
        len(injected & settled & (recovered | _unlearnable(messages))),
        len(recovered & pushed),
        "recovered by query or pull",
    )
    yield row("push_doubled", lambda each: each["doubled"], "stored once, counted")
    # Also a report that came early is overtaken by nothing: its 'pending' comes after it.
    injected = {key for key, each in messages.items() if _overtaken(each)}
    found = {key for key, each in seen.items() if each["reordered"]}
    yield Row(
        "push_reordered",
        len(injected),
        len(injected & found & settled),
        len(found - injected),
        "pending never undoes final",
    )
    # What goes through us is in the ledger before the vendor knows of it: nothing comes too early.
    own = {key for key, each in messages.items() if truth.is_today(each)}
    yield row("push_early", lambda each: each["early"], "kept as orphan, then joined", own)
    unpushed = {key for key in truth.unregistered if _has(messages[key], "push_lost")}
    listed = {key for key in unpushed if seen[key]["early_listed"]}
    yield Row(
        "never_registered", len(unpushed), len(listed & settled), 0, "found in the vendor's list"
    )
    charged = {key for key in pushed if key[0] == ITNIO}
    right = {key for key in charged if seen[key]["charged"] == messages[key]["segments"]}
    yield Row("charge", len(charged), len(right & settled), 0, "in the push, kept beside the state")


def odd_push_rows(
    truth: Truth, quarantined: set[tuple[str, str]], settled: set[Key]
) -> Iterator[Row]:
    """What was pushed and is no report; `quarantined` by account and digest of the body."""
    odd = [row for row in truth.rows if row["type"] == "push"]
    forged = [row for row in odd if row["fault"] == "push_forged"]
    refused = sum(
        push["answer"] == 404
        for message in truth.messages.values()
        for push in message["pushes"]
        if push["what"] != "forged"
    )
    found = sum(row["answer"] == 404 and _key(row) in settled for row in forged)
    yield Row("push_forged", len(forged), found, refused, "404, nothing stored")
    malformed = {
        (row["account"], row["body_sha256"]) for row in odd if row["fault"] == "push_malformed"
    }
    yield Row(
        "push_malformed",
        len(malformed),
        len(malformed & quarantined),
        len(quarantined - malformed),
        "200, quarantined",
    )


def reply_rows(truth: Truth, counts: Mapping[str, Any], settled: set[Key]) -> Iterator[Row]:
    """A spoilt reply is found if, in spite of it, what was asked about came to be known."""
    spoilt = [row for row in truth.rows if row["type"] == "reply"]
    hidden = [row for row in spoilt if row["kind"] == "reply_cut" and row["lost"]]
    replies = [row for row in spoilt if row not in hidden]
    known = {(account, vendor_message_id) for account, vendor_message_id, _ in settled}
    done = counts["awaiting"] + counts["unsettled"] + counts["in_review"] == 0

    def overcome(row: dict[str, Any]) -> bool:
        if row["call"] == "query_status":
            return (row["account"], row["key"].split("/")[1]) in known
        return bool(done)

    for kind in ("reply_slow", "reply_429", "reply_500", "reply_cut"):
        injected = [row for row in replies if row["kind"] == kind]
        found = sum(map(overcome, injected))
        yield Row(kind, len(injected), found, 0, "asked again until answered")
    cut = sum(row["kind"] == "page_cut" for row in replies)
    lost = counts["lost_pages"]
    right = settled | truth.unknowable  # of these the right word is that nobody knows
    told = sum(
        all((row["account"], *each.values()) in right for each in row["lost"]) for row in hidden
    )
    yield Row("send_cut", len(hidden), told, 0, "never sent again, then identified")
    yield Row(
        "page_cut", cut, min(cut, lost), max(lost - cut, 0), "known as lost, whole rows saved"
    )


def review_rows(truth: Truth, seen: Iterable[Any]) -> Iterator[Row]:
    """The verdicts on what was submitted; `seen` are the rows of `demo_reviews`."""
    states = {(row["kind"], row["vendor_id"]): row for row in seen}
    verdicts = {(row["what"], row["id"]): row for row in truth.rows if row["type"] == "review"}
    right = {
        key
        for key, verdict in verdicts.items()
        if key in states and states[key]["status"] == verdict["status"]
    }
    asked_for = {("sign", SIGN_ID), ("template", TEMPLATE_ID)}
    strange = len(states.keys() - verdicts.keys() - asked_for)
    yield Row("sign, template", len(verdicts), len(right), strange, "verdict pushed, or asked for")
    lost = {key for key, verdict in verdicts.items() if _has(verdict, "push_lost")}
    yield Row(
        "verdict_lost",
        len(lost),
        len(lost & right),
        sum(not states[key]["pushed"] for key in right - lost),
        "recovered by query",
    )


def inbound_row(truth: Truth, counts: Mapping[str, Any]) -> Row:
    """The messages from handsets, in number."""
    texts = [row for row in truth.rows if row["type"] == "inbound"]
    learnable = {
        (row["account"], row["phone"], row["content"], row["received_at"])
        for row in texts
        if row["handed"] in ("push", "pull") or row["salvageable"]
    }
    extra = max(counts["inbound"] - len(learnable), 0)
    return Row("inbound", len(learnable), min(counts["inbound"], len(learnable)), extra, "recorded")


def findings(
    truth: Truth, results: Mapping[tuple[str, str], Mapping[str, Any]]
) -> Iterator[Finding]:
    """Compare discrepancies one by one: period, kind, account, message, number and amount.

    `results` are by account and period; each has `discrepancies`, and `holds`, which says of a time
    in the truth whether it lies in the period.
    """
    expected: Counter[tuple[str, ...]] = Counter()
    found: Counter[tuple[str, ...]] = Counter()
    for row in truth.rows:
        if row["type"] == "statement_fault":
            expected[row["period"], row["kind"], *_key(row), _amount(row["amount"])] += 1
    for (account, period), result in results.items():
        for each in result["discrepancies"]:
            name = (account, each["vendor_message_id"], each["phone"])
            found[period, each["kind"], *name, _amount(each["amount"])] += 1
        # A run shows evidence also of what it bills out of period.
        billed = {name[2:5] for name in found if name[0] == period and name[1] in KINDS[-2:]}
        for key, message in truth.messages.items():
            if key[0] == account and (result["holds"](message["sent_at"]) or key in billed):
                expected.update((period, kind, *key, "0") for kind in truth.evidence(message))
    for kind in KINDS:
        there = Counter({item: count for item, count in expected.items() if item[1] == kind})
        here = Counter({item: count for item, count in found.items() if item[1] == kind})
        yield Finding(kind, _by_account(there), _by_account(there & here), (here - there).total())


def _by_account(items: Counter[tuple[str, ...]]) -> dict[str, int]:
    return {part.account: _count(items, part.account) for part in CAST}


def _count(items: Counter[tuple[str, ...]], account: str) -> int:
    return sum(count for item, count in items.items() if item[2] == account)


def _key(row: dict[str, Any]) -> Key:
    return row["account"], row["vendor_message_id"], row["phone"]


def _has(row: dict[str, Any], kind: str) -> bool:
    return any(fault["kind"] == kind for fault in row["faults"])


def learnable(message: Mapping[str, Any]) -> list[str]:
    """The final states that the vendor has let anybody learn of a message."""
    return [
        report["status"]
        for report in message["reports"]
        if report["handed"] in ("push", "pull", "query") or report["salvageable"]
    ]


def _came_by_itself(message: Mapping[str, Any]) -> bool:
    """Whether a report came that was not asked for by the message's id."""
    return any(
        report["handed"] in ("push", "pull") or report["salvageable"]
        for report in message["reports"]
    )


def _is_unknowable(message: Mapping[str, Any]) -> bool:
    """Whether the reply to the send was lost, and neither a report nor a bill speaks of the text."""
    unbilled = message["account"] == THINK and message["status"] != "delivered"
    return bool(message["reply_lost"] and unbilled and not _came_by_itself(message))


def _unlearnable(messages: dict[Key, dict[str, Any]]) -> set[Key]:
    return {key for key, each in messages.items() if not learnable(each)}


def _acknowledged(message: dict[str, Any]) -> bool:
    return any(push["what"] == "final" and push["answer"] == 200 for push in message["pushes"])


def _overtaken(message: dict[str, Any]) -> bool:
    pushed = [push["what"] for push in message["pushes"] if push["answer"] == 200]
    return "final" in pushed and "pending" in pushed[pushed.index("final") :]


def _amount(text: str) -> str:
    return format(Decimal(text).normalize(), "f")
