"""`huizhi demo`: a month of traffic with faults, played over real HTTP against a real database.

Three parties as in life: the sandbox plays the vendors, this module plays the company's application
(it sends, and registers what it sent), and Huizhi's own processes receive, recover and reconcile.
At the end the sandbox's truth is held against what Huizhi found, fault by fault.
"""

import asyncio
import contextlib
import logging
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import httpx
import msgspec
import rich_click as click

from gateways.errors import Indeterminate, Unavailable
from gateways.events import ReviewKind
from gateways.http import open_client
from huizhi.options import show_table
from huizhi.reconcile import show_result
from reconciler import reviews
from reconciler.poll import callers
from runtime import Problem, logs
from runtime.database import connected
from runtime.queries import QUERIES
from runtime.settings import Settings, load

ZONE = ZoneInfo("Asia/Shanghai")
THINK, SMS = "think-main", "sms-main"
VENDORS = {THINK: "thinkapi", SMS: "thinksms"}
SIGN = "顶想云"
RECOVERY_SECONDS = 90.0
START_SECONDS = 60.0
REVIEWS = 20

Key = tuple[str, str, str]  # account, vendor_message_id, phone

_SETTINGS = """\
data_dir = "data"

[receiver]
host = "127.0.0.1"
port = {receiver}
workers = 2

[reconciler]
host = "127.0.0.1"
port = {reconciler}
api_token = "{api_token}"

[accounts.think-main]
gateway = "thinkapi"
base_url = "{sandbox}/thinkapi"
credentials = {{ app_code = "{app_code}" }}
callback_tokens = ["{think_token}"]
poll_after_seconds = 1
requests_per_second = 500
[[accounts.think-main.tariffs]]
from = 2020-01-01
price = "0.035"
currency = "CNY"
basis = "delivered"

[accounts.sms-main]
gateway = "thinksms"
base_url = "{sandbox}/thinksms"
credentials = {{ user_id = "1001", account = "demo", password = "{password}" }}
callback_tokens = ["{sms_token}"]
poll_after_seconds = 1
requests_per_second = 500
status_num = 100
[[accounts.sms-main.tariffs]]
from = 2020-01-01
price = "0.045"
currency = "CNY"
basis = "submitted"
"""

_SANDBOX = """\
port = {sandbox_port}
seed = {seed}
truth_path = "{folder}/truth.jsonl"
hold_pushes = true
strict = true

[outcomes]
failed = 0.06
never_final = 0.01

[faults]
push_lost = 0.03
push_doubled = 0.03
push_reordered = 0.03
push_early = 0.03
push_contradicting = 0.01
push_forged = 0.01
push_malformed = 0.02
reply_slow = 0.02
reply_429 = 0.03
reply_500 = 0.03
reply_cut = 0.03
page_cut = 0.12
billed_not_sent = 0.004
billed_not_delivered = 0.1
billed_twice = 0.004
billed_out_of_period = 0.1
segments_differ = 0.004
price_differs = 0.004
segments_and_price_differ = 0.002
not_billed = 0.004
statement_at_least = 2

[thinkapi.accounts.think-main]
app_code = "{app_code}"
callback_url = "{receiver_url}/callbacks/think-main/{think_token}"
signs = [{{ id = 78, name = "顶想云", remark = "用于短信通知和验证码" }}]
templates = [
  {{ id = 234, name = "验证码", content = "您的验证码是${{code}},五分钟内有效。" }},
  {{ id = 235, name = "订单通知", content = "你有一个新的${{name}}订单,请及时处理!" }},
  {{ id = 236, name = "服务通知", content = "{long_template}" }},
]

[thinksms.accounts.sms-main]
user_id = "1001"
account = "demo"
password = "{password}"
callback_url = "{receiver_url}/callbacks/sms-main/{sms_token}"
inbound_rate = 0.02
count_by = "utf16"
"""

