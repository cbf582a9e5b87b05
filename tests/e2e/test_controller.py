"""Repositories of a cluster, whole: the stand-in host API, a registry, a real etcd, and server processes between them.

Two replicas where it matters who leads. Left to tests/e2e/test_kube_apiserver.py: the same against the real host API.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import StartEtcd
from tests.e2e.conftest import StartServer
from tests.fakes.kube import KubeStandIn
from tests.support.asking import RefusedError
from tests.support.etcd import EtcdProcess
from tests.support.fbc import FBCCatalog
from tests.support.registry import FakeRegistry, Image, Member, directory, image, layer
from tests.support.server import Recorder, ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

REPOSITORIES = "/apis/config.cacheserver.dev/v1alpha1/namespaces/team/repositories"
EVENTS = "/api/v1/namespaces/team/events"
SECRETS = "/api/v1/namespaces/team/secrets"
PASSWORD = "s3cr3t-w0rd"
NEW_PASSWORD = "an0ther-w0rd"
TAKE_OVER_S = 40.0  # etcd's lease of 10 s, and what a process on a busy machine needs
PACKAGES, REVISIONS = 40, 20


def packed(files: FBCCatalog) -> Image:
    """A catalog image of these files."""
    found = sorted(path for path in files.root.rglob("*") if path.is_file())
    members = [Member(f"configs/{path.relative_to(files.root)}", path.read_bytes()) for path in found]
    return image(layer(directory("configs/"), *members))


@dataclass
class World:
    kube: KubeStandIn
    registry: FakeRegistry
    etcd: EtcdProcess
    directory: Path
    start_server: StartServer

    # --- servers ---

    async def server(self, *flags: str) -> ServerProcess:
        """A replica that answers."""
        server = self.start_server(
            *("--etcd", self.etcd.endpoint, "--allow-unsupported-etcd"),
            *("--kubernetes", str(self.kube.kubeconfig(self.directory)), "--workers", "1"),
            *("--data-dir", str(self.directory / "data"), *flags),
            wait=False,
        )
        server.headers["Authorization"] = "Bearer t0"
        await asyncio.to_thread(server.start)
        return server

    async def two_servers(self) -> tuple[ServerProcess, ServerProcess]:
        """The leader, and one that stands by."""
        first = await self.server()
        await eventually(lambda: leads(first))
        second = await self.server()
        await eventually(lambda: "standing by" in second.log())
        return first, second

    # --- repositories ---

    async def push(self, files: FBCCatalog, tag: str = "v1") -> None:
        await self.registry.push(packed(files), "team/catalog", tag)

    def create(self, name: str = "c", tag: str = "v1", **spec: Any) -> None:
        source = {"oci": {"image": f"{self.registry.host}/team/catalog:{tag}", "insecure": True}}
        self.kube.put(f"{REPOSITORIES}/{name}", {"spec": {"source": source, **spec}})

    def change(self, change: Callable[[dict[str, Any]], None], name: str = "c") -> None:
        found = self.kube.get(f"{REPOSITORIES}/{name}")
        change(found)
        self.kube.put(f"{REPOSITORIES}/{name}", found)

    def request_sync(self, stamp: str, name: str = "c") -> None:
        annotations = {"cacheserver.dev/requestedAt": stamp}
        self.change(lambda found: found["metadata"].update(annotations=annotations), name)

    async def heard_of_all(self, mark: str) -> None:
        """Returns once who leads has heard of every change so far: of a suspended repository `mark` that comes now."""
        self.create(mark, suspend=True)
        await eventually(lambda: self.condition("Ready", mark)[1] == "Suspended", within_s=30)

    def delete(self, name: str = "c") -> None:
        self.kube.remove(f"{REPOSITORIES}/{name}")

    def status(self, name: str = "c") -> dict[str, Any]:
        found: dict[str, Any] = self.kube.get(f"{REPOSITORIES}/{name}").get("status", {})
        return found

    def condition(self, kind: str, name: str = "c") -> tuple[str, str]:
        conditions = {c["type"]: (c["status"], c["reason"]) for c in self.status(name).get("conditions", ())}
        return conditions.get(kind, ("", ""))

    async def ready(self, reason: str, name: str = "c", *, status: str = "", within_s: float = 20) -> None:
        wanted = (status or "True", reason)
        await eventually(lambda: self.condition("Ready", name) == wanted, within_s=within_s)

    def events(self) -> Sequence[tuple[str, str]]:
        return [(found["type"], found["reason"]) for found in self.kube.objects(EVENTS)]


@pytest.fixture
async def world(start_etcd: StartEtcd, start_server: StartServer, tmp_path: Path) -> AsyncIterator[World]:
    registry = FakeRegistry()
    await registry.start()
    async with KubeStandIn() as kube:
        kube.token("t0", "admin", "system:masters")
        kube.trust(proxy_ca="")
        yield World(kube, registry, await asyncio.to_thread(start_etcd), tmp_path, start_server)
    await registry.stop()


def leads(server: ServerProcess) -> bool:
    return "leading: this replica reads the sources" in server.log()


def files(root: Path, *packages: str, revisions: int = 1, text: str = "as ever") -> FBCCatalog:
    made = FBCCatalog(root)
    versions = [f"1.{n}.0" for n in range(revisions)]
    for name in packages:
        made.package(name, *versions, descriptions=dict.fromkeys(versions, text))
    return made


async def names(server: ServerProcess, resource: str = "packages") -> Sequence[str]:
    return await asyncio.to_thread(server.names, resource)


async def served(server: ServerProcess, *expected: str, within_s: float = 20) -> None:
    async def right() -> bool:
        return sorted(await names(server)) == sorted(expected)

    await eventually(right, within_s=within_s)


async def contents(server: ServerProcess) -> dict[str, object]:
    """Everything served, less what says when and in which order."""
    found: dict[str, object] = {}
    for resource in ("packages", "packagerevisions"):
        for item in (await asyncio.to_thread(server.list, resource))["items"]:
            metadata = item["metadata"]
            found[metadata["name"]] = (item["spec"], item["status"], metadata["labels"], metadata["uid"])
    return found


# --- one server -------------------------------------------------------------------------------------------------------


async def test_a_repository_is_created_changed_suspended_and_deleted_while_a_server_runs(
    world: World, tmp_path: Path
) -> None:
    server = await world.server()
    await world.push(files(tmp_path / "1", "app"))
    world.create()
    await served(server, "c.app")
    await world.ready("Synced")
    [item] = (await asyncio.to_thread(server.list, "packages"))["items"]
    assert item["metadata"]["namespace"] == "team"
    assert "ownerReferences" not in item["metadata"]
    assert (world.status()["packages"], world.status()["observedGeneration"]) == (1, 1)

    await world.push(files(tmp_path / "2", "app", "db"))
    world.request_sync("one")
    await served(server, "c.app", "c.db")
    await eventually(lambda: world.status().get("lastHandledReconcileAt") == "one")

    world.change(lambda found: found["spec"].update(suspend=True))
    await world.ready("Suspended")
    await world.push(files(tmp_path / "3", "web"))
    world.registry.forget()
    world.request_sync("two")
    await world.heard_of_all("one")
    assert world.registry.requests() == []
    world.change(lambda found: found["spec"].update(suspend=False))
    await served(server, "c.web")
    await world.ready("Synced")

    await world.push(files(tmp_path / "4", "other"), "v2")
    image = f"{world.registry.host}/team/catalog:v2"
    world.change(lambda found: found["spec"]["source"]["oci"].update(image=image))
    await served(server, "c.other")
    await eventually(lambda: world.status()["observedGeneration"] == 4)
    assert set(world.events()) == {("Normal", "Synced")}

    world.delete()
    await served(server)
    with pytest.raises(RefusedError, match="404"):
        await asyncio.to_thread(server.get, "/apis/config.cacheserver.dev/v1alpha1/repositories")
    assert "Traceback" not in server.log()


async def test_what_cannot_be_is_said_in_status_and_stops_nobody(world: World, tmp_path: Path) -> None:
    server = await world.server()
    await world.push(files(tmp_path / "1", "app"))
    world.kube.put(f"{REPOSITORIES}/local", {"spec": {"source": {"directory": {"path": "/etc"}}}})
    world.kube.put(f"{REPOSITORIES}/d.o.t", {"spec": {"source": {"oci": {"image": "h/a:v1"}}}})
    world.create()
    await world.ready("SpecInvalid", "local", status="False")
    await world.ready("SpecInvalid", "d.o.t", status="False")
    await world.ready("Synced")
    assert world.condition("Stalled", "local") == ("True", "SpecInvalid")
    said = {c["type"]: c["message"] for c in world.status("local")["conditions"]}
    assert "standalone only" in said["Ready"]
    assert ("Warning", "SyncFailed") in world.events()
    world.create("local")
    await world.ready("Synced", "local")
    await served(server, "c.app", "local.app")
    assert world.condition("Stalled", "local") == ("False", "NotStalled")


async def test_credentials_are_found_used_rotated_and_never_shown(world: World, tmp_path: Path) -> None:
    accepted = [PASSWORD]

    def guard(request: web.Request) -> web.StreamResponse | None:
        wanted = [f"Basic {base64.b64encode(f'puller:{word}'.encode()).decode()}" for word in accepted]
        if request.headers.get("Authorization") in wanted:
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="test"'})

    def secret(password: str) -> dict[str, Any]:
        auths = {world.registry.host: {"username": "puller", "password": password}}
        content = base64.b64encode(json.dumps({"auths": auths}).encode()).decode()
        return {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": content}}

    world.registry.intercept = guard
    await world.push(files(tmp_path / "1", "app"))
    server = await world.server()
    world.create(secretRef={"name": "pull"})
    await world.ready("SecretNotFound", status="False")
    world.kube.put(f"{SECRETS}/pull", secret(PASSWORD))
    world.request_sync("the secret is there")
    await world.ready("Synced")
    accepted[:] = [NEW_PASSWORD]
    world.request_sync("the registry wants another")
    await world.ready("AuthenticationFailed", status="False")
    await served(server, "c.app")
    world.kube.put(f"{SECRETS}/pull", secret(NEW_PASSWORD))
    world.request_sync("it was rotated")
    await world.ready("Synced")
    world.kube.deny(f"{SECRETS}/pull", 403)
    world.request_sync("and then forbidden")
    await world.ready("SecretForbidden", status="False")
    shown = server.log() + json.dumps(world.status()) + json.dumps(world.kube.objects(EVENTS))
    for word in (PASSWORD, NEW_PASSWORD, secret(PASSWORD)["data"][".dockerconfigjson"]):
        assert word not in shown
        assert base64.b64encode(f"puller:{word}".encode()).decode() not in shown


async def test_while_the_host_api_is_away_ingestion_goes_on_and_status_follows_later(
    world: World, tmp_path: Path
) -> None:
    server = await world.server()
    await world.push(files(tmp_path / "1", "app"))
    world.create()
    await world.ready("Synced")
    world.kube.deny("/apis/config.cacheserver.dev/v1alpha1", 503)
    world.kube.hang_up()
    await world.push(files(tmp_path / "2", "db"))
    server.signal(signal.SIGHUP)
    await served(server, "c.db")
    before = world.status()["digest"]
    world.create("new")
    world.kube.deny("/apis/config.cacheserver.dev/v1alpha1", 0)
    await eventually(lambda: world.status()["digest"] != before, within_s=40)
    await served(server, "c.db", "new.db", within_s=40)


async def test_what_went_while_no_server_ran_is_cleaned_up_at_the_next_start(world: World, tmp_path: Path) -> None:
    server = await world.server()
    await world.push(files(tmp_path / "1", "app"))
    world.create()
    world.create("gone")
    world.create("again")
    await served(server, "again.app", "c.app", "gone.app")
    await asyncio.to_thread(server.stop)
    world.delete("gone")
    world.delete("again")
    world.create("again")  # another object of the same name
    await asyncio.to_thread(server.start)
    await served(server, "again.app", "c.app")
    await world.ready("Synced", "again")


async def test_a_namespaced_installation_serves_its_namespaces_only(world: World, tmp_path: Path) -> None:
    await world.push(files(tmp_path / "1", "app"))
    world.create()
    elsewhere = REPOSITORIES.replace("/team/", "/elsewhere/")
    world.kube.put(f"{elsewhere}/x", {"spec": world.kube.get(f"{REPOSITORIES}/c")["spec"]})
    server = await world.server("--watch-namespaces", "team,absent")
    await served(server, "c.app")
    await world.ready("Synced")
    assert "status" not in world.kube.get(f"{elsewhere}/x")
    assert "GET /apis/config.cacheserver.dev/v1alpha1/repositories" not in world.kube.calls


# --- two servers ------------------------------------------------------------------------------------------------------


async def undisturbed(world: World, start_etcd: StartEtcd, tag: str) -> dict[str, object]:
    """What one server alone makes of the repository."""
    etcd = world.etcd
    world.etcd = await asyncio.to_thread(start_etcd)
    server = await world.server()
    world.create(tag=tag)
    await world.ready("Synced", within_s=60)
    found = await contents(server)
    await asyncio.to_thread(server.stop)
    world.etcd = etcd
    world.change(lambda repository: repository.pop("status"))
    return found


def many() -> Sequence[str]:
    return [f"p{n:02}" for n in range(PACKAGES)]


async def some_of(server: ServerProcess, recorder: Recorder, enough: int) -> None:
    await eventually(lambda: len(recorder.events) >= enough, within_s=30)
    assert len(recorder.events) < PACKAGES * REVISIONS, "too late to disturb anything"


async def test_kill_9_of_the_leader_in_an_ingest_ends_as_if_nothing_had_happened(
    world: World, start_etcd: StartEtcd, tmp_path: Path
) -> None:
    await world.push(files(tmp_path / "1", *many(), revisions=REVISIONS))
    expected = await undisturbed(world, start_etcd, "v1")
    world.change(lambda found: found["spec"].update(suspend=True))
    leader, other = await world.two_servers()
    async with Recorder(leader, "packagerevisions", "0") as there, Recorder(other, "packagerevisions", "0") as here:
        world.change(lambda found: found["spec"].update(suspend=False))
        await some_of(leader, there, 50)
        leader.kill()
        there.server = other
        await eventually(lambda: leads(other), within_s=TAKE_OVER_S)
        await world.ready("Synced", within_s=60)
        await eventually(lambda: len(there.events) >= PACKAGES * REVISIONS, within_s=30)
        await eventually(lambda: len(here.events) >= PACKAGES * REVISIONS, within_s=30)
    assert await contents(other) == expected
    everything = [("ADDED", name) for name in expected if name.count(".") > 1]
    assert sorted(there.events) == sorted(here.events) == sorted(everything)
    assert world.condition("Reconciling") == ("False", "Idle")
    assert world.status()["revisions"] == PACKAGES * REVISIONS


async def test_a_leader_that_was_stopped_past_its_lease_changes_nothing_when_it_wakes(
    world: World, start_etcd: StartEtcd, tmp_path: Path
) -> None:
    await world.push(files(tmp_path / "3", *many(), revisions=2, text="third"), "v3")
    expected = await undisturbed(world, start_etcd, "v3")
    world.change(lambda found: found["spec"].update(suspend=True))
    await world.push(files(tmp_path / "2", *many(), revisions=REVISIONS, text="second"), "v2")
    leader, other = await world.two_servers()
    image = f"{world.registry.host}/team/catalog:"

    def use(tag: str) -> None:
        oci = {"image": image + tag, "insecure": True}
        world.change(lambda found: found.update(spec={"source": {"oci": oci}}))

    async with Recorder(other, "packagerevisions", "0") as seen:
        use("v2")
        await some_of(other, seen, 50)
        leader.signal(signal.SIGSTOP)
        try:
            use("v3")
            await eventually(lambda: leads(other), within_s=TAKE_OVER_S)
            await eventually(lambda: world.status().get("revisions") == PACKAGES * 2, within_s=60)
            await world.ready("Synced")
            assert await contents(other) == expected
            settled, said = len(seen.events), world.status()
        finally:
            leader.signal(signal.SIGCONT)
        await eventually(lambda: "lost its lease" in leader.log() and "standing by" in leader.log(), within_s=30)
        await contents(leader)
        await world.heard_of_all("fence")  # what it had in flight has arrived now
        assert (len(seen.events), world.status()) == (settled, said)
    assert await contents(other) == await contents(leader) == expected
