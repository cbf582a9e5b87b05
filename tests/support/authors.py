"""Authors who work on packages at random, by HTTP on any replica, and note in a ledger what they were answered.

Mostly they ask for what a revision's state allows; now and then for anything, which has to be refused.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.support.ledger import FILE, VIEW, Ledger, Life, uid_of_files

BASE = "/apis/cacheserver.dev/v1alpha1/namespaces/default"
MERGE = "application/merge-patch+json"
_WITHIN_S = 90.0


@dataclass(frozen=True)
class Reply:
    """status: 0 where nothing was answered, and nobody knows what came of it."""

    status: int
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def unknown(self) -> bool:
        """Whether it may have happened all the same."""
        return self.status == 0 or self.status >= 500

    @property
    def outcome(self) -> str:
        if self.status == 0:
            return "no answer"
        return str(self.status) if self.good else f"{self.status} {self.json.get('reason', '')}"


class Http:
    """Asks any of the replicas; again where it could not even reach one, since then nothing has happened."""

    def __init__(self, session: aiohttp.ClientSession, urls: Sequence[str]) -> None:
        self.session = session
        self.urls = urls

    async def ask(
        self, chance: random.Random, method: str, path: str, body: object = None, *, media: str = "application/json"
    ) -> Reply:
        """body: JSON, or bytes as they are."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Content-Type": media} if raw is not None else {}
        while True:
            url = f"{chance.choice(self.urls)}{BASE}/{path}"
            try:
                async with self.session.request(
                    method, url, data=raw, headers=headers, timeout=aiohttp.ClientTimeout(_WITHIN_S)
                ) as answer:
                    return Reply(answer.status, await answer.read())
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)  # a replica that was killed
            except (aiohttp.ClientError, TimeoutError, OSError):
                return Reply(0)

    async def get(self, chance: random.Random, path: str) -> Any:
        """The object, None where there is none; asked for until somebody answers."""
        while True:
            reply = await self.ask(chance, "GET", path)
            if reply.good:
                return reply.json
            if reply.status == 404:
                return None
            assert reply.unknown or reply.status == 429, reply
            await asyncio.sleep(0.05)


