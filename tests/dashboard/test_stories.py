"""The two stories that the dashboard is for, whole, in a real browser and in both languages."""

import dataclasses
import io
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from browsing import NAME, NOW, browsing, log_in, october, push, register, report, serving, settings
from databases import old_enough_to_link
from playwright.async_api import Page, expect

from gateways.events import Parsed, Status
from gateways.gateway import Account, Callback
from reconciler import alarms, match, periods, statements
from reconciler.dashboard.words import Words
from runtime.database import Database
from runtime.identity import message_id
from runtime.settings import Settings

pytestmark = pytest.mark.anyio
LANGUAGES = ("en", "zh")

# Headings that nothing is known of; id-3 twice, id-7 failed, id-8 at a wrong price, one nobody sent.
BILL = "批次,收件,用量,应收\n" + "".join(
    f"{id},{phone},{segments},{amount}\n"
    for id, phone, segments, amount in [
        *((f"id-{n}", f"1380013800{n}", 1, "0.04") for n in range(8)),
        ("id-3", "13800138003", 1, "0.04"),
        ("id-8", "13800138008", 1, "0.05"),
        ("id-9", "13800138009", 2, "0.08"),
        ("id-x", "13800138099", 1, "0.04"),
    ]
)


async def shows(page: Page, words: Words, key: str, **values: object) -> None:
    await expect(page.get_by_text(words(key, **values), exact=False).first).to_be_visible()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_finance_reconciles_a_month_without_a_terminal(
    database: Database, pool: Any, tmp_path: Path, language: str
) -> None:
    given, words = settings(tmp_path), Words(language)
    await october(pool, given)
    async with serving(database, given) as address, browsing(address, language) as page:
        await log_in(page)
        await page.click(f"nav >> text={words('nav.reconciliation')}")

        # The bill: its headings are not known, so a person says what they are.
        await page.click(f"main >> text={words('upload.title')}")
        await page.select_option("#account", "think")
        await page.fill("#period", "2024-10")
        await page.set_input_files(
            "#file", {"name": "账单.csv", "mimeType": "text/csv", "buffer": BILL.encode("gb18030")}
        )
        await page.click(f"text={words('upload.look')}")
        await shows(page, words, "preview.problems", n=1)
        for heading, field in (
            ("批次", "vendor_message_id"),
            ("收件", "phone"),
            ("用量", "segments"),
            ("应收", "amount"),
        ):
            await page.get_by_label(heading, exact=True).select_option(field)
        await page.click(f"text={words('preview.read_again')}")
        await expect(page.locator("pre")).to_contain_text("[statements.think]")
        await expect(page.locator("dl.figures")).to_contain_text("0.53")
        await page.get_by_role("button", name=words("preview.import"), exact=True).click()

        # The difference, cause by cause.
        await page.wait_for_url("**/reconciliation/think/2024-10")
        await expect(page.locator("dl.figures")).to_contain_text("+0.13")
        await page.wait_for_selector('[data-chart="waterfall"][data-drawn="yes"] canvas')
        causes = page.locator("table", has_text=words("period.adds_up"))
        await expect(causes.locator("tfoot")).to_contain_text("+0.13")
        for cause in ("double_same_amount", "failed", "price_other", "id_unknown"):
            await expect(causes).to_contain_text(words(f"cause.{cause}"))

        # One of them is assigned, commented on and disputed; the others stay.
        await page.select_option("#cases #kind", "billed_twice")
        await expect(page.locator("#cases tbody tr")).to_have_count(1)
        await page.check('#cases tbody input[name="case"]')
        await expect(page.locator("[data-counts]")).to_have_text("1")
        await page.select_option("#to_state", "disputed")
        await page.fill("#to_owner", "王芳")
        await page.fill("#note", "第二行重复，已致函厂商")
        await page.get_by_role("button", name=words("case.set"), exact=True).click()
        await shows(page, words, "case.changed", n=1)
        row = page.locator("#cases tbody tr")
        await expect(row).to_contain_text("王芳")
        await expect(row).to_contain_text(words("case.disputed"))

        # Its history, then its message: time line, bytes, and why it counts so many segments.
        await row.locator("a").first.click()
        await expect(page.locator(".line")).to_contain_text(NAME)
        await expect(page.locator(".line")).to_contain_text("已致函厂商")
        await page.click(f"text={words('case.to_message')}")
        await expect(page.locator("h1")).to_contain_text("13800138003")
        await expect(page.locator(".parts")).to_contain_text("【顶想云】")
        await page.click(f"text={words('message.raw')}")
        await expect(page.locator(".line pre").first).to_contain_text('"action": "report"')

        # Exports and the evidence package.
        await page.goto("/reconciliation/think/2024-10")
        async with page.expect_download() as begun:
            await page.click(f"text={words('period.found')} CSV")
        exported = Path(await (await begun.value).path()).read_text("utf-8-sig")
        assert exported.count("billed_twice") == 1
        await old_enough_to_link(pool)
        await page.click(f"text={words('period.evidence')}")
        async with page.expect_download() as begun:
            await page.click(f"text={words('task.fetch')}")
        package = zipfile.ZipFile(io.BytesIO(Path(await (await begun.value).path()).read_bytes()))
        assert {"verify.py", "run.json", "SHA256SUMS"} <= set(package.namelist())

        # Closing is for ever, so it is asked twice.
        await page.goto("/reconciliation/think/2024-10")
        await page.click(f"summary:has-text('{words('period.close')}')")
        await page.check('input[name="sure"]')
        await page.click(f"text={words('period.close_now')}")
        await shows(page, words, "period.closed_by", name=NAME)
        await page.goto("/reconciliation/think/2024-10")
        await page.get_by_role("button", name=words("period.run_again")).click()
        await shows(page, words, "period.adjustment_hint")
        await page.goto("/reconciliation?until=2024-12")
        await expect(page.locator("td a")).to_contain_text(words("run.closed"))
        await page.click(f"text={words('nav.log_out')}")
        await page.wait_for_url("**/login")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_who_is_on_call_finds_the_fault_in_two_clicks(
    database: Database, pool: Any, tmp_path: Path, language: str
) -> None:
    given, words = settings(tmp_path), Words(language)
    sent = NOW.astimezone(given.timezone) - timedelta(minutes=40)
    rows = [
        {
            "account": "think",
            "vendor_message_id": f"m-{number}",
            "phone": f"139001390{number:02}",
            "sent_at": sent.isoformat(),
        }
        for number in range(30)
    ]
    await register(pool, given, rows)
    at = (NOW + timedelta(hours=8)).strftime("%Y-%m-%d %H:%M:%S")
    await push(pool, given, *(report(f"m-{n}", f"139001390{n:02}", 1, at) for n in range(20)))
    (bad,) = await push(pool, given, b'{"action": "raport", "sms": {}}')
    async with pool.acquire() as connection:
        await alarms.raise_(connection, "think", "quarantine", "one waits", {}, now=NOW)
    async with serving(database, given) as address, browsing(address, language) as page:
        await log_in(page)
        await page.clock.install()
        await page.goto(f"/?day={sent.date()}")
        await page.wait_for_selector('[data-chart="hours-1"][data-drawn="yes"] canvas')
        alarm = page.locator(".alarms li", has_text=words("alarm.quarantine"))
        await expect(alarm).to_contain_text("think")

        # It is asked for again while the page stands open.
        await page.evaluate(
            "htmx.ajax('GET', '/', {target: '#alarms', select: '#alarms', swap: 'outerHTML'})"
        )
        await expect(page.locator("#alarms")).to_have_count(1)

        # The first click, and the second.
        await alarm.locator("a").click()
        await page.locator("tbody td a").first.click()
        await expect(page.locator("pre").first).to_contain_text("raport")
        await expect(page.locator(".notice")).to_contain_text("action is unknown")
        assert bad.digest.hex() in page.url
        told = page.locator("section[aria-labelledby=story] li")
        await expect(told.first).to_contain_text(words("step.received"))
        await expect(told.filter(has_text=words("step.quarantined"))).to_have_count(1)
        await page.click(f"text={words('record.hex')}")
        await expect(page.locator("pre.hex")).to_contain_text("72 61 70 6f")

        # Nothing more is understood of it today; a message can still be found by its number.
        await page.click(f"nav >> text={words('nav.callbacks')}")
        await page.click(f".head >> text={words('callbacks.quarantine')}")
        await page.click(f"text={words('replay.try')}")
        await shows(page, words, "replay.nothing")
        await page.click(f"nav >> text={words('nav.messages')}")
        await page.fill("#phone", "+86 139 0013 9005")
        await page.keyboard.press("Enter")
        await page.locator("tbody td a").first.click()
        await expect(page.locator("h1")).to_contain_text("13900139005")
        await expect(page.locator("h1")).to_contain_text(words("status.delivered"))

        # A job is run at once, by hand.
        await page.click(f"nav >> text={words('nav.jobs')}")
        await page.get_by_role("button", name="join_orphans").click()
        await expect(page.locator("tr", has_text="join_orphans")).to_contain_text(
            words("jobs.well")
        )


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
async def test_every_page_stands_on_every_screen(
    database: Database, pool: Any, tmp_path: Path, language: str, width: int, scheme: str
) -> None:
    given = settings(tmp_path)
    await october(pool, given)
    (bad,) = await push(pool, given, b'{"action": "raport", "sms": "' + b"x" * 200 + b'"}')
    pages = (
        f"/callbacks/{bad.digest.hex()}",
        f"/records/{bad.digest.hex()}",
        f"/messages/{message_id('think', 'id-9', '13800138009')}",
        "/",
        "/?day=2024-10-05",
        "/reconciliation",
        "/reconciliation/think/2024-10",
        "/discrepancies",
        "/credits",
        "/messages",
        "/callbacks",
        "/callbacks?state=quarantined",
        "/orphans",
        "/signs",
        "/signs?kind=template",
        "/inbound",
        "/audit",
        "/audit/by-day?asked=yes&period=2024-10",
        "/jobs",
        "/settings",
        "/upload",
        "/tasks/none",
    )
    async with (
        serving(database, given) as address,
        browsing(address, language, width=width, scheme=scheme) as page,
    ):
        await log_in(page)
        for path in pages:
            answer = await page.goto(path)
            assert answer is not None
            assert answer.status == 200, path
            spilt = await page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert spilt <= 0, f"{path} is {spilt} pixels too wide"
            assert await page.evaluate(_UNNAMED) == [], path
            secrets = await page.content()
            assert "a-secret" not in secrets


