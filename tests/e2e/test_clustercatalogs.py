"""ClusterCatalogs on a real kube-apiserver, with the rights of components/clustercatalogs and the checks of the kind.

Set KUBEBUILDER_ASSETS, as for test_kube_apiserver.py; without it this is skipped, loudly. The controller runs in this
process, with the ServiceAccount's token; what is served is what the test says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cacheserver import metrics
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.compat.clustercatalogs.controller import CATALOGD_FINALIZER, IMAGE_DIGEST, LABEL, PATH, ClusterCatalogs
from cacheserver.compat.clustercatalogs.rival import DEPLOYMENT
from cacheserver.errors import KubernetesError
from cacheserver.model import Digest
from tests.fakes.contents import Contents
from tests.support.asking import ask
from tests.support.kube import KubeAPIServer, Kubectl, find_kube
from tests.support.server import ServerProcess
from tests.support.waiting import eventually, until

pytestmark = pytest.mark.e2e

CONFIGS: Final = Path(__file__).parents[2] / "configs" / "kubernetes"
KIND: Final = Path(__file__).parents[1] / "fixtures" / "clustercatalogs.yaml"
NAMESPACE: Final = "cacheserver-catalogs"
REPOSITORIES: Final = f"/apis/config.cacheserver.dev/v1alpha1/namespaces/{NAMESPACE}/repositories"
FOUND: Final = find_kube()
LONGEST: Final = "a" * 63
DIGESTS: Final = {
    "oci": f"sha256:{'a' * 64}",
    "directory": f"dir:{'b' * 64}",
    "git": f"git:{'c' * 40}",
    LONGEST: f"refs:{'d' * 64}",
}
"""Of Repositories by their sources, as their status has them."""


def test_there_is_a_kube_apiserver_or_it_is_said_aloud() -> None:
    if FOUND is None:
        pytest.skip("NO KUBE-APISERVER FOUND: set KUBEBUILDER_ASSETS; ClusterCatalogs were not tested with a real one")


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KubeAPIServer, Kubectl]]:
    if FOUND is None:
        pytest.skip("no kube-apiserver")
    server = KubeAPIServer(FOUND, tmp_path_factory.mktemp("kube"))
    try:
        server.start()
        admin = Kubectl(server, server.kubeconfig())
        admin.run("create", "namespace", "cacheserver")
        admin.run("-n", "cacheserver", "create", "serviceaccount", "cacheserver")
        component = CONFIGS / "components" / "clustercatalogs"
        for path in (
            CONFIGS / "crd" / "repositories.yaml",
            KIND,
            component / "namespace.yaml",
            component / "rbac.yaml",
        ):
            admin.run("apply", "--validate=strict", "-f", str(path))
        for kind in ("repositories.config.cacheserver.dev", "clustercatalogs.olm.operatorframework.io"):
            admin.run("wait", f"crd/{kind}", "--for=condition=Established")
        yield server, admin
    finally:
        server.stop()


def catalog(name: str, **spec: Any) -> dict[str, Any]:
    source = {"type": "Image", "image": {"ref": f"quay.io/{name}/catalog:latest", "pollIntervalMinutes": 10}}
    return {
        "apiVersion": "olm.operatorframework.io/v1",
        "kind": "ClusterCatalog",
        "metadata": {"name": name},
        "spec": {"source": source, **spec},
    }


class Cluster:
    """What a test does in it. admin: somebody with all rights; api: likewise."""

    def __init__(self, api: KubeAPI, contents: Contents) -> None:
        self.api = api
        self.contents = contents

    async def make(self, name: str, **spec: Any) -> None:
        await self.api.create(PATH, catalog(name, **spec))

    async def get(self, name: str) -> dict[str, Any]:
        return await self.api.get(f"{PATH}/{name}")

    async def repository(self, name: str) -> dict[str, Any] | None:
        try:
            return await self.api.get(f"{REPOSITORIES}/{name}")
        except KubernetesError as exc:
            if exc.code != 404:
                raise
            return None

    async def synced(self, name: str, digest: str, revision: Digest) -> None:
        found: dict[str, Any] = {}

        async def made() -> bool:
            found.update(await self.repository(name) or {})
            return bool(found)

        await eventually(made)
        said = {"reason": "Synced", "message": "synced", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        status = {
            "observedGeneration": found["metadata"]["generation"],
            "conditions": [{"type": "Ready", "status": "True", **said}, {"type": "Stalled", "status": "False", **said}],
            "digest": digest,
        }
        self.contents.serve(name, revision)
        await self.api.patch(f"{REPOSITORIES}/{name}/status", {"status": status})

    async def until(self, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        found: dict[str, Any] = {}

        async def held() -> bool:
            found.clear()
            found.update(await self.get(name))
            return holds(found)

        await eventually(held)
        return found

    async def served(self, name: str, revision: Digest) -> dict[str, Any]:
        ref = f"cacheserver.dev/{NAMESPACE}/{name}@{revision}"

        def named(found: dict[str, Any]) -> bool:
            resolved = found.get("status", {}).get("resolvedSource", {})
            return bool(resolved.get("image", {}).get("ref") == ref)

        return await self.until(name, named)


@contextlib.asynccontextmanager
async def running(server: KubeAPIServer, contents: Contents) -> AsyncIterator[Cluster]:
    """The controller with the rights that the component gives, and a cluster for who has all."""
    account = server.service_account_kubeconfig("cacheserver", "cacheserver")
    async with KubeAPI(account) as own, KubeAPI(server.kubeconfig()) as api:
        controller = ClusterCatalogs(
            own,
            contents,
            lambda: True,
            namespace=NAMESPACE,
            base=lambda key: f"https://cacheserver-catalogs.cacheserver.svc/catalogs/{key.name}.{key.namespace}",
            again_s=0.05,
            settle_s=0.05,
            first_pause_s=0.05,
        )
        task = asyncio.create_task(controller.run())
        try:
            yield Cluster(api, contents)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_clustercatalogs_are_followed_as_kube_apiserver_lets_them(kube: tuple[KubeAPIServer, Kubectl]) -> None:
    """One story, since a kube-apiserver takes seconds to begin."""
    server, admin = kube
    contents = Contents(NAMESPACE)
    revisions = {name: Digest(f"sha256:{at:064x}") for at, name in enumerate(DIGESTS)}
    async with running(server, contents) as cluster:
        # Whatever a catalog was read from, its status passes the checks of the kind.
        for name, digest in DIGESTS.items():
            await cluster.make(name)
            await cluster.synced(name, digest, revisions[name])
        for name, digest in DIGESTS.items():
            found = await cluster.served(name, revisions[name])
            assert found["status"]["urls"]["base"].endswith(f"/catalogs/{name}.{NAMESPACE}")
            assert (found["spec"]["priority"], found["spec"]["availabilityMode"]) == (0, "Available")

            def marked(now: dict[str, Any], name: str = name, digest: str = digest) -> bool:
                metadata = now["metadata"]
                return bool(
                    metadata["labels"] == {LABEL: name} and metadata.get("annotations", {}).get(IMAGE_DIGEST) == digest
                )

            await cluster.until(name, marked)
        made = await cluster.repository("oci")
        assert made is not None
        assert made["spec"]["source"] == {"oci": {"image": "quay.io/oci/catalog:latest", "insecure": False}}
        assert made["spec"]["publish"] == ["Catalog"]
        table = await asyncio.to_thread(admin.run, "get", "clustercatalog", "oci")
        assert table.splitlines()[0].split() == ["NAME", "LASTUNPACKED", "SERVING", "AGE"]
        assert table.splitlines()[1].split()[2] == "True"

        # Other content under the same image.
        again = Digest(f"sha256:{'f' * 64}")
        contents.serve("oci", again)
        await cluster.served("oci", again)

        # Out of service, and back.
        await cluster.api.patch(f"{PATH}/oci", {"spec": {"availabilityMode": "Unavailable"}})

        def says(reason: str) -> Callable[[dict[str, Any]], bool]:
            return lambda found: reason in [each["reason"] for each in found.get("status", {}).get("conditions", ())]

        found = await cluster.until("oci", says("UserSpecifiedUnavailable"))
        assert not found["status"].keys() & {"urls", "resolvedSource", "lastUnpacked"}
        await cluster.api.patch(f"{PATH}/oci", {"spec": {"availabilityMode": "Available"}})

        async def back() -> bool:
            found = await cluster.repository("oci")
            return found is not None and "Catalog" in found["spec"].get("publish", ())

        await eventually(back)
        await cluster.synced("oci", DIGESTS["oci"], again)
        await cluster.served("oci", again)

        # What kube-apiserver lets pass and no Repository can be.
        await cluster.make("with.dot")
        found = await cluster.until("with.dot", says("Blocked"))
        image = {"ref": f"quay.io/a/b@sha512:{'0' * 128}"}
        await cluster.make("other-digest", source={"type": "Image", "image": image})
        await cluster.until("other-digest", says("Blocked"))

        # Deleted, with the finalizer that a catalogd left, and made anew at once.
        await cluster.api.patch(f"{PATH}/git", {"metadata": {"finalizers": [CATALOGD_FINALIZER]}})
        await cluster.api.delete(f"{PATH}/git")

        async def gone() -> bool:
            return await cluster.repository("git") is None

        await eventually(gone)
        contents.serve("git", None)
        await cluster.make("git")
        await cluster.synced("git", DIGESTS["git"], again)
        await cluster.served("git", again)

        # A catalogd comes: everything is left to it.
        await _catalogd(cluster.api)
        before = {name: (await cluster.get(name))["metadata"]["resourceVersion"] for name in DIGESTS}
        contents.serve("oci", Digest(f"sha256:{'e' * 64}"))
        await cluster.make("late")
        rights = await asyncio.to_thread(_may, admin)
        assert before == {name: (await cluster.get(name))["metadata"]["resourceVersion"] for name in DIGESTS}
        assert "status" not in await cluster.get("late")
        assert rights == {"delete clustercatalogs": False, "create repositories": False, "get deployments": False}


async def _catalogd(api: KubeAPI) -> None:
    """One with a ready replica; seen by the controller before this returns."""
    labels = {"app": "catalogd"}
    container = {"name": "manager", "image": "quay.io/operator-framework/catalogd:v1"}
    spec = {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    path = "/apis/apps/v1/namespaces/default/deployments"
    await api.create(
        path, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": DEPLOYMENT}, "spec": spec}
    )
    status = {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    await api.patch(f"{path}/{DEPLOYMENT}/status", {"status": status})

    async def seen() -> bool:
        return metrics.clustercatalogs_catalogd.value == 1

    await eventually(seen)


def _may(admin: Kubectl) -> dict[str, bool]:
    """What the account may not: delete a ClusterCatalog, make Repositories elsewhere, look at other Deployments."""
    account = "system:serviceaccount:cacheserver:cacheserver"
    asked = {
        "delete clustercatalogs": ("delete", "clustercatalogs.olm.operatorframework.io"),
        "create repositories": ("create", "repositories.config.cacheserver.dev", "-n", "default"),
        "get deployments": ("get", "deployments.apps", "-n", "default"),
    }
    return {name: admin.tried("auth", "can-i", *words, "--as", account)[0] for name, words in asked.items()}


def test_the_kind_of_the_fixture_refuses_what_the_real_one_refuses(kube: tuple[KubeAPIServer, Kubectl]) -> None:
    _, admin = kube
    admin.apply(catalog("checked"))
    bad = {
        "no digest": {"resolvedSource": {"type": "Image", "image": {"ref": "cacheserver.dev/a/b:v1"}}},
        "no host": {"resolvedSource": {"type": "Image", "image": {"ref": f"/a/b@sha256:{'0' * 64}"}}},
        "short": {"resolvedSource": {"type": "Image", "image": {"ref": f"h/a/b@sha256:{'0' * 31}"}}},
        "no url": {"urls": {"base": "catalogs"}},
        "long url": {"urls": {"base": "https://" + "a" * 520}},
    }
    for name, status in bad.items():
        patch = ("patch", "clustercatalog", "checked", "--subresource=status", "--type=merge", "-p")
        assert "is invalid" in admin.refused(*patch, json.dumps({"status": status})), name


# --- a server of one's own ----------------------------------------------------------------------------------------


def test_without_a_cluster_they_are_read_with_kubectl_and_lead_to_the_catalog(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    catalog_of(tmp_path / "one", "1.0.0")
    (tmp_path / "repositories.yaml").write_text(
        "apiVersion: config.cacheserver.dev/v1alpha1\nkind: Repository\n"
        "metadata: {name: two, namespace: other, labels: {tier: gold}, annotations: {cacheserver.dev/priority: '7'}}\n"
        "spec: {source: {directory: {path: ./one}}, publish: [Catalog], interval: 10s}\n"
    )
    server = start_server(
        *("--catalog", f"one={tmp_path / 'one'}", "--publish", "one=Catalog"),
        *("--repositories", str(tmp_path / "repositories.yaml")),
    )

    def listed() -> list[dict[str, Any]]:
        answer = ask(f"{server.url}{PATH}").json
        return [each for each in answer["items"] if "resolvedSource" in each.get("status", {})]

    until(lambda: len(listed()) == 2, within_s=20)
    one, two = listed()
    assert (one["metadata"]["name"], two["metadata"]["name"]) == ("one", "two.other")
    assert (one["spec"]["priority"], two["spec"]["priority"]) == (0, 7)
    assert two["metadata"]["labels"] == {"tier": "gold", LABEL: "two.other"}
    # Equal content, and yet a name of its own each: clients keep what they got by it.
    refs = [each["status"]["resolvedSource"]["image"]["ref"] for each in (one, two)]
    assert refs[0].partition("@")[2] == refs[1].partition("@")[2]
    assert refs[0].partition("@")[0] != refs[1].partition("@")[0]
    for each in (one, two):
        answer = ask(f"{each['status']['urls']['base']}/api/v1/all")
        assert answer.status == 200
        assert b'"schema":"olm.package"' in answer.body
    # Other content from the same source: another name, for both.
    catalog_of(tmp_path / "one", "1.0.1")
    os.kill(server.pid, signal.SIGHUP)

    def fresh() -> bool:
        return not set(refs) & {each["status"]["resolvedSource"]["image"]["ref"] for each in listed()}

    until(fresh, within_s=20)
    base = listed()[0]["status"]["urls"]["base"]
    assert b"app.v1.0.1" in ask(f"{base}/api/v1/all").body
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("NO KUBECTL FOUND: ClusterCatalogs were read without it")
    ran = subprocess.run(
        [kubectl, "--server", server.url, "--cache-dir", str(tmp_path / "cache"), "get", "clustercatalogs"],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert ran.returncode == 0, ran.stderr
    header, first, second = ran.stdout.splitlines()
    assert header.split() == ["NAME", "LASTUNPACKED", "SERVING", "AGE"]
    assert [first.split()[0], second.split()[0]] == ["one", "two.other"]


def catalog_of(directory: Path, version: str) -> None:
    """A catalog with one package."""
    directory.mkdir(exist_ok=True)
    documents = [
        {"schema": "olm.package", "name": "app", "defaultChannel": "stable"},
        {"schema": "olm.channel", "package": "app", "name": "stable", "entries": [{"name": f"app.v{version}"}]},
        {
            "schema": "olm.bundle",
            "package": "app",
            "name": f"app.v{version}",
            "image": f"r.example/app:v{version}",
            "properties": [{"type": "olm.package", "value": {"packageName": "app", "version": version}}],
        },
    ]
    (directory / "catalog.json").write_text("\n".join(json.dumps(document) for document in documents))
