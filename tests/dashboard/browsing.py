"""A real browser before a real dashboard: what it complains of, and what it asks of whom, is watched."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from playwright.async_api import Page, async_playwright

from gateways.gateway import Callback
from reconciler import ledger
from reconciler.api import create_app
from runtime import records, settlement
from runtime.database import Database
from runtime.records import Record
from runtime.settings import Settings, parse
from runtime.sockets import bind

TOKEN = "the-token"
NAME = "Li Wei 李薇"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NOW = datetime.now(UTC)


def settings(folder: Path) -> Settings:
    """Settings with an account of each kind of vendor that the stories need."""
    text = f"""
    data_dir = "{folder}"
    [reconciler]
    api_token = "{TOKEN}"
    [accounts.think]
    gateway = "thinkapi"
    base_url = "http://127.0.0.1:9"
    credentials = {{ app_code = "a-secret-code" }}
    callback_tokens = ["a-secret-token"]
    [[accounts.think.tariffs]]
    from = 2024-01-01
    price = "0.04"
    [accounts.sms]
    gateway = "thinksms"
    base_url = "http://127.0.0.1:9"
    credentials = {{ user_id = "7", account = "me", password = "a-secret-password" }}
    """
    return parse(text, folder / "huizhi.toml", {})


@asynccontextmanager
async def serving(database: Database, given: Settings) -> AsyncIterator[str]:
    """Yield the address of a reconciler without its jobs."""
    server = uvicorn.Server(
        uvicorn.Config(
            # With the rights that it has where `huizhi` starts it.
            create_app(given, replace(database, role="huizhi_reconciler")),
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    bound = bind("127.0.0.1", 0)
    bound.listen(64)
    served = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        await served
        bound.close()


def chromium() -> str:
    """Return where the browser is; a test without one fails and says what to install."""
    given = os.environ.get("HUIZHI_CHROMIUM")
    found = given or next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    assert found, (
        "the dashboard's tests need Chromium: `make browser` installs it on Debian and Ubuntu; "
        "another one is named by HUIZHI_CHROMIUM"
    )
    return found


@asynccontextmanager
async def browsing(
    address: str, language: str, *, width: int = 1280, scheme: Any = "light"
) -> AsyncIterator[Page]:
    """Yield a page that has nothing to complain of and asks nobody but `address`: that is asserted."""
    complaints: list[str] = []
    asked: set[str] = set()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=[*FLAGS])
        context = await browser.new_context(
            base_url=address,
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            locale={"en": "en-US", "zh": "zh-CN"}[language],
        )
        context.set_default_timeout(15_000)
        page = await context.new_page()
        await page.add_init_script(
            "addEventListener('securitypolicyviolation', (event) => "
            "console.error('policy violated', event.violatedDirective, event.blockedURI))"
        )
        page.on(
            "console",
            lambda said: (
                complaints.append(said.text) if said.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        try:
            yield page
        finally:
            await browser.close()
    assert complaints == []
    assert asked == {urlsplit(address).netloc}


async def log_in(page: Page) -> None:
    """Log in as the story's person."""
    await page.goto("/")
    await page.fill("#name", NAME)
    await page.fill("#token", TOKEN)
    await page.click("button.primary")
    await page.wait_for_selector("#main h1")


# --- what there is to see -----------------------------------------------------------------------------


async def register(pool: Any, given: Settings, rows: Sequence[dict[str, Any]]) -> None:
    """Register messages as `POST /v1/sent` does."""
    now = datetime.now(UTC)
    checked = [ledger.convert(row, given.accounts, now) for row in rows]
    done = await ledger.register(pool, given.accounts, checked, now=now)
    assert not done.rejected


def report(id: str, phone: str, status: int, at: str) -> dict[str, Any]:
    """ThinkAPI's push of a delivery report."""
    sms = {"id": id, "phone": phone, "status": status, "message": "", "receiveDate": at}
    return {"action": "report", "sms": sms}


async def push(pool: Any, given: Settings, *bodies: Any, at: datetime = NOW) -> list[Record]:
    """Record pushes to the account "think" and settle them."""
    found = []
    for body in bodies:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        callback = Callback(method="POST", query=b"", headers={}, body=content)
        found.append(records.of_callback("think", callback, received_at=at, peer="192.0.2.1"))
    async with pool.acquire() as connection:
        batch, _ = await records.store(connection, found, recorder="test", now=at)
    await settlement.settle(pool, given.accounts, found, batches=[batch], now=at)
    return found


async def october(pool: Any, given: Settings) -> None:
    """A month of ten messages: nine delivered, one failed."""
    await register(
        pool,
        given,
        [
            {
                "account": "think",
                "vendor_message_id": f"id-{number}",
                "phone": f"1380013800{number}",
                "sent_at": f"2024-10-{number + 1:02}T09:30:00+08:00",
                "sign": "顶想云",
                "content": "您的订单已发货，请注意查收。" * (6 if number == 9 else 1),
            }
            for number in range(10)
        ],
    )
    await push(
        pool,
        given,
        *(
            report(
                f"id-{number}",
                f"1380013800{number}",
                -1 if number == 7 else 1,
                f"2024-10-{number + 1:02} 09:30:10",
            )
            for number in range(10)
        ),
        at=NOW - timedelta(days=1),
    )
