"""Who a request comes from: the front proxy's word, a client certificate, a token; and that nothing else counts."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping

import aiohttp
import pytest

from tests.fakes.guarded import PACKAGES, Guarded, ask
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

UNAUTHORIZED = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Failure",
    "message": "Unauthorized",
    "reason": "Unauthorized",
    "code": 401,
}
FORGED = {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"}


# --- the front proxy ---


async def test_the_front_proxy_speaks_for_its_users(guarded: Guarded) -> None:
    guarded.kube.allow("alice", resource="packages")
    assert (await guarded.get(proxied="alice")).names == ["r.a"]
    assert (await guarded.get(proxied="mallory")).status == 403


async def test_uid_groups_and_extra_come_from_their_headers(guarded: Guarded) -> None:
    headers = {
        "X-Remote-Uid": "42",
        "X-Remote-Extra-Scopes": "read",
        "x-remote-EXTRA-Acme.example%2FProject": "blue",
        "X-Remote-Extra-Broken%zz": "kept",
    }
    await guarded.get(proxied="alice", groups="devs", headers=headers)
    assert guarded.kube.reviewed[-1] == {
        "user": "alice",
        "groups": ["devs", "system:authenticated"],
        "uid": "42",
        "extra": {"scopes": ["read"], "acme.example/project": ["blue"], "broken%zz": ["kept"]},
        "resourceAttributes": {
            "namespace": "team",
            "verb": "list",
            "group": "cacheserver.dev",
            "version": "v1alpha1",
            "resource": "packages",
        },
    }


async def test_every_group_header_counts_in_its_order(guarded: Guarded) -> None:
    async with guarded.client(guarded.pki.front_proxy) as session:
        headers = [("X-Remote-User", "alice"), ("X-Remote-Group", "b"), ("X-Remote-Group", "a")]
        async with session.get(PACKAGES, headers=headers):
            pass
    assert guarded.kube.reviewed[-1]["groups"] == ["b", "a", "system:authenticated"]


async def test_an_anonymous_user_of_the_proxy_stays_anonymous(guarded: Guarded) -> None:
    await guarded.get(proxied="system:anonymous", groups="system:unauthenticated")
    assert guarded.kube.reviewed[-1]["groups"] == ["system:unauthenticated"]


async def test_a_proxy_that_names_no_user_speaks_for_nobody(guarded: Guarded) -> None:
    answer = await guarded.get(certificate=guarded.pki.front_proxy, headers={"X-Remote-Group": "system:masters"})
    assert answer.status == 401


async def test_a_certificate_of_the_proxys_authority_needs_an_allowed_name(guarded: Guarded) -> None:
    other = guarded.pki.proxy.issue("other-proxy")
    assert (await guarded.get(certificate=other, headers=FORGED)).status == 401


async def test_no_allowed_names_allow_any(guarded: Guarded) -> None:
    other = guarded.pki.proxy.issue("other-proxy")
    guarded.kube.trust(client_ca=guarded.pki.client.pem, proxy_ca=guarded.pki.proxy.pem, names=())

    async def let_in() -> bool:
        return (await guarded.get(certificate=other, headers=FORGED)).status == 200

    await eventually(let_in)


# --- forged headers ---


async def test_forged_headers_without_a_certificate_grant_nothing(guarded: Guarded) -> None:
    answer = await guarded.get(headers=FORGED)
    assert (answer.status, answer.json) == (401, UNAUTHORIZED)


async def test_forged_headers_with_a_users_certificate_grant_nothing(guarded: Guarded) -> None:
    assert (await guarded.get(certificate=guarded.pki.bob, headers=FORGED)).status == 403
    assert guarded.kube.reviewed[-1]["user"] == "bob"


async def test_forged_headers_with_a_token_grant_nothing(guarded: Guarded) -> None:
    guarded.kube.token("t", "alice")
    assert (await guarded.get(token="t", headers=FORGED)).status == 403
    assert guarded.kube.reviewed[-1]["user"] == "alice"


async def test_a_users_certificate_with_an_allowed_name_is_no_proxy(guarded: Guarded) -> None:
    """The name alone is nothing: whoever may have certificates signed could choose it."""
    impostor = guarded.pki.client.issue("front-proxy")
    assert (await guarded.get(certificate=impostor, headers=FORGED)).status == 403
    assert guarded.kube.reviewed[-1]["user"] == "front-proxy"


async def test_a_certificate_of_an_unknown_authority_ends_in_the_handshake(guarded: Guarded) -> None:
    """Also of one that has the name of a known one."""
    strange = guarded.pki.stranger.issue("front-proxy")
    with pytest.raises(aiohttp.ClientError):
        await guarded.get(certificate=strange, headers=FORGED)


async def test_the_aggregator_itself_may_do_what_it_must(guarded: Guarded) -> None:
    reviews = len(guarded.kube.reviewed)
    answer = await guarded.get(PACKAGES.partition("/namespaces")[0], proxied="system:kube-aggregator")
    assert answer.status == 200
    for path in ("/apis", "/openapi/v2", "/openapi/v3", "/version", "/api"):
        assert (await guarded.get(path, proxied="system:aggregator")).status == 200, path
    assert len(guarded.kube.reviewed) == reviews


# --- client certificates ---


async def test_a_client_certificate_names_user_and_groups(guarded: Guarded) -> None:
    guarded.kube.allow("ops", resource="packages")
    assert (await guarded.get(certificate=guarded.pki.bob)).status == 200
    asked = guarded.kube.reviewed[-1]
    assert (asked["user"], asked["groups"]) == ("bob", ["devs", "ops", "system:authenticated"])
    assert asked["extra"]["authentication.kubernetes.io/credential-id"][0].startswith("X509SHA256=")


async def test_a_certificate_that_expires_on_an_open_connection_is_believed_no_more(guarded: Guarded) -> None:
    guarded.kube.allow("bob", resource="packages")
    async with guarded.client(guarded.pki.bob) as session:
        assert (await ask(session)).status == 200
        guarded.clock.now += datetime.timedelta(days=1, hours=1).total_seconds()
        assert (await ask(session)).status == 401


async def test_an_expired_certificate_ends_in_the_handshake(guarded: Guarded) -> None:
    late = guarded.pki.client.issue("late", days=-1)
    with pytest.raises(aiohttp.ClientError):
        await guarded.get(certificate=late)


# --- tokens ---


async def test_a_token_is_reviewed_by_the_host_cluster(guarded: Guarded) -> None:
    guarded.kube.token("t", "alice", "devs", extra={"pod": ["x"]})
    guarded.kube.allow("devs", resource="packages")
    assert (await guarded.get(token="t")).status == 200
    asked = guarded.kube.reviewed[-1]
    assert (asked["uid"], asked["groups"], asked["extra"]) == (
        "uid-alice",
        ["devs", "system:authenticated"],
        {"pod": ["x"]},
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer bad"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
        {},
    ],
)
async def test_a_credential_that_does_not_hold_is_unauthorized(guarded: Guarded, headers: Mapping[str, str]) -> None:
    answer = await guarded.get(headers=headers)
    assert (answer.status, answer.json) == (401, UNAUTHORIZED)


async def test_a_bad_token_is_unauthorized_where_no_token_is_needed_but_for_health(guarded: Guarded) -> None:
    assert (await guarded.get("/healthz", token="bad")).status == 200
    assert (await guarded.get("/version", token="bad")).status == 401


async def test_a_token_is_reviewed_once_in_ten_seconds(guarded: Guarded) -> None:
    guarded.kube.token("good", "alice")
    for token, status in (("good", 403), ("bad", 401)):
        for _ in range(3):
            assert (await guarded.get(token=token)).status == status
    assert guarded.kube.reviewed_tokens == ["good", "bad"]
    guarded.clock.now += 9.9
    await guarded.get(token="good")
    assert len(guarded.kube.reviewed_tokens) == 2
    guarded.clock.now += 0.2
    await guarded.get(token="good")
    await guarded.get(token="bad")
    assert guarded.kube.reviewed_tokens == ["good", "bad", "good", "bad"]


async def test_a_revoked_token_ends_within_ten_seconds(guarded: Guarded) -> None:
    guarded.kube.token("t", "alice")
    assert (await guarded.get(token="t")).status == 403
    guarded.kube.revoke("t")
    guarded.clock.now += 10
    assert (await guarded.get(token="t")).status == 401


async def test_asking_all_the_time_keeps_a_revoked_token_no_longer(guarded: Guarded) -> None:
    guarded.kube.token("t", "alice")
    assert (await guarded.get(token="t")).status == 403
    guarded.kube.revoke("t")
    for _ in range(9):
        guarded.clock.now += 1
        assert (await guarded.get(token="t")).status == 403
    guarded.clock.now += 1
    assert (await guarded.get(token="t")).status == 401


async def test_a_token_that_is_revoked_and_given_to_another_counts_for_each_in_turn(guarded: Guarded) -> None:
    """Answers that turn over, the refusal among them, are each remembered for ten seconds and no longer."""
    kube, clock = guarded.kube, guarded.clock
    kube.allow("alice", resource="packages")
    kube.token("t", "alice")
    assert (await guarded.get(token="t")).status == 200
    kube.revoke("t")
    clock.now += 10
    assert (await guarded.get(token="t")).status == 401
    kube.token("t", "bob")
    clock.now += 9.9
    assert (await guarded.get(token="t")).status == 401
    clock.now += 0.1
    assert (await guarded.get(token="t")).status == 403
    assert kube.reviewed[-1]["user"] == "bob"
    kube.token("t", "alice")
    clock.now += 10
    assert (await guarded.get(token="t")).status == 200


async def test_a_watch_outlives_its_token_and_nothing_else_does(guarded: Guarded) -> None:
    """As kube-apiserver's: who may is asked when a request begins, and a watch ends by its own timeout."""
    guarded.kube.allow("alice", resource="packages")
    guarded.kube.token("t", "alice")
    headers = {"Authorization": "Bearer t"}
    path = f"{PACKAGES}?watch=1&resourceVersion=0"
    async with guarded.client() as session, session.get(path, headers=headers) as watching:
        assert b'"r.a"' in await watching.content.readline()
        guarded.kube.revoke("t")
        guarded.clock.now += 10
        assert (await guarded.get(token="t")).status == 401
        guarded.world.package("b")
        async with asyncio.timeout(30):
            assert b'"r.b"' in await watching.content.readline()


