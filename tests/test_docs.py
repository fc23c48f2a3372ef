"""The documents' examples, run: what they say happens is what happens."""

import csv
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateways.gateway import Callback
from reconciler import alarms, ledger, match, periods, statements
from reconciler.dashboard.words import WORDS
from reconciler.ledger import Sent
from runtime import records, settlement
from runtime.database import Database
from runtime.settings import Settings, SettingsError, load

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NOW = datetime(2026, 11, 10, tzinfo=UTC)


def _fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# --- the worked example of reconciliation.md ---------------------------------------------------------


def _example_rows() -> list[dict[str, str]]:
    """The table of the worked example, as it stands in the document."""
    text = (ROOT / "docs/reconciliation.md").read_text("utf-8")
    table = text.split("## A worked example", 1)[1].split("\n\n")[2]
    head, _, *lines = table.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *lines)]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


def _written_settings(folder: Path) -> Settings:
    (folder / "huizhi.toml").write_text(
        """
        [accounts.think-main]
        gateway = "thinkapi"
        credentials = { app_code = "none" }

        [[accounts.think-main.tariffs]]
        from = 2026-01-01
        price = "0.04"
        currency = "CNY"
        basis = "delivered"
        """,
        "utf-8",
    )
    return load(folder / "huizhi.toml", {})


def _pushed(name: str, phone: str, status: int, at: str) -> Callback:
    report = {"id": name, "phone": phone, "status": status, "message": "", "receiveDate": at}
    body = json.dumps({"action": "report", "sms": report}).encode()
    return Callback(method="POST", query=b"", headers={"x-thinkphp-event": "sms"}, body=body)


