"""The detector of silence on simulated months, and the whole of it on a real database.

A false alarm is an alarm raised while nothing was wrong. Its rate is the share of an account's hours
in which one was raised or stood; alarms per month are counted too.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pretend
import pytest

from reconciler import arrivals, silence
from reconciler import lease as leases
from reconciler.reading import watched
from reconciler.silence import LAGS, LONGEST, Day, Model

DAY = 1440
LEARNED = 14
MONTH = 30


@dataclass
class World:
    """An account's traffic by the minute: diurnal, weekends, campaigns, slow hours of its vendor."""

    chance: random.Random
    busiest: float  # messages a minute in the busiest hour
    sent: list[int] = field(default_factory=list)
    came: list[int] = field(default_factory=list)
    arrived: list[list[int]] = field(default_factory=list)  # of each day, by lag
    outages: list[tuple[int, int, float]] = field(default_factory=list)  # from, to, share lost

    def rate(self, minute: int) -> float:
        day, hour = minute // DAY, minute % DAY / 60
        shape = (
            0.04 + max(0.0, math.sin((hour - 7) / 15 * math.pi)) ** 1.5 if 7 <= hour <= 22 else 0.04
        )
        return self.busiest * shape * (0.4 if day % 7 >= 5 else 1.0)

    def play(self, days: int) -> None:
        chance = self.chance
        minutes = days * DAY
        self.sent, self.came = [0] * minutes, [0] * (minutes + LAGS + 1)
        self.arrived = [[0] * (LAGS + 1) for _ in range(days)]
        # A third of the days have an hour or two in which the vendor is up to ten times as slow.
        slow: dict[int, float] = {}
        queued: dict[int, float] = {}
        for day in range(days):
            if chance.random() < 0.33:
                start = day * DAY + chance.randrange(8 * 60, 21 * 60)
                factor = chance.uniform(2, 10)
                for minute in range(start, start + chance.randrange(30, 150)):
                    slow[minute] = factor
        bursts: dict[int, int] = {}
        for day in range(days):
            if chance.random() < 0.2:  # a campaign: an hour's worth and more in a minute or few
                start = day * DAY + chance.randrange(9 * 60, 20 * 60)
                for minute in range(start, start + chance.randrange(1, 6)):
                    bursts[minute] = int(self.busiest * chance.uniform(20, 100))
        drift = [chance.uniform(0.8, 1.25) for _ in range(days)]
        for minute in range(minutes):
            mean = self.rate(minute) * chance.lognormvariate(0, 0.25)
            count = _poisson(chance, mean)
            burst = bursts.get(minute, 0)
            self.sent[minute] = count + burst
            median_seconds = 8.0 * slow.get(minute, 1.0) * drift[minute // DAY]
            for number in range(count + burst):
                if chance.random() < 0.03:
                    continue  # no receipt ever
                seconds = chance.lognormvariate(math.log(median_seconds), 1.1)
                if number >= count:  # the vendor sends a campaign at a few times the busiest rate
                    queued[minute] = queued.get(minute, 0.0) + 60.0 / (4 * self.busiest)
                    seconds += queued[minute]
                lag = int((chance.random() * 60 + seconds) // 60)
                if lag > LAGS:
                    continue
                at = minute + lag
                if any(a <= at < b and chance.random() < lost for a, b, lost in self.outages):
                    continue
                self.came[at] += 1
                self.arrived[minute // DAY][lag] += 1

    def day(self, number: int) -> Day:
        first = number * DAY
        # Only its own messages' receipts, as the job counts them: near enough but for midnight.
        return Day(
            self.sent[first : first + DAY],
            self.came[first : first + DAY + LAGS],
            self.arrived[number],
        )


def _poisson(chance: random.Random, mean: float) -> int:
    if mean > 50:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), chance.random(), 0
    while product > limit:
        product *= chance.random()
        count += 1
    return count


@dataclass
class Watched:
    """The minutes in which an alarm was raised, and all in which one stood."""

    raised: list[tuple[int, str]] = field(default_factory=list)
    standing: set[int] = field(default_factory=set)


def watch(model: Model, world: World, first: int) -> Watched:
    """Look every minute from `first` on, as the job does."""
    due = silence.expected(model, world.sent)
    seen = Watched()
    stands: silence.Kind | None = None
    for now in range(first, len(world.sent)):
        last = due[now - LONGEST : now], world.came[now - LONGEST : now]
        found = silence.judge(model, *last)
        if stands is None and found is not None:
            stands = found.kind
            seen.raised.append((now, found.kind))
        elif stands is not None and found is None and silence.is_back(stands, *last):
            stands = None
        if stands is not None:
            seen.standing.add(now)
    return seen


def learned(world: World) -> Model:
    model = silence.learn([world.day(number) for number in range(LEARNED)])
    assert model is not None
    return model


@pytest.mark.parametrize("busiest", [3.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_quiet_month_has_hardly_a_false_alarm(seed: int, busiest: float) -> None:
    world = World(random.Random(seed), busiest)
    world.play(LEARNED + MONTH)
    seen = watch(learned(world), world, LEARNED * DAY)
    hours = {minute // 60 for minute in seen.standing}
    assert len(hours) / (MONTH * 24) < 0.01, seen.raised
    assert len(seen.raised) <= 3, seen.raised


@pytest.mark.parametrize("seed", range(3))
def test_a_stop_at_ordinary_traffic_is_noticed_within_five_minutes(seed: int) -> None:
    world = World(random.Random(100 + seed), 30.0)
    chance = random.Random(seed)
    # Ordinary: a time of the day at which half of the busiest rate is sent, or more. A week has two.
    stops = [
        (LEARNED + day) * DAY + chance.randrange(11 * 60, 17 * 60)
        for day in range(MONTH)
        if day % 7 in (1, 3)
    ]
    world.outages = [(stop, stop + 60, 1.0) for stop in stops]
    world.play(LEARNED + MONTH)
    seen = watch(learned(world), world, LEARNED * DAY)
    delays = [
        min((at - stop for at, _ in seen.raised if stop <= at < stop + 60), default=60)
        for stop in stops
    ]
    assert max(delays) <= 5, delays
    assert median(delays) <= 4


def test_half_missing_is_noticed_later_and_ends_when_receipts_are_back() -> None:
    world = World(random.Random(7), 30.0)
    start = (LEARNED + 2) * DAY + 11 * 60
    world.outages = [(start, start + 240, 0.5)]
    world.play(LEARNED + 5)
    seen = watch(learned(world), world, LEARNED * DAY)
    assert [kind for _, kind in seen.raised] == ["loss"]
    ((at, _),) = seen.raised
    assert 0 < at - start <= 120
    assert not any(minute > start + 240 + 180 for minute in seen.standing)


def test_nothing_is_learned_of_too_little_nor_of_a_day_of_outage() -> None:
    world = World(random.Random(3), 30.0)
    world.outages = [(5 * DAY, 6 * DAY, 1.0)]
    world.play(LEARNED)
    assert silence.learn([]) is None
    assert silence.learn([world.day(0), world.day(1)]) is None
    with_it = learned(world)
    without = silence.learn([world.day(number) for number in range(LEARNED) if number != 5])
    assert without is not None
    assert with_it.share == pytest.approx(without.share, abs=0.02)


@pytest.mark.parametrize(("count", "mean"), [(0, 5.0), (3, 12.5), (40, 60.0)])
def test_probability_is_that_of_counting_it_out(count: int, mean: float) -> None:
    def by_gamma(number: int, size: float) -> float:
        log = math.lgamma(number + size) - math.lgamma(size) - math.lgamma(number + 1)
        return math.exp(
            log + size * math.log(size / (size + mean)) + number * math.log(mean / (size + mean))
        )

    for spread in (0.02, 0.5):
        whole: Sequence[float] = [by_gamma(number, 1 / spread) for number in range(count + 1)]
        assert silence.at_most(count, mean, spread) == pytest.approx(sum(whole))


# --- on a real database --------------------------------------------------------------------------------

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)
PLAYED = """
INSERT INTO messages (
    shard, id, account, vendor_message_id, phone, sent_at, registered_at, segments, segments_given, status
)
SELECT
    ('x' || left(i.id::text, 8))::bit(32)::integer, i.id, $1, i.id::text, '1', i.at, i.at, 1, FALSE, 'submitted'
FROM (
    SELECT gen_random_uuid() AS id, $2::timestamptz + n * interval '10 seconds' AS at
    FROM generate_series(0, $3::integer - 1) AS n
) AS i
"""
REPORTED = """
INSERT INTO reports (
    shard, message_id, fingerprint, account, vendor_message_id, phone, status, vendor_code, received_at,
    source, digest, orphan
)
SELECT
    shard, id, '\\x01', account, vendor_message_id, phone, 'delivered', '1',
    sent_at + random() * interval '40 seconds', $4, '\\x00', FALSE
FROM messages
WHERE account = $1 AND sent_at >= $2 AND sent_at < $3
ON CONFLICT DO NOTHING
"""


@pytest.mark.anyio
@pytest.mark.parametrize(("source", "way"), [("push", "pushed"), ("pull", "handed out")])
async def test_an_account_is_learned_watched_and_its_silence_raised_and_ended(
    pool: Any, tmp_path: Path, source: str, way: str
) -> None:
    accounts = pretend.settings(tmp_path, "http://127.0.0.1:1").accounts
    start = NOW.replace(hour=0) - timedelta(days=4)
    await pool.execute(PLAYED, "api", start, 6 * 1440 * 4 + 6 * 600)
    stop = NOW - timedelta(minutes=4)
    await pool.execute(REPORTED, "api", start, stop - timedelta(seconds=40), source)

    async def states() -> dict[str, Any]:
        async with pool.acquire() as connection:
            return {row["account"]: row for row in await arrivals.shown(connection, ["api", "sms"])}

    async def standing() -> dict[str, str]:
        async with pool.acquire() as connection:
            page = await watched.alarms(
                connection, ["api", "sms"], kind=None, ended=False, cursor=None, limit=10
            )
        return {item["kind"]: item["words"] for item in page.items}

    # Before anything was learned nothing is said.
    await arrivals.watch(pool, accounts, now=NOW)
    assert (await states())["api"]["state"] == "learning"
    assert await standing() == {}

    async with leases.held(pool, "arrivals:", holder="test") as lease:
        assert lease is not None
        assert await arrivals.learn(accounts, lease, now=NOW) == 4
        assert await arrivals.learn(accounts, lease, now=NOW) == 0
    learned = (await states())["api"]
    assert (learned["state"], learned["source"], learned["days"]) == ("watched", source, 4)
    assert learned["within_5_minutes"] == pytest.approx(1.0, abs=0.01)
    assert (await states())["sms"]["state"] == "learning"

    await arrivals.watch(pool, accounts, now=stop - timedelta(minutes=1))
    assert await standing() == {}
    await arrivals.watch(pool, accounts, now=NOW)
    assert list(await standing()) == ["silence"]
    assert f"should have been {way} in the last" in (await standing())["silence"]
    await arrivals.watch(pool, accounts, now=NOW + timedelta(minutes=1))
    assert await pool.fetchval("SELECT count(*) FROM alarms") == 1

    # What we have not settled is no silence of theirs.
    await pool.execute("UPDATE alarms SET ended_at = since")
    await pool.execute(
        "INSERT INTO batches (recorder, recorded_at) VALUES ('x', $1)", NOW - timedelta(minutes=2)
    )
    await arrivals.watch(pool, accounts, now=NOW)
    assert await standing() == {}
    await pool.execute("UPDATE batches SET settled_at = recorded_at")
    await arrivals.watch(pool, accounts, now=NOW)
    assert list(await standing()) == ["silence"]

    later = NOW + timedelta(minutes=15)
    await pool.execute(REPORTED, "api", NOW - timedelta(seconds=40), later, source)
    await arrivals.watch(pool, accounts, now=later)
    assert await standing() == {}
