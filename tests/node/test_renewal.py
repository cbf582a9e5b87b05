"""Certificates that are renewed under servers that run: by the same authorities, and by new ones.

docs/cluster.md says how.
"""

from __future__ import annotations

import base64
import functools
import json
import ssl
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.support.installed import API, VIEWS, Installed, Reader
from tests.support.waiting import until

pytestmark = pytest.mark.node

CERTS: Final = "configs/kubernetes/self-signed/certificates"
SERVING: Final = "cacheserver-serving-tls"
MOUNTED: Final = {SERVING: "serving", "etcd-client-tls": "etcd"}
_SOON_S: Final = 240.0
"""A kubelet looks at the Secrets of a pod once in a minute or two; it is not in a hurry on a machine that is busy."""


def held(installed: Installed, secret: str, key: str) -> str:
    data = installed.admin.json("-n", "cacheserver", "get", "secret", secret)["data"]
    return base64.b64decode(data[key]).decode()


def secrets_file(installed: Installed) -> Path:
    return installed.home / CERTS / "secrets.yaml"


def starts(installed: Installed) -> set[tuple[str, int]]:
    """Of all containers: another one, or one more restart, and it is another set."""
    pods = [*installed.pods("cacheserver"), *installed.pods("etcd")]
    return {(each["containerID"], each["restartCount"]) for pod in pods for each in pod["status"]["containerStatuses"]}


def shows(installed: Installed, name: str, port: int, secret: str) -> bool:
    """Whether every pod shows to clients what that Secret holds."""
    wanted = ssl.PEM_cert_to_DER_cert(held(installed, secret, "tls.crt"))
    shown = [ssl.get_server_certificate((pod["status"]["podIP"], port), timeout=10) for pod in installed.pods(name)]
    return all(ssl.PEM_cert_to_DER_cert(each) == wanted for each in shown)


def has(installed: Installed, secret: str, key: str) -> bool:
    """Whether every server sees that Secret in its files as it is."""
    wanted = held(installed, secret, key).strip()
    file = f"/etc/cacheserver/{MOUNTED[secret]}/{key}"
    return all(
        installed.in_server("cat", file, pod=pod["metadata"]["name"]).strip() == wanted
        for pod in installed.pods("cacheserver")
    )


def arrived(installed: Installed) -> None:
    """Returns when all pods have and show what is in the Secrets."""
    for name, port, secret in (("cacheserver", 8443, SERVING), ("etcd", 2379, "etcd-server-tls")):
        until(functools.partial(shows, installed, name, port, secret), within_s=_SOON_S, otherwise=installed.told)
    for key in ("tls.crt", "ca.crt"):
        until(functools.partial(has, installed, "etcd-client-tls", key), within_s=_SOON_S, otherwise=installed.told)


def restart_etcd(installed: Installed) -> None:
    """Its clients connect anew, with what their files hold now."""
    installed.admin.run("-n", "cacheserver", "rollout", "restart", "statefulset/etcd")
    installed.settle()


def test_renewed_certificates_need_no_restart_and_no_read_fails(installed: Installed) -> None:
    before, was = starts(installed), held(installed, SERVING, "tls.crt")
    with Reader(installed) as reader:
        installed.type(f"cacheserver certs {CERTS}\nkubectl apply -k configs/kubernetes/own")
        assert held(installed, SERVING, "tls.crt") != was
        arrived(installed)
        reader.go_on()
    assert reader.failed == []
    assert starts(installed) == before
    restart_etcd(installed)
    installed.draft("renewed")


def test_new_authorities_take_over_from_old_ones_and_no_read_fails(installed: Installed) -> None:
    """As docs/cluster.md says: both are trusted, then certificates are new, then the old authorities are distrusted."""
    before = {pod["metadata"]["uid"] for pod in installed.pods("cacheserver")}
    old = {name: held(installed, name, "ca.crt") for name in (SERVING, "etcd-client-tls", "etcd-peer-tls")}
    installed.type(f"rm -r {CERTS}/authorities\ncacheserver certs {CERTS}")
    made = {each["metadata"]["name"]: each["data"] for each in yaml.safe_load_all(secrets_file(installed).read_text())}
    new = {name: base64.b64decode(made[name]["ca.crt"]).decode() for name in old}
    assert not set(old.values()) & set(new.values())

    def trust(both: bool) -> None:
        bundle = new[SERVING] + (old[SERVING] if both else "")
        patch = json.dumps({"spec": {"caBundle": base64.b64encode(bundle.encode()).decode()}})
        for each in ("v1alpha1.cacheserver.dev", *VIEWS):
            installed.admin.run("patch", "apiservice", each, "--type=merge", "-p", patch)

    with Reader(installed) as reader:
        trust(both=True)
        for secret in ("etcd-client-tls", "etcd-server-tls", "etcd-peer-tls"):
            of = "etcd-peer-tls" if "peer" in secret else "etcd-client-tls"  # who signs
            patch = json.dumps({"stringData": {"ca.crt": old[of] + new[of]}})
            installed.admin.run("-n", "cacheserver", "patch", "secret", secret, "--type=merge", "-p", patch)
        arrived(installed)
        restart_etcd(installed)  # it reads authorities when it starts, and certificates at each handshake
        installed.admin.run("apply", "-f", str(secrets_file(installed)))
        arrived(installed)
        trust(both=False)
        restart_etcd(installed)
        assert installed.ask(f"{API}/namespaces/packages/packages").status == 200
    assert reader.failed == []
    assert {pod["metadata"]["uid"] for pod in installed.pods("cacheserver")} == before
    installed.draft("distrusted")
