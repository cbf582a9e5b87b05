"""A whole API that takes writes, on a real etcd and real workers, without any git: operations are carried out at once.

What a client sees of a draft's life. Git itself, and who writes to it, are in the tests of the publisher.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from cacheserver.api import PROJECTIONS, Acceptor, Api, Gate, Shelf, make_server
from cacheserver.cache.watchcache import WatchCache
from cacheserver.catalogs.workers import Workers
from cacheserver.config import RepositoryConfig
from cacheserver.config.sources import DirectorySource, GitRef, GitSource, RefKind
from cacheserver.etcd.client import Client, prefix_end
from cacheserver.model import LABEL_LATEST, Format, Key, RepositoryKey, edited
from cacheserver.publish import served
from cacheserver.publish.allowance import Allowance, Rationed
from cacheserver.publish.author import Author
from cacheserver.publish.content import Content
from cacheserver.publish.package import Limits
from cacheserver.store.authored import Authored, Held, Operation, Step
from cacheserver.store.blobs import Blobs
from cacheserver.store.keys import PREFIX, TICK
from cacheserver.store.objects import Store
from cacheserver.store.usage import Usages
from tests.fakes.api import Answer
from tests.fakes.feed import running

BASE = "/apis/cacheserver.dev/v1alpha1/namespaces/team"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
_TRIES = 200  # of what is answered 503: a test of what is never better fails, and does not stand still
COMMIT = "c" * 40

_GIT = GitSource("https://git.example/edge.git", GitRef(RefKind.BRANCH, "main"))


def config(name: str, **fields: Any) -> RepositoryConfig:
    """A repository that can be written to."""
    given = {"format": Format.KRM, "deployment": True, "writable": True, **fields}
    return RepositoryConfig(RepositoryKey("team", name), given.pop("source", _GIT), **given)


def repositories() -> dict[RepositoryKey, RepositoryConfig]:
    """`edge` and `blueprints` can be written to; the others each for a reason of their own cannot."""
    found = [
        config("edge"),
        config("blueprints", deployment=False),
        config("folder", source=DirectorySource(Path("/srv"))),
        config("readonly", writable=False),
        config("suspended", suspend=True),
        config("auto", format=None),
        config("tagged", source=GitSource("https://git.example/t.git", GitRef(RefKind.TAG, "v1"))),
    ]
    return {each.key: each for each in found}


@dataclass
class Failure:
    """What an operation fails with."""

    code: int
    reason: str
    message: str


@dataclass
class World:
    client: Client
    authored: Authored
    blobs: Blobs
    cache: WatchCache
    author: Author
    repositories: dict[RepositoryKey, RepositoryConfig]
    session: aiohttp.ClientSession
    user: str = ""
    fails: dict[Step, Failure] = field(default_factory=dict)
    stuck: set[Step] = field(default_factory=set)
    done: list[tuple[str, Step, str]] = field(default_factory=list)

    # --- what a client does ---

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        media: str = "application/json",
        headers: Mapping[str, str] | None = None,
        **query: str,
    ) -> Answer:
        """path: below the namespace, or from / on. body: JSON, or bytes as they are."""
        raw = body if isinstance(body, bytes) else orjson.dumps(body) if body is not None else None
        sent = {**({"Content-Type": media} if raw is not None else {}), **(headers or {})}
        if self.user:
            sent["X-User"] = self.user
        url = path if path.startswith("/") else f"{BASE}/{path}"
        answer = await self._once(method, url, raw, sent, query)
        for _ in range(_TRIES):
            if answer.status != 503 or "Retry-After" not in answer.headers:
                break
            await asyncio.sleep(0.05)  # a machine that is busy: etcd was not heard from in time
            answer = await self._once(method, url, raw, sent, query)
        return answer

    async def _once(
        self, method: str, url: str, raw: bytes | None, sent: Mapping[str, str], query: Mapping[str, str]
    ) -> Answer:
        data = io.BytesIO(raw) if raw is not None else None
        async with self.session.request(method, url, data=data, headers=sent, params=query or None) as response:
            return Answer(response.status, response.headers, await response.read())

    async def create(
        self, package: str = "app", workspace: str = "w1", repository: str = "edge", **spec: Any
    ) -> Answer:
        return await self.ask("POST", "packagerevisions", draft(package, workspace, repository, **spec))

    async def get(self, name: str = "edge.app.w1", plural: str = "packagerevisions") -> Any:
        answer = await self.ask("GET", f"{plural}/{name}")
        assert answer.status == 200, answer.body
        return answer.json

    async def resources(self, name: str = "edge.app.w1") -> Any:
        return await self.get(name, "packagerevisionresources")

    async def save(self, name: str = "edge.app.w1", files: Mapping[str, str | None] | None = None) -> Answer:
        """A patch of the files: None deletes one."""
        change = {"spec": {"resources": files}}
        return await self.ask("PATCH", f"packagerevisionresources/{name}", change, media=MERGE)

    async def move(self, lifecycle: str, name: str = "edge.app.w1") -> Answer:
        change = {"spec": {"lifecycle": lifecycle}}
        return await self.ask("PATCH", f"packagerevisions/{name}", change, media=MERGE)

    async def publish(self, name: str = "edge.app.w1") -> Any:
        """Propose and approve; the object then."""
        assert (await self.move("Proposed", name)).status == 200
        answer = await self.move("Published", name)
        assert answer.status == 200, answer.body
        return answer.json

    async def version(self) -> object:
        """Of all that is kept, but for marks of freshness: equal ones mean that nothing was written."""
        found = (await self.client.range(PREFIX, prefix_end(PREFIX), keys_only=True)).key_values
        return [(kv.key, kv.mod_revision) for kv in found if kv.key != TICK]

    # --- what the publisher does ---

    async def carry_out(self) -> None:
        """Every operation, as it comes."""
        _, after = await self.authored.repositories()
        async with self.authored.follow(after) as changes:
            async for keys in changes:
                for repository in keys:
                    _, operations = await self.authored.of_repository(repository)
                    for key, operation in operations.items():
                        if operation.step not in self.stuck:
                            await self._carry_out(key, operation)

    async def _carry_out(self, key: Key, operation: Operation) -> None:
        held = await self.authored.read(key)
        if held.served is None or held.operation != operation:
            return
        manifest = orjson.loads(held.served.value)
        status = {name: part for name, part in manifest["status"].items() if name != "operation"}
        about = {"id": operation.id, "step": operation.step.value}
        value: bytes | None = held.served.value
        draft = held.draft
        failure = self.fails.get(operation.step)
        assert value is not None
        if failure is not None:
            told = {"code": failure.code, "reason": failure.reason, "message": failure.message}
            status["lastOperation"] = {**about, "result": "Failed", **told}
            value = edited(value, status=orjson.dumps(status))
        else:
            self.done.append((key.name, operation.step, operation.user))
            status["lastOperation"] = {**about, "result": "Done"}
            value = edited(value, status=orjson.dumps(status))
            value, draft = self._done(held, operation, value)
        await self.authored.write(held, value=value, draft=draft)

    def _done(self, held: Held, operation: Operation, value: bytes) -> tuple[bytes | None, Any]:
        draft = held.draft
        match operation.step:
            case Step.PROPOSE:
                assert draft is not None
                return served.with_lifecycle(value, "Proposed"), replace(draft, proposed_by=operation.user)
            case Step.REJECT:
                return served.with_lifecycle(value, "Draft"), draft
            case Step.PROPOSE_DELETION:
                return served.with_lifecycle(value, "DeletionProposed"), None
            case Step.KEEP:
                return served.with_lifecycle(value, "Published"), None
            case Step.DELETE:
                return None, None
            case Step.APPROVE:
                return _published(held, value), None


def _published(held: Held, value: bytes) -> bytes:
    value = served.with_lifecycle(value, "Published")
    manifest = orjson.loads(value)
    assert held.draft is not None
    git = {"repo": _GIT.url, "directory": held.draft.directory, "ref": f"{held.draft.directory}/v1", "commit": COMMIT}
    spec = {**manifest["spec"], "revision": "v1", "version": "v1"}
    status = {**manifest["status"], "revisionNumber": 1, "selfLock": {"type": "git", "git": git}}
    labels = {**manifest["metadata"]["labels"], LABEL_LATEST: "true"}
    return edited(value, labels=labels, spec=orjson.dumps(spec), status=orjson.dumps(status))


def draft(package: str = "app", workspace: str = "w1", repository: str = "edge", **spec: Any) -> dict[str, Any]:
    """A PackageRevision to be created. spec: more of it; `metadata` is the object's."""
    metadata = spec.pop("metadata", {})
    named = {"repository": repository, "packageName": package, "workspaceName": workspace}
    return {
        "apiVersion": "cacheserver.dev/v1alpha1",
        "kind": "PackageRevision",
        "metadata": {"namespace": "team", **metadata},
        "spec": {**named, **spec},
    }


