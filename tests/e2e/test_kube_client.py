"""Every verb of `kubectl cacheserver` on a real server behind a real kube-apiserver: through its aggregation with a
kubeconfig, and by --server straight; both say the same.

As test_kube_apiserver.py, which has the cluster. Who asks has the roles of a reader, an author and an approver.
"""

from __future__ import annotations

import http.cookiejar
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from cacheserver.client.main import VERBS
from tests.e2e.test_kube_apiserver import Cluster, Server, cluster, kube, namespace, repository, server
from tests.support.certificates import Authority
from tests.support.fbc import catalog
from tests.support.gitserver import GitHTTPS, GitRepository, basic

__all__ = ["cluster", "kube", "namespace", "server"]  # fixtures

pytestmark = pytest.mark.e2e

WAYS: Final = ("kube", "direct")
READ: Final = (
    ("search", "app"),
    ("search", "--repository", "c"),
    ("versions", "app"),
    ("versions", "app", "--channel", "stable"),
    ("show", "app"),
    ("show", "app@1.1.0"),
    ("graph", "app"),
    ("upgrades", "app", "1.0.0", "1.10.0"),
    ("needs", "app"),
    ("changes", "--repository", "c"),
    ("images", "app@1.0.0", "db"),
    ("images", "app", "db", "--all"),
    ("export", "app", "db", "--channel", "stable"),
    ("export", "app", "--from", "1.1.0"),
)
"""Verbs that take `-o json`; `diff` and `pull` are asked for what they give."""


