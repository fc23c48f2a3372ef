"""The examination of the database, and of what its jobs say of themselves."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from huizhi.doctor.finding import Finding, failed, not_checked, ok, warning
from reconciler import watching
from reconciler.jobs import pauses_of
from runtime import DatabaseUnusable, Problem, migrate
from runtime.database import DATABASE_ERRORS, Database
from runtime.queries import QUERIES
from runtime.settings import Settings

# The clocks that leases and time-outs go by may differ by so much.
_OFF_SECONDS, _FAR_OFF_SECONDS = 2.0, 60.0
_ROLES = {
    "huizhi_receiver": ("records", "batches", "messages", "reports", "quarantine"),
    "huizhi_reconciler": ("records", "batches", "messages", "leases", "jobs", "pulls", "alarms"),
}
_WRONG: tuple[type[Exception], ...] = (Problem, *DATABASE_ERRORS)
_DURABLE = "set it on: without it an acknowledged callback can be lost with the power"


class Known(NamedTuple):
    """What the database knows that a vendor knows too: a sign or template, or a message."""

    kind: str | None
    vendor_id: str


async def examine_database(
    settings: Settings, database: Database
) -> tuple[list[Finding], dict[str, Known]]:
    """Examine the database; also return, by account, something to ask its vendor about."""
    found: list[Finding] = []
    known: dict[str, Known] = {}
    try:
        async with database.connection() as connection:
            found += await _server(connection, database, settings)
            try:
                await migrate.check(connection)
            except DatabaseUnusable as error:
                found.append(
                    failed("migrations", str(error), "run huizhi migrate as the database's owner")
                )
                return found, known
            found.append(ok("migrations", "the database has this version's schema"))
            found += [await _rights(database, role, tables) for role, tables in _ROLES.items()]
            found += await _jobs(connection, settings)
            for name in sorted(settings.accounts):
                if row := await connection.fetchrow(QUERIES["known_to_vendor"], name):
                    known[name] = Known(row["kind"], row["vendor_id"])
    except _WRONG as error:
        words = (
            str(error) if isinstance(error, Problem) else f"it went away: {type(error).__name__}"
        )
        found.append(failed("database", words, "start it, or mend [database] url"))
    return found, known


async def _server(connection: Any, database: Database, settings: Settings) -> list[Finding]:
    asked = datetime.now(UTC)
    row = await connection.fetchrow(QUERIES["database_traits"])
    told = datetime.now(UTC)
    found = [ok("database", f"PostgreSQL {row['version']} answers at {database.place}")]
    if row["standby"] or row["read_only"]:
        found.append(failed("database", "it is read-only", "name the primary in [database] url"))
    if row["encoding"] != "UTF8":
        found.append(
            failed("database", f"its encoding is {row['encoding']}", "make it anew with UTF8")
        )
    unsafe = [
        name for name in ("fsync", "full_page_writes", "synchronous_commit") if row[name] == "off"
    ]
    if unsafe:
        found.append(failed("durability", f"{' and '.join(unsafe)} is off", _DURABLE))
    else:
        found.append(ok("durability", "commits are durable when they return"))
    wanted = settings.database.pool_size * (settings.receiver.workers + 1)
    if wanted > row["connections"]:
        found.append(
            warning(
                "connections",
                f"the services may want {wanted}, and the server gives {row['connections']}",
                "lower pool_size or workers, or raise max_connections",
            )
        )
    off = (row["now"] - asked - (told - asked) / 2).total_seconds()
    found.append(_clock(off))
    return found


def _clock(off: float) -> Finding:
    words = f"ours and the database's differ by {abs(off):.1f} seconds"
    if abs(off) < _OFF_SECONDS:
        return ok("clock", words)
    advice = "let both machines keep their time by NTP"
    return (failed if abs(off) >= _FAR_OFF_SECONDS else warning)("clock", words, advice)


async def _rights(database: Database, role: str, tables: tuple[str, ...]) -> Finding:
    """Say what a process lacks that takes `role`, or the log-in itself where it may not."""
    async with _as(database, role) as connection:
        user = await connection.fetchval(QUERIES["acting_user"])
        lacking = await connection.fetch(QUERIES["lacking_rights"], list(tables))
    if lacking:
        names = ", ".join(row["name"] for row in lacking)
        return failed(
            "privileges",
            f"{user} may not write to {names}",
            "run huizhi migrate as the database's owner, or grant it what docs/security.md says",
        )
    if user != role and database.statement_cache:
        return warning(
            "privileges",
            f"the log-in {user} may not take the role {role}, and so has more rights than it needs",
            "let the roles be made, as docs/security.md says",
        )
    return ok("privileges", f"{user} may do what it has to")


@contextlib.asynccontextmanager
async def _as(database: Database, role: str) -> AsyncIterator[Any]:
    taken = replace(database, role=role if database.statement_cache else None)
    async with taken.connection() as connection:
        yield connection


async def _jobs(connection: Any, settings: Settings) -> list[Finding]:
    rows = await connection.fetch(QUERIES["list_jobs"])
    if not rows:
        return [
            not_checked("jobs", "none has ever run", "start huizhi serve, or huizhi reconciler")
        ]
    now = datetime.now(UTC)
    newest = max(row["started_at"] for row in rows)
    if now - newest > timedelta(seconds=watching.LATE_SECONDS):
        return [
            failed(
                "jobs",
                f"none has run since {newest:%Y-%m-%d %H:%M} UTC",
                "start huizhi serve, or huizhi reconciler: nothing is asked for, settled or watched",
            )
        ]
    found = [
        (failed if trouble.failures >= watching.FAILING else warning)(
            "jobs",
            f"{trouble.job} {trouble.words}",
            "see what it says: credentials, network, or the vendor; GET /v1/jobs has more",
            account=trouble.account,
        )
        for trouble in watching.troubled(rows, pauses_of(settings), now=now)
    ]
    return found or [ok("jobs", f"{len(rows)} jobs run when they should, and none fails")]
