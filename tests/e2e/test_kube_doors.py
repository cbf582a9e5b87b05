"""Doors of the aggregated API in a real cluster: their components as they are shipped, and the quickstart of
rukpak-packageserver word for word, with an image from a registry.

Set KUBEBUILDER_ASSETS, as for test_kube_apiserver.py; without it this is skipped, loudly. Nothing aggregates roles
there, so users are bound to the roles that would be aggregated.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.test_kube_apiserver import FOUND, Cluster, image_of, kube, off_the_loop, repository
from tests.support.certificates import Authority
from tests.support.etcd import EtcdProcess, free_ports
from tests.support.fbc import CATALOG_SOURCE, catalog
from tests.support.kube import KubeAPIServer, Kubectl
from tests.support.registry import FakeRegistry, catalog_image
from tests.support.waiting import eventually, until

__all__ = ["kube"]  # a fixture

pytestmark = pytest.mark.e2e

COMPONENTS: Final = ("catalogs", "registry", "packagemanifests", "rukpak", "catalogsources")
APISERVICES: Final = ("v1.packages.operators.coreos.com", "v1alpha1.core.rukpak.io")
SETTINGS: Final = ("CACHESERVER_RUKPAK", "CACHESERVER_CATALOG_SOURCES", "CACHESERVER_PACKAGEMANIFESTS")
"""Those of the Deployment that the server here is given, and others that begin so."""
ROLES: Final = ("packagemanifests", "rukpak", "catalogsources-view", "catalogsources-edit", "view")
NAMES: Final = ["3scale-community-operator", "ack-ec2-controller"]


def test_there_is_a_kube_apiserver_or_it_is_said_aloud() -> None:
    if FOUND is None:
        pytest.skip("NO KUBE-APISERVER FOUND: set KUBEBUILDER_ASSETS; doors were not tested behind a real one")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Of registries, which the server trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def doors(kube: KubeAPIServer, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With the components, and a server with their settings that all APIServices lead to."""
    assert FOUND is not None
    cluster = Cluster(kube, tmp_path_factory.mktemp("cluster"))
    cluster.install(*COMPONENTS)
    deployment = cluster.admin.json("-n", "cacheserver", "get", "deployment", "cacheserver")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    environ = {each["name"]: each["value"] for each in container["env"] if each["name"].startswith(SETTINGS)}
    assert len(environ) == 4
    etcd = EtcdProcess(FOUND.etcd, tmp_path_factory.mktemp("etcd"))
    try:
        etcd.start()
        trusts = {"SSL_CERT_FILE": str(authority.certificate)}
        server = cluster.serve(etcd, free_ports(1)[0], environ={**environ, **trusts})
        service = {"name": "cacheserver", "namespace": "cacheserver", "port": server.port}
        trusted = base64.b64encode(server.authority.read_bytes()).decode()
        patch = json.dumps({"spec": {"service": service, "caBundle": trusted}})
        for name in APISERVICES:
            cluster.admin.run("patch", "apiservice", name, "--type=merge", "-p", patch)
        yield cluster
    finally:
        if cluster.server is not None:
            cluster.server.stop()
        etcd.stop()


@pytest.fixture
async def registry(authority: Authority) -> AsyncIterator[FakeRegistry]:
    registry = FakeRegistry()
    await registry.start(tls=authority.issued("registry"))
    yield registry
    await registry.stop()


def author(doors: Cluster, namespace: str) -> Kubectl:
    """Who may edit that namespace, and nothing else."""
    doors.admin.run("create", "namespace", namespace)
    for role in ROLES:
        binding = ("create", "rolebinding", role, f"--clusterrole=cacheserver:{role}", "--user=author")
        doors.admin.run("-n", namespace, *binding)
    return doors.user("author")


def rows(printed: str) -> list[list[str]]:
    """Of a table, without its last column, the age."""
    return [line.split()[:-1] for line in printed.splitlines()]


def condition(kubectl: Kubectl, name: str, namespace: str) -> dict[str, Any]:
    [found] = kubectl.json("-n", namespace, "get", "catalogsource", name).get("status", {}).get("conditions") or [{}]
    return dict(found)


def test_every_apiservice_of_a_door_is_available_and_discovered(doors: Cluster) -> None:
    for name in APISERVICES:
        doors.admin.run("wait", f"apiservice/{name}", "--for=condition=Available", "--timeout=50s")

    def listed() -> set[tuple[str, str]]:
        lines = [*doors.admin.run("api-resources", "--no-headers", "--verbs=list").splitlines()]
        return {(line.split()[0], line.split()[-3]) for line in lines if "rukpak" in line or "packages.oper" in line}

    wanted = {
        ("catalogsources", "core.rukpak.io/v1beta1"),
        ("catalogcaches", "core.rukpak.io/v1alpha1"),
        ("packages", "core.rukpak.io/v1alpha1"),
        ("packagemanifests", "packages.operators.coreos.com/v1"),
    }
    until(lambda: listed() == wanted, within_s=60, otherwise=lambda: str(listed()))
    for what, says in (
        ("catalogcaches.spec.operators", "bundlepath"),
        ("catalogsources.spec", "pollingInterval"),
        ("packagemanifests.status.channels", "currentCSV"),
    ):

        def explained(what: str = what, says: str = says) -> bool:
            return says in doors.admin.tried("explain", what)[1]

        until(explained, within_s=30)


