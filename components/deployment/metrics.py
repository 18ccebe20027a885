"""What Prometheus reads at ``/metrics``."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.deployment.engine import Engine, Generation

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counters and histograms of one server, in a registry of its own."""

    def __init__(self, engine: Engine) -> None:
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
        Gauge("lacewing_active_requests", "Prompts being answered.", registry=self.registry).set_function(
            lambda: engine.active
        )
        Gauge("lacewing_queued_requests", "Prompts waiting.", registry=self.registry).set_function(
            lambda: engine.queued
        )

    def count_tokens(self, generations: list[Generation]) -> None:
        """Add the tokens of finished or abandoned generations."""
        self.prompt_tokens.inc(sum(generation.prompt_tokens for generation in generations))
        self.generated_tokens.inc(sum(generation.generated_tokens for generation in generations))


class Measured:
    """ASGI middleware that counts and times every request, streams to their end."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]) -> None:
        """Paths that are not in ``routes`` count as ``other``: strangers must not be able to add time series."""
        self.app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        route = scope["path"] if scope["path"] in self._routes else "other"
        status = "none"  # the client left before an answer began

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)
