"""What a run is asked to do: sizes, durations, places."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench import fbc, fill
from bench.processes import EtcdBinary


@dataclass(frozen=True, slots=True)
class Options:
    """Made once, by __main__ from the command line.

    work: a temporary directory of this run. catalog: what to ingest; None: one is made as `generated` says.
    shape: of the objects in etcd for everything but the catalog. burst: writes as fast as they go.
    seconds: counted time of one round of a request measure. watch_seconds: of a round of paced writes.
    """

    etcd: EtcdBinary
    work: Path
    catalog: Path | None = None
    rounds: int = 3
    seconds: float = 2.0
    watch_seconds: float = 6.0
    connections: int = 32
    watchers: int = 500
    latency_watchers: int = 1000
    write_rate: float = 100.0
    burst: int = 1500
    shape: fill.Shape = field(default_factory=fill.Shape)
    generated: fbc.Shape = field(default_factory=fbc.Shape)
