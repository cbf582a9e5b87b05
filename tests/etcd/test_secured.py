"""Users, tokens, TLS and client certificates, on a real etcd that demands them."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import urllib.request
from pathlib import Path

import pytest

from cacheserver.errors import ConfigError, EtcdPermissionDenied, Unavailable
from cacheserver.etcd.client import Client, Compare, Put, TLSFiles
from cacheserver.etcd.version import progress_trusted
from tests.conftest import StartEtcd
from tests.support.certificates import Authority
from tests.support.etcd import EtcdProcess, ServerTLS

pytestmark = pytest.mark.etcd

PASSWORD = "correct horse"


def administer(process: EtcdProcess, call: str, **body: object) -> None:
    """One call of etcd's own JSON gateway, which our client has no use for."""
    request = urllib.request.Request(
        f"{process.endpoint}/v3/auth/{call}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5):
        pass


def enable_users(process: EtcdProcess) -> None:
    """root, and `cache` who may read and write under /cache/ only."""
    administer(process, "user/add", name="root", password="root")
    administer(process, "user/grant", user="root", role="root")
    administer(process, "role/add", name="cache")
    key, range_end = (base64.b64encode(bound).decode() for bound in (b"/cache/", b"/cache0"))
    administer(process, "role/grant", name="cache", perm={"permType": 2, "key": key, "range_end": range_end})
    administer(process, "user/add", name="cache", password=PASSWORD)
    administer(process, "user/grant", user="cache", role="cache")
    administer(process, "enable")


def client_of(process: EtcdProcess, user: str = "cache", password: str = PASSWORD) -> Client:
    return Client([process.endpoint], user=user, password=password)


async def test_a_user_does_what_the_role_allows_and_no_more(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    enable_users(process)
    async with client_of(process) as client:
        assert await client.connect() in (process.version, None)  # some tell it to root alone
        assert client.progress_trusted == progress_trusted(process.version)
        revision = await client.put(b"/cache/a", b"1")
        async with client.watch(b"/cache/", start_revision=revision) as watch:
            assert [event.value for event in (await anext(aiter(watch))).events] == [b"1"]
        async with client.lease(10) as lease:
            await client.txn([Compare(b"/cache/a", "value", b"1")], [Put(b"/cache/b", b"", lease.id)])
        with pytest.raises(EtcdPermissionDenied):
            await client.put(b"/other", b"")
        with pytest.raises(EtcdPermissionDenied):
            await client.range(b"/other")
        with pytest.raises(EtcdPermissionDenied):
            async with client.watch(b"/other", start_revision=1):
                pass


async def test_a_wrong_password_is_denied_and_not_repeated(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    enable_users(process)
    async with client_of(process, password="wrong horse") as client:
        with pytest.raises(EtcdPermissionDenied) as caught:
            await client.range(b"/cache/a")
    assert "horse" not in str(caught.value)


async def test_nobody_is_denied_where_users_are_known(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    enable_users(process)
    async with Client([process.endpoint]) as client:
        with pytest.raises(EtcdPermissionDenied):
            await client.range(b"/cache/a")


async def test_a_token_that_etcd_forgot_is_renewed(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    enable_users(process)
    async with client_of(process) as client:
        await client.put(b"/cache/a", b"1")
        process.kill()  # tokens live in etcd's memory
        process.spawn()
        await process.ready()
        await client.put(b"/cache/a", b"2")
        process.kill()
        process.spawn()
        await process.ready()
        async with client.watch(b"/cache/", start_revision=1) as watch:
            assert (await anext(aiter(watch))).events


async def test_users_may_be_switched_on_later(start_etcd: StartEtcd, caplog: pytest.LogCaptureFixture) -> None:
    process = start_etcd()
    async with client_of(process) as client:
        with caplog.at_level(logging.WARNING):
            await client.put(b"/cache/a", b"1")
        assert "authentication off" in caplog.text
        enable_users(process)
        await client.put(b"/cache/a", b"2")


def test_a_user_without_a_password_is_refused() -> None:
    with pytest.raises(ConfigError):
        Client(["http://localhost:1"], user="cache")


# --- TLS ---


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make certificates with")
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secure_etcd(start_etcd: StartEtcd, authority: Authority) -> EtcdProcess:
    return start_etcd(tls=ServerTLS(authority.certificate, *authority.issue("etcd")))


async def test_a_client_certificate_opens_everything(secure_etcd: EtcdProcess, authority: Authority) -> None:
    tls = TLSFiles(authority.certificate, *authority.issue("cache"))
    async with Client([secure_etcd.endpoint], tls=tls) as client:
        await client.connect()
        revision = await client.put(b"a", b"1")
        async with client.watch(b"a", start_revision=revision) as watch:
            assert (await anext(aiter(watch))).events
        async with client.lease(10) as lease:
            assert not lease.lost


async def test_no_certificate_or_a_foreign_one_opens_nothing(
    secure_etcd: EtcdProcess, authority: Authority, tmp_path: Path
) -> None:
    foreign = Authority(tmp_path / "foreign")
    for tls in (
        TLSFiles(authority.certificate),  # etcd wants to know who we are
        TLSFiles(authority.certificate, *foreign.issue("cache")),  # etcd does not believe us
        TLSFiles(foreign.certificate, *authority.issue("cache")),  # we do not believe etcd
    ):
        async with Client([secure_etcd.endpoint], tls=tls, deadline_s=0.5) as client:
            with pytest.raises(Unavailable):
                await client.range(b"a")


async def test_rotated_certificates_are_picked_up(
    secure_etcd: EtcdProcess, authority: Authority, tmp_path: Path
) -> None:
    """As when a Secret's volume is updated: the files change, the process stays."""
    foreign_cert, foreign_key = Authority(tmp_path / "foreign").issue("cache")
    cert, key = authority.issue("rotated")
    files = TLSFiles(authority.certificate, tmp_path / "tls.crt", tmp_path / "tls.key")
    assert files.cert is not None
    assert files.key is not None
    files.cert.write_bytes(foreign_cert.read_bytes())
    files.key.write_bytes(foreign_key.read_bytes())
    async with Client([secure_etcd.endpoint], tls=files, deadline_s=0.5) as client:
        with pytest.raises(Unavailable):
            await client.range(b"a")
        files.cert.write_bytes(cert.read_bytes())
        files.key.write_bytes(key.read_bytes())
        assert (await client.range(b"a", deadline_s=10)).count == 0


async def test_a_tls_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        async with Client(["https://localhost:1"], tls=TLSFiles(tmp_path / "missing")):
            pass
    with pytest.raises(ConfigError, match="https"):
        Client(["http://localhost:1"], tls=TLSFiles(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="key"):
        Client(["https://localhost:1"], tls=TLSFiles(None, tmp_path / "cert"))
