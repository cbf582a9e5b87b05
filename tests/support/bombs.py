"""Sources that cost little to keep and much to read: git repositories and images made to exhaust who fetches them.

Each function writes one, in at most seconds, and returns what a test hands to a source. None
needs git: objects are written as git stores them (gitformat-pack(5), gitrepository-layout(5)).

    git     deep_names, shared_trees, wide_tree, tagged_trees, many_refs, octopus, delta_bomb, zlib_bomb
    images  long_names, long_links, many_pax_records, dense_config, zeros   (write_layout or a registry takes them)
"""

from __future__ import annotations

import hashlib
import io
import itertools
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tests.support.registry import (
    CONFIGS_LABEL,
    OCI_LAYER,
    OCI_MANIFEST,
    BuiltLayer,
    Image,
    digest_of,
    image,
)

MIB: Final = 1 << 20
KPTFILE: Final = b"apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata:\n  name: bomb\n"
FBC: Final = b"schema: olm.package\nname: bomb\n"

_FILE: Final = b"100644"
_TREE: Final = b"40000"
_PERSON: Final = b"Test <test@example.com> 1767225600 +0000"
_REF_DELTA: Final = 7
_PACK_KINDS: Final = {b"commit": 1, b"tree": 2, b"blob": 3}

Row = tuple[bytes, bytes, str]
"""(mode, name, object name) of a tree."""


