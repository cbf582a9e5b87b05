"""Drafts and operations as the API writes them, for tests of what becomes of them in git."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import orjson

from cacheserver.catalogs import bounds
from cacheserver.catalogs.krm import facts, project, worker
from cacheserver.catalogs.krm.wire import Pack, Packed, Wanted
from cacheserver.model import Digest, Key, Kind, RepositoryKey, encode
from cacheserver.store.authored import Authored, Draft, Held, Operation, Step
from cacheserver.store.blobs import Blobs
from tests.support.krm import kptfile

INIT = '{"type":"init","init":{"description":"a test"}}'


class Desk:
    """Writes what the API would. One repository; packages lie in the directories that they are called."""

    def __init__(self, authored: Authored, blobs: Blobs, repository: RepositoryKey, scratch: Path) -> None:
        self.authored = authored
        self.blobs = blobs
        self.repository = repository
        self.scratch = scratch

    def key(self, package: str, workspace: str) -> Key:
        return Key(Kind.REVISION, self.repository.namespace, self.repository.name, package, workspace)

    def files(self, package: str, content: str) -> dict[str, bytes]:
        return {"Kptfile": kptfile(package.rpartition("/")[2]), "config.yaml": f"value: {content}\n".encode()}

    async def create(
        self,
        package: str,
        workspace: str = "w1",
        content: str = "1",
        *,
        files: Mapping[str, bytes] | None = None,
        executable: tuple[str, ...] = (),
        base: tuple[str, str] = ("", ""),
        saved_ms: int = 1,
        user: str = "alice@example.com",
    ) -> Held:
        """base: name and commit of the revision that it follows."""
        key = self.key(package, workspace)
        draft = Draft(
            nonce=uuid.uuid4().hex[:16], directory=package, task=INIT, base=base[1], base_revision=base[0],
            created_by=user, authors=(user,), saved_ms=saved_ms, unpushed_ms=saved_ms,
        )  # fmt: skip
        written = self.files(package, content) if files is None else files
        return await self._write(key, lambda _: draft, written, executable)

    async def save(
        self, package: str, workspace: str, files: Mapping[str, bytes], *, saved_ms: int = 1,
        executable: tuple[str, ...] = (),
    ) -> Held:  # fmt: skip
        def saved(held: Held) -> Draft:
            assert held.draft is not None
            return replace(held.draft, saved_ms=saved_ms, unpushed_ms=held.draft.unpushed_ms or saved_ms)

        return await self._write(self.key(package, workspace), saved, files, executable)

    async def _write(
        self, key: Key, draft_of: Callable[[Held], Draft], files: Mapping[str, bytes], executable: tuple[str, ...]
    ) -> Held:
        packed = self._packed(files, executable)
        assert packed.blob is not None
        await self.blobs.put(packed.blob)
        while True:  # the publisher may write as well
            held = await self.authored.read(key)
            draft = draft_of(held)
            revision = facts.Revision(key.revision, facts.Origin.DRAFT, "", workspace=key.revision, nonce=draft.nonce)
            record = project.revision_record(self.repository, key.package, revision, facts.decode(packed.facts))
            value = encode(record, previous=held.served.value if held.served else None, now="2026-01-01T00:00:00Z")
            after = await self.authored.write(held, value=value, draft=draft, content=Digest(packed.digest))
            if after is not None:
                return after

    def _packed(self, files: Mapping[str, bytes], executable: tuple[str, ...]) -> Packed:
        root = self.scratch / uuid.uuid4().hex
        blobs = root / "blobs"
        blobs.mkdir(parents=True)
        for at, raw in enumerate(files.values()):
            (root / str(at)).write_bytes(raw)
        named = sorted((path, str(at)) for at, path in enumerate(files))
        wanted = Wanted("p", named, executable=executable)
        (packed,) = worker.pack(Pack(str(root), str(blobs), [wanted]), bounds.DEFAULT)
        assert packed.refusal is None, packed.refusal
        return packed

    async def ask(
        self,
        package: str,
        workspace: str,
        step: Step,
        *,
        user: str = "bob@example.com",
        at: str = "",
        version: str = "",
    ) -> Operation:
        """The operation, written as the API does."""
        at = at or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        operation = Operation(uuid.uuid4().hex[:16], step, user, at, version)
        while True:  # the publisher may write as well, that git has the draft
            held = await self.authored.read(self.key(package, workspace))
            assert held.served is not None
            assert held.operation is None, "another operation is under way"
            manifest = orjson.loads(held.served.value)
            manifest["status"]["operation"] = {"id": operation.id, "step": step.value, "since": at}
            value = orjson.dumps(manifest)
            if await self.authored.write(held, value=value, draft=held.draft, operation=operation) is not None:
                return operation

    async def annotate(self, package: str, workspace: str, name: str, value: str) -> None:
        while True:
            held = await self.authored.read(self.key(package, workspace))
            assert held.served is not None
            manifest = orjson.loads(held.served.value)
            manifest["metadata"].setdefault("annotations", {})[name] = value
            changed = orjson.dumps(manifest)
            if await self.authored.write(held, value=changed, draft=held.draft, operation=held.operation):
                return
