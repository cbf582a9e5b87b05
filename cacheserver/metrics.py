"""Every metric the process exports, in one place; docs/reference/metrics.md is made from it.

kube-apiserver's names where the meaning is equal, `cacheserver_` for the rest. Label values are bounded by
construction: nothing from a request goes into a label.

Numbers are plain ones of ours, changed on the event loop only, and prometheus_client shows them when somebody asks: it
brings an HTTP server, which costs a command that is never asked 18 ms, and takes a lock for each change.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_FAMILIES: Final[list[_Family]] = []


class _Family:
    """A metric: itself one series, or with names of labels the series that `labels` gives out."""

    def __init__(self, name: str, meaning: str, names: Sequence[str] = (), *, shown: bool = True) -> None:
        """shown: False for a series of a family, which shows it."""
        self.name = name
        self.meaning = meaning
        self.names = names
        self._children: dict[tuple[str, ...], Self] = {}
        if shown:
            _FAMILIES.append(self)

    def labels(self, *values: str) -> Self:
        """The series with these values, in the order of the names; callers on a hot path keep it."""
        found = self._children.get(values)
        if found is None:
            if len(values) != len(self.names):
                raise ValueError(f"{self.name} has the labels {self.names}")
            found = self._children[values] = self._child()
        return found

    def forget(self, *first: str) -> None:
        """Drop every series whose labels begin with these values."""
        for values in [values for values in self._children if values[: len(first)] == first]:
            del self._children[values]

    @property
    def known(self) -> bool:
        """Whether there is anything to show."""
        return True

    def series(self) -> list[tuple[tuple[str, ...], Self]]:
        """Each series behind the values of its labels."""
        return list(self._children.items()) if self.names else [((), self)]

    def _child(self) -> Self:
        return type(self)(self.name, self.meaning, shown=False)


class Counter(_Family):
    """A number that only grows; shown as `name` with `_total`."""

    value = 0.0

    def inc(self, by: float = 1) -> None:
        """by: not negative."""
        self.value += by


class Gauge(_Family):
    """A number, or what a function says when somebody asks."""

    _number = 0.0
    _function: Callable[[], float] | None = None

    @property
    def value(self) -> float:
        """As it is now; asks the function where there is one."""
        return self._number if self._function is None else float(self._function())

    def set(self, number: float) -> None:
        """The number from now on."""
        self._number = number

    def inc(self) -> None:
        """One more."""
        self._number += 1

    def dec(self) -> None:
        """One less."""
        self._number -= 1

    def set_function(self, function: Callable[[], float]) -> None:
        """Ask this at each scrape from now on. It runs on the event loop and must not wait."""
        self._function = function


class Fact(Gauge):
    """A number that there may not be: nothing is shown before it is set."""

    @property
    def known(self) -> bool:
        """Whether it was ever set."""
        return "_number" in self.__dict__


class Histogram(_Family):
    """How many observations came to at most each of `buckets`, and their sum."""

    def __init__(
        self, name: str, meaning: str, names: Sequence[str] = (), *, buckets: Sequence[float], shown: bool = True
    ) -> None:
        super().__init__(name, meaning, names, shown=shown)
        self.bounds = buckets
        self.counts = [0] * (len(buckets) + 1)
        self.sum = 0.0

    def observe(self, amount: float) -> None:
        """One more observation, in the unit that the name ends in."""
        self.sum += amount
        self.counts[bisect_left(self.bounds, amount)] += 1

    def _child(self) -> Self:
        return type(self)(self.name, self.meaning, buckets=self.bounds, shown=False)


@functools.cache
def registry() -> CollectorRegistry:
    """All of it, for whoever shows it."""
    from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415  see the module
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class Everything(Collector):
        def collect(self) -> Iterable[Metric]:
            yield from map(_shown, list(_FAMILIES))
            yield from requests.collect()

    made = CollectorRegistry()
    made.register(Everything())
    ProcessCollector(registry=made)  # process_*: CPU, memory, files, start, as every Go program shows them
    return made


def _shown(family: _Family) -> Metric:
    from prometheus_client import core  # noqa: PLC0415  see the module

    name, meaning, names = family.name, family.meaning, family.names
    if isinstance(family, Histogram):
        histogram = core.HistogramMetricFamily(name, meaning, labels=names)
        for values, timed in family.series():
            histogram.add_metric(values, _cumulative(family.bounds, timed.counts), timed.sum)
        return histogram
    if isinstance(family, Gauge):
        gauge = core.GaugeMetricFamily(name, meaning, labels=names)
        for values, held in family.series():
            if held.known:
                gauge.add_metric(values, held.value)
        return gauge
    assert isinstance(family, Counter)
    counter = core.CounterMetricFamily(name, meaning, labels=names)
    for values, counted in family.series():
        counter.add_metric(values, counted.value)
    return counter


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


class _Requests:
    """Every RequestMeter as kube-apiserver's three request metrics."""

    def __init__(self) -> None:
        self._meters: dict[tuple[RequestLabels, int], RequestMeter] = {}

    def meter(self, labels: RequestLabels, code: int) -> RequestMeter:
        """The meter of these labels; callers keep it, this look-up is the slow part."""
        return self._meters.setdefault((labels, code), RequestMeter())

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily  # noqa: PLC0415  see the module

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
    from prometheus_client.utils import floatToGoString  # noqa: PLC0415  see the module

    names = [*map(floatToGoString, bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(counts)), strict=True))


