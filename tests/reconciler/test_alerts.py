"""Alerts, by a real webhook: what is told, once and in its words, and what a failing channel does."""

import asyncio
import base64
import hmac
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog

from gateways.gateway import Secret
from reconciler import alarms, alert_words, alerts, channels
from reconciler import lease as leases
from reconciler.channels import NotSent
from runtime import LeaseLost, metrics
from runtime.settings import Settings, SettingsError, parse

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC).replace(microsecond=0)
TOKEN = "token-in-the-path-of-a-hook"


class Hook:
    """A webhook on a port of its own, and what it was told at which paths; answers `status` and `said`."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.status = 200
        self.said = b""
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if hook.status == 200:
                    hook.told.append(json.loads(body))
                    hook.paths.append(self.path)
                self.send_response(hook.status)
                self.send_header("content-length", str(len(hook.said)))
                self.end_headers()
                self.wfile.write(hook.said)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"json://{self.place}/{TOKEN}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.stop()


@pytest.fixture
def other() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.stop()


def settings(folder: Path, *channels: str) -> Settings:
    text = """
        [accounts.think]
        gateway = "thinkapi"
        credentials = { app_code = "code-of-the-account" }
        [accounts.sms]
        gateway = "thinksms"
        credentials = { user_id = "7", account = "me", password = "hush-hush" }
    """
    return parse("\n".join((text, *channels)), folder / "huizhi.toml", {})


def channel(hook: Hook, name: str = "ops", more: str = "") -> str:
    return f'[alerts.{name}]\nurl = "{hook.url}"\n{more}\n'


async def told(pool: Any, given: Settings, now: datetime) -> None:
    """Run the job once, as it is run."""
    async with leases.held(pool, "alerts:", holder="test") as lease:
        assert lease is not None
        await alerts.tell(given, lease, now=now)


async def raised(pool: Any, account: str, kind: str, now: datetime, **figures: Any) -> None:
    async with pool.acquire() as connection:
        await alarms.raise_(connection, account, kind, f"words of {kind}", figures, now=now)


async def ended(pool: Any, account: str, kind: str, now: datetime) -> None:
    async with pool.acquire() as connection:
        assert await alarms.end(connection, account, kind, now=now)


def minutes(count: float) -> datetime:
    return NOW + timedelta(minutes=count)


async def test_an_alarm_is_told_when_it_begins_once_again_after_hours_and_when_it_is_over(
    pool: Any, tmp_path: Path, hook: Hook
) -> None:
    given = settings(tmp_path, channel(hook, more="repeat_hours = 2"))
    await told(pool, given, NOW)
    assert hook.told == []
    await raised(pool, "think", "silence", minutes(1))
    for at in (2, 3, 60, 121):
        await told(pool, given, minutes(at))
    (first,) = hook.told
    assert first["title"] == "Huizhi 回执: 1 alert"
    assert first["message"].startswith("BEGAN · silence · think · ")
    assert first["message"].endswith("\nwords of silence")
    assert first["type"] == "warning"
    await told(pool, given, minutes(122))
    await told(pool, given, minutes(123))
    assert [each["message"].split(" · ")[0] for each in hook.told] == ["BEGAN", "STILL"]
    await ended(pool, "think", "silence", minutes(130))
    await told(pool, given, minutes(131))
    await told(pool, given, minutes(999))
    assert len(hook.told) == 3
    assert hook.told[-1]["message"].startswith("OVER · silence · think · ")
    assert hook.told[-1]["type"] == "success"
    # The same again is another alarm.
    await raised(pool, "think", "silence", minutes(1000))
    await told(pool, given, minutes(1001))
    assert hook.told[-1]["message"].startswith("BEGAN")


async def test_a_new_channel_is_told_what_stands_and_nothing_of_the_past(
    pool: Any, tmp_path: Path, hook: Hook
) -> None:
    await raised(pool, "think", "drift", minutes(-60))
    await ended(pool, "think", "drift", minutes(-50))
    await raised(pool, "think", "lost", minutes(-40))
    await raised(pool, alarms.HOUSE, "disk", minutes(-30))
    given = settings(tmp_path, channel(hook))
    await told(pool, given, NOW)
    (one,) = hook.told
    assert one["title"] == "Huizhi 回执: 2 alerts"
    assert "words of lost" in one["message"]
    assert "words of disk" in one["message"]
    assert "drift" not in one["message"]


async def test_a_channel_is_told_its_kinds_and_accounts_only(
    pool: Any, tmp_path: Path, hook: Hook, other: Hook
) -> None:
    given = settings(
        tmp_path,
        channel(hook, "money", 'kinds = ["balance", "budget"]'),
        channel(other, "sms", 'accounts = ["sms"]'),
    )
    for account, kind in (("think", "balance"), ("sms", "lost"), ("", "disk"), ("think", "drift")):
        await raised(pool, account, kind, NOW)
    await told(pool, given, minutes(1))
    assert [each["message"].partition("\n")[2] for each in hook.told] == ["words of balance"]
    assert [each["message"].partition("\n")[2] for each in other.told] == ["words of lost"]


async def test_a_failing_channel_holds_up_no_other_is_tried_again_and_loses_nothing(
    pool: Any, tmp_path: Path, hook: Hook, other: Hook
) -> None:
    given = settings(tmp_path, channel(hook, "down"), channel(other, "up"))
    await told(pool, given, NOW)
    hook.status = 500
    await raised(pool, "think", "silence", NOW)
    failed = metrics.ALERTS.labels("down", "failed")._value.get()
    with structlog.testing.capture_logs() as logs:
        await told(pool, given, minutes(1))
        # It waits half a minute, and twice as long then.
        await told(pool, given, minutes(1.4))
        await told(pool, given, minutes(1.6))
        await told(pool, given, minutes(2.5))
        await told(pool, given, minutes(2.7))
    assert metrics.ALERTS.labels("down", "failed")._value.get() == failed + 3
    sentences = [log["error"] for log in logs if log["event"] == "alert.not_sent"]
    assert sentences == ["it answered HTTP 500"] * 3
    assert TOKEN not in str(logs)
    row = await pool.fetchrow("SELECT * FROM alert_channels WHERE name = 'down'")
    assert (row["failures_in_row"], row["error"]) == (3, "it answered HTTP 500")
    # That it fails is an alarm, which the other tells.
    await told(pool, given, minutes(3))
    assert [each["message"].split(" · ")[1] for each in other.told] == ["silence", "alerts"]
    # What came and went meanwhile is told all the same, and all of it once.
    await ended(pool, "think", "silence", minutes(4))
    hook.status = 200
    await told(pool, given, minutes(10))
    (whole,) = hook.told
    assert "CAME AND WENT · silence · think" in whole["message"]
    await told(pool, given, minutes(11))
    standing = await pool.fetch("SELECT kind FROM alarms WHERE ended_at IS NULL")
    assert [row["kind"] for row in standing] == []
    await told(pool, given, minutes(12))
    assert len(hook.told) == 2
    assert "OVER · alerts" in hook.told[1]["message"]
    assert "OVER · alerts" in other.told[-1]["message"]


async def test_one_that_cannot_be_reached_is_told_of_without_its_address() -> None:
    with pytest.raises(NotSent, match=r"^it cannot be reached, or did not take it$"):
        await channels.send(Secret(f"json://127.0.0.1:9/{TOKEN}"), title="t", body="b", tone="info")
    with pytest.raises(NotSent) as caught:
        await channels.send(Secret(f"nosuch://{TOKEN}"), title="t", body="b", tone="info")
    assert TOKEN not in str(caught.value)


async def test_one_that_does_not_answer_is_given_up(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "SEND_SECONDS", 0.2)
    held = await asyncio.start_server(_hang, "127.0.0.1", 0)
    port = held.sockets[0].getsockname()[1]
    async with held:
        with pytest.raises(NotSent, match="did not answer within"):
            await channels.send(
                Secret(f"json://127.0.0.1:{port}/x?rto=1"), title="t", body="b", tone="info"
            )
        await asyncio.sleep(1.2)  # until the library has given up too


async def _hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_who_lost_the_lease_tells_nobody(pool: Any, tmp_path: Path, hook: Hook) -> None:
    given = settings(tmp_path, channel(hook))
    await raised(pool, "think", "silence", NOW)
    async with leases.held(pool, "alerts:", holder="hung") as hung:
        assert hung is not None
        await pool.execute("UPDATE leases SET expires_at = now()")
        with pytest.raises(LeaseLost):
            await alerts.tell(given, hung, now=NOW)
    assert hook.told == []


async def test_much_that_is_due_goes_into_several_messages(
    pool: Any, tmp_path: Path, hook: Hook
) -> None:
    given = settings(tmp_path, channel(hook))
    for account in ("think", "sms"):
        for kind in alarms.KINDS[:8]:
            await raised(pool, account, kind, NOW)
    await told(pool, given, minutes(1))
    await told(pool, given, minutes(2))
    await told(pool, given, minutes(3))
    assert [each["message"].count("BEGAN") for each in hook.told] == [10, 6]


@pytest.fixture
def reviewed(pool: Any) -> Any:
    async def review(
        id: str, status: str, came: datetime, reason: str | None, updated: datetime
    ) -> None:
        await pool.execute(
            "INSERT INTO review_results (account, kind, vendor_id, fingerprint, status, vendor_code,"
            " reason, received_at, updated_at, source, digest)"
            " VALUES ('think', 'sign', $1, sha256($2::text::bytea), $3, '1', $4, $5, $6, 'push', '')",
            id,
            f"{id}{status}{came}",
            status,
            reason,
            came,
            updated,
        )
        await pool.execute(
            "INSERT INTO reviews (account, kind, vendor_id, status, name, reason, updated_at)"
            " VALUES ('think', 'sign', $1, $2, '顶想云', $3, $4)"
            " ON CONFLICT (account, kind, vendor_id) DO UPDATE SET status = excluded.status,"
            " reason = excluded.reason, updated_at = excluded.updated_at",
            id,
            status,
            reason,
            updated,
        )

    return review


async def test_verdicts_on_signs_and_templates_are_told_once_each(
    pool: Any, tmp_path: Path, hook: Hook, reviewed: Any
) -> None:
    given = settings(tmp_path, channel(hook))
    await reviewed("77", "approved", minutes(-60), None, minutes(-60))
    await told(pool, given, NOW)
    assert hook.told == []
    await reviewed("78", "rejected", minutes(1), "call 13912345678", minutes(1))
    for at in (2, 3):
        await told(pool, given, minutes(at))
    (one,) = hook.told
    assert one["message"].startswith("REJECTED · review · think · ")
    assert one["message"].endswith("sign 78 顶想云: call …5678")
    # Submitted again, and rejected again.
    await reviewed("78", "rejected", minutes(9), "again", minutes(9))
    await told(pool, given, minutes(10))
    await reviewed("78", "approved", minutes(19), None, minutes(19))
    await told(pool, given, minutes(20))
    assert [each["message"].split(" · ")[0] for each in hook.told] == [
        "REJECTED",
        "REJECTED",
        "APPROVED",
    ]
    assert hook.told[-1]["type"] == "success"


FIGURES: dict[str, dict[str, Any]] = {
    "silence": {"minutes": 10, "expected": 42.3, "came": 0, "kind": "silence"},
    "loss": {"minutes": 30, "expected": 42.3, "came": 20, "kind": "loss"},
    "suspects": {"waiting": 3, "contradicted": 1},
    "clock": {"reports": 27, "hours": -8},
    "drift": {"features": 2},
    "quarantine": {"hour": 5, "day": 9, "waiting": 12},
    "lost": {"pages": 2},
    "job": {"jobs": ["balance"], "failures_in_row": 4},
    "balance": {"balances": [{"kind": "overage", "left": "7", "days": "0.5"}]},
    "budget": {"month": "2026-11", "budget": "9", "sent": "10", "billed": "0", "currency": "CNY"},
    "spool": {"host": "h", "records": 7, "minutes": 6},
    "disk": {"host": "h", "free_gib": "0.5"},
    "erasure": {"broken_off": 1, "held": 2},
    "channel": {"channels": ["ops"]},
}


def test_every_kind_has_a_name_and_a_sentence_in_both_languages() -> None:
    assert set(FIGURES) == set(alarms.KINDS)
    for language in ("en", "zh"):
        assert set(alert_words.KINDS[language]) == {*alarms.KINDS, "review"}
    assert set(alert_words.WHAT["en"]) == set(alert_words.WHAT["zh"])
    for kind, figures in FIGURES.items():
        chinese = alert_words.sentence("zh", kind, "words", figures)
        assert any("一" <= letter <= "鿿" for letter in chinese), kind
        assert alert_words.sentence("en", kind, "words", figures) == "words"
        # Of what an older version noted.
        assert alert_words.sentence("zh", kind, "words", {}) == "words"


async def test_chinese_is_told_where_it_is_asked_for(pool: Any, tmp_path: Path, hook: Hook) -> None:
    given = settings(tmp_path, channel(hook, more='language = "zh"'))
    await raised(pool, "think", "lost", NOW, pages=3)
    await told(pool, given, minutes(1))
    (one,) = hook.told
    assert one["title"] == "Huizhi 回执：1 条通知"
    assert one["message"].startswith("发生 · 丢失的页 · think · ")
    assert "最近一天可能丢失了 3 页" in one["message"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('url = "no address"', "alerts.ops.url: expected an address such as"),
        ('url = "json://x"\nkinds = ["noise"]', "alerts.ops.kinds[0]: expected one of silence"),
        (
            'url = "json://x"\naccounts = ["x"]',
            "alerts.ops.accounts[0]: expected one of think, sms",
        ),
        ('url = "json://x"\nlanguage = "fr"', "alerts.ops.language: expected"),
        ('url = "json://x"\nrepeat_hours = 0', "alerts.ops.repeat_hours: expected a number"),
        ('urls = "json://x"', "alerts.ops.urls: unknown key; did you mean url?"),
    ],
)
def test_wrong_channels_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(tmp_path, f"[alerts.ops]\n{text}")
    assert words in str(caught.value)
    assert "no address" not in str(caught.value)


def test_an_address_is_a_secret(tmp_path: Path) -> None:
    given = settings(tmp_path, f'[alerts.ops]\nurl = "json://host/{TOKEN}"')
    assert TOKEN not in repr(given)
    assert TOKEN in [each.reveal() for each in given.secrets][-1]


def test_no_process_loads_the_library_before_it_has_something_to_send() -> None:
    code = (
        "import huizhi.alerts, huizhi.doctor, reconciler.worker, receiver.worker, sys\n"
        "print('apprise' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


@pytest.mark.parametrize(
    "url",
    [
        "dingtalk://abcdef0123456789",
        "dingtalk://SECabcdef0123456789@abcdef0123456789",
        "wecombot://693a91f6-7xxx-4bc4-97a0-0ec2sifa5aaa",
        "feishu://693a91f6-7aaa-4bc4-97a0-0ec2sifa5aaa",
        "feishu://abcdef0123456789@693a91f6-7aaa-4bc4-97a0-0ec2sifa5aaa",
        "mailtos://me:secret@smtp.example.com:465?from=me@example.com&to=you@example.com&mode=ssl",
        "jsons://hooks.example.com/path",
        "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=693a91f6-7xxx-4bc4-97a0-0ec2sifa5aaa",
    ],
)
def test_documented_addresses_are_understood(url: str) -> None:
    channels.check(Secret(url))


# --- group robots -------------------------------------------------------------------------------------

KEY = "693a91f6-7aaa-4bc4-97a0-0ec2sifa5aaa"
SIGNING = "SECabcdef0123456789"
TAKEN = {"dingtalk": b'{"errcode":0,"errmsg":"ok"}', "wecombot": b'{"errcode":0,"errmsg":"ok"}'}
TAKEN["feishu"] = b'{"StatusCode":0,"StatusMessage":"success","code":0,"data":{},"msg":"success"}'
DROPPED = {
    "dingtalk": (b'{"errcode":310000,"errmsg":"keywords not in content"}', "310000"),
    "wecombot": (b'{"errcode":93000,"errmsg":"invalid webhook url"}', "93000"),
    "feishu": (b'{"code":19024,"msg":"Key Words Not Found","data":{}}', "19024"),
}


@pytest.fixture
def robots(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> Hook:
    """The three services, all at one hook."""
    from reconciler.robots import DingTalk, Feishu, WeCom

    for robot in (DingTalk, Feishu, WeCom):
        path = robot.notify_url.partition("://")[2].partition("/")[2]
        monkeypatch.setattr(robot, "notify_url", f"http://{hook.place}/{path}")
        monkeypatch.setattr(robot, "request_rate_per_sec", 0)
    return hook


async def sent(schema: str, body: str = "three pages may be lost") -> None:
    url = Secret(
        f"{schema}://{KEY.replace('-', '')}" if schema == "dingtalk" else f"{schema}://{KEY}"
    )
    await channels.send(url, title="Huizhi", body=body, tone="warning")


@pytest.mark.parametrize(
    ("schema", "said"),
    [*TAKEN.items(), ("feishu", b'{"Extra":null,"StatusCode":0,"StatusMessage":"success"}')],
)
async def test_robot_that_takes_a_message_is_believed(
    robots: Hook, schema: str, said: bytes
) -> None:
    robots.said = said
    await sent(schema)
    (one,) = robots.told
    text = one["content"]["text"] if schema == "feishu" else one["text"]["content"]
    assert text.split() == ["Huizhi", "three", "pages", "may", "be", "lost"]


@pytest.mark.parametrize("schema", DROPPED)
async def test_robot_that_drops_a_message_and_answers_200_is_not_believed(
    robots: Hook, schema: str
) -> None:
    robots.said, number = DROPPED[schema]
    with pytest.raises(NotSent) as caught:
        await sent(schema)
    assert str(caught.value) == f"it dropped the message: it answered {number}"
    robots.status = 503
    with pytest.raises(NotSent, match=r"^it answered HTTP 503$"):
        await sent(schema)
    robots.status, robots.said = 200, b"<html>somebody else's page</html>"
    with pytest.raises(NotSent, match=r"^it cannot be reached, or did not take it$"):
        await sent(schema)
    robots.said = b"{}"
    with pytest.raises(NotSent, match=r"^it cannot be reached, or did not take it$"):
        await sent(schema)
    robots.stop()
    with pytest.raises(NotSent, match=r"^it cannot be reached, or did not take it$"):
        await sent(schema)


async def test_dingtalk_is_sent_the_signature_that_it_works_out_itself(robots: Hook) -> None:
    robots.said = TAKEN["dingtalk"]
    # A base64 text has a = at its end, and mostly a + or a /.
    for _ in range(5):
        url = Secret(f"dingtalk://{SIGNING}@{KEY.replace('-', '')}")
        await channels.send(url, title="Huizhi", body="words", tone="warning")
    for path in robots.paths:
        query = parse_qs(urlsplit(path).query, strict_parsing=True)
        (timestamp,), (sign,) = query["timestamp"], query["sign"]
        # https://open.dingtalk.com/document/robots/customize-robot-security-settings
        signed = f"{timestamp}\n{SIGNING}".encode()
        own = hmac.new(SIGNING.encode(), signed, "sha256").digest()
        assert base64.b64decode(sign, validate=True) == own
        assert query["access_token"] == [KEY.replace("-", "")]


async def test_feishu_is_sent_the_signature_that_it_works_out_itself(robots: Hook) -> None:
    robots.said = TAKEN["feishu"]
    await channels.send(Secret(f"feishu://{SIGNING}@{KEY}"), title="t", body="b", tone="warning")
    (one,) = robots.told
    # https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot: the key is signed, and no words.
    own = hmac.new(f"{one['timestamp']}\n{SIGNING}".encode(), b"", "sha256").digest()
    assert base64.b64decode(one["sign"], validate=True) == own
    assert abs(datetime.now(UTC).timestamp() - int(one["timestamp"])) < 60
    assert robots.paths == [f"/open-apis/bot/v2/hook/{KEY}"]


async def test_long_message_goes_to_wecom_in_parts_that_it_takes(robots: Hook) -> None:
    robots.said = TAKEN["wecombot"]
    body = "\n".join(f"{number} 可能丢失了三页回执，请尽快向厂商核实" for number in range(100))
    await sent("wecombot", body)
    parts = [one["text"]["content"] for one in robots.told]
    assert max(len(part.encode()) for part in parts) <= 2048
    assert "".join("".join(parts).split()).endswith("".join(body.split()))
