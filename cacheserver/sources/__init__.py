"""Where catalogs come from: a directory, an OCI image, a git repository. Bytes and a digest; no idea what they mean."""

from __future__ import annotations

from cacheserver.sources.directory import DirectorySource
from cacheserver.sources.tree import Limits, Progress, Source, Tree

__all__ = ["DirectorySource", "Limits", "Progress", "Source", "Tree"]
