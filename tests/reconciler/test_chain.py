"""The chain on a real database: everything once, whatever dies or comes late, and nothing changed unseen."""

import asyncio
import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proving import NOW, World, accounts, disputed, record
from test_api import serving

from huizhi.__main__ import group
from reconciler import actions, canonical, chain
from reconciler import lease as leases
from runtime import LeaseLost, migrate, records
from runtime.database import Database
from runtime.queries import QUERIES, SQL

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(pool: Any, connection: Any, tmp_path: Path) -> World:
    return World(pool, connection, tmp_path, accounts())


async def _counts(world: World) -> dict[str, int]:
    rows = await world.pool.fetch("SELECT kind, count(*) AS n FROM chain_entries GROUP BY kind")
    return {row["kind"]: row["n"] for row in rows}


async def acted(world: World) -> None:
    async with actions.command(world.pool, "reconcile", {"account": "think"}) as codes:
        codes.append(1)


# --- linking ------------------------------------------------------------------------------------------


async def test_everything_recorded_is_linked_once_and_verifies(world: World) -> None:
    await disputed(world)
    assert await world.link() > 0
    assert await _counts(world) == {"record": 10, "message": 7, "statement": 1, "run": 1}
    assert await world.faults() == []
    assert await world.link() == 0
    head = await world.head()
    assert await world.faults(head.hash) == []


async def test_a_chain_without_links_verifies(world: World) -> None:
    assert await world.faults() == []
    assert await world.head() == chain.Head(height=0, hash="00" * 32, linked_at=None)


async def test_a_batch_that_commits_late_is_linked_late_and_once(world: World) -> None:
    async with world.pool.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        late, _ = await records.store(slow, [record("late", 1, NOW)], recorder="slow", now=NOW)
        later = await world.push(("soon", 1))
        assert later > late, "the number is drawn before the commit"
        await world.link()
        assert (await _counts(world))["record"] == 1
        await transaction.commit()
        await slow.execute("UPDATE batches SET settled_at = now() WHERE id = $1", late)
    await world.link()
    assert (await _counts(world))["record"] == 2
    assert await world.faults() == []


async def test_what_is_not_settled_is_not_linked_and_shows_as_behind(world: World) -> None:
    now = datetime.now(UTC)
    await world.push(("a", 1), recorded_at=now)
    await world.connection.execute(
        "UPDATE batches SET settled_at = NULL, recorded_at = now() - interval '150 seconds'"
    )
    assert await world.link() == 0
    assert 149 < await chain.behind_seconds(world.connection) < 260
    await world.connection.execute("UPDATE batches SET settled_at = now()")
    await world.link()
    assert await chain.behind_seconds(world.connection) == 0


async def test_a_batch_with_nothing_new_makes_no_link(world: World) -> None:
    await world.push(("a", 1))
    await world.link()
    before = await world.head()
    await world.push(("a", 1))
    assert await world.link() == 1
    assert await world.head() == before
    assert await chain.behind_seconds(world.connection) == 0
    assert await world.faults() == []


async def test_linking_while_receiving_links_everything_once(world: World) -> None:
    receiving = 4
    done: list[int] = []

    async def receive(which: int) -> None:
        for number in range(25):
            await world.push((f"r{which}-{number}", 1), (f"s{which}-{number}", -1))
            await world.register(f"r{which}-{number}")
        done.append(which)

    async def link(holder: str) -> None:
        while len(done) < receiving:
            async with leases.held(world.pool, chain.LEASE, holder=holder) as lease:
                if lease is not None:
                    await chain.link_all(lease)
            await asyncio.sleep(0)

    await asyncio.gather(*map(receive, range(receiving)), link("a"), link("b"))
    await world.link()
    assert await _counts(world) == {"record": 200, "message": 100}
    assert await world.faults() == []


async def test_more_than_one_link_holds_is_linked_in_several(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "MAX_ENTRIES", 10)
    for number in range(6):
        await world.push(*((f"m{number}-{each}", 1) for each in range(4)))
    await disputed(world)
    await world.link()
    entries = [row["entries"] for row in await world.pool.fetch("SELECT entries FROM chain_links")]
    assert len(entries) > 3
    assert max(entries) <= 10 + 4 + 7 + 1
    assert (await _counts(world))["run"] == 1
    assert await world.faults() == []


