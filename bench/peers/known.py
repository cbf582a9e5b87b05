"""What else a user could pick: by which name it is given, what of it is beside what of ours, and what does not.

Each is started from a path that the caller names; nothing is fetched. The adapters are bench.peers.kube,
bench.peers.opm, bench.peers.packageserver and bench.peers.catalogd. A report says of each peer that was not measured
what would have been compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.options import Options
from bench.report.table import Report

KUBE_APISERVER: Final = "kube-apiserver"
OPM: Final = "opm"
PACKAGE_SERVER: Final = "package-server"
CATALOGD: Final = "catalogd"


@dataclass(frozen=True, slots=True)
class Peer:
    """binary: its program's name. beside, without: what can be compared, and what not. never: why it has no adapter."""

    binary: str
    beside: str
    without: str
    never: str = ""


PEERS: Final = (  # beside kube-apiserver, of which __main__ knows more
    Peer(
        OPM,
        "reading a catalog (opm validate), keeping it, and serving it over gRPC (opm serve): start, reads, memory",
        "WATCH, TLS, gzip, many catalogs in one process: it has none",
    ),
    Peer(
        PACKAGE_SERVER,
        "LIST and GET of PackageManifests against those of Packages, start, memory; needs kube-apiserver and opm too",
        "WATCH: it has none",
    ),
    Peer(
        CATALOGD,
        "an image from a registry to served, reads of a catalog and of one package, memory; needs kube-apiserver too",
        "GET, LIST and WATCH of objects: it has none, a client reads documents",
    ),
    Peer(
        "porch",
        "LIST and GET of PackageRevisions, and of PackageRevisionResources, through the aggregation layer",
        "file-based catalogs: it reads git only; it also writes, which cacheserver does not",
        "nobody has written its adapter",
    ),
)
NAMES: Final = (KUBE_APISERVER, *(peer.binary for peer in PEERS if not peer.never))


def parse(text: str) -> tuple[str, Path]:
    """`NAME=PATH`. Raises: BenchError for a name nobody knows, or a path that is not a file."""
    name, equals, path = text.partition("=")
    if not equals or name not in NAMES:
        raise BenchError(f"--peer {text}: NAME=PATH, where NAME is one of {', '.join(NAMES)}")
    if not Path(path).is_file():
        raise BenchError(f"--peer {text}: there is no such file")
    return name, Path(path)


def note_absent(report: Report, options: Options) -> None:
    """One note for each peer that is not measured, kube-apiserver apart."""
    for peer in PEERS:
        if peer.never or peer.binary not in options.peers:
            why = peer.never or f"it was not given (--peer {peer.binary}=PATH)"
            report.note(
                f"not measured: {peer.binary}, {why}. Would be compared: {peer.beside}. Would not: {peer.without}"
            )
