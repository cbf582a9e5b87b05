"""What is wrong with an installation, and what to do about it: one finding a question, asked in the order of blame.

Looks and changes nothing. Meant to be run where the server runs (`kubectl exec`), with its settings, so that it sees
what the server sees; with an administrator's kubeconfig it sees the cluster's side alone. Called by the command line.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cacheserver.config import Defaults, Kubernetes, RepositoryConfig, Settings, from_cluster, show_size
from cacheserver.errors import (
    ConfigError,
    EtcdError,
    EtcdPermissionDenied,
    EtcdStartError,
    KubernetesError,
)
from cacheserver.etcd.client import AlarmKind, Client, TLSFiles
from cacheserver.etcd.version import check_supported, parse_version
from cacheserver.model import CONFIG_GROUP, GROUP, VERSION
from cacheserver.security import distrust, x509
from cacheserver.slotted import slotted

if TYPE_CHECKING:
    from cacheserver.cli import pushes
    from cacheserver.cluster.kubeapi import KubeAPI

APISERVICE: Final = f"{VERSION}.{GROUP}"
_ACCOUNT: Final = "cacheserver"
_SOON_S: Final = 14 * 24 * 3600  # ours: cert-manager renews at 30 days; half of that missed is not an accident
_SLOW_S: Final = 0.1  # ours: ten times what etcd's own guide calls a healthy write
_QUOTA_BYTES: Final = 8 << 30  # configs/etcd: --quota-backend-bytes; etcd 3.5 does not show its own
_FULL: Final = 0.8
_SHOWN: Final = 10
_LIMIT: Final = "500"  # kubectl's page; more Repositories than that are counted by the metrics


class Level(StrEnum):
    """How a check went; the value is what the table shows."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "FAILED"
    SKIPPED = "skipped"


@slotted(frozen=True)
class Finding:
    """The answer to one question. remedy: what to do; empty when there is nothing to."""

    question: str
    level: Level
    found: str
    remedy: str = ""


def exit_code(findings: Iterable[Finding]) -> int:
    """1 where a check failed, else 0; a warning is not a failure."""
    return int(any(finding.level is Level.FAILED for finding in findings))


def rows(findings: Iterable[Finding]) -> Sequence[Sequence[str]]:
    """A table's, its header first."""
    return [
        ("CHECK", "RESULT", "FOUND", "REMEDY"),
        *((finding.question, finding.level.value, finding.found, finding.remedy) for finding in findings),
    ]


async def examine(settings: Settings) -> Sequence[Finding]:
    """Every finding there is to make with these settings. Raises: ConfigError when they leave nothing to examine."""
    serving = settings.serving
    written = any(config.writable for config in settings.repositories)
    nothing = serving.kubernetes is Kubernetes.OFF and settings.etcd.embedded and serving.tls_cert_file is None
    if nothing and not written:
        raise ConfigError(
            "there is nothing to examine: run it where the server runs, with its settings, or name the cluster with "
            "--kubernetes KUBECONFIG, etcd with --etcd, and repositories that are written to with --repositories"
        )
    findings: list[Finding] = []
    if serving.tls_cert_file is not None:
        findings.append(_certificate("serving certificate", await _read(serving.tls_cert_file)))
    if serving.kubernetes is not Kubernetes.OFF:
        findings += await _cluster(settings)
    if written:
        findings += _pushes(await _tried(settings, settings.repositories))
    if not settings.etcd.embedded:
        findings += await _etcd(settings)
    return findings


async def _read(path: Path) -> bytes:
    try:
        return await asyncio.to_thread(path.read_bytes)
    except OSError:
        return b""


# --- certificates -------------------------------------------------------------------------------------------------


def _certificate(question: str, pem: bytes) -> Finding:
    """Whether the first to end of the PEM text's certificates still holds, and for how long."""
    try:
        found = x509.parse_bundle(pem.decode())
    except ValueError:
        found = ()
    renew = "renew it: kubectl -n cacheserver describe certificate, or run `cacheserver certs` again and apply"
    if not found:
        return Finding(question, Level.FAILED, "there is none, or it cannot be read", renew)
    first = min(found, key=lambda certificate: certificate.not_after)
    left_s = first.not_after - time.time()
    until = time.strftime("%Y-%m-%d", time.gmtime(first.not_after))
    if left_s <= 0:
        return Finding(question, Level.FAILED, f"ended on {until}", renew)
    return Finding(
        question, *((Level.WARNING, f"ends on {until}", renew) if left_s < _SOON_S else _good(f"until {until}"))
    )


