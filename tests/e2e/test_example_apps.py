"""The programs of examples/apps beside a whole server: a draft is filled in, judged, held back, then published."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_asyncio import client

from cacheserver.etcd.supervise import command
from tests.e2e.conftest import StartServer
from tests.e2e.test_authoring import REPOSITORY
from tests.support.gitserver import GitRepository
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

APPS = Path(__file__).resolve().parents[2] / "examples" / "apps"
WHERE = ("cacheserver.dev", "v1alpha1", "default")
NAME = "edge.app.w1"
MERGE = "application/merge-patch+json"
SPECIALISED, VALIDATED = "example.com/specialised", "example.com/validated"
REVISION = {
    "apiVersion": "cacheserver.dev/v1alpha1",
    "kind": "PackageRevision",
    "metadata": {"name": NAME},
    "spec": {
        "repository": "edge",
        "packageName": "app",
        "workspaceName": "w1",
        "readinessGates": [{"conditionType": SPECIALISED}, {"conditionType": VALIDATED}],
    },
}
INPUTS = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: inputs, annotations: {config.kubernetes.io/local-config: "true"}}
data: {replicas: "3"}
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1 # from-input: replicas
  template:
    spec:
      containers:
        - name: web
          image: web:1
"""
LIMITED = f"{DEPLOYMENT}          resources: {{limits: {{memory: 1Gi}}}}\n"


class Client:
    def __init__(self, api: client.ApiClient) -> None:
        self._objects: Any = client.CustomObjectsApi(api)  # its stubs know no _content_type

    async def revision(self) -> Any:
        return await self._objects.get_namespaced_custom_object(*WHERE, "packagerevisions", NAME)

    async def file(self, path: str) -> str:
        found = await self._objects.get_namespaced_custom_object(*WHERE, "packagerevisionresources", NAME)
        return str(found["spec"]["resources"].get(path, ""))

    async def create(self) -> None:
        await self._objects.create_namespaced_custom_object(*WHERE, "packagerevisions", REVISION)

    async def save(self, **files: str) -> None:
        change = {"spec": {"resources": {f"{name}.yaml": text for name, text in files.items()}}}
        await self._objects.patch_namespaced_custom_object(
            *WHERE, "packagerevisionresources", NAME, change, _content_type=MERGE
        )

    async def move(self, lifecycle: str) -> None:
        """Asked for once; a machine that is busy may answer that it goes on."""
        change = {"spec": {"lifecycle": lifecycle}}
        try:
            await self._objects.patch_namespaced_custom_object(
                *WHERE, "packagerevisions", NAME, change, _content_type=MERGE
            )
        except client.ApiException as exc:
            if exc.status != 504:
                raise

        async def is_now() -> bool:
            return bool((await self.revision())["spec"]["lifecycle"] == lifecycle)

        await eventually(is_now, within_s=60)

    async def says(self, kind: str, status: str) -> Any:
        """The condition, once it is of the content that there is."""
        found: dict[str, Any] = {}

        async def does() -> bool:
            nonlocal found
            status_now = (await self.revision())["status"]
            found = next((each for each in status_now["conditions"] if each["type"] == kind), {})
            return found.get("status") == status and found["observedDigest"] == status_now["content"]["digest"]

        await eventually(does, within_s=60)
        return found


@pytest.fixture
def git(tmp_path: Path) -> GitRepository:
    return GitRepository(tmp_path / "edge.git")


@pytest.fixture
def server(start_server: StartServer, tmp_path: Path, git: GitRepository) -> ServerProcess:
    (tmp_path / "repository.yaml").write_text(REPOSITORY.format(url=git.url))
    return start_server("--repositories", str(tmp_path / "repository.yaml"))


@pytest.fixture
def apps(server: ServerProcess, tmp_path: Path) -> Iterator[None]:
    """Both programs, as they stand, with a kubeconfig that leads to the server."""
    kubeconfig = tmp_path / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": server.url}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "current-context": "here",
    }
    kubeconfig.write_text(json.dumps(config))
    environ = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    running = [
        subprocess.Popen(command(sys.executable, [str(APPS / f"{name}.py")]), env=environ)
        for name in ("specialiser", "validator")
    ]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


@pytest.mark.usefixtures("apps")
async def test_a_draft_is_specialised_judged_held_back_mended_and_published(
    server: ServerProcess, git: GitRepository
) -> None:
    async with client.ApiClient(client.Configuration(host=server.url)) as api:
        user = Client(api)
        await user.create()
        await user.save(inputs=INPUTS, web=DEPLOYMENT)
        await user.says(SPECIALISED, "True")
        assert "replicas: 3 # from-input: replicas" in await user.file("web.yaml")
        said = await user.says(VALIDATED, "False")
        assert said["message"] == "web.yaml: Deployment container web has no limit of memory"
        await user.move("Proposed")
        with pytest.raises(client.ApiException) as refused:
            await user.move("Published")
        assert refused.value.status == 422
        assert f"{VALIDATED} (False: web.yaml" in str(refused.value.body)
        await user.move("Draft")
        await user.save(inputs=INPUTS.replace('"3"', '"5"'), web=LIMITED)
        await user.says(SPECIALISED, "True")
        await user.says(VALIDATED, "True")
        await user.move("Proposed")
        await user.move("Published")
    assert "replicas: 5 #" in git.git("show", "app/v1:app/web.yaml")


@pytest.mark.usefixtures("apps")
async def test_a_draft_that_waited_while_nobody_looked_is_judged(server: ServerProcess) -> None:
    """The server is killed under the programs, and started again: they look at everything anew."""
    async with client.ApiClient(client.Configuration(host=server.url)) as api:
        user = Client(api)
        await user.create()
        await user.says(VALIDATED, "True")
        server.kill()
        server.start()
        await user.save(web=DEPLOYMENT.replace("replicas", "other", 1))
        await user.says(VALIDATED, "False")
        said = await user.says(SPECIALISED, "False")
        assert said["message"] == "inputs.yaml has no replicas"


async def test_no_package_ends_the_programs_or_keeps_them_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may save decides what they read."""
    monkeypatch.syspath_prepend(str(APPS))
    specialiser, validator = importlib.import_module("specialiser"), importlib.import_module("validator")
    odd = ["spec: {template: {spec: {containers: x}}}", "spec: {template: {spec: {containers: [1, [], x]}}}", "- 1", ""]
    files = {f"{at}.yaml": text for at, text in enumerate(odd)}
    assert list(validator.wrong(files)) == []
    hostile = {
        "a.yaml": "[" * 100_000,
        "b.yaml": "a: " + " " * 1_000_000 + "# from-input: x",
        "c.yaml": "x" * (2 << 20),
    }
    assert len(list(validator.wrong(hostile))) == 2
    assert specialiser.specialised(hostile) == (hostile, [])
    for inputs in ("data: x", "data: [1]", "[" * 100_000, "- 1"):
        with pytest.raises((ValueError, AttributeError, RecursionError, yaml.YAMLError)):
            specialiser.specialised({"inputs.yaml": inputs})
    filled, missing = specialiser.specialised(
        {
            "inputs.yaml": "data: {a: 'x: y', b: 2}",
            "w.yaml": "k: 1 # from-input: a\n- l: 1  # from-input: b\nm: 1 # from-input: c\n",
        }
    )
    assert filled["w.yaml"] == 'k: "x: y" # from-input: a\n- l: 2  # from-input: b\nm: 1 # from-input: c\n'
    assert missing == ["c"]
