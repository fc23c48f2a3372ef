"""Settings: what they mean, and the one line for each way they can be wrong."""
# ruff: noqa: E501  the table has a line for each mistake

import dataclasses
import multiprocessing
import os
import pickle
import stat
import textwrap
from datetime import date
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateways import GATEWAYS
from gateways.gateway import Secret
from gateways.segments import Rule, Unit
from runtime.settings import (
    DEFAULT_FILE,
    GATEWAY_NAMES,
    Settings,
    SettingsError,
    api_token,
    api_token_file,
    load,
)

WHOLE = """\
data_dir = "./data"
timezone = "Asia/Shanghai"

[receiver]
host = "0.0.0.0"
port = 8080
workers = 2
max_body_bytes = 1048576
trusted_proxies = ["10.0.0.0/8"]

[reconciler]
host = "127.0.0.1"
port = 8081
api_token = { env = "HUIZHI_API_TOKEN" }

[accounts.think-main]
gateway = "thinkapi"
base_url = "https://api.topthink.com"
credentials = { app_code = { env = "THINK_APP_CODE" } }
callback_tokens = [{ env = "THINK_CALLBACK_TOKEN" }, { file = "token" }]
callback_networks = ["203.0.113.0/24", "2001:db8::/32", "198.51.100.7"]
timezone = "Asia/Tokyo"
poll_after_seconds = 120
poll_until_hours = 72
requests_per_second = 20

[[accounts.think-main.tariffs]]
from = 2026-03-01
price = "0.0350"
currency = "CNY"
basis = "submitted"

[[accounts.think-main.tariffs]]
from = 2026-01-01
price = 1

[accounts.sms]
gateway = "thinksms"
credentials = { user_id = "1", account = "a", password = "hush-hush" }
charset = "gbk"
report_path = "/v2/statusApi.aspx"

[statements.our-bank-export]
columns = { vendor_message_id = "任务ID", phone = "手机号", segments = "计费条数", amount = "金额" }
"""
ENV = {
    "HUIZHI_API_TOKEN": "api-token",
    "THINK_APP_CODE": "code",
    "THINK_CALLBACK_TOKEN": "callback-token",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("older-token\n")
    return tmp_path


def read(folder: Path, text: str = WHOLE, **env: str) -> Settings:
    (folder / DEFAULT_FILE).write_text(text, "utf-8")
    return load(folder / DEFAULT_FILE, {**ENV, **env})


def complaint(folder: Path, text: str, **env: str) -> str:
    """The error line, without the name of the file that every one of them begins with."""
    with pytest.raises(SettingsError) as caught:
        read(folder, text, **env)
    line = str(caught.value)
    assert "\n" not in line
    start = f"{folder / DEFAULT_FILE}: "
    assert line.startswith(start)
    return line.removeprefix(start)


def test_whole_file_is_understood(folder: Path) -> None:
    settings = read(folder)
    assert settings.data_dir == folder / "data"
    assert settings.timezone == ZoneInfo("Asia/Shanghai")
    assert settings.database.url is None
    assert settings.receiver.trusted_proxies == (ip_network("10.0.0.0/8"),)
    assert settings.reconciler.api_token == Secret("api-token")
    account = settings.accounts["think-main"]
    assert account.gateway is GATEWAYS["thinkapi"]
    assert account.account.name == "think-main"
    assert account.account.zone == ZoneInfo("Asia/Tokyo")
    assert account.account.credentials.app_code == Secret("code")
    assert account.callback_tokens == (Secret("callback-token"), Secret("older-token"))
    assert account.callback_networks == (
        ip_network("203.0.113.0/24"),
        ip_network("2001:db8::/32"),
        ip_network("198.51.100.7/32"),
    )
    assert [tariff.price for tariff in account.tariffs] == [Decimal(1), Decimal("0.0350")]
    sms = settings.accounts["sms"].account
    assert sms.zone == ZoneInfo("Asia/Shanghai")
    assert sms.base_url == GATEWAYS["thinksms"].default_base_url.rstrip("/")
    assert sms.options.charset == "gbk"
    assert sms.options.report_path == "/v2/statusApi.aspx"
    assert settings.statements["our-bank-export"].columns == {
        "vendor_message_id": "任务ID",
        "phone": "手机号",
        "segments": "计费条数",
        "amount": "金额",
    }


def test_empty_file_means_the_defaults(folder: Path) -> None:
    settings = read(folder, "")
    assert settings.data_dir == folder / "data"
    assert settings.timezone == ZoneInfo("Asia/Shanghai")
    assert (settings.receiver.host, settings.receiver.port) == ("0.0.0.0", 8080)
    assert 1 <= settings.receiver.workers <= 4
    assert settings.receiver.max_body_bytes == 1048576
    assert settings.receiver.trusted_proxies == ()
    assert (settings.reconciler.host, settings.reconciler.port) == ("127.0.0.1", 8081)
    assert settings.accounts == {}


def test_account_defaults(folder: Path) -> None:
    text = '[accounts.a]\ngateway = "thinkapi"\ncredentials = { app_code = "x" }\n'
    account = read(folder, text).accounts["a"]
    assert account.account.base_url == GATEWAYS["thinkapi"].default_base_url
    assert account.account.zone == ZoneInfo("Asia/Shanghai")
    assert account.callback_tokens == ()
    assert account.callback_networks == ()
    assert account.poll_after_seconds == 120
    assert account.poll_until_hours == 72
    assert account.requests_per_second == 20
    assert (account.rule, account.unit) == (Rule.DOMESTIC, Unit.UTF16)
    assert account.tariffs == ()


def test_segments_are_counted_as_the_gateway_says_unless_the_account_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abroad = dataclasses.replace(
        GATEWAYS["thinkapi"],
        unit=Unit.CODE_POINT,
        rule=lambda account: Rule.INTERNATIONAL if account.name == "b" else Rule.DOMESTIC,
    )
    monkeypatch.setattr("runtime.settings.GATEWAYS", {"thinkapi": abroad})
    common = 'gateway = "thinkapi"\ncredentials = { app_code = "x" }\n'
    text = (
        f"[accounts.a]\n{common}[accounts.b]\n{common}"
        f'[accounts.c]\n{common}segment_rule = "international"\nsegment_unit = "utf16"\n'
    )
    accounts = read(folder, text).accounts
    assert {name: (account.rule, account.unit) for name, account in accounts.items()} == {
        "a": (Rule.DOMESTIC, Unit.CODE_POINT),
        "b": (Rule.INTERNATIONAL, Unit.CODE_POINT),
        "c": (Rule.INTERNATIONAL, Unit.UTF16),
    }


def test_newest_tariff_on_or_before_the_day_holds(folder: Path) -> None:
    account = read(folder).accounts["think-main"]
    assert account.tariff_on(date(2025, 12, 31)) is None
    for day, price, basis in (
        (date(2026, 1, 1), "1", "delivered"),
        (date(2026, 2, 28), "1", "delivered"),
        (date(2026, 3, 1), "0.0350", "submitted"),
        (date(2030, 1, 1), "0.0350", "submitted"),
    ):
        tariff = account.tariff_on(day)
        assert tariff is not None
        assert (tariff.price, tariff.basis, tariff.currency) == (Decimal(price), basis, "CNY")


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        pytest.param(*case, id=case[2].partition(" ")[0].rstrip(":") + f" {number}")
        for number, case in enumerate(
            [
                ("port = 8080", 'port = "8080"', "receiver.port: expected a port from 0 to 65535, got text"),
                ("port = 8080", "port = 65536", "receiver.port: expected a port from 0 to 65535"),
                ("port = 8080", "port = true", "receiver.port: expected a port from 0 to 65535, got true or false"),
                ("port = 8080", "prot = 8080", "receiver.prot: unknown key; did you mean port?"),
                ("workers = 2", "workers = 0", "receiver.workers: expected an integer of at least 1"),
                ("workers = 2", "threads = 2", "receiver.threads: unknown key; expected one of host, port, workers, max_body_bytes, spool_max_bytes, trusted_proxies, "
            "callbacks_per_second_per_peer, metrics_host, metrics_port"),
                ('["10.0.0.0/8"]', '["10.0.0.0/33"]', 'receiver.trusted_proxies: expected a list of networks such as ["203.0.113.0/24"]'),
                ('["10.0.0.0/8"]', "[7]", 'receiver.trusted_proxies: expected a list of networks such as ["203.0.113.0/24"]'),
                ('"./data"', "7", "data_dir: expected text, got an integer"),
                ('"./data"', '""', "data_dir: expected text"),
                ('timezone = "Asia/Shanghai"', 'timezone = "Asia/Beijing"', 'timezone: expected a time zone such as "Asia/Shanghai"'),
                ('timezone = "Asia/Shanghai"', 'timezone = "../passwd"', 'timezone: expected a time zone such as "Asia/Shanghai"'),
                ("[receiver]", "[recevier]", "recevier: unknown key; did you mean receiver?"),
                ("[receiver]", '"two\\nlines" = 1\n[receiver]', '"two\\nlines": unknown key; expected one of data_dir, timezone, database, receiver, reconciler, retention, logs, telemetry, alerts, accounts, statements'),
                ("[receiver]", "[receiver", "expected TOML: Expected ']' at the end of a table declaration (at line 4, column 10)"),
                ('{ env = "HUIZHI_API_TOKEN" }', '{ env = "NOT_SET" }', "reconciler.api_token: the environment variable NOT_SET is not set"),
                ('{ env = "HUIZHI_API_TOKEN" }', '""', "reconciler.api_token: expected text, got none or control characters"),
                ('{ env = "HUIZHI_API_TOKEN" }', '{ evn = "X" }', 'reconciler.api_token: expected text, { env = "NAME" } or { file = "path" }'),
                ('{ env = "HUIZHI_API_TOKEN" }', '{ env = "X", file = "y" }', 'reconciler.api_token: expected text, { env = "NAME" } or { file = "path" }'),
                ("[accounts.think-main]", "[accounts.Think_Main]", "accounts.Think_Main: expected a name of at most 64 lower-case letters, digits and hyphens"),
                ("[accounts.think-main]", '[accounts."a b"]', 'accounts."a b": expected a name of at most 64 lower-case letters, digits and hyphens'),
                ("[accounts.think-main]", "[accounts]\nbare = 1\n[accounts.think-main]", "accounts.bare: expected a table"),
                ('gateway = "thinkapi"\n', "", f"accounts.think-main.gateway: missing; expected one of {', '.join(GATEWAY_NAMES)}"),
                ('"thinkapi"', '"twilio"', f"accounts.think-main.gateway: expected one of {', '.join(GATEWAY_NAMES)}"),
                ("https://api.topthink.com", "ftp://api.topthink.com", 'accounts.think-main.base_url: expected an address such as "https://api.example.com"'),
                ('credentials = { app_code = { env = "THINK_APP_CODE" } }\n', "", "accounts.think-main.credentials: missing; expected a table of the gateway's credentials"),
                ('{ app_code = { env = "THINK_APP_CODE" } }', "{}", 'accounts.think-main.credentials.app_code: missing; expected text, { env = "NAME" } or { file = "path" }'),
                ('{ env = "THINK_APP_CODE" }', "7", 'accounts.think-main.credentials.app_code: expected text, { env = "NAME" } or { file = "path" }'),
                ("app_code =", "appcode =", "accounts.think-main.credentials.appcode: unknown key; did you mean app_code?"),
                ('[{ env = "THINK_CALLBACK_TOKEN" },', '["to/ken",', "accounts.think-main.callback_tokens[0]: expected letters, digits, '-', '.', '_' and '~' only: it is part of a URL"),
                ('["203.0.113.0/24",', '["everywhere",', 'accounts.think-main.callback_networks: expected a list of networks such as ["203.0.113.0/24"]'),
                ("poll_after_seconds", "poll_after_second", "accounts.think-main.poll_after_second: unknown key; did you mean poll_after_seconds?"),
                ("= 120", "= -1", "accounts.think-main.poll_after_seconds: expected a number of seconds"),
                ("= 72", "= 0", "accounts.think-main.poll_until_hours: expected a number of hours above 0"),
                ("= 20\n", "= nan\n", "accounts.think-main.requests_per_second: expected a number above 0"),
        ("= 20\n", "= 20\nmonthly_budget = 1000\n", 'accounts.think-main.monthly_budget: expected decimal text such as "1000", got an integer'),
        ("= 20\n", '= 20\nlow_balance = "-1"\n', 'accounts.think-main.low_balance: expected decimal text such as "1000"'),
        ("= 20\n", "= 20\nlow_balance_days = -1\n", "accounts.think-main.low_balance_days: expected a number of days of at least 0"),
                ("= 20\n", "= inf\n", "accounts.think-main.requests_per_second: expected a number above 0"),
                ("= 20\n", '= 20\nsegment_rule = "abroad"\n', 'accounts.think-main.segment_rule: expected "domestic" or "international"'),
                ("= 20\n", "= 20\nsegment_unit = 2\n", 'accounts.think-main.segment_unit: expected "code_point" or "utf16", got an integer'),
                ('"0.0350"', "0.0350", 'accounts.think-main.tariffs[0].price: expected decimal text such as "0.035", got a float'),
                ('"0.0350"', '"NaN"', 'accounts.think-main.tariffs[0].price: expected decimal text such as "0.035"'),
                ('"0.0350"', '"-1"', 'accounts.think-main.tariffs[0].price: expected decimal text such as "0.035"'),
                ('"0.0350"', "true", 'accounts.think-main.tariffs[0].price: expected decimal text such as "0.035"'),
                ('price = "0.0350"\n', "", 'accounts.think-main.tariffs[0].price: missing; expected decimal text such as "0.035"'),
                ('"CNY"', '"yuan"', 'accounts.think-main.tariffs[0].currency: expected three letters such as "CNY"'),
                ('"submitted"', '"sent"', 'accounts.think-main.tariffs[0].basis: expected "delivered" or "submitted"'),
                ("from = 2026-03-01", 'from = "2026-03-01"', "accounts.think-main.tariffs[0].from: expected a date such as 2026-01-01, without quotes, got text"),
                ("from = 2026-03-01", "from = 2026-03-01T00:00:00", "accounts.think-main.tariffs[0].from: expected a date such as 2026-01-01, without quotes, got a time"),
                ("from = 2026-03-01\n", "", "accounts.think-main.tariffs[0].from: missing; expected a date such as 2026-01-01, without quotes"),
                ("from = 2026-03-01", "from = 2026-01-01", "accounts.think-main.tariffs[1].from: expected a day of its own, and 2026-01-01 is that of tariffs[0]"),
                ("price = 1\n", "prize = 1\n", "accounts.think-main.tariffs[1].prize: unknown key; did you mean price?"),
                ('"gbk"', '"latin-1"', 'accounts.sms.charset: expected "utf-8" or "gbk"'),
                ('"/v2/statusApi.aspx"', "1", "accounts.sms.report_path: expected text, got an integer"),
                ('charset = "gbk"', "status_num = 4001", "accounts.sms.status_num: expected an integer from 1 to 4000"),
                ('charset = "gbk"', "status_num = 0", "accounts.sms.status_num: expected an integer from 1 to 4000"),
                ("report_path", "reports_path", "accounts.sms.reports_path: unknown key; did you mean report_path?"),
                ("our-bank-export", "generic", "statements.generic: expected another name: `generic` is built in"),
                ("phone =", "fone =", "statements.our-bank-export.columns.fone: unknown key; did you mean phone?"),
                ('vendor_message_id = "任务ID", ', "", "statements.our-bank-export.columns.vendor_message_id: missing; expected text"),
                ("[statements.our-bank-export]", '[statements.our-bank-export]\nencoding = "gbk"', 'statements.our-bank-export.encoding: expected "utf-8" or "gb18030" or "big5"'),
                ("[statements.our-bank-export]", '[statements.our-bank-export]\ndelimiter = "x"', 'statements.our-bank-export.delimiter: expected "," or "\\t" or ";" or "|"'),
                ("[statements.our-bank-export]", '[statements.our-bank-export]\ntime_format = "%d/%m %H:%M"', 'statements.our-bank-export.time_format: expected year, month and day, such as "%d/%m/%Y %H:%M"'),
                ("[statements.our-bank-export]", '[statements.our-bank-export]\ntime_format = "%Q"', 'statements.our-bank-export.time_format: expected year, month and day, such as "%d/%m/%Y %H:%M"'),
                ("[statements.our-bank-export]", '[statements.our-bank-export]\nsheet = ""', "statements.our-bank-export.sheet: expected text"),
                ("[statements.our-bank-export]", '[statements.our-bank-export]\nheader_row = 3', "statements.our-bank-export.header_row: unknown key; expected one of columns, sheet, encoding, delimiter, time_format"),
                ('"手机号"', "3", "statements.our-bank-export.columns.phone: expected text, got an integer"),
            ]
        )
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_in_one_line(
    folder: Path, before: str, after: str, line: str
) -> None:
    assert before in WHOLE
    assert complaint(folder, WHOLE.replace(before, after, 1)) == line


def test_secret_file_that_is_not_there_is_named(folder: Path) -> None:
    (folder / "token").unlink()
    assert complaint(folder, WHOLE) == (
        f"accounts.think-main.callback_tokens[1]: {folder}/token cannot be read:"
        " No such file or directory"
    )


@pytest.mark.parametrize("name", [name for name in GATEWAY_NAMES if name not in GATEWAYS])
def test_gateway_that_is_still_to_come_says_so(folder: Path, name: str) -> None:
    text = f'[accounts.a]\ngateway = "{name}"\ncredentials = {{}}\n'
    assert complaint(folder, text) == (
        f"accounts.a.gateway: {name} is not available yet in this version;"
        f" expected one of {', '.join(GATEWAYS)}"
    )


def test_missing_file_suggests_init(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "none.toml", {})
    assert str(caught.value) == f"{tmp_path}/none.toml: no such file; `huizhi init` writes one"


def test_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes("# 回执".encode("gbk"))
    with pytest.raises(SettingsError, match=r"x.toml: expected UTF-8"):
        load(tmp_path / "x.toml", {})
    with pytest.raises(SettingsError, match=r"cannot be read: Is a directory"):
        load(tmp_path, {})


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, port in (("a.toml", 1), ("b.toml", 2), (DEFAULT_FILE, 3)):
        (tmp_path / name).write_text(f"[receiver]\nport = {port}")
    assert load(Path("a.toml"), {"HUIZHI_CONFIG": "b.toml"}).receiver.port == 1
    assert load(None, {"HUIZHI_CONFIG": "b.toml"}).receiver.port == 2
    assert load(None, {}).receiver.port == 3


def test_relative_paths_start_at_the_folder_of_the_file(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "x.toml").write_text(
        'data_dir = "../d"\n[database]\nurl = { file = "../url" }'
    )
    (folder / "url").write_text("postgresql://u@h/d\n")
    settings = load(folder / "in" / "x.toml", {})
    assert settings.data_dir.resolve() == folder / "d"
    assert settings.database.url == Secret("postgresql://u@h/d")


def test_database_url_overrides_the_file(folder: Path) -> None:
    text = '[database]\nurl = { env = "NOT_SET" }\npool_size = 3'
    settings = read(folder, text, DATABASE_URL="postgres://u@h/d")
    assert settings.database.url == Secret("postgres://u@h/d")
    assert settings.database.pool_size == 3
    expected = 'expected an address such as "postgresql://user@host/name"'
    assert complaint(folder, "", DATABASE_URL="mysql://u:hush@h/d") == f"DATABASE_URL: {expected}"
    assert complaint(folder, '[database]\nurl = "h"') == f"database.url: {expected}"


def test_reconciler_that_others_reach_needs_a_token(folder: Path) -> None:
    text = '[reconciler]\nhost = "0.0.0.0"\n'
    assert complaint(folder, text) == (
        'reconciler.api_token: missing; expected text, { env = "NAME" } or { file = "path" },'
        " since host 0.0.0.0 is not loopback"
    )
    for host in ("127.0.0.1", "::1", "localhost"):
        read(folder, f'[reconciler]\nhost = "{host}"\n')


def test_secrets_show_nowhere_and_are_known_to_the_logs(folder: Path) -> None:
    settings = read(folder, DATABASE_URL="postgresql://u:very-hush@h/d")
    shown = f"{settings!r} {settings} {settings.accounts}"
    revealed = {secret.reveal() for secret in settings.secrets}
    assert {"code", "callback-token", "older-token", "hush-hush", "api-token"} <= revealed
    for secret in ("callback-token", "older-token", "hush-hush", "api-token", "very-hush"):
        assert secret not in shown


def test_ill_typed_secret_is_not_quoted(folder: Path) -> None:
    text = textwrap.dedent("""\
        [accounts.a]
        gateway = "thinkapi"
        credentials = "hush-hush"
    """)
    assert "hush" not in complaint(folder, text)


def test_settings_go_to_other_processes(folder: Path) -> None:
    settings = read(folder)
    again = pickle.loads(pickle.dumps(settings))
    assert again.receiver == settings.receiver
    assert again.secrets == settings.secrets


def test_given_api_token_makes_no_file(folder: Path) -> None:
    settings = read(folder)
    assert api_token(settings) == Secret("api-token")
    assert not api_token_file(settings).exists()


def ask_for_token(file: Path, answers: "multiprocessing.Queue[str]") -> None:
    answers.put(api_token(load(file, {})).reveal())


def test_api_token_is_made_once_by_any_number_of_processes(folder: Path) -> None:
    settings = read(folder, "")
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    asking = [spawn.Process(target=ask_for_token, args=(settings.file, answers)) for _ in range(4)]
    for process in asking:
        process.start()
    tokens = {answers.get(timeout=30) for _ in asking}
    for process in asking:
        process.join()
    answers.close()
    answers.join_thread()
    assert tokens == {api_token(settings).reveal()}
    assert stat.S_IMODE(api_token_file(settings).stat().st_mode) == 0o600
    assert os.listdir(settings.data_dir) == ["api-token"]


def test_empty_api_token_file_is_named(folder: Path) -> None:
    settings = read(folder, "")
    settings.data_dir.mkdir()
    api_token_file(settings).write_text("\n")
    with pytest.raises(SettingsError, match=r"api-token: expected a token; remove the file"):
        api_token(settings)
