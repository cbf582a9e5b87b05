"""Reads a tar stream front to back in bounded memory: v7, ustar, GNU long names, pax. Judges nothing, writes nothing.

Ours, not `tarfile`: that reads a pax or long-name record of any announced size into memory, which a hostile layer uses.
Follows Go's archive/tar, which wrote nearly all layers there are, where readers differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, Protocol

from cacheserver.slotted import slotted

BLOCK: Final = 512
_CHUNK_BYTES: Final = 1 << 18
_NAME_BYTES: Final = 64 << 10  # Ours: 16 times PATH_MAX.
_PAX_BYTES: Final = 1 << 20  # Go: archive/tar maxSpecialFileSize is 1 MiB.
_PAX_RECORDS: Final = 1000  # Ours: real headers have under 20, and each is an object in memory.
_ZERO: Final = bytes(BLOCK)


class Kind(Enum):
    """What a member is; the value is how a refusal names it."""

    FILE = "a file"
    DIRECTORY = "a directory"
    SYMLINK = "a symbolic link"
    HARD_LINK = "a hard link"
    DEVICE = "a device"
    PIPE = "a pipe"
    SPARSE = "a sparse file"
    UNKNOWN = "of an unknown type"


_KINDS: Final = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"1": Kind.HARD_LINK, b"2": Kind.SYMLINK, b"3": Kind.DEVICE,
    b"4": Kind.DEVICE, b"5": Kind.DIRECTORY, b"6": Kind.PIPE, b"S": Kind.SPARSE,
}  # fmt: skip
# Go: archive/tar isHeaderOnly; a size in such a header is not followed by bytes.
_HEADER_ONLY: Final = {Kind.HARD_LINK, Kind.SYMLINK, Kind.DEVICE, Kind.DIRECTORY, Kind.PIPE}


class TarError(ValueError):
    """Not a tar stream, cut short, or a record beyond its limit."""


class Stream(Protocol):
    """A file to be read front to back, as gzip and zstd readers are."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, fewer only where the stream ends."""
        ...


@slotted(frozen=True)
class Entry:
    """One member. `size`: bytes of content that `TarReader.content` yields; `name` and `target` as written."""

    name: bytes
    kind: Kind
    size: int
    target: bytes


class TarReader:
    """Iterate for entries; between two, `content` gives the current one's bytes; what is not taken is skipped."""

    def __init__(self, stream: Stream, *, skip: Callable[[int], object] | None = None) -> None:
        """skip: moves the stream on by so many bytes unread, where it can; past the end is not an error."""
        self._stream = stream
        self._skip = skip
        self._left = 0
        self._padding = 0

    def content(self) -> Iterator[bytes]:
        """What is left of the current entry, in pieces of at most 256 KiB."""
        while self._left:
            yield self._take(min(self._left, _CHUNK_BYTES))

    def __iter__(self) -> Iterator[Entry]:
        """Raises: TarError."""
        name = target = None
        pax: dict[str, bytes] = {}
        while (header := self._header()) is not None:
            kind_byte = header[156:157]
            size = _number(header[124:136])
            if kind_byte in (b"L", b"K"):
                text = self._record(size, _NAME_BYTES).split(b"\0", 1)[0]
                name, target = (text, target) if kind_byte == b"L" else (name, text)
            elif kind_byte == b"x":
                pax = _pax_records(self._record(size, _PAX_BYTES))
            elif kind_byte == b"g":
                self._record(size, _PAX_BYTES)  # Go and containerd: global records do not change members.
            else:
                entry = _entry(header, size, name, target, pax)
                if kind_byte == b"S":
                    self._skip_sparse_map(header)
                self._begin(entry.size)
                yield entry
                name, target, pax = None, None, {}

    def _header(self) -> bytes | None:
        if self._skip is not None:
            self._skip(self._left + self._padding)
            self._left = 0
        else:
            for _ in self.content():
                pass
            self._exactly(self._padding)
        self._padding = 0
        header = self._stream.read(BLOCK)
        if not header:
            return None  # Go: a stream may end without its zero blocks.
        if len(header) != BLOCK:
            raise TarError("cut short in a header")
        if header == _ZERO:
            if self._stream.read(BLOCK) not in (b"", _ZERO):
                raise TarError("a lone zero block between entries")
            return None
        # POSIX: the sum counts the checksum field as spaces; old writers summed signed bytes.
        want = _number(header[148:156])
        body = header[:148] + b" " * 8 + header[156:]
        if want != sum(body) and want != sum(body) - 256 * sum(byte > 127 for byte in body):
            raise TarError("header checksum does not match; not a tar archive")
        return header

    def _begin(self, size: int) -> None:
        self._left = size
        self._padding = -size % BLOCK

    def _record(self, size: int, limit: int) -> bytes:
        if size > limit:
            raise TarError(f"an extended header of {size} bytes, over {limit}")
        self._begin(size)
        return b"".join(self.content())

    def _take(self, size: int) -> bytes:
        piece = self._exactly(size)
        self._left -= size
        return piece

    def _exactly(self, size: int) -> bytes:
        piece = self._stream.read(size) if size else b""
        if len(piece) != size:
            raise TarError("cut short in an entry's content")
        return piece

    def _skip_sparse_map(self, header: bytes) -> None:
        extended = header[482]  # GNU: isextended; maps of 21 more regions follow in blocks of their own.
        while extended:
            extended = self._exactly(BLOCK)[504]


def _entry(header: bytes, size: int, name: bytes | None, target: bytes | None, pax: dict[str, bytes]) -> Entry:
    kind = _KINDS.get(header[156:157], Kind.UNKNOWN)
    if name is None:
        name = _text(header[:100])
        # GNU's magic is `ustar` and spaces, and uses the prefix field for other things.
        if header[257:263] == b"ustar\0" and (prefix := _text(header[345:500])):
            name = prefix + b"/" + name
    if target is None:
        target = _text(header[157:257])
    name, target = pax.get("path", name), pax.get("linkpath", target)
    if "size" in pax:
        size = _decimal(pax["size"])
    if any(key.startswith("GNU.sparse.") for key in pax):
        kind, name = Kind.SPARSE, pax.get("GNU.sparse.name", name)
    if b"\0" in name or b"\0" in target:
        raise TarError("a NUL in a name")
    if kind is Kind.FILE and name.endswith(b"/"):
        kind = Kind.DIRECTORY  # v7 has no directories but by their name.
    return Entry(name, kind, 0 if kind in _HEADER_ONLY else size, target)


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: base 256; bit 6 is the sign.
        if field[0] & 0x40:
            raise TarError("a negative number in a header")
        return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
    text = field.split(b"\0", 1)[0].strip(b" ")
    if text and (not text.isdigit() or b"8" in text or b"9" in text):
        raise TarError("a number in a header is not octal")
    return int(text, 8) if text else 0


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise TarError("a size in an extended header is not a number")
    return int(text)


def _pax_records(record: bytes) -> dict[str, bytes]:
    """POSIX pax: `LENGTH KEY=VALUE` and a newline, LENGTH counting all of it."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(record):
        if len(found) >= _PAX_RECORDS:
            raise TarError(f"an extended header of more than {_PAX_RECORDS} records")
        space = record.find(b" ", at, at + 20)
        if space < 0 or not record[at:space].isdigit():
            raise TarError("an extended header without a length")
        end = at + int(record[at:space])
        line = record[space + 1 : end]
        key, equals, value = line.partition(b"=")
        if end > len(record) or end <= space or not equals or not value.endswith(b"\n"):
            raise TarError("a broken extended header")
        found[key.decode(errors="replace")] = value[:-1]
        at = end
    return found
