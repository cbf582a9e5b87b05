"""What it takes to start a kube-apiserver on loopback: certificates and flags, for measuring beside it and for tests.

Starts nothing itself: see bench.peers.kube, tests.support.kube.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from cacheserver.security.certs import Authority, Subject, Usage

_FRONT_PROXY = "front-proxy-client"
LOOPBACK = "127.0.0.1"


class Certificates:
    """Authorities of one cluster, and files of what they sign."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._authorities: dict[str, Authority] = {}

    def authority(self, name: str, *, anew: bool = False) -> Path:
        """The certificate file of authority `name`, made at the first call and when `anew`."""
        path = self.directory / f"{name}-ca.crt"
        if anew or name not in self._authorities:
            self._authorities[name] = Authority.create(f"{name} authority", now=_now(), days=1)
            path.write_bytes(self._authorities[name].pair.certificate)
        return path

    def issue(self, authority: str, subject: Subject, *, days: float = 1, stem: str = "") -> tuple[Path, Path]:
        """Files of a certificate and key, replaced if there were any of this stem (else of this authority and name)."""
        self.authority(authority)
        pair = self._authorities[authority].issue(subject, now=_now(), days=days)
        stem = stem or f"{authority}-{subject.name.replace(':', '-').replace('/', '-')}"
        certificate, key = self.directory / f"{stem}.crt", self.directory / f"{stem}.key"
        # The key first: who reloads when the certificate changes finds its key there.
        key.write_bytes(pair.key)
        certificate.write_bytes(pair.certificate)
        return certificate, key


def flags(
    etcd: str,
    port: int,
    certificates: Certificates,
    server: tuple[Path, Path],
    directory: Path,
    *,
    address: str = LOOPBACK,
) -> Sequence[str]:
    """As few as it starts with, and the limits it has by default.

    etcd: its URL. server: files of the certificate and key it serves with. directory: may be written to. address: to
    listen on; another one than loopback's is that of a node with pods, which find it by the Service `kubernetes`.
    """
    alone = ["--endpoint-reconciler-type=none"]  # the others refuse a loopback address as an endpoint
    alone += ["--disable-admission-plugins=ServiceAccount"]  # nobody makes the default accounts that it wants to see
    proxy = certificates.issue("requestheader", Subject(_FRONT_PROXY, Usage.CLIENT))
    accounts = certificates.issue("service-accounts", Subject("service-accounts", Usage.CLIENT))
    return [
        f"--etcd-servers={etcd}",
        f"--secure-port={port}",
        f"--bind-address={address}",
        f"--advertise-address={address}",
        *(alone if address == LOOPBACK else ()),
        f"--cert-dir={directory / 'generated'}",
        f"--tls-cert-file={server[0]}",
        f"--tls-private-key-file={server[1]}",
        f"--client-ca-file={certificates.authority('client')}",
        f"--requestheader-client-ca-file={certificates.authority('requestheader')}",
        f"--requestheader-allowed-names={_FRONT_PROXY}",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={proxy[0]}",
        f"--proxy-client-key-file={proxy[1]}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={accounts[1]}",
        f"--service-account-key-file={accounts[0]}",
        "--service-cluster-ip-range=10.96.0.0/24",
        "--authorization-mode=RBAC",
    ]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
