"""A file-based catalog in an image: from a registry or an image layout, unpacked to the directory that its label names.

The digest is the top manifest's (of a multi-arch image: the index's), so an unchanged image costs one question. Layers
come two at a time and are unpacked in order; one that holds nothing of the catalog is remembered and not fetched again.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from cacheserver.errors import SourceInvalidError, SourceNetworkError
from cacheserver.sources.oci import image
from cacheserver.sources.oci.image import Descriptor, Document, Manifest, Platform
from cacheserver.sources.oci.layers import Budget, Layer, unpack
from cacheserver.sources.staging import Directory, Staging
from cacheserver.sources.threads import first_error, run_stoppable
from cacheserver.sources.tree import Limits, Progress, Tree

_NESTED_INDEXES: Final = 2
_BLOBS_AHEAD: Final = 2  # Layers on disk at a time: one comes while one is unpacked.
_REMEMBERED_LAYERS: Final = 512
_FETCH_S: Final = 3600.0  # Ours: 4 GiB at 1.2 MB/s; a server that trickles must not hold the repository for ever.


class Blobs(Protocol):
    """Where one image's documents and blobs come from. Every method raises SourceError; content is checked."""

    @property
    def name(self) -> str:
        """The image, for messages."""
        ...

    async def resolve(self) -> str:
        """Its digest as it is now, as cheaply as can be. Raises: SourceError."""
        ...

    async def document(self, version: str) -> Document:
        """The manifest or index with this digest, checked against it. Raises: SourceError."""
        ...

    async def copy(self, blob: Descriptor, into: Path, advance: Callable[[int], None]) -> None:
        """Append a blob, checked against its digest and size, to `into`; advance: called with bytes as they come.
        Raises: SourceError."""
        ...

    async def aclose(self) -> None:
        """Lets go of connections and files."""
        ...


class OCISource:
    """A Source over one catalog image. platform: which of a multi-arch image's children is read."""

    def __init__(self, blobs: Blobs, limits: Limits | None = None, platform: Platform | None = None) -> None:
        self._blobs = blobs
        self._limits = limits or Limits()
        self._platform = platform or Platform()
        self._without_catalog: dict[tuple[Layer, tuple[str, ...]], None] = {}
        """Layers known to hold nothing under that path; beyond 512, the oldest is forgotten."""

    async def probe(self) -> str:
        """From a registry: one HEAD for a tag, nothing for a digest."""
        return await self._blobs.resolve()

    async def fetch(self, scratch: Path, progress: Progress) -> Tree:
        """The labelled directory's files in `scratch`/tree.

        Raises: SourceInvalidError (not a catalog image, damage, a path out of the root), SourceTooLargeError, and
        whatever the registry gives cause for; SourceNetworkError after an hour.
        """
        try:
            async with asyncio.timeout(_FETCH_S):
                return await self._fetch(scratch, progress)
        except TimeoutError as exc:
            raise SourceNetworkError(f"{self._blobs.name} was not complete after {_FETCH_S:.0f} s") from exc

    async def aclose(self) -> None:
        """Closes what the image is read from."""
        await self._blobs.aclose()

    async def _fetch(self, scratch: Path, progress: Progress) -> Tree:
        name = self._blobs.name
        digest = await self._blobs.resolve()
        manifest = await self._manifest(digest)
        await asyncio.to_thread(_make_directories, scratch)
        config_file = scratch / "config.json"
        await self._blobs.copy(manifest.config, config_file, lambda _count: None)
        config = image.read_config(await asyncio.to_thread(config_file.read_bytes), name)
        base = image.catalog_directory(config.labels, name)
        image.check_sizes(manifest, config, self._limits.total_bytes, name)
        pairs = zip(manifest.layers, config.diff_ids, strict=True)
        layers = [(blob, Layer(blob.digest, diff_id)) for blob, diff_id in pairs]
        unpacking = _Unpacking(scratch, base, self._limits, progress)
        wanted = [(blob, layer) for blob, layer in layers if (layer, base) not in self._without_catalog]
        try:
            await unpacking.run(self._blobs, wanted)
        except ExceptionGroup as group:
            raise first_error(group) from group
        self._remember((layer, base) for layer in unpacking.without_catalog)
        if not isinstance(unpacking.top.find(base), Directory):
            raise SourceInvalidError(
                f"{name}: the label says /{'/'.join(base)}, which the image has not as a directory"
            )
        stop = threading.Event()
        place = functools.partial(unpacking.staging.place, unpacking.top, base, scratch / "tree", digest)
        return await run_stoppable(stop, place)

    async def _manifest(self, digest: str) -> Manifest:
        for _ in range(_NESTED_INDEXES + 1):
            document = await self._blobs.document(digest)
            found = image.read_document(document, self._platform, self._blobs.name)
            if isinstance(found, Manifest):
                return found
            digest = found.digest
        raise SourceInvalidError(f"{self._blobs.name}: indexes nested deeper than {_NESTED_INDEXES}")

    def _remember(self, layers: Iterable[tuple[Layer, tuple[str, ...]]]) -> None:
        for layer in layers:
            self._without_catalog[layer] = None
        while len(self._without_catalog) > _REMEMBERED_LAYERS:
            del self._without_catalog[next(iter(self._without_catalog))]


class _Unpacking:
    """One image's layers on their way from `blobs` to a staged tree."""

    def __init__(self, scratch: Path, base: tuple[str, ...], limits: Limits, progress: Progress) -> None:
        self.top = Directory()
        self.without_catalog: list[Layer] = []
        self.staging = Staging(scratch / "contents", limits)
        self._blobs_area = scratch / "blobs"
        self._base = base
        self._stop = threading.Event()
        self._budget = Budget(limits, self._stop)
        self._progress = progress
        self._ahead = asyncio.Semaphore(_BLOBS_AHEAD)
        self._done_bytes = 0
        self._total_bytes = 0

    async def run(self, blobs: Blobs, layers: Sequence[tuple[Descriptor, Layer]]) -> None:
        self._total_bytes = sum(blob.size for blob, _ in layers)
        async with asyncio.TaskGroup() as tg:
            downloads = [
                tg.create_task(self._download(blobs, blob, str(at)), name=f"layer {blob.digest}")
                for at, (blob, _) in enumerate(layers)
            ]
            for at, ((_, layer), download) in enumerate(zip(layers, downloads, strict=True), start=1):
                file = await download
                apply = functools.partial(unpack, file, layer, self.top, self._base, self.staging, self._budget)
                if not await run_stoppable(self._stop, apply):
                    self.without_catalog.append(layer)
                await asyncio.to_thread(file.unlink)
                self._ahead.release()
                self._progress("unpack", at, len(layers))

    async def _download(self, blobs: Blobs, blob: Descriptor, name: str) -> Path:
        # Semaphores are fair: layers are fetched in the order in which they are unpacked.
        await self._ahead.acquire()
        file = self._blobs_area / name
        await blobs.copy(blob, file, self._advance)
        return file

    def _advance(self, count: int) -> None:
        self._done_bytes += count
        self._progress("download", self._done_bytes, self._total_bytes)


def _make_directories(scratch: Path) -> None:
    for name in ("blobs", "contents"):
        (scratch / name).mkdir()
