"""Every route by its own document, with what fits it and what does not: schemathesis over real HTTP.

Nothing gets a 5xx, and every answer is one that the document declares: status, media type, shape.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from test_api import NOBODY, ROW, SETTINGS, TOKEN

from reconciler.api import create_app
from runtime.database import Database
from runtime.sockets import bind

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
# What a client of the vendors' would do is not for a test to send to them.
UNSENT = ("/v1/messages",)
SECONDS = 20.0


@pytest.fixture
def server(database: Database) -> Iterator[str]:
    """The address of an API in a thread of its own: its caller here is not asynchronous."""
    app = create_app(SETTINGS, replace(database, role="huizhi_reconciler"))
    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="on", access_log=False, log_config=None
    )
    served = uvicorn.Server(config)
    bound = bind("127.0.0.1", 0)
    bound.listen(64)
    thread = threading.Thread(target=lambda: asyncio.run(served.serve(sockets=[bound])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        served.should_exit = True
        thread.join(30)
        bound.close()


def authorized(token: str = TOKEN) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def operations(address: str) -> list[Any]:
    document = requests.get(f"{address}/schema", headers=authorized(), timeout=SECONDS).json()
    schema = schemathesis.openapi.from_dict(document)
    return [found.ok() for found in schema.get_all_operations()]


def each_tried(
    address: str, examples: int, check: Callable[[Any, requests.Response], None], **headers: str
) -> set[str]:
    """Call every operation with examples of both kinds, and have each answer checked."""
    tried, wrong = set(), []
    for operation in operations(address):
        tried.add(f"{operation.method.upper()} {operation.path}")
        strategy = st.one_of(
            *(operation.as_strategy(generation_mode=mode) for mode in GenerationMode)
        )

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def call(case: Any) -> None:
            sent = case.method == "POST" and case.path in UNSENT
            if sent and isinstance(case.body, dict):
                case.body["account"] = "nobody"
            answer = case.call(base_url=address, headers=headers, timeout=SECONDS)
            check(case, answer)

        try:
            call()
        except BaseExceptionGroup as failures:
            wrong += [
                f"{operation.method} {operation.path}: {each}" for each in failures.exceptions
            ]
    assert wrong == []
    return tried


@pytest.mark.filterwarnings("ignore")  # of the libraries of the tool
def test_every_answer_is_one_that_the_document_declares(server: str) -> None:
    # Something to list, or most shapes would not be met.
    told = requests.post(f"{server}/v1/sent", json=[ROW], headers=authorized(), timeout=SECONDS)
    assert told.status_code == 200

    def check(case: Any, answer: Any) -> None:
        case.validate_response(answer, checks=CHECKS, headers=authorized())

    tried = each_tried(server, 15, check, **authorized())
    assert len(tried) > 30


@pytest.mark.filterwarnings("ignore")
def test_without_a_token_everything_is_a_401_whatever_it_is_sent(server: str) -> None:
    def check(_: Any, answer: Any) -> None:
        assert answer.status_code in (400, 401)  # 400: the server's own, of what is no HTTP
        assert answer.status_code == 401 or not answer.headers.get("content-type", "").endswith(
            "json"
        )

    each_tried(server, 3, check)
    assert requests.get(f"{server}/v1/messages/{NOBODY}", timeout=SECONDS).status_code == 401
