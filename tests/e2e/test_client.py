"""`kubectl cacheserver` on a whole server: as a plugin that kubectl starts, through a kubeconfig, and by --server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import StartServer
from tests.e2e.test_kubectl import KUBECTLS, needs_kubectl
from tests.support.fbc import catalog
from tests.support.gitserver import GitRepository
from tests.support.server import ServerProcess, run_cli
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, needs_kubectl]

REPOSITORIES = """\
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: c}}
spec: {{source: {{directory: {{path: "{catalog}"}}}}}}
---
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: edge}}
spec: {{source: {{git: {{url: "{url}", ref: {{branch: main}}}}}}, format: KRM, access: ReadWrite}}
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Client = Callable[..., Ended]


@dataclass(frozen=True, slots=True)
class World:
    """A server with a catalog and a repository that is written to; git: that repository; home: where commands run."""

    server: ServerProcess
    git: GitRepository
    home: Path

    def client(self, *words: str, how: str = "kubectl") -> Ended:
        """how: `plugin`: started by kubectl; `kubectl`: by itself, through the kubeconfig; `direct`: by --server."""
        command = [sys.executable, "-m", "cacheserver.client.main"]
        flags: tuple[str, ...] = ()
        if how == "plugin":
            command = [str(KUBECTLS[0]), "cacheserver"]
        elif how == "direct":
            flags = ("--server", self.server.url)
        environment = {
            "HOME": str(self.home),
            "PATH": f"{self.home / 'bin'}:{KUBECTLS[0].parent}:{os.environ['PATH']}",
            "KUBECONFIG": str(self.home / "kubeconfig") if how != "direct" else os.devnull,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        done = subprocess.run(
            [*command, *words, *flags],
            capture_output=True,
            text=True,
            cwd=self.home,
            env=environment,
            timeout=90,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def done(self, *words: str, how: str = "kubectl") -> str:
        """What it printed; it has to end well."""
        ended = self.client(*words, how=how)
        assert ended.code == 0, ended
        return ended.out


@pytest.fixture
def world(start_server: StartServer, tmp_path: Path) -> World:
    git = GitRepository(tmp_path / "edge.git")
    files = catalog(tmp_path / "c").package("app", "1.0.0", "1.1.0", "1.10.0").package("db", "2.0.0")
    (tmp_path / "repositories.yaml").write_text(REPOSITORIES.format(catalog=files.root, url=git.url))
    server = start_server("--repositories", str(tmp_path / "repositories.yaml"), "--author", "Ada <ada@example.com>")
    until(lambda: len(server.names("packagerevisions")) == 4, within_s=30, otherwise=server.log)
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    plugin = home / "bin" / "kubectl-cacheserver"
    plugin.write_text(f"#!{sys.executable}\nimport sys\nfrom cacheserver.client.main import main\nsys.exit(main())\n")
    plugin.chmod(0o755)
    (home / "kubeconfig").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": server.url}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
                "current-context": "c",
                "users": [{"name": "u", "user": {}}],
            }
        )
    )
    return World(server, git, home)


def _first_words(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines()]


