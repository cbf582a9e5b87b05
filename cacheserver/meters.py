"""Counters, gauges and histograms: plain numbers of ours, changed on the event loop only.

prometheus_client shows them when somebody asks: it brings an HTTP server, which costs a command that is never asked
18 ms, and takes a lock for each change. Which ones there are is said in metrics.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

FAMILIES: Final[list[_Family]] = []
"""Every one that was declared."""


class _Family:
    """A metric: itself one series, or with names of labels the series that `labels` gives out."""

    def __init__(self, name: str, meaning: str, names: Sequence[str] = (), *, shown: bool = True) -> None:
        """shown: False for a series of a family, which shows it."""
        self.name = name
        self.meaning = meaning
        self.names = names
        self._children: dict[tuple[str, ...], Self] = {}
        if shown:
            FAMILIES.append(self)

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


def collected(requests: Requests) -> CollectorRegistry:
    """All of it, for whoever shows it."""
    from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415  see the module
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class Everything(Collector):
        def collect(self) -> Iterable[Metric]:
            yield from map(_shown, list(FAMILIES))
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


class Requests:
    """Every RequestMeter as kube-apiserver's three request metrics (k8s.io/apiserver/pkg/endpoints/metrics)."""

    def __init__(self) -> None:
        self._meters: dict[tuple[RequestLabels, int], RequestMeter] = {}

    def meter(self, labels: RequestLabels, code: int) -> RequestMeter:
        """The meter of these labels; callers keep it, this look-up is the slow part."""
        return self._meters.setdefault((labels, code), RequestMeter())

    def collect(self) -> Iterable[Metric]:
        """The three, as they are now."""
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
