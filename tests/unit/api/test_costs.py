"""What a request may cost before anybody is known, or allowed to ask: caps by name, before the work."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from cacheserver.api.app import REMEMBERED_BYTES
from cacheserver.api.attributes import PARAMETERS, PATH_CHARACTERS, QUERY_CHARACTERS
from cacheserver.api.options import decode_token, encode_token, resource_version
from cacheserver.api.selectors import SELECTOR_CHARACTERS, SELECTOR_TERMS, parse_selection
from cacheserver.api.status import StatusError
from cacheserver.memo import Memo
from cacheserver.turns import Turns
from tests.fakes.api import BASE, World

LINE = 600
"""Characters: a refusal's own words and a line of the client's."""


def terms(count: int) -> str:
    return ",".join(f"k{i}!=v" for i in range(count))


async def test_long_request_lines_are_read_one_in_a_turn_of_the_loop(six: World) -> None:
    """Those who send little have their events in between."""

    class Counted(Turns):
        taken = 0

        def _next(self) -> None:
            self.taken += 1
            super()._next()

    turns = six.api._long = Counted(six.api._long._most)
    long = terms(SELECTOR_TERMS + 1) + "y" * 4000
    answers = await asyncio.gather(*(six.get("packages", query={"labelSelector": f"{long}{i}"}) for i in range(20)))
    assert {answer.status for answer in answers} == {400}
    assert turns.taken >= 20


@pytest.mark.parametrize("parameter", ["labelSelector", "fieldSelector"])
@pytest.mark.parametrize(
    ("selector", "said"),
    [
        (terms(SELECTOR_TERMS + 1), f"{SELECTOR_TERMS + 1} terms and values, at most {SELECTOR_TERMS}"),
        (f"a in ({','.join('v' * SELECTOR_TERMS)},w)", f"at most {SELECTOR_TERMS}"),
        ("k" * (SELECTOR_CHARACTERS + 1), f"at most {SELECTOR_CHARACTERS}"),
    ],
)
@pytest.mark.parametrize("watch", ["0", "1"])
async def test_a_selector_over_its_cap_is_refused_by_name(
    six: World, parameter: str, selector: str, said: str, watch: str
) -> None:
    answer = await six.get("packages", query={parameter: selector, "watch": watch})
    assert answer.status == 400
    assert said in answer.json["message"]
    assert len(answer.body) < LINE


async def test_a_selector_at_its_cap_is_answered(six: World) -> None:
    for selector in (
        terms(SELECTOR_TERMS),
        "cacheserver.dev/package in (a," + ",".join(f"v{i}" for i in range(255)) + ")",
    ):
        answer = await six.get("packages", query={"labelSelector": selector})
        assert answer.status == 200
        assert "r.a" in answer.names


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (f"{BASE}/packages?{'a=1&' * PARAMETERS}b=1", f"{PARAMETERS + 1} parameters, at most {PARAMETERS}"),
        (f"{BASE}/packages?x={'y' * QUERY_CHARACTERS}", f"at most {QUERY_CHARACTERS}"),
        (f"{BASE}/packages/{'%41' * PATH_CHARACTERS}", f"at most {PATH_CHARACTERS}"),
        (f"/livez?{'exclude=a&' * 1000}", f"at most {PARAMETERS}"),
        (f"/openapi/v3?hash={'y' * QUERY_CHARACTERS}", f"at most {QUERY_CHARACTERS}"),
    ],
)
async def test_a_request_line_over_its_cap_is_refused_by_name(six: World, target: str, said: str) -> None:
    answer = await six.get(target)
    assert answer.status == 400
    assert said in answer.json["message"]
    assert len(answer.body) < LINE


LONG = "z" * 7000


@pytest.mark.parametrize(
    "query",
    [
        {"labelSelector": LONG},
        {"labelSelector": f"a={LONG}"},
        {"labelSelector": f"a b{LONG}"},
        {"labelSelector": f"a in (b {LONG}"},
        {"labelSelector": f"a in ({','.join(['-' * 20] * 250)})"},
        {"fieldSelector": LONG},
        {"fieldSelector": f"{LONG}=1"},
        {"resourceVersion": LONG},
        {"limit": LONG},
        {"timeout": LONG},
        {"resourceVersion": "1", "resourceVersionMatch": LONG},
        {"continue": LONG},
    ],
)
async def test_a_refusal_repeats_at_most_a_line_of_what_was_sent(six: World, query: dict[str, str]) -> None:
    answer = await six.get("packages", query=query)
    assert answer.status in (400, 422)
    assert len(answer.body) < 4 * LINE
    assert "z" * 300 not in answer.body.decode()


async def test_a_table_and_a_name_repeat_at_most_a_line_too(six: World) -> None:
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    for answer in (
        await six.get("packages", accept=table, includeObject=LONG),
        await six.get(f"namespaces/team/packages/{'z' * 1500}"),
        await six.get(f"namespaces/team/packages/%25{'z' * 1500}"),
    ):
        assert answer.status in (400, 404)
        assert len(answer.body) < 2 * LINE


def test_a_continue_token_for_the_longest_name_is_taken_back() -> None:
    longest = ("n" * 63, "o" * 253)
    assert decode_token(encode_token(2**63 - 1, longest), "")[1] == longest


def test_a_resource_version_is_repeated_in_a_line() -> None:
    with pytest.raises(StatusError) as refused:
        resource_version("9" * 30_000)
    assert len(str(refused.value)) < LINE


def test_a_selection_at_its_cap_takes_little_memory() -> None:
    """It is kept as long as its watch."""
    text = ",".join(f"k{i:03}!=v" for i in range(SELECTOR_TERMS))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [parse_selection(text, "", ()) for _ in range(20)]
        assert (tracemalloc.get_traced_memory()[0] - before) / len(kept) < 100 << 10
    finally:
        tracemalloc.stop()


async def test_hostile_request_lines_leave_little_behind(six: World) -> None:
    """Each as rich in parameters as its length allows: 3.7 MB of them, were they kept. An eighth of what a server
    remembers stands for it."""
    six.api._known = Memo(REMEMBERED_BYTES // 8)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(600):
            parameters = "&".join(f"{i}{n}=x" for n in range(60))
            six.api._read("GET", f"{BASE}/packages/%F0%9F%98%80{i}?{parameters}"[:512])
        assert tracemalloc.get_traced_memory()[0] - before < REMEMBERED_BYTES // 8 * 5 // 4
    finally:
        tracemalloc.stop()