def _good(found: str) -> tuple[Level, str, str]:
    return Level.OK, found, ""


def _handshake(certificate: Path, key: Path, trusted: bytes, name: str) -> str:
    """What a client that trusts `trusted` and asks for `name` says of the certificate; empty when it is content."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server_side.load_cert_chain(certificate, key)
        client_side = x509.outgoing_context(ca_pem=trusted.decode())
    except (OSError, ValueError) as exc:
        return f"certificate or key cannot be used: {exc}"
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    client = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    for end in (client, server, client, server):  # flights of TLS 1.3
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            return str(getattr(exc, "verify_message", "") or exc)
    return ""


# --- the cluster --------------------------------------------------------------------------------------------------


async def _cluster(settings: Settings) -> Sequence[Finding]:
    from cacheserver.cluster.kubeapi import KubeAPI  # noqa: PLC0415  aiohttp's client takes 100 ms to import

    kubeconfig = settings.serving.kubernetes if isinstance(settings.serving.kubernetes, Path) else None
    async with KubeAPI(kubeconfig) as api:
        try:
            version = await api.get("/version")
        except KubernetesError as exc:
            remedy = "the pod's network policy and its service account's token, or the kubeconfig"
            if "certificate" in str(exc):
                unsigned = (
                    "the kubeconfig's certificate-authority, or in a pod its service account's ca.crt, did not sign it"
                )
                remedy = distrust.remedy(str(exc), unsigned)
            return [Finding("kube-apiserver", Level.FAILED, str(exc), remedy)]
        findings = [Finding("kube-apiserver", *_good(str(version.get("gitVersion", ""))))]
        namespace, found = await _apiservice(api, settings)
        findings += found
        findings += await _rights(api, settings, namespace)
        findings += await _repositories(api, settings)
        from cacheserver.cli import doors, packageserver  # noqa: PLC0415  they read this module

        findings += await doors.clustercatalogs(api, settings)
        findings += await packageserver.findings(api, settings)
    return findings


async def _apiservice(api: KubeAPI, settings: Settings) -> tuple[str, Sequence[Finding]]:
    """The Service's namespace, and what is found of the APIService and its trust in us."""
    try:
        found = await api.get(f"/apis/apiregistration.k8s.io/v1/apiservices/{APISERVICE}")
    except KubernetesError as exc:
        remedy = "kubectl apply -k configs/kubernetes/default"
        if exc.code == 403:
            remedy = "bind the role cacheserver:server, or use an administrator's kubeconfig with --kubernetes"
        level = Level.SKIPPED if exc.code == 403 else Level.FAILED
        return "cacheserver", [Finding("APIService", level, str(exc), remedy)]
    spec: Mapping[str, Any] = found.get("spec") or {}
    service: Mapping[str, str] = spec.get("service") or {}
    namespace, name = service.get("namespace", "cacheserver"), service.get("name", "cacheserver")
    findings = [_availability(found)]
    if spec.get("insecureSkipTLSVerify"):
        remedy = "set caBundle instead (docs/cluster.md): whoever answers in our place now learns every user's name"
        return namespace, [*findings, Finding("CA bundle", Level.FAILED, "insecureSkipTLSVerify is set", remedy)]
    try:
        bundle = base64.b64decode(spec.get("caBundle") or "", validate=True)
    except binascii.Error:
        bundle = b""
    if not bundle:
        remedy = "cert-manager's injector is not running, or `cacheserver certs` was not applied"
        return namespace, [*findings, Finding("CA bundle", Level.FAILED, "there is none", remedy)]
    findings.append(_certificate("CA bundle", bundle))
    certificate, key = settings.serving.tls_cert_file, settings.serving.tls_key_file
    if certificate is None or key is None:
        remedy = "run it in a pod of the server: kubectl -n cacheserver exec deploy/cacheserver -- cacheserver doctor"
        findings.append(Finding("CA bundle vouches for us", Level.SKIPPED, "no --tls-cert-file here", remedy))
    else:
        wrong = await asyncio.to_thread(_handshake, certificate, key, bundle, f"{name}.{namespace}.svc")
        remedy = "make both anew together: cert-manager's Certificate cacheserver-serving, or `cacheserver certs`"
        said = (Level.FAILED, wrong, remedy) if wrong else _good(f"as {name}.{namespace}.svc")
        findings.append(Finding("CA bundle vouches for us", *said))
    return namespace, findings


