"""OLM's own catalog-operator on our registry: what it would install, and at once what is new."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cacheserver.etcd.supervise import command
from tests.e2e.conftest import StartServer
from tests.support import odd_catalog, olm
from tests.support.etcd import free_ports
from tests.support.kube import KubeAPIServer, Kubectl, find_kube
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

GROUP: Final = "operators.coreos.com"
KINDS: Final = {
    "CatalogSource": ("catalogsources", "v1alpha1", True),
    "Subscription": ("subscriptions", "v1alpha1", True),
    "InstallPlan": ("installplans", "v1alpha1", True),
    "ClusterServiceVersion": ("clusterserviceversions", "v1alpha1", True),
    "OperatorGroup": ("operatorgroups", "v1", True),
    "Operator": ("operators", "v1", False),
    "OLMConfig": ("olmconfigs", "v1", False),
}
"""Plural, version, whether it has a namespace; of what catalog-operator reads and writes."""


class CatalogOperator:
    """The program at work in the cluster."""

    def __init__(self, binary: Path, cluster: KubeAPIServer) -> None:
        self._log = cluster.directory / "catalog-operator.log"
        flags = [f"--kubeconfig={cluster.kubeconfig()}", "--namespace=olm", "--debug"]
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                command(str(binary), flags),
                cwd=cluster.directory,
                env={"HOME": str(cluster.directory), "KUBE_FEATURE_WatchListClient": "false"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        self._child.kill()
        self._child.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[KubeAPIServer]:
    found = find_kube()
    if found is None:
        pytest.skip("NO KUBE-APISERVER: KUBEBUILDER_ASSETS names a directory that has one")
    server = KubeAPIServer(found, tmp_path / "cluster")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_it_resolves_a_subscription_and_again_when_the_catalog_changed(
    start_server: StartServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    binary = olm.program(olm.CATALOG_OPERATOR)
    cluster: KubeAPIServer = request.getfixturevalue("cluster")
    catalog, port = odd_catalog.write(tmp_path / "catalog"), free_ports(1)[0]
    server = start_server("--catalog", f"tea={catalog}", "--registry", f"tea=127.0.0.1:{port}")
    kubectl = Kubectl(cluster, cluster.kubeconfig())
    kubectl.apply(*(_definition(kind) for kind in KINDS))
    for plural, _, _ in KINDS.values():
        kubectl.run("wait", "--for=condition=Established", f"crd/{plural}.{GROUP}", "--timeout=30s")
    spec = {"sourceType": "grpc", "address": f"127.0.0.1:{port}"}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "olm"}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
    )
    kubectl.apply(
        _object("CatalogSource", "olm", "tea", spec),
        _object("OperatorGroup", "shop", "all", {}),
        _object(
            "Subscription",
            "shop",
            "kettle",
            {"source": "tea", "sourceNamespace": "olm", "name": "kettle", "channel": "stable"},
        ),
    )
    operator = CatalogOperator(binary, cluster)
    try:

        def unpacked() -> str:
            """The Jobs that it makes for the bundles of what it resolved, which nobody runs here."""
            return str(kubectl.json("get", "jobs", "-n", "olm")["items"])

        until(lambda: "registry.example.com/kettle:v2.0.0" in unpacked(), within_s=60, otherwise=operator.log)
        connected = ("-o", "jsonpath={.status.connectionState.lastObservedState}")
        until(
            lambda: kubectl.run("get", "catalogsource", "tea", "-n", "olm", *connected) == "READY",
            within_s=60,
            otherwise=operator.log,
        )
        odd_catalog.write(catalog, changed=True)
        server.signal(signal.SIGHUP)
        until(lambda: "registry.example.com/kettle:v2.2.0" in unpacked(), within_s=60, otherwise=operator.log)
    finally:
        operator.stop()


def _object(kind: str, namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    _, version, _ = KINDS[kind]
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": f"{GROUP}/{version}", "kind": kind, "metadata": metadata, "spec": spec}


def _definition(kind: str) -> dict[str, Any]:
    """A CRD that takes anything."""
    plural, version, namespaced = KINDS[kind]
    anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    served = {"name": version, "served": True, "storage": True, "schema": anything, "subresources": {"status": {}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if namespaced else "Cluster",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [served],
        },
    }
