"""kube-apiserver as the peer: it and an etcd of its own, TLS with client certificates, a CRD for the same objects.

Started from a binary that the caller names; nothing is fetched. There is no controller-manager and no kubelet, so
nothing but the questions loads it. Also makes the certificates and the kubeconfig that cacheserver needs to serve the
same clients in the same way.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench import processes
from bench.errors import BenchError
from bench.options import Options
from bench.peers import apiserver, crs
from bench.processes import Child, Etcd, Identity
from bench.target import Target
from cacheserver.security.certs import Subject, Usage

_READY_WITHIN_S = 90.0
_SERVED_WITHIN_S = 30.0
_CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True, slots=True)
class Binary:
    path: Path
    version: str


def find(path: Path | None) -> Binary | None:
    """`path`, else $KUBEBUILDER_ASSETS/kube-apiserver; None when neither is given.

    Raises: BenchError when it does not run.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if path is None and assets and (Path(assets) / "kube-apiserver").exists():
        path = Path(assets) / "kube-apiserver"
    if path is None:
        return None
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as exc:
        raise BenchError(f"kube-apiserver {path} does not run: {exc}") from exc
    return Binary(path.absolute(), said.stdout.strip())


class Certificates(apiserver.Certificates):
    """Those of one run; they go with its directory."""

    def server(self) -> tuple[Path, Path]:
        """What both servers show: the same kind of key."""
        return self.issue("server", Subject("bench", Usage.SERVER, dns=("localhost",), addresses=("127.0.0.1",)))

    def client(self) -> Identity:
        """Of a member of system:masters, whom neither server holds back by its limits on requests in flight."""
        certificate, key = self.issue("client", Subject("bench", Usage.CLIENT, groups=("system:masters",)))
        return Identity(certificate, key, self.authority("server"))


@dataclass(frozen=True, slots=True)
class Kube:
    """A kube-apiserver at work. etcd: its own. command: how it was started."""

    command: Sequence[str]
    child: Child
    url: str
    ready_s: float
    etcd: Etcd
    client: Identity
    certificates: Certificates

    @property
    def target(self) -> Target:
        return processes.secured(Target(self.url, self.child.pids), self.client)

    @contextmanager
    def restarted(self, *, asked: bool = True) -> Iterator[Kube]:
        """A new process on the same etcd: what it took to be filled is not in its memory. asked: for its objects, so it
        has read them. Raises: BenchError."""
        self.child.stop()
        with _started(self.command, self.url, self.client, self.child.directory) as (child, ready_s):
            again = dataclasses.replace(self, child=child, ready_s=ready_s)
            if asked:
                again.until_served(again.target.packages)
            yield again

    def until_served(self, path: str) -> None:
        """Raises: BenchError unless it lists what is at `path` within half a minute."""
        give_up_at = time.monotonic() + _SERVED_WITHIN_S
        # From memory: from etcd it answers sooner, and tells who asks its memory until that is filled 429.
        while not processes.http_ok(f"{self.url}{path}?resourceVersion=0&limit=1", self.client):
            if time.monotonic() > give_up_at:
                raise BenchError(f"kube-apiserver does not serve {path}:\n{self.child.log()}")
            time.sleep(0.1)

    def cacheserver_flags(self, directory: Path) -> list[str]:
        """What makes cacheserver serve TLS and take this cluster's word for who a client is."""
        certificate, key = self.certificates.server()
        empty = directory / "empty"
        empty.mkdir(exist_ok=True)
        return [
            f"--tls-cert-file={certificate}",
            f"--tls-key-file={key}",
            f"--kubernetes={self._kubeconfig(directory)}",
            # Without a catalog of its own it would follow the cluster's Repository objects, which nobody made here.
            f"--catalog=empty={empty}",
        ]

    def _kubeconfig(self, directory: Path) -> Path:
        path = directory / "kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.client.authority)}
        user = {"client-certificate": str(self.client.certificate), "client-key": str(self.client.key)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "bench", "cluster": cluster}],
            "users": [{"name": "bench", "user": user}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
            "current-context": "bench",
        }
        path.write_bytes(orjson.dumps(document))
        return path


@contextmanager
def running(binary: Binary, options: Options) -> Iterator[Kube]:
    """kube-apiserver on an empty etcd, ready and serving the CRD. Raises: BenchError."""
    port = processes.free_port()
    certificates = Certificates(options.work / f"pki-{port}")
    client = certificates.client()
    url = f"https://127.0.0.1:{port}"
    with processes.etcd(options.etcd, options.work) as etcd:
        flags = apiserver.flags(etcd.endpoint, port, certificates, certificates.server(), options.work)
        command = [str(binary.path), *flags]
        with _started(command, url, client, options.work) as (child, ready_s):
            kube = Kube(command, child, url, ready_s, etcd, client, certificates)
            define(kube, "cacheserver.dev", "packages", "Package", "v1alpha1")
            yield kube


@contextmanager
def _started(command: Sequence[str], url: str, client: Identity, directory: Path) -> Iterator[tuple[Child, float]]:
    with processes.running(Child("kube-apiserver", command, directory)) as child:
        ready_s = child.until(
            lambda: processes.http_ok(f"{url}/readyz", client), what="ready", within_s=_READY_WITHIN_S
        )
        yield child, ready_s


def filled(kube: Kube, options: Options) -> crs.Filled:
    """Write the shape's packages through the apiserver. Raises: BenchError."""
    job = crs.Fill(crs.Peer.of(kube.target), options.shape)
    return processes.ask("bench.peers.crs", job, crs.Filled, options.work)


def define(
    kube: Kube,
    group: str,
    plural: str,
    kind: str,
    version: str,
    *,
    namespaced: bool = True,
    status: bool = False,
) -> None:
    """A custom resource of any content; status: apart, as a controller writes it.

    Raises: BenchError unless the apiserver takes the CRD and serves it.
    """
    # No schema but this: every field of one costs the peer time at a write, and it shall have none to pay.
    anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    names = {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"}
    made: dict[str, object] = {"name": version, "served": True, "storage": True, "schema": anything}
    if status:
        made["subresources"] = {"status": {}}
    scope = "Namespaced" if namespaced else "Cluster"
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": scope, "names": names, "versions": [made]},
    }
    post(kube, _CRD_PATH, crd)
    kube.until_served(f"/apis/{group}/{version}/{plural}")


def post(kube: Kube, path: str, body: object) -> bytes:
    """What it answers. Raises: BenchError unless it takes it."""
    request = urllib.request.Request(
        kube.url + path, data=orjson.dumps(body), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=30, context=processes.context(kube.client)) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as exc:
        with exc:
            raise BenchError(f"kube-apiserver refuses {path}: {exc.read()[:500]!r}") from exc
    except (urllib.error.URLError, OSError) as exc:
        raise BenchError(f"kube-apiserver does not answer {path}: {exc}") from exc