@pytest.mark.parametrize("step", ["_add", "_close"])
async def test_a_crash_in_the_middle_leaves_nothing_of_a_link(
    step: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await disputed(world)
    whole = getattr(chain, step)

    async def die(*arguments: Any) -> None:
        await whole(*arguments)
        raise ConnectionResetError

    with monkeypatch.context() as dying:
        dying.setattr(chain, step, die)
        with pytest.raises(ConnectionResetError):
            await world.link()
    assert await _counts(world) == {}
    assert await world.faults() == []
    await world.link()
    assert (await _counts(world))["record"] == 10
    assert await world.faults() == []


async def test_a_linker_whose_connection_is_cut_is_taken_over_from(world: World) -> None:
    await disputed(world)
    async with world.pool.acquire() as blocker, blocker.transaction():
        await blocker.execute("LOCK TABLE chain_links IN EXCLUSIVE MODE")
        linking = asyncio.create_task(world.link())
        while not await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        await blocker.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
        )
        with pytest.raises(Exception, match=r"terminat|clos"):
            await linking
    assert await _counts(world) == {}
    await world.link()
    assert await world.faults() == []


async def test_a_replaced_linker_writes_nothing(world: World) -> None:
    await world.push(("a", 1))
    async with leases.held(world.pool, chain.LEASE, holder="a") as hung:
        assert hung is not None
        await world.pool.execute("UPDATE leases SET expires_at = now()")
        async with leases.held(world.pool, chain.LEASE, holder="b") as lease:
            assert lease is not None
            with pytest.raises(LeaseLost):
                await chain.link(hung)
            assert await _counts(world) == {}
            assert await chain.link(lease)
    assert await world.faults() == []


async def test_a_run_s_link_comes_after_all_that_it_rests_on(world: World) -> None:
    await disputed(world)
    await world.link()
    rows = await world.pool.fetch("SELECT kind, height FROM chain_entries")
    heights = {row["height"] for row in rows if row["kind"] == "run"}
    assert heights == {max(row["height"] for row in rows)}
    assert len(heights) == 1


async def test_messages_sent_through_us_are_linked_under_the_id_of_the_vendor(world: World) -> None:
    await world.register("a")
    await world.connection.execute(
        "INSERT INTO messages (shard, id, account, vendor_message_id, phone, sent_at, registered_at,"
        " segments, segments_given, status) SELECT shard, gen_random_uuid(), account, '~00', phone,"
        " sent_at, registered_at, segments, segments_given, 'submitting' FROM messages"
    )
    await world.link()
    assert (await _counts(world)) == {"message": 1}
    assert await world.faults() == []


async def test_an_action_is_linked_when_it_begins_and_again_when_it_has_ended(
    world: World,
) -> None:
    async with actions.command(world.pool, "reconcile", {"account": "think"}):
        assert await world.link() == 1
        assert await _counts(world) == {"action": 1}
        assert await world.faults() == []
    # One that waits is nobody's addition.
    assert await world.faults() == []
    assert await world.link() == 1
    assert await _counts(world) == {"action": 1, "outcome": 1}
    assert await world.faults() == []
    assert await world.connection.fetchval("SELECT count(*) FROM unlinked_actions") == 0
    assert await world.link() == 0


async def test_an_action_that_waits_to_be_linked_shows_as_behind(world: World) -> None:
    await acted(world)
    await world.connection.execute("UPDATE unlinked_actions SET at = at - interval '90 seconds'")
    assert 89 < await chain.behind_seconds(world.connection) < 200
    await world.link()
    assert await chain.behind_seconds(world.connection) == 0


async def test_actions_from_before_they_were_linked_are_linked_too(
    empty_database: Database, tmp_path: Path
) -> None:
    # The linking came with 0014.
    for file in sorted((SQL / "migrations").glob("*.sql"))[:13]:
        shutil.copy(file, tmp_path)
    async with empty_database.connection() as connection, empty_database.pool() as pool:
        await migrate.migrate(connection, migrate.load(tmp_path))
        await connection.execute(
            "INSERT INTO operator_actions SELECT gen_random_uuid(), gen_random_uuid(), now(), 'begun',"
            " 'li', 'admin', 'api', '::1', 'POST /v1/sent', '{}' FROM generate_series(1, 3)"
        )
        await migrate.migrate(connection)
        world = World(pool, connection, tmp_path, accounts())
        assert len(await world.faults()) == 0
        await world.link()
        assert await _counts(world) == {"action": 3}
        assert await world.faults() == []