@dataclass
class Author:
    """One of many. packages: names to choose from, by repository; those of all authors are the same."""

    number: int
    seed: int
    http: Http
    ledger: Ledger
    packages: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.seed}/{self.number}")
        self.count = 0

    async def work(self, more: Callable[[], bool]) -> None:
        """One step after the other while there is more to do."""
        while more():
            self.ledger.done += 1
            await self._step()

    async def _step(self) -> None:
        name = self._any_name()
        if name is None or self.chance.random() < 0.15:
            await self._create()
            return
        manifest = await self.http.get(self.chance, f"packagerevisions/{name}")
        if manifest is None:
            await self._create()
            return
        lifecycle = manifest["spec"]["lifecycle"]
        steps = self._steps(lifecycle if self.chance.random() < 0.93 else self.chance.choice(list(_ALLOWED)))
        await self.chance.choice(steps)(manifest)

    def _any_name(self) -> str | None:
        """Rather one that is under way than one that is there for good."""
        names = [life.name for life in self.ledger.lives.values() if not life.gone]
        young = [life.name for life in self.ledger.lives.values() if not life.gone and not life.published]
        return self.chance.choice(young if young and self.chance.random() < 0.7 else names) if names else None

    def _steps(self, lifecycle: str) -> Sequence[Callable[[dict[str, Any]], Awaitable[None]]]:
        return [getattr(self, f"_{step}") for step in _ALLOWED[lifecycle]]

    # --- create ---

    async def _create(self) -> None:
        repository, package = self._place()
        published = [life for life in self.ledger.lives.values() if life.published and not life.gone]
        self.count += 1
        workspace = f"w{self.number}-{self.count}" if self.chance.random() < 0.9 else "w-again"
        origin: Life | None = None
        source: dict[str, Any] = {}
        kind = self.chance.choice(["init", "copy", "copy", "clone"])
        if kind != "init" and published:
            origin = self.chance.choice(published)
            source = {"source": {kind: {"revision": origin.name}}}
            if kind == "copy":
                manifest = await self.http.get(self.chance, f"packagerevisions/{origin.name}")
                if manifest is None:
                    return
                repository, package = manifest["spec"]["repository"], manifest["spec"]["packageName"]
        spec = {"repository": repository, "packageName": package, "workspaceName": workspace, **source}
        body = {"apiVersion": "cacheserver.dev/v1alpha1", "kind": "PackageRevision", "metadata": {}, "spec": spec}
        name = f"{repository}.{package.replace('/', '.')}.{workspace}"
        reply = await self._told("create " + (kind if source else "init"), "POST", "packagerevisions", body)
        if reply.good:
            life = self.ledger.answered(reply.json)
            assert life.name == name
            for older in [each for each in self.ledger.lives.values() if each.name == name and each is not life]:
                assert older.gone or older.may_be_gone, f"{name} was made twice"
                older.gone = True
            if origin is not None:
                life.kept, life.dropped = life.kept | origin.kept, life.dropped | origin.dropped
        elif reply.unknown:
            self.ledger.may_be_made.add(name)

    def _place(self) -> tuple[str, str]:
        """Mostly of a package that is not there yet."""
        places = [(repository, package) for repository, packages in self.packages.items() for package in packages]
        taken = {life.name.rpartition(".")[0] for life in self.ledger.lives.values() if not life.gone}
        free = [(repo, package) for repo, package in places if f"{repo}.{package.replace('/', '.')}" not in taken]
        return self.chance.choice(free if free and self.chance.random() < 0.8 else places)

    # --- files ---

    def _file(self) -> tuple[str, bytes]:
        self.count += 1
        path = f"{FILE}{self.number}-{self.count}.yaml"
        content = f"value: {self.chance.randrange(1 << 30)}\n".encode()
        self.ledger.sent[path] = content
        return path, content

    async def _save(self, manifest: dict[str, Any]) -> None:
        """The whole of the files, as it was read, and one more."""
        life = self.ledger.life(manifest)
        found = await self.http.get(self.chance, f"{VIEW}/{life.name}")
        if found is None or found["metadata"]["uid"] != uid_of_files(life.uid):
            return
        path, content = self._file()
        found["spec"].setdefault("resources", {})[path] = content.decode()
        reply = await self._told("save", "PUT", f"{VIEW}/{life.name}", found)
        self._kept(reply, life, path)

    async def save_one(self, manifest: dict[str, Any]) -> None:
        """One more file, for who wants nothing else. manifest: of the PackageRevision."""
        await self._patch(manifest)

    async def _patch(self, manifest: dict[str, Any]) -> None:
        life, (path, content) = self.ledger.life(manifest), self._file()
        change = {"spec": {"resources": {path: content.decode()}}}
        reply = await self._told("patch", "PATCH", f"{VIEW}/{life.name}", change, media=MERGE)
        self._kept(reply, life, path)

    def _kept(self, reply: Reply, life: Life, path: str) -> None:
        if reply.good:
            assert path in reply.json["spec"]["resources"]
            if reply.json["metadata"]["uid"] == uid_of_files(life.uid):  # else it was made anew meanwhile
                life.kept.add(path)

    async def _put_file(self, manifest: dict[str, Any]) -> None:
        life, (path, content) = self.ledger.life(manifest), self._file()
        target = f"packagerevisions/{life.name}/files/{path}"
        reply = await self._told("put file", "PUT", target, content, media="application/octet-stream")
        if reply.good and "again" not in life.name:
            life.kept.add(path)

    async def _delete_file(self, manifest: dict[str, Any]) -> None:
        life = self.ledger.life(manifest)
        if not (left := sorted(life.kept - life.dropped)):
            return
        path = self.chance.choice(left)
        life.dropped.add(path)
        await self._told("delete file", "DELETE", f"packagerevisions/{life.name}/files/{path}")

    # --- the object ---

    async def _label(self, manifest: dict[str, Any]) -> None:
        life, author = self.ledger.life(manifest), f"author-{self.number}"
        self.count += 1
        value = str(self.count)
        allowed = life.labels.setdefault(author, [""])
        allowed.append(value)
        change = {"metadata": {"uid": life.uid, "labels": {author: value}}}
        reply = await self._told("label", "PATCH", f"packagerevisions/{life.name}", change, media=MERGE)
        if reply.good:
            self.ledger.answered(reply.json)
            allowed[:] = [value]
        elif not reply.unknown:
            allowed.remove(value)

    async def _propose(self, manifest: dict[str, Any]) -> None:
        await self._move("propose", manifest, "Proposed")

    async def _approve(self, manifest: dict[str, Any]) -> None:
        await self._move("approve", manifest, "Published")

    async def _reject(self, manifest: dict[str, Any]) -> None:
        await self._move("reject", manifest, "Draft")

    async def _propose_deletion(self, manifest: dict[str, Any]) -> None:
        await self._move("propose deletion", manifest, "DeletionProposed")

    async def _keep(self, manifest: dict[str, Any]) -> None:
        await self._move("keep", manifest, "Published")

    async def _move(self, step: str, manifest: dict[str, Any], lifecycle: str) -> None:
        change = {"spec": {"lifecycle": lifecycle}}
        name = manifest["metadata"]["name"]
        reply = await self._told(step, "PATCH", f"packagerevisions/{name}", change, media=MERGE)
        if reply.good:
            self.ledger.answered(reply.json)

    async def _delete(self, manifest: dict[str, Any]) -> None:
        life = self.ledger.life(manifest)
        life.deletions += 1
        body = {"preconditions": {"uid": life.uid}}
        reply = await self._told("delete", "DELETE", f"packagerevisions/{life.name}", body)
        if reply.good:
            life.gone = True
        elif not reply.unknown:
            life.deletions -= 1

    async def _told(self, step: str, method: str, path: str, body: object = None, *, media: str = "") -> Reply:
        reply = await self.http.ask(self.chance, method, path, body, media=media or "application/json")
        self.ledger.steps[step, reply.outcome] += 1
        assert reply.status != 500, f"{step} of {path}: {reply.body[:500].decode(errors='replace')}"
        return reply


_ALLOWED: Mapping[str, Sequence[str]] = {
    "Draft": ("save", "save", "patch", "patch", "put_file", "delete_file", "label", *["propose"] * 6, "delete"),
    "Proposed": ("approve", "approve", "approve", "reject", "label"),
    "Published": ("label", "label", "propose_deletion"),
    "DeletionProposed": ("keep", "delete", "delete", "label"),
}


def files_of(resources: Mapping[str, Any]) -> dict[str, bytes]:
    """Path -> bytes of PackageRevisionResources."""
    spec = resources["spec"]
    texts = {path: text.encode() for path, text in spec.get("resources", {}).items()}
    return texts | {path: base64.b64decode(raw) for path, raw in spec.get("binaryResources", {}).items()}