requests = _Requests()
connections_refused = Counter(
    "cacheserver_connections_refused",
    "Clients turned away before their request was looked at, by reason.",
    ("reason",),
)
inflight = Gauge(
    "apiserver_current_inflight_requests",
    "Requests being answered now.",
    ("request_kind",),
)
longrunning = Gauge(
    "apiserver_longrunning_requests",
    "Watches open now.",
    ("verb", "group", "version", "resource", "subresource", "scope", "component"),
)
watch_events = Counter(
    "apiserver_watch_events",
    "Events sent to watchers.",
    ("group", "version", "resource"),
)
watch_events_bytes = Counter(
    "cacheserver_watch_sent_bytes",
    "Bytes of events sent to watchers.",
    ("resource",),
)
terminated_watchers = Counter(
    "apiserver_terminated_watchers",
    "Watchers ended with 410 because they fell off the event window.",
    ("resource",),
)
storage_objects = Gauge("apiserver_storage_objects", "Objects served, by resource.", ("resource",))
init_events = Counter(
    "apiserver_init_events",
    "Synthetic events that started watches.",
    ("resource",),
)

# --- the watch cache ---
cache_resource_version = Gauge(
    "apiserver_watch_cache_resource_version",
    "Resource version the cache has reached.",
)
cache_events_received = Counter(
    "apiserver_watch_cache_events_received",
    "Events taken from etcd.",
    ("resource",),
)
cache_capacity = Gauge("apiserver_watch_cache_capacity", "Most events the window holds.")
cache_initializations = Counter(
    "apiserver_watch_cache_initializations",
    "Complete reads of the store.",
)
cache_read_wait_seconds = Histogram(
    "apiserver_watch_cache_read_wait_seconds",
    "Time a read waited for the cache to be fresh enough.",
    buckets=_SECONDS,
)
cache_lag_seconds = Gauge("cacheserver_cache_lag_seconds", "Seconds since etcd was last heard from.")
window_events = Gauge("cacheserver_window_events", "Events in the window.")
window_bytes = Gauge("cacheserver_window_bytes", "Bytes of the events in the window.")
watchers = Gauge("cacheserver_watchers", "Watchers, by resource.", ("resource",))

# --- etcd ---
etcd_seconds = Histogram(
    "etcd_request_duration_seconds",
    "Time of calls to etcd, by operation.",
    ("operation",),
    buckets=_SECONDS,
)
etcd_full = Gauge("cacheserver_etcd_full", "1 while etcd refuses writes for lack of space (NoSpace).")
etcd_errors = Counter(
    "cacheserver_etcd_errors",
    "Failed calls to etcd, by operation and error class.",
    ("operation", "error"),
)