# --- what was tampered with ---------------------------------------------------------------------------

ONE = "WHERE digest = (SELECT digest FROM records ORDER BY digest LIMIT 1)"
COPIED = (
    "received_at, last_received_at, deliveries, method, query, headers, body, peer FROM records "
    + ONE
)
NEW_MESSAGE = (
    "INSERT INTO messages (shard, id, account, vendor_message_id, phone, sent_at, registered_at,"
    " segments, segments_given, status) SELECT shard, gen_random_uuid(), account, 'new', phone, sent_at,"
    " registered_at, segments, segments_given, 'submitted' FROM messages LIMIT 1"
)
# Whoever owns the table is not kept from changing it.
OWNER = "ALTER TABLE operator_actions DISABLE TRIGGER ALL;"
BEGUN, ENDED = "WHERE outcome = 'begun'", "WHERE outcome <> 'begun'"
TAMPERING = [
    (f"UPDATE records SET body = body || ' ' {ONE}", "record .* was changed"),
    (f"UPDATE records SET peer = '198.51.100.1' {ONE}", "record .* was changed"),
    (f"UPDATE records SET headers = headers || ' ' {ONE}", "record .* was changed"),
    (f"UPDATE records SET account = 'other' {ONE}", "record .* was changed"),
    (f"UPDATE records SET received_at = now() {ONE}", "record .* was changed"),
    (f"DELETE FROM records {ONE}", "record .* is gone"),
    (
        f"INSERT INTO records SELECT sha256(digest), account, source, call, subject, batch_id, {COPIED}",
        "record .* was added",
    ),
    (
        f"INSERT INTO records SELECT sha256(digest), account, source, call, subject, -1, {COPIED}",
        "record .* was added",
    ),
    ("UPDATE messages SET segments = 9 WHERE vendor_message_id = 'long'", "message .* was changed"),
    (
        "UPDATE messages SET content = 'x' WHERE vendor_message_id = 'long'",
        "message .* was changed",
    ),
    ("DELETE FROM messages WHERE vendor_message_id = 'long'", "message .* is gone"),
    (NEW_MESSAGE, "message .* was added"),
    ("UPDATE lines SET amount = 0.05 WHERE line = 2", "statement .* was changed"),
    ("DELETE FROM lines WHERE line = 2", "statement .* was changed"),
    ("UPDATE statements SET file_name = 'other.csv'", "statement .* was changed"),
    ("DELETE FROM statements", "statement .* is gone"),
    ("UPDATE discrepancies SET amount = amount + 1 WHERE seq = 1", "run .* was changed"),
    (
        "DELETE FROM run_reports WHERE message_id = (SELECT message_id FROM run_reports LIMIT 1)",
        "run .* was changed",
    ),
    (
        "UPDATE reports SET status = 'failed' WHERE vendor_message_id = 'twice'",
        "run .* was changed",
    ),
    ("UPDATE runs SET rules = '{}'", "run .* was changed"),
    ("DELETE FROM runs", "run .* is gone"),
    (
        "DELETE FROM chain_links WHERE height = (SELECT max(height) FROM chain_links)",
        "is not there",
    ),
    ("DELETE FROM chain_links WHERE height = 1", "link 1 is not there"),
    ("DELETE FROM chain_entries WHERE height = 1 AND position = 0", "link 1 has"),
    (
        "UPDATE chain_entries SET content = sha256(content) WHERE height = 1 AND position = 1",
        "entries of link 1 are not",
    ),
    (
        "UPDATE chain_links SET linked_at = '2026-01-01' WHERE height = 1",
        "link 1 is not what its hash",
    ),
    ("UPDATE chain_links SET hash = sha256(hash) WHERE height = 1", "does not follow"),
    ("DELETE FROM chain_entries; DELETE FROM chain_links", "cut off"),
    (f"{OWNER} UPDATE operator_actions SET actor = 'li' {BEGUN}", "action .* was changed"),
    (f"{OWNER} UPDATE operator_actions SET subject = '{{}}' {BEGUN}", "action .* was changed"),
    (f"{OWNER} UPDATE operator_actions SET at = now() {BEGUN}", "action .* was changed"),
    (f"{OWNER} UPDATE operator_actions SET status = 0 {ENDED}", "outcome .* was changed"),
    (
        f"{OWNER} UPDATE operator_actions SET outcome = 'failed' {ENDED}",
        "outcome .* was changed",
    ),
    (f"{OWNER} DELETE FROM operator_actions {BEGUN}", "action .* is gone"),
    (f"{OWNER} DELETE FROM operator_actions {ENDED}", "outcome .* is gone"),
    (f"{OWNER} TRUNCATE operator_actions", "action .* is gone; outcome .* is gone"),
    (
        "INSERT INTO operator_actions SELECT gen_random_uuid(), gen_random_uuid(), at, outcome,"
        f" actor, role, via, peer, what, subject, status FROM operator_actions {BEGUN}",
        "action .* was added: it is in no link",
    ),
    (
        "INSERT INTO operator_actions SELECT gen_random_uuid(), gen_random_uuid(), at, outcome,"
        f" actor, role, via, peer, what, subject, status FROM operator_actions {ENDED}",
        "outcome .* was added: it is in no link",
    ),
]


