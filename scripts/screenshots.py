"""Make the pictures of the documents anew: `make demo KEEP=1` in another terminal, then `make screenshots`.

Looks at the demo's dashboard with a real browser, and writes docs/pictures/.
"""

import os
import shutil
import sys
import tomllib
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
)
LANGUAGES = {"en": "en-US", "zh": "zh-CN"}


def main(folder: Path) -> int:
    """Take every picture in both languages; return the exit code."""
    try:
        settings = tomllib.loads((folder / "huizhi.toml").read_text("utf-8"))
    except OSError:
        print(f"{folder} is no demo's folder: `make demo KEEP=1` makes one", file=sys.stderr)
        return 2
    month = next(folder.glob("think-main-????-??.csv")).stem.removeprefix("think-main-")
    browser_path = os.environ.get("HUIZHI_CHROMIUM") or shutil.which("chromium")
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=[*FLAGS])
        for language, locale in LANGUAGES.items():
            page = browser.new_page(
                base_url=f"http://127.0.0.1:{settings['reconciler']['port']}",
                viewport={"width": 1280, "height": 800},
                locale=locale,
                color_scheme="light",
            )
            page.goto("/login")
            page.fill("#name", "Li Wei" if language == "en" else "李薇")
            page.fill("#token", settings["reconciler"]["api_token"])
            page.click("button.primary")
            page.wait_for_selector("nav")
            _take(page, f"/?day={month}-15", f"overview.{language}")
            _take(page, f"/reconciliation/think-main/{month}", f"reconciliation.{language}")
            page.goto(f"/discrepancies?account=think-main&period={month}&kind=segments_differ")
            message = page.locator("tbody td:nth-child(5) a").first.get_attribute("href")
            assert message is not None
            _take(page, message, f"message.{language}")
            page.close()
        browser.close()
    return 0


def _take(page: Page, path: str, name: str) -> None:
    page.goto(path)
    for plot in page.locator("[data-chart]").all():
        plot.scroll_into_view_if_needed()
    page.wait_for_function(
        "[...document.querySelectorAll('[data-chart]')].every((plot) => plot.dataset.drawn)"
    )
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=PICTURES / f"{name}.png")
    print(f"docs/pictures/{name}.png")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-data")))
