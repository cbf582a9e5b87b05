"""Odd spellings of paths and forged continue tokens: whoever may read one namespace never sees a byte of another's.

The gate judges the path as it is read (attributes.py), so the claim is that the answer comes from just that reading.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import orjson
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cacheserver.api.options import encode_token, fresh_token
from cacheserver.api.status import forbidden
from cacheserver.security.identity import Attributes, Identity
from tests.fakes.api import BASE, World, api_world

MINE = f"{BASE}/namespaces/team/packages"
THEIRS = f"{BASE}/namespaces/other/packages"


class OneNamespace:
    """Somebody may read packages in namespace `team`, and nothing else. Masters come with the header Master."""

    async def identify(self, request: web.BaseRequest) -> Identity:
        return Identity("root" if "Master" in request.headers else "somebody")

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        mine = attributes.namespace == "team" and attributes.resource == "packages"
        if identity.user != "root" and not (mine and attributes.verb in ("get", "list", "watch")):
            raise forbidden(identity.user, attributes, "")


@pytest.fixture
async def shared() -> AsyncIterator[World]:
    """Packages r.a and r.b in `team`, r.secret in `other`."""
    async with api_world(gate=OneNamespace()) as world:
        world.package("a")
        world.package("b")
        world.package("secret", namespace="other", summary="classified")
        await world.settled()
        yield world


async def _ask(world: World, target: str, *headers: str) -> tuple[int, bytes]:
    """Status and body of a GET of just these bytes; no client's tidying between."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]))
    lines = (f"GET {target} HTTP/1.1", "Host: x", "Connection: close", *headers, "", "")
    writer.write("\r\n".join(lines).encode("latin-1"))
    try:
        async with asyncio.timeout(5):
            answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


# --- paths ---


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"{MINE}%2fr.a", 200),  # Go decodes before it splits, so do we: a slash is a slash for gate and answer alike
        (f"{BASE}/namespaces/%74eam/packages/r.a", 200),
        (f"/{MINE}/r.a", 200),
        (f"{MINE}/r.a//", 200),
        (f"{BASE}/namespaces/%2574eam/packages/r.a", 403),  # decoded once: the namespace is "%74eam"
        (f"{BASE}/namespaces/other/packages%2fr.secret", 403),
        (f"{BASE}/namespaces/oth%65r/packages/r.secret", 403),
        (f"{MINE}/../../other/packages/r.secret", 403),  # nobody resolves dots
        (f"{MINE}/%2e%2e/%2e%2e/other/packages/r.secret", 403),
        (f"{MINE}/%2e%2e%2f%2e%2e%2fother%2fpackages%2fr.secret", 403),
        (f"{MINE}/%252e%252e%252fr.secret", 400),
        (f"{BASE}/namespaces/team%2f..%2fother/packages/r.secret", 403),
        (f"{BASE}/namespaces/team/../other/packages/r.secret", 403),
        (f"{BASE}/namespaces//packages/r.secret", 403),
        (f"{BASE}/namespaces/team//packages/r.a", 403),
        (f"{BASE}/namespaces/team%00/packages/r.a", 403),
        (f"{BASE}/namespaces/team;/packages/r.a", 403),
        (f"{BASE}/namespaces/TEAM/packages/r.a", 403),
        (f"{BASE}/namespaces/other%5c..%5cteam/packages/r.secret", 403),
        (f"{MINE}/r.a%00", 404),
        (f"{MINE}/r%c0%aea", 404),  # the overlong dot of UTF-8 is not a dot
        (f"{MINE}/r%e0%80%aea", 404),
        (f"{MINE}%c0%afr.a", 403),
        (f"{MINE}/r.a%", 400),
        (f"{MINE}/r.a%zz", 400),
        (f"{MINE}/r%u002ea", 400),
        (f"{MINE}/..", 400),
        (f"{MINE}/%2e", 400),
        (f"{MINE}/r.a%3fpretty=1", 404),
        (f"{MINE}/r.a%23", 404),
        (f"{MINE}/r.a\\..\\r.b", 404),
        ("/healthz/../metrics", 403),
        ("/healthz/%2e%2e/metrics", 403),
        ("/healthz%2f..%2fmetrics", 403),
        ("/healthz;/metrics", 403),
        ("/readyz%00", 403),
        (f"/livez/..{THEIRS}", 403),
        (f"http://127.0.0.1{THEIRS}", 403),
        (f"//127.0.0.1{THEIRS}", 403),
    ],
)
async def test_a_spelling_is_judged_as_it_is_answered(shared: World, target: str, status: int) -> None:
    found, body = await _ask(shared, target)
    assert found == status
    assert b"classified" not in body


