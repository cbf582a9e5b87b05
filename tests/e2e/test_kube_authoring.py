"""Packages made, approved and deleted by kubectl through a real kube-apiserver, by users with the roles that we ship.

As test_kube_apiserver.py, which has the cluster; the git server is a real one over TLS that wants a password.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.e2e.test_kube_apiserver import (
    Cluster,
    Server,
    cluster,
    diagnosis,
    kube,
    namespace,
    repository,
    server,
)
from tests.support import invariants
from tests.support.certificates import Authority
from tests.support.gitserver import GitHTTPS, GitRepository, basic
from tests.support.kube import ControllerManager, Kubectl, find_controller_manager
from tests.support.waiting import eventually, until

__all__ = ["cluster", "kube", "namespace", "server"]  # fixtures

pytestmark = pytest.mark.e2e

NAME: Final = "edge.sites.berlin.w1"


def revision(package: str = "sites/berlin", workspace: str = "w1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "cacheserver.dev/v1alpha1",
        "kind": "PackageRevision",
        "metadata": {"name": f"edge.{package.replace('/', '.')}.{workspace}"},
        "spec": {"repository": "edge", "packageName": package, "workspaceName": workspace, **spec},
    }


def lifecycle(wanted: str) -> str:
    return json.dumps({"spec": {"lifecycle": wanted}})


@dataclass
class World:
    """A namespace with the Repository `edge`, and those who may write and decide there."""

    cluster: Cluster
    namespace: str
    git: GitRepository
    server: GitHTTPS

    def user(self, name: str) -> Kubectl:
        kubeconfig = self.cluster.kube.kubeconfig(name, token=f"token-of-{name}")
        return Kubectl(self.cluster.kube, kubeconfig, "-n", self.namespace)

    def admin(self, *arguments: str) -> str:
        return self.cluster.admin.run("-n", self.namespace, *arguments)

    def create(self, kubectl: Kubectl, *documents: dict[str, Any]) -> str:
        return kubectl.run("create", "-f", "-", stdin="\n".join(map(json.dumps, documents)))

    def move(self, kubectl: Kubectl, name: str, wanted: str) -> None:
        """Asked for once; a machine that is busy may answer that it goes on."""
        fine, said = kubectl.tried("patch", "cpkgrev", name, "--type=merge", "-p", lifecycle(wanted))
        assert fine or "still being carried out" in said, said
        until(lambda: self.get(name)["spec"]["lifecycle"] == wanted, within_s=60, otherwise=lambda: said)

    def refuse(self, why: str) -> Path:
        """A hook that takes no push; its file."""
        hook = self.git.path / "hooks" / "pre-receive"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\necho {why}\nexit 1\n")
        hook.chmod(0o755)
        return hook

    def finalizers(self) -> list[str]:
        found: list[str] = json.loads(self.admin("get", "crepo", "edge", "-o", "json"))["metadata"].get(
            "finalizers", []
        )
        return found

    def condition(self, kind: str) -> str:
        path = f"jsonpath={{.status.conditions[?(@.type=='{kind}')].status}}"
        return self.admin("get", "crepo", "edge", "-o", path)

    def events(self, name: str) -> dict[str, str]:
        """Of a package revision, by reason."""
        found = json.loads(self.admin("get", "events", "--field-selector", f"involvedObject.name={name}", "-o", "json"))
        return {each["reason"]: each["message"] for each in found["items"]}

    def get(self, name: str) -> Any:
        return json.loads(self.admin("get", "cpkgrev", name, "-o", "json"))


@pytest.fixture
def world(cluster: Cluster, server: Server, namespace: str, tmp_path: Path) -> Iterator[World]:
    git = GitRepository(tmp_path / "served" / "edge.git")
    git.git("config", "http.receivepack", "true")
    authority = Authority(tmp_path / "pki")
    with GitHTTPS(tmp_path / "served", authority.issue("git"), authorization=basic("bot", "s3cret")) as served:
        world = World(cluster, namespace, git, served)
        for user in ("author", "approver"):
            for role in ("view", user):
                world.admin(
                    "create", "rolebinding", f"{user}-{role}", f"--clusterrole=cacheserver:{role}", f"--user={user}"
                )
        world.admin("create", "secret", "generic", "ca", f"--from-file=ca.crt={authority.certificate}")
        world.admin(
            "create", "secret", "generic", "bot", "--from-literal=username=bot", "--from-literal=password=s3cret"
        )
        account = "--serviceaccount=cacheserver:cacheserver"
        world.admin("create", "rolebinding", "secrets", "--clusterrole=cacheserver:secrets", account)
        source = {"git": {"url": f"{served.origin}/edge.git", "ref": {"branch": "main"}}}
        secrets = {"secretRef": {"name": "bot"}, "caSecretRef": {"name": "ca"}}
        cluster.admin.apply(repository(namespace, "edge", source, format="KRM", deployment=True, **secrets))
        world.admin("wait", "crepo/edge", "--for=condition=Ready", "--timeout=60s")
        yield world


def test_a_package_is_made_by_an_author_and_published_by_an_approver(world: World, tmp_path: Path) -> None:
    author, approver = world.user("author"), world.user("approver")
    (tmp_path / "berlin.yaml").write_text(yaml.safe_dump(revision()))
    assert "created" in author.run("apply", "-f", str(tmp_path / "berlin.yaml"))
    assert "unchanged" in author.run("apply", "-f", str(tmp_path / "berlin.yaml"))
    changed = {**revision(), "metadata": {"name": NAME, "labels": {"team": "a"}}}
    (tmp_path / "berlin.yaml").write_text(yaml.safe_dump(changed))
    assert "configured" in author.run("apply", "-f", str(tmp_path / "berlin.yaml"))
    author.run("label", "cpkgrev", NAME, "tier=1")
    author.run("annotate", "cpkgrev", NAME, "example.com/why=because")
    author.run("edit", "cpkgres", NAME, environ={"KUBE_EDITOR": "sed -i 's/name: example/name: berlin/'"})
    files = author.json("get", "cpkgres", NAME)
    assert "name: berlin" in files["spec"]["resources"]["package-context.yaml"]
    assert files["metadata"]["labels"].items() >= {"team": "a", "tier": "1"}.items()
    files["spec"]["resources"]["site.yaml"] = "value: 1\n"
    author.run("replace", "-f", "-", stdin=json.dumps(files))
    drafts = ("get", "cpkgrev", "--field-selector=spec.lifecycle=Draft", "-o", "name")
    assert author.run(*drafts).split() == [f"packagerevision.cacheserver.dev/{NAME}"]
    assert author.run("get", "cpkgrev", "-l", "team=a,tier=1", "-o", "name").split() != []

    world.move(author, NAME, "Proposed")
    said = author.refused("patch", "cpkgrev", NAME, "--type=merge", "-p", lifecycle("Published"))
    assert 'the right to update "packagerevisions/approval"' in said
    assert "Forbidden" in said
    world.move(approver, NAME, "Published")
    assert approver.run(*drafts) == ""
    manifest = world.get(NAME)
    assert (manifest["spec"]["revision"], manifest["status"]["publishedBy"]) == ("v1", "approver")
    invariants.check(world.git, [("sites/berlin", "v1", "w1")])
    assert world.git.git("show", "main:sites/berlin/site.yaml") == "value: 1"
    assert "approver" in world.git.git("log", "-1", "--format=%an", "main")
    until(lambda: {"Created", "Proposed", "Approved", "Published"} <= world.events(NAME).keys(), within_s=30)
    told = world.events(NAME)
    assert told["Proposed"] == "author proposed it"
    assert told["Published"].startswith("approver published it as v1, commit ")
    assert "Published" in world.admin("describe", "cpkgrev", NAME).partition("Events:")[2]
    wide = approver.run("get", "cpkgrev", NAME, "-o", "wide", "--no-headers")
    assert manifest["status"]["selfLock"]["git"]["commit"] in wide


def test_an_approver_writes_no_files_and_a_reader_nothing(world: World) -> None:
    author, approver, reader = (world.user(name) for name in ("author", "approver", "reader"))
    world.create(author, revision())
    change = ("patch", "cpkgres", NAME, "--type=merge", "-p", '{"spec":{"resources":{"a":"b"}}}')
    for user, name in ((approver, "approver"), (reader, "reader")):
        said = user.refused(*change)
        assert f'User "{name}" cannot patch resource "packagerevisionresources"' in said
        assert "cannot create" in user.refused("create", "-f", "-", stdin=json.dumps(revision("other")))
        assert "cannot delete" in user.refused("delete", "cpkgrev", NAME)
    assert "cannot patch" in reader.refused("label", "cpkgrev", NAME, "a=b")
    path = f"/apis/cacheserver.dev/v1alpha1/namespaces/{world.namespace}/packagerevisions/{NAME}/approval"
    assert "cannot update" in author.refused("replace", "--raw", path, "-f", "-", stdin=json.dumps(world.get(NAME)))
    assert reader.run("get", "cpkgrev", NAME, "-o", "name").split() == [f"packagerevision.cacheserver.dev/{NAME}"]


def test_an_approver_decides_by_the_subresource_too(world: World) -> None:
    author, approver = world.user("author"), world.user("approver")
    world.create(author, revision())
    world.move(author, NAME, "Proposed")
    path = f"/apis/cacheserver.dev/v1alpha1/namespaces/{world.namespace}/packagerevisions/{NAME}/approval"
    wanted = world.get(NAME)
    wanted["spec"]["lifecycle"] = "Published"
    approver.run("replace", "--raw", path, "-f", "-", stdin=json.dumps(wanted))
    until(lambda: world.get(NAME)["spec"]["lifecycle"] == "Published", within_s=60)


async def test_a_watcher_sees_a_life_and_delete_waits_for_its_end(world: World) -> None:
    author, approver = world.user("author"), world.user("approver")
    watching = author.start("get", "cpkgrev", "--watch", "--output-watch-events", "--no-headers")
    try:
        world.create(author, revision())
        for wanted in ("Proposed", "Published", "DeletionProposed"):
            world.move(author if wanted == "Proposed" else approver, NAME, wanted)
        author.run("delete", "cpkgrev", NAME, "--wait", "--timeout=50s")
        assert watching.stdout is not None
        seen: list[tuple[str, str]] = []
        while not seen or seen[-1][0] != "DELETED":
            event, name, *cells = (await asyncio.wait_for(asyncio.to_thread(watching.stdout.readline), 60)).split()
            now = next(cell for cell in cells if cell in ("Draft", "Proposed", "Published", "DeletionProposed"))
            if name == NAME and (event, now) not in seen:
                seen.append((event, now))
    finally:
        watching.kill()
        watching.communicate()
    assert seen == [
        ("ADDED", "Draft"),
        *(("MODIFIED", now) for now in ("Draft", "Proposed", "Published", "DeletionProposed")),
        ("DELETED", "DeletionProposed"),
    ]
    assert "refs/tags/sites/berlin/v1" not in invariants.refs(world.git)


def test_what_git_refuses_is_an_event_with_its_words(world: World) -> None:
    world.refuse("the freeze is on")
    author = world.user("author")
    world.create(author, revision())
    said = author.refused("patch", "cpkgrev", NAME, "--type=merge", "-p", lifecycle("Proposed"))
    assert "the freeze is on" in said
    assert "403" in said or "Forbidden" in said
    until(lambda: "ProposeFailed" in world.events(NAME), within_s=30)
    assert "the freeze is on" in world.events(NAME)["ProposeFailed"]
    assert invariants.refs(world.git) == {}


def test_a_repository_with_drafts_that_git_refuses_stays_until_it_is_lifted(world: World) -> None:
    author = world.user("author")
    world.create(author, revision())
    until(lambda: "refs/heads/drafts/sites/berlin/w1" in invariants.refs(world.git), within_s=60)
    world.refuse("the freeze is on")
    author.run("patch", "cpkgres", NAME, "--type=merge", "-p", '{"spec":{"resources":{"a":"b"}}}')
    until(lambda: world.finalizers() == ["config.cacheserver.dev/drafts"], within_s=30)
    before = invariants.refs(world.git)
    world.admin("delete", "crepo", "edge", "--wait=false")
    until(lambda: world.condition("Leaving") == "True", within_s=60)
    until(lambda: "DraftsNotPushed" in world.events("edge"), within_s=60)
    said = author.refused("patch", "cpkgres", NAME, "--type=merge", "-p", '{"spec":{"resources":{"a":"c"}}}')
    assert "is being deleted" in said
    assert invariants.refs(world.git) == before
    world.admin("patch", "crepo", "edge", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    until(lambda: world.admin("get", "crepo", "-o", "name") == "", within_s=60)
    until(lambda: world.admin("get", "cpkgrev", "-o", "name") == "", within_s=60)
    assert invariants.refs(world.git) == before


async def test_a_namespace_with_drafts_and_published_packages_goes_and_git_stays_as_it_is(world: World) -> None:
    """With the real namespace and garbage collector controllers, which go through everything that discovery lists."""
    binary = find_controller_manager()
    if binary is None:
        pytest.skip("NO KUBE-CONTROLLER-MANAGER FOUND in KUBEBUILDER_ASSETS: nobody here deletes namespaces")
    author, approver = world.user("author"), world.user("approver")
    world.create(author, revision(), revision("draft"), revision("proposed"), revision("going"))
    for package in ("sites.berlin", "proposed", "going"):
        world.move(author, f"edge.{package}.w1", "Proposed")
    for package in ("sites.berlin", "going"):
        world.move(approver, f"edge.{package}.w1", "Published")
    world.move(approver, "edge.going.w1", "DeletionProposed")
    until(lambda: "refs/heads/drafts/draft/w1" in invariants.refs(world.git), within_s=60)
    before = invariants.refs(world.git)
    manager = ControllerManager(binary, world.cluster.kube)
    manager.start()
    try:
        deleted, said = world.cluster.admin.tried("delete", "namespace", world.namespace, "--wait", "--timeout=55s")
        if not deleted:  # a machine that is busy
            deleted, said = world.cluster.admin.tried("wait", "--for=delete", f"ns/{world.namespace}", "--timeout=55s")
        assert deleted, said + manager.log()[-4000:]
    finally:
        manager.stop()
    assert invariants.refs(world.git) == before
    path = f"/apis/cacheserver.dev/v1alpha1/namespaces/{world.namespace}/packagerevisions"
    until(lambda: not json.loads(world.cluster.admin.run("get", "--raw", path))["items"], within_s=30)
    assert invariants.refs(world.git) == before


def test_edit_may_draft_and_admin_may_approve(cluster: Cluster) -> None:
    """The cluster's own roles have ours added, by the real controller."""
    binary = find_controller_manager()
    if binary is None:
        pytest.skip("NO KUBE-CONTROLLER-MANAGER FOUND in KUBEBUILDER_ASSETS: nobody here aggregates roles")

    def may(role: str) -> set[tuple[str, str]]:
        rules = cluster.admin.json("get", "clusterrole", role)["rules"] or ()
        ours = (rule for rule in rules if "cacheserver.dev" in rule.get("apiGroups", ()))
        return {(resource, verb) for rule in ours for resource in rule["resources"] for verb in rule["verbs"]}

    manager = ControllerManager(binary, cluster.kube)
    manager.start()
    try:
        until(lambda: ("packagerevisions/approval", "update") in may("admin"), within_s=60, otherwise=manager.log)
        until(lambda: ("packagerevisionresources", "update") in may("edit"), within_s=60, otherwise=manager.log)
        until(lambda: ("packagerevisions", "list") in may("view"), within_s=60, otherwise=manager.log)
    finally:
        manager.stop()
    assert not any(resource == "packagerevisions/approval" for resource, _ in may("edit"))
    # A search is asked for by creating it, and changes nothing.
    assert {verb for _, verb in may("view") - {("packagesearches", "create")}} == {"get", "list", "watch"}


