"""What the processes count, for Prometheus; the names are documented in docs/metrics.md.

Several workers count together through files in a folder (prometheus_client's multiprocess mode),
which the environment names before the first metric is made.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from runtime import Problem

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

CALLBACKS = Counter(
    "huizhi_callbacks_total",
    "Callbacks by what became of them",
    # recorded, duplicate, spooled, forged, foreign, too_large, limited, unavailable
    ["account", "outcome"],
)
DROPPED = Counter(
    "huizhi_connections_dropped_total",
    "Connections that were ended before a request was whole, or its answer read",
    ["server", "reason"],  # receiver, api; malformed, head, slow, unread, crowded
)
BATCH_RECORDS = Histogram(
    "huizhi_batch_records",
    "Records per commit",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
COMMIT_SECONDS = Histogram(
    "huizhi_commit_seconds",
    "From the arrival of a callback's last byte to its commit",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
BACKLOG_BYTES = Gauge(
    "huizhi_backlog_bytes",
    "Callbacks waiting for their commit",
    multiprocess_mode="livesum",
)
# Of the spool each process counts the whole, so that the last word is as good as any.
SPOOL_RECORDS = Gauge(
    "huizhi_spool_records",
    "Callbacks in the spool",
    multiprocess_mode="livemostrecent",
)
SPOOL_BYTES = Gauge(
    "huizhi_spool_bytes",
    "Bytes in the spool",
    multiprocess_mode="livemostrecent",
)
SPOOL_OLDEST_SECONDS = Gauge(
    "huizhi_spool_oldest_seconds",
    "How long ago the oldest segment of the spool was begun",
    multiprocess_mode="livemostrecent",
)
DATABASE_AWAY = Gauge(
    "huizhi_database_away",
    "Whether the database could not be used when it was last tried",
    ["process"],  # receiver, reconciler
    multiprocess_mode="livemax",
)
SPOOLED = Counter("huizhi_spooled_total", "Callbacks written to the spool")
SPOOL_DRAINED = Counter(
    "huizhi_spool_drained_total", "Callbacks of the spool committed to the database"
)
SPOOL_SET_ASIDE = Counter(
    "huizhi_spool_set_aside_total", "Pieces of the spool that went into files for people"
)
SETTLED = Counter(
    "huizhi_settled_total",
    "What settling made of records",
    ["what"],  # reports, inbound, reviews, balances, quarantined, messages
)
SUSPECT_REPORTS = Counter(
    "huizhi_suspect_reports_total",
    "Pushed reports that could not be trusted as they were",
    ["account", "reason"],  # see runtime.trust.REASONS
)
SUSPECTS_WAITING = Gauge(
    "huizhi_suspects_waiting",
    "Pushed reports that wait to be confirmed",
    ["account"],
    multiprocess_mode="mostrecent",
)
ALARM = Gauge(
    "huizhi_alarm",
    "Whether an alarm stands",
    ["account", "kind"],
    multiprocess_mode="mostrecent",
)
QUARANTINED = Gauge(
    "huizhi_quarantined",
    "Records that were not understood, or not wholly",
    ["account"],
    multiprocess_mode="mostrecent",
)
ALERTS = Counter(
    "huizhi_alerts_total",
    "Messages to people about alarms, by what became of them",
    ["channel", "outcome"],  # sent, failed
)
DRIFT = Counter(
    "huizhi_drift_total",
    "What was new in vendors' documents",
    ["account", "what"],  # field, type, code
)
VENDOR_CALLS = Counter(
    "huizhi_vendor_calls_total",
    "Calls to vendors by outcome",
    ["account", "call", "outcome"],  # ok, unavailable, indeterminate, refused, garbled
)
JOB_RUNS = Counter(
    "huizhi_job_runs_total", "Runs of jobs by outcome", ["job", "account", "outcome"]
)
# Read from the database when they are shown: whichever process ran the job, or left a batch behind.
JOB_ENDED = Gauge(
    "huizhi_job_ended_timestamp_seconds",
    "When a job last ended, well or not, in seconds since 1970",
    ["job", "account"],
    multiprocess_mode="mostrecent",
)
JOB_EVERY_SECONDS = Gauge(
    "huizhi_job_every_seconds",
    "How often a job is to run",
    ["job", "account"],
    multiprocess_mode="mostrecent",
)
JOB_FAILURES_IN_ROW = Gauge(
    "huizhi_job_failures_in_row",
    "How often a job failed since it last went well",
    ["job", "account"],
    multiprocess_mode="mostrecent",
)
SETTLEMENT_BEHIND_SECONDS = Gauge(
    "huizhi_settlement_behind_seconds",
    "For how long the oldest of what is recorded and not settled has waited",
    multiprocess_mode="mostrecent",
)
LEASES_LOST = Counter(
    "huizhi_leases_lost_total", "Leases that ended under the process that held them", ["lease"]
)
ANSWERS_FAILED = Counter(
    "huizhi_answers_failed_total",
    "Answers of the API and the dashboard that say that it is we who failed",
    ["status"],  # 500, 503
)
PULLED_ROWS = Counter(
    "huizhi_pulled_rows_total", "Rows that read-once pulls handed out", ["account"]
)
LOST_PAGES = Counter(
    "huizhi_lost_pages_total", "Read-once pages that may have been lost on the way", ["account"]
)
BALANCE = Gauge(
    "huizhi_balance",
    "What an account had left when its vendor last said so",
    ["account", "kind"],
    multiprocess_mode="mostrecent",
)
CHAIN_HEIGHT = Gauge(
    "huizhi_chain_height",
    "Links of the chain over everything recorded",
    multiprocess_mode="mostrecent",
)
CHAIN_BEHIND_SECONDS = Gauge(
    "huizhi_chain_behind_seconds",
    "For how long the oldest of what is not linked yet has waited",
    multiprocess_mode="mostrecent",
)

PURGED = Counter(
    "huizhi_purged_total",
    "What was purged under retention",
    ["account", "what"],  # bodies, texts, numbers
)
HELD = Gauge(
    "huizhi_retention_held",
    "What is old enough to be purged and held back",
    ["account", "why"],  # unclosed (days), disputed (rows)
    multiprocess_mode="mostrecent",
)


def begin_receiver(accounts: Iterable[str]) -> None:
    """Show what alerts watch from 0 on: the first one of something would else be no increase."""
    for account in accounts:
        for outcome in ("unavailable", "limited"):
            CALLBACKS.labels(account, outcome)
    DATABASE_AWAY.labels("receiver")
    SETTLED.labels("quarantined")


def begin_reconciler(accounts: Iterable[str], leases: Iterable[str]) -> None:
    """Do so for what a reconciler counts; `leases` are the names of those that it may hold."""
    for account in accounts:
        LOST_PAGES.labels(account)
        for what in ("field", "type", "code"):
            DRIFT.labels(account, what)
    for lease in leases:
        LEASES_LOST.labels(lease)
    for status in ("500", "503"):
        ANSWERS_FAILED.labels(status)
    SETTLED.labels("quarantined")


class _Disk(Collector):
    """The file system that a folder is on, looked at when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[GaugeMetricFamily]:
        disk = shutil.disk_usage(self._folder)
        yield GaugeMetricFamily(
            "huizhi_disk_bytes", "Size of the file system of data_dir", value=disk.total
        )
        yield GaugeMetricFamily(
            "huizhi_disk_free_bytes", "What is free for us on it", value=disk.free
        )


