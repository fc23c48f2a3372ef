"""Work on discrepancies: who looks at one, what is decided, and what a rerun makes of it.

A run is kept as it was found and never changes. What people work on is a case: a discrepancy by its
identity (account, period, kind, vendor message id, phone, and its place among several alike), which
every run of the period finds again, or does not.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from reconciler.periods import Period
from runtime import Problem
from runtime.identity import shard_of_message
from runtime.queries import QUERIES

State = Literal["open", "acknowledged", "disputed", "credited", "written_off", "resolved"]
STATES: tuple[str, ...] = get_args(State)
# Decided: only a note opens them again.
ENDED = ("credited", "written_off")
MAX_CASES = 10_000
_MOST_NAME = 100
_MOST_NOTE = 2_000


class Illegal(Problem):
    """A change that the rules do not allow; the text says in one line which case and why."""


class Unknown(Problem):
    """A discrepancy that is not there."""


class Outdated(Problem):
    """A case that somebody else has changed since the one who changes it looked."""


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to set; what is not given stays. An `owner` of None takes the owner away."""

    by: str
    state: State | UnsetType = UNSET
    owner: str | UnsetType | None = UNSET
    note: str | UnsetType = UNSET


class Filter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which cases; None where it narrows nothing. An empty `owner` is nobody."""

    account: str | None = None
    period: str | None = None
    kind: str | None = None
    state: State | None = None
    owner: str | None = None
    min_age_days: Annotated[int, msgspec.Meta(ge=0, le=100_000)] | None = None


class Changed(msgspec.Struct, frozen=True):
    """How many cases were changed, and how many were so already."""

    changed: int
    unchanged: int


def filter_arguments(chosen: Filter, period: Period | None, now: datetime) -> tuple[Any, ...]:
    """Return what the queries over cases take for a filter, in their order."""
    return (
        None if period is None else period.first,
        None if period is None else period.last,
        chosen.kind,
        chosen.state,
        chosen.owner,
        chosen.min_age_days,
        now,
    )


async def follow(
    connection: Any, run: UUID, account: str, period: Period, *, currency: str, now: datetime
) -> None:
    """Bring the period's cases up to a run that is kept; durable on return.

    New discrepancies are open, those not found any more are resolved, those found again are open
    again. Does nothing where a newer run was followed already.
    """
    whose = (account, period.first, period.last)
    async with connection.transaction():
        await connection.execute(QUERIES["lock_cases"], [account])
        claimed = await connection.fetchval(QUERIES["claim_period"], *whose, run, now)
        if claimed is None:
            return
        await connection.execute(QUERIES["case_tables"])
        await connection.execute(QUERIES["take_found"], run)
        await connection.execute(QUERIES["pair_cases"], *whose)
        await connection.execute(QUERIES["analyze_cases"])
        await connection.execute(QUERIES["renew_cases"], run, currency, now)
        await connection.execute(QUERIES["resolve_cases"], now)
        await connection.execute(QUERIES["add_cases"], run, *whose, now, currency)
        await connection.execute(QUERIES["add_run_changes"], run, now)


async def change_one(
    connection: Any, case: UUID, change: Change, *, version: int | None, now: datetime
) -> None:
    """Change one case; durable on return.

    With a `version` only if that is its version still. Raises `Unknown`, `Outdated`, `Illegal`.
    """
    _check(change)
    async with connection.transaction():
        (row,) = await _locked(connection, [case])
        if version is not None and row["version"] != version:
            raise Outdated(
                f"{row['changed_by']} changed it since: it is at version {row['version']}, not {version}"
            )
        await _decide(connection, [row], change, now)


async def change_many(
    connection: Any, cases: Sequence[UUID], change: Change, *, now: datetime
) -> Changed:
    """Change up to `MAX_CASES` cases, all or none; durable on return. Raises `Unknown`, `Illegal`."""
    _check(change)
    if len(cases) > MAX_CASES:
        raise Illegal(f"{len(cases)} discrepancies; {MAX_CASES} can be changed at once")
    async with connection.transaction():
        rows = await _locked(connection, list(dict.fromkeys(cases)))
        return await _decide(connection, rows, change, now)


async def change_filtered(
    connection: Any,
    accounts: Sequence[str],
    chosen: Filter,
    period: Period | None,
    change: Change,
    *,
    now: datetime,
) -> Changed:
    """Change the cases that a filter meets, all or none; durable on return.

    Raises `Illegal`, also where these are more than `MAX_CASES`, or the filter narrows nothing.
    """
    _check(change)
    if chosen == Filter():
        raise Illegal("a filter that narrows nothing: name an account, or what else it is about")
    async with connection.transaction():
        await connection.execute(QUERIES["lock_cases"], list(accounts))
        rows = await connection.fetch(
            QUERIES["cases_by_filter"],
            list(accounts),
            *filter_arguments(chosen, period, now),
            MAX_CASES + 1,
        )
        if len(rows) > MAX_CASES:
            raise Illegal(f"more than {MAX_CASES} discrepancies: narrow the filter")
        return await _decide(connection, rows, change, now)


async def _locked(connection: Any, cases: Sequence[UUID]) -> list[Any]:
    keys = ([shard_of_message(case) for case in cases], list(cases))
    accounts = await connection.fetch(QUERIES["accounts_of_cases"], *keys)
    await connection.execute(QUERIES["lock_cases"], [row["account"] for row in accounts])
    rows: list[Any] = await connection.fetch(QUERIES["cases_by_id"], *keys)
    if len(rows) < len(cases):
        missing = next(iter(set(cases) - {row["id"] for row in rows}))
        raise Unknown(f"no discrepancy {missing}")
    return rows


async def _decide(connection: Any, rows: Sequence[Any], change: Change, now: datetime) -> Changed:
    wanted = []
    note = None if change.note is UNSET else change.note
    for row in rows:
        state = row["state"] if change.state is UNSET else change.state
        owner = row["owner"] if change.owner is UNSET else change.owner
        if state != row["state"]:
            _check_step(row, state, note)
        elif owner == row["owner"] and note is None:
            continue
        ended = now if state in ENDED and state != row["state"] else row["ended_at"]
        wanted.append((row, state, owner, ended if state in (*ENDED, "resolved") else None))
    keys = ([row["shard"] for row, *_ in wanted], [row["id"] for row, *_ in wanted])
    states = [state for _, state, _, _ in wanted]
    owners = [owner for _, _, owner, _ in wanted]
    await connection.execute(
        QUERIES["decide_cases"],
        *keys,
        states,
        owners,
        [row["note"] if note is None else note for row, *_ in wanted],
        [ended for *_, ended in wanted],
        now,
        change.by,
    )
    await connection.execute(
        QUERIES["add_changes"],
        *keys,
        [row["version"] + 1 for row, *_ in wanted],
        [row["state"] for row, *_ in wanted],
        states,
        owners,
        now,
        change.by,
        note,
    )
    return Changed(len(wanted), len(rows) - len(wanted))


def _check_step(row: Any, state: str, note: str | None) -> None:
    """Raise `Illegal` where a case may not come to be `state`."""
    before = row["state"]
    if state == "resolved":
        why = "resolved is what a rerun says that no longer finds it"
    elif before == "resolved":
        why = "it is resolved: only a rerun that finds it again opens it"
    elif before in ENDED and state != "open":
        why = f"{before} ended it: open it again first, with a note"
    elif before in ENDED and note is None:
        why = f"{before} ended it: opening it again needs a note"
    else:
        return
    raise Illegal(f"discrepancy {row['id']}: {why}")


def _check(change: Change) -> None:
    for name, value, most in (
        ("by", change.by, _MOST_NAME),
        ("owner", change.owner, _MOST_NAME),
        ("note", change.note, _MOST_NOTE),
    ):
        if value is UNSET or value is None:
            continue
        if not value.strip():
            raise Illegal(f"{name} is empty")
        if len(value) > most:
            raise Illegal(f"{name} has more than {most} characters")
        if any(not character.isprintable() for character in value if character not in "\n\t"):
            raise Illegal(f"{name} holds a control character")
    if change.state is UNSET and change.owner is UNSET and change.note is UNSET:
        raise Illegal("nothing to set: give a state, an owner or a note")