async def test_many_requests_with_one_token_are_one_review(guarded: Guarded) -> None:
    guarded.kube.token("t", "alice")
    answers = await asyncio.gather(*(guarded.get(token="t") for _ in range(8)))
    assert [answer.status for answer in answers] == [403] * 8
    assert guarded.kube.reviewed_tokens == ["t"]


async def test_an_error_is_not_remembered(guarded: Guarded) -> None:
    guarded.kube.token("t", "alice")
    guarded.kube.refuse(403)
    assert (await guarded.get(token="t")).status == 401
    guarded.kube.refuse(0)
    assert (await guarded.get(token="t")).status == 403


async def test_a_client_that_leaves_does_not_take_the_review_from_others(guarded: Guarded) -> None:
    guarded.kube.token("t", "alice")
    guarded.kube.hang()
    leaving = asyncio.create_task(guarded.get(token="t"))
    staying = asyncio.create_task(guarded.get(token="t"))
    await eventually(lambda: guarded.kube.calls["POST /apis/authentication.k8s.io/v1/tokenreviews"] > 0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    guarded.kube.let_go()
    assert (await staying).status == 403
    assert guarded.kube.reviewed_tokens == ["t"]


# --- without credentials ---


async def test_health_asks_for_no_credentials_and_no_host_cluster(guarded: Guarded) -> None:
    guarded.kube.refuse(500)
    for path in ("/healthz", "/livez", "/readyz", "/readyz?verbose"):
        assert (await guarded.get(path)).status == 200, path


@pytest.mark.parametrize(
    "path", ["/version", "/apis", "/openapi/v2", "/metrics", "/", "/readyz/ping", "/healthz/", PACKAGES]
)
async def test_everything_else_asks_for_credentials(guarded: Guarded, path: str) -> None:
    assert (await guarded.get(path)).status == 401


@pytest.mark.parametrize(
    "header", ["Impersonate-User", "impersonate-group", "Impersonate-Uid", "Impersonate-Extra-Scopes"]
)
async def test_impersonation_is_refused_by_name(guarded: Guarded, header: str) -> None:
    guarded.kube.token("t", "alice", "system:masters")
    answer = await guarded.get(token="t", headers={header: "bob"})
    assert answer.status == 400
    assert header in answer.json["message"]
