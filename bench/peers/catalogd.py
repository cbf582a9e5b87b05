"""catalogd (OLM v1) beside cacheserver: a catalog image from a registry to its readers, over TLS.

catalogd stands as in a cluster: a Pod's token, a kube-apiserver with a ClusterCatalog. The registry is ours, on
loopback. What it serves is files: a client reads all documents of a catalog, or of one package; there is no object to
get, list or watch.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import orjson

from bench import compare, processes, serve
from bench.compare import OURS
from bench.errors import BenchError
from bench.load.images import Registry
from bench.options import Options
from bench.peers import kube, opm
from bench.peers.known import CATALOGD
from bench.peers.kube import Kube
from bench.peers.pod import Pod
from bench.processes import Child, Server
from bench.report.table import Report, Sample
from bench.serve import Question
from bench.target import NAMESPACED, Target, fetch

_GROUP = "olm.operatorframework.io"
_REPOSITORIES = "/apis/config.cacheserver.dev/v1alpha1/repositories"
_LOOK_EVERY_S = 0.02
_READERS = 4
_WITHIN_S = 120.0


def measure(options: Options, report: Report, binary: Path, kube_binary: kube.Binary) -> None:
    """From an image to served, reads and memory, `rounds` times. Raises: BenchError."""
    report.note(
        f"{CATALOGD}: TLS on both, the same image from the same registry on loopback; CPU is that of the process and "
        "its children, RSS the process's alone, without our parsers"
    )
    report.note(f"not compared with {CATALOGD}: GET, LIST and WATCH of objects, Table, pages, one bundle: it has none")
    catalog = opm.catalogs(options, report)[0]
    images = Registry()
    images.publish(catalog.path)
    with images.serving(), kube.running(kube_binary, options) as cluster:
        define(cluster, images.image)
        pod = Pod(cluster, options.work)
        for number in range(options.rounds):
            # One after the other: each has the machine while it reads the image, and is asked while the other is idle.
            with (
                serving(binary, cluster, pod, images.image, options) as theirs,
                _ours(cluster, images.image, number, options) as ours,
            ):
                _round(ours, theirs, options, report)


def define(cluster: Kube, image: str) -> None:
    """The kind it reads, and one of it. Raises: BenchError."""
    kube.define(cluster, _GROUP, "clustercatalogs", "ClusterCatalog", "v1", namespaced=False, status=True)
    kube.post(cluster, f"/apis/{_GROUP}/v1/clustercatalogs", _cluster_catalog(image))


def _cluster_catalog(image: str) -> dict[str, object]:
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "ClusterCatalog",
        "metadata": {"name": opm.REPOSITORY},
        "spec": {
            "priority": 0,
            "availabilityMode": "Available",
            "source": {"type": "Image", "image": {"ref": image}},
        },
    }


@contextmanager
def serving(binary: Path, cluster: Kube, pod: Pod, image: str, options: Options) -> Iterator[Server]:
    """catalogd with an empty cache, ready when it serves the catalog. Raises: BenchError."""
    home = options.work / "catalogd"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    (home / "registries.conf").write_text(f'[[registry]]\nlocation = "{image.partition("/")[0]}"\ninsecure = true\n')
    certificate, key = cluster.certificates.server()
    content, probe, metrics, webhook = (processes.free_port() for _ in range(4))
    arguments = [
        str(binary),
        f"--catalogs-server-addr=127.0.0.1:{content}",
        f"--external-address=127.0.0.1:{content}",
        f"--health-probe-bind-address=127.0.0.1:{probe}",
        f"--metrics-bind-address=127.0.0.1:{metrics}",
        f"--webhook-server-port={webhook}",
        f"--cache-dir={home / 'cache'}",
        f"--tls-cert={certificate}",
        f"--tls-key={key}",
        "--system-namespace=default",
        "--feature-gates=APIV1MetasHandler=true",
    ]
    environment = {
        "HOME": str(home),
        "TMPDIR": str(home),
        "CONTAINERS_REGISTRIES_CONF": str(home / "registries.conf"),
    }
    url = f"https://127.0.0.1:{content}"
    with processes.running(Child(CATALOGD, pod.command(arguments, environment), options.work)) as child:
        ready_s = child.until(lambda: _serves(url, cluster), what="serving the catalog", within_s=_WITHIN_S)
        yield Server(child, url, ready_s, cluster.client)


def _serves(url: str, cluster: Kube) -> bool:
    time.sleep(_LOOK_EVERY_S)
    one_schema = f"{url}{path('metas')}?schema=olm.package"  # small, and there when all is
    return processes.http_ok(one_schema, cluster.client)


def path(of: str, catalog: str = opm.REPOSITORY) -> str:
    """Of `all` or `metas`, with a query."""
    return f"/catalogs/{catalog}/api/v1/{of}"


@contextmanager
def _ours(cluster: Kube, image: str, number: int, options: Options) -> Iterator[Server]:
    """cacheserver on an empty etcd, ready when all of the image is served. Raises: BenchError."""
    manifest = options.work / "image.json"
    repository = {
        "apiVersion": "config.cacheserver.dev/v1alpha1",
        "kind": "Repository",
        "metadata": {"name": opm.REPOSITORY},
        "spec": {"source": {"oci": {"image": image, "insecure": True}}},
    }
    manifest.write_bytes(orjson.dumps(repository))
    state = options.work / f"image-state-{number}"
    flags = [*cluster.cacheserver_flags(options.work), f"--repositories={manifest}", f"--data-dir={state}"]
    with (
        processes.etcd(options.etcd, options.work) as etcd,
        processes.server(etcd, options.work, flags, cluster.client) as server,
    ):
        ready_s = server.child.until(lambda: _synced(server.target), what="serving the image", within_s=_WITHIN_S)
        yield dataclasses.replace(server, ready_s=ready_s)


def _synced(target: Target) -> bool:
    time.sleep(_LOOK_EVERY_S)
    found = orjson.loads(fetch(target, _REPOSITORIES))["items"]
    return any(each["metadata"]["name"] == opm.REPOSITORY and each["status"].get("lastSyncedAt") for each in found)


def _round(ours: Server, theirs: Server, options: Options, report: Report) -> None:
    sides = ((OURS, ours), (CATALOGD, theirs))
    starts = {side: Sample(each.ready_s, "s", {"cpu_s": each.child.cpu_s()}) for side, each in sides}
    compared = (
        "from the start with nothing kept to all of the image served; ours parses and checks it and writes it to etcd, "
        "the peer unpacks it and indexes its JSON"
    )
    compare.add(report, "image to served", starts, "cpu_s", aim=0, compared=compared, less=True)
    opm.memory(report, "RSS, image served", ours, (CATALOGD, theirs.child), "the process alone, that read the image")
    name = next(iter(opm.packages(ours)), "")
    if not name:
        raise BenchError(f"{options.catalog}: no package in it")
    selected = f"{NAMESPACED}/packagerevisions?labelSelector={quote(f'cacheserver.dev/package={name}')}"
    for what, mine, its, compared in (
        (
            "read of a whole catalog",
            f"{NAMESPACED}/packagerevisions",
            path("all"),
            "ours: every revision's summary; the peer: every document whole, from a file",
        ),
        (
            "read of one package's revisions",
            selected,
            f"{path('metas')}?package={quote(name)}",
            "ours: its revisions' summaries; the peer: its documents whole",
        ),
    ):
        samples = {
            side: serve.ask(Question(what, [asked], "req/s", connections=_READERS), server.target, options)
            for (side, server), asked in zip(sides, (mine, its), strict=True)
        }
        said = f"{compared}; kB_each says how much"
        compare.add(report, what, samples, "per_server_cpu_s", aim=0, compared=said)
    after = "the process alone, after these reads"
    opm.memory(report, "RSS after reads of an image", ours, (CATALOGD, theirs.child), after)
