"""What goes wrong around authors: processes killed and stopped, etcd killed, git away, hooks that refuse or break off.

Each trouble lasts for the time of a block, or is over at once; afterwards everything runs again.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from cacheserver.etcd.client import Client
from cacheserver.etcd.version import Version
from cacheserver.store.keys import claim_key
from tests.support.etcd import EtcdProcess
from tests.support.gitserver import GitRepository
from tests.support.server import ServerProcess

BREAKS_OFF = "kill -9 $PPID"
"""As the last line of a hook: the server goes, and what was done is done. The client hears of nothing."""


@dataclass
class Trouble:
    """Everything that can be hurt. kinds: names of what happens, in `all`."""

    servers: Sequence[ServerProcess]
    etcd: EtcdProcess
    remotes: Sequence[GitRepository]
    chance: random.Random

    @property
    def all(self) -> dict[str, Callable[[], AbstractAsyncContextManager[None]]]:
        return {
            "the holder is killed": self.holder_killed,
            "etcd is killed": self.etcd_killed,
            "git is away": self.git_away,
            "git refuses": self.git_refuses,
            "pushes break off when done": lambda: self.hooked("post-receive", _each(2, BREAKS_OFF)),
            "pushes break off before": lambda: self.hooked("pre-receive", _each(3, BREAKS_OFF)),
            "pushes take a second": lambda: self.hooked("pre-receive", "sleep 1"),
            "the holder stands still": self.holder_stopped,
            "a replica is restarted": self.restarted,
        }

    async def holder(self, repository: str = "default/edge") -> ServerProcess | None:
        """Who holds the repository's claim; None for a moment in which nobody does, or who is not there any more."""
        async with Client([self.etcd.endpoint]) as client:
            found = (await client.range(claim_key(repository))).key_values
        pid = int(found[0].value.rpartition(b"/")[2]) if found else 0
        return next((server for server in self.servers if server.alive and server.pid == pid), None)

    @asynccontextmanager
    async def holder_killed(self) -> AsyncIterator[None]:
        server = await self.holder() or self.chance.choice(self.servers)
        server.kill()
        try:
            yield
        finally:
            await asyncio.to_thread(server.start)

    @asynccontextmanager
    async def holder_stopped(self) -> AsyncIterator[None]:
        server = await self.holder() or self.chance.choice(self.servers)
        server.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            server.signal(signal.SIGCONT)

    @asynccontextmanager
    async def restarted(self) -> AsyncIterator[None]:
        server = self.chance.choice(self.servers)
        server.signal(signal.SIGTERM)
        await asyncio.to_thread(server.wait, 60)
        try:
            yield
        finally:
            await asyncio.to_thread(server.start)

    @asynccontextmanager
    async def etcd_killed(self) -> AsyncIterator[None]:
        # Before 3.5.5 a lone member answers before it has written; only an orderly end keeps what it promised.
        self.etcd.kill() if self.etcd.version >= Version(3, 5, 5) else self.etcd.terminate()
        try:
            yield
        finally:
            self.etcd.spawn()
            await self.etcd.ready()

    @asynccontextmanager
    async def git_away(self) -> AsyncIterator[None]:
        remote = self.chance.choice(self.remotes)
        away = remote.path.with_name(f"{remote.path.name}.away")
        remote.path.rename(away)
        try:
            yield
        finally:
            away.rename(remote.path)

    def git_refuses(self) -> AbstractAsyncContextManager[None]:
        what = self.chance.choice(["refs/tags/*", "refs/heads/main", "refs/heads/proposed/*", "*"])
        return self.hooked("update", f'case "$1" in {what}) echo "the policy says no"; exit 1;; esac')

    @asynccontextmanager
    async def hooked(self, name: str, script: str) -> AsyncIterator[None]:
        """script: of a shell, in every remote."""
        hooks = [remote.hook(name, script) for remote in self.remotes]
        try:
            yield
        finally:
            for hook in hooks:
                hook.unlink()


def _each(nth: int, script: str) -> str:
    """A hook that does this each so many times."""
    return f'echo x >> "$GIT_DIR/count"; [ $(( $(wc -l < "$GIT_DIR/count") % {nth} )) = 0 ] && {script}; exit 0'
