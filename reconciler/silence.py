"""Silence: whether an account's receipts come as they used to, judged from counts by the minute.

Pure: a month of minutes is judged in a second. What was sent, and how soon receipts came in the
past, say how many should have come in the last minutes; far fewer are an alarm.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from operator import mul
from statistics import median
from typing import Literal

import msgspec

# How late a receipt may come to be counted, in minutes.
LAGS = 180
# The spans that are looked at, in minutes.
WINDOWS = (3, 10, 30, 120)
LONGEST = WINDOWS[-1]
# How improbable a count must be. Windows overlap and are looked at every minute: at 10,000 looks
# a month that are independent of each other, one in ten accounts would have one false alarm in it.
IMPROBABLE = 1e-5
# Of what was expected, at most so much came: nothing, but for stragglers; or markedly less.
SILENT, LESS = 0.1, 0.7
# Those windows are for markedly less: in shorter ones a slow minute of the vendor's looks like it.
_LOSS_WINDOWS = (30, 120)
# What ends an alarm: so much of what was expected came in ten minutes, or in half an hour.
_BACK = {"silence": (10, 0.5), "loss": (30, 0.85)}
_ENOUGH = 10.0
# What must have been seen before anything is said.
DAYS, MESSAGES = 3, 500
_LEAST_SPREAD = 0.02
_CHI_SQUARE_95 = 3.84

Kind = Literal["silence", "loss"]


class Day(msgspec.Struct, frozen=True):
    """A day of the past, by its minutes: `sent` has 1440, `came` also the `LAGS` after them.

    `arrived[lag]` is how many of its messages' receipts came so many minutes later.
    """

    sent: Sequence[int]
    came: Sequence[int]
    arrived: Sequence[int]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """What the past taught: see `learn`."""

    days: int
    messages: int
    shares: Sequence[float]
    most: float
    spread: Mapping[str, float]

    @property
    def share(self) -> float:
        """The share of messages that a receipt comes for at all, within `LAGS` minutes."""
        return sum(self.shares)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong: in `minutes` so many receipts should have come, and so many did."""

    kind: Kind
    minutes: int
    expected: float
    came: int
    probability: float


def learn(days: Sequence[Day]) -> Model | None:
    """Learn from days of the past; None if they are too few.

    The arrival curve is the median of the days', so that a few days of outage teach nothing. `most`
    is what a minute's sending counts for at most: a campaign comes back as fast as the vendor
    sends it. `spread` is how much more than chance the counts of each window vary.
    """
    busy = [day for day in days if sum(day.sent) >= 50]
    messages = sum(sum(day.sent) for day in busy)
    if len(busy) < DAYS or messages < MESSAGES:
        return None
    cumulated = []
    for day in busy:
        total, so_far, curve = sum(day.sent), 0, []
        for arrived in day.arrived:
            so_far += arrived
            curve.append(so_far / total)
        cumulated.append(curve)
    curve = [median(shares) for shares in zip(*cumulated, strict=True)]
    shares = [
        curve[0],
        *(max(0.0, after - before) for before, after in itertools.pairwise(curve)),
    ]
    minutes = sorted(sent for day in busy for sent in day.sent if sent)
    most = max(3.0 * median(minutes), minutes[int(0.95 * (len(minutes) - 1))])
    model = Model(days=len(busy), messages=messages, shares=shares, most=most, spread={})
    return msgspec.structs.replace(model, spread=_spread(model, busy))


def _spread(model: Model, days: Sequence[Day]) -> dict[str, float]:
    found: dict[int, list[float]] = {window: [] for window in WINDOWS}
    for day in days:
        due = expected(model, [*day.sent, *[0] * LAGS])
        for window in WINDOWS:
            for start in range(0, 1440, window):
                mean = sum(due[start : start + window])
                if mean >= 2 * _ENOUGH:
                    off = min(0.0, sum(day.came[start : start + window]) - mean)
                    found[window].append(max(0.0, (off * off - mean) / (mean * mean)))
    spread = {}
    for window, values in found.items():
        values.sort()
        at = values[int(0.95 * (len(values) - 1))] / _CHI_SQUARE_95 if values else 0.0
        spread[str(window)] = max(_LEAST_SPREAD, at)
    return spread


def expected(model: Model, sent: Sequence[int]) -> list[float]:
    """Return how many receipts should come in each minute, given what was sent in each and before."""
    capped = [min(float(count), model.most) for count in sent]
    backward = model.shares[::-1]
    due = []
    for minute in range(len(capped)):
        first = max(0, minute - LAGS)
        part = capped[first : minute + 1]
        due.append(sum(map(mul, part, backward[len(backward) - len(part) :])))
    return due


def judge(model: Model, due: Sequence[float], came: Sequence[int]) -> Finding | None:
    """Say what is wrong at the end of the last `LONGEST` minutes; None: nothing."""
    for window in WINDOWS:
        mean, count = sum(due[-window:]), sum(came[-window:])
        most = LESS if window in _LOSS_WINDOWS else SILENT
        if mean < _ENOUGH or count > most * mean:
            continue
        probability = at_most(count, mean, model.spread[str(window)])
        if probability < IMPROBABLE:
            kind: Kind = "silence" if count <= SILENT * mean else "loss"
            return Finding(
                kind=kind,
                minutes=window,
                expected=round(mean, 1),
                came=count,
                probability=probability,
            )
    return None


def is_back(kind: Kind, due: Sequence[float], came: Sequence[int]) -> bool:
    """Say whether an alarm of `kind` that stands is over: receipts come again as they should."""
    window, share = _BACK[kind]
    mean = sum(due[-window:])
    return mean >= _ENOUGH and sum(came[-window:]) >= share * mean


def at_most(count: int, mean: float, spread: float) -> float:
    """Return the probability of `count` or less, of a negative binomial.

    Its variance is `mean + spread * mean**2`.
    """
    size = 1.0 / spread
    success = size / (size + mean)
    term = size * math.log(success)
    total = math.exp(term)
    step = math.log1p(-success)
    for number in range(count):
        term += math.log((number + size) / (number + 1)) + step
        total += math.exp(term)
    return min(1.0, total)
