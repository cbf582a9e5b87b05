"""pull and push: a revision's files in a directory, and back. Binary files and modes stay what they are.

Beside the files lies NOTE, which says what was pulled; it is never pushed. By it a pull knows what was changed here,
and a push what was changed there: neither overwrites the other in silence.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from cacheserver.client.catalog import Catalog
from cacheserver.client.connection import ClientError, Object, RefusedError
from cacheserver.client.output import Output, counted

NOTE: Final = ".cacheserver-pulled.json"
_SHOWN: Final = 5
_MOST_BYTES: Final = 64 << 20
_MOST_FILES: Final = 20_000
_LEFT_OUT: Final = frozenset({".git", NOTE})


@dataclass(frozen=True, slots=True)
class File:
    """content and mode of one file of a package."""

    content: bytes
    executable: bool

    @property
    def mark(self) -> str:
        """Equal for equal files."""
        return hashlib.sha256(self.content).hexdigest() + ("x" if self.executable else "")


Files = Mapping[str, File]


@dataclass(frozen=True, slots=True)
class Note:
    """What a directory was pulled from. digest: of the content then; marks: of each file then, by path."""

    name: str
    namespace: str
    uid: str
    digest: str
    marks: Mapping[str, str] = field(default_factory=dict)


def pull(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """Writes a revision's files into a directory."""
    one = catalog.revision(asked.revision)
    name = one["metadata"]["name"]
    root = Path(asked.directory or _own_directory(one["spec"]["packageName"]))
    found = catalog.get("packagerevisionresources", name)
    files = _files_of(found)
    note, here = _read_note(root), _read(root) if root.is_dir() else {}
    marks = note.marks if note is not None else {}
    changed = [path for path in sorted(here) if here[path].mark != marks.get(path)]
    lost = [path for path in changed if (path in files or path in marks) and here[path] != files.get(path)]
    if lost and not asked.force:
        raise ClientError(
            f"{root}: {_listed(lost)} would be lost.\n"
            + ("It was changed here since it was pulled" if note is not None else "It was not pulled from anywhere")
            + f", and is different in {name}.\n"
            "Pull into another directory, or add --force to have it overwritten."
        )
    root.mkdir(parents=True, exist_ok=True)
    for path in sorted((here.keys() & marks.keys()) - files.keys()):  # what was not pulled is not ours to take away
        (root / path).unlink()
        _prune(root, (root / path).parent)
    for path, file in sorted(files.items()):
        if here.get(path) != file:
            _write(root, path, file)
    _write_note(root, found, catalog.namespace, files)
    output.line(f"{name}: {counted(len(files), 'file')} in {root}")
    return 0


def _own_directory(package: str) -> str:
    """Where a package is written to unless somebody says. Raises: ClientError for where others look (`.ssh`)."""
    name = package.rpartition("/")[2]
    if not name or name.startswith("."):
        raise ClientError(f"{package} has no name for a directory that is its own: say which it is to be pulled into")
    return name


