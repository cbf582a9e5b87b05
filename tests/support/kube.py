"""A real kube-apiserver for tests, with an etcd and certificates of its own, on loopback, in a temporary directory.

Found where $KUBEBUILDER_ASSETS says (the directory with kube-apiserver, etcd and kubectl, as envtest has it). Nothing
aggregates roles, deletes a namespace's content or collects garbage, unless a test starts a ControllerManager, which
envtest does not bring but may lie there too. A process started here dies with the test run.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers import apiserver
from bench.peers.apiserver import Certificates
from cacheserver.etcd.supervise import command
from cacheserver.security.certs import Subject, Usage
from tests.support.asking import ask
from tests.support.etcd import EtcdProcess, FoundEtcd, find_etcd, free_ports
from tests.support.waiting import until

_READY_WITHIN_S = 90.0
_SERVICE = "10.96.0.1"
_PORT_OF_A_NODE = 6443
"""As anywhere: one of those that our NetworkPolicies let the server reach."""
"""Of the Service `kubernetes`, by which pods find it: the first of the range in bench.peers.apiserver."""


@dataclass(frozen=True, slots=True)
class FoundKube:
    apiserver: Path
    kubectl: Path
    etcd: FoundEtcd


def find_kube() -> FoundKube | None:
    """$KUBEBUILDER_ASSETS/kube-apiserver with a kubectl and an etcd, there or elsewhere; None without any of them."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets or not (Path(assets) / "kube-apiserver").exists():
        return None
    beside = Path(assets) / "kubectl"
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    etcd = find_etcd()
    if kubectl is None or etcd is None:
        return None
    return FoundKube(Path(assets) / "kube-apiserver", Path(kubectl), etcd)


class KubeAPIServer:
    """kube-apiserver and its etcd. start() waits until it is ready; everything it needs is made on the way.

    users: token -> (name, groups), for bearer tokens; client certificates come from `kubeconfig`.
    """

    def __init__(
        self,
        found: FoundKube,
        directory: Path,
        users: Mapping[str, tuple[str, tuple[str, ...]]] | None = None,
        *,
        address: str = apiserver.LOOPBACK,
    ) -> None:
        """address: to listen on; one that is not loopback's is a node's, whose kubelet it asks with a certificate."""
        self._found = found
        self._address = address
        self.directory = directory
        self.kubectl = found.kubectl
        self.certificates = Certificates(directory / "pki")
        (directory / "etcd").mkdir(parents=True)
        self._etcd = EtcdProcess(found.etcd, directory / "etcd")
        self.port = free_ports(1)[0] if address == apiserver.LOOPBACK else _PORT_OF_A_NODE
        self.url = f"https://{address}:{self.port}"
        self._users = dict(users or {})
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._etcd.start()
        with (self.directory / "apiserver.log").open("ab") as log:
            self._child = subprocess.Popen(
                command(str(self._found.apiserver), self._flags()),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._ready, within_s=_READY_WITHIN_S, otherwise=lambda: self.log()[-4000:])

    def stop(self) -> None:
        """For fixtures: gone afterwards, with its etcd."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()  # its etcd goes too: there is nothing to finish
            self._child.wait()
        self._etcd.stop()

    def log(self) -> str:
        return (self.directory / "apiserver.log").read_text(errors="replace")

    def kubeconfig(
        self, user: str = "admin", *, groups: tuple[str, ...] = ("system:masters",), token: str | None = None
    ) -> Path:
        """A kubeconfig file of that user, by client certificate, or by `token` where there is one."""
        credentials: dict[str, str]
        if token is None:
            certificate, key = self.certificates.issue("client", Subject(user, Usage.CLIENT, groups=groups))
            credentials = {"client-certificate": str(certificate), "client-key": str(key)}
        else:
            credentials = {"token": token}
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.certificates.authority("server"))}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "test", "cluster": cluster}],
                    "users": [{"name": user, "user": credentials}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
                    "current-context": "test",
                }
            )
        )
        return path

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig file of a ServiceAccount that exists, by a token that lives an hour."""
        token = Kubectl(self, self.kubeconfig()).run("-n", namespace, "create", "token", name).strip()
        return self.kubeconfig(f"system:serviceaccount:{namespace}:{name}", token=token)

    def _ready(self) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, self.log()[-4000:]
        try:
            context = ssl.create_default_context(cafile=self.certificates.authority("server"))
            return ask(f"{self.url}/readyz", timeout_s=2, context=context).status == 200
        except OSError:
            return False

    def _flags(self) -> list[str]:
        named = ("127.0.0.1", self._address, _SERVICE)
        server = Subject("kube-apiserver", Usage.SERVER, dns=("localhost",), addresses=tuple(dict.fromkeys(named)))
        pair = self.certificates.issue("server", server)
        tokens = self.directory / "tokens.csv"
        tokens.write_text(
            "".join(f'{token},{name},{name},"{",".join(groups)}"\n' for token, (name, groups) in self._users.items())
        )
        return [
            *apiserver.flags(
                self._etcd.endpoint, self.port, self.certificates, pair, self.directory, address=self._address
            ),
            *self._flags_of_a_node(),
            f"--token-auth-file={tokens}",
            "--max-requests-inflight=400",
            "--v=2",  # tells of certificates that were loaded anew
        ]

    def _flags_of_a_node(self) -> list[str]:
        """None without one."""
        if self._address == apiserver.LOOPBACK:
            return []
        certificate, key = self.certificates.issue("client", Subject("kube-apiserver-kubelet", Usage.CLIENT))
        pair = [f"--kubelet-client-certificate={certificate}", f"--kubelet-client-key={key}"]
        return [*pair, "--kubelet-preferred-address-types=InternalIP"]  # nobody knows the node's name


