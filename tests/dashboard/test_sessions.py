"""Who may see and do what on the dashboard: sessions, forged requests, roles, and what is never shown."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from browsing import TOKEN, serving, settings

from gateways.gateway import Secret
from reconciler import actions, tokens
from reconciler.dashboard.access import COOKIE, SESSION_SECONDS, Sessions, is_forged
from reconciler.tokens import Doorkeeper, Role
from runtime.database import Database

pytestmark = pytest.mark.anyio
OURS = {"sec-fetch-site": "same-origin"}
PAGES = (
    "/",
    "/reconciliation",
    "/reconciliation/think/2024-10",
    "/discrepancies",
    "/credits",
    f"/assumed/{uuid4()}",
    "/messages",
    f"/messages/{uuid4()}",
    "/callbacks",
    "/records/00",
    "/signs",
    "/inbound",
    "/orphans",
    "/suspects",
    "/audit",
    "/audit/by-day",
    "/jobs",
    "/settings",
    "/upload",
    "/tasks/x",
    f"/runs/{uuid4()}",
)
CHANGES = (
    "/reconciliation/think/2024-10/run",
    "/reconciliation/think/2024-10/assume",
    "/credits",
    f"/runs/{uuid4()}/close",
    f"/runs/{uuid4()}/evidence",
    "/discrepancies",
    f"/discrepancies/{uuid4()}",
    "/upload",
    "/upload/x/columns",
    "/upload/x/import",
    "/upload/x/drop",
    "/replay",
    "/suspects",
    "/jobs/settle/run",
    "/logout",
)


def sessions(token: str) -> Sessions:
    return Sessions(Secret(token), Doorkeeper(Secret(token)))


@asynccontextmanager
async def visiting(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=address, headers=OURS, timeout=30) as client:
        yield client


async def logged_in(client: httpx.AsyncClient, token: str = TOKEN) -> str:
    """Log in, and return the session's own token for forms."""
    answer = await client.post("/login", data={"token": token, "name": "Li Wei"})
    assert answer.status_code == 303
    page = (await client.get("/settings")).text
    return page.split('"x-csrf-token": "', 1)[1].split('"', 1)[0]


async def test_without_a_session_every_page_is_the_log_in(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, settings(tmp_path)) as address, visiting(address) as client:
        for path in PAGES:
            answer = await client.get(path)
            assert answer.status_code == 303, path
            assert answer.headers["location"].startswith("/login"), path
            part = await client.get(path, headers={"hx-request": "true"})
            assert part.headers["hx-redirect"] == "/login"
            assert part.content == b""
        for path in CHANGES:
            assert (await client.post(path)).headers["location"] == "/login", path
        for path in ("/v1/messages", "/v1/audit", "/metrics", "/schema"):
            assert (await client.get(path)).status_code == 401, path


async def test_log_in_takes_the_token_and_nothing_else(database: Database, tmp_path: Path) -> None:
    async with serving(database, settings(tmp_path)) as address, visiting(address) as client:
        for wrong in ("", "the", f"{TOKEN}x", TOKEN.upper()):
            answer = await client.post("/login", data={"token": wrong})
            assert answer.status_code == 403
            assert COOKIE not in answer.cookies
        answer = await client.post("/login", data={"token": f" {TOKEN}\n"})
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "path=/" in cookie
        assert "secure" not in cookie
        assert TOKEN not in cookie
        secure = {"x-forwarded-proto": "https", **OURS}
        answer = await client.post("/login", data={"token": TOKEN}, headers=secure)
        assert "secure" in answer.headers["set-cookie"].lower()


async def test_log_in_goes_on_to_pages_of_ours_only(database: Database, tmp_path: Path) -> None:
    async with serving(database, settings(tmp_path)) as address, visiting(address) as client:
        for asked, gone in (
            ("/messages?phone=1", "/messages?phone=1"),
            ("https://example.com/", "/"),
            ("//example.com/", "/"),
            ("/\\example.com", "/"),
            ("/a\r\nset-cookie: x=y", "/"),
        ):
            answer = await client.post("/login", data={"token": TOKEN, "next": asked})
            assert answer.headers["location"] == gone


async def test_a_session_ends_with_its_time_its_token_and_any_change() -> None:
    door = sessions("a")
    now = time.time()
    cookie = await door.begin(None, "a", "  Li\n Wei ", now=now)
    assert cookie is not None
    asker = await door.asker(None, cookie, now=now)
    assert asker is not None
    assert (asker.name, asker.role) == ("Li Wei", Role.ADMIN)
    assert await door.asker(None, cookie, now=now + SESSION_SECONDS - 2) == asker
    assert await door.asker(None, cookie, now=now + SESSION_SECONDS) is None
    assert await sessions("a").asker(None, cookie, now=now) == asker, "a restart or another replica"
    assert await sessions("b").asker(None, cookie, now=now) is None
    for place in range(0, len(cookie), 7):
        changed = cookie[:place] + ("A" if cookie[place] != "A" else "B") + cookie[place + 1 :]
        assert await door.asker(None, changed, now=now) is None
    for wrong in (None, "", ".", "x.y", "é.é", cookie.partition(".")[0]):
        assert await door.asker(None, wrong, now=now) is None


