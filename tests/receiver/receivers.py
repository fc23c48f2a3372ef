"""Receivers in processes of their own, and what they run with."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[2]

SETTINGS = """
data_dir = "data"
[receiver]
max_body_bytes = 20000
{receiver}
[accounts.think]
gateway = "thinkapi"
credentials = {{ app_code = "code" }}
callback_tokens = ["think-token", "older-token"]
[accounts.sms]
gateway = "thinksms"
credentials = {{ user_id = "7", account = "me", password = "hush" }}
callback_tokens = ["sms-token"]
[accounts.fenced]
gateway = "thinkapi"
credentials = {{ app_code = "code" }}
callback_tokens = ["fenced-token"]
callback_networks = ["203.0.113.0/24", "2001:db8::/32"]
[accounts.tokenless]
gateway = "thinkapi"
credentials = {{ app_code = "code" }}
"""

# What huizhi's processes run as a child, without the parent that would start it again.
WORKER = """
import sys
from pathlib import Path
from gateways.gateway import Secret
from receiver import worker
from runtime import logs, settings
from runtime.database import Database
from runtime.sockets import bind
read = settings.load(Path(sys.argv[1]), {})
logs.configure(secrets=read.secrets)
# With the rights that it has where `huizhi` starts it.
database = Database(dsn=Secret(sys.argv[2]), name="receiver", role="huizhi_receiver")
worker.run(read, database, bind("127.0.0.1", int(sys.argv[3])))
"""


class Receiver:
    """One receiver process; others may share its port. `first` is Python that it runs before all."""

    def __init__(self, file: Path, dsn: str, port: int, first: str = "") -> None:
        self.port = port
        self.spool = file.parent / "data" / "spool"
        self.log = file.parent / f"receiver-{uuid.uuid4().hex[:8]}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", first + WORKER, str(file), dsn, str(port)],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"]},
                stdout=log,
                stderr=log,
            )

    def up(self) -> None:
        """Wait until it answers; another process must not share the port yet."""
        deadline = time.monotonic() + 30
        while True:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as the kernel would."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Ask it to end, as an operator would; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)  # what it is given where it is deployed