_CONTROLLERS = "namespace-controller,garbage-collector-controller,clusterrole-aggregation-controller"


def find_controller_manager() -> Path | None:
    """$KUBEBUILDER_ASSETS/kube-controller-manager, if somebody put one there."""
    path = Path(os.environ.get("KUBEBUILDER_ASSETS", "")) / "kube-controller-manager"
    return path if path.is_file() else None


class ControllerManager:
    """kube-controller-manager with the controllers that meet every resource a cluster discovers, and our roles."""

    def __init__(self, binary: Path, server: KubeAPIServer, *, controllers: str = _CONTROLLERS) -> None:
        self._binary = binary
        self._server = server
        self._controllers = controllers
        self._log = server.directory / "controller-manager.log"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        flags = [
            f"--kubeconfig={self._server.kubeconfig('system:kube-controller-manager')}",
            f"--controllers={self._controllers}",
            f"--root-ca-file={self._server.certificates.authority('server')}",  # which pods trust
            "--leader-elect=false",
            "--secure-port=0",
            "--concurrent-gc-syncs=2",
            "--v=2",
        ]
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                command(str(self._binary), flags),
                cwd=self._server.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace")


class Kubectl:
    """kubectl as one user of a test cluster. flags: of each call."""

    def __init__(self, server: KubeAPIServer, kubeconfig: Path, *flags: str) -> None:
        self._base = [
            *(str(server.kubectl), "--kubeconfig", str(kubeconfig)),
            *("--cache-dir", str(server.directory / f"cache-{kubeconfig.stem}")),
            *flags,
        ]

    def run(
        self,
        *arguments: str,
        stdin: str | None = None,
        timeout_s: float = 60,
        environ: Mapping[str, str] | None = None,
    ) -> str:
        """Its stdout; fails with what it said when it exits otherwise than 0."""
        done = self._run(arguments, stdin, timeout_s, environ)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def refused(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60) -> str:
        """Its stderr, when it must fail."""
        done = self._run(arguments, stdin, timeout_s)
        assert done.returncode != 0, f"kubectl {' '.join(arguments)} was not refused: {done.stdout}"
        return done.stderr

    def tried(self, *arguments: str, timeout_s: float = 60) -> tuple[bool, str]:
        """Whether it exited with 0, and all that it said."""
        done = self._run(arguments, None, timeout_s)
        return done.returncode == 0, done.stdout + done.stderr

    def apply(self, *documents: Mapping[str, Any]) -> str:
        return self.run("apply", "-f", "-", stdin="\n".join(json.dumps(document) for document in documents))

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "-o", "json"))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self._base, *arguments], stdout=subprocess.PIPE, text=True)

    def _run(
        self,
        arguments: tuple[str, ...],
        stdin: str | None,
        timeout_s: float,
        more: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"} | dict(more or {})
        return subprocess.run(
            [*self._base, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=environ,
        )


def aggregated_service(port: int, authority: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Service and APIService that lead to a server on this machine's loopback: kube-aggregator follows an ExternalName
    without asking for endpoints, and still demands the Service's name in the certificate."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "cacheserver", "namespace": "cacheserver"},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    apiservice = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1alpha1.cacheserver.dev"},
        "spec": {
            "group": "cacheserver.dev",
            "version": "v1alpha1",
            "groupPriorityMinimum": 100,
            "versionPriority": 15,
            "service": {"name": "cacheserver", "namespace": "cacheserver", "port": port},
            "caBundle": base64.b64encode(authority.read_bytes()).decode(),
        },
    }
    return service, apiservice
