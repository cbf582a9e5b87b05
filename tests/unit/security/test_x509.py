"""What certificates our own connections accept."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.errors import KubernetesUnavailable
from cacheserver.security.x509 import outgoing_context
from tests.fakes.kube import KubeStandIn
from tests.support.certificates import Authority

pytestmark = pytest.mark.processes

SECRETS = "/api/v1/namespaces/team/secrets"


def handshake(serving: Authority, client: ssl.SSLContext, *, name: str = "localhost") -> str:
    """What the client says of a certificate that `serving` issued; empty when it is content."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(*serving.issued("server"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    for end in (ours, server, ours, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as exc:
            return exc.verify_message
    return ""


def test_an_authority_without_key_identifiers_is_accepted_as_curl_does(tmp_path: Path) -> None:
    bare = Authority(tmp_path, bare=True)
    assert handshake(bare, outgoing_context(ca_file=str(bare.certificate))) == ""
    assert handshake(bare, outgoing_context(ca_pem=bare.pem)) == ""


def test_the_bare_authority_is_one_that_strict_verification_refuses(tmp_path: Path) -> None:
    bare = Authority(tmp_path, bare=True)
    strict = ssl.create_default_context(cafile=str(bare.certificate))
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    assert "Identifier" in handshake(bare, strict) or "usage" in handshake(bare, strict).lower()


def test_names_and_authorities_are_verified_all_the_same(tmp_path: Path) -> None:
    known, other = Authority(tmp_path / "known"), Authority(tmp_path / "other")
    trusting = outgoing_context(ca_file=str(known.certificate))
    assert "Hostname mismatch" in handshake(known, trusting, name="elsewhere.example")
    assert handshake(other, trusting) != ""


async def test_a_kube_apiserver_with_a_bare_authority_is_talked_to(tmp_path: Path) -> None:
    async with KubeStandIn(Authority(tmp_path / "ca", bare=True)) as kube, KubeAPI(kube.kubeconfig(tmp_path)) as api:
        assert (await api.get(SECRETS))["items"] == []


async def test_a_refused_certificate_is_told_with_its_reason(tmp_path: Path) -> None:
    serving, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    async with KubeStandIn(serving) as kube:
        path = kube.kubeconfig(tmp_path)
        path.write_text(path.read_text().replace(str(serving.certificate), str(other.certificate)))
        async with KubeAPI(path) as api:
            with pytest.raises(KubernetesUnavailable, match=r"certificate verify failed: .*certificate"):
                await api.get(SECRETS)
