"""What the settings let stand between a connection and the API, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacheserver.config import Flags, check_listen, load
from cacheserver.errors import ConfigError
from cacheserver.server.listener import open_listener
from tests.fakes.guarded import PKI
from tests.fakes.kube import KubeStandIn

pytestmark = pytest.mark.processes

TLS = {"--tls-cert-file": "tls.crt", "--tls-key-file": "tls.key"}
EVERYWHERE = {"--listen": "0.0.0.0:8443"}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> PKI:
    return PKI(tmp_path_factory.mktemp("pki"))


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        (EVERYWHERE, "--tls-cert-file and --tls-key-file and --kubernetes"),
        ({**EVERYWHERE, **TLS}, "give --kubernetes;"),
        ({**EVERYWHERE, "--kubernetes": "in-cluster"}, "give --tls-cert-file and --tls-key-file;"),
        ({"--tls-cert-file": "tls.crt"}, "come together"),
        ({"--tls-key-file": "tls.key"}, "come together"),
    ],
)
def test_what_would_stand_open_is_refused(flags: Flags, missing: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=missing):
        check_listen(load(flags, {}, cwd=tmp_path))


@pytest.mark.parametrize(
    "flags",
    [
        {},
        TLS,
        {"--kubernetes": "kubeconfig"},
        {"--listen": "[::1]:0"},
        {**EVERYWHERE, **TLS, "--kubernetes": "in-cluster"},
        {**EVERYWHERE, **TLS, "--kubernetes": "./kubeconfig"},
    ],
)
def test_what_is_guarded_or_loopback_is_let_through(flags: Flags, tmp_path: Path) -> None:
    check_listen(load(flags, {}, cwd=tmp_path))


async def test_without_settings_everybody_may_everything_over_plain_http(tmp_path: Path) -> None:
    async with open_listener(load({}, {}, cwd=tmp_path).serving) as door:
        assert (door.context, door.gate, dict(door.checks), door.kubernetes) == (None, None, {}, None)
        await door.run()  # there is nothing to follow


async def test_a_certificate_alone_is_https_for_everybody(tmp_path: Path, pki: PKI) -> None:
    flags = {"--tls-cert-file": str(pki.server[0]), "--tls-key-file": str(pki.server[1])}
    async with open_listener(load(flags, {}, cwd=tmp_path).serving) as door:
        assert door.context is not None
        assert door.gate is None
        assert list(door.checks) == ["serving-certificate"]


async def test_a_host_cluster_brings_a_gate_that_is_not_ready_yet(tmp_path: Path, pki: PKI) -> None:
    async with KubeStandIn(pki.serving) as kube:
        flags = {"--kubernetes": str(kube.kubeconfig(tmp_path))}
        async with open_listener(load(flags, {}, cwd=tmp_path).serving) as door:
            assert door.gate is not None
            assert door.kubernetes is not None
            told = door.checks["host-cluster-trust"]()
            assert told is not None
            assert "extension-apiserver-authentication-reader" in told