@asynccontextmanager
async def authoring_world(
    etcd_endpoint: str,
    workers: Workers,
    scratch: Path,
    *,
    gate: Gate | None = None,
    limits: Limits | None = None,
    shares: tuple[int, int] = (512 << 20, 1 << 30),
) -> AsyncIterator[World]:
    """shares: bytes of etcd that a repository and a namespace may have."""
    async with Client([etcd_endpoint]) as client:
        await client.connect()
        await client.delete(PREFIX, prefix_end(PREFIX))
        store, blobs, authored = Store(client), Blobs(client), Authored(client)
        await store.open()
        cache = WatchCache(store, PROJECTIONS)
        known = repositories()
        repository_bytes, namespace_bytes = shares
        usages = Usages(client)
        room = Allowance(authored, usages, known, repository_bytes=repository_bytes, namespace_bytes=namespace_bytes)
        content = Content(blobs, workers, scratch, limits or Limits(), room.admit)
        author = Author(Rationed(authored, room), content, Shelf(cache), known, answer_within_s=60)
        api = Api(cache, blobs, standalone=True, version="1.2.3", gate=gate, author=author)
        acceptor = Acceptor(make_server(api), None, pause_s=0.01)
        await acceptor.open("127.0.0.1", 0)
        url = f"http://127.0.0.1:{acceptor.addresses[0][1]}"
        try:
            async with running(cache), aiohttp.ClientSession(url, skip_auto_headers=("User-Agent",)) as session:
                world = World(client, authored, blobs, cache, author, known, session)
                publisher = asyncio.create_task(world.carry_out())
                try:
                    yield world
                finally:
                    publisher.cancel()
                    with suppress(asyncio.CancelledError):
                        await publisher
        finally:
            await acceptor.close(within_s=0.1)