async def test_the_quickstart_of_rukpak_packageserver_word_for_word(
    doors: Cluster, registry: FakeRegistry, tmp_path: Path
) -> None:
    user = await off_the_loop(author, doors, "test")
    files = catalog(tmp_path / "catalog").package(NAMES[0], "0.1.0").package(NAMES[1], "1.0.0", "1.1.0")
    content = b"\n---\n".join((files.root / name / "catalog.yaml").read_bytes() for name in NAMES)
    await registry.push(catalog_image(content), "anik120/community-operator-index", "v4.11")
    sample = tmp_path / "rukpak_catalogsource.yaml"
    sample.write_text(CATALOG_SOURCE.format(host=registry.host))

    async def run(*command: str) -> str:
        return str(await off_the_loop(user.run, *command))

    await run("apply", "--validate=strict", "-f", str(sample))

    async def there() -> bool:
        return rows(await run("get", "packages.core.rukpak.io", "-n", "test"))[1:] == [[name] for name in NAMES]

    await eventually(there, within_s=60)
    for command in ("catalogsource", "catalogcache"):
        assert rows(await run("get", command, "-n", "test")) == [["NAME"], ["catalogsource-sample"]]
    # As its README has it: a group with a definition stands before those of APIServices.
    assert rows(await run("get", "packages", "-n", "test"))[1:] == [[name] for name in NAMES]
    cache = await off_the_loop(user.json, "-n", "test", "get", "catalogcache", "catalogsource-sample")
    assert [each["name"] for each in cache["spec"]["operators"]] == [
        f"{NAMES[0]}.v0.1.0",
        f"{NAMES[1]}.v1.0.0",
        f"{NAMES[1]}.v1.1.0",
    ]

    async def told() -> bool:
        return bool((await off_the_loop(condition, user, "catalogsource-sample", "test")).get("status") == "True")

    await eventually(told, within_s=30)
    found = await off_the_loop(user.json, "-n", "test", "get", "catalogsource", "catalogsource-sample")
    assert found["status"]["latestImagePoll"]
    made = await off_the_loop(user.json, "-n", "test", "get", "crepo", "catalogsource-sample")
    assert (made["spec"]["interval"], made["spec"]["publish"]) == ("45m", ["Rukpak"])
    assert made["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]

    # Applied again it changes nothing; deleted, all of it goes.
    assert "unchanged" in await run("apply", "-f", str(sample))
    await run("delete", "-f", str(sample))

    async def gone() -> bool:
        kinds = ("crepo", "catalogcache", "packages.core.rukpak.io")
        return not any([(await off_the_loop(user.json, "-n", "test", "get", kind))["items"] for kind in kinds])

    await eventually(gone, within_s=30)


async def test_a_catalog_source_that_cannot_be_says_why(doors: Cluster) -> None:
    user = await off_the_loop(author, doors, "trouble")
    mine = repository("trouble", "taken", {"git": {"url": "https://g.example/a"}}, format="KRM", suspend=True)
    await off_the_loop(doors.admin.apply, mine)
    for name, image in (("taken", "quay.io/a/b:v1"), ("scheme", "https://quay.io/a/b")):
        await off_the_loop(user.apply, source(name, image))
    for name, why in (("taken", "made by somebody else"), ("scheme", "without a scheme")):

        async def said(name: str = name, why: str = why) -> bool:
            found = await off_the_loop(condition, user, name, "trouble")
            return bool(found.get("reason") == "Refused" and why in found["message"])

        await eventually(said, within_s=30)
    for bad in ("with.dot", "a" * 64):
        assert "is invalid" in await off_the_loop(refused, user, source(bad, "quay.io/a/b:v1"))


def source(name: str, image: str) -> dict[str, Any]:
    return {
        "apiVersion": "core.rukpak.io/v1beta1",
        "kind": "CatalogSource",
        "metadata": {"name": name, "namespace": "trouble"},
        "spec": {"image": image},
    }


def refused(user: Kubectl, manifest: dict[str, Any]) -> str:
    return user.refused("apply", "-f", "-", stdin=json.dumps(manifest))


async def test_packagemanifests_come_through_aggregation_and_go_when_they_are_published_no_more(
    doors: Cluster, registry: FakeRegistry, tmp_path: Path
) -> None:
    user = await off_the_loop(author, doors, "team")
    await off_the_loop(doors.admin.run, "create", "namespace", "olm")
    await registry.push(image_of(tmp_path / "catalog", "1.0.0"), "team/catalog", "v1")
    image = {"oci": {"image": f"{registry.host}/team/catalog:v1"}}
    await off_the_loop(doors.admin.apply, repository("olm", "hub", image, publish=["PackageManifest"]))

    def listed() -> list[list[str]]:
        fine, said = user.tried("-n", "team", "get", "packagemanifests", "--no-headers")
        return rows(said) if fine else [[said]]

    async def there() -> bool:
        return bool(await off_the_loop(listed) == [["foo", "hub"]])

    await eventually(there, within_s=60)
    assert "cannot list" in await off_the_loop(user.refused, "-n", "olm", "get", "packagemanifests")
    columns = ("--output-watch-events", "--no-headers")
    watch = await off_the_loop(user.start, "-n", "team", "get", "packagemanifests", "--watch", *columns)
    assert watch.stdout is not None
    try:
        assert (await off_the_loop(watch.stdout.readline)).split()[:2] == ["ADDED", "foo"]
        # Suspended, so that no sync can say it.
        patch = ("patch", "crepo", "hub", "--type=merge", "-p", '{"spec":{"publish":[],"suspend":true}}')
        await off_the_loop(doors.admin.run, "-n", "olm", *patch)
        assert (await off_the_loop(watch.stdout.readline)).split()[:2] == ["DELETED", "foo"]
    finally:
        watch.kill()
        watch.wait()
        watch.stdout.close()
    assert "No resources" in (await off_the_loop(user.tried, "-n", "team", "get", "packagemanifests"))[1]
