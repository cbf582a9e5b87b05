"""The NetworkPolicies of our manifests, by a program that enforces them: who reaches which port, and who does not.

With that program every test here runs under policies: probes, aggregation, etcd, git and the doors work as they are.
Without it nothing of this file is judged; tests/unit/test_network_policies.py reads them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from tests.support.installed import Installed
from tests.support.node import ADDRESS, POLICIES
from tests.support.waiting import until

pytestmark = pytest.mark.node

NAMESPACES: Final = ("olm", "olmv1-system", "monitoring", "shop")
OURS: Final = "app.kubernetes.io/name=cacheserver"
"""The label of our server, which is worth nothing in another namespace."""
SERVER: Final = "app.kubernetes.io/component=server"
CLOUD: Final = "169.254.169.254"
"""Where clouds hand out credentials; here a socket of the test's."""
KUBELET: Final = (ADDRESS, 10250)
KUBERNETES: Final = ("10.96.0.1", 443)
TRIED: Final = """\
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(place):
    try:
        socket.create_connection(place[1], timeout=3).close()
    except OSError:
        return False
    return True
places = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(places)) as pool:
    print(json.dumps([name for (name, _), is_there in zip(places, pool.map(reached, places)) if is_there]))
"""
STRANGERS: Final = frozenset({"api", "git", "kubernetes", "kubelet", "cloud"})
"""What any pod reaches: the API asks everybody who they are, and the rest is none of ours."""


@pytest.fixture(scope="module")
def guarded(installed: Installed) -> Iterator[Installed]:
    """With a pod that does nothing in namespaces that policies know, and something that answers at CLOUD."""
    if not installed.node.enforces:
        pytest.skip(f"NOBODY ENFORCES NETWORK POLICIES: {POLICIES} names no program that does")
    for namespace in NAMESPACES:
        installed.stranger(namespace)
    subprocess.run(["ip", "address", "add", f"{CLOUD}/32", "dev", "lo"], check=True)
    with contextlib.closing(socket.create_server((CLOUD, 443))):
        yield installed
    subprocess.run(["ip", "address", "del", f"{CLOUD}/32", "dev", "lo"], check=True)


def pod_of(installed: Installed, namespace: str, label: str) -> Mapping[str, Any]:
    flags = (f"--selector={label}", "--field-selector=status.phase=Running")
    found: Mapping[str, Any] = installed.admin.json("-n", namespace, "get", "pods", *flags)["items"][0]
    return found


def reached(installed: Installed, pod: Mapping[str, Any]) -> frozenset[str]:
    """What a process in the network of that pod can connect to, of all there is."""

    def service(namespace: str, name: str) -> str:
        flags = ("-o", "jsonpath={.spec.clusterIP}")
        return installed.admin.run("-n", namespace, "get", "service", name, *flags)

    etcd = installed.pods("etcd")[0]["status"]["podIP"]
    places = {
        "api": (service("cacheserver", "cacheserver"), 443),
        "catalogs": (service("cacheserver", "cacheserver-catalogs"), 443),
        "registry": (service("cacheserver", "community"), 50051),
        "git": (service("git", "git"), 443),
        "etcd": (etcd, 2379),
        "etcd's peers": (etcd, 2380),
        "etcd's metrics": (etcd, 2381),
        "kubernetes": KUBERNETES,
        "kubelet": KUBELET,
        "cloud": (CLOUD, 443),
    }
    [status] = pod["status"]["containerStatuses"]
    network = installed.node.proc(status["containerID"].partition("://")[2]) / "ns" / "net"
    command = ["nsenter", f"--net={network}", sys.executable, "-c", TRIED, json.dumps(list(places.items()))]
    return frozenset(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout))


@pytest.mark.parametrize(
    ("namespace", "label", "wanted"),
    [
        ("shop", OURS, STRANGERS),
        ("git", "app=git", STRANGERS),
        ("olm", OURS, STRANGERS | {"registry"}),
        ("olmv1-system", OURS, STRANGERS | {"catalogs"}),
        ("monitoring", OURS, STRANGERS | {"etcd's metrics"}),
        ("cacheserver", SERVER, {"etcd", "git", "kubernetes"}),
        ("cacheserver", "app.kubernetes.io/name=etcd", {"etcd", "etcd's peers", "etcd's metrics"}),  # itself
    ],
)
def test_a_pod_reaches_what_policies_open_to_it_and_nothing_else(
    guarded: Installed, namespace: str, label: str, wanted: frozenset[str]
) -> None:
    look = functools.partial(reached, guarded, pod_of(guarded, namespace, label))
    # Whoever enforces them hears of pods a moment later.
    # kube-router lets a server out to what the same policy lets in, which is other servers' API.
    unjudged = {"api"} if label == SERVER else set()
    until(lambda: look() - unjudged == wanted, within_s=60, otherwise=lambda: f"reached: {sorted(look())}")
