"""A worker's content, set aside on disk for the store: zstd frames, one behind the other in a file. Both formats.

A file each would be three changes of a directory for each content (made, named, removed), and the disk's journal, which
etcd waits for as well, makes the parse wait for each: a third of the time of a small catalog on a busy disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final

import zstandard

from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.model import BlobFile, BlobHead, Digest

_ZSTD_LEVEL: Final = 3  # model.BlobFile
_REMEMBERED: Final = 16_384
"""Of what was written for one parse: 5 MB at most. What was forgotten is written once more, and takes room on disk."""


class BlobWriter:
    """Writes into a file of this process's own in `scratch`, which exists, and where other workers have theirs.

    Not to be shared between threads.
    """

    def __init__(self, scratch: Path) -> None:
        self._path = scratch / f"content-{os.getpid()}"
        self._compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
        self._written: dict[Digest, BlobFile] = {}
        self._end = 0

    def write(self, head: BlobHead, content: bytes | Iterable[bytes]) -> BlobFile:
        """The blob that `head` describes, whole. An iterable is not held in memory.

        Raises: DocumentError when the disk is full.
        """
        if _size(self._path) != self._end:
            self._written.clear()  # the directory was removed, and made again for another parse
        if (known := self._written.get(head.digest)) is not None:
            return known
        try:
            # Behind whatever is there, be it a part of a frame that a full disk took: nothing refers to that.
            with self._path.open("ab") as file:
                at = file.tell()
                file.writelines(self._compressed(content, head.size))
                self._end = file.tell()
        except OSError as exc:
            raise DocumentError("ScratchFailed", f"its content cannot be set aside: {exc.strerror}") from exc
        if len(self._written) >= _REMEMBERED:
            del self._written[next(iter(self._written))]
        made = self._written[head.digest] = BlobFile(head, self._path, self._end - at, at)
        return made

    def _compressed(self, content: bytes | Iterable[bytes], size: int) -> Iterable[bytes]:
        if isinstance(content, bytes):
            yield self._compressor.compress(content)
            return
        compressing = self._compressor.compressobj(size=size)
        for piece in content:
            yield compressing.compress(piece)
        yield compressing.flush()


def _size(path: Path) -> int:
    """0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


@lru_cache(maxsize=4)  # parses that share the workers at a time: ingest.sync.APPLIES_AT_ONCE
def writer(scratch: Path) -> BlobWriter:
    """Of this process, for a parse whose scratch this is: it knows what it wrote in earlier jobs."""
    return BlobWriter(scratch)