async def test_forged_requests_are_refused(database: Database, tmp_path: Path) -> None:
    async with serving(database, settings(tmp_path)) as address, visiting(address) as client:
        csrf = await logged_in(client)
        given = {"x-csrf-token": csrf}
        for path in CHANGES:
            for headers in (
                {},
                {"x-csrf-token": "x"},
                {**given, "sec-fetch-site": "cross-site"},
                {**given, "sec-fetch-site": "same-site"},
            ):
                answer = await client.post(path, headers=headers)
                assert answer.status_code == 403, (path, headers)
        answer = await client.post("/jobs/settle/run", data={"csrf": csrf})
        assert answer.status_code == 303
        answer = await client.post("/jobs/settle/run", headers={**given, "origin": address})
        assert answer.status_code == 303
        # Another session's token is of no use.
        async with visiting(address) as other:
            assert csrf != await logged_in(other)


async def test_what_is_no_browser_has_the_token_or_is_refused() -> None:
    door = sessions("a")
    who = await door.asker(None, await door.begin(None, "a", "", now=0), now=0)
    assert who is not None
    assert not is_forged("GET", {}, asker=who, given=None)
    assert is_forged("POST", {}, asker=who, given=None)
    here = {"host": "huizhi.example:8081"}
    for origin, forged in (
        ("http://huizhi.example:8081", False),
        ("https://huizhi.example:8081", False),  # through a proxy that speaks TLS
        ("http://huizhi.example", True),
        ("https://example.com", True),
        ("null", True),
    ):
        asked = {**here, "origin": origin}
        assert is_forged("POST", asked, asker=who, given=who.csrf) == forged, origin
        assert is_forged("POST", asked, asker=None, given=None) == forged, origin
    behind = {
        "host": "127.0.0.1:8081",
        "origin": "https://huizhi.example",
        "sec-fetch-site": "same-origin",
    }
    assert not is_forged("POST", behind, asker=who, given=who.csrf)
    assert not is_forged("POST", {}, asker=who, given=who.csrf)


async def made(connection: Any, role: Role) -> tokens.Added:
    return await tokens.add(
        connection, f"a-{role.word}", role.word, days=None, by="test", now=datetime.now(UTC)
    )


async def test_a_session_ends_with_the_token_that_it_was_begun_with(
    database: Database, connection: Any, tmp_path: Path
) -> None:
    token = await made(connection, Role.READER)
    async with serving(database, settings(tmp_path)) as address, visiting(address) as client:
        await logged_in(client, token.token)
        assert (await client.get("/messages")).status_code == 200
        assert (await client.get("/v1/messages")).status_code == 200
        assert (await client.get("/v1/actions")).status_code == 403
        await tokens.revoke(connection, UUID(token.id), now=datetime.now(UTC))
        assert (await client.get("/messages")).headers["location"].startswith("/login")
        assert (await client.get("/v1/messages")).status_code == 401


async def test_what_operators_do_on_the_dashboard_is_recorded_with_their_names(
    database: Database, connection: Any, tmp_path: Path
) -> None:
    operator = await made(connection, Role.OPERATOR)
    async with serving(database, settings(tmp_path)) as address, visiting(address) as client:
        headers = {"x-csrf-token": await logged_in(client, operator.token)}
        await client.post("/jobs/settle/run", headers=headers)
        await client.post(f"/runs/{uuid4()}/close", headers=headers, data={"sure": "yes"})
        await client.post("/logout", headers=headers)
        async with visiting(address) as stranger:
            await stranger.post("/jobs/settle/run")
    page = await actions.listed(
        connection, actor=None, what=None, since=None, until=None, cursor=None, limit=10
    )
    told = [(each["what"], each["outcome"], each["status"]) for each in page.items[::-1]]
    assert told == [
        ("POST /jobs/{name}/run", "done", 303),
        ("POST /runs/{run_id}/close", "refused", 403),
    ]
    for each in page.items:
        assert (each["actor"], each["role"], each["via"]) == ("a-operator", "operator", "dashboard")
    assert page.items[1]["subject"] == {"name": "settle", "account": "", "by": "Li Wei"}