_UNAVAILABLE: Final = {
    "ServiceNotFound": "kubectl apply -k configs/kubernetes/default: the Service is missing",
    "EndpointsNotFound": "kubectl -n cacheserver get pods: none is ready; see their readyz?verbose",
    "MissingEndpoints": "kubectl -n cacheserver get pods: none is ready; see their readyz?verbose",
    "ServicePortError": "the APIService's port is none of the Service's: apply configs/kubernetes again",
}
_UNREACHED: Final = "x509: see CA bundle below; a timeout: let the control plane reach port 8443 of the pods"


def _availability(apiservice: Mapping[str, Any]) -> Finding:
    conditions = (apiservice.get("status") or {}).get("conditions") or ()
    found = next((each for each in conditions if each.get("type") == "Available"), None)
    if found is None:
        return Finding("APIService", Level.WARNING, "kube-apiserver has not looked at it yet", "ask again in a minute")
    said = f"{found.get('reason', '')}: {found.get('message', '')}"
    if found.get("status") == "True":
        return Finding("APIService", *_good("Available"))
    return Finding("APIService", Level.FAILED, said, _UNAVAILABLE.get(found.get("reason", ""), _UNREACHED))


@slotted(frozen=True)
class _Right:
    """Something that the server has to be allowed. role: who gives it."""

    verb: str
    group: str
    resource: str
    role: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        what = "/".join(part for part in (self.resource, self.subresource) if part)
        return f"{self.verb} {what}" + (f" in {self.namespace}" if self.namespace else "")


def _needed(namespaces: Sequence[str]) -> Sequence[_Right]:
    """namespaces: whose Repositories are served; one empty name for all."""
    controller = "cacheserver:controller"
    return [
        _Right("create", "authentication.k8s.io", "tokenreviews", "system:auth-delegator"),
        _Right("create", "authorization.k8s.io", "subjectaccessreviews", "system:auth-delegator"),
        _Right(
            "get",
            "",
            "configmaps",
            "extension-apiserver-authentication-reader",
            namespace="kube-system",
            name="extension-apiserver-authentication",
        ),
        *(
            right
            for namespace in namespaces
            for right in (
                _Right("list", CONFIG_GROUP, "repositories", controller, namespace=namespace),
                _Right("watch", CONFIG_GROUP, "repositories", controller, namespace=namespace),
                _Right("patch", CONFIG_GROUP, "repositories", controller, namespace=namespace),
                _Right("patch", CONFIG_GROUP, "repositories", controller, "status", namespace=namespace),
                _Right("create", "", "events", controller, namespace=namespace),
            )
        ),
    ]


async def _rights(api: KubeAPI, settings: Settings, namespace: str) -> Sequence[Finding]:
    """Of the account that asks when it is the server's own, else of the server's account in `namespace`."""
    own = settings.serving.kubernetes is Kubernetes.IN_CLUSTER
    missing: list[_Right] = []
    needed = _needed(settings.content.watch_namespaces or ("",))
    for right in needed:
        try:
            allowed = await _allowed(api, right, "" if own else namespace)
        except KubernetesError as exc:
            remedy = "use a kubeconfig that may create subjectaccessreviews"
            return [Finding("RBAC", Level.SKIPPED, str(exc), remedy)]
        if not allowed:
            missing.append(right)
    if not missing:
        return [Finding("RBAC", *_good(f"all {len(needed)} rights are there"))]
    return [
        Finding("RBAC", Level.FAILED, f"may not {right}", f"bind the role {right.role} to the server's account")
        for right in missing
    ]


