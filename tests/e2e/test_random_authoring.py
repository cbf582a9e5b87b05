"""Many authors at random on two replicas, while processes are killed, git goes away and hooks refuse: nothing that was
answered is lost, what is published is in git byte for byte, and no watcher misses or repeats an event.

A short run in the suite; `make authors` asks for more. AUTHORS_STEPS=2000 AUTHORS_SEEDS=1,2,3 set its size and seeds.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cacheserver.errors import EtcdError
from cacheserver.etcd.client import Client
from cacheserver.store.blobs import Blobs
from tests.conftest import StartEtcd
from tests.e2e.conftest import StartServer, opened
from tests.e2e.test_watch_correctness import Watcher, files_of, until_drained
from tests.support.arena import Arena, Reached
from tests.support.history import History, Labels, Match
from tests.support.ledger import VIEW
from tests.support.server import API
from tests.support.trouble import Trouble

pytestmark = pytest.mark.e2e

STEPS = int(os.environ.get("AUTHORS_STEPS", "0"))
"""Of all authors together; 0: a short run, with two crashes."""
SEEDS = [int(seed) for seed in os.environ.get("AUTHORS_SEEDS", "1").split(",")]
SHORT = ("the holder is killed", "etcd is killed")


def _lifecycle(value: str) -> tuple[str, Match]:
    def match(_namespace: str, _name: str, labels: Labels) -> bool:
        return labels.get("cacheserver.dev/lifecycle") == value

    return f"labelSelector=cacheserver.dev/lifecycle%3D{value}", match


EVERYTHING: tuple[str, Match] = ("", lambda namespace, name, labels: True)
OF_REVISIONS: Sequence[tuple[str, Match]] = [
    EVERYTHING,
    _lifecycle("Draft"),
    _lifecycle("Published"),
    ("labelSelector=author-1", lambda namespace, name, labels: "author-1" in labels),
    ("labelSelector=cacheserver.dev/latest%3Dtrue", lambda namespace, name, labels: "cacheserver.dev/latest" in labels),
]


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_that_was_answered_is_lost_and_git_is_never_wrong(
    seed: int, start_etcd: StartEtcd, start_server: StartServer, tmp_path: Path
) -> None:
    print(f"seed {seed}")
    etcd = await asyncio.to_thread(start_etcd)
    async with opened(etcd.endpoint, start_server, tmp_path) as arena:
        start = (await arena.client.range(b"x")).revision
        urls = [server.url for server in arena.servers]
        files = FilesSeen(arena.client)
        groups = {kind: _watchers(seed, urls, kind) for kind in ("packages", "packagerevisions", VIEW, "repositories")}
        tasks = [asyncio.create_task(watcher.run(start)) for group in groups.values() for watcher in group]
        async with files.collected(start):
            trouble = Trouble(arena.servers, etcd, list(arena.remotes.values()), random.Random(f"{seed}/trouble"))
            await arena.write(STEPS or 150, seed, functools.partial(_hurt, arena, trouble))
        await arena.settled()
        print(arena.ledger.table())
        last = (await arena.client.range(b"x")).revision
        kinds = ("packages", "packagerevisions", "repositories")
        histories = {kind: await History.read(arena.client, start, last, (kind,)) for kind in kinds}
        revisions = histories["packagerevisions"]
        histories[VIEW] = revisions.viewed(functools.partial(files_of, files.by_digest))
        first, *others = [(group, histories[kind]) for kind, group in groups.items()]
        await until_drained(first[0], tasks, first[1], last, *others)
        arena.judge(revisions)
    for kind, group in groups.items():
        for watcher in group:
            watcher.judge(histories[kind], last)


async def _hurt(arena: Arena, trouble: Trouble, reached: Reached) -> None:
    """Each kind of trouble, at even distances."""
    kinds = [kind for kind in trouble.all if STEPS or kind in SHORT]
    order = [kind for _ in range(2 if STEPS else 1) for kind in trouble.chance.sample(kinds, len(kinds))]
    for number, kind in enumerate(order, start=1):
        await reached((STEPS or 150) * number // (len(order) + 1))
        print(f"{arena.ledger.done} steps: {kind}")
        async with trouble.all[kind]():
            await asyncio.sleep(trouble.chance.uniform(0.2, 3.0))


def _watchers(seed: int, urls: Sequence[str], kind: str) -> list[Watcher]:
    count, selectors = {"packagerevisions": (6, OF_REVISIONS), VIEW: (4, OF_REVISIONS)}.get(kind, (2, [EVERYTHING]))
    api = "/apis/config.cacheserver.dev/v1alpha1" if kind == "repositories" else API
    places = (None, "default")
    return [Watcher(f"{seed}/{kind}/{number}", urls, kind, api, selectors, places) for number in range(count)]


class FilesSeen:
    """Names and sizes of the files of all content that revisions ever had: content that was replaced goes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._blobs = Blobs(client)
        self.by_digest: dict[str, list[dict[str, Any]]] = {}

    @asynccontextmanager
    async def collected(self, start: int) -> AsyncIterator[None]:
        task = asyncio.create_task(self._collect(start))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._take(start, (await self._client.range(b"x")).revision)

    async def _collect(self, start: int) -> None:
        while True:
            try:
                now = (await self._client.range(b"x")).revision
                if now > start:
                    await self._take(start, now)
                    start = now
            except EtcdError:
                pass  # killed: it comes back
            await asyncio.sleep(0.5)

    async def _take(self, start: int, end: int) -> None:
        history = await History.read(self._client, start, end, ("packagerevisions",))
        for step in history.steps:
            digest = (step.new or {}).get("status", {}).get("content", {}).get("digest")
            if digest and digest not in self.by_digest:
                head = await self._blobs.head(digest)
                assert head is not None, f"{digest} went at once"
                self.by_digest[digest] = [{"path": path, "size": size} for path, size in head.files]
