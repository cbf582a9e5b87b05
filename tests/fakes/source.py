"""A Source in memory whose answers a test chooses: content, an error, or none at all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path

from cacheserver.errors import SourceError
from cacheserver.sources import Progress, Tree


class FakeSource:
    """Serves `files` (path -> content). error: raised by every question while set. hangs, fetch_hangs: they never end.

    asked, fetched: how many questions and fetches there were. under_way: counts the questions under way, of several
    sources.
    """

    def __init__(self, files: Mapping[str, bytes], under_way: UnderWay | None = None) -> None:
        self.files = dict(files)
        self.error: SourceError | None = None
        self.hangs = False
        self.fetch_hangs = False
        self.asked = self.fetched = 0
        self._under_way = under_way or UnderWay()

    async def probe(self) -> str:
        self.asked += 1
        with self._under_way:
            if self.hangs:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            if self.error is not None:
                raise self.error
            return self._digest()

    async def fetch(self, scratch: Path, progress: Progress) -> Tree:
        self.fetched += 1
        if self.fetch_hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        root = scratch / "tree"
        root.mkdir(exist_ok=True)
        for path, content in self.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        return Tree(root, tuple(sorted(self.files)), self._digest())

    async def aclose(self) -> None: ...

    def _digest(self) -> str:
        hasher = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            hasher.update(f"{path}\0{len(content)}\0".encode() + content)
        return f"fake:{hasher.hexdigest()}"


class UnderWay:
    """Counts those inside; `most` is the highest count there was."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *exc: object) -> None:
        self.now -= 1
