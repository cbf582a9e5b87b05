"""The files of a canonical tar, for tests that look into content."""

from __future__ import annotations

from cacheserver.archive import TarReader


def untar(tar: bytes) -> dict[str, bytes]:
    """Path and content of each file, in order."""
    found: dict[str, bytes] = {}
    for part in TarReader().feed(tar):
        found[part.path] = found.get(part.path, b"") + part.content
    return found