_LONG_TEMPLATE = (
    "尊敬的${name},您预约的上门服务已由工程师接单,预计今天下午到达,请保持电话畅通;如需改期"
    "请提前两小时在订单页面修改,逾期将按已上门处理。感谢您的支持,我们会继续努力为您服务。"
)
# Texts that the second vendor's customer sends: one segment, two, three, and some emoji.
_TEXTS = (
    "您的验证码是{n},五分钟内有效。",
    "您的订单{n}已发货,请注意查收。",
    "会员{n}您好,本月账单已出,请登录查看;如有疑问请致电客服,我们将竭诚为您服务。" * 2,
    "尊敬的用户{n},系统将于本周六凌晨进行升级维护,期间部分功能暂停使用,敬请谅解。" * 4,
    "生日快乐🎂{n}号会员,送您一张优惠券🎁,点击领取。",
)


class Sent(NamedTuple):
    """One message as the company's application knows it: just what it can register."""

    account: str
    vendor_message_id: str
    phone: str
    sent_at: datetime
    content: str
    sign: str | None


class Row(NamedTuple):
    """One kind of fault: how many there were, were found, and were seen where there was none."""

    kind: str
    injected: int
    found: int
    false: int
    how: str

    @property
    def right(self) -> bool:
        """Whether all were found and none was imagined."""
        return self.injected == self.found and self.false == 0


@click.command()
@click.option("--messages", default=5500, show_default=True, help="How many to send.")
@click.option("--seed", default=7, show_default=True, help="Decides texts, times and faults.")
@click.option("--keep", is_flag=True, help="Leave everything up afterwards, until Ctrl-C.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-data"),
    show_default=True,
    help="Made anew each time.",
)
def demo(messages: int, seed: int, keep: bool, folder: Path) -> int:
    """Play a month of traffic with faults, then recover, reconcile, and say what was found.

    Exits 0 only if every injected fault was found, none was falsely reported, and all sums agree.
    """
    return asyncio.run(_Demo(messages, seed, folder.absolute()).play(keep))


