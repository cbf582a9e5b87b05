"""Which repositories users may write to, and where in git what they write goes. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from cacheserver.config import RepositoryConfig
from cacheserver.config.sources import GitSource, RefKind
from cacheserver.model import Format, Key, RepositoryKey
from cacheserver.publish import refusals


def writable(repositories: Mapping[RepositoryKey, RepositoryConfig], key: Key) -> RepositoryConfig:
    """The repository of a revision. Raises: RefusedError 404, 403 with the reason."""
    config = repositories.get(RepositoryKey(key.namespace, key.repository))
    if config is None:
        raise refusals.no_repository(key.repository)
    if (why := _read_only(config)) is not None:
        raise refusals.forbidden(key.name, f"the repository {key.repository!r} {why}")
    return config


def _read_only(config: RepositoryConfig) -> str | None:
    """Why nothing can be written to a repository; None when it can."""
    if not isinstance(config.source, GitSource):
        return "is not a git repository: packages are written to git alone"
    if config.format is not Format.KRM:
        return "does not say format: KRM, which authoring needs"
    if config.source.ref is None or config.source.ref.kind not in (RefKind.BRANCH, RefKind.NAME):
        return "names no branch (spec.source.git.ref.branch), and what is approved goes to one"
    if not config.writable:
        return "is read-only (spec.access: ReadWrite makes it writable)"
    if config.suspend:
        return "is suspended (spec.suspend)"
    if config.leaving:
        return "is being deleted"
    return None


def directory_of(config: RepositoryConfig, package: str) -> str:
    """Of a package, from the root of its git repository."""
    assert isinstance(config.source, GitSource)
    return "/".join(filter(None, (config.source.directory.strip("/"), package)))


def branch_of(config: RepositoryConfig) -> str:
    """Short name of the branch that what is approved goes to."""
    assert isinstance(config.source, GitSource)
    return config.source.ref.name if config.source.ref is not None else ""
