"""Where catalogs come from: a directory, an OCI image, a git repository. Bytes and a digest; no idea what they mean."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cacheserver.config import sources as spec
from cacheserver.errors import SourceInvalidError
from cacheserver.slotted import slotted
from cacheserver.sources.credentials import DockerConfig, GitCredentials, RegistryCredentials
from cacheserver.sources.directory import DirectorySource
from cacheserver.sources.tree import FETCHING, Limits, Progress, Source, Tree

if TYPE_CHECKING:
    from cacheserver.sources.git.source import GitRefsSource

__all__ = [
    "FETCHING",
    "Access",
    "DirectorySource",
    "DockerConfig",
    "GitCredentials",
    "Limits",
    "Progress",
    "RegistryCredentials",
    "Source",
    "Tree",
    "Written",
    "open_refs",
    "open_source",
]


@slotted(frozen=True)
class Access:
    """Who we are to a repository's server, and whom we trust there. ca: PEM certificates besides the system's."""

    registry: DockerConfig = field(default_factory=DockerConfig)
    git: GitCredentials = field(default_factory=GitCredentials)
    ca: bytes = field(default=b"", repr=False)


@runtime_checkable
class Written(Protocol):
    """A Source whose repository can be written to as well, where that is asked for."""

    async def written(self) -> GitRefsSource:
        """With the credentials that count now. Raises: SourceError, those of Secrets among them."""
        ...


def open_source(
    source: spec.SourceSpec,
    *,
    cache: Path | None = None,
    limits: Limits | None = None,
    access: Access | None = None,
) -> Source:
    """The Source that a specification names. Touches neither disk nor network yet.

    cache: a directory of this repository's own that lasts between fetches, made at need; git keeps its copy there and
    cannot do without. Raises: SourceInvalidError for a name that cannot be one.
    """
    access = access or Access()
    match source:
        case spec.DirectorySource():
            return DirectorySource(source.path, limits)
        case spec.OCISource() | spec.OCILayoutSource():
            return _open_image(source, limits, access)
        case spec.GitSource():
            # Imported here, as in _open_image: git costs a command that reads a directory a tenth of its time.
            from cacheserver.sources.git.command import Remote  # noqa: PLC0415
            from cacheserver.sources.git.source import GitSource  # noqa: PLC0415

            if cache is None:
                raise SourceInvalidError(f"{source}: git needs a cache directory")
            remote = Remote(source.url, access.git, access.ca)
            return GitSource(remote, source.ref, source.directory, cache, limits)


def _open_image(source: spec.OCISource | spec.OCILayoutSource, limits: Limits | None, access: Access) -> Source:
    # Imported here: aiohttp costs a command that reads a directory a quarter of its time.
    from cacheserver.sources.oci.layout import Layout  # noqa: PLC0415
    from cacheserver.sources.oci.reference import ImageReference  # noqa: PLC0415
    from cacheserver.sources.oci.registry import Registry  # noqa: PLC0415
    from cacheserver.sources.oci.source import OCISource  # noqa: PLC0415

    if isinstance(source, spec.OCILayoutSource):
        return OCISource(Layout(source.path), limits)
    reference = ImageReference.parse(source.image)
    return OCISource(Registry(reference, credentials=access.registry, ca=access.ca, insecure=source.insecure), limits)


def open_refs(
    source: spec.GitSource, cache: Path, *, limits: Limits | None = None, access: Access | None = None
) -> GitRefsSource:
    """All branches and tags of a git repository, for packages that live in many refs (KRM). As `open_source`.

    Raises: SourceInvalidError also for a ref that is not a branch: packages are discovered from one.
    """
    from cacheserver.sources.git.command import Remote  # noqa: PLC0415
    from cacheserver.sources.git.source import GitRefsSource  # noqa: PLC0415 - as in open_source

    access = access or Access()
    branch = ""
    if source.ref is not None:
        if source.ref.kind not in (spec.RefKind.BRANCH, spec.RefKind.NAME):
            raise SourceInvalidError(f"{source}: packages need a branch, not a {source.ref.kind}; tags are found by us")
        branch = source.ref.name
    return GitRefsSource(Remote(source.url, access.git, access.ca), branch, source.directory, cache, limits)
