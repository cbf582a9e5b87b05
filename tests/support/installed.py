"""Our manifests on a node, installed as docs/cluster.md says, with a git server in the same cluster.

Used by tests/node. Knows what users type and ask; the node itself is tests.support.node's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any, Final, Self

from cacheserver.security.certs import Subject, Usage
from tests.support.asking import Answer, ask
from tests.support.gitserver import GitRepository
from tests.support.node import NAME, Node

ROOT: Final = Path(__file__).parents[2]
HERE: Final = ROOT / "tests" / "node"
API: Final = "/apis/cacheserver.dev/v1alpha1"
DOORS: Final = ("catalogs", "registry", "packagemanifests", "rukpak", "catalogsources")
VIEWS: Final = ("v1.packages.operators.coreos.com", "v1alpha1.core.rukpak.io")
"""APIServices of doors."""
GIT: Final = "git.git.svc"
_PATIENCE_S: Final = 500
"""With a machine that has other things to do; nothing here is judged by its time."""
PACKAGES: Final = 5
"""In examples/catalogs."""


class Installed:
    """A cluster with our manifests, from a copy of configs in `home`. admin: of everything; kubeconfig: its file."""

    def __init__(self, node: Node, home: Path) -> None:
        self.node = node
        self.home = home
        self.admin = node.admin
        self.kubeconfig = node.admin_file
        certificates = node.kube.certificates
        self._context = ssl.create_default_context(cafile=certificates.authority("server"))
        self._context.load_cert_chain(
            *certificates.issue("client", Subject("reader", Usage.CLIENT, groups=("system:masters",)))
        )

    def prepare(self) -> None:
        """What the page supposes: a checkout that names the image, and a volume for etcd."""
        for name in ("configs", "docs"):
            shutil.copytree(ROOT / name, self.home / name, ignore=shutil.ignore_patterns("certificates"))
        base = self.home / "configs" / "kubernetes" / "base" / "kustomization.yaml"
        name, _, tag = self.node.images["cacheserver"].rpartition(":")
        text = re.sub(r"newName: .*", f"newName: {name}", base.read_text())
        base.write_text(re.sub(r"newTag: .*", f"newTag: {tag}", text))
        volume = self.home / "volume"
        volume.mkdir()
        affinity = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}]}
        self.admin.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": "local"},
                "spec": {
                    "capacity": {"storage": "20Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "local": {"path": str(volume)},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [affinity]}},
                },
            }
        )

    def type(self, script: str) -> str:
        """Runs commands as somebody types them in the checkout; what they say, all of them ended with 0."""
        tools = [str(self.node.kube.kubectl.parent), str(ROOT / ".venv" / "bin"), os.environ["PATH"]]
        environ = {"PATH": os.pathsep.join(tools), "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home)}
        done = subprocess.run(
            ["sh", "-ec", script], cwd=self.home, env=environ, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.told()
        return done.stdout

    def add_doors(self) -> None:
        """An overlay as users write one; the caBundle of their APIServices as the components say."""
        overlay = self.home / "configs" / "kubernetes" / "own"
        overlay.mkdir()
        named = ", ".join(f"../components/{door}" for door in DOORS)
        (overlay / "kustomization.yaml").write_text(
            f"kind: Kustomization\nresources: [../self-signed]\ncomponents: [{named}]\n"
        )
        self.type("kubectl apply -k configs/kubernetes/own")
        trusted = self.admin.json("get", "apiservice", "v1alpha1.cacheserver.dev")["spec"]["caBundle"]
        for name in VIEWS:
            patch = json.dumps({"spec": {"caBundle": trusted}})
            self.admin.run("patch", "apiservice", name, "--type=merge", "-p", patch)
        self.settle()

    def add_git(self, scratch: Path) -> None:
        """A git server in namespace git, and in `packages` what is needed to name it in a Repository."""
        run = self.admin.run
        certificates = self.node.kube.certificates
        pair = certificates.issue("git", Subject("git", Usage.SERVER, dns=(GIT,)))
        authority = certificates.authority("git")
        for namespace in ("git", "packages"):
            run("create", "namespace", namespace)
        run("-n", "git", "create", "secret", "tls", "tls", f"--cert={pair[0]}", f"--key={pair[1]}")
        run("-n", "git", "create", "configmap", "program", f"--from-file={HERE / 'git_server.py'}")
        seeds = [_bundle(scratch, name) for name in ("authoring/blueprints", "catalogs")]
        run("-n", "git", "create", "configmap", "seeds", *(f"--from-file={seed}" for seed in seeds))
        pods = (HERE / "git_server.yaml").read_text().replace("IMAGE", self.node.images["cacheserver"])
        run("apply", "-f", "-", stdin=pods)
        run("-n", "git", "rollout", "status", "deployment/git", "--timeout=120s", timeout_s=150)
        run("-n", "packages", "create", "secret", "generic", "ca", f"--from-file=ca.crt={authority}")
        login = ("--from-literal=username=bot", "--from-literal=password=s3cret")
        run("-n", "packages", "create", "secret", "generic", "bot", *login)
        account = "--serviceaccount=cacheserver:cacheserver"
        run("-n", "packages", "create", "rolebinding", "secrets", "--clusterrole=cacheserver:secrets", account)
        publish = {"publish": ["Catalog", "Registry", "PackageManifest", "Rukpak"]}
        for name, spec in (
            ("community", {"format": "FBC", **publish}),
            ("blueprints", {"format": "KRM"}),
            ("edge", {"format": "KRM", "deployment": True, "drafts": {"pushAfter": "30s"}}),
        ):
            url = f"https://{GIT}/{'catalogs' if name == 'community' else name}.git"
            source = {"git": {"url": url, **({"ref": {"branch": "main"}} if name == "edge" else {})}}
            secrets = {"secretRef": {"name": "bot"}, "caSecretRef": {"name": "ca"}}
            manifest = {
                "apiVersion": "config.cacheserver.dev/v1alpha1",
                "kind": "Repository",
                "metadata": {"name": name, "namespace": "packages"},
                "spec": {"source": source, **secrets, **spec},
            }
            self.admin.apply(manifest)
        run("-n", "packages", "wait", "crepo", "--all", "--for=condition=Ready", "--timeout=300s", timeout_s=320)

    def uninstall(self) -> None:
        """docs/uninstalling.md, From a cluster, word for word, but for the directory; then nothing of ours is there."""
        copy, repositories, _where_one_stays, everything, _serving_alone = shown(
            self.home / "docs" / "uninstalling.md", "## From a cluster"
        )
        self.type(copy + repositories + everything.replace("configs/kubernetes/default", "configs/kubernetes/own"))
        kinds = "crd,apiservice,clusterrole,clusterrolebinding,namespace"
        left = self.admin.run("get", kinds, "-l", "app.kubernetes.io/part-of=cacheserver", "-o", "name")
        assert left == ""

    def settle(self) -> None:
        """Returns when all that was asked for runs, and is served."""
        workloads = ("statefulset/etcd", "deployment/cacheserver")
        for each in workloads:
            fine, said = self.admin.tried(
                *("-n", "cacheserver", "rollout", "status", each, f"--timeout={_PATIENCE_S}s"),
                timeout_s=_PATIENCE_S + 20,
            )
            assert fine, said + self.told()
        available = ("wait", "apiservice", "--all", "--for=condition=Available", f"--timeout={_PATIENCE_S}s")
        self.admin.run(*available, timeout_s=_PATIENCE_S + 20)

    def ask(self, path: str) -> Answer:
        """A GET through kube-apiserver, by an administrator."""
        return ask(f"{self.node.kube.url}{path}", context=self._context, timeout_s=30)

    def in_git(self, *arguments: str) -> str:
        return self.admin.run("-n", "git", "exec", "deploy/git", "--", "git", "--git-dir=/srv/edge.git", *arguments)

    def in_server(self, *command: str, pod: str = "deploy/cacheserver") -> str:
        return self.admin.run("-n", "cacheserver", "exec", pod, "--", *command)

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Of cacheserver or etcd, without those that end."""
        label = f"app.kubernetes.io/name={name}"
        found = self.admin.json("-n", "cacheserver", "get", "pods", "-l", label)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def told(self) -> str:
        """What the cluster says of what does not run."""
        logs = [
            self.admin.tried("-n", "cacheserver", "logs", f"--selector={each}", "--tail=20", "--prefix")[1]
            for each in ("app.kubernetes.io/name=cacheserver", "app.kubernetes.io/name=etcd")
        ]
        return "\n".join(
            (self.admin.tried("get", "pods", "-A", "-o", "wide")[1], self.admin.tried("get", "events", "-A")[1], *logs)
        )