def _registry(folder: str | None) -> CollectorRegistry:
    if folder is None:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    registry.register(_Disk(Path(folder)))
    return registry


def exposition(folder: str | None) -> bytes:
    """Return all metrics in Prometheus' text format, of all processes sharing `folder` if given.

    Then with the file system that it is on.
    """
    return generate_latest(_registry(folder))


@contextlib.contextmanager
def served(folder: str, host: str, port: int) -> Iterator[int]:
    """Show what `exposition` returns to everybody at `host`, whatever the path; yield the port.

    Raises `Problem` where nobody can listen.
    """
    try:
        server, thread = start_http_server(port, host, _registry(folder))
    except OSError as error:
        raise Problem(f"receiver.metrics_port {port} at {host}: {error.strerror}") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def value_of(name: str, folder: str | None) -> float | None:
    """Return the value of a metric without labels, of all processes sharing `folder` if given."""
    if folder is None:
        return REGISTRY.get_sample_value(name)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    return registry.get_sample_value(name)


def forget(pid: int, folder: str | None) -> None:
    """Leave out of `exposition` what a process had waiting that is no more; its counts stay."""
    if folder is not None:
        mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]


def clean_folder(folder: Path) -> None:
    """Make `folder`, and drop what processes that have ended left in it: others may count there."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.db"):
        process = left.stem.rpartition("_")[2]
        if not (process.isdigit() and _is_alive(int(process))):
            left.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
