"""A package from nothing to a tag in git, by kubectl on a standalone server, as its users do it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import StartServer
from tests.e2e.test_kubectl import KUBECTLS, Kubectl, needs_kubectl
from tests.support.gitserver import GitRepository
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, needs_kubectl]

NAME = "edge.sites.berlin.w1"
REPOSITORY = """\
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: edge}}
spec:
  source: {{git: {{url: "{url}", ref: {{branch: main}}}}}}
  format: KRM
  access: ReadWrite
"""
REVISION = """\
apiVersion: cacheserver.dev/v1alpha1
kind: PackageRevision
metadata: {name: edge.sites.berlin.w1, namespace: default}
spec: {repository: edge, packageName: sites/berlin, workspaceName: w1}
"""


async def test_a_package_is_drafted_changed_approved_and_in_git(start_server: StartServer, tmp_path: Path) -> None:
    """Validation of fields is on, as kubectl has it."""
    git = GitRepository(tmp_path / "edge.git")
    (tmp_path / "repository.yaml").write_text(REPOSITORY.format(url=git.url))
    (tmp_path / "revision.yaml").write_text(REVISION)
    server = start_server("--repositories", str(tmp_path / "repository.yaml"), "--author", "Ada <ada@example.com>")
    kubectl = Kubectl(KUBECTLS[0], server, tmp_path / "cache")

    def found() -> dict[str, object]:
        manifest: dict[str, object] = json.loads(kubectl("get", "cpkgrev", NAME, "-o", "json"))
        return manifest

    def lifecycle(wanted: str) -> None:
        """Asked for once; a machine that is busy may answer that it goes on."""
        change = json.dumps({"spec": {"lifecycle": wanted}})
        try:
            kubectl("patch", "cpkgrev", NAME, "--type=merge", "-p", change, timeout_s=60)
        except AssertionError as exc:
            if "still being carried out" not in str(exc):
                raise

    async def is_now(wanted: str) -> None:
        await eventually(lambda: found()["spec"]["lifecycle"] == wanted, within_s=90)  # type: ignore[index]

    kubectl("create", "--save-config", "-f", str(tmp_path / "revision.yaml"))
    kubectl("apply", "-f", str(tmp_path / "revision.yaml"))
    kubectl("label", "cpkgrev", NAME, "team=a")
    kubectl("annotate", "cpkgrev", NAME, "example.com/why=because")
    resources = yaml.safe_load(kubectl("get", "cpkgres", NAME, "-o", "yaml"))
    resources["spec"]["resources"]["site.yaml"] = "value: 1\n"
    (tmp_path / "resources.yaml").write_text(yaml.safe_dump(resources))
    kubectl("replace", "-f", str(tmp_path / "resources.yaml"))
    said = kubectl.refused("patch", "cpkgrev", NAME, "--type=merge", "-p", '{"spec":{"lifecycle":"Published"}}')
    assert "a draft can only be proposed" in said
    lifecycle("Proposed")
    await is_now("Proposed")
    assert (
        git.git("for-each-ref", "--format=%(refname)", "refs/heads/proposed") == "refs/heads/proposed/sites/berlin/w1"
    )
    lifecycle("Published")
    await is_now("Published")
    manifest = found()
    assert manifest["spec"]["revision"] == "v1"  # type: ignore[index]
    assert manifest["metadata"]["labels"]["team"] == "a"  # type: ignore[index]
    assert git.git("rev-parse", "main") == git.git("rev-parse", "sites/berlin/v1")
    assert git.git("show", "main:sites/berlin/site.yaml") == "value: 1"
    assert git.git("log", "-1", "--format=%an %ae", "main") == "Ada ada@example.com"
    assert git.git("for-each-ref", "refs/heads/proposed", "refs/heads/drafts") == ""
    assert "published" in kubectl.refused("delete", "cpkgrev", NAME)


def test_a_misspelt_field_is_refused(start_server: StartServer, tmp_path: Path) -> None:
    git = GitRepository(tmp_path / "edge.git")
    (tmp_path / "repository.yaml").write_text(REPOSITORY.format(url=git.url))
    (tmp_path / "revision.yaml").write_text(REVISION.replace("workspaceName", "workspace"))
    server = start_server("--repositories", str(tmp_path / "repository.yaml"))
    kubectl = Kubectl(KUBECTLS[0], server, tmp_path / "cache")
    said = kubectl.refused("create", "-f", str(tmp_path / "revision.yaml"))
    assert 'unknown field "spec.workspace"' in said
    assert subprocess.run(["git", "-C", git.path, "for-each-ref"], capture_output=True, check=True).stdout == b""
