"""Names of Services for pods of a test's node, as CoreDNS has them. Asks kube-apiserver at each question, keeps none.

Kubernetes, DNS for Services and Pods: `SERVICE.NAMESPACE.svc.cluster.local` is its address, or those of its ready pods
where it has none of its own; `POD.SERVICE...` a pod of such a Service. There is no other name.
"""

from __future__ import annotations

import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any, Self

from cacheserver.security.certs import Subject, Usage
from tests.support.asking import ask
from tests.support.kube import KubeAPIServer

DOMAIN = "cluster.local"
SERVICE = "10.96.0.10"
"""The address that pods ask."""
_ADDRESS, _CLASS_IN = 1, 1  # RFC 1035 sections 3.2.2 and 3.2.4
_HEAD = 12
_NO_SUCH_NAME = 3  # RFC 1035 section 4.1.1
_PASS_ON = """\
import socket, socketserver

class Question(socketserver.BaseRequestHandler):
    def handle(self):
        question, back = self.request
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ahead:
            ahead.settimeout(5)
            ahead.sendto(question, ("ADDRESS", 53))
            back.sendto(ahead.recv(4096), self.client_address)

socketserver.ThreadingUDPServer(("", 53), Question).serve_forever()
"""


class ClusterNames:
    """On port 53 of `address`, while the block lasts."""

    def __init__(self, kube: KubeAPIServer, address: str) -> None:
        self._url = kube.url
        self._context = ssl.create_default_context(cafile=kube.certificates.authority("server"))
        reader = Subject("names", Usage.CLIENT, groups=("system:masters",))
        self._context.load_cert_chain(*kube.certificates.issue("client", reader))
        names = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                question: tuple[bytes, socket.socket] = self.request
                names._answer(*question, self.client_address)

        self._server = socketserver.ThreadingUDPServer((address, 53), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, question: bytes, server: socket.socket, peer: Any) -> None:
        try:
            server.sendto(_answered(question, self._addresses(_asked(question)[0])), peer)
        except OSError:
            pass  # kube-apiserver is away, or the socket: who asked asks again

    def _addresses(self, name: str) -> Sequence[str] | None:
        """None: there is no such name."""
        *labels, namespace, svc = name.removesuffix(f".{DOMAIN}").split(".")
        if not name.endswith(DOMAIN) or svc != "svc" or len(labels) not in (1, 2):
            return None
        *pod, service = labels
        found = ask(f"{self._url}/api/v1/namespaces/{namespace}/services/{service}", context=self._context)
        if found.status != 200:
            return None
        address: str = found.json["spec"]["clusterIP"]
        if address != "None":
            return None if pod else [address]
        label = f"kubernetes.io%2Fservice-name%3D{service}"
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector={label}"
        slices = ask(f"{self._url}{path}", context=self._context).json["items"]
        return [
            address
            for each in slices
            for endpoint in each["endpoints"] or ()
            if endpoint["conditions"].get("ready") and pod in ([], [endpoint.get("hostname")])
            for address in endpoint["addresses"]
        ] or None


def pods_way(image: str, address: str) -> Sequence[Mapping[str, Any]]:
    """A pod, of an image with Python, that passes questions on to ClusterNames at `address`, and its Service.

    Names are asked of a pod in kube-system, as NetworkPolicies suppose.
    """
    named = {"name": "kube-dns", "namespace": "kube-system"}
    label = {"k8s-app": "kube-dns"}
    container = {
        "name": "names",
        "image": image,
        "command": ["python3", "-c", _PASS_ON.replace("ADDRESS", address)],
        "securityContext": {"runAsUser": 0},  # for port 53
    }
    pod = {"containers": [container], "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {**named, "labels": label}, "spec": pod},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": named,
            "spec": {"clusterIP": SERVICE, "selector": label, "ports": [{"port": 53, "protocol": "UDP"}]},
        },
    ]


def _asked(question: bytes) -> tuple[str, int]:
    """Name, in lower case and without the dot at its end, and type of record of a question (RFC 1035 section 4.1)."""
    labels, end = [], _HEAD
    while size := question[end]:
        labels.append(question[end + 1 : end + 1 + size].decode("ascii", "replace").lower())
        end += size + 1
    (kind,) = struct.unpack_from(">H", question, end + 1)
    return ".".join(labels), kind


def _answered(question: bytes, addresses: Sequence[str] | None) -> bytes:
    """The question again, and a record for each address; none where something else is asked for. None: no such name."""
    name, kind = _asked(question)
    end = _HEAD + len(name) + 2 + 4
    records = [
        struct.pack(">HHHIH", 0xC00C, _ADDRESS, _CLASS_IN, 0, 4) + IPv4Address(each).packed
        for each in (addresses or ())
        if kind == _ADDRESS
    ]
    flags = 0x8580 | (_NO_SUCH_NAME if addresses is None else 0)
    head = question[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0)
    return head + question[_HEAD:end] + b"".join(records)
