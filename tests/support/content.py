"""What workers set aside for the store, as it was."""

from __future__ import annotations

import zstandard

from cacheserver.model import BlobFile


def unpacked(blob: BlobFile) -> bytes:
    """The content of its frame, and nothing besides."""
    with blob.path.open("rb") as file:
        file.seek(blob.at)
        return zstandard.ZstdDecompressor().decompress(file.read(blob.stored), max_output_size=blob.head.size + 1)