async def test_the_doctor_says_that_git_takes_pushes(world: World, server: Server) -> None:
    before = invariants.refs(world.git)
    _, found = await asyncio.to_thread(diagnosis, server, *server.arguments)
    assert "git lets us push to" in found["push"]
    assert not any(check.startswith(f"push to {world.namespace}/") for check in found), found
    world.refuse("never asked")
    world.git.git("config", "http.receivepack", "false")
    _, found = await asyncio.to_thread(diagnosis, server, *server.arguments)
    said = found[f"push to {world.namespace}/edge"]
    assert said.startswith("FAILED")
    assert "let the account of the Secret bot push" in said
    assert invariants.refs(world.git) == before


async def test_what_is_written_is_explained(world: World) -> None:
    async def explained() -> bool:
        fine, said = world.cluster.admin.tried("explain", "packagerevision.spec.source.clone")
        return fine and "revision" in said

    await eventually(explained, within_s=30)


def test_a_refusal_names_its_field_and_a_misspelt_one_is_told(world: World) -> None:
    author = world.user("author")
    said = author.refused("create", "-f", "-", stdin=json.dumps(revision("A")))
    assert "spec.packageName" in said
    said = author.refused("create", "--validate=strict", "-f", "-", stdin=json.dumps(revision(workspce="w1")))
    assert 'unknown field "spec.workspce"' in said
    assert invariants.refs(world.git) == {}
