"""Settings: one TOML file, read whole and checked whole before anything starts."""

import contextlib
import difflib
import json
import logging
import os
import re
import secrets
import tempfile
import tomllib
import types
import typing
from bisect import bisect_right
from collections.abc import Mapping, Set
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from gateways import GATEWAYS
from gateways.gateway import Account, Gateway, Secret
from gateways.segments import Rule, Unit
from runtime import Problem

FILE_VARIABLE = "HUIZHI_CONFIG"
DATABASE_VARIABLE = "DATABASE_URL"
DEFAULT_FILE = "huizhi.toml"
GATEWAY_NAMES = ("thinkapi", "thinksms", "onecloudsp", "itniotech", "deepfinch")
ALARM_KINDS = (
    "silence",
    "loss",
    "suspects",
    "clock",
    "drift",
    "quarantine",
    "lost",
    "job",
    "balance",
    "budget",
    "spool",
    "disk",
    "erasure",
    "channel",
)
# What people are told of besides alarms.
NEWS_KINDS = ("review",)

T = TypeVar("T")


class SettingsError(Problem):
    """Settings that cannot be used; the text names file, key and what was expected."""


class Networks(tuple[IPv4Network | IPv6Network, ...]):
    """IP networks; none means that any address will do, or that no proxy is trusted."""

    __slots__ = ()


_HIDDEN_TEXT = 'text, { env = "NAME" } or { file = "path" }'
_NETWORKS = 'a list of networks such as ["203.0.113.0/24"]'
_ZONE = 'a time zone such as "Asia/Shanghai"'
_PRICE = 'decimal text such as "0.035"'
_AMOUNT = 'decimal text such as "1000"'
_CHANNEL = 'an address such as "dingtalk://token", as docs/alerts.md says'

Text = Annotated[str, Meta(min_length=1, description="text")]
Port = Annotated[int, Meta(ge=0, le=65535, description="a port from 0 to 65535")]
Count = Annotated[int, Meta(ge=1, description="an integer of at least 1")]
Rate = Annotated[float, Meta(gt=0, le=100_000, description="a number above 0")]
Zone = Annotated[ZoneInfo, Meta(description=_ZONE)]
Encoding = Literal["utf-8", "gb18030", "big5"]
Amount = Annotated[str, Meta(pattern=r"^\d{1,12}(\.\d{1,9})?$", description=_AMOUNT)]
Delimiter = Literal[",", "\t", ";", "|"]


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class DatabaseSettings(_Table, frozen=True, kw_only=True):
    """`url` None: an embedded PostgreSQL under `data_dir`. `pool_size` is of each process."""

    url: Annotated[Secret, Meta(description=_HIDDEN_TEXT)] | None = None
    pool_size: Count = 10
    statement_cache: Annotated[
        int, Meta(ge=0, description="an integer of at least 0 (0 behind PgBouncer)")
    ] = 256


