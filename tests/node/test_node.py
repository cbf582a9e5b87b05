"""On a real node: the image and the manifests as they are shipped, installed as docs/cluster.md says, and what befalls
nodes. Run by `make node`; CONTRIBUTING.md says what it needs.

What is judged here is what no test of processes sees: the pod's user and file system, its limits, probes, mounted
Secrets, Services, volumes, and what happens to readers while pods come and go.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.e2e.test_client_ui import Opened
from tests.support import olm
from tests.support.installed import API, PACKAGES, ROOT, Installed, Reader
from tests.support.node import NAME, find_node
from tests.support.waiting import until

pytestmark = pytest.mark.node

SERVERS: Final = "app.kubernetes.io/name=cacheserver,app.kubernetes.io/component=server"
BERLIN: Final = (ROOT / "examples" / "authoring" / "berlin.yaml").read_text().replace("site.local", "site.v1")


def test_there_is_a_node_or_it_is_said_aloud() -> None:
    found = find_node()
    if isinstance(found, list):
        pytest.skip(f"NO NODE, for want of: {'; '.join(found)}; nothing here was tested on one")


def test_the_installation_works_as_it_is_typed(installed: Installed, typed: str) -> None:
    assert "apiservice.apiregistration.k8s.io/v1alpha1.cacheserver.dev condition met" in typed
    doctor = typed.partition("condition met")[2]
    assert "fail" not in doctor.lower(), doctor
    assert all(pod["status"]["phase"] == "Running" for name in ("cacheserver", "etcd") for pod in installed.pods(name))


@pytest.mark.parametrize(("workload", "user"), [("cacheserver", 65532), ("etcd", 1001)])
def test_a_pod_has_no_more_rights_than_its_manifest_says(installed: Installed, workload: str, user: int) -> None:
    for pod in installed.pods(workload):
        [status] = pod["status"]["containerStatuses"]
        proc = installed.node.proc(status["containerID"].partition("://")[2])
        told = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
        assert told["Uid"].split() == [str(user)] * 4
        assert [int(told[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")] == [0] * 4
        assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")  # 2: a filter (proc(5))
        mounts = [line.split() for line in (proc / "mounts").read_text().splitlines()]
        assert "ro" in next(options for _, at, _, options, *_ in mounts if at == "/").split(",")


def test_the_server_finds_its_limit_of_memory_and_its_files(installed: Installed) -> None:
    for pod in installed.pods("cacheserver"):
        [status] = pod["status"]["containerStatuses"]
        assert installed.node.memory_limit(status["containerID"].partition("://")[2]) == 3 << 30
        for directory in ("/tmp", "/var/lib/cacheserver"):
            installed.in_server("touch", f"{directory}/written", pod=pod["metadata"]["name"])


def test_a_package_is_drafted_approved_and_pushed_to_git_in_the_cluster(installed: Installed) -> None:
    admin = installed.admin
    inside = ("-n", "packages")
    admin.run(*inside, "create", "-f", "-", stdin=BERLIN)
    editor = {"KUBE_EDITOR": "sed -i 's/replicas: 1/replicas: 3/'"}
    admin.run(*inside, "edit", "cpkgres", "edge.berlin.first", environ=editor)
    for step in ("Proposed", "Published"):
        patch = json.dumps({"spec": {"lifecycle": step}})
        admin.run(*inside, "patch", "cpkgrev", "edge.berlin.first", "--type=merge", "-p", patch)
    log = installed.in_git("log", "--format=%s%d", "main")
    assert "Approving package revision berlin/1" in log
    assert "tag: berlin/v1" in log
    assert "replicas: 3" in installed.in_git("show", "berlin/v1:berlin/till.yaml")


def test_olm_reads_the_registry_by_its_service(installed: Installed) -> None:
    grpcurl = olm.program(olm.GRPCURL)
    address = installed.admin.run(
        "-n", "cacheserver", "get", "service", "community", "-o", "jsonpath={.spec.clusterIP}"
    )
    until(lambda: olm.accepts(f"{address}:50051"), within_s=60)
    called = olm.grpcurl(grpcurl, f"{address}:50051", "api.Registry/ListPackages")
    assert len(called.messages) == PACKAGES


def shown(installed: Installed, kind: str) -> bool:
    return len(installed.admin.json("-n", "packages", "get", kind)["items"]) == PACKAGES


def test_views_and_catalogs_are_served_by_their_services(installed: Installed) -> None:
    for kind in ("packagemanifests", "packages.core.rukpak.io"):
        until(functools.partial(shown, installed, kind), within_s=60)
    authority = installed.in_server("cat", "/etc/cacheserver/serving/ca.crt")
    asked = (
        "import ssl, sys, urllib.request as r; c = ssl.create_default_context(cadata=sys.argv[1]);"
        "print(len(r.urlopen('https://cacheserver-catalogs.cacheserver.svc/catalogs/community.packages/api/v1/all',"
        " context=c).read()))"
    )
    theirs = "olmv1-system"  # from where its policy lets clients in
    installed.stranger(theirs)
    told = installed.admin.run("-n", theirs, "exec", "one", "--", "python3", "-c", asked, authority)
    assert int(told) > 1000


def test_the_page_comes_through_the_users_kubectl(installed: Installed) -> None:
    kubectl = {"PATH": f"{installed.node.kube.kubectl.parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "cacheserver.client.main", "ui", "--no-browser"]
    command += ["--kubeconfig", str(installed.kubeconfig)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **kubectl}) as process:
        try:
            assert process.stdout is not None
            at = urlsplit(process.stdout.readline().strip())
            assert at.port is not None
            page = Opened(process, at.port, at.query.removeprefix("secret="))
            page.begin()
            assert b"<!doctype html>" in page.ask("/ui/")[2]
            status, _, body = page.ask(f"{API}/namespaces/packages/packages")
            assert (status, len(json.loads(body)["items"]) >= PACKAGES) == (200, True)
        finally:
            process.terminate()
            process.wait(20)


def test_no_read_fails_while_every_replica_is_replaced(installed: Installed) -> None:
    before = {pod["metadata"]["uid"] for pod in installed.pods("cacheserver")}
    with Reader(installed) as reader:
        installed.admin.run("-n", "cacheserver", "rollout", "restart", "deployment/cacheserver")
        installed.settle()
    assert not before & {pod["metadata"]["uid"] for pod in installed.pods("cacheserver")}
    assert reader.failed == []
    assert reader.read > 50


def served(installed: Installed) -> dict[str, str]:
    """uids of packages and revisions by name, an object made anew has another one; nothing while nobody answers."""
    found = {}
    for kind in ("packages", "packagerevisions"):
        answer = installed.ask(f"{API}/namespaces/packages/{kind}")
        for each in answer.json["items"] if answer.status == 200 else ():
            found[f"{kind}/{each['metadata']['name']}"] = each["metadata"]["uid"]
    return found


def lost(installed: Installed, before: dict[str, str]) -> list[str]:
    """What is not served any more, or is another one; a draft that is pushed meanwhile brings a package."""
    now = served(installed)
    return [name for name, uid in before.items() if now.get(name) != uid]


def test_an_eviction_of_everything_loses_nothing(installed: Installed) -> None:
    """`kubectl drain`, with what disruption budgets say, of the only node there is; etcd gets its volume again."""
    installed.draft("evicted")
    before = served(installed)
    installed.admin.run("cordon", NAME)
    etcd = installed.pods("etcd")[0]["metadata"]["uid"]
    flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=app.kubernetes.io/name=etcd")
    installed.admin.run("drain", NAME, *flags, "--timeout=120s", timeout_s=150)
    # The server answers what it has while etcd is nowhere.
    assert len(installed.ask(f"{API}/namespaces/packages/packages?resourceVersion=0").json["items"]) >= PACKAGES
    # Its budget holds: of two replicas, with nowhere to go, one stays.
    servers = ("--delete-emptydir-data", f"--pod-selector={SERVERS}")
    installed.admin.refused("drain", NAME, *servers, "--timeout=20s", timeout_s=60)
    assert len([p for p in installed.pods("cacheserver") if p["status"]["phase"] == "Running"]) >= 1
    installed.admin.run("uncordon", NAME)
    installed.settle()
    assert installed.pods("etcd")[0]["metadata"]["uid"] != etcd
    until(lambda: lost(installed, before) == [], within_s=60, otherwise=lambda: str(lost(installed, before)))


def containers(installed: Installed) -> set[str]:
    """Those that run, by the word of their node."""
    pods = [*installed.pods("cacheserver"), *installed.pods("etcd")]
    statuses = [status for pod in pods for status in pod["status"].get("containerStatuses", ())]
    return {status["containerID"] for status in statuses if status["ready"]}


def test_a_power_cut_loses_nothing_that_was_answered(installed: Installed) -> None:
    installed.draft("cut")
    before, ran = served(installed), containers(installed)
    assert len(ran) == 3
    installed.node.cut()
    installed.node.boot()
    until(lambda: len(containers(installed) - ran) == 3, within_s=300, otherwise=installed.told)
    installed.settle()
    until(lambda: lost(installed, before) == [], within_s=120, otherwise=lambda: str(lost(installed, before)))
    patch = json.dumps({"metadata": {"labels": {"after": "cut"}}})
    installed.admin.run("-n", "packages", "patch", "cpkgrev", "edge.cut.w", "--type=merge", "-p", patch)
