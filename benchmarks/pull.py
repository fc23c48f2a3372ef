"""Reports pulled from a vendor in pages, against `pgbench` inserting the same rows in batches."""

import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.baseline import Pgbench, script
from benchmarks.figures import Figure, compared
from benchmarks.ground import PULLED, CannotRun, apart, prepared
from gateways.gateway import Account, Call, Client, Reply
from reconciler import lease, pull
from reconciler.poll import Caller, Done
from runtime import settings as settings_file
from runtime.database import Database

_PAGES = 25
_QUICK_PAGES = 3
_ROUNDS = 3
_PAGE_ROWS = 4000
_BATCH = 200
_CLIENTS = 8
_SENT_FROM = datetime(2026, 1, 1, tzinfo=UTC)
_BOX = (
    "<statusbox>\n<mobile>{phone}</mobile>\n<taskid>{task}</taskid>\n<status>10</status>\n"
    "<receivetime>2026-01-01 08:00:03</receivetime>\n<errorcode>DELIVRD</errorcode>\n"
    "<extno></extno>\n</statusbox>\n"
)
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
    'pull',
    sha256(int8send(:id / 4000)),
    FALSE
)"""


async def run(parent: Path, *, quick: bool) -> list[Figure]:
    """Measure pulling and inserting alternately, on one database."""
    pages, seconds = (_QUICK_PAGES, 2.0) if quick else (_PAGES, 4.0)
    rows = pages * _PAGE_ROWS
    async with prepared(parent, "pull") as ground:
        pgbench = await Pgbench.found(ground)
        await ground.execute("baseline_reports")
        rows_sent = [_ROW.format(offset=number, account=PULLED) for number in range(_BATCH)]
        inserting = script("insert_reports").replace("{rows}", ",\n".join(rows_sent))
        measured = []
        peaks = []
        for number in range(1 if quick else _ROUNDS):
            first = number * rows
            # A send to many numbers has one task's id: here 100.
            await ground.execute(
                "fill_messages", PULLED, first, first + rows - 1, 100, _SENT_FROM, 0.001
            )
            await ground.execute("analyze_messages")
            await ground.settle_down()
            ours = apart(_pull, ground.settings.file, ground.database, ground.folder, first, pages)
            stored = await ground.row("settled_reports")
            if (stored["reports"], stored["delivered"]) != (first + rows, first + rows):
                raise CannotRun(
                    f"{first + rows} reports were handed out, and {stored['reports']} reports and"
                    f" {stored['delivered']} delivered messages are there"
                )
            await ground.settle_down()
            inserted = await pgbench.run(
                inserting, {}, clients=_CLIENTS, seconds=seconds, protocol="simple"
            )
            measured.append((rows / ours.seconds, inserted.rate * _BATCH))
            peaks.append(ours.peak_bytes)
        made = await pgbench.run(
            script("make_reports"), {"account": PULLED}, clients=_CLIENTS, seconds=seconds
        )
        sizes = await ground.row("report_bytes")
    return [
        compared(
            "pull",
            f"reports pulled, {_PAGE_ROWS:,} a page: recorded, parsed and settled",
            "reports/s",
            measured,
            baseline_work=f"pgbench, the same reports {_BATCH} an INSERT, {_CLIENTS} clients",
            at_least=0.6,
            notes={
                "pages": pages,
                "the same rows made within PostgreSQL, reports/s": made.rate * _BATCH,
                "row bytes": {"huizhi": sizes["ours"], "baseline": sizes["baseline"]},
                "peak MiB of our process": max(peaks) / 2**20,
            },
        )
    ]


class _Vendor(Client):
    """A vendor whose pages are at hand: nothing is measured of a network."""

    def __init__(self, account: Account, pages: list[bytes]) -> None:
        self.account = account
        self._pages = pages

    async def pull_reports(self, limit: int) -> Reply:
        body = self._pages.pop(0) if self._pages else _page(0, 0)
        headers = {"content-type": "text/xml; charset=utf-8"}
        return Reply(call=Call.PULL_REPORTS, headers=headers, body=body)


async def _pull(
    file: Path, database: Database, folder: Path, first: int, pages: int
) -> tuple[float, int]:
    settings = settings_file.load(file, {})
    account = settings.accounts[PULLED]
    ends = range(first, first + pages * _PAGE_ROWS, _PAGE_ROWS)
    vendor = _Vendor(account.account, [_page(start, start + _PAGE_ROWS) for start in ends])
    async with database.pool() as pool:
        caller = Caller(
            pool=pool,
            accounts=settings.accounts,
            settings=account,
            client=vendor,
            recorder="benchmark",
        )
        async with lease.held(pool, "benchmark", holder="benchmark") as held:
            if held is None:
                raise CannotRun("another process pulls")
            started = time.perf_counter()
            done: Done = await pull.pull(caller, Call.PULL_REPORTS, held, folder / "pulled")
            seconds = time.perf_counter() - started
    if done.failures:
        raise CannotRun(f"pulling failed: {done.failures[0]}")
    return seconds, done.rows


def _page(first: int, end: int) -> bytes:
    boxes = "".join(
        _BOX.format(phone=13_800_000_000 + number % 10**8, task=10**12 + number // 100)
        for number in range(first, end)
    )
    return f'<?xml version="1.0" encoding="utf-8" ?>\n<returnsms>\n{boxes}</returnsms>'.encode()
