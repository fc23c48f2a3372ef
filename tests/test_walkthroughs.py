"""The tutorial, the switch from hand-written callbacks, and the API's examples, run as they stand.

One folder, one bash and one `huizhi serve` for all of them, in that order, as a reader would. What is
shown below a block of commands is what they print; an … there stands for anything.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.sockets import free_ports

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"^(<!-- again -->\n)?```sh\n(.*?)^```$(?:\n\n```(?:text|json)\n(.*?)^```$)?", re.M | re.S
)
VENDOR = """
port = 0
[thinkapi.accounts.think-main]
app_code = "the-code-from-the-console"
signs = [{ id = 78, name = "顶想云" }]
templates = [{ id = 234, name = "验证码", content = "您的验证码是${code}" }]
"""
PAGES = ["tutorial", "switching", "api"]

# Blocks of api.md are examples of the very house that the tutorial built.
pytestmark = pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("bash") is None,
    reason="the pages' commands are bash's and curl's",
)


class Reader:
    """Somebody who types what the pages say, in a folder of their own.

    What is not as on the page is all in `_typed` and `_tools`: the two ports are free ones, the vendor
    is a pretend one, and `make install` is only looked up, for the tests run in what it made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = free_ports(2)
        self._count = 0
        self._tools()
        self._vendor = self._pretend_vendor()
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "HUIZHI_POSTGRES_BIN")
        self._bash = subprocess.Popen(
            ["bash", "-s"],
            cwd=folder,
            env={name: os.environ[name] for name in kept if name in os.environ}
            | {"PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _tools(self) -> None:
        bin = self.folder / ".venv" / "bin"
        bin.mkdir(parents=True)
        for name, arguments in (("huizhi", " -m huizhi"), ("python", "")):
            (bin / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
            (bin / name).chmod(0o755)

    def _pretend_vendor(self) -> "subprocess.Popen[bytes]":
        """Start the sandbox; return when it listens, with its address in `_base_url`."""
        settings, port = self.folder / ".vendor.toml", self.folder / ".vendor-port"
        settings.write_text(VENDOR, "utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "sandbox", "--config", settings, "--port-file", port],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        until = time.monotonic() + 30
        while not port.exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        self._base_url = f"http://127.0.0.1:{port.read_text().strip()}/thinkapi"
        return process

    def _typed(self, block: str) -> str:
        block = block.replace("8080", str(self._ports[0])).replace("8081", str(self._ports[1]))
        block = block.replace("make install", f"make --dry-run -C '{ROOT}' install > /dev/null")
        return re.sub(r"^huizhi init .*$", rf"\g<0> --base-url {self._base_url}", block, flags=re.M)

    def type(self, block: str) -> str:
        """Run a block in the same bash as all before; return what it printed, as if on usual ports."""
        self._count += 1
        out, done = (self.folder / f".{kind}-{self._count}" for kind in ("out", "done"))
        assert self._bash.stdin is not None
        self._bash.stdin.write(
            f"{{\n{self._typed(block)}\n}} > '{out}' 2>&1 < /dev/null\necho $? > '{done}.part'\n"
            f"mv '{done}.part' '{done}'\n"
        )
        self._bash.stdin.flush()
        until = time.monotonic() + 90
        while not done.exists():
            assert self._bash.poll() is None, f"bash ended: {block}"
            assert time.monotonic() < until, f"takes too long: {block}\n{out.read_text('utf-8')}"
            time.sleep(0.01)
        if (self.folder / "huizhi.toml").exists():
            self._move_ports()
        assert done.read_text().strip() == "0", f"{block}\n{out.read_text('utf-8')}"
        printed = out.read_text("utf-8")
        return printed.replace(str(self._ports[0]), "8080").replace(str(self._ports[1]), "8081")

    def _move_ports(self) -> None:
        file = self.folder / "huizhi.toml"
        text = file.read_text("utf-8")
        for usual, free in zip(("8080", "8081"), self._ports, strict=True):
            text = text.replace(f"port = {usual}\n", f"port = {free}\n")
        if text != file.read_text("utf-8"):
            file.write_text(text, "utf-8")

    def leave(self) -> None:
        """End bash and all that was started in it."""
        assert self._bash.stdin is not None
        if self._bash.poll() is None:
            self._bash.stdin.write("kill $(jobs -p) 2> /dev/null\nwait\nexit 0\n")
            self._bash.stdin.close()
        try:
            self._bash.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._bash.pid, signal.SIGKILL)
            self._bash.wait()
        self._vendor.terminate()
        self._vendor.wait(30)


def _agrees(shown: str, printed: str) -> bool:
    """Tell whether what was printed is what is shown, but for blanks at the ends of lines."""
    texts = ["\n".join(line.rstrip() for line in text.splitlines()) for text in (shown, printed)]
    pattern = re.escape(texts[0].rstrip()).replace("…", "(?:.|\n)*?")
    return re.fullmatch(pattern, texts[1].rstrip()) is not None


def _follow(reader: Reader, page: str) -> None:
    """Type every block of a page, in order, and hold what it prints against what stands below it."""
    text = (DOCS / page).read_text("utf-8")
    blocks = BLOCK.findall(text)
    assert len(blocks) == len(re.findall(r"^```sh$", text, re.M)) > 0
    for again, block, shown in blocks:
        until = time.monotonic() + (60 if again else 0)
        while True:
            printed = reader.type(block)
            if not shown or _agrees(shown, printed):
                break
            assert time.monotonic() < until, f"{page}:\n{block}\nprinted:\n{printed}\nnot:\n{shown}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    somebody = Reader(tmp_path_factory.mktemp("walk"))
    yield somebody
    somebody.leave()


def test_pages_do_what_they_say(reader: Reader) -> None:
    # One test: each page goes on where the one before it ended.
    for page in PAGES:
        _follow(reader, f"{page}.md")
