"""Callbacks that carry a hundred reports each, against `pgbench` inserting the same reports in batches."""

from pathlib import Path

from benchmarks.baseline import Pgbench, script
from benchmarks.callbacks import Pusher
from benchmarks.figures import Figure, compared
from benchmarks.ground import PULLED, prepared, receiver

_REPORTS = 100
_CONNECTIONS = 16
_BATCH = 200
_CLIENTS = 8
# One row of the baseline's INSERT; what differs from report to report does so there too.
_ROW = """\
(
    hashint8(:id + {offset}),
    encode(substring(sha256(int8send(:id + {offset})) FOR 16), 'hex')::uuid,
    substring(sha256(int8send({offset} - :id)) FOR 16),
    '{account}',
    (:id / 100)::text,
    (13800000000 + (:id + {offset}) % 100000000)::text,
    'delivered',
    '10',
    'DELIVRD',
    now(),
    now(),
    'push',
    sha256(int8send(:id / 100)),
    FALSE
)"""


async def run(parent: Path, *, quick: bool) -> list[Figure]:
    """Measure pushing and inserting alternately, on one database."""
    seconds, rounds = (2.0, 1) if quick else (8.0, 5)
    async with prepared(parent, "many") as ground:
        pgbench = await Pgbench.found(ground)
        await ground.execute("baseline_reports")
        rows = ",\n".join(_ROW.format(offset=n, account=PULLED) for n in range(_BATCH))
        inserting = script("insert_reports").replace("{rows}", rows)
        with receiver(ground) as service:
            pusher = Pusher(ground, service, reports=_REPORTS)
            await pusher.round(1.0, connections=_CONNECTIONS)
            measured = []
            halves = []
            for _ in range(rounds):
                pushed = await pusher.round(seconds, connections=_CONNECTIONS)
                await ground.settle_down()
                inserted = await pgbench.run(
                    inserting, {}, clients=_CLIENTS, seconds=seconds, protocol="simple"
                )
                measured.append((pushed.settled_rate * _REPORTS, inserted.rate * _BATCH))
                halves.append(pushed)
    total = sum(pushed.outcome.acknowledged for pushed in halves) * _REPORTS
    return [
        compared(
            "callbacks-100",
            f"reports in callbacks of {_REPORTS}, recorded and settled, {_CONNECTIONS} connections",
            "reports/s",
            measured,
            baseline_work=f"pgbench, the same reports {_BATCH} an INSERT, {_CLIENTS} clients",
            at_least=0.6,
            notes={
                "refused with 503": sum(pushed.outcome.refused for pushed in halves),
                "settlement behind at most, seconds": max(p.behind_seconds for p in halves),
                "processor microseconds a report": {
                    name: sum(p.used[name] for p in halves) / total * 1e6 for name in halves[0].used
                },
            },
        )
    ]