class Bare:
    """A bare repository whose objects and refs are written here, and not checked: trees may be as git makes none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._refs: dict[str, str] = {}
        for name in ("objects/pack", "objects/info", "refs/heads", "refs/tags"):
            (path / name).mkdir(parents=True)
        (path / "HEAD").write_text("ref: refs/heads/main\n")
        (path / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n")

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    def object(self, kind: bytes, content: bytes) -> str:
        raw = kind + b" %d\0" % len(content) + content
        oid = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
        path = self.path / "objects" / oid[:2] / oid[2:]
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(zlib.compress(raw, 6))
        return oid

    def blob(self, content: bytes) -> str:
        return self.object(b"blob", content)

    def tree(self, rows: Iterable[Row]) -> str:
        # git's order: a directory sorts as if its name ended with a slash (tree.c, base_name_compare).
        ordered = sorted(rows, key=lambda row: row[1] + b"/" if row[0] == _TREE else row[1])
        return self.object(
            b"tree", b"".join(mode + b" " + name + b"\0" + bytes.fromhex(oid) for mode, name, oid in ordered)
        )

    def commit(self, tree: str, *parents: str, message: str = "m") -> str:
        lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents)]
        head = "\n".join(lines).encode() + b"\nauthor " + _PERSON + b"\ncommitter " + _PERSON
        return self.object(b"commit", head + b"\n\n" + message.encode())

    def refs(self, refs: Iterable[tuple[str, str]]) -> None:
        """Full names and commits, beside those that are there; packed, so that a name may be of any length."""
        self._refs.update(refs)
        lines = [f"{oid} {name}\n" for name, oid in sorted(self._refs.items(), key=lambda ref: ref[0].encode())]
        (self.path / "packed-refs").write_text("# pack-refs with: peeled fully-peeled sorted \n" + "".join(lines))

    def pack(self, records: Iterable[bytes], count: int) -> Path:
        """A pack of these records (see `record`) in objects/pack, without its index: `git index-pack` makes one."""
        hashed = hashlib.sha1(usedforsecurity=False)
        path = self.path / "objects" / "pack" / "pack-bomb.pack"
        with path.open("wb") as file:
            for piece in (struct.pack(">4sII", b"PACK", 2, count), *records):
                hashed.update(piece)
                file.write(piece)
            file.write(hashed.digest())
        return path


# --- git ----------------------------------------------------------------------------------------------------------


def deep_names(
    path: Path, *, levels: int = 60, name_bytes: int = 200, directories: int = 430, files: int = 430
) -> Bare:
    """`directories` x `files` paths of `levels` long names each, in as few trees as that takes.

    The default: 184,900 paths of 12 kB, 2.3 GB of names, in about 5 KiB.
    """
    bare = Bare(path)
    blob = bare.blob(FBC)
    tree = bare.tree((_FILE, b"f%d.yaml" % at, blob) for at in range(files))
    tree = bare.tree((_TREE, b"d%d" % at, tree) for at in range(directories))
    for level in range(levels):
        tree = bare.tree([(_TREE, (b"%d-" % level).ljust(name_bytes, b"x"), tree)])
    return _on_main(bare, tree)


def shared_trees(path: Path, *, levels: int = 12, width: int = 10, kptfile: bool = False) -> Bare:
    """`width` ** `levels` files in `levels` + 1 trees: each tree names the one below it `width` times."""
    bare = Bare(path)
    tree = bare.tree([(_FILE, b"catalog.yaml", bare.blob(FBC))])
    for _ in range(levels):
        tree = bare.tree((_TREE, b"d%d" % at, tree) for at in range(width))
    if kptfile:
        tree = bare.tree([(_FILE, b"Kptfile", bare.blob(KPTFILE)), (_TREE, b"d", tree)])
    return _on_main(bare, tree)


def wide_tree(path: Path, *, entries: int = 600_000) -> Bare:
    """One tree object of so many names, all for one blob: 19 MB of tree in about 1.5 MiB."""
    bare = Bare(path)
    blob = bare.blob(FBC)
    return _on_main(bare, bare.tree((_FILE, b"f%07d.yaml" % at, blob) for at in range(entries)))


def tagged_trees(path: Path, *, tags: int = 1000, files: int = 9000, name_bytes: int = 100) -> Bare:
    """Packages at so many tags, each with a Kptfile of its own and the same directory of `files` names beside it."""
    bare = Bare(path)
    blob = bare.blob(FBC)
    many = bare.tree((_FILE, (b"f%d-" % at).ljust(name_bytes, b"x"), blob) for at in range(files))
    refs = []
    for at in range(tags):
        kptfile = bare.blob(KPTFILE + b"# %d\n" % at)
        package = bare.tree([(_FILE, b"Kptfile", kptfile), (_TREE, b"many", many)])
        refs.append((f"refs/tags/pkg/v{at}", bare.commit(bare.tree([(_TREE, b"pkg", package)]))))
    bare.refs([("refs/heads/main", refs[0][1]), *refs])
    return bare


def many_refs(path: Path, *, count: int = 100_000, name_bytes: int = 40, kind: str = "tags/pkg") -> Bare:
    """So many refs to one commit, which holds the package `pkg`; their names are padded to `name_bytes`."""
    bare = Bare(path)
    package = bare.tree([(_FILE, b"Kptfile", bare.blob(KPTFILE))])
    commit = bare.commit(bare.tree([(_TREE, b"pkg", package)]))
    names = (f"refs/{kind}/v{at}-" for at in range(count))
    bare.refs([("refs/heads/main", commit), *((name.ljust(name_bytes, "x"), commit) for name in names)])
    return bare


def octopus(path: Path, *, commits: int = 50, parents: int = 20_000) -> Bare:
    """A branch of commits that name as many parents each as 1 MB of commit holds, all of them the first one."""
    bare = Bare(path)
    package = bare.tree([(_FILE, b"Kptfile", bare.blob(KPTFILE))])
    first = bare.commit(bare.tree([(_TREE, b"pkg", package)]))
    head = first
    for at in range(commits):
        changed = bare.tree([(_FILE, b"Kptfile", bare.blob(KPTFILE + b"# %d\n" % at))])
        head = bare.commit(bare.tree([(_TREE, b"pkg", changed)]), head, *([first] * (parents - 1)))
    bare.refs([("refs/heads/main", head)])
    return bare


def delta_bomb(path: Path, *, unpacked_bytes: int = 1024 * MIB) -> Bare:
    """A pack of about 20 KB with one blob that git builds in memory: copies, by delta, of 16 MB of zeros.

    gitformat-pack(5), Deltified representation: one copy takes 7 bytes and gives up to 16 MB.
    """
    bare = Bare(path)
    base = bytes(16 * MIB - 1)
    copies, rest = divmod(unpacked_bytes, len(base))
    delta = b"".join((_varint(len(base)), _varint(unpacked_bytes), _copy(len(base)) * copies, _copy(rest)))
    name = _blob_name(iter([base]), len(base))
    whole = _blob_name(_zeros(unpacked_bytes), unpacked_bytes)
    # The base is a file as well: a server sends a delta as it is to who gets both.
    bare_tree = _object_bytes([(_FILE, b"base.yaml", name), (_FILE, b"catalog.yaml", whole)])
    tree = hashlib.sha1(b"tree %d\0" % len(bare_tree) + bare_tree, usedforsecurity=False).hexdigest()
    head = f"tree {tree}\n".encode() + b"author " + _PERSON + b"\ncommitter " + _PERSON + b"\n\nm"
    records = [
        _record(b"blob", base),
        _head(_REF_DELTA, len(delta)) + bytes.fromhex(name) + zlib.compress(delta, 9),
        _record(b"tree", bare_tree),
        _record(b"commit", head),
    ]
    commit = hashlib.sha1(b"commit %d\0" % len(head) + head, usedforsecurity=False).hexdigest()
    pack = bare.pack(records, len(records))
    offsets = dict(zip((name, whole, tree, commit), _offsets(records), strict=True))
    _index(pack, offsets, records)
    bare.refs([("refs/heads/main", commit)])
    return bare


def zlib_bomb(path: Path, *, unpacked_bytes: int = 1024 * MIB) -> Bare:
    """One blob of zeros, a thousandth of its size on disk."""
    bare = Bare(path)
    name = _blob_name(_zeros(unpacked_bytes), unpacked_bytes)
    file = bare.path / "objects" / name[:2] / name[2:]
    file.parent.mkdir(exist_ok=True)
    compressor = zlib.compressobj(1)
    with file.open("wb") as out:
        out.write(compressor.compress(b"blob %d\0" % unpacked_bytes))
        for piece in _zeros(unpacked_bytes):
            out.write(compressor.compress(piece))
        out.write(compressor.flush())
    return _on_main(bare, bare.tree([(_FILE, b"catalog.yaml", name)]))


def _on_main(bare: Bare, tree: str) -> Bare:
    bare.refs([("refs/heads/main", bare.commit(tree))])
    return bare


def _object_bytes(rows: Iterable[Row]) -> bytes:
    return b"".join(mode + b" " + name + b"\0" + bytes.fromhex(oid) for mode, name, oid in rows)


def _zeros(size: int) -> Iterator[bytes]:
    piece = bytes(MIB)
    for _ in range(size // MIB):
        yield piece
    yield bytes(size % MIB)


def _blob_name(pieces: Iterator[bytes], size: int) -> str:
    hashed = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for piece in pieces:
        hashed.update(piece)
    return hashed.hexdigest()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _copy(size: int) -> bytes:
    """Copy `size` bytes from the base's start; nothing for none."""
    return bytes((0x80 | 0x70, size & 255, size >> 8 & 255, size >> 16)) if size else b""


