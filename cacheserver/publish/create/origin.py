"""What a new draft begins with: the files of who it is made from, looked up in what is served and read from the store.

Called by author.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import orjson

from cacheserver.config import RepositoryConfig
from cacheserver.model import Digest, Format, Key, Lifecycle, RepositoryKey
from cacheserver.publish import refusals
from cacheserver.publish.content import Content
from cacheserver.publish.create import tasks, upgrade
from cacheserver.publish.create.git_clone import FIELD, Asked, GitClone, GitClones
from cacheserver.publish.create.request import Wanted
from cacheserver.publish.package import File

Manifest = Mapping[str, Any]
_STAYS: Final = (Lifecycle.PUBLISHED, Lifecycle.DELETION_PROPOSED)


class Shelf(Protocol):
    """What of the served revisions a beginning depends on."""

    async def newest(self, repository: RepositoryKey, package: str) -> bytes | None:
        """The manifest of the package's latest published revision."""
        ...

    async def named(self, namespace: str, name: str) -> bytes | None:
        """The manifest of any revision."""
        ...

    async def speaking_of(self, namespace: str, commit: str) -> Sequence[bytes]:
        """The manifests of revisions in which a commit's name stands, whatever for."""
        ...


class Beginning:
    """Of drafts. Safe to share between tasks."""

    def __init__(self, shelf: Shelf, content: Content, clones: GitClones | None) -> None:
        self._shelf = shelf
        self._content = content
        self._clones = clones

    async def of(
        self, wanted: Wanted, config: RepositoryConfig, user: str
    ) -> tuple[tasks.Start | upgrade.Upgrade, dict[str, File]]:
        """user: who asks. Raises: RefusedError 422 with the field; BlobMissingError, EtcdError."""
        key = wanted.key
        if wanted.upgrade is not None:
            return await self._upgraded(key, wanted.upgrade, config)
        if wanted.git is not None:
            return await self._cloned(key, wanted.git, config, user)
        if not (name := wanted.copy or wanted.clone):
            init = wanted.init or tasks.Init(key.package)
            return init, init.files()
        field = "spec.source.copy.revision" if wanted.copy else "spec.source.clone.revision"
        source = await self._published(key, field, name, _STAYS if wanted.copy else (Lifecycle.PUBLISHED,))
        spec = source["spec"]
        if wanted.copy and (spec["repository"], spec["packageName"]) != (key.repository, key.package):
            why = "is of another package; begin from it with spec.source.clone"
            raise refusals.wrong(key.name, field, name, why)
        files = await self._files(source)
        if wanted.copy:
            return tasks.Copy(name), files
        clone = tasks.Clone(key.package, name, _origin(source), deployment=config.deployment)
        return clone, await asyncio.to_thread(clone.files, files)

    async def _cloned(
        self, key: Key, asked: Asked, config: RepositoryConfig, user: str
    ) -> tuple[tasks.Start, dict[str, File]]:
        """From a repository elsewhere."""
        if self._clones is None:
            raise refusals.wrong(key.name, FIELD, asked.url, "this server clones revisions that it serves, and no URL")
        origin, files = await self._clones.read(key, asked, self._content.limits, user)
        clone = GitClone(key.package, asked.url, origin, deployment=config.deployment)
        return clone, await asyncio.to_thread(clone.files, files)

    async def _upgraded(
        self, key: Key, asked: upgrade.Asked, config: RepositoryConfig
    ) -> tuple[upgrade.Upgrade, dict[str, File]]:
        """The package's newest published revision, upgraded."""
        value = await self._shelf.newest(RepositoryKey(key.namespace, key.repository), key.package)
        if value is None:
            why = "has no published revision that could be upgraded; begin it with spec.source.clone"
            raise refusals.wrong(key.name, "spec.packageName", key.package, why)
        local: Manifest = orjson.loads(value)
        updated = await self._published(key, "spec.source.upgrade.to", asked.to, (Lifecycle.PUBLISHED,))
        original = await self._original(key, asked, local)
        if original is None and asked.strategy is upgrade.Strategy.FAST_FORWARD:
            lock = local["status"].get("upstreamLock", {}).get("git", {})
            why = (
                f"is needed: what {local['metadata']['name']} was cloned from ({lock.get('repo') or 'nothing'} "
                f"{lock.get('ref', '')}) is served by no Repository of the namespace"
            )
            raise refusals.wrong(key.name, "spec.source.upgrade.from", asked.of, why)
        name = original["metadata"]["name"] if original is not None else ""
        wanted = upgrade.Upgrade(
            key.package,
            upgrade.Asked(asked.to, asked.strategy, name),
            local["metadata"]["name"],
            (_origin(original) if original is not None else {}, _origin(updated)),
            deployment=config.deployment,
        )
        sides = [await self._files(each) if each is not None else None for each in (original, updated, local)]
        assert sides[1] is not None
        assert sides[2] is not None
        return wanted, await asyncio.to_thread(wanted.files, sides[0], sides[1], sides[2])

    async def _original(self, key: Key, asked: upgrade.Asked, local: Manifest) -> Manifest | None:
        """What the package was cloned from, as far as it is served."""
        if asked.of:
            return await self._published(key, "spec.source.upgrade.from", asked.of, _STAYS)
        lock = local["status"].get("upstreamLock", {}).get("git", {})
        if not lock.get("commit"):
            return None
        for value in await self._shelf.speaking_of(key.namespace, lock["commit"]):
            manifest: Manifest = orjson.loads(value)
            if lies_at(_origin(manifest), lock) and manifest["spec"].get("lifecycle") in _STAYS:
                return manifest
        return None

    async def _published(self, key: Key, field: str, name: str, allowed: Sequence[Lifecycle]) -> Manifest:
        value = await self._shelf.named(key.namespace, name)
        if value is None:
            raise refusals.wrong(key.name, field, name, "there is no such package revision in the namespace")
        source: Manifest = orjson.loads(value)
        spec, status = source["spec"], source["status"]
        if spec.get("format") != Format.KRM:
            raise refusals.wrong(key.name, field, name, "is no KRM package")
        if spec.get("lifecycle") not in allowed:
            raise refusals.wrong(key.name, field, name, f"is {spec.get('lifecycle')}, not Published")
        if status.get("revisionNumber") == -1 and not spec.get("version") and "git" in status.get("selfLock", {}):
            why = "is what a branch, or a tag that is no version, holds now, and moves; name a published version"
            raise refusals.wrong(key.name, field, name, why)
        return source

    async def _files(self, manifest: Manifest) -> dict[str, File]:
        return await self._content.files(Digest(manifest["status"]["content"]["digest"]))


def _origin(manifest: Manifest) -> dict[str, str]:
    found: dict[str, str] = manifest["status"].get("selfLock", {}).get("git", {})
    return found


def lies_at(where: Mapping[str, str], lock: Mapping[str, str]) -> bool:
    """Whether a revision that lies there is the one that an upstreamLock names. kpt writes URLs with `.git`."""

    def place(git: Mapping[str, str]) -> tuple[str, str, str]:
        return git.get("repo", "").removesuffix(".git"), git.get("directory", "").strip("/"), git.get("commit", "")

    return place(where) == place(lock) != ("", "", "")
