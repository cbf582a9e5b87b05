"""What else a user could pick, and where an adapter for it would go in.

An adapter starts a program from a path it is given and offers a Target and a way to write (compare.Side). Only
kube-apiserver has one. The others answer other questions: what of theirs could stand beside what of ours is written
down here, and a report says of each that it was not measured, and why.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.options import Options
from bench.report import Report

KUBE_APISERVER: Final = "kube-apiserver"


@dataclass(frozen=True, slots=True)
class Absent:
    """A peer without an adapter. binary: its program's name. beside, without: what could be compared, and what not."""

    name: str
    binary: str
    beside: str
    without: str


ABSENT: Final = (
    Absent(
        "catalogd",
        "catalogd",
        "download of a whole catalog over HTTPS (/catalogs/NAME/api/v1/all); ingest of an image to served",
        "GET and LIST of a package, WATCH: it has none, a client reads the whole catalog",
    ),
    Absent(
        "opm serve",
        "opm",
        "GetPackage, ListPackages, ListBundles over gRPC against GET and LIST; start to ready; RSS a catalog",
        "WATCH, TLS, gzip, many catalogs in one process: it has none",
    ),
    Absent(
        "Porch",
        "porch",
        "LIST and GET of PackageRevisions, and of PackageRevisionResources, through the aggregation layer",
        "file-based catalogs: it reads git only; it also writes, which cacheserver does not",
    ),
    Absent(
        "package-server",
        "package-server",
        "LIST, GET and WATCH of PackageManifests against those of Packages",
        "anything without catalog Pods that it can dial by gRPC: it needs a cluster with OLM",
    ),
)


def parse(text: str) -> tuple[str, Path]:
    """`NAME=PATH`. Raises: BenchError for a name nobody knows, or a path that is no file."""
    name, equals, path = text.partition("=")
    known = (KUBE_APISERVER, *(peer.binary for peer in ABSENT))
    if not equals or name not in known:
        raise BenchError(f"--peer {text}: NAME=PATH, where NAME is one of {', '.join(known)}")
    if not Path(path).is_file():
        raise BenchError(f"--peer {text}: there is no such file")
    return name, Path(path)


def note_absent(report: Report, options: Options) -> None:
    """One note for each peer that is not measured."""
    for peer in ABSENT:
        report.note(
            f"not measured: {peer.name}, {_why(peer, options.peers)}. Would be compared: {peer.beside}. "
            f"Would not: {peer.without}"
        )


def _why(peer: Absent, given: Mapping[str, Path]) -> str:
    if peer.binary in given or shutil.which(peer.binary):
        return "its program is here, but nobody has written its adapter"
    return "not on this machine"
