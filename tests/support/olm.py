"""Programs of OLM that a test asks, or asks with: found through variables, never fetched; CONTRIBUTING.md lists them.

A test without its program is skipped and says so. What a program answers about a catalog is the reference: our doors
have to answer the same about the same catalog.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pytest
from aiohttp import web

from bench.errors import BenchError
from bench.peers import pod
from cacheserver.etcd.supervise import command
from tests.fakes.kube import SERVICE_TOKEN, KubeStandIn
from tests.support.asking import Answer, ask
from tests.support.certificates import Authority
from tests.support.etcd import free_ports
from tests.support.waiting import eventually, until

OPM: Final = "CACHESERVER_TEST_OPM"
GRPCURL: Final = "CACHESERVER_TEST_GRPCURL"
PACKAGE_SERVER: Final = "CACHESERVER_TEST_PACKAGE_SERVER"
CATALOG_OPERATOR: Final = "CACHESERVER_TEST_CATALOG_OPERATOR"
KUBECTL_OPERATOR: Final = "CACHESERVER_TEST_KUBECTL_OPERATOR"
OPERATOR_CONTROLLER: Final = "CACHESERVER_TEST_OPERATOR_CONTROLLER"

_READY_WITHIN_S = 60.0
_FAILED: Final = re.compile(r"ERROR:\s+Code: (\w+)\s+Message: (.*)", re.DOTALL)


def program(variable: str) -> Path:
    """What the variable names. Skips the test where it is not set. Raises: FileNotFoundError for what is not there."""
    named = os.environ.get(variable)
    if not named:
        pytest.skip(
            f"NO {variable.rpartition('TEST_')[2]}: what it sees of a door was not tested ({variable} names one)"
        )
    path = Path(named)
    if not path.is_file():
        raise FileNotFoundError(f"${variable}: {path}")
    return path


class OpmServe:
    """`opm serve` of a directory: the reference of api.Registry. It listens on every address; it has no option."""

    def __init__(self, binary: Path, catalog: Path, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._binary, self._catalog, self._directory = binary, catalog, directory
        self.address = ""
        self._log = directory / "opm.log"
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        flags = [
            f"--cache-dir={self._directory / 'cache'}",
            "--pprof-addr=",
            f"--termination-log={self._directory / 'termination-log'}",
        ]
        serve = ["serve", str(self._catalog), *flags]
        filled = [str(self._binary), *serve, "--cache-only"]  # before there is a port that another may take meanwhile
        subprocess.run(filled, cwd=self._directory, check=True, capture_output=True, timeout=60)
        port = free_ports(1)[0]
        self.address = f"127.0.0.1:{port}"
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                command(str(self._binary), [*serve, f"--port={port}"]),
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            until(self._ready, within_s=_READY_WITHIN_S, otherwise=self.log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def _ready(self) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, self.log()
        return "serving registry" in self.log()


def accepts(address: str) -> bool:
    """Whether somebody listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Called:
    """What a gRPC call brought: its messages as JSON, and the code and text of its end where that is no success."""

    messages: Sequence[Any]
    code: str = ""
    text: str = ""