# What a screen reader would have no name for.
_UNNAMED = """() => [...document.querySelectorAll('input, select, textarea, button, a[href]')]
    .filter((each) => each.type !== 'hidden' && !(each.labels?.length || each.getAttribute('aria-label')
        || each.textContent.trim()))
    .map((each) => each.outerHTML)"""


async def test_a_keyboard_is_enough(database: Database, tmp_path: Path) -> None:
    given = settings(tmp_path)
    async with serving(database, given) as address, browsing(address, "en") as page:
        await page.goto("/login")
        await page.focus("#name")
        await page.keyboard.type(NAME)
        await page.keyboard.press("Tab")
        await page.keyboard.type("the-token")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("nav")
        await page.keyboard.press("Tab")
        skip = page.locator(".skip")
        await expect(skip).to_be_focused()
        await expect(skip).to_be_in_viewport()
        await page.keyboard.press("Enter")
        await expect(page.locator("#main")).to_be_focused()


def _older(given: Settings) -> Settings:
    """The same accounts, read by a parser that took a delivered message's code for a failure."""
    think = given.accounts["think"]
    today = think.gateway.parse_callback

    def parse(callback: Callback, account: Account) -> Parsed:
        parsed = today(callback, account)
        failed = [msgspec.structs.replace(event, status=Status.FAILED) for event in parsed.events]
        return msgspec.structs.replace(parsed, events=tuple(failed))

    older = msgspec.structs.replace(
        think, gateway=dataclasses.replace(think.gateway, parse_callback=parse)
    )
    return msgspec.structs.replace(given, accounts={**given.accounts, "think": older})


