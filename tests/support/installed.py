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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from cacheserver.security.certs import Subject, Usage
from tests.support.asking import Answer, ask
from tests.support.gitserver import GitRepository
from tests.support.node import NAME, Node
from tests.support.waiting import until

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

    def prepare(self, *, members: int = 1) -> None:
        """What the page supposes: a checkout that names the image, and a volume for each member of etcd."""
        for name in ("configs", "docs"):
            shutil.copytree(ROOT / name, self.home / name, ignore=shutil.ignore_patterns("certificates"))
        base = self.home / "configs" / "kubernetes" / "base" / "kustomization.yaml"
        name, _, tag = self.node.images["cacheserver"].rpartition(":")
        text = re.sub(r"newName: .*", f"newName: {name}", base.read_text())
        base.write_text(re.sub(r"newTag: .*", f"newTag: {tag}", text))
        affinity = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}]}
        for member in range(members):
            volume = self.home / f"volume-{member}"
            volume.mkdir()
            self.admin.apply(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": f"{self.home.name}-{member}"},
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

    def add_production(self, definitions: Iterable[Mapping[str, Any]]) -> None:
        """`production` as it is, but for what keeps three members off one node, with certificates of ours.

        definitions: of the kinds of others in it, which nobody serves here.
        """
        run = self.admin.run
        run("create", "-f", "-", stdin="\n".join(map(json.dumps, definitions)))
        overlay = self.home / "configs" / "kubernetes" / "own"
        overlay.mkdir()
        patches = [_small("StatefulSet", "etcd", affinity=None), _small("Deployment", "cacheserver")]
        document = {"kind": "Kustomization", "resources": ["../production"], "patches": patches}
        (overlay / "kustomization.yaml").write_text(json.dumps(document))
        self.type(
            "cacheserver certs made\n"
            "kubectl apply -f configs/kubernetes/base/namespace.yaml\n"
            "kubectl apply -f made/secrets.yaml\n"
            "kubectl apply -k configs/kubernetes/own\n"
            "kubectl patch apiservice v1alpha1.cacheserver.dev --type=merge --patch-file=made/apiservice.yaml"
        )
        self.settle()

    def add_git(self, scratch: Path) -> None:
        """A git server in namespace git, and in `packages` what is needed to name it in a Repository; once a node."""
        run = self.admin.run
        if self.admin.tried("get", "namespace", "git")[0]:
            return
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

    def add_repositories(self) -> None:
        """community, blueprints and edge in namespace packages; returns when they are served."""
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
        ready = ("wait", "crepo", "--all", "--for=condition=Ready", "--timeout=300s")
        self.admin.run("-n", "packages", *ready, timeout_s=320)

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

    def draft(self, name: str) -> None:
        """A first one of package `name`, which etcd alone has, for half a minute (pushAfter of `edge`)."""
        spec = {"repository": "edge", "packageName": name, "workspaceName": "w"}
        kind = {"apiVersion": "cacheserver.dev/v1alpha1", "kind": "PackageRevision"}
        document = {**kind, "metadata": {"name": f"edge.{name}.w"}, "spec": spec}
        self.admin.run("-n", "packages", "create", "-f", "-", stdin=json.dumps(document))

    def stranger(self, namespace: str) -> None:
        """A pod `one` in a namespace of others, which does nothing. It has the server's label, worth nothing there."""
        container = {"name": "one", "image": self.node.images["cacheserver"], "command": ["sleep", "infinity"]}
        label = {"app.kubernetes.io/name": "cacheserver"}
        self.admin.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "one", "namespace": namespace, "labels": label},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
            },
        )
        ready = ("wait", "pod/one", "--for=condition=Ready", "--timeout=120s")
        self.admin.run("-n", namespace, *ready, timeout_s=150)

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


def _small(kind: str, name: str, **pod: Any) -> Mapping[str, str]:
    """A patch for a node with a processor or two: it asks for little, and has these fields in its pod."""
    container = {"name": name, "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}}
    spec = {"template": {"spec": {**pod, "containers": [container]}}}
    return {
        "patch": json.dumps(
            {
                "apiVersion": "apps/v1",
                "kind": kind,
                "metadata": {"name": name, "namespace": "cacheserver"},
                "spec": spec,
            }
        )
    }


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

    def go_on(self) -> None:
        """Returns when it has read some times more."""
        wanted = self.read + 20
        until(lambda: self.read >= wanted, within_s=60, otherwise=lambda: str(self.failed))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