@pytest.mark.parametrize(("statement", "told"), TAMPERING)
async def test_whatever_is_changed_dropped_or_added_is_found(
    statement: str, told: str, world: World
) -> None:
    await disputed(world)
    await acted(world)
    await world.link()
    assert await world.faults() == []
    await world.connection.execute(statement)
    assert re.search(told, "; ".join(await world.faults()))


async def test_a_chain_made_anew_is_told_by_the_head_kept_outside_alone(world: World) -> None:
    await disputed(world)
    await world.link()
    anchored = (await world.head()).hash
    await world.connection.execute(
        "DELETE FROM records WHERE digest = (SELECT digest FROM records ORDER BY digest LIMIT 1);"
        "DELETE FROM chain_entries; DELETE FROM chain_links; DELETE FROM run_reports;"
        "UPDATE batches SET height = NULL;"
        "INSERT INTO unlinked_messages (registered_at, message_ids)"
        " SELECT now(), array_agg(id) FROM messages"
    )
    await world.link()
    assert await world.faults() == []
    assert await world.faults(anchored) == [f"no link has the anchored hash {anchored}"]


async def test_what_was_there_before_the_chain_is_linked_too(
    empty_database: Database, tmp_path: Path
) -> None:
    own = next((SQL / "migrations").glob("*_chain.sql")).name
    for file in (SQL / "migrations").glob("*.sql"):
        if file.name < own:
            shutil.copy(file, tmp_path)
    async with empty_database.connection() as connection, empty_database.pool() as pool:
        await migrate.migrate(connection, migrate.load(tmp_path))
        await connection.execute(
            "INSERT INTO messages (shard, id, account, vendor_message_id, phone, sent_at, registered_at,"
            " segments, segments_given, status)"
            " SELECT 0, ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid,"
            " 'main', CASE n WHEN 1 THEN '~' ELSE '' END || n, '1', t.at, t.at, 1, true, 'submitted'"
            " FROM generate_series(1, 12001) AS n, (SELECT now() - interval '3 minutes' AS at) AS t"
        )
        world = World(pool, connection, tmp_path, accounts())
        await records.store(connection, [record("a", 1, NOW)], recorder="test", now=NOW)
        await connection.execute("UPDATE batches SET settled_at = now()")
        await migrate.migrate(connection)
        assert await connection.fetchval("SELECT count(*) FROM unlinked_messages") == 3
        await world.link()
        assert await _counts(world) == {"record": 1, "message": 12000}
        assert await world.faults() == []


async def test_recording_writes_to_no_index_of_the_chain(world: World) -> None:
    size = (
        "SELECT pg_relation_size('batches_unlinked_idx') + pg_relation_size('batches_height_idx')"
        " + pg_total_relation_size('chain_entries') + pg_total_relation_size('unlinked_messages')"
    )
    empty = await world.connection.fetchval(size)
    for number in range(300):
        found = [record(f"m{number}", 1, NOW)]
        await records.store(world.connection, found, recorder="test", now=NOW)
    assert await world.connection.fetchval(size) == empty
    await world.connection.execute("UPDATE batches SET settled_at = now()")
    assert await world.connection.fetchval(size) > empty