class _Demo:
    def __init__(self, messages: int, seed: int, folder: Path) -> None:
        self._messages = messages
        self._random = random.Random(seed)  # noqa: S311  a play repeats itself
        self._seed = seed
        self._folder = folder
        self._started = time.monotonic()
        self._month = _past_month(datetime.now(ZONE))
        self._values = {
            "seed": seed,
            "folder": folder,
            "long_template": _LONG_TEMPLATE,
            "app_code": secrets.token_urlsafe(18),
            "password": secrets.token_urlsafe(18),
            "think_token": secrets.token_urlsafe(24),
            "sms_token": secrets.token_urlsafe(24),
            "api_token": secrets.token_urlsafe(24),
        }
        self._log = folder / "processes.log"
        self._problems: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    async def play(self, keep: bool) -> int:
        """Play everything and return the exit code."""
        self._prepare()
        period = f"{self._month:%Y-%m}"
        click.echo(
            f"A month of traffic ({period}) over two vendors; everything is in {self._folder}\n"
        )
        async with contextlib.AsyncExitStack() as stack:
            self._run(stack, "sandbox", "--config", "sandbox.toml")
            self._run(stack, "receiver")
            http = await stack.enter_async_context(
                httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=32))
            )
            await self._answers(http, f"{self._values['receiver_url']}/health/ready")
            await self._answers(http, f"{self._values['sandbox']}/_sandbox/stats")
            self._say("receiver and vendors are up")

            sent = await self._send(http)
            self._say(f"{len(sent)} messages sent to the vendors; some reports came at once")
            await self._register(sent)
            settings = load(self._folder / "huizhi.toml")
            await self._submit_reviews(settings)
            released = await self._control(http, "release", {})
            self._say(f"all registered, signs and templates submitted; pushed: {_listed(released)}")

            self._run(stack, "reconciler")
            await self._answers(http, f"{self._values['api']}/health/ready")
            truth = await self._truth(http)
            async with connected(settings, "demo") as pool:
                waited = await self._recovered(pool, http)
                self._say(
                    f"reconciler started; what the pushes lacked was recovered in {waited:.0f} s"
                )
                results = await self._reconcile(http, period)
                self._say("statements imported and reconciled, twice, with the same result\n")
                truth = await self._truth(http)
                rows = await self._compare(pool, truth, results)
                counts = dict(await pool.fetchrow(QUERIES["demo_counts"]))
            for result in results.values():
                show_result(result["result"])
                click.echo()
            _show_rows(rows)
            return await self._end(rows, counts, keep, settings)

    # The parties

    def _prepare(self) -> None:
        marker = self._folder / "truth.jsonl"
        if self._folder.exists():
            if any(self._folder.iterdir()) and not (self._folder / "sandbox.toml").exists():
                raise Problem(f"{self._folder} is not a demo's folder; name another with --folder")
            shutil.rmtree(self._folder)
        marker.parent.mkdir(parents=True)
        receiver, reconciler, vendors = _free_ports(3)
        self._values |= {
            "receiver": receiver,
            "reconciler": reconciler,
            "sandbox_port": vendors,
            "receiver_url": f"http://127.0.0.1:{receiver}",
            "api": f"http://127.0.0.1:{reconciler}",
            "sandbox": f"http://127.0.0.1:{vendors}",
        }
        for name, text in (("huizhi.toml", _SETTINGS), ("sandbox.toml", _SANDBOX)):
            file = self._folder / name
            file.touch(mode=0o600)
            file.write_text(text.format(**self._values), "utf-8")

    def _run(self, stack: contextlib.AsyncExitStack, *command: str) -> None:
        """Start a process of ours and have it stopped, and waited for, at the end."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("HUIZHI_")}
        env.pop("DATABASE_URL", None)
        with self._log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  our own command
                [sys.executable, "-m", "huizhi", *command],
                cwd=self._folder,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        stack.callback(_stop, process)
        self._processes.append(process)

    async def _answers(self, http: httpx.AsyncClient, url: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await http.get(url)).status_code == 200:
                    return
            ended = any(process.poll() is not None for process in self._processes)
            if ended or time.monotonic() > deadline:
                raise Problem(f"{url} does not answer; see {self._log}")
            await asyncio.sleep(0.05)

    async def _control(self, http: httpx.AsyncClient, what: str, order: dict[str, Any]) -> Any:
        reply = await http.post(
            f"{self._values['sandbox']}/_sandbox/{what}", json=order, timeout=120
        )
        reply.raise_for_status()
        return reply.json()

    async def _truth(self, http: httpx.AsyncClient) -> list[dict[str, Any]]:
        reply = await http.get(f"{self._values['sandbox']}/_sandbox/truth", timeout=120)
        return [msgspec.json.decode(line) for line in reply.content.splitlines()]

    # The company's application

    async def _send(self, http: httpx.AsyncClient) -> list[Sent]:
        """Send at the times of a month, a little of the months around it included."""
        jobs = [
            *self._think_jobs(self._messages * 6 // 11),
            *self._sms_jobs(self._messages * 5 // 11),
        ]
        self._random.shuffle(jobs)
        sent: list[Sent] = []
        waiting = iter(jobs)

        async def work() -> None:
            for send, at, *rest in waiting:
                sent.extend(await send(http, at, *rest))

        await asyncio.gather(*(work() for _ in range(16)))
        return sent

    def _think_jobs(self, count: int) -> Iterator[tuple[Any, ...]]:
        for number in range(count):
            code = str(self._random.randrange(100000, 999999))
            template, params, content = self._random.choice(
                (
                    (234, {"code": code}, f"您的验证码是{code},五分钟内有效。"),
                    (235, {"name": f"生鲜{code}"}, f"你有一个新的生鲜{code}订单,请及时处理!"),
                    (
                        236,
                        {"name": f"{code}号用户"},
                        _LONG_TEMPLATE.replace("${name}", f"{code}号用户"),
                    ),
                )
            )
            phone = f"138{number:08d}"
            yield self._think_send, self._time(), template, params, phone, content

    async def _think_send(
        self,
        http: httpx.AsyncClient,
        at: datetime,
        template: int,
        params: dict[str, str],
        phone: str,
        content: str,
    ) -> list[Sent]:
        reply = await http.get(
            f"{self._values['sandbox']}/thinkapi/sms/send",
            params={
                "signId": 78,
                "templateId": template,
                "phone": phone,
                "params": msgspec.json.encode(params).decode(),
            },
            headers={
                "Authorization": f"AppCode {self._values['app_code']}",
                "X-Sandbox-Time": at.isoformat(),
            },
        )
        answer = reply.json()
        if answer["code"] != 0:
            raise Problem(f"the sandbox refused a send: {answer['message']}")
        return [Sent(THINK, str(answer["data"]["id"]), phone, at, content, SIGN)]

    def _sms_jobs(self, count: int) -> Iterator[tuple[Any, ...]]:
        number = 0
        while number < count:
            many = min(self._random.choice((1, 5, 20, 50)), count - number)
            phones = [f"139{number + step:08d}" for step in range(many)]
            text = self._random.choice(_TEXTS).format(n=self._random.randrange(1000, 9999))
            yield self._sms_send, self._time(), phones, f"【{SIGN}】{text}"
            number += many

    async def _sms_send(
        self, http: httpx.AsyncClient, at: datetime, phones: list[str], content: str
    ) -> list[Sent]:
        reply = await http.post(
            f"{self._values['sandbox']}/thinksms/sms.aspx",
            data={
                "action": "send",
                "userid": "1001",
                "account": "demo",
                "password": self._values["password"],
                "mobile": ",".join(phones),
                "content": content,
                "rt": "json",
            },
            headers={"X-Sandbox-Time": at.isoformat()},
        )
        answer = reply.json()
        if answer["ReturnStatus"] != "Success":
            raise Problem(f"the sandbox refused a send: {answer['Message']}")
        return [Sent(SMS, str(answer["TaskID"]), phone, at, content, None) for phone in phones]

    def _time(self) -> datetime:
        """A second of the month, now and then of the last days before it or the first after."""
        draw = self._random.random()
        start, days = self._month, (_next_month(self._month) - self._month).days
        if draw < 0.03:
            start, days = start - timedelta(days=3), 3
        elif draw < 0.06:
            start, days = _next_month(start), 3
        return start + timedelta(seconds=self._random.randrange(days * 86_400))

    async def _register(self, sent: list[Sent]) -> None:
        """Register what was sent as a nightly job would: a file, and the command line."""
        file = self._folder / "sent.ndjson"
        rows = (
            {
                "account": each.account,
                "vendor_message_id": each.vendor_message_id,
                "phone": each.phone,
                "sent_at": each.sent_at.isoformat(),
                "content": each.content,
                "sign": each.sign,
            }
            for each in sent
        )
        file.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        command = ("sent", "import", file.name, "--output", "json")
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "huizhi", *command),
                cwd=self._folder,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
            output, _ = await process.communicate()
        done = msgspec.json.decode(output) if output else {}
        if process.returncode != 0 or done.get("recorded") != len(sent):
            raise Problem(f"`huizhi {' '.join(command)}` did not register all; see {self._log}")

    async def _submit_reviews(self, settings: Settings) -> None:
        """Submit signs and templates through Huizhi: their verdicts come by push, once."""
        logs.configure(secrets=settings.secrets, level=logging.CRITICAL)  # faults are the play
        async with connected(settings, "demo") as pool, open_client() as http:
            caller = callers(settings, pool, http, recorder="demo")[THINK]
            for number in range(1, REVIEWS + 1):
                texts = {
                    ReviewKind.SIGN: (f"顶想云{number}店", None),
                    ReviewKind.TEMPLATE: (
                        f"门店{number}通知",
                        f"${{name}}您好,{number}号门店的订单已备好,请凭${{code}}领取。",
                    ),
                }
                for kind, (name, content) in texts.items():
                    # The vendor's reply may be spoilt: then it is not known whether it was taken, and
                    # it is not submitted again. If it was, the verdict's push tells.
                    with contextlib.suppress(Indeterminate, Unavailable):
                        await reviews.submit(
                            caller, kind, name=name, content=content, remark="门店通知"
                        )

    # Recovery and reconciliation

    async def _recovered(self, pool: Any, http: httpx.AsyncClient) -> float:
        """Wait until nothing waits for a report: all of them came, or are known to be missing."""
        started = time.monotonic()
        quiet = 0
        while quiet < 2:
            counts = await pool.fetchrow(QUERIES["demo_counts"])
            waiting = [
                row
                for row in await self._truth(http)
                if any(report["handed"] == "queued" for report in row.get("reports", ()))
                or (row["type"] == "inbound" and row["handed"] == "queued")
            ]
            left = counts["awaiting"] + counts["unsettled"] + counts["in_review"] + len(waiting)
            quiet = 0 if left else quiet + 1
            if time.monotonic() - started > RECOVERY_SECONDS:
                self._problems.append(
                    f"after {RECOVERY_SECONDS:.0f} s {left} reports and verdicts are still missing"
                )
                break
            await asyncio.sleep(0.5)
        return time.monotonic() - started

    async def _reconcile(self, http: httpx.AsyncClient, period: str) -> dict[str, dict[str, Any]]:
        """Upload each vendor's bill and reconcile it; a second run must give the same bytes."""
        authorization = {"Authorization": f"Bearer {self._values['api_token']}"}
        api = self._values["api"]
        results: dict[str, dict[str, Any]] = {}
        for account, vendor in VENDORS.items():
            file = self._folder / f"{account}-{period}.csv"
            expected = await self._control(
                http,
                "statements",
                {"vendor": vendor, "account": account, "period": period, "path": str(file)},
            )
            uploaded = await http.post(
                f"{api}/v1/statements",
                headers=authorization,
                data={"account": account, "period": period},
                files={"file": (file.name, file.read_bytes())},
            )
            if uploaded.status_code != 200:
                raise Problem(f"the statement was not imported: {uploaded.text}")
            runs = []
            for _ in range(2):
                reply = await http.post(
                    f"{api}/v1/reconciliations",
                    headers=authorization,
                    json={"account": account, "period": period},
                    timeout=120,
                )
                if reply.status_code != 200:
                    raise Problem(f"the reconciliation failed: {reply.text}")
                result = reply.json()
                discrepancies = await self._discrepancies(http, authorization, result["id"])
                runs.append((result, discrepancies))
            (result, discrepancies), (again, discrepancies_again) = runs
            if {**result, "id": ""} != {**again, "id": ""} or discrepancies != discrepancies_again:
                self._problems.append(f"{account}: a second run gave another result")
            results[account] = {
                "expected": expected,
                "result": result,
                "discrepancies": discrepancies,
            }
        return results

    async def _discrepancies(
        self, http: httpx.AsyncClient, authorization: dict[str, str], run: str
    ) -> list[dict[str, Any]]:
        url = f"{self._values['api']}/v1/reconciliations/{run}/discrepancies"
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            reply = await http.get(url, headers=authorization, params={"limit": "1000", **cursor})
            page = reply.json()
            found += page["items"]
            if page["next"] is None:
                return found
            cursor = {"cursor": page["next"]}

    # The truth and what was found

    async def _compare(
        self, pool: Any, truth: list[dict[str, Any]], results: dict[str, dict[str, Any]]
    ) -> list[Row]:
        seen = {
            (row["account"], row["vendor_message_id"], row["phone"]): row
            for row in await pool.fetch(QUERIES["demo_messages"])
        }
        quarantined = {
            (row["account"], row["body_sha256"])
            for row in await pool.fetch(QUERIES["demo_quarantined"])
        }
        counts = await pool.fetchrow(QUERIES["demo_counts"])
        messages = {_key(row): row for row in truth if row["type"] == "message"}
        if seen.keys() != messages.keys():
            self._problems.append("the ledger does not hold exactly what was sent")
        settled = {key for key in messages if key in seen and _is_right(messages[key], seen[key])}
        for key in messages.keys() - settled:
            self._problems.append(
                f"{key[0]} {key[1]}: truly {messages[key]['status']}, taken for "
                f"{seen[key]['status'] if key in seen else 'nothing'}"
            )
        rows = [
            *_push_rows(messages, seen, settled),
            *_odd_push_rows(truth, messages, quarantined, settled),
            *_reply_rows(truth, counts, settled),
            _inbound_row(truth, counts),
            *_review_rows(truth, await pool.fetch(QUERIES["demo_reviews"])),
            *_finding_rows(truth, messages, results),
        ]
        for account, each in results.items():
            self._check_sums(account, each["expected"], each["result"])
        return rows

    def _check_sums(self, account: str, expected: Any, result: Any) -> None:
        """Hold the sums against the truth's, and against each other, to the last digit."""
        for side, names in (("owed", ("segments", "amount")), ("billed", ("segments", "amount"))):
            for name in names:
                if Decimal(str(expected[side][name])) != Decimal(str(result[side][name])):
                    self._problems.append(
                        f"{account}: {side} {name} is {result[side][name]}, truly {expected[side][name]}"
                    )
        found = sum(Decimal(each["amount"]) for each in result["discrepancies"].values())
        difference = Decimal(result["billed"]["amount"]) - Decimal(result["owed"]["amount"])
        if not found == difference == Decimal(result["difference"]["amount"]):
            self._problems.append(f"{account}: the discrepancies do not add up to the difference")

    async def _end(
        self, rows: list[Row], counts: dict[str, int], keep: bool, settings: Settings
    ) -> int:
        wrong = [row for row in rows if not row.right]
        missing = [row.kind for row in rows if row.injected == 0]
        if missing:
            self._problems.append(
                f"nothing was injected of {', '.join(missing)}: send more messages"
            )
        click.echo(
            f"\n{counts['callbacks']} callbacks and {counts['replies']} replies recorded, "
            f"{counts['pages']} read-once pages, {counts['inbound']} inbound messages"
        )
        for problem in self._problems[:20]:
            click.echo(f"problem: {problem}")
        for row in wrong:
            click.echo(
                f"problem: {row.kind}: {row.injected} injected, {row.found} found, {row.false} false"
            )
        good = not wrong and not self._problems
        verdict = (
            "Every injected fault was found, none falsely." if good else "Not everything was found."
        )
        click.echo(f"{verdict} {time.monotonic() - self._started:.0f} s in all.")
        if keep:
            click.echo(
                f"\nAPI        {self._values['api']}/v1 (Bearer token: api_token in {settings.file})\n"
                f"OpenAPI    {self._values['api']}/schema\n"
                f"vendors    {self._values['sandbox']}\n"
                f"command    cd {self._folder} && {Path(sys.executable).parent / 'huizhi'} statement list\n"
                "Ctrl-C ends it."
            )
            await _interrupted()
        return 0 if good else 1

    def _say(self, text: str) -> None:
        click.echo(f"{time.monotonic() - self._started:5.1f} s  {text}")


