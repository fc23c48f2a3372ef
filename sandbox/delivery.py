"""From an accepted message to its pushes, with the faults that befall them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any

from sandbox import faults
from sandbox.pushes import Job, Push, PushClient, Schedule
from sandbox.settings import Account
from sandbox.vendor import ReportingVendor, ReportKind
from sandbox.world import Inbound, Message, Report, World

EARLY_JOB = "early"
REPORT_JOB = "reports"
REVIEW_JOB = "reviews"
INBOUND_JOB = "inbound"
JOB_KINDS = (REVIEW_JOB, EARLY_JOB, REPORT_JOB, INBOUND_JOB)


@dataclass(slots=True, eq=False)
class _Batch:
    job: Job
    messages: list[Message]


class Deliveries:
    """Decides, schedules and attempts pushes for every vendor."""

    def __init__(self, world: World, schedule: Schedule, client: PushClient) -> None:
        self.world = world
        self.schedule = schedule
        self.client = client
        self._open_batches: dict[tuple[str, str], _Batch] = {}

    # Accepting

    def accept(
        self, vendor: ReportingVendor, account: Account, message: Message, pushed: bool
    ) -> None:
        """Decide a new message's reports and the faults that befall them."""
        world, key = self.world, message.key
        rates = world.faults_of(account)
        message.pulled = not pushed
        message.pending_push = (
            pushed
            and vendor.sends_pending
            and world.chance.hit(world.settings.pending_push, "pending push", key)
        )
        if message.final is not None:
            if pushed:
                message.faults = faults.push_faults(
                    world.chance,
                    rates,
                    key,
                    malformations=vendor.malformations,
                    has_pending=vendor.sends_pending,
                )
            elif vendor.pulls(message.account) and world.chance.hit(
                rates.push_contradicting, "push_contradicting", key
            ):
                message.faults = [
                    {
                        "kind": "push_contradicting",
                        "later_first": world.chance.hit(0.5, "contradiction first", key),
                    }
                ]
            if message.fault("push_contradicting"):
                message.contradiction = self._contradict(message.final, key)

    def _contradict(self, report: Report, key: str) -> Report:
        """The vendor changes its mind, later by its own clock, so the first report is true."""
        later = report.at + timedelta(
            seconds=int(self.world.chance.between(1, 900, "contradiction seconds", key))
        )
        if report.status == "delivered":
            return Report("failed", later, "UNDELIV")
        return Report("delivered", later, "DELIVRD")

    def _schedule(self, vendor: ReportingVendor, message: Message) -> None:
        place = (vendor.name, message.account)
        many = vendor.push_many(message.account)
        plain = not message.faults and not message.pulled and message.final is not None
        if many > 1 and plain:
            batch = self._open_batches.get(place)
            if (
                batch is not None
                and len(batch.messages) < many
                and self.schedule.is_waiting(batch.job)
            ):
                batch.messages.append(message)
                return
            messages = [message]
            job = Job(REPORT_JOB, *place, partial(self._push_batch, vendor, messages))
            self._open_batches[place] = _Batch(job, messages)
        else:
            job = Job(REPORT_JOB, *place, partial(self._push_message, vendor, message))
        self.schedule.add(job, self._delay_seconds(message.key))

    def _delay_seconds(self, key: str) -> float:
        low, high = self.world.settings.push_delay_seconds
        return self.world.chance.between(low, high, "push delay", key)

    async def dispatch(self, vendor: ReportingVendor, messages: Sequence[Message]) -> None:
        """Schedule the reports of accepted messages, before their send is answered.

        The early ones go out at once: their sender cannot even know the message's id yet.
        """
        settings = self.world.settings
        early = [message for message in messages if message.fault("push_early")]
        if settings.hold_pushes and settings.early_pushes == "held":
            for message in early:
                run = partial(self._push_early, vendor, message)
                self.schedule.add(Job(EARLY_JOB, vendor.name, message.account, run), 0.0)
        elif early:
            await asyncio.gather(*(self._push_early(vendor, message) for message in early))
        for message in messages:
            self._schedule(vendor, message)

    async def release(
        self, which: str = "all", vendor: str | None = None, account: str | None = None
    ) -> dict[str, int]:
        """Attempt everything held (or still delayed) of a kind; return counts when all is done."""

        def chosen(kind: str, job: Job) -> bool:
            return (
                job.kind == kind and vendor in (None, job.vendor) and account in (None, job.account)
            )

        released: dict[str, int] = {}
        # Early ones end before the rest begins: a message's pushes must not overtake themselves.
        for kind in JOB_KINDS if which == "all" else (which,):
            released |= await self.schedule.release(partial(chosen, kind))
        return released

    # Pushing

    async def _push_early(self, vendor: ReportingVendor, message: Message) -> None:
        if not message.early_sent and not message.known:
            message.early_sent = message.known = True
            await self._attempt(vendor, message, "final")
            message.pushes[-1]["early"] = True

    async def _push_batch(self, vendor: ReportingVendor, messages: list[Message]) -> None:
        account = vendor.accounts[messages[0].account]
        records: list[tuple[Message, Report | None]] = []
        for message in messages:
            message.known = True
            records.append((message, message.final))
        push = vendor.report_push(messages[0].account, records, account.callback_url)
        answer = await self._send(push)
        for message in messages:
            message.pushes.append({"what": "final", "answer": answer, "many": len(messages)})
            if message.final is not None and 200 <= answer < 300:
                message.final.handed = "push"
            self._hand_over_the_rest(vendor, message)

    async def _push_message(self, vendor: ReportingVendor, message: Message) -> None:
        message.known = True
        for step in self._steps(message):
            if len(step) == 1:
                await self._attempt(vendor, message, step[0])
            else:
                await asyncio.gather(*(self._attempt(vendor, message, what) for what in step))
        self._hand_over_the_rest(vendor, message)

    def _steps(self, message: Message) -> list[list[ReportKind]]:
        """What is pushed in which order; things in one step go out at once."""
        if message.pulled:
            return []
        steps: list[list[ReportKind]] = []
        malformed = message.fault("push_malformed")
        contradicting = message.fault("push_contradicting")
        doubled = message.fault("push_doubled")
        if message.final is None:
            return [["pending"]] if message.pending_push else []
        if message.fault("push_lost"):
            pass
        elif malformed is not None and malformed["replaces"]:
            steps = [["malformed"]]
        elif contradicting is not None:
            steps = [["final"], ["contradicting"]]
            if contradicting["later_first"]:
                steps.reverse()
        elif message.fault("push_reordered"):
            steps = [["final"], ["pending"]]
        elif doubled is not None:
            steps = [["final", "final"]] if doubled["concurrent"] else [["final"], ["final"]]
        elif message.pending_push:
            steps = [["pending"], ["final"]]
        else:
            steps = [["final"]]
        if message.early_sent:
            for step in steps:
                if "final" in step:
                    step.remove("final")
                    break
        if malformed is not None and not malformed["replaces"]:
            steps.insert(0, ["malformed"])
        forged = message.fault("push_forged")
        if forged is not None:
            steps.insert(0 if forged["before_real"] else len(steps), ["forged"])
        return [step for step in steps if step]

    async def _attempt(self, vendor: ReportingVendor, message: Message, what: ReportKind) -> None:
        name = message.account
        url = vendor.accounts[name].callback_url
        final = message.final
        if what == "final" or final is None:
            push = vendor.report_push(name, [(message, final)], url)
        elif what == "pending":
            push = vendor.report_push(name, [(message, None)], url)
        elif what == "contradicting":
            push = vendor.report_push(name, [(message, message.contradiction)], url)
        elif what == "forged":
            push = self._forge(vendor, message, final, url)
        else:
            fault = message.fault("push_malformed") or {}
            push = vendor.malformed_push(name, message, final, fault["how"])
        answer = await self._send(push)
        message.pushes.append({"what": what, "answer": answer})
        report = {"final": final, "contradicting": message.contradiction}.get(what)
        if report is not None and 200 <= answer < 300:
            report.handed = "push"
        if what in ("forged", "malformed"):
            fault = message.fault(f"push_{what}") or {}
            self.world.odd_pushes.append(
                {
                    "type": "push",
                    "vendor": vendor.name,
                    "account": name,
                    "vendor_message_id": message.vendor_message_id,
                    "phone": message.phone,
                    "fault": f"push_{what}",
                    "how": fault.get("how", "wrong token"),
                    "replaces": fault.get("replaces", False),
                    # Empty or cut bodies of different messages can be the same bytes: stored once.
                    "body_sha256": sha256(push.body).hexdigest(),
                    "answer": answer,
                }
            )

    def _forge(self, vendor: ReportingVendor, message: Message, report: Report, url: str) -> Push:
        """Somebody who knows the format but not the token claims the opposite."""
        lie = Report(
            "failed" if report.status == "delivered" else "delivered",
            report.at - timedelta(seconds=1),
            "UNDELIV" if report.status == "delivered" else "DELIVRD",
        )
        stem, _, _ = url.rpartition("/")
        token = self.world.chance.digest("forged token", message.key)
        return vendor.report_push(message.account, [(message, lie)], f"{stem}/{token}")

    async def _send(self, push: Push) -> int:
        answer = await self.client.send(push)
        self.world.counts[f"answer_{answer}"] += 1
        return answer

    def _hand_over_the_rest(self, vendor: ReportingVendor, message: Message) -> None:
        """See to the reports that no push has delivered."""
        reports = message.reports
        fault = message.fault("push_contradicting")
        if fault is not None and fault["later_first"]:
            reports.reverse()
        for report in reports:
            if not report.handed:
                vendor.unhanded_report(message.account, message, report)
        account = vendor.accounts[message.account]
        self._reply_from_handset(vendor, account, message)

    # Inbound messages and reviews

    def _reply_from_handset(
        self, vendor: ReportingVendor, account: Account, message: Message
    ) -> None:
        rate = getattr(account, "inbound_rate", 0.0)
        if message.final is None or message.status != "delivered":
            return
        if not self.world.chance.hit(rate, "handset replies", message.key):
            return
        seconds = int(self.world.chance.between(20, 3600, "reply seconds", message.key))
        self.receive_inbound(
            vendor,
            message.account,
            phone=message.phone,
            content=self.world.chance.pick(("TD", "1", "收到", "谢谢", "R"), "reply", message.key),
            extno=message.extno,
            vendor_message_id=message.vendor_message_id,
            received_at=message.final.at + timedelta(seconds=seconds),
        )

    def receive_inbound(
        self,
        vendor: ReportingVendor,
        account: str,
        *,
        phone: str,
        content: str,
        extno: str,
        vendor_message_id: str,
        received_at: datetime,
    ) -> Inbound:
        """Take a text from a handset and schedule its way to the customer."""
        key = self.world.occurrence("inbound", vendor.name, account, phone, content)
        inbound = Inbound(
            vendor=vendor.name,
            account=account,
            key=key,
            phone=phone,
            content=content,
            extno=extno,
            vendor_message_id=vendor_message_id,
            received_at=received_at,
        )
        self.world.inbound.append(inbound)
        run = partial(self._hand_inbound, vendor, inbound)
        self.schedule.add(Job(INBOUND_JOB, vendor.name, account, run), self._delay_seconds(key))
        return inbound

    async def _hand_inbound(self, vendor: ReportingVendor, inbound: Inbound) -> None:
        push = vendor.inbound_push(inbound.account, inbound)
        if push is not None:
            answer = await self._send(push)
            inbound.pushes.append({"what": "inbound", "answer": answer})
            if 200 <= answer < 300:
                inbound.handed = "push"
                return
        vendor.unhanded_inbound(inbound.account, inbound)

    def schedule_review(
        self,
        vendor: ReportingVendor,
        account: str,
        key: str,
        give_verdict: Callable[[], Sequence[Push]],
    ) -> list[dict[str, Any]]:
        """Have a verdict given after the usual delay and its pushes sent.

        Returns the list to which the answers will be added.
        """
        answers: list[dict[str, Any]] = []

        async def run() -> None:
            for push in give_verdict():
                answers.append({"what": "review", "answer": await self._send(push)})

        self.schedule.add(Job(REVIEW_JOB, vendor.name, account, run), self._delay_seconds(key))
        return answers
