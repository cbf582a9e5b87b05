"""Applies an image's layers in order to a staged tree: whiteouts, opaque directories, hard links, replaced types.

Keeps only what touches the catalog's directory: its content, and what happens to it or to a directory above it. All
other entries are read past. Nothing reaches the file system under a name of the layer's (see staging).
Blocks; called in a thread. OCI image specification, layer.md; where it is silent, what containerd does.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import BinaryIO, Final

import zstandard
from isal import igzip, isal_zlib

from cacheserver.errors import SourceError, SourceInvalidError, SourceTooLargeError
from cacheserver.slotted import slotted
from cacheserver.sources.oci.tar import Entry, Kind, Stream, TarError, TarReader
from cacheserver.sources.staging import Directory, File, Link, Refused, Staging, checked_parts
from cacheserver.sources.tree import Limits

_READ_BYTES: Final = 1 << 18
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"

# Ours: a zip bomb's ratio is over 1000; YAML catalogs that repeat themselves reach 100. Small layers may be all zeros.
_RATIO: Final = 200
_RATIO_FROM_BYTES: Final = 64 << 20
# Ours: base images have up to 60,000 entries, real catalogs under 30,000.
_ENTRIES: Final = 1_000_000
# The zstd command line's own limit for decoding: memory that a frame's header may ask for.
_ZSTD_WINDOW_BYTES: Final = 1 << 27

_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_OTHER_MAGIC: Final = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
_ISAL_ERROR: Final[type[Exception]] = isal_zlib.error  # type: ignore[assignment]  # isal's stub says instance
_DAMAGE: Final[tuple[type[Exception], ...]] = (
    TarError, EOFError, zlib.error, _ISAL_ERROR, igzip.BadGzipFile, zstandard.ZstdError,
)  # fmt: skip


class StoppedError(Exception):
    """The caller has gone; nobody waits for the result."""


@slotted(frozen=True)
class Layer:
    """digest: of the blob as stored, for messages; diff_id: of the tar stream in it, checked."""

    digest: str
    diff_id: str


@slotted()
class Budget:
    """What the layers of one image may use together."""

    limits: Limits
    stop: threading.Event
    unpacked_bytes: int = 0
    entries: int = 0


def unpack(blob: Path, layer: Layer, top: Directory, base: Sequence[str], staging: Staging, budget: Budget) -> bool:
    """Applies one layer to `top`; whether anything in it touched `base`, the parts of the catalog's directory.

    Raises: SourceInvalidError (damage, wrong diff_id, a path out of the root), SourceTooLargeError, StoppedError.
    """
    with blob.open("rb") as file:
        stream = _Unpacked(file, layer, budget)
        upper = _Layer(top, tuple(base), staging, layer.digest)
        try:
            tar = TarReader(stream)
            for entry in tar:
                budget.entries += 1
                if budget.entries > _ENTRIES:
                    raise SourceTooLargeError(f"layers hold more than {_ENTRIES} entries, at {layer.digest}")
                upper.apply(entry, tar)
            stream.drain()
        except _DAMAGE as exc:
            raise SourceInvalidError(f"layer {layer.digest} cannot be unpacked: {exc}") from exc
        except RecursionError as exc:  # Only with a `depth` cap set beyond what Python can recurse.
            raise SourceError(f"layer {layer.digest} is nested too deeply") from exc
    if stream.diff_id != layer.diff_id:
        raise SourceInvalidError(
            f"layer {layer.digest} unpacks to {stream.diff_id} where the image's config says {layer.diff_id}"
        )
    top.merge(upper.staged)
    return upper.touched


class _Unpacked:
    """The tar stream in a layer's blob, whatever its media type claims: hashed, counted and capped as it is read."""

    def __init__(self, blob: BinaryIO, layer: Layer, budget: Budget) -> None:
        self._blob = blob
        self._layer = layer
        self._budget = budget
        self._hasher = hashlib.sha256()
        self._read_bytes = 0
        self._stream = _decompressed(blob, layer)

    @property
    def diff_id(self) -> str:
        return f"sha256:{self._hasher.hexdigest()}"

    def read(self, size: int, /) -> bytes:
        if self._budget.stop.is_set():
            raise StoppedError
        piece = self._stream.read(size)
        if 0 < len(piece) < size:
            piece += self._fill(size - len(piece))
        self._hasher.update(piece)
        self._read_bytes += len(piece)
        self._budget.unpacked_bytes += len(piece)
        if self._budget.unpacked_bytes > self._budget.limits.total_bytes:
            raise self._budget.limits.error("total_bytes", f"unpacked layers, at {self._layer.digest}")
        if self._read_bytes > _RATIO_FROM_BYTES and self._read_bytes > _RATIO * self._blob.tell():
            raise SourceTooLargeError(
                f"layer {self._layer.digest} unpacks to over {_RATIO} times its size (cap on ratio)"
            )
        return piece

    def _fill(self, size: int) -> bytes:
        # Decompressors may answer short at a frame's or member's end.
        pieces = []
        while size and (piece := self._stream.read(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def drain(self) -> None:
        """Reads what follows the tar's end: it counts for the diff_id."""
        while self.read(_READ_BYTES):
            pass


def _decompressed(blob: BinaryIO, layer: Layer) -> Stream:
    # containers/image sniffs as well: registries hold zstd bytes under +gzip media types.
    magic = blob.read(6)
    blob.seek(0)
    for other, name in _OTHER_MAGIC.items():
        if magic.startswith(other):
            raise SourceInvalidError(f"layer {layer.digest} is compressed with {name}; push it with gzip or zstd")
    if magic.startswith(_GZIP_MAGIC):
        return igzip.IGzipFile(fileobj=blob)  # type: ignore[no-untyped-call]  # isal is half typed
    # RFC 8878 3.1.2: 0x184D2A5? begins a skippable frame.
    if magic.startswith(_ZSTD_MAGIC) or (magic[1:4] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50):
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        return decompressor.stream_reader(blob, read_size=_READ_BYTES, read_across_frames=True, closefd=False)
    return blob


@slotted()
class _Layer:
    """One layer on its way: its own entries in `staged`; whiteouts act on `lower` at once, for they never act on
    entries of their own layer, wherever in it they stand (OCI layer.md, Whiteouts)."""

    lower: Directory
    base: tuple[str, ...]
    staging: Staging
    digest: str
    staged: Directory = field(default_factory=Directory)
    touched: bool = False

    def apply(self, entry: Entry, tar: TarReader) -> None:
        limits = self.staging.limits
        if len(entry.name) > limits.path_bytes:  # Before it is taken apart: 1 MiB of `a/a/a` is half a million parts.
            raise limits.error("path_bytes", f"layer {self.digest}: {entry.name[:64].decode(errors='replace')}")
        try:
            path = entry.name.decode()
        except UnicodeDecodeError:
            self._unreadable_name(entry)
            return
        parts = self._parts(path)
        if parts and parts[-1].startswith(_WHITEOUT):
            self._whiteout(parts)
        elif parts and self._concerns(parts):
            self.touched = True
            target = entry.target if entry.kind is Kind.SYMLINK else b""
            if len(target) > limits.path_bytes:
                raise limits.error("path_bytes", f"layer {self.digest}: {path}, a link")
            directories = self.staged.missing(parts)
            self.staging.count(parts, directories=directories, target=target.decode(errors="replace"))
            if len(parts) <= len(self.base):
                self._above(parts, entry)
            else:
                self.staged.put(parts, self._node("/".join(parts), entry, tar))

    def _parts(self, path: str) -> tuple[str, ...]:
        parts = checked_parts(path)
        if parts is None:
            raise SourceInvalidError(f"layer {self.digest}: {path[:256]!r} leads out of the image's root")
        return parts

    def _concerns(self, parts: Sequence[str]) -> bool:
        shared = min(len(parts), len(self.base))
        return tuple(parts[:shared]) == self.base[:shared]

    def _whiteout(self, parts: tuple[str, ...]) -> None:
        opaque = parts[-1] == _OPAQUE
        hidden = parts[:-1] if opaque else (*parts[:-1], parts[-1].removeprefix(_WHITEOUT))
        if not opaque and hidden[-1].startswith(".wh."):
            return  # aufs's own records (`.wh..wh.plnk`); containerd skips them too.
        if not opaque and hidden[-1] in ("", ".", ".."):
            raise SourceInvalidError(f"layer {self.digest}: {'/'.join(parts)!r} is a whiteout of nothing")
        if not self._concerns(hidden):
            return
        self.touched = True
        if opaque:
            found = self.lower.find(hidden)
            if isinstance(found, Directory):
                found.remove(())
        else:
            self.lower.remove(hidden)

    def _above(self, parts: tuple[str, ...], entry: Entry) -> None:
        """The catalog's directory itself, or one above it: only what it is matters."""
        if entry.kind is Kind.DIRECTORY:
            self.staged.directory(parts)
        else:
            self.staged.put(parts, Refused(f"is {entry.kind.value}"))

    def _node(self, path: str, entry: Entry, tar: TarReader) -> Directory | File | Link | Refused:
        match entry.kind:
            case Kind.FILE:
                return self.staging.store(path, entry.size, tar.content())
            case Kind.DIRECTORY:
                return Directory()
            case Kind.SYMLINK:
                try:
                    return Link(entry.target.decode())
                except UnicodeDecodeError:
                    return Refused("link's target is not UTF-8")
            case Kind.HARD_LINK:
                return self._hard_link(entry)
            case other:
                return Refused(f"is {other.value}")

    def _hard_link(self, entry: Entry) -> File | Link | Refused:
        if len(entry.target) > self.staging.limits.path_bytes:
            return Refused("hard link to a name that is too long")
        parts = self._parts(entry.target.decode(errors="replace"))
        found = self.staged.find(parts)
        if found is None:
            found = self.lower.find(parts)
        if isinstance(found, File | Link):
            return found
        if tuple(parts[: len(self.base)]) != self.base:
            return Refused("hard link to a file outside the catalog's directory")
        return Refused("hard link leads nowhere")

    def _unreadable_name(self, entry: Entry) -> None:
        shown = entry.name.decode(errors="backslashreplace")
        parts = self._parts(shown)
        if parts[: len(self.base)] == self.base:
            self.staging.count(parts, directories=self.staged.missing(parts))
            self.touched = True
            self.staged.put(parts, Refused("name is not UTF-8"))
