"""Certificates for a cluster without cert-manager: three authorities, and what they sign, as a kustomize component.

Used by `cacheserver certs`, and by tests for their own authorities. Speaks to no cluster and serves nothing: it writes
files, and whoever runs it applies them. Needs the `cryptography` package (extra `certs`), which makes keys and
certificates without a call to OpenSSL's command line; the server itself does not need it.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, Self

import yaml

from cacheserver.errors import ConfigError
from cacheserver.names import REPOSITORY_NAME as NAMESPACE  # Kubernetes: both are RFC 1123 labels
from cacheserver.slotted import slotted

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as exc:
    raise ConfigError("making certificates needs the cryptography package: pip install 'cacheserver[certs]'") from exc

AUTHORITY_DAYS: Final = 3650
"""Ours: ten years. All that trust an authority have to follow when it is replaced, so that is done on purpose only."""
_SKEW: Final = datetime.timedelta(minutes=5)
"""Valid from a little before now: the clocks of the machines that read it differ."""
SERVICE: Final = "cacheserver"
MEMBERS: Final = ("etcd-0", "etcd-1", "etcd-2")
"""Names for three members also where one runs: they cost nothing, and growing then needs no other certificate."""


class Usage(Enum):
    """What a certificate may be shown for (RFC 5280 4.2.1.12)."""

    SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
    CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
    BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@slotted(frozen=True)
class Subject:
    """Who a certificate is for. groups: what Kubernetes takes for a user's groups (organizations)."""

    name: str
    usage: Usage
    dns: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, both PEM. ends: when it stops being valid. Its repr shows no key."""

    certificate: bytes
    key: bytes
    ends: datetime.datetime

    def __repr__(self) -> str:
        return f"Pair(ends={self.ends})"


class Authority:
    """Signs certificates. Keys are P-256: every client of Kubernetes and etcd accepts them; handshakes are cheap."""

    def __init__(self, pair: Pair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.pair = pair
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, name: str, *, now: datetime.datetime, days: int = AUTHORITY_DAYS) -> Self:
        """A new authority whose common name is `name`."""
        key = ec.generate_private_key(ec.SECP256R1())
        common_name = _name(name, ())
        builder = _builder(common_name, key, now, now + datetime.timedelta(days=days)).issuer_name(common_name)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(authority=True), critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        return cls(_pair(certificate, key), certificate, key)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes) -> Self:
        """An authority made before. Raises: ValueError when these are not a certificate and its key."""
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError("the key is not the certificate's")
        return cls(_pair(certificate, key), certificate, key)

    def issue(self, subject: Subject, *, now: datetime.datetime, days: float) -> Pair:
        """A certificate for `days` days, or for as long as the authority lives if that is shorter."""
        key = ec.generate_private_key(ec.SECP256R1())
        ends = min(now + datetime.timedelta(days=days), self.pair.ends)
        builder = _builder(_name(subject.name, subject.groups), key, now, ends)
        builder = builder.issuer_name(self._certificate.subject)
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in subject.dns]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in subject.addresses]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(list(subject.usage.value)), critical=False)
            .add_extension(_authority_identifier(self._key), critical=False)
        )
        return _pair(builder.sign(self._key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime, ends: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str, groups: Iterable[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _authority_identifier(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        certificate.not_valid_after_utc,
    )


# --- the certificates of an installation --------------------------------------------------------------------------


@slotted(frozen=True)
class Planned:
    """A Secret to make: its name, who signs it, and for whom."""

    secret: str
    authority: str
    subject: Subject


@slotted(frozen=True)
class Written:
    """What `write` made, for people: a Secret, the names in its certificate, and when that ends."""

    secret: str
    names: tuple[str, ...]
    ends: datetime.datetime


def plan(namespace: str) -> tuple[Planned, ...]:
    """The four Secrets that configs/kubernetes and configs/etcd mount, for an installation in `namespace`.

    Raises: ConfigError for what is not a namespace.
    """
    if not NAMESPACE.match(namespace):
        raise ConfigError(f"{namespace!r} is not a namespace: 1 to 63 lower-case letters, digits and hyphens")
    members = tuple(f"{member}.etcd-peers.{namespace}.svc" for member in MEMBERS)
    host, catalogs = f"{SERVICE}.{namespace}.svc", f"{SERVICE}-catalogs.{namespace}.svc"
    return (
        # kube-aggregator asks for <service>.<namespace>.svc and looks at no common name.
        Planned(
            "cacheserver-serving-tls",
            "serving",
            # Clients of catalogd come by a Service of their own (configs/kubernetes/components/catalogs).
            Subject(SERVICE, Usage.SERVER, dns=(host, f"{host}.cluster.local", catalogs, "localhost")),
        ),
        Planned(
            "etcd-server-tls",
            "etcd",
            # etcd dials itself with the certificate that it shows to others (its HTTP listener).
            Subject("etcd", Usage.BOTH, dns=(f"etcd.{namespace}.svc", *members, "localhost"), addresses=("127.0.0.1",)),
        ),
        # An authority apart: who may be a client of etcd must not be able to be a member.
        Planned("etcd-peer-tls", "etcd-peer", Subject("etcd", Usage.BOTH, dns=members)),
        # The common name is the user of etcd, where users are switched on (configs/etcd/README.md).
        Planned("etcd-client-tls", "etcd", Subject("cacheserver", Usage.CLIENT)),
    )


def write(directory: Path, *, namespace: str, days: int, now: datetime.datetime) -> Sequence[Written]:
    """Make `directory` a kustomize component with the certificates, signed by the authorities that lie there already.

    Run again, it renews the certificates and keeps the authorities, so nobody has to trust anything new. Private keys
    are readable by the owner only. Raises: ConfigError for an authority that is broken or at its end; OSError.
    """
    planned = plan(namespace)
    _check_days(days)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / "authorities").mkdir(mode=0o700, exist_ok=True)
    authorities = {name: _authority(directory, name, now) for name in _names(planned)}
    documents, made = _issue(planned, authorities, namespace=namespace, days=days, now=now)
    _write(directory / "secrets.yaml", yaml.safe_dump_all(documents, sort_keys=False).encode())
    _write(directory / "apiservice.yaml", yaml.safe_dump(_trust(authorities["serving"]), sort_keys=False).encode())
    _write(directory / "kustomization.yaml", _KUSTOMIZATION.encode())
    return made


def stream(*, namespace: str, days: int, now: datetime.datetime) -> str:
    """The same as one YAML stream for `kubectl apply --server-side -f -`, with authorities that nobody keeps."""
    planned = plan(namespace)
    _check_days(days)
    authorities = {name: Authority.create(f"cacheserver {name} authority", now=now) for name in _names(planned)}
    documents, _ = _issue(planned, authorities, namespace=namespace, days=days, now=now)
    return yaml.safe_dump_all([*documents, _trust(authorities["serving"])], sort_keys=False)


_KUSTOMIZATION: Final = """\
# Written by `cacheserver certs`; run it again to renew the certificates. authorities/ holds what signs them: keep it to
# yourself, and keep it. It is not applied.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
resources:
  - secrets.yaml
