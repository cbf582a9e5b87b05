"""Every connection that the server and its etcd make or take has a rule in the NetworkPolicies, and nothing else does.

Judges as a network plugin would, from the files alone. What opens a connection is found in the code, and what names an
address among the settings: one more of either fails here until its connections are listed, and have a rule.
"""

from __future__ import annotations

import ast
import functools
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cacheserver.config import SETTINGS, Settings, load
from tests.unit.test_manifests import CONFIGS, DOORS, KUBERNETES, OVERLAYS, deployment, documents, objects

pytestmark = pytest.mark.processes  # it starts none, but reads all of the code, which takes seconds

PACKAGE = Path(__file__).parents[2] / "cacheserver"
NAMESPACE = "cacheserver"
NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Peer:
    """A pod (labels, and its namespace), or an address outside."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = NAMESPACE
    address: str = ""


def labels_of(workload: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def statefulset() -> Mapping[str, Any]:
    [found] = documents(CONFIGS / "etcd" / "base" / "statefulset.yaml")
    return found


SERVER = Peer(labels_of(deployment()))
ETCD = Peer(labels_of(statefulset()))
NAMES = Peer({"k8s-app": "kube-dns"}, "kube-system")
ANYWHERE = Peer(address="203.0.113.7")
ANYWHERE_6 = Peer(address="2001:db8::7")
STRANGER = Peer({"app": "shop"}, "shop")


PORTS = sorted(
    {at + by for at in (22, 53, 80, 443, 2379, 2382, 6443, 8443, 9090, 10250, 50051, 50069) for by in (-1, 0, 1)}
)
"""Those that anything listens on, and their neighbours."""


@functools.cache
def policies(*components: str) -> list[Mapping[str, Any]]:
    """Of the server, its etcd, and these doors."""
    places = [
        KUBERNETES / "base",
        CONFIGS / "etcd" / "base",
        *(KUBERNETES / "components" / each for each in components),
    ]
    return [each for place in places if (place / "network.yaml").exists() for each in documents(place / "network.yaml")]


# --- what a plugin does -------------------------------------------------------------------------------------------


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    for wanted in selector.get("matchExpressions", ()):
        assert wanted["operator"] == "In"
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return dict(selector.get("matchLabels", {})).items() <= labels.items()


def names(rule: Mapping[str, Any], other: Peer) -> bool:
    assert set(rule) <= {"podSelector", "namespaceSelector", "ipBlock"}
    if block := rule.get("ipBlock"):
        address = ipaddress.ip_address(other.address or "10.1.2.3")
        # A range of one family holds no address of the other.
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(each) for each in block.get("except", ())
        )
    if other.address:
        return False
    spaces = rule.get("namespaceSelector")
    inside = other.namespace == NAMESPACE if spaces is None else selects(spaces, {NAME: other.namespace})
    return inside and selects(rule.get("podSelector", {}), other.labels)


def opens(ports: Sequence[Mapping[str, Any]], port: int, protocol: str, named: Mapping[str, int]) -> bool:
    for each in ports:
        first = named.get(each["port"], each["port"])
        if each.get("protocol", "TCP") == protocol and first <= port <= each.get("endPort", first):
            return True
    return not ports


@functools.cache
def named_ports(server: bool) -> Mapping[str, int]:
    workload = deployment() if server else statefulset()
    [container] = workload["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["containerPort"] for each in container["ports"]}


def lets(direction: str, pod: Peer, other: Peer, port: int, protocol: str, among: Sequence[Mapping[str, Any]]) -> bool:
    """Whether `pod` may take a connection of `other` ("Ingress"), or make one to it ("Egress")."""
    judges = [
        each["spec"]
        for each in among
        if direction in each["spec"]["policyTypes"] and selects(each["spec"]["podSelector"], pod.labels)
    ]
    ends = "from" if direction == "Ingress" else "to"
    return not judges or any(
        opens(rule.get("ports", ()), port, protocol, named_ports(pod is SERVER))
        and (not rule.get(ends) or any(names(each, other) for each in rule[ends]))
        for judge in judges
        for rule in judge.get(direction.lower(), ())
    )


def may_connect(one: Peer, to: Peer, port: int, protocol: str = "TCP", *, doors: Sequence[str] = ()) -> bool:
    """Both ends are asked where both are ours."""
    among, ours = policies(*doors), (SERVER, ETCD)
    leaves = one not in ours or lets("Egress", one, to, port, protocol, among)
    return leaves and (to not in ours or lets("Ingress", to, one, port, protocol, among))


# --- what there is ------------------------------------------------------------------------------------------------


def settings_of(overlay: str, tmp_path: Path, *components: str) -> Settings:
    """As the Deployment has them, with those of an overlay and of these components."""
    given: dict[str, str] = {}
    files = [KUBERNETES / "base" / "deployment.yaml"]
    files += [KUBERNETES / overlay / "members.yaml"] if overlay == "production" else []
    files += [KUBERNETES / "components" / each / "settings.yaml" for each in components]
    for patch in (each for path in files if path.exists() for each in documents(path)):
        [container] = patch["spec"]["template"]["spec"]["containers"]
        given |= {each["name"]: each["value"] for each in container.get("env", ())}
    for name in [name for name in given if name.endswith("_FILE")]:
        mounted = tmp_path / given[name].lstrip("/")
        mounted.parent.mkdir(parents=True, exist_ok=True)
        mounted.touch()
        given[name] = str(mounted)
    return load({}, given, cwd=tmp_path)


def listeners(settings: Settings) -> dict[str, int]:
    """The ports of a server, by the setting that names them."""
    serving = settings.serving
    found = {"listen": serving.listen.port}
    if serving.catalogs_listen is not None:
        found["catalogs-listen"] = serving.catalogs_listen.port
    return found | {f"registry {key}": address.port for key, address in settings.registries().items()}


ADDRESSES = {
    "--listen": "let in from anywhere",
    "--catalogs-listen": "let in by components/catalogs",
    "--registry": "let in by components/registry",
    "--etcd": "each endpoint, and etcd's own rule for us",
    "--kubernetes": "443 and 6443",
    "--catalog": "sources: 443, and 22 for git over SSH",
    "--catalogs-url": "told to others, asked by nobody here",
}
"""Settings that name an address, with what the tests below ask of it."""

CONNECTIONS = {
    "api/http/acceptor.py": "--listen, --catalogs-listen",
    "compat/registry/listener.py": "--registry, through Acceptor",
    "server/serve.py": "--listen, through Acceptor",
    "server/doors.py": "--catalogs-listen, through Acceptor",
    "etcd/http2.py": "--etcd",
    "cluster/kubeapi.py": "--kubernetes",
    "sources/oci/registry.py": "--catalog: 443",
    "sources/git/command.py": "--catalog: 443 and 22, by git",
    "client/connection.py": "a user's command, in no pod",
    "client/ui.py": "a user's command, in no pod",
    "children.py": "starts what the others ask for",
    "catalogs/workers.py": "a parse worker, which has no network",
    "headstart.py": "a parse worker, which has no network",
    "etcd/binary.py": "etcd --version",
    "etcd/embedded.py": "an etcd in the same pod, on loopback",
}
"""Files that open a connection, wait for one, or start a program that may."""

OPENERS = {
    "create_connection", "create_server", "start_server", "open_connection", "create_datagram_endpoint", "sock_connect",
    "secure_channel", "insecure_channel", "TCPConnector", "ClientSession", "HTTPConnection", "HTTPSConnection",
    "RestClient", "ApiClient", "urlopen", "Acceptor", "Popen", "children.start",
}  # fmt: skip


def openers() -> Iterator[str]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if {called, called.rpartition(".")[2]} & OPENERS:
                yield str(path.relative_to(PACKAGE))


# --- claims -------------------------------------------------------------------------------------------------------


def test_every_file_that_opens_a_connection_is_listed() -> None:
    assert set(openers()) == set(CONNECTIONS)


def test_every_setting_that_names_an_address_is_listed() -> None:
    kinds = re.compile(r"HOST:PORT|URL|SOURCE|in-cluster")
    assert {each.flag for each in SETTINGS if kinds.search(each.kind.metavar)} == set(ADDRESSES)


def test_the_api_is_let_in_from_anywhere_and_nothing_else_is(tmp_path: Path) -> None:
    settings = settings_of("", tmp_path)
    for one in (ANYWHERE, ANYWHERE_6, STRANGER):
        assert [port for port in PORTS if may_connect(one, SERVER, port)] == [*listeners(settings).values()]
    assert not may_connect(ANYWHERE, SERVER, settings.serving.listen.port, "UDP")


@pytest.mark.parametrize(("door", "client"), [("catalogs", "olmv1-system"), ("registry", "olm")])
def test_a_door_is_let_in_from_its_clients_and_not_from_strangers(door: str, client: str, tmp_path: Path) -> None:
    settings = settings_of("", tmp_path, door)
    ports = [port for name, port in listeners(settings).items() if name != "listen"]
    assert ports
    for port in ports:
        assert may_connect(Peer({"app": "theirs"}, client), SERVER, port, doors=[door])
        assert not may_connect(Peer({"app": "theirs"}, client), SERVER, port)
        for one in (STRANGER, ANYWHERE, ETCD):
            assert not may_connect(one, SERVER, port, doors=[door])


@pytest.mark.parametrize("overlay", ["", *OVERLAYS])
def test_the_server_reaches_each_member_of_its_etcd(overlay: str, tmp_path: Path) -> None:
    for endpoint in settings_of(overlay, tmp_path).etcd.endpoints:
        parts = urlsplit(endpoint)
        assert parts.hostname
        assert parts.hostname.endswith(f".etcd-peers.{NAMESPACE}.svc")
        assert may_connect(SERVER, ETCD, parts.port or 0)
        assert not may_connect(STRANGER, ETCD, parts.port or 0)


@pytest.mark.parametrize("host", [ANYWHERE, ANYWHERE_6])
def test_the_server_reaches_what_sources_and_kubernetes_are_and_no_cloud_credentials(host: Peer) -> None:
    assert [port for port in PORTS if may_connect(SERVER, host, port)] == [22, 443, 6443]
    for address in ("169.254.169.254", "169.254.170.2", "fd00:ec2::254", "fe80::a9fe:a9fe"):
        assert not [port for port in (22, 80, 443, 6443) if may_connect(SERVER, Peer(address=address), port)]


@pytest.mark.parametrize("pod", [SERVER, ETCD])
def test_names_are_asked_of_the_clusters_own_server_alone(pod: Peer) -> None:
    for protocol in ("UDP", "TCP"):
        assert may_connect(pod, NAMES, 53, protocol)
        assert not may_connect(pod, STRANGER, 53, protocol)


def test_members_of_etcd_reach_each_other_and_nothing_else() -> None:
    assert may_connect(ETCD, ETCD, 2380)
    assert not may_connect(SERVER, ETCD, 2380)
    assert not [port for port in PORTS if may_connect(ETCD, ANYWHERE, port)]
    assert not may_connect(ETCD, SERVER, 8443)


def test_each_port_that_etcd_listens_on_has_a_rule() -> None:
    [container] = statefulset()["spec"]["template"]["spec"]["containers"]
    listens = [
        urlsplit(value) for name, _, value in (a.partition("=") for a in container["args"]) if "-listen-" in name
    ]
    outside = {each.port for each in listens if each.hostname != "127.0.0.1"}
    rules = [each for each in policies() if each["metadata"]["name"] == "etcd"]
    assert outside == {port["port"] for each in rules for rule in each["spec"]["ingress"] for port in rule["ports"]}


def test_prometheus_reaches_what_it_scrapes_and_scrapes_no_door(tmp_path: Path) -> None:
    settings = settings_of("", tmp_path, *DOORS)
    prometheus = Peer({"app.kubernetes.io/name": "prometheus"}, "monitoring")
    assert may_connect(prometheus, SERVER, settings.serving.listen.port)
    assert may_connect(prometheus, ETCD, 2381)
    [ours] = [each for each in objects("components/monitoring") if each["metadata"]["name"] == NAMESPACE
              and each["kind"] == "ServiceMonitor"]  # fmt: skip
    [endpoint] = ours["spec"]["endpoints"]
    services = [
        each for each in objects("base", *(f"components/{door}" for door in DOORS)) if each["kind"] == "Service"
    ]
    scraped = {
        port["targetPort"]
        for service in services
        if selects(ours["spec"]["selector"], service["metadata"]["labels"])
        for port in service["spec"]["ports"]
        if port["name"] == endpoint["port"]
    }
    assert scraped == {"https"}
