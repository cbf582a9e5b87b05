"""Behind a real kube-apiserver: our manifests in it, its aggregation in front of us, its word on who may what.

Set KUBEBUILDER_ASSETS to a directory with kube-apiserver, etcd and kubectl (as `setup-envtest use -p path` prints);
without it everything here is skipped, loudly. Everything in configs/kubernetes/self-signed is applied; the Service
alone is replaced by one that leads to a server on this machine, which runs with the rights of the ServiceAccount. There
is no controller-manager, so nothing here covers garbage collection, role aggregation or the deletion of namespaces.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import shutil
import ssl
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from cacheserver.config import Defaults, from_cluster
from cacheserver.security import certs
from cacheserver.security.certs import Subject, Usage
from tests.support.asking import ask
from tests.support.certificates import Authority
from tests.support.etcd import EtcdProcess, FoundEtcd, free_ports
from tests.support.fbc import catalog
from tests.support.gitserver import GitHTTPS, GitRepository
from tests.support.kube import (
    ControllerManager,
    KubeAPIServer,
    Kubectl,
    aggregated_service,
    find_controller_manager,
    find_kube,
)
from tests.support.registry import FakeRegistry, Image, catalog_image
from tests.support.server import API, ServerProcess, run_cli
from tests.support.waiting import eventually, until

pytestmark = pytest.mark.e2e

CONFIGS: Final = Path(__file__).parents[2] / "configs"
REPOSITORY: Final = "config.cacheserver.dev/v1alpha1"
APISERVICE: Final = "v1alpha1.cacheserver.dev"
FOUND: Final = find_kube()
USERS: Final = {
    "token-of-reader": ("reader", ()),
    "token-of-limited": ("limited", ()),
    "token-of-author": ("author", ()),
    "token-of-approver": ("approver", ()),
}


def test_there_is_a_kube_apiserver_or_it_is_said_aloud() -> None:
    if FOUND is None:
        pytest.skip("NO KUBE-APISERVER FOUND: set KUBEBUILDER_ASSETS; nothing here was tested with a real one")


class Server(ServerProcess):
    """A replica behind the test's kube-apiserver, on a port that stays, with the certificate of its Secret."""

    def __init__(
        self, directory: Path, port: int, authority: Path, *arguments: str, environ: dict[str, str] | None = None
    ) -> None:
        super().__init__(directory, *arguments, environ=environ)
        self.port = port
        self.url = f"https://localhost:{port}"
        self.authority = authority

    def start(self) -> None:
        self.spawn()
        until(self._ready, within_s=30, otherwise=lambda: self.log()[-4000:])

    def _ready(self) -> bool:
        assert self.alive, self.log()[-4000:]
        try:
            return self.ask("/readyz")[0] == 200
        except OSError:
            return False

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, certificate: tuple[Path, Path] | None = None
    ) -> tuple[int, Any]:
        """Status and body (JSON decoded where it is) of one GET, without kube-apiserver between."""
        context = ssl.create_default_context(cafile=self.authority)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        answer = ask(f"{self.url}{path}", headers, context=context)
        try:
            return answer.status, answer.json
        except ValueError:
            return answer.status, answer.body.decode()


