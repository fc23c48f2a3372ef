"""Who may ask the API for what, and the record of what operators did."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from litestar import Litestar
from test_api import NOBODY, ROW, SETTINGS, api, problem, pushed, register, serving, store, upload

from gateways.gateway import Secret
from reconciler import actions, tokens
from reconciler.api import create_app
from reconciler.tokens import Role
from runtime import Problem
from runtime.database import Database

pytestmark = pytest.mark.anyio
__all__ = ("api",)

NOW = datetime.now(UTC)
BILL = "任务ID,手机号,计费条数,金额\na,13800138000,1,0.04\n"


async def added(pool: Any, role: str, name: str = "ci", **more: Any) -> tokens.Added:
    given = {"days": None, "by": "li", "now": NOW, **more}
    async with pool.acquire() as connection:
        return await tokens.add(connection, name, role, **given)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def record(pool: Any) -> list[dict[str, Any]]:
    """What operators did, the oldest first."""
    async with pool.acquire() as connection:
        page = await actions.listed(
            connection, actor=None, what=None, since=None, until=None, cursor=None, limit=1000
        )
    return page.items[::-1]


# --- roles --------------------------------------------------------------------------------------------


def routes() -> list[tuple[str, str, Any]]:
    app: Litestar = create_app(SETTINGS, Database(dsn=Secret("postgresql:///none"), name="guard"))
    return [
        (method, re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path), handler)
        for route in app.routes
        for handler in route.route_handlers  # type: ignore[union-attr]
        for method in sorted(handler.http_methods - {"OPTIONS", "HEAD"})
    ]


def test_every_route_declares_the_least_role_it_needs() -> None:
    for method, path, handler in routes():
        assert "role" in handler.opt, path
        role = handler.opt["role"]
        if path.startswith("/health/"):
            assert role is None
        elif path in ("/v1/actions", "/v1/reconciliations/{run_id}/close") or (
            (method, path) == ("POST", "/v1/erasures")
        ):
            assert role is Role.ADMIN
        else:
            assert role is (Role.READER if method == "GET" else Role.OPERATOR), path


async def test_document_says_which_role_each_route_takes(api: httpx.AsyncClient) -> None:
    paths = (await api.get("/schema/openapi.json")).json()["paths"]
    told = {
        (method.upper(), path): operation["security"]
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert told == {
        (method, path): [{"token": [handler.opt["role"].word]}]
        for method, path, handler in routes()
        if path.startswith("/v1")
    }
    assert all("403" in each["responses"] for of in paths.values() for each in of.values())


@pytest.mark.parametrize("role", tokens.ROLES)
async def test_a_role_may_what_those_below_it_may_and_no_more(
    api: httpx.AsyncClient, pool: Any, role: str
) -> None:
    made = await added(pool, role)
    own = Role[role.upper()]
    for method, path, handler in routes():
        needs = handler.opt["role"]
        filled = re.sub(r"\{callback_id\}", "00", re.sub(r"\{\w+_id\}", str(NOBODY), path))
        filled = filled.replace("{query_name}", "nothing")
        answer = await api.request(method, filled, headers=bearer(made.token))
        if needs is not None and own < needs:
            assert needs.word in problem(answer, 403)
        else:
            assert answer.status_code not in (401, 403), (method, path, answer.text)


async def test_no_method_is_a_way_around(api: httpx.AsyncClient, pool: Any) -> None:
    made = await added(pool, "reader")
    for method, path, _ in routes():
        for other in ("OPTIONS", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "BREW"):
            answer = await api.request(other, path, headers=bearer(made.token))
            assert answer.status_code in (204, 400, 403, 404, 405), (other, path)
            assert (answer.status_code == 204) <= (other == "OPTIONS")
            assert method in ("GET", "POST")


async def test_closing_in_one_go_takes_the_role_that_closing_takes(
    api: httpx.AsyncClient, pool: Any
) -> None:
    await register(api, ROW)
    assert (await upload(api, BILL)).status_code == 200
    made = await added(pool, "operator")
    body = {"account": "think", "period": "2024-10"}
    closing = {**body, "close": True}
    refused = await api.post("/v1/reconciliations", json=closing, headers=bearer(made.token))
    problem(refused, 403)
    assert refused.json()["detail"] == (
        "this takes a token with the role admin; ci has the role operator"
    )
    answer = await api.post("/v1/reconciliations", json=body, headers=bearer(made.token))
    assert answer.status_code == 200
    assert (await api.post("/v1/reconciliations", json=closing)).status_code == 200


# --- tokens -------------------------------------------------------------------------------------------


async def test_a_token_is_stored_as_its_hash_and_nowhere_as_itself(
    pool: Any, connection: Any
) -> None:
    made = await added(pool, "reader")
    assert re.fullmatch(r"huizhi_[A-Za-z0-9_-]{43}", made.token)
    row = await connection.fetchrow("SELECT t::text AS t, * FROM api_tokens AS t")
    assert made.token not in row["t"]
    assert made.token.encode().hex() not in row["t"]
    assert (row["name"], row["role"], row["created_by"]) == ("ci", "reader", "li")
    (shown,) = await tokens.listed(connection, now=NOW)
    assert tuple(shown) == tokens.COLUMNS
    assert not any(made.token in str(value) for value in shown.values())


async def test_two_tokens_of_a_name_live_at_a_time_so_that_one_can_be_rotated_out(
    api: httpx.AsyncClient, pool: Any, connection: Any
) -> None:
    old, new = await added(pool, "reader"), await added(pool, "reader")
    with pytest.raises(Problem, match="ci has two tokens already: revoke one first"):
        await added(pool, "reader")
    for token in (old, new):
        assert (await api.get("/v1/jobs", headers=bearer(token.token))).status_code == 200
    await tokens.revoke(connection, UUID(old.id), now=datetime.now(UTC))
    problem(await api.get("/v1/jobs", headers=bearer(old.token)), 401)
    assert (await api.get("/v1/jobs", headers=bearer(new.token))).status_code == 200
    with pytest.raises(Problem, match="no living token"):
        await tokens.revoke(connection, UUID(old.id), now=datetime.now(UTC))
    await added(pool, "operator")


async def test_of_many_adding_at_once_two_are_served(pool: Any) -> None:
    told = await asyncio.gather(*(added(pool, "reader") for _ in range(6)), return_exceptions=True)
    made = [each for each in told if isinstance(each, tokens.Added)]
    assert 1 <= len(made) <= 2
    assert all(isinstance(each, Problem) for each in told if each not in made)


async def test_a_token_ends_when_it_expires_and_makes_room(
    api: httpx.AsyncClient, pool: Any, connection: Any
) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=31)
    ended = [await added(pool, "reader", days=30, now=long_ago) for _ in range(2)]
    for token in ended:
        problem(await api.get("/v1/jobs", headers=bearer(token.token)), 401)
    shown = await tokens.listed(connection, now=datetime.now(UTC))
    assert all(row["ended_at"] == row["expires_at"] for row in shown)
    fresh = await added(pool, "reader", days=1)
    assert (await api.get("/v1/jobs", headers=bearer(fresh.token))).status_code == 200


async def test_last_use_is_noted_once_a_minute(
    api: httpx.AsyncClient, pool: Any, connection: Any
) -> None:
    made = await added(pool, "reader")
    seen = []
    for _ in range(2):
        assert (await api.get("/v1/jobs", headers=bearer(made.token))).status_code == 200
        seen += [row["last_used_at"] for row in await tokens.listed(connection, now=NOW)]
    assert seen[0] is not None
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", ["", "Upper", "a b", "x" * 65, "-a", tokens.OF_SETTINGS, "a\0"])
async def test_names_of_tokens_are_plain_and_never_that_of_the_settings_token(
    pool: Any, name: str
) -> None:
    with pytest.raises(Problem, match="a name has at most 64"):
        await added(pool, "reader", name)


async def test_while_the_database_is_away_the_settings_token_is_known_and_others_are_told_so(
    database: Database,
) -> None:
    away = Database(dsn=Secret("postgresql://nobody@127.0.0.1:1/none"), name="away")
    async with serving(away) as api:
        made = tokens.PREFIX + "x" * 43
        answer = await api.get("/v1/jobs", headers=bearer(made))
        problem(answer, 503)
        assert answer.headers["retry-after"] == "5"
        # Of no shape that a token has: it needs no database to say no.
        problem(await api.get("/v1/jobs", headers=bearer("another")), 401)
        assert (await api.get("/metrics")).status_code == 200


# --- the record ---------------------------------------------------------------------------------------


async def test_every_call_that_may_change_something_is_recorded_before_and_after(
    api: httpx.AsyncClient, pool: Any
) -> None:
    made = await added(pool, "reader")
    expected = []
    for method, path, handler in routes():
        if method == "GET":
            continue
        filled = re.sub(r"\{\w+_id\}", str(NOBODY), path)
        await api.request(method, filled)
        await api.request(method, filled, headers=bearer(made.token))
        expected += [("api_token", f"{method} {path}"), ("ci", f"{method} {path}")]
        assert handler.opt["role"] is not Role.READER, path
    found = await record(pool)
    assert [(each["actor"], each["what"]) for each in found] == expected
    for each in found:
        assert each["via"] == "api"
        assert each["peer"] == "127.0.0.1"
        assert each["outcome"] == "refused"
        assert 400 <= each["status"] < 500
        assert (each["status"] == 403) == (each["actor"] == "ci")


async def test_the_record_says_on_what_and_holds_no_number_and_no_text(
    api: httpx.AsyncClient, pool: Any, connection: Any
) -> None:
    # Of letters that no id has: what is kept is full of random digits.
    await register(api, {**ROW, "content": "您的验证码是XQZK"})
    assert (await upload(api, BILL)).status_code == 200
    body = {"account": "think", "period": "2024-10"}
    run = (await api.post("/v1/reconciliations", json=body)).json()["id"]
    await api.post(f"/v1/reconciliations/{run}/close", json={"by": "13800138000"})
    await api.post("/v1/reconciliations", json={**body, "account": "13800138000"})
    found = await record(pool)
    assert [(each["what"], each["subject"], each["status"]) for each in found] == [
        ("POST /v1/sent", {}, 200),
        ("POST /v1/statements", {"account": "think", "period": "2024-10"}, 200),
        (
            "POST /v1/reconciliations",
            {"account": "think", "period": "2024-10", "reconciliation": run, "close": "False"},
            200,
        ),
        ("POST /v1/reconciliations/{run_id}/close", {"run_id": run}, 200),
        ("POST /v1/reconciliations", {}, 422),
    ]
    kept = "\n".join(
        row["t"] for row in await connection.fetch("SELECT o::text AS t FROM operator_actions o")
    )
    assert "13800138000" not in kept
    assert "XQZK" not in kept


async def test_an_id_stands_in_the_record_whole_though_digits_in_it_look_like_a_number(
    pool: Any,
) -> None:
    id = "0f9c5a7e-1b2c-4d3e-8f90-a13800138000"
    action = actions.Action(
        id=uuid4(), actor="li", role="admin", via="api", peer="::1", what="POST /v1/sent"
    )
    noted = await actions.begin(pool, action, run_id=UUID(id))
    actions.concerns(reconciliation=id, case=f"{id} 13800138000")
    await actions.end(pool, action, noted, failed=False, status=200)
    (found,) = await record(pool)
    assert found["subject"]["run_id"] == found["subject"]["reconciliation"] == id
    assert "13800138000" not in found["subject"]["case"]


async def test_admins_read_the_record_page_by_page(api: httpx.AsyncClient, pool: Any) -> None:
    for id in ("a", "b", "c"):
        await register(api, {**ROW, "vendor_message_id": id})
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await api.get("/v1/actions", params={"limit": 2, **cursor})).json()
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert len(set(seen)) == len(seen) == 3
    for params in (
        {"actor": "nobody"},
        {"what": "POST /v1/credits"},
        {"to": "2020-01-01T00:00:00Z"},
    ):
        assert (await api.get("/v1/actions", params=params)).json()["items"] == []
    problem(await api.get("/v1/actions", params={"cursor": "x"}), 400)


async def test_what_cannot_be_recorded_is_not_done(
    api: httpx.AsyncClient, pool: Any, connection: Any
) -> None:
    await connection.execute("ALTER TABLE operator_actions RENAME TO hidden")
    answer = await api.post("/v1/sent", json=[ROW])
    problem(answer, 500)
    assert await connection.fetchval("SELECT count(*) FROM messages") == 0


async def test_an_action_that_was_cut_off_has_no_outcome(pool: Any) -> None:
    action = actions.Action(
        id=uuid4(), actor="li", role="admin", via="command", peer="host", what="huizhi send"
    )
    await actions.begin(pool, action, account="think")
    (found,) = await record(pool)
    assert (found["outcome"], found["ended_at"], found["status"]) == (None, None, None)


async def test_a_command_that_fails_is_recorded_as_failed(pool: Any) -> None:
    with pytest.raises(Problem):
        async with actions.command(pool, "replay", {"account": "think", "note": "13800138000"}):
            raise Problem("no")
    async with actions.command(pool, "reconcile", {}) as codes:
        codes.append(1)
    found = await record(pool)
    assert [(each["what"], each["outcome"], each["status"]) for each in found] == [
        ("huizhi replay", "failed", 2),
        ("huizhi reconcile", "done", 1),
    ]
    assert found[0]["subject"] == {"account": "think", "note": "…8000"}
    assert {each["actor"] for each in found} == {actions.login()}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE operator_actions SET actor = 'nobody'",
        "DELETE FROM operator_actions",
        "TRUNCATE operator_actions",
    ],
)
async def test_the_record_can_only_be_added_to(pool: Any, connection: Any, statement: str) -> None:
    async with actions.command(pool, "replay", {}):
        pass
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await connection.execute(statement)
    assert len(await record(pool)) == 1


# --- what browsers are told ---------------------------------------------------------------------------


async def test_every_answer_says_that_nothing_of_it_is_to_be_run_framed_or_kept(
    api: httpx.AsyncClient,
) -> None:
    for path, token in (
        ("/v1/jobs", None),
        ("/nowhere", None),
        ("/v1/jobs", "x"),
        ("/health/live", None),
    ):
        headers = {} if token is None else bearer(token)
        told = (await api.get(path, headers=headers)).headers
        assert told["x-content-type-options"] == "nosniff"
        assert told["cache-control"] == "no-store"
        assert "sandbox" in told["content-security-policy"]
        assert told["referrer-policy"] == "no-referrer"


SCRIPT = "<script>alert(1)</script>"


async def test_a_script_in_a_text_or_a_body_is_data_for_every_browser(
    api: httpx.AsyncClient, pool: Any
) -> None:
    await register(api, {**ROW, "content": f"{SCRIPT}=1+1", "reference": "=cmd|' /C calc'!A0"})
    html = pushed(f"<!doctype html>{SCRIPT}".encode())
    await store(pool, html)
    (message,) = (await api.get("/v1/messages")).json()["items"]
    for path in (
        f"/v1/messages/{message['id']}",
        "/v1/messages",
        "/v1/messages?format=csv",
        "/v1/messages?format=xlsx",
        f"/v1/callbacks/{html.digest.hex()}/body",
    ):
        answer = await api.get(path)
        assert answer.status_code == 200
        told = answer.headers
        assert told["x-content-type-options"] == "nosniff"
        assert "sandbox" in told["content-security-policy"]
        assert "default-src 'none'" in told["content-security-policy"]
        assert "html" not in told["content-type"]
        if "json" not in told["content-type"]:
            assert told["content-disposition"].startswith("attachment; ")
    body = await api.get(f"/v1/callbacks/{html.digest.hex()}/body")
    assert body.headers["content-type"] == "application/octet-stream"
    assert body.content == html.body
    listed = (await api.get("/v1/messages?format=csv")).content.decode("utf-8-sig")
    assert "'=cmd" in listed