def grpcurl(binary: Path, address: str, *what: str, data: object = None, **headers: str) -> Called:
    """One call, or one of grpcurl's own verbs, through reflection. headers: with _ for -."""
    flags = [part for name, value in headers.items() for part in ("-H", f"{name.replace('_', '-')}: {value}")]
    sent = ["-d", json.dumps(data)] if data is not None else []
    done = subprocess.run(
        [binary, "-plaintext", "-max-time", "30", "-max-msg-sz", str(1 << 28), *flags, *sent, address, *what],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    failed = _FAILED.search(done.stderr)
    assert failed or done.returncode == 0, done.stderr
    return Called(_messages(done.stdout), *((failed[1], failed[2].strip()) if failed else ()))


def _messages(text: str) -> list[Any]:
    """JSON values one after the other; lines where there is none, as of grpcurl's verb `list`."""
    if not text.lstrip().startswith("{"):
        return text.splitlines()
    found, at, decoder = [], 0, json.JSONDecoder()
    while at < len(text.rstrip()):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def bundle(message: Mapping[str, Any]) -> dict[str, Any]:
    """An api.Bundle in which JSON within strings is JSON: the order of its keys and its spaces mean nothing."""
    read = dict(message)
    for name in ("csvJson", "object"):
        if name in read:
            read[name] = _read(read[name])
    for name in ("properties", "dependencies"):
        if name in read:
            read[name] = [{**each, "value": _read(each["value"])} for each in read[name]]
    return read


def _read(value: Any) -> Any:
    return [json.loads(each) for each in value] if isinstance(value, list) else json.loads(value)


class OLMCluster(KubeStandIn):
    """As much of a cluster with OLM as OLM's own programs ask for: CatalogSources, and who asks."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(authority)
        self.authority = authority
        self.trust(client_ca=authority.pem, proxy_ca=authority.pem)
        self.token(READER, "reader")
        self.allow("reader")

    def catalog_source(self, namespace: str, name: str, address: str, **spec: str) -> None:
        """One whose registry is there already, as catalog-operator would say of it."""
        self.put(
            f"/apis/operators.coreos.com/v1alpha1/namespaces/{namespace}/catalogsources/{name}",
            {
                "apiVersion": "operators.coreos.com/v1alpha1",
                "kind": "CatalogSource",
                "spec": {"sourceType": "grpc", "address": address, **spec},
                "status": {"registryService": {"protocol": "grpc"}},
            },
        )

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
        if request.path in ("/api", "/apis"):
            return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
        answer = await super()._serve(request)
        plural = request.path.rpartition("/")[2]
        if plural in _LISTS and isinstance(answer, web.Response):  # not a watch; Go wants to know what it decodes
            version = "/".join(request.path.split("/")[2:4])
            assert answer.text is not None
            answer.text = json.dumps({**json.loads(answer.text), "kind": _LISTS[plural], "apiVersion": version})
        return answer


_LISTS: Final = {"catalogsources": "CatalogSourceList", "olmconfigs": "OLMConfigList"}
READER: Final = "reader-token"
PACKAGES: Final = "/apis/packages.operators.coreos.com/v1"


class PackageServer:
    """OLM's package-server, as in a Pod of the cluster. `async with` waits until it answers, not for packages."""

    def __init__(self, binary: Path, cluster: OLMCluster, directory: Path, *, global_namespace: str = "olm") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._binary, self._cluster, self._directory = binary, cluster, directory
        self._global_namespace = global_namespace
        self._log = directory / "package-server.log"
        self.port = free_ports(1)[0]
        self.url = f"https://127.0.0.1:{self.port}"
        self._child: subprocess.Popen[bytes] | None = None
        self._tls = ssl.create_default_context(cafile=cluster.authority.certificate)

    async def __aenter__(self) -> Self:
        certificate, key = self._cluster.authority.issued("package-server")
        try:
            account = pod.secrets(self._directory, SERVICE_TOKEN, self._cluster.authority.certificate)
        except BenchError as exc:
            pytest.skip(f"NO POD FOR PACKAGE_SERVER: {exc}")
        arguments = [
            str(self._binary),
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--global-namespace={self._global_namespace}",
            "--debug",
        ]
        # A list that streams is a newer apiserver's than the stand-in is.
        environment = {"KUBE_FEATURE_WatchListClient": "false", "HOME": str(self._directory)}
        started, *rest = pod.inside(account, self._cluster.url, arguments, environment)
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                command(started, rest),
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            await eventually(self._ready, within_s=_READY_WITHIN_S)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._child is not None
        self._child.kill()
        await asyncio.to_thread(self._child.wait)

    async def ask(self, path: str) -> Answer:
        """As somebody who may read all."""
        return await asyncio.to_thread(
            ask, f"{self.url}{path}", {"Authorization": f"Bearer {READER}"}, context=self._tls
        )

    async def manifests(self, namespace: str, query: str = "") -> list[Any]:
        """Every PackageManifest that a namespace sees."""
        answer = await self.ask(f"{PACKAGES}/namespaces/{namespace}/packagemanifests{query}")
        assert answer.status == 200, answer.body
        return list(answer.json["items"])

    async def names(self, namespace: str) -> list[str]:
        """Of the packages, sorted, as often as they are."""
        return sorted(each["metadata"]["name"] for each in await self.manifests(namespace))

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def states(self) -> list[str]:
        """Of its connections to registries, in the order they came."""
        return re.findall(r"source state changed.*?state=(\w+)", self.log())

    async def _ready(self) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, self.log()[-4000:]
        try:
            return (await self.ask("/readyz")).status == 200
        except OSError:
            return False


def comparable(manifests: Sequence[Any]) -> list[Any]:
    """PackageManifests by name, without what tells two servers or namespaces apart or has no order in the reference."""
    return [_comparable(each) for each in sorted(manifests, key=lambda each: str(each["metadata"]["name"]))]


_OF_ONE_SERVER: Final = ("creationTimestamp", "uid", "resourceVersion", "generation", "namespace")


def _comparable(manifest: Any) -> Any:
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in _OF_ONE_SERVER}
    metadata["labels"] = {**metadata["labels"], "catalog-namespace": ""}
    status = {**manifest["status"], "catalogSourceNamespace": ""}
    for channel in status["channels"]:
        channel["currentCSVDesc"].get("relatedImages", []).sort()
    return {"metadata": metadata, "spec": manifest.get("spec", {}), "status": status}
