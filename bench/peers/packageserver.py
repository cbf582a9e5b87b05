"""OLM's package-server beside cacheserver: an aggregated API of a catalog's packages, which is what both are.

It stands as in a cluster: a Pod's token, a kube-apiserver with the CRDs it reads, a CatalogSource, `opm serve` behind
that. Both are asked directly, over TLS, by the same client; the aggregation layer in front would be the same for both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orjson

from bench import compare, processes, serve
from bench.compare import OURS
from bench.errors import BenchError
from bench.options import Options
from bench.peers import kube, opm
from bench.peers.known import PACKAGE_SERVER
from bench.peers.kube import Kube
from bench.peers.opm import Registry
from bench.peers.pod import Pod
from bench.processes import Child, Server
from bench.report.table import Report, Sample
from bench.serve import Question
from bench.target import NAMESPACED, Target, fetch

_GROUP = "operators.coreos.com"
_MANIFESTS = f"/apis/packages.{_GROUP}/v1/namespaces/default/packagemanifests"
_LOOK_EVERY_S = 0.05
_LISTS = 4


def measure(options: Options, report: Report, binary: Path, opm_binary: Path, kube_binary: kube.Binary) -> None:
    """LIST, GET, start and memory, `rounds` times. Raises: BenchError."""
    report.note(
        "package-server: TLS and a client certificate of system:masters on both; CPU and RSS are of the API process "
        "alone, not of opm serve, kube-apiserver or etcd"
    )
    report.note("not compared with package-server: WATCH, pages, fields, one revision: it has none of them")
    catalog = opm.catalogs(options, report)[0]
    cache = opm.cached(catalog, opm_binary, options)
    with (
        kube.running(kube_binary, options) as cluster,
        opm.kept(catalog, options) as etcd,
        opm.registry(catalog, opm_binary, cache, options) as registry,
    ):
        define(cluster, registry)
        pod = Pod(cluster, options.work)
        for _ in range(options.rounds):
            with processes.server(etcd, options.work, cluster.cacheserver_flags(options.work), cluster.client) as ours:
                names = opm.packages(ours)
                with serving(binary, cluster, pod, len(names), options) as theirs:
                    _round(ours, theirs, names, options, report)


def define(cluster: Kube, registry: Registry) -> None:
    """The kinds it reads, and a CatalogSource whose registry is that. Raises: BenchError."""
    kube.define(cluster, _GROUP, "catalogsources", "CatalogSource", "v1alpha1")
    kube.define(cluster, _GROUP, "olmconfigs", "OLMConfig", "v1", namespaced=False)
    source = {
        "apiVersion": f"{_GROUP}/v1alpha1",
        "kind": "CatalogSource",
        "metadata": {"name": opm.REPOSITORY, "namespace": "default"},
        "spec": {"sourceType": "grpc", "address": registry.address},
        # catalog-operator's to write; without it package-server takes the registry for one that is not up yet.
        "status": {"registryService": {"protocol": "grpc"}},
    }
    kube.post(cluster, f"/apis/{_GROUP}/v1alpha1/namespaces/default/catalogsources", source)


@contextmanager
def serving(binary: Path, cluster: Kube, pod: Pod, count: int, options: Options) -> Iterator[Server]:
    """package-server, ready when it lists `count` packages. Raises: BenchError."""
    certificate, key = cluster.certificates.server()
    port = processes.free_port()
    url = f"https://127.0.0.1:{port}"
    arguments = [
        str(binary),
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
        "--global-namespace=olm",
    ]
    with processes.running(Child(PACKAGE_SERVER, pod.command(arguments), options.work)) as child:
        target = processes.secured(Target(url), cluster.client)
        child.until(lambda: processes.http_ok(f"{url}/readyz", cluster.client), what="ready")
        ready_s = child.until(lambda: _lists(target, count), what=f"listing {count} packages")
        yield Server(child, url, ready_s, cluster.client)


def _lists(target: Target, count: int) -> bool:
    time.sleep(_LOOK_EVERY_S)  # each look costs it a list
    try:
        return len(orjson.loads(fetch(target, _MANIFESTS))["items"]) == count
    except BenchError:
        return False


def _round(ours: Server, theirs: Server, names: Mapping[str, str], options: Options, report: Report) -> None:
    starts = {
        side: Sample(each.ready_s, "s", {"cpu_s": each.child.cpu_s()})
        for side, each in ((OURS, ours), (PACKAGE_SERVER, theirs))
    }
    compared = "to /readyz from a filled etcd; the peer: to listing every package, from opm serve at work"
    compare.add(report, "start to all packages", starts, "cpu_s", aim=0, compared=compared, less=True)
    at_start = "the API process alone, just started, all packages in it"
    opm.memory(report, "RSS, all packages loaded", ours, (PACKAGE_SERVER, theirs.child), at_start)
    sizes = "the same packages; a PackageManifest repeats the description of each channel's head: kB_each says how much"
    for name, connections, headers in (
        ("GET one of all packages", options.connections, {}),
        ("LIST all packages", _LISTS, {}),
        ("LIST all packages gzip", _LISTS, {"Accept-Encoding": "gzip"}),
    ):
        samples = {}
        for side, server, path, each in (
            (OURS, ours, f"{NAMESPACED}/packages", names.values()),
            (PACKAGE_SERVER, theirs, _MANIFESTS, names.keys()),
        ):
            one = name.startswith("GET")
            paths = [f"{path}/{single}" for single in each] if one else [path]
            unit = "req/s" if one else "lists/s"
            question = Question(name, paths, unit, "", headers, connections, alternatives=True)
            samples[side] = serve.ask(question, server.target, options)
        compare.add(report, name, samples, "per_server_cpu_s", aim=0, compared=sizes)
    after = "the API process alone, after these questions"
    opm.memory(report, "RSS after reads of all packages", ours, (PACKAGE_SERVER, theirs.child), after)
