"""Keys: the same for the same thing anywhere, different for different things."""

from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.identity import digest, message_id, shard_of, shard_of_message, text_digest

ids = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def test_keys_are_what_stored_databases_hold() -> None:
    # Changing any of these orphans every stored row: that takes a migration.
    assert digest(b"push", b"a", b"").hex() == (
        "cb86db7a34e2aa36731313e11d4f27fe4f3997aba81c1dffaa74af08642554f1"
    )
    assert shard_of("think-main", "6055df2f45e10") == -1584889656
    assert message_id("think-main", "6055df2f45e10", "13509898765") == UUID(
        "a18880c8-3b64-f758-6e34-23070f59a2f9"
    )
    assert text_digest("push", None, 1.5).hex() == "7ec7daa6385b6e99e30ac5c9235d9ff8"


@settings(derandomize=True)
@given(ids, ids, ids)
def test_message_begins_with_its_shard(account: str, id: str, phone: str) -> None:
    message = message_id(account, id, phone)
    assert shard_of_message(message) == shard_of(account, id)
    assert -(2**31) <= shard_of(account, id) < 2**31


@settings(derandomize=True)
@given(st.tuples(ids, ids, ids), st.tuples(ids, ids, ids))
def test_different_messages_have_different_ids(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert (message_id(*one) == message_id(*other)) == (one == other)


@settings(derandomize=True)
@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_how_parts_are_cut_is_part_of_a_digest(one: list[bytes], other: list[bytes]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


def test_nothing_differs_from_empty_and_from_the_word() -> None:
    assert len({text_digest(None), text_digest(""), text_digest("None"), text_digest()}) == 4
