"""Which versions are in memory, and what became of those that came, for Prometheus."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from components.deployment.versions import Versions


class VersionCollector(Collector):
    """Reads ``versions`` whenever Prometheus asks."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions

    def collect(self) -> Iterator[Metric]:
        versions, registry = self._versions, self._versions.registry
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