def push(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """Saves a directory as the files of the draft that it was pulled from."""
    root = Path(asked.directory or ".")
    note = _read_note(root)
    if note is None:
        raise ClientError(f"{root} was not pulled: kubectl cacheserver pull NAME {root} says which draft it is")
    files = _read(root)
    changed = _changed(files, note)
    if not changed:
        output.line(f"{note.name}: nothing was changed in {root}")
        return 0
    there = Catalog(catalog.connection, note.namespace)
    found = there.get("packagerevisionresources", note.name)
    if not asked.force and (found["status"]["digest"], found["metadata"]["uid"]) != (note.digest, note.uid):
        raise _overtaken(root, note)
    found["spec"] |= _spec_of(files)
    try:
        made = there.connection.send("replace", there.path("packagerevisionresources", note.name), found)
    except RefusedError as exc:
        if exc.reason == "Conflict":
            raise _overtaken(root, note) from exc
        raise
    _write_note(root, made, note.namespace, files)
    output.line(f"{note.name}: {_listed(changed)} saved")
    return 0


def _overtaken(root: Path, note: Note) -> ClientError:
    other = f"{root}.theirs"
    return ClientError(
        f"{note.name} was changed by somebody since it was pulled; nothing was written.\n"
        f"See what: kubectl cacheserver pull {note.name} {other} && diff -r {root} {other}\n"
        f"Bring your changes into {other} and push that one; or push {root} with --force, which undoes theirs."
    )


def _files_of(found: Object) -> dict[str, File]:
    """Raises: ClientError for a path that leaves the directory."""
    spec = found["spec"]
    executables = set(spec.get("executables") or ())
    texts = {path: text.encode() for path, text in (spec.get("resources") or {}).items()}
    contents = texts | {path: base64.b64decode(text) for path, text in (spec.get("binaryResources") or {}).items()}
    for path in contents:
        parts = path.split("/")
        if not path or "\0" in path or path.startswith("/") or {"", ".", ".."} & set(parts):
            raise ClientError(f"{found['metadata']['name']} has a file {path!r}, which would lie elsewhere; not pulled")
        if _LEFT_OUT & {part.casefold() for part in parts}:
            raise ClientError(f"{found['metadata']['name']} has a file {path!r}, which is kept for others; not pulled")
    return {path: File(content, path in executables) for path, content in contents.items()}


def _spec_of(files: Files) -> Object:
    spec: Object = {"resources": {}, "binaryResources": {}}
    for path, file in files.items():
        try:
            spec["resources"][path] = file.content.decode()
        except UnicodeDecodeError:
            spec["binaryResources"][path] = base64.b64encode(file.content).decode()
    spec["executables"] = sorted(path for path, file in files.items() if file.executable)
    return spec


def _read(root: Path) -> dict[str, File]:
    """All files below a directory but the note and git's. Raises: ClientError for links, and for too much."""
    found: dict[str, File] = {}
    size = 0
    for path in _walk(root):
        relative = path.relative_to(root).as_posix()
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            raise ClientError(f"{path} is no regular file; packages have files alone: take it away, or make it one")
        size += info.st_size
        if size > _MOST_BYTES or len(found) >= _MOST_FILES:
            raise ClientError(f"{root} has over {_MOST_FILES} files or {_MOST_BYTES >> 20} MiB: is it the right one?")
        found[relative] = File(path.read_bytes(), bool(info.st_mode & stat.S_IXUSR))
    return found


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and name not in links)
        yield from (Path(folder, name) for name in sorted((*names, *links)) if name not in _LEFT_OUT)


def _changed(here: Files, note: Note) -> list[str]:
    """Paths that are not as they were pulled."""
    paths = here.keys() | note.marks.keys()
    return sorted(path for path in paths if path not in here or here[path].mark != note.marks.get(path))


def _write(root: Path, path: str, file: File) -> None:
    """A new file in the place of the old one, which is never half there; through no link."""
    folder = root
    for part in path.split("/")[:-1]:
        folder /= part
        if folder.is_symlink():
            raise ClientError(f"{folder} is a link, which would lead elsewhere; take it away")
        folder.mkdir(exist_ok=True)
    made = folder / f".{os.getpid()}.cacheserver-new"
    try:
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777 if file.executable else 0o666)
        with os.fdopen(descriptor, "wb") as writer:
            writer.write(file.content)
        made.replace(root / path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def _prune(root: Path, folder: Path) -> None:
    """Folders that hold nothing any more."""
    while folder != root and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _read_note(root: Path) -> Note | None:
    try:
        return Note(**json.loads((root / NOTE).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as exc:
        raise ClientError(f"{root / NOTE} cannot be read: {exc}; take it away, and pull anew") from exc


def _write_note(root: Path, found: Object, namespace: str, files: Files) -> None:
    metadata = found["metadata"]
    marks = {path: file.mark for path, file in sorted(files.items())}
    note = Note(metadata["name"], namespace, metadata["uid"], found["status"]["digest"], marks)
    (root / NOTE).write_text(json.dumps(asdict(note), indent=1) + "\n", encoding="utf-8")


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more
