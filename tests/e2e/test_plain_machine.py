"""A whole server on a plain machine for others: HTTPS, tokens and client certificates from files, as they change."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.guarded import PKI, Pair
from tests.support.asking import ask
from tests.support.etcd import FoundEtcd
from tests.support.server import API, ServerProcess, run_cli
from tests.support.waiting import eventually

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "catalogs"
LIST = f"{API}/packages"
ALICE, BOB = "a" * 32, "b" * 32

pytestmark = pytest.mark.e2e


class PlainServer(ServerProcess):
    """`cacheserver serve` over HTTPS for the group devs; its files of access lie in its directory."""

    def __init__(self, directory: Path, pki: PKI, etcd: FoundEtcd) -> None:
        self.tokens, self.authorities = directory / "tokens.csv", directory / "ca.crt"
        self._trust = pki.serving.certificate
        super().__init__(
            directory,
            *("--tls-cert-file", str(pki.server[0]), "--tls-key-file", str(pki.server[1])),
            *("--token-auth-file", str(self.tokens), "--client-ca-file", str(self.authorities), "--readers", "devs"),
            *("--catalog", f"example={EXAMPLES}", "--data-dir", str(directory / "data")),
            *("--etcd-binary", str(etcd.path)),
        )
        self.url = f"https://127.0.0.1:{self.port}"

    def write_tokens(self, *lines: str) -> None:
        """As an operator should: a new file moved over the old one."""
        new = self.directory / "tokens.new"
        new.touch(0o600)
        new.write_text("".join(f"{line}\n" for line in lines))
        new.rename(self.tokens)

    def start(self) -> None:
        self.spawn()

    def status(self, path: str = LIST, *, token: str = "", certificate: Pair | None = None) -> int:
        """0 while nobody answers, or a certificate does not pass the handshake."""
        context = ssl.create_default_context(cafile=self._trust)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            return ask(f"{self.url}{path}", headers, timeout_s=5, context=context).status
        except OSError:
            return 0

    async def answers(
        self, expected: int, path: str = LIST, *, token: str = "", certificate: Pair | None = None
    ) -> None:
        """Returns once it answers so: within 10 s, two looks at a file."""

        async def does() -> bool:
            return await asyncio.to_thread(self.status, path, token=token, certificate=certificate) == expected

        await eventually(does, within_s=30)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> PKI:
    return PKI(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def server(pki: PKI, tmp_path: Path, etcd_binary: FoundEtcd) -> Iterator[PlainServer]:
    server = PlainServer(tmp_path, pki, etcd_binary)
    server.write_tokens(f"{ALICE},alice,1,devs", f"{BOB},bob,2,guests")
    shutil.copy(pki.client.certificate, server.authorities)
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def test_what_the_files_say_is_what_counts_while_they_change(server: PlainServer, pki: PKI) -> None:
    await server.answers(200, "/readyz")
    assert server.status(token=ALICE) == 200
    assert server.status(certificate=pki.bob) == 200  # O: devs, ops
    assert server.status(token=BOB) == 403
    assert server.status() == 401
    server.write_tokens(f"{BOB},bob,2,devs")
    await server.answers(401, token=ALICE)
    assert server.status(token=BOB) == 200
    server.write_tokens("nonsense")
    shutil.copy(pki.stranger.certificate, server.authorities)
    await server.answers(0, certificate=pki.bob)
    await eventually(lambda: "cannot be used" in server.log())
    assert server.status(token=BOB) == 200  # what the file said before
    assert [token for token in (ALICE, BOB) if token in server.log()] == []


async def test_kubectl_reads_with_a_token_and_is_refused_without_rights(server: PlainServer, pki: PKI) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl")
    await server.answers(200, "/readyz")

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        trust = ("--server", server.url, "--certificate-authority", str(pki.serving.certificate))
        command = [kubectl, "--kubeconfig=/dev/null", "--cache-dir", str(server.directory / "cache"), *trust]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=server.directory
        )

    async def lists() -> bool:
        found = await asyncio.to_thread(ask, "--token", ALICE, "get", "packages", "-A")
        return "ledger-operator" in found.stdout

    await eventually(lists, within_s=30)
    cert, key = pki.bob
    by_certificate = ask("--client-certificate", str(cert), "--client-key", str(key), "get", "packages", "-o", "name")
    assert "package.cacheserver.dev/example.broom" in by_certificate.stdout
    refused = ask("--token", BOB, "get", "--raw", LIST)
    assert "forbidden" in refused.stderr.lower()
    pretending = ask("--token", ALICE, "--as", "root", "get", "--raw", LIST)
    assert "impersonation is not supported" in pretending.stderr.lower()


def test_a_file_of_tokens_that_is_wrong_ends_the_start_with_its_line(tmp_path: Path, pki: PKI) -> None:
    (tmp_path / "tokens.csv").write_text(f"{ALICE},alice,1,devs\n{ALICE},bob,2,devs\n")
    found = run_cli(
        *("serve", "--catalog", f"example={EXAMPLES}", "--data-dir", str(tmp_path / "data")),
        *("--token-auth-file", "tokens.csv", "--readers", "devs", "--listen", "127.0.0.1:0"),
        cwd=tmp_path,
    )
    assert found.returncode == 2
    assert "tokens.csv: line 2: the token of line 1 again" in found.stderr
    assert ALICE not in found.stderr
