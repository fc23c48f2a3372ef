"""What the figures were measured on, and what its processes used; parts of it on Linux only."""

import os
import platform
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_FLUSHES = 200


def describe(folder: Path, postgres: str) -> dict[str, Any]:
    """Describe this machine; `folder` is where the database lived."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "postgresql": postgres,
        "flush_milliseconds": round(flush_seconds(folder) * 1000, 3),
        "load_before": round(os.getloadavg()[0], 2),
    }


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def flush_seconds(folder: Path) -> float:
    """Return what it takes to make 8 kB durable in `folder`: what a commit waits for at least."""
    file = folder / "flush"
    handle = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        started = time.perf_counter()
        for number in range(_FLUSHES):
            os.pwrite(handle, bytes(8192), number * 8192)
            os.fsync(handle)
        return (time.perf_counter() - started) / _FLUSHES
    finally:
        os.close(handle)
        file.unlink()


def peak_bytes(process: int | str = "self") -> int:
    """Return the most memory that a process has held; 0 where the system does not say.

    From the kernel's own word on this program: `getrusage` also counts what was before its exec.
    """
    return _status(process, "VmHWM:")


def held_bytes(process: int) -> int:
    """Return the memory that a process holds now; 0 where the system does not say."""
    return _status(process, "VmRSS:")


def _status(process: int | str, what: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text("ascii").splitlines():
            if line.startswith(what):
                return int(line.split()[1]) * 1024
    return 0


def processor_seconds(process: int) -> float:
    """Return the processor time that a process and all below it have used, dead ones too."""
    used = 0.0
    for one in (process, *below(process)):
        with suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            used += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return used


def ended_processor_seconds() -> float:
    """Return the processor time of the processes that this one started and saw end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def below(process: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                found += [child, *below(child)]
    return found


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
