"""What is remembered of what clients sent stays within its bytes, and what is asked for stays."""

from __future__ import annotations

import tracemalloc

import pytest

from cacheserver.api.http.negotiate import ACCEPT_CHARACTERS, Answer, negotiate
from cacheserver.api.status import StatusError
from cacheserver.cluster.authorization import review_spec
from cacheserver.memo import Memo
from cacheserver.security.identity import Attributes, Identity


def test_what_is_asked_for_stays_and_the_rest_goes() -> None:
    memo: Memo[int, int] = Memo(100_000)
    memo.put(0, 0, 1_000)
    for key in range(1, 1_000):
        memo.put(key, key, 1_000)
        assert memo.get(0) == 0
    newest_first = [memo.get(key) is not None for key in range(999, 0, -1)]
    assert all(newest_first[:30])
    assert sum(newest_first) <= 100


def test_what_would_take_an_eighth_alone_is_not_kept() -> None:
    memo: Memo[str, int] = Memo(100_000)
    memo.put("small", 1, 10_000)
    memo.put("large", 1, 20_000)
    assert (memo.get("small"), memo.get("large")) == (1, None)


def test_forgotten_is_gone_and_its_bytes_are_free() -> None:
    memo: Memo[int, int] = Memo(100_000)
    for _ in range(1_000):
        memo.put(1, 1, 10_000)
        memo.forget(1)
    memo.put(2, 2, 1_000)
    memo.put(1, 1, 10_000)
    assert (memo.get(1), memo.get(2)) == (1, 2)


def test_hostile_accept_headers_leave_little_behind() -> None:
    """Of every length, and as rich in clauses and parameters as they can be: 12 MB of them, were they kept."""

    def ask() -> None:
        for length in (100, 500, ACCEPT_CHARACTERS, 16 << 10):
            for i in range(50):
                for piece in ("*,", "*/*;a=b,", "a/b;" + f"k{i}=v;" * 10, "".join(f"x;p{n}=q;" for n in range(50))):
                    header = f"a/{i},{piece * (length // len(piece) + 1)}"[:length]
                    try:
                        negotiate(header, Answer.LIST)
                    except StatusError:
                        pass

    assert _left_behind(ask) < 4 << 20


def test_an_accept_header_longer_than_any_client_s_is_refused_by_name() -> None:
    with pytest.raises(StatusError, match=f"at most {ACCEPT_CHARACTERS}") as refused:
        negotiate("application/json," + "*" * ACCEPT_CHARACTERS, Answer.LIST)
    assert refused.value.code == 400


def test_selectors_of_those_who_may_nothing_leave_nothing_behind() -> None:
    def ask() -> None:
        for i in range(100):
            selector = ",".join(f"k{i}-{n}!=v" for n in range(200))
            review_spec(Identity("u"), Attributes("list", "/p", "g", "v1", "r", "", "", "", selector, selector))

    assert _left_behind(ask) < 1 << 20


def _left_behind(work: object) -> int:
    """Bytes that are allocated after `work` and were not before."""
    assert callable(work)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
