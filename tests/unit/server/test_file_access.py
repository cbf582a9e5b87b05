"""A server without a cluster: who its tokens and certificates are, what its readers may; no header names a user."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from cacheserver.api import ReviewingGate, make_server
from cacheserver.security.authorities import Bundle
from cacheserver.security.identity import Attributes, Identity
from cacheserver.security.tls import ServingTLS
from cacheserver.security.tokenfile import parse_tokens
from cacheserver.server.access import FileAuthentication, Groups, GroupsAccess
from tests.fakes.api import BASE, Answer, api_world
from tests.fakes.guarded import PACKAGES, PKI, Clock, Pair, ask, client_of

pytestmark = pytest.mark.processes

ALICE, BOB, ROOT = "a" * 32, "b" * 32, "c" * 32
TOKENS = f'{ALICE},alice,1,"devs,ops"\n{BOB},bob,2,guests\n{ROOT},root,3,system:masters\n'.encode()
ITEM = f"{PACKAGES}/r.a"


@dataclass
class Local:
    """A server whose readers are the devs."""

    url: str
    pki: PKI
    authentication: FileAuthentication
    tls: ServingTLS
    clock: Clock

    async def trust(self, pem: str) -> None:
        bundle = Bundle(pem)
        await self.tls.trust(bundle.pem)
        self.authentication.trust(bundle)

    @asynccontextmanager
    async def client(self, certificate: Pair | None = None) -> AsyncIterator[aiohttp.ClientSession]:
        async with client_of(self.url, self.pki, certificate) as session:
            yield session

    async def get(
        self,
        path: str = PACKAGES,
        *,
        token: str = "",
        certificate: Pair | None = None,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
    ) -> Answer:
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        async with self.client(certificate) as session:
            return await ask(session, path, sent, method)


@asynccontextmanager
async def local_world(pki: PKI, groups: Groups) -> AsyncIterator[Local]:
    clock = Clock(time.time())
    tls = ServingTLS(*pki.server, ask_clients=True)
    await tls.load()
    authentication = FileAuthentication(clock)
    authentication.know(parse_tokens(TOKENS))
    async with api_world(gate=ReviewingGate(authentication, GroupsAccess(groups))) as world:
        world.package("a")
        await world.settled()
        server = make_server(world.api, secure=True)
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=tls.context)
        url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        found = Local(url, pki, authentication, tls, clock)
        await found.trust(pki.client.pem)
        try:
            yield found
        finally:
            listener.close()
            await server.shutdown(0.1)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> PKI:
    return PKI(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def local(pki: PKI) -> AsyncIterator[Local]:
    async with local_world(pki, Groups(["devs"])) as found:
        yield found


# --- who may ---


async def test_a_reader_reads_by_token_and_by_certificate(local: Local) -> None:
    assert (await local.get(token=ALICE)).names == ["r.a"]
    assert (await local.get(certificate=local.pki.bob)).names == ["r.a"]  # O: devs, ops


@pytest.mark.parametrize("path", [PACKAGES, ITEM, "/apis", "/openapi/v2", "/version", "/metrics", "/readyz/etcd"])
async def test_whoever_is_known_and_no_reader_is_forbidden(local: Local, path: str) -> None:
    answer = await local.get(path, token=BOB)
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert 'User "bob" cannot' in answer.json["message"]
    assert "guests" not in answer.json["message"]


async def test_a_refusal_reads_as_kube_apiservers(local: Local) -> None:
    answer = await local.get(token=BOB)
    assert answer.json["message"] == (
        'packages.cacheserver.dev is forbidden: User "bob" cannot list resource "packages" in API group'
        ' "cacheserver.dev" in the namespace "team": not a member of a group that may read here (--readers)'
    )
    assert answer.json["details"] == {"group": "cacheserver.dev", "kind": "packages"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": ALICE},
        {"Authorization": f"Basic {ALICE}"},
        {"Authorization": f"Bearer {ALICE}x"},
        {"Authorization": f"Bearer  {ALICE}"},
        {"Authorization": f"Bearer {ALICE[:-1]}"},
        {"X-Auth-Token": ALICE},
    ],
)
async def test_who_shows_nothing_that_holds_is_unauthorized(local: Local, headers: Mapping[str, str]) -> None:
    answer = await local.get(headers=headers)
    assert (answer.status, answer.json["reason"], answer.json["message"]) == (401, "Unauthorized", "Unauthorized")


async def test_probes_need_no_credentials(local: Local) -> None:
    assert [(await local.get(path)).status for path in ("/livez", "/readyz", "/healthz")] == [200, 200, 200]


@pytest.mark.parametrize(
    ("method", "path", "verb"),
    [
        ("POST", PACKAGES, "create"),
        ("PUT", ITEM, "update"),
        ("PATCH", ITEM, "patch"),
        ("DELETE", ITEM, "delete"),
        ("DELETE", PACKAGES, "deletecollection"),
        ("POST", f"{BASE}/namespaces/team/repositories", "create"),
        ("POST", "/version", "post"),
    ],
)
async def test_a_reader_may_not_write(local: Local, method: str, path: str, verb: str) -> None:
    answer = await local.get(path, token=ALICE, method=method)
    assert answer.status == 403
    assert f'User "alice" cannot {verb} ' in answer.json["message"]


REVISION = f"{BASE}/namespaces/team/packagerevisions/r.a.v1"
RESOURCES = f"{BASE}/namespaces/team/packagerevisionresources/r.a.v1"
_WRITES = (
    ("POST", f"{BASE}/namespaces/team/packagerevisions", "--authors"),
    ("DELETE", REVISION, "--authors"),
    ("DELETE", f"{REVISION}/files/a", "--authors"),
    ("POST", f"{REVISION}/rebase", "--authors"),
    ("PUT", RESOURCES, "--authors"),
    ("POST", f"{REVISION}/rebase", "--authors"),
    ("PATCH", f"{REVISION}/approval", "--approvers"),
    ("PATCH", f"{REVISION}/status", "--validators"),
)


@pytest.mark.parametrize(("method", "path", "flag"), _WRITES)
async def test_who_may_not_write_is_told_the_setting_that_says_who_may(
    pki: PKI, method: str, path: str, flag: str
) -> None:
    """Authors do not approve, nor approvers write conditions: each group has its right and no other's."""
    flags = ("authors", "approvers", "validators")
    mine = {other: ["devs"] for other in flags if f"--{other}" != flag}
    async with local_world(pki, Groups(["guests"], **mine)) as local:
        for token in (ALICE, BOB):
            answer = await local.get(path, token=token, method=method)
            assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
            assert answer.json["message"].endswith(f"({flag})")