def _head(kind: int, size: int) -> bytes:
    first, size = size & 15, size >> 4
    out = bytearray([kind << 4 | first | (128 if size else 0)])
    return bytes(out) + (_varint(size) if size else b"")


def _record(kind: bytes, content: bytes) -> bytes:
    return _head(_PACK_KINDS[kind], len(content)) + zlib.compress(content, 9)


def _offsets(records: Iterable[bytes]) -> Iterator[int]:
    at = 12
    for record in records:
        yield at
        at += len(record)


def _index(pack: Path, offsets: dict[str, int], records: list[bytes]) -> None:
    """Version 2 of a pack's index (gitformat-pack(5)), without which the server's git would not see the pack."""
    checks = {offset: zlib.crc32(record) for offset, record in zip(_offsets(records), records, strict=True)}
    names = sorted(offsets)
    fanout = [sum(int(name[:2], 16) <= first for name in names) for first in range(256)]
    body = b"\xfftOc" + struct.pack(">I", 2) + struct.pack(">256I", *fanout)
    body += b"".join(bytes.fromhex(name) for name in names)
    body += b"".join(struct.pack(">I", checks[offsets[name]]) for name in names)
    body += b"".join(struct.pack(">I", offsets[name]) for name in names)
    with pack.open("rb") as file:
        file.seek(-20, io.SEEK_END)
        body += file.read()
    pack.with_suffix(".idx").write_bytes(body + hashlib.sha1(body, usedforsecurity=False).digest())


