"""What a run is asked to do: sizes, durations, places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import fbc, fill
from bench.processes import EtcdBinary


@dataclass(frozen=True, slots=True)
class Options:
    """Made once, by __main__ from the command line.

    work: a temporary directory of this run. catalog: what to ingest; None: one is made as `generated` says.
    shape: of the objects in etcd for everything but the catalog. burst: writes as fast as they go.
    more_catalogs: further ones, for what is compared by catalogs.
    bundle: a git bundle of KRM packages; None: a repository of them is made. large_bytes: of the catalog whose ingest's
    memory is measured.
    open_drafts: of one repository, while one of them is saved.
    fan_out: numbers of watchers of a burst, beside `watchers`.
    informers: that start at once. peers: programs to compare with, by name. peer_burst: writes while they are compared.
    revisions: that both sides hold, where memory is compared.
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
    fan_out: Sequence[int] = (100, 10_000)
    informers: int = 100
    peer_burst: int = 1000
    peers: Mapping[str, Path] = field(default_factory=dict)
    scale_revisions: Sequence[int] = (1_000, 10_000, 100_000)
    scale_watchers: Sequence[int] = (100, 1_000, 10_000)
    scale_processes: Sequence[int] = (1, 2, 4)
    scale_minutes: float = 15.0
    bundle: Path | None = None
    more_catalogs: Sequence[Path] = ()
    large_bytes: int = 57_000_000
    open_drafts: int = 2000
    revisions: int = 100_000