def test_what_is_there_is_told_the_same_in_every_way_of_asking(world: World) -> None:
    news = "repository added: 2 packages, 4 revisions"
    until(lambda: news in world.done("changes", how="direct"), within_s=30)  # told when the sync ends
    assert news in world.done("changes", "--since", "1h")
    for how in ("plugin", "kubectl", "direct"):
        assert _first_words(world.done("versions", "app", how=how)) == ["VERSION", "1.10.0", "1.1.0", "1.0.0"]
    assert _first_words(world.done("versions", "c.app", "-o", "wide")) == ["VERSION", "1.10.0", "1.1.0", "1.0.0"]
    assert _first_words(world.done("-o", "name", "versions", "app", "--channel", "stable"))[0] == (
        "packagerevision.cacheserver.dev/c.app.1.10.0"
    )
    assert "1.10.0" in world.done("show", "app")
    shown = json.loads(world.done("show", "app@1.1.0", "-o", "json", how="direct"))
    assert (shown["kind"], shown["spec"]["version"]) == ("PackageRevision", "1.1.0")
    assert yaml.safe_load(world.done("show", "c.app.1.1.0", "-o", "yaml")) == shown
    assert {image["image"] for image in _bundle(world, "db@2.0.0").get("relatedImages", ())} <= set(
        world.done("images", "db").split()
    )
    assert _first_words(world.done("graph", "app")) == ["VERSION", "1.10.0", "1.1.0", "1.0.0"]
    assert world.done("graph", "app", "--format", "svg").startswith("<svg")
    way = world.done("upgrades", "app", "1.0.0", "1.10.0", how="direct").splitlines()
    assert [line.split()[0] for line in way[1:3]] == ["1.1.0", "1.10.0"]
    assert world.client("upgrades", "app", "1.10.0", "1.0.0").code == 1
    differs = world.client("diff", "app@1.0.0", "app@1.1.0")
    assert differs.code == 1
    assert differs.out.startswith("--- c.app.1.0.0/bundle.json\n+++ c.app.1.1.0/bundle.json\n@@")
    assert world.client("diff", "app@1.0.0", "c.app.1.0.0") == Ended(0, "", "")


def test_what_is_needed_and_what_goes_elsewhere(world: World) -> None:
    needed = world.client("needs", "db")
    assert (needed.code, needed.out, needed.err) == (0, "", "c.db.2.0.0 needs nothing of others\n")
    needs = json.loads(world.done("needs", "db", "-A", "-o", "json", how="direct"))
    assert (needs["kind"], needs["status"]["requirements"]) == ("PackageRevisionDependencies", [])
    every = world.done("images", "app", "db", "--all", "-q", how="direct").split()
    assert every == [
        f"registry.example.com/{image}" for image in ("app:v1.0.0", "app:v1.1.0", "app:v1.10.0", "db:v2.0.0")
    ]
    assert world.done("images", "app", "--from", "1.10.0").split() == ["registry.example.com/app:v1.10.0"]
    documents = [
        json.loads(line) for line in world.done("export", "app", "db", "--channel", "stable", "-q").splitlines()
    ]
    assert [one["name"] for one in documents if one["schema"] == "olm.package"] == ["app", "db"]
    assert (
        world.done("export", "app", "--from", "1.1.0", "-d", "mirror", "-o", "yaml")
        == "c.app: mirror/app/catalog.yaml\n"
    )
    kept = list(yaml.safe_load_all((world.home / "mirror" / "app" / "catalog.yaml").read_text()))
    assert sorted(one["name"] for one in kept if one["schema"] == "olm.bundle") == ["app.v1.1.0", "app.v1.10.0"]
    assert run_cli("validate", str(world.home / "mirror"), cwd=world.home).returncode == 0
    refused = world.client("export", "app", "--channel", "slow")
    assert (refused.code, refused.out, "there are stable" in refused.err) == (1, "", True)


def _bundle(world: World, revision: str) -> dict[str, list[dict[str, str]]]:
    world.done("pull", revision, "bundle")
    found: dict[str, list[dict[str, str]]] = json.loads((world.home / "bundle" / "bundle.json").read_text())
    return found


def test_packages_are_searched_by_words_and_by_what_they_provide(world: World) -> None:
    assert _first_words(world.done("search", "app")) == ["PACKAGE", "app"]
    assert _first_words(world.done("search", "ap", "-A", "-o", "wide", how="direct")) == ["PACKAGE", "app"]
    assert world.done("search", "--repository", "c", "-o", "name").split() == [
        "package.cacheserver.dev/c.app",
        "package.cacheserver.dev/c.db",
    ]
    nothing = world.client("search", "nothingofthekind")
    assert (nothing.code, nothing.out, nothing.err) == (1, "", "nothing was found\n")
    assert "say what is looked for" in world.client("search").err