class Cluster:
    """kube-apiserver with our manifests, and one server that it leads to."""

    def __init__(self, kube: KubeAPIServer, home: Path) -> None:
        self.kube = kube
        self.home = home
        self.admin = Kubectl(kube, kube.kubeconfig())
        self.applied = ""
        self.server: Server | None = None

    def install(self, *components: str) -> None:
        """`cacheserver certs`, `kubectl apply -k`; then the Service leads to this machine. components: added."""
        shutil.copytree(CONFIGS, self.home / "configs", ignore=shutil.ignore_patterns("certificates"))
        overlay = self.home / "configs" / "kubernetes" / "self-signed"
        now = datetime.datetime.now(datetime.UTC)
        certs.write(overlay / "certificates", namespace="cacheserver", days=1, now=now)
        if components:
            overlay = overlay.parent / "own"
            overlay.mkdir()
            named = ", ".join(f"../components/{component}" for component in components)
            kustomization = f"kind: Kustomization\nresources: [../self-signed]\ncomponents: [{named}]\n"
            (overlay / "kustomization.yaml").write_text(kustomization)
        self.applied = self.admin.run("apply", "--validate=strict", "-k", str(overlay))
        self.admin.run("wait", "crd/repositories.config.cacheserver.dev", "--for=condition=Established")

    def serve(self, etcd: EtcdProcess, port: int, *more: str, environ: dict[str, str] | None = None) -> Server:
        """The server, with the ServiceAccount's rights and the Secret's certificate. more: flags."""
        held = self.admin.json("-n", "cacheserver", "get", "secret", "cacheserver-serving-tls")["data"]
        files = {name: self.home / name for name in ("tls.crt", "tls.key", "ca.crt")}
        for name, path in files.items():
            path.write_bytes(base64.b64decode(held[name]))
        self.admin.run("-n", "cacheserver", "delete", "service", "cacheserver")
        service, apiservice = aggregated_service(port, files["ca.crt"])
        self.admin.apply(service)
        patch = {"spec": {"service": apiservice["spec"]["service"]}}
        self.admin.run("patch", "apiservice", APISERVICE, "--type=merge", "-p", json.dumps(patch))
        account = self.kube.service_account_kubeconfig("cacheserver", "cacheserver")
        directory = self.home / "server"
        directory.mkdir()
        self.server = Server(
            directory,
            port,
            files["ca.crt"],
            *("--kubernetes", str(account), "--etcd", etcd.endpoint, "--data-dir", str(directory / "data")),
            *("--tls-cert-file", str(files["tls.crt"]), "--tls-key-file", str(files["tls.key"]), *more),
            environ=environ,
        )
        self.server.start()
        available, _ = self.admin.tried(
            "wait", f"apiservice/{APISERVICE}", "--for=condition=Available", "--timeout=50s"
        )
        status = "jsonpath={.status}"
        assert available, self.admin.run("get", "apiservice", APISERVICE, "-o", status) + self.server.log()[-4000:]
        return self.server

    def user(self, name: str) -> Kubectl:
        return Kubectl(self.kube, self.kube.kubeconfig(name, token=f"token-of-{name}"))

    def namespace(self) -> str:
        """A new one, in which `reader` may read and `limited` may nothing."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.admin.run("create", "namespace", name)
        self.admin.run(
            "-n", name, "create", "rolebinding", "readers", "--clusterrole=cacheserver:view", "--user=reader"
        )
        return name


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeAPIServer]:
    if FOUND is None:
        pytest.skip("NO KUBE-APISERVER FOUND: set KUBEBUILDER_ASSETS")
    server = KubeAPIServer(FOUND, tmp_path_factory.mktemp("kube"), USERS)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def cluster(kube: KubeAPIServer, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """With our manifests, without a server."""
    cluster = Cluster(kube, tmp_path_factory.mktemp("cluster"))
    cluster.install()
    return cluster


@pytest.fixture(scope="module")
def server(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The module's server, whose sources no test of another's may hurt."""
    assert FOUND is not None
    etcd = EtcdProcess(FOUND.etcd, tmp_path_factory.mktemp("etcd"))
    try:
        etcd.start()
        yield cluster.serve(etcd, free_ports(1)[0])
    finally:
        if cluster.server is not None:
            cluster.server.stop()
        etcd.stop()


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    return cluster.namespace()


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    registry = FakeRegistry()
    await registry.start()
    yield registry
    await registry.stop()


def repository(namespace: str, name: str, source: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": REPOSITORY,
        "kind": "Repository",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"source": source, **spec},
    }


def catalog_of(home: Path, *versions: str) -> bytes:
    """A catalog file with package foo."""
    return (catalog(home).package("foo", *versions).root / "foo" / "catalog.yaml").read_bytes()


def image_of(home: Path, *versions: str) -> Image:
    return catalog_image(catalog_of(home, *versions))


def oci(registry: FakeRegistry) -> dict[str, Any]:
    return {"oci": {"image": f"{registry.host}/team/catalog:v1", "insecure": True}}


async def off_the_loop(call: Callable[..., Any], *arguments: Any) -> Any:
    """Beside the loop, which may be serving the registry that the call waits for."""
    return await asyncio.to_thread(call, *arguments)


# --- the manifests ------------------------------------------------------------------------------------------------


def test_every_manifest_is_accepted_under_strict_validation(cluster: Cluster) -> None:
    lines = cluster.applied.splitlines()
    assert all(line.endswith(" created") for line in lines), cluster.applied
    kinds = {line.partition("/")[0] for line in lines}
    assert {"deployment.apps", "statefulset.apps", "networkpolicy.networking.k8s.io", "secret"} <= kinds
    assert "apiservice.apiregistration.k8s.io" in kinds


def test_a_second_apply_changes_nothing(cluster: Cluster) -> None:
    overlay = cluster.home / "configs" / "kubernetes" / "self-signed"
    again = cluster.admin.run("diff", "-k", str(overlay), "-l", "app.kubernetes.io/name=etcd")
    assert again == ""


def test_a_stream_of_certificates_is_applied_by_the_server(cluster: Cluster) -> None:
    now = datetime.datetime.now(datetime.UTC)
    stream = certs.stream(namespace="cacheserver", days=1, now=now)
    said = cluster.admin.run("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-", stdin=stream)
    assert len(said.splitlines()) == 5


