"""What a source's bytes mean. A pure parse in worker processes: files in, records and findings out.

Knows no etcd and no network. This process never loads a YAML parser: the workers do (worker.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from cacheserver.catalogs.catalog import Catalog, Files, Finding, Manifests, ParsedPackage, Progress
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.model import Format, RepositoryKey

if TYPE_CHECKING:
    from cacheserver.catalogs.workers import Workers

    VERSION: str
    """Of what parse() makes of a source; when another made what is served, the source is read again, changed or not."""

__all__ = [
    "VERSION",
    "Catalog",
    "Files",
    "Finding",
    "Manifests",
    "ParseLimits",
    "ParsedPackage",
    "Progress",
    "Workers",
    "format_of",
    "parse",
]

_KPTFILE: Final = "Kptfile"


def _quiet(what: str, done: int, total: int) -> None:
    pass


def __getattr__(name: str) -> object:
    """`Workers` and VERSION, at first use: a worker process imports this package too, and asyncio is a third of its
    start, the format that it does not read a tenth."""
    if name == "Workers":
        from cacheserver.catalogs.workers import Workers  # noqa: PLC0415

        return Workers
    if name == "VERSION":
        from cacheserver.catalogs import fbc, krm  # noqa: PLC0415

        return f"{fbc.FORMAT_VERSION}.{krm.FORMAT_VERSION}"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


async def format_of(tree: Files, declared: Format | None) -> Format:
    """What the tree is read as: as declared or decided before, else by its content, where a Kptfile means KRM. Ours.

    Asked by parse, and, of all branches and tags of git, by who fetches them: a catalog is fetched in another way.
    Raises: SourceError.
    """
    from cacheserver.catalogs.krm.packages import Packages  # noqa: PLC0415 - see parse

    if (known := declared or tree.format) is not None:
        return known
    if isinstance(tree, Packages):
        return Format.KRM if await tree.holds_packages() else Format.FBC
    return Format.KRM if any(path.rpartition("/")[2] == _KPTFILE for path in tree.files) else Format.FBC


async def parse(
    tree: Files,
    format: Format | None,  # noqa: A002 - the field's name in the API
    key: RepositoryKey,
    workers: Workers,
    *,
    known: bytes = b"",
    scratch: Path,
    progress: Progress = _quiet,
    write_blobs: bool = True,
    manifests: Manifests | None = None,
) -> Catalog:
    """What `tree` holds: a pure function of its bytes, `format` and `key`; `known` only saves work.

    tree: one that stands for a git repository (krm/packages.py) holds KRM packages, whatever `format` says.
    format: see format_of.
    known: the `index` of an earlier parse for the same key, whose blobs are still stored; empty or foreign is fine.
    scratch: a directory private to this parse, made if need be; the blobs are in it until the caller removes it.
    write_blobs: False leaves Catalog.blobs empty, a quarter faster: for those who only want the findings.
    manifests: what PackageManifests say of the catalog; None: none are made. `known` is of a parse with the same.
    Raises: CatalogError when no worker can be started, SourceError where a git repository cannot be
    read. Never for bad content: that is among the findings.
    """
    import asyncio  # noqa: PLC0415 - as Workers

    from cacheserver.catalogs.jobs import Assignment  # noqa: PLC0415
    from cacheserver.catalogs.krm.packages import Packages  # noqa: PLC0415 - what follows: as Workers, each for its own

    await asyncio.to_thread(scratch.mkdir, parents=True, exist_ok=True)
    with workers.queue() as queue:
        given = Assignment(key, workers, queue, scratch, write_blobs, manifests)
        if isinstance(tree, Packages):
            from cacheserver.catalogs.krm import git  # noqa: PLC0415

            return await git.Parse(tree, given).run(known, progress)
        if await format_of(tree, format) is Format.KRM:
            from cacheserver.catalogs.krm import directory  # noqa: PLC0415

            return await directory.Parse(tree, given).run(known, progress)
        from cacheserver.catalogs.fbc import parse  # noqa: PLC0415

        return await parse.Parse(tree, given).run(known, progress)