patches:
  - path: apiservice.yaml
"""


def _names(planned: Iterable[Planned]) -> Iterable[str]:
    return dict.fromkeys(each.authority for each in planned)


def _check_days(days: int) -> None:
    if not 1 <= days <= AUTHORITY_DAYS:
        raise ConfigError(f"--days {days}: a certificate is good for 1 to {AUTHORITY_DAYS} days")


def _issue(
    planned: Iterable[Planned],
    authorities: Mapping[str, Authority],
    *,
    namespace: str,
    days: int,
    now: datetime.datetime,
) -> tuple[list[Mapping[str, Any]], list[Written]]:
    documents: list[Mapping[str, Any]] = []
    made: list[Written] = []
    for each in planned:
        authority = authorities[each.authority]
        pair = authority.issue(each.subject, now=now, days=days)
        documents.append(_secret(each.secret, namespace, pair, authority.pair.certificate))
        made.append(Written(each.secret, each.subject.dns or (each.subject.name,), pair.ends))
    return documents, made


def _authority(directory: Path, name: str, now: datetime.datetime) -> Authority:
    """The authority `name` of `directory`, made and kept there when there is none."""
    certificate, key = (directory / "authorities" / f"{name}.{kind}" for kind in ("crt", "key"))
    if not certificate.exists() and not key.exists():
        made = Authority.create(f"cacheserver {name} authority", now=now)
        _write(key, made.pair.key)
        _write(certificate, made.pair.certificate)
        return made
    try:
        found = Authority.load(certificate.read_bytes(), key.read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"{certificate}: no authority that can sign ({exc}); restore it and its key, or remove both for a new one"
        ) from exc
    if found.pair.ends <= now:
        raise ConfigError(f"{certificate}: ended on {found.pair.ends:%Y-%m-%d}; remove it and its key for a new one")
    return found


def _secret(name: str, namespace: str, pair: Pair, authority: bytes) -> Mapping[str, Any]:
    """kubernetes.io/tls with ca.crt besides: the form that cert-manager writes."""
    held = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/name": "etcd" if name in ("etcd-server-tls", "etcd-peer-tls") else "cacheserver",
                "app.kubernetes.io/part-of": "cacheserver",
            },
        },
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(value).decode() for key, value in held.items()},
    }


def _trust(authority: Authority) -> Mapping[str, Any]:
    """The patch that makes kube-apiserver trust the serving certificate."""
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1alpha1.cacheserver.dev"},
        "spec": {"caBundle": base64.b64encode(authority.pair.certificate).decode()},
    }


def _write(path: Path, content: bytes) -> None:
    """Replace the file as a whole: a run that is interrupted leaves the old one or the new one."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    beside.replace(path)