async def _allowed(api: KubeAPI, right: _Right, namespace: str) -> bool:
    """namespace: of the server's account; empty asks for whoever asks."""
    attributes = {"verb": right.verb, "group": right.group, "resource": right.resource}
    attributes |= {"subresource": right.subresource, "namespace": right.namespace, "name": right.name}
    spec: dict[str, Any] = {"resourceAttributes": {key: value for key, value in attributes.items() if value}}
    kind = "SelfSubjectAccessReview"
    if namespace:
        kind = "SubjectAccessReview"
        spec["user"] = f"system:serviceaccount:{namespace}:{_ACCOUNT}"
        spec["groups"] = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    answer = await api.create(f"/apis/authorization.k8s.io/v1/{kind.lower()}s", review)
    return bool((answer.get("status") or {}).get("allowed"))


async def _repositories(api: KubeAPI, settings: Settings) -> Sequence[Finding]:
    items: list[Mapping[str, Any]] = []
    for namespace in settings.content.watch_namespaces or ("",):
        inside = f"namespaces/{namespace}/" if namespace else ""
        try:
            listed = await api.get(f"/apis/{CONFIG_GROUP}/{VERSION}/{inside}repositories", {"limit": _LIMIT})
        except KubernetesError as exc:
            remedy = "kubectl apply -k configs/kubernetes/crd" if exc.code == 404 else "see RBAC above"
            return [Finding("repositories", Level.FAILED, str(exc), remedy)]
        items += listed.get("items") or ()
    troubled = [finding for item in items for finding in _trouble(item)]
    if not items:
        return [Finding("repositories", Level.WARNING, "there are none", "apply one (docs/cluster.md)")]
    from cacheserver.cli import doors  # noqa: PLC0415  it reads this module

    configs = _configs(items, settings)
    beside = [*_pushes(await _tried(settings, configs, api)), *doors.published(configs, settings)]
    if not troubled:
        return [Finding("repositories", *_good(f"all {len(items)} are ready")), *beside]
    more = Finding("repositories", Level.WARNING, f"{len(troubled) - _SHOWN} more", "kubectl get crepo -A")
    return [*troubled[:_SHOWN], *([more] if len(troubled) > _SHOWN else []), *beside]


def _trouble(item: Mapping[str, Any]) -> Iterable[Finding]:
    """At most one finding: a repository that is not ready, or one that is and rejects packages."""
    metadata, status = item.get("metadata") or {}, item.get("status") or {}
    name, namespace = metadata.get("name", ""), metadata.get("namespace", "")
    said = {condition.get("type"): condition for condition in status.get("conditions") or ()}
    question, remedy = f"repository {namespace}/{name}", f"kubectl -n {namespace} describe crepo {name}"
    ready, degraded = said.get("Ready"), said.get("Degraded")
    if ready is None or status.get("observedGeneration") != metadata.get("generation"):
        yield Finding(question, Level.WARNING, "nobody has looked at its latest spec yet", "see etcd and the log")
    elif ready.get("status") != "True":
        yield Finding(question, Level.FAILED, f"{ready.get('reason')}: {ready.get('message')}", remedy)
    elif degraded is not None and degraded.get("status") == "True":
        yield Finding(question, Level.WARNING, f"{degraded.get('reason')}: {degraded.get('message')}", remedy)


def _configs(items: Iterable[Mapping[str, Any]], settings: Settings) -> Sequence[RepositoryConfig]:
    """As the server reads them; what it cannot read, their status tells."""
    found: list[RepositoryConfig] = []
    for item in items:
        with contextlib.suppress(ConfigError):
            found.append(from_cluster(item, Defaults(settings.content.namespace)))
    return found


async def _tried(
    settings: Settings, configs: Sequence[RepositoryConfig], api: KubeAPI | None = None
) -> Sequence[pushes.Tried]:
    """api: where their Secrets are; None where they have none."""
    from cacheserver.cli import pushes  # noqa: PLC0415  git, which most that is examined does without
    from cacheserver.server import limits  # noqa: PLC0415

    caps = limits.source_limits(settings.parsing)
    if api is None:
        return await pushes.try_all(configs, caps)
    from cacheserver.cluster.credentials import Secrets, SourceWithSecrets  # noqa: PLC0415  in a cluster only

    secrets = Secrets(api)
    return await pushes.try_all(configs, caps, lambda config, opened: SourceWithSecrets(config, secrets, opened))


