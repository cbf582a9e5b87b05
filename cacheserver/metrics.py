"""Every metric the process exports, in one place; a test compares this file with the README's table.

kube-apiserver's names where the meaning is equal, `cacheserver_` for the rest. Label values are bounded by
construction: nothing from a request goes into a label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

disable_created_metrics()  # type: ignore[no-untyped-call] # not annotated; `_created` series would double the scrape
REGISTRY = CollectorRegistry()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

# --- the API, named as kube-apiserver does (k8s.io/apiserver/pkg/endpoints/metrics) ---


class RequestLabels(NamedTuple):
    """What a request is counted under. All but `code` is also what its time and size are."""

    verb: str
    group: str
    version: str
    resource: str
    subresource: str
    scope: str


class RequestMeter:
    """Counts the requests of one label set and code in plain numbers: one dictionary look-up and 1 us a request.

    prometheus_client's own children take a lock and a walk over the buckets for each of three metrics: 15 us.
    """

    SECONDS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60)
    BYTES = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)

    __slots__ = ("bytes_buckets", "bytes_sum", "count", "seconds_buckets", "seconds_sum", "timed")

    def __init__(self) -> None:
        self.count = 0
        self.timed = 0
        self.seconds_sum = 0.0
        self.bytes_sum = 0
        self.seconds_buckets = [0] * (len(self.SECONDS) + 1)
        self.bytes_buckets = [0] * (len(self.BYTES) + 1)

    def observe(self, seconds: float, size: int) -> None:
        """Time and size of one counted request."""
        self.timed += 1
        self.seconds_sum += seconds
        self.seconds_buckets[bisect_left(self.SECONDS, seconds)] += 1
        self.bytes_sum += size
        self.bytes_buckets[bisect_left(self.BYTES, size)] += 1


class _Requests(Collector):
    """Every RequestMeter as kube-apiserver's three request metrics."""

    def __init__(self) -> None:
        self._meters: dict[tuple[RequestLabels, int], RequestMeter] = {}

    def meter(self, labels: RequestLabels, code: int) -> RequestMeter:
        """The meter of these labels; callers keep it, this look-up is the slow part."""
        return self._meters.setdefault((labels, code), RequestMeter())

    def collect(self) -> Iterable[Metric]:
        component, timed_labels = "cacheserver", ("verb", "dry_run", *RequestLabels._fields[1:], "component")
        total = CounterMetricFamily(
            "apiserver_request",
            "Requests by verb, resource and code.",
            labels=(*timed_labels, "code", "system_client"),
        )
        seconds = HistogramMetricFamily(
            "apiserver_request_duration_seconds", "Response time, watches left out.", labels=timed_labels
        )
        sizes = HistogramMetricFamily(
            "apiserver_response_sizes",
            "Bytes of response bodies, as sent, watches left out.",
            labels=(*RequestLabels._fields, "component"),
        )
        summed: dict[RequestLabels, RequestMeter] = {}
        for (labels, code), meter in list(self._meters.items()):
            total.add_metric((labels.verb, "", *labels[1:], component, str(code), ""), meter.count)
            _add(summed.setdefault(labels, RequestMeter()), meter)
        for labels, meter in summed.items():
            if meter.timed:
                buckets = _cumulative(RequestMeter.SECONDS, meter.seconds_buckets)
                seconds.add_metric((labels.verb, "", *labels[1:], component), buckets, meter.seconds_sum)
                sizes.add_metric(
                    (*labels, component), _cumulative(RequestMeter.BYTES, meter.bytes_buckets), meter.bytes_sum
                )
        return total, seconds, sizes


def _add(total: RequestMeter, meter: RequestMeter) -> None:
    total.timed += meter.timed
    total.seconds_sum += meter.seconds_sum
    total.bytes_sum += meter.bytes_sum
    total.seconds_buckets = list(map(int.__add__, total.seconds_buckets, meter.seconds_buckets))
    total.bytes_buckets = list(map(int.__add__, total.bytes_buckets, meter.bytes_buckets))


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    names = [*map(floatToGoString, bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(counts)), strict=True))


requests = _Requests()
REGISTRY.register(requests)
inflight = Gauge(
    "apiserver_current_inflight_requests", "Requests being answered now.", ("request_kind",), registry=REGISTRY
)
longrunning = Gauge(
    "apiserver_longrunning_requests",
    "Watches open now.",
    ("verb", "group", "version", "resource", "subresource", "scope", "component"),
    registry=REGISTRY,
)
watch_events = Counter(
    "apiserver_watch_events", "Events sent to watchers.", ("group", "version", "resource"), registry=REGISTRY
)
watch_events_bytes = Counter(
    "cacheserver_watch_sent_bytes", "Bytes of events sent to watchers.", ("resource",), registry=REGISTRY
)
terminated_watchers = Counter(
    "apiserver_terminated_watchers",
    "Watchers told 410 because they fell off the event window.",
    ("resource",),
    registry=REGISTRY,
)
storage_objects = Gauge("apiserver_storage_objects", "Objects served, by resource.", ("resource",), registry=REGISTRY)
init_events = Counter(
    "apiserver_init_events", "Synthetic events that started watches.", ("resource",), registry=REGISTRY
)

