"""Which versions are in memory, how they answer, and what became of those that came, for Prometheus."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from components.core.errors import ServiceError
from components.deployment.versions import Version, Versions

_FIRST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PAUSE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


class VersionMetrics:
    """How each version answers; its figures, by which a trial is judged, are kept here too."""

    def __init__(self, registry: CollectorRegistry, versions: Versions) -> None:
        self._answers = Counter(
            "lacewing_version_answers",
            "Answers by the version that gave them, and whether they ended with an error or a failed call.",
            ["version", "outcome"],
            registry=registry,
        )
        self._first_seconds = Histogram(
            "lacewing_version_time_to_first_token_seconds",
            "From the submission of a prompt to the first piece of its answer, by version.",
            ["version"],
            buckets=_FIRST_SECONDS,
            registry=registry,
        )
        self._pause_seconds = Histogram(
            "lacewing_version_pause_seconds",
            "Between neighbouring pieces of an answer, by version.",
            ["version"],
            buckets=_PAUSE_SECONDS,
            registry=registry,
        )
        registry.register(_Collector(versions))

    @contextmanager
    def beginning(self, version: Version) -> Iterator[None]:
        """Around the beginning of an answer: one that cannot begin, for no fault of the request, has failed."""
        try:
            yield
        except ServiceError:
            self.ended(version, failed=True)
            raise

    def ended(
        self,
        version: Version,
        failed: bool,
        first_seconds: Sequence[float] = (),
        pause_seconds: Sequence[float] = (),
    ) -> None:
        """An answer of ``version`` has ended."""
        version.figures.add(failed, first_seconds, pause_seconds)
        self._answers.labels(version.name, "failed" if failed else "good").inc()
        for histogram, times in ((self._first_seconds, first_seconds), (self._pause_seconds, pause_seconds)):
            of_version = histogram.labels(version.name)
            for seconds in times:
                of_version.observe(seconds)


class _Collector(Collector):
    """Reads ``versions`` whenever Prometheus asks."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions

    def collect(self) -> Iterator[Metric]:
        versions, registry = self._versions, self._versions.registry
        yield GaugeMetricFamily("lacewing_active_requests", "Prompts being answered.", value=versions.active)
        yield GaugeMetricFamily("lacewing_queued_requests", "Prompts waiting.", value=versions.queued)
        loaded = GaugeMetricFamily(
            "lacewing_version_loaded",
            "Versions in memory, by their part: current, canary or leaving. The value counts their requests.",
            labels=["version", "bundle", "part"],
        )
        users: dict[tuple[str, str, str], int] = {}
        for part, version in versions.loaded:
            label = (version.name, version.origin.key[:16], part)
            users[label] = users.get(label, 0) + version.users
        for label, count in users.items():
            loaded.add_metric(label, count)
        yield loaded
        yield CounterMetricFamily(
            "lacewing_version_swaps", "Another version has become the one that answers.", value=versions.swaps
        )
        if registry is None:
            return
        yield GaugeMetricFamily(
            "lacewing_registry_reachable", "1 if the registry answered the last time.", value=float(not registry.fault)
        )
        yield GaugeMetricFamily(
            "lacewing_registry_looked_timestamp_seconds",
            "When the state of the registry was heard of last, in seconds since 1970; 0: not yet.",
            value=registry.looked,
        )
        yield GaugeMetricFamily(
            "lacewing_versions_refused_now",
            "Versions that the registry wants and that are not used.",
            value=len(registry.refused),
        )
        yield CounterMetricFamily(
            "lacewing_versions_refused", "A version was loaded or fetched and refused.", value=registry.refusals
        )
        aborts = CounterMetricFamily("lacewing_canary_aborts", "A trial was ended, by the reason.", labels=["reason"])
        for reason in ("errors", "latency"):
            aborts.add_metric([reason], registry.aborts[reason])
        yield aborts
