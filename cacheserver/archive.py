"""A package's files as one canonical tar: equal files give equal bytes, so the digest addresses the content.

Written by catalogs, read back by the API as a stream. Binary exact; no path that leaves the directory gets in.
"""

from __future__ import annotations

import tarfile
from collections.abc import Container, Iterable, Iterator
from typing import Final, NamedTuple

_BLOCK = 512
_PLAIN, _EXECUTABLE = 0o644, 0o755

WHOLE_BYTES: Final = 128 << 10
"""A larger file is read in parts."""


def tar_stream(files: Iterable[tuple[str, bytes]], executable: Container[str] = ()) -> Iterator[bytes]:
    """The canonical tar of `files`, in the order given (callers sort by path): pax, mtime 0, owner 0, mode 0644, or
    0755 for the paths in `executable`, as git knows the two.

    Raises ValueError for an absolute path, an empty one, or one with a `..` part or a NUL.
    """
    for path, content in files:
        if not path or path.startswith("/") or "\0" in path or ".." in path.split("/"):
            raise ValueError(f"not a relative path inside the package: {path!r}")
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode, entry.mtime = len(content), _EXECUTABLE if path in executable else _PLAIN, 0
        yield entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        yield content
        if len(content) % _BLOCK:
            yield bytes(_BLOCK - len(content) % _BLOCK)
    yield bytes(2 * _BLOCK)


class Part(NamedTuple):
    """Bytes of a file, from `at` on; the last ones where they reach `size`."""

    path: str
    size: int
    at: int
    content: bytes
    executable: bool = False

    @property
    def is_last(self) -> bool:
        """Whether it ends its file."""
        return self.at + len(self.content) == self.size


class TarReader:
    """Reads tar_stream's output piece by piece: feed() bytes, take parts of files, in order.

    A file of `whole_bytes` at most comes as one part; of a larger one, each piece brings what it holds.
    Only reads what tar_stream wrote: regular files and pax headers.
    """

    def __init__(self, whole_bytes: int = WHOLE_BYTES) -> None:
        self._whole_bytes = whole_bytes
        self._buffer = bytearray()
        self._path: str | None = None
        self._large: tuple[str, int, bool] | None = None  # name, size and mode of the file that comes in parts
        self._at = 0
        self._padding = 0

    def feed(self, piece: bytes) -> Iterator[Part]:
        """What `piece` brought. Each result is to be taken before the next piece."""
        self._buffer += piece
        while True:
            part = self._next_of_large() if self._large is not None else self._next()
            if part is None:
                return
            if part.path:
                yield part

    def _next_of_large(self) -> Part | None:
        assert self._large is not None
        path, size, executable = self._large
        content = bytes(self._buffer[: size - self._at])
        if not content:
            return None
        del self._buffer[: len(content)]
        part = Part(path, size, self._at, content, executable)
        self._at += len(content)
        if part.is_last:
            self._large, self._padding = None, -size % _BLOCK
        return part

    def _next(self) -> Part | None:
        """The next file, if it is whole, or large; a part without a path for what is none."""
        buffer = self._buffer
        if len(buffer) < self._padding + _BLOCK:
            return None
        if self._padding:
            del buffer[: self._padding]
            self._padding = 0
        head = bytes(buffer[:_BLOCK])
        if not any(head):
            return None
        entry = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        is_header = entry.type == tarfile.XHDTYPE
        path, executable = self._path or entry.name, entry.mode == _EXECUTABLE
        if entry.size > self._whole_bytes and not is_header:
            del buffer[:_BLOCK]
            self._large, self._at, self._path = (path, entry.size, executable), 0, None
            return _NO_FILE
        end = _BLOCK + entry.size
        if len(buffer) < end:
            return None
        content = bytes(buffer[_BLOCK:end])
        del buffer[:end]
        self._padding = -entry.size % _BLOCK
        if is_header:
            self._path = _pax_path(content) or self._path
            return _NO_FILE
        self._path = None
        return Part(path, entry.size, 0, content, executable)


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


_NO_FILE: Final = Part("", 0, 0, b"")
