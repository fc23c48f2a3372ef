"""The play itself: starting the parties, the order of things, and what is said at the end."""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import msgspec
import rich_click as click

from gateways.errors import Indeterminate, Unavailable
from gateways.events import ReviewKind
from gateways.http import open_client
from huizhi.demo import comparison
from huizhi.demo.cast import (
    CAST,
    FAULTS,
    FAULTS_OF_LISTED,
    ITNIO,
    LONG_TEMPLATE,
    SANDBOX,
    SETTINGS,
    SHARES,
    SIGN_ID,
    TEMPLATE_ID,
    THINK,
)
from huizhi.demo.company import Company, Own, Sent, own_requests
from huizhi.demo.comparison import Finding, Row, Truth
from huizhi.options import output_option, show_json, show_table
from reconciler import reviews
from reconciler.poll import callers
from runtime import Problem, logs
from runtime.database import connected
from runtime.identity import PROVISIONAL
from runtime.queries import QUERIES
from runtime.settings import Settings, load
from runtime.sockets import free_ports

ZONE = ZoneInfo("Asia/Shanghai")
RECOVERY_SECONDS = 90.0
START_SECONDS = 60.0
ORPHAN_SECONDS = 20.0
BY_HAND_SECONDS = 20.0
REVIEWS = 20
FORGOTTEN = 40
# The month's bill is made before the day of the play: see `_past_month`.
NEIGHBOUR_DAYS = 5
_TERMINATED = 128 + signal.SIGTERM


@click.command()
@click.option("--messages", default=7000, show_default=True, help="How many to send.")
@click.option("--seed", default=7, show_default=True, help="Decides texts, times and faults.")
@click.option("--keep", is_flag=True, help="Leave everything up afterwards, until Ctrl-C.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-data"),
    show_default=True,
    help="Made anew each time.",
)
@output_option("table", "json")
def demo(messages: int, seed: int, keep: bool, folder: Path, output: str) -> int:
    """Play a month of traffic with faults, then recover, reconcile, and say what was found.

    Exits 0 only if every injected fault was found, none was falsely reported, and all sums agree.
    """
    try:
        return asyncio.run(_Demo(messages, seed, folder.absolute(), output).play(keep))
    except asyncio.CancelledError:
        return _TERMINATED


