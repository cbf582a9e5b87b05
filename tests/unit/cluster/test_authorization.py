"""Who may what: asked of the host cluster, remembered for a while, refused in kube-apiserver's words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cacheserver.cluster.authorization import review_spec
from cacheserver.cluster.remembered import Remembered
from cacheserver.security.identity import Attributes, Identity
from tests.fakes.api import BASE
from tests.fakes.guarded import PACKAGES, Guarded
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

REVIEWS = "POST /apis/authorization.k8s.io/v1/subjectaccessreviews"
ALL = f"{BASE}/packages"


def forbidden(message: str, **details: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "Forbidden",
        "details": details,
        "code": 403,
    }


# --- refusals, word for word ---


@pytest.mark.parametrize(
    ("path", "words", "name"),
    [
        (PACKAGES, 'cannot list resource "packages" in API group "cacheserver.dev" in the namespace "team"', ""),
        (
            f"{PACKAGES}?watch=1",
            'cannot watch resource "packages" in API group "cacheserver.dev" in the namespace "team"',
            "",
        ),
        (ALL, 'cannot list resource "packages" in API group "cacheserver.dev" at the cluster scope', ""),
        (
            f"{PACKAGES}/no-such",
            'cannot get resource "packages" in API group "cacheserver.dev" in the namespace "team"',
            "no-such",
        ),
        (
            f"{PACKAGES}/r.a/icon",
            'cannot get resource "packages/icon" in API group "cacheserver.dev" in the namespace "team"',
            "r.a",
        ),
    ],
)
async def test_a_forbidden_resource_is_told_as_kube_does(guarded: Guarded, path: str, words: str, name: str) -> None:
    answer = await guarded.get(path, proxied="mallory")
    what = "packages.cacheserver.dev" + (f' "{name}"' if name else "")
    named = {"name": name} if name else {}
    message = f'{what} is forbidden: User "mallory" {words}'
    assert answer.json == forbidden(message, **named, group="cacheserver.dev", kind="packages")
    assert answer.status == 403
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_forbidden_path_is_told_as_kube_does(guarded: Guarded) -> None:
    answer = await guarded.get("/metrics", proxied='a<b>&"c"')
    assert answer.json == forbidden('forbidden: User "a&lt;b&gt;&amp;\\"c\\"" cannot get path "/metrics"')


async def test_forbidden_comes_before_not_found(guarded: Guarded) -> None:
    for path in (f"{BASE}/namespaces/team/unknowns", "/apis/other.example/v1/things", "/nowhere"):
        assert (await guarded.get(path, proxied="mallory")).status == 403, path


# --- what needs no review ---


async def test_masters_may_everything_unasked(guarded: Guarded) -> None:
    for path in (PACKAGES, ALL, "/metrics", "/readyz/ping"):
        assert (await guarded.get(path, proxied="root", groups="system:masters")).status == 200, path
    assert guarded.kube.reviewed == []


async def test_discovery_of_a_token_is_reviewed(guarded: Guarded) -> None:
    """Only the front proxy's callers were let through by kube-apiserver already."""
    guarded.kube.token("t", "alice")
    assert (await guarded.get("/version", token="t")).status == 200
    assert guarded.kube.reviewed[-1]["nonResourceAttributes"] == {"path": "/version", "verb": "get"}
    assert (await guarded.get("/openapi/v3", token="t")).status == 403


async def test_the_proxys_callers_may_discover_and_not_write_to_it(guarded: Guarded) -> None:
    assert (await guarded.get("/apis", proxied="anybody")).status == 200
    assert (await guarded.get("/apis", proxied="anybody", method="POST")).status == 403
    assert (await guarded.get("/metrics", proxied="anybody")).status == 403
    assert (await guarded.get("/", proxied="anybody")).status == 403


# --- remembered answers ---


async def test_an_answer_yes_or_no_holds_for_ten_seconds(guarded: Guarded) -> None:
    guarded.kube.allow("alice", resource="packages")
    for user, status in (("alice", 200), ("mallory", 403)):
        for _ in range(3):
            assert (await guarded.get(proxied=user)).status == status
    assert guarded.kube.calls[REVIEWS] == 2
    guarded.kube.rules.clear()
    guarded.kube.allow("mallory", resource="packages")
    guarded.clock.now += 9.9
    assert [(await guarded.get(proxied=user)).status for user in ("alice", "mallory")] == [200, 403]
    guarded.clock.now += 0.2
    assert [(await guarded.get(proxied=user)).status for user in ("alice", "mallory")] == [403, 200]
    assert guarded.kube.calls[REVIEWS] == 4


async def test_each_question_is_asked_for_itself(guarded: Guarded) -> None:
    guarded.kube.allow("alice", verbs=("list",), resource="packages", namespace="team")
    assert (await guarded.get(proxied="alice")).status == 200
    assert (await guarded.get(f"{PACKAGES}?watch=1", proxied="alice")).status == 403
    assert (await guarded.get(f"{PACKAGES}/r.a", proxied="alice")).status == 403
    assert (await guarded.get(f"{BASE}/namespaces/other/packages", proxied="alice")).status == 403
    assert (await guarded.get(proxied="alice", groups="other")).status == 200
    assert guarded.kube.calls[REVIEWS] == 5


