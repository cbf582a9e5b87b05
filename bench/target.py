"""A server as the questions see it, and the paths they use. Peers and TLS come in here."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from bench.errors import BenchError
from bench.load.http import address

API: Final = "/apis/cacheserver.dev/v1alpha1"
NAMESPACED: Final = f"{API}/namespaces/default"
TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
_LATER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server that can be asked. Anything that answers the same requests at a URL can be here, a peer as well.

    pids: whose CPU is the server's. headers: on every request, a bearer token among them. ca: file with the
    certificates that an https server's must lead to. certificate, key: files of what clients show; empty: nothing.
    packages: path of the collection that holds the shape's objects.
    """

    url: str
    pids: Sequence[int] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    ca: str = ""
    certificate: str = ""
    key: str = ""
    packages: str = f"{NAMESPACED}/packages"


def fetch(target: Target, path: str) -> bytes:
    """The body of one answer; nothing is measured. Who is told to come back later does so, for a minute: kube-apiserver
    says it of a kind that it has not read yet. Raises: BenchError unless the status is 200.
    """
    give_up_at = time.monotonic() + _LATER_S
    status, body = _answer(target, path)
    while status == 429 and time.monotonic() < give_up_at:
        time.sleep(1)
        status, body = _answer(target, path)
    if status != 200:
        raise BenchError(f"GET {path}: {status} {body[:300]!r}")
    return body


def _answer(target: Target, path: str) -> tuple[int, bytes]:
    host, port, tls = address(target.url, target.ca, target.certificate, target.key)
    plain, secure = http.client.HTTPConnection, http.client.HTTPSConnection
    connection = secure(host, port, context=tls, timeout=30) if tls else plain(host, port, timeout=30)
    try:
        connection.request("GET", path, headers=dict(target.headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def list_version(target: Target, path: str) -> int:
    """The resourceVersion at which a list of `path` is now. Raises: BenchError."""
    return int(list_metadata(fetch(target, f"{path}?limit=1"))["resourceVersion"])


def list_metadata(body: bytes) -> dict[str, str]:
    """A list's own metadata. Decoded, not searched for: a custom resource's list has its items in front of it.

    Raises: BenchError for what is not a list.
    """
    try:
        return dict(orjson.loads(body)["metadata"])
    except (ValueError, KeyError, TypeError) as exc:
        raise BenchError(f"no list: {body[:200]!r}") from exc


def until_indexed(target: Target) -> None:
    """Until the server has made its index of texts, behind its start. Raises: BenchError."""
    until = time.monotonic() + 120
    while True:
        try:
            fetch(target, f"{NAMESPACED}/packages?limit=1&search=operator")
            return
        except BenchError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
