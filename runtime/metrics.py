"""What the processes count, for Prometheus; the names are documented in docs/metrics.md.

Several workers count together through files in a folder (prometheus_client's multiprocess mode),
which the environment names before the first metric is made.
"""

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

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


def exposition(folder: str | None) -> bytes:
    """Return all metrics in Prometheus' text format, of all processes sharing `folder` if given."""
    if folder is None:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


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
