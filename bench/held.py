"""Memory of many objects, in cacheserver and in a kube-apiserver that has the same as custom resources: one run.

Both read an etcd of their own with the same bytes, TLS on both, and nobody asks either for anything but whether it has
read them, so what is compared is what they hold. Go gives memory back some time after a collection: the least of half a
minute counts, on both sides.
"""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Final

from bench import processes
from bench.compare import OURS, add
from bench.errors import BenchError
from bench.load import fill
from bench.options import Options
from bench.peers import crs, kube
from bench.processes import Child
from bench.report.figures import Memory
from bench.report.table import Report, Sample
from bench.scale import REVISIONS_A_PACKAGE
from bench.target import fetch
from cacheserver import model
from cacheserver.model import Kind

_AIM: Final = 10.0
_WITHIN_S: Final = 900.0
_SETTLE_S: Final = 30.0
_LOOK_EVERY_S: Final = 1.0
_KINDS: Final = (Kind.PACKAGE, Kind.REVISION)
_READ: Final = re.compile(
    rb'^apiserver_watch_cache_initializations_total\{.*resource="(\w+)[."].*\} [1-9]', re.MULTILINE
)


def measure(options: Options, report: Report, binary: kube.Binary) -> None:
    """options.revisions of them, in packages of 20; once, for nothing is asked. Raises: BenchError."""
    packages = max(1, options.revisions // REVISIONS_A_PACKAGE)
    shape = dataclasses.replace(options.shape, packages=packages, revisions=REVISIONS_A_PACKAGE)
    report.note(f"the peer: {binary.version}; server memory is of the API process alone")
    with processes.etcd(options.etcd, options.work) as etcd, kube.running(binary, options) as peer:
        job = fill.Fill(etcd.endpoint, shape)
        processes.ask("bench.load.fill", job, fill.Filled, options.work, within_s=_WITHIN_S)
        kube.define(peer, model.GROUP, Kind.REVISION, "PackageRevision", model.VERSION)
        peer.child.stop()
        copy = crs.Copy(etcd.endpoint, peer.etcd.endpoint)
        copied = processes.ask("bench.peers.crs", copy, crs.Filled, options.work, within_s=_WITHIN_S)
        with peer.restarted(asked=False) as again:
            _until_read(again)
            flags = again.cacheserver_flags(options.work)
            with processes.server(etcd, options.work, flags, again.client, _WITHIN_S) as server:
                ours, theirs = _settled(server.child, again.child)
    samples = {
        side: Sample(held.rss / 1e6, "MB", {"peak_MB": held.peak / 1e6})
        for side, held in ((OURS, ours), ("kube-apiserver", theirs))
    }
    name = f"RSS, {options.revisions:,} revisions in {packages:,} packages loaded"
    compared = f"{copied.objects:,} objects read from etcd, nothing asked; the least of {_SETTLE_S:.0f} s"
    add(report, name, samples, "peak_MB", aim=_AIM, compared=compared, less=True)


def _until_read(peer: kube.Kube) -> None:
    """A kind is read into memory from the first question on: one for what is not there. Raises: BenchError."""
    give_up_at = time.monotonic() + _WITHIN_S
    for kind in _KINDS:
        path = f"/apis/{model.GROUP}/{model.VERSION}/namespaces/{fill.NAMESPACE}/{kind}/none"
        processes.http_ok(f"{peer.url}{path}?resourceVersion=0", peer.client)
    while not {kind.encode() for kind in _KINDS} <= set(_READ.findall(fetch(peer.target, "/metrics"))):
        if time.monotonic() > give_up_at:
            raise BenchError(f"kube-apiserver has not read its objects:\n{peer.child.log()}")
        time.sleep(_LOOK_EVERY_S)


def _settled(*children: Child) -> list[Memory]:
    """The least of each for a while, from now on."""
    looks = []
    until = time.monotonic() + _SETTLE_S
    while time.monotonic() < until:
        looks.append([child.memory() for child in children])
        time.sleep(_LOOK_EVERY_S)
    return [min(held, key=lambda memory: memory.rss) for held in zip(*looks, strict=True)]