# --- images -------------------------------------------------------------------------------------------------------


def long_names(*, entries: int = 9000, name_bytes: int = 40_000) -> Image:
    """A layer of empty files whose names have parts of 200 bytes; the default: 360 MB of names in about 5 MiB."""
    return image(_layer(_member("/".join(_parts(at, name_bytes))) for at in range(entries)))


def long_links(*, entries: int = 9000, target_bytes: int = 40_000) -> Image:
    """A layer of symbolic links with long targets."""
    targets = "/".join(_parts(0, target_bytes))
    return image(_layer(_member(f"configs/l{at}", tarfile.SYMTYPE, targets) for at in range(entries)))


def many_pax_records(*, entries: int = 64, records: int = 80_000) -> Image:
    """A layer whose entries have extended headers of so many records each, near the 1 MiB that readers take."""
    # POSIX pax: `LENGTH KEY=VALUE` and a newline; 13 bytes each.
    content = b"".join(b"13 k%07d=\n" % at for at in range(records))
    extended = _member("pax", tarfile.XHDTYPE)
    extended.size = len(content)
    header = extended.tobuf() + content + bytes(-len(content) % 512)
    return image(_layer((_member(f"configs/f{at}.yaml") for at in range(entries)), before=header))


def dense_config(*, size: int = 4 * MIB - 4096) -> Image:
    """An image whose config is `size` bytes of empty lists: most objects for the fewest bytes."""
    plain = image(_layer([_member("configs/catalog.yaml")]))
    lists = b"[" + b",".join([b"[]"] * (size // 3)) + b"]"
    (config,) = (blob for blob in plain.blobs.values() if CONFIGS_LABEL.encode() in blob)
    dense = config[:-1] + b',"x":' + lists + b"}"
    manifest = plain.manifest.replace(digest_of(config).encode(), digest_of(dense).encode())
    manifest = manifest.replace(b'"size":%d' % len(config), b'"size":%d' % len(dense), 1)
    blobs = {digest: blob for digest, blob in plain.blobs.items() if blob is not config} | {digest_of(dense): dense}
    return Image(manifest, OCI_MANIFEST, blobs)


def zeros(*, unpacked_bytes: int = 512 * MIB) -> Image:
    """A layer of one file of zeros."""
    compressor, hashed = zlib.compressobj(1, wbits=31), hashlib.sha256()
    blob = bytearray()
    entry = tarfile.TarInfo("configs/catalog.yaml")
    entry.size = unpacked_bytes
    padding = bytes(-unpacked_bytes % 512 + 1024)
    for piece in (entry.tobuf(), *_zeros(unpacked_bytes), padding):
        hashed.update(piece)
        blob += compressor.compress(piece)
    blob += compressor.flush()
    return image(BuiltLayer(bytes(blob), f"sha256:{hashed.hexdigest()}"))


def _parts(at: int, size: int) -> list[str]:
    return ["configs", *(["d" * 199] * ((size - 220) // 200)), f"{at}-".ljust(200, "f")]


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def _layer(members: Iterable[tarfile.TarInfo], *, before: bytes = b"") -> BuiltLayer:
    """Compressed as it is made: what it unpacks to may be many times what memory should hold. before: each member."""
    compressor, hashed = zlib.compressobj(1, wbits=31), hashlib.sha256()
    blob = bytearray()
    pieces = (before + member.tobuf(tarfile.PAX_FORMAT) for member in members)
    for piece in itertools.chain(pieces, [bytes(1024)]):
        hashed.update(piece)
        blob += compressor.compress(piece)
    blob += compressor.flush()
    return BuiltLayer(bytes(blob), f"sha256:{hashed.hexdigest()}", f"{OCI_LAYER}+gzip")
