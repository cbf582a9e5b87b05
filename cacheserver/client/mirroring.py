"""The verbs of what goes elsewhere: images, and packages as catalogs. The server selects (docs/finding.md)."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cacheserver.client.catalog import Catalog
from cacheserver.client.connection import ClientError, Object
from cacheserver.client.output import Output, escaped, plain

_FOLDER: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")
"""A package's name in a catalog (DNS-1123): the name of its folder, wherever the answer comes from."""
_FILES: Final = {"json": "catalog.json", "yaml": "catalog.yaml"}


def images(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """Every image of the named revisions, or with --all, --channel or --from of packages; each once, sorted."""
    found: set[str] = set()
    names = asked.revisions
    whole = asked.all or asked.channel or asked.start
    for at, name in enumerate(names, 1):
        if len(names) > 1:
            output.say(f"{at}/{len(names)} {plain(name)}")
        found |= set(_of_package(catalog, name, asked) if whole else _of_revision(catalog.revision(name)))
    if output.form in ("json", "yaml"):
        output.document({"images": sorted(found)})
        return 0
    for image in sorted(found):
        output.line(plain(image))
    return 0


def _of_package(catalog: Catalog, name: str, asked: Namespace) -> Sequence[str]:
    query = {"channel": asked.channel, "from": asked.start, "format": "json"}
    found: Sequence[str] = catalog.get("packages", catalog.package(name)["metadata"]["name"], "images", **query)[
        "status"
    ]["images"]
    return found


def _of_revision(one: Object) -> Iterator[str]:
    status, name = one["status"], one["metadata"]["name"]
    if one["spec"].get("format") != "FBC":
        raise ClientError(
            f"{name} is of format {one['spec'].get('format')}: its images stand in its files, and no rule says where; "
            "only catalogs of operators (FBC) list them"
        )
    if "relatedImages" in (status.get("truncated") or ()):
        raise ClientError(f"{name} has more images than its object holds: pull it, and read its bundle.json")
    yield from filter(None, [status.get("image", "")])
    yield from (each["image"] for each in status.get("relatedImages") or () if each.get("image"))


def export(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """Packages, or parts of them, as a catalog: on stdout, or a file a package in a directory. Of several all are
    asked for before anything is written, so one that is refused leaves nothing behind."""
    form = output.form if output.form in _FILES else "json"
    packages = [catalog.package(name) for name in dict.fromkeys(asked.packages)]
    with tempfile.TemporaryFile() as held:
        sizes: list[int] = []
        for at, one in enumerate(packages, 1):
            name = one["metadata"]["name"]
            if len(packages) > 1:
                output.say(f"{at}/{len(packages)} {plain(name)}")
            query = {"channel": asked.channel, "from": asked.start, "format": form}
            sizes.append(held.write(catalog.connection.get(catalog.path("packages", name, "export", **query))))
        held.seek(0)
        for one, size in zip(packages, sizes, strict=True):
            if not asked.directory:
                sys.stdout.write(_shown(held.read(size).decode(), form))
                continue
            path = _written(held.read(size), Path(asked.directory), one["spec"]["packageName"], form)
            output.line(f"{plain(one['metadata']['name'])}: {plain(path)}")
    return 0


def _shown(text: str, form: str) -> str:
    """What says the same and steers no terminal; the very same where none of it could."""
    if all(map(str.isprintable, text.split("\n"))):
        return text
    if form == "yaml":  # which knows escapes in some of its forms alone
        if sys.stdout.isatty():
            raise ClientError("it has characters that a terminal might obey: send it to a file, or ask for -o json")
        return text
    return "\n".join(map(escaped, text.split("\n")))


def _written(content: bytes, directory: Path, package: str, form: str) -> Path:
    """The file of a package: as it was before until it is whole. Raises: ClientError, OSError."""
    if not _FOLDER.match(package):
        raise ClientError(f"{plain(package)!r} is no name of a package that a folder could have")
    folder = directory / package
    for other, name in _FILES.items():
        if other != form and (folder / name).exists():
            raise ClientError(f"{folder / name} is there: with another file beside it the package would be there twice")
    folder.mkdir(parents=True, exist_ok=True)
    beside = directory / f".export-{os.getpid()}"
    try:
        with beside.open("xb") as file:
            file.write(content)
        beside.replace(folder / _FILES[form])
    finally:
        beside.unlink(missing_ok=True)
    return folder / _FILES[form]
