"""Conditions and gates by real kubectl: patched and edited through the subresource status, waited for, and read."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.test_authoring import REPOSITORY
from tests.e2e.test_kubectl import KUBECTLS, Kubectl, needs_kubectl
from tests.support.gitserver import GitRepository

pytestmark = [pytest.mark.e2e, needs_kubectl]

NAME = "edge.app.w1"
REVISION = {
    "apiVersion": "cacheserver.dev/v1alpha1",
    "kind": "PackageRevision",
    "metadata": {"name": NAME},
    "spec": {
        "repository": "edge",
        "packageName": "app",
        "workspaceName": "w1",
        "readinessGates": [{"conditionType": "example.com/validated"}],
    },
}
EDITOR = """#!/bin/sh
sed -i '/reason: NoLimits/{s/NoLimits/LimitsAreThere/;n;s/"False"/"True"/}' "$1"
"""


def test_kubectl_writes_conditions_and_waits_for_them(start_server: StartServer, tmp_path: Path) -> None:
    git = GitRepository(tmp_path / "edge.git")
    (tmp_path / "repository.yaml").write_text(REPOSITORY.format(url=git.url))
    (tmp_path / "revision.json").write_text(json.dumps(REVISION))
    editor = tmp_path / "editor.sh"
    editor.write_text(EDITOR)
    editor.chmod(0o755)
    server = start_server("--repositories", str(tmp_path / "repository.yaml"))
    kubectl = Kubectl(KUBECTLS[0], server, tmp_path / "cache")
    kubectl("create", "-f", str(tmp_path / "revision.json"))
    change = [{"type": "example.com/validated", "status": "False", "reason": "NoLimits", "message": "no limits"}]
    patch = json.dumps({"status": {"conditions": change}})
    kubectl("patch", "cpkgrev", NAME, "--subresource=status", "--type=merge", "-p", patch)
    assert NAME in kubectl("get", "cpkgrev", NAME, "--subresource=status")
    command = ["edit", "cpkgrev", NAME, "--subresource=status"]
    base = kubectl._base
    environ = {**os.environ, "KUBE_EDITOR": str(editor)}
    done = subprocess.run([*base, *command], capture_output=True, text=True, env=environ, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    kubectl("wait", "cpkgrev", NAME, "--for=condition=example.com/validated", "--timeout=10s")
    found = json.loads(kubectl("get", "cpkgrev", NAME, "-o", "json"))
    [said] = [each for each in found["status"]["conditions"] if each["type"] == "example.com/validated"]
    assert (said["reason"], said["message"]) == ("LimitsAreThere", "no limits")
    assert said["observedDigest"] == found["status"]["content"]["digest"]
    pushed = json.dumps({"status": {"conditions": [{"type": "Pushed", "status": "True"}]}})
    refusal = kubectl.refused("patch", "cpkgrev", NAME, "--subresource=status", "--type=merge", "-p", pushed)
    assert "Pushed is the server's to say" in refusal