# --- the watch cache ---
cache_resource_version = Gauge(
    "apiserver_watch_cache_resource_version", "Resource version the cache has reached.", registry=REGISTRY
)
cache_events_received = Counter(
    "apiserver_watch_cache_events_received", "Events taken from etcd.", ("resource",), registry=REGISTRY
)
cache_capacity = Gauge("apiserver_watch_cache_capacity", "Most events the window holds.", registry=REGISTRY)
cache_initializations = Counter(
    "apiserver_watch_cache_initializations", "Complete reads of the store.", registry=REGISTRY
)
cache_read_wait_seconds = Histogram(
    "apiserver_watch_cache_read_wait_seconds",
    "Time a read waited for the cache to be fresh enough.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
cache_lag_seconds = Gauge("cacheserver_cache_lag_seconds", "Seconds since etcd was last heard from.", registry=REGISTRY)
window_events = Gauge("cacheserver_window_events", "Events in the window.", registry=REGISTRY)
window_bytes = Gauge("cacheserver_window_bytes", "Bytes of the events in the window.", registry=REGISTRY)
watchers = Gauge("cacheserver_watchers", "Watchers, by resource.", ("resource",), registry=REGISTRY)

# --- etcd ---
etcd_seconds = Histogram(
    "etcd_request_duration_seconds",
    "Time of calls to etcd, by operation.",
    ("operation",),
    buckets=_SECONDS,
    registry=REGISTRY,
)
etcd_errors = Counter(
    "cacheserver_etcd_errors",
    "Failed calls to etcd, by operation and error class.",
    ("operation", "error"),
    registry=REGISTRY,
)

# --- ingest ---
repository_ready = Gauge(
    "cacheserver_repository_ready",
    "1 when the repository's Ready condition is True.",
    ("namespace", "repository"),
    registry=REGISTRY,
)
repository_checked = Gauge(
    "cacheserver_repository_last_checked_timestamp_seconds",
    "When the source was last asked, as Unix time.",
    ("namespace", "repository"),
    registry=REGISTRY,
)
repository_synced = Gauge(
    "cacheserver_repository_last_synced_timestamp_seconds",
    "When the content was last applied, as Unix time.",
    ("namespace", "repository"),
    registry=REGISTRY,
)
repository_packages = Gauge(
    "cacheserver_repository_packages", "Packages served.", ("namespace", "repository"), registry=REGISTRY
)
repository_revisions = Gauge(
    "cacheserver_repository_revisions", "Package revisions served.", ("namespace", "repository"), registry=REGISTRY
)
repository_rejected = Gauge(
    "cacheserver_repository_rejected",
    "Packages rejected in the last sync.",
    ("namespace", "repository"),
    registry=REGISTRY,
)
sync_seconds = Histogram(
    "cacheserver_sync_duration_seconds",
    "Time of one sync, by outcome (unchanged, applied, failed).",
    ("outcome",),
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
    registry=REGISTRY,
)
writes = Counter(
    "cacheserver_writes", "Objects written to etcd, by operation (put, delete).", ("operation",), registry=REGISTRY
)
blob_bytes = Counter("cacheserver_blob_written_bytes", "Compressed content bytes written to etcd.", registry=REGISTRY)
build = Gauge("cacheserver_build_info", "Always 1; the version is the label.", ("version",), registry=REGISTRY)


def forget_repository(namespace: str, repository: str) -> None:
    """Drop the series of a repository that is gone."""
    for gauge in (
        repository_ready,
        repository_checked,
        repository_synced,
        repository_packages,
        repository_revisions,
        repository_rejected,
    ):
        gauge.remove(namespace, repository)


# --- connections, and who may what ---
certificate_expires = Gauge(
    "cacheserver_certificate_expiration_timestamp_seconds",
    "When the serving certificate expires, as Unix time; 0 without one.",
    registry=REGISTRY,
)
certificate_loads = Counter(
    "cacheserver_certificate_loads",
    "Times the serving certificate was read anew, by outcome (loaded, failed).",
    ("outcome",),
    registry=REGISTRY,
)
token_reviews = Counter(
    "apiserver_delegated_authn_request",
    "TokenReviews sent to kube-apiserver, by its answer's code; <error> for none.",
    ("code",),
    registry=REGISTRY,
)
access_reviews = Counter(
    "apiserver_delegated_authz_request",
    "SubjectAccessReviews sent to kube-apiserver, by its answer's code; <error> for none.",
    ("code",),
    registry=REGISTRY,
)
