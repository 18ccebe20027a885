"""Traces: where the time of a request went, by OpenTelemetry's names, and nothing that anybody said."""

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from components.core.errors import InputError
from components.deployment import traces
from components.deployment.config import ServeConfig
from components.deployment.engine import Engine
from components.deployment.page.origin import Origin
from components.deployment.prompt_times import HelperCall, PromptTimes
from components.deployment.request_log import RequestRecord
from components.deployment.server import create_app
from components.deployment.traces import Traced, Traces, from_environment
from components.deployment.versions import Version, Versions
from components.model.bundle import Bundle
from tests.deployment.conftest import Fact
from tests.deployment.process import started, url_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTINUED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
WORDS = st.text("abcdefghijklmnopqrstuvwxyzäß東京🚀", min_size=12, max_size=24)


class Collected:
    """Traces that stay in this process."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.traces = Traces(provider)

    def taken(self) -> list[ReadableSpan]:
        """The spans since the last time, parents after their children."""
        spans = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return spans


@pytest.fixture(scope="module")
def versions(asking: Bundle) -> Iterator[Versions]:
    """A cascade in this process."""
    with Engine(asking.folder, threads=1) as engine:
        yield Versions(Version(engine, Origin(version="lacewing version 3")))


@pytest.fixture(scope="module")
def collected() -> Collected:
    return Collected()


@pytest.fixture(scope="module")
def client(versions: Versions, collected: Collected) -> TestClient:
    return client_of(versions, collected.traces)


def client_of(versions: Versions, traces: Traces) -> TestClient:
    app = Traced(create_app(versions, ServeConfig(model="asking")), traces)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_a_request_is_a_tree_of_spans_in_the_trace_of_its_client(
    client: TestClient, collected: Collected, fact: Fact
) -> None:
    body = {"prompt": [fact.prompt, fact.prompt], "max_tokens": 6, "temperature": 0, "call_budget": 1.0}
    before = time.time_ns()
    answer = client.post("/v1/completions", json=body, headers=CONTINUED)
    after, usage = time.time_ns(), answer.json()["usage"]
    spans = collected.taken()
    (root,) = [span for span in spans if span.kind is SpanKind.SERVER]
    assert root.parent is not None
    assert (f"{root.parent.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, PARENT)
    assert {span.context.trace_id for span in spans if span.context} == {int(TRACE, 16)}
    assert root.name == "POST /v1/completions"
    found = attributes(root)
    assert 0 < found.pop("lacewing.first_token_seconds") < 60  # type: ignore[operator]
    identity = answer.headers["x-request-id"]
    assert found == {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "lacewing.request_id": identity,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "lacewing",
        "gen_ai.request.model": "asking",
        "gen_ai.response.model": "lacewing version 3",
        "gen_ai.response.id": identity,
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": 12,
        "lacewing.calls": usage["completion_tokens_details"]["calls"],
        "lacewing.failed_calls": 0,
    }

    def below(parent: ReadableSpan, name: str) -> list[ReadableSpan]:
        assert parent.context
        return [
            span
            for span in spans
            if span.name == name and span.parent is not None and span.parent.span_id == parent.context.span_id
        ]

    queues, decodes = below(root, "queue"), below(root, "decode")
    calls = [below(decode, "helper call") for decode in decodes]
    assert [attributes(span)["lacewing.prompt"] for span in queues + decodes] == [0, 1, 0, 1]
    assert len(spans) == 1 + 2 + 2 + sum(map(len, calls))
    assert all(calls)
    assert sum(map(len, calls)) == usage["completion_tokens_details"]["calls"]
    assert {attributes(span)["lacewing.call.outcome"] for each in calls for span in each} == {"answered"}
    for queue, decode, each in zip(queues, decodes, calls, strict=True):
        times = [before, root.start_time, queue.start_time, queue.end_time]
        assert queue.end_time == decode.start_time
        for span in each:
            times += [span.start_time, span.end_time]
            seconds = attributes(span)["lacewing.call.waiting_seconds"]
            assert (span.end_time or 0) - (span.start_time or 0) == pytest.approx(seconds * 1e9, abs=1000)  # type: ignore[operator]
        times += [decode.end_time, root.end_time, after]
        assert times == sorted(times, key=lambda at: at or 0)


def test_a_stream_that_begins_a_trace_of_its_own_and_what_is_refused(client: TestClient, collected: Collected) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "call_budget": 0, "stream": True}
    twice = [("traceparent", CONTINUED["traceparent"]), ("traceparent", CONTINUED["traceparent"])]
    client.post("/v1/chat/completions", json=body, headers=httpx.Headers(twice))
    queue, decode, root = collected.taken()
    assert (queue.name, decode.name, root.parent) == ("queue", "decode", None)
    assert attributes(root)["gen_ai.operation.name"] == "chat"
    for wrong in ({"prompt": ""}, {"prompt": "One", "model": "nobody"}):
        client.post("/v1/completions", json=wrong)
        (root,) = collected.taken()
        assert 400 <= attributes(root)["http.response.status_code"] < 500  # type: ignore[operator]
        assert root.status.status_code is StatusCode.UNSET
        assert not any(name.startswith("gen_ai") for name in attributes(root))
    assert client.get("/health").status_code == client.get("/metrics").status_code == 200
    assert collected.taken() == []


def test_a_client_that_does_not_sample_is_obeyed(client: TestClient, collected: Collected) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    assert client.get("/v1/models", headers=headers).status_code == 200
    assert collected.taken() == []


def test_failures_are_marked_and_calls_beyond_the_most_are_counted(collected: Collected) -> None:
    calls = [HelperCall("failed", 0.5, 12.0)] + [HelperCall("empty", 0.0, 13.0)] * traces.MOST_CALLS
    prompts = [
        PromptTimes("support", submitted=10.0, begun=11.0, ended=14.0, failed=True, helper_calls=calls),
        PromptTimes("support", submitted=10.0, ended=14.0),  # never had a place
        PromptTimes("support", submitted=10.0),  # was not taken
    ]
    record = RequestRecord("7", "POST", "asking", status=200, prompt_tokens=3, finish_reason="error", prompts=prompts)
    collected.traces.add(record, "", 9.0, 15.0)
    spans = collected.taken()
    names = [span.name for span in spans]
    assert [names.count(name) for name in ("queue", "decode", "helper call")] == [2, 1, traces.MOST_CALLS]
    failed = [span for span in spans if span.status.status_code is StatusCode.ERROR]
    assert [(span.name, attributes(span)["error.type"]) for span in failed] == [
        ("helper call", "failed"),
        ("decode", "error"),
        ("POST other", "error"),
    ]
    assert attributes(failed[1])["lacewing.calls_without_span"] == 1
    assert attributes(failed[2])["gen_ai.request.model"] == "asking:support"


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(said=WORDS, secret=WORDS, seed=st.integers(0, 1000))
def test_nothing_that_was_said_is_in_a_span(
    client: TestClient, collected: Collected, said: str, secret: str, seed: int
) -> None:
    header = secret.encode("ascii", "ignore").decode() or "empty"
    headers = {**CONTINUED, "tracestate": f"vendor={header}", "authorization": f"Bearer {header}"}
    chat = {"messages": [{"role": "user", "content": said}], "max_tokens": 8, "seed": seed, "user": secret}
    whole = client.post("/v1/completions", json={"prompt": said, "max_tokens": 12, "seed": seed}, headers=headers)
    answers = [
        whole,
        client.post("/v1/chat/completions", json={**chat, "stream": True}, headers=headers),
        client.post("/v1/completions", json={"prompt": said, "model": secret}, headers=headers),
        client.post("/v1/completions", json={"prompt": said, "stop": [said], secret: 1}, headers=headers),
        client.post("/v1/completions", content=f'{{"prompt": "{said}'.encode(), headers=headers),
        client.get(f"/v1/models/{said}?key={secret}", headers={"traceparent": header}),
        client.get(f"/v1/{said}", headers=headers),
        client.request("A" + header.upper(), "/v1/models", headers=headers),
    ]
    assert [answer.status_code // 100 for answer in answers] == [2, 2] + [4] * 6
    spans = collected.taken()
    assert sum(span.kind is SpanKind.SERVER for span in spans) == len(answers)
    sent = "".join(span.to_json() for span in spans)
    text = whole.json()["choices"][0]["text"]
    hidden = [said, secret, *([header, header.upper()] if len(header) > 8 else []), *([text] if len(text) > 8 else [])]
    for words in hidden:
        assert words not in sent
        assert json.dumps(words).strip('"') not in sent


PROGRAM = """
import sys
import components.deployment.server
from components.deployment.traces import from_environment
senders = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "mlflow")
print(from_environment("lacewing"), [name for name in sys.modules if name.startswith(senders)])
"""


def test_without_an_endpoint_there_are_no_traces_and_no_exporter_is_imported() -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None []"


@pytest.mark.parametrize(("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")])
def test_the_standard_switches_are_obeyed(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(traces.ENDPOINTS[1], "http://127.0.0.1:4318")
    monkeypatch.setenv(name, value)
    assert from_environment("lacewing") is None


def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(traces.ENDPOINTS[0], "http://127.0.0.1:4317")
    monkeypatch.setenv(traces.PROTOCOLS[1], "grpc")
    with pytest.raises(InputError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL=grpc, but traces are sent by http/protobuf"):
        from_environment("lacewing")


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "is silent"])
def test_a_collector_that_is_away_neither_fails_requests_nor_keeps_the_server(
    listens: bool, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listens:
            taken.listen()  # and never answers
        monkeypatch.setenv(traces.ENDPOINTS[1], f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")  # so that it is tried while requests come
        found = from_environment("lacewing")
        assert found is not None
        client, seconds = client_of(versions, found), []
        for _ in range(4):
            began = time.perf_counter()
            assert client.get("/v1/models").status_code == 200
            seconds.append(time.perf_counter() - began)
            time.sleep(0.02)
        assert max(seconds) < 5.0  # the exporter tries for ten
        began = time.perf_counter()
        found.close(0.3)
        assert time.perf_counter() - began < 2.0


class Receiver(ThreadingHTTPServer):
    """A collector as far as traces go."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[str, ExportTraceServiceRequest]] = []


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        if self.headers["content-encoding"] == "gzip":
            content = gzip.decompress(content)
        assert isinstance(self.server, Receiver)
        self.server.received.append((self.path, ExportTraceServiceRequest.FromString(content)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


def test_the_server_process_sends_its_last_spans_before_it_ends(asking: Bundle) -> None:
    with Receiver() as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.server_port}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",  # never while it runs
            "FASTAPI_OTEL_AUTO_CONFIGURE": "true",  # FastAPI's own spans hold paths, which clients choose
            "LACEWING_API_KEY": "",
        }
        with started(asking.folder, "--port", "0", "--model", "asking", **environment) as process:
            body = {"prompt": "Once", "max_tokens": 3, "call_budget": 0}
            answer = httpx.post(
                f"{url_of(process)}/v1/completions", json=body, headers=CONTINUED, timeout=60.0, trust_env=False
            )
            assert answer.status_code == 200
            assert receiver.received == []
            process.terminate()
            _, log = process.communicate(timeout=30)
            assert process.returncode == 0, log
        ((path, request),) = receiver.received
        receiver.shutdown()
    assert path == "/v1/traces"
    (resource,) = request.resource_spans
    about = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert about["service.name"] == "lacewing"
    spans = {span.name: span for span in resource.scope_spans[0].spans}
    assert set(spans) == {"queue", "decode", "POST /v1/completions"}
    root = spans["POST /v1/completions"]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert spans["decode"].parent_span_id == root.span_id
    of_root = {each.key: each.value for each in root.attributes}
    assert of_root["gen_ai.usage.output_tokens"].int_value == 3
    assert of_root["lacewing.request_id"].string_value == answer.headers["x-request-id"]
