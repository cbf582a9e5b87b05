"""Doors beside the programs that they stand in for: the same bytes to the same clients, and what it costs the server.

`opm serve` answers over gRPC without TLS, catalogd and OLM's package-server over TLS; so do we. Figures are by the
server's CPU: the load makers are slower than what they ask. bench.peers starts the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import orjson

from bench import compare, processes, serve
from bench.compare import OURS
from bench.errors import BenchError
from bench.load import fbc, http, images, rpc
from bench.options import Options
from bench.peers import catalogd, known, kube, opm, packageserver
from bench.peers.kube import Kube
from bench.peers.pod import Pod
from bench.processes import Child, Server
from bench.report.figures import Memory
from bench.report.table import Report, Sample
from bench.serve import Question
from bench.target import NAMESPACED, Target, fetch

REPOSITORIES = "/apis/config.cacheserver.dev/v1alpha1/repositories"
MANIFESTS = "/apis/packages.operators.coreos.com/v1/namespaces/default/packagemanifests"
_DOORS = "Catalog,Registry,PackageManifest"
_READERS = 4
_TEN = 10
_SPEED_AIM, _MEMORY_AIM = 5.0, 3.0
_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Ours:
    """A server that publishes through every door. registries: address of each, by its catalog's name."""

    server: Server
    registries: Mapping[str, str]
    catalogs: Target


def measure(options: Options, report: Report) -> None:
    """Every door whose other side is given, `rounds` times. Raises: BenchError."""
    report.note("all doors are open in ours, also while one of them is asked; each answer is made of the same bytes")
    catalog = opm.catalogs(options, report)[0]
    loader, packages, catalogs = (options.peers.get(name) for name in (known.OPM, known.PACKAGE_SERVER, known.CATALOGD))
    cluster = kube.find(options.peers.get(known.KUBE_APISERVER))
    if loader is None and (cluster is None or catalogs is None):
        raise BenchError("no peer: --peer opm=PATH, or catalogd=PATH and kube-apiserver=PATH")
    if loader is not None:
        _registries(catalog, loader, options, report)
        _ten(loader, options, report)
    if cluster is None or (packages is None and catalogs is None):
        report.note("not measured: package-server and catalogd, for each needs --peer kube-apiserver=PATH too")
        return
    with kube.running(cluster, options) as found:
        pod = Pod(found, options.work)
        if catalogs is not None:
            _catalogs(catalog, catalogs, found, pod, options, report)
        if packages is not None and loader is not None:
            _manifests(catalog, packages, loader, found, pod, options, report)


@contextmanager
def serving(catalogs: Mapping[str, Path], options: Options, cluster: Kube | None = None) -> Iterator[Ours]:
    """cacheserver on an empty etcd with those catalogs, all of them published. Raises: BenchError."""
    registries = {name: f"127.0.0.1:{processes.free_port()}" for name in catalogs}
    content = processes.free_port()
    flags = [
        *(f"--catalog={name}={path}" for name, path in catalogs.items()),
        *(f"--publish={name}={_DOORS}" for name in catalogs),
        *(f"--registry={name}={address}" for name, address in registries.items()),
        f"--catalogs-listen=127.0.0.1:{content}",
        "--packagemanifests",
    ]
    client = None
    if cluster is not None:
        flags += [each for each in cluster.cacheserver_flags(options.work) if not each.startswith("--catalog=")]
        client = cluster.client
    with (
        processes.etcd(options.etcd, options.work) as etcd,
        processes.server(etcd, options.work, flags, client) as server,
    ):
        server.child.until(lambda: _synced(server.target, len(catalogs)), what="serving", within_s=_WITHIN_S)
        url = f"{'http' if client is None else 'https'}://127.0.0.1:{content}"
        yield Ours(server, registries, dataclasses.replace(server.target, url=url))


def _synced(target: Target, count: int) -> bool:
    found = orjson.loads(fetch(target, REPOSITORIES))["items"]
    return sum("lastSyncedAt" in each.get("status", {}) for each in found) >= count


