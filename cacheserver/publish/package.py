"""The files of a package that somebody writes: which paths there may be, how much, and how the store keeps them.

Pure: files in memory in, files in memory out. What a Kptfile says is judged by the workers (catalogs/krm/worker.py),
never here. Called by author.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final

from cacheserver.archive import TarReader
from cacheserver.catalogs.krm.facts import KPTFILE
from cacheserver.errors import Cause
from cacheserver.slotted import slotted

DEPTH_MOST: Final = 32
"""Of directories in a package. Ours: real ones stay under 10; each is a tree object in git."""
PATH_BYTES: Final = 1024
"""Of a path in UTF-8. Ours: a quarter of what Linux opens; the package's own path stands before it."""
PART_BYTES: Final = 255
"""Of one part of a path: what file systems take (POSIX NAME_MAX)."""
_CAUSES_MOST: Final = 20

_FORBIDDEN_PARTS: Final = frozenset(("", ".", ".."))
# What HFS+ leaves out of names: git, utf8.c: next_hfs_char.
_HFS_IGNORED: Final = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
# git, path.c: is_ntfs_dotgit; a stream of a file begins with a colon, a short name is git~1.
_NTFS_DOTGIT: Final = re.compile(r"(\.git|git~[0-9]+)[. ]*(:.*)?\Z", re.IGNORECASE)
_DOT_GIT_FILES: Final = frozenset((".gitmodules", ".gitattributes", ".gitignore"))


@slotted(frozen=True)
class File:
    """One file, and whether it can be run."""

    content: bytes
    executable: bool = False


Files = Mapping[str, File]
"""By path from the package's root, with `/`."""


@slotted(frozen=True)
class Limits:
    """Of one revision. size: bytes of all files together. drafts: open ones of a repository."""

    files: int = 1000
    size: int = 16 << 20
    drafts: int = 2000


def check(files: Files, limits: Limits, field: str = "spec.resources") -> list[Cause]:
    """What is wrong with the paths, and with how much there is; at most 20 of it. field: that holds the files."""
    causes: list[Cause] = []
    if len(files) > limits.files:
        said = f"Too many: {len(files)}: a package has at most {limits.files} files (--max-package-files)"
        return [Cause("FieldValueTooMany", said, field)]
    if (size := sum(len(file.content) for file in files.values())) > limits.size:
        said = f"Too long: the files have {size} bytes, a package has at most {limits.size} (--max-package-bytes)"
        return [Cause("FieldValueTooLong", said, field)]
    if KPTFILE not in files:
        causes.append(Cause("FieldValueRequired", "Required value: a package has a Kptfile at its root", field))
    good = []
    for path in files:
        if (why := wrong_with(path)) is not None:
            causes.append(_invalid(path, why, field))
        else:
            good.append(path)
        if len(causes) >= _CAUSES_MOST:
            return causes
    causes += (_invalid(path, why, field) for path, why in _clashes(good))
    return causes[:_CAUSES_MOST]


def _invalid(path: str, why: str, field: str) -> Cause:
    shown = path if len(path) <= 200 else f"{path[:200]}..."
    shown = shown.encode("utf-8", "backslashreplace").decode()
    return Cause("FieldValueInvalid", f"Invalid value: {ascii(shown)[1:-1]!r}: {why}", f"{field}[{shown}]")


def wrong_with(path: str) -> str | None:
    """Why no file may be at this path; None when it may."""
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        return "is no UTF-8"
    if not path:
        return "is empty"
    if path.startswith("/"):
        return "must be relative to the package"
    if len(raw) > PATH_BYTES:
        return f"has {len(raw)} bytes, at most {PATH_BYTES} are allowed"
    parts = path.split("/")
    if len(parts) > DEPTH_MOST:
        return f"has {len(parts)} parts, at most {DEPTH_MOST} are allowed"
    return next((why for part in parts if (why := _wrong_with_part(part)) is not None), None)


def _wrong_with_part(part: str) -> str | None:
    if part in _FORBIDDEN_PARTS:
        return "must not hold an empty part, '.' or '..'"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in part):
        return "must not hold control characters"
    if "\\" in part:
        return "must not hold a backslash, which separates directories on some systems"
    if len(part.encode()) > PART_BYTES:
        return f"has a part of more than {PART_BYTES} bytes"
    plain = _HFS_IGNORED.sub("", unicodedata.normalize("NFKC", part))
    if _NTFS_DOTGIT.match(plain) or _NTFS_DOTGIT.match(part):
        return "must not be .git, nor what a file system takes for it"
    if plain.casefold().rstrip(". ") in _DOT_GIT_FILES and part not in _DOT_GIT_FILES:
        return "looks like a file of git's and is none"
    if part.casefold().rstrip(". ") == ".gitmodules":
        return "must not be .gitmodules: a package has no submodules"
    return None


def _clashes(paths: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Paths that some file system takes for another one's, and files where another has a directory."""
    seen: dict[str, str] = {}
    for path in sorted(paths):
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            whole = "/".join(parts[:depth])
            kind = "a file" if depth == len(parts) else "a directory"
            folded = _folded(whole)
            known = seen.setdefault(folded, f"{kind} {whole}")
            if known != f"{kind} {whole}":
                yield path, f"is the same as {known} for file systems that do not tell case or Unicode forms apart"
                break
            if depth == len(parts):
                seen[folded] = f"{kind} {whole}"


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


async def unpacked(pieces: AsyncIterator[bytes]) -> dict[str, File]:
    """The files of a canonical tar (archive.py). All of them are in memory: its size is bounded by who stored it."""
    reader = TarReader()
    files: dict[str, File] = {}
    parts: list[bytes] = []
    async with aclosing(pieces) as source:  # type: ignore[type-var] # a generator, in store and fakes
        async for piece in source:
            for part in reader.feed(piece):
                parts.append(part.content)
                if part.is_last:
                    files[part.path] = File(b"".join(parts), part.executable)
                    parts = []
    return files


def staged(files: Files, directory: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """Write the files below `directory`, under names of ours: (path, name there) by path, and paths of executables.

    To be called in a thread.
    """
    found: list[tuple[str, str]] = []
    for number, (path, file) in enumerate(sorted(files.items())):
        (directory / str(number)).write_bytes(file.content)
        found.append((path, str(number)))
    return found, sorted(path for path, file in files.items() if file.executable)
