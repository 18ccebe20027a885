"""What Prometheus reads at ``/metrics``."""

from collections.abc import Sequence
from functools import partial

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.metrics import Info

from components.deployment.answering import Answered
from components.deployment.version_metrics import VersionMetrics
from components.deployment.versions import Versions

_HANDOVER_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counters and histograms of one server, in a registry of its own."""

    def __init__(self, versions: Versions) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # CPU seconds, memory, open files
        self.requests = Counter(
            "lacewing_requests", "HTTP requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "lacewing_request_seconds",
            "From the request's arrival to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token_seconds = Histogram(
            "lacewing_time_to_first_token_seconds",
            "From the request's arrival to the first piece of an answer, waiting included.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.prompt_tokens = Counter("lacewing_prompt_tokens", "Tokens of accepted prompts.", registry=self.registry)
        self.generated_tokens = Counter(
            "lacewing_generated_tokens", "Tokens written, those of abandoned answers included.", registry=self.registry
        )
        self.client_tokens = Counter(
            "lacewing_client_tokens",
            "Tokens of prompts and answers, by the name of the key.",
            ["client"],
            registry=self.registry,
        )
        counter = partial(Counter, registry=self.registry)
        self.calls = counter("lacewing_calls", "Calls to the helper, answered or not.")
        self.discarded_calls = counter("lacewing_discarded_calls", "Further calls, made after a wrong guess.")
        self.failed_calls = counter(
            "lacewing_failed_calls", "Calls that ended in an error, a timeout or an unusable reply."
        )
        self.empty_calls = counter("lacewing_empty_calls", "Calls to which the helper had nothing to add.")
        self.decisions = Counter(
            "lacewing_decisions", "Places where the model chose between a token and a call.", registry=self.registry
        )
        self.helper_tokens = Counter(
            "lacewing_helper_tokens", "Tokens written, of which by the helper.", registry=self.registry
        )
        self.handover_seconds = Histogram(
            "lacewing_handover_seconds",
            "From a call to its result.",
            buckets=_HANDOVER_SECONDS,
            registry=self.registry,
        )
        self.degraded_answers = Counter(
            "lacewing_degraded_answers", "Answers with a failed call.", registry=self.registry
        )
        self.versions = VersionMetrics(self.registry, versions)

    def count(self, generations: Sequence[Answered]) -> None:
        """Add the tokens and calls of finished or abandoned generations."""
        for generation in generations:
            summary = generation.summary
            self.prompt_tokens.inc(generation.prompt_tokens)
            self.generated_tokens.inc(generation.generated_tokens)
            self.decisions.inc(summary.decisions)
            self.calls.inc(summary.calls)
            self.discarded_calls.inc(summary.discarded_calls)
            self.failed_calls.inc(summary.failed_calls)
            self.empty_calls.inc(summary.empty_calls)
            self.helper_tokens.inc(summary.helper_tokens)
            self.degraded_answers.inc(summary.degraded)
            for call in list(generation.helper_calls):
                self.handover_seconds.observe(call.seconds)

    def observe(self, app: FastAPI) -> None:
        """Count and time every request to ``app``, streams to their end, and show all figures at ``/metrics``.

        Paths that are no route of ``app`` count as ``other``: strangers must not be able to add time series.
        """
        instrumentator = Instrumentator(should_group_status_codes=False, registry=self.registry)
        instrumentator.add(self._count_request).instrument(app).expose(app, response_class=PlainTextResponse)

    def _count_request(self, request: Info) -> None:
        route = request.modified_handler if request.modified_handler != "none" else "other"
        # Without a beginning of the answer, the client left before there was one.
        status = request.modified_status if request.modified_duration_without_streaming else "none"
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(request.modified_duration)