@pytest.mark.parametrize(("method", "path", "flag"), _WRITES)
async def test_who_may_write_is_let_through_and_may_read(pki: PKI, method: str, path: str, flag: str) -> None:
    """Nothing is written in this world: its answer is that there is no such verb."""
    async with local_world(pki, Groups(**{flag.removeprefix("--"): ["devs"]})) as local:
        assert (await local.get(token=ALICE)).status == 200
        assert (await local.get(token=BOB)).status == 403
        assert (await local.get(path, token=ALICE, method=method)).status != 403


async def test_an_approver_patches_a_revision_which_is_how_kubectl_approves(pki: PKI) -> None:
    async with local_world(pki, Groups(approvers=["devs"])) as local:
        assert (await local.get(REVISION, token=ALICE, method="PATCH")).status != 403
    async with local_world(pki, Groups(validators=["devs"])) as local:
        answer = await local.get(REVISION, token=ALICE, method="PATCH")
        assert (answer.status, "(--authors)" in answer.json["message"]) == (403, True)


@pytest.mark.parametrize(("groups", "allowed"), [(Groups(approvers=["devs"]), True), (Groups(authors=["devs"]), False)])
async def test_every_approver_approves_in_every_repository(groups: Groups, allowed: bool) -> None:
    asked = Attributes("approve", "", "config.cacheserver.dev", "v1alpha1", "repositories", "", "team", "edge")
    verdict = await GroupsAccess(groups).review(Identity("alice", ("devs",)), asked)
    assert verdict.allowed is allowed


async def test_system_masters_may_everything_that_there_is(local: Local) -> None:
    assert (await local.get(token=ROOT)).status == 200
    assert (await local.get(token=ROOT, method="POST")).status == 405


async def test_everybody_who_is_known_is_in_system_authenticated(pki: PKI) -> None:
    async with local_world(pki, Groups(["system:authenticated"])) as local:
        assert (await local.get(token=BOB)).status == 200
        assert (await local.get(certificate=pki.bob)).status == 200
        assert (await local.get()).status == 401