def test_what_is_not_there_or_not_understood_says_what_to_do(world: World) -> None:
    missing = world.client("versions", "nosuch")
    assert (missing.code, missing.out) == (1, "")
    assert 'packages.cacheserver.dev "nosuch" not found' in missing.err
    wrong = world.client("show", "app@7")
    assert wrong.err == "error: app has no version 7; it has 1.10.0, 1.1.0, 1.0.0\n"
    assert world.client("diff", "app@1.0.0", "app@7").code == 2
    assert world.client("fly").code == 2
    assert "HUP" in world.client("sync", "edge").err
    images = world.client("images", "nosuch@1")
    assert images.code == 1
    away = world.client("versions", "app", "--server", "http://127.0.0.1:9", how="kubectl")
    assert (away.code, "gave no answer" in away.err) == (1, True)


def test_a_package_is_made_changed_and_published_by_its_verbs(world: World) -> None:
    said = world.done("init", "edge", "sites/berlin", "-w", "w1", "--description", "A shop", how="plugin")
    assert said == "edge.sites.berlin.w1 created\n"
    assert world.done("pull", "edge.sites.berlin.w1") == "edge.sites.berlin.w1: 3 files in berlin\n"
    here = world.home / "berlin"
    (here / "run.sh").write_text("#!/bin/sh\n")
    (here / "run.sh").chmod(0o755)
    (here / "some" / "where").mkdir(parents=True)
    (here / "some" / "where" / "data.bin").write_bytes(bytes(range(256)))
    assert world.done("push", "berlin") == "edge.sites.berlin.w1: run.sh, some/where/data.bin saved\n"
    assert world.done("push", "berlin", how="direct") == "edge.sites.berlin.w1: nothing was changed in berlin\n"
    world.done("pull", "edge.sites.berlin.w1", "other")
    other = world.home / "other"
    assert (other / "some" / "where" / "data.bin").read_bytes() == bytes(range(256))
    assert os.access(other / "run.sh", os.X_OK)
    # both change it, and neither loses anything
    (other / "run.sh").write_text("#!/bin/sh\nexit 0\n")
    (other / "some" / "where" / "data.bin").unlink()
    world.done("push", "other")
    (here / "Kptfile").write_text((here / "Kptfile").read_text() + "# mine\n")
    refused = world.client("push", "berlin")
    assert refused.code == 1
    assert "was changed by somebody since it was pulled; nothing was written" in refused.err
    assert len(refused.err.splitlines()) == 3
    refused = world.client("pull", "edge.sites.berlin.w1", "berlin")
    assert (refused.code, "Kptfile would be lost" in refused.err) == (1, True)
    world.done("pull", "edge.sites.berlin.w1", "berlin", "--force")
    assert not (here / "some").exists()
    assert "# mine" not in (here / "Kptfile").read_text()
    assert world.done("propose", "sites/berlin") == "edge.sites.berlin.w1 proposed\n"
    assert world.done("reject", "sites/berlin") == "edge.sites.berlin.w1 rejected\n"
    world.done("propose", "edge.sites.berlin.w1", how="direct")
    assert world.done("approve", "sites/berlin") == "edge.sites.berlin.w1 published\n"
    assert world.done("approve", "edge.sites.berlin.w1") == "edge.sites.berlin.w1 is published already\n"
    assert world.git.git("ls-tree", "sites/berlin/v1:sites/berlin", "run.sh").startswith("100755")
    assert "A shop" in world.done("show", "sites/berlin")
    world.done("copy", "sites/berlin@v1", "-w", "w2")
    world.done("clone", "sites/berlin@v1", "edge", "sites/rome", "-w", "w1")
    assert world.done("rebase", "sites/berlin") == "edge.sites.berlin.w2 is where it belongs\n"
    assert world.done("delete", "sites/berlin@w2") == "edge.sites.berlin.w2 deleted\n"
    assert world.done("delete", "edge.sites.rome.w1") == "edge.sites.rome.w1 deleted\n"
    assert world.done("delete", "sites/berlin@v1") == "edge.sites.berlin.w1 proposed for deletion\n"
    assert world.done("approve", "sites/berlin@v1") == "edge.sites.berlin.w1 deleted\n"
    assert world.git.git("tag", "--list") == ""