_SPELLED = st.sampled_from(
    (
        *("/", "//", "%2f", "%252f", ".", "..", "%2e", "%2e%2e", "%00", "%c0%ae", "\\", ";", "?", "#", "%", "&", BASE),
        *(
            "namespaces",
            "team",
            "other",
            "packages",
            "packagerevisions",
            "r.a",
            "r.secret",
            "content",
            "apis",
            "healthz",
        ),
        *("fieldSelector=metadata.name=r.secret", "fieldSelector=metadata.namespace=other", "limit=1"),
    )
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_SPELLED, max_size=9).map("".join))
async def test_no_spelling_shows_what_the_gate_did_not_let_through(shared: World, tail: str) -> None:
    for start in (BASE, MINE, THEIRS, ""):
        found, body = await _ask(shared, f"{start}/{tail}" + ("&" if "?" in tail else "?") + "timeoutSeconds=1")
        assert b"classified" not in body
        assert found < 500


# --- continue tokens ---


def _forged(content: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=").decode()


def _token(resource_version: object, start: str) -> str:
    return _forged({"v": "meta.k8s.io/v1", "rv": resource_version, "start": start})


@pytest.mark.parametrize(
    ("token", "status"),
    [
        (encode_token(12, ("other", "r.")), 400),  # another namespace's, given out to somebody else
        (fresh_token(("other", "")), 400),
        (_token(12, "team/../other/r.\0"), 400),
        (_token(12, "../other\0"), 400),
        (_token(-7, "team/r.\0"), 400),
        (_token(1e300, "team/r.\0"), 400),
        (_token([12], "team/r.\0"), 400),
        (base64.urlsafe_b64encode(b"[" * 30_000).decode(), 400),
        (encode_token(1, ("team", "r.")), 410),  # of a version that is not kept any more
        (encode_token(2**62, ("team", "r.")), 410),  # of one that never was, or of an etcd that was replaced
        (_token(2**64 - 1, "team/r.\0"), 410),
    ],
    ids=range(11),
)
async def test_a_token_of_elsewhere_shows_nothing(shared: World, token: str, status: int) -> None:
    found, body = await _ask(shared, f"{MINE}?timeout=20s&continue={token}")
    assert found == status
    assert b'"items"' not in body


@pytest.mark.parametrize("start", ["team/r.a\0", "team/r.a\0\0", f"team/{'a' * 500}\0", "team/~\0", "team/\u00e9\0"])
async def test_a_token_moves_within_its_namespace_at_most(shared: World, start: str) -> None:
    for version in (shared.feed.revision, -1):
        found, body = await _ask(shared, f"{MINE}?continue={_token(version, start)}")
        assert found == 200
        assert {item["metadata"]["namespace"] for item in orjson.loads(body)["items"]} <= {"team"}


async def test_a_token_says_where_and_not_what(shared: World) -> None:
    """One for packages tells nothing of it where another selector, limit or kind is asked for."""
    _, body = await _ask(shared, f"{MINE}?limit=1")
    token = orjson.loads(body)["metadata"]["continue"]
    found, body = await _ask(shared, f"{MINE}?continue={token}&fieldSelector=metadata.name=r.secret")
    assert (found, orjson.loads(body)["items"]) == (200, [])
    found, _ = await _ask(shared, f"{BASE}/packages?continue={token}")
    assert found == 403
    found, _ = await _ask(shared, f"{BASE}/namespaces/team/packagerevisions?continue={token}")
    assert found == 403
    found, body = await _ask(shared, f"{BASE}/packages?continue={token}", "Master: yes")
    assert [item["metadata"]["name"] for item in orjson.loads(body)["items"]] == ["r.b"]