@pytest.mark.anyio
async def test_worked_example_is_what_reconciling_it_gives(
    database: Database, tmp_path: Path
) -> None:
    settings = _written_settings(tmp_path)
    account = settings.accounts["think-main"]
    sent: list[Sent | ledger.Rejected] = []
    pushes: list[Callback] = []
    bill = [("任务ID", "手机号", "计费条数", "金额")]
    for number, row in enumerate(_example_rows()):
        name, phone = f"example-{row['message']}", f"138000000{number:02}"
        if row["sent"] != "never registered":
            day = {"October": "2026-10-05", "September": "2026-09-30"}[row["sent"]]
            sent.append(
                Sent(
                    account="think-main",
                    vendor_message_id=name,
                    phone=phone,
                    sent_at=datetime.fromisoformat(f"{day}T12:00:00+08:00"),
                    segments=int(row["segments"]),
                )
            )
            times = iter((f"{day} 12:00:05", f"{day} 12:00:09"))
            for word in re.findall(r"delivered|failed", row["state"]):
                status = {"delivered": 1, "failed": -1}[word]
                pushes.append(_pushed(name, phone, status, next(times)))
        for segments, amount in re.findall(r"(\d+), (\d+\.\d+)", row["line: segments, amount"]):
            bill.append((name, phone, segments, amount))
    with (tmp_path / "october.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(bill)

    async with database.pool() as pool:
        registered = await ledger.register(pool, settings.accounts, sent, now=NOW)
        assert registered.recorded == len(sent)
        found = [
            records.of_callback("think-main", push, received_at=NOW, peer="192.0.2.1")
            for push in pushes
        ]
        async with pool.acquire() as connection:
            batch, fresh = await records.store(connection, found, recorder="docs", now=NOW)
        await settlement.settle(pool, settings.accounts, fresh, batches=[batch], now=NOW)
    async with database.connection() as connection:
        await statements.import_file(
            connection,
            account,
            periods.parse("2026-10"),
            tmp_path / "october.csv",
            file_name="october.csv",
            format_name="generic",
            layout=statements.GENERIC_LAYOUT,
            now=NOW,
        )
        result = await match.reconcile(connection, account, periods.parse("2026-10"), now=NOW)

    result["id"] = "…"
    text = (ROOT / "docs/reconciliation.md").read_text("utf-8")
    printed = text.split("<!-- example:begin -->")[1].split("<!-- example:end -->")[0]
    assert json.loads(_fenced(printed, "json")[0]) == result, json.dumps(result, indent=1)
    _agrees_with_the_table(result)


def _agrees_with_the_table(result: dict[str, Any]) -> None:
    kinds = [re.findall(r"`(\w+)`", row["found"]) for row in _example_rows()]
    named = [kind for found in kinds for kind in found]
    assert set(named) == set(match.KINDS), "the example shows every kind"
    counts = {kind: found["count"] for kind, found in result["discrepancies"].items()}
    assert counts == {kind: named.count(kind) for kind in match.KINDS}
    amounts = [Decimal(found["amount"]) for found in result["discrepancies"].values()]
    assert sum(amounts) == Decimal(result["difference"]["amount"])
    owed = [Decimal(row["owed"]) for row in _example_rows() if row["owed"]]
    assert sum(owed) == Decimal(result["owed"]["amount"])
    text = (ROOT / "docs/reconciliation.md").read_text("utf-8")
    sentence = (
        f"Owed {result['owed']['amount']}, billed {result['billed']['amount']}, "
        f"difference {result['difference']['amount']} = "
    )
    summands = text.split(sentence, 1)[1].split(".\n", 1)[0].replace("− ", "+ -").split("+")
    assert sum(Decimal(part.replace(" ", "")) for part in summands) == sum(amounts)


# --- settings.md -------------------------------------------------------------------------------------


def test_whole_example_of_settings_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs/settings.md").read_text("utf-8")
    (tmp_path / "huizhi.toml").write_text(_fenced(text, "toml")[0], "utf-8")
    (tmp_path / "thinksms-password").write_text("none\n", "utf-8")
    names = re.findall(r'env = "(\w+)"', text)
    settings = load(tmp_path / "huizhi.toml", dict.fromkeys(names, "none-of-it-is-real"))
    assert set(settings.accounts) == {"think-main", "sms-main"}
    assert settings.accounts["sms-main"].account.credentials.password.reveal() == "none"


@pytest.mark.parametrize(
    ("key", "toml"),
    [
        ("receiver.port", '[receiver]\nport = "80"'),
        ("dat_dir", 'dat_dir = "./data"'),
        (
            "accounts.think-main.credentials.app_code",
            '[accounts.think-main]\ngateway = "thinkapi"\n'
            'credentials = { app_code = { env = "THINK_APP_CODE" } }',
        ),
        (
            "accounts.think-main.tariffs[0].price",
            '[accounts.think-main]\ngateway = "thinkapi"\ncredentials = { app_code = "none" }\n'
            "[[accounts.think-main.tariffs]]\nfrom = 2026-01-01\nprice = 0.035",
        ),
    ],
)
def test_errors_in_settings_read_as_documented(
    key: str, toml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("huizhi.toml").write_text(toml, "utf-8")
    lines = _fenced((ROOT / "docs/settings.md").read_text("utf-8"), "text")[0].splitlines()
    documented = [line for line in lines if f" {key}: " in line]
    with pytest.raises(SettingsError) as caught:
        load(None, {})
    assert [f"huizhi: {caught.value}"] == documented


# --- README ------------------------------------------------------------------------------------------


def test_readme_settings_for_containers_are_toml() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert tomllib.loads(_fenced(text, "toml")[0])["data_dir"] == "/data"


@pytest.mark.parametrize(
    "document", ["README.md", "README.zh-CN.md", "docs/api.md", "docs/api.zh-CN.md"]
)
def test_registered_message_in_the_documents_is_accepted(document: str, tmp_path: Path) -> None:
    text = (ROOT / document).read_text("utf-8")
    settings = _written_settings(tmp_path)
    rows = re.search(r"/v1/sent .*?-d '(\[.*?\])'", text, re.DOTALL)
    assert rows is not None
    for row in json.loads(rows[1]):
        ledger.convert(row, settings.accounts, NOW)


def test_quick_start_writes_settings_that_check(tmp_path: Path) -> None:
    blocks = _fenced((ROOT / "README.md").read_text("utf-8"), "sh")
    commands = [line for block in blocks for line in block.splitlines()]
    init = next(line for line in commands if " init " in line)
    variable = next(line for line in commands if line.startswith("export ") and "APP_CODE" in line)
    name = variable.removeprefix("export ").partition("=")[0]
    for line in (init, next(line for line in commands if "check-config" in line)):
        arguments = line.split()[1:]
        ran = subprocess.run(
            [sys.executable, "-m", "huizhi", *arguments],
            cwd=tmp_path,
            env={**os.environ, name: "none", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
    assert name in (tmp_path / "huizhi.toml").read_text("utf-8")


# --- both languages -----------------------------------------------------------------------------------


# The audit's pages are written by tests/test_audit_docs.py, which compares them too.
CHINESE = sorted(set((ROOT / "docs").rglob("*.zh-CN.md")) - {ROOT / "docs/audit.zh-CN.md"})


def _english(chinese: Path) -> Path:
    return chinese.with_name(chinese.name.replace(".zh-CN", ""))


@pytest.mark.parametrize("chinese", CHINESE, ids=lambda path: path.name)
def test_chinese_page_has_the_parts_of_the_english_one(chinese: Path) -> None:
    texts = [path.read_text("utf-8") for path in (_english(chinese), chinese)]
    # Headings and blocks (word for word) in their order; rows, points, steps.
    for pattern in (r"^#+ |^```.*?^```", r"^\|", r"^- ", r"^\d\. "):
        english, translated = (re.findall(pattern, text, re.M | re.S) for text in texts)
        assert english == translated, pattern
    prose = [re.sub(r"^```.*?^```", "", text, flags=re.M | re.S) for text in texts]
    english, translated = (set(re.findall(r"`([^`\n]+)`", text)) for text in prose)
    assert english == translated
    for page, other in ((texts[0], chinese), (texts[1], _english(chinese))):
        assert f"]({other.name})" in page.split("\n## ")[0], "each page links the other"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_tutorial_calls_things_in_the_dashboard_by_their_names(language: str) -> None:
    name = {"en": "tutorial.md", "zh": "tutorial.zh-CN.md"}[language]
    section = (ROOT / "docs" / name).read_text("utf-8").split("\n## 12", 1)[1].split("\n## ")[0]
    named = set(re.findall(r"\*\*(.+?)\*\*", section))
    assert len(named) > 10
    assert named <= set(WORDS[language].values())


# --- the runbook -------------------------------------------------------------------------------------


RUNBOOKS = {
    "runbook.md": ("**You see.**", "**It means.**", "**Do.**", "**Over when**"),
    "runbook.zh-CN.md": ("**现象。**", "**含义。**", "**处理。**", "**结束。**"),
}


def _symptoms(name: str) -> dict[str, str]:
    """The sections of a runbook after its table, by anchor."""
    text = (ROOT / "docs" / name).read_text("utf-8")
    parts = re.split(r'(?:^<a id="([\w-]+)"></a>\n\n)?^## (.+)$', text, flags=re.M)[4:]
    return {
        anchor or next(iter(_slugs(f"## {heading}"))): body
        for anchor, heading, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


@pytest.mark.parametrize("name", RUNBOOKS)
def test_every_symptom_says_what_it_is_what_to_do_and_when_it_is_over(name: str) -> None:
    for anchor, body in _symptoms(name).items():
        places = [body.find(part) for part in RUNBOOKS[name]]
        assert -1 not in places, anchor
        assert places == sorted(places), anchor


@pytest.mark.parametrize("name", RUNBOOKS)
def test_runbook_leads_to_every_symptom_in_one_click(name: str) -> None:
    table = (ROOT / "docs" / name).read_text("utf-8").split("\n## ")[1]
    assert re.findall(r"\]\(#([\w-]+)\) \|$", table, re.M) == list(_symptoms(name))
    assert list(_symptoms(name)) == list(_symptoms("runbook.md")), "anchors are stable"


def test_what_the_runbook_names_exists() -> None:
    text = (ROOT / "docs/runbook.md").read_text("utf-8")
    spans = set(re.findall(r"`([^`\n]+)`", text))
    code = "\n".join(
        path.read_text("utf-8")
        for package in ("gateways", "runtime", "receiver", "reconciler", "huizhi", "sql")
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".sql")
    )
    events = {span for span in spans if re.fullmatch(r"[a-z]+\.[a-z_]+", span)} - {"postgres.log"}
    assert len(events) > 30
    assert {event for event in events if f'"{event}"' not in code} == set()
    # Settings, fields, states, reasons, causes, jobs: whatever is one word of ours.
    names = {span for span in spans if re.fullmatch(r"[a-z]+(_[a-z]+)*", span)}
    words = set(re.findall(r"[a-z]+(?:_[a-z]+)*", code))
    assert names - words == set()
    metrics = {span.partition("{")[0] for span in spans if span.startswith("huizhi_")}
    documented = (ROOT / "docs/metrics.md").read_text("utf-8")
    assert {metric for metric in metrics if f"| `{metric}` |" not in documented} == set()


def test_runbook_knows_every_alarm_kind_of_discrepancy_and_outcome_of_a_callback() -> None:
    sections = _symptoms("runbook.md")
    kinds = re.findall(r"^\| `(\w+)` \|", sections["a-discrepancy-of-a-kind"], re.M)
    assert tuple(kinds) == match.KINDS
    spans = set(re.findall(r"`(\w+)`", (ROOT / "docs/runbook.md").read_text("utf-8")))
    assert set(alarms.KINDS) <= spans
    table = (ROOT / "docs/metrics.md").read_text("utf-8").split("| outcome |", 1)[1]
    outcomes = set(re.findall(r"^\| `(\w+)` \|", table.split("\n\n", 1)[0], re.M))
    assert outcomes - {"unavailable"} <= spans


# --- architecture.md ---------------------------------------------------------------------------------


def test_pictures_are_what_the_script_draws() -> None:
    for path, text in _drawings()["drawings"]().items():
        assert path.read_text("utf-8") == text, "run: python scripts/drawings.py"


def test_picture_of_the_house_names_tables_that_there_are() -> None:
    made = "\n".join(path.read_text("utf-8") for path in (ROOT / "sql/migrations").glob("*.sql"))
    tables = set(re.findall(r"CREATE TABLE (\w+)", made))
    house = _drawings()["HOUSE"]
    for language in ("en", "zh"):
        named = {name for _, names in house[language]["tables"] for name in names.split(" · ")}
        assert named <= tables
        assert {name for name in named if len(name) < 4} == set()


def test_code_that_the_architecture_names_is_there() -> None:
    spans = re.findall(r"`([^`\n]+)`", (ROOT / "docs/architecture.md").read_text("utf-8"))
    paths = {span for span in spans if re.search(r"\.(?:py|sql)$", span)}
    assert len(paths) > 10
    for path in paths:
        assert list(ROOT.glob(path.replace("<vendor>", "thinkapi"))), path


def _drawings() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts/drawings.py"))


# --- links -------------------------------------------------------------------------------------------


def _slugs(text: str) -> set[str]:
    """The anchors that headings get: lower case, blanks to hyphens, marks dropped; and those set."""
    headings = re.findall(
        r"^#{1,6} (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M
    )
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    } | set(re.findall(r'^<a id="([\w-]+)"></a>$', text, re.M))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text("utf-8")):
        assert "://" not in target, f"{target}: documents stand by themselves"
        name, _, anchor = target.partition("#")
        path = document if not name else (document.parent / name).resolve()
        assert path.exists(), f"{target} is not there"
        if anchor:
            assert anchor in _slugs(path.read_text("utf-8")), f"{target}: no such heading"