def _workers() -> int:
    cores = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    # PostgreSQL beside it takes as much; and the fewer they are, the more callbacks share a commit.
    return min(max(len(cores) // 2, 1), 4)


class ReceiverSettings(_Table, frozen=True, kw_only=True):
    """The internet-facing side; `workers` are processes that share the port.

    Without `metrics_port` only the reconciler with the same `data_dir` shows what they count.
    """

    host: Text = "0.0.0.0"  # noqa: S104  vendors reach it from outside
    port: Port = 8080
    workers: Count = msgspec.field(default_factory=_workers)
    max_body_bytes: Count = 1_048_576
    spool_max_bytes: Count = 1_073_741_824
    trusted_proxies: Annotated[Networks, Meta(description=_NETWORKS)] = Networks()
    callbacks_per_second_per_peer: Rate | None = None
    metrics_host: Text = "127.0.0.1"
    metrics_port: Port | None = None


class ReconcilerSettings(_Table, frozen=True, kw_only=True):
    """The internal side; for a missing `api_token` see `api_token()`."""

    host: Text = "127.0.0.1"
    port: Port = 8081
    api_token: Annotated[Secret, Meta(description=_HIDDEN_TEXT)] | None = None


class LogSettings(_Table, frozen=True, kw_only=True):
    """What services log; `debug` names each callback at each of its steps."""

    level: Literal["debug", "info", "warning"] = "info"

    @property
    def number(self) -> int:
        """The level as the standard library has it."""
        return logging.getLevelNamesMapping()[self.level.upper()]


class TelemetrySettings(_Table, frozen=True, kw_only=True):
    """Traces for OpenTelemetry; `sample_ratio` is which share of callbacks has one."""

    traces: bool = False
    sample_ratio: Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")] = 0.01


class RetentionSettings(_Table, frozen=True, kw_only=True):
    """For a missing `pseudonym_key` see `runtime.pseudonyms`."""

    pseudonym_key: Annotated[Secret, Meta(description=_HIDDEN_TEXT)] | None = None


class Channel(_Table, frozen=True, kw_only=True):
    """One way to people: an address as Apprise has them, and what is told there.

    No `kinds`: all; no `accounts`: all, and what is of no account. What still stands is told again
    after `repeat_hours`.
    """

    url: Annotated[Secret, Meta(description=_HIDDEN_TEXT)]
    kinds: Annotated[
        tuple[str, ...], Meta(description=f"a list of {', '.join((*ALARM_KINDS, *NEWS_KINDS))}")
    ] = ()
    accounts: Annotated[tuple[str, ...], Meta(description="a list of accounts")] = ()
    language: Literal["en", "zh"] = "en"
    repeat_hours: Annotated[float, Meta(gt=0, le=8760, description="a number of hours above 0")] = (
        24
    )


Days = Annotated[int, Meta(ge=1, le=36_500, description="a number of days of at least 1")]


class Retention(_Table, frozen=True, kw_only=True):
    """How many days after it was sent or received something is kept; None: for ever."""

    bodies_days: Days | None = None
    texts_days: Days | None = None
    numbers_days: Days | None = None


class Tariff(_Table, frozen=True, kw_only=True):
    """What a billed segment costs from `start` on (`from` in the file), in the account's zone."""

    start: Annotated[date, Meta(description="a date such as 2026-01-01, without quotes")] = (
        msgspec.field(name="from")
    )
    price: Annotated[Decimal, Meta(description=_PRICE)]
    currency: Annotated[
        str, Meta(pattern="^[A-Z]{3}$", description='three letters such as "CNY"')
    ] = "CNY"
    basis: Literal["delivered", "submitted"] = "delivered"


class _Account(_Table, frozen=True, kw_only=True):
    """What every account may say; a gateway's options stand beside these."""

    gateway: Text
    base_url: Annotated[str, Meta(description='an address such as "https://api.example.com"')] = ""
    credentials: Annotated[dict[str, Any], Meta(description="a table of the gateway's credentials")]
    callback_tokens: Annotated[
        tuple[Secret, ...], Meta(description=f"a list of tokens, each {_HIDDEN_TEXT}")
    ] = ()
    callback_networks: Annotated[Networks, Meta(description=_NETWORKS)] = Networks()
    known_networks: Annotated[Networks, Meta(description=_NETWORKS)] = Networks()
    clock_slack_seconds: Annotated[
        float, Meta(ge=0, le=31_536_000, description="a number of seconds")
    ] = 50_400  # as far as a wrong time zone takes a time: that is a mistake, and no forgery
    confirm_pushes: bool = False
    timezone: Zone | None = None
    poll_after_seconds: Annotated[
        float, Meta(ge=0, le=31_536_000, description="a number of seconds")
    ] = 120
    poll_until_hours: Annotated[
        float, Meta(gt=0, le=87_600, description="a number of hours above 0")
    ] = 72
    requests_per_second: Rate = 20
    callbacks_per_second: Rate | None = None
    segment_rule: Rule | None = None
    segment_unit: Unit | None = None
    monthly_budget: Amount | None = None
    low_balance: Amount | None = None
    low_balance_days: Annotated[
        float, Meta(ge=0, le=365, description="a number of days of at least 0")
    ] = 3
    retention: Retention = Retention()
    tariffs: Annotated[list[dict[str, Any]], Meta(description="tables headed [[….tariffs]]")] = (
        msgspec.field(default_factory=list)
    )


class AccountSettings(Struct, frozen=True, kw_only=True):
    """One set of credentials at one vendor; `tariffs` in the order of their first days.

    Pushes from outside `known_networks` (none: from anywhere) wait to be confirmed, as do all with
    `confirm_pushes`; a vendor's time may be off by `clock_slack_seconds`.
    Past `monthly_budget`, below `low_balance` of any kind, or with less than `low_balance_days` left,
    there is an alarm.
    `rule` and `unit` are how segments are counted: as the settings say, or else the gateway.
    """

    account: Account
    gateway: Gateway
    callback_tokens: tuple[Secret, ...]
    callback_networks: Networks
    known_networks: Networks
    clock_slack_seconds: float
    confirm_pushes: bool
    poll_after_seconds: float
    poll_until_hours: float
    requests_per_second: float
    callbacks_per_second: float | None
    rule: Rule
    unit: Unit
    tariffs: tuple[Tariff, ...]
    monthly_budget: Decimal | None = None
    low_balance: Decimal | None = None
    low_balance_days: float = 3
    retention: Retention = Retention()

    def tariff_on(self, day: date) -> Tariff | None:
        """The newest tariff from on or before `day`, a day in the account's zone; pure."""
        at = bisect_right(self.tariffs, day, key=lambda tariff: tariff.start)
        return self.tariffs[at - 1] if at else None


class _Columns(_Table, frozen=True, kw_only=True):
    vendor_message_id: Text
    phone: Text | None = None
    segments: Text | None = None
    amount: Text | None = None
    sent_at: Text | None = None
    status: Text | None = None
    currency: Text | None = None


# What is read of a line of a statement, in this order.
STATEMENT_COLUMNS = _Columns.__struct_fields__


class _Statement(_Table, frozen=True, kw_only=True):
    columns: _Columns
    sheet: Text | None = None
    encoding: Encoding | None = None
    delimiter: Delimiter | None = None
    time_format: Text | None = None


class StatementFormat(Struct, frozen=True, kw_only=True):
    """How to read one kind of statement file; `columns` has our name of a column and its heading.

    What is None is found out from the file.
    """

    columns: Mapping[str, str]
    sheet: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    time_format: str | None = None


class _File(_Table, frozen=True, kw_only=True):
    data_dir: Text = "./data"
    timezone: Zone = ZoneInfo("Asia/Shanghai")
    database: DatabaseSettings = DatabaseSettings()
    receiver: ReceiverSettings = msgspec.field(default_factory=ReceiverSettings)
    reconciler: ReconcilerSettings = ReconcilerSettings()
    retention: RetentionSettings = RetentionSettings()
    logs: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    alerts: Annotated[dict[str, Any], Meta(description="tables headed [alerts.NAME]")] = (
        msgspec.field(default_factory=dict)
    )
    accounts: Annotated[dict[str, Any], Meta(description="tables headed [accounts.NAME]")] = (
        msgspec.field(default_factory=dict)
    )
    statements: Annotated[dict[str, Any], Meta(description="tables headed [statements.NAME]")] = (
        msgspec.field(default_factory=dict)
    )


class Settings(Struct, frozen=True, kw_only=True):
    """What `file` says, checked; `secrets` are all that it names, for logs to leave out.

    `data_dir` is absolute; a relative one is taken from the folder of the file.
    """

    file: Path
    data_dir: Path
    timezone: ZoneInfo
    database: DatabaseSettings
    receiver: ReceiverSettings
    reconciler: ReconcilerSettings
    accounts: Mapping[str, AccountSettings]
    statements: Mapping[str, StatementFormat]
    secrets: tuple[Secret, ...]
    retention: RetentionSettings = RetentionSettings()
    logs: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    alerts: Mapping[str, Channel] = msgspec.field(default_factory=dict)

    def sharing(self) -> list[tuple[str, str]]:
        """Name each account that has the credentials of one before it, and that one, where it does harm.

        What waits at a vendor, or is listed there, belongs to a set of credentials: of the two each
        takes the other's reports.
        """
        first: dict[tuple[Any, ...], str] = {}
        found = []
        for name, settings in self.accounts.items():
            account = settings.account
            host = urlsplit(account.base_url).hostname
            other = first.setdefault((account.gateway, host, account.credentials), name)
            if other != name and not settings.gateway.supports.isdisjoint(_OF_CREDENTIALS):
                found.append((name, other))
        return found


def load(path: Path | None = None, env: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of `path`, else of `$HUIZHI_CONFIG`, else of `./huizhi.toml`.

    Raises `SettingsError` with one line for the first thing wrong. Reads the files and variables
    that secrets are kept in, and nothing else.
    """
    file = path or Path(env.get(FILE_VARIABLE) or DEFAULT_FILE)
    try:
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{file}: no such file; `huizhi init` writes one") from None
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file}: expected UTF-8") from None
    return parse(text, file, env)


def parse(text: str, file: Path, env: Mapping[str, str]) -> Settings:
    """Read settings from `text` as if it stood in `file`; raises `SettingsError` as `load` does."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: expected TOML: {error}".replace("\n", " ")) from None
    return _Reader(file, env).settings(tables)


def api_token(settings: Settings) -> Secret:
    """The API's token; where settings give none, the one kept in `api_token_file`.

    Makes that file, mode 600, if it is not there: once, also when several processes ask at once.
    Durable on return. Raises `SettingsError`.
    """
    if settings.reconciler.api_token is not None:
        return settings.reconciler.api_token
    return kept_secret(api_token_file(settings))


def kept_secret(file: Path) -> Secret:
    """The secret in `file`, made if it is not there, as `api_token` says; raises `SettingsError`."""
    try:
        if not file.exists():
            _make_token(file)
        token = file.read_text("utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read or made: {error.strerror}") from error
    if not token:
        raise SettingsError(f"{file}: expected a token; remove the file to have one made")
    return Secret(token)


def api_token_file(settings: Settings) -> Path:
    """Where `api_token` keeps a token that it made."""
    return settings.data_dir / "api-token"


def _make_token(file: Path) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)  # mode 600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as written:
            written.write(secrets.token_urlsafe(32) + "\n")
            written.flush()
            os.fsync(handle)
        # A link appears whole or not at all, and never replaces another process's token.
        os.link(name, file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        pass
    finally:
        Path(name).unlink()


class _Reader:
    """Turns the tables of one file into settings; keys in errors are dotted paths from its top."""

    def __init__(self, file: Path, env: Mapping[str, str]) -> None:
        self.file = file
        self.env = env
        self.secrets: list[Secret] = []

    def settings(self, tables: dict[str, Any]) -> Settings:
        url_key = "database.url"
        if self.env.get(DATABASE_VARIABLE) and isinstance(tables.get("database", {}), dict):
            url_key = DATABASE_VARIABLE
            given = {**tables.get("database", {}), "url": {"env": DATABASE_VARIABLE}}
            tables = {**tables, "database": given}
        read = self.convert("", tables, _File)
        url = read.database.url
        if url is not None and not url.reveal().startswith(("postgresql://", "postgres://")):
            raise self.wrong(url_key, 'expected an address such as "postgresql://user@host/name"')
        reconciler = read.reconciler
        if reconciler.api_token is None and not _loopback(reconciler.host):
            raise self.wrong(
                "reconciler.api_token",
                f"missing; expected {_HIDDEN_TEXT}, since host {reconciler.host} is not loopback",
            )
        return Settings(
            file=self.file,
            data_dir=self.file.absolute().parent / read.data_dir,
            timezone=read.timezone,
            database=read.database,
            receiver=read.receiver,
            reconciler=reconciler,
            accounts={
                name: self.account(name, table, read.timezone)
                for name, table in read.accounts.items()
            },
            statements={
                name: self.statement(name, table) for name, table in read.statements.items()
            },
            alerts={
                name: self.channel(name, table, read.accounts)
                for name, table in read.alerts.items()
            },
            secrets=tuple(self.secrets),
            retention=read.retention,
            logs=read.logs,
            telemetry=read.telemetry,
        )

    def account(self, name: str, table: Any, zone: ZoneInfo) -> AccountSettings:
        at = f"accounts.{_key(name)}"
        if not _ACCOUNT.fullmatch(name):
            raise self.wrong(
                at, "expected a name of at most 64 lower-case letters, digits and hyphens"
            )
        self.expect(at, table, dict, "a table")
        gateway = self.gateway(f"{at}.gateway", table)
        options = {field.encode_name for field in msgspec.structs.fields(gateway.options)}
        read = self.convert(
            at, {key: table[key] for key in table if key not in options}, _Account, known=options
        )
        base_url = read.base_url or gateway.default_base_url
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise self.wrong(
                f"{at}.base_url", 'expected an address such as "https://api.example.com"'
            )
        for index, token in enumerate(read.callback_tokens):
            if not _TOKEN.fullmatch(token.reveal()):
                raise self.wrong(
                    f"{at}.callback_tokens[{index}]",
                    "expected letters, digits, '-', '.', '_' and '~' only: it is part of a URL",
                )
        if read.confirm_pushes and "query_status" not in gateway.supports:
            raise self.wrong(
                f"{at}.confirm_pushes", f"expected false: {gateway.vendor} cannot be asked by id"
            )
        account = Account(
            name=name,
            gateway=gateway.name,
            base_url=base_url.rstrip("/"),
            zone=read.timezone or zone,
            credentials=self.convert(f"{at}.credentials", read.credentials, gateway.credentials),
            options=self.convert(
                at, {key: table[key] for key in table if key in options}, gateway.options
            ),
        )
        return AccountSettings(
            account=account,
            gateway=gateway,
            callback_tokens=read.callback_tokens,
            callback_networks=read.callback_networks,
            known_networks=read.known_networks,
            clock_slack_seconds=read.clock_slack_seconds,
            confirm_pushes=read.confirm_pushes,
            poll_after_seconds=read.poll_after_seconds,
            poll_until_hours=read.poll_until_hours,
            requests_per_second=read.requests_per_second,
            callbacks_per_second=read.callbacks_per_second,
            rule=read.segment_rule or gateway.rule(account),
            unit=read.segment_unit or gateway.unit,
            tariffs=self.tariffs(f"{at}.tariffs", read.tariffs),
            monthly_budget=_decimal(read.monthly_budget),
            low_balance=_decimal(read.low_balance),
            low_balance_days=read.low_balance_days,
            retention=self.retention(f"{at}.retention", read),
        )

    def retention(self, at: str, read: _Account) -> Retention:
        """Check that nothing goes while its vendor is still asked, and no number stays in what stays."""
        kept = read.retention
        for name in ("bodies_days", "texts_days", "numbers_days"):
            days = getattr(kept, name)
            if days is not None and days * 24 < read.poll_until_hours:
                raise self.wrong(
                    f"{at}.{name}",
                    f"expected days that are not over before poll_until_hours, {read.poll_until_hours:g}",
                )
            if name == "numbers_days" or kept.numbers_days is None:
                continue
            if days is None or days > kept.numbers_days:
                got = "missing; " if days is None else ""
                raise self.wrong(
                    f"{at}.{name}",
                    f"{got}expected at most numbers_days, {kept.numbers_days}, since numbers stand in them",
                )
        return kept

    def channel(self, name: str, table: Any, accounts: Mapping[str, Any]) -> Channel:
        at = f"alerts.{_key(name)}"
        if not _ACCOUNT.fullmatch(name):
            raise self.wrong(
                at, "expected a name of at most 64 lower-case letters, digits and hyphens"
            )
        self.expect(at, table, dict, "a table headed [alerts.NAME]")
        read = self.convert(at, table, Channel)
        if not _CHANNELS.match(read.url.reveal()):
            raise self.wrong(f"{at}.url", f"expected {_CHANNEL}")
        for key, given, there in (
            ("kinds", read.kinds, (*ALARM_KINDS, *NEWS_KINDS)),
            ("accounts", read.accounts, tuple(accounts)),
        ):
            for index, one in enumerate(given):
                if one not in there:
                    expected = ", ".join(there) or "none: there is no account"
                    raise self.wrong(f"{at}.{key}[{index}]", f"expected one of {expected}")
        return read

    def gateway(self, at: str, table: Mapping[str, Any]) -> Gateway:
        name = table.get("gateway")
        if name not in GATEWAY_NAMES:
            got = "missing; " if name is None else ""
            raise self.wrong(at, f"{got}expected one of {', '.join(GATEWAY_NAMES)}")
        if name not in GATEWAYS:
            raise self.wrong(
                at,
                f"{name} is not available yet in this version; expected one of"
                f" {', '.join(GATEWAYS)}",
            )
        return GATEWAYS[name]

    def tariffs(self, at: str, tables: list[dict[str, Any]]) -> tuple[Tariff, ...]:
        first: dict[date, int] = {}
        read = []
        for index, table in enumerate(tables):
            here = f"{at}[{index}]"
            price = table.get("price")
            # Text, or a whole number: a TOML float has lost the digits before we see it.
            if price is not None and not _PRICES.fullmatch(
                str(price) if type(price) in (str, int) else ""
            ):
                got = ", got a float" if isinstance(price, float) else ""
                raise self.wrong(f"{here}.price", f"expected {_PRICE}{got}")
            tariff = self.convert(here, table, Tariff)
            if tariff.start in first:
                raise self.wrong(
                    f"{here}.from",
                    f"expected a day of its own, and {tariff.start} is that of"
                    f" tariffs[{first[tariff.start]}]",
                )
            first[tariff.start] = index
            read.append(tariff)
        return tuple(sorted(read, key=lambda tariff: tariff.start))

    def statement(self, name: str, table: Any) -> StatementFormat:
        at = f"statements.{_key(name)}"
        if name == "generic":
            raise self.wrong(at, "expected another name: `generic` is built in")
        read = self.convert(at, table, _Statement)
        given = {name: getattr(read.columns, name) for name in STATEMENT_COLUMNS}
        if read.time_format is not None and not _tells_days(read.time_format):
            raise self.wrong(
                f"{at}.time_format", 'expected year, month and day, such as "%d/%m/%Y %H:%M"'
            )
        return StatementFormat(
            columns={name: heading for name, heading in given.items() if heading is not None},
            sheet=read.sheet,
            encoding=read.encoding,
            delimiter=read.delimiter,
            time_format=read.time_format,
        )

    def convert(self, at: str, value: Any, to: type[T], known: Set[str] = frozenset()) -> T:
        """Return `value` as `to`; `known` are keys that may stand there besides the type's own."""
        try:
            return msgspec.convert(value, to, builtin_types=(date,), dec_hook=self.special)
        except msgspec.ValidationError as error:
            words, _, path = str(error).partition(" - at `$")
            path = path.removesuffix("`")
        if match := re.fullmatch(r"Object contains unknown field `(.*)`", words, re.DOTALL):
            keys = [*_fields(_type_at(to, path)), *sorted(known)]
            near = difflib.get_close_matches(match[1], keys, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(keys)}"
            raise self.wrong(_join(at, path, match[1]), f"unknown key; {hint}")
        if match := re.fullmatch(r"Object missing required field `(.*)`", words):
            path = f"{path}.{match[1]}"
            raise self.wrong(
                _join(at, path), f"missing; expected {_description(_type_at(to, path))}"
            )
        if words.startswith(_OURS):
            raise self.wrong(_join(at, path), words.removeprefix(_OURS))
        got = re.search(r"got `(\w+)`", words)
        raise self.wrong(
            _join(at, path),
            f"expected {_description(_type_at(to, path))}"
            + (f", got {_WORDS.get(got[1], got[1])}" if got else ""),
        )

    def special(self, to: type, value: Any) -> Any:
        """Make the types that TOML has no word for; msgspec adds the key to what is raised."""
        if to is Secret:
            return self.secret(value)
        if to is ZoneInfo and isinstance(value, str):
            with contextlib.suppress(KeyError, ValueError, OSError):
                return ZoneInfo(value)
        elif to is Networks and isinstance(value, list):
            with contextlib.suppress(ValueError):
                return Networks(ip_network(str(text), strict=False) for text in value)
        raise ValueError("of another type")

    def secret(self, value: Any) -> Secret:
        match value:
            case str():
                text = value
            case {"env": str(name), **rest} if not rest:
                if name not in self.env:
                    raise ValueError(f"{_OURS}the environment variable {name} is not set")
                text = self.env[name]
            case {"file": str(name), **rest} if not rest:
                path = self.file.parent / name
                try:
                    text = path.read_text("utf-8").rstrip("\r\n")
                except (OSError, ValueError) as error:
                    reason = getattr(error, "strerror", None) or "not text in UTF-8"
                    raise ValueError(f"{_OURS}{path} cannot be read: {reason}") from None
            case _:
                raise ValueError("no secret")
        if not text or not text.isprintable():
            raise ValueError(f"{_OURS}expected text, got none or control characters")
        secret = Secret(text)
        self.secrets.append(secret)
        return secret

    def expect(self, at: str, value: Any, to: type, words: str) -> None:
        if not isinstance(value, to):
            raise self.wrong(at, f"expected {words}")

    def wrong(self, at: str, words: str) -> SettingsError:
        return SettingsError(f"{self.file}: {at}: {words}")


_ACCOUNT = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
# Calls that answer for a whole set of credentials, and not for a message that is asked about.
_OF_CREDENTIALS = frozenset({"pull_reports", "pull_inbound", "list_sent", "list_inbound"})
_CHANNELS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S")
_TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
_PRICES = re.compile(r"\d{1,9}(\.\d{1,9})?")
_OURS = "huizhi: "  # marks what `special` says itself among what msgspec says
_WORDS = {
    "str": "text",
    "int": "an integer",
    "float": "a float",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "date": "a date",
    "datetime": "a time",
    "time": "a time",
}
_TYPES: dict[Any, str] = {
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    Secret: _HIDDEN_TEXT,
}


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(name: str) -> str:
    """`name` as it stands in a dotted path; quoted where TOML would quote it."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _join(at: str, path: str, key: str | None = None) -> str:
    whole = at + path + (f".{_key(key)}" if key is not None else "")
    return whole.removeprefix(".") or "the file"


def _tells_days(time_format: str) -> bool:
    """Tell whether `strptime` reads a whole day by it."""
    at = datetime(2026, 10, 5, tzinfo=UTC)
    try:
        return datetime.strptime(at.strftime(time_format), time_format).date() == at.date()  # noqa: DTZ007
    except ValueError:
        return False


def _fields(to: Any) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(to)]


def _plain(to: Any) -> Any:
    """`to` without None beside it."""
    if typing.get_origin(to) in (typing.Union, types.UnionType):
        return next(one for one in typing.get_args(to) if one is not type(None))
    return to


def _type_at(to: Any, path: str) -> Any:
    """The annotation at msgspec's `path` (such as `.columns.phone`) below the Struct `to`."""
    for name in re.findall(r"\.(\w+)|\[", path):
        bare = _plain(to)
        if typing.get_origin(bare) is Annotated:
            bare = typing.get_args(bare)[0]
        if name:
            to = next(f.type for f in msgspec.structs.fields(bare) if f.encode_name == name)
        else:
            to = typing.get_args(bare)[0] if typing.get_args(bare) else str
    return _plain(to)


def _description(to: Any) -> str:
    """What an annotation wants, in words."""
    if typing.get_origin(to) is Annotated:
        for meta in typing.get_args(to)[1:]:
            if isinstance(meta, Meta) and meta.description:
                return meta.description
        to = typing.get_args(to)[0]
    if typing.get_origin(to) is Literal:
        return " or ".join(json.dumps(word) for word in typing.get_args(to))
    if isinstance(to, type) and issubclass(to, Enum):
        return " or ".join(json.dumps(one.value) for one in to)
    return _TYPES.get(to, "a table")