def _bundle(scratch: Path, examples: str) -> Path:
    """A git bundle of that directory of examples."""
    directory = ROOT / "examples" / examples
    name = directory.name
    files = {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}
    repository = GitRepository(scratch / f"{name}.git")
    repository.commit(files)
    repository.tag("site/v1")
    repository.git("bundle", "create", str(scratch / f"{name}.bundle"), "--all", "HEAD")
    return scratch / f"{name}.bundle"


def shown(page: Path, heading: str) -> list[str]:
    """The blocks of commands in that section of a page."""
    text = page.read_text().partition(f"\n{heading}\n")[2]
    return re.findall(r"^```sh\n(.*?)^```", text.partition("\n## ")[0], re.MULTILINE | re.DOTALL)


class Reader:
    """Lists packages all the time while the block lasts, each time on a connection of its own.

    read: how often; failed: what was wrong.
    """

    def __init__(self, installed: Installed) -> None:
        self._installed = installed
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.read = 0
        self.failed: list[str] = []

    def _read(self) -> None:
        while not self._ended.wait(0.05):
            try:
                answer = self._installed.ask(
                    f"{API}/namespaces/packages/packages?labelSelector=cacheserver.dev/repository=community"
                )
            except OSError as exc:
                self.failed.append(repr(exc))
                continue
            self.read += 1
            if answer.status != 200:
                self.failed.append(f"{answer.status}: {answer.body[:300].decode(errors='replace')}")
            elif len(answer.json["items"]) != PACKAGES:
                self.failed.append(f"{len(answer.json['items'])} packages")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