def test_the_crd_is_accepted_whole(cluster: Cluster) -> None:
    crd = cluster.admin.json("get", "crd", "repositories.config.cacheserver.dev")
    conditions = {condition["type"]: condition["status"] for condition in crd["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert "NonStructuralSchema" not in conditions


GOOD: Final[Mapping[str, Any]] = {
    "oci-tag": {"source": {"oci": {"image": "registry.example/team/catalog:v4.20"}}, "interval": "1h30m"},
    "oci-port": {"source": {"oci": {"image": "localhost:5000/catalog", "insecure": True}}},
    "oci-ipv6": {"source": {"oci": {"image": "[::1]:5000/catalog:latest"}}},
    "oci-digest": {"source": {"oci": {"image": f"r.example/c@sha256:{'0' * 64}"}}},
    "oci-tag-and-digest": {"source": {"oci": {"image": f"r.example/c:v1@sha256:{'a' * 64}"}}},
    "git": {"source": {"git": {"url": "https://git.example/team/packages.git"}}, "format": "KRM", "deployment": True},
    "git-ssh": {"source": {"git": {"url": "ssh://git@git.example:2222/team/packages"}}, "secretRef": {"name": "key"}},
    "git-branch": {
        "source": {"git": {"url": "https://g.example/a", "ref": {"branch": "feature/x"}}},
        "interval": "10s",
    },
    "git-written": {
        "source": {"git": {"url": "https://g.example/a", "ref": {"branch": "main"}}},
        "format": "KRM",
        "access": "ReadWrite",
        "drafts": {"pushAfter": "0s"},
    },
    "git-tag": {"source": {"git": {"url": "https://g.example/a", "ref": {"tag": "v1.0.0"}, "directory": "a/b"}}},
    "git-commit": {"source": {"git": {"url": "https://g.example/a", "ref": {"commit": "0" * 40}}}, "suspend": True},
    "x": {"source": {"oci": {"image": "r.example/c:v1"}}, "validation": "Strict", "caSecretRef": {"name": "ca"}},
    "doors": {"source": {"oci": {"image": "r.example/c:v1"}}, "publish": ["Catalog", "Registry"]},
    "a" * 63: {"source": {"oci": {"image": "r.example/c:v1"}}},
}
OCI: Final = {"oci": {"image": "r.example/c:v1"}}
GIT_URL: Final = "https://g.example/a"
BAD: Final[Mapping[str, tuple[str, Any, str]]] = {
    "a dot in the name": ("a.b", {"source": OCI}, "no dots"),
    "a name too long": ("a" * 64, {"source": OCI}, "1 to 63"),
    "no source": ("a", {}, "spec.source: Required"),
    "an empty source": ("a", {"source": {}}, "exactly one source"),
    "two sources": ("a", {"source": {**OCI, "git": {"url": GIT_URL}}}, "exactly one source"),
    "a directory of the server": ("a", {"source": {"directory": {"path": "/etc"}}}, "directory"),
    "not an image": ("a", {"source": {"oci": {}}}, "image: Required"),
    "a scheme in an image": ("a", {"source": {"oci": {"image": "https://r.example/c:v1"}}}, "without a scheme"),
    "a password in an image": ("a", {"source": {"oci": {"image": "u:p@r.example/c:v1"}}}, "user or password"),
    "an image without a host": ("a", {"source": {"oci": {"image": "catalog"}}}, "host/repository:tag"),
    "capitals in an image": ("a", {"source": {"oci": {"image": "r.example/C:v1"}}}, "host/repository:tag"),
    "an image too long": ("a", {"source": {"oci": {"image": "r.example/" + "c" * 700}}}, "640"),
    "a file URL": ("a", {"source": {"git": {"url": "file:///etc"}}}, "https://host/path"),
    "a URL that is an option": ("a", {"source": {"git": {"url": "--upload-pack=x"}}}, "https://host/path"),
    "a host that is an option": ("a", {"source": {"git": {"url": "ssh://-oProxyCommand=x/a"}}}, "https://host/path"),
    "a password in a URL": ("a", {"source": {"git": {"url": "https://u:p@g.example/a"}}}, "user or password"),
    "a token in a URL": ("a", {"source": {"git": {"url": "https://token@g.example/a"}}}, "user or password"),
    "two refs": (
        "a",
        {"source": {"git": {"url": GIT_URL, "ref": {"branch": "a", "tag": "b"}}}},
        "exactly one of branch",
    ),
    "an empty ref": ("a", {"source": {"git": {"url": GIT_URL, "ref": {}}}}, "exactly one of branch"),
    "a branch that is an option": ("a", {"source": {"git": {"url": GIT_URL, "ref": {"branch": "-x"}}}}, "git accepts"),
    "a branch with dots": ("a", {"source": {"git": {"url": GIT_URL, "ref": {"branch": "a..b"}}}}, "git accepts"),
    "a branch with a space": ("a", {"source": {"git": {"url": GIT_URL, "ref": {"branch": "a b"}}}}, "git accepts"),
    "a short commit": ("a", {"source": {"git": {"url": GIT_URL, "ref": {"commit": "abc1234"}}}}, "commit"),
    "a directory outside": (
        "a",
        {"source": {"git": {"url": GIT_URL, "directory": "a/../.."}}},
        "inside the repository",
    ),
    "a door that is none": ("a", {"source": OCI, "publish": ["Window"]}, "Unsupported value"),
    "packages of resources behind a door": (
        "a",
        {"source": OCI, "format": "KRM", "publish": ["Catalog"]},
        "only file-based catalogs are published",
    ),
    "an interval too short": ("a", {"source": OCI, "interval": "9s"}, "10s to 168h"),
    "an interval too long": ("a", {"source": OCI, "interval": "169h"}, "10s to 168h"),
    "not a duration": ("a", {"source": OCI, "interval": "soon"}, "interval"),
    "a digest asked again": (
        "a",
        {"source": {"oci": {"image": f"r.example/c@sha256:{'0' * 64}"}}, "interval": "1h"},
        "never changes",
    ),
    "a commit asked again": (
        "a",
        {"source": {"git": {"url": GIT_URL, "ref": {"commit": "0" * 40}}}, "interval": "1h"},
        "never changes",
    ),
    "an unknown format": ("a", {"source": OCI, "format": "Helm"}, "Unsupported value"),
    "an unknown validation": ("a", {"source": OCI, "validation": "Lax"}, "Unsupported value"),
    "an image to deploy from": ("a", {"source": OCI, "deployment": True}, "from a git repository only"),
    "an image to write to": ("a", {"source": OCI, "access": "ReadWrite"}, "ReadWrite is for KRM packages on a branch"),
    "no branch to write to": (
        "a",
        {"source": {"git": {"url": GIT_URL}}, "format": "KRM", "access": "ReadWrite"},
        "ReadWrite is for KRM packages on a branch",
    ),
    "a format that is found out, to write to": (
        "a",
        {"source": {"git": {"url": GIT_URL, "ref": {"branch": "main"}}}, "access": "ReadWrite"},
        "ReadWrite is for KRM packages on a branch",
    ),
    "an unknown access": ("a", {"source": OCI, "access": "WriteOnly"}, "Unsupported value"),
    "drafts that wait too long": ("a", {"source": OCI, "drafts": {"pushAfter": "31s"}}, "between 0s and 30s"),
    "a Secret without a name": ("a", {"source": OCI, "secretRef": {}}, "name: Required"),
    "a field that does not exist": ("a", {"source": OCI, "intervall": "1h"}, "unknown field"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_repository_is_accepted(name: str, cluster: Cluster) -> None:
    spec = GOOD[name]
    document = repository("default", name, spec["source"], **{k: v for k, v in spec.items() if k != "source"})
    cluster.admin.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(document))


@pytest.mark.parametrize("name", GOOD)
def test_the_server_reads_what_the_crd_accepts(name: str) -> None:
    found = from_cluster({**repository("default", name, {}), "spec": GOOD[name]}, Defaults())
    assert (found.key.namespace, found.key.name) == ("default", name)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_repository_is_refused_with_a_reason(case: str, cluster: Cluster) -> None:
    name, spec, reason = BAD[case]
    document = {**repository("default", name, {}), "spec": spec}
    assert reason in cluster.admin.refused("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(document))


def test_defaults_are_few_and_columns_tell_the_source_and_the_state(cluster: Cluster, namespace: str) -> None:
    cluster.admin.apply(
        repository(namespace, "image", {"oci": {"image": "r.example/c:v1"}}, suspend=True),
        repository(namespace, "packages", {"git": {"url": "https://g.example/a"}}, format="KRM", suspend=True),
    )
    found = cluster.admin.json("-n", namespace, "get", "crepo", "image")["spec"]
    assert found == {
        "source": {"oci": {"image": "r.example/c:v1", "insecure": False}},
        "format": "Auto",
        "deployment": False,
        "suspend": True,
    }
    table = cluster.admin.run("-n", namespace, "get", "repositories", "-o", "wide").splitlines()
    assert table[0].split() == [
        "NAME", "SOURCE", "READY", "REASON", "DEGRADED", "PACKAGES", "REVISIONS", "SYNCED", "STATUS", "DIGEST",
        "INTERVAL", "SUSPENDED", "PUBLISHED",
    ]  # fmt: skip
    assert [line.split()[:2] for line in table[1:]] == [
        ["image", "r.example/c:v1"],
        ["packages", "https://g.example/a"],
    ]
    selected = cluster.admin.run("-n", namespace, "get", "crepo", "--field-selector=spec.format=KRM", "-o", "name")
    assert selected.split() == ["repository.config.cacheserver.dev/packages"]
    assert "crepo" in cluster.admin.run("api-resources", "--categories=catalog", "--api-group=config.cacheserver.dev")
    assert "at least 10s" in cluster.admin.run("explain", "repository.spec.interval")


def test_the_service_account_may_do_what_it_needs_and_no_more(cluster: Cluster) -> None:
    account = "--as=system:serviceaccount:cacheserver:cacheserver"
    for verb, what, namespace in (
        ("list", "repositories.config.cacheserver.dev", "--all-namespaces"),
        ("watch", "repositories.config.cacheserver.dev", "--all-namespaces"),
        ("patch", "repositories.config.cacheserver.dev", "--namespace=default"),  # its finalizer
        ("patch", "repositories.config.cacheserver.dev", "--subresource=status"),
        ("create", "events", "--namespace=default"),
        ("create", "tokenreviews.authentication.k8s.io", "--all-namespaces"),
        ("create", "subjectaccessreviews.authorization.k8s.io", "--all-namespaces"),
        ("watch", "configmap/extension-apiserver-authentication", "--namespace=kube-system"),
    ):
        assert cluster.admin.run("auth", "can-i", verb, what, namespace, account).strip() == "yes", (verb, what)
    for verb, what, namespace in (
        ("update", "repositories.config.cacheserver.dev", "--namespace=default"),
        ("delete", "repositories.config.cacheserver.dev", "--namespace=default"),
        ("get", "secrets", "--namespace=default"),
        ("list", "secrets", "--all-namespaces"),
        ("list", "configmaps", "--namespace=kube-system"),
        ("get", "packages.cacheserver.dev", "--namespace=default"),
        ("impersonate", "users", "--all-namespaces"),
    ):
        allowed, said = cluster.admin.tried("auth", "can-i", verb, what, namespace, account)
        assert not allowed, (verb, what, said)


# --- the aggregation ----------------------------------------------------------------------------------------------


def test_the_apiservice_is_available_and_discovered(server: Server, cluster: Cluster) -> None:
    found = cluster.admin.json("get", "apiservice", APISERVICE)
    assert found["status"]["conditions"][0]["status"] == "True"
    assert found["spec"]["caBundle"]

    def listed() -> set[str]:
        rows = cluster.admin.run("api-resources", "--api-group=cacheserver.dev", "--no-headers").splitlines()
        return {row.split()[0] for row in rows}

    # kube-apiserver asks an APIService for its discovery in its own time.
    wanted = {"packages", "packagerevisions", "packagerevisionresources", "packagesearches", "packagechanges"}
    until(lambda: listed() == wanted, within_s=30, otherwise=lambda: str(listed()))


async def test_openapi_is_merged_for_explain(server: Server, cluster: Cluster) -> None:
    async def explained() -> bool:
        fine, said = await off_the_loop(cluster.admin.tried, "explain", "package.status.channels")
        return bool(fine and "headVersion" in said)

    await eventually(explained, within_s=30)


async def test_packages_appear_after_a_repository_is_applied(
    server: Server, cluster: Cluster, namespace: str, registry: FakeRegistry, tmp_path: Path
) -> None:
    await registry.push(image_of(tmp_path / "catalog", "1.0.0", "1.1.0"), "team/catalog", "v1")
    await off_the_loop(cluster.admin.apply, repository(namespace, "community", oci(registry)))
    await off_the_loop(
        cluster.admin.run, "-n", namespace, "wait", "crepo/community", "--for=condition=Ready", "--timeout=30s"
    )
    reader = cluster.user("reader")
    rows = (await off_the_loop(reader.run, "-n", namespace, "get", "packages", "--no-headers")).splitlines()
    assert [row.split()[:4] for row in rows] == [["community.foo", "community", "foo", "1.1.0"]]
    status = (await off_the_loop(cluster.admin.json, "-n", namespace, "get", "crepo", "community"))["status"]
    assert (status["packages"], status["observedGeneration"]) == (1, 1)
    assert status["digest"].startswith("sha256:")
    package = (await off_the_loop(cluster.admin.json, "-n", namespace, "get", "package", "community.foo"))["metadata"]
    assert "ownerReferences" not in package
    described = await off_the_loop(cluster.admin.run, "-n", namespace, "describe", "crepo", "community")
    assert "Events:" in described


async def test_a_git_repository_is_read_with_the_authority_of_a_secret(
    server: Server, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    content = GitRepository(tmp_path / "served" / "repo.git")
    content.commit({"foo/catalog.yaml": catalog_of(tmp_path / "catalog", "1.0.0")})
    authority = Authority(tmp_path / "pki")
    with GitHTTPS(tmp_path / "served", authority.issue("git")) as git:
        source = {"git": {"url": f"{git.origin}/repo.git", "ref": {"branch": "main"}}}
        trusting = repository(namespace, "packages", source, format="FBC", caSecretRef={"name": "ca"})
        secret = ("create", "secret", "generic", "ca", f"--from-file=ca.crt={authority.certificate}")
        await off_the_loop(cluster.admin.run, "-n", namespace, *secret)
        await off_the_loop(cluster.admin.apply, trusting)

        async def says(reason: str) -> bool:
            path = "jsonpath={.status.conditions[?(@.type=='Ready')].reason}"
            said = await off_the_loop(cluster.admin.run, "-n", namespace, "get", "crepo", "packages", "-o", path)
            return bool(said == reason)

        await eventually(lambda: says("SecretForbidden"), within_s=30)
        binding = ("create", "rolebinding", "secrets", "--clusterrole=cacheserver:secrets")
        account = "--serviceaccount=cacheserver:cacheserver"
        await off_the_loop(cluster.admin.run, "-n", namespace, *binding, account)
        ask = ("annotate", "crepo", "packages", "cacheserver.dev/requestedAt=now")
        await off_the_loop(cluster.admin.run, "-n", namespace, *ask)
        await eventually(lambda: says("Synced"), within_s=60)
        found = await off_the_loop(cluster.admin.run, "-n", namespace, "get", "packages", "-o", "name")
        assert found.split() == ["package.cacheserver.dev/packages.foo"]


async def test_objects_of_a_deleted_repository_are_deleted(
    server: Server, cluster: Cluster, namespace: str, registry: FakeRegistry, tmp_path: Path
) -> None:
    await registry.push(image_of(tmp_path / "catalog", "1.0.0", "1.1.0"), "team/catalog", "v1")
    await off_the_loop(cluster.admin.apply, repository(namespace, "gone", oci(registry)))
    wait = ("wait", "crepo/gone", "--for=condition=Ready", "--timeout=30s")
    await off_the_loop(cluster.admin.run, "-n", namespace, *wait)
    watch = ("get", "packages", "--watch", "--output-watch-events", "--no-headers")
    watching = cluster.admin.start("-n", namespace, *watch)
    try:
        assert (await next_line(watching))[:2] == ["ADDED", "gone.foo"]
        await off_the_loop(cluster.admin.run, "-n", namespace, "delete", "crepo", "gone")
        assert (await next_line(watching))[:2] == ["DELETED", "gone.foo"]
    finally:
        watching.kill()
        watching.communicate()


async def test_a_namespace_is_deleted_to_the_end_and_its_packages_with_it(
    server: Server, cluster: Cluster, namespace: str, registry: FakeRegistry, tmp_path: Path
) -> None:
    """With the real namespace and garbage collector controllers, which go through everything that discovery lists."""
    binary = find_controller_manager()
    if binary is None:
        pytest.skip("NO KUBE-CONTROLLER-MANAGER FOUND in KUBEBUILDER_ASSETS: nobody here deletes namespaces")
    await registry.push(image_of(tmp_path / "catalog", "1.0.0"), "team/catalog", "v1")
    await off_the_loop(cluster.admin.apply, repository(namespace, "community", oci(registry)))
    wait = ("wait", "crepo/community", "--for=condition=Ready", "--timeout=30s")
    await off_the_loop(cluster.admin.run, "-n", namespace, *wait)
    manager = ControllerManager(binary, cluster.kube)
    manager.start()
    try:
        deleted, said = await off_the_loop(
            cluster.admin.tried, "delete", "namespace", namespace, "--wait", "--timeout=50s"
        )
        assert deleted, said + manager.log()[-4000:]
        path = f"/apis/cacheserver.dev/v1alpha1/namespaces/{namespace}/packages"

        async def empty() -> bool:
            return not json.loads(await off_the_loop(cluster.admin.run, "get", "--raw", path))["items"]

        await eventually(empty, within_s=20)
    finally:
        manager.stop()


async def next_line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return (await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 30)).split()


# --- who may what -------------------------------------------------------------------------------------------------


def test_rights_are_the_clusters(server: Server, cluster: Cluster, namespace: str) -> None:
    reader, limited = cluster.user("reader"), cluster.user("limited")
    assert reader.run("-n", namespace, "get", "packages", "-o", "name") == ""
    assert "Forbidden" in limited.refused("-n", namespace, "get", "packages")
    assert "Forbidden" in reader.refused("-n", "default", "get", "packages")


def test_the_server_asks_for_itself_who_calls_and_what_they_may(server: Server, namespace: str) -> None:
    """Without kube-apiserver between: our own authentication and authorization."""
    path = f"{API}/namespaces/{namespace}/packages"
    assert server.ask(path, {"Authorization": "Bearer token-of-reader"})[0] == 200
    status, said = server.ask(path, {"Authorization": "Bearer token-of-limited"})
    assert (status, said["reason"]) == (403, "Forbidden")
    assert said["message"] == (
        'packages.cacheserver.dev is forbidden: User "limited" cannot list resource "packages" in API group '
        f'"cacheserver.dev" in the namespace "{namespace}"'
    )
    status, said = server.ask(path, {"Authorization": "Bearer nobody-knows-this"})
    assert (status, said["reason"]) == (401, "Unauthorized")
    assert server.ask(path)[0] == 401


def test_a_forged_front_proxy_header_grants_nothing(server: Server, cluster: Cluster, namespace: str) -> None:
    path = f"{API}/namespaces/{namespace}/packages"
    forged = {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"}
    assert server.ask(path, forged)[0] == 401
    assert server.ask(path, {**forged, "Authorization": "Bearer token-of-limited"})[0] == 403
    limited = cluster.kube.certificates.issue("client", Subject("limited", Usage.CLIENT))
    assert server.ask(path, forged, limited)[0] == 403


def test_a_client_certificate_of_the_cluster_names_the_user(server: Server, cluster: Cluster, namespace: str) -> None:
    path = f"{API}/namespaces/{namespace}/packages"
    reader = cluster.kube.certificates.issue("client", Subject("reader", Usage.CLIENT))
    assert server.ask(path, certificate=reader)[0] == 200
    masters = cluster.kube.certificates.issue("client", Subject("any", Usage.CLIENT, groups=("system:masters",)))
    assert server.ask(path, certificate=masters)[0] == 200


def test_only_a_front_proxy_of_the_right_name_speaks_for_others(
    server: Server, cluster: Cluster, namespace: str
) -> None:
    path = f"{API}/namespaces/{namespace}/packages"
    other = cluster.kube.certificates.issue("requestheader", Subject("somebody-else", Usage.CLIENT))
    assert server.ask(path, {"X-Remote-User": "reader"}, other)[0] == 401
    proxy = cluster.kube.certificates.issue("requestheader", Subject("tried-proxy", Usage.CLIENT))
    assert server.ask(path, {"X-Remote-User": "reader"}, proxy)[0] == 401


def test_health_is_told_to_probes_without_credentials(server: Server) -> None:
    """kubelet's probes bring none."""
    for path in ("/livez", "/readyz", "/healthz"):
        assert server.ask(path) == (200, "ok")
    assert server.ask("/metrics")[0] == 401


def test_metrics_are_for_whoever_may_get_them(server: Server, cluster: Cluster) -> None:
    assert server.ask("/metrics", {"Authorization": "Bearer token-of-limited"})[0] == 403
    component = CONFIGS / "kubernetes" / "components" / "monitoring" / "access.yaml"
    role, binding = yaml.safe_load_all(component.read_text())
    binding["subjects"] = [{"kind": "User", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}]
    cluster.admin.apply(role, binding)
    status, said = server.ask("/metrics", {"Authorization": "Bearer token-of-reader"})
    assert status == 200
    assert "apiserver_request_total" in said


# --- the doctor ---------------------------------------------------------------------------------------------------


def diagnosis(server: Server, *flags: str) -> tuple[int, dict[str, str]]:
    """Exit code, and check -> the rest of its row."""
    ran = run_cli("doctor", *flags, cwd=server.directory)
    assert not ran.stderr, ran.stderr
    lines = [line.split("   ", 1) for line in ran.stdout.splitlines()[1:]]
    return ran.returncode, {check: rest.strip() for check, rest in lines}


async def test_the_doctor_finds_a_good_installation_good(
    server: Server, cluster: Cluster, namespace: str, registry: FakeRegistry, tmp_path: Path
) -> None:
    await registry.push(image_of(tmp_path / "catalog", "1.0.0"), "team/catalog", "v1")
    await off_the_loop(cluster.admin.apply, repository(namespace, "fine", oci(registry)))
    wait = ("wait", "crepo/fine", "--for=condition=Ready", "--timeout=30s")
    await off_the_loop(cluster.admin.run, "-n", namespace, *wait)
    code, found = await off_the_loop(diagnosis, server, *server.arguments)
    endpoint = next(check for check in found if check.endswith("version")).removesuffix(" version")
    troubled = {
        check: said for check, said in found.items() if said.split()[0] == "FAILED" and "repository" not in check
    }
    assert troubled == {}
    assert {check: said.split()[0] for check, said in found.items()}.items() >= {
        "serving certificate": "warning",  # the test's lives a day
        "kube-apiserver": "ok",
        "APIService": "ok",
        "CA bundle": "ok",
        "CA bundle vouches for us": "ok",
        "RBAC": "ok",
        f"{endpoint} latency": "ok",
        f"{endpoint} size": "ok",
    }.items()
    assert code in (0, 1)  # other tests' repositories are not ready on purpose


def test_the_doctor_names_what_is_wrong_and_what_to_do(server: Server, cluster: Cluster, tmp_path: Path) -> None:
    foreign = certs.Authority.create("foreign", now=datetime.datetime.now(datetime.UTC))
    pair = foreign.issue(Subject("x", Usage.SERVER, dns=("other",)), now=datetime.datetime.now(datetime.UTC), days=100)
    (tmp_path / "tls.crt").write_bytes(pair.certificate)
    (tmp_path / "tls.key").write_bytes(pair.key)
    admin = cluster.kube.kubeconfig()
    code, found = diagnosis(
        server,
        *("--kubernetes", str(admin), "--etcd", "http://127.0.0.1:1"),
        *("--tls-cert-file", str(tmp_path / "tls.crt"), "--tls-key-file", str(tmp_path / "tls.key")),
    )
    assert code == 1
    assert found["serving certificate"].startswith("ok")
    assert found["CA bundle vouches for us"].startswith("FAILED")
    assert "cacheserver-serving" in found["CA bundle vouches for us"]
    assert found["RBAC"].startswith("ok"), "asked for the server's account, not for the administrator"
    assert found["etcd 127.0.0.1:1"].startswith("FAILED")


def test_the_doctor_names_the_role_that_is_not_bound(server: Server, cluster: Cluster) -> None:
    cluster.admin.run("delete", "clusterrolebinding", "cacheserver:auth-delegator")
    try:
        code, found = diagnosis(server, "--kubernetes", str(cluster.kube.kubeconfig()))
    finally:
        overlay = cluster.home / "configs" / "kubernetes" / "base" / "rbac-server.yaml"
        cluster.admin.run("apply", "-f", str(overlay))
    assert code == 1
    assert "may not create" in found["RBAC"]
    assert "system:auth-delegator" in found["RBAC"]


async def test_requests_go_on_while_the_front_proxys_authority_rotates(server: Server, cluster: Cluster) -> None:
    """As an operator does it: trust both, show the new certificate, trust the new one alone."""
    pki, path = cluster.kube.certificates, f"{API}/packages"
    file = pki.authority("requestheader")
    old = file.read_bytes()
    proxy = Subject("front-proxy-client", Usage.CLIENT)
    shown_before = pki.issue("requestheader", proxy, stem="shown-before")
    new = pki.authority("requestheader", anew=True).read_bytes()
    shown_after = pki.issue("requestheader", proxy, stem="shown-after")

    async def trusted(certificate: tuple[Path, Path]) -> bool:
        """Whether the server lets it speak for others. A stranger's fails the handshake."""
        masters = {"X-Remote-User": "any", "X-Remote-Group": "system:masters"}
        try:
            status, _ = await off_the_loop(server.ask, path, masters, certificate)
        except OSError:
            return False
        return bool(status == 200)

    failed: list[str] = []
    done = asyncio.Event()

    async def ask_all_the_time() -> None:
        while not done.is_set():
            fine, said = await off_the_loop(cluster.admin.tried, "get", "--raw", path)
            if not fine:
                failed.append(said)

    async with asyncio.TaskGroup() as group:
        group.create_task(ask_all_the_time(), name="asking")
        try:
            assert await trusted(shown_before)
            replace(file, old + new)
            await eventually(lambda: trusted(shown_after), within_s=90)
            loaded = cluster.kube.log().count("Loaded a new cert/key pair")
            pki.issue("requestheader", proxy)
            await eventually(lambda: cluster.kube.log().count("Loaded a new cert/key pair") > loaded, within_s=90)
            replace(file, new)
            # kube-apiserver only ever adds to what it publishes, until an authority ends; people take away.
            config = {"data": {"requestheader-client-ca-file": new.decode()}}
            patch = (
                "patch",
                "configmap",
                "extension-apiserver-authentication",
                "--type=merge",
                "-p",
                json.dumps(config),
            )

            async def distrusted() -> bool:
                await off_the_loop(cluster.admin.run, "-n", "kube-system", *patch)
                return not await trusted(shown_before)

            await eventually(distrusted, within_s=90)
            assert await trusted(shown_after)
            for _ in range(5):
                await off_the_loop(cluster.admin.run, "get", "--raw", path)
        finally:
            done.set()
    assert failed == []


def replace(path: Path, content: bytes) -> None:
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    beside.replace(path)


# The last one: it takes rights away from the account that the module's server uses, too.
async def test_an_installation_with_rights_in_one_namespace_serves_that_one(
    server: Server, cluster: Cluster, registry: FakeRegistry, etcd_binary: FoundEtcd, tmp_path: Path
) -> None:
    assert server.arguments[0] == "--kubernetes"
    elsewhere = cluster.namespace()
    for command in (
        ("create", "namespace", "packages"),
        ("delete", "clusterrolebinding", "cacheserver:controller"),
        ("apply", "-f", str(CONFIGS / "kubernetes" / "namespaced" / "namespaces.yaml")),
    ):
        await off_the_loop(cluster.admin.run, *command)
    await registry.push(image_of(tmp_path / "catalog", "1.0.0"), "team/catalog", "v1")
    here = [repository(namespace, "r", oci(registry)) for namespace in ("packages", elsewhere)]
    await off_the_loop(cluster.admin.apply, *here)
    (tmp_path / "etcd").mkdir()
    (tmp_path / "namespaced").mkdir()
    etcd = EtcdProcess(etcd_binary, tmp_path / "etcd")
    flags = server.arguments[server.arguments.index("--tls-cert-file") :]
    single = Server(
        tmp_path / "namespaced",
        free_ports(1)[0],
        server.authority,
        *(*server.arguments[:2], "--etcd", etcd.endpoint, "--data-dir", str(tmp_path / "namespaced" / "data"), *flags),
        *("--watch-namespaces", "packages"),
    )
    masters = cluster.kube.certificates.issue("client", Subject("any", Usage.CLIENT, groups=("system:masters",)))

    def names() -> list[str]:
        status, found = single.ask(f"{API}/packages", certificate=masters)
        assert status == 200, found
        return [f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in found["items"]]

    try:
        etcd.start()
        await off_the_loop(single.start)

        async def there() -> bool:
            return bool(await off_the_loop(names) == ["packages/r.foo"])

        await eventually(there, within_s=30)
        wait = ("wait", "crepo/r", "--for=condition=Ready", "--timeout=30s")
        await off_the_loop(cluster.admin.run, "-n", "packages", *wait)
    finally:
        single.stop()
        etcd.stop()
