"""Rules and dashboard: every metric, label and word in them is one that the code has."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from reconciler.alarms import KINDS
from runtime import metrics

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
DASHBOARD = json.loads((ROOT / "deploy/grafana/huizhi.json").read_text("utf-8"))
RUNBOOK = ROOT / "docs/runbook.md"
# What Prometheus itself adds to every series.
OF_THE_TARGET = {"instance", "job"}


def _read(name: str) -> Any:
    return yaml.safe_load((PROMETHEUS / name).read_text("utf-8"))


def _rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in _read(name)["groups"] for rule in group["rules"]]


ALERTS = _rules("alerts.yml")
RECORDED = _rules("recording.yml")


def _made() -> dict[str, set[str]]:
    """Every series that the code makes, with its labels."""
    made: dict[str, set[str]] = {"up": set()}
    for metric in vars(metrics).values():
        if not isinstance(metric, Counter | Gauge | Histogram):
            continue
        name, labels = metric._name, set(metric._labelnames)
        if isinstance(metric, Histogram):
            made |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels}
            made[f"{name}_count"] = labels
        else:
            made[f"{name}_total" if isinstance(metric, Counter) else name] = labels
    for family in metrics._Disk(ROOT).collect():
        made[family.name] = set()
    return made


def _children(expression: Any) -> Iterator[Any]:
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (child := getattr(expression, name, None)) is not None:
            yield child
    yield from getattr(expression, "args", ())


def _selectors(expression: Any) -> Iterator[Any]:
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for child in _children(expression):
        yield from _selectors(child)


def _groupings(expression: Any) -> Iterator[tuple[Any, list[str]]]:
    """Every part that groups or matches by labels, with these."""
    if isinstance(expression, promql_parser.AggregateExpr) and expression.modifier:
        yield expression, expression.modifier.labels
    if isinstance(expression, promql_parser.BinaryExpr) and expression.modifier:
        matching = expression.modifier.matching
        if matching is not None:
            yield expression, matching.labels
    for child in _children(expression):
        yield from _groupings(child)


def _labels_recorded() -> dict[str, set[str]]:
    known = _made()
    for rule in RECORDED:
        labels: set[str] = set()
        prefix = rule["record"].split(":")[0]
        if not prefix.startswith("huizhi_"):
            names = "|".join(sorted({label for of in known.values() for label in of}))
            labels = set(re.findall(rf"(?:^|_)({names})(?=_|$)", prefix))
        grouped = {label for _, by in _groupings(promql_parser.parse(rule["expr"])) for label in by}
        assert labels <= grouped | {"le"}, rule["record"]
        known[rule["record"]] = labels
    return known


KNOWN = _labels_recorded()


def _on_the_dashboard() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$account", "think-main")


EXPRESSIONS = [
    *(rule["expr"] for rule in RECORDED),
    *(rule["expr"] for rule in ALERTS),
    *_on_the_dashboard(),
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expression_asks_for_what_the_code_counts_by_labels_that_it_has(text: str) -> None:
    expression = promql_parser.parse(text)
    selectors = list(_selectors(expression))
    assert selectors
    for selector in selectors:
        assert selector.name in KNOWN, selector.name
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= KNOWN[selector.name] | OF_THE_TARGET, selector.name
    for part, labels in _groupings(expression):
        for selector in _selectors(part):
            assert set(labels) <= KNOWN[selector.name] | OF_THE_TARGET, (selector.name, labels)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_words_that_an_expression_looks_for_are_words_that_are_counted(text: str) -> None:
    document = (ROOT / "docs/metrics.md").read_text("utf-8")
    counted = {*re.findall(r"`([^`\n]+)`", document), *KINDS, "receiver", "reconciler"}
    targets = {config["job_name"] for config in _read("prometheus.yml")["scrape_configs"]}
    for selector in _selectors(promql_parser.parse(text)):
        for matcher in selector.matchers.matchers:
            words = {word for word in matcher.value.split("|") if word}
            if matcher.name == "job" and selector.name == "up":
                assert words <= targets
            elif matcher.name != "account":
                assert words <= counted, words


def test_the_guards_above_find_what_is_wrong() -> None:
    for wrong in (
        "rate(huizhi_callback_total[5m])",
        'huizhi_balance{acount="x"}',
        "sum by (call) (rate(huizhi_callbacks_total[5m]))",
        "sum by (what) (account:huizhi_callbacks_acknowledged:rate5m)",
    ):
        with pytest.raises(AssertionError):
            test_expression_asks_for_what_the_code_counts_by_labels_that_it_has(wrong)
    with pytest.raises(AssertionError):
        test_words_that_an_expression_looks_for_are_words_that_are_counted(
            'huizhi_callbacks_total{outcome="refused_"}'
        )


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    told = alert["annotations"]
    assert set(told) == {"summary", "description", "runbook_url"}
    assert len(told["summary"]) <= 80
    assert told["description"].endswith(".")
    place, _, anchor = told["runbook_url"].partition("#")
    assert place == "docs/runbook.md"
    assert re.fullmatch(r"[a-z]+(-[a-z\d]+)+", anchor)
    # A word in its text that is a label is one that its series keep.
    labels = {label for of in KNOWN.values() for label in of} | OF_THE_TARGET
    used = set(re.findall(r"\$labels\.(\w+)", told["summary"] + told["description"]))
    assert used <= labels
    by = {label for _, kept in _groupings(promql_parser.parse(alert["expr"])) for label in kept}
    for selector in _selectors(promql_parser.parse(alert["expr"])):
        if ":" in selector.name:
            by |= KNOWN[selector.name]
        if selector.name == "up":
            by |= OF_THE_TARGET
    assert used <= by


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_the_runbook_has_a_part_for_every_alert(alert: dict[str, Any]) -> None:
    headings = re.findall(r"^#+ (.+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", one.lower()).strip().replace(" ", "-") for one in headings}
    assert alert["annotations"]["runbook_url"].partition("#")[2] in slugs


def test_alerts_and_rules_are_documented_and_no_other() -> None:
    text = (ROOT / "docs/monitoring.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(Huizhi\w+)` \| (\w+) \|", text, re.MULTILINE))
    assert rows == {alert["alert"]: alert["labels"]["severity"] for alert in ALERTS}
    part = text.split("\n## Recording rules\n", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"`([^`]+)`", "\n".join(re.findall(r"^\| `.*?\|", part, re.MULTILINE)))
    assert sorted(named) == sorted(rule["record"] for rule in RECORDED)
    files = set(re.findall(r"`(deploy/[^`]+)`", text))
    kept = {
        path
        for folder in ("prometheus", "grafana")
        for path in (ROOT / "deploy" / folder).iterdir()
    }
    assert files == {str(path.relative_to(ROOT)) for path in kept}


def test_every_counter_that_an_alert_watches_begins_at_zero() -> None:
    """The first one would be no increase: a series that begins at 1 has not grown."""
    metrics.begin_receiver(["sms"])
    metrics.begin_reconciler(["sms"], ["sweep:sms"])
    shown = metrics.exposition(None).decode()
    for alert in ALERTS:
        for name in re.findall(r"increase\((huizhi_\w+)", alert["expr"]):
            assert re.search(rf"^{name}(\{{.*\}})? ", shown, re.MULTILINE), name


def test_our_labels_are_kept() -> None:
    for config in _read("prometheus.yml")["scrape_configs"]:
        assert config["honor_labels"] is True
        assert config.get("metrics_path", "/metrics") == "/metrics"


def test_the_dashboard_holds_together() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([panel.get("targets") for panel in panels])))
    assert used <= variables


def test_the_dashboard_shows_every_metric_or_what_is_made_of_it() -> None:
    shown = " ".join(_on_the_dashboard())
    made = {rule["record"]: rule["expr"] for rule in RECORDED}
    for record, expression in made.items():
        if record in shown:
            shown += expression
    # A second step: rules that are made of rules.
    for record, expression in made.items():
        if record in shown:
            shown += expression
    # One of a histogram's three series will do.
    names = {re.sub("_(bucket|sum|count)$", "", name) for name in _made()} - {"up"}
    assert {name for name in names if name not in shown} == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus' own checker is not here")
def test_prometheus_itself_takes_the_rules_and_alerts_fire_as_they_should(tmp_path: Path) -> None:
    for name in ("recording.yml", "alerts.yml"):
        shutil.copy(PROMETHEUS / name, tmp_path)
    shutil.copy(Path(__file__).with_name("alerts.test.yml"), tmp_path)
    for command in (
        ["check", "rules", "recording.yml", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
    ):
        ran = subprocess.run(
            ["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
