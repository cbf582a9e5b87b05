"""Our objects of cert-manager's and the Prometheus operator's kinds, judged by the definitions of these kinds.

CACHESERVER_TEST_CRDS names a directory with their CustomResourceDefinitions, as each project ships them (cert-manager:
deploy/crds; prometheus-operator: example/prometheus-operator-crd); a real kube-apiserver, as in test_kube_apiserver.py,
is given these, and then our overlays under strict validation. Without either this is skipped, loudly.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.e2e.test_kube_apiserver import CONFIGS, FOUND, kube
from tests.support.kube import KubeAPIServer, Kubectl

__all__ = ["kube"]  # a fixture

pytestmark = pytest.mark.e2e

VARIABLE: Final = "CACHESERVER_TEST_CRDS"
KINDS: Final = {
    "certificates.cert-manager.io": "Certificate",
    "issuers.cert-manager.io": "Issuer",
    "prometheusrules.monitoring.coreos.com": "PrometheusRule",
    "servicemonitors.monitoring.coreos.com": "ServiceMonitor",
}
OVERLAYS: Final = ("default", "production", "namespaced")


def definitions() -> dict[str, dict[str, Any]]:
    """Of KINDS, by name; skips the test where no directory is named, and fails where one of them is not in it."""
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.skip(
            f"NO DEFINITIONS: {VARIABLE} names a directory with those of {', '.join(KINDS)}; not judged by them"
        )
    found = {}
    for path in sorted(Path(named).glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and document.get("metadata", {}).get("name") in KINDS:
                found[document["metadata"]["name"]] = document
    assert set(found) == set(KINDS), f"not all in {named}"
    return found


@pytest.fixture(scope="module")
def admin(kube: KubeAPIServer) -> Kubectl:
    """Of a kube-apiserver with the definitions, and the namespaces that our objects are in."""
    given = definitions()
    admin = Kubectl(kube, kube.kubeconfig())
    # Not client-side apply: a definition is larger than the annotation that this keeps it in.
    admin.run("create", "-f", "-", stdin="\n".join(map(json.dumps, given.values())))
    for name in given:
        admin.run("wait", f"crd/{name}", "--for=condition=Established", "--timeout=60s")
    admin.run("create", "namespace", "packages")  # which ../namespaced has to find
    return admin


def built(admin: Kubectl, overlay: str) -> list[dict[str, Any]]:
    """Its objects of KINDS."""
    documents = yaml.safe_load_all(admin.run("kustomize", str(CONFIGS / "kubernetes" / overlay)))
    return [each for each in documents if each["kind"] in KINDS.values()]


def test_there_are_definitions_or_it_is_said_aloud() -> None:
    if FOUND is None:
        pytest.skip("NO KUBE-APISERVER FOUND: set KUBEBUILDER_ASSETS; cert-manager's kinds were not judged")
    definitions()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_taken_whole_by_the_definitions_of_its_kinds(admin: Kubectl, overlay: str) -> None:
    """As it is typed, `kubectl apply -k`, but for the server's word on every field."""
    said = admin.run("apply", "--server-side", "--validate=strict", "-k", str(CONFIGS / "kubernetes" / overlay))
    ours = built(admin, overlay)
    for kind in {each["kind"] for each in ours}:
        told = [line for line in said.splitlines() if line.startswith(f"{kind.lower()}.")]
        assert len(told) == len([each for each in ours if each["kind"] == kind]), said
    assert len(ours) >= 11  # seven certificates, four issuers
    for each in ours:
        kept = admin.json("-n", "cacheserver", "get", each["kind"].lower(), each["metadata"]["name"])
        # Nothing was left out; what is there besides are defaults.
        assert kept["spec"] == merged(kept["spec"], each["spec"])


def merged(kept: Any, ours: Any) -> Any:
    """kept, with what we wrote in it again."""
    if isinstance(kept, dict) and isinstance(ours, dict):
        return {**kept, **{name: merged(kept.get(name), value) for name, value in ours.items()}}
    if isinstance(kept, list) and isinstance(ours, list) and len(kept) == len(ours):
        return [merged(*pair) for pair in zip(kept, ours, strict=True)]
    return ours


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("Certificate", ("privateKey",)),
        ("Certificate", ()),
        ("Issuer", ()),
        ("ServiceMonitor", ("endpoints", 0, "tlsConfig")),
        ("PrometheusRule", ("groups", 0, "rules", 0)),
    ],
)
def test_a_field_that_they_do_not_know_would_be_refused(
    admin: Kubectl, kind: str, where: tuple[str | int, ...]
) -> None:
    """What the test above stands on: the judge knows these places."""
    wrong = next(each for each in built(admin, "production") if each["kind"] == kind)
    place = wrong["spec"]
    for step in where:
        place = place[step]
    place["unheardOf"] = 1
    wrong["metadata"]["namespace"] = "packages"
    said = admin.refused("create", "--validate=strict", "-f", "-", stdin=json.dumps(wrong))
    assert "unheardOf" in said
