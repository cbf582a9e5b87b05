"""Clients who mean harm, with and without credentials, against a server that serves others meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.hostile.arena import HONEST, Arena, Measured
from tests.hostile.conftest import LEAST_S, WHOLE, whole_only
from tests.hostile.judge import judge
from tests.support.server import API

pytestmark = [pytest.mark.hostile, pytest.mark.asyncio(loop_scope="session")]

HOLD_S = 8.0 if WHOLE else 1.0


@asynccontextmanager
async def attacked(arena: Arena, name: str) -> AsyncIterator[Measured]:
    """While the block runs an honest client measures; then the judge speaks."""
    async with arena.measured(name, least_s=LEAST_S) as measured:
        yield measured
    await judge(arena, measured)


async def attack(arena: Arena, what: str, **job: Any) -> dict[str, Any]:
    """One of tests/hostile/clients.py; what it tells."""
    title = f"{what} {' '.join(str(value) for value in job.values())}"
    async with attacked(arena, title):
        told = await arena.attack(what, **job)
    print(told)
    return told


async def test_nothing_at_all(arena: Arena) -> None:
    """What the others cost: how fast the machine is while nobody attacks."""
    async with attacked(arena, "nobody"):
        await asyncio.sleep(HOLD_S)


@pytest.mark.parametrize(
    ("user", "target"),
    [("", "/livez"), ("", "/openapi/v2"), ("tenant", "/openapi/v2"), ("tenant", f"{API}/namespaces/tenant/packages")],
)
async def test_answers_that_nobody_reads_wait(arena: Arena, user: str, target: str) -> None:
    requests = 20_000 if WHOLE else 4000
    told = await attack(
        arena, "unread_pipelines", user=user, target=target, connections=20, requests=requests, hold_s=HOLD_S
    )
    assert told["sent"] > 0


@pytest.mark.parametrize("user", ["", "tenant"])
@pytest.mark.parametrize("name", ["Accept", "Accept-Encoding", "User-Agent", "X-Remote-User", "Audit-Id"])
async def test_long_headers_are_not_remembered(arena: Arena, user: str, name: str) -> None:
    if not WHOLE and name != "Accept":
        pytest.skip("only in `make hostile`")
    told = await attack(
        arena, "distinct_headers", user=user, name=name, count=1000 if WHOLE else 300, size=60_000, target="/openapi/v2"
    )
    assert told["longest_refusal"] < 8192
    assert sum(told["statuses"].values()) + sum(told["broken"].values()) > 0


@whole_only
@pytest.mark.parametrize("size", [40, 4000])
async def test_tokens_that_nobody_gave_out_are_forgotten(arena: Arena, size: int) -> None:
    told = await attack(
        arena, "distinct_headers", user="", name="Authorization", count=4000, size=size, target="/version"
    )
    assert set(told["statuses"]) <= {"401", "429", "431", "400", "503"}


async def test_headers_without_end_are_cut_off(arena: Arena) -> None:
    told = await attack(arena, "header_flood", connections=64 if WHOLE else 16, lines=512, size=60_000, hold_s=HOLD_S)
    assert set(told["statuses"]) <= {"400", "431", "408", "0"}


@pytest.mark.parametrize("kind", ["label", "field"])
@pytest.mark.parametrize(("user", "terms"), [("tenant", 31_000), ("tenant", 14_000), ("nobody", 14_000)])
async def test_selectors_have_a_most(arena: Arena, user: str, terms: int, kind: str) -> None:
    told = await attack(arena, "huge_selectors", user=user, count=32, each=20 if WHOLE else 3, terms=terms, kind=kind)
    assert set(told["statuses"]) <= {"400", "431"}
    assert told["longest_refusal"] < 4096


@pytest.mark.parametrize("read", [True, False])
async def test_watches_that_all_select_otherwise_cost_little(arena: Arena, read: bool) -> None:
    count = 2500 if WHOLE else 300
    async with attacked(arena, f"distinct_watches {count} {'read' if read else 'stopped'}") as measured:
        process = await arena.child(
            "tests.hostile.clients",
            {
                "attack": "distinct_watches",
                "job": {"user": "reader", "count": count, "namespace": "honest", "hold_s": 3 * HOLD_S, "read": read},
            },
        )
        for number in range(3):
            await arena.change(f"{measured.name} {number}")
        told, _ = await process.communicate()
    print(told.decode())
    assert process.returncode == 0
    assert json.loads(told)["statuses"]["200"] > 0.9 * count


async def test_stopped_watchers_cost_little_and_are_told_all_when_they_are_woken(arena: Arena) -> None:
    """All in one process that stands still, as on a closed laptop, while everything they watch changes many times."""
    count, changes = (1200, 12) if WHOLE else (60, 3)
    job = {"user": "reader", "count": count, "namespace": HONEST, "within_s": 240}
    async with attacked(arena, f"stopped_watches {count}, {changes} changes"):
        process = await arena.child("tests.hostile.clients", {"attack": "stopped_watches", "job": job})
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(120):
            assert await process.stdout.readline() == b"open\n"
        process.send_signal(signal.SIGSTOP)
        try:
            for number in range(changes):
                await arena.change(f"while they are stopped {number}")
                await arena.handled("good", HONEST)
            version = await arena.newest(HONEST)
        finally:
            process.send_signal(signal.SIGCONT)
        told, _ = await process.communicate(b"%d\n" % version)
    print(ends := json.loads(told))
    assert ends.pop("answered 200") == count
    assert set(ends) <= {"all", "expired", "ended"}, "nobody is left waiting for what it missed"
    assert sum(ends.values()) == count
    assert ends["all"] > 0


async def test_what_is_no_http_is_told_once(arena: Arena) -> None:
    count = 20_000 if WHOLE else 600
    async with attacked(arena, f"malformed {count}") as measured:
        told = await arena.attack("malformed", count=count, connections=16)
    assert set(told["statuses"]) <= {"400", "0"}
    assert len(measured.logged) < (256 << 10)


@whole_only
@pytest.mark.parametrize("user", ["", "tenant"])
async def test_bodies_that_nobody_asked_for_are_not_kept(arena: Arena, user: str) -> None:
    await attack(arena, "slow_bodies", user=user, connections=100, hold_s=HOLD_S)


@whole_only
@pytest.mark.parametrize("frames", ["pings", "messages", "specks"])
async def test_who_talks_on_a_watch_is_heard_in_turn(arena: Arena, frames: str) -> None:
    told = await attack(arena, "talkers", user="tenant", watches=100, frames=frames, hold_s=HOLD_S)
    assert told["statuses"] == {"101": 100}


@pytest.mark.parametrize("hello", [1, 127 << 10])
async def test_connections_that_do_not_say_who_they_are_keep_nobody_out(arena: Arena, hello: int) -> None:
    await attack(arena, "unfinished_handshakes", connections=4000 if WHOLE else 600, hello=hello, hold_s=HOLD_S)


@whole_only
@pytest.mark.parametrize("accept", ["application/json", "application/json;as=Table;v=v1;g=meta.k8s.io"])
async def test_lists_that_nobody_reads_are_shared(arena: Arena, accept: str) -> None:
    target = f"{API}/namespaces/honest/packagerevisions"
    await attack(arena, "stalled_readers", user="reader", target=target, readers=200, accept=accept, hold_s=HOLD_S)
