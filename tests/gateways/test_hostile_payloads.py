"""Bombs for every gateway's parsers: refused in the documented words, in little time and memory.

What damage on the way does is in `test_contract`; this is what somebody builds on purpose.
"""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from test_contract import CASES, EVERY, Case

from gateways import GATEWAYS
from gateways.errors import Garbled, Indeterminate, Malformed, Refused
from gateways.gateway import Account, Gateway

SECONDS = 5.0  # of this processor, on a machine that does other things besides
BYTES = 96 << 20

_LAUGHS = "".join(
    f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' if n else '<!ENTITY l0 "lol">' for n in range(10)
)
_NUMBERS = (
    *("1e999999999", "-1e999999999", "1e-999999999", "9" * 5000, "-" + "9" * 5000, "NaN"),
    *("Infinity", "-Infinity", "0" * 5000, "1" + "0" * 400, "0.1" * 3, "1e5", "１２"),
)
BOMBS = {
    "laughs": f"<?xml version='1.0'?><!DOCTYPE r [{_LAUGHS}]><returnsms><callbox>"
    "<mobile>&l9;</mobile></callbox></returnsms>",
    "outside": "<!DOCTYPE r [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"
    "<returnsms><callbox><mobile>&x;</mobile></callbox></returnsms>",
    "parameter": "<!DOCTYPE r [<!ENTITY % x SYSTEM 'http://127.0.0.1:1/x'> %x;]><returnsms/>",
    "quadratic": f"<!DOCTYPE r [<!ENTITY a '{'a' * 50_000}'>]><returnsms>{'&a;' * 50_000}</returnsms>",
    "deep": "<returnsms>" + "<a>" * 200_000,
    "wide": "<returnsms>" + "<statusbox><mobile>1</mobile></statusbox>" * 20_000 + "</returnsms>",
    "attributes": "<returnsms " + " ".join(f"a{n}='x'" for n in range(60_000)) + "/>",
    "references": "<returnsms>" + "&#x41;" * 150_000 + "</returnsms>",
    "keys": "{" + ",".join(f'"k{n}":{n}' for n in range(80_000)) + "}",
    "same key": "{" + ",".join('"sms":{"id":"1"}' for _ in range(60_000)) + "}",
    "escapes": '{"sms":"' + "\\u0041" * 160_000 + '"}',
    "surrogates": '{"id":"' + "\\ud83d" * 160_000 + '"}',
    "deep JSON": '{"sms":' * 100_000 + "1" + "}" * 100_000,
    "deep lists": "[" * 500_000 + "]" * 500_000,
    "deep in text": '{"sms":"' + "[" * 900_000 + '"}',
    "almost JSON": "{'a':'" + "\\'" * 400_000,
    "comments": "{" + "//x\n" * 200_000 + "}",
    "form": "&".join(f"k{n}=v" for n in range(100_000)),
    "form of one": "sms=" + "%7B%22id%22%3A" * 60_000,
}


@contextmanager
def cheap() -> Iterator[None]:
    """Assert that what is done within takes little time and memory."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        used, most = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Tracing itself makes everything some four times as slow.
    assert used < 4 * SECONDS
    assert most < BYTES


def of_each_kind(gateway: Gateway) -> list[Case]:
    """One captured payload of every method, and of a reply."""
    return list({case.what: case for case in CASES if case.gateway is gateway}.values())


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=GATEWAYS)
def test_bombs_cost_little_and_are_refused_in_our_own_words(
    gateway: Gateway, account_at: Callable[..., Account], name: str
) -> None:
    account, body = account_at(gateway.name), BOMBS[name].encode()
    for case in of_each_kind(gateway):
        with cheap():
            said = told(case, account, body)
        if "<!DOCTYPE" in BOMBS[name]:
            assert said is not None
            assert "lol" not in said
            assert "root:" not in said


@pytest.mark.parametrize("number", _NUMBERS, ids=lambda number: number[:14])
@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=GATEWAYS)
def test_numbers_that_no_vendor_means_cost_little(
    gateway: Gateway, account_at: Callable[..., Account], number: str
) -> None:
    account = account_at(gateway.name)
    for case in of_each_kind(gateway):
        text = case.body.decode("utf-8", "replace")
        for mark in ("1", "0", "10", "60"):
            with cheap():
                told(case, account, text.replace(mark, number, 2).encode())


def told(case: Case, account: Account, body: bytes) -> str | None:
    """What the parser says against `body`, if it says anything; an error of no other kind is met."""
    try:
        case.parse(account, body)
    except (Malformed, Garbled, Refused, Indeterminate) as error:
        return str(error)
    return None


def test_every_kind_of_payload_is_tried() -> None:
    assert {case.gateway.name for case in EVERY} == set(GATEWAYS)
    assert all(of_each_kind(gateway) for gateway in GATEWAYS.values())