@dataclass
class World:
    """A namespace with the Repositories `c` (a catalog) and `edge` (written to); home: where commands run."""

    server: Server
    namespace: str
    kubeconfig: Path
    kubectl: Path
    home: Path

    def command(self, how: str, *words: str) -> list[str]:
        flags = ["--namespace", self.namespace]
        if how == "direct":
            trust = ["--certificate-authority", str(self.server.authority)]
            flags += ["--server", self.server.url, "--token", "token-of-author", *trust]
        else:
            flags += ["--kubeconfig", str(self.kubeconfig)]
        return [sys.executable, "-m", "cacheserver.client.main", *words, *flags]

    @property
    def environ(self) -> dict[str, str]:
        path = f"{self.kubectl.parent}{os.pathsep}{os.environ['PATH']}"
        python = os.pathsep.join(filter(None, sys.path))
        return {"HOME": str(self.home), "PATH": path, "PYTHONPATH": python, "KUBECONFIG": os.devnull}

    def run(self, how: str, *words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            self.command(how, *words),
            capture_output=True,
            text=True,
            cwd=self.home,
            env=self.environ,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def done(self, how: str, *words: str) -> str:
        code, out, err = self.run(how, *words)
        assert code == 0, (how, words, out, err)
        return out


@pytest.fixture
def world(cluster: Cluster, server: Server, namespace: str, tmp_path: Path) -> Iterator[World]:
    served = tmp_path / "served"
    edge = GitRepository(served / "edge.git")
    edge.git("config", "http.receivepack", "true")
    files = catalog(tmp_path / "c").package("app", "1.0.0", "1.1.0", "1.10.0").package("db", "2.0.0")
    found = {str(path.relative_to(files.root)): path.read_bytes() for path in files.root.rglob("*.yaml")}
    GitRepository(served / "c.git").commit(found)
    authority = Authority(tmp_path / "pki")
    with GitHTTPS(served, authority.issue("git"), authorization=basic("bot", "s3cret")) as git:

        def admin(*arguments: str) -> str:
            return cluster.admin.run("-n", namespace, *arguments)

        for role in ("view", "author", "approver", "edit"):
            admin("create", "rolebinding", f"author-{role}", f"--clusterrole=cacheserver:{role}", "--user=author")
        admin("create", "secret", "generic", "ca", f"--from-file=ca.crt={authority.certificate}")
        words = ("--from-literal=username=bot", "--from-literal=password=s3cret")
        admin("create", "secret", "generic", "bot", *words)
        account = "--serviceaccount=cacheserver:cacheserver"
        admin("create", "rolebinding", "secrets", "--clusterrole=cacheserver:secrets", account)
        secrets = {"secretRef": {"name": "bot"}, "caSecretRef": {"name": "ca"}}
        for name, more in (("c", {"format": "FBC"}), ("edge", {"format": "KRM", "access": "ReadWrite"})):
            source = {"git": {"url": f"{git.origin}/{name}.git", "ref": {"branch": "main"}}}
            cluster.admin.apply(repository(namespace, name, source, **more, **secrets))
        for name in ("c", "edge"):
            admin("wait", f"crepo/{name}", "--for=condition=Ready", "--timeout=60s")
        home = tmp_path / "home"
        home.mkdir()
        kubeconfig = cluster.kube.kubeconfig("author", token="token-of-author")
        yield World(server, namespace, kubeconfig, cluster.kube.kubectl, home)


def test_every_verb_says_the_same_through_kube_apiserver_and_straight(world: World) -> None:
    asked: set[str] = set()

    def both(*words: str, code: int = 0) -> str:
        asked.add(words[0])
        answers = {how: world.run(how, *words) for how in WAYS}
        assert answers["kube"] == answers["direct"], words
        assert answers["kube"][0] == code, answers["kube"]
        return answers["kube"][1]

    for words in READ:
        said = both(*words, "-o", "json")
        assert all(map(json.loads, said.splitlines())) if words[0] == "export" else json.loads(said)
    assert "--- c.app.1.0.0/bundle.json" in both("diff", "app@1.0.0", "app@1.1.0", code=1)
    assert both("completion", "bash")
    assert both("show", "nosuch", code=1) == ""
    _lives(world, asked)
    asked.add("sync")
    assert world.done("kube", "sync", "c") == "repository c is looked at\n"
    code, _, err = world.run("direct", "sync", "c")  # Repositories are kube-apiserver's there, and not ours
    assert (code, "error" in err) == (1, True)
    asked.add("ui")
    assert _page(world, "kube") == _page(world, "direct")
    assert asked == set(VERBS)


def _lives(world: World, asked: set[str]) -> None:
    """A package's life each way, with what was said; names of the packages apart it is the same."""

    def life(how: str) -> list[str]:
        name, other = f"sites/{how}", f"copies/{how}"
        said: list[str] = []

        def step(*words: str) -> None:
            asked.add(words[0])
            said.append(world.done(how, *words).replace(how, "X"))

        step("init", "edge", name, "-w", "w1", "--description", "A shop")
        step("pull", f"{name}@w1", how)
        (world.home / how / "data.bin").write_bytes(bytes(range(256)))
        step("push", how)
        step("propose", f"{name}@w1")
        step("reject", f"{name}@w1")
        step("propose", f"{name}@w1")
        step("approve", f"{name}@w1")
        step("clone", f"{name}@v1", "edge", other, "-w", "w1")
        step("propose", f"{other}@w1")
        step("approve", f"{other}@w1")
        step("copy", f"{name}@v1", "-w", "w2")
        step("rebase", f"{name}@w2")
        step("propose", f"{name}@w2")
        step("approve", f"{name}@w2")
        step("upgrade", other, f"{name}@v2", "-w", "w2")
        step("delete", f"{other}@w2")
        shown = json.loads(world.done(how, "show", f"{name}@v1", "-o", "json"))
        assert shown["status"]["publishedBy"] == "author"
        return said

    told = {how: life(how) for how in WAYS}
    assert told["kube"] == told["direct"]


def _page(world: World, how: str) -> Any:
    """Names of the packages that the page of `ui` is given."""
    with subprocess.Popen(
        [*world.command(how, "ui", "--no-browser")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=world.home,
        env=world.environ,
    ) as child:
        try:
            assert child.stdout is not None
            url = next(word for word in child.stdout.readline().split() if word.startswith("http://"))
            cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
            opener = urllib.request.build_opener(cookies, urllib.request.ProxyHandler({}))
            with opener.open(url, timeout=30) as answer:
                assert b"<script" in answer.read()
            origin = "/".join(url.split("/")[:3])
            path = f"/apis/cacheserver.dev/v1alpha1/namespaces/{world.namespace}/packages"
            with opener.open(origin + path, timeout=30) as answer:
                return [item["metadata"]["name"] for item in json.load(answer)["items"]]
        finally:
            child.terminate()
