"""Two replicas restarted one after the other: no list fails, every watch is resumed, nobody has to list again.

The balancer here does what a Service and a preStop pause do: a replica gets no new request before it is told to stop.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.test_watch_correctness import SELECTORS, Watcher, empty_store, two_servers, write_at_random
from tests.support.asking import take
from tests.support.history import History
from tests.support.server import API, ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


async def list_for_ever(rotation: Sequence[str], answers: list[int]) -> None:
    """Lists from whoever is in rotation; any failure ends the test."""

    def once() -> int:
        return int(take(f"{rotation[0]}{API}/packages").json["metadata"]["resourceVersion"])

    while True:
        answers.append(await asyncio.to_thread(once))


async def test_a_rolling_restart_fails_no_list_and_loses_no_watch(
    start_server: StartServer, etcd_endpoint: str
) -> None:
    async with empty_store(etcd_endpoint) as (client, store):
        start = await store.current_revision()
        servers = two_servers(start_server, etcd_endpoint)
        rotation = [server.url for server in servers]
        answers: list[int] = []
        watchers = [_steady(i, rotation) for i in range(8)]
        tasks = [asyncio.create_task(watcher.run(start)) for watcher in watchers]
        listing = asyncio.create_task(list_for_ever(rotation, answers))
        writing = asyncio.create_task(write_at_random(store, 11, 6))
        for server in servers:
            await _restart(server, rotation, answers)
        last = await writing
        history = await History.read(client, start, last)
        await eventually(lambda: all(_has_all(watcher, history) for watcher in watchers), within_s=15)
        for task in (*tasks, listing):
            assert not task.done() or task.exception() is None
            task.cancel()
        await asyncio.gather(*tasks, listing, return_exceptions=True)
    assert answers == sorted(answers), "a list went back in time between two replicas"
    for watcher in watchers:
        assert len(watcher.streams) == 1, "a watcher had to start over"
        watcher.judge(history, last)


def _steady(seed: int, rotation: Sequence[str]) -> Watcher:
    watcher = Watcher(seed, rotation)
    watcher.habit = "steady"
    watcher.query, watcher.match = SELECTORS[seed % len(SELECTORS)]
    return watcher


def _has_all(watcher: Watcher, history: History) -> bool:
    return len(watcher.streams[0].events) >= len(history.events(watcher.selects, watcher.streams[0].since))


async def _restart(server: ServerProcess, rotation: list[str], answers: Sequence[int]) -> None:
    rotation.remove(server.url)
    before = len(answers)
    await eventually(lambda: len(answers) >= before + 2)  # requests that were under way have been answered
    server.signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.wait) == 0
    await asyncio.to_thread(server.start)
    rotation.append(server.url)
