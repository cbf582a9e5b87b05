"""Two replicas on one etcd, repositories that both write to, authors at work, and how it all is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from cacheserver.errors import EtcdError
from cacheserver.etcd.client import Client
from cacheserver.model import RepositoryKey
from cacheserver.store.authored import Authored
from tests.support import invariants
from tests.support.authors import Author, Http, files_of
from tests.support.gitserver import GitRepository
from tests.support.history import History
from tests.support.ledger import VIEW, Ledger
from tests.support.server import API, ServerProcess
from tests.support.waiting import eventually

PACKAGES: Mapping[str, Sequence[str]] = {
    "edge": [f"p{number}" for number in range(8)] + [f"sites/s{number}" for number in range(8)],
    "blueprints": [f"b{number}" for number in range(8)],
}
AUTHORS = 12
_MANIFEST = """\
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: {name}}}
spec:
  source: {{git: {{url: "{url}", ref: {{branch: main}}}}}}
  format: KRM
  access: ReadWrite
  drafts: {{pushAfter: {push_after}}}
---
"""


def manifests(file: Path, urls: Mapping[str, str], *, push_after: str = "1s") -> Path:
    """A file for --repositories: each name with its git URL, and written to."""
    file.write_text("".join(_MANIFEST.format(name=name, url=url, push_after=push_after) for name, url in urls.items()))
    return file


@dataclass
class Arena:
    """client: of the etcd that the servers stand on. remotes: by the name of their Repository."""

    client: Client
    servers: Sequence[ServerProcess]
    remotes: Mapping[str, GitRepository]
    ledger: Ledger = field(default_factory=Ledger)

    async def write(self, steps: int, seed: int, meanwhile: Callable[[Reached], Awaitable[None]] | None = None) -> None:
        """So many steps of all authors together. meanwhile: what else happens; may wait for a number of steps."""
        ledger = self.ledger
        async with aiohttp.ClientSession() as session:
            http = Http(session, [server.url for server in self.servers])
            authors = [Author(number, seed, http, ledger, PACKAGES) for number in range(AUTHORS)]
            working = [asyncio.create_task(author.work(lambda: ledger.done < steps)) for author in authors]

            async def reached(done: int) -> None:
                await eventually(lambda: ledger.done >= done or any(map(_failed, working)), within_s=900)

            try:
                if meanwhile is not None:
                    await meanwhile(reached)
                await asyncio.gather(*working)
            finally:
                for task in working:
                    task.cancel()
                await asyncio.gather(*working, return_exceptions=True)

    async def settled(self, within_s: float = 150) -> None:
        """Nothing is to be done in git any more: no operation is under way, and git has every draft."""
        authored = Authored(self.client)

        async def quiet() -> bool:
            try:
                for name in self.remotes:
                    drafts, operations = await authored.of_repository(RepositoryKey("default", name))
                    if operations or any(draft.unpushed_ms for draft in drafts.values()):
                        return False
            except EtcdError:
                return False
            return True

        await eventually(quiet, within_s=within_s)

    def served(self, server: ServerProcess) -> dict[str, dict[str, Any]]:
        """Revisions that somebody made, by name: what the branch itself holds of a package is nobody's."""
        items = server.list("packagerevisions")["items"]
        return {item["metadata"]["name"]: item for item in items if item["spec"].get("workspaceName") != "main"}

    def judge(self, history: History | None = None) -> None:
        """Both replicas serve the same, all that was answered is there, and git has the same, byte for byte.

        history: of package revisions from the beginning, where etcd has it.
        """
        served, *others = [self.served(server) for server in self.servers]
        for other in others:
            assert served == other, "two replicas that serve different things"
        files = {name: files_of(self.servers[0].get(f"{API}/namespaces/default/{VIEW}/{name}")) for name in served}
        self.ledger.judge(served, files)
        if history is not None:
            self.ledger.judge_history(history)
            invariants.check_numbers(history)
        for name, remote in self.remotes.items():
            mine = {each: item for each, item in served.items() if item["spec"]["repository"] == name}
            invariants.check_served(remote, mine, files)


Reached = Callable[[int], Awaitable[None]]


def _failed(task: asyncio.Task[None]) -> bool:
    if task.done():
        task.result()
    return task.done()
