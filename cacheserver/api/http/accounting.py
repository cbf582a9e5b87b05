"""Counts what the API does, with kube-apiserver's labels (k8s.io/apiserver/pkg/endpoints/metrics/metrics.go).

Label values come from our own declarations, never from a request.
"""

from __future__ import annotations

from typing import Final

from cacheserver import metrics
from cacheserver.api.attributes import Attributes
from cacheserver.api.kinds.resource import Resource
from cacheserver.meters import Counter, Gauge, RequestLabels, RequestMeter
from cacheserver.slotted import slotted

COMPONENT: Final = "cacheserver"
_VERBS: Final = {
    "get": "GET",
    "list": "LIST",
    "watch": "WATCH",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
    "deletecollection": "DELETECOLLECTION",
    "post": "POST",
    "put": "PUT",
    "head": "GET",
}

_PROBES: Final = frozenset(("/healthz", "/livez", "/readyz"))


@slotted(frozen=True)
class WatchMeters:
    """What one resource's watches count with."""

    running: Gauge
    watchers: Gauge
    events: Counter
    sent_bytes: Counter
    initial: Counter
    terminated: Counter


@slotted(frozen=True)
class Series:
    """Where requests of one kind are counted: a meter for each code that was answered."""

    labels: RequestLabels
    meters: dict[int, RequestMeter]

    def answered(self, code: int, seconds: float, size: int | None) -> None:
        """Count one request. size: bytes of the body; None for a watch, whose time and size say nothing."""
        meter = self.meters.get(code)
        if meter is None:
            meter = self.meters[code] = metrics.requests.meter(self.labels, code)
        meter.count += 1
        if size is not None:
            meter.observe(seconds, size)


class Accounting:
    """One per process."""

    def __init__(self) -> None:
        self.in_flight = 0
        # As many as there are kinds of requests: bounded by our declarations, not by what is asked.
        self._series: dict[RequestLabels, Series] = {}
        self._watches: dict[Resource, WatchMeters] = {}
        metrics.inflight.labels("readOnly").set_function(lambda: self.in_flight)
        metrics.inflight.labels("mutating").set(0)

    def series(self, attributes: Attributes, resource: Resource | None) -> Series:
        """The meters of requests like this one; resource: None for a path that is not a resource's."""
        verb = _VERBS.get(attributes.verb, "other")
        if resource is None:
            # As in kube-apiserver, a probe's path is in the subresource's place: its 500 is not an error of the API.
            probe = "/" + attributes.path.strip("/").partition("/")[0]
            labels = RequestLabels(verb, "", "", "", probe if probe in _PROBES else "", "")
        else:
            part = attributes.subresource
            named = part if resource.subresource(part) else ""
            labels = RequestLabels(verb, resource.group, resource.version, resource.plural, named, attributes.scope)
        return self._series.setdefault(labels, Series(labels, {}))

    def watches(self, resource: Resource) -> WatchMeters:
        """The meters that all watches of a resource share; the same ones at each call."""
        meters = self._watches.get(resource)
        if meters is None:
            plural = resource.plural
            meters = self._watches[resource] = WatchMeters(
                metrics.longrunning.labels("WATCH", resource.group, resource.version, plural, "", "", COMPONENT),
                metrics.watchers.labels(plural),
                metrics.watch_events.labels(resource.group, resource.version, plural),
                metrics.watch_events_bytes.labels(plural),
                metrics.init_events.labels(plural),
                metrics.terminated_watchers.labels(plural),
            )
        return meters
