"""Programs that want to be in a Pod: they find a service account's token where one has it, and an apiserver's address.

Each gets a mount namespace of its own (unshare(1), user_namespaces(7)) with an empty /run; the machine's stays.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from bench.errors import BenchError
from bench.peers import kube
from bench.peers.kube import Kube

_RBAC = "rbac.authorization.k8s.io"
# kubernetes.io, Accessing the API from within a Pod: the directory is the same in every image. /var/run is /run.
_SCRIPT = (
    "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io && "
    'ln -s "$1" /run/secrets/kubernetes.io/serviceaccount && shift && exec env "$@"'
)


class Pod:
    """A service account that may do everything."""

    def __init__(self, cluster: Kube, directory: Path) -> None:
        """Raises: BenchError where a program cannot have a mount namespace, or the apiserver refuses."""
        self._url = cluster.url
        self._secrets = secrets(directory, _token(cluster, "bench-pod"), cluster.client.authority)

    def command(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs the program so."""
        return inside(self._secrets, self._url, arguments, environment)


def secrets(directory: Path, token: str, authority: Path) -> Path:
    """The folder of a service account. authority: the file whose certificate the apiserver's leads to.

    Raises: BenchError where a program cannot have a mount namespace.
    """
    try:
        subprocess.run([*_unshare(), "mount -t tmpfs none /run"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as exc:
        raise BenchError(f"no mount namespace can be had here to be in for a Pod's: {exc}") from exc
    made = directory / "serviceaccount"
    made.mkdir(exist_ok=True)
    for name, content in (("token", token.encode()), ("ca.crt", authority.read_bytes()), ("namespace", b"default")):
        (made / name).write_bytes(content)
    return made


def inside(
    account: Path, url: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> list[str]:
    """The command line that runs a program as in a Pod of that service account's folder; url: of the apiserver."""
    variables = {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(urlsplit(url).port),
        **(environment or {}),
    }
    named = [f"{name}={value}" for name, value in variables.items()]
    return [*_unshare(), _SCRIPT, "pod", str(account), *named, *arguments]


def _unshare() -> list[str]:
    return [shutil.which("unshare") or "unshare", "--map-root-user", "--mount", "sh", "-c"]


def _token(cluster: Kube, name: str) -> str:
    """Of a service account that is made for it. Raises: BenchError."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}}
    binding = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
    }
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    kube.post(cluster, accounts, account)
    kube.post(cluster, f"/apis/{_RBAC}/v1/clusterrolebindings", binding)
    return str(orjson.loads(kube.post(cluster, f"{accounts}/{name}/token", request))["status"]["token"])