def _push_rows(
    messages: dict[Key, dict[str, Any]], seen: dict[Key, Any], settled: set[Key]
) -> Iterator[Row]:
    def row(kind: str, is_seen: Any, how: str, also: Any = lambda _: True) -> Row:
        injected = {key for key, each in messages.items() if _has(each, kind) and also(each)}
        found = {key for key, each in seen.items() if is_seen(each)}
        return Row(kind, len(injected), len(injected & found & settled), len(found - injected), how)

    def lost(message: dict[str, Any]) -> bool:
        return _has(message, "push_lost") or any(
            fault["kind"] == "push_malformed" and fault["replaces"] for fault in message["faults"]
        )

    # What came only by a recovery although the vendor was answered 200 for its push is a receipt lost
    # by us; what is pulled by the vendor's choice was never pushed.
    injected = {key for key, each in messages.items() if lost(each)}
    pushed = {key for key, each in messages.items() if _acknowledged(each)}
    recovered = {key for key, each in seen.items() if each["recovered"] and not each["pushed"]}
    yield Row(
        "push_lost",
        len(injected),
        len(injected & settled & (recovered | _unlearnable(messages))),
        len(recovered & pushed),
        "recovered by query or pull",
    )
    yield row("push_doubled", lambda each: each["doubled"], "stored once, counted")
    # Also a report that came early is overtaken by nothing: its 'pending' comes after it.
    injected = {key for key, each in messages.items() if _overtaken(each)}
    found = {key for key, each in seen.items() if each["reordered"]}
    yield Row(
        "push_reordered",
        len(injected),
        len(injected & found & settled),
        len(found - injected),
        "pending never undoes final",
    )
    yield row("push_early", lambda each: each["early"], "kept as orphan, then joined")


