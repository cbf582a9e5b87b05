"""A worker's content, set aside on disk for the store: one zstd frame a file, under its digest. Both formats."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import zstandard

from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.model import BlobFile, BlobHead

_ZSTD_LEVEL: Final = 3  # model.BlobFile


class BlobWriter:
    """Writes into `scratch`, which exists and other workers write into as well. Not to be shared between threads."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)

    def write(self, head: BlobHead, content: bytes | Iterable[bytes]) -> BlobFile:
        """The blob that `head` describes: its file is complete, or not there. An iterable is not held in memory.

        Raises: DocumentError when the disk is full.
        """
        name = head.digest.removeprefix("sha256:")
        path = self._scratch / f"{name}.zst"
        if not path.exists():
            # Another worker may be writing the same, or die while it does: each its own draft, the last one names it.
            draft = self._scratch / f"{name}.{os.getpid()}"
            try:
                with draft.open("wb") as file:
                    file.writelines(self._compressed(content, head.size))
                draft.replace(path)
            except OSError as exc:
                raise DocumentError("ScratchFailed", f"its content cannot be set aside: {exc.strerror}") from exc
        return BlobFile(head, path)

    def _compressed(self, content: bytes | Iterable[bytes], size: int) -> Iterable[bytes]:
        if isinstance(content, bytes):
            yield self._compressor.compress(content)
            return
        compressing = self._compressor.compressobj(size=size)
        for piece in content:
            yield compressing.compress(piece)
        yield compressing.flush()