# --- ingest ---
repository_ready = Gauge(
    "cacheserver_repository_ready",
    "1 when the repository's Ready condition is True.",
    ("namespace", "repository"),
)
repository_checked = Gauge(
    "cacheserver_repository_last_checked_timestamp_seconds",
    "When the source was last asked, as Unix time.",
    ("namespace", "repository"),
)
repository_synced = Gauge(
    "cacheserver_repository_last_synced_timestamp_seconds",
    "When the content was last applied, as Unix time.",
    ("namespace", "repository"),
)
repository_packages = Gauge(
    "cacheserver_repository_packages",
    "Packages served.",
    ("namespace", "repository"),
)
repository_revisions = Gauge(
    "cacheserver_repository_revisions",
    "Package revisions served.",
    ("namespace", "repository"),
)
repository_rejected = Gauge(
    "cacheserver_repository_rejected",
    "Packages rejected in the last sync.",
    ("namespace", "repository"),
)
repository_interval = Gauge(
    "cacheserver_repository_interval_seconds",
    "Time between two looks at the source.",
    ("namespace", "repository"),
)
repository_suspended = Gauge(
    "cacheserver_repository_suspended",
    "1 while the repository is suspended: its source is not asked.",
    ("namespace", "repository"),
)
sync_seconds = Histogram(
    "cacheserver_sync_duration_seconds",
    "Time of one sync, by outcome (unchanged, applied, held, failed).",
    ("namespace", "repository", "outcome"),
    # Few: each is a series for every repository and outcome.
    buckets=(0.1, 1, 10, 60, 600),
)
sync_failures = Counter(
    "cacheserver_sync_failures",
    "Syncs that failed or were held, by the reason that the Ready condition gives.",
    ("namespace", "repository", "reason"),
)
writes = Counter(
    "cacheserver_writes",
    "Objects written to etcd, by operation (put, delete).",
    ("operation",),
)
blob_bytes = Counter("cacheserver_blob_written_bytes", "Compressed content bytes written to etcd.")
publish_operations = Counter(
    "cacheserver_publish_operations",
    "Operations on package revisions in git, by step (Propose, Approve, ...) and result (done, failed).",
    ("step", "result"),
)
publish_seconds = Histogram(
    "cacheserver_publish_duration_seconds",
    "Time from when the publisher took an operation up until git had it, or it failed.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
drafts_unpushed = Gauge(
    "cacheserver_drafts_unpushed",
    "Drafts with changes that git does not have.",
    ("namespace", "repository"),
)
drafts_oldest_unpushed = Gauge(
    "cacheserver_drafts_oldest_unpushed_timestamp_seconds",
    "When the oldest change of a draft was saved that git does not have, as Unix time; 0 for none.",
    ("namespace", "repository"),
)
events_left_out = Counter(
    "cacheserver_events_left_out",
    "Events on package revisions that were not written, for their namespace had its share of them.",
)
author_steps = Counter(
    "cacheserver_author_steps",
    "Writes of users by step (Create, Save, Update, Delete, Propose, Approve, ...) and outcome: Done, or the reason of "
    "its refusal.",
    ("step", "outcome"),
)
author_seconds = Histogram(
    "cacheserver_author_step_seconds",
    "Time of a write of a user, the wait for git included.",
    ("step",),
    buckets=_SECONDS,
)
clustercatalogs = Gauge("cacheserver_clustercatalogs", "ClusterCatalogs that this process knows of.")
clustercatalogs_catalogd = Gauge(
    "cacheserver_clustercatalogs_catalogd",
    "Deployments of catalogd with ready replicas: while there is one, ClusterCatalogs are left to it.",
)
clustercatalog_statuses = Counter("cacheserver_clustercatalog_statuses", "Statuses of ClusterCatalogs written.")
clustercatalog_contested = Counter(
    "cacheserver_clustercatalog_contested",
    "Times that somebody else changed the status of a ClusterCatalog that was written here.",
)
door_seconds = Histogram(
    "cacheserver_door_request_duration_seconds",
    "Time of an answer to a client of another system until it was taken, by door (Catalog, ...) and code.",
    ("door", "code"),
    buckets=_SECONDS,
)
door_bytes = Counter(
    "cacheserver_door_sent_bytes",
    "Bytes of bodies sent to clients of other systems, as they were packed, by door.",
    ("door",),
)
build = Gauge("cacheserver_build_info", "Always 1; the version is the label.", ("version",))


def forget_repository(namespace: str, repository: str) -> None:
    """Drop the series of a repository that is gone, or that another process measures from now on."""
    for family in (
        sync_seconds,
        sync_failures,
        repository_interval,
        repository_suspended,
        repository_ready,
        repository_checked,
        repository_synced,
        repository_packages,
        repository_revisions,
        repository_rejected,
        drafts_unpushed,
        drafts_oldest_unpushed,
    ):
        family.forget(namespace, repository)


# --- the gRPC registry ---
registry_calls = Counter(
    "cacheserver_registry_calls", "Calls of the gRPC registry that ended, by method and code.", ("method", "code")
)
registry_revisions = Counter(
    "cacheserver_registry_revisions",
    "Times a listener of the gRPC registry began to answer with other content, upon which clients read all of it.",
    ("namespace", "repository"),
)
registry_packages = Gauge(
    "cacheserver_registry_packages", "Packages that the gRPC registry answers with.", ("namespace", "repository")
)
registry_refused = Gauge(
    "cacheserver_registry_packages_left_out",
    "Packages that the gRPC registry leaves out, for operator-registry or its clients would refuse them.",
    ("namespace", "repository"),
)


def forget_registry(namespace: str, repository: str) -> None:
    """Drop the series of a listener that closed."""
    for family in (registry_revisions, registry_packages, registry_refused):
        family.forget(namespace, repository)


# --- connections, and who may what ---
certificate_expires = Fact(
    "cacheserver_certificate_expiration_timestamp_seconds",
    "When the serving certificate expires, as Unix time; absent without one.",
)
certificate_loads = Counter(
    "cacheserver_certificate_loads",
    "Times the serving certificate was read anew, by outcome (loaded, failed).",
    ("outcome",),
)
access_file_loads = Counter(
    "cacheserver_access_file_loads",
    "Times a file that says whom to let in was read anew, by its setting and outcome (loaded, failed).",
    ("setting", "outcome"),
)
token_reviews = Counter(
    "apiserver_delegated_authn_request",
    "TokenReviews sent to kube-apiserver, by its answer's code; <error> for none.",
    ("code",),
)
access_reviews = Counter(
    "apiserver_delegated_authz_request",
    "SubjectAccessReviews sent to kube-apiserver, by its answer's code; <error> for none.",
    ("code",),
)
