"""Disks that can be full: small file systems in memory where we may mount, else limits on processes."""

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterable
from pathlib import Path

_ROOM = "3g"
# Past this a write fails in the middle, as on a disk that has so little left.
_LIMIT_BYTES = 65_536
_IN_OWN_NAMESPACE = "HUIZHI_TORTURE_MOUNTS"


def enter_namespace(arguments: list[str]) -> None:
    """Start again where what we mount is seen by us alone and gone with us, if the machine lets us."""
    if os.geteuid() != 0 or os.environ.get(_IN_OWN_NAMESPACE):
        return
    with contextlib.suppress(OSError):
        tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True)
        if tried.returncode == 0:
            os.environ[_IN_OWN_NAMESPACE] = "yes"
            os.execvp("unshare", ["unshare", "--mount", *arguments])


class Disk:
    """A folder whose disk can be filled up, and made larger again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.mounted = bool(os.environ.get(_IN_OWN_NAMESPACE)) and _mount(folder, f"size={_ROOM}")

    @property
    def way(self) -> str:
        """How it is filled, in a word."""
        return "tmpfs" if self.mounted else "RLIMIT_FSIZE"

    def fill(self, processes: Iterable[int]) -> None:
        """Leave no room, for `processes` if it is no disk of its own. Raises OSError where it cannot."""
        if self.mounted:
            # Somebody may write between the two.
            while True:
                seen = os.statvfs(self.folder)
                used = (seen.f_blocks - seen.f_bfree) * seen.f_frsize
                if _mount(self.folder, f"remount,size={used}"):
                    return
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                hard = resource.prlimit(process, resource.RLIMIT_FSIZE)[1]
                resource.prlimit(process, resource.RLIMIT_FSIZE, (_LIMIT_BYTES, hard))

    def free(self, processes: Iterable[int]) -> None:
        """Give room again."""
        if self.mounted:
            _mount(self.folder, f"remount,size={_ROOM}")
            return
        for process in processes:
            with contextlib.suppress(OSError):
                hard = resource.prlimit(process, resource.RLIMIT_FSIZE)[1]
                resource.prlimit(process, resource.RLIMIT_FSIZE, (hard, hard))

    def remove(self) -> None:
        """Let go of it."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", self.folder], capture_output=True)


def _mount(folder: Path, options: str) -> bool:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"{options},mode=0755", "torture", folder],
        capture_output=True,
    )
    return done.returncode == 0