def _odd_push_rows(
    truth: list[dict[str, Any]],
    messages: dict[Key, dict[str, Any]],
    quarantined: set[tuple[str, str]],
    settled: set[Key],
) -> Iterator[Row]:
    odd = [row for row in truth if row["type"] == "push"]
    forged = [row for row in odd if row["fault"] == "push_forged"]
    refused = sum(
        push["answer"] == 404
        for message in messages.values()
        for push in message["pushes"]
        if push["what"] != "forged"
    )
    found = sum(row["answer"] == 404 and _key(row) in settled for row in forged)
    yield Row("push_forged", len(forged), found, refused, "404, nothing stored")
    malformed = {
        (row["account"], row["body_sha256"]) for row in odd if row["fault"] == "push_malformed"
    }
    yield Row(
        "push_malformed",
        len(malformed),
        len(malformed & quarantined),
        len(quarantined - malformed),
        "200, quarantined",
    )


def _reply_rows(truth: list[dict[str, Any]], counts: Any, settled: set[Key]) -> Iterator[Row]:
    """A spoilt reply is found if, in spite of it, what was asked about came to be known."""
    replies = [row for row in truth if row["type"] == "reply"]
    known = {(account, vendor_message_id) for account, vendor_message_id, _ in settled}
    done = counts["awaiting"] + counts["unsettled"] + counts["in_review"] == 0

    def overcome(row: dict[str, Any]) -> bool:
        if row["call"] == "query_status":
            return (row["account"], row["key"].split("/")[1]) in known
        return bool(done)

    for kind in ("reply_slow", "reply_429", "reply_500", "reply_cut"):
        injected = [row for row in replies if row["kind"] == kind]
        found = sum(map(overcome, injected))
        yield Row(kind, len(injected), found, 0, "asked again until answered")
    cut = sum(row["kind"] == "page_cut" for row in replies)
    lost = counts["lost_pages"]
    yield Row(
        "page_cut", cut, min(cut, lost), max(lost - cut, 0), "known as lost, whole rows saved"
    )


