"""The serving certificate: read again as it changes, never taken over broken, told when it expires."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cacheserver import metrics
from cacheserver.api import HealthCheck
from cacheserver.errors import ConfigError
from cacheserver.security.tls import ServingTLS
from cacheserver.security.x509 import parse, parse_bundle
from tests.fakes.api import api_world
from tests.support.certificates import Authority

pytestmark = pytest.mark.processes


class Files:
    """A pair of files as kubelet writes them: symbolic links through a directory that is swapped at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cert, self.key = directory / "tls.crt", directory / "tls.key"
        self._count = 0
        self.cert.symlink_to(Path("..data") / "tls.crt")
        self.key.symlink_to(Path("..data") / "tls.key")

    def swap(self, cert: Path, key: Path) -> None:
        self._count += 1
        new = self.directory / f"..{self._count}"
        new.mkdir()
        shutil.copy(cert, new / "tls.crt")
        shutil.copy(key, new / "tls.key")
        link = self.directory / "..new"
        link.symlink_to(new.name)
        link.rename(self.directory / "..data")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.swap(*authority.issue("first"))
    return files


class Connection:
    """One client, connected for as long as the test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def server_name(self) -> str:
        told = self._writer.get_extra_info("peercert")
        return str(told["subject"][-1][0][1])

    @property
    def protocol(self) -> tuple[str | None, str | None]:
        connection = self._writer.get_extra_info("ssl_object")
        return connection.version(), connection.selected_alpn_protocol()

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def ask(self) -> bytes:
        self.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        return await self.answer()

    async def answer(self) -> bytes:
        head = await self._reader.readuntil(b"\r\n\r\n")
        await self._reader.readexactly(2)
        return head.split(b" ")[1]


@asynccontextmanager
async def listening(tls: ServingTLS, check: HealthCheck | None = None) -> AsyncIterator[int]:
    """The port of an API behind `tls`."""
    from cacheserver.api import make_server

    async with api_world(checks={"serving-certificate": check} if check else None) as world:
        server = make_server(world.api, secure=True)
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=tls.context)
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            listener.close()
            await server.shutdown(0.1)


@asynccontextmanager
async def connected(
    port: int, authority: Authority, *, newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED
) -> AsyncIterator[Connection]:
    context = ssl.create_default_context(cafile=authority.certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, newest
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # else the client itself refuses the old versions
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ssl.SSLError:  # the server may have gone first
            pass


async def loaded(files: Files) -> ServingTLS:
    tls = ServingTLS(files.cert, files.key, ask_clients=False)
    await tls.load()
    return tls


async def test_tls_1_2_and_1_3_with_http_1_1_are_spoken(files: Files, authority: Authority) -> None:
    async with listening(await loaded(files)) as port:
        for newest, spoken in ((ssl.TLSVersion.TLSv1_3, "TLSv1.3"), (ssl.TLSVersion.TLSv1_2, "TLSv1.2")):
            async with connected(port, authority, newest=newest) as client:
                assert client.protocol == (spoken, "http/1.1")
                assert await client.ask() == b"200"


async def test_requests_of_any_length_and_number_arrive_whole(files: Files, authority: Authority) -> None:
    """More than is read at once: many header lines, and requests one behind the other."""
    async with listening(await loaded(files)) as port, connected(port, authority) as client:
        lines = "".join(f"X-{number}: {'x' * 1000}\r\n" for number in range(200))
        client.write(f"GET /livez HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode() * 3)
        assert [await client.answer() for _ in range(3)] == [b"200"] * 3


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_tls_1_1_is_not(files: Files, authority: Authority) -> None:
    async with listening(await loaded(files)) as port:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            async with connected(port, authority, newest=ssl.TLSVersion.TLSv1_1):
                pass


async def test_a_new_certificate_counts_for_new_connections_and_ends_no_old_one(
    files: Files, authority: Authority
) -> None:
    tls = await loaded(files)
    async with listening(tls) as port, connected(port, authority) as before:
        assert before.server_name == "first"
        files.swap(*authority.issue("second"))
        await tls.refresh()
        async with connected(port, authority) as after:
            assert after.server_name == "second"
            assert await after.ask() == b"200"
        assert await before.ask() == b"200"


async def test_files_that_did_not_change_are_not_loaded_again(files: Files) -> None:
    tls = await loaded(files)
    before = _loads("loaded")
    await tls.refresh()
    assert _loads("loaded") == before


@pytest.mark.parametrize("broken", ["other key", "no PEM", "no file", "no certificate"])
async def test_a_broken_pair_leaves_the_old_one_and_is_counted(
    files: Files, authority: Authority, tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    tls = await loaded(files)
    cert, key = authority.issue("second")
    nothing = tmp_path / "nothing"
    nothing.write_text("nothing")
    match broken:
        case "other key":
            files.swap(cert, authority.issue("third")[1])
        case "no PEM":
            files.swap(cert, nothing)
        case "no certificate":
            files.swap(nothing, key)
        case _:
            files.cert.unlink()
    failed = _loads("failed")
    await tls.refresh()
    await tls.refresh()
    assert _loads("failed") == failed + 2
    assert [record.message for record in caplog.records].count(
        "serving certificate cannot be used, keeping the old one"
    ) == 1
    async with listening(tls) as port, connected(port, authority) as client:
        assert client.server_name == "first"
        if broken == "no file":
            return
        files.swap(cert, key)
        await tls.refresh()
        async with connected(port, authority) as after:
            assert after.server_name == "second"


async def test_new_client_cas_are_taken_though_the_files_are_broken(files: Files, authority: Authority) -> None:
    tls = ServingTLS(files.cert, files.key, ask_clients=True)
    await tls.load()
    files.swap(files.key, files.key)
    await tls.trust(authority.pem)
    context = ssl.create_default_context(cafile=authority.certificate)
    context.load_cert_chain(*authority.issue("client"))
    async with listening(tls) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        client = Connection(reader, writer)
        assert (client.server_name, await client.ask()) == ("first", b"200")
        writer.close()
        await writer.wait_closed()


async def test_a_pair_that_cannot_be_used_ends_the_start(files: Files) -> None:
    files.swap(files.cert, files.cert)
    with pytest.raises(ConfigError, match="serving certificate"):
        await loaded(files)


async def test_readiness_fails_when_the_certificate_has_expired(files: Files, authority: Authority) -> None:
    ends = parse_bundle(files.cert.read_text())[0].not_after
    now = [ends - 1]
    tls = ServingTLS(files.cert, files.key, ask_clients=False, now=lambda: now[0])
    await tls.load()
    assert metrics.registry().get_sample_value("cacheserver_certificate_expiration_timestamp_seconds") == ends
    async with api_world(checks={"serving-certificate": tls.check}) as world:
        assert (await world.get("/readyz")).status == 200
        now[0] = ends
        answer = await world.get("/readyz?verbose")
        assert answer.status == 500
        assert b"[-]serving-certificate failed" in answer.body
        assert (await world.get("/livez")).status == 200


async def test_an_expired_pair_is_served_all_the_same_and_told(files: Files, authority: Authority) -> None:
    """Clients that do not verify may still be helped; who verifies says what is wrong."""
    files.swap(*authority.issue("late", days=-1))
    tls = await loaded(files)
    told = tls.check()
    assert told is not None
    assert "has expired" in told


def _loads(outcome: str) -> float:
    return metrics.registry().get_sample_value("cacheserver_certificate_loads_total", {"outcome": outcome}) or 0.0


def test_a_certificate_is_read_as_openssl_reads_it(authority: Authority) -> None:
    cert, _ = authority.issue("read")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.certificate)
    told = context.get_ca_certs()[0]
    found = parse_bundle(authority.pem)[0]
    assert found.not_before == ssl.cert_time_to_seconds(str(told["notBefore"]))
    assert found.not_after == ssl.cert_time_to_seconds(str(told["notAfter"]))
    assert found.authority != parse_bundle(cert.read_text())[0].authority


def test_what_is_no_certificate_is_refused(authority: Authority) -> None:
    der = ssl.PEM_cert_to_DER_cert(authority.pem)
    assert parse(der).not_after > 0
    for cut in range(len(der)):
        with pytest.raises(ValueError, match="no certificate"):
            parse(der[:cut])
    with pytest.raises(ValueError, match="no certificate"):
        parse(b"\x30\x80\x00\x00")