def _pushes(tried: Sequence[pushes.Tried]) -> Sequence[Finding]:
    """One finding for all that git takes pushes of, and one for each of the first others."""
    if not tried:
        return []
    refused = [each for each in tried if each.wrong]
    findings = [
        Finding(f"push to {each.namespace}/{each.name}", Level.FAILED, each.wrong, each.remedy)
        for each in refused[:_SHOWN]
    ]
    if len(refused) > _SHOWN:
        findings.append(Finding("push", Level.FAILED, f"{len(refused) - _SHOWN} more", "mend the first ones"))
    if len(tried) > len(refused):
        said = f"git lets us push to {len(tried) - len(refused)} (rules of single branches show when something comes)"
        findings.append(Finding("push", *_good(said)))
    return findings


# --- etcd ---------------------------------------------------------------------------------------------------------


async def _etcd(settings: Settings) -> Sequence[Finding]:
    etcd = settings.etcd
    findings: list[Finding] = []
    if etcd.cert_file is not None:
        findings.append(_certificate("etcd client certificate", await _read(etcd.cert_file)))
    tls = TLSFiles(etcd.ca_file, etcd.cert_file, etcd.key_file) if etcd.ca_file or etcd.cert_file else None
    # One at a time, since a client of all of them speaks with one that works and says nothing of the others.
    for endpoint in etcd.endpoints:
        client = Client([endpoint], tls=tls, user=etcd.user, password=etcd.password() if etcd.user else None)
        try:
            async with client:
                findings += await _member(client, f"etcd {endpoint.partition('://')[2]}")
        except EtcdError as exc:
            remedy = "kubectl -n cacheserver get pods -l app.kubernetes.io/name=etcd; its log; its network policy"
            findings.append(Finding(f"etcd {endpoint.partition('://')[2]}", Level.FAILED, str(exc), remedy))
    return findings


async def _member(client: Client, name: str) -> Sequence[Finding]:
    """Raises: EtcdError when the member does not answer."""
    await client.connect()
    latency_s = await _latency(client)
    slow = latency_s > _SLOW_S
    remedy = "its disk (etcd_disk_wal_fsync_duration_seconds) or the network between" if slow else ""
    level = Level.WARNING if slow else Level.OK
    findings = [Finding(f"{name} latency", level, f"{latency_s * 1000:.0f} ms for a consistent read", remedy)]
    try:
        status, alarms = await client.status(), await client.alarms()
    except EtcdPermissionDenied:
        remedy = "as root: etcdctl endpoint status, etcdctl alarm list"
        return [*findings, Finding(name, Level.SKIPPED, "shows its state to root alone", remedy)]
    findings.append(_version(f"{name} version", status.version))
    used = status.db_size / _QUOTA_BYTES
    size = f"{show_size(status.db_size)}, {used:.0%} of the {show_size(_QUOTA_BYTES)} in configs/etcd"
    remedy = "delete repositories, then etcdctl defrag one member at a time (configs/etcd/README.md)"
    findings.append(Finding(f"{name} size", *((Level.WARNING, size, remedy) if used > _FULL else _good(size))))
    for alarm in (each for each in alarms if each.member_id == status.member_id):
        full = alarm.kind is AlarmKind.NOSPACE
        remedy = "compact, defrag, then disarm (configs/etcd/README.md)" if full else "replace the member"
        findings.append(Finding(f"{name} alarm", Level.FAILED, alarm.kind.name, remedy))
    if not status.leader:
        findings.append(Finding(f"{name} leader", Level.FAILED, "knows of none", "start the other members"))
    return findings


async def _latency(client: Client) -> float:
    """Seconds of the second of two reads, which has no connection to make."""
    began = 0.0
    for _ in range(2):
        began = time.monotonic()
        await client.range(b"/cacheserver/doctor")
    return time.monotonic() - began


def _version(question: str, text: str) -> Finding:
    remedy = "upgrade it, one member at a time"
    try:
        warning = check_supported(parse_version(text), embedded=False)
    except EtcdStartError as exc:
        return Finding(question, Level.FAILED, str(exc), remedy)
    return Finding(question, *((Level.WARNING, warning, remedy) if warning else _good(text)))