async def test_what_is_unlinked_is_found_by_its_index(world: World) -> None:
    await world.connection.execute(
        "INSERT INTO batches (recorder, recorded_at, settled_at, height)"
        " SELECT 'test', now(), now(), 1 FROM generate_series(1, 20000)"
    )
    await world.push(("a", 1))
    await world.connection.execute("ANALYZE batches")
    plan = await world.connection.fetch(
        "EXPLAIN " + QUERIES["unlinked_batches"].replace("$1", "1000").replace("$2", "16000")
    )
    text = "\n".join(row[0] for row in plan)
    assert "batches_unlinked_idx" in text
    assert "Seq Scan on batches" not in text


# --- trees --------------------------------------------------------------------------------------------


@given(st.integers(1, 70))
def test_every_leaf_has_a_path_to_the_root(count: int) -> None:
    leaves = [bytes([number]) * 32 for number in range(count)]
    tree = canonical.levels(leaves)
    assert len(tree[-1]) == 1
    for place, leaf in enumerate(leaves):
        node, at, wide = leaf, place, count
        path = canonical.path(tree, place)
        while wide > 1:
            if at ^ 1 < wide:
                beside = path.pop(0)
                pair = beside + node if at & 1 else node + beside
                node = canonical.sha256_of(b"\1" + pair)
            at, wide = at >> 1, (wide + 1) >> 1
        assert not path
        assert node == tree[-1][0]


def test_no_leaf_passes_for_a_node() -> None:
    leaves = [bytes([number]) * 32 for number in range(2)]
    root = canonical.levels(leaves)[-1][0]
    assert canonical.levels([leaves[0] + leaves[1]])[-1][0] != root
    assert canonical.leaf("record", b"k", "a", NOW, b"c") != canonical.leaf(
        "recor", b"dk", "a", NOW, b"c"
    )


# --- what people see ----------------------------------------------------------------------------------


async def test_api_shows_the_head_the_package_and_the_gauges(
    world: World, database: Database
) -> None:
    run = await disputed(world)
    async with serving(database) as api:
        assert (await api.get("/v1/chain/head")).json()["height"] == 0
        answer = await api.get(f"/v1/reconciliations/{run}/evidence")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/zip"
        assert answer.content.startswith(b"PK")
        head = (await api.get("/v1/chain/head")).json()
        assert head["height"] > 0
        assert head["behind_seconds"] == 0
        onward = await api.get(f"/v1/reconciliations/{run}/evidence", params={"head": head["hash"]})
        assert onward.content == answer.content
        for wrong, status in (("x", 422), ("00" * 32, 422)):
            refused = await api.get(f"/v1/reconciliations/{run}/evidence", params={"head": wrong})
            assert refused.status_code == status
        nobody = await api.get("/v1/reconciliations/00000000-0000-4000-8000-000000000000/evidence")
        assert nobody.status_code == 404
        assumed = await world.reconcile(assume={"price": "1"})
        refused = await api.get(f"/v1/reconciliations/{assumed}/evidence")
        assert (refused.status_code, "assumes something" in refused.text) == (422, True)
        text = (await api.get("/metrics")).text
        assert f"huizhi_chain_height {float(head['height'])}" in text
        assert "huizhi_chain_behind_seconds 0.0" in text


async def test_commands_write_the_head_and_the_package_and_verify(
    world: World, database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = await disputed(world)
    settings = tmp_path / "huizhi.toml"
    settings.write_text(f'[database]\nurl = "{database.dsn.reveal()}"\n', "utf-8")

    async def huizhi(*arguments: str) -> int:
        given = ["--config", str(settings), *arguments]
        code = await asyncio.to_thread(group.main, given, standalone_mode=False)
        assert isinstance(code, int)
        return code

    package, anchor = tmp_path / "run.zip", tmp_path / "head.json"
    assert await huizhi("evidence", str(run), "--to", str(package)) == 0
    assert package.stat().st_size > 1000
    assert await huizhi("chain", "head", "--to", str(anchor)) == 0
    hash = json.loads(anchor.read_text())["hash"]
    assert hash == (await world.head()).hash
    assert await huizhi("chain", "verify", "--head", hash) == 0
    assert await huizhi("evidence", str(run), "--to", str(package), "--head", hash) == 0
    await world.connection.execute("DELETE FROM records")
    capsys.readouterr()
    assert await huizhi("chain", "verify", "--output", "json") == 1
    told = json.loads(capsys.readouterr().out)
    assert len(told["faults"]) == 10
    assert all("is gone" in fault["what"] for fault in told["faults"])
