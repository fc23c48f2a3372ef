"""Traces: what is in them, what never is, and that nothing is there where nobody asked."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from services import HUIZHI, ROOT, TOKEN, Process, until

from gateways.gateway import Secret
from gateways.http import Transport, open_client
from reconciler.jobs import Job, run
from reconciler.poll import Done
from runtime import Problem, telemetry
from runtime.database import Database
from runtime.logs import Redaction
from runtime.records import FOREIGN, push_digest
from runtime.settings import Settings, parse

SETTINGS = f"""
data_dir = "data"
[telemetry]
traces = true
sample_ratio = 1.0
[receiver]
host = "127.0.0.1"
port = 0
workers = 1
[reconciler]
port = 0
api_token = "{TOKEN}"
[accounts.think]
gateway = "thinkapi"
base_url = "http://127.0.0.1:9"
credentials = {{ app_code = "the-app-code" }}
callback_tokens = ["the-callback-token"]
[accounts.elsewhere]
gateway = "thinkapi"
base_url = "http://127.0.0.1:9"
credentials = {{ app_code = "the-app-code" }}
callback_tokens = ["the-callback-token"]
known_networks = ["203.0.113.0/24"]
"""
PHONE = "13509898765"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse(SETTINGS, tmp_path / "huizhi.toml", {})


class Site:
    """An HTTP server that answers 200 to all; `bodies` are what came, `paths` where to."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                site.paths.append(self.path)
                site.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def do_GET(self) -> None:
                self.headers["content-length"] = "0"
                self.do_POST()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.stop()


@pytest.mark.anyio
async def test_job_with_its_vendor_call_and_statements_is_one_trace_without_a_secret(
    pool: Any, settings: Settings, site: Site
) -> None:
    asked = f"{site.url}/query?x=1"

    async def work(lease: Any) -> Done:
        async with open_client() as http:
            transport = Transport(http, 1000)
            await transport.get(
                site.url + "/query", params={"secret": "the-app-code", "phone": PHONE}
            )
        await lease.pool.execute("SELECT 1")
        raise ValueError(f"asking {asked} with the-app-code about {PHONE} failed")

    spans = InMemorySpanExporter()
    with telemetry.traced(settings, "reconciler", exporter=spans):
        job = Job(name="ask", account="think", every_seconds=5, work=work)
        await run(pool, job, holder="test")
    found = {span.name: span for span in spans.get_finished_spans()}
    above = found["job ask"]
    assert dict(above.attributes or {}) == {"huizhi.job": "ask", "huizhi.account": "think"}
    call, statement = found["GET"], found["SELECT"]
    for part in (call, statement):
        assert part.parent is not None
        assert part.context is not None
        assert above.context is not None
        assert part.context.trace_id == above.context.trace_id
    assert {span.context.trace_id for span in found.values()} == {above.context.trace_id}  # type: ignore[union-attr]
    assert f"{site.url}/query" in (call.attributes or {}).values()
    assert "secret=" in site.paths[0], "what the vendor gets is untouched"
    text = "".join(span.to_json() for span in found.values())
    for hidden in ("the-app-code", PHONE, "secret=", "x=1"):
        assert hidden not in text
    # What failed is told all the same.
    (event,) = above.events
    assert "asking" in str((event.attributes or {})["exception.message"])


