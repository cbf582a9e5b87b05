"""Versions that people name, by kubectl on a whole server: the tag is what was named, and none is used twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.test_authoring import REPOSITORY
from tests.e2e.test_kubectl import KUBECTLS, Kubectl, needs_kubectl
from tests.support.gitserver import GitRepository
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, needs_kubectl]


async def test_a_named_version_is_the_tag_and_is_never_used_again(start_server: StartServer, tmp_path: Path) -> None:
    git = GitRepository(tmp_path / "edge.git")
    (tmp_path / "repository.yaml").write_text(REPOSITORY.format(url=git.url) + "  versioning: SemVer\n")
    server = start_server("--repositories", str(tmp_path / "repository.yaml"))
    kubectl = Kubectl(KUBECTLS[0], server, tmp_path / "cache")

    def create(workspace: str, **source: object) -> None:
        spec = {"repository": "edge", "packageName": "app", "workspaceName": workspace, **source}
        manifest = {"apiVersion": "cacheserver.dev/v1alpha1", "kind": "PackageRevision", "spec": spec}
        (tmp_path / "revision.json").write_text(json.dumps({**manifest, "metadata": {"name": f"edge.app.{workspace}"}}))
        kubectl("create", "-f", str(tmp_path / "revision.json"))

    async def patch(workspace: str, lifecycle: str, **spec: str) -> None:
        """Asked for once; a machine that is busy may answer that it goes on."""
        change = json.dumps({"spec": {"lifecycle": lifecycle, **spec}})
        try:
            kubectl("patch", "cpkgrev", f"edge.app.{workspace}", "--type=merge", "-p", change, timeout_s=60)
        except AssertionError as exc:
            if "still being carried out" not in str(exc):
                raise
        await eventually(lambda: found(workspace)["lifecycle"] == lifecycle, within_s=90)

    def found(workspace: str) -> dict[str, str]:
        spec: dict[str, str] = json.loads(kubectl("get", "cpkgrev", f"edge.app.{workspace}", "-o", "json"))["spec"]
        return spec

    def refused(workspace: str, version: str) -> str:
        change = json.dumps({"spec": {"lifecycle": "Published", "version": version}})
        return kubectl.refused("patch", "cpkgrev", f"edge.app.{workspace}", "--type=merge", "-p", change)

    create("w1")
    await patch("w1", "Proposed", version="1.2.3")
    await patch("w1", "Published")
    assert (found("w1")["revision"], found("w1")["version"]) == ("v1.2.3", "v1.2.3")
    assert git.git("rev-parse", "app/v1.2.3") == git.git("rev-parse", "main")
    create("w2", source={"copy": {"revision": "edge.app.w1"}})
    await patch("w2", "Proposed")
    assert "must be above v1.2.3" in refused("w2", "1.2.2")
    await patch("w2", "Published", version="1.2.4")
    assert found("w2")["revision"] == "v1.2.4"
    await patch("w2", "DeletionProposed")
    kubectl("delete", "cpkgrev", "edge.app.w2")
    create("w3", source={"copy": {"revision": "edge.app.w1"}})
    await patch("w3", "Proposed")
    assert "is never used again" in refused("w3", "1.2.4")
    await patch("w3", "Published", version="1.2.5")
    assert git.git("tag", "--list").split() == ["app/v1.2.3", "app/v1.2.5"]