@pytest.mark.parametrize("language", LANGUAGES)
async def test_what_an_older_parser_misread_is_shown_before_it_is_put_right(
    database: Database, pool: Any, tmp_path: Path, language: str
) -> None:
    given, words = settings(tmp_path), Words(language)
    message = {
        "account": "think",
        "vendor_message_id": "id-1",
        "phone": "13800138000",
        "sent_at": "2024-10-05T09:30:00+08:00",
        "sign": "顶想云",
        "content": "您的订单已发货。",
    }
    await register(pool, given, [message])
    pushed = report("id-1", "13800138000", 1, "2024-10-05 09:30:10")
    (record,) = await push(pool, _older(given), pushed, at=NOW - timedelta(days=1))
    assert await pool.fetchval("SELECT status FROM messages") == "failed"

    async with serving(database, given) as address, browsing(address, language) as page:
        await log_in(page)
        await page.goto("/callbacks?state=quarantined")
        await page.click(f"text={words('replay.try')}")
        await shows(page, words, "replay.money")
        owed = page.locator("table", has_text=words("replay.owed_after")).first
        await expect(owed).to_contain_text("2024-10")
        await expect(owed).to_contain_text("+0.04 CNY")
        state = page.locator("table", has_text=words("replay.to")).first
        await expect(state).to_contain_text(words("status.failed"))
        await expect(state).to_contain_text(words("status.delivered"))
        reports = page.locator("table", has_text=words("replay.change")).first
        await expect(reports).to_contain_text(words("replay.appears"))
        await expect(reports).to_contain_text(words("replay.vanishes"))
        assert await reports.locator(f'a[href="/records/{record.digest.hex()}"]').count() == 2
        assert await pool.fetchval("SELECT status FROM messages") == "failed"

        await page.click(f"text={words('replay.do')}")
        await page.wait_for_load_state()
        assert await pool.fetchval("SELECT status FROM messages") == "delivered"
        await page.click(f"text={words('replay.try')}")
        await shows(page, words, "replay.nothing")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_finance_asks_what_if_and_sets_a_credit_note_against_what_is_disputed(
    database: Database, pool: Any, connection: Any, tmp_path: Path, language: str
) -> None:
    given, words = settings(tmp_path), Words(language)
    await october(pool, given)
    bill = tmp_path / "bill.csv"
    bill.write_text("任务ID,手机号,条数,金额\n" + BILL.partition("\n")[2], "utf-8")
    think, period = given.accounts["think"], periods.parse("2024-10")
    await statements.import_file(
        connection,
        think,
        period,
        bill,
        file_name="bill.csv",
        format_name="generic",
        layout=statements.format_layout(given, "generic", sheet=None),
        now=NOW,
    )
    await match.reconcile(connection, think, period, now=NOW)

    async with serving(database, given) as address, browsing(address, language) as page:
        await log_in(page)
        await page.goto("/reconciliation/think/2024-10")
        await page.fill("#price", "0.05")
        await page.select_option("#basis", "submitted")
        await page.get_by_role("button", name=words("assumed.try")).click()
        await expect(page.locator("h1")).to_contain_text(words("run.assumed_discrepant"))
        owed = page.locator("tr", has_text=words("col.owed")).first
        # Nine delivered messages, one of two segments, at 0.04; ten, eleven segments, at 0.05.
        await expect(owed).to_contain_text("0.4")
        await expect(owed).to_contain_text("0.55")
        await expect(owed).to_contain_text("+0.15")
        await page.click(f"text={words('period.all_found')}")
        await expect(page.locator("tbody tr").first).to_be_visible()
        assert await pool.fetchval("SELECT count(*) FROM runs WHERE NOT assumed") == 1

        # The same line billed twice is disputed, and the vendor gives it back.
        await page.goto("/discrepancies?account=think&period=2024-10&kind=billed_twice")
        await page.locator('tbody input[name="case"]').first.check()
        await page.select_option("#to_state", "disputed")
        await page.fill("#note", "by mail")
        await page.click(f"#decide >> text={words('case.set')}")
        await expect(page.locator("tbody tr").first).to_contain_text(words("case.disputed"))
        await page.click(f"nav >> text={words('nav.credits')}")
        await page.select_option("#of", "think")
        note = "贷项通知单号,任务ID,手机号,金额\nC-1,id-3,13800138003,0.04\n"
        await page.set_input_files(
            "#file", {"name": "note.csv", "mimeType": "text/csv", "buffer": note.encode()}
        )
        await page.click(f"main button >> text={words('preview.import')}")
        line = page.locator("tbody tr", has_text="C-1")
        await expect(line).to_contain_text(words("credit.settled"))
        await page.goto("/discrepancies?account=think&period=2024-10&kind=billed_twice")
        await expect(page.locator("tbody tr").first).to_contain_text(words("case.credited"))

        # A file that is wrong is refused as a whole, and says where.
        await page.goto("/credits")
        wrong = note.replace("C-1", "C-2").replace("0.04", "four")
        await page.set_input_files(
            "#file", {"name": "wrong.csv", "mimeType": "text/csv", "buffer": wrong.encode()}
        )
        await page.select_option("#of", "think")
        await page.click(f"main button >> text={words('preview.import')}")
        await expect(page.locator(".notice.bad")).to_contain_text("wrong.csv")
        assert await pool.fetchval("SELECT count(*) FROM credit_lines") == 1


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_period_is_reconciled_on_what_reports_say_that_it_cost(
    database: Database, pool: Any, tmp_path: Path, language: str
) -> None:
    given, words = settings(tmp_path), Words(language)
    await october(pool, given)
    async with serving(database, given) as address, browsing(address, language) as page:
        await log_in(page)
        await page.goto("/reconciliation/think/2024-10")
        await page.get_by_role("button", name=words("assumed.reports")).click()
        # ThinkAPI's reports say no cost: the page says so, and nothing was run.
        await expect(page.locator(".notice.bad")).to_be_visible()
    assert await pool.fetchval("SELECT count(*) FROM runs") == 0
