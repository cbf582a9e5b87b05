"""An OCI image layout on this machine, a directory or one plain tar file of it, for sites without a registry.

OCI image specification, image-layout.md. Reads only `index.json` and blobs by digest, which it copies out checked.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from cacheserver.errors import SourceError, SourceInvalidError, SourceNotFoundError, SourceTooLargeError
from cacheserver.sources.oci.image import MAX_DOCUMENT_BYTES, Descriptor, Document, named_descriptors
from cacheserver.sources.oci.tar import Kind, TarError, TarReader
from cacheserver.sources.staging import checked_parts
from cacheserver.sources.threads import run_stoppable
from cacheserver.sources.walk import Stamp

_INDEX: Final = "index.json"
_INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
_CHUNK_BYTES: Final = 1 << 20
_MOST_MEMBERS: Final = 100_000  # Ours: a layout of hundreds of images has a few thousand.
_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")


class Layout:
    """One image of a layout. `path` is the directory or tar, or where that does not exist, `PATH:NAME` of several."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members: tuple[Stamp, Mapping[str, tuple[int, int]]] | None = None

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"oci-layout:{self._path}"

    async def resolve(self) -> str:
        """The digest that index.json gives the image now. Raises: SourceError."""
        return (await asyncio.to_thread(self._choose)).digest

    async def document(self, version: str) -> Document:
        """The manifest or index of that digest. Raises: SourceError."""
        return await asyncio.to_thread(self._document, version)

    async def copy(self, blob: Descriptor, into: Path, advance: Callable[[int], None]) -> None:
        """The blob in the new file `into`, checked. Raises: SourceInvalidError, SourceError."""
        stop = threading.Event()
        await run_stoppable(stop, functools.partial(self._copy, blob, into, stop))
        advance(blob.size)

    async def aclose(self) -> None:
        """Forgets where the members of its tar file lie."""
        self._members = None

    def _document(self, version: str) -> Document:
        index = Document(self._read(_INDEX), _INDEX_TYPE)
        found = index if index.digest == version else Document(self._read(_blob_name(version)), "")
        if found.digest != version:
            raise SourceInvalidError(f"{self.name}: {version} holds other bytes; the layout is damaged")
        return found

    def _choose(self) -> Document | Descriptor:
        """One image's descriptor; or the index itself, if all it lists are one image's platforms."""
        _, wanted = self._location()
        content = self._read(_INDEX)
        found = named_descriptors(content, self.name)
        if wanted:
            found = [one for one in found if one[0] == wanted or one[0].endswith(f":{wanted}")]
        names = sorted({label for label, _ in found})
        if len({descriptor.digest for _, descriptor in found}) == 1:
            return found[0][1]
        if not found:
            raise SourceNotFoundError(f"{self.name} holds no image" + (f" named {wanted!r}" if wanted else ""))
        if len(names) == 1 and not wanted:
            return Document(content, _INDEX_TYPE)
        listed = ", ".join(repr(name) for name in names[:10])
        raise SourceInvalidError(f"{self.name} holds several images ({listed}); name one: oci-layout:PATH:NAME")

    def _location(self) -> tuple[Path, str]:
        """Where the layout is, and which of its images is wanted, if one is named."""
        path, _, wanted = str(self._path).rpartition(":")
        # A colon may be part of a real path; that wins.
        if path and "/" not in wanted and not self._path.exists():
            return Path(path), wanted
        return self._path, ""

    def _read(self, member: str) -> bytes:
        with self._open(member) as (file, size):
            if size > MAX_DOCUMENT_BYTES:
                raise SourceTooLargeError(f"{self.name}: {member} has {size} bytes, over {MAX_DOCUMENT_BYTES}")
            return file.read(size)

    def _copy(self, blob: Descriptor, into: Path, stop: threading.Event) -> None:
        hasher = hashlib.sha256()
        with self._open(_blob_name(blob.digest)) as (file, size), into.open("xb") as out:
            if size != blob.size:
                raise SourceInvalidError(f"{self.name}: {blob.digest} has {size} bytes where {blob.size} are announced")
            while size and not stop.is_set() and (chunk := file.read(min(size, _CHUNK_BYTES))):
                hasher.update(chunk)
                out.write(chunk)
                size -= len(chunk)
        if f"sha256:{hasher.hexdigest()}" != blob.digest:
            raise SourceInvalidError(f"{self.name}: {blob.digest} holds other bytes; the layout is damaged")

    @contextmanager
    def _open(self, member: str) -> Iterator[tuple[BinaryIO, int]]:
        """A member, positioned at its first byte, and its size."""
        path, _ = self._location()
        try:
            inside = path.is_dir()
            with _open_file(path / member if inside else path, self.name) as file:
                if inside:
                    yield file, os.fstat(file.fileno()).st_size
                    return
                offset, size = self._find(file, member)
                file.seek(offset)
                yield file, size
        except FileNotFoundError as exc:
            raise SourceNotFoundError(
                f"{self.name}: {exc.filename} does not exist; is it an OCI image layout?"
            ) from exc
        except OSError as exc:
            raise SourceError(f"{self.name}: {exc.filename or member} cannot be read: {exc.strerror}") from exc

    def _find(self, file: BinaryIO, member: str) -> tuple[int, int]:
        stamp = Stamp.of(os.fstat(file.fileno()))
        if self._members is None or self._members[0] != stamp:
            self._members = (stamp, _members(file, self.name))
        try:
            return self._members[1][member]
        except KeyError as exc:
            raise SourceNotFoundError(f"{self.name} holds no {member}; is it an OCI image layout?") from exc


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/', 1)}"


@contextmanager
def _open_file(path: Path, name: str) -> Iterator[BinaryIO]:
    # NONBLOCK: a pipe in a blob's place must not hang us.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SourceInvalidError(f"{name}: {path} is not a regular file")
        yield file


def _members(file: BinaryIO, name: str) -> dict[str, tuple[int, int]]:
    """Offset and size of each file in a tar; the last of a name counts, as when unpacked."""
    if file.read(6).startswith(_COMPRESSED):
        raise SourceInvalidError(f"{name} is compressed; blobs in it are already, so give the plain tar")
    file.seek(0)
    found: dict[str, tuple[int, int]] = {}
    try:
        for entry in TarReader(file, skip=lambda size: file.seek(size, os.SEEK_CUR)):
            parts = checked_parts(entry.name.decode(errors="replace"))
            if parts and entry.kind is Kind.FILE:
                found["/".join(parts)] = (file.tell(), entry.size)
            if len(found) > _MOST_MEMBERS:
                raise SourceTooLargeError(f"{name} has over {_MOST_MEMBERS} members")
    except TarError as exc:
        raise SourceInvalidError(f"{name} is not an OCI image layout: {exc}") from exc
    return found
