"""Certificates of our own making: who may show them for what, what is renewed and what stays, what is kept private."""

from __future__ import annotations

import base64
import datetime
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cacheserver.cli.main import main
from cacheserver.errors import ConfigError
from cacheserver.security import certs
from cacheserver.security.certs import Authority, Subject, Usage

NOW = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)
REAL_NOW = datetime.datetime.now(datetime.UTC)


def write(directory: Path, *, days: int = 365, now: datetime.datetime = NOW) -> None:
    certs.write(directory, namespace="cacheserver", days=days, now=now)


def secrets(directory: Path) -> dict[str, dict[str, bytes]]:
    """Secret -> its decoded data."""
    documents = yaml.safe_load_all((directory / "secrets.yaml").read_text())
    return {
        document["metadata"]["name"]: {key: base64.b64decode(value) for key, value in document["data"].items()}
        for document in documents
    }


def bundle(directory: Path) -> bytes:
    [patch] = yaml.safe_load_all((directory / "apiservice.yaml").read_text())
    return base64.b64decode(patch["spec"]["caBundle"])


def load(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def usages(certificate: x509.Certificate) -> set[Any]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def dns_names(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


def handshake(directory: Path, name: str, trusted: bytes) -> None:
    """A TLS handshake in memory, as kube-aggregator's with the Service's name. Raises: ssl.SSLError."""
    held = secrets(directory)["cacheserver-serving-tls"]
    (directory / "tls.crt").write_bytes(held["tls.crt"])
    (directory / "tls.key").write_bytes(held["tls.key"])
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    client_side = ssl.create_default_context(cadata=trusted.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    client = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert client.version() in ("TLSv1.2", "TLSv1.3")


def test_kube_apiserver_trusts_the_serving_certificate_under_the_services_name(tmp_path: Path) -> None:
    write(tmp_path, now=REAL_NOW)
    handshake(tmp_path, "cacheserver.cacheserver.svc", bundle(tmp_path))


def test_another_name_or_another_authority_is_refused(tmp_path: Path) -> None:
    write(tmp_path, now=REAL_NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(tmp_path, "other.cacheserver.svc", bundle(tmp_path))
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        handshake(tmp_path, "cacheserver.cacheserver.svc", secrets(tmp_path)["etcd-client-tls"]["ca.crt"])


def test_each_certificate_is_good_for_its_purpose_and_no_other(tmp_path: Path) -> None:
    write(tmp_path)
    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    found = {name: usages(load(held["tls.crt"])) for name, held in secrets(tmp_path).items()}
    assert found == {
        "cacheserver-serving-tls": {server},
        "etcd-server-tls": {server, client},
        "etcd-peer-tls": {server, client},
        "etcd-client-tls": {client},
    }


def test_a_client_of_etcd_cannot_pass_for_a_member(tmp_path: Path) -> None:
    write(tmp_path)
    held = secrets(tmp_path)
    assert held["etcd-client-tls"]["ca.crt"] == held["etcd-server-tls"]["ca.crt"]
    assert held["etcd-peer-tls"]["ca.crt"] != held["etcd-client-tls"]["ca.crt"]
    load(held["etcd-peer-tls"]["tls.crt"]).verify_directly_issued_by(load(held["etcd-peer-tls"]["ca.crt"]))


def test_three_members_are_named_one_by_one(tmp_path: Path) -> None:
    write(tmp_path)
    names = dns_names(load(secrets(tmp_path)["etcd-peer-tls"]["tls.crt"]))
    assert names == [f"etcd-{n}.etcd-peers.cacheserver.svc" for n in range(3)]


def test_the_client_certificate_names_the_user_of_etcd(tmp_path: Path) -> None:
    write(tmp_path)
    subject = load(secrets(tmp_path)["etcd-client-tls"]["tls.crt"]).subject
    assert [part.value for part in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["cacheserver"]


def test_a_second_run_renews_certificates_and_keeps_authorities(tmp_path: Path) -> None:
    write(tmp_path, days=30)
    before, trusted = secrets(tmp_path), bundle(tmp_path)
    write(tmp_path, days=30, now=NOW + datetime.timedelta(days=20))
    after = secrets(tmp_path)
    assert bundle(tmp_path) == trusted
    for name, held in after.items():
        assert held["ca.crt"] == before[name]["ca.crt"]
        assert held["tls.key"] != before[name]["tls.key"]
        assert load(held["tls.crt"]).not_valid_after_utc == NOW + datetime.timedelta(days=50)


def test_a_certificate_never_outlives_its_authority() -> None:
    authority = Authority.create("short", now=NOW, days=10)
    pair = authority.issue(Subject("a", Usage.CLIENT), now=NOW, days=365)
    assert pair.ends == authority.pair.ends


def test_an_authority_at_its_end_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match=r"serving\.crt: ended on 2036"):
        write(tmp_path, now=NOW + datetime.timedelta(days=certs.AUTHORITY_DAYS + 1))


def test_a_broken_or_foreign_authority_is_refused_and_kept(tmp_path: Path) -> None:
    write(tmp_path)
    authorities = tmp_path / "authorities"
    (authorities / "serving.key").write_bytes((authorities / "etcd.key").read_bytes())
    with pytest.raises(ConfigError, match="not the certificate's"):
        write(tmp_path)
    (authorities / "serving.key").unlink()
    with pytest.raises(ConfigError, match="restore it"):
        write(tmp_path)
    assert (authorities / "serving.crt").exists()


def test_nobody_else_can_read_what_is_written(tmp_path: Path) -> None:
    directory = tmp_path / "certificates"
    write(directory)
    write(directory)
    for path in (directory, *directory.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert "PRIVATE" not in repr(Authority.create("a", now=NOW).pair)


def test_the_stream_holds_the_same_secrets_and_the_trust_in_them() -> None:
    documents = list(yaml.safe_load_all(certs.stream(namespace="elsewhere", days=1, now=NOW)))
    assert [(d["kind"], d["metadata"]["name"]) for d in documents] == [
        *(("Secret", planned.secret) for planned in certs.plan("elsewhere")),
        ("APIService", "v1alpha1.cacheserver.dev"),
    ]
    assert {d["metadata"].get("namespace") for d in documents[:-1]} == {"elsewhere"}
    assert "cacheserver.elsewhere.svc" in dns_names(load(base64.b64decode(documents[0]["data"]["tls.crt"])))


def test_groups_become_organizations() -> None:
    pair = Authority.create("a", now=NOW).issue(Subject("jane", Usage.CLIENT, groups=("devs", "ops")), now=NOW, days=1)
    subject = load(pair.certificate).subject
    assert {part.value for part in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)} == {"devs", "ops"}


def test_the_command_writes_a_directory_and_says_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", str(tmp_path / "c")], environ={}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [planned.secret for planned in certs.plan("cacheserver")]
    assert "cacheserver.cacheserver.svc" in lines[0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--days", "0"], "1 to 3650"), (["--service-namespace", "a.b"], "not a namespace")],
)
def test_what_makes_no_sense_writes_nothing(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certs", str(tmp_path / "c"), *flags], environ={}) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_the_command_writes_to_stdout_for_a_hyphen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "-"], environ={}) == 0
    assert len(list(yaml.safe_load_all(capsys.readouterr().out))) == 5
