"""Fetch the dashboard's JavaScript libraries again: `python scripts/vendor.py` (needs npm).

Each package is pinned by version and by the sha512 of its archive; only the files named here are kept.
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TARGET = Path(__file__).parents[1] / "reconciler" / "dashboard" / "static" / "vendor"
PACKAGES = {
    "htmx.org@2.0.6": (
        "ef2b618d89de192937c821e0b429d079aa05f83fa8ed4d8b177ed65373b4258bf781365289c74416223f022fcd2720b9"
        "66960958ca546f5d4e0b92ebe807c0a8",
        {"package/dist/htmx.min.js": "htmx.min.js", "package/LICENSE": "htmx.LICENSE"},
    ),
    "echarts@6.0.0": (
        "4ed7bf82b0d046211340fe31cf7899592be81eb90242dc2a77a86cfa689f5dc8eb0aea3688a59b6a314e6ee2c9541943"
        "20994ece040f77586c68ab7fdfe38c91",
        {
            "package/dist/echarts.common.min.js": "echarts.common.min.js",
            "package/LICENSE": "echarts.LICENSE",
            "package/NOTICE": "echarts.NOTICE",
        },
    ),
}


def main() -> int:
    """Fetch, check and unpack; return the exit code."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for package, (expected, files) in PACKAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                ["npm", "pack", "--silent", package],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            (archive,) = Path(folder).glob("*.tgz")
            if hashlib.sha512(archive.read_bytes()).hexdigest() != expected:
                print(f"{package}: the archive is not the one that was pinned", file=sys.stderr)
                return 1
            with tarfile.open(archive) as opened:
                for member, name in files.items():
                    file = opened.extractfile(member)
                    assert file is not None
                    (TARGET / name).write_bytes(file.read())
        print(f"{package}: {', '.join(files.values())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