@pytest.mark.parametrize("role", list(Role))
async def test_who_may_not_do_something_is_refused_and_not_shown_it(
    database: Database, connection: Any, tmp_path: Path, role: Role
) -> None:
    token = await made(connection, role)
    async with serving(database, settings(tmp_path)) as address, visiting(address) as client:
        headers = {"x-csrf-token": await logged_in(client, token.token)}
        operators = [path for path in CHANGES if not path.endswith(("close", "evidence", "logout"))]
        for path in operators:
            status = (await client.post(path, headers=headers)).status_code
            assert (status == 403) == (role < Role.OPERATOR), path
        closing = next(path for path in CHANGES if path.endswith("close"))
        answer = await client.post(closing, headers=headers, data={"sure": "yes"})
        assert (answer.status_code == 403) == (role < Role.ADMIN)
        jobs = (await client.get("/jobs")).text
        assert ("/jobs/settle/run" in jobs) == (role >= Role.OPERATOR)
        assert (await client.get("/upload")).status_code == (403 if role < Role.OPERATOR else 200)


async def test_a_session_reads_the_api_and_changes_nothing_there(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, settings(tmp_path)) as address, visiting(address) as client:
        csrf = await logged_in(client)
        assert (await client.get("/v1/messages?format=csv")).status_code == 200
        for headers in ({"sec-fetch-site": "cross-site"}, {"authorization": "Bearer wrong"}):
            assert (await client.get("/v1/messages", headers=headers)).status_code == 401
        for path in ("/v1/sent", "/v1/messages", "/v1/reconciliations"):
            answer = await client.post(path, json=[], headers={"x-csrf-token": csrf})
            assert answer.status_code == 401, path
        assert (await client.get("/metrics")).status_code == 401


async def test_while_the_database_is_away_a_session_is_told_so(
    database: Database, connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await made(connection, Role.READER)

    async def away(*_: object, **__: object) -> None:
        raise asyncpg.CannotConnectNowError("starting up")

    async with serving(database, settings(tmp_path)) as address, visiting(address) as client:
        await logged_in(client, token.token)
        monkeypatch.setattr(Doorkeeper, "asker_of", away)
        for path in ("/messages", "/v1/messages"):
            answer = await client.get(path)
            assert answer.status_code == 503, path
            assert answer.headers["cache-control"] == "no-store"
        assert (await client.get("/login")).status_code == 200


async def test_every_answer_is_bound_to_this_site(database: Database, tmp_path: Path) -> None:
    async with serving(database, settings(tmp_path)) as address, visiting(address) as client:
        pages = [
            await client.get("/login"),
            await client.get("/nowhere/at/all"),
            await client.get("/static/0/app.js"),
        ]
        await logged_in(client)
        pages += [await client.get(path) for path in PAGES]
        for answer in pages:
            if answer.headers["content-type"].startswith("application/problem"):
                continue
            assert "default-src 'self'" in answer.headers["content-security-policy"]
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            for inline in (" style=", "<style", " onclick=", "hx-on", "javascript:"):
                assert inline not in answer.text
        lost = await client.get("/nowhere/at/all")
        assert lost.status_code == 404
        assert "<html" in lost.text
        found = (await client.get("/")).text.split('href="/static/', 1)[1].split('"', 1)[0]
        kept = await client.get(f"/static/{found}")
        assert kept.status_code == 200
        assert "immutable" in kept.headers["cache-control"]
        for gone in ("/static/0/app.css", "/static/0/../access.py", "/static/0/vendor/README.md"):
            assert (await client.get(gone)).status_code in (401, 404)


async def test_what_is_asked_wrongly_is_said_and_breaks_nothing(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, settings(tmp_path)) as address, visiting(address) as client:
        csrf = await logged_in(client)
        for path in (
            "/messages?cursor=x",
            "/messages?from=yesterday",
            "/discrepancies?period=soon",
            "/discrepancies?state=lost",
            "/discrepancies?min_age_days=-1",
            "/reconciliation?until=soon",
            "/callbacks?cursor=AA",
        ):
            answer = await client.get(path)
            assert 400 <= answer.status_code < 500, path
            assert "<html" in answer.text
            part = await client.get(path, headers={"hx-request": "true"})
            assert part.status_code == answer.status_code
            assert "<html" not in part.text
        for path in (
            f"/messages/{uuid4()}",
            "/records/zz",
            "/audit/nothing",
            "/reconciliation/think/never",
            "/reconciliation/nobody/2024-10",
            f"/runs/{uuid4()}",
            f"/discrepancies/{uuid4()}",
        ):
            assert (await client.get(path)).status_code == 404, path
        form: dict[str, Any] = {"account": "think", "period": "never", "csrf": csrf}
        answer = await client.post("/upload", data=form, files={"file": ("a.csv", b"x")})
        assert answer.status_code == 200
        assert "is no period" in answer.text
        answer = await client.post("/discrepancies", data={"csrf": csrf, "to_state": "disputed"})
        assert answer.status_code == 422
        answer = await client.post("/discrepancies", data={"csrf": csrf, "case": "x"})
        assert answer.status_code == 422