def _review_rows(truth: list[dict[str, Any]], seen: list[Any]) -> Iterator[Row]:
    states = {(row["kind"], row["vendor_id"]): row for row in seen}
    verdicts = {(row["what"], row["id"]): row for row in truth if row["type"] == "review"}
    right = {
        key
        for key, verdict in verdicts.items()
        if key in states and states[key]["status"] == verdict["status"]
    }
    strange = len(states.keys() - verdicts.keys())
    yield Row("sign, template", len(verdicts), len(right), strange, "verdict pushed, or asked for")
    lost = {key for key, verdict in verdicts.items() if _has(verdict, "push_lost")}
    yield Row(
        "verdict_lost",
        len(lost),
        len(lost & right),
        sum(not states[key]["pushed"] for key in right - lost),
        "recovered by query",
    )


def _inbound_row(truth: list[dict[str, Any]], counts: Any) -> Row:
    texts = [row for row in truth if row["type"] == "inbound"]
    learnable = {
        (row["phone"], row["content"], row["received_at"])
        for row in texts
        if row["handed"] in ("push", "pull") or row["salvageable"]
    }
    extra = max(counts["inbound"] - len(learnable), 0)
    return Row("inbound", len(learnable), min(counts["inbound"], len(learnable)), extra, "recorded")


