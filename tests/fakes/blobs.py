"""Content in memory, with the promises of cacheserver.store.blobs.Blobs; can be away, and can lose a blob."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping

from cacheserver.archive import tar_stream
from cacheserver.errors import BlobMissingError, Unavailable
from cacheserver.model import BlobHead, Digest

_PIECE = 700  # small and odd: no reader may count on where pieces end


class FakeBlobs:
    def __init__(self) -> None:
        self.away = False
        self.reads = 0
        self._blobs: dict[Digest, tuple[BlobHead, bytes]] = {}

    def put(self, content: bytes, media_type: str, files: Mapping[str, bytes] | None = None) -> Digest:
        digest = Digest("sha256:" + hashlib.sha256(content).hexdigest())
        sizes = tuple((path, len(file)) for path, file in sorted((files or {}).items()))
        self._blobs[digest] = (BlobHead(digest, len(content), media_type, sizes), content)
        return digest

    def put_files(self, files: Mapping[str, bytes]) -> Digest:
        return self.put(b"".join(tar_stream(sorted(files.items()))), "application/x-tar", files)

    def lose(self, digest: Digest) -> bytes:
        """Returns what it was."""
        return self._blobs.pop(digest)[1]

    async def head(self, digest: Digest) -> BlobHead | None:
        await self._ask()
        found = self._blobs.get(digest)
        return found[0] if found else None

    async def read(self, digest: Digest) -> AsyncIterator[bytes]:
        if digest not in self._blobs:
            raise BlobMissingError(f"content {digest} is not in the store")
        content = self._blobs[digest][1]
        self.reads += 1
        for at in range(0, len(content), _PIECE):
            await self._ask()
            yield content[at : at + _PIECE]

    async def _ask(self) -> None:
        await asyncio.sleep(0)  # others have their turn, as while etcd is asked
        if self.away:
            raise Unavailable("the fake is away")
