"""What a parse of KRM packages asks of the workers: trees into content and facts, packages into records."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from cacheserver.catalogs import jobs
from cacheserver.catalogs.catalog import Finding, Problem
from cacheserver.catalogs.krm.wire import Assemble, Described, Pack, Packed, Wanted, decode_packed, encode_job
from cacheserver.catalogs.wire import Assembled, unhurried
from cacheserver.errors import WorkerCrashedError


class Jobs(jobs.Jobs):
    """The workers as one parse of KRM packages uses them."""

    async def pack(self, job: Pack) -> list[Packed]:
        """One answer for each tree, in order. Raises: CatalogError when the pool cannot go on."""

        async def ask(trees: Sequence[Wanted]) -> list[Packed]:
            frame = await asyncio.to_thread(encode_job, replace(job, trees=trees))
            answer = await self.ask(frame, f"package {trees[0].name}")
            return await unhurried(decode_packed, answer)

        def blamed(tree: Wanted, why: WorkerCrashedError) -> Packed:
            return Packed(refusal=Problem("WorkerCrashed", str(why)))

        return await self.answers(job.trees, ask, blamed)

    async def assemble(self, packages: Sequence[Described]) -> list[Assembled]:
        """The records of each package; of one that kills its worker none, and a finding. Raises: CatalogError."""

        async def ask(some: Sequence[Described]) -> list[Assembled]:
            job = encode_job(Assemble(self.key.namespace, self.key.name, some))
            return await self.assembled(job, f"package {some[0].name}")

        def blamed(package: Described, why: WorkerCrashedError) -> Assembled:
            return Assembled(package.name, (), [Finding("WorkerCrashed", str(why), package=package.name)])

        return await self.answers(packages, ask, blamed)
