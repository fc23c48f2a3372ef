"""The examples of docs/client.md, run in their order: they print what stands below them."""

import os
import re
import subprocess
import sys
from pathlib import Path

from serving import TOKEN, Api

ROOT = Path(__file__).parents[2]
ENGLISH = (ROOT / "docs/client.md").read_text("utf-8")
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_examples_print_what_stands_below_them(served: Api) -> None:
    examples = EXAMPLE.findall(ENGLISH)
    assert len(examples) == ENGLISH.count("```python") == 5
    environment = {
        **os.environ,
        "HUIZHI_URL": served.url,
        "HUIZHI_API_TOKEN": TOKEN,
        "PYTHONUTF8": "1",
    }
    for code, printed in examples:
        # The messages that the last one lists are those of the ones before.
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout == printed