# --- the gRPC registry -----------------------------------------------------------------------------------------------


def _registries(catalog: opm.Catalog, binary: Path, options: Options, report: Report) -> None:
    cache = opm.cached(catalog, binary, options)
    for _ in range(options.rounds):
        with (
            serving({opm.REPOSITORY: catalog.path}, options) as ours,
            opm.registry(catalog, binary, cache, options) as theirs,
        ):
            sides = {
                OURS: (ours.registries[opm.REPOSITORY], ours.server.child),
                known.OPM: (theirs.address, theirs.child),
            }
            heads = [rpc.text(1, package) + rpc.text(2, channel) for package, channel in _channels(ours.server)]
            for method, requests, connections in (
                ("ListBundles", [b""], _READERS),
                ("ListPackages", [b""], _READERS),
                ("GetBundleForChannel", heads, options.connections),
            ):
                samples = {
                    side: _called(method, requests, connections, address, child, options)
                    for side, (address, child) in sides.items()
                }
                said = "the same messages; kB_each says how much; as many calls as go, one outstanding a connection"
                compare.add(report, method, samples, "us_a_kB", aim=_SPEED_AIM, compared=f"{said}; by the server's CPU")
            said = "the process alone, after these calls; ours has the other doors too, and etcd has what it keeps"
            opm.memory(report, "RSS after calls of a registry", ours.server, (known.OPM, theirs.child), said)


def _channels(server: Server) -> list[tuple[str, str]]:
    """Package and name of every channel. Raises: BenchError."""
    items = orjson.loads(fetch(server.target, f"{NAMESPACED}/packages"))["items"]
    return [(item["spec"]["packageName"], each["name"]) for item in items for each in item["status"]["channels"]]


def _called(
    method: str, requests: Sequence[bytes], connections: int, address: str, child: Child, options: Options
) -> Sample:
    job = rpc.Job(
        address,
        f"/api.Registry/{method}",
        [each.hex() for each in requests],
        method.startswith("List"),
        connections,
        options.seconds,
        cpu_of=child.pids,
    )
    return by_cpu(serve.answered(method, processes.ask("bench.load.rpc", job, http.Result, options.work), ""))


def by_cpu(sample: Sample) -> Sample:
    """Answers a second of the server's CPU, and what a kB costs it: load makers are the bound of what they count."""
    parts = {"answers/s": sample.value, **sample.parts}
    value = parts.pop("per_server_cpu_s")
    if value <= 0:
        raise BenchError("no CPU of a server was counted: measure for longer (--seconds)")
    parts["us_a_kB"] = 1e6 / value / max(parts["kB_each"], 1e-3)
    return Sample(value, "a CPU s", parts)


# --- catalogd's API --------------------------------------------------------------------------------------------------


def _catalogs(catalog: opm.Catalog, binary: Path, cluster: Kube, pod: Pod, options: Options, report: Report) -> None:
    registry = images.Registry()
    registry.publish(catalog.path)
    with registry.serving():
        catalogd.define(cluster, registry.image)
        for _ in range(options.rounds):
            with (
                catalogd.serving(binary, cluster, pod, registry.image, options) as theirs,
                serving({opm.REPOSITORY: catalog.path}, options, cluster) as ours,
            ):
                sides = {OURS: ours.catalogs, known.CATALOGD: theirs.target}
                package = _channels(ours.server)[0][0]
                for name, query, accepted in (
                    ("all, identity", "all", "identity"),
                    ("all, gzip", "all", "gzip"),
                    ("all, zstd", "all", "zstd"),
                    ("metas of a package, identity", f"metas?package={quote(package)}", "identity"),
                    ("metas of a schema, gzip", "metas?schema=olm.channel", "gzip"),
                ):
                    question = Question(
                        name, [catalogd.path(query)], "req/s", "", {"Accept-Encoding": accepted}, _READERS
                    )
                    samples = {side: by_cpu(serve.ask(question, target, options)) for side, target in sides.items()}
                    said = "the same documents; TLS on both; kB_each says how well they are compressed; by CPU"
                    compare.add(report, name, samples, "us_a_kB", aim=_SPEED_AIM, compared=said)
                said = "the process alone, after these reads"
                opm.memory(report, "RSS after reads of a catalog", ours.server, (known.CATALOGD, theirs.child), said)


