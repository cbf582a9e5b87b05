"""Continue tokens, durations, and which freshness a request asks the cache for."""

from __future__ import annotations

import base64

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.api.options import (
    ANY,
    CONSISTENT,
    decode_token,
    encode_token,
    fresh_token,
    list_request,
    request_timeout_s,
    watch_request,
)
from cacheserver.api.status import StatusError
from cacheserver.cache.watchcache import Freshness, ReadAt

names = st.text(alphabet="abz019.-", min_size=1, max_size=40).filter(lambda name: name not in (".", ".."))


@given(st.integers(1, 2**63 - 1), names, names)
def test_a_token_leads_back_to_where_it_was_given_out(version: int, namespace: str, name: str) -> None:
    token = encode_token(version, (namespace, name))
    at = ReadAt(Freshness.EXACT, version)
    assert decode_token(token, "") == decode_token(token, namespace) == (at, (namespace, name))


def test_a_fresh_token_goes_on_at_the_present() -> None:
    assert decode_token(fresh_token(("a", "b")), "") == (CONSISTENT, ("a", "b"))


def _forged(content: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "token",
    [
        "abc",
        "é",
        "!!!!",
        _forged([]),
        _forged({"v": "meta.k8s.io/v1", "rv": 5}),
        _forged({"v": "v2", "rv": 5, "start": "a/b\0"}),
        _forged({"v": "meta.k8s.io/v1", "rv": 0, "start": "a/b\0"}),
        _forged({"v": "meta.k8s.io/v1", "rv": True, "start": "a/b\0"}),
        _forged({"v": "meta.k8s.io/v1", "rv": "5", "start": "a/b\0"}),
        _forged({"v": "meta.k8s.io/v1", "rv": 5, "start": "../b\0"}),
        _forged({"v": "meta.k8s.io/v1", "rv": 5, "start": "a/../b\0"}),
        _forged({"v": "meta.k8s.io/v1", "rv": 5, "start": "a/b"}),
        _forged({"v": "meta.k8s.io/v1", "rv": 5, "start": 7}),
        encode_token(5, ("another", "b")),
    ],
)
def test_a_forged_token_is_refused(token: str) -> None:
    with pytest.raises(StatusError, match=r"^invalid continue token"):
        decode_token(token, "team")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("32s", 32), ("1m", 60), ("1h", 60), ("100ms", 0.1), ("1.5s", 1.5), ("0", 60), ("-1s", 60), ("", None)],
)
def test_a_timeout_is_a_go_duration_of_a_minute_at_most(text: str, seconds: float | None) -> None:
    assert request_timeout_s({"timeout": text}) == seconds


@pytest.mark.parametrize("text", ["abc", "5", "s", "1x", "-", "1s2", ".s"])
def test_a_bad_timeout_is_refused(text: str) -> None:
    with pytest.raises(StatusError, match="invalid timeout specified in the request URL"):
        request_timeout_s({"timeout": text})


def _at(**query: str) -> ReadAt:
    return list_request(query, (), "").at


def test_lists_are_as_fresh_as_kubernetes_lists() -> None:
    assert _at() == CONSISTENT
    assert _at(limit="5") == CONSISTENT
    assert _at(resourceVersion="0") == ANY
    assert _at(resourceVersion="7") == ReadAt(Freshness.NOT_OLDER_THAN, 7)
    assert _at(resourceVersion="7", limit="5") == ReadAt(Freshness.EXACT, 7)
    assert _at(resourceVersion="7", resourceVersionMatch="Exact") == ReadAt(Freshness.EXACT, 7)
    older = _at(resourceVersion="7", resourceVersionMatch="NotOlderThan", limit="5")
    assert older == ReadAt(Freshness.NOT_OLDER_THAN, 7)


def test_watches_begin_where_kubernetes_watches_begin() -> None:
    def begins(**query: str) -> tuple[int | None, ReadAt | None, bool]:
        found = watch_request(query, ())
        return found.since, found.initial, found.end_bookmark

    initial = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    assert begins() == (None, CONSISTENT, False)
    assert begins(resourceVersion="0", allowWatchBookmarks="true") == (None, ANY, True)
    assert begins(resourceVersion="7", allowWatchBookmarks="true") == (7, None, False)
    assert begins(**initial, resourceVersion="7") == (None, ReadAt(Freshness.NOT_OLDER_THAN, 7), False)
    assert begins(sendInitialEvents="false", resourceVersionMatch="NotOlderThan") == (None, None, False)
