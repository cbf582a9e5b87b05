"""The table of served kinds: which there are, in the order of discovery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cacheserver.api.kinds.change import PACKAGE_CHANGE
from cacheserver.api.kinds.contents import PACKAGE_REVISION_RESOURCES
from cacheserver.api.kinds.package import PACKAGE
from cacheserver.api.kinds.repository import REPOSITORY
from cacheserver.api.kinds.resource import Resource
from cacheserver.api.kinds.revision import PACKAGE_REVISION
from cacheserver.api.kinds.search import PACKAGE_SEARCH
from cacheserver.cache.watchcache import Projection
from cacheserver.model import GROUP, Kind

RESOURCES: Final = (REPOSITORY, PACKAGE, PACKAGE_REVISION, PACKAGE_REVISION_RESOURCES, PACKAGE_CHANGE, PACKAGE_SEARCH)


def served(*, standalone: bool) -> tuple[Resource, ...]:
    """What this process serves: in a cluster, Repository is a CustomResourceDefinition and not ours."""
    return RESOURCES if standalone else tuple(row for row in RESOURCES if row.group == GROUP)


PROJECTIONS: Final[Mapping[Kind, Projection]] = {
    row.source: row.projection for row in RESOURCES if row.view is None and not row.virtual
}
"""What the watch cache makes of each stored kind's manifests."""
