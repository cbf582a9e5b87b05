"""A package's files as one canonical tar: equal files give equal bytes, so the digest addresses the content.

Written by catalogs, read back by the API as a stream. Binary exact; no path that leaves the directory gets in.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator

_BLOCK = 512


def tar_stream(files: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """The canonical tar of `files`, in the order given (callers sort by path): pax, mode 0644, mtime 0, owner 0.

    Raises ValueError for an absolute path, an empty one, or one with a `..` part or a NUL.
    """
    for path, content in files:
        if not path or path.startswith("/") or "\0" in path or ".." in path.split("/"):
            raise ValueError(f"not a relative path inside the package: {path!r}")
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode, entry.mtime = len(content), 0o644, 0
        yield entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        yield content
        if len(content) % _BLOCK:
            yield bytes(_BLOCK - len(content) % _BLOCK)
    yield bytes(2 * _BLOCK)


class TarReader:
    """Reads tar_stream's output piece by piece: feed() bytes, take (path, bytes) pairs; holds one file at most.

    Only reads what tar_stream wrote: regular files and pax headers.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._path: str | None = None

    def feed(self, piece: bytes) -> Iterator[tuple[str, bytes]]:
        """The files completed by `piece`, in order."""
        self._buffer += piece
        while len(self._buffer) >= _BLOCK:
            if not any(self._buffer[:_BLOCK]):
                return
            entry = tarfile.TarInfo.frombuf(bytes(self._buffer[:_BLOCK]), "utf-8", "surrogateescape")
            end = _BLOCK + entry.size
            padded = end + -end % _BLOCK
            if len(self._buffer) < padded:
                return
            content = bytes(self._buffer[_BLOCK:end])
            del self._buffer[:padded]
            if entry.type == tarfile.XHDTYPE:
                self._path = _pax_path(content) or self._path
            else:
                yield self._path or entry.name, content
                self._path = None


def _pax_path(header: bytes) -> str | None:
    """The `path` record of a pax header (`LENGTH key=value\\n`)."""
    at = 0
    while at < len(header):
        length = int(header[at : header.index(b" ", at)])
        key, _, value = header[at : at + length].partition(b" ")[2].rstrip(b"\n").partition(b"=")
        if key == b"path":
            return value.decode("utf-8", "surrogateescape")
        at += length
    return None