def test_callbacks_are_sent_to_a_collector_without_token_phone_or_body(
    database: Database, tmp_path: Path, site: Site
) -> None:
    file = tmp_path / "huizhi.toml"
    file.write_text(SETTINGS)
    receiver = Process(
        "receiver", file, dsn=database.dsn.reveal(), places=1,
        OTEL_EXPORTER_OTLP_ENDPOINT=site.url,
    )  # fmt: skip
    url = f"{receiver.places['receiver']}/callbacks/think/the-callback-token"
    body = json.dumps({"action": "report", "sms": {"id": "a", "phone": PHONE}}).encode()
    try:
        until(lambda: httpx.post(url, content=body).status_code == 200)
        elsewhere = url.replace("think", "elsewhere")
        assert httpx.post(elsewhere, content=body).status_code == 200
        # The long way, by its chunks; and one that is turned away.
        for each in (url, elsewhere):
            assert httpx.post(each, content=iter([body])).status_code == 200
        assert httpx.post(url + "x", content=body).status_code == 404
        assert httpx.get(receiver.places["receiver"] + "/health/live").status_code == 200
        receiver.stop()
    finally:
        receiver.end()
    spans = []
    for sent in site.bodies:
        told = ExportTraceServiceRequest.FromString(sent)
        for resource in told.resource_spans:
            for scope in resource.scope_spans:
                spans += scope.spans
    attributes = [
        {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}
        for span in spans
    ]
    assert {span.name for span in spans} == {"callback"}
    digests = {
        "think": push_digest("think", "POST", b"", body).hex(),
        # From outside its known networks: another record, as what it says counts otherwise.
        "elsewhere": push_digest("elsewhere", "POST", b"", body, FOREIGN).hex(),
    }
    # On both ways; and nothing of one that is turned away.
    assert sorted(
        (one["http.response.status_code"], one.get("huizhi.account"), one.get("huizhi.record"))
        for one in attributes
    ) == [
        *[(200, "elsewhere", digests["elsewhere"])] * 2,
        *[(200, "think", digests["think"])] * 2,
        (404, None, None),
    ]
    whole = b"".join(site.bodies)
    for hidden in (b"the-callback-token", PHONE.encode(), b"/callbacks"):
        assert hidden not in whole


def test_a_share_of_callbacks_is_traced(settings: Settings) -> None:
    sampler = telemetry._sampler(0.25)
    from opentelemetry.trace import SpanKind

    def share(kind: SpanKind) -> float:
        # Spread evenly, as the ids are that are drawn.
        ids = (number * 0x9E3779B97F4A7C15 % 2**64 for number in range(1, 1001))
        chosen = [sampler.should_sample(None, one, "callback", kind) for one in ids]
        return sum(one.decision.is_sampled() for one in chosen) / 1000

    assert 0.2 < share(SpanKind.SERVER) < 0.3
    assert share(SpanKind.CLIENT) == 0, "a call that belongs to nothing"


def test_what_is_scrubbed() -> None:
    redaction = Redaction([Secret("hush-hush")])
    for text, left in (
        ("GET https://v.example/a?key=1&b=2 failed", "GET https://v.example/a failed"),
        ("hush-hush of 13509898765", "*** of …8765"),
        ("SELECT 1 WHERE a = $1", "SELECT 1 WHERE a = $1"),
    ):
        assert telemetry.scrubbed(text, redaction) == left


def test_without_the_extra_nothing_starts_and_one_line_says_why(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "_NEEDED", ("opentelemetry.sdk", "opentelemetry.nowhere.at_all"))
    with pytest.raises(Problem) as caught:
        telemetry.check(settings)
    assert str(caught.value) == (
        "telemetry.traces is on, and opentelemetry.nowhere.at_all is not installed:"
        " pip install 'huizhi[otel]', or turn it off"
    )
    off = parse(SETTINGS.replace("traces = true", "traces = false"), settings.file, {})
    telemetry.check(off)


def test_off_nothing_of_it_is_loaded(tmp_path: Path) -> None:
    """Neither by the command line nor by a receiver's modules: off, it costs nothing."""
    code = (
        "import sys, huizhi.processes, receiver.worker, reconciler.worker\n"
        "from pathlib import Path\n"
        "from runtime import telemetry\n"
        "from runtime.settings import parse\n"
        "from receiver import protocol\n"
        "settings = parse('', Path('huizhi.toml'), {})\n"
        "with telemetry.traced(settings, 'receiver'), telemetry.span('job x'):\n"
        "    assert telemetry.tracer() is None\n"
        "assert protocol.Protocol.short is protocol.Short\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def test_wrong_share_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "huizhi.toml").write_text(SETTINGS.replace("1.0", "1.5"))
    ran = subprocess.run(
        [*HUIZHI, "check-config"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 2
    assert "telemetry.sample_ratio: expected a number from 0 to 1" in ran.stderr
