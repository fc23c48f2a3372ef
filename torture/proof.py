"""What must be true after a round, told from the vendors' ledger and the database alone."""

import json
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from torture.senders import Callback, Ledger
from torture.stage import API_TOKEN, SQL, Stage, Violation, until

# Batches that nobody settles are taken up after 10 seconds, looked for every 5; before that a cut-off
# connection may hold locks for half a minute.
SETTLE_SECONDS = 90.0
_REGISTERED_AT_ONCE = 2000
_JOB_SECONDS = 60.0


class NotRegistered(Violation):
    """Messages could not be registered now: a violation only when all is well."""


class Found(msgspec.Struct, kw_only=True):
    """What was recorded of a round; `again` counts arrivals that are counted beyond the pushes made."""

    records: set[tuple[str, str, bytes, bytes]]
    again: int


async def present(stage: Stage, ledger: Ledger) -> Found:
    """Prove that every acknowledged callback is recorded once, and none that was not pushed."""
    async with stage.database.connection() as connection:
        rows = await connection.fetch(SQL["recorded"], f"{ledger.tag}-".encode())
    found = Counter((row["account"], row["method"], row["query"], row["body"]) for row in rows)
    pushed = {callback.identity: callback for callback in ledger.callbacks}
    if missing := [one for one in ledger.acknowledged if one.identity not in found]:
        raise Violation(f"{len(missing)} acknowledged callbacks are missing: {_names(missing)}")
    if doubled := [identity for identity, count in found.items() if count > 1]:
        raise Violation(f"{len(doubled)} callbacks are recorded more than once: {doubled[:3]}")
    if invented := found.keys() - pushed.keys():
        raise Violation(f"{len(invented)} records were never pushed: {list(invented)[:3]}")
    counted = {(r["account"], r["method"], r["query"], r["body"]): r["deliveries"] for r in rows}
    again = sum(max(count - pushed[identity].tries, 0) for identity, count in counted.items())
    return Found(records=set(found), again=again)


async def register(stage: Stage, ledger: Ledger) -> None:
    """Register the messages of a round by the API, as a company does; again changes nothing."""
    rows = [
        {
            "account": account,
            "vendor_message_id": message,
            "phone": phone,
            "sent_at": ledger.sent_at.isoformat(),
        }
        for (account, message), phone in ledger.messages.items()
    ]
    for place in range(0, len(rows), _REGISTERED_AT_ONCE):
        part = rows[place : place + _REGISTERED_AT_ONCE]
        told = await stage.http.post(
            f"http://127.0.0.1:{stage.reconciler_port}/v1/sent",
            json=part,
            headers={"authorization": f"Bearer {API_TOKEN}"},
            timeout=30,
        )
        if told.status_code >= 300:
            raise NotRegistered(f"registering was answered {told.status_code} {told.text[:300]}")
        if told.json()["rejected"]:
            raise Violation(f"messages were rejected: {told.text[:300]}")


async def settled(stage: Stage) -> None:
    """Wait until every batch is settled, and prove that jobs run and nothing was set aside."""

    async with stage.database.connection() as connection:
        runs = await connection.fetchval(SQL["job_runs"])

        async def all_settled() -> bool:
            return bool(await connection.fetchval(SQL["unsettled"]) == 0)

        async def jobs_run() -> bool:
            return bool(await connection.fetchval(SQL["job_runs"]) > runs)

        await until(all_settled, SETTLE_SECONDS, "batches are not settled")
        await until(jobs_run, _JOB_SECONDS, "the reconciler's jobs do not run")

        async def all_joined() -> bool:
            return bool(await connection.fetchval(SQL["left_orphans"]) == 0)

        await until(all_joined, SETTLE_SECONDS, "orphans of registered messages are not joined")
    aside = stage.folder / "data" / "spool" / "set-aside"
    if aside.exists() and (kept := sorted(file.name for file in aside.iterdir())):
        raise Violation(f"the spool was damaged: {kept[:3]}")


async def folded(stage: Stage, ledger: Ledger, found: Found) -> int:
    """Prove that states, reports and quarantine follow from what is recorded; return the messages."""
    reports: defaultdict[tuple[str, str, str], set[tuple[str, datetime]]] = defaultdict(set)
    unreadable = set()
    for callback in ledger.callbacks:
        if callback.identity in found.records:
            if callback.report is None:
                unreadable.add(callback.identity)
            else:
                key = (callback.account, callback.message, callback.phone)
                reports[key].add(callback.report)
    async with stage.database.connection() as connection:
        messages = await connection.fetch(SQL["messages"], ledger.tag)
        kept = await connection.fetch(SQL["reports"], ledger.tag)
        aside = await connection.fetch(SQL["quarantined"], f"{ledger.tag}-".encode())
    _same(
        "quarantine",
        Counter((row["account"], row["method"], row["query"], row["body"]) for row in aside),
        Counter(unreadable),
    )
    _same(
        "reports",
        Counter((*_key(row), row["status"], row["reported_at"]) for row in kept),
        Counter((*key, *report) for key, several in reports.items() for report in several),
    )
    if orphans := [_key(row) for row in kept if row["orphan"]]:
        raise Violation(f"{len(orphans)} reports of registered messages are orphans: {orphans[:3]}")
    _same(
        "messages",
        Counter(
            (*_key(row), row["status"], row["reported_at"], row["contradicted"]) for row in messages
        ),
        Counter(
            (account, message, phone, *_fold(reports[account, message, phone]))
            for (account, message), phone in ledger.messages.items()
        ),
    )
    return len(messages)


def _fold(reports: set[tuple[str, datetime]]) -> tuple[str, datetime | None, bool]:
    """Status, time and contradiction, by the rule in docs/lifecycle.md: the earliest final report stands."""
    final = sorted((at, status) for status, at in reports if status in ("delivered", "failed"))
    if not final:
        return ("submitted", None, False)
    return (final[0][1], final[0][0], len({status for _, status in final}) == 2)


def _key(row: Any) -> tuple[str, str, str]:
    return (row["account"], row["vendor_message_id"], row["phone"])


def _same(what: str, found: Counter[Any], expected: Counter[Any]) -> None:
    if found != expected:
        lacking, beyond = expected - found, found - expected
        raise Violation(
            f"{what}: {lacking.total()} lack, such as {list(lacking)[:2]};"
            f" {beyond.total()} are too many, such as {list(beyond)[:2]}"
        )


def _names(callbacks: list[Callback]) -> str:
    return ", ".join(f"{one.account} {one.message}" for one in callbacks[:5])


def write(ledger: Ledger, file: Path) -> None:
    """Write a ledger down as evidence."""
    rows = [
        {
            "account": one.account,
            "message": one.message,
            "method": one.method,
            "target": one.target,
            "body": one.body.decode("utf-8", "replace"),
            "tries": one.tries,
            "acknowledged": one.acknowledged,
            "refused": one.refused,
        }
        for one in ledger.callbacks
    ]
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
