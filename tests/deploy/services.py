"""`huizhi` as it is deployed: processes of their own, settings in a file, signals."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
HUIZHI = [sys.executable, "-m", "huizhi"]
TOKEN = "a-token-of-the-api"
AUTHORIZATION = {"authorization": f"Bearer {TOKEN}"}


class Process:
    """A running `huizhi COMMAND`; `places` are the addresses that it printed, by their names."""

    def __init__(
        self, command: str, file: Path, *, dsn: str | None = None, places: int, **more: str
    ) -> None:
        self.file = file
        self.environment = {
            name: os.environ[name] for name in ("PATH", "HUIZHI_POSTGRES_BIN") if name in os.environ
        } | {"PYTHONPATH": str(ROOT), **more}
        if dsn is not None:
            self.environment["DATABASE_URL"] = dsn
        self.log = file.with_name(f"{command}-{time.monotonic_ns()}.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*HUIZHI, "--config", str(file), command],
                cwd=file.parent, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.places: dict[str, str] = {}
        assert self.process.stdout is not None
        for _ in range(places):
            line = self.process.stdout.readline()
            found = re.match(r"(\w+) +(http://127\.0\.0\.1:\d+)/", line)
            assert found, f"{line}\n{self.log.read_text()}"
            self.places[found[1]] = found[2]

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run another `huizhi` with the same settings and environment."""
        return subprocess.run(
            [*HUIZHI, "--config", str(self.file), *arguments],
            cwd=self.file.parent, env=self.environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    def stop(self) -> None:
        """Stop it as systemd and container engines do, and wait for its end."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(100) == 0, self.log.read_text()
        self._close()

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()


def until(true: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Wait until `true` says something true, and return that; what cannot be reached is no answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if said := true():
                return said
        except (httpx.TransportError, OSError):
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)
