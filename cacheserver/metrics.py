"""Every metric the process exports, in one place; docs/reference/metrics.md is made from it.

kube-apiserver's names where the meaning is equal, `cacheserver_` for the rest. Label values are bounded by
construction: nothing from a request goes into a label. How numbers are kept: meters.py.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from cacheserver import meters
from cacheserver.meters import Counter, Fact, Gauge, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@functools.cache
def registry() -> CollectorRegistry:
    """All of it, for whoever shows it."""
    return meters.collected(requests)


EXPOSITION_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition() -> bytes:
    """All of it in Prometheus' text format, of EXPOSITION_TYPE. To be called in a thread."""
    from prometheus_client import generate_latest  # noqa: PLC0415  see meters.py

    return generate_latest(registry())


# --- the API, named as kube-apiserver does (k8s.io/apiserver/pkg/endpoints/metrics) ---

requests = meters.Requests()
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
    "Bytes of events sent to watchers, as they are on the wire: compressed for whom takes gzip.",
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
resting_objects = Gauge("cacheserver_resting_objects", "Objects kept packed in memory, those not worth it included.")
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
catalogsources = Gauge("cacheserver_catalogsources", "CatalogSources of the cluster that this process knows of.")
catalogsource_statuses = Counter("cacheserver_catalogsource_statuses", "Statuses of CatalogSources written.")
catalogsource_contested = Counter(
    "cacheserver_catalogsource_contested",
    "Times that somebody else changed the status of a CatalogSource that was written here.",
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
