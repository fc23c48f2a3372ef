"""Guards over the repository itself: what documents say and what code does are held together here."""

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
import rich_click as click
from litestar import Litestar

from gateways import GATEWAYS
from gateways.gateway import Call, Client, Secret
from reconciler.api import create_app
from reconciler.assumptions import ASSUMABLE
from reconciler.causes import CAUSES
from reconciler.match import COVERAGE, KINDS
from runtime import metrics, settings
from runtime.database import Database
from runtime.queries import QUERIES, SQL
from torture.faults import FAULTS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gateways", "runtime", "receiver", "reconciler", "huizhi", "sandbox")
CODE = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"


def _text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def _in_code_spans(name: str) -> set[str]:
    """Everything that stands in backticks in a document."""
    return set(re.findall(r"`([^`\n]+)`", _text(name)))


# --- documents and code -------------------------------------------------------------------------------


def test_every_metric_is_documented_and_every_documented_metric_exists() -> None:
    made = set(re.findall(r'"(huizhi_\w+)"', (ROOT / "runtime/metrics.py").read_text("utf-8")))
    assert made
    documented = {
        re.sub(r"\{.*", "", span)
        for span in _in_code_spans("docs/metrics.md")
        if span.startswith("huizhi_")
    }
    assert documented == made


def test_every_test_that_proves_a_guarantee_exists_and_every_fault_is_described() -> None:
    spans = _in_code_spans("docs/guarantees.md")
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = {span for span in spans if span.startswith("test_")}
    assert named
    assert {name for name in named if f"def {name}(" not in tests} == set()
    table = re.findall(r"^\| (`.*?) \|", _text("docs/guarantees.md"), re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", " ".join(table))) == set(FAULTS)


def test_every_label_of_a_metric_is_documented() -> None:
    rows = dict(re.findall(r"^\| `(huizhi_\w+)` \|(.*)$", _text("docs/metrics.md"), re.MULTILINE))
    for metric in vars(metrics).values():
        if name := getattr(metric, "_name", None):
            row = rows.get(name) or rows[f"{name}_total"]
            assert set(re.findall(r"`(\w+)`", row.split("|")[1])) == set(metric._labelnames), name


def test_every_call_to_a_vendor_is_documented_as_a_label() -> None:
    line = re.search(r"^`call`: (.*)\.$", _text("docs/metrics.md"), re.MULTILINE)
    assert line is not None
    assert set(re.findall(r"`(\w+)`", line[1])) == {call.value for call in Call}


def _setting_keys() -> Iterator[tuple[str, str]]:
    """Yield the heading under which a key is documented, and the key."""
    tables = {
        "At the top": settings._File,
        "`[database]`": settings.DatabaseSettings,
        "`[receiver]`": settings.ReceiverSettings,
        "`[reconciler]`": settings.ReconcilerSettings,
        "`[retention]`": settings.RetentionSettings,
        "`[logs]`": settings.LogSettings,
        "`[telemetry]`": settings.TelemetrySettings,
        "`[alerts.NAME]`": settings.Channel,
        "`[accounts.NAME]`": settings._Account,
        "`[accounts.NAME.retention]`": settings.Retention,
        "`[[accounts.NAME.tariffs]]`": settings.Tariff,
        "`[statements.NAME]`": settings._Statement,
    }
    for heading, struct in tables.items():
        for field in msgspec.structs.fields(struct):
            top = heading == "At the top"
            if top and f"`[{field.encode_name}]`" in tables | {
                "`[accounts]`": 0,
                "`[alerts]`": 0,
                "`[statements]`": 0,
            }:
                continue
            yield heading, field.encode_name
    for field in msgspec.structs.fields(settings._Columns):
        yield "`[statements.NAME]`", f"columns.{field.encode_name}"
    for gateway in GATEWAYS.values():
        for field in msgspec.structs.fields(gateway.credentials):
            yield "`[accounts.NAME]`", f"credentials.{field.encode_name}"
        for field in msgspec.structs.fields(gateway.options):
            yield "`[accounts.NAME]`", field.encode_name


def test_every_setting_is_documented_in_its_section_and_no_other_is() -> None:
    sections: dict[str, str] = {}
    for part in re.split(r"^#{2,3} ", _text("docs/settings.md"), flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        sections[heading] = body
    known: dict[str, set[str]] = {}
    for heading, key in _setting_keys():
        known.setdefault(heading, set()).add(key)
    for heading, keys in known.items():
        rows = re.findall(r"^\| (.*?) \|$", sections[heading], re.MULTILINE)
        documented = {
            span
            for row in rows
            for span in re.findall(r"`([^`]+)`", " | ".join(row.split(" | ")[:2]))
            if re.fullmatch(r"[a-z0-9_.]+", span)
        }
        types = set(GATEWAYS)
        assert documented - types == keys, heading


@pytest.mark.parametrize("struct", [settings.DatabaseSettings, settings.ReceiverSettings])
def test_defaults_of_settings_are_documented(struct: type[msgspec.Struct]) -> None:
    text = _text("docs/settings.md")
    for field in msgspec.structs.fields(struct):
        if isinstance(field.default, int | str) and not isinstance(field.default, bool):
            shown = f'"{field.default}"' if isinstance(field.default, str) else str(field.default)
            row = rf"^\| `{field.encode_name}` \| [^|]* \| `{re.escape(shown)}`"
            assert re.search(row, text, re.MULTILINE), field.encode_name


def _app(tmp_path: Path) -> Litestar:
    (tmp_path / "huizhi.toml").write_text('[reconciler]\napi_token = "none-of-it-is-real"\n')
    read = settings.load(tmp_path / "huizhi.toml", {})
    return create_app(read, Database(dsn=Secret("postgresql:///none"), name="guard"))


def _routes(tmp_path: Path) -> dict[str, str]:
    """Every route but those of the OpenAPI document, with the role that it takes, or `none`."""
    routes = {}
    for route in _app(tmp_path).routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        if path.startswith("/schema"):
            continue
        for handler in getattr(route, "route_handlers", []):
            role = handler.opt.get("role")
            for method in handler.http_methods - {"OPTIONS", "HEAD"}:
                routes[f"{method} {path}"] = "none" if role is None else role.word
    return routes


@pytest.mark.parametrize("name", ["docs/api.md", "docs/api.zh-CN.md"])
def test_every_route_is_documented_with_its_role_and_every_documented_route_exists(
    name: str, tmp_path: Path
) -> None:
    rows = re.findall(
        r"^\| `((?:GET|POST) [^`]+)`(?: \\\*)? \| (\w+) \|", _text(name), re.MULTILINE
    )
    assert len(rows) == len(dict(rows))
    assert dict(rows) == _routes(tmp_path)


def test_every_route_has_an_example_that_is_run(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", _text("docs/api.md"), re.MULTILINE | re.DOTALL)
    calls = [line for block in blocks for line in block.replace("\\\n", " ").split("\n")]
    for route in _routes(tmp_path):
        method, path = route.split(" ")
        called = re.compile(
            re.sub(r"\{\w+\}", r"(?:\\$[A-Z_]+|duplicate-texts)", path) + r"(?![\w/-])"
        )
        posts = re.compile(r"^post |--data|--form|-X POST| -[dF] ")
        assert any(
            called.search(call) and bool(posts.search(call)) is (method == "POST") for call in calls
        ), route


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("docs/reconciliation.md", r"^\| \d \| `(\w+)` \|"),
        ("docs/reconciliation.zh-CN.md", r"^\| \d \| `(\w+)` \|"),
        ("README.md", r"^\| `(\w+)` \|"),
        ("README.zh-CN.md", r"^\| `(\w+)` \|"),
    ],
)
def test_every_discrepancy_kind_is_documented_in_the_order_of_precedence(
    name: str, row: str
) -> None:
    assert tuple(re.findall(row, _text(name), re.MULTILINE)) == KINDS


def test_every_cause_is_documented_in_the_order_of_precedence() -> None:
    table = _text("docs/reconciliation.md").split("\n## Causes\n", 1)[1].split("\n## ", 1)[0]
    documented: dict[str, tuple[str, ...]] = {}
    kind = ""
    for named, cause in re.findall(r"^\| (?:`(\w+)` )?\| `(\w+)` \|", table, re.MULTILINE):
        kind = named or kind
        documented[kind] = (*documented.get(kind, ()), cause)
    assert documented == {kind: tuple(causes) for kind, causes in CAUSES.items()}
    assert tuple(CAUSES) == KINDS
    every = [cause for causes in CAUSES.values() for cause in causes]
    assert len(set(every)) == len(every)


def test_every_cause_is_told_by_the_queries_or_the_text_and_no_other() -> None:
    added = _text("sql/queries/reconcile.sql").split("-- name: add_discrepancies", 1)[1]
    added = added.split("INSERT INTO discrepancies", 1)[0]
    told = set(re.findall(r"(?:THEN|ELSE|coalesce\(t\.cause,) '(\w+)'", added))
    told |= set(re.findall(r'return "(\w+)"', _text("reconciler/causes.py")))
    assert told == {cause for causes in CAUSES.values() for cause in causes}


def test_every_class_of_coverage_is_documented_and_told() -> None:
    told = _text("sql/queries/reconcile.sql").split("-- name: count_coverage", 1)[1]
    told = told.split("AS class", 1)[0]
    classes = set(re.findall(r"(?:THEN|ELSE) '(\w+)'", told))
    assert classes == {*COVERAGE, "accepted_is_last_known"}
    table = _text("docs/reconciliation.md").split("Classes of `coverage`", 1)[1].split("\n\n", 2)[1]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == classes


def test_every_assumption_is_documented() -> None:
    part = _text("docs/reconciliation.md").split("\n## Assuming\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (`.*?`) \|", part, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(ASSUMABLE)


def test_kinds_are_the_same_in_schema_code_and_queries() -> None:
    schema = _text("sql/migrations/0001_foundation.sql").split("discrepancies_kind_check", 1)[1]
    ordered = _text("sql/queries/reconcile.sql").split("array_position(", 1)[1].split("]", 1)[0]
    for listed in (schema.split("))", 1)[0], ordered):
        assert tuple(re.findall(r"'(\w+)'", listed)) == KINDS


def _commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command by its whole name, such as `statement import`."""
    from huizhi.__main__ import COMMANDS

    for name, (place, _) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", each) for inner, each in command.commands.items())
        else:
            yield name, command


def test_every_command_is_documented_with_its_options() -> None:
    rows = re.findall(r"^\| `huizhi (.+?)` \| (.*?) ?\| ", _text("docs/commands.md"), re.MULTILINE)
    documented = {
        re.sub(r"( [A-Z]+)+$", "", name): set(re.findall(r"`(--[a-z-]+)", options))
        for name, options in rows
    }
    made = {
        name: {
            option
            for parameter in command.params
            for option in parameter.opts
            if option.startswith("--") and (option != "--config" or name == "sandbox")
        }
        for name, command in _commands()
    }
    assert documented == made


# What changes nothing, or is no single act of an operator: services, and what needs no database.
_READING = {
    *(
        "init",
        "check-config",
        "doctor",
        "completion",
        "migrate",
        "serve",
        "receiver",
        "reconciler",
        "sandbox",
        "demo",
    ),
    *("statement list", "evidence", "chain head", "chain verify", "credit list", "inbound"),
    *("discrepancy list", "discrepancy show", "discrepancy ageing", "sign list", "template list"),
    *("audit", "segments", "token list", "actions", "suspects list", "alarms", "arrivals", "drift"),
    *("callback show", "restore"),  # before there is a record of what operators do
    *("alerts test", "alerts list"),
}


def test_every_command_that_changes_something_is_recorded_as_what_an_operator_did() -> None:
    recorded = {
        name: getattr(command.callback, "writes", None)
        for name, command in _commands()
        if name not in _READING
    }
    assert recorded == {name: name for name in recorded}
    assert not any(
        hasattr(command.callback, "writes") for name, command in _commands() if name in _READING
    )


def test_every_documented_command_exists_with_the_options_given() -> None:
    from huizhi.__main__ import COMMANDS

    made = {
        name: {option for parameter in command.params for option in parameter.opts}
        | {"--help", "--config", "--version"}
        for name, command in _commands()
    }
    for path in [README, CHINESE, *ROOT.glob("docs/**/*.md"), ROOT / "CHANGELOG.md"]:
        text = path.read_text("utf-8").replace("\\\n", " ")
        commands = re.findall(r"(?:`|bin/|^)huizhi ([a-z][^`\n|]*)", text, re.MULTILINE)
        for given in commands:
            words = given.split()
            assert words[0] in COMMANDS, f"{path.name}: huizhi {given}"
            name = next((name for name in (" ".join(words[:2]), words[0]) if name in made), None)
            # A family by itself, such as `huizhi discrepancy`.
            options = set() if name is None else made[name]
            found = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", given))
            assert found <= options, f"{path.name}: huizhi {given}"


def test_every_make_target_is_documented_by_help() -> None:
    makefile = _text("Makefile")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    helped = re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE)
    assert sorted(phony[1].split()) == sorted(helped)
    for path in (README, CHINESE, ROOT / "CONTRIBUTING.md"):
        named = re.findall(r"(?:^|`)make ([a-z]+)\b", path.read_text("utf-8"), re.MULTILINE)
        assert set(named) <= set(helped), path.name


@pytest.mark.parametrize(
    ("page", "vendor", "methods", "yes", "no"),
    [
        ("README.md", "vendor", "callbacks by", "yes", "no"),
        ("README.zh-CN.md", "厂商", "回调方法", "有", "无"),
    ],
)
def test_vendor_matrix_is_what_the_gateways_offer(
    page: str, vendor: str, methods: str, yes: str, no: str
) -> None:
    table = _text(f"docs/vendors/{page}").split("\n\n")[3].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    names = re.findall(r"\[(\w+)\]", table[0])
    assert names == list(GATEWAYS)
    cells = {row[0].strip("`"): dict(zip(names, row[1:], strict=True)) for row in rows[2:]}
    calls = {name for name, value in vars(Client).items() if callable(value)}
    calls = {name for name in calls if not name.startswith("_")}
    assert cells.keys() - {vendor, methods} == calls
    assert {cells[call][name] for call in calls for name in names} == {yes, no}
    for name, gateway in GATEWAYS.items():
        assert cells[vendor][name] == gateway.vendor
        assert cells[methods][name] == ", ".join(sorted(gateway.methods))
        offered = {call for call in calls if cells[call][name] == yes}
        assert offered == gateway.supports


@pytest.mark.parametrize("name", list(GATEWAYS))
def test_vendor_page_names_every_code_that_its_gateway_knows(name: str) -> None:
    module = importlib.import_module(f"gateways.{name}.codes")
    codes = module.REPORT_STATUS
    if any(isinstance(meaning, Mapping) for meaning in codes.values()):
        # A table of codes for each channel: each stands in a row of its own, and no other code there.
        for channel, table in codes.items():
            page = _text(f"docs/vendors/{name}.md")
            row = re.search(rf"^\| `{channel}` \|(.*)$", page, re.MULTILINE)
            assert row is not None, channel
            assert set(re.findall(r"`([^`]+)`", row[1])) == set(table), channel
        return
    # A vendor that reports nothing has words in its replies only.
    known = set(codes) | set(getattr(module, "CODE_WORDS", ()))
    assert known
    assert known <= _in_code_spans(f"docs/vendors/{name}.md")


def test_both_readmes_say_the_same() -> None:
    texts = [path.read_text("utf-8") for path in (README, CHINESE)]
    headings = [re.findall(r"^(#+) ", text, re.MULTILINE) for text in texts]
    assert headings[0] == headings[1]
    blocks = [re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL) for text in texts]
    for english, chinese in zip_longest(*blocks):
        assert english == chinese
    rows = [len(re.findall(r"^\|", text, re.MULTILINE)) for text in texts]
    assert rows[0] == rows[1]
    spans = [set(re.findall(r"`([^`\n]+)`", text)) for text in texts]
    assert spans[0] == spans[1]


def test_decisions_are_listed() -> None:
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", _text("docs/decisions/README.md"))
    assert listed == sorted(path.name for path in ROOT.glob("docs/decisions/0*.md"))


# --- SQL ----------------------------------------------------------------------------------------------


def test_every_query_is_used_and_every_used_query_exists() -> None:
    text = "\n".join(path.read_text("utf-8") for path in CODE)
    used = set(re.findall(r"""QUERIES\[\s*["'](\w+)["']\s*\]""", text))
    assert used == set(QUERIES)


@pytest.mark.anyio
async def test_every_query_prepares_against_the_migrated_schema(connection: Any) -> None:
    await connection.execute(QUERIES["reconcile_tables"])
    await connection.execute(QUERIES["evidence_tables"])
    await connection.execute(QUERIES["case_tables"])
    await connection.execute(QUERIES["replay_tables"])
    for name, text in QUERIES.items():
        for number, statement in enumerate(_statements(text)):
            try:
                await connection.prepare(statement)
            except asyncpg.PostgresError as error:
                raise AssertionError(f"{name}, statement {number + 1}: {error}") from error


def _statements(text: str) -> list[str]:
    """Split where a semicolon ends a line; there is none inside our statements."""
    return [part for part in re.split(r";\s*$", text, flags=re.MULTILINE) if part.strip()]


def test_sql_lives_in_sql_files_only() -> None:
    # What makes its own table, or a server that is no database yet, has nowhere else to put it.
    exempt = {ROOT / "runtime/migrate.py", ROOT / "runtime/embedded.py"}
    sql = re.compile(
        r"\b(SELECT\b.+\bFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+(TEMP|TABLE|INDEX)|"
        r"ALTER\s+TABLE|DROP\s+(TABLE|INDEX)|TRUNCATE|pg_(try_)?advisory|SET\s+(LOCAL\s+)?\w+\s*=)\b",
        re.DOTALL,
    )
    for path in CODE:
        if path in exempt:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not sql.search(node.value), f"{path.relative_to(ROOT)}:{node.lineno}"


def test_no_sql_is_put_together_where_it_is_run() -> None:
    runs = {"execute", "executemany", "fetch", "fetchrow", "fetchval", "cursor", "prepare"}
    # The runner's time-out, which PostgreSQL takes as no parameter; a server that is no database yet.
    exempt = {ROOT / "runtime/migrate.py", ROOT / "runtime/embedded.py"}
    seen = 0
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in runs
                and node.args
            ):
                seen += 1
                made = isinstance(node.args[0], ast.JoinedStr | ast.BinOp | ast.Call)
                assert not made or path in exempt, f"{path.relative_to(ROOT)}:{node.lineno}"
    assert seen > 100


def test_files_for_spreadsheets_are_written_in_the_one_place_that_guards_their_cells() -> None:
    writer = re.compile(r"\bcsv\.(?:Dict)?[wW]riter\b|\bxlsxwriter\b")
    found = {path for path in CODE if writer.search(path.read_text("utf-8"))}
    # The demo and the sandbox write what vendors would: statements, to be imported.
    played = {path for path in CODE if path.parent.name in ("sandbox", "demo")}
    # The verifier stands alone, and writes what it compares a file with.
    assert found - played == {ROOT / "reconciler/exports.py", ROOT / "reconciler/verifier.py"}


def test_sql_folder_holds_only_sql() -> None:
    kept = [path for path in SQL.rglob("*") if path.is_file() and path.name != ".gitkeep"]
    assert {path.suffix for path in kept} == {".sql"}


# --- what must not stand anywhere ---------------------------------------------------------------------


def _tracked() -> list[Path]:
    """Files that are or would be in a commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    names = listed.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_path_of_a_machine_and_no_registry_address_in_any_file() -> None:
    # Written so that this file does not find itself.
    wrong = re.compile(
        rb"/(?:root|work|home/\w+|Users/\w+|private/tmp)/(?!\.)\w"
        rb"|/opt/(?:pypi|wheels)"
        rb"|(?:pypi|pythonhosted|npmjs|debian)\.(?:org|com)\b"
        rb"|--(?:extra-)?index-ur[l]|--find-link[s]",
    )
    for path in _tracked():
        found = wrong.search(path.read_bytes())
        assert found is None, f"{path.relative_to(ROOT)}: {found[0]!r}"


def test_requirements_are_pinned_by_digest() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        lines = path.read_text("utf-8").replace("\\\n", " ").splitlines()
        for line in lines:
            if line.strip() and not line.startswith("#"):
                assert re.match(r"[a-z0-9.-]+==\S+ ", line), line[:60]
                assert "--hash=sha256:" in line, line[:60]


def test_one_version_of_a_package_is_pinned_for_all_purposes() -> None:
    # They share .venv: what one purpose installs must not change what another has tested.
    versions: dict[str, set[str]] = {}
    for path in (ROOT / "requirements").glob("*.txt"):
        for package, version in re.findall(r"^([a-z0-9.-]+)==(\S+)", _text(path), re.M):
            versions.setdefault(package, set()).add(version)
    assert versions
    assert {package: found for package, found in versions.items() if len(found) > 1} == {}


def test_requirements_hold_every_dependency_of_the_project() -> None:
    import tomllib

    project = tomllib.loads(_text("pyproject.toml"))
    groups = project["dependency-groups"]
    traces = project["project"]["optional-dependencies"]["otel"]
    wanted = {
        "otel": project["project"]["dependencies"] + traces,
        "build": groups["build"],
        "runtime": project["project"]["dependencies"],
        "test": project["project"]["dependencies"] + traces + groups["test"],
        "bench": groups["bench"],
        "check": project["project"]["dependencies"] + traces + groups["test"] + groups["check"],
    }
    for name, requirements in wanted.items():
        pinned = set(re.findall(r"^([a-z0-9.-]+)==", _text(f"requirements/{name}.txt"), re.M))
        for requirement in requirements:
            package = re.split(r"[<>=!~\[; ]", requirement)[0].lower()
            assert package in pinned, f"{package} is not in requirements/{name}.txt: make lock"


def test_image_copies_every_package_and_nothing_local() -> None:
    copied = set(re.findall(r"^COPY (\w+)/ ", _text("Dockerfile"), re.MULTILINE))
    assert copied == {*PACKAGES, "sql", "requirements"}
    allowed = set(re.findall(r"^!([\w.]+)/?$", _text(".dockerignore"), re.MULTILINE))
    assert allowed == copied | {"pyproject.toml", "README.md", "LICENSE"}