async def test_equal_questions_at_the_same_time_are_one_review(guarded: Guarded) -> None:
    answers = await asyncio.gather(*(guarded.get(proxied="alice") for _ in range(8)))
    assert [answer.status for answer in answers] == [403] * 8
    assert guarded.kube.calls[REVIEWS] == 1


async def test_no_answer_is_an_internal_error_and_not_remembered(guarded: Guarded) -> None:
    guarded.kube.allow("alice", resource="packages")
    guarded.kube.refuse(403, "no RBAC for you")
    answer = await guarded.get(proxied="alice")
    assert (answer.status, answer.json["reason"]) == (500, "InternalError")
    assert answer.json["message"].startswith("Internal error occurred: ")
    assert "RBAC" not in answer.json["message"]
    guarded.kube.refuse(0)
    assert (await guarded.get(proxied="alice")).status == 200


async def test_a_busy_host_cluster_is_asked_again(guarded: Guarded) -> None:
    guarded.kube.allow("alice", resource="packages")
    guarded.kube.refuse(429)
    asking = asyncio.create_task(guarded.get(proxied="alice"))
    await eventually(lambda: guarded.kube.calls[REVIEWS] > 0)
    guarded.kube.refuse(0)
    assert (await asking).status == 200
    assert guarded.kube.calls[REVIEWS] == 2


async def test_the_oldest_answer_goes_when_there_are_too_many() -> None:
    asked: list[int] = []

    async def look_up(remembered: Remembered[int, int], key: int) -> None:
        async def ask() -> int:
            asked.append(key)
            return key

        if remembered.get(key) is None:
            await remembered.look_up(key, ask, lambda answer: 10_000)

    remembered: Remembered[int, int] = Remembered(keep_s=10, most_bytes=200_000, now=lambda: 0.0)
    for key in range(2, 100):
        await look_up(remembered, 1)
        await look_up(remembered, key)
    await look_up(remembered, 2)
    assert asked == [1, *range(2, 100), 2]


async def test_what_is_large_is_not_remembered() -> None:
    asked = 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        return asked

    remembered: Remembered[int, int] = Remembered(keep_s=10, most_bytes=200_000, now=lambda: 0.0)
    for _ in range(2):
        assert remembered.get(1) is None
        await remembered.look_up(1, ask, lambda answer: 100_000)
    assert asked == 2


async def test_a_question_too_long_to_keep_is_asked_each_time(guarded: Guarded) -> None:
    guarded.kube.allow("alice", resource="packages")
    selector = ",".join(f"key{i}!=value{'x' * 20}" for i in range(180))
    selector += "&fieldSelector=" + ",".join(f"metadata.name!=value{i}" for i in range(200))
    for _ in range(2):
        assert (await guarded.get(f"{PACKAGES}?labelSelector={selector}", proxied="alice")).status == 200
    assert guarded.kube.calls[REVIEWS] == 2


# --- what is asked ---


def spec(verb: str = "list", *, fields: str = "", labels: str = "") -> Any:
    asked = Attributes(verb, "/p", "g", "v1", "things", "", "ns", "", fields, labels)
    return review_spec(Identity("u"), asked)["resourceAttributes"]


def test_a_plain_question_names_no_selector() -> None:
    assert spec() == {"namespace": "ns", "verb": "list", "group": "g", "version": "v1", "resource": "things"}


def test_simple_selectors_are_told_to_the_authorizer() -> None:
    asked = spec(fields="metadata.name=x,spec.format!=FBC", labels="a=b, c in (e,d),f notin (g), h, !i, j!=k, l==m")
    assert asked["fieldSelector"]["requirements"] == [
        {"key": "metadata.name", "operator": "In", "values": ["x"]},
        {"key": "spec.format", "operator": "NotIn", "values": ["FBC"]},
    ]
    assert asked["labelSelector"]["requirements"] == [
        {"key": "a", "operator": "In", "values": ["b"]},
        {"key": "c", "operator": "In", "values": ["d", "e"]},
        {"key": "f", "operator": "NotIn", "values": ["g"]},
        {"key": "h", "operator": "Exists"},
        {"key": "i", "operator": "DoesNotExist"},
        {"key": "j", "operator": "NotIn", "values": ["k"]},
        {"key": "l", "operator": "In", "values": ["m"]},
    ]


@pytest.mark.parametrize("labels", ["a=b,c>3", "a=b,c in (d", "a=b,,", "a in ((b))", "a=b c"])
def test_a_selector_that_is_not_simple_is_not_told_at_all(labels: str) -> None:
    """A part of it would be a narrower question than the one that is answered."""
    assert "labelSelector" not in spec(labels=labels)


@pytest.mark.parametrize("fields", ["metadata.name=a\\,b", "metadata.name", "a=b=c"])
def test_a_field_selector_that_is_not_simple_is_not_told_at_all(fields: str) -> None:
    assert "fieldSelector" not in spec(fields=fields)
