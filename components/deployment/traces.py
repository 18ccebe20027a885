"""Traces of requests for OpenTelemetry: where the time of a request went, and nothing that anybody said.

Off unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` says where to send them. All spans
of a request are made after its end, from the times that were noted meanwhile, so the decode thread has nothing to do
with them; a thread of the package sends them. What makes and sends them is imported only where traces are on.
"""

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from components.core.errors import InputError
from components.deployment.prompt_times import PromptTimes
from components.deployment.request_log import RequestRecord, record_of

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
# What a server that stops waits for the last spans to be taken.
FLUSH_SECONDS = 2.0
# Of one request: an answer can hold thousands, and the queue of the exporter holds 2,048 spans of all requests.
MOST_CALLS = 128
_OPERATIONS = {"/v1/completions": "text_completion", "/v1/chat/completions": "chat"}

Attributes = dict[str, str | int | float | tuple[str, ...]]


class Traces:
    """Makes the spans of requests that have ended. Thread-safe."""

    def __init__(self, provider: "TracerProvider") -> None:
        """``provider``: which has an exporter, and is shut down by ``close``."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("lacewing")
        self._propagator = TraceContextTextMapPropagator()

    def add(self, record: RequestRecord, traceparent: str, began: float, ended: float) -> None:
        """The spans of a request.

        Arguments:
            record: complete.
            traceparent: the client's header, as W3C has it; of one that is not valid, a trace of its own is made.
            began: its arrival, by ``time.perf_counter``; ``ended`` likewise.
        """
        from opentelemetry.trace import SpanKind, set_span_in_context

        clock = _Clock()
        span = self._tracer.start_span(
            f"{record.method} {record.route}",
            # Of the client's state nothing is kept: we hand it to nobody, and it is text of a client.
            context=self._propagator.extract({"traceparent": traceparent}),
            kind=SpanKind.SERVER,
            attributes=_of_request(record),
            start_time=clock.nanoseconds(began),
        )
        if span.is_recording():
            if failure := _failure(record):
                _fail(span, failure)
            within, calls_left = set_span_in_context(span), MOST_CALLS
            for number, times in enumerate(record.prompts):
                if times.ended is not None:
                    calls_left -= self._add_prompt(number, times, times.ended, within, clock, calls_left)
        span.end(clock.nanoseconds(ended))

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Send what is left, for so long at most: a collector that is away must not keep a server from stopping."""
        flushing = threading.Thread(target=self._provider.shutdown, name="flush traces", daemon=True)
        flushing.start()
        flushing.join(seconds)

    def _add_prompt(
        self, number: int, times: PromptTimes, ended: float, within: "Context", clock: "_Clock", most_calls: int
    ) -> int:
        """The spans of a prompt; for how many calls there is one."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        place: Attributes = {"lacewing.prompt": number}
        begun = ended if times.begun is None else times.begun
        queue = self._tracer.start_span(
            "queue", within, attributes=place, start_time=clock.nanoseconds(times.submitted)
        )
        queue.end(clock.nanoseconds(begun))
        if times.begun is None:
            return 0
        calls = list(times.helper_calls)
        shown = calls[:most_calls]
        left_out: Attributes = {"lacewing.calls_without_span": len(calls) - len(shown)} if calls[most_calls:] else {}
        decode = self._tracer.start_span(
            "decode", within, attributes=place | left_out, start_time=clock.nanoseconds(begun)
        )
        if times.failed:
            _fail(decode, "error")
        inside = set_span_in_context(decode)
        for call in shown:
            span = self._tracer.start_span(
                "helper call",
                inside,
                kind=SpanKind.CLIENT,
                attributes={"lacewing.call.outcome": call.outcome, "lacewing.call.waiting_seconds": call.seconds},
                start_time=clock.nanoseconds(max(begun, call.ended - call.seconds)),
            )
            if call.outcome == "failed":
                _fail(span, "failed")
            span.end(clock.nanoseconds(call.ended))
        decode.end(clock.nanoseconds(ended))
        return len(shown)


class Traced:
    """ASGI middleware around the log of requests, whose records it reads."""

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app, self._traces = app, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        try:
            await self._app(scope, receive, send)
        finally:
            record = record_of(scope)
            if record.worth_a_word:
                self._traces.add(record, _traceparent(scope), began, time.perf_counter())


class _Clock:
    """From ``time.perf_counter`` to nanoseconds since 1970; for one request, for the two clocks drift apart."""

    def __init__(self) -> None:
        self._difference = time.time_ns() - int(time.perf_counter() * 1e9)

    def nanoseconds(self, counted: float) -> int:
        return int(counted * 1e9) + self._difference


def from_environment(service: str) -> Traces | None:
    """Traces that go where the environment says, under the name ``service`` unless it gives another; ``None``: nowhere.

    Raises ``InputError`` if the environment asks for another protocol than ours.
    """
    environment = os.environ
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    off = off or environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    if off or not any(environment.get(name) for name in ENDPOINTS):
        return None
    _check_protocol(environment)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: service}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)


def _check_protocol(environment: Mapping[str, str]) -> None:
    for name in PROTOCOLS:
        if given := environment.get(name):
            if given != PROTOCOL:
                raise InputError(
                    f"{name}={given}, but traces are sent by {PROTOCOL} only: set it to that, and the endpoint to the "
                    "port for HTTP, usually 4318"
                )
            return


def _of_request(record: RequestRecord) -> Attributes:
    """What is known of a request, by OpenTelemetry's names where it has one."""
    found: Mapping[str, str | int | float | tuple[str, ...] | None] = {
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "lacewing.request_id": record.id,
        "lacewing.key": record.key,
        "lacewing.client_gone": record.client_gone or None,
    }
    if record.prompt_tokens is not None:
        adapter = record.prompts[0].adapter if record.prompts else ""
        found = {
            **found,
            "gen_ai.operation.name": _OPERATIONS.get(record.route),
            "gen_ai.provider.name": "lacewing",
            "gen_ai.request.model": f"{record.model}:{adapter}" if adapter else record.model,
            "gen_ai.response.model": record.version,
            "gen_ai.response.id": record.id,
            "gen_ai.response.finish_reasons": tuple(record.finish_reason.split("+")) if record.finish_reason else None,
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.completion_tokens,
            "lacewing.calls": record.calls,
            "lacewing.failed_calls": record.failed_calls,
            "lacewing.first_token_seconds": record.first_token_seconds,
        }
    return {name: value for name, value in found.items() if value is not None}


def _failure(record: RequestRecord) -> str:
    """How the server failed at a request; empty if it did not. What the client did wrong is no failure of ours."""
    if record.status is not None and record.status >= 500:
        return str(record.status)
    return "error" if "error" in (record.finish_reason or "").split("+") else ""


def _fail(span: "Span", kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def _traceparent(scope: Scope) -> str:
    """The client's header; empty if there is none, or several, which W3C has start a trace anew."""
    found = [value for name, value in scope["headers"] if name == b"traceparent"]
    return found[0].decode("latin-1") if len(found) == 1 else ""
