"""What a parse of a file-based catalog asks of the workers: which files count, what they hold, records of packages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson

from cacheserver.catalogs import jobs
from cacheserver.catalogs.catalog import Finding
from cacheserver.catalogs.fbc.wire import (
    Assemble,
    Bound,
    Group,
    Join,
    Joined,
    Part,
    Report,
    Scan,
    Select,
    decode_joined,
    decode_reports,
    encode_job,
)
from cacheserver.catalogs.wire import LINE_ITEMS, Assembled, unhurried
from cacheserver.errors import WorkerCrashedError

_FEW_PACKAGES: Final = 8


class Jobs(jobs.Jobs):
    """The workers as one parse of a file-based catalog uses them."""

    async def select(self, job: Select) -> list[str] | str:
        """The files that are kept; a string is the reason why the ignore files cannot be used. Raises: CatalogError."""
        try:
            answer: list[str] | str = orjson.loads(await self.ask(encode_job(job), job.ignores[0]))
        except WorkerCrashedError as exc:
            return str(exc)
        return answer

    async def scan(self, job: Scan) -> list[Report]:
        """One report for each part, in order. Raises: CatalogError when the pool cannot go on."""

        async def ask(parts: Sequence[Part]) -> list[Report]:
            answer = await self.ask(encode_job(replace(job, parts=parts)), parts[0].path)
            return await unhurried(decode_reports, answer)

        def blamed(part: Part, why: WorkerCrashedError) -> Report:
            return Report(part, findings=[Finding("WorkerCrashed", str(why), part.path)], unclear=True)

        return await self.answers(job.parts, ask, blamed)

    async def join(self, scratch: str, packages: Sequence[Bound]) -> list[Joined]:
        """The blob of each package's lines. Raises: CatalogError when the pool cannot go on."""

        async def ask(some: Sequence[Bound]) -> list[Joined]:
            # Several such jobs begin in one turn of the loop.
            few = len(some) <= _FEW_PACKAGES and sum(len(package.lines) for package in some) <= LINE_ITEMS
            job = Join(scratch, some)
            frame = encode_job(job) if few else await asyncio.to_thread(encode_job, job)
            return await unhurried(decode_joined, await self.ask(frame, f"package {some[0].name}"))

        def blamed(package: Bound, why: WorkerCrashedError) -> Joined:
            return Joined(package.name, None, str(why))

        return await self.answers(packages, ask, blamed)

    async def assemble(self, groups: Sequence[Group]) -> list[Assembled]:
        """The records of each package; of one that kills its worker none, and a finding. Raises: CatalogError."""

        async def ask(some: Sequence[Group]) -> list[Assembled]:
            job = Assemble(self.key.namespace, self.key.name, some, self.blobs, self.manifests)
            few = len(some) <= LINE_ITEMS and sum(len(group.documents) for group in some) <= LINE_ITEMS
            frame = encode_job(job) if few else await asyncio.to_thread(encode_job, job)
            return await self.assembled(frame, f"package {some[0].name}")

        def blamed(group: Group, why: WorkerCrashedError) -> Assembled:
            first = group.documents[0]
            finding = Finding("WorkerCrashed", str(why), first.path, first.document, first.line, group.name)
            return Assembled(group.name, (), [finding])

        return await self.answers(groups, ask, blamed)
