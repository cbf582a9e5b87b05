"""A publisher on a repository of its own, and what stands around it, for tests that kill it at a chosen step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from cacheserver.config import RepositoryConfig
from cacheserver.config.sources import GitRef, GitSource, RefKind
from cacheserver.etcd.client import Client, prefix_end
from cacheserver.model import Format, RepositoryKey
from cacheserver.publish.git.publisher import Publisher, Work
from cacheserver.sources.git.command import Remote
from cacheserver.sources.git.source import GitRefsSource
from cacheserver.store.authored import Authored, Step
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Session
from cacheserver.store.keys import PREFIX
from cacheserver.store.objects import Store
from tests.support import invariants
from tests.support.authoring import Desk
from tests.support.gitserver import GitRepository

KEY = RepositoryKey("ns", "repo")


class Killed(BaseException):
    """The process ends here, as by SIGKILL: nothing catches it."""


@dataclass
class World:
    """One repository, its remote, and a process that works on it; another one takes over with `again`."""

    remote: GitRepository
    desk: Desk
    store: Store
    session: Session
    home: Path
    config: RepositoryConfig
    clock: float = 1000.0
    kill_at: tuple[str, int] = ("", 0)
    seen: list[str] = field(default_factory=list)
    process: int = 0
    _publisher: Publisher | None = None

    def reached(self, step: str) -> None:
        self.seen.append(step)
        if self.kill_at[0] == step and self.seen.count(step) == self.kill_at[1]:
            raise Killed(step)

    def publisher(self) -> Publisher:
        if self._publisher is None:
            self._publisher = Publisher(
                self.desk.authored, self.desk.blobs, now=lambda: self.clock, reached=self.reached
            )
        return self._publisher

    def again(self) -> None:
        """Another process, on another machine."""
        self._publisher, self.kill_at, self.seen = None, ("", 0), []
        self.process += 1

    async def work(self, *, later_s: float = 5.0) -> Work:
        self.clock += later_s
        claim = await self.session.claim("ns/repo")
        source = GitRefsSource(Remote(self.remote.url), "main", "", self.home / f"cache-{self.process}")
        return await self.publisher().work(self.config, source, claim)

    async def do(self, package: str, workspace: str, step: Step, **how: str) -> dict[str, Any]:
        """Ask, and have it done; what the object says of it then, empty where it is gone."""
        await self.desk.ask(package, workspace, step, **how)
        await self.work()
        return await self.status(package, workspace)

    async def object(self, package: str, workspace: str) -> dict[str, Any]:
        held = await self.desk.authored.read(self.desk.key(package, workspace))
        return orjson.loads(held.served.value) if held.served else {}

    async def status(self, package: str, workspace: str) -> dict[str, Any]:
        return dict((await self.object(package, workspace)).get("status", {}))

    async def sync(self, package: str, workspace: str) -> None:
        """What the sync that follows does with what was published: the draft is one no more."""
        held = await self.desk.authored.read(self.desk.key(package, workspace))
        assert held.served is not None
        assert held.operation is not None
        value = orjson.loads(held.served.value)
        value["status"].pop("operation")
        if held.operation.step is Step.DELETE:
            await self.desk.authored.write(held, value=None, draft=None)
            return
        if held.draft is not None:
            git = {"directory": held.draft.directory, "commit": held.operation.commit}
            value["status"]["selfLock"] = {"type": "git", "git": git}
            value["spec"]["revision"] = held.operation.revision
        going = held.operation.step is Step.PROPOSE_DELETION
        value["spec"]["lifecycle"] = "DeletionProposed" if going else "Published"
        assert await self.desk.authored.write(held, value=orjson.dumps(value), draft=None)

    async def publish(self, package: str, workspace: str) -> None:
        """A draft that is there all the way."""
        await self.do(package, workspace, Step.PROPOSE)
        await self.do(package, workspace, Step.APPROVE)
        await self.sync(package, workspace)

    def refs(self) -> dict[str, str]:
        return invariants.refs(self.remote)

    def hook(self, name: str, script: str) -> None:
        self.remote.hook(name, script)


@asynccontextmanager
async def world_at(endpoint: str, home: Path) -> AsyncIterator[World]:
    """An empty repository, and an empty etcd behind the endpoint. Afterwards git has to be as it must always be."""
    remote = GitRepository(home / "served" / "remote.git")
    spec = GitSource(remote.url, GitRef(RefKind.BRANCH, "main"), "")
    config = RepositoryConfig(KEY, spec, format=Format.KRM, writable=True)
    async with Client([endpoint]) as client:
        await client.connect()
        await client.delete(PREFIX, prefix_end(PREFIX))
        store = Store(client)
        await store.open()
        desk = Desk(Authored(client), Blobs(client), KEY, home)
        async with store.session("test") as session:
            yield World(remote, desk, store, session, home, config)
    if (remote.path / "HEAD").exists():  # a test may have taken it away
        invariants.check(remote, [])