# --- PackageManifests ------------------------------------------------------------------------------------------------


def _manifests(
    catalog: opm.Catalog, binary: Path, loader: Path, cluster: Kube, pod: Pod, options: Options, report: Report
) -> None:
    cache = opm.cached(catalog, loader, options)
    with opm.registry(catalog, loader, cache, options) as registry:
        packageserver.define(cluster, registry)
        for _ in range(options.rounds):
            with serving({opm.REPOSITORY: catalog.path}, options, cluster) as ours:
                listed = orjson.loads(fetch(ours.server.target, MANIFESTS))["items"]
                with packageserver.serving(binary, cluster, pod, len(listed), options) as theirs:
                    sides = {OURS: ours.server.target, known.PACKAGE_SERVER: theirs.target}
                    for accepted in ("identity", "gzip"):
                        question = Question(
                            f"LIST of PackageManifests, {accepted}",
                            [MANIFESTS],
                            "lists/s",
                            "",
                            {"Accept-Encoding": accepted},
                            _READERS,
                        )
                        samples = {side: by_cpu(serve.ask(question, target, options)) for side, target in sides.items()}
                        said = f"{len(listed)} of them; TLS on both; by the server's CPU"
                        compare.add(report, question.name, samples, "us_a_kB", aim=_SPEED_AIM, compared=said)
                    said = "the process alone, after these lists; the peer has a registry behind it"
                    opm.memory(
                        report, "RSS after PackageManifests", ours.server, (known.PACKAGE_SERVER, theirs.child), said
                    )


# --- ten catalogs ----------------------------------------------------------------------------------------------------


def _ten(binary: Path, options: Options, report: Report) -> None:
    """Ten catalogs published by one server, beside a server each; everything was asked for once."""
    catalogs = {f"c{number}": _generated(number, options) for number in range(_TEN)}
    with serving({name: each.path for name, each in catalogs.items()}, options) as ours, ExitStack() as others:
        theirs = []
        for name, catalog in catalogs.items():
            at = dataclasses.replace(options, work=options.work / f"ten-{name}")
            at.work.mkdir(exist_ok=True)
            theirs.append(others.enter_context(opm.registry(catalog, binary, opm.cached(catalog, binary, at), at)))
        for address in (*ours.registries.values(), *(each.address for each in theirs)):
            processes.ask("bench.load.rpc", _once(address), http.Result, options.work)
        for name in catalogs:
            fetch(ours.catalogs, catalogd.path("all", name))
        mine = ours.server.child.settled_memory()
        its = _sum(each.child.memory for each in theirs)
    samples = {
        side: Sample(held.rss / 1e6, "MB", {"peak_MB": held.peak / 1e6})
        for side, held in ((OURS, mine), (known.OPM, its))
    }
    said = f"one server with all doors of {_TEN} catalogs, less etcd, beside {_TEN} opm serve; each catalog was read"
    compare.add(
        report, f"RSS of {_TEN} catalogs published", samples, "peak_MB", aim=_MEMORY_AIM, compared=said, less=True
    )


def _generated(number: int, options: Options) -> opm.Catalog:
    path = options.work / f"ten-catalog-{number}"
    if not path.exists():
        fbc.write(dataclasses.replace(options.generated, seed=options.generated.seed + number), path)
    return opm.Catalog(path.name, path, options.generated.syntax)


def _once(address: str) -> rpc.Job:
    return rpc.Job(address, "/api.Registry/ListBundles", [""], True, 1, 0.2)


def _sum(each: Iterator[Callable[[], Memory]]) -> Memory:
    held = [of() for of in each]
    return Memory(sum(one.rss for one in held), sum(one.peak for one in held))