class _Demo:
    def __init__(self, messages: int, seed: int, folder: Path, output: str) -> None:
        self._json = output == "json"
        self._messages = messages
        self._folder = folder
        self._started = time.monotonic()
        now = datetime.now(ZONE)
        self._today = now.replace(microsecond=0)
        self._month = _past_month(now)
        month, today = f"{self._month:%Y-%m}", f"{now.date()}..{now.date() + timedelta(days=1)}"
        # What goes through Huizhi is dated by the clock, so it has a period of its own.
        self._periods = {
            month: lambda sent_at: sent_at.startswith(month),
            today: lambda sent_at: datetime.fromisoformat(sent_at) >= self._today,
        }
        self._values: dict[str, Any] = {
            "seed": seed,
            "folder": folder,
            "long_template": LONG_TEMPLATE,
            "faults": _toml(FAULTS),
            "faults_of_listed": _toml(FAULTS_OF_LISTED),
            "app_code": secrets.token_urlsafe(18),
            "password": secrets.token_urlsafe(18),
            "api_token": secrets.token_urlsafe(24),
        }
        for name in ("cloud", "abroad", "itnio", "finch"):
            self._values[f"{name}_secret"] = secrets.token_urlsafe(18)
        for name in ("think", "sms", "cloud", "abroad", "itnio"):
            self._values[f"{name}_token"] = secrets.token_urlsafe(24)
        self._company = Company(self._values, seed, self._month, _next_month(self._month))
        self._log = folder / "processes.log"
        self._problems: list[str] = []
        self._notes: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._in_doubt: Counter[str] = Counter()

    async def play(self, keep: bool) -> int:
        """Play everything and return the exit code; SIGTERM ends it, and all that it started."""
        this = asyncio.current_task()
        assert this is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
        self._prepare()
        month = f"{self._month:%Y-%m}"
        self._tell(
            f"Traffic of {month} over five vendors, and some of today; everything is in"
            f" {self._folder}\n"
        )
        async with contextlib.AsyncExitStack() as stack:
            self._run(stack, "sandbox", "--config", "sandbox.toml")
            self._run(stack, "receiver")
            http = await stack.enter_async_context(
                httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=32))
            )
            await self._answers(http, f"{self._values['receiver_url']}/health/ready")
            await self._answers(http, f"{self._values['sandbox']}/_sandbox/stats")
            self._say("receiver and vendors are up")

            sent = await self._send(http)
            self._say(f"{len(sent)} messages sent by other systems; some reports came at once")
            await self._register(sent)
            settings = load(self._folder / "huizhi.toml")
            await self._submit_reviews(settings)
            released = await self._control(http, "release", {})
            self._say(f"all registered, signs and templates submitted; pushed: {_listed(released)}")

            self._run(stack, "reconciler")
            await self._answers(http, f"{self._values['api']}/health/ready")
            own = await self._send_own(http)
            self._say(
                f"reconciler started; {own} requests made to Huizhi to send, each of them twice"
            )
            forgotten = await self._register_forgotten(http)
            self._say(
                f"{len(forgotten)} messages of a forgotten system turned up as orphans; registered"
            )
            async with connected(settings, "demo") as pool:
                await self._recovered(pool, http)
                self._say("what the pushes lacked was recovered")
                expected = await self._import(http)
                # A bill can tell what a lost reply hid; then its report can be asked for.
                await self._recovered(pool, http, billed=True)
                results = await self._reconcile(http, expected)
                self._say("statements imported and reconciled, twice, with the same result\n")
                truth, counts = await self._quiet_truth(pool, http, forgotten)
                rows, findings = await self._compare(pool, truth, counts, results)
                own_rows = await self._own_rows(pool, truth)
            balances = await self._balances(http)
            if self._json:
                self._show_json(results, rows, findings, own_rows, balances)
            else:
                self._show(results, rows, findings, own_rows, balances)
            return await self._end(counts, keep, settings)

    # The parties

    def _prepare(self) -> None:
        marker = self._folder / "truth.jsonl"
        if self._folder.exists():
            if any(self._folder.iterdir()) and not (self._folder / "sandbox.toml").exists():
                raise Problem(f"{self._folder} is not a demo's folder; name another with --folder")
            shutil.rmtree(self._folder)
        marker.parent.mkdir(parents=True)
        receiver, reconciler, vendors = free_ports(3)
        self._values |= {
            "receiver": receiver,
            "reconciler": reconciler,
            "sandbox_port": vendors,
            "receiver_url": f"http://127.0.0.1:{receiver}",
            "api": f"http://127.0.0.1:{reconciler}",
            "sandbox": f"http://127.0.0.1:{vendors}",
        }
        for name, text in (("huizhi.toml", SETTINGS), ("sandbox.toml", SANDBOX)):
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

    async def _api(self, http: httpx.AsyncClient, method: str, path: str, **more: Any) -> Any:
        """Call the reconciler's API as somebody who holds its token."""
        headers = {
            "Authorization": f"Bearer {self._values['api_token']}",
            **more.pop("headers", {}),
        }
        reply = await http.request(
            method, f"{self._values['api']}/v1/{path}", headers=headers, timeout=120, **more
        )
        if not reply.is_success:
            raise Problem(f"{method} /v1/{path} was answered {reply.status_code}: {reply.text}")
        return reply.json()

    async def _command(self, *command: str) -> tuple[int | None, dict[str, Any]]:
        """Run a command as a person would; return its exit code, and what it says as JSON."""
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "huizhi", *command, "--output", "json"),
                cwd=self._folder,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
            output, _ = await process.communicate()
        return process.returncode, msgspec.json.decode(output) if output else {}

    async def _truth(self, http: httpx.AsyncClient) -> list[dict[str, Any]]:
        reply = await http.get(f"{self._values['sandbox']}/_sandbox/truth", timeout=120)
        return [msgspec.json.decode(line) for line in reply.content.splitlines()]

    # The company

    async def _send(self, http: httpx.AsyncClient) -> list[Sent]:
        """Send at the times of a month, a little of the months around it included."""
        jobs = [
            job
            for part in CAST
            for job in self._company.jobs(part, self._messages * part.share // SHARES)
        ]
        self._company.shuffle(jobs)
        return await self._company.work(http, jobs)

    async def _register(self, sent: list[Sent]) -> None:
        """Register what was sent as a nightly job would: a file, and the command line."""
        file = self._folder / "sent.ndjson"
        file.write_bytes(b"".join(msgspec.json.encode(each.row()) + b"\n" for each in sent))
        code, done = await self._command("sent", "import", file.name)
        if code != 0 or done.get("recorded") != len(sent):
            raise Problem(f"`huizhi sent import` did not register all; see {self._log}")

    async def _submit_reviews(self, settings: Settings) -> None:
        """Submit signs and templates through Huizhi: their verdicts come by push, once.

        The two that will be sent with were approved long ago; asked for, they are known by name.
        """
        logs.configure(secrets=settings.secrets, level=logging.CRITICAL)  # faults are the play
        async with connected(settings, "demo") as pool, open_client() as http:
            caller = callers(settings, pool, http, recorder="demo")[THINK]
            await reviews.query(caller, ReviewKind.SIGN, SIGN_ID)
            await reviews.query(caller, ReviewKind.TEMPLATE, TEMPLATE_ID)
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

    async def _send_own(self, http: httpx.AsyncClient) -> int:
        """Send through Huizhi, every request twice under its key; return how many they were."""
        requests = 0
        for part in CAST:
            order = {"vendor": part.vendor, "account": part.account, "sends": part.own_cuts}
            await self._control(http, "cuts", order)
            asked = list(own_requests(part))
            for own in asked:
                await self._send_twice(http, own)
            requests += len(asked)
        return requests

    async def _send_twice(self, http: httpx.AsyncClient, own: Own) -> None:
        headers = {"Idempotency-Key": own.key}
        first = await self._api(http, "POST", "messages", headers=headers, json=own.body)
        again = await self._api(http, "POST", "messages", headers=headers, json=own.body)
        self._in_doubt[own.body["account"]] += first["counts"]["indeterminate"]
        if first["replayed"] or not again["replayed"] or first["id"] != again["id"]:
            self._problems.append(f"{own.body['account']}: a key did not stand for its request")

    async def _register_forgotten(self, http: httpx.AsyncClient) -> set[comparison.Key]:
        """Find what a system sends that nobody registers, and register it; return what it was."""
        sent = await self._company.work(http, list(self._company.forgotten(FORGOTTEN)))
        await self._control(http, "release", {})
        # What no push brings stands in the vendor's list, which is read now and then, or by hand.
        await self._command("poll", "--account", ITNIO)
        ids = {each.vendor_message_id for each in sent}
        deadline = time.monotonic() + ORPHAN_SECONDS
        while True:
            page = await self._api(
                http, "GET", "orphans", params={"account": ITNIO, "limit": "1000"}
            )
            orphans = {each["vendor_message_id"] for each in page["items"]}
            # Of those without a final state no vendor says anything.
            told = {
                row["vendor_message_id"]
                for row in await self._truth(http)
                if row["type"] == "message" and row["reports"] and row["vendor_message_id"] in ids
            }
            if told <= orphans or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        if told - orphans:
            self._problems.append(f"{len(told - orphans)} messages never registered were not found")
        rows = [each.row() for each in sent]
        if (await self._api(http, "POST", "sent", json=rows))["recorded"] != len(rows):
            raise Problem("not all messages of the forgotten system were registered")
        return {(each.account, each.vendor_message_id, each.phone.lstrip("+")) for each in sent}

    # Recovery and reconciliation

    async def _recovered(self, pool: Any, http: httpx.AsyncClient, *, billed: bool = False) -> None:
        """Wait until nothing waits for a report: all of them came, or are known to be missing.

        Where a vendor has failed several times in a row it is asked less often; nobody who sits
        before a screen waits for that. `billed`: also until what only the bill tells is known.
        """
        started = polled = time.monotonic()
        quiet = 0
        while quiet < 2:
            counts = await pool.fetchrow(QUERIES["demo_counts"], self._today)
            waiting = [
                row
                for row in await self._truth(http)
                if any(report["handed"] == "queued" for report in row.get("reports", ()))
                or (row["type"] == "inbound" and row["handed"] == "queued")
            ]
            left = counts["awaiting"] + counts["unsettled"] + counts["in_review"] + len(waiting)
            if not left:
                truth = Truth(await self._truth(http), self._today, set())
                settled = truth.settled(await _seen(pool))
                unknown = truth.messages.keys() - settled
                left = sum(billed or truth.tellable(key) for key in unknown)
            quiet = 0 if left else quiet + 1
            if time.monotonic() - started > RECOVERY_SECONDS:
                self._problems.append(
                    f"after {RECOVERY_SECONDS:.0f} s {left} reports and verdicts are still missing"
                )
                return
            if left and time.monotonic() - polled > BY_HAND_SECONDS:
                await self._command("poll")
                polled = time.monotonic()
            await asyncio.sleep(0.5)

    async def _quiet_truth(
        self, pool: Any, http: httpx.AsyncClient, unregistered: set[comparison.Key]
    ) -> tuple[Truth, Mapping[str, Any]]:
        """Read both sides at one moment: between two equal counts, with no page under way."""
        before: Mapping[str, Any] = {}
        while True:
            rows = await self._truth(http)
            counts = dict(await pool.fetchrow(QUERIES["demo_counts"], self._today))
            if counts == before and not counts["open_pages"]:
                return Truth(rows, self._today, unregistered), counts
            before = counts
            await asyncio.sleep(0.1)

    async def _import(self, http: httpx.AsyncClient) -> dict[tuple[str, str], Any]:
        """Have each vendor write its bills, and upload them; return the bills' true sums."""
        expected = {}
        for period in self._periods:
            for part in CAST:
                account = {"account": part.account, "period": period}
                file = self._folder / f"{part.account}-{period}.csv"
                order = {**account, "vendor": part.vendor, "path": str(file)}
                expected[part.account, period] = await self._control(
                    http, "statements", {**order, "neighbour_days": NEIGHBOUR_DAYS}
                )
                files = {"file": (file.name, file.read_bytes())}
                await self._api(http, "POST", "statements", data=account, files=files)
        return expected

    async def _reconcile(
        self, http: httpx.AsyncClient, expected: Mapping[tuple[str, str], Any]
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """Reconcile each bill; a second run must give the same bytes."""
        results = {}
        for (account, period), sums in expected.items():
            results[account, period] = {
                **await self._reconcile_one(http, {"account": account, "period": period}),
                "expected": sums,
                "holds": self._periods[period],
            }
        return results

    async def _reconcile_one(
        self, http: httpx.AsyncClient, account: Mapping[str, str]
    ) -> dict[str, Any]:
        runs = []
        for _ in range(2):
            result = await self._api(http, "POST", "reconciliations", json=account)
            runs.append((result, await self._discrepancies(http, result["id"])))
        (result, discrepancies), (again, discrepancies_again) = runs
        if {**result, "id": ""} != {**again, "id": ""} or discrepancies != discrepancies_again:
            self._problems.append(f"{account['account']}: a second run gave another result")
        return {"result": result, "discrepancies": discrepancies}

    async def _discrepancies(self, http: httpx.AsyncClient, run: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = await self._api(
                http,
                "GET",
                f"reconciliations/{run}/discrepancies",
                params={"limit": "1000", **cursor},
            )
            found += page["items"]
            if page["next"] is None:
                return found
            cursor = {"cursor": page["next"]}

    # The truth and what was found

    async def _compare(
        self,
        pool: Any,
        truth: Truth,
        counts: Mapping[str, Any],
        results: Mapping[tuple[str, str], Mapping[str, Any]],
    ) -> tuple[list[Row], list[Finding]]:
        seen = await _seen(pool)
        quarantined = {
            (row["account"], row["body_sha256"])
            for row in await pool.fetch(QUERIES["demo_quarantined"])
        }
        if seen.keys() != truth.messages.keys():
            self._problems.append("the ledger does not hold exactly what was sent")
        settled = truth.settled(seen)
        for key in truth.messages.keys() - settled:
            self._problems.append(
                f"{key[0]} {key[1]}: truly {truth.messages[key]['status']}, taken for "
                f"{seen[key]['status'] if key in seen else 'nothing'}"
            )
        rows = [
            *comparison.push_rows(truth, seen, settled),
            *comparison.odd_push_rows(truth, quarantined, settled),
            *comparison.reply_rows(truth, counts, settled),
            comparison.inbound_row(truth, counts),
            *comparison.review_rows(truth, await pool.fetch(QUERIES["demo_reviews"])),
        ]
        found = list(comparison.findings(truth, results))
        for (account, _), each in results.items():
            self._check_sums(account, each["expected"], each["result"])
        self._problems += [
            f"{row.kind}: {row.injected} injected, {row.found} found, {row.false} false"
            for row in rows
            if not row.right
        ]
        self._problems += [
            f"{each.kind}: expected {dict(each.expected)}, found {dict(each.found)}, "
            f"{each.false} false"
            for each in found
            if not each.right
        ]
        missing = [row.kind for row in rows if row.injected == 0]
        missing += [each.kind for each in found if not any(each.expected.values())]
        if missing:
            self._notes.append(f"nothing was injected of {', '.join(missing)}: send more messages")
        return rows, found

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

    async def _own_rows(self, pool: Any, truth: Truth) -> list[dict[str, Any]]:
        """Say of each account what became of the sends that went through Huizhi."""
        seen = {row["account"]: dict(row) for row in await pool.fetch(QUERIES["demo_own"])}
        times = Counter(
            (message["account"], message["phone"])
            for key, message in truth.messages.items()
            if truth.is_today(message) and key not in truth.unregistered
        )
        rows = []
        for part in CAST:
            row = seen[part.account]
            twice = sum(
                count - 1 for (account, _), count in times.items() if account == part.account
            )
            texts = sum(count for (account, _), count in times.items() if account == part.account)
            lost = self._in_doubt[part.account]
            unknowable = sum(key[0] == part.account for key in truth.unknowable)
            if lost < part.own_cuts or row["in_doubt"] != unknowable or twice:
                self._problems.append(
                    f"{part.account}: of {lost} sends in doubt {row['in_doubt']} are still so; "
                    f"{twice} texts were sent twice"
                )
            if texts + unknowable != row["numbers"] - row["refused"]:
                self._problems.append(f"{part.account}: {texts} texts were sent through Huizhi")
            rows.append(
                {
                    "account": part.account,
                    "requests": row["requests"],
                    "numbers": row["numbers"],
                    "sent twice": twice,
                    "refused": row["refused"],
                    "reply lost": lost,
                    "told then by": row["told_by"],
                    "still in doubt": row["in_doubt"],
                    "delivered": row["delivered"],
                    "failed": row["failed"],
                    "no report": row["submitted"],
                }
            )
        return rows

    async def _balances(self, http: httpx.AsyncClient) -> list[str]:
        """Say what the accounts have left, by the newest reading of each kind."""
        page = await self._api(http, "GET", "balances", params={"limit": "1000"})
        newest: dict[tuple[str, str], str] = {}
        for each in page["items"]:
            left = f"{each['amount']} {each['currency'] or each['kind']}"
            if Decimal(each["amount"]):
                newest.setdefault((each["account"], each["kind"]), f"{each['account']} {left}")
        return sorted(newest.values())

    def _show(
        self,
        results: Mapping[tuple[str, str], Mapping[str, Any]],
        rows: list[Row],
        found: list[Finding],
        own: list[dict[str, Any]],
        balances: list[str],
    ) -> None:
        _table("Each bill, held against what was sent and what arrived:", [
            {
                "account": account,
                "period": period,
                "messages": each["result"]["sent"]["messages"],
                "lines": each["result"]["billed"]["lines"],
                "owed amount": each["result"]["owed"]["amount"],
                "billed amount": each["result"]["billed"]["amount"],
                "difference amount": each["result"]["difference"]["amount"],
                "": each["result"]["currency"],
                "discrepancies": len(each["discrepancies"]),
                "known as taken only": each["result"]["unresolved"].get("accepted_is_last_known", 0),
            }
            for (account, period), each in results.items()
        ])  # fmt: skip
        _table("The discrepancies by kind, found/injected, each priced to the last digit:", [
            {
                "discrepancy": each.kind,
                **{
                    part.account: _of(each.found[part.account], each.expected[part.account])
                    for part in CAST
                },
                "all": _of(sum(each.found.values()), sum(each.expected.values())),
                "falsely reported": each.false,
            }
            for each in found
        ])  # fmt: skip
        _table("Sent through Huizhi today, each request made twice under its Idempotency-Key:", own)
        _table("What else the vendors did, and what became of it:", _others(rows))
        click.echo(f"Left at the vendors: {', '.join(balances)}")

    def _show_json(
        self,
        results: Mapping[tuple[str, str], Mapping[str, Any]],
        rows: list[Row],
        found: list[Finding],
        own: list[dict[str, Any]],
        balances: list[str],
    ) -> None:
        show_json(
            {
                "bills": [each["result"] for each in results.values()],
                "discrepancies": [
                    {
                        "kind": each.kind,
                        "injected": each.expected,
                        "found": each.found,
                        "falsely_reported": each.false,
                    }
                    for each in found
                ],
                "sent": _keyed(own),
                "others": _keyed(_others(rows)),
                "balances": balances,
                "notes": self._notes,
                "problems": self._problems,
            }
        )

    async def _end(self, counts: Mapping[str, int], keep: bool, settings: Settings) -> int:
        self._tell(
            f"{counts['callbacks']} callbacks and {counts['replies']} replies recorded, "
            f"{counts['pages']} read-once pages, {counts['inbound']} inbound messages"
        )
        for note in self._notes:
            self._tell(f"note: {note}")
        for problem in self._problems[:20]:
            self._tell(f"problem: {problem}")
        verdict = (
            "Not everything was found."
            if self._problems
            else "Every injected fault was found, none falsely."
        )
        self._tell(f"{verdict} {time.monotonic() - self._started:.0f} s in all.")
        if keep:
            self._tell(
                f"\nAPI        {self._values['api']}/v1 (Bearer token: api_token in {settings.file})\n"
                f"OpenAPI    {self._values['api']}/schema\n"
                f"dashboard  {self._values['api']}/ (log in with the same token)\n"
                f"vendors    {self._values['sandbox']}\n"
                f"command    cd {self._folder} && {Path(sys.executable).parent / 'huizhi'} reconcile"
                f" --account {THINK} --period {self._month:%Y-%m}\n"
                "Ctrl-C ends it."
            )
            await _interrupted()
        return 1 if self._problems else 0

    def _say(self, text: str) -> None:
        self._tell(f"{time.monotonic() - self._started:5.1f} s  {text}")

    def _tell(self, text: str) -> None:
        """Print for people: beside the result, where that is JSON."""
        click.echo(text, err=self._json)


async def _seen(pool: Any) -> dict[comparison.Key, Any]:
    """What every message is taken for that the vendor is known to have."""
    return {
        (row["account"], row["vendor_message_id"], row["phone"]): row
        for row in await pool.fetch(QUERIES["demo_messages"])
        if not row["vendor_message_id"].startswith(PROVISIONAL)
    }


def _others(rows: list[Row]) -> list[dict[str, Any]]:
    return [
        {
            "what": row.kind,
            "injected": row.injected,
            "found": row.found,
            "falsely reported": row.false,
            "how": row.how,
        }
        for row in rows
    ]


def _keyed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with keys for programs in place of headings."""
    return [{name.replace(" ", "_"): value for name, value in row.items()} for row in rows]


def _table(title: str, rows: list[dict[str, Any]]) -> None:
    click.echo(f"{title}\n")
    show_table(list(rows[0]), rows)
    click.echo()


def _of(found: int, expected: int) -> str | None:
    return f"{found}/{expected}" if found or expected else None


def _toml(values: Mapping[str, float]) -> str:
    return "\n".join(f"{name} = {value}" for name, value in values.items())


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