def _finding_rows(
    truth: list[dict[str, Any]],
    messages: dict[Key, dict[str, Any]],
    results: dict[str, dict[str, Any]],
) -> Iterator[Row]:
    """Compare discrepancies one by one: account, kind, message, number and amount."""
    of_period = {
        (account, each["vendor_message_id"], each["phone"])
        for account, result in results.items()
        for each in result["discrepancies"]
        if each["kind"] in ("reports_contradict", "report_missing")
    }
    expected: Counter[tuple[str, ...]] = Counter()
    for row in truth:
        if row["type"] == "statement_fault":
            expected[row["kind"], *_key(row), _amount(row["amount"])] += 1
    for key, message in messages.items():
        if key[0] in results and (_in_period(message, results[key[0]]) or key in of_period):
            expected.update((kind, *key, "0") for kind in _expected_evidence(message))
    found: Counter[tuple[str, ...]] = Counter(
        (each["kind"], account, each["vendor_message_id"], each["phone"], _amount(each["amount"]))
        for account, result in results.items()
        for each in result["discrepancies"]
    )
    kinds = (
        "billed_not_sent",
        "billed_not_delivered",
        "billed_twice",
        "billed_out_of_period",
        "segments_differ",
        "price_differs",
        "not_billed",
        "reports_contradict",
        "report_missing",
    )
    for kind in kinds:
        there = Counter({item: count for item, count in expected.items() if item[0] == kind})
        here = Counter({item: count for item, count in found.items() if item[0] == kind})
        yield Row(
            kind,
            there.total(),
            (there & here).total(),
            (here - there).total(),
            "priced to the digit",
        )


