"""Every metric the process exports, in one place; a test compares this file with the README's table.

kube-apiserver's names where the meaning is equal, `cacheserver_` for the rest. Label values are bounded by
construction: nothing from a request goes into a label.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

_REQUEST_LABELS = ("verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

# --- the API, named as kube-apiserver does (k8s.io/apiserver/pkg/endpoints/metrics) ---
requests = Counter(
    "apiserver_request",
    "Requests by verb, resource and code.",
    (*_REQUEST_LABELS, "code", "system_client"),
    registry=REGISTRY,
)
request_seconds = Histogram(
    "apiserver_request_duration_seconds",
    "Response time, watches left out.",
    _REQUEST_LABELS,
    buckets=(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60),
    registry=REGISTRY,
)
response_bytes = Histogram(
    "apiserver_response_sizes",
    "Bytes of response bodies before compression, watches left out.",
    ("verb", "group", "version", "resource", "subresource", "scope", "component"),
    buckets=(1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9),
    registry=REGISTRY,
)
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