# --- certificates ---


async def test_a_certificate_of_another_authority_of_the_same_name_does_not_get_through(local: Local) -> None:
    with pytest.raises(aiohttp.ClientError):
        await local.get(certificate=local.pki.stranger.issue("bob", organizations=("devs",)))


@pytest.mark.parametrize("flaw", [{"days": -1}, {"usage": "serverAuth"}], ids=["expired", "a server's"])
async def test_a_certificate_that_is_none_for_clients_now_does_not_get_through(
    local: Local, flaw: Mapping[str, object]
) -> None:
    pair = local.pki.client.issue("carol", organizations=("devs",), **flaw)  # type: ignore[arg-type] # see parametrize
    with pytest.raises(aiohttp.ClientError):
        await local.get(certificate=pair)


async def test_a_certificate_without_a_common_name_is_nobody(local: Local) -> None:
    pair = local.pki.client.issue("", organizations=("devs",))
    assert (await local.get(certificate=pair)).status == 401
    assert (await local.get(certificate=pair, token=ALICE)).status == 200


async def test_the_serving_certificates_authority_vouches_for_no_client(local: Local) -> None:
    with pytest.raises(aiohttp.ClientError):
        await local.get(certificate=local.pki.serving.issue("carol", organizations=("devs",)))


async def test_a_certificate_counts_before_a_token(local: Local) -> None:
    """As in kube-apiserver: bob's reads, whatever token comes with it; a guest's does not, whosever token."""
    guest = local.pki.client.issue("guest", organizations=("guests",))
    assert (await local.get(certificate=local.pki.bob, token="wrong")).status == 200
    assert (await local.get(certificate=guest, token=ALICE)).status == 403


# --- what changes ---


async def test_a_token_that_went_no_longer_counts_on_a_connection_that_stays(local: Local) -> None:
    headers = {"Authorization": f"Bearer {ALICE}"}
    async with local.client() as session:
        assert (await ask(session, headers=headers)).status == 200
        local.authentication.know(parse_tokens(f"{BOB},bob,2,devs\n".encode()))
        assert (await ask(session, headers=headers)).status == 401
        assert (await ask(session, headers={"Authorization": f"Bearer {BOB}"})).status == 200


async def test_an_authority_that_went_no_longer_counts_on_a_connection_that_stays(local: Local) -> None:
    async with local.client(local.pki.bob) as session:
        assert (await ask(session)).status == 200
        await local.trust(local.pki.stranger.pem)
        assert (await ask(session)).status == 401
        await local.trust(local.pki.client.pem)
        assert (await ask(session)).status == 200


async def test_a_certificate_ends_when_it_says_so(local: Local) -> None:
    async with local.client(local.pki.bob) as session:
        assert (await ask(session)).status == 200
        local.clock.now += 2 * 24 * 3600
        assert (await ask(session)).status == 401


# --- what others put into headers ---

FORGED = {"X-Remote-User": "root", "X-Remote-Group": "system:masters", "X-Remote-Extra-Scopes": "all"}


async def test_headers_of_a_front_proxy_name_nobody(local: Local) -> None:
    assert (await local.get(headers=FORGED)).status == 401
    assert (await local.get(headers=FORGED, token=BOB)).status == 403
    guest = local.pki.client.issue("guest")
    assert (await local.get(headers=FORGED, certificate=guest)).status == 403


@pytest.mark.parametrize(
    "header",
    ["Impersonate-User", "impersonate-group", "IMPERSONATE-UID", "Impersonate-Extra-Scopes", "Impersonate-Extra-"],
)
@pytest.mark.parametrize("token", ["", BOB, ALICE, ROOT])
async def test_impersonation_is_refused_by_name_whoever_asks(local: Local, header: str, token: str) -> None:
    answer = await local.get(headers={header: "root"}, token=token)
    assert answer.status == 400
    assert header.lower() in answer.json["message"].lower()


async def test_no_token_is_ever_logged(local: Local, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    for token in (ALICE, BOB, f"{ALICE}x"):
        await local.get(token=token)
        await local.get(token=token, headers={"Impersonate-User": "x"})
    assert ALICE not in caplog.text
    assert not [record for record in caplog.records if ALICE in str(record.__dict__)]
