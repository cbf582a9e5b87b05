"""What the settings let stand between a connection and the API, and what they refuse."""

from __future__ import annotations

import ssl
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
TOKENS = {"--token-auth-file": "tokens.csv", "--readers": "devs, ops"}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> PKI:
    return PKI(tmp_path_factory.mktemp("pki"))


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        (EVERYWHERE, "--tls-cert-file and --tls-key-file and --kubernetes, --token-auth-file or --client-ca-file;"),
        ({**EVERYWHERE, **TLS}, "give --kubernetes, --token-auth-file or --client-ca-file;"),
        ({**EVERYWHERE, **TOKENS}, "give --tls-cert-file and --tls-key-file;"),
        ({"--client-ca-file": "ca.crt", "--readers": "devs"}, "--client-ca-file needs TLS"),
        ({"--token-auth-file": "tokens.csv"}, "--token-auth-file says who .* system:authenticated"),
        ({**TLS, "--token-auth-file": "t", "--client-ca-file": "c"}, "--token-auth-file and --client-ca-file says who"),
        ({"--readers": "devs"}, "--readers names groups"),
        ({"--authors": "devs"}, "--authors names groups"),
        ({"--approvers": "devs"}, "--approvers names groups"),
        ({**TOKENS, "--kubernetes": "in-cluster"}, "leave out --token-auth-file"),
        ({**TOKENS, "--readers": "devs,,ops"}, "an empty name of a group"),
        ({**TOKENS, "--readers": "system:unauthenticated"}, "nobody gets in without a credential"),
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
        TOKENS,
        {"--token-auth-file": "tokens.csv", "--authors": "devs"},
        {**EVERYWHERE, **TLS, **TOKENS},
        {**EVERYWHERE, **TLS, "--client-ca-file": "ca.crt", "--readers": "system:authenticated"},
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


async def test_files_bring_a_gate(tmp_path: Path, pki: PKI) -> None:
    (tmp_path / "tokens.csv").write_text(f"{'a' * 32},alice,1,devs\n")
    flags = {"--tls-cert-file": str(pki.server[0]), "--tls-key-file": str(pki.server[1]), **TOKENS}
    flags["--client-ca-file"] = str(pki.client.certificate)
    async with open_listener(load(flags, {}, cwd=tmp_path).serving) as door:
        assert door.gate is not None
        assert door.context is not None
        assert door.context.verify_mode is ssl.CERT_OPTIONAL
        assert (len(door.loops), door.kubernetes) == (3, None)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokens.csv", "short,alice,1\n", "--token-auth-file .*tokens.csv: line 1: "),
        ("tokens.csv", None, "--token-auth-file .*tokens.csv: No such file"),
        ("ca.crt", "", "--client-ca-file .*ca.crt: holds no certificate"),
        ("ca.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "--client-ca-file .*ca.crt: "),
        ("ca.crt", "key", "--client-ca-file .*ca.crt: holds no certificate"),
    ],
)
async def test_a_file_that_cannot_be_used_ends_the_start(
    tmp_path: Path, pki: PKI, name: str, content: str | None, said: str
) -> None:
    flags = {"--tls-cert-file": str(pki.server[0]), "--tls-key-file": str(pki.server[1]), "--readers": "devs"}
    flags["--token-auth-file" if name == "tokens.csv" else "--client-ca-file"] = name
    if content == "key":
        content = pki.server[1].read_text()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=said):
        async with open_listener(load(flags, {}, cwd=tmp_path).serving):
            pass


async def test_a_host_cluster_brings_a_gate_that_is_not_ready_yet(tmp_path: Path, pki: PKI) -> None:
    async with KubeStandIn(pki.serving) as kube:
        flags = {"--kubernetes": str(kube.kubeconfig(tmp_path))}
        async with open_listener(load(flags, {}, cwd=tmp_path).serving) as door:
            assert door.gate is not None
            assert door.kubernetes is not None
            told = door.checks["host-cluster-trust"]()
            assert told is not None
            assert "extension-apiserver-authentication-reader" in told
