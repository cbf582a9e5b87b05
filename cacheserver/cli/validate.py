"""`cacheserver validate`: what a server would say of a catalog, said before anybody serves it. Needs no etcd.

Called by main.py. Reads the source as a server does, under the same caps, into a scratch directory of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cacheserver import catalogs, config, sources
from cacheserver.cli.arguments import FAILED, OK
from cacheserver.cli.logs import one_line
from cacheserver.cli.terminal import Progress, Terminal, finding_lines, validate_summary
from cacheserver.config import FormatChoice, Settings, SourceSpec
from cacheserver.errors import ConfigError
from cacheserver.headstart import HeadStart
from cacheserver.model import Format, RepositoryKey
from cacheserver.server import limits

if TYPE_CHECKING:
    from cacheserver.catalogs import Catalog
    from cacheserver.sources import Tree

_SHOWN_FOLDERS: Final = 5


def validate(
    text: str, choice: str, settings: Settings, terminal: Terminal, *, most: int, begun: HeadStart | None = None
) -> int:
    """Prints `most` findings, then a summary; returns the exit code. text: as `serve` takes a source, or one file.

    choice: a FormatChoice. Raises: ConfigError for what is not a source or does not exist, SourceError.
    """
    started = time.monotonic()
    kind = None if choice == FormatChoice.AUTO else Format(choice)
    try:
        source = config.parse_source(text, Path.cwd())
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    prefix = ""
    if isinstance(source, config.DirectorySource):
        if not source.path.exists():
            raise ConfigError(f"{text}: there is no such file or directory")
        prefix = f"{Path(text) if source.path.is_dir() else Path(text).parent}/"
    with tempfile.TemporaryDirectory(prefix="cacheserver-validate-") as scratch, terminal.progress() as progress:
        tree, catalog = asyncio.run(_parse(source, kind, settings, Path(scratch), progress, begun))
    for line in finding_lines(catalog.findings, most, terminal, prefix=prefix):
        terminal.out(line)
    elapsed_s = time.monotonic() - started
    terminal.out(validate_summary(catalog, files=len(tree.files), elapsed_s=elapsed_s))
    nothing = not (catalog.packages or catalog.unchanged or catalog.rejected)
    if nothing:
        terminal.error(f"{text}: no package was found: {_looked_for(catalog, tree.files)}")
    return FAILED if catalog.rejected or catalog.unreadable or nothing else OK


def _looked_for(catalog: Catalog, files: Sequence[str]) -> str:
    """Where there is no package: what was looked for, and what is there instead."""
    hidden = sorted({part for path in files for part in path.split("/")[:-1] if part.startswith(".")})
    left_out = f"; hidden folders are left out: {', '.join(hidden[:_SHOWN_FOLDERS])}" if hidden else ""
    return one_line((catalog.nothing or "its files could not be read") + left_out)


async def _parse(
    source: SourceSpec,
    kind: Format | None,
    settings: Settings,
    scratch: Path,
    progress: Progress,
    begun: HeadStart | None,
) -> tuple[Tree, Catalog]:
    """What a server would make of `source`; where its path is a file, of that file alone."""
    key = RepositoryKey("default", "validate")
    async with contextlib.AsyncExitStack() as stack:
        workers = await stack.enter_async_context(limits.workers(settings.parsing, begun))
        if isinstance(source, config.DirectorySource) and await asyncio.to_thread(source.path.is_file):
            tree = sources.Tree(root=source.path.parent, files=(source.path.name,), digest="")
        else:
            caps = limits.source_limits(settings.parsing)
            if isinstance(source, config.GitSource):
                from cacheserver.ingest.reading import open_for  # noqa: PLC0415  brings ingestion and etcd's client

                opened = open_for(source, kind, cache=scratch / "cache", limits=caps)
            else:
                opened = sources.open_source(source, cache=scratch / "cache", limits=caps)
            await stack.enter_async_context(contextlib.aclosing(opened))
            (scratch / "tree").mkdir()
            tree = await opened.fetch(scratch / "tree", progress)
            stack.push_async_callback(tree.aclose)
        catalog = await catalogs.parse(
            tree, kind, key, workers, scratch=scratch / "parsed", progress=progress, write_blobs=False
        )
    return tree, catalog