def _show_rows(rows: list[Row]) -> None:
    click.echo("What the sandbox did, and what became of it:\n")
    show_table(
        ("fault", "injected", "found", "falsely reported", "how"),
        [
            {
                "fault": row.kind,
                "injected": row.injected,
                "found": row.found,
                "falsely reported": row.false,
                "how": row.how,
            }
            for row in rows
        ],
    )


def _key(row: dict[str, Any]) -> Key:
    return row["account"], row["vendor_message_id"], row["phone"]


def _has(row: dict[str, Any], kind: str) -> bool:
    return any(fault["kind"] == kind for fault in row["faults"])


def _learnable(message: dict[str, Any]) -> list[str]:
    """The final states that the vendor has let anybody learn of this message."""
    return [
        report["status"]
        for report in message["reports"]
        if report["handed"] in ("push", "pull", "query") or report["salvageable"]
    ]


def _unlearnable(messages: dict[Key, dict[str, Any]]) -> set[Key]:
    return {key for key, each in messages.items() if not _learnable(each)}


def _acknowledged(message: dict[str, Any]) -> bool:
    return any(push["what"] == "final" and push["answer"] == 200 for push in message["pushes"])


def _overtaken(message: dict[str, Any]) -> bool:
    pushed = [push["what"] for push in message["pushes"] if push["answer"] == 200]
    return "final" in pushed and "pending" in pushed[pushed.index("final") :]


def _expected_evidence(message: dict[str, Any]) -> list[str]:
    states = _learnable(message)
    if not states:
        return ["report_missing"]
    return ["reports_contradict"] if len(set(states)) > 1 else []


def _is_right(message: dict[str, Any], seen: Any) -> bool:
    """Whether we take the message for what it truly is, as far as that can be known."""
    states = _learnable(message)
    status = states[0] if states else "expired"
    return bool(seen["status"] == status and seen["segments"] == message["segments"])


def _in_period(message: dict[str, Any], result: dict[str, Any]) -> bool:
    return bool(str(message["sent_at"]).startswith(result["result"]["period"]))


def _amount(text: str) -> str:
    return format(Decimal(text).normalize(), "f")


def _past_month(now: datetime) -> datetime:
    """The newest month that is over for a week: its bill has come, late receipts have settled."""
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    month = (month - timedelta(days=1)).replace(day=1)
    if now.day < 7:
        month = (month - timedelta(days=1)).replace(day=1)
    return month


def _next_month(month: datetime) -> datetime:
    return (month + timedelta(days=32)).replace(day=1)


def _listed(counts: dict[str, Any]) -> str:
    released = counts["released"]
    return ", ".join(f"{count} {kind}" for kind, count in released.items() if count)


def _free_ports(count: int) -> list[int]:
    import socket

    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in bound]


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _interrupted() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
